//! Reading a volume that another process may be writing: what is found is a committed state, and
//! what a writer is in the middle of is looked at again. [LOCK.md](../store/LOCK.md) tells what is
//! promised.
//!
//! A writer changes a stored file in place, blocks before nodes before the header, and a checkpoint
//! of a journal in the order of their places. So what does not open may be half of a change: the
//! header is read anew then, and what was known of the file forgotten if it is another. It is
//! damage if it stays so, which takes a moment where nobody writes.

use std::num::NonZero;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::cipher::Plain;
use crate::file::content::{File, Slice};
use crate::file::dir::Dir;
use crate::file::error::{Damage, FileError, Spot, hushed, is_hushed};
use crate::file::open::{self, Loaded};
use crate::file::stat::Stat;
use crate::file::volume::{Volume, lock};
use crate::format::bytes::to_usize;
use crate::format::geometry::PAGE_BYTES;
use crate::format::header;
use crate::format::node::Entry;
use crate::limits::{READ_BESIDE_PAUSE, READ_BESIDE_WAIT};
use crate::store::{Blob, DiskBlob, Writers};

/// Damaged files that are remembered, so that nobody waits for one twice.
const HOPELESS_MAX: NonZero<usize> = NonZero::new(1024).expect("not zero");
/// How long a header may look damaged beside a writer, which writes it by one call.
const HEADER_WAIT: Duration = Duration::from_secs(1);
/// How long it counts that nobody writes: a writer that begins takes longer to get to its first
/// write, and a listing of many files asks once.
const QUIET_FOR: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Looks at a directory's marker, which its removal takes away first.
const DIR_LOOKS: u32 = 3;

/// Files in which something stayed damaged, with the header that they had.
#[derive(Debug)]
pub(in crate::file) struct Hopeless(Mutex<LruCache<u64, Entry>>);

impl Default for Hopeless {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(HOPELESS_MAX)))
    }
}

impl Hopeless {
    fn has(&self, ino: u64, header: Option<Entry>) -> bool {
        header.is_some() && lock(&self.0).peek(&ino).copied() == header
    }

    fn add(&self, ino: u64, header: Option<Entry>) {
        if let Some(header) = header {
            lock(&self.0).put(ino, header);
        }
    }
}

/// When it was last seen that nobody writes.
#[derive(Debug, Default)]
pub(in crate::file) struct Quiet(Mutex<Option<Instant>>);

impl Quiet {
    /// Whether nobody writes, as was seen within [`QUIET_FOR`].
    fn is_so(&self, writers: &Writers) -> bool {
        let mut seen = lock(&self.0);
        if seen.is_some_and(|seen| seen.elapsed() < QUIET_FOR) {
            return true;
        }
        let now = Instant::now();
        *seen = writers.have_left().then_some(now);
        seen.is_some()
    }
}

/// How long it is worth to look again: once if nobody writes, else as long as a commit takes.
struct Patience<'a> {
    writers: &'a Writers,
    until: Instant,
    pause: Duration,
    looked: bool,
    last: bool,
}

impl<'a> Patience<'a> {
    fn new(writers: &'a Writers, wait: Duration) -> Self {
        let until = Instant::now() + wait;
        Self { writers, until, pause: FIRST_PAUSE, looked: false, last: false }
    }

    /// Waits, and says whether to look again.
    fn again(&mut self) -> bool {
        if !std::mem::replace(&mut self.looked, true) {
            return true;
        }
        if self.last {
            return false;
        }
        if Instant::now() >= self.until || !self.writers.may_be_there() {
            // What a writer did last before it left is complete.
            self.last = true;
            return true;
        }
        std::thread::sleep(self.pause);
        self.pause = (2 * self.pause).min(READ_BESIDE_PAUSE);
        true
    }
}

impl Volume {
    /// Counts damage, unless somebody looks again.
    pub(in crate::file) fn count_damage(&self) {
        if !is_hushed() {
            self.counters.damages.add(1);
        }
    }

    fn stays(&self, damage: Damage) -> FileError {
        self.counters.damages.add(1);
        damage.tell();
        FileError::Damaged(damage)
    }

    /// Does something that opens a file, again and again while it finds a header that a writer may
    /// be in the middle of writing.
    pub(in crate::file) fn patiently<T>(
        &self,
        mut work: impl FnMut() -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let mut patience = Patience::new(&self.writers, HEADER_WAIT);
        loop {
            match hushed(&mut work) {
                Err(FileError::Damaged(damage)) if !patience.again() => {
                    return Err(self.stays(damage));
                }
                Err(FileError::Damaged(_)) => {}
                done => return done,
            }
        }
    }
}

