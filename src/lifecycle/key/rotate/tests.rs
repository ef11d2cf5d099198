//! Rotations under key files: what an old key opens, and a process that is killed at any call to
//! the disk.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use super::*;
use crate::file::{Access, Creator, FileError, Volume};
use crate::format::header::{self, PREFIX_BYTES};
use crate::format::{BlockSize, Descriptor};
use crate::keys::Context;
use crate::lifecycle::init::{InitOptions, init};
use crate::lifecycle::key::add;
use crate::lifecycle::snapshot;
use crate::object::copy_tree;
use crate::store::{Op, Store, Watch};

const ME: Creator = Creator { uid: 0, gid: 0 };
/// Of a file in its header, and of one with a level of nodes.
const LENGTHS: [usize; 4] = [0, 100, 40_000, 5 << 20];

mod snapshots;

struct Lab {
    root: tempfile::TempDir,
}

fn low(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

fn content(number: usize) -> Vec<u8> {
    (0..LENGTHS[number]).map(|at| low(at * 7 + number)).collect()
}

impl Lab {
    fn new() -> Self {
        let lab = Self { root: tempfile::tempdir().unwrap() };
        let key = KeySource::Local(Some(lab.at("one")));
        let (block_size, context) = (BlockSize::DEFAULT, Default::default());
        init(&lab.at("store"), &InitOptions { key, block_size, context, output_key: None })
            .unwrap();
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn open(&self, store: &str) -> open::Opened {
        open::open(&self.at(store), None, open::Access::Write, &Tuning::default()).unwrap()
    }

    /// Writes a file of each length.
    fn fill(&self) {
        let opened = self.open("store");
        let root = opened.volume.root().unwrap();
        for number in 0..LENGTHS.len() {
            put(&opened.volume, &format!("file-{number}"), &content(number));
        }
        root.link(b"link", &root, b"file-2").unwrap();
        root.make_symlink(b"symlink", b"file-1", ME).unwrap();
        let bearer = root.bearer(Some(b"file-1")).unwrap();
        bearer.set(b"user.a", b"value", crate::file::XattrMode::Any).unwrap();
    }

    fn holds(&self, store: &str) {
        let opened = self.open(store);
        let root = opened.volume.root().unwrap();
        for (number, len) in LENGTHS.into_iter().enumerate() {
            let name = format!("file-{number}");
            let file = root.open_file(name.as_bytes(), Access::Read).unwrap();
            let read = file.read(0, len + 1).unwrap();
            assert!(read[..] == content(number), "{name}");
        }
        let link = root.open_file(b"link", Access::Read).unwrap();
        assert!(link.read(0, 1 << 20).unwrap()[..] == content(2));
        assert_eq!(root.read_link(b"symlink").unwrap(), b"file-1");
        assert_eq!(root.bearer(Some(b"file-1")).unwrap().get(b"user.a").unwrap(), b"value");
    }

    fn rotate(&self, work: Option<Work>) -> Result<Rotated, VerbError> {
        let options = RotateOptions { work, ..RotateOptions::default() };
        rotate(&self.at("store"), &options, &mut |_| true)
    }

    fn found(&self, store: &str) -> Descriptor {
        Store::open(&self.at(store)).unwrap().read_descriptor().unwrap()
    }

    /// The epochs that the headers in the store say.
    fn epochs(&self, store: &str) -> Vec<u32> {
        let mut epochs: Vec<u32> = headers(&self.at(store)).into_values().collect();
        epochs.sort_unstable();
        epochs
    }
}

fn put(volume: &Arc<Volume>, name: &str, bytes: &[u8]) {
    let root = volume.root().unwrap();
    let file = match root.create_file(name.as_bytes(), ME, 0o600) {
        Ok((file, _)) => file,
        Err(FileError::Sys(Errno::EXIST)) => {
            root.open_file(name.as_bytes(), Access::Write).unwrap()
        }
        Err(error) => panic!("{name}: {error}"),
    };
    file.write(0, bytes).unwrap();
    file.sync(false).unwrap();
}

/// Epochs in the headers of a store, by path.
fn headers(store: &Path) -> std::collections::BTreeMap<PathBuf, u32> {
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).ok()?;
        let (prefix, _) = header::decode(bytes.get(..PREFIX_BYTES)?).ok()?;
        Some((path, prefix.epoch.0))
    };
    let entries = fs::read_dir(store.join("tree")).unwrap();
    entries.filter_map(|entry| read(entry.unwrap().path())).collect()
}

