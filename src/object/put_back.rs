//! Makes the directories and files of a snapshot again.
//!
//! All is made below one directory by descriptors, following no link, under names that are checked
//! first: whatever a target says, nothing outside of it is touched. What an interrupted restore of
//! the same snapshot left is looked at, and only what differs is fetched.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::format::snapshot::{Kind, Meta, Record, order, path_fault};
use crate::limits::DEPTH_MAX;
use crate::object::error::{SnapshotError, local};
use crate::object::fetch::{Batch, Batcher};
use crate::object::finish::{finish_at, finish_open};
use crate::object::made::Made;
use crate::object::parts::Seal;
use crate::object::pool::{Later, Pool};
use crate::object::take::Opened;
use crate::object::target::{Target, top_key};
use crate::object::walk::DIR_FLAGS;

/// Which records are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// These paths.
    pub exact: HashSet<Vec<u8>>,
    /// These paths and all below them.
    pub below: Vec<Vec<u8>>,
}

impl Wish {
    fn has(&self, path: &[u8]) -> bool {
        let is_below = |top: &Vec<u8>| {
            path.strip_prefix(top.as_slice()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        };
        self.exact.contains(path) || self.below.iter().any(is_below)
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Objects of all kinds.
    pub objects: u64,
    /// Bytes that were fetched or found.
    pub bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct PutBack {
    target: Arc<dyn Target>,
    seal: Arc<dyn Seal>,
    pool: Arc<Pool>,
    root: Arc<OwnedFd>,
    wish: Option<Wish>,
    resume: bool,
}

/// A directory on the way, and how it is to be once all in it is made.
struct Level {
    path: Vec<u8>,
    dir: Arc<OwnedFd>,
    meta: Option<Meta>,
}

impl PutBack {
    /// Into the directory `root`; with `resume`, where the same was begun before.
    ///
    /// # Errors
    /// The directory can't be opened.
    pub fn new(
        target: &Arc<dyn Target>,
        seal: &Arc<dyn Seal>,
        pool: &Arc<Pool>,
        root: &Path,
        wish: Option<Wish>,
        resume: bool,
    ) -> Result<Self, SnapshotError> {
        let dir = rustix::fs::open(root, DIR_FLAGS, Mode::empty());
        let path = root.as_os_str().as_encoded_bytes();
        let root = Arc::new(dir.map_err(local(path, "can't open it"))?);
        let (target, seal, pool) = (Arc::clone(target), Arc::clone(seal), Arc::clone(pool));
        Ok(Self { target, seal, pool, root, wish, resume })
    }

    /// Makes all that is wanted.
    ///
    /// # Errors
    /// What can't be had or made; what was made stays.
    pub fn run(&self, snapshot: &Opened) -> Result<Restored, SnapshotError> {
        let mut work = Work {
            put: self,
            levels: vec![self.bottom()],
            batcher: Batcher::new(),
            running: VecDeque::new(),
            linked: HashMap::new(),
            links: Vec::new(),
            restored: Restored::default(),
        };
        self.each(snapshot, |record| work.make(record))?;
        work.end()?;
        // Last, as what is made in a directory changes its times, and its mode may forbid more.
        let mut levels = vec![self.bottom()];
        self.each(snapshot, |record| {
            if matches!(record.kind, Kind::Dir) {
                let dir = leave(&mut levels, &record.path, true)?;
                let dir = Arc::new(open_dir(&dir, &record.path)?);
                levels.push(Level { path: record.path, dir, meta: Some(record.meta) });
            }
            Ok(())
        })?;
        leave(&mut levels, b"", true)?;
        Ok(work.restored)
    }

    fn bottom(&self) -> Level {
        Level { path: Vec::new(), dir: Arc::clone(&self.root), meta: None }
    }

    fn each(
        &self,
        snapshot: &Opened,
        mut see: impl FnMut(Record) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let mut records = snapshot.records(&self.target, &self.seal);
        while let Some(record) = records.advance()? {
            if let Some(fault) = path_fault(&record.path) {
                let path = String::from_utf8_lossy(&record.path).into_owned();
                let key = top_key(snapshot.clear.volume_id, &snapshot.clear.id);
                return Err(SnapshotError::damaged(&key, format!("path {path:?}: {fault}")));
            }
            if self.wish.as_ref().is_none_or(|wish| wish.has(&record.path)) {
                see(record)?;
            }
        }
        Ok(())
    }
}

fn name_of(path: &[u8]) -> CString {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    CString::new(name).expect("paths with a zero are refused")
}

/// A directory by its name in the directory `at`.
fn open_dir(at: &OwnedFd, path: &[u8]) -> Result<OwnedFd, SnapshotError> {
    let opened = rustix::fs::openat(at, name_of(path), DIR_FLAGS, Mode::empty());
    opened.map_err(local(path, "can't open it"))
}

/// Goes back to the directory of `path`, which is on the way there. With `finish`, those that are
/// left become as they are to be.
fn leave(
    levels: &mut Vec<Level>,
    path: &[u8],
    finish: bool,
) -> Result<Arc<OwnedFd>, SnapshotError> {
    let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |at| &path[..at]);
    while let Some(level) = levels.last() {
        let is_above = level.path.is_empty()
            || parent
                .strip_prefix(&level.path[..])
                .is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        if is_above {
            break;
        }
        if let (true, Some(meta)) = (finish, &level.meta) {
            finish_open(&level.dir, meta)
                .map_err(local(&level.path, "can't set its attributes"))?;
        }
        levels.pop();
    }
    match levels.last() {
        Some(level) if level.path == parent => Ok(Arc::clone(&level.dir)),
        _ => Err(SnapshotError::damaged(
            &String::from_utf8_lossy(path),
            "its directory is not in the snapshot",
        )),
    }
}

struct Work<'a> {
    put: &'a PutBack,
    levels: Vec<Level>,
    batcher: Batcher<Arc<Made>>,
    running: VecDeque<Later<Result<(), SnapshotError>>>,
    /// Where an object with several names was made first.
    linked: HashMap<u64, Vec<u8>>,
    links: Vec<(Vec<u8>, Vec<u8>)>,
    restored: Restored,
}

impl Work<'_> {
    fn make(&mut self, record: Record) -> Result<(), SnapshotError> {
        let dir = leave(&mut self.levels, &record.path, false)?;
        let Record { path, meta, kind } = record;
        self.restored.objects += 1;
        if meta.link != 0 && kind != Kind::Dir {
            if let Some(first) = self.linked.get(&meta.link) {
                self.links.push((first.clone(), path));
                return Ok(());
            }
            self.linked.insert(meta.link, path.clone());
        }
        let name = name_of(&path);
        match kind {
            Kind::Dir => {
                if self.levels.len() > DEPTH_MAX {
                    let deep = std::io::Error::other("too many directories deep");
                    return Err(local(&path, "can't make it")(deep));
                }
                match rustix::fs::mkdirat(&*dir, &name, Mode::RWXU) {
                    Err(Errno::EXIST) if self.put.resume => {}
                    made => made.map_err(local(&path, "can't make it"))?,
                }
                let below = Arc::new(open_dir(&dir, &path)?);
                if self.put.resume {
                    // A restore that came further may have taken the right to write away.
                    rustix::fs::fchmod(&below, Mode::RWXU)
                        .map_err(local(&path, "can't set its mode"))?;
                }
                self.levels.push(Level { path, dir: below, meta: None });
                Ok(())
            }
            Kind::File(content) => {
                let pieces: Vec<_> =
                    content.pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
                let count = pieces.len();
                let made = Made::new(dir, name, path, meta, content.len, count, self.put.resume);
                let made = Arc::new(made);
                if pieces.is_empty() {
                    return self.run(move || made.open().and_then(|_| made.end()));
                }
                for piece in pieces {
                    self.restored.bytes += piece.len();
                    if let Some(batch) = self.batcher.push(piece, Arc::clone(&made))? {
                        self.fetch(batch)?;
                    }
                }
                Ok(())
            }
            other => {
                if self.put.resume {
                    remove(&dir, &name).map_err(local(&path, "can't replace it"))?;
                }
                let made = make_special(&dir, &name, &other);
                let made = made.and_then(|()| finish_at(&dir, &name, &other, &meta));
                made.map_err(local(&path, "can't make it"))
            }
        }
    }

