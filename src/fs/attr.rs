//! Attributes, size, extended attributes, space.

use crate::file::{Bearer, CAPABILITIES, Dir, FileError, Kind, SetAttr, Stat, StatFs, XattrMode};
use crate::fs::core::Fs;
use crate::fs::error::FsError;
use crate::fs::ids::{Attr, InodeId, Privileges};

const ACL: &[u8] = b"system.posix_acl_";

/// What setattr changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Size of a file.
    pub size: Option<u64>,
    /// Mode, owner, times.
    pub set: SetAttr,
    /// What a new size means for set-id bits.
    pub privileges: Privileges,
}

impl Change {
    /// Mode, owner or times.
    pub fn of(set: SetAttr) -> Self {
        Self { size: None, set, privileges: Privileges::Keep }
    }

    /// The size.
    pub fn size(size: u64) -> Self {
        Self { size: Some(size), ..Self::of(SetAttr::default()) }
    }
}

impl Fs {
    /// The attributes of an inode, also of one whose last name is gone.
    ///
    /// # Errors
    /// `NotFound`, `Stale`, and the store's.
    pub fn getattr(&self, id: InodeId) -> Result<Attr, FsError> {
        Ok(self.attr(self.stat(id)?))
    }

    /// Changes size, mode, owner or times; what comes before a failure is done.
    ///
    /// # Errors
    /// `ReadOnly`, `IsDir` and `Invalid` for the size of what is no file, and the store's.
    pub fn setattr(&self, id: InodeId, change: &Change) -> Result<Attr, FsError> {
        let _changing = match change.size {
            Some(_) => self.must_take_content()?,
            None => self.must_be_writable()?,
        };
        if let Some(size) = change.size {
            self.set_size(id, size, change.privileges)?;
        }
        let stat = match (change.set, change.size) {
            // How a change of owner to the same one arrives, which clears set-id bits.
            (set, None) if set == SetAttr::default() => {
                let uid = Some(self.stat(id)?.uid);
                self.set_attr(id, &SetAttr { uid, ..set })?
            }
            (set, Some(_)) if set == SetAttr::default() => self.stat(id)?,
            (set, _) => self.set_attr(id, &set)?,
        };
        Ok(self.attr(stat))
    }

    fn set_size(&self, id: InodeId, size: u64, privileges: Privileges) -> Result<(), FsError> {
        match self.inodes.kind(id) {
            Some(Kind::File) => {}
            Some(Kind::Dir) => return Err(FsError::IsDir),
            None if id == InodeId::ROOT => return Err(FsError::IsDir),
            _ => return Err(FsError::Invalid),
        }
        self.with_writable(id, |open| {
            open.apply(privileges)?;
            Ok(open.file.commit_len(size)?)
        })
    }

    fn set_attr(&self, id: InodeId, set: &SetAttr) -> Result<Stat, FsError> {
        if id == InodeId::ROOT {
            return Ok(self.root.set_attr_self(set)?);
        }
        if set.uid.is_some() || set.gid.is_some() {
            self.remove_capabilities(id)?;
        }
        let opened = self.with_open(id, |open| {
            let stat = open.file.set_attr(set)?;
            open.mode_changed();
            Ok(stat)
        });
        if let Some(done) = opened {
            return done;
        }
        let named = |dir: &Dir, name: &[u8]| self.same(id, dir.set_attr(name, set)?);
        self.by_held_or_name(id, |held| Ok(held.set_attr(set)?), named)
    }

    /// A new owner must not gain what the old one was trusted with (capabilities(7)).
    fn remove_capabilities(&self, id: InodeId) -> Result<(), FsError> {
        if self.inodes.kind(id) != Some(Kind::File) {
            return Ok(());
        }
        if let Some(open) = self.inodes.open(id) {
            return open.remove_capabilities();
        }
        match self.attributes(id, |bearer| bearer.remove(CAPABILITIES)) {
            // Out of a daemon's reach that is not root, so that there is none.
            Err(error) if matches!(error.errno(), libc::ENODATA | libc::EPERM | libc::ENOTSUP) => {
                Ok(())
            }
            removed => removed,
        }
    }

    /// Whether an open file is known to have no capabilities.
    fn is_incapable(&self, id: InodeId) -> bool {
        self.changes_here_only() && self.inodes.open(id).is_some_and(|open| open.is_incapable())
    }

    /// Does something with the extended attributes of an inode.
    fn attributes<T>(
        &self,
        id: InodeId,
        work: impl Fn(&Bearer<'_>) -> Result<T, FileError>,
    ) -> Result<T, FsError> {
        let open = if id == InodeId::ROOT { Some(self.root.clone()) } else { self.dirs.get(id) };
        if let Some(dir) = open {
            return Ok(work(&dir.bearer(None)?)?);
        }
        let named = |dir: &Dir, name: &[u8]| Ok(work(&dir.bearer(Some(name))?)?);
        self.by_held_or_name(id, |held| Ok(work(&held.bearer()?)?), named)
    }

    /// Value of an extended attribute. A store whose disk has no access control lists has none
    /// on any file.
    ///
    /// # Errors
    /// `ENODATA`, damage, `EOPNOTSUPP`, and the store's.
    pub fn getxattr(&self, id: InodeId, name: &[u8]) -> Result<Vec<u8>, FsError> {
        // What the kernel asks before a write to a file that it has not asked it of.
        if name == CAPABILITIES && self.is_incapable(id) {
            return Err(FileError::NoAttribute.into());
        }
        self.attributes(id, |bearer| bearer.get(name)).map_err(|error| match error {
            error if name.starts_with(ACL) && error.errno() == libc::EOPNOTSUPP => {
                FileError::NoAttribute.into()
            }
            error => error,
        })
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `ReadOnly`, `EEXIST` and `ENODATA` by `mode`, too large, and the store's.
    pub fn setxattr(
        &self,
        id: InodeId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), FsError> {
        let _changing = self.must_be_writable()?;
        self.attributes(id, |bearer| bearer.set(name, value, mode))?;
        // An access control list changes the mode, and there may be capabilities now.
        if let Some(open) = self.inodes.open(id) {
            open.attributes_changed();
        }
        Ok(())
    }

    /// Names of all extended attributes, each with a zero byte after it.
    ///
    /// # Errors
    /// The store's.
    pub fn listxattr(&self, id: InodeId) -> Result<Vec<u8>, FsError> {
        let names = self.attributes(id, |bearer| bearer.list())?;
        Ok(names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ReadOnly`, `ENODATA`, and the store's.
    pub fn removexattr(&self, id: InodeId, name: &[u8]) -> Result<(), FsError> {
        let _changing = self.must_be_writable()?;
        self.attributes(id, |bearer| bearer.remove(name))
    }

    /// Space of the store's disk.
    ///
    /// # Errors
    /// The store's.
    pub fn statfs(&self) -> Result<StatFs, FsError> {
        Ok(self.volume.statfs()?)
    }
}
