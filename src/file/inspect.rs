//! Judging stored objects one by one, as a check does: it says what is wrong instead of failing,
//! logs nothing, and goes on where a reader would stop.

use rustix::io::Errno;

use crate::cipher::{DirCipher, Owner};
use crate::file::attribute::{TRUSTED, USER};
use crate::file::dir::Dir;
use crate::file::error::FileError;
use crate::file::volume::Volume;
use crate::format::directory;
use crate::format::envelope::{ENVELOPE_LEN, LINK_TARGET_MAX};
use crate::format::ids::{DirId, Epoch};
use crate::store::{Attributed, LinkContent, StoreDir, StoredMarker, parse_link};

/// Longest file under `links/`, bytes.
pub const LINK_FILE_LEN_MAX: usize = LINK_TARGET_MAX + ENVELOPE_LEN;

/// The names of one directory, by its marker.
#[derive(Debug)]
pub struct DirNames(DirCipher);

impl DirNames {
    /// Whom the directory's extended attributes are bound to.
    pub fn owner(&self) -> Owner {
        Owner::Dir(self.0.id())
    }

    /// The plaintext of a sealed name; `None` unless `object` is the file name that an object
    /// with this name has in this directory.
    pub fn open(&self, object: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (name, stored) = self.0.open_name(sealed)?;
        (stored.object() == object).then_some(name)
    }
}

/// Lower names of the extended attributes that are sealed ones.
///
/// # Errors
/// The store's.
pub fn sealed_attributes(of: &Attributed<'_>) -> Result<Vec<String>, Errno> {
    let listed = match of.list() {
        // Such objects have none.
        Err(Errno::OPNOTSUPP | Errno::LOOP | Errno::NXIO | Errno::NODEV) => Vec::new(),
        other => other?,
    };
    let listed = listed.into_iter().map(|name| String::from_utf8_lossy(&name).into_owned());
    Ok(listed.filter(|name| name.starts_with(USER) || name.starts_with(TRUSTED)).collect())
}

impl Volume {
    /// The names of a directory, by the bytes of its marker; `is_root` if it is the volume's own.
    ///
    /// # Errors
    /// What is wrong with the marker.
    pub fn inspect_marker(&self, marker: &StoredMarker, is_root: bool) -> Result<DirNames, String> {
        let (epoch, id, tag) = marker.decode().map_err(|error| error.to_string())?;
        let names = self.keys_for(epoch).open_marker(epoch, id, &tag);
        let names = names.ok_or("the marker of the directory is not authentic")?;
        if is_root && id != self.root_id() {
            return Err("another directory stands in the root's place".to_owned());
        }
        Ok(DirNames(names))
    }

    /// The root directory's names, whose id and epoch are known without its marker.
    pub fn root_names(&self) -> Option<DirNames> {
        let marker = self.keys().marker(Epoch::FIRST, self.root_id());
        self.inspect_marker(&StoredMarker::File(marker.as_bytes().to_vec()), true).ok()
    }

    /// What is wrong with the text of a lower link; `envelope` reads the file under `links/` of
    /// that name. With the target, if it is authentic.
    ///
    /// # Errors
    /// The store's.
    pub fn inspect_link(
        &self,
        text: &[u8],
        envelope: impl FnOnce(&str) -> Result<Option<Vec<u8>>, Errno>,
    ) -> Result<Result<Vec<u8>, String>, Errno> {
        let envelope = match parse_link(text) {
            Some(LinkContent::Envelope(envelope)) => envelope,
            Some(LinkContent::Reference(file)) => match envelope(&file)? {
                Some(envelope) => envelope,
                None => return Ok(Err(format!("its target is missing: links/{file}"))),
            },
            None => return Ok(Err("the text of the link is not ours".to_owned())),
        };
        Ok(self.envelope_target(&envelope).ok_or_else(|| "the target is not authentic".to_owned()))
    }

    /// The link target in an envelope; `None` if it is not authentic.
    pub fn envelope_target(&self, envelope: &[u8]) -> Option<Vec<u8>> {
        let target = self.keys_of(envelope).open_link(envelope)?;
        let valid = (1..=LINK_TARGET_MAX).contains(&target.len()) && !target.contains(&0);
        valid.then(|| target.to_vec())
    }

    /// Lower names of the sealed extended attributes that are not authentic.
    ///
    /// # Errors
    /// The store's.
    pub fn inspect_attributes(
        &self,
        of: &Attributed<'_>,
        owner: Owner,
    ) -> Result<Vec<String>, Errno> {
        let mut bad = Vec::new();
        for stored in sealed_attributes(of)? {
            let sealed = of.get(&stored)?;
            if self.open_attribute(owner, &stored, &sealed).is_none() {
                bad.push(stored);
            }
        }
        Ok(bad)
    }

    /// Gives a directory a new marker in place of one that is not authentic: the root its own,
    /// any other a new identity, under which no name that is there opens.
    ///
    /// # Errors
    /// The store's; the directory may be without a marker then, as it may after a crash.
    pub fn renew_marker(&self, lower: &StoreDir, is_root: bool) -> Result<(), FileError> {
        let marker = if is_root {
            self.keys().marker(Epoch::FIRST, self.root_id())
        } else {
            let mut id = DirId([0; 16]);
            getrandom::fill(&mut id.0).expect("the system gives random bytes");
            self.keys().new_marker(id)
        };
        match lower.remove_small(directory::MARKER_NAME) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        lower.write_marker(&marker)?;
        Ok(lower.sync()?)
    }
}

impl Dir {
    /// Takes a stored object as it is out of a lower directory into this one, under a plaintext
    /// name that was free.
    ///
    /// # Errors
    /// `EEXIST`, or the store's; the object is where it was then.
    pub fn adopt(&self, name: &[u8], from: &StoreDir, object: &[u8]) -> Result<(), FileError> {
        self.volume().check_writable()?;
        Ok(self.lower().adopt(&self.stored(name)?, from, object)?)
    }
}
