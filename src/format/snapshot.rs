//! What a snapshot consists of: *records*, one for each stored object, in parts, and a *top* that
//! names the parts. Section 16 of `FORMAT.md` has the bytes. Decoding never panics.
//!
//! Integers of records are *varints*: 7 bits a byte, the lowest first, the highest bit set in all
//! bytes but the last; bytes of varying length come after a varint with their number.

use serde::{Deserialize, Serialize};

use crate::format::bytes::to_usize;
use crate::format::ids::{Epoch, VolumeId};

/// What `format` says in every top.
pub const FORMAT: &str = "cmkfs-snapshot";
/// The version that this release writes; version 1 was a copy of the store in a directory.
pub const VERSION: u16 = 2;
/// The first bytes of a top. 0x0A changes in a text-mode copy, as in PNG's magic.
pub const MAGIC: [u8; 8] = *b"cmksnap\x0a";
/// Bytes before the clear part.
const FIXED_LEN: usize = 16;
/// Bytes of a top, at most.
pub const TOP_LEN_MAX: u64 = 1 << 30;
/// Bytes of a part's records, at most: one record may have 2 MiB.
pub const PART_LEN_MAX: usize = 64 << 20;

/// SHA-256 of an object's bytes, which is its name.
pub type Hash = [u8; 32];
/// The first bytes of the SHA-256 of what tells that something is unchanged; zeros: nothing does.
pub type Mark = [u8; 16];

/// Seconds since 1970 UTC, and the nanoseconds after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub s: i64,
    /// Nanoseconds, below 1 000 000 000.
    pub ns: u32,
}

/// Stored name and value of an extended attribute.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// What the lower disk knows of every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification.
    pub mtime: Time,
    /// Last access.
    pub atime: Time,
    /// 0 for an object with one name; the same number in all names of one object.
    pub link: u64,
    /// Extended attributes, sorted.
    pub attributes: Vec<Attribute>,
}

/// Where the bytes of a piece are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// They are an object.
    Whole,
    /// They are a part of an object.
    In {
        /// Which.
        object: Hash,
        /// From where on.
        offset: u64,
    },
}

/// Bytes of a stored file that are kept together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of a run: of its stored node.
    pub mark: Mark,
    /// Of its bytes.
    pub hash: Hash,
    /// Where they are.
    pub place: Place,
    /// Where they belong in the stored file, in order: offsets and lengths.
    pub extents: Vec<(u64, u64)>,
}

impl Piece {
    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|(_, len)| len).sum()
    }

    /// Whether it has no bytes: all of it is a hole.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The object with its bytes, and where in it they begin.
    pub fn at(&self) -> (Hash, u64) {
        match self.place {
            Place::Whole => (self.hash, 0),
            Place::In { object, offset } => (object, offset),
        }
    }
}

/// A stored regular file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Bytes, holes included.
    pub len: u64,
    /// Of the first 124 bytes of its header.
    pub mark: Mark,
    /// 0: the pieces are in no order that tells anything. Else the block size is 2 to this power,
    /// the first piece is the header and the nodes above level 0, piece k + 1 is run k.
    pub block_log2: u8,
    /// What is not a hole.
    pub pieces: Vec<Piece>,
}

/// What a stored object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Directory.
    Dir,
    /// Regular file.
    File(Content),
    /// Symbolic link and its stored target.
    Symlink(Vec<u8>),
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
    /// Character device and its number.
    CharDevice(u64),
    /// Block device and its number.
    BlockDevice(u64),
}

/// A stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Path below the store.
    pub path: Vec<u8>,
    /// What the lower disk knows.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
}

/// The first 8 bytes of a hash, as a number: as good as random.
pub fn hash_part(hash: &Hash) -> u64 {
    u64::from_le_bytes(*hash.first_chunk().expect("32 bytes have 8"))
}

/// The order of records: that of a walk which goes into each directory before it goes on.
pub fn order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.split(|byte| *byte == b'/').cmp(b.split(|byte| *byte == b'/'))
}

