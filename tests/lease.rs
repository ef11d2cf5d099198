//! One process writes a volume: who else wants to is told who has it, a dead holder is in nobody's
//! way, and a holder that lost the volume writes no more. Readers beside a writer see committed
//! states only. Needs `/dev/fuse`.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "lease/beside.rs"]
mod beside;
#[path = "support/desk.rs"]
mod desk;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cmkfs::file::{Access, Creator, Dir, FileError, RenameMode, XattrMode};
use cmkfs::lifecycle::open::{self, Opened, Tuning};
use cmkfs::store::{Blob, HeldHow, LeaseError, LockError, LockMode, Store};
use desk::{Desk, await_that, end, flip, judge, said};
use rustix::process::Signal;

/// Between two renewals, where a test waits for some.
const SHORT: Duration = Duration::from_millis(100);
const CREATOR: Creator = Creator { uid: 0, gid: 0 };

/// What a holder on another machine writes, that renews every `renews_ms`.
fn foreign(renews_ms: u64) -> String {
    format!(
        "{{\"beat\":\"{:020}\",\"token\":\"c0ffee\",\"boot\":\"another\",\"renews_ms\":{renews_ms},\
         \"pid\":4711,\"host\":\"node-b\",\"mountpoints\":[\"/data\"],\"socket\":null,\
         \"started_unix_s\":1700000000}}",
        0
    )
}

fn lock_text(desk: &Desk) -> String {
    std::fs::read_to_string(desk.at("store/lock")).unwrap()
}

/// A desk with a store `net/store` on a filesystem that may be another machine's: one of FUSE, such
/// as cmkfs itself.
fn shared() -> Desk {
    let desk = Desk::new();
    desk.ok("init outer");
    desk.dir("net");
    desk.ok("mount outer net");
    desk.ok("init net/store");
    desk.dir("mnt");
    desk
}

#[test]
fn a_second_writer_is_refused_and_told_who_has_the_volume() {
    let desk = Desk::new();
    desk.mounted();
    desk.dir("second");
    let daemon = desk.daemon("store").as_raw_nonzero();
    let who = format!("in use by process {daemon} on ");
    desk.refused("mount store second", 35, &[&who, " since 2", "mnt", "cmkfs umount"]);
    desk.refused("check store --repair", 35, &["mnt"]);
    desk.refused("terminate store --yes", 35, &["mnt"]);
    desk.ok("umount mnt");
    assert_eq!(lock_text(&desk), "", "a holder that leaves says that nobody has it");
}

#[test]
fn the_lock_of_a_killed_holder_is_taken_over_at_once() {
    let desk = Desk::new();
    desk.mounted();
    end(desk.daemon("store"), Signal::KILL);
    assert!(Command::new("umount").arg("-l").arg(desk.at("mnt")).status().unwrap().success());
    assert!(lock_text(&desk).contains("\"pid\""), "it had no time to clear it");
    std::fs::write(desk.at("plain"), "text").unwrap();
    let began = Instant::now();
    let output = desk.command("put plain store:/plain").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("taken over from process"), "{}", said(&output));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_holder_of_another_machine_is_watched_and_taken_over_if_it_is_dead() {
    let desk = shared();
    std::fs::write(desk.at("net/store/lock"), foreign(400)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(desk.at("net/store/lock")).unwrap();
            for beat in 1_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                file.write_all_at(format!("{beat:020}").as_bytes(), 9).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let who =
            "in use by process 4711 on node-b since 2023-11-14 22:13:20 UTC, mounted at /data";
        let refused = desk.command("mount net/store mnt").output().unwrap();
        judge("mount net/store mnt", &refused, 35, &[who, "on that host", "it renews its lease"]);
        // A copy that has to be still needs it gone too; reading does not.
        let refused = desk.command("snapshot create net/store shelf").output().unwrap();
        judge("snapshot create net/store shelf", &refused, 35, &[who]);
        desk.ok("ls net/store:/");
        stop.store(true, Ordering::Relaxed);
    });
    std::fs::write(desk.at("plain"), "text").unwrap();
    let output = desk.command("put plain net/store:/plain").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("taken over from process 4711 on node-b"), "{text}");
    assert!(text.contains("did not renew its lease within 1."), "three renewals of 0.4 s: {text}");
    // Where only this machine can have the store, nobody waits for who has died.
    let store = desk.at("local");
    desk.ok("init local");
    std::fs::write(store.join("lock"), foreign(20_000)).unwrap();
    let began = Instant::now();
    desk.ok("put plain local:/plain");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    desk.ok("umount net");
}

