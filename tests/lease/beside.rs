//! Reading beside a writer: through a mount for reading only, and without a mount.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::desk::{Desk, await_that, said};

/// Bytes of a block.
const BLOCK: usize = 16 << 10;
/// Bytes of a page of the kernel's cache.
const PAGE: usize = 4096;
const PAGES: usize = BLOCKS * BLOCK / PAGE;
/// Blocks of the file that is written over.
const BLOCKS: usize = 64;
/// How long writer and readers go on.
const TIME: Duration = Duration::from_secs(4);
/// A timer's commit, the checkpoint that follows it, and a slow machine.
const CHECKPOINT: Duration = Duration::from_secs(20);

/// A volume with a writer at `mnt` and a reader at `reader`.
fn pair(options: &str) -> Desk {
    let desk = Desk::new();
    desk.volume();
    desk.dir("reader");
    desk.ok(&format!("mount {options} store mnt"));
    desk.ok("mount --read-only store reader");
    desk
}

fn content(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK * BLOCKS / 4)
}

/// The number of each part of this many bytes, which all of the part has.
fn numbers(bytes: &[u8], part: usize) -> Vec<u32> {
    assert_eq!(bytes.len(), BLOCK * BLOCKS);
    let number = |bytes: &[u8]| {
        let all: BTreeSet<u32> =
            bytes.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(all.len(), 1, "{part} bytes have one number");
        *all.first().unwrap()
    };
    bytes.chunks(part).map(number).collect()
}

/// The numbers in the pages of a file. The kernel takes each by itself from what it keeps.
fn pages_of(file: &File) -> Vec<u32> {
    let mut bytes = vec![0; BLOCK * BLOCKS];
    file.read_exact_at(&mut bytes, 0).unwrap();
    numbers(&bytes, PAGE)
}

/// Compares what was read with what was read before. Returns the least number.
fn advance(seen: &mut [u32], now: &[u32], who: &str) -> u32 {
    for (part, (then, now)) in seen.iter().zip(now).enumerate() {
        assert!(then <= now, "{who}: part {part} went back from {then} to {now}");
    }
    seen.copy_from_slice(now);
    *now.iter().min().unwrap()
}

