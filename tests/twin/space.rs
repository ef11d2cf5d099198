//! Space: what statfs(2), stat(2) and du(1) say of it.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, StatVfs, fallocate, fsync, ftruncate, statvfs, syncfs, unlink};
use rustix::io::Result;

use crate::calls::*;
use crate::stage::{Stage, twins, twins_alone};

const LEN: u64 = 50 << 20;

fn free(seen: &StatVfs) -> u64 {
    seen.f_bfree * seen.f_frsize
}

/// Whether it is so soon: the disk below gives space back when its journal says so.
fn soon(is_so: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        if Instant::now() > end {
            return false;
        }
        syncfs(open(".", RD | DIR).unwrap()).unwrap();
    }
    true
}

/// Whether a number is another one, but for a hundredth and a bit.
fn about(number: u64, wanted: u64) -> bool {
    number.abs_diff(wanted) <= wanted / 100 + (64 << 10)
}

fn adds_up(g: &mut Stage) {
    let now = || statvfs(".").unwrap();
    syncfs(get!(g, open(".", RD | DIR))).unwrap();
    let before = now();
    see!(g, (before.f_namemax, before.f_bavail <= before.f_bfree), "255 true");
    see!(g, (before.f_bfree < before.f_blocks, before.f_ffree < before.f_files), "true true");
    let fd = get!(g, open("f", RDWR | CREATE));
    let part = "p".repeat(1 << 20);
    (0..50).for_each(|index| assert_eq!(put(&fd, index << 20, &part), Ok(1 << 20)));
    see!(g, fsync(&fd), "ok");
    let full = now();
    see!(g, about(free(&before) - free(&full), LEN), "true");
    see!(g, (full.f_blocks == before.f_blocks, full.f_files == before.f_files), "true true");
    see!(g, before.f_ffree - full.f_ffree, "1");
    see!(g, unlink("f"), "ok");
    see!(g, about(free(&before) - free(&now()), LEN), "true");
    drop(fd);
    see!(g, soon(|| about(free(&now()), free(&before))), "true");
    see!(g, soon(|| now().f_ffree == before.f_ffree), "true");
    g.part("names");
    mkdir("d", 0o755).unwrap();
    (0..99).for_each(|index| make(&format!("d/{index}"), "").unwrap());
    let named = before.f_ffree - now().f_ffree;
    // A directory of ours has a file of its own.
    see!(g, (100..=101).contains(&named), "true");
    std::fs::remove_dir_all("d").unwrap();
    see!(g, soon(|| now().f_ffree == before.f_ffree), "true");
    g.part("cut");
    let fd = get!(g, open("f", RDWR | CREATE));
    (0..50).for_each(|index| assert_eq!(put(&fd, index << 20, &part), Ok(1 << 20)));
    see!(g, fsync(&fd), "ok");
    see!(g, ftruncate(&fd, LEN / 2), "ok");
    see!(g, soon(|| about(free(&before) - free(&now()), LEN / 2)), "true");
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    see!(g, fallocate(&fd, hole, 0, LEN / 4), "ok");
    see!(g, soon(|| about(free(&before) - free(&now()), LEN / 4)), "true");
    see!(g, fallocate(&fd, FallocateFlags::empty(), 0, LEN), "ok");
    see!(g, soon(|| about(free(&before) - free(&now()), LEN)), "true");
    g.part("seen by descriptor and by another user");
    let seen = rustix::fs::fstatvfs(&fd).unwrap();
    see!(g, (seen.f_blocks == before.f_blocks, seen.f_namemax), "true 255");
    let seen = as_user(ANN, &[], now);
    see!(g, (seen.f_blocks == before.f_blocks, seen.f_bavail <= seen.f_bfree), "true true");
}

fn taken(path: &str) -> Result<u64> {
    Ok(rustix::fs::lstat(path)?.st_blocks as u64 * 512)
}

fn of_files(g: &mut Stage) {
    let du = |path: &str| {
        let output = Command::new("du").args(["-s", "-B1", path]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    for len in [1 << 20, 5 << 20, 1_000_003] {
        g.part(format!("{len} bytes"));
        let fd = get!(g, open("f", RDWR | CREATE | TRUNC));
        put(&fd, 0, &"x".repeat(len)).unwrap();
        fsync(&fd).unwrap();
        see!(g, about(taken("f").unwrap(), len as u64), "true");
        see!(g, about(du("f"), len as u64), "true");
        see!(g, size("f").map(|size| size as usize == len), "true");
    }
    g.part("sparse");
    let fd = get!(g, open("s", RDWR | CREATE));
    see!(g, ftruncate(&fd, 1 << 30), "ok");
    see!(g, taken("s").map(|taken| taken < 64 << 10), "true");
    put(&fd, 500 << 20, "in the middle").unwrap();
    see!(g, fsync(&fd), "ok");
    see!(g, taken("s").map(|taken| taken > 0 && taken < 256 << 10), "true");
    see!(g, (size("s"), du("s") < 256 << 10), "1073741824 true");
    see!(g, fallocate(&fd, FallocateFlags::KEEP_SIZE, 0, 4 << 20), "ok");
    see!(g, taken("s").map(|taken| about(taken, 4 << 20)), "true");
    see!(g, size("s"), "1073741824");
    g.part("none");
    see!(g, make("empty", ""), "ok");
    see!(g, size("empty"), "0");
    see!(g, rustix::fs::symlink("x", "link"), "ok");
    see!(g, taken("link"));
    see!(g, mknod("fifo", rustix::fs::FileType::Fifo, 0o644, 0), "ok");
    see!(g, taken("fifo"), "0");
    see!(g, rustix::fs::lstat("s").map(|stat| stat.st_blksize >= 4096), "true");
    g.part("counted twice by nobody");
    see!(g, mkdir("d", 0o755), "ok");
    let fd = get!(g, open("d/f", RDWR | CREATE));
    put(&fd, 0, &"x".repeat(1 << 20)).unwrap();
    fsync(&fd).unwrap();
    (0..5).for_each(|index| rustix::fs::link("d/f", format!("d/{index}")).unwrap());
    see!(g, about(du("d"), 1 << 20), "true");
}

#[test]
fn free_space_goes_and_comes_back() {
    twins_alone(adds_up, &[]);
}

#[test]
fn files_take_about_their_size() {
    twins(of_files, &[]);
}
