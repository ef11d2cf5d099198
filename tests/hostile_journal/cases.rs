//! What a forger does to a store whose journal has records, and what comes of it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use cmkfs::file::Kind;
use cmkfs::format::journal::{BODY_LEN_MAX, HEAD_LEN, RecordKind};
use rustix::fs::{FileType, Mode};

use crate::lab::{BLOCK, BLOCKS_AT, Image, Lab, NODE_AT, Seen, Tree};
use crate::oracle::Rec;
use crate::{Moments, flip, without};

/// What comes of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything is as if nothing had happened.
    Whole,
    /// Every file is as it was committed, some of them as they were before.
    Earlier,
    /// Something is an error.
    Refused,
    /// What SECURITY.md, section 5, says goes unnoticed of whole objects.
    Unnoticed,
}
use Verdict::{Earlier, Refused, Unnoticed, Whole};

/// Of `/dev/null`, which takes what is written to it, and whose loss nobody minds.
const NULL_DEVICE: u64 = 0x103;

type Edit<'a> = Box<dyn Fn(&Lab) + 'a>;

pub(crate) struct Case<'a> {
    pub(crate) label: &'static str,
    pub(crate) verdict: Verdict,
    /// What `cmkfs check` finds, or says.
    pub(crate) check: &'static [&'static str],
    pub(crate) image: &'a Image,
    pub(crate) edit: Edit<'a>,
    /// What is read.
    pub(crate) wanted: Tree,
}

fn bytes(content: &[u8]) -> Seen {
    Seen::Bytes(content.to_vec())
}

fn refused(part: &str) -> Seen {
    Seen::Refused(part.into())
}

/// The image as it is without an edit, but for some files.
fn but<const N: usize>(image: &Image, others: [(&str, Seen); N]) -> Tree {
    let mut tree = image.whole();
    tree.extend(others.map(|(name, seen)| (name.to_owned(), seen)));
    tree
}

/// A volume that does not open, and why.
fn closed(part: &str) -> Tree {
    Tree::from([("volume".into(), refused(part))])
}

fn change_segment<'a>(segment: usize, change: impl Fn(&mut Vec<u8>) + 'a) -> Edit<'a> {
    Box::new(move |lab| {
        let mut bytes = fs::read(lab.segment(segment)).unwrap();
        change(&mut bytes);
        fs::write(lab.segment(segment), bytes).unwrap();
    })
}

/// Puts the records of a segment together again, otherwise.
fn reorder<'a>(
    image: &'a Image,
    segment: usize,
    change: impl Fn(&mut Vec<Vec<u8>>) + 'a,
) -> Edit<'a> {
    change_segment(segment, move |bytes| {
        let records = image.records.iter().filter(|record| record.segment == segment);
        let part = |record: &Rec| bytes[record.at..record.at + record.len].to_vec();
        let mut parts: Vec<_> = records.map(part).collect();
        change(&mut parts);
        let len = bytes.len();
        bytes.truncate(HEAD_LEN);
        bytes.extend(parts.concat());
        bytes.resize(len.max(bytes.len()), 0);
    })
}

pub(crate) fn of_records<'a>(lab: &Lab, moments: &'a Moments) -> Vec<Case<'a>> {
    let (one, amid) = (&moments.one, &moments.amid);
    let all = one.records.len();
    let case = |label, verdict, keep: usize, change: fn(&mut Vec<Vec<u8>>)| Case {
        label,
        verdict,
        check: &[],
        image: one,
        edit: reorder(one, 0, change),
        wanted: lab.recovered(&one.place, without(one, 0, keep).iter()),
    };
    let newer = amid.records.iter().filter(|record| record.segment == 1).count();
    let (taken, last) = (amid.records[all + 1].clone(), amid.records.last().unwrap().clone());
    let (copy, last_copy) = (append(one, taken), append(one, last.clone()));
    vec![
        case("as it is", Whole, all, |_| {}),
        case("the last cut by a byte", Earlier, all - 1, |parts| {
            parts.last_mut().unwrap().pop();
        }),
        case("one with a byte more", Earlier, 8, |parts| parts[7].push(0)),
        case("one zeroed", Earlier, 7, |parts| parts[7].fill(0)),
        case("two exchanged", Earlier, 7, |parts| parts.swap(7, 8)),
        case("one there twice", Earlier, 8, |parts| parts.insert(8, parts[7].clone())),
        case("one removed", Earlier, 7, |parts| drop(parts.remove(7))),
        case("the last there twice", Whole, all, |parts| parts.push(parts.last().unwrap().clone())),
        case("the longest body claimed", Whole, all, |parts| {
            let mut frame = parts.last().unwrap()[..64].to_vec();
            frame[..4].copy_from_slice(&(BODY_LEN_MAX as u32).to_le_bytes());
            parts.push(frame);
        }),
        case("a longer body claimed", Earlier, 7, |parts| parts[7][..4].fill(0xFF)),
        Case {
            label: "one copied to the other segment",
            verdict: Whole,
            check: &[],
            image: amid,
            edit: Box::new(copy),
            wanted: amid.whole(),
        },
        Case {
            label: "one moved to the other segment",
            verdict: Earlier,
            check: &[],
            image: amid,
            edit: Box::new(move |lab| {
                last_copy(lab);
                change_segment(1, |bytes| bytes[last.at..][..last.len].fill(0))(lab);
            }),
            wanted: lab.recovered(&amid.place, without(amid, 1, newer - 1).iter()),
        },
    ]
}

