//! POSIX meaning over stored files: inodes, handles, names, and the errno of every failure. Knows
//! nothing of the kernel's protocol, so everything here works, and is tested, without a mount.
//!
//! | module      | holds                                                                    |
//! |-------------|--------------------------------------------------------------------------|
//! | `ids`       | numbers of inodes and handles, attributes, and how something is opened   |
//! | `error`     | what can go wrong, and its errno                                         |
//! | `table`     | the inodes that somebody outside knows, and under which names            |
//! | `dirs`      | open directories by inode                                                |
//! | `guard`     | who may follow names while somebody else takes them away                 |
//! | `handles`   | open files and directory streams                                         |
//! | `core`      | [`Fs`], and how it finds the object behind a number                      |
//! | `attr`      | attributes, size, extended attributes, space                             |
//! | `namespace` | lookup, and all that makes a name                                        |
//! | `removal`   | unlink, rmdir, rename                                                    |
//! | `content`   | open, read, write, sync, close                                           |
//! | `rest`      | what is left of it while the volume is locked                            |
//! | `seen`      | which states of files those outside may have kept                        |
//! | `listing`   | directory streams                                                        |
//! | `path`      | walking a path, for those who have no kernel to do it                    |

mod attr;
mod content;
mod core;
mod dirs;
mod error;
mod guard;
mod handles;
mod ids;
mod listing;
mod namespace;
mod path;
mod removal;
mod rest;
mod seen;
mod table;

pub use attr::Change;
pub use core::Fs;
pub use error::FsError;
pub use ids::{Attr, HandleId, InodeId, OpenFlags, Privileges, Sync};
pub use listing::Listed;
pub use path::{Follow, Located};
pub use rest::{Door, Inside, Rest};

pub use crate::file::{
    Access, Allocate, Creator, Dir, DirEntry, File, Kind, NodeKind, RenameMode, Seek, SetAttr,
    SetTime, Slice, Stat, StatFs, Time, Volume, XattrMode, is_news,
};
