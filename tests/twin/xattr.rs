//! Extended attributes of each name space, on each kind of file, for each user.

use std::process::Command;

use rustix::fs::{FileType, XattrFlags, fallocate, ftruncate, link, rename, symlink};
use rustix::io::Result;

use crate::calls::*;
use crate::shown::digest;
use crate::stage::{Stage, known, twins, twins_written_back};

/// What setcap(8) writes: `cap_net_raw=ep`, version 2.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const CAPABILITY_NAME: &str = "security.capability";

fn removex(path: &str, name: &str) -> Result<()> {
    rustix::fs::lremovexattr(path, name)
}

fn set_how(path: &str, name: &str, value: &[u8], flags: XattrFlags) -> Result<()> {
    rustix::fs::lsetxattr(path, name, value, flags)
}

fn basics(g: &mut Stage) {
    let (create, replace) = (XattrFlags::CREATE, XattrFlags::REPLACE);
    see!(g, make("f", "content"), "ok");
    see!(g, listx("f"), "");
    see!(g, getx("f", "user.a"), "ENODATA");
    see!(g, removex("f", "user.a"), "ENODATA");
    see!(g, set_how("f", "user.a", b"one", replace), "ENODATA");
    see!(g, set_how("f", "user.a", b"one", create), "ok");
    see!(g, set_how("f", "user.a", b"two", create), "EEXIST");
    see!(g, set_how("f", "user.a", b"two", replace), "ok");
    see!(g, getx("f", "user.a"), "two");
    see!(g, set_how("f", "user.a", b"", create | replace));
    see!(g, setx("f", "user.empty", b""), "ok");
    see!(g, getx("f", "user.empty"), "");
    see!(g, setx("f", "user.bytes", &[0, 255, 10, 0]), "ok");
    see!(g, getx("f", "user.bytes"), r"\x00\xff\n\x00");
    see!(g, listx("f"), "user.a user.bytes user.empty");
    let mut small = [0; 2];
    see!(g, rustix::fs::getxattr("f", "user.a", &mut small[..]), "ERANGE");
    see!(g, rustix::fs::getxattr_query("f", "user.a"), "3");
    see!(g, rustix::fs::listxattr("f", &mut small[..]), "ERANGE");
    see!(g, rustix::fs::listxattr_query("f"), "29");
    for len in [1, 100, 249, 250, 251] {
        g.part(format!("a name of {len} and five"));
        let name = format!("user.{}", "n".repeat(len));
        see!(g, setx("f", &name, b"x"));
        see!(g, getx("f", &name));
        see!(g, listx("f").map(|names| names.contains(&name)));
        see!(g, removex("f", &name));
    }
    g.part("names");
    let names =
        ["", "user", "user.", "a.b", "trusted.", "system.a", "security.a", "USER.a", "user.\u{e9}"];
    for name in names {
        g.part(format!("named {name:?}"));
        see!(g, setx("f", name, b"x"));
        see!(g, getx("f", name));
        see!(g, removex("f", name));
    }
    g.part("");
    see!(g, rename("f", "g"), "ok");
    see!(g, link("g", "h"), "ok");
    see!(g, getx("h", "user.a"), "two");
    see!(g, removex("g", "user.a"), "ok");
    see!(g, listx("h"), "user.bytes user.empty");
    see!(g, getx("none", "user.a"), "ENOENT");
    see!(g, setx("g/x", "user.a", b""), "ENOTDIR");
}

