//! What a disk that is full takes in part: nothing older is harmed, whether it was synced or not.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::mount::Mount;
use crate::{pattern, small_disk};

const BLOCK: usize = 16_384;
const LOGS: usize = 6;

fn each_durability(work: impl Fn(&Mount)) {
    for durability in ["strict", "relaxed"] {
        let root = small_disk();
        let path = root.path().to_owned();
        let mount = Mount::in_dir(root, &["--durability", durability]);
        work(&mount);
        unmount(&mount);
        assert!(Command::new("umount").arg("-l").arg(&path).status().unwrap().success());
    }
}

/// Unmounts; what finds no room in its place stays in the journal, which is told.
fn unmount(mount: &Mount) {
    let point = mount.point();
    let umount = || mount.command(&["umount", point.to_str().unwrap()]).output().unwrap();
    let (mut output, until) = (umount(), Instant::now() + Duration::from_secs(20));
    // A program that another test starts has copies of all open files for a moment.
    while output.status.code() == Some(37) && Instant::now() < until {
        output = umount();
    }
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 41)), "{}", String::from_utf8_lossy(&output.stderr));
}

fn unmount_and_mount(mount: &Mount) {
    unmount(mount);
    mount.mount();
}

/// Fills the disk to the last page that a file gets.
fn fill(mount: &Mount) -> File {
    let mut file = File::create(mount.at("fill")).unwrap();
    let mut len = 1 << 20;
    while len >= 4096 {
        if file.write_all(&pattern(len, 3)).is_err() {
            len /= 2;
        }
    }
    file
}

/// Waits until what was removed is free, and what was written has come to its place.
fn await_room(mount: &Mount) {
    let until = Instant::now() + Duration::from_secs(60);
    let free = || rustix::fs::statvfs(mount.point()).unwrap();
    while free().f_bavail * free().f_frsize < 2 << 20 {
        assert!(Instant::now() < until, "no room comes back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn forget() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

#[test]
fn a_write_that_a_full_disk_takes_in_part_harms_nothing_older() {
    each_durability(|mount| {
        let (old, new) = (pattern(40 * BLOCK, 1), pattern(64 * BLOCK, 77));
        let file = File::create_new(mount.at("mixed")).unwrap();
        file.write_all_at(&old, 0).unwrap();
        let filled = fill(mount);
        assert!(file.write_all_at(&new, 0).is_err());
        drop(filled);
        fs::remove_file(mount.at("fill")).unwrap();
        file.sync_all().unwrap();
        drop(file);
        for again in [false, true] {
            if again {
                unmount_and_mount(mount);
            }
            forget();
            let found = fs::read(mount.at("mixed")).unwrap();
            assert!(found.len() >= old.len(), "{} bytes", found.len());
            let blocks = found.chunks(BLOCK).zip(old.chunks(BLOCK)).zip(new.chunks(BLOCK));
            for (n, ((found, old), new)) in blocks.enumerate() {
                assert!(found == old || found == new, "block {n} is neither old nor new");
            }
        }
    });
}

#[test]
fn what_is_appended_on_a_full_disk_harms_nothing_older() {
    for synced in [false, true] {
        each_durability(|mount| {
            let chunk = pattern(30_011, 5);
            fs::write(mount.at("room"), pattern(3 << 20, 4)).unwrap();
            let mut lens = [0; LOGS];
            let mut failed = 0;
            while failed < 20 {
                for (n, len) in lens.iter_mut().enumerate() {
                    let mut log = OpenOptions::new();
                    let log = log.append(true).create(true).open(mount.at(format!("log-{n}")));
                    let Ok(mut log) = log else {
                        failed += 1;
                        continue;
                    };
                    let done = log.write_all(&chunk);
                    match if synced { done.and_then(|()| log.sync_all()) } else { done } {
                        Ok(()) if synced => {
                            *len = usize::try_from(log.metadata().unwrap().len()).unwrap()
                        }
                        Ok(()) => {}
                        Err(_) => failed += 1,
                    }
                }
            }
            fs::remove_file(mount.at("room")).unwrap();
            await_room(mount);
            for again in [false, true] {
                if again {
                    unmount_and_mount(mount);
                }
                forget();
                for (n, len) in lens.iter().enumerate() {
                    let found = fs::read(mount.at(format!("log-{n}"))).unwrap();
                    assert!(found.len() >= *len, "log {n}: {} of {len} bytes", found.len());
                }
            }
        });
    }
}

/// Writes to a new file until the disk is full, and closes it. Returns how much was taken.
fn write_until_full(mount: &Mount, name: &str, content: &[u8], part: usize) -> usize {
    let mut file = File::create_new(mount.at(name)).unwrap();
    let refused = content.chunks(part).find_map(|part| file.write_all(part).err()).unwrap();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC), "{name}");
    usize::try_from(file.metadata().unwrap().len()).unwrap()
}

/// All that a new file has taken is read when it is closed, and the next mount shows as much before
/// anybody has opened it.
#[test]
fn a_new_file_keeps_all_that_was_taken_before_the_disk_was_full() {
    // Whole blocks, and such as lie across their ends, which wait in memory for their other parts.
    for part in [1 << 20, 2 * BLOCK + 5000, 700] {
        each_durability(|mount| {
            let content = pattern(32 << 20, 9);
            if part < BLOCK {
                fs::write(mount.at("room"), pattern(3 << 20, 4)).unwrap();
                write_until_full(mount, "filler", &content, 1 << 20);
                fs::remove_file(mount.at("room")).unwrap();
                await_room(mount);
            }
            let taken = write_until_full(mount, "large", &content, part);
            let cp = Command::new("cp").arg(mount.at("large")).arg(mount.at("copy")).status();
            assert!(!cp.unwrap().success());
            let len = |name| fs::metadata(mount.at(name)).ok().map(|meta| meta.len() as usize);
            // Where there was no room for a header the copy could not be made.
            let kept = ["large", "copy"].map(len);
            assert_eq!(kept[0], Some(taken));
            for again in [false, true] {
                if again {
                    unmount_and_mount(mount);
                }
                forget();
                assert_eq!(["large", "copy"].map(len), kept);
                for (name, kept) in ["large", "copy"].into_iter().zip(kept) {
                    let found = fs::read(mount.at(name)).ok();
                    let wanted = kept.map(|kept| &content[..kept]);
                    assert!(found.as_deref() == wanted, "{name} in parts of {part}, {again}");
                }
            }
        });
    }
}

/// A durable file grows until the disk is full, and is written over then: what write(2) took is
/// there, and fsync(2) has nothing to say.
#[test]
fn a_durable_file_keeps_all_that_was_taken_before_the_disk_was_full() {
    for part in [4096, 30_011, 1 << 20] {
        let root = small_disk();
        let path = root.path().to_owned();
        let mount = Mount::in_dir(root, &["--durability", "strict"]);
        let mut content = pattern(32 << 20, 9);
        let mut file = File::create_new(mount.at("grows")).unwrap();
        let begun = 4 << 20;
        file.write_all(&content[..begun]).unwrap();
        file.sync_all().unwrap();
        let error = content[begun..].chunks(part).find_map(|part| file.write_all(part).err());
        assert_eq!(error.unwrap().raw_os_error(), Some(libc::ENOSPC), "in parts of {part}");
        let taken = usize::try_from(file.metadata().unwrap().len()).unwrap();
        assert!(taken > begun + (8 << 20), "{taken}");
        content.truncate(taken);
        for round in 0..40 {
            let at = round * 37 * part % (taken - part);
            let over = pattern(part, 100 + round as u8);
            file.write_all_at(&over, at as u64).unwrap();
            content[at..at + part].copy_from_slice(&over);
        }
        file.sync_all().unwrap();
        drop(file);
        for again in [false, true] {
            if again {
                mount.remount();
            }
            forget();
            assert!(fs::read(mount.at("grows")).unwrap() == content, "{part}, {again}");
        }
        fs::remove_file(mount.at("grows")).unwrap();
        await_room(&mount);
        mount.umount();
        assert!(Command::new("umount").arg("-l").arg(&path).status().unwrap().success());
    }
}

/// Several who write over what is stored, on a disk without any room, do not take it from each
/// other.
#[test]
fn many_write_over_what_is_stored_on_a_full_disk() {
    let root = small_disk();
    let path = root.path().to_owned();
    let mount = Mount::in_dir(root, &["--durability", "strict"]);
    let file = File::create_new(mount.at("stored")).unwrap();
    file.write_all_at(&pattern(8 << 20, 1), 0).unwrap();
    file.sync_all().unwrap();
    drop(fill(&mount));
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            let file = &file;
            scope.spawn(move || {
                for round in 0..8 {
                    let fill = 10 * number + round;
                    file.write_all_at(&pattern(1 << 20, fill), u64::from(number) << 20).unwrap();
                }
            });
        }
    });
    file.sync_all().unwrap();
    drop(file);
    mount.remount();
    let found = fs::read(mount.at("stored")).unwrap();
    for number in 0..4_u8 {
        let at = usize::from(number) << 20;
        assert!(found[at..at + (1 << 20)] == pattern(1 << 20, 10 * number + 7), "{number}");
    }
    mount.umount();
    assert!(Command::new("umount").arg("-l").arg(&path).status().unwrap().success());
}

