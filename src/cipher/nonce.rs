//! Fresh random nonces, drawn from the operating system 256 at a time, so that a block costs no
//! system call.

use std::cell::RefCell;

use crate::format::node::NONCE_LEN;

/// Nonces drawn at once: 3 KiB a thread.
const BATCH: usize = 256;

struct Batch {
    bytes: [u8; BATCH * NONCE_LEN],
    used: usize,
}

thread_local! {
    static NONCES: RefCell<Batch> =
        const { RefCell::new(Batch { bytes: [0; BATCH * NONCE_LEN], used: BATCH }) };
}

/// A nonce that no one has seen. Random 96-bit nonces under one key stay within RFC 8452's
/// bounds for 2^32 seals of a block, and a repeated one would only tell equal blocks.
///
/// # Panics
/// If the system gives no random bytes: nothing may be sealed then.
pub(in crate::cipher) fn fresh_nonce() -> [u8; NONCE_LEN] {
    NONCES.with_borrow_mut(|batch| {
        if batch.used == BATCH {
            getrandom::fill(&mut batch.bytes).expect("the system gives random bytes");
            batch.used = 0;
        }
        let (nonces, _) = batch.bytes.as_chunks::<NONCE_LEN>();
        batch.used += 1;
        nonces[batch.used - 1]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_differ_across_batches_and_threads() {
        let draw = || (0..3 * BATCH).map(|_| fresh_nonce()).collect::<Vec<_>>();
        let mut all = draw();
        all.extend(std::thread::spawn(draw).join().unwrap());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6 * BATCH);
    }
}
