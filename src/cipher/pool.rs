//! Seals and opens consecutive blocks: small requests on the calling thread, large ones on all
//! threads of the pool and the calling one, which takes its own share.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::cipher::bytes::{Sealed, Unopened};
use crate::cipher::content::FileCipher;
use crate::format::geometry::BlockSize;
use crate::format::node::Entry;
use crate::sys::scrub_stack;

/// Requests below this many bytes stay on the calling thread: waking a worker costs as much as
/// sealing about 64 KiB, so halves of 64 KiB are where two threads begin to win.
const PARALLEL_LEN_MIN: usize = 128 << 10;

/// The worker threads of a volume.
#[derive(Debug)]
pub struct CipherPool {
    pool: Option<rayon::ThreadPool>,
    threads: usize,
    /// Requests that are being sealed or opened.
    active: AtomicUsize,
}

/// One of the requests that are counted as active.
struct Active<'a>(&'a AtomicUsize);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for CipherPool {
    /// The threads end, and their stacks stay mapped.
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.broadcast(|_| scrub_stack());
        }
    }
}

/// A block that did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock(pub u64);

impl CipherPool {
    /// A pool that uses `threads` threads for a large request, the calling one included.
    ///
    /// # Errors
    /// The system's, when it gives no threads.
    pub fn new(threads: NonZero<usize>) -> std::io::Result<Self> {
        let threads = threads.get();
        let build = || {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads - 1)
                .thread_name(|index| format!("cmkfs-cipher-{index}"))
                .build()
                .map_err(std::io::Error::other)
        };
        let pool = if threads > 1 { Some(build()?) } else { None };
        Ok(Self { pool, threads, active: AtomicUsize::new(0) })
    }

    /// One thread a core that this process may use.
    ///
    /// # Errors
    /// The system's, when it gives no threads.
    pub fn for_this_machine() -> std::io::Result<Self> {
        Self::new(std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN))
    }

    /// Blocks that one thread takes of a request of `count` blocks and `len` bytes, while it is
    /// counted. Of several requests each has its part of the threads: where all are busy with one
    /// of their own, to share one out only adds waiting for the others.
    fn share(&self, len: usize, count: usize) -> (usize, Active<'_>) {
        let active = self.active.fetch_add(1, Ordering::Relaxed) + 1;
        let parts = if len < PARALLEL_LEN_MIN { 1 } else { (self.threads / active).max(1) };
        (count.div_ceil(parts).max(1), Active(&self.active))
    }

    /// Opens consecutive blocks, the first of which is block `first`, in place; each has its
    /// entry, and all but the last are full. Holes become zeros.
    ///
    /// # Errors
    /// One of the blocks that are not authentic; the bytes of all are zeros then.
    pub fn open_blocks(
        &self,
        cipher: &FileCipher,
        size: BlockSize,
        first: u64,
        unopened: Unopened<'_>,
        entries: &[Entry],
    ) -> Result<(), BadBlock> {
        let bytes = unopened.0;
        assert_eq!(bytes.len().div_ceil(size.len()), entries.len(), "an entry for each block");
        let bad = AtomicU64::new(u64::MAX);
        let open = |first: u64, bytes: &mut [u8], entries: &[Entry]| {
            for ((block, bytes), entry) in (first..).zip(bytes.chunks_mut(size.len())).zip(entries)
            {
                if entry.is_hole() {
                    bytes.fill(0);
                } else if cipher.open_block(block, bytes, entry).is_err() {
                    bad.fetch_min(block, Ordering::Relaxed);
                }
            }
        };
        let (share, _active) = self.share(bytes.len(), entries.len());
        let parts = (bytes.chunks_mut(share * size.len())).zip(entries.chunks(share));
        self.each_part(parts, |part, (bytes, entries)| {
            open(first + (part * share) as u64, bytes, entries);
        });
        match bad.into_inner() {
            u64::MAX => Ok(()),
            block => {
                bytes.fill(0);
                Err(BadBlock(block))
            }
        }
    }

    /// Seals consecutive blocks, the first of which is block `first`; all but the last are full.
    /// Their entries go into `entries`.
    pub fn seal_blocks(
        &self,
        cipher: &FileCipher,
        size: BlockSize,
        first: u64,
        plain: &[u8],
        entries: &mut [Entry],
    ) -> Sealed {
        assert_eq!(plain.len().div_ceil(size.len()), entries.len(), "an entry for each block");
        let mut sealed = Sealed::room(plain.len());
        let (share, _active) = self.share(plain.len(), entries.len());
        let parts = plain
            .chunks(share * size.len())
            .zip(sealed.room_mut().chunks_mut(share * size.len()))
            .zip(entries.chunks_mut(share));
        self.each_part(parts, |part, ((plain, out), entries)| {
            let blocks = plain.chunks(size.len()).zip(out.chunks_mut(size.len())).zip(entries);
            for (block, ((plain, out), entry)) in (first + (part * share) as u64..).zip(blocks) {
                *entry = cipher.seal_block(block, plain, out);
            }
        });
        sealed
    }

    /// Runs `work` on each part: the first on this thread, the others on the pool.
    fn each_part<T: Send>(
        &self,
        parts: impl ExactSizeIterator<Item = T>,
        work: impl Fn(usize, T) + Sync,
    ) {
        let (Some(pool), true) = (&self.pool, parts.len() > 1) else {
            return parts.enumerate().for_each(|(index, part)| work(index, part));
        };
        pool.in_place_scope(|scope| {
            let mut parts = parts.enumerate();
            let own = parts.next();
            for (index, part) in parts {
                let work = &work;
                scope.spawn(move |_| work(index, part));
            }
            if let Some((index, part)) = own {
                work(index, part);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::{Plain, Secret};

    fn pool(threads: usize) -> CipherPool {
        CipherPool::new(NonZero::new(threads).unwrap()).unwrap()
    }

    #[test]
    fn any_number_of_threads_opens_what_any_number_sealed() {
        let cipher = FileCipher::new(&Secret::random());
        let size = BlockSize::from_bytes(4096).unwrap();
        for len in [1, 4096, 4097, 100_000, 200_000, 1 << 20] {
            let plain: Vec<u8> = (0..251).cycle().take(len).collect();
            for (sealing, opening) in [(1, 1), (1, 3), (3, 1), (2, 2), (5, 4)] {
                let mut entries = vec![Entry::HOLE; len.div_ceil(4096)];
                let sealed = pool(sealing).seal_blocks(&cipher, size, 9, &plain, &mut entries);
                let mut opened = Plain::zeros(len);
                opened.copy_from_slice(sealed.as_bytes());
                let part = opened.unopened(0..len);
                pool(opening).open_blocks(&cipher, size, 9, part, &entries).unwrap();
                assert_eq!(opened[..], plain, "{len} {sealing} {opening}");
            }
        }
    }

    #[test]
    fn a_bad_block_is_named_and_nothing_is_given_out() {
        let cipher = FileCipher::new(&Secret::random());
        let size = BlockSize::from_bytes(4096).unwrap();
        let plain = vec![1; 300_000];
        let mut entries = vec![Entry::HOLE; 74];
        let sealed = pool(2).seal_blocks(&cipher, size, 0, &plain, &mut entries);
        let mut bytes = Plain::copy_of(sealed.as_bytes());
        bytes[70 * 4096] ^= 1;
        let result = pool(2).open_blocks(&cipher, size, 0, bytes.unopened(0..300_000), &entries);
        assert_eq!(result, Err(BadBlock(70)));
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn holes_are_zeros_whatever_lies_there() {
        let cipher = FileCipher::new(&Secret::random());
        let size = BlockSize::from_bytes(4096).unwrap();
        let mut bytes = Plain::copy_of(&[7; 8192]);
        let part = bytes.unopened(0..8192);
        pool(1).open_blocks(&cipher, size, 0, part, &[Entry::HOLE; 2]).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
