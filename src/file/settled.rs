//! Files that were closed with everything on the disk: replacing something by one of them needs no
//! sync. A program that synced what it wrote does not pay for it again.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Inodes that are remembered. A program seldom syncs more files than this before it renames the
/// first; one that is forgotten costs a sync more.
const SETTLED_MAX: usize = 4096;

/// Their inode numbers. None of them is open: what is open knows better.
#[derive(Debug, Default)]
pub(in crate::file) struct Settled(Mutex<HashSet<u64>>);

impl Settled {
    fn with<T>(&self, work: impl FnOnce(&mut HashSet<u64>) -> T) -> T {
        // A panic elsewhere leaves it consistent: each change of it is whole.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A file was closed.
    pub(in crate::file) fn closed(&self, ino: u64, settled: bool) {
        self.with(|inodes| {
            if !settled {
                inodes.remove(&ino);
                return;
            }
            if inodes.len() >= SETTLED_MAX {
                inodes.clear();
            }
            inodes.insert(ino);
        });
    }

    /// A file is opened. Returns whether all of it is on the disk, as far as is known.
    pub(in crate::file) fn take(&self, ino: u64) -> bool {
        self.with(|inodes| inodes.remove(&ino))
    }

    /// Whether all of a file that is closed is on the disk, as far as is known.
    pub(in crate::file) fn has(&self, ino: u64) -> bool {
        self.with(|inodes| inodes.contains(&ino))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_never_of_an_open_file() {
        let settled = Settled::default();
        settled.closed(7, true);
        settled.closed(8, false);
        assert!(settled.has(7) && !settled.has(8));
        assert!(settled.take(7) && !settled.take(7) && !settled.has(7));
        settled.closed(9, true);
        settled.closed(9, false);
        assert!(!settled.has(9));
        for ino in 0..3 * SETTLED_MAX as u64 {
            settled.closed(ino, true);
            assert!(settled.has(ino));
        }
        assert!(settled.with(|inodes| inodes.len()) <= SETTLED_MAX);
    }
}
