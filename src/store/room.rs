//! How many descriptors this process may still open.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::process::{Resource, getrlimit};

use crate::limits::DESCRIPTORS_SPARE;
use crate::store::dir::StoreDir;

/// Of few descriptors, no larger part than one in so many is spared.
const SPARED_PART: u64 = 4;
/// Descriptors that may come into use for each look that was left out: an open file, what keeps one
/// that is removed, a directory, and one that is opened beside all this.
const OPENED_MAX: u64 = 4;

/// Looks that can be left out, because there was room for far more. Of the whole process, as
/// descriptors are.
static UNNEEDED: AtomicI64 = AtomicI64::new(0);

impl StoreDir {
    /// Whether at least `spare` descriptors are left once one more is open. The system gives the
    /// lowest number that is free, so that all below it are in use; above it some may be, which
    /// are then not seen.
    pub fn has_descriptors(&self, spare: u64) -> bool {
        // Three system calls a look: with room for thousands, one look for many files will do.
        if spare <= DESCRIPTORS_SPARE && UNNEEDED.fetch_sub(1, Ordering::Relaxed) > 0 {
            return true;
        }
        let Some(limit) = getrlimit(Resource::Nofile).current else { return true };
        let left = |spare: u64| limit - spare.min(limit / SPARED_PART);
        let next = rustix::io::fcntl_dupfd_cloexec(self, 0);
        let Ok(Ok(number)) = next.map(|next| u64::try_from(next.as_raw_fd())) else { return false };
        let room = left(DESCRIPTORS_SPARE).saturating_sub(number) / 2 / OPENED_MAX;
        UNNEEDED.store(i64::try_from(room).unwrap_or(0), Ordering::Relaxed);
        number < left(spare)
    }
}
