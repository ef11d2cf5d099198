//! Snapshots of a volume: its stored bytes as they are at one moment, in a directory or in S3.
//!
//! | module    | is                                                          |
//! |-----------|-------------------------------------------------------------|
//! | `place`   | where they lie, as it is named                              |
//! | `bucket`  | the way to S3                                               |
//! | `sealed`  | the volume's keys for them, and what a target claims        |
//! | `create`  | `snapshot create`                                           |
//! | `look`    | `snapshot list`, `show`, `verify`                           |
//! | `restore` | `snapshot restore`                                          |
//! | `site`    | a directory that becomes a store once all of it is there    |
//! | `prune`   | `snapshot prune`                                            |
//! | `old`     | snapshots of version 1                                      |

mod bucket;
mod create;
mod look;
mod old;
mod place;
mod prune;
mod restore;
mod sealed;
mod site;

pub use create::{Created, Ready, check, create, create_by};
pub use look::{Line, Shown, list, show, verify};
pub use place::{Encryption, Moving, Place, SseKind};
pub(in crate::lifecycle) use prune::remove_all;
pub use prune::{Keep, Pruned, prune};
pub use restore::{Wanted, restore};

pub use crate::object::Verified;
