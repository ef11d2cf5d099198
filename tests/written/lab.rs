//! A volume whose files the journal is told of, and its store as a crash leaves it.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cmkfs::file::{Access, Dir, Durability, File, FileError, Volume, VolumeOptions};
use cmkfs::format::journal::{self, FRAME_LEN, HEAD_LEN, RecordKind};
use cmkfs::store::{Store, Watch};

use crate::volume::{ME, Throwaway};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 16 << 10;
/// The write that the tests are about: bytes of it, and where it goes.
pub(crate) const PART: (usize, usize) = (4096, 20_000);

pub(crate) fn options() -> VolumeOptions {
    VolumeOptions { threads: NonZero::new(1), ..VolumeOptions::default() }
}

pub(crate) fn pattern(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|at| ((at * usize::from(2 * fill + 1)) % 251) as u8 ^ fill).collect()
}

/// Kinds and lengths of the records that the segments hold.
pub(crate) fn records(store: &Path) -> Vec<(RecordKind, usize)> {
    let mut found = Vec::new();
    for segment in ["journal/0", "journal/1"] {
        let (mut bytes, mut at) = (fs::read(store.join(segment)).unwrap(), HEAD_LEN);
        if journal::decode_head(&bytes).is_none() {
            bytes.clear();
        }
        for sequence in 0.. {
            let frame = bytes.get(at..).and_then(<[u8]>::first_chunk);
            let claim = frame.and_then(journal::decode_frame).map(|(claim, _)| claim);
            let Some(claim) = claim.filter(|claim| claim.sequence == sequence) else { break };
            found.push((claim.kind, FRAME_LEN + claim.body_len as usize));
            at += found[found.len() - 1].1;
        }
    }
    found
}

/// A volume at work.
pub(crate) struct Lab {
    pub(crate) disk: Throwaway,
    pub(crate) volume: Arc<Volume>,
    pub(crate) root: Dir,
}

/// A copy of its store, as a crash leaves it.
pub(crate) struct Crashed<'a> {
    pub(crate) disk: &'a Throwaway,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn copy(store: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut cp = Command::new("cp");
    assert!(cp.arg("-a").arg(store.join(".")).arg(dir.path()).status().unwrap().success());
    dir
}

impl Lab {
    pub(crate) fn new() -> Self {
        let disk = Throwaway::new(BLOCK as u64);
        let volume = disk.open_with(&options());
        Self { root: volume.root().unwrap(), volume, disk }
    }

    /// The same on a disk that is watched.
    pub(crate) fn watched(watch: Arc<dyn Watch>) -> Self {
        let disk = Throwaway::new(BLOCK as u64);
        let volume = disk.open_watched(watch, &options()).unwrap();
        Self { root: volume.root().unwrap(), volume, disk }
    }

    /// A file that is durable.
    pub(crate) fn make(&self, name: &str, content: &[u8]) -> Arc<File> {
        let (file, _) = self.root.create_file(name.as_bytes(), ME, 0o644).unwrap();
        file.write(0, content).unwrap();
        file.sync(true).unwrap();
        file
    }

    /// The same, and [`PART`] written over and synced, of which the journal has been told.
    pub(crate) fn make_told(&self, name: &str) -> (Arc<File>, Vec<u8>) {
        let mut content = pattern(100_000, 1);
        let file = self.make(name, &content);
        let part = pattern(PART.0, 2);
        file.write(PART.1 as u64, &part).unwrap();
        file.sync(true).unwrap();
        content[PART.1..PART.1 + PART.0].copy_from_slice(&part);
        assert_eq!(records(self.disk.path()).last().unwrap().0, RecordKind::Written);
        (file, content)
    }

    pub(crate) fn crash(&self) -> Crashed<'_> {
        Crashed { disk: &self.disk, dir: copy(self.disk.path()) }
    }
}

impl Crashed<'_> {
    /// One more, which is as this is now.
    pub(crate) fn again(&self) -> Self {
        Self { disk: self.disk, dir: copy(self.path()) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn open(&self) -> Arc<Volume> {
        self.open_with(&options())
    }

    pub(crate) fn open_with(&self, options: &VolumeOptions) -> Arc<Volume> {
        self.disk.open_at(self.path(), options)
    }

    /// Opens it on a disk that is watched.
    pub(crate) fn open_watched(
        &self,
        watch: Arc<dyn Watch>,
        durability: Durability,
    ) -> Result<Arc<Volume>, FileError> {
        let store = Store::open_watched(self.path(), watch).unwrap();
        self.disk.open_store(&store, &VolumeOptions { durability, ..options() })
    }
}

pub(crate) fn read(volume: &Arc<Volume>, name: &str) -> Result<Vec<u8>, FileError> {
    let file = volume.root()?.open_file(name.as_bytes(), Access::Read)?;
    Ok(file.read(0, 1 << 26)?.to_vec())
}

#[track_caller]
pub(crate) fn assert_read(volume: &Arc<Volume>, name: &str, wanted: &[u8]) {
    let found = read(volume, name);
    assert!(found.as_deref() == Ok(wanted), "{name}: {:?}", found.map(|found| found.len()));
}
