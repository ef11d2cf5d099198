//! Parts of files: holes, copies in the kernel, vectors.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

use rustix::fs::{
    FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, fsync, ftruncate, seek, sendfile,
};
use rustix::io::{ReadWriteFlags, Result, preadv, preadv2, pwritev, pwritev2};
use rustix::pipe::{SpliceFlags, pipe, splice};

use crate::calls::*;
use crate::shown::digest;
use crate::stage::{Known, Stage, known, twins, twins_written_back};

const KEEP: FallocateFlags = FallocateFlags::KEEP_SIZE;

fn sum(fd: &OwnedFd) -> Result<String> {
    bytes_of(fd).map(|bytes| digest(&bytes))
}

/// 64 KiB, each of them telling where it is.
fn filled(path: &str) -> OwnedFd {
    let text: String = (0..16_384).map(|index| format!("{index:04x}")).collect();
    make(path, &text[..65_536]).unwrap();
    open(path, RDWR).unwrap()
}

fn allocated(g: &mut Stage) {
    let modes = [
        ("plain", FallocateFlags::empty()),
        ("keep", KEEP),
        ("punch", FallocateFlags::PUNCH_HOLE | KEEP),
        ("punch alone", FallocateFlags::PUNCH_HOLE),
        ("zero", FallocateFlags::ZERO_RANGE),
        ("zero keep", FallocateFlags::ZERO_RANGE | KEEP),
        ("collapse keep", FallocateFlags::COLLAPSE_RANGE | KEEP),
        ("unshare", FallocateFlags::UNSHARE_RANGE),
        ("unknown", FallocateFlags::from_bits_retain(0x4000)),
    ];
    for (name, flags) in modes {
        for (offset, len) in
            [(0, 4096), (4096, 4096), (100, 10_000), (65_536, 4096), (60_000, 10_000), (100_000, 1)]
        {
            g.part(format!("{name} {offset} {len}"));
            let fd = filled("f");
            see!(g, fallocate(&fd, flags, offset, len));
            see!(g, (look_fd(&fd), sum(&fd)));
            see!(g, put(&fd, offset, "after"), "5");
            see!(g, sum(&fd));
        }
        g.part(name);
        let fd = filled("f");
        see!(g, fallocate(&fd, flags, 0, 0), "EINVAL");
        see!(g, fallocate(&fd, flags, 1 << 62, 1 << 62));
        see!(g, fallocate(&fd, flags, 1 << 63, 1));
        see!(g, fallocate(open("f", RD).unwrap(), flags, 0, 1));
        see!(g, fallocate(open("f", WR | APPEND).unwrap(), flags, 0, 1));
        see!(g, fallocate(open(".", RD | DIR).unwrap(), flags, 0, 1));
    }
}

/// Both move what follows, which a file of sealed blocks could not do anyway.
fn moved(g: &mut Stage) {
    for (name, flags) in
        [("collapse", FallocateFlags::COLLAPSE_RANGE), ("insert", FallocateFlags::INSERT_RANGE)]
    {
        g.part(name);
        let fd = filled("f");
        see!(g, fallocate(&fd, flags, 4096, 4096));
        see!(g, fallocate(&fd, flags, 100, 4096));
        see!(g, fallocate(&fd, flags, 0, 0), "EINVAL");
        see!(g, fallocate(get!(g, open("f", RD)), flags, 0, 4096), "EBADF");
    }
}

fn holes(g: &mut Stage) {
    let fd = get!(g, open("f", RDWR | CREATE));
    let data = |from| seek(&fd, SeekFrom::Data(from));
    let hole = |from| seek(&fd, SeekFrom::Hole(from));
    see!(g, (data(0), hole(0)), "ENXIO ENXIO");
    see!(g, put(&fd, 0, &"x".repeat(65_536)), "65536");
    see!(g, fsync(&fd), "ok");
    see!(g, (data(0), data(100), data(65_535)), "0 100 65535");
    see!(g, (hole(0), hole(65_535)), "65536 65536");
    see!(g, (data(65_536), hole(65_536)), "ENXIO ENXIO");
    see!(g, ftruncate(&fd, 16 << 20), "ok");
    see!(g, fsync(&fd), "ok");
    // How near the end of data they tell is theirs; what they tell has to be true.
    let start = hole(0).unwrap();
    see!(g, (65_536..=131_072).contains(&start), "true");
    see!(g, (data(start), data(8 << 20)), "ENXIO ENXIO");
    see!(g, hole(8 << 20), "8388608");
    see!(g, put(&fd, 10 << 20, "island"), "6");
    see!(g, fsync(&fd), "ok");
    let found = data(1 << 20).unwrap();
    see!(g, ((10 << 20) - 65_536..=10 << 20).contains(&found), "true");
    let end = hole(10 << 20).unwrap();
    see!(g, ((10 << 20) + 6..=(10 << 20) + 65_536).contains(&end), "true");
    see!(g, fallocate(&fd, FallocateFlags::PUNCH_HOLE | KEEP, 0, 65_536), "ok");
    see!(g, fsync(&fd), "ok");
    see!(g, hole(0), "0");
    see!(g, data(0).map(|found| found > 65_536), "true");
    see!(g, seek(&fd, SeekFrom::Current(0)).is_ok(), "true");
    see!(g, seek(&fd, SeekFrom::End(-6)), "16777210");
    see!(g, seek(&fd, SeekFrom::Start(5)), "5");
    see!(g, seek(&fd, SeekFrom::Current(-6)), "EINVAL");
    see!(g, seek(&fd, SeekFrom::Current(0)), "5");
    see!(g, seek(&fd, SeekFrom::Start(1 << 62)));
    see!(g, seek(&fd, SeekFrom::End(1 << 40)), "1099528404992");
    see!(g, fcntl(&fd, libc::F_GETFL, 0).is_ok(), "true");
    let dir = get!(g, open(".", RD | DIR));
    see!(g, seek(&dir, SeekFrom::Hole(0)).is_ok());
}

