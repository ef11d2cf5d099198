//! Renaming in all its forms, and what those notice who have open what is renamed.

use rustix::fs::{
    AtFlags, CWD, FileType, RenameFlags, link, linkat, rename, rmdir, symlink, unlink,
};

use crate::calls::*;
use crate::stage::{Stage, known, twins};

const KINDS: [&str; 7] = ["none", "file", "other", "dir", "full", "link", "fifo"];

/// Something of this kind, with content that tells it.
fn thing(kind: &str, path: &str) {
    match kind {
        "none" => {}
        "file" | "other" => make(path, kind).unwrap(),
        "dir" => mkdir(path, 0o755).unwrap(),
        "full" => {
            mkdir(path, 0o755).unwrap();
            make(&format!("{path}/inside"), "inside").unwrap();
        }
        "link" => symlink("nowhere", path).unwrap(),
        _ => mknod(path, FileType::Fifo, 0o644, 0).unwrap(),
    }
}

fn what(path: &str) -> String {
    let said = look(path).unwrap_or_else(crate::shown::name);
    let more = match said.split(' ').next() {
        Some("file") => cat(path).unwrap(),
        Some("dir") => ls(path).unwrap().join(" "),
        Some("link") => readlink(path).unwrap(),
        _ => String::new(),
    };
    format!("{said} {more}")
}

fn clear(path: &str) {
    let inside = format!("{path}/inside");
    for gone in [unlink(&inside), unlink(path), rmdir(path)] {
        whatever(gone);
    }
}

/// Each kind over each, in each way, in one directory and from one to another.
fn each_over_each(g: &mut Stage) {
    let flags = [
        ("plain", RenameFlags::empty()),
        ("noreplace", RenameFlags::NOREPLACE),
        ("exchange", RenameFlags::EXCHANGE),
        ("both", RenameFlags::NOREPLACE | RenameFlags::EXCHANGE),
        ("unknown", RenameFlags::from_bits_retain(1 << 10)),
    ];
    see!(g, mkdir("d", 0o755), "ok");
    for (name, flags) in flags {
        for (from, to) in KINDS.iter().flat_map(|from| KINDS.map(|to| (*from, to))) {
            for target in ["t", "d/t"] {
                g.part(format!("{name} {from} to {to} {target}"));
                thing(from, "s");
                thing(to, target);
                see!(g, rename_how("s", target, flags));
                see!(g, (what("s"), what(target)));
                clear("s");
                clear(target);
            }
        }
    }
    g.part("");
    thing("file", "s");
    thing("other", "t");
    see!(g, rename_how("s", "t", RenameFlags::EXCHANGE), "ok");
    see!(g, (cat("s"), cat("t")), "other file");
    see!(g, rename_how("s", "t", RenameFlags::NOREPLACE), "EEXIST");
    see!(g, rename("s", "t"), "ok");
    see!(g, rename("none", "t"), "ENOENT");
    see!(g, rename("t", "none/t"), "ENOENT");
    see!(g, rename("t", "t/t"), "ENOTDIR");
    see!(g, rename("t", "d/."), "EBUSY");
    see!(g, rename("t", "d/.."), "EBUSY");
    see!(g, rename("t", "t/"), "ENOTDIR");
    see!(g, rename("t", "u/"), "ENOTDIR");
    see!(g, rename("d", "e/"), "ok");
    see!(g, rename("e/", "d"), "ok");
    see!(g, rename("t", ""), "ENOENT");
}

/// A device in the place of what is renamed, for those who stack file systems.
fn whiteouts(g: &mut Stage) {
    see!(g, make("s", "content"), "ok");
    see!(g, rename_how("s", "t", RenameFlags::WHITEOUT | RenameFlags::EXCHANGE), "EINVAL");
    see!(g, rename_how("s", "t", RenameFlags::WHITEOUT));
}

fn into_itself(g: &mut Stage) {
    see!(g, mkdir("d", 0o755), "ok");
    see!(g, mkdir("d/e", 0o755), "ok");
    see!(g, mkdir("d/e/f", 0o755), "ok");
    see!(g, rename("d", "d/x"), "EINVAL");
    see!(g, rename("d", "d/e/f/x"), "EINVAL");
    see!(g, rename("d", "d/e"), "EINVAL");
    see!(g, rename("d/e/f", "d"), "ENOTEMPTY");
    see!(g, rename("d/e", "d/e"), "ok");
    see!(g, rename_how("d", "d/e", RenameFlags::EXCHANGE), "EINVAL");
    see!(g, rename_how("d/e", "d", RenameFlags::EXCHANGE), "EINVAL");
    see!(g, rename_how("d", "d", RenameFlags::EXCHANGE));
    see!(g, rename_how("d", "d", RenameFlags::NOREPLACE), "EEXIST");
    see!(g, rename("d", "."), "EBUSY");
    see!(g, rename(".", "x"), "EBUSY");
    g.part("links to one file");
    see!(g, make("a", "content"), "ok");
    see!(g, link("a", "b"), "ok");
    see!(g, link("a", "d/c"), "ok");
    see!(g, rename("a", "b"), "ok");
    see!(g, rename("a", "d/c"), "ok");
    see!(g, rename("a", "a"), "ok");
    see!(g, (look("a"), look("b"), look("d/c")));
    see!(g, rename_how("a", "b", RenameFlags::NOREPLACE), "EEXIST");
    see!(g, rename_how("a", "d/c", RenameFlags::EXCHANGE), "ok");
    see!(g, ls("."));
    see!(g, (same("a", "b"), same("a", "d/c")), "true true");
    see!(g, look("d/c"), "file 0644 0:0 n3 s7");
}

