//! `check`: walks a store and says what is not as it was written, with the key or without.
//!
//! | module    | holds                                                        |
//! |-----------|--------------------------------------------------------------|
//! | `finding` | what a check finds, and counts                               |
//! | `walk`    | directories and names                                        |
//! | `judge`   | contents, links, extended attributes, with the key           |
//! | `shape`   | the same without it: only whether they have the right form   |
//! | `queue`   | work that several threads do                                 |

mod finding;
mod judge;
mod queue;
mod shape;
mod walk;

use std::num::NonZero;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::keys::KeySource;
use crate::lifecycle::check::walk::Walk;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::locate::locate;
use crate::lifecycle::open::{Access, Tuning, find_store, lock, open};
use crate::lifecycle::process::raise_file_limit;
use crate::store::{Store, StoreError};

pub use finding::{Counts, Finding, FindingKind};

/// How a store is checked.
#[derive(Clone, Copy, Debug)]
pub enum How<'a> {
    /// Without a key: only the form of what is there.
    Form,
    /// Everything is opened; a key source may replace what the slots say.
    Open(Option<&'a KeySource>),
}

/// What a check says.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// The store.
    pub store: PathBuf,
    /// Whether everything was opened, or only its form looked at.
    pub opened: bool,
    /// What was looked at.
    pub counts: Counts,
    /// What is not as it should be, by stored path.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// Whether something that was written can't be read.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(Finding::is_open)
    }
}

fn threads_of(wanted: Option<NonZero<usize>>) -> NonZero<usize> {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    wanted.unwrap_or_else(cores)
}

/// Checks a store; `progress` hears every so often how far it is.
///
/// # Errors
/// See [`VerbError`]: what keeps the store from being checked at all.
pub fn check(
    volume: &Path,
    how: How<'_>,
    threads: Option<NonZero<usize>>,
    progress: &mut dyn FnMut(Counts),
) -> Result<Checked, VerbError> {
    let path = locate(volume)?.store;
    raise_file_limit();
    let threads = threads_of(threads);
    match how {
        How::Form => {
            let store = find_store(&path)?;
            let _lock = lock(&store, Access::Read)?;
            store.read_descriptor()?;
            walk(&store, None, threads, progress)
        }
        How::Open(key) => {
            let tuning = Tuning { threads: Some(threads), ..Tuning::default() };
            let opened = open(&path, key, Access::Read, &tuning)?;
            walk(&Store::open(&opened.path)?, Some(&opened.volume), threads, progress)
        }
    }
}

fn walk(
    store: &Store,
    volume: Option<&crate::file::Volume>,
    threads: NonZero<usize>,
    progress: &mut dyn FnMut(Counts),
) -> Result<Checked, VerbError> {
    let walk = Walk::new(volume, store.links()?);
    let mut findings = walk.all(store.tree()?, threads, progress).map_err(|error| {
        let path = store.path().join("links");
        StoreError::Sys { path, action: "can't list it", error }
    })?;
    if store.path().join("volume.json.new").symlink_metadata().is_ok() {
        let reason = "what an interrupted change of volume.json leaves";
        findings.push(Finding::new(FindingKind::Leftover, "volume.json.new".into(), None, reason));
    }
    let (store, opened) = (store.path().to_owned(), volume.is_some());
    Ok(Checked { store, opened, counts: walk.counting.now(), findings })
}