#[test]
fn whatever_a_lock_file_says_the_volume_can_be_had() {
    let desk = shared();
    let lock_file = desk.at("net/store/lock");
    let store = Store::open(&desk.at("net/store")).unwrap();
    let claim = foreign(100);
    let long = "x".repeat(1 << 20);
    for text in ["junk", "{}", "\0\0\0", &claim[..40], &long, "{\"pid\":1}", "[[[[[", "null"] {
        std::fs::write(&lock_file, text).unwrap();
        let lock = store.lock_renewing(LockMode::Exclusive, Duration::ZERO, SHORT / 10);
        let mut lock = lock.unwrap_or_else(|error| panic!("{text:.40}: {error}"));
        lock.describe(&open::holder(Vec::new(), None)).unwrap();
        lock.standing().unwrap().check().unwrap();
        drop(lock);
        assert_eq!(std::fs::read(&lock_file).unwrap(), b"", "{text:.40}");
    }
    // Something else in its place is an answer of the system's.
    std::fs::remove_file(&lock_file).unwrap();
    std::os::unix::fs::symlink(desk.at("elsewhere"), &lock_file).unwrap();
    let refused = store.lock(LockMode::Exclusive, Duration::ZERO);
    assert!(matches!(refused, Err(LockError::Sys { .. })), "{refused:?}");
    assert!(!desk.at("elsewhere").exists());
    drop(store);
    desk.ok("umount net");
}

#[test]
fn who_reads_waits_for_no_holder_of_another_machine() {
    let desk = shared();
    desk.ok("mount net/store mnt");
    std::fs::write(desk.at("mnt/file"), "old").unwrap();
    desk.ok("umount mnt");
    desk.ok("mount net/store mnt");
    // Below what is in place, so that it is in the journal.
    std::fs::OpenOptions::new()
        .write(true)
        .open(desk.at("mnt/file"))
        .and_then(|file| file.write_all_at(b"new", 0).and_then(|()| file.sync_all()))
        .unwrap();
    let lock_file = desk.at("net/store/lock");
    end(desk.daemon("net/store"), Signal::KILL);
    assert!(Command::new("umount").arg("-l").arg(desk.at("mnt")).status().unwrap().success());
    let own = std::fs::read_to_string(&lock_file).unwrap();
    let (before, device) = own.split_once("\"device\":").unwrap();
    let after = device.trim_start_matches(|digit: char| digit.is_ascii_digit());
    // Of this machine, by another mount of the same files, whose locks are its own.
    for text in [foreign(20_000), format!("{before}\"device\":1{after}")] {
        std::fs::write(&lock_file, &text).unwrap();
        let began = Instant::now();
        assert_eq!(desk.ok("cat net/store:/file"), "old", "its journal may be in use");
        let status = desk.status("net/store");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        assert!(text.contains(&format!("\"pid\":{},", status["holder"]["pid"])), "{status}");
        assert_eq!(std::fs::read_to_string(&lock_file).unwrap(), text, "left alone");
        let store = Store::open(&desk.at("net/store")).unwrap();
        let refused = store.lock_unwatched();
        assert!(
            matches!(refused, Err(LockError::Held { how: HeldHow::Elsewhere, .. })),
            "{refused:?}"
        );
    }
    std::fs::write(&lock_file, own).unwrap();
    assert_eq!(desk.ok("cat net/store:/file"), "new", "a dead holder of this machine's is none");
    assert_eq!(std::fs::read(&lock_file).unwrap(), b"", "whoever recovers says so, and leaves");
    desk.ok("umount net");
}

