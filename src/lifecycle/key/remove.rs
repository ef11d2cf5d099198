//! `key remove`: one way less to unwrap the volume key, never the last that works.

use std::path::Path;

use crate::format::Slot;
use crate::keys::{self, KeySource};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::key::{Change, reported};
use crate::lifecycle::report::SlotReport;

/// A slot that is no longer there.
#[derive(Debug)]
pub struct Removed {
    /// The slot.
    pub slot: SlotReport,
    /// Another one, which was opened before this one was removed.
    pub opened_by: SlotReport,
}

/// Removes a slot, if another one opens the volume key; `key` replaces what that one says.
///
/// # Errors
/// See [`VerbError`]; the volume is unchanged then.
pub fn remove(volume: &Path, slot: u32, key: Option<&KeySource>) -> Result<Removed, VerbError> {
    remove_from(Change::begin(volume)?, slot, key)
}

pub(super) fn remove_from(
    change: Change,
    slot: u32,
    key: Option<&KeySource>,
) -> Result<Removed, VerbError> {
    let at = change.at(slot)?;
    let mut others: Vec<Slot> = change.found.slots.clone();
    let removed = SlotReport::of(&others.remove(at));
    let store = change.path.clone();
    if others.is_empty() {
        return Err(VerbError::LastKeySlot { store, slot });
    }
    let opened = keys::open(&others, key, &change.context())
        .map_err(|error| VerbError::KeySlotNeeded { store, slot, error })?;
    change.proved(&opened.key)?;
    let opened_by = reported(&others, opened.slot);
    change.finish(others, &opened.key)?;
    tracing::info!(slot, provider = removed.provider, key = removed.key, "key slot removed");
    Ok(Removed { slot: removed, opened_by })
}