#[test]
fn new_files_are_of_the_new_epoch_and_older_ones_follow_when_they_are_written() {
    let lab = Lab::new();
    lab.fill();
    let rotated = lab.rotate(None).unwrap();
    assert_eq!((rotated.epoch, rotated.resumed, rotated.mounts), (Epoch(2), false, 0));
    assert_eq!(lab.found("store").epochs.len(), 2);
    assert_eq!(lab.epochs("store"), [1; LENGTHS.len() + 1]);
    lab.holds("store");
    let opened = lab.open("store");
    put(&opened.volume, "new", b"of the new epoch");
    put(&opened.volume, "file-2", &content(2)[..10]);
    put(&opened.volume, "file-1", &content(1)[..10]);
    opened.volume.commit_all().unwrap();
    drop(opened);
    // `file-2` has two names.
    assert_eq!(lab.epochs("store"), [1, 1, 2, 2, 2, 2]);
    lab.holds("store");
}

/// The thief has all that was there before: `volume.json`, and with the key file the volume key and
/// the epoch key.
#[test]
fn after_a_rewrap_the_keys_of_before_open_nothing_in_the_store() {
    let lab = Lab::new();
    lab.fill();
    let old_json = fs::read(lab.at("store/volume.json")).unwrap();
    let times = |lab: &Lab| {
        let opened = lab.open("store");
        let root = opened.volume.root().unwrap();
        let stat = root.lookup(b"file-2").unwrap();
        (stat.mtime, stat.size, stat.ino)
    };
    let before = times(&lab);
    let rotated = lab.rotate(Some(Work::Rewrap)).unwrap();
    let done = rotated.files.unwrap();
    assert_eq!((done.files, done.damaged, done.finished), (LENGTHS.len() as u64, 0, true));
    assert_eq!(lab.epochs("store"), [2; LENGTHS.len() + 1]);
    assert_eq!(lab.found("store").pending(), None);
    assert_eq!(times(&lab), before);
    lab.holds("store");

    copy_to(&lab, "thief");
    fs::write(lab.at("thief/volume.json"), old_json).unwrap();
    let opened = lab.open("thief");
    let root = opened.volume.root().unwrap();
    for number in 0..LENGTHS.len() {
        let error = root.open_file(format!("file-{number}").as_bytes(), Access::Read).unwrap_err();
        assert!(error.to_string().contains("file key does not open"), "{error}");
    }
    // What is not of a file key stays open to them: names of directories that were there.
    assert!(root.lookup(b"file-0").is_ok());
}

fn copy_to(lab: &Lab, name: &str) {
    fs::create_dir(lab.at(name)).unwrap();
    copy_tree(&lab.at("store"), &lab.at(name), &[]).unwrap();
}

#[test]
fn a_slot_out_of_reach_is_told_before_anything_changes() {
    let lab = Lab::new();
    let (store, two) = (lab.at("store"), KeySource::Local(Some(lab.at("two"))));
    add(&store, &two, None).unwrap();
    fs::rename(lab.at("two"), lab.at("moved")).unwrap();
    let before = fs::read(store.join("volume.json")).unwrap();
    let error = lab.rotate(None).unwrap_err();
    assert!(matches!(error, VerbError::KeySlotUnreached { .. }), "{error}");
    assert!(error.to_string().contains("key slot 2 (local:/"), "{error}");
    assert_eq!(error.exit_code(), 20);
    assert_eq!(fs::read(store.join("volume.json")).unwrap(), before);
    fs::rename(lab.at("moved"), lab.at("two")).unwrap();
    lab.rotate(None).unwrap();
    // Each of the slots opens the new key.
    for (away, other) in [("one", "two"), ("two", "one")] {
        fs::rename(lab.at(away), lab.at("moved")).unwrap();
        drop(lab.open("store"));
        assert!(lab.at(other).exists());
        fs::rename(lab.at("moved"), lab.at(away)).unwrap();
    }
    assert_eq!(lab.found("store").epochs.len(), 2);
}

