//! Directory streams. Positions are those of the store's disk, so that they stay valid whatever
//! comes and goes (telldir(3), seekdir(3)), and a stream of any length takes the same memory.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::file::{Dir, DirEntry, Kind, Listing};
use crate::fs::core::Fs;
use crate::fs::error::FsError;
use crate::fs::handles::Handle;
use crate::fs::ids::{Attr, HandleId, InodeId};
use crate::fs::rest::Resting;
use crate::limits::DESCRIPTORS_SPARE_LAST;

/// An open directory stream.
#[derive(Debug)]
pub(in crate::fs) struct DirHandle {
    inode: InodeId,
    parent: InodeId,
    dir: Dir,
    /// Begun when the stream is first read.
    listing: Mutex<Option<Listing>>,
    /// It is in [`Keepers`].
    keeps: AtomicBool,
}

/// Directories of which the kernel keeps the listing that one stream reads. A second stream that
/// filled the same cache could put into it what it had read before a change, behind what the first
/// one read after it: Linux compares times only where a listing begins.
#[derive(Debug, Default)]
pub(in crate::fs) struct Keepers(Mutex<HashSet<InodeId>>);

impl Keepers {
    fn with<T>(&self, work: impl FnOnce(&mut HashSet<InodeId>) -> T) -> T {
        // A panic elsewhere leaves it consistent: each change of it is whole.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One entry of a directory stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Its inode.
    pub ino: InodeId,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: &'a [u8],
    /// Where to go on after it.
    pub next: u64,
    /// Its attributes, where they were asked for and could be had; `None` for `.` and `..`.
    pub attr: Option<Attr>,
}

/// Whether an entry was taken.
type Taken = bool;

impl DirHandle {
    pub(in crate::fs) fn resting(&self) -> Resting {
        let keeps = self.keeps.load(Ordering::Relaxed);
        Resting::Dir { inode: self.inode, parent: self.parent, keeps }
    }

    /// The stream's listing, where it was left or begun now.
    fn listing(&self) -> Result<MutexGuard<'_, Option<Listing>>, FsError> {
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if listing.is_none() {
            *listing = Some(self.dir.listing()?);
        }
        Ok(listing)
    }
}

impl Fs {
    /// Opens a directory stream.
    ///
    /// # Errors
    /// `NotDir`, `NotFound`, `EMFILE` if very few descriptors are left, and the store's.
    pub fn opendir(&self, id: InodeId) -> Result<HandleId, FsError> {
        self.must_leave(DESCRIPTORS_SPARE_LAST)?;
        let dir = self.dir(id)?;
        let parent = self.inodes.parent(id).unwrap_or(InodeId::ROOT);
        Ok(self.handles.insert(Handle::Dir(self.stream(id, parent, dir, false))))
    }

    /// A stream at its beginning; `keeps` if the kernel keeps what it reads by it already.
    pub(in crate::fs) fn stream(
        &self,
        inode: InodeId,
        parent: InodeId,
        dir: Dir,
        keeps: bool,
    ) -> DirHandle {
        if keeps {
            self.keepers.with(|all| all.insert(inode));
        }
        let (listing, keeps) = (Mutex::default(), AtomicBool::new(keeps));
        DirHandle { inode, parent, dir, listing, keeps }
    }

    /// Whether the kernel may keep what it reads by this new stream, and show what it has kept:
    /// nobody else changes the directory, and no other stream of it is kept at this time.
    pub fn keeps_listing(&self, handle: HandleId) -> bool {
        let Ok(handle) = self.handles.get(handle) else { return false };
        let Handle::Dir(stream) = &*handle else { return false };
        let keeps = self.changes_here_only() && self.keepers.with(|all| all.insert(stream.inode));
        stream.keeps.fetch_or(keeps, Ordering::Relaxed);
        keeps
    }

