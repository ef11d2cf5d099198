//! Stored trees as they are, sealed, to and from a directory. Nothing here has a key or opens
//! anything: a copy needs no more trust than the store itself.
//!
//! | module     | holds                                                       |
//! |------------|-------------------------------------------------------------|
//! | `copy`     | a stored tree, copied with all that the lower disk knows    |
//! | `manifest` | what a copy consists of, with a SHA-256 of each stored file |
//! | `shelf`    | the directory in which snapshots lie                        |

mod copy;
mod manifest;
mod shelf;

pub use copy::{CopyError, copy_tree, remove_tree};
pub use manifest::{Entry, EntryKind, Manifest, ManifestError};
pub use shelf::{Begun, Shelf, ShelfError, Summary};
