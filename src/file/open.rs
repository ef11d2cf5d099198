//! From a lower file to a [`State`]: reading and authenticating its header, or making a new one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno;

use crate::cipher::{FileCipher, Plain, VolumeKeys};
use crate::file::checkpoint::Journaled;
use crate::file::error::{FileError, Spot, is_hushed};
use crate::file::journal::Journal;
use crate::file::stage::Stage;
use crate::file::staged::Place;
use crate::file::stat::Time;
use crate::file::state::{Body, State};
use crate::file::tree::Tree;
use crate::file::volume::Volume;
use crate::file::written::Written;
use crate::format::geometry::{BlockSize, Geometry, PAGE_BYTES};
use crate::format::header::{self, FORMER_LEN, PAYLOAD_FIXED_BYTES, PREFIX_BYTES, Prefix};
use crate::format::ids::FileId;
use crate::format::node::{self, Entry};
use crate::store::{Blob, DiskBlob, is_full};

/// What opening found.
pub(in crate::file) enum Loaded {
    /// A file as its header says.
    Whole(Box<State>),
    /// A file without a header, which was being made when a session ended: it is empty. Where it
    /// can be written it is to be committed, so that it has one.
    Blank(Box<State>),
    /// The lower file was longer than its header says, as a crash leaves it, and has been cut;
    /// whoever knows the old length has to look again.
    Mended,
}

/// Reads and authenticates the header of a stored file.
pub(in crate::file) fn load(
    volume: &Volume,
    blob: DiskBlob,
    ino: u64,
    writable: bool,
) -> Result<Loaded, FileError> {
    let mut page = [0; PAGE_BYTES];
    let len = blob.read_at(0, &mut page)?;
    if len == 0 && volume.was_being_made(&blob) {
        return blank(volume, blob, writable);
    }
    let opened = open_header(volume, &blob, ino, &page[..len])?;
    let stored_len = opened.stored_len();
    // After the header: beside a writer the file is never shorter than its last header says.
    let lower_len = u64::try_from(rustix::fs::fstat(&blob)?.st_size).unwrap_or(0);
    if lower_len < stored_len {
        let what = format!("{lower_len} bytes are stored, wanted {stored_len}: cut off");
        return Err(FileError::damaged(Spot::of(ino, &blob), what));
    }
    if lower_len > stored_len {
        if !is_hushed() {
            let what = "stored file is longer than its header says";
            tracing::warn!(ino, lower_len, stored_len, what);
        }
        if writable {
            match blob.set_len(stored_len) {
                // On a disk that copies, or counts, what a cut changes: it is read as it is.
                Err(error) if is_full(error) => {}
                cut => return cut.map(|()| Ok(Loaded::Mended))?,
            }
        }
    }
    let (journal, floor) = protection(volume, ino, stored_len);
    let blob = Stage::new(blob, journal, opened.prefix.block_size, floor, opened.generation);
    Ok(Loaded::Whole(Box::new(opened.state(blob, writable))))
}

/// The state of a stored file of which parts wait in the journal, its header among them.
///
/// # Errors
/// The store's; `ENOSPC`, for want of which they wait, if the header is not among them.
pub(in crate::file) fn load_waiting(
    volume: &Volume,
    journal: &Arc<Journal>,
    blob: DiskBlob,
    ino: u64,
    parts: BTreeMap<u64, Place>,
) -> Result<State, FileError> {
    let header = parts.get(&0).filter(|place| place.len <= PAGE_BYTES);
    let header = header.ok_or(FileError::Sys(Errno::NOSPC))?;
    let mut page = [0; PAGE_BYTES];
    let page = &mut page[..header.len];
    journal.read(header.segment, header.at, page)?;
    let opened = open_header(volume, &blob, ino, page)?;
    let ends = (opened.stored_len(), opened.generation);
    let journal = Arc::clone(journal);
    let blob = Stage::waiting(blob, journal, opened.prefix.block_size, ends, parts)?;
    Ok(opened.state(blob, true))
}

/// What an authentic header tells.
struct Opened {
    prefix: Prefix,
    /// What authenticated it.
    entry: Entry,
    cipher: FileCipher,
    generation: u64,
    length: u64,
    body: Body,
}

