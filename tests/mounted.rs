//! The real program on a real mount: sizes, concurrency, memory, signals, damage, a full disk.
//! Needs `/dev/fuse` and root; fails without.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "mounted/full.rs"]
mod full;
#[path = "mounted/length.rs"]
mod length;
#[path = "support/mount.rs"]
mod mount;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::Instant;

use mount::{Mount, is_mounted};

fn pattern(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|at| fill.wrapping_add((at % 251) as u8)).collect()
}

/// Says a figure in the log of the tests also if they pass, whose output is not shown otherwise.
fn tell(what: &str, since: Instant) {
    let text = format!("{what}: {:.1} s\n", since.elapsed().as_secs_f64());
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Does something for each number below `count`, four at a time.
fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for first in 0..4 {
            let work = &work;
            scope.spawn(move || (first..count).step_by(4).for_each(work));
        }
    });
}

/// `CMKFS_FILES` is how many; an issue of the program is worth a million.
#[test]
fn a_hundred_thousand_files_in_one_directory() {
    let mount = Mount::new(&[]);
    let count = std::env::var("CMKFS_FILES").map_or(100_000, |text| text.parse().unwrap());
    let path = |n: usize| mount.at(format!("many/file-{n:07}"));
    let begun = Instant::now();
    fs::create_dir(mount.at("many")).unwrap();
    for_each(count, |n| drop(File::create(path(n)).unwrap()));
    tell(&format!("{count} files made"), begun);
    for _ in 0..2 {
        let begun = Instant::now();
        let entries = fs::read_dir(mount.at("many")).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let listed: Vec<_> = entries.map(|entry| name(entry).into_string().unwrap()).collect();
        tell(&format!("{} files listed", listed.len()), begun);
        assert_eq!(listed.len(), count);
        let numbers = listed.iter().map(|name| name.strip_prefix("file-").unwrap().parse());
        let numbers: BTreeSet<usize> = numbers.map(Result::unwrap).collect();
        let (first, last) = (numbers.first(), numbers.last());
        assert_eq!((numbers.len(), first, last), (count, Some(&0), Some(&(count - 1))));
        mount.remount();
    }
    for n in (0..count).step_by(count / 1000) {
        assert_eq!(fs::metadata(path(n)).unwrap().len(), 0);
    }
    let none = fs::metadata(path(count)).unwrap_err();
    assert_eq!(none.raw_os_error(), Some(libc::ENOENT));
    changed_all_at_once(&mount, count);
    let begun = Instant::now();
    for_each(count, |n| fs::remove_file(path(n)).unwrap());
    tell(&format!("{count} files removed"), begun);
    assert_eq!(fs::read_dir(mount.at("many")).unwrap().count(), 0);
    fs::remove_dir(mount.at("many")).unwrap();
    let left = fs::read_dir(mount.store().join("tree")).unwrap().count();
    assert_eq!(left, 1, "the marker alone is left in the store");
}

/// Modes and owners of a whole tree, as `chmod -R` and `chown -R` change them.
fn changed_all_at_once(mount: &Mount, count: usize) {
    for command in ["chmod -R 640 $1/many", "chown -R 1234:4321 $1/many"] {
        let begun = Instant::now();
        mount.sh(command);
        tell(&format!("{command}, {count} files"), begun);
    }
    mount.remount();
    let begun = Instant::now();
    let entries = fs::read_dir(mount.at("many")).unwrap();
    let stats = entries.map(|entry| entry.unwrap().metadata().unwrap());
    let seen = stats.map(|stat| (stat.mode() & 0o7777, stat.uid(), stat.gid()));
    assert_eq!(seen.filter(|seen| *seen == (0o640, 1234, 4321)).count(), count);
    tell(&format!("{count} files looked at"), begun);
}

