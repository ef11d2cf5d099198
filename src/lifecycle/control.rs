//! The control socket of a session: a line of JSON asks, a line of JSON answers.
//!
//! A snapshot's freeze lasts as long as its connection: a client that dies lets writers go on.
//! Only root and the user whose daemon it is get an answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::file::{Rekey, Rekeyed};
use crate::lifecycle::custody::By;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::rekeying;
use crate::lifecycle::report::{Report, Shared};
use crate::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_LINE_LEN_MAX, CONTROL_WAIT, LEAVE_WAIT};
use crate::sys::scrub_stack;

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What the session is and has done.
    Status,
    /// Commit, then let writers wait until `Thaw` or the end of the connection.
    Freeze,
    /// Let writers go on.
    Thaw,
    /// Commit, and let go of volume and keys, until `Unlock`.
    Lock,
    /// Get the key, and go on.
    Unlock {
        /// Key source instead of the one that it was mounted with.
        key: Option<String>,
    },
    /// Get the key once, and go on with the epoch that there is now.
    TakeUp,
    /// Bring the files of earlier epochs under the current one, until the end of the connection.
    Rekey {
        /// How.
        how: Rekey,
    },
    /// Unmount one mountpoint, or all, if nothing uses them.
    Unmount {
        /// Which; none: all.
        mountpoint: Option<PathBuf>,
    },
}

/// What a session answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Response {
    /// To `Status`.
    Status {
        /// What was asked for.
        report: Box<Report>,
    },
    /// To `Rekey`, again and again: how far it is.
    Rekeying {
        /// So far.
        done: Rekeyed,
    },
    /// To `Rekey`, at the end.
    Rekeyed {
        /// All that was done.
        done: Rekeyed,
    },
    /// Done as asked.
    Done,
    /// Not done.
    Failed {
        /// Exit code of the failure.
        code: u8,
        /// Its message.
        text: String,
    },
}

impl Response {
    pub(in crate::lifecycle) fn failed(error: &VerbError) -> Self {
        Self::Failed { code: error.exit_code(), text: error.to_string() }
    }
}

/// A request to unmount, for whoever runs the session.
#[derive(Debug)]
pub struct Asked {
    /// Which; none: all.
    pub mountpoint: Option<PathBuf>,
    /// Takes the answer, once: after the commit that follows the unmount.
    pub answer: SyncSender<Result<(), VerbError>>,
    /// Disconnected once the answer has gone out: the process must not end before.
    pub written: Receiver<()>,
}

/// The listening socket; its file is removed when the session ends.
#[derive(Debug)]
pub(in crate::lifecycle) struct Control {
    listener: Arc<UnixListener>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    pub(in crate::lifecycle) fn start<E: From<super::session::Event> + Send + 'static>(
        shared: &Arc<Shared>,
        events: Sender<E>,
    ) -> Result<Self, VerbError> {
        let no_dir = VerbError::local(Path::new("runtime directory"), "can't make it");
        let dir = crate::config::runtime_dir().map_err(no_dir)?;
        let path = dir.join(format!("{}-{}.sock", shared.volume_id(), std::process::id()));
        let fail = || VerbError::local(&path, "can't listen there");
        // A socket of this name is of an earlier process that had this one's id and died.
        if path.symlink_metadata().is_ok() {
            std::fs::remove_file(&path).map_err(fail())?;
        }
        sweep(&dir);
        let listener = Arc::new(UnixListener::bind(&path).map_err(fail())?);
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).map_err(fail())?;
        let (accepting, shared) = (Arc::clone(&listener), Arc::clone(shared));
        let thread = std::thread::spawn(move || accept(&accepting, &shared, &events));
        Ok(Self { listener, path, thread: Some(thread) })
    }

    pub(in crate::lifecycle) fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes sockets of processes that died without doing so: nobody listens, and no process has the
/// id in the name. Best effort: they are in nobody's way.
fn sweep(dir: &Path) {
    for path in dir.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pid = name.strip_suffix(".sock").and_then(|name| name.rsplit_once('-'));
        let Some(pid) = pid.and_then(|(_, pid)| pid.parse::<u32>().ok()) else { continue };
        let is_gone = !Path::new("/proc").join(pid.to_string()).exists();
        // Processes of another container are not in this `/proc`, but answer.
        let refused = std::io::ErrorKind::ConnectionRefused;
        if is_gone
            && UnixStream::connect(&path).is_err_and(|error| error.kind() == refused)
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::debug!("{}: not removed: {error}", path.display());
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("{}: can't remove it: {error}", self.path.display());
        }
        // On Linux this wakes the thread in accept(2), which then fails.
        let woken = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        // A thread that was not woken is not waited for.
        let joined = self.thread.take().map(|thread| woken.is_ok() && thread.join().is_ok());
        if joined != Some(true) {
            tracing::warn!("the control socket did not stop as it should");
        }
    }
}