    fn run(
        &mut self,
        job: impl FnOnce() -> Result<(), SnapshotError> + Send + 'static,
    ) -> Result<(), SnapshotError> {
        self.running.push_back(self.put.pool.run(job));
        while self.running.len() > 2 * self.put.pool.width() {
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), SnapshotError> {
        self.running.pop_front().map_or(Ok(()), Later::wait)
    }

    fn fetch(&mut self, mut batch: Batch<Arc<Made>>) -> Result<(), SnapshotError> {
        let (target, volume_id) = (Arc::clone(&self.put.target), self.put.seal.volume_id());
        self.run(move || {
            let mut left = Vec::new();
            for (piece, made) in std::mem::take(&mut batch.pieces) {
                if made.has(&piece)? {
                    made.note()?;
                } else {
                    left.push((piece, made));
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            batch.pieces = left;
            let fetched = batch.fetch(&*target, volume_id)?;
            for ((piece, made), bytes) in batch.pieces.iter().zip(fetched) {
                made.write(piece, &bytes)?;
                made.note()?;
            }
            Ok(())
        })
    }

    /// Waits for all that runs, then makes the further names of what has several.
    fn end(&mut self) -> Result<(), SnapshotError> {
        if let Some(batch) = self.batcher.finish() {
            self.fetch(batch)?;
        }
        while !self.running.is_empty() {
            self.settle()?;
        }
        let mut links = std::mem::take(&mut self.links);
        links.sort_by(|a, b| order(&a.1, &b.1));
        for (first, path) in links {
            let link = || {
                let (from, to) = (dir_of(&self.put.root, &first)?, dir_of(&self.put.root, &path)?);
                let (old, new) = (name_of(&first), name_of(&path));
                if self.put.resume {
                    remove(&to, &new)?;
                }
                rustix::fs::linkat(&from, &old, &to, &new, AtFlags::empty())
            };
            link().map_err(local(&path, "can't link it"))?;
        }
        Ok(())
    }
}

/// The directory of a path below `root`.
fn dir_of(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut dir = rustix::io::dup(root)?;
    let mut parts = path.split(|byte| *byte == b'/').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_some() {
            dir = rustix::fs::openat(&dir, part, DIR_FLAGS, Mode::empty())?;
        }
    }
    Ok(dir)
}

fn remove(dir: &OwnedFd, name: &CString) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

fn make_special(dir: &OwnedFd, name: &CString, kind: &Kind) -> Result<(), Errno> {
    let node = |kind, rdev| rustix::fs::mknodat(dir, name, kind, Mode::RUSR, rdev);
    match kind {
        Kind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), dir, name),
        Kind::Fifo => node(FileType::Fifo, 0),
        Kind::Socket => node(FileType::Socket, 0),
        Kind::CharDevice(rdev) => node(FileType::CharacterDevice, *rdev),
        Kind::BlockDevice(rdev) => node(FileType::BlockDevice, *rdev),
        Kind::Dir | Kind::File(_) => Err(Errno::INVAL),
    }
}

