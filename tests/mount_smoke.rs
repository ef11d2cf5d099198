//! Through the kernel: names, content and attributes with ordinary calls.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "support/served.rs"]
mod served;
#[path = "support/volume.rs"]
mod volume;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use cmkfs::fuse::mount_at;
use rustix::fs::{FallocateFlags, RenameFlags, SeekFrom as Sought, XattrFlags};
use served::{World, errno, options, pattern, serve};

#[test]
fn a_mount_shows_what_it_is_and_ends_by_umount_of_anybody() {
    let mut world = World::new();
    let shown = mount_at(&world.point.path().canonicalize().unwrap()).unwrap().unwrap();
    assert_eq!(shown.kind, "fuse.cmkfs");
    assert_eq!(shown.source, world.disk.path().to_str().unwrap());
    assert_eq!(fs::metadata(world.point.path()).unwrap().ino(), 1);
    let (major, minor) = shown.device;
    let read_ahead = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    assert_eq!(fs::read_to_string(read_ahead).unwrap().trim(), "1024");
    fs::write(world.path("f"), "x").unwrap();
    let status = Command::new("umount").arg(world.point.path()).status().unwrap();
    assert!(status.success());
    world.mounted.take().unwrap().wait().unwrap();
    assert_eq!(fs::read_dir(world.point.path()).unwrap().count(), 0);
    assert_eq!((world.fs.inode_count(), world.fs.handle_count()), (0, 0));
    let (fs, mounted) = serve(&world.disk, world.point.path(), &options(&world.disk));
    (world.fs, world.mounted) = (fs, Some(mounted));
    let busy = File::open(world.path("f")).unwrap();
    assert_eq!(errno(world.mounted.as_ref().unwrap().unmount()), libc::EBUSY);
    drop(busy);
    world.unmount();
}

#[test]
fn bytes_are_the_same_after_mounting_again() {
    let mut world = World::new();
    let sizes = [0, 1, 3955, 3956, 3957, 4096, 16384, 16385, 1 << 20, (1 << 20) + 7, 5_000_000];
    for size in sizes {
        fs::write(world.path(&size.to_string()), pattern(size)).unwrap();
    }
    let file = OpenOptions::new().read(true).write(true).open(world.path("5000000")).unwrap();
    file.write_all_at(b"in the middle", 2_500_000).unwrap();
    file.set_len(4_000_000).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let mut large = pattern(4_000_000);
    large[2_500_000..2_500_013].copy_from_slice(b"in the middle");
    for round in 0..2 {
        for size in sizes {
            let wanted = if size == 5_000_000 { large.clone() } else { pattern(size) };
            let read = fs::read(world.path(&size.to_string())).unwrap();
            assert_eq!(read.len(), wanted.len(), "{round}");
            assert!(read == wanted, "{size} {round}");
        }
        world.again();
    }
}

#[test]
fn times_and_space_are_the_same_after_closing_and_mounting_again() {
    let mut world = World::new();
    let mut file = File::create(world.path("f")).unwrap();
    file.write_all(&pattern(100_000)).unwrap();
    file.metadata().unwrap();
    drop(file);
    let stat = |world: &World| {
        let stat = fs::metadata(world.path("f")).unwrap();
        (stat.mtime(), stat.mtime_nsec(), stat.size(), stat.blocks(), stat.mode())
    };
    let before = stat(&world);
    assert!(before.3 * 512 >= 100_000, "{} blocks", before.3);
    world.again();
    assert_eq!(stat(&world), before);
}

