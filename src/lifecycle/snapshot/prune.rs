//! `snapshot prune`, and the end of all snapshots of a volume.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::format::descriptor;
use crate::format::ids::VolumeId;
use crate::format::snapshot::Clear;
use crate::keys::KeySource;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::init::unix_ms;
use crate::lifecycle::snapshot::create::Stopped;
use crate::lifecycle::snapshot::old;
use crate::lifecycle::snapshot::place::{Moving, Place, failed};
use crate::lifecycle::snapshot::sealed::Claim;
use crate::object::{
    Freed, Hold, Pool, Seal, Sealed, SnapshotError, Target, claim, delete_all,
    prune as remove_unneeded, tops,
};

/// Which snapshots stay: all that any of these keeps, and the newest in any case.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// So many of the newest.
    pub count: Option<usize>,
    /// Those that are not older.
    pub age: Option<Duration>,
}

/// What a prune did, or would do.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Pruned {
    /// Names of snapshots that stay.
    pub kept: Vec<String>,
    /// Names of those that went.
    pub removed: Vec<String>,
    /// What else went with them.
    #[serde(flatten)]
    pub freed: Freed,
}

/// Removes the snapshots of a volume that are not to be kept, and the objects that no other one
/// needs. `really` not set, it only says which.
///
/// # Errors
/// No key, or a snapshot that is to stay and can't be read: nothing is removed then.
pub fn prune(
    place: &Place,
    volume: Option<VolumeId>,
    keep: Keep,
    really: bool,
    key: Option<&KeySource>,
    moving: &Moving,
) -> Result<Pruned, VerbError> {
    let target = place.open()?;
    let volume_id = the_volume(place, &*target, volume)?;
    let sse = moving.encryption.sse(recorded(&*target, volume_id).as_deref())?;
    let target = target.with_sse(sse);
    let hold = really.then(|| Hold::take(&target, volume_id)).transpose();
    let hold = hold.map_err(failed(place))?;
    let keys = tops(&*target, volume_id).map_err(failed(place))?;
    let mut claims = Vec::new();
    for key in &keys {
        // One that can't be read may need any object: it has to go by hand, or come back.
        claims.push(Claim::read(place, &*target, key)?);
    }
    let opened = open_all(&claims, key, place)?;
    let now = unix_ms();
    let count = opened.len();
    let stays = |index: usize, created_unix_ms: u64| {
        let age_ms = u128::from(now.saturating_sub(created_unix_ms));
        let is_young = keep.age.is_some_and(|age| age_ms <= age.as_millis());
        index + 1 == count || keep.count.is_some_and(|kept| index + kept >= count) || is_young
    };
    let mut pruned = Pruned::default();
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    for (index, (sealed, key)) in opened.into_iter().zip(keys).enumerate() {
        let Clear { id, created_unix_ms, .. } = sealed.0.clear.clone();
        if stays(index, created_unix_ms) {
            pruned.kept.push(id);
            stay.push(sealed);
        } else {
            pruned.removed.push(id);
            go.push(key);
        }
    }
    let pool = Pool::new(moving.jobs);
    let check = || match &hold {
        Some(hold) => hold.check().map_err(|error| Stopped::Verb(failed(place)(error))),
        None => Ok(()),
    };
    let freed = remove_unneeded(&target, volume_id, &pool, &stay, &go, really, check);
    pruned.freed = freed.map_err(|error| match error {
        Stopped::Verb(error) => error,
        Stopped::Snapshot(error) => failed(place)(error),
    })?;
    Ok(pruned)
}

/// The output key that the newest snapshot names. Nobody has checked it: what is put under it is
/// the mark of a writer, and no secret.
fn recorded(target: &dyn Target, volume_id: VolumeId) -> Option<String> {
    let key = tops(target, volume_id).ok()?.pop()?;
    let (clear, _) = claim(target, &key).ok()?;
    let found = descriptor::decode(clear.descriptor.as_bytes()).ok()?;
    found.output_key().map(str::to_owned)
}

/// Opens all of them: by the keys of the newest, which has those of all epochs before, if the
/// volume was not put back to a state of before. One KMS call, and one for each time that it was.
fn open_all(
    claims: &[Claim],
    key: Option<&KeySource>,
    place: &Place,
) -> Result<Vec<Sealed>, VerbError> {
    let mut seals: Vec<Arc<dyn Seal>> = Vec::new();
    let mut opened = Vec::new();
    for claim in claims.iter().rev() {
        let found = seals.iter().find_map(|seal| {
            let opened = claim.open(&**seal, place).ok()?;
            Some((opened, Arc::clone(seal)))
        });
        opened.push(match found {
            Some(found) => found,
            None => {
                let seal: Arc<dyn Seal> = Arc::new(claim.sealing(key, place)?);
                seals.push(Arc::clone(&seal));
                (claim.open(&*seal, place)?, seal)
            }
        });
    }
    opened.reverse();
    Ok(opened)
}

/// The volume that was named, or the only one there.
fn the_volume(
    place: &Place,
    target: &dyn Target,
    volume: Option<VolumeId>,
) -> Result<VolumeId, VerbError> {
    let found = target.volumes().map_err(failed(place))?;
    let none =
        |wanted: String| VerbError::NoSnapshot { target: PathBuf::from(place.to_string()), wanted };
    match (volume, &found[..]) {
        (Some(wanted), _) if found.contains(&wanted) => Ok(wanted),
        (Some(wanted), _) => Err(none(format!("of volume {wanted}"))),
        (None, [one]) => Ok(*one),
        (None, []) => Err(none("that could be removed".to_owned())),
        (None, _) => Err(none("of one volume alone: choose the volume by `--volume`".to_owned())),
    }
}

/// Removes all snapshots of a volume, whose key may be gone: the tops first, so that what is left,
/// if this is interrupted, is none. Returns their names.
///
/// # Errors
/// What can't be removed.
pub(in crate::lifecycle) fn remove_all(
    place: &Place,
    target: &Arc<dyn Target>,
    volume_id: VolumeId,
) -> Result<Vec<String>, VerbError> {
    let mut removed = Vec::new();
    for key in tops(&**target, volume_id).map_err(failed(place))? {
        target.delete(&key).map_err(failed(place))?;
        removed.push(key.rsplit('/').next().unwrap_or_default().to_owned());
    }
    let mut keys = Vec::new();
    let listed = target.list(&format!("{volume_id}/"), &mut |listed| keys.push(listed.key));
    listed.map_err(failed(place))?;
    let pool = Pool::new(Moving::default().jobs);
    let removed_all = delete_all(target, &pool, &keys, || Ok::<(), SnapshotError>(()));
    removed_all.map_err(failed(place))?;
    target.sweep(volume_id).map_err(failed(place))?;
    target.forget(volume_id).map_err(failed(place))?;
    if let Some(path) = place.directory() {
        removed.extend(remove_old(path, volume_id)?);
    }
    Ok(removed)
}

fn remove_old(path: &std::path::Path, volume_id: VolumeId) -> Result<Vec<String>, VerbError> {
    let shelf = old::open_shelf(path)?;
    let fail = |error| old::target_error(path, error);
    let mut removed = Vec::new();
    for id in shelf.ids().map_err(fail)? {
        match shelf.manifest(&id) {
            Ok(manifest) if manifest.volume_id == volume_id => {
                shelf.remove(&id).map_err(fail)?;
                removed.push(id);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("{id}: not removed, no readable manifest: {error}"),
        }
    }
    shelf.sweep(volume_id).map_err(fail)?;
    Ok(removed)
}
