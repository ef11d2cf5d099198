//! Bringing the journal's changes to their places, so that its records can go.
//!
//! A checkpoint goes on in the other segment, commits and applies every file with pending changes,
//! makes all of the store's disk durable, and retires the records before. Files that are new since
//! the last one are durable as a whole then; those that are being written meanwhile begin anew in
//! the other segment.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::cipher::VolumeKeys;
use crate::file::content::File;
use crate::file::error::{FileError, Spot};
use crate::file::journal::Journal;
use crate::file::sessions::Ended;
use crate::file::staged::Birth;
use crate::file::state::State;
use crate::file::volume::{Volume, lock};
use crate::format::bytes::to_usize;
use crate::format::journal::{self, RecordKind, Subject};
use crate::store::{Blob, UNRENEWED, is_full};

/// Files with pending changes, each of which keeps a descriptor, above which it is time for a
/// checkpoint: of the descriptors that this process may have, one in so many.
const PENDING_PART: u64 = 64;
/// The same, at most: recovery has as much to do.
const PENDING_MAX: u64 = 1024;
/// New files above which it is, a few hundred bytes of memory each.
const FRESH_MAX: usize = 32_768;
/// Files up to which each is synced by itself: a sync of the whole disk waits for what others
/// write.
const SYNCED_ALONE_MAX: usize = 16;

/// What a volume with a journal keeps until the next checkpoint.
#[derive(Debug)]
pub(in crate::file) struct Journaled {
    pub(in crate::file) journal: Arc<Journal>,
    /// Files with changes that are not in place, by lower inode number.
    pending: Mutex<HashMap<u64, Arc<File>>>,
    /// Files of which nothing is durable.
    fresh: Mutex<HashMap<u64, Birth>>,
    running: Mutex<()>,
    /// Files that the last checkpoint left in the journal, which the log tells once.
    left: Mutex<HashSet<u64>>,
    /// The log tells that the journal is crowded, and no checkpoint has gone well since.
    is_stuck: AtomicBool,
    /// Files were let go of that had changes in the journal.
    has_abandoned: AtomicBool,
    pending_max: usize,
    /// Held while a record is appended and its file told to the two above.
    appending: RwLock<()>,
}

impl Journaled {
    pub(in crate::file) fn new(journal: Journal) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let pending_max = (descriptors / PENDING_PART).min(PENDING_MAX);
        Self {
            journal: Arc::new(journal),
            pending: Mutex::default(),
            fresh: Mutex::default(),
            running: Mutex::default(),
            left: Mutex::default(),
            is_stuck: AtomicBool::new(false),
            has_abandoned: AtomicBool::new(false),
            pending_max: to_usize(pending_max),
            appending: RwLock::default(),
        }
    }

    /// While this lives, no checkpoint leaves the segment that is appended to: it would miss a
    /// file whose record is there, and which it does not know of yet.
    pub(in crate::file) fn appending(&self) -> RwLockReadGuard<'_, ()> {
        self.appending.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, keys: &VolumeKeys) -> Result<(), Errno> {
        let _alone = self.appending.write().unwrap_or_else(PoisonError::into_inner);
        self.journal.turn(keys)
    }

    /// A file begins; returns the number of the record that says so.
    ///
    /// # Errors
    /// Why it could not be told, and the birth.
    pub(in crate::file) fn born(&self, birth: Birth) -> Result<u64, (Errno, Birth)> {
        let beginning = journal::encode_beginning(&birth.subject);
        match self.journal.append(RecordKind::Fresh, &beginning, &[&birth.header]) {
            Ok(placed) => {
                lock(&self.fresh).insert(birth.subject.ino, birth);
                Ok(placed.number)
            }
            Err(error) => Err((error, birth)),
        }
    }

    /// Whether nothing of a file is durable yet.
    pub(in crate::file) fn is_fresh(&self, ino: u64) -> bool {
        lock(&self.fresh).contains_key(&ino)
    }

    /// All of a file is durable.
    pub(in crate::file) fn end_fresh(&self, subject: &Subject) -> Result<(), Errno> {
        // Under the lock, so that no checkpoint tells of it once more after that.
        let mut fresh = lock(&self.fresh);
        if fresh.contains_key(&subject.ino) {
            let beginning = journal::encode_beginning(subject);
            self.journal.append(RecordKind::Settled, &beginning, &[])?;
            fresh.remove(&subject.ino);
        }
        Ok(())
    }

    /// Files that a crash had left not durable are so now: the journal, which goes on, says it. On
    /// a full disk it may not, and they may be taken for such once more.
    pub(in crate::file) fn settle(&self, subjects: &[Subject]) -> Result<(), Errno> {
        for subject in subjects {
            let beginning = journal::encode_beginning(subject);
            match self.journal.append(RecordKind::Settled, &beginning, &[]) {
                Err(error) if is_full(error) => return Ok(()),
                appended => appended?,
            };
        }
        Ok(())
    }

    /// Keeps a file until its changes are in place.
    pub(in crate::file) fn keep(&self, ino: u64, file: Arc<File>) {
        lock(&self.pending).insert(ino, file);
    }

    /// Keeps no file any more: the volume is not served, and they would keep it. What is not in its
    /// place stays in the journal.
    pub(in crate::file) fn abandon(&self) {
        let files = std::mem::take(&mut *lock(&self.pending));
        self.has_abandoned.fetch_or(!files.is_empty(), Ordering::Relaxed);
        // Not under the lock: with the last handle a file is closed.
        drop(files);
    }

    fn is_crowded(&self, is_short: bool) -> bool {
        self.journal.is_crowded(is_short)
            || lock(&self.pending).len() > self.pending_max
            || lock(&self.fresh).len() > FRESH_MAX
    }

    /// Whether nothing is needed of the journal.
    pub(in crate::file) fn is_idle(&self) -> bool {
        let none = lock(&self.pending).is_empty() && lock(&self.fresh).is_empty();
        // What a crash has left may be about files that are not open yet.
        none && self.journal.is_retired() && !self.has_abandoned.load(Ordering::Relaxed)
    }

    /// Leaves an empty journal, if nothing in it is needed. Returns how safe it is what was made.
    pub(in crate::file) fn end(&self) -> Ended {
        let is_idle = self.is_idle();
        match (self.journal.works(), is_idle) {
            (false, _) => Ended::InDoubt,
            (true, false) => Ended::Written,
            (true, true) => {
                self.journal.end();
                Ended::Durable
            }
        }
    }

    /// Tells of a file once more, whose first telling is about to go.
    fn retell(&self, ino: u64) -> Result<(), Errno> {
        let fresh = lock(&self.fresh);
        let Some(birth) = fresh.get(&ino) else { return Ok(()) };
        let beginning = journal::encode_beginning(&birth.subject);
        self.journal.append(RecordKind::Fresh, &beginning, &[&birth.header]).map(drop)
    }
}