/// Files that are open below a directory which is renamed, and files that are renamed over.
fn open_ones(g: &mut Stage) {
    see!(g, mkdir("d", 0o755), "ok");
    see!(g, mkdir("d/e", 0o755), "ok");
    see!(g, make("d/e/f", "old"), "ok");
    let fd = get!(g, open("d/e/f", RDWR));
    let dir = get!(g, open("d/e", RD | DIR));
    see!(g, rename("d", "moved"), "ok");
    see!(g, put(&fd, 3, " and new"), "8");
    see!(g, cat("moved/e/f"), "old and new");
    see!(g, cat("d/e/f"), "ENOENT");
    see!(g, open_at(&dir, "g", WR | CREATE | EXCL), "ok");
    see!(g, ls("moved/e"), ". .. f g");
    see!(g, mkdir("other", 0o755), "ok");
    see!(g, rename("moved/e", "other/deep"), "ok");
    see!(g, open_at(&dir, "h", WR | CREATE | EXCL), "ok");
    see!(g, ls("other/deep"), ". .. f g h");
    see!(g, same("other/deep/..", "other"), "true");
    see!(g, look("moved"), "dir 0755 0:0 n2 s0");
    see!(g, look("other"), "dir 0755 0:0 n3 s0");
    let up = get!(g, open_at(&dir, "..", RD | DIR));
    see!(g, entries(&up).map(|found| found.len()), "3");
    g.part("over an open file");
    see!(g, make("new", "another"), "ok");
    let new = get!(g, open("new", RDWR));
    see!(g, put(&new, 7, " one"), "4");
    see!(g, rename("new", "other/deep/f"), "ok");
    see!(g, text_of(&fd), "old and new");
    see!(g, look_fd(&fd), "file 0644 0:0 n0 s11");
    see!(g, put(&fd, 0, "OLD"), "3");
    see!(g, text_of(&fd), "OLD and new");
    see!(g, cat("other/deep/f"), "another one");
    see!(g, put(&new, 0, "ANOTHER"), "7");
    see!(g, cat("other/deep/f"), "ANOTHER one");
    g.part("exchanged while open");
    see!(g, make("x", "x"), "ok");
    let x = get!(g, open("x", RDWR));
    see!(g, rename_how("x", "other/deep/f", RenameFlags::EXCHANGE), "ok");
    see!(g, put(&x, 1, "!"), "1");
    see!(g, put(&new, 11, "!"), "1");
    see!(g, (cat("x"), cat("other/deep/f")), "ANOTHER one! x!");
    see!(g, rename_how("x", "other", RenameFlags::EXCHANGE), "ok");
    see!(g, (cat("x/deep/f"), cat("other")), "x! ANOTHER one!");
    see!(g, open_at(&dir, "../../other", RD).and_then(|fd| text_of(&fd)), "ANOTHER one!");
}

/// Where a process is, after what it is in was moved.
fn parents(g: &mut Stage) {
    let home = g.dir.to_str().unwrap().to_owned();
    let here = || {
        let found = rustix::process::getcwd(vec![])?.into_string().unwrap();
        Ok::<_, rustix::io::Errno>(found.strip_prefix(&home).unwrap_or(&found).to_owned())
    };
    see!(g, mkdir("a", 0o755), "ok");
    see!(g, mkdir("a/b", 0o755), "ok");
    see!(g, mkdir("a/b/c", 0o755), "ok");
    see!(g, mkdir("x", 0o755), "ok");
    rustix::process::chdir("a/b/c").unwrap();
    see!(g, here(), "/a/b/c");
    see!(g, rename("../../../a/b", "../../../x/y"), "ok");
    see!(g, here(), "/x/y/c");
    see!(g, make("../made", "above"), "ok");
    see!(g, ls("../../../x/y"), ". .. c made");
    see!(g, rename("../c", "../../../top"), "ok");
    see!(g, here(), "/top");
    see!(g, ls(".."), ". .. a top x");
    see!(g, same("..", &home), "true");
    see!(g, same("../x/y/..", "../x"), "true");
    see!(g, look(".."), "dir 0755 0:0 n5 s0");
    rustix::process::chdir("..").unwrap();
    let c = get!(g, open("top", RD | DIR));
    see!(g, rename_how("top", "x/y", RenameFlags::EXCHANGE), "ok");
    see!(g, open_at(&c, "..", RD | DIR).and_then(entries_of), ". .. y");
    see!(g, open_at(&c, "../../top/made", RD).and_then(|fd| text_of(&fd)), "above");
}

