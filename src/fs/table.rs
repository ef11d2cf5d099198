//! The inodes that somebody outside knows: how often they were handed out, under which names they
//! were seen, and what keeps them alive.
//!
//! Invariants, for each inode in the table:
//! 1. `lookups` + `handles` > 0; the last one to go takes the inode with it.
//! 2. `names` are names it has: they are added and removed under the guard of their directory.
//! 3. Without a name it has `held`, from before its last name went, so its lower number is not
//!    given to another while it is known. The root is not in here.
//! 4. `open` is there exactly while `handles` > 0.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::file::{Held, Kind};
use crate::fs::content::OpenFile;
use crate::fs::ids::InodeId;

const SHARDS_LOG2: u32 = 6;
/// Places of a shard that are never given back.
const SPARE_MIN: usize = 64;

/// A name that an inode was seen under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fs) struct Place {
    pub(in crate::fs) parent: InodeId,
    pub(in crate::fs) name: Box<[u8]>,
}

impl Place {
    fn is(&self, parent: InodeId, name: &[u8]) -> bool {
        self.parent == parent && *self.name == *name
    }
}

#[derive(Debug)]
struct Inode {
    kind: Kind,
    generation: u64,
    /// How often it was handed out, less how often it was forgotten.
    lookups: u64,
    /// Open handles of a file.
    handles: u64,
    /// Nearly always one.
    names: Vec<Place>,
    open: Option<Arc<OpenFile>>,
    held: Option<Arc<Held>>,
}

/// The known inodes. Work under a lock is bounded by the names of one inode; files and
/// descriptors are closed outside.
#[derive(Debug)]
pub(in crate::fs) struct Table(Vec<Mutex<HashMap<InodeId, Inode>>>);

impl Table {
    pub(in crate::fs) fn new() -> Self {
        Self((0..1 << SHARDS_LOG2).map(|_| Mutex::default()).collect())
    }

    fn shard(&self, id: InodeId) -> MutexGuard<'_, HashMap<InodeId, Inode>> {
        self.0[id.spread(SHARDS_LOG2)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, id: InodeId, work: impl FnOnce(&mut Inode) -> T) -> Option<T> {
        self.shard(id).get_mut(&id).map(work)
    }

