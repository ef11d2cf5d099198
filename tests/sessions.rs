//! Files that were being made when a session did not end cleanly: a name without a byte behind it.
//! They read as empty and take no repair, and no other stored file without a byte does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/volume.rs"]
mod volume;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cmkfs::file::{
    Access, Dir, Durability, FileError, RenameMode, SetAttr, SetTime, Volume, VolumeOptions,
    XattrMode,
};
use cmkfs::format::sessions::{
    self, SLOT_LEN, SLOT_OFFSETS, Session, Sessions, WINDOWS_MAX, Window,
};
use cmkfs::store::{Store, boot_id};
use volume::{ME, Throwaway};

const BOTH: [Durability; 2] = [Durability::Strict, Durability::Relaxed];

/// A volume in whose root files can be made that have a name and nothing else.
struct Lab {
    throwaway: Throwaway,
    durability: Durability,
}

impl Lab {
    fn new(durability: Durability) -> Self {
        Self { throwaway: Throwaway::new(4096), durability }
    }

    fn options(&self, read_only: bool) -> VolumeOptions {
        VolumeOptions { durability: self.durability, read_only, ..VolumeOptions::default() }
    }

    fn open(&self) -> Arc<Volume> {
        self.throwaway.open_with(&self.options(false))
    }

    fn read_only(&self) -> Arc<Volume> {
        self.throwaway.open_with(&self.options(true))
    }

    /// Opens it, and does not come to an end.
    fn crash(&self, work: impl FnOnce(&Dir)) {
        let volume = self.open();
        work(&volume.root().unwrap());
        std::mem::forget(volume);
    }

    /// Where a file of this name is stored: names are the same each time.
    fn stored(&self, name: &str) -> PathBuf {
        let tree = self.throwaway.path().join("tree");
        let names = || fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().path());
        let before: Vec<PathBuf> = names().collect();
        let volume = self.open();
        volume.root().unwrap().create_file(name.as_bytes(), ME, 0o644).unwrap();
        let stored = names().find(|path| !before.contains(path)).unwrap();
        volume.root().unwrap().unlink(name.as_bytes()).unwrap();
        // The journal tells of no file then that had the number of one to come.
        volume.commit_all().unwrap();
        stored
    }

    fn sessions(&self) -> PathBuf {
        self.throwaway.path().join("sessions")
    }

    /// The slot that counts, as it claims.
    fn said(&self) -> Sessions {
        let bytes = fs::read(self.sessions()).unwrap();
        let slots = SLOT_OFFSETS.map(|at| bytes.get(usize::try_from(at).unwrap()..));
        let slots = slots.into_iter().flatten().filter_map(sessions::decode);
        slots.map(|(said, _)| said).max_by_key(|said| said.sequence).unwrap()
    }

    /// Replaces what is said by windows of the caller's.
    fn say(&self, windows: &[(u64, u64)]) {
        self.say_with(windows, None);
    }

    /// The same, and a session.
    fn say_with(&self, windows: &[(u64, u64)], session: Option<Session>) {
        use std::os::unix::fs::MetadataExt;
        let descriptor = Store::open(self.throwaway.path()).unwrap().read_descriptor().unwrap();
        let keys = self.throwaway.keys(&descriptor).unwrap();
        let file = fs::File::create(self.sessions()).unwrap();
        let mut said = Sessions::new(keys.current(), file.metadata().unwrap().ino());
        said.session = session;
        for (since, until) in windows {
            said.add(Window { since: *since, until: *until, in_place: false });
        }
        file.write_all_at(keys.seal_sessions(&said).as_bytes(), SLOT_OFFSETS[0]).unwrap();
    }
}

