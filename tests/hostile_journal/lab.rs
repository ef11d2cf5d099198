//! A volume whose store is known as it was at several moments, with records in its journal.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cmkfs::cipher::{OPENED_BODY_AT, SegmentCipher, VolumeKeys};
use cmkfs::file::{Access, Creator, Dir, File, FileError, Volume, VolumeOptions};
use cmkfs::format::journal::{self, FRAME_LEN, HEAD_LEN, Record, RecordKind};
use cmkfs::format::{BlockSize, Epoch};
use cmkfs::keys::KeySource;
use cmkfs::lifecycle::check::{How, check};
use cmkfs::lifecycle::init::{Created, InitOptions, init};
use cmkfs::store::{Store, Watch};

use crate::disk::Disk;
use crate::oracle::{Rec, put};

const ME: Creator = Creator { uid: 0, gid: 0 };
/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;
/// Where the blocks of a file begin, and where its first node lies.
pub(crate) const NODE_AT: u64 = 4096;
pub(crate) const BLOCKS_AT: u64 = 16384;

/// What a reader gets for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Bytes(Vec<u8>),
    /// An error with this in its text.
    Refused(String),
    /// No file any more.
    Other(cmkfs::file::Kind),
}

/// By name; a volume that does not open is `Refused` under the name `volume`.
pub(crate) type Tree = BTreeMap<String, Seen>;

/// A store at a moment.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) disk: Disk,
    /// What is in place of each file, the journal aside.
    pub(crate) place: BTreeMap<String, Vec<u8>>,
    /// What was written last.
    pub(crate) newest: BTreeMap<String, Vec<u8>>,
    pub(crate) records: Vec<Rec>,
}

impl Image {
    pub(crate) fn whole(&self) -> Tree {
        self.newest.iter().map(|(name, now)| (name.clone(), Seen::Bytes(now.clone()))).collect()
    }
}

/// A volume that is being written.
pub(crate) struct Served {
    volume: Arc<Volume>,
    root: Dir,
    open: BTreeMap<String, Arc<File>>,
}

impl Served {
    fn file(&mut self, name: &str) -> Arc<File> {
        let open = || self.root.open_file(name.as_bytes(), Access::Write).unwrap();
        Arc::clone(self.open.entry(name.to_owned()).or_insert_with(open))
    }
}

pub(crate) struct Lab {
    made: Created,
    kept: tempfile::TempDir,
    _dir: tempfile::TempDir,
    /// Names of the files, by lower inode number.
    pub(crate) names: BTreeMap<u64, String>,
    place: BTreeMap<String, Vec<u8>>,
    now: BTreeMap<String, Vec<u8>>,
    /// Contents by name and generation, as far as a record tells it.
    pub(crate) contents: BTreeMap<(String, u64), Vec<u8>>,
    /// Contents that no commit has brought yet when they were synced.
    told: Vec<Vec<u8>>,
}

/// The body of a record, if it is one.
fn open_body(
    cipher: &SegmentCipher,
    kind: RecordKind,
    sequence: u64,
    record: &[u8],
) -> Option<Vec<u8>> {
    if kind == RecordKind::Written {
        return cipher.open_written(sequence, record).ok().map(|body| body.to_vec());
    }
    let opened = cipher.open_record(sequence, record).ok()?;
    Some(opened.as_bytes()[OPENED_BODY_AT..].to_vec())
}

fn options() -> VolumeOptions {
    VolumeOptions { threads: NonZero::new(1), cache_bytes: 1 << 20, ..VolumeOptions::default() }
}

