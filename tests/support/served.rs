//! A throwaway volume, mounted and served by this process. Needs root and /dev/fuse.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cmkfs::file::VolumeOptions;
use cmkfs::fs::Fs;
use cmkfs::fuse::{MountOptions, Mounted, mount};

use crate::volume::Throwaway;

/// A volume, mounted.
pub struct World {
    pub disk: Throwaway,
    pub point: tempfile::TempDir,
    pub fs: Arc<Fs>,
    pub mounted: Option<Mounted>,
}

pub fn serve(disk: &Throwaway, point: &Path, options: &MountOptions) -> (Arc<Fs>, Mounted) {
    let read_only = options.read_only;
    let volume = disk.open_with(&VolumeOptions { read_only, ..VolumeOptions::default() });
    let root = volume.root().unwrap();
    let fs = Fs::new(volume, root);
    (fs.clone(), mount(fs, point, options).unwrap())
}

pub fn options(disk: &Throwaway) -> MountOptions {
    MountOptions::new(disk.path().to_str().unwrap())
}

impl World {
    pub fn new() -> Self {
        let disk = Throwaway::new(16384);
        let point = tempfile::tempdir().unwrap();
        let (fs, mounted) = serve(&disk, point.path(), &options(&disk));
        // Others than root have to get in.
        fs::set_permissions(point.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { disk, point, fs, mounted: Some(mounted) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.point.path().join(name)
    }

    pub fn unmount(&mut self) {
        let mounted = self.mounted.take().unwrap();
        mounted.unmount().unwrap();
        mounted.wait().unwrap();
    }

    /// Unmounted, and mounted again with other keys in memory and nothing cached.
    pub fn again(&mut self) {
        self.unmount();
        self.mount_again();
    }

    pub fn mount_again(&mut self) {
        let (fs, mounted) = serve(&self.disk, self.point.path(), &options(&self.disk));
        (self.fs, self.mounted) = (fs, Some(mounted));
    }

    /// Runs Python with `path` as `sys.argv[1]`; it fails if an assertion does.
    pub fn python(&self, user: Option<u32>, name: &str, script: &str) {
        let mut command = Command::new("setpriv");
        if let Some(user) = user {
            command.args([format!("--reuid={user}"), format!("--regid={user}")]);
            command.arg("--clear-groups");
        }
        command.args(["/usr/bin/python3", "-c", script]).arg(self.path(name));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

pub fn errno<T>(done: io::Result<T>) -> i32 {
    done.err().map_or(0, |error| error.raw_os_error().unwrap())
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ (at >> 12) as u8).collect()
}
