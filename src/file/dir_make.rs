//! A directory by plaintext names: making, linking, removing.

use std::sync::Arc;

use crate::file::content::File;
use crate::file::dir::{Access, Dir};
use crate::file::error::{FileError, Spot};
use crate::file::open;
use crate::file::stat::{Kind, Stat};
use crate::file::volume::Volume;
use crate::format::envelope::{ENVELOPE_LEN, LINK_DIRECT_MAX, LINK_TARGET_MAX};
use crate::format::ids::DirId;
use crate::store::{Creator, LinkContent, LinkText, NodeKind, SetAttr, leave, parse_link};

const SET_ID_BITS: u32 = 0o6000;
const SET_GID: u32 = 0o2000;
const OWNER_ALL: u32 = 0o700;
const MODE_BITS: u32 = 0o7777;

/// What the text of the stored link at `spot` says.
fn parse(text: &[u8], spot: impl FnOnce() -> Spot) -> Result<LinkContent, FileError> {
    let foreign = "the text of the symbolic link is not ours";
    parse_link(text).ok_or_else(|| FileError::damaged(spot(), foreign))
}

impl Volume {
    /// Target of the symbolic link at `spot`, from its stored text.
    pub(in crate::file) fn link_target(
        &self,
        text: &[u8],
        spot: impl Fn() -> Spot,
    ) -> Result<Vec<u8>, FileError> {
        let envelope = match parse(text, &spot)? {
            LinkContent::Envelope(envelope) => envelope,
            LinkContent::Reference(file) => {
                self.links.read_small(file.as_bytes(), LINK_TARGET_MAX + ENVELOPE_LEN)?
            }
        };
        let valid = |len| (1..=LINK_TARGET_MAX).contains(&len);
        let target = self.keys_of(&envelope).open_link(&envelope);
        let target = target.filter(|target| valid(target.len()) && !target.contains(&0));
        let target = target.ok_or_else(|| {
            self.counters.damages.add(1);
            FileError::damaged(spot(), "the target of the symbolic link is not authentic")
        })?;
        Ok(target.to_vec())
    }
}

impl Dir {
    pub(in crate::file) fn writable(&self) -> Result<(), FileError> {
        self.volume().check_writable()
    }

    /// What makes a new object the creator's. The disk has given a set-group-id directory's group
    /// already, and `mode`, in which umask and access control list have their part; a change of
    /// owner clears set-id bits, so the mode comes after it.
    fn ownership(&self, creator: Creator, mode: u32) -> Result<Option<SetAttr>, FileError> {
        if !self.volume().gives_away || (creator.uid == 0 && creator.gid == 0) {
            return Ok(None);
        }
        let inherits = self.lower().stat_self()?.st_mode & SET_GID != 0;
        Ok(Some(SetAttr {
            uid: Some(creator.uid),
            gid: (!inherits).then_some(creator.gid),
            mode: (mode & SET_ID_BITS != 0).then_some(mode),
            ..SetAttr::default()
        }))
    }

    /// Makes an empty file that was not there, open for reading and writing.
    ///
    /// # Errors
    /// `EEXIST`, or the store's; nothing is left behind then.
    pub fn create_file(
        &self,
        name: &[u8],
        creator: Creator,
        mode: u32,
    ) -> Result<(Arc<File>, Stat), FileError> {
        self.writable()?;
        let stored = self.stored(name)?;
        let volume = self.volume();
        let blob = self.lower().create_file(&stored, mode)?;
        let finish = || {
            let made = rustix::fs::fstat(&blob)?;
            if let Some(ownership) = self.ownership(creator, made.st_mode & MODE_BITS)? {
                ownership.apply_to(&blob)?;
            }
            let fresh = || {
                Ok(open::fresh(&volume.keys(), volume.journaled.as_ref(), blob, volume.block_size))
            };
            let file = volume.open_with(made.st_ino, fresh)?;
            // The header now: a lower file without one would not open after a crash.
            file.commit().inspect_err(|_| file.discard())?;
            let stat = file.stat()?;
            Ok((file, stat))
        };
        finish().inspect_err(|_: &FileError| {
            leave(self.lower().unlink(&stored), "object that could not be finished")
        })
    }

