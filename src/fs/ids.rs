//! Numbers by which those outside name inodes and handles, and what goes with them.

use crate::file::{Access, Stat};

/// An inode: the lower inode number, except that the root is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub u64);

impl InodeId {
    /// The root directory; FUSE fixes the number.
    pub const ROOT: Self = Self(1);

    /// One of 2^`places_log2` places, evenly spread: lower filesystems give directories numbers
    /// with a common distance. Fibonacci hashing, with the golden ratio in 64 bits.
    pub(in crate::fs) fn spread(self, places_log2: u32) -> usize {
        let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        usize::try_from(mixed >> (64 - places_log2)).expect("a few bits")
    }
}

/// An open file or directory stream. Never given out twice, so that a handle used after its
/// release is an error instead of somebody else's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// What is known of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Its number; `stat.ino` is the lower one.
    pub ino: InodeId,
    /// Tells apart two inodes that had the same number one after the other.
    pub generation: u64,
    /// Size, owner, times.
    pub stat: Stat,
    /// Whether it may be remembered until something changes it. Not so while the file has
    /// changes that are not committed, because committing them changes its blocks.
    pub settled: bool,
}

/// What a write through a handle waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Nothing.
    No,
    /// The data, as `O_DSYNC` asks.
    Data,
    /// Data and attributes, as `O_SYNC` asks.
    All,
}

/// What becomes of the set-id bits and capabilities of a file whose content changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// The caller may set them, so the set-id bits stay.
    Keep,
    /// They go: who may write to a program must not gain what it was trusted with.
    Drop,
}

/// How a file is opened: the flags of open(2) that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags {
    /// For reading only, or also for writing.
    pub access: Access,
    /// What each write waits for.
    pub sync: Sync,
    /// Fail if it is there.
    pub exclusive: bool,
    /// Empty it if it is there.
    pub truncate: bool,
}

impl OpenFlags {
    /// For reading, nothing else asked.
    pub const READ: Self =
        Self { access: Access::Read, sync: Sync::No, exclusive: false, truncate: false };
    /// For reading and writing, nothing else asked.
    pub const WRITE: Self = Self { access: Access::Write, ..Self::READ };

    /// From the flags of open(2).
    pub fn from_bits(bits: i32) -> Self {
        let has = |flag: i32| bits & flag == flag;
        let access = match bits & libc::O_ACCMODE {
            libc::O_RDONLY => Access::Read,
            _ => Access::Write,
        };
        // O_SYNC has the bit of O_DSYNC and one more.
        let sync = match (has(libc::O_SYNC), has(libc::O_DSYNC)) {
            (true, _) => Sync::All,
            (false, true) => Sync::Data,
            (false, false) => Sync::No,
        };
        Self { access, sync, exclusive: has(libc::O_EXCL), truncate: has(libc::O_TRUNC) }
    }
}
