//! Open directories by inode: the most recently used stay open, so that a name costs one call to
//! the lower filesystem however deep its directory lies.

use std::num::NonZero;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::file::Dir;
use crate::fs::ids::InodeId;

/// The directories that are open.
#[derive(Debug)]
pub(in crate::fs) struct OpenDirs(Mutex<LruCache<InodeId, Dir>>);

impl OpenDirs {
    pub(in crate::fs) fn new(count: NonZero<usize>) -> Self {
        Self(Mutex::new(LruCache::new(count)))
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<InodeId, Dir>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::fs) fn get(&self, id: InodeId) -> Option<Dir> {
        self.lock().get(&id).cloned()
    }

    pub(in crate::fs) fn insert(&self, id: InodeId, dir: Dir) {
        // Closes the descriptor that it replaces, if any, after the lock is free again.
        let replaced = self.lock().push(id, dir);
        drop(replaced);
    }

    pub(in crate::fs) fn remove(&self, id: InodeId) {
        let removed = self.lock().pop(&id);
        drop(removed);
    }

    pub(in crate::fs) fn clear(&self) {
        self.lock().clear();
    }
}
