//! Volumes that are written by way of the journal: what was synced survives the end of the daemon
//! at any moment, also while it is written over. Needs `/dev/fuse`. `CMKFS_KILLS` is how often the
//! daemon is killed under load, 24 times if it is not set; an issue of the program is worth 300.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "support/mount.rs"]
mod mount;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use mount::Mount;

/// Bytes that are written at once, all with the same number.
const PART: u64 = 4096;

/// Kills the daemon and takes the dead mount away.
fn kill(mount: &Mount) {
    let daemon = mount.daemon().to_string();
    assert!(Command::new("kill").args(["-9", &daemon]).status().unwrap().success());
    assert!(Command::new("umount").arg("-l").arg(mount.point()).status().unwrap().success());
}

/// The same, and mounts again.
fn crash(mount: &Mount) {
    kill(mount);
    mount.mount();
}

fn recovered(mount: &Mount) -> u64 {
    mount.status()["volumes"][0]["daemon"]["figures"]["recovered"].as_u64().unwrap()
}

fn part(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(PART as usize / 4)
}

/// The number that all of a part has.
fn number_at(file: &File, index: u64) -> u32 {
    let mut bytes = vec![0; PART as usize];
    file.read_exact_at(&mut bytes, index * PART).unwrap();
    let number = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert_eq!(bytes, part(number), "part {index} is of one writing");
    number
}

#[test]
fn what_was_synced_and_written_over_survives_a_kill() {
    let mount = Mount::new(&[]);
    let parts = 600;
    let file = File::create_new(mount.at("file")).unwrap();
    (0..parts).for_each(|index| file.write_all_at(&part(1), index * PART).unwrap());
    file.sync_all().unwrap();
    for index in (0..parts).step_by(7) {
        file.write_all_at(&part(2), index * PART).unwrap();
    }
    file.sync_data().unwrap();
    drop(file);
    crash(&mount);
    assert_eq!(recovered(&mount), 1, "one file was in the journal");
    let file = File::open(mount.at("file")).unwrap();
    for index in 0..parts {
        let wanted = if index % 7 == 0 { 2 } else { 1 };
        assert_eq!(number_at(&file, index), wanted, "part {index}");
    }
}

/// What was acknowledged is there, and what was not is old or new, part by part.
#[test]
fn a_kill_while_a_file_is_written_over_leaves_old_or_new() {
    let mount = Mount::new(&[]);
    let parts = 200_u64;
    let (mut random, mut number) = (7_u64, 1_u32);
    let file = File::create_new(mount.at("file")).unwrap();
    (0..parts).for_each(|index| file.write_all_at(&part(number), index * PART).unwrap());
    file.sync_all().unwrap();
    drop(file);
    let mut synced = vec![number; parts as usize];
    let rounds = std::env::var("CMKFS_KILLS").map_or(24, |text| text.parse().unwrap());
    for round in 0..rounds {
        let file = OpenOptions::new().write(true).open(mount.at("file")).unwrap();
        let daemon = mount.daemon().to_string();
        let killer = std::thread::spawn(move || {
            let until = Instant::now() + Duration::from_millis(5 + 23 * (round % 12));
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            assert!(Command::new("kill").args(["-9", &daemon]).status().unwrap().success());
        });
        let mut written = synced.clone();
        // Every round has its errors: they are how it ends.
        loop {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = (random >> 33) % parts;
            number += 1;
            written[index as usize] = number;
            if file.write_all_at(&part(number), index * PART).is_err() {
                break;
            }
            if random % 3 == 0 {
                if file.sync_data().is_err() {
                    break;
                }
                synced.clone_from(&written);
            }
        }
        killer.join().unwrap();
        drop(file);
        assert!(Command::new("umount").arg("-l").arg(mount.point()).status().unwrap().success());
        mount.mount();
        let file = File::open(mount.at("file")).unwrap();
        for index in 0..parts {
            let (found, at) = (number_at(&file, index), index as usize);
            let right = (synced[at]..=written[at]).contains(&found);
            assert!(right, "round {round}, part {index}: {found}, synced {}", synced[at]);
            synced[at] = found;
        }
    }
}

