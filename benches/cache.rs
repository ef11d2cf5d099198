//! Reads of 4 KiB from a file with blocks of 16 KiB, through an open volume and without a mount:
//! the block is in the block cache, or it has to be read from the store and opened. The store is on
//! whatever disk holds the temporary directory; its pages are in the system's memory either way, so
//! a miss costs a system call, opening 16 KiB and copying, and no disk.

mod support;

use std::hint::black_box;
use std::sync::Arc;

use cmkfs::file::{Creator, File, Volume, VolumeOptions};
use cmkfs::store::Store;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const READ_LEN: usize = 4096;
const FILE_LEN: u64 = 8 << 20;
/// One read in each block, of a part of it: what is left is what the cache keeps.
const STEP: usize = 16384;

/// A volume on a disk, and one file of [`FILE_LEN`] bytes in it.
fn file(dir: &std::path::Path, cache_bytes: usize) -> (Arc<Volume>, Arc<File>) {
    let (descriptor, keys) = support::new_volume();
    let store = Store::create(dir).expect("an empty directory");
    Volume::format(&store, &keys, descriptor.root_id).expect("a new store");
    let options = VolumeOptions { cache_bytes, ..VolumeOptions::default() };
    let volume = Volume::open(&store, keys, &descriptor, &options).expect("a new store");
    let root = volume.root().expect("a new store");
    let creator = Creator { uid: 0, gid: 0 };
    let (file, _) = root.create_file(b"data", creator, 0o600).expect("a new file");
    let part = vec![0x5A; 1 << 20];
    for offset in (0..FILE_LEN).step_by(part.len()) {
        file.write(offset, &part).expect("room on the disk");
    }
    file.commit().expect("room on the disk");
    (volume, file)
}

/// One read in each block of the file in turn.
fn read_all(file: &File) {
    for offset in (0..FILE_LEN).step_by(STEP) {
        black_box(file.read(offset, READ_LEN).expect("authentic"));
    }
}

fn cache(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read 4 KiB of a 16 KiB block");
    group.throughput(Throughput::Elements(FILE_LEN / STEP as u64));
    for (name, cache_bytes) in [("hit", 64 << 20), ("miss", 0)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (volume, file) = file(dir.path(), cache_bytes);
        // What is wanted twice is kept.
        read_all(&file);
        read_all(&file);
        let before = volume.figures();
        group.bench_function(name, |bench| bench.iter(|| read_all(&file)));
        let after = volume.figures();
        // Otherwise the figure would not be what its name says.
        match name {
            "hit" => assert_eq!(after.cache_misses, before.cache_misses),
            _ => assert_eq!(after.cache_hits, before.cache_hits),
        }
    }
    group.finish();
}

criterion_group!(reads, cache);
criterion_main!(reads);
