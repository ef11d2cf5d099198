//! Whatever is done to the journal of a store, and to what lies below it, what is read is what was
//! committed to that file at some time, or an error, or what SECURITY.md says goes unnoticed. The
//! store as it was at several moments is edited, opened and read; for every edit it is said exactly
//! what is read then.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "support/disk.rs"]
mod disk;
#[path = "hostile_journal/lab.rs"]
mod lab;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cmkfs::format::journal::{BODY_LEN_MAX, FRAME_LEN, HEAD_LEN, RecordKind};
use lab::{BLOCK, BLOCKS_AT, Image, Lab, NODE_AT, Rec, Seen, Tree, stored_in};

/// Bytes of a head that say something.
const HEAD_SAYS: usize = 56;
/// Bytes of the longest beginning of a body that is flipped byte by byte.
const BEGINNING: usize = 64;

fn pattern(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|at| fill.wrapping_add(u8::try_from(at % 241).unwrap())).collect()
}

/// The store at the moments that a forger has seen.
struct Moments {
    /// Before the files were as they are in place in `one`.
    early: Image,
    /// Mounted; records of every kind in one segment.
    one: Image,
    /// A checkpoint later: records in both segments, of which the older ones are in place.
    both: Image,
    /// The same, but nothing of `one` has come to its place: the checkpoint was not at its end.
    amid: Image,
    /// One more checkpoint: the first segment is in use anew.
    third: Image,
    /// Unmounted.
    late: Image,
}

fn play(lab: &mut Lab) -> Moments {
    let mut served = lab.serve();
    // Two runs of blocks: the first node is in a page of its own.
    lab.make(&mut served, "change", pattern(600_000, 1), true);
    lab.make(&mut served, "anew", pattern(30_000, 2), true);
    lab.make(&mut served, "placed", pattern(5 * BLOCK as usize, 3), true);
    lab.make(&mut served, "inline", pattern(900, 4), true);
    lab.make(&mut served, "still", pattern(9000, 5), true);
    lab.checkpoint(&served);
    let early = lab.image();
    for at in [0, 20 * BLOCK, 130 * BLOCK] {
        lab.change(&mut served, "change", usize::MAX, at as usize, &pattern(100, 11));
    }
    lab.unmount(served);

    let mut served = lab.serve();
    lab.make(&mut served, "fresh", pattern(20_000, 6), false);
    lab.make(&mut served, "settled", pattern(20_000, 7), true);
    lab.make(&mut served, "grown", pattern(5 * BLOCK as usize, 8), true);
    lab.change(&mut served, "change", usize::MAX, 5000, &pattern(5000, 12));
    lab.change(&mut served, "grown", usize::MAX, 300, &pattern(300, 13));
    lab.change(&mut served, "inline", usize::MAX, 10, &pattern(20, 14));
    lab.change(&mut served, "anew", 0, 0, &pattern(3000, 15));
    lab.change(&mut served, "grown", usize::MAX, 5 * BLOCK as usize, &pattern(200_000, 9));
    // Extents above the end, which go; after the checkpoint bytes come to their place at once.
    lab.change(&mut served, "placed", usize::MAX, 5 * BLOCK as usize, &pattern(8192, 16));
    lab.change(&mut served, "placed", 5 * BLOCK as usize, 9, &pattern(9, 17));
    lab.change(&mut served, "anew", usize::MAX, 2900, &pattern(5000, 19));
    lab.change(&mut served, "change", usize::MAX, 7000, &pattern(7000, 20));
    let one = lab.image();
    lab.checkpoint(&served);
    lab.change(&mut served, "change", usize::MAX, 9000, &pattern(9000, 21));
    lab.change(&mut served, "inline", usize::MAX, 30, &pattern(50, 22));
    lab.change(&mut served, "anew", 0, 0, &pattern(7000, 23));
    lab.change(&mut served, "placed", usize::MAX, 5 * BLOCK as usize, &pattern(200_000, 18));
    let both = lab.image();
    lab.checkpoint(&served);
    lab.change(&mut served, "change", usize::MAX, 0, &pattern(5, 24));
    let third = lab.image();
    lab.unmount(served);
    let late = lab.image();
    let amid = lab.with_contents_of(&both, &one, &["placed"]);
    Moments { early, one, both, amid, third, late }
}

