//! A throwaway volume with the file system on it, without a mount.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::collections::BTreeSet;
use std::sync::Arc;

use cmkfs::file::VolumeOptions;
use cmkfs::fs::{Attr, Fs, FsError, HandleId, InodeId, OpenFlags, Privileges, RenameMode};

use crate::volume::{ME, Throwaway};

pub const ROOT: InodeId = InodeId::ROOT;

/// A volume and the file system on it.
pub struct World {
    pub disk: Throwaway,
    pub fs: Arc<Fs>,
}

impl World {
    pub fn new() -> Self {
        Self::over(Throwaway::new(4096), &VolumeOptions::default())
    }

    pub fn over(disk: Throwaway, options: &VolumeOptions) -> Self {
        let volume = disk.open_with(options);
        let root = volume.root().unwrap();
        Self { disk, fs: Fs::new(volume, root) }
    }

    /// Closed and opened again.
    pub fn again(self) -> Self {
        self.again_with(&VolumeOptions::default())
    }

    pub fn again_with(self, options: &VolumeOptions) -> Self {
        self.fs.finish().unwrap();
        drop(self.fs);
        Self::over(self.disk, options)
    }

    pub fn file(&self, parent: InodeId, name: &str, content: &str) -> Attr {
        let flags = OpenFlags { exclusive: true, ..OpenFlags::WRITE };
        let (attr, handle) = self.fs.create(parent, name.as_bytes(), 0o644, flags, ME).unwrap();
        self.fs.write(handle, 0, content.as_bytes(), Privileges::Keep).unwrap();
        self.fs.release(handle).unwrap();
        attr
    }

    pub fn dir(&self, parent: InodeId, name: &str) -> InodeId {
        self.fs.mkdir(parent, name.as_bytes(), 0o755, ME).unwrap().ino
    }

    pub fn open(&self, id: InodeId, flags: OpenFlags) -> HandleId {
        self.fs.open(id, flags).unwrap()
    }

    pub fn read(&self, handle: HandleId) -> String {
        String::from_utf8(self.fs.read(handle, 0, 1 << 20).unwrap().to_vec()).unwrap()
    }

    pub fn content(&self, id: InodeId) -> String {
        let handle = self.open(id, OpenFlags::READ);
        let content = self.read(handle);
        self.fs.release(handle).unwrap();
        content
    }

    pub fn lookup(&self, parent: InodeId, name: &str) -> Result<Attr, FsError> {
        self.fs.lookup(parent, name.as_bytes())
    }

    pub fn list(&self, dir: InodeId) -> BTreeSet<String> {
        let handle = self.fs.opendir(dir).unwrap();
        let mut names = BTreeSet::new();
        self.fs
            .readdir(handle, 0, |entry| {
                assert!(names.insert(String::from_utf8(entry.name.to_vec()).unwrap()));
                true
            })
            .unwrap();
        self.fs.releasedir(handle).unwrap();
        names
    }

    pub fn rename(&self, from: (InodeId, &str), to: (InodeId, &str), mode: RenameMode) -> i32 {
        let (name, new_name) = (from.1.as_bytes(), to.1.as_bytes());
        errno(self.fs.rename(from.0, name, to.0, new_name, mode))
    }
}

/// 0 for success.
pub fn errno<T>(done: Result<T, FsError>) -> i32 {
    done.map_or_else(|error| error.errno(), |_| 0)
}

pub fn names(of: &[&str]) -> BTreeSet<String> {
    [".", ".."].iter().chain(of).map(ToString::to_string).collect()
}
