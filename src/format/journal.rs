//! The redo journal: what its segment files hold. Integers little-endian.
//!
//! A *segment* is a file: a head of one page, then records one after the other, from the page's
//! end on, until the first that is not whole. The head:
//!
//! | at | bytes | field        | holds                                                            |
//! |---:|------:|--------------|------------------------------------------------------------------|
//! |  0 |     8 | `magic`      | [`MAGIC`]                                                        |
//! |  8 |     2 | `version`    | [`VERSION`]; a reader refuses any other                          |
//! | 10 |     2 | `reserved`   | zeros                                                            |
//! | 12 |     4 | `epoch`      | whose keys authenticate it                                       |
//! | 16 |    16 | `segment_id` | random, new whenever the file is used anew                       |
//! | 32 |     8 | `order`      | of two segments the one with the lower number is older           |
//! | 40 |    16 | `tag`        | authenticates bytes 0 to 39 and the volume id                    |
//!
//! A record is a frame and a body:
//!
//! | at | bytes | field      | holds                                                              |
//! |---:|------:|------------|--------------------------------------------------------------------|
//! |  0 |     4 | `body_len` | bytes of the body                                                  |
//! |  4 |     4 | `kind`     | what the body is                                                   |
//! |  8 |     8 | `sequence` | 0 for the first record of a segment, then one more each            |
//! | 16 |    16 | `tag`      | authenticates bytes 0 to 15 and the body, under the segment's key  |
//!
//! A body begins with the file that it is about, and goes on by kind:
//!
//! | bytes | field             | in       | holds                                                |
//! |------:|-------------------|----------|------------------------------------------------------|
//! |     8 | `ino`             | all      | lower inode number                                   |
//! |    16 | `file_id`         | all      | the file's id                                        |
//! |     8 | `generation`      | all      | that the file has with this record                   |
//! |     8 | `base`            | changes  | generation that the change starts from               |
//! |     4 | `count`           | changes, `Written` | of extents                                 |
//! |     4 | `placed`          | changes  | of ranges                                            |
//! | 12 each | offset 8, length 4 | changes | where in the stored file an extent goes            |
//! | 12 each | offset 8, length 4 | `Written` | where in the plaintext an extent goes            |
//! | 12 each | offset 8, length 4 | changes | a range that has its bytes already                 |
//! |       | bytes             | changes, `Written` | of the extents, in their order             |
//! |       | bytes             | `Fresh`  | the header of the file when it was empty             |
//!
//! Changes are the kinds `Change` and `Anew`. The body of a `Written` is stored enciphered, its tag
//! authenticates it so; what is in the other bodies is ciphertext already.

use crate::format::bytes::take;
use crate::format::geometry::PAGE_BYTES;
use crate::format::ids::{Epoch, FileId};
use crate::format::node::TAG_LEN;

/// Bytes of a head; the first record follows.
pub const HEAD_LEN: usize = PAGE_BYTES;
/// Bytes of a head before its tag.
pub const HEAD_BOUND_LEN: usize = 40;
/// Bytes of a frame.
pub const FRAME_LEN: usize = FRAME_BOUND_LEN + TAG_LEN;
/// Bytes of a frame before its tag.
pub const FRAME_BOUND_LEN: usize = 16;
/// Bytes of a body, at most: a reader allocates no more for what may be forged.
pub const BODY_LEN_MAX: usize = 16 << 20;
/// The only version that this release reads or writes.
pub const VERSION: u16 = 1;
/// 0x0A changes in a text-mode copy, as in PNG's magic.
pub const MAGIC: [u8; 8] = *b"cmkjrn\n\0";

const SUBJECT_LEN: usize = 8 + 16 + 8;
const EXTENT_LEN: usize = 8 + 4;
const _: () = assert!(MAGIC.len() + 2 + 2 + 4 + 16 + 8 == HEAD_BOUND_LEN);

/// Id of one use of a segment file; its records are authenticated under a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentId(pub [u8; 16]);

