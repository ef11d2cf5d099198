//! What `status` shows of a volume. Names of fields are part of the command's promise: scripts
//! read them from `cmkfs status --json`.
//!
//! | field                 | meaning                                                         |
//! |-----------------------|-----------------------------------------------------------------|
//! | `volume_id`           | 32 hexadecimal digits                                           |
//! | `store`               | directory of the store                                          |
//! | `state`               | `mounted`, `stopped`, or `unreachable`: mounted, no answer      |
//! | `mountpoints`         | where it is mounted                                             |
//! | `created_unix_s`      | when `init` ran                                                 |
//! | `block_size`          | bytes of a block of new files                                   |
//! | `epochs`              | how many generations of keys there are                          |
//! | `slots`               | `id`, `provider` and `key` of each way to unwrap the volume key |
//! | `output_key`          | the key source for what leaves the volume, if there is one      |
//! | `holder`              | `pid`, `host`, `mountpoints`, `socket` and `started_unix_s` of  |
//! |                       | who says that it writes the volume, if no daemon answers here   |
//! | `daemon`              | only of a mounted volume, see [`DaemonReport`]                  |

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::file::{Durability, Volume};
use crate::format::descriptor::Descriptor;
use crate::format::{Slot, VolumeId};
use crate::fuse::{Latencies, MountOptions};
use crate::lifecycle::custody::{Custody, KeyState};
use crate::lifecycle::metrics::Address;
use crate::lifecycle::open::Access;
use crate::store::{Holder, Store};
use crate::sys::Protection;

pub use crate::file::Figures;
pub use crate::fuse::{ByClass, Latency};

/// One volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Id of the volume.
    pub volume_id: VolumeId,
    /// Directory of the store.
    pub store: PathBuf,
    /// Whether it is mounted.
    pub state: State,
    /// Where it is mounted.
    pub mountpoints: Vec<PathBuf>,
    /// When `init` ran, seconds since 1970 UTC.
    pub created_unix_s: u64,
    /// Bytes of a block of new files.
    pub block_size: u64,
    /// Generations of keys.
    pub epochs: usize,
    /// Ways to unwrap the volume key, without what is wrapped.
    pub slots: Vec<SlotReport>,
    /// The key under which what leaves the volume is to be encrypted, as a key source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_key: Option<String>,
    /// Who has it to write, as it says itself, where no daemon answers: on another machine, out of
    /// reach of this namespace, or a command. On a filesystem that nodes share it may be dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// Of a mounted volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon: Option<DaemonReport>,
}

/// Whether a volume is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its daemon answers.
    Mounted,
    /// Nobody has it mounted.
    Stopped,
    /// It is mounted, but its daemon does not answer.
    Unreachable,
}

/// A slot without its wrapped key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlotReport {
    /// Number of the slot.
    pub id: u32,
    /// `local`, `kms`, `file`, `fd` or `secretsmanager`.
    pub provider: String,
    /// ARN of the KMS key or of the secret, or path of the key file; empty for `fd`.
    pub key: String,
}

impl SlotReport {
    pub(in crate::lifecycle) fn of(slot: &Slot) -> Self {
        Self { id: slot.id, provider: slot.provider.clone(), key: slot.key.clone() }
    }
}

/// The process that serves a volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DaemonReport {
    /// Process id.
    pub pid: u32,
    /// Release of the program.
    pub release: String,
    /// Seconds since it began to serve.
    pub uptime_s: u64,
    /// Whether it is mounted for reading only.
    pub read_only: bool,
    /// How much has to survive a power cut: `strict` or `relaxed`.
    pub durability: Durability,
    /// Provider of the key in use: that of the slot, or `transient`.
    pub key_provider: String,
    /// What opened it: ARN of the KMS key or secret, path of the key file, or `fd:N`; empty for a
    /// transient key.
    pub key_id: String,
    /// Slot in use; none for a transient key.
    pub key_slot: Option<u32>,
    /// Whether the key may be used.
    pub key_state: KeyState,
    /// Why the key is not simply held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_reason: Option<String>,
    /// When that key was last proved to open the volume, seconds since 1970 UTC; none from a
    /// daemon of an earlier release.
    #[serde(default)]
    pub key_proved_unix_s: Option<u64>,
    /// Seconds between two requests for the key to KMS or Secrets Manager.
    #[serde(default)]
    pub key_recheck_s: Option<u64>,
    /// How long after the key was last proved the volume is locked if nobody answers; none for a
    /// key that is not of AWS.
    #[serde(default)]
    pub key_max_offline_s: Option<u64>,
    /// Whether its memory can't be swapped out.
    pub memory_locked: bool,
    /// Whether it leaves no core dump.
    pub core_dumps_off: bool,
    /// Bytes that the block cache may take.
    pub cache_budget_bytes: u64,
    /// Counters since it began to serve.
    pub figures: Figures,
    /// How long the kernel's requests took since it began to serve.
    #[serde(default)]
    pub latency: ByClass,
    /// Where its metrics are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Address>,
}

impl DaemonReport {
    /// Seconds since the key was last proved, at this time since 1970.
    pub fn key_age_s(&self, now_unix_s: u64) -> Option<u64> {
        self.key_proved_unix_s.map(|proved| now_unix_s.saturating_sub(proved))
    }
}

