//! Ranges of an open file: reserving, punching, zeroing, seeking, copying.

use rustix::io::Errno;

use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::state::{Body, State};
use crate::file::tree::reserve_node;
use crate::format::bytes::to_usize;
use crate::format::geometry::{FANOUT, Geometry, NodeAt};
use crate::store::Blob;

/// Bytes that a copy reads and writes at once.
const COPY_LEN: u64 = 1 << 20;

/// What fallocate(2) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Reserves space, and lengthens the file unless told to keep its size.
    Reserve {
        /// Leave the length as it is.
        keep_size: bool,
    },
    /// Makes a hole, and keeps the size.
    PunchHole,
    /// Makes the range read as zeros, and lengthens the file unless told to keep its size.
    ZeroRange {
        /// Leave the length as it is.
        keep_size: bool,
    },
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that was written.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

impl File {
    /// Reserves, punches or zeroes `len` bytes from `offset` on.
    ///
    /// # Errors
    /// [`FileError::Invalid`] for a length of 0, [`FileError::TooLarge`], or the store's.
    pub fn allocate(&self, mode: Allocate, offset: u64, len: u64) -> Result<(), FileError> {
        self.change(1, |state, _| self.allocate_state(state, mode, offset, len))
    }

    fn allocate_state(
        &self,
        state: &mut State,
        mode: Allocate,
        offset: u64,
        len: u64,
    ) -> Result<(), FileError> {
        let end = offset.checked_add(len).ok_or(FileError::TooLarge)?;
        if len == 0 {
            return Err(FileError::Invalid);
        }
        if end > state.geometry().length_max() {
            return Err(FileError::TooLarge);
        }
        state.changed();
        let grows = match mode {
            Allocate::Reserve { keep_size } => {
                self.reserve(state, offset, end)?;
                !keep_size
            }
            Allocate::PunchHole => {
                self.zero(state, offset, end)?;
                false
            }
            Allocate::ZeroRange { keep_size } => {
                self.zero(state, offset, end)?;
                !keep_size
            }
        };
        if grows && end > state.length {
            self.grow(state, end)?;
        }
        // Whoever makes many holes must not make one record of all of them: recovery reads none
        // that is longer than what a commit has otherwise.
        self.store_ahead(state)?;
        if state.blob.is_pressed() { self.commit_state(state) } else { Ok(()) }
    }

    /// Space in the store for all blocks of the range, so that sealing them can't fail for want
    /// of it. Content that fits into the header has its page already.
    fn reserve(&self, state: &State, offset: u64, end: u64) -> Result<(), FileError> {
        if Geometry::is_inline(end) {
            return Ok(());
        }
        let geometry = state.geometry();
        let (first, last) = (geometry.block_of(offset), geometry.block_of(end - 1));
        let from = geometry.block_offset(first);
        let to = geometry.block_offset(last) + geometry.block_size().bytes();
        state.blob.reserve(from, to - from)?;
        // Slots in between are in that range; that of its first run and those above are not.
        let levels = geometry.levels(end.max(state.length));
        let ground = state.ground(self.ino());
        let mut index = first;
        (0..levels).try_for_each(|level| {
            index /= FANOUT;
            reserve_node(ground, NodeAt { level, index })
        })
    }

    /// Zeros from `offset` to `end` or to the end of the file: parts of blocks are written as
    /// zeros, whole blocks become holes.
    fn zero(&self, state: &mut State, offset: u64, end: u64) -> Result<(), FileError> {
        let end = end.min(state.length);
        if offset >= end {
            return Ok(());
        }
        if let Body::Inline(content) = &mut state.body {
            content[to_usize(offset)..to_usize(end)].fill(0);
            return Ok(());
        }
        let geometry = state.geometry();
        let size = geometry.block_size().bytes();
        let first_whole = offset.div_ceil(size);
        // The last block is whole if all of it that the file has is in the range.
        let end_whole = if end == state.length { end.div_ceil(size) } else { end / size };
        if first_whole > end_whole {
            return self.zero_part(state, offset, end);
        }
        self.zero_part(state, offset, geometry.block_start(first_whole).min(end))?;
        self.zero_part(state, geometry.block_start(end_whole).min(end), end)?;
        let mut gone = state.blocks.split_off(&first_whole);
        let mut kept = gone.split_off(&end_whole);
        state.blocks.append(&mut kept);
        self.forget_range(first_whole..end_whole);
        let mut unused = std::mem::take(&mut state.unused);
        let (tree, ground) = state.tree_mut(self.ino());
        let cleared = tree.clear(ground, first_whole, end_whole, &mut unused);
        state.unused = unused;
        cleared
    }

    /// Writes zeros into a part of one block, unless it is a hole anyway.
    fn zero_part(&self, state: &mut State, offset: u64, end: u64) -> Result<(), FileError> {
        if offset >= end {
            return Ok(());
        }
        let geometry = state.geometry();
        let block = geometry.block_of(offset);
        if self.is_hole(state, block)? {
            return Ok(());
        }
        let start = geometry.block_start(block);
        let part = to_usize(offset - start)..to_usize(end - start);
        self.dirty_block(state, block)?[part].fill(0);
        Ok(())
    }

    /// The first offset from `offset` on that is data, or in a hole.
    ///
    /// # Errors
    /// `ENXIO` past the end, or where no data follows; or the store's.
    pub fn seek(&self, offset: u64, what: Seek) -> Result<u64, FileError> {
        match self.volume().read_only() {
            true => self.patiently(|| self.seek_once(offset, what)),
            false => self.seek_once(offset, what),
        }
    }

    fn seek_once(&self, offset: u64, what: Seek) -> Result<u64, FileError> {
        let state = self.state()?;
        if offset >= state.length {
            return Err(FileError::Sys(Errno::NXIO));
        }
        let Some(tree) = state.tree() else {
            return Ok(if what == Seek::Data { offset } else { state.length });
        };
        let geometry = state.geometry();
        let (mut block, end) = (geometry.block_of(offset), geometry.block_count(state.length));
        let ground = state.ground(self.ino());
        let found = loop {
            // A dirty block is data whatever the tree says.
            let in_tree = tree.find(ground, block, end, what == Seek::Data)?;
            let in_memory = state.blocks.range(block..end).next().map(|(block, _)| *block);
            break match what {
                Seek::Data => in_tree.into_iter().chain(in_memory).min(),
                Seek::Hole => match in_tree {
                    Some(hole) if state.blocks.contains_key(&hole) => {
                        block = hole + 1;
                        continue;
                    }
                    other => other,
                },
            };
        };
        match (found, what) {
            (Some(block), _) => Ok(geometry.block_start(block).max(offset)),
            (None, Seek::Hole) => Ok(state.length),
            (None, Seek::Data) => Err(FileError::Sys(Errno::NXIO)),
        }
    }

    /// Copies up to `len` bytes to another file, or to another place of this one; returns how
    /// many, fewer at the end of this file, and where the rest could not be copied.
    ///
    /// # Errors
    /// As reading and writing; nothing was copied then.
    pub fn copy_range(
        &self,
        offset: u64,
        target: &Self,
        target_offset: u64,
        len: u64,
    ) -> Result<u64, FileError> {
        let mut done = 0;
        while done < len {
            // Read and written one after the other: two files are never locked at once.
            let part = self.read(offset + done, to_usize((len - done).min(COPY_LEN)));
            let copied = part.and_then(|part| {
                target.write(target_offset + done, &part)?;
                Ok(part.len() as u64)
            });
            match copied {
                Ok(0) => break,
                Ok(count) => done += count,
                // Whoever hears of the part asks for the rest, and hears why then.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
