//! A volume that is being served: its mounts, the timers of commits and of its key, the control
//! socket.
//!
//! Whoever starts a session hears of its ends and of what is asked over its socket by a channel,
//! and has to call [`Session::finish`] at the end: it commits, and then everything that holds a
//! key is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::file::{Dir, FileError, Volume};
use crate::fs::Fs;
use crate::fuse::{MountOptions, Mounted, Unmounter};
use crate::lifecycle::control::{Asked, Control};
use crate::lifecycle::custody::Custody;
use crate::lifecycle::error::{VerbError, unopened};
use crate::lifecycle::metrics::{Bound, Server};
use crate::lifecycle::mounts;
use crate::lifecycle::open::{self, Opened};
use crate::lifecycle::report::{Report, Shared};
use crate::lifecycle::timer::Timer;
use crate::lifecycle::tree::stored::ensure_dir;
use crate::limits::{COMMIT_INTERVAL, FORGOTTEN_MANY};
use crate::store::{StoreLock, is_news};
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
    custody: Arc<Custody>,
    shared: Arc<Shared>,
    lock: Option<StoreLock>,
    timers: [Timer; 2],
    control: Control,
    metrics: Option<Server>,
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
        metrics: Option<Bound>,
        protection: Protection,
        events: &Sender<E>,
    ) -> Result<Self, VerbError> {
        let Opened { volume, descriptor, key, how, store, mut lock, .. } = opened;
        let standing = lock.as_ref().and_then(StoreLock::standing);
        let custody = Custody::new(store.clone(), how, standing, Arc::clone(&volume), key);
        let shared = Arc::new(Shared::new(&custody, &descriptor, &store, options, protection));
        let control = Control::start(&shared, events.clone())?;
        let metrics = metrics.map(|bound| Server::start(bound, &shared)).transpose()?;
        if let Some(server) = &metrics {
            shared.set_metrics(server.address());
        }
        let mut mounted: Vec<Mounted> = Vec::new();
        for point in points {
            // A mount that is dropped is taken out of the tree again.
            let mount = mount(&volume, point, options)?;
            custody.add(mount.latch(), point);
            shared.add_mount(&point.mountpoint, mount.latencies());
            mounted.push(mount);
        }
        if let Some(lock) = &mut lock {
            let socket = Some(control.path().to_owned());
            lock.describe(&open::holder(shared.mountpoints(), socket))?;
        }
        let unmounters = mounted.iter().map(Mounted::unmounter).collect();
        let timers = [
            Timer::start("commit", COMMIT_INTERVAL, timed(&custody, commit_by_timer)),
            Timer::start("key", custody.interval(), timed(&custody, Custody::recheck)),
        ];
        let watch = |(index, mounted): (usize, Mounted)| {
            let (events, shared) = (events.clone(), Arc::clone(&shared));
            let mountpoint = points[index].mountpoint.clone();
            std::thread::spawn(move || watch(index, mounted, &mountpoint, &shared, &events))
        };
        let watchers = mounted.into_iter().enumerate().map(watch).collect();
        Ok(Self { custody, shared, lock, timers, control, metrics, unmounters, watchers })
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
        self.custody.volume().map_or(Ok(()), |volume| volume.commit_all())
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
        let Self { custody, shared, lock, timers, control, metrics, watchers, .. } = self;
        timers.into_iter().for_each(Timer::stop);
        let volume = custody.volume();
        if let Some(volume) = &volume {
            volume.stop_rekey();
        }
        let committed = volume.as_ref().map_or(Ok(()), |volume| volume.commit_all());
        let is_kept = volume.as_ref().is_some_and(|volume| volume.has_stored_all());
        let result = committed.map_err(|error| match is_kept {
            true => unopened(shared.store(), error),
            false => VerbError::file(shared.store())(error),
        });
        let ended = shared.mountpoints().is_empty();
        if let (Some(volume), true) = (&volume, ended) {
            volume.let_go();
        }
        drop((control, metrics));
        drop(volume);
        custody.end();
        if ended {
            for watcher in watchers {
                if watcher.join().is_err() {
                    tracing::error!("a thread that watched a mount has panicked");
                }
            }
            custody.wait_let_go();
        }
        drop(lock);
        result
    }
}

/// Work of a timer on what a session has.
fn timed(custody: &Arc<Custody>, work: fn(&Custody)) -> impl FnMut() + Send + 'static {
    let custody = Arc::clone(custody);
    move || work(&custody)
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
pub(in crate::lifecycle) fn enter(root: Dir, point: &Point) -> Result<Dir, FileError> {
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
fn commit_by_timer(custody: &Custody) {
    let Some(volume) = custody.volume() else { return };
    match volume.commit_all() {
        // It was told when it was lost, or when the file failed.
        Ok(()) | Err(FileError::Lost | FileError::Latched) => {}
        Err(error) if !is_news(&("timer", error.to_string())) => {}
        Err(error) => {
            let stored = volume.has_stored_all();
            tracing::error!(
                stored,
                "commit by the timer: {error}; what is stored is in the journal"
            );
        }
    }
    if volume.take_forgotten(FORGOTTEN_MANY) {
        give_back_memory();
    }
}
