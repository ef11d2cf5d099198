//! Trees of files, read and written the same way wherever they are: in a volume that is not
//! mounted, below a mountpoint, or on a local disk.

pub mod plain;
pub mod stored;

use std::path::{Path, PathBuf};

use crate::file::{Kind, Time};
use crate::fs::Follow;
use crate::lifecycle::error::VerbError;

/// Attributes that listings show and copies keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Hard links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last modification.
    pub mtime: Time,
}

/// Takes the data of a file as it is read: where, and what. Holes are left out.
pub type Sink<'a> = dyn FnMut(u64, &[u8]) -> Result<(), VerbError> + 'a;

/// A file that is being written; nothing is promised of it until `finish`.
pub trait Output {
    /// Writes at an offset.
    ///
    /// # Errors
    /// The disk's.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), VerbError>;

    /// Sets the length and hands everything to the disk.
    ///
    /// # Errors
    /// The disk's.
    fn finish(self: Box<Self>, len: u64) -> Result<(), VerbError>;
}

/// A tree. Paths are below its root; the empty path is the root itself. The last name of a path
/// is not followed if it is a symbolic link, unless `read` is told to.
pub trait Tree {
    /// The path as people know it.
    fn shown(&self, path: &Path) -> PathBuf;

    /// Attributes; `None` if nothing is there.
    ///
    /// # Errors
    /// The disk's.
    fn stat(&self, path: &Path) -> Result<Option<Item>, VerbError>;

    /// Names in a directory, sorted.
    ///
    /// # Errors
    /// The disk's.
    fn list(&self, path: &Path) -> Result<Vec<PathBuf>, VerbError>;

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// The disk's.
    fn read_link(&self, path: &Path) -> Result<PathBuf, VerbError>;

    /// Gives the data of a file to `sink`, in order; returns the file's length.
    ///
    /// # Errors
    /// The disk's, or the sink's.
    fn read(&self, path: &Path, follow: Follow, sink: &mut Sink<'_>) -> Result<u64, VerbError>;

    /// Makes a directory; one that is there stays.
    ///
    /// # Errors
    /// The disk's.
    fn make_dir(&self, path: &Path) -> Result<(), VerbError>;

    /// Makes a file, or empties the one that is there.
    ///
    /// # Errors
    /// The disk's.
    fn create(&self, path: &Path) -> Result<Box<dyn Output + '_>, VerbError>;

    /// Makes a symbolic link in place of any that is there.
    ///
    /// # Errors
    /// The disk's.
    fn make_link(&self, path: &Path, target: &Path) -> Result<(), VerbError>;

    /// Removes a file or link.
    ///
    /// # Errors
    /// The disk's.
    fn remove(&self, path: &Path) -> Result<(), VerbError>;

    /// Sets permission bits and time of modification.
    ///
    /// # Errors
    /// The disk's.
    fn set_attr(&self, path: &Path, item: &Item) -> Result<(), VerbError>;
}

/// VerbError for a path where nothing is.
pub(in crate::lifecycle) fn missing(tree: &dyn Tree, path: &Path) -> VerbError {
    VerbError::NoPath { path: tree.shown(path), found: "no such file or directory".to_owned() }
}
