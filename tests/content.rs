//! One file against a reference model: a vector of bytes. Random operations, every size around
//! every boundary of the format, and the same after closing and opening.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "support/volume.rs"]
mod volume;

use std::sync::Arc;

use cmkfs::file::{Access, Allocate, File, Seek, Volume, VolumeOptions};
use proptest::prelude::*;
use volume::{ME, Throwaway};

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, len: usize, fill: u8 },
    Append { len: usize, fill: u8 },
    Read { at: u64, len: usize },
    SetLen(u64),
    Punch { at: u64, len: u64 },
    Zero { at: u64, len: u64, keep_size: bool },
    Reserve { at: u64, len: u64, keep_size: bool },
    Copy { from: u64, to: u64, len: u64 },
    Commit,
    Sync,
    Checkpoint,
    Reopen,
}

/// Offsets around every boundary, at blocks of 4 KiB: inline end, blocks, runs, levels.
fn offset() -> impl Strategy<Value = u64> {
    let edges = [0, 3956, 4096, 8192, 127 * 4096, 128 * 4096, 129 * 4096, 260 * 4096];
    prop_oneof![
        4 => (prop::sample::select(edges.to_vec()), 0_u64..9).prop_map(|(edge, near)| {
            (edge + near).saturating_sub(4)
        }),
        3 => 0_u64..20_000,
        2 => 0_u64..1_200_000,
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 1_usize..5000,
        2 => 1_usize..70_000,
        1 => Just(4096),
        1 => 500_000..600_000_usize,
        1 => 1_100_000..1_200_000_usize,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let wide = || length().prop_map(|len| len as u64);
    prop_oneof![
        6 => (offset(), length(), any::<u8>())
            .prop_map(|(at, len, fill)| Op::Write { at, len, fill }),
        2 => (length(), any::<u8>()).prop_map(|(len, fill)| Op::Append { len, fill }),
        4 => (offset(), length()).prop_map(|(at, len)| Op::Read { at, len }),
        3 => offset().prop_map(Op::SetLen),
        2 => (offset(), wide()).prop_map(|(at, len)| Op::Punch { at, len }),
        1 => (offset(), wide(), any::<bool>())
            .prop_map(|(at, len, keep_size)| Op::Zero { at, len, keep_size }),
        1 => (offset(), wide(), any::<bool>())
            .prop_map(|(at, len, keep_size)| Op::Reserve { at, len, keep_size }),
        1 => (offset(), offset(), wide()).prop_map(|(from, to, len)| Op::Copy { from, to, len }),
        2 => Just(Op::Commit),
        1 => Just(Op::Sync),
        2 => Just(Op::Checkpoint),
        2 => Just(Op::Reopen),
    ]
}

/// Ends a volume as an unmount does.
fn close(volume: Arc<Volume>) {
    volume.commit_all().unwrap();
    assert_eq!(Arc::strong_count(&volume), 1, "nothing of it is in use");
}

struct Subject {
    throwaway: Throwaway,
    cache_bytes: usize,
    open: Option<(Arc<Volume>, Arc<File>)>,
    model: Vec<u8>,
}

fn pattern(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|at| fill.wrapping_add(u8::try_from(at % 249).unwrap())).collect()
}

impl Subject {
    fn new(cache_bytes: usize) -> Self {
        let throwaway = Throwaway::new(4096);
        let options = VolumeOptions { cache_bytes, ..VolumeOptions::default() };
        let volume = throwaway.open_with(&options);
        let (file, _) = volume.root().unwrap().create_file(b"file", ME, 0o644).unwrap();
        Self { throwaway, cache_bytes, open: Some((volume, file)), model: vec![] }
    }

    fn file(&self) -> &File {
        &self.open.as_ref().unwrap().1
    }

    fn reopen(&mut self) {
        let (volume, file) = self.open.take().unwrap();
        file.commit().unwrap();
        drop(file);
        close(volume);
        let options = VolumeOptions { cache_bytes: self.cache_bytes, ..VolumeOptions::default() };
        let volume = self.throwaway.open_with(&options);
        let root = volume.root().unwrap();
        assert_eq!(root.lookup(b"file").unwrap().size, self.model.len() as u64);
        let file = root.open_file(b"file", Access::Write).unwrap();
        self.open = Some((volume, file));
    }