fn copies(g: &mut Stage) {
    let from = filled("from");
    let to = get!(g, open("to", RDWR | CREATE));
    let copy = |at: u64, there: u64, len: usize| {
        copy_file_range(&from, Some(&mut { at }), &to, Some(&mut { there }), len)
    };
    for (at, there, len) in [
        (0, 0, 65_536),
        (0, 0, 100_000),
        (100, 3, 5000),
        (65_000, 200_000, 5000),
        (65_536, 0, 1),
        (70_000, 0, 10),
        (0, 0, 0),
        (16_384, 16_384, 16_384),
        (1, 0, 65_535),
    ] {
        g.part(format!("{len} from {at} to {there}"));
        see!(g, copy(at, there, len));
        see!(g, (size("to"), sum(&to)));
    }
    g.part("in one file");
    let own = |at: u64, there: u64, len: usize| {
        copy_file_range(&from, Some(&mut { at }), &from, Some(&mut { there }), len)
    };
    see!(g, own(0, 100, 200), "EINVAL");
    see!(g, own(0, 0, 10), "EINVAL");
    see!(g, own(0, 65_536, 65_536), "65536");
    see!(g, own(10, 20, 10), "10");
    see!(g, sum(&from));
    g.part("by position");
    see!(g, seek(&from, SeekFrom::Start(10)), "10");
    see!(g, seek(&to, SeekFrom::Start(20)), "20");
    see!(g, copy_file_range(&from, None, &to, None, 30), "30");
    see!(g, (seek(&from, SeekFrom::Current(0)), seek(&to, SeekFrom::Current(0))), "40 50");
    see!(g, sum(&to));
    g.part("errors");
    let other = |from: &OwnedFd, to: &OwnedFd| copy_file_range(from, None, to, None, 10);
    let (reading, writing) = (get!(g, open("from", RD)), get!(g, open("to", WR)));
    let appending = get!(g, open("to", WR | APPEND));
    let dir = get!(g, open(".", RD | DIR));
    see!(g, other(&reading, &reading), "EBADF");
    see!(g, other(&writing, &to), "EBADF");
    see!(g, other(&reading, &appending), "EBADF");
    see!(g, other(&dir, &to), "EISDIR");
    see!(g, other(&reading, &dir), "EISDIR");
    let (pipe_out, pipe_in) = pipe().unwrap();
    see!(g, other(&pipe_out, &to), "EINVAL");
    g.part("sendfile");
    see!(g, ftruncate(&to, 0), "ok");
    see!(g, seek(&to, SeekFrom::Start(0)), "0");
    see!(g, sendfile(&to, &from, Some(&mut 100), 1000), "1000");
    see!(g, sum(&to));
    see!(g, sendfile(&pipe_in, &from, Some(&mut 5), 8), "8");
    see!(g, rustix::io::read(&pipe_out, &mut [0; 100]), "8");
    see!(g, sendfile(&appending, &from, None, 10), "EINVAL");
    g.part("splice");
    let none = SpliceFlags::empty();
    see!(g, splice(&from, Some(&mut 4), &pipe_in, None, 12, none), "12");
    see!(g, splice(&pipe_out, None, &to, Some(&mut 2), 100, none), "12");
    see!(g, sum(&to));
    see!(g, splice(&from, None, &to, None, 12, none), "EINVAL");
    see!(g, write(&pipe_in, "through a pipe"), "14");
    see!(g, splice(&pipe_out, None, &appending, None, 100, none), "EINVAL");
    see!(g, (size("to"), text_at(&to, 0, 20)));
    // Between two file systems, as between a mount and its machine.
    let elsewhere = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::empty()).unwrap();
    see!(g, sendfile(&elsewhere, &from, Some(&mut 0), 70_000), "70000");
    see!(g, sum(&elsewhere));
}

