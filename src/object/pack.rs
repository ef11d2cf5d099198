//! Small pieces, packed: an object for each of them would cost more than its bytes.
//!
//! Pieces come in the order of records and go into a pack one after the other; a pack that is full
//! is sent. Records wait until the names of the packs with their pieces are known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::format::snapshot::{Content, Hash, Kind, Mark, Piece, Place, Record};
use crate::object::error::SnapshotError;
use crate::object::outbox::Outbox;
use crate::object::pieces::Read;
use crate::object::pool::{Later, Pool};
use crate::object::target::hash;

/// Bytes of the largest piece that is packed.
pub(in crate::object) const PACKED_LEN_MAX: usize = 256 << 10;
/// Bytes after which a pack is sent.
const PACK_LEN: usize = 8 << 20;
/// Records that wait for a pack, before it is sent as it is.
const WAITING_MAX: usize = 32_768;
/// Packs on their way at a time: each has its bytes in memory.
const SENDING_MAX: usize = 4;

/// A record whose pieces are not all at a known place.
#[derive(Debug)]
struct Waiting {
    record: Record,
    /// Pieces, by their index, and the pack that each is in.
    packed: Vec<(usize, u64)>,
}

/// See the module.
pub(in crate::object) struct Packer {
    pool: Arc<Pool>,
    outbox: Arc<Outbox>,
    bytes: Vec<u8>,
    number: u64,
    sending: VecDeque<(u64, Later<Result<Hash, SnapshotError>>)>,
    /// Names of packs that records may still wait for.
    sent: BTreeMap<u64, Hash>,
    waiting: VecDeque<Waiting>,
}

/// The bytes of a piece, or where they are already.
#[derive(Debug)]
pub(in crate::object) enum Source {
    There(Piece),
    /// To be packed: the piece without its place, and its bytes.
    Bytes(Piece, Vec<u8>),
}

impl Packer {
    pub(in crate::object) fn new(pool: Arc<Pool>, outbox: Arc<Outbox>) -> Self {
        Self {
            pool,
            outbox,
            bytes: Vec::new(),
            number: 0,
            sending: VecDeque::new(),
            sent: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Takes the next record; its pieces, if it is a file, come apart.
    pub(in crate::object) fn push(
        &mut self,
        mut record: Record,
        sources: Vec<Source>,
    ) -> Result<(), SnapshotError> {
        let mut packed = Vec::new();
        if let Kind::File(Content { pieces, .. }) = &mut record.kind {
            for source in sources {
                match source {
                    Source::There(piece) => pieces.push(piece),
                    Source::Bytes(mut piece, bytes) => {
                        packed.push((pieces.len(), self.number));
                        let offset = self.bytes.len() as u64;
                        piece.place = Place::In { object: [0; 32], offset };
                        pieces.push(piece);
                        self.bytes.extend_from_slice(&bytes);
                        if self.bytes.len() >= PACK_LEN {
                            self.send()?;
                        }
                    }
                }
            }
        }
        self.waiting.push_back(Waiting { record, packed });
        if self.waiting.len() > WAITING_MAX { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), SnapshotError> {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() {
            return Ok(());
        }
        let outbox = Arc::clone(&self.outbox);
        self.sending.push_back((self.number, self.pool.run(move || outbox.send(&bytes))));
        self.number += 1;
        while self.sending.len() > SENDING_MAX {
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), SnapshotError> {
        if let Some((number, sending)) = self.sending.pop_front() {
            self.sent.insert(number, sending.wait()?);
        }
        Ok(())
    }

    /// The next record whose pieces all are at a known place.
    pub(in crate::object) fn pop(&mut self) -> Option<Record> {
        let Waiting { packed, .. } = self.waiting.front()?;
        let last = packed.last().map(|(_, number)| *number);
        if last.is_some_and(|number| !self.sent.contains_key(&number)) {
            return None;
        }
        let Waiting { mut record, packed } = self.waiting.pop_front()?;
        if let Kind::File(content) = &mut record.kind {
            for (index, number) in packed {
                if let Place::In { object, .. } = &mut content.pieces[index].place {
                    *object = self.sent[&number];
                }
            }
        }
        if let Some(number) = last {
            self.sent = self.sent.split_off(&number);
        }
        Some(record)
    }

    /// Sends what there is; all records can be had after it.
    pub(in crate::object) fn finish(&mut self) -> Result<(), SnapshotError> {
        self.send()?;
        while !self.sending.is_empty() {
            self.settle()?;
        }
        Ok(())
    }
}

/// A piece with these bytes: where it was before, or to be packed, or sent.
pub(in crate::object) fn source(
    outbox: &Outbox,
    mark: Mark,
    Read { bytes, extents }: Read,
    older: Option<Piece>,
) -> Result<Source, SnapshotError> {
    outbox.note_read(bytes.len() as u64);
    let piece = |hash| Piece { mark, hash, place: Place::Whole, extents };
    if bytes.is_empty() {
        return Ok(Source::There(piece(hash(&[]))));
    }
    let name = hash(&bytes);
    if let Some(older) = older.filter(|older| older.hash == name && outbox.has(&older.at().0)) {
        return Ok(Source::There(Piece { place: older.place, ..piece(name) }));
    }
    if bytes.len() <= PACKED_LEN_MAX {
        return Ok(Source::Bytes(piece(name), bytes));
    }
    Ok(Source::There(piece(outbox.send(&bytes)?)))
}
