//! One stored directory: objects by their sealed names.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::cipher::StoredName;
use crate::store::blob::{Blob, DiskBlob};
use crate::store::change::SetAttr;
use crate::store::durability::Durability;
use crate::store::lend::modes;
use crate::store::link::LinkText;
use crate::store::watch::{Hook, Op, Place, There, Watched, number};

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

/// A stored directory. Cheap to clone: the copies share one descriptor.
#[derive(Clone, Debug)]
pub struct StoreDir {
    pub(in crate::store) fd: Arc<OwnedFd>,
    pub(in crate::store) durability: Durability,
    pub(in crate::store) hook: Hook,
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

impl Watched for StoreDir {
    fn hook(&self) -> &Hook {
        &self.hook
    }
}

impl StoreDir {
    /// The directory behind this descriptor, of a store with this watch.
    pub(in crate::store) fn new(fd: OwnedFd, durability: Durability, hook: &Hook) -> Self {
        Self { fd: Arc::new(fd), durability, hook: hook.clone() }
    }

    fn blob(&self, fd: OwnedFd) -> DiskBlob {
        DiskBlob::new(fd, &self.hook)
    }

    pub(in crate::store) fn number(&self) -> Result<u64, Errno> {
        number(&*self.fd)
    }

    /// A call that makes an object in this directory, and perhaps opens it.
    pub(in crate::store) fn makes<'a, T>(
        &self,
        object: &[u8],
        op: impl FnOnce(u64) -> Op<'a>,
        run: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let made = |_: &T| Ok(Some(self.stat(object)?.st_ino));
        self.hook.making(|| self.number().map(op), run, made)
    }

    /// Makes a file; `there` says what becomes of the one that is there.
    pub(in crate::store) fn create(
        &self,
        name: &[u8],
        mode: u32,
        there: There,
    ) -> Result<DiskBlob, Errno> {
        let flag = match there {
            There::Refuse => OFlags::EXCL,
            There::Cut => OFlags::TRUNC,
            There::Keep => OFlags::empty(),
        };
        let flags = OFlags::RDWR | OFlags::CREATE | flag | FILE_FLAGS;
        let op = |dir| Op::Create { dir, name, mode, there };
        let mode = Mode::from_raw_mode(mode);
        let file = self.makes(name, op, || rustix::fs::openat(&*self.fd, name, flags, mode))?;
        Ok(self.blob(file))
    }

    /// Makes a directory of ours, for the owner alone.
    pub(in crate::store) fn make_plain_dir(&self, name: &str) -> Result<(), Errno> {
        let op = |dir| Op::MakeDir { dir, name: name.as_bytes(), mode: 0o700 };
        self.makes(name.as_bytes(), op, || rustix::fs::mkdirat(&*self.fd, name, Mode::RWXU))
    }

    /// Removes a file name.
    pub(in crate::store) fn unlink_object(&self, name: &[u8]) -> Result<(), Errno> {
        let op = || Ok(Op::Unlink { dir: self.number()?, name });
        self.hook.call(op, || rustix::fs::unlinkat(&*self.fd, name, AtFlags::empty()))
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
        Ok(Self::new(fd, self.durability, &self.hook))
    }