#[test]
fn names_of_255_bytes_and_of_any_bytes() {
    let mount = Mount::new(&[]);
    let names = [vec![b'x'; 255], vec![0xFF; 255], vec![b'y'; 161], b"\xFE\x01 \n".to_vec()];
    for name in &names {
        fs::write(mount.at(OsStr::from_bytes(name)), name).unwrap();
    }
    mount.remount();
    for name in &names {
        assert_eq!(&fs::read(mount.at(OsStr::from_bytes(name))).unwrap(), name);
    }
    let long = File::create(mount.at(OsStr::from_bytes(&[b'x'; 256]))).unwrap_err();
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn a_sparse_file_of_ten_gibibytes() {
    let mount = Mount::new(&[]);
    let path = mount.at("big");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    let (dense, end) = (pattern(5 << 20, 3), 10_u64 << 30);
    for at in [0, 4 << 30, end - dense.len() as u64] {
        file.write_all_at(&dense, at).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    mount.remount();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), end);
    assert!(meta.blocks() * 512 < 24 << 20, "{} bytes are stored", meta.blocks() * 512);
    let file = File::open(&path).unwrap();
    let mut read = vec![0; dense.len()];
    for at in [0, 4 << 30, end - dense.len() as u64] {
        file.read_exact_at(&mut read, at).unwrap();
        assert!(read == dense, "{at}");
    }
    file.read_exact_at(&mut read, 7 << 30).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
}

#[test]
fn a_dense_file_of_one_gibibyte_stays_within_the_memory_bound() {
    let mount = Mount::new(&["--cache-size", "64M"]);
    let chunk = pattern(1 << 20, 7);
    let mut file = File::create(mount.at("stream")).unwrap();
    for n in 0..1024_u32 {
        file.write_all(&n.to_le_bytes()).unwrap();
        file.write_all(&chunk[4..]).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let mut file = File::open(mount.at("stream")).unwrap();
    let mut read = vec![0; 1 << 20];
    for n in 0..1024_u32 {
        file.read_exact(&mut read).unwrap();
        assert!(read[..4] == n.to_le_bytes() && read[4..] == chunk[4..], "MiB {n}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", mount.daemon())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 200 << 10, "the daemon had {peak_kib} KiB resident");
}

#[test]
fn readers_and_writers_at_once_see_whole_records() {
    let mount = Mount::new(&[]);
    let (path, records, len) = (mount.at("shared"), 64_u64, 24_000_u64);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(records * len).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4_u64 {
            let file = &file;
            scope.spawn(move || {
                for round in 0..40_u8 {
                    for record in (writer..records).step_by(4) {
                        let data = vec![round.wrapping_add(record as u8); len as usize];
                        file.write_all_at(&data, record * len).unwrap();
                    }
                }
            });
        }
        for reader in 0..3_u64 {
            let path = &path;
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let mut byte = [0; 4096];
                for n in 0..2000 {
                    let record = (n * 7 + reader) % records;
                    let at = record * len + (n * 4096) % (len - 4096);
                    file.read_exact_at(&mut byte, at).unwrap();
                    // A page of one record: bytes of it that some round wrote, or zeros before.
                    let base = byte[0].wrapping_sub(record as u8);
                    assert!(base < 40 || byte[0] == 0, "{record} {}", byte[0]);
                }
            });
        }
    });
    drop(file);
    mount.remount();
    let bytes = fs::read(&path).unwrap();
    for record in 0..records {
        let part = &bytes[(record * len) as usize..((record + 1) * len) as usize];
        assert!(part.iter().all(|byte| *byte == 39_u8.wrapping_add(record as u8)), "{record}");
    }
}