/// Copies a record from the second segment to the end of the first.
fn append(one: &Image, record: Rec) -> impl Fn(&Lab) {
    let end = one.records.iter().map(|record| record.at + record.len).max().unwrap();
    move |lab: &Lab| {
        let moved = fs::read(lab.segment(1)).unwrap()[record.at..][..record.len].to_vec();
        let file = File::options().write(true).open(lab.segment(0)).unwrap();
        file.write_all_at(&moved, end as u64).unwrap();
    }
}

pub(crate) fn of_written<'a>(lab: &Lab, moments: &'a Moments) -> Vec<Case<'a>> {
    let Moments { one, amid, late, apart, told_copy, .. } = moments;
    let is_told = |record: &&Rec| record.kind == RecordKind::Written;
    let at = one.records.iter().position(|record| is_told(&record)).unwrap();
    assert!(one.records[at].ino == one.records[at + 1].ino && is_told(&&one.records[at + 1]));
    let case = |label, keep: usize, edit| {
        let wanted = lab.recovered(&one.place, without(one, 0, keep).iter());
        Case::new(label, Earlier, one, edit, wanted)
    };
    let in_second: Vec<&Rec> = amid.records.iter().filter(|record| record.segment == 1).collect();
    let moved_at = in_second.iter().rposition(is_told).unwrap();
    let moved = in_second[moved_at].clone();
    let (copy, take) = (append(one, moved.clone()), append(one, moved.clone()));
    let taken: Edit<'a> = Box::new(move |lab| {
        take(lab);
        change_segment(1, |bytes| bytes[moved.at..][..moved.len].fill(0))(lab);
    });
    let kept = lab.recovered(&amid.place, without(amid, 1, moved_at).iter());
    let first = segment_of(lab, one, 0);
    let back = |name: &'static str| -> Edit<'a> {
        let (old, first) = (put_back(lab, one, name, None), first.clone());
        Box::new(move |lab| {
            old(lab);
            fs::write(lab.segment(0), &first).unwrap();
        })
    };
    let old = |name: &'static str| but(late, [(name, bytes(&one.newest[name]))]);
    let of_copy = but(late, [("told", bytes(&moments.told_content))]);
    let copied = || write([Some(told_copy), None]);
    vec![
        case("zeroed", at, reorder(one, 0, move |parts| parts[at].fill(0))),
        case("removed", at, reorder(one, 0, move |parts| drop(parts.remove(at)))),
        case("two exchanged", at, reorder(one, 0, move |parts| parts.swap(at, at + 1))),
        case(
            "there twice",
            at + 1,
            reorder(one, 0, move |parts| {
                parts.insert(at + 1, parts[at].clone());
            }),
        ),
        case("called a change", at, reorder(one, 0, move |parts| parts[at][4] = 3)),
        case("cut", at, reorder(one, 0, move |parts| parts[at].truncate(40))),
        Case::new("copied to the other segment", Whole, amid, Box::new(copy), amid.whole()),
        Case::new("moved to the other segment", Earlier, amid, taken, kept),
        Case::new("above its file put back", Unnoticed, late, back("told"), old("told")),
        Case::new("above an inline one put back", Unnoticed, late, back("told, inline"), {
            old("told, inline")
        }),
        Case::new("above files of now", Whole, late, write([Some(&first), None]), late.whole()),
        Case::new("of another time", Unnoticed, late, copied(), of_copy),
        Case::new("of another time, and one of now", Whole, apart, copied(), apart.whole()),
    ]
}

