//! Deep and wide trees, long names, long paths, chains of links.

use std::collections::BTreeMap;

use rustix::fs::{FileType, RawDir, SeekFrom, link, rename, rmdir, seek, symlink, unlink};
use rustix::process::chdir;

use crate::calls::*;
use crate::shown::digest;
use crate::stage::{Stage, twins};

const LEVELS: usize = 1500;

fn deep(g: &mut Stage) {
    let home = g.dir.clone();
    for level in 0..LEVELS {
        mkdir("down", 0o755).unwrap();
        chdir("down").unwrap();
        if level % 500 == 499 {
            see!(g, make("f", &format!("at level {level}")), "ok");
        }
    }
    see!(g, cat("f"), "at level 1499");
    see!(g, look("."), "dir 0755 0:0 n2 s0");
    see!(g, look(".."), "dir 0755 0:0 n3 s0");
    see!(g, cat(&"../".repeat(500).chars().chain("f".chars()).collect::<String>()));
    see!(g, rustix::process::getcwd(vec![]).map(|path| path.count_bytes() > 7500));
    see!(g, make("../sibling", "beside"), "ok");
    see!(g, symlink("../sibling", "link"), "ok");
    see!(g, cat("link"), "beside");
    see!(g, rename("../sibling", "../../sibling"), "ok");
    see!(g, cat("link"), "ENOENT");
    see!(g, cat("../../sibling"), "beside");
    let fd = get!(g, open("f", RDWR));
    // Moved as a whole.
    chdir(&home).unwrap();
    see!(g, rename("down", "moved"), "ok");
    see!(g, put(&fd, 0, "AT"), "2");
    chdir("moved").unwrap();
    (1..LEVELS).for_each(|_| chdir("down").unwrap());
    see!(g, cat("f"), "AT level 1499");
    for level in (0..LEVELS).rev() {
        for name in ls(".").unwrap() {
            if !["down", ".", ".."].contains(&name.as_str()) {
                unlink(&name).unwrap();
            }
        }
        chdir("..").unwrap();
        rmdir(if level == 0 { "moved" } else { "down" }).unwrap();
    }
    see!(g, ls("."), ". ..");
}

fn wide(g: &mut Stage) {
    const FILES: usize = 3000;
    see!(g, mkdir("d", 0o755), "ok");
    for index in 0..FILES {
        match index % 7 {
            0 => mkdir(&format!("d/dir{index}"), 0o755).unwrap(),
            1 => symlink(format!("to{index}"), format!("d/link{index}")).unwrap(),
            2 => mknod(&format!("d/fifo{index}"), FileType::Fifo, 0o644, 0).unwrap(),
            3 => mknod(&format!("d/socket{index}"), FileType::Socket, 0o644, 0).unwrap(),
            4 => make(&format!("d/{index}{}", "long".repeat(60)), "x").unwrap(),
            _ => make(&format!("d/file{index}"), "").unwrap(),
        }
    }
    let names = get!(g, ls("d"));
    see!(g, (names.len(), digest(names.join("/").as_bytes())));
    see!(g, look("d"), "dir 0755 0:0 n431 s0");
    let mut wrong = 0;
    for (name, kind, ino) in entries(open("d", RD | DIR).unwrap()).unwrap() {
        let stat = rustix::fs::lstat(format!("d/{name}")).unwrap();
        let right = FileType::from_raw_mode(stat.st_mode) == kind && stat.st_ino == ino;
        wrong += u32::from(!right && name != "..");
    }
    see!(g, wrong, "0");
    see!(g, rmdir("d"), "ENOTEMPTY");
    std::fs::remove_dir_all("d").unwrap();
    see!(g, look("d"), "ENOENT");
}

/// Names, each as often as it is listed, from a listing during which entries come and go.
fn listed(
    fd: &std::os::fd::OwnedFd,
    room: usize,
    mut between: impl FnMut(usize),
) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for round in 0.. {
        let mut room = Vec::with_capacity(room);
        let mut dir = RawDir::new(fd, room.spare_capacity_mut());
        let mut last = true;
        while let Some(entry) = dir.next() {
            *found.entry(entry.unwrap().file_name().to_string_lossy().into_owned()).or_insert(0) +=
                1;
            last = false;
            if dir.is_buffer_empty() {
                break;
            }
        }
        if last {
            break;
        }
        between(round);
    }
    found
}

