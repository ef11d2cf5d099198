//! What serves a mount: how a request is answered, whatever it asks, how long that takes, and what
//! is left of it then.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use crate::fs::{Door, Fs};
use crate::fuse::latency::{Asked, Latencies};
use crate::fuse::linger::Linger;
use crate::fuse::request::{Refuse, guarded};
use crate::sys::{Zeros, scrub_stack};

/// What serves a mount.
#[derive(Debug)]
pub(in crate::fuse) struct Adapter {
    pub(in crate::fuse) door: Arc<Door>,
    /// Whether the kernel checks permissions, and access control lists with them.
    pub(in crate::fuse) checks: bool,
    /// Whether the kernel gathers writes.
    pub(in crate::fuse) gathers: bool,
    /// Between two requests.
    pub(in crate::fuse) linger: Option<Linger>,
    /// How long they take.
    pub(in crate::fuse) latencies: Arc<Latencies>,
    /// What requests are overwritten with.
    pub(in crate::fuse) zeros: Zeros,
}

/// When a request was answered: the first time that this is told.
#[derive(Debug, Default)]
pub(in crate::fuse) struct Answered(Cell<Option<Instant>>);

impl Answered {
    /// It is answered now, unless it was before.
    pub(in crate::fuse) fn note(&self) {
        self.0.set(Some(self.at()));
    }

    fn at(&self) -> Instant {
        self.0.get().unwrap_or_else(Instant::now)
    }
}

impl Adapter {
    /// Answers a request, whatever comes; see [`guarded`]. While the volume is locked, each with
    /// the same error.
    pub(in crate::fuse) fn answer<R: Refuse>(
        &self,
        asked: Asked,
        reply: R,
        work: impl FnOnce(&Fs, R),
    ) {
        self.answer_to(asked, &[], reply, |fs, reply, _| work(fs, reply));
    }

    /// The same for a request that brought `content`, of which nothing is left in memory when
    /// nobody is behind the door any more. Work that goes on after the answer tells when that was.
    pub(in crate::fuse) fn answer_to<R: Refuse>(
        &self,
        asked: Asked,
        content: &[u8],
        reply: R,
        work: impl FnOnce(&Fs, R, &Answered),
    ) {
        self.timed(asked, |door, answered| {
            let entered = door.enter();
            // Dropped before who entered leaves, also by a panic.
            let _spent = Spent { content, zeros: &self.zeros };
            match &entered {
                Ok(fs) => work(fs, reply, answered),
                Err(error) => reply.refuse(error),
            }
            answered.note();
        });
    }

    /// The same for what is done also while it is locked.
    pub(in crate::fuse) fn at_door(&self, asked: Asked, work: impl FnOnce(&Door)) {
        self.timed(asked, |door, _| work(door));
    }

    /// What nobody waits for.
    pub(in crate::fuse) fn unanswered(&self, operation: &'static str, work: impl FnOnce(&Door)) {
        guarded(operation, || work(&self.door));
        self.linger();
    }

    fn timed(&self, asked: Asked, work: impl FnOnce(&Door, &Answered)) {
        let (begun, answered) = (Instant::now(), Answered::default());
        guarded(asked.name(), || work(&self.door, &answered));
        self.latencies.note(asked, answered.at().duration_since(begun));
        self.linger();
    }

    fn linger(&self) {
        if let Some(linger) = &self.linger {
            linger.after_reply();
        }
    }
}

/// Content that a request brought, in the buffer that its thread reads the kernel's requests into,
/// and what its handling left on the stack. Either would stay: the next requests overwrite mostly
/// the first bytes alone, and a volume can be locked for days while its threads wait. To zero both
/// takes some 20 us a MiB and 1 us, after the answer.
struct Spent<'a> {
    content: &'a [u8],
    zeros: &'a Zeros,
}

impl Drop for Spent<'_> {
    fn drop(&mut self) {
        // Each request is one that the library has read into its buffer, and does not look at when
        // it was answered.
        self.zeros.overwrite(self.content);
        scrub_stack();
    }
}
