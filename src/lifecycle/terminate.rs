//! `terminate`: destroys the wrapped keys, then snapshots, then the store.
//!
//! 1. A marker file is made durable: from now on the store can only be terminated.
//! 2. `volume.json`, and what an interrupted change of it left, are overwritten with zeros, synced
//!    and removed, under the lock of the description, so that no change of its keys brings it back.
//!    Nobody can open the volume any more; what follows only frees space.
//! 3. Grants that were made for the volume are revoked. If KMS can't do that now, all that follows
//!    is done but the marker and the file that names the keys stay, and the command fails.
//! 4. Snapshots of the volume in the named target are removed.
//! 5. The rest of the store is removed, the marker last.
//!
//! Interrupted anywhere, the same command goes on. Overwriting in place reaches the same blocks on
//! ext4 and XFS; disks and filesystems that write elsewhere keep the wrapped keys for a while, and
//! only destroying what unwraps them (the KMS key, the key file) is final there.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::VolumeId;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::grants;
use crate::lifecycle::locate::locate;
use crate::lifecycle::mounts;
use crate::lifecycle::open::{is_full, lock};
use crate::lifecycle::report::{SlotReport, slots};
use crate::lifecycle::snapshot::{Place, remove_all};
use crate::limits::DESCRIPTOR_WAIT;
use crate::object::{CopyError, Target, remove_tree};
use crate::store::{LockMode, Store, StoreLock};

/// In a store whose keys are being, or have been, destroyed.
pub const MARKER_NAME: &str = "terminating.cmkfs";
const DESCRIPTOR_NAME: &str = "volume.json";
/// Everything that a store consists of, in the order of removal.
const PARTS: &[&str] = &[
    "volume.json.new",
    "sessions",
    "journal",
    "links",
    "tree",
    "restoring.cmkfs",
    "restoring.cmkfs.parts",
];

/// Whether the user means it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// By a flag.
    Yes,
    /// By the volume's id.
    Id(String),
    /// Not at all.
    No,
}

/// What was destroyed.
#[derive(Debug)]
pub struct Destroyed {
    /// Id of the volume that was.
    pub volume_id: String,
    /// Its store.
    pub store: PathBuf,
    /// Slots whose wrapped keys were destroyed; none if an earlier run did that.
    pub slots: Vec<SlotReport>,
    /// Ids of grants that were revoked.
    pub grants: Vec<String>,
    /// Snapshots that were removed.
    pub snapshots: Vec<String>,
    /// What is not the store's and was left.
    pub left: Vec<PathBuf>,
}

/// The id of the volume that `terminate` would destroy.
///
/// # Errors
/// No volume there, or a mounted one.
pub fn target(volume: &Path) -> Result<(PathBuf, String), VerbError> {
    let real = mounts::canonical(volume).unwrap_or_else(|_| volume.to_owned());
    if let Ok(id) = std::fs::read_to_string(real.join(MARKER_NAME)) {
        return Ok((real, id.trim().to_owned()));
    }
    let located = locate(&real)?;
    if let Some(mountpoint) = located.mountpoints.into_iter().next() {
        return Err(VerbError::Mounted { store: located.store, mountpoint });
    }
    let descriptor = Store::open(&located.store)?.read_descriptor()?;
    Ok((located.store, descriptor.volume_id.to_string()))
}

/// Destroys a volume, and its snapshots in `snapshots`.
///
/// # Errors
/// Not confirmed, in use, or what could not be removed.
pub fn terminate(
    volume: &Path,
    confirm: &Confirm,
    snapshots: Option<&Place>,
) -> Result<Destroyed, VerbError> {
    let (path, volume_id) = target(volume)?;
    let confirmed = match confirm {
        Confirm::Yes => true,
        Confirm::Id(id) => *id == volume_id,
        Confirm::No => false,
    };
    if !confirmed {
        let found = match confirm {
            Confirm::Id(id) => format!("{id:?} is not the id of this volume"),
            _ => "this destroys the volume and can't be undone".to_owned(),
        };
        let path = path.display();
        return Err(VerbError::NotConfirmed(format!(
            "{path}: {found}; wanted `--confirm {volume_id}` or `--yes`"
        )));
    }
    // Before anything is destroyed: a target that can't be read would be left half done.
    let target = snapshots.map(readable).transpose()?;
    let (mut lock, slots) = destroy_keys(&path, &volume_id)?;
    let ended = match volume_id.parse::<VolumeId>() {
        Ok(id) => grants::end_all(&path, id),
        Err(_) => Ok(Vec::new()),
    };
    if let Err(error) = &ended {
        tracing::warn!("{error}");
    }
    let removed = match (snapshots, &target, volume_id.parse::<VolumeId>()) {
        (Some(place), Some(target), Ok(id)) => remove_all(place, target, id)?,
        _ => Vec::new(),
    };
    if let Some(lock) = &mut lock {
        lock.end_lease();
    }
    let grants = match ended {
        Ok(grants) => grants,
        Err(error) => {
            remove_parts(&path)?;
            return Err(VerbError::GrantsLeft { store: path, error: Box::new(error) });
        }
    };
    let left = remove_rest(&path)?;
    drop(lock);
    Ok(Destroyed { volume_id, store: path, slots, grants, snapshots: removed, left })
}

