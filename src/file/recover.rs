//! What a crash has left in the journal, brought to its places when the volume is opened.
//!
//! Per file, from the last record that tells of a beginning on: first all changes are copied to
//! their places. What was written after the last of them, and not committed, is then written once
//! more, as programs write, by way of the same journal: a crash meanwhile finds all there still.
//! Records of a file that is gone, or older than what is stored, mean nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustix::io::Errno;

use crate::cipher::{OPENED_BODY_AT, Plain, Sealed, SegmentCipher};
use crate::file::adopt::{Waiting, adopt};
use crate::file::checkpoint::Journaled;
use crate::file::error::FileError;
use crate::file::find::{Claim, claim, number_alike, open, walk, which};
use crate::file::journal::{End, Journal, clear};
use crate::file::replay::{Birth, LOOKED_AT_MAX, Outcome, Plan, Step, apply};
use crate::file::staged::Place;
use crate::file::volume::Volume;
use crate::format::ids::FileId;
use crate::format::journal::{self, Extent, FRAME_LEN, HEAD_LEN, Record, RecordKind, Subject};
use crate::store::{Blob, DiskBlob, Durability, is_full};

/// What is kept of a whole record.
struct Entry {
    segment: usize,
    subject: Subject,
    kept: Kept,
}

/// Not the bytes of changes, which are copied from where they lie: there may be more of them than
/// memory. Whoever writes others there meanwhile might as well write those to the stored file.
enum Kept {
    Fresh { opened: Sealed, header: (u64, usize) },
    Settled,
    Change { anew: bool, base: u64, extents: Vec<(Extent, u64)>, placed: Vec<Extent> },
    Written(Plain),
}

/// A record that was opened: frame and body, or a body that was enciphered.
enum Opened {
    Stored(Sealed),
    Written(Plain),
}

impl Opened {
    fn body(&self) -> &[u8] {
        match self {
            Self::Stored(sealed) => &sealed.as_bytes()[OPENED_BODY_AT..],
            Self::Written(body) => body,
        }
    }

    /// What is needed of it; `None` if it says nothing. Its body lies at `body_at` of a segment.
    fn keep(self, kind: RecordKind, body_at: u64) -> Option<(Subject, Kept)> {
        let (subject, kept) = match journal::decode_body(kind, self.body())? {
            Record::Fresh { subject, header } => {
                let at = body_at + (self.body().len() - header.len()) as u64;
                (subject, Err((at, header.len())))
            }
            Record::Settled { subject } => (subject, Ok(Kept::Settled)),
            Record::Change { subject, anew, base, extents, placed } => {
                let lies = |(extent, at): (Extent, usize)| (extent, body_at + at as u64);
                let extents = extents.into_iter().map(lies).collect();
                (subject, Ok(Kept::Change { anew, base, extents, placed }))
            }
            Record::Written { subject, .. } => (subject, Err((0, 0))),
        };
        let kept = match (kept, self) {
            (Ok(kept), _) => kept,
            (Err(header), Self::Stored(opened)) => Kept::Fresh { opened, header },
            (Err(_), Self::Written(body)) => Kept::Written(body),
        };
        Some((subject, kept))
    }
}

/// What a crash has left to be done.
enum Left {
    /// Nothing: the journal was empty.
    Nothing,
    /// All is in its place, and nobody needs the records.
    InPlace,
    /// The journal goes on at its end.
    Unfinished(Unfinished),
}

/// Files that need the journal still.
struct Unfinished {
    entries: Vec<Entry>,
    /// What it tells of those that were written to and not committed, by lower inode number:
    /// records, by their place among all.
    told: HashMap<u64, Vec<usize>>,
    /// Those for whose changes the disk has no room.
    waiting: Vec<Waiting>,
    /// Those that had begun and are durable now, whatever was left of them.
    settled: Vec<Subject>,
}

