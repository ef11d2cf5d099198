//! Snapshots of a volume: its stored bytes as they are at one moment, in a directory.
//!
//! | module    | is                                                          |
//! |-----------|-------------------------------------------------------------|
//! | `place`   | where they lie, as it is named                              |
//! | `sealed`  | the volume's keys for them, and what a target claims        |
//! | `create`  | `snapshot create`                                           |
//! | `look`    | `snapshot list`, `show`, `verify`                           |
//! | `restore` | `snapshot restore`                                          |
//! | `site`    | a directory that becomes a store once all of it is there    |
//! | `prune`   | `snapshot prune`                                            |
//! | `old`     | snapshots of version 1                                      |

mod create;
mod look;
mod old;
mod place;
mod prune;
mod restore;
mod sealed;
mod site;

pub use create::{Created, check, create};
pub use look::{Line, Shown, list, show, verify};
pub use place::{Moving, Place};
pub(in crate::lifecycle) use prune::remove_all;
pub use prune::{Keep, Pruned, prune};
pub use restore::{Wanted, restore};

pub use crate::object::Verified;
