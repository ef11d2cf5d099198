//! Volumes that were made once and stay as they are: what a release has written, every later one
//! reads. The library and the independent reader, which was written from FORMAT.md alone, must both
//! find in them what the plan put there. `tests/golden/README.md` says how to add one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "golden/damage.rs"]
mod damage;
#[path = "golden/make.rs"]
mod make;
#[path = "golden/plan.rs"]
mod plan;
#[path = "golden/random.rs"]
mod random;
#[path = "golden/reader.rs"]
mod reader;
#[path = "golden/seen.rs"]
mod seen;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cmkfs::cipher::VolumeKeys;
use cmkfs::file::{Volume, VolumeOptions, XattrMode};
use cmkfs::keys::{self, Context, KeySource};
use cmkfs::store::{LockMode, Store};
use damage::Subject;
use plan::Plan;
use proptest::prelude::*;
use seen::Records;
use serde_json::Value;

/// Name and block size of each.
const GOLDEN: [(&str, u64); 4] = [
    ("block-4096", 4096),
    ("block-16384", 16384),
    ("block-65536", 65536),
    ("link-marker-4096", 4096),
];
/// The one that is damaged and searched.
const SOUND: &str = "block-4096";
const CHANGED: &str = "the format changed: if that is meant, raise VERSION and add a golden volume \
                       of the new one; if not, volumes in use can't be read any more";

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

/// A golden volume, unpacked.
struct Unpacked {
    _dir: tempfile::TempDir,
    store: PathBuf,
    key: PathBuf,
}

impl Unpacked {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let archive = golden(&format!("{name}.tar.gz"));
        let status = Command::new("tar")
            .args(["--xattrs", "--xattrs-include=*", "-xpzf"])
            .arg(&archive)
            .arg("-C")
            .arg(dir.path())
            .status()
            .expect("tar");
        assert!(status.success(), "{}", archive.display());
        let key = dir.path().join("key");
        fs::copy(golden(&format!("{name}.key")), &key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Self { store: dir.path().join("store"), key, _dir: dir }
    }

    /// As a mount does: by a slot, the mac, the epoch keys.
    fn open(&self) -> Arc<Volume> {
        self.open_with(true)
    }

    fn open_with(&self, read_only: bool) -> Arc<Volume> {
        let store = Store::open(&self.store).unwrap();
        let descriptor = store.read_descriptor().expect(CHANGED);
        let context = Context { volume_id: descriptor.volume_id, pairs: &descriptor.context };
        let source = KeySource::File(self.key.clone());
        let opened = keys::open(&descriptor.slots, Some(&source), &context).expect(CHANGED);
        let keys = VolumeKeys::open(&opened.key, &descriptor).expect(CHANGED);
        let options = VolumeOptions { read_only, ..VolumeOptions::default() };
        Volume::open(&store, keys, &descriptor, &options).unwrap()
    }
}

fn expected(name: &str) -> Records {
    let text = fs::read_to_string(golden(&format!("{name}.json"))).unwrap();
    let mut records: Vec<Value> = serde_json::from_str(&text).unwrap();
    if !rustix::process::geteuid().is_root() {
        // tar can't give them back, and nobody could see them.
        for record in &mut records {
            let xattrs = record["xattrs"].as_object_mut().unwrap();
            xattrs.retain(|name, _| name.starts_with("user."));
        }
    }
    seen::by_path(records)
}

/// Without what the library does not tell: it serves files of any block size alike.
fn untold(mut records: Records) -> Records {
    for record in records.values_mut() {
        record.as_object_mut().unwrap().remove("block_size");
    }
    records
}

#[track_caller]
fn assert_same(found: &Records, wanted: &Records, what: &str) {
    for (path, record) in wanted {
        assert_eq!(found.get(path), Some(record), "{what}: {path}: {CHANGED}");
    }
    let more: Vec<_> = found.keys().filter(|path| !wanted.contains_key(*path)).collect();
    assert!(more.is_empty(), "{what}: also {more:?}: {CHANGED}");
}

#[test]
fn the_library_reads_every_golden_volume() {
    for (name, _) in GOLDEN {
        let unpacked = Unpacked::new(name);
        assert_same(&seen::list(&unpacked.open()), &untold(expected(name)), name);
    }
}

#[test]
fn the_independent_reader_reads_every_golden_volume() {
    for (name, _) in GOLDEN {
        let unpacked = Unpacked::new(name);
        let found = reader::list(&unpacked.store, &unpacked.key);
        assert_same(&found, &expected(name), &format!("reader, {name}"));
    }
}