/// What a head says: a claim, until its tag is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose keys authenticate it.
    pub epoch: Epoch,
    /// Which use of the file this is.
    pub segment: SegmentId,
    /// Older segments have lower numbers.
    pub order: u64,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A file begins, or began anew, empty; nothing of it has to be there before a later record.
    Fresh,
    /// A file whose beginning was told is durable as a whole.
    Settled,
    /// Extents of a stored file, the header among them, and where they go.
    Change,
    /// The same for a file that was cut to nothing: what is stored of it counts no more.
    Anew,
    /// Bytes of the plaintext that were written since the last change, and where.
    Written,
}

/// Which file a record is about, and the generation that the file has with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Lower inode number.
    pub ino: u64,
    /// The file's id.
    pub file_id: FileId,
    /// The generation in the file's header with this record.
    pub generation: u64,
}

/// A part of a stored file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it goes in the stored file.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// The frame of a record: a claim, until its tag is checked with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the body is.
    pub kind: RecordKind,
    /// Bytes of the body.
    pub body_len: u32,
    /// Place of the record in its segment.
    pub sequence: u64,
}

/// What a body says.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// See [`RecordKind::Fresh`].
    Fresh {
        /// The file.
        subject: Subject,
        /// Its header page, without zeros after it.
        header: &'a [u8],
    },
    /// See [`RecordKind::Settled`].
    Settled {
        /// The file.
        subject: Subject,
    },
    /// See [`RecordKind::Change`] and [`RecordKind::Anew`].
    Change {
        /// The file.
        subject: Subject,
        /// Whether nothing that is stored counts.
        anew: bool,
        /// The generation that the change starts from.
        base: u64,
        /// Each extent, and where in the body its bytes begin.
        extents: Vec<(Extent, usize)>,
        /// What was written to its place before: what earlier changes have for it is void.
        placed: Vec<Extent>,
    },
    /// See [`RecordKind::Written`].
    Written {
        /// The file; its generation is that of the change before.
        subject: Subject,
        /// Each extent of the plaintext, and where in the body its bytes begin.
        extents: Vec<(Extent, usize)>,
    },
}

