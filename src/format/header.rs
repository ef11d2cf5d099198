//! The first page of a stored file. Integers little-endian.
//!
//! | at  | bytes | field         | holds                                                       |
//! |----:|------:|---------------|-------------------------------------------------------------|
//! |   0 |     8 | `magic`       | [`MAGIC`]                                                   |
//! |   8 |     2 | `version`     | [`VERSION`]; a reader refuses any other                     |
//! |  10 |     1 | `block_log2`  | block size as a power of two, 12 to 16                      |
//! |  11 |     1 | `reserved`    | zero; refused otherwise, so that version 2 may use it       |
//! |  12 |     2 | `payload_len` | bytes of the payload: 16 + content, or 16 + 3584            |
//! |  14 |     2 | `reserved`    | zeros; refused otherwise                                    |
//! |  16 |     4 | `epoch`       | which epoch key wraps the file key                          |
//! |  20 |    16 | `file_id`     | [`FileId`]                                                  |
//! |  36 |    60 | `wrapped_key` | nonce, tag, ciphertext of the file key                      |
//! |  96 |    12 | `nonce`       | of the payload                                              |
//! | 108 |    16 | `tag`         | of the payload                                              |
//! | 124 |       | payload       | sealed under the file key; bytes 0 to 95 are associated     |
//!
//! The payload, opened:
//!
//! | at  | bytes | field        | holds                                                       |
//! |----:|------:|--------------|-------------------------------------------------------------|
//! |   0 |     8 | `generation` | grows by one with each commit of the file                   |
//! |   8 |     8 | `length`     | plaintext bytes of the file                                 |
//! |  16 |       | body         | the content if `length` is at most 3956, else 128 entries,  |
//! |     |       |              | and while the file is re-encrypted a [`Former`]             |

use crate::format::bytes::take;
use crate::format::geometry::{BlockSize, PAGE_LEN};
use crate::format::ids::{Epoch, FileId};
use crate::format::node::{ENTRY_LEN, Entry, NODE_LEN, NONCE_LEN, TAG_LEN};

/// 0x0A changes in a text-mode copy, as in PNG's magic.
pub const MAGIC: [u8; 8] = *b"cmkfs\x1a\x0a\0";
/// The only version that this release reads or writes.
pub const VERSION: u16 = 1;
/// Bytes before the payload.
pub const PREFIX_LEN: u64 = 124;
/// The same, for arrays.
pub const PREFIX_BYTES: usize = 124;
/// Bytes of the prefix that are associated data of the payload: all before its nonce.
pub const BOUND_LEN: usize = 96;
/// Bytes of a wrapped file key: nonce, tag, 32 bytes of ciphertext.
pub const WRAPPED_KEY_LEN: usize = ENTRY_LEN + 32;
/// Bytes of a payload before its body.
pub const PAYLOAD_FIXED_LEN: u64 = 16;
/// The same, for arrays.
pub const PAYLOAD_FIXED_BYTES: usize = 16;
/// The longest content that lies in the header itself: what the page leaves.
pub const INLINE_MAX: u64 = PAGE_LEN - PREFIX_LEN - PAYLOAD_FIXED_LEN;
/// Bytes of the payload of a file that is not inline.
pub const TREE_PAYLOAD_LEN: usize = 16 + NODE_LEN;

/// Bytes of a [`Former`].
pub const FORMER_LEN: usize = 8 + 4 + WRAPPED_KEY_LEN;
/// Bytes of the payload of a file under two keys.
pub const TWO_KEYS_PAYLOAD_LEN: usize = TREE_PAYLOAD_LEN + FORMER_LEN;

const WIDTHS: usize = MAGIC.len() + 2 + 1 + 1 + 2 + 2 + 4 + 16 + WRAPPED_KEY_LEN;
const _: () = assert!(WIDTHS == BOUND_LEN);
const _: () = assert!(PREFIX_BYTES as u64 == PREFIX_LEN);
const _: () = assert!(PAYLOAD_FIXED_BYTES as u64 == PAYLOAD_FIXED_LEN);
const _: () = assert!(BOUND_LEN as u64 + NONCE_LEN as u64 + TAG_LEN as u64 == PREFIX_LEN);
const _: () = assert!(PREFIX_LEN + TWO_KEYS_PAYLOAD_LEN as u64 <= PAGE_LEN && INLINE_MAX == 3956);
const _: () = assert!(TREE_PAYLOAD_LEN < TWO_KEYS_PAYLOAD_LEN && TWO_KEYS_PAYLOAD_LEN == 3672);