fn sizes(g: &mut Stage) {
    for len in [1, 31, 32, 1000, 2000, 3000, 3500, 5000, 65_536, 65_537] {
        g.part(format!("{len} bytes"));
        see!(g, make("f", ""), "ok");
        let value: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        see!(g, setx("f", "user.a", &value));
        see!(g, getx("f", "user.a").map(|value| digest(value.as_bytes())));
        see!(g, setx("f", "user.a", &value));
        see!(g, setx("f", "user.a", b"short"));
        see!(g, getx("f", "user.a"));
        see!(g, rustix::fs::unlink("f"), "ok");
    }
    g.part("many");
    see!(g, make("f", ""), "ok");
    let set = |index: u32| setx("f", &format!("user.{index}"), &[b'v'; 100]);
    see!(g, (0..15).map(set).collect::<Result<Vec<_>>>().map(drop), "ok");
    see!(g, listx("f"));
    let bytes = |name: &String| getx("f", name).map(|value| value.len());
    see!(g, listx("f").unwrap().iter().map(bytes).collect::<Vec<_>>());
    see!(g, (0..15).step_by(2).all(|index| removex("f", &format!("user.{index}")).is_ok()), "true");
    see!(g, listx("f"), "user.1 user.11 user.13 user.3 user.5 user.7 user.9");
    g.part("until it is full");
    see!(g, (0..100).map(set).find_map(Result::err).map(crate::shown::name), "ENOSPC");
    let count = listx("f").unwrap().len();
    see!(g, (count > 20, count > 30), "true true");
    see!(g, cat("f"), "");
}

fn kinds(g: &mut Stage) {
    make("file", "x").unwrap();
    mkdir("dir", 0o755).unwrap();
    symlink("file", "link").unwrap();
    mknod("fifo", FileType::Fifo, 0o666, 0).unwrap();
    mknod("socket", FileType::Socket, 0o666, 0).unwrap();
    mknod("char", FileType::CharacterDevice, 0o666, rustix::fs::makedev(1, 3)).unwrap();
    for path in ["file", "dir", "link", "fifo", "socket", "char"] {
        for name in ["user.a", "trusted.a", "security.a", "system.a"] {
            g.part(format!("{name} on {path}"));
            see!(g, setx(path, name, b"value"));
            see!(g, getx(path, name));
            see!(g, listx(path));
            see!(g, as_user(ANN, &[], || setx(path, name, b"anns")));
            see!(g, as_user(ANN, &[], || getx(path, name)));
            see!(g, as_user(ANN, &[], || listx(path)));
            see!(g, as_user(ANN, &[], || removex(path, name)));
            see!(g, removex(path, name));
            see!(g, getx(path, name).is_err(), "true");
        }
    }
}

fn users(g: &mut Stage) {
    see!(g, make("f", "content"), "ok");
    see!(g, chown("f", ANN), "ok");
    see!(g, setx("f", "trusted.a", b"secret"), "ok");
    see!(g, setx("f", "security.b", b"known"), "ok");
    for bits in [0o600, 0o644, 0o666, 0o444, 0o200] {
        chmod("f", bits).unwrap();
        for who in [ANN, BOB] {
            g.part(format!("{bits:o} for {who}"));
            see!(g, as_user(who, &[], || setx("f", "user.a", b"value")));
            see!(g, as_user(who, &[], || getx("f", "user.a")));
            see!(g, as_user(who, &[], || listx("f")));
            see!(g, as_user(who, &[], || getx("f", "trusted.a")), "ENODATA");
            see!(g, as_user(who, &[], || setx("f", "trusted.a", b"x")), "EPERM");
            see!(g, as_user(who, &[], || removex("f", "trusted.a")), "EPERM");
            see!(g, as_user(who, &[], || getx("f", "security.b")));
            see!(g, as_user(who, &[], || setx("f", "security.c", b"x")), "EPERM");
            see!(g, as_user(who, &[], || setx("f", CAPABILITY_NAME, CAPABILITY)), "EPERM");
            see!(g, as_user(who, &[], || removex("f", "user.a")));
        }
    }
    g.part("in a sticky directory");
    see!(g, mkdir("d", 0o777), "ok");
    see!(g, chmod("d", 0o1777), "ok");
    see!(g, as_user(BOB, &[], || setx("d", "user.a", b"x")), "EPERM");
    see!(g, chmod("d", 0o777), "ok");
    see!(g, as_user(BOB, &[], || setx("d", "user.a", b"x")), "ok");
}

