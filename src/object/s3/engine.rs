//! A thread that speaks with S3 for all others. Nothing is logged there: the SDK can be told to
//! print what it sends, and that holds credentials of a session.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// Work that is begun and ended in the engine's thread.
pub(super) type Begin<T> = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = T>>> + Send>;

/// See the module. Dropped, it ends what is under way.
#[derive(Debug)]
pub(super) struct Engine {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread and does the first work there. `None` if the system gives no thread, or
    /// the work panicked.
    pub(super) fn start<T: Send + 'static>(begin: Begin<T>) -> Option<(Self, T)> {
        let (tell, told) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let work = move || {
            let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
            let begun = runtime.block_on(begin());
            if tell.send((runtime.handle().clone(), begun)).is_ok() {
                serve(runtime, stopped);
            }
        };
        let silence = tracing::subscriber::NoSubscriber::default();
        let quiet = move || tracing::subscriber::with_default(silence, work);
        let thread = std::thread::Builder::new().name("s3".to_owned()).spawn(quiet).ok()?;
        let (handle, begun) = told.recv().ok()?;
        Some((Self { handle, stop: Some(stop), thread: Some(thread) }, begun))
    }

    /// Has the thread do some work, among other, and waits for it. `None` if it panicked.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            // Who asked waits.
            drop(tell.send(work.await));
        });
        told.recv().ok()
    }
}

fn serve(runtime: Runtime, stopped: oneshot::Receiver<()>) {
    // An error says that the engine was dropped, as it should.
    runtime.block_on(stopped).unwrap_or_default();
    // Not waiting for a name look-up that hangs.
    runtime.shutdown_background();
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that speaks with S3 panicked");
        }
    }
}
