//! A tree that the kernel serves: a local directory, or what is below a mountpoint.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, SeekFrom, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::file::{Kind, Time};
use crate::fs::Follow;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::tree::{Item, Output, Sink, Tree};
use crate::limits::COPY_LEN;

/// Whose errors these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A directory of the machine.
    Local,
    /// A mount of ours: what is missing is missing in the volume, and `EIO` means damage.
    Mount,
}

/// A tree below a directory.
#[derive(Debug)]
pub struct Plain {
    root: PathBuf,
    side: Side,
}

impl Plain {
    /// The tree below `root`.
    pub fn new(root: PathBuf, side: Side) -> Self {
        Self { root, side }
    }

    fn at(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn fail<E: Into<io::Error>>(
        &self,
        path: &Path,
        action: &'static str,
    ) -> impl FnOnce(E) -> VerbError {
        let (shown, side) = (self.at(path), self.side);
        move |error| {
            let error: io::Error = error.into();
            match (side, error.kind(), error.raw_os_error()) {
                (Side::Mount, _, Some(libc::EIO)) => VerbError::DamagedBehindMount(shown),
                (
                    Side::Mount,
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory,
                    _,
                ) => VerbError::NoPath { path: shown, found: error.to_string() },
                _ => VerbError::Local { path: shown, action, error },
            }
        }
    }
}

fn kind(found: &std::fs::FileType) -> Kind {
    match () {
        () if found.is_dir() => Kind::Dir,
        () if found.is_symlink() => Kind::Symlink,
        () if found.is_fifo() => Kind::Fifo,
        () if found.is_socket() => Kind::Socket,
        () if found.is_char_device() => Kind::CharDevice,
        () if found.is_block_device() => Kind::BlockDevice,
        () => Kind::File,
    }
}

impl Tree for Plain {
    fn shown(&self, path: &Path) -> PathBuf {
        self.at(path)
    }

    fn stat(&self, path: &Path) -> Result<Option<Item>, VerbError> {
        let found = match self.at(path).symlink_metadata() {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Ok(None),
            Err(error) => return Err(self.fail(path, "can't look there")(error)),
        };
        let ns = u32::try_from(found.mtime_nsec()).unwrap_or(0);
        Ok(Some(Item {
            kind: kind(&found.file_type()),
            mode: found.mode() & 0o7777,
            nlink: found.nlink(),
            uid: found.uid(),
            gid: found.gid(),
            size: found.len(),
            mtime: Time { s: found.mtime(), ns },
        }))
    }

    fn list(&self, path: &Path) -> Result<Vec<PathBuf>, VerbError> {
        let entries = self.at(path).read_dir().map_err(self.fail(path, "can't list it"))?;
        let names = entries.map(|entry| entry.map(|entry| PathBuf::from(entry.file_name())));
        let mut names: Vec<PathBuf> =
            names.collect::<io::Result<_>>().map_err(self.fail(path, "can't list it"))?;
        names.sort();
        Ok(names)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, VerbError> {
        self.at(path).read_link().map_err(self.fail(path, "can't read the link"))
    }

    fn read(&self, path: &Path, follow: Follow, sink: &mut Sink<'_>) -> Result<u64, VerbError> {
        let flags = if follow == Follow::No { libc::O_NOFOLLOW } else { 0 };
        let opened = File::options().read(true).custom_flags(flags).open(self.at(path));
        let file = opened.map_err(self.fail(path, "can't open it"))?;
        let found = file.metadata().map_err(self.fail(path, "can't look at it"))?;
        if found.is_dir() {
            return Err(self.fail(path, "can't read it")(Errno::ISDIR));
        }
        let mut buffer = vec![0; COPY_LEN];
        if !found.is_file() {
            return stream(file, &mut buffer, sink).map_err(|error| match error {
                Streamed::Read(error) => self.fail(path, "can't read it")(error),
                Streamed::Sink(error) => error,
            });
        }
        let mut offset = 0;
        while let Some(data) =
            next_data(&file, offset).map_err(self.fail(path, "can't seek in it"))?
        {
            offset = data.0;
            while offset < data.1 {
                let left = usize::try_from(data.1 - offset).unwrap_or(usize::MAX);
                let part = &mut buffer[..left.min(COPY_LEN)];
                let count = file.read_at(part, offset).map_err(self.fail(path, "can't read it"))?;
                if count == 0 {
                    return Ok(offset);
                }
                sink(offset, &part[..count])?;
                offset += count as u64;
            }
        }
        let len = file.metadata().map_err(self.fail(path, "can't look at it"))?.len();
        Ok(len.max(offset))
    }

    fn make_dir(&self, path: &Path) -> Result<(), VerbError> {
        match std::fs::create_dir(self.at(path)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.at(path).is_dir() => {
                Ok(())
            }
            other => other.map_err(self.fail(path, "can't make the directory")),
        }
    }

    fn create(&self, path: &Path) -> Result<Box<dyn Output + '_>, VerbError> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        let file = options.open(self.at(path)).map_err(self.fail(path, "can't make it"))?;
        Ok(Box::new(PlainOutput { tree: self, path: path.to_owned(), file }))
    }

