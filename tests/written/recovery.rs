//! Recovery of what the journal was told: on a disk that is full or fails, to other durability, by
//! readers, and of damaged files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use cmkfs::file::{Access, Durability, FileError, Volume, VolumeOptions};
use cmkfs::format::journal::RecordKind;
use rustix::io::Errno;

use crate::faulty::{Extent, Faulty};
use crate::full::Full;
use crate::lab::{BLOCK, Lab, PART, assert_read, options, pattern, read, records};
use crate::log::logged;
use crate::volume::ME;

/// Contents by name.
type Contents = BTreeMap<String, Vec<u8>>;

/// Files of all kinds that the journal was told of.
fn fill(lab: &Lab) -> Contents {
    let mut contents = Contents::new();
    for (name, len, at, part) in [
        ("tree", 100_000, PART.1, PART.0),
        ("longer", 50_000, 50_000, 300),
        ("hole", 50_000, 150_000, 300),
        ("inline", 500, 490, 30),
        ("outgrown", 500, 5000, 400),
    ] {
        let (mut content, part) = (pattern(len, 3), pattern(part, 4));
        let file = lab.make(name, &content);
        file.write(at as u64, &part).unwrap();
        file.sync(true).unwrap();
        content.resize(content.len().max(at + part.len()), 0);
        content[at..at + part.len()].copy_from_slice(&part);
        contents.insert(name.into(), content);
    }
    contents
}

/// Adds one of which the journal has a change that lengthens it.
fn change(lab: &Lab, mut contents: Contents) -> Contents {
    let content = pattern(60_000, 5);
    let file = lab.make("changed", &content[..20_000]);
    file.write(20_000, &content[20_000..]).unwrap();
    file.sync(true).unwrap();
    contents.insert("changed".into(), content);
    contents
}

#[track_caller]
fn assert_reads(volume: &Arc<Volume>, contents: &Contents) {
    contents.iter().for_each(|(name, content)| assert_read(volume, name, content));
}

/// Writes of half a block each, so that one record tells of whole blocks: `count` of them.
fn tell_much(lab: &Lab, name: &str, count: usize) -> Vec<u8> {
    let mut content = pattern((count + 1) * BLOCK, 6);
    let file = lab.make(name, &content);
    for number in 0..count {
        for half in [0, BLOCK / 2] {
            let (at, part) = (number * BLOCK + half, pattern(BLOCK / 2, number as u8 & 63));
            file.write(at as u64, &part).unwrap();
            content[at..at + part.len()].copy_from_slice(&part);
        }
        if number % 7 == 6 {
            file.sync(true).unwrap();
        }
    }
    file.sync(true).unwrap();
    content
}

#[test]
fn more_than_8_mib_of_dirty_blocks_are_told_in_pieces() {
    let lab = Lab::new();
    let count = (9 << 20) / BLOCK;
    let content = tell_much(&lab, "much", count);
    assert_read(&lab.crash().open(), "much", &content);
    let told = |(kind, _): &&(RecordKind, usize)| *kind == RecordKind::Written;
    let found = records(lab.disk.path());
    assert!(found.iter().filter(told).count() > 60);
    assert!(found.iter().any(|(kind, _)| *kind == RecordKind::Change), "8 MiB wait, not more");
}

#[test]
fn a_relaxed_volume_gets_all_that_a_strict_one_was_told() {
    let lab = Lab::new();
    let contents = change(&lab, fill(&lab));
    let crashed = lab.crash();
    let relaxed = VolumeOptions { durability: Durability::Relaxed, ..options() };
    let volume = crashed.open_with(&relaxed);
    assert_reads(&volume, &contents);
    assert_eq!(volume.figures().recovered, contents.len() as u64);
    assert_eq!(records(crashed.path()), [], "it is in its place");
    drop(volume);
    let volume = crashed.open();
    assert_reads(&volume, &contents);
    assert_eq!(volume.figures().recovered, 0);
}

#[test]
fn a_reader_is_told_that_the_journal_has_more_and_reads_what_was_committed() {
    let lab = Lab::new();
    let (_file, content) = lab.make_told("file");
    let crashed = lab.crash();
    let reading = VolumeOptions { read_only: true, ..options() };
    let volume = crashed.open_with(&reading);
    assert!(volume.is_behind());
    assert_read(&volume, "file", &pattern(100_000, 1));
    assert_read(&crashed.open(), "file", &content);
    assert!(!crashed.open_with(&reading).is_behind());
}