#[test]
fn work_that_was_interrupted_goes_on_with_the_same_epoch() {
    let lab = Lab::new();
    lab.fill();
    let options = RotateOptions { work: Some(Work::Rewrap), ..RotateOptions::default() };
    let stopped = rotate(&lab.at("store"), &options, &mut |done| done.files < 2).unwrap();
    assert!(!stopped.files.unwrap().finished);
    // With what it had in the journal alone.
    drop(lab.open("store"));
    let pending = lab.found("store").pending().unwrap();
    assert_eq!((pending.work, pending.epoch), (Work::Rewrap, Epoch(2)));
    let left = lab.epochs("store").into_iter().filter(|epoch| *epoch == 1).count();
    assert!((1..=LENGTHS.len()).contains(&left), "{left}");
    let done = lab.rotate(Some(Work::Rewrap)).unwrap();
    assert_eq!((done.epoch, done.resumed), (Epoch(2), true));
    assert_eq!(lab.found("store").pending(), None);
    assert_eq!(lab.epochs("store"), [2; LENGTHS.len() + 1]);
    let next = lab.rotate(Some(Work::Rewrap)).unwrap();
    assert_eq!((next.epoch, next.resumed), (Epoch(3), false));
    assert_eq!(lab.epochs("store"), [3; LENGTHS.len() + 1]);
    lab.holds("store");
}

/// A process that is killed at the call to the disk with this number, and makes none after it.
#[derive(Debug)]
struct Killed {
    at: usize,
    calls: AtomicUsize,
}

impl Watch for Killed {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        if matches!(op, Op::Read { .. }) || self.calls.fetch_add(1, Ordering::Relaxed) < self.at {
            return run().map(drop);
        }
        Err(Errno::IO)
    }
}

fn killed_at(at: usize) -> Arc<Killed> {
    Arc::new(Killed { at, calls: AtomicUsize::new(0) })
}

#[test]
fn a_rotation_killed_at_any_call_leaves_the_old_keys_or_the_new_ones() {
    let lab = Lab::new();
    lab.fill();
    for at in 0..8 {
        let name = format!("store-{at}");
        copy_to(&lab, &name);
        let watched = Store::open_watched(&lab.at(&name), killed_at(at)).unwrap();
        let done =
            Change::of(&watched).and_then(|change| rotate_in(change, &RotateOptions::default()));
        assert_eq!(done.is_ok(), at > 4, "{at}: {done:?}");
        let epochs = lab.found(&name).epochs.len();
        assert_eq!(epochs, if at > 3 { 2 } else { 1 }, "{at}");
        lab.holds(&name);
        rotate(&lab.at(&name), &RotateOptions::default(), &mut |_| true).unwrap();
        assert_eq!(lab.found(&name).epochs.len(), epochs + 1);
        lab.holds(&name);
        fs::remove_dir_all(lab.at(&name)).unwrap();
    }
}

#[test]
fn work_killed_at_any_call_leaves_each_file_whole_and_goes_on() {
    let lab = Lab::new();
    lab.fill();
    for work in WORKS {
        let options = RotateOptions { work: Some(work), ..RotateOptions::default() };
        copy_to(&lab, "rotated");
        let store = Store::open(&lab.at("rotated")).unwrap();
        rotate_in(Change::of(&store).unwrap(), &options).unwrap();
        let mut at = 0;
        loop {
            copy_tree_anew(&lab.at("rotated"), &lab.at("killed"));
            let watched = Store::open_watched(&lab.at("killed"), killed_at(at)).unwrap();
            let finished = rekey(&lab, &watched, work);
            lab.holds("killed");
            let again = rotate(&lab.at("killed"), &options, &mut |_| true).unwrap();
            assert!(again.resumed && again.files.unwrap().finished);
            assert_eq!(lab.epochs("killed"), [2; LENGTHS.len() + 1]);
            lab.holds("killed");
            if finished {
                break;
            }
            // Not each of some hundred calls, which are alike: as far apart as they are many.
            at += 1 + at / 3;
        }
        assert!(at > 10, "there is more to do than {at} calls");
        fs::remove_dir_all(lab.at("rotated")).unwrap();
    }
}

