//! How much room the store's disk has. Where it has plenty nothing is asked of it beforehand. On a
//! disk that is nearly full, what waits in memory is given its place at once, and what belongs to a
//! durable file is committed with each write, so that it is the write which a full disk refuses,
//! and not the close after it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::state::State;
use crate::file::volume::{Volume, lock};
use crate::store::{Blob, is_full};

/// Bytes that a disk with plenty of room has left: four times what may wait in memory of all files,
/// and more than the journal, and others meanwhile, take.
const ROOM_MIN: u64 = 256 << 20;
/// Bytes that are written before the disk is asked again how much it has left, at most.
const ROOM_STEP_MAX: u64 = 256 << 20;

/// How long what the disk said counts: others write too.
const AGE_MAX: Duration = Duration::from_millis(100);

/// Bytes that the store's disk had to spare when it was last asked, and that were not given since.
#[derive(Debug)]
pub(in crate::file) struct Room {
    left: AtomicI64,
    since: Instant,
    /// When it was last asked, milliseconds from then.
    asked_ms: AtomicU64,
    /// It had nothing to spare then.
    is_short: AtomicBool,
    /// That was seen to.
    is_noted: AtomicBool,
    /// Held by whoever changes a durable file on a disk that is nearly full: of the room that a
    /// checkpoint makes in the journal, each change may need all.
    turn: Mutex<()>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            left: AtomicI64::new(0),
            since: Instant::now(),
            asked_ms: AtomicU64::new(0),
            is_short: AtomicBool::new(false),
            is_noted: AtomicBool::new(false),
            turn: Mutex::default(),
        }
    }
}

impl Room {
    /// Takes `len` bytes of it; false if they are not there. `ask` tells how many bytes the disk
    /// has.
    fn take(&self, len: usize, ask: impl FnOnce() -> Option<u64>) -> bool {
        let now = self.since.elapsed().as_millis();
        self.take_at(u64::try_from(now).unwrap_or(u64::MAX), len, ask)
    }

    fn take_at(&self, now_ms: u64, len: usize, ask: impl FnOnce() -> Option<u64>) -> bool {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        let age = now_ms.saturating_sub(self.asked_ms.load(Ordering::Relaxed));
        let fresh = u128::from(age) < AGE_MAX.as_millis();
        if fresh && self.left.fetch_sub(len, Ordering::Relaxed) >= len {
            return true;
        }
        let spare = ask().and_then(|left| left.checked_sub(ROOM_MIN)).unwrap_or(0);
        let step = i64::try_from((spare / 2).min(ROOM_STEP_MAX)).unwrap_or(0);
        self.asked_ms.store(now_ms, Ordering::Relaxed);
        self.is_short.store(step == 0, Ordering::Relaxed);
        self.is_noted.fetch_and(step == 0, Ordering::Relaxed);
        self.left.store((step - len).max(0), Ordering::Relaxed);
        step >= len
    }
}

impl Volume {
    /// Asks the disk now, so that the first write need not; and how large it is.
    pub(in crate::file) fn look_for_room(&self) {
        self.has_room(1);
        if let (Some(journaled), Ok(space)) = (&self.journaled, self.statfs()) {
            journaled.journal.fit(space.blocks.saturating_mul(space.fragment_size));
        }
    }

    /// Whether the disk was nearly full when it was last asked.
    pub(in crate::file) fn is_short(&self) -> bool {
        self.room.is_short.load(Ordering::Relaxed)
    }

    /// Whether the journal has changes that are not in their place, where a volume that is open to
    /// be written looks: after it was opened, those for which the disk has no room.
    pub fn is_waiting(&self) -> bool {
        self.journaled.as_ref().is_some_and(|journaled| !journaled.is_idle())
    }

    /// Commits all that waits in memory, if the disk has become nearly full: there is room for it
    /// still. Holds no lock of a file.
    pub(in crate::file) fn note_short(&self) {
        if self.is_short()
            && !self.room.is_noted.swap(true, Ordering::Relaxed)
            && let Err(error) = self.commit_all()
        {
            tracing::warn!(%error, "the store's disk is nearly full, and not all is committed");
        }
    }

