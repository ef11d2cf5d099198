//! Objects on their way to a target: each is sent once, and those that are there are not sent.
//!
//! While writers are held up, what has been read goes to a *spool*, a local file without a name,
//! and from there to the target when they go on: the pause must not wait for a network.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::format::bytes::to_usize;
use crate::format::ids::VolumeId;
use crate::format::snapshot::Hash;
use crate::object::error::{SnapshotError, local};
use crate::object::pool::{Later, Pool};
use crate::object::target::{
    Target, TargetError, get_checked, hash, hash_of, object_key, objects_prefix,
};

/// What was read and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// Bytes that were read from the store.
    pub read_bytes: u64,
    /// Bytes that were sent to the target.
    pub sent_bytes: u64,
    /// Objects that they were.
    pub sent_objects: u64,
    /// Those of them that took the place of damaged ones.
    pub repaired_objects: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    target: Arc<dyn Target>,
    volume_id: VolumeId,
    known: Mutex<HashSet<Hash>>,
    /// Objects that are there and damaged.
    damaged: Mutex<HashSet<Hash>>,
    spool: Mutex<Option<Spool>>,
    pace: Option<Pace>,
    read_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    sent_objects: AtomicU64,
    repaired_objects: AtomicU64,
}

#[derive(Debug)]
struct Spool {
    file: Arc<File>,
    len: u64,
    objects: Vec<(Hash, u64, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// Lists what the target has of the volume. `bytes_per_s` bounds what is sent.
    ///
    /// # Errors
    /// The target can't be listed.
    pub fn new(
        target: Arc<dyn Target>,
        volume_id: VolumeId,
        bytes_per_s: Option<u64>,
    ) -> Result<Self, TargetError> {
        let mut known = HashSet::new();
        target.list(&objects_prefix(volume_id), &mut |listed| {
            known.extend(hash_of(&listed.key));
        })?;
        Ok(Self {
            target,
            volume_id,
            known: Mutex::new(known),
            damaged: Mutex::new(HashSet::new()),
            spool: Mutex::new(None),
            pace: bytes_per_s.map(Pace::new),
            read_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            sent_objects: AtomicU64::new(0),
            repaired_objects: AtomicU64::new(0),
        })
    }

    /// Reads every object that the target has of the volume. Those that are not what their names
    /// say count as missing from then on, and what is sent in their place is written over them.
    ///
    /// # Errors
    /// The target's.
    pub fn inspect(&self, pool: &Pool) -> Result<(), SnapshotError> {
        let names: Vec<Hash> = lock(&self.known).iter().copied().collect();
        let mut reading: VecDeque<Later<Result<Option<Hash>, TargetError>>> = VecDeque::new();
        let settle = |reading: &mut VecDeque<Later<_>>, left: usize| {
            while reading.len() > left {
                let found = reading.pop_front().map_or(Ok(None), Later::wait)?;
                if let Some(name) = found {
                    tracing::warn!("{}: damaged", object_key(self.volume_id, &name));
                    lock(&self.known).remove(&name);
                    lock(&self.damaged).insert(name);
                }
            }
            Ok::<(), TargetError>(())
        };
        for name in names {
            let (target, volume_id) = (Arc::clone(&self.target), self.volume_id);
            reading.push_back(pool.run(move || match get_checked(&*target, volume_id, &name) {
                Ok(_) => Ok(None),
                Err(TargetError::Missing { .. } | TargetError::Damaged { .. }) => Ok(Some(name)),
                Err(error) => Err(error),
            }));
            settle(&mut reading, 2 * pool.width())?;
        }
        settle(&mut reading, 0)?;
        Ok(())
    }

    /// Whether the target has an object, or will have it.
    pub fn has(&self, wanted: &Hash) -> bool {
        lock(&self.known).contains(wanted)
    }

    /// Sends an object, unless it is there. Returns its name.
    ///
    /// # Errors
    /// The target's, or the spool's.
    pub fn send(&self, bytes: &[u8]) -> Result<Hash, SnapshotError> {
        let name = hash(bytes);
        if !lock(&self.known).insert(name) {
            return Ok(name);
        }
        let sent = match &mut *lock(&self.spool) {
            Some(spool) => spool.keep(name, bytes),
            None => Ok(false),
        };
        let sent = sent.and_then(|kept| if kept { Ok(()) } else { self.put(&name, bytes) });
        // It is not there: another try has to send it.
        if sent.is_err() {
            lock(&self.known).remove(&name);
        }
        sent?;
        Ok(name)
    }

    fn put(&self, name: &Hash, bytes: &[u8]) -> Result<(), SnapshotError> {
        if let Some(pace) = &self.pace {
            pace.take(bytes.len() as u64);
        }
        let key = object_key(self.volume_id, name);
        if lock(&self.damaged).contains(name) {
            self.target.put(&key, bytes)?;
            lock(&self.damaged).remove(name);
            self.repaired_objects.fetch_add(1, Ordering::Relaxed);
        } else {
            self.target.put_new(&key, bytes)?;
        }
        self.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.sent_objects.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// From now on objects go to a spool on the disk of `dir`.
    ///
    /// # Errors
    /// There can be none.
    pub fn defer(&self, dir: &Path) -> Result<(), SnapshotError> {
        let file = nameless(dir).map_err(local(b"spool", "can't make it"))?;
        let spool = Spool { file: Arc::new(file), len: 0, objects: Vec::new() };
        *lock(&self.spool) = Some(spool);
        Ok(())
    }

    /// Sends what is in the spool; objects go to the target again.
    ///
    /// # Errors
    /// The target's, or the spool's.
    pub fn release(self: &Arc<Self>, pool: &Pool) -> Result<(), SnapshotError> {
        let Some(spool) = lock(&self.spool).take() else { return Ok(()) };
        for group in spool.objects.chunks(pool.width()) {
            let send = |(name, at, len): &(Hash, u64, u64)| {
                let (outbox, file) = (Arc::clone(self), Arc::clone(&spool.file));
                let (name, at, len) = (*name, *at, to_usize(*len));
                pool.run(move || {
                    let mut bytes = vec![0; len];
                    let read = file.read_exact_at(&mut bytes, at);
                    read.map_err(local(b"spool", "can't read it"))?;
                    outbox.put(&name, &bytes)
                })
            };
            let sending: Vec<_> = group.iter().map(send).collect();
            sending.into_iter().try_for_each(Later::wait)?;
        }
        Ok(())
    }

    /// Counts what was read from the store.
    pub fn note_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was read and sent so far.
    pub fn moved(&self) -> Moved {
        Moved {
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            sent_objects: self.sent_objects.load(Ordering::Relaxed),
            repaired_objects: self.repaired_objects.load(Ordering::Relaxed),
        }
    }
}

impl Spool {
    fn keep(&mut self, name: Hash, bytes: &[u8]) -> Result<bool, SnapshotError> {
        let written = self.file.write_all_at(bytes, self.len);
        written.map_err(local(b"spool", "can't write to it"))?;
        self.objects.push((name, self.len, bytes.len() as u64));
        self.len += bytes.len() as u64;
        Ok(true)
    }
}

/// A file without a name on the disk of `dir`; where that can't be, in the directory for temporary
/// files.
///
/// # Errors
/// The system's.
pub(in crate::object) fn nameless(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let open = |dir: &Path| rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR);
    let opened = match open(dir) {
        Err(
            Errno::OPNOTSUPP
            | Errno::ISDIR
            | Errno::ACCESS
            | Errno::NOENT
            | Errno::ROFS
            | Errno::PERM,
        ) => open(&std::env::temp_dir()),
        opened => opened,
    };
    Ok(opened?.into())
}

/// Bounds bytes a second, over all threads.
#[derive(Debug)]
struct Pace {
    bytes_per_s: u64,
    /// When what was taken so far will have gone out.
    free_at: Mutex<Instant>,
}

impl Pace {
    fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), free_at: Mutex::new(Instant::now()) }
    }

    fn take(&self, bytes: u64) {
        let now = Instant::now();
        let wait = {
            let mut free_at = lock(&self.free_at);
            let begin = (*free_at).max(now);
            let micros = bytes.saturating_mul(1_000_000) / self.bytes_per_s;
            *free_at = begin + Duration::from_micros(micros);
            begin - now
        };
        std::thread::sleep(wait);
    }
}