    fn lengthen(&mut self, end: usize) {
        if end > self.model.len() {
            self.model.resize(end, 0);
        }
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        self.lengthen(at + data.len());
        self.model[at..at + data.len()].copy_from_slice(data);
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write { at, len, fill } => {
                let data = pattern(len, fill);
                self.file().write(at, &data).unwrap();
                self.write(at as usize, &data);
            }
            Op::Append { len, fill } => {
                let data = pattern(len, fill);
                let at = self.file().append(&data).unwrap();
                assert_eq!(at, self.model.len() as u64);
                self.write(at as usize, &data);
            }
            Op::Read { at, len } => self.check(at as usize, len),
            Op::SetLen(length) => {
                self.file().set_len(length).unwrap();
                self.model.resize(length as usize, 0);
            }
            Op::Punch { at, len } => {
                self.file().allocate(Allocate::PunchHole, at, len).unwrap();
                self.zero(at, len);
            }
            Op::Zero { at, len, keep_size } => {
                self.file().allocate(Allocate::ZeroRange { keep_size }, at, len).unwrap();
                self.zero(at, len);
                if !keep_size {
                    self.lengthen((at + len) as usize);
                }
            }
            Op::Reserve { at, len, keep_size } => {
                self.file().allocate(Allocate::Reserve { keep_size }, at, len).unwrap();
                if !keep_size {
                    self.lengthen((at + len) as usize);
                }
            }
            Op::Copy { from, to, len } => self.copy(from, to, len),
            Op::Commit => self.file().commit().unwrap(),
            Op::Sync => self.file().sync(true).unwrap(),
            Op::Checkpoint => self.open.as_ref().unwrap().0.checkpoint().unwrap(),
            Op::Reopen => self.reopen(),
        }
        assert_eq!(self.file().len(), self.model.len() as u64, "{op:?}");
    }

    /// copy_file_range(2) refuses ranges of one file that overlap.
    fn copy(&mut self, from: u64, to: u64, len: u64) {
        if from.abs_diff(to) < len {
            return;
        }
        let done = self.file().copy_range(from, self.file(), to, len).unwrap();
        let there = (self.model.len() as u64).saturating_sub(from).min(len);
        assert!(done >= there, "{done} of {there}");
        if done == 0 {
            return;
        }
        let end = (from + done) as usize;
        // A copy past the old end may read what it has written, as the system call may.
        self.lengthen((to + done) as usize);
        let data = self.model[from as usize..end].to_vec();
        self.write(to as usize, &data);
    }

    fn zero(&mut self, at: u64, len: u64) {
        let end = ((at + len) as usize).min(self.model.len());
        if (at as usize) < end {
            self.model[at as usize..end].fill(0);
        }
    }

    fn check(&self, at: usize, len: usize) {
        let read = self.file().read(at as u64, len).unwrap();
        let end = (at + len).min(self.model.len());
        let wanted = self.model.get(at..end).unwrap_or_default();
        assert_eq!(read.len(), wanted.len());
        let differs = read.iter().zip(wanted).position(|(one, other)| one != other);
        assert_eq!(differs, None, "read of {len} at {at} differs first there");
    }

    /// What SEEK_DATA skips must be zeros.
    fn check_holes(&self) {
        let mut at = 0;
        while at < self.model.len() as u64 {
            let data = self.file().seek(at, Seek::Data).unwrap_or(self.model.len() as u64);
            assert!(data >= at);
            assert!(self.model[at as usize..data as usize].iter().all(|byte| *byte == 0));
            if data == self.model.len() as u64 {
                break;
            }
            at = self.file().seek(data, Seek::Hole).unwrap();
            assert!(at > data);
        }
    }
}

fn run(ops: &[Op], cache_bytes: usize) {
    let mut subject = Subject::new(cache_bytes);
    for op in ops {
        subject.apply(op);
    }
    subject.check(0, subject.model.len());
    subject.check_holes();
    subject.reopen();
    subject.check(0, subject.model.len());
    subject.check_holes();
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 2000, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn a_file_is_a_vector_of_bytes(ops in prop::collection::vec(op(), 1..30)) {
        run(&ops, 64 << 20);
    }

    #[test]
    fn without_a_cache_it_is_the_same(ops in prop::collection::vec(op(), 1..30)) {
        run(&ops, 0);
    }
}

