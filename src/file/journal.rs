//! The journal of a volume that is open for writing: records appended to one of two segments, and
//! made durable for many at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::Errno;

use crate::cipher::{Plain, Sealed, SegmentCipher, VolumeKeys};
use crate::format::ids::Epoch;
use crate::format::journal::{BODY_LEN_MAX, FRAME_LEN, HEAD_LEN, RecordKind};
use crate::store::{Blob, DiskBlob, UNRENEWED, is_full, leave, path_of};

/// Bytes of records in a segment above which it is time for a checkpoint. A bound on what is
/// written at a moment is not needed for being right: a segment that is crowded goes on growing
/// until the checkpoint that everybody waits for who adds to it.
const CROWDED_LEN_MAX: u64 = 80 << 20;
/// The same of a small disk: one part of it in so many.
const CROWDED_PART: u64 = 32;
/// Bytes of a segment, at most. It comes to that only where a file can't be brought to its place,
/// which the log tells; then no space is left for others.
const SEGMENT_LEN_MAX: u64 = 1 << 30;
/// Bytes that wait for a commit, of all files together, before each write commits its own file's.
const STAGED_MAX: u64 = 32 << 20;
/// Bytes by which a segment is lengthened, with zeros: a sync of what is written over is cheaper
/// than one of a file that grows, as the disk has no new length and place to note.
const STEP_LEN: u64 = 256 << 10;
/// Bytes that a segment has at least: on a disk without any room more, what one write of a program
/// commits, a MiB and nodes.
const FIRST_LEN: u64 = 5 << 18;
/// Bytes of a segment that are kept when nobody needs its records, and above which it is time for a
/// checkpoint on a disk that is nearly full.
const KEPT_LEN: u64 = 4 << 20;

/// Where a record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::file) struct Placed {
    /// Which segment.
    pub(in crate::file) segment: usize,
    /// Where in it the body begins.
    pub(in crate::file) body_at: u64,
    /// Records appended until then, this one among them.
    pub(in crate::file) number: u64,
}

/// Where the newest segment ends that a crash has left.
#[derive(Debug)]
pub(in crate::file) struct End {
    /// Which segment.
    pub(in crate::file) active: usize,
    /// What authenticates its records.
    pub(in crate::file) cipher: SegmentCipher,
    /// What its head says.
    pub(in crate::file) order: u64,
    /// Number that its next record has.
    pub(in crate::file) sequence: u64,
    /// Where its last whole record ends.
    pub(in crate::file) tail: u64,
}

#[derive(Debug)]
struct Writer {
    active: usize,
    cipher: SegmentCipher,
    order: u64,
    /// Whose keys authenticate what is appended; `None`: those that a crash has left.
    epoch: Option<Epoch>,
    sequence: u64,
    tail: u64,
    /// Bytes of each segment.
    lens: [u64; 2],
    /// Segments with bytes that no sync has covered.
    unsynced: [bool; 2],
    appended: u64,
    /// Whether nobody needs the records of the other segment.
    retired: bool,
}

/// Who makes it durable.
#[derive(Debug, Default)]
struct Syncing {
    busy: bool,
    /// Threads that wait until nobody is busy.
    waiting: usize,
}

/// Invariants:
/// 1. a record is durable if its number is at most `synced`;
/// 2. after a failed write or sync nothing is appended and nothing counts as durable any more; one
///    that was not made, as the lease could not be renewed, changes nothing.
#[derive(Debug)]
pub(in crate::file) struct Journal {
    segments: [DiskBlob; 2],
    writer: Mutex<Writer>,
    syncing: Mutex<Syncing>,
    synced: AtomicU64,
    /// Bytes that wait for a commit, of all files.
    staged: AtomicU64,
    crowded_len: AtomicU64,
    ended: Condvar,
    failed: OnceLock<Errno>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves these consistent: each change of them is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Empties both segments, durably: nobody needs their records any more. Their space stays theirs,
/// for the next mount to begin with on a disk that is full.
pub(in crate::file) fn clear(segments: &[DiskBlob; 2]) -> Result<(), Errno> {
    for segment in segments {
        segment.write_zeros(0, HEAD_LEN as u64)?;
        segment.sync(true)?;
    }
    Ok(())
}

impl Journal {
    /// An empty journal in two segment files that hold no record which anybody needs.
    pub(in crate::file) fn start(
        segments: [DiskBlob; 2],
        keys: &VolumeKeys,
    ) -> Result<Self, Errno> {
        let (head, cipher) = keys.new_segment(0);
        // Both get their first step now, so that a volume does not grow while it is served.
        let mut lens = [HEAD_LEN as u64; 2];
        for (segment, len) in segments.iter().zip(&mut lens) {
            let there = u64::try_from(rustix::fs::fstat(segment)?.st_size).unwrap_or(0);
            let step = segment.write_zeros(there, FIRST_LEN.saturating_sub(there));
            *len = if step.is_ok() { there.max(FIRST_LEN) } else { there.max(*len) };
        }
        segments[0].write_at(0, &head, 0..HEAD_LEN)?;
        let writer = Writer {
            active: 0,
            cipher,
            order: 0,
            epoch: Some(keys.current()),
            sequence: 0,
            tail: HEAD_LEN as u64,
            lens,
            unsynced: [true; 2],
            appended: 0,
            retired: true,
        };
        Ok(Self::with(segments, writer))
    }

