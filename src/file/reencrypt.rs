//! A new file key for a file that is there, while it is used.
//!
//! The file goes under it part by part, from its beginning on. Each part is a commit like any
//! other: the blocks of the part and the nodes above them are sealed under the new key, and the
//! header says up to where that is so, and has both keys. A crash leaves what the last commit says;
//! whoever reads or writes in between meets one key or the other by where it is. Between two parts
//! anybody has the file.

use rustix::io::Errno;

use crate::cipher::Plain;
use crate::file::commit::span_len;
use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::state::{Body, State};
use crate::format::bytes::to_usize;
use crate::format::geometry::FANOUT;
use crate::format::header::Former;
use crate::format::ids::Epoch;
use crate::format::node::{ENTRIES, Entry};

/// Bytes of a part: a record of the journal has to hold it, and who wants the file waits for it.
const PART_LEN: u64 = 4 << 20;

impl File {
    /// Brings the next part of a file whose header is of an epoch below `below` under a new key, of
    /// the current epoch. Returns how many bytes were sealed anew; `None`: there is nothing to do.
    ///
    /// # Errors
    /// As a commit has; [`FileError::Damaged`] for a part that does not open, which stays as it is.
    pub(in crate::file) fn reencrypt_part(&self, below: Epoch) -> Result<Option<u64>, FileError> {
        if !self.needs_new_key(below) {
            return Ok(None);
        }
        if !self.state()?.blob.is_protected() && self.volume().journaled.is_some() {
            // What is written over in place must not be what a crash comes back to.
            self.sync(false)?;
        }
        let mut state = self.state_to_write()?;
        if state.prefix.epoch >= below && state.cipher.former().is_none() {
            return Ok(None);
        }
        if let Body::Inline(content) = &state.body {
            let len = content.len() as u64;
            self.renew_header(&mut state)?;
            return Ok(Some(len));
        }
        if !state.blob.is_protected() {
            return Err(FileError::Sys(Errno::AGAIN));
        }
        if !self.volume().has_room(to_usize(PART_LEN)) {
            // What has no room in the journal would be in the way of each later commit.
            return Err(FileError::Sys(Errno::NOSPC));
        }
        self.commit_state(&mut state)?;
        if state.prefix.epoch >= below && state.cipher.former().is_none() {
            // What was under the former key was cut off.
            return Ok(Some(0));
        }
        self.begin_new_key(&mut state);
        let sealed = self.seal_part(&mut state)?;
        self.commit_header(&mut state)?;
        Ok(Some(sealed))
    }

    /// Whether a part of it is under the key that it has had.
    pub(in crate::file) fn is_under_two_keys(&self) -> bool {
        self.state_anyway().cipher.former().is_some()
    }

    fn needs_new_key(&self, below: Epoch) -> bool {
        let state = self.state_anyway();
        state.prefix.epoch < below || state.cipher.former().is_some()
    }

    fn begin_new_key(&self, state: &mut State) {
        if state.cipher.former().is_some() {
            return;
        }
        let keys = self.volume().keys();
        let (cipher, wrapped_key) = keys.new_file(state.prefix.file_id);
        let had = std::mem::replace(&mut state.cipher, cipher);
        let (epoch, had_wrapped) = (state.prefix.epoch, state.prefix.wrapped_key);
        state.cipher.add_former(had, Former { from: 0, epoch, wrapped_key: had_wrapped });
        (state.prefix.epoch, state.prefix.wrapped_key) = (keys.current(), wrapped_key);
    }

    /// Seals the next part under the new key, which reaches to its end from then on. Nothing is
    /// dirty before. Returns how many bytes.
    fn seal_part(&self, state: &mut State) -> Result<u64, FileError> {
        let ino = self.ino();
        let count = state.geometry().block_count(state.length);
        let from = state.cipher.former().map_or(count, |former| former.from.min(count));
        let (Some(tree), ground) = (state.tree(), state.ground(ino)) else { return Ok(0) };
        let Some(first) = tree.find(ground, from, count, true)? else {
            // Holes alone are left, and no node.
            state.cipher.leave_former(count);
            return Ok(0);
        };
        let size = state.prefix.block_size;
        let end = count.min(first + PART_LEN / size.bytes());
        let mut entries = vec![Entry::HOLE; to_usize(end - first)];
        tree.entries(ground, first, &mut entries)?;
        let mut plain = Plain::zeros(span_len(first, end, state));
        self.fill(state, tree, first, end, &mut plain)?;
        let (tree, ground) = state.tree_mut(ino);
        tree.renew(ground, (from, first, end))?;
        state.cipher.leave_former(end);
        let sealed = self.seal_data(state, first, &plain, &entries);
        // Half a part is under neither key: what the store has is good.
        sealed.inspect_err(|error| self.latch(&state.blob, error))
    }

    /// Seals those blocks from `first` on that are there, as `entries` says.
    fn seal_data(
        &self,
        state: &mut State,
        first: u64,
        plain: &[u8],
        entries: &[Entry],
    ) -> Result<u64, FileError> {
        let (size, end) = (state.prefix.block_size, first + entries.len() as u64);
        let (mut sealed, mut block) = (0, first);
        while block < end {
            let at = to_usize(block - first);
            let run_left = to_usize(FANOUT - block % FANOUT);
            let there = |entry: &&Entry| entry.is_hole() == entries[at].is_hole();
            let len = entries[at..].iter().take(run_left).take_while(there).count();
            if !entries[at].is_hole() {
                let part = at * size.len()..((at + len) * size.len()).min(plain.len());
                sealed += part.len() as u64;
                self.seal_blocks_anew(state, block, &plain[part], len)?;
            }
            block += len as u64;
        }
        Ok(sealed)
    }

    fn seal_blocks_anew(
        &self,
        state: &mut State,
        first: u64,
        plain: &[u8],
        count: usize,
    ) -> Result<(), FileError> {
        let (size, volume) = (state.prefix.block_size, self.volume());
        let mut entries = [Entry::HOLE; ENTRIES];
        let entries = &mut entries[..count];
        let sealed = volume.pool.seal_blocks(&state.cipher, size, first, plain, entries);
        volume.counters.blocks_sealed.add(count as u64);
        self.store_run(state, first, &sealed, 0..plain.len(), entries)
    }
}