/// A stored file as a crash leaves one of which only the name has arrived.
fn blank(stored: &Path) {
    fs::File::create_new(stored).unwrap();
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn read(volume: &Arc<Volume>, name: &str) -> Result<Vec<u8>, FileError> {
    let file = volume.root()?.open_file(name.as_bytes(), Access::Read)?;
    Ok(file.read(0, 100)?.to_vec())
}

fn is_refused(volume: &Arc<Volume>, name: &str) -> bool {
    matches!(read(volume, name), Err(FileError::Damaged(_)))
}

fn len(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().len()
}

#[test]
fn a_file_that_was_being_made_is_empty_after_a_crash_and_an_ordinary_file_from_then_on() {
    for durability in BOTH {
        let lab = Lab::new(durability);
        let stored = lab.stored("made");
        lab.crash(|_| blank(&stored));
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        fs::File::options().write(true).open(&stored).unwrap().set_modified(long_ago).unwrap();
        let volume = lab.open();
        let root = volume.root().unwrap();
        assert_eq!(root.lookup(b"made").unwrap().size, 0);
        assert_eq!(len(&stored), 0, "nothing is written before it is opened");
        assert_eq!(read(&volume, "made").unwrap(), b"", "{durability}");
        assert!(len(&stored) > 0, "it has a header");
        assert_eq!(root.lookup(b"made").unwrap().mtime.s, 5, "nobody has written to it");
        assert_eq!(volume.figures().damages, 0);
        let file = root.open_file(b"made", Access::Write).unwrap();
        file.write(0, b"content").unwrap();
        file.sync(false).unwrap();
        drop((file, root, volume));
        assert_eq!(read(&lab.open(), "made").unwrap(), b"content");
        // It is as safe as any other now.
        fs::File::options().write(true).open(&stored).unwrap().set_len(0).unwrap();
        let later = SystemTime::now() + Duration::from_secs(60);
        fs::File::options().write(true).open(&stored).unwrap().set_modified(later).unwrap();
        assert!(is_refused(&lab.open(), "made"), "emptied later");
    }
}

/// What is done to a file, and what it has then; `None` if it is gone.
type Act = (&'static str, fn(&Dir), Option<&'static [u8]>);

fn write_new(root: &Dir) {
    let file = root.open_file(b"made", Access::Write).unwrap();
    file.write(0, b"new").unwrap();
    file.sync(true).unwrap();
}

fn cut_and_write_new(root: &Dir) {
    root.open_file(b"made", Access::Write).unwrap().set_len(0).unwrap();
    write_new(root);
}

fn rename_over(root: &Dir) {
    let (file, _) = root.create_file(b"new", ME, 0o644).unwrap();
    file.write(0, b"new").unwrap();
    root.rename(b"new", root, b"made", RenameMode::Replace).unwrap();
}

fn rename_it(root: &Dir) {
    root.rename(b"made", root, b"away", RenameMode::Replace).unwrap();
    root.rename(b"away", root, b"made", RenameMode::Replace).unwrap();
}

fn chmod(root: &Dir) {
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    root.set_attr(b"made", &set).unwrap();
}

fn utimes(root: &Dir) {
    let mtime = Some(SetTime::At(i64::from(u32::MAX), 0));
    root.set_attr(b"made", &SetAttr { mtime, ..SetAttr::default() }).unwrap();
}

fn set_attribute(root: &Dir) {
    root.set_xattr(Some(b"made"), b"user.a", b"b", XattrMode::Create).unwrap();
    assert_eq!(root.get_xattr(Some(b"made"), b"user.a").unwrap(), b"b");
}

const ACTS: [Act; 9] = [
    ("write", write_new, Some(b"new")),
    ("O_TRUNC", cut_and_write_new, Some(b"new")),
    ("truncate", |root| root.truncate(b"made", 3).unwrap(), Some(b"\0\0\0")),
    ("rename over it", rename_over, Some(b"new")),
    ("rename it", rename_it, Some(b"")),
    ("unlink", |root| root.unlink(b"made").unwrap(), None),
    ("chmod", chmod, Some(b"")),
    ("utimes", utimes, Some(b"")),
    ("setxattr", set_attribute, Some(b"")),
];

#[test]
fn whatever_is_done_first_to_a_file_that_was_being_made_works() {
    for durability in BOTH {
        for (act, work, wanted) in ACTS {
            let lab = Lab::new(durability);
            let stored = lab.stored("made");
            lab.crash(|_| blank(&stored));
            let volume = lab.open();
            work(&volume.root().unwrap());
            assert_eq!(read(&volume, "made").ok().as_deref(), wanted, "{act}, {durability}");
            drop(volume);
            assert_eq!(read(&lab.open(), "made").ok().as_deref(), wanted, "{act}, {durability}");
        }
    }
}

/// What was sealed for the header that never came opens for no other.
#[test]
fn attributes_of_a_file_that_was_being_made_go() {
    let lab = Lab::new(Durability::Strict);
    let stored = lab.stored("made");
    lab.crash(|_| {
        blank(&stored);
        let name = format!("user.cmkfs.{}", "A".repeat(43));
        rustix::fs::setxattr(&stored, &name, &[7; 60], rustix::fs::XattrFlags::CREATE).unwrap();
    });
    let volume = lab.open();
    assert_eq!(read(&volume, "made").unwrap(), b"");
    assert_eq!(volume.root().unwrap().list_xattr(Some(b"made")).unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(rustix::fs::listxattr(&stored, &mut [0; 100][..]).unwrap(), 0);
}

#[test]
fn a_stored_file_without_a_byte_that_was_not_being_made_then_is_refused() {
    for durability in BOTH {
        let lab = Lab::new(durability);
        let [never, alive, after] = ["never", "alive", "after"].map(|name| lab.stored(name));
        drop(lab.open());
        blank(&never);
        assert!(is_refused(&lab.open(), "never"), "no session crashed: {durability}");
        let volume = lab.open();
        blank(&alive);
        assert!(is_refused(&volume, "alive"), "it goes on: {durability}");
        drop(volume);
        assert!(is_refused(&lab.open(), "alive"), "it was left cleanly: {durability}");
        assert_eq!(lab.said().windows(), [], "{durability}");
        // What crashed was long ago, or is still to come.
        lab.say(&[(1000, 2000), (now() + 1000, now() + 2000)]);
        blank(&after);
        for name in ["never", "alive", "after"] {
            assert!(is_refused(&lab.open(), name), "{name}, {durability}");
            assert!(is_refused(&lab.read_only(), name), "{name}, {durability}");
        }
        assert_eq!([len(&never), len(&alive), len(&after)], [0; 3], "it is left as it is");
        lab.say(&[(1000, now() + 1)]);
        assert_eq!(read(&lab.open(), "after").unwrap(), b"", "{durability}");
    }
}

#[test]
fn each_crash_has_its_window_and_a_clean_end_none() {
    for durability in BOTH {
        let lab = Lab::new(durability);
        drop(lab.open());
        let ended = lab.said().session.map(|session| session.ended.is_some());
        assert_eq!(ended, (durability == Durability::Relaxed).then_some(true));
        let volume = lab.open();
        volume.root().unwrap().create_file(b"made", ME, 0o644).unwrap();
        drop(volume);
        let ended = lab.said().session.map(|session| session.ended.is_some());
        assert_eq!(ended, Some(true), "it was never synced: {durability}");
        lab.say(&[(10, 20)]);
        let first = lab.stored("first");
        let second = lab.stored("second");
        lab.crash(|_| blank(&first));
        assert_eq!(lab.said().windows().len(), 1, "it is still open");
        lab.crash(|_| blank(&second));
        let windows = lab.said().windows().to_vec();
        assert_eq!(windows.len(), 2, "{windows:?}");
        assert_eq!(windows[1].in_place, durability == Durability::Relaxed);
        let volume = lab.open();
        assert_eq!(lab.said().windows().len(), 2, "they touch: {:?}", lab.said());
        assert_eq!(read(&volume, "first").unwrap(), b"");
        assert_eq!(read(&volume, "second").unwrap(), b"");
        drop(volume);
        drop(lab.open());
        assert_eq!(lab.said().windows().len(), 2, "no more after clean ends");
    }
}

/// What a checkpoint has synced needs no window, however long ago the session began.
#[test]
fn a_checkpoint_moves_the_begin_and_the_clock_set_back_does_so_too() {
    let begins = |lab: &Lab| lab.said().session.unwrap().since;
    for long_ago in [1000, now() + 1_000_000] {
        let lab = Lab::new(Durability::Strict);
        let ended = Some((now() - 1, boot_id()));
        lab.say_with(&[], Some(Session { since: long_ago, ended, in_place: false }));
        let volume = lab.open();
        assert_eq!(begins(&lab), long_ago, "it goes on from a session that ended unsynced");
        volume.checkpoint().unwrap();
        assert_eq!(begins(&lab), long_ago, "nothing was made");
        let before = now();
        volume.root().unwrap().create_file(b"made", ME, 0o644).unwrap();
        volume.checkpoint().unwrap();
        assert!((before - 11..=before).contains(&begins(&lab)), "{}", begins(&lab));
    }
    let lab = Lab::new(Durability::Strict);
    let volume = lab.open();
    let began = begins(&lab);
    volume.root().unwrap().create_file(b"made", ME, 0o644).unwrap();
    volume.checkpoint().unwrap();
    assert_eq!(begins(&lab), began, "nothing is older than the session");
}

#[test]
fn windows_stay_as_many_as_there_is_room_for() {
    let lab = Lab::new(Durability::Strict);
    let stored = lab.stored("made");
    let windows: Vec<_> = (0..WINDOWS_MAX as u64).map(|n| (100 * n, 100 * n + n)).collect();
    lab.say(&windows);
    lab.crash(|_| blank(&stored));
    let volume = lab.open();
    assert_eq!(read(&volume, "made").unwrap(), b"");
    let said = lab.said();
    assert_eq!(said.windows().len(), WINDOWS_MAX);
    assert_eq!(said.windows()[0].since, 0);
    assert!(said.windows().last().unwrap().since > 1_000_000);
}

#[test]
fn a_volume_that_is_only_read_shows_the_same_and_writes_nothing() {
    for durability in BOTH {
        let lab = Lab::new(durability);
        let (stored, other) = (lab.stored("made"), lab.stored("other"));
        lab.crash(|_| blank(&stored));
        let reader = lab.read_only();
        assert_eq!(read(&reader, "made").unwrap(), b"", "before the recovery, {durability}");
        assert_eq!((len(&stored), reader.figures().damages), (0, 0));
        drop(lab.open());
        assert_eq!(read(&lab.read_only(), "made").unwrap(), b"", "after it, {durability}");
        assert_eq!(len(&stored), 0);
        blank(&other);
        let later = SystemTime::now() + Duration::from_secs(60);
        fs::File::options().write(true).open(&other).unwrap().set_modified(later).unwrap();
        assert!(is_refused(&reader, "other"), "{durability}");
    }
}

/// A way in which `sessions` is not what was written there.
type Edit = fn(&Lab, &Path);

fn flipped(path: &Path, bytes: impl Iterator<Item = u64>) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    for at in bytes {
        let mut byte = [0];
        if file.read_at(&mut byte, at).unwrap() == 1 {
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    }
}

#[test]
fn whatever_is_done_to_what_is_said_the_volume_opens_and_such_files_are_refused_at_worst() {
    let edits: [(&str, Edit); 10] = [
        ("gone", |_, path| fs::remove_file(path).unwrap()),
        ("empty", |_, path| fs::write(path, b"").unwrap()),
        ("cut", |_, path| {
            fs::File::options().write(true).open(path).unwrap().set_len(500).unwrap();
        }),
        ("zeros", |_, path| fs::write(path, vec![0; 8192]).unwrap()),
        ("flipped", |_, path| flipped(path, [40, 4096 + 40].into_iter())),
        ("its tags flipped", |_, path| {
            flipped(path, SLOT_OFFSETS.iter().map(|at| at + SLOT_LEN as u64 - 1));
        }),
        ("junk", |_, path| fs::write(path, vec![b'x'; 100_000]).unwrap()),
        ("of another volume", |_, path| {
            let other = Lab::new(Durability::Strict);
            other.say(&[(0, now() + 100)]);
            fs::copy(other.sessions(), path).unwrap();
        }),
        ("a directory", |_, path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a link", |lab, path| {
            let kept = lab.throwaway.path().join("kept");
            fs::rename(path, &kept).unwrap();
            std::os::unix::fs::symlink(&kept, path).unwrap();
        }),
    ];
    for (edit, work) in edits {
        for read_only in [false, true] {
            let lab = Lab::new(Durability::Strict);
            let stored = lab.stored("made");
            lab.crash(|root| {
                root.create_file(b"whole", ME, 0o644).unwrap().0.sync(false).unwrap();
                blank(&stored);
            });
            work(&lab, &lab.sessions());
            let volume = if read_only { lab.read_only() } else { lab.open() };
            assert_eq!(read(&volume, "whole").unwrap(), b"", "{edit}");
            assert!(is_refused(&volume, "made"), "{edit}");
            drop(volume);
            // A writer that could has put another in its place, and the next crash is told there.
            if !read_only && lab.sessions().symlink_metadata().unwrap().is_file() {
                let next = lab.stored("next");
                lab.crash(|_| blank(&next));
                assert_eq!(read(&lab.open(), "next").unwrap(), b"", "{edit}");
            }
        }
    }
}

#[test]
fn one_slot_is_enough() {
    for slot in SLOT_OFFSETS {
        let lab = Lab::new(Durability::Strict);
        let stored = lab.stored("made");
        lab.say(&[(0, now() + 10)]);
        // Both say it.
        drop(lab.open());
        blank(&stored);
        flipped(&lab.sessions(), [slot + 50].into_iter());
        assert_eq!(read(&lab.open(), "made").unwrap(), b"", "slot at {slot}");
    }
}

#[test]
fn what_was_said_before_a_crash_put_back_knows_nothing_of_it() {
    let lab = Lab::new(Durability::Strict);
    let stored = lab.stored("made");
    let before = fs::read(lab.sessions()).unwrap();
    lab.crash(|_| blank(&stored));
    fs::write(lab.sessions(), before).unwrap();
    assert!(is_refused(&lab.open(), "made"));
}

/// A copy has other births. What its windows say is compared with when files were written, and a
/// session of the original is none of the copy's.
#[test]
fn a_copy_of_a_store_knows_the_windows_and_no_open_session() {
    let lab = Lab::new(Durability::Strict);
    let (stored, open) = (lab.stored("made"), lab.stored("open"));
    lab.crash(|_| blank(&stored));
    let copied = || {
        let copy = tempfile::tempdir().unwrap();
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(format!("{}/.", lab.throwaway.path().display())).arg(copy.path());
        assert!(cp.status().unwrap().success());
        copy
    };
    let early = copied();
    let options = lab.options(false);
    assert!(is_refused(&lab.throwaway.open_at(early.path(), &options), "made"), "not closed yet");
    drop(lab.open());
    blank(&open);
    let later = SystemTime::now() + Duration::from_secs(60);
    fs::File::options().write(true).open(&open).unwrap().set_modified(later).unwrap();
    let copy = copied();
    let volume = lab.throwaway.open_at(copy.path(), &options);
    assert_eq!(read(&volume, "made").unwrap(), b"");
    assert!(is_refused(&volume, "open"));
}