#[test]
fn a_lock_file_that_is_removed_while_its_holder_is_watched_is_locked_anew() {
    let desk = shared();
    let lock_file = desk.at("net/store/lock");
    std::fs::write(&lock_file, foreign(2000)).unwrap();
    let store = Store::open(&desk.at("net/store")).unwrap();
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| store.lock(LockMode::Exclusive, Duration::ZERO));
        std::thread::sleep(Duration::from_millis(700));
        std::fs::remove_file(&lock_file).unwrap();
        let taken = taken.join().unwrap().unwrap();
        let refused = store.lock(LockMode::Exclusive, Duration::ZERO);
        assert!(matches!(refused, Err(LockError::Held { .. })), "{refused:?}");
        drop(taken);
    });
    drop(store);
    desk.ok("umount net");
}

#[test]
fn who_copies_learns_of_a_writer_that_came_and_left() {
    let desk = shared();
    let lock_file = desk.at("net/store/lock");
    let store = Store::open(&desk.at("net/store")).unwrap();
    let still = store.lock(LockMode::Shared, Duration::ZERO).unwrap();
    store.still_free(&still).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    // On another machine, whose flock(2) is its own.
    std::fs::write(&lock_file, foreign(1000)).unwrap();
    assert!(matches!(store.still_free(&still), Err(LockError::Held { .. })));
    std::fs::write(&lock_file, "").unwrap();
    assert!(matches!(store.still_free(&still), Err(LockError::Held { .. })));
    drop((still, store));
    desk.ok("umount net");
}

#[test]
fn who_only_asks_for_writers_is_in_no_writers_way() {
    let desk = Desk::new();
    desk.volume();
    let store = Store::open(&desk.at("store")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let writers = store.writers().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box(writers.may_be_there());
                }
            });
        }
        for _ in 0..200 {
            drop(store.lock(LockMode::Exclusive, Duration::from_secs(10)).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
    });
    let writers = store.writers().unwrap();
    assert!(!writers.may_be_there() && writers.have_left());
    let lock = store.lock(LockMode::Exclusive, Duration::ZERO).unwrap();
    assert!(writers.may_be_there());
    let refused = store.lock(LockMode::Exclusive, Duration::ZERO);
    assert!(matches!(refused, Err(LockError::Held { how: HeldHow::Here, .. })), "{refused:?}");
    drop(lock);
    std::fs::write(desk.at("store/lock"), foreign(100)).unwrap();
    assert!(!writers.may_be_there() && !writers.have_left(), "it can't be another machine's");
    let desk = shared();
    let store = Store::open(&desk.at("net/store")).unwrap();
    std::fs::write(desk.at("net/store/lock"), foreign(100)).unwrap();
    assert!(store.writers().unwrap().may_be_there(), "nobody knows whether node-b lives");
    drop(store);
    desk.ok("umount net");
}

/// A volume opened for writing by this process, with a key file.
fn opened(desk: &Desk) -> Opened {
    desk.ok("init store --key file:key");
    let tuning = Tuning { lease_interval: SHORT, ..Tuning::default() };
    open::open(&desk.at("store"), None, open::Access::Write, &tuning).unwrap()
}

fn desk_with_key() -> Desk {
    let desk = Desk::new();
    std::fs::write(desk.at("key"), [7; 32]).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(desk.at("key"), mode).unwrap();
    desk
}

/// Every stored byte and name.
fn stored(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in dir.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            stored(&path, found);
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap_or_default());
        }
    }
}

fn all_stored(desk: &Desk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    stored(&desk.at("store"), &mut found);
    found
}

/// Every way to change something, each with what it answered.
fn changes(root: &Dir) -> Vec<(&'static str, Result<(), FileError>)> {
    let file = root.open_file(b"file", Access::Write).unwrap();
    vec![
        ("write", file.write(0, b"new")),
        ("append", file.append(b"new").map(drop)),
        ("cut", file.set_len(0)),
        ("commit", file.commit()),
        ("sync", file.sync(false)),
        ("allocate", file.allocate(cmkfs::file::Allocate::PunchHole, 0, 10)),
        ("set_attr", file.set_attr(&cmkfs::file::SetAttr::default()).map(drop)),
        ("create", root.create_file(b"new", CREATOR, 0o600).map(drop)),
        ("make_dir", root.make_dir(b"dir", CREATOR, 0o700).map(drop)),
        ("make_symlink", root.make_symlink(b"link", b"to", CREATOR).map(drop)),
        ("unlink", root.unlink(b"other")),
        ("rename", root.rename(b"other", root, b"third", RenameMode::Replace)),
        ("link", root.link(b"third", root, b"other").map(drop)),
        ("xattr", root.set_xattr(Some(b"file"), b"user.a", b"v", XattrMode::Any)),
        ("commit_all", root.volume().commit_all()),
    ]
}

