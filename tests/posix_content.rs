//! The file system without a mount: content, attributes, paths.

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
use std::sync::atomic::{AtomicUsize, Ordering};

use cmkfs::file::VolumeOptions;
use cmkfs::fs::{
    Allocate, Change, Follow, InodeId, Kind, NodeKind, OpenFlags, Privileges, RenameMode, Seek,
    SetAttr, SetTime, Time, XattrMode,
};
use volume::ME;
use world::{ROOT, World, errno};

#[test]
fn lines_appended_by_many_are_all_there() {
    let world = World::new();
    let file = world.file(ROOT, "log", "").ino;
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let world = &world;
            scope.spawn(move || {
                let handle = world.open(file, OpenFlags::WRITE);
                for line in 0..200 {
                    let text = format!("writer {writer} line {line:04}\n");
                    world.fs.append(handle, text.as_bytes()).unwrap();
                }
                world.fs.release(handle).unwrap();
            });
        }
    });
    let content = world.content(file);
    let lines: BTreeSet<&str> = content.lines().collect();
    assert_eq!((content.len(), lines.len()), (800 * 19, 800));
}

#[test]
fn an_inode_is_never_taken_for_another_while_names_change_hands() {
    let world = World::new();
    let ids: Vec<InodeId> = (0..2)
        .map(|index| world.file(ROOT, &format!("f{index}"), &index.to_string()).ino)
        .collect();
    let working = AtomicUsize::new(ids.len());
    std::thread::scope(|scope| {
        let (world, working) = (&world, &working);
        scope.spawn(move || {
            while working.load(Ordering::Acquire) > 0 {
                assert_eq!(world.rename((ROOT, "f0"), (ROOT, "f1"), RenameMode::Exchange), 0);
            }
        });
        for (index, id) in ids.iter().enumerate() {
            scope.spawn(move || {
                for _ in 0..300 {
                    assert_eq!(world.content(*id), index.to_string());
                    let mode = 0o600 + index as u32;
                    let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
                    let attr = world.fs.setattr(*id, &Change::of(set)).unwrap();
                    assert_eq!((attr.ino, attr.stat.mode), (*id, mode));
                }
                working.fetch_sub(1, Ordering::Release);
            });
        }
    });
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(world.fs.getattr(*id).unwrap().stat.mode, 0o600 + index as u32);
    }
}

#[test]
fn what_is_there_is_opened_unless_it_must_be_new() {
    let world = World::new();
    let file = world.file(ROOT, "f", "content").ino;
    let create = |flags| world.fs.create(ROOT, b"f", 0o600, flags, ME);
    assert_eq!(errno(create(OpenFlags { exclusive: true, ..OpenFlags::WRITE })), libc::EEXIST);
    let (attr, handle) = create(OpenFlags::WRITE).unwrap();
    assert_eq!((attr.ino, attr.stat.mode), (file, 0o644));
    assert_eq!(world.read(handle), "content");
    world.fs.release(handle).unwrap();
    let (_, handle) = create(OpenFlags { truncate: true, ..OpenFlags::WRITE }).unwrap();
    assert_eq!(world.read(handle), "");
    world.fs.release(handle).unwrap();
    world.fs.forget(file, 3);
    assert_eq!((world.fs.inode_count(), world.fs.handle_count()), (0, 0));
    world.dir(ROOT, "d");
    let flags = OpenFlags::WRITE;
    assert_eq!(errno(world.fs.create(ROOT, b"d", 0o600, flags, ME)), libc::EISDIR);
}

