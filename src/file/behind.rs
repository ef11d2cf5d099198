//! Storing what was written behind the writer's back: write(2) returns once nothing but the store
//! can fail any more, and the program goes on while its bytes are sealed and stored.
//!
//! The file is held for that until all is stored, so whatever comes next sees it. What the store
//! says then is *owed*: the next write, sync or close through each handle gets it, as it gets what
//! a kernel's own write-back fails with. For the one error that happens without any fault, a disk
//! that is full, nothing is owed: a write is answered early only while the disk has room for far
//! more.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::volume::{Volume, lock};

/// Errors of writes that had been answered.
#[derive(Debug, Default)]
pub(in crate::file) struct Debts {
    /// How many there were.
    count: AtomicU64,
    /// How many of them somebody was told of.
    told: AtomicU64,
    last: Mutex<Option<FileError>>,
}

/// How many of a file's owed errors one handle was told of.
#[derive(Debug)]
pub struct Told(AtomicU64);

impl File {
    /// Writes all of `data` at `offset`. Calls `accepted` at most once, if the rest goes on behind
    /// the caller's back; an error that comes after that is owed, not returned.
    ///
    /// # Errors
    /// As [`File::write`].
    pub fn write_behind(
        &self,
        offset: u64,
        data: &[u8],
        accepted: &mut dyn FnMut(),
    ) -> Result<(), FileError> {
        let mut state = self.state_to_write()?;
        let mut was_accepted = false;
        let accept = || {
            if self.volume().has_room(data.len()) {
                was_accepted = true;
                accepted();
            }
        };
        let done = self.write_state(&mut state, offset, data, accept);
        match done {
            // Under the lock: who syncs or closes next waits for it, and is told.
            Err(error) if was_accepted => {
                self.owe(error);
                Ok(())
            }
            done => done,
        }
    }

    /// Something that was answered already was not stored: every handle is told. The log was, where
    /// it is the disk's fault.
    pub fn owe(&self, error: FileError) {
        let debts = self.debts();
        *lock(&debts.last) = Some(error);
        debts.count.fetch_add(1, Ordering::Release);
        self.volume().note_spoiled(self.ino());
    }

    /// For a handle that is opened now: an error that nobody was told of yet, it is.
    pub fn told(&self) -> Told {
        Told(AtomicU64::new(self.debts().told.load(Ordering::Acquire)))
    }

    /// Fails with what is owed to a handle, once.
    ///
    /// # Errors
    /// Of the last write that had been answered and could not be stored.
    pub fn settle_debts(&self, told: &Told) -> Result<(), FileError> {
        let debts = self.debts();
        let count = debts.count.load(Ordering::Acquire);
        if told.0.load(Ordering::Relaxed) == count || told.0.swap(count, Ordering::Relaxed) == count
        {
            return Ok(());
        }
        debts.told.fetch_max(count, Ordering::Release);
        lock(&debts.last).clone().map_or(Ok(()), Err)
    }
}

impl Volume {
    /// Something that was written to this file is lost.
    pub(in crate::file) fn note_spoiled(&self, ino: u64) {
        lock(&self.spoiled).insert(ino);
    }

    /// Whether something written to this file was lost since this was last asked: then whoever
    /// kept what was written has to forget it.
    pub fn take_spoiled(&self, ino: u64) -> bool {
        lock(&self.spoiled).remove(&ino)
    }
}
