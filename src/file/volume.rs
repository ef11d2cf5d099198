//! An open volume.

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

use rustix::io::Errno;

use crate::cipher::{CipherPool, VolumeKeys};
use crate::file::beside::{Hopeless, Quiet};
use crate::file::cache::BlockCache;
use crate::file::checkpoint::Journaled;
use crate::file::content::File;
use crate::file::dir::Dir;
use crate::file::error::FileError;
use crate::file::figures::{Counters, Figures};
use crate::file::recover;
use crate::file::renewed::Keyring;
use crate::file::room::Room;
use crate::file::sessions::{Ended, Sessions};
use crate::file::settled::Settled;
use crate::file::state::State;
use crate::format::descriptor::Descriptor;
use crate::format::geometry::{BlockSize, Geometry};
use crate::format::ids::DirId;
use crate::format::name::NAME_MAX;
use crate::limits::OPEN_DIRS_DEFAULT;
use crate::store::{
    Durability, LeaseError, Standing, Store, StoreDir, StoreError, UNRENEWED, Writers,
};

/// The table of open files is in this many parts, each with its own lock.
const OPEN_SHARDS: usize = 64;
/// Bytes of ciphertext that a commit writes at once.
const REQUEST_LEN: u64 = 1 << 20;
/// Bytes of dirty blocks of all files together, before each write stores its own file's at once.
const DIRTY_BYTES_MAX: u64 = 64 << 20;

/// How a volume is opened.
#[derive(Clone, Copy, Debug)]
pub struct VolumeOptions {
    /// Budget of the block cache, bytes of plaintext.
    pub cache_bytes: usize,
    /// Nothing is written to the store.
    pub read_only: bool,
    /// Threads that seal and open a large request; `None` for one a core.
    pub threads: Option<NonZero<usize>>,
    /// Directories that stay open besides those in use, a descriptor each.
    pub open_dirs: NonZero<usize>,
    /// How much has to survive a power cut; strict is by way of a journal.
    pub durability: Durability,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            read_only: false,
            threads: None,
            open_dirs: OPEN_DIRS_DEFAULT,
            durability: Durability::default(),
        }
    }
}

/// Space of the store's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes that are read and written well at once.
    pub block_size: u64,
    /// Unit of the three block counts, bytes.
    pub fragment_size: u64,
    /// Blocks of the disk.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks that users may have.
    pub blocks_available: u64,
    /// Inodes of the disk.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name, bytes.
    pub name_max: u32,
}

/// An open volume: keys, block cache, cipher pool, the files that are open.
#[derive(Debug)]
pub struct Volume {
    pub(in crate::file) keyring: Keyring,
    pub(in crate::file) pool: CipherPool,
    pub(in crate::file) cache: BlockCache,
    pub(in crate::file) counters: Counters,
    pub(in crate::file) links: StoreDir,
    /// There is one if what is committed is written over by way of a journal.
    pub(in crate::file) journaled: Option<Journaled>,
    /// Files that may be opened though they have lost their last name, by lower inode number, and
    /// how often.
    pub(in crate::file) held: Mutex<HashMap<u64, usize>>,
    pub(in crate::file) block_size: BlockSize,
    tree: StoreDir,
    root_id: DirId,
    options: VolumeOptions,
    /// Objects can be given to other users.
    pub(in crate::file) gives_away: bool,
    open: Vec<Mutex<HashMap<u64, Weak<File>>>>,
    next_file: AtomicU64,
    /// Files of which something that was written is lost: as many as there were errors.
    pub(in crate::file) spoiled: Mutex<HashSet<u64>>,
    pub(in crate::file) room: Room,
    pub(in crate::file) settled: Settled,
    pub(in crate::file) sessions: Sessions,
    changes: RwLock<()>,
    /// The journal has what is not in its place, and this volume does not read it.
    behind: bool,
    /// Whether this process still has the volume, if it is open for writing.
    standing: Option<Standing>,
    /// Tells whether another process changes it.
    pub(in crate::file) writers: Writers,
    pub(in crate::file) hopeless: Hopeless,
    pub(in crate::file) quiet: Quiet,
    /// Inodes and the like that were forgotten since memory was last given back for them.
    forgotten: AtomicU64,
}

