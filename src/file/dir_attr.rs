//! Attributes and extended attributes of entries.
//!
//! | plaintext name                       | lower name                        | value          |
//! |--------------------------------------|-----------------------------------|----------------|
//! | `user.*`                             | `user.cmkfs.` + 43 characters     | sealed         |
//! | `trusted.*`, `security.*`            | `trusted.cmkfs.` + 43 characters  | sealed         |
//! | `system.posix_acl_access`, `_default`| the same                          | as it is       |

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::cipher::Owner;
use crate::file::dir::{Access, Dir};
use crate::file::error::FileError;
use crate::file::stat::{Kind, Stat};
use crate::format::name::NAME_MAX;
use crate::store::SetAttr;

const USER: &str = "user.cmkfs.";
const TRUSTED: &str = "trusted.cmkfs.";
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
/// Longest value that Linux allows (xattr(7)).
const VALUE_MAX: usize = 65536;

/// What setting does with an attribute that is there or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Sets it either way.
    Any,
    /// Fails with `EEXIST` if it is there.
    Create,
    /// Fails with `ENODATA` if it is not.
    Replace,
}

enum Lower {
    /// Sealed, under this name.
    Sealed(String),
    /// An access control list, under its own name.
    Acl(&'static str),
}

impl Dir {
    fn lower_attribute(&self, attribute: &[u8]) -> Result<Lower, FileError> {
        if attribute.len() > NAME_MAX {
            return Err(FileError::Range);
        }
        if let Some(acl) = ACLS.iter().find(|acl| acl.as_bytes() == attribute) {
            return Ok(Lower::Acl(acl));
        }
        let hash = || self.volume().keys.attribute_name(attribute);
        let starts = |prefix: &str| attribute.starts_with(prefix.as_bytes());
        if starts("user.") {
            Ok(Lower::Sealed(format!("{USER}{}", hash())))
        } else if starts("trusted.") || starts("security.") {
            Ok(Lower::Sealed(format!("{TRUSTED}{}", hash())))
        } else {
            Err(FileError::NotSupported)
        }
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

    fn object(&self, name: Option<&[u8]>) -> Result<Option<Vec<u8>>, FileError> {
        name.map(|name| Ok(self.stored(name)?.object().to_vec())).transpose()
    }

    fn opened(
        &self,
        owner: Owner,
        lower: &str,
        sealed: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), FileError> {
        let stored = lower.strip_prefix(USER).or_else(|| lower.strip_prefix(TRUSTED));
        let opened = stored
            .and_then(|stored| self.volume().keys.open_attribute(owner, stored.as_bytes(), sealed));
        // The seal does not bind the prefix, so that somebody could have moved it to the other one.
        let opened = opened.filter(|(name, _)| {
            matches!(self.lower_attribute(name), Ok(Lower::Sealed(own)) if own == lower)
        });
        let (name, value) = opened.ok_or_else(|| {
            self.volume().counters.damages.add(1);
            FileError::damaged(self.ino(), "an extended attribute in this directory")
        })?;
        Ok((name, value.to_vec()))
    }

    /// Value of an extended attribute of an entry, or of the directory itself.
    ///
    /// # Errors
    /// [`FileError::NoAttribute`], [`FileError::NotSupported`] for a name space that is not kept,
    /// [`FileError::Damaged`], or the store's.
    pub fn get_xattr(&self, name: Option<&[u8]>, attribute: &[u8]) -> Result<Vec<u8>, FileError> {
        let object = self.object(name)?;
        let get = |lower: &str| match self.lower().get_xattr(object.as_deref(), lower) {
            Err(Errno::NODATA) => Err(FileError::NoAttribute),
            other => Ok(other?),
        };
        match self.lower_attribute(attribute)? {
            Lower::Acl(acl) => get(acl),
            // The owner's id is read only if there is an attribute to open.
            Lower::Sealed(lower) => {
                let sealed = get(&lower)?;
                Ok(self.opened(self.owner(name)?, &lower, &sealed)?.1)
            }
        }
    }

    /// Sets an extended attribute of an entry, or of the directory itself.
    ///
    /// # Errors
    /// [`FileError::NoAttribute`] and `EEXIST` as `mode` says, [`FileError::Range`] for a value
    /// over 64 KiB, [`FileError::NotSupported`], or the store's.
    pub fn set_xattr(
        &self,
        name: Option<&[u8]>,
        attribute: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), FileError> {
        if self.volume().read_only() {
            return Err(FileError::ReadOnly);
        }
        if value.len() > VALUE_MAX {
            return Err(FileError::Range);
        }
        let flags = match mode {
            XattrMode::Any => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        let object = self.object(name)?;
        let set = match self.lower_attribute(attribute)? {
            Lower::Acl(acl) => self.lower().set_acl(object.as_deref(), acl, value, flags),
            Lower::Sealed(lower) => {
                let owner = self.owner(name)?;
                let sealed = self.volume().keys.seal_attribute(owner, attribute, value);
                self.lower().set_xattr(object.as_deref(), &lower, &sealed, flags)
            }
        };
        match set {
            Err(Errno::NODATA) => Err(FileError::NoAttribute),
            other => Ok(other?),
        }
    }

    /// Names of the extended attributes of an entry, or of the directory itself. One that is not
    /// authentic is logged and left out.
    ///
    /// # Errors
    /// The store's.
    pub fn list_xattr(&self, name: Option<&[u8]>) -> Result<Vec<Vec<u8>>, FileError> {
        let object = self.object(name)?;
        let mut names = Vec::new();
        let mut owner = None;
        for lower in self.lower().list_xattr(object.as_deref())? {
            if ACLS.iter().any(|acl| acl.as_bytes() == lower) {
                names.push(lower);
                continue;
            }
            let lower = String::from_utf8_lossy(&lower).into_owned();
            if !lower.starts_with(USER) && !lower.starts_with(TRUSTED) {
                continue;
            }
            let owner = match owner {
                Some(owner) => owner,
                None => *owner.insert(self.owner(name)?),
            };
            let sealed = match self.lower().get_xattr(object.as_deref(), &lower) {
                // Removed since it was listed.
                Err(Errno::NODATA) => continue,
                other => other?,
            };
            match self.opened(owner, &lower, &sealed) {
                Ok((name, _)) => names.push(name),
                Err(FileError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }

    /// Removes an extended attribute of an entry, or of the directory itself.
    ///
    /// # Errors
    /// [`FileError::NoAttribute`], [`FileError::NotSupported`], or the store's.
    pub fn remove_xattr(&self, name: Option<&[u8]>, attribute: &[u8]) -> Result<(), FileError> {
        if self.volume().read_only() {
            return Err(FileError::ReadOnly);
        }
        let object = self.object(name)?;
        let lower = match self.lower_attribute(attribute)? {
            Lower::Acl(acl) => acl.to_owned(),
            Lower::Sealed(lower) => lower,
        };
        match self.lower().remove_xattr(object.as_deref(), &lower) {
            Err(Errno::NODATA) => Err(FileError::NoAttribute),
            other => Ok(other?),
        }
    }

    /// Changes attributes of an entry; of a symbolic link itself.
    ///
    /// # Errors
    /// The store's.
    pub fn set_attr(&self, name: &[u8], set: &SetAttr) -> Result<Stat, FileError> {
        if self.volume().read_only() {
            return Err(FileError::ReadOnly);
        }
        let stored = self.stored(name)?;
        if set.sets_times() {
            let ino = self.lower().stat(stored.object())?.st_ino;
            if let Some(file) = self.volume().opened(ino) {
                file.commit()?;
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
        if self.volume().read_only() {
            return Err(FileError::ReadOnly);
        }
        set.apply_to(self.lower())?;
        self.stat()
    }
}
