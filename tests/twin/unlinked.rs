//! Files and directories that are open and have no name any more, and such as never had one.

use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, OFlags, SeekFrom, StatxFlags,
    Timestamps, XattrFlags, fallocate, fchmod, fchown, fdatasync, flock, fsync, ftruncate,
    futimens, link, linkat, mkdirat, rename, rmdir, seek, symlink, unlink,
};
use rustix::io::Result;

use crate::calls::*;
use crate::shown::digest;
use crate::stage::{Stage, known, twins};

fn times_of(fd: &OwnedFd) -> Result<(i64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_atime, stat.st_mtime_nsec))
}

fn names_on(fd: &OwnedFd) -> Result<Vec<String>> {
    let mut names = [0; 4096];
    let len = rustix::fs::flistxattr(fd, &mut names[..])?;
    Ok(names_in(&names[..len]))
}

fn value_on(fd: &OwnedFd, name: &str) -> Result<String> {
    let mut value = [0; 4096];
    let len = rustix::fs::fgetxattr(fd, name, &mut value[..])?;
    Ok(printable(&value[..len]))
}

/// All that can be done with a descriptor, whatever names its file has.
fn use_all_ways(g: &mut Stage, fd: &OwnedFd) {
    see!(g, text_of(fd));
    see!(g, put(fd, 7, " and more"), "9");
    see!(g, text_of(fd), "content and more");
    see!(g, ftruncate(fd, 3), "ok");
    see!(g, look_fd(fd));
    see!(g, ftruncate(fd, 10), "ok");
    see!(g, text_of(fd), r"con\x00\x00\x00\x00\x00\x00\x00");
    see!(g, fchmod(fd, mode(0o640)), "ok");
    see!(g, fchown(fd, owner(ANN).0, owner(BOB).1), "ok");
    see!(g, look_fd(fd));
    let times = Timestamps { last_access: at(-5, 1), last_modification: at(1, 123_456_789) };
    see!(g, futimens(fd, &times), "ok");
    see!(g, times_of(fd), "-5 123456789");
    see!(g, rustix::fs::fsetxattr(fd, "user.a", b"one", XattrFlags::empty()), "ok");
    see!(g, rustix::fs::fsetxattr(fd, "user.a", b"two", XattrFlags::CREATE), "EEXIST");
    see!(g, rustix::fs::fsetxattr(fd, "user.b", b"two", XattrFlags::REPLACE), "ENODATA");
    see!(g, rustix::fs::fsetxattr(fd, "user.b", b"", XattrFlags::CREATE), "ok");
    see!(g, value_on(fd, "user.a"), "one");
    see!(g, value_on(fd, "user.none"), "ENODATA");
    see!(g, names_on(fd), "user.a user.b");
    see!(g, rustix::fs::fremovexattr(fd, "user.a"), "ok");
    see!(g, names_on(fd), "user.b");
    see!(g, fsync(fd), "ok");
    see!(g, fdatasync(fd), "ok");
    see!(g, fallocate(fd, FallocateFlags::empty(), 0, 100_000), "ok");
    see!(g, fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 2), "ok");
    see!(g, look_fd(fd));
    see!(g, seek(fd, SeekFrom::End(-1)), "99999");
    see!(g, flock(fd, FlockOperation::NonBlockingLockExclusive), "ok");
    see!(g, ftruncate(fd, 5), "ok");
}

/// The same through the link that /proc has for each descriptor.
fn use_by_link(g: &mut Stage, fd: &OwnedFd) {
    let path = link_of(fd);
    see!(g, cat(&path), r"\x00\x00n\x00\x00");
    {
        let again = get!(g, open(&path, RDWR));
        see!(g, put(&again, 0, "again"), "5");
        see!(g, text_of(fd), "again");
        see!(g, look_fd(&again));
        see!(g, fsync(&again), "ok");
    }
    {
        let appending = get!(g, open(&path, WR | APPEND));
        see!(g, write(&appending, " and on"), "7");
        see!(g, text_of(fd), "again and on");
    }
    see!(g, open(&path, WR | TRUNC), "ok");
    see!(g, look_fd(fd));
    see!(g, open(&path, RD | CREATE | EXCL), "EEXIST");
    see!(g, open(&path, RD | DIR), "ENOTDIR");
    see!(g, chmod(&path, 0o600), "ok");
    see!(g, rustix::fs::chown(&path, owner(0).0, owner(0).1), "ok");
    see!(g, rustix::fs::setxattr(&path, "user.c", b"three", XattrFlags::empty()), "ok");
    see!(g, names_on(fd), "user.b user.c");
    see!(g, look_fd(fd), "file 0600 0:0 n0 s0");
    let map = {
        see!(g, ftruncate(fd, 8192), "ok");
        get!(g, Map::shared(fd, 8192))
    };
    map.set(4096, "mapped");
    see!(g, map.sync(libc::MS_SYNC), "ok");
    see!(g, text_at(fd, 4096, 6), "mapped");
    see!(g, bytes_of(fd).map(|bytes| digest(&bytes)));
    see!(g, as_user(ANN, &[], || open(&link_of(fd), RD)), "EACCES");
    let follow = AtFlags::SYMLINK_FOLLOW;
    see!(g, linkat(CWD, &path, CWD, "back", follow), "ENOENT");
    see!(g, linkat(fd, "", CWD, "back", AtFlags::EMPTY_PATH), "ENOENT");
    see!(g, ls("."));
}

