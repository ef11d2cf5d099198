//! A disk that is full while the volume is served: what the journal was told is not lost, and what
//! is logged says so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cmkfs::file::{SetAttr, Volume};
use cmkfs::format::node::NODE_LEN;
use cmkfs::fs::{Change, Fs, HandleId, InodeId, OpenFlags, Privileges, Sync};
use cmkfs::store::{Op, Watch};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::lab::{BLOCK, Crashed, assert_read, copy, options, pattern};
use crate::log::logged;
use crate::volume::{ME, Throwaway};

/// Bytes of a file that is durable before the disk is full.
const LEN: usize = 50_000;

/// A disk without any room left: no file gets longer; or, on one that writes elsewhere than in
/// place, nothing is written.
#[derive(Debug)]
pub(crate) struct Full {
    store: PathBuf,
    is_full: AtomicBool,
    copies: AtomicBool,
    refuses_nodes: AtomicBool,
}

fn len_of(dir: &Path, ino: u64) -> Option<u64> {
    fs::read_dir(dir).unwrap().map(Result::unwrap).find_map(|entry| {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            len_of(&entry.path(), ino)
        } else {
            (meta.ino() == ino).then_some(meta.len())
        }
    })
}

impl Watch for Full {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        let end = match *op {
            Op::Write { file, offset, bytes } => Some((file, offset + bytes.len() as u64)),
            Op::Reserve { file, offset, len } => Some((file, offset + len)),
            Op::SetLen { file, len } => Some((file, len)),
            _ => None,
        };
        let is_node =
            |op: &Op<'_>| matches!(op, Op::Write { bytes, .. } if bytes.len() == NODE_LEN);
        if self.refuses_nodes.load(Ordering::Relaxed) && is_node(op) {
            return Err(Errno::NOSPC);
        }
        let is_full = self.is_full.load(Ordering::Relaxed);
        if is_full && self.copies.load(Ordering::Relaxed) && matches!(op, Op::Write { .. }) {
            return Err(Errno::NOSPC);
        }
        if let Some((file, end)) = end
            && is_full
            // What has no name is not found, and has room for nothing.
            && len_of(&self.store, file).is_none_or(|len| end > len)
        {
            return Err(Errno::NOSPC);
        }
        run().map(drop)
    }
}

impl Full {
    pub(crate) fn below(store: &Path) -> Arc<Self> {
        Arc::new(Self {
            store: store.to_owned(),
            is_full: true.into(),
            copies: false.into(),
            refuses_nodes: false.into(),
        })
    }

    /// Whether it has no room for nodes of stored files, whatever it has for the rest.
    fn refuse_nodes(&self, refuses: bool) {
        self.refuses_nodes.store(refuses, Ordering::Relaxed);
    }

    /// From now on it writes elsewhere than in place.
    pub(crate) fn copies(&self) {
        self.copies.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }
}

/// A volume on such a disk, while there is room, as programs see it.
struct Served {
    fs: Arc<Fs>,
    volume: Arc<Volume>,
    full: Arc<Full>,
    disk: Throwaway,
}

impl Served {
    fn new() -> Self {
        let disk = Throwaway::new(BLOCK as u64);
        let full = Full::below(disk.path());
        full.set(false);
        let volume = disk.open_watched(full.clone(), &options()).unwrap();
        let fs = Fs::new(volume.clone(), volume.root().unwrap());
        Self { fs, volume, full, disk }
    }

    /// The same where ten files with changes in the journal make it crowded.
    fn soon_crowded() -> Self {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(320), ..before }).unwrap();
        let served = Self::new();
        setrlimit(Resource::Nofile, before).unwrap();
        served
    }

    fn make(&self, name: &str) -> (InodeId, HandleId) {
        let made = self.fs.create(InodeId::ROOT, name.as_bytes(), 0o644, OpenFlags::WRITE, ME);
        let (attr, handle) = made.unwrap();
        self.write(handle, 0, &pattern(LEN, 1));
        self.fs.fsync(handle, Sync::Data).unwrap();
        (attr.ino, handle)
    }

    fn write(&self, handle: HandleId, offset: usize, bytes: &[u8]) {
        self.fs.write(handle, offset as u64, bytes, Privileges::Keep).unwrap();
    }

    /// Lengthens a file of `len` bytes by what the journal is told; returns that.
    fn tell(&self, handle: HandleId, len: usize) -> Vec<u8> {
        let told = pattern(300, 2);
        self.write(handle, len, &told);
        self.fs.fsync(handle, Sync::Data).unwrap();
        told
    }
}

