//! Snapshots of version 1, which earlier releases made: whole copies of a store in a directory.
//! They are listed, restored as a whole and removed; none is made.

use std::path::Path;

use crate::lifecycle::error::VerbError;
use crate::lifecycle::snapshot::site::{Site, copy_error};
use crate::object::{Manifest, Shelf, ShelfError, Summary, copy_tree};

pub(in crate::lifecycle) fn target_error(target: &Path, error: ShelfError) -> VerbError {
    VerbError::SnapshotTarget { path: target.to_owned(), found: error.to_string() }
}

pub(in crate::lifecycle) fn open_shelf(target: &Path) -> Result<Shelf, VerbError> {
    Shelf::open(target).map_err(|error| target_error(target, error))
}

/// Those in a directory, in the order in which they were taken. One without a readable manifest is
/// logged and left out.
pub(in crate::lifecycle) fn list(target: &Path) -> Result<Vec<Summary>, VerbError> {
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

/// Copies one to a new or an empty directory, which becomes a store when every byte has been
/// checked. An interrupted restore is begun anew.
pub(in crate::lifecycle) fn restore(
    target: &Path,
    store: &Path,
    id: &str,
) -> Result<(), VerbError> {
    let shelf = open_shelf(target)?;
    let damaged = |found: String| VerbError::SnapshotDamaged { path: shelf.path().join(id), found };
    let manifest = shelf.manifest(id).map_err(|error| damaged(error.to_string()))?;
    let site = Site::prepare(store, "")?;
    let filled = fill(&shelf.store(id), &site, &manifest, &damaged);
    filled.and_then(|()| site.finish()).inspect_err(|_| site.discard())
}

/// The manifest is compared with what was copied, not with the source, so that a fault on the way
/// is found too.
fn fill(
    source: &Path,
    site: &Site,
    manifest: &Manifest,
    damaged: &dyn Fn(String) -> VerbError,
) -> Result<(), VerbError> {
    let parts = site.parts();
    copy_tree(source, &parts, &[]).map_err(copy_error(&parts))?;
    let difference = manifest.difference(&parts).map_err(|error| damaged(error.to_string()))?;
    if let Some(found) = difference {
        return Err(damaged(found));
    }
    if !parts.join("volume.json").exists() {
        return Err(damaged("it has no volume.json".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::VolumeId;

    #[test]
    fn what_an_earlier_release_copied_is_restored_unless_it_rotted() {
        let dir = tempfile::tempdir().unwrap();
        let id = "snap-20261121T094639.250Z-1a2b3c4d";
        let kept = dir.path().join("target").join(id);
        std::fs::create_dir_all(kept.join("store/tree/sub")).unwrap();
        std::fs::write(kept.join("store/tree/sub/file"), vec![7; 100_000]).unwrap();
        std::fs::write(kept.join("store/volume.json"), "{}").unwrap();
        let volume_id = VolumeId([1; 16]);
        let made = Manifest::of_tree(&kept.join("store"), id.to_owned(), volume_id, 5).unwrap();
        made.write(&kept.join("manifest.json")).unwrap();
        let (target, new) = (dir.path().join("target"), dir.path().join("new"));
        assert_eq!(list(&target).unwrap()[0].id, id);
        let refused = |part: &str| {
            let error = restore(&target, &new, id).unwrap_err();
            assert!(error.to_string().contains(part) && error.exit_code() == 52, "{error}");
            assert!(!new.exists(), "something was left");
        };
        let file = kept.join("store/tree/sub/file");
        std::fs::write(&file, vec![8; 100_000]).unwrap();
        refused("is not what was copied");
        std::fs::remove_file(&file).unwrap();
        refused("is missing");
        std::fs::write(&file, vec![7; 100_000]).unwrap();
        std::fs::write(kept.join("store/tree/more"), "x").unwrap();
        refused("does not belong");
        std::fs::remove_file(kept.join("store/tree/more")).unwrap();
        // What an interrupted restore left is begun anew.
        std::fs::create_dir_all(new.join("restoring.cmkfs.parts/tree")).unwrap();
        std::fs::write(new.join("restoring.cmkfs"), "").unwrap();
        restore(&target, &new, id).unwrap();
        assert_eq!(std::fs::read(new.join("tree/sub/file")).unwrap(), vec![7; 100_000]);
        let mut names: Vec<_> =
            new.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["tree", "volume.json"]);
    }
}
