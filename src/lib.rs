//! cmkfs keeps files encrypted at rest under keys that your own KMS key wraps.
//!
//! ```text
//!  kernel -> fuse -> fs -> file -> cipher -> store -> disk       a read is the same way back
//!  beside: keys  lifecycle  object  job  cli  config  telemetry  below all: format  sys  limits
//! ```
//!
//! | module      | is                                                                       |
//! |-------------|--------------------------------------------------------------------------|
//! | [`fuse`]    | the kernel's protocol; the only one that names the crate `fuser`         |
//! | [`fs`]      | POSIX meaning: inodes, handles, directories, the errno of every failure  |
//! | [`mod@file`] | one stored file as plaintext bytes: block cache, dirty blocks, commit    |
//! | [`cipher`]  | seal and open, names, key derivation, worker pool; no I/O                |
//! | [`store`]   | sealed bytes at rest: layout, lock, directories, files                   |
//! | [`mod@format`] | what stored bytes mean; pure                                             |
//! | [`keys`]    | key providers and the slots of a volume                                  |
//! | [`object`]  | stored trees as they are, to and from a directory of snapshots           |
//! | [`lifecycle`] | what is done with a whole volume: init, mount, stop, snapshot, ...     |
//! | [`job`]     | roles, and a command run inside a volume                                 |
//! | [`cli`]     | what was typed; what is shown; exit codes                                |
//! | [`telemetry`] | the log and figures                                                    |
//! | [`config`]  | settings                                                                 |
//! | [`limits`]  | every bound                                                              |
//! | [`sys`]     | what is asked of the system for the whole process                        |
//!
//! Everything below `fuse` works without a mount; `tests/tidy.rs` holds who may name whom.

pub mod cipher;
pub mod cli;
pub mod config;
pub mod file;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod job;
pub mod keys;
pub mod lifecycle;
pub mod limits;
pub mod object;
pub mod store;
pub mod sys;
pub mod telemetry;
