//! Why a snapshot was not taken, read or restored.

use std::io;
use std::path::Path;

use crate::object::copy::CopyError;
use crate::object::target::TargetError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The target said no, or an object in it is not what it has to be.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The store, or the place where one is made.
    #[error(transparent)]
    Local(#[from] CopyError),
}

impl SnapshotError {
    /// An object of a snapshot that is not what it has to be.
    pub(in crate::object) fn damaged(key: &str, found: impl Into<String>) -> Self {
        TargetError::Damaged { key: key.to_owned(), found: found.into() }.into()
    }
}

/// For `map_err`: a call on a stored object failed.
pub(in crate::object) fn local<E: Into<io::Error>>(
    path: &[u8],
    action: &'static str,
) -> impl FnOnce(E) -> SnapshotError {
    let path = String::from_utf8_lossy(path).into_owned();
    move |error| {
        let path = Path::new(&path).to_owned();
        CopyError { path, action, error: error.into() }.into()
    }
}
