//! Through the kernel: who may do what, and where a volume may be mounted.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "support/served.rs"]
mod served;
#[path = "support/volume.rs"]
mod volume;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use cmkfs::fs::Fs;
use cmkfs::fuse::{MountOptions, mount, mount_at};
use rustix::fs::XattrFlags;
use rustix::mount::UnmountFlags;
use served::{World, errno, options, pattern, serve};

#[test]
fn modes_masks_and_lists_mean_what_they_mean_on_the_disk_below() {
    let world = World::new();
    let shared = world.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(world.path("secret"), "root's").unwrap();
    fs::set_permissions(world.path("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(shared.join("program"), "x").unwrap();
    fs::set_permissions(shared.join("program"), PermissionsExt::from_mode(0o6777)).unwrap();
    world.python(
        Some(12345),
        "shared",
        "import os, sys
path = sys.argv[1]
try:
    open(path + '/../secret')
    assert False
except PermissionError:
    pass
os.umask(0o027)
os.mkdir(path + '/dir')
os.close(os.open(path + '/file', os.O_CREAT | os.O_WRONLY, 0o666))
os.umask(0)
os.close(os.open(path + '/open', os.O_CREAT | os.O_WRONLY, 0o666))
def mode(name):
    stat = os.lstat(path + '/' + name)
    assert name == 'program' or (stat.st_uid, stat.st_gid) == (12345, 12345)
    return stat.st_mode & 0o7777
assert mode('dir') == 0o750 and mode('file') == 0o640 and mode('open') == 0o666
os.symlink('x', path + '/link')
os.mkfifo(path + '/fifo', 0o644)
assert mode('fifo') == 0o644 and mode('link') == 0o777
try:
    os.chown(path + '/file', 0, 0)
    assert False
except PermissionError:
    pass
assert mode('program') == 0o6777
with open(path + '/program', 'r+') as file:
    file.write('y')
assert mode('program') == 0o777, oct(mode('program'))
",
    );
    // A directory with the set-group-id bit gives its group.
    rustix::fs::chown(&shared, None, Some(rustix::fs::Gid::from_raw(777))).unwrap();
    fs::set_permissions(&shared, PermissionsExt::from_mode(0o2777)).unwrap();
    fs::create_dir(shared.join("inherits")).unwrap();
    let stat = fs::metadata(shared.join("inherits")).unwrap();
    assert_eq!((stat.gid(), stat.mode() & 0o7777), (777, 0o2755));
}

/// `user::rwx, user:12345:r--, group::---, mask::r--, other::---`, as Linux keeps it.
const LIST: &[u8] = b"\x02\0\0\0\
    \x01\0\x07\0\xff\xff\xff\xff\
    \x02\0\x04\0\x39\x30\0\0\
    \x04\0\0\0\xff\xff\xff\xff\
    \x10\0\x04\0\xff\xff\xff\xff\
    \x20\0\0\0\xff\xff\xff\xff";

#[test]
fn an_access_control_list_decides_who_may_read_and_is_inherited() {
    let world = World::new();
    let (file, dir) = (world.path("f"), world.path("d"));
    fs::write(&file, "content").unwrap();
    rustix::fs::chown(&file, None, Some(rustix::fs::Gid::from_raw(54321))).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let name = "system.posix_acl_access";
    rustix::fs::setxattr(&file, name, LIST, XattrFlags::empty()).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o740, "its mask shows as the group's");
    let script = "import sys; assert open(sys.argv[1]).read() == 'content'";
    world.python(Some(12345), "f", script);
    let denied = "import sys
try:
    open(sys.argv[1])
    assert False
except PermissionError:
    pass
";
    // The owning group has fewer rights than the mode seems to say.
    world.python(Some(54321), "f", denied);
    fs::create_dir(&dir).unwrap();
    let name = "system.posix_acl_default";
    rustix::fs::setxattr(&dir, name, LIST, XattrFlags::empty()).unwrap();
    // The umask means nothing where there is a default list.
    world.python(
        None,
        "d",
        "import os, sys
os.umask(0o077)
os.close(os.open(sys.argv[1] + '/f', os.O_CREAT | os.O_WRONLY, 0o666))
os.mkdir(sys.argv[1] + '/sub', 0o777)
assert os.stat(sys.argv[1] + '/f').st_mode & 0o777 == 0o640
assert os.stat(sys.argv[1] + '/sub').st_mode & 0o777 == 0o740
assert 'system.posix_acl_access' in os.listxattr(sys.argv[1] + '/f')
assert 'system.posix_acl_default' in os.listxattr(sys.argv[1] + '/sub')
",
    );
}

#[test]
fn synchronous_and_read_only_openings_are_honoured() {
    let world = World::new();
    let path = world.path("f");
    let before = world.fs.volume().figures();
    let mut file =
        OpenOptions::new().create(true).write(true).custom_flags(libc::O_SYNC).open(&path).unwrap();
    file.write_all(b"synced").unwrap();
    let after = world.fs.volume().figures();
    assert!(after.syncs > before.syncs, "the write itself waits for the disk");
    let mut file = File::open(&path).unwrap();
    assert_eq!(errno(file.write_all(b"x")), libc::EBADF);
    let dir = File::open(world.point.path()).unwrap();
    dir.sync_all().unwrap();
}

/// Each way to ask for what a power cut must not take reaches the store's disk.
#[test]
fn every_way_to_sync_reaches_the_store() {
    let world = World::new();
    let syncs = || world.fs.volume().figures().syncs;
    let reaches = |what: &str, sync: &dyn Fn()| {
        let before = syncs();
        sync();
        let reached = syncs() - before;
        assert!((1..=2).contains(&reached), "{what}: {reached} syncs of the store");
    };
    let path = world.path("f");
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).unwrap();
    let write = || file.write_all_at(&pattern(100_000), 0).unwrap();
    write();
    assert_eq!(syncs(), 0, "nobody has asked yet");
    reaches("fsync", &|| file.sync_all().unwrap());
    write();
    reaches("fdatasync", &|| file.sync_data().unwrap());
    reaches("fsync of what was synced", &|| file.sync_all().unwrap());
    write();
    let reading = File::open(&path).unwrap();
    reaches("fsync of a file open for reading", &|| reading.sync_all().unwrap());
    let dir = File::open(world.point.path()).unwrap();
    reaches("fsync of a directory", &|| dir.sync_all().unwrap());
    for (what, flag) in [("O_SYNC", libc::O_SYNC), ("O_DSYNC", libc::O_DSYNC)] {
        let file = OpenOptions::new().write(true).custom_flags(flag).open(&path).unwrap();
        reaches(what, &|| file.write_all_at(b"x", 5).unwrap());
    }
    let map = "import mmap, os, sys
with open(sys.argv[1], 'r+b') as file:
    map = mmap.mmap(file.fileno(), 0)
    map[5000:5006] = b'mapped'
    map.flush()
";
    reaches("msync with MS_SYNC", &|| world.python(None, "f", map));
    fs::remove_file(&path).unwrap();
    write();
    reaches("fsync of a file without a name", &|| file.sync_all().unwrap());
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let mut world = World::new();
    fs::write(world.path("f"), "content").unwrap();
    world.unmount();
    let options = MountOptions { read_only: true, ..options(&world.disk) };
    let (fs, mounted) = serve(&world.disk, world.point.path(), &options);
    (world.fs, world.mounted) = (fs, Some(mounted));
    assert_eq!(fs::read_to_string(world.path("f")).unwrap(), "content");
    assert_eq!(errno(fs::write(world.path("f"), "x")), libc::EROFS);
    assert_eq!(errno(fs::remove_file(world.path("f"))), libc::EROFS);
    assert_eq!(errno(fs::create_dir(world.path("d"))), libc::EROFS);
}

