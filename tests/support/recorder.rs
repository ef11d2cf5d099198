//! A disk that writes down what is done to it, and builds what a power cut could have left.
//!
//! The fault model:
//! 1. What changes names, lengths or attributes (create, mkdir, symlink, link, rename, unlink,
//!    truncate, punch, chmod, setxattr) becomes durable in the order in which it was done: a cut
//!    leaves a prefix of it, as journaling filesystems do. Each of these is whole or not at all.
//! 2. Data that was written to a file and not synced is there in any subset of its 512-byte
//!    sectors, whatever the order of the writes. A write that lengthens the file leaves any length
//!    up to its end; sectors within it that did not arrive are what was there before, or zeros.
//! 3. A sync of a file makes its data, its length, and all of (1) that came before it durable; a
//!    sync of a directory makes all of (1) before it durable, and no data; a sync of the disk makes
//!    everything durable.
//! 4. Data written where a truncation or a hole came before that was lost is lost with it: its
//!    place on the disk did not exist.
//!
//! Not in the model: sectors that change without being written, syncs that lie, inode numbers
//! that are given to another file later (every file keeps its number to the end, so that a record
//! which names one finds the same file), owners and times.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cmkfs::store::{Op, RenameMode, There, Watch};
use rustix::io::Errno;

use crate::disk::{Content, Disk, Kind, Object};
use crate::history::Random;

#[path = "done.rs"]
mod done;
use done::{Done, apply};

const SECTOR: u64 = 512;
/// Marks the number of what is gone, which another may have by now.
const GONE: u64 = 1 << 63;

/// The syncs that the disk takes and does not do, by what they are of: what the protocol would be
/// without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Of the journal.
    Journal,
    /// Of other files.
    File,
    /// Of directories.
    Dir,
    /// Of the whole disk, before the journal forgets.
    Disk,
}