impl File {
    /// The same for what this file's state leads to, which is read anew in between.
    pub(in crate::file) fn patiently<T>(
        &self,
        mut work: impl FnMut() -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let (volume, ino) = (self.volume(), self.ino());
        let mut patience = Patience::new(&volume.writers, READ_BESIDE_WAIT);
        loop {
            let damage = match hushed(&mut work) {
                Err(FileError::Damaged(damage)) => damage,
                done => return done,
            };
            let header = self.state_anyway().loaded;
            patience.last |= volume.hopeless.has(ino, Some(header));
            if !patience.again() {
                volume.hopeless.add(ino, Some(header));
                return Err(volume.stays(damage));
            }
            match hushed(|| self.refresh()) {
                Ok(()) | Err(FileError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// [`File::read`] beside a writer: all at once, or else block by block, each as it is committed
    /// when its turn comes.
    pub(in crate::file) fn read_beside(&self, offset: u64, len: usize) -> Result<Slice, FileError> {
        match hushed(|| self.read_once(offset, len)) {
            Err(FileError::Damaged(_)) => {}
            done => return done,
        }
        let len = to_usize(self.len().saturating_sub(offset).min(len as u64));
        let mut plain = Plain::zeros(len);
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let size = self.state_anyway().prefix.block_size.bytes();
            let part = (len - done).min(to_usize(size - at % size));
            let read = self.patiently(|| self.read_once(at, part))?;
            plain[done..done + read.len()].copy_from_slice(&read);
            done += read.len();
            if read.len() < part {
                // It was cut meanwhile.
                plain.resize(done);
                break;
            }
        }
        Ok(Slice::whole(plain))
    }

    /// Reads the header anew, and takes its state if it is another. What was known of the file goes
    /// then: nodes, and blocks in the cache. Does nothing where only this process writes.
    ///
    /// # Errors
    /// [`FileError::Damaged`] if the header does not open, perhaps for the moment; or the store's.
    pub(in crate::file) fn refresh(&self) -> Result<(), FileError> {
        let volume = self.volume();
        if !volume.read_only() {
            return Ok(());
        }
        // Under the lock from before the header is read, so that no older one follows a newer.
        let mut state = self.state_mut()?;
        let blob = DiskBlob::reopen(&state.blob)?;
        let mut page = [0; PAGE_BYTES];
        let len = blob.read_at(0, &mut page)?;
        let same = header::decode(&page[..len]).is_ok_and(|(prefix, entry)| {
            entry == state.loaded && prefix.wrapped_key == state.prefix.wrapped_key
        });
        if same {
            return Ok(());
        }
        match open::load(volume, blob, self.ino(), false)? {
            Loaded::Whole(found) | Loaded::Blank(found) => {
                let known = &mut *state;
                let same_file = found.prefix.file_id == known.prefix.file_id;
                if same_file && found.generation < known.generation {
                    let (now, before) = (found.generation, known.generation);
                    let what = format!("generation {now} after {before} was read: put back");
                    return Err(FileError::damaged(Spot::of(self.ino(), &known.blob), what));
                }
                *known = *found;
            }
            Loaded::Mended => return Err(FileError::Stale),
        }
        self.forget_all();
        Ok(())
    }

    /// The same, where what was known will do.
    pub fn look_again(&self) {
        if let Err(error) = hushed(|| self.refresh()) {
            tracing::debug!(ino = self.ino(), %error, "looked at as it was known");
        }
    }

    /// Which committed state of which file is known: no two have the same.
    pub fn known_state(&self) -> [u8; 28] {
        let Entry { nonce, tag } = self.state_anyway().loaded;
        let mut known = [0; 28];
        known[..nonce.len()].copy_from_slice(&nonce);
        known[nonce.len()..].copy_from_slice(&tag);
        known
    }
}

impl Dir {
    /// The size that the header tells: a writer lengthens a stored file before it commits.
    pub(in crate::file) fn put_committed_size(&self, object: &[u8], stat: &mut Stat) {
        let volume = self.volume();
        if volume.opened(stat.ino).is_some() {
            // Its own state was looked at.
            return;
        }
        if volume.quiet.is_so(&volume.writers) {
            return;
        }
        let loaded = hushed(|| {
            let blob = self.lower().open_file(object, false)?;
            open::load(volume, blob, stat.ino, false)
        });
        // What can't be read is shown as the disk says.
        if let Ok(Loaded::Whole(state)) = loaded {
            stat.size = state.length;
        }
    }

    /// Opens a directory that may be going.
    pub(in crate::file) fn open_dir_beside(&self, object: &[u8]) -> Result<Self, FileError> {
        let volume = self.volume();
        let mut pause = FIRST_PAUSE;
        for left in (0..DIR_LOOKS).rev() {
            let lower = self.lower().open_dir(object)?;
            match hushed(|| Self::open(volume, lower, None)) {
                Err(FileError::Damaged(damage)) if left == 0 => return Err(volume.stays(damage)),
                Err(FileError::Damaged(_)) => std::thread::sleep(pause),
                done => return done,
            }
            pause *= 8;
        }
        Err(FileError::Stale)
    }
}