#[test]
fn mountpoints_that_are_taken_or_missing_are_refused() {
    let world = World::new();
    let code = |path: &Path| {
        let volume = world.disk.open();
        let root = volume.root().unwrap();
        let refused = mount(Fs::new(volume, root), path, &options(&world.disk)).unwrap_err();
        (refused.exit_code(), refused.to_string())
    };
    let (taken, text) = code(world.point.path());
    assert_eq!(taken, 31);
    assert!(text.contains("fuse.cmkfs") && text.contains(world.disk.path().to_str().unwrap()));
    let other = tempfile::tempdir().unwrap();
    assert_eq!(code(&other.path().join("none")).0, 30);
    fs::write(other.path().join("file"), "x").unwrap();
    assert_eq!(code(&other.path().join("file")).0, 30);
    let (full, text) = code(other.path());
    assert_eq!(full, 32);
    assert!(text.contains("file"), "{text}");
}

/// As after SIGKILL of the daemon: a forced unmount of what is in use cuts the connection only.
#[test]
fn a_mount_whose_daemon_is_gone_is_told_and_taken_away() {
    let mut world = World::new();
    let busy = File::create(world.path("f")).unwrap();
    let forced = rustix::mount::unmount(world.point.path(), UnmountFlags::FORCE);
    assert_eq!(forced, Err(rustix::io::Errno::BUSY));
    let mounted = world.mounted.take().unwrap();
    let unmounter = mounted.unmounter();
    mounted.wait().unwrap();
    assert_eq!(errno(fs::metadata(world.point.path())), libc::ENOTCONN);
    let volume = world.disk.open();
    let root = volume.root().unwrap();
    let refused = mount(Fs::new(volume, root), world.point.path(), &options(&world.disk));
    let refused = refused.unwrap_err();
    assert_eq!(refused.exit_code(), 31);
    assert!(refused.to_string().contains("has died"), "{refused}");
    unmounter.detach().unwrap();
    drop(busy);
    assert!(!unmounter.is_mounted().unwrap());
    world.mount_again();
    assert!(world.path("f").exists());
}

