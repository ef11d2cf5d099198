//! The file system without a mount: what names, inodes and handles mean.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "support/volume.rs"]
mod volume;
#[path = "support/world.rs"]
mod world;

use std::collections::BTreeSet;

use cmkfs::fs::{
    Change, Creator, Follow, Fs, HandleId, NodeKind, OpenFlags, Privileges, RenameMode, SetAttr,
    SetTime, Sync, XattrMode,
};
use volume::ME;
use world::{ROOT, World, errno, names};

#[test]
fn what_is_forgotten_as_often_as_it_was_handed_out_costs_no_memory() {
    let world = World::new();
    let dir = world.dir(ROOT, "d");
    let file = world.file(dir, "f", "x").ino;
    for _ in 0..3 {
        assert_eq!(world.lookup(dir, "f").unwrap().ino, file);
    }
    assert_eq!(world.fs.inode_count(), 2);
    world.fs.forget(file, 3);
    assert_eq!(world.fs.inode_count(), 2, "created once and looked up three times");
    world.fs.forget(file, 1);
    assert_eq!(world.fs.inode_count(), 1);
    assert_eq!(errno(world.fs.getattr(file)), libc::ENOENT, "nobody may know its number now");
    world.fs.forget(dir, 1);
    assert_eq!(world.fs.inode_count(), 0);
    world.fs.forget(ROOT, 7);
    assert_eq!(world.lookup(ROOT, "d").unwrap().ino, dir);
}

/// The kernel sends the two on different threads, so they arrive in any order.
#[test]
fn an_inode_forgotten_before_its_handle_is_released_goes_with_the_release() {
    let world = World::new();
    let file = world.file(ROOT, "f", "old").ino;
    let handle = world.open(file, OpenFlags::WRITE);
    world.fs.forget(file, 1);
    assert_eq!(world.fs.inode_count(), 1);
    world.fs.write(handle, 0, b"new", Privileges::Keep).unwrap();
    world.fs.release(handle).unwrap();
    assert_eq!((world.fs.inode_count(), world.fs.handle_count()), (0, 0));
    let world = world.again();
    let file = world.lookup(ROOT, "f").unwrap().ino;
    assert_eq!(world.content(file), "new");
}

#[test]
fn a_handle_is_worth_nothing_after_its_release() {
    let world = World::new();
    let file = world.file(ROOT, "f", "x").ino;
    let old = world.open(file, OpenFlags::READ);
    world.fs.release(old).unwrap();
    let new = world.open(file, OpenFlags::READ);
    assert_ne!(old, new);
    assert_eq!(errno(world.fs.read(old, 0, 1)), libc::EBADF);
    assert_eq!(errno(world.fs.release(old)), libc::EBADF);
    assert_eq!(errno(world.fs.read(HandleId(0), 0, 1)), libc::EBADF);
    assert_eq!(errno(world.fs.write(new, 0, b"y", Privileges::Keep)), libc::EBADF);
    let dir = world.fs.opendir(ROOT).unwrap();
    assert_eq!(errno(world.fs.read(dir, 0, 1)), libc::EISDIR);
    assert_eq!(errno(world.fs.fsyncdir(new)), libc::ENOTDIR);
}

#[test]
fn hard_links_are_one_inode_until_the_last_name_is_gone() {
    let world = World::new();
    let (a, b) = (world.dir(ROOT, "a"), world.dir(ROOT, "b"));
    let file = world.file(a, "one", "content").ino;
    let linked = world.fs.link(file, b, b"two").unwrap();
    assert_eq!((linked.ino, linked.stat.nlink), (file, 2));
    world.fs.unlink(a, b"one").unwrap();
    assert_eq!(world.fs.getattr(file).unwrap().stat.nlink, 1);
    assert_eq!(world.content(file), "content");
    assert_eq!(world.rename((b, "two"), (a, "three"), RenameMode::Replace), 0);
    assert_eq!(world.content(file), "content");
    assert_eq!(world.lookup(a, "three").unwrap().ino, file);
    assert_eq!(errno(world.lookup(b, "two")), libc::ENOENT);
    world.fs.unlink(a, b"three").unwrap();
    assert_eq!(world.fs.getattr(file).unwrap().stat.nlink, 0, "known still, so still there");
    assert_eq!(errno(world.fs.link(file, a, b"four")), libc::ENOENT);
}