/// One writes a file over and over; others read it all the time. With a journal what was synced is
/// seen after a checkpoint, without one at once by whoever opens the file anew.
fn beside(options: &str, at_once: bool) {
    let desk = pair(options);
    std::fs::write(desk.at("mnt/file"), content(1)).unwrap();
    let (synced, stop, reads) = (AtomicU32::new(1), AtomicBool::new(false), AtomicU64::new(0));
    let goes_on = || !stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(desk.at("mnt/file")).unwrap();
            for number in 2.. {
                if !goes_on() {
                    break;
                }
                file.write_all_at(&content(number), 0).unwrap();
                file.sync_data().unwrap();
                synced.store(number, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            let mut seen = vec![0; PAGES];
            while goes_on() {
                let before = synced.load(Ordering::SeqCst);
                let now = pages_of(&File::open(desk.at("reader/file")).unwrap());
                let least = advance(&mut seen, &now, "opened anew");
                assert!(!at_once || least >= before, "{least} after {before} was synced");
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let (file, mut seen) = (File::open(desk.at("reader/file")).unwrap(), vec![0; PAGES]);
            while goes_on() {
                advance(&mut seen, &pages_of(&file), "opened once");
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut seen = vec![0; BLOCKS];
            while goes_on() {
                let before = synced.load(Ordering::SeqCst);
                let bytes = cat(&desk, "file");
                let least = advance(&mut seen, &numbers(&bytes, BLOCK), "cat");
                assert!(!at_once || least >= before, "{least} after {before} was synced");
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        std::thread::sleep(TIME);
        stop.store(true, Ordering::Relaxed);
    });
    let (last, began) = (synced.load(Ordering::SeqCst), Instant::now());
    let newest = || pages_of(&File::open(desk.at("reader/file")).unwrap());
    assert!(!at_once || newest() == [last; PAGES]);
    while newest() != [last; PAGES] {
        assert!(began.elapsed() < CHECKPOINT, "{last} is not seen");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(last > 5 && reads.load(Ordering::Relaxed) > 10, "{last} {reads:?}");
}

/// `cmkfs cat` straight from the store: in a process that sees no mount of it.
fn cat(desk: &Desk, name: &str) -> Vec<u8> {
    let mut command = std::process::Command::new("unshare");
    desk.prepare(&mut command);
    let script = "umount -l mnt; umount -l reader; exec \"$0\" cat store:/\"$1\"";
    command.args(["-m", "sh", "-euc", script, crate::desk::CMKFS, name]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    output.stdout
}

#[test]
fn every_read_beside_a_writer_is_of_committed_states() {
    beside("--durability relaxed", true);
}

#[test]
fn every_read_beside_a_writer_with_a_journal_is_of_committed_states() {
    beside("", false);
}

#[test]
fn names_beside_a_writer_are_those_that_are_there() {
    let desk = pair("--durability relaxed");
    let (here, there) = (|name: &str| desk.at("mnt").join(name), desk.at("reader"));
    let read = |name: &str| std::fs::read_to_string(there.join(name)).map_err(|error| error.kind());
    let absent = Err(std::io::ErrorKind::NotFound);
    assert_eq!(read("a"), absent);
    std::fs::write(here("a"), "one").unwrap();
    assert_eq!(read("a").as_deref(), Ok("one"));
    // An open file goes on as what it was, and its name leads to the new one.
    std::fs::write(here("b"), "two").unwrap();
    let open = File::open(there.join("a")).unwrap();
    std::fs::rename(here("b"), here("a")).unwrap();
    assert_eq!((read("a").as_deref(), read("b")), (Ok("two"), absent.clone()));
    let mut old = String::new();
    (&open).read_to_string(&mut old).unwrap();
    assert_eq!(old, "one");
    assert_eq!(open.metadata().unwrap().len(), 3);
    // Again and again, so that old names pile up if they are kept.
    for round in 0..50 {
        let (from, to) = (format!("n{round}"), format!("n{}", round + 1));
        std::fs::write(here(&from), &from).unwrap();
        assert_eq!(read(&from).as_ref(), Ok(&from));
        std::fs::rename(here(&from), here(&to)).unwrap();
        assert_eq!((read(&from), read(&to).as_ref()), (absent.clone(), Ok(&from)));
        std::fs::remove_file(here(&to)).unwrap();
        assert_eq!(read(&to), absent);
    }
    // Directories, and what is known below them; long names have a file of their own.
    let long = "n".repeat(250);
    std::fs::create_dir_all(here("d/e")).unwrap();
    std::fs::write(here(&format!("d/e/{long}")), "deep").unwrap();
    assert_eq!(read(&format!("d/e/{long}")).as_deref(), Ok("deep"));
    let dir = File::open(there.join("d/e")).unwrap();
    std::fs::rename(here("d"), here("moved")).unwrap();
    assert_eq!(read(&format!("d/e/{long}")), absent);
    assert_eq!(read(&format!("moved/e/{long}")).as_deref(), Ok("deep"));
    assert!(dir.metadata().is_ok());
    std::fs::remove_dir_all(here("moved")).unwrap();
    assert!(there.join("moved").symlink_metadata().is_err());
    std::os::unix::fs::symlink("first", here("link")).unwrap();
    assert_eq!(std::fs::read_link(there.join("link")).unwrap().to_str(), Some("first"));
    std::fs::remove_file(here("link")).unwrap();
    std::os::unix::fs::symlink("second", here("link")).unwrap();
    assert_eq!(std::fs::read_link(there.join("link")).unwrap().to_str(), Some("second"));
    let mut listed: Vec<_> =
        there.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    listed.sort();
    assert_eq!(listed, ["a", "link"]);
}

#[test]
fn a_size_beside_a_writer_is_a_committed_one() {
    let desk = pair("--durability relaxed");
    let file = File::create_new(desk.at("mnt/file")).unwrap();
    file.write_all_at(&content(1), 0).unwrap();
    file.sync_all().unwrap();
    let size = || desk.at("reader/file").metadata().unwrap().size();
    let committed = (BLOCK * BLOCKS) as u64;
    assert_eq!(size(), committed);
    let held = File::open(desk.at("reader/file")).unwrap();
    // Longer, and stored, and not committed; the timer may commit it just then, but not each time.
    let is_hidden = || {
        file.write_all_at(&content(2), committed).unwrap();
        let seen = (size(), held.metadata().unwrap().size());
        file.sync_all().unwrap();
        seen == (committed, committed)
    };
    let is_hidden_or_again = |_| {
        let hidden = is_hidden();
        if !hidden {
            file.set_len(committed).unwrap();
            file.sync_all().unwrap();
        }
        hidden
    };
    assert!((0..3).any(is_hidden_or_again), "what is not committed was seen");
    assert_eq!((size(), held.metadata().unwrap().size()), (2 * committed, 2 * committed));
    assert_eq!(std::fs::read(desk.at("reader/file")).unwrap().len() as u64, 2 * committed);
    file.set_len(100).unwrap();
    file.sync_all().unwrap();
    assert_eq!((size(), held.metadata().unwrap().size()), (100, 100));
    assert_eq!(std::fs::read(desk.at("reader/file")).unwrap(), &content(1)[..100]);
}

#[test]
fn an_older_state_put_back_is_not_read_while_the_newer_is_known() {
    let desk = pair("--durability relaxed");
    std::fs::write(desk.at("mnt/file"), content(1)).unwrap();
    let stored = desk.stored_file("store", (BLOCK * BLOCKS) as u64);
    let old = std::fs::read(&stored).unwrap();
    let file = OpenOptions::new().write(true).open(desk.at("mnt/file")).unwrap();
    file.write_all_at(&content(2), 0).unwrap();
    drop(file);
    desk.ok("umount mnt");
    let held = File::open(desk.at("reader/file")).unwrap();
    assert_eq!(pages_of(&held), [2; PAGES]);
    OpenOptions::new().write(true).open(&stored).unwrap().write_all_at(&old, 0).unwrap();
    let again = File::open(desk.at("reader/file")).unwrap();
    let mut bytes = vec![0; BLOCK * BLOCKS];
    match again.read_exact_at(&mut bytes, 0) {
        Ok(()) => assert_eq!(numbers(&bytes, PAGE), [2; PAGES], "what the kernel has kept"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO)),
    }
}

#[test]
fn what_did_not_change_is_not_read_twice() {
    let desk = pair("--durability relaxed");
    std::fs::write(desk.at("mnt/file"), content(1)).unwrap();
    let opened = || {
        let status = serde_json::from_str(&desk.ok("status store --json"));
        let status: serde_json::Value = status.unwrap();
        let daemons = status["volumes"].as_array().unwrap().iter().map(|one| &one["daemon"]);
        let mut reader = daemons.filter(|daemon| daemon["read_only"] == true);
        reader.next().unwrap()["figures"]["blocks_opened"].as_u64().unwrap()
    };
    assert_eq!(pages_of(&File::open(desk.at("reader/file")).unwrap()), [1; PAGES]);
    assert!(opened() >= BLOCKS as u64);
    // For a moment it is read again; then the kernel keeps it.
    await_that("it is kept", || {
        let before = opened();
        pages_of(&File::open(desk.at("reader/file")).unwrap());
        opened() == before
    });
    let before = opened();
    for _ in 0..5 {
        assert_eq!(pages_of(&File::open(desk.at("reader/file")).unwrap()), [1; PAGES]);
    }
    assert_eq!(opened(), before, "the kernel has it, and it is what is stored");
    std::fs::write(desk.at("mnt/file"), content(2)).unwrap();
    assert_eq!(pages_of(&File::open(desk.at("reader/file")).unwrap()), [2; PAGES]);
}

#[test]
fn snapshots_and_checks_go_beside_readers_and_writers() {
    let desk = pair("--durability relaxed");
    std::fs::write(desk.at("mnt/file"), content(1)).unwrap();
    desk.ok("snapshot create store shelf");
    desk.ok("check store");
    desk.ok("check store --no-key");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 2.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                std::fs::write(desk.at("mnt/file"), content(number)).unwrap();
                let name = desk.at("mnt").join(format!("n{number}"));
                std::fs::write(&name, "text").unwrap();
                std::fs::remove_file(name).unwrap();
            }
        });
        desk.ok("check store");
        desk.ok("snapshot create store shelf");
        stop.store(true, Ordering::Relaxed);
    });
    desk.ok("umount mnt");
    desk.ok("snapshot create store shelf");
    assert!(desk.is_mounted("reader"), "who only reads is in no snapshot's way");
    desk.ok("mount store mnt");
    await_that("the reader goes on", || desk.at("reader/file").metadata().is_ok());
    desk.ok("snapshot restore shelf again");
    desk.ok("check again");
}
