//! Keeps names still while they are followed. An operation on an inode finds it by a name it is
//! known under; were that name moved and given to another file in between, the operation would
//! hit the other file. So whoever follows a name of a directory reads its lock, and whoever takes
//! one away (unlink, rmdir, rename) writes it. Making names takes nothing away, and reads.
//!
//! A few locks serve all directories. Two are taken in the order of their places, and none while
//! another is held, so no two operations wait for each other.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::fs::ids::InodeId;

const LOCKS_LOG2: u32 = 6;
const LOCKS: usize = 1 << LOCKS_LOG2;

/// The locks of all directories.
#[derive(Debug)]
pub(in crate::fs) struct NameGuards([RwLock<()>; LOCKS]);

/// Names of one or two directories stay; they may be added to.
pub(in crate::fs) type Following<'a> = (RwLockReadGuard<'a, ()>, Option<RwLockReadGuard<'a, ()>>);

/// Nobody else follows names of one or two directories.
pub(in crate::fs) type Taking<'a> = (RwLockWriteGuard<'a, ()>, Option<RwLockWriteGuard<'a, ()>>);

/// The places of two directories' locks in the order in which they are taken; one if they share.
fn places(one: InodeId, two: InodeId) -> (usize, Option<usize>) {
    let place = |dir: InodeId| dir.spread(LOCKS_LOG2);
    let (one, two) = (place(one), place(two));
    (one.min(two), (one != two).then_some(one.max(two)))
}

impl NameGuards {
    pub(in crate::fs) fn new() -> Self {
        Self(std::array::from_fn(|_| RwLock::new(())))
    }

    // The locks hold nothing that a panic could have left half done.
    fn read(&self, place: usize) -> RwLockReadGuard<'_, ()> {
        self.0[place].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, place: usize) -> RwLockWriteGuard<'_, ()> {
        self.0[place].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// For following or making names in a directory.
    pub(in crate::fs) fn follow(&self, dir: InodeId) -> Following<'_> {
        self.follow_both(dir, dir)
    }

    /// For following or making names in two directories, which may be one.
    pub(in crate::fs) fn follow_both(&self, one: InodeId, two: InodeId) -> Following<'_> {
        let (first, second) = places(one, two);
        (self.read(first), second.map(|place| self.read(place)))
    }

    /// For taking away names of a directory.
    pub(in crate::fs) fn take(&self, dir: InodeId) -> Taking<'_> {
        self.take_both(dir, dir)
    }

    /// For taking away names of two directories, which may be one.
    pub(in crate::fs) fn take_both(&self, one: InodeId, two: InodeId) -> Taking<'_> {
        let (first, second) = places(one, two);
        (self.write(first), second.map(|place| self.write(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_locks_are_always_taken_in_the_same_order() {
        for one in 0..200 {
            for two in 0..200 {
                let (first, second) = places(InodeId(one), InodeId(two));
                assert_eq!((first, second), places(InodeId(two), InodeId(one)));
                assert!(second.is_none_or(|second| first < second), "{one} {two}");
            }
        }
    }
}
