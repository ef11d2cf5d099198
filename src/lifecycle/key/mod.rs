//! `key`: the slots of a volume, each a way to unwrap its key; and new keys (`rotate`).
//!
//! A change holds the lock of `volume.json`, not that of the store, so that the volume may be
//! mounted meanwhile: a mount has read the description when it opened the volume, and never writes
//! it. A change opens the volume key by a slot, checks the whole description with it, proves what
//! it made by opening that, and only then puts the new description in the place of the old one, in
//! one step. Killed anywhere, it leaves the old description or the new one.

mod add;
pub mod audit;
pub mod grant;
pub(in crate::lifecycle) mod output;
mod remove;
mod rewrap;
mod rotate;
pub mod status;

pub use crate::file::Rekeyed;
pub use crate::format::Work;
pub use add::{Added, add};
pub use remove::{Removed, remove};
pub use rewrap::{Rewrapped, rewrap};
pub use rotate::{RotateOptions, Rotated, rotate};

use std::path::{Path, PathBuf};

use crate::cipher::{Secret, VolumeKeys};
use crate::format::Slot;
use crate::format::descriptor::Descriptor;
use crate::keys::{self, Context, KeySource};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::locate::locate;
use crate::lifecycle::open::find_store;
use crate::lifecycle::report::SlotReport;
use crate::limits::DESCRIPTOR_WAIT;
use crate::store::{DescriptorLock, LockMode, Store, StoreError};

/// A description that nobody else changes meanwhile.
#[derive(Debug)]
struct Change {
    path: PathBuf,
    lock: DescriptorLock,
    /// A claim, until [`Self::proved`] has seen it.
    found: Descriptor,
}

impl Change {
    fn begin(volume: &Path) -> Result<Self, VerbError> {
        let located = locate(volume)?;
        let store = find_store(&located.store).map_err(|error| {
            let mountpoint = located.mountpoints.into_iter().next();
            match (mountpoint, error) {
                (
                    Some(mountpoint),
                    VerbError::Store(StoreError::Missing(_) | StoreError::NotAStore(_)),
                ) => VerbError::Hidden { store: located.store, mountpoint },
                (_, error) => error,
            }
        })?;
        Self::of(&store)
    }

    fn of(store: &Store) -> Result<Self, VerbError> {
        let lock = store.lock_descriptor(LockMode::Exclusive, DESCRIPTOR_WAIT)?;
        let found = lock.read()?;
        Ok(Self { path: store.path().to_owned(), lock, found })
    }

    /// Changes nothing, so that somebody else can.
    fn given_up(self) -> Descriptor {
        self.found
    }

    fn context(&self) -> Context<'_> {
        Context { volume_id: self.found.volume_id, pairs: &self.found.context }
    }

    /// Where the slot with this number is among the others.
    fn at(&self, slot: u32) -> Result<usize, VerbError> {
        let at = self.found.slots.iter().position(|found| found.id == slot);
        at.ok_or_else(|| VerbError::NoKeySlot {
            store: self.path.clone(),
            wanted: slot,
            found: self.slots(),
        })
    }

    /// All slots, for an error.
    fn slots(&self) -> String {
        let slots = self.found.slots.iter();
        let named: Vec<String> =
            slots.map(|slot| format!("{} ({}:{})", slot.id, slot.provider, slot.key)).collect();
        named.join(", ")
    }

    /// Checks the description with a volume key that a slot gave.
    fn proved(&self, key: &Secret) -> Result<(), VerbError> {
        let untrusted = |error| VerbError::Untrusted { path: self.path.clone(), error };
        VolumeKeys::open(key, &self.found).map(|_| ()).map_err(untrusted)
    }

    /// The volume key by one of its slots, proved.
    fn open(&self, key: Option<&KeySource>) -> Result<keys::Opened, VerbError> {
        let opened = keys::open(&self.found.slots, key, &self.context())?;
        self.proved(&opened.key)?;
        Ok(opened)
    }

    /// The volume key by a slot that was just made: really opened, and this volume's.
    fn try_out(&self, slot: &Slot) -> Result<keys::Opened, VerbError> {
        self.try_new(slot, None, &self.found)
    }

    /// The same of a slot in a description that is to be; `key` replaces what the slot says.
    fn try_new(
        &self,
        slot: &Slot,
        key: Option<&KeySource>,
        changed: &Descriptor,
    ) -> Result<keys::Opened, VerbError> {
        let opened = keys::open(std::slice::from_ref(slot), key, &self.context());
        let opened = opened
            .map_err(|error| VerbError::NewSlotUnproved { store: self.path.clone(), error })?;
        let untrusted = |error| VerbError::Untrusted { path: self.path.clone(), error };
        VolumeKeys::open(&opened.key, changed).map_err(untrusted)?;
        Ok(opened)
    }

    /// The same of one that was made a moment ago.
    fn try_out_made(&self, made: keys::Made) -> Result<(Slot, keys::Opened), VerbError> {
        let opened = match made.opened {
            Some(opened) => {
                self.proved(&opened.key)?;
                opened
            }
            None => self.try_out(&made.slot)?,
        };
        Ok((made.slot, opened))
    }

    /// Puts the description with these slots in the place of the old one; `key` is the volume key.
    fn finish(self, slots: Vec<Slot>, key: &Secret) -> Result<(), VerbError> {
        self.finish_as(|changed| changed.set_slots(slots), key)
    }

    /// Puts the description, changed so, in the place of the old one.
    fn finish_as(
        self,
        change: impl FnOnce(&mut Descriptor),
        key: &Secret,
    ) -> Result<(), VerbError> {
        let Self { path, lock, found } = self;
        let mut changed = found;
        change(&mut changed);
        VolumeKeys::authenticate(key, &mut changed);
        // As the next reader will: what was just written down is what opens.
        VolumeKeys::open(key, &changed).map_err(|error| VerbError::Untrusted { path, error })?;
        Ok(lock.replace(&changed)?)
    }
}

/// The slot with this number, for a report.
fn reported(slots: &[Slot], id: u32) -> SlotReport {
    let found = slots.iter().find(|slot| slot.id == id);
    SlotReport::of(found.expect("it opened the volume key"))
}

#[cfg(test)]
mod tests;
