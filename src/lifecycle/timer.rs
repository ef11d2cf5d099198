//! Work that is done every so often until it is told to end.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::sys::scrub_stack;

/// A thread that works, and waits. Stop it: dropped, it goes on.
#[derive(Debug)]
pub(in crate::lifecycle) struct Timer {
    name: &'static str,
    stopped: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

/// A flag has no state that a panic could leave half changed.
fn locked(flag: &Mutex<bool>) -> MutexGuard<'_, bool> {
    flag.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Timer {
    /// Works `interval` from now for the first time, and then after each time.
    pub(in crate::lifecycle) fn start(
        name: &'static str,
        interval: Duration,
        mut work: impl FnMut() + Send + 'static,
    ) -> Self {
        let stopped = Arc::new((Mutex::new(false), Condvar::new()));
        let seen = Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            let (flag, changed) = &*seen;
            let mut stopped = locked(flag);
            let mut due = Instant::now() + interval;
            while !*stopped {
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    drop(stopped);
                    work();
                    scrub_stack();
                    due = Instant::now() + interval;
                    stopped = locked(flag);
                } else {
                    let waited = changed.wait_timeout(stopped, left);
                    stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        });
        Self { name, stopped, thread }
    }

    /// Returns when it has ended, after the work that it is at.
    pub(in crate::lifecycle) fn stop(self) {
        *locked(&self.stopped.0) = true;
        self.stopped.1.notify_all();
        if self.thread.join().is_err() {
            tracing::error!("{}: the timer has panicked", self.name);
        }
    }
}