#[test]
fn a_file_is_used_after_its_last_name_is_gone() {
    let world = World::new();
    let file = world.file(ROOT, "f", "content").ino;
    world.fs.setxattr(file, b"user.old", b"kept", XattrMode::Create).unwrap();
    let handle = world.open(file, OpenFlags::WRITE);
    world.fs.unlink(ROOT, b"f").unwrap();
    assert_eq!(errno(world.lookup(ROOT, "f")), libc::ENOENT);
    world.fs.write(handle, 7, b" and more", Privileges::Keep).unwrap();
    assert_eq!(world.read(handle), "content and more");
    let attr = world.fs.getattr(file).unwrap();
    assert_eq!((attr.stat.size, attr.stat.nlink), (16, 0));
    assert_eq!(world.fs.setattr(file, &Change::size(3)).unwrap().stat.size, 3);
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(world.fs.setattr(file, &Change::of(mode)).unwrap().stat.mode, 0o600);
    world.fs.fsync(handle, Sync::All).unwrap();
    assert_eq!(world.fs.listxattr(file).unwrap(), b"user.old\0");
    assert_eq!(world.fs.getxattr(file, b"user.old").unwrap(), b"kept");
    assert_eq!(errno(world.fs.getxattr(file, b"user.a")), libc::ENODATA);
    world.fs.setxattr(file, b"user.a", b"new", XattrMode::Create).unwrap();
    assert_eq!(world.fs.getxattr(file, b"user.a").unwrap(), b"new");
    world.fs.removexattr(file, b"user.old").unwrap();
    assert_eq!(world.fs.listxattr(file).unwrap(), b"user.a\0");
    // A new file of that name is another one.
    let other = world.file(ROOT, "f", "other").ino;
    assert_ne!(other, file, "the number is not given away while the file is known");
    assert_eq!(world.read(handle), "con");
    world.fs.release(handle).unwrap();
    assert_eq!(world.fs.getattr(file).unwrap().stat.nlink, 0);
    // Through a path such as /proc/PID/fd/N it can be opened again.
    assert_eq!(world.content(file), "con");
    let handle = world.open(file, OpenFlags::WRITE);
    world.fs.write(handle, 3, b"verted", Privileges::Keep).unwrap();
    world.fs.release(handle).unwrap();
    assert_eq!(world.content(file), "converted");
    assert_eq!(world.fs.setattr(file, &Change::size(3)).unwrap().stat.size, 3);
    assert_eq!(world.content(file), "con");
    world.fs.forget(file, 1);
    assert_eq!(errno(world.fs.getattr(file)), libc::ENOENT);
    assert_eq!(world.content(other), "other");
}

#[test]
fn removed_files_and_directories_that_are_known_keep_their_numbers() {
    let world = World::new();
    let mut known = BTreeSet::new();
    for round in 0..20 {
        let name = format!("n{round}");
        let id = match round % 4 {
            0 => world.file(ROOT, &name, "x").ino,
            1 => world.fs.mkdir(ROOT, name.as_bytes(), 0o755, ME).unwrap().ino,
            2 => world.fs.symlink(ROOT, name.as_bytes(), b"target", ME).unwrap().ino,
            _ => world.fs.mknod(ROOT, name.as_bytes(), NodeKind::Fifo, 0o644, ME).unwrap().ino,
        };
        assert!(known.insert(id), "{id:?} was given out twice");
        match round % 4 {
            1 => world.fs.rmdir(ROOT, name.as_bytes()).unwrap(),
            _ => world.fs.unlink(ROOT, name.as_bytes()).unwrap(),
        }
    }
    for id in &known {
        assert!(world.fs.getattr(*id).is_ok(), "{id:?}");
        world.fs.forget(*id, 1);
    }
    assert_eq!(world.fs.inode_count(), 0);
}

