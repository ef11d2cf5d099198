//! Recovery that comes more than once, or to files that it did not expect.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cmkfs::file::{Access, Durability, FileError};
use cmkfs::fs::{Fs, InodeId, OpenFlags};
use cmkfs::store::{Op, Watch};
use rustix::io::Errno;

use crate::full::Full;
use crate::lab::{BLOCK, Lab, assert_read, options, pattern, read, records};
use crate::volume::ME;

/// Where a file of the root directory is stored.
fn stored(store: &Path, ino: u64) -> PathBuf {
    let mut tree = fs::read_dir(store.join("tree")).unwrap().map(Result::unwrap);
    tree.find(|entry| entry.metadata().unwrap().ino() == ino).unwrap().path()
}

/// A disk that notes whether something is written before both segments of the journal are durable.
#[derive(Debug)]
struct Order {
    segments: BTreeSet<u64>,
    synced: Mutex<BTreeSet<u64>>,
    is_early: AtomicBool,
    has_written: AtomicBool,
}

impl Watch for Order {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        let mut synced = self.synced.lock().unwrap();
        match *op {
            Op::SyncFile { file, .. } => drop(synced.insert(file)),
            Op::Write { file, .. } | Op::SetLen { file, .. } if !self.segments.contains(&file) => {
                self.has_written.store(true, Ordering::Relaxed);
                self.is_early.fetch_or(!synced.is_superset(&self.segments), Ordering::Relaxed);
            }
            _ => {}
        }
        drop(synced);
        run().map(drop)
    }
}

/// A killed process leaves records that only the kernel has: a power cut during the recovery that
/// follows must not find their bytes in place and no record.
#[test]
fn the_journal_is_durable_before_anything_of_it_is_brought_to_its_place() {
    let lab = Lab::new();
    let file = lab.make("file", &pattern(200_000, 1));
    lab.volume.checkpoint().unwrap();
    file.write(0, &pattern(4 * BLOCK, 9)).unwrap();
    file.commit().unwrap();
    let crashed = lab.crash();
    let number = |name| fs::metadata(crashed.path().join("journal").join(name)).unwrap().ino();
    let order = Arc::new(Order {
        segments: ["0", "1"].map(number).into(),
        synced: Mutex::default(),
        is_early: AtomicBool::new(false),
        has_written: AtomicBool::new(false),
    });
    let volume = crashed.open_watched(order.clone(), Durability::Strict).unwrap();
    assert!(order.has_written.load(Ordering::Relaxed));
    assert!(!order.is_early.load(Ordering::Relaxed));
    let mut content = pattern(200_000, 1);
    content[..4 * BLOCK].copy_from_slice(&pattern(4 * BLOCK, 9));
    assert_read(&volume, "file", &content);
}

/// Somebody has copied a stored file over another's, which SECURITY.md says goes unnoticed: what is
/// written to either from then on is its own.
#[test]
fn two_files_of_one_id_get_what_was_written_to_each() {
    for commits in [false, true] {
        let lab = Lab::new();
        let mut contents = [pattern(100_000, 1), pattern(100_000, 1)];
        let inos = ["one", "two"].map(|name| lab.make(name, &contents[0]).ino());
        lab.volume.checkpoint().unwrap();
        let crashed = lab.crash();
        let paths = inos.map(|ino| stored(lab.disk.path(), ino));
        let paths = paths.map(|path| crashed.path().join("tree").join(path.file_name().unwrap()));
        fs::copy(&paths[0], &paths[1]).unwrap();
        let volume = crashed.open();
        let root = volume.root().unwrap();
        let files = [b"one", b"two"].map(|name| root.open_file(name, Access::Write).unwrap());
        for (at, (file, content)) in files.iter().zip(&mut contents).enumerate() {
            let (offset, part) = (1000 + 50_000 * at, [at as u8 + 1; 100]);
            file.write(offset as u64, &part).unwrap();
            content[offset..offset + 100].copy_from_slice(&part);
            if commits {
                file.commit().unwrap();
            }
            file.sync(true).unwrap();
        }
        // The process is gone, the files are where they were.
        std::mem::forget((files, root, volume));
        let volume = crashed.open();
        assert_read(&volume, "one", &contents[0]);
        assert_read(&volume, "two", &contents[1]);
    }
}

/// Kept by its inode, as by `open(O_PATH)`: it can be opened again by way of `/proc/self/fd`.
#[test]
fn a_file_that_is_known_without_a_name_is_not_given_up() {
    for len in [300, 40_000] {
        let lab = Lab::new();
        let mut content = pattern(50_000, 1);
        let file = lab.make("file", &content);
        // The first is told, within the file; the other is a change that needs room behind it.
        let offset = if len == 300 { 100 } else { 50_000 };
        file.write(offset as u64, &pattern(len, 2)).unwrap();
        if len > 300 {
            file.commit().unwrap();
        }
        file.sync(true).unwrap();
        content.resize(content.len().max(offset + len), 0);
        content[offset..offset + len].copy_from_slice(&pattern(len, 2));
        let crashed = lab.crash();
        let disk = Full::below(crashed.path());
        let volume = crashed.open_watched(disk, Durability::Strict).unwrap();
        let fs = Fs::new(volume.clone(), volume.root().unwrap());
        let id = fs.lookup(InodeId::ROOT, b"file").unwrap().ino;
        fs.unlink(InodeId::ROOT, b"file").unwrap();
        for _ in 0..2 {
            assert_eq!(volume.checkpoint(), Err(FileError::Sys(Errno::NOSPC)));
            let handle = fs.open(id, OpenFlags::READ).unwrap();
            assert!(fs.read(handle, 0, 1 << 20).unwrap()[..] == content, "{len}");
            fs.release(handle).unwrap();
        }
        fs.forget(id, 1);
        volume.checkpoint().unwrap();
    }
}

/// Of a file that was never synced a recovery may leave nothing; once it was, the next may not.
#[test]
fn a_new_file_that_was_recovered_and_synced_is_not_emptied_by_the_next_recovery() {
    let lab = Lab::new();
    let _told = lab.make_told("told");
    let (file, _) = lab.root.create_file(b"new", ME, 0o644).unwrap();
    let content = pattern(100_000, 3);
    file.write(0, &content).unwrap();
    file.commit().unwrap();
    let crashed = lab.crash();
    let name = stored(lab.disk.path(), file.ino()).file_name().unwrap().to_owned();
    let volume = crashed.open();
    assert_ne!(records(crashed.path()), [], "the journal goes on");
    let file = volume.root().unwrap().open_file(b"new", Access::Write).unwrap();
    assert!(file.read(0, 1 << 20).unwrap()[..] == content);
    file.sync(false).unwrap();
    volume.commit_all().unwrap();
    std::mem::forget((file, volume));
    let path = crashed.path().join("tree").join(name);
    let lower = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    lower.read_exact_at(&mut byte, 3 << 14).unwrap();
    lower.write_all_at(&[byte[0] ^ 1], 3 << 14).unwrap();
    let volume = crashed.open_with(&options());
    assert!(matches!(read(&volume, "new"), Err(FileError::Damaged(_))), "it is told, not emptied");
}
