//! A volume that is being served: its mounts, the commit timer, the control socket.
//!
//! Whoever starts a session hears of its ends and of what is asked over its socket by a channel,
//! and has to call [`Session::finish`] at the end: it commits, and then everything that holds a
//! key is dropped.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::file::{Dir, FileError, Volume};
use crate::fs::Fs;
use crate::fuse::{MountOptions, Mounted, Unmounter};
use crate::lifecycle::control::{Asked, Control};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::mounts;
use crate::lifecycle::open::{self, Opened};
use crate::lifecycle::report::{Report, Shared};
use crate::lifecycle::tree::stored::ensure_dir;
use crate::limits::{COMMIT_INTERVAL, FORGOTTEN_MANY};
use crate::store::StoreLock;
use crate::sys::{Protection, give_back_memory};

/// A directory of the volume and where it is mounted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// Path below the volume's root; empty: the root itself. Made if missing.
    pub subdir: String,
    /// Permission bits of a `subdir` that is made.
    pub mode: u32,
}

/// What a session tells.
#[derive(Debug)]
pub enum Event {
    /// The mount with this index has ended, from wherever it was unmounted.
    Ended(usize),
    /// A request for the one who runs the session.
    Asked(Asked),
}

/// What is served, by whom it was started, and how it ends.
#[derive(Debug)]
pub struct Session {
    volume: Arc<Volume>,
    shared: Arc<Shared>,
    lock: Option<StoreLock>,
    timer: CommitTimer,
    control: Control,
    unmounters: Vec<Unmounter>,
    watchers: Vec<JoinHandle<()>>,
}

impl Session {
    /// Mounts every point, in this order, and confirms each; if one fails, those before it are
    /// unmounted again.
    ///
    /// # Errors
    /// See [`VerbError`]; nothing is mounted then.
    pub fn start<E: From<Event> + Send + 'static>(
        opened: Opened,
        points: &[Point],
        options: &MountOptions,
        protection: Protection,
        events: &Sender<E>,
    ) -> Result<Self, VerbError> {
        let Opened { volume, descriptor, key, store, mut lock, .. } = opened;
        let shared = Arc::new(Shared::new(&volume, &descriptor, key, &store, options, protection));
        let control = Control::start(&shared, events.clone())?;
        let mut mounted: Vec<Mounted> = Vec::new();
        for point in points {
            // A mount that is dropped is taken out of the tree again.
            mounted.push(mount(&volume, point, options)?);
            shared.add_mountpoint(&point.mountpoint);
        }
        if let Some(lock) = &mut lock {
            let socket = Some(control.path().to_owned());
            lock.describe(&open::holder(shared.mountpoints(), socket))?;
        }
        let unmounters = mounted.iter().map(Mounted::unmounter).collect();
        let timer = CommitTimer::start(&volume);
        let watch = |(index, mounted): (usize, Mounted)| {
            let (events, shared) = (events.clone(), Arc::clone(&shared));
            let mountpoint = points[index].mountpoint.clone();
            std::thread::spawn(move || watch(index, mounted, &mountpoint, &shared, &events))
        };
        let watchers = mounted.into_iter().enumerate().map(watch).collect();
        Ok(Self { volume, shared, lock, timer, control, unmounters, watchers })
    }

    /// What `status` shows.
    pub fn report(&self) -> Option<Report> {
        self.shared.report()
    }

    /// Mountpoints that are still served.
    pub fn mountpoints(&self) -> Vec<PathBuf> {
        self.shared.mountpoints()
    }

    /// Everything written so far reaches the store.
    ///
    /// # Errors
    /// Of the first file that failed.
    pub fn commit(&self) -> Result<(), FileError> {
        self.volume.commit_all()
    }

    /// Unmounts a mountpoint; the event of its end follows.
    ///
    /// # Errors
    /// [`VerbError::Busy`] with the processes that use it; not a mountpoint of this session.
    pub fn unmount(&self, mountpoint: &Path) -> Result<(), VerbError> {
        let mut unmounters = self.unmounters.iter();
        let found = unmounters.find(|unmounter| unmounter.path() == mountpoint);
        let found = found.ok_or_else(|| VerbError::NotMounted(mountpoint.to_owned()))?;
        found.unmount().map_err(|error| {
            if error.kind() == std::io::ErrorKind::ResourceBusy {
                let processes = mounts::users_of(mountpoint);
                return VerbError::Busy { path: mountpoint.to_owned(), processes };
            }
            VerbError::local(mountpoint, "can't unmount it")(error)
        })
    }

    /// Takes all mounts out of the tree, those in use too; the events of their ends follow, for
    /// those in use when their last file is closed. Returns what used them.
    pub fn detach_all(&self) -> Vec<String> {
        let mut users = Vec::new();
        for unmounter in self.unmounters.iter().rev() {
            match self.unmount(unmounter.path()) {
                Ok(()) => continue,
                Err(VerbError::Busy { path, processes }) => {
                    tracing::warn!("{}: in use, detached: {processes:?}", path.display());
                    users.extend(processes);
                }
                Err(error) => tracing::warn!("{error}"),
            }
            if let Err(error) = unmounter.detach() {
                tracing::error!("{}: can't detach it: {error}", unmounter.path().display());
            }
        }
        users
    }

    /// The store.
    pub fn store(&self) -> &Path {
        self.shared.store()
    }

    /// Commits for the last time, and drops keys, socket and lock, in this order. The mounts
    /// should have ended; what is still open in one gets errors from now on.
    ///
    /// # Errors
    /// What could not be committed.
    pub fn finish(self) -> Result<(), VerbError> {
        let Self { volume, shared, lock, timer, control, unmounters: _, watchers } = self;
        timer.stop();
        let result = volume.commit_all().map_err(VerbError::file(shared.store()));
        let ended = shared.mountpoints().is_empty();
        if ended {
            volume.let_go();
        }
        drop(control);
        drop(volume);
        if ended {
            for watcher in watchers {
                if watcher.join().is_err() {
                    tracing::error!("a thread that watched a mount has panicked");
                }
            }
        }
        drop(lock);
        result
    }
}

