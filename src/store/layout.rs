//! A store's own directory: making, opening, what is in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::format::descriptor::DescriptorError;
use crate::store::blob::{Blob, DiskBlob};
use crate::store::dir::StoreDir;
use crate::store::durability::Durability;
use crate::store::lease::Standing;
use crate::store::sessions::SessionFile;
use crate::store::watch::{Hook, There, Watch, Watched};

pub(in crate::store) const DESCRIPTOR_NAME: &str = "volume.json";
const TREE_NAME: &str = "tree";
const LINKS_NAME: &str = "links";
const JOURNAL_NAME: &str = "journal";
const SEGMENT_NAMES: [&str; 2] = ["0", "1"];
const NO_JOURNAL: &str = "can't open the journal, wanted a directory with the files `0` and `1`; \
                          once it is moved away, what was synced last may be lost";
pub(in crate::store) const LOCK_NAME: &str = "lock";

/// Why there is no store to work with.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing at the path.
    #[error("{0}: no such directory; make a volume there with `cmkfs init {0}`")]
    Missing(PathBuf),
    /// Something else at the path.
    #[error("{0}: not a cmkfs store, it has no volume.json; give the directory that init made")]
    NotAStore(PathBuf),
    /// `init` would have to mix with what is there.
    #[error("{0}: not empty; init wants a new or an empty directory")]
    NotEmpty(PathBuf),
    /// `volume.json` can't be used.
    #[error("{path}: {error}")]
    Descriptor {
        /// The store.
        path: PathBuf,
        /// Why.
        error: DescriptorError,
    },
    /// Another command is changing `volume.json`.
    #[error("{0}/volume.json: another command is changing it; try again when that has ended")]
    Changing(PathBuf),
    /// The system said no.
    #[error("{path}: {action}: {error}")]
    Sys {
        /// The store, or the file in it.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        error: Errno,
    },
}

/// A store by its directory. Cheap to clone: the copies share one descriptor.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    root: StoreDir,
}

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A file of ours that is written over: in its place a forger may have put a device.
pub(in crate::store) fn regular(file: DiskBlob) -> Result<DiskBlob, Errno> {
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::INVAL),
    }
}

impl Store {
    pub(in crate::store) fn sys(
        path: &Path,
        action: &'static str,
    ) -> impl FnOnce(Errno) -> StoreError + use<> {
        let path = path.to_owned();
        move |error| StoreError::Sys { path, action, error }
    }

    /// What stands at the top is written durably, whatever a volume is opened with.
    fn new(path: &Path, root: OwnedFd, hook: &Hook) -> Self {
        Self { path: path.to_owned(), root: StoreDir::new(root, Durability::Strict, hook) }
    }

