//! Power cuts below a mount that is at work: its store is on an ext4 that writes nothing back by
//! itself, and what a cut leaves is a copy of the image below that, taken while the daemon stands
//! still at a random moment. What was acknowledged before has to be there after it. Needs
//! `/dev/fuse`, root and loop devices.
//!
//! `CMKFS_CUTS` is the number of cuts of each load, 4 if it is not set; an issue of the program is
//! worth a hundred.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "suites/disk.rs"]
mod disk;
#[path = "support/mount.rs"]
mod mount;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use disk::Disk;
use mount::Mount;

/// Works below a directory for ever and prints the number of each piece of work that is durable,
/// or looks at what is there and prints the last number that is, all before it being whole.
const LOADS: &str = r#"
import os, sqlite3, sys
load, task, point = sys.argv[1:]
os.chdir(point)
def done(number):
    print(number, flush=True)

def log():
    number = 0
    with open("log", "ab") as file:
        while True:
            number += 1
            file.write(b"%09d\n" % number)
            file.flush()
            os.fdatasync(file.fileno())
            done(number)
def look_log():
    lines = open("log", "rb").read().split(b"\n")
    whole = [line for line in lines if len(line) == 9]
    assert [int(line) for line in whole] == list(range(1, len(whole) + 1)), lines[-3:]
    assert len(lines) - len(whole) <= 1, lines[-3:]
    return len(whole)

def database(journal):
    base = sqlite3.connect("base", isolation_level=None)
    base.execute("pragma journal_mode = " + journal)
    # With less a transaction ends by an unlink that SQLite does not sync: the last may be undone.
    base.execute("pragma synchronous = extra")
    base.execute("pragma wal_autocheckpoint = 20")
    base.execute("create table if not exists t(n integer primary key, b blob)")
    return base
def transactions(journal):
    base, number = database(journal), 0
    while True:
        number += 1
        base.execute("begin")
        base.execute("insert into t values(?, ?)", (number, bytes([number % 251]) * 700))
        base.execute("update t set b = ? where n = ?", (b"x" * 900, number // 2 + 1))
        base.execute("commit")
        done(number)
def look_transactions(journal):
    base = database(journal)
    assert base.execute("pragma integrity_check").fetchone()[0] == "ok"
    count, last = base.execute("select count(*), max(n) from t").fetchone()
    assert count == (last or 0), (count, last)
    return count

def checkpoints():
    number = 0
    while True:
        number += 1
        with open("model.new", "wb") as file:
            file.write(b"%09d" % number * 40000)
            file.flush()
            os.fsync(file.fileno())
        os.rename("model.new", "model")
        here = os.open(".", os.O_RDONLY)
        os.fsync(here)
        os.close(here)
        done(number)
def look_checkpoints():
    if not os.path.exists("model"):
        return 0
    content = open("model", "rb").read()
    assert content == content[:9] * 40000, content[:20]
    return int(content[:9])

def made():
    number = 0
    base = database("delete")
    while True:
        number += 1
        for name in ("made-%09d-%d" % (number, n) for n in range(3)):
            with open(name, "wb") as file:
                file.write(name.encode())
        base.execute("insert into t values(?, ?)", (number, b"x" * 700))
        if number % 5 == 0:
            os.remove("made-%09d-0" % (number - 2))
        done(number)
def look_made():
    names = [name for name in os.listdir(".") if name.startswith("made-")]
    for name in names:
        assert open(name, "rb").read() in (b"", name.encode()), name
    return look_transactions("delete")

work, look = {
    "made": (made, look_made),
    "log": (log, look_log),
    "wal": (lambda: transactions("wal"), lambda: look_transactions("wal")),
    "rollback": (lambda: transactions("delete"), lambda: look_transactions("delete")),
    "checkpoints": (checkpoints, look_checkpoints),
}[load]
done(look()) if task == "look" else work()
"#;

fn python(load: &str, task: &str, point: &Path) -> Command {
    let mut command =
        Command::new(std::env::var_os("CMKFS_PYTHON").unwrap_or_else(|| "python3".into()));
    command.args(["-c", LOADS, load, task]).arg(point);
    command
}

/// A load at work.
struct Work {
    child: Child,
    /// The last number that was acknowledged.
    acknowledged: Arc<AtomicU64>,
}

impl Work {
    fn start(load: &str, point: &Path) -> Self {
        let mut child = python(load, "work", point).stdout(Stdio::piped()).spawn().unwrap();
        let (acknowledged, output) = (Arc::new(AtomicU64::new(0)), child.stdout.take().unwrap());
        let told = Arc::clone(&acknowledged);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                told.store(line.parse().unwrap(), Ordering::SeqCst);
            }
        });
        Self { child, acknowledged }
    }

    fn number(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so much more is acknowledged.
    fn go_on(&mut self, more: u64) {
        let (wanted, until) = (self.number() + more, Instant::now() + Duration::from_secs(60));
        while self.number() < wanted {
            assert!(self.child.try_wait().unwrap().is_none(), "the load has ended by itself");
            assert!(Instant::now() < until, "nothing is acknowledged any more");
            std::thread::yield_now();
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A daemon that stands still for as long as this lives.
struct Stopped(u32);

impl Stopped {
    fn new(daemon: u32) -> Self {
        signal(daemon, "-STOP");
        let stopped = Self(daemon);
        let until = Instant::now() + Duration::from_secs(60);
        while !stopped.is_still() {
            assert!(Instant::now() < until, "the daemon does not stop");
            std::thread::yield_now();
        }
        stopped
    }

    /// Whether no thread is in the middle of a call.
    fn is_still(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).unwrap();
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat"))).all(|stat| {
            // The state is the first word behind the name, which is in parentheses.
            stat.is_ok_and(|stat| {
                stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
            })
        })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "-CONT");
    }
}

