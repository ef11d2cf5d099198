//! Extended attributes of stored objects, by their stored names.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::cipher::Sealed;
use crate::store::dir::{FILE_FLAGS, StoreDir};

/// Linux before 6.13 has no call for the attributes of a name in a directory. Through `/proc` any
/// object can be named without opening it; a process that may not be dumped and is not root can't
/// look in there, and opens the object instead, which works for files and directories.
static BY_PATH: LazyLock<bool> = LazyLock::new(|| std::fs::read_dir("/proc/self/fd").is_ok());

/// What has the attributes.
enum Target<'a> {
    Lent(BorrowedFd<'a>),
    Own(OwnedFd),
    Path(PathBuf),
}

impl StoreDir {
    /// A path to an object through this directory's descriptor, where there can be one.
    pub(in crate::store) fn path_of(&self, object: &[u8]) -> Option<PathBuf> {
        let object = std::ffi::OsStr::from_bytes(object);
        let path = || PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(object);
        BY_PATH.then(path)
    }

    fn attribute_target(&self, object: Option<&[u8]>) -> Result<Target<'_>, Errno> {
        let Some(object) = object else { return Ok(Target::Lent(self.0.as_fd())) };
        if let Some(path) = self.path_of(object) {
            return Ok(Target::Path(path));
        }
        let flags = OFlags::RDONLY | FILE_FLAGS;
        rustix::fs::openat(&*self.0, object, flags, Mode::empty()).map(Target::Own)
    }

    /// Value of a lower extended attribute of an object, or of the directory itself.
    pub fn get_xattr(&self, object: Option<&[u8]>, name: &str) -> Result<Vec<u8>, Errno> {
        let target = self.attribute_target(object)?;
        // 64 KiB is what Linux allows (xattr(7)); most are below the first size.
        let mut value = vec![0; 256];
        loop {
            let got = match &target {
                Target::Lent(fd) => rustix::fs::fgetxattr(fd, name, &mut value[..]),
                Target::Own(fd) => rustix::fs::fgetxattr(fd, name, &mut value[..]),
                Target::Path(path) => rustix::fs::lgetxattr(path, name, &mut value[..]),
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

    fn set(
        &self,
        object: Option<&[u8]>,
        name: &str,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        match self.attribute_target(object)? {
            Target::Lent(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            Target::Own(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            Target::Path(path) => rustix::fs::lsetxattr(&path, name, value, flags),
        }
    }

    /// Sets a lower extended attribute to something sealed.
    pub fn set_xattr(
        &self,
        object: Option<&[u8]>,
        name: &str,
        value: &Sealed,
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        self.set(object, name, value.as_bytes(), flags)
    }

    /// Sets a POSIX access control list, which the store's disk has to understand as it is.
    pub fn set_acl(
        &self,
        object: Option<&[u8]>,
        name: &str,
        list: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        assert!(name.starts_with("system.posix_acl_"), "only access control lists are in clear");
        self.set(object, name, list, flags)
    }

    /// Removes a lower extended attribute.
    pub fn remove_xattr(&self, object: Option<&[u8]>, name: &str) -> Result<(), Errno> {
        match self.attribute_target(object)? {
            Target::Lent(fd) => rustix::fs::fremovexattr(fd, name),
            Target::Own(fd) => rustix::fs::fremovexattr(fd, name),
            Target::Path(path) => rustix::fs::lremovexattr(&path, name),
        }
    }

    /// Names of the lower extended attributes.
    pub fn list_xattr(&self, object: Option<&[u8]>) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = vec![0; 65536];
        let len = match self.attribute_target(object)? {
            Target::Lent(fd) => rustix::fs::flistxattr(fd, &mut names[..]),
            Target::Own(fd) => rustix::fs::flistxattr(fd, &mut names[..]),
            Target::Path(path) => rustix::fs::llistxattr(&path, &mut names[..]),
        }?;
        names.truncate(len);
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }
}
