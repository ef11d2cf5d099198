//! `key rewrap`: another key for a slot. No data is read or written, and no epoch changes.

use std::path::Path;

use crate::format::Slot;
use crate::keys::{self, KeySource};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::key::Change;
use crate::lifecycle::report::SlotReport;

/// A slot under another key.
#[derive(Debug)]
pub struct Rewrapped {
    /// What it was.
    pub was: SlotReport,
    /// What it is.
    pub slot: SlotReport,
    /// Whether KMS went from key to key by itself (`ReEncrypt`).
    pub by_kms: bool,
}

/// Puts a slot under the key `to`: by KMS alone where both are KMS keys and it does that, else by
/// any slot that opens, or by `key`. Without a number, the only slot that there is. The slot keeps
/// its number.
///
/// # Errors
/// See [`VerbError`]; the volume is unchanged then.
pub fn rewrap(
    volume: &Path,
    to: &KeySource,
    slot: Option<u32>,
    key: Option<&KeySource>,
) -> Result<Rewrapped, VerbError> {
    rewrap_in(Change::begin(volume)?, to, slot, key)
}

pub(super) fn rewrap_in(
    change: Change,
    to: &KeySource,
    slot: Option<u32>,
    key: Option<&KeySource>,
) -> Result<Rewrapped, VerbError> {
    let at = which(&change, slot)?;
    let old = &change.found.slots[at];
    let was = SlotReport::of(old);
    let by_kms = keys::re_encrypt(old, to, key, &change.context())?;
    let (by_kms, made) = match by_kms {
        Some(slot) => (true, keys::Made { slot, opened: None }),
        None => {
            let opened = change.open(key)?;
            (false, keys::wrap(&opened.key, to, &change.context(), old.id)?)
        }
    };
    // The only time that the volume key is here after a ReEncrypt; the mac needs it.
    let (made, proved) = change.try_out_made(made)?;
    let slot = SlotReport::of(&made);
    let mut slots: Vec<Slot> = change.found.slots.clone();
    slots[at] = made;
    change.finish(slots, &proved.key)?;
    tracing::info!(slot = slot.id, from = was.key, to = slot.key, by_kms, "key slot rewrapped");
    Ok(Rewrapped { was, slot, by_kms })
}

fn which(change: &Change, slot: Option<u32>) -> Result<usize, VerbError> {
    match (slot, change.found.slots.len()) {
        (Some(slot), _) => change.at(slot),
        (None, 1) => Ok(0),
        (None, 0) => Err(keys::KeyError::Gone.into()),
        (None, _) => {
            Err(VerbError::WhichKeySlot { store: change.path.clone(), found: change.slots() })
        }
    }
}
