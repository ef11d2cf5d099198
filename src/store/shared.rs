//! Whether another machine may have a filesystem too, whose locks this one does not see.

use std::os::fd::AsFd;

/// Types of filesystems that one machine at a time has (statfs(2)): there flock(2) is all there is
/// to know. A filesystem that is not named here may be another machine's too.
const LOCAL: &[u32] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0x3153_464a, // JFS
    0xca45_1a4e, // bcachefs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
];

/// Whether a process of another machine may have what is below this directory.
pub(in crate::store) fn may_be_shared(fd: &impl AsFd) -> bool {
    // The type has 32 bits, whatever the width of its field, and the sign may be extended.
    let kind = |found: rustix::fs::StatFs| (found.f_type.cast_unsigned() & 0xffff_ffff) as u32;
    !rustix::fs::fstatfs(fd).is_ok_and(|found| LOCAL.contains(&kind(found)))
}
