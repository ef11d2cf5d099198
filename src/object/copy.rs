//! Copies a stored tree: content with its holes, hard links, symbolic links, pipes, sockets and
//! devices, owners, modes, times, extended attributes.
//!
//! Works from directory to directory by descriptors: stored names are longer than the names that
//! users gave, so that a path which fits the kernel's limit above may not fit it below.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use crate::limits::{COPY_LEN, DEPTH_MAX};

/// A copy that failed, and where: a stored path.
#[derive(Debug, thiserror::Error)]
#[error("{}: {action}: {error}", path.display())]
pub struct CopyError {
    /// Stored path below the root of the copy.
    pub path: PathBuf,
    /// What was tried.
    pub action: &'static str,
    /// The system's answer.
    pub error: io::Error,
}

fn fail<E: Into<io::Error>>(path: &Path, action: &'static str) -> impl FnOnce(E) -> CopyError {
    let path = path.to_owned();
    move |error| CopyError { path, action, error: error.into() }
}

const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Copies all that is in directory `source`, but for names in `skip` at the top, into the
/// directory `target`, which is there and empty. The target's own attributes are set last.
///
/// # Errors
/// The first failure; what was copied stays.
pub fn copy_tree(source: &Path, target: &Path, skip: &[&str]) -> Result<(), CopyError> {
    let open = |path: &Path| {
        rustix::fs::open(path, DIR_FLAGS, Mode::empty()).map_err(fail(path, "can't open it"))
    };
    let (from, to) = (open(source)?, open(target)?);
    let mut copy = Copy { linked: HashMap::new(), root: &to, skip };
    copy.dir(&from, &to, Path::new(""), 0)
}

struct Copy<'a> {
    /// Where an inode with several names was copied to first.
    linked: HashMap<(u64, u64), PathBuf>,
    root: &'a OwnedFd,
    skip: &'a [&'a str],
}

impl Copy<'_> {
    fn dir(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > DEPTH_MAX {
            let deep = io::Error::other(format!("more than {DEPTH_MAX} directories deep"));
            return Err(fail(path, "can't go down")(deep));
        }
        let entries = Dir::read_from(from).map_err(fail(path, "can't list it"))?;
        for entry in entries {
            let entry = entry.map_err(fail(path, "can't list it"))?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let own = matches!(name.to_bytes(), b"." | b"..");
            if own || (depth == 0 && self.skip.contains(&text.as_ref())) {
                continue;
            }
            self.object(from, to, name, &path.join(text.as_ref()), depth)?;
        }
        let stat = rustix::fs::fstat(from).map_err(fail(path, "can't look at it"))?;
        copy_attributes(from, to).map_err(fail(path, "can't copy its attributes"))?;
        finish_open(to, &stat).map_err(fail(path, "can't set its attributes"))
    }

    fn object(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail(path, "can't look at it"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            rustix::fs::mkdirat(to, name, Mode::RWXU).map_err(fail(path, "can't make it"))?;
            let open = |at: &OwnedFd| rustix::fs::openat(at, name, DIR_FLAGS, Mode::empty());
            let from = open(from).map_err(fail(path, "can't open it"))?;
            let to = open(to).map_err(fail(path, "can't open its copy"))?;
            return self.dir(&from, &to, path, depth + 1);
        }
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&inode) {
                return link_below(self.root, first, to, name).map_err(fail(path, "can't link it"));
            }
            self.linked.insert(inode, path.to_owned());
        }
        match kind {
            FileType::RegularFile => copy_file(from, to, name, &stat),
            FileType::Symlink => rustix::fs::readlinkat(from, name, Vec::new())
                .and_then(|target| rustix::fs::symlinkat(&target, to, name))
                .and_then(|()| finish(to, name, &stat))
                .map_err(io::Error::from),
            _ => rustix::fs::mknodat(to, name, kind, Mode::RUSR, stat.st_rdev)
                .and_then(|()| finish(to, name, &stat))
                .map_err(io::Error::from),
        }
        .map_err(fail(path, "can't copy it"))
    }
}

/// Links `first`, a path below `root`, from directory to directory: its names may add up to more
/// than a path can have.
fn link_below(root: &OwnedFd, first: &Path, to: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let mut dir = rustix::io::dup(root)?;
    if let Some(parent) = first.parent() {
        for part in parent {
            dir = rustix::fs::openat(&dir, part, DIR_FLAGS, Mode::empty())?;
        }
    }
    let last = first.file_name().ok_or(Errno::INVAL)?;
    rustix::fs::linkat(&dir, last, to, name, AtFlags::empty())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let read = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let make = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, read, Mode::empty())?;
    let target = rustix::fs::openat(to, name, make, Mode::RUSR | Mode::WUSR)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        copy_content(&source, &target)?;
    }
    copy_attributes(&source, &target)?;
    Ok(finish_open(&target, stat)?)
}

