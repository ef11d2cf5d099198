//! Snapshots of a volume in a directory: its stored bytes as they are at one moment.
//!
//! A mounted volume is frozen meanwhile: everything is committed and writers wait. Where the disk
//! can share blocks between files (reflinks) that takes a moment, elsewhere as long as the copy.
//! Hashing comes after the thaw.

use std::path::{Path, PathBuf};

use crate::format::VolumeId;
use crate::lifecycle::control::{Client, Request, Response};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::init::unix_ms;
use crate::lifecycle::locate::{daemon, describe, locate};
use crate::lifecycle::open::lock_still;
use crate::lifecycle::terminate::MARKER_NAME as TERMINATING_NAME;
use crate::limits::DESCRIPTOR_WAIT;
use crate::object::{Begun, CopyError, ManifestError, Shelf, ShelfError, Summary};
use crate::object::{copy_tree, remove_tree};
use crate::store::{LockMode, StoreError};

/// In a store that is being restored, until it is whole.
const RESTORING_NAME: &str = "restoring.cmkfs";
const DESCRIPTOR_NAME: &str = "volume.json";

/// What is in a store's directory but is no part of the volume.
const NOT_COPIED: &[&str] = &["lock", "volume.json.new", RESTORING_NAME, TERMINATING_NAME];

/// Takes a snapshot of a volume, mounted or not.
///
/// # Errors
/// See [`VerbError`]; nothing is left in the target then.
pub fn create(volume: &Path, target: &Path) -> Result<Summary, VerbError> {
    let located = locate(volume)?;
    let shelf = open_target(target, &located.store, &located.mountpoints)?;
    let (store, descriptor) = describe(&located.store)?;
    let fail = |error| target_error(shelf.path(), error);
    let begin = || shelf.begin(store.path(), NOT_COPIED, unix_ms()).map_err(fail);
    let writer = daemon(store.path(), None)
        .filter(|(_, report)| report.daemon.as_ref().is_some_and(|daemon| !daemon.read_only));
    let unchanged = || store.lock_descriptor(LockMode::Shared, DESCRIPTOR_WAIT);
    let begun = match writer {
        Some((client, report)) => {
            // Before writers are held up: who changes keys may have to wait for KMS.
            let _unchanged = unchanged()?;
            frozen(client, store.path(), &report.mountpoints, begin)?
        }
        None => {
            let lock = lock_still(&store)?;
            let _unchanged = unchanged()?;
            let begun = begin()?;
            match store.still_free(&lock) {
                Ok(()) => begun,
                Err(error) => {
                    begun.discard();
                    return Err(error.into());
                }
            }
        }
    };
    shelf.finish(begun, descriptor.volume_id).map_err(fail)
}

/// Runs `work` while the daemon holds writers up.
fn frozen(
    mut client: Client,
    store: &Path,
    mountpoints: &[PathBuf],
    work: impl FnOnce() -> Result<Begun, VerbError>,
) -> Result<Begun, VerbError> {
    for mountpoint in mountpoints {
        // What programs wrote to mapped memory is still in the kernel.
        let synced = std::fs::File::open(mountpoint)
            .and_then(|root| rustix::fs::syncfs(&root).map_err(std::io::Error::from));
        synced.map_err(|error| match error.raw_os_error() {
            Some(libc::EKEYREVOKED) => VerbError::locked(store),
            _ => VerbError::local(mountpoint, "can't sync it")(error),
        })?;
    }
    let silent = |found: String| VerbError::Silent { store: store.to_owned(), found };
    match client.ask(&Request::Freeze) {
        Ok(Response::Done) => {}
        Ok(Response::Failed { code, text }) => return Err(VerbError::Daemon { code, text }),
        Ok(_) => return Err(silent("it gave another answer".into())),
        Err(error) => return Err(silent(format!("no answer to a freeze: {error}"))),
    }
    let begun = work()?;
    // If the daemon died meanwhile, nobody kept writers out.
    match client.ask(&Request::Thaw) {
        Ok(Response::Done) => Ok(begun),
        _ => {
            begun.discard();
            Err(silent("it ended while the snapshot was taken; take another".into()))
        }
    }
}