#[test]
fn appends_of_many_processes_lose_no_line() {
    let mount = Mount::new(&[]);
    mount.sh(r#"
        for writer in 1 2 3 4 5 6 7 8; do
            sh -c 'n=0; while [ $n -lt 200 ]; do echo "$2 $n" >> "$1/log"; n=$((n + 1)); done' \
                sh "$1" "$writer" &
        done
        wait
    "#);
    let text = fs::read_to_string(mount.at("log")).unwrap();
    let lines: BTreeSet<_> = text.lines().collect();
    assert_eq!((text.lines().count(), lines.len()), (1600, 1600));
}

#[test]
fn mapped_memory_shared_and_private() {
    let mount = Mount::new(&[]);
    fs::write(mount.at("mapped"), pattern(300_000, 1)).unwrap();
    mount.python(
        r#"
import mmap, os, sys
path = sys.argv[1] + "/mapped"
with open(path, "r+b") as file:
    shared = mmap.mmap(file.fileno(), 0)
    private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    private[100:107] = b"private"
    shared[200_000:200_006] = b"shared"
    assert os.pread(file.fileno(), 6, 200_000) == b"shared"
    os.pwrite(file.fileno(), b"written", 250_000)
    assert shared[250_000:250_007] == b"written"
    shared.flush()
    shared.close()
    private.close()
"#,
    );
    mount.remount();
    let mut wanted = pattern(300_000, 1);
    wanted[200_000..200_006].copy_from_slice(b"shared");
    wanted[250_000..250_007].copy_from_slice(b"written");
    assert!(fs::read(mount.at("mapped")).unwrap() == wanted);
}

#[test]
fn sigterm_and_plain_umount_end_the_daemon_with_everything_stored() {
    let mount = Mount::new(&[]);
    for (round, script) in ["kill -TERM $(cat pid)", "umount mount"].iter().enumerate() {
        let name = format!("file-{round}");
        fs::write(mount.at(&name), pattern(100_000, 9)).unwrap();
        let script = script.replace("$(cat pid)", &mount.daemon().to_string());
        let script = script.replace(" mount", &format!(" {}", mount.point().display()));
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        // At once: it has to wait for the daemon that is about to leave.
        wait_until_gone(&mount);
        mount.mount();
        assert!(fs::read(mount.at(&name)).unwrap() == pattern(100_000, 9), "{script}");
    }
}

/// SIGTERM is asynchronous: waits until the mountpoint is free, which the kernel tells by a
/// change of the mount table.
fn wait_until_gone(mount: &Mount) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let table = File::open("/proc/self/mountinfo").unwrap();
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    for _ in 0..20 {
        if !is_mounted(&mount.point()) {
            return;
        }
        poll(&mut [PollFd::new(&table, PollFlags::PRI)], Some(&second)).unwrap();
    }
    panic!("still mounted after 20 seconds");
}

#[test]
fn damage_is_an_input_output_error_and_the_mount_lives_on() {
    let mount = Mount::new(&[]);
    fs::write(mount.at("good"), pattern(50_000, 1)).unwrap();
    fs::write(mount.at("bad"), pattern(50_000, 2)).unwrap();
    let ino = fs::metadata(mount.at("bad")).unwrap().ino();
    mount.umount();
    let stored = fs::read_dir(mount.store().join("tree")).unwrap().map(|entry| entry.unwrap());
    let stored = stored.into_iter().find(|entry| entry.metadata().unwrap().ino() == ino).unwrap();
    let lower = OpenOptions::new().write(true).open(stored.path()).unwrap();
    lower.write_all_at(b"x", 16384 + 20_000).unwrap();
    mount.mount();
    let bad = File::open(mount.at("bad")).unwrap();
    let mut page = [0; 4096];
    let error = bad.read_exact_at(&mut page, 20_480).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    bad.read_exact_at(&mut page, 40_960).unwrap();
    assert_eq!(page[..], pattern(50_000, 2)[40_960..45_056]);
    assert!(fs::read(mount.at("good")).unwrap() == pattern(50_000, 1));
    assert_eq!(fs::metadata(mount.at("bad")).unwrap().len(), 50_000);
    fs::rename(mount.at("bad"), mount.at("worse")).unwrap();
    fs::remove_file(mount.at("worse")).unwrap();
    assert!(mount.status().to_string().contains("damages"));
}