fn vectors(g: &mut Stage) {
    let fd = get!(g, open("f", RDWR | CREATE));
    let (one, two) = ([b'1'; 3000], [b'2'; 7000]);
    let both = [IoSlice::new(&one), IoSlice::new(b""), IoSlice::new(&two)];
    see!(g, pwritev(&fd, &both, 100), "10000");
    see!(g, sum(&fd));
    let (mut first, mut second) = ([0; 50], [0; 20_000]);
    let mut room = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    see!(g, preadv(&fd, &mut room, 80), "10020");
    see!(g, (digest(&first), digest(&second)));
    see!(g, seek(&fd, SeekFrom::Current(0)), "0");
    let mut room = [IoSliceMut::new(&mut first)];
    for (name, flags) in [
        ("none", ReadWriteFlags::empty()),
        ("nowait", ReadWriteFlags::NOWAIT),
        ("hipri", ReadWriteFlags::HIPRI),
        ("dsync", ReadWriteFlags::DSYNC),
        ("sync", ReadWriteFlags::SYNC),
        ("append", ReadWriteFlags::APPEND),
        ("unknown", ReadWriteFlags::from_bits_retain(1 << 20)),
    ] {
        g.part(name);
        see!(g, pwritev2(&fd, &[IoSlice::new(b"v")], 7, flags));
        see!(g, (size("f"), text_at(&fd, 6, 3)));
        see!(g, preadv2(&fd, &mut room, 100, flags));
    }
    g.part("ends");
    see!(g, pwritev(&fd, &[IoSlice::new(b"x")], 1 << 63), "EINVAL");
    see!(g, put(&fd, (1 << 62) + 1, "x"), "EFBIG");
    see!(g, text_at(&fd, 1 << 62, 10), "");
    see!(g, text_at(&fd, 1 << 63, 10), "EINVAL");
    see!(g, ftruncate(&fd, 1 << 62), "EFBIG");
    see!(g, size("f"));
    let dir = get!(g, open(".", RD | DIR));
    see!(g, text_at(&dir, 0, 10), "EISDIR");
    see!(g, put(&dir, 0, "x"), "EBADF");
    let sync = get!(g, open("f", RDWR | OFlags::SYNC));
    see!(g, put(&sync, 0, "synced"), "6");
    see!(g, put(&get!(g, open("f", RDWR | OFlags::DSYNC)), 0, "SYNCED"), "6");
    see!(g, text_at(&sync, 0, 6), "SYNCED");
    see!(g, open("f", RDWR | OFlags::from_bits_retain(0o20000)).map(drop));
    see!(g, open_mode("x", RDWR | CREATE | DIR, 0o644).map(drop));
    see!(g, open("f", OFlags::from_bits_retain(3)).map(drop));
}

#[test]
fn space_is_reserved_zeroed_and_given_back_as_on_ext4() {
    twins(allocated, &[]);
}

#[test]
fn nothing_that_follows_is_moved() {
    let why = "the kernel's FUSE refuses these modes itself";
    let both = ["collapse", "insert"].into_iter().flat_map(|name| {
        let call = |offset| format!("{name}: fallocate(&fd, flags, {offset}, 4096)");
        [
            known(call("4096"), "ok", "EOPNOTSUPP", why),
            known(call("100"), "EINVAL", "EOPNOTSUPP", why),
        ]
    });
    twins(moved, &both.collect::<Vec<_>>());
}

/// Where no file of ext4 has a byte.
fn far_out() -> Known {
    let why = "the kernel's FUSE knows no limit, and has the store refuse a write there";
    known("seek(&fd, SeekFrom::Start(1 << 62))", "EINVAL", "4611686018427387904", why)
}

#[test]
fn holes_are_found_where_they_are() {
    twins(holes, &[far_out()]);
}

#[test]
fn the_kernel_copies_what_it_would_on_ext4() {
    twins(copies, &[]);
}

#[test]
fn vectors_and_flags_of_one_call_mean_what_they_do_on_ext4() {
    let why = "the kernel's FUSE cannot tell whether it would wait";
    let nowait = "nowait: preadv2(&fd, &mut room, 100, flags)";
    twins(vectors, &[known(nowait, "50", "EOPNOTSUPP", why)]);
}

#[test]
fn no_holes_are_told_in_what_the_kernel_keeps_back() {
    let why = "what the kernel has not sent yet may lie in any hole, so that none is told";
    let near = "((10 << 20) - 65_536..=10 << 20).contains(&found)";
    let end = "((10 << 20) + 6..=(10 << 20) + 65_536).contains(&end)";
    let all = [
        known("(65_536..=131_072).contains(&start)", "true", "false", why),
        known("(data(start), data(8 << 20))", "ENXIO ENXIO", "ENXIO 8388608", why),
        known("hole(8 << 20)", "8388608", "16777216", why),
        known(near, "true", "false", why),
        known(end, "true", "false", why),
        known("hole(0)", "0", "16777216", why),
        known("data(0).map(|found| found > 65_536)", "true", "false", why),
        far_out(),
    ];
    twins_written_back(holes, &all);
}