fn mount(
    volume: &Arc<Volume>,
    point: &Point,
    options: &MountOptions,
) -> Result<Mounted, VerbError> {
    let root = volume.root().and_then(|root| enter(root, point));
    let root = root.map_err(VerbError::file(&point.mountpoint))?;
    let fs = Fs::new(Arc::clone(volume), root);
    Ok(crate::fuse::mount(fs, &point.mountpoint, options)?)
}

/// The directory of a point; made if it is missing.
fn enter(root: Dir, point: &Point) -> Result<Dir, FileError> {
    let mut dir = root;
    for name in point.subdir.split('/').filter(|name| !name.is_empty()) {
        dir = ensure_dir(&dir, name.as_bytes(), point.mode)?;
    }
    Ok(dir)
}

fn watch<E: From<Event>>(
    index: usize,
    mounted: Mounted,
    mountpoint: &Path,
    shared: &Shared,
    events: &Sender<E>,
) {
    match mounted.wait() {
        Ok(()) => tracing::info!("{}: unmounted", mountpoint.display()),
        Err(error) => tracing::error!("{}: the mount ended: {error}", mountpoint.display()),
    }
    shared.remove_mountpoint(mountpoint);
    if events.send(Event::Ended(index).into()).is_err() {
        tracing::debug!("{}: nobody waits for its end", mountpoint.display());
    }
}

/// Commits what is open every few seconds.
#[derive(Debug)]
struct CommitTimer {
    stopped: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

/// A flag has no state that a panic could leave half changed.
fn locked(flag: &Mutex<bool>) -> MutexGuard<'_, bool> {
    flag.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CommitTimer {
    fn start(volume: &Arc<Volume>) -> Self {
        let stopped = Arc::new((Mutex::new(false), Condvar::new()));
        let (seen, volume) = (Arc::clone(&stopped), Arc::clone(volume));
        let thread = std::thread::spawn(move || {
            let (flag, changed) = &*seen;
            let mut stopped = locked(flag);
            let mut due = Instant::now() + COMMIT_INTERVAL;
            while !*stopped {
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    drop(stopped);
                    match volume.commit_all() {
                        // It was told when it was lost, or when the file failed.
                        Ok(()) | Err(FileError::Lost | FileError::Latched) => {}
                        Err(error) => tracing::error!("commit by the timer: {error}"),
                    }
                    if volume.take_forgotten(FORGOTTEN_MANY) {
                        give_back_memory();
                    }
                    due = Instant::now() + COMMIT_INTERVAL;
                    stopped = locked(flag);
                } else {
                    let waited = changed.wait_timeout(stopped, left);
                    stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        });
        Self { stopped, thread }
    }

    fn stop(self) {
        *locked(&self.stopped.0) = true;
        self.stopped.1.notify_all();
        if self.thread.join().is_err() {
            tracing::error!("the commit timer has panicked");
        }
    }
}