/// A lab and its moments, which are what the tests are about.
fn moments() -> (Lab, Moments) {
    let mut lab = Lab::new();
    let moments = play(&mut lab);
    let kinds = |image: &Image, segment| {
        let of = image.records.iter().filter(|record| record.segment == segment);
        of.map(|record| record.kind).collect::<Vec<_>>()
    };
    for kind in [RecordKind::Fresh, RecordKind::Settled, RecordKind::Change, RecordKind::Anew] {
        assert!(kinds(&moments.one, 0).contains(&kind), "{kind:?}");
    }
    let placed = moments.both.records.iter().filter(|record| record.placed > 0);
    assert_eq!(placed.map(|record| record.segment).collect::<Vec<_>>(), [0, 1]);
    assert!(kinds(&moments.one, 1).is_empty() && moments.late.records.is_empty());
    assert!(!kinds(&moments.both, 0).is_empty() && !kinds(&moments.both, 1).is_empty());
    (lab, moments)
}

fn flip(path: &Path, at: usize) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at as u64).unwrap();
}

/// Errors are as wanted if they say what is wanted, and everything else is equal.
#[track_caller]
fn assert_reads(label: &str, found: &Tree, wanted: &Tree) {
    for name in found.keys().chain(wanted.keys()) {
        let right = match (found.get(name), wanted.get(name)) {
            (Some(Seen::Refused(why)), Some(Seen::Refused(part))) => why.contains(part),
            (found, wanted) => found == wanted,
        };
        let shown = |tree: &Tree| match tree.get(name) {
            Some(Seen::Bytes(bytes)) => format!("{} bytes", bytes.len()),
            other => format!("{other:?}"),
        };
        let (is, was) = (shown(found), shown(wanted));
        assert!(right, "{label}: {name} is {is}, wanted {was}");
    }
}

/// All records but those of a segment from the `from`th on.
fn without(image: &Image, segment: usize, from: usize) -> Vec<Rec> {
    let mut number = 0;
    let mut keep = |record: &&Rec| {
        number += usize::from(record.segment == segment);
        record.segment != segment || number <= from
    };
    image.records.iter().filter(|record| keep(record)).cloned().collect()
}

/// Flips a bit of every byte of a segment that says something, and looks.
fn flip_all(lab: &Lab, image: &Image, segment: usize) -> (usize, usize) {
    let (mut tried, mut earlier) = (0, 0);
    let mut try_at = |at: usize, wanted: &Tree| {
        lab.put(image);
        flip(&lab.segment(segment), at);
        assert_reads(&format!("byte {at} of segment {segment}"), &lab.look(), wanted);
        tried += 1;
        earlier += usize::from(*wanted != image.whole());
    };
    let gone = lab.recovered(&image.place, without(image, segment, 0).iter());
    (0..HEAD_SAYS).for_each(|at| try_at(at, &gone));
    for at in [HEAD_SAYS, 2000, HEAD_LEN - 1] {
        try_at(at, &image.whole());
    }
    let records = image.records.iter().filter(|record| record.segment == segment);
    for (number, record) in records.enumerate() {
        let wanted = lab.recovered(&image.place, without(image, segment, number).iter());
        let dense = record.len.min(FRAME_LEN + BEGINNING);
        let rest = (dense..record.len).step_by(1999).chain([record.len - 1]);
        (0..dense).chain(rest).for_each(|at| try_at(record.at + at, &wanted));
    }
    (tried, earlier)
}

#[test]
fn a_flipped_byte_ends_its_segment_and_nothing_else_is_read() {
    let (lab, moments) = moments();
    for (image, segment) in [(&moments.one, 0), (&moments.amid, 0), (&moments.both, 1)] {
        let (tried, earlier) = flip_all(&lab, image, segment);
        assert!(tried > 300 && earlier > 200, "segment {segment}: {earlier} of {tried}");
    }
}
