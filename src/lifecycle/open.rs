//! Opens a volume: lock, description, one call for its key, then the volume itself.

use std::io::ErrorKind;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::cipher::{Secret, VolumeKeys};
use crate::file::{Durability, FileError, Volume, VolumeOptions};
use crate::format::descriptor::Descriptor;
use crate::keys::{self, Context, KeySource};
use crate::lifecycle::error::{VerbError, unopened};
use crate::lifecycle::init::unix_s;
use crate::lifecycle::{mounts, renewal, terminate};
use crate::limits::{
    CACHE_BYTES_DEFAULT, KEY_MAX_OFFLINE_DEFAULT, KEY_RECHECK_DEFAULT, LEASE_INTERVAL, LOCK_WAIT,
    OPEN_DIRS_DEFAULT,
};
use crate::store::{HeldHow, Holder, LockError, LockMode, Standing, Store, StoreLock};

/// What a volume is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read, beside readers and a writer: takes no lock.
    Read,
    /// To write, beside readers.
    Write,
}

/// How an open volume behaves.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Bytes of the block cache.
    pub cache_bytes: u64,
    /// Threads of the cipher pool and of each mount; `None`: one a core.
    pub threads: Option<NonZero<usize>>,
    /// Directories that stay open.
    pub open_dirs: NonZero<usize>,
    /// How much has to survive a power cut.
    pub durability: Durability,
    /// Between two renewals of the lease of a volume that is open for writing.
    pub lease_interval: Duration,
    /// Between two requests to KMS for the key of a mounted volume.
    pub key_recheck: Duration,
    /// How long a mounted volume is served while KMS does not answer.
    pub key_max_offline: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES_DEFAULT,
            threads: None,
            open_dirs: OPEN_DIRS_DEFAULT,
            durability: Durability::default(),
            lease_interval: LEASE_INTERVAL,
            key_recheck: KEY_RECHECK_DEFAULT,
            key_max_offline: KEY_MAX_OFFLINE_DEFAULT,
        }
    }
}

/// What is known of the key in use: never the key.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// `local`, `kms`, `file`, `fd`, `secretsmanager` or `transient`.
    pub provider: String,
    /// ARN of the KMS key or secret, path of the key file, or `fd:N`; empty for a transient key.
    pub key_id: String,
    /// Slot that was opened; `None` for a transient key.
    pub slot: Option<u32>,
    /// When the key was proved to be this volume's, seconds since 1970 UTC.
    pub proved_unix_s: u64,
}

impl KeyInfo {
    /// Whether AWS was asked for it, and can be again.
    pub fn is_of_aws(&self) -> bool {
        self.provider == keys::KMS || keys::is_secret_arn(&self.key_id)
    }
}

/// How a volume was opened, to open it again.
#[derive(Clone, Debug)]
pub struct How {
    /// Key source instead of what its slots say.
    pub source: Option<KeySource>,
    /// What for.
    pub access: Access,
    /// How it behaves.
    pub tuning: Tuning,
}

/// An open volume. Dropped in this order: the volume zeroes its keys, then the lock goes.
#[derive(Debug)]
pub struct Opened {
    /// The volume.
    pub volume: Arc<Volume>,
    /// Its description.
    pub descriptor: Descriptor,
    /// Which key opened it.
    pub key: KeyInfo,
    /// How it was opened.
    pub how: How,
    /// The store's directory, without links and dots.
    pub path: PathBuf,
    /// The store itself, also if a mount hides it later.
    pub store: Store,
    /// Keeps other writers out of a volume that is open for writing.
    pub lock: Option<StoreLock>,
}

/// The store at a path, without links and dots.
///
/// # Errors
/// No store there, or one that is being terminated.
pub fn find_store(path: &Path) -> Result<Store, VerbError> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if real.join(terminate::MARKER_NAME).symlink_metadata().is_ok() {
        return Err(VerbError::Terminating(real));
    }
    Ok(Store::open(&real)?)
}

/// Opens the volume in a store. `key` replaces what its slots say, as for a key file that moved.
///
/// # Errors
/// See [`VerbError`].
pub fn open(
    path: &Path,
    key: Option<&KeySource>,
    access: Access,
    tuning: &Tuning,
) -> Result<Opened, VerbError> {
    if access == Access::Read {
        return read(path, key, tuning, |_| false);
    }
    let store = find_store(path)?;
    // Refused before anybody is waited for, and read again under the lock.
    store.read_descriptor()?;
    let lock = lock_renewing(&store, tuning.lease_interval)?;
    let descriptor = store.read_descriptor()?;
    let (secret, info) = unwrap_of(&store, &descriptor, key)?;
    let how = How { source: key.cloned(), access, tuning: *tuning };
    finish(&store, Some(lock), descriptor, &secret, info, how)
}

