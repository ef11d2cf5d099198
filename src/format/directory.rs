//! The marker that gives a directory its id: a file [`MARKER_NAME`] in each stored directory.
//!
//! | at | bytes | field      | holds                                                     |
//! |---:|------:|------------|-----------------------------------------------------------|
//! |  0 |     8 | `magic`    | [`MAGIC`]                                                 |
//! |  8 |     2 | `version`  | [`VERSION`]; a reader refuses any other                   |
//! | 10 |     2 | `reserved` | zeros; refused otherwise                                  |
//! | 12 |     4 | `epoch`    | whose keys seal the names in this directory               |
//! | 16 |    16 | `dir_id`   | [`DirId`]                                                 |
//! | 32 |    16 | `tag`      | HMAC-SHA256 of volume id and bytes 0 to 31, cut to 16     |

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
const _: () = assert!(MAGIC.len() + 2 + 2 + 4 + 16 == BOUND_LEN);
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

    #[test]
    fn other_lengths_are_refused() {
        for len in (0..100).filter(|len| *len != MARKER_LEN) {
            assert_eq!(decode(&vec![0; len]), Err(MarkerError::Len(len)));
        }
    }
}