    /// Gives the entries after position `offset` to `take`, in order, until it takes one no more.
    ///
    /// # Errors
    /// `BadHandle`, `NotDir`, and the store's.
    pub fn readdir(
        &self,
        handle: HandleId,
        offset: u64,
        mut take: impl FnMut(&Listed<'_>) -> Taken,
    ) -> Result<(), FsError> {
        self.each(handle, offset, |_, entry| take(&entry))
    }

    /// The same with attributes; each inode but those of `.` and `..` is handed out, as by a
    /// lookup, if it is taken.
    ///
    /// # Errors
    /// As [`Fs::readdir`]; an entry that alone can't be read has no attributes.
    pub fn readdirplus(
        &self,
        handle: HandleId,
        offset: u64,
        mut take: impl FnMut(&Listed<'_>) -> Taken,
    ) -> Result<(), FsError> {
        self.each(handle, offset, |stream, mut entry| {
            if matches!(entry.name, b"." | b"..") {
                return take(&entry);
            }
            match self.lookup_in(stream, entry.name) {
                Ok(attr) => (entry.ino, entry.attr) = (attr.ino, Some(attr)),
                // Gone since it was listed.
                Err(error) if error.is_not_found() => return true,
                Err(_) => drop(self.inodes.know(entry.ino, entry.kind, stream.inode, entry.name)),
            }
            let taken = take(&entry);
            if !taken {
                self.forget(entry.ino, 1);
            }
            taken
        })
    }

    fn lookup_in(&self, stream: &DirHandle, name: &[u8]) -> Result<Attr, FsError> {
        let _names = self.guards.follow(stream.inode);
        Ok(self.hand_out(stream.inode, name, self.looked_up(&stream.dir, name)?))
    }

    fn each(
        &self,
        handle: HandleId,
        offset: u64,
        mut take: impl FnMut(&DirHandle, Listed<'_>) -> Taken,
    ) -> Result<(), FsError> {
        let handle = self.handles.get(handle)?;
        let stream = match &*handle {
            Handle::Dir(stream) => stream,
            Handle::File(_) => return Err(FsError::NotDir),
            Handle::Gone { .. } => return Err(FsError::Stale),
        };
        let mut listing = stream.listing()?;
        let listing = listing.as_mut().expect("begun if it was not");
        listing.seek(offset)?;
        let mut any = false;
        loop {
            match listing.peek() {
                Ok(Some(entry)) if take(stream, self.listed(stream, entry)) => any = true,
                Ok(_) => return Ok(()),
                // What was taken is worth having; the error comes again with the next request.
                Err(_) if any => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            listing.take()?;
        }
    }

    fn listed<'a>(&self, stream: &DirHandle, entry: &'a DirEntry) -> Listed<'a> {
        let DirEntry { name, kind, next, .. } = entry;
        let ino = match &name[..] {
            b"." => stream.inode,
            b".." => stream.parent,
            _ => self.id(entry.ino),
        };
        Listed { ino, kind: *kind, name, next: *next, attr: None }
    }

    /// Returns when the directory's entries, and what their names need to be read, survive a
    /// power cut.
    ///
    /// # Errors
    /// `BadHandle`, `NotDir`, and the disk's.
    pub fn fsyncdir(&self, handle: HandleId) -> Result<(), FsError> {
        match &*self.handles.get(handle)? {
            Handle::Dir(stream) => Ok(stream.dir.sync()?),
            Handle::File(_) => Err(FsError::NotDir),
            Handle::Gone { .. } => Err(FsError::Stale),
        }
    }

    /// A stream is closed: the next may be kept.
    pub(in crate::fs) fn keep_no_more(&self, stream: &DirHandle) {
        if stream.keeps.load(Ordering::Relaxed) {
            self.keepers.with(|all| all.remove(&stream.inode));
        }
    }

    /// Closes a directory stream.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn releasedir(&self, handle: HandleId) -> Result<(), FsError> {
        self.release(handle)
    }
}
