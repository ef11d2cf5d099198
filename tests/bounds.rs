//! What a mount keeps stays bounded: descriptors by a flag, memory by what the kernel knows; and
//! nothing waits for itself where store and mountpoint lie one below the other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mount.rs"]
mod mount;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mount::{CMKFS, Mount, is_mounted};

/// Files that the kernel is made to know.
const FILES: usize = 50_000;
const DIRS: usize = 500;
/// Memory that a daemon may have more than at its start once all files are forgotten: tables that
/// have grown and shrunk, and what was last forgotten but waits for more to be given back with.
const SPARE_KIB: u64 = 4096;

fn descriptors(daemon: u32) -> usize {
    fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count()
}

/// Memory of its own: pages of the program itself come as they are needed, and stay.
fn resident_kib(daemon: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until `done`, for as long as a loaded machine may take.
fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Mounts with no more than `limit` descriptors for the daemon.
fn mount_with_limit(mount: &Mount, limit: u32, options: &str) {
    let (store, point) = (mount.store(), mount.point());
    let home = store.parent().unwrap().join("home");
    let script = format!("ulimit -n {limit} && exec \"$0\" mount \"$1\" \"$2\" {options}");
    let mut command = Command::new("sh");
    command.args(["-c", &script, CMKFS]).args([&store, &point]);
    command.env("HOME", &home).env("XDG_DATA_HOME", home.join("data"));
    command.env("XDG_STATE_HOME", home.join("state")).env("XDG_RUNTIME_DIR", home.join("run"));
    assert!(command.status().unwrap().success());
}

#[test]
fn a_mount_with_few_descriptors_serves_many_files_and_forgets_them() {
    let mount = Mount::new(&[]);
    mount.umount();
    mount_with_limit(&mount, 1024, "--open-dirs 32");
    let daemon = mount.daemon();
    let (base_fds, base_kib) = (descriptors(daemon), resident_kib(daemon));
    let each = |dir: usize| (0..FILES / DIRS).map(move |file| format!("d{dir}/f{file}"));
    for dir in 0..DIRS {
        fs::create_dir(mount.at(format!("d{dir}"))).unwrap();
        for name in each(dir) {
            File::create(mount.at(name)).unwrap();
        }
    }
    // All are known to the kernel now; a walk back and forth needs each directory anew.
    for dir in (0..DIRS).rev() {
        for name in each(dir) {
            assert_eq!(fs::metadata(mount.at(name)).unwrap().len(), 0);
        }
        assert_eq!(fs::read_dir(mount.at(format!("d{dir}"))).unwrap().count(), FILES / DIRS);
    }
    let extra = descriptors(daemon) - base_fds;
    assert!(extra <= 32 + 8, "{extra} descriptors for {DIRS} directories and no open file");
    // As many open files as descriptors are left, and more: those are refused, nothing breaks.
    let mut open = Vec::new();
    let refused = (0..DIRS).flat_map(each).find_map(|name| match File::open(mount.at(name)) {
        Ok(file) => {
            open.push(file);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(refused.unwrap().raw_os_error(), Some(libc::EMFILE));
    assert!(open.len() > 800, "{} files could be open", open.len());
    drop(open);
    until("descriptors are closed", || descriptors(daemon) <= base_fds + 32 + 8);
    assert_eq!(fs::read(mount.at("d0/f0")).unwrap(), b"");
    let full_kib = resident_kib(daemon);
    assert!(full_kib > base_kib + 2 * SPARE_KIB, "{full_kib} KiB say nothing, {base_kib} before");
    // Dentries and inodes; the system's own caches do not matter here.
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    until("memory is given back", || {
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        resident_kib(daemon) < base_kib + SPARE_KIB
    });
    let left_kib = resident_kib(daemon);
    let text =
        format!("{base_kib} KiB resident, {full_kib} with {FILES} files, {left_kib} after\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Holds all open that can be, and does everything else that a program may do meanwhile.
const HOLDING: &str = r#"
import errno, os, resource, sys
os.chdir(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
for n in range(60):
    os.makedirs(f"deep/{n}/below")
    # What is durable, and changed then, stays open until it is in its place.
    with open(f"deep/{n}/below/f", "w") as file:
        os.fsync(file)
for n in range(1100):
    open(f"held-{n}", "w").close()
def forget():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("2")
def all_that_can_be(open_one):
    held = []
    while True:
        try:
            held.append(open_one(len(held)))
        except OSError as error:
            assert error.errno == errno.EMFILE, error
            return held
forget()
held = all_that_can_be(lambda n: os.open(f"held-{n}", os.O_RDWR))
assert 850 < len(held) < 1024 - 64, len(held)
def refused(path, flags):
    try:
        os.open(path, flags)
    except OSError as error:
        return error.errno == errno.EMFILE
assert refused("new", os.O_CREAT | os.O_WRONLY) and not os.path.exists("new")
# One file has one descriptor, however often it is open.
os.close(os.open("held-0", os.O_RDONLY))
def rounds():
    for n in range(60):
        forget()
        at = f"deep/{n}/below"
        assert os.stat(f"{at}/f").st_size == 0
        assert os.listdir(at) == ["f"]
        os.setxattr(f"{at}/f", "user.a", b"1")
        os.rename(f"{at}/f", f"{at}/g")
        os.truncate(f"{at}/g", 5)
        os.mkdir(f"{at}/made")
        os.symlink("made", f"{at}/link")
        os.unlink(f"{at}/link")
        os.rmdir(f"{at}/made")
        os.rename(f"{at}/g", f"{at}/f")
        os.truncate(f"{at}/f", 0)
rounds()
# Files that are open go on, also without a name.
for n in range(200):
    os.unlink(f"held-{n}")
for file in held:
    assert os.write(file, b"x" * 5000) == 5000 and os.fstat(file).st_size == 5000
rounds()
# Streams have their own bound, and leave what all but listing needs.
streams = all_that_can_be(lambda n: os.open(f"deep/{n}", os.O_DIRECTORY))
forget()
assert all(os.stat(f"deep/{n}/below/f").st_size == 0 for n in range(60))
os.rename("deep/59/below/f", "deep/59/below/g")
for file in held + streams:
    os.close(file)
"#;

/// What one program holds open is in nobody's way: what needs a descriptor for a moment has it.
#[test]
fn all_but_opening_goes_on_when_no_more_files_can_be_open() {
    let mount = Mount::new(&[]);
    mount.umount();
    mount_with_limit(&mount, 1024, "--open-dirs 16");
    mount.python(HOLDING);
    until("files can be opened again", || File::create(mount.at("new")).is_ok());
    assert_eq!(fs::metadata(mount.at("held-300")).unwrap().len(), 5000);
}

#[test]
fn a_store_below_its_own_mountpoint_is_hidden_and_serves() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("place");
    fs::create_dir(&place).unwrap();
    let store = place.join("store");
    let home = root.path().join("home");
    let run = |args: &[&str]| {
        // A program that waits for itself would wait for ever.
        let mut command = Command::new("timeout");
        command.args(["60", CMKFS]).args(args).env("HOME", &home);
        command.env("XDG_DATA_HOME", home.join("data")).env("XDG_STATE_HOME", home.join("state"));
        let output = command.env("XDG_RUNTIME_DIR", home.join("run")).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (place_text, store_text) = (place.to_str().unwrap(), store.to_str().unwrap());
    assert_eq!(run(&["init", store_text]).0, Some(0));
    assert_eq!(run(&["mount", store_text, place_text]).0, Some(32), "it is not empty");
    let inside = store.join("tree");
    let inside_text = inside.to_str().unwrap();
    assert_eq!(run(&["mount", store_text, inside_text, "-o", "nonempty"]).0, Some(30));
    for round in 0..2 {
        assert_eq!(run(&["mount", store_text, place_text, "-o", "nonempty"]).0, Some(0));
        assert!(is_mounted(&place));
        assert!(!store.exists(), "the mount hides it");
        let file = place.join(format!("round {round}"));
        fs::write(&file, "x".repeat(100_000)).unwrap();
        File::open(&file).unwrap().sync_all().unwrap();
        assert_eq!(run(&["status", place_text]).0, Some(0));
        let names = fs::read_dir(&place).unwrap().count();
        assert_eq!(names, round + 1);
        let (code, said) = run(&[["umount", "stop"][round], place_text]);
        assert_eq!(code, Some(0), "{said}");
        assert!(!is_mounted(&place) && Path::new(&store).exists());
    }
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1, "nothing beside the store");
}

/// Set-id bits and devices mean something only where root said so when mounting.
#[test]
fn suid_and_dev_count_where_the_options_say_so() {
    let mut mount = Mount::new(&[]);
    mount.sh("cp /usr/bin/id $1/id; chmod 4755 $1/id; mknod -m 666 $1/null c 1 3");
    let script = "setpriv --reuid=65534 --regid=65534 --clear-groups $1/id -u";
    fs::set_permissions(
        mount.point().parent().unwrap(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    assert_eq!(mount.sh(script).trim(), "65534");
    assert_eq!(File::open(mount.at("null")).unwrap_err().raw_os_error(), Some(libc::EACCES));
    mount.umount();
    mount.set_options(&["-o", "suid,dev"]);
    mount.mount();
    assert_eq!(mount.sh(script).trim(), "0");
    assert_eq!(fs::read(mount.at("null")).unwrap(), b"");
}