/// Why a path may not be restored; `None` if it may. Paths lead from a store's directory down.
pub fn path_fault(path: &[u8]) -> Option<&'static str> {
    let parts = || path.split(|byte| *byte == b'/');
    if path.contains(&0) {
        return Some("it has a zero byte");
    }
    if parts().any(|part| part.is_empty() || part == b"." || part == b"..") {
        return Some("it leads out of the store");
    }
    if parts().any(|part| part.len() > 255) {
        return Some("it has a name of more than 255 bytes");
    }
    let known: [&[u8]; 4] = [b"tree", b"links", b"journal", b"sessions"];
    let first = parts().next().unwrap_or_default();
    (!known.contains(&first)).then_some("it is no part of a store")
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("7 bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("below 128"));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_bytes(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let len = usize::try_from(take(rest)?).ok()?;
    let (bytes, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(bytes.to_vec())
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    u32::try_from(take(rest)?).ok()
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (array, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*array)
}

fn put_time(out: &mut Vec<u8>, time: Time) {
    out.extend_from_slice(&time.s.to_le_bytes());
    put(out, time.ns.into());
}

fn take_time(rest: &mut &[u8]) -> Option<Time> {
    let s = i64::from_le_bytes(take_array(rest)?);
    let ns = take_u32(rest).filter(|ns| *ns < 1_000_000_000)?;
    Some(Time { s, ns })
}

fn put_piece(out: &mut Vec<u8>, piece: &Piece) {
    out.extend_from_slice(&piece.mark);
    out.extend_from_slice(&piece.hash);
    match piece.place {
        Place::Whole => put(out, 0),
        Place::In { object, offset } => {
            put(out, 1);
            out.extend_from_slice(&object);
            put(out, offset);
        }
    }
    put(out, piece.extents.len() as u64);
    for (offset, len) in &piece.extents {
        put(out, *offset);
        put(out, *len);
    }
}

fn take_piece(rest: &mut &[u8], file_len: u64) -> Option<Piece> {
    let (mark, hash) = (take_array(rest)?, take_array(rest)?);
    let place = match take(rest)? {
        0 => Place::Whole,
        1 => Place::In { object: take_array(rest)?, offset: take(rest)? },
        _ => return None,
    };
    let count = take(rest)?;
    let (mut extents, mut end) = (Vec::new(), 0);
    for _ in 0..count {
        let (offset, len) = (take(rest)?, take(rest)?);
        if offset < end || len == 0 {
            return None;
        }
        end = offset.checked_add(len).filter(|end| *end <= file_len)?;
        extents.push((offset, len));
    }
    Some(Piece { mark, hash, place, extents })
}

fn put_content(out: &mut Vec<u8>, content: &Content) {
    put(out, content.len);
    out.extend_from_slice(&content.mark);
    out.push(content.block_log2);
    put(out, content.pieces.len() as u64);
    for piece in &content.pieces {
        put_piece(out, piece);
    }
}

fn take_content(rest: &mut &[u8]) -> Option<Content> {
    let (len, mark) = (take(rest)?, take_array(rest)?);
    let [block_log2] = take_array(rest)?;
    let count = take(rest)?;
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push(take_piece(rest, len)?);
    }
    Some(Content { len, mark, block_log2, pieces })
}

/// Appends a record to a part whose last record has the path `last`; empty for the first.
pub fn encode(out: &mut Vec<u8>, record: &Record, last: &[u8]) {
    let shared = record.path.iter().zip(last).take_while(|(a, b)| a == b).count();
    put(out, shared as u64);
    put_bytes(out, &record.path[shared..]);
    let meta = &record.meta;
    let kind: u8 = match &record.kind {
        Kind::Dir => 1,
        Kind::File(_) => 2,
        Kind::Symlink(_) => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::CharDevice(_) => 6,
        Kind::BlockDevice(_) => 7,
    };
    out.push(kind);
    for value in [meta.mode, meta.uid, meta.gid] {
        put(out, value.into());
    }
    put_time(out, meta.mtime);
    put_time(out, meta.atime);
    put(out, meta.link);
    put(out, meta.attributes.len() as u64);
    for (name, value) in &meta.attributes {
        put_bytes(out, name);
        put_bytes(out, value);
    }
    match &record.kind {
        Kind::File(content) => put_content(out, content),
        Kind::Symlink(target) => put_bytes(out, target),
        Kind::CharDevice(rdev) | Kind::BlockDevice(rdev) => put(out, *rdev),
        Kind::Dir | Kind::Fifo | Kind::Socket => {}
    }
}

