//! The kernel's side: the only place that knows the FUSE protocol, through the crate `fuser`.
//!
//! | module    | holds                                                           |
//! |-----------|-----------------------------------------------------------------|
//! | `adapter` | one short method for each kernel request                        |
//! | `answer`  | how each is answered, how long it takes, and what is left of it |
//! | `convert` | between the kernel's types and ours                             |
//! | `error`   | why a mount failed, and its exit code                           |
//! | `helper`  | mounting without being root, through fusermount3                |
//! | `latch`   | locking a mount and unlocking it                                |
//! | `latency` | counts of how long requests take, and which are slow            |
//! | `linger`  | looking for the next request before a thread waits for it      |
//! | `mount`   | mounting, waiting, unmounting                                   |
//! | `point`   | what is at a mountpoint                                         |
//! | `request` | what the methods of the adapter have in common                  |
//! | `umask`   | file mode creation masks of the callers                         |

mod adapter;
mod answer;
mod convert;
mod error;
mod helper;
mod latch;
mod latency;
mod linger;
mod mount;
mod point;
mod request;
mod umask;

pub use error::MountError;
pub use helper::HELPERS;
pub use latch::Latch;
pub use latency::{BUCKETS, ByClass, Latencies, Latency, bound};
pub use mount::{MountOptions, Mounted, Unmounter, check_device, mount};
pub use point::{MountInfo, checked, mount_at, mounts, unescaped};