/// Copies what is not a hole, by the kernel where it can.
fn copy_content(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let len = u64::try_from(rustix::fs::fstat(source)?.st_size).unwrap_or(0);
    rustix::fs::ftruncate(target, len)?;
    let mut offset = 0;
    while offset < len {
        let start = match rustix::fs::seek(source, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
        copy_range(source, target, start, end)?;
        offset = end;
    }
    Ok(())
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let left = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), left) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Filesystems that are too different for the kernel.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_LEN];
    let mut offset = start;
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX).min(COPY_LEN);
        let count = rustix::io::pread(source, &mut buffer[..left], offset)?;
        if count == 0 {
            return Ok(());
        }
        let mut part = &buffer[..count];
        while !part.is_empty() {
            let written = rustix::io::pwrite(target, part, offset)?;
            part = &part[written..];
            offset += written as u64;
        }
    }
    Ok(())
}

/// Extended attributes; those that only the system may set are left to it.
fn copy_attributes(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let len = match rustix::fs::flistxattr(source, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in names[..len].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::fgetxattr(source, name, &mut value[..])?;
        match rustix::fs::fsetxattr(target, name, &value[..len], XattrFlags::empty()) {
            Err(Errno::PERM | Errno::OPNOTSUPP) if !name.to_bytes().starts_with(b"user.") => {}
            other => other?,
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, ns: u64| Timespec { tv_sec, tv_nsec: i64::try_from(ns).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Only root may give files away; a copy by others belongs to who makes it.
fn given(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        other => other,
    }
}

fn owners(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

/// Owner before mode, because a change of owner clears set-id bits; times last.
fn finish_open(target: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = owners(stat);
    given(rustix::fs::fchown(target, uid, gid))?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(target, &times(stat))
}

fn finish(dir: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = owners(stat);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    given(rustix::fs::chownat(dir, name, uid, gid, flags))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(dir, name, &times(stat), flags)
}

/// Removes everything in a directory but the names in `keep` at its top; the directory stays.
///
/// # Errors
/// The first failure; what was removed is gone.
pub fn remove_tree(root: &Path, keep: &[&str]) -> Result<(), CopyError> {
    let dir =
        rustix::fs::open(root, DIR_FLAGS, Mode::empty()).map_err(fail(root, "can't open it"))?;
    remove_below(&dir, Path::new(""), keep)
}

fn remove_below(dir: &OwnedFd, path: &Path, keep: &[&str]) -> Result<(), CopyError> {
    let entries = Dir::read_from(dir.as_fd()).map_err(fail(path, "can't list it"))?;
    let mut names: Vec<CString> = Vec::new();
    for entry in entries {
        let name = entry.map_err(fail(path, "can't list it"))?.file_name().to_owned();
        let kept = name.to_str().is_ok_and(|name| keep.contains(&name));
        if !kept && !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    for name in names {
        let path = path.join(name.to_string_lossy().as_ref());
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(fail(&path, "can't remove it")(error)),
        }
        let below = rustix::fs::openat(dir, &name, DIR_FLAGS, Mode::empty())
            .map_err(fail(&path, "can't open it"))?;
        remove_below(&below, &path, &[])?;
        rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)
            .map_err(fail(&path, "can't remove it"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

    #[test]
    fn everything_the_disk_knows_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::create_dir(&to).unwrap();
        let file = std::fs::File::create(from.join("sub/sparse")).unwrap();
        file.write_all_at(b"data", 5 << 20).unwrap();
        file.set_len(9 << 20).unwrap();
        let named = rustix::fs::fsetxattr(&file, "user.cmkfs.x", b"v", XattrFlags::empty());
        file.set_permissions(std::fs::Permissions::from_mode(0o4751)).unwrap();
        std::fs::hard_link(from.join("sub/sparse"), from.join("sub/other")).unwrap();
        symlink("nowhere", from.join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            from.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o640),
            0,
        )
        .unwrap();
        std::fs::write(from.join("lock"), "not copied").unwrap();
        copy_tree(&from, &to, &["lock"]).unwrap();

        let [found, wanted] = [&to, &from].map(|root| root.join("sub/sparse").metadata().unwrap());
        assert_eq!((found.len(), found.mode()), (wanted.len(), wanted.mode()));
        assert_eq!((found.mtime(), found.mtime_nsec()), (wanted.mtime(), wanted.mtime_nsec()));
        assert!(found.blocks() < 1000, "{} blocks are no hole", found.blocks());
        assert_eq!(found.nlink(), 2);
        assert_eq!(to.join("sub/other").metadata().unwrap().ino(), found.ino());
        let mut data = [0; 4];
        let copy = std::fs::File::open(to.join("sub/sparse")).unwrap();
        copy.read_exact_at(&mut data, 5 << 20).unwrap();
        assert_eq!(&data, b"data");
        if named.is_ok() {
            let mut value = [0; 9];
            assert_eq!(rustix::fs::fgetxattr(&copy, "user.cmkfs.x", &mut value[..]), Ok(1));
        }
        assert_eq!(to.join("link").read_link().unwrap(), Path::new("nowhere"));
        assert_eq!(to.join("pipe").symlink_metadata().unwrap().mode(), 0o10640);
        assert!(!to.join("lock").exists());

        remove_tree(&from, &["lock"]).unwrap();
        let left: Vec<_> = from.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    }
}
