//! Full disks, interrupted verbs, signals before anything serves, and what they leave behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use desk::{CMKFS, Desk, PATIENCE, await_that, judge, said};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

/// A file system of its own at `disk`; unmounted with the desk.
fn disk(desk: &Desk, options: &str) -> PathBuf {
    let dir = desk.dir("disk");
    let mut mount = Command::new("mount");
    assert!(
        mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(&dir).status().unwrap().success()
    );
    dir
}

/// Takes every byte that is left below a directory.
fn fill(dir: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(dir.join("filler")).unwrap();
    for size in [1 << 16, 1 << 10, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn a_full_disk_does_not_save_the_keys() {
    let desk = Desk::new();
    let disk = disk(&desk, "size=4m");
    desk.ok("init disk/store");
    let opened = fs::File::open(disk.join("store/volume.json")).unwrap();
    fs::write(disk.join("store/lock"), "").unwrap();
    fill(&disk);
    desk.ok("terminate disk/store --yes");
    let mut left = String::new();
    std::io::Read::read_to_string(&mut (&opened), &mut left).unwrap();
    assert!(!left.is_empty() && left.bytes().all(|byte| byte == 0), "{left:?}");
    assert!(!disk.join("store").exists());
}

#[test]
fn a_full_disk_leaves_a_job_its_exit_code() {
    let desk = Desk::new();
    disk(&desk, "size=8m");
    desk.dir("disk/r");
    let mut job = desk.command("run --role training --root disk/r -- sh -c");
    job.arg("dd if=/dev/zero of=$TMPDIR/big bs=1M count=64 2>/dev/null; exit 6");
    let output = job.output().unwrap();
    judge("run", &output, 6, &[]);
    assert!(!desk.at("disk/r/var/lib/cmkfs/training/volume.json").exists());
}

#[test]
fn a_store_that_is_being_terminated_is_only_that() {
    let desk = Desk::new();
    desk.volume();
    let id = desk.status("store")["volume_id"].as_str().unwrap().to_owned();
    fs::write(desk.at("store/terminating.cmkfs"), format!("{id}\n")).unwrap();
    for args in ["ls store:/", "status store", "mount store mnt", "snapshot create store target"] {
        desk.refused(args, 11, &["cmkfs terminate", "again"]);
    }
    // As if it had been killed between the marker and the keys.
    desk.ok(&format!("terminate store --confirm {id}"));
    assert!(!desk.at("store").exists());
}

#[test]
fn another_device_named_fuse_is_refused() {
    let desk = Desk::new();
    desk.volume();
    desk.dir("r");
    let masked = |args: &str| {
        let mut command = Command::new("unshare");
        desk.prepare(&mut command);
        let line = format!("mount --bind /dev/null /dev/fuse && exec {CMKFS} {args}");
        command.args(["--mount", "sh", "-c", &line]).output().unwrap()
    };
    judge("mount", &masked("mount store mnt"), 33, &["/dev/fuse"]);
    judge("run", &masked("run --role training --root r -- true"), 125, &["/dev/fuse"]);
}

#[test]
fn sockets_do_not_outlive_their_processes() {
    let desk = Desk::new();
    desk.volume();
    let sockets = desk.dir("home/run/cmkfs");
    fs::set_permissions(&sockets, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    // No process can have this id.
    let dead = sockets.join(format!("{}-4194305.sock", "0".repeat(32)));
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    desk.ok("mount store mnt");
    assert!(!dead.exists());
    assert_eq!(sockets.read_dir().unwrap().count(), 1);
    desk.ok("umount mnt");
    assert_eq!(sockets.read_dir().unwrap().count(), 0);
}

/// Keeps a store to itself until it is dropped.
fn held(desk: &Desk, store: &str) -> fs::File {
    let mut options = fs::File::options();
    let lock = options.create(true).truncate(false).write(true).open(desk.at(store).join("lock"));
    let lock = lock.unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

/// Starts a command that comes as far as to wait for the lock, and sends it SIGTERM there.
fn ended_early(command: &mut Command, lock: &fs::File) -> Child {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let inode = format!(":{} ", lock.metadata().unwrap().ino());
    await_that("it waits for the lock", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.contains(&inode))
    });
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::TERM).unwrap();
    child
}

#[test]
fn a_mount_that_nobody_waits_for_any_more_is_not_made() {
    let desk = Desk::new();
    desk.volume();
    let lock = held(&desk, "store");
    let mut child = ended_early(&mut desk.command("mount store mnt --log-file log"), &lock);
    assert!(!child.wait().unwrap().success());
    drop(lock);
    await_that("the daemon ends", || {
        fs::read_to_string(desk.at("log")).is_ok_and(|log| log.contains("told to end"))
            || desk.is_mounted("mnt")
    });
    assert!(!desk.is_mounted("mnt"));
    desk.ok("mount store mnt");
    desk.ok("umount mnt");
}

/// Processes with this path among their arguments, each with its state (proc_pid_stat(5)).
fn processes_of(path: &Path) -> Vec<(Pid, String)> {
    let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    let of_path = all.filter_map(|name| {
        let (name, path) = (name.to_str()?, path.to_str().unwrap());
        // One that ends meanwhile is none.
        let arguments = fs::read(format!("/proc/{name}/cmdline")).ok()?;
        let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.find(|argument| *argument == path.as_bytes())?;
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest[..1].to_owned())?;
        Some((Pid::from_raw(name.parse().ok()?)?, state))
    });
    of_path.collect()
}

