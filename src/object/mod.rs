//! Snapshots: stored trees as they are, sealed, as objects in a directory or in S3. Nothing here
//! has a key: a copy needs no more trust than the store itself, and what a snapshot says of itself
//! is sealed by who calls.
//!
//! | module      | holds                                                           |
//! |-------------|-----------------------------------------------------------------|
//! | `target`    | what a target of snapshots does, and where what lies in it       |
//! | `directory` | a directory as a target                                          |
//! | `s3`        | a bucket in S3 as a target                                       |
//! | `hold`      | one writer of a volume's snapshots at a time                     |
//! | `pool`      | threads                                                          |
//! | `outbox`    | objects on their way to a target                                 |
//! | `walk`      | a walk through a store                                           |
//! | `pieces`    | how a stored file is cut, and what of it is unchanged            |
//! | `pack`      | small pieces, packed                                             |
//! | `scan`      | one pass through a store                                         |
//! | `advance`   | what a pass found while others write                             |
//! | `parts`     | records, written and read part by part                           |
//! | `take`      | takes a snapshot                                                 |
//! | `fetch`     | pieces from a target                                             |
//! | `put_back`  | makes a store of a snapshot; `made` and `finish` its files       |
//! | `verify`    | reads a snapshot again                                           |
//! | `prune`     | removes snapshots                                                |
//! | `error`     | what can go wrong                                                |
//! | `copy`      | a stored tree, copied; of snapshots of version 1                 |
//! | `manifest`  | what a snapshot of version 1 consists of                         |
//! | `shelf`     | the directory in which those lie                                 |

mod advance;
mod copy;
mod directory;
mod error;
mod fetch;
mod finish;
mod hold;
mod made;
mod manifest;
mod outbox;
mod pack;
mod parts;
mod pieces;
mod pool;
mod prune;
mod put_back;
mod s3;
mod scan;
mod shelf;
mod take;
mod target;
mod verify;
mod walk;

pub use copy::{CopyError, copy_tree, remove_tree};
pub use directory::Directory;
pub use error::SnapshotError;
pub use fetch::piece_bytes;
pub use hold::Hold;
pub use manifest::{Entry, EntryKind, Manifest, ManifestError};
pub use outbox::{Moved, Outbox};
pub use parts::{Records, Seal};
pub use pool::Pool;
pub use prune::{Freed, Sealed, delete_all, prune};
pub use put_back::{PutBack, Restored, Wish};
pub use s3::{Connect, S3, S3Error, S3Failure, Sse, Way};
pub use shelf::{Shelf, ShelfError, Summary};
pub use take::{Ahead, ID_PREFIX, Opened, Plan, Taken, claim, names, open, tops};
pub use target::{Each, Listed, OBJECT_LEN_MAX, Put, Target, TargetError, top_key};
pub use verify::{Verified, verify};
