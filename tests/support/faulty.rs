//! A disk that fails: one call, or all of one kind from some call on. The call is not made then,
//! or of a write a part is. It may lose what it had not written when it refuses a sync, as Linux
//! does: what was written is read as long as it is in memory, and is never written to the disk.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cmkfs::store::{Op, Watch};
use rustix::io::Errno;

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The one of that number.
    Once,
    /// That one, and all later ones of its kind.
    Lasting,
    /// That one, and whatever comes later.
    All,
}

/// A file with changes that the disk may not have.
#[derive(Debug)]
struct Unsynced {
    /// What the disk has.
    durable: Vec<u8>,
    /// Changes since the last sync, in order. A hole that is punched counts for nothing.
    since: Vec<Change>,
    /// A sync was refused: what came before it never gets to the disk.
    failed: bool,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Change {
    fn of(op: &Op<'_>) -> Option<(u64, Self)> {
        match *op {
            Op::Write { file, offset, bytes } => Some((file, Self::Write(offset, bytes.to_vec()))),
            Op::SetLen { file, len } => Some((file, Self::SetLen(len))),
            _ => None,
        }
    }

    fn make(self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let start = usize::try_from(offset).unwrap();
                let end = start + bytes.len();
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(&bytes);
            }
            Self::SetLen(len) => content.resize(usize::try_from(len).unwrap(), 0),
        }
    }
}

/// The file below `dir` that has this lower inode number.
fn find(dir: &Path, ino: u64) -> Option<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(Result::unwrap).find_map(|entry| {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        match meta.is_dir() {
            true => find(&path, ino),
            false => (meta.ino() == ino).then_some(path),
        }
    })
}

#[derive(Debug, Default)]
struct State {
    /// Calls that were counted.
    calls: usize,
    armed: Option<(usize, Errno, Extent)>,
    kind: Option<Discriminant<Op<'static>>>,
    /// What was refused, as text, in order.
    refused: Vec<String>,
    sync_refused: bool,
    asleep: bool,
    /// The store, if the disk loses what it had not written.
    losing: Option<PathBuf>,
    unsynced: BTreeMap<u64, Unsynced>,
    lost: bool,
    /// Of a write that fails so many halves get to the disk: none or one.
    halves: usize,
    /// Numbers of the calls that were writes.
    writes: Vec<usize>,
    /// The next sync of this file, or of the disk, is refused.
    sync_to_refuse: Option<Option<u64>>,
}

impl State {
    fn is_to_refuse(&mut self, op: &Op<'_>) -> bool {
        let synced = match *op {
            Op::SyncFile { file, .. } => Some(Some(file)),
            Op::SyncDisk => Some(None),
            _ => None,
        };
        let refused = synced.is_some() && synced == self.sync_to_refuse;
        if refused {
            self.sync_to_refuse = None;
        }
        refused
    }

    /// A sync is over: of one file, or of all.
    fn synced(&mut self, file: Option<u64>, failed: bool) {
        let is_meant = |ino: u64| file.is_none_or(|file| file == ino);
        for (_, unsynced) in self.unsynced.iter_mut().filter(|(ino, _)| is_meant(**ino)) {
            let since = std::mem::take(&mut unsynced.since);
            if !failed {
                since.into_iter().for_each(|change| change.make(&mut unsynced.durable));
            }
            unsynced.failed |= failed;
        }
        self.lost |= failed;
        self.unsynced.retain(|ino, unsynced| unsynced.failed || !is_meant(*ino));
    }

    /// Keeps what the disk has of a file that is about to be changed.
    fn keep(&mut self, ino: u64) {
        if let Some(store) = &self.losing
            && !self.unsynced.contains_key(&ino)
        {
            // One without a name is nobody's after a crash.
            let Some(path) = find(store, ino) else { return };
            let durable = std::fs::read(path).unwrap();
            let kept = Unsynced { durable, since: Vec::new(), failed: false };
            self.unsynced.insert(ino, kept);
        }
    }
}

/// The double. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Faulty(Arc<Mutex<State>>);

impl Faulty {
    /// A disk below this store that loses what it had not written when it refuses a sync.
    pub fn losing(store: &Path) -> Self {
        let faulty = Self::default();
        faulty.0.lock().unwrap().losing = Some(store.to_owned());
        faulty
    }

    /// The same, where the first half of what is written when a write fails is written.
    pub fn in_part(self) -> Self {
        self.0.lock().unwrap().halves = 1;
        self
    }

    /// Numbers of the calls that were writes.
    pub fn writes(&self) -> Vec<usize> {
        self.0.lock().unwrap().writes.clone()
    }

    /// What it lost is gone from memory too. Nobody has the store open.
    pub fn lose(&self) {
        let mut state = self.0.lock().unwrap();
        for (ino, unsynced) in std::mem::take(&mut state.unsynced) {
            let path = state.losing.as_deref().and_then(|store| find(store, ino));
            if let Some(path) = path.filter(|_| unsynced.failed) {
                std::fs::write(path, unsynced.durable).unwrap();
            }
        }
    }