    /// Goes on in segment `end.active` behind its last whole record. What both segments hold is
    /// needed until a checkpoint.
    pub(in crate::file) fn resume(segments: [DiskBlob; 2], end: End) -> Result<Self, Errno> {
        let End { active, cipher, order, sequence, tail } = end;
        // A torn record may be followed by whole ones: they must not follow what comes there now.
        segments[active].set_len(tail)?;
        segments[active].sync(false)?;
        let mut lens = [HEAD_LEN as u64; 2];
        for (segment, len) in segments.iter().zip(&mut lens) {
            *len = u64::try_from(rustix::fs::fstat(segment)?.st_size).unwrap_or(0);
        }
        let (unsynced, retired) = ([true; 2], false);
        // All that a crash has left counts as one record that was appended.
        let writer = Writer {
            active,
            cipher,
            order,
            epoch: None,
            sequence,
            tail,
            lens,
            unsynced,
            appended: 1,
            retired,
        };
        Ok(Self::with(segments, writer))
    }

    fn with(segments: [DiskBlob; 2], writer: Writer) -> Self {
        Self {
            segments,
            writer: Mutex::new(writer),
            syncing: Mutex::default(),
            synced: AtomicU64::new(0),
            staged: AtomicU64::new(0),
            crowded_len: AtomicU64::new(CROWDED_LEN_MAX),
            ended: Condvar::new(),
            failed: OnceLock::new(),
        }
    }

    /// Whether it can be relied on. `EIO` if not, whatever it failed for: another error might be
    /// taken for one that passes.
    fn check(&self) -> Result<(), Errno> {
        if self.failed.get().is_some() { Err(Errno::IO) } else { Ok(()) }
    }

    fn fail(&self, error: Errno) -> Errno {
        if error != UNRENEWED && self.failed.set(error).is_ok() {
            tracing::error!(
                stored = path_of(&self.segments[0]).map(debug),
                %error,
                "the journal can't be written: nothing more is committed until the volume is \
                 mounted again; see what its disk says (dmesg)"
            );
        }
        error
    }

    /// Nothing is appended or forgotten any more: what it has is needed by the next mount.
    pub(in crate::file) fn give_up(&self, error: &dyn std::fmt::Display) {
        if self.failed.set(Errno::IO).is_ok() {
            tracing::error!(
                %error,
                "what the journal has can't be made durable in its place; the volume takes no \
                 changes: see what the disk says (dmesg), unmount and mount again"
            );
        }
    }

    /// Notes that as many bytes more wait for a commit, or fewer.
    pub(in crate::file) fn count_staged(&self, before: usize, after: usize) {
        self.staged.fetch_add(after as u64, Ordering::Relaxed);
        self.staged.fetch_sub(before as u64, Ordering::Relaxed);
    }

    /// Whether so many wait that who adds to them has to commit.
    pub(in crate::file) fn is_pressed(&self) -> bool {
        self.staged.load(Ordering::Relaxed) > STAGED_MAX
    }

