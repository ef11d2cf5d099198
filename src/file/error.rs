//! Why an operation on a file or directory failed.

use std::cell::Cell;

use rustix::io::Errno;

use crate::format::directory::MarkerError;
use crate::format::header::HeaderError;

/// Stored bytes that are not what was sealed there. Names nothing in plaintext: it goes to logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("inode {ino}: {reason}")]
pub struct Damage {
    /// Lower inode number, by which `find STORE -inum` finds the stored file.
    pub ino: u64,
    /// What was found.
    pub reason: String,
}

/// Why an operation failed. Each has its errno in one table of the layer above.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The store's disk said no; its answer is passed on.
    #[error("the store's disk: {0}")]
    Sys(#[from] Errno),
    /// Stored bytes are not authentic. Logged where it was found.
    #[error("damaged: {0}")]
    Damaged(Damage),
    /// Beyond the largest file of the format.
    #[error("beyond the largest file that this block size reaches")]
    TooLarge,
    /// Arguments that make no sense.
    #[error("invalid argument")]
    Invalid,
    /// A name or link target that is too long.
    #[error("name too long")]
    NameTooLong,
    /// Not for this kind of object or store.
    #[error("not supported")]
    NotSupported,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// Out of range of what can be stored.
    #[error("out of range")]
    Range,
    /// Not the object that was there before; look again.
    #[error("not the object that was there before")]
    Stale,
    /// An earlier write or sync of this file failed; it has to be opened anew.
    #[error("an earlier write of this file failed; close it everywhere and open it again")]
    Latched,
    /// The volume is open for reading only.
    #[error("the volume is open for reading only")]
    ReadOnly,
    /// Somebody else has the volume now; nothing is written any more. Logged where it was found.
    #[error("another process has taken the volume over; unmount it here, the log says which")]
    Lost,
}

thread_local! {
    static HUSHED: Cell<bool> = const { Cell::new(false) };
}

/// Does something without a word about damage: whoever calls it looks again, and tells what stays.
pub(in crate::file) fn hushed<T>(work: impl FnOnce() -> T) -> T {
    /// Puts back what was, also after a panic.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            HUSHED.set(self.0);
        }
    }
    let _before = Before(HUSHED.replace(true));
    work()
}

/// Whether damage that is found now is told by somebody else, if it stays.
pub(in crate::file) fn is_hushed() -> bool {
    HUSHED.get()
}

impl Damage {
    /// To the log.
    pub(in crate::file) fn tell(&self) {
        tracing::error!(
            ino = self.ino,
            reason = self.reason,
            "stored bytes are not authentic; restore the file from a snapshot"
        );
    }
}

impl FileError {
    /// A damage, written to the log once, here, or by whoever has hushed this.
    pub(in crate::file) fn damaged(ino: u64, reason: impl Into<String>) -> Self {
        let damage = Damage { ino, reason: reason.into() };
        if !is_hushed() {
            damage.tell();
        }
        Self::Damaged(damage)
    }

    pub(in crate::file) fn header(ino: u64, error: &HeaderError) -> Self {
        Self::damaged(ino, error.to_string())
    }

    pub(in crate::file) fn marker(ino: u64, error: &MarkerError) -> Self {
        Self::damaged(ino, error.to_string())
    }
}
