//! Which committed state of a file those outside may have kept, where another process changes the
//! volume. What was kept of that very state is right still, and need not be read again.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// Files that are remembered, about 100 bytes each. One that is forgotten is read again.
const SEEN_MAX: NonZero<usize> = NonZero::new(16_384).expect("not zero");

/// How long ago a state has to have been seen first: the answer that made those outside forget the
/// one before may still be on its way to them.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// The state that each inode had when it was last opened, and since when.
#[derive(Debug)]
pub(in crate::fs) struct Seen(Mutex<LruCache<u64, ([u8; 28], Instant)>>);

impl Default for Seen {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(SEEN_MAX)))
    }
}

impl Seen {
    /// A file is opened in this state. Whether it was in the same a while ago.
    pub(in crate::fs) fn again(&self, ino: u64, state: [u8; 28]) -> bool {
        // A panic elsewhere leaves it consistent: each change of it is whole.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(&ino) {
            Some((known, since)) if *known == state => since.elapsed() > SETTLED_AFTER,
            _ => {
                seen.put(ino, (state, Instant::now()));
                false
            }
        }
    }
}
