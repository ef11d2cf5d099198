//! The tree of tags of one file: which entry a block has, and sealing what has changed.
//!
//! Invariants:
//! 1. a node is in `dirty` or in `clean`, not in both; what is in neither is as its parent's
//!    entry says: a hole, or stored;
//! 2. a node in `clean` is what its parent's entry authenticates;
//! 3. no entry of block `n` or beyond is set, where `n` is the file's number of blocks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use rustix::io::Errno;

use crate::cipher::FileCipher;
use crate::file::error::{FileError, Spot};
use crate::file::stage::Stage;
use crate::format::bytes::to_usize;
use crate::format::geometry::{FANOUT, Geometry, NodeAt, PAGE_LEN};
use crate::format::node::{ENTRIES, Entries, Entry, NODE_LEN};
use crate::store::Blob;

/// Clean nodes kept of one file: 256 nodes reach 512 MiB at 16 KiB blocks and take 900 KiB.
const CLEAN_MAX: usize = 256;
/// Dirty nodes of one file before they are written ahead of the commit: as many as the blocks that
/// it has at most, where each lies far from the others.
const DIRTY_MAX: usize = 512;

/// What the tree needs to reach its stored nodes.
#[derive(Clone, Copy)]
pub(in crate::file) struct Ground<'a> {
    pub(in crate::file) blob: &'a Stage,
    pub(in crate::file) cipher: &'a FileCipher,
    pub(in crate::file) geometry: Geometry,
    pub(in crate::file) ino: u64,
}

/// The tree of one open file.
#[derive(Debug)]
pub(in crate::file) struct Tree {
    /// The header's entries.
    top: Box<Entries>,
    /// Levels of nodes below the header.
    levels: u8,
    dirty: BTreeMap<NodeAt, Box<Entries>>,
    clean: Mutex<LruCache<NodeAt, Arc<Entries>>>,
}

fn slot(index: u64) -> usize {
    to_usize(index % FANOUT)
}

fn parent(node: NodeAt) -> NodeAt {
    NodeAt { level: node.level + 1, index: node.index / FANOUT }
}

impl Tree {
    /// The tree whose top is `top`, of a file of `length` bytes.
    pub(in crate::file) fn new(top: Box<Entries>, levels: u8) -> Self {
        // Of most files few nodes are read: no room is taken before.
        let clean = Mutex::new(LruCache::unbounded());
        Self { top, levels, dirty: BTreeMap::new(), clean }
    }

    /// The tree of a file that is one hole.
    pub(in crate::file) fn empty(levels: u8) -> Self {
        Self::new(Box::new([Entry::HOLE; ENTRIES]), levels)
    }

    /// The header's entries.
    pub(in crate::file) fn top(&self) -> &Entries {
        &self.top
    }

