//! A file key under the current epoch.
//!
//! A header that is written anyway gets its file key wrapped under the current epoch: nothing that
//! was written since a rotation is open to who has the former epoch key alone. A header that is not
//! written otherwise is written for that, with the same content, by the same commit.
//!
//! A file that lies in its header whole gets a new file key then, for which nothing else has to be
//! written. Not by a commit of something else: that may be taken back where the disk is full, and
//! what was before is under the key of before.

use crate::cipher::VolumeKeys;
use crate::file::commit::{mtime_of, set_mtime};
use crate::file::content::File;
use crate::file::error::{FileError, Spot};
use crate::file::state::{Body, State};

impl File {
    /// Brings the file key under the current epoch, for a header that is about to be written.
    ///
    /// # Errors
    /// [`FileError::Damaged`] if it does not open, which was opened before.
    pub(in crate::file) fn follow(
        &self,
        state: &mut State,
        keys: &VolumeKeys,
    ) -> Result<(), FileError> {
        let (epoch, id) = (state.prefix.epoch, state.prefix.file_id);
        if !keys.follows(epoch) {
            return Ok(());
        }
        let wrapped = keys.rewrap_file(epoch, id, &state.prefix.wrapped_key);
        let damaged = || {
            let spot = Spot::of(self.ino(), &state.blob);
            FileError::damaged(spot, "header: its file key does not open")
        };
        state.prefix.wrapped_key = wrapped.ok_or_else(damaged)?;
        state.prefix.epoch = keys.current();
        Ok(())
    }

    /// Writes the header anew if it is of an earlier epoch. Times of the file stay as they are.
    /// Returns whether it was.
    ///
    /// # Errors
    /// As a commit has.
    pub(in crate::file) fn rewrap(&self) -> Result<bool, FileError> {
        let mut state = self.state_to_write()?;
        if state.prefix.epoch >= self.volume().epoch() {
            return Ok(false);
        }
        self.renew_header(&mut state)?;
        Ok(true)
    }

    /// Commits what there is, and then the header anew: under a new file key if all of the file
    /// lies in it.
    pub(in crate::file) fn renew_header(&self, state: &mut State) -> Result<(), FileError> {
        self.commit_state(state)?;
        if let Body::Inline(_) = &state.body {
            let keys = self.volume().keys();
            (state.cipher, state.prefix.wrapped_key) = keys.new_file(state.prefix.file_id);
            state.prefix.epoch = keys.current();
        }
        self.commit_header(state)
    }

    /// Commits with a new header, whether anything was written or not.
    pub(in crate::file) fn commit_header(&self, state: &mut State) -> Result<(), FileError> {
        let keeps_time = state.mtime.is_none() && !state.blob.is_protected();
        let mtime = if keeps_time { Some(mtime_of(&state.blob)?) } else { None };
        state.written.blur();
        state.dirty = true;
        *state.settled.get_mut() = false;
        let done = self.commit_state(state);
        let kept = mtime.map_or(Ok(()), |mtime| set_mtime(&state.blob, mtime));
        done.and(kept)
    }
}