impl RecordKind {
    fn number(self) -> u32 {
        match self {
            Self::Fresh => 1,
            Self::Settled => 2,
            Self::Change => 3,
            Self::Anew => 4,
            Self::Written => 5,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        let all = [Self::Fresh, Self::Settled, Self::Change, Self::Anew, Self::Written];
        all.into_iter().find(|kind| kind.number() == number)
    }
}

/// The bytes of a head before its tag.
pub fn encode_head(head: &Head) -> [u8; HEAD_BOUND_LEN] {
    let fields: [&[u8]; 6] = [
        &MAGIC,
        &VERSION.to_le_bytes(),
        &[0; 2],
        &head.epoch.0.to_le_bytes(),
        &head.segment.0,
        &head.order.to_le_bytes(),
    ];
    fields.concat().try_into().expect("widths add up: const assert above")
}

/// What a head claims, and its tag; `None` if the segment holds nothing. Never panics.
pub fn decode_head(bytes: &[u8]) -> Option<(Head, [u8; TAG_LEN])> {
    let bytes: &[u8; HEAD_BOUND_LEN + TAG_LEN] = bytes.first_chunk()?;
    let rest = &mut &bytes[..];
    let (magic, version, reserved) = (take(rest), u16::from_le_bytes(take(rest)), take(rest));
    if (magic, version, reserved) != (MAGIC, VERSION, [0_u8; 2]) {
        return None;
    }
    let epoch = Epoch(u32::from_le_bytes(take(rest)));
    let (segment, order) = (SegmentId(take(rest)), u64::from_le_bytes(take(rest)));
    Some((Head { epoch, segment, order }, take(rest)))
}

/// The bytes of a frame before its tag.
pub fn encode_frame(frame: &Frame) -> [u8; FRAME_BOUND_LEN] {
    let fields: [&[u8]; 3] = [
        &frame.body_len.to_le_bytes(),
        &frame.kind.number().to_le_bytes(),
        &frame.sequence.to_le_bytes(),
    ];
    fields.concat().try_into().expect("4 + 4 + 8")
}

/// What a frame claims, and its tag; `None` if these bytes are none. Never panics.
pub fn decode_frame(bytes: &[u8; FRAME_LEN]) -> Option<(Frame, [u8; TAG_LEN])> {
    let rest = &mut &bytes[..];
    let body_len = u32::from_le_bytes(take(rest));
    let kind = RecordKind::from_number(u32::from_le_bytes(take(rest)))?;
    let sequence = u64::from_le_bytes(take(rest));
    let fits = usize::try_from(body_len).is_ok_and(|len| len <= BODY_LEN_MAX);
    fits.then(|| (Frame { kind, body_len, sequence }, take(rest)))
}

fn encode_subject(subject: &Subject) -> [u8; SUBJECT_LEN] {
    let fields: [&[u8]; 3] =
        [&subject.ino.to_le_bytes(), &subject.file_id.0, &subject.generation.to_le_bytes()];
    fields.concat().try_into().expect("8 + 16 + 8")
}

/// The body of a [`Record::Settled`], and the beginning of that of a [`Record::Fresh`], which the
/// header follows.
pub fn encode_beginning(subject: &Subject) -> Vec<u8> {
    encode_subject(subject).to_vec()
}

/// The beginning of the body of a [`Record::Change`] of either kind; the bytes of the extents
/// follow.
pub fn encode_change(
    subject: &Subject,
    base: u64,
    extents: &[Extent],
    placed: &[Extent],
) -> Vec<u8> {
    let mut bytes = encode_beginning(subject);
    bytes.extend(base.to_le_bytes());
    for ranges in [extents, placed] {
        let count = u32::try_from(ranges.len()).expect("a body has 16 MiB at most");
        bytes.extend(count.to_le_bytes());
    }
    encode_extents(extents, &mut bytes);
    encode_extents(placed, &mut bytes);
    bytes
}

/// The beginning of the body of a [`Record::Written`]; the bytes of the extents follow.
pub fn encode_written(subject: &Subject, extents: &[Extent]) -> Vec<u8> {
    let mut bytes = encode_beginning(subject);
    bytes.extend(u32::try_from(extents.len()).expect("a body has 16 MiB at most").to_le_bytes());
    encode_extents(extents, &mut bytes);
    bytes
}

fn encode_extents(extents: &[Extent], bytes: &mut Vec<u8>) {
    for extent in extents {
        bytes.extend(extent.offset.to_le_bytes());
        bytes.extend(extent.len.to_le_bytes());
    }
}

fn split<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (field, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*field)
}

fn split_extent(rest: &mut &[u8]) -> Option<Extent> {
    let offset = u64::from_le_bytes(split(rest)?);
    let len = u32::from_le_bytes(split(rest)?);
    offset.checked_add(u64::from(len)).map(|_| Extent { offset, len })
}

/// So many extents, and where the bytes of each begin, those of the first at `at`; where they end.
fn split_extents(
    rest: &mut &[u8],
    count: usize,
    mut at: usize,
) -> Option<(Vec<(Extent, usize)>, usize)> {
    let mut extents = Vec::with_capacity(count);
    for _ in 0..count {
        let extent = split_extent(rest)?;
        extents.push((extent, at));
        at = at.checked_add(usize::try_from(extent.len).ok()?)?;
    }
    Some((extents, at))
}