/// By a descriptor that only names them (`O_PATH`), or as the current directory.
#[test]
fn what_is_no_file_is_used_after_its_last_name_is_gone() {
    let world = World::new();
    let dir = world.fs.mkdir(ROOT, b"d", 0o755, ME).unwrap().ino;
    let link = world.fs.symlink(ROOT, b"l", b"target", ME).unwrap().ino;
    let fifo = world.fs.mknod(ROOT, b"p", NodeKind::Fifo, 0o644, ME).unwrap().ino;
    world.fs.setxattr(dir, b"user.a", b"v", XattrMode::Any).unwrap();
    world.fs.rmdir(ROOT, b"d").unwrap();
    world.fs.unlink(ROOT, b"l").unwrap();
    world.fs.unlink(ROOT, b"p").unwrap();
    assert_eq!(world.fs.readlink(link).unwrap(), b"target");
    assert_eq!(world.fs.getattr(link).unwrap().stat.size, 6);
    assert_eq!(world.fs.getxattr(dir, b"user.a").unwrap(), b"v");
    assert_eq!(errno(world.fs.create(dir, b"x", 0o600, OpenFlags::WRITE, ME)), libc::ENOENT);
    assert_eq!(errno(world.fs.lookup(dir, b"x")), libc::ENOENT);
    let stream = world.fs.opendir(dir).unwrap();
    let listed = world.fs.readdir(stream, 0, |entry| panic!("a removed directory has {entry:?}"));
    assert_eq!(errno(listed), libc::ENOENT, "as getdents(2) has it");
    world.fs.releasedir(stream).unwrap();
    let at = Some(SetTime::At(1, 5));
    let owner = Creator { uid: 7, gid: 8 };
    for (id, mode) in [(dir, Some(0o700)), (link, None), (fifo, Some(0o600))] {
        let (uid, gid) = (Some(owner.uid), Some(owner.gid));
        let set = SetAttr { mode, uid, gid, mtime: at, ..SetAttr::default() };
        let stat = world.fs.setattr(id, &Change::of(set)).unwrap().stat;
        assert_eq!((stat.uid, stat.gid, stat.mtime.s, stat.mtime.ns), (7, 8, 1, 5));
        assert!(mode.is_none_or(|mode| mode == stat.mode), "{id:?}: {:o}", stat.mode);
        world.fs.forget(id, 1);
    }
    assert_eq!(world.fs.inode_count(), 0);
}

#[test]
fn a_rename_over_an_open_file_leaves_both_whole() {
    let world = World::new();
    let old = world.file(ROOT, "f", "old").ino;
    let new = world.file(ROOT, "f.tmp", "").ino;
    let (reading, writing) = (world.open(old, OpenFlags::READ), world.open(new, OpenFlags::WRITE));
    world.fs.write(writing, 0, b"new", Privileges::Keep).unwrap();
    assert_eq!(world.rename((ROOT, "f.tmp"), (ROOT, "f"), RenameMode::Replace), 0);
    assert_eq!(world.lookup(ROOT, "f").unwrap().ino, new);
    assert_eq!(world.read(reading), "old");
    assert_eq!(world.fs.getattr(old).unwrap().stat.nlink, 0);
    assert_eq!(world.list(ROOT), names(&["f"]));
    // Committed by the rename, without a flush: another opening of the store sees it.
    let volume = world.disk.open();
    let copy = Fs::new(volume.clone(), volume.root().unwrap());
    let found = copy.lookup(ROOT, b"f").unwrap().ino;
    let handle = copy.open(found, OpenFlags::READ).unwrap();
    assert_eq!(&*copy.read(handle, 0, 10).unwrap(), b"new");
    world.fs.release(reading).unwrap();
    world.fs.release(writing).unwrap();
}

