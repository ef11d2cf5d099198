//! Changes of slots under key files, and a process that is killed at any call to the disk.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use super::add::add_to;
use super::remove::remove_from;
use super::rewrap::rewrap_in;
use super::*;
use crate::format::BlockSize;
use crate::lifecycle::init::{InitOptions, init};
use crate::lifecycle::snapshot;
use crate::lifecycle::terminate::{Confirm, terminate};
use crate::object::copy_tree;
use crate::store::{Op, Watch};

/// A volume with slot 1 under the key file `one`.
struct Lab {
    root: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { root: tempfile::tempdir().unwrap() };
        let (block_size, context) = (BlockSize::DEFAULT, Default::default());
        init(
            &lab.at("store"),
            &InitOptions { key: lab.key("one"), output_key: None, block_size, context },
        )
        .unwrap();
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn key(&self, name: &str) -> KeySource {
        KeySource::Local(Some(self.at(name)))
    }

    fn add(&self, name: &str) -> Result<Added, VerbError> {
        add(&self.at("store"), &self.key(name), None)
    }

    fn remove(&self, slot: u32) -> Result<Removed, VerbError> {
        remove(&self.at("store"), slot, None)
    }

    fn json(&self) -> Vec<u8> {
        fs::read(self.at("store/volume.json")).unwrap()
    }

    /// Numbers and key files of the slots, each of which has to open the volume.
    fn slots(&self, store: &str) -> Vec<(u32, String)> {
        let found = Store::open(&self.at(store)).unwrap().read_descriptor().unwrap();
        let context = Context { volume_id: found.volume_id, pairs: &found.context };
        let opens = |slot: &Slot| {
            let opened = keys::open(std::slice::from_ref(slot), None, &context).unwrap();
            VolumeKeys::open(&opened.key, &found).unwrap();
            let name = Path::new(&slot.key).file_name().unwrap().to_str().unwrap();
            (slot.id, name.to_owned())
        };
        found.slots.iter().map(opens).collect()
    }
}

fn numbered(slots: &[(u32, &str)]) -> Vec<(u32, String)> {
    slots.iter().map(|(id, name)| (*id, (*name).to_owned())).collect()
}

/// A process that is killed at the call with this number: before it, or right after it.
#[derive(Debug)]
struct Killed {
    at: usize,
    after: bool,
    calls: AtomicUsize,
}

impl Watch for Killed {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        if matches!(op, Op::Read { .. }) {
            return run().map(drop);
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call < self.at || (call == self.at && self.after) {
            run()?;
        }
        if call < self.at { Ok(()) } else { Err(Errno::IO) }
    }
}

type Verb = dyn Fn(&Lab, Change) -> Result<(), VerbError>;

#[test]
fn a_change_that_is_killed_at_any_call_leaves_the_old_volume_or_the_new_one() {
    let lab = Lab::new();
    lab.add("two").unwrap();
    let before = numbered(&[(1, "one"), (2, "two")]);
    let add: &Verb = &|lab, change| add_to(change, &lab.key("three"), None).map(drop);
    let remove: &Verb = &|_, change| remove_from(change, 1, None).map(drop);
    let rewrap: &Verb = &|lab, change| rewrap_in(change, &lab.key("four"), Some(1), None).map(drop);
    for (verb, after) in [
        (add, numbered(&[(1, "one"), (2, "two"), (3, "three")])),
        (remove, numbered(&[(2, "two")])),
        (rewrap, numbered(&[(1, "four"), (2, "two")])),
    ] {
        // Made, written, synced, renamed, synced: then it is done, and the old one is wiped.
        for (at, kill_after) in (0..8).flat_map(|at| [(at, false), (at, true)]) {
            let store = format!("store-{at}-{kill_after}");
            fs::create_dir(lab.at(&store)).unwrap();
            copy_tree(&lab.at("store"), &lab.at(&store), &[]).unwrap();
            let killed = Killed { at, after: kill_after, calls: AtomicUsize::new(0) };
            let watched = Store::open_watched(&lab.at(&store), Arc::new(killed)).unwrap();
            let done = Change::of(&watched).and_then(|change| verb(&lab, change));
            drop(watched);
            let is_made = at > 3 || (at == 3 && kill_after);
            assert_eq!(lab.slots(&store), if is_made { &*after } else { &*before }, "{at}");
            assert_eq!(done.is_ok(), at > 4, "{at}: {done:?}");
            // Nothing that was left is in the way of the next one.
            let again = Change::of(&Store::open(&lab.at(&store)).unwrap());
            let again = again.and_then(|change| verb(&lab, change));
            let gone = matches!(again, Err(VerbError::NoKeySlot { .. }));
            assert!(again.is_ok() || (gone && is_made), "{at}: {again:?}");
            assert_eq!(lab.slots(&store), after);
            assert!(!lab.at(&store).join("volume.json.new").exists() || gone);
            fs::remove_dir_all(lab.at(&store)).unwrap();
        }
    }
}