/// While this lives, nobody is changing the volume, and whoever begins to waits.
#[derive(Debug)]
pub struct Frozen<'a> {
    _guard: RwLockWriteGuard<'a, ()>,
}

/// While this lives, a change is going on.
#[derive(Debug)]
pub struct Changing<'a> {
    _guard: RwLockReadGuard<'a, ()>,
}

impl Drop for Volume {
    fn drop(&mut self) {
        // What is another's by now is not touched.
        if self.read_only() || self.check_lease().is_err() {
            return;
        }
        let ended = self.journaled.as_ref().map_or(Ended::Written, Journaled::end);
        self.sessions.end(&self.keys(), ended);
    }
}

impl Volume {
    /// Opens a volume with its keys.
    ///
    /// # Errors
    /// The store's.
    pub fn open(
        store: &Store,
        keys: VolumeKeys,
        descriptor: &Descriptor,
        options: &VolumeOptions,
    ) -> Result<Arc<Self>, FileError> {
        Self::open_while(store, keys, descriptor, options, None)
    }

    /// The same; nothing is written any more once `standing` says that somebody else has the
    /// volume.
    ///
    /// # Errors
    /// The store's; [`FileError::Lost`] if it was lost while the journal was recovered.
    pub fn open_while(
        store: &Store,
        keys: VolumeKeys,
        descriptor: &Descriptor,
        options: &VolumeOptions,
        standing: Option<Standing>,
    ) -> Result<Arc<Self>, FileError> {
        let sys = |error| {
            tracing::error!(%error, "the store can't be used");
            match error {
                StoreError::Sys { error, .. } => FileError::Sys(error),
                _ => FileError::Sys(Errno::IO),
            }
        };
        let pool = match options.threads {
            Some(threads) => CipherPool::new(threads),
            None => CipherPool::for_this_machine(),
        };
        let store = &store.held_while(standing.clone());
        let tree = store.tree(options.durability).map_err(sys)?;
        let mut volume = Arc::new(Self {
            keyring: Keyring::new(keys),
            pool: pool.map_err(|_| FileError::Sys(rustix::io::Errno::AGAIN))?,
            cache: BlockCache::new(options.cache_bytes),
            counters: Counters::default(),
            links: store.links(options.durability).map_err(sys)?,
            journaled: None,
            held: Mutex::default(),
            block_size: descriptor.block_size(),
            tree,
            root_id: descriptor.root_id,
            options: *options,
            gives_away: rustix::process::geteuid().is_root(),
            open: (0..OPEN_SHARDS).map(|_| Mutex::default()).collect(),
            next_file: AtomicU64::new(1),
            spoiled: Mutex::default(),
            room: Room::default(),
            settled: Settled::default(),
            sessions: Sessions::new(store.session_file()),
            changes: RwLock::new(()),
            behind: false,
            standing,
            writers: store.writers().map_err(|_| FileError::Sys(Errno::MFILE))?,
            hopeless: Hopeless::default(),
            quiet: Quiet::default(),
            forgotten: AtomicU64::new(0),
        });
        if options.read_only {
            // A store that can't tell is one to read as it is.
            let behind = store.journal(false).is_ok_and(|segments| {
                segments.is_some_and(|segments| recover::is_pending(&volume, &segments))
            });
            Arc::get_mut(&mut volume).expect("nobody else has it").behind = behind;
        } else {
            let made = match options.durability {
                Durability::Strict => store.make_journal(),
                Durability::Relaxed => store.journal(true),
            };
            if let Some(segments) = made.map_err(sys)? {
                Self::recover(&mut volume, segments)?;
            }
            volume.sessions.begin(&volume.keys(), options.durability);
            volume.look_for_room();
        }
        Ok(volume)
    }

