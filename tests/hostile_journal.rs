//! Whatever is done to the journal of a store, and to what lies below it, what is read is what was
//! committed to that file at some time, or an error, or what SECURITY.md says goes unnoticed. The
//! store as it was at several moments is edited, opened and read; for every edit it is said exactly
//! what is read then.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "hostile_journal/cases.rs"]
mod cases;
#[path = "support/disk.rs"]
mod disk;
#[path = "hostile_journal/lab.rs"]
mod lab;
#[path = "hostile_journal/oracle.rs"]
mod oracle;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::{Case, Verdict};
use cmkfs::format::journal::{FRAME_LEN, HEAD_LEN, RecordKind};
use cmkfs::store::{Op, Watch};
use lab::{BLOCK, Image, Lab, Seen, Served, Tree};
use oracle::Rec;
use rustix::io::Errno;

/// Bytes of a head that say something.
const HEAD_SAYS: usize = 56;
/// Bytes of the longest beginning of a body that is flipped byte by byte.
const BEGINNING: usize = 64;

fn pattern(len: usize, fill: u8) -> Vec<u8> {
    // Two of them are equal nowhere for long.
    let byte = |at: usize| u8::try_from(at % 241).unwrap().wrapping_mul(2 * fill + 1);
    (0..len).map(|at| byte(at).wrapping_add(fill)).collect()
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
    /// A segment of a copy of the store of then, in which a file was changed, and to what.
    copied: Vec<u8>,
    copied_content: Vec<u8>,
    /// The same file was changed as often here, and the volume unmounted.
    forked: Image,
    /// A segment that was told of a write to `late`, which was put back then, and the content.
    told_copy: Vec<u8>,
    told_content: Vec<u8>,
    /// The same file was written to here, which the second segment was told.
    apart: Image,
    /// One epoch later, with records that its key authenticates.
    epoch: Image,
    /// `volume.json` of before.
    old_descriptor: Vec<u8>,
    /// Segments of another volume.
    strange: [Vec<u8>; 2],
}

/// Files that are in place, as they were before some of them changed.
fn begin(lab: &mut Lab) -> Image {
    let mut served = lab.serve();
    // Two runs of blocks: the first node is in a page of its own.
    lab.make(&mut served, "change", pattern(600_000, 1), true);
    lab.make(&mut served, "anew", pattern(30_000, 2), true);
    lab.make(&mut served, "placed", pattern(5 * BLOCK as usize, 3), true);
    lab.make(&mut served, "inline", pattern(900, 4), true);
    lab.make(&mut served, "still", pattern(9000, 5), true);
    lab.make(&mut served, "told", pattern(30_000, 30), true);
    lab.make(&mut served, "told, then changed", pattern(20_000, 31), true);
    lab.make(&mut served, "told, inline", pattern(700, 32), true);
    lab.make(&mut served, "told, longer", pattern(10_000, 33), true);
    lab.make(&mut served, "told, outgrown", pattern(600, 34), true);
    lab.checkpoint(&served);
    let early = lab.image();
    for at in [0, 20 * BLOCK, 130 * BLOCK] {
        lab.change(&mut served, "change", usize::MAX, at as usize, &pattern(100, 11));
    }
    lab.unmount(served);
    early
}

/// Changes of every kind, and what the journal is told.
fn change(lab: &mut Lab, served: &mut Served) {
    lab.make(served, "fresh", pattern(20_000, 6), false);
    lab.make(served, "settled", pattern(20_000, 7), true);
    lab.make(served, "grown", pattern(5 * BLOCK as usize, 8), true);
    lab.change(served, "change", usize::MAX, 5000, &pattern(5000, 12));
    lab.change(served, "grown", usize::MAX, 300, &pattern(300, 13));
    lab.change(served, "inline", usize::MAX, 10, &pattern(20, 14));
    lab.change(served, "anew", 0, 0, &pattern(3000, 15));
    lab.change(served, "grown", usize::MAX, 5 * BLOCK as usize, &pattern(200_000, 9));
    // Extents above the end, which go; after the checkpoint bytes come to their place at once.
    lab.change(served, "placed", usize::MAX, 5 * BLOCK as usize, &pattern(8192, 16));
    lab.change(served, "placed", 5 * BLOCK as usize, 9, &pattern(9, 17));
    lab.change(served, "anew", usize::MAX, 2900, &pattern(5000, 19));
    lab.change(served, "change", usize::MAX, 7000, &pattern(7000, 20));
    tell(lab, served);
}

