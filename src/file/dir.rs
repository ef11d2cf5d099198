//! A directory by plaintext names: looking, opening.

use std::sync::Arc;

use rustix::io::Errno;

use crate::cipher::{DirCipher, StoredName};
use crate::file::content::File;
use crate::file::error::{FileError, Spot};
use crate::file::open::{self, Loaded};
use crate::file::stat::{Kind, Stat};
use crate::file::volume::Volume;
use crate::format::ids::{DirId, FileId};
use crate::format::name;
use crate::store::{DiskBlob, LowerStat, SetAttr, StoreDir};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// An open directory. Cheap to clone; the copies share one descriptor.
#[derive(Clone, Debug)]
pub struct Dir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    volume: Arc<Volume>,
    lower: StoreDir,
    names: DirCipher,
    ino: u64,
}

impl Volume {
    /// Attributes with plaintext sizes; those of an open file are its true ones.
    pub(in crate::file) fn stat_of(&self, lower: &LowerStat) -> Result<Stat, FileError> {
        let mut stat = Stat::from_lower(lower, self.geometry()).ok_or(FileError::NotSupported)?;
        if stat.kind == Kind::File
            && let Some(file) = self.opened(stat.ino)
        {
            file.overlay(&mut stat);
        }
        Ok(stat)
    }

    /// Opens what a descriptor has open: the one open file of its inode. Errors are those of
    /// [`Dir::open_file`].
    pub(in crate::file) fn open_blob(
        self: &Arc<Self>,
        blob: DiskBlob,
        writable: bool,
    ) -> Result<Arc<File>, FileError> {
        let lower = rustix::fs::fstat(&blob)?;
        match Kind::from_lower(rustix::fs::FileType::from_raw_mode(lower.st_mode)) {
            Some(Kind::File) => {}
            Some(Kind::Dir) => return Err(FileError::Sys(Errno::ISDIR)),
            _ => return Err(FileError::Invalid),
        }
        let volume = self;
        let ino = lower.st_ino;
        volume.let_go_of_latched(ino);
        let (mut blob, mut is_blank) = (Some(blob), false);
        let file = volume.open_with(ino, || {
            let blob = blob.take().expect("called once");
            match open::load(volume, blob, ino, writable) {
                Ok(Loaded::Blank(state)) => {
                    is_blank = true;
                    Ok(*state)
                }
                Ok(Loaded::Whole(mut state)) => {
                    *state.settled.get_mut() = volume.settled.take(ino);
                    Ok(*state)
                }
                Ok(Loaded::Mended) => Err(FileError::Stale),
                Err(error) => {
                    volume.count_damage();
                    Err(error)
                }
            }
        })?;
        if is_blank {
            file.give_header(writable);
        }
        if blob.is_some() && volume.read_only() {
            // Whoever opens a file sees the newest state, also if it is open already.
            file.refresh()?;
        }
        if let (Some(blob), true) = (blob, writable) {
            let mut state = file.state_mut()?;
            if !state.writable {
                // It was open for reading only; this descriptor can do both.
                state.blob.replace(blob);
                state.writable = true;
            }
        }
        Ok(file)
    }
}

impl File {
    /// Puts into `stat` what memory knows better than the store.
    pub(in crate::file) fn overlay(&self, stat: &mut Stat) {
        self.look_again();
        // A file that is refused shows what is stored.
        let Ok(state) = self.state() else { return };
        let stored_len = state.geometry().stored_len(stat.size);
        stat.size = state.length;
        stat.blocks = state.blob.space(stored_len, stat.blocks * 512).div_ceil(512);
        if let Some(mtime) = state.mtime {
            state.mtime_seen.store(true, std::sync::atomic::Ordering::Relaxed);
            stat.mtime = mtime;
            stat.ctime = stat.ctime.max(mtime);
        }
    }

    /// The file's id.
    pub(in crate::file) fn id(&self) -> Result<FileId, FileError> {
        Ok(self.state()?.prefix.file_id)
    }

    /// Attributes.
    ///
    /// # Errors
    /// The store's.
    pub fn stat(&self) -> Result<Stat, FileError> {
        let lower = rustix::fs::fstat(&self.state_anyway().blob)?;
        let geometry = self.volume().geometry();
        let mut stat = Stat::from_lower(&lower, geometry).ok_or(FileError::NotSupported)?;
        self.overlay(&mut stat);
        Ok(stat)
    }

    /// Changes attributes. What was written before keeps its order: it is committed first if a
    /// time is to be set.
    ///
    /// # Errors
    /// The store's.
    pub fn set_attr(&self, set: &SetAttr) -> Result<Stat, FileError> {
        self.volume().check_writable()?;
        {
            let mut state = self.state_mut()?;
            if set.sets_times() {
                self.commit_state(&mut state)?;
            }
            set.apply_to(&state.blob)?;
        }
        self.stat()
    }
}

/// Refuses what no name can be; the kernel does so too, but not every caller is the kernel.
fn check_name(name: &[u8]) -> Result<(), FileError> {
    if name.len() > name::NAME_MAX {
        return Err(FileError::NameTooLong);
    }
    let odd = name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if name.is_empty() || odd || matches!(name, b"." | b"..") {
        return Err(FileError::Invalid);
    }
    Ok(())
}

