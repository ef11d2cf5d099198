//! Segments of the redo journal and their records. An input stands for a segment without the
//! padding of its head, or for a record, or for a body.

use cmkfs::cipher::{OPENED_BODY_AT, Plain, Sealed, SegmentCipher};
use cmkfs::format::geometry::PAGE_BYTES;
use cmkfs::format::journal::{self, BODY_LEN_MAX, FRAME_LEN, Record, RecordKind};

use super::edit::Edit;
use super::golden::{self, HEAD_LEN};

const KINDS: [RecordKind; 5] = [
    RecordKind::Fresh,
    RecordKind::Settled,
    RecordKind::Change,
    RecordKind::Anew,
    RecordKind::Written,
];

/// The bytes as a segment, as a record, as a body, and as an edit and a body to be sealed.
pub fn journal(bytes: &[u8]) {
    head(bytes);
    frame(bytes);
    KINDS.into_iter().for_each(|kind| body(kind, bytes));
    segment(bytes);
    sealed(bytes);
}

fn head(bytes: &[u8]) {
    let Some((head, tag)) = journal::decode_head(bytes) else { return };
    let again = [&journal::encode_head(&head)[..], &tag].concat();
    assert_eq!(again, bytes[..HEAD_LEN]);
    if golden::keys().open_segment(&head, &tag).is_ok() {
        assert_eq!(again, golden::SEGMENT[..HEAD_LEN], "forged head");
    }
}

fn frame(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<FRAME_LEN>() else { return };
    let Some((frame, tag)) = journal::decode_frame(bytes) else { return };
    assert_eq!([&journal::encode_frame(&frame)[..], &tag].concat(), bytes[..]);
    assert!(frame.body_len as usize <= BODY_LEN_MAX);
}

fn body(kind: RecordKind, body: &[u8]) {
    let Some(record) = journal::decode_body(kind, body) else { return };
    let again = match &record {
        Record::Settled { subject } => journal::encode_beginning(subject),
        Record::Fresh { subject, header } => {
            assert!((1..=PAGE_BYTES).contains(&header.len()));
            [&journal::encode_beginning(subject)[..], header].concat()
        }
        Record::Change { subject, anew, base, extents, placed } => {
            assert_eq!(*anew, kind == RecordKind::Anew);
            let told: Vec<_> = extents.iter().map(|(extent, _)| *extent).collect();
            let mut again = journal::encode_change(subject, *base, &told, placed);
            for (extent, at) in extents {
                assert_eq!(*at, again.len(), "extents in their order, without a gap");
                assert!(extent.offset.checked_add(u64::from(extent.len)).is_some());
                again.extend(&body[*at..*at + extent.len as usize]);
            }
            again
        }
        Record::Written { subject, extents } => {
            let told: Vec<_> = extents.iter().map(|(extent, _)| *extent).collect();
            let mut again = journal::encode_written(subject, &told);
            for (extent, at) in extents {
                assert_eq!(*at, again.len(), "extents in their order, without a gap");
                again.extend(&body[*at..*at + extent.len as usize]);
            }
            again
        }
    };
    assert_eq!(again, body);
}

/// As a mount reads it, until the first record that is not whole.
fn segment(bytes: &[u8]) {
    let Some((head, mut rest)) = bytes.split_at_checked(HEAD_LEN) else { return };
    let own = journal::decode_head(head)
        .and_then(|(head, tag)| golden::keys().open_segment(&head, &tag).ok());
    let cipher = own.as_ref().unwrap_or_else(|| golden::segment());
    for sequence in 0.. {
        let Some(frame) = rest.first_chunk::<FRAME_LEN>() else { break };
        let Some((claim, _)) = journal::decode_frame(frame) else { break };
        let Some(record) = rest.get(..FRAME_LEN + claim.body_len as usize) else { break };
        let Some(opened) = open(cipher, claim.kind, sequence, record) else { break };
        let again = seal(cipher, claim.kind, sequence, &opened);
        assert_eq!(again.as_bytes(), record, "all that a record says is bound");
        rest = &rest[record.len()..];
        let whole = &bytes[HEAD_LEN..bytes.len() - rest.len()];
        assert!(golden::SEGMENT[HEAD_LEN..].starts_with(whole), "forged record {sequence}");
        assert!(journal::decode_body(claim.kind, &opened).is_some(), "an authentic body");
    }
}

/// The body of a record, if it is whole.
fn open(cipher: &SegmentCipher, kind: RecordKind, sequence: u64, record: &[u8]) -> Option<Vec<u8>> {
    if kind == RecordKind::Written {
        return cipher.open_written(sequence, record).ok().map(|body| body.to_vec());
    }
    let opened = cipher.open_record(sequence, record).ok()?;
    Some(opened.as_bytes()[OPENED_BODY_AT..].to_vec())
}

fn seal(cipher: &SegmentCipher, kind: RecordKind, sequence: u64, body: &[u8]) -> Sealed {
    match kind {
        RecordKind::Written => cipher.seal_written(sequence, &Plain::copy_of(body)),
        _ => cipher.seal_record(kind, sequence, body, &[]),
    }
}

fn sealed(input: &[u8]) {
    let (edit, body) = Edit::take(input);
    let keys = golden::other_keys();
    let (stored, cipher) = keys.new_segment(edit.distance());
    let (head, tag) = journal::decode_head(stored.as_bytes()).expect("a new head");
    assert_eq!(head.order, edit.distance());
    assert!(keys.open_segment(&head, &tag).is_ok(), "what was sealed opens");
    assert!(golden::keys().open_segment(&head, &tag).is_err(), "opens in another volume");
    let edited = edit.of(&stored.as_bytes()[..HEAD_LEN]);
    if let Some((head, tag)) = journal::decode_head(&edited)
        && edited[..HEAD_LEN] != stored.as_bytes()[..HEAD_LEN]
    {
        assert!(keys.open_segment(&head, &tag).is_err(), "{edit:?} of head");
    }
    record(&cipher, edit, body);
}

fn record(cipher: &SegmentCipher, edit: Edit, body: &[u8]) {
    let (sequence, kind) = (edit.distance(), KINDS[body.len() % KINDS.len()]);
    let sealed = seal(cipher, kind, sequence, body);
    let record = sealed.as_bytes();
    assert_eq!(
        open(cipher, kind, sequence, record).as_deref(),
        Some(body),
        "what was sealed opens"
    );
    assert_eq!(open(cipher, kind, sequence - 1, record), None, "opens in another place");
    assert_eq!(open(golden::segment(), kind, sequence, record), None, "opens in another segment");
    let other = if kind == RecordKind::Written { RecordKind::Anew } else { RecordKind::Written };
    // Without a body both are the tag of the frame, which tells the kind.
    if !body.is_empty() {
        assert_eq!(open(cipher, other, sequence, record), None, "opens as another kind");
    }
    let edited = edit.of(record);
    if edited.len() >= FRAME_LEN {
        assert_eq!(open(cipher, kind, sequence, &edited), None, "{edit:?} of record");
    }
}
