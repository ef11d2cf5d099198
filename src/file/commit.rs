//! Making the store say what memory says: dirty blocks, then nodes from the leaves up, then the
//! header. What shortens the lower file comes after the header, what lengthens it before: at no
//! moment is the lower file shorter than its header says.

use std::ops::Range;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use crate::cipher::{Plain, Sealed};
use crate::file::cache::Key;
use crate::file::checkpoint::Journaled;
use crate::file::content::File;
use crate::file::error::{FileError, Spot};
use crate::file::stage::Stage;
use crate::file::staged::Birth;
use crate::file::stat::Time;
use crate::file::state::{Body, State};
use crate::file::written::Written;
use crate::format::bytes::to_usize;
use crate::format::geometry::{FANOUT, Geometry};
use crate::format::header::{self, PAYLOAD_FIXED_BYTES, TREE_PAYLOAD_LEN};
use crate::format::node::{self, ENTRIES, Entry, NODE_LEN};
use crate::store::{Blob, SetAttr, SetTime, UNRENEWED, is_full, leave};

/// A commit this soon after the write, in nanoseconds, needs not set the time of the write: a
/// disk's own times come from a clock that ticks as slowly (4 ms at 250 Hz).
const TICK_NS: u64 = 4_000_000;

impl File {
    /// Seals and stores everything that was written, unless the journal has been told of it. The
    /// store then has it all, though it may not be on its disk yet.
    ///
    /// # Errors
    /// The store's; what could not be stored stays in memory.
    pub fn commit(&self) -> Result<(), FileError> {
        // A file that is refused is refused here too: close(2) and rename(2) have to hear of it.
        if self.state()?.is_stored() {
            return Ok(());
        }
        self.with_room(|| {
            let mut state = self.state_mut()?;
            self.commit_state(&mut state)
        })
    }

    /// Has the store get everything that was written in the way that costs a sync least. Returns
    /// generation and last record of the file with it.
    fn store(&self) -> Result<(u64, u64), FileError> {
        let mut state = self.state_mut()?;
        if state.dirty {
            let told = self.tell(&mut state);
            let told = told.inspect_err(|error| self.latch_for(&state.blob, error))?;
            if !told {
                self.commit_state(&mut state)?;
            }
        }
        Ok((state.generation, state.blob.number()))
    }

    /// Refuses the file after any error of the store but for want of space, or of a lease.
    fn latch_for(&self, blob: &Stage, error: &FileError) {
        if let FileError::Sys(error) = error
            && !is_full(*error)
        {
            self.latch_after(blob, error);
        }
    }

    /// Refuses the file after a call that failed. One that was not made, as the lease could not be
    /// renewed, leaves all as it was.
    pub(in crate::file) fn latch_after(&self, blob: &Stage, error: &Errno) {
        if *error != UNRENEWED {
            self.latch(blob, error);
        }
    }

