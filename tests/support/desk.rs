//! A directory of its own in which the real program is called, and what it has to answer.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The program under test.
pub const CMKFS: &str = env!("CARGO_BIN_EXE_cmkfs");
/// Far longer than anything awaited here takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a home of its own; what is mounted below it is unmounted at the end.
pub struct Desk {
    root: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    /// A path on the desk.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Makes a directory on the desk.
    pub fn dir(&self, path: &str) -> PathBuf {
        std::fs::create_dir_all(self.at(path)).unwrap();
        self.at(path)
    }

    /// The program in this directory; `args` is one line of words.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(CMKFS);
        self.prepare(&mut command);
        command.args(args.split_whitespace());
        command
    }

    /// Sets directory, home and standard input.
    pub fn prepare(&self, command: &mut Command) {
        let home = self.at("home");
        command.current_dir(self.root.path()).stdin(Stdio::null());
        command.env("HOME", &home).env("XDG_DATA_HOME", home.join("data"));
        command.env("XDG_STATE_HOME", home.join("state")).env("XDG_RUNTIME_DIR", home.join("run"));
    }

    /// Standard output of a call that has to succeed. One that finds the mount busy may be tried
    /// again: other tests of this process start programs, and until they have begun those hold
    /// whatever is open here.
    #[track_caller]
    pub fn ok(&self, args: &str) -> String {
        let mut output = self.command(args).output().unwrap();
        let began = Instant::now();
        while output.status.code() == Some(37) && began.elapsed() < PATIENCE {
            output = self.command(args).output().unwrap();
        }
        assert!(output.status.success(), "{args}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A call that has to end with this code, say each of `parts`, and change nothing on the desk.
    #[track_caller]
    pub fn refused(&self, args: &str, code: i32, parts: &[&str]) {
        let before = self.inventory();
        let output = self.command(args).output().unwrap();
        judge(args, &output, code, parts);
        assert_eq!(self.inventory(), before, "{args}: changed something");
    }

    /// `status --json` of a volume, the first entry.
    #[track_caller]
    pub fn status(&self, volume: &str) -> serde_json::Value {
        let text = self.ok(&format!("status {volume} --json"));
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["volumes"][0].take()
    }

    /// A volume `store` and an empty directory `mnt`.
    pub fn volume(&self) {
        self.ok("init store");
        self.dir("mnt");
    }

    /// The same, mounted.
    pub fn mounted(&self) {
        self.volume();
        self.ok("mount store mnt");
    }

    /// Path, kind, mode, size and time of all that is on the desk, but the home.
    pub fn inventory(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        walk(self.root.path(), &self.at("home"), &mut found);
        found
    }

    /// Whether something is mounted at exactly this path.
    pub fn is_mounted(&self, path: &str) -> bool {
        let path = self.at(path);
        mountpoints().contains(&path)
    }

    /// Process id of the daemon of a volume.
    pub fn daemon(&self, volume: &str) -> Pid {
        let pid = self.status(volume)["daemon"]["pid"].as_u64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    /// A stored file of at least this many bytes.
    pub fn stored_file(&self, store: &str, len_min: u64) -> PathBuf {
        let mut files = Vec::new();
        files_below(&self.at(store).join("tree"), &mut files);
        let fits = |path: &PathBuf| path.metadata().unwrap().len() >= len_min;
        files.into_iter().find(fits).unwrap()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let below = mountpoints().into_iter().filter(|path| path.starts_with(self.root.path()));
        for path in below.collect::<Vec<_>>().iter().rev() {
            // A failing test must not leave a mount in the way of its directory's removal.
            drop(Command::new("umount").arg("-l").arg(path).status());
        }
    }
}

/// Everything that is mounted, as the kernel lists it.
pub fn mountpoints() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Both outputs and the status as text.
pub fn said(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{} {}", output.status, streams.concat())
}

/// Code and words of a call that was to fail.
#[track_caller]
pub fn judge(args: &str, output: &Output, code: i32, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{args}: {}", said(output));
    let text = String::from_utf8_lossy(&output.stderr);
    for part in parts {
        assert!(text.contains(part), "{args}: wanted {part:?} in: {text}");
    }
    assert!(!text.contains("panicked"), "{args}: {text}");
}

fn walk(dir: &Path, leave_out: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in dir.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let Ok(stat) = path.symlink_metadata() else { continue };
        if path == leave_out {
            continue;
        }
        // Who holds a lock is written into its file, which the first to want it makes, also if it
        // is refused later; a directory is what is in it.
        let mode = stat.mode();
        if stat.is_dir() {
            found.insert(path.clone(), format!("{mode:o}"));
        } else if !path.ends_with("lock") {
            let line = format!("{mode:o} {} {}.{}", stat.len(), stat.mtime(), stat.mtime_nsec());
            found.insert(path.clone(), line);
        }
        if stat.is_dir() {
            walk(&path, leave_out, found);
        }
    }
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in dir.read_dir().unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files_below(&entry.path(), found);
        } else if kind.is_file() && entry.file_name() != "dir.cmkfs" {
            found.push(entry.path());
        }
    }
}

/// Waits for a condition that nothing announces.
#[track_caller]
pub fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal and waits until the process is gone.
#[track_caller]
pub fn end(pid: Pid, signal: Signal) {
    kill_process(pid, signal).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    await_that("the process ends", || !proc.exists());
}

/// Changes one byte in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