/// Opens the volume in a store to look at all of it once. What a crash has left in the journal is
/// brought to its place; where the disk has no room for that it is read from the journal, and the
/// volume is locked meanwhile.
///
/// # Errors
/// See [`VerbError`].
pub fn open_to_look(
    path: &Path,
    key: Option<&KeySource>,
    tuning: &Tuning,
) -> Result<Opened, VerbError> {
    read(path, key, tuning, Volume::is_waiting)
}

/// Opens the volume to read it, once a writer that did not come to its end has nothing left in the
/// journal. If that had to be done, what did it is returned instead where it is `wanted`.
fn read(
    path: &Path,
    key: Option<&KeySource>,
    tuning: &Tuning,
    wanted: fn(&Volume) -> bool,
) -> Result<Opened, VerbError> {
    let store = find_store(path)?;
    let descriptor = store.read_descriptor()?;
    let (secret, info) = unwrap_of(&store, &descriptor, key)?;
    let how = How { source: key.cloned(), access: Access::Read, tuning: *tuning };
    let found = finish(&store, None, descriptor.clone(), &secret, info.clone(), how.clone())?;
    if !found.volume.is_behind() {
        return Ok(found);
    }
    let Some(recovered) = recovered(&store, &secret, tuning)? else { return Ok(found) };
    if wanted(&recovered.volume) {
        return Ok(recovered);
    }
    if recovered.volume.is_waiting() {
        return Err(unopened(store.path(), FileError::Sys(Errno::NOSPC)));
    }
    // It has written what is read now.
    drop((found, recovered));
    finish(&store, None, descriptor, &secret, info, how)
}

/// As [`unwrap`], unless the key is one that no volume keeps.
fn unwrap_of(
    store: &Store,
    descriptor: &Descriptor,
    key: Option<&KeySource>,
) -> Result<(Secret, KeyInfo), VerbError> {
    if matches!(key, Some(KeySource::Transient)) {
        return Err(VerbError::TransientOpen(store.path().to_owned()));
    }
    unwrap(descriptor, key)
}

/// The volume key by a description's slots, and which it was.
fn unwrap(
    descriptor: &Descriptor,
    source: Option<&KeySource>,
) -> Result<(Secret, KeyInfo), VerbError> {
    let context = Context { volume_id: descriptor.volume_id, pairs: &descriptor.context };
    let opened = keys::open(&descriptor.slots, source, &context)?;
    let (provider, key_id, slot) = (opened.provider, opened.key_id, Some(opened.slot));
    Ok((opened.key, KeyInfo { provider, key_id, slot, proved_unix_s: unix_s() }))
}

/// Asks for the key as opening would, and proves that it is this volume's. Opens no volume, and
/// returns the keys that one would have.
///
/// # Errors
/// No key, or one that is not the volume's.
pub fn prove(
    store: &Store,
    source: Option<&KeySource>,
) -> Result<(VolumeKeys, KeyInfo), VerbError> {
    let prove = |descriptor: &Descriptor| {
        let (key, info) = unwrap(descriptor, source)?;
        let keys = VolumeKeys::open(&key, descriptor)
            .map_err(|error| VerbError::Untrusted { path: store.path().to_owned(), error })?;
        Ok((keys, info))
    };
    let descriptor = store.read_descriptor()?;
    prove(&descriptor).or_else(|error| match store.read_descriptor() {
        // Meanwhile the slot went to another key, and its old one was disabled.
        Ok(now) if now != descriptor => prove(&now),
        _ => Err(error),
    })
}

/// Opens a volume again that this process has closed and whose lock it has kept, if it writes.
///
/// # Errors
/// See [`VerbError`].
pub fn again(
    store: &Store,
    how: &How,
    standing: Option<Standing>,
) -> Result<(Arc<Volume>, KeyInfo), VerbError> {
    let descriptor = store.read_descriptor()?;
    let (key, info) = unwrap(&descriptor, how.source.as_ref())?;
    Ok((enter(store, &descriptor, &key, how, standing)?, info))
}

/// Brings to its place what a writer left in the journal that did not come to its end. `None` if it
/// did not: beside a writer, whose journal it is, where nothing can be written, and where a writer
/// of another machine would have to be watched first.
///
/// # Errors
/// [`VerbError::JournalFull`]: what is in its place is older than what was synced.
fn recovered(store: &Store, key: &Secret, tuning: &Tuning) -> Result<Option<Opened>, VerbError> {
    let locked = store.lock_unwatched().and_then(|mut lock| {
        // It writes, so it says so: flock(2) may not keep out another machine.
        lock.describe(&holder(Vec::new(), None))?;
        Ok(lock)
    });
    let opened = locked.ok().map(|lock| open_locked(store, key, tuning, Some(lock)));
    match opened {
        Some(Ok(opened)) => return Ok(Some(opened)),
        Some(Err(error @ VerbError::JournalFull { .. })) => return Err(error),
        _ => {}
    }
    tracing::debug!("the journal has changes that are not in their place; they are not seen");
    Ok(None)
}