fn signal(process: u32, name: &str) {
    let process = process.to_string();
    assert!(Command::new("kill").args([name, &process]).status().unwrap().success());
}

fn cuts() -> u64 {
    std::env::var("CMKFS_CUTS").map_or(4, |text| text.parse().unwrap())
}

/// The number that is found on a disk after a cut.
fn found(load: &str, mount: &Mount, after: &Disk) -> u64 {
    let root = after.path().join(mount.store().parent().unwrap().file_name().unwrap());
    let (store, point) = (root.join("store"), root.join("mount"));
    let run = |args: &[&str]| {
        let output = mount.command(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{load}: {args:?}: {} {text}", output.status);
    };
    let (store, point) = (store.to_str().unwrap(), point.to_str().unwrap());
    run(&["mount", store, point]);
    let output = python(load, "look", Path::new(point)).output().unwrap();
    run(&["umount", point]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{load}: {text}");
    run(&["check", store]);
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn cut_below(load: &str) {
    let disk = Disk::slow_ext4();
    let mount = Mount::in_dir(disk.temporary(), &[]);
    let mut work = Work::start(load, &mount.point());
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for cut in 0..cuts() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        work.go_on(1 + (random >> 33) % 40);
        let acknowledged = work.number();
        let stopped = Stopped::new(mount.daemon());
        let after = disk.after_power_cut();
        drop(stopped);
        let found = found(load, &mount, &after);
        let line = format!("{load}, cut {cut}: {acknowledged} acknowledged, {found} found\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        assert!(found >= acknowledged, "{line}");
    }
}

#[test]
fn a_log_survives_power_cuts() {
    cut_below("log");
}

#[test]
fn a_database_with_a_write_ahead_log_survives_power_cuts() {
    cut_below("wal");
}

#[test]
fn a_database_with_a_rollback_journal_survives_power_cuts() {
    cut_below("rollback");
}

/// Beside a database that syncs: that makes their names durable.
#[test]
fn files_that_are_never_synced_open_after_power_cuts() {
    cut_below("made");
}

#[test]
fn checkpoints_by_rename_survive_power_cuts() {
    cut_below("checkpoints");
}
