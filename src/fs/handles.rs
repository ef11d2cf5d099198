//! Open files and directory streams by handle.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::fs::content::FileHandle;
use crate::fs::error::FsError;
use crate::fs::ids::HandleId;
use crate::fs::listing::DirHandle;

/// What a handle stands for.
#[derive(Debug)]
pub(in crate::fs) enum Handle {
    File(FileHandle),
    Dir(DirHandle),
}

#[derive(Debug)]
struct Slot {
    /// How often the slot was given out.
    generation: u32,
    handle: Option<Arc<Handle>>,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// All open handles. A [`HandleId`] is the slot's place in its lower half, and how often the slot
/// was given out in its upper half.
#[derive(Debug, Default)]
pub(in crate::fs) struct Handles(RwLock<Slots>);

fn place_of(id: HandleId) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("masked to 32 bits");
    (half(id.0), half(id.0 >> 32))
}

impl Handles {
    fn read(&self) -> RwLockReadGuard<'_, Slots> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::fs) fn insert(&self, handle: Handle) -> HandleId {
        let mut slots = self.write();
        let place = slots.free.pop().unwrap_or_else(|| {
            slots.slots.push(Slot { generation: 0, handle: None });
            u32::try_from(slots.slots.len() - 1).expect("descriptors run out long before")
        });
        let slot = &mut slots.slots[place as usize];
        assert!(slot.handle.is_none(), "a free slot is empty");
        slot.generation = slot.generation.wrapping_add(1);
        slot.handle = Some(Arc::new(handle));
        HandleId(u64::from(slot.generation) << 32 | u64::from(place))
    }

    /// # Errors
    /// `BadHandle` for one that is not open.
    pub(in crate::fs) fn get(&self, id: HandleId) -> Result<Arc<Handle>, FsError> {
        let (place, generation) = place_of(id);
        let slots = self.read();
        let slot = slots.slots.get(place as usize).filter(|slot| slot.generation == generation);
        slot.and_then(|slot| slot.handle.clone()).ok_or(FsError::BadHandle)
    }

    /// # Errors
    /// `BadHandle` for one that is not open.
    pub(in crate::fs) fn remove(&self, id: HandleId) -> Result<Arc<Handle>, FsError> {
        let (place, generation) = place_of(id);
        let mut slots = self.write();
        let slot = slots.slots.get_mut(place as usize).filter(|slot| slot.generation == generation);
        let handle = slot.and_then(|slot| slot.handle.take()).ok_or(FsError::BadHandle)?;
        slots.free.push(place);
        Ok(handle)
    }

    pub(in crate::fs) fn count(&self) -> usize {
        let slots = self.read();
        slots.slots.len() - slots.free.len()
    }

    /// Takes all that are still open.
    pub(in crate::fs) fn drain(&self) -> Vec<Arc<Handle>> {
        let slots = std::mem::take(&mut *self.write());
        slots.slots.into_iter().filter_map(|slot| slot.handle).collect()
    }
}
