//! The inodes that somebody outside knows: how often they were handed out, under which names they
//! were seen, and what keeps them alive.
//!
//! Invariants, for each inode in the table:
//! 1. `lookups` + `handles` + `entries` > 0; the last one to go takes the inode with it.
//! 2. `names` are names it has: they are added and removed under the guard of their directory.
//! 3. Without a name it has `held`, from before its last name went, so its lower number is not
//!    given to another while it is known, or else another generation. The root is not in here.
//! 4. `open` is there exactly while `handles` > 0. Neither `open` nor `held` is there while the
//!    volume is locked, nor afterwards for what can't be opened any more.
//! 5. `entries` counts the `names` in it, of all inodes. So a directory is known as long as
//!    something in it is, also when those outside have forgotten it: a file of two names may be
//!    used by one of them only, and each of `names` has to lead to it.

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
#[derive(Debug)]
struct Place {
    parent: InodeId,
    name: Box<[u8]>,
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
    /// Names in it that known inodes have.
    entries: u64,
    /// Nearly always one.
    names: Vec<Place>,
    open: Option<Arc<OpenFile>>,
    held: Option<Arc<Held>>,
}

/// The known inodes. Work under a lock is bounded by the names of one inode; files and
/// descriptors are closed outside.
#[derive(Debug)]
pub(in crate::fs) struct Table(Vec<Mutex<HashMap<InodeId, Inode>>>);

impl Default for Table {
    fn default() -> Self {
        Self((0..1 << SHARDS_LOG2).map(|_| Mutex::default()).collect())
    }
}

