//! Histories of operations on a volume, and a model that knows what may be read after each: of
//! every file and every directory all states since it was last made durable.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use cmkfs::file::{Access, Allocate, Dir, File, FileError, RenameMode, Volume, XattrMode};

use crate::volume::ME;

/// Random numbers by seed: splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

/// One operation. One that the model says is impossible is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Create(String),
    Write {
        path: String,
        at: usize,
        len: usize,
        fill: u8,
    },
    Append {
        path: String,
        len: usize,
        fill: u8,
    },
    Truncate {
        path: String,
        len: usize,
    },
    Punch {
        path: String,
        at: usize,
        len: usize,
    },
    Fsync(String),
    Fdatasync(String),
    FsyncDir(String),
    Close(String),
    Mkdir(String),
    Symlink {
        path: String,
        len: usize,
    },
    Link {
        from: String,
        to: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink(String),
    Rmdir(String),
    SetXattr {
        path: String,
        fill: u8,
    },
    /// What the timer does, and what it does more rarely.
    CommitAll,
    Checkpoint,
}

/// What a file or a directory may be: the last is what it is now.
pub type Versions<T> = Vec<Rc<T>>;
pub type Names = BTreeMap<String, usize>;

/// Id of the root directory in a model.
pub const ROOT: usize = 0;

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub files: BTreeMap<usize, Versions<Vec<u8>>>,
    pub dirs: BTreeMap<usize, Versions<Names>>,
    pub links: BTreeMap<usize, String>,
    /// Values of the one extended attribute that each file may have.
    pub xattrs: BTreeMap<usize, Versions<Option<u8>>>,
    /// Files that were made durable at some time.
    pub synced: BTreeSet<usize>,
    /// What must not be judged: a call for it failed, and it can't be read since.
    pub lost: BTreeSet<usize>,
}

