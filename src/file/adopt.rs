//! Files of which a crash has left changes in the journal that have no room in their places, in a
//! hole or behind an end, as the disk is full.
//!
//! They are opened as they were when their changes were committed: what waits is read from the
//! journal, and a checkpoint brings it to its place once there is room. Whoever has the volume can
//! make some: by removing files in it, where nothing else is on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::file::error::FileError;
use crate::file::open::load_waiting;
use crate::file::staged::Place;
use crate::file::volume::Volume;
use crate::store::DiskBlob;

/// A stored file that waits for room.
pub(in crate::file) struct Waiting {
    pub(in crate::file) blob: DiskBlob,
    /// Lower inode number.
    pub(in crate::file) ino: u64,
    /// Where in the journal its changes lie, by where in the stored file they go.
    pub(in crate::file) parts: BTreeMap<u64, Place>,
}

/// Opens files that wait; the volume has the journal that they wait in, and keeps them.
///
/// # Errors
/// As opening any file has.
pub(in crate::file) fn adopt(volume: &Arc<Volume>, waiting: Vec<Waiting>) -> Result<(), FileError> {
    let Some(journaled) = &volume.journaled else { return Ok(()) };
    for Waiting { blob, ino, parts } in waiting {
        let load = || load_waiting(volume, &journaled.journal, blob, ino, parts);
        journaled.keep(ino, volume.open_with(ino, load)?);
    }
    Ok(())
}
