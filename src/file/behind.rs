//! Storing what was written behind the writer's back: write(2) returns once nothing but the store
//! can fail any more, and the program goes on while its bytes are sealed and stored.
//!
//! The file is held for that until all is stored, so whatever comes next sees it. What the store
//! says then is *owed*: the next write, sync or close through each handle gets it, as it gets what
//! a kernel's own write-back fails with. The one error that happens without any fault, that of a
//! full disk, is mostly not: a write is answered early only while the disk has room for far more.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::room::Short;
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
    /// Writes all of `data` at `offset`. Calls `accept` at most once, if the rest could go on
    /// behind the caller's back; where that returns true, an error that comes later is owed.
    ///
    /// # Errors
    /// As [`File::write`].
    pub fn write_behind(
        &self,
        offset: u64,
        data: &[u8],
        accept: &mut dyn FnMut() -> bool,
    ) -> Result<(), FileError> {
        self.change(data.len(), |state, Short(is_short)| {
            let mut was_accepted = false;
            let may_accept = !is_short && self.volume().has_room(data.len());
            let accept = || was_accepted = may_accept && accept();
            match self.write_state(state, offset, data, accept) {
                // Under the lock: who syncs or closes next waits for it, and is told.
                Err(error) if was_accepted => {
                    self.owe(error);
                    Ok(())
                }
                done => done,
            }
        })
    }

    /// Something that was answered already was not stored: every handle is told. The log was, where
    /// it is the disk's fault.
    pub(in crate::file) fn owe(&self, error: FileError) {
        let debts = self.debts();
        *lock(&debts.last) = Some(error);
        debts.count.fetch_add(1, Ordering::Release);
        self.volume().note_spoiled(self.ino());
    }

    /// For a handle that is opened now: an error that nobody was told of yet, it is.
    pub fn told(&self) -> Told {
        Told(AtomicU64::new(self.debts().told.load(Ordering::Acquire)))
    }

    /// Whether something is owed to a handle.
    pub fn owes(&self, told: &Told) -> bool {
        told.0.load(Ordering::Relaxed) != self.debts().count.load(Ordering::Acquire)
    }

    /// Fails with what is owed to a handle, once.
    ///
    /// # Errors
    /// Of the last write that had been answered and could not be stored.
    pub fn settle_debts(&self, told: &Told) -> Result<(), FileError> {
        let debts = self.debts();
        let count = debts.count.load(Ordering::Acquire);
        let owed = self.debt(told);
        if owed.is_err() {
            told.0.store(count, Ordering::Relaxed);
            debts.told.fetch_max(count, Ordering::Release);
        }
        owed
    }

    /// Fails with what is owed to a handle, and owes it still.
    ///
    /// # Errors
    /// As [`File::settle_debts`].
    pub fn debt(&self, told: &Told) -> Result<(), FileError> {
        if !self.owes(told) {
            return Ok(());
        }
        lock(&self.debts().last).clone().map_or(Ok(()), Err)
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