    /// Hands an inode out once more, under a name; gives its generation.
    pub(in crate::fs) fn know(
        &self,
        id: InodeId,
        kind: Kind,
        parent: InodeId,
        name: &[u8],
    ) -> (u64, Option<Arc<OpenFile>>) {
        let mut shard = self.shard(id);
        let inode = match shard.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Inode::new(kind)),
        };
        inode.lookups += 1;
        if inode.kind != kind {
            // Somebody changed the store below; the kernel must not take one for the other.
            inode.kind = kind;
            inode.generation += 1;
            inode.names.clear();
        }
        inode.add(parent, name);
        (inode.generation, inode.open.clone())
    }

    /// Takes back `count` of the times that an inode was handed out.
    pub(in crate::fs) fn forget(&self, id: InodeId, count: u64) {
        let mut shard = self.shard(id);
        let Entry::Occupied(mut entry) = shard.entry(id) else { return };
        let inode = entry.get_mut();
        inode.lookups = inode.lookups.saturating_sub(count);
        let gone = inode.is_unknown().then(|| entry.remove());
        if gone.is_some() && shard.capacity() > SPARE_MIN && shard.len() < shard.capacity() / 8 {
            let room = 2 * shard.len();
            shard.shrink_to(room);
        }
        drop(shard);
        drop(gone);
    }

    /// A name to find it by.
    pub(in crate::fs) fn place(&self, id: InodeId) -> Option<Place> {
        self.with(id, |inode| inode.names.first().cloned()).flatten()
    }

    pub(in crate::fs) fn has_place(&self, id: InodeId, place: &Place) -> bool {
        self.with(id, |inode| inode.names.contains(place)).unwrap_or(false)
    }

    pub(in crate::fs) fn kind(&self, id: InodeId) -> Option<Kind> {
        self.with(id, |inode| inode.kind)
    }

    pub(in crate::fs) fn generation(&self, id: InodeId) -> u64 {
        self.with(id, |inode| inode.generation).unwrap_or(0)
    }

    /// Its open file.
    pub(in crate::fs) fn open(&self, id: InodeId) -> Option<Arc<OpenFile>> {
        self.with(id, |inode| inode.open.clone()).flatten()
    }

    /// What keeps it, if it has no name.
    pub(in crate::fs) fn held(&self, id: InodeId) -> Option<Arc<Held>> {
        self.with(id, |inode| inode.held.clone().filter(|_| inode.names.is_empty())).flatten()
    }

    /// Whether it will need something to keep it once this name is gone. An open file would do
    /// for a while, but may be closed at any moment.
    pub(in crate::fs) fn will_need_holding(
        &self,
        id: InodeId,
        parent: InodeId,
        name: &[u8],
    ) -> bool {
        self.with(id, |inode| {
            inode.held.is_none() && inode.names.iter().all(|known| known.is(parent, name))
        })
        .unwrap_or(false)
    }

    /// It has one more name; nothing for an inode that nobody knows.
    pub(in crate::fs) fn add_name(&self, id: InodeId, parent: InodeId, name: &[u8]) {
        self.with(id, |inode| inode.add(parent, name));
    }

    /// The name is gone. `held` keeps the inode, if that was the last.
    pub(in crate::fs) fn remove_name(
        &self,
        id: InodeId,
        parent: InodeId,
        name: &[u8],
        held: Option<Held>,
    ) {
        self.with(id, |inode| {
            inode.names.retain(|known| !known.is(parent, name));
            if inode.names.is_empty() && held.is_some() {
                inode.held = held.map(Arc::new);
            }
        });
    }

    /// One more handle of an inode whose file is open already, if it is open for what is wanted.
    pub(in crate::fs) fn share_open(
        &self,
        id: InodeId,
        fits: impl FnOnce(&OpenFile) -> bool,
    ) -> Option<Arc<OpenFile>> {
        self.with(id, |inode| {
            let open = inode.open.clone().filter(|open| fits(open))?;
            inode.handles += 1;
            Some(open)
        })
        .flatten()
    }

    /// One more handle. `merge` gives the open file, from the one that is there.
    pub(in crate::fs) fn add_handle(
        &self,
        id: InodeId,
        merge: impl FnOnce(Option<Arc<OpenFile>>) -> Arc<OpenFile>,
    ) -> Arc<OpenFile> {
        let mut shard = self.shard(id);
        let inode = shard.entry(id).or_insert_with(|| Inode::new(Kind::File));
        inode.handles += 1;
        let open = merge(inode.open.take());
        inode.open = Some(open.clone());
        open
    }

    /// One handle less; the last one closes the file.
    pub(in crate::fs) fn drop_handle(&self, id: InodeId) {
        let mut shard = self.shard(id);
        let Entry::Occupied(mut entry) = shard.entry(id) else { return };
        let inode = entry.get_mut();
        inode.handles = inode.handles.saturating_sub(1);
        let closed = (inode.handles == 0).then(|| inode.open.take()).flatten();
        let gone = inode.is_unknown().then(|| entry.remove());
        drop(shard);
        drop((closed, gone));
    }

    pub(in crate::fs) fn count(&self) -> usize {
        let len = |shard: &Mutex<HashMap<_, _>>| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).len()
        };
        self.0.iter().map(len).sum()
    }

    pub(in crate::fs) fn clear(&self) {
        for shard in &self.0 {
            let taken = std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            drop(taken);
        }
    }
}

impl Inode {
    fn new(kind: Kind) -> Self {
        let (lookups, handles) = (0, 0);
        Self { kind, generation: 0, lookups, handles, names: vec![], open: None, held: None }
    }

    fn add(&mut self, parent: InodeId, name: &[u8]) {
        if !self.names.iter().any(|known| known.is(parent, name)) {
            self.names.reserve_exact(1);
            self.names.push(Place { parent, name: name.into() });
        }
    }

    fn is_unknown(&self) -> bool {
        self.lookups == 0 && self.handles == 0
    }
}