/// Found by hand: 1500 holes were one record of 24 MiB, which recovery took for a torn one, with
/// all that came after it.
#[test]
fn many_holes_that_were_synced_survive_a_kill_with_what_was_synced_after_them() {
    use rustix::fs::{FallocateFlags, fallocate};
    const BLOCK: u64 = 16 << 10;
    let mount = Mount::new(&[]);
    let file = File::create_new(mount.at("file")).unwrap();
    let next = File::create_new(mount.at("next")).unwrap();
    file.write_all_at(&part(1).repeat((1500 * BLOCK / PART) as usize), 0).unwrap();
    next.write_all_at(&part(1), 0).unwrap();
    file.sync_all().unwrap();
    next.sync_all().unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    (0..1500).for_each(|block| fallocate(&file, hole, block * BLOCK, PART).unwrap());
    file.sync_all().unwrap();
    next.write_all_at(&part(2), 0).unwrap();
    next.sync_data().unwrap();
    drop((file, next));
    crash(&mount);
    let (file, next) =
        (File::open(mount.at("file")).unwrap(), File::open(mount.at("next")).unwrap());
    for block in 0..1500 {
        let first = block * BLOCK / PART;
        assert_eq!((number_at(&file, first), number_at(&file, first + 1)), (0, 1), "block {block}");
    }
    assert_eq!(number_at(&next, 0), 2);
}

#[test]
fn new_files_are_whole_or_empty_after_a_kill_and_synced_ones_whole() {
    let mount = Mount::new(&[]);
    let content = part(9).repeat(50);
    for number in 0..40 {
        let file = File::create_new(mount.at(format!("{number}"))).unwrap();
        file.write_all_at(&content, 0).unwrap();
        if number % 2 == 0 {
            file.sync_all().unwrap();
        }
    }
    std::fs::remove_file(mount.at("38")).unwrap();
    crash(&mount);
    for number in 0..38 {
        let mut found = Vec::new();
        File::open(mount.at(format!("{number}"))).unwrap().read_to_end(&mut found).unwrap();
        assert!(found == content || (number % 2 == 1 && found.is_empty()), "{number}");
    }
}

