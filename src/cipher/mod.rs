//! Seals and opens: blocks, nodes, payloads, names, small values, keys. No I/O, no clock, no
//! `unsafe`. `SECURITY.md` beside this file says who is kept from what.
//!
//! Three types carry the rule that no plaintext reaches a disk: [`Plain`] never leaves `file` and
//! `cipher`, [`Sealed`] is made only here and is all that `store` takes, [`Unopened`] is what
//! comes back from a disk and opens only here.

mod bytes;
mod content;
mod journal;
mod nonce;
mod pool;
mod secret;
mod sessions;
mod small;
mod snapshot;
mod volume;

pub use bytes::{Plain, Sealed, StoredName, Unopened};
pub use content::{FileCipher, Place};
pub use journal::{OPENED_BODY_AT, SegmentCipher};
pub use pool::CipherPool;
pub use secret::{Secret, unwrap_secret, wrap_secret};
pub use small::{DirCipher, Owner};
pub use volume::{EpochKeys, VolumeKeys, VolumeKeysError};

/// The bytes are not what was sealed there, or not under this key. Says no more on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed: not what was sealed here, or sealed under another key")]
pub struct Unauthentic;