    /// Appends a record. It survives the end of this process, and a power cut after
    /// [`Self::sync_to`].
    ///
    /// # Errors
    /// The store's, or `EFBIG` for more than [`BODY_LEN_MAX`]. No space, or too much, is an error
    /// of this record alone.
    pub(in crate::file) fn append(
        &self,
        kind: RecordKind,
        beginning: &[u8],
        parts: &[&Sealed],
    ) -> Result<Placed, Errno> {
        let mut writer = lock(&self.writer);
        self.check()?;
        let record = writer.cipher.seal_record(kind, writer.sequence, beginning, parts);
        self.put(&mut writer, &record)
    }

    /// The same for a record of [`RecordKind::Written`]; `None` if it would not come to the
    /// segment that the earlier ones of its file are in.
    pub(in crate::file) fn append_written(
        &self,
        body: &Plain,
        earlier: Option<usize>,
    ) -> Result<Option<Placed>, Errno> {
        let mut writer = lock(&self.writer);
        self.check()?;
        if earlier.is_some_and(|segment| segment != writer.active) {
            return Ok(None);
        }
        let record = writer.cipher.seal_written(writer.sequence, body);
        self.put(&mut writer, &record).map(Some)
    }

    fn put(&self, writer: &mut Writer, record: &Sealed) -> Result<Placed, Errno> {
        let (segment, len) = (writer.active, record.as_bytes().len());
        if len > FRAME_LEN + BODY_LEN_MAX {
            // Recovery would take it for a torn one, and leave out all that follows.
            return Err(Errno::FBIG);
        }
        if writer.tail + len as u64 > SEGMENT_LEN_MAX {
            return Err(Errno::NOSPC);
        }
        match self.segments[segment].write_at(writer.tail, record, 0..len) {
            Ok(()) => {}
            Err(error) if is_full(error) => return Err(error),
            Err(error) => return Err(self.fail(error)),
        }
        let body_at = writer.tail + FRAME_LEN as u64;
        writer.tail += len as u64;
        writer.sequence += 1;
        writer.appended += 1;
        writer.unsynced[segment] = true;
        self.lengthen(writer);
        Ok(Placed { segment, body_at, number: writer.appended })
    }

    /// Makes place for the next records, if the last one has made the segment longer. Without it
    /// they find their own, or do not.
    fn lengthen(&self, writer: &mut Writer) {
        let (segment, tail) = (writer.active, writer.tail);
        if tail > writer.lens[segment] {
            let step = self.segments[segment].write_zeros(tail, STEP_LEN);
            writer.lens[segment] = if step.is_ok() { tail + STEP_LEN } else { tail };
        }
    }

    /// Number of the last record that was appended.
    pub(in crate::file) fn appended(&self) -> u64 {
        lock(&self.writer).appended
    }

    /// Whose keys authenticate what is appended, if that is known.
    pub(in crate::file) fn epoch(&self) -> Option<Epoch> {
        lock(&self.writer).epoch
    }

    /// Whether nobody needs the records of the segment that is not in use, nor any that a crash
    /// has left in either.
    pub(in crate::file) fn is_retired(&self) -> bool {
        lock(&self.writer).retired
    }

    /// Returns when the first `number` records survive a power cut. One sync serves all who wait.
    ///
    /// # Errors
    /// The store's, also those of an earlier sync.
    pub(in crate::file) fn sync_to(&self, number: u64) -> Result<(), Errno> {
        let mut syncing = lock(&self.syncing);
        loop {
            self.check()?;
            if self.synced.load(Ordering::Acquire) >= number {
                return Ok(());
            }
            if syncing.busy {
                syncing.waiting += 1;
                syncing = self.ended.wait(syncing).unwrap_or_else(PoisonError::into_inner);
                syncing.waiting -= 1;
                continue;
            }
            syncing.busy = true;
            drop(syncing);
            let synced = self.sync_now();
            syncing = lock(&self.syncing);
            syncing.busy = false;
            match synced {
                Ok(appended) => self.synced.store(appended, Ordering::Release),
                Err(error) => drop(self.fail(error)),
            }
            // It costs a system call, also where nobody waits.
            if syncing.waiting > 0 {
                self.ended.notify_all();
            }
            if synced == Err(UNRENEWED) {
                return Err(UNRENEWED);
            }
        }
    }