#[test]
fn the_number_of_a_removed_slot_is_not_given_out_again() {
    let lab = Lab::new();
    assert_eq!(lab.add("two").unwrap().slot.id, 2);
    assert_eq!(lab.add("three").unwrap().slot.id, 3);
    let removed = lab.remove(3).unwrap();
    assert_eq!((removed.slot.id, removed.opened_by.id), (3, 1));
    assert_eq!(lab.add("four").unwrap().slot.id, 4);
    lab.remove(2).unwrap();
    lab.remove(4).unwrap();
    let five = lab.add("five").unwrap();
    assert_eq!((five.slot.id, five.opened_by.id, five.was_there), (5, 1, false));
    lab.remove(1).unwrap();
    let again = lab.add("five").unwrap();
    assert_eq!((again.slot.id, again.was_there), (5, true), "what is there is not made twice");
    assert_eq!(lab.slots("store"), numbered(&[(5, "five")]));
    let same = rewrap(&lab.at("store"), &lab.key("six"), None, None).unwrap();
    assert_eq!((same.slot.id, same.was.id, same.by_kms), (5, 5, false));
    assert_eq!(lab.slots("store"), numbered(&[(5, "six")]));
}

#[test]
fn the_last_slot_that_opens_is_not_removed() {
    let lab = Lab::new();
    let error = lab.remove(1).unwrap_err();
    assert!(matches!(error, VerbError::LastKeySlot { slot: 1, .. }), "{error}");
    assert_eq!(error.exit_code(), 16);
    lab.add("two").unwrap();
    let error = lab.remove(7).unwrap_err();
    assert_eq!(error.exit_code(), 15);
    assert!(error.to_string().contains("2 (local:/"), "{error}");
    let error = rewrap(&lab.at("store"), &lab.key("three"), None, None).unwrap_err();
    assert!(error.exit_code() == 15 && error.to_string().contains("--slot"), "{error}");

    // The other slot's key file is gone, then another one.
    let before = lab.json();
    fs::rename(lab.at("two"), lab.at("moved")).unwrap();
    let error = lab.remove(1).unwrap_err();
    assert!(error.exit_code() == 20 && error.to_string().contains("slot 1 stays"), "{error}");
    fs::copy(lab.at("one"), lab.at("two")).unwrap();
    assert_eq!(lab.remove(1).unwrap_err().exit_code(), 21);
    assert_eq!(lab.json(), before);
    let moved = KeySource::File(lab.at("moved"));
    let removed = remove(&lab.at("store"), 1, Some(&moved)).unwrap();
    assert_eq!(removed.opened_by.id, 2);
}

/// A pipe gives its key once: what it wrapped could not be opened again.
#[test]
fn a_slot_that_does_not_open_again_is_not_added() {
    let lab = Lab::new();
    let pipe = lab.at("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    let source = KeySource::File(pipe.clone());
    let before = lab.json();
    for verb in [true, false] {
        let feed = pipe.clone();
        let feeding = std::thread::spawn(move || {
            for key in [[7; 32], [8; 32]] {
                let mut file = fs::OpenOptions::new().write(true).open(&feed).unwrap();
                file.write_all(&key).unwrap();
                drop(file);
                if key == [7; 32] {
                    // What came before the first one was read would be read as one.
                    std::thread::sleep(std::time::Duration::from_millis(500));
                }
            }
        });
        let error = match verb {
            true => add(&lab.at("store"), &source, None).unwrap_err(),
            false => rewrap(&lab.at("store"), &source, None, None).unwrap_err(),
        };
        assert!(matches!(error, VerbError::NewSlotUnproved { .. }), "{error}");
        assert_eq!(error.exit_code(), 21);
        feeding.join().unwrap();
    }
    assert_eq!(lab.json(), before);
}

#[test]
fn a_forged_description_is_not_changed() {
    let lab = Lab::new();
    lab.add("two").unwrap();
    let whole = String::from_utf8(lab.json()).unwrap();
    for (from, to) in [
        ("\"block_size\": 16384", "\"block_size\": 32768"),
        ("\"optional\": []", "\"optional\": [\"last-slot-9\"]"),
        ("\"id\": 2", "\"id\": 3"),
    ] {
        assert!(whole.contains(from), "{whole}");
        fs::write(lab.at("store/volume.json"), whole.replace(from, to)).unwrap();
        let before = lab.json();
        let store = lab.at("store");
        for error in [
            lab.add("three").unwrap_err(),
            lab.remove(1).unwrap_err(),
            rewrap(&store, &lab.key("three"), Some(1), None).unwrap_err(),
        ] {
            assert!(matches!(error, VerbError::Untrusted { .. }), "{error}");
            assert_eq!(error.exit_code(), 14);
        }
        assert_eq!(lab.json(), before);
    }
}

#[test]
fn changes_at_once_all_land_and_readers_see_whole_descriptions() {
    let lab = Lab::new();
    let left = AtomicUsize::new(6);
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d", "e", "f"] {
            let (lab, left) = (&lab, &left);
            scope.spawn(move || {
                lab.add(name).unwrap();
                left.fetch_sub(1, Ordering::Release);
            });
        }
        let store = Store::open(&lab.at("store")).unwrap();
        while left.load(Ordering::Acquire) > 0 {
            store.read_descriptor().unwrap();
        }
    });
    let mut found = lab.slots("store");
    let numbers: Vec<u32> = found.iter().map(|(id, _)| *id).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
    found.sort_by(|one, other| one.1.cmp(&other.1));
    let names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e", "f", "one"]);
}

