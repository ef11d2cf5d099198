//! The marker of a stored directory. Making a symbolic link is one step for a disk, and becomes
//! durable in its order among other steps; the bytes of a file do not. So a marker is a link.

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::cipher::Sealed;
use crate::format::directory::{self, MARKER_LEN, MARKER_NAME, MarkerError};
use crate::format::ids::{DirId, Epoch};
use crate::format::node::TAG_LEN;
use crate::store::dir::StoreDir;
use crate::store::link::LinkText;
use crate::store::watch::There;

/// A marker as it is stored; trusted by nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredMarker {
    /// The text of a link.
    Link(Vec<u8>),
    /// The bytes of a file, at most one more than it should have.
    File(Vec<u8>),
}

impl StoredMarker {
    /// What it claims.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(&self) -> Result<(Epoch, DirId, [u8; TAG_LEN]), MarkerError> {
        match self {
            Self::Link(text) => directory::decode_link(text),
            Self::File(bytes) => directory::decode(bytes),
        }
    }

    /// Its stored bytes.
    pub fn as_bytes(&self) -> &[u8] {
        let (Self::Link(bytes) | Self::File(bytes)) = self;
        bytes
    }
}

impl StoreDir {
    /// Writes the marker of a new directory.
    pub fn write_marker(&self, marker: &Sealed) -> Result<(), Errno> {
        self.symlink(MARKER_NAME, &LinkText::marker(marker))
    }

    /// The marker, in whichever form it is there.
    pub fn read_marker(&self) -> Result<StoredMarker, Errno> {
        match self.read_link(MARKER_NAME) {
            Ok(text) => Ok(StoredMarker::Link(text)),
            // Not a link.
            Err(Errno::INVAL) => self.read_small(MARKER_NAME, MARKER_LEN).map(StoredMarker::File),
            Err(error) => Err(error),
        }
    }

    /// Takes the marker away; a directory that forbids it to its owner allows it from then on.
    pub(in crate::store) fn remove_marker(&self) -> Result<(), Errno> {
        match self.unlink_object(MARKER_NAME) {
            Err(Errno::ACCESS) => {
                self.set_mode_self(Mode::RWXU)?;
                self.unlink_object(MARKER_NAME)
            }
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    pub(in crate::store) fn put_back_marker(&self, marker: &StoredMarker) {
        let put = match marker {
            StoredMarker::Link(text) => self.symlink(MARKER_NAME, &LinkText(text.clone())),
            StoredMarker::File(bytes) => self
                .create(MARKER_NAME, 0o600, There::Refuse)
                .and_then(|file| file.write_bytes(0, bytes)),
        };
        match put {
            // It was not taken away yet.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => tracing::error!(%error, "can't put back the marker of a directory"),
        }
    }
}
