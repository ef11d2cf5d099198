//! Locks a mount, and unlocks it: the kernel keeps nothing of its content meanwhile, and whoever
//! asks gets `EKEYREVOKED`.

use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use crate::fs::{Dir, Door, FsError, InodeId, Volume};

/// The lock of a mount. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Latch {
    pub(in crate::fuse) door: Arc<Door>,
    pub(in crate::fuse) notifier: Notifier,
}

impl Latch {
    /// Commits what was written, lets go of the volume, and has the kernel forget content and
    /// attributes. Mapped pages go too: who touches one gets `SIGBUS`. Names that the kernel knows
    /// stay, they lead to nothing.
    ///
    /// # Errors
    /// What could not be committed; it is locked all the same.
    pub fn lock(&self, happened: &str) -> Result<(), FsError> {
        if let Ok(fs) = self.door.enter() {
            let known = fs.known();
            drop(fs);
            // What a mapping changed comes to be written by this.
            self.forget(known);
        }
        let (known, committed) = self.door.shut(happened);
        // Again, as what was read meanwhile is there too. Not behind the closing door: the kernel
        // waits in here for pages whose readers wait for the door.
        self.forget(known);
        committed
    }

    /// Goes on with the volume, which was opened again; `root` is what is mounted of it.
    pub fn unlock(&self, volume: Arc<Volume>, root: Dir) {
        self.door.open(volume, root);
    }

    fn forget(&self, known: Vec<InodeId>) {
        for inode in known.into_iter().chain([InodeId::ROOT]) {
            // All of the file, and its attributes.
            if let Err(error) = self.notifier.inval_inode(INodeNo(inode.0), 0, 0) {
                tracing::debug!(inode = inode.0, %error, "the kernel did not forget it");
            }
        }
    }
}