#[test]
fn content_that_is_changed_by_others_than_root_loses_its_privileges() {
    let world = World::new();
    let mode = |id| world.fs.getattr(id).unwrap().stat.mode;
    let set = |id, mode| {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        world.fs.setattr(id, &Change::of(set)).unwrap();
    };
    let file = world.file(ROOT, "f", "content").ino;
    set(file, 0o6755);
    let handle = world.open(file, OpenFlags::WRITE);
    world.fs.write(handle, 0, b"a", Privileges::Keep).unwrap();
    assert_eq!(mode(file), 0o6755);
    world.fs.write(handle, 0, b"a", Privileges::Drop).unwrap();
    assert_eq!(mode(file), 0o755);
    set(file, 0o6745);
    world.fs.write(handle, 0, b"a", Privileges::Drop).unwrap();
    assert_eq!(mode(file), 0o2745, "without execution by the group the bit means something else");
    set(file, 0o4755);
    let allocate = Allocate::PunchHole;
    world.fs.fallocate(handle, allocate, 0, 1, Privileges::Drop).unwrap();
    assert_eq!(mode(file), 0o755);
    set(file, 0o4755);
    world.fs.release(handle).unwrap();
    let cut = Change { privileges: Privileges::Drop, ..Change::size(1) };
    assert_eq!(world.fs.setattr(file, &cut).unwrap().stat.mode, 0o755);
    // A change of owner takes them from whoever makes it (chown(2)), as on ext4.
    set(file, 0o6755);
    let owner = SetAttr { uid: Some(1), gid: Some(1), ..SetAttr::default() };
    assert_eq!(world.fs.setattr(file, &Change::of(owner)).unwrap().stat.mode, 0o755);
    let owner = SetAttr { mode: Some(0o4755), uid: Some(0), ..SetAttr::default() };
    assert_eq!(world.fs.setattr(file, &Change::of(owner)).unwrap().stat.mode, 0o4755);
}

#[test]
fn attributes_and_extended_attributes_stay() {
    let world = World::new();
    let dir = world.dir(ROOT, "d");
    let file = world.file(dir, "f", "content").ino;
    let link = world.fs.symlink(dir, b"l", b"f", ME).unwrap().ino;
    let (atime, mtime) = (SetTime::At(-1, 500_000_000), SetTime::At(1 << 33, 7));
    let times = SetAttr { atime: Some(atime), mtime: Some(mtime), ..SetAttr::default() };
    for id in [ROOT, dir, file, link] {
        let attr = world.fs.setattr(id, &Change::of(times)).unwrap();
        assert_eq!(attr.stat.mtime, Time { s: 1 << 33, ns: 7 });
        assert_eq!(attr.stat.atime, Time { s: -1, ns: 500_000_000 });
    }
    for id in [ROOT, dir, file] {
        world.fs.setxattr(id, b"user.colour", b"blue", XattrMode::Create).unwrap();
        let again = world.fs.setxattr(id, b"user.colour", b"red", XattrMode::Create);
        assert_eq!(errno(again), libc::EEXIST);
    }
    let world = world.again();
    let dir = world.lookup(ROOT, "d").unwrap().ino;
    let file = world.lookup(dir, "f").unwrap().ino;
    let link = world.lookup(dir, "l").unwrap().ino;
    assert_eq!(world.fs.readlink(link).unwrap(), b"f");
    assert_eq!(errno(world.fs.readlink(file)), libc::EINVAL);
    for id in [ROOT, dir, file] {
        assert_eq!(world.fs.getattr(id).unwrap().stat.mtime, Time { s: 1 << 33, ns: 7 });
        assert_eq!(world.fs.getxattr(id, b"user.colour").unwrap(), b"blue");
        assert_eq!(world.fs.listxattr(id).unwrap(), b"user.colour\0");
        world.fs.removexattr(id, b"user.colour").unwrap();
        assert_eq!(errno(world.fs.getxattr(id, b"user.colour")), libc::ENODATA);
        assert_eq!(errno(world.fs.removexattr(id, b"user.colour")), libc::ENODATA);
    }
    assert_eq!(errno(world.fs.setattr(dir, &Change::size(0))), libc::EISDIR);
    assert_eq!(errno(world.fs.setattr(ROOT, &Change::size(0))), libc::EISDIR);
    assert_eq!(errno(world.fs.setattr(link, &Change::size(0))), libc::EINVAL);
}

