//! The file system without a mount, where few directories stay open: each has to be found again by
//! names, which somebody forgets, moves or removes meanwhile.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/volume.rs"]
mod volume;
#[path = "support/world.rs"]
mod world;

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use cmkfs::file::VolumeOptions;
use cmkfs::fs::{Change, InodeId, OpenFlags, Privileges, RenameMode, SetAttr, XattrMode};
use volume::{ME, Throwaway};
use world::{ROOT, World, names};

fn world_with_one_open_dir() -> World {
    let options = VolumeOptions { open_dirs: NonZero::<usize>::MIN, ..VolumeOptions::default() };
    World::over(Throwaway::new(4096), &options)
}

/// The kernel forgets a directory when it needs memory, though a file that is in use has one of
/// its names there.
#[test]
fn a_file_is_used_by_one_name_when_the_directory_of_the_other_was_forgotten() {
    let world = world_with_one_open_dir();
    let (above, two) = (world.dir(ROOT, "above"), world.dir(ROOT, "two"));
    let one = world.dir(above, "one");
    let file = world.file(one, "a", "content").ino;
    assert_eq!(world.fs.link(file, two, b"b").unwrap().ino, file);
    world.fs.forget(file, 1);
    world.fs.forget(one, 1);
    world.fs.forget(above, 1);
    let reading = world.open(file, OpenFlags::READ);
    world.list(two);
    world.fs.setxattr(file, b"user.a", b"v", XattrMode::Create).unwrap();
    let writing = world.open(file, OpenFlags::WRITE);
    world.fs.write(writing, 0, b"CONTENT", Privileges::Keep).unwrap();
    world.fs.release(writing).unwrap();
    world.fs.release(reading).unwrap();
    assert_eq!(world.content(file), "CONTENT");
    assert_eq!(world.fs.setattr(file, &Change::size(3)).unwrap().stat.size, 3);
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(world.fs.setattr(file, &Change::of(mode)).unwrap().stat.mode, 0o600);
    assert_eq!(world.fs.link(file, two, b"c").unwrap().stat.nlink, 3);
    // What was forgotten is the only way left, also after it was moved.
    world.fs.unlink(two, b"b").unwrap();
    world.fs.unlink(two, b"c").unwrap();
    assert_eq!(world.rename((ROOT, "above"), (two, "below"), RenameMode::Replace), 0);
    assert_eq!(world.list(two), names(&["below"]));
    assert_eq!(world.fs.getattr(file).unwrap().stat.nlink, 1);
    assert_eq!(world.content(file), "CON");
    world.fs.forget(file, 2);
    assert_eq!(world.fs.inode_count(), 1, "what was known for its sake is forgotten with it");
    world.fs.forget(two, 1);
    assert_eq!(world.fs.inode_count(), 0);
}

/// Does something again and again while another thread does `meanwhile` a number of times.
fn during(meanwhile: impl Fn(usize) + Sync, again: impl Fn()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            (0..4000).for_each(&meanwhile);
            done.store(true, Ordering::Relaxed);
        });
        // A panic of the other one must not leave this one waiting.
        while !done.load(Ordering::Relaxed) && !other.is_finished() {
            again();
        }
    });
}

#[test]
fn a_directory_is_used_while_one_above_it_is_renamed() {
    let world = world_with_one_open_dir();
    let moved = world.dir(ROOT, "A");
    let sub = world.dir(moved, "sub");
    let other = world.dir(ROOT, "other");
    let file = world.file(sub, "kept", "content").ino;
    let places = [(ROOT, "A"), (ROOT, "B"), (other, "A"), (ROOT, "A")];
    let rename = |round: usize| {
        let (from, to) = (places[round % 3], places[round % 3 + 1]);
        assert_eq!(world.rename(from, to, RenameMode::Replace), 0, "{round}");
    };
    let mode = SetAttr { mode: Some(0o640), ..SetAttr::default() };
    let use_it = || {
        world.list(other);
        assert_eq!(world.list(sub), names(&["kept"]));
        world.list(other);
        world.fs.setxattr(sub, b"user.a", b"v", XattrMode::Any).unwrap();
        world.list(other);
        let made = world.file(sub, "new", "x").ino;
        world.list(other);
        world.fs.setattr(file, &Change::of(mode)).unwrap();
        world.list(other);
        world.fs.unlink(sub, b"new").unwrap();
        world.fs.forget(made, 1);
        world.list(other);
        assert_eq!(world.content(file), "content");
        world.list(other);
        assert_eq!(world.lookup(sub, "kept").unwrap().ino, file);
        world.fs.forget(file, 1);
    };
    during(rename, use_it);
}

#[test]
fn a_directory_that_is_being_removed_is_there_or_is_not() {
    let world = world_with_one_open_dir();
    let above = world.dir(ROOT, "above");
    let latest = AtomicU64::new(above.0);
    let make_and_remove = |_| {
        let dir = world.fs.mkdir(above, b"d", 0o755, ME).unwrap().ino;
        latest.store(dir.0, Ordering::Relaxed);
        world.fs.rmdir(above, b"d").unwrap();
        world.fs.forget(dir, 1);
    };
    let look = || {
        let dir = InodeId(latest.load(Ordering::Relaxed));
        match world.fs.opendir(dir) {
            Ok(stream) => world.fs.releasedir(stream).unwrap(),
            Err(error) => assert_eq!(error.errno(), libc::ENOENT, "{error}"),
        }
    };
    during(make_and_remove, look);
}