/// In memory, where there is such a place: nothing here is for a disk's own sake.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(parent).unwrap()
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = scratch();
        let key = KeySource::Local(Some(dir.path().join("key")));
        let block_size = BlockSize::from_bytes(BLOCK).unwrap();
        let how = InitOptions { key, output_key: None, block_size, context: BTreeMap::new() };
        let made = init(&dir.path().join("store"), &how).unwrap();
        let kept = tempfile::tempdir_in(dir.path()).unwrap();
        let (names, place, now) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (contents, told) = (BTreeMap::new(), Vec::new());
        Self { made, kept, _dir: dir, names, place, now, contents, told }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.made.path
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }

    pub(crate) fn segment(&self, number: usize) -> PathBuf {
        self.at("journal").join(number.to_string())
    }

    /// Path of a stored file, wherever it was moved to.
    pub(crate) fn stored(&self, name: &str) -> PathBuf {
        let (ino, _) = self.names.iter().find(|(_, known)| *known == name).unwrap();
        let entries = fs::read_dir(self.at("tree")).unwrap().map(|entry| entry.unwrap().path());
        let mut found = entries.filter(|path| fs::symlink_metadata(path).unwrap().ino() == *ino);
        found.next().unwrap()
    }

    fn keys(&self, store: &Store) -> VolumeKeys {
        VolumeKeys::open(&self.made.key, &store.read_descriptor().unwrap()).unwrap()
    }

    fn open_at(&self, path: &Path) -> Result<Arc<Volume>, FileError> {
        let store = Store::open(path).unwrap();
        let descriptor = store.read_descriptor().unwrap();
        Volume::open(&store, self.keys(&store), &descriptor, &options())
    }

    pub(crate) fn serve(&self) -> Served {
        Self::serve_volume(self.open_at(self.path()).unwrap())
    }

    fn serve_volume(volume: Arc<Volume>) -> Served {
        let root = volume.root().unwrap();
        Served { volume, root, open: BTreeMap::new() }
    }

    /// Seals new files, and new segments of the journal, under one more key.
    pub(crate) fn add_epoch(&self) {
        let store = Store::open(self.path()).unwrap();
        let mut descriptor = store.read_descriptor().unwrap();
        VolumeKeys::add_epoch(&self.made.key, &mut descriptor, Epoch(2));
        VolumeKeys::authenticate(&self.made.key, &mut descriptor);
        store.write_descriptor(&descriptor).unwrap();
    }

    /// What the journal's records are, the older segment's first.
    fn records(&self) -> Vec<Rec> {
        let keys = self.keys(&Store::open(self.path()).unwrap());
        let mut found = Vec::new();
        for number in 0..2 {
            let Ok(bytes) = fs::read(self.segment(number)) else { continue };
            let Some((head, tag)) = journal::decode_head(&bytes) else { continue };
            let cipher = keys.open_segment(&head, &tag).unwrap();
            let (mut at, mut records) = (HEAD_LEN, Vec::new());
            for sequence in 0.. {
                let Some(frame) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { break };
                let Some((claim, _)) = journal::decode_frame(frame) else { break };
                let len = FRAME_LEN + claim.body_len as usize;
                let Some(record) = bytes.get(at..at + len) else { break };
                let Some(body) = open_body(&cipher, claim.kind, sequence, record) else { break };
                let said = journal::decode_body(claim.kind, &body).unwrap();
                let (base, placed) = match &said {
                    Record::Change { base, placed, .. } => (*base, placed.len()),
                    _ => (0, 0),
                };
                let bytes = |(extent, at): &(journal::Extent, usize)| {
                    (extent.offset as usize, body[*at..*at + extent.len as usize].to_vec())
                };
                let written = match &said {
                    Record::Written { extents, .. } => extents.iter().map(bytes).collect(),
                    _ => vec![],
                };
                let (Record::Fresh { subject, .. }
                | Record::Settled { subject }
                | Record::Change { subject, .. }
                | Record::Written { subject, .. }) = said;
                let (ino, generation, kind) = (subject.ino, subject.generation, claim.kind);
                let segment = number;
                let record = Rec { segment, at, len, kind, ino, generation, base, placed, written };
                records.push(record);
                at += len;
            }
            found.push((head.order, records));
        }
        found.sort_by_key(|(order, _)| *order);
        found.into_iter().flat_map(|(_, records)| records).collect()
    }

    /// Makes a file of this content. It is in place; `sync` makes that durable.
    pub(crate) fn make(&mut self, served: &mut Served, name: &str, content: Vec<u8>, sync: bool) {
        let (file, stat) = served.root.create_file(name.as_bytes(), ME, 0o644).unwrap();
        file.write(0, &content).unwrap();
        if sync {
            file.sync(true).unwrap()
        } else {
            file.commit().unwrap()
        }
        self.names.insert(stat.ino, name.to_owned());
        self.place.insert(name.to_owned(), content.clone());
        self.now.insert(name.to_owned(), content);
        served.open.insert(name.to_owned(), file);
    }

    /// Cuts a file, writes to it and syncs.
    pub(crate) fn change(
        &mut self,
        served: &mut Served,
        name: &str,
        cut: usize,
        at: usize,
        bytes: &[u8],
    ) {
        let file = served.file(name);
        let (mut content, known) = (self.now[name].clone(), self.records().len());
        if cut < content.len() {
            file.set_len(cut as u64).unwrap();
            content.truncate(cut);
            // To cut a file to nothing is a commit of its own.
            self.note(name, known, &content);
        }
        file.write(at as u64, bytes).unwrap();
        // A sync alone may tell the journal no more than what was written.
        file.commit().unwrap();
        file.sync(true).unwrap();
        put(&mut content, at, bytes);
        self.note(name, self.records().len() - 1, &content);
        assert_eq!(self.now[name], content);
    }

    /// Writes to a file here and there and syncs, so that the journal is told just that.
    pub(crate) fn tell(&mut self, served: &mut Served, name: &str, parts: &[(usize, &[u8])]) {
        let (file, known) = (served.file(name), self.records().len());
        let mut content = self.now[name].clone();
        for (at, bytes) in parts {
            file.write(*at as u64, bytes).unwrap();
            put(&mut content, *at, bytes);
        }
        file.sync(true).unwrap();
        let records = self.records();
        let [record] = &records[known..] else { panic!("one record for one sync") };
        assert_eq!((self.names[&record.ino].as_str(), record.kind), (name, RecordKind::Written));
        assert_eq!(record.written.len(), parts.len());
        let before = self.now.insert(name.to_owned(), content.clone()).unwrap();
        assert_ne!(before, content, "each version is another");
        self.contents.entry((name.to_owned(), record.generation)).or_insert(before);
        self.told.push(content);
    }

    /// Notes by the one record that came to the `known` ones, if it did, which generations have
    /// the content before and this one.
    fn note(&mut self, name: &str, known: usize, content: &[u8]) {
        let records = self.records();
        let [record] = &records[known..] else {
            assert_eq!(records.len(), known, "one record for one change");
            return;
        };
        assert_eq!(self.names[&record.ino], name);
        assert!(matches!(record.kind, RecordKind::Change | RecordKind::Anew), "{record:?}");
        let before = self.now.insert(name.to_owned(), content.to_vec()).unwrap();
        assert_ne!(before, content, "each version is another");
        self.contents.entry((name.to_owned(), record.base)).or_insert(before);
        self.contents.insert((name.to_owned(), record.generation), content.to_vec());
    }

    pub(crate) fn checkpoint(&mut self, served: &Served) {
        served.volume.checkpoint().unwrap();
        self.place.clone_from(&self.now);
        // It has committed what the journal was told.
        for record in self.records() {
            if record.kind == RecordKind::Change {
                let name = self.names[&record.ino].clone();
                let now = &self.now[&name];
                self.contents.entry((name, record.generation)).or_insert_with(|| now.clone());
            }
        }
    }

    /// Closes everything; the journal is empty after it.
    pub(crate) fn unmount(&mut self, served: Served) {
        self.checkpoint(&served);
        drop(served);
        assert!(self.records().is_empty());
    }

    /// The store as it is now.
    pub(crate) fn image(&self) -> Image {
        let disk = Disk::read(self.path());
        self.keep(self.path());
        let (place, newest) = (self.place.clone(), self.now.clone());
        Image { disk, place, newest, records: self.records() }
    }

    fn keep(&self, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            let kept = self.kept.path().join(meta.ino().to_string());
            if meta.is_dir() {
                self.keep(&entry.path());
            } else if meta.is_file() && !kept.exists() {
                fs::hard_link(entry.path(), kept).unwrap();
            }
        }
    }

    pub(crate) fn put(&self, image: &Image) {
        image.disk.put(self.path(), self.kept.path());
    }

    /// Directories with a new file each, whose stored bytes are gone.
    pub(crate) fn many_dirs(&mut self, count: usize) -> Image {
        let served = self.serve();
        for number in 0..count {
            let name = format!("{number}");
            served.root.make_dir(name.as_bytes(), ME, 0o755).unwrap();
            let dir = served.root.open_dir(name.as_bytes()).unwrap();
            let (file, stat) = dir.create_file(b"file", ME, 0o644).unwrap();
            file.commit().unwrap();
            self.names.insert(stat.ino, name);
        }
        let mut image = self.image();
        self.names.keys().for_each(|ino| image.disk.content(*ino).unwrap().set_len(0));
        image
    }

    /// Opens the store with its calls watched. Returns how many files were recovered, too.
    pub(crate) fn open_watched(&self, watch: Arc<dyn Watch>) -> (u64, Arc<Volume>) {
        let store = Store::open_watched(self.path(), watch).unwrap();
        let descriptor = store.read_descriptor().unwrap();
        let opened = Volume::open(&store, self.keys(&store), &descriptor, &options()).unwrap();
        (opened.figures().recovered, opened)
    }

    /// Opens the store for writing, as a mount does, and reads everything.
    pub(crate) fn look(&self) -> Tree {
        let volume = match self.open_at(self.path()) {
            Ok(volume) => volume,
            Err(error) => {
                return Tree::from([("volume".into(), Seen::Refused(error.to_string()))]);
            }
        };
        let root = volume.root().unwrap();
        let names = root.entries().unwrap().into_iter().map(|entry| (entry.name, entry.kind));
        let see = |(name, kind): (Vec<u8>, cmkfs::file::Kind)| {
            let shown = String::from_utf8(name.clone()).unwrap();
            let seen = match kind {
                cmkfs::file::Kind::File => self.read(&root, &name),
                other => Seen::Other(other),
            };
            (shown, seen)
        };
        names.map(see).collect()
    }

    /// Reads in parts: each is what was once written there, or an error.
    fn read(&self, root: &Dir, name: &[u8]) -> Seen {
        let open = || root.open_file(name, Access::Write);
        let again = |error| if error == FileError::Stale { open() } else { Err(error) };
        let file = match open().or_else(again) {
            Ok(file) => file,
            Err(error) => return Seen::Refused(error.to_string()),
        };
        let (mut bytes, mut refused) = (Vec::new(), None);
        for at in (0..file.len()).step_by(BLOCK as usize) {
            match file.read(at, BLOCK as usize) {
                Ok(part) => {
                    let known = |content: &Vec<u8>| {
                        content.get(at as usize..).is_some_and(|rest| rest.starts_with(&part))
                    };
                    let versions = self.contents.values().chain(self.now.values());
                    let versions = versions.chain(&self.told);
                    assert!(versions.chain(self.place.values()).any(known), "{name:?} at {at}");
                    bytes.extend_from_slice(&part);
                }
                Err(error) => refused = refused.or_else(|| Some(error.to_string())),
            }
        }
        refused.map_or(Seen::Bytes(bytes), Seen::Refused)
    }

    /// Kinds of what `cmkfs check` finds, or why it does not.
    pub(crate) fn check(&self) -> Vec<String> {
        match check(self.path(), How::Open(None), NonZero::new(1), &mut |_| {}) {
            Ok(checked) => checked.findings.iter().map(|found| found.kind.word().into()).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    /// The journal of a copy of the store in which a file was changed, and to what.
    pub(crate) fn segment_of_a_copy(
        &mut self,
        name: &str,
        at: usize,
        bytes: &[u8],
    ) -> (Vec<u8>, Vec<u8>) {
        let copy = scratch();
        let mut cp = std::process::Command::new("cp");
        assert!(cp.arg("-a").arg(self.at(".")).arg(copy.path()).status().unwrap().success());
        self.segment_at(copy.path(), name, true, (at, bytes))
    }

    /// The journal that was told of a write to a file, and its content then; the store is put back
    /// to what it was before.
    pub(crate) fn segment_put_back(
        &mut self,
        name: &str,
        at: usize,
        bytes: &[u8],
    ) -> (Vec<u8>, Vec<u8>) {
        let before = self.image();
        let path = self.path().to_owned();
        let told = self.segment_at(&path, name, false, (at, bytes));
        self.put(&before);
        told
    }

    fn segment_at(
        &mut self,
        store: &Path,
        name: &str,
        commits: bool,
        (at, bytes): (usize, &[u8]),
    ) -> (Vec<u8>, Vec<u8>) {
        let volume = self.open_at(store).unwrap();
        let file = volume.root().unwrap().open_file(name.as_bytes(), Access::Write).unwrap();
        file.write(at as u64, bytes).unwrap();
        if commits {
            file.commit().unwrap();
        }
        file.sync(true).unwrap();
        let mut content = self.now[name].clone();
        put(&mut content, at, bytes);
        self.told.push(content.clone());
        (fs::read(store.join("journal/0")).unwrap(), content)
    }
}