/// A kill between the two calls that make a file leaves a name without a byte.
#[test]
fn a_file_that_was_being_made_at_a_kill_is_empty_and_no_damage() {
    for options in [&[][..], &["--durability", "relaxed"]] {
        let mount = Mount::new(options);
        let names = || {
            let tree = std::fs::read_dir(mount.store().join("tree")).unwrap();
            tree.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        let before = names();
        for name in ["one", "two"] {
            File::create_new(mount.at(name)).unwrap();
        }
        let stored: Vec<_> = names().into_iter().filter(|path| !before.contains(path)).collect();
        assert_eq!(stored.len(), 2);
        mount.remount();
        for path in &stored {
            std::fs::remove_file(path).unwrap();
        }
        mount.remount();
        kill(&mount);
        stored.iter().for_each(|path| drop(File::create_new(path).unwrap()));
        let store = mount.store();
        let check = |how: &[&str]| {
            let told = mount.ok(&[&["check", store.to_str().unwrap()], how].concat()).stdout;
            String::from_utf8(told).unwrap().matches("blank: ").count()
        };
        assert_eq!(check(&[]), 2, "{options:?}");
        assert_eq!(check(&["--no-key"]), 2, "{options:?}");
        mount.mount();
        assert_eq!(std::fs::metadata(mount.at("one")).unwrap().len(), 0);
        assert_eq!(std::fs::read(mount.at("one")).unwrap(), b"", "{options:?}");
        mount.umount();
        assert_eq!(check(&[]), 1, "{options:?}");
        assert_eq!(check(&["--repair"]), 1, "{options:?}");
        assert_eq!(check(&[]), 0, "{options:?}");
        mount.mount();
        assert_eq!(std::fs::read(mount.at("two")).unwrap(), b"", "{options:?}");
    }
}

/// Whoever reads a store that no daemon has any more finds what was synced, as a mount would.
#[test]
fn what_was_synced_is_read_without_a_mount_after_a_kill() {
    let mount = Mount::new(&[]);
    let file = File::create_new(mount.at("file")).unwrap();
    file.write_all_at(&part(1).repeat(8), 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(&part(2).repeat(4), 0).unwrap();
    file.sync_data().unwrap();
    drop(file);
    kill(&mount);
    let found = mount.ok(&["cat", &format!("{}:/file", mount.store().display())]).stdout;
    assert!(found == [part(2).repeat(4), part(1).repeat(4)].concat());
    let told = mount.ok(&["check", mount.store().to_str().unwrap()]);
    assert!(told.status.success());
    mount.mount();
    assert_eq!(recovered(&mount), 0, "it was in its place by then");
}

/// Writes into holes of durable files and syncs, which the journal has alone; returns what was
/// acknowledged, by part.
fn write_into_holes(files: &[File], parts: u64) -> BTreeMap<(usize, u64), u32> {
    let mut acknowledged = BTreeMap::new();
    for number in 1..200_u32 {
        let (file, index) = (number as usize % files.len(), u64::from(number) * 4099 % parts);
        files[file].write_all_at(&part(number), index * PART).unwrap();
        files[file].sync_data().unwrap();
        acknowledged.insert((file, index), number);
    }
    acknowledged
}

/// A disk of 440 MiB, on which somebody else may take all room but `spare` bytes.
struct SharedDisk(PathBuf);

impl SharedDisk {
    fn new() -> (Self, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let mut tmpfs = Command::new("mount");
        tmpfs.args(["-t", "tmpfs", "-o", "size=440m", "none"]).arg(root.path());
        assert!(tmpfs.status().unwrap().success());
        (Self(root.path().to_owned()), root)
    }

    fn fill(&self, spare: u64) {
        let filler = File::create(self.0.join("filler")).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&filler, flags, 0, self.free() - spare).unwrap();
    }

    fn free(&self) -> u64 {
        let space = rustix::fs::statvfs(&self.0).unwrap();
        space.f_bavail * space.f_frsize
    }
}

/// Files of 2048 parts, which are holes.
const PARTS: u64 = 2048;

fn open_each(mount: &Mount) -> Vec<File> {
    let mut how = OpenOptions::new();
    how.read(true).write(true).create(true).truncate(false);
    (0..4).map(|index| how.open(mount.at(format!("{index}"))).unwrap()).collect()
}

fn refused_for_room(mount: &Mount, args: &[&str]) {
    let told = mount.command(args).output().unwrap();
    assert_eq!(told.status.code(), Some(41), "{args:?}: {told:?}");
    assert!(String::from_utf8_lossy(&told.stderr).contains("make room there"), "{told:?}");
}

/// Kills the daemon when the journal alone has what was acknowledged, which is returned, and has
/// the volume mounted again on a disk without room for it.
fn kill_before_the_disk_is_full(mount: &Mount, disk: &SharedDisk) -> BTreeMap<(usize, u64), u32> {
    let (store, point) = (mount.store(), mount.point());
    let (store, point) = (store.to_str().unwrap(), point.to_str().unwrap());
    for _ in 0..5 {
        let files = open_each(mount);
        for file in &files {
            file.set_len(0).unwrap();
            file.set_len(PARTS * PART).unwrap();
            file.sync_all().unwrap();
        }
        let acknowledged = write_into_holes(&files, PARTS);
        drop(files);
        kill(mount);
        disk.fill(0);
        let told = mount.command(&["mount", store, point]).output().unwrap();
        let text = String::from_utf8_lossy(&told.stderr).into_owned();
        if told.status.code() == Some(41) {
            assert!(text.contains("make room there"), "{text}");
            // What is in its place is older than what was synced: nobody is shown it.
            refused_for_room(mount, &["check", store]);
            refused_for_room(mount, &["cat", &format!("{store}:/0")]);
            refused_for_room(mount, &["mount", "--read-only", store, point]);
            // For the records, and not for what they bring to its place.
            disk.fill(3 << 20);
            refused_for_room(mount, &["mount", "--read-only", store, point]);
            let told = mount.command(&["check", store]).output().unwrap();
            assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
            mount.mount();
            assert!(recovered(mount) >= 4);
            return acknowledged;
        }
        // A checkpoint came between, while there was room.
        assert!(told.status.success(), "{text}");
        std::fs::remove_file(disk.0.join("filler")).unwrap();
    }
    panic!("a checkpoint each time");
}

/// Somebody else has taken all room meanwhile; it can be made through the mount.
#[test]
fn a_daemon_killed_on_a_full_disk_is_mounted_again_and_room_is_made_through_the_mount() {
    let (disk, root) = SharedDisk::new();
    let mount = Mount::in_dir(root, &[]);
    let ballast = 64 << 20;
    std::fs::write(mount.at("ballast"), vec![1; ballast]).unwrap();
    let acknowledged = kill_before_the_disk_is_full(&mount, &disk);
    let all_there = || {
        let files = open_each(&mount);
        for ((file, index), number) in &acknowledged {
            assert_eq!(number_at(&files[*file], *index), *number, "part {index} of {file}");
        }
    };
    for _ in 0..2 {
        all_there();
        assert!(disk.free() < 1 << 20, "it is full still");
        crash(&mount);
        assert!(recovered(&mount) >= 4);
    }
    all_there();
    std::fs::remove_file(mount.at("ballast")).unwrap();
    let begun = Instant::now();
    while disk.free() < ballast as u64 / 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} bytes", disk.free());
        std::thread::yield_now();
    }
    std::fs::write(mount.at("newer"), part(9)).unwrap();
    mount.remount();
    assert_eq!(recovered(&mount), 0, "all came to its place");
    all_there();
    assert_eq!(std::fs::read(mount.at("newer")).unwrap(), part(9));
    mount.umount();
    assert!(Command::new("umount").arg("-l").arg(&disk.0).status().unwrap().success());
}

