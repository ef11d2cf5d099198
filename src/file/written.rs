//! Making durable what was written without a commit: the journal gets the bytes themselves, instead
//! of the blocks, nodes and header that they are in.
//!
//! A commit stores a block for each byte that was written, the nodes above it and the header: 24
//! KiB for 4 KiB. A program that syncs after each write waits for that. So fsync has the journal
//! tell the bytes, if little was written, and leaves the commit to the next checkpoint, which
//! does it once for all that was told. Until then the blocks stay dirty in memory.

use std::ops::Range;

use crate::cipher::Plain;
use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::state::{Body, State};
use crate::format::bytes::to_usize;
use crate::format::journal::{self, Extent};

/// Ranges that one record tells, at most.
const RANGES_MAX: usize = 64;
/// Bytes that one record tells, at most: for more, a commit costs less, as it is done anyway.
const TOLD_LEN_MAX: u64 = 128 << 10;

/// What was written since the last commit.
#[derive(Clone, Debug)]
pub(in crate::file) struct Written {
    /// Nothing else was done, and all of it is in dirty blocks or in the header's content.
    only: bool,
    /// What the journal has not been told.
    ranges: Vec<Range<u64>>,
    /// The segment of the journal that was told of some.
    told: Option<usize>,
}

impl Written {
    /// Right after a commit.
    pub(in crate::file) fn nothing() -> Self {
        Self { only: true, ranges: Vec::new(), told: None }
    }

    /// Of a file that was never committed.
    pub(in crate::file) fn all() -> Self {
        Self { only: false, ..Self::nothing() }
    }

    /// Bytes were written into dirty blocks.
    pub(in crate::file) fn note(&mut self, range: Range<u64>) {
        if !self.only {
            return;
        }
        let count = self.ranges.len();
        match self.ranges.last_mut() {
            Some(last) if (last.start..=last.end).contains(&range.start) => {
                last.end = last.end.max(range.end);
            }
            _ if count < RANGES_MAX => self.ranges.push(range),
            _ => self.blur(),
        }
    }

    /// Something was done that takes a commit.
    pub(in crate::file) fn blur(&mut self) {
        self.only = false;
        self.ranges.clear();
    }

    /// Whether everything since the last commit is known.
    pub(in crate::file) fn is_exact(&self) -> bool {
        self.only
    }

    fn is_all_told(&self) -> bool {
        self.only && self.ranges.is_empty()
    }
}

impl State {
    /// Whether the store has everything, in its place or in the journal.
    pub(in crate::file) fn is_stored(&self) -> bool {
        !self.dirty || (self.written.told.is_some() && self.written.is_all_told())
    }

    /// Whether the journal has what a commit has not brought yet.
    pub(in crate::file) fn is_told(&self) -> bool {
        self.dirty && self.written.told.is_some()
    }

    /// The body of a record of what was written; `None` if a block is not there any more.
    fn told(&self, ino: u64) -> Option<Plain> {
        let extent = |range: &Range<u64>| {
            let len = u32::try_from(range.end - range.start).expect("128 KiB at most");
            Extent { offset: range.start, len }
        };
        let extents: Vec<Extent> = self.written.ranges.iter().map(extent).collect();
        let beginning = journal::encode_written(&self.subject(ino), &extents);
        let len: usize = extents.iter().map(|extent| extent.len as usize).sum();
        let mut body = Plain::zeros(beginning.len() + len);
        body[..beginning.len()].copy_from_slice(&beginning);
        let mut rest = &mut body[beginning.len()..];
        for range in &self.written.ranges {
            let (part, next) = rest.split_at_mut(to_usize(range.end - range.start));
            self.copy_written(range.start, part)?;
            rest = next;
        }
        Some(body)
    }

    fn copy_written(&self, mut offset: u64, mut out: &mut [u8]) -> Option<()> {
        let blocks = match &self.body {
            Body::Inline(content) => {
                let start = to_usize(offset);
                out.copy_from_slice(content.get(start..start + out.len())?);
                return Some(());
            }
            Body::Tree(_) => &self.blocks,
        };
        let geometry = self.geometry();
        while !out.is_empty() {
            let block = geometry.block_of(offset);
            let within = to_usize(offset - geometry.block_start(block));
            let part = out.len().min(geometry.block_size().len() - within);
            let (now, next) = out.split_at_mut(part);
            now.copy_from_slice(&blocks.get(&block)?[within..within + part]);
            (offset, out) = (offset + part as u64, next);
        }
        Some(())
    }
}

