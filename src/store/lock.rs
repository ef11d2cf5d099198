//! One process has a volume open for writing. The lock is flock(2) on `STORE/lock`, which the
//! kernel gives up when its holder dies; the file tells people who holds it.

use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::store::layout::{LOCK_NAME, Store};

/// What a process wants the volume for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// To write: excludes every other holder.
    Exclusive,
    /// To read: excludes writers.
    Shared,
}

/// Who holds a lock, for people and for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// Where the volume is mounted, if it is.
    pub mountpoints: Vec<PathBuf>,
    /// Control socket, if there is one.
    pub socket: Option<PathBuf>,
    /// Start of the holder, seconds since 1970 UTC.
    pub started_unix_s: u64,
}

/// Why the lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{}", busy(store, holder))]
    Held {
        /// The store.
        store: PathBuf,
        /// Who, if the holder wrote it down.
        holder: Option<Box<Holder>>,
    },
    /// The system said no.
    #[error("{store}/lock: {error}")]
    Sys {
        /// The store.
        store: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
}

fn busy(store: &std::path::Path, holder: &Option<Box<Holder>>) -> String {
    let store = store.display();
    let Some(holder) = holder else {
        return format!("{store}: in use by another process; wait for it or end it");
    };
    let (pid, host) = (holder.pid, &holder.host);
    match holder.mountpoints.first() {
        Some(at) => format!(
            "{store}: in use by process {pid} on {host}, mounted at {0}; \
             use it there, or run `cmkfs umount {0}`",
            at.display()
        ),
        None => format!("{store}: in use by process {pid} on {host}; wait for it or end it"),
    }
}

/// The lock; given up when dropped.
#[derive(Debug)]
pub struct StoreLock {
    file: std::fs::File,
    mode: LockMode,
}

impl Store {
    fn lock_file(&self) -> std::io::Result<std::fs::File> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let path = self.path().join(LOCK_NAME);
        options.open(&path).or_else(|error| match error.raw_os_error() {
            // A store on a read-only medium can still be locked against this host's processes.
            Some(libc::EROFS | libc::EACCES) => std::fs::File::open(&path),
            _ => Err(error),
        })
    }

    /// Takes the lock, waiting at most `patience` for a holder that is about to leave.
    ///
    /// # Errors
    /// The holder, if it stays; or the system's.
    pub fn lock(&self, mode: LockMode, patience: Duration) -> Result<StoreLock, LockError> {
        let sys = |error| LockError::Sys { store: self.path().to_owned(), error };
        let file = self.lock_file().map_err(sys)?;
        let (now, later) = match mode {
            LockMode::Exclusive => {
                (FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive)
            }
            LockMode::Shared => (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared),
        };
        match rustix::fs::flock(&file, now) {
            Ok(()) => return Ok(StoreLock { file, mode }),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(sys(error.into())),
        }
        // flock(2) has no time limit, so a thread waits; if it is given up, the descriptor it
        // still holds is closed, and with it a lock that came too late.
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let result = rustix::fs::flock(&file, later).map(|()| file);
            drop(sender.send(result));
        });
        match receiver.recv_timeout(patience) {
            Ok(Ok(file)) => Ok(StoreLock { file, mode }),
            Ok(Err(error)) => Err(sys(error.into())),
            Err(_) => {
                let holder = self.holder().map(Box::new);
                Err(LockError::Held { store: self.path().to_owned(), holder })
            }
        }
    }

    /// Who holds the lock now, if somebody does and has written it down.
    pub fn holder(&self) -> Option<Holder> {
        let mut file = self.lock_file().ok()?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return None;
        }
        let mut text = String::new();
        Read::by_ref(&mut file).take(65536).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

impl StoreLock {
    /// Writes down who holds the lock. Only the holder of an exclusive one does: others would
    /// write over each other.
    ///
    /// # Errors
    /// The system's.
    pub fn describe(&mut self, holder: &Holder) -> std::io::Result<()> {
        if self.mode == LockMode::Shared {
            return Ok(());
        }
        let text = serde_json::to_string(holder)?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }
}