fn filled(opened: &Opened) -> Dir {
    let root = opened.volume.root().unwrap();
    for name in [&b"file"[..], b"other"] {
        let (file, _) = root.create_file(name, CREATOR, 0o600).unwrap();
        file.write(0, &[1; 100_000]).unwrap();
        file.sync(false).unwrap();
    }
    root
}

#[test]
fn a_holder_that_lost_its_lease_writes_nothing_any_more() {
    // Another has it; another had it and left, so that what is known here is out of date; and the
    // lock file is gone.
    for taken in [Some(foreign(1000)), Some(String::new()), None] {
        let desk = desk_with_key();
        let opened = opened(&desk);
        let root = filled(&opened);
        let file = root.open_file(b"file", Access::Write).unwrap();
        // Something that is not committed: it must not reach the store at the end either.
        file.write(5000, b"lost").unwrap();
        match &taken {
            Some(text) => std::fs::write(desk.at("store/lock"), text).unwrap(),
            None => std::fs::remove_file(desk.at("store/lock")).unwrap(),
        }
        let volume = &opened.volume;
        await_that("the loss is seen", || volume.check_writable() == Err(FileError::Lost));
        let before = all_stored(&desk);
        for (what, done) in changes(&root) {
            assert_eq!(done, Err(FileError::Lost), "{what}");
        }
        assert_eq!(&file.read(5000, 4).unwrap()[..], b"lost", "reading goes on");
        drop((file, root));
        drop(opened);
        assert_eq!(all_stored(&desk), before, "the new holder's volume is as it was");
    }
}

#[test]
fn a_late_renewal_counts_once_nobody_came_meanwhile() {
    let desk = desk_with_key();
    desk.ok("init outer");
    desk.dir("net");
    desk.ok("mount outer net");
    desk.ok("init net/store --key file:key");
    let tuning = Tuning { lease_interval: 20 * SHORT, ..Tuning::default() };
    let opened = open::open(&desk.at("net/store"), None, open::Access::Write, &tuning).unwrap();
    let (lock, away) = (desk.at("net/store/lock"), desk.dir("net/store/away"));
    let swap = || {
        let (cwd, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(cwd, &lock, cwd, &away, exchange).unwrap();
    };
    swap();
    let late = || matches!(opened.volume.check_writable(), Err(FileError::Sys(_)));
    await_that("it is stale", late);
    let before = std::fs::read(&away).unwrap();
    swap();
    while std::fs::read(&lock).unwrap() == before {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Another, which saw the renewal before this one, and was about to write.
    std::fs::write(&lock, foreign(1000)).unwrap();
    assert_eq!(opened.volume.check_writable(), Err(FileError::Lost));
    drop(opened);
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), foreign(1000));
    desk.ok("umount net");
}

/// Whatever was begun before, as a checkpoint or a recovery.
#[test]
fn no_byte_of_a_store_is_changed_once_its_lease_is_lost() {
    let desk = Desk::new();
    desk.volume();
    let store = Store::open(&desk.at("store")).unwrap();
    let mut lock = store.lock_renewing(LockMode::Exclusive, Duration::ZERO, SHORT).unwrap();
    lock.describe(&open::holder(Vec::new(), None)).unwrap();
    let standing = lock.standing().unwrap();
    let [blob, other] = store.held_while(Some(standing.clone())).make_journal().unwrap().unwrap();
    blob.write_zeros(0, 100).unwrap();
    std::fs::write(desk.at("store/lock"), foreign(1000)).unwrap();
    await_that("the loss is seen", || standing.check() == Err(LeaseError::Lost));
    let before = all_stored(&desk);
    let lost = Err(rustix::io::Errno::IO);
    assert_eq!(blob.write_zeros(100, 100), lost);
    assert_eq!(other.copy_from(&blob, 0, 0, 10), lost);
    for done in [blob.set_len(0), blob.reserve(0, 9), blob.punch(0, 9), blob.sync(true)] {
        assert_eq!(done, lost);
    }
    assert_eq!(blob.read_at(0, &mut [0; 200]), Ok(100), "reading goes on");
    assert_eq!(all_stored(&desk), before);
}