#[test]
fn each_kind_of_rename_does_what_linux_says() {
    let world = World::new();
    let (a, b) = (world.dir(ROOT, "a"), world.dir(ROOT, "b"));
    let (one, two) = (world.file(a, "one", "1").ino, world.file(b, "two", "2").ino);
    assert_eq!(world.rename((a, "one"), (b, "two"), RenameMode::NoReplace), libc::EEXIST);
    assert_eq!(world.rename((a, "one"), (b, "none"), RenameMode::Exchange), libc::ENOENT);
    assert_eq!(world.rename((a, "none"), (b, "two"), RenameMode::Replace), libc::ENOENT);
    assert_eq!(world.rename((a, "one"), (b, "two"), RenameMode::Exchange), 0);
    assert_eq!((world.content(one), world.content(two)), ("1".into(), "2".into()));
    assert_eq!(world.lookup(a, "one").unwrap().ino, two);
    assert_eq!(world.lookup(b, "two").unwrap().ino, one);
    world.fs.unlink(a, b"one").unwrap();
    assert_eq!(world.fs.getattr(one).unwrap().stat.nlink, 1);
    assert_eq!(world.fs.getattr(two).unwrap().stat.nlink, 0);
    // Two names of one file: nothing happens.
    world.fs.link(one, a, b"same").unwrap();
    assert_eq!(world.rename((b, "two"), (a, "same"), RenameMode::Replace), 0);
    assert_eq!(world.fs.getattr(one).unwrap().stat.nlink, 2);
    // Directories: over an empty one, not over a full one, not below itself.
    let (c, d) = (world.dir(ROOT, "c"), world.dir(ROOT, "d"));
    world.file(c, "inside", "3");
    assert_eq!(world.rename((ROOT, "d"), (ROOT, "c"), RenameMode::Replace), libc::ENOTEMPTY);
    assert_eq!(world.rename((ROOT, "c"), (ROOT, "d"), RenameMode::Replace), 0);
    assert_eq!(world.list(c), names(&["inside"]));
    assert_eq!(world.lookup(ROOT, "d").unwrap().ino, c);
    assert_eq!(world.fs.getattr(d).unwrap().stat.nlink, 0);
    assert_eq!(errno(world.fs.create(d, b"x", 0o600, OpenFlags::WRITE, ME)), libc::ENOENT);
    assert_eq!(world.rename((ROOT, "d"), (c, "x"), RenameMode::Replace), libc::EINVAL);
    assert_eq!(world.rename((ROOT, "d"), (b, "two"), RenameMode::Replace), libc::ENOTDIR);
    assert_eq!(world.rename((b, "two"), (ROOT, "d"), RenameMode::Replace), libc::EISDIR);
}

/// More directories than stay open, so that each has to be found again through those above it,
/// all of which were renamed meanwhile.
#[test]
fn a_directory_is_found_again_wherever_it_was_moved() {
    let world = World::new();
    let mut deepest = world.dir(ROOT, "top");
    let mut chain = vec![deepest];
    for _ in 0..40 {
        deepest = world.dir(deepest, "down");
        chain.push(deepest);
    }
    let file = world.file(deepest, "f", "content").ino;
    for index in 0..300 {
        let dir = world.dir(ROOT, &format!("other{index}"));
        world.file(dir, "f", "x");
    }
    for parent in chain.windows(2) {
        assert_eq!(world.rename((parent[0], "down"), (parent[0], "low"), RenameMode::Replace), 0);
    }
    assert_eq!(world.rename((ROOT, "top"), (ROOT, "new"), RenameMode::Replace), 0);
    for index in 0..300 {
        let dir = world.lookup(ROOT, &format!("other{index}")).unwrap().ino;
        assert_eq!(world.list(dir), names(&["f"]));
    }
    assert_eq!(world.content(file), "content");
    assert_eq!(world.list(deepest), names(&["f"]));
    let path = ["new"].into_iter().chain(["low"; 40]).collect::<Vec<_>>().join("/");
    let found = world.fs.resolve(format!("/{path}/f").as_bytes(), Follow::No).unwrap();
    assert_eq!(found.stat.ino, world.fs.getattr(file).unwrap().stat.ino);
}

