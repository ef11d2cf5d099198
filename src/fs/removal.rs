//! Taking names away: unlink, rmdir, rename.

use crate::file::{Dir, Held, Kind, RenameMode, Stat};
use crate::fs::core::{Fs, checked};
use crate::fs::error::FsError;
use crate::fs::ids::InodeId;
use crate::limits::DESCRIPTORS_SPARE;

/// An inode that is about to lose a name, and what will keep it if that is the last one.
struct Losing {
    id: InodeId,
    kind: Kind,
    held: Option<Held>,
}

impl Fs {
    /// Removes a name of what is not a directory. Those who have it open go on as before.
    ///
    /// # Errors
    /// `NotFound`, `IsDir`, `ReadOnly`, and the store's.
    pub fn unlink(&self, parent: InodeId, name: &[u8]) -> Result<(), FsError> {
        self.remove(parent, name, |dir, name| Ok(dir.unlink(name)?))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `ReadOnly`, not empty and others of the store's.
    pub fn rmdir(&self, parent: InodeId, name: &[u8]) -> Result<(), FsError> {
        self.remove(parent, name, |dir, name| Ok(dir.remove_dir(name)?))
    }

    fn remove(
        &self,
        parent: InodeId,
        name: &[u8],
        remove: impl FnOnce(&Dir, &[u8]) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let _changing = self.must_be_writable()?;
        let name = checked(name)?;
        let dir = self.dir(parent)?;
        let _names = self.guards.take(parent);
        let stat = dir.lookup(name)?;
        let losing = self.losing(parent, &dir, name, &stat);
        remove(&dir, name)?;
        self.lost(losing, parent, name);
        Ok(())
    }

    fn losing(&self, parent: InodeId, dir: &Dir, name: &[u8], stat: &Stat) -> Losing {
        let id = self.id(stat.ino);
        let hold = || {
            // Who has it open needs nothing more, while that has.
            let spare = if self.inodes.open(id).is_some() { DESCRIPTORS_SPARE } else { 0 };
            let held = self.must_leave(spare).and_then(|()| Ok(dir.hold(name, stat.kind)?));
            // Without it the removal goes on: only who still asks for the removed inode by its
            // number, after closing it, gets an error.
            held.inspect_err(|error| tracing::warn!(ino = stat.ino, %error, "can't hold")).ok()
        };
        let held = if self.inodes.will_need_holding(id, parent, name) { hold() } else { None };
        Losing { id, kind: stat.kind, held }
    }

    fn lost(&self, losing: Losing, parent: InodeId, name: &[u8]) {
        self.inodes.remove_name(losing.id, parent, name, losing.held);
        if losing.kind == Kind::Dir {
            self.dirs.remove(losing.id);
        }
    }

    /// Renames, and replaces what is at the new name, fails if there is something, or exchanges
    /// the two. A file that replaces another one is committed first ([`Dir::rename`]).
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `ReadOnly`, and the store's.
    pub fn rename(
        &self,
        parent: InodeId,
        name: &[u8],
        new_parent: InodeId,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let _changing = self.must_take_content()?;
        let (name, new_name) = (checked(name)?, checked(new_name)?);
        let (dir, new_dir) = (self.dir(parent)?, self.dir(new_parent)?);
        let _names = self.guards.take_both(parent, new_parent);
        let source = dir.lookup(name)?;
        let there = found(new_dir.lookup(new_name))?;
        let id = self.id(source.ino);
        match (mode, there) {
            // Two names of one file: rename(2) leaves both.
            (RenameMode::Replace, Some(there)) if there.ino == source.ino => {}
            (RenameMode::Replace, Some(there)) => {
                let losing = self.losing(new_parent, &new_dir, new_name, &there);
                dir.rename(name, &new_dir, new_name, mode)?;
                self.lost(losing, new_parent, new_name);
                self.moved(id, (parent, name), (new_parent, new_name));
            }
            (RenameMode::Replace | RenameMode::NoReplace, None) => {
                dir.rename(name, &new_dir, new_name, mode)?;
                self.moved(id, (parent, name), (new_parent, new_name));
            }
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, Some(there)) => {
                dir.rename(name, &new_dir, new_name, mode)?;
                if there.ino != source.ino {
                    let other = self.id(there.ino);
                    self.moved(id, (parent, name), (new_parent, new_name));
                    self.moved(other, (new_parent, new_name), (parent, name));
                }
            }
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
        }
        Ok(())
    }

    fn moved(&self, id: InodeId, from: (InodeId, &[u8]), to: (InodeId, &[u8])) {
        self.inodes.add_name(id, to.0, to.1);
        self.inodes.remove_name(id, from.0, from.1, None);
    }
}

/// `None` for a name that is not there.
fn found(lookup: Result<Stat, impl Into<FsError>>) -> Result<Option<Stat>, FsError> {
    match lookup.map_err(Into::into) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