    /// Makes the directories of a store in a new or an empty directory; `volume.json` is still to
    /// be written, and without it the directory is not a store.
    ///
    /// # Errors
    /// A directory that is not empty, or the system's.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let mut entries = std::fs::read_dir(path).map_err(|error| {
                    let error = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                    Self::sys(path, "can't list it")(error)
                })?;
                if entries.next().is_some() {
                    return Err(StoreError::NotEmpty(path.to_owned()));
                }
            }
            Err(error) => return Err(Self::sys(path, "can't make the directory")(error)),
        }
        let root = rustix::fs::open(path, DIR_FLAGS, Mode::empty())
            .map_err(Self::sys(path, "can't open it"))?;
        for name in [TREE_NAME, LINKS_NAME] {
            rustix::fs::mkdirat(&root, name, Mode::RWXU)
                .map_err(Self::sys(path, "can't make a directory in it"))?;
        }
        Ok(Self::new(path, root, &Hook::default()))
    }

    /// Opens a store.
    ///
    /// # Errors
    /// Nothing there, no store there, or the system's.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_hooked(path, &Hook::default())
    }

    /// Opens a store whose calls to its disk go through `watch`: for test doubles.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_watched(path: &Path, watch: Arc<dyn Watch>) -> Result<Self, StoreError> {
        Self::open_hooked(path, &Hook::new(watch))
    }

    fn open_hooked(path: &Path, hook: &Hook) -> Result<Self, StoreError> {
        let root = match rustix::fs::open(path, DIR_FLAGS, Mode::empty()) {
            Ok(root) => root,
            Err(Errno::NOENT) => return Err(StoreError::Missing(path.to_owned())),
            Err(Errno::NOTDIR) => return Err(StoreError::NotAStore(path.to_owned())),
            Err(error) => return Err(Self::sys(path, "can't open it")(error)),
        };
        match rustix::fs::statat(&root, DESCRIPTOR_NAME, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(Self::new(path, root, hook)),
            Err(Errno::NOENT) => Err(StoreError::NotAStore(path.to_owned())),
            Err(error) => Err(Self::sys(path, "can't look into it")(error)),
        }
    }

    /// The same store, where nothing is changed any more once `standing` says that somebody else
    /// has it, or may have it.
    pub fn held_while(&self, standing: Option<Standing>) -> Self {
        let mut root = self.root.clone();
        root.hook = root.hook.held_while(standing);
        Self { path: self.path.clone(), root }
    }

    pub(in crate::store) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(in crate::store) fn dir(&self) -> &StoreDir {
        &self.root
    }

    /// The directory as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of `volume.json`.
    pub fn descriptor_path(&self) -> PathBuf {
        self.path.join(DESCRIPTOR_NAME)
    }

    fn child(&self, name: &str, durability: Durability) -> Result<StoreDir, StoreError> {
        rustix::fs::openat(&self.root, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())
            .map(|fd| StoreDir::new(fd, durability, self.root.hook()))
            .map_err(Self::sys(&self.path.join(name), "can't open it"))
    }

    /// The mirrored tree.
    ///
    /// # Errors
    /// The system's.
    pub fn tree(&self, durability: Durability) -> Result<StoreDir, StoreError> {
        self.child(TREE_NAME, durability)
    }

    /// The directory of long link targets.
    ///
    /// # Errors
    /// The system's.
    pub fn links(&self, durability: Durability) -> Result<StoreDir, StoreError> {
        self.child(LINKS_NAME, durability)
    }

    /// The segment files of the journal; `None` if the store has none.
    ///
    /// # Errors
    /// The system's.
    pub fn journal(&self, writable: bool) -> Result<Option<[DiskBlob; 2]>, StoreError> {
        let opened = match writable {
            true => self.open_journal(),
            false => self.root.open_dir(JOURNAL_NAME.as_bytes()).and_then(|dir| {
                let segment = |name: &str| dir.open_file(name.as_bytes(), false).and_then(regular);
                Ok([segment(SEGMENT_NAMES[0])?, segment(SEGMENT_NAMES[1])?])
            }),
        };
        match opened {
            Ok(segments) => Ok(Some(segments)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Self::sys(&self.path.join(JOURNAL_NAME), NO_JOURNAL)(error)),
        }
    }

    /// The same, durably made if they are missing.
    ///
    /// # Errors
    /// The system's.
    pub fn make_journal(&self) -> Result<Option<[DiskBlob; 2]>, StoreError> {
        let made = match self.open_journal() {
            Err(Errno::NOENT) => {
                self.root.make_plain_dir(JOURNAL_NAME).and_then(|()| self.open_journal())
            }
            other => other,
        };
        made.map(Some).map_err(Self::sys(&self.path.join(JOURNAL_NAME), NO_JOURNAL))
    }

    fn open_journal(&self) -> Result<[DiskBlob; 2], Errno> {
        let dir = self.root.open_dir(JOURNAL_NAME.as_bytes())?;
        let segment = |name: &str| match dir.open_file(name.as_bytes(), true) {
            Err(Errno::NOENT) => dir.create(name.as_bytes(), 0o600, There::Keep),
            opened => opened.and_then(regular),
        };
        let segments = [segment(SEGMENT_NAMES[0])?, segment(SEGMENT_NAMES[1])?];
        if segments[0].read_at(0, &mut [0])? == 0 {
            // Perhaps never used: whoever made them may not have come to this.
            dir.sync()?;
            self.root.sync()?;
        }
        Ok(segments)
    }

    /// Where it is told when the volume was written.
    pub fn session_file(&self) -> SessionFile {
        SessionFile::new(self.root.clone())
    }

    /// Makes the store's directories durable, for the end of `init`.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.root.sync().map_err(Self::sys(&self.path, "can't sync it"))
    }
}
