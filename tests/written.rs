//! Little that was written and synced is told to the journal and not committed: that costs one
//! small record, and after a crash all of it is there, whatever was done to the file since.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "written/again.rs"]
mod again;
#[path = "support/faulty.rs"]
mod faulty;
#[path = "written/full.rs"]
mod full;
#[path = "written/lab.rs"]
mod lab;
#[path = "support/log.rs"]
mod log;
#[path = "written/recovery.rs"]
mod recovery;
#[path = "support/volume.rs"]
mod volume;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cmkfs::file::{
    Allocate, File, FileError, RenameMode, SetAttr, SetTime, Time, Volume, XattrMode,
};
use cmkfs::format::journal::RecordKind;
use cmkfs::store::{Op, Watch};
use faulty::Faulty;
use lab::{BLOCK, Crashed, Lab, PART, assert_read, copy, pattern, read, records};
use rustix::io::Errno;

#[test]
fn an_overwrite_of_4_kib_is_one_record_of_less_than_5_and_seals_no_block() {
    let lab = Lab::new();
    let file = lab.make("file", &pattern(300_000, 1));
    let (before, sealed) = (records(lab.disk.path()), lab.volume.figures().blocks_sealed);
    file.write(PART.1 as u64, &pattern(PART.0, 2)).unwrap();
    file.sync(true).unwrap();
    let after = records(lab.disk.path());
    let [(RecordKind::Written, len)] = after[before.len()..] else { panic!("{after:?}") };
    assert!(len > PART.0 && len < 5 << 10, "{len} bytes");
    file.sync(false).unwrap();
    file.commit().unwrap();
    assert_eq!(records(lab.disk.path()), after, "there is nothing more to tell");
    assert_eq!(lab.volume.figures().blocks_sealed, sealed);
    lab.volume.checkpoint().unwrap();
    assert_eq!(lab.volume.figures().blocks_sealed, sealed + 1, "the checkpoint commits it");
}

#[test]
fn what_was_synced_is_there_whatever_was_done_to_the_file_since() {
    let lab = Lab::new();
    let names = ["closed", "open", "renamed", "over", "linked", "gone", "mode", "attribute"];
    let told = names.map(|name| lab.make_told(name));
    let wanted = told[0].1.clone();
    let open = told.into_iter().nth(1);
    lab.make("target", b"is replaced");
    let Lab { root, .. } = &lab;
    root.rename(b"renamed", root, b"moved", RenameMode::NoReplace).unwrap();
    root.rename(b"over", root, b"target", RenameMode::Replace).unwrap();
    root.link(b"second", root, b"linked").unwrap();
    root.unlink(b"linked").unwrap();
    root.unlink(b"gone").unwrap();
    root.set_attr(b"mode", &SetAttr { mode: Some(0o400), ..SetAttr::default() }).unwrap();
    root.set_xattr(Some(b"attribute"), b"user.mark", b"7", XattrMode::Any).unwrap();
    let crashed = lab.crash();
    drop(open);
    let volume = crashed.open();
    for name in ["closed", "open", "moved", "target", "second", "mode", "attribute"] {
        assert_read(&volume, name, &wanted);
    }
    let root = volume.root().unwrap();
    assert_eq!(root.entries().unwrap().len(), 7, "what was removed stays so");
    assert_eq!(root.lookup(b"mode").unwrap().mode, 0o400);
    assert_eq!(root.get_xattr(Some(b"attribute"), b"user.mark").unwrap(), b"7");
}

#[test]
fn a_time_stays_what_it_was_when_what_was_told_is_committed() {
    let lab = Lab::new();
    let stat = |volume: &Arc<Volume>, name: &[u8]| volume.root().unwrap().lookup(name).unwrap();
    let set = Time { s: 1_000_000_000, ns: 7 };
    let at = SetAttr { mtime: Some(SetTime::At(set.s, set.ns)), ..SetAttr::default() };
    for (name, len) in [("set", 10_000), ("set, large", 300_000), ("written", 10_000)] {
        let file = lab.make(name, &pattern(6 * BLOCK, 1));
        // What lengthens a file changes its stored bytes when it is committed.
        for piece in pattern(len, 2).chunks(10_000) {
            file.append(piece).unwrap();
            file.sync(false).unwrap();
        }
    }
    for name in ["set", "set, large"] {
        lab.root.set_attr(name.as_bytes(), &at).unwrap();
    }
    let synced = stat(&lab.volume, b"written").mtime;
    let crashed = lab.crash();
    lab.volume.checkpoint().unwrap();
    for volume in [lab.volume.clone(), crashed.open()] {
        assert_eq!(stat(&volume, b"set").mtime, set);
        assert_eq!(stat(&volume, b"set, large").mtime, set);
        assert_eq!(stat(&volume, b"written").mtime, synced);
        assert_eq!(stat(&volume, b"written").size, 6 * BLOCK as u64 + 10_000);
    }
}