fn target_error(target: &Path, error: ShelfError) -> VerbError {
    let full =
        |error: &std::io::Error| matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    match error {
        ShelfError::Copy(CopyError { path, action, error })
        | ShelfError::Sys { path, action, error }
            if full(&error) =>
        {
            VerbError::Local { path: target.join(path), action, error }
        }
        ShelfError::Manifest(ManifestError::Io { path, error }) if full(&error) => {
            VerbError::Local { path, action: "can't write it", error }
        }
        error => VerbError::SnapshotTarget { path: target.to_owned(), found: error.to_string() },
    }
}

/// The target, which is made if only its last name is missing. It may not lie where a snapshot
/// would copy itself, or wait for itself.
fn open_target(target: &Path, store: &Path, mountpoints: &[PathBuf]) -> Result<Shelf, VerbError> {
    let bad = |found: String| VerbError::SnapshotTarget { path: target.to_owned(), found };
    if let Err(error) = std::fs::create_dir(target)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(bad(error.to_string()));
    }
    let shelf = Shelf::open(target).map_err(|error| bad(error.to_string()))?;
    let inside = mountpoints.iter().map(PathBuf::as_path).chain([store]);
    for path in inside {
        if shelf.path().starts_with(path) {
            return Err(bad(format!("it lies inside of {}", path.display())));
        }
    }
    Ok(shelf)
}

/// Looks at the target of a snapshot that is to be taken later.
///
/// # Errors
/// It can't be used.
pub fn check_target(volume: &Path, target: &Path) -> Result<(), VerbError> {
    let located = locate(volume)?;
    open_target(target, &located.store, &located.mountpoints).map(|_| ())
}

fn open_shelf(target: &Path) -> Result<Shelf, VerbError> {
    Shelf::open(target).map_err(|error| target_error(target, error))
}

/// Snapshots in a target, in the order in which they were taken. One without a readable manifest
/// is logged and left out.
///
/// # Errors
/// The target can't be read.
pub fn list(target: &Path) -> Result<Vec<Summary>, VerbError> {
    let shelf = open_shelf(target)?;
    let mut found = Vec::new();
    for id in shelf.ids().map_err(|error| target_error(target, error))? {
        match shelf.manifest(&id) {
            Ok(manifest) => found.push(Summary::from(&manifest)),
            Err(error) => tracing::warn!("{id} is no usable snapshot: {error}"),
        }
    }
    Ok(found)
}

/// The snapshot of that name or with that ending; without one, the newest.
fn choose(shelf: &Shelf, target: &Path, wanted: Option<&str>) -> Result<String, VerbError> {
    let none = |wanted: String| VerbError::NoSnapshot { target: target.to_owned(), wanted };
    let ids = shelf.ids().map_err(|error| target_error(target, error))?;
    if let Some(wanted) = wanted {
        let short = format!("-{wanted}");
        let found = ids.into_iter().find(|id| id == wanted || id.ends_with(&short));
        return found.ok_or_else(|| none(wanted.to_owned()));
    }
    let volumes: Vec<VolumeId> = list(target)?.iter().map(|found| found.volume_id).collect();
    if volumes.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(none("alone: it has snapshots of several volumes, choose by `--id`".into()));
    }
    ids.into_iter().next_back().ok_or_else(|| none("at all".into()))
}

