//! One stored directory: objects by their sealed names, and the few files that are ours.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::cipher::{Sealed, StoredName};
use crate::format::directory::{MARKER_LEN, MARKER_NAME};
use crate::format::name::SIDECAR_LEN_MAX;
use crate::store::blob::DiskBlob;
use crate::store::leave;
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
pub struct StoreDir(pub(in crate::store) Arc<OwnedFd>);

pub(in crate::store) const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Never blocks on a FIFO that somebody put in the place of a file.
pub(in crate::store) const FILE_FLAGS: OFlags =
    OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

impl AsFd for StoreDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl StoreDir {
    /// The directory behind this descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// What the disk says of the directory itself.
    pub fn stat_self(&self) -> Result<LowerStat, Errno> {
        rustix::fs::fstat(&*self.0)
    }

    /// What the disk says of an object.
    pub fn stat(&self, object: &[u8]) -> Result<LowerStat, Errno> {
        rustix::fs::statat(&*self.0, object, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens a stored directory in this one.
    pub fn open_dir(&self, object: &[u8]) -> Result<Self, Errno> {
        rustix::fs::openat(&*self.0, object, DIR_FLAGS, Mode::empty()).map(Self::new)
    }

    /// Opens a stored file, for writing too if asked.
    pub fn open_file(&self, object: &[u8], writable: bool) -> Result<DiskBlob, Errno> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        rustix::fs::openat(&*self.0, object, access | FILE_FLAGS, Mode::empty()).map(DiskBlob::new)
    }

    /// Opens a stored file for reading and writing whose mode forbids its owner to, by lending it
    /// the bits for the moment of opening. A daemon that is not root needs this for a file of
    /// mode 0200, because changing a part of a block means reading it.
    pub fn open_file_lending(&self, object: &[u8]) -> Result<DiskBlob, Errno> {
        let mode = Mode::from_raw_mode(self.stat(object)?.st_mode & 0o7777);
        self.set_mode(object, mode | Mode::RUSR | Mode::WUSR)?;
        let opened = self.open_file(object, true);
        self.set_mode(object, mode)?;
        opened
    }

    /// Keeps an object alive without opening it.
    pub fn hold(&self, object: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&*self.0, object, flags, Mode::empty())
    }

    fn write_sidecar(&self, name: &StoredName) -> Result<(), Errno> {
        let Some((sidecar, sealed)) = name.sidecar() else { return Ok(()) };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | FILE_FLAGS;
        let file = rustix::fs::openat(&*self.0, sidecar, flags, Mode::from_raw_mode(0o600))?;
        let written = rustix::io::write(&file, sealed)?;
        if written == sealed.len() { Ok(()) } else { Err(Errno::NOSPC) }
    }

    /// A sidecar that stays behind harms nobody: it is written over or found by a check.
    fn remove_sidecar(&self, name: &StoredName) {
        if let Some((sidecar, _)) = name.sidecar() {
            let removed = rustix::fs::unlinkat(&*self.0, sidecar, AtFlags::empty());
            leave(removed, "sidecar of a name that is gone");
        }
    }

