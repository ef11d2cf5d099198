//! What can go wrong in a verb. Each message says what was found, what was wanted and what to do,
//! and each variant has one exit code.

mod below;

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::file::FileError;
use crate::fs::FsError;
use crate::fuse::MountError;
use crate::keys::KeyError;
use crate::lifecycle::error::below::{fs_exit, io_exit, mount_exit, s3_exit, store_exit};
use crate::lifecycle::exit::Exit;
use crate::object::S3Error;
use crate::store::{LockError, StoreError, is_full};

/// Why a verb ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerbError {
    /// No usable store, or the store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else has the store.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// `volume.json` is not what the volume key authenticated.
    #[error("{path}/volume.json: {error}; restore it from a snapshot")]
    Untrusted {
        /// The store.
        path: PathBuf,
        /// Which check failed.
        error: crate::cipher::VolumeKeysError,
    },
    /// `init` with a key that would end with it.
    #[error(
        "a transient key is gone when init ends, and with it all data: \
         use `cmkfs run` or `cmkfs mount --role`, or another key source"
    )]
    TransientInit,
    /// A store with wrapped keys, where a transient key was asked for.
    #[error(
        "{0}: this volume has a key that is kept, a transient one can't open it: \
         leave out `--key`, name another store, or terminate this volume"
    )]
    TransientOpen(PathBuf),
    /// A volume where a new one was to be made.
    #[error("{0}: already a volume; name a new or an empty directory")]
    AlreadyAVolume(PathBuf),
    /// Ended on request before anything was mounted.
    #[error("{0}: told to end before anything was mounted")]
    Interrupted(PathBuf),
    /// `terminate` was interrupted there.
    #[error(
        "{0}: being terminated, nothing else can be done with it: run `cmkfs terminate {0}` again"
    )]
    Terminating(PathBuf),
    /// No such key slot.
    #[error("{store}: no key slot {wanted}, only {found}")]
    NoKeySlot {
        /// The store.
        store: PathBuf,
        /// The number that was wanted.
        wanted: u32,
        /// The slots that are there.
        found: String,
    },
    /// Not told which of several key slots.
    #[error("{store}: which of the key slots {found}? Name one by `--slot`")]
    WhichKeySlot {
        /// The store.
        store: PathBuf,
        /// The slots that are there.
        found: String,
    },
    /// The only way to open the volume.
    #[error(
        "{store}: key slot {slot} is the only one, nobody could open the volume without it: add \
         another first (`cmkfs key add`), or give it another key (`cmkfs key rewrap`)"
    )]
    LastKeySlot {
        /// The store.
        store: PathBuf,
        /// The slot.
        slot: u32,
    },
    /// Perhaps the only way to open the volume: no other slot did.
    #[error("{store}: key slot {slot} stays, since no other one opens the volume now: {error}")]
    KeySlotNeeded {
        /// The store.
        store: PathBuf,
        /// The slot.
        slot: u32,
        /// Why the others do not open.
        error: KeyError,
    },
    /// A new slot that nobody could open.
    #[error("{store}: nothing was changed, since the new key slot does not open: {error}")]
    NewSlotUnproved {
        /// The store.
        store: PathBuf,
        /// Why it does not.
        error: KeyError,
    },
    /// A slot that can't wrap the new volume key.
    #[error(
        "{store}: nothing was changed, since key slot {slot} can't take a new key: \
         {error}; try again when it can, or do without the slot (`cmkfs key remove`)"
    )]
    KeySlotUnreached {
        /// The store.
        store: PathBuf,
        /// Number of the slot, and ARN of its KMS key or path of its key file.
        slot: Box<str>,
        /// Why not.
        error: KeyError,
    },
    /// Work on the files that was begun is more than what is asked for.
    #[error(
        "{0}: a re-encryption was begun and is not done, which does more than `--rewrap`: \
         go on with it, by `cmkfs key rotate {0} --reencrypt`"
    )]
    Reencrypting(PathBuf),
    /// Somebody else is at the files.
    #[error("{0}: another `cmkfs key rotate` is at its files; wait for that, or end it")]
    Rekeying(PathBuf),
    /// A mount that writes over what it needs after a crash.
    #[error(
        "{0}: mounted with `--durability relaxed`, which can't be re-encrypted: a crash would lose \
         whole files; mount it with `--durability strict` for that, or unmount it"
    )]
    RelaxedReencrypt(PathBuf),
    /// What `volume.json` says is not of the keys that a mount has.
    #[error("{path}: {error}")]
    Unrelated {
        /// The store.
        path: PathBuf,
        /// Which check failed.
        error: crate::file::Unrelated,
    },
    /// Every number of an epoch was used.
    #[error("{0}: no number is left for another epoch")]
    NoEpochNumber(PathBuf),
    /// An output key that S3 could not encrypt under.
    #[error("output key {key}: {error}")]
    OutputKey {
        /// As it was named.
        key: String,
        /// What KMS says.
        error: KeyError,
    },
    /// No such grant.
    #[error(
        "{store}: no grant {wanted} for this volume; `cmkfs key grant list {store}` shows those \
         that KMS has"
    )]
    NoGrant {
        /// The store.
        store: PathBuf,
        /// What was asked for.
        wanted: String,
    },
    /// A volume that is destroyed but for its grants.
    #[error(
        "{store}: its keys are destroyed, but not all of its grants could be revoked, which open \
         nothing but copies of it: {error}; run `cmkfs terminate {store}` again"
    )]
    GrantsLeft {
        /// The store.
        store: PathBuf,
        /// What KMS says.
        error: Box<VerbError>,
    },
    /// Every number of a slot was used.
    #[error("{0}: no number is left for another key slot; `cmkfs key rewrap` needs none")]
    NoSlotNumber(PathBuf),
    /// A store that its own mount hides.
    #[error("{store}: hidden by what is mounted at {mountpoint}; unmount it first")]
    Hidden {
        /// The store.
        store: PathBuf,
        /// Where it is mounted.
        mountpoint: PathBuf,
    },
    /// A store that can't be changed, wanted for changes.
    #[error("{path}: can't be changed ({error}); `cmkfs mount --read-only` mounts it as it is")]
    ReadOnlyStore {
        /// The store.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A mountpoint that is not UTF-8.
    #[error("mountpoint {0:?}: its path is not UTF-8; choose another place")]
    NotText(PathBuf),
    /// A mountpoint inside the store, or the other way round.
    #[error("mountpoint {0}: store and mountpoint lie inside each other; choose another place")]
    Nested(PathBuf),
    /// No mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Not one of ours.
    #[error("{0}: no cmkfs mount; `cmkfs status` lists those that are there")]
    NotMounted(PathBuf),
    /// In use.
    #[error("{path}: busy{}; end what uses it, then try again", named(processes))]
    Busy {
        /// The mountpoint.
        path: PathBuf,
        /// Name and id of processes that use it, as far as they can be seen.
        processes: Vec<String>,
    },
    /// Its key can't be had again.
    #[error(
        "{0}: its key is transient, in the memory of its daemon alone: locked, nobody could ever \
         unlock it; `cmkfs stop` and `cmkfs terminate` end it"
    )]
    TransientLock(PathBuf),
    /// A volume that was locked and is still used.
    #[error("{0}: something begun before the lock, as a snapshot, still uses it; try again then")]
    StillUsed(PathBuf),
    /// The volume is locked.
    #[error("{0}: locked, `cmkfs status {0}` says why; `cmkfs unlock {0}` gives it its key again")]
    Locked(PathBuf),
    /// The volume is mounted, and the verb wants it stopped.
    #[error("{store}: mounted at {mountpoint}; run `cmkfs stop {store}` first")]
    Mounted {
        /// The store.
        store: PathBuf,
        /// Where.
        mountpoint: PathBuf,
    },
    /// An object in a volume.
    #[error("{path}: {error}")]
    File {
        /// Path as given.
        path: PathBuf,
        /// Why.
        error: FsError,
    },
    /// No such object in the volume, or one of another kind.
    #[error("{path}: {found}")]
    NoPath {
        /// Path as given.
        path: PathBuf,
        /// What is there instead, and what was wanted.
        found: String,
    },
    /// A system call on a path that is not inside a volume.
    #[error("{path}: {action}: {error}")]
    Local {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// A mount answered with an input/output error.
    #[error("{0}: the mount can't read it: stored data is damaged; the daemon's log says what")]
    DamagedBehindMount(PathBuf),
    /// The snapshot target can't be used.
    #[error("{path}: {found}; wanted a directory for snapshots outside of the volume")]
    SnapshotTarget {
        /// The target.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// No such snapshot.
    #[error("{target}: no snapshot {wanted}; `cmkfs snapshot list {target}` shows what is there")]
    NoSnapshot {
        /// The target.
        target: PathBuf,
        /// What was asked for.
        wanted: String,
    },
    /// Stored bytes of a snapshot are not what its manifest says.
    #[error("snapshot {path}: {found}; use another snapshot")]
    SnapshotDamaged {
        /// The snapshot.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// The key of a snapshot's volume can't be had by the description in it.
    #[error("snapshot {path}: {error}")]
    SnapshotKey {
        /// The snapshot.
        path: PathBuf,
        /// Why not.
        error: KeyError,
    },
    /// A snapshot of version 1, for which there is no such verb.
    #[error(
        "{target}: {id} was made by an earlier release, nothing in it is sealed: restore it, and \
         take a new one"
    )]
    OldSnapshot {
        /// The target.
        target: PathBuf,
        /// Which.
        id: String,
    },
    /// A volume that nobody could open.
    #[error(
        "{0}: its key is transient, in the memory of its daemon alone: nobody could ever open a \
         snapshot of it; give it a key that is kept (`cmkfs init --key`)"
    )]
    TransientSnapshot(PathBuf),
    /// S3 said no, or the way there.
    #[error(transparent)]
    S3(Box<S3Error>),
    /// A key of the bucket's under no key.
    #[error(
        "--bucket-key: no KMS key to encrypt under: wanted --output-key, an output key of the \
         volume (`cmkfs init --output-key`), or --sse kms for the key that AWS manages"
    )]
    NoOutputKey,
    /// Another command writes there.
    #[error("{0}")]
    SnapshotHeld(String),
    /// The disk of a target said no.
    #[error("snapshot target {path}: {action}: {error}")]
    TargetIo {
        /// The object.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// Something final was not confirmed.
    #[error("{0}")]
    NotConfirmed(String),
    /// Nothing can listen there.
    #[error("metrics at {address}: can't listen there: {error}; name another address, or port 0")]
    NoMetrics {
        /// As it was named.
        address: String,
        /// The system's answer.
        error: io::Error,
    },
    /// The daemon's own error, told by it.
    #[error("{text}")]
    Daemon {
        /// Its exit code.
        code: u8,
        /// Its message.
        text: String,
    },
    /// What a crash left in the journal can't be brought to its place.
    #[error(
        "{path}: {error}: what was synced last is in the journal, and takes some MiB of the \
         store's disk before the volume can be opened to be read or written; make room there, \
         beside the volume or through a mount that may write, and try again: nothing is lost"
    )]
    JournalFull {
        /// The store.
        path: PathBuf,
        /// The system's.
        error: io::Error,
    },
    /// The daemon does not answer as it should.
    #[error("daemon of {store}: {found}; its log is in {}", crate::config::state_dir().display())]
    Silent {
        /// The store.
        store: PathBuf,
        /// What happened instead.
        found: String,
    },
}

