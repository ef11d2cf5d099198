//! Work that several threads do and make more of. What is shared is bounded; a thread that finds
//! it full keeps its own for itself, deepest first.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Pieces of work that wait for any thread. Each may keep a directory open.
const SHARED_MAX: usize = 128;

struct Shared<T> {
    waiting: Vec<T>,
    /// Threads that have something to do, and may make more of it.
    busy: usize,
}

/// The work of a check.
pub(in crate::lifecycle::check) struct Queue<T> {
    shared: Mutex<Shared<T>>,
    changed: Condvar,
    ended: Condvar,
}

impl<T: Send> Queue<T> {
    pub(in crate::lifecycle::check) fn new(first: T) -> Self {
        let shared = Mutex::new(Shared { waiting: vec![first], busy: 0 });
        Self { shared, changed: Condvar::new(), ended: Condvar::new() }
    }

    fn shared(&self) -> MutexGuard<'_, Shared<T>> {
        // A panic elsewhere leaves it consistent: each change of it is whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<T> {
        let mut shared = self.shared();
        loop {
            if let Some(work) = shared.waiting.pop() {
                shared.busy += 1;
                return Some(work);
            }
            if shared.busy == 0 {
                return None;
            }
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self) {
        let mut shared = self.shared();
        shared.busy -= 1;
        if shared.busy == 0 && shared.waiting.is_empty() {
            self.changed.notify_all();
            self.ended.notify_all();
        }
    }

    /// Shares work, as far as there is room; the rest comes back.
    fn share(&self, made: &mut Vec<T>) {
        let mut shared = self.shared();
        while shared.waiting.len() < SHARED_MAX
            && let Some(work) = made.pop()
        {
            shared.waiting.push(work);
            self.changed.notify_one();
        }
    }

    /// What each thread does until there is nothing left: `act` on work, giving what it makes.
    pub(in crate::lifecycle::check) fn work(&self, act: impl Fn(T) -> Vec<T>) {
        while let Some(work) = self.take() {
            // Counted as busy until this ends, also by a panic, or the others would wait for ever.
            let _ends = Ends(self);
            let mut own = act(work);
            self.share(&mut own);
            while let Some(work) = own.pop() {
                own.extend(act(work));
                self.share(&mut own);
            }
        }
    }

    /// Calls `look` every so often until all is done.
    pub(in crate::lifecycle::check) fn watch(&self, every: Duration, look: &mut dyn FnMut()) {
        loop {
            let shared = self.shared();
            if shared.busy == 0 && shared.waiting.is_empty() {
                return;
            }
            let waited = self.ended.wait_timeout(shared, every);
            drop(waited);
            look();
        }
    }
}

struct Ends<'a, T: Send>(&'a Queue<T>);

impl<T: Send> Drop for Ends<'_, T> {
    fn drop(&mut self) {
        self.0.done();
    }
}
