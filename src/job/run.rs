//! `run`: mounts a role's paths, runs a command with them, unmounts.
//!
//! It fails closed: the command starts when every mount is confirmed, and is killed if one ends
//! while it runs. This process serves the mounts; if it dies the command is killed with it. What
//! the command started and left running is killed before anything is unmounted: see `family`.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, WaitOptions};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::job::child::CHILD_VERB;
use crate::job::error::JobError;
use crate::job::family;
use crate::job::role::Place;
use crate::lifecycle::process::{Process, raise_file_limit};
use crate::lifecycle::report::Report;
use crate::lifecycle::request::MountRequest;
use crate::lifecycle::session::{Event, Session};
use crate::lifecycle::{VerbError, mounts, terminate};
use crate::limits::DETACH_WAIT;

/// What to run, and where.
#[derive(Debug)]
pub struct JobOptions {
    /// Role, root and store.
    pub place: Place,
    /// What to mount.
    pub request: MountRequest,
    /// Whether the store of a transient key stays.
    pub keep_store: bool,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match (status.code().map(u8::try_from), status.signal()) {
            (Some(Ok(code)), _) => Self::Code(code),
            (_, Some(signal)) => Self::Signal(signal),
            _ => Self::Code(1),
        }
    }
}

/// What a job that ran leaves behind.
#[derive(Debug)]
pub struct Outcome {
    /// How the command ended.
    pub ended: Ended,
    /// What the volume did, at the end of the command.
    pub report: Option<Report>,
    /// From the start of the command to its end.
    pub took: Duration,
    /// How many processes the command left running, which were killed.
    pub killed: usize,
    /// Processes of others that used the mounts.
    pub left_running: Vec<String>,
    /// What became of the store.
    pub store: StoreFate,
}

/// What becomes of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFate {
    /// It can be mounted again.
    Kept,
    /// It was removed; its key is gone.
    Removed,
    /// It is there, but its key is gone.
    Unreadable,
}

#[derive(Debug)]
enum Happened {
    Session(Event),
    Signal(i32),
    Ended(std::io::Result<ExitStatus>),
}

impl From<Event> for Happened {
    fn from(event: Event) -> Self {
        Self::Session(event)
    }
}

/// Runs the command; returns when all is unmounted.
///
/// # Errors
/// The command did not run, or was killed because a mount ended, or the volume failed after it.
pub fn run(options: &JobOptions) -> Result<Outcome, JobError> {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    let files = raise_file_limit();
    let core = rustix::process::getrlimit(Resource::Core).current;
    crate::sys::keep_one_heap();
    let protection = crate::sys::protect_process();
    for missing in &protection.missing {
        tracing::warn!("{missing}");
    }
    let request = &options.request;
    request.check().map_err(JobError::NotMounted)?;
    let (events, happened) = mpsc::channel();
    watch_signals(&events).map_err(JobError::Spawn)?;
    let metrics = request.watched.bind().map_err(JobError::NotMounted)?;
    let opened = request.open().map_err(JobError::NotMounted)?;
    let transient = opened.key.slot.is_none();
    let (points, how) = (&request.points, request.mount_options());
    let session = Session::start(opened, points, &how, metrics, protection, &events);
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            if transient {
                discard(&options.request);
            }
            return Err(JobError::NotMounted(error));
        }
    };
    family::adopt().map_err(JobError::Spawn)?;
    let child = Launch { umask: umask.as_raw_mode(), files, core };
    let began = Instant::now();
    let ran = confirm(request).and_then(|()| child.run(options, &session, &events, &happened));
    let took = began.elapsed();
    let killed = family::kill_all();
    family::reap();
    let report = session.report();
    let left_running = leave(&session, &happened);
    let finished = session.finish();
    let ended = match ran {
        Ok(ended) => ended,
        Err(error) => {
            if transient {
                discard(&options.request);
            }
            return Err(error);
        }
    };
    let store = match (transient, options.keep_store) {
        (false, _) => StoreFate::Kept,
        (true, true) => StoreFate::Unreadable,
        (true, false) => {
            let removed = terminate::remove_store(&request.store);
            removed.map_or_else(|error| not_removed(request, &error), |()| StoreFate::Removed)
        }
    };
    match finished {
        // What was not committed nobody could have read.
        Err(error) if store == StoreFate::Kept => {
            // A command that failed says so itself; one that did not believes all is stored.
            if ended == Ended::Code(0) {
                return Err(JobError::After(error));
            }
            tracing::warn!("after the command: {error}");
        }
        _ => {}
    }
    Ok(Outcome { ended, report, took, killed, left_running, store })
}

/// Removes the store of a transient key after a failure, which is told already.
fn discard(request: &MountRequest) {
    if let Err(error) = terminate::remove_store(&request.store) {
        not_removed(request, &error);
    }
}

fn not_removed(request: &MountRequest, error: &VerbError) -> StoreFate {
    tracing::warn!("{}: not removed: {error}", request.store.display());
    StoreFate::Unreadable
}

fn watch_signals(events: &Sender<Happened>) -> std::io::Result<()> {
    // What is ignored here, as by nohup(1), is ignored by the command too.
    let ignored = ignored_signals();
    let watched = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2]
        .into_iter()
        .filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(watched)?;
    let events = events.clone();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Happened::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// A bit for each signal that was set to be ignored by whoever started this process; the lowest is