fn entries_of(fd: std::os::fd::OwnedFd) -> rustix::io::Result<Vec<String>> {
    let mut names: Vec<_> = entries(&fd)?.into_iter().map(|entry| entry.0).collect();
    names.sort();
    Ok(names)
}

fn hard_links(g: &mut Stage) {
    see!(g, make("a", "content"), "ok");
    see!(g, mkdir("d", 0o755), "ok");
    see!(g, link("a", "d/b"), "ok");
    see!(g, link("d/b", "c"), "ok");
    let (a, b) = (get!(g, open("a", RDWR)), get!(g, open("d/b", RDWR)));
    see!(g, put(&a, 0, "CON"), "3");
    see!(g, (text_of(&b), cat("c")), "CONtent CONtent");
    see!(g, put(&b, 7, "!"), "1");
    see!(g, (cat("a"), size("c")), "CONtent! 8");
    see!(g, chmod("c", 0o640), "ok");
    see!(g, setx("d/b", "user.a", b"one"), "ok");
    see!(g, (look("a"), getx("c", "user.a")), "file 0640 0:0 n3 s8 one");
    see!(g, unlink("a"), "ok");
    see!(g, (look_fd(&a), look("c")), "file 0640 0:0 n2 s8 file 0640 0:0 n2 s8");
    see!(g, make("a", "new"), "ok");
    see!(g, (cat("a"), cat("c"), same("a", "c")), "new CONtent! false");
    see!(g, link("a", "c"), "EEXIST");
    see!(g, link("none", "x"), "ENOENT");
    see!(g, link("a", "none/x"), "ENOENT");
    see!(g, link("d", "x"), "EPERM");
    see!(g, link("a", "d/b/x"), "ENOTDIR");
    see!(g, unlink("c"), "ok");
    see!(g, unlink("d/b"), "ok");
    see!(g, look_fd(&b), "file 0640 0:0 n0 s8");
    g.part("of a symbolic link");
    see!(g, symlink("a", "l"), "ok");
    see!(g, linkat(CWD, "l", CWD, "m", AtFlags::empty()), "ok");
    see!(g, (look("l"), readlink("m"), same("l", "m")), "link 0777 0:0 n2 s1 a true");
    see!(g, linkat(CWD, "l", CWD, "n", AtFlags::SYMLINK_FOLLOW), "ok");
    see!(g, (same("n", "a"), look("n")), "true file 0644 0:0 n2 s3");
    see!(g, unlink("l"), "ok");
    see!(g, (readlink("m"), look("m")), "a link 0777 0:0 n1 s1");
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
        g.part(format!("of a {name}"));
        see!(g, mknod(name, kind, 0o644, 0), "ok");
        see!(g, link(name, "more"), "ok");
        see!(g, (look(name), same(name, "more")));
        see!(g, unlink("more"), "ok");
    }
    g.part("by descriptor");
    let fd = get!(g, open("a", RD));
    see!(g, linkat(&fd, "", CWD, "e", AtFlags::EMPTY_PATH), "ok");
    see!(g, linkat(CWD, link_of(&fd), CWD, "f", AtFlags::SYMLINK_FOLLOW), "ok");
    see!(g, (cat("f"), look("e")), "new file 0644 0:0 n4 s3");
    // 200 names of one file.
    for index in 0..200 {
        link("a", format!("d/{index}")).unwrap();
    }
    see!(g, look("d/199"), "file 0644 0:0 n204 s3");
    see!(g, rename("d", "dd"), "ok");
    see!(g, put(&get!(g, open("dd/77", WR)), 0, "seven"), "5");
    see!(g, text_of(&fd), "seven");
}

#[test]
fn each_kind_is_renamed_over_each_other_as_on_ext4() {
    twins(each_over_each, &[]);
}

#[test]
fn nothing_is_left_where_something_was() {
    let why = "no whiteouts: FUSE cannot be the upper file system of an overlay anyway";
    let call = "rename_how(\"s\", \"t\", RenameFlags::WHITEOUT)";
    twins(whiteouts, &[known(call, "ok", "EINVAL", why)]);
}

#[test]
fn what_cannot_be_renamed_is_refused_in_the_same_words() {
    twins(into_itself, &[]);
}

#[test]
fn open_files_follow_their_directories_and_outlive_being_replaced() {
    twins(open_ones, &[]);
}

#[test]
fn the_way_up_is_right_after_each_move() {
    twins(parents, &[]);
}

#[test]
fn names_of_one_file_show_one_content() {
    twins(hard_links, &[]);
}
