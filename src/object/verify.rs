//! Reads a snapshot again and says what of it is not as it was made.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use data_encoding::HEXLOWER;

use crate::format::snapshot::{Kind, Piece, hash_part};
use crate::object::error::SnapshotError;
use crate::object::fetch::{Batch, Batcher};
use crate::object::parts::Seal;
use crate::object::pool::{Later, Pool};
use crate::object::take::Opened;
use crate::object::target::{Target, TargetError};

/// Damages that are told, of each snapshot.
const FAULTS_MAX: usize = 100;

/// What was read, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Records.
    pub objects: u64,
    /// Pieces that were read.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong, each with the object and the first stored path that needs it.
    pub faults: Vec<String>,
}

type Checked = (u64, u64, Vec<(String, String)>);

/// Reads all records, and all pieces or `percent` of them, chosen by `seed`.
///
/// # Errors
/// The target's, other than for an object that is missing or damaged.
pub fn verify(
    target: &Arc<dyn Target>,
    seal: &Arc<dyn Seal>,
    pool: &Pool,
    snapshot: &Opened,
    percent: u8,
    seed: u64,
) -> Result<Verified, SnapshotError> {
    let mut verified = Verified::default();
    let mut faults = BTreeMap::new();
    let mut records = snapshot.records(target, seal);
    let mut batcher: Batcher<Vec<u8>> = Batcher::new();
    let mut running: VecDeque<Later<Result<Checked, SnapshotError>>> = VecDeque::new();
    let volume_id = snapshot.clear.volume_id;
    let mut settle = |running: &mut VecDeque<_>, verified: &mut Verified, left: usize| {
        while running.len() > left {
            let Some(later): Option<Later<Result<Checked, SnapshotError>>> = running.pop_front()
            else {
                break;
            };
            let (pieces, bytes, found) = later.wait()?;
            verified.pieces += pieces;
            verified.bytes += bytes;
            for (fault, path) in found {
                if faults.len() < FAULTS_MAX {
                    faults.entry(fault).or_insert(path);
                }
            }
        }
        Ok::<(), SnapshotError>(())
    };
    let begin = |batch: Batch<Vec<u8>>, running: &mut VecDeque<_>| {
        let target = Arc::clone(target);
        running.push_back(pool.run(move || check(&batch, &*target, volume_id)));
    };
    let broken = loop {
        let record = match records.advance() {
            Ok(Some(record)) => record,
            Ok(None) => break None,
            // What comes after it can't be had.
            Err(error) => break Some(told(error)?),
        };
        verified.objects += 1;
        let Kind::File(content) = record.kind else { continue };
        for piece in content.pieces.into_iter().filter(|piece| is_chosen(piece, percent, seed)) {
            if let Some(batch) = batcher.push(piece, record.path.clone())? {
                begin(batch, &mut running);
            }
        }
        settle(&mut running, &mut verified, 2 * pool.width())?;
    };
    if let Some(batch) = batcher.finish() {
        begin(batch, &mut running);
    }
    settle(&mut running, &mut verified, 0)?;
    let path = |(fault, path): (String, String)| format!("{fault} (needed by {path})");
    verified.faults = broken.into_iter().chain(faults.into_iter().map(path)).collect();
    Ok(verified)
}

fn is_chosen(piece: &Piece, percent: u8, seed: u64) -> bool {
    !piece.is_empty() && (hash_part(&piece.hash) ^ seed) % 100 < u64::from(percent)
}

/// A damage as text; any other error stays one.
fn told(error: SnapshotError) -> Result<String, SnapshotError> {
    match error {
        SnapshotError::Target(
            error @ (TargetError::Missing { .. } | TargetError::Damaged { .. }),
        ) => Ok(error.to_string()),
        error => Err(error),
    }
}

fn check(
    batch: &Batch<Vec<u8>>,
    target: &dyn Target,
    volume_id: crate::format::ids::VolumeId,
) -> Result<Checked, SnapshotError> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let count = batch.pieces.len() as u64;
    let bytes = batch.pieces.iter().map(|(piece, _)| piece.len()).sum();
    match batch.fetch(target, volume_id) {
        Ok(_) => Ok((count, bytes, Vec::new())),
        Err(error) => {
            let path = batch.pieces.first().map(|(_, path)| text(path)).unwrap_or_default();
            tracing::debug!("{}: {error}", HEXLOWER.encode(&batch.object()));
            Ok((count, bytes, vec![(told(error)?, path)]))
        }
    }
}
