//! What a crash has left in the journal, brought to its places when the volume is opened.
//!
//! Per file, from the last record that tells of a beginning on: changes are copied to their places
//! if they lead on from what is stored (all of them again, whatever was copied before: the last one
//! has the header). A file that began and never became durable stays if all of it opens, and is
//! empty otherwise. Records of a file that is gone, or older than what is stored, mean nothing.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::cipher::{OPENED_BODY_AT, Sealed, SegmentCipher};
use crate::file::error::FileError;
use crate::file::ranges::Seek;
use crate::file::volume::Volume;
use crate::format::geometry::{Geometry, PAGE_BYTES};
use crate::format::header;
use crate::format::ids::FileId;
use crate::format::journal::{self, Extent, FRAME_LEN, HEAD_LEN, Record, Subject};
use crate::store::{Blob, DiskBlob, StoreDir, is_dot};

/// Bytes that are read at once to see whether they open.
const READ_LEN: usize = 1 << 20;

/// A whole record.
struct Entry {
    kind: journal::RecordKind,
    opened: Sealed,
}

/// What is to be done for a file.
struct Plan<'a> {
    file_id: FileId,
    /// How the file began, if nothing later says that it is durable.
    birth: Option<Birth<'a>>,
    changes: Vec<Step<'a>>,
}

struct Birth<'a> {
    generation: u64,
    opened: &'a Sealed,
    header: &'a [u8],
}

struct Step<'a> {
    anew: bool,
    base: u64,
    generation: u64,
    opened: &'a Sealed,
    extents: Vec<(Extent, usize)>,
    placed: Vec<Extent>,
}

/// What became of a file.
#[derive(PartialEq, Eq)]
enum Outcome {
    Recovered,
    Emptied,
    Kept,
    Stale,
}

/// All whole records, the oldest first.
fn read(volume: &Volume, segments: &[DiskBlob; 2]) -> Result<Vec<Entry>, FileError> {
    let mut found = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        let mut page = vec![0; HEAD_LEN];
        let len = segment.read_at(0, &mut page)?;
        if let Some((head, tag)) = journal::decode_head(&page[..len])
            && let Ok(cipher) = volume.keys.open_segment(&head, &tag)
        {
            found.push((head.order, segment, cipher));
        } else if page[..len].iter().any(|byte| *byte != 0) {
            // No crash leaves that: what a head says lies in one sector.
            tracing::error!(
                segment = number,
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
    let mut entries = Vec::new();
    for (_, segment, cipher) in found {
        read_segment(segment, &cipher, &mut entries)?;
    }
    Ok(entries)
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
            let cipher = volume.keys.open_segment(&head, &tag);
            whole && cipher.is_ok_and(|cipher| cipher.open_record(0, &record).is_ok())
        })
    })
}

fn read_segment(
    segment: &DiskBlob,
    cipher: &SegmentCipher,
    entries: &mut Vec<Entry>,
) -> Result<(), FileError> {
    let mut at = HEAD_LEN as u64;
    for sequence in 0.. {
        let mut frame = [0; FRAME_LEN];
        if segment.read_at(at, &mut frame)? < FRAME_LEN {
            break;
        }
        let Some((claim, _)) = journal::decode_frame(&frame) else { break };
        let mut record = vec![0; FRAME_LEN + claim.body_len as usize];
        if segment.read_at(at, &mut record)? < record.len() || claim.sequence != sequence {
            break;
        }
        let Ok(opened) = cipher.open_record(sequence, &record) else { break };
        entries.push(Entry { kind: claim.kind, opened });
        at += record.len() as u64;
    }
    Ok(())
}

/// What is to be done, by lower inode number. A number may have been given to another file.
fn plans(entries: &[Entry]) -> HashMap<u64, Vec<Plan<'_>>> {
    let mut plans: HashMap<u64, Vec<Plan<'_>>> = HashMap::new();
    for Entry { kind, opened } in entries {
        let body = &opened.as_bytes()[OPENED_BODY_AT..];
        let Some(record) = journal::decode_body(*kind, body) else {
            tracing::error!(?kind, "an authentic record of the journal says nothing; left out");
            continue;
        };
        let (Record::Fresh { subject, .. }
        | Record::Settled { subject }
        | Record::Change { subject, .. }) = &record;
        let Subject { ino, file_id, generation } = *subject;
        let of_number = plans.entry(ino).or_default();
        let known = of_number.iter().position(|plan| plan.file_id == file_id);
        let at = known.unwrap_or_else(|| {
            of_number.push(Plan { file_id, birth: None, changes: Vec::new() });
            of_number.len() - 1
        });
        let plan = &mut of_number[at];
        match record {
            Record::Fresh { header, .. } => {
                let birth = Birth { generation, opened, header };
                (plan.birth, plan.changes) = (Some(birth), Vec::new());
            }
            Record::Settled { .. } => plan.birth = None,
            Record::Change { anew, base, extents, placed, .. } => {
                plan.birth = None;
                if anew || plan.changes.last().is_some_and(|last| last.generation != base) {
                    // What came before is void, or was brought to its place since.
                    plan.changes.clear();
                }
                plan.changes.push(Step { anew, base, generation, opened, extents, placed });
            }
        }
    }
    plans
}

