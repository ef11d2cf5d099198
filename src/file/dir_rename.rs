//! A directory by plaintext names: renaming.
//!
//! Programs replace a file by writing another one and renaming it over the first, and many do so
//! without an fsync. A disk may make the new name durable long before the new bytes, and after a
//! power cut neither content would be there. So what takes the place of something is durable
//! before it does, unless the volume is to do without.

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::cipher::StoredName;
use crate::file::content::File;
use crate::file::dir::Dir;
use crate::file::error::FileError;
use crate::file::stat::Kind;
use crate::store::{Durability, LowerStat, RenameMode, leave};

fn kind(lower: &LowerStat) -> Option<Kind> {
    Kind::from_lower(FileType::from_raw_mode(lower.st_mode))
}

impl File {
    /// Commits, and makes durable what never was, as far as the volume wants that.
    fn settle(&self) -> Result<(), FileError> {
        self.commit()?;
        let durable =
            self.volume().durability() == Durability::Relaxed || self.state()?.is_settled();
        if durable { Ok(()) } else { self.sync(true) }
    }
}

impl Dir {
    /// Makes the content of an object durable that is about to take the place of another.
    fn settle(&self, name: &StoredName, lower: &LowerStat) -> Result<(), FileError> {
        let volume = self.volume();
        if kind(lower) != Some(Kind::File) {
            return Ok(());
        }
        if let Some(file) = volume.opened(lower.st_ino) {
            return file.settle();
        }
        if volume.durability() == Durability::Strict && !volume.settled.has(lower.st_ino) {
            self.lower().sync_file(name.object())?;
            volume.counters.syncs.add(1);
        }
        Ok(())
    }

    /// Renames an entry into `target`. What takes the place of something is durable first, so that
    /// a crash leaves one of the two whole.
    ///
    /// # Errors
    /// The store's, such as `EEXIST`, `ENOTEMPTY`, `EINVAL` for a directory into itself.
    pub fn rename(
        &self,
        name: &[u8],
        target: &Self,
        target_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FileError> {
        self.writable()?;
        let (stored, to) = (self.stored(name)?, target.stored(target_name)?);
        let source = self.lower().stat(stored.object())?;
        let there = match target.lower().stat(to.object()) {
            Ok(there) => Some(there),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        let mut reference = None;
        match (mode, &there) {
            (RenameMode::Replace, Some(there)) if there.st_ino != source.st_ino => {
                self.settle(&stored, &source)?;
                if kind(&source) == Some(Kind::Dir) && kind(there) == Some(Kind::Dir) {
                    // The disk sees the marker and would call the directory not empty.
                    return self.rename_over_dir(&stored, target, &to);
                }
                reference = target.reference_of_last(to.object())?;
            }
            (RenameMode::Exchange, Some(there)) => {
                self.settle(&stored, &source)?;
                target.settle(&to, there)?;
            }
            _ => {}
        }
        self.lower().rename(&stored, target.lower(), &to, mode)?;
        if let Some(file) = reference {
            leave(
                self.volume().links.remove_small(file.as_bytes()),
                "target of a link that is gone",
            );
        }
        Ok(())
    }

    fn rename_over_dir(
        &self,
        stored: &StoredName,
        target: &Self,
        to: &StoredName,
    ) -> Result<(), FileError> {
        // Exchanged first: at every moment both names lead to a whole directory. After a crash
        // the empty one may be there still, under the name that was to go.
        self.lower().rename(stored, target.lower(), to, RenameMode::Exchange)?;
        if let Err(error) = self.lower().remove_dir(stored) {
            self.lower().rename(stored, target.lower(), to, RenameMode::Exchange)?;
            return Err(error.into());
        }
        Ok(())
    }
}