    fn sync_now(&self) -> Result<u64, Errno> {
        let (unsynced, appended) = {
            let mut writer = lock(&self.writer);
            (std::mem::take(&mut writer.unsynced), writer.appended)
        };
        let mut segments = self.segments.iter().zip(unsynced).filter(|(_, unsynced)| *unsynced);
        let synced = segments.try_for_each(|(segment, _)| segment.sync(true));
        if synced.is_err() {
            let mut writer = lock(&self.writer);
            (0..2).for_each(|at| writer.unsynced[at] |= unsynced[at]);
        }
        synced.map(|()| appended)
    }

    /// Returns when all that was appended so far survives a power cut.
    pub(in crate::file) fn sync_all(&self) -> Result<(), Errno> {
        self.sync_to(self.appended())
    }

    /// Goes on in the other segment, unless somebody needs its records still.
    pub(in crate::file) fn turn(&self, keys: &VolumeKeys) -> Result<(), Errno> {
        let mut writer = lock(&self.writer);
        self.check()?;
        if !writer.retired {
            return Ok(());
        }
        let next = 1 - writer.active;
        let (head, cipher) = keys.new_segment(writer.order + 1);
        match self.segments[next].write_at(0, &head, 0..HEAD_LEN) {
            Ok(()) => {}
            // What is there is a head without a record, which nobody goes on from.
            Err(error) if is_full(error) => return Err(error),
            Err(error) => return Err(self.fail(error)),
        }
        writer.unsynced[next] = true;
        (writer.active, writer.cipher, writer.order) = (next, cipher, writer.order + 1);
        writer.epoch = Some(keys.current());
        (writer.sequence, writer.tail, writer.retired) = (0, HEAD_LEN as u64, false);
        Ok(())
    }

    /// The records of the segment that is not in use are no longer needed; of its space, what is
    /// not soon needed again is given back.
    pub(in crate::file) fn retire(&self) -> Result<(), Errno> {
        let mut writer = lock(&self.writer);
        writer.retired = true;
        let other = 1 - writer.active;
        if writer.lens[other] > KEPT_LEN {
            self.segments[other].set_len(KEPT_LEN)?;
            writer.lens[other] = KEPT_LEN;
        }
        Ok(())
    }

    /// Nobody needs any record: both segments are emptied, and as long as they are at first.
    pub(in crate::file) fn end(&self) {
        if self.works() {
            let emptied = self.segments.iter().try_for_each(|segment| {
                segment.write_zeros(0, HEAD_LEN as u64)?;
                segment.set_len(FIRST_LEN)
            });
            leave(emptied, "the journal's space");
        }
    }

    /// Whether no sync or write of it has failed.
    pub(in crate::file) fn works(&self) -> bool {
        self.check().is_ok()
    }

    /// The same, durably.
    pub(in crate::file) fn clear(&self) -> Result<(), Errno> {
        clear(&self.segments)
    }

    /// Takes a small part only of a disk that has `len` bytes.
    pub(in crate::file) fn fit(&self, len: u64) {
        let crowded_len = (len / CROWDED_PART).clamp(FIRST_LEN, CROWDED_LEN_MAX);
        self.crowded_len.store(crowded_len, Ordering::Relaxed);
    }

    /// Bytes that a mount after a crash would read.
    pub(in crate::file) fn needed_bytes(&self) -> u64 {
        let writer = lock(&self.writer);
        let other = if writer.retired { 0 } else { writer.lens[1 - writer.active] };
        writer.tail.saturating_sub(HEAD_LEN as u64) + other
    }

    /// Whether it is time for a checkpoint; sooner on a disk that is nearly full.
    pub(in crate::file) fn is_crowded(&self, is_short: bool) -> bool {
        let most = self.crowded_len.load(Ordering::Relaxed);
        lock(&self.writer).tail > if is_short { most.min(KEPT_LEN) } else { most }
    }

    /// Reads what was appended.
    pub(in crate::file) fn read(
        &self,
        segment: usize,
        at: u64,
        buf: &mut [u8],
    ) -> Result<(), Errno> {
        let len = self.segments[segment].read_at(at, buf)?;
        if len == buf.len() { Ok(()) } else { Err(self.segments[segment].is_cut()) }
    }

    /// Copies a part of what was appended into a stored file.
    pub(in crate::file) fn copy_to(
        &self,
        (segment, at): (usize, u64),
        target: &DiskBlob,
        offset: u64,
        len: usize,
    ) -> Result<(), Errno> {
        target.copy_from(&self.segments[segment], at, offset, len)
    }
}
