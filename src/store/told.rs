//! What is told of stored objects in the log: where they lie, and once, not again and again.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// How soon the same thing is told again.
const AGAIN: Duration = Duration::from_mins(1);
/// Things that are remembered; beyond that the oldest is told again sooner.
const TOLD_MAX: NonZero<usize> = NonZero::new(1024).expect("not zero");

/// Random keys, so that nobody can make one thing look like another that was told.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
static TOLD: LazyLock<Mutex<LruCache<u64, Instant>>> =
    LazyLock::new(|| Mutex::new(LruCache::new(TOLD_MAX)));

/// Whether something was not told in the last minute; from now on it was. Whoever tries a read
/// again and again, as the kernel does page by page, must not fill a disk with the log of it.
pub fn is_news(what: &impl Hash) -> bool {
    let key = HASHER.hash_one(what);
    let now = Instant::now();
    // A panic elsewhere leaves the table consistent: each change of it is whole.
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.peek(&key).is_some_and(|at| now.duration_since(*at) < AGAIN) {
        return false;
    }
    told.put(key, now);
    true
}

/// Path of what is open, as the system has it at this moment. `None` where it does not tell: in
/// `/proc` a process that may not be dumped and is not root can't look.
pub fn path_of(open: &(impl AsFd + ?Sized)) -> Option<PathBuf> {
    let link = format!("/proc/self/fd/{}", open.as_fd().as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new()).ok()?;
    Some(std::ffi::OsString::from_vec(path.into_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_no_news() {
        assert!(is_news(&("block", 1)));
        assert!(is_news(&("block", 2)));
        assert!(!is_news(&("block", 1)));
    }

    #[test]
    fn an_open_file_has_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        let file = std::fs::File::create(&old).unwrap();
        std::fs::rename(old, &new).unwrap();
        assert_eq!(path_of(&file), Some(new.canonicalize().unwrap()));
    }
}