/// All whole records, the oldest first.
fn read(volume: &Volume, segments: &[DiskBlob; 2]) -> Result<(Vec<Entry>, Option<End>), FileError> {
    let mut found = Vec::new();
    for (active, segment) in segments.iter().enumerate() {
        let mut page = vec![0; HEAD_LEN];
        let len = segment.read_at(0, &mut page)?;
        if let Some((head, tag)) = journal::decode_head(&page[..len])
            && let Ok(cipher) = volume.keys().open_segment(&head, &tag)
        {
            found.push((head.order, active, cipher));
        } else if page[..len].iter().any(|byte| *byte != 0) {
            // No crash leaves that: what a head says lies in one sector.
            tracing::error!(
                segment = active,
                "a segment of the journal is not authentic and is left out; what was synced last \
                 and is lost with it is as it was before, or refused: restore it from a snapshot"
            );
        }
    }
    found.sort_by_key(|(order, ..)| *order);
    if let [(older, ..), (newer, ..)] = &found[..]
        && older.checked_add(1) != Some(*newer)
    {
        // Long retired: the new head that was to go over this one did not arrive.
        found.remove(0);
    }
    let (mut entries, mut end) = (Vec::new(), None);
    for (order, active, cipher) in found {
        let (sequence, tail) = read_segment(&segments[active], active, &cipher, &mut entries)?;
        end = Some(End { active, cipher, order, sequence, tail });
    }
    Ok((entries, end))
}

/// The record that lies as number `sequence` in a segment, if it is whole.
fn unseal(
    cipher: &SegmentCipher,
    kind: RecordKind,
    sequence: u64,
    record: &[u8],
) -> Option<Opened> {
    match kind {
        RecordKind::Written => cipher.open_written(sequence, record).ok().map(Opened::Written),
        _ => cipher.open_record(sequence, record).ok().map(Opened::Stored),
    }
}

/// Whether a journal holds anything: its first record is whole.
pub(in crate::file) fn is_pending(volume: &Volume, segments: &[DiskBlob; 2]) -> bool {
    segments.iter().any(|segment| {
        let mut page = vec![0; HEAD_LEN + FRAME_LEN];
        let len = segment.read_at(0, &mut page).unwrap_or(0);
        let frame = page[..len].get(HEAD_LEN..).and_then(<[u8]>::first_chunk);
        let first = journal::decode_head(&page[..len]).zip(frame.and_then(journal::decode_frame));
        first.is_some_and(|((head, tag), (claim, _))| {
            let mut record = vec![0; FRAME_LEN + claim.body_len as usize];
            let whole = segment.read_at(HEAD_LEN as u64, &mut record) == Ok(record.len());
            let cipher = volume.keys().open_segment(&head, &tag);
            whole && cipher.is_ok_and(|cipher| unseal(&cipher, claim.kind, 0, &record).is_some())
        })
    })
}

/// Returns the number of the record that comes after the last whole one, and where.
fn read_segment(
    segment: &DiskBlob,
    number: usize,
    cipher: &SegmentCipher,
    entries: &mut Vec<Entry>,
) -> Result<(u64, u64), FileError> {
    let (mut at, mut sequence) = (HEAD_LEN as u64, 0);
    loop {
        let mut frame = [0; FRAME_LEN];
        if segment.read_at(at, &mut frame)? < FRAME_LEN {
            break;
        }
        let Some((claim, _)) = journal::decode_frame(&frame) else { break };
        let mut record = vec![0; FRAME_LEN + claim.body_len as usize];
        if segment.read_at(at, &mut record)? < record.len() || claim.sequence != sequence {
            break;
        }
        let Some(opened) = unseal(cipher, claim.kind, sequence, &record) else { break };
        match opened.keep(claim.kind, at + FRAME_LEN as u64) {
            Some((subject, kept)) => entries.push(Entry { segment: number, subject, kept }),
            None => {
                let kind = claim.kind;
                let what = "an authentic record of the journal says nothing; left out";
                tracing::error!(?kind, what);
            }
        }
        at += record.len() as u64;
        sequence += 1;
    }
    Ok((sequence, at))
}

/// What is to be done, by lower inode number. A number may have been given to another file.
fn plans(entries: &[Entry]) -> HashMap<u64, Vec<Plan<'_>>> {
    let mut plans: HashMap<u64, Vec<Plan<'_>>> = HashMap::new();
    for (number, entry) in entries.iter().enumerate() {
        let Subject { ino, file_id, generation } = entry.subject;
        let of_number = plans.entry(ino).or_default();
        let known = of_number.iter().position(|plan| plan.file_id == file_id);
        let at = known.unwrap_or_else(|| {
            let (changes, told) = (Vec::new(), Vec::new());
            of_number.push(Plan { file_id, birth: None, changes, told });
            of_number.len() - 1
        });
        let plan = &mut of_number[at];
        match &entry.kept {
            Kept::Fresh { opened, header: (at, header_len) } => {
                let place = Place { segment: entry.segment, at: *at, len: *header_len };
                let header_len = *header_len;
                plan.birth = Some(Birth { generation, opened, header_len, place });
                plan.changes.clear();
                plan.told.clear();
            }
            Kept::Change { anew, base, extents, placed } => {
                // Its beginning had no room in its place, and was read from the journal: what is
                // there counts no more than before.
                let begun = plan.birth.take().is_some_and(|birth| birth.generation == *base);
                let anew = *anew || begun;
                plan.told.clear();
                if anew || plan.changes.last().is_some_and(|last| last.generation != *base) {
                    // What came before is void, or was brought to its place since.
                    plan.changes.clear();
                }
                let (segment, base) = (entry.segment, *base);
                plan.changes.push(Step { segment, anew, base, generation, extents, placed });
            }
            Kept::Written(_) => {
                // A writer has a change between those of two segments: these are of two times.
                plan.told.retain(|before| entries[*before].segment == entry.segment);
                plan.told.push(number);
            }
            Kept::Settled => plan.birth = None,
        }
    }
    plans
}

