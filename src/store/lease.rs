//! The lease of the process that has a volume open for writing: it renews what `STORE/lock` says
//! of it, and knows when it may not write any more. [LOCK.md](LOCK.md) tells why.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::limits::LEASE_STALE;
use crate::store::claim::{BEAT_AT, Boot, Claim, Found, Holder, digits, encode, new_token};
use crate::store::is_full;
use crate::store::layout::LOCK_NAME;
use crate::store::shared::may_be_shared;

/// The first renewal comes after this part of an interval: where two nodes took a lock that was
/// free in the same moment, one of them learns of it then. Something that is no claim counts as
/// somebody else's if it is there as long: a look may meet a write that is under way.
const FIRST_PART: u32 = 10;
/// Why a holder may not write now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseError {
    /// Somebody else has the volume, for good.
    Lost,
    /// It could not be renewed for a while, so that somebody else may have taken it.
    Unrenewed(Errno),
}

/// Bytes of the thread's stack, which are locked in memory where all is.
const STACK_LEN: usize = 256 << 10;

#[derive(Debug, Default)]
struct Told {
    holder: Holder,
    beat: u64,
    /// Whether the lock file has said so: on a full disk it may never have.
    written: bool,
    /// Token of the dead holder whose claim is there still, as this one could not be written yet.
    before: Option<String>,
    /// Since when no claim at all was found, ms.
    odd_since: Option<u64>,
    ended: bool,
}

impl Told {
    /// Whether it is the claim of the holder before, which nothing was written over.
    fn is_of_before(&self, claim: &Claim) -> bool {
        !self.written && self.before.as_ref() == Some(&claim.token)
    }
}

#[derive(Debug)]
struct Inner {
    root: OwnedFd,
    store: PathBuf,
    interval: Duration,
    /// Whether what is written has to get to a server to be seen by others.
    shared: bool,
    token: String,
    told: Mutex<Told>,
    wake: Condvar,
    lost: OnceLock<()>,
    /// It is renewed no more, and whoever comes next may have the volume.
    ended: AtomicBool,
    /// Whether a failure was logged that has not ended.
    failing: AtomicBool,
    /// When it was last renewed, ms on a clock that goes on while the machine sleeps.
    renewed_ms: AtomicU64,
}

/// Whether the volume may be written to. Cheap to clone; all copies say the same.
#[derive(Clone, Debug)]
pub struct Standing(Arc<Inner>);

/// A lease that is being renewed, until it is dropped.
#[derive(Debug)]
pub(in crate::store) struct Lease {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

impl Standing {
    /// Fails if somebody else has the volume, or may have it.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub fn check(&self) -> Result<(), LeaseError> {
        let inner = &self.0;
        if inner.lost.get().is_some() || inner.ended.load(Ordering::Acquire) {
            return Err(LeaseError::Lost);
        }
        if !inner.is_stale() {
            return Ok(());
        }
        // The thread did not come to it, as when the machine slept: look before anything is done.
        inner.renew()
    }
}