fn files(g: &mut Stage) {
    for how in ["unlinked", "renamed over", "unlinked with its directory"] {
        g.part(how);
        see!(g, mkdir("d", 0o755), "ok");
        see!(g, make("d/f", "content"), "ok");
        see!(g, make("other", "other"), "ok");
        let fd = get!(g, open("d/f", RDWR));
        let second = get!(g, open("other", RD));
        see!(g, unlink("other"), "ok");
        match how {
            "renamed over" => {
                see!(g, make("new", "new"), "ok");
                see!(g, rename("new", "d/f"), "ok");
            }
            _ => see!(g, unlink("d/f"), "ok"),
        }
        if how == "unlinked with its directory" {
            see!(g, rmdir("d"), "ok");
        }
        see!(g, look_fd(&fd), "file 0644 0:0 n0 s7");
        use_all_ways(g, &fd);
        use_by_link(g, &fd);
        see!(g, text_of(&second), "other");
        if how != "unlinked with its directory" {
            see!(g, make("d/f", "a new one"), "ok");
            see!(g, look_fd(&fd), "file 0600 0:0 n0 s8192");
            see!(g, cat("d/f"), "a new one");
            see!(g, unlink("d/f"), "ok");
            see!(g, rmdir("d"), "ok");
        }
    }
}

/// Who opened it for reading only may find, by /proc, that writing is allowed.
fn reopened(g: &mut Stage) {
    see!(g, make("f", "content"), "ok");
    let reading = get!(g, open("f", RD));
    see!(g, unlink("f"), "ok");
    see!(g, put(&reading, 0, "x"), "EBADF");
    see!(g, ftruncate(&reading, 0), "EINVAL");
    let writing = get!(g, open(&link_of(&reading), WR));
    see!(g, text_of(&writing), "EBADF");
    see!(g, put(&writing, 7, "!"), "1");
    see!(g, text_of(&reading), "content!");
    drop(reading);
    let third = get!(g, open(&link_of(&writing), RD));
    drop(writing);
    see!(g, text_of(&third), "content!");
    g.part("by O_PATH");
    let path = get!(g, open(&link_of(&third), PATH));
    drop(third);
    see!(g, look_fd(&path), "file 0644 0:0 n0 s8");
    see!(g, text_of(&path), "EBADF");
    see!(g, fchmod(&path, mode(0o600)), "EBADF");
    see!(g, fsync(&path), "EBADF");
    see!(g, chmod(&link_of(&path), 0o600), "ok");
    see!(g, cat(&link_of(&path)), "content!");
    let last = get!(g, open(&link_of(&path), RDWR));
    see!(g, put(&last, 0, "C"), "1");
    see!(g, cat(&link_of(&path)), "Content!");
    let many: Vec<_> = (0..100)
        .map(|index| {
            let name = format!("many{index}");
            make(&name, &name).unwrap();
            let fd = open(&name, RDWR).unwrap();
            unlink(&name).unwrap();
            fd
        })
        .collect();
    let right = |(index, fd): (usize, &OwnedFd)| text_of(fd).unwrap() == format!("many{index}");
    see!(g, many.iter().enumerate().all(right), "true");
}

/// What is no file and no directory, held by O_PATH.
fn held(g: &mut Stage) {
    for name in ["link", "fifo", "socket"] {
        g.part(name);
        match name {
            "link" => see!(g, symlink("to nowhere", name), "ok"),
            "fifo" => see!(g, mknod(name, FileType::Fifo, 0o640, 0), "ok"),
            _ => see!(g, mknod(name, FileType::Socket, 0o640, 0), "ok"),
        }
        let fd = get!(g, open(name, PATH | OFlags::NOFOLLOW));
        see!(g, unlink(name), "ok");
        see!(g, look_fd(&fd));
        let target = rustix::fs::readlinkat(&fd, "", vec![]);
        see!(g, target.map(|text| text.to_string_lossy().into_owned()));
        let (uid, gid) = owner(ANN);
        see!(g, rustix::fs::chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH), "ok");
        see!(g, look_fd(&fd));
        see!(g, linkat(&fd, "", CWD, "back", AtFlags::EMPTY_PATH), "ENOENT");
    }
}

