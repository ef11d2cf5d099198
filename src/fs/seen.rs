//! Which committed state of a file those outside may have kept, where another process changes the
//! volume. What was kept of that very state is right still, and need not be read again.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

/// Files that are remembered, about 100 bytes each. One that is forgotten is read again.
const SEEN_MAX: NonZero<usize> = NonZero::new(16_384).expect("not zero");

/// The state that each inode had when it was last opened.
#[derive(Debug)]
pub(in crate::fs) struct Seen(Mutex<LruCache<u64, [u8; 28]>>);

impl Default for Seen {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(SEEN_MAX)))
    }
}

impl Seen {
    /// A file is opened in this state. Whether it was in the same when it was opened before.
    pub(in crate::fs) fn again(&self, ino: u64, state: [u8; 28]) -> bool {
        // A panic elsewhere leaves it consistent: each change of it is whole.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.put(ino, state) == Some(state)
    }
}