/// A directory on a disk of 24 MiB.
fn small_disk() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let mut disk = Command::new("mount");
    disk.args(["-t", "tmpfs", "-o", "size=24m", "none"]).arg(root.path());
    assert!(disk.status().unwrap().success());
    root
}

#[test]
fn a_full_disk_is_an_error_and_harms_nothing_older() {
    let root = small_disk();
    let path = root.path().to_owned();
    {
        let mount = Mount::in_dir(root, &[]);
        fs::write(mount.at("older"), pattern(1 << 20, 1)).unwrap();
        let mut file = File::create(mount.at("larger")).unwrap();
        let chunk = pattern(1 << 20, 2);
        let error = (0..64).find_map(|_| file.write_all(&chunk).err());
        let error = error.or_else(|| file.sync_all().err()).unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        drop(file);
        assert!(fs::read(mount.at("older")).unwrap() == pattern(1 << 20, 1));
        fs::remove_file(mount.at("larger")).unwrap();
        wait_for_space(&mount.point(), 2 << 20);
        fs::write(mount.at("newer"), pattern(1 << 20, 3)).unwrap();
        mount.remount();
        assert!(fs::read(mount.at("older")).unwrap() == pattern(1 << 20, 1));
        assert!(fs::read(mount.at("newer")).unwrap() == pattern(1 << 20, 3));
        mount.umount();
        assert!(Command::new("umount").arg("-l").arg(&path).status().unwrap().success());
    }
}

#[test]
fn a_full_disk_leaves_what_was_overwritten_and_what_was_not() {
    let root = small_disk();
    let path = root.path().to_owned();
    let mount = Mount::in_dir(root, &[]);
    let (old, new) = (pattern(8 << 20, 1), pattern(4 << 20, 77));
    fs::write(mount.at("mixed"), &old).unwrap();
    let mut file = OpenOptions::new().write(true).open(mount.at("mixed")).unwrap();
    file.write_all_at(&new, 0).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    let chunk = pattern(300_001, 2);
    assert!((0..200).any(|_| file.write_all(&chunk).is_err()));
    drop(file.sync_all());
    drop(file);
    for again in [false, true] {
        if again {
            mount.remount();
        }
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        let found = fs::read(mount.at("mixed")).unwrap();
        assert!(found.len() >= old.len(), "{} bytes", found.len());
        assert!(found[..new.len()] == new, "what was overwritten");
        assert!(found[new.len()..old.len()] == old[new.len()..], "what was not");
    }
    mount.umount();
    assert!(Command::new("umount").arg("-l").arg(&path).status().unwrap().success());
}

#[test]
fn a_failed_commit_is_heard_of_by_sync_close_and_rename() {
    let mount = Mount::new(&[]);
    fs::write(mount.at("good"), b"the only copy").unwrap();
    mount.umount();
    // A store whose files can't grow past 512 000 bytes: EFBIG, where a disk would say EIO.
    let script = r#"trap '' XFSZ; ulimit -f 1000; exec "$0" mount "$1" "$2""#;
    let mut limited = mount.command(&[]);
    let program = limited.get_program().to_owned();
    let envs = limited.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()));
    let envs: Vec<_> = envs.collect();
    limited = Command::new("sh");
    limited.args(["-c", script]).arg(program).arg(mount.store()).arg(mount.point()).envs(envs);
    assert!(limited.status().unwrap().success());
    mount.python(
        r#"
import os, sys
os.chdir(sys.argv[1])
def fails(call):
    try:
        call()
    except OSError:
        return
    raise SystemExit("no error")
file = os.open("new", os.O_CREAT | os.O_WRONLY)
os.write(file, b"new")
os.pwrite(file, b"tail", 1 << 20)
fails(lambda: os.fsync(file))
fails(lambda: os.fsync(file))
fails(lambda: os.rename("new", "good"))
os.stat("new")
fails(lambda: os.close(file))
assert open("good", "rb").read() == b"the only copy"
"#,
    );
    mount.remount();
    assert_eq!(fs::read(mount.at("good")).unwrap(), b"the only copy");
}

