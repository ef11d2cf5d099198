//! What is told of changes, and what other calls answer: inotify, ioctl, sync.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{
    FileType, OFlags, fdatasync, fsync, ftruncate, link, rename, rmdir, symlink, syncfs, unlink,
};
use rustix::io::{Errno, Result};

use crate::calls::*;
use crate::stage::{Stage, known, twins};

/// All that was told since it was last asked.
fn told(watch: &OwnedFd) -> Vec<String> {
    let mut room = [std::mem::MaybeUninit::uninit(); 16_384];
    let mut reader = inotify::Reader::new(watch, &mut room);
    let mut found = vec![];
    loop {
        match reader.next() {
            Ok(event) => {
                let names: Vec<_> = event.events().iter_names().map(|named| named.0).collect();
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                let name = name.unwrap_or_default();
                found.push(format!("{}({name})", names.join("+").to_lowercase()));
            }
            Err(Errno::AGAIN) => return found,
            Err(error) => panic!("{error}"),
        }
    }
}

fn watched(g: &mut Stage) {
    // What is closed is told at once only if nobody else has it open.
    own_descriptors();
    mkdir("d", 0o755).unwrap();
    mkdir("e", 0o755).unwrap();
    make("d/f", "content").unwrap();
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    let all = WatchFlags::ALL_EVENTS;
    for path in ["d", "e", "d/f"] {
        inotify::add_watch(&watch, path, all).unwrap();
    }
    let mut here = |what: &str, work: &dyn Fn() -> Result<()>| {
        let done = work();
        g.saw(what, &(done, told(&watch)), None);
    };
    here("opened", &|| open("d/f", RD).map(drop));
    here("read", &|| cat("d/f").map(drop));
    here("written", &|| put(&open("d/f", WR)?, 0, "x").map(drop));
    here("opened to truncate", &|| open("d/f", WR | TRUNC).map(drop));
    here("cut", &|| truncate("d/f", 10));
    here("cut by descriptor", &|| ftruncate(open("d/f", RDWR)?, 5));
    here("chmod", &|| chmod("d/f", 0o600));
    here("chown", &|| chown("d/f", ANN));
    here("utimes", &|| utimes("d/f", at(1, 0), at(2, 0)));
    here("an attribute", &|| setx("d/f", "user.a", b"x"));
    here("an attribute gone", &|| rustix::fs::removexattr("d/f", "user.a"));
    here("allocated", &|| {
        rustix::fs::fallocate(open("d/f", WR)?, rustix::fs::FallocateFlags::empty(), 0, 100)
    });
    here("copied", &|| {
        let (from, to) = (open("d/f", RD)?, open("d/f", WR)?);
        rustix::fs::copy_file_range(from, None, to, Some(&mut 200), 50).map(drop)
    });
    here("made", &|| make("d/g", "x"));
    here("a directory made", &|| mkdir("d/sub", 0o755));
    here("a link made", &|| symlink("x", "d/l"));
    here("a fifo made", &|| mknod("d/p", FileType::Fifo, 0o644, 0));
    here("linked", &|| link("d/f", "e/f"));
    here("written by the other name", &|| put(&open("e/f", WR)?, 0, "y").map(drop));
    here("unlinked", &|| unlink("e/f"));
    here("renamed", &|| rename("d/f", "d/h"));
    here("moved", &|| rename("d/h", "e/h"));
    here("replaced", &|| rename("d/g", "e/h"));
    here("a directory moved", &|| rename("d/sub", "e/sub"));
    here("a directory removed", &|| rmdir("e/sub"));
    here("exchanged", &|| rename_how("d/l", "e/h", rustix::fs::RenameFlags::EXCHANGE));
    here("listed", &|| ls("d").map(drop));
    here("removed", &|| unlink("d/p"));
    here("nothing there", &|| unlink("d/none"));
    here("all removed", &|| {
        unlink("d/l")?;
        rmdir("d")
    });
    g.part("mapped");
    make("e/m", "content").unwrap();
    inotify::add_watch(&watch, "e/m", all).unwrap();
    told(&watch);
    let map = Map::shared(&open("e/m", RDWR).unwrap(), 5).unwrap();
    map.set(0, "x");
    map.sync(libc::MS_SYNC).unwrap();
    drop(map);
    see!(g, told(&watch));
    let opened = ReadFlags::OPEN;
    open("e/m", RD).unwrap();
    see!(g, told(&watch).iter().any(|said| said.contains("open") && !opened.is_empty()), "true");
}

