//! How a sealed name becomes a file name, and what else lies in a stored directory.
//!
//! A name is padded with zeros to a multiple of 16 bytes, sealed, and written tag first in
//! base64url without padding (RFC 4648 section 5). If that is over 255 bytes, the file is called
//! `H.long` and a sidecar `H.name` holds the sealed bytes; H is the base64url of their SHA-256.
//! Names of up to 160 bytes fit without a sidecar. A directory has another name, on which no
//! listing looks, while it is made or removed.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use sha2::{Digest, Sha256};

/// Longest name of a file, plaintext or stored, in bytes (`NAME_MAX` of Linux).
pub const NAME_MAX: usize = 255;
/// A padded name is a multiple of this many bytes, so that a stored name tells the length only
/// in steps.
pub const PAD_LEN: usize = 16;
/// Ends the stored name of what has a sidecar.
pub const LONG_SUFFIX: &str = ".long";
/// Ends the name of a sidecar.
pub const SIDECAR_SUFFIX: &str = ".name";
/// Ends the name of a directory that is being made or removed.
pub const TEMPORARY_SUFFIX: &str = ".temp";
/// The longest sidecar: tag and a padded name of 255 bytes.
pub const SIDECAR_LEN_MAX: usize = 16 + 256;

/// What a file name in a stored directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A sealed name: tag, then ciphertext.
    Direct(Vec<u8>),
    /// An object whose sealed name lies in the sidecar of this file name.
    Long {
        /// File name of the sidecar.
        sidecar: Vec<u8>,
    },
    /// The marker of the directory.
    Marker,
    /// A sidecar, of no account without its object.
    Sidecar,
    /// A directory that is being made or removed, or was when a crash came: of no account.
    Temporary,
    /// Nothing that this release writes.
    Foreign,
}

/// File names of an object with this sealed name: its own, and its sidecar's if it needs one.
pub fn encode(sealed: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let direct = BASE64URL_NOPAD.encode(sealed);
    if direct.len() <= NAME_MAX {
        return (direct.into_bytes(), None);
    }
    let hash = BASE64URL_NOPAD.encode(&Sha256::digest(sealed));
    let long = format!("{hash}{LONG_SUFFIX}").into_bytes();
    (long, Some(format!("{hash}{SIDECAR_SUFFIX}").into_bytes()))
}

/// The name of a directory that is being made or removed; `id` is random.
pub fn temporary(id: &[u8; 16]) -> Vec<u8> {
    format!("{}{TEMPORARY_SUFFIX}", HEXLOWER.encode(id)).into_bytes()
}

/// What the file name says the object is. Never panics, whatever the bytes.
pub fn decode(file_name: &[u8]) -> Stored {
    if file_name == crate::format::directory::MARKER_NAME {
        return Stored::Marker;
    }
    if file_name.ends_with(SIDECAR_SUFFIX.as_bytes()) {
        return Stored::Sidecar;
    }
    if file_name.ends_with(TEMPORARY_SUFFIX.as_bytes()) {
        return Stored::Temporary;
    }
    if let Some(hash) = file_name.strip_suffix(LONG_SUFFIX.as_bytes()) {
        return Stored::Long { sidecar: [hash, SIDECAR_SUFFIX.as_bytes()].concat() };
    }
    match BASE64URL_NOPAD.decode(file_name) {
        Ok(sealed) => Stored::Direct(sealed),
        Err(_) => Stored::Foreign,
    }
}

/// Appends zeros up to the next multiple of [`PAD_LEN`]; a name has no zero byte.
pub fn pad(name: &[u8]) -> Vec<u8> {
    let mut padded = name.to_vec();
    padded.resize(name.len().next_multiple_of(PAD_LEN), 0);
    padded
}

/// The name without its padding; `None` if it is none that [`pad`] makes.
pub fn unpad(padded: &[u8]) -> Option<&[u8]> {
    let len = padded.iter().rposition(|byte| *byte != 0)? + 1;
    let name = &padded[..len];
    let canonical = len.next_multiple_of(PAD_LEN) == padded.len();
    let valid = len <= NAME_MAX && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    (canonical && valid && name != b"." && name != b"..").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_converts_back_at_every_length() {
        for len in 1..=NAME_MAX {
            let name = vec![b'n'; len];
            let padded = pad(&name);
            assert_eq!(padded.len() % PAD_LEN, 0);
            assert_eq!(unpad(&padded), Some(&name[..]));
        }
    }

    #[test]
    fn names_that_no_file_can_have_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/"] {
            assert_eq!(unpad(&pad(name)), None, "{name:?}");
        }
        assert_eq!(unpad(b"a\0b\0\0\0\0\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(unpad(&[b"abc".as_slice(), &[0; 29]].concat()), None);
    }

    #[test]
    fn what_is_no_object_is_told_apart() {
        let temporary = temporary(&[0xA5; 16]);
        assert_eq!(temporary, b"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5.temp");
        assert_eq!(decode(&temporary), Stored::Temporary);
        assert_eq!(decode(b"dir.cmkfs"), Stored::Marker);
        for foreign in [&b"x.bak"[..], b"dir.cmkfs2", b"a5.temporary"] {
            assert_eq!(decode(foreign), Stored::Foreign);
        }
    }

    #[test]
    fn names_over_160_bytes_get_a_sidecar() {
        for len in 1..=NAME_MAX {
            let sealed = vec![7; 16 + len.next_multiple_of(PAD_LEN)];
            let (object, sidecar) = encode(&sealed);
            assert!(object.len() <= NAME_MAX, "{len}");
            assert_eq!(sidecar.is_some(), len > 160, "{len}");
            match (decode(&object), sidecar) {
                (Stored::Direct(back), None) => assert_eq!(back, sealed),
                (Stored::Long { sidecar: back }, Some(sidecar)) => {
                    assert_eq!(back, sidecar);
                    assert_eq!(decode(&sidecar), Stored::Sidecar);
                    assert!(sealed.len() <= SIDECAR_LEN_MAX);
                }
                other => panic!("{len}: {other:?}"),
            }
        }
    }
}