impl Lie {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Journal, Self::File, Self::Dir, Self::Disk];

    fn is_about(self, done: &Done, disk: &mut Disk) -> bool {
        let mut in_journal = |file: &u64| {
            let journal = disk.entries(disk.root).and_then(|names| names.get(&b"journal"[..]));
            let journal = journal.copied();
            let segments = journal.and_then(|dir| disk.entries(dir));
            segments.is_some_and(|names| names.values().any(|id| id == file))
        };
        match (self, done) {
            (Self::Journal, Done::SyncFile { file }) => in_journal(file),
            (Self::File, Done::SyncFile { file }) => !in_journal(file),
            (Self::Dir, Done::SyncDir) | (Self::Disk, Done::SyncDisk) => true,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct State {
    start: Disk,
    /// All of it applied.
    now: Disk,
    log: Vec<Done>,
    off: bool,
    lie: Option<Lie>,
}

/// The double. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Recorder {
    root: PathBuf,
    kept: Arc<tempfile::TempDir>,
    state: Arc<Mutex<State>>,
}

impl Recorder {
    /// Records what is done to a store from now on. Names that keep the files alive are made in a
    /// directory beside it.
    pub fn new(root: &Path, lie: Option<Lie>) -> Self {
        let kept = Arc::new(tempfile::tempdir_in(root.parent().unwrap()).unwrap());
        let start = Disk::read(root);
        let recorder = Self {
            root: root.to_owned(),
            kept,
            state: Arc::new(Mutex::new(State {
                now: start.clone(),
                start,
                log: Vec::new(),
                off: false,
                lie,
            })),
        };
        recorder.keep_all(root);
        recorder
    }

    fn keep_all(&self, at: &Path) {
        use std::os::unix::fs::MetadataExt;
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            if meta.is_dir() {
                self.keep_all(&entry.path());
            } else if meta.is_file() {
                self.keep(&entry.path(), meta.ino());
            }
        }
    }

    fn keep(&self, path: &Path, ino: u64) {
        let kept = self.kept.path().join(ino.to_string());
        // One with two names is kept once.
        if !kept.exists() {
            fs::hard_link(path, kept).unwrap();
        }
    }

    /// The same disk after `calls` calls, with a writer that was killed then: the store is made
    /// what it wrote, of which what was not synced is as little durable as before.
    pub fn killed(&self, calls: usize) -> Self {
        let state = self.state.lock().unwrap();
        let (mut start, mut log) = (state.start.clone(), state.log[..calls].to_vec());
        let mut now = start.clone();
        log.iter().for_each(|done| apply(&mut now, done));
        self.put(&now);
        // All but files have other numbers now.
        let new = now.numbers_below(&self.root);
        let is_file = |ino: u64| self.kept.path().join(ino.to_string()).exists();
        let number = |old: u64| match new.get(&old) {
            Some(new) => *new,
            None if is_file(old) => old,
            None => old | GONE,
        };
        start.renumber(number);
        now.renumber(number);
        log.iter_mut().for_each(|done| done.renumber(number));
        let state = State { start, now, log, off: false, lie: state.lie };
        let kept = Arc::clone(&self.kept);
        Self { root: self.root.clone(), kept, state: Arc::new(Mutex::new(state)) }
    }

    /// Calls so far.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap().log.len()
    }

    /// The power is cut: from now on every call fails.
    pub fn cut(&self) {
        self.state.lock().unwrap().off = true;
    }

    /// What the disk is if everything arrived.
    pub fn now(&self) -> Disk {
        self.state.lock().unwrap().now.clone()
    }

    /// A few words on each of the calls from one to another.
    pub fn words(&self, from: usize, to: usize) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let log = state.log[from..to.min(state.log.len())].iter();
        log.map(|done| match done {
            Done::Write { file, offset, bytes } => {
                format!("write {file} at {offset}, {} bytes", bytes.len())
            }
            Done::Make { dir, name, ino, .. } => {
                format!("make {ino} in {dir}: {:.12}", String::from_utf8_lossy(name))
            }
            other => format!("{:.100}", format!("{other:?}")),
        })
        .collect()
    }

    /// What a cut after `calls` calls may have left.
    pub fn image(&self, calls: usize, random: &mut Random) -> Disk {
        let state = self.state.lock().unwrap();
        let log = &state.log[..calls];
        let syncs =
            |done: &Done| matches!(done, Done::SyncFile { .. } | Done::SyncDir | Done::SyncDisk);
        let floor = log.iter().rposition(syncs).unwrap_or(0);
        let prefix = match random.below(3) {
            0 => floor,
            1 => calls,
            _ => floor + random.below(calls - floor + 1),
        };
        let whole = log.iter().rposition(|done| matches!(done, Done::SyncDisk));
        let mut last_sync = BTreeMap::new();
        for (at, done) in log.iter().enumerate() {
            if let Done::SyncFile { file } = done {
                last_sync.insert(*file, at);
            }
        }
        // How much of what was not synced arrives: nothing, all, or by chance.
        let luck = random.below(4);
        let mut image = Image { disk: state.start.clone(), lost: BTreeMap::new() };
        for (at, done) in log.iter().enumerate() {
            match done {
                Done::Write { file, offset, bytes } => {
                    if last_sync.get(file).copied().max(whole).is_some_and(|sync| at < sync) {
                        image.write(*file, *offset, bytes);
                    } else {
                        image.tear(*file, *offset, bytes, luck, random);
                    }
                }
                _ if at < prefix => apply(&mut image.disk, done),
                _ => image.lose(done),
            }
        }
        image.disk
    }

    /// Makes the store what the disk is.
    pub fn put(&self, disk: &Disk) {
        disk.put(&self.root, self.kept.path());
    }
}

