//! Where objects of snapshots lie: bytes under a key, written once.
//!
//! ```text
//! VOLUME_ID/snapshots/snap-20261121T094639.250Z-1a2b3c4d   the top of a snapshot
//! VOLUME_ID/objects/9d/9da19a3f650dc724...                 an object, named by its SHA-256
//! VOLUME_ID/writer                                         who writes there now
//! ```
//!
//! A target is trusted with nothing: what comes from it is checked against a hash that the sealed
//! top of the snapshot names, directly or through a part.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::format::ids::VolumeId;
use crate::format::snapshot::{Hash, TOP_LEN_MAX};
use crate::object::s3::{S3Error, Sse};

/// Bytes of an object that is read as a whole, at most: a top is the longest.
pub const OBJECT_LEN_MAX: u64 = TOP_LEN_MAX;

/// Why a target did not do what was asked. The text names the object.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// There is no such object.
    #[error("{key}: not there")]
    Missing {
        /// Which.
        key: String,
    },
    /// The object is not what it has to be.
    #[error("{key}: {found}")]
    Damaged {
        /// Which.
        key: String,
        /// What is wrong with it.
        found: String,
    },
    /// A directory said no.
    #[error("{key}: {action}: {error}")]
    Sys {
        /// Which object or directory.
        key: String,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// S3 said no, or the way there. The text names bucket and object.
    #[error(transparent)]
    S3(Box<S3Error>),
    /// Another command writes there.
    #[error("{0}")]
    Held(String),
    /// A thread ended with its work undone.
    #[error("a thread panicked: this is a bug of cmkfs")]
    Lost,
}

/// What became of an object that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was made.
    Made,
    /// There was one of that key, which was left as it is.
    WasThere,
}

/// An object, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub len: u64,
    /// When it was written, seconds since 1970 UTC.
    pub written_unix_s: u64,
}

/// What `list` calls for each object.
pub type Each<'a> = &'a mut dyn FnMut(Listed);

/// A place for objects. Keys are of ASCII letters, digits, `-`, `.`, `_` and `/`.
pub trait Target: Debug + Send + Sync {
    /// As the user names it.
    fn name(&self) -> String;

    /// Bytes of an object: all of it, at most [`OBJECT_LEN_MAX`], or a range, which is returned
    /// whole or not at all.
    ///
    /// # Errors
    /// [`TargetError::Missing`], and others.
    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, TargetError>;

    /// Makes an object unless it is there, in one step: nobody sees a part of it.
    ///
    /// # Errors
    /// No room, no permission and the like.
    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<Put, TargetError>;

    /// Makes or replaces an object, in one step.
    ///
    /// # Errors
    /// No room, no permission and the like.
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), TargetError>;

    /// Shows every object whose key begins so, in no order.
    ///
    /// # Errors
    /// The target can't be listed.
    fn list(&self, prefix: &str, each: Each<'_>) -> Result<(), TargetError>;

    /// The volumes that have something there.
    ///
    /// # Errors
    /// The target can't be listed.
    fn volumes(&self) -> Result<Vec<VolumeId>, TargetError>;

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// No permission and the like.
    fn delete(&self, key: &str) -> Result<(), TargetError>;

    /// Removes objects, by as few requests as can be; those that are not there are no error.
    ///
    /// # Errors
    /// No permission and the like: any number of them may be removed then.
    fn delete_many(&self, keys: &[String]) -> Result<(), TargetError>;

    /// The same place, where what is put from now on is encrypted so, if it has a say in that.
    fn with_sse(self: Arc<Self>, sse: Sse) -> Arc<dyn Target>;

    /// Returns when all that was put survives a power cut.
    ///
    /// # Errors
    /// The disk's.
    fn sync(&self) -> Result<(), TargetError>;

    /// Removes what is left of a volume that has no object there any more: empty directories.
    ///
    /// # Errors
    /// The target's.
    fn forget(&self, volume_id: VolumeId) -> Result<(), TargetError>;

    /// Removes what interrupted writers left that is no object.
    ///
    /// # Errors
    /// The target's.
    fn sweep(&self, volume_id: VolumeId) -> Result<(), TargetError>;
}

/// The key of an object.
pub(in crate::object) fn object_key(volume_id: VolumeId, hash: &Hash) -> String {
    let hex = HEXLOWER.encode(hash);
    format!("{volume_id}/objects/{}/{hex}", &hex[..2])
}

/// The hash in the key of an object; `None` if it is none.
pub(in crate::object) fn hash_of(key: &str) -> Option<Hash> {
    let hex = key.rsplit('/').next()?;
    HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}

/// Where the objects of a volume are.
pub(in crate::object) fn objects_prefix(volume_id: VolumeId) -> String {
    format!("{volume_id}/objects/")
}

/// The key of the top of a snapshot.
pub fn top_key(volume_id: VolumeId, id: &str) -> String {
    format!("{volume_id}/snapshots/{id}")
}

/// SHA-256.
pub(in crate::object) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// An object as a whole, if it is what its name says.
///
/// # Errors
/// [`TargetError::Damaged`] if not, and the target's.
pub(in crate::object) fn get_checked(
    target: &dyn Target,
    volume_id: VolumeId,
    wanted: &Hash,
) -> Result<Vec<u8>, TargetError> {
    let key = object_key(volume_id, wanted);
    let bytes = target.get(&key, None)?;
    if hash(&bytes) != *wanted {
        let found = "its bytes are not those that its name tells".to_owned();
        return Err(TargetError::Damaged { key, found });
    }
    Ok(bytes)
}
