//! Starts the daemon of a mount in the background and waits until it serves.
//!
//! Threads do not survive fork(2), so the daemon is a fresh process of the same program in a
//! session of its own. Its standard input is one end of a socket pair: the request goes in there,
//! and a line comes back when it serves or why it does not. Nothing secret is in either.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::lifecycle::error::VerbError;
use crate::lifecycle::report::Report;
use crate::lifecycle::request::MountRequest;
use crate::lifecycle::serve::serve;
use crate::limits::SERVE_WAIT;
use crate::telemetry::Logging;

/// Name of the hidden verb that runs [`daemon`].
pub const DAEMON_VERB: &str = "mount-daemon";

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Outcome {
    Serves { report: Box<Report> },
    Failed { code: u8, text: String },
}

/// Starts a daemon for this request; returns when it serves.
///
/// # Errors
/// Its own, with its exit code; or what it did instead of answering.
pub fn start(request: &MountRequest, log: &Path, logging: Logging) -> Result<Report, VerbError> {
    let failed = |action| VerbError::local(Path::new("/proc/self/exe"), action);
    let (stream, theirs) = UnixStream::pair().map_err(failed("can't make a socket pair"))?;
    let errors =
        crate::telemetry::open_log(log).map_err(VerbError::local(log, "can't open the log"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("cmkfs").arg(DAEMON_VERB).args((0..logging.verbose).map(|_| "-v"));
    command.arg(format!("--log-format={}", logging.format));
    if crate::keys::plain_http_is_allowed() {
        command.env(crate::keys::PLAIN_HTTP_VARIABLE, "1");
    }
    // For people who look at ps(1); the request itself goes over the socket.
    command.arg("--").arg(&request.store);
    command.args(request.points.iter().map(|point| &point.mountpoint));
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(errors).current_dir("/");
    let mut child = command.spawn().map_err(failed("can't start the daemon"))?;
    // Closes the parent's copy of the daemon's end, so that a dead daemon reads as an end.
    drop(command);
    let outcome = talk(stream, request);
    match outcome {
        Ok(Some(Outcome::Serves { report })) => Ok(*report),
        Ok(Some(Outcome::Failed { code, text })) => {
            reap(&mut child);
            Err(VerbError::Daemon { code, text })
        }
        Ok(None) => {
            let status = child.wait().map_err(failed("can't wait for the daemon"))?;
            let found = format!("it ended before it served: {status}; see {}", log.display());
            Err(VerbError::Silent { store: request.store.clone(), found })
        }
        Err(error) => {
            if let Err(error) = child.kill() {
                tracing::warn!("can't end the daemon: {error}");
            }
            reap(&mut child);
            let found = format!("no word from it: {error}; see {}", log.display());
            Err(VerbError::Silent { store: request.store.clone(), found })
        }
    }
}

fn reap(child: &mut Child) {
    if let Err(error) = child.wait() {
        tracing::warn!("can't wait for the daemon: {error}");
    }
}

fn talk(mut stream: UnixStream, request: &MountRequest) -> std::io::Result<Option<Outcome>> {
    stream.set_read_timeout(Some(SERVE_WAIT))?;
    let request = serde_json::to_vec(request)?;
    // A daemon that dies at once makes this fail; its status tells more than the broken pipe.
    if stream.write_all(&request).is_ok() {
        stream.shutdown(Shutdown::Write)?;
    }
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line)?;
    if line.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(&line)?)) }
}

/// The daemon itself: reads the request from standard input, serves, and says so there.
///
/// # Errors
/// As [`serve`]; the parent has been told then, unless it serves already.
pub fn daemon() -> Result<(), VerbError> {
    const INPUT: &str = "standard input";
    let failed = |action| VerbError::local::<std::io::Error>(Path::new(INPUT), action);
    // A session leader already means that somebody started this verb by hand; that works too.
    if rustix::process::setsid().is_err() {
        tracing::debug!("already the leader of a session");
    }
    if rustix::thread::set_name(c"cmkfs").is_err() {
        tracing::debug!("the process keeps its name");
    }
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed("can't keep it"))?;
    let null = std::fs::File::open("/dev/null").map_err(failed("can't open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(|error| failed("can't replace it")(error.into()))?;
    let mut stream = UnixStream::from(input);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(failed("can't read the request"))?;
    let request: MountRequest = serde_json::from_slice(&bytes)
        .map_err(|error| failed("no request of `cmkfs mount`")(std::io::Error::from(error)))?;
    let mut told = false;
    let watched = stream.try_clone().map_err(failed("can't keep it"))?;
    let result = serve(
        &request,
        || !has_hung_up(&watched),
        |report| {
            told = true;
            tell(&mut stream, &Outcome::Serves { report: Box::new(report.clone()) })
        },
    );
    if let Err(error) = &result
        && !told
    {
        let outcome = Outcome::Failed { code: error.exit_code(), text: error.to_string() };
        tell(&mut stream, &outcome);
    }
    result
}

/// Whether the command that wants the mount is gone: ended by a signal, or by its user.
fn has_hung_up(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok_and(|count| count > 0)
}

/// Whether somebody was there to be told.
fn tell(stream: &mut UnixStream, outcome: &Outcome) -> bool {
    let line = serde_json::to_vec(outcome).map_err(std::io::Error::from);
    let told = line.and_then(|mut line| {
        line.push(b'\n');
        stream.write_all(&line)?;
        stream.shutdown(Shutdown::Both)
    });
    if let Err(error) = &told {
        tracing::warn!("can't tell the command that started this daemon: {error}");
    }
    told.is_ok()
}
