//! Whatever a mount answers with `EIO` of its own accord stands in its log, once however often it
//! is asked for: which stored file, why, and what to do. What a lost lease says is for
//! `tests/lease.rs`. Needs root and `/dev/fuse`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;
#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/log.rs"]
mod log;
#[path = "check/stage.rs"]
mod stage;
#[path = "support/volume.rs"]
mod volume;

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cmkfs::file::VolumeOptions;
use cmkfs::fs::Fs;
use cmkfs::fuse::{MountOptions, Mounted, mount};
use cmkfs::store::Durability;
use desk::{await_that, flip};
use faulty::{Extent, Faulty};
use log::Log;
use rustix::io::Errno;
use stage::Stage;
use volume::Throwaway;

/// How often each operation is tried.
const TRIES: usize = 5;
/// A byte of the second block of `blocks`.
const IN_BLOCK_1: u64 = 16384 + 4096 + 5;
/// A name, a content and an attribute of the volume as they are for its users.
const PLAIN: [&str; 6] = ["/blocks", "/nodes", "inline", "/link", "of a file", "user.tag"];

/// One way in which stored bytes are not what they were, and who meets it.
struct Case {
    label: &'static str,
    /// What the log names, as it was before.
    stored: fn(&Stage) -> PathBuf,
    damage: fn(&Stage, &Path),
    act: fn(&Path) -> io::Result<()>,
    reason: &'static str,
}

fn flip_at(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn set_len(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn read(path: &Path) -> io::Result<()> {
    fs::read(path).map(drop)
}

fn attribute(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::getxattr(path, "user.tag", &mut [0; 100][..]).map(drop)?)
}

fn written(path: &Path) -> io::Result<()> {
    fs::File::options().write(true).open(path)?.write_all_at(b"a part of it", 5000)
}

fn case(
    label: &'static str,
    stored: fn(&Stage) -> PathBuf,
    damage: fn(&Stage, &Path),
    act: fn(&Path) -> io::Result<()>,
    reason: &'static str,
) -> Case {
    Case { label, stored, damage, act, reason }
}

fn of_files() -> Vec<Case> {
    vec![
        case(
            "block",
            |s| s.stored("blocks"),
            |_, at| flip_at(at, IN_BLOCK_1),
            |mnt| read(&mnt.join("blocks")),
            "block 1 at byte 20480 is not authentic",
        ),
        case(
            "block that is written in part",
            |s| s.stored("blocks"),
            |_, at| flip_at(at, IN_BLOCK_1),
            |mnt| written(&mnt.join("blocks")),
            "block 1 at byte 20480 is not authentic",
        ),
        case(
            "block where the file is cut",
            |s| s.stored("blocks"),
            |_, at| flip_at(at, IN_BLOCK_1),
            |mnt| fs::File::options().write(true).open(mnt.join("blocks"))?.set_len(5000),
            "block 1 at byte 20480 is not authentic",
        ),
        case(
            "node",
            |s| s.stored("nodes"),
            |_, at| flip_at(at, 4096 + 100),
            |mnt| read(&mnt.join("nodes")),
            "node 0 of level 0",
        ),
        case(
            "header",
            |s| s.stored("inline"),
            |_, at| flip_at(at, 130),
            |mnt| read(&mnt.join("inline")),
            "header: not authentic",
        ),
        case(
            "header blank",
            |s| s.stored("blocks"),
            |_, at| fs::write(at, vec![0; 40_000]).unwrap(),
            |mnt| read(&mnt.join("blocks")),
            "header: ",
        ),
        case(
            "emptied",
            |s| s.stored("blocks"),
            |_, at| set_len(at, 0),
            |mnt| read(&mnt.join("blocks")),
            "header: ",
        ),
        case(
            "cut",
            |s| s.stored("blocks"),
            |_, at| set_len(at, 20_000),
            |mnt| read(&mnt.join("blocks")),
            "cut off",
        ),
    ]
}

fn of_names() -> Vec<Case> {
    vec![
        case(
            "marker",
            |s| s.stored("dir"),
            |s, _| s.edit_marker("dir", |marker| marker[0] ^= 1),
            |mnt| fs::read_dir(mnt.join("dir")).map(drop),
            "marker of the directory",
        ),
        case(
            "marker gone",
            |s| s.stored("dir"),
            |s, _| s.remove_marker("dir"),
            |mnt| read(&mnt.join("dir/file")),
            "without a marker",
        ),
        case(
            "link",
            |s| s.stored("link"),
            |s, _| {
                s.edit_link("link", |text| text[50] = if text[50] == b'A' { b'B' } else { b'A' })
            },
            |mnt| fs::read_link(mnt.join("link")).map(drop),
            "target of the symbolic link",
        ),
        case(
            "text of a link",
            |s| s.stored("link"),
            |s, _| s.edit_link("link", |text| text.splice(.., *b"/etc/passwd").for_each(drop)),
            |mnt| fs::read_link(mnt.join("link")).map(drop),
            "text of the symbolic link",
        ),
        case(
            "long target",
            |s| s.stored("long-link"),
            |s, _| flip_at(&s.link_file(), 100),
            |mnt| fs::read_link(mnt.join("long-link")).map(drop),
            "target of the symbolic link",
        ),
        case(
            "attribute",
            |s| s.stored("inline"),
            |s, _| s.edit_attribute("inline", |value| value[40] ^= 1),
            |mnt| attribute(&mnt.join("inline")),
            "extended attribute user.cmkfs.",
        ),
        case(
            "attribute of a directory",
            |s| s.stored("dir"),
            |s, _| s.edit_attribute("dir", |value| value[40] ^= 1),
            |mnt| attribute(&mnt.join("dir")),
            "extended attribute user.cmkfs.",
        ),
    ]
}

fn errno<T>(done: io::Result<T>) -> Option<i32> {
    done.err().and_then(|error| error.raw_os_error())
}

/// The line of errors in a log; there has to be one.
fn only_error(log: &str, label: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 1, "{label}: {log}");
    lines[0].to_owned()
}

