//! A volume mounted by the real program, in a directory of its own.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The program under test.
pub const CMKFS: &str = env!("CARGO_BIN_EXE_cmkfs");

/// What `umount` exits with while something is in use below the mountpoint.
const BUSY: i32 = 37;

/// Whether `path` is where a file system is mounted.
pub fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// A volume, mounted at `point()` for as long as this lives.
pub struct Mount {
    root: tempfile::TempDir,
    options: Vec<String>,
}

impl Mount {
    /// Makes a volume with a local key and mounts it.
    pub fn new(options: &[&str]) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), options)
    }

    /// The same, below a directory of the caller's.
    pub fn in_dir(root: tempfile::TempDir, options: &[&str]) -> Self {
        // The shortest spelling: the mount table has no links in it.
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mount = Self { root, options };
        std::fs::create_dir(mount.point()).unwrap();
        mount.ok(&["init", mount.store().to_str().unwrap()]);
        mount.mount();
        mount
    }

    pub fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    pub fn point(&self) -> PathBuf {
        self.root.path().join("mount")
    }

    /// A path below the mountpoint.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.point().join(path)
    }

    /// The program, with a home of its own.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(CMKFS);
        let home = self.root.path().join("home");
        command.args(args).env("HOME", &home).env("XDG_DATA_HOME", home.join("data"));
        command.env("XDG_STATE_HOME", home.join("state")).env("XDG_RUNTIME_DIR", home.join("run"));
        command
    }

    /// Runs the program, which has to succeed.
    pub fn ok(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {} {text}", output.status);
        output
    }

    pub fn mount(&self) {
        let (store, point) = (self.store(), self.point());
        let mut args = vec!["mount", store.to_str().unwrap(), point.to_str().unwrap()];
        args.extend(self.options.iter().map(String::as_str));
        self.ok(&args);
        assert!(is_mounted(&point), "mount returned before the mountpoint serves");
    }

    /// Options of the mounts to come.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// Unmounts. A program that another test starts has copies of all open files for a moment,
    /// between fork(2) and exec(2), for which the mountpoint is busy.
    pub fn umount(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        let point = self.point();
        let busy = || self.command(&["umount", point.to_str().unwrap()]).output().unwrap();
        let mut output = busy();
        while output.status.code() == Some(BUSY) && Instant::now() < until {
            std::thread::yield_now();
            output = busy();
        }
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "umount: {} {text}", output.status);
        assert!(!is_mounted(&self.point()));
    }

    pub fn remount(&self) {
        self.umount();
        self.mount();
    }

    /// `status --json` of this volume.
    pub fn status(&self) -> serde_json::Value {
        let output = self.ok(&["status", self.store().to_str().unwrap(), "--json"]);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Process id of the daemon, as the lock file tells it.
    pub fn daemon(&self) -> u32 {
        let holder = std::fs::read_to_string(self.store().join("lock")).unwrap();
        let holder: serde_json::Value = serde_json::from_str(&holder).unwrap();
        u32::try_from(holder["pid"].as_u64().unwrap()).unwrap()
    }

    /// Runs a shell script with the mountpoint as `$1`; it has to succeed.
    pub fn sh(&self, script: &str) -> String {
        let output =
            Command::new("sh").args(["-euc", script, "sh"]).arg(self.point()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {} {text}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a Python script with the mountpoint as `sys.argv[1]`; it has to succeed.
    pub fn python(&self, script: &str) {
        let python = std::env::var("CMKFS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let output = Command::new(python).args(["-c", script]).arg(self.point()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {text}", output.status);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mounted(&self.point()) {
            let point = self.point();
            let done = self.command(&["umount", point.to_str().unwrap()]).status();
            if !done.is_ok_and(|status| status.success()) {
                // A failing test must not leave a mount in the way of its directory's removal.
                drop(Command::new("umount").arg("-l").arg(&point).status());
            }
        }
    }
}
