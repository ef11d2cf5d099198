//! Objects in a directory, one file each.
//!
//! An object is written under a temporary name that begins with `.new-`, made durable, and renamed
//! to its own unless that is there: whatever has its own name is whole, also after a power cut.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::format::bytes::to_usize;
use crate::format::ids::VolumeId;
use crate::object::s3::Sse;
use crate::object::target::{Each, Listed, OBJECT_LEN_MAX, Put, Target, TargetError};

const NEW: &str = ".new-";

/// See the module.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
}

fn fail(key: &str, action: &'static str) -> impl FnOnce(io::Error) -> TargetError {
    let key = key.to_owned();
    move |error| match error.kind() {
        ErrorKind::NotFound => TargetError::Missing { key },
        _ => TargetError::Sys { key, action, error },
    }
}

impl Directory {
    /// A directory that is there.
    ///
    /// # Errors
    /// It is not, or is no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = path.canonicalize()?;
        root.read_dir()?;
        Ok(Self { root })
    }

    /// The directory, without links and dots.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Writes a durable file under a temporary name in the directory of `path`.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
        let dir = path.parent().unwrap_or(&self.root);
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let new = dir.join(format!("{NEW}{}", HEXLOWER.encode(&random)));
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let mut file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                open()?
            }
            opened => opened?,
        };
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        written.inspect_err(|_| discard(&new))?;
        Ok(new)
    }

    fn walk(&self, dir: &Path, see: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
        let entries = match dir.read_dir() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.walk(&entry.path(), see)?;
            } else {
                see(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!("{}: can't remove what was begun: {error}", path.display());
    }
}

/// Renames unless the other name is there; also where the disk does not know how to in one call.
fn rename_new(from: &Path, to: &Path) -> io::Result<Put> {
    let renamed = rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    let renamed = match renamed {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rustix::fs::link(from, to).and_then(|()| rustix::fs::unlink(from))
        }
        renamed => renamed,
    };
    match renamed {
        Ok(()) => Ok(Put::Made),
        Err(Errno::EXIST) => {
            std::fs::remove_file(from)?;
            Ok(Put::WasThere)
        }
        Err(error) => {
            discard(from);
            Err(error.into())
        }
    }
}

/// Removes a directory and those below, which have to be empty.
fn remove_empty(dir: &Path) -> io::Result<()> {
    for entry in dir.read_dir()? {
        remove_empty(&entry?.path())?;
    }
    std::fs::remove_dir(dir)
}

fn is_new(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NEW))
}

impl Target for Directory {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, TargetError> {
        let path = self.root.join(key);
        let read = || -> io::Result<Vec<u8>> {
            let file = File::open(&path)?;
            let Some(range) = range else {
                let mut bytes = Vec::new();
                (&file).take(OBJECT_LEN_MAX).read_to_end(&mut bytes)?;
                return Ok(bytes);
            };
            // What a forger names as a length is not reserved before it is there.
            if file.metadata()?.len() < range.end {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let mut bytes = vec![0; to_usize(range.end - range.start)];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        };
        match read() {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                let found = "it was cut".to_owned();
                Err(TargetError::Damaged { key: key.to_owned(), found })
            }
            read => read.map_err(fail(key, "can't read it")),
        }
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<Put, TargetError> {
        let path = self.root.join(key);
        let put = self.write(&path, bytes).and_then(|new| rename_new(&new, &path));
        put.map_err(fail(key, "can't write it"))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), TargetError> {
        let path = self.root.join(key);
        let put = self
            .write(&path, bytes)
            .and_then(|new| std::fs::rename(&new, &path).inspect_err(|_| discard(&new)));
        put.map_err(fail(key, "can't write it"))
    }

    fn list(&self, prefix: &str, each: Each<'_>) -> Result<(), TargetError> {
        let dir = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        let walked = self.walk(&self.root.join(dir), &mut |path| {
            let below = path.strip_prefix(&self.root).map_err(io::Error::other)?;
            let key = below.to_str().filter(|key| key.starts_with(prefix));
            if let (Some(key), false) = (key, is_new(path)) {
                let found = match path.symlink_metadata() {
                    // Another command has removed it meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                    found => found?,
                };
                let written_unix_s = u64::try_from(found.mtime()).unwrap_or(0);
                each(Listed { key: key.to_owned(), len: found.len(), written_unix_s });
            }
            Ok(())
        });
        walked.map_err(fail(prefix, "can't list it"))
    }

    fn volumes(&self) -> Result<Vec<VolumeId>, TargetError> {
        let list = || {
            let mut volumes = Vec::new();
            for entry in self.root.read_dir()? {
                let name = entry?.file_name();
                volumes.extend(name.to_str().and_then(|name| name.parse::<VolumeId>().ok()));
            }
            Ok(volumes)
        };
        list().map_err(fail(&self.name(), "can't list it"))
    }

    fn delete(&self, key: &str) -> Result<(), TargetError> {
        match std::fs::remove_file(self.root.join(key)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(fail(key, "can't remove it")),
        }
    }

    fn delete_many(&self, keys: &[String]) -> Result<(), TargetError> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    fn with_sse(self: Arc<Self>, _: Sse) -> Arc<dyn Target> {
        self
    }

    fn sync(&self) -> Result<(), TargetError> {
        let synced = File::open(&self.root).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
        synced.map_err(fail(&self.name(), "can't sync it"))
    }

    fn forget(&self, volume_id: VolumeId) -> Result<(), TargetError> {
        let path = self.root.join(volume_id.to_string());
        match remove_empty(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(fail(&volume_id.to_string(), "can't remove it")),
        }
    }

    fn sweep(&self, volume_id: VolumeId) -> Result<(), TargetError> {
        let dir = self.root.join(volume_id.to_string());
        let swept = self.walk(&dir, &mut |path| match is_new(path) {
            true => match std::fs::remove_file(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            false => Ok(()),
        });
        swept.map_err(fail(&volume_id.to_string(), "can't remove what was begun"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_there_whole_or_not_at_all_and_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let target = Directory::open(dir.path()).unwrap();
        assert!(matches!(target.get("v/objects/a", None), Err(TargetError::Missing { .. })));
        assert_eq!(target.put_new("v/objects/a", b"text").unwrap(), Put::Made);
        assert_eq!(target.put_new("v/objects/a", b"more").unwrap(), Put::WasThere);
        assert_eq!(target.get("v/objects/a", None).unwrap(), b"text");
        assert_eq!(target.get("v/objects/a", Some(1..3)).unwrap(), b"ex");
        let cut = target.get("v/objects/a", Some(1..1 << 60));
        assert!(matches!(cut, Err(TargetError::Damaged { .. })), "{cut:?}");
        target.put("v/objects/a", b"other").unwrap();
        std::fs::write(dir.path().join("v/objects/.new-1"), "torn").unwrap();
        let mut found = Vec::new();
        target.list("v/", &mut |listed| found.push((listed.key, listed.len))).unwrap();
        assert_eq!(found, [("v/objects/a".to_owned(), 5)]);
        target.list("none/", &mut |_| panic!("nothing is there")).unwrap();
        target.delete("v/objects/a").unwrap();
        target.delete("v/objects/a").unwrap();
        target.sync().unwrap();
        assert_eq!(dir.path().join("v/objects").read_dir().unwrap().count(), 1);
    }
}