#[test]
fn a_file_that_is_closed_on_a_full_disk_is_kept_until_there_is_room() {
    let served = Served::new();
    let (_, handle) = served.make("file");
    let told = [pattern(LEN, 1), served.tell(handle, LEN)].concat();
    let more = pattern(60_000, 3);
    served.write(handle, told.len(), &more);
    served.full.copies();
    served.full.set(true);
    served.fs.flush(handle).unwrap_err();
    let (closed, log) = logged(|| served.fs.release(handle));
    closed.unwrap();
    assert!(log.contains("what was synced is in the journal"), "{log}");
    assert!(!log.contains("lost"), "{log}");
    let crashed = Crashed { disk: &served.disk, dir: copy(served.disk.path()) };
    assert_read(&crashed.open(), "file", &told);
    let all = [told, more].concat();
    assert_read(&served.volume, "file", &all);
    served.full.set(false);
    served.volume.checkpoint().unwrap();
    assert_read(&served.disk.open(), "file", &all);
}

#[test]
fn what_the_journal_has_is_not_called_lost_when_the_volume_is_unmounted() {
    let served = Served::new();
    let (_, handle) = served.make("file");
    let told = [pattern(LEN, 1), served.tell(handle, LEN)].concat();
    served.full.set(true);
    let (finished, log) = logged(|| served.fs.finish());
    finished.unwrap_err();
    assert!(log.contains("the journal has it"), "{log}");
    assert!(!log.contains("lost"), "{log}");
    let Served { disk, fs, volume, .. } = served;
    drop((fs, volume));
    assert_read(&disk.open(), "file", &told);
    // What nobody synced is.
    let served = Served::new();
    let (_, handle) = served.make("file");
    served.write(handle, LEN, &pattern(300, 4));
    served.full.copies();
    served.full.set(true);
    let (finished, log) = logged(|| served.fs.finish());
    finished.unwrap_err();
    assert!(log.contains("changes were lost"), "{log}");
}

#[test]
fn a_crowded_journal_without_room_is_told_once_and_held_against_nobody_who_adds_nothing() {
    let served = Served::soon_crowded();
    let names: Vec<String> = (0..14).map(|number| format!("{number}")).collect();
    let files: Vec<_> = names.iter().map(|name| served.make(name)).collect();
    let tries = || served.volume.figures().checkpoints;
    let count = |log: &str, what: &str| log.matches(what).count();
    served.volume.checkpoint().unwrap();
    for len in [LEN, LEN + 300] {
        let crowd = || files.iter().for_each(|(_, handle)| drop(served.tell(*handle, len)));
        served.full.set(true);
        let before = tries();
        let ((), log) = logged(crowd);
        assert!(tries() > before + 1, "whoever adds something tries again");
        assert_eq!(count(&log, "the journal is crowded"), 1, "{log}");
        let left = count(&log, "changes stay in the journal");
        assert!((10..=files.len()).contains(&left), "{left}: {log}");
        let before = tries();
        let fs = &served.fs;
        for flags in [OpenFlags::READ, OpenFlags::WRITE] {
            fs.release(fs.open(files[0].0, flags).unwrap()).unwrap();
        }
        fs.mkdir(InodeId::ROOT, b"dir", 0o755, ME).unwrap();
        fs.rmdir(InodeId::ROOT, b"dir").unwrap();
        fs.setattr(files[0].0, &Change::of(SetAttr::default())).unwrap();
        assert_eq!(tries(), before, "what adds nothing waits for nothing");
        served.full.set(false);
        let ((), log) = logged(|| served.write(files[0].1, 0, b"again"));
        assert_eq!(tries(), before + 1);
        assert_eq!(log, "");
    }
}