#[test]
fn names_are_made_moved_and_removed() {
    let mut world = World::new();
    let path = |name: &str| world.path(name);
    fs::create_dir_all(path("a/b/c")).unwrap();
    fs::write(path("a/one"), "1").unwrap();
    fs::write(path("a/two"), "2").unwrap();
    fs::hard_link(path("a/one"), path("a/b/link")).unwrap();
    assert_eq!(fs::metadata(path("a/one")).unwrap().nlink(), 2);
    assert_eq!(
        fs::metadata(path("a/one")).unwrap().ino(),
        fs::metadata(path("a/b/link")).unwrap().ino()
    );
    symlink("b/link", path("a/sym")).unwrap();
    assert_eq!(fs::read_link(path("a/sym")).unwrap(), Path::new("b/link"));
    assert_eq!(fs::read_to_string(path("a/sym")).unwrap(), "1");
    let dir = File::open(path("a")).unwrap();
    let rename = |from: &str, to: &str, flags| {
        let done = rustix::fs::renameat_with(&dir, from, &dir, to, flags);
        errno(done.map_err(io::Error::from))
    };
    assert_eq!(rename("one", "two", RenameFlags::NOREPLACE), libc::EEXIST);
    assert_eq!(rename("one", "two", RenameFlags::EXCHANGE), 0);
    assert_eq!(rename("one", "new", RenameFlags::WHITEOUT), libc::EINVAL);
    assert_eq!(fs::read_to_string(path("a/one")).unwrap(), "2");
    assert_eq!(rename("one", "two", RenameFlags::empty()), 0);
    assert_eq!(fs::read_to_string(path("a/two")).unwrap(), "2");
    assert_eq!(fs::metadata(path("a/b/link")).unwrap().nlink(), 1);
    // A name that was looked for in vain is found once it is there.
    assert_eq!(errno(fs::metadata(path("a/later"))), libc::ENOENT);
    fs::rename(path("a/two"), path("a/later")).unwrap();
    assert_eq!(fs::read_to_string(path("a/later")).unwrap(), "2");
    assert_eq!(errno(fs::metadata(path("a/two"))), libc::ENOENT);
    assert_eq!(errno(fs::remove_dir(path("a/b"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::create_dir(path("a/b"))), libc::EEXIST);
    assert_eq!(errno(File::create(path(&"x".repeat(256)))), libc::ENAMETOOLONG);
    let longest = "\u{fc}".repeat(127) + "x";
    fs::write(path(&longest), "long").unwrap();
    fs::rename(path("a"), path("z")).unwrap();
    drop(dir);
    world.again();
    assert_eq!(fs::read_to_string(world.path(&longest)).unwrap(), "long");
    assert_eq!(fs::read_to_string(world.path("z/sym")).unwrap(), "1");
    fs::remove_dir_all(world.path("z")).unwrap();
    assert_eq!(errno(fs::metadata(world.path("z"))), libc::ENOENT);
}

#[test]
fn a_thousand_names_are_listed_once_each_while_others_come_and_go() {
    let world = World::new();
    let dir = world.path("many");
    fs::create_dir(&dir).unwrap();
    for index in 0..1000 {
        fs::write(dir.join(format!("file {index}")), "x").unwrap();
    }
    let wanted: BTreeSet<String> = (0..1000).map(|index| format!("file {index}")).collect();
    for _ in 0..2 {
        let mut seen = Vec::new();
        for (index, entry) in fs::read_dir(&dir).unwrap().enumerate() {
            let entry = entry.unwrap();
            assert!(entry.file_type().unwrap().is_file());
            let name = entry.file_name().into_string().unwrap();
            let len = u64::from(name.starts_with("file"));
            assert_eq!(entry.metadata().unwrap().len(), len, "{name}");
            seen.push(name);
            // What comes meanwhile may be listed or not.
            fs::write(dir.join(format!("new {index}")), "").unwrap();
        }
        let old: Vec<_> = seen.into_iter().filter(|name| name.starts_with("file")).collect();
        assert_eq!(old.len(), 1000);
        assert_eq!(old.into_iter().collect::<BTreeSet<_>>(), wanted);
    }
    for entry in fs::read_dir(&dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn an_open_file_is_used_after_its_name_is_gone() {
    let world = World::new();
    let path = world.path("f");
    let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).unwrap();
    file.write_all(&pattern(50_000)).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another").unwrap();
    file.write_all(b"more").unwrap();
    file.sync_all().unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
    let stat = file.metadata().unwrap();
    assert_eq!((stat.len(), stat.nlink(), stat.mode() & 0o777), (50_004, 0, 0o600));
    file.set_len(10).unwrap();
    let mut read = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut read).unwrap();
    assert_eq!(read, pattern(10));
    assert_eq!(fs::read_to_string(&path).unwrap(), "another");
    // Renamed over, too.
    let old = File::open(&path).unwrap();
    fs::write(world.path("g"), "new").unwrap();
    fs::rename(world.path("g"), &path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    let mut buffer = [0; 7];
    old.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"another");
}

#[test]
fn ranges_attributes_and_copies_reach_the_volume() {
    let mut world = World::new();
    let path = world.path("f");
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).unwrap();
    file.write_all_at(&pattern(200_000), 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 32768, 65536).unwrap();
    let collapse = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 16384);
    assert_eq!(errno(collapse.map_err(io::Error::from)), libc::EOPNOTSUPP);
    assert_eq!(rustix::fs::seek(&file, Sought::Hole(0)).unwrap(), 32768);
    assert_eq!(rustix::fs::seek(&file, Sought::Data(40_000)).unwrap(), 98304);
    let mut wanted = pattern(200_000);
    wanted[32768..98304].fill(0);
    assert!(fs::read(&path).unwrap() == wanted);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 300_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 300_000);
    file.set_len(200_000).unwrap();
    let copy = File::create(world.path("copy")).unwrap();
    let (mut from, mut to) = (0, 5);
    while from < 200_000 {
        let left = 200_000 - from as usize;
        let done = rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), left);
        assert!(done.unwrap() > 0);
    }
    assert!(fs::read(world.path("copy")).unwrap()[5..] == wanted[..]);
    rustix::fs::setxattr(&path, "user.colour", b"blue", XattrFlags::CREATE).unwrap();
    let twice = rustix::fs::setxattr(&path, "user.colour", b"red", XattrFlags::CREATE);
    assert_eq!(errno(twice.map_err(io::Error::from)), libc::EEXIST);
    drop((file, copy));
    world.again();
    let path = world.path("f");
    assert!(fs::read(&path).unwrap() == wanted);
    let mut value = [0; 10];
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value[..]).unwrap(), 4);
    assert_eq!(&value[..4], b"blue");
    assert_eq!(rustix::fs::getxattr_query(&path, "user.colour").unwrap(), 4);
    let small = rustix::fs::getxattr(&path, "user.colour", &mut [0; 3][..]);
    assert_eq!(small, Err(rustix::io::Errno::RANGE));
    let none = rustix::fs::getxattr(&path, "user.none", &mut value[..]);
    assert_eq!(none, Err(rustix::io::Errno::NODATA));
    let mut names = [0; 64];
    let len = rustix::fs::listxattr(&path, &mut names[..]).unwrap();
    assert_eq!(&names[..len], b"user.colour\0");
    rustix::fs::removexattr(&path, "user.colour").unwrap();
    assert_eq!(rustix::fs::listxattr(&path, &mut names[..]).unwrap(), 0);
    let space = rustix::fs::statvfs(world.point.path()).unwrap();
    assert!(space.f_blocks > 0 && space.f_namemax == 255);
}