struct Image {
    disk: Disk,
    /// By file: bytes from here on, up to there, were given up by a call that was lost.
    lost: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl Image {
    fn write(&mut self, file: u64, offset: u64, bytes: &[u8]) {
        if let Some(content) = self.disk.content(file) {
            content.write(offset, bytes);
        }
    }

    fn lose(&mut self, done: &Done) {
        let (file, range) = match done {
            Done::SetLen { file, len } => (*file, (*len, u64::MAX)),
            Done::Cut { file } => (*file, (0, u64::MAX)),
            Done::Punch { file, offset, len } => (*file, (*offset, offset + len)),
            _ => return,
        };
        self.lost.entry(file).or_default().push(range);
    }

    fn tear(&mut self, file: u64, offset: u64, bytes: &[u8], luck: usize, random: &mut Random) {
        let lost = self.lost.get(&file).cloned().unwrap_or_default();
        let end = offset + bytes.len() as u64;
        let whole = random.below(3);
        let mut at = offset;
        while at < end {
            let next = ((at / SECTOR + 1) * SECTOR).min(end);
            let gone = lost.iter().any(|(from, to)| at < *to && *from < next);
            let arrives = match luck {
                0 => false,
                1 => true,
                _ => whole == 0 || (whole == 1 && random.below(2) == 0),
            };
            if arrives && !gone {
                let from = usize::try_from(at - offset).unwrap();
                let to = usize::try_from(next - offset).unwrap();
                self.write(file, at, &bytes[from..to]);
            }
            at = next;
        }
        if let Some(content) = self.disk.content(file)
            && content.len < end
            && lost.is_empty()
            && luck == 3
            && random.below(2) == 0
        {
            // The length arrived, the sectors did not.
            content.len = end;
        }
    }
}

impl Recorder {
    fn made(&self, state: &State, dir: u64, name: &[u8], made: Option<u64>, kind: Kind) -> Done {
        use std::os::unix::fs::MetadataExt;
        let ino = made.unwrap();
        let path = self.root.join(state.now.path_of(dir).unwrap()).join(OsStr::from_bytes(name));
        if matches!(kind, Kind::File(_)) {
            self.keep(&path, ino);
        }
        let mode = fs::symlink_metadata(&path).unwrap().mode() & 0o7777;
        let object = Object { kind, mode, xattrs: BTreeMap::new() };
        Done::Make { dir, name: name.to_vec(), ino, object }
    }

    /// What a call did; `None` for what changes nothing that is in the model.
    fn done(&self, state: &State, op: &Op<'_>, made: Option<u64>) -> Option<Done> {
        Some(match *op {
            Op::Read { .. } | Op::Reserve { .. } => return None,
            Op::Write { file, offset, bytes } => {
                Done::Write { file, offset, bytes: bytes.to_vec() }
            }
            Op::SetLen { file, len } => Done::SetLen { file, len },
            Op::Punch { file, offset, len } => Done::Punch { file, offset, len },
            Op::SyncFile { file, .. } => Done::SyncFile { file },
            Op::SyncDir { .. } => Done::SyncDir,
            Op::SyncDisk => Done::SyncDisk,
            Op::Create { there, .. }
                if made.is_some_and(|ino| state.now.objects.contains_key(&ino)) =>
            {
                match there {
                    There::Cut => Done::Cut { file: made.unwrap() },
                    There::Refuse | There::Keep => return None,
                }
            }
            Op::Create { dir, name, .. } => {
                self.made(state, dir, name, made, Kind::File(Content::default()))
            }
            Op::MakeDir { dir, name, .. } => {
                self.made(state, dir, name, made, Kind::Dir(BTreeMap::new()))
            }
            Op::MakeNode { dir, name, .. } => self.made(state, dir, name, made, Kind::Node),
            Op::Symlink { dir, name, target } => {
                self.made(state, dir, name, made, Kind::Link(target.to_vec()))
            }
            Op::Link { file, dir, name } => Done::Link { file, dir, name: name.to_vec() },
            Op::Rename { dir, name, to_dir, to_name, mode } => Done::Rename {
                dir,
                name: name.to_vec(),
                to_dir,
                to_name: to_name.to_vec(),
                exchange: mode == RenameMode::Exchange,
            },
            Op::Unlink { dir, name } | Op::RemoveDir { dir, name } => {
                Done::Remove { dir, name: name.to_vec() }
            }
            Op::SetAttr { file, set } => Done::SetMode { file, mode: set.mode? },
            Op::SetXattr { file, name, value, .. } => {
                Done::SetXattr { file, name: name.into(), value: Some(value.to_vec()) }
            }
            Op::RemoveXattr { file, name } => {
                Done::SetXattr { file, name: name.into(), value: None }
            }
        })
    }
}

impl Watch for Recorder {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        // One call after another, so that the order written down is the order done.
        let mut state = self.state.lock().unwrap();
        if state.off {
            return Err(Errno::IO);
        }
        let made = run()?;
        if let Some(done) = self.done(&state, op, made) {
            let lies = state.lie.is_some_and(|lie| lie.is_about(&done, &mut state.now));
            if !lies {
                apply(&mut state.now, &done);
                state.log.push(done);
            }
        }
        Ok(())
    }
}