/// How a file is made that is not there.
pub(in crate::object) const MAKE: OFlags = OFlags::RDWR
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

#[cfg(test)]
mod tests {
    use std::num::NonZero;
    use std::path::PathBuf;

    use super::*;
    use crate::format::ids::{Epoch, VolumeId};
    use crate::format::snapshot::{self, Clear, FORMAT, Hash, Part, Time};
    use crate::object::directory::Directory;
    use crate::object::target::{hash, object_key};

    /// Whoever has the volume's key: says anything, and all of it is authentic.
    #[derive(Debug)]
    struct Forger;

    impl Seal for Forger {
        fn volume_id(&self) -> VolumeId {
            VolumeId([7; 16])
        }

        fn epoch(&self) -> Epoch {
            Epoch::FIRST
        }

        fn seal_top(&self, _: &[u8], parts: &[u8]) -> Vec<u8> {
            parts.to_vec()
        }

        fn open_top(&self, _: Epoch, _: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
            Some(sealed.to_vec())
        }

        fn seal_part(&self, records: &[u8]) -> (Vec<u8>, Hash) {
            (records.to_vec(), hash(records))
        }

        fn open_part(&self, _: Epoch, _: &Hash, sealed: &[u8]) -> Option<Vec<u8>> {
            Some(sealed.to_vec())
        }
    }