fn segment_of(lab: &Lab, image: &Image, segment: usize) -> Vec<u8> {
    lab.put(image);
    fs::read(lab.segment(segment)).unwrap()
}

fn write<'a>(segments: [Option<&Vec<u8>>; 2]) -> Edit<'a> {
    let segments = segments.map(|bytes| bytes.cloned());
    Box::new(move |lab: &Lab| {
        for (number, bytes) in segments.iter().enumerate() {
            bytes.iter().for_each(|bytes| fs::write(lab.segment(number), bytes).unwrap());
        }
    })
}

impl<'a> Case<'a> {
    fn new(
        label: &'static str,
        verdict: Verdict,
        image: &'a Image,
        edit: Edit<'a>,
        wanted: Tree,
    ) -> Self {
        Self { label, verdict, check: &[], image, edit, wanted }
    }

    fn finds(self, check: &'static [&'static str]) -> Self {
        Self { check, ..self }
    }
}

pub(crate) fn of_segments<'a>(lab: &Lab, moments: &'a Moments) -> Vec<Case<'a>> {
    let Moments { one, both, amid, strange, .. } = moments;
    let (first, second) = (segment_of(lab, one, 0), segment_of(lab, both, 1));
    let remove = |numbers: &'static [usize]| -> Edit<'a> {
        Box::new(|lab| numbers.iter().for_each(|n| fs::remove_file(lab.segment(*n)).unwrap()))
    };
    let only = |segment: usize| lab.recovered(&amid.place, without(amid, 1 - segment, 0).iter());
    let none = || lab.recovered(&amid.place, [].iter());
    let case = |label, verdict, edit, wanted| Case::new(label, verdict, amid, edit, wanted);
    let exchange: Edit<'a> = Box::new(|lab| {
        let two = [0, 1].map(|number| fs::read(lab.segment(number)).unwrap());
        fs::write(lab.segment(0), &two[1]).unwrap();
        fs::write(lab.segment(1), &two[0]).unwrap();
    });
    let gone: Edit<'a> = Box::new(|lab| fs::remove_dir_all(lab.at("journal")).unwrap());
    let other = write([Some(&strange[0]), Some(&strange[1])]);
    // Found long: what was written in place before the record that tells of it, which is lost, or
    // is not looked at, as whoever only reads makes no segment that is missing.
    vec![
        case("exchanged", Whole, exchange, amid.whole()),
        case("the older removed", Earlier, remove(&[0]), only(1)).finds(&["long", "long"]),
        case("the newer removed", Earlier, remove(&[1]), only(0)).finds(&["long", "long"]),
        case("both removed", Earlier, remove(&[0, 1]), none()).finds(&["long", "long"]),
        case("no journal at all", Earlier, gone, none()).finds(&["long", "long"]),
        case("the older twice", Earlier, write([None, Some(&first)]), only(0)),
        case("the newer twice", Earlier, write([Some(&second), None]), only(1)).finds(&["long"]),
        case("another volume's", Earlier, other, none()).finds(&["long", "long"]),
        Case::new("records that are in place", Whole, both, remove(&[0]), both.whole())
            .finds(&["long"]),
    ]
}

pub(crate) fn of_times<'a>(lab: &Lab, moments: &'a Moments) -> Vec<Case<'a>> {
    let Moments { one, both, third, late, forked, epoch, .. } = moments;
    let (first, second) = (segment_of(lab, one, 0), segment_of(lab, both, 1));
    let copied = || write([Some(&moments.copied), None]);
    let none = |image: &Image| lab.recovered(&image.place, [].iter());
    let old_epoch: Edit<'a> = Box::new(|lab| {
        fs::write(lab.at("volume.json"), &moments.old_descriptor).unwrap();
    });
    let of_copy = but(late, [("change", bytes(&moments.copied_content))]);
    let mixed = but(forked, [("change", refused("not authentic"))]);
    let damaged = |name: &'static str, at: u64| -> Edit<'a> {
        let old = write([Some(&first), None]);
        Box::new(move |lab| {
            flip(&lab.stored(name), at as usize);
            old(lab);
        })
    };
    let old_anew = but(late, [("anew", bytes(&one.newest["anew"]))]);
    let case = Case::new;
    vec![
        case("old for the one in use", Earlier, third, write([Some(&first), None]), none(third)),
        case("old for the retired", Whole, third, write([None, Some(&first)]), third.whole()),
        case("old, unmounted", Whole, late, write([Some(&first), None]), late.whole()),
        case("two old, unmounted", Whole, late, write([Some(&first), Some(&second)]), late.whole()),
        case("old, and a header damaged", Unnoticed, late, damaged("anew", 60), old_anew),
        case("old, and a block damaged", Unnoticed, late, damaged("fresh", BLOCKS_AT), {
            but(late, [("fresh", bytes(b""))])
        }),
        case("of a copy of the volume", Unnoticed, late, copied(), of_copy),
        case("of a copy that went its own way", Refused, forked, copied(), mixed)
            .finds(&["blocks"]),
        case("under a key that is no more", Earlier, epoch, old_epoch, none(epoch)),
    ]
}