fn accept<E: From<super::session::Event> + Send + 'static>(
    listener: &UnixListener,
    shared: &Arc<Shared>,
    events: &Sender<E>,
) {
    let count = Arc::new(AtomicUsize::new(0));
    while let Ok((stream, _)) = listener.accept() {
        if !is_allowed(&stream) || count.load(Ordering::Acquire) >= CONTROL_CONNECTIONS_MAX {
            tracing::warn!("control socket: refused a connection");
            continue;
        }
        count.fetch_add(1, Ordering::AcqRel);
        let (shared, events, count) = (Arc::clone(shared), events.clone(), Arc::clone(&count));
        std::thread::spawn(move || {
            if let Err(error) = serve(stream, &shared, &events) {
                tracing::debug!("control connection: {error}");
            }
            scrub_stack();
            count.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// Whether the other end is root or this user.
fn is_allowed(stream: &UnixStream) -> bool {
    let peer = rustix::net::sockopt::socket_peercred(stream);
    let own = rustix::process::geteuid();
    peer.is_ok_and(|peer| peer.uid.is_root() || peer.uid == own)
}

/// A line of at most [`CONTROL_LINE_LEN_MAX`] bytes; `None` at the end.
fn read_line<T: for<'a> Deserialize<'a>>(
    reader: &mut BufReader<UnixStream>,
) -> std::io::Result<Option<T>> {
    let mut line = Vec::new();
    reader.by_ref().take(CONTROL_LINE_LEN_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

pub(in crate::lifecycle) fn write_line(
    stream: &mut UnixStream,
    value: &impl Serialize,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn serve<E: From<super::session::Event>>(
    stream: UnixStream,
    shared: &Shared,
    events: &Sender<E>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(CONTROL_WAIT))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_line(&mut reader)? {
        let response = match request {
            Request::Status => match shared.report() {
                Some(report) => Response::Status { report: Box::new(report) },
                None => gone(shared),
            },
            Request::Freeze => {
                frozen(&mut reader, &mut writer, shared)?;
                Response::Done
            }
            Request::Thaw => Response::Done,
            Request::Lock => done(shared.custody().lock("locked by hand", By::Hand)),
            Request::Unlock { key } => done(unlock(key.as_deref(), shared)),
            Request::TakeUp => done(shared.custody().take_up()),
            Request::Rekey { how } => rekeying::rekey(&mut writer, shared, &how)?,
            Request::Unmount { mountpoint } => {
                let (written, until_written) = mpsc::sync_channel(0);
                let response = unmount(mountpoint, until_written, shared, events);
                write_line(&mut writer, &response)?;
                drop(written);
                continue;
            }
        };
        write_line(&mut writer, &response)?;
    }
    Ok(())
}

/// What a session without a volume answers.
pub(in crate::lifecycle) fn closed(shared: &Shared) -> Response {
    if shared.custody().has_ended() {
        return gone(shared);
    }
    Response::failed(&VerbError::locked(shared.store()))
}

fn done(result: Result<(), VerbError>) -> Response {
    result.map_or_else(|error| Response::failed(&error), |()| Response::Done)
}

fn unlock(key: Option<&str>, shared: &Shared) -> Result<(), VerbError> {
    let source = key.map(str::parse).transpose()?;
    shared.custody().unlock(source, By::Hand)
}

fn gone(shared: &Shared) -> Response {
    Response::failed(&VerbError::NotMounted(shared.store().to_owned()))
}

/// Holds writers up until the client says `Thaw` or hangs up.
fn frozen(
    reader: &mut BufReader<UnixStream>,
    writer: &mut UnixStream,
    shared: &Shared,
) -> std::io::Result<()> {
    let Some(volume) = shared.volume() else {
        return write_line(writer, &closed(shared));
    };
    let _frozen = volume.freeze();
    let response = match volume.commit_all() {
        Ok(()) => Response::Done,
        Err(error) => Response::failed(&VerbError::file(shared.store())(error)),
    };
    write_line(writer, &response)?;
    reader.get_ref().set_read_timeout(None)?;
    let next: Option<Request> = read_line(reader)?;
    reader.get_ref().set_read_timeout(Some(CONTROL_WAIT))?;
    match next {
        Some(Request::Thaw) => Ok(()),
        _ => Err(std::io::Error::other("a frozen connection ended without a thaw")),
    }
}

fn unmount<E: From<super::session::Event>>(
    mountpoint: Option<PathBuf>,
    written: Receiver<()>,
    shared: &Shared,
    events: &Sender<E>,
) -> Response {
    let (answer, answers) = mpsc::sync_channel(1);
    let asked = Asked { mountpoint, answer, written };
    if events.send(super::session::Event::Asked(asked).into()).is_err() {
        return gone(shared);
    }
    match answers.recv_timeout(LEAVE_WAIT) {
        Ok(Ok(())) => Response::Done,
        Ok(Err(error)) => Response::failed(&error),
        Err(_) => gone(shared),
    }
}

/// A connection to a session.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Client {
    /// Connects to a session of this user, or as root to any.
    ///
    /// # Errors
    /// Nobody listens, or somebody else's process does.
    pub fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let own = rustix::process::geteuid();
        let peer = rustix::net::sockopt::socket_peercred(&stream)?;
        if !own.is_root() && peer.uid != own && !peer.uid.is_root() {
            return Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        }
        stream.set_write_timeout(Some(CONTROL_WAIT))?;
        let writer = stream.try_clone()?;
        Ok(Self { reader: BufReader::new(stream), writer })
    }

    /// Asks, and waits for the answer as long as the work may take.
    ///
    /// # Errors
    /// No answer.
    pub fn ask(&mut self, request: &Request) -> std::io::Result<Response> {
        let patience = match request {
            Request::Status | Request::Thaw => CONTROL_WAIT,
            Request::Freeze
            | Request::Lock
            | Request::Unlock { .. }
            | Request::TakeUp
            | Request::Rekey { .. }
            | Request::Unmount { .. } => LEAVE_WAIT,
        };
        self.reader.get_ref().set_read_timeout(Some(patience))?;
        write_line(&mut self.writer, request)?;
        self.answer()
    }

    /// The next answer to a request that has several.
    ///
    /// # Errors
    /// No answer.
    pub fn answer(&mut self) -> std::io::Result<Response> {
        let closed = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        read_line(&mut self.reader)?.ok_or_else(closed)
    }
}