impl Volume {
    /// Waits for a checkpoint, if it is time for one. Holds no lock of a file.
    pub(in crate::file) fn make_room(&self) {
        if let Some(journaled) = &self.journaled
            && journaled.is_crowded(self.is_short())
            && let Err(error) = self.checkpoint()
            && !journaled.is_stuck.swap(true, Ordering::Relaxed)
        {
            tracing::error!(
                %error,
                "the journal is crowded, and a checkpoint leaves something in it: whoever changes \
                 a file waits for one more try, until there is room"
            );
        }
    }

    /// Brings all changes to their places and makes them durable.
    ///
    /// # Errors
    /// The first that a file had, which is told, or the store's; what the journal has then stays
    /// there.
    pub fn checkpoint(&self) -> Result<(), FileError> {
        let Some(journaled) = &self.journaled else { return Ok(()) };
        self.check_lease()?;
        let _alone = lock(&journaled.running);
        if journaled.is_idle() { Ok(()) } else { self.checkpoint_alone(journaled) }
    }

    /// The same where nothing may be in the journal that is needed, and no room is left in it.
    ///
    /// # Errors
    /// As a checkpoint has.
    pub(in crate::file) fn checkpoint_for_room(&self) -> Result<(), FileError> {
        let Some(journaled) = &self.journaled else { return Ok(()) };
        self.check_lease()?;
        let _alone = lock(&journaled.running);
        self.checkpoint_alone(journaled)
    }

    /// Has the journal go on under the keys of the current epoch.
    ///
    /// # Errors
    /// As a checkpoint has.
    pub(in crate::file) fn turn_to_current(&self) -> Result<(), FileError> {
        let Some(journaled) = &self.journaled else { return Ok(()) };
        self.check_lease()?;
        let _alone = lock(&journaled.running);
        let is_current = || journaled.journal.epoch() == Some(self.keys().current());
        // The first one may have to end what an earlier one has left.
        for _ in 0..2 {
            if !is_current() {
                self.checkpoint_alone(journaled)?;
            }
        }
        Ok(())
    }

