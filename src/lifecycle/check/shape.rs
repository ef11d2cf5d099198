//! What can be said of stored objects without a key: whether they have the form of what cmkfs
//! writes.

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::file::LINK_FILE_LEN_MAX;
use crate::format::envelope::ENVELOPE_LEN;
use crate::format::geometry::{Geometry, PAGE_BYTES};
use crate::format::header::{self, PREFIX_LEN, TREE_PAYLOAD_LEN, TWO_KEYS_PAYLOAD_LEN};
use crate::format::name::{self, PAD_LEN, SIDECAR_LEN_MAX, Stored};
use crate::format::node;
use crate::format::sessions::{self, Sessions};
use crate::lifecycle::check::finding::FindingKind;
use crate::lifecycle::check::walk::list;
use crate::lifecycle::init::unix_s;
use crate::store::{
    Attributed, Blob, LowerEntry, SessionFile, StoreDir, StoredMarker, boot_id, read_slots,
};

/// Temporary names within each other: each takes one more crash, and [`StoreDir::remove_temporary`]
/// goes no deeper.
const LEFTOVER_DEPTH_MAX: usize = 16;

/// What is wrong with a sealed name under this file name.
pub(in crate::lifecycle::check) fn name(object: &[u8], sealed: &[u8]) -> Option<&'static str> {
    let lens = node::TAG_LEN + PAD_LEN..=SIDECAR_LEN_MAX;
    if !lens.contains(&sealed.len()) || !sealed.len().is_multiple_of(PAD_LEN) {
        return Some("no sealed name has this length");
    }
    (name::encode(sealed).0 != object).then_some("not the name that belongs to this file name")
}

/// What is wrong with the form of a marker.
pub(in crate::lifecycle::check) fn marker(marker: &StoredMarker) -> Result<(), String> {
    marker.decode().map(drop).map_err(|error| error.to_string())
}

/// What is wrong with the form of a stored file of `lower_len` bytes.
pub(in crate::lifecycle::check) fn file(
    blob: &dyn Blob,
    lower_len: u64,
) -> Result<Option<(FindingKind, String)>, Errno> {
    let mut page = [0; PAGE_BYTES];
    let len = blob.read_at(0, &mut page)?;
    let prefix = match header::decode(&page[..len]) {
        Ok((prefix, _)) => prefix,
        Err(error) => return Ok(Some((FindingKind::Header, format!("header: {error}")))),
    };
    let end = PREFIX_LEN + u64::from(prefix.payload_len);
    if lower_len < end {
        return Ok(Some((FindingKind::Header, "header: cut off".to_owned())));
    }
    // A payload of this length is that of a tree, or of one length of an inline file.
    let geometry = Geometry::new(prefix.block_size);
    let length = geometry.plain_len(lower_len);
    let lens = [TREE_PAYLOAD_LEN, TWO_KEYS_PAYLOAD_LEN];
    let is_tree = lens.contains(&usize::from(prefix.payload_len));
    if lower_len == end {
        return Ok(None);
    }
    if !is_tree {
        let reason = format!("{lower_len} bytes are stored, wanted {end}");
        return Ok(Some((FindingKind::Long, reason)));
    }
    if Geometry::is_inline(length) || geometry.stored_len(length) != lower_len {
        let reason = format!("{lower_len} bytes are stored, which no file has");
        return Ok(Some((FindingKind::Cut, reason)));
    }
    Ok(None)
}

/// What `sessions` claims, of a volume that nobody writes if `is_left`; whether that is authentic
/// takes the key.
pub(in crate::lifecycle::check) fn sessions(
    file: &SessionFile,
    is_left: bool,
) -> Result<Option<Sessions>, Errno> {
    let Some(blob) = file.open(false)? else { return Ok(None) };
    let slots = read_slots(&blob)?;
    let said = slots.iter().filter_map(|slot| sessions::decode(slot));
    let Some((mut said, _)) = said.max_by_key(|(said, _)| said.sequence) else { return Ok(None) };
    if is_left {
        said.close(unix_s(), boot_id(), rustix::fs::fstat(&blob)?.st_ino);
    }
    Ok(Some(said))
}

/// What is wrong with the form of an envelope.
pub(in crate::lifecycle::check) fn envelope(bytes: &[u8]) -> Result<(), String> {
    let lens = ENVELOPE_LEN + 1..=LINK_FILE_LEN_MAX;
    let found = bytes.len();
    if lens.contains(&found) {
        return Ok(());
    }
    Err(format!("an envelope of {found} bytes, wanted {} to {}", lens.start(), lens.end()))
}

/// Whether an object with a temporary name is what a crash leaves there: a directory without
/// objects. Nothing in it is more than cmkfs put there itself, so that nothing is lost with it.
pub(in crate::lifecycle::check) fn is_leftover(
    dir: &StoreDir,
    object: &LowerEntry,
    depth: usize,
) -> Result<bool, Errno> {
    if object.kind != FileType::Directory || depth > LEFTOVER_DEPTH_MAX {
        return Ok(false);
    }
    let lower = dir.open_dir(&object.name)?;
    for entry in list(&lower)? {
        let is_own = match name::decode(&entry.name) {
            Stored::Marker => lower.read_marker()?.decode().is_ok(),
            Stored::Sidecar if entry.kind == FileType::RegularFile => {
                let sealed = lower.read_sidecar(&entry.name)?;
                // A crash may leave one that was not written yet.
                sealed.is_empty() || name::encode(&sealed).1.as_deref() == Some(&entry.name[..])
            }
            Stored::Temporary => is_leftover(&lower, &entry, depth + 1)?,
            Stored::Sidecar | Stored::Direct(_) | Stored::Long { .. } | Stored::Foreign => false,
        };
        if !is_own {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sealed attributes whose form is wrong.
pub(in crate::lifecycle::check) fn attributes(of: &Attributed<'_>) -> Result<Vec<String>, Errno> {
    let mut bad = Vec::new();
    for stored in crate::file::sealed_attributes(of)? {
        let hash = stored.rsplit('.').next().unwrap_or_default();
        let short = of.get(&stored)?.len() <= ENVELOPE_LEN + 1;
        if short || hash.len() != 43 {
            bad.push(stored);
        }
    }
    Ok(bad)
}
