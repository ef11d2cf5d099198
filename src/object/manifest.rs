//! What a snapshot consists of. It tells a copy that rotted from one that is whole; a forger could
//! write another one, and is caught where the sealed bytes are opened.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::format::VolumeId;
use crate::limits::{COPY_LEN, DEPTH_MAX, MANIFEST_LEN_MAX};

/// What `format` says in every manifest.
const FORMAT: &str = "cmkfs-snapshot";
/// The only version that this release reads or writes.
const VERSION: u32 = 1;

/// A snapshot's contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// `cmkfs-snapshot`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// The snapshot's name.
    pub id: String,
    /// The volume it is of.
    pub volume_id: VolumeId,
    /// When it was taken, milliseconds since 1970 UTC.
    pub created_unix_ms: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of regular files, holes included.
    pub bytes: u64,
    /// Everything in it, sorted by path.
    pub entries: Vec<Entry>,
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path below the store.
    pub path: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: EntryKind,
}

/// What a stored object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EntryKind {
    /// Regular file.
    File {
        /// Bytes.
        size: u64,
        /// SHA-256 of its bytes, in hexadecimal digits.
        sha256: String,
    },
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink {
        /// Its stored target.
        target: String,
    },
    /// Pipe, socket or device.
    Other {
        /// File type and permission bits.
        mode: u32,
        /// Device number.
        rdev: u64,
    },
}

/// Why a manifest can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Can't be read or written, or a stored file can't.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// Not a manifest.
    #[error("{path}: {found}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
}

fn fail<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> ManifestError {
    let path = path.to_owned();
    move |error| ManifestError::Io { path, error: error.into() }
}

impl Manifest {
    /// Reads every object below `root` and hashes every file.
    ///
    /// # Errors
    /// What can't be read.
    pub fn of_tree(
        root: &Path,
        id: String,
        volume_id: VolumeId,
        created_unix_ms: u64,
    ) -> Result<Self, ManifestError> {
        let mut entries = Vec::new();
        let mut hashed = HashMap::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(root, flags, Mode::empty()).map_err(fail(root))?;
        walk(&dir, Path::new(""), 0, &mut hashed, &mut entries)?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let sizes = entries.iter().filter_map(|entry| match entry.kind {
            EntryKind::File { size, .. } => Some(size),
            _ => None,
        });
        let (files, bytes) = sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size));
        let format = FORMAT.to_owned();
        Ok(Self { format, version: VERSION, id, volume_id, created_unix_ms, files, bytes, entries })
    }

    /// The first difference between what this says and what is below `root`; `None` if there is
    /// none.
    ///
    /// # Errors
    /// What can't be read.
    pub fn difference(&self, root: &Path) -> Result<Option<String>, ManifestError> {
        let id = self.id.clone();
        let found = Self::of_tree(root, id, self.volume_id, self.created_unix_ms)?;
        let (mut wanted, mut there) = (self.entries.iter(), found.entries.iter());
        loop {
            let text = match (wanted.next(), there.next()) {
                (None, None) => return Ok(None),
                (Some(wanted), Some(there)) if wanted == there => continue,
                (Some(wanted), Some(there)) if wanted.path == there.path => {
                    format!("stored file {} is not what was copied", wanted.path)
                }
                (Some(wanted), there) if there.is_none_or(|there| there.path > wanted.path) => {
                    format!("stored file {} is missing", wanted.path)
                }
                (_, there) => {
                    let path = there.map(|there| there.path.as_str());
                    format!("stored file {} does not belong there", path.unwrap_or_default())
                }
            };
            return Ok(Some(text));
        }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// Not there, not a manifest, or of a later release.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let file = File::open(path).map_err(fail(path))?;
        Self::decode(BufReader::new(file.take(MANIFEST_LEN_MAX)))
            .map_err(|found| ManifestError::Format { path: path.to_owned(), found })
    }

    /// What a manifest's bytes say: a claim, as anybody could have written them. Never panics.
    ///
    /// # Errors
    /// What they are instead: not a manifest, or one of a later release.
    pub fn decode(bytes: impl Read) -> Result<Self, String> {
        let manifest: Self = serde_json::from_reader(bytes)
            .map_err(|error| format!("not a snapshot's manifest: {error}"))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            let (format, version) = (&manifest.format, manifest.version);
            return Err(format!(
                "{format:?} version {version}, this release reads {FORMAT:?} version {VERSION}"
            ));
        }
        Ok(manifest)
    }

    /// Writes a manifest that was not there, durably.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &Path) -> Result<(), ManifestError> {
        let file = File::create_new(path).map_err(fail(path))?;
        let mut writer = BufWriter::new(file);
        serde_json::to_writer(&mut writer, self).map_err(fail(path))?;
        writer.write_all(b"\n").map_err(fail(path))?;
        let file = writer.into_inner().map_err(|error| fail(path)(error.into_error()))?;
        file.sync_all().map_err(fail(path))
    }
}