#[test]
fn a_full_disk_keeps_what_was_told_until_there_is_room() {
    let lab = Lab::new();
    let mut contents = fill(&lab);
    contents.insert("much".into(), tell_much(&lab, "much", 100));
    let crashed = lab.crash();
    let disk = Full::below(crashed.path());
    let volume = crashed.open_watched(disk.clone(), Durability::Strict).unwrap();
    assert_reads(&volume, &contents);
    assert_eq!(volume.checkpoint(), Err(FileError::Sys(Errno::NOSPC)));
    assert_reads(&volume, &contents);
    assert_reads(&crashed.again().open(), &contents);
    disk.set(false);
    volume.checkpoint().unwrap();
    assert_reads(&volume, &contents);
    drop(volume);
    assert_eq!(records(crashed.path()), []);
    assert_reads(&crashed.open(), &contents);
}

#[test]
fn a_full_disk_that_has_no_room_for_a_change_is_served_from_the_journal_until_it_has() {
    let lab = Lab::new();
    let mut told = fill(&lab);
    told.insert("much".into(), tell_much(&lab, "much", 20));
    let without_change = lab.crash();
    let all = change(&lab, told.clone());
    for (crashed, durability, contents) in [
        (without_change, Durability::Relaxed, &told),
        (lab.crash(), Durability::Strict, &all),
        (lab.crash(), Durability::Relaxed, &all),
    ] {
        let disk = Full::below(crashed.path());
        let open = || crashed.open_watched(disk.clone(), durability).unwrap();
        let (volume, log) = logged(open);
        let waits = usize::from(contents.contains_key("changed"));
        assert!(log.contains(&format!("waiting_for_room={waits}")), "{log}");
        assert!(log.contains("the journal stays until it has"), "{log}");
        assert!(!log.contains("lost") && !log.contains("write it again"), "{log}");
        let mut now = contents.clone();
        assert_reads(&volume, &now);
        assert_eq!(volume.checkpoint(), Err(FileError::Sys(Errno::NOSPC)));
        assert_reads(&crashed.again().open(), &now);
        disk.set(false);
        // What is written now is written over what waits.
        let again = pattern(BLOCK, 8);
        for (name, content) in &mut now {
            let len = again.len().min(content.len());
            content[..len].copy_from_slice(&again[..len]);
            let file = volume.root().unwrap().open_file(name.as_bytes(), Access::Write).unwrap();
            file.write(0, &again[..len]).unwrap();
            file.sync(true).unwrap();
        }
        assert_reads(&crashed.again().open(), &now);
        volume.checkpoint().unwrap();
        drop(volume);
        assert_eq!(records(crashed.path()), []);
        assert_reads(&crashed.open(), &now);
    }
}

#[test]
fn a_file_that_waits_for_room_is_given_up_with_its_last_name() {
    let lab = Lab::new();
    change(&lab, Contents::new());
    let crashed = lab.crash();
    let disk = Full::below(crashed.path());
    let volume = crashed.open_watched(disk, Durability::Strict).unwrap();
    let root = volume.root().unwrap();
    let file = root.open_file(b"changed", Access::Read).unwrap();
    root.unlink(b"changed").unwrap();
    assert_eq!(volume.checkpoint(), Err(FileError::Sys(Errno::NOSPC)), "a program has it open");
    assert!(file.read(0, 60_000).unwrap()[..] == pattern(60_000, 5));
    drop(file);
    volume.checkpoint().unwrap();
    drop((root, volume));
    assert_eq!(records(crashed.path()), []);
}

#[test]
fn a_disk_that_fails_while_it_is_recovered_loses_nothing() {
    let lab = Lab::new();
    let mut contents = change(&lab, fill(&lab));
    contents.insert("much".into(), tell_much(&lab, "much", 320));
    let crashed = lab.crash();
    for durability in [Durability::Strict, Durability::Relaxed] {
        let (mut failed, mut at) = (0, 0);
        loop {
            let crashed = crashed.again();
            let faulty = Faulty::losing(crashed.path());
            faulty.arm(at, Errno::IO, Extent::Once);
            let opened = crashed.open_watched(Arc::new(faulty.clone()), durability);
            if faulty.refused().is_empty() {
                break;
            }
            failed += usize::from(opened.is_err());
            drop(opened);
            faulty.lose();
            let (volume, log) = logged(|| crashed.open());
            for (name, content) in &contents {
                let found = read(&volume, name);
                let refused = (faulty.refused(), &log, found.as_ref().map(Vec::len));
                assert!(found.as_ref() == Ok(content), "{name}, {durability}: {refused:?}");
            }
            at += 1 + at / 10;
        }
        assert!(failed > 10, "{durability}: {failed} of {at}");
    }
}