const REQUESTS: [(&str, u64); 14] = [
    ("FS_IOC_GETFLAGS", 0x8008_6601),
    ("FS_IOC_SETFLAGS", 0x4008_6602),
    ("FS_IOC_GETVERSION", 0x8008_7601),
    ("FS_IOC_FSGETXATTR", 0x801c_581f),
    ("FS_IOC_FIEMAP", 0xc020_660b),
    ("FIBMAP", 1),
    ("FIGETBSZ", 2),
    ("FICLONE", 0x4004_9409),
    ("FICLONERANGE", 0x4020_940d),
    ("FIDEDUPERANGE", 0xc018_9436),
    ("FITRIM", 0xc018_5879),
    ("TCGETS", 0x5401),
    ("BLKGETSIZE64", 0x8008_1272),
    ("bogus", 0xc008_ff7f),
];

fn controlled(g: &mut Stage) {
    make("f", "content").unwrap();
    let (file, dir) = (get!(g, open("f", RDWR)), get!(g, open(".", RD | DIR)));
    let path = get!(g, open("f", PATH));
    for (name, request) in REQUESTS {
        g.part(name);
        for fd in [&file, &dir, &path] {
            see!(g, ioctl(fd, request, &mut [0; 512]).map(drop));
        }
    }
    g.part("");
    see!(g, ioctl(&file, 0x541b, &mut [0; 512]).map(drop), "ok");
    see!(g, ioctl(&path, 0x541b, &mut [0; 512]).map(drop), "EBADF");
}

/// Whatever can be open can be synced, or says why not.
fn synced(g: &mut Stage) {
    make("f", "content").unwrap();
    mkdir("d", 0o755).unwrap();
    symlink("f", "l").unwrap();
    mknod("p", FileType::Fifo, 0o644, 0).unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let (read, _write) = rustix::pipe::pipe().unwrap();
    let opened = [
        ("to read", open("f", RD).unwrap()),
        ("to write", open("f", WR).unwrap()),
        ("both", open("f", RDWR).unwrap()),
        ("directory", open("d", RD | DIR).unwrap()),
        ("by path", open("f", PATH).unwrap()),
        ("directory by path", open("d", PATH).unwrap()),
        ("link by path", open("l", PATH | OFlags::NOFOLLOW).unwrap()),
        ("fifo", open("p", RDWR).unwrap()),
        ("fifo by path", open("p", PATH).unwrap()),
        ("socket", socket.as_fd().try_clone_to_owned().unwrap()),
        ("pipe", read),
    ];
    for (name, fd) in &opened {
        g.part(*name);
        see!(g, fsync(fd));
        see!(g, fdatasync(fd));
        see!(g, sync_range(fd));
        if !["socket", "pipe"].contains(name) {
            see!(g, syncfs(fd));
        }
    }
    g.part("dirty");
    let fd = &opened[2].1;
    for round in 0..3 {
        see!(g, put(fd, round * 100, "dirty"), "5");
        see!(g, vec![fsync(fd), fdatasync(fd), sync_range(fd), syncfs(fd)], "ok ok ok ok");
        see!(g, fsync(&opened[0].1), "ok");
    }
    let map = get!(g, Map::shared(fd, 100));
    map.set(0, "mapped");
    see!(g, (map.sync(libc::MS_SYNC), map.sync(libc::MS_ASYNC)), "ok ok");
    see!(g, map.sync(libc::MS_SYNC | libc::MS_ASYNC), "EINVAL");
    see!(g, cat("f").map(|text| text.len()));
    see!(g, unlink("f"), "ok");
    see!(g, (fsync(fd), fdatasync(fd), fsync(&opened[0].1)), "ok ok ok");
    see!(g, rmdir("d"), "ok");
    see!(g, fsync(&opened[3].1), "ok");
    rustix::fs::sync();
}

#[test]
fn watchers_are_told_what_they_are_on_ext4() {
    twins(watched, &[]);
}

#[test]
fn controls_are_answered_or_refused_as_on_ext4() {
    let kept = "flags of ext4's own, none of which a volume keeps";
    let kernel = "the kernel's FUSE refuses it itself";
    let flags = ["FS_IOC_GETFLAGS", "FS_IOC_SETFLAGS", "FS_IOC_GETVERSION", "FS_IOC_FSGETXATTR"];
    let call = |name: &str| format!("{name}: ioctl(fd, request, &mut [0; 512]).map(drop)");
    let flags = flags.map(|name| known(call(name), "ok", "ENOTTY", kept));
    let map = known(call("FS_IOC_FIEMAP"), "EINVAL", "EOPNOTSUPP", kernel);
    let trim =
        known(call("FITRIM"), "EINVAL", "ENOTTY", "the disk of the store is not the volume's");
    twins(controlled, &flags.into_iter().chain([map, trim]).collect::<Vec<_>>());
}

#[test]
fn whatever_is_open_is_synced_or_says_why_not() {
    twins(synced, &[]);
}