impl Table {
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
        self.keep(parent);
        let mut shard = self.shard(id);
        let inode = shard.entry(id).or_insert_with(|| Inode::new(kind));
        inode.lookups += 1;
        let mut wrong = Vec::new();
        if inode.kind != kind {
            // Somebody changed the store below; the kernel must not take one for the other.
            inode.kind = kind;
            inode.generation += 1;
            wrong = std::mem::take(&mut inode.names);
        }
        let added = inode.add(parent, name);
        let known = (inode.generation, inode.open.clone());
        drop(shard);
        self.leave(wrong);
        if !added {
            self.leave_one(parent);
        }
        known
    }

    /// A name in this directory is about to be known.
    fn keep(&self, dir: InodeId) {
        if dir != InodeId::ROOT {
            let mut shard = self.shard(dir);
            shard.entry(dir).or_insert_with(|| Inode::new(Kind::Dir)).entries += 1;
        }
    }

    /// A name in this directory is known no more.
    fn leave_one(&self, dir: InodeId) {
        self.lessen(dir, |dir| dir.entries = dir.entries.saturating_sub(1));
    }

    /// The same for several names, and for those of the directories that go with them. A loop,
    /// because they may lie as deep as they like.
    fn leave(&self, mut names: Vec<Place>) {
        while let Some(place) = names.pop() {
            let less = |dir: &mut Inode| dir.entries = dir.entries.saturating_sub(1);
            names.extend(self.lessen_one(place.parent, less));
        }
    }

    /// Takes away something of what an inode is known by. The last to go takes it with it, and
    /// the directories that were known for its sake.
    fn lessen(&self, id: InodeId, less: impl FnOnce(&mut Inode)) {
        self.leave(self.lessen_one(id, less));
    }

    /// The same for one inode; gives the names it had if it is gone.
    fn lessen_one(&self, id: InodeId, less: impl FnOnce(&mut Inode)) -> Vec<Place> {
        let mut shard = self.shard(id);
        let Entry::Occupied(mut entry) = shard.entry(id) else { return Vec::new() };
        less(entry.get_mut());
        if !entry.get().is_unknown() {
            return Vec::new();
        }
        let gone = entry.remove();
        if shard.capacity() > SPARE_MIN && shard.len() < shard.capacity() / 8 {
            let room = 2 * shard.len();
            shard.shrink_to(room);
        }
        drop(shard);
        gone.names
    }

    /// Takes back `count` of the times that an inode was handed out.
    pub(in crate::fs) fn forget(&self, id: InodeId, count: u64) {
        self.lessen(id, |inode| inode.lookups = inode.lookups.saturating_sub(count));
    }

    /// A directory that it has a name in.
    pub(in crate::fs) fn parent(&self, id: InodeId) -> Option<InodeId> {
        self.with(id, |inode| inode.names.first().map(|place| place.parent)).flatten()
    }

    /// A name that it has in this directory, which stays so as long as the directory's guard is
    /// kept.
    pub(in crate::fs) fn name_in(&self, id: InodeId, parent: InodeId) -> Option<Box<[u8]>> {
        self.with(id, |inode| {
            let place = inode.names.iter().find(|place| place.parent == parent);
            place.map(|place| place.name.clone())
        })
        .flatten()
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
        self.keep(parent);
        if self.with(id, |inode| inode.add(parent, name)) != Some(true) {
            self.leave_one(parent);
        }
    }

    /// Forgets all names but the `count` that were seen last: it has no more than that.
    pub(in crate::fs) fn keep_newest(&self, id: InodeId, count: usize) {
        let older = |inode: &mut Inode| match inode.names.len() > count {
            true => inode.names.split_off(count),
            false => Vec::new(),
        };
        self.leave(self.with(id, older).unwrap_or_default());
    }

    /// The name is gone. `held` keeps the inode, if that was the last.
    pub(in crate::fs) fn remove_name(
        &self,
        id: InodeId,
        parent: InodeId,
        name: &[u8],
        held: Option<Held>,
    ) {
        let had = self.with(id, |inode| {
            let before = inode.names.len();
            inode.names.retain(|known| !known.is(parent, name));
            if inode.names.is_empty() && held.is_some() {
                inode.held = held.map(Arc::new);
            }
            inode.names.len() < before
        });
        if had == Some(true) {
            self.leave_one(parent);
        }
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
        let mut closed = None;
        self.lessen(id, |inode| {
            inode.handles = inode.handles.saturating_sub(1);
            closed = (inode.handles == 0).then(|| inode.open.take()).flatten();
        });
        drop(closed);
    }

    /// Closes all files and lets go of what keeps those without a name; the handles stay counted.
    pub(in crate::fs) fn close_all(&self) {
        for shard in &self.0 {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let take = |inode: &mut Inode| {
                // Nothing keeps its lower number: another file may have it by the next lookup.
                inode.generation += u64::from(inode.names.is_empty());
                (inode.open.take(), inode.held.take())
            };
            let taken: Vec<_> = shard.values_mut().map(take).collect();
            drop(shard);
            drop(taken);
        }
    }

    /// The file of an inode that has handles is open again.
    pub(in crate::fs) fn open_again(&self, id: InodeId, open: Arc<OpenFile>) {
        if self.with(id, |inode| inode.open = Some(open)).is_none() {
            tracing::debug!(inode = id.0, "nobody knows it any more");
        }
    }

    /// All that are known, in no order.
    pub(in crate::fs) fn ids(&self) -> Vec<InodeId> {
        let ids = |shard: &Mutex<HashMap<InodeId, Inode>>| -> Vec<InodeId> {
            shard.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
        };
        self.0.iter().flat_map(ids).collect()
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
        let (generation, lookups, handles, entries) = (0, 0, 0, 0);
        let (names, open, held) = (vec![], None, None);
        Self { kind, generation, lookups, handles, entries, names, open, held }
    }

    /// Whether it was not known by this name before. The name that was seen last is the first.
    fn add(&mut self, parent: InodeId, name: &[u8]) -> bool {
        match self.names.iter().position(|known| known.is(parent, name)) {
            Some(at) => {
                self.names[..=at].rotate_right(1);
                false
            }
            None => {
                self.names.reserve_exact(1);
                self.names.insert(0, Place { parent, name: name.into() });
                true
            }
        }
    }

    fn is_unknown(&self) -> bool {
        self.lookups == 0 && self.handles == 0 && self.entries == 0
    }
}
