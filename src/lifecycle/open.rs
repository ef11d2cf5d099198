//! Opens a volume: lock, description, one call for its key, then the volume itself.

use std::io::ErrorKind;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cipher::{Secret, VolumeKeys};
use crate::file::{Durability, Volume, VolumeOptions};
use crate::format::descriptor::Descriptor;
use crate::keys::{self, Context, KeySource};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::init::unix_s;
use crate::lifecycle::{mounts, terminate};
use crate::limits::{CACHE_BYTES_DEFAULT, LOCK_WAIT, OPEN_DIRS_DEFAULT};
use crate::store::{Holder, LockError, LockMode, Store, StoreLock};

/// What a volume is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read, beside other readers.
    Read,
    /// To write, alone.
    Write,
}

impl Access {
    fn lock_mode(self) -> LockMode {
        match self {
            Self::Read => LockMode::Shared,
            Self::Write => LockMode::Exclusive,
        }
    }
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
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES_DEFAULT,
            threads: None,
            open_dirs: OPEN_DIRS_DEFAULT,
            durability: Durability::default(),
        }
    }
}

/// What is known of the key in use: never the key.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// `local`, `kms`, `file` or `transient`.
    pub provider: String,
    /// ARN of the KMS key or path of the key file; empty for a transient key.
    pub key_id: String,
    /// Slot that was opened; `None` for a transient key.
    pub slot: Option<u32>,
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
    /// The store's directory, without links and dots.
    pub path: PathBuf,
    /// Keeps others out.
    pub lock: StoreLock,
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
    let store = find_store(path)?;
    // Refused before anybody is waited for, and read again under the lock.
    store.read_descriptor()?;
    let lock = lock(&store, access)?;
    let descriptor = store.read_descriptor()?;
    if matches!(key, Some(KeySource::Transient)) {
        return Err(VerbError::TransientOpen(store.path().to_owned()));
    }
    let context = Context { volume_id: descriptor.volume_id, pairs: &descriptor.context };
    let opened = keys::open(&descriptor.slots, key, &context)?;
    let info =
        KeyInfo { provider: opened.provider, key_id: opened.key_id, slot: Some(opened.slot) };
    finish(store, lock, descriptor, &opened.key, info, access, tuning)
}

/// Opens a volume with its key at hand: one just made.
///
/// # Errors
/// See [`VerbError`].
pub fn open_with(path: &Path, key: &Secret, tuning: &Tuning) -> Result<Opened, VerbError> {
    let store = find_store(path)?;
    let lock = lock(&store, Access::Write)?;
    let descriptor = store.read_descriptor()?;
    let slot = descriptor.slots.first();
    let info = KeyInfo {
        provider: slot.map_or("transient", |slot| slot.provider.as_str()).to_owned(),
        key_id: slot.map(|slot| slot.key.clone()).unwrap_or_default(),
        slot: slot.map(|slot| slot.id),
    };
    finish(store, lock, descriptor, key, info, Access::Write, tuning)
}

fn finish(
    store: Store,
    lock: StoreLock,
    descriptor: Descriptor,
    key: &Secret,
    info: KeyInfo,
    access: Access,
    tuning: &Tuning,
) -> Result<Opened, VerbError> {
    let path = store.path().to_owned();
    let keys = VolumeKeys::open(key, &descriptor)
        .map_err(|error| VerbError::Untrusted { path: path.clone(), error })?;
    let options = VolumeOptions {
        cache_bytes: usize::try_from(tuning.cache_bytes).unwrap_or(usize::MAX),
        read_only: access == Access::Read,
        threads: tuning.threads,
        open_dirs: tuning.open_dirs,
        durability: tuning.durability,
    };
    let volume =
        Volume::open(&store, keys, &descriptor, &options).map_err(VerbError::file(&path))?;
    Ok(Opened { volume, descriptor, key: info, path, lock })
}

/// Takes the store's lock, and says in it who has it. A holder whose mount is up is refused at
/// once; one without a mount is starting or leaving, and is waited for.
///
/// # Errors
/// The holder that stays.
pub fn lock(store: &Store, access: Access) -> Result<StoreLock, VerbError> {
    if access == Access::Write {
        rustix::fs::access(store.path(), rustix::fs::Access::WRITE_OK).map_err(|error| {
            VerbError::ReadOnlyStore { path: store.path().to_owned(), error: error.into() }
        })?;
    }
    let mode = access.lock_mode();
    let lock = match store.lock(mode, Duration::ZERO) {
        Err(LockError::Held { .. }) if !is_mounted(store.path()) => store.lock(mode, LOCK_WAIT),
        first => first,
    };
    let mut lock = lock?;
    let holder = holder(Vec::new(), None);
    match lock.describe(&holder) {
        // The lock holds without its text, and a store on a full disk can still be terminated.
        Err(error) if is_full(&error) => {
            tracing::warn!("{}/lock: {error}: not told who has it", store.path().display());
        }
        told => told.map_err(VerbError::local(store.path(), "can't write its lock file"))?,
    }
    Ok(lock)
}

/// Whether there is no room, by the disk or by a quota.
pub(in crate::lifecycle) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn is_mounted(store: &Path) -> bool {
    mounts::of_store(store).is_ok_and(|mountpoints| !mountpoints.is_empty())
}

/// What this process writes into a lock that it holds.
pub fn holder(mountpoints: Vec<PathBuf>, socket: Option<PathBuf>) -> Holder {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Holder { pid: std::process::id(), host, mountpoints, socket, started_unix_s: unix_s() }
}
