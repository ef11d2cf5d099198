//! The directory in which snapshots of version 1 lie, which earlier releases made:
//!
//! ```text
//! TARGET/snap-20261121T094639.250Z-1a2b3c4d/manifest.json
//! TARGET/snap-20261121T094639.250Z-1a2b3c4d/store/...
//! ```
//!
//! They were made under a name ending in `.partial` and renamed when durable, so that one without
//! that ending is whole. This release lists, restores and removes them, and makes none.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::format::VolumeId;
use crate::object::copy::{CopyError, remove_tree};
use crate::object::manifest::{Manifest, ManifestError};

const PREFIX: &str = "snap-";
const PARTIAL: &str = ".partial";
const MANIFEST_NAME: &str = "manifest.json";
const STORE_NAME: &str = "store";

/// Why the directory or a snapshot in it can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// A copy failed.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A manifest failed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The system said no.
    #[error("{path}: {action}: {error}")]
    Sys {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        error: io::Error,
    },
}

fn fail<E: Into<io::Error>>(path: &Path, action: &'static str) -> impl FnOnce(E) -> ShelfError {
    let path = path.to_owned();
    move |error| ShelfError::Sys { path, action, error: error.into() }
}

/// A snapshot, without the list of what it consists of.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Its name.
    pub id: String,
    /// The volume it is of.
    pub volume_id: VolumeId,
    /// When it was taken, milliseconds since 1970 UTC.
    pub created_unix_ms: u64,
    /// Stored files.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
}

impl From<&Manifest> for Summary {
    fn from(manifest: &Manifest) -> Self {
        Self {
            id: manifest.id.clone(),
            volume_id: manifest.volume_id,
            created_unix_ms: manifest.created_unix_ms,
            files: manifest.files,
            bytes: manifest.bytes,
        }
    }
}

/// A directory of snapshots.
#[derive(Debug)]
pub struct Shelf {
    path: PathBuf,
}

impl Shelf {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// Not there, or not a directory.
    pub fn open(path: &Path) -> Result<Self, ShelfError> {
        let real = path.canonicalize().map_err(fail(path, "can't open it"))?;
        real.read_dir().map_err(fail(&real, "can't list it"))?;
        Ok(Self { path: real })
    }

    /// The directory, without links and dots.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of whole snapshots, in the order in which they were taken.
    ///
    /// # Errors
    /// The directory can't be listed.
    pub fn ids(&self) -> Result<Vec<String>, ShelfError> {
        let mut ids = Vec::new();
        for entry in self.path.read_dir().map_err(fail(&self.path, "can't list it"))? {
            let name = entry.map_err(fail(&self.path, "can't list it"))?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) && !name.ends_with(PARTIAL) {
                ids.push(name.into_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// What a snapshot consists of.
    ///
    /// # Errors
    /// No readable manifest.
    pub fn manifest(&self, id: &str) -> Result<Manifest, ShelfError> {
        Ok(Manifest::read(&self.path.join(id).join(MANIFEST_NAME))?)
    }

    /// Where the files of a snapshot are.
    pub fn store(&self, id: &str) -> PathBuf {
        self.path.join(id).join(STORE_NAME)
    }

    /// Removes a snapshot: its name first, so that what is left of it, if this is interrupted,
    /// is no snapshot.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, id: &str) -> Result<(), ShelfError> {
        let path = self.path.join(id);
        let partial = self.path.join(format!("{id}{PARTIAL}"));
        std::fs::rename(&path, &partial).map_err(fail(&path, "can't remove it"))?;
        sync_dir(&self.path)?;
        remove_tree(&partial, &[])?;
        std::fs::remove_dir(&partial).map_err(fail(&partial, "can't remove it"))
    }

    /// Removes what interrupted snapshots of this volume and interrupted removals left. Those
    /// whose `volume.json` is not readable any more are left alone.
    ///
    /// # Errors
    /// The disk's.
    pub fn sweep(&self, volume_id: VolumeId) -> Result<(), ShelfError> {
        for entry in self.path.read_dir().map_err(fail(&self.path, "can't list it"))? {
            let path = entry.map_err(fail(&self.path, "can't list it"))?.path();
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if !(name.starts_with(PREFIX) && name.ends_with(PARTIAL)) {
                continue;
            }
            let descriptor = std::fs::read(path.join(STORE_NAME).join("volume.json")).ok();
            let of_volume = descriptor
                .and_then(|bytes| crate::format::descriptor::decode(&bytes).ok())
                .is_some_and(|descriptor| descriptor.volume_id == volume_id);
            if of_volume {
                remove_tree(&path, &[])?;
                std::fs::remove_dir(&path).map_err(fail(&path, "can't remove it"))?;
            }
        }
        Ok(())
    }
}

fn sync_dir(path: &Path) -> Result<(), ShelfError> {
    let dir = std::fs::File::open(path).map_err(fail(path, "can't open it"))?;
    dir.sync_all().map_err(fail(path, "can't sync it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_release_made_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let id = "snap-20261121T094639.250Z-1a2b3c4d";
        let partial = dir.path().join(format!("{id}{PARTIAL}"));
        std::fs::create_dir_all(partial.join("store/tree")).unwrap();
        std::fs::write(partial.join("store/tree/f"), "text").unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        assert!(shelf.ids().unwrap().is_empty());
        let store = partial.join(STORE_NAME);
        let manifest = Manifest::of_tree(&store, id.to_owned(), VolumeId([1; 16]), 0).unwrap();
        manifest.write(&partial.join(MANIFEST_NAME)).unwrap();
        std::fs::rename(&partial, dir.path().join(id)).unwrap();
        assert_eq!(shelf.ids().unwrap(), [id]);
        let manifest = shelf.manifest(id).unwrap();
        assert_eq!((manifest.files, manifest.bytes), (1, 4));
        assert_eq!(manifest.difference(&shelf.store(id)).unwrap(), None);
        shelf.remove(id).unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