/// Cut, made longer, punched, begun anew: after all of it, and after unmounting, it reads the same.
#[test]
fn what_changes_shape_is_the_same_after_a_kill_and_after_an_unmount() {
    let mount = Mount::new(&[]);
    let file = File::create_new(mount.at("file")).unwrap();
    file.write_all_at(&part(3).repeat(300), 0).unwrap();
    file.sync_all().unwrap();
    file.set_len(100 * PART + 5).unwrap();
    file.write_all_at(&part(4), 90 * PART).unwrap();
    file.set_len(200 * PART).unwrap();
    file.write_all_at(b"end", 400 * PART).unwrap();
    let anew = File::create_new(mount.at("anew")).unwrap();
    anew.write_all_at(&part(5).repeat(64), 0).unwrap();
    anew.sync_all().unwrap();
    anew.set_len(0).unwrap();
    anew.write_all_at(b"short", 0).unwrap();
    for file in [&file, &anew] {
        file.sync_all().unwrap();
    }
    let wanted = std::fs::read(mount.at("file")).unwrap();
    assert_eq!(wanted.len() as u64, 400 * PART + 3);
    drop((file, anew));
    crash(&mount);
    assert_eq!(std::fs::read(mount.at("file")).unwrap(), wanted);
    assert_eq!(std::fs::read(mount.at("anew")).unwrap(), b"short");
    mount.remount();
    assert_eq!(recovered(&mount), 0, "an unmount leaves nothing in the journal");
    assert_eq!(std::fs::read(mount.at("file")).unwrap(), wanted);
    assert_eq!(std::fs::read(mount.at("anew")).unwrap(), b"short");
}
