//! Attributes of an object, with plaintext sizes.

use crate::format::geometry::Geometry;
use crate::store::LowerStat;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix domain socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl Kind {
    /// From the disk's own word; `None` for what Linux does not have.
    pub(in crate::file) fn from_lower(kind: rustix::fs::FileType) -> Option<Self> {
        use rustix::fs::FileType;
        Some(match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => return None,
        })
    }
}

/// A point in time since 1970 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds.
    pub s: i64,
    /// Nanoseconds, below 10^9.
    pub ns: u32,
}

impl Time {
    /// Now.
    pub(in crate::file) fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Self { s: now.tv_sec, ns: u32::try_from(now.tv_nsec).unwrap_or(0) }
    }

    /// Nanoseconds from `earlier` to this; 0 if it is not earlier.
    pub(in crate::file) fn ns_since(self, earlier: Self) -> u64 {
        let ns = |time: Self| i128::from(time.s) * 1_000_000_000 + i128::from(time.ns);
        u64::try_from(ns(self) - ns(earlier)).unwrap_or(0)
    }
}

/// Attributes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Inode number, that of the stored object.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, including set-id and sticky.
    pub mode: u32,
    /// Hard links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u64,
    /// Bytes of plaintext.
    pub size: u64,
    /// Space taken in the store, in 512-byte units.
    pub blocks: u64,
    /// Bytes that are read and written well at once.
    pub block_size: u32,
    /// Last access.
    pub atime: Time,
    /// Last modification.
    pub mtime: Time,
    /// Last change of attributes or content.
    pub ctime: Time,
}

impl Stat {
    /// From what the disk says. The size of a link is still that of its lower text.
    pub(in crate::file) fn from_lower(stat: &LowerStat, geometry: Geometry) -> Option<Self> {
        let kind = Kind::from_lower(rustix::fs::FileType::from_raw_mode(stat.st_mode))?;
        let lower_size = u64::try_from(stat.st_size).unwrap_or(0);
        let time = |s: i64, ns: u64| Time { s, ns: u32::try_from(ns).unwrap_or(0) };
        Some(Self {
            ino: stat.st_ino,
            kind,
            mode: stat.st_mode & 0o7777,
            nlink: stat.st_nlink,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            size: match kind {
                Kind::File => geometry.plain_len(lower_size),
                _ => lower_size,
            },
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            block_size: u32::try_from(geometry.block_size().bytes()).unwrap_or(4096),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        })
    }
}