fn listed_meanwhile(g: &mut Stage) {
    see!(g, mkdir("d", 0o755), "ok");
    for index in 0..600 {
        make(&format!("d/stays{index:03}"), "").unwrap();
        make(&format!("d/goes{index:03}"), "").unwrap();
    }
    for room in [512, 4096, 32_768] {
        g.part(format!("{room} bytes at a time"));
        let fd = get!(g, open("d", RD | DIR));
        let found = listed(&fd, room, |round| {
            for index in 0..20 {
                whatever(unlink(format!("d/goes{:03}", (round * 20 + index) % 600)));
                whatever(make(&format!("d/comes{room}-{round}-{index}"), ""));
                let moved = format!("d/renamed{:03}", (round * 20 + index) % 600);
                whatever(rename(format!("d/goes{:03}", 599 - (round * 20 + index) % 600), moved));
            }
        });
        let stays = found.iter().filter(|entry| entry.0.starts_with("stays"));
        see!(g, stays.clone().count(), "600");
        see!(g, stays.clone().all(|entry| *entry.1 == 1), "true");
        see!(g, found.values().max().copied(), "1");
        see!(g, (found.get(".").copied(), found.get("..").copied()), "1 1");
    }
    g.part("rewound");
    let fd = get!(g, open("d", RD | DIR));
    drop(listed(&fd, 4096, |_| {}));
    see!(g, make("d/later", ""), "ok");
    see!(g, unlink("d/stays000"), "ok");
    see!(g, seek(&fd, SeekFrom::Start(0)), "0");
    let again = listed(&fd, 4096, |_| {});
    see!(g, (again.contains_key("later"), again.contains_key("stays000")), "true false");
}

/// Positions that were told stay good while others come and go.
fn positions(g: &mut Stage) {
    see!(g, mkdir("d", 0o755), "ok");
    for index in 0..300 {
        make(&format!("d/f{index:03}"), "").unwrap();
    }
    let fd = get!(g, open("d", RD | DIR));
    let mut places = vec![];
    let mut room = Vec::with_capacity(32_768);
    let mut dir = RawDir::new(&fd, room.spare_capacity_mut());
    while let Some(entry) = dir.next() {
        let entry = entry.unwrap();
        places.push((entry.file_name().to_string_lossy().into_owned(), entry.next_entry_cookie()));
    }
    see!(g, places.len(), "302");
    let next = |cookie: u64| {
        seek(&fd, SeekFrom::Start(cookie)).unwrap();
        let mut room = Vec::with_capacity(512);
        let mut dir = RawDir::new(&fd, room.spare_capacity_mut());
        dir.next().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
    };
    let follows = |pair: &[(String, u64)]| next(pair[0].1).as_deref() == Some(&pair[1].0);
    see!(g, places.windows(2).rev().all(follows), "true");
    see!(g, next(places[301].1), "none");
    // Each second one goes, and each other still follows what came before.
    let kept: Vec<_> = places.iter().filter(|place| !place.0.ends_with(['1', '3', '5'])).collect();
    for place in places.iter().filter(|place| place.0.ends_with(['1', '3', '5'])) {
        unlink(format!("d/{}", place.0)).unwrap();
    }
    let after = |index: usize| {
        let cookie = kept[index].1;
        let mut found = next(cookie);
        while found.as_ref().is_some_and(|name| name.ends_with(['1', '3', '5'])) {
            let place = places.iter().find(|place| Some(&place.0) == found.as_ref()).unwrap();
            found = next(place.1);
        }
        found.as_deref() == kept.get(index + 1).map(|place| place.0.as_str())
    };
    see!(g, (0..kept.len() - 1).rev().all(after), "true");
    see!(g, rename("d", "e"), "ok");
    see!(g, next(kept[5].1).is_some(), "true");
    g.part("removed");
    std::fs::remove_dir_all("e").unwrap();
    see!(g, entries(&fd).map(|found| found.len()), "ENOENT");
}

fn names(g: &mut Stage) {
    see!(g, make("f", "content"), "ok");
    see!(g, mkdir("d", 0o755), "ok");
    for len in [1, 100, 173, 174, 175, 176, 177, 178, 200, 254, 255, 256, 300] {
        g.part(format!("{len} bytes"));
        let name = "n".repeat(len);
        see!(g, make(&name, "long"));
        see!(g, (cat(&name), look(&name)));
        see!(g, rename(&name, "short"));
        see!(g, rename("short", &name));
        see!(g, link(&name, format!("d/{name}")));
        see!(g, ls("d").map(|names| digest(names.join("/").as_bytes())));
        see!(g, unlink(format!("d/{name}")));
        see!(g, unlink(&name));
        see!(g, mkdir(&name, 0o755));
        see!(g, make(&format!("{name}/{name}"), "inside"));
        see!(g, cat(&format!("{name}/{name}")));
        see!(g, unlink(format!("{name}/{name}")));
        see!(g, rmdir(&name));
        see!(g, symlink("f", &name));
        see!(g, cat(&name));
        see!(g, unlink(&name));
        see!(g, mknod(&name, FileType::Fifo, 0o644, 0));
        see!(g, unlink(&name));
        see!(g, unlink("short"));
    }
    g.part("");
    see!(g, make(&"n".repeat(255), ""), "ok");
    see!(g, make(&"n".repeat(256), ""), "ENAMETOOLONG");
    see!(g, rename("f", "n".repeat(256)), "ENAMETOOLONG");
    for name in [" ", "\n", "\u{e9}", "\u{1F600}", "-", "*", "a\\b", ".cmkfs", "...", ".a", "a."] {
        g.part(format!("{name:?}"));
        see!(g, make(name, name), "ok");
        see!(g, ls(".").map(|names| names.contains(&name.to_owned())), "true");
        see!(g, unlink(name), "ok");
    }
}

