//! Listings of a directory by plaintext names.

use std::collections::VecDeque;

use rustix::io::Errno;

use crate::file::dir::Dir;
use crate::file::error::{FileError, Spot};
use crate::file::stat::Kind;
use crate::format::name::{self, Stored};
use crate::store::{DirStream, LowerEntry, StoreDir, is_dot, is_news};

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Plaintext name; `.` and `..` where the store's disk lists them.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Position after it, never 0.
    pub next: u64,
}

impl DirEntry {
    /// Whether it stands for the directory itself or the one above.
    pub fn is_dot(&self) -> bool {
        is_dot(&self.name)
    }
}

/// A listing that is going on: a few entries in memory, however many there are. Positions are
/// those of the store's disk, which keeps them valid whatever comes and goes (telldir(3)).
#[derive(Debug)]
pub struct Listing {
    dir: Dir,
    lower: DirStream,
    ready: VecDeque<DirEntry>,
    position: u64,
}

impl Dir {
    /// A listing from the start.
    ///
    /// # Errors
    /// The store's.
    pub fn listing(&self) -> Result<Listing, FileError> {
        let lower = self.volume().reading(self.lower(), StoreDir::stream)?;
        Ok(Listing { dir: self.clone(), lower, ready: VecDeque::new(), position: 0 })
    }

    /// Everything in the directory but `.` and `..`. A stored name that is not authentic is
    /// logged and left out.
    ///
    /// # Errors
    /// The store's.
    pub fn entries(&self) -> Result<Vec<DirEntry>, FileError> {
        let mut listing = self.listing()?;
        let mut entries = Vec::new();
        while let Some(entry) = listing.take()? {
            if !entry.is_dot() {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// What an entry of the store is called; `None` for what is no object, and for a name that
    /// is not authentic, which is logged.
    fn read_entry(&self, lower: LowerEntry) -> Result<Option<DirEntry>, FileError> {
        let LowerEntry { name: stored_name, ino, kind: lower_kind, next } = lower;
        let kind = Kind::from_lower(lower_kind);
        if is_dot(&stored_name) {
            return Ok(Some(DirEntry { name: stored_name, ino, kind: Kind::Dir, next }));
        }
        let sealed = match name::decode(&stored_name) {
            Stored::Marker | Stored::Sidecar | Stored::Temporary => return Ok(None),
            Stored::Direct(sealed) => Some(sealed),
            Stored::Long { sidecar } => {
                self.volume().reading(self.lower(), |lower| lower.read_sidecar(&sidecar)).ok()
            }
            Stored::Foreign => None,
        };
        let opened = sealed.and_then(|sealed| self.names().open_name(&sealed));
        // The name has to be the one that this object would be stored under.
        let Some((name, _)) = opened.filter(|(_, stored)| stored.object() == stored_name) else {
            let gone = || self.lower().stat(&stored_name).err() == Some(Errno::NOENT);
            if self.volume().read_only() && gone() {
                // A long name, removed by a writer since it was listed.
                return Ok(None);
            }
            self.volume().counters.damages.add(1);
            let spot = Spot::in_dir(self.lower(), &stored_name);
            let object = String::from_utf8_lossy(&stored_name).into_owned();
            if is_news(&(&spot, &object)) {
                let (dir, ino, stored) = (self.ino(), spot.ino, spot.stored());
                tracing::error!(
                    dir,
                    ino,
                    stored,
                    object,
                    "a stored name is not authentic and is left out: `cmkfs check --repair` moves \
                     what has it to lost+found"
                );
            }
            return Ok(None);
        };
        let kind = match kind {
            Some(kind) => kind,
            None => self.stat_stored(&stored_name)?.kind,
        };
        Ok(Some(DirEntry { name, ino, kind, next }))
    }
}

impl Listing {
    /// Goes on after the entry whose `next` this is. From the start for 0: what is listed then is
    /// what is there now.
    ///
    /// # Errors
    /// The store's, for a position that it did not give.
    pub fn seek(&mut self, position: u64) -> Result<(), FileError> {
        if position != self.position || position == 0 {
            self.ready.clear();
            self.lower.seek(position)?;
            self.position = position;
        }
        Ok(())
    }

    /// The next entry, which stays the next one; `None` at the end.
    ///
    /// # Errors
    /// The store's.
    pub fn peek(&mut self) -> Result<Option<&DirEntry>, FileError> {
        while self.ready.is_empty() {
            let batch = self.lower.batch()?;
            if batch.is_empty() {
                return Ok(None);
            }
            for lower in batch {
                self.ready.extend(self.dir.read_entry(lower)?);
            }
        }
        Ok(self.ready.front())
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// The store's.
    pub fn take(&mut self) -> Result<Option<DirEntry>, FileError> {
        self.peek()?;
        let entry = self.ready.pop_front();
        if let Some(entry) = &entry {
            self.position = entry.next;
        }
        Ok(entry)
    }
}