/// Opening a volume to write failed, or bringing all of it to its place.
pub(in crate::lifecycle) fn unopened(path: &Path, error: FileError) -> VerbError {
    match error {
        FileError::Sys(error) if is_full(error) => {
            VerbError::JournalFull { path: path.to_owned(), error: error.into() }
        }
        error => VerbError::file(path)(error),
    }
}

fn named(processes: &[String]) -> String {
    match processes {
        [] => String::new(),
        _ => format!(", used by {}", processes.join(", ")),
    }
}

impl VerbError {
    /// For `map_err`: a failed system call on a path.
    pub fn local<E: Into<io::Error>>(path: &Path, action: &'static str) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |error| Self::Local { path, action, error: error.into() }
    }

    /// Bringing files under new keys failed.
    pub(in crate::lifecycle) fn rekey(store: &Path, error: FileError) -> Self {
        match error {
            FileError::NotSupported => Self::RelaxedReencrypt(store.to_owned()),
            FileError::Sys(Errno::BUSY) => Self::Rekeying(store.to_owned()),
            error => Self::file(store)(error),
        }
    }

    /// A volume that is locked, where it has to be open.
    pub fn locked(store: &Path) -> Self {
        Self::Locked(store.to_owned())
    }

    /// For `map_err`: an object of a volume.
    pub fn file<E: Into<FsError>>(path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |error| Self::File { path, error: error.into() }
    }

