//! A file system without its volume: what the kernel goes on to know while no key is there, so that
//! it can go on from there once one is. It holds names, numbers and how things were opened; no key,
//! no content, no descriptor.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::file::{Access, Dir, FileError, Volume};
use crate::fs::content::OpenFile;
use crate::fs::core::Fs;
use crate::fs::error::FsError;
use crate::fs::handles::{Handle, Handles, RestingHandles};
use crate::fs::ids::{HandleId, InodeId, Sync};
use crate::fs::table::Table;

/// What a handle is while nothing is open.
#[derive(Clone, Debug)]
pub(in crate::fs) enum Resting {
    File {
        inode: InodeId,
        access: Access,
        sync: Sync,
        /// What it was to be told.
        owed: Option<FileError>,
    },
    Dir {
        inode: InodeId,
        parent: InodeId,
        keeps: bool,
    },
    /// Of something that had lost its last name: it was kept by being open alone.
    Gone {
        file: Option<InodeId>,
    },
}

/// What is left of an [`Fs`] whose volume was closed.
#[derive(Debug)]
pub struct Rest {
    inodes: Arc<Table>,
    handles: RestingHandles,
    keeps_times: bool,
}

impl Rest {
    /// Takes back `count` of the times that an inode was handed out.
    pub fn forget(&self, id: InodeId, count: u64) {
        self.inodes.forget(id, count);
    }

    /// Closes a handle.
    pub fn release(&mut self, handle: HandleId) {
        if let Some(Resting::File { inode, .. } | Resting::Gone { file: Some(inode) }) =
            self.handles.remove(handle)
        {
            self.inodes.drop_handle(inode);
        }
    }

    /// The inodes that are known outside.
    pub fn inodes(&self) -> Vec<InodeId> {
        self.inodes.ids()
    }
}

impl Fs {
    /// The inodes that are known outside; the root is always.
    pub fn known(&self) -> Vec<InodeId> {
        self.inodes.ids()
    }

    /// Lets go of all that is open: files, directories, and with them every key that they hold.
    /// What was written has to be committed before. Only for a file system that nobody uses any
    /// more.
    pub fn rest(&self) -> Rest {
        let handles = self.handles.rest(|handle| match handle {
            Handle::File(file) => file.resting(),
            Handle::Dir(stream) => stream.resting(),
            Handle::Gone { file } => Resting::Gone { file: *file },
        });
        self.inodes.close_all();
        self.dirs.clear();
        let keeps_times = self.keeps_times.load(Ordering::Relaxed);
        Rest { inodes: Arc::clone(&self.inodes), handles, keeps_times }
    }

    /// The same file system on its volume, which was opened again, with what is left of it. A
    /// handle of what can't be opened any more answers `ESTALE`.
    pub fn awake(volume: Arc<Volume>, root: Dir, rest: Rest) -> Arc<Self> {
        let Rest { inodes, handles, keeps_times } = rest;
        let mut fs = Self::over(volume, root, inodes);
        fs.keeps_times.store(keeps_times, Ordering::Relaxed);
        let mut wanted: HashMap<InodeId, Access> = HashMap::new();
        handles.each(|resting| {
            if let Resting::File { inode, access, .. } = resting {
                let most = wanted.entry(*inode).or_insert(*access);
                if *access == Access::Write {
                    *most = Access::Write;
                }
            }
        });
        let open = |(id, access): (InodeId, Access)| match fs.file(id, access) {
            Ok(file) => {
                let open = OpenFile::new(file, access);
                fs.inodes.open_again(id, Arc::clone(&open));
                Some((id, open))
            }
            Err(error) => {
                tracing::warn!(inode = fs.lower(id), %error, "an open file can't be used any more");
                None
            }
        };
        let files: HashMap<InodeId, Arc<OpenFile>> = wanted.into_iter().filter_map(open).collect();
        fs.handles = Handles::awake(handles, |resting| fs.handle(resting, &files));
        Arc::new(fs)
    }