    /// Commits, and returns when all of it survives a power cut; `data_only` may leave out times
    /// (fdatasync(2)).
    ///
    /// # Errors
    /// The store's. After a failed sync nobody knows what is on the disk, so the file answers
    /// [`FileError::Latched`] until it is opened anew.
    pub fn sync(&self, data_only: bool) -> Result<(), FileError> {
        self.volume().check_lease()?;
        let stored = self.with_room(|| self.store())?;
        let synced = self.sync_committed(data_only);
        self.volume().counters.syncs.add(1);
        synced?;
        let state = self.state()?;
        if state.is_stored() && (state.generation, state.blob.number()) == stored {
            // Nothing was written meanwhile, nor is it while the state is held for reading.
            state.settled.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Where it is stored.
    pub fn spot(&self) -> Spot {
        Spot::of(self.ino(), &self.state_anyway().blob)
    }

    /// Whether something was written that the store does not have yet, or never got.
    pub fn is_dirty(&self) -> bool {
        !self.state_anyway().is_stored()
    }

    /// It could not be made: whoever asked for it hears why, and nothing was lost with it.
    pub(in crate::file) fn discard(&self) {
        if let Ok(mut state) = self.state_mut() {
            state.dirty = false;
        }
    }

    pub(in crate::file) fn commit_state(&self, state: &mut State) -> Result<(), FileError> {
        if !state.dirty {
            return Ok(());
        }
        self.volume().check_lease()?;
        let _appending = self.volume().journaled.as_ref().map(Journaled::appending);
        // What was told has its time already, or one that was set since.
        let keeps_time = state.is_told() && state.mtime.is_none();
        let mtime = if keeps_time { Some(mtime_of(&state.blob)?) } else { None };
        let mut done = self.write_all(state);
        if let Some(mtime) = mtime {
            let kept = set_mtime(&state.blob, mtime);
            done = done.and(kept);
        }
        if let Err(error) = &done {
            state.note_stored_len();
            self.latch_for(&state.blob, error);
        }
        self.volume().counters.commits.add(1);
        self.count_dirty(state);
        self.keep_pending(state);
        done
    }

    /// A file with changes in the journal stays open until they are in place.
    fn keep_pending(&self, state: &State) {
        if let Some(journaled) = &self.volume().journaled
            && state.blob.has_pending()
            && let Some(file) = self.volume().opened(self.ino())
        {
            journaled.keep(self.ino(), file);
        }
    }

    pub(in crate::file) fn write_all(&self, state: &mut State) -> Result<(), FileError> {
        self.seal_blocks(state)?;
        if let Body::Tree(_) = &state.body {
            let (tree, ground) = state.tree_mut(self.ino());
            tree.seal_nodes(ground)?;
        }
        let wanted = state.geometry().stored_len(state.length);
        if wanted > state.stored_len && !Geometry::is_inline(state.length) {
            state.blob.set_len(wanted)?;
            state.stored_len = wanted;
        }
        self.write_header(state)?;
        state.blob.commit(&state.subject(self.ino()), wanted)?;
        if wanted < state.stored_len {
            state.blob.set_len(wanted)?;
        }
        state.stored_len = wanted;
        for range in std::mem::take(&mut state.unused) {
            self.give_back(state, range)?;
        }
        state.committed_len = state.length;
        if state.is_past_former() {
            state.cipher.forget_former();
        }
        self.store_mtime(state)?;
        state.dirty = false;
        state.written = Written::nothing();
        Ok(())
    }

    /// Frees the stored bytes of those blocks that are holes.
    fn give_back(&self, state: &State, mut blocks: Range<u64>) -> Result<(), FileError> {
        let (Some(tree), ground) = (state.tree(), state.ground(self.ino())) else { return Ok(()) };
        while let Some(first) = tree.find(ground, blocks.start, blocks.end, false)? {
            let data = tree.find(ground, first, blocks.end, true)?.unwrap_or(blocks.end);
            let end = data.min((first / FANOUT + 1) * FANOUT);
            let len = (end - first) * state.prefix.block_size.bytes();
            let punched = state.blob.punch(state.geometry().block_offset(first), len);
            leave(punched, "space of a hole");
            blocks.start = end;
        }
        Ok(())
    }

    pub(in crate::file) fn store_mtime(&self, state: &mut State) -> Result<(), FileError> {
        let Some(mtime) = state.mtime.take() else { return Ok(()) };
        let soon = Time::now().ns_since(mtime) < TICK_NS;
        let soon = soon && !state.mtime_seen.load(Ordering::Relaxed);
        let mtime = match soon {
            false => SetTime::At(mtime.s, mtime.ns),
            // What went to the journal has touched no time of the stored file.
            true if state.blob.is_protected() => SetTime::Now,
            true => return Ok(()),
        };
        set_mtime(&state.blob, mtime)
    }

    fn write_header(&self, state: &mut State) -> Result<(), FileError> {
        let keys = self.volume().keys();
        self.follow(state, &keys)?;
        let mut payload = match &state.body {
            Body::Inline(content) => {
                let mut payload = Plain::zeros(PAYLOAD_FIXED_BYTES + content.len());
                payload[PAYLOAD_FIXED_BYTES..].copy_from_slice(content);
                payload
            }
            Body::Tree(tree) => {
                assert!(!tree.has_dirty_nodes(), "nodes are sealed before the header");
                let former = state.cipher.former().filter(|_| !state.is_past_former());
                let former = former.map(header::encode_former);
                let rest = former.as_ref().map_or(&[][..], |former| former);
                let mut payload = Plain::zeros(TREE_PAYLOAD_LEN + rest.len());
                let (top, room) = payload[PAYLOAD_FIXED_BYTES..]
                    .split_first_chunk_mut::<NODE_LEN>()
                    .expect("it is longer than a node");
                node::encode(tree.top(), top);
                room.copy_from_slice(rest);
                payload
            }
        };
        let fixed = header::encode_payload(state.generation + 1, state.length);
        payload[..PAYLOAD_FIXED_BYTES].copy_from_slice(&fixed);
        state.prefix.payload_len = u16::try_from(payload.len()).expect("at most 3972");
        let sealed = keys.seal_header(&state.cipher, &state.prefix, &payload);
        let len = sealed.as_bytes().len();
        state.blob.write_at(0, &sealed, 0..len)?;
        state.stored_len = state.stored_len.max(len as u64);
        state.generation += 1;
        if state.begins
            && let Some(journaled) = &self.volume().journaled
        {
            let birth = Birth { subject: state.subject(self.ino()), header: sealed };
            if let Some(birth) = state.blob.keep_birth(birth) {
                journaled.born(birth).map_err(|(error, _)| error)?;
            }
        }
        state.begins = false;
        Ok(())
    }

    /// Seals and stores the dirty blocks; their entries are in the tree after that. They stay in
    /// the cache: they were written in part, so the next part is likely to come.
    pub(in crate::file) fn seal_blocks(&self, state: &mut State) -> Result<(), FileError> {
        while let Some((&first, _)) = state.blocks.first_key_value() {
            let run_end = (first / FANOUT + 1) * FANOUT;
            let limit = run_end.min(first + self.volume().blocks_per_request(state));
            let in_row = (first..limit).zip(state.blocks.range(first..limit));
            let count = in_row.take_while(|(block, (at, _))| block == *at).count();
            self.seal_group(state, first, count)?;
            for block in first..first + count as u64 {
                let mut plain = state.blocks.remove(&block).expect("counted above");
                plain.resize(state.geometry().block_len(block, state.length));
                self.keep_block(block, plain);
            }
        }
        Ok(())
    }

    fn seal_group(&self, state: &mut State, first: u64, count: usize) -> Result<(), FileError> {
        let size = state.prefix.block_size;
        let last = first + count as u64 - 1;
        let last_len = state.geometry().block_len(last, state.length);
        assert!(last_len > 0, "no dirty block lies beyond the end");
        let len = (count - 1) * size.len() + last_len;
        let mut entries = [Entry::HOLE; ENTRIES];
        let entries = &mut entries[..count];
        let pool = &self.volume().pool;
        let sealed = if count == 1 {
            pool.seal_blocks(&state.cipher, size, first, &state.blocks[&first][..len], entries)
        } else {
            let mut group = Plain::zeros(len);
            for (part, (_, plain)) in group.chunks_mut(size.len()).zip(state.blocks.range(first..))
            {
                part.copy_from_slice(&plain[..part.len()]);
            }
            pool.seal_blocks(&state.cipher, size, first, &group, entries)
        };
        self.volume().counters.blocks_sealed.add(count as u64);
        self.store_run(state, first, &sealed, 0..len, entries)
    }

    /// Stores sealed blocks of one run and enters them into the tree.
    pub(in crate::file) fn store_run(
        &self,
        state: &mut State,
        first: u64,
        sealed: &Sealed,
        part: Range<usize>,
        entries: &[Entry],
    ) -> Result<(), FileError> {
        let offset = state.geometry().block_offset(first);
        let end = offset + part.len() as u64;
        let (tree, ground) = state.tree_mut(self.ino());
        tree.prepare(ground, first)?;
        let stored = state.blob.write_at(offset, sealed, part);
        stored.inspect_err(|_| state.note_stored_len())?;
        state.stored_len = state.stored_len.max(end);
        let (tree, ground) = state.tree_mut(self.ino());
        tree.set(ground, first, entries)
    }

    /// Keeps a block's plaintext for the next request for a part of it.
    pub(in crate::file) fn keep_block(&self, block: u64, plain: Plain) {
        let volume = self.volume();
        volume.cache.put(self.key(block), plain, &volume.counters);
        self.note_cached(block);
    }

    pub(in crate::file) fn key(&self, block: u64) -> Key {
        Key { file: self.number(), block }
    }
}

pub(in crate::file) fn mtime_of(blob: &Stage) -> Result<SetTime, FileError> {
    let stat = rustix::fs::fstat(blob)?;
    Ok(SetTime::At(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)))
}

pub(in crate::file) fn set_mtime(blob: &Stage, mtime: SetTime) -> Result<(), FileError> {
    let set = SetAttr { mtime: Some(mtime), ..SetAttr::default() };
    Ok(set.apply_to(blob)?)
}

/// Bytes of a block range, for buffers.
pub(in crate::file) fn span_len(first: u64, end: u64, state: &State) -> usize {
    let geometry = state.geometry();
    to_usize(geometry.block_start(end).min(state.length) - geometry.block_start(first))
}