/// The clear part of a header: a claim, until the payload opens under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Block size of this file.
    pub block_size: BlockSize,
    /// Bytes of the payload that follows.
    pub payload_len: u16,
    /// Which epoch key wraps the file key.
    pub epoch: Epoch,
    /// The file's id.
    pub file_id: FileId,
    /// The file key, sealed under the epoch's key for file keys.
    pub wrapped_key: [u8; WRAPPED_KEY_LEN],
}

/// The file key that a file has had, of which a part is not re-encrypted yet.
///
/// | at | bytes | field         | holds                                                       |
/// |---:|------:|---------------|-------------------------------------------------------------|
/// |  0 |     8 | `from`        | blocks from this one on, and nodes whose first block is one |
/// |    |       |               | of them, are under the former key, all others under the key |
/// |    |       |               | of the header                                               |
/// |  8 |     4 | `epoch`       | which epoch key wraps the former file key                   |
/// | 12 |    60 | `wrapped_key` | nonce, tag, ciphertext of the former file key               |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    /// The first block that is under it.
    pub from: u64,
    /// Which epoch key wraps it.
    pub epoch: Epoch,
    /// The key, sealed under the epoch's key for file keys.
    pub wrapped_key: [u8; WRAPPED_KEY_LEN],
}

/// As it stands in a payload, behind the entries.
pub fn encode_former(former: &Former) -> [u8; FORMER_LEN] {
    let fields: [&[u8]; 3] =
        [&former.from.to_le_bytes(), &former.epoch.0.to_le_bytes(), &former.wrapped_key];
    fields.concat().try_into().expect("widths add up: FORMER_LEN is their sum")
}

/// What an authenticated payload has behind the entries.
pub fn decode_former(bytes: &[u8; FORMER_LEN]) -> Former {
    let rest = &mut &bytes[..];
    let from = u64::from_le_bytes(take(rest));
    let epoch = Epoch(u32::from_le_bytes(take(rest)));
    Former { from, epoch, wrapped_key: take(rest) }
}

/// The entries in the body of a file that is not inline, and what is told of a former key; `None`
/// for another length.
pub fn split_tree(body: &[u8]) -> Option<(&[u8; NODE_LEN], Option<&[u8; FORMER_LEN]>)> {
    let (top, rest) = body.split_first_chunk()?;
    match rest {
        [] => Some((top, None)),
        rest => Some((top, Some(rest.try_into().ok()?))),
    }
}

/// Why bytes are no header. A read answers `EIO`; the log gets this text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than a prefix.
    #[error("{0} bytes, a header has at least {PREFIX_LEN}: the file was cut or never committed")]
    Short(u64),
    /// Another file type.
    #[error("not a stored file: it starts with {0:02x?}")]
    Magic([u8; 8]),
    /// Written by another release.
    #[error("file format {0}, this release reads {VERSION}: mount with the release that wrote it")]
    Version(u16),
    /// Block size out of range.
    #[error("block size 2^{0}, wanted 2^12 to 2^16: the header is damaged")]
    BlockSize(u8),
    /// Reserved bytes set.
    #[error("reserved bytes are not zero: the header is damaged or of a later release")]
    Reserved,
    /// Payload length impossible.
    #[error("payload of {0} bytes, wanted 16 to 3972: the header is damaged")]
    PayloadLen(u16),
}

/// The bytes that the payload is bound to: the prefix up to the payload's nonce.
pub fn encode_bound(prefix: &Prefix) -> [u8; BOUND_LEN] {
    let fields: [&[u8]; 9] = [
        &MAGIC,
        &VERSION.to_le_bytes(),
        &[prefix.block_size.log2()],
        &[0],
        &prefix.payload_len.to_le_bytes(),
        &[0; 2],
        &prefix.epoch.0.to_le_bytes(),
        &prefix.file_id.0,
        &prefix.wrapped_key,
    ];
    fields.concat().try_into().expect("widths add up: const assert above")
}

