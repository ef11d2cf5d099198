//! Verifies one stored file completely: header, all nodes, all blocks. No plaintext leaves, and
//! nothing is changed.

use std::ops::Range;

use rustix::io::Errno;

use crate::cipher::{FileCipher, Owner, Plain};
use crate::file::volume::Volume;
use crate::format::bytes::to_usize;
use crate::format::geometry::{FANOUT, Geometry, NodeAt, PAGE_BYTES};
use crate::format::header::{self, PAYLOAD_FIXED_BYTES, PREFIX_BYTES};
use crate::format::node::{self, Entries, Entry, NODE_LEN};
use crate::store::Blob;

/// Bytes of blocks that are read and opened at once.
const READ_LEN: u64 = 1 << 20;

/// What a stored file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its header does not open, so that nothing of it can be read; the text says why.
    Unreadable(String),
    /// Its header is good.
    Opened(Verified),
}

/// A file with a good header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whom its extended attributes are bound to.
    pub owner: Owner,
    /// Plaintext bytes.
    pub length: u64,
    /// Bytes of the lower file.
    pub lower_len: u64,
    /// Bytes that the lower file should have.
    pub stored_len: u64,
    /// Plaintext ranges that can't be read, in order, not touching each other.
    pub damaged: Vec<Range<u64>>,
}

struct Content<'a> {
    volume: &'a Volume,
    blob: &'a dyn Blob,
    cipher: FileCipher,
    geometry: Geometry,
    length: u64,
    damaged: Vec<Range<u64>>,
}

impl Volume {
    /// Verifies a stored file as the journal has it, with what is not in its place yet; `None` of
    /// one that is in its place.
    ///
    /// # Errors
    /// The store's.
    pub fn verify_waiting(&self, ino: u64) -> Result<Option<Verdict>, Errno> {
        let Some(file) = self.opened(ino) else { return Ok(None) };
        let state = file.state_anyway();
        if !state.blob.has_pending() {
            return Ok(None);
        }
        self.verify_file(&state.blob, state.blob.committed_len()).map(Some)
    }

    /// Verifies a stored file of `lower_len` bytes completely.
    ///
    /// # Errors
    /// The store's.
    pub fn verify_file(&self, blob: &dyn Blob, lower_len: u64) -> Result<Verdict, Errno> {
        let mut page = [0; PAGE_BYTES];
        let len = blob.read_at(0, &mut page)?;
        let page = &page[..len];
        let (prefix, entry) = match header::decode(page) {
            Ok(found) => found,
            Err(error) => return Ok(Verdict::Unreadable(format!("header: {error}"))),
        };
        let unreadable = |what: &str| Ok(Verdict::Unreadable(format!("header: {what}")));
        let end = PREFIX_BYTES + usize::from(prefix.payload_len);
        let Some(payload) = page.get(PREFIX_BYTES..end) else { return unreadable("cut off") };
        let keys = self.keys_for(prefix.epoch);
        let opened = keys.open_file(prefix.epoch, prefix.file_id, &prefix.wrapped_key);
        let Some(mut cipher) = opened else { return unreadable("its file key does not open") };
        let Ok(payload) = keys.open_header(&cipher, &prefix, &entry, payload) else {
            return unreadable("not authentic");
        };
        let (fixed, body) = payload.split_at(PAYLOAD_FIXED_BYTES);
        let (_, length) = header::decode_payload(fixed.try_into().expect("split there"));
        let geometry = Geometry::new(prefix.block_size);
        let mut damaged = Vec::new();
        if Geometry::is_inline(length) {
            if body.len() as u64 != length {
                return unreadable("impossible length");
            }
        } else {
            let split = header::split_tree(body).filter(|_| length <= geometry.length_max());
            let Some((top, former)) = split else { return unreadable("impossible length") };
            let added = |former| keys.add_former(&mut cipher, prefix.file_id, former).is_some();
            if !former.is_none_or(added) {
                return unreadable("its former file key does not open");
            }
            let top = node::decode(top);
            let mut content =
                Content { volume: self, blob, cipher, geometry, length, damaged: Vec::new() };
            content.below(&top, geometry.levels(length), 0)?;
            damaged = content.damaged;
        }
        let stored_len = geometry.stored_len(length);
        let owner = Owner::File(prefix.file_id);
        Ok(Verdict::Opened(Verified { owner, length, lower_len, stored_len, damaged }))
    }
}

impl Content<'_> {
    /// Verifies what entries authenticate: blocks if `level` is 0, nodes of level `level` - 1
    /// otherwise; `first` is the index of the first of them.
    fn below(&mut self, entries: &Entries, level: u8, first: u64) -> Result<(), Errno> {
        if level == 0 {
            return self.blocks(entries, first);
        }
        let level = level - 1;
        let blocks_each = FANOUT.pow(u32::from(level) + 1);
        let count = self.geometry.block_count(self.length);
        for (index, entry) in (first..).zip(entries) {
            if index * blocks_each >= count {
                break;
            }
            if entry.is_hole() {
                continue;
            }
            match self.node(NodeAt { level, index }, entry)? {
                Some(entries) => self.below(&entries, level, index * FANOUT)?,
                None => self.bad(index * blocks_each..(index + 1) * blocks_each),
            }
        }
        Ok(())
    }

    fn node(&self, at: NodeAt, entry: &Entry) -> Result<Option<Box<Entries>>, Errno> {
        let mut unopened = [0; NODE_LEN];
        let len = self.blob.read_at(self.geometry.node_offset(at), &mut unopened)?;
        let whole = len == NODE_LEN;
        Ok(self.cipher.open_node(at, unopened, entry).ok().filter(|_| whole))
    }

    fn blocks(&mut self, entries: &Entries, first: u64) -> Result<(), Errno> {
        let count = self.geometry.block_count(self.length);
        let at_once = to_usize(READ_LEN / self.geometry.block_size().bytes());
        let mut start = first;
        for entries in entries.chunks(at_once) {
            let end = (start + entries.len() as u64).min(count);
            if start >= end {
                break;
            }
            let entries = &entries[..to_usize(end - start)];
            if entries.iter().any(|entry| !entry.is_hole()) && !self.opens(start, entries)? {
                for (block, entry) in (start..).zip(entries) {
                    let entry = std::slice::from_ref(entry);
                    if !entry[0].is_hole() && !self.opens(block, entry)? {
                        self.bad(block..block + 1);
                    }
                }
            }
            start = end;
        }
        Ok(())
    }

    /// Whether all of these consecutive blocks open.
    fn opens(&self, first: u64, entries: &[Entry]) -> Result<bool, Errno> {
        let last = first + entries.len() as u64 - 1;
        let len = self.geometry.block_start(last) - self.geometry.block_start(first);
        let len = to_usize(len) + self.geometry.block_len(last, self.length);
        let mut plain = Plain::zeros(len);
        let mut unopened = plain.unopened(0..len);
        // What was cut off stays zeros, which do not open.
        self.blob.read_at(self.geometry.block_offset(first), unopened.room_mut())?;
        let (pool, size) = (&self.volume.pool, self.geometry.block_size());
        Ok(pool.open_blocks(&self.cipher, size, first, unopened, entries).is_ok())
    }

    fn bad(&mut self, blocks: Range<u64>) {
        let start = self.geometry.block_start(blocks.start);
        let end = self.geometry.block_start(blocks.end).min(self.length);
        match self.damaged.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.damaged.push(start..end),
        }
    }
}
