//! What serves a mount: how a request is answered, whatever it asks, and what is left of it then.

use std::sync::Arc;

use crate::fs::{Door, Fs};
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
    /// What requests are overwritten with.
    pub(in crate::fuse) zeros: Zeros,
}

impl Adapter {
    /// Answers a request, whatever comes; see [`guarded`]. While the volume is locked, each with
    /// the same error.
    pub(in crate::fuse) fn answer<R: Refuse>(
        &self,
        operation: &'static str,
        reply: R,
        work: impl FnOnce(&Fs, R),
    ) {
        self.answer_to(operation, &[], reply, work);
    }

    /// The same for a request that brought `content`, of which nothing is left in memory when
    /// nobody is behind the door any more.
    pub(in crate::fuse) fn answer_to<R: Refuse>(
        &self,
        operation: &'static str,
        content: &[u8],
        reply: R,
        work: impl FnOnce(&Fs, R),
    ) {
        self.at_door(operation, |door| {
            let entered = door.enter();
            // Dropped before who entered leaves, also by a panic.
            let _spent = Spent { content, zeros: &self.zeros };
            match &entered {
                Ok(fs) => work(fs, reply),
                Err(error) => reply.refuse(error),
            }
        });
    }

    /// The same for what is done also while it is locked.
    pub(in crate::fuse) fn at_door(&self, operation: &'static str, work: impl FnOnce(&Door)) {
        guarded(operation, || work(&self.door));
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
