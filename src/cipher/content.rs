//! The content of one stored file: its blocks, nodes and payload, under the file's own key.
//!
//! | sealed     | associated data (16 bytes)                             |
//! |------------|--------------------------------------------------------|
//! | block i    | 1, seven zeros, i as little-endian u64                 |
//! | node l, i  | 2, l, six zeros, i as little-endian u64                |
//! | payload    | volume id, then bytes 0 to 95 of the header            |
//!
//! A block or node opens only with the nonce and tag that its parent holds, so an older version
//! of it does not open; a key belongs to one file, so another file's does not either.

use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::aead::inout::InOutBuf;

use crate::cipher::bytes::Sealed;
use crate::cipher::nonce::fresh_nonce;
use crate::cipher::secret::Secret;
use crate::cipher::{Plain, Unauthentic};
use crate::format::geometry::NodeAt;
use crate::format::node::{self, Entries, Entry, NODE_LEN};

/// What is sealed, and where in its file it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Block by index.
    Block(u64),
    /// Node by level and index.
    Node(NodeAt),
}

impl Place {
    fn associated(self) -> [u8; 16] {
        let (kind, level, index) = match self {
            Self::Block(index) => (1, 0, index),
            Self::Node(NodeAt { level, index }) => (2, level, index),
        };
        let mut bytes = [0; 16];
        bytes[0] = kind;
        bytes[1] = level;
        bytes[8..].copy_from_slice(&index.to_le_bytes());
        bytes
    }
}

/// The cipher of one stored file. Made once an open file: setting it up costs a key schedule.
pub struct FileCipher {
    cipher: Aes256GcmSiv,
}

impl std::fmt::Debug for FileCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileCipher(..)")
    }
}

impl FileCipher {
    /// The cipher under this file key.
    pub fn new(key: &Secret) -> Self {
        Self { cipher: key.cipher() }
    }

    fn seal(&self, associated: &[u8], buffer: InOutBuf<'_, '_, u8>) -> Entry {
        let nonce = fresh_nonce();
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce.into(), associated, buffer)
            .expect("at most 64 KiB, below the cipher's limit of 2^36 bytes");
        Entry { nonce, tag: tag.into() }
    }

    fn open(&self, associated: &[u8], bytes: &mut [u8], entry: &Entry) -> Result<(), Unauthentic> {
        self.cipher
            .decrypt_inout_detached(
                &entry.nonce.into(),
                associated,
                bytes.into(),
                &entry.tag.into(),
            )
            .map_err(|_| Unauthentic)
    }

    /// Seals `plain` into `out` of the same length; the entry goes into the parent.
    pub(in crate::cipher) fn seal_block(&self, block: u64, plain: &[u8], out: &mut [u8]) -> Entry {
        assert_eq!(plain.len(), out.len(), "a sealed block is as long as its plaintext");
        let buffer = InOutBuf::new(plain, out).expect("equal lengths: asserted");
        self.seal(&Place::Block(block).associated(), buffer)
    }

    /// Opens a block in place. On failure the bytes are as they were.
    pub(in crate::cipher) fn open_block(
        &self,
        block: u64,
        bytes: &mut [u8],
        entry: &Entry,
    ) -> Result<(), Unauthentic> {
        assert!(!entry.is_hole(), "a hole has nothing to open");
        self.open(&Place::Block(block).associated(), bytes, entry)
    }

    /// Seals the entries of a node.
    pub fn seal_node(&self, at: NodeAt, entries: &Entries) -> (Sealed, Entry) {
        let mut bytes = [0; NODE_LEN];
        node::encode(entries, &mut bytes);
        let entry = self.seal(&Place::Node(at).associated(), bytes.as_mut_slice().into());
        (Sealed::of(&bytes), entry)
    }

    /// The entries of a node that came back from the store.
    pub fn open_node(
        &self,
        at: NodeAt,
        mut unopened: [u8; NODE_LEN],
        entry: &Entry,
    ) -> Result<Box<Entries>, Unauthentic> {
        self.open(&Place::Node(at).associated(), &mut unopened, entry)?;
        Ok(node::decode(&unopened))
    }

    /// Seals a payload into `out` of the same length.
    pub(in crate::cipher) fn seal_payload(
        &self,
        bound: &[u8],
        payload: &[u8],
        out: &mut [u8],
    ) -> Entry {
        let buffer = InOutBuf::new(payload, out).expect("equal lengths: made so");
        self.seal(bound, buffer)
    }

    /// Opens a payload that came back from the store.
    pub(in crate::cipher) fn open_payload(
        &self,
        bound: &[u8],
        unopened: &[u8],
        entry: &Entry,
    ) -> Result<Plain, Unauthentic> {
        let mut plain = Plain::copy_of(unopened);
        self.open(bound, &mut plain, entry)?;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_open_only_in_their_place() {
        let cipher = FileCipher::new(&Secret::random());
        let plain = [5; 4096];
        let mut sealed = [0; 4096];
        let entry = cipher.seal_block(3, &plain, &mut sealed);
        assert_ne!(sealed, plain);
        let mut copy = sealed;
        assert_eq!(cipher.open_block(4, &mut copy, &entry), Err(Unauthentic));
        assert_eq!(copy, sealed);
        let newer = cipher.seal_block(3, &plain, &mut [0; 4096]);
        assert_eq!(cipher.open_block(3, &mut copy, &newer), Err(Unauthentic));
        assert_eq!(cipher.open_block(3, &mut copy, &entry), Ok(()));
        assert_eq!(copy, plain);
        let other = FileCipher::new(&Secret::random());
        assert_eq!(other.open_block(3, &mut sealed, &entry), Err(Unauthentic));
    }

    #[test]
    fn nodes_are_not_blocks() {
        let cipher = FileCipher::new(&Secret::random());
        let at = NodeAt { level: 0, index: 0 };
        let (sealed, entry) = cipher.seal_node(at, &[Entry::HOLE; 128]);
        let bytes: [u8; NODE_LEN] = sealed.as_bytes().try_into().unwrap();
        assert_eq!(cipher.open_block(0, &mut bytes.clone(), &entry), Err(Unauthentic));
        let entries = cipher.open_node(at, bytes, &entry);
        assert_eq!(*entries.unwrap(), [Entry::HOLE; 128]);
        let higher = NodeAt { level: 1, index: 0 };
        assert!(cipher.open_node(higher, bytes, &entry).is_err());
    }
}
