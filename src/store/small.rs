//! Small files of ours: sidecars of long names, and long targets of symbolic links.
//!
//! An object is of no use without them, and a disk makes a name durable before the bytes of
//! another file. So in a store that has to survive a power cut their bytes are durable before they
//! are needed.

use rustix::io::Errno;

use crate::cipher::{Sealed, StoredName};
use crate::format::name::SIDECAR_LEN_MAX;
use crate::store::blob::{Blob, DiskBlob};
use crate::store::dir::StoreDir;
use crate::store::durability::Durability;
use crate::store::leave;
use crate::store::watch::There;

const OWNER_ONLY: u32 = 0o600;

impl StoreDir {
    /// The end of writing a small file.
    fn settle(&self, file: &DiskBlob) -> Result<(), Errno> {
        match self.durability {
            Durability::Strict => file.sync(true),
            Durability::Relaxed => Ok(()),
        }
    }

    /// Writes the sidecar of a name that has one. What is there already is the same, unless it was
    /// damaged: it is written over and never cut first, as somebody may need it.
    pub(in crate::store) fn write_sidecar(&self, name: &StoredName) -> Result<(), Errno> {
        let Some((sidecar, sealed)) = name.sidecar() else { return Ok(()) };
        let file = self.create(sidecar, OWNER_ONLY, There::Keep)?;
        file.write_bytes(0, sealed)?;
        file.set_len(sealed.len() as u64)?;
        self.settle(&file)
    }

    /// A sidecar that stays behind harms nobody: it is written over, or goes with its directory.
    pub(in crate::store) fn remove_sidecar(&self, name: &StoredName) {
        if let Some((sidecar, _)) = name.sidecar() {
            leave(self.remove_small(sidecar), "sidecar of a name that is gone");
        }
    }

    /// The bytes of a sidecar, at most one more than it can have.
    pub fn read_sidecar(&self, sidecar: &[u8]) -> Result<Vec<u8>, Errno> {
        self.read_small(sidecar, SIDECAR_LEN_MAX)
    }

    /// The bytes of a small file of ours, at most `len_max` + 1.
    pub fn read_small(&self, name: &[u8], len_max: usize) -> Result<Vec<u8>, Errno> {
        let file = self.open_file(name, false)?;
        let mut bytes = vec![0; len_max + 1];
        let len = match file.read_at(0, &mut bytes) {
            // A FIFO that somebody put in its place has none.
            Err(Errno::SPIPE) => 0,
            other => other?,
        };
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Writes a small file of ours that was not there, under a plain name; its name is as durable
    /// as its bytes.
    ///
    /// # Errors
    /// The system's; nothing is left behind then.
    pub fn write_small(&self, name: &str, sealed: &Sealed) -> Result<(), Errno> {
        let file = self.create(name.as_bytes(), OWNER_ONLY, There::Refuse)?;
        file.write_bytes(0, sealed.as_bytes())
            .and_then(|()| self.settle(&file))
            .and_then(|()| match self.durability {
                Durability::Strict => self.sync(),
                Durability::Relaxed => Ok(()),
            })
            .inspect_err(|_| leave(self.remove_small(name.as_bytes()), "part of a small file"))
    }

    /// Removes a small file of ours.
    pub fn remove_small(&self, name: &[u8]) -> Result<(), Errno> {
        self.unlink_object(name)
    }
}
