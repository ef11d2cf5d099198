//! The directory in the volume into which a repair puts what has lost its name or can't be read.

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::file::{Creator, Dir, FileError, RenameMode};
use crate::format::name::NAME_MAX;
use crate::lifecycle::tree::stored::ensure_dir;
use crate::limits::COPY_LEN;
use crate::store::{Blob, DiskBlob, StoreDir};

const NAME: &str = "lost+found";
/// What is being copied; one that is found is what an interrupted repair left.
const INCOMING: &[u8] = b"incoming";
/// Names that are tried before a repair gives up.
const TRIES_MAX: u32 = 10_000;
/// Bytes of a name before the number that makes it different from others.
const STEM_MAX: usize = NAME_MAX - 8;

/// Takes bytes of a file and where they belong.
type Write<'a> = dyn FnMut(u64, &[u8]) -> Result<(), FileError> + 'a;

/// An open `lost+found`.
pub(in crate::lifecycle::check) struct Lost {
    dir: Dir,
    pub(in crate::lifecycle::check) name: String,
}

/// Tries a name, and then the same with numbers, until one is free.
fn free<T>(
    stem: &[u8],
    mut attempt: impl FnMut(&[u8]) -> Result<T, FileError>,
) -> Result<Vec<u8>, FileError> {
    // The end tells more than the beginning: it is the object's own name.
    let stem = &stem[stem.len().saturating_sub(STEM_MAX)..];
    for number in 0..TRIES_MAX {
        let name = match number {
            0 => stem.to_vec(),
            _ => [stem, format!(".{number}").as_bytes()].concat(),
        };
        match attempt(&name) {
            Err(FileError::Sys(Errno::EXIST)) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(name),
        }
    }
    Err(FileError::Sys(Errno::EXIST))
}

fn creator() -> Creator {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Creator { uid: uid.as_raw(), gid: gid.as_raw() }
}

impl Lost {
    /// Opens it, or makes it; beside one that can't be opened, another.
    pub(in crate::lifecycle::check) fn open(root: &Dir) -> Result<Self, FileError> {
        let mut last = None;
        for number in 0..16 {
            let name = if number == 0 { NAME.to_owned() } else { format!("{NAME}.{number}") };
            match ensure_dir(root, name.as_bytes(), 0o700) {
                Ok(dir) => {
                    match dir.unlink(INCOMING) {
                        Ok(()) | Err(FileError::Sys(Errno::NOENT)) => {}
                        Err(error) => return Err(error),
                    }
                    root.sync()?;
                    return Ok(Self { dir, name });
                }
                Err(error @ (FileError::Damaged(_) | FileError::Sys(Errno::NOTDIR))) => {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(FileError::Sys(Errno::EXIST)))
    }

    fn told(&self, name: Vec<u8>) -> String {
        format!("{}/{}", self.name, String::from_utf8_lossy(&name))
    }

    /// Moves an object in here as it is.
    pub(in crate::lifecycle::check) fn adopt(
        &self,
        stem: &[u8],
        from: &StoreDir,
        object: &[u8],
    ) -> Result<String, FileError> {
        let name = free(stem, |name| self.dir.adopt(name, from, object))?;
        self.dir.sync()?;
        from.sync()?;
        Ok(self.told(name))
    }

    /// Makes a file of what `fill` gives; it has its name only when it is whole and durable.
    fn file(
        &self,
        stem: &[u8],
        fill: impl FnOnce(&mut Write<'_>) -> Result<u64, FileError>,
    ) -> Result<String, FileError> {
        let (file, _) = self.dir.create_file(INCOMING, creator(), 0o600)?;
        let mut write = |offset, data: &[u8]| file.write(offset, data);
        let filled =
            fill(&mut write).and_then(|len| file.set_len(len)).and_then(|()| file.sync(false));
        if let Err(error) = filled {
            drop(self.dir.unlink(INCOMING));
            return Err(error);
        }
        let rename =
            |name: &[u8]| self.dir.rename(INCOMING, &self.dir, name, RenameMode::NoReplace);
        let name = free(stem, rename)?;
        self.dir.sync()?;
        Ok(self.told(name))
    }

    /// Copies stored bytes as they are; holes stay holes.
    pub(in crate::lifecycle::check) fn copy(
        &self,
        stem: &[u8],
        blob: &DiskBlob,
    ) -> Result<String, FileError> {
        self.file(stem, |write| {
            let len = u64::try_from(rustix::fs::fstat(blob)?.st_size).unwrap_or(0);
            let mut buffer = vec![0; COPY_LEN];
            let mut offset = 0;
            while offset < len {
                offset = match rustix::fs::seek(blob, SeekFrom::Data(offset)) {
                    Ok(start) => start,
                    Err(Errno::NXIO) => break,
                    Err(error) => return Err(error.into()),
                };
                let count = blob.read_at(offset, &mut buffer)?;
                if count == 0 {
                    break;
                }
                write(offset, &buffer[..count])?;
                offset += count as u64;
            }
            Ok(len)
        })
    }

    /// Keeps a few bytes.
    pub(in crate::lifecycle::check) fn bytes(
        &self,
        stem: &[u8],
        bytes: &[u8],
    ) -> Result<String, FileError> {
        self.file(stem, |write| write(0, bytes).map(|()| bytes.len() as u64))
    }

    /// Makes a symbolic link.
    pub(in crate::lifecycle::check) fn link(
        &self,
        stem: &[u8],
        target: &[u8],
    ) -> Result<String, FileError> {
        let name = free(stem, |name| self.dir.make_symlink(name, target, creator()))?;
        self.dir.sync()?;
        Ok(self.told(name))
    }
}
