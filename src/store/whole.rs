//! Directories are made and removed as wholes. A new one has a temporary name until it has all that
//! belongs to it, and one that goes is renamed to such a name before anything in it goes: at no
//! moment is there a directory without a marker under a name that anybody looks at. What a crash
//! leaves under a temporary name is of no account, and goes with the directory that it is in.

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use crate::cipher::StoredName;
use crate::format::name::{self, Stored};
use crate::store::dir::{RenameMode, StoreDir};
use crate::store::watch::Op;
use crate::store::{is_dot, is_full, leave};

/// Temporary names within each other: each takes one more crash while a directory was removed in
/// which an earlier one had left something.
const DEPTH_MAX: usize = 16;

/// A directory that is being made. If it gets no name it is removed again.
#[derive(Debug)]
pub struct NewDir<'a> {
    parent: &'a StoreDir,
    temporary: Vec<u8>,
    dir: StoreDir,
    named: bool,
}

fn temporary_name() -> Vec<u8> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the system gives random bytes");
    name::temporary(&id)
}

impl NewDir<'_> {
    /// The directory, to be finished.
    pub fn dir(&self) -> &StoreDir {
        &self.dir
    }

    /// Gives it its name; from here on it is there.
    ///
    /// # Errors
    /// `EEXIST`, and others of the system's; nothing is left behind then.
    pub fn name(mut self, name: &StoredName) -> Result<(), Errno> {
        let (parent, temporary) = (self.parent, &self.temporary);
        parent.named(name, || parent.rename_to_new(temporary, name.object()))?;
        self.named = true;
        Ok(())
    }
}

impl Drop for NewDir<'_> {
    fn drop(&mut self) {
        if !self.named {
            let removed =
                self.dir.remove_marker().and_then(|()| self.parent.rmdir(&self.temporary));
            leave(removed, "directory that could not be finished");
        }
    }
}

impl StoreDir {
    /// Makes a directory under a temporary name; it is not there before [`NewDir::name`].
    ///
    /// # Errors
    /// `EEXIST` if `name` is there, and others of the system's; nothing is left behind then.
    pub fn begin_dir(&self, name: &StoredName, mode: u32) -> Result<NewDir<'_>, Errno> {
        // Looked for first: a call that fails must not touch the times of this directory.
        match self.stat(name.object()) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let temporary = temporary_name();
        let mode = Mode::from_raw_mode(mode) | Mode::RWXU;
        let op = |dir| Op::MakeDir { dir, name: &temporary, mode: mode.as_raw_mode() };
        self.makes(&temporary, op, || rustix::fs::mkdirat(&*self.fd, &temporary, mode))?;
        let opened = self.open_dir(&temporary);
        let dir = opened.inspect_err(|_| leave(self.rmdir(&temporary), "new directory"))?;
        Ok(NewDir { parent: self, temporary, dir, named: false })
    }

    fn rmdir(&self, object: &[u8]) -> Result<(), Errno> {
        let op = || Ok(Op::RemoveDir { dir: self.number()?, name: object });
        self.hook.call(op, || rustix::fs::unlinkat(&*self.fd, object, AtFlags::REMOVEDIR))
    }

    /// Renames a directory in this one to a name that is not there.
    fn rename_to_new(&self, object: &[u8], name: &[u8]) -> Result<(), Errno> {
        match self.rename_object(object, self, name, RenameMode::NoReplace) {
            // A disk that knows no flags. It replaces nothing but an empty directory, and one of
            // ours has a marker.
            Err(Errno::INVAL | Errno::NOSYS) => {
                match self.rename_object(object, self, name, RenameMode::Replace) {
                    Err(Errno::NOTEMPTY | Errno::NOTDIR) => Err(Errno::EXIST),
                    other => other,
                }
            }
            other => other,
        }
    }

    /// Removes a directory that has no objects. Nobody may be making one in it meanwhile; a name
    /// of more than 160 bytes that somebody made would be missing in listings.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `ENOTDIR`, and others of the system's; the directory is as it was then.
    pub fn remove_dir(&self, name: &StoredName) -> Result<(), Errno> {
        let dir = self.open_dir_lending(name.object()).map_err(|error| match error {
            Errno::LOOP => Errno::NOTDIR,
            other => other,
        })?;
        let left = dir.lending(Self::leftovers)?;
        let marker = match dir.lending(Self::read_marker) {
            Ok(marker) => Some(marker),
            // Damaged, but empty.
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        let temporary = self.move_away(name.object())?;
        if let Err(error) = dir.clear(&left, 0).and_then(|()| self.rmdir(&temporary)) {
            if let Some(marker) = marker {
                dir.put_back_marker(&marker);
            }
            self.move_back(&temporary, name.object());
            return Err(error);
        }
        self.remove_sidecar(name);
        Ok(())
    }

    /// Removes what a crash left under a temporary name: a directory without objects, and what lies
    /// in it.
    ///
    /// # Errors
    /// `ENOTEMPTY` if it has objects, `ENOTDIR`, and others of the system's.
    pub fn remove_temporary(&self, object: &[u8]) -> Result<(), Errno> {
        let dir = self.open_dir(object)?;
        dir.clear(&dir.leftovers()?, 0)?;
        self.rmdir(object)
    }

    /// Renames what is to go to a temporary name, and returns that. On a disk that has no room for
    /// a name more it stays where it is: a crash may show it damaged, and removing it works again.
    fn move_away(&self, object: &[u8]) -> Result<Vec<u8>, Errno> {
        let temporary = temporary_name();
        match self.rename_object(object, self, &temporary, RenameMode::Replace) {
            Ok(()) => Ok(temporary),
            Err(error) if is_full(error) => Ok(object.to_vec()),
            Err(error) => Err(error),
        }
    }

    fn move_back(&self, temporary: &[u8], object: &[u8]) {
        if temporary != object
            && let Err(error) = self.rename_to_new(temporary, object)
        {
            let stored = String::from_utf8_lossy(temporary);
            tracing::error!(%error, %stored, "can't give a directory its name back");
        }
    }

    /// What lies in a directory that has no objects, the marker aside.
    ///
    /// # Errors
    /// `ENOTEMPTY` if it has any, or something that is not ours; and the system's.
    fn leftovers(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut stream = self.stream()?;
        let mut left = Vec::new();
        loop {
            let batch = stream.batch()?;
            if batch.is_empty() {
                return Ok(left);
            }
            for entry in batch.into_iter().filter(|entry| !is_dot(&entry.name)) {
                match name::decode(&entry.name) {
                    Stored::Marker => {}
                    Stored::Sidecar | Stored::Temporary => left.push(entry.name),
                    Stored::Direct(_) | Stored::Long { .. } | Stored::Foreign => {
                        return Err(Errno::NOTEMPTY);
                    }
                }
            }
        }
    }

    /// Removes leftovers, and then the marker.
    fn clear(&self, left: &[Vec<u8>], depth: usize) -> Result<(), Errno> {
        if depth > DEPTH_MAX {
            return Err(Errno::NOTEMPTY);
        }
        for name in left {
            if name::decode(name) == Stored::Sidecar {
                self.remove_small(name)?;
                continue;
            }
            let dir = self.open_dir(name).map_err(|error| match error {
                Errno::NOTDIR | Errno::LOOP => Errno::NOTEMPTY,
                other => other,
            })?;
            dir.clear(&dir.leftovers()?, depth + 1)?;
            self.rmdir(name)?;
        }
        self.remove_marker()
    }
}