    /// Whether the disk has room for `len` bytes beyond doubt.
    pub(in crate::file) fn has_room(&self, len: usize) -> bool {
        let ask = || {
            let space = self.statfs().ok()?;
            Some(space.blocks_available.saturating_mul(space.fragment_size))
        };
        self.room.take(len, ask)
    }
}

impl File {
    /// Asks for the place of the first `len` bytes from a block on, if the disk is nearly full, and
    /// of the nodes above it. What was stored already has its own. What a durable file has goes to
    /// the journal first, which has the room of it back only once it is in its place.
    pub(in crate::file) fn reserve_block(
        &self,
        state: &mut State,
        block: u64,
        len: usize,
    ) -> Result<(), FileError> {
        if len == 0 || self.volume().has_room(len) {
            return Ok(());
        }
        if state.tree().is_some() {
            let (tree, ground) = state.tree_mut(self.ino());
            tree.prepare(ground, block)?;
        }
        match state.blob.reserve(state.geometry().block_offset(block), len as u64) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            reserved => Ok(reserved?),
        }
    }

    /// Does a change of about `len` bytes, as `work` does. Header and nodes of a durable file go to
    /// the journal when it is committed: where that may find no room for them it is done at once,
    /// and a change which it has no room for is not made.
    ///
    /// # Errors
    /// Those of `work`, and of the commit.
    pub(in crate::file) fn change<T>(
        &self,
        len: usize,
        mut work: impl FnMut(&mut State, Short) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let volume = self.volume();
        let is_short = |state: &State| state.blob.is_protected() && !volume.has_room(len);
        {
            let mut state = self.state_to_write()?;
            if !is_short(&state) {
                let done = work(&mut state, Short(false));
                if !matches!(&done, Err(FileError::Sys(error)) if is_full(*error)) {
                    return done;
                }
            }
        }
        let _turn = lock(&volume.room.turn);
        self.with_room(|| {
            let mut state = self.state_to_write()?;
            let Some(former) = is_short(&state).then(|| state.former()).flatten() else {
                return work(&mut state, Short(false));
            };
            let done = work(&mut state, Short(true));
            let done = done.and_then(|done| self.commit_state(&mut state).map(|()| done));
            if let Err(FileError::Sys(error)) = &done
                && is_full(*error)
                && state.go_back(former)
            {
                state.note_stored_len();
                self.forget_all();
                self.count_dirty(&mut state);
            }
            done
        })
    }

    /// Does something that needs room in the journal, and once more if that had none: it has again
    /// once what it holds is in its place. Holds no lock of a file.
    pub(in crate::file) fn with_room<T>(
        &self,
        mut work: impl FnMut() -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let done = work();
        match &done {
            Err(FileError::Sys(error)) if is_full(*error) && self.volume().journaled.is_some() => {
                // Of what other files have this one hears nothing.
                let made = self.volume().checkpoint_for_room();
                work().inspect_err(|error| {
                    tracing::debug!(ino = self.ino(), %error, ?made, "a change has no room");
                })
            }
            _ => done,
        }
    }
}

/// Whether a change is committed at once, so that no part of it may be answered before.
#[derive(Clone, Copy, Debug)]
pub(in crate::file) struct Short(pub(in crate::file) bool);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_given_than_the_disk_has_to_spare() {
        let room = Room::default();
        let len = 1 << 20;
        assert!(!room.take_at(0, len, || None), "a disk that does not tell");
        assert!(!room.take_at(0, len, || Some(ROOM_MIN)));
        assert!(!room.take_at(0, len, || Some(ROOM_MIN + 1)));
        // Half of what it has above the least: 8 MiB.
        assert!(room.take_at(0, len, || Some(ROOM_MIN + (16 << 20))));
        for _ in 1..8 {
            assert!(room.take_at(0, len, || panic!("there is some left")));
        }
        assert!(!room.take_at(0, len, || Some(ROOM_MIN)));
        assert!(room.take_at(0, len, || Some(u64::MAX)));
        let steps = ROOM_STEP_MAX / len as u64;
        assert!((1..steps).all(|_| room.take_at(0, len, || None)));
        assert!(!room.take_at(0, len, || None), "asked again after so many");
        assert!(room.take_at(0, len, || Some(u64::MAX)));
        assert!(room.take_at(99, len, || panic!("it was asked a moment ago")));
        assert!(!room.take_at(100, len, || Some(ROOM_MIN)), "others have taken it");
    }
}
