//! Where snapshots lie, as it is named, and how they are moved there.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::VolumeId;
use crate::keys::OutputKey;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::snapshot::bucket;
use crate::limits::SNAPSHOT_JOBS_DEFAULT;
use crate::object::{CopyError, Directory, SnapshotError, Sse, Target, TargetError};

/// A target as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// A bucket in S3.
    S3 {
        /// Its name.
        bucket: String,
        /// What keys begin with, without `/` at the end; may be empty.
        prefix: String,
    },
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("s3", rest)) => {
                let (bucket, prefix) = bucket::parse(rest)?;
                Ok(Self::S3 { bucket, prefix })
            }
            Some((scheme, _)) => {
                let wanted = "a target is a directory or s3://BUCKET/PREFIX";
                Err(format!("{text:?}: no snapshots by {scheme}://, {wanted}"))
            }
            None if text.is_empty() => {
                Err("an empty target: wanted a directory or s3://BUCKET/PREFIX".to_owned())
            }
            None => Ok(Self::Directory(PathBuf::from(text))),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// How S3 is to encrypt objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseKind {
    /// As is set for the bucket.
    None,
    /// Under keys of S3's own.
    S3,
    /// Under a KMS key.
    Kms,
}

impl std::str::FromStr for SseKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "s3" => Ok(Self::S3),
            "kms" => Ok(Self::Kms),
            _ => Err(format!("{text:?}: wanted none, s3 or kms")),
        }
    }
}

/// What was said of how S3 is to encrypt objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encryption {
    /// Unless it follows from the rest.
    pub kind: Option<SseKind>,
    /// Instead of the output key that the volume names.
    pub output_key: Option<OutputKey>,
    /// Whether the bucket's own key under that one encrypts.
    pub bucket_key: bool,
}

impl Encryption {
    /// What to ask of S3 for a volume with this output key.
    ///
    /// # Errors
    /// A key of the bucket's under no key.
    pub(in crate::lifecycle) fn sse(&self, recorded: Option<&str>) -> Result<Sse, VerbError> {
        let named = self.output_key.as_ref().map(OutputKey::to_string);
        let key = named.or_else(|| recorded.map(str::to_owned));
        let key = key.map(|key| key.trim_start_matches("kms:").to_owned());
        let bucket_key = self.bucket_key;
        match (self.kind, key) {
            (Some(SseKind::S3), _) => Ok(Sse::S3),
            (Some(SseKind::Kms), key) => Ok(Sse::Kms { key, bucket_key }),
            (None, key @ Some(_)) => Ok(Sse::Kms { key, bucket_key }),
            (None, None) if bucket_key => Err(VerbError::NoOutputKey),
            (Some(SseKind::None), _) | (None, None) => Ok(Sse::OfBucket),
        }
    }
}

/// How objects are moved.
#[derive(Clone, Debug)]
pub struct Moving {
    /// Objects at a time.
    pub jobs: NonZero<usize>,
    /// Bytes a second that are sent, at most.
    pub bytes_per_s: Option<u64>,
    /// What S3 is asked for.
    pub encryption: Encryption,
    /// Whether all that the target has is read first, and what is damaged is sent again.
    pub repair: bool,
}

impl Default for Moving {
    fn default() -> Self {
        let encryption = Encryption::default();
        Self { jobs: SNAPSHOT_JOBS_DEFAULT, bytes_per_s: None, encryption, repair: false }
    }
}

impl Place {
    /// The directory that it is.
    pub(in crate::lifecycle) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::S3 { .. } => None,
        }
    }

    /// A target that is there.
    ///
    /// # Errors
    /// It can't be used.
    pub(in crate::lifecycle) fn open(&self) -> Result<Arc<dyn Target>, VerbError> {
        match self {
            Self::Directory(path) => Ok(Arc::new(directory(path)?)),
            Self::S3 { bucket, prefix } => {
                let opened = bucket::open(bucket, prefix).map_err(failed(self))?;
                Ok(Arc::new(opened))
            }
        }
    }

    /// The volumes that have something there.
    ///
    /// # Errors
    /// It can't be listed.
    pub(in crate::lifecycle) fn volumes(
        &self,
        target: &dyn Target,
    ) -> Result<Vec<VolumeId>, VerbError> {
        target.volumes().map_err(failed(self))
    }

    /// The target of a snapshot of a volume: a directory is made if only its last name is missing.
    /// It may not lie where a snapshot would copy itself, or wait for itself.
    pub(in crate::lifecycle) fn open_for(
        &self,
        store: &Path,
        mountpoints: &[PathBuf],
    ) -> Result<Arc<dyn Target>, VerbError> {
        let Self::Directory(path) = self else { return self.open() };
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
        TargetError::S3(error) => VerbError::S3(error),
        TargetError::Held(found) => VerbError::SnapshotHeld(found),
        TargetError::Sys { key, action, error } => {
            VerbError::TargetIo { path: Path::new(target).join(key), action, error }
        }
        TargetError::Lost => {
            VerbError::SnapshotTarget { path: PathBuf::from(target), found: error.to_string() }
        }
    }
}
