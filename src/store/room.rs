//! How many descriptors this process may still open.

use std::os::fd::AsRawFd;

use rustix::process::{Resource, getrlimit};

use crate::store::dir::StoreDir;

/// Of few descriptors, no larger part than one in so many is spared.
const SPARED_PART: u64 = 4;

impl StoreDir {
    /// Whether at least `spare` descriptors are left once one more is open. The system gives the
    /// lowest number that is free, so that all below it are in use; above it some may be, which
    /// are then not seen.
    pub fn has_descriptors(&self, spare: u64) -> bool {
        let Some(limit) = getrlimit(Resource::Nofile).current else { return true };
        let end = limit - spare.min(limit / SPARED_PART);
        let next = rustix::io::fcntl_dupfd_cloexec(self, 0);
        next.is_ok_and(|next| u64::try_from(next.as_raw_fd()).is_ok_and(|number| number < end))
    }
}
