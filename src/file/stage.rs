//! A stored file whose committed bytes change only by way of the journal.
//!
//! What is written below `floor`, where the bytes are that the file's durable header refers to, is
//! *staged* in memory; a commit appends all of it to the journal as one record, and it is *pending*
//! then, until a checkpoint copies it to its place. Reading sees staged bytes before pending ones
//! before those in place. What is written above the floor, in no durable header's reach, goes to
//! its place at once if it is much, and with the record if it is little: that saves a sync.
//!
//! A floor of 0 means that nothing of the file is durable yet: all is written in place.
//!
//! A file that is cut to nothing is *void*: what is in place counts no more, but stays until the
//! journal says so durably. What is written meanwhile is staged; if it becomes much, the caller
//! has the file begin again in place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::cipher::Sealed;
use crate::file::journal::Journal;
use crate::file::left::overlay;
use crate::file::staged::{Birth, Held, Place, Staged, Void, reserve_all};
use crate::format::geometry::BlockSize;
use crate::format::header::PREFIX_BYTES;
use crate::format::journal::{self, Extent, RecordKind, Subject};
use crate::store::{Blob, DiskBlob, Hook, SetAttr, UNRENEWED, Watched};

/// Bytes of one write above the floor from which it goes to its place at once.
const DIRECT_LEN_MIN: usize = 128 << 10;
/// Bytes above the floor that one record carries, about.
const AHEAD_LEN_MAX: usize = 1 << 20;
/// Bytes that wait for a commit, of one file, before it is committed.
const STAGED_LEN_MAX: usize = 4 << 20;
/// Bytes that a void file has in the journal before it goes on in place: above it, one sync costs
/// less than to write everything twice.
const VOID_LEN_MAX: usize = 1 << 20;
/// Bytes of the largest extent: a block.
const EXTENT_LEN_MAX: u64 = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(in crate::file) struct Stage {
    disk: DiskBlob,
    journal: Option<Arc<Journal>>,
    unit: usize,
    held: Mutex<Held>,
    /// Whether all is in place, so that a reader need not look.
    calm: AtomicBool,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let held = self.held();
        self.unstage(&held);
    }
}

impl AsFd for Stage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.disk.as_fd()
    }
}

impl Watched for Stage {
    fn hook(&self) -> &Hook {
        self.disk.hook()
    }
}

impl Stage {
    /// A stored file with this generation; `floor` as above.
    pub(in crate::file) fn new(
        disk: DiskBlob,
        journal: Option<Arc<Journal>>,
        block_size: BlockSize,
        floor: u64,
        generation: u64,
    ) -> Self {
        let held = Mutex::new(Held { floor, generation, ..Held::default() });
        Self { disk, journal, unit: block_size.len(), held, calm: AtomicBool::new(true) }
    }

    /// A stored file of this generation and length, of which recovery has left parts in the
    /// journal. They are read there until a checkpoint can bring them to their places.
    ///
    /// # Errors
    /// The store's.
    pub(in crate::file) fn waiting(
        disk: DiskBlob,
        journal: Arc<Journal>,
        block_size: BlockSize,
        (stored_len, generation): (u64, u64),
        pending: BTreeMap<u64, Place>,
    ) -> Result<Self, Errno> {
        let number = journal.appended();
        let stage = Self::new(disk, Some(journal), block_size, stored_len, generation);
        let cut = stage.disk_len()? > stored_len;
        let mut held = stage.held();
        (held.pending, held.cut) = (pending, cut);
        (held.committed_len, held.number) = (stored_len, number);
        drop(held);
        stage.calm.store(false, Ordering::Release);
        Ok(stage)
    }