/// It is kept in the journal for as long as the disk has little room.
#[test]
fn a_file_that_is_cut_to_nothing_on_a_nearly_full_disk_keeps_what_it_takes_then() {
    let root = small_disk();
    let path = root.path().to_owned();
    let mount = Mount::in_dir(root, &["--durability", "strict"]);
    fs::write(mount.at("victim"), pattern(30_000, 1)).unwrap();
    File::open(mount.at("victim")).unwrap().sync_all().unwrap();
    let file = OpenOptions::new().read(true).write(true).open(mount.at("victim")).unwrap();
    file.set_len(0).unwrap();
    let beside = File::create(path.join("beside")).unwrap();
    let free = || rustix::fs::statvfs(&path).unwrap();
    let left = free().f_bavail * free().f_frsize - (3 << 20);
    rustix::fs::fallocate(&beside, rustix::fs::FallocateFlags::empty(), 0, left).unwrap();
    let content = pattern(32 << 20, 2);
    let mut taken = 0;
    let refused = content.chunks(30_000).find_map(|part| {
        let written = file.write_all_at(part, taken);
        taken += if written.is_ok() { part.len() as u64 } else { 0 };
        written.err()
    });
    assert_eq!(refused.unwrap().raw_os_error(), Some(libc::ENOSPC));
    let taken = usize::try_from(taken).unwrap();
    let read = |file: &File| {
        let mut found = vec![0; taken];
        file.read_exact_at(&mut found, 0).unwrap();
        found
    };
    assert!(taken > 1 << 20 && read(&file) == content[..taken], "{taken}");
    drop(beside);
    fs::remove_file(path.join("beside")).unwrap();
    file.sync_all().unwrap();
    drop(file);
    unmount_and_mount(&mount);
    assert!(read(&File::open(mount.at("victim")).unwrap()) == content[..taken]);
    unmount(&mount);
    assert!(Command::new("umount").arg("-l").arg(&path).status().unwrap().success());
}