fn play(lab: &mut Lab) -> Moments {
    let early = begin(lab);
    let mut served = lab.serve();
    change(lab, &mut served);
    let one = lab.image();
    lab.checkpoint(&served);
    lab.change(&mut served, "change", usize::MAX, 9000, &pattern(9000, 21));
    lab.change(&mut served, "inline", usize::MAX, 30, &pattern(50, 22));
    lab.tell(&mut served, "told", &[(7000, &pattern(60, 50))]);
    lab.tell(&mut served, "told, inline", &[(650, &pattern(90, 51))]);
    lab.tell(&mut served, "told, longer", &[(10_100, &pattern(30, 52)), (9, &pattern(8, 53))]);
    lab.tell(&mut served, "told", &[(7030, &pattern(60, 54))]);
    lab.change(&mut served, "anew", 0, 0, &pattern(7000, 23));
    lab.change(&mut served, "placed", usize::MAX, 5 * BLOCK as usize, &pattern(200_000, 18));
    let both = lab.image();
    lab.checkpoint(&served);
    lab.change(&mut served, "change", usize::MAX, 0, &pattern(5, 24));
    let third = lab.image();
    lab.unmount(served);
    let late = lab.image();
    let amid = lab.with_contents_of(&both, &one, &["placed"]);

    let part = pattern(100, 25);
    let (copied, copied_content) = lab.segment_of_a_copy("change", 30 * BLOCK as usize, &part);
    let (told_copy, told_content) = lab.segment_put_back("told", 12_000, &part);
    let mut served = lab.serve();
    lab.change(&mut served, "change", usize::MAX, 50 * BLOCK as usize, &pattern(100, 26));
    lab.unmount(served);
    let forked = lab.image();
    let mut served = lab.serve();
    lab.change(&mut served, "still", usize::MAX, 100, &pattern(100, 28));
    lab.checkpoint(&served);
    lab.tell(&mut served, "told", &[(13_000, &pattern(70, 55))]);
    let apart = lab.image();
    lab.unmount(served);
    let old_descriptor = fs::read(lab.at("volume.json")).unwrap();
    lab.add_epoch();
    let mut served = lab.serve();
    lab.change(&mut served, "change", usize::MAX, 60 * BLOCK as usize, &pattern(100, 27));
    let epoch = lab.image();
    lab.unmount(served);
    Moments {
        early,
        one,
        both,
        amid,
        third,
        late,
        copied,
        copied_content,
        forked,
        told_copy,
        told_content,
        apart,
        epoch,
        old_descriptor,
        strange: [vec![], vec![]],
    }
}

/// What the journal is told of: trees and inline files, made longer and with holes, several times,
/// before a change and after it.
fn tell(lab: &mut Lab, served: &mut Served) {
    lab.tell(served, "told", &[(100, &pattern(50, 40)), (5000, &pattern(3000, 41))]);
    lab.tell(served, "told", &[(4000, &pattern(300, 42))]);
    lab.tell(served, "told, then changed", &[(10, &pattern(100, 43))]);
    lab.change(served, "told, then changed", usize::MAX, 9000, &pattern(100, 44));
    lab.tell(served, "told, then changed", &[(50, &pattern(100, 45))]);
    lab.tell(served, "told, inline", &[(0, &pattern(20, 46)), (600, &pattern(5, 47))]);
    lab.tell(served, "told, longer", &[(10_000, &pattern(500, 48))]);
    lab.tell(served, "told, longer", &[(20_000, &pattern(100, 49))]);
    lab.tell(served, "told, outgrown", &[(5000, &pattern(200, 56))]);
    lab.tell(served, "told, inline", &[(690, &pattern(300, 57))]);
    lab.tell(served, "told", &[(29_000, &pattern(1500, 58)), (110, &pattern(20, 59))]);
}

/// A lab and its moments, which are what the tests are about.
fn moments() -> (Lab, Moments) {
    let (mut other, mut lab) = (Lab::new(), Lab::new());
    let strange = play(&mut other).both;
    other.put(&strange);
    let strange = [0, 1].map(|number| fs::read(other.segment(number)).unwrap());
    let moments = Moments { strange, ..play(&mut lab) };
    let kinds = |image: &Image, segment| {
        let of = image.records.iter().filter(|record| record.segment == segment);
        of.map(|record| record.kind).collect::<Vec<_>>()
    };
    for kind in [RecordKind::Fresh, RecordKind::Settled, RecordKind::Change, RecordKind::Anew] {
        assert!(kinds(&moments.one, 0).contains(&kind), "{kind:?}");
    }
    assert_eq!([0, 1].map(|segment| told(&kinds(&moments.both, segment))), [10, 4]);
    let placed = moments.both.records.iter().filter(|record| record.placed > 0);
    assert_eq!(placed.map(|record| record.segment).collect::<Vec<_>>(), [0, 1]);
    assert!(kinds(&moments.one, 1).is_empty() && moments.late.records.is_empty());
    assert!(!kinds(&moments.both, 0).is_empty() && !kinds(&moments.both, 1).is_empty());
    (lab, moments)
}