#[test]
fn what_the_old_description_wrapped_is_not_left_on_the_disk() {
    let lab = Lab::new();
    let path = lab.at("store/volume.json");
    let text = |mut file: &fs::File| {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let old = fs::File::open(&path).unwrap();
    rewrap(&lab.at("store"), &lab.key("two"), None, None).unwrap();
    let bytes = text(&old);
    assert!(!bytes.is_empty() && bytes.iter().all(|byte| *byte == 0), "{bytes:?}");

    // A copy by a hard link is somebody's.
    fs::hard_link(&path, lab.at("copy")).unwrap();
    rewrap(&lab.at("store"), &lab.key("three"), None, None).unwrap();
    assert!(fs::read_to_string(lab.at("copy")).unwrap().contains("\"slots\""));
}

/// It would have half a description otherwise, or zeros.
#[test]
fn a_snapshot_waits_for_a_change_of_the_keys() {
    let lab = Lab::new();
    let change = Change::of(&Store::open(&lab.at("store")).unwrap()).unwrap();
    let target = || snapshot::Place::Directory(lab.at("target"));
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| {
            let moving = snapshot::Moving::default();
            snapshot::create(&lab.at("store"), &target(), None, &moving)
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!taking.is_finished());
        add_to(change, &lab.key("two"), None).unwrap();
        taking.join().unwrap().unwrap();
    });
    let (wanted, moving) = (snapshot::Wanted::default(), snapshot::Moving::default());
    snapshot::restore(&target(), &lab.at("new"), &wanted, None, &moving).unwrap();
    assert_eq!(lab.slots("new"), numbered(&[(1, "one"), (2, "two")]));
}

/// As by another node that does not see this one's lock.
#[test]
fn a_change_that_another_one_came_before_is_not_made() {
    let lab = Lab::new();
    let change = Change::of(&Store::open(&lab.at("store")).unwrap()).unwrap();
    fs::copy(lab.at("store/volume.json"), lab.at("other")).unwrap();
    fs::rename(lab.at("other"), lab.at("store/volume.json")).unwrap();
    let error = add_to(change, &lab.key("two"), None).unwrap_err();
    assert_eq!(error.exit_code(), 40, "{error}");
    assert_eq!(lab.slots("store"), numbered(&[(1, "one")]));
    assert!(!lab.at("store/volume.json.new").exists());
}

#[test]
fn a_change_waits_for_another_one_only_so_long() {
    let lab = Lab::new();
    let store = Store::open(&lab.at("store")).unwrap();
    let _change = Change::of(&store).unwrap();
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        let error = store.lock_descriptor(mode, std::time::Duration::ZERO).unwrap_err();
        assert!(matches!(error, StoreError::Changing(_)), "{error}");
        assert_eq!(VerbError::from(error).exit_code(), 35);
    }
    store.read_descriptor().unwrap();
}

/// Root changes keys for a user, whose the store is and stays.
#[test]
fn a_change_leaves_the_owner_and_the_mode() {
    let lab = Lab::new();
    let path = lab.at("store/volume.json");
    std::os::unix::fs::chown(&path, Some(1234), Some(1235)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    lab.add("two").unwrap();
    let stat = path.metadata().unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (1234, 1235, 0o640));
}

#[test]
fn no_change_brings_back_what_is_terminated() {
    let lab = Lab::new();
    let store = Store::open(&lab.at("store")).unwrap();
    let change = Change::of(&store).unwrap();
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| terminate(&lab.at("store"), &Confirm::Yes, None));
        while !lab.at("store/lock").exists() {
            std::thread::yield_now();
        }
        let waiting = scope.spawn(|| Change::of(&store).map(drop));
        add_to(change, &lab.key("two"), None).unwrap();
        let destroyed = ending.join().unwrap().unwrap();
        assert_eq!(destroyed.slots.len(), 2, "also what the change has just made");
        if let Err(error) = waiting.join().unwrap() {
            assert!(matches!(error, VerbError::Store(StoreError::NotAStore(_))), "{error}");
        }
    });
    assert!(!lab.at("store").exists());
}
