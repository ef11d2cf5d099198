//! `key status`: slots, and what the mounts of the volume know of them. Names of fields are part
//! of the command's promise: scripts read them from `cmkfs key status --json`.
//!
//! What `volume.json` says is a claim here: no key is asked for.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::format::{Descriptor, Epoch, VolumeId, Work};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::locate::describe;
use crate::lifecycle::report::{Report, State};
use crate::lifecycle::status;

/// The keys of a volume.
#[derive(Debug, Serialize)]
pub struct KeyStatus {
    /// Id of the volume.
    pub volume_id: VolumeId,
    /// Directory of the store.
    pub store: PathBuf,
    /// Whether it is mounted.
    pub state: State,
    /// Generations of keys.
    pub epochs: usize,
    /// The one of what is made new.
    pub epoch: Epoch,
    /// Work on the files of earlier ones that was begun and is not done; run
    /// `key rotate` with it to go on.
    pub pending: Option<Work>,
    /// Ways to unwrap the volume key; none for a transient one.
    pub slots: Vec<SlotStatus>,
    /// The key under which what leaves the volume is to be encrypted, as a key source.
    pub output_key: Option<String>,
    /// Mounts whose daemon answers here.
    pub daemons: Vec<DaemonKey>,
}

/// One way to unwrap the volume key.
#[derive(Debug, Serialize)]
pub struct SlotStatus {
    /// Number of the slot.
    pub id: u32,
    /// `local`, `kms` or `file`.
    pub provider: String,
    /// ARN of the KMS key, or path of the key file.
    pub key: String,
    /// Whether one of `daemons` opened the volume by this slot.
    pub in_use: bool,
    /// When a daemon last proved its key by this slot as it is now, under this key, seconds since
    /// 1970 UTC; null if no daemon knows.
    pub last_used_unix_s: Option<u64>,
}

/// By which key a daemon opened the volume.
#[derive(Debug, Serialize)]
pub struct DaemonKey {
    /// Its process id.
    pub pid: u32,
    /// The slot; null for a transient key. It may have been removed since.
    pub slot: Option<u32>,
    /// `local`, `kms`, `file` or `transient`.
    pub provider: String,
    /// ARN of the KMS key or path of the key file that it used; that of the slot may be another
    /// since.
    pub key: String,
    /// When the key was last proved to open the volume, seconds since 1970 UTC.
    pub proved_unix_s: Option<u64>,
}

/// The keys of the volume at a path.
///
/// # Errors
/// No volume there.
pub fn status(volume: &Path) -> Result<KeyStatus, VerbError> {
    let reports = status::one(volume)?;
    // A store can lose its last mount between two looks.
    let gone = || VerbError::NotMounted(volume.to_owned());
    let first = reports.first().ok_or_else(gone)?;
    // Not of a store that its own mount hides: nothing is known then but how many there are.
    let now = describe(&first.store).ok().map(|(_, now)| now);
    let epoch = now.as_ref().map_or_else(|| counted(first.epochs), Descriptor::epoch);
    let pending = now.and_then(|now| now.pending()).map(|pending| pending.work);
    Ok(of(first, &reports, epoch, pending))
}

/// None is ever taken away.
fn counted(epochs: usize) -> Epoch {
    Epoch(u32::try_from(epochs).unwrap_or(u32::MAX))
}

fn of(first: &Report, reports: &[Report], epoch: Epoch, pending: Option<Work>) -> KeyStatus {
    let daemons: Vec<DaemonKey> = reports
        .iter()
        .filter_map(|report| report.daemon.as_ref())
        .map(|daemon| DaemonKey {
            pid: daemon.pid,
            slot: daemon.key_slot,
            provider: daemon.key_provider.clone(),
            key: daemon.key_id.clone(),
            proved_unix_s: daemon.key_proved_unix_s,
        })
        .collect();
    let slots = first.slots.iter().map(|slot| {
        let uses = || daemons.iter().filter(|daemon| daemon.slot == Some(slot.id));
        let proved = uses().filter(|daemon| daemon.key == slot.key);
        SlotStatus {
            id: slot.id,
            provider: slot.provider.clone(),
            key: slot.key.clone(),
            in_use: uses().next().is_some(),
            last_used_unix_s: proved.filter_map(|daemon| daemon.proved_unix_s).max(),
        }
    });
    KeyStatus {
        volume_id: first.volume_id,
        store: first.store.clone(),
        state: first.state,
        epochs: first.epochs,
        epoch,
        pending,
        slots: slots.collect(),
        output_key: first.output_key.clone(),
        daemons,
    }
}
