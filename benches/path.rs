//! The path of a request without a mount: what the kernel asks for, asked of the file system by a
//! call, on a volume in a temporary directory. The difference to a mount is what FUSE costs. Stored
//! pages are in the system's memory, so no disk is in it but for the sync.

mod support;

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use cmkfs::file::{Creator, Volume, VolumeOptions};
use cmkfs::fs::{Fs, HandleId, InodeId, OpenFlags, Privileges, Sync};
use cmkfs::store::Store;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const ME: Creator = Creator { uid: 0, gid: 0 };
const SMALL_LEN: usize = 10_000;
const PAGE_LEN: usize = 4096;
/// What the kernel sends at most at once.
const REQUEST_LEN: usize = 1 << 20;
/// More than the cache of [`uncached`] keeps, so that what is read is read from the store.
const LARGE_LEN: u64 = 64 << 20;
const NAMES: usize = 1000;
/// Distance of two reads, without a common divisor with the pages of the file: all are visited, and
/// none soon after its neighbour.
const STRIDE: u64 = 5741;

/// An empty volume and the file system on it.
fn world(dir: &Path, options: &VolumeOptions) -> Arc<Fs> {
    let (descriptor, keys) = support::new_volume();
    let store = Store::create(dir).expect("an empty directory");
    Volume::format(&store, &keys, descriptor.root_id).expect("a new store");
    let volume = Volume::open(&store, keys, &descriptor, options).expect("a new store");
    let root = volume.root().expect("a new store");
    Fs::new(volume, root)
}

/// Reads go to the store.
fn uncached() -> VolumeOptions {
    VolumeOptions { cache_bytes: 0, ..VolumeOptions::default() }
}

/// A new file that is open for writing.
fn create(fs: &Fs, name: &str) -> (InodeId, HandleId) {
    let flags = OpenFlags { exclusive: true, ..OpenFlags::WRITE };
    let (attr, handle) =
        fs.create(InodeId::ROOT, name.as_bytes(), 0o600, flags, ME).expect("a new name");
    (attr.ino, handle)
}

fn write(fs: &Fs, handle: HandleId, offset: u64, data: &[u8]) {
    fs.write(handle, offset, data, Privileges::Keep).expect("room on the disk");
}

/// What the kernel asks for when a program closes a file.
fn close(fs: &Fs, handle: HandleId) {
    fs.flush(handle).expect("room on the disk");
    fs.release(handle).expect("it is open");
}

/// A new file of this length, closed; the kernel has forgotten it.
fn file(fs: &Fs, name: &str, len: u64) {
    let (ino, handle) = create(fs, name);
    let part = vec![0x5A; REQUEST_LEN];
    for offset in (0..len).step_by(REQUEST_LEN) {
        let left = usize::try_from(len - offset).unwrap_or(REQUEST_LEN);
        write(fs, handle, offset, &part[..left.min(REQUEST_LEN)]);
    }
    close(fs, handle);
    fs.forget(ino, 1);
}

fn small_files(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let fs = world(dir.path(), &uncached());
    let mut group = criterion.benchmark_group("path, a small file");
    let (content, made) = (vec![0x5A; SMALL_LEN], Cell::new(0_u64));
    group.bench_function("create, write 10 KB, close", |bench| {
        // The one before goes first, so that the directory does not grow with the time.
        let remove = || {
            let last = made.replace(made.get() + 1);
            if last > 0 {
                let name = format!("new {last}");
                fs.unlink(InodeId::ROOT, name.as_bytes()).expect("it is there");
            }
            format!("new {}", made.get())
        };
        let make = |name: String| {
            let (ino, handle) = create(&fs, &name);
            write(&fs, handle, 0, &content);
            close(&fs, handle);
            fs.forget(ino, 1);
        };
        bench.iter_batched(remove, make, BatchSize::PerIteration);
    });
    file(&fs, "small", SMALL_LEN as u64);
    group.bench_function("lookup", |bench| {
        bench.iter(|| {
            let attr = fs.lookup(InodeId::ROOT, b"small").expect("it is there");
            fs.forget(attr.ino, 1);
        });
    });
    let ino = fs.lookup(InodeId::ROOT, b"small").expect("it is there").ino;
    group.bench_function("open, read 10 KB, close", |bench| {
        bench.iter(|| {
            let handle = fs.open(ino, OpenFlags::READ).expect("it is there");
            black_box(fs.read(handle, 0, SMALL_LEN).expect("authentic"));
            close(&fs, handle);
        });
    });
    group.finish();
}

fn directories(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let fs = world(dir.path(), &VolumeOptions::default());
    for at in 0..NAMES {
        file(&fs, &format!("sample_{at:08}.jpeg"), 0);
    }
    let mut group = criterion.benchmark_group("path, a directory of 1000 files");
    group.throughput(Throughput::Elements(NAMES as u64));
    group.bench_function("opendir, readdir, closedir", |bench| {
        bench.iter(|| {
            let (handle, mut count) = (fs.opendir(InodeId::ROOT).expect("it is there"), 0);
            let take = |entry: &cmkfs::fs::Listed<'_>| {
                count += usize::from(!matches!(entry.name, b"." | b".."));
                true
            };
            fs.readdir(handle, 0, take).expect("authentic");
            fs.releasedir(handle).expect("it is open");
            assert_eq!(count, NAMES);
        });
    });
    group.finish();
}

fn large_files(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let fs = world(dir.path(), &uncached());
    file(&fs, "large", LARGE_LEN);
    let ino = fs.lookup(InodeId::ROOT, b"large").expect("it is there").ino;
    let handle = fs.open(ino, OpenFlags::WRITE).expect("it is there");
    let mut group = criterion.benchmark_group("path, a large file");
    let turn = Cell::new(0_u64);
    let next = |len: usize| {
        let at = turn.replace(turn.get() + 1);
        let places = LARGE_LEN / len as u64;
        let stride = if len == REQUEST_LEN { 1 } else { STRIDE };
        at.wrapping_mul(stride) % places * len as u64
    };
    let read = |len: usize| black_box(fs.read(handle, next(len), len).expect("authentic"));
    group.throughput(Throughput::Bytes(REQUEST_LEN as u64));
    group.bench_function("read 1 MiB", |bench| {
        bench.iter(|| assert_eq!(read(REQUEST_LEN).len(), REQUEST_LEN));
    });
    let content = vec![0xA5; REQUEST_LEN];
    group.bench_function("write 1 MiB", |bench| {
        bench.iter(|| write(&fs, handle, next(REQUEST_LEN), &content));
    });
    fs.fsync(handle, Sync::All).expect("room on the disk");
    group.throughput(Throughput::Elements(1));
    group.bench_function("read 4 KiB at random", |bench| {
        bench.iter(|| assert_eq!(read(PAGE_LEN).len(), PAGE_LEN));
    });
    group.finish();
    close(&fs, handle);
}

fn log(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let fs = world(dir.path(), &VolumeOptions::default());
    let (_, handle) = create(&fs, "log");
    let (line, len) = (vec![0x5A; 200], Cell::new(0_u64));
    let mut group = criterion.benchmark_group("path, a log");
    group.bench_function("append 200 bytes, fsync", |bench| {
        bench.iter(|| {
            // Where the kernel, which knows the length, has it written.
            write(&fs, handle, len.replace(len.get() + line.len() as u64), &line);
            fs.fsync(handle, Sync::All).expect("room on the disk");
        });
    });
    group.finish();
    close(&fs, handle);
}

criterion_group!(path, small_files, directories, large_files, log);
criterion_main!(path);
