//! Walks a store and judges everything in it: a directory at a time, then its objects in parts.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::file::{DirNames, Volume};
use crate::format::directory::MARKER_NAME;
use crate::format::name::{self, Stored};
use crate::format::sessions::Sessions;
use crate::lifecycle::check::finding::{Counting, Counts, Finding, FindingKind, add};
use crate::lifecycle::check::queue::Queue;
use crate::lifecycle::check::shape;
use crate::limits::CHECK_PROGRESS;
use crate::store::{LowerEntry, StoreDir, is_dot};

/// Objects of one directory that one thread judges at a time.
const PART_LEN: usize = 64;
/// Stands in a plaintext path for a name that can't be read.
const UNKNOWN: &str = "?";

/// A walk of one store.
pub(in crate::lifecycle::check) struct Walk<'a> {
    /// The open volume, if there is a key.
    pub(in crate::lifecycle::check) volume: Option<&'a Volume>,
    pub(in crate::lifecycle::check) links: StoreDir,
    /// What `sessions` claims, for want of the key.
    pub(in crate::lifecycle::check) sessions: Option<Sessions>,
    pub(in crate::lifecycle::check) counting: Counting,
    /// Files under `links/` that a link refers to.
    pub(in crate::lifecycle::check) referred: Mutex<BTreeSet<String>>,
    /// What was found of files with several names, by inode.
    pub(in crate::lifecycle::check) linked: Mutex<HashMap<u64, Vec<Finding>>>,
    found: Mutex<Vec<Finding>>,
}

/// A directory that is being walked.
pub(in crate::lifecycle::check) struct Place {
    pub(in crate::lifecycle::check) lower: StoreDir,
    pub(in crate::lifecycle::check) stored: PathBuf,
    path: Option<PathBuf>,
    names: Option<DirNames>,
}

/// An object of a directory.
pub(in crate::lifecycle::check) struct Object {
    pub(in crate::lifecycle::check) name: Vec<u8>,
    pub(in crate::lifecycle::check) kind: FileType,
    /// Plaintext path, as far as it can be read.
    pub(in crate::lifecycle::check) path: Option<PathBuf>,
    /// Its name is none that cmkfs writes.
    foreign: bool,
}

enum Work {
    Dir { parent: Arc<Place>, object: Object },
    Part { place: Arc<Place>, objects: Vec<Object> },
    Root { lower: StoreDir },
}

pub(in crate::lifecycle::check) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the tables consistent: each change of them is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn joined(path: &Path, name: &[u8]) -> PathBuf {
    path.join(OsStr::from_bytes(name))
}

fn refused(error: Errno) -> String {
    format!("the disk refuses it: {error}")
}

impl Place {
    pub(in crate::lifecycle::check) fn at(&self, name: &[u8]) -> PathBuf {
        joined(&self.stored, name)
    }

    fn path_of(&self, name: Option<&[u8]>) -> Option<PathBuf> {
        let name = name.unwrap_or(UNKNOWN.as_bytes());
        self.path.as_ref().map(|path| joined(path, name))
    }
}

impl<'a> Walk<'a> {
    pub(in crate::lifecycle::check) fn new(
        volume: Option<&'a Volume>,
        links: StoreDir,
        sessions: Option<Sessions>,
    ) -> Self {
        Self {
            volume,
            links,
            sessions,
            counting: Counting::default(),
            referred: Mutex::default(),
            linked: Mutex::default(),
            found: Mutex::default(),
        }
    }

    /// Judges everything below `tree` and `links/`. Findings come sorted by stored path.
    ///
    /// # Errors
    /// `links/` can't be listed.
    pub(in crate::lifecycle::check) fn all(
        &self,
        tree: StoreDir,
        threads: NonZero<usize>,
        progress: &mut dyn FnMut(Counts),
    ) -> Result<Vec<Finding>, Errno> {
        let queue = Queue::new(Work::Root { lower: tree });
        std::thread::scope(|scope| {
            for _ in 0..threads.get() {
                scope.spawn(|| queue.work(|work| self.act(work)));
            }
            queue.watch(CHECK_PROGRESS, &mut || progress(self.counting.now()));
        });
        self.links()?;
        let mut found = std::mem::take(&mut *lock(&self.found));
        found.sort_by(|one, two| (&one.stored, one.kind).cmp(&(&two.stored, two.kind)));
        Ok(found)
    }