/// that of signal 1.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// The kernel's own word that every path is covered by our mount.
fn confirm(request: &MountRequest) -> Result<(), JobError> {
    for point in &request.points {
        let found = mounts::at(&point.mountpoint).ok().flatten();
        if found.is_none_or(|line| line.store != request.store) {
            return Err(JobError::NotConfirmed(point.mountpoint.clone()));
        }
    }
    Ok(())
}

struct Launch {
    umask: u32,
    files: Option<u64>,
    core: Option<u64>,
}

impl Launch {
    fn run(
        &self,
        options: &JobOptions,
        session: &Session,
        events: &Sender<Happened>,
        happened: &Receiver<Happened>,
    ) -> Result<Ended, JobError> {
        let ends = |event| match event {
            Happened::Signal(signal @ (SIGTERM | SIGINT | SIGHUP | SIGQUIT)) => Some(signal),
            _ => None,
        };
        if let Some(signal) = happened.try_iter().find_map(ends) {
            tracing::warn!(signal, "told to end before the command was started");
            return Ok(Ended::Signal(signal));
        }
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cmkfs").arg(CHILD_VERB);
        command.args(["--parent", &std::process::id().to_string()]);
        command.args(["--umask", &self.umask.to_string()]);
        for (flag, limit) in [("--files", self.files), ("--core", self.core)] {
            if let Some(limit) = limit {
                command.args([flag, &limit.to_string()]);
            }
        }
        command.arg("--").args(&options.command).envs(options.place.environment());
        // From this thread, the main one: the command gets the signal of its parent's death when
        // the thread that started it ends.
        let mut child = command.spawn().map_err(JobError::Spawn)?;
        let process = Process::open(child.id())
            .and_then(|found| found.ok_or_else(|| std::io::ErrorKind::NotFound.into()));
        let process = match process {
            Ok(process) => process,
            Err(error) => {
                child.kill().and_then(|()| child.wait()).map_err(JobError::Spawn)?;
                return Err(JobError::Spawn(error));
            }
        };
        let (events, pid) = (events.clone(), child.id());
        std::thread::spawn(move || {
            if events.send(Happened::Ended(until_ended(pid))).is_err() {
                tracing::debug!("nobody waits for the command");
            }
        });
        watch(&process, options, session, happened)
    }
}

/// How the command ended. The ends of orphans, which nobody else waits for, are taken too.
fn until_ended(command: u32) -> std::io::Result<ExitStatus> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if is(pid, command) => {
                return Ok(ExitStatus::from_raw(status.as_raw()));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn is(pid: Pid, id: u32) -> bool {
    u32::try_from(pid.as_raw_nonzero().get()) == Ok(id)
}

/// Until the command has ended.
fn watch(
    process: &Process,
    options: &JobOptions,
    session: &Session,
    happened: &Receiver<Happened>,
) -> Result<Ended, JobError> {
    let mut lost: Option<PathBuf> = None;
    while let Ok(next) = happened.recv() {
        match next {
            Happened::Ended(status) => {
                let status = status.map_err(JobError::Spawn)?;
                return lost.map_or_else(|| Ok(status.into()), |path| Err(JobError::Lost(path)));
            }
            Happened::Signal(signal) => pass_on(process, signal),
            Happened::Session(Event::Ended(index)) => {
                let path = options.request.points[index].mountpoint.clone();
                tracing::error!("{}: the mount has ended; killing the command", path.display());
                send(process, Signal::KILL);
                family::kill_all();
                lost.get_or_insert(path);
            }
            Happened::Session(Event::Asked(asked)) => {
                let path = asked.mountpoint.clone();
                let first = || session.mountpoints().into_iter().next().unwrap_or_default();
                let busy = VerbError::Busy {
                    path: path.unwrap_or_else(first),
                    processes: vec![format!(
                        "the command of `cmkfs run` (pid {})",
                        std::process::id()
                    )],
                };
                if asked.answer.try_send(Err(busy)).is_err() {
                    tracing::debug!("nobody waits for the answer");
                }
            }
        }
    }
    Err(JobError::Spawn(std::io::Error::other("nobody tells of the command any more")))
}

/// A terminal sends its signals to the whole foreground group, so that the command has got those
/// already.
fn pass_on(process: &Process, signal: i32) {
    let by_terminal = matches!(signal, SIGINT | SIGQUIT)
        && rustix::termios::tcgetpgrp(std::io::stdin()).ok() == Some(rustix::process::getpgrp());
    if !by_terminal && let Some(signal) = Signal::from_named_raw(signal) {
        send(process, signal);
    }
}

fn send(process: &Process, signal: Signal) {
    if let Err(error) = process.signal(signal) {
        tracing::error!("can't send {signal:?} to the command: {error}");
    }
}

/// Unmounts everything; what others run in the mounts keeps nothing from that. Returns it.
fn leave(session: &Session, happened: &Receiver<Happened>) -> Vec<String> {
    if let Err(error) = session.commit() {
        tracing::error!("commit after the command: {error}");
    }
    let users = session.detach_all();
    let due = Instant::now() + DETACH_WAIT;
    while !session.mountpoints().is_empty() {
        let left = due.saturating_duration_since(Instant::now());
        if happened.recv_timeout(left).is_err() {
            tracing::warn!("{:?}: still in use, given up", session.mountpoints());
            break;
        }
    }
    users
}