    /// The caller has the lock of whoever runs one.
    fn checkpoint_alone(&self, journaled: &Journaled) -> Result<(), FileError> {
        let begun = self.sessions.time();
        journaled.turn(&self.keys())?;
        let mut files: HashMap<u64, Arc<File>> = lock(&journaled.pending).clone();
        let fresh: Vec<u64> = lock(&journaled.fresh).keys().copied().collect();
        files.extend(fresh.iter().filter_map(|ino| Some((*ino, self.opened(*ino)?))));
        journaled.journal.sync_all()?;
        let (mut generations, mut failed) = (HashMap::new(), None);
        for (ino, file) in &files {
            // A file that can't be committed keeps its records, which go on in both segments.
            match file.bring_to_place() {
                Ok(generation) => drop(generations.insert(*ino, generation)),
                // Its place is free once it is closed, and perhaps room for others.
                Err(FileError::Sys(error))
                    if is_full(error) && self.give_up_nameless(journaled, file) =>
                {
                    generations.insert(*ino, 0);
                }
                Err(error) => {
                    if lock(&journaled.left).insert(*ino) {
                        file.tell_left(&error);
                    }
                    failed.get_or_insert(error);
                }
            }
        }
        lock(&journaled.left).retain(|ino| !generations.contains_key(ino));
        self.sync_places(journaled, &files, fresh.is_empty())?;
        if !fresh.is_empty() {
            // All of the disk was synced, and so what was made before.
            self.sessions.go_on(&self.keys(), begun);
        }
        let births = fresh.len();
        for ino in fresh {
            self.protect_fresh(journaled, ino, generations.get(&ino).copied())?;
        }
        lock(&journaled.fresh).shrink_to_fit();
        self.note_forgotten(births as u64);
        for (ino, file) in files.iter().filter(|(ino, _)| generations.contains_key(ino)) {
            file.let_go(|| lock(&journaled.pending).remove(ino));
        }
        lock(&journaled.pending).shrink_to_fit();
        if generations.len() == files.len() {
            journaled.journal.sync_all()?;
            journaled.journal.retire()?;
        }
        self.counters.checkpoints.add(1);
        journaled.is_stuck.fetch_and(failed.is_some(), Ordering::Relaxed);
        failed.map_or(Ok(()), Err)
    }

    /// Lets go of the files that are open only as the journal has changes of them, when the volume
    /// is not served any more: the next mount brings those to their places.
    pub fn let_go(&self) {
        if let Some(journaled) = &self.journaled {
            journaled.abandon();
        }
    }

    /// A file that is refused and that nobody has open is kept by the journal alone: brings what
    /// that has of it to its place, so that it can be opened anew. Holds no lock of a file.
    pub(in crate::file) fn let_go_of_latched(&self, ino: u64) {
        let is_kept_only = |file: Arc<File>| {
            // That of the journal, and this one.
            file.is_latched() && Arc::strong_count(&file) <= 2
        };
        if let Some(journaled) = &self.journaled
            && lock(&journaled.pending).contains_key(&ino)
            && self.opened(ino).is_some_and(is_kept_only)
            && let Err(error) = self.checkpoint()
        {
            tracing::debug!(ino, %error, "a file that is refused stays so");
        }
    }

    /// Lets go of a file that has no name any more, and that nobody has open or can open: what the
    /// journal has of it needs no place. The caller has a reference beside that of the journal.
    fn give_up_nameless(&self, journaled: &Journaled, file: &Arc<File>) -> bool {
        let is_nameless = |stat: Stat| stat.st_nlink == 0;
        let gone = rustix::fs::fstat(&file.state_anyway().blob).is_ok_and(is_nameless);
        if !gone || lock(&self.held).contains_key(&file.ino()) {
            return false;
        }
        let mut pending = lock(&journaled.pending);
        let held = 1 + usize::from(pending.contains_key(&file.ino()));
        let gone = self.forget_if_held(file, held);
        if gone {
            pending.remove(&file.ino());
        }
        gone
    }

    /// Makes durable what was brought to its place. If that fails nobody knows what is there: all
    /// of it is refused, and the journal keeps what it has for the next mount, which does it again.
    fn sync_places(
        &self,
        journaled: &Journaled,
        files: &HashMap<u64, Arc<File>>,
        none_new: bool,
    ) -> Result<(), FileError> {
        let synced = match none_new && files.len() <= SYNCED_ALONE_MAX {
            true => files.values().try_for_each(|file| Ok(file.sync_place()?)),
            false => self.sync_disk(),
        };
        if synced == Err(FileError::Sys(UNRENEWED)) {
            // Not tried: the next checkpoint syncs them, as all are among its files still.
            return synced;
        }
        synced.inspect_err(|error| {
            journaled.journal.give_up(error);
            for file in files.values() {
                file.latch(&file.state_anyway().blob, error);
            }
        })
    }

    /// A file that was new is durable, unless it was written to while that was seen to.
    fn protect_fresh(
        &self,
        journaled: &Journaled,
        ino: u64,
        generation: Option<u64>,
    ) -> Result<(), FileError> {
        let protected = match (self.opened(ino), generation) {
            (Some(file), Some(generation)) => file.protect_if(generation)?,
            (Some(_), None) => false,
            (None, _) => self.unless_open(ino, || lock(&journaled.fresh).remove(&ino)).is_some(),
        };
        if !protected { Ok(journaled.retell(ino)?) } else { Ok(()) }
    }
}