    pub(in crate::lifecycle::check) fn find(&self, finding: Finding) {
        lock(&self.found).push(finding);
    }

    fn act(&self, work: Work) -> Vec<Work> {
        match work {
            Work::Root { lower } => {
                let path = self.volume.map(|_| PathBuf::from("/"));
                self.dir(lower, "tree".into(), path, true, false)
            }
            Work::Dir { parent, object } => {
                let stored = parent.at(&object.name);
                match parent.lower.open_dir(&object.name) {
                    Ok(lower) => self.dir(lower, stored, object.path, false, object.foreign),
                    Err(error) => {
                        self.unread(stored, object.path, error);
                        Vec::new()
                    }
                }
            }
            Work::Part { place, objects } => {
                let judge = |object| self.object(&place, object);
                objects.into_iter().filter_map(judge).collect()
            }
        }
    }

    pub(in crate::lifecycle::check) fn unread(
        &self,
        stored: PathBuf,
        path: Option<PathBuf>,
        error: Errno,
    ) {
        self.find(Finding::new(FindingKind::Unread, stored, path, refused(error)));
    }

    /// The names of a directory, or what is wrong with its marker.
    fn names(&self, lower: &StoreDir, is_root: bool) -> (Option<DirNames>, Option<String>) {
        let marker = match lower.read_marker() {
            Ok(marker) => marker,
            Err(Errno::NOENT) => return (None, Some("the directory has no marker".to_owned())),
            Err(error) => return (None, Some(format!("its marker can't be read: {error}"))),
        };
        match self.volume {
            Some(volume) => match volume.inspect_marker(&marker, is_root) {
                Ok(names) => (Some(names), None),
                Err(reason) => (None, Some(reason)),
            },
            None => (None, shape::marker(&marker).err()),
        }
    }

    fn dir(
        &self,
        lower: StoreDir,
        stored: PathBuf,
        path: Option<PathBuf>,
        is_root: bool,
        foreign: bool,
    ) -> Vec<Work> {
        add(&self.counting.directories, 1);
        let entries = match list(&lower) {
            Ok(entries) => entries,
            Err(error) => {
                self.unread(stored, path, error);
                return Vec::new();
            }
        };
        let (mut names, mut wrong) = self.names(&lower, is_root);
        if wrong.is_some() && is_root {
            names = self.volume.and_then(Volume::root_names);
        }
        let mut place = Place { lower, stored, path, names };
        let mut findings = Vec::new();
        let mut objects = self.objects(&place, &entries, &mut findings);
        let bad = |finding: &&Finding| matches!(finding.kind, FindingKind::Name);
        let nameless = findings.iter().filter(bad).count();
        if wrong.is_none() && nameless > 1 && nameless == objects.len() {
            // Not every one of the names was changed, but the one thing that they depend on.
            wrong = Some(format!("none of the {nameless} names here opens under its marker"));
            place.names = None;
            findings.clear();
            objects = self.objects(&place, &entries, &mut findings);
        }
        if let Some(reason) = wrong
            && !foreign
        {
            let at = (place.stored.clone(), place.path.clone());
            self.find(Finding::new(FindingKind::Marker, at.0, at.1, reason));
        }
        for finding in findings {
            self.find(finding);
        }
        self.attributes_of_dir(&place);
        parts(place, objects)
    }

