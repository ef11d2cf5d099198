//! Blocks that were written to and are not sealed yet. Of a block that is written in part, the rest
//! is read only when somebody needs it: a commit, a read, a write that leaves a gap. A program that
//! syncs after each small write waits for none of that, and one that writes a block piece by piece
//! never has it read.

use std::ops::Range;

use crate::cipher::Plain;
use crate::file::content::File;
use crate::file::error::{FileError, Spot};
use crate::file::state::State;

/// A block that was written to.
#[derive(Debug)]
pub(in crate::file) struct Dirty {
    /// As long as a block; zeros where it is not known.
    plain: Plain,
    /// The part that is known. What is not is as stored.
    known: Range<usize>,
}

impl Dirty {
    /// All of a block, as long as one, with zeros past the end of the file.
    pub(in crate::file) fn whole(plain: Plain) -> Self {
        let known = 0..plain.len();
        Self { plain, known }
    }

    /// A block of `size` bytes of which nothing is known but what is written at `at`.
    fn part(size: usize, at: usize, bytes: &[u8]) -> Self {
        let mut plain = Plain::zeros(size);
        let known = at..at + bytes.len();
        plain[known.clone()].copy_from_slice(bytes);
        Self { plain, known }
    }

    fn is_whole(&self) -> bool {
        self.known.len() == self.plain.len()
    }

    /// Writes where that leaves no gap; whether it did.
    fn extend(&mut self, at: usize, bytes: &[u8]) -> bool {
        let end = at + bytes.len();
        if at > self.known.end || end < self.known.start {
            return false;
        }
        self.plain[at..end].copy_from_slice(bytes);
        self.known = self.known.start.min(at)..self.known.end.max(end);
        true
    }

    /// A part of it; `None` if not all of that is known.
    pub(in crate::file) fn get(&self, part: Range<usize>) -> Option<&[u8]> {
        let known = self.known.start <= part.start && part.end <= self.known.end;
        known.then(|| &self.plain[part])
    }

    /// All of it.
    ///
    /// # Panics
    /// If not all is known.
    pub(in crate::file) fn as_whole(&self) -> &[u8] {
        assert!(self.is_whole(), "completed before");
        &self.plain
    }

    /// The same, to keep.
    ///
    /// # Panics
    /// If not all is known.
    pub(in crate::file) fn into_whole(self) -> Plain {
        assert!(self.is_whole(), "completed before");
        self.plain
    }

    /// Puts what is known over what is stored.
    fn cover(&self, stored: &mut [u8]) {
        let part = self.known.start.min(stored.len())..self.known.end.min(stored.len());
        stored[part.clone()].copy_from_slice(&self.plain[part]);
    }
}

impl File {
    /// Writes a part of one block, which is dirty from now on.
    pub(in crate::file) fn write_part(
        &self,
        state: &mut State,
        block: u64,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        if let Some(dirty) = state.blocks.get_mut(&block) {
            if dirty.extend(at, bytes) {
                return Ok(());
            }
        } else if !self.volume().cache.has(self.key(block)) {
            let size = state.prefix.block_size.len();
            state.blocks.insert(block, Dirty::part(size, at, bytes));
            return Ok(());
        }
        self.dirty_block(state, block)?[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// A block that is being changed, all of it; it is dirty from now on.
    pub(in crate::file) fn dirty_block<'a>(
        &self,
        state: &'a mut State,
        block: u64,
    ) -> Result<&'a mut Plain, FileError> {
        if !state.blocks.get(&block).is_some_and(Dirty::is_whole) {
            let plain = self.load_block(state, block)?;
            self.forget_block(block);
            state.blocks.insert(block, Dirty::whole(plain));
        }
        let dirty = state.blocks.get_mut(&block).expect("inserted above if it was not there");
        Ok(&mut dirty.plain)
    }

    /// Puts what was written to blocks `first` and following over what is stored of them.
    pub(in crate::file) fn cover(&self, state: &State, first: u64, end: u64, plain: &mut Plain) {
        let size = state.prefix.block_size.len();
        for (block, dirty) in state.blocks.range(first..end).filter(|(_, dirty)| !dirty.is_whole())
        {
            let start = usize::try_from(block - first).expect("blocks of one buffer") * size;
            let len = size.min(plain.len() - start);
            dirty.cover(&mut plain[start..start + len]);
        }
    }

    /// Reads the rest of all dirty blocks. One whose rest is damaged can't be stored any more:
    /// what was written to it is given up, and the log says so.
    ///
    /// # Errors
    /// The store's; [`FileError::Damaged`] if blocks were given up.
    pub(in crate::file) fn complete(&self, state: &mut State) -> Result<(), FileError> {
        let parts = state.blocks.iter().filter(|(_, dirty)| !dirty.is_whole());
        let parts: Vec<u64> = parts.map(|(block, _)| *block).collect();
        let mut damage = Ok(());
        for block in parts {
            match self.dirty_block(state, block) {
                Ok(_) => {}
                Err(error @ FileError::Damaged(_)) => {
                    state.blocks.remove(&block);
                    let Spot { ino, path } = Spot::of(self.ino(), &state.blob);
                    let stored = path.map(tracing::field::debug);
                    tracing::error!(
                        ino,
                        stored,
                        block,
                        %error,
                        "a part of this block was written over, the rest is damaged: all of it is \
                         lost; restore the file from a snapshot"
                    );
                    damage = damage.and(Err(error));
                }
                Err(error) => return Err(error),
            }
        }
        damage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_grows_where_it_leaves_no_gap() {
        let mut dirty = Dirty::part(16, 4, &[1; 4]);
        assert_eq!(dirty.get(4..8), Some(&[1; 4][..]));
        assert_eq!(dirty.get(3..8), None);
        assert!(!dirty.extend(9, &[2]) && !dirty.extend(0, &[2; 3]));
        assert!(dirty.extend(8, &[2; 8]) && dirty.extend(2, &[3; 3]));
        assert_eq!(dirty.known, 2..16);
        let mut stored = [9; 10];
        dirty.cover(&mut stored);
        assert_eq!(stored, [9, 9, 3, 3, 3, 1, 1, 1, 2, 2]);
        assert!(!dirty.is_whole() && dirty.extend(0, &[0; 16]) && dirty.is_whole());
    }
}