impl Inner {
    fn told(&self) -> MutexGuard<'_, Told> {
        // A panic elsewhere leaves it consistent: each change of it is whole.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<File, Errno> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, LOCK_NAME, flags, Mode::empty()).map(File::from)
    }

    /// Writes all of the description down.
    fn write_down(&self, file: &File, told: &mut Told) -> std::io::Result<()> {
        let boot = Boot::of(&self.root)?;
        let text = encode(told.beat, &self.token, &boot, self.interval, &told.holder)?;
        file.write_all_at(&text, 0)?;
        file.set_len(text.len() as u64)?;
        self.give(file)?;
        told.written = true;
        Ok(())
    }

    /// Where other nodes look, a server that does not take what was written says so only to who
    /// waits for it: they would see no renewal.
    fn give(&self, file: &File) -> std::io::Result<()> {
        if self.shared { file.sync_data() } else { Ok(()) }
    }

    /// Whether it was renewed so long ago that somebody else may be about to take the volume.
    fn is_stale(&self) -> bool {
        let stale = self.interval.saturating_mul(LEASE_STALE);
        let since = now_ms().saturating_sub(self.renewed_ms.load(Ordering::Acquire));
        u128::from(since) > stale.as_millis()
    }

    /// Whether nobody took the volume in the moment of a late renewal: who saw the one before, and
    /// not this one, writes its own within a moment.
    fn is_own_a_moment_later(&self) -> std::io::Result<bool> {
        std::thread::sleep(self.interval / FIRST_PART);
        let found = Found::read(&self.open()?)?.0;
        Ok(matches!(found, Found::Claimed(claim) if claim.token == self.token))
    }

    /// Looks whether the volume is still this process's, and says so there.
    fn renew(&self) -> Result<(), LeaseError> {
        let mut told = self.told();
        if self.lost.get().is_some() {
            return Err(LeaseError::Lost);
        }
        if told.ended {
            return Ok(());
        }
        match self.renew_told(&mut told) {
            Ok(()) => {
                self.failing.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(LeaseError::Lost) => Err(LeaseError::Lost),
            Err(LeaseError::Unrenewed(error)) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let path = self.store.join(LOCK_NAME);
                    tracing::warn!(
                        "{}: can't renew the lease: {error}; the volume takes no changes until \
                         that works again; see whether the store's disk can be reached (dmesg)",
                        path.display()
                    );
                }
                Err(LeaseError::Unrenewed(error))
            }
        }
    }

    /// The same, once it is nobody else's turn. The file is opened by its name each time: that is
    /// where others look, and opening and closing it is what makes a network filesystem ask and
    /// tell its server.
    fn renew_told(&self, told: &mut Told) -> Result<(), LeaseError> {
        let began = now_ms();
        let file = match self.open() {
            Err(Errno::NOENT) => return Err(self.lose("its lock file was removed")),
            opened => opened.map_err(LeaseError::Unrenewed)?,
        };
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let found = Found::read(&file).map_err(failed).map_err(LeaseError::Unrenewed)?.0;
        told.beat += 1;
        let renewed = match found {
            Found::Claimed(claim) if claim.token == self.token => {
                let beat = digits(told.beat);
                file.write_all_at(beat.as_bytes(), BEAT_AT).and_then(|()| self.give(&file))
            }
            Found::Claimed(claim) if told.is_of_before(&claim) => self.write_down(&file, told),
            // Who took it over and left has cleared it: what this process knows is out of date.
            Found::Nobody if told.written => {
                return Err(self.lose("another has had it meanwhile, and left"));
            }
            Found::Nobody => self.write_down(&file, told),
            Found::Claimed(claim) => {
                return Err(self.lose(&format!("{} has taken it", claim.holder.named())));
            }
            Found::Other(_) => {
                let since = began.saturating_sub(*told.odd_since.get_or_insert(began));
                if u128::from(since) >= (self.interval / FIRST_PART).as_millis() {
                    return Err(self.lose("its lock file is somebody else's"));
                }
                return Err(LeaseError::Unrenewed(Errno::AGAIN));
            }
        };
        told.odd_since = None;
        match renewed.map_err(failed) {
            Ok(()) => {
                let late = self.shared && self.is_stale();
                let own = if late { self.is_own_a_moment_later() } else { Ok(true) };
                if !own.map_err(failed).map_err(LeaseError::Unrenewed)? {
                    return Err(self.lose("another was taking it when it was renewed, late"));
                }
                self.renewed_ms.store(began, Ordering::Release);
            }
            // Nobody has taken it until this moment, and a full disk must not keep anybody from
            // making room. `check` looks each time, from when it is stale.
            Err(error) if is_full(error) => {}
            Err(error) => return Err(LeaseError::Unrenewed(error)),
        }
        Ok(())
    }

    fn lose(&self, what: &str) -> LeaseError {
        if self.lost.set(()).is_ok() {
            tracing::error!(
                "{}: this process has lost the volume: {what}; nothing is written any more, and \
                 what was not written is lost: unmount it here, and see that only one node has it",
                self.store.display()
            );
        }
        LeaseError::Lost
    }

    /// What the thread does.
    fn go_on(&self) {
        let mut wait = self.interval / FIRST_PART;
        loop {
            let waited = self.wake.wait_timeout_while(self.told(), wait, |told| !told.ended);
            if waited.unwrap_or_else(PoisonError::into_inner).0.ended {
                return;
            }
            match self.renew() {
                Err(LeaseError::Lost) => return,
                // Soon again, so that a write that is under way elsewhere is not taken for more.
                Err(LeaseError::Unrenewed(_)) => wait = self.interval / FIRST_PART,
                Ok(()) => wait = self.interval,
            }
        }
    }
}

