//! Flags of how an open volume behaves, which several verbs have.

use std::num::NonZero;
use std::time::Duration;

use clap::Args;

use crate::cli::fail::Fail;
use crate::config::{Size, Span};
use crate::lifecycle::metrics::Address;
use crate::lifecycle::request::MountRequest;
use crate::lifecycle::{Durability, Exit};
use crate::limits::{CACHE_BYTES_MIN, OPEN_DIRS_DEFAULT, OPEN_DIRS_MAX, THREADS_MAX};

#[derive(Debug, Args)]
pub(in crate::cli) struct TuningArgs {
    /// Bytes of the cache of opened blocks
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = cache_size)]
    pub(in crate::cli) cache_size: Size,
    /// Threads of the mount and of the ciphers; by default one a core
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(in crate::cli) threads: Option<NonZero<usize>>,
    /// Directories that stay open, a descriptor each, besides those that are in use
    #[arg(long, value_name = "N", default_value_t = OPEN_DIRS_DEFAULT, value_parser = open_dirs)]
    pub(in crate::cli) open_dirs: NonZero<usize>,
    /// strict: what fsync acknowledged survives a power cut; relaxed: not while it is overwritten.
    /// By default relaxed with a transient key and for every role but notebook, strict otherwise
    #[arg(long, value_name = "strict|relaxed")]
    pub(in crate::cli) durability: Option<Durability>,
    /// How often KMS is asked for the key of a mounted volume: a key that was taken away locks it
    /// within this time
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = span)]
    pub(in crate::cli) key_recheck: Duration,
    /// How long a mounted volume is served while KMS does not answer
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = span)]
    pub(in crate::cli) key_max_offline: Duration,
}

impl TuningArgs {
    /// Puts what was typed into a request.
    pub(in crate::cli) fn apply(&self, request: &mut MountRequest) {
        request.cache_bytes = self.cache_size.0;
        request.threads = self.threads;
        request.open_dirs = self.open_dirs;
        request.durability = self.durability.unwrap_or(request.durability);
        request.key_recheck = self.key_recheck;
        request.key_max_offline = self.key_max_offline;
    }
}

/// What is told of an open volume while it is served.
#[derive(Debug, Args)]
pub(in crate::cli) struct WatchedArgs {
    /// Log each operation of the kernel's that takes as long or longer, by its name and inode
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    slow_op: Option<u64>,
    /// Serve metrics for Prometheus, by HTTP at /metrics: 127.0.0.1:PORT, [::1]:PORT or unix:PATH
    #[arg(long, value_name = "ADDR")]
    metrics: Option<Address>,
}

impl WatchedArgs {
    /// Puts what was typed into a request.
    pub(in crate::cli) fn apply(&self, request: &mut MountRequest) -> Result<(), Fail> {
        let metrics = self.metrics.clone().map(Address::absolute).transpose();
        let no_path = |error| Fail::new(Exit::NoMetrics, format!("metrics: {error}"));
        request.watched.metrics = metrics.map_err(no_path)?;
        request.watched.slow = self.slow_op.map(Duration::from_millis);
        Ok(())
    }
}

fn cache_size(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size.0 < CACHE_BYTES_MIN {
        return Err(format!("{size} is too little: wanted at least {}", Size(CACHE_BYTES_MIN)));
    }
    Ok(size)
}

pub(in crate::cli) fn threads(text: &str) -> Result<NonZero<usize>, String> {
    let wanted = || format!("{text} is no number of threads: wanted 1 to {THREADS_MAX}");
    let count: NonZero<usize> = text.parse().map_err(|_| wanted())?;
    if count.get() > THREADS_MAX { Err(wanted()) } else { Ok(count) }
}

fn span(text: &str) -> Result<Duration, String> {
    let Span(span) = text.parse()?;
    match span.is_zero() {
        true => Err(format!("{text} is no time: wanted at least 1s")),
        false => Ok(span),
    }
}

fn open_dirs(text: &str) -> Result<NonZero<usize>, String> {
    let wanted = || format!("{text} is no number of directories: wanted 1 to {OPEN_DIRS_MAX}");
    let count: NonZero<usize> = text.parse().map_err(|_| wanted())?;
    if count.get() > OPEN_DIRS_MAX { Err(wanted()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_out_of_range_are_refused() {
        assert!(cache_size("64M").is_ok() && cache_size("1M").is_err());
        assert!(open_dirs("1").is_ok() && open_dirs("0").is_err() && open_dirs("9e9").is_err());
        assert!(span("60s").is_ok() && span("0s").is_err() && span("60").is_err());
        assert!(threads("4").is_ok() && threads("0").is_err() && threads("1000").is_err());
    }
}
