//! Giving memory back to the system.

use rustix::mm::munlockall;

use crate::sys::protect;

/// Makes all threads allocate from one heap. glibc gives each thread one of its own, and what is
/// free at the end of those no call gives back: some ten megabytes a thread stay once many inodes
/// were known. Waiting for each other costs little beside the system calls of a request. Call it
/// before other threads run.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "a call with two numbers that are right")]
pub fn keep_one_heap() {
    // SAFETY: mallopt(3) changes how later allocations are made, and nothing about earlier ones.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 0 {
        tracing::debug!("each thread keeps a heap of its own");
    }
}

/// Nothing to do for this allocator.
#[cfg(not(target_env = "gnu"))]
pub fn keep_one_heap() {}

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
