//! Places on a disk that is nearly full for what waits in memory, so that it is the write which a
//! full disk refuses, and not the close after it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::state::State;
use crate::file::volume::Volume;
use crate::store::Blob;

/// Free bytes of the disk below which places are asked for: four times what may wait in memory of
/// all files. Above it that costs a system call for nothing.
const TIGHT_LEN: u64 = 256 << 20;
/// How often the disk is asked: what is written meanwhile is less.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is known of the disk.
#[derive(Debug)]
pub(in crate::file) struct Tight {
    since: Instant,
    /// When to look again, milliseconds from then.
    look_at: AtomicU64,
    is_tight: AtomicBool,
}

impl Default for Tight {
    fn default() -> Self {
        Self { since: Instant::now(), look_at: AtomicU64::new(0), is_tight: AtomicBool::new(false) }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Volume {
    fn is_tight(&self) -> bool {
        let Tight { since, look_at, is_tight } = &self.tight;
        let now = ms(since.elapsed());
        if now >= look_at.load(Ordering::Relaxed) {
            look_at.store(now + ms(LOOK_EVERY), Ordering::Relaxed);
            let free = self
                .tree()
                .space()
                .map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize));
            is_tight.store(free < TIGHT_LEN, Ordering::Relaxed);
        }
        is_tight.load(Ordering::Relaxed)
    }
}

impl File {
    /// Asks for the place of the first `len` bytes of a block, if the disk is nearly full, and of
    /// the nodes above it. What was stored already has its own. What a durable file has in memory
    /// needs none: the journal has it when it is committed, and until there is room.
    pub(in crate::file) fn reserve_block(
        &self,
        state: &mut State,
        block: u64,
        len: usize,
    ) -> Result<(), FileError> {
        if len == 0 || state.blob.is_protected() || !self.volume().is_tight() {
            return Ok(());
        }
        if state.tree().is_some() {
            let (tree, ground) = state.tree_mut(self.ino());
            tree.prepare(ground, block)?;
        }
        match state.blob.reserve(state.geometry().block_offset(block), len as u64) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            reserved => Ok(reserved?),
        }
    }
}
