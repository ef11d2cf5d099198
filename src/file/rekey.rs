//! Bringing all files of a volume under the keys of its current epoch, while it is in use.
//!
//! The walk looks at the clear part of each header, and opens only files of an earlier epoch: by
//! the one open file of the inode, whoever else has it open, so that what is written meanwhile and
//! what is done here are commits of one file, one after the other. It looks at files that are open
//! and have no name too. A file that is moved to where the walk was already is met by the next
//! pass: passes go on until one finds nothing to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::file::content::File;
use crate::file::error::FileError;
use crate::file::find;
use crate::file::volume::{Volume, lock};
use crate::format::descriptor::Work;
use crate::format::directory::MARKER_NAME;
use crate::format::geometry::PAGE_LEN;
use crate::format::header::{self, PREFIX_BYTES, TWO_KEYS_PAYLOAD_LEN};
use crate::format::ids::Epoch;
use crate::store::{Blob, DiskBlob, StoreDir, is_dot};

/// Ends the name of a file that is no object.
const SIDECAR: &[u8] = b".name";
/// Longest wait between two looks at whether to go on.
const PACE: Duration = Duration::from_millis(50);
/// Passes over a tree in which something is always moved away from the walk.
const PASSES_MAX: u32 = 64;

/// What is to be done to files of earlier epochs, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekey {
    /// What.
    pub work: Work,
    /// Bytes of headers and data written a second, at most; `None`: as fast as it goes.
    pub bytes_per_s: Option<u64>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekeyed {
    /// Files that were looked at, in this pass.
    pub seen: u64,
    /// Files that were brought under the current epoch.
    pub files: u64,
    /// Bytes of their headers and data that were written for it.
    pub bytes: u64,
    /// Files that can't be read, which stay as they are.
    pub damaged: u64,
    /// Passes that were begun.
    pub passes: u32,
    /// Whether a pass came to its end and found nothing to do.
    pub finished: bool,
    /// Damaged files of which a part is under a new key and the rest under the former one.
    pub halves: u64,
}

/// The walk of a volume, of which there is one at a time.
#[derive(Debug, Default)]
pub(in crate::file) struct Walking {
    running: Mutex<()>,
    stop: AtomicBool,
}

/// One walk.
struct Walk<'a> {
    volume: &'a Arc<Volume>,
    how: &'a Rekey,
    /// Files of earlier epochs than this are to be done.
    below: Epoch,
    done: Rekeyed,
    started: Instant,
    go_on: &'a mut dyn FnMut(&Rekeyed) -> bool,
    /// In this pass something was done, or has gone from under the walk.
    again: bool,
}

/// Why a walk does not go on; `None`: it was told to stop.
type Ended = Option<FileError>;

