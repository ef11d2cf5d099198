//! What becomes of a file that is closed for the last time while the disk is full: new data that
//! does not fit is lost, which its writers were told, and nothing older is. Of a file that is new
//! and was never synced, all is kept from its beginning on that has found its place.

use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::state::State;
use crate::format::geometry::{FANOUT, Geometry};
use crate::format::node::Entry;
use crate::store::{Blob, is_full};

impl File {
    /// Stores what finds room: blocks that lie where blocks were, and new ones up to the first
    /// that does not fit. Blocks are overwritten in place, so without this their old nodes, which
    /// are stored still, would not open the new blocks.
    ///
    /// # Errors
    /// The store's, or [`FileError::Lost`]; then the stored file is as it was, but for blocks that
    /// were overwritten.
    pub(in crate::file) fn salvage(&self, state: &mut State) -> Result<(), FileError> {
        self.volume().check_lease()?;
        if state.blob.is_protected() {
            // Nothing that is stored was written over.
            return Ok(());
        }
        if state.tree().is_none() {
            // The stored header has the old content.
            return Ok(());
        }
        if Geometry::is_inline(state.committed_len) {
            return self.salvage_blocks(state);
        }
        let kept = state.committed_len.min(state.length);
        let end = self.drop_unstored(state, kept)?;
        if end < state.length {
            self.cut(state, end)?;
        }
        if self.write_all(state).is_ok() {
            return Ok(());
        }
        // Back to the committed length. Of a last block that was written over in part, as by what
        // was appended to it, memory alone has all; at its old length it has its room.
        if kept < state.length && self.cut(state, kept).is_ok() && self.write_all(state).is_ok() {
            return Ok(());
        }
        // Not even that: with the blocks as they are stored.
        state.blocks.clear();
        if kept < state.length && self.cut(state, kept).is_err() {
            // The last block is stored as it was committed, shorter than it is in memory.
            let levels = state.geometry().levels(kept);
            let count = state.geometry().block_count(kept);
            let (tree, ground) = state.tree_mut(self.ino());
            tree.cut(ground, count, levels)?;
            state.length = kept;
        }
        self.write_all(state)
    }

    /// The same for a file whose stored header has all of its content, and no block: what is in
    /// place does no harm to that, and is to be had with a new header only, which is written over
    /// the old one. Nodes have their places already, unless the disk can't give them any before
    /// they are stored: then the last blocks give up theirs, twice as many with each try, until the
    /// header reaches all that are left. Nothing of it is promised, so the disk may get this in any
    /// order.
    fn salvage_blocks(&self, state: &mut State) -> Result<(), FileError> {
        let (geometry, committed) = (state.geometry(), state.committed_len);
        let mut end = self.drop_unstored(state, 0)?;
        let mut step = FANOUT;
        while end > committed && !Geometry::is_inline(end) {
            if end < state.length {
                self.cut(state, end)?;
                state.stored_len = geometry.stored_len(end);
                state.blob.set_len(state.stored_len)?;
            }
            match self.write_all(state) {
                Err(FileError::Sys(error)) if is_full(error) => {}
                done => return done,
            }
            let count = geometry.block_count(end);
            if count <= FANOUT {
                break;
            }
            end = geometry.block_start(count.saturating_sub(step).max(FANOUT));
            step *= 2;
        }
        // Whoever looks at the stored file sees how long it is before anybody opens it.
        Ok(state.blob.set_len(geometry.stored_len(committed))?)
    }

    /// Drops dirty blocks that have no stored bytes. Returns where the file has to end, at or
    /// after `kept`, so that none of them is within what was written anew.
    fn drop_unstored(&self, state: &mut State, kept: u64) -> Result<u64, FileError> {
        let geometry = state.geometry();
        let mut end = state.length;
        let dirty: Vec<u64> = state.blocks.keys().copied().collect();
        for block in dirty {
            let mut entry = [Entry::HOLE];
            if let Some(tree) = state.tree() {
                tree.entries(state.ground(self.ino()), block, &mut entry)?;
            }
            if entry[0].is_hole() {
                state.blocks.remove(&block);
                let start = geometry.block_start(block);
                end = if start >= kept { end.min(start) } else { end };
            }
        }
        Ok(end)
    }
}
