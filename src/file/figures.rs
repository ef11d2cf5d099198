//! Counters of an open volume, for `status` and for the end of a job.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters, each since the volume was opened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Figures {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(in crate::file) struct Counters {
            $(pub(in crate::file) $name: Counter,)*
        }

        impl Counters {
            pub(in crate::file) fn figures(&self) -> Figures {
                Figures { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Read requests.
    reads,
    /// Bytes of plaintext read.
    read_bytes,
    /// Write requests.
    writes,
    /// Bytes of plaintext written.
    written_bytes,
    /// Blocks opened.
    blocks_opened,
    /// Blocks sealed.
    blocks_sealed,
    /// Blocks that the cache had.
    cache_hits,
    /// Blocks that the cache did not have.
    cache_misses,
    /// Bytes of plaintext in the cache.
    cache_bytes,
    /// Bytes of plaintext that were written and are not yet sealed.
    dirty_bytes,
    /// Bytes in the journal that are needed until the next checkpoint.
    journal_bytes,
    /// Commits of files.
    commits,
    /// Checkpoints of the journal.
    checkpoints,
    /// Files whose changes a crash had left in the journal, and which were recovered.
    recovered,
    /// Syncs of files and directories that reached the disk.
    syncs,
    /// Files that are open now.
    files_open,
    /// Times that stored bytes were not authentic.
    damages,
}

/// A counter that many threads add to; nobody orders anything by it.
#[derive(Debug, Default)]
pub(in crate::file) struct Counter(AtomicU64);

impl Counter {
    pub(in crate::file) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(in crate::file) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(in crate::file) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