    /// The objects among the entries, with their names as far as they can be read.
    fn objects(
        &self,
        place: &Place,
        entries: &[LowerEntry],
        findings: &mut Vec<Finding>,
    ) -> Vec<Object> {
        let names: BTreeSet<&[u8]> = entries.iter().map(|entry| &entry.name[..]).collect();
        let mut objects = Vec::new();
        for entry in entries {
            if entry.name == MARKER_NAME {
                continue;
            }
            let at = place.at(&entry.name);
            let mut find = |kind, reason: &str| {
                let path = place.path_of(None);
                findings.push(Finding::new(kind, at.clone(), path, reason));
            };
            let (sealed, is_long) = match name::decode(&entry.name) {
                Stored::Marker => continue,
                Stored::Temporary => {
                    let (kind, reason) = temporary(place, entry);
                    find(kind, &reason);
                    if kind != FindingKind::Foreign {
                        continue;
                    }
                    (None, false)
                }
                Stored::Sidecar => {
                    let hash = entry.name.strip_suffix(name::SIDECAR_SUFFIX.as_bytes());
                    let long = [hash.unwrap_or_default(), name::LONG_SUFFIX.as_bytes()].concat();
                    if !names.contains(&long[..]) {
                        find(
                            FindingKind::OrphanSidecar,
                            "the sidecar of an object that is not there",
                        );
                    }
                    continue;
                }
                Stored::Direct(sealed) => (Some(sealed), false),
                Stored::Long { sidecar } => (place.lower.read_sidecar(&sidecar).ok(), true),
                Stored::Foreign => {
                    find(FindingKind::Foreign, "no name that cmkfs gives");
                    (None, false)
                }
            };
            let foreign = sealed.is_none() && !is_long;
            let plain = match (sealed, &place.names) {
                (Some(sealed), names) => self.name(names.as_ref(), &entry.name, &sealed),
                (None, _) => Err(is_long.then_some("its sidecar can't be read")),
            };
            if let Err(Some(reason)) = plain {
                let kind = if is_long { FindingKind::Sidecar } else { FindingKind::Name };
                find(kind, reason);
            }
            let path = place.path_of(plain.ok().flatten().as_deref());
            let (name, kind) = (entry.name.clone(), entry.kind);
            objects.push(Object { name, kind, path, foreign });
        }
        objects
    }

    /// The plaintext name; `None` if it can't be told, `Err` with what is wrong with it.
    fn name(
        &self,
        names: Option<&DirNames>,
        object: &[u8],
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>, Option<&'static str>> {
        if let Some(names) = names {
            let opened = names.open(object, sealed);
            return opened.map(Some).ok_or(Some("the name is not authentic in this directory"));
        }
        match shape::name(object, sealed) {
            Some(reason) => Err(Some(reason)),
            None => Ok(None),
        }
    }

    fn attributes_of_dir(&self, place: &Place) {
        let of = crate::store::Attributed::Open(&place.lower);
        let owner = place.names.as_ref().map(DirNames::owner);
        self.attributes(&of, owner, &place.stored, place.path.as_deref());
    }

    /// Judges an object; a directory is work of its own.
    fn object(&self, place: &Arc<Place>, object: Object) -> Option<Work> {
        match object.kind {
            FileType::Directory => {
                return Some(Work::Dir { parent: Arc::clone(place), object });
            }
            FileType::RegularFile if object.foreign => add(&self.counting.files, 1),
            FileType::RegularFile => self.file(place, &object),
            FileType::Symlink if object.foreign => add(&self.counting.links, 1),
            FileType::Symlink => self.link(place, &object),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => self.other(place, &object),
        }
        None
    }
}

/// What is to be said of an object with a temporary name.
fn temporary(place: &Place, entry: &LowerEntry) -> (FindingKind, String) {
    match shape::is_leftover(&place.lower, entry, 0) {
        Ok(true) => {
            let reason = "what a crash left of a directory that was being made or removed";
            (FindingKind::Leftover, reason.to_owned())
        }
        Ok(false) => {
            let reason = "a temporary name, and more than a crash leaves under one";
            (FindingKind::Foreign, reason.to_owned())
        }
        Err(error) => (FindingKind::Unread, refused(error)),
    }
}

/// Everything in a directory but `.` and `..`, sorted by name, each with its kind.
pub(in crate::lifecycle::check) fn list(lower: &StoreDir) -> Result<Vec<LowerEntry>, Errno> {
    let mut stream = lower.stream()?;
    let mut entries = Vec::new();
    loop {
        let batch = stream.batch()?;
        if batch.is_empty() {
            break;
        }
        entries.extend(batch.into_iter().filter(|entry| !is_dot(&entry.name)));
    }
    for entry in entries.iter_mut().filter(|entry| entry.kind == FileType::Unknown) {
        entry.kind = FileType::from_raw_mode(lower.stat(&entry.name)?.st_mode);
    }
    entries.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(entries)
}

fn parts(place: Place, objects: Vec<Object>) -> Vec<Work> {
    let place = Arc::new(place);
    let mut made = Vec::new();
    let mut objects = objects.into_iter().peekable();
    while objects.peek().is_some() {
        let objects = objects.by_ref().take(PART_LEN).collect();
        made.push(Work::Part { place: Arc::clone(&place), objects });
    }
    made
}
