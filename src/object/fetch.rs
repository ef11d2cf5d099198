//! Pieces from a target, those that lie near each other in a pack by one request.

use std::ops::Range;

use crate::format::bytes::to_usize;
use crate::format::ids::VolumeId;
use crate::format::snapshot::{Hash, Piece, Place};
use crate::object::error::SnapshotError;
use crate::object::target::{Target, hash, object_key};

/// Bytes that nobody wants, between two pieces that are fetched at once.
const GAP_LEN: u64 = 64 << 10;
/// Bytes of a request for several pieces.
const BATCH_LEN: u64 = 4 << 20;
/// Pieces of a request.
const BATCH_PIECES: usize = 256;
/// Bytes of the longest piece that is believed: a run of blocks of 64 KiB has 8 MiB and 4 KiB.
const PIECE_LEN_MAX: u64 = 64 << 20;

/// Pieces of one object, and what each is for.
#[derive(Debug)]
pub(in crate::object) struct Batch<T> {
    object: Hash,
    range: Range<u64>,
    pub(in crate::object) pieces: Vec<(Piece, T)>,
}

/// Puts pieces into batches, in the order in which they come.
#[derive(Debug)]
pub(in crate::object) struct Batcher<T> {
    open: Option<Batch<T>>,
}

impl<T> Batcher<T> {
    pub(in crate::object) fn new() -> Self {
        Self { open: None }
    }

    /// Takes a piece that is not empty; returns the batch before if it does not go with that.
    pub(in crate::object) fn push(
        &mut self,
        piece: Piece,
        what: T,
    ) -> Result<Option<Batch<T>>, SnapshotError> {
        let (object, begin) = piece.at();
        let end = begin.checked_add(piece.len()).filter(|_| piece.len() <= PIECE_LEN_MAX);
        let Some(end) = end else {
            let key = data_encoding::HEXLOWER.encode(&object);
            return Err(SnapshotError::damaged(&key, "a piece of it is longer than can be"));
        };
        if let Some(open) = &mut self.open
            && matches!(piece.place, Place::In { .. })
            && open.object == object
            && (open.range.end..=open.range.end + GAP_LEN).contains(&begin)
            && end - open.range.start <= BATCH_LEN
            && open.pieces.len() < BATCH_PIECES
        {
            open.range.end = end;
            open.pieces.push((piece, what));
            return Ok(None);
        }
        let next = Batch { object, range: begin..end, pieces: vec![(piece, what)] };
        Ok(self.open.replace(next))
    }

    /// The last batch.
    pub(in crate::object) fn finish(&mut self) -> Option<Batch<T>> {
        self.open.take()
    }
}

/// Bytes of one piece, checked.
///
/// # Errors
/// [`SnapshotError::Target`].
pub fn piece_bytes(
    target: &dyn Target,
    volume_id: VolumeId,
    piece: &Piece,
) -> Result<Vec<u8>, SnapshotError> {
    let mut batcher = Batcher::new();
    if !piece.is_empty() {
        batcher.push(piece.clone(), ())?;
    }
    match batcher.finish() {
        Some(batch) => Ok(batch.fetch(target, volume_id)?.concat()),
        None => Ok(Vec::new()),
    }
}

impl<T> Batch<T> {
    /// Bytes of its pieces, each checked, in their order.
    pub(in crate::object) fn fetch(
        &self,
        target: &dyn Target,
        volume_id: VolumeId,
    ) -> Result<Vec<Vec<u8>>, SnapshotError> {
        let key = object_key(volume_id, &self.object);
        let bytes = target.get(&key, Some(self.range.clone()))?;
        let checked = self.pieces.iter().map(|(piece, _)| {
            let from = to_usize(piece.at().1 - self.range.start);
            let part = bytes.get(from..from + to_usize(piece.len()));
            match part.filter(|part| hash(part) == piece.hash) {
                Some(part) => Ok(part.to_vec()),
                None => {
                    Err(SnapshotError::damaged(&key, "its bytes are not those of the snapshot"))
                }
            }
        });
        checked.collect()
    }

    /// The object's name.
    pub(in crate::object) fn object(&self) -> Hash {
        self.object
    }
}
