//! The marker of a stored directory. Making a symbolic link is one step for a disk, and becomes
//! durable in its order among other steps; the bytes of a file do not. So a marker is a link.

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::cipher::Sealed;
use crate::format::directory::{self, MARKER_LEN, MARKER_NAME, MarkerError};
use crate::format::ids::{DirId, Epoch};
use crate::format::node::TAG_LEN;
use crate::store::dir::{FILE_FLAGS, StoreDir};
use crate::store::link::LinkText;

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
        let text = LinkText::marker(marker);
        rustix::fs::symlinkat(&text.0[..], &*self.fd, MARKER_NAME)
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
        let remove = || rustix::fs::unlinkat(&*self.fd, MARKER_NAME, AtFlags::empty());
        match remove() {
            Err(Errno::ACCESS) => {
                rustix::fs::fchmod(&*self.fd, Mode::RWXU)?;
                remove()
            }
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    pub(in crate::store) fn put_back_marker(&self, marker: &StoredMarker) {
        let put = match marker {
            StoredMarker::Link(text) => rustix::fs::symlinkat(&text[..], &*self.fd, MARKER_NAME),
            StoredMarker::File(bytes) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | FILE_FLAGS;
                rustix::fs::openat(&*self.fd, MARKER_NAME, flags, Mode::RUSR | Mode::WUSR)
                    .and_then(|file| rustix::io::write(&file, bytes))
                    .and_then(|len| if len == bytes.len() { Ok(()) } else { Err(Errno::NOSPC) })
            }
        };
        match put {
            // It was not taken away yet.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => tracing::error!(%error, "can't put back the marker of a directory"),
        }
    }
}
