//! Looking for the kernel's next request for a moment before a thread waits for it.
//!
//! Whoever makes one request after another waits for each reply, and the thread that replied for
//! the next request. To wake a processor that was halted meanwhile costs more than most requests
//! do: 30 to 60 us on a virtual machine. So a thread that has replied looks again and again for a
//! short while, as long as that mostly finds one; where it does not, it looks only now and then.

use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a thread looks: a program that goes on asks again within this time, also where its own
/// processor has to be woken first.
const LINGER: Duration = Duration::from_micros(50);
/// Looks in a row that find nothing before it is not worth it.
const MISSES_MAX: u32 = 8;
/// From then on one reply in so many is followed by a look.
const PROBE_EVERY: u32 = 16;
/// Pauses of the processor between two looks, about 1 us: a look is a system call.
const PAUSES: u32 = 20;

/// What the threads of a mount share for it.
#[derive(Debug)]
pub(in crate::fuse) struct Linger {
    /// The kernel's device, by a descriptor that only looks.
    device: OwnedFd,
    /// Threads that look now, and may do so at once: those that ask need processors too.
    looking: AtomicUsize,
    looking_max: usize,
    /// Misses that are left.
    left: AtomicU32,
    /// Replies that no look followed since.
    skipped: AtomicU32,
}

impl Linger {
    /// For a mount that is served through `device`.
    ///
    /// # Errors
    /// The system's, out of descriptors.
    pub(in crate::fuse) fn new(device: impl AsFd) -> std::io::Result<Self> {
        let processors = available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            device: device.as_fd().try_clone_to_owned()?,
            looking: AtomicUsize::new(0),
            looking_max: if processors < 2 { 0 } else { processors.div_ceil(2).max(2) },
            left: AtomicU32::new(MISSES_MAX),
            skipped: AtomicU32::new(0),
        })
    }

    /// To be called after a reply: returns when there is a request, or none came soon.
    pub(in crate::fuse) fn after_reply(&self) {
        if !self.is_worth_it() {
            return;
        }
        let others = self.looking.fetch_add(1, Ordering::Relaxed);
        let found = (others < self.looking_max).then(|| self.look());
        self.looking.fetch_sub(1, Ordering::Relaxed);
        let Some(found) = found else { return };
        // Counts of several threads may get lost: nothing but speed depends on them.
        let left = self.left.load(Ordering::Relaxed);
        let left = if found { MISSES_MAX } else { left.saturating_sub(1) };
        self.left.store(left, Ordering::Relaxed);
    }

    fn is_worth_it(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0
            || self.skipped.fetch_add(1, Ordering::Relaxed).is_multiple_of(PROBE_EVERY)
    }

    fn look(&self) -> bool {
        let begun = Instant::now();
        loop {
            let mut device = [PollFd::new(&self.device, PollFlags::IN)];
            // Whatever it says but that there is nothing, the thread that reads hears too.
            if poll(&mut device, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0) {
                return true;
            }
            if begun.elapsed() > LINGER {
                return false;
            }
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_never_finds_a_request_stops_looking_but_for_a_probe() {
        let (quiet, mut asking) = std::io::pipe().expect("two descriptors");
        let linger = Linger { looking_max: 1, ..Linger::new(&quiet).expect("one more") };
        for _ in 0..MISSES_MAX {
            assert!(linger.is_worth_it());
            linger.after_reply();
        }
        assert_eq!((0..32).filter(|_| linger.is_worth_it()).count(), 2);
        std::io::Write::write_all(&mut asking, b"request").expect("a pipe has room");
        while linger.left.load(Ordering::Relaxed) == 0 {
            linger.after_reply();
        }
        assert!(linger.is_worth_it() && linger.is_worth_it());
        assert_eq!(linger.looking.load(Ordering::Relaxed), 0);
    }
}
