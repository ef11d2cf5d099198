//! `snapshot list`, `show` and `verify`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::format::descriptor;
use crate::format::ids::VolumeId;
use crate::keys::KeySource;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::report::{SlotReport, slots};
use crate::lifecycle::snapshot::old;
use crate::lifecycle::snapshot::place::{Moving, Place, failed};
use crate::lifecycle::snapshot::sealed::{Claim, claims};
use crate::object::{Pool, Seal, Target, Verified, top_key, verify as read_all};

/// A snapshot as `list` shows it: what it says, which nobody has checked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// Its name.
    pub id: String,
    /// The volume it is of.
    pub volume_id: VolumeId,
    /// When it was taken, milliseconds since 1970 UTC.
    pub created_unix_ms: u64,
    /// Stored files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of its format: 1 or 2.
    pub version: u16,
    /// The snapshot that it was compared with.
    pub parent: Option<String>,
    /// Bytes that were sent for it.
    pub sent_bytes: Option<u64>,
}

/// A snapshot that is authentic.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Shown {
    /// What `list` shows.
    #[serde(flatten)]
    pub line: Line,
    /// Whose keys seal it.
    pub epoch: u32,
    /// What opens the volume that is restored from it.
    pub slots: Vec<SlotReport>,
    /// Stored objects of all kinds.
    pub objects: u64,
    /// Parts of its list of them.
    pub parts: u64,
}

/// One that was asked for.
#[derive(Debug)]
pub(in crate::lifecycle) enum Chosen {
    Sealed(Claim),
    Old { directory: PathBuf, id: String },
}

fn line(claim: &Claim) -> Line {
    let clear = claim.clear.clone();
    Line {
        id: clear.id,
        volume_id: clear.volume_id,
        created_unix_ms: clear.created_unix_ms,
        files: clear.files,
        bytes: clear.bytes,
        version: crate::format::snapshot::VERSION,
        parent: clear.parent,
        sent_bytes: Some(clear.sent_bytes),
    }
}

/// Snapshots in a target, in the order in which they were taken. What is no usable one is logged
/// and left out.
///
/// # Errors
/// The target can't be read.
pub fn list(place: &Place) -> Result<Vec<Line>, VerbError> {
    let target = place.open()?;
    let mut found = Vec::new();
    for volume_id in target.volumes().map_err(failed(place))? {
        found.extend(claims(place, &*target, volume_id)?.iter().map(line));
    }
    if let Some(path) = place.directory() {
        found.extend(old::list(path)?.into_iter().map(|summary| Line {
            id: summary.id,
            volume_id: summary.volume_id,
            created_unix_ms: summary.created_unix_ms,
            files: summary.files,
            bytes: summary.bytes,
            version: 1,
            parent: None,
            sent_bytes: None,
        }));
    }
    found.sort_by(|a, b| (a.created_unix_ms, &a.id).cmp(&(b.created_unix_ms, &b.id)));
    Ok(found)
}

/// The snapshot of that name or with that ending; without one, the newest. One that is damaged is
/// not passed over for an older one.
pub(in crate::lifecycle) fn choose(
    place: &Place,
    target: &Arc<dyn Target>,
    wanted: Option<&str>,
) -> Result<Chosen, VerbError> {
    let none = |wanted: &str| VerbError::NoSnapshot {
        target: PathBuf::from(place.to_string()),
        wanted: wanted.to_owned(),
    };
    let mut all: Vec<(String, Option<VolumeId>)> = Vec::new();
    for volume_id in target.volumes().map_err(failed(place))? {
        let tops = crate::object::tops(&**target, volume_id).map_err(failed(place))?;
        let id = |key: &String| key.rsplit('/').next().unwrap_or_default().to_owned();
        all.extend(tops.iter().map(|key| (id(key), Some(volume_id))));
    }
    let mut of = all.iter().map(|(_, volume)| volume.map(|id| id.to_string())).collect();
    if let Some(path) = place.directory() {
        let shelf = old::open_shelf(path)?;
        let ids = shelf.ids().map_err(|error| old::target_error(path, error))?;
        all.extend(ids.into_iter().map(|id| (id, None)));
        add_volumes_of_old(path, &mut of)?;
    }
    all.sort();
    let found = match wanted {
        Some(wanted) => {
            let short = format!("-{wanted}");
            let found = all.into_iter().find(|(id, _)| id == wanted || id.ends_with(&short));
            found.ok_or_else(|| none(wanted))?
        }
        None if of.len() > 1 => {
            return Err(none("alone: it has snapshots of several volumes, choose by `--id`"));
        }
        None => all.into_iter().next_back().ok_or_else(|| none("at all"))?,
    };
    match (found, place.directory()) {
        ((id, None), Some(path)) => Ok(Chosen::Old { directory: path.to_owned(), id }),
        ((id, volume_id), _) => {
            let volume_id = volume_id.ok_or_else(|| none(&id))?;
            Ok(Chosen::Sealed(Claim::read(place, &**target, &top_key(volume_id, &id))?))
        }
    }
}

fn add_volumes_of_old(
    path: &std::path::Path,
    of: &mut HashSet<Option<String>>,
) -> Result<(), VerbError> {
    of.extend(old::list(path)?.iter().map(|summary| Some(summary.volume_id.to_string())));
    Ok(())
}

fn sealed(place: &Place, target: &Arc<dyn Target>, id: Option<&str>) -> Result<Claim, VerbError> {
    match choose(place, target, id)? {
        Chosen::Sealed(claim) => Ok(claim),
        Chosen::Old { directory, id } => Err(VerbError::OldSnapshot { target: directory, id }),
    }
}

/// What a snapshot is, proved by the volume's key.
///
/// # Errors
/// No such snapshot, no key, or one that is not authentic.
pub fn show(place: &Place, id: Option<&str>, key: Option<&KeySource>) -> Result<Shown, VerbError> {
    let target = place.open()?;
    let claim = sealed(place, &target, id)?;
    let sealing = claim.sealing(key, place)?;
    let opened = claim.open(&sealing, place)?;
    let found = descriptor::decode(claim.clear.descriptor.as_bytes());
    Ok(Shown {
        line: line(&claim),
        epoch: claim.clear.epoch.0,
        slots: found.map(|found| slots(&found)).unwrap_or_default(),
        objects: opened.parts.iter().map(|part| part.count).sum(),
        parts: opened.parts.len() as u64,
    })
}

/// Reads a snapshot again: all records, and all data or so many percent of it, each time another
/// part of it.
///
/// # Errors
/// No such snapshot, no key, or a target that can't be read; damages are in what is returned.
pub fn verify(
    place: &Place,
    id: Option<&str>,
    percent: u8,
    key: Option<&KeySource>,
    moving: &Moving,
) -> Result<(String, Verified), VerbError> {
    let target = place.open()?;
    let claim = sealed(place, &target, id)?;
    let sealing: Arc<dyn Seal> = Arc::new(claim.sealing(key, place)?);
    let opened = claim.open(&*sealing, place)?;
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).expect("the system gives random bytes");
    let pool = Pool::new(moving.jobs);
    let seed = u64::from_le_bytes(seed);
    let verified = read_all(&target, &sealing, &pool, &opened, percent, seed);
    Ok((claim.clear.id, verified.map_err(failed(place))?))
}
