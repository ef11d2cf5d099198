//! Sealed bytes at rest: where they lie, and how they get there. Nothing here has a key, and no
//! function that writes takes anything but [`Sealed`], [`StoredName`] or a volume description.
//!
//! ```text
//! STORE/volume.json   what the volume is, and its wrapped keys
//! STORE/lock          held by the process that has the volume open for writing; tells who it is
//! STORE/tree/         the mirrored tree
//! STORE/links/        targets of symbolic links too long for a lower link
//! STORE/journal/      the redo journal
//! STORE/sessions      when the volume was written and did not come to a clean end
//! ```
//!
//! [`Sealed`]: crate::cipher::Sealed
//! [`StoredName`]: crate::cipher::StoredName

mod attribute;
mod blob;
mod change;
mod claim;
mod descriptor;
mod dir;
mod durability;
mod layout;
mod lease;
mod lend;
mod link;
mod lock;
mod marker;
mod room;
mod sessions;
mod shared;
mod small;
mod stream;
mod told;
mod watch;
mod whole;

pub use attribute::Attributed;
pub use blob::{Blob, DiskBlob};
pub use change::{SetAttr, SetTime};
pub use claim::{Holder, boot_id};
pub use descriptor::DescriptorLock;
pub use dir::{Creator, LowerStat, NodeKind, RenameMode, StoreDir};
pub use durability::Durability;
pub use layout::{Store, StoreError};
pub use lease::{LeaseError, Standing};
pub use link::{LinkContent, LinkText, parse_link};
pub use lock::{HeldHow, LockError, LockMode, StoreLock, Writers};
pub use marker::StoredMarker;
pub use sessions::{SessionFile, Slots, disk_time, made, read_slots};
pub use stream::{DirStream, LowerEntry, is_dot};
pub use told::{is_news, path_of};
pub use watch::{Hook, Op, Place, There, UNRENEWED, Watch, Watched};
pub use whole::NewDir;

/// Whether a disk has no room, or none for this user.
pub fn is_full(error: rustix::io::Errno) -> bool {
    matches!(error, rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)
}

/// Notes that something was left behind which harms nobody: it costs space until it is written
/// over or found by a check, and no operation should fail for it.
pub fn leave(result: Result<(), rustix::io::Errno>, what: &str) {
    if let Err(error) = result {
        tracing::warn!(%error, what, "left behind in the store");
    }
}
