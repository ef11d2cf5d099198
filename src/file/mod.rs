//! One stored file as plaintext bytes, and one stored directory as plaintext names.
//!
//! | module    | is                                                                      |
//! |-----------|-------------------------------------------------------------------------|
//! | `volume`  | an open volume: keys, block cache, cipher pool, the files that are open |
//! | `dir`     | a directory by plaintext names; `listing`: all of them                  |
//! | `dir_rename` | renaming, and what has to be durable before; `settled`: what is so already |
//! | `held`    | what is kept of an object whose last name is going                      |
//! | `attribute` | extended attributes                                                   |
//! | `content` | an open file, and reading it                                            |
//! | `write`   | writing, lengthening, cutting; `ranges`: holes, reserving, seeking      |
//! | `behind`  | answering a write before it is stored                                   |
//! | `state`   | what an open file knows: header, inline content or tree, dirty blocks   |
//! | `beside`  | reading a volume that another process may be writing                    |
//! | `salvage` | closing a file while the disk is full                                   |
//! | `room`    | how much the disk has, and places for what waits in memory              |
//! | `former`  | what a file was before a change of its length that finds no room        |
//! | `stage`   | a stored file whose committed bytes change by way of the journal;       |
//! | `staged`  | what of it is not in its place                                          |
//! | `left`    | what is still to become a hole there                                    |
//! | `journal` | the journal; `checkpoint`: bringing its changes to their places;        |
//! | `recover` | bringing there what a crash has left; `replay`: one file's changes;     |
//! | `adopt`   | those that have no room there; `find`: which files they are             |
//! | `written` | making durable what was written before it is committed                  |
//! | `sessions` | when the volume was written, and files that a crash left without a header |
//! | `tree`    | the tree of tags                                                        |
//! | `rewrap`  | a file key under the current epoch; `rekey`: those of all files         |
//! | `reencrypt` | a new file key for a file that is there                              |
//! | `renewed` | taking up the keys of a new epoch                                       |
//! | `verify`  | verifying a stored file completely; `inspect`: other stored objects     |
//! | `cache`   | plaintext blocks that a request needed only a part of                   |
//!
//! *Dirty* is what memory has and the store has not. A commit seals dirty blocks, then nodes from
//! the leaves up, then the header, and writes them in this order.

mod adopt;
mod attribute;
mod behind;
mod beside;
mod cache;
mod checkpoint;
mod commit;
mod content;
mod dir;
mod dir_attr;
mod dir_make;
mod dir_rename;
mod error;
mod figures;
mod find;
mod former;
mod held;
mod inspect;
mod journal;
mod left;
mod listing;
mod open;
mod ranges;
mod recover;
mod reencrypt;
mod rekey;
mod renewed;
mod replay;
mod rewrap;
mod room;
mod salvage;
mod sessions;
mod settled;
mod stage;
mod staged;
mod stat;
mod state;
mod tree;
mod verify;
mod volume;
mod write;
mod written;

pub use crate::store::{Creator, Durability, NodeKind, RenameMode, SetAttr, SetTime, is_news};
pub use attribute::{Bearer, CAPABILITIES, XattrMode};
pub use behind::Told;
pub use content::{File, Slice};
pub use dir::{Access, Dir};
pub use error::{Damage, FileError, Spot};
pub use figures::Figures;
pub use held::Held;
pub use inspect::{DirNames, LINK_FILE_LEN_MAX, sealed_attributes};
pub use listing::{DirEntry, Listing};
pub use ranges::{Allocate, Seek};
pub use rekey::{Rekey, Rekeyed};
pub use renewed::Unrelated;
pub use stat::{Kind, Stat, Time};
pub use verify::{Verdict, Verified};
pub use volume::{Changing, Frozen, StatFs, Volume, VolumeOptions};
