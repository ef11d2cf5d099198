//! Memory that is zeroed when freed, for code that is not ours and handles a key: the AWS SDK, its
//! HTTP and TLS. Own types zero themselves.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem::MaybeUninit;

use zeroize::Zeroize;

#[global_allocator]
static ALLOCATOR: Scrubbing = Scrubbing;

thread_local! {
    /// Constant and without a destructor, so that the allocator may read it at any time.
    static SCRUB: Cell<bool> = const { Cell::new(false) };
}

/// Whatever this thread frees while `work` runs is zeroed first. Slow for large blocks.
pub fn scrubbing<T>(work: impl FnOnce() -> T) -> T {
    /// Puts the mark back on a panic too.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            SCRUB.set(self.0);
        }
    }
    let _before = Before(SCRUB.replace(true));
    work()
}

/// Below the frames that stay, more than a request or a checkpoint takes: what is sealed and opened
/// takes up to 25 KiB without optimization.
const STACK_LEN: usize = 48 << 10;

/// Zeroes what calls that have returned left on the stack of this thread: the compiler copies keys,
/// and ciphers take blocks apart there. Takes about 1 us.
#[inline(never)]
pub fn scrub_stack() {
    let room = [0_u64; STACK_LEN / size_of::<u64>()];
    zeroize::optimization_barrier(&room);
}

/// The system's allocator, but for [`scrubbing`].
struct Scrubbing;

#[allow(unsafe_code, reason = "what the trait demands; each call is passed on as it came")]
// SAFETY: every block comes from `System` and goes back to it with the layout it was made with.
unsafe impl GlobalAlloc for Scrubbing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the trait's contract, which is that of this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if SCRUB.get() {
            let bytes = block.cast::<MaybeUninit<u8>>();
            // SAFETY: the caller gives up a block of this size, so it is valid and nobody else's.
            let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, layout.size()) };
            // By volatile writes: plain ones before a free are dead and would be left out.
            bytes.zeroize();
        }
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !SCRUB.get() {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, size) };
        }
        // The system's may leave the old block behind as it is.
        // SAFETY: the caller vouches that `size`, rounded up to the alignment, fits `isize`.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the trait rules out a size of zero.
        let target = unsafe { self.alloc(new) };
        if !target.is_null() {
            let length = layout.size().min(size);
            // SAFETY: two blocks of at least this length; the new one overlaps no other.
            unsafe { std::ptr::copy_nonoverlapping(block, target, length) };
            // SAFETY: as above; the caller does not use the old block again.
            unsafe { self.dealloc(block, layout) };
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_and_shrinking_keep_the_content() {
        scrubbing(|| {
            let mut bytes: Vec<u8> = Vec::with_capacity(1);
            bytes.extend((0..10_000).map(|at| u8::try_from(at % 251).unwrap()));
            bytes.truncate(5_000);
            bytes.shrink_to_fit();
            assert!(bytes.iter().zip(0..).all(|(byte, at)| usize::from(*byte) == at % 251));
        });
    }

    #[test]
    fn the_mark_is_put_back_also_after_a_panic() {
        scrubbing(|| {
            scrubbing(|| ());
            assert!(SCRUB.get());
        });
        assert!(!SCRUB.get());
        std::panic::catch_unwind(|| scrubbing(|| panic!("on purpose"))).unwrap_err();
        assert!(!SCRUB.get());
    }
}
