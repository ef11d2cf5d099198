//! What serves a mount: how a request is answered, whatever it asks, and how long that takes.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use crate::fs::{Door, Fs};
use crate::fuse::latency::{Asked, Latencies};
use crate::fuse::linger::Linger;
use crate::fuse::request::{Refuse, guarded};

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
}

/// When a request was answered, if that was before its work ended.
#[derive(Debug, Default)]
pub(in crate::fuse) struct Early(Cell<Option<Instant>>);

impl Early {
    /// It is answered now.
    pub(in crate::fuse) fn answered(&self) {
        self.0.set(Some(Instant::now()));
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
        self.answer_early(asked, reply, |fs, reply, _| work(fs, reply));
    }

    /// The same for what may be answered before its work ends.
    pub(in crate::fuse) fn answer_early<R: Refuse>(
        &self,
        asked: Asked,
        reply: R,
        work: impl FnOnce(&Fs, R, &Early),
    ) {
        self.timed(asked, |door, early| match door.enter() {
            Ok(fs) => work(&fs, reply, early),
            Err(error) => reply.refuse(&error),
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

    fn timed(&self, asked: Asked, work: impl FnOnce(&Door, &Early)) {
        let (begun, early) = (Instant::now(), Early::default());
        guarded(asked.name(), || work(&self.door, &early));
        let ended = early.0.get().unwrap_or_else(Instant::now);
        self.latencies.note(asked, ended.duration_since(begun));
        self.linger();
    }

    fn linger(&self) {
        if let Some(linger) = &self.linger {
            linger.after_reply();
        }
    }
}
