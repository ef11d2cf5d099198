//! Serves the metrics: one thread, which answers a few connections at a time, each within a few
//! seconds. The HTTP is hyper's, as for the calls to KMS.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net;
use tokio::sync::{Semaphore, oneshot};

use crate::lifecycle::error::VerbError;
use crate::lifecycle::metrics::address::Address;
use crate::lifecycle::metrics::text::{self, Form};
use crate::lifecycle::report::Shared;
use crate::limits::{METRICS_CONNECTIONS_MAX, METRICS_PAUSE, METRICS_WAIT};

/// Bytes of a request's head.
const HEAD_LEN_MAX: usize = 16 << 10;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// An address that nobody else can have, where nobody is answered yet.
#[derive(Debug)]
pub struct Bound {
    address: Address,
    listener: Listener,
    file: Option<SocketFile>,
}

impl Bound {
    /// Listens there.
    ///
    /// # Errors
    /// [`VerbError::NoMetrics`].
    pub fn new(wanted: &Address) -> Result<Self, VerbError> {
        let failed = |error| VerbError::NoMetrics { address: wanted.to_string(), error };
        let (listener, file) = Listener::bind(wanted).map_err(failed)?;
        let address = listener.address(wanted).map_err(failed)?;
        Ok(Self { address, listener, file })
    }
}

/// What serves them, until it is dropped.
#[derive(Debug)]
pub(in crate::lifecycle) struct Server {
    address: Address,
    /// Dropped, it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    file: Option<SocketFile>,
}

impl Server {
    /// Answers from now on.
    pub(in crate::lifecycle) fn start(
        bound: Bound,
        shared: &Arc<Shared>,
    ) -> Result<Self, VerbError> {
        let Bound { address, listener, file } = bound;
        let failed = |error| VerbError::NoMetrics { address: address.to_string(), error };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(shared);
        let serve = move || {
            if let Err(error) = runtime.block_on(serve(listener, stopped, &shared)) {
                tracing::error!("metrics are not served any more: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("cmkfs-metrics".into()).spawn(serve);
        let thread = Some(thread.map_err(failed)?);
        Ok(Self { address, stop: Some(stop), thread, file })
    }

    /// Where: with the port that was free, if any would do.
    pub(in crate::lifecycle) fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.file.take());
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that served metrics has panicked");
        }
    }
}

/// The file of a socket that this process made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn id(path: &Path) -> io::Result<(u64, u64)> {
        path.symlink_metadata().map(|found| (found.dev(), found.ino()))
    }
}

impl Drop for SocketFile {
    /// Removes it, unless another one took its place.
    fn drop(&mut self) {
        let is_ours = Self::id(&self.path).is_ok_and(|id| id == self.id);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("{}: can't remove it: {error}", self.path.display());
        }
    }
}

#[derive(Debug)]
enum Listener {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(address: &Address) -> io::Result<(Self, Option<SocketFile>)> {
        match address {
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok((Self::Tcp(listener), None))
            }
            Address::Unix(path) => {
                let listener = bind_file(path)?;
                let file = SocketFile { path: path.clone(), id: SocketFile::id(path)? };
                Ok((Self::Unix(listener), Some(file)))
            }
        }
    }

    fn address(&self, wanted: &Address) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_) => Ok(wanted.clone()),
        }
    }
}

/// A socket that only this user and root can connect to.
fn bind_file(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the socket: at no moment may anybody else connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) if is_left_over(path) => {
            std::fs::remove_file(path)?;
            rustix::net::bind(&socket, &address)?;
        }
        bound => bound?,
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Whether it is a socket that nobody listens at, as a process leaves it that was killed.
fn is_left_over(path: &Path) -> bool {
    let is_socket = path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(refused)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Accepting {
    Tcp(net::TcpListener),
    Unix(net::UnixListener),
}

impl Accepting {
    fn new(listener: Listener) -> io::Result<Self> {
        match listener {
            Listener::Tcp(listener) => net::TcpListener::from_std(listener).map(Self::Tcp),
            Listener::Unix(listener) => net::UnixListener::from_std(listener).map(Self::Unix),
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<Box<dyn Stream>>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(context)
                .map_ok(|(stream, _)| -> Box<dyn Stream> { Box::new(stream) }),
            Self::Unix(listener) => listener
                .poll_accept(context)
                .map_ok(|(stream, _)| -> Box<dyn Stream> { Box::new(stream) }),
        }
    }
}

/// Until `stopped` hears of the other end; connections end with the runtime then.
async fn serve(
    listener: Listener,
    stopped: oneshot::Receiver<()>,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    let accepting = Accepting::new(listener)?;
    let room = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    let mut stopped = pin!(stopped);
    loop {
        let next = poll_fn(|context| match stopped.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => accepting.poll(context).map(Some),
        });
        match next.await {
            None => return Ok(()),
            Some(Ok(stream)) => {
                // Whoever comes while there is no room is hung up on.
                if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
                    let shared = Arc::clone(shared);
                    tokio::spawn(async move {
                        answer(stream, shared).await;
                        drop(place);
                    });
                }
            }
            // As without a free descriptor, which lasts.
            Some(Err(error)) => {
                tracing::debug!("metrics: a connection was not accepted: {error}");
                tokio::time::sleep(METRICS_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: Box<dyn Stream>, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &shared);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(METRICS_WAIT)
        .max_buf_size(HEAD_LEN_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(METRICS_WAIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("metrics: a connection: {error}"),
        Err(_) => tracing::debug!("metrics: a connection took too long"),
    }
}

fn respond(request: &Request<Incoming>, shared: &Shared) -> Response<String> {
    let plain = |status, text: &str| {
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let Some(daemon) = shared.daemon() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the mount has ended\n");
    };
    let accepted = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let form = Form::wanted(accepted.unwrap_or_default());
    let mut response = Response::new(text::page(form, shared.volume_id(), &daemon));
    let kind = HeaderValue::from_static(form.content_type());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