fn directories(g: &mut Stage) {
    see!(g, mkdir("d", 0o755), "ok");
    let fd = get!(g, open("d", RD | DIR));
    let path = get!(g, open("d", PATH));
    rustix::process::chdir("d").unwrap();
    see!(g, rmdir("../d"), "ok");
    see!(g, look("."), "dir 0755 0:0 n0 s0");
    see!(g, look_fd(&path), "dir 0755 0:0 n0 s0");
    see!(g, open("x", WR | CREATE), "ENOENT");
    see!(g, open("x", RD), "ENOENT");
    see!(g, mkdir("x", 0o755), "ENOENT");
    see!(g, mkdirat(&fd, "x", mode(0o755)), "ENOENT");
    see!(g, symlink("y", "x"), "ENOENT");
    see!(g, mknod("x", FileType::Fifo, 0o644, 0), "ENOENT");
    see!(g, make("../f", "content"), "ok");
    see!(g, link("../f", "x"), "ENOENT");
    see!(g, rename("../f", "x"), "ENOENT");
    see!(g, rmdir("."), "EINVAL");
    see!(g, unlink("x"), "ENOENT");
    see!(g, entries(&fd).map(|found| found.len()));
    see!(g, ls("."));
    see!(g, rustix::process::getcwd(vec![]).map(|_| ()), "ENOENT");
    see!(g, chmod(".", 0o700), "ok");
    see!(g, chown(".", ANN), "ok");
    see!(g, utimes(".", at(1, 0), at(2, 5)), "ok");
    see!(g, times_of(&fd), "1 5");
    see!(g, look_fd(&fd), "dir 0700 1001:1001 n0 s0");
    see!(g, setx(".", "user.a", b"one"), "ok");
    see!(g, value_on(&fd, "user.a"), "one");
    see!(g, names_on(&fd), "user.a");
    see!(g, fsync(&fd), "ok");
    see!(g, open(".", RD | DIR), "ok");
    see!(g, cat("../f"), "content");
    see!(g, same("..", g.dir.to_str().unwrap()), "true");
    see!(g, mkdir("../d", 0o711), "ok");
    see!(g, same(".", "../d"), "false");
    see!(g, open("x", WR | CREATE), "ENOENT");
    g.part("replaced by rename");
    rustix::process::chdir("../d").unwrap();
    see!(g, mkdir("../e", 0o755), "ok");
    see!(g, make("../e/inside", "content"), "ok");
    see!(g, rename("../e", "../d"), "ok");
    see!(g, open("inside", RD), "ENOENT");
    see!(g, mkdir("x", 0o755), "ENOENT");
    see!(g, cat("../d/inside"), "content");
    see!(g, look("."), "dir 0711 0:0 n0 s0");
}

fn without_a_name(g: &mut Stage) {
    see!(g, open(".", RDWR | OFlags::TMPFILE).map(drop));
    see!(g, make("f", "x"), "ok");
    let found = rustix::fs::statx(CWD, "f", AtFlags::empty(), StatxFlags::ALL).unwrap();
    let has = |flag: StatxFlags| found.stx_mask & flag.bits() != 0;
    see!(g, has(StatxFlags::BASIC_STATS), "true");
    see!(g, has(StatxFlags::BTIME), "true");
}

#[test]
fn files_are_used_in_all_ways_after_their_last_name_is_gone() {
    twins(files, &[]);
}

#[test]
fn files_without_a_name_are_opened_again_through_proc() {
    twins(reopened, &[]);
}

#[test]
fn links_fifos_and_sockets_are_held_after_their_last_name_is_gone() {
    twins(held, &[]);
}

#[test]
fn removed_directories_stay_what_those_in_them_know() {
    twins(directories, &[]);
}

#[test]
fn what_the_binding_does_not_pass_on_is_refused() {
    let why = "fuser 0.18 has no such request";
    let unnamed = known("open(\".\", RDWR | OFlags::TMPFILE).map(drop)", "ok", "EOPNOTSUPP", why);
    let birth = known("has(StatxFlags::BTIME)", "true", "false", why);
    twins(without_a_name, &[unnamed, birth]);
}