fn put(names: &mut Names, name: &str, id: usize) {
    names.insert(name.into(), id);
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Model {
    pub fn new() -> Self {
        let mut model = Self::default();
        model.dirs.insert(ROOT, vec![Rc::default()]);
        model
    }

    pub fn names(&self, dir: usize) -> &Names {
        self.dirs[&dir].last().unwrap()
    }

    pub fn content(&self, file: usize) -> &Vec<u8> {
        self.files[&file].last().unwrap()
    }

    pub fn find(&self, path: &str) -> Option<usize> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(ROOT, |at, part| self.dirs.get(&at)?.last()?.get(part).copied())
    }

    /// A path of a file.
    pub fn path_of(&self, file: usize) -> Option<String> {
        let mut left = vec![(String::new(), ROOT)];
        while let Some((at, dir)) = left.pop() {
            for (name, id) in self.names(dir) {
                if *id == file {
                    return Some(format!("{at}{name}"));
                }
                if self.dirs.contains_key(id) {
                    left.push((format!("{at}{name}/"), *id));
                }
            }
        }
        None
    }

    pub fn dir_of(&self, path: &str) -> Option<usize> {
        self.find(split(path).0).filter(|id| self.dirs.contains_key(id))
    }

    fn change_names(&mut self, dir: usize, change: impl FnOnce(&mut Names)) {
        let mut names = self.names(dir).clone();
        change(&mut names);
        self.dirs.get_mut(&dir).unwrap().push(Rc::new(names));
    }

    pub fn change_file(&mut self, file: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content(file).clone();
        change(&mut content);
        self.files.get_mut(&file).unwrap().push(Rc::new(content));
    }

    fn next_id(&self) -> usize {
        let ids = self.files.keys().chain(self.dirs.keys()).chain(self.links.keys());
        ids.max().unwrap() + 1
    }

    /// What the act does to names and content; `false` if it can't be done.
    pub fn apply(&mut self, act: &Act) -> bool {
        let id = self.next_id();
        match act {
            Act::Create(path) => {
                self.put(path, id) && self.files.insert(id, vec![Rc::default()]).is_none()
            }
            Act::Mkdir(path) => {
                self.put(path, id) && self.dirs.insert(id, vec![Rc::default()]).is_none()
            }
            Act::Symlink { path, len } => {
                self.put(path, id) && self.links.insert(id, target(*len)).is_none()
            }
            Act::Link { from, to } => {
                let Some(file) = self.find(from) else { return false };
                self.files.contains_key(&file) && self.put(to, file)
            }
            Act::Rename { from, to } => self.rename(from, to),
            Act::Unlink(path) => self.take(path, |model, id| !model.dirs.contains_key(&id)),
            Act::Rmdir(path) => self
                .take(path, |model, id| model.dirs.contains_key(&id) && model.names(id).is_empty()),
            Act::FsyncDir(path) => self.find(path).is_some_and(|dir| self.dirs.contains_key(&dir)),
            Act::SetXattr { path, fill } => {
                let Some(file) = self.find(path) else { return false };
                let known = self.files.contains_key(&file);
                if known {
                    let now = self.xattrs.entry(file).or_insert_with(|| vec![Rc::new(None)]);
                    now.push(Rc::new(Some(*fill)));
                }
                known
            }
            Act::CommitAll | Act::Checkpoint => true,
            Act::Write { .. }
            | Act::Append { .. }
            | Act::Truncate { .. }
            | Act::Punch { .. }
            | Act::Fsync(_)
            | Act::Fdatasync(_)
            | Act::Close(_) => self.apply_content(act),
        }
    }

    fn apply_content(&mut self, act: &Act) -> bool {
        let (Act::Write { path, .. }
        | Act::Append { path, .. }
        | Act::Truncate { path, .. }
        | Act::Punch { path, .. }
        | Act::Fsync(path)
        | Act::Fdatasync(path)
        | Act::Close(path)) = act
        else {
            return false;
        };
        let Some(file) = self.find(path).filter(|id| self.files.contains_key(id)) else {
            return false;
        };
        match act {
            Act::Write { at, len, fill, .. } => self.change_file(file, |content| {
                content.resize(content.len().max(at + len), 0);
                content[*at..at + len].fill(*fill);
            }),
            Act::Append { len, fill, .. } => self.change_file(file, |content| {
                content.resize(content.len() + len, *fill);
            }),
            Act::Truncate { len, .. } => self.change_file(file, |content| content.resize(*len, 0)),
            Act::Punch { at, len, .. } => self.change_file(file, |content| {
                let end = (at + len).min(content.len());
                content[(*at).min(end)..end].fill(0);
            }),
            _ => {}
        }
        true
    }

    fn put(&mut self, path: &str, id: usize) -> bool {
        let Some(dir) = self.dir_of(path) else { return false };
        let name = split(path).1;
        let free = !self.names(dir).contains_key(name);
        if free {
            self.change_names(dir, |names| put(names, name, id));
        }
        free
    }

    fn take(&mut self, path: &str, may: impl FnOnce(&Self, usize) -> bool) -> bool {
        let Some(id) = self.find(path).filter(|id| *id != ROOT) else { return false };
        let found = may(self, id);
        if found {
            let dir = self.dir_of(path).unwrap();
            self.change_names(dir, |names| names.retain(|name, _| name != split(path).1));
        }
        found
    }

    /// Of what is no directory, over what is none or is not there; or of a directory to a free
    /// name that is not below it.
    fn rename(&mut self, from: &str, to: &str) -> bool {
        let (Some(id), Some(dir)) = (self.find(from), self.dir_of(to)) else { return false };
        let there = self.find(to);
        let is_dir = self.dirs.contains_key(&id);
        let over_dir = there.is_some_and(|id| self.dirs.contains_key(&id));
        if id == ROOT || there == Some(id) || over_dir || (is_dir && there.is_some()) {
            return false;
        }
        if is_dir && (format!("{to}/").starts_with(&format!("{from}/"))) {
            return false;
        }
        let source = self.dir_of(from).unwrap();
        self.change_names(source, |names| names.retain(|name, _| name != split(from).1));
        self.change_names(dir, |names| put(names, split(to).1, id));
        if source == dir {
            // One step, not two: the name is never in neither place.
            let versions = self.dirs.get_mut(&dir).unwrap();
            versions.remove(versions.len() - 2);
        }
        true
    }

    /// The act was acknowledged: what it made durable has one state only.
    pub fn acknowledge(&mut self, act: &Act) {
        match act {
            Act::Fsync(path) | Act::Fdatasync(path) => {
                let file = self.find(path).unwrap();
                let versions = self.files.get_mut(&file).unwrap();
                versions.drain(..versions.len() - 1);
                self.synced.insert(file);
                if let (Act::Fsync(_), Some(values)) = (act, self.xattrs.get_mut(&file)) {
                    values.drain(..values.len() - 1);
                }
            }
            Act::FsyncDir(path) => {
                let dir = self.find(path).unwrap();
                let versions = self.dirs.get_mut(&dir).unwrap();
                versions.drain(..versions.len() - 1);
            }
            _ => {}
        }
    }

    /// What is so in one of the two.
    pub fn or(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (id, versions) in &other.files {
            both.files.entry(*id).or_default().extend(versions.iter().cloned());
        }
        for (id, versions) in &other.dirs {
            both.dirs.entry(*id).or_default().extend(versions.iter().cloned());
        }
        for (id, values) in &other.xattrs {
            both.xattrs.entry(*id).or_insert_with(|| vec![Rc::new(None)]).extend(values.clone());
        }
        both.links.extend(other.links.clone());
        both.synced.retain(|id| other.synced.contains(id));
        both
    }
}

