//! What survives a power cut: names, what decrypts them, and what replaced something. The disk
//! after a cut is a copy of the image below a mounted ext4, for which this needs root and loop
//! devices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "suites/disk.rs"]
mod disk;
#[path = "support/volume.rs"]
mod volume;

use std::collections::BTreeSet;
use std::sync::Arc;

use cmkfs::file::{Access, Dir, Durability, NodeKind, RenameMode, Volume, VolumeOptions};
use disk::Disk;
use volume::{ME, Throwaway};

const SHORT: &[u8] = b"short";
const LONG: &[u8] = &[b'l'; 200];

fn names(dir: &Dir) -> BTreeSet<Vec<u8>> {
    dir.entries().unwrap().into_iter().map(|entry| entry.name).collect()
}

fn put(dir: &Dir, name: &[u8], content: &[u8]) {
    let (file, _) = dir.create_file(name, ME, 0o644).unwrap();
    file.write(0, content).unwrap();
    file.commit().unwrap();
}

fn get(dir: &Dir, name: &[u8]) -> Vec<u8> {
    let file = dir.open_file(name, Access::Read).unwrap();
    file.read(0, 1 << 20).unwrap().to_vec()
}

/// A volume on a disk whose power can be cut.
struct OnDisk {
    throwaway: Throwaway,
    disk: Disk,
}

impl OnDisk {
    fn new() -> Self {
        let disk = Disk::slow_ext4();
        Self { throwaway: Throwaway::in_dir(disk.temporary(), 4096), disk }
    }

    /// What is there after a power cut at this moment; `work` gets it, opened as any mount does.
    fn cut(&self, work: impl FnOnce(&Arc<Volume>, &Dir)) {
        let after = self.disk.after_power_cut();
        let path = after.path().join(self.throwaway.path().file_name().unwrap());
        let volume = self.throwaway.open_at(&path, &VolumeOptions::default());
        work(&volume, &volume.root().unwrap());
    }
}

#[test]
fn names_and_what_decrypts_them_survive_a_power_cut() {
    let on_disk = OnDisk::new();
    let root = on_disk.throwaway.open().root().unwrap();
    let target = [b't'; 4000];
    root.make_dir(SHORT, ME, 0o755).unwrap();
    root.make_dir(LONG, ME, 0o755).unwrap();
    let dir = root.open_dir(LONG).unwrap();
    dir.make_dir(LONG, ME, 0o700).unwrap();
    dir.make_symlink(b"link", &target, ME).unwrap();
    dir.make_node(&[b'p'; 255], NodeKind::Fifo, ME, 0o600).unwrap();
    dir.rename(&[b'p'; 255], &dir, &[b'q'; 255], RenameMode::NoReplace).unwrap();
    // Only the innermost: what it needs to be found comes with it, as on ext4.
    dir.open_dir(LONG).unwrap().sync().unwrap();
    dir.sync().unwrap();
    on_disk.cut(|volume, root| {
        assert_eq!(names(root), BTreeSet::from([SHORT.to_vec(), LONG.to_vec()]));
        root.open_dir(SHORT).unwrap();
        let dir = root.open_dir(LONG).unwrap();
        let wanted = [LONG.to_vec(), b"link".to_vec(), vec![b'q'; 255]];
        assert_eq!(names(&dir), BTreeSet::from(wanted));
        assert_eq!(dir.read_link(b"link").unwrap(), target);
        dir.open_dir(LONG).unwrap();
        assert_eq!(volume.figures().damages, 0);
    });
}

#[test]
fn a_synced_file_survives_a_power_cut_with_its_name() {
    let on_disk = OnDisk::new();
    let root = on_disk.throwaway.open().root().unwrap();
    root.make_dir(LONG, ME, 0o755).unwrap();
    let dir = root.open_dir(LONG).unwrap();
    let (file, _) = dir.create_file(LONG, ME, 0o644).unwrap();
    file.write(0, b"content").unwrap();
    file.sync(true).unwrap();
    on_disk.cut(|_, root| assert_eq!(get(&root.open_dir(LONG).unwrap(), LONG), b"content"));
}

#[test]
fn what_replaced_something_without_a_sync_survives_a_power_cut_whole() {
    let on_disk = OnDisk::new();
    let root = on_disk.throwaway.open().root().unwrap();
    let content = |fill| vec![fill; 100_000];
    for name in [&b"replaced"[..], b"exchanged"] {
        put(&root, name, &content(1));
        root.open_file(name, Access::Read).unwrap().sync(false).unwrap();
    }
    put(&root, b"new", &content(2));
    root.rename(b"new", &root, b"replaced", RenameMode::Replace).unwrap();
    put(&root, b"new", &content(3));
    root.rename(b"new", &root, b"exchanged", RenameMode::Exchange).unwrap();
    root.sync().unwrap();
    on_disk.cut(|_, root| {
        assert_eq!(get(root, b"replaced"), content(2));
        assert_eq!(get(root, b"exchanged"), content(3));
        assert_eq!(get(root, b"new"), content(1));
    });
}

/// A disk makes a name durable of itself, and what was written later: a file that nobody synced may
/// come back without a byte.
#[test]
fn files_that_were_never_synced_open_after_a_power_cut() {
    for durability in [Durability::Strict, Durability::Relaxed] {
        let on_disk = OnDisk::new();
        let options = VolumeOptions { durability, ..VolumeOptions::default() };
        let volume = on_disk.throwaway.open_with(&options);
        let root = volume.root().unwrap();
        let made = |n: u8| [b"made".as_slice(), &[b'0' + n]].concat();
        (0..5).for_each(|n| put(&root, &made(n), &[n; 100]));
        root.sync().unwrap();
        let after = on_disk.disk.after_power_cut();
        let path = after.path().join(on_disk.throwaway.path().file_name().unwrap());
        let stored = std::fs::read_dir(path.join("tree")).unwrap();
        let lens = stored.map(|entry| entry.unwrap().metadata().unwrap()).filter(|m| m.is_file());
        assert_eq!(lens.filter(|meta| meta.len() == 0).count(), 5, "the names alone arrived");
        let again = on_disk.throwaway.open_at(&path, &options);
        for n in 0..5 {
            assert_eq!(get(&again.root().unwrap(), &made(n)), b"", "{durability}");
        }
        assert_eq!(again.figures().damages, 0, "{durability}");
    }
}
