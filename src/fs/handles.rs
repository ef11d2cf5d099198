//! Open files and directory streams by handle.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::file::FileError;
use crate::fs::content::{FileHandle, OpenFile};
use crate::fs::error::FsError;
use crate::fs::ids::{HandleId, InodeId, Sync};
use crate::fs::listing::DirHandle;
use crate::fs::rest::Resting;

/// What a handle stands for.
#[derive(Debug)]
pub(in crate::fs) enum Handle {
    File(FileHandle),
    Dir(DirHandle),
    /// Of something that could not be opened again when the volume was; of a file, which.
    Gone {
        file: Option<InodeId>,
    },
}

impl Handle {
    /// `rested` is what is to be told by it.
    pub(in crate::fs) fn of_file(
        inode: InodeId,
        open: Arc<OpenFile>,
        sync: Sync,
        rested: Option<FileError>,
    ) -> Self {
        Self::File(FileHandle::new(inode, open, sync, rested))
    }
}

#[derive(Debug)]
struct Slot<H> {
    /// How often the slot was given out.
    generation: u32,
    handle: Option<H>,
}

#[derive(Debug)]
struct Slots<H> {
    slots: Vec<Slot<H>>,
    free: Vec<u32>,
}

impl<H> Default for Slots<H> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<H> Slots<H> {
    /// Takes the handle out; `None` for one that is not open.
    fn remove(&mut self, id: HandleId) -> Option<H> {
        let (place, generation) = place_of(id);
        let slot = self.slots.get_mut(place as usize);
        let slot = slot.filter(|slot| slot.generation == generation);
        let handle = slot.and_then(|slot| slot.handle.take())?;
        self.free.push(place);
        Some(handle)
    }

    /// Each handle as another, under the same number.
    fn map<T>(self, mut other: impl FnMut(H) -> T) -> Slots<T> {
        let slots = self
            .slots
            .into_iter()
            .map(|Slot { generation, handle }| Slot { generation, handle: handle.map(&mut other) });
        Slots { slots: slots.collect(), free: self.free }
    }
}

/// Handles while nothing is open.
#[derive(Debug)]
pub(in crate::fs) struct RestingHandles(Slots<Resting>);

impl RestingHandles {
    pub(in crate::fs) fn remove(&mut self, id: HandleId) -> Option<Resting> {
        self.0.remove(id)
    }

    pub(in crate::fs) fn each(&self, look: impl FnMut(&Resting)) {
        self.0.slots.iter().filter_map(|slot| slot.handle.as_ref()).for_each(look);
    }
}

/// All open handles. A [`HandleId`] is the slot's place in its lower half, and how often the slot
/// was given out in its upper half.
#[derive(Debug, Default)]
pub(in crate::fs) struct Handles(RwLock<Slots<Arc<Handle>>>);

fn place_of(id: HandleId) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("masked to 32 bits");
    (half(id.0), half(id.0 >> 32))
}

impl Handles {
    fn read(&self) -> RwLockReadGuard<'_, Slots<Arc<Handle>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots<Arc<Handle>>> {
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
        self.write().remove(id).ok_or(FsError::BadHandle)
    }

    /// Takes all; what is left of each keeps its number.
    pub(in crate::fs) fn rest(&self, resting: impl Fn(&Handle) -> Resting) -> RestingHandles {
        let slots = std::mem::take(&mut *self.write());
        RestingHandles(slots.map(|handle| resting(&handle)))
    }

    /// What `open` makes of each.
    pub(in crate::fs) fn awake(
        resting: RestingHandles,
        mut open: impl FnMut(Resting) -> Handle,
    ) -> Self {
        Self(RwLock::new(resting.0.map(|resting| Arc::new(open(resting)))))
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