    /// The stored file by one more descriptor, with what is in its place.
    pub(in crate::file) fn again(&self) -> Result<DiskBlob, Errno> {
        self.disk.again()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same file by a descriptor that can do more.
    pub(in crate::file) fn replace(&mut self, disk: DiskBlob) {
        self.disk = disk;
    }

    /// The journal and what is held, if this file is written by way of it.
    fn journaled(&self) -> Option<(&Arc<Journal>, MutexGuard<'_, Held>)> {
        let journal = self.journal.as_ref()?;
        let held = self.held();
        (held.floor > 0).then_some((journal, held))
    }

    /// Whether committed bytes are safe from what is written.
    pub(in crate::file) fn is_protected(&self) -> bool {
        self.journaled().is_some()
    }

    /// Whether changes are in the journal that are not in place.
    pub(in crate::file) fn has_pending(&self) -> bool {
        let held = self.held();
        let rest = held.cut || !held.punched.is_empty() || held.void.is_some();
        !held.pending.is_empty() || rest
    }

    /// About how many bytes the stored file takes once all is in place; `lower` takes `taken`.
    pub(in crate::file) fn space(&self, lower_len: u64, taken: u64) -> u64 {
        if self.calm.load(Ordering::Acquire) {
            return taken;
        }
        self.held().space(lower_len, taken)
    }

    /// Bytes of changes in the journal that are not in place.
    pub(in crate::file) fn pending_len(&self) -> usize {
        if self.calm.load(Ordering::Acquire) { 0 } else { self.held().pending_len() }
    }

    /// Bytes that wait for a commit.
    fn staged_len(&self) -> usize {
        if self.calm.load(Ordering::Acquire) { 0 } else { self.held().staged_len }
    }

    /// Whether the journal can tell bytes that are written next without a commit: what it tells now
    /// leads from what is durable to all that a commit has brought.
    pub(in crate::file) fn is_even(&self) -> bool {
        self.journaled().is_some_and(|(_, held)| {
            held.staged.is_empty() && held.direct.is_empty() && held.void.is_none()
        })
    }

    /// A record of this file was appended that is no change of what is stored.
    pub(in crate::file) fn told(&self, number: u64) {
        self.held().number = number;
    }

    /// Bytes of the stored file with the last record.
    pub(in crate::file) fn committed_len(&self) -> u64 {
        self.held().committed_len
    }

    /// Number of the last record of this file; 0 if there is none.
    pub(in crate::file) fn number(&self) -> u64 {
        self.held().number
    }

    /// Appends what is staged to the journal, as one change to `subject`'s generation; the stored
    /// file is `stored_len` bytes long with it.
    pub(in crate::file) fn commit(&self, subject: &Subject, stored_len: u64) -> Result<(), Errno> {
        let Some((journal, mut held)) = self.journaled() else { return Ok(()) };
        if !held.direct.is_empty() {
            // After a failed sync nobody knows what is on the disk: that is no commit which can be
            // tried again, whatever it failed for.
            let lasting = |error| if error == UNRENEWED { error } else { Errno::IO };
            self.disk.sync(true).map_err(lasting)?;
        }
        let extent = |(offset, sealed): (&u64, &Sealed)| {
            let len = u32::try_from(sealed.as_bytes().len()).expect("a block at most");
            Extent { offset: *offset, len }
        };
        let extents: Vec<Extent> = held.staged.iter().map(extent).collect();
        let parts: Vec<&Sealed> = held.staged.values().collect();
        let beginning = journal::encode_change(subject, held.generation, &extents, &held.direct);
        let kind = match &held.void {
            Some(void) if !void.told => RecordKind::Anew,
            _ => RecordKind::Change,
        };
        let placed = journal.append(kind, &beginning, &parts)?;
        held.void.iter_mut().for_each(|void| void.told = true);
        let mut at = placed.body_at + beginning.len() as u64;
        held.direct.clear();
        held.staged.clear();
        journal.count_staged(held.staged_len, 0);
        for extent in extents {
            let place = Place { segment: placed.segment, at, len: extent.len as usize };
            held.pending.insert(extent.offset, place);
            at += u64::from(extent.len);
        }
        (held.staged_len, held.ahead_len) = (0, 0);
        held.floor = held.floor.max(stored_len);
        held.committed_len = stored_len;
        held.generation = subject.generation;
        held.number = placed.number;
        Ok(())
    }

    /// Nothing stored is needed any more: the file begins anew. Returns what was held, for
    /// [`Self::go_back`]; `None` where nothing of it is there any more.
    pub(in crate::file) fn restart(&self) -> Result<Option<Held>, Errno> {
        if self.journal.is_none() {
            return Ok(None);
        }
        let mut held = self.held();
        self.unstage(&held);
        let (generation, number, floor) = (held.generation, held.number, held.floor);
        let void = if floor > 0 { Some(Void::default()) } else { None };
        if void.is_none() {
            self.disk.set_len(0)?;
        }
        self.calm.store(void.is_none(), Ordering::Release);
        let is_kept = void.is_some();
        let anew = Held { generation, number, floor, void, ..Held::default() };
        let former = std::mem::replace(&mut *held, anew);
        Ok(is_kept.then_some(former))
    }

    /// The file does not begin anew: the journal had no room to say so.
    pub(in crate::file) fn go_back(&self, former: Held) {
        let mut held = self.held();
        self.unstage(&held);
        if let Some(journal) = &self.journal {
            journal.count_staged(0, former.staged_len);
        }
        self.calm.store(false, Ordering::Release);
        *held = former;
    }

    /// What is staged, once more; `None` of a file that is written in place.
    pub(in crate::file) fn copy_staged(&self) -> Option<Staged> {
        self.journaled().map(|(_, held)| held.copy_staged())
    }

    /// Stages what was staged then, and nothing else.
    pub(in crate::file) fn unwind(&self, staged: Staged) {
        if let Some((journal, mut held)) = self.journaled() {
            journal.count_staged(held.staged_len, staged.len());
            held.unwind(staged);
        }
    }

    /// Keeps how the file begins, if it is void; gives it back otherwise.
    pub(in crate::file) fn keep_birth(&self, birth: Birth) -> Option<Birth> {
        match &mut self.held().void {
            Some(void) => void.birth = Some(birth),
            None => return Some(birth),
        }
        None
    }

    /// What is committed is acknowledged from now on: a void file does not go on in place any more.
    pub(in crate::file) fn promise(&self) {
        if let Some(void) = &mut self.held().void {
            void.birth = None;
        }
    }

    /// How a void file began, of which so much is in the journal that it should go on in place.
    pub(in crate::file) fn take_birth(&self) -> Option<Birth> {
        if self.calm.load(Ordering::Acquire) {
            return None;
        }
        self.held().void.as_mut().filter(|void| void.len > VOID_LEN_MAX)?.birth.take()
    }

    /// Goes on in place, all of it: the journal says durably that nothing is promised. Returns how
    /// long the stored file is.
    pub(in crate::file) fn go_in_place(&self) -> Result<u64, Errno> {
        let Some((journal, mut held)) = self.journaled() else { return self.disk_len() };
        self.disk.set_len(PREFIX_BYTES as u64)?;
        for (offset, place) in &held.pending {
            journal.copy_to((place.segment, place.at), &self.disk, *offset, place.len)?;
        }
        for (offset, sealed) in &held.staged {
            self.disk.write_at(*offset, sealed, 0..sealed.as_bytes().len())?;
        }
        let (generation, number) = (held.generation, held.number);
        self.unstage(&held);
        *held = Held { generation, number, ..Held::default() };
        self.calm.store(true, Ordering::Release);
        self.disk_len()
    }

    fn disk_len(&self) -> Result<u64, Errno> {
        Ok(u64::try_from(rustix::fs::fstat(&self.disk)?.st_size).unwrap_or(0))
    }

    /// What is staged goes.
    fn unstage(&self, held: &Held) {
        if let Some(journal) = &self.journal {
            journal.count_staged(held.staged_len, 0);
        }
    }

    /// Whether so much waits for a commit, here and elsewhere, that this file should be committed.
    pub(in crate::file) fn is_pressed(&self) -> bool {
        let own = self.staged_len();
        let all = self.journal.as_ref().is_some_and(|journal| journal.is_pressed());
        own > STAGED_LEN_MAX || (own > 0 && all)
    }

    /// All that was written is durable now: from here on it is protected.
    pub(in crate::file) fn set_floor(&self, stored_len: u64, generation: u64) {
        let mut held = self.held();
        (held.floor, held.committed_len, held.generation) = (stored_len, stored_len, generation);
    }

    /// Asks for the places of what is pending, so that all of it is copied or nothing: whoever
    /// reads beside this mount finds a committed state.
    pub(in crate::file) fn reserve_pending(&self) -> Result<(), Errno> {
        let Some((_, held)) = self.journaled() else { return Ok(()) };
        match held.void {
            Some(_) => Ok(()),
            None => reserve_all(&self.disk, held.pending.range(..held.committed_len)),
        }
    }

    /// Copies what is pending to its place, where a sync has to make it durable before the records
    /// go.
    pub(in crate::file) fn apply(&self) -> Result<(), Errno> {
        let Some((journal, mut held)) = self.journaled() else { return Ok(()) };
        if held.number == 0 {
            return Ok(());
        }
        if held.void.as_ref().is_some_and(|void| !void.told) {
            // What is in place is the only thing that counts, with the records that go with it.
            return Err(Errno::IO);
        }
        let stored_len = held.committed_len;
        journal.sync_to(held.number)?;
        let before = rustix::fs::fstat(&self.disk)?;
        if held.void.is_some() {
            // Not to zero: recovery finds the file by what stays of its header.
            self.disk.set_len(PREFIX_BYTES as u64)?;
        }
        while let Some((offset, len)) = held.punched.last().copied() {
            self.disk.punch(offset, len)?;
            held.punched.pop();
        }
        // What lies beyond the end was committed, and cut off since.
        for (offset, place) in held.pending.range(..stored_len).rev() {
            journal.copy_to((place.segment, place.at), &self.disk, *offset, place.len)?;
        }
        // Also without a change of length it takes away what was reserved behind the end.
        if self.disk_len()? != stored_len {
            self.disk.set_len(stored_len)?;
        }
        // When it was written is known already; when it was copied is nobody's business.
        SetAttr::times_of(&before).apply_to(&self.disk)?;
        held.pending.clear();
        (held.void, held.cut, held.floor) = (None, false, stored_len);
        self.calm.store(held.staged.is_empty(), Ordering::Release);
        Ok(())
    }
}

impl Blob for Stage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        if self.calm.load(Ordering::Acquire) {
            return self.disk.read_at(offset, buf);
        }
        let held = self.held();
        let void = held.void.is_some();
        let mut len = if void { 0 } else { self.disk.read_at(offset, buf)? };
        buf[len..].fill(0);
        let near = offset.saturating_sub(EXTENT_LEN_MAX)..offset.saturating_add(buf.len() as u64);
        if let Some(journal) = &self.journal {
            for (start, place) in held.pending.range(near.clone()) {
                let end = overlay(buf, offset, *start, place.len, |skip, part| {
                    journal.read(place.segment, place.at + skip as u64, part)
                })?;
                len = len.max(end);
            }
        }
        for (start, sealed) in held.staged.range(near) {
            let bytes = sealed.as_bytes();
            let end = overlay(buf, offset, *start, bytes.len(), |skip, part| {
                part.copy_from_slice(&bytes[skip..skip + part.len()]);
                Ok(())
            })?;
            len = len.max(end);
        }
        Ok(len)
    }

    fn write_at(&self, offset: u64, sealed: &Sealed, part: Range<usize>) -> Result<(), Errno> {
        let Some((journal, mut held)) = self.journaled() else {
            return self.disk.write_at(offset, sealed, part);
        };
        let staged_before = held.staged_len;
        held.void.iter_mut().for_each(|void| void.len += part.len());
        let free = offset >= held.floor
            && held.void.is_none()
            && held.staged.range(offset..).next().is_none();
        if free && (part.len() >= DIRECT_LEN_MIN || held.ahead_len >= AHEAD_LEN_MAX) {
            return held.write_direct(&self.disk, offset, sealed, part);
        }
        self.calm.store(false, Ordering::Release);
        let mut at = part.start;
        while at < part.end {
            let len = (part.end - at).min(self.unit);
            let place = offset + (at - part.start) as u64;
            let piece = sealed.part(at..at + len);
            held.ahead_len += if place >= held.floor { len } else { 0 };
            held.staged_len += len;
            if let Some(before) = held.staged.insert(place, piece) {
                held.staged_len -= before.as_bytes().len();
            }
            at += len;
        }
        journal.count_staged(staged_before, held.staged_len);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Errno> {
        let Some((_, mut held)) = self.journaled() else { return self.disk.set_len(len) };
        if held.void.is_some() {
            return Ok(());
        }
        let stored = self.disk_len()?;
        if len > stored {
            self.disk.set_len(len)?;
        }
        if len < stored {
            held.cut = true;
            self.calm.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.disk.reserve(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        match self.journaled() {
            Some((_, held)) if held.void.is_some() => Ok(()),
            Some((_, mut held)) if offset < held.floor => {
                held.punched.push((offset, len));
                Ok(())
            }
            _ => self.disk.punch(offset, len),
        }
    }

    fn sync(&self, data_only: bool) -> Result<(), Errno> {
        self.disk.sync(data_only)
    }
}
