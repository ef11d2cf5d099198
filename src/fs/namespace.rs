//! Looking names up, and making them.

use crate::file::{Creator, Dir, NodeKind, Stat};
use crate::fs::content::OpenFile;
use crate::fs::core::{ATTEMPTS, Fs, checked};
use crate::fs::error::FsError;
use crate::fs::ids::{Attr, HandleId, InodeId, OpenFlags};
use crate::limits::DESCRIPTORS_SPARE;

impl Fs {
    /// The inode that a name stands for; handed out.
    ///
    /// # Errors
    /// `NotFound`, `NameTooLong`, `NotDir`, and the store's.
    pub fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        self.name_in(parent, name, |dir, name| self.looked_up(dir, name))
    }

    /// Hands out what `work` finds or makes under a name.
    fn name_in(
        &self,
        parent: InodeId,
        name: &[u8],
        work: impl FnOnce(&Dir, &[u8]) -> Result<Stat, FsError>,
    ) -> Result<Attr, FsError> {
        let name = checked(name)?;
        let dir = self.dir(parent)?;
        let _names = self.guards.follow(parent);
        let stat = work(&dir, name)?;
        Ok(self.hand_out(parent, name, stat))
    }

    /// Takes back `count` of the times that an inode was handed out.
    pub fn forget(&self, id: InodeId, count: u64) {
        if id != InodeId::ROOT {
            self.inodes.forget(id, count);
            self.volume.note_forgotten(1);
        }
    }

    /// Makes an empty file, FIFO, socket or device; handed out.
    ///
    /// # Errors
    /// `Exists`, `ReadOnly`, `NameTooLong`, and the store's.
    pub fn mknod(
        &self,
        parent: InodeId,
        name: &[u8],
        kind: NodeKind,
        mode: u32,
        creator: Creator,
    ) -> Result<Attr, FsError> {
        let _changing = self.must_take_content()?;
        self.name_in(parent, name, |dir, name| Ok(dir.make_node(name, kind, creator, mode)?))
    }

    /// Makes a directory; handed out.
    ///
    /// # Errors
    /// `Exists`, `ReadOnly`, `NameTooLong`, and the store's.
    pub fn mkdir(
        &self,
        parent: InodeId,
        name: &[u8],
        mode: u32,
        creator: Creator,
    ) -> Result<Attr, FsError> {
        let _changing = self.must_be_writable()?;
        self.name_in(parent, name, |dir, name| Ok(dir.make_dir(name, creator, mode)?))
    }

    /// Makes a symbolic link; handed out.
    ///
    /// # Errors
    /// `Exists`, `ReadOnly`, `NameTooLong`, and the store's.
    pub fn symlink(
        &self,
        parent: InodeId,
        name: &[u8],
        target: &[u8],
        creator: Creator,
    ) -> Result<Attr, FsError> {
        let _changing = self.must_be_writable()?;
        self.name_in(parent, name, |dir, name| Ok(dir.make_symlink(name, target, creator)?))
    }

    /// What a symbolic link points to.
    ///
    /// # Errors
    /// `Invalid` if it is none, and the store's.
    pub fn readlink(&self, id: InodeId) -> Result<Vec<u8>, FsError> {
        let named = |dir: &Dir, name: &[u8]| Ok(dir.read_link(name)?);
        self.by_held_or_name(id, |held| Ok(held.read_link()?), named)
    }

    /// Gives an inode one more name; handed out.
    ///
    /// # Errors
    /// `NotFound` if it has no name left, `Exists`, `ReadOnly`, and the store's.
    pub fn link(&self, id: InodeId, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        let _changing = self.must_be_writable()?;
        let name = checked(name)?;
        let target = self.dir(parent)?;
        for _ in 0..ATTEMPTS {
            let from = self.inodes.parent(id).ok_or(FsError::NotFound)?;
            let source = self.dir(from)?;
            let _names = self.guards.follow_both(from, parent);
            if let Some(known) = self.inodes.name_in(id, from) {
                let stat = target.link(name, &source, &known)?;
                return Ok(self.hand_out(parent, name, stat));
            }
        }
        Err(FsError::Stale)
    }

    /// Makes a file and opens it, or opens the one that is there unless `flags` say exclusive;
    /// handed out.
    ///
    /// # Errors
    /// `Exists`, `IsDir`, `ReadOnly`, `NameTooLong`, `EMFILE` if few descriptors are left, and the
    /// store's.
    pub fn create(
        &self,
        parent: InodeId,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
        creator: Creator,
    ) -> Result<(Attr, HandleId), FsError> {
        let _changing = self.must_take_content()?;
        let mut made = None;
        let attr = self.name_in(parent, name, |dir, name| {
            self.must_leave(DESCRIPTORS_SPARE)?;
            let (file, stat) = dir.create_file(name, creator, mode)?;
            made = Some(file);
            Ok(stat)
        });
        match (attr, made) {
            (Ok(attr), Some(file)) => {
                let open = self.inodes.add_handle(attr.ino, |open| OpenFile::fresh(open, file));
                Ok((attr, self.insert_file(attr.ino, open, flags.sync)))
            }
            (Err(error), _) if error.is_exists() && !flags.exclusive => {
                let attr = self.lookup(parent, name)?;
                let handle = self.open_now(attr.ino, flags);
                let handle = handle.inspect_err(|_| self.forget(attr.ino, 1))?;
                Ok((attr, handle))
            }
            (attr, _) => Err(attr.expect_err("made is set where it is none")),
        }
    }
}
