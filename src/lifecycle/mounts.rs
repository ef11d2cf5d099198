//! What is mounted here, as the kernel tells it, and who uses it.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::fuse::{self, MountInfo};
use crate::limits::BUSY_NAMED_MAX;

/// Filesystem type of our mounts.
pub const FS_TYPE: &str = "fuse.cmkfs";

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Fails with `EBUSY` while the mount is in use.
    WhenUnused,
    /// Takes the mount out of the tree at once; files that are open stay usable.
    AtOnce,
}

/// A mount of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OurMount {
    /// Where.
    pub mountpoint: PathBuf,
    /// The store.
    pub store: PathBuf,
}

fn our(mount: MountInfo) -> Option<OurMount> {
    let is_ours = mount.kind == FS_TYPE;
    is_ours.then(|| OurMount { mountpoint: mount.path, store: mount.source.into() })
}

/// Mounts of cmkfs, in the order of mounting.
///
/// # Errors
/// The system's.
pub fn ours() -> io::Result<Vec<OurMount>> {
    Ok(fuse::mounts()?.into_iter().filter_map(our).collect())
}

/// The mount of ours that is on top at exactly this path.
///
/// # Errors
/// The system's.
pub fn at(mountpoint: &Path) -> io::Result<Option<OurMount>> {
    Ok(fuse::mount_at(mountpoint)?.and_then(our))
}

/// Mountpoints at which this store is mounted, in the order of mounting.
///
/// # Errors
/// The system's.
pub fn of_store(store: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = ours()?.into_iter().filter(|mount| mount.store == store);
    Ok(mounts.map(|mount| mount.mountpoint).collect())
}

/// The path without links and dots. Works at a mountpoint whose daemon is dead, too.
///
/// # Errors
/// The system's.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let absolute = std::path::absolute(path)?;
            let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
                return Err(error);
            };
            Ok(parent.canonicalize()?.join(name))
        }
        other => other,
    }
}

/// Unmounts, as root by umount(2), otherwise by fusermount3.
///
/// # Errors
/// `ResourceBusy` if it is in use; else the system's or what fusermount3 said.
pub fn detach(mountpoint: &Path, how: Detach) -> io::Result<()> {
    let flags = match how {
        Detach::WhenUnused => UnmountFlags::NOFOLLOW,
        Detach::AtOnce => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(mountpoint, flags) {
        Err(Errno::PERM) => by_helper(mountpoint, how),
        other => Ok(other?),
    }
}

fn by_helper(mountpoint: &Path, how: Detach) -> io::Result<()> {
    let flag = match how {
        Detach::WhenUnused => "-u",
        Detach::AtOnce => "-uz",
    };
    let output = Command::new("fusermount3").arg(flag).arg("--").arg(mountpoint).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind =
        if text.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, text))
}

/// Processes with a file, working directory or root below the path, as `name (pid N)`; a bounded
/// number of them, and only those that this user may look into.
pub fn users_of(mountpoint: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for process in processes.flatten() {
        let name = process.file_name();
        let is_process = name.as_bytes().iter().all(u8::is_ascii_digit);
        if !is_process || name.as_bytes() == own.as_bytes() {
            continue;
        }
        if uses(&process.path(), mountpoint) {
            let comm = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("{} (pid {})", comm.trim(), name.to_string_lossy()));
        }
        if found.len() == BUSY_NAMED_MAX {
            break;
        }
    }
    found
}

fn uses(process: &Path, mountpoint: &Path) -> bool {
    let below = |link: PathBuf| std::fs::read_link(link).is_ok_and(|to| to.starts_with(mountpoint));
    let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let maps = std::fs::read_dir(process.join("map_files")).into_iter().flatten().flatten();
    ["cwd", "root", "exe"].into_iter().any(|name| below(process.join(name)))
        || files.chain(maps).any(|entry| below(entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_makes_its_process_a_user() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("60").current_dir(dir.path()).spawn().unwrap();
        let found = users_of(dir.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&format!("sleep (pid {})", child.id())), "{found:?}");
    }
}