/// Hashes by inode, so that a file with several names is read once.
type Hashed = HashMap<(u64, u64), String>;

fn walk(
    dir: &OwnedFd,
    below: &Path,
    depth: usize,
    hashed: &mut Hashed,
    entries: &mut Vec<Entry>,
) -> Result<(), ManifestError> {
    if depth > DEPTH_MAX {
        return Err(fail(below)(io::Error::other("too many directories deep")));
    }
    for entry in Dir::read_from(dir).map_err(fail(below))? {
        let entry = entry.map_err(fail(below))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = below.join(name.to_string_lossy().as_ref());
        let found =
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail(&path))?;
        let open = |flags: OFlags| {
            let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(fail(&path))
        };
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                walk(&open(OFlags::DIRECTORY)?, &path, depth + 1, hashed, entries)?;
                EntryKind::Dir
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(fail(&path))?;
                EntryKind::Symlink { target: target.to_string_lossy().into_owned() }
            }
            FileType::RegularFile => {
                let inode = (found.st_dev, found.st_ino);
                let sha256 = match hashed.get(&inode) {
                    Some(known) => known.clone(),
                    None => hash(open(OFlags::NONBLOCK)?.into()).map_err(fail(&path))?,
                };
                if found.st_nlink > 1 {
                    hashed.insert(inode, sha256.clone());
                }
                EntryKind::File { size: u64::try_from(found.st_size).unwrap_or(0), sha256 }
            }
            _ => EntryKind::Other { mode: found.st_mode, rdev: found.st_rdev },
        };
        entries.push(Entry { path: path.to_string_lossy().into_owned(), kind });
    }
    Ok(())
}

fn hash(mut file: File) -> io::Result<String> {
    let mut buffer = vec![0; COPY_LEN];
    let mut hash = Sha256::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(HEXLOWER.encode(&hash.finalize())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(root: &Path) -> Manifest {
        Manifest::of_tree(root, "snap".into(), VolumeId([1; 16]), 5).unwrap()
    }

    #[test]
    fn every_change_is_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        std::fs::create_dir_all(root.join("tree/a")).unwrap();
        std::fs::write(root.join("tree/a/f"), "text").unwrap();
        std::fs::write(root.join("tree/g"), "").unwrap();
        let manifest = manifest(&root);
        assert_eq!((manifest.files, manifest.bytes), (2, 4));
        assert_eq!(manifest.difference(&root).unwrap(), None);

        let path = dir.path().join("manifest.json");
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);

        let differs = |part: &str| {
            let found = manifest.difference(&root).unwrap().unwrap();
            assert!(found.contains(part), "{found}");
        };
        std::fs::write(root.join("tree/a/f"), "texT").unwrap();
        differs("a/f is not");
        std::fs::write(root.join("tree/a/f"), "text").unwrap();
        std::fs::write(root.join("tree/b"), "text").unwrap();
        differs("b does not belong");
        std::fs::remove_file(root.join("tree/b")).unwrap();
        std::fs::remove_file(root.join("tree/g")).unwrap();
        differs("g is missing");
    }

    #[test]
    fn other_files_are_no_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.json");
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(Manifest::read(&path), Err(ManifestError::Format { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Manifest::read(&path), Err(ManifestError::Io { .. })));
    }
}