    fn record(path: &str, kind: Kind) -> Record {
        let time = Time { s: 5, ns: 7 };
        let meta = Meta { mode: 0o700, mtime: time, atime: time, ..Meta::default() };
        Record { path: path.as_bytes().to_vec(), meta, kind }
    }

    /// A snapshot with these records, restored; what was made, or why not.
    fn restored(records: &[Record]) -> (tempfile::TempDir, Result<Restored, SnapshotError>) {
        let dir = tempfile::tempdir().unwrap();
        let [at, root] = ["target", "outer/root"].map(|name| dir.path().join(name));
        std::fs::create_dir_all(&at).unwrap();
        std::fs::create_dir_all(&root).unwrap();
        let target: Arc<dyn Target> = Arc::new(Directory::open(&at).unwrap());
        let (mut bytes, mut last) = (Vec::new(), Vec::new());
        for record in records {
            snapshot::encode(&mut bytes, record, &last);
            last.clone_from(&record.path);
        }
        let seal: Arc<dyn Seal> = Arc::new(Forger);
        let (object, first) = (hash(&bytes), records[0].path.clone());
        target.put_new(&object_key(seal.volume_id(), &object), &bytes).unwrap();
        let parts = vec![Part { object, digest: object, count: records.len() as u64, first }];
        let clear = Clear {
            format: FORMAT.to_owned(),
            id: "snap-x".to_owned(),
            volume_id: seal.volume_id(),
            created_unix_ms: 0,
            parent: None,
            epoch: Epoch::FIRST,
            files: 0,
            bytes: 0,
            sent_bytes: 0,
            descriptor: String::new(),
        };
        let pool = Arc::new(Pool::new(NonZero::new(2).unwrap()));
        let put = PutBack::new(&target, &seal, &pool, &root, None, false).unwrap();
        let result = put.run(&Opened { clear, parts });
        (dir, result)
    }

    fn below(dir: &Path) -> Vec<PathBuf> {
        let mut found: Vec<_> =
            dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }

    #[test]
    fn nothing_outside_of_the_directory_is_made_whatever_a_snapshot_says() {
        let out = Kind::Symlink(b"../../..".to_vec());
        for (records, part) in [
            (vec![record("../out", Kind::Dir)], "leads out"),
            (vec![record("/out", Kind::Dir)], "leads out"),
            (vec![record("tree", Kind::Dir), record("tree/../../out", Kind::Dir)], "leads out"),
            (vec![record("out", Kind::Dir)], "no part of a store"),
            (vec![record("lock", Kind::Fifo)], "no part of a store"),
            (vec![record("tree/out", Kind::Dir)], "its directory is not"),
            (vec![record("tree", out.clone()), record("tree/out", Kind::Dir)], "its directory"),
            (
                vec![
                    record("tree", Kind::Dir),
                    record("tree/link", out),
                    record("tree/link/out", Kind::Fifo),
                ],
                "its directory",
            ),
        ] {
            let (dir, result) = restored(&records);
            let error = result.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert_eq!(below(&dir.path().join("outer")), [dir.path().join("outer/root")]);
            assert_eq!(below(dir.path()).len(), 2, "{records:?}");
        }
    }

    #[test]
    fn what_forbids_writing_is_made_all_the_same() {
        let mut records = vec![record("tree", Kind::Dir), record("tree/dir", Kind::Dir)];
        records[1].meta.mode = 0;
        records.push(record("tree/dir/file", Kind::File(Default::default())));
        records.push(record("tree/other", Kind::Symlink(b"to".to_vec())));
        let (dir, result) = restored(&records);
        assert_eq!(result.unwrap(), Restored { objects: 4, bytes: 0 });
        let made = dir.path().join("outer/root/tree/dir").symlink_metadata().unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((made.mode() & 0o7777, made.mtime(), made.mtime_nsec()), (0, 5, 7));
    }
}