#[test]
fn changes_of_many_open_files_stay_within_the_memory_bound() {
    let mount = Mount::new(&["--cache-size", "16M"]);
    let files: Vec<_> =
        (0..300).map(|n| File::create(mount.at(format!("file-{n}"))).unwrap()).collect();
    // New files, and then what was synced and is written over, by way of the journal.
    for byte in [b"w", b"x"] {
        for file in &files {
            for block in 0..60 {
                file.write_all_at(byte, block * 16384 + 5).unwrap();
            }
        }
        files.iter().for_each(|file| file.sync_data().unwrap());
    }
    let status = fs::read_to_string(format!("/proc/{}/status", mount.daemon())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 200 << 10, "the daemon had {peak_kib} KiB resident");
    drop(files);
    mount.remount();
    assert_eq!(fs::read(mount.at("file-299")).unwrap()[59 * 16384 + 5], b'x');
}

/// The kernel tells of a last close some time after close(2) has returned; nothing announces when
/// the space is free.
fn wait_for_space(path: &std::path::Path, wanted: u64) {
    let free = || {
        let space = rustix::fs::statvfs(path).unwrap();
        space.f_bavail * space.f_frsize
    };
    let started = Instant::now();
    while free() < wanted {
        assert!(started.elapsed().as_secs() < 20, "only {} bytes are free", free());
        std::thread::yield_now();
    }
}

#[test]
fn other_users_have_what_their_permissions_allow() {
    let mount = Mount::new(&[]);
    mount.sh(r#"
        chmod 1777 "$1"
        as() { setpriv --reuid "$1" --regid "$1" --clear-groups sh -euc "$3" sh "$2"; }
        chmod 755 "$(dirname "$1")"
        as 65534 "$1" 'umask 077; echo mine > "$1/private"; mkdir "$1/dir"'
        test "$(stat -c %u:%a "$1/private")" = 65534:600
        test "$(stat -c %u:%a "$1/dir")" = 65534:700
        if as 1 "$1" 'cat "$1/private"' 2> /dev/null; then exit 9; fi
        if as 1 "$1" 'rm -f "$1/private"' 2> /dev/null; then exit 10; fi
        test "$(as 65534 "$1" 'cat "$1/private"')" = mine
        chgrp 1 "$1/dir" && chmod 2770 "$1/dir"
        as 1 "$1" 'echo ours > "$1/dir/shared"; mkdir "$1/dir/sub"'
        test "$(stat -c %u:%g "$1/dir/shared")" = 1:1
        test "$(stat -c %a "$1/dir/sub")" = 2755
    "#);
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    let root = tempfile::tempdir().unwrap();
    let script = r#"
        # /dev/fuse is for everybody on usual systems; here it is made so for this script alone.
        mknod "$1/fuse" c 10 229 && chmod 666 "$1/fuse" && mount --bind "$1/fuse" /dev/fuse
        mkdir "$1/user" && chown 65534:65534 "$1/user" && chmod 755 "$1"
        cp "$2" "$1/cmkfs"
        setpriv --reuid 65534 --regid 65534 --clear-groups sh -euc '
            export HOME="$1/user" XDG_DATA_HOME="$1/user/data" XDG_RUNTIME_DIR="$1/user/run"
            export XDG_STATE_HOME="$1/user/state"
            cd "$1/user" && mkdir point
            "$1/cmkfs" init store
            "$1/cmkfs" mount store point
            echo hello > point/file
            chmod 444 point/file && test "$(cat point/file)" = hello
            install -m 200 /dev/null point/write-only && echo x >> point/write-only
            mkdir point/dir && mv point/file point/dir/moved && ln -s dir/moved point/link
            "$1/cmkfs" umount point
            "$1/cmkfs" mount store point
            test "$(cat point/link)" = hello
            "$1/cmkfs" umount point
        ' sh "$1"
    "#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-euc", script, "sh"])
        .arg(root.path())
        .arg(mount::CMKFS)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {text}", output.status);
}