/// Authenticates a header, the first bytes of a stored file.
fn open_header(
    volume: &Volume,
    blob: &DiskBlob,
    ino: u64,
    page: &[u8],
) -> Result<Opened, FileError> {
    let (prefix, entry) =
        header::decode(page).map_err(|error| FileError::header(Spot::of(ino, blob), &error))?;
    let damaged = |what: &str| FileError::damaged(Spot::of(ino, blob), format!("header: {what}"));
    let end = PREFIX_BYTES + usize::from(prefix.payload_len);
    let payload = page.get(PREFIX_BYTES..end).ok_or_else(|| damaged("cut off"))?;
    let keys = volume.keys_for(prefix.epoch);
    let mut cipher = keys
        .open_file(prefix.epoch, prefix.file_id, &prefix.wrapped_key)
        .ok_or_else(|| damaged("its file key does not open"))?;
    let payload = keys
        .open_header(&cipher, &prefix, &entry, payload)
        .map_err(|_| damaged("not authentic"))?;
    let (fixed, body) = payload.split_at(PAYLOAD_FIXED_BYTES);
    let (generation, length) = header::decode_payload(fixed.try_into().expect("split there"));
    let geometry = Geometry::new(prefix.block_size);
    let (body, former) =
        decode_body(geometry, length, body).ok_or_else(|| damaged("impossible length"))?;
    if let Some(former) = former {
        let added = keys.add_former(&mut cipher, prefix.file_id, former);
        added.ok_or_else(|| damaged("its former file key does not open"))?;
    }
    Ok(Opened { prefix, entry, cipher, generation, length, body })
}

impl Opened {
    fn stored_len(&self) -> u64 {
        Geometry::new(self.prefix.block_size).stored_len(self.length)
    }

    /// The file as its header says.
    fn state(self, blob: Stage, writable: bool) -> State {
        let stored_len = self.stored_len();
        let Self { prefix, entry, cipher, generation, length, body } = self;
        State {
            blob,
            writable,
            loaded: entry,
            begins: false,
            prefix,
            cipher,
            generation,
            length,
            committed_len: length,
            counted_bytes: 0,
            stored_len,
            body,
            blocks: BTreeMap::new(),
            dirty: false,
            written: Written::nothing(),
            settled: AtomicBool::new(false),
            mtime: None,
            mtime_seen: AtomicBool::new(false),
            unused: Vec::new(),
        }
    }
}

/// The journal that a stored file of this length is written by way of, and what of it that keeps.
fn protection(volume: &Volume, ino: u64, stored_len: u64) -> (Option<Arc<Journal>>, u64) {
    let Some(journaled) = &volume.journaled else { return (None, 0) };
    let floor = if journaled.is_fresh(ino) { 0 } else { stored_len };
    (Some(Arc::clone(&journaled.journal)), floor)
}

/// The body, and what is told of a former key.
fn decode_body(
    geometry: Geometry,
    length: u64,
    body: &[u8],
) -> Option<(Body, Option<&[u8; FORMER_LEN]>)> {
    if Geometry::is_inline(length) {
        let is_whole = body.len() as u64 == length;
        return is_whole.then(|| (Body::Inline(Plain::copy_of(body)), None));
    }
    if length > geometry.length_max() {
        return None;
    }
    let (top, rest) = header::split_tree(body)?;
    Some((Body::Tree(Tree::new(node::decode(top), geometry.levels(length))), rest))
}

/// The state of a file that was made, and did not get a header before a session ended. Its times
/// are those that it has: the header is written by nobody.
fn blank(volume: &Volume, blob: DiskBlob, writable: bool) -> Result<Loaded, FileError> {
    let stat = rustix::fs::fstat(&blob)?;
    let ns = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mtime = writable.then_some(Time { s: stat.st_mtime, ns });
    let written = if writable { Written::all() } else { Written::nothing() };
    let state = fresh(&volume.keys(), volume.journaled.as_ref(), blob, volume.block_size);
    Ok(Loaded::Blank(Box::new(State { writable, dirty: writable, written, mtime, ..state })))
}

/// The state of a file that was just made; its header is still to be written.
pub(in crate::file) fn fresh(
    keys: &VolumeKeys,
    journaled: Option<&Journaled>,
    blob: DiskBlob,
    block_size: BlockSize,
) -> State {
    let mut id = FileId([0; 16]);
    getrandom::fill(&mut id.0).expect("the system gives random bytes");
    let (cipher, wrapped_key) = keys.new_file(id);
    let epoch = keys.current();
    let journal = journaled.map(|journaled| Arc::clone(&journaled.journal));
    State {
        blob: Stage::new(blob, journal, block_size, 0, 0),
        writable: true,
        loaded: Entry::HOLE,
        begins: true,
        prefix: Prefix { block_size, payload_len: 0, epoch, file_id: id, wrapped_key },
        cipher,
        generation: 0,
        length: 0,
        committed_len: 0,
        counted_bytes: 0,
        stored_len: 0,
        body: Body::Inline(Plain::zeros(0)),
        blocks: BTreeMap::new(),
        dirty: true,
        written: Written::all(),
        settled: AtomicBool::new(false),
        mtime: None,
        mtime_seen: AtomicBool::new(false),
        unused: Vec::new(),
    }
}