impl Volume {
    /// Brings to its place what a crash has left, and begins a journal, if there is to be one.
    pub(in crate::file) fn recover(
        volume: &mut Arc<Self>,
        segments: [DiskBlob; 2],
    ) -> Result<(), FileError> {
        fn inner(volume: &mut Arc<Volume>) -> &mut Volume {
            Arc::get_mut(volume).expect("recovery has closed what it opened")
        }
        volume.check_lease()?;
        match run(volume, &segments)? {
            (Left::Unfinished(left), Some(end)) => {
                let journal = Journal::resume(segments, end)?;
                inner(volume).journaled = Some(Journaled::new(journal));
                let done = end_with(volume, left);
                if let Some(journaled) = volume.journaled.as_ref().filter(|_| done.is_err()) {
                    journaled.abandon();
                }
                if !done? {
                    return Ok(());
                }
                if let Some(journaled) = inner(volume).journaled.take() {
                    journaled.journal.clear()?;
                }
                return Ok(());
            }
            (Left::Nothing, _) => {}
            _ => clear(&segments)?,
        }
        inner(volume).begin_journal(segments)
    }

    /// A new journal, if there is to be one.
    fn begin_journal(&mut self, segments: [DiskBlob; 2]) -> Result<(), FileError> {
        if self.durability() == Durability::Strict {
            self.journaled = Some(Journaled::new(Journal::start(segments, &self.keys())?));
        }
        Ok(())
    }
}

/// Writes what was told once more, and commits it. Returns whether the journal is to go then: a
/// volume that needs none has to have it all in place.
fn end_with(volume: &Arc<Volume>, left: Unfinished) -> Result<bool, FileError> {
    let Unfinished { entries, told, waiting, settled } = left;
    if let Some(journaled) = &volume.journaled {
        journaled.settle(&settled)?;
    }
    adopt(volume, waiting)?;
    write_again(volume, &entries, told)?;
    match (volume.checkpoint(), volume.durability()) {
        // The journal has it still, and whoever mounts the volume can make room.
        (Err(FileError::Sys(error)), _) if is_full(error) => {
            tracing::warn!(%error, "not all has room in its place: the journal stays until it has");
            Ok(false)
        }
        (Err(error), _) => Err(error),
        (Ok(()), Durability::Strict) => Ok(false),
        (Ok(()), Durability::Relaxed) => match &volume.journaled {
            Some(journaled) if !journaled.is_idle() => Err(FileError::Sys(Errno::IO)),
            _ => Ok(true),
        },
    }
}

