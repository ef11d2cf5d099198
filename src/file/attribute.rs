//! Extended attributes of whatever has some.
//!
//! | plaintext name                       | lower name                        | value          |
//! |--------------------------------------|-----------------------------------|----------------|
//! | `user.*`                             | `user.cmkfs.` + 43 characters     | sealed         |
//! | `trusted.*`, `security.*`            | `trusted.cmkfs.` + 43 characters  | sealed         |
//! | `system.posix_acl_access`, `_default`| the same                          | as it is       |

use std::fmt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::cipher::Owner;
use crate::file::content::File;
use crate::file::error::{FileError, Spot};
use crate::file::volume::Volume;
use crate::format::name::NAME_MAX;
use crate::store::Attributed;

pub(in crate::file) const USER: &str = "user.cmkfs.";
pub(in crate::file) const TRUSTED: &str = "trusted.cmkfs.";
/// Name spaces that are kept, as attributes of theirs start.
const SPACES: [&str; 3] = ["user.", "trusted.", "security."];
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
/// Longest value that Linux allows (xattr(7)).
const VALUE_MAX: usize = 65536;

/// The attribute that says what a program may do without being root (capabilities(7)).
pub const CAPABILITIES: &[u8] = b"security.capability";

/// What setting does with an attribute that is there or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Sets it either way.
    Any,
    /// Fails with `EEXIST` if it is there.
    Create,
    /// Fails with `ENODATA` if it is not.
    Replace,
    /// Both of these, so that it always fails.
    Neither,
}

enum Lower {
    /// Sealed, under this name.
    Sealed(String),
    /// An access control list, under its own name.
    Acl(&'static str),
}

/// Whose extended attributes are asked for. Its id is read only if there is one to open or seal.
pub struct Bearer<'a> {
    volume: &'a Volume,
    lower: Attributed<'a>,
    owner: OwnerOf<'a>,
}

type OwnerOf<'a> = Box<dyn Fn() -> Result<Owner, FileError> + 'a>;

impl fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("lower", &self.lower).finish_non_exhaustive()
    }
}

impl<'a> Bearer<'a> {
    pub(in crate::file) fn new(
        volume: &'a Volume,
        lower: Attributed<'a>,
        owner: OwnerOf<'a>,
    ) -> Self {
        Self { volume, lower, owner }
    }

    fn spot(&self) -> Spot {
        match &self.lower {
            Attributed::Open(open) => Spot::of_open(*open),
            Attributed::Place(place) => Spot::of_open(*place),
            Attributed::Dir { dir, .. } => Spot::of_open(*dir),
            Attributed::Object { dir, object, .. } => Spot::in_dir(dir, object),
        }
    }

    fn opened(
        &self,
        owner: Owner,
        lower: &str,
        sealed: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), FileError> {
        self.volume.open_attribute(owner, lower, sealed).ok_or_else(|| {
            self.volume.counters.damages.add(1);
            FileError::damaged(self.spot(), format!("extended attribute {lower} is not authentic"))
        })
    }

    fn get_lower(&self, lower: &str) -> Result<Vec<u8>, FileError> {
        match self.lower.get(lower) {
            Err(Errno::NODATA) => Err(FileError::NoAttribute),
            other => Ok(other?),
        }
    }

    fn writable(&self) -> Result<(), FileError> {
        self.volume.check_writable()
    }