#[test]
fn a_stream_lists_what_stays_exactly_once_whatever_comes_and_goes() {
    let world = World::new();
    let dir = world.dir(ROOT, "d");
    let all: Vec<String> = (0..100).map(|index| format!("f{index:03}")).collect();
    for name in &all {
        world.file(dir, name, "x");
    }
    let handle = world.fs.opendir(dir).unwrap();
    let batch = |offset: u64, count: usize| {
        let mut taken = Vec::new();
        world
            .fs
            .readdir(handle, offset, |entry| {
                if taken.len() == count {
                    return false;
                }
                taken.push((entry.next, String::from_utf8(entry.name.to_vec()).unwrap()));
                true
            })
            .unwrap();
        taken
    };
    let first = batch(0, 10);
    for name in &all[..50] {
        world.fs.unlink(dir, name.as_bytes()).unwrap();
    }
    world.file(dir, "late", "x");
    let mut seen = first.clone();
    while let Some((next, _)) = seen.last() {
        let more = batch(*next, 7);
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    let places: Vec<_> = seen.iter().map(|(next, _)| *next).collect();
    let seen: Vec<_> = seen.into_iter().map(|(_, name)| name).collect();
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "nothing twice");
    for name in &all[50..] {
        assert!(seen.contains(name), "{name} stayed");
    }
    // A place in the stream is found again, also that of an entry which is gone.
    let after = |index: usize| -> Vec<_> {
        let there = |name: &&String| !all[..50].contains(name);
        seen[index + 1..].iter().filter(there).cloned().collect()
    };
    for index in [1, 4, 9, seen.len() - 2] {
        let rest = batch(places[index], 1000).into_iter().map(|(_, name)| name);
        let rest: Vec<_> = rest.filter(|name| name != "late").collect();
        let wanted: Vec<_> = after(index).into_iter().filter(|name| name != "late").collect();
        assert_eq!(rest, wanted, "after {index}");
    }
    // Rewound, it lists what is there now.
    let again: Vec<_> = batch(0, 1000).into_iter().map(|(_, name)| name).collect();
    assert_eq!(again.len(), 2 + 50 + 1);
    assert!(again.contains(&"late".into()));
}

#[test]
fn a_listing_with_attributes_hands_out_what_was_taken_and_no_more() {
    let world = World::new();
    let dir = world.dir(ROOT, "d");
    for index in 0..10 {
        let id = world.file(dir, &format!("f{index}"), "12345").ino;
        world.fs.forget(id, 1);
    }
    assert_eq!(world.fs.inode_count(), 1);
    let handle = world.fs.opendir(dir).unwrap();
    world.fs.unlink(dir, b"f7").unwrap();
    // The first of those that were handed out, and the dots, wherever the disk lists them.
    let mut taken = Vec::new();
    let take = |from: u64, count: usize, taken: &mut Vec<_>| {
        let mut more = count;
        world
            .fs
            .readdirplus(handle, from, |entry| {
                let dot = matches!(entry.name, b"." | b"..");
                assert_eq!(entry.attr.is_none(), dot, "the dots are never handed out");
                if dot {
                    let wanted = if entry.name == b"." { dir } else { ROOT };
                    assert_eq!(entry.ino, wanted);
                } else if more == 0 {
                    return false;
                } else {
                    assert_eq!(entry.attr.unwrap().stat.size, 5);
                    more -= 1;
                    taken.push((entry.ino, entry.name.to_vec(), entry.next));
                }
                true
            })
            .unwrap();
    };
    take(0, 4, &mut taken);
    assert_eq!(world.fs.inode_count(), 1 + 4);
    // Gone after it was listed: not listed with attributes.
    let gone = (0..10)
        .map(|index| format!("f{index}"))
        .find(|name| name != "f7" && !taken.iter().any(|(_, taken, _)| taken == name.as_bytes()));
    world.fs.unlink(dir, gone.unwrap().as_bytes()).unwrap();
    let last = taken.last().unwrap().2;
    take(last, 100, &mut taken);
    assert_eq!(taken.len(), 8);
    assert_eq!(world.fs.inode_count(), 1 + 8);
    for (id, _, _) in &taken {
        world.fs.forget(*id, 1);
    }
    assert_eq!(world.fs.inode_count(), 1);
}
