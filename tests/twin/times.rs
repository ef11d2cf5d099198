//! Which times change by what, and which values they can have.

use std::os::fd::AsFd;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, OFlags, Stat, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, fallocate, ftruncate, link, lstat, rename, rmdir, symlink, unlink, utimensat,
};
use rustix::io::Result;
use rustix::time::{ClockId, clock_gettime};

use crate::calls::*;
use crate::shown::Shown;
use crate::stage::{Known, Stage, known, twins, twins_written_back_in_time};

fn times(stat: &Stat) -> [(i64, i64); 3] {
    let nanoseconds = |ns: u64| i64::try_from(ns).unwrap();
    [
        (stat.st_atime, nanoseconds(stat.st_atime_nsec)),
        (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
        (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
    ]
}

/// Waits until a new time is later than any so far: the clock that files are stamped by lags behind
/// the one that some of their times are of, on a virtual machine by more than its tick.
fn tick() {
    let now = |clock| {
        let now = clock_gettime(clock);
        (now.tv_sec, now.tv_nsec)
    };
    let start = now(ClockId::Realtime);
    while now(ClockId::RealtimeCoarse) <= start {
        std::hint::spin_loop();
    }
}

/// Whether a time is the other one, or less than a second before it.
fn near(time: (i64, i64), later: (i64, i64)) -> bool {
    let passed = (later.0 - time.0) * 1_000_000_000 + later.1 - time.1;
    (0..1_000_000_000).contains(&passed)
}

/// Which of the times of these paths change by it: `a`, `m` and `c`.
fn changed<T: Shown>(paths: &[&str], work: impl FnOnce() -> T) -> String {
    let before: Vec<_> = paths.iter().map(|path| times(&lstat(*path).unwrap())).collect();
    tick();
    let done = work().shown();
    let seen = |(path, before): (&&str, &[(i64, i64); 3])| {
        let Ok(now) = lstat(*path) else { return format!("{path} gone") };
        let now = times(&now);
        let letter = |(index, letter)| if now[index] == before[index] { "" } else { letter };
        let letters = [(0, "a"), (1, "m"), (2, "c")].map(letter).concat();
        // What changed is now newer, and what changed together is about one time: POSIX wants
        // no more, and a block is sealed between the two.
        let together = near(now[1], now[2]) || !letters.ends_with("mc");
        let newer = (0..3).all(|index| now[index] >= before[index]);
        format!("{path} {letters}{}", if together && newer { "" } else { " apart" })
    };
    let seen: Vec<_> = paths.iter().zip(&before).map(seen).collect();
    format!("{done}: {}", seen.join(", "))
}

/// So old that reading counts.
fn age(path: &str) {
    utimes(path, at(1000, 0), at(2000, 0)).unwrap();
}

fn of_files(g: &mut Stage) {
    make("f", "content").unwrap();
    let fd = open("f", RDWR).unwrap();
    let mut here = |what: &str, work: &dyn Fn() -> Result<()>| {
        age("f");
        let seen = changed(&["f"], work);
        g.saw(what, &seen, None);
    };
    here("opened", &|| open("f", RDWR).map(drop));
    here("read", &|| cat("f").map(drop));
    here("read nothing", &|| text_at(&fd, 0, 0).map(drop));
    here("read beyond", &|| text_at(&fd, 1000, 10).map(drop));
    here("written", &|| put(&fd, 0, "x").map(drop));
    here("written nothing", &|| put(&fd, 0, "").map(drop));
    here("appended", &|| write(&open("f", WR | APPEND)?, "x").map(drop));
    here("cut", &|| ftruncate(&fd, 3));
    here("cut to the same", &|| ftruncate(&fd, 3));
    here("cut to the same by path", &|| truncate("f", 3));
    here("grown", &|| ftruncate(&fd, 100));
    here("opened to truncate", &|| open("f", WR | TRUNC).map(drop));
    here("truncated while empty", &|| open("f", WR | TRUNC).map(drop));
    here("opened to create", &|| open("f", WR | CREATE).map(drop));
    here("allocated", &|| fallocate(&fd, FallocateFlags::empty(), 0, 1000));
    here("allocated beyond", &|| fallocate(&fd, FallocateFlags::KEEP_SIZE, 5000, 1000));
    here("punched", &|| {
        fallocate(&fd, FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE, 0, 100)
    });
    here("chmod", &|| chmod("f", 0o600));
    here("chmod to the same", &|| chmod("f", 0o600));
    here("chown", &|| chown("f", ANN));
    here("chown to the same", &|| chown("f", ANN));
    here("chown to nobody", &|| chown_both("f", None, None));
    here("linked", &|| link("f", "g"));
    here("unlinked", &|| unlink("g"));
    here("renamed", &|| rename("f", "g").and_then(|()| rename("g", "f")));
    here("an attribute", &|| setx("f", "user.a", b"x"));
    here("an attribute read", &|| getx("f", "user.a").map(drop));
    here("no attribute", &|| rustix::fs::removexattr("f", "user.a"));
    here("looked at", &|| look("f").map(drop));
    here("synced", &|| rustix::fs::fsync(&fd));
    here("locked", &|| rustix::fs::flock(&fd, rustix::fs::FlockOperation::LockExclusive));
    here("without atime", &|| text_of(&open("f", RD | OFlags::NOATIME)?).map(drop));
    here("mapped and written", &|| {
        let map = Map::shared(&fd, 1)?;
        map.set(0, "m");
        map.sync(libc::MS_SYNC)
    });
    here("copied from", &|| {
        let to = open("to", WR | CREATE)?;
        rustix::fs::copy_file_range(&fd, Some(&mut 0), to, None, 5).map(drop)
    });
    here("copied to", &|| {
        let from = open("to", RD)?;
        rustix::fs::copy_file_range(from, None, &fd, Some(&mut 0), 5).map(drop)
    });
    here("sent", &|| {
        let to = open("to", WR)?;
        rustix::fs::sendfile(to, &fd, Some(&mut 0), 5).map(drop)
    });
    here("overwritten by rename", &|| {
        make("new", "n")?;
        link("f", "kept")?;
        rename("new", "f")?;
        unlink("f")?;
        rename("kept", "f")
    });
    see!(g, look("f").is_ok(), "true");
}

fn of_directories(g: &mut Stage) {
    mkdir("d", 0o755).unwrap();
    mkdir("e", 0o755).unwrap();
    let mut here = |what: &str, work: &dyn Fn() -> Result<()>| {
        age("d");
        age("e");
        let seen = changed(&["d", "e"], work);
        g.saw(what, &seen, None);
    };
    here("a file made", &|| make("d/f", "x"));
    here("a file written", &|| make("d/f", "y"));
    here("a file opened", &|| cat("d/f").map(drop));
    here("a file's mode", &|| chmod("d/f", 0o600));
    here("listed", &|| ls("d").map(drop));
    here("opened", &|| open("d", RD | DIR).map(drop));
    here("searched", &|| look("d/none").map(drop).or(Ok(())));
    here("a link made", &|| link("d/f", "e/g"));
    here("renamed in it", &|| rename("d/f", "d/h"));
    here("moved", &|| rename("d/h", "e/h"));
    here("a rename to the same file", &|| rename("e/h", "e/g"));
    here("a file removed", &|| unlink("e/h"));
    here("a directory made", &|| mkdir("d/sub", 0o755));
    here("a directory moved", &|| rename("d/sub", "e/sub"));
    here("a directory removed", &|| rmdir("e/sub"));
    here("a symbolic link made", &|| symlink("x", "d/l"));
    here("a fifo made", &|| mknod("d/p", FileType::Fifo, 0o644, 0));
    here("exchanged", &|| rename_how("d/l", "e/g", rustix::fs::RenameFlags::EXCHANGE));
    here("replaced", &|| rename("d/l", "e/g"));
    here("failed to make", &|| mkdir("e/g", 0o755).or(Ok(())));
    here("failed to remove", &|| rmdir("d").or(Ok(())));
    here("chmod", &|| chmod("d", 0o700));
    here("moved itself", &|| rename("d", "x").and_then(|()| rename("x", "d")));
    here("an attribute", &|| setx("d", "user.a", b"x"));
    here("a list", &|| {
        let list = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\
            \x04\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
        setx("d", "system.posix_acl_access", list)
    });
    symlink("d", "l").unwrap();
    mknod("p", FileType::Fifo, 0o644, 0).unwrap();
    utimes("l", at(1000, 0), at(2000, 0)).unwrap();
    utimes("p", at(1000, 0), at(2000, 0)).unwrap();
    see!(g, changed(&["l", "d"], || look("l/x")));
    see!(g, changed(&["l"], || chown("l", ANN)));
    see!(g, changed(&["p"], || chmod("p", 0o600)));
    see!(g, changed(&["p"], || open("p", RDWR).and_then(|fd| write(&fd, "x").and(Ok(())))));
    g.part("of what is new");
    tick();
    for (name, make_it) in [
        ("file", (|| make("n", "")) as fn() -> Result<()>),
        ("dir", || mkdir("n", 0o755)),
        ("link", || symlink("x", "n")),
        ("fifo", || mknod("n", FileType::Fifo, 0o644, 0)),
    ] {
        tick();
        make_it().unwrap();
        let [atime, mtime, ctime] = times(&lstat("n").unwrap());
        see!(g, (name, near(atime, mtime) && near(mtime, ctime)), &format!("{name} true"));
        whatever(rmdir("n"));
        whatever(unlink("n"));
    }
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
const OMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };

fn told(path: &str) -> (String, String) {
    let [atime, mtime, _] = times(&lstat(path).unwrap());
    (format!("{atime:?}"), format!("{mtime:?}"))
}

fn values(g: &mut Stage) {
    make("f", "content").unwrap();
    symlink("f", "l").unwrap();
    mkdir("d", 0o755).unwrap();
    mknod("p", FileType::Fifo, 0o644, 0).unwrap();
    for path in ["f", "l", "d", "p"] {
        for s in [0, 1, -1, -2_000_000_000, 1 << 31, 2_300_000_000, 4_102_444_800, 1 << 33, 1 << 35]
        {
            for ns in [0, 1, 999_999_999] {
                g.part(format!("{path} at {s}.{ns}"));
                see!(g, utimes(path, at(s, ns), at(s + 1, 1)));
                see!(g, told(path));
            }
        }
    }
    g.part("far off");
    for s in [1 << 40, -(1 << 40), i64::MAX, i64::MIN] {
        see!(g, (utimes("f", at(s, 0), at(5, 0)), told("f")));
    }
    g.part("special");
    age("f");
    see!(g, changed(&["f"], || utimes("f", OMIT, OMIT)), "ok: f ");
    see!(g, changed(&["f"], || utimes("f", NOW, OMIT)));
    age("f");
    see!(g, changed(&["f"], || utimes("f", OMIT, NOW)));
    age("f");
    see!(g, changed(&["f"], || utimes("f", NOW, NOW)));
    see!(g, changed(&["f"], || utimes("f", at(7, 7), OMIT)));
    see!(g, told("f").0, "(7, 7)");
    see!(g, changed(&["f"], || utimes("f", NOW, at(8, 8))));
    see!(g, told("f").1, "(8, 8)");
    see!(g, utimes("f", Timespec { tv_sec: 1, tv_nsec: 1_000_000_000 }, at(1, 0)), "EINVAL");
    see!(g, utimes("f", Timespec { tv_sec: 1, tv_nsec: -1 }, at(1, 0)), "EINVAL");
    see!(g, utimes("none", at(1, 0), at(1, 0)), "ENOENT");
    see!(g, utimes("f/x", at(1, 0), at(1, 0)), "ENOTDIR");
    let both = Timestamps { last_access: at(11, 1), last_modification: at(12, 2) };
    see!(g, utimensat(CWD, "l", &both, AtFlags::empty()), "ok");
    see!(g, told("f"), "(11, 1) (12, 2)");
    g.part("written after");
    let fd = open("f", RDWR).unwrap();
    see!(g, put(&fd, 0, "dirty"), "5");
    see!(g, rustix::fs::futimens(&fd, &both), "ok");
    see!(g, told("f"), "(11, 1) (12, 2)");
    see!(g, rustix::fs::fsync(&fd), "ok");
    drop(fd);
    see!(g, told("f"), "(11, 1) (12, 2)");
    let reading = open("f", RD).unwrap();
    see!(g, rustix::fs::futimens(reading.as_fd(), &both), "ok");
    let path = open("f", PATH).unwrap();
    see!(g, rustix::fs::futimens(&path, &both), "EBADF");
}

fn permissions(g: &mut Stage) {
    make("f", "content").unwrap();
    chown("f", ANN).unwrap();
    let ways = [
        ("now", NOW, NOW),
        ("then", at(1, 0), at(2, 0)),
        ("one now", NOW, OMIT),
        ("neither", OMIT, OMIT),
        ("one then", OMIT, at(5, 0)),
        ("now and then", NOW, at(5, 0)),
    ];
    for bits in [0o644, 0o666, 0o444, 0o600] {
        chmod("f", bits).unwrap();
        for (how, atime, mtime) in ways {
            for who in [0, ANN, BOB] {
                age("f");
                g.part(format!("{bits:o} {how} by {who}"));
                see!(g, changed(&["f"], || as_user(who, &[], || utimes("f", atime, mtime))));
            }
        }
    }
    g.part("");
    chmod("f", 0o666).unwrap();
    see!(g, as_user(BOB, &[], || utimes("f", at(1, 0), at(2, 0))), "EPERM");
    chmod("f", 0o644).unwrap();
    see!(g, as_user(BOB, &[], || utimes("f", NOW, NOW)), "EACCES");
    see!(g, as_user(BOB, &[], || open("f", RD | OFlags::NOATIME)), "EPERM");
    see!(g, as_user(ANN, &[], || open("f", RD | OFlags::NOATIME)), "ok");
}

/// What is read without the volume being asked.
fn unread() -> Vec<Known> {
    let why = "the kernel answers from memory, and its FUSE does not tell";
    let unread = ["read", "read beyond", "copied from", "sent"];
    let unread = unread.map(|call| known(call, "ok: f a", "ok: f ", why));
    let mapped = known("mapped and written", "ok: f amc", "ok: f mc", why);
    unread.into_iter().chain([mapped]).collect()
}

#[test]
fn the_times_of_a_file_change_by_what_changes_them_on_ext4() {
    twins(of_files, &unread());
}

#[test]
fn the_times_of_a_directory_change_by_what_changes_them_on_ext4() {
    let write = r#"changed(&["p"], || open("p", RDWR).and_then(|fd| write(&fd, "x").and(Ok(()))))"#;
    let why = "what passes through a FIFO passes by its file system";
    twins(of_directories, &[known(write, "ok: p mc", "ok: p ", why)]);
}

#[test]
fn times_have_the_values_that_were_set() {
    twins(values, &[]);
}

#[test]
fn times_are_set_by_whom_ext4_allows_to() {
    twins(permissions, &[]);
}

#[test]
fn what_the_kernel_keeps_back_has_the_same_times() {
    let why = "the kernel keeps the times itself then, and a size that stays is no change to it";
    let mut all = unread();
    all.push(known("cut to the same by path", "ok: f mc", "ok: f ", why));
    twins_written_back_in_time(of_files, &all);
}
