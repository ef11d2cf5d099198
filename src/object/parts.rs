//! Records of a snapshot, written and read part by part: memory is that for a few parts, however
//! many records there are.
//!
//! A part ends after a record whose path says so, one in 256 on average, so that a change moves the
//! borders of no other part, and parts without a change are the objects that they were.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use crate::format::ids::{Epoch, VolumeId};
use crate::format::snapshot::{self, Hash, PART_LEN_MAX, Part, Record};
use crate::object::error::SnapshotError;
use crate::object::outbox::Outbox;
use crate::object::pool::{Later, Pool};
use crate::object::target::{Target, get_checked, hash, object_key};

/// Bytes of records after which a part ends, whatever the paths say.
const PART_LEN: usize = 512 << 10;
/// Parts that are read ahead.
const AHEAD: usize = 2;

/// The keys of a volume, as far as a snapshot needs them: nothing here has a key.
pub trait Seal: Debug + Send + Sync {
    /// The volume.
    fn volume_id(&self) -> VolumeId;
    /// Whose keys seal what is made now.
    fn epoch(&self) -> Epoch;
    /// Seals a top, bound to its clear bytes.
    fn seal_top(&self, clear: &[u8], parts: &[u8]) -> Vec<u8>;
    /// Opens a top; `None` if it is not authentic.
    fn open_top(&self, epoch: Epoch, clear: &[u8], sealed: &[u8]) -> Option<Vec<u8>>;
    /// Seals the records of a part, always in the same way, and returns their SHA-256 too.
    fn seal_part(&self, records: &[u8]) -> (Vec<u8>, Hash);
    /// Opens a part; `None` if it is not authentic.
    fn open_part(&self, epoch: Epoch, digest: &Hash, sealed: &[u8]) -> Option<Vec<u8>>;
}

/// Takes records in order and sends them in parts.
pub(in crate::object) struct PartWriter {
    pool: Arc<Pool>,
    outbox: Arc<Outbox>,
    seal: Arc<dyn Seal>,
    open: Open,
    sending: VecDeque<Later<Result<Part, SnapshotError>>>,
    done: Vec<Part>,
}

#[derive(Default)]
struct Open {
    bytes: Vec<u8>,
    first: Vec<u8>,
    last: Vec<u8>,
    count: u64,
}

impl PartWriter {
    pub(in crate::object) fn new(
        pool: Arc<Pool>,
        outbox: Arc<Outbox>,
        seal: Arc<dyn Seal>,
    ) -> Self {
        let open = Open::default();
        Self { pool, outbox, seal, open, sending: VecDeque::new(), done: Vec::new() }
    }

    pub(in crate::object) fn push(&mut self, record: &Record) -> Result<(), SnapshotError> {
        let open = &mut self.open;
        snapshot::encode(&mut open.bytes, record, &open.last);
        if open.count == 0 {
            open.first.clone_from(&record.path);
        }
        open.count += 1;
        open.last.clone_from(&record.path);
        let ends = hash(&record.path)[0] == 0;
        if ends || open.bytes.len() >= PART_LEN { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), SnapshotError> {
        let Open { bytes, first, count, .. } = std::mem::take(&mut self.open);
        if count == 0 {
            return Ok(());
        }
        let (outbox, seal) = (Arc::clone(&self.outbox), Arc::clone(&self.seal));
        self.sending.push_back(self.pool.run(move || {
            let (sealed, digest) = seal.seal_part(&bytes);
            Ok(Part { object: outbox.send(&sealed)?, digest, count, first })
        }));
        while self.sending.len() > self.pool.width() {
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), SnapshotError> {
        if let Some(part) = self.sending.pop_front() {
            self.done.push(part.wait()?);
        }
        Ok(())
    }

    pub(in crate::object) fn finish(mut self) -> Result<Vec<Part>, SnapshotError> {
        self.send()?;
        while !self.sending.is_empty() {
            self.settle()?;
        }
        Ok(self.done)
    }
}

/// Records of a snapshot in order, read ahead by a thread.
#[derive(Debug)]
pub struct Records {
    parts: Receiver<Result<Vec<Record>, SnapshotError>>,
    current: std::vec::IntoIter<Record>,
    next: Option<Record>,
}

impl Records {
    /// Reads the records of these parts, which are sealed under the keys of this epoch.
    pub fn read(
        target: Arc<dyn Target>,
        seal: Arc<dyn Seal>,
        epoch: Epoch,
        parts: Vec<Part>,
    ) -> Self {
        let (ahead, taken) = mpsc::sync_channel(AHEAD);
        std::thread::spawn(move || {
            let mut last = Vec::new();
            for part in parts {
                let read = read_part(&*target, &*seal, epoch, &part, &mut last);
                let failed = read.is_err();
                if ahead.send(read).is_err() || failed {
                    return;
                }
            }
        });
        Self { parts: taken, current: Vec::new().into_iter(), next: None }
    }

    /// The next record.
    ///
    /// # Errors
    /// A part that can't be had or is not authentic.
    pub fn advance(&mut self) -> Result<Option<Record>, SnapshotError> {
        if let Some(record) = self.next.take() {
            return Ok(Some(record));
        }
        loop {
            if let Some(record) = self.current.next() {
                return Ok(Some(record));
            }
            match self.parts.recv() {
                Ok(part) => self.current = part?.into_iter(),
                Err(_) => return Ok(None),
            }
        }
    }

    /// The record of this path, if there is one; passes over those before it.
    ///
    /// # Errors
    /// As for [`Self::advance`].
    pub fn find(&mut self, path: &[u8]) -> Result<Option<Record>, SnapshotError> {
        while let Some(record) = self.advance()? {
            match snapshot::order(&record.path, path) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(record)),
                Ordering::Greater => {
                    self.next = Some(record);
                    break;
                }
            }
        }
        Ok(None)
    }
}

/// Records of a part, once it is what the top says and goes on after the path `last`.
fn read_part(
    target: &dyn Target,
    seal: &dyn Seal,
    epoch: Epoch,
    part: &Part,
    last: &mut Vec<u8>,
) -> Result<Vec<Record>, SnapshotError> {
    let key = object_key(seal.volume_id(), &part.object);
    let sealed = get_checked(target, seal.volume_id(), &part.object)?;
    let damaged = |found: &str| SnapshotError::damaged(&key, found);
    if sealed.len() > PART_LEN_MAX {
        return Err(damaged("it is longer than a part can be"));
    }
    let opened = seal.open_part(epoch, &part.digest, &sealed);
    let opened = opened.ok_or_else(|| damaged("it is not authentic"))?;
    let records = snapshot::decode_part(&opened);
    let records = records.ok_or_else(|| damaged("it holds no records"))?;
    let goes_on = records.first().is_some_and(|record| {
        record.path == part.first
            && (last.is_empty() || snapshot::order(last, &record.path).is_lt())
    });
    if !goes_on || records.len() as u64 != part.count {
        return Err(damaged("its records are not those of this snapshot"));
    }
    last.clone_from(&records.last().expect("there is a first").path);
    Ok(records)
}