fn told(kinds: &[RecordKind]) -> usize {
    kinds.iter().filter(|kind| **kind == RecordKind::Written).count()
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
fn flip_all(lab: &Lab, image: &Image, segment: usize, step: usize) -> (usize, usize) {
    let (mut tried, mut earlier) = (0, 0);
    let mut try_at = |at: usize, wanted: &Tree| {
        lab.put(image);
        flip(&lab.segment(segment), at);
        assert_reads(&format!("byte {at} of segment {segment}"), &lab.look(), wanted);
        tried += 1;
        earlier += usize::from(*wanted != image.whole());
    };
    let gone = lab.recovered(&image.place, without(image, segment, 0).iter());
    (0..HEAD_SAYS).step_by(step).for_each(|at| try_at(at, &gone));
    for at in [HEAD_SAYS, 2000, HEAD_LEN - 1] {
        try_at(at, &image.whole());
    }
    let records = image.records.iter().filter(|record| record.segment == segment);
    for (number, record) in records.enumerate() {
        let wanted = lab.recovered(&image.place, without(image, segment, number).iter());
        let dense = record.len.min(FRAME_LEN + BEGINNING);
        let rest = (dense..record.len).step_by(2999).chain([record.len - 1]);
        (0..dense).step_by(step).chain(rest).for_each(|at| try_at(record.at + at, &wanted));
    }
    (tried, earlier)
}

#[test]
fn a_flipped_byte_ends_its_segment_and_nothing_else_is_read() {
    let (lab, moments) = moments();
    for (image, segment, step) in
        [(&moments.one, 0, 1), (&moments.amid, 0, 9), (&moments.both, 1, 9)]
    {
        let (tried, earlier) = flip_all(&lab, image, segment, step);
        assert!(tried > 60 && earlier > 50, "segment {segment}: {earlier} of {tried}");
    }
}

/// Does it, looks, and does it once more for a check.
fn run(lab: &Lab, cases: Vec<Case<'_>>) {
    let mut wrong = Vec::new();
    for Case { label, verdict, check, image, edit, wanted } in cases {
        lab.put(image);
        edit(lab);
        assert_reads(label, &lab.look(), &wanted);
        let is = match verdict {
            _ if wanted == image.whole() => Verdict::Whole,
            _ if wanted.values().any(|seen| matches!(seen, Seen::Refused(_))) => Verdict::Refused,
            Verdict::Unnoticed => Verdict::Unnoticed,
            _ => Verdict::Earlier,
        };
        assert_eq!(is, verdict, "{label}");
        lab.put(image);
        edit(lab);
        let found = lab.check();
        if found != check {
            wrong.push(format!("{label}: check found {found:?}, wanted {check:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn records_count_only_as_they_were_made() {
    let (lab, moments) = moments();
    run(&lab, cases::of_records(&lab, &moments));
}

#[test]
fn written_bytes_count_only_as_they_were_told() {
    let (lab, moments) = moments();
    run(&lab, cases::of_written(&lab, &moments));
}

#[test]
fn segments_count_only_in_their_volume_and_time() {
    let (lab, moments) = moments();
    run(&lab, cases::of_segments(&lab, &moments));
}

#[test]
fn a_journal_counts_for_nothing_newer() {
    let (lab, moments) = moments();
    run(&lab, cases::of_times(&lab, &moments));
}

#[test]
fn what_lies_below_a_journal_is_mended_by_it_or_refused() {
    let (lab, moments) = moments();
    run(&lab, cases::of_places(&lab, &moments));
}

#[test]
fn objects_below_a_journal_are_what_they_are() {
    let (lab, moments) = moments();
    run(&lab, cases::of_objects(&moments));
}

#[test]
fn a_journal_is_two_regular_files_or_refused() {
    let (lab, moments) = moments();
    run(&lab, cases::of_kinds(&lab, &moments));
}

/// Counts the descriptors of a store at each call to its disk.
#[derive(Debug)]
struct Descriptors(PathBuf, AtomicUsize);

impl Watch for Descriptors {
    fn around(&self, _: &Op<'_>, run: &mut dyn FnMut() -> OpDone) -> Result<(), Errno> {
        let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
        let paths = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        let count = paths.filter(|path| path.starts_with(&self.0)).count();
        self.1.fetch_max(count, Ordering::Relaxed);
        run().map(drop)
    }
}

type OpDone = Result<Option<u64>, Errno>;

/// A directory may have more directories in it than a process may have descriptors.
#[test]
fn recovery_holds_few_descriptors_at_once() {
    let mut lab = Lab::new();
    let image = lab.many_dirs(100);
    lab.put(&image);
    let watch = Arc::new(Descriptors(lab.path().to_owned(), AtomicUsize::default()));
    let (recovered, volume) = lab.open_watched(watch.clone());
    assert_eq!(recovered, 100, "every file that was cut off is empty");
    drop(volume);
    let most = watch.1.load(Ordering::Relaxed);
    assert!((3..20).contains(&most), "{most} descriptors");
}
