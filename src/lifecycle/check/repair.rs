//! Repairs what a check found. Each step is safe to be interrupted: what could still be read is
//! in its new place before it leaves the old one, and a second run goes on where the first ended.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::file::{FileError, Verdict, Volume, sealed_attributes};
use crate::format::directory::MARKER_NAME;
use crate::format::name::{self, Stored};
use crate::lifecycle::check::finding::{Finding, FindingKind};
use crate::lifecycle::check::judge::link_file;
use crate::lifecycle::check::lost::Lost;
use crate::lifecycle::check::walk::list;
use crate::store::{Attributed, Blob, LinkContent, LockMode, Store, StoreDir, parse_link};

pub(in crate::lifecycle::check) struct Repair<'a> {
    pub(in crate::lifecycle::check) volume: &'a Arc<Volume>,
    pub(in crate::lifecycle::check) store: &'a Path,
    pub(in crate::lifecycle::check) tree: StoreDir,
    pub(in crate::lifecycle::check) links: StoreDir,
    pub(in crate::lifecycle::check) lost: Lost,
    /// Every link and directory could be read, so that nothing else refers to what has none.
    pub(in crate::lifecycle::check) all_seen: bool,
}

/// What a step did, and what it had to leave.
type Done = (Option<String>, Option<String>);

fn done(what: impl Into<String>) -> Done {
    (Some(what.into()), None)
}

fn left(why: impl Into<String>) -> Done {
    (None, Some(why.into()))
}

/// The end of a name in `lost+found`: the old path, its parts separated by `~`.
fn stem(finding: &Finding) -> Vec<u8> {
    let stored = finding.stored.file_name().unwrap_or_default().as_bytes();
    let Some(path) = &finding.path else { return [&b"links~"[..], stored].concat() };
    let parts: Vec<&[u8]> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(part) if part == "?" => Some(stored),
            std::path::Component::Normal(part) => Some(part.as_bytes()),
            _ => None,
        })
        .collect();
    if parts.is_empty() { b"root".to_vec() } else { parts.join(&b'~') }
}

/// Gives the root its marker again, without which nothing else can be done.
pub(in crate::lifecycle::check) fn root(
    volume: &Volume,
    tree: &StoreDir,
    findings: &mut [Finding],
) -> Result<(), FileError> {
    let is_root = |finding: &&mut Finding| {
        finding.kind == FindingKind::Marker && finding.stored == Path::new("tree")
    };
    if let Some(finding) = findings.iter_mut().find(is_root)
        && volume.root_names().is_some()
    {
        volume.renew_marker(tree, true)?;
        finding.done = Some("written anew: its id is in volume.json".to_owned());
    }
    Ok(())
}

