//! Giving memory back to the system.

/// Gives the pages of freed memory back. The allocator of glibc keeps what lies between blocks
/// that are still in use, for a million forgotten inodes some hundred megabytes; other allocators
/// give back by themselves. Takes milliseconds, in which allocations may wait.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "a call without arguments that could be wrong")]
pub fn give_back_memory() {
    // SAFETY: malloc_trim(3) is safe to call from any thread at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Nothing to do for this allocator.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_memory() {}