    /// The exit code of this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Key(error)
            | Self::KeySlotNeeded { error, .. }
            | Self::KeySlotUnreached { error, .. }
            | Self::OutputKey { error, .. }
            | Self::SnapshotKey { error, .. }
            | Self::NewSlotUnproved { error, .. } => error.exit_code(),
            Self::GrantsLeft { error, .. } => error.exit_code(),
            Self::Daemon { code, .. } => *code,
            _ => self.exit().code(),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => store_exit(error),
            Self::Lock(LockError::Held { .. }) | Self::Mounted { .. } | Self::Hidden { .. } => {
                Exit::InUse
            }
            Self::Reencrypting(_) | Self::Rekeying(_) | Self::RelaxedReencrypt(_) => Exit::InUse,
            Self::Lock(LockError::Sys { error, .. }) | Self::JournalFull { error, .. } => {
                io_exit(error, Exit::StoreFailed)
            }
            Self::Key(_)
            | Self::KeySlotNeeded { .. }
            | Self::KeySlotUnreached { .. }
            | Self::SnapshotKey { .. }
            | Self::NewSlotUnproved { .. }
            | Self::OutputKey { .. }
            | Self::TransientInit
            | Self::TransientOpen(_)
            | Self::TransientLock(_) => Exit::BadKeySource,
            Self::Locked(_) | Self::StillUsed(_) => Exit::Locked,
            Self::NoKeySlot { .. }
            | Self::WhichKeySlot { .. }
            | Self::NoSlotNumber(_)
            | Self::NoEpochNumber(_) => Exit::NoKeySlot,
            Self::NoGrant { .. } => Exit::NoGrant,
            Self::GrantsLeft { error, .. } => error.exit(),
            Self::LastKeySlot { .. } => Exit::LastKeySlot,
            Self::Untrusted { .. } | Self::Unrelated { .. } => Exit::BadDescriptor,
            Self::AlreadyAVolume(_) => Exit::NotEmpty,
            Self::Interrupted(_) => Exit::Unexpected,
            Self::Terminating(_) => Exit::NotAStore,
            Self::ReadOnlyStore { error, .. } => io_exit(error, Exit::StoreFailed),
            Self::NotText(_) | Self::Nested(_) => Exit::NoMountpoint,
            Self::Mount(error) => mount_exit(error),
            Self::NotMounted(_) => Exit::NotMounted,
            Self::Busy { .. } => Exit::Busy,
            Self::File { error, .. } => fs_exit(error),
            Self::NoPath { .. } => Exit::NoPath,
            Self::Local { error, .. } => io_exit(error, Exit::Unexpected),
            Self::DamagedBehindMount(_) => Exit::Damaged,
            Self::TransientSnapshot(_) => Exit::BadKeySource,
            Self::SnapshotHeld(_) => Exit::SnapshotHeld,
            Self::S3(error) => s3_exit(error.failure),
            Self::NoOutputKey => Exit::Usage,
            Self::TargetIo { error, .. } => io_exit(error, Exit::SnapshotTarget),
            Self::SnapshotTarget { .. } | Self::OldSnapshot { .. } => Exit::SnapshotTarget,
            Self::NoSnapshot { .. } => Exit::NoSnapshot,
            Self::SnapshotDamaged { .. } => Exit::SnapshotDamaged,
            Self::NotConfirmed(_) => Exit::NotConfirmed,
            Self::NoMetrics { .. } => Exit::NoMetrics,
            Self::Daemon { .. } | Self::Silent { .. } => Exit::Unexpected,
        }
    }
}