/// Puts a page of a stored file back as it was, or all of the file.
fn put_back<'a>(lab: &Lab, from: &Image, name: &'static str, at: Option<u64>) -> Edit<'a> {
    lab.put(from);
    let old = fs::read(lab.stored(name)).unwrap();
    Box::new(move |lab| {
        let Some(at) = at else { return fs::write(lab.stored(name), &old).unwrap() };
        let file = File::options().write(true).open(lab.stored(name)).unwrap();
        file.write_all_at(&old[at as usize..][..BLOCK as usize], at).unwrap();
    })
}

pub(crate) fn of_places<'a>(lab: &Lab, moments: &'a Moments) -> Vec<Case<'a>> {
    let Moments { early, one, late, .. } = moments;
    let block = |number: u64| BLOCKS_AT + number * BLOCK;
    let old = |at| put_back(lab, early, "change", Some(at));
    let bad = |why| but(one, [("change", refused(why))]);
    let case = |label, verdict, check, edit, wanted| Case {
        label,
        verdict,
        check,
        image: one,
        edit,
        wanted,
    };
    let flipped = |name: &'static str, at: u64| -> Edit<'a> {
        Box::new(move |lab| flip(&lab.stored(name), at as usize))
    };
    let zeroed: Edit<'a> = Box::new(|lab| {
        let file = File::options().write(true).open(lab.stored("change")).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
    });
    let cut: Edit<'a> = Box::new(|lab| drop(File::create(lab.stored("fresh")).unwrap()));
    let first = segment_of(lab, one, 0);
    let old_file = put_back(lab, one, "change", None);
    let old_both = put_back(lab, one, "change", None);
    vec![
        case("an old header", Refused, &["blocks"], old(0), bad("not authentic")),
        case("an old node, journalled", Whole, &[], old(NODE_AT), one.whole()),
        case("an old node", Refused, &["blocks"], old(block(128) + NODE_AT), bad("not authentic")),
        case("an old block, journalled", Whole, &[], old(block(1)), one.whole()),
        case("an old block", Refused, &["blocks"], old(block(0)), bad("not authentic")),
        case("a header without its id", Refused, &["header"], zeroed, bad("damaged")),
        case(
            "a header with another id",
            Refused,
            &["header"],
            flipped("change", 20),
            bad("damaged"),
        ),
        case("a header's key", Whole, &[], flipped("change", 60), one.whole()),
        case("a told file's header", Refused, &["header"], flipped("told", 60), {
            but(one, [("told", refused("damaged"))])
        }),
        case("a told file's block", Refused, &["blocks"], flipped("told", block(1)), {
            but(one, [("told", refused("not authentic"))])
        }),
        case("a block of a new file", Earlier, &[], flipped("fresh", block(2)), {
            but(one, [("fresh", bytes(b""))])
        }),
        case("a new file emptied", Earlier, &[], cut, but(one, [("fresh", bytes(b""))])),
        Case {
            image: late,
            ..case("an old file", Unnoticed, &[], old_file, {
                but(late, [("change", bytes(&one.place["change"]))])
            })
        },
        Case {
            image: late,
            ..case(
                "an old file and the journal of then",
                Unnoticed,
                &[],
                Box::new(move |lab| {
                    old_both(lab);
                    fs::write(lab.segment(0), &first).unwrap();
                }),
                but(late, [("change", bytes(&one.newest["change"]))]),
            )
        },
    ]
}

