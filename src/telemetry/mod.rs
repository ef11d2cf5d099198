//! The log, and figures as text. The log never holds a key, a plaintext or a plaintext name of a
//! stored object.

mod figures;

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

pub use figures::table;

/// The variable that sets what is logged, in the syntax of `tracing_subscriber::EnvFilter`.
pub const LEVEL_VARIABLE: &str = "CMKFS_LOG";

/// Opens a log for appending, made with mode 0600.
///
/// # Errors
/// The system's.
pub fn open_log(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

/// Starts logging, to `file` or else to standard error. `verbose` counts the flags `-v` and
/// raises the level from `warn`; the variable goes first. A second call has no effect.
pub fn start(verbose: u8, file: Option<File>) {
    let level = match verbose {
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
    // A log that can't be written, as on a full disk, must not end the process: reporting that to
    // a standard error that is the same full disk would panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .log_internal_errors(false);
    let started = match file {
        Some(file) => log.with_writer(Mutex::new(file)).try_init(),
        None => log.with_writer(io::stderr).try_init(),
    };
    if started.is_err() {
        tracing::debug!("the log was started before");
    }
}
