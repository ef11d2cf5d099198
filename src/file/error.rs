//! Why an operation on a file or directory failed.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tracing::field::{DebugValue, debug};

use crate::format::directory::MarkerError;
use crate::format::header::HeaderError;
use crate::store::{StoreDir, is_news, path_of};

/// Where something is stored. Names nothing in plaintext: it goes to logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spot {
    /// Lower inode number, by which `find STORE -inum` finds the stored file; 0 if it is not known.
    pub ino: u64,
    /// Path of the stored file, where the system tells it.
    pub path: Option<PathBuf>,
}

impl Spot {
    /// Of what is open.
    pub(in crate::file) fn of(ino: u64, open: &(impl AsFd + ?Sized)) -> Self {
        Self { ino, path: path_of(open) }
    }

    /// The same, where its number is not known yet.
    pub(in crate::file) fn of_open(open: &(impl AsFd + ?Sized)) -> Self {
        Self::of(rustix::fs::fstat(open.as_fd()).map_or(0, |stat| stat.st_ino), open)
    }

    /// Of an object in a stored directory.
    pub(in crate::file) fn in_dir(dir: &StoreDir, object: &[u8]) -> Self {
        let ino = dir.stat(object).map_or(0, |stat| stat.st_ino);
        Self { ino, path: path_of(dir).map(|path| path.join(OsStr::from_bytes(object))) }
    }

    /// The path for a field of the log, which leaves out what is not there.
    pub fn stored(&self) -> Option<DebugValue<&Path>> {
        self.path.as_deref().map(debug)
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{} (inode {})", path.display(), self.ino),
            None => write!(f, "inode {}", self.ino),
        }
    }
}

/// Stored bytes that are not what was sealed there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{spot}: {reason}")]
pub struct Damage {
    /// Where they are.
    pub spot: Spot,
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
    /// To the log, unless it was told a moment ago.
    pub(in crate::file) fn tell(&self) {
        if is_news(self) {
            tracing::error!(
                ino = self.spot.ino,
                stored = self.spot.stored(),
                reason = self.reason,
                "stored bytes are not authentic and are not given out: `cmkfs check` names all \
                 that is damaged, by its path in the volume; restore that from a snapshot"
            );
        }
    }
}

impl FileError {
    /// A damage, written to the log once, here, or by whoever has hushed this.
    pub(in crate::file) fn damaged(spot: Spot, reason: impl Into<String>) -> Self {
        let damage = Damage { spot, reason: reason.into() };
        if !is_hushed() {
            damage.tell();
        }
        Self::Damaged(damage)
    }

    pub(in crate::file) fn header(spot: Spot, error: &HeaderError) -> Self {
        Self::damaged(spot, format!("header: {error}"))
    }

    pub(in crate::file) fn marker(spot: Spot, error: &MarkerError) -> Self {
        Self::damaged(spot, format!("marker of the directory: {error}"))
    }
}