#[test]
fn the_reader_finds_a_file_by_its_path() {
    let unpacked = Unpacked::new(SOUND);
    let wanted = expected(SOUND);
    let (long, deep) = ("n".repeat(161), format!("nested/{}/deep/bottom", "d".repeat(200)));
    let names: [&[u8]; 6] = [
        b"size 3957",
        b"later",
        b"\xff\xfe not UTF-8 \x80",
        b"dir.cmkfs",
        long.as_ref(),
        deep.as_ref(),
    ];
    for name in names {
        let path = Some(OsStr::from_bytes(name));
        let output = reader::run("cat", &unpacked.store, &unpacked.key, path);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let record = &wanted[&seen::escape(name)];
        assert_eq!(seen::sha256(&output.stdout), record["sha256"], "{record}");
    }
    for name in ["none", "nested", "link", "size 1/x"] {
        let path = Some(OsStr::new(name));
        let output = reader::run("cat", &unpacked.store, &unpacked.key, path);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(output.stdout.is_empty() && output.stderr.starts_with(b"refused: tree"), "{name}");
    }
}

#[test]
fn the_reader_refuses_what_is_not_authentic() {
    let sound = Unpacked::new(SOUND);
    let stored = reader::stored_paths(&sound.store, &sound.key);
    for (case, damage) in damage::CASES {
        let unpacked = Unpacked::new(SOUND);
        let wanted = damage(&Subject { store: unpacked.store.clone(), stored: &stored });
        let mut found = reader::refused(&unpacked.store, &unpacked.key, case);
        for (path, why) in wanted {
            let is_it = |line: &String| {
                line.strip_prefix(&format!("{path}: ")).is_some_and(|said| said.contains(why))
            };
            let Some(index) = found.iter().position(is_it) else {
                panic!("{case}: wanted {path}: {why}, found {found:?}");
            };
            found.swap_remove(index);
        }
        assert!(found.is_empty(), "{case}: also {found:?}");
    }
}

#[test]
fn the_reader_refuses_another_key_and_a_volume_in_use() {
    let unpacked = Unpacked::new(SOUND);
    let other = golden("block-16384.key");
    let found = reader::refused(&unpacked.store, &other, "another key");
    assert_eq!(found, ["volume.json: none of 2 slots opens with this key file"]);
    let found = reader::refused(&unpacked.store, &golden("block-4096.json"), "no key");
    assert!(found[0].ends_with("a key file holds 32 bytes and nothing else"), "{found:?}");

    let store = Store::open(&unpacked.store).unwrap();
    let reads = store.lock(LockMode::Shared, Duration::ZERO).unwrap();
    reader::list(&unpacked.store, &unpacked.key);
    drop(reads);
    let _writes = store.lock(LockMode::Exclusive, Duration::ZERO).unwrap();
    let found = reader::refused(&unpacked.store, &unpacked.key, "open for writing");
    assert_eq!(found, ["lock: the volume is open for writing: unmount it"]);
}

/// Where the marker of a directory is.
fn marker(store: &Path, name: &str) -> PathBuf {
    store.join("tree").join(name).join("dir.cmkfs")
}

#[test]
fn each_form_of_a_marker_says_the_same() {
    for (name, is_link) in [(SOUND, false), ("link-marker-4096", true)] {
        let unpacked = Unpacked::new(name);
        let wanted = expected(name);
        let mut dirs = vec![String::new()];
        let stored = reader::stored_paths(&unpacked.store, &unpacked.key);
        dirs.extend(stored.values().filter_map(|path| {
            let below = path.strip_prefix("tree/")?;
            let is_dir = unpacked.store.join(path).symlink_metadata().unwrap().is_dir();
            is_dir.then(|| below.to_owned())
        }));
        assert!(dirs.len() > 3, "{dirs:?}");
        // Every second directory gets the other form.
        for dir in dirs.iter().step_by(2) {
            let path = marker(&unpacked.store, dir);
            assert_eq!(path.is_symlink(), is_link, "{name}");
            damage::other_form(&path);
            assert_eq!(path.is_symlink(), !is_link, "{name}");
        }
        assert_same(&seen::list(&unpacked.open()), &untold(wanted.clone()), name);
        assert_same(&reader::list(&unpacked.store, &unpacked.key), &wanted, name);
    }
}

#[test]
fn nobody_looks_at_what_a_crash_leaves_of_a_directory() {
    let unpacked = Unpacked::new(SOUND);
    let tree = unpacked.store.join("tree");
    for (index, marked) in [(0, false), (1, true)] {
        let left = tree.join(format!("{index:032x}.temp"));
        fs::create_dir(&left).unwrap();
        if marked {
            fs::copy(tree.join("dir.cmkfs"), left.join("dir.cmkfs")).unwrap();
        }
    }
    let wanted = expected(SOUND);
    assert_same(&reader::list(&unpacked.store, &unpacked.key), &wanted, "reader");
    assert_same(&seen::list(&unpacked.open()), &untold(wanted), "library");
}

