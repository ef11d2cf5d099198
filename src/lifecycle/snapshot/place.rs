//! Where snapshots lie, as it is named, and how they are moved there.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::lifecycle::error::VerbError;
use crate::limits::SNAPSHOT_JOBS_DEFAULT;
use crate::object::{CopyError, Directory, SnapshotError, Target, TargetError};

/// A target as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some((scheme, _)) => {
                Err(format!("{text:?}: no snapshots by {scheme}://, a target is a directory"))
            }
            None if text.is_empty() => Err("an empty target: wanted a directory".to_owned()),
            None => Ok(Self::Directory(PathBuf::from(text))),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// How objects are moved.
#[derive(Clone, Copy, Debug)]
pub struct Moving {
    /// Objects at a time.
    pub jobs: NonZero<usize>,
    /// Bytes a second that are sent, at most.
    pub bytes_per_s: Option<u64>,
}

impl Default for Moving {
    fn default() -> Self {
        Self { jobs: SNAPSHOT_JOBS_DEFAULT, bytes_per_s: None }
    }
}

impl Place {
    /// The directory that it is.
    pub(in crate::lifecycle) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
        }
    }

    /// A target that is there.
    ///
    /// # Errors
    /// It can't be used.
    pub(in crate::lifecycle) fn open(&self) -> Result<Arc<dyn Target>, VerbError> {
        match self {
            Self::Directory(path) => Ok(Arc::new(directory(path)?)),
        }
    }

    /// The target of a snapshot of a volume: a directory is made if only its last name is missing.
    /// It may not lie where a snapshot would copy itself, or wait for itself.
    pub(in crate::lifecycle) fn open_for(
        &self,
        store: &Path,
        mountpoints: &[PathBuf],
    ) -> Result<Arc<dyn Target>, VerbError> {
        let Self::Directory(path) = self;
        let bad = |found: String| VerbError::SnapshotTarget { path: path.clone(), found };
        if let Err(error) = std::fs::create_dir(path)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(bad(error.to_string()));
        }
        let directory = directory(path)?;
        for inside in mountpoints.iter().map(PathBuf::as_path).chain([store]) {
            if directory.path().starts_with(inside) {
                return Err(bad(format!("it lies inside of {}", inside.display())));
            }
        }
        Ok(Arc::new(directory))
    }
}

fn directory(path: &Path) -> Result<Directory, VerbError> {
    Directory::open(path).map_err(|error| VerbError::SnapshotTarget {
        path: path.to_owned(),
        found: error.to_string(),
    })
}

/// For `map_err`: a target failed.
pub(in crate::lifecycle) fn failed<E: Into<SnapshotError>>(
    place: &Place,
) -> impl Fn(E) -> VerbError {
    let target = place.to_string();
    move |error| match error.into() {
        SnapshotError::Target(error) => told(&target, error),
        SnapshotError::Local(CopyError { path, action, error }) => {
            VerbError::Local { path, action, error }
        }
    }
}

fn told(target: &str, error: TargetError) -> VerbError {
    match error {
        TargetError::Missing { .. } | TargetError::Damaged { .. } => {
            VerbError::SnapshotDamaged { path: PathBuf::from(target), found: error.to_string() }
        }
        TargetError::Held(found) => VerbError::SnapshotHeld(found),
        TargetError::Sys { key, action, error } => {
            VerbError::TargetIo { path: Path::new(target).join(key), action, error }
        }
        TargetError::Lost => {
            VerbError::SnapshotTarget { path: PathBuf::from(target), found: error.to_string() }
        }
    }
}