#[test]
fn what_was_told_and_then_changed_in_shape_is_as_it_was_synced() {
    let shape = |name: &str, change: &dyn Fn(&File) -> Result<(), FileError>| {
        let lab = Lab::new();
        let (file, before) = lab.make_told(name);
        change(&file).unwrap();
        assert_read(&lab.crash().open(), name, &before);
        let now = file.read(0, 1 << 20).unwrap().to_vec();
        file.sync(true).unwrap();
        assert_read(&lab.crash().open(), name, &now);
        // And told of it again.
        file.write(5, b"once more").unwrap();
        file.sync(true).unwrap();
        let now = file.read(0, 1 << 20).unwrap().to_vec();
        assert_read(&lab.crash().open(), name, &now);
    };
    shape("cut", &|file| file.set_len(21_000));
    shape("longer", &|file| file.set_len(200_000));
    shape("punched", &|file| file.allocate(Allocate::PunchHole, 16_000, 40_000));
    shape("zeroed", &|file| file.allocate(Allocate::ZeroRange { keep_size: true }, 21_000, 50));
    shape("reserved", &|file| file.allocate(Allocate::Reserve { keep_size: true }, 0, 1 << 20));
    let lab = Lab::new();
    let (file, _) = lab.make_told("emptied");
    file.set_len(0).unwrap();
    file.sync(true).unwrap();
    assert_read(&lab.crash().open(), "emptied", b"");
    file.write(3, b"anew").unwrap();
    file.sync(true).unwrap();
    assert_read(&lab.crash().open(), "emptied", b"\0\0\0anew");
}

#[test]
fn a_log_of_300_synced_lines_is_there_and_takes_little_of_the_journal() {
    let lab = Lab::new();
    let (file, mut wanted) = (lab.make("log", b""), Vec::new());
    for number in 0..300_u32 {
        let line = pattern(200, number as u8 & 63);
        file.append(&line).unwrap();
        file.sync(true).unwrap();
        wanted.extend(line);
    }
    let lens = records(lab.disk.path()).into_iter().map(|(_, len)| len).sum::<usize>();
    assert!(lens < 300 * 400 + (8 << 10), "{lens} bytes of records");
    assert_read(&lab.crash().open(), "log", &wanted);
}

/// A disk whose driver panics when it is to read.
#[derive(Debug, Default)]
struct Panicking(AtomicBool);

impl Watch for Panicking {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        assert!(!matches!(op, Op::Read { .. }) || !self.0.load(Ordering::Relaxed));
        run().map(drop)
    }
}

#[test]
fn a_file_that_is_in_doubt_keeps_what_the_journal_was_told() {
    let disk = Arc::new(Panicking::default());
    let lab = Lab::watched(disk.clone());
    let (file, told) = lab.make_told("file");
    disk.0.store(true, Ordering::Relaxed);
    let written = std::panic::catch_unwind(AssertUnwindSafe(|| file.write(70_000, b"half of it")));
    assert!(written.is_err());
    disk.0.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(lab.volume.checkpoint(), Err(FileError::Latched));
        assert_read(&lab.crash().open(), "file", &told);
    }
}

/// It is refused while anybody has it open, and no longer: opening it anew brings to its place what
/// the journal has of it.
#[test]
fn a_refused_file_with_changes_in_the_journal_is_served_when_it_is_opened_anew() {
    let disk = Faulty::default();
    let lab = Lab::watched(Arc::new(disk.clone()));
    let (file, told) = lab.make_told("file");
    disk.refuse_sync(Some(file.ino()));
    assert_eq!(file.sync(false), Err(FileError::Sys(Errno::IO)));
    assert_eq!(read(&lab.volume, "file"), Err(FileError::Latched));
    drop(file);
    assert_read(&lab.volume, "file", &told);
    assert_read(&lab.crash().open(), "file", &told);
}

/// When a checkpoint brings the first of these files to its place, the others are written to and
/// synced, and the store is copied.
#[derive(Debug, Default)]
struct Meanwhile {
    store: Mutex<PathBuf>,
    files: Mutex<Vec<Arc<File>>>,
    copied: Mutex<Option<tempfile::TempDir>>,
}

impl Watch for Meanwhile {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        let Op::Write { file, .. } = *op else { return run().map(drop) };
        let files = self.files.lock().unwrap().clone();
        if files.iter().any(|of| of.ino() == file) {
            self.files.lock().unwrap().clear();
            for of in files.iter().filter(|of| of.ino() != file) {
                of.write(50_000, b"the second").unwrap();
                of.sync(true).unwrap();
            }
            *self.copied.lock().unwrap() = Some(copy(&self.store.lock().unwrap()));
        }
        run().map(drop)
    }
}

/// Whoever takes one segment away gets a file as it was before both, not one of two times.
#[test]
fn what_was_told_in_two_segments_counts_as_a_whole_or_not_at_all() {
    let watch = Arc::new(Meanwhile::default());
    let lab = Lab::watched(watch.clone());
    let names = ["one", "two", "three", "four", "five"];
    let told = names.map(|name| lab.make_told(name));
    *watch.store.lock().unwrap() = lab.disk.path().to_owned();
    *watch.files.lock().unwrap() = told.iter().map(|(file, _)| file.clone()).collect();
    lab.volume.checkpoint().unwrap();
    let whole = Crashed { disk: &lab.disk, dir: watch.copied.lock().unwrap().take().unwrap() };
    let first = &told[0].1;
    let mut second = first.clone();
    second[50_000..50_010].copy_from_slice(b"the second");
    for gone in [None, Some("journal/0"), Some("journal/1")] {
        let crashed = whole.again();
        if let Some(segment) = gone {
            std::fs::write(crashed.path().join(segment), b"").unwrap();
        }
        let volume = crashed.open();
        let read = names.map(|name| read(&volume, name).unwrap());
        let count = |content: &[u8]| read.iter().filter(|found| *found == content).count();
        let (before, between, after) = (count(&pattern(100_000, 1)), count(first), count(&second));
        let wanted = match gone {
            None => (0, 1, 4),
            Some("journal/1") => (0, 5, 0),
            // What comes first there is a change, with all that was told before it.
            _ => (before, 5 - before - after, after),
        };
        assert_eq!((before, between, after), wanted, "without {gone:?}");
        assert!(gone != Some("journal/0") || after == 4);
    }
}