/// Does a damage to the stage, meets it through a mount, and judges what the log says.
fn meet(stage: &Stage, case: &Case, option: &str) {
    let (mnt, log, label) = (stage.desk.dir("mnt"), stage.desk.at("log"), case.label);
    stage.restore();
    drop(fs::remove_file(&log));
    let stored = (case.stored)(stage);
    (case.damage)(stage, &stored);
    let ino = fs::symlink_metadata(&stored).unwrap().ino();
    stage.desk.ok(&format!("mount store mnt --log-file log {option}"));
    for _ in 0..TRIES {
        assert_eq!(errno((case.act)(&mnt)), Some(libc::EIO), "{label}");
    }
    stage.desk.ok("umount mnt");
    let line = only_error(&fs::read_to_string(&log).unwrap(), label);
    let (ino, stored) = (format!("ino={ino} "), format!("stored={stored:?} "));
    for part in [&ino, &stored, case.reason, "`cmkfs check`", "restore that from a snapshot"] {
        assert!(line.contains(part), "{label}: no {part:?} in {line}");
    }
    for plain in PLAIN {
        assert!(!line.contains(plain), "{label}: {plain:?} in {line}");
    }
}

#[test]
fn each_damage_that_is_met_has_one_line_with_file_reason_and_advice() {
    let stage = Stage::new();
    for case in of_files().into_iter().chain(of_names()) {
        meet(&stage, &case, "");
    }
}

#[test]
fn the_same_is_said_where_a_mount_looks_again_before_it_answers() {
    let stage = Stage::new();
    let labels = ["block", "node", "header", "cut", "marker", "link", "attribute"];
    let cases = of_files().into_iter().chain(of_names());
    for case in cases.filter(|case| labels.contains(&case.label)) {
        meet(&stage, &case, "--read-only");
    }
}