/// The command, its daemon, or both, killed at moments all over a start: what is left goes away by
/// itself or with the mount, and the next start finds nothing in its way.
#[test]
fn a_mount_that_is_killed_while_it_starts_is_in_nobodys_way() {
    const ROUNDS: u32 = 30;
    let desk = Desk::new();
    desk.volume();
    let (store, mnt) = (desk.at("store"), desk.at("mnt"));
    let mount = format!("mount {} {}", store.display(), mnt.display());
    let began = Instant::now();
    desk.ok(&mount);
    let whole = began.elapsed();
    desk.ok("umount mnt");
    for round in 0..ROUNDS {
        let mut command = desk.command(&mount);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // A moment that nothing announces, from the first to shortly after the last.
        std::thread::sleep(whole * round / (ROUNDS - 3));
        let id = Pid::from_raw(child.id().cast_signed()).unwrap();
        for (pid, _) in processes_of(&store) {
            if round % 3 == 0 && pid == id || round % 3 == 1 && pid != id || round % 3 == 2 {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        await_that("the command ends", || child.try_wait().unwrap().is_some());
        await_that("the daemon ends, or serves", || {
            processes_of(&store).is_empty() || desk.is_mounted("mnt")
        });
        // The daemon may be about to unmount it: nobody waits for it any more.
        await_that("it is unmounted", || {
            let left = desk.is_mounted("mnt");
            left.then(|| desk.command("umount mnt").output().unwrap());
            !left
        });
        let mut left = Vec::new();
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            left = processes_of(&store);
            if left.is_empty() {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(left, [], "round {round}");
        assert!(!desk.is_mounted("mnt"), "round {round}");
        desk.ok(&mount);
        desk.ok("umount mnt");
    }
}

#[test]
fn a_job_that_is_ended_before_its_command_does_not_start_it() {
    let desk = Desk::new();
    desk.dir("r");
    let job = "run --role training --root r --key local -- touch began";
    desk.ok(&job.replace("touch began", "true"));
    let lock = held(&desk, "r/var/lib/cmkfs/training");
    let child = ended_early(&mut desk.command(job), &lock);
    drop(lock);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    assert!(!desk.at("began").exists());
    assert!(!desk.is_mounted("r/opt/ml") && !desk.is_mounted("r/tmp"));
    desk.ok(job);
    assert!(desk.at("began").exists());
}

#[test]
fn a_job_gets_back_what_it_was_started_with() {
    let desk = Desk::new();
    desk.dir("r");
    let mut command = Command::new("sh");
    desk.prepare(&mut command);
    let line = format!(
        "ulimit -Sc 100; ulimit -Sn 321; trap '' HUP; \
         exec {CMKFS} run --role training --root r -- \
         sh -c 'ulimit -c; ulimit -n; kill -HUP $PPID; grep SigIgn: /proc/$PPID/status'"
    );
    let output = command.args(["-c", &line]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["100", "321"], "{text}");
    let mask = u64::from_str_radix(lines[2].trim_start_matches("SigIgn:").trim(), 16).unwrap();
    assert_eq!(mask & 1, 1, "SIGHUP is handled: {text}");
}

#[test]
fn a_store_that_can_not_be_changed_says_how_to_mount_it() {
    let desk = Desk::new();
    let disk = disk(&desk, "size=4m");
    desk.ok("init disk/store");
    desk.dir("mnt");
    let mut command = Command::new("mount");
    assert!(command.args(["-o", "remount,ro"]).arg(&disk).status().unwrap().success());
    desk.refused("mount disk/store mnt", 40, &["--read-only"]);
}

#[test]
fn files_can_be_had_with_a_key_that_moved() {
    let desk = Desk::new();
    fs::write(desk.at("key"), [7; 32]).unwrap();
    fs::set_permissions(desk.at("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    desk.ok("init store --key file:key");
    fs::write(desk.at("text"), "text").unwrap();
    fs::rename(desk.at("key"), desk.at("moved")).unwrap();
    desk.refused("ls store:/", 20, &["key"]);
    desk.ok("put text store:/ --key file:moved");
    assert_eq!(desk.ok("ls store:/ --key file:moved"), "text\n");
    assert_eq!(desk.ok("cat store:/text --key file:moved"), "text");
    desk.ok("get store:/text copy --key file:moved");
    assert_eq!(fs::read(desk.at("copy")).unwrap(), b"text");
}