const WORKS: [Work; 2] = [Work::Rewrap, Work::Reencrypt];

fn copy_tree_anew(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir(to).unwrap();
    copy_tree(from, to, &[]).unwrap();
}

/// Whether the work came to its end.
fn rekey(lab: &Lab, store: &Store, work: Work) -> bool {
    let descriptor = store.read_descriptor().unwrap();
    let context = Context { volume_id: descriptor.volume_id, pairs: &descriptor.context };
    let key = keys::open(&descriptor.slots, None, &context).unwrap().key;
    let keys = VolumeKeys::open(&key, &descriptor).unwrap();
    let how = crate::file::Rekey { work, bytes_per_s: None };
    assert!(lab.at("one").exists());
    let opened = Volume::open(store, keys, &descriptor, &Default::default());
    let done = opened.and_then(|volume| volume.rekey(&how, &mut |_| true));
    done.is_ok_and(|done| done.finished)
}

/// Who can write to the store, but has not the epoch keys, puts a description of their own there.
#[test]
fn an_open_volume_takes_up_only_what_leads_on_from_its_keys() {
    let lab = Lab::new();
    lab.fill();
    let opened = lab.open("store");
    let found = lab.found("store");
    let (own, mut forged) = (Secret::random(), found.clone());
    forged.epochs.clear();
    for epoch in [1, 2] {
        VolumeKeys::add_epoch(&own, &mut forged, Epoch(epoch));
    }
    VolumeKeys::authenticate(&own, &mut forged);
    let keys = VolumeKeys::open(&own, &forged).unwrap();
    let error = opened.volume.take_up(keys).unwrap_err();
    assert!(error.to_string().contains("do not lead on"), "{error}");
    assert_eq!(opened.volume.epoch(), Epoch(1));
    // Nor an older one.
    let keys = |lab: &Lab| open::prove(&Store::open(&lab.at("store")).unwrap(), None).unwrap().0;
    let old = keys(&lab);
    rotate_in(Change::of(&opened.store).unwrap(), &RotateOptions::default()).unwrap();
    let new = keys(&lab);
    assert!(opened.volume.is_news(&new));
    opened.volume.take_up(new).unwrap();
    assert!(opened.volume.take_up(old).is_err());
    put(&opened.volume, "new", b"of the new epoch");
    assert_eq!(opened.volume.epoch(), Epoch(2));
    opened.volume.commit_all().unwrap();
    drop(opened);
    let of_new = headers(&lab.at("store")).into_values().filter(|epoch| *epoch == 2).count();
    assert_eq!(of_new, 1);
}

#[test]
fn a_damaged_file_keeps_what_can_be_read_of_it_and_both_its_keys() {
    let lab = Lab::new();
    lab.fill();
    // A block of the second part of the largest file.
    let path =
        headers(&lab.at("store")).into_keys().max_by_key(|path| fs::metadata(path).unwrap().len());
    let path = path.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = 16384 * 3 + 280 * 16384;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let read = |lab: &Lab| {
        let opened = lab.open("store");
        let file = opened.volume.root().unwrap().open_file(b"file-3", Access::Read).unwrap();
        let wanted = content(3);
        let good = |block: usize| {
            let read = file.read(block as u64 * 16384, 16384);
            read.is_ok_and(|read| read[..] == wanted[block * 16384..][..16384])
        };
        let damaged: Vec<usize> = (0..320).filter(|block| !good(*block)).collect();
        damaged
    };
    assert_eq!(read(&lab), [280]);
    let done = lab.rotate(Some(Work::Reencrypt)).unwrap().files.unwrap();
    assert_eq!((done.damaged, done.halves, done.finished), (1, 1, true));
    assert_eq!(read(&lab), [280]);
    let found = lab.found("store");
    assert!(found.may_have_two_keys() && found.pending().is_none());
    // The disk gives it back as it was.
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    lab.holds("store");
    let done = lab.rotate(Some(Work::Reencrypt)).unwrap().files.unwrap();
    assert_eq!((done.damaged, done.halves), (0, 0));
    assert!(!lab.found("store").may_have_two_keys());
    lab.holds("store");
}

