//! Nodes and blocks: what a file's key seals, each with its entry in its parent.

use std::num::NonZero;
use std::sync::OnceLock;

use cmkfs::cipher::{CipherPool, FileCipher, Plain};
use cmkfs::format::bytes::take;
use cmkfs::format::geometry::{FANOUT, LEVELS_MAX, NodeAt};
use cmkfs::format::node::{self, ENTRY_LEN, Entry, NODE_LEN};
use cmkfs::format::{BlockSize, FileId};

use super::edit::Edit;
use super::golden;

/// Bytes of an input before the node: level, index, entry.
const PLACE_LEN: usize = 1 + 8 + ENTRY_LEN;

/// The bytes as level, index, entry and node, and as an edit and entries to be sealed.
pub fn node(bytes: &[u8]) {
    if let Some((place, rest)) = bytes.split_first_chunk::<PLACE_LEN>() {
        let place = &mut &place[..];
        let ([level], index) = (take(place), u64::from_le_bytes(take(place)));
        let entry = Entry { nonce: take(place), tag: take(place) };
        if let Some(stored) = rest.first_chunk() {
            claims(stored);
            opened(NodeAt { level, index }, &entry, stored, &bytes[..PLACE_LEN + NODE_LEN]);
        }
    }
    let (edit, rest) = Edit::take(bytes);
    sealed_node(edit, rest);
    sealed_block(edit, rest);
}

fn claims(stored: &[u8; NODE_LEN]) {
    let entries = node::decode(stored);
    let mut again = [0; NODE_LEN];
    node::encode(&entries, &mut again);
    assert_eq!(again, *stored);
    for (entry, bytes) in entries.iter().zip(stored.chunks(ENTRY_LEN)) {
        assert_eq!(entry.is_hole(), bytes.iter().all(|byte| *byte == 0));
    }
}

fn opened(at: NodeAt, entry: &Entry, stored: &[u8; NODE_LEN], input: &[u8]) {
    if let Ok(entries) = golden::large().open_node(at, *stored, entry) {
        assert!(golden::NODES.contains(&input), "forged node");
        assert!(at.level < LEVELS_MAX && entries.len() as u64 == FANOUT);
    }
    // A file has no more blocks than its header reaches.
    if at.index < FANOUT.pow(u32::from(LEVELS_MAX) + 1) && !entry.is_hole() {
        assert!(!opens_as_block(golden::large(), at.index, entry, stored), "forged block");
    }
}

fn pool() -> &'static CipherPool {
    static POOL: OnceLock<CipherPool> = OnceLock::new();
    POOL.get_or_init(|| CipherPool::new(NonZero::<usize>::MIN).expect("no threads are asked for"))
}

/// Whether the bytes are block `index` of this file.
fn opens_as_block(cipher: &FileCipher, index: u64, entry: &Entry, stored: &[u8]) -> bool {
    let (mut block, len) = (Plain::copy_of(stored), stored.len());
    let size = BlockSize::from_bytes(4096).expect("a block size");
    let opened = pool().open_blocks(cipher, size, index, block.unopened(0..len), &[*entry]);
    assert!(opened.is_ok() || block.iter().all(|byte| *byte == 0), "zeros if it does not open");
    opened.is_ok()
}

/// An entry with one byte changed.
fn other_entry(edit: Edit, entry: &Entry) -> Entry {
    let bytes = [&entry.nonce[..], &entry.tag].concat();
    let mut edited = edit.of(&bytes);
    edited.resize(ENTRY_LEN, !bytes[ENTRY_LEN - 1]);
    if edited == bytes {
        edited[0] ^= 1;
    }
    let rest = &mut &edited[..];
    Entry { nonce: take(rest), tag: take(rest) }
}

fn sealed_node(edit: Edit, content: &[u8]) {
    let mut plain = [0; NODE_LEN];
    let len = content.len().min(NODE_LEN);
    plain[..len].copy_from_slice(&content[..len]);
    let entries = node::decode(&plain);
    let at = NodeAt { level: u8::from(len % 2 == 1), index: len as u64 };
    let (cipher, _) = golden::other_keys().new_file(FileId([1; 16]));
    let (sealed, entry) = cipher.seal_node(at, &entries);
    let stored: [u8; NODE_LEN] = sealed.as_bytes().try_into().expect("as long as the node");

    assert_eq!(cipher.open_node(at, stored, &entry).expect("what was sealed"), entries);
    assert!(golden::large().open_node(at, stored, &entry).is_err(), "opens in another file");
    let index = at.index + edit.distance();
    assert!(cipher.open_node(NodeAt { index, ..at }, stored, &entry).is_err(), "elsewhere");
    let level = at.level ^ 1;
    assert!(cipher.open_node(NodeAt { level, ..at }, stored, &entry).is_err(), "on another level");
    assert!(cipher.open_node(at, stored, &other_entry(edit, &entry)).is_err(), "{edit:?} of entry");
    let mut edited = edit.of(&stored);
    edited.resize(NODE_LEN, 0);
    let edited: [u8; NODE_LEN] = edited.try_into().expect("resized");
    if edited != stored {
        assert!(cipher.open_node(at, edited, &entry).is_err(), "{edit:?} of node");
    }
}

fn sealed_block(edit: Edit, content: &[u8]) {
    let size = BlockSize::from_bytes(4096).expect("a block size");
    let content = &content[..content.len().min(size.len())];
    if content.is_empty() {
        return;
    }
    let (cipher, _) = golden::other_keys().new_file(FileId([1; 16]));
    let (index, mut entries) = (edit.distance(), [Entry::HOLE]);
    let sealed = pool().seal_blocks(&cipher, size, index, content, &mut entries);
    let ([entry], stored) = (entries, sealed.as_bytes());

    assert!(opens_as_block(&cipher, index, &entry, stored), "what was sealed opens");
    assert!(!opens_as_block(&cipher, index - 1, &entry, stored), "opens as another block");
    assert!(!opens_as_block(golden::large(), index, &entry, stored), "opens in another file");
    let other = other_entry(edit, &entry);
    let hole = other.is_hole(); // Which says that nothing is stored: zeros, whatever is there.
    assert!(hole || !opens_as_block(&cipher, index, &other, stored), "{edit:?} of entry");
    let edited = edit.of(stored);
    if (1..=size.len()).contains(&edited.len()) {
        assert!(!opens_as_block(&cipher, index, &entry, &edited), "{edit:?} of block");
    }
}