/// Takes the next record of a part; `None` if the bytes are none.
pub fn decode(rest: &mut &[u8], last: &[u8]) -> Option<Record> {
    let shared = usize::try_from(take(rest)?).ok()?;
    let mut path = last.get(..shared)?.to_vec();
    path.extend(take_bytes(rest)?);
    let [kind] = take_array(rest)?;
    let (mode, uid, gid) = (take_u32(rest)?, take_u32(rest)?, take_u32(rest)?);
    let (mtime, atime, link) = (take_time(rest)?, take_time(rest)?, take(rest)?);
    if mode > 0o7777 {
        return None;
    }
    let mut attributes = Vec::new();
    for _ in 0..take(rest)? {
        attributes.push((take_bytes(rest)?, take_bytes(rest)?));
    }
    let kind = match kind {
        1 => Kind::Dir,
        2 => Kind::File(take_content(rest)?),
        3 => Kind::Symlink(take_bytes(rest)?),
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice(take(rest)?),
        7 => Kind::BlockDevice(take(rest)?),
        _ => return None,
    };
    Some(Record { path, meta: Meta { mode, uid, gid, mtime, atime, link, attributes }, kind })
}

/// All records of a part, whose paths have to be in order; `None` if the bytes are none.
pub fn decode_part(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    while !bytes.is_empty() {
        let last = records.last().map(|record| record.path.as_slice()).unwrap_or_default();
        let record = decode(&mut bytes, last)?;
        if !last.is_empty() && order(last, &record.path).is_ge() {
            return None;
        }
        records.push(record);
    }
    Some(records)
}

/// What everybody may know of a snapshot; authenticated, not secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clear {
    /// [`FORMAT`].
    pub format: String,
    /// Its name.
    pub id: String,
    /// The volume it is of.
    pub volume_id: VolumeId,
    /// When it was taken, milliseconds since 1970 UTC.
    pub created_unix_ms: u64,
    /// The snapshot that it was compared with.
    pub parent: Option<String>,
    /// Whose keys seal it.
    pub epoch: Epoch,
    /// Stored regular files.
    pub files: u64,
    /// Their bytes, without holes.
    pub bytes: u64,
    /// Bytes that were sent for it.
    pub sent_bytes: u64,
    /// `volume.json` as it was: what opens the volume.
    pub descriptor: String,
}

/// A part of a snapshot's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The object in which it is sealed.
    pub object: Hash,
    /// SHA-256 of its records.
    pub digest: Hash,
    /// Records in it.
    pub count: u64,
    /// Path of its first record.
    pub first: Vec<u8>,
}

/// The sealed part of a top.
pub fn encode_parts(parts: &[Part]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, parts.len() as u64);
    for part in parts {
        out.extend_from_slice(&part.object);
        out.extend_from_slice(&part.digest);
        put(&mut out, part.count);
        put_bytes(&mut out, &part.first);
    }
    out
}

/// The inverse of [`encode_parts`]; `None` for other bytes.
pub fn decode_parts(mut bytes: &[u8]) -> Option<Vec<Part>> {
    let rest = &mut bytes;
    let count = take(rest)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let (object, digest) = (take_array(rest)?, take_array(rest)?);
        let (count, first) = (take(rest)?, take_bytes(rest)?);
        parts.push(Part { object, digest, count, first });
    }
    rest.is_empty().then_some(parts)
}

/// The bytes of a top before what is sealed.
pub fn encode_clear(clear: &Clear) -> Vec<u8> {
    let json = serde_json::to_vec(clear).expect("plain data has a JSON form");
    let len = u32::try_from(json.len()).expect("volume.json has at most 1 MiB");
    let fields: [&[u8]; 5] = [&MAGIC, &VERSION.to_le_bytes(), &[0; 2], &len.to_le_bytes(), &json];
    fields.concat()
}

/// What a top claims, the bytes that say so, and what is sealed.
///
/// # Errors
/// What the bytes are instead.
pub fn decode_clear(bytes: &[u8]) -> Result<(Clear, &[u8], &[u8]), String> {
    let fixed: &[u8; FIXED_LEN] =
        bytes.first_chunk().ok_or_else(|| format!("{} bytes are no snapshot", bytes.len()))?;
    let rest = &mut &fixed[..];
    let (magic, version): ([u8; 8], [u8; 2]) = (take_fixed(rest), take_fixed(rest));
    let (reserved, len): ([u8; 2], [u8; 4]) = (take_fixed(rest), take_fixed(rest));
    if magic != MAGIC {
        return Err("no snapshot: it begins otherwise".to_owned());
    }
    let version = u16::from_le_bytes(version);
    if version != VERSION || reserved != [0; 2] {
        return Err(format!("snapshot format {version}, this release reads {VERSION}"));
    }
    let end = FIXED_LEN + to_usize(u32::from_le_bytes(len).into());
    let (bound, sealed) = bytes.split_at_checked(end).ok_or("it was cut")?;
    let clear: Clear = serde_json::from_slice(&bound[FIXED_LEN..])
        .map_err(|error| format!("no snapshot: {error}"))?;
    if clear.format != FORMAT {
        return Err(format!("no snapshot: its format is {:?}", clear.format));
    }
    Ok((clear, bound, sealed))
}

