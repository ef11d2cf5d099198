//! Extended attributes of stored objects, by their stored names.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::cipher::Sealed;
use crate::store::dir::{FILE_FLAGS, StoreDir};
use crate::store::watch::{Hook, Op, Place, Watched, number};

/// Linux before 6.13 has no call for the attributes of a name in a directory. Through `/proc` any
/// object can be named without opening it; a process that may not be dumped and is not root can't
/// look in there, and opens the object instead, which works for files and directories.
static BY_PATH: LazyLock<bool> = LazyLock::new(|| std::fs::read_dir("/proc/self/fd").is_ok());

/// Whose extended attributes are meant.
#[derive(Clone, Debug)]
pub enum Attributed<'a> {
    /// What is open.
    Open(&'a dyn Watched),
    /// What stands where a descriptor of a place points to.
    Place(&'a Place),
    /// A stored directory itself.
    Dir {
        /// The directory.
        dir: &'a StoreDir,
        /// As for an object.
        lends: bool,
    },
    /// An object in a stored directory.
    Object {
        /// The directory.
        dir: &'a StoreDir,
        /// Stored name of the object.
        object: Vec<u8>,
        /// Whether it may be looked at where its mode forbids that to its owner.
        lends: bool,
    },
}

/// How the system is told whose they are.
enum Target<'a> {
    Lent(BorrowedFd<'a>),
    Own(OwnedFd),
    Path(PathBuf),
    /// A path of `/proc`, which is followed to what is open there and no further.
    Followed(PathBuf),
}

fn path_of_fd(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

impl StoreDir {
    /// A path to an object through this directory's descriptor, where there can be one.
    pub(in crate::store) fn path_of(&self, object: &[u8]) -> Option<PathBuf> {
        let object = std::ffi::OsStr::from_bytes(object);
        BY_PATH.then(|| path_of_fd(self.fd.as_fd()).join(object))
    }
}

fn get(target: &Target<'_>, name: &str) -> Result<Vec<u8>, Errno> {
    // 64 KiB is what Linux allows (xattr(7)); most are below the first size.
    let mut value = vec![0; 256];
    loop {
        let got = match target {
            Target::Lent(fd) => rustix::fs::fgetxattr(fd, name, &mut value[..]),
            Target::Own(fd) => rustix::fs::fgetxattr(fd, name, &mut value[..]),
            Target::Path(path) => rustix::fs::lgetxattr(path, name, &mut value[..]),
            Target::Followed(path) => rustix::fs::getxattr(path, name, &mut value[..]),
        };
        match got {
            Err(Errno::RANGE) if value.len() < 65536 => value.resize(65536, 0),
            Err(error) => return Err(error),
            Ok(len) => {
                value.truncate(len);
                return Ok(value);
            }
        }
    }
}

impl Attributed<'_> {
    fn hook(&self) -> &Hook {
        match self {
            Self::Open(open) => open.hook(),
            Self::Place(place) => place.hook(),
            Self::Dir { dir, .. } | Self::Object { dir, .. } => dir.hook(),
        }
    }

    fn number(&self) -> Result<u64, Errno> {
        match self {
            Self::Open(open) => number(open.as_fd()),
            Self::Place(place) => number(place),
            Self::Dir { dir, .. } => dir.number(),
            Self::Object { dir, object, .. } => Ok(dir.stat(object)?.st_ino),
        }
    }

    fn target(&self) -> Result<Target<'_>, Errno> {
        match self {
            Self::Open(open) => Ok(Target::Lent(open.as_fd())),
            Self::Dir { dir, .. } => Ok(Target::Lent(dir.as_fd())),
            Self::Place(place) => Ok(Target::Followed(path_of_fd(place.as_fd()))),
            Self::Object { dir, object, .. } => match dir.path_of(object) {
                Some(path) => Ok(Target::Path(path)),
                None => {
                    let flags = OFlags::RDONLY | FILE_FLAGS;
                    rustix::fs::openat(&*dir.fd, &object[..], flags, Mode::empty()).map(Target::Own)
                }
            },
        }
    }

    fn with<T>(&self, work: impl Fn(&Target<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        let work = || work(&self.target()?);
        match self {
            Self::Object { dir, object, lends: true } => {
                dir.lending_object(object, Mode::RUSR, work)
            }
            Self::Dir { dir, lends: true } => dir.lending(|_| work()),
            _ => work(),
        }
    }

    /// Value of a lower extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, and others of the system's (xattr(7)).
    pub fn get(&self, name: &str) -> Result<Vec<u8>, Errno> {
        self.with(|target| get(target, name))
    }

    fn set_bytes(&self, name: &str, value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        let set = |target: &Target<'_>| match target {
            Target::Lent(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            Target::Own(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            Target::Path(path) => rustix::fs::lsetxattr(path, name, value, flags),
            Target::Followed(path) => rustix::fs::setxattr(path, name, value, flags),
        };
        let op = || Ok(Op::SetXattr { file: self.number()?, name, value, flags });
        self.with(|target| self.hook().call(op, || set(target)))
    }

    /// Sets a lower extended attribute to something sealed.
    ///
    /// # Errors
    /// `EEXIST` and `ENODATA` by `flags`, and others of the system's.
    pub fn set(&self, name: &str, value: &Sealed, flags: XattrFlags) -> Result<(), Errno> {
        self.set_bytes(name, value.as_bytes(), flags)
    }

    /// Sets a POSIX access control list, which the store's disk has to understand as it is.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_acl(&self, name: &str, list: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        assert!(name.starts_with("system.posix_acl_"), "only access control lists are in clear");
        self.set_bytes(name, list, flags)
    }

    /// Removes a lower extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, and others of the system's.
    pub fn remove(&self, name: &str) -> Result<(), Errno> {
        let remove = |target: &Target<'_>| match target {
            Target::Lent(fd) => rustix::fs::fremovexattr(fd, name),
            Target::Own(fd) => rustix::fs::fremovexattr(fd, name),
            Target::Path(path) => rustix::fs::lremovexattr(path, name),
            Target::Followed(path) => rustix::fs::removexattr(path, name),
        };
        let op = || Ok(Op::RemoveXattr { file: self.number()?, name });
        self.with(|target| self.hook().call(op, || remove(target)))
    }

    /// Names of the lower extended attributes.
    ///
    /// # Errors
    /// The system's.
    pub fn list(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let names = self.with(|target| {
            let mut names = vec![0; 65536];
            let len = match target {
                Target::Lent(fd) => rustix::fs::flistxattr(fd, &mut names[..]),
                Target::Own(fd) => rustix::fs::flistxattr(fd, &mut names[..]),
                Target::Path(path) => rustix::fs::llistxattr(path, &mut names[..]),
                Target::Followed(path) => rustix::fs::listxattr(path, &mut names[..]),
            }?;
            names.truncate(len);
            Ok(names)
        })?;
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }
}
