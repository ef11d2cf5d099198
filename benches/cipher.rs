//! The cipher core without a disk: a request of 1 MiB sealed and opened, by block size and by
//! number of threads; and names sealed and opened in a directory.

mod support;

use std::hint::black_box;
use std::num::NonZero;

use cmkfs::cipher::{CipherPool, DirCipher, FileCipher, Plain, Secret};
use cmkfs::format::node::Entry;
use cmkfs::format::{BlockSize, directory};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// What the kernel sends at most at once.
const REQUEST_LEN: usize = 1 << 20;
const NAMES: usize = 1000;

fn block_sizes() -> impl Iterator<Item = BlockSize> {
    [12, 14, 16].into_iter().filter_map(BlockSize::from_log2)
}

/// 1, 2, and as many as this machine has.
fn thread_counts() -> Vec<NonZero<usize>> {
    let all = std::thread::available_parallelism().expect("the system tells");
    let mut counts: Vec<_> = [1, 2, all.get()].into_iter().filter_map(NonZero::new).collect();
    counts.dedup();
    counts
}

fn request() -> Plain {
    let mut plain = Plain::zeros(REQUEST_LEN);
    for (byte, at) in plain.iter_mut().zip(0_usize..) {
        *byte = u8::try_from(at % 251).expect("below 251");
    }
    plain
}

fn requests(criterion: &mut Criterion) {
    let cipher = FileCipher::new(&Secret::random());
    let plain = request();
    for threads in thread_counts() {
        let pool = CipherPool::new(threads).expect("threads");
        for size in block_sizes() {
            let mut entries = vec![Entry::HOLE; REQUEST_LEN / size.len()];
            let name = |what: &str| format!("{what} 1 MiB, {} KiB blocks", size.bytes() / 1024);
            let mut group = criterion.benchmark_group(name("seal"));
            group.throughput(Throughput::Bytes(REQUEST_LEN as u64));
            group.bench_function(BenchmarkId::new("threads", threads), |bench| {
                bench.iter(|| pool.seal_blocks(&cipher, size, 0, black_box(&plain), &mut entries));
            });
            group.finish();

            let sealed = pool.seal_blocks(&cipher, size, 0, &plain, &mut entries);
            let mut group = criterion.benchmark_group(name("open"));
            group.throughput(Throughput::Bytes(REQUEST_LEN as u64));
            group.bench_function(BenchmarkId::new("threads", threads), |bench| {
                bench.iter_batched_ref(
                    || Plain::copy_of(sealed.as_bytes()),
                    |bytes| {
                        let unopened = bytes.unopened(0..REQUEST_LEN);
                        pool.open_blocks(&cipher, size, 0, unopened, &entries).expect("authentic");
                    },
                    BatchSize::NumIterations(8),
                );
            });
            group.finish();
        }
    }
}

fn directory() -> DirCipher {
    let (descriptor, keys) = support::new_volume();
    let marker = keys.new_marker(descriptor.root_id);
    let (epoch, id, tag) = directory::decode(marker.as_bytes()).expect("just made");
    keys.open_marker(epoch, id, &tag).expect("just made")
}

fn names(criterion: &mut Criterion) {
    let directory = directory();
    let names: Vec<_> = (0..NAMES).map(|at| format!("sample_{at:08}.jpeg")).collect();
    let sealed: Vec<_> = names.iter().map(|name| directory.seal_name(name.as_bytes())).collect();
    let sealed: Vec<_> = sealed
        .iter()
        .map(|name| data_encoding::BASE64URL_NOPAD.decode(name.object()).expect("a short name"))
        .collect();
    let mut group = criterion.benchmark_group("names of 20 bytes");
    group.throughput(Throughput::Elements(NAMES as u64));
    group.bench_function("seal", |bench| {
        bench.iter(|| {
            for name in &names {
                black_box(directory.seal_name(name.as_bytes()));
            }
        });
    });
    group.bench_function("open", |bench| {
        bench.iter(|| {
            for name in &sealed {
                black_box(directory.open_name(name)).expect("authentic");
            }
        });
    });
    group.finish();
}

criterion_group!(cipher, requests, names);
criterion_main!(cipher);