fn take_fixed<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    crate::format::bytes::take(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Record> {
        let piece = |place| Piece {
            mark: [1; 16],
            hash: [2; 32],
            place,
            extents: vec![(0, 4096), (16384, 70_000)],
        };
        let content = Content {
            len: 1 << 40,
            mark: [3; 16],
            block_log2: 14,
            pieces: vec![piece(Place::Whole), piece(Place::In { object: [4; 32], offset: 300 })],
        };
        let meta = Meta {
            mode: 0o4755,
            uid: 1000,
            gid: u32::MAX,
            mtime: Time { s: -5, ns: 999_999_999 },
            atime: Time { s: 1 << 33, ns: 0 },
            link: u64::MAX,
            attributes: vec![(b"user.cmkfs.x".to_vec(), vec![0; 300])],
        };
        let kinds = [
            ("tree", Kind::Dir),
            ("tree/a", Kind::File(content)),
            ("tree/a.b", Kind::Symlink(b"target".to_vec())),
            ("tree/a.c", Kind::Fifo),
            ("tree/d", Kind::Socket),
            ("tree/e", Kind::CharDevice(0x1_0003)),
            ("tree/f", Kind::BlockDevice(7)),
        ];
        let record = |(path, kind): (&str, Kind)| Record {
            path: path.as_bytes().to_vec(),
            meta: meta.clone(),
            kind,
        };
        kinds.map(record).into()
    }

    fn encoded(records: &[Record]) -> Vec<u8> {
        let (mut out, mut last) = (Vec::new(), Vec::new());
        for record in records {
            encode(&mut out, record, &last);
            last.clone_from(&record.path);
        }
        out
    }

    #[test]
    fn records_survive_their_bytes_and_no_edit_panics() {
        let records = sample();
        let bytes = encoded(&records);
        assert_eq!(decode_part(&bytes).as_ref(), Some(&records));
        for at in 0..bytes.len() {
            // Whole records may be left; a torn one is none.
            if let Some(found) = decode_part(&bytes[..at]) {
                assert_eq!(found, records[..found.len()]);
            }
            for flip in [1, 0x80, 0xff] {
                let mut edited = bytes.clone();
                edited[at] ^= flip;
                assert_ne!(decode_part(&edited).as_ref(), Some(&records), "byte {at}");
            }
        }
    }

    #[test]
    fn paths_are_in_the_order_of_a_walk() {
        let sorted = ["tree", "tree/a", "tree/a/b", "tree/a/b/c", "tree/a.b", "tree/b"];
        for pair in sorted.windows(2) {
            assert!(order(pair[0].as_bytes(), pair[1].as_bytes()).is_lt(), "{pair:?}");
        }
        let mut records = sample();
        records.swap(1, 2);
        assert_eq!(decode_part(&encoded(&records)), None);
    }

    #[test]
    fn no_path_leads_out_of_a_store() {
        for path in ["tree", "tree/a", "links/x", "journal/0", "sessions"] {
            assert_eq!(path_fault(path.as_bytes()), None, "{path}");
        }
        for path in ["", "/etc", "..", "tree/..", "tree/../../x", "tree//a", "tree/.", "lock", "a"]
        {
            assert!(path_fault(path.as_bytes()).is_some(), "{path}");
        }
        assert!(path_fault(b"tree/\0").is_some());
        assert!(path_fault(format!("tree/{}", "n".repeat(256)).as_bytes()).is_some());
    }

    #[test]
    fn tops_survive_their_bytes() {
        let clear = Clear {
            format: FORMAT.to_owned(),
            id: "snap-x".to_owned(),
            volume_id: VolumeId([7; 16]),
            created_unix_ms: 5,
            parent: None,
            epoch: Epoch(3),
            files: 1,
            bytes: 2,
            sent_bytes: 3,
            descriptor: "{}".to_owned(),
        };
        let bound = encode_clear(&clear);
        let whole = [&bound[..], b"sealed"].concat();
        assert_eq!(decode_clear(&whole), Ok((clear, &bound[..], &b"sealed"[..])));
        for at in 0..bound.len() {
            assert!(decode_clear(&whole[..at]).is_err(), "{at}");
        }
        let part = Part { object: [1; 32], digest: [2; 32], count: 300, first: b"tree".to_vec() };
        let parts = vec![part.clone(), part];
        assert_eq!(decode_parts(&encode_parts(&parts)), Some(parts));
        assert_eq!(decode_parts(&[1]), None);
    }
}