#[test]
fn attributes_are_not_to_be_remembered_before_they_are_final() {
    let world = World::new();
    let file = world.file(ROOT, "f", "").ino;
    let handle = world.open(file, OpenFlags::WRITE);
    world.fs.write(handle, 0, &[1; 10_000], Privileges::Keep).unwrap();
    assert!(!world.fs.getattr(file).unwrap().settled);
    assert!(!world.lookup(ROOT, "f").unwrap().settled);
    world.fs.flush(handle).unwrap();
    let attr = world.lookup(ROOT, "f").unwrap();
    assert!(attr.settled);
    assert_eq!(world.fs.getattr(file).unwrap(), attr);
    world.fs.release(handle).unwrap();
    assert_eq!(world.fs.getattr(file).unwrap(), attr, "closing changes nothing any more");
}

#[test]
fn a_name_has_1_to_255_bytes_and_no_slash() {
    let world = World::new();
    let refused: [(&[u8], i32); 6] = [
        (b"", libc::EINVAL),
        (b".", libc::EINVAL),
        (b"..", libc::EINVAL),
        (b"a/b", libc::EINVAL),
        (b"a\0b", libc::EINVAL),
        (&[b'x'; 256], libc::ENAMETOOLONG),
    ];
    for (name, wanted) in refused {
        assert_eq!(errno(world.fs.lookup(ROOT, name)), wanted, "{name:?}");
        assert_eq!(errno(world.fs.mkdir(ROOT, name, 0o755, ME)), wanted, "{name:?}");
        assert_eq!(errno(world.fs.unlink(ROOT, name)), wanted, "{name:?}");
        let rename = world.fs.rename(ROOT, b"x", ROOT, name, RenameMode::Replace);
        assert_eq!(errno(rename), wanted, "{name:?}");
    }
    let longest = [b'x'; 255];
    world.fs.mkdir(ROOT, &longest, 0o755, ME).unwrap();
    assert!(world.fs.lookup(ROOT, &longest).is_ok());
}

#[test]
fn nothing_changes_on_a_volume_that_is_read_only() {
    let world = World::new();
    let dir = world.dir(ROOT, "d");
    world.file(dir, "f", "content");
    let read_only = VolumeOptions { read_only: true, ..VolumeOptions::default() };
    let world = world.again_with(&read_only);
    let fs = &world.fs;
    let dir = world.lookup(ROOT, "d").unwrap().ino;
    let file = world.lookup(dir, "f").unwrap().ino;
    assert_eq!(world.content(file), "content");
    let set = Change::of(SetAttr { mode: Some(0o600), ..SetAttr::default() });
    let refused = [
        errno(fs.open(file, OpenFlags::WRITE)),
        errno(fs.create(dir, b"x", 0o600, OpenFlags::WRITE, ME)),
        errno(fs.mknod(dir, b"x", NodeKind::Fifo, 0o600, ME)),
        errno(fs.mkdir(dir, b"x", 0o700, ME)),
        errno(fs.symlink(dir, b"x", b"y", ME)),
        errno(fs.link(file, dir, b"x")),
        errno(fs.unlink(dir, b"f")),
        errno(fs.rmdir(ROOT, b"d")),
        errno(fs.rename(dir, b"f", dir, b"x", RenameMode::Replace)),
        errno(fs.setattr(file, &Change::size(0))),
        errno(fs.setattr(file, &set)),
        errno(fs.setxattr(file, b"user.a", b"b", XattrMode::Any)),
        errno(fs.removexattr(file, b"user.a")),
    ];
    assert_eq!(refused, [libc::EROFS; 13]);
}