/// Cuts of a durable file, of which the journal was told a part, that find no room: the file is as
/// it was, for those who have it open and after the next mount, and nothing is in anybody's way.
#[test]
fn a_cut_that_finds_no_room_is_not_made() {
    for (size, more) in [(0, 300), (0, 3 << 20), (20_000, 300), (20_000, 3 << 20), (90_000, 300)] {
        for is_open in [false, true] {
            let served = Served::new();
            let (ino, handle) = served.make("file");
            let mut wanted = [pattern(LEN, 1), served.tell(handle, LEN)].concat();
            let handle = if is_open {
                // Nobody but memory has this.
                wanted[7..1007].copy_from_slice(&pattern(1000, 6));
                served.write(handle, 7, &wanted[7..1007]);
                handle
            } else {
                served.fs.release(handle).unwrap();
                served.volume.checkpoint().unwrap();
                served.fs.open(ino, OpenFlags::WRITE).unwrap()
            };
            served.full.copies();
            served.full.set(true);
            let label = format!("to {size}, {more} more, {is_open}");
            let error = served.fs.setattr(ino, &Change::size(size)).unwrap_err();
            assert_eq!(error.errno(), libc::ENOSPC, "{label}");
            assert_eq!(served.fs.getattr(ino).unwrap().stat.size, wanted.len() as u64, "{label}");
            assert_read(&served.volume, "file", &wanted);
            served.full.set(false);
            let more = pattern(more, 5);
            served.write(handle, wanted.len(), &more);
            wanted.extend_from_slice(&more);
            served.volume.checkpoint().unwrap();
            assert_read(&served.volume, "file", &wanted);
            served.fs.release(handle).unwrap();
            let Served { disk, fs, volume, .. } = served;
            fs.finish().unwrap();
            drop((fs, volume));
            assert_read(&disk.open(), "file", &wanted);
        }
    }
}

/// A file that was cut to nothing and has more than goes into the journal, while the disk is full:
/// the write is refused, and the file is none that keeps checkpoints from ending.
#[test]
fn a_file_cut_to_nothing_takes_what_is_written_once_there_is_room() {
    let served = Served::new();
    let (ino, handle) = served.make("file");
    served.fs.setattr(ino, &Change::size(0)).unwrap();
    let content = pattern(3 << 20, 5);
    served.write(handle, 0, &content[..2 << 20]);
    served.full.copies();
    served.full.set(true);
    let part = &content[2 << 20..];
    let refused = served.fs.write(handle, 2 << 20, part, Privileges::Keep).unwrap_err();
    assert_eq!(refused.errno(), libc::ENOSPC);
    assert_read(&served.volume, "file", &content[..2 << 20]);
    served.volume.checkpoint().unwrap_err();
    served.full.set(false);
    served.write(handle, 2 << 20, part);
    served.fs.fsync(handle, Sync::Data).unwrap();
    served.volume.checkpoint().unwrap();
    assert_read(&served.disk.open(), "file", &content);
}

/// On a disk that gives a node its place only when it is stored, the last blocks make room for it.
#[test]
fn a_new_file_whose_nodes_find_no_room_keeps_its_beginning() {
    let served = Served::new();
    let made = served.fs.create(InodeId::ROOT, b"file", 0o644, OpenFlags::WRITE, ME);
    let (attr, handle) = made.unwrap();
    let content = pattern(300 * BLOCK, 5);
    served.write(handle, 0, &content);
    served.full.refuse_nodes(true);
    served.fs.flush(handle).unwrap_err();
    let (closed, log) = logged(|| served.fs.release(handle));
    closed.unwrap();
    assert!(log.contains("without what did not fit"), "{log}");
    served.full.refuse_nodes(false);
    let len = usize::try_from(served.fs.getattr(attr.ino).unwrap().stat.size).unwrap();
    assert_eq!(len, 128 * BLOCK, "as many as the header has tags of");
    assert_read(&served.volume, "file", &content[..len]);
    served.volume.checkpoint().unwrap();
    assert_read(&served.disk.open(), "file", &content[..len]);
}

#[test]
fn a_file_that_can_not_be_made_is_no_loss() {
    let served = Served::new();
    served.full.copies();
    served.full.set(true);
    let make = || served.fs.create(InodeId::ROOT, b"file", 0o644, OpenFlags::WRITE, ME);
    let (made, log) = logged(make);
    assert_eq!(made.unwrap_err().errno(), libc::ENOSPC);
    assert!(!log.contains("lost") && !log.contains("write it again"), "{log}");
    served.full.set(false);
    make().unwrap();
}
