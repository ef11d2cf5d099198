//! What is kept of an object whose last name is going, so that those who still have it go on.

use std::sync::Arc;

use rustix::io::Errno;

use crate::cipher::Owner;
use crate::file::attribute::Bearer;
use crate::file::content::File;
use crate::file::dir::{Access, Dir};
use crate::file::error::{FileError, Spot};
use crate::file::stat::{Kind, Stat};
use crate::file::volume::{Volume, lock};
use crate::store::{Attributed, DiskBlob, Place, SetAttr};

/// An object kept alive after its last name is gone.
#[derive(Debug)]
pub struct Held(Kept);

#[derive(Debug)]
enum Kept {
    Dir(Dir),
    /// Open as [`Dir::open_file`] would open it.
    File {
        volume: Arc<Volume>,
        blob: DiskBlob,
        writable: bool,
        /// It may be opened again.
        _held: HeldFile,
    },
    /// What must not be opened to be looked at: by a descriptor of its place (`O_PATH`).
    Other {
        volume: Arc<Volume>,
        place: Place,
    },
}

/// While this lives, a file may be opened that has no name.
#[derive(Debug)]
struct HeldFile {
    volume: Arc<Volume>,
    ino: u64,
}

impl HeldFile {
    fn new(volume: &Arc<Volume>, ino: u64) -> Self {
        *lock(&volume.held).entry(ino).or_default() += 1;
        Self { volume: Arc::clone(volume), ino }
    }
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        let mut held = lock(&self.volume.held);
        if let Some(count) = held.get_mut(&self.ino) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.ino);
            }
        }
    }
}

impl Dir {
    /// Keeps an object alive, so that it can be used after its last name is gone.
    ///
    /// # Errors
    /// The store's.
    pub fn hold(&self, name: &[u8], kind: Kind) -> Result<Held, FileError> {
        let stored = self.stored(name)?;
        let volume = self.volume().clone();
        Ok(Held(match kind {
            Kind::Dir => Kept::Dir(self.open_dir(name)?),
            Kind::File => {
                // It may be opened for writing later, when its mode allows that.
                let opened = self.open_lower(stored.object(), Access::Write);
                let read = |_| self.open_lower(stored.object(), Access::Read);
                let (blob, writable) = opened.or_else(read)?;
                let ino = rustix::fs::fstat(&blob)?.st_ino;
                Kept::File { _held: HeldFile::new(&volume, ino), volume, blob, writable }
            }
            Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                Kept::Other { volume, place: self.lower().hold(stored.object())? }
            }
        }))
    }
}

impl Held {
    /// Attributes.
    ///
    /// # Errors
    /// The store's.
    pub fn stat(&self) -> Result<Stat, FileError> {
        match &self.0 {
            Kept::Dir(dir) => dir.stat(),
            Kept::File { volume, blob, .. } => volume.stat_of(&rustix::fs::fstat(blob)?),
            Kept::Other { volume, place } => {
                let mut stat = volume.stat_of(&rustix::fs::fstat(place)?)?;
                if stat.kind == Kind::Symlink {
                    stat.size = self.read_link().map_or(0, |target| target.len() as u64);
                }
                Ok(stat)
            }
        }
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// The store's.
    pub fn set_attr(&self, set: &SetAttr) -> Result<Stat, FileError> {
        match &self.0 {
            Kept::Dir(dir) => return dir.set_attr_self(set),
            Kept::File { volume, blob, .. } => {
                let ino = rustix::fs::fstat(blob)?.st_ino;
                if let Some(file) = volume.opened(ino) {
                    return file.set_attr(set);
                }
                set.apply_to(blob)?;
            }
            Kept::Other { place, .. } => set.apply_by_place(place)?,
        }
        self.stat()
    }

    /// The directory.
    pub fn dir(&self) -> Option<Dir> {
        match &self.0 {
            Kept::Dir(dir) => Some(dir.clone()),
            Kept::File { .. } | Kept::Other { .. } => None,
        }
    }

    /// Opens the file: the one open file of its inode.
    ///
    /// # Errors
    /// `EISDIR` or `EINVAL` for what is no file, and those of [`Dir::open_file`].
    pub fn open_file(&self, access: Access) -> Result<Arc<File>, FileError> {
        match &self.0 {
            Kept::Dir(_) => Err(FileError::Sys(Errno::ISDIR)),
            Kept::Other { .. } => Err(FileError::Invalid),
            Kept::File { writable: false, .. } if access == Access::Write => {
                Err(FileError::Sys(Errno::ACCESS))
            }
            Kept::File { volume, blob, writable, .. } => volume.open_blob(blob.again()?, *writable),
        }
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` for what is no link, [`FileError::Damaged`], `ENOENT` for one so long that its
    /// target went with its name, or the store's.
    pub fn read_link(&self) -> Result<Vec<u8>, FileError> {
        let Kept::Other { volume, place } = &self.0 else { return Err(FileError::Invalid) };
        let text = rustix::fs::readlinkat(place, c"", Vec::new())?.into_bytes();
        let ino = rustix::fs::fstat(place)?.st_ino;
        volume.link_target(&text, || Spot::of(ino, place))
    }

    /// Its extended attributes.
    ///
    /// # Errors
    /// The store's.
    pub fn bearer(&self) -> Result<Bearer<'_>, FileError> {
        match &self.0 {
            Kept::Dir(dir) => dir.bearer(None),
            Kept::File { volume, blob, .. } => {
                let owner = || Ok(Owner::File(self.open_file(Access::Read)?.id()?));
                Ok(Bearer::new(volume, Attributed::Open(blob), Box::new(owner)))
            }
            Kept::Other { volume, place } => {
                let owner = || Ok(Owner::Other);
                Ok(Bearer::new(volume, Attributed::Place(place), Box::new(owner)))
            }
        }
    }
}
