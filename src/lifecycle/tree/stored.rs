//! The tree of a volume that is not mounted, straight from its store.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::file::{Access, Creator, Dir, File, FileError, Kind, Seek, SetAttr, SetTime, Stat};
use crate::fs::{Follow, Fs, FsError};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::open::Opened;
use crate::lifecycle::tree::{Item, Output, Sink, Tree};
use crate::limits::COPY_LEN;

/// The tree of an open volume.
#[derive(Debug)]
pub struct Stored {
    fs: Arc<Fs>,
    /// Keeps the lock as long as the tree.
    opened: Opened,
}

/// Who owns what this process makes.
fn creator() -> Creator {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Creator { uid: uid.as_raw(), gid: gid.as_raw() }
}

/// The directory of that name; made with this mode, whatever the process's mask, if it is missing.
///
/// # Errors
/// The store's.
pub fn ensure_dir(parent: &Dir, name: &[u8], mode: u32) -> Result<Dir, FileError> {
    match parent.make_dir(name, creator(), mode) {
        Ok(_) => {
            let dir = parent.open_dir(name)?;
            dir.set_attr_self(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
            Ok(dir)
        }
        Err(FileError::Sys(Errno::EXIST) | FileError::ReadOnly) => parent.open_dir(name),
        Err(error) => Err(error),
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        // What was written is in its place then, where whoever reads the store looks.
        if self.opened.lock.is_some()
            && let Err(error) = self.opened.volume.commit_all()
        {
            tracing::error!(%error, "the last changes are not in their place; the next mount will \
                                     look for them in the journal");
        }
    }
}

impl Stored {
    /// The tree of a volume.
    ///
    /// # Errors
    /// A root directory that is damaged, or the store's.
    pub fn new(opened: Opened) -> Result<Self, VerbError> {
        let root = opened.volume.root().map_err(VerbError::file(&opened.path))?;
        Ok(Self { fs: Fs::new(Arc::clone(&opened.volume), root), opened })
    }

    fn fail<E: Into<FsError>>(&self, path: &Path) -> impl FnOnce(E) -> VerbError + use<E> {
        let shown = self.shown(path);
        move |error| match error.into() {
            error if error.is_not_found() => {
                VerbError::NoPath { path: shown, found: FsError::NotFound.to_string() }
            }
            error => VerbError::File { path: shown, error },
        }
    }

    /// Directory and last name of a path that need not be there.
    fn parent(&self, path: &Path) -> Result<(Dir, Vec<u8>), VerbError> {
        self.fs.resolve_parent(path.as_os_str().as_bytes()).map_err(self.fail(path))
    }

    fn open(&self, path: &Path, follow: Follow) -> Result<Arc<File>, FsError> {
        let found = self.fs.resolve(path.as_os_str().as_bytes(), follow)?;
        match found.stat.kind {
            Kind::File => Ok(open_file(&found.parent, &found.name, Access::Read)?),
            Kind::Dir => Err(FsError::IsDir),
            _ => Err(FsError::NotSupported),
        }
    }
}

fn item(stat: &Stat) -> Item {
    Item {
        kind: stat.kind,
        mode: stat.mode,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        mtime: stat.mtime,
    }
}

/// Opens a file; one whose stored length was wrong has been mended by the first try.
fn open_file(dir: &Dir, name: &[u8], access: Access) -> Result<Arc<File>, FileError> {
    match dir.open_file(name, access) {
        Err(FileError::Stale) => dir.open_file(name, access),
        other => other,
    }
}

impl Tree for Stored {
    fn shown(&self, path: &Path) -> PathBuf {
        let mut shown = self.opened.path.clone().into_os_string();
        shown.push(":/");
        shown.push(path.as_os_str());
        PathBuf::from(shown)
    }

    fn stat(&self, path: &Path) -> Result<Option<Item>, VerbError> {
        match self.fs.resolve(path.as_os_str().as_bytes(), Follow::No) {
            Ok(found) => Ok(Some(item(&found.stat))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(self.fail(path)(error)),
        }
    }

    fn list(&self, path: &Path) -> Result<Vec<PathBuf>, VerbError> {
        let found = self.fs.resolve(path.as_os_str().as_bytes(), Follow::No);
        let dir = found.and_then(|found| found.open_dir()).map_err(self.fail(path))?;
        let entries = dir.entries().map_err(self.fail(path))?.into_iter();
        let mut names: Vec<PathBuf> =
            entries.map(|entry| PathBuf::from(OsString::from_vec(entry.name))).collect();
        names.sort();
        Ok(names)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, VerbError> {
        let (dir, name) = self.parent(path)?;
        let target = dir.read_link(&name).map_err(self.fail(path))?;
        Ok(PathBuf::from(OsString::from_vec(target)))
    }

    fn read(&self, path: &Path, follow: Follow, sink: &mut Sink<'_>) -> Result<u64, VerbError> {
        let file = self.open(path, follow).map_err(self.fail(path))?;
        let len = file.len();
        let mut offset = 0;
        while offset < len {
            let start = match file.seek(offset, Seek::Data) {
                // The rest is a hole, or was cut off by a writer.
                Err(FileError::Sys(Errno::NXIO)) => return Ok(len.min(file.len()).max(offset)),
                other => other.map_err(self.fail(path))?,
            };
            let end = file.seek(start, Seek::Hole).map_err(self.fail(path))?;
            offset = start;
            while offset < end {
                let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let part = file.read(offset, left.min(COPY_LEN)).map_err(self.fail(path))?;
                if part.is_empty() {
                    return Ok(offset);
                }
                sink(offset, &part)?;
                offset += part.len() as u64;
            }
        }
        Ok(len)
    }

    fn make_dir(&self, path: &Path) -> Result<(), VerbError> {
        if self.stat(path)?.is_some_and(|found| found.kind == Kind::Dir) {
            return Ok(());
        }
        let (dir, name) = self.parent(path)?;
        dir.make_dir(&name, creator(), 0o755).map(|_| ()).map_err(self.fail(path))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn Output + '_>, VerbError> {
        let (dir, name) = self.parent(path)?;
        let file = match dir.create_file(&name, creator(), 0o600) {
            Err(FileError::Sys(Errno::EXIST)) => {
                let file = open_file(&dir, &name, Access::Write).map_err(self.fail(path))?;
                file.set_len(0).map_err(self.fail(path))?;
                file
            }
            made => made.map_err(self.fail(path))?.0,
        };
        Ok(Box::new(StoredOutput { tree: self, path: path.to_owned(), file }))
    }

    fn make_link(&self, path: &Path, target: &Path) -> Result<(), VerbError> {
        let (dir, name) = self.parent(path)?;
        if dir.lookup(&name).is_ok_and(|found| found.kind == Kind::Symlink) {
            dir.unlink(&name).map_err(self.fail(path))?;
        }
        let made = dir.make_symlink(&name, target.as_os_str().as_bytes(), creator());
        made.map(|_| ()).map_err(self.fail(path))
    }

    fn remove(&self, path: &Path) -> Result<(), VerbError> {
        let (dir, name) = self.parent(path)?;
        dir.unlink(&name).map_err(self.fail(path))
    }

    fn set_attr(&self, path: &Path, item: &Item) -> Result<(), VerbError> {
        let set = SetAttr {
            mode: (item.kind != Kind::Symlink).then_some(item.mode),
            mtime: Some(SetTime::At(item.mtime.s, item.mtime.ns)),
            ..SetAttr::default()
        };
        let found = self.fs.resolve(path.as_os_str().as_bytes(), Follow::No);
        let found = found.map_err(self.fail(path))?;
        let done = match &found.name[..] {
            b"" => found.parent.set_attr_self(&set),
            name => found.parent.set_attr(name, &set),
        };
        done.map(|_| ()).map_err(self.fail(path))
    }
}

struct StoredOutput<'a> {
    tree: &'a Stored,
    path: PathBuf,
    file: Arc<File>,
}

impl Output for StoredOutput<'_> {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), VerbError> {
        self.file.write(offset, data).map_err(self.tree.fail(&self.path))
    }

    fn finish(self: Box<Self>, len: u64) -> Result<(), VerbError> {
        let finished = self.file.set_len(len).and_then(|()| self.file.sync(true));
        finished.map_err(self.tree.fail(&self.path))
    }
}