/// Written, cut, lengthened, punched and read while a part of it is under each of its keys, also by
/// one that only reads, and after a snapshot of that.
#[test]
fn a_file_under_two_keys_is_a_file() {
    let lab = Lab::new();
    lab.fill();
    let options = RotateOptions { work: Some(Work::Reencrypt), ..RotateOptions::default() };
    let stopped = rotate(&lab.at("store"), &options, &mut |done| done.bytes < 4 << 20).unwrap();
    assert!(!stopped.files.unwrap().finished);
    drop(lab.open("store"));
    let two = |lab: &Lab, store: &str| {
        let lens = headers(&lab.at(store))
            .into_keys()
            .map(|path| fs::read(path).unwrap()[12..14].to_vec());
        lens.filter(|len| u16::from_le_bytes([len[0], len[1]]) == 3672).count()
    };
    assert_eq!(two(&lab, "store"), 1);
    lab.holds("store");
    let reader =
        open::open(&lab.at("store"), None, open::Access::Read, &Tuning::default()).unwrap();
    let read = reader.volume.root().unwrap().open_file(b"file-3", Access::Read).unwrap();
    assert!(read.read(0, 6 << 20).unwrap()[..] == content(3));
    let half = lab.snapshot();
    lab.verify(&half);
    let checked = crate::lifecycle::check::check(
        &lab.at("store"),
        crate::lifecycle::check::How::Open(None),
        None,
        &mut |_| {},
    );
    assert!(!checked.unwrap().is_damaged());

    let opened = lab.open("store");
    let file = opened.volume.root().unwrap().open_file(b"file-3", Access::Write).unwrap();
    let mut wanted = content(3);
    let edge = 4 << 20;
    for (at, len) in [(5, 10), (edge - 20_000, 40_000), (edge + 700_000, 100), (10 << 20, 5)] {
        file.write(at as u64, &vec![low(at); len]).unwrap();
        wanted.resize(wanted.len().max(at + len), 0);
        wanted[at..at + len].fill(low(at));
        file.sync(false).unwrap();
    }
    file.set_len(9 << 20).unwrap();
    wanted.truncate(9 << 20);
    file.allocate(crate::file::Allocate::PunchHole, 3 << 20, 2 << 20).unwrap();
    wanted[3 << 20..5 << 20].fill(0);
    opened.volume.commit_all().unwrap();
    assert!(file.read(0, 10 << 20).unwrap()[..] == wanted);
    drop((file, opened));
    // One that reads beside sees what is committed when it opens the file.
    drop(read);
    let read = reader.volume.root().unwrap().open_file(b"file-3", Access::Read).unwrap();
    assert!(read.read(0, 10 << 20).unwrap()[..] == wanted, "beside");
    let again = |lab: &Lab| {
        let opened = lab.open("store");
        let file = opened.volume.root().unwrap().open_file(b"file-3", Access::Read).unwrap();
        assert!(file.read(0, 10 << 20).unwrap()[..] == wanted);
    };
    again(&lab);
    assert!(lab.rotate(Some(Work::Reencrypt)).unwrap().resumed);
    assert_eq!(two(&lab, "store"), 0);
    again(&lab);
    let whole = lab.snapshot();
    assert_eq!(whole.clear.parent.as_ref(), Some(&half.clear.id));
    lab.verify(&whole);
    lab.restore(&whole, "whole");
    assert_eq!((two(&lab, "whole"), lab.epochs("whole")), (0, lab.epochs("store")));
    drop(lab.open("whole"));
    lab.restore(&half, "restored");
    assert_eq!(two(&lab, "restored"), 1);
    lab.holds("restored");
}