#[test]
fn a_mapped_file_is_the_file() {
    let mut world = World::new();
    fs::write(world.path("f"), pattern(100_000)).unwrap();
    world.python(
        None,
        "f",
        "import mmap, sys
path = sys.argv[1]
with open(path, 'r+b') as file:
    with mmap.mmap(file.fileno(), 0) as shared:
        shared[50000:50006] = b'shared'
        shared.flush()
        with open(path, 'rb') as other:
            other.seek(50000)
            assert other.read(6) == b'shared'
        shared[99994:100000] = b'at end'
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
        private[0:7] = b'private'
        assert private[0:7] == b'private'
",
    );
    let mut wanted = pattern(100_000);
    wanted[50_000..50_006].copy_from_slice(b"shared");
    wanted[99_994..].copy_from_slice(b"at end");
    for _ in 0..2 {
        assert!(fs::read(world.path("f")).unwrap() == wanted);
        world.again();
    }
}

/// Buffered, each its own offset; and one large direct write, whose parts the kernel sends at
/// once.
#[test]
fn appended_bytes_are_all_there_and_in_order() {
    let world = World::new();
    let path = world.path("log");
    let open = || OpenOptions::new().create(true).append(true).open(&path).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let mut file = open();
            scope.spawn(move || {
                for line in 0..100 {
                    file.write_all(format!("writer {writer} line {line:03}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let content = fs::read_to_string(&path).unwrap();
    assert_eq!(content.lines().collect::<BTreeSet<_>>().len(), 400);
    assert_eq!(content.len(), 400 * 18);
    world.python(
        None,
        "direct",
        "import mmap, os, sys
path, size = sys.argv[1], 16 << 20
buffer = mmap.mmap(-1, size)
for at in range(0, size, 4096):
    buffer[at:at + 8] = at.to_bytes(8, 'big')
file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_DIRECT)
for _ in range(2):
    assert os.write(file, buffer) == size
os.close(file)
with open(path, 'rb') as file:
    assert file.read() == bytes(buffer) * 2
",
    );
}
