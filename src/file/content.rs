//! An open file: what it shares among its handles, and reading.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::io::Errno;
use tracing::field::debug;

use crate::cipher::Plain;
use crate::file::behind::Debts;
use crate::file::commit::span_len;
use crate::file::error::{FileError, Spot};
use crate::file::stage::Stage;
use crate::file::state::{Body, State};
use crate::file::tree::Tree;
use crate::file::volume::Volume;
use crate::format::bytes::to_usize;
use crate::format::geometry::FANOUT;
use crate::format::node::{ENTRIES, Entry};
use crate::store::Blob;

/// Blocks of one file that may be cached before those that are not any more are looked for.
const CACHED_SWEEP_MIN: usize = 1024;

/// One open stored file, however many handles it has.
#[derive(Debug)]
pub struct File {
    volume: Arc<Volume>,
    ino: u64,
    /// No other file that was ever open has it: the key of its cached blocks.
    number: u64,
    state: RwLock<State>,
    latched: AtomicBool,
    debts: Debts,
    /// Where the last read ended.
    read_end: AtomicU64,
    /// Blocks that may be in the cache, to be forgotten when the file is closed.
    cached: Mutex<Cached>,
}

#[derive(Debug)]
struct Cached {
    blocks: BTreeSet<u64>,
    /// At this many, those that were evicted are struck off.
    sweep_at: usize,
}

/// Bytes that were read. Zeroed on drop.
#[derive(Debug)]
pub struct Slice {
    plain: Plain,
    range: Range<usize>,
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.plain[self.range.clone()]
    }
}

impl Slice {
    pub(in crate::file) fn whole(plain: Plain) -> Self {
        let range = 0..plain.len();
        Self { plain, range }
    }
}

impl File {
    pub(in crate::file) fn new(volume: Arc<Volume>, ino: u64, state: State) -> Self {
        let number = volume.next_file_number();
        volume.counters.files_open.add(1);
        let state = RwLock::new(state);
        let cached = Cached { blocks: BTreeSet::new(), sweep_at: CACHED_SWEEP_MIN };
        let cached = Mutex::new(cached);
        let (latched, read_end) = (AtomicBool::new(false), AtomicU64::new(0));
        let debts = Debts::default();
        Self { volume, ino, number, state, latched, debts, read_end, cached }
    }

