//! Directory streams. A stream lists what was there when it was opened or rewound: positions are
//! places in that list, so that they stay valid whatever comes and goes (telldir(3), seekdir(3)).

use std::sync::{Arc, Mutex, PoisonError};

use crate::file::{Dir, DirEntry, Kind};
use crate::fs::core::Fs;
use crate::fs::error::FsError;
use crate::fs::handles::Handle;
use crate::fs::ids::{Attr, HandleId, InodeId};

/// An open directory stream.
#[derive(Debug)]
pub(in crate::fs) struct DirHandle {
    inode: InodeId,
    parent: InodeId,
    dir: Dir,
    /// Taken when the stream is first read, and again when it is read from its start.
    listed: Mutex<Option<Arc<[DirEntry]>>>,
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

/// `.` and `..` come first.
const DOTS: u64 = 2;

impl DirHandle {
    fn entries(&self, offset: u64) -> Result<Arc<[DirEntry]>, FsError> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*listed {
            Some(entries) if offset > 0 => Ok(entries.clone()),
            _ => {
                let entries: Arc<[DirEntry]> = self.dir.entries()?.into();
                *listed = Some(entries.clone());
                Ok(entries)
            }
        }
    }

    fn dots(&self, offset: u64) -> impl Iterator<Item = Listed<'static>> {
        let dots: [(InodeId, &[u8]); 2] = [(self.inode, b"."), (self.parent, b"..")];
        let kind = Kind::Dir;
        (1..).zip(dots).skip_while(move |(next, _)| *next <= offset).map(move |(next, dot)| {
            let (ino, name) = dot;
            Listed { ino, kind, name, next, attr: None }
        })
    }
}

impl Fs {
    /// Opens a directory stream.
    ///
    /// # Errors
    /// `NotDir`, `NotFound`, and the store's.
    pub fn opendir(&self, id: InodeId) -> Result<HandleId, FsError> {
        let dir = self.dir(id)?;
        let parent = self.inodes.place(id).map_or(InodeId::ROOT, |place| place.parent);
        let handle = DirHandle { inode: id, parent, dir, listed: Mutex::default() };
        Ok(self.handles.insert(Handle::Dir(handle)))
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
            if entry.next <= DOTS {
                return take(&entry);
            }
            match self.lookup_in(stream, entry.name) {
                Ok(attr) => (entry.ino, entry.attr) = (attr.ino, Some(attr)),
                // Gone since the list was made: to those who list it now it never was.
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
        Ok(self.hand_out(stream.inode, name, stream.dir.lookup(name)?))
    }

    fn each(
        &self,
        handle: HandleId,
        offset: u64,
        mut take: impl FnMut(&DirHandle, Listed<'_>) -> Taken,
    ) -> Result<(), FsError> {
        let handle = self.handles.get(handle)?;
        let Handle::Dir(stream) = &*handle else { return Err(FsError::NotDir) };
        let entries = stream.entries(offset)?;
        for dot in stream.dots(offset) {
            if !take(stream, dot) {
                return Ok(());
            }
        }
        let start = offset.saturating_sub(DOTS);
        let start = start.min(entries.len() as u64);
        let rest = &entries[usize::try_from(start).expect("at most their count")..];
        for (next, entry) in (start + DOTS + 1..).zip(rest) {
            let (ino, kind) = (self.id(entry.ino), entry.kind);
            if !take(stream, Listed { ino, kind, name: &entry.name, next, attr: None }) {
                return Ok(());
            }
        }
        Ok(())
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
        }
    }

    /// Closes a directory stream.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn releasedir(&self, handle: HandleId) -> Result<(), FsError> {
        self.handles.remove(handle).map(drop)
    }
}
