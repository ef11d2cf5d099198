//! Judging one object: a file's content, a link's target, extended attributes, `links/`.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::cipher::Owner;
use crate::file::{LINK_FILE_LEN_MAX, Verdict};
use crate::lifecycle::check::finding::{Finding, FindingKind, add};
use crate::lifecycle::check::shape;
use crate::lifecycle::check::walk::{Object, Place, Walk, list, lock};
use crate::store::{Attributed, DiskBlob, LinkContent, StoreDir, made, parse_link};

impl Walk<'_> {
    pub(in crate::lifecycle::check) fn file(&self, place: &Place, object: &Object) {
        add(&self.counting.files, 1);
        if let Err(error) = self.opened_file(place, object) {
            self.unread(place.at(&object.name), object.path.clone(), error);
        }
    }

    fn opened_file(&self, place: &Place, object: &Object) -> Result<(), Errno> {
        let blob = place.lower.open_file(&object.name, false)?;
        let stat = rustix::fs::fstat(&blob)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            // Changed since it was listed.
            return Err(Errno::STALE);
        }
        let many = stat.st_nlink > 1;
        let known = many.then(|| lock(&self.linked).get(&stat.st_ino).cloned()).flatten();
        let found = match known {
            Some(found) => found,
            None => {
                let lower_len = u64::try_from(stat.st_size).unwrap_or(0);
                let found = self.content(place, object, &blob, lower_len)?;
                if many {
                    lock(&self.linked).insert(stat.st_ino, found.clone());
                }
                found
            }
        };
        for mut finding in found {
            finding.stored = place.at(&object.name);
            finding.path.clone_from(&object.path);
            self.find(finding);
        }
        Ok(())
    }

    fn content(
        &self,
        place: &Place,
        object: &Object,
        blob: &DiskBlob,
        lower_len: u64,
    ) -> Result<Vec<Finding>, Errno> {
        let at =
            |kind, reason| Finding::new(kind, place.at(&object.name), object.path.clone(), reason);
        if lower_len == 0 && self.was_being_made(blob)? {
            let reason = "it was being made when the volume was not left cleanly, and nothing of \
                          it was ever synced: it reads as empty";
            return Ok(vec![at(FindingKind::Blank, reason.to_owned())]);
        }
        let of = Attributed::Open(blob);
        let Some(volume) = self.volume else {
            add(&self.counting.bytes, lower_len);
            let mut found: Vec<_> = shape::file(blob, lower_len)?
                .map(|(kind, reason)| at(kind, reason))
                .into_iter()
                .collect();
            found.extend(self.bad_attributes(&of, None, &at)?);
            return Ok(found);
        };
        let verdict = match volume.verify_waiting(rustix::fs::fstat(blob)?.st_ino)? {
            Some(verdict) => verdict,
            None => volume.verify_file(blob, lower_len)?,
        };
        let verified = match verdict {
            Verdict::Unreadable(reason) => return Ok(vec![at(FindingKind::Header, reason)]),
            Verdict::Opened(verified) => verified,
        };
        add(&self.counting.bytes, verified.length);
        let mut found = Vec::new();
        let (lower_len, wanted) = (verified.lower_len, verified.stored_len);
        if lower_len != wanted || !verified.damaged.is_empty() {
            let (kind, reason) = match lower_len.cmp(&wanted) {
                std::cmp::Ordering::Less => (
                    FindingKind::Cut,
                    format!("{lower_len} bytes are stored, wanted {wanted}: cut off"),
                ),
                std::cmp::Ordering::Greater if verified.damaged.is_empty() => (
                    FindingKind::Long,
                    format!("{lower_len} bytes are stored, wanted {wanted}: too long"),
                ),
                _ => (FindingKind::Blocks, "blocks are not authentic".to_owned()),
            };
            let mut finding = at(kind, reason);
            finding.ranges = verified.damaged.iter().map(|at| [at.start, at.end]).collect();
            found.push(finding);
        }
        found.extend(self.bad_attributes(&of, Some(verified.owner), &at)?);
        Ok(found)
    }

    /// Whether a file without a byte reads as empty; without the key by what `sessions` claims.
    fn was_being_made(&self, blob: &DiskBlob) -> Result<bool, Errno> {
        Ok(match (self.volume, &self.sessions) {
            (Some(volume), _) => volume.was_being_made(blob),
            (None, Some(said)) => said.cover(made(blob)?),
            (None, None) => false,
        })
    }

    /// Findings for the attributes of an object; those of an owner that is not known are judged
    /// only without a key.
    fn bad_attributes(
        &self,
        of: &Attributed<'_>,
        owner: Option<Owner>,
        at: &dyn Fn(FindingKind, String) -> Finding,
    ) -> Result<Vec<Finding>, Errno> {
        let bad = match (self.volume, owner) {
            (Some(volume), Some(owner)) => volume.inspect_attributes(of, owner)?,
            (Some(_), None) => Vec::new(),
            (None, _) => shape::attributes(of)?,
        };
        let find = |stored| {
            let reason = "an extended attribute is not authentic".to_owned();
            Finding { attribute: Some(stored), ..at(FindingKind::Attribute, reason) }
        };
        Ok(bad.into_iter().map(find).collect())
    }

    pub(in crate::lifecycle::check) fn attributes(
        &self,
        of: &Attributed<'_>,
        owner: Option<Owner>,
        stored: &Path,
        path: Option<&Path>,
    ) {
        let at =
            |kind, reason| Finding::new(kind, stored.to_owned(), path.map(Path::to_owned), reason);
        match self.bad_attributes(of, owner, &at) {
            Ok(found) => found.into_iter().for_each(|finding| self.find(finding)),
            Err(error) => self.unread(stored.to_owned(), path.map(Path::to_owned), error),
        }
    }

    fn attributes_of_other(&self, place: &Place, object: &Object) {
        let of =
            Attributed::Object { dir: &place.lower, object: object.name.clone(), lends: false };
        let stored = place.at(&object.name);
        self.attributes(&of, Some(Owner::Other), &stored, object.path.as_deref());
    }

    pub(in crate::lifecycle::check) fn other(&self, place: &Place, object: &Object) {
        add(&self.counting.others, 1);
        self.attributes_of_other(place, object);
    }

    pub(in crate::lifecycle::check) fn link(&self, place: &Place, object: &Object) {
        add(&self.counting.links, 1);
        let stored = place.at(&object.name);
        match self.target(&place.lower, &object.name) {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                let path = object.path.clone();
                self.find(Finding::new(FindingKind::Link, stored, path, reason));
            }
            Err(error) => self.unread(stored, object.path.clone(), error),
        }
        self.attributes_of_other(place, object);
    }

    /// What is wrong with a link.
    fn target(&self, lower: &StoreDir, object: &[u8]) -> Result<Result<(), String>, Errno> {
        let text = lower.read_link(object)?;
        let parsed = parse_link(&text);
        if let Some(LinkContent::Reference(file)) = &parsed {
            lock(&self.referred).insert(file.clone());
        }
        if let Some(volume) = self.volume {
            let target = volume.inspect_link(&text, |file| link_file(&self.links, file))?;
            return Ok(target.map(drop));
        }
        Ok(match parsed {
            None => Err("the text of the link is not ours".to_owned()),
            Some(LinkContent::Envelope(envelope)) => shape::envelope(&envelope),
            Some(LinkContent::Reference(file)) => match link_file(&self.links, &file)? {
                Some(envelope) => shape::envelope(&envelope),
                None => Err(format!("its target is missing: links/{file}")),
            },
        })
    }

    /// Judges what is in `links/`: each file has a link that refers to it.
    pub(in crate::lifecycle::check) fn links(&self) -> Result<(), Errno> {
        let referred: BTreeSet<String> = std::mem::take(&mut *lock(&self.referred));
        for entry in list(&self.links)? {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            if referred.contains(&name) {
                continue;
            }
            let is_ours = matches!(
                parse_link(format!("={name}").as_bytes()),
                Some(LinkContent::Reference(_))
            ) && entry.kind == FileType::RegularFile;
            let (kind, reason) = match is_ours {
                true => (FindingKind::OrphanLink, "the target of a link that is not there"),
                false => (FindingKind::Foreign, "no name that cmkfs gives"),
            };
            let stored = Path::new("links").join(std::ffi::OsString::from(name));
            self.find(Finding::new(kind, stored, None, reason));
        }
        Ok(())
    }
}

/// A file under `links/`; `None` if it is not there, or no file that a link can have.
pub(in crate::lifecycle::check) fn link_file(
    links: &StoreDir,
    file: &str,
) -> Result<Option<Vec<u8>>, Errno> {
    match links.read_small(file.as_bytes(), LINK_FILE_LEN_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}