fn readable(place: &Place) -> Result<Arc<dyn Target>, VerbError> {
    let target = place.open()?;
    place.volumes(&*target)?;
    Ok(target)
}

/// Steps 1 and 2.
fn destroy_keys(
    path: &Path,
    volume_id: &str,
) -> Result<(Option<StoreLock>, Vec<SlotReport>), VerbError> {
    let mut held = None;
    let mut destroyed = Vec::new();
    if path.join(DESCRIPTOR_NAME).symlink_metadata().is_ok() {
        let store = Store::open(path)?;
        held = Some(lock(&store)?);
        destroyed = destroy_descriptor(&store, volume_id)?;
    }
    sync_dir(path)?;
    Ok((held, destroyed))
}

/// No wrapped key survives this, in whatever slot. On a full disk the marker comes after what it
/// announces: destroying needs no room, and makes some. Returns the slots that were there, none if
/// another terminate had come this far.
fn destroy_descriptor(store: &Store, volume_id: &str) -> Result<Vec<SlotReport>, VerbError> {
    let is_file = store.descriptor_path().symlink_metadata().is_ok_and(|found| found.is_file());
    let lock = is_file.then(|| store.lock_descriptor(LockMode::Exclusive, DESCRIPTOR_WAIT));
    let lock = lock.transpose()?;
    let destroyed = lock.as_ref().and_then(|lock| lock.read().ok());
    let marked = match mark(store.path(), volume_id) {
        Err(VerbError::Local { error, .. }) if is_full(&error) => false,
        marked => marked.map(|()| true)?,
    };
    match lock {
        Some(lock) => lock.destroy()?,
        // Whatever it is, no wrapped key was written to it, and a link leads out of the store.
        None => remove_part(store.path(), DESCRIPTOR_NAME)?,
    }
    if !marked && let Err(error) = mark(store.path(), volume_id) {
        tracing::warn!("{error}");
    }
    Ok(destroyed.map(|descriptor| slots(&descriptor)).unwrap_or_default())
}

fn mark(path: &Path, volume_id: &str) -> Result<(), VerbError> {
    let marker = path.join(MARKER_NAME);
    let write = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&marker)?;
        file.write_all(format!("{volume_id}\n").as_bytes())?;
        file.sync_all()
    };
    write().map_err(VerbError::local(&marker, "can't make it"))?;
    sync_dir(path)
}

fn sync_dir(path: &Path) -> Result<(), VerbError> {
    let synced = std::fs::File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(VerbError::local(path, "can't sync it"))
}

/// All that is the store's, but the marker and what names its grants.
fn remove_parts(path: &Path) -> Result<(), VerbError> {
    PARTS.iter().chain(&["lock"]).try_for_each(|name| remove_part(path, name))
}

/// Step 5. A directory that can't be removed because it is the root of a disk stays, empty.
fn remove_rest(path: &Path) -> Result<Vec<PathBuf>, VerbError> {
    remove_parts(path)?;
    let list = || path.read_dir().map_err(VerbError::local(path, "can't list it"));
    let entries = list()?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let left: Vec<PathBuf> = entries.filter(|entry| !entry.ends_with(MARKER_NAME)).collect();
    remove_part(path, MARKER_NAME)?;
    if !left.is_empty() {
        return Ok(left);
    }
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(left),
        Err(error) => {
            tracing::info!("{}: left, empty: {error}", path.display());
            Ok(vec![path.to_owned()])
        }
    }
}

fn remove_part(path: &Path, name: &str) -> Result<(), VerbError> {
    let part = path.join(name);
    let removed = match part.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(found) if found.is_dir() => {
            remove_tree(&part, &[]).map_err(|CopyError { path, action, error }| {
                VerbError::Local { path: part.join(path), action, error }
            })?;
            std::fs::remove_dir(&part)
        }
        Ok(_) => std::fs::remove_file(&part),
    };
    removed.map_err(VerbError::local(&part, "can't remove it"))
}

/// Removes a store that nobody can open any more; its directory stays, empty.
pub(in crate::lifecycle) fn remove_contents(
    path: &Path,
    held: &mut StoreLock,
) -> Result<(), VerbError> {
    held.end_lease();
    let descriptor = path.join(DESCRIPTOR_NAME);
    std::fs::remove_file(&descriptor).map_err(VerbError::local(&descriptor, "can't remove it"))?;
    remove_parts(path)
}

/// Removes the store of a job whose key is gone.
///
/// # Errors
/// In use, or what could not be removed.
pub fn remove_store(path: &Path) -> Result<(), VerbError> {
    let store = Store::open(path)?;
    let mut held = lock(&store)?;
    destroy_keys_under(&store)?;
    held.end_lease();
    remove_rest(path)?;
    drop(held);
    Ok(())
}

fn destroy_keys_under(store: &Store) -> Result<(), VerbError> {
    let id = store.read_descriptor()?.volume_id.to_string();
    destroy_descriptor(store, &id).map(drop)
}