/// Brings what the journal holds to its places, durably, and says what it did. Returns whether
/// there was anything.
///
/// # Errors
/// The store's; the journal is as it was then.
pub(in crate::file) fn run(
    volume: &Arc<Volume>,
    segments: &[DiskBlob; 2],
) -> Result<bool, FileError> {
    let entries = read(volume, segments)?;
    if entries.is_empty() {
        return Ok(false);
    }
    let mut plans = plans(&entries);
    let (records, files) = (entries.len(), plans.values().map(Vec::len).sum::<usize>());
    let (mut recovered, mut emptied, mut stale, mut met) = (0_u64, 0_u64, 0_u64, 0_usize);
    let mut done = |outcome| {
        met += 1;
        match outcome {
            Outcome::Recovered => recovered += 1,
            Outcome::Emptied => emptied += 1,
            Outcome::Stale => stale += 1,
            Outcome::Kept => {}
        }
    };
    walk(volume.tree().clone(), &mut |dir, name, ino| {
        let Some(of_number) = plans.get_mut(&ino) else { return Ok(()) };
        let blob = open(dir, name)?;
        let Some(at) = which(&blob, of_number)? else { return Ok(()) };
        done(apply(volume, &blob, ino, &of_number.remove(at))?);
        Ok(())
    })?;
    if plans.values().map(Vec::len).sum::<usize>() == files {
        // Not one: the store is a copy, whose files have other numbers, but the same ids.
        let left = plans.drain().flat_map(|(_, of_number)| of_number);
        let mut by_id: HashMap<FileId, Plan<'_>> = left.map(|plan| (plan.file_id, plan)).collect();
        walk(volume.tree().clone(), &mut |dir, name, ino| {
            let blob = open(dir, name)?;
            let Claim::Id(id) = claim(&blob)? else { return Ok(()) };
            let Some(plan) = by_id.remove(&id) else { return Ok(()) };
            done(apply(volume, &blob, ino, &plan)?);
            Ok(())
        })?;
    }
    volume.sync_disk()?;
    volume.counters.recovered.add(recovered + emptied);
    let gone = files - met;
    tracing::warn!(
        records,
        files,
        recovered,
        emptied,
        stale,
        gone,
        "recovered from the journal what the last mount had not brought to its place"
    );
    Ok(true)
}

fn walk(
    dir: StoreDir,
    see: &mut impl FnMut(&StoreDir, &[u8], u64) -> Result<(), FileError>,
) -> Result<(), FileError> {
    // By name: one directory may have more in it than this process may have descriptors.
    let mut left: Vec<(StoreDir, Vec<u8>)> = Vec::new();
    let mut next = Some(dir);
    while let Some(dir) = next {
        let mut stream = dir.stream()?;
        loop {
            let batch = stream.batch()?;
            if batch.is_empty() {
                break;
            }
            for entry in batch.iter().filter(|entry| !is_dot(&entry.name)) {
                let kind = match entry.kind {
                    // A disk that does not tell in its listings.
                    FileType::Unknown => FileType::from_raw_mode(dir.stat(&entry.name)?.st_mode),
                    told => told,
                };
                match kind {
                    FileType::Directory => left.push((dir.clone(), entry.name.clone())),
                    FileType::RegularFile => see(&dir, &entry.name, entry.ino)?,
                    _ => {}
                }
            }
        }
        next = left.pop().map(|(parent, name)| open_dir(&parent, &name)).transpose()?;
    }
    Ok(())
}

fn open_dir(parent: &StoreDir, name: &[u8]) -> Result<StoreDir, FileError> {
    match parent.open_dir(name) {
        // Without it the records of what is in it would go.
        Err(rustix::io::Errno::ACCESS) => Ok(parent.open_dir_lending(name)?),
        opened => Ok(opened?),
    }
}

fn open(dir: &StoreDir, name: &[u8]) -> Result<DiskBlob, FileError> {
    match dir.open_file(name, true) {
        Err(rustix::io::Errno::ACCESS) => Ok(dir.open_file_lending(name)?),
        opened => Ok(opened?),
    }
}

/// Whose a stored file claims to be, by the first bytes of its header: they stay the same while the
/// file lives, so that one which was caught in being written over has them too.
enum Claim {
    Id(FileId),
    /// No bytes, or zeros: what a crash leaves of a header that was written for the first time.
    Blank,
    /// Not a file of ours.
    Other,
}

fn claim(blob: &DiskBlob) -> Result<Claim, FileError> {
    let mut page = [0; header::PREFIX_BYTES];
    let len = blob.read_at(0, &mut page)?;
    Ok(match header::decode(&page[..len]) {
        Ok((prefix, _)) => Claim::Id(prefix.file_id),
        Err(_) if page.iter().all(|byte| *byte == 0) => Claim::Blank,
        Err(_) => Claim::Other,
    })
}