#[test]
fn ranges_are_reserved_punched_sought_and_copied() {
    let world = World::new();
    let file = world.file(ROOT, "f", "").ino;
    let handle = world.open(file, OpenFlags::WRITE);
    let keep = Privileges::Keep;
    world.fs.write(handle, 0, &[7; 40_000], keep).unwrap();
    world.fs.fallocate(handle, Allocate::PunchHole, 8192, 8192, keep).unwrap();
    assert_eq!(&world.fs.read(handle, 8191, 3).unwrap()[..], [7, 0, 0]);
    assert_eq!(world.fs.lseek(handle, 0, Seek::Hole).unwrap(), 8192);
    assert_eq!(world.fs.lseek(handle, 8192, Seek::Data).unwrap(), 16384);
    assert_eq!(errno(world.fs.lseek(handle, 40_000, Seek::Data)), libc::ENXIO);
    let none = Allocate::Reserve { keep_size: false };
    assert_eq!(errno(world.fs.fallocate(handle, none, 0, 0, keep)), libc::EINVAL);
    world.fs.fallocate(handle, none, 0, 50_000, keep).unwrap();
    assert_eq!(world.fs.getattr(file).unwrap().stat.size, 50_000);
    let copy = |from, to, len| world.fs.copy_file_range((handle, from), (handle, to), len, keep);
    assert_eq!(errno(copy(0, 100, 101)), libc::EINVAL, "they overlap");
    assert_eq!(copy(0, 8192, 100).unwrap(), 100);
    assert_eq!(&world.fs.read(handle, 8291, 2).unwrap()[..], [7, 0]);
    assert_eq!(copy(49_990, 60_000, 100).unwrap(), 10, "fewer at the end of the source");
    world.fs.release(handle).unwrap();
}

#[test]
fn paths_are_walked_and_nothing_leads_out() {
    let world = World::new();
    let (a, _) = (world.dir(ROOT, "a"), world.dir(ROOT, "b"));
    let file = world.file(a, "f", "content").stat.ino;
    for (name, target) in [
        ("rel", "f"),
        ("abs", "/a/f"),
        ("up", "../../../../a/f"),
        ("dir", "/a/"),
        ("circle", "circle"),
        ("nowhere", "none"),
    ] {
        world.fs.symlink(a, name.as_bytes(), target.as_bytes(), ME).unwrap();
    }
    let find = |path: &str, follow| {
        world.fs.resolve(path.as_bytes(), follow).map(|found| (found.stat.ino, found.stat.kind))
    };
    let same = ["/a/f", "a/f", "a//./f", "b/../a/f", "../a/f", "a/rel", "a/abs", "a/up"];
    for path in same.into_iter().chain(["a/dir/f", "a/dir/dir/rel"]) {
        assert_eq!(find(path, Follow::Yes).unwrap(), (file, Kind::File), "{path}");
    }
    let root = world.fs.getattr(ROOT).unwrap().stat.ino;
    for path in ["", "/", ".", "..", "a/..", "/a/../.."] {
        assert_eq!(find(path, Follow::No).unwrap(), (root, Kind::Dir), "{path}");
    }
    assert_eq!(find("a/rel", Follow::No).unwrap().1, Kind::Symlink);
    assert_eq!(find("a/dir/", Follow::No).unwrap().1, Kind::Dir);
    assert_eq!(errno(find("a/circle", Follow::Yes)), libc::ELOOP);
    assert_eq!(errno(find("a/nowhere", Follow::Yes)), libc::ENOENT);
    assert_eq!(errno(find("a/f/x", Follow::Yes)), libc::ENOTDIR);
    assert_eq!(errno(find("a/f/", Follow::Yes)), libc::ENOTDIR);
    let (parent, name) = world.fs.resolve_parent(b"a/dir/new/").unwrap();
    assert_eq!((parent.ino(), &name[..]), (world.fs.getattr(a).unwrap().stat.ino, &b"new"[..]));
    assert_eq!(errno(world.fs.resolve_parent(b"/")), libc::EINVAL);
    assert_eq!(errno(world.fs.resolve_parent(b"a/..")), libc::EINVAL);
    assert_eq!(errno(world.fs.resolve_parent(b"a/f/x")), libc::ENOTDIR);
    assert_eq!(world.fs.inode_count(), 9, "walking hands nothing out");
}