/// What an ordinary user does: `fusermount3` mounts, and nobody else gets in.
#[test]
#[ignore = "needs to run as an ordinary user: the next test runs it"]
fn as_an_ordinary_user() {
    assert_ne!(rustix::process::geteuid().as_raw(), 0);
    let mut world = World::new();
    fs::write(world.path("f"), pattern(300_000)).unwrap();
    fs::create_dir(world.path("d")).unwrap();
    fs::rename(world.path("f"), world.path("d/f")).unwrap();
    let (mode, wanted) = (fs::metadata(world.path("d/f")).unwrap(), 65534);
    assert_eq!((mode.uid(), mode.size()), (wanted, 300_000));
    let shown = mount_at(&world.point.path().canonicalize().unwrap()).unwrap().unwrap();
    assert_eq!(shown.kind, "fuse.cmkfs");
    assert_eq!(shown.source, world.disk.path().to_str().unwrap());
    world.again();
    assert!(fs::read(world.path("d/f")).unwrap() == pattern(300_000));
    let others = MountOptions { allow_other: true, ..options(&world.disk) };
    let point = tempfile::tempdir().unwrap();
    let volume = world.disk.open();
    let root = volume.root().unwrap();
    let allowed = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if !allowed.lines().any(|line| line.trim() == "user_allow_other") {
        let refused = mount(Fs::new(volume, root), point.path(), &others).unwrap_err();
        assert_eq!(refused.exit_code(), 34);
        assert!(refused.to_string().contains("user_allow_other"), "{refused}");
    }
    let busy = File::open(world.path("d/f")).unwrap();
    assert_eq!(errno(world.mounted.as_ref().unwrap().unmount()), libc::EBUSY);
    drop(busy);
    world.unmount();
}

/// What ext4 lets an owner do with what the owner itself may not look into.
#[test]
#[ignore = "needs to run as an ordinary user: the next test runs it"]
fn as_the_owner_of_what_modes_forbid() {
    assert_ne!(rustix::process::geteuid().as_raw(), 0);
    let world = World::new();
    world.python(
        None,
        "",
        "import os, sys
os.chdir(sys.argv[1])
for mode in (0, 0o200, 0o300, 0o400, 0o600):
    os.mkdir('d')
    os.chmod('d', mode)
    os.rmdir('d')
    os.mkdir('d')
    os.mkdir('e')
    os.chmod('d', mode)
    os.rename('e', 'd')
    os.rmdir('d')
for mode in (0o400, 0o600):
    os.mkdir('d')
    names = ['short', 'long' * 60]
    for name in names:
        open('d/' + name, 'w').close()
    os.chmod('d', mode)
    assert sorted(os.listdir('d')) == sorted(names), os.listdir('d')
    assert os.stat('d').st_mode & 0o7777 == mode
    os.chmod('d', 0o700)
    for name in names:
        os.unlink('d/' + name)
    os.rmdir('d')
os.mkdir('d')
os.setxattr('d', 'user.a', b'v')
open('f', 'w').write('content')
os.listdir('d')
for name in ('d', 'f'):
    os.chmod(name, 0o200)
    os.setxattr(name, 'user.b', b'w')
    assert 'user.b' in os.listxattr(name)
    assert os.stat(name).st_mode & 0o7777 == 0o200
os.chmod('f', 0)
place = os.open('f', os.O_PATH)
os.unlink('f')
assert os.fstat(place).st_size == 7 and os.fstat(place).st_mode & 0o7777 == 0
file = os.open('g', os.O_RDWR | os.O_CREAT, 0o400)
os.write(file, b'x')
os.close(file)
file = os.open('g', os.O_RDONLY)
os.unlink('g')
path = '/proc/self/fd/%d' % file
os.chmod(path, 0o600)
again = os.open(path, os.O_RDWR)
os.write(again, b'y')
assert os.pread(file, 2, 0) == b'y'
",
    );
}

/// In a name space of its own, where everybody may open the device, as distributions have it.
#[test]
fn an_ordinary_user_mounts_with_the_helper() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o777)).unwrap();
    // Where it was built, others may not look.
    let program = home.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let script = "mknod device c 10 229 && chmod 666 device && mount --bind device /dev/fuse && \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups \
        ./test --ignored --exact as_an_ordinary_user as_the_owner_of_what_modes_forbid";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .env("TMPDIR", home.path())
        .current_dir(home.path())
        .output()
        .unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), output.stderr);
    let errors = String::from_utf8_lossy(&errors);
    assert!(output.status.success() && text.contains("2 passed"), "{text}{errors}");
}