fn paths(g: &mut Stage) {
    // PATH_MAX counts the zero byte at the end.
    see!(g, make("f", "content"), "ok");
    for len in [4094, 4095, 4096, 5000] {
        g.part(format!("a path of {len} bytes"));
        let path = format!("{}f", "./".repeat(len / 2));
        let path = if len % 2 == 0 { path.replacen("./", ".//", 1) } else { path };
        let path = &path[path.len() - len..];
        see!(g, cat(path));
        see!(g, rename(path, "f"));
        see!(g, symlink(path, "link"));
        see!(g, readlink("link").map(|text| text.len()));
        see!(g, size("link"));
        see!(g, cat("link"));
        see!(g, unlink("link"));
    }
    g.part("targets");
    for target in ["x", "f", "/", "..", "a//b/../c", " ", "\u{e9}\n"] {
        see!(g, symlink(target, "link"), "ok");
        see!(g, (readlink("link"), size("link")));
        see!(g, unlink("link"), "ok");
    }
    see!(g, symlink("", "link"), "ENOENT");
    g.part("chains");
    see!(g, symlink("f", "l0"), "ok");
    for index in 1..=41 {
        symlink(format!("l{}", index - 1), format!("l{index}")).unwrap();
    }
    see!(g, cat("l39"), "content");
    see!(g, cat("l40"), "ELOOP");
    see!(g, symlink("b", "a"), "ok");
    see!(g, symlink("a", "b"), "ok");
    see!(g, symlink("self", "self"), "ok");
    see!(g, (cat("a"), cat("self"), cat("a/x")), "ELOOP ELOOP ELOOP");
    see!(g, (look("a"), chmod("a", 0o600)), "link 0777 0:0 n1 s1 ELOOP");
    see!(g, open("l0", RD | rustix::fs::OFlags::NOFOLLOW), "ELOOP");
    see!(g, open("l0", WR | CREATE | EXCL), "EEXIST");
    see!(g, symlink("made", "dangling"), "ok");
    see!(g, open("dangling", WR | CREATE | EXCL), "EEXIST");
    see!(g, make("dangling", "by link"), "ok");
    see!(g, cat("made"), "by link");
    see!(g, mkdir("dangling", 0o755), "EEXIST");
    see!(g, readlink("f"), "EINVAL");
    see!(g, readlink("none"), "ENOENT");
    see!(g, cat("f/"), "ENOTDIR");
    see!(g, cat("f/x"), "ENOTDIR");
    see!(g, cat("l0/"), "ENOTDIR");
    see!(g, mkdir("d/", 0o755), "ok");
    see!(g, make("new/", ""), "EISDIR");
    see!(g, open("d", RDWR), "EISDIR");
    see!(g, unlink("d"), "EISDIR");
    see!(g, rmdir("f"), "ENOTDIR");
    see!(g, rmdir("l0"), "ENOTDIR");
    see!(g, mkdir("f", 0o755), "EEXIST");
    see!(g, rmdir("d/."), "EINVAL");
    see!(g, rmdir("d/.."), "ENOTEMPTY");
}

#[test]
fn trees_of_1500_levels_are_made_moved_and_removed() {
    twins(deep, &[]);
}

#[test]
fn a_wide_directory_lists_each_entry_as_what_it_is() {
    twins(wide, &[]);
}

#[test]
fn entries_that_stay_are_listed_exactly_once_while_others_come_and_go() {
    twins(listed_meanwhile, &[]);
}

#[test]
fn told_positions_stay_good() {
    twins(positions, &[]);
}

#[test]
fn names_are_as_long_as_on_ext4_and_no_longer() {
    twins(names, &[]);
}

#[test]
fn paths_and_links_end_where_those_of_ext4_do() {
    twins(paths, &[]);
}
