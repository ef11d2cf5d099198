//! Takes a snapshot of a store.
//!
//! 1. While others write to the store, one pass reads and sends what the snapshot before does not
//!    have.
//! 2. Writers are held up. A second pass looks at every object and reads what changed since the
//!    first, into a spool.
//! 3. Writers go on. The spool is sent, then the target is synced, then the top is written: without
//!    it there is no snapshot.
//!
//! So writers wait for a look at each object and for reading what changed during the first pass,
//! not for the network and not for what is in the store. A store that nobody writes to has one
//! pass.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::ids::VolumeId;
use crate::format::snapshot::{self, Clear, FORMAT, Part, Record};
use crate::format::utc::Utc;
use crate::object::advance::{AdvanceWriter, disk_time};
use crate::object::error::SnapshotError;
use crate::object::outbox::{Moved, Outbox};
use crate::object::parts::{PartWriter, Records, Seal};
use crate::object::pool::Pool;
use crate::object::scan::{Before, Scan};
use crate::object::target::{Put, Target, TargetError, top_key};
use crate::object::walk::Walk;

/// What every name of a snapshot begins with.
pub const ID_PREFIX: &str = "snap-";

/// What a snapshot is taken of, and where to.
#[derive(Debug)]
pub struct Plan {
    /// The store's directory.
    pub store: PathBuf,
    /// Names in it that belong to the volume.
    pub names: Vec<&'static str>,
    /// `volume.json`.
    pub descriptor: String,
    /// The volume's keys.
    pub seal: Arc<dyn Seal>,
    /// Where objects go.
    pub target: Arc<dyn Target>,
    /// The threads.
    pub pool: Arc<Pool>,
    /// What the target has and gets.
    pub outbox: Arc<Outbox>,
    /// The snapshot to compare with.
    pub parent: Option<Opened>,
}

/// A snapshot whose top is authentic.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What it says of itself.
    pub clear: Clear,
    /// Its parts.
    pub parts: Vec<Part>,
}

impl Opened {
    /// The record of a path, if there is one.
    ///
    /// # Errors
    /// A part that can't be had or is not authentic.
    pub fn find(
        &self,
        path: &[u8],
        target: &Arc<dyn Target>,
        seal: &Arc<dyn Seal>,
    ) -> Result<Option<Record>, SnapshotError> {
        let after = self.parts.partition_point(|part| snapshot::order(&part.first, path).is_le());
        let Some(part) = after.checked_sub(1).and_then(|at| self.parts.get(at)) else {
            return Ok(None);
        };
        let (target, seal) = (Arc::clone(target), Arc::clone(seal));
        Records::read(target, seal, self.clear.epoch, vec![part.clone()]).find(path)
    }

    /// Its records.
    pub fn records(&self, target: &Arc<dyn Target>, seal: &Arc<dyn Seal>) -> Records {
        let (target, seal) = (Arc::clone(target), Arc::clone(seal));
        Records::read(target, seal, self.clear.epoch, self.parts.clone())
    }
}

/// A snapshot that lacks nothing but its top.
#[derive(Debug)]
pub struct Taken {
    files: u64,
    bytes: u64,
    parts: Vec<Part>,
    created_unix_ms: u64,
}

/// A pass of a moment ago.
#[derive(Debug)]
pub struct Ahead(super::advance::Advance);

impl Plan {
    fn parent(&self) -> Option<Records> {
        self.parent.as_ref().map(|parent| parent.records(&self.target, &self.seal))
    }

    /// The first pass; nothing where the disk's time can't be told.
    ///
    /// # Errors
    /// What can't be read or sent.
    pub fn ahead(&self) -> Result<Option<Ahead>, SnapshotError> {
        let Some(young) = disk_time(&self.store) else { return Ok(None) };
        let mut writer = AdvanceWriter::new(&self.store)?;
        let before = Before { parent: self.parent(), advance: None };
        let mut take = |record, seen| writer.push(&record, &seen);
        let scan = Scan::new(&self.pool, &self.outbox, before, Some(young), &mut take);
        scan.run(Walk::new(&self.store, &self.names, true)?)?;
        Ok(Some(Ahead(writer.finish()?)))
    }

    /// The pass that counts, while nobody writes.
    ///
    /// # Errors
    /// What can't be read or sent.
    pub fn take(&self, ahead: Option<Ahead>, created_unix_ms: u64) -> Result<Taken, SnapshotError> {
        let advance = ahead.map(|Ahead(advance)| advance);
        let before = Before { parent: self.parent(), advance };
        let (pool, outbox) = (Arc::clone(&self.pool), Arc::clone(&self.outbox));
        let mut parts = PartWriter::new(pool, outbox, Arc::clone(&self.seal));
        let mut take = |record, _| parts.push(&record);
        let scan = Scan::new(&self.pool, &self.outbox, before, None, &mut take);
        let (files, bytes) = scan.run(Walk::new(&self.store, &self.names, false)?)?;
        Ok(Taken { files, bytes, parts: parts.finish()?, created_unix_ms })
    }