/// What an authenticated body says; `None` if it says nothing. Never panics.
pub fn decode_body(kind: RecordKind, body: &[u8]) -> Option<Record<'_>> {
    let rest = &mut &*body;
    let ino = u64::from_le_bytes(split(rest)?);
    let file_id = FileId(split(rest)?);
    let subject = Subject { ino, file_id, generation: u64::from_le_bytes(split(rest)?) };
    match kind {
        RecordKind::Settled => rest.is_empty().then_some(Record::Settled { subject }),
        RecordKind::Fresh => (1..=PAGE_BYTES)
            .contains(&rest.len())
            .then_some(Record::Fresh { subject, header: rest }),
        RecordKind::Change | RecordKind::Anew => {
            let anew = kind == RecordKind::Anew;
            let base = u64::from_le_bytes(split(rest)?);
            let count = usize::try_from(u32::from_le_bytes(split(rest)?)).ok()?;
            let placed_count = usize::try_from(u32::from_le_bytes(split(rest)?)).ok()?;
            let ranges_len = count.checked_add(placed_count)?.checked_mul(EXTENT_LEN)?;
            if ranges_len > rest.len() {
                return None;
            }
            let at = body.len() - rest.len() + ranges_len;
            let (extents, end) = split_extents(rest, count, at)?;
            let placed = (0..placed_count).map(|_| split_extent(rest)).collect::<Option<_>>()?;
            (end == body.len()).then_some(Record::Change { subject, anew, base, extents, placed })
        }
        RecordKind::Written => {
            let count = usize::try_from(u32::from_le_bytes(split(rest)?)).ok()?;
            let extents_len = count.checked_mul(EXTENT_LEN).filter(|len| *len <= rest.len())?;
            let at = body.len() - rest.len() + extents_len;
            let (extents, end) = split_extents(rest, count, at)?;
            (end == body.len()).then_some(Record::Written { subject, extents })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject =
        Subject { ino: 7, file_id: FileId(*b"0123456789abcdef"), generation: 9 };

    #[test]
    fn heads_and_frames_convert_back() {
        let head = Head { epoch: Epoch(3), segment: SegmentId([5; 16]), order: 77 };
        let mut bytes = encode_head(&head).to_vec();
        bytes.extend([6; TAG_LEN]);
        assert_eq!(decode_head(&bytes), Some((head, [6; TAG_LEN])));
        for len in 0..bytes.len() {
            assert_eq!(decode_head(&bytes[..len]), None);
        }
        let frame = Frame { kind: RecordKind::Change, body_len: 1 << 20, sequence: u64::MAX };
        let mut bytes = encode_frame(&frame).to_vec();
        bytes.extend([8; TAG_LEN]);
        let bytes: [u8; FRAME_LEN] = bytes.try_into().unwrap();
        assert_eq!(decode_frame(&bytes), Some((frame, [8; TAG_LEN])));
        assert_eq!(decode_frame(&[0; FRAME_LEN]), None);
        assert_eq!(decode_frame(&[0xFF; FRAME_LEN]), None);
    }

    #[test]
    fn bodies_convert_back_and_no_cut_one_is_read() {
        let extents = [Extent { offset: 4096, len: 3 }, Extent { offset: 1 << 40, len: 2 }];
        let placed = [Extent { offset: 1 << 20, len: 1 << 20 }];
        let mut body = encode_change(&SUBJECT, 8, &extents, &placed);
        let first = body.len();
        body.extend(*b"abcde");
        let wanted = vec![(extents[0], first), (extents[1], first + 3)];
        for (kind, anew) in [(RecordKind::Change, false), (RecordKind::Anew, true)] {
            let (extents, placed) = (wanted.clone(), placed.to_vec());
            let wanted = Record::Change { subject: SUBJECT, anew, base: 8, extents, placed };
            assert_eq!(decode_body(kind, &body), Some(wanted));
        }
        for len in 0..body.len() {
            assert_eq!(decode_body(RecordKind::Change, &body[..len]), None, "{len}");
        }
        let mut body = encode_written(&SUBJECT, &extents);
        let first = body.len();
        body.extend(*b"abcde");
        let wanted = vec![(extents[0], first), (extents[1], first + 3)];
        let wanted = Record::Written { subject: SUBJECT, extents: wanted };
        assert_eq!(decode_body(RecordKind::Written, &body), Some(wanted));
        for len in 0..body.len() {
            assert_eq!(decode_body(RecordKind::Written, &body[..len]), None, "{len}");
        }
        let mut body = encode_beginning(&SUBJECT);
        assert_eq!(
            decode_body(RecordKind::Settled, &body),
            Some(Record::Settled { subject: SUBJECT })
        );
        assert_eq!(decode_body(RecordKind::Fresh, &body), None);
        body.push(1);
        let fresh = Record::Fresh { subject: SUBJECT, header: &[1] };
        assert_eq!(decode_body(RecordKind::Fresh, &body), Some(fresh));
        assert_eq!(decode_body(RecordKind::Settled, &body), None);
    }
}