#[test]
fn every_size_around_every_boundary() {
    for block in [4096_u64, 16384, 65536] {
        let throwaway = Throwaway::new(block);
        let edges = [0, 3956, 4096, block, 2 * block, 128 * block, 129 * block];
        let volume = throwaway.open();
        let root = volume.root().unwrap();
        let mut sizes: Vec<u64> =
            edges.iter().flat_map(|edge| edge.saturating_sub(2)..=edge + 2).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for size in &sizes {
            let name = format!("f{size}");
            let data = pattern(*size as usize, 5);
            let (file, _) = root.create_file(name.as_bytes(), ME, 0o600).unwrap();
            file.write(0, &data).unwrap();
            file.commit().unwrap();
        }
        drop(root);
        close(volume);
        let root = throwaway.open().root().unwrap();
        for size in &sizes {
            let name = format!("f{size}");
            assert_eq!(root.lookup(name.as_bytes()).unwrap().size, *size);
            let file = root.open_file(name.as_bytes(), Access::Read).unwrap();
            let read = file.read(0, *size as usize + 1).unwrap();
            assert!(*read == pattern(*size as usize, 5), "{block} {size}");
        }
    }
}

#[test]
fn ten_gibibytes_with_holes() {
    let throwaway = Throwaway::new(16384);
    let volume = throwaway.open();
    let root = volume.root().unwrap();
    let (file, _) = root.create_file(b"big", ME, 0o600).unwrap();
    let end = 10_u64 << 30;
    let dense = pattern(3 << 20, 9);
    for at in [0, 2 << 30, (5 << 30) + 12345, end - (3 << 20)] {
        file.write(at, &dense).unwrap();
    }
    file.commit().unwrap();
    drop((file, root));
    close(volume);
    let volume = throwaway.open();
    let root = volume.root().unwrap();
    let stat = root.lookup(b"big").unwrap();
    assert_eq!(stat.size, end);
    assert!(stat.blocks * 512 < 16 << 20, "{} bytes are stored", stat.blocks * 512);
    let file = root.open_file(b"big", Access::Write).unwrap();
    for at in [0, 2 << 30, (5 << 30) + 12345, end - (3 << 20)] {
        assert!(*file.read(at, 3 << 20).unwrap() == dense, "{at}");
    }
    assert!(file.read(7 << 30, 1 << 20).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(file.seek(4 << 20, Seek::Data).unwrap(), 2 << 30);
    file.set_len(100).unwrap();
    file.commit().unwrap();
    assert_eq!(*file.read(0, 1000).unwrap(), dense[..100]);
    // Until then what was synced stays, for the case of a crash.
    volume.checkpoint().unwrap();
    let blocks = root.lookup(b"big").unwrap().blocks;
    // A page, and what the disk takes itself.
    assert!(blocks <= 16, "{blocks} blocks are stored");
}

#[test]
fn a_hole_of_a_terabyte_is_made_and_found_at_once() {
    let throwaway = Throwaway::new(4096);
    let volume = throwaway.open();
    let root = volume.root().unwrap();
    let (file, _) = root.create_file(b"big", ME, 0o600).unwrap();
    let (far, end) = (700_u64 << 30, 1_u64 << 40);
    file.write(0, &pattern(10_000, 1)).unwrap();
    file.write(far, &pattern(10_000, 2)).unwrap();
    file.set_len(end).unwrap();
    file.commit().unwrap();
    assert_eq!(file.seek(20_000, Seek::Data).unwrap(), far);
    assert_eq!(file.seek(0, Seek::Hole).unwrap(), 12_288);
    // A part of a block, so that the rest is in the cache.
    assert_eq!(*file.read(far + 100, 50).unwrap(), pattern(10_000, 2)[100..150]);
    file.allocate(Allocate::PunchHole, 4096, end - 4096).unwrap();
    assert!(file.read(far, 10_000).unwrap().iter().all(|byte| *byte == 0));
    file.commit().unwrap();
    assert!(file.seek(4096, Seek::Data).is_err());
    drop((file, root));
    let file = throwaway.open().root().unwrap().open_file(b"big", Access::Write).unwrap();
    assert!(file.read(far, 10_000).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(*file.read(0, 4096).unwrap(), pattern(10_000, 1)[..4096]);
    file.write(far, b"again").unwrap();
    assert_eq!(file.seek(4096, Seek::Data).unwrap(), far);
}

/// What is there when the volume is opened anew.
fn reread(throwaway: &Throwaway) -> Vec<u8> {
    let file = throwaway.open().root().unwrap().open_file(b"file", Access::Read).unwrap();
    let read = file.read(0, 64 << 20).unwrap();
    read.to_vec()
}

#[test]
fn a_file_cut_to_nothing_and_lengthened_is_as_long_in_the_store() {
    let throwaway = Throwaway::new(16384);
    let volume = throwaway.open();
    let (file, _) = volume.root().unwrap().create_file(b"file", ME, 0o600).unwrap();
    let part = pattern(1 << 20, 3);
    file.write(0, &part).unwrap();
    file.sync(true).unwrap();
    file.set_len(0).unwrap();
    file.set_len(8 << 20).unwrap();
    file.commit().unwrap();
    // So much that it goes on in place.
    for index in 0..4 {
        file.write(index << 20, &part).unwrap();
    }
    file.commit().unwrap();
    drop(file);
    close(volume);
    assert!(reread(&throwaway) == [part.repeat(4), vec![0; 4 << 20]].concat());
}

#[test]
fn what_is_appended_where_a_hole_was_cut_off_stays() {
    let throwaway = Throwaway::new(16384);
    let volume = throwaway.open();
    let (file, _) = volume.root().unwrap().create_file(b"file", ME, 0o600).unwrap();
    let part = pattern(1 << 20, 4);
    file.write(0, &part).unwrap();
    file.sync(true).unwrap();
    for index in 1..8 {
        file.write(index << 20, &part).unwrap();
    }
    file.allocate(Allocate::PunchHole, 9 << 18, 4 << 20).unwrap();
    file.set_len(3 << 20).unwrap();
    file.sync(true).unwrap();
    file.write(3 << 20, &part).unwrap();
    file.sync(true).unwrap();
    drop(file);
    close(volume);
    let mut wanted = part.repeat(4);
    wanted[9 << 18..3 << 20].fill(0);
    assert!(reread(&throwaway) == wanted);
}

/// Found by hand: such a commit was a record longer than recovery reads, which took it for a torn
/// one, with all that came after it.
#[test]
fn small_blocks_far_apart_that_were_synced_survive_a_crash_with_what_was_synced_after_them() {
    const APART: u64 = 16 << 20;
    let throwaway = Throwaway::new(4096);
    let volume = throwaway.open();
    let root = volume.root().unwrap();
    let make = |name: &[u8], len| {
        let (file, _) = root.create_file(name, ME, 0o644).unwrap();
        file.write(0, &[1; 100]).unwrap();
        file.set_len(len).unwrap();
        file.sync(false).unwrap();
        file
    };
    let (file, next) = (make(b"file", 2200 * APART), make(b"next", 100));
    for block in 0..2130 {
        file.write(block * APART + 30, &[2; 6]).unwrap();
        if block < 2040 && block % 60 == 59 {
            file.sync(true).unwrap();
        }
    }
    file.sync(true).unwrap();
    next.write(0, &[2; 100]).unwrap();
    next.sync(true).unwrap();
    let left = tempfile::tempdir().unwrap();
    let copy = left.path().join("copy");
    let status =
        std::process::Command::new("cp").arg("-a").args([throwaway.path(), &copy]).status();
    assert!(status.unwrap().success());
    let crashed = throwaway.open_at(&copy, &VolumeOptions::default());
    let root = crashed.root().unwrap();
    let read = |name: &[u8], at| root.open_file(name, Access::Read).unwrap().read(at, 6).unwrap();
    (0..2130).for_each(|block| assert_eq!(*read(b"file", block * APART + 30), [2; 6], "{block}"));
    assert_eq!(*read(b"next", 0), [2; 6]);
}
