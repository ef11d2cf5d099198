//! One process has a volume open for writing. The lock is flock(2) on `STORE/lock`, which the
//! kernel gives up when its holder dies; what the file says is a lease for where flock(2) does not
//! reach another node, and tells people who has the volume. [LOCK.md](LOCK.md) tells the whole.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::limits::{LEASE_INTERVAL, LEASE_RENEWALS};
use crate::store::claim::{Found, Holder};
use crate::store::layout::{LOCK_NAME, Store};
use crate::store::lease::{Lease, Standing};
use crate::store::shared::may_be_shared;

/// Looks at a lock that is only held for a moment, before it counts as held: whoever asks whether
/// there is a writer holds it as long as two system calls take.
const TRIES: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_millis(4);
/// Looks during one interval of a lease that is watched.
const LOOKS: u32 = 4;

/// What a process wants the volume for. Whoever only reads takes no lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// To write: excludes every other holder.
    Exclusive,
    /// To have nobody write: excludes writers.
    Shared,
}

/// Why the lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{}", busy(store, holder.as_deref(), *how))]
    Held {
        /// The store.
        store: PathBuf,
        /// Who, if the holder wrote it down.
        holder: Option<Box<Holder>>,
        /// How that is known.
        how: HeldHow,
    },
    /// The system said no.
    #[error("{store}/lock: {error}{}", remedy(error))]
    Sys {
        /// The store.
        store: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
}

/// How it is known that somebody has the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldHow {
    /// By flock(2), by a process of this machine.
    Here,
    /// By flock(2), by another machine, or nobody knows which.
    Elsewhere,
    /// It renews its lease.
    Renewing,
}

fn remedy(error: &std::io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP) => {
            "; wanted a filesystem with locks: NFS mounted with its lock manager or `nolock`, \
             Lustre with `flock` or `localflock`"
        }
        Some(Errno::LOOP | Errno::ISDIR | Errno::AGAIN | Errno::NXIO) => {
            "; wanted a plain file: remove what is there in its place"
        }
        _ => "",
    }
}

fn busy(store: &Path, holder: Option<&Holder>, how: HeldHow) -> String {
    let shown = store.display();
    let Some(holder) = holder else {
        return format!("{shown}: in use by another process; wait for it or end it");
    };
    let mounted = holder.mountpoints.first();
    let mounted = mounted.map(|path| path.display().to_string().escape_debug().to_string());
    let (at, todo) = match (&mounted, how) {
        (Some(at), HeldHow::Here) => {
            (format!(", mounted at {at}"), format!("use it there, or run `cmkfs umount {at}`"))
        }
        (Some(at), _) => (
            format!(", mounted at {at}"),
            format!("use it there, or run `cmkfs umount {at}` on that host"),
        ),
        (None, _) => (String::new(), "wait for it or end it".to_owned()),
    };
    let more = match how {
        HeldHow::Here => String::new(),
        HeldHow::Renewing => "; it renews its lease, so it is alive".to_owned(),
        HeldHow::Elsewhere => format!(
            "; if that host is gone, its lock ends when the file server notices; if it never \
             does, and nobody has the volume, remove {}",
            store.join(LOCK_NAME).display()
        ),
    };
    format!("{shown}: in use by {}{at}; {todo}{more}", holder.named())
}

/// The lock; given up when dropped.
#[derive(Debug)]
pub struct StoreLock {
    /// Dropped before the descriptor, so that nobody else has the volume while it says whose it is.
    lease: Option<Lease>,
    mode: LockMode,
    root: OwnedFd,
    store: PathBuf,
    interval: Duration,
    /// A holder of another machine had it, and seemed dead when it was last looked at.
    taken_over: Option<Instant>,
    /// What the lock file said when it was taken.
    seen: Stamp,
    _flocked: File,
}

/// A lock file at some moment.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    found: Found,
    bytes: Vec<u8>,
    /// Number of its inode, and when that was written to.
    written: (u64, i64, u64),
}

