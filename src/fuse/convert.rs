//! Between the kernel's types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, RenameFlags, TimeOrNow};

use crate::fs::{
    Allocate, Attr, FsError, InodeId, Kind, Listed, NodeKind, RenameMode, Seek, SetTime, Time,
    XattrMode,
};

/// How long the kernel may remember names and attributes of a mount that can be written to. Nobody
/// else changes the volume then (the store is locked), and the kernel sees each change that is made
/// through it, so this could be for ever; an hour lets a mistake end. A mount for reading only may
/// have a writer beside it, and the kernel remembers nothing of it.
pub(in crate::fuse) const TTL: Duration = Duration::from_secs(3600);

const BITS_LOW: u64 = u32::MAX as u64;

pub(in crate::fuse) fn inode(ino: INodeNo) -> InodeId {
    InodeId(ino.0)
}

/// The errno of a failure; a store's errno is never 0.
pub(in crate::fuse) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// Times beyond what `SystemTime` can say become the epoch.
fn system_time(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.s.unsigned_abs());
    let whole =
        if time.s < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    let time = whole.and_then(|at| at.checked_add(Duration::from_nanos(time.ns.into())));
    time.unwrap_or(UNIX_EPOCH)
}

/// The kernel counts nanoseconds forward from the second also before 1970; `fuser` 0.18 counts
/// them backward there, and this undoes that.
pub(in crate::fuse) fn set_time(time: TimeOrNow) -> SetTime {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs());
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => match time.duration_since(UNIX_EPOCH) {
            Ok(after) => SetTime::At(seconds(after).unwrap_or(i64::MAX), after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let s = seconds(before).map_or(i64::MIN, |s| -s);
                SetTime::At(s, before.subsec_nanos())
            }
        },
    }
}

/// How long the kernel may remember these.
pub(in crate::fuse) fn ttl(attr: &Attr) -> Duration {
    if attr.settled { TTL } else { Duration::ZERO }
}

pub(in crate::fuse) fn generation(attr: &Attr) -> Generation {
    Generation(attr.generation)
}

pub(in crate::fuse) fn file_attr(attr: &Attr) -> FileAttr {
    let stat = &attr.stat;
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: stat.size,
        blocks: stat.blocks,
        atime: system_time(stat.atime),
        mtime: system_time(stat.mtime),
        ctime: system_time(stat.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(stat.kind),
        perm: u16::try_from(stat.mode & 0o7777).expect("12 bits"),
        nlink: u32::try_from(stat.nlink).unwrap_or(u32::MAX),
        uid: stat.uid,
        gid: stat.gid,
        // The kernel's 32 bits of a device number are the lower half of stat(2)'s.
        rdev: u32::try_from(stat.rdev & BITS_LOW).expect("32 bits"),
        blksize: stat.block_size,
        flags: 0,
    }
}

/// Attributes that stand for none: nothing but the number and the kind.
fn blank(ino: u64, of: Kind, size: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(of),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The reply that lets the kernel remember that a name is not there.
pub(in crate::fuse) fn absent() -> FileAttr {
    blank(0, Kind::File, 0)
}

/// An entry of which only number and kind are known. The kernel lists it and, because of its
/// impossible size, takes nothing else from it; it then forgets the inode once (Linux 5.5 on).
pub(in crate::fuse) fn listed_only(entry: &Listed<'_>) -> FileAttr {
    blank(entry.ino.0, entry.kind, u64::MAX)
}

pub(in crate::fuse) fn file_type(entry: &Listed<'_>) -> FileType {
    kind(entry.kind)
}

/// What mknod(2) is to make; `None` for what can't be made so.
pub(in crate::fuse) fn node_kind(mode: u32, rdev: u32) -> Option<NodeKind> {
    match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => Some(NodeKind::File),
        libc::S_IFIFO => Some(NodeKind::Fifo),
        libc::S_IFSOCK => Some(NodeKind::Socket),
        libc::S_IFCHR => Some(NodeKind::CharDevice(rdev.into())),
        libc::S_IFBLK => Some(NodeKind::BlockDevice(rdev.into())),
        _ => None,
    }
}