    /// Lower inode number.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    pub(in crate::file) fn number(&self) -> u64 {
        self.number
    }

    pub(in crate::file) fn debts(&self) -> &Debts {
        &self.debts
    }

    pub(in crate::file) fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Plaintext bytes.
    pub fn len(&self) -> u64 {
        self.state_anyway().length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From now on every call fails until the file is opened anew.
    pub(in crate::file) fn latch(&self, blob: &Stage, error: &dyn Display) {
        if !self.latched.swap(true, Ordering::AcqRel) {
            let spot = Spot::of(self.ino, blob);
            tracing::error!(
                ino = spot.ino,
                stored = spot.stored(),
                %error,
                "a write or sync failed: the file is refused until it is closed everywhere and \
                 opened again; what is not there then was lost; see what the disk says (dmesg)"
            );
        }
    }

    /// The state of a file that may be refused, to look at it.
    pub(in crate::file) fn state_anyway(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every call fails.
    pub(in crate::file) fn is_latched(&self) -> bool {
        self.latched.load(Ordering::Acquire)
    }

    /// Whether a panic came while the state was being changed.
    pub(in crate::file) fn is_in_doubt(&self) -> bool {
        self.state.is_poisoned()
    }

    /// The state of a file that may be refused, to bring what is committed to its place.
    pub(in crate::file) fn state_even_latched(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the volume how many bytes of dirty blocks this file has.
    pub(in crate::file) fn count_dirty(&self, state: &mut State) {
        let bytes = state.blocks.len() as u64 * state.prefix.block_size.bytes();
        let counter = &self.volume.counters.dirty_bytes;
        counter.add(bytes);
        counter.sub(std::mem::replace(&mut state.counted_bytes, bytes));
    }

    /// A panic while the state was held leaves it in doubt: the file is refused then, as after a
    /// failed sync.
    fn in_doubt(&self, state: &State) -> FileError {
        self.latch(&state.blob, &"a request panicked while it changed the file");
        FileError::Latched
    }

    pub(in crate::file) fn state(&self) -> Result<RwLockReadGuard<'_, State>, FileError> {
        let state = self.state.read().map_err(|doubt| self.in_doubt(doubt.get_ref()))?;
        if self.latched.load(Ordering::Acquire) { Err(FileError::Latched) } else { Ok(state) }
    }

    pub(in crate::file) fn state_mut(&self) -> Result<RwLockWriteGuard<'_, State>, FileError> {
        let state = self.state.write().map_err(|doubt| self.in_doubt(doubt.get_ref()))?;
        if self.latched.load(Ordering::Acquire) { Err(FileError::Latched) } else { Ok(state) }
    }

    /// The state, to change it.
    pub(in crate::file) fn state_to_write(&self) -> Result<RwLockWriteGuard<'_, State>, FileError> {
        let state = self.state_mut()?;
        self.volume.check_writable()?;
        if state.writable { Ok(state) } else { Err(FileError::Sys(Errno::BADF)) }
    }

    pub(in crate::file) fn note_cached(&self, block: u64) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.blocks.insert(block);
        if cached.blocks.len() >= cached.sweep_at {
            cached.blocks.retain(|block| self.volume.cache.has(self.key(*block)));
            cached.sweep_at = (2 * cached.blocks.len()).max(CACHED_SWEEP_MIN);
        }
    }

    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`FileError::Damaged`] if any block of the range is not authentic; or the store's.
    pub fn read(&self, offset: u64, len: usize) -> Result<Slice, FileError> {
        match self.volume.read_only() {
            true => self.read_beside(offset, len),
            false => self.read_once(offset, len),
        }
    }

    /// The same, of what is stored at this moment.
    pub(in crate::file) fn read_once(&self, offset: u64, len: usize) -> Result<Slice, FileError> {
        let state = self.state()?;
        let end = offset.saturating_add(len as u64).min(state.length);
        let counters = &self.volume.counters;
        counters.reads.add(1);
        if offset >= end {
            return Ok(Slice::whole(Plain::zeros(0)));
        }
        counters.read_bytes.add(end - offset);
        let tree = match &state.body {
            Body::Inline(content) => {
                let range = to_usize(offset)..to_usize(end);
                return Ok(Slice::whole(Plain::copy_of(&content[range])));
            }
            Body::Tree(tree) => tree,
        };
        let geometry = state.geometry();
        let first = geometry.block_of(offset);
        let last = geometry.block_of(end - 1);
        let goes_on = self.read_end.swap(end, Ordering::Relaxed) == offset;
        let mut plain;
        if first == last {
            if let Some(slice) = self.read_from_memory(&state, first, offset..end) {
                return Ok(slice);
            }
            plain = Plain::zeros(span_len(first, last + 1, &state));
            self.fetch(&state, tree, first, first..last + 1, &mut plain)?;
        } else {
            plain = Plain::zeros(span_len(first, last + 1, &state));
            self.fill(&state, tree, first, last + 1, &mut plain)?;
        }
        let start = geometry.block_start(first);
        let range = to_usize(offset - start)..to_usize(end - start);
        // Who reads on wants the rest of the block next; who reads here and there does not.
        if goes_on || first != last || self.volume.cache.was_missed(self.key(first)) {
            self.keep_ends(&state, first, &plain, &range);
        }
        Ok(Slice { plain, range })
    }

    /// Bytes of one block that is in memory.
    fn read_from_memory(&self, state: &State, block: u64, bytes: Range<u64>) -> Option<Slice> {
        let start = state.geometry().block_start(block);
        let part = to_usize(bytes.start - start)..to_usize(bytes.end - start);
        if let Some(dirty) = state.blocks.get(&block) {
            return Some(Slice::whole(Plain::copy_of(&dirty[part])));
        }
        let kept = self.volume.cache.get(self.key(block), &self.volume.counters)?;
        Some(Slice::whole(Plain::copy_of(&kept[part])))
    }

    /// Keeps the blocks at either end of which the request wanted only a part.
    fn keep_ends(&self, state: &State, first: u64, plain: &Plain, range: &Range<usize>) {
        let size = state.prefix.block_size.len();
        let keep = |at: usize| {
            let block = first + at as u64;
            if !state.blocks.contains_key(&block) && !self.volume.cache.has(self.key(block)) {
                let end = ((at + 1) * size).min(plain.len());
                self.keep_block(block, Plain::copy_of(&plain[at * size..end]));
            }
        };
        let last = (plain.len() - 1) / size;
        if range.end < plain.len() {
            keep(last);
        }
        if range.start > 0 && (last > 0 || range.end == plain.len()) {
            keep(0);
        }
    }

    /// Fills `plain` with blocks `first` to `end` - 1 from wherever each is.
    pub(in crate::file) fn fill(
        &self,
        state: &State,
        tree: &Tree,
        first: u64,
        end: u64,
        plain: &mut Plain,
    ) -> Result<(), FileError> {
        let size = state.prefix.block_size.len();
        let mut missing: Option<u64> = None;
        for block in first..end {
            let start = to_usize(block - first) * size;
            let part = start..(start + size).min(plain.len());
            if self.copy_from_memory(state, block, &mut plain[part]) {
                if let Some(from) = missing.take() {
                    self.fetch(state, tree, first, from..block, plain)?;
                }
            } else {
                missing.get_or_insert(block);
            }
        }
        match missing {
            Some(from) => self.fetch(state, tree, first, from..end, plain),
            None => Ok(()),
        }
    }

    fn copy_from_memory(&self, state: &State, block: u64, out: &mut [u8]) -> bool {
        if let Some(dirty) = state.blocks.get(&block) {
            out.copy_from_slice(&dirty[..out.len()]);
            return true;
        }
        let Some(kept) = self.volume.cache.get(self.key(block), &self.volume.counters) else {
            return false;
        };
        assert_eq!(kept.len(), out.len(), "a block that changes length is forgotten first");
        out.copy_from_slice(&kept);
        true
    }

    /// Reads and opens stored blocks into `plain`, which begins with block `first`.
    fn fetch(
        &self,
        state: &State,
        tree: &Tree,
        first: u64,
        mut blocks: Range<u64>,
        plain: &mut Plain,
    ) -> Result<(), FileError> {
        let geometry = state.geometry();
        let size = state.prefix.block_size;
        while !blocks.is_empty() {
            let run_end = ((blocks.start / FANOUT + 1) * FANOUT).min(blocks.end);
            let count = to_usize(run_end - blocks.start);
            let mut entries = [Entry::HOLE; ENTRIES];
            let entries = &mut entries[..count];
            tree.entries(state.ground(self.ino), blocks.start, entries)?;
            let stored = entries.iter().filter(|entry| !entry.is_hole()).count();
            if stored > 0 {
                let start = to_usize(blocks.start - first) * size.len();
                let end = (start + count * size.len()).min(plain.len());
                let mut unopened = plain.unopened(start..end);
                let offset = geometry.block_offset(blocks.start);
                state.blob.read_at(offset, unopened.room_mut())?;
                let pool = &self.volume.pool;
                pool.open_blocks(&state.cipher, size, blocks.start, unopened, entries).map_err(
                    |bad| {
                        self.volume.count_damage();
                        let offset = geometry.block_offset(bad.0);
                        let what = format!("block {} at byte {offset} is not authentic", bad.0);
                        FileError::damaged(Spot::of(self.ino, &state.blob), what)
                    },
                )?;
                self.volume.counters.blocks_opened.add(stored as u64);
            }
            blocks.start = run_end;
        }
        Ok(())
    }

    /// A block to be changed, with zeros past the end of the file.
    pub(in crate::file) fn load_block(
        &self,
        state: &State,
        block: u64,
    ) -> Result<Plain, FileError> {
        let mut plain = Plain::zeros(state.geometry().block_len(block, state.length));
        if let Some(tree) = state.tree()
            && !plain.is_empty()
        {
            self.fill(state, tree, block, block + 1, &mut plain)?;
        }
        plain.resize(state.prefix.block_size.len());
        Ok(plain)
    }

    /// A block that is being changed; it is dirty from now on.
    pub(in crate::file) fn dirty_block<'a>(
        &self,
        state: &'a mut State,
        block: u64,
    ) -> Result<&'a mut Plain, FileError> {
        if !state.blocks.contains_key(&block) {
            let plain = self.load_block(state, block)?;
            self.forget_block(block);
            state.blocks.insert(block, plain);
        }
        Ok(state.blocks.get_mut(&block).expect("inserted above if it was not there"))
    }

    pub(in crate::file) fn forget_block(&self, block: u64) {
        self.volume.cache.remove(self.key(block), &self.volume.counters);
    }

    pub(in crate::file) fn forget_range(&self, blocks: Range<u64>) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<u64> = cached.blocks.range(blocks).copied().collect();
        for block in gone {
            cached.blocks.remove(&block);
            self.forget_block(block);
        }
    }

    pub(in crate::file) fn forget_all(&self) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        for block in std::mem::take(&mut cached.blocks) {
            self.forget_block(block);
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.forget_all();
        let volume = self.volume.clone();
        volume.closed(self.ino, || {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let latched = self.latched.load(Ordering::Acquire);
            volume.settled.closed(self.ino, state.is_settled() && !latched);
            if !state.is_stored() && !self.latched.load(Ordering::Acquire) {
                let salvaged = self.salvage(&mut state);
                let Spot { ino, path } = Spot::of(self.ino, &state.blob);
                let stored = path.map(debug);
                match salvaged {
                    _ if state.is_told() => tracing::error!(
                        ino,
                        stored,
                        "closed before all came to its place: the journal has what was synced, for \
                         the next mount to bring there"
                    ),
                    Ok(()) => tracing::error!(
                        ino,
                        stored,
                        "closed without what did not fit on the disk: make room and write it again"
                    ),
                    Err(error) => tracing::error!(
                        ino,
                        stored,
                        %error,
                        "closed with a failed commit: what was written last is lost; write it again"
                    ),
                }
                return true;
            }
            self.latched.load(Ordering::Acquire)
        });
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.blocks.clear();
        self.count_dirty(&mut state);
    }
}
