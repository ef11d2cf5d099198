//! Plaintext blocks that a request needed only a part of, least recently used first to go, within
//! a budget of bytes. The kernel's page cache keeps what was asked for; this keeps the rest of the
//! block, so that the next part costs no second opening.
//!
//! Invariants: 1. the bytes of all shards together are at most the budget; 2. a block in here is
//! what a read of the store would give; whoever changes a block removes it first.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::cipher::Plain;
use crate::file::figures::Counters;

/// More shards than threads that serve requests, so that they seldom meet.
const SHARDS: usize = 16;
/// Blocks that were looked for in vain, of which one is remembered. Of a file that is read here and
/// there no block is wanted twice, and keeping them all costs more than it ever saves.
const MISSED: usize = 4096;

/// Which block: of the file with this number, which no other open file ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::file) struct Key {
    pub(in crate::file) file: u64,
    pub(in crate::file) block: u64,
}

#[derive(Debug)]
struct Shard {
    blocks: LruCache<Key, Arc<Plain>>,
    bytes: usize,
}

/// The cache of a volume. Evicted plaintext is zeroed by `Plain` itself.
#[derive(Debug)]
pub(in crate::file) struct BlockCache {
    shards: Vec<Mutex<Shard>>,
    shard_bytes_max: usize,
    /// By the lower bits of a key's hash, the upper ones of the block that was missed last.
    missed: Vec<AtomicU32>,
}

impl Key {
    /// Multiplication spreads a key over the upper bits (Knuth, The Art of Computer Programming,
    /// volume 3, section 6.4).
    fn spread(self) -> u64 {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        (self.file.wrapping_mul(GOLDEN) ^ self.block).wrapping_mul(GOLDEN)
    }
}

impl BlockCache {
    /// A cache of at most `bytes_max` bytes of plaintext; 0 keeps nothing.
    pub(in crate::file) fn new(bytes_max: usize) -> Self {
        let shard = || Mutex::new(Shard { blocks: LruCache::unbounded(), bytes: 0 });
        let missed = || AtomicU32::new(0);
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            shard_bytes_max: bytes_max / SHARDS,
            missed: (0..MISSED).map(|_| missed()).collect(),
        }
    }

    /// Whether a block that was not here is worth keeping: it was missed before, not long ago.
    pub(in crate::file) fn was_missed(&self, key: Key) -> bool {
        let spread = key.spread();
        let slot = usize::try_from(spread >> 52).expect("12 bits");
        let mark = u32::try_from((spread >> 20) & u64::from(u32::MAX)).expect("32 bits") | 1;
        self.missed[slot % MISSED].swap(mark, Ordering::Relaxed) == mark
    }

    fn shard(&self, key: Key) -> std::sync::MutexGuard<'_, Shard> {
        let spread = (key.file.wrapping_mul(31) ^ key.block) % SHARDS as u64;
        let index = usize::try_from(spread).expect("below the number of shards");
        // A panic elsewhere leaves a shard consistent: each change below is whole.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block, if it is here.
    pub(in crate::file) fn get(&self, key: Key, counters: &Counters) -> Option<Arc<Plain>> {
        let found = self.shard(key).blocks.get(&key).cloned();
        match found {
            Some(_) => counters.cache_hits.add(1),
            None => counters.cache_misses.add(1),
        }
        found
    }

    /// Whether the block is here. Counts as no use of it.
    pub(in crate::file) fn has(&self, key: Key) -> bool {
        self.shard(key).blocks.contains(&key)
    }

    /// Keeps a block, at the cost of those not used for longest.
    pub(in crate::file) fn put(&self, key: Key, plain: Plain, counters: &Counters) {
        let len = plain.cell_len();
        if len > self.shard_bytes_max {
            return;
        }
        let mut shard = self.shard(key);
        let old = shard.blocks.put(key, Arc::new(plain)).map_or(0, |old| old.cell_len());
        shard.bytes = shard.bytes + len - old;
        counters.cache_bytes.add(len as u64);
        counters.cache_bytes.sub(old as u64);
        while shard.bytes > self.shard_bytes_max {
            let Some((_, evicted)) = shard.blocks.pop_lru() else { break };
            shard.bytes -= evicted.cell_len();
            counters.cache_bytes.sub(evicted.cell_len() as u64);
        }
    }

    /// Forgets a block.
    pub(in crate::file) fn remove(&self, key: Key, counters: &Counters) {
        let mut shard = self.shard(key);
        if let Some(old) = shard.blocks.pop(&key) {
            shard.bytes -= old.cell_len();
            counters.cache_bytes.sub(old.cell_len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_holds_and_the_oldest_go_first() {
        let (cache, counters) = (BlockCache::new(SHARDS * 2 * 4096), Counters::default());
        for block in 0..1000 {
            cache.put(Key { file: 1, block }, Plain::zeros(4096), &counters);
            assert!(counters.cache_bytes.get() <= (SHARDS * 2 * 4096) as u64);
        }
        assert!(cache.get(Key { file: 1, block: 999 }, &counters).is_some());
        assert!(cache.get(Key { file: 1, block: 0 }, &counters).is_none());
        assert!(cache.get(Key { file: 2, block: 999 }, &counters).is_none());
        for block in 0..1000 {
            cache.remove(Key { file: 1, block }, &counters);
        }
        assert_eq!(counters.cache_bytes.get(), 0);
    }

    #[test]
    fn a_block_is_worth_keeping_the_second_time() {
        let cache = BlockCache::new(1 << 20);
        let fresh = (0..100).filter(|block| cache.was_missed(Key { file: 7, block: *block }));
        assert_eq!(fresh.count(), 0);
        let again = (0..100).filter(|block| cache.was_missed(Key { file: 7, block: *block }));
        assert!(again.count() > 80);
        assert!(!cache.was_missed(Key { file: 8, block: 1 }));
    }

    #[test]
    fn a_budget_of_nothing_keeps_nothing() {
        let (cache, counters) = (BlockCache::new(0), Counters::default());
        cache.put(Key { file: 1, block: 1 }, Plain::zeros(4096), &counters);
        assert!(cache.get(Key { file: 1, block: 1 }, &counters).is_none());
    }
}
