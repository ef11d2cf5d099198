//! `snapshot restore`.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::format::directory::{self, MARKER_NAME};
use crate::format::snapshot::{Kind, Record};
use crate::keys::KeySource;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::snapshot::look::{Chosen, choose};
use crate::lifecycle::snapshot::old;
use crate::lifecycle::snapshot::place::{Moving, Place, failed};
use crate::lifecycle::snapshot::sealed::{Claim, Sealing};
use crate::lifecycle::snapshot::site::Site;
use crate::object::{Opened, Pool, PutBack, Restored, Seal, Target, Wish, piece_bytes};

/// What to restore.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Name or ending of a snapshot; the newest without.
    pub id: Option<String>,
    /// A path in the volume, with all below; everything without.
    pub path: Option<PathBuf>,
}

/// Makes a store of a snapshot, in a new or an empty directory, which becomes one when every byte
/// has been checked. An interrupted restore of the same snapshot goes on where it was.
///
/// # Errors
/// See [`VerbError`]; nothing is left behind of a snapshot that is damaged.
pub fn restore(
    place: &Place,
    store: &Path,
    wanted: &Wanted,
    key: Option<&KeySource>,
    moving: &Moving,
) -> Result<(String, Restored), VerbError> {
    let target = place.open()?;
    let claim = match choose(place, &target, wanted.id.as_deref())? {
        Chosen::Sealed(claim) => claim,
        Chosen::Old { directory, id } => {
            if let Some(path) = &wanted.path {
                let found = format!("{id} was made by an earlier release: restore it as a whole");
                return Err(VerbError::NoPath { path: path.clone(), found });
            }
            old::restore(&directory, store, &id)?;
            return Ok((id, Restored::default()));
        }
    };
    let sealing = Arc::new(claim.sealing(key, place)?);
    let opened = claim.open(&*sealing, place)?;
    let wish = match &wanted.path {
        None => None,
        Some(path) => wish(path, &opened, &target, &sealing, &claim, place)?,
    };
    let what = format!("{} {:?}\n", claim.clear.id, wanted.path);
    let site = Site::prepare(store, &what)?;
    let seal: Arc<dyn Seal> = sealing;
    let fill = || {
        let pool = Arc::new(Pool::new(moving.jobs));
        let parts = site.parts();
        let put = PutBack::new(&target, &seal, &pool, &parts, wish, site.resume);
        let restored = put.and_then(|put| put.run(&opened)).map_err(failed(place))?;
        if !parts.join("tree").is_dir() {
            let (path, found) = (claim.key.clone().into(), "it has no tree".to_owned());
            return Err(VerbError::SnapshotDamaged { path, found });
        }
        let descriptor = parts.join("volume.json");
        std::fs::write(&descriptor, &claim.clear.descriptor)
            .map_err(VerbError::local(&descriptor, "can't write it"))?;
        site.finish()?;
        Ok(restored)
    };
    let restored = fill().inspect_err(|error| {
        // Another snapshot is to be tried; after anything else the same one goes on.
        if matches!(error, VerbError::SnapshotDamaged { .. }) {
            site.discard();
        }
    })?;
    Ok((claim.clear.id, restored))
}

/// The records that make a path in the volume, and all above it.
fn wish(
    path: &Path,
    opened: &Opened,
    target: &Arc<dyn Target>,
    sealing: &Arc<Sealing>,
    claim: &Claim,
    place: &Place,
) -> Result<Option<Wish>, VerbError> {
    let none = |found: String| VerbError::NoPath { path: path.to_owned(), found };
    let damaged = |found: &str| VerbError::SnapshotDamaged {
        path: claim.key.clone().into(),
        found: found.to_owned(),
    };
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.as_bytes()),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(none("wanted a path in the volume, without `..`".to_owned()));
            }
        }
    }
    let Some((last, above)) = names.split_last() else { return Ok(None) };
    let seal: Arc<dyn Seal> = Arc::clone(sealing) as Arc<dyn Seal>;
    let find = |path: &[u8]| opened.find(path, target, &seal).map_err(failed(place));
    let mut exact = HashSet::from([b"tree".to_vec()]);
    let mut dir = b"tree".to_vec();
    for (name, is_last) in above.iter().map(|name| (name, false)).chain([(last, true)]) {
        let at = [&dir[..], b"/", MARKER_NAME].concat();
        let marker = find(&at)?.ok_or_else(|| damaged("a directory has no marker"))?;
        let cipher = names_of(&marker, target, sealing, place)?;
        let cipher = cipher.ok_or_else(|| damaged("the marker of a directory is not authentic"))?;
        if name.len() > crate::format::name::NAME_MAX {
            return Err(none("it has a name of more than 255 bytes".to_owned()));
        }
        let stored = cipher.seal_name(name);
        exact.insert(at);
        if let Some((sidecar, _)) = stored.sidecar() {
            exact.insert([&dir[..], b"/", sidecar].concat());
        }
        let next = [&dir[..], b"/", stored.object()].concat();
        let is_fit = |record: &Record| is_last || record.kind == Kind::Dir;
        if !find(&next)?.as_ref().is_some_and(is_fit) {
            let name = String::from_utf8_lossy(name);
            return Err(none(format!("{name:?} is not there in {}", claim.clear.id)));
        }
        exact.insert(next.clone());
        dir = next;
    }
    // What was synced last of a volume that was not left cleanly is in the journal alone; of what
    // is not restored it has nothing to say.
    let whole: [&[u8]; 3] = [b"links", b"sessions", b"journal"];
    let below = whole.iter().map(|name| name.to_vec()).chain([dir]).collect();
    Ok(Some(Wish { exact, below }))
}

/// What seals the names of the directory with this marker.
fn names_of(
    marker: &Record,
    target: &Arc<dyn Target>,
    sealing: &Sealing,
    place: &Place,
) -> Result<Option<crate::cipher::DirCipher>, VerbError> {
    let decoded = match &marker.kind {
        Kind::Symlink(text) => directory::decode_link(text),
        Kind::File(content) => {
            let mut bytes = Vec::new();
            for piece in &content.pieces {
                let read = piece_bytes(&**target, sealing.volume_id(), piece);
                bytes.extend(read.map_err(failed(place))?);
            }
            directory::decode(&bytes)
        }
        _ => return Ok(None),
    };
    let Ok((epoch, id, tag)) = decoded else { return Ok(None) };
    Ok(sealing.keys.open_marker(epoch, id, &tag))
}