    fn make_link(&self, path: &Path, target: &Path) -> Result<(), VerbError> {
        let at = self.at(path);
        if at.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            std::fs::remove_file(&at).map_err(self.fail(path, "can't replace it"))?;
        }
        std::os::unix::fs::symlink(target, at).map_err(self.fail(path, "can't make the link"))
    }

    fn remove(&self, path: &Path) -> Result<(), VerbError> {
        std::fs::remove_file(self.at(path)).map_err(self.fail(path, "can't remove it"))
    }

    fn set_attr(&self, path: &Path, item: &Item) -> Result<(), VerbError> {
        let at = self.at(path);
        if item.kind != Kind::Symlink {
            std::fs::set_permissions(&at, Permissions::from_mode(item.mode & 0o7777))
                .map_err(self.fail(path, "can't set its mode"))?;
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: item.mtime.s, tv_nsec: item.mtime.ns.into() },
        };
        rustix::fs::utimensat(CWD, &at, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.fail(path, "can't set its times"))
    }
}

struct PlainOutput<'a> {
    tree: &'a Plain,
    path: PathBuf,
    file: File,
}

impl Output for PlainOutput<'_> {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), VerbError> {
        let result = self.file.write_all_at(data, offset);
        result.map_err(self.tree.fail(&self.path, "can't write it"))
    }

    fn finish(self: Box<Self>, len: u64) -> Result<(), VerbError> {
        let result = self.file.set_len(len).and_then(|()| self.file.sync_data());
        result.map_err(self.tree.fail(&self.path, "can't write it"))
    }
}

enum Streamed {
    Read(io::Error),
    Sink(VerbError),
}

/// A pipe or device has no holes and no length.
fn stream(mut file: File, buffer: &mut [u8], sink: &mut Sink<'_>) -> Result<u64, Streamed> {
    let mut offset = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(offset),
            Ok(count) => {
                sink(offset, &buffer[..count]).map_err(Streamed::Sink)?;
                offset += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Streamed::Read(error)),
        }
    }
}

/// Start and end of the data at or after an offset; `None` if only a hole is left.
pub(in crate::lifecycle) fn next_data(
    file: &File,
    offset: u64,
) -> Result<Option<(u64, u64)>, Errno> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some((start, rustix::fs::seek(file, SeekFrom::Hole(start))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_left_out_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        file.write_all_at(b"end", 10 << 20).unwrap();
        file.set_len(20 << 20).unwrap();
        let tree = Plain::new(dir.path().to_owned(), Side::Local);
        let mut seen = 0;
        let len = tree
            .read(Path::new("f"), Follow::No, &mut |offset, data| {
                assert!(offset + data.len() as u64 > 10 << 20, "{offset}");
                seen += data.len();
                Ok(())
            })
            .unwrap();
        assert_eq!(len, 20 << 20);
        assert!((3..1 << 20).contains(&seen), "{seen}");
    }

    #[test]
    fn what_is_missing_is_named_by_its_side() {
        let dir = tempfile::tempdir().unwrap();
        for (side, code) in [(Side::Local, 1), (Side::Mount, 43)] {
            let tree = Plain::new(dir.path().to_owned(), side);
            let error = tree.read(Path::new("no"), Follow::Yes, &mut |_, _| Ok(())).unwrap_err();
            assert_eq!(error.exit_code(), code, "{error}");
            assert_eq!(tree.stat(Path::new("no")).unwrap(), None);
        }
    }
}