/// Target of a link, of `len` bytes.
pub fn target(len: usize) -> String {
    "t".repeat(len)
}

/// The one extended attribute.
pub const XATTR: &[u8] = b"user.mark";

/// Plays a history on a volume.
pub struct Player {
    volume: Arc<Volume>,
    pub root: Dir,
    pub open: BTreeMap<usize, Arc<File>>,
    pub model: Model,
}

impl Player {
    pub fn new(volume: &Arc<Volume>) -> Result<Self, FileError> {
        let volume = volume.clone();
        Ok(Self { root: volume.root()?, volume, open: BTreeMap::new(), model: Model::new() })
    }

    pub fn dir(&self, path: &str) -> Result<Dir, FileError> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        parts.into_iter().try_fold(self.root.clone(), |dir, part| dir.open_dir(part.as_bytes()))
    }

    pub fn parent(&self, path: &str) -> Result<Dir, FileError> {
        self.dir(split(path).0)
    }

    fn file(&mut self, id: usize, path: &str) -> Result<Arc<File>, FileError> {
        if let Some(file) = self.open.get(&id) {
            return Ok(file.clone());
        }
        let file = self.parent(path)?.open_file(split(path).1.as_bytes(), Access::Write)?;
        self.open.insert(id, file.clone());
        Ok(file)
    }

    /// Does an act. The model has it then, whatever comes of it; `None` if it can't be done.
    pub fn act(&mut self, act: &Act) -> Option<Result<(), FileError>> {
        let before = self.model.clone();
        if !self.model.apply(act) {
            self.model = before;
            return None;
        }
        let done = self.perform(act, &before);
        if done.is_ok() {
            self.model.acknowledge(act);
        }
        Some(done)
    }

    fn perform(&mut self, act: &Act, before: &Model) -> Result<(), FileError> {
        match act {
            Act::Create(path) => {
                let made = self.parent(path)?.create_file(name(path), ME, 0o644)?;
                self.open.insert(self.model.find(path).unwrap(), made.0);
                Ok(())
            }
            Act::Mkdir(path) => self.parent(path)?.make_dir(name(path), ME, 0o755).map(drop),
            Act::Symlink { path, len } => {
                let target = target(*len);
                self.parent(path)?.make_symlink(name(path), target.as_bytes(), ME).map(drop)
            }
            Act::Link { from, to } => {
                let source = self.parent(from)?;
                self.parent(to)?.link(name(to), &source, name(from)).map(drop)
            }
            Act::Rename { from, to } => {
                let to_dir = self.parent(to)?;
                self.parent(from)?.rename(name(from), &to_dir, name(to), RenameMode::Replace)
            }
            Act::Unlink(path) => self.parent(path)?.unlink(name(path)),
            Act::Rmdir(path) => self.parent(path)?.remove_dir(name(path)),
            Act::FsyncDir(path) => self.dir(path)?.sync(),
            Act::CommitAll => self.volume.commit_all(),
            Act::Checkpoint => self.volume.checkpoint(),
            Act::SetXattr { path, fill } => {
                self.parent(path)?.set_xattr(Some(name(path)), XATTR, &[*fill], XattrMode::Any)
            }
            Act::Write { path, .. }
            | Act::Append { path, .. }
            | Act::Truncate { path, .. }
            | Act::Punch { path, .. }
            | Act::Fsync(path)
            | Act::Fdatasync(path)
            | Act::Close(path) => {
                let id = before.find(path).unwrap();
                let file = self.file(id, path)?;
                self.perform_content(act, id, &file)
            }
        }
    }

    fn perform_content(&mut self, act: &Act, id: usize, file: &File) -> Result<(), FileError> {
        match act {
            Act::Write { at, len, fill, .. } => file.write(*at as u64, &vec![*fill; *len]),
            Act::Append { len, fill, .. } => file.append(&vec![*fill; *len]).map(drop),
            Act::Truncate { len, .. } => file.set_len(*len as u64),
            Act::Punch { at, len, .. } => {
                file.allocate(Allocate::PunchHole, *at as u64, *len as u64)
            }
            Act::Fsync(_) => file.sync(false),
            Act::Fdatasync(_) => file.sync(true),
            Act::Close(_) => {
                let closed = file.commit();
                self.open.remove(&id);
                closed
            }
            _ => Ok(()),
        }
    }
}

fn name(path: &str) -> &[u8] {
    split(path).1.as_bytes()
}
