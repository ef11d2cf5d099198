//! Giving memory back to the system.

use rustix::mm::munlockall;

use crate::sys::protect;

/// Gives the pages of freed memory back. The allocator of glibc keeps what lies between blocks
/// that are still in use, for a million forgotten inodes some hundred megabytes; other allocators
/// give back by themselves. Takes milliseconds, in which allocations may wait.
///
/// Linux takes no page back that is locked. So the lock is opened for the moment, which harms
/// nobody where there is no swap; where there is some, the pages stay and are used again.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "a call without arguments that could be wrong")]
pub fn give_back_memory() {
    let locked = protect::is_locked();
    if locked && (rustix::system::sysinfo().totalswap > 0 || munlockall().is_err()) {
        return;
    }
    // SAFETY: malloc_trim(3) is safe to call from any thread at any time.
    unsafe { libc::malloc_trim(0) };
    if locked && let Err(error) = protect::lock_all() {
        tracing::error!(%error, "memory is not locked any more and may be swapped");
    }
}

/// Nothing to do for this allocator.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_memory() {}