impl Dir {
    /// Reads and authenticates the directory's marker.
    pub(in crate::file) fn open(
        volume: &Arc<Volume>,
        lower: StoreDir,
        wanted: Option<DirId>,
    ) -> Result<Self, FileError> {
        let ino = lower.stat_self()?.st_ino;
        let damaged = |what| FileError::damaged(Spot::of(ino, &lower), what);
        let decoded = match volume.reading(&lower, StoreDir::read_marker) {
            Ok(marker) => marker.decode(),
            Err(Errno::NOENT) => return Err(damaged("directory without a marker")),
            Err(error) => return Err(error.into()),
        };
        let (epoch, id, tag) =
            decoded.map_err(|error| FileError::marker(Spot::of(ino, &lower), &error))?;
        let names = volume
            .keys_for(epoch)
            .open_marker(epoch, id, &tag)
            .ok_or_else(|| damaged("marker of the directory is not authentic"))?;
        if wanted.is_some_and(|wanted| wanted != id) {
            return Err(damaged("another directory stands in the root's place"));
        }
        Ok(Self(Arc::new(Inner { volume: volume.clone(), lower, names, ino })))
    }

    /// Inode number.
    pub fn ino(&self) -> u64 {
        self.0.ino
    }

    /// The volume.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.0.volume
    }

    pub(in crate::file) fn lower(&self) -> &StoreDir {
        &self.0.lower
    }

    pub(in crate::file) fn names(&self) -> &DirCipher {
        &self.0.names
    }

    pub(in crate::file) fn id(&self) -> DirId {
        self.0.names.id()
    }

    pub(in crate::file) fn stored(&self, name: &[u8]) -> Result<StoredName, FileError> {
        check_name(name)?;
        Ok(self.0.names.seal_name(name))
    }

    /// Attributes of the directory.
    ///
    /// # Errors
    /// The store's.
    pub fn stat(&self) -> Result<Stat, FileError> {
        self.0.volume.stat_of(&self.0.lower.stat_self()?)
    }

    /// Attributes of an entry. Opens no content: a size is arithmetic, compared when the file is
    /// opened.
    ///
    /// # Errors
    /// `ENOENT`, or the store's.
    pub fn lookup(&self, name: &[u8]) -> Result<Stat, FileError> {
        let stored = self.stored(name)?;
        self.stat_stored(stored.object())
    }

    pub(in crate::file) fn stat_stored(&self, object: &[u8]) -> Result<Stat, FileError> {
        let mut stat = self.0.volume.stat_of(&self.0.lower.stat(object)?)?;
        if stat.kind == Kind::File && self.0.volume.read_only() {
            self.put_committed_size(object, &mut stat);
        }
        if stat.kind == Kind::Symlink {
            stat.size = self.link_len(object)?;
        }
        Ok(stat)
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, [`FileError::Damaged`], or the store's.
    pub fn open_dir(&self, name: &[u8]) -> Result<Self, FileError> {
        let (stored, lower) = (self.stored(name)?, &self.0.lower);
        if self.0.volume.read_only() {
            return self.open_dir_beside(stored.object());
        }
        Self::open(&self.0.volume, lower.open_dir_lending(stored.object())?, None)
    }

    pub(in crate::file) fn open_lower(
        &self,
        object: &[u8],
        access: Access,
    ) -> Result<(DiskBlob, bool), Errno> {
        let lower = &self.0.lower;
        if self.0.volume.read_only() {
            return Ok((lower.open_file(object, false)?, false));
        }
        match (lower.open_file(object, true), access) {
            (Ok(blob), _) => Ok((blob, true)),
            (Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY), Access::Read) => {
                match lower.open_file(object, false) {
                    // Whoever reads it may; it is opened for its id, or to keep it.
                    Err(Errno::ACCESS) => Ok((lower.open_file_lending(object)?, true)),
                    opened => Ok((opened?, false)),
                }
            }
            (Err(Errno::ACCESS), Access::Write) => Ok((lower.open_file_lending(object)?, true)),
            (Err(error), _) => Err(error),
        }
    }

    /// Opens a file: the one open file of its inode.
    ///
    /// # Errors
    /// [`FileError::Damaged`] if its header is not authentic; [`FileError::Stale`] if its stored
    /// length was wrong and has been mended, so that attributes seen before may be wrong; `EISDIR`
    /// or `EINVAL` for what is no file; or the store's.
    pub fn open_file(&self, name: &[u8], access: Access) -> Result<Arc<File>, FileError> {
        let stored = self.stored(name)?;
        let open = || {
            let (blob, writable) = self.open_lower(stored.object(), access)?;
            self.0.volume.open_blob(blob, writable)
        };
        if self.0.volume.read_only() { self.0.volume.patiently(open) } else { open() }
    }

    /// Returns when the directory's entries survive a power cut.
    ///
    /// # Errors
    /// The store's.
    pub fn sync(&self) -> Result<(), FileError> {
        self.0.lower.sync()?;
        self.0.volume.counters.syncs.add(1);
        Ok(())
    }
}