impl File {
    /// Whether it stays open and is committed by a later checkpoint, though nobody has it open.
    pub fn is_kept(&self) -> bool {
        let is_kept = |journaled: &Journaled| lock(&journaled.pending).contains_key(&self.ino());
        let is_lost = self.is_latched() || self.volume().check_lease() == Err(FileError::Lost);
        !is_lost && self.volume().journaled.as_ref().is_some_and(is_kept)
    }

    /// Says that it can't be brought to its place.
    fn tell_left(&self, error: &FileError) {
        let spot = Spot::of(self.ino(), &self.state_anyway().blob);
        let advice = match error {
            FileError::Sys(error) if is_full(*error) => "make room on the store's disk",
            FileError::Damaged(_) => "restore it from a snapshot, or remove it",
            _ => "see what the store's disk says (dmesg), and mount the volume again",
        };
        tracing::error!(
            ino = spot.ino,
            stored = spot.stored(),
            %error,
            advice,
            "changes stay in the journal, which has them for the next checkpoint or mount"
        );
    }

    /// Forgets that it has pending changes, unless it has some again.
    fn let_go(&self, forget: impl FnOnce() -> Option<Arc<Self>>) {
        let state = self.state_anyway();
        let kept = if state.blob.has_pending() || state.is_told() { None } else { forget() };
        drop(state);
        // Not under the lock: with the last handle a file is closed.
        drop(kept);
    }

    /// Commits, and copies what the journal has of this file to its place. Returns the generation.
    /// A file that is refused has its last commit brought there, and what the journal was told
    /// since: it was acknowledged. Where there is no room for it, it is read from the journal until
    /// there is.
    fn bring_to_place(&self) -> Result<u64, FileError> {
        let mut state = self.state_even_latched();
        if !self.is_in_doubt() && (!self.is_latched() || state.is_told()) {
            self.commit_state(&mut state)?;
        }
        let applied = match self.volume().has_room(state.blob.pending_len()) {
            true => state.blob.apply(),
            false => state.blob.reserve_pending().and_then(|()| state.blob.apply()),
        };
        if let Err(error) = applied
            && !is_full(error)
        {
            self.latch_after(&state.blob, &error);
        }
        applied?;
        // Of a file in doubt only the journal has that for certain.
        if state.is_told() { Err(FileError::Latched) } else { Ok(state.generation) }
    }

    /// Makes durable what was brought to its place.
    fn sync_place(&self) -> Result<(), Errno> {
        // Without the lock if there is a descriptor to spare: the disk may take its time.
        let blob = self.state_anyway().blob.again();
        let synced = match blob {
            Ok(blob) => blob.sync(true),
            Err(_) => self.state_anyway().blob.sync(true),
        };
        synced.inspect_err(|error| self.latch_after(&self.state_anyway().blob, error))
    }

    /// From here on what is stored is protected, if it is what was made durable.
    fn protect_if(&self, generation: u64) -> Result<bool, FileError> {
        let Ok(state) = self.state_mut() else { return Ok(false) };
        if state.dirty || state.generation != generation {
            return Ok(false);
        }
        self.protect(&state)?;
        Ok(true)
    }

    /// Everything stored is durable now.
    fn protect(&self, state: &State) -> Result<(), FileError> {
        let Some(journaled) = &self.volume().journaled else { return Ok(()) };
        journaled.end_fresh(&state.subject(self.ino()))?;
        let stored_len = state.geometry().stored_len(state.length);
        state.blob.set_floor(stored_len, state.generation);
        Ok(())
    }

    /// Makes durable what was committed.
    pub(in crate::file) fn sync_committed(&self, data_only: bool) -> Result<(), FileError> {
        let state = self.state()?;
        let latch = |error: &Errno| self.latch_after(&state.blob, error);
        let number = state.blob.number();
        let Some(journaled) = &self.volume().journaled else {
            return Ok(state.blob.sync(data_only).inspect_err(latch)?);
        };
        if state.blob.is_protected() {
            state.blob.promise();
            journaled.journal.sync_to(number).inspect_err(latch)?;
            return match data_only {
                true => Ok(()),
                false => Ok(state.blob.sync(false).inspect_err(latch)?),
            };
        }
        drop(state);
        // Alone: what is written to a file of which nothing is durable goes to its place at once,
        // away from under the header that this is about to acknowledge.
        let mut state = self.state_mut()?;
        self.commit_state(&mut state)?;
        if state.blob.is_protected() {
            drop(state);
            return self.sync_committed(data_only);
        }
        state.blob.sync(data_only).inspect_err(|error| self.latch_after(&state.blob, error))?;
        self.protect(&state)
    }
}