/// Slots of a description as `status` shows them.
pub fn slots(descriptor: &Descriptor) -> Vec<SlotReport> {
    descriptor.slots.iter().map(SlotReport::of).collect()
}

/// What a session's threads know together. Does not hold the volume itself, so that the session's
/// end drops it and zeroes its keys whatever connection is still open.
#[derive(Debug)]
pub(in crate::lifecycle) struct Shared {
    custody: Arc<Custody>,
    descriptor: Descriptor,
    store: Store,
    read_only: bool,
    protection: Protection,
    started: Instant,
    mountpoints: Mutex<Vec<PathBuf>>,
    /// Of each mount that there is or was.
    latencies: Mutex<Vec<Arc<Latencies>>>,
    metrics: OnceLock<Address>,
}

impl Shared {
    pub(in crate::lifecycle) fn new(
        custody: &Arc<Custody>,
        descriptor: &Descriptor,
        store: &Store,
        options: &MountOptions,
        protection: Protection,
    ) -> Self {
        Self {
            custody: Arc::clone(custody),
            descriptor: descriptor.clone(),
            store: store.clone(),
            read_only: options.read_only || custody.how().access == Access::Read,
            protection,
            started: Instant::now(),
            mountpoints: Mutex::default(),
            latencies: Mutex::default(),
            metrics: OnceLock::new(),
        }
    }

    /// The volume and its key.
    pub(in crate::lifecycle) fn custody(&self) -> &Arc<Custody> {
        &self.custody
    }

    /// The volume, as long as the session has it, and it is not locked.
    pub(in crate::lifecycle) fn volume(&self) -> Option<Arc<Volume>> {
        self.custody.volume()
    }

    pub(in crate::lifecycle) fn store(&self) -> &Path {
        self.store.path()
    }

    pub(in crate::lifecycle) fn volume_id(&self) -> VolumeId {
        self.descriptor.volume_id
    }

    pub(in crate::lifecycle) fn mountpoints(&self) -> Vec<PathBuf> {
        self.mountpoints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::lifecycle) fn add_mount(&self, path: &Path, latencies: Arc<Latencies>) {
        self.mountpoints.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(latencies);
    }

    /// Metrics are served there from now on.
    pub(in crate::lifecycle) fn set_metrics(&self, address: &Address) {
        self.metrics.get_or_init(|| address.clone());
    }

    fn latency(&self) -> ByClass {
        let mut sums = ByClass::new();
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.iter().for_each(|latencies| latencies.add_to(&mut sums));
        sums
    }

    pub(in crate::lifecycle) fn remove_mountpoint(&self, path: &Path) {
        let mut paths = self.mountpoints.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|other| other != path);
    }

    /// What is known without a look at the store; `None` once the volume has been closed.
    pub(in crate::lifecycle) fn daemon(&self) -> Option<DaemonReport> {
        if self.custody.has_ended() {
            return None;
        }
        let (key, tuning) = (self.custody.key(), self.custody.how().tuning);
        let of_aws = |span: Duration| key.info.is_of_aws().then_some(span.as_secs());
        let (key_recheck_s, key_max_offline_s) =
            (of_aws(tuning.key_recheck), of_aws(tuning.key_max_offline));
        Some(DaemonReport {
            pid: std::process::id(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            read_only: self.read_only,
            durability: tuning.durability,
            key_provider: key.info.provider,
            key_id: key.info.key_id,
            key_slot: key.info.slot,
            key_state: key.state,
            key_reason: key.reason,
            key_proved_unix_s: Some(key.info.proved_unix_s),
            key_recheck_s,
            key_max_offline_s,
            memory_locked: self.protection.no_swap,
            core_dumps_off: self.protection.no_core_files && self.protection.no_tracing,
            cache_budget_bytes: tuning.cache_bytes,
            figures: self.custody.figures(),
            latency: self.latency(),
            metrics: self.metrics.get().cloned(),
        })
    }

    /// `None` once the volume has been closed.
    pub(in crate::lifecycle) fn report(&self) -> Option<Report> {
        let daemon = self.daemon()?;
        // Slots may have changed since it was mounted.
        let now = self.store.read_descriptor().ok();
        let now = now.filter(|now| now.volume_id == self.descriptor.volume_id);
        let descriptor = now.as_ref().unwrap_or(&self.descriptor);
        Some(Report {
            mountpoints: self.mountpoints(),
            daemon: Some(daemon),
            ..of_store(self.store(), descriptor, State::Mounted)
        })
    }
}

/// What can be said of a store without its daemon.
pub fn of_store(store: &Path, descriptor: &Descriptor, state: State) -> Report {
    Report {
        volume_id: descriptor.volume_id,
        store: store.to_owned(),
        state,
        mountpoints: Vec::new(),
        created_unix_s: descriptor.created_unix_s,
        block_size: descriptor.block_size,
        epochs: descriptor.epochs.len(),
        slots: slots(descriptor),
        output_key: descriptor.output_key().map(str::to_owned),
        holder: None,
        daemon: None,
    }
}