    /// Makes an object under a name: its sidecar first, so that no object is without a name.
    fn named<T>(
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
            rustix::fs::openat(&*self.0, name.object(), flags, Mode::from_raw_mode(mode))
                .map(DiskBlob::new)
        })
    }

    /// Makes a directory; its marker is still to be written.
    pub fn make_dir(&self, name: &StoredName, mode: u32) -> Result<Self, Errno> {
        self.named(name, || {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::mkdirat(&*self.0, name.object(), mode | Mode::RWXU)?;
            self.open_dir(name.object())
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
        self.named(name, || rustix::fs::mknodat(&*self.0, name.object(), kind, mode, device))
    }

    /// Makes a symbolic link; `target` is text without a zero byte, made of a sealed one.
    pub fn make_symlink(&self, name: &StoredName, target: &LinkText) -> Result<(), Errno> {
        self.named(name, || rustix::fs::symlinkat(&target.0[..], &*self.0, name.object()))
    }

    /// The text of a symbolic link.
    pub fn read_link(&self, object: &[u8]) -> Result<Vec<u8>, Errno> {
        Ok(rustix::fs::readlinkat(&*self.0, object, Vec::new())?.into_bytes())
    }

    /// Gives an object of another directory a name in this one.
    pub fn link(&self, name: &StoredName, from: &Self, object: &[u8]) -> Result<(), Errno> {
        self.named(name, || {
            rustix::fs::linkat(&*from.0, object, &*self.0, name.object(), AtFlags::empty())
        })
    }

    /// Removes what is not a directory.
    pub fn unlink(&self, name: &StoredName) -> Result<(), Errno> {
        rustix::fs::unlinkat(&*self.0, name.object(), AtFlags::empty())?;
        self.remove_sidecar(name);
        Ok(())
    }

    /// Removes a directory that has nothing but its marker.
    pub fn remove_dir(&self, name: &StoredName) -> Result<(), Errno> {
        let dir = self.open_dir(name.object()).map_err(|error| match error {
            Errno::LOOP => Errno::NOTDIR,
            other => other,
        })?;
        if !dir.has_only(MARKER_NAME)? {
            return Err(Errno::NOTEMPTY);
        }
        // Without one it is what a crash left of a directory that was being made.
        let marker = match dir.read_marker() {
            Ok(marker) => Some(marker),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        match rustix::fs::unlinkat(&*dir.0, MARKER_NAME, AtFlags::empty()) {
            Err(Errno::ACCESS) => {
                let all = Mode::RWXU;
                rustix::fs::fchmod(&*dir.0, all)?;
                rustix::fs::unlinkat(&*dir.0, MARKER_NAME, AtFlags::empty())?;
            }
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        if let Err(error) = rustix::fs::unlinkat(&*self.0, name.object(), AtFlags::REMOVEDIR) {
            if let Some(marker) = marker {
                dir.put_back_marker(&marker);
            }
            return Err(error);
        }
        self.remove_sidecar(name);
        Ok(())
    }

    fn put_back_marker(&self, marker: &[u8]) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | FILE_FLAGS;
        let mode = Mode::from_raw_mode(0o600);
        let put = rustix::fs::openat(&*self.0, MARKER_NAME, flags, mode)
            .and_then(|file| rustix::io::write(&file, marker));
        if put != Ok(marker.len()) {
            tracing::error!(result = ?put, "can't put back the marker of a directory");
        }
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
            rustix::fs::renameat(&*self.0, from, &*target.0, to)
        } else {
            rustix::fs::renameat_with(&*self.0, from, &*target.0, to, flags)
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
            rustix::fs::renameat_with(&*from.0, object, &*self.0, name.object(), flags)
        })
    }

    /// Writes the marker of a new directory.
    pub fn write_marker(&self, marker: &Sealed) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | FILE_FLAGS;
        let mode = Mode::from_raw_mode(0o644);
        let file = rustix::fs::openat(&*self.0, MARKER_NAME, flags, mode)?;
        let written = rustix::io::write(&file, marker.as_bytes())?;
        if written == marker.as_bytes().len() { Ok(()) } else { Err(Errno::NOSPC) }
    }

    /// The bytes of the marker, at most one more than it should have.
    pub fn read_marker(&self) -> Result<Vec<u8>, Errno> {
        self.read_small(MARKER_NAME, MARKER_LEN)
    }

    /// The bytes of a sidecar, at most one more than it can have.
    pub fn read_sidecar(&self, sidecar: &[u8]) -> Result<Vec<u8>, Errno> {
        self.read_small(sidecar, SIDECAR_LEN_MAX)
    }

    /// The bytes of a small file of ours, at most `len_max` + 1.
    pub fn read_small(&self, name: &[u8], len_max: usize) -> Result<Vec<u8>, Errno> {
        let file = rustix::fs::openat(&*self.0, name, OFlags::RDONLY | FILE_FLAGS, Mode::empty())?;
        let mut bytes = vec![0; len_max + 1];
        let len = rustix::io::read(&file, &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Writes a small file of ours that was not there, under a plain name.
    pub fn write_small(&self, name: &str, sealed: &Sealed) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | FILE_FLAGS;
        let file = rustix::fs::openat(&*self.0, name, flags, Mode::from_raw_mode(0o600))?;
        let written = rustix::io::write(&file, sealed.as_bytes())?;
        if written == sealed.as_bytes().len() { Ok(()) } else { Err(Errno::NOSPC) }
    }

    /// Removes a small file of ours.
    pub fn remove_small(&self, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::unlinkat(&*self.0, name, AtFlags::empty())
    }

    /// chmod(2) follows symbolic links, and somebody may have put one in the place of an object:
    /// it must not lead out of the store.
    fn set_mode(&self, object: &[u8], mode: Mode) -> Result<(), Errno> {
        let fd = self.hold(object)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        match self.path_of(object) {
            // The descriptor's own path: the kernel follows it to what is open, and no further.
            Some(_) => rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode),
            None => rustix::fs::chmodat(&*self.0, object, mode, AtFlags::empty()),
        }
    }

    /// Changes attributes of an object; a symbolic link itself, not what it points to.
    pub fn set_attr(&self, object: &[u8], set: &SetAttr) -> Result<(), Errno> {
        if let Some((uid, gid)) = set.owner() {
            rustix::fs::chownat(&*self.0, object, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = set.mode {
            self.set_mode(object, Mode::from_raw_mode(mode))?;
        }
        if set.sets_times() {
            let times = set.timestamps();
            rustix::fs::utimensat(&*self.0, object, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Returns when the directory's entries survive a power cut.
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fsync(&*self.0)
    }

    /// Space of the disk.
    pub fn space(&self) -> Result<rustix::fs::StatVfs, Errno> {
        rustix::fs::fstatvfs(&*self.0)
    }
}