pub(crate) fn of_objects<'a>(moments: &'a Moments) -> Vec<Case<'a>> {
    let one = &moments.one;
    let now = |name: &str| bytes(&one.newest[name]);
    let case = |label, edit: fn(&Lab), wanted| {
        Case::new(label, Unnoticed, one, Box::new(edit) as Edit<'a>, wanted)
    };
    let replaced = |label, make: fn(&Path), kind| {
        let edit = move |lab: &Lab| {
            let path = lab.stored("change");
            fs::remove_file(&path).unwrap();
            make(&path);
        };
        let wanted = but(one, [("change", Seen::Other(kind))]);
        Case::new(label, Unnoticed, one, Box::new(edit) as Edit<'a>, wanted)
    };
    let over = |lab: &Lab| fs::rename(lab.stored("still"), lab.stored("change")).unwrap();
    let into = |lab: &Lab| assert!(fs::copy(lab.stored("still"), lab.stored("change")).is_ok());
    let exchange = |lab: &Lab| {
        let (one, two, aside) = (lab.stored("change"), lab.stored("anew"), lab.at("tree/aside"));
        fs::rename(&one, &aside).unwrap();
        fs::rename(&two, &one).unwrap();
        fs::rename(&aside, &two).unwrap();
    };
    let link = |lab: &Lab| {
        let (from, to) = (lab.stored("change"), lab.stored("still"));
        fs::remove_file(&to).unwrap();
        fs::hard_link(from, to).unwrap();
    };
    let no_name = |lab: &Lab| fs::hard_link(lab.stored("change"), lab.at("tree/x")).unwrap();
    let mut alone = but(one, [("change", now("still"))]);
    alone.remove("still");
    let exchanged = but(one, [("change", now("anew")), ("anew", now("change"))]);
    vec![
        case("another file renamed over it", over, alone),
        case("another file's bytes", into, but(one, [("change", now("still"))])),
        case("two exchanged", exchange, exchanged),
        case("a hard link under another name", link, but(one, [("still", now("change"))])),
        Case { verdict: Whole, ..case("a hard link that is no name", no_name, one.whole()) }
            .finds(&["foreign"]),
        replaced("a link", |path| symlink("/etc/hostname", path).unwrap(), Kind::Symlink)
            .finds(&["link"]),
        replaced("a FIFO", |path| node(path, FileType::Fifo, 0).unwrap(), Kind::Fifo),
        replaced("a directory", |path| fs::create_dir(path).unwrap(), Kind::Dir).finds(&["marker"]),
    ]
}

fn node(path: &Path, kind: FileType, device: u64) -> rustix::io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, device)
}

pub(crate) fn of_kinds<'a>(lab: &Lab, moments: &'a Moments) -> Vec<Case<'a>> {
    let one = &moments.one;
    let shut = |label, path: &'static str, make: fn(&Path), why| {
        let edit = Box::new(move |lab: &Lab| {
            fs::rename(lab.at(path), lab.at("aside")).unwrap();
            make(&lab.at(path));
        });
        // What is in place can be looked at still.
        Case::new(label, Refused, one, edit, closed(why)).finds(&["long"])
    };
    let fifo: fn(&Path) = |path| node(path, FileType::Fifo, 0).unwrap();
    let null: fn(&Path) = |path| node(path, FileType::CharacterDevice, NULL_DEVICE).unwrap();
    let hole: Edit<'a> = Box::new(|lab| {
        fs::remove_file(lab.segment(0)).unwrap();
        File::create(lab.segment(0)).unwrap().set_len(1 << 40).unwrap();
    });
    let behind: Edit<'a> = Box::new(|lab| {
        File::options().write(true).open(lab.segment(0)).unwrap().set_len(1 << 40).unwrap();
    });
    let none = lab.recovered(&one.place, [].iter());
    let link: fn(&Path) = |path| symlink("../aside", path).unwrap();
    let dir: fn(&Path) = |path| fs::create_dir(path).unwrap();
    let mut cases = vec![
        shut("a segment is a link", "journal/0", link, "Too many levels of symbolic links"),
        shut("a segment is a FIFO", "journal/0", fifo, "Invalid argument"),
        shut("a segment is a directory", "journal/1", dir, "Is a directory"),
        shut("the journal is a FIFO", "journal", fifo, "Not a directory"),
        shut("the journal is a link", "journal", |path| symlink("aside", path).unwrap(), {
            "Not a directory"
        }),
        Case::new("a segment of 1 TiB of hole", Earlier, one, hole, none).finds(&["long"]),
        Case::new("1 TiB of hole behind records", Whole, one, behind, one.whole()),
    ];
    let tried = lab.at("device");
    if node(&tried, FileType::CharacterDevice, NULL_DEVICE).is_ok() && File::open(&tried).is_ok() {
        cases.push(shut("a segment is a device", "journal/1", null, "Invalid argument"));
    }
    cases
}
