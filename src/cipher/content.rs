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
use crate::format::geometry::{FANOUT, NodeAt};
use crate::format::header::Former;
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
    /// The first block that it is or is about.
    fn first_block(self) -> u64 {
        match self {
            Self::Block(index) => index,
            Self::Node(NodeAt { level, index }) => {
                index.saturating_mul(FANOUT.saturating_pow(u32::from(level) + 1))
            }
        }
    }

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
///
/// While a file is re-encrypted it has two keys: what comes before a block is under the new one,
/// the rest under the former one. A place is of one of them, so that nobody else need know.
pub struct FileCipher {
    cipher: Box<Aes256GcmSiv>,
    former: Option<Box<(Box<Aes256GcmSiv>, Former)>>,
}

impl std::fmt::Debug for FileCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileCipher(..)")
    }
}

impl FileCipher {
    /// The cipher under this file key.
    pub fn new(key: &Secret) -> Self {
        Self { cipher: key.cipher(), former: None }
    }

    /// What is known of the key that the file has had, if a part of it is under that still.
    pub fn former(&self) -> Option<&Former> {
        self.former.as_deref().map(|(_, former)| former)
    }

    /// From `former.from` on all is under the key of `cipher`, which has had no former one.
    pub fn add_former(&mut self, cipher: Self, former: Former) {
        assert!(self.former.is_none() && cipher.former.is_none(), "two keys at most");
        self.former = Some(Box::new((cipher.cipher, former)));
    }

    /// Only what is from this block on is under the former key from now on.
    pub fn leave_former(&mut self, from: u64) {
        if let Some(former) = &mut self.former {
            former.1.from = former.1.from.max(from);
        }
    }

    /// Nothing is under the former key any more.
    pub fn forget_former(&mut self) {
        self.former = None;
    }

    fn of(&self, place: Place) -> &Aes256GcmSiv {
        match self.former.as_deref() {
            Some((cipher, former)) if place.first_block() >= former.from => cipher,
            _ => &self.cipher,
        }
    }

    fn seal(cipher: &Aes256GcmSiv, associated: &[u8], buffer: InOutBuf<'_, '_, u8>) -> Entry {
        let nonce = fresh_nonce();
        let tag = cipher
            .encrypt_inout_detached(&nonce.into(), associated, buffer)
            .expect("at most 64 KiB, below the cipher's limit of 2^36 bytes");
        Entry { nonce, tag: tag.into() }
    }

    fn open(
        cipher: &Aes256GcmSiv,
        associated: &[u8],
        bytes: &mut [u8],
        entry: &Entry,
    ) -> Result<(), Unauthentic> {
        cipher
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
        let place = Place::Block(block);
        Self::seal(self.of(place), &place.associated(), buffer)
    }

    /// Opens a block in place. On failure the bytes are as they were.
    pub(in crate::cipher) fn open_block(
        &self,
        block: u64,
        bytes: &mut [u8],
        entry: &Entry,
    ) -> Result<(), Unauthentic> {
        assert!(!entry.is_hole(), "a hole has nothing to open");
        let place = Place::Block(block);
        Self::open(self.of(place), &place.associated(), bytes, entry)
    }

    /// Seals the entries of a node.
    pub fn seal_node(&self, at: NodeAt, entries: &Entries) -> (Sealed, Entry) {
        let mut bytes = [0; NODE_LEN];
        node::encode(entries, &mut bytes);
        let place = Place::Node(at);
        let buffer = bytes.as_mut_slice().into();
        let entry = Self::seal(self.of(place), &place.associated(), buffer);
        (Sealed::of(&bytes), entry)
    }

    /// The entries of a node that came back from the store.
    pub fn open_node(
        &self,
        at: NodeAt,
        mut unopened: [u8; NODE_LEN],
        entry: &Entry,
    ) -> Result<Box<Entries>, Unauthentic> {
        let place = Place::Node(at);
        Self::open(self.of(place), &place.associated(), &mut unopened, entry)?;
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
        Self::seal(&self.cipher, bound, buffer)
    }

    /// Opens a payload that came back from the store.
    pub(in crate::cipher) fn open_payload(
        &self,
        bound: &[u8],
        unopened: &[u8],
        entry: &Entry,
    ) -> Result<Plain, Unauthentic> {
        let mut plain = Plain::copy_of(unopened);
        Self::open(&self.cipher, bound, &mut plain, entry)?;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::Epoch;

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

    /// A node is of the key that its first block is of, whatever else is below it.
    #[test]
    fn what_is_before_a_block_is_under_the_new_key() {
        let key = Secret::random();
        let [old, mut both] = [(); 2].map(|()| FileCipher::new(&key));
        let record = |from| Former { from, epoch: Epoch::FIRST, wrapped_key: [0; 60] };
        let new = Secret::random();
        both = std::mem::replace(&mut both, FileCipher::new(&new));
        let mut two = FileCipher::new(&new);
        two.add_former(both, record(0));
        let seals_as = |two: &FileCipher, block: u64, one: &FileCipher| {
            let mut sealed = [0; 64];
            let entry = two.seal_block(block, &[3; 64], &mut sealed);
            one.open_block(block, &mut sealed, &entry) == Ok(())
        };
        let new = FileCipher::new(&new);
        assert!(seals_as(&two, 0, &old) && !seals_as(&two, 0, &new));
        two.leave_former(200);
        assert_eq!(two.former(), Some(&record(200)));
        assert!(seals_as(&two, 199, &new) && seals_as(&two, 200, &old));
        for (level, index, one) in [(0, 0, &new), (0, 1, &new), (0, 2, &old), (1, 0, &new)] {
            let at = NodeAt { level, index };
            let (sealed, entry) = two.seal_node(at, &[Entry::HOLE; 128]);
            assert!(one.open_node(at, sealed.as_bytes().try_into().unwrap(), &entry).is_ok());
        }
        two.forget_former();
        assert!(seals_as(&two, 200, &new));
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
