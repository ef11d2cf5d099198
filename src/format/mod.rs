//! What stored bytes mean. Pure: no I/O, no key, no clock. `FORMAT.md` beside this file is the
//! same to the byte; a change here changes that file, a golden volume and the Python reader.
//!
//! | module       | holds                                                              |
//! |--------------|--------------------------------------------------------------------|
//! | `ids`        | ids of volumes, files, directories, epochs                         |
//! | `geometry`   | where block, node and header lie in a stored file                  |
//! | `header`     | the clear prefix and the sealed payload of a stored file           |
//! | `node`       | 128 entries of (nonce, tag)                                        |
//! | `directory`  | the marker that gives a directory its id                           |
//! | `name`       | how a sealed name becomes a file name                              |
//! | `envelope`   | epoch, nonce, tag and ciphertext of a small sealed value           |
//! | `descriptor` | `volume.json`                                                      |
//! | `journal`    | segments of the redo journal and their records                     |
//! | `sessions`   | when the volume was written and did not come to a clean end        |
//! | `snapshot`   | what a snapshot consists of                                        |
//! | `utc`        | dates                                                              |

pub mod bytes;
pub mod descriptor;
pub mod directory;
pub mod envelope;
pub mod geometry;
pub mod header;
pub mod ids;
pub mod journal;
pub mod name;
pub mod node;
pub mod sessions;
pub mod snapshot;
pub mod utc;

pub use descriptor::{Descriptor, DescriptorError, EpochKey, Features, Pending, Slot, Work};
pub use geometry::{BlockSize, Geometry};
pub use ids::{DirId, Epoch, FileId, VolumeId};