impl Store {
    fn open_lock(&self) -> Result<File, Errno> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let open = |flags| rustix::fs::openat(self.root(), LOCK_NAME, flags, mode).map(File::from);
        match open(flags | OFlags::RDWR | OFlags::CREATE) {
            // A store on a read-only medium can still be locked against this host's processes.
            Err(Errno::ROFS | Errno::ACCESS) => open(flags | OFlags::RDONLY),
            opened => opened,
        }
    }

    fn refused<E: Into<std::io::Error>>(&self) -> impl FnOnce(E) -> LockError + use<E> {
        let store = self.path().to_owned();
        move |error| LockError::Sys { store, error: error.into() }
    }

    /// Takes the lock, waiting at most `patience` for a holder that is about to leave, and as long
    /// as three renewals of its lease for one of another machine.
    ///
    /// # Errors
    /// The holder, if it stays; or the system's.
    pub fn lock(&self, mode: LockMode, patience: Duration) -> Result<StoreLock, LockError> {
        self.lock_renewing(mode, patience, LEASE_INTERVAL)
    }

    /// The same, with a lease that is renewed every `interval`: for tests, which can't wait.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn lock_renewing(
        &self,
        mode: LockMode,
        patience: Duration,
        interval: Duration,
    ) -> Result<StoreLock, LockError> {
        let flocked = self.flocked(mode, patience)?;
        let taken_over = self.see_it_free(interval)?;
        if !self.is_in_place(&flocked)? {
            // Removed while its holder was watched: what was locked is nobody's now.
            return self.lock_renewing(mode, patience, interval);
        }
        self.locked(mode, interval, taken_over, flocked)
    }

    /// Takes the lock to write if nobody has to be waited for, or watched, for that.
    ///
    /// # Errors
    /// Who has it, or may have it; or the system's.
    pub fn lock_unwatched(&self) -> Result<StoreLock, LockError> {
        let flocked = self.flocked(LockMode::Exclusive, Duration::ZERO)?;
        let found = self.look()?.0;
        if found != Found::Nobody && !self.is_had_here(&found) {
            let (store, how) = (self.path().to_owned(), HeldHow::Elsewhere);
            return Err(LockError::Held { store, holder: found.holder(), how });
        }
        self.locked(LockMode::Exclusive, LEASE_INTERVAL, None, flocked)
    }

    fn locked(
        &self,
        mode: LockMode,
        interval: Duration,
        taken_over: Option<Instant>,
        flocked: File,
    ) -> Result<StoreLock, LockError> {
        let root = self.root().try_clone_to_owned().map_err(self.refused())?;
        let (store, seen) = (self.path().to_owned(), self.stamp()?);
        let lease = None;
        Ok(StoreLock { lease, mode, root, store, interval, taken_over, seen, _flocked: flocked })
    }

    /// What the lock file says, and when it was last written: who took the volume and left again
    /// leaves the same words.
    fn stamp(&self) -> Result<Stamp, LockError> {
        let file = self.open_lock().map_err(self.refused())?;
        let stat = rustix::fs::fstat(&file).map_err(self.refused())?;
        let (found, bytes) = Found::read(file).map_err(self.refused())?;
        Ok(Stamp { found, bytes, written: (stat.st_ino, stat.st_mtime, stat.st_mtime_nsec) })
    }

    /// Waits at most `patience` until no process has the lock, as seen by flock(2).
    ///
    /// # Errors
    /// The holder that stays, or the system's.
    pub fn await_unlocked(&self, patience: Duration) -> Result<(), LockError> {
        self.flocked(LockMode::Shared, patience).map(drop)
    }

    fn flocked(&self, mode: LockMode, patience: Duration) -> Result<File, LockError> {
        let until = Instant::now() + patience;
        loop {
            let file = self.open_lock().map_err(self.refused())?;
            let left = until.saturating_duration_since(Instant::now());
            let file = self.flock(file, mode, left)?;
            // It may have been removed since, and another be in its place.
            if self.is_in_place(&file)? {
                return Ok(file);
            }
        }
    }

    fn is_in_place(&self, file: &File) -> Result<bool, LockError> {
        let own = rustix::fs::fstat(file).map_err(self.refused())?;
        let there = self.open_lock().and_then(rustix::fs::fstat).map_err(self.refused())?;
        Ok((own.st_dev, own.st_ino) == (there.st_dev, there.st_ino))
    }

    fn flock(&self, file: File, mode: LockMode, patience: Duration) -> Result<File, LockError> {
        let (now, later) = match mode {
            LockMode::Exclusive => {
                (FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive)
            }
            LockMode::Shared => (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared),
        };
        for left in (0..TRIES).rev() {
            match rustix::fs::flock(&file, now) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK) if left > 0 => std::thread::sleep(TRY_PAUSE),
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(self.refused()(error)),
            }
        }
        if patience.is_zero() {
            return Err(self.held());
        }
        // flock(2) has no time limit, so a thread waits; if it is given up, the descriptor it
        // still holds is closed, and with it a lock that came too late.
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let result = rustix::fs::flock(&file, later).map(|()| file);
            drop(sender.send(result));
        });
        match receiver.recv_timeout(patience) {
            Ok(Ok(file)) => Ok(file),
            Ok(Err(error)) => Err(self.refused()(error)),
            Err(_) => Err(self.held()),
        }
    }

    /// Whether flock(2) tells if who said this lives.
    fn is_had_here(&self, found: &Found) -> bool {
        found.is_from_here(self.root()) || !may_be_shared(&self.root())
    }

    fn held(&self) -> LockError {
        let found = self.look().map_or(Found::Nobody, |(found, _)| found);
        let here = self.is_had_here(&found);
        let how = if here { HeldHow::Here } else { HeldHow::Elsewhere };
        LockError::Held { store: self.path().to_owned(), holder: found.holder(), how }
    }

    fn look(&self) -> Result<(Found, Vec<u8>), LockError> {
        let found = self.open_lock().map_err(std::io::Error::from).and_then(Found::read);
        found.map_err(self.refused())
    }

    /// With the lock at hand: returns when nobody is known to write to the store, and when a
    /// holder was looked at for the last time that may be another machine's.
    fn see_it_free(&self, usual: Duration) -> Result<Option<Instant>, LockError> {
        let (found, bytes) = self.look()?;
        let name = |found: Found| {
            let unknown = || "somebody unknown".to_owned();
            found.holder().map_or_else(unknown, |holder| holder.named())
        };
        if found == Found::Nobody {
            return Ok(None);
        }
        let store = self.path().display();
        if self.is_had_here(&found) {
            tracing::warn!("{store}: taken over from {}, which has ended", name(found));
            return Ok(None);
        }
        let (interval, began) = (found.renews().unwrap_or(usual), Instant::now());
        let mut looked = began;
        while began.elapsed() < interval * LEASE_RENEWALS {
            std::thread::sleep(interval / LOOKS);
            looked = Instant::now();
            let (now, now_bytes) = self.look()?;
            if now == Found::Nobody {
                return Ok(None);
            }
            if now_bytes != bytes {
                let (store, how) = (self.path().to_owned(), HeldHow::Renewing);
                return Err(LockError::Held { store, holder: now.holder(), how });
            }
        }
        let waited = began.elapsed();
        tracing::warn!(
            "{store}: taken over from {}, which did not renew its lease within {waited:.1?}",
            name(found)
        );
        Ok(Some(looked))
    }

    /// With a shared lock that was had a while ago: whether nobody has begun to write since, whom
    /// flock(2) does not keep out.
    ///
    /// # Errors
    /// Who has; or the system's.
    pub fn still_free(&self, lock: &StoreLock) -> Result<(), LockError> {
        let now = self.stamp()?;
        if now == lock.seen {
            return Ok(());
        }
        let (store, how) = (self.path().to_owned(), HeldHow::Renewing);
        Err(LockError::Held { store, holder: now.found.holder(), how })
    }

    /// Who holds the lock now, if that is seen by flock(2), and written down.
    pub fn holder(&self) -> Option<Holder> {
        self.held_by(|_| true)
    }

    /// The same, or who may hold it on another machine, dead or alive.
    pub fn claimant(&self) -> Option<Holder> {
        self.held_by(|found| self.is_had_here(found))
    }

    /// `ended` tells whether a holder without a lock is none.
    fn held_by(&self, ended: impl Fn(&Found) -> bool) -> Option<Holder> {
        let file = self.open_lock().ok()?;
        let is_free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
        let found = Found::read(&file).ok()?.0;
        if is_free && ended(&found) {
            return None;
        }
        found.holder().map(|holder| *holder)
    }

    /// To ask whether somebody writes to the store.
    ///
    /// # Errors
    /// The system's, out of descriptors.
    pub fn writers(&self) -> std::io::Result<Writers> {
        Ok(Writers(self.root().try_clone_to_owned()?))
    }
}