/// The whole prefix: the bound bytes, then nonce and tag of the payload.
pub fn encode(prefix: &Prefix, payload: &Entry) -> [u8; PREFIX_BYTES] {
    let bound = encode_bound(prefix);
    let fields: [&[u8]; 3] = [&bound, &payload.nonce, &payload.tag];
    fields.concat().try_into().expect("widths add up: const assert above")
}

/// What a header claims. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<(Prefix, Entry), HeaderError> {
    let len = bytes.len() as u64;
    let prefix: &[u8; PREFIX_BYTES] = bytes.first_chunk().ok_or(HeaderError::Short(len))?;
    let rest = &mut &prefix[..];
    let magic = take(rest);
    if magic != MAGIC {
        return Err(HeaderError::Magic(magic));
    }
    let version = u16::from_le_bytes(take(rest));
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    let [log2] = take(rest);
    let block_size = BlockSize::from_log2(log2).ok_or(HeaderError::BlockSize(log2))?;
    let reserved: [u8; 1] = take(rest);
    let payload_len = u16::from_le_bytes(take(rest));
    let reserved_too: [u8; 2] = take(rest);
    if reserved != [0] || reserved_too != [0; 2] {
        return Err(HeaderError::Reserved);
    }
    let payload_max = PAYLOAD_FIXED_LEN + INLINE_MAX;
    if !(PAYLOAD_FIXED_LEN..=payload_max).contains(&u64::from(payload_len)) {
        return Err(HeaderError::PayloadLen(payload_len));
    }
    let epoch = Epoch(u32::from_le_bytes(take(rest)));
    let file_id = FileId(take(rest));
    let wrapped_key = take(rest);
    let entry = Entry { nonce: take(rest), tag: take(rest) };
    Ok((Prefix { block_size, payload_len, epoch, file_id, wrapped_key }, entry))
}

/// The first 16 bytes of a payload.
pub fn encode_payload(generation: u64, length: u64) -> [u8; PAYLOAD_FIXED_BYTES] {
    let mut bytes = [0; PAYLOAD_FIXED_BYTES];
    bytes[..8].copy_from_slice(&generation.to_le_bytes());
    bytes[8..].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// (generation, length) of an authenticated payload.
pub fn decode_payload(bytes: &[u8; PAYLOAD_FIXED_BYTES]) -> (u64, u64) {
    let rest = &mut &bytes[..];
    (u64::from_le_bytes(take(rest)), u64::from_le_bytes(take(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Prefix, Entry) {
        let prefix = Prefix {
            block_size: BlockSize::DEFAULT,
            payload_len: 21,
            epoch: Epoch(7),
            file_id: FileId(*b"0123456789abcdef"),
            wrapped_key: [0xAB; WRAPPED_KEY_LEN],
        };
        (prefix, Entry { nonce: [0xCD; 12], tag: [0xEF; 16] })
    }

    /// If this fails the format changed: raise `VERSION` and add a volume to tests/golden.
    #[test]
    fn version_1_bytes_never_change() {
        let (prefix, entry) = sample();
        let mut wanted =
            b"cmkfs\x1a\x0a\0\x01\0\x0e\0\x15\0\0\0\x07\0\0\x000123456789abcdef".to_vec();
        wanted.extend([0xAB; 60]);
        wanted.extend([0xCD; 12]);
        wanted.extend([0xEF; 16]);
        assert_eq!(encode(&prefix, &entry).to_vec(), wanted);
        assert_eq!(decode(&wanted), Ok((prefix, entry)));
    }

    #[test]
    fn no_flipped_bit_goes_unseen() {
        let (prefix, entry) = sample();
        let whole = encode(&prefix, &entry);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(decode(&bytes), Ok(sample()), "bit {bit}");
        }
    }

    #[test]
    fn short_bytes_are_refused() {
        let (prefix, entry) = sample();
        let whole = encode(&prefix, &entry);
        for len in 0..whole.len() {
            assert_eq!(decode(&whole[..len]), Err(HeaderError::Short(len as u64)));
        }
    }
}