/// Brings what the journal holds to its places, durably, and says what it did. Returns what is left
/// to be done.
///
/// # Errors
/// The store's; the journal is as it was then.
fn run(volume: &Arc<Volume>, segments: &[DiskBlob; 2]) -> Result<(Left, Option<End>), FileError> {
    let (mut entries, end) = read(volume, segments)?;
    if entries.is_empty() {
        return Ok((Left::Nothing, None));
    }
    number_alike(
        volume,
        &mut entries.iter_mut().map(|entry| &mut entry.subject).collect::<Vec<_>>(),
    )?;
    // What it has may be in memory alone, where only a process ended: the disk must not get it in
    // its place first.
    segments.iter().try_for_each(|segment| segment.sync(true))?;
    let plans = plans(&entries);
    let (records, files) = (entries.len(), plans.values().map(Vec::len).sum::<usize>());
    let (mut recovered, mut emptied, mut stale, mut met) = (0_u64, 0_u64, 0_u64, 0_usize);
    let (mut told, mut waiting, mut settled) = (HashMap::new(), Vec::new(), Vec::new());
    let mut look = LOOKED_AT_MAX;
    let mut bring = |blob: &DiskBlob, ino, plan: Plan<'_>| -> Result<(), FileError> {
        met += 1;
        let begun = plan.birth.as_ref().map(|birth| birth.generation);
        let begun = begun.map(|generation| Subject { ino, file_id: plan.file_id, generation });
        let outcome = match apply(volume, segments, blob, ino, &plan, &mut look)? {
            Outcome::Waits(parts) => {
                waiting.push(Waiting { blob: blob.again()?, ino, parts });
                Outcome::Recovered
            }
            outcome => {
                settled.extend(begun);
                if plan.told.is_empty() { outcome } else { Outcome::Recovered }
            }
        };
        if !plan.told.is_empty() {
            told.insert(ino, plan.told);
        }
        match outcome {
            Outcome::Recovered | Outcome::Waits(_) => recovered += 1,
            Outcome::Emptied => emptied += 1,
            Outcome::Stale => stale += 1,
            Outcome::Kept => {}
        }
        Ok(())
    };
    each_found(volume, plans, &mut bring)?;
    volume.sync_disk()?;
    volume.counters.recovered.add(recovered + emptied);
    let (gone, waiting_for_room) = (files - met, waiting.len());
    tracing::warn!(
        records,
        files,
        recovered,
        emptied,
        stale,
        gone,
        waiting_for_room,
        "recovered from the journal what the last mount had not brought to its place"
    );
    let left = match told.is_empty() && waiting.is_empty() {
        true => Left::InPlace,
        false => Left::Unfinished(Unfinished { entries, told, waiting, settled }),
    };
    Ok((left, end))
}

/// Has `bring` see each stored file that there is a plan for, with its lower inode number.
fn each_found<'a>(
    volume: &Volume,
    mut plans: HashMap<u64, Vec<Plan<'a>>>,
    bring: &mut impl FnMut(&DiskBlob, u64, Plan<'a>) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let mut found = HashSet::new();
    walk(volume.tree().clone(), &mut |dir, name, ino| {
        let Some(of_number) = plans.get_mut(&ino) else { return Ok(()) };
        let blob = open(dir, name)?;
        let Some(at) = which(&blob, of_number)? else { return Ok(()) };
        let plan = of_number.remove(at);
        found.insert(plan.file_id);
        bring(&blob, ino, plan)
    })?;
    if plans.values().any(|of_number| !of_number.is_empty()) {
        // They are gone; or the store is a copy, whose files have other numbers, but the same ids.
        let left = plans.drain().flat_map(|(_, of_number)| of_number);
        let left = left.filter(|plan| !found.contains(&plan.file_id));
        let mut by_id: HashMap<FileId, Plan<'_>> = left.map(|plan| (plan.file_id, plan)).collect();
        walk(volume.tree().clone(), &mut |dir, name, ino| {
            let blob = open(dir, name)?;
            let Claim::Id(id) = claim(&blob)? else { return Ok(()) };
            let Some(plan) = by_id.remove(&id) else { return Ok(()) };
            bring(&blob, ino, plan)
        })?;
    }
    Ok(())
}

/// Writes once more what was written and not committed. The volume has the journal that tells it.
///
/// # Errors
/// The store's.
fn write_again(
    volume: &Arc<Volume>,
    entries: &[Entry],
    mut files: HashMap<u64, Vec<usize>>,
) -> Result<(), FileError> {
    walk(volume.tree().clone(), &mut |dir, name, ino| {
        let Some(records) = files.remove(&ino) else { return Ok(()) };
        let file = match volume.open_blob(open(dir, name)?, true) {
            // It was longer than its header says, and is not any more.
            Err(FileError::Stale) => volume.open_blob(open(dir, name)?, true),
            opened => opened,
        };
        let (mut told, mut segment) = (Vec::new(), 0);
        for record in records {
            segment = entries[record].segment;
            if let Kept::Written(body) = &entries[record].kept
                && let Some(Record::Written { subject, extents }) =
                    journal::decode_body(RecordKind::Written, body)
            {
                let bytes = |(extent, at): (Extent, usize)| {
                    (extent.offset, &body[at..at + extent.len as usize])
                };
                told.push((subject.generation, extents.into_iter().map(bytes).collect()));
            }
        }
        match file.and_then(|file| file.write_told(segment, &told)) {
            Err(error @ FileError::Damaged(_)) => {
                let what = "not all that was written last can be written again: it is damaged";
                tracing::error!(ino, %error, what);
                Ok(())
            }
            done => done,
        }
    })
}