/// Which of the plans for its number is about a stored file.
fn which(blob: &DiskBlob, plans: &[Plan<'_>]) -> Result<Option<usize>, FileError> {
    Ok(match claim(blob)? {
        Claim::Id(id) => plans.iter().position(|plan| plan.file_id == id),
        Claim::Blank => plans.iter().rposition(|plan| plan.birth.is_some()),
        Claim::Other => None,
    })
}

/// What a stored file's header tells, if it is authentic.
struct Found {
    generation: u64,
    stored_len: u64,
}

fn found(volume: &Volume, blob: &DiskBlob) -> Result<Option<Found>, FileError> {
    let mut page = [0; PAGE_BYTES];
    let len = blob.read_at(0, &mut page)?;
    let Ok((prefix, entry)) = header::decode(&page[..len]) else { return Ok(None) };
    let payload = header::PREFIX_BYTES..header::PREFIX_BYTES + usize::from(prefix.payload_len);
    let fixed = page[..len].get(payload).and_then(|payload| {
        let keys = &volume.keys;
        let cipher = keys.open_file(prefix.epoch, prefix.file_id, &prefix.wrapped_key)?;
        let opened = keys.open_header(&cipher, &prefix, &entry, payload).ok()?;
        opened.first_chunk().map(header::decode_payload)
    });
    let geometry = Geometry::new(prefix.block_size);
    let fixed = fixed.filter(|(_, length)| *length <= geometry.length_max());
    Ok(fixed.map(|(generation, length)| {
        let stored_len = geometry.stored_len(length);
        Found { generation, stored_len }
    }))
}

fn apply(
    volume: &Arc<Volume>,
    blob: &DiskBlob,
    ino: u64,
    plan: &Plan<'_>,
) -> Result<Outcome, FileError> {
    let found = found(volume, blob)?;
    match &plan.birth {
        Some(birth) => begin(volume, blob, ino, found.as_ref(), birth),
        None => replay(volume, blob, ino, found.as_ref(), &plan.changes),
    }
}

/// A file of which nothing is promised is left as it is, or made empty.
fn begin(
    volume: &Arc<Volume>,
    blob: &DiskBlob,
    ino: u64,
    found: Option<&Found>,
    birth: &Birth<'_>,
) -> Result<Outcome, FileError> {
    // It may have begun again since, and been synced: the journal need not have heard of it. What
    // is older than its beginning may be older than what was synced.
    let since = found.is_some_and(|found| found.generation >= birth.generation);
    if since && opens(volume, blob)? {
        return Ok(Outcome::Kept);
    }
    let part = birth.opened.as_bytes().len() - birth.header.len()..birth.opened.as_bytes().len();
    tracing::warn!(ino, "written and never synced: what is left does not open, so it is empty");
    blob.set_len(0)?;
    blob.write_at(0, birth.opened, part)?;
    Ok(Outcome::Emptied)
}

fn replay(
    volume: &Volume,
    blob: &DiskBlob,
    ino: u64,
    before: Option<&Found>,
    changes: &[Step<'_>],
) -> Result<Outcome, FileError> {
    let (Some(first), Some(last)) = (changes.first(), changes.last()) else {
        return Ok(Outcome::Kept);
    };
    let generation = before.map(|found| found.generation);
    if generation.is_some_and(|generation| generation > last.generation) {
        // It was brought to its place, and went on from there.
        return Ok(Outcome::Stale);
    }
    let leads_on = first.anew || generation.is_none_or(|generation| first.base <= generation);
    if !leads_on {
        let (base, last) = (first.base, last.generation);
        tracing::error!(
            ino,
            ?generation,
            base,
            last,
            "the journal does not lead on from what is stored; its changes are left out"
        );
        return Ok(Outcome::Stale);
    }
    let mut last_of: BTreeMap<u64, (&Sealed, Range<usize>)> = BTreeMap::new();
    for Step { opened, extents, placed, .. } in changes {
        for range in placed {
            let end = range.offset + u64::from(range.len);
            let void: Vec<u64> = last_of.range(range.offset..end).map(|(at, _)| *at).collect();
            for at in void {
                last_of.remove(&at);
            }
        }
        for (extent, at) in extents {
            let start = OPENED_BODY_AT + at;
            last_of.insert(extent.offset, (opened, start..start + extent.len as usize));
        }
    }
    for (offset, (opened, part)) in last_of {
        blob.write_at(offset, opened, part)?;
    }
    if let Some(after) = found(volume, blob)? {
        blob.set_len(after.stored_len)?;
    }
    Ok(Outcome::Recovered)
}

/// Whether everything of a stored file opens.
fn opens(volume: &Arc<Volume>, blob: &DiskBlob) -> Result<bool, FileError> {
    let file = match volume.open_blob(blob.again()?, false) {
        Ok(file) => file,
        Err(FileError::Damaged(_) | FileError::Stale) => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut at = 0;
    while at < file.len() {
        match file.seek(at, Seek::Data) {
            Ok(data) => at = data,
            Err(FileError::Sys(rustix::io::Errno::NXIO)) => break,
            Err(FileError::Damaged(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        match file.read(at, READ_LEN) {
            Ok(bytes) => at += bytes.len() as u64,
            Err(FileError::Damaged(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