    /// Opens a stored file, for writing too if asked.
    pub fn open_file(&self, object: &[u8], writable: bool) -> Result<DiskBlob, Errno> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        rustix::fs::openat(&*self.fd, object, access | FILE_FLAGS, Mode::empty())
            .map(|fd| self.blob(fd))
    }

    /// Keeps an object alive without opening it.
    pub fn hold(&self, object: &[u8]) -> Result<Place, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*self.fd, object, flags, Mode::empty())?;
        Ok(Place { fd, hook: self.hook.clone() })
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
        self.named(name, || self.create(name.object(), mode, There::Refuse))
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
        let object = name.object();
        let op = |dir| Op::MakeNode { dir, name: object, kind, mode, device };
        let bits = Mode::from_raw_mode(mode);
        self.named(name, || {
            self.makes(object, op, || rustix::fs::mknodat(&*self.fd, object, kind, bits, device))
        })
    }

    /// Makes a symbolic link; `target` is text without a zero byte, made of a sealed one.
    pub fn make_symlink(&self, name: &StoredName, target: &LinkText) -> Result<(), Errno> {
        self.named(name, || self.symlink(name.object(), target))
    }

    /// Makes a symbolic link without anything that its name may need.
    pub(in crate::store) fn symlink(&self, object: &[u8], target: &LinkText) -> Result<(), Errno> {
        let text = &target.0[..];
        let op = |dir| Op::Symlink { dir, name: object, target: text };
        self.makes(object, op, || rustix::fs::symlinkat(text, &*self.fd, object))
    }

    /// The text of a symbolic link.
    pub fn read_link(&self, object: &[u8]) -> Result<Vec<u8>, Errno> {
        Ok(rustix::fs::readlinkat(&*self.fd, object, Vec::new())?.into_bytes())
    }

    /// Gives an object of another directory a name in this one.
    pub fn link(&self, name: &StoredName, from: &Self, object: &[u8]) -> Result<(), Errno> {
        let to = name.object();
        let op = || Ok(Op::Link { file: from.stat(object)?.st_ino, dir: self.number()?, name: to });
        let run = || rustix::fs::linkat(&*from.fd, object, &*self.fd, to, AtFlags::empty());
        self.named(name, || self.hook.call(op, run))
    }

    /// Removes what is not a directory.
    pub fn unlink(&self, name: &StoredName) -> Result<(), Errno> {
        self.unlink_object(name.object())?;
        self.remove_sidecar(name);
        Ok(())
    }

    pub(in crate::store) fn rename_object(
        &self,
        name: &[u8],
        target: &Self,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let op = || {
            let (dir, to_dir) = (self.number()?, target.number()?);
            Ok(Op::Rename { dir, name, to_dir, to_name, mode })
        };
        let (from, to) = (&*self.fd, &*target.fd);
        let with = |flags| rustix::fs::renameat_with(from, name, to, to_name, flags);
        self.hook.call(op, || match mode {
            RenameMode::Replace => rustix::fs::renameat(from, name, to, to_name),
            RenameMode::NoReplace => with(RenameFlags::NOREPLACE),
            RenameMode::Exchange => with(RenameFlags::EXCHANGE),
        })
    }

    /// Renames a file of ours within this directory, over what is there.
    pub(in crate::store) fn rename_plain(&self, name: &str, to: &str) -> Result<(), Errno> {
        self.rename_object(name.as_bytes(), self, to.as_bytes(), RenameMode::Replace)
    }

    /// Renames; a name that needs a sidecar has one before, and none is left behind after.
    pub fn rename(
        &self,
        name: &StoredName,
        target: &Self,
        target_name: &StoredName,
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let was_there =
            target_name.sidecar().is_some() && target.stat(target_name.object()).is_ok();
        if !was_there {
            target.write_sidecar(target_name)?;
        }
        let (from, to) = (name.object(), target_name.object());
        if let Err(error) = self.rename_object(from, target, to, mode) {
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
        self.named(name, || from.rename_object(object, self, name.object(), RenameMode::NoReplace))
    }

    /// chmod(2) follows symbolic links, and somebody may have put one in the place of an object:
    /// it must not lead out of the store.
    pub(in crate::store) fn set_mode(&self, object: &[u8], mode: Mode) -> Result<(), Errno> {
        let place = self.hold(object)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let set = SetAttr { mode: Some(mode.as_raw_mode()), ..SetAttr::default() };
        let op = || Ok(Op::SetAttr { file: number(&place)?, set: &set });
        self.hook.call(op, || match self.path_of(object) {
            // The descriptor's own path: the kernel follows it to what is open, and no further.
            Some(_) => rustix::fs::chmod(format!("/proc/self/fd/{}", place.fd.as_raw_fd()), mode),
            None => rustix::fs::chmodat(&*self.fd, object, mode, AtFlags::empty()),
        })
    }

    /// Sets the mode of the directory itself.
    pub(in crate::store) fn set_mode_self(&self, mode: Mode) -> Result<(), Errno> {
        let set = SetAttr { mode: Some(mode.as_raw_mode()), ..SetAttr::default() };
        let op = || Ok(Op::SetAttr { file: self.number()?, set: &set });
        self.hook.call(op, || rustix::fs::fchmod(&*self.fd, mode))
    }

    /// Changes attributes of an object; a symbolic link itself, not what it points to.
    pub fn set_attr(&self, object: &[u8], set: &SetAttr) -> Result<(), Errno> {
        let part = SetAttr { mode: None, atime: None, mtime: None, ..*set };
        let op = || Ok(Op::SetAttr { file: self.stat(object)?.st_ino, set: &part });
        if let Some((uid, gid)) = set.owner() {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            self.hook.call(op, || rustix::fs::chownat(&*self.fd, object, uid, gid, flags))?;
        }
        if let Some(mode) = set.mode {
            let _modes = modes();
            self.set_mode(object, Mode::from_raw_mode(mode))?;
        }
        let part = SetAttr { mode: None, uid: None, gid: None, ..*set };
        let op = || Ok(Op::SetAttr { file: self.stat(object)?.st_ino, set: &part });
        if set.sets_times() {
            let (times, flags) = (set.timestamps(), AtFlags::SYMLINK_NOFOLLOW);
            self.hook.call(op, || rustix::fs::utimensat(&*self.fd, object, &times, flags))?;
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
        let op = || Ok(Op::SyncDir { dir: self.number()? });
        self.hook.call(op, || rustix::fs::fsync(&*self.fd))
    }

    /// Returns when all of the disk that the directory is on survives a power cut.
    pub fn sync_disk(&self) -> Result<(), Errno> {
        self.hook.call(|| Ok(Op::SyncDisk), || rustix::fs::syncfs(self.as_fd()))
    }

    /// Space of the disk.
    pub fn space(&self) -> Result<rustix::fs::StatVfs, Errno> {
        rustix::fs::fstatvfs(&*self.fd)
    }
}
