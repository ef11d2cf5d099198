//! cmkfs answers as ext4 does: each scenario is played on both, and all that is seen is compared.
//!
//! Where the two differ for a known reason, a table beside the scenario says so. Needs root and
//! /dev/fuse.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking, and its lengths are small"
)]
#![allow(unreachable_pub, reason = "the modules use each other's parts")]

#[path = "support/mount.rs"]
mod mount;
#[path = "twin/stage.rs"]
#[macro_use]
mod stage;
#[path = "twin/acl.rs"]
mod acl;
#[path = "twin/calls.rs"]
mod calls;
#[path = "twin/coherence.rs"]
mod coherence;
#[path = "twin/events.rs"]
mod events;
#[path = "twin/limits.rs"]
mod limits;
#[path = "twin/locks.rs"]
mod locks;
#[path = "twin/modes.rs"]
mod modes;
#[path = "twin/nodes.rs"]
mod nodes;
#[path = "twin/ranges.rs"]
mod ranges;
#[path = "twin/rename.rs"]
mod rename;
#[path = "twin/shown.rs"]
mod shown;
#[path = "twin/space.rs"]
mod space;
#[path = "twin/times.rs"]
mod times;
#[path = "twin/unlinked.rs"]
mod unlinked;
#[path = "twin/users.rs"]
mod users;
#[path = "twin/xattr.rs"]
mod xattr;