    /// Whether the journal has changes that are not in their place, where a volume that is opened
    /// to read looks: those of a writer, or of one that did not come to its end.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    pub(in crate::file) fn tree(&self) -> &StoreDir {
        &self.tree
    }

    /// To be taken by every operation that changes something, before any other lock and not
    /// twice: waits while the volume is frozen.
    pub fn change(&self) -> Changing<'_> {
        Changing { _guard: self.changes.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// The same for what adds to the journal: waits for a checkpoint too while that is crowded.
    pub fn change_content(&self) -> Changing<'_> {
        if self.check_lease().is_ok() {
            self.note_short();
            self.make_room();
        }
        self.change()
    }

    /// Waits for the changes that are going on, and holds up those that come. With a
    /// [`Volume::commit_all`] after it, nothing in the store changes.
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen { _guard: self.changes.write().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Makes the root directory of a new volume what it is: writes its marker.
    ///
    /// # Errors
    /// The store's.
    pub fn format(store: &Store, keys: &VolumeKeys, root_id: DirId) -> Result<(), FileError> {
        let tree = store.tree(Durability::Strict);
        let tree = tree.map_err(|_| FileError::Sys(rustix::io::Errno::IO))?;
        tree.write_marker(&keys.new_marker(root_id))?;
        tree.sync()?;
        Ok(())
    }

    /// The root directory.
    ///
    /// # Errors
    /// [`FileError::Damaged`] if its marker is not authentic or another directory's.
    pub fn root(self: &Arc<Self>) -> Result<Dir, FileError> {
        Dir::open(self, self.tree.clone(), Some(self.root_id))
    }

    /// Commits every open file; goes on after an error and returns the first.
    ///
    /// # Errors
    /// The first that a file had.
    pub fn commit_all(&self) -> Result<(), FileError> {
        self.check_lease()?;
        let mut result = Ok(());
        for file in self.open_files() {
            let committed = file.commit();
            result = result.and(committed);
        }
        // Also after an error: the other files have theirs to bring to its place.
        let checkpoint = self.checkpoint();
        result.and(checkpoint)
    }

    /// The files that are open now, a part of the table after the other.
    pub(in crate::file) fn open_files(&self) -> impl Iterator<Item = Arc<File>> {
        let of_shard = |shard: &Mutex<HashMap<u64, Weak<File>>>| -> Vec<Arc<File>> {
            lock(shard).values().filter_map(Weak::upgrade).collect()
        };
        self.open.iter().flat_map(of_shard)
    }

    /// Whether the store has all that was written, be it in the journal alone.
    pub fn has_stored_all(&self) -> bool {
        self.open_files().all(|file| !file.is_dirty())
    }

    /// Makes all of the store's disk durable.
    pub(in crate::file) fn sync_disk(&self) -> Result<(), FileError> {
        Ok(self.tree.sync_disk()?)
    }

    /// Space of the store's disk.
    ///
    /// # Errors
    /// The store's.
    pub fn statfs(&self) -> Result<StatFs, FileError> {
        let space = self.tree.space()?;
        Ok(StatFs {
            block_size: space.f_bsize,
            fragment_size: space.f_frsize,
            blocks: space.f_blocks,
            blocks_free: space.f_bfree,
            blocks_available: space.f_bavail,
            files: space.f_files,
            files_free: space.f_ffree,
            name_max: u32::try_from(NAME_MAX).expect("255"),
        })
    }

    /// Reads something in a stored directory, also if its mode forbids that to its owner, unless
    /// nothing may change.
    pub(in crate::file) fn reading<T>(
        &self,
        lower: &StoreDir,
        work: impl Fn(&StoreDir) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if self.read_only() { work(lower) } else { lower.lending(work) }
    }

    /// Fails if somebody else has the volume, or may have it: to be asked before every write.
    pub(in crate::file) fn check_lease(&self) -> Result<(), FileError> {
        match self.standing.as_ref().map_or(Ok(()), Standing::check) {
            Ok(()) => Ok(()),
            Err(LeaseError::Lost) => Err(FileError::Lost),
            Err(LeaseError::Unrenewed(_)) => Err(FileError::Sys(UNRENEWED)),
        }
    }

    /// Whether the volume takes changes.
    ///
    /// # Errors
    /// [`FileError::ReadOnly`], [`FileError::Lost`], or why its lease can't be renewed.
    pub fn check_writable(&self) -> Result<(), FileError> {
        if self.read_only() { Err(FileError::ReadOnly) } else { self.check_lease() }
    }

    /// Counters since the volume was opened.
    pub fn figures(&self) -> Figures {
        let journal_bytes = self.journaled.as_ref().map_or(0, |of| of.journal.needed_bytes());
        Figures { journal_bytes, ..self.counters.figures() }
    }

    /// Whether nothing is written to the store.
    pub fn read_only(&self) -> bool {
        self.options.read_only
    }

    /// How much has to survive a power cut.
    pub fn durability(&self) -> Durability {
        self.options.durability
    }

    /// Directories that stay open besides those in use.
    pub fn open_dirs(&self) -> NonZero<usize> {
        self.options.open_dirs
    }

    /// Whether at least `spare` descriptors are left to this process once one more is open.
    pub fn has_descriptors(&self, spare: u64) -> bool {
        self.tree.has_descriptors(spare)
    }

    /// Budget of the block cache, bytes.
    pub fn cache_budget(&self) -> usize {
        self.options.cache_bytes
    }

    pub(in crate::file) fn root_id(&self) -> DirId {
        self.root_id
    }

    pub(in crate::file) fn geometry(&self) -> Geometry {
        Geometry::new(self.block_size)
    }

    pub(in crate::file) fn next_file_number(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    pub(in crate::file) fn blocks_per_request(&self, state: &State) -> u64 {
        REQUEST_LEN / state.prefix.block_size.bytes()
    }

    fn shard(&self, ino: u64) -> &Mutex<HashMap<u64, Weak<File>>> {
        &self.open[usize::try_from(ino % OPEN_SHARDS as u64).expect("below 64")]
    }

    /// The open file of an inode, if there is one.
    pub(in crate::file) fn opened(&self, ino: u64) -> Option<Arc<File>> {
        lock(self.shard(ino)).get(&ino).and_then(Weak::upgrade)
    }

    /// The open file of an inode, or the one that `load` makes; nobody else makes one meanwhile.
    pub(in crate::file) fn open_with(
        self: &Arc<Self>,
        ino: u64,
        load: impl FnOnce() -> Result<State, FileError>,
    ) -> Result<Arc<File>, FileError> {
        let mut shard = lock(self.shard(ino));
        if let Some(file) = shard.get(&ino).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let mut state = load()?;
        // Of an earlier file that had the same inode nothing holds: a new one is dirty.
        let settled = self.settled.take(ino) && !state.dirty;
        *state.settled.get_mut() = settled;
        let file = Arc::new(File::new(self.clone(), ino, state));
        shard.insert(ino, Arc::downgrade(&file));
        Ok(file)
    }

    /// Does something while nobody can open an inode; `None` if it is open.
    pub(in crate::file) fn unless_open<T>(
        &self,
        ino: u64,
        work: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let shard = lock(self.shard(ino));
        let open = shard.get(&ino).is_some_and(|file| file.strong_count() > 0);
        if open { None } else { work() }
    }

    /// Forgets an open file to which there are no more than `held` references, so that nobody gets
    /// one more. Returns whether it did.
    pub(in crate::file) fn forget_if_held(&self, file: &Arc<File>, held: usize) -> bool {
        let mut shard = lock(self.shard(file.ino()));
        let alone = Arc::strong_count(file) <= held;
        if alone {
            shard.remove(&file.ino());
        }
        alone
    }

    /// A file was closed: finishes it while nobody can open it, and forgets it, unless it was
    /// opened again already. `finish` tells whether something written to it was lost.
    pub(in crate::file) fn closed(&self, ino: u64, finish: impl FnOnce() -> bool) {
        self.counters.files_open.sub(1);
        let mut shard = lock(self.shard(ino));
        if shard.get(&ino).is_some_and(|file| file.strong_count() == 0) {
            shard.remove(&ino);
            if finish() {
                self.note_spoiled(ino);
            }
        }
    }

    /// So many inodes were forgotten, or whatever else had a few hundred bytes of memory each.
    pub fn note_forgotten(&self, count: u64) {
        self.forgotten.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether `many` inodes or more were forgotten since this was last so.
    pub fn take_forgotten(&self, many: u64) -> bool {
        let taken = |count| (count >= many).then_some(0);
        self.forgotten.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Whether dirty blocks have to be stored ahead of their commits.
    pub(in crate::file) fn is_pressed(&self) -> bool {
        self.counters.dirty_bytes.get() > DIRTY_BYTES_MAX
    }
}

pub(in crate::file) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the table consistent: each change of it is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