    /// Whether nodes wait to be sealed.
    pub(in crate::file) fn has_dirty_nodes(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn clean(&self) -> std::sync::MutexGuard<'_, LruCache<NodeAt, Arc<Entries>>> {
        // A panic elsewhere leaves the cache consistent: each change of it is whole.
        self.clean.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a clean node, at the cost of the one not used for longest.
    fn keep(&self, node: NodeAt, entries: Arc<Entries>) {
        let mut clean = self.clean();
        clean.put(node, entries);
        if clean.len() > CLEAN_MAX {
            clean.pop_lru();
        }
    }

    /// Runs `see` on a node's entries; `None` where it is a hole.
    fn with_node<T>(
        &self,
        ground: Ground<'_>,
        node: NodeAt,
        see: impl FnOnce(&Entries) -> T,
    ) -> Result<Option<T>, FileError> {
        if let Some(entries) = self.dirty.get(&node) {
            return Ok(Some(see(entries)));
        }
        let kept = self.clean().get(&node).cloned();
        if let Some(entries) = kept {
            return Ok(Some(see(&entries)));
        }
        let entry = self.entry_of_node(ground, node)?;
        if entry.is_hole() {
            return Ok(None);
        }
        let entries: Arc<Entries> = Arc::from(read_node(ground, node, &entry)?);
        let seen = see(&entries);
        self.keep(node, entries);
        Ok(Some(seen))
    }

    /// What authenticates a node.
    fn entry_of_node(&self, ground: Ground<'_>, node: NodeAt) -> Result<Entry, FileError> {
        if node.level + 1 == self.levels {
            let index = to_usize(node.index);
            return Ok(self.top.get(index).copied().unwrap_or(Entry::HOLE));
        }
        let entry = self.with_node(ground, parent(node), |above| above[slot(node.index)])?;
        Ok(entry.unwrap_or(Entry::HOLE))
    }

    /// The entries of blocks `first` and following, as many as `out` has room for.
    pub(in crate::file) fn entries(
        &self,
        ground: Ground<'_>,
        first: u64,
        out: &mut [Entry],
    ) -> Result<(), FileError> {
        let mut done = 0;
        while done < out.len() {
            let block = first + done as u64;
            let start = if self.levels == 0 { to_usize(block) } else { slot(block) };
            let count = (ENTRIES.saturating_sub(start)).min(out.len() - done);
            if count == 0 {
                out[done..].fill(Entry::HOLE);
                break;
            }
            let part = &mut out[done..done + count];
            if self.levels == 0 {
                part.copy_from_slice(&self.top[start..start + count]);
            } else {
                let node = NodeAt { level: 0, index: block / FANOUT };
                let copy = |entries: &Entries| part.copy_from_slice(&entries[start..start + count]);
                if self.with_node(ground, node, copy)?.is_none() {
                    out[done..done + count].fill(Entry::HOLE);
                }
            }
            done += count;
        }
        Ok(())
    }

    /// Takes up the nodes above a block that is about to be stored. One that was never stored gets
    /// its place on the disk: so it is the block that a full disk refuses, which its writer hears,
    /// and not in the end the nodes of all that it has taken.
    pub(in crate::file) fn prepare(
        &mut self,
        ground: Ground<'_>,
        block: u64,
    ) -> Result<(), FileError> {
        let mut index = block;
        for level in 0..self.levels {
            index /= FANOUT;
            self.touch(ground, NodeAt { level, index })?;
        }
        Ok(())
    }

    /// Moves a node into `dirty`, from wherever it is, and gives its entries.
    fn touch(&mut self, ground: Ground<'_>, node: NodeAt) -> Result<&mut Entries, FileError> {
        if !self.dirty.contains_key(&node) {
            let copy = self.with_node(ground, node, |entries| Box::new(*entries))?;
            if copy.is_none() {
                reserve_node(ground, node)?;
            }
            self.clean().pop(&node);
            let entries = copy.unwrap_or_else(|| Box::new([Entry::HOLE; ENTRIES]));
            self.dirty.insert(node, entries);
        }
        Ok(self.dirty.get_mut(&node).expect("inserted above if it was not there"))
    }

    /// Sets the entries of consecutive blocks.
    pub(in crate::file) fn set(
        &mut self,
        ground: Ground<'_>,
        first: u64,
        entries: &[Entry],
    ) -> Result<(), FileError> {
        let mut done = 0;
        while done < entries.len() {
            let block = first + done as u64;
            let start = if self.levels == 0 { to_usize(block) } else { slot(block) };
            assert!(start < ENTRIES, "the tree has been grown to the file's length");
            let count = (ENTRIES - start).min(entries.len() - done);
            let into = if self.levels == 0 {
                &mut *self.top
            } else {
                self.touch(ground, NodeAt { level: 0, index: block / FANOUT })?
            };
            into[start..start + count].copy_from_slice(&entries[done..done + count]);
            done += count;
        }
        if self.dirty.len() > DIRTY_MAX { self.seal_nodes(ground) } else { Ok(()) }
    }

    /// Has those nodes sealed anew whose first block is one of `from` to `end` - 1; none of the
    /// blocks before `first`, which is one of them, is there.
    pub(in crate::file) fn renew(
        &mut self,
        ground: Ground<'_>,
        (from, first, end): (u64, u64, u64),
    ) -> Result<(), FileError> {
        for level in 0..self.levels {
            let span = FANOUT.saturating_pow(u32::from(level) + 1);
            for index in first / span..end.div_ceil(span) {
                let node = NodeAt { level, index };
                if index * span >= from && !self.is_hole(ground, node)? {
                    self.touch(ground, node)?;
                }
            }
        }
        Ok(())
    }

    /// Seals and stores all dirty nodes, leaves first, so that only the header is left.
    pub(in crate::file) fn seal_nodes(&mut self, ground: Ground<'_>) -> Result<(), FileError> {
        for level in 0..self.levels {
            loop {
                let next = self.dirty.range(NodeAt { level, index: 0 }..).next();
                let Some((&node, _)) = next.filter(|(node, _)| node.level == level) else { break };
                // The parent first: if it can't be read, this node stays dirty.
                if level + 1 < self.levels {
                    self.touch(ground, parent(node))?;
                }
                let entries = self.dirty.get(&node).expect("seen above");
                let entry = if entries.iter().all(Entry::is_hole) {
                    Entry::HOLE
                } else {
                    let (sealed, entry) = ground.cipher.seal_node(node, entries);
                    let offset = ground.geometry.node_offset(node);
                    ground.blob.write_at(offset, &sealed, 0..NODE_LEN)?;
                    entry
                };
                let entries = self.dirty.remove(&node).expect("seen above");
                if !entry.is_hole() {
                    self.keep(node, Arc::from(entries));
                }
                if level + 1 == self.levels {
                    self.top[to_usize(node.index)] = entry;
                } else {
                    self.touch(ground, parent(node))?[slot(node.index)] = entry;
                }
            }
        }
        assert!(self.dirty.is_empty(), "every level was sealed");
        Ok(())
    }

    /// Adds levels at the top until there are `levels`; their nodes get their places, as in
    /// [`Self::prepare`].
    pub(in crate::file) fn grow(
        &mut self,
        ground: Ground<'_>,
        levels: u8,
    ) -> Result<(), FileError> {
        let is_used = !self.dirty.is_empty() || self.top.iter().any(|entry| !entry.is_hole());
        if is_used {
            let mut added = self.levels..levels;
            added.try_for_each(|level| reserve_node(ground, NodeAt { level, index: 0 }))?;
        }
        while self.levels < levels {
            if self.top.iter().any(|entry| !entry.is_hole()) {
                let old = std::mem::replace(&mut self.top, Box::new([Entry::HOLE; ENTRIES]));
                self.dirty.insert(NodeAt { level: self.levels, index: 0 }, old);
            }
            self.levels += 1;
        }
        Ok(())
    }

    /// The same tree once more, to come back to; clean nodes are read again.
    pub(in crate::file) fn copy(&self) -> Self {
        Self { dirty: self.dirty.clone(), ..Self::new(self.top.clone(), self.levels) }
    }

    /// Forgets all blocks from `count` on, and the levels that this leaves without use.
    pub(in crate::file) fn cut(
        &mut self,
        ground: Ground<'_>,
        count: u64,
        levels: u8,
    ) -> Result<(), FileError> {
        assert!(levels <= self.levels, "a shorter file has no more levels");
        let mut kept = count;
        for level in 0..self.levels {
            let node = NodeAt { level, index: kept / FANOUT };
            if !kept.is_multiple_of(FANOUT) && !self.is_hole(ground, node)? {
                self.touch(ground, node)?[slot(kept)..].fill(Entry::HOLE);
            }
            kept = kept.div_ceil(FANOUT);
            let gone = |node: &NodeAt| node.level == level && node.index >= kept;
            self.dirty.retain(|node, _| !gone(node));
            let mut clean = self.clean();
            let stale: Vec<_> = clean.iter().map(|(node, _)| *node).filter(gone).collect();
            for node in stale {
                clean.pop(&node);
            }
        }
        if kept < FANOUT {
            self.top[to_usize(kept)..].fill(Entry::HOLE);
        }
        while self.levels > levels {
            let node = NodeAt { level: self.levels - 1, index: 0 };
            let copy = self.with_node(ground, node, |entries| Box::new(*entries))?;
            self.top = copy.unwrap_or_else(|| Box::new([Entry::HOLE; ENTRIES]));
            self.dirty.remove(&node);
            self.clean().pop(&node);
            self.levels -= 1;
        }
        Ok(())
    }

    fn is_hole(&self, ground: Ground<'_>, node: NodeAt) -> Result<bool, FileError> {
        Ok(self.with_node(ground, node, |_| ())?.is_none())
    }

    /// Where the largest hole around `block` that the tree has no node for ends; `None` if the
    /// block's own node is there. A hole of a terabyte is passed in a few steps.
    fn hole_end(&self, ground: Ground<'_>, block: u64) -> Result<Option<u64>, FileError> {
        for level in (0..self.levels).rev() {
            let span = FANOUT.pow(u32::from(level) + 1);
            let node = NodeAt { level, index: block / span };
            if !self.dirty.contains_key(&node) && self.entry_of_node(ground, node)?.is_hole() {
                // A dirty node is not in its parent's entries before it is sealed.
                let below = (0..level).any(|lower| {
                    let width = FANOUT.pow(u32::from(level - lower));
                    let first = NodeAt { level: lower, index: node.index * width };
                    let end = NodeAt { level: lower, index: (node.index + 1) * width };
                    self.dirty.range(first..end).next().is_some()
                });
                if !below {
                    return Ok(Some((node.index + 1) * span));
                }
            }
        }
        Ok(None)
    }

    /// Makes holes of blocks `first` to `end` - 1. Adds to `unused` the parts that had a node, and
    /// so may have had stored blocks.
    pub(in crate::file) fn clear(
        &mut self,
        ground: Ground<'_>,
        first: u64,
        end: u64,
        unused: &mut Vec<Range<u64>>,
    ) -> Result<(), FileError> {
        if self.levels == 0 {
            self.top[to_usize(first)..to_usize(end)].fill(Entry::HOLE);
            unused.push(first..end);
            return Ok(());
        }
        let mut block = first;
        while block < end {
            if let Some(next) = self.hole_end(ground, block)? {
                block = next;
                continue;
            }
            let node = NodeAt { level: 0, index: block / FANOUT };
            let next = ((node.index + 1) * FANOUT).min(end);
            let last = slot(next - 1);
            self.touch(ground, node)?[slot(block)..=last].fill(Entry::HOLE);
            unused.push(block..next);
            block = next;
            if self.dirty.len() > DIRTY_MAX {
                self.seal_nodes(ground)?;
            }
        }
        Ok(())
    }

    /// The first block from `first` on, below `end`, that is (`data`) or is not a hole.
    pub(in crate::file) fn find(
        &self,
        ground: Ground<'_>,
        first: u64,
        end: u64,
        data: bool,
    ) -> Result<Option<u64>, FileError> {
        let mut block = first;
        while block < end {
            if let Some(next) = self.hole_end(ground, block)? {
                if !data {
                    return Ok(Some(block));
                }
                block = next;
                continue;
            }
            let next = ((block / FANOUT + 1) * FANOUT).min(end);
            let mut entries = [Entry::HOLE; ENTRIES];
            let entries = &mut entries[..to_usize(next - block)];
            self.entries(ground, block, entries)?;
            if let Some(at) = entries.iter().position(|entry| entry.is_hole() != data) {
                return Ok(Some(block + at as u64));
            }
            block = next;
        }
        Ok(None)
    }
}

/// Space for a node. A disk that can't be asked for it gives the node its place when it is stored,
/// or refuses it then.
pub(in crate::file) fn reserve_node(ground: Ground<'_>, node: NodeAt) -> Result<(), FileError> {
    match ground.blob.reserve(ground.geometry.node_offset(node), PAGE_LEN) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        reserved => Ok(reserved?),
    }
}

fn read_node(ground: Ground<'_>, node: NodeAt, entry: &Entry) -> Result<Box<Entries>, FileError> {
    let mut unopened = [0; NODE_LEN];
    let offset = ground.geometry.node_offset(node);
    let len = ground.blob.read_at(offset, &mut unopened)?;
    let damaged = |what: &str| {
        let NodeAt { level, index } = node;
        let reason = format!("node {index} of level {level} at byte {offset}: {what}");
        FileError::damaged(Spot::of(ground.ino, ground.blob), reason)
    };
    if len < NODE_LEN {
        return Err(damaged("cut off"));
    }
    ground.cipher.open_node(node, unopened, entry).map_err(|_| damaged("not authentic"))
}