/// Tells whether somebody writes to a store.
#[derive(Debug)]
pub struct Writers(OwnedFd);

/// Who writes to a store, as far as can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Nobody, and who did before has left in good order.
    Nobody,
    /// Nobody any more.
    Dead,
    /// Somebody, or a holder of another machine that may live.
    Somebody,
}

impl Writers {
    /// Whether there may be a writer. A dead one of this machine is none; one of another machine is
    /// one, dead or not, until somebody takes the volume over.
    pub fn may_be_there(&self) -> bool {
        self.look() == Seen::Somebody
    }

    /// Whether nobody writes, and everything that was written is committed.
    pub fn have_left(&self) -> bool {
        self.look() == Seen::Nobody
    }

    fn look(&self) -> Seen {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0, LOCK_NAME, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Seen::Nobody,
            Err(_) => return Seen::Somebody,
        };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
            return Seen::Somebody;
        }
        match Found::read(&file) {
            Ok((Found::Nobody, _)) => Seen::Nobody,
            Ok((found, _)) if found.is_from_here(&self.0) || !may_be_shared(&self.0) => Seen::Dead,
            _ => Seen::Somebody,
        }
    }
}

impl StoreLock {
    /// Writes down who holds the lock, and renews that from now on. Only the holder of an exclusive
    /// one does: others would write over each other.
    ///
    /// # Errors
    /// Another machine that took the volume over in the same moment; or the system's.
    pub fn describe(&mut self, holder: &Holder) -> Result<(), LockError> {
        let store = self.store.clone();
        let sys = |error| LockError::Sys { store: store.clone(), error };
        if self.mode == LockMode::Shared {
            return Ok(());
        }
        if let Some(lease) = &self.lease {
            return lease.tell(holder).map_err(sys);
        }
        let root = self.root.as_fd().try_clone_to_owned().map_err(sys)?;
        let lease = Lease::start(root, self.store.clone(), self.interval, holder).map_err(sys)?;
        let lease = self.lease.insert(lease);
        if let Some(looked) = self.taken_over {
            let moment = self.interval / LOOKS;
            // Another may have watched the same holder: who wrote last has it. One that was quicker
            // by more than a moment has begun to write, until it renews its lease.
            let is_late = looked.elapsed() > moment;
            std::thread::sleep(if is_late { self.interval + moment } else { moment });
            if let Err(found) = lease.stands().map_err(sys)? {
                let (holder, how) = (found.holder(), HeldHow::Renewing);
                return Err(LockError::Held { store, holder, how });
            }
        }
        Ok(())
    }

    /// Whether the volume may be written to; `None` if nothing was described.
    pub fn standing(&self) -> Option<Standing> {
        self.lease.as_ref().map(Lease::standing)
    }

    /// Renews the lease no more, and clears it: before the lock file is removed with its store.
    pub fn end_lease(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.end();
        }
    }
}