impl Volume {
    /// Brings the file keys of all files under the current epoch, as `how` says, durably. Asks
    /// `go_on` again and again, and stops where that says no; what is done then is done.
    ///
    /// # Errors
    /// `EBUSY` while another one is at it; the store's. What is done is done.
    pub fn rekey(
        self: &Arc<Self>,
        how: &Rekey,
        go_on: &mut dyn FnMut(&Rekeyed) -> bool,
    ) -> Result<Rekeyed, FileError> {
        let _alone = match self.keyring.walking.running.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(FileError::Sys(Errno::BUSY)),
        };
        self.check_writable()?;
        let (keys, started) = (self.keys(), Instant::now());
        let begun = keys.pending().filter(|pending| pending.work == how.work);
        let below = match how.work {
            Work::Rewrap => keys.current(),
            // Those that were made or re-encrypted since it began have new keys.
            Work::Reencrypt => begun.map_or_else(|| keys.current(), |pending| pending.epoch),
        };
        if how.work == Work::Reencrypt && self.journaled.is_none() {
            // A crash would leave blocks under a key that no header has.
            return Err(FileError::NotSupported);
        }
        let done = Rekeyed::default();
        let mut walk = Walk { volume: self, how, below, done, started, go_on, again: false };
        match walk.run() {
            Err(Some(error)) => Err(error),
            Ok(()) | Err(None) => Ok(walk.done),
        }
    }

    /// Has a walk end, if there is one, and waits for that.
    pub fn stop_rekey(&self) {
        self.keyring.walking.stop.store(true, Ordering::Relaxed);
        drop(lock(&self.keyring.walking.running));
        self.keyring.walking.stop.store(false, Ordering::Relaxed);
    }
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Ended> {
        while !self.done.finished && self.done.passes < PASSES_MAX {
            self.done.passes += 1;
            (self.done.seen, self.again) = (0, false);
            (self.done.damaged, self.done.halves) = (0, 0);
            for file in self.volume.open_files() {
                self.file(&file)?;
            }
            self.tree()?;
            // What is in the journal is not in the headers that the next pass looks at.
            self.volume.checkpoint().map_err(Some)?;
            if self.volume.journaled.is_none() {
                self.volume.sync_disk().map_err(Some)?;
            }
            self.done.finished = !self.again;
        }
        Ok(())
    }

    fn tree(&mut self) -> Result<(), Ended> {
        // By name: one directory may have more in it than this process may have descriptors.
        let mut left: Vec<(StoreDir, Vec<u8>)> = Vec::new();
        let mut next = Some(self.volume.tree().clone());
        while let Some(dir) = next.take() {
            self.directory(&dir, &mut left)?;
            while next.is_none()
                && let Some((parent, name)) = left.pop()
            {
                next = self.there(find::open_dir(&parent, &name))?;
            }
        }
        Ok(())
    }

    /// What was found, if it is there still: what is renamed or removed meanwhile is where it went
    /// in the next pass.
    fn there<T>(&mut self, found: Result<T, FileError>) -> Result<Option<T>, Ended> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(FileError::Sys(
                Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::STALE,
            )) => {
                self.again = true;
                Ok(None)
            }
            Err(error) => Err(Some(error)),
        }
    }

    fn directory(
        &mut self,
        dir: &StoreDir,
        left: &mut Vec<(StoreDir, Vec<u8>)>,
    ) -> Result<(), Ended> {
        let stream = self.volume.reading(dir, StoreDir::stream).map_err(FileError::Sys);
        let Some(mut stream) = self.there(stream)? else { return Ok(()) };
        loop {
            let batch = stream.batch().map_err(FileError::Sys);
            let Some(batch) = self.there(batch)?.filter(|batch| !batch.is_empty()) else {
                return Ok(());
            };
            for entry in batch.into_iter().filter(|entry| !is_dot(&entry.name)) {
                let kind = match entry.kind {
                    // A disk that does not tell in its listings.
                    FileType::Unknown => {
                        let stat = dir.stat(&entry.name).map_err(FileError::Sys);
                        let stat = self.there(stat)?;
                        stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
                    }
                    told => told,
                };
                match kind {
                    FileType::Directory => left.push((dir.clone(), entry.name)),
                    FileType::RegularFile => self.object(dir, &entry.name)?,
                    _ => {}
                }
            }
        }
    }

    fn object(&mut self, dir: &StoreDir, name: &[u8]) -> Result<(), Ended> {
        if name == MARKER_NAME || name.ends_with(SIDECAR) {
            return Ok(());
        }
        let Some(blob) = self.there(find::open(dir, name))? else { return Ok(()) };
        if !self.is_earlier(&blob)? {
            return self.tell();
        }
        let opened = match self.volume.open_blob(blob, true) {
            // It was longer than its header says, and is not any more.
            Err(FileError::Stale) => match self.there(find::open(dir, name))? {
                Some(blob) => self.volume.open_blob(blob, true),
                None => return Ok(()),
            },
            opened => opened,
        };
        match opened {
            Ok(file) => self.file(&file),
            Err(FileError::Damaged(_)) => {
                self.done.damaged += 1;
                Ok(())
            }
            Err(error) => Err(Some(error)),
        }
    }

    /// Whether a stored file says that it is of an earlier epoch: a claim, which is no secret.
    fn is_earlier(&mut self, blob: &DiskBlob) -> Result<bool, Ended> {
        self.done.seen += 1;
        let mut prefix = [0; PREFIX_BYTES];
        let len = blob.read_at(0, &mut prefix).map_err(FileError::Sys).map_err(Some)?;
        match header::decode(&prefix[..len]) {
            // One of this length may be inline instead, and is looked at.
            Ok((prefix, _)) if usize::from(prefix.payload_len) == TWO_KEYS_PAYLOAD_LEN => Ok(true),
            Ok((prefix, _)) => Ok(prefix.epoch < self.below),
            // It gets a header of the current epoch when it gets one.
            Err(_) if len == 0 => Ok(false),
            Err(_) => {
                self.done.damaged += 1;
                Ok(false)
            }
        }
    }

    fn file(&mut self, file: &Arc<File>) -> Result<(), Ended> {
        let mut parts = 0;
        loop {
            let done = {
                let _changing = self.volume.change_content();
                match self.how.work {
                    Work::Rewrap if parts > 0 => Ok(None),
                    Work::Rewrap => file.rewrap().map(|done| done.then_some(0)),
                    Work::Reencrypt => file.reencrypt_part(self.below),
                }
            };
            match done {
                Ok(Some(bytes)) => {
                    self.done.files += u64::from(parts == 0);
                    self.done.bytes += PAGE_LEN + bytes;
                    (self.again, parts) = (true, parts + 1);
                }
                Ok(None) => return self.tell(),
                // It is open to be read alone, and is met by its name, if it has one.
                Err(FileError::Sys(Errno::BADF)) => return self.tell(),
                Err(FileError::Damaged(_) | FileError::Latched) => {
                    self.done.damaged += 1;
                    self.done.halves += u64::from(file.is_under_two_keys());
                    return self.tell();
                }
                Err(error) => return Err(Some(error)),
            }
            self.tell()?;
        }
    }

    /// Goes on, when it is time for it, or not.
    fn tell(&mut self) -> Result<(), Ended> {
        loop {
            if self.volume.keyring.walking.stop.load(Ordering::Relaxed) || !(self.go_on)(&self.done)
            {
                return Err(None);
            }
            let Some(rate) = self.how.bytes_per_s else { return Ok(()) };
            let due = u128::from(self.done.bytes) * 1000 / u128::from(rate.max(1));
            let due = Duration::from_millis(u64::try_from(due).unwrap_or(u64::MAX));
            let early = due.saturating_sub(self.started.elapsed());
            if early.is_zero() {
                return Ok(());
            }
            std::thread::sleep(early.min(PACE));
        }
    }
}