/// Copies a snapshot to a new or an empty directory, which becomes a store when every byte has
/// been checked. An interrupted restore is begun anew.
///
/// # Errors
/// See [`VerbError`]; nothing is left behind then.
pub fn restore(target: &Path, store: &Path, id: Option<&str>) -> Result<Summary, VerbError> {
    let shelf = open_shelf(target)?;
    let id = choose(&shelf, target, id)?;
    let damaged =
        |found: String| VerbError::SnapshotDamaged { path: shelf.path().join(&id), found };
    let manifest = shelf.manifest(&id).map_err(|error| damaged(error.to_string()))?;
    if store.join(DESCRIPTOR_NAME).symlink_metadata().is_ok() {
        return Err(VerbError::AlreadyAVolume(store.to_owned()));
    }
    let was_there = store.is_dir();
    if was_there && store.join(RESTORING_NAME).exists() {
        remove_tree(store, &[]).map_err(|error| copy_error(store, error))?;
    }
    if was_there && has_entries(store)? {
        return Err(StoreError::NotEmpty(store.to_owned()).into());
    }
    let restored = (|| {
        if !was_there {
            use std::os::unix::fs::DirBuilderExt;
            let made = std::fs::DirBuilder::new().mode(0o700).create(store);
            made.map_err(VerbError::local(store, "can't make the directory"))?;
        }
        fill(&shelf.store(&id), store, &manifest, &damaged)
    })();
    if let Err(error) = restored {
        let mut removed = remove_tree(store, &[]).map_err(|error| error.to_string());
        if !was_there {
            removed = removed
                .and_then(|()| std::fs::remove_dir(store).map_err(|error| error.to_string()));
        }
        if let Err(left) = removed {
            tracing::warn!("{}: can't remove what was begun: {left}", store.display());
        }
        return Err(error);
    }
    Ok(Summary::from(&manifest))
}

fn has_entries(path: &Path) -> Result<bool, VerbError> {
    let mut entries = path.read_dir().map_err(VerbError::local(path, "can't list it"))?;
    Ok(entries.next().is_some())
}

fn copy_error(root: &Path, error: CopyError) -> VerbError {
    let CopyError { path, action, error } = error;
    VerbError::Local { path: root.join(path), action, error }
}

/// The manifest is compared with what was copied, not with the source, so that a fault on the way
/// is found too. `volume.json` comes last: without it nobody takes the directory for a store.
fn fill(
    source: &Path,
    store: &Path,
    manifest: &crate::object::Manifest,
    damaged: &dyn Fn(String) -> VerbError,
) -> Result<(), VerbError> {
    let marker = store.join(RESTORING_NAME);
    let parts = store.join(format!("{RESTORING_NAME}.parts"));
    std::fs::write(&marker, "").map_err(VerbError::local(&marker, "can't make it"))?;
    std::fs::create_dir(&parts).map_err(VerbError::local(&parts, "can't make it"))?;
    copy_tree(source, &parts, &[]).map_err(|error| copy_error(&parts, error))?;
    let difference = manifest.difference(&parts).map_err(|error| damaged(error.to_string()))?;
    if let Some(found) = difference {
        return Err(damaged(found));
    }
    if !parts.join(DESCRIPTOR_NAME).exists() {
        return Err(damaged("it has no volume.json".into()));
    }
    let dir = std::fs::File::open(store).map_err(VerbError::local(store, "can't open it"))?;
    rustix::fs::syncfs(&dir).map_err(VerbError::local(store, "can't sync it"))?;
    let entries = parts.read_dir().map_err(VerbError::local(&parts, "can't list it"))?;
    for entry in entries {
        let entry = entry.map_err(VerbError::local(&parts, "can't list it"))?;
        if entry.file_name() != DESCRIPTOR_NAME {
            let to = store.join(entry.file_name());
            std::fs::rename(entry.path(), &to).map_err(VerbError::local(&to, "can't make it"))?;
        }
    }
    dir.sync_all().map_err(VerbError::local(store, "can't sync it"))?;
    let descriptor = store.join(DESCRIPTOR_NAME);
    std::fs::rename(parts.join(DESCRIPTOR_NAME), &descriptor)
        .map_err(VerbError::local(&descriptor, "can't make it"))?;
    std::fs::remove_dir(&parts).map_err(VerbError::local(&parts, "can't remove it"))?;
    std::fs::remove_file(&marker).map_err(VerbError::local(&marker, "can't remove it"))?;
    dir.sync_all().map_err(VerbError::local(store, "can't sync it"))
}