/// What one record tells: the generation that the file has, offsets and bytes.
pub(in crate::file) type Tale<'a> = (u64, Vec<(u64, &'a [u8])>);

impl File {
    /// Has the journal tell what was written since it was told last. Returns whether it could:
    /// otherwise it takes a commit.
    pub(in crate::file) fn tell(&self, state: &mut State) -> Result<bool, FileError> {
        let Some(journaled) = &self.volume().journaled else { return Ok(false) };
        let len: u64 = state.written.ranges.iter().map(|range| range.end - range.start).sum();
        if !state.written.only || len > TOLD_LEN_MAX || !state.blob.is_even() {
            return Ok(false);
        }
        let Some(file) = self.volume().opened(self.ino()) else { return Ok(false) };
        if !state.written.ranges.is_empty() {
            self.volume().check_lease()?;
            let _appending = journaled.appending();
            let Some(body) = state.told(self.ino()) else { return Ok(false) };
            let placed = journaled.journal.append_written(&body, state.written.told)?;
            // In another segment it would be told, without the first, of a file that never was.
            let Some(placed) = placed else { return Ok(false) };
            state.blob.told(placed.number);
            state.written.ranges.clear();
            state.written.told = Some(placed.segment);
            journaled.keep(self.ino(), file);
            self.store_mtime(state)?;
        }
        Ok(true)
    }

    /// Writes again what a segment of the journal tells of a file that was opened after a crash.
    /// Until the next checkpoint the journal has it.
    ///
    /// # Errors
    /// As [`File::write`]; of a damaged file, what can be written is.
    pub(in crate::file) fn write_told(
        &self,
        segment: usize,
        told: &[Tale<'_>],
    ) -> Result<(), FileError> {
        let mut state = self.state_to_write()?;
        let generation = state.generation;
        if let Some((then, _)) = told.last().filter(|(then, _)| *then > generation) {
            let ino = self.ino();
            let what = "the journal does not lead on from what is stored; its bytes are left out";
            tracing::error!(ino, generation, then, what);
        }
        let counting = told.iter().filter(|(then, _)| *then == generation);
        let extents: Vec<(u64, &[u8])> =
            counting.flat_map(|(_, extents)| extents.iter().copied()).collect();
        if extents.is_empty() {
            return Ok(());
        }
        let damage = self.write_pieces(&mut state, &extents)?;
        // The time of the write is with the stored file, as far as it had to be durable.
        state.mtime = None;
        state.written.ranges.clear();
        state.written.told = Some(segment);
        if let Some(journaled) = &self.volume().journaled
            && let Some(file) = self.volume().opened(self.ino())
        {
            journaled.keep(self.ino(), file);
        }
        damage.map_or(Ok(()), Err)
    }

    /// Writes block by block, and goes on after one that is damaged, which it returns. Commits
    /// nothing: a change in the journal stands for all that was told before it.
    fn write_pieces(
        &self,
        state: &mut State,
        extents: &[(u64, &[u8])],
    ) -> Result<Option<FileError>, FileError> {
        let mut damage = None;
        let mut see = |done: Result<(), FileError>| match done {
            Err(error @ FileError::Damaged(_)) => {
                damage.get_or_insert(error);
                Ok(())
            }
            done => done,
        };
        for &(mut offset, mut bytes) in extents {
            while !bytes.is_empty() {
                let size = state.prefix.block_size.bytes();
                let len = bytes.len().min(to_usize(size - offset % size));
                let (piece, rest) = bytes.split_at(len);
                see(self.write_uncommitted(state, offset, piece))?;
                (offset, bytes) = (offset + len as u64, rest);
            }
        }
        // A block whose node is damaged could not be committed, nor what else is in the journal go.
        for block in state.blocks.keys().copied().collect::<Vec<_>>() {
            let reached = self.is_hole(state, block).map(drop);
            if reached.is_err() {
                state.blocks.remove(&block);
            }
            see(reached)?;
        }
        Ok(damage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_go_on_are_one_and_too_many_are_none() {
        let mut written = Written::nothing();
        assert!(written.is_all_told());
        for range in [10..20, 20..30, 25..28, 5..12] {
            written.note(range);
        }
        assert_eq!(written.ranges, [10..30, 5..12]);
        assert!(written.is_exact() && !written.is_all_told());
        for at in 0..100 {
            written.note(at * 1000..at * 1000 + 1);
        }
        assert!(!written.is_exact() && !written.is_all_told() && written.ranges.is_empty());
        written.note(0..1);
        assert!(written.ranges.is_empty());
    }
}