    /// Holds back what is sent: see [`Outbox::defer`].
    ///
    /// # Errors
    /// There can be no spool.
    pub fn defer(&self) -> Result<(), SnapshotError> {
        self.outbox.defer(&self.store)
    }

    /// Sends what is left, and the top last. `check` is asked right before that.
    ///
    /// # Errors
    /// What can't be sent, and what `check` says.
    pub fn finish<E: From<SnapshotError>>(
        &self,
        taken: Taken,
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<(Clear, Moved), E> {
        self.outbox.release(&self.pool)?;
        self.target.sync().map_err(SnapshotError::from)?;
        let mut random = [0; 4];
        getrandom::fill(&mut random).expect("the system gives random bytes");
        let random = data_encoding::HEXLOWER.encode(&random);
        let time = Utc::from_unix_ms(taken.created_unix_ms).compact();
        let clear = Clear {
            format: FORMAT.to_owned(),
            id: format!("{ID_PREFIX}{time}-{random}"),
            volume_id: self.seal.volume_id(),
            created_unix_ms: taken.created_unix_ms,
            parent: self.parent.as_ref().map(|parent| parent.clear.id.clone()),
            epoch: self.seal.epoch(),
            files: taken.files,
            bytes: taken.bytes,
            sent_bytes: self.outbox.moved().sent_bytes,
            descriptor: self.descriptor.clone(),
        };
        let bound = snapshot::encode_clear(&clear);
        let sealed = self.seal.seal_top(&bound, &snapshot::encode_parts(&taken.parts));
        check()?;
        let key = top_key(clear.volume_id, &clear.id);
        let top = [&bound[..], &sealed].concat();
        let put = self.target.put_new(&key, &top).map_err(SnapshotError::from)?;
        // The same bytes are there where nobody answered, and it was tried again.
        let is_own = || self.target.get(&key, None).is_ok_and(|found| found == top);
        if put == Put::WasThere && !is_own() {
            return Err(SnapshotError::damaged(&key, "a snapshot of this name is there").into());
        }
        self.target.sync().map_err(SnapshotError::from)?;
        Ok((clear, self.outbox.moved()))
    }
}

/// What the top of a snapshot claims, and its bytes: nobody has checked it.
///
/// # Errors
/// No such snapshot, or no top.
pub fn claim(target: &dyn Target, key: &str) -> Result<(Clear, Vec<u8>), TargetError> {
    let bytes = target.get(key, None)?;
    let damaged = |found| TargetError::Damaged { key: key.to_owned(), found };
    let (clear, ..) = snapshot::decode_clear(&bytes).map_err(damaged)?;
    if top_key(clear.volume_id, &clear.id) != key {
        let found = format!("it is snapshot {} of volume {}", clear.id, clear.volume_id);
        return Err(damaged(format!("{found}, put in the place of another")));
    }
    Ok((clear, bytes))
}

/// A snapshot, by the bytes of its top.
///
/// # Errors
/// They are not authentic.
pub fn open(seal: &dyn Seal, key: &str, top: &[u8]) -> Result<Opened, TargetError> {
    let damaged = |found: &str| {
        let found = found.to_owned();
        TargetError::Damaged { key: key.to_owned(), found }
    };
    let (clear, bound, sealed) = snapshot::decode_clear(top).map_err(|found| damaged(&found))?;
    if clear.volume_id != seal.volume_id() || top_key(clear.volume_id, &clear.id) != key {
        return Err(damaged("it is of another volume, or another snapshot of this one"));
    }
    let parts = seal.open_top(clear.epoch, bound, sealed);
    let parts = parts.ok_or_else(|| damaged("it is not authentic"))?;
    let parts = snapshot::decode_parts(&parts).ok_or_else(|| damaged("it names no parts"))?;
    Ok(Opened { clear, parts })
}

/// Keys of the tops of a volume's snapshots, in the order in which they were taken.
///
/// # Errors
/// The target can't be listed.
pub fn tops(target: &dyn Target, volume_id: VolumeId) -> Result<Vec<String>, TargetError> {
    let mut keys = Vec::new();
    target.list(&top_key(volume_id, ID_PREFIX), &mut |listed| keys.push(listed.key))?;
    keys.sort();
    Ok(keys)
}

/// Names in a store that belong to the volume. `with_journal` takes the journal too, unless it has
/// nothing: a segment without a head has no record.
pub fn names(store: &Path, with_journal: bool) -> Vec<&'static str> {
    let mut names = vec!["links", "sessions", "tree"];
    let has_head = |segment: &str| {
        let mut head = [0; 8];
        let file = std::fs::File::open(store.join("journal").join(segment));
        file.and_then(|file| file.read_exact_at(&mut head, 0)).is_ok() && head != [0; 8]
    };
    if with_journal && ["0", "1"].into_iter().any(has_head) {
        names.push("journal");
    }
    names
}