    /// Value of an extended attribute.
    ///
    /// # Errors
    /// [`FileError::NoAttribute`], [`FileError::NotSupported`] for a name space that is not kept,
    /// [`FileError::Damaged`], or the store's.
    pub fn get(&self, attribute: &[u8]) -> Result<Vec<u8>, FileError> {
        match self.volume.lower_name(attribute)? {
            Lower::Acl(acl) => self.get_lower(acl),
            Lower::Sealed(lower) => {
                let sealed = self.get_lower(&lower)?;
                Ok(self.opened((self.owner)()?, &lower, &sealed)?.1)
            }
        }
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`FileError::NoAttribute`] and `EEXIST` as `mode` says, [`FileError::Range`] for a value
    /// over 64 KiB, [`FileError::Invalid`] for no more than the name of a name space,
    /// [`FileError::NotSupported`], or the store's.
    pub fn set(&self, attribute: &[u8], value: &[u8], mode: XattrMode) -> Result<(), FileError> {
        self.writable()?;
        if value.len() > VALUE_MAX {
            return Err(FileError::Range);
        }
        let flags = match mode {
            XattrMode::Any => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
            XattrMode::Neither => XattrFlags::CREATE | XattrFlags::REPLACE,
        };
        let set = match self.volume.lower_name(attribute)? {
            Lower::Acl(acl) => self.lower.set_acl(acl, value, flags),
            Lower::Sealed(lower) => {
                let sealed = self.volume.keys().seal_attribute((self.owner)()?, attribute, value);
                self.lower.set(&lower, &sealed, flags)
            }
        };
        match set {
            Err(Errno::NODATA) => Err(FileError::NoAttribute),
            // It fitted before it was sealed.
            Err(Errno::TOOBIG) => Err(Errno::NOSPC.into()),
            other => Ok(other?),
        }
    }

    /// Names of the extended attributes. One that is not authentic is logged and left out.
    ///
    /// # Errors
    /// The store's.
    pub fn list(&self) -> Result<Vec<Vec<u8>>, FileError> {
        let mut names = Vec::new();
        let mut owner = None;
        for lower in self.lower.list()? {
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
                None => *owner.insert((self.owner)()?),
            };
            let sealed = match self.lower.get(&lower) {
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

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`FileError::NoAttribute`], [`FileError::NotSupported`], or the store's.
    pub fn remove(&self, attribute: &[u8]) -> Result<(), FileError> {
        self.writable()?;
        let lower = match self.volume.lower_name(attribute)? {
            Lower::Acl(acl) => acl.to_owned(),
            Lower::Sealed(lower) => lower,
        };
        match self.lower.remove(&lower) {
            Err(Errno::NODATA) => Err(FileError::NoAttribute),
            other => Ok(other?),
        }
    }
}

impl Volume {
    fn lower_name(&self, attribute: &[u8]) -> Result<Lower, FileError> {
        if attribute.len() > NAME_MAX {
            return Err(FileError::Range);
        }
        if let Some(acl) = ACLS.iter().find(|acl| acl.as_bytes() == attribute) {
            return Ok(Lower::Acl(acl));
        }
        if SPACES.iter().any(|space| space.as_bytes() == attribute) {
            return Err(FileError::Invalid);
        }
        let hash = || self.keys().attribute_name(attribute);
        let starts = |prefix: &str| attribute.starts_with(prefix.as_bytes());
        if starts("user.") {
            Ok(Lower::Sealed(format!("{USER}{}", hash())))
        } else if starts("trusted.") || starts("security.") {
            Ok(Lower::Sealed(format!("{TRUSTED}{}", hash())))
        } else {
            Err(FileError::NotSupported)
        }
    }

    /// Name and value of a sealed extended attribute; `None` if it is not authentic.
    pub(in crate::file) fn open_attribute(
        &self,
        owner: Owner,
        lower: &str,
        sealed: &[u8],
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let stored = lower.strip_prefix(USER).or_else(|| lower.strip_prefix(TRUSTED))?;
        let keys = self.keys_of(sealed);
        let (name, value) = keys.open_attribute(owner, stored.as_bytes(), sealed)?;
        // The seal does not bind the prefix, so that somebody could have moved it to the other one.
        let is_own = matches!(self.lower_name(&name), Ok(Lower::Sealed(own)) if own == lower);
        is_own.then(|| (name, value.to_vec()))
    }
}

impl File {
    /// Removes the capabilities that the file as a program has, if any.
    ///
    /// # Errors
    /// The store's.
    pub fn remove_capabilities(&self) -> Result<(), FileError> {
        let lower = format!("{TRUSTED}{}", self.volume().keys().attribute_name(CAPABILITIES));
        match Attributed::Open(&self.state_anyway().blob).remove(&lower) {
            // The last is the answer to a daemon that is not root, which can't have stored one.
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
