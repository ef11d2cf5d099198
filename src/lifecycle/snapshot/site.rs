//! A directory that becomes a store once all of it is there.
//!
//! ```text
//! STORE/restoring.cmkfs         what is being made of what
//! STORE/restoring.cmkfs.parts/  as far as it is made
//! ```
//!
//! In the end the parts are moved to their places, `volume.json` last: without it nobody takes the
//! directory for a store.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::lifecycle::error::VerbError;
use crate::object::{CopyError, remove_tree};
use crate::store::StoreError;

/// In a store that is being restored, until it is whole.
const RESTORING_NAME: &str = "restoring.cmkfs";
const DESCRIPTOR_NAME: &str = "volume.json";
/// What is moved to its place before `volume.json`.
const NAMES: [&str; 4] = ["tree", "links", "journal", "sessions"];

/// See the module.
#[derive(Debug)]
pub(in crate::lifecycle) struct Site {
    store: PathBuf,
    was_there: bool,
    /// Whether the same was begun before.
    pub(in crate::lifecycle) resume: bool,
}

impl Site {
    /// A new or an empty directory, or one where a restore was interrupted: of the same, as `what`
    /// tells, it goes on; what is left of any other is removed. `what` is empty for what is always
    /// begun anew.
    pub(in crate::lifecycle) fn prepare(store: &Path, what: &str) -> Result<Self, VerbError> {
        if store.join(DESCRIPTOR_NAME).symlink_metadata().is_ok() {
            return Err(VerbError::AlreadyAVolume(store.to_owned()));
        }
        let was_there = store.is_dir();
        let mut site = Self { store: store.to_owned(), was_there, resume: false };
        match std::fs::read_to_string(site.marker()) {
            Ok(found) if found == what && !what.is_empty() && site.parts().is_dir() => {
                site.take_back()?;
                site.resume = true;
                return Ok(site);
            }
            Ok(_) => remove_tree(store, &[]).map_err(copy_error(store))?,
            Err(_) => {}
        }
        if was_there && site.has_entries()? {
            return Err(StoreError::NotEmpty(store.to_owned()).into());
        }
        if !was_there {
            let made = std::fs::DirBuilder::new().mode(0o700).create(store);
            made.map_err(VerbError::local(store, "can't make the directory"))?;
        }
        let (marker, parts) = (site.marker(), site.parts());
        std::fs::write(&marker, what).map_err(VerbError::local(&marker, "can't make it"))?;
        std::fs::create_dir(&parts).map_err(VerbError::local(&parts, "can't make it"))?;
        Ok(site)
    }

    fn marker(&self) -> PathBuf {
        self.store.join(RESTORING_NAME)
    }

    /// Where all is made first.
    pub(in crate::lifecycle) fn parts(&self) -> PathBuf {
        self.store.join(format!("{RESTORING_NAME}.parts"))
    }

    fn has_entries(&self) -> Result<bool, VerbError> {
        let entries = self.store.read_dir();
        let mut entries = entries.map_err(VerbError::local(&self.store, "can't list it"))?;
        Ok(entries.next().is_some())
    }

    /// What was moved to its place before the interruption.
    fn take_back(&self) -> Result<(), VerbError> {
        for name in NAMES {
            let (from, to) = (self.store.join(name), self.parts().join(name));
            if from.symlink_metadata().is_ok() && to.symlink_metadata().is_err() {
                std::fs::rename(&from, &to).map_err(VerbError::local(&from, "can't move it"))?;
            }
        }
        Ok(())
    }

    /// Makes a store of the parts.
    pub(in crate::lifecycle) fn finish(&self) -> Result<(), VerbError> {
        let (store, parts) = (&self.store, self.parts());
        let dir = std::fs::File::open(store).map_err(VerbError::local(store, "can't open it"))?;
        rustix::fs::syncfs(&dir).map_err(VerbError::local(store, "can't sync it"))?;
        for name in NAMES {
            let (from, to) = (parts.join(name), store.join(name));
            match std::fs::rename(from, &to) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                moved => moved.map_err(VerbError::local(&to, "can't make it"))?,
            }
        }
        dir.sync_all().map_err(VerbError::local(store, "can't sync it"))?;
        let descriptor = store.join(DESCRIPTOR_NAME);
        std::fs::rename(parts.join(DESCRIPTOR_NAME), &descriptor)
            .map_err(VerbError::local(&descriptor, "can't make it"))?;
        remove_tree(&parts, &[]).map_err(copy_error(&parts))?;
        std::fs::remove_dir(&parts).map_err(VerbError::local(&parts, "can't remove it"))?;
        let marker = self.marker();
        std::fs::remove_file(&marker).map_err(VerbError::local(&marker, "can't remove it"))?;
        dir.sync_all().map_err(VerbError::local(store, "can't sync it"))
    }

    /// Leaves nothing behind.
    pub(in crate::lifecycle) fn discard(&self) {
        let mut removed = remove_tree(&self.store, &[]).map_err(|error| error.to_string());
        if !self.was_there {
            removed = removed
                .and_then(|()| std::fs::remove_dir(&self.store).map_err(|error| error.to_string()));
        }
        if let Err(left) = removed {
            tracing::warn!("{}: can't remove what was begun: {left}", self.store.display());
        }
    }
}

/// For `map_err`: a failed copy below a directory.
pub(in crate::lifecycle) fn copy_error(root: &Path) -> impl FnOnce(CopyError) -> VerbError {
    let root = root.to_owned();
    move |CopyError { path, action, error }| VerbError::Local {
        path: root.join(path),
        action,
        error,
    }
}