#[test]
fn a_name_that_is_left_out_of_a_listing_has_one_line() {
    let stage = Stage::new();
    let (mnt, log) = (stage.desk.dir("mnt"), stage.desk.at("log"));
    let at = stage.stored("inline");
    let moved = stage.stored("dir").join(at.file_name().unwrap());
    fs::rename(at, &moved).unwrap();
    stage.desk.ok("mount store mnt --log-file log");
    for _ in 0..TRIES {
        assert_eq!(fs::read_dir(mnt.join("dir")).unwrap().count(), 3);
    }
    stage.desk.ok("umount mnt");
    let line = only_error(&fs::read_to_string(&log).unwrap(), "name");
    for part in [&format!("{moved:?}"), "name is not authentic", "lost+found"] {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

/// The errors that were logged since this was last asked and that name something below `dir`.
fn errors(log: &Log, dir: &Path) -> String {
    let (text, dir) = (log.take(), dir.to_str().unwrap());
    let lines = text.lines().filter(|line| line.contains("ERROR") && line.contains(dir));
    lines.map(|line| format!("{line}\n")).collect()
}

/// A volume that was filled on a sound disk, mounted on one that may fail.
fn on_a_faulty_disk(durability: Durability) -> (Throwaway, Faulty, tempfile::TempDir, Mounted) {
    let (disk, faulty) = (Throwaway::new(4096), Faulty::default());
    let (file, _) = disk.open().root().unwrap().create_file(b"file", volume::ME, 0o600).unwrap();
    file.write(0, &[1; 100_000]).unwrap();
    file.sync(false).unwrap();
    drop(file);
    let options = VolumeOptions { durability, ..VolumeOptions::default() };
    let volume = disk.open_watched(Arc::new(faulty.clone()), &options).unwrap();
    let root = volume.root().unwrap();
    let options = MountOptions::new(disk.path().to_str().unwrap());
    let point = tempfile::tempdir().unwrap();
    let mounted = mount(Fs::new(volume, root), point.path(), &options).unwrap();
    (disk, faulty, point, mounted)
}

/// What a disk refuses is told where a file is refused from then on, and where it can't be read.
#[test]
fn a_disk_that_fails_has_one_line_for_each_file() {
    let log = Log::default();
    tracing::dispatcher::set_global_default(log.dispatch()).unwrap();
    for durability in [Durability::Relaxed, Durability::Strict] {
        let (disk, faulty, point, mounted) = on_a_faulty_disk(durability);
        let path = point.path().join("file");
        let tree = disk.path().join("tree").canonicalize().unwrap();
        let ino = fs::symlink_metadata(&path).unwrap().ino();
        let take = |label: &str, advice: &str| {
            let said = errors(&log, &tree);
            let line = only_error(&said, label);
            for part in [&format!("ino={ino} "), tree.to_str().unwrap(), "dmesg", advice] {
                assert!(line.contains(part), "{label}, {durability:?}: no {part:?} in {line}");
            }
        };
        faulty.arm(faulty.calls(), Errno::IO, Extent::Lasting);
        for _ in 0..TRIES {
            assert_eq!(errno(fs::read(&path)), Some(libc::EIO));
        }
        faulty.disarm();
        take("read", "snapshot");
        assert_eq!(fs::read(&path).unwrap(), vec![1; 100_000]);

        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        file.write_all_at(b"again", 10).unwrap();
        faulty.arm(faulty.calls(), Errno::IO, Extent::Once);
        assert_eq!(errno(file.sync_all()), Some(libc::EIO));
        faulty.disarm();
        for _ in 0..TRIES {
            assert_eq!(errno(file.sync_all()), Some(libc::EIO), "until it is opened again");
            assert_eq!(errno(file.write_all_at(b"more", 0)), Some(libc::EIO));
        }
        drop(file);
        drop(mounted.unmount());
        mounted.wait().unwrap();
        take("sync", "opened again");
    }
}

/// The kernel has the answer to a large write before it is stored.
#[test]
fn a_write_that_fails_behind_the_writer_is_heard_of_through_each_handle() {
    const LEN: u64 = 300 * 4096;
    for durability in [Durability::Relaxed, Durability::Strict] {
        let (_disk, faulty, point, mounted) = on_a_faulty_disk(durability);
        let path = point.path().join("file");
        let open = || fs::File::options().read(true).write(true).open(&path).unwrap();
        let (first, second) = (open(), open());
        // Of whole blocks, and more than a header can tell of, so that nothing has to be read, nor
        // any place be asked for, before it is lengthened.
        first.set_len(LEN).unwrap();
        first.sync_all().unwrap();
        let data = vec![2; 1 << 20];
        let fail = || {
            let refused = faulty.refused().len();
            faulty.arm(faulty.calls(), Errno::IO, Extent::Once);
            first.write_all_at(&data, LEN).unwrap();
            await_that("it fails", || faulty.refused().len() > refused);
            faulty.disarm();
            assert_eq!(first.metadata().unwrap().len(), LEN, "as it was");
        };
        fail();
        assert_eq!(errno(first.write_all_at(b"more", 0)), Some(libc::EIO), "{durability:?}");
        first.write_all_at(b"more", 0).unwrap();
        assert_eq!(errno(second.sync_all()), Some(libc::EIO), "{durability:?}");
        second.sync_all().unwrap();
        let later = open();
        later.sync_all().unwrap();
        fail();
        assert_eq!(errno(open().sync_all()), Some(libc::EIO), "nobody was told yet");
        faulty.arm(faulty.calls(), Errno::IO, Extent::Once);
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "bs=1M", "count=1", "seek=1", "conv=notrunc"]);
        let closed = dd.arg(format!("of={}", path.display())).output().unwrap();
        faulty.disarm();
        let said = String::from_utf8_lossy(&closed.stderr);
        assert!(!closed.status.success() && said.contains("Input/output error"), "{said}");
        drop((first, second, later));
        drop(mounted.unmount());
        mounted.wait().unwrap();
    }
}

#[test]
fn a_file_that_is_damaged_while_it_is_open_is_named_too() {
    let stage = Stage::new();
    let (mnt, log) = (stage.desk.dir("mnt"), stage.desk.at("log"));
    let stored = stage.stored("nodes");
    stage.desk.ok("mount store mnt --log-file log");
    let file = fs::File::open(mnt.join("nodes")).unwrap();
    flip(&stored);
    let mut bytes = vec![0; 129 * 4096];
    for _ in 0..TRIES {
        assert_eq!(errno(file.read_exact_at(&mut bytes, 0)), Some(libc::EIO));
    }
    drop(file);
    stage.desk.ok("umount mnt");
    let line = only_error(&fs::read_to_string(&log).unwrap(), "open");
    assert!(line.contains(&format!("{stored:?}")), "{line}");
}
