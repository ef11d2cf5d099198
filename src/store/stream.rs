//! Listings of a stored directory, a buffer at a time, however many entries it has.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::store::dir::{DIR_FLAGS, StoreDir};

/// Bytes of entries that one call to the disk gives at most; what readdir(3) asks for.
const BUFFER_LEN: usize = 32 << 10;

/// A file name in a stored directory, as its disk lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerEntry {
    /// File name.
    pub name: Vec<u8>,
    /// Lower inode number.
    pub ino: u64,
    /// What it is; `Unknown` where the disk does not tell in a listing.
    pub kind: FileType,
    /// Where the disk goes on after it: the `d_off` of getdents(2), never 0.
    pub next: u64,
}

/// A listing that is going on. It has a descriptor of its own, because the position in a listing
/// belongs to the descriptor.
#[derive(Debug)]
pub struct DirStream {
    fd: OwnedFd,
    buffer: Box<[MaybeUninit<u8>]>,
}

impl StoreDir {
    /// A listing from the start.
    ///
    /// # Errors
    /// The system's.
    pub fn stream(&self) -> Result<DirStream, Errno> {
        let fd = rustix::fs::openat(&*self.fd, c".", DIR_FLAGS, Mode::empty())?;
        Ok(DirStream { fd, buffer: Box::new_uninit_slice(BUFFER_LEN) })
    }
}

/// Whether a name stands for the directory itself or the one above.
pub fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

impl DirStream {
    /// Goes on after the entry whose `next` this is; from the start for 0.
    ///
    /// # Errors
    /// `EINVAL` for a position that the disk can't have given.
    pub fn seek(&self, next: u64) -> Result<(), Errno> {
        rustix::fs::seek(&self.fd, SeekFrom::Start(next)).map(drop)
    }

    /// The next entries, `.` and `..` among them; none at the end.
    ///
    /// # Errors
    /// The system's.
    pub fn batch(&mut self) -> Result<Vec<LowerEntry>, Errno> {
        let mut entries = Vec::new();
        let mut listing = RawDir::new(&self.fd, &mut self.buffer);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            entries.push(LowerEntry {
                name: entry.file_name().to_bytes().to_vec(),
                ino: entry.ino(),
                kind: entry.file_type(),
                next: entry.next_entry_cookie(),
            });
            if listing.is_buffer_empty() {
                break;
            }
        }
        Ok(entries)
    }
}
