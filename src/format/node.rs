//! 128 entries, each the nonce and the tag of what it authenticates. All zeros means a hole: the
//! block, or everything below the node, was never written and reads as zeros.
//!
//! | at     | bytes | field   |
//! |-------:|------:|---------|
//! | 28 i   |    12 | nonce i |
//! | 28 i + 12 | 16 | tag i   |

use crate::format::geometry::FANOUT;

/// Bytes of a nonce of AES-256-GCM-SIV (RFC 8452).
pub const NONCE_LEN: usize = 12;
/// Bytes of a tag of AES-256-GCM-SIV (RFC 8452).
pub const TAG_LEN: usize = 16;
/// Bytes of an entry.
pub const ENTRY_LEN: usize = NONCE_LEN + TAG_LEN;
/// Bytes of the plaintext, and so of the ciphertext, of a node.
pub const NODE_LEN: usize = 3584;
/// Entries, for arrays.
pub const ENTRIES: usize = 128;
const _: () = assert!(ENTRIES * ENTRY_LEN == NODE_LEN && ENTRIES as u64 == FANOUT);

/// Nonce and tag of a sealed block, node or payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Fresh random bytes of each sealing.
    pub nonce: [u8; NONCE_LEN],
    /// What authenticates the ciphertext.
    pub tag: [u8; TAG_LEN],
}

impl Entry {
    /// Nothing is stored there; it reads as zeros.
    pub const HOLE: Self = Self { nonce: [0; NONCE_LEN], tag: [0; TAG_LEN] };

    /// Whether this is [`Self::HOLE`].
    pub fn is_hole(&self) -> bool {
        *self == Self::HOLE
    }
}

/// Entries in order.
pub type Entries = [Entry; ENTRIES];

/// The plaintext of a node, or of the body of a header that is not inline.
pub fn encode(entries: &Entries, out: &mut [u8; NODE_LEN]) {
    for (entry, bytes) in entries.iter().zip(out.chunks_exact_mut(ENTRY_LEN)) {
        bytes[..NONCE_LEN].copy_from_slice(&entry.nonce);
        bytes[NONCE_LEN..].copy_from_slice(&entry.tag);
    }
}

/// The entries of an authenticated node. Any bytes are entries, so this cannot fail.
pub fn decode(bytes: &[u8; NODE_LEN]) -> Box<Entries> {
    let mut entries = Box::new([Entry::HOLE; ENTRIES]);
    for (entry, bytes) in entries.iter_mut().zip(bytes.chunks_exact(ENTRY_LEN)) {
        entry.nonce.copy_from_slice(&bytes[..NONCE_LEN]);
        entry.tag.copy_from_slice(&bytes[NONCE_LEN..]);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_convert_back() {
        let mut entries = [Entry::HOLE; ENTRIES];
        for (entry, fill) in entries.iter_mut().zip(1_u8..) {
            *entry = Entry { nonce: [fill; NONCE_LEN], tag: [!fill; TAG_LEN] };
        }
        let mut bytes = [0; NODE_LEN];
        encode(&entries, &mut bytes);
        assert_eq!(*decode(&bytes), entries);
        assert_eq!((bytes[28], bytes[40]), (2, !2));
    }
}