/// The journal has no header, node or block of such a file to mend it with. A file of two runs of
/// blocks is told of blocks 0 to 2, the end of block 1 among them, and of a new block 130.
#[test]
fn a_damaged_file_gets_what_can_be_written_and_others_all_of_it() {
    let lab = Lab::new();
    let contents = fill(&lab);
    let mut told = pattern(130 * BLOCK, 7);
    let file = lab.make("damaged", &told);
    told.resize(130 * BLOCK + 100, 0);
    for at in [100, 2 * BLOCK - 50, 130 * BLOCK] {
        told[at..at + 100].fill(9);
        file.write(at as u64, &[9; 100]).unwrap();
    }
    file.sync(true).unwrap();
    let mut tree = fs::read_dir(lab.disk.path().join("tree")).unwrap().map(Result::unwrap);
    let name = tree.find(|entry| entry.metadata().unwrap().ino() == file.ino());
    let path = PathBuf::from("tree").join(name.unwrap().file_name());
    // Where a bit flips, and which blocks are refused then.
    let run = 129 * BLOCK;
    for (label, at, refused) in [
        ("header", 60, 0..131),
        ("block 1", 2 * BLOCK + 7, 1..2),
        ("first node", 4096 + 7, 0..128),
        ("second node", run + 4096 + 7, 128..131),
    ] {
        for durability in [Durability::Strict, Durability::Relaxed] {
            let crashed = lab.crash();
            let stored = crashed.path().join(&path);
            let stored = fs::File::options().read(true).write(true).open(stored).unwrap();
            let mut byte = [0];
            stored.read_exact_at(&mut byte, at as u64).unwrap();
            stored.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
            let how = VolumeOptions { durability, ..options() };
            let (volume, log) = logged(|| crashed.open_with(&how));
            assert!(log.contains("not all that was written last"), "{label}: {log}");
            assert!(!log.contains("changes stay in the journal"), "{label}: {log}");
            assert_reads(&volume, &contents);
            for block in 0..131 {
                let file = volume.root().unwrap().open_file(b"damaged", Access::Read);
                let found = file.and_then(|file| file.read((block * BLOCK) as u64, BLOCK));
                let end = told.len().min((block + 1) * BLOCK);
                match found {
                    Err(error) => {
                        assert!(refused.contains(&block), "{label}, block {block}: {error}");
                        assert!(matches!(error, FileError::Damaged(_)), "{label}: {error}");
                    }
                    Ok(found) => {
                        assert!(!refused.contains(&block), "{label}, block {block} is read");
                        assert!(found[..] == told[block * BLOCK..end], "{label}, block {block}");
                    }
                }
            }
        }
    }
}

/// Of a file that was never synced a crash has left what does not open. On a full disk that writes
/// elsewhere than in place its header has no room: the journal has it.
#[test]
fn a_file_that_was_never_synced_is_empty_also_where_its_header_finds_no_room() {
    let lab = Lab::new();
    let (file, _) = lab.root.create_file(b"new", ME, 0o644).unwrap();
    file.write(0, &pattern(100_000, 1)).unwrap();
    file.commit().unwrap();
    let mut tree = fs::read_dir(lab.disk.path().join("tree")).unwrap().map(Result::unwrap);
    let entry = tree.find(|entry| entry.metadata().unwrap().ino() == file.ino()).unwrap();
    for durability in [Durability::Strict, Durability::Relaxed] {
        let crashed = lab.crash();
        let stored = crashed.path().join("tree").join(entry.file_name());
        let header = fs::File::options().write(true).open(stored).unwrap();
        header.write_all_at(&[7; 100], 140).unwrap();
        let disk = Full::below(crashed.path());
        disk.copies();
        let open = || crashed.open_watched(disk.clone(), durability).unwrap();
        let (volume, log) = logged(open);
        assert!(log.contains("never synced") && log.contains("waiting_for_room=1"), "{log}");
        assert!(!log.contains("not authentic"), "{log}");
        assert_read(&volume, "new", b"");
        assert_eq!(volume.checkpoint(), Err(FileError::Sys(Errno::NOSPC)));
        let once_more = crashed.again();
        let (volume_again, log) = logged(|| once_more.open());
        assert!(log.contains("never synced") && !log.contains("not authentic"), "{log}");
        assert_read(&volume_again, "new", b"");
        disk.set(false);
        let content = pattern(70_000, 2);
        let file = volume.root().unwrap().open_file(b"new", Access::Write).unwrap();
        file.write(0, &content).unwrap();
        file.sync(true).unwrap();
        let once_more = crashed.again();
        assert_read(&once_more.open(), "new", &content);
        drop(file);
        volume.checkpoint().unwrap();
        let once_more = crashed.again();
        assert_read(&once_more.open(), "new", &content);
        drop(volume);
        assert_read(&crashed.open(), "new", &content);
    }
}
