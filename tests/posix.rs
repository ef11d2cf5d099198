//! The file system without a mount: what names, inodes and handles mean.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "support/volume.rs"]
mod volume;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cmkfs::file::VolumeOptions;
use cmkfs::fs::{
    Allocate, Attr, Change, Follow, Fs, FsError, HandleId, InodeId, Kind, NodeKind, OpenFlags,
    Privileges, RenameMode, Seek, SetAttr, SetTime, Sync, Time, XattrMode,
};
use volume::{ME, Throwaway};

const ROOT: InodeId = InodeId::ROOT;

/// A volume and the file system on it.
struct World {
    disk: Throwaway,
    fs: Arc<Fs>,
}

impl World {
    fn new() -> Self {
        Self::over(Throwaway::new(4096), &VolumeOptions::default())
    }

    fn over(disk: Throwaway, options: &VolumeOptions) -> Self {
        let volume = disk.open_with(options);
        let root = volume.root().unwrap();
        Self { disk, fs: Fs::new(volume, root) }
    }

    /// Closed and opened again.
    fn again(self) -> Self {
        self.again_with(&VolumeOptions::default())
    }

    fn again_with(self, options: &VolumeOptions) -> Self {
        self.fs.finish().unwrap();
        drop(self.fs);
        Self::over(self.disk, options)
    }

    fn file(&self, parent: InodeId, name: &str, content: &str) -> Attr {
        let flags = OpenFlags { exclusive: true, ..OpenFlags::WRITE };
        let (attr, handle) = self.fs.create(parent, name.as_bytes(), 0o644, flags, ME).unwrap();
        self.fs.write(handle, 0, content.as_bytes(), Privileges::Keep).unwrap();
        self.fs.release(handle).unwrap();
        attr
    }

    fn dir(&self, parent: InodeId, name: &str) -> InodeId {
        self.fs.mkdir(parent, name.as_bytes(), 0o755, ME).unwrap().ino
    }

    fn open(&self, id: InodeId, flags: OpenFlags) -> HandleId {
        self.fs.open(id, flags).unwrap()
    }

    fn read(&self, handle: HandleId) -> String {
        String::from_utf8(self.fs.read(handle, 0, 1 << 20).unwrap().to_vec()).unwrap()
    }

    fn content(&self, id: InodeId) -> String {
        let handle = self.open(id, OpenFlags::READ);
        let content = self.read(handle);
        self.fs.release(handle).unwrap();
        content
    }

    fn lookup(&self, parent: InodeId, name: &str) -> Result<Attr, FsError> {
        self.fs.lookup(parent, name.as_bytes())
    }

    fn list(&self, dir: InodeId) -> BTreeSet<String> {
        let handle = self.fs.opendir(dir).unwrap();
        let mut names = BTreeSet::new();
        self.fs
            .readdir(handle, 0, |entry| {
                assert!(names.insert(String::from_utf8(entry.name.to_vec()).unwrap()));
                true
            })
            .unwrap();
        self.fs.releasedir(handle).unwrap();
        names
    }

    fn rename(&self, from: (InodeId, &str), to: (InodeId, &str), mode: RenameMode) -> i32 {
        let (name, new_name) = (from.1.as_bytes(), to.1.as_bytes());
        errno(self.fs.rename(from.0, name, to.0, new_name, mode))
    }
}

/// 0 for success.
fn errno<T>(done: Result<T, FsError>) -> i32 {
    done.map_or_else(|error| error.errno(), |_| 0)
}

fn names(of: &[&str]) -> BTreeSet<String> {
    [".", ".."].iter().chain(of).map(ToString::to_string).collect()
}

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
    assert_eq!(world.fs.listxattr(file).unwrap(), b"");
    assert_eq!(errno(world.fs.getxattr(file, b"user.a")), libc::ENODATA);
    // A new file of that name is another one.
    let other = world.file(ROOT, "f", "other").ino;
    assert_ne!(other, file, "the number is not given away while the file is known");
    assert_eq!(world.read(handle), "con");
    world.fs.release(handle).unwrap();
    assert_eq!(world.fs.getattr(file).unwrap().stat.nlink, 0);
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
fn a_stream_lists_what_was_there_when_it_was_opened_or_rewound() {
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
    assert_eq!((&*first[0].1, &*first[1].1), (".", ".."));
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
    let seen: Vec<_> = seen.into_iter().map(|(_, name)| name).collect();
    assert_eq!(seen.len(), 102, "each of what was there, once");
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 102);
    assert!(!seen.contains(&"late".into()));
    // A place in the stream is found again.
    assert_eq!(batch(first[4].0, 5), first[5..10]);
    // Rewound, it lists what is there now.
    let again: Vec<_> = batch(0, 1000).into_iter().map(|(_, name)| name).collect();
    assert_eq!(again.len(), 2 + 50 + 1);
    assert!(again.contains(&"late".into()));
    assert_eq!(batch(u64::MAX, 10), vec![]);
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
    let mut taken = Vec::new();
    world
        .fs
        .readdirplus(handle, 0, |entry| {
            if taken.len() == 6 {
                return false;
            }
            taken.push((entry.ino, entry.attr));
            true
        })
        .unwrap();
    assert!(taken[..2].iter().all(|(_, attr)| attr.is_none()), "the dots are never handed out");
    assert_eq!((taken[0].0, taken[1].0), (dir, ROOT));
    assert!(taken[2..].iter().all(|(_, attr)| attr.unwrap().stat.size == 5));
    assert_eq!(world.fs.inode_count(), 1 + 4);
    for (id, _) in &taken[2..] {
        world.fs.forget(*id, 1);
    }
    assert_eq!(world.fs.inode_count(), 1);
    // Gone after the list was made: not listed with attributes.
    world.fs.unlink(dir, b"f8").unwrap();
    let mut count = 0;
    world
        .fs
        .readdirplus(handle, 2, |_| {
            count += 1;
            true
        })
        .unwrap();
    assert_eq!(count, 8);
}

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
