//! An open file: writing, lengthening, cutting.

use crate::cipher::Plain;
use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::state::{Body, State};
use crate::file::tree::Tree;
use crate::format::bytes::to_usize;
use crate::format::geometry::{FANOUT, Geometry};
use crate::format::header::Prefix;
use crate::format::node::{ENTRIES, Entry};
use crate::store::is_full;

/// Bytes of dirty blocks of one file before they are stored ahead of the commit.
const DIRTY_LEN_MAX: usize = 1 << 20;
/// The same where they lie here and there: the more there are, the fewer nodes are sealed for each.
const SCATTERED_LEN_MAX: usize = 8 << 20;
/// Dirty blocks, at most: where each lies far from the others, a commit has three nodes for it, and
/// its record has to stay within `BODY_LEN_MAX`.
const DIRTY_BLOCKS_MAX: usize = 512;
/// Bytes that a file which goes on in place may still write there at once: what is staged of it,
/// and as much of what is pending.
const VOID_ROOM: usize = 8 << 20;

impl File {
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// The store's, [`FileError::TooLarge`], or [`FileError::Damaged`] if a block of which only a
    /// part is written does not open.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), FileError> {
        self.change(data.len(), |state, _| self.write_state(state, offset, data, || {}))
    }

    /// Writes all of `data` at the end; returns where that was. No other write comes between.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn append(&self, data: &[u8]) -> Result<u64, FileError> {
        self.change(data.len(), |state, _| {
            let offset = state.length;
            self.write_state(state, offset, data, || {})?;
            Ok(offset)
        })
    }

    /// Calls `accept` when nothing but the store can make the write fail any more, if there is much
    /// to do from then on.
    pub(in crate::file) fn write_state(
        &self,
        state: &mut State,
        offset: u64,
        data: &[u8],
        accept: impl FnOnce(),
    ) -> Result<(), FileError> {
        self.write_accepted(state, offset, data, accept)?;
        if state.blob.is_pressed() { self.commit_state(state) } else { Ok(()) }
    }

    /// The same, however much waits for a commit.
    pub(in crate::file) fn write_uncommitted(
        &self,
        state: &mut State,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FileError> {
        self.write_accepted(state, offset, data, || {})
    }

    fn write_accepted(
        &self,
        state: &mut State,
        offset: u64,
        data: &[u8],
        accept: impl FnOnce(),
    ) -> Result<(), FileError> {
        let counters = &self.volume().counters;
        counters.writes.add(1);
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(data.len() as u64).ok_or(FileError::TooLarge)?;
        if end > state.geometry().length_max() {
            return Err(FileError::TooLarge);
        }
        self.leave_void(state)?;
        state.touched();
        let before = state.length;
        if end > before {
            self.grow(state, end).inspect_err(|_| state.written.blur())?;
        }
        if let Body::Inline(content) = &mut state.body {
            content[to_usize(offset)..to_usize(end)].copy_from_slice(data);
            state.written.note(offset..end);
        } else {
            let written = self.write_blocks(state, offset, data, accept);
            self.count_dirty(state);
            if let Err(error) = written {
                state.written.blur();
                // What was not written must not show as zeros at the end.
                if state.length > before {
                    self.cut(state, before)?;
                }
                return Err(error);
            }
        }
        counters.written_bytes.add(data.len() as u64);
        Ok(())
    }

    /// Lets a file that was cut to nothing go on in place, if enough was written to it since, and
    /// the disk has plenty of room. What was there before is lost then, which the journal says
    /// durably first.
    fn leave_void(&self, state: &mut State) -> Result<(), FileError> {
        if let Some(journaled) = &self.volume().journaled
            && let Some(birth) = state.blob.take_birth()
        {
            if !self.volume().has_room(VOID_ROOM) {
                // Half way there, what is in the journal alone would count no more.
                state.blob.keep_birth(birth);
                return Ok(());
            }
            let _appending = journaled.appending();
            let begun = match journaled.born(birth) {
                Err((error, birth)) if is_full(error) => {
                    // It stays void: nothing has changed, and the next write tries again.
                    state.blob.keep_birth(birth);
                    return Err(error.into());
                }
                begun => begun.map_err(|(error, _)| error),
            };
            let begun = begun.and_then(|number| journaled.journal.sync_to(number));
            let gone = begun.and_then(|()| state.blob.go_in_place());
            state.stored_len = gone.inspect_err(|error| self.latch(&state.blob, error))?;
        }
        Ok(())
    }

    fn write_blocks(
        &self,
        state: &mut State,
        mut offset: u64,
        mut data: &[u8],
        accept: impl FnOnce(),
    ) -> Result<(), FileError> {
        let (geometry, size) = (state.geometry(), state.prefix.block_size.len());
        let later = if self.reads_before(state, offset, data.len() as u64) {
            Some(accept)
        } else {
            accept();
            None
        };
        while !data.is_empty() {
            let block = geometry.block_of(offset);
            let within = to_usize(offset - geometry.block_start(block));
            let done = if within == 0 && data.len() >= size {
                state.written.blur();
                let run_left = to_usize(FANOUT - block % FANOUT);
                let count = (data.len() / size).min(run_left);
                self.write_whole(state, block, &data[..count * size])?;
                count * size
            } else {
                let part = data.len().min(size - within);
                self.reserve_block(state, block, within + part)?;
                let covers_all = within == 0 && offset + part as u64 >= state.length;
                if covers_all && !state.blocks.contains_key(&block) {
                    self.forget_block(block);
                    state.blocks.insert(block, Plain::zeros(size));
                }
                let plain = self.dirty_block(state, block)?;
                plain[within..within + part].copy_from_slice(&data[..part]);
                state.written.note(offset..offset + part as u64);
                part
            };
            offset += done as u64;
            data = &data[done..];
        }
        if let Some(accept) = later {
            accept();
        }
        self.store_ahead(state)
    }

    /// Whether blocks have to be read for a write, as it covers them in part.
    fn reads_before(&self, state: &State, offset: u64, len: u64) -> bool {
        let (geometry, size) = (state.geometry(), state.prefix.block_size.bytes());
        let end = offset + len;
        let reads = |at: u64| !state.blocks.contains_key(&geometry.block_of(at));
        let (head, tail) = (!offset.is_multiple_of(size), !end.is_multiple_of(size));
        head && reads(offset) || tail && end < state.length && reads(end)
    }

    /// Stores dirty blocks ahead of the commit, if they are many, here or in all files.
    pub(in crate::file) fn store_ahead(&self, state: &mut State) -> Result<(), FileError> {
        self.count_dirty(state);
        let size = state.prefix.block_size.len();
        let own = state.blocks.len() * size;
        let span = match (state.blocks.first_key_value(), state.blocks.last_key_value()) {
            (Some((first, _)), Some((last, _))) => last - first + 1,
            _ => 0,
        };
        let is_scattered = span > 2 * state.blocks.len() as u64;
        // Of what the journal can be told there is no hurry.
        let is_told = state.written.is_exact() && state.blob.is_protected();
        let own_max = match is_scattered || is_told {
            true => SCATTERED_LEN_MAX.min(DIRTY_BLOCKS_MAX * size),
            false => DIRTY_LEN_MAX,
        };
        if own > own_max || (own > 0 && self.volume().is_pressed()) {
            state.written.blur();
            self.seal_blocks(state)?;
        }
        Ok(())
    }

    /// Seals and stores whole blocks of one run at once.
    fn write_whole(&self, state: &mut State, first: u64, data: &[u8]) -> Result<(), FileError> {
        let size = state.prefix.block_size;
        let count = data.len() / size.len();
        if state.blob.is_protected() {
            self.reserve_block(state, first, data.len())?;
        }
        let mut entries = [Entry::HOLE; ENTRIES];
        let entries = &mut entries[..count];
        let pool = &self.volume().pool;
        let sealed = pool.seal_blocks(&state.cipher, size, first, data, entries);
        self.volume().counters.blocks_sealed.add(count as u64);
        for block in first..first + count as u64 {
            self.forget_block(block);
        }
        let stored = self.store_run(state, first, &sealed, 0..data.len(), entries);
        if let Err(FileError::Sys(error)) = stored
            && is_full(error)
        {
            self.keep_written_over(state, first, data)?;
        }
        stored?;
        for block in first..first + count as u64 {
            state.blocks.remove(&block);
        }
        Ok(())
    }

    /// A disk that is full may have taken a part, over blocks that are stored: with what is in
    /// memory alone they can be stored again, for which they have their room. Blocks that were not
    /// there are nobody's.
    fn keep_written_over(
        &self,
        state: &mut State,
        first: u64,
        data: &[u8],
    ) -> Result<(), FileError> {
        for (block, bytes) in (first..).zip(data.chunks(state.prefix.block_size.len())) {
            if !self.is_hole(state, block)? {
                state.blocks.insert(block, Plain::copy_of(bytes));
            }
        }
        Ok(())
    }

    /// Lengthens the file by a hole.
    pub(in crate::file) fn grow(&self, state: &mut State, length: u64) -> Result<(), FileError> {
        assert!(length > state.length, "the caller compared them");
        let geometry = state.geometry();
        if matches!(state.body, Body::Inline(_)) && !Geometry::is_inline(length) {
            self.reserve_block(state, 0, to_usize(state.length))?;
        }
        if let Body::Inline(content) = &mut state.body {
            if Geometry::is_inline(length) {
                content.resize(to_usize(length));
                state.length = length;
                return Ok(());
            }
            let mut block = std::mem::replace(content, Plain::zeros(0));
            block.resize(state.prefix.block_size.len());
            if state.length > 0 {
                state.blocks.insert(0, block);
            }
            state.body = Body::Tree(Tree::empty(geometry.levels(length)));
        } else {
            let tail = geometry.block_of(state.length);
            let partial = !state.length.is_multiple_of(geometry.block_size().bytes());
            if partial && !self.is_hole(state, tail)? {
                // The stored block is as long as the file reached: it has to be sealed anew.
                self.reserve_block(state, tail, geometry.block_len(tail, length))?;
                self.dirty_block(state, tail)?;
            } else if partial {
                self.forget_block(tail);
            }
            let (tree, ground) = state.tree_mut(self.ino());
            tree.grow(ground, geometry.levels(length))?;
        }
        state.length = length;
        Ok(())
    }

    /// Whether nothing was ever written to a block, in the store or in memory.
    pub(in crate::file) fn is_hole(&self, state: &State, block: u64) -> Result<bool, FileError> {
        let Some(tree) = state.tree() else { return Ok(false) };
        let mut entry = [Entry::HOLE];
        tree.entries(state.ground(self.ino()), block, &mut entry)?;
        Ok(entry[0].is_hole() && !state.blocks.contains_key(&block))
    }

    /// Cuts the file, or lengthens it by a hole.
    ///
    /// # Errors
    /// The store's, [`FileError::TooLarge`], or [`FileError::Damaged`] if the block at the new
    /// end does not open; a file can be cut to 0 in any state.
    pub fn set_len(&self, length: u64) -> Result<(), FileError> {
        let mut state = self.state_to_write()?;
        self.set_len_state(&mut state, length)
    }

    /// The same, and commits it. Where the journal has no room for that, the file is as it was.
    ///
    /// # Errors
    /// As [`Self::set_len`] and [`Self::commit`].
    pub fn commit_len(&self, length: u64) -> Result<(), FileError> {
        self.with_room(|| self.try_commit_len(length))
    }

    fn try_commit_len(&self, length: u64) -> Result<(), FileError> {
        let mut state = self.state_to_write()?;
        let former = if length > 0 { state.former() } else { None };
        let changed = self.set_len_state(&mut state, length);
        let changed = changed.and_then(|()| self.commit_state(&mut state));
        if let (Err(FileError::Sys(error)), Some(former)) = (&changed, former)
            && is_full(*error)
            && state.go_back(former)
        {
            self.forget_all();
            self.count_dirty(&mut state);
        }
        changed
    }

    fn set_len_state(&self, state: &mut State, length: u64) -> Result<(), FileError> {
        if length > state.geometry().length_max() {
            return Err(FileError::TooLarge);
        }
        if length == 0 {
            return self.start_afresh(state);
        }
        state.changed();
        if length > state.length {
            self.grow(state, length)?;
        } else if length < state.length {
            self.cut(state, length)?;
        }
        self.count_dirty(state);
        Ok(())
    }

    /// An empty file under a new file key. It is stored at once: what is written next lands where
    /// the old blocks are, and must not meet the old header after a crash.
    fn start_afresh(&self, state: &mut State) -> Result<(), FileError> {
        let keys = self.volume().keys();
        self.forget_all();
        let held = state.blob.restart()?;
        let (cipher, wrapped_key) = keys.new_file(state.prefix.file_id);
        let prefix = Prefix { wrapped_key, epoch: keys.current(), ..state.prefix.clone() };
        let former = (
            std::mem::replace(&mut state.cipher, cipher),
            std::mem::replace(&mut state.prefix, prefix),
            std::mem::replace(&mut state.body, Body::Inline(Plain::zeros(0))),
            (std::mem::take(&mut state.blocks), std::mem::take(&mut state.unused)),
            (state.length, state.generation, state.stored_len),
            (state.begins, state.dirty, state.mtime),
        );
        state.length = 0;
        state.begins = true;
        state.changed();
        let committed = self.commit_state(state);
        if let (Err(FileError::Sys(error)), Some(held)) = (&committed, held)
            && is_full(*error)
        {
            // As ext4 has it: what can't be cut stays as it was.
            state.blob.go_back(held);
            (
                state.cipher,
                state.prefix,
                state.body,
                (state.blocks, state.unused),
                (state.length, state.generation, state.stored_len),
                (state.begins, state.dirty, state.mtime),
            ) = former;
            self.count_dirty(state);
        }
        committed
    }

    pub(in crate::file) fn cut(&self, state: &mut State, length: u64) -> Result<(), FileError> {
        let geometry = state.geometry();
        if let Body::Inline(content) = &mut state.body {
            content.resize(to_usize(length));
            state.length = length;
            return Ok(());
        }
        if Geometry::is_inline(length) {
            let mut content = self.load_block(state, 0)?;
            content.resize(to_usize(length));
            self.forget_all();
            state.blocks.clear();
            state.unused.clear();
            state.body = Body::Inline(content);
            state.length = length;
            return Ok(());
        }
        let count = geometry.block_count(length);
        let kept = length - geometry.block_start(count - 1);
        if kept < geometry.block_size().bytes() && !self.is_hole(state, count - 1)? {
            self.dirty_block(state, count - 1)?[to_usize(kept)..].fill(0);
        }
        self.forget_all();
        state.blocks.split_off(&count);
        let (tree, ground) = state.tree_mut(self.ino());
        tree.cut(ground, count, geometry.levels(length))?;
        state.length = length;
        Ok(())
    }
}