type Change = fn() -> Result<()>;

const CHANGES: [(&str, Change); 14] = [
    ("read", || cat("f").map(drop)),
    ("opened to write", || open("f", RDWR).map(drop)),
    ("written", || put(&open("f", WR)?, 0, "x").map(drop)),
    ("appended", || write(&open("f", WR | APPEND)?, "x").map(drop)),
    ("cut", || ftruncate(open("f", WR)?, 3)),
    ("cut by open", || open("f", WR | TRUNC).map(drop)),
    ("allocated", || fallocate(open("f", WR)?, rustix::fs::FallocateFlags::empty(), 0, 9000)),
    ("chmod", || chmod("f", 0o755)),
    ("chown", || chown("f", ANN)),
    ("chown to nobody", || chown_both("f", None, None)),
    ("utimes", || utimes("f", at(1, 0), at(1, 0))),
    ("another attribute", || setx("f", "user.a", b"x")),
    ("renamed", || rename("f", "g").and_then(|()| rename("g", "f"))),
    ("linked", || link("f", "g").and_then(|()| rustix::fs::unlink("g"))),
];

fn capabilities(g: &mut Stage) {
    for (how, change) in CHANGES {
        for who in [0, BOB] {
            g.part(format!("{how} by {who}"));
            make("f", "content").unwrap();
            chown("f", BOB).unwrap();
            chmod("f", 0o755).unwrap();
            setx("f", CAPABILITY_NAME, CAPABILITY).unwrap();
            see!(g, (getx("f", CAPABILITY_NAME), listx("f")));
            see!(g, as_user(who, &[], change));
            see!(g, (getx("f", CAPABILITY_NAME), listx("f")));
            rustix::fs::unlink("f").unwrap();
        }
    }
    g.part("twice through one descriptor");
    make("f", "content").unwrap();
    let fd = get!(g, open("f", RDWR));
    for round in 0..2 {
        see!(g, setx("f", CAPABILITY_NAME, CAPABILITY), "ok");
        see!(g, put(&fd, round, "x"), "1");
        see!(g, listx("f"), "");
    }
    see!(g, setx("f", CAPABILITY_NAME, b"garbage"), "EINVAL");
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), output.status.code())
    };
    see!(g, run("setcap", &["cap_net_raw,cap_chown=ep", "f"]), " 0");
    see!(g, run("getcap", &["f"]), "f cap_chown,cap_net_raw=ep 0");
    see!(g, as_user(ANN, &[], || getx("f", CAPABILITY_NAME)));
    see!(g, run("cp", &["-a", "f", "copied"]));
    see!(g, run("getcap", &["copied"]), "copied cap_chown,cap_net_raw=ep 0");
    see!(g, run("setcap", &["-r", "f"]), " 0");
    see!(g, run("getcap", &["f"]), " 0");
}

#[test]
fn attributes_are_set_got_listed_and_removed_as_on_ext4() {
    twins(basics, &[]);
}

#[test]
fn attributes_are_as_large_as_on_ext4() {
    let why = "an attribute takes more room where its name is sealed beside its value";
    let count = "until it is full: (count > 20, count > 30)";
    twins(sizes, &[known(count, "true true", "false false", why)]);
}

#[test]
fn each_kind_of_file_has_the_attributes_that_it_has_on_ext4() {
    twins(kinds, &[]);
}

#[test]
fn each_user_may_see_and_set_what_he_may_on_ext4() {
    twins(users, &[]);
}

#[test]
fn capabilities_go_with_the_content_that_they_were_given_to() {
    twins(capabilities, &[]);
}

#[test]
fn what_the_kernel_keeps_back_takes_capabilities_too() {
    twins_written_back(capabilities, &[]);
}
