//! The marker that gives a directory its id: [`MARKER_NAME`] in each stored directory. It is a
//! symbolic link whose text is [`LINK_PREFIX`] and bytes 12 to 47 of this table in base64url, or,
//! as earlier releases made it, a file of these bytes.
//!
//! | at | bytes | field      | holds                                                     |
//! |---:|------:|------------|-----------------------------------------------------------|
//! |  0 |     8 | `magic`    | [`MAGIC`]                                                 |
//! |  8 |     2 | `version`  | [`VERSION`]; a reader refuses any other                   |
//! | 10 |     2 | `reserved` | zeros; refused otherwise                                  |
//! | 12 |     4 | `epoch`    | whose keys seal the names in this directory               |
//! | 16 |    16 | `dir_id`   | [`DirId`]                                                 |
//! | 32 |    16 | `tag`      | HMAC-SHA256 of volume id and bytes 0 to 31, cut to 16     |

use data_encoding::BASE64URL_NOPAD;

use crate::format::bytes::take;
use crate::format::ids::{DirId, Epoch};
use crate::format::node::TAG_LEN;

/// File name of the marker; a sealed name has no dot, so none can be equal to it.
pub const MARKER_NAME: &[u8] = b"dir.cmkfs";
/// Bytes of a marker.
pub const MARKER_LEN: usize = 48;
/// Bytes of a marker that its tag binds.
pub const BOUND_LEN: usize = 32;
/// The only version that this release reads or writes.
pub const VERSION: u16 = 1;
/// 0x0A changes in a text-mode copy, as in PNG's magic.
pub const MAGIC: [u8; 8] = *b"cmkdir\x0a\0";
/// Begins the text of a link that is a marker: magic and version.
pub const LINK_PREFIX: &str = "cmkdir1.";
/// Characters of that text. An ext4 keeps up to 59 in the inode, so that they are as durable as it.
pub const LINK_LEN: usize = LINK_PREFIX.len() + (MARKER_LEN - TOLD_LEN).div_ceil(3) * 4;
/// Bytes of a marker that the prefix stands for.
const TOLD_LEN: usize = 8 + 2 + 2;
const _: () = assert!(MAGIC.len() + 2 + 2 + 4 + 16 == BOUND_LEN);
const _: () = assert!(MAGIC.len() + 2 + 2 == TOLD_LEN && LINK_LEN <= 59);
const _: () = assert!(BOUND_LEN + TAG_LEN == MARKER_LEN);

/// Why bytes are no marker. Reading the directory answers `EIO`; the log gets this text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkerError {
    /// Cut or extended.
    #[error("marker of {0} bytes, wanted {MARKER_LEN}: it was cut or extended")]
    Len(usize),
    /// Another file.
    #[error("not a marker: it starts with {0:02x?}")]
    Magic([u8; 8]),
    /// Written by another release.
    #[error("marker version {0}, this release reads {VERSION}")]
    Version(u16),
    /// Reserved bytes set.
    #[error("reserved bytes of the marker are not zero")]
    Reserved,
    /// A link with a text that is none of ours.
    #[error("link of {0} characters, wanted {LINK_PREFIX:?} and base64url, {LINK_LEN} in all")]
    Link(usize),
}

/// The bytes that the tag is over.
pub fn encode_bound(epoch: Epoch, id: DirId) -> [u8; BOUND_LEN] {
    let fields: [&[u8]; 5] =
        [&MAGIC, &VERSION.to_le_bytes(), &[0; 2], &epoch.0.to_le_bytes(), &id.0];
    fields.concat().try_into().expect("widths add up: const assert above")
}

/// A claim, until the tag is checked. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<(Epoch, DirId, [u8; TAG_LEN]), MarkerError> {
    let marker: &[u8; MARKER_LEN] = bytes.try_into().map_err(|_| MarkerError::Len(bytes.len()))?;
    let rest = &mut &marker[..];
    let magic = take(rest);
    if magic != MAGIC {
        return Err(MarkerError::Magic(magic));
    }
    let version = u16::from_le_bytes(take(rest));
    if version != VERSION {
        return Err(MarkerError::Version(version));
    }
    if take(rest) != [0; 2] {
        return Err(MarkerError::Reserved);
    }
    Ok((Epoch(u32::from_le_bytes(take(rest))), DirId(take(rest)), take(rest)))
}

/// The text of a link that stands for this marker.
pub fn encode_link(marker: &[u8; MARKER_LEN]) -> String {
    LINK_PREFIX.to_owned() + &BASE64URL_NOPAD.encode(&marker[TOLD_LEN..])
}

/// A claim, until the tag is checked. Never panics, whatever the text.
pub fn decode_link(text: &[u8]) -> Result<(Epoch, DirId, [u8; TAG_LEN]), MarkerError> {
    let encoded = text.strip_prefix(LINK_PREFIX.as_bytes()).filter(|_| text.len() == LINK_LEN);
    let decoded = encoded.and_then(|encoded| BASE64URL_NOPAD.decode(encoded).ok());
    let fields = decoded.ok_or(MarkerError::Link(text.len()))?;
    decode(&[&MAGIC[..], &VERSION.to_le_bytes(), &[0; 2], &fields].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: DirId = DirId(*b"0123456789abcdef");

    /// If this fails the format changed: raise `VERSION` and add a volume to tests/golden.
    #[test]
    fn version_1_bytes_never_change() {
        let bound = encode_bound(Epoch(3), ID);
        assert_eq!(&bound, b"cmkdir\x0a\0\x01\0\0\0\x03\0\0\x000123456789abcdef");
        let marker = [&bound[..], &[9; TAG_LEN]].concat();
        assert_eq!(decode(&marker), Ok((Epoch(3), ID, [9; TAG_LEN])));
    }

    /// As above.
    #[test]
    fn version_1_links_never_change() {
        let bound = encode_bound(Epoch(3), ID);
        let marker = [&bound[..], &[9; TAG_LEN]].concat().try_into().unwrap();
        let text = encode_link(&marker);
        assert_eq!(text, "cmkdir1.AwAAADAxMjM0NTY3ODlhYmNkZWYJCQkJCQkJCQkJCQkJCQkJ");
        assert_eq!(decode_link(text.as_bytes()), Ok((Epoch(3), ID, [9; TAG_LEN])));
    }

    #[test]
    fn other_links_are_refused() {
        let sound = "cmkdir1.AwAAADAxMjM0NTY3ODlhYmNkZWYJCQkJCQkJCQkJCQkJCQkJ";
        let odd = [
            String::new(),
            "/etc/passwd".to_owned(),
            sound.replace("dir1", "dir2"),
            sound.replace("AwAA", "Aw+A"),
            sound[..LINK_LEN - 4].to_owned(),
            sound.to_owned() + "AAAA",
        ];
        for text in odd {
            let refused = decode_link(text.as_bytes());
            assert_eq!(refused, Err(MarkerError::Link(text.len())), "{text}");
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        for len in (0..100).filter(|len| *len != MARKER_LEN) {
            assert_eq!(decode(&vec![0; len]), Err(MarkerError::Len(len)));
        }
    }
}