#[test]
fn who_has_given_up_the_lock_writes_nothing_any_more() {
    let desk = desk_with_key();
    let Opened { volume, lock, .. } = opened(&desk);
    assert_eq!(volume.check_writable(), Ok(()));
    drop(lock);
    assert_eq!(volume.check_writable(), Err(FileError::Lost), "as what a busy mount still serves");
}

#[test]
fn a_lease_that_cannot_be_renewed_stops_writing_until_it_can() {
    let desk = desk_with_key();
    let opened = opened(&desk);
    let root = filled(&opened);
    // A directory in the place of the lock file, without a moment in which nothing is there: that
    // would be a lock file that was removed.
    let (lock, dir) = (desk.at("store/lock"), desk.dir("dir"));
    let swap = || {
        let (cwd, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(cwd, &lock, cwd, &dir, exchange).unwrap();
    };
    swap();
    let refused = || matches!(opened.volume.check_writable(), Err(FileError::Sys(_)));
    await_that("it is stale", refused);
    // There is nothing to commit.
    for (what, done) in changes(&root).into_iter().filter(|(what, _)| *what != "commit") {
        assert!(matches!(done, Err(FileError::Sys(_))), "{what}: {done:?}");
    }
    swap();
    await_that("it is renewed", || opened.volume.check_writable().is_ok());
    let file = root.open_file(b"file", Access::Write).unwrap();
    file.write(0, b"again").unwrap();
    file.sync(false).unwrap();
}

#[test]
fn a_mount_that_lost_its_lease_answers_errors_and_says_why_once() {
    let desk = Desk::new();
    desk.mounted();
    std::fs::write(desk.at("mnt/file"), "text").unwrap();
    std::fs::write(desk.at("store/lock"), foreign(1000)).unwrap();
    let write = || std::fs::write(desk.at("mnt/other"), "more");
    await_that("writing fails", || write().is_err());
    assert_eq!(write().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(std::fs::remove_file(desk.at("mnt/file")).is_err());
    assert_eq!(std::fs::read(desk.at("mnt/file")).unwrap(), b"text");
    let logs = desk.at("home/state/cmkfs").read_dir().unwrap();
    let logs: String =
        logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect();
    let times = logs.lines().filter(|line| line.contains("has lost the volume")).count();
    assert_eq!(times, 1, "{logs}");
    assert!(logs.contains("process 4711 on node-b"), "{logs}");
    let left = desk.command("umount mnt").output().unwrap();
    assert_eq!(left.status.code(), Some(35), "{}", said(&left));
    assert_eq!(lock_text(&desk), foreign(1000), "the new holder's words are left alone");
}

#[test]
fn damage_stays_damage_with_and_without_a_writer() {
    let desk = Desk::new();
    desk.mounted();
    desk.dir("reader");
    std::fs::write(desk.at("mnt/file"), vec![1; 200_000]).unwrap();
    desk.ok("umount mnt");
    flip(&desk.stored_file("store", 100_000));
    desk.ok("mount --read-only store reader");
    let read = || std::fs::read(desk.at("reader/file")).map_err(|error| error.raw_os_error());
    let began = Instant::now();
    assert_eq!(read(), Err(Some(libc::EIO)));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    desk.ok("mount store mnt");
    assert_eq!(read(), Err(Some(libc::EIO)), "a writer may be about to mend it, but does not");
    let began = Instant::now();
    assert_eq!(read(), Err(Some(libc::EIO)));
    assert!(began.elapsed() < Duration::from_secs(2), "nobody waits twice: {:?}", began.elapsed());
    let found = desk.command("check store").output().unwrap();
    assert_eq!(found.status.code(), Some(42), "{}", said(&found));
    assert!(said(&found).contains("not authentic"), "{}", said(&found));
}
