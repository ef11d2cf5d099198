//! What is done with a whole volume, one file a verb. Every verb can be interrupted at any point
//! and run again.
//!
//! | module       | is                                                             |
//! |--------------|----------------------------------------------------------------|
//! | `init`       | makes a volume                                                 |
//! | `open`       | lock, description, key, volume                                 |
//! | `request`    | what to mount where, checked before anything is done           |
//! | `session`    | a volume being served: mounts, commit timer, control socket    |
//! | `custody`    | the volume of a session and its key: locking, unlocking        |
//! | `timer`      | work that is done every so often                               |
//! | `serve`      | the daemon of a mount                                          |
//! | `background` | starts that daemon and waits until it serves                   |
//! | `control`    | the control socket and its clients                             |
//! | `metrics`    | the figures of a mount for a collector                         |
//! | `rekeying`   | what a daemon does to the files for `key rotate`               |
//! | `renewal`    | keys of a newer epoch for a volume that is open to read        |
//! | `report`     | what `status` shows                                            |
//! | `status`     | `status`                                                       |
//! | `leave`      | `umount`, `stop`                                               |
//! | `locking`    | `lock`, `unlock`                                               |
//! | `snapshot`   | `snapshot create`, `list`, `show`, `verify`, `prune`, `restore` |
//! | `terminate`  | `terminate`                                                    |
//! | `key`        | `key status`, `add`, `remove`, `rewrap`, `rotate`              |
//! | `key`        | `key status`, `add`, `remove`, `rewrap`, `grant`, `audit`      |
//! | `grants`     | the grants that were made for a volume, in its store           |
//! | `check`      | `check`                                                        |
//! | `doctor`     | `doctor`                                                       |
//! | `transfer`   | `ls`, `cat`, `get`, `put`                                      |
//! | `tree`       | files of a volume or of the machine, read and written alike    |
//! | `locate`     | a volume by its store or mountpoint, and its daemon            |
//! | `mounts`     | what is mounted here, and who uses it                          |
//! | `process`    | waiting for the end of a process, limits of this one           |
//! | `error`      | what can go wrong                                              |
//! | `exit`       | exit codes                                                     |

pub mod background;
pub mod check;
pub mod control;
mod custody;
pub mod doctor;
mod error;
mod exit;
mod grants;
pub mod init;
pub mod key;
pub mod leave;
pub mod locate;
pub mod locking;
pub mod metrics;
pub mod mounts;
pub mod open;
pub mod process;
mod rekeying;
mod renewal;
pub mod report;
pub mod request;
pub mod serve;
pub mod session;
pub mod snapshot;
pub mod status;
pub mod terminate;
mod timer;
pub mod transfer;
pub mod tree;

pub use crate::file::Durability;
pub use custody::KeyState;
pub use error::VerbError;
pub use exit::Exit;