    fn handle(&self, resting: Resting, files: &HashMap<InodeId, Arc<OpenFile>>) -> Handle {
        match resting {
            Resting::File { inode, sync, owed, .. } => match files.get(&inode) {
                Some(open) => Handle::of_file(inode, Arc::clone(open), sync, owed),
                None => Handle::Gone { file: Some(inode) },
            },
            Resting::Dir { inode, parent, keeps } => match self.dir(inode) {
                Ok(dir) => Handle::Dir(self.stream(inode, parent, dir, keeps)),
                Err(_) => Handle::Gone { file: None },
            },
            Resting::Gone { file } => Handle::Gone { file },
        }
    }
}

/// What stands between the kernel and a file system: who comes in keeps it there, and while it is
/// shut nobody comes in.
#[derive(Debug)]
pub struct Door(std::sync::RwLock<Behind>);

#[derive(Debug)]
enum Behind {
    Open(Arc<Fs>),
    Shut(Rest),
    /// For a moment, under the lock.
    Between,
}

/// Somebody who uses the file system.
#[derive(Debug)]
pub struct Inside<'a>(std::sync::RwLockReadGuard<'a, Behind>);

impl std::ops::Deref for Inside<'_> {
    type Target = Fs;

    fn deref(&self) -> &Fs {
        match &*self.0 {
            Behind::Open(fs) => fs,
            Behind::Shut(_) | Behind::Between => unreachable!("looked at under the same lock"),
        }
    }
}

impl Door {
    /// An open one.
    pub fn new(fs: Arc<Fs>) -> Arc<Self> {
        Arc::new(Self(std::sync::RwLock::new(Behind::Open(fs))))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Behind> {
        // Requests that panic change nothing behind the door itself.
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Behind> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The file system, for as long as what this gives is kept.
    ///
    /// # Errors
    /// `Locked`.
    pub fn enter(&self) -> Result<Inside<'_>, FsError> {
        let behind = self.read();
        match &*behind {
            Behind::Open(_) => Ok(Inside(behind)),
            Behind::Shut(_) | Behind::Between => Err(FsError::Locked),
        }
    }

    /// Waits for those inside, commits, and lets go of the volume; nobody enters from then on.
    /// Returns the inodes that are known outside.
    ///
    /// # Errors
    /// What could not be committed, which is lost to those who wrote it unless the journal has it.
    /// The door is shut all the same.
    pub fn shut(&self, happened: &str) -> (Vec<InodeId>, Result<(), FsError>) {
        let mut behind = self.write();
        match std::mem::replace(&mut *behind, Behind::Between) {
            Behind::Open(fs) => {
                let committed = fs.commit(happened);
                let rest = fs.rest();
                let known = rest.inodes();
                *behind = Behind::Shut(rest);
                (known, committed)
            }
            shut => {
                *behind = shut;
                (Vec::new(), Ok(()))
            }
        }
    }

    /// Lets people in again, to the volume that was opened anew.
    pub fn open(&self, volume: Arc<Volume>, root: Dir) {
        let mut behind = self.write();
        *behind = match std::mem::replace(&mut *behind, Behind::Between) {
            Behind::Shut(rest) => Behind::Open(Fs::awake(volume, root, rest)),
            other => other,
        };
    }

    /// [`Fs::forget`], whether it is open or not.
    pub fn forget(&self, id: InodeId, count: u64) {
        match &*self.read() {
            Behind::Open(fs) => fs.forget(id, count),
            Behind::Shut(rest) => rest.forget(id, count),
            Behind::Between => {}
        }
    }

    /// Closes the handle of a file or of a directory stream, whether it is open or not.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn release(&self, handle: HandleId) -> Result<(), FsError> {
        if let Ok(fs) = self.enter() {
            return fs.release(handle);
        }
        match &mut *self.write() {
            Behind::Open(fs) => fs.release(handle)?,
            Behind::Shut(rest) => rest.release(handle),
            Behind::Between => {}
        }
        Ok(())
    }

    /// [`Fs::commit`]; nothing while it is shut.
    ///
    /// # Errors
    /// As there.
    pub fn commit(&self, happened: &str) -> Result<(), FsError> {
        self.enter().map_or(Ok(()), |fs| fs.commit(happened))
    }

    /// [`Fs::finish`]; nothing while it is shut.
    ///
    /// # Errors
    /// As there.
    pub fn finish(&self) -> Result<(), FsError> {
        self.enter().map_or(Ok(()), |fs| fs.finish())
    }
}
