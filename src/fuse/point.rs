//! What is at a mountpoint, by `/proc/self/mountinfo` (proc(5)): what is mounted there would only
//! speak for itself.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::fuse::error::MountError;

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Where.
    pub path: PathBuf,
    /// Major and minor number of its device.
    pub device: (u32, u32),
    /// Its type, such as `fuse.cmkfs`.
    pub kind: String,
    /// What is mounted; for a volume, its store.
    pub source: String,
}

impl MountInfo {
    /// Whether a process serves it, rather than the kernel alone.
    pub fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.") || self.kind == "fuseblk"
    }

    /// From a line of mountinfo.
    fn parse(line: &[u8]) -> Option<Self> {
        let text = |field: &[u8]| String::from_utf8_lossy(&unescaped(field)).into_owned();
        let mut fields = line.split(|byte| *byte == b' ');
        let device = text(fields.nth(2)?);
        let (major, minor) = device.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let path = PathBuf::from(OsString::from_vec(unescaped(fields.nth(1)?)));
        // Any number of optional fields, then a dash.
        fields.find(|field| *field == b"-")?;
        let (kind, source) = (text(fields.next()?), text(fields.next()?));
        Some(Self { path, device, kind, source })
    }
}

/// A path as the kernel lists it in `/proc`: blanks and backslashes as `\` and three octal digits.
pub fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Everything that is mounted, in the order of mounting.
///
/// # Errors
/// The system's, where `/proc` can't be read.
pub fn mounts() -> io::Result<Vec<MountInfo>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(MountInfo::parse).collect())
}

/// What is mounted exactly at a path, on top; `path` is absolute, without links in it.
///
/// # Errors
/// The system's, where `/proc` can't be read.
pub fn mount_at(path: &Path) -> io::Result<Option<MountInfo>> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.path == path))
}

/// The mountpoint as an absolute path, if a volume may be mounted there; `may_cover`: also if it
/// has entries.
///
/// # Errors
/// What is in the way.
pub fn checked(path: &Path, may_cover: bool) -> Result<PathBuf, MountError> {
    let real = path.canonicalize().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => MountError::Missing(path.into()),
        Some(libc::ENOTDIR) => MountError::NotDirectory(path.into()),
        _ => MountError::Unusable { path: path.into(), error },
    })?;
    let unusable = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOTCONN) => MountError::Dead(real.clone()),
        _ => MountError::Unusable { path: real.clone(), error },
    };
    let meta = std::fs::metadata(&real).map_err(unusable)?;
    // Without /proc the checks below still find a file system that has entries.
    let mounted = mount_at(&real).unwrap_or_default();
    if let Some(mount) = mounted.filter(|mount| mount.is_fuse() || !may_cover) {
        let (kind, source_name) = (mount.kind, mount.source);
        return Err(MountError::Already { path: real, kind, source_name });
    }
    if !meta.is_dir() {
        return Err(MountError::NotDirectory(real));
    }
    if !may_cover {
        let mut entries = std::fs::read_dir(&real).map_err(unusable)?;
        if let Some(entry) = entries.next().transpose().map_err(unusable)? {
            let found = entry.file_name().to_string_lossy().into_owned();
            return Err(MountError::NotEmpty { path: real, found });
        }
    }
    if real.as_os_str().as_bytes() == b"/" {
        return Err(MountError::NotEmpty { path: real, found: "the whole system".into() });
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = b"36 35 0:98 /mnt1 /mnt\\040two rw,noatime master:1 - fuse.cmkfs /a\\134b rw";
        let mount = MountInfo::parse(line).unwrap();
        assert_eq!(mount.path, Path::new("/mnt two"));
        assert_eq!((mount.device, &*mount.kind, &*mount.source), ((0, 98), "fuse.cmkfs", "/a\\b"));
        assert!(mount.is_fuse());
        let line = b"36 35 8:1 / / rw - ext4 /dev/sda1 rw";
        assert!(!MountInfo::parse(line).unwrap().is_fuse());
        assert_eq!(MountInfo::parse(b""), None);
        assert_eq!(MountInfo::parse(b"36 35 x / / rw - ext4 /dev/sda1 rw"), None);
    }

    #[test]
    fn escapes_are_three_octal_digits() {
        assert_eq!(unescaped(b"a\\011b\\"), b"a\tb\\");
        assert_eq!(unescaped(b"\\12"), b"\\12");
    }

    #[test]
    fn what_can_not_be_mounted_on_is_refused_with_its_code() {
        let dir = tempfile::tempdir().unwrap();
        let code = |path: &Path, may_cover| checked(path, may_cover).unwrap_err().exit_code();
        assert_eq!(code(&dir.path().join("none"), false), 30);
        let file = dir.path().join("file");
        assert!(checked(dir.path(), false).is_ok());
        std::fs::write(&file, "x").unwrap();
        assert_eq!(code(&file, false), 30);
        assert_eq!(code(dir.path(), false), 32);
        assert!(checked(dir.path(), true).is_ok());
        assert_eq!(code(Path::new("/proc"), false), 31);
        assert_eq!(code(Path::new("/"), true), 32);
    }
}