    /// Whether it ever refused a sync.
    pub fn lost(&self) -> bool {
        self.0.lock().unwrap().lost
    }

    /// The next sync of this file, or of the whole disk, will fail.
    pub fn refuse_sync(&self, file: Option<u64>) {
        self.0.lock().unwrap().sync_to_refuse = Some(file);
    }

    /// Call number `at`, counted from 0, will fail.
    pub fn arm(&self, at: usize, errno: Errno, extent: Extent) {
        self.0.lock().unwrap().armed = Some((at, errno, extent));
    }

    /// Nothing fails any more.
    pub fn disarm(&self) {
        self.0.lock().unwrap().armed = None;
    }

    /// Does something that is neither counted nor fails.
    pub fn aside<T>(&self, run: impl FnOnce() -> T) -> T {
        self.0.lock().unwrap().asleep = true;
        let done = run();
        self.0.lock().unwrap().asleep = false;
        done
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.0.lock().unwrap().calls
    }

    /// What was refused.
    pub fn refused(&self) -> Vec<String> {
        self.0.lock().unwrap().refused.clone()
    }

    /// Whether the last refused call was to make a file durable.
    pub fn refused_a_sync(&self) -> bool {
        self.0.lock().unwrap().sync_refused
    }

    /// What a call changes, on a disk that may lose it. What was there before is kept.
    fn kept(&self, op: &Op<'_>) -> Option<(u64, Change)> {
        let mut state = self.0.lock().unwrap();
        state.losing.as_ref()?;
        let (ino, change) = Change::of(op)?;
        state.keep(ino);
        Some((ino, change))
    }

    fn refuses(&self, op: &Op<'_>) -> Option<Errno> {
        let mut state = self.0.lock().unwrap();
        if state.asleep {
            return None;
        }
        let number = state.calls;
        state.calls += 1;
        let kind = kind(op);
        let asked = state.is_to_refuse(op).then_some(Errno::IO);
        let armed = state.armed.filter(|(at, _, extent)| match extent {
            Extent::Once => number == *at,
            Extent::Lasting => number == *at || (number > *at && state.kind == Some(kind)),
            Extent::All => number >= *at,
        });
        if matches!(op, Op::Write { .. }) {
            state.writes.push(number);
        }
        let errno = asked.or_else(|| armed.map(|(_, errno, _)| errno))?;
        state.kind = Some(kind);
        let text = format!("{op:?}");
        state.refused.push(format!("call {number}: {:.90}", text));
        state.sync_refused = matches!(op, Op::SyncFile { .. });
        Some(errno)
    }
}

impl Faulty {
    /// What of a write that fails gets to the disk, which is done.
    fn begun(&self, op: &Op<'_>) {
        let mut state = self.0.lock().unwrap();
        let Op::Write { file, offset, bytes } = *op else { return };
        let path = state.losing.as_deref().filter(|_| state.halves > 0);
        let Some(path) = path.and_then(|store| find(store, file)) else { return };
        state.keep(file);
        let part = &bytes[..bytes.len() * state.halves / 2];
        std::fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .write_all_at(part, offset)
            .unwrap();
        if let Some(unsynced) = state.unsynced.get_mut(&file) {
            unsynced.since.push(Change::Write(offset, part.to_vec()));
        }
    }
}

fn kind(op: &Op<'_>) -> Discriminant<Op<'static>> {
    // The kind alone; what it borrows is put aside.
    let fixed: Op<'static> = match *op {
        Op::Read { file, offset, len } => Op::Read { file, offset, len },
        Op::Write { file, offset, .. } => Op::Write { file, offset, bytes: &[] },
        Op::SetLen { file, len } => Op::SetLen { file, len },
        Op::Reserve { file, offset, len } => Op::Reserve { file, offset, len },
        Op::Punch { file, offset, len } => Op::Punch { file, offset, len },
        Op::SyncFile { file, data_only } => Op::SyncFile { file, data_only },
        Op::SyncDir { dir } => Op::SyncDir { dir },
        Op::SyncDisk => Op::SyncDisk,
        // All that makes or changes names, attributes or links: one kind.
        _ => Op::Unlink { dir: 0, name: &[] },
    };
    discriminant(&fixed)
}

impl Watch for Faulty {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        let refused = self.refuses(op);
        let change = if refused.is_none() { self.kept(op) } else { None };
        let done = match refused {
            Some(errno) => {
                self.begun(op);
                Err(errno)
            }
            None => run().map(drop),
        };
        let mut state = self.0.lock().unwrap();
        match *op {
            Op::SyncFile { file, .. } => state.synced(Some(file), done.is_err()),
            Op::SyncDisk => state.synced(None, done.is_err()),
            _ => {}
        }
        if let Some((ino, change)) = change.filter(|_| done.is_ok())
            && let Some(unsynced) = state.unsynced.get_mut(&ino)
        {
            unsynced.since.push(change);
        }
        done
    }
}
