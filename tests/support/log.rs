//! What this process logs, as text.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::io;
use std::sync::{Arc, Mutex};

use tracing::Dispatch;

/// A log in memory. Clones are the same log.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// What writes to it.
    pub fn dispatch(&self) -> Dispatch {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false);
        subscriber.with_writer(move || log.clone()).finish().into()
    }

    /// What came since this was last asked.
    pub fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

/// Does something, and says what this thread logged meanwhile.
pub fn logged<T>(run: impl FnOnce() -> T) -> (T, String) {
    let log = Log::default();
    let done = tracing::dispatcher::with_default(&log.dispatch(), run);
    (done, log.take())
}
