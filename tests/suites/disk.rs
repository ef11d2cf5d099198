//! An ext4 of its own, in a file.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the image; it is sparse.
const LEN: u64 = 2 << 30;

/// An ext4, mounted for as long as this lives.
pub(crate) struct Disk {
    root: tempfile::TempDir,
}

/// Lets every user into a directory.
pub(crate) fn open(dir: &Path) {
    fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {said}", output.status);
}

impl Disk {
    pub(crate) fn ext4() -> Self {
        Self::with("loop")
    }

    /// An ext4 that writes nothing back by itself for as long as a test takes, and does not write a
    /// file back because it replaces another.
    pub(crate) fn slow_ext4() -> Self {
        Self::with("loop,noauto_da_alloc,commit=900")
    }

    fn with(options: &str) -> Self {
        Self::of(options, |image| {
            File::create_new(image).unwrap().set_len(LEN).unwrap();
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
            run(Command::new("mkfs.ext4").env("PATH", path).args(["-q", "-F"]).arg(image));
        })
    }

    fn of(options: &str, make: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        open(root.path());
        let disk = Self { root };
        make(&disk.image());
        fs::create_dir(disk.path()).unwrap();
        run(Command::new("mount").args(["-o", options]).arg(disk.image()).arg(disk.path()));
        disk
    }

    /// The disk as it is after a power cut at this moment, on another machine. What was written
    /// and not synced is in the memory of this machine, and so not in the image.
    pub(crate) fn after_power_cut(&self) -> Self {
        let copy = |image: &Path| {
            run(Command::new("cp").arg("--sparse=always").arg(self.image()).arg(image));
        };
        Self::of("loop", copy)
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.root.path().join("image")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().join("disk")
    }

    /// A new directory that everybody may write to.
    pub(crate) fn open_dir(&self, name: &str) -> PathBuf {
        let dir = self.path().join(name);
        fs::create_dir(&dir).unwrap();
        open(&dir);
        dir
    }

    /// A temporary directory that everybody may write to.
    pub(crate) fn temporary(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir_in(self.path()).unwrap();
        open(dir.path());
        dir
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let umount = |options: &[&str]| {
            let status = Command::new("umount").args(options).arg(self.path()).status();
            status.is_ok_and(|status| status.success())
        };
        if !umount(&[]) && !umount(&["-l"]) {
            eprintln!("{} is still mounted", self.path().display());
        }
    }
}
