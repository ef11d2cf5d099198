//! `key add`: one more way to unwrap the volume key.

use std::path::Path;

use crate::keys::{self, KeySource};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::key::{Change, reported};
use crate::lifecycle::report::SlotReport;

/// A slot that is there now.
#[derive(Debug)]
pub struct Added {
    /// The slot.
    pub slot: SlotReport,
    /// The slot that opened the volume key.
    pub opened_by: SlotReport,
    /// Whether the same key had a slot that opens: nothing was changed then.
    pub was_there: bool,
}

/// Adds a slot under `new`, which is opened before it counts. `key` replaces what the slots that
/// are there say, as for `mount`.
///
/// # Errors
/// See [`VerbError`]; the volume is unchanged then.
pub fn add(volume: &Path, new: &KeySource, key: Option<&KeySource>) -> Result<Added, VerbError> {
    add_to(Change::begin(volume)?, new, key)
}

pub(super) fn add_to(
    change: Change,
    new: &KeySource,
    key: Option<&KeySource>,
) -> Result<Added, VerbError> {
    let opened = change.open(key)?;
    let opened_by = reported(&change.found.slots, opened.slot);
    let number = change.found.last_slot().checked_add(1);
    let number = number.ok_or_else(|| VerbError::NoSlotNumber(change.path.clone()))?;
    let made = keys::wrap(&opened.key, new, &change.context(), number)?;
    // Run again, as after an interruption, it finds its own slot.
    let same = |slot: &&_| {
        let crate::format::Slot { provider, key, .. } = slot;
        (provider, key) == (&made.slot.provider, &made.slot.key)
    };
    let there = change.found.slots.iter().find(same);
    if let Some(there) = there.filter(|slot| change.try_out(slot).is_ok()) {
        let slot = SlotReport::of(there);
        return Ok(Added { slot, opened_by, was_there: true });
    }
    let (made, proved) = change.try_out_made(made)?;
    let slot = SlotReport::of(&made);
    let mut slots = change.found.slots.clone();
    slots.push(made);
    change.finish(slots, &proved.key)?;
    tracing::info!(slot = slot.id, provider = slot.provider, key = slot.key, "key slot added");
    Ok(Added { slot, opened_by, was_there: false })
}
