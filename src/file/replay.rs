//! One file's part of what a crash has left in the journal.
//!
//! Changes are copied to their places if they lead on from what is stored (all of them again,
//! whatever was copied before: the last one has the header). A file that began and never became
//! durable stays if all of it opens, and is empty otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::io::Errno;

use crate::cipher::Sealed;
use crate::file::error::{FileError, Spot, hushed};
use crate::file::ranges::Seek;
use crate::file::staged::{Place, reserve_all};
use crate::file::volume::Volume;
use crate::format::geometry::{Geometry, PAGE_BYTES};
use crate::format::header;
use crate::format::ids::FileId;
use crate::format::journal::Extent;
use crate::store::{Blob, DiskBlob, SetAttr, is_full};

/// Bytes that are read at once to see whether they open.
const READ_LEN: usize = 1 << 20;

/// Bytes of files that were never synced which are looked at to see whether they open, of all that
/// a crash has left: the mount waits for it. Larger ones stay as they are.
pub(in crate::file) const LOOKED_AT_MAX: u64 = 256 << 20;

/// What is to be done for a file.
pub(in crate::file) struct Plan<'a> {
    pub(in crate::file) file_id: FileId,
    /// How the file began, if nothing later says that it is durable.
    pub(in crate::file) birth: Option<Birth<'a>>,
    pub(in crate::file) changes: Vec<Step<'a>>,
    /// Records of what was written after the last change, by their place among all.
    pub(in crate::file) told: Vec<usize>,
}

pub(in crate::file) struct Birth<'a> {
    pub(in crate::file) generation: u64,
    /// Its record, which ends with the header.
    pub(in crate::file) opened: &'a Sealed,
    pub(in crate::file) header_len: usize,
    /// Where in the journal that lies.
    pub(in crate::file) place: Place,
}

pub(in crate::file) struct Step<'a> {
    /// Which segment has its bytes.
    pub(in crate::file) segment: usize,
    pub(in crate::file) anew: bool,
    pub(in crate::file) base: u64,
    pub(in crate::file) generation: u64,
    /// Where bytes go, and where in the segment they are.
    pub(in crate::file) extents: &'a [(Extent, u64)],
    pub(in crate::file) placed: &'a [Extent],
}

/// What became of a file.
#[derive(PartialEq, Eq)]
pub(in crate::file) enum Outcome {
    Recovered,
    /// There is no room for all of it in its place: where in the journal it lies, by where it goes.
    Waits(BTreeMap<u64, Place>),
    Emptied,
    Kept,
    Stale,
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
        let keys = volume.keys();
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

/// Brings one file's changes to their places; `left` is how much may be looked at.
///
/// # Errors
/// The store's.
pub(in crate::file) fn apply(
    volume: &Arc<Volume>,
    segments: &[DiskBlob; 2],
    blob: &DiskBlob,
    ino: u64,
    plan: &Plan<'_>,
    left: &mut u64,
) -> Result<Outcome, FileError> {
    let found = found(volume, blob)?;
    match &plan.birth {
        Some(birth) => begin(volume, blob, ino, found.as_ref(), birth, left),
        None => replay(volume, segments, blob, ino, found.as_ref(), &plan.changes),
    }
}

/// A file of which nothing is promised is left as it is, or made empty.
fn begin(
    volume: &Arc<Volume>,
    blob: &DiskBlob,
    ino: u64,
    found: Option<&Found>,
    birth: &Birth<'_>,
    left: &mut u64,
) -> Result<Outcome, FileError> {
    // It may have begun again since, and been synced: the journal need not have heard of it. What
    // is older than its beginning may be older than what was synced.
    let since = found.is_some_and(|found| found.generation >= birth.generation);
    // What does not open is told below, by what it is: no damage.
    if since && hushed(|| opens(volume, blob, left))? {
        return Ok(Outcome::Kept);
    }
    let end = birth.opened.as_bytes().len();
    let part = end - birth.header_len..end;
    let spot = Spot::of(ino, blob);
    let stored = spot.stored();
    let what = "written and never synced before the last mount ended: what is left of it does not \
                open, so it is empty";
    tracing::warn!(ino, stored, what);
    // Over what is there, which needs no room; what is behind goes then.
    match blob.write_at(0, birth.opened, part) {
        Ok(()) => {
            blob.set_len(birth.header_len as u64)?;
            Ok(Outcome::Emptied)
        }
        // Only a disk that writes elsewhere than in place wants room for this. The journal has the
        // header, by which it is opened until there is room.
        Err(error) if is_full(error) => Ok(Outcome::Waits([(0, birth.place)].into())),
        Err(error) => Err(error.into()),
    }
}

fn replay(
    volume: &Volume,
    segments: &[DiskBlob; 2],
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
    let mut last_of: BTreeMap<u64, Place> = BTreeMap::new();
    for Step { segment, extents, placed, .. } in changes {
        for range in *placed {
            let end = range.offset + u64::from(range.len);
            let void: Vec<u64> = last_of.range(range.offset..end).map(|(at, _)| *at).collect();
            for at in void {
                last_of.remove(&at);
            }
        }
        for (extent, at) in *extents {
            let place = Place { segment: *segment, at: *at, len: extent.len as usize };
            last_of.insert(extent.offset, place);
        }
    }
    let before = rustix::fs::fstat(blob)?;
    let copied = copy(volume, segments, blob, &last_of);
    // When it was written was told the stored file then.
    SetAttr::times_of(&before).apply_to(blob)?;
    match copied {
        // What was copied already is copied once more, or waits as well.
        Err(FileError::Sys(error)) if is_full(error) => Ok(Outcome::Waits(last_of)),
        copied => copied.map(|()| Outcome::Recovered),
    }
}

/// Copies parts to their places, and ends the stored file where its header says.
fn copy(
    volume: &Volume,
    segments: &[DiskBlob; 2],
    blob: &DiskBlob,
    parts: &BTreeMap<u64, Place>,
) -> Result<(), FileError> {
    if !volume.has_room(parts.values().map(|place| place.len).sum()) {
        reserve_all(blob, parts.iter())?;
    }
    for (offset, Place { segment, at, len }) in parts.iter().rev() {
        blob.copy_from(&segments[*segment], *at, *offset, *len)?;
    }
    if let Some(after) = found(volume, blob)? {
        blob.set_len(after.stored_len)?;
    }
    Ok(())
}

/// Whether everything of a stored file opens, as far as there are bytes left to look at.
fn opens(volume: &Arc<Volume>, blob: &DiskBlob, left: &mut u64) -> Result<bool, FileError> {
    let file = match volume.open_blob(blob.again()?, false) {
        Ok(file) => file,
        Err(FileError::Damaged(_) | FileError::Stale) => return Ok(false),
        Err(error) => return Err(error),
    };
    let Some(rest) = left.checked_sub(file.len()) else {
        let (ino, len) = (file.ino(), file.len());
        tracing::warn!(ino, len, "written and never synced: it is left as it is, not looked at");
        return Ok(true);
    };
    *left = rest;
    let mut at = 0;
    while at < file.len() {
        match file.seek(at, Seek::Data) {
            Ok(data) => at = data,
            Err(FileError::Sys(Errno::NXIO)) => break,
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
