//! The daemon of a mount: opens the volume, serves it, and leaves cleanly on a signal, on a
//! request over its socket, and on a plain umount(8).

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::lifecycle::control::Asked;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::process::raise_file_limit;
use crate::lifecycle::report::Report;
use crate::lifecycle::request::MountRequest;
use crate::lifecycle::session::{Event, Session};
use crate::limits::{CONTROL_WAIT, DETACH_WAIT};
use crate::sys::scrub_stack;

#[derive(Debug)]
enum Happened {
    Session(Event),
    Signal(i32),
}

impl From<Event> for Happened {
    fn from(event: Event) -> Self {
        Self::Session(event)
    }
}

/// Serves until the last mount has ended. Calls `ready` once all mounts are confirmed, and leaves
/// if that says that nobody wants them; mounts nothing if `wanted` says so, or after a signal.
///
/// # Errors
/// What kept it from serving, or what could not be committed at the end.
pub fn serve(
    request: &MountRequest,
    wanted: impl FnOnce() -> bool,
    ready: impl FnOnce(&Report) -> bool,
) -> Result<(), VerbError> {
    raise_file_limit();
    crate::sys::keep_one_heap();
    let protection = crate::sys::protect_process();
    for missing in &protection.missing {
        tracing::warn!("{missing}");
    }
    request.check()?;
    let (events, happened) = mpsc::channel();
    // Before the mounts, so that no signal finds them without a handler.
    watch_signals(&events)?;
    let metrics = request.watched.bind()?;
    let opened = request.open()?;
    let told = happened.try_iter().any(|event| matches!(event, Happened::Signal(_)));
    if told || !wanted() {
        return Err(VerbError::Interrupted(request.store.clone()));
    }
    let options = request.mount_options();
    let session = Session::start(opened, &request.points, &options, metrics, protection, &events)?;
    if let Some(report) = session.report() {
        tracing::info!(store = %request.store.display(), "serving");
        if !ready(&report) && events.send(Happened::Signal(SIGTERM)).is_err() {
            tracing::debug!("nobody hears of it");
        }
    }
    scrub_stack();
    run(&session, &happened);
    session.finish()
}

fn watch_signals(events: &Sender<Happened>) -> Result<(), VerbError> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(VerbError::local(std::path::Path::new("signals"), "can't watch them"))?;
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

/// Returns when no mount is left, or when those left had their time after a signal.
fn run(session: &Session, happened: &Receiver<Happened>) {
    let mut asked: Vec<(Vec<PathBuf>, Asked)> = Vec::new();
    let mut due: Option<Instant> = None;
    loop {
        let next = match due {
            None => happened.recv().ok(),
            Some(due) => happened.recv_timeout(due.saturating_duration_since(Instant::now())).ok(),
        };
        match next {
            None => {
                tracing::error!("{:?}: still in use, given up", session.mountpoints());
                break;
            }
            Some(Happened::Signal(signal)) => {
                tracing::info!(signal, "leaving");
                commit(session);
                session.detach_all();
                due.get_or_insert_with(|| Instant::now() + DETACH_WAIT);
            }
            Some(Happened::Session(Event::Asked(request))) => {
                let points = match &request.mountpoint {
                    Some(path) => vec![path.clone()],
                    None => session.mountpoints().into_iter().rev().collect(),
                };
                match points.iter().try_for_each(|path| session.unmount(path)) {
                    Ok(()) => asked.push((points, request)),
                    Err(error) => answer(&request, Err(error)),
                }
            }
            Some(Happened::Session(Event::Ended(_))) => {}
        }
        let left = session.mountpoints();
        asked.retain(|(points, request)| {
            let waits = points.iter().any(|path| left.contains(path));
            if !waits {
                let result = session.commit();
                answer(request, result.map_err(VerbError::file(session.store())));
            }
            waits
        });
        if left.is_empty() {
            break;
        }
    }
}

fn commit(session: &Session) {
    if let Err(error) = session.commit() {
        tracing::error!("commit before leaving: {error}");
    }
}

fn answer(request: &Asked, result: Result<(), VerbError>) {
    if request.answer.try_send(result).is_err() {
        tracing::warn!("nobody waits for the answer to an unmount");
    }
    if request.written.recv_timeout(CONTROL_WAIT) == Err(RecvTimeoutError::Timeout) {
        tracing::warn!("the answer to an unmount does not go out");
    }
}
