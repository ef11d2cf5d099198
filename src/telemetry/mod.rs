//! The log, and figures as text. The log never holds a key, a plaintext or a plaintext name of a
//! stored object.

mod figures;
mod format;

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Map;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

pub use figures::{binary, table};
pub use format::{FORMAT_VARIABLE, Format};

/// The variable that sets what is logged, in the syntax of `tracing_subscriber::EnvFilter`.
pub const LEVEL_VARIABLE: &str = "CMKFS_LOG";

/// Opens a log for appending, made with mode 0600.
///
/// # Errors
/// The system's.
pub fn open_log(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Logging {
    /// How many flags `-v`: each raises the level, from `warn`.
    pub verbose: u8,
    /// How it is written.
    pub format: Format,
}

/// Starts logging, to `file` or else to standard error. The variable goes before `verbose`. A
/// second call has no effect.
pub fn start(logging: Logging, file: Option<File>) {
    let level = match logging.verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // The SDK's own crates log request details at `debug`: they stay at `warn` unless named.
    let directives = format!("warn,cmkfs={level}");
    let filter = match std::env::var(LEVEL_VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::builder().parse_lossy(text),
        _ => EnvFilter::new(directives),
    };
    let to_errors = file.is_none();
    let writer = match file {
        Some(file) => BoxMakeWriter::new(Mutex::new(file)),
        None => BoxMakeWriter::new(io::stderr),
    };
    // A log that can't be written, as on a full disk, must not end the process: reporting that to
    // a standard error that is the same full disk would panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(writer);
    let started = match logging.format {
        Format::Text => log.try_init(),
        Format::Json => {
            if to_errors {
                std::panic::set_hook(Box::new(tell_panic));
            }
            log.json().with_current_span(false).with_span_list(false).try_init()
        }
    };
    if started.is_err() {
        tracing::debug!("the log was started before");
    }
}

/// A panic as a line of JSON. It may be one of the log's own, so it goes around that.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let line = Format::Json.said(tracing::Level::ERROR, &panic.to_string(), Map::new());
    // Nobody can be told that standard error does not work.
    drop(io::Write::write_all(&mut io::stderr(), line.as_bytes()));
}
