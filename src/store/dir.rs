//! One stored directory: objects by their sealed names.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::cipher::StoredName;
use crate::store::blob::{Blob, DiskBlob};
use crate::store::durability::Durability;
use crate::store::lend::modes;
use crate::store::link::LinkText;

/// What the store's disk says of an object; sizes are of ciphertext.
pub type LowerStat = rustix::fs::Stat;

/// Whom a new object belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creator {
    /// User id.
    pub uid: u32,
    /// Group id; a directory with the set-group-id bit gives its own instead.
    pub gid: u32,
}

/// What mknod(2) makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// An empty regular file.
    File,
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device, with its number.
    CharDevice(u64),
    /// A block device, with its number.
    BlockDevice(u64),
}

/// What rename does with a name that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails with `EEXIST`.
    NoReplace,
    /// Exchanges the two.
    Exchange,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// Seconds and nanoseconds since 1970 UTC.
    At(i64, u32),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits, including set-id and sticky.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of last access.
    pub atime: Option<SetTime>,
    /// Time of last modification.
    pub mtime: Option<SetTime>,
}

impl SetAttr {
    /// Whether a time is to be set.
    pub fn sets_times(&self) -> bool {
        self.atime.is_some() || self.mtime.is_some()
    }

    fn timestamps(&self) -> Timestamps {
        let omit = rustix::fs::UTIME_OMIT;
        let now = rustix::fs::UTIME_NOW;
        let time = |time: Option<SetTime>| match time {
            None => Timespec { tv_sec: 0, tv_nsec: omit },
            Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: now },
            Some(SetTime::At(s, ns)) => Timespec { tv_sec: s, tv_nsec: i64::from(ns) },
        };
        Timestamps { last_access: time(self.atime), last_modification: time(self.mtime) }
    }

    fn owner(&self) -> Option<(Option<rustix::fs::Uid>, Option<rustix::fs::Gid>)> {
        let uid = self.uid.map(rustix::fs::Uid::from_raw);
        let gid = self.gid.map(rustix::fs::Gid::from_raw);
        (uid.is_some() || gid.is_some()).then_some((uid, gid))
    }

    /// Changes what lies behind a descriptor.
    ///
    /// # Errors
    /// The system's; what came before it is done.
    pub fn apply_to(&self, fd: impl AsFd) -> Result<(), Errno> {
        if let Some((uid, gid)) = self.owner() {
            rustix::fs::fchown(&fd, uid, gid)?;
        }
        if let Some(mode) = self.mode {
            let _modes = modes();
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
        }
        if self.sets_times() {
            rustix::fs::futimens(&fd, &self.timestamps())?;
        }
        Ok(())
    }

    /// Changes what stands where a descriptor of a place (`O_PATH`) points to. It may have no
    /// name any more, and can't be opened without doing something to it; so by `/proc`, where
    /// the system follows the path to what is open and no further.
    ///
    /// # Errors
    /// The system's, such as `EOPNOTSUPP` for the mode of a symbolic link; what came before it
    /// is done.
    pub fn apply_by_place(&self, fd: impl AsFd) -> Result<(), Errno> {
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        if let Some((uid, gid)) = self.owner() {
            rustix::fs::chownat(&fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = self.mode {
            let _modes = modes();
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode))?;
        }
        if self.sets_times() {
            let times = self.timestamps();
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// A stored directory. Cheap to clone: the copies share one descriptor.
#[derive(Clone, Debug)]
pub struct StoreDir {
    pub(in crate::store) fd: Arc<OwnedFd>,
    pub(in crate::store) durability: Durability,
}

pub(in crate::store) const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Never blocks on a FIFO that somebody put in the place of a file.
pub(in crate::store) const FILE_FLAGS: OFlags =
    OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

impl AsFd for StoreDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl StoreDir {
    /// The directory behind this descriptor.
    pub fn new(fd: OwnedFd, durability: Durability) -> Self {
        Self { fd: Arc::new(fd), durability }
    }

    /// What the disk says of the directory itself.
    pub fn stat_self(&self) -> Result<LowerStat, Errno> {
        rustix::fs::fstat(&*self.fd)
    }

    /// What the disk says of an object.
    pub fn stat(&self, object: &[u8]) -> Result<LowerStat, Errno> {
        rustix::fs::statat(&*self.fd, object, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens a stored directory in this one.
    pub fn open_dir(&self, object: &[u8]) -> Result<Self, Errno> {
        let fd = rustix::fs::openat(&*self.fd, object, DIR_FLAGS, Mode::empty())?;
        Ok(Self::new(fd, self.durability))
    }

    /// Opens a stored file, for writing too if asked.
    pub fn open_file(&self, object: &[u8], writable: bool) -> Result<DiskBlob, Errno> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        rustix::fs::openat(&*self.fd, object, access | FILE_FLAGS, Mode::empty()).map(DiskBlob::new)
    }

    /// Keeps an object alive without opening it.
    pub fn hold(&self, object: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&*self.fd, object, flags, Mode::empty())
    }

    /// Makes an object under a name: its sidecar first, so that no object is without a name.
    pub(in crate::store) fn named<T>(
        &self,
        name: &StoredName,
        make: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if name.sidecar().is_some() && self.stat(name.object()).is_ok() {
            return Err(Errno::EXIST);
        }
        self.write_sidecar(name).inspect_err(|_| self.remove_sidecar(name))?;
        make().inspect_err(|error| {
            if *error != Errno::EXIST {
                self.remove_sidecar(name);
            }
        })
    }

    /// Makes an empty file that was not there.
    pub fn create_file(&self, name: &StoredName, mode: u32) -> Result<DiskBlob, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | FILE_FLAGS;
        self.named(name, || {
            rustix::fs::openat(&*self.fd, name.object(), flags, Mode::from_raw_mode(mode))
                .map(DiskBlob::new)
        })
    }

    /// Makes a FIFO, a socket or a device.
    pub fn make_node(&self, name: &StoredName, kind: NodeKind, mode: u32) -> Result<(), Errno> {
        let (kind, device) = match kind {
            NodeKind::File => (FileType::RegularFile, 0),
            NodeKind::Fifo => (FileType::Fifo, 0),
            NodeKind::Socket => (FileType::Socket, 0),
            NodeKind::CharDevice(device) => (FileType::CharacterDevice, device),
            NodeKind::BlockDevice(device) => (FileType::BlockDevice, device),
        };
        let mode = Mode::from_raw_mode(mode);
        self.named(name, || rustix::fs::mknodat(&*self.fd, name.object(), kind, mode, device))
    }

    /// Makes a symbolic link; `target` is text without a zero byte, made of a sealed one.
    pub fn make_symlink(&self, name: &StoredName, target: &LinkText) -> Result<(), Errno> {
        self.named(name, || rustix::fs::symlinkat(&target.0[..], &*self.fd, name.object()))
    }

    /// The text of a symbolic link.
    pub fn read_link(&self, object: &[u8]) -> Result<Vec<u8>, Errno> {
        Ok(rustix::fs::readlinkat(&*self.fd, object, Vec::new())?.into_bytes())
    }

    /// Gives an object of another directory a name in this one.
    pub fn link(&self, name: &StoredName, from: &Self, object: &[u8]) -> Result<(), Errno> {
        self.named(name, || {
            rustix::fs::linkat(&*from.fd, object, &*self.fd, name.object(), AtFlags::empty())
        })
    }

    /// Removes what is not a directory.
    pub fn unlink(&self, name: &StoredName) -> Result<(), Errno> {
        rustix::fs::unlinkat(&*self.fd, name.object(), AtFlags::empty())?;
        self.remove_sidecar(name);
        Ok(())
    }

    /// Renames; a name that needs a sidecar has one before, and none is left behind after.
    pub fn rename(
        &self,
        name: &StoredName,
        target: &Self,
        target_name: &StoredName,
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        let was_there =
            target_name.sidecar().is_some() && target.stat(target_name.object()).is_ok();
        if !was_there {
            target.write_sidecar(target_name)?;
        }
        let (from, to) = (name.object(), target_name.object());
        let renamed = if flags.is_empty() {
            rustix::fs::renameat(&*self.fd, from, &*target.fd, to)
        } else {
            rustix::fs::renameat_with(&*self.fd, from, &*target.fd, to, flags)
        };
        if let Err(error) = renamed {
            if !was_there {
                target.remove_sidecar(target_name);
            }
            return Err(error);
        }
        // The old name is gone unless it was exchanged or is another link to the same file.
        if name.sidecar().is_some() && self.stat(from).err() == Some(Errno::NOENT) {
            self.remove_sidecar(name);
        }
        Ok(())
    }

    /// Takes an object as it is out of another directory, under a name that was free.
    pub fn adopt(&self, name: &StoredName, from: &Self, object: &[u8]) -> Result<(), Errno> {
        let flags = RenameFlags::NOREPLACE;
        self.named(name, || {
            rustix::fs::renameat_with(&*from.fd, object, &*self.fd, name.object(), flags)
        })
    }

    /// chmod(2) follows symbolic links, and somebody may have put one in the place of an object:
    /// it must not lead out of the store.
    pub(in crate::store) fn set_mode(&self, object: &[u8], mode: Mode) -> Result<(), Errno> {
        let fd = self.hold(object)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        match self.path_of(object) {
            // The descriptor's own path: the kernel follows it to what is open, and no further.
            Some(_) => rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode),
            None => rustix::fs::chmodat(&*self.fd, object, mode, AtFlags::empty()),
        }
    }

    /// Changes attributes of an object; a symbolic link itself, not what it points to.
    pub fn set_attr(&self, object: &[u8], set: &SetAttr) -> Result<(), Errno> {
        if let Some((uid, gid)) = set.owner() {
            rustix::fs::chownat(&*self.fd, object, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = set.mode {
            let _modes = modes();
            self.set_mode(object, Mode::from_raw_mode(mode))?;
        }
        if set.sets_times() {
            let times = set.timestamps();
            rustix::fs::utimensat(&*self.fd, object, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Returns when the content of a file, whatever it is, survives a power cut.
    pub fn sync_file(&self, object: &[u8]) -> Result<(), Errno> {
        let blob = match self.open_file(object, false) {
            Err(Errno::ACCESS) => self.open_file_lending(object)?,
            opened => opened?,
        };
        blob.sync(true)
    }

    /// Returns when the directory's entries survive a power cut.
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fsync(&*self.fd)
    }

    /// Returns when all of the disk that the directory is on survives a power cut.
    pub fn sync_disk(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(self.as_fd())
    }

    /// Space of the disk.
    pub fn space(&self) -> Result<rustix::fs::StatVfs, Errno> {
        rustix::fs::fstatvfs(&*self.fd)
    }
}