impl Lease {
    /// Says who has the volume, and goes on saying so.
    pub(in crate::store) fn start(
        root: OwnedFd,
        store: PathBuf,
        interval: Duration,
        holder: &Holder,
    ) -> std::io::Result<Self> {
        let shared = may_be_shared(&root);
        let inner = Arc::new(Inner {
            root,
            store,
            interval,
            shared,
            token: new_token(),
            told: Mutex::new(Told { holder: holder.clone(), ..Told::default() }),
            wake: Condvar::new(),
            lost: OnceLock::new(),
            ended: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            renewed_ms: AtomicU64::new(now_ms()),
        });
        let mut lease = Self { inner, thread: None };
        lease.write_all_down()?;
        let renewed = Arc::clone(&lease.inner);
        let thread = std::thread::Builder::new().name("cmkfs-lease".into()).stack_size(STACK_LEN);
        lease.thread = Some(thread.spawn(move || renewed.go_on())?);
        Ok(lease)
    }

    /// Says something else of the holder, unless the volume is another's by now: then whatever is
    /// written to it fails.
    pub(in crate::store) fn tell(&self, holder: &Holder) -> std::io::Result<()> {
        self.inner.told().holder = holder.clone();
        match self.inner.renew() {
            Err(LeaseError::Lost) => Ok(()),
            // What is there may be another's that is being written.
            Err(LeaseError::Unrenewed(error)) => Err(error.into()),
            Ok(()) => self.write_all_down(),
        }
    }

    fn write_all_down(&self) -> std::io::Result<()> {
        let mut told = self.inner.told();
        let file = self.inner.open()?;
        match self.inner.write_down(&file, &mut told) {
            // The lock holds without its text, and a store on a full disk can still be terminated.
            Err(error) if Errno::from_io_error(&error).is_some_and(is_full) => {
                let path = self.inner.store.join(LOCK_NAME);
                tracing::warn!("{}: {error}: not told who has it", path.display());
                if let (false, Found::Claimed(claim)) = (told.written, Found::read(&file)?.0) {
                    told.before = Some(claim.token);
                }
                Ok(())
            }
            told => told,
        }
    }

    /// Whether the lock file says what this lease wrote.
    pub(in crate::store) fn stands(&self) -> std::io::Result<Result<(), Found>> {
        let found = Found::read(&self.inner.open()?)?.0;
        Ok(match &found {
            Found::Claimed(claim) if claim.token == self.inner.token => Ok(()),
            // On a full disk nothing was written.
            Found::Nobody => Ok(()),
            Found::Claimed(claim) if self.inner.told().is_of_before(claim) => Ok(()),
            _ => Err(found),
        })
    }

    pub(in crate::store) fn standing(&self) -> Standing {
        Standing(Arc::clone(&self.inner))
    }

    /// Renews it no more, and says that nobody has the volume. Whoever still has it open may not
    /// write from now on.
    pub(in crate::store) fn end(&mut self) {
        self.inner.ended.store(true, Ordering::Release);
        self.inner.told().ended = true;
        self.inner.wake.notify_all();
        let Some(thread) = self.thread.take() else { return };
        if thread.join().is_err() {
            tracing::error!("the thread that renewed the lease has panicked");
        }
        if self.inner.lost.get().is_some() {
            return;
        }
        let released = self.inner.open().map_err(std::io::Error::from).and_then(|file| {
            match Found::read(&file)?.0 {
                Found::Claimed(claim) if claim.token == self.inner.token => file.set_len(0),
                _ => Ok(()),
            }
        });
        if let Err(error) = released {
            tracing::debug!("{}: {error}: left as it is", self.inner.store.display());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease that could not be written down when it began, in a directory with a lock file.
    fn unwritten(dir: &std::path::Path, before: Option<&str>) -> Inner {
        let told = Told { before: before.map(str::to_owned), ..Told::default() };
        Inner {
            root: File::open(dir).unwrap().into(),
            store: dir.to_owned(),
            interval: Duration::from_secs(10),
            shared: false,
            token: new_token(),
            told: Mutex::new(told),
            wake: Condvar::new(),
            lost: OnceLock::new(),
            ended: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            renewed_ms: AtomicU64::new(now_ms()),
        }
    }

    #[test]
    fn the_claim_of_the_dead_holder_is_written_over_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOCK_NAME), "").unwrap();
        let dead = unwritten(dir.path(), None);
        dead.renew().unwrap();
        let next = unwritten(dir.path(), Some(&dead.token));
        next.renew().unwrap();
        next.renew().unwrap();
        assert_eq!(dead.renew(), Err(LeaseError::Lost));
        // Whoever came meanwhile has it.
        let late = unwritten(dir.path(), Some(&dead.token));
        assert_eq!(late.renew(), Err(LeaseError::Lost));
        next.renew().unwrap();
    }
}
