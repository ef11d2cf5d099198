//! Where a store's calls to its disk can be watched: recorded, refused, or made to fail. What
//! serves has no watch, and pays one test a call for that. What is written under a lease is not
//! written once that is lost.
//!
//! Objects are named by their lower inode numbers, which the disk gives to another object only
//! when nobody has the old one any more. Not watched: `STORE/lock`, which says nothing that a
//! crash could damage, looking (`stat`, opening, listings), and what copies whole stores.

use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

use crate::store::change::SetAttr;
use crate::store::dir::RenameMode;
use crate::store::lease::{LeaseError, Standing};

/// A call to the disk that changes something, makes it durable, or reads content. `file` and `dir`
/// are lower inode numbers, `name` is a file name in `dir`; `mode` is what the process asks for,
/// before its mask.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are those of the calls they stand for")]
pub enum Op<'a> {
    /// Bytes of a file are read.
    Read { file: u64, offset: u64, len: usize },
    /// Bytes of a file are replaced or added.
    Write { file: u64, offset: u64, bytes: &'a [u8] },
    /// A file is cut, or extended by a hole.
    SetLen { file: u64, len: u64 },
    /// Space is set aside; content and length stay.
    Reserve { file: u64, offset: u64, len: u64 },
    /// Bytes become a hole; the length stays.
    Punch { file: u64, offset: u64, len: u64 },
    /// A file is made durable; `data_only` may leave out times.
    SyncFile { file: u64, data_only: bool },
    /// A directory's names are made durable.
    SyncDir { dir: u64 },
    /// All of the disk is made durable.
    SyncDisk,
    /// A file is made, or one that is there opened, as `there` says.
    Create { dir: u64, name: &'a [u8], mode: u32, there: There },
    /// A directory is made.
    MakeDir { dir: u64, name: &'a [u8], mode: u32 },
    /// A FIFO, a socket or a device is made.
    MakeNode { dir: u64, name: &'a [u8], kind: FileType, mode: u32, device: u64 },
    /// A symbolic link is made.
    Symlink { dir: u64, name: &'a [u8], target: &'a [u8] },
    /// An object gets another name.
    Link { file: u64, dir: u64, name: &'a [u8] },
    /// A name moves to another directory, or gets another spelling.
    Rename { dir: u64, name: &'a [u8], to_dir: u64, to_name: &'a [u8], mode: RenameMode },
    /// A name of what is no directory goes.
    Unlink { dir: u64, name: &'a [u8] },
    /// A directory goes.
    RemoveDir { dir: u64, name: &'a [u8] },
    /// Owner, mode or times change.
    SetAttr { file: u64, set: &'a SetAttr },
    /// An extended attribute is set.
    SetXattr { file: u64, name: &'a str, value: &'a [u8], flags: XattrFlags },
    /// An extended attribute is removed.
    RemoveXattr { file: u64, name: &'a str },
}

/// What a change is refused with while the lease can't be renewed: nothing was done, and the same
/// can be tried again. No call to the disk fails with it.
pub const UNRENEWED: Errno = Errno::NOLCK;

/// What making a file does with one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// Fails with `EEXIST`.
    Refuse,
    /// Opens it and cuts it to zero.
    Cut,
    /// Opens it as it is.
    Keep,
}

/// Stands around every call that [`Op`] names, in the thread that makes it.
pub trait Watch: Debug + Send + Sync {
    /// Makes the call by `run`, once, or does not and says with which error it is to fail. What
    /// `run` returns is the inode number of what was made, or `None` for other calls.
    ///
    /// # Errors
    /// The disk's, which `run` gives, or one of its own instead, before or after the call.
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno>;
}

/// The watch of a store, if it has one, and the lease under which it is written; whatever belongs
/// to the store has a copy.
#[derive(Clone, Debug, Default)]
pub struct Hook {
    watch: Option<Arc<dyn Watch>>,
    standing: Option<Standing>,
}

impl Hook {
    pub(in crate::store) fn new(watch: Arc<dyn Watch>) -> Self {
        Self { watch: Some(watch), standing: None }
    }

    /// The same watch, where nothing is changed once the lease is lost.
    pub(in crate::store) fn held_while(&self, standing: Option<Standing>) -> Self {
        Self { watch: self.watch.clone(), standing }
    }

    /// Whether calls are watched.
    pub(in crate::store) fn is_set(&self) -> bool {
        self.watch.is_some()
    }

    /// Fails if somebody else has the store, or may have it. Before each call that changes
    /// something, however long ago it was asked whether the whole may be begun: a process may be
    /// stopped in the middle of a checkpoint for longer than it takes to be succeeded.
    pub(in crate::store) fn check(&self) -> Result<(), Errno> {
        match self.standing.as_ref().map_or(Ok(()), Standing::check) {
            Ok(()) => Ok(()),
            Err(LeaseError::Lost) => Err(Errno::IO),
            Err(LeaseError::Unrenewed(_)) => Err(UNRENEWED),
        }
    }

    /// Makes a call that `op` names, and that changes nothing.
    pub(in crate::store) fn look<'a, T>(
        &self,
        op: impl FnOnce() -> Result<Op<'a>, Errno>,
        run: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.around(op, run, |_| Ok(None))
    }

    /// Makes a call that `op` names.
    pub(in crate::store) fn call<'a, T>(
        &self,
        op: impl FnOnce() -> Result<Op<'a>, Errno>,
        run: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.making(op, run, |_| Ok(None))
    }

    /// Makes a call that makes something, whose number `made` finds.
    pub(in crate::store) fn making<'a, T>(
        &self,
        op: impl FnOnce() -> Result<Op<'a>, Errno>,
        run: impl FnOnce() -> Result<T, Errno>,
        made: impl Fn(&T) -> Result<Option<u64>, Errno>,
    ) -> Result<T, Errno> {
        self.check()?;
        self.around(op, run, made).map_err(of_disk)
    }

    fn around<'a, T>(
        &self,
        op: impl FnOnce() -> Result<Op<'a>, Errno>,
        run: impl FnOnce() -> Result<T, Errno>,
        made: impl Fn(&T) -> Result<Option<u64>, Errno>,
    ) -> Result<T, Errno> {
        let Some(watch) = &self.watch else { return run() };
        let op = op()?;
        let (mut run, mut done) = (Some(run), None);
        watch.around(&op, &mut || {
            let run = run.take().ok_or(Errno::ALREADY)?;
            let value = run()?;
            let number = made(&value)?;
            done = Some(value);
            Ok(number)
        })?;
        // A watch that tells of success without a call is mistaken.
        done.ok_or(Errno::IO)
    }
}

/// An error of the disk, which is none of the lease.
pub(in crate::store) fn of_disk(error: Errno) -> Errno {
    if error == UNRENEWED { Errno::IO } else { error }
}

/// Something open that belongs to a store, and so to its watch.
pub trait Watched: AsFd + Debug {
    /// The store's watch.
    fn hook(&self) -> &Hook;
}

/// An object that is kept alive without being opened (`O_PATH`).
#[derive(Debug)]
pub struct Place {
    pub(in crate::store) fd: OwnedFd,
    pub(in crate::store) hook: Hook,
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Watched for Place {
    fn hook(&self) -> &Hook {
        &self.hook
    }
}

/// Lower inode number of what is open.
pub(in crate::store) fn number(fd: impl AsFd) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(fd)?.st_ino)
}