impl Repair<'_> {
    /// Repairs everything, from the deepest up, so that stored paths stay what they are.
    pub(in crate::lifecycle::check) fn all(&self, findings: &mut [Finding]) {
        let mut order: Vec<usize> = (0..findings.len()).collect();
        order.sort_by_key(|at| {
            let Finding { stored, kind, .. } = &findings[*at];
            // A directory gets its marker where it is found, before its name takes it elsewhere.
            let is_other = *kind != FindingKind::Marker;
            (std::cmp::Reverse(stored.components().count()), is_other, *kind)
        });
        for at in order {
            let finding = &mut findings[at];
            if finding.done.is_some() {
                continue;
            }
            (finding.done, finding.left) = match self.one(finding) {
                Ok(done) => done,
                Err(error) => left(error.to_string()),
            };
        }
    }

    /// The directory of a stored path, and the name in it.
    fn place<'f>(&self, finding: &'f Finding) -> Result<(StoreDir, &'f [u8]), FileError> {
        let mut parts = finding.stored.iter().map(OsStrExt::as_bytes).peekable();
        let mut dir = match parts.next() {
            Some(b"links") => self.links.clone(),
            _ => self.tree.clone(),
        };
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return Ok((dir, part));
            }
            dir = dir.open_dir(part)?;
        }
        Ok((dir, &b"."[..]))
    }

    fn one(&self, finding: &Finding) -> Result<Done, FileError> {
        let (dir, object) = self.place(finding)?;
        let stem = stem(finding);
        match finding.kind {
            FindingKind::Attribute => {
                let of = Attributed::Object { dir: &dir, object: object.to_vec(), lends: false };
                let name = finding.attribute.as_deref().unwrap_or_default();
                Ok(done(format!("kept in {} and removed", self.attribute(&of, &stem, name)?)))
            }
            FindingKind::Cut | FindingKind::Long => self.length(&dir, object, finding),
            FindingKind::Blocks => Ok(left("the rest of the file can be read where it is")),
            FindingKind::Header | FindingKind::Link => self.unreadable(&dir, object, &stem),
            FindingKind::Foreign => self.foreign(&dir, object, &stem),
            FindingKind::Name | FindingKind::Sidecar => self.nameless(&dir, object, &stem),
            FindingKind::OrphanSidecar => self.sidecar(&dir, object, &stem, false),
            FindingKind::Marker => self.marker(&dir.open_dir(object)?, &stem, object == b"."),
            FindingKind::Blank => {
                self.volume.give_header(dir.open_file(object, true)?)?;
                Ok(done("has a header, of an empty file"))
            }
            FindingKind::OrphanLink => self.orphan_link(&dir, object, &stem),
            FindingKind::Leftover if finding.stored.starts_with("tree") => {
                dir.remove_temporary(object)?;
                Ok(done("removed"))
            }
            FindingKind::Leftover => self.leftover(&finding.stored),
            FindingKind::Unread => Ok(left("the disk refuses it")),
        }
    }

    /// Removes what an interrupted change of `volume.json` left, unless it is one that goes on.
    fn leftover(&self, stored: &Path) -> Result<Done, FileError> {
        let lock = Store::open(self.store)
            .and_then(|store| store.lock_descriptor(LockMode::Exclusive, Duration::ZERO));
        let Ok(_unchanged) = lock else { return Ok(left("volume.json is being changed")) };
        match std::fs::remove_file(self.store.join(stored)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Errno::from_io_error(&error).unwrap_or(Errno::IO).into())
            }
            _ => Ok(done("removed")),
        }
    }

    /// Keeps the value of an attribute as it is stored, and removes it.
    fn attribute(&self, of: &Attributed<'_>, stem: &[u8], name: &str) -> Result<String, FileError> {
        let kept = [stem, b"~", name.as_bytes()].concat();
        let kept = self.lost.bytes(&kept, &of.get(name)?)?;
        of.remove(name)?;
        Ok(kept)
    }

    fn length(&self, dir: &StoreDir, object: &[u8], found: &Finding) -> Result<Done, FileError> {
        let blob = dir.open_file(object, true)?;
        let lower_len = u64::try_from(rustix::fs::fstat(&blob)?.st_size).unwrap_or(0);
        let Verdict::Opened(verified) = self.volume.verify_file(&blob, lower_len)? else {
            return Ok(left("its header does not open any more"));
        };
        blob.set_len(verified.stored_len)?;
        blob.sync(false)?;
        let what = format!("has {} bytes again", verified.stored_len);
        if found.ranges.is_empty() {
            return Ok(done(what));
        }
        Ok((Some(what), Some("what was cut off is lost; the rest can be read".to_owned())))
    }

    /// Takes an object out of its place when it has been kept in another.
    fn remove(&self, dir: &StoreDir, object: &[u8], stem: &[u8]) -> Result<(), FileError> {
        dir.remove_small(object)?;
        if let Stored::Long { sidecar } = name::decode(object) {
            self.sidecar(dir, &sidecar, stem, false)?;
        }
        Ok(dir.sync()?)
    }

    /// Keeps the stored bytes of what can't be read, and takes it out of its place.
    fn unreadable(&self, dir: &StoreDir, object: &[u8], stem: &[u8]) -> Result<Done, FileError> {
        let kind = match dir.stat(object) {
            Err(Errno::NOENT) => return Ok(done("gone with what it belonged to")),
            found => FileType::from_raw_mode(found?.st_mode),
        };
        let kept = match kind {
            FileType::RegularFile => {
                let blob = dir.open_file(object, false)?;
                let of = Attributed::Open(&blob);
                for name in sealed_attributes(&of)? {
                    let kept = [stem, b"~", name.as_bytes()].concat();
                    self.lost.bytes(&kept, &of.get(&name)?)?;
                }
                self.lost.copy(stem, &blob)?
            }
            FileType::Symlink => {
                let text = dir.read_link(object)?;
                if let Some(LinkContent::Reference(file)) = parse_link(&text)
                    && let Some(bytes) = link_file(&self.links, &file)?
                {
                    self.lost.bytes(&[stem, b"~target"].concat(), &bytes)?;
                    self.links.remove_small(file.as_bytes())?;
                }
                self.lost.bytes(stem, &text)?
            }
            _ => return Ok(done(format!("moved to {}", self.lost.adopt(stem, dir, object)?))),
        };
        self.remove(dir, object, stem)?;
        Ok(done(format!("its stored bytes moved to {kept}")))
    }

    fn foreign(&self, dir: &StoreDir, object: &[u8], stem: &[u8]) -> Result<Done, FileError> {
        let stat = dir.stat(object)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let lower = dir.open_dir(object)?;
                let marker = lower.read_marker();
                if !marker.is_ok_and(|marker| self.volume.inspect_marker(&marker, false).is_ok()) {
                    self.marker(&lower, stem, false)?;
                }
                self.nameless(dir, object, stem)
            }
            FileType::RegularFile => {
                let lower_len = u64::try_from(stat.st_size).unwrap_or(0);
                let blob = dir.open_file(object, false)?;
                match self.volume.verify_file(&blob, lower_len)? {
                    Verdict::Opened(_) => self.nameless(dir, object, stem),
                    Verdict::Unreadable(_) => self.unreadable(dir, object, stem),
                }
            }
            _ => self.unreadable(dir, object, stem),
        }
    }

    /// Moves an object that can be read, but for its name.
    fn nameless(&self, dir: &StoreDir, object: &[u8], stem: &[u8]) -> Result<Done, FileError> {
        let moved = match self.lost.adopt(stem, dir, object) {
            Err(FileError::Sys(Errno::NOENT)) => "gone with what it belonged to".to_owned(),
            other => format!("moved to {}", other?),
        };
        if let Stored::Long { sidecar } = name::decode(object) {
            self.sidecar(dir, &sidecar, stem, true)?;
        }
        Ok(done(moved))
    }

    /// Removes a sidecar that says no more than its own name, and keeps any other; with `keep`,
    /// each. A file that somebody has hidden there is moved as it is.
    fn sidecar(
        &self,
        dir: &StoreDir,
        sidecar: &[u8],
        stem: &[u8],
        keep: bool,
    ) -> Result<Done, FileError> {
        let stat = match dir.stat(sidecar) {
            Err(Errno::NOENT) => return Ok(done("gone already")),
            found => found?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(left("no regular file"));
        }
        let own = name::encode(&dir.read_sidecar(sidecar)?).1;
        let is_own = own.as_deref() == Some(sidecar);
        let kept = if keep || !is_own {
            let stem = [stem, b"~sidecar"].concat();
            let blob = dir.open_file(sidecar, false)?;
            let lower_len = u64::try_from(stat.st_size).unwrap_or(0);
            if !is_own && matches!(self.volume.verify_file(&blob, lower_len)?, Verdict::Opened(_)) {
                return Ok(done(format!("moved to {}", self.lost.adopt(&stem, dir, sidecar)?)));
            }
            Some(self.lost.copy(&stem, &blob)?)
        } else {
            None
        };
        dir.remove_small(sidecar)?;
        Ok(done(kept.map_or_else(|| "removed".to_owned(), |kept| format!("moved to {kept}"))))
    }

    /// A directory whose id is lost gets a new one. What is in it can be read still, but for the
    /// names, which go with the old id.
    fn marker(&self, dir: &StoreDir, stem: &[u8], is_root: bool) -> Result<Done, FileError> {
        if is_root {
            return Ok(left("its names may be of several epochs; restore it from a snapshot"));
        }
        let stem_of = |name: &[u8]| [stem, b"~", name].concat();
        let mut moved = 0;
        for entry in list(dir)? {
            if entry.name == MARKER_NAME {
                continue;
            }
            let stem = stem_of(&entry.name);
            match (name::decode(&entry.name), entry.kind) {
                (Stored::Sidecar, FileType::RegularFile) => {
                    self.lost.copy(&stem, &dir.open_file(&entry.name, false)?)?;
                    dir.remove_small(&entry.name)?;
                }
                _ => {
                    self.lost.adopt(&stem, dir, &entry.name)?;
                    moved += 1;
                }
            }
        }
        if let Ok(marker) = dir.read_marker()
            && !marker.as_bytes().is_empty()
        {
            self.lost.bytes(&stem_of(MARKER_NAME), marker.as_bytes())?;
        }
        self.volume.renew_marker(dir, false)?;
        let names = self.volume.inspect_marker(&dir.read_marker()?, false);
        let of = Attributed::Open(dir);
        if let Ok(names) = names {
            for name in self.volume.inspect_attributes(&of, names.owner())? {
                self.attribute(&of, stem, &name)?;
            }
        }
        Ok(done(format!("{moved} objects moved to {}; empty, with a new marker", self.lost.name)))
    }

    fn orphan_link(&self, dir: &StoreDir, object: &[u8], stem: &[u8]) -> Result<Done, FileError> {
        let bytes = match link_file(dir, &String::from_utf8_lossy(object))? {
            Some(bytes) => bytes,
            None => return Ok(done("gone already")),
        };
        let kept = match self.volume.envelope_target(&bytes) {
            _ if self.all_seen => None,
            Some(target) => Some(self.lost.link(stem, &target)?),
            None => Some(self.lost.bytes(stem, &bytes)?),
        };
        dir.remove_small(object)?;
        Ok(done(kept.map_or_else(|| "removed".to_owned(), |kept| format!("moved to {kept}"))))
    }
}
