//! A store's directory in memory: objects by their lower inode numbers. It can be read from a disk
//! and put back there, every regular file under the number that it had.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::XattrFlags;

const PAGE: usize = 4096;

/// Bytes of a file, without the pages that are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub len: u64,
    pages: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Content {
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let within = usize::try_from(at % PAGE as u64).unwrap();
            let part = rest.len().min(PAGE - within);
            let page =
                self.pages.entry(at / PAGE as u64).or_insert_with(|| Arc::new(vec![0; PAGE]));
            Arc::make_mut(page)[within..within + part].copy_from_slice(&rest[..part]);
            (at, rest) = (at + part as u64, &rest[part..]);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
        self.tidy(offset, bytes.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
        }
        self.len = len;
    }

    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        for (number, page) in self.pages.range_mut(offset / PAGE as u64..end.div_ceil(PAGE as u64))
        {
            let start = number * PAGE as u64;
            let from = usize::try_from(offset.saturating_sub(start)).unwrap();
            let to = usize::try_from((end - start).min(PAGE as u64)).unwrap();
            Arc::make_mut(page)[from..to].fill(0);
        }
        self.tidy(offset, len);
    }

    fn tidy(&mut self, offset: u64, len: u64) {
        for number in offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64) {
            if self.pages.get(&number).is_some_and(|page| page.iter().all(|byte| *byte == 0)) {
                self.pages.remove(&number);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File(Content),
    Dir(BTreeMap<Vec<u8>, u64>),
    Link(Vec<u8>),
    /// A FIFO or a socket.
    Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub kind: Kind,
    pub mode: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// All objects, some of them perhaps without a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub root: u64,
    pub objects: BTreeMap<u64, Object>,
}

impl Disk {
    pub fn read(root: &Path) -> Self {
        let mut disk = Self::default();
        disk.root = disk.read_object(root);
        disk
    }

    fn read_object(&mut self, path: &Path) -> u64 {
        let meta = fs::symlink_metadata(path).unwrap();
        let kind = if meta.is_dir() {
            let entries = fs::read_dir(path).unwrap().map(Result::unwrap);
            let names = entries
                .map(|entry| (entry.file_name().into_vec(), self.read_object(&entry.path())));
            Kind::Dir(names.collect())
        } else if meta.is_symlink() {
            Kind::Link(fs::read_link(path).unwrap().into_os_string().into_vec())
        } else if meta.is_file() {
            let mut content = Content::default();
            content.write(0, &fs::read(path).unwrap());
            content.len = meta.len();
            Kind::File(content)
        } else {
            Kind::Node
        };
        let xattrs = if meta.is_symlink() { BTreeMap::new() } else { xattrs(path) };
        self.objects.insert(meta.ino(), Object { kind, mode: meta.mode() & 0o7777, xattrs });
        meta.ino()
    }

    pub fn entries(&mut self, dir: u64) -> Option<&mut BTreeMap<Vec<u8>, u64>> {
        match &mut self.objects.get_mut(&dir)?.kind {
            Kind::Dir(entries) => Some(entries),
            _ => None,
        }
    }

    pub fn content(&mut self, file: u64) -> Option<&mut Content> {
        match &mut self.objects.get_mut(&file)?.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Path of a directory below the root.
    pub fn path_of(&self, dir: u64) -> Option<PathBuf> {
        let mut todo = vec![(self.root, PathBuf::new())];
        while let Some((at, path)) = todo.pop() {
            if at == dir {
                return Some(path);
            }
            if let Some(Kind::Dir(entries)) = self.objects.get(&at).map(|object| &object.kind) {
                for (name, id) in entries {
                    todo.push((*id, path.join(OsStr::from_bytes(name))));
                }
            }
        }
        None
    }

    /// Without the objects that no name leads to.
    pub fn reachable(&self) -> Self {
        let mut seen = BTreeSet::new();
        let mut todo = vec![self.root];
        while let Some(at) = todo.pop() {
            if seen.insert(at)
                && let Some(Kind::Dir(entries)) = self.objects.get(&at).map(|object| &object.kind)
            {
                todo.extend(entries.values());
            }
        }
        let mut disk = self.clone();
        disk.objects.retain(|id, _| seen.contains(id));
        disk
    }

    /// The number that each object has where this was put, by the one that it has here.
    pub fn numbers_below(&self, root: &Path) -> BTreeMap<u64, u64> {
        let mut numbers = BTreeMap::new();
        let mut todo = vec![(self.root, root.to_owned())];
        while let Some((at, path)) = todo.pop() {
            numbers.insert(at, fs::symlink_metadata(&path).unwrap().ino());
            if let Kind::Dir(entries) = &self.objects[&at].kind {
                let below =
                    |(name, id): (&Vec<u8>, &u64)| (*id, path.join(OsStr::from_bytes(name)));
                todo.extend(entries.iter().map(below));
            }
        }
        numbers
    }

    /// Gives each object another number.
    pub fn renumber(&mut self, number: impl Fn(u64) -> u64) {
        self.root = number(self.root);
        let objects = std::mem::take(&mut self.objects).into_iter();
        self.objects = objects.map(|(id, object)| (number(id), object)).collect();
        for object in self.objects.values_mut() {
            if let Kind::Dir(entries) = &mut object.kind {
                entries.values_mut().for_each(|id| *id = number(*id));
            }
        }
    }

    /// Makes the directory what this is. `kept` has a name, its number, for every regular file.
    pub fn put(&self, root: &Path, kept: &Path) {
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
        self.put_entries(self.root, root, kept, &mut BTreeSet::new());
    }

    fn put_entries(&self, dir: u64, at: &Path, kept: &Path, done: &mut BTreeSet<u64>) {
        let Kind::Dir(entries) = &self.objects[&dir].kind else { panic!("{dir} is no directory") };
        for (name, id) in entries {
            let path = at.join(OsStr::from_bytes(name));
            let object = &self.objects[id];
            match &object.kind {
                Kind::Dir(_) => {
                    fs::create_dir(&path).unwrap();
                    self.put_entries(*id, &path, kept, done);
                }
                Kind::Link(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
                Kind::Node => drop(fs::File::create(&path).unwrap()),
                Kind::File(content) => {
                    fs::hard_link(kept.join(id.to_string()), &path).unwrap();
                    if done.insert(*id) {
                        put_content(&path, content);
                    }
                }
            }
            if !matches!(object.kind, Kind::Link(_)) {
                put_attributes(&path, object);
            }
        }
    }
}

fn put_content(path: &Path, content: &Content) {
    let file = fs::OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    file.set_len(content.len).unwrap();
    for (number, page) in &content.pages {
        let start = number * PAGE as u64;
        let len = usize::try_from((content.len - start).min(PAGE as u64)).unwrap();
        file.write_all_at(&page[..len], start).unwrap();
    }
}

fn put_attributes(path: &Path, object: &Object) {
    fs::set_permissions(path, fs::Permissions::from_mode(object.mode)).unwrap();
    let there = xattrs(path);
    for name in there.keys().filter(|name| !object.xattrs.contains_key(*name)) {
        rustix::fs::lremovexattr(path, name.as_str()).unwrap();
    }
    for (name, value) in
        object.xattrs.iter().filter(|(name, value)| there.get(*name) != Some(*value))
    {
        rustix::fs::lsetxattr(path, name.as_str(), value, XattrFlags::empty()).unwrap();
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, name.as_str(), &mut value[..]).unwrap();
            value.truncate(len);
            (name, value)
        })
        .collect()
}
