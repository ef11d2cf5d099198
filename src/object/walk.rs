//! A walk through a store, in the order of a snapshot's records.
//!
//! Works from directory to directory by descriptors: stored names are longer than the names that
//! users gave, so that a path which fits the kernel's limit above may not fit it below. Memory is
//! that for the names of the directories on the way.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::format::snapshot::{Attribute, Meta, Time};
use crate::limits::DEPTH_MAX;
use crate::object::error::{SnapshotError, local};

pub(in crate::object) const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Bytes of an extended attribute or of a list of their names, at most (xattr(7)).
const ATTRIBUTE_LEN_MAX: usize = 64 << 10;

/// An object in a store.
#[derive(Debug)]
pub(in crate::object) struct Found {
    pub(in crate::object) path: Vec<u8>,
    pub(in crate::object) dir: Arc<OwnedFd>,
    pub(in crate::object) name: CString,
    pub(in crate::object) stat: Stat,
}

struct Level {
    dir: Arc<OwnedFd>,
    path: Vec<u8>,
    names: std::vec::IntoIter<CString>,
}

/// See the module.
pub(in crate::object) struct Walk {
    levels: Vec<Level>,
    /// Whether the store may change meanwhile: what is gone is left out.
    moving: bool,
}

impl Walk {
    /// Walks through those of `names` that are in `root`.
    pub(in crate::object) fn new(
        root: &Path,
        names: &[&str],
        moving: bool,
    ) -> Result<Self, SnapshotError> {
        let dir = rustix::fs::open(root, DIR_FLAGS, Mode::empty())
            .map_err(local(root.as_os_str().as_encoded_bytes(), "can't open it"))?;
        let mut sorted: Vec<CString> =
            names.iter().map(|name| CString::new(*name).expect("no zero in it")).collect();
        sorted.sort();
        let is_there = |name: &CString| {
            let found = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW);
            !matches!(found, Err(Errno::NOENT))
        };
        let sorted: Vec<_> = sorted.into_iter().filter(is_there).collect();
        let level = Level { dir: Arc::new(dir), path: Vec::new(), names: sorted.into_iter() };
        Ok(Self { levels: vec![level], moving })
    }

    /// The next object; the objects in a directory come right after it.
    pub(in crate::object) fn next(&mut self) -> Result<Option<Found>, SnapshotError> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let mut path = level.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let dir = Arc::clone(&level.dir);
            let stat = match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) if self.moving => continue,
                stat => stat.map_err(local(&path, "can't look at it"))?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                && !self.enter(&dir, &name, &path)?
            {
                continue;
            }
            return Ok(Some(Found { path, dir, name, stat }));
        }
    }

    fn enter(&mut self, at: &OwnedFd, name: &CStr, path: &[u8]) -> Result<bool, SnapshotError> {
        if self.levels.len() > DEPTH_MAX {
            let deep = io::Error::other(format!("more than {DEPTH_MAX} directories deep"));
            return Err(local(path, "can't go down")(deep));
        }
        let dir = match open_quietly(at, name, DIR_FLAGS) {
            Err(Errno::NOENT | Errno::NOTDIR) if self.moving => return Ok(false),
            opened => opened.map_err(local(path, "can't open it"))?,
        };
        let mut names = Vec::new();
        // Not by a name of its own, which would be opened otherwise.
        let list = rustix::io::dup(&dir).and_then(Dir::new);
        for entry in list.map_err(local(path, "can't list it"))? {
            let entry = entry.map_err(local(path, "can't list it"))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        let (dir, names, path) = (Arc::new(dir), names.into_iter(), path.to_owned());
        self.levels.push(Level { dir, path, names });
        Ok(true)
    }
}

/// Opens without changing when it was last read, where that is allowed: a snapshot would find it
/// changed the next time.
fn open_quietly(dir: &OwnedFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let open = |flags| rustix::fs::openat(dir, name, flags, Mode::empty());
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        opened => opened,
    }
}

impl Found {
    pub(in crate::object) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(in crate::object) fn len(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// Opens a regular file.
    pub(in crate::object) fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        open_quietly(&self.dir, &self.name, flags)
    }

    pub(in crate::object) fn target(&self) -> Result<Vec<u8>, Errno> {
        let target = rustix::fs::readlinkat(&self.dir, &self.name, Vec::new())?;
        Ok(target.into_bytes())
    }

    /// All but the content.
    pub(in crate::object) fn meta(&self) -> Result<Meta, Errno> {
        let time = |s, ns: u64| Time { s, ns: u32::try_from(ns).unwrap_or(0) };
        let stat = &self.stat;
        let is_shared = stat.st_nlink > 1 && self.kind() != FileType::Directory;
        Ok(Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            atime: match self.kind() {
                // To read it changes it, and nothing says not to; each directory has a link.
                FileType::Symlink => time(stat.st_mtime, stat.st_mtime_nsec),
                _ => time(stat.st_atime, stat.st_atime_nsec),
            },
            link: if is_shared { stat.st_ino } else { 0 },
            attributes: self.attributes()?,
        })
    }

    /// By way of /proc, since no call takes a directory and a name: a path may be too long.
    fn attributes(&self) -> Result<Vec<Attribute>, Errno> {
        let fd = self.dir.as_raw_fd();
        let path = [format!("/proc/self/fd/{fd}/").as_bytes(), self.name.to_bytes()].concat();
        let mut names = [0; 1024];
        let len = match rustix::fs::llistxattr(path.as_slice(), &mut names[..]) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(Errno::RANGE) => ATTRIBUTE_LEN_MAX,
            other => other?,
        };
        let mut names = vec![0; len.max(1024)];
        let len = rustix::fs::llistxattr(path.as_slice(), &mut names[..])?;
        let mut found = Vec::new();
        for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; ATTRIBUTE_LEN_MAX];
            let len = rustix::fs::lgetxattr(path.as_slice(), name, &mut value[..])?;
            value.truncate(len);
            found.push((name.to_vec(), value));
        }
        found.sort();
        Ok(found)
    }
}