    /// Makes a file, FIFO, socket or device.
    ///
    /// # Errors
    /// `EEXIST`, `EPERM` for a device that this process may not make, or the store's.
    pub fn make_node(
        &self,
        name: &[u8],
        kind: NodeKind,
        creator: Creator,
        mode: u32,
    ) -> Result<Stat, FileError> {
        if kind == NodeKind::File {
            let (file, stat) = self.create_file(name, creator, mode)?;
            drop(file);
            return Ok(stat);
        }
        self.writable()?;
        let stored = self.stored(name)?;
        self.lower().make_node(&stored, kind, mode)?;
        let finish = || {
            let made = self.lower().stat(stored.object())?.st_mode & MODE_BITS;
            if let Some(ownership) = self.ownership(creator, made)? {
                self.lower().set_attr(stored.object(), &ownership)?;
            }
            self.stat_stored(stored.object())
        };
        finish().inspect_err(|_| {
            leave(self.lower().unlink(&stored), "object that could not be finished")
        })
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `EEXIST`, or the store's; nothing is left behind then.
    pub fn make_dir(&self, name: &[u8], creator: Creator, mode: u32) -> Result<Stat, FileError> {
        self.writable()?;
        let stored = self.stored(name)?;
        let new = self.lower().begin_dir(&stored, mode)?;
        let lower = new.dir().clone();
        let mut id = DirId([0; 16]);
        getrandom::fill(&mut id.0).expect("the system gives random bytes");
        // The creator's mask, or a default access control list, has had its say; what its owner
        // was lent so that the marker can be written goes again.
        let made = lower.stat_self()?.st_mode & MODE_BITS;
        let lent = SetAttr { mode: Some(made | OWNER_ALL), ..SetAttr::default() };
        if made & OWNER_ALL != OWNER_ALL {
            lent.apply_to(&lower)?;
        }
        lower.write_marker(&self.volume().keys().new_marker(id))?;
        let wanted = made & !(OWNER_ALL & !mode);
        let mode = (wanted != made | OWNER_ALL).then_some(wanted);
        let ownership = self.ownership(creator, 0)?.unwrap_or_default();
        SetAttr { mode, ..ownership }.apply_to(&lower)?;
        new.name(&stored)?;
        self.volume().stat_of(&lower.stat_self()?)
    }

    /// Makes a symbolic link to a target of 1 to 4095 bytes.
    ///
    /// # Errors
    /// `EEXIST`, [`FileError::NameTooLong`], or the store's; nothing is left behind then.
    pub fn make_symlink(
        &self,
        name: &[u8],
        target: &[u8],
        creator: Creator,
    ) -> Result<Stat, FileError> {
        self.writable()?;
        if target.len() > LINK_TARGET_MAX {
            return Err(FileError::NameTooLong);
        }
        let stored = self.stored(name)?;
        let sealed = self.volume().keys().seal_link(target);
        let (text, reference) = if target.len() <= LINK_DIRECT_MAX {
            (LinkText::direct(&sealed), None)
        } else {
            let mut id = [0; 16];
            getrandom::fill(&mut id).expect("the system gives random bytes");
            let (text, file) = LinkText::reference(&id);
            self.volume().links.write_small(&file, &sealed)?;
            (text, Some(file))
        };
        let finish = || {
            self.lower().make_symlink(&stored, &text)?;
            if let Some(ownership) = self.ownership(creator, 0)? {
                self.lower().set_attr(stored.object(), &ownership)?;
            }
            self.stat_stored(stored.object())
        };
        finish().inspect_err(|_| {
            if let Some(file) = &reference {
                leave(
                    self.volume().links.remove_small(file.as_bytes()),
                    "target of a link that is gone",
                );
            }
        })
    }

    fn link_content(&self, object: &[u8]) -> Result<LinkContent, FileError> {
        parse(&self.lower().read_link(object)?, || Spot::in_dir(self.lower(), object))
    }

    /// Plaintext length of a link's target; of a link that is damaged, 0: its stat must work.
    pub(in crate::file) fn link_len(&self, object: &[u8]) -> Result<u64, FileError> {
        let stored = match self.link_content(object) {
            Ok(LinkContent::Envelope(envelope)) => envelope.len() as u64,
            Ok(LinkContent::Reference(file)) => {
                let stat = self.volume().links.stat(file.as_bytes());
                stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
            }
            Err(FileError::Damaged(_)) => 0,
            Err(error) => return Err(error),
        };
        Ok(stored.saturating_sub(ENVELOPE_LEN as u64))
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` for what is no link, [`FileError::Damaged`], or the store's.
    pub fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, FileError> {
        let stored = self.stored(name)?;
        let text = self.lower().read_link(stored.object())?;
        self.volume().link_target(&text, || Spot::in_dir(self.lower(), stored.object()))
    }

    /// Gives an object of `from` another name, in this directory.
    ///
    /// # Errors
    /// `EEXIST`, `EPERM` for a directory, `EMLINK`, or the store's.
    pub fn link(&self, name: &[u8], from: &Self, from_name: &[u8]) -> Result<Stat, FileError> {
        self.writable()?;
        let (stored, source) = (self.stored(name)?, from.stored(from_name)?);
        self.lower().link(&stored, from.lower(), source.object())?;
        self.stat_stored(stored.object())
    }

    /// Removes what is not a directory.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, or the store's.
    pub fn unlink(&self, name: &[u8]) -> Result<(), FileError> {
        self.writable()?;
        let stored = self.stored(name)?;
        let reference = self.reference_of_last(stored.object())?;
        self.lower().unlink(&stored)?;
        if let Some(file) = reference {
            leave(
                self.volume().links.remove_small(file.as_bytes()),
                "target of a link that is gone",
            );
        }
        Ok(())
    }

    /// The file under `links/` that the last name of a link takes with it.
    pub(in crate::file) fn reference_of_last(
        &self,
        object: &[u8],
    ) -> Result<Option<String>, FileError> {
        let stat = self.lower().stat(object)?;
        let kind = Kind::from_lower(rustix::fs::FileType::from_raw_mode(stat.st_mode));
        if kind != Some(Kind::Symlink) || stat.st_nlink > 1 {
            return Ok(None);
        }
        match parse_link(&self.lower().read_link(object)?) {
            Some(LinkContent::Reference(file)) => Ok(Some(file)),
            Some(LinkContent::Envelope(_)) | None => Ok(None),
        }
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `ENOTDIR`, `ENOENT`, or the store's.
    pub fn remove_dir(&self, name: &[u8]) -> Result<(), FileError> {
        self.writable()?;
        Ok(self.lower().remove_dir(&self.stored(name)?)?)
    }

    /// Cuts or lengthens a file that need not be open.
    ///
    /// # Errors
    /// As opening it and cutting it.
    pub fn truncate(&self, name: &[u8], length: u64) -> Result<(), FileError> {
        let file = self.open_file(name, Access::Write)?;
        file.commit_len(length)
    }
}