/// `None` for flags that mean nothing here, such as those of a union mount.
pub(in crate::fuse) fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    match flags.bits() {
        0 => Some(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Some(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Some(RenameMode::Exchange),
        _ => None,
    }
}

/// `None` for modes that are not supported.
pub(in crate::fuse) fn allocate(mode: i32) -> Option<Allocate> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match (mode & !libc::FALLOC_FL_KEEP_SIZE, keep_size) {
        (0, keep_size) => Some(Allocate::Reserve { keep_size }),
        (libc::FALLOC_FL_PUNCH_HOLE, true) => Some(Allocate::PunchHole),
        (libc::FALLOC_FL_ZERO_RANGE, keep_size) => Some(Allocate::ZeroRange { keep_size }),
        _ => None,
    }
}

/// `None` for what the kernel does itself.
pub(in crate::fuse) fn seek(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_DATA => Some(Seek::Data),
        libc::SEEK_HOLE => Some(Seek::Hole),
        _ => None,
    }
}

/// `None` for flags that setxattr(2) does not know.
pub(in crate::fuse) fn xattr_mode(flags: i32) -> Option<XattrMode> {
    const NEITHER: i32 = libc::XATTR_CREATE | libc::XATTR_REPLACE;
    match flags {
        0 => Some(XattrMode::Any),
        libc::XATTR_CREATE => Some(XattrMode::Create),
        libc::XATTR_REPLACE => Some(XattrMode::Replace),
        NEITHER => Some(XattrMode::Neither),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `fuser` 0.18 makes of the kernel's seconds and nanoseconds.
    fn as_fuser_gives_it(s: i64, ns: u32) -> TimeOrNow {
        let duration = Duration::new(s.unsigned_abs(), ns);
        let time = if s < 0 { UNIX_EPOCH - duration } else { UNIX_EPOCH + duration };
        TimeOrNow::SpecificTime(time)
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        for (s, ns) in [(0, 0), (1, 5), (-1, 0), (-1, 500_000_000), (-86400, 999_999_999)] {
            assert_eq!(set_time(as_fuser_gives_it(s, ns)), SetTime::At(s, ns));
            let shown = system_time(Time { s, ns });
            let since = match shown.duration_since(UNIX_EPOCH) {
                Ok(after) => i128::try_from(after.as_nanos()).unwrap(),
                Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap(),
            };
            assert_eq!(since, i128::from(s) * 1_000_000_000 + i128::from(ns), "{s} {ns}");
        }
    }

    #[test]
    fn impossible_times_are_shown_and_do_not_panic() {
        for s in [i64::MIN, i64::MAX] {
            system_time(Time { s, ns: 999_999_999 });
        }
    }

    #[test]
    fn flags_mean_what_linux_says() {
        assert_eq!(allocate(0), Some(Allocate::Reserve { keep_size: false }));
        assert_eq!(allocate(1), Some(Allocate::Reserve { keep_size: true }));
        assert_eq!(allocate(3), Some(Allocate::PunchHole));
        assert_eq!(allocate(2), None, "a hole never changes the size");
        assert_eq!(allocate(0x10), Some(Allocate::ZeroRange { keep_size: false }));
        assert_eq!(allocate(0x11), Some(Allocate::ZeroRange { keep_size: true }));
        assert_eq!(allocate(0x08), None, "collapsing a range is not supported");
        let rename = |bits| rename_mode(RenameFlags::from_bits_retain(bits));
        assert_eq!(rename(0), Some(RenameMode::Replace));
        assert_eq!(rename(1), Some(RenameMode::NoReplace));
        assert_eq!(rename(2), Some(RenameMode::Exchange));
        assert_eq!(rename(4), None, "a whiteout is for union mounts");
        assert_eq!(rename(3), None, "contradictory");
    }
}