fn open_locked(
    store: &Store,
    key: &Secret,
    tuning: &Tuning,
    lock: Option<StoreLock>,
) -> Result<Opened, VerbError> {
    let descriptor = store.read_descriptor()?;
    let slot = descriptor.slots.first();
    let info = KeyInfo {
        provider: slot.map_or("transient", |slot| slot.provider.as_str()).to_owned(),
        key_id: slot.map(|slot| slot.key.clone()).unwrap_or_default(),
        slot: slot.map(|slot| slot.id),
        proved_unix_s: unix_s(),
    };
    let how = How { source: None, access: Access::Write, tuning: *tuning };
    finish(store, lock, descriptor, key, info, how)
}

/// Opens a volume with its key at hand: one just made.
///
/// # Errors
/// See [`VerbError`].
pub fn open_with(path: &Path, key: &Secret, tuning: &Tuning) -> Result<Opened, VerbError> {
    let store = find_store(path)?;
    let lock = Some(lock_renewing(&store, tuning.lease_interval)?);
    open_locked(&store, key, tuning, lock)
}

fn finish(
    store: &Store,
    lock: Option<StoreLock>,
    descriptor: Descriptor,
    key: &Secret,
    info: KeyInfo,
    how: How,
) -> Result<Opened, VerbError> {
    let standing = lock.as_ref().and_then(StoreLock::standing);
    let volume = enter(store, &descriptor, key, &how, standing)?;
    let (path, store) = (store.path().to_owned(), store.clone());
    Ok(Opened { volume, descriptor, key: info, how, path, store, lock })
}

fn enter(
    store: &Store,
    descriptor: &Descriptor,
    key: &Secret,
    how: &How,
    standing: Option<Standing>,
) -> Result<Arc<Volume>, VerbError> {
    let (path, tuning) = (store.path().to_owned(), &how.tuning);
    let keys = VolumeKeys::open(key, descriptor)
        .map_err(|error| VerbError::Untrusted { path: path.clone(), error })?;
    let options = VolumeOptions {
        cache_bytes: usize::try_from(tuning.cache_bytes).unwrap_or(usize::MAX),
        read_only: how.access == Access::Read,
        threads: tuning.threads,
        open_dirs: tuning.open_dirs,
        durability: tuning.durability,
    };
    let volume = Volume::open_while(store, keys, descriptor, &options, standing);
    let volume = volume.map_err(|error| unopened(&path, error))?;
    if options.read_only {
        renewal::install(&volume, store, how.source.as_ref());
    }
    Ok(volume)
}

/// Takes the store's lock to write, and says in it who has it. A holder whose mount is up is
/// refused at once; one without a mount is starting or leaving, and is waited for.
///
/// # Errors
/// The holder that stays.
pub fn lock(store: &Store) -> Result<StoreLock, VerbError> {
    lock_renewing(store, LEASE_INTERVAL)
}

fn lock_renewing(store: &Store, interval: Duration) -> Result<StoreLock, VerbError> {
    rustix::fs::access(store.path(), rustix::fs::Access::WRITE_OK).map_err(|error| {
        VerbError::ReadOnlyStore { path: store.path().to_owned(), error: error.into() }
    })?;
    let mut lock =
        patiently(store, |patience| store.lock_renewing(LockMode::Exclusive, patience, interval))?;
    lock.describe(&holder(Vec::new(), None))?;
    Ok(lock)
}

/// Takes the store's lock so that nobody writes, which needs no right to write oneself.
///
/// # Errors
/// The writer that stays.
pub fn lock_still(store: &Store) -> Result<StoreLock, VerbError> {
    patiently(store, |patience| store.lock(LockMode::Shared, patience))
}

fn patiently(
    store: &Store,
    lock: impl Fn(Duration) -> Result<StoreLock, LockError>,
) -> Result<StoreLock, VerbError> {
    Ok(match lock(Duration::ZERO) {
        Err(LockError::Held { how, holder, .. })
            if how != HeldHow::Renewing && !is_up(store.path(), holder.as_deref()) =>
        {
            lock(LOCK_WAIT)?
        }
        first => first?,
    })
}

/// Whether a holder serves a mount, as far as can be seen from here.
fn is_up(store: &Path, holder: Option<&Holder>) -> bool {
    let Some(holder) = holder.filter(|holder| !holder.mountpoints.is_empty()) else { return false };
    let is_here = holder.host == host();
    let there = mounts::of_store(store).unwrap_or_default();
    !is_here || holder.mountpoints.iter().any(|mountpoint| there.contains(mountpoint))
}

/// Whether there is no room, by the disk or by a quota.
pub(in crate::lifecycle) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What this process writes into a lock that it holds.
pub fn holder(mountpoints: Vec<PathBuf>, socket: Option<PathBuf>) -> Holder {
    let (pid, host) = (std::process::id(), host());
    Holder { pid, host, mountpoints, socket, started_unix_s: unix_s() }
}
