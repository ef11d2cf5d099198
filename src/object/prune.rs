//! Removes snapshots, and the objects that no other one needs.
//!
//! What stays is read first, all of it: if a record of a snapshot that is to stay can't be had,
//! nothing is removed. Then the tops go, then what nobody refers to. Interrupted anywhere, the
//! snapshots that stay are whole, and the next prune goes on.

use std::collections::HashSet;
use std::sync::Arc;

use crate::format::ids::VolumeId;
use crate::format::snapshot::{Hash, Kind};
use crate::object::error::SnapshotError;
use crate::object::parts::Seal;
use crate::object::pool::{Later, Pool};
use crate::object::take::Opened;
use crate::object::target::{Target, hash_of, objects_prefix};

/// Objects that one thread removes before it is asked again whether it may.
const BATCH: usize = 1000;

/// A snapshot, and the keys that open it.
pub type Sealed = (Opened, Arc<dyn Seal>);

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Freed {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Names of all objects that these snapshots need. Memory: some 40 bytes each.
fn needed(target: &Arc<dyn Target>, stay: &[Sealed]) -> Result<HashSet<Hash>, SnapshotError> {
    let mut needed = HashSet::new();
    for (snapshot, seal) in stay {
        needed.extend(snapshot.parts.iter().map(|part| part.object));
        let mut records = snapshot.records(target, seal);
        while let Some(record) = records.advance()? {
            if let Kind::File(content) = record.kind {
                let pieces = content.pieces.iter().filter(|piece| !piece.is_empty());
                needed.extend(pieces.map(|piece| piece.at().0));
            }
        }
    }
    Ok(needed)
}

/// Removes the tops `go` and every object that no snapshot in `stay` needs; without `really` it
/// counts them. `check` is asked before anything is removed, and before each batch of objects.
///
/// # Errors
/// What can't be read or removed, and what `check` says.
pub fn prune<E: From<SnapshotError>>(
    target: &Arc<dyn Target>,
    volume_id: VolumeId,
    pool: &Pool,
    stay: &[Sealed],
    go: &[String],
    really: bool,
    check: impl Fn() -> Result<(), E>,
) -> Result<Freed, E> {
    let needed = needed(target, stay)?;
    check()?;
    if really {
        for key in go {
            target.delete(key).map_err(SnapshotError::from)?;
        }
        target.sync().map_err(SnapshotError::from)?;
    }
    let mut freed = Freed::default();
    let mut unneeded = Vec::new();
    let listed = target.list(&objects_prefix(volume_id), &mut |listed| {
        if hash_of(&listed.key).is_some_and(|hash| !needed.contains(&hash)) {
            freed.objects += 1;
            freed.bytes += listed.len;
            unneeded.push(listed.key);
        }
    });
    listed.map_err(SnapshotError::from)?;
    if really {
        delete_all(target, pool, &unneeded, check)?;
        target.sweep(volume_id).map_err(SnapshotError::from)?;
    }
    Ok(freed)
}

/// Removes many objects; `check` is asked before each batch.
///
/// # Errors
/// The first failure, and what `check` says.
pub fn delete_all<E: From<SnapshotError>>(
    target: &Arc<dyn Target>,
    pool: &Pool,
    keys: &[String],
    check: impl Fn() -> Result<(), E>,
) -> Result<(), E> {
    for round in keys.chunks(BATCH * pool.width()) {
        check()?;
        let each = round.len().div_ceil(pool.width());
        let removing: Vec<_> = round
            .chunks(each)
            .map(|keys| {
                let (target, keys) = (Arc::clone(target), keys.to_vec());
                pool.run(move || target.delete_many(&keys))
            })
            .collect();
        removing.into_iter().try_for_each(Later::wait).map_err(SnapshotError::from)?;
    }
    Ok(())
}
