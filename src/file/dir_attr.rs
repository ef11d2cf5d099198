//! Attributes and extended attributes of entries.

use crate::cipher::Owner;
use crate::file::attribute::{Bearer, XattrMode};
use crate::file::dir::{Access, Dir};
use crate::file::error::FileError;
use crate::file::stat::{Kind, Stat};
use crate::store::{Attributed, SetAttr};

impl Dir {
    /// The extended attributes of an entry, or of the directory itself.
    ///
    /// # Errors
    /// For a name that none can have.
    pub fn bearer<'a>(&'a self, name: Option<&'a [u8]>) -> Result<Bearer<'a>, FileError> {
        let lends = !self.volume().read_only();
        let lower = match name {
            Some(name) => Attributed::Object {
                dir: self.lower(),
                object: self.stored(name)?.object().to_vec(),
                lends,
            },
            None => Attributed::Dir { dir: self.lower(), lends },
        };
        Ok(Bearer::new(self.volume(), lower, Box::new(move || self.owner(name))))
    }

    /// Whom an attribute of `name` is bound to, or of the directory itself.
    fn owner(&self, name: Option<&[u8]>) -> Result<Owner, FileError> {
        let Some(name) = name else { return Ok(Owner::Dir(self.id())) };
        match self.lookup(name)?.kind {
            Kind::File => Ok(Owner::File(self.open_file(name, Access::Read)?.id()?)),
            Kind::Dir => Ok(Owner::Dir(self.open_dir(name)?.id())),
            Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                Ok(Owner::Other)
            }
        }
    }

    /// [`Bearer::get`] of an entry, or of the directory itself.
    ///
    /// # Errors
    /// Those of [`Bearer::get`].
    pub fn get_xattr(&self, name: Option<&[u8]>, attribute: &[u8]) -> Result<Vec<u8>, FileError> {
        self.bearer(name)?.get(attribute)
    }

    /// [`Bearer::set`] of an entry, or of the directory itself.
    ///
    /// # Errors
    /// Those of [`Bearer::set`].
    pub fn set_xattr(
        &self,
        name: Option<&[u8]>,
        attribute: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), FileError> {
        self.bearer(name)?.set(attribute, value, mode)
    }

    /// [`Bearer::list`] of an entry, or of the directory itself.
    ///
    /// # Errors
    /// Those of [`Bearer::list`].
    pub fn list_xattr(&self, name: Option<&[u8]>) -> Result<Vec<Vec<u8>>, FileError> {
        self.bearer(name)?.list()
    }

    /// [`Bearer::remove`] of an entry, or of the directory itself.
    ///
    /// # Errors
    /// Those of [`Bearer::remove`].
    pub fn remove_xattr(&self, name: Option<&[u8]>, attribute: &[u8]) -> Result<(), FileError> {
        self.bearer(name)?.remove(attribute)
    }

    /// Changes attributes of an entry; of a symbolic link itself.
    ///
    /// # Errors
    /// The store's.
    pub fn set_attr(&self, name: &[u8], set: &SetAttr) -> Result<Stat, FileError> {
        self.volume().check_writable()?;
        let stored = self.stored(name)?;
        if set.sets_times() {
            let lower = self.lower().stat(stored.object())?;
            if let Some(file) = self.volume().opened(lower.st_ino) {
                file.commit()?;
            } else if lower.st_size == 0 {
                // One that a crash left without a header is known by its times, until it has one.
                self.volume().give_header_of(self.lower(), stored.object(), &lower)?;
            }
        }
        self.lower().set_attr(stored.object(), set)?;
        self.stat_stored(stored.object())
    }

    /// Changes attributes of the directory itself.
    ///
    /// # Errors
    /// The store's.
    pub fn set_attr_self(&self, set: &SetAttr) -> Result<Stat, FileError> {
        self.volume().check_writable()?;
        set.apply_to(self.lower())?;
        self.stat()
    }
}