#[test]
fn nobody_looks_at_unused_bytes() {
    let unpacked = Unpacked::new(SOUND);
    let stored = reader::stored_paths(&unpacked.store, &unpacked.key);
    let before = reader::list(&unpacked.store, &unpacked.key);
    damage::change_what_is_unused(&Subject { store: unpacked.store.clone(), stored: &stored });
    assert_same(&reader::list(&unpacked.store, &unpacked.key), &before, "reader");
    assert_same(&seen::list(&unpacked.open()), &untold(before.clone()), "library");

    // As a crash leaves it. Until it is opened, the library tells its length by the lower size.
    let longer = fs::OpenOptions::new().append(true).open(unpacked.store.join(&stored["size 1"]));
    longer.unwrap().write_all(b"beyond the end").unwrap();
    assert_same(&reader::list(&unpacked.store, &unpacked.key), &before, "reader");
}

/// The seal binds an attribute to its name and its owner; that it lies under the prefix of its name
/// has to be looked at.
#[test]
fn an_attribute_under_the_other_prefix_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // Nobody else can see or set the attributes of the other prefix.
    }
    let unpacked = Unpacked::new(SOUND);
    let stored = &reader::stored_paths(&unpacked.store, &unpacked.key)["size 1"];
    let root = unpacked.open_with(false).root().unwrap();
    root.set_xattr(Some(b"size 1"), b"trusted.moved", b"value", XattrMode::Create).unwrap();
    assert_eq!(root.list_xattr(Some(b"size 1")).unwrap(), [b"trusted.moved"]);
    let path = unpacked.store.join(stored);
    let [(old, value)] = &damage::lower_attributes(&path, "trusted.cmkfs.")[..] else {
        panic!("one attribute was set");
    };
    let new = old.replace("trusted.", "user.");
    rustix::fs::removexattr(&path, old.as_str()).unwrap();
    damage::set_xattr(&path, &new, value);

    assert_eq!(root.list_xattr(Some(b"size 1")).unwrap(), Vec::<Vec<u8>>::new());
    let found = reader::refused(&unpacked.store, &unpacked.key, "another prefix");
    let wanted = format!("{stored}: attribute {new}: trusted.moved belongs at {old}");
    assert_eq!(found, [wanted]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24, failure_persistence: None, ..Default::default()
    })]

    /// Whatever the library writes, the reader finds; also that there is something to find.
    #[test]
    fn the_reader_reads_what_the_library_wrote(volume in random::volume()) {
        let dir = tempfile::tempdir().unwrap();
        let (store, key) = (dir.path().join("store"), dir.path().join("key"));
        fs::write(&key, [7; 32]).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let made = random::make(&volume, &store, &key);
        let found = reader::list(&store, &key);
        assert_eq!(found.len(), 1 + volume.object_count());
        assert_same(&untold(found), &seen::list(&made.open()), "reader");
    }
}

/// Makes new volumes where `CMKFS_MAKE_GOLDEN` says.
#[test]
#[ignore = "makes golden volumes; tests/golden/README.md says when and how"]
fn make_golden_volumes() {
    let out = std::env::var_os("CMKFS_MAKE_GOLDEN").expect("CMKFS_MAKE_GOLDEN=DIR");
    let out = PathBuf::from(out);
    for (name, block_size) in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        let file = |end: &str| out.join(format!("{name}.{end}"));
        let mut key = [0; 32];
        getrandom::fill(&mut key).unwrap();
        fs::write(file("key"), key).unwrap();
        fs::set_permissions(file("key"), fs::Permissions::from_mode(0o600)).unwrap();
        let plan = Plan::new(block_size);
        make::make(&plan, &dir.path().join("store"), &file("key"));
        let records = serde_json::to_string_pretty(&plan.records()).unwrap();
        fs::write(file("json"), records + "\n").unwrap();
        let status = Command::new("tar")
            .args(["--format=posix", "--sparse", "--xattrs", "--xattrs-include=*"])
            .args(["--numeric-owner", "--sort=name", "-czf"])
            .arg(file("tar.gz"))
            .arg("-C")
            .arg(dir.path())
            .arg("store")
            .status()
            .unwrap();
        assert!(status.success());
        let len = fs::metadata(file("tar.gz")).unwrap().len();
        assert!(len < 300 << 10, "{len} bytes");
    }
}
