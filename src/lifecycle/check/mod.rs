//! `check`: walks a store and says what is not as it was written, with the key or without.
//!
//! | module    | holds                                                        |
//! |-----------|--------------------------------------------------------------|
//! | `finding` | what a check finds, and counts                               |
//! | `walk`    | directories and names                                        |
//! | `judge`   | contents, links, extended attributes, with the key           |
//! | `shape`   | the same without it: only whether they have the right form   |
//! | `queue`   | work that several threads do                                 |
//! | `repair`  | what is done about what was found                            |
//! | `lost`    | `lost+found`, and what is put there                          |

mod finding;
mod judge;
mod lost;
mod queue;
mod repair;
mod shape;
mod walk;

use std::num::NonZero;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::format::utc::Utc;
use crate::keys::KeySource;
use crate::lifecycle::check::walk::Walk;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::init::unix_ms;
use crate::lifecycle::locate::locate;
use crate::lifecycle::open::{Access, Tuning, find_store, open, open_to_look};
use crate::lifecycle::process::raise_file_limit;
use crate::limits::READ_BESIDE_WAIT;
use crate::store::{Durability, Store, StoreError};

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
    /// Path in the volume of the report of a repair.
    pub report: Option<String>,
}

impl Checked {
    /// Whether something that was written can't be read.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(Finding::is_open)
    }
}

/// How often a store is checked beside a writer, at most.
const LOOKS_BESIDE: u32 = 3;

fn threads_of(wanted: Option<NonZero<usize>>) -> NonZero<usize> {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    wanted.unwrap_or_else(cores)
}

/// Checks a store, and repairs it: nothing that could be read before can't be read after.
///
/// # Errors
/// See [`VerbError`].
pub fn repair(
    volume: &Path,
    key: Option<&KeySource>,
    threads: Option<NonZero<usize>>,
    progress: &mut dyn FnMut(Counts),
) -> Result<Checked, VerbError> {
    let located = locate(volume)?;
    if let Some(mountpoint) = located.mountpoints.first() {
        let (store, mountpoint) = (located.store, mountpoint.clone());
        return Err(VerbError::Mounted { store, mountpoint });
    }
    raise_file_limit();
    let threads = threads_of(threads);
    let tuning = Tuning { threads: Some(threads), ..Tuning::default() };
    let opened = open(&located.store, key, Access::Write, &tuning)?;
    let store = Store::open(&opened.path)?;
    let mut checked = walk(&store, Some(&opened.volume), threads, progress)?;
    if checked.findings.is_empty() {
        return Ok(checked);
    }
    let fail = || VerbError::file(&opened.path);
    let (tree, links) = (store.tree(Durability::Strict)?, store.links(Durability::Strict)?);
    repair::root(&opened.volume, &tree, &mut checked.findings).map_err(fail())?;
    let root = opened.volume.root().map_err(fail())?;
    let lost = lost::Lost::open(&root).map_err(fail())?;
    let all_seen = checked.findings.iter().all(|finding| finding.harmless);
    let repair =
        repair::Repair { volume: &opened.volume, store: store.path(), tree, links, lost, all_seen };
    repair.all(&mut checked.findings);
    let now = unix_ms();
    let stem = format!("report-{}.txt", Utc::from_unix_ms(now).compact());
    let lines = checked.findings.iter().map(|finding| finding.line() + "\n");
    let text = format!("{}\n{}", Utc::from_unix_ms(now), lines.collect::<String>());
    let report = repair.lost.bytes(stem.as_bytes(), text.as_bytes()).map_err(fail())?;
    checked.report = Some(report);
    Ok(checked)
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
            store.read_descriptor()?;
            beside_a_writer(&store, &mut || walk(&store, None, threads, progress))
        }
        How::Open(key) => {
            let tuning = Tuning { threads: Some(threads), ..Tuning::default() };
            let opened = open_to_look(&path, key, &tuning)?;
            let (store, volume) = (Store::open(&opened.path)?, Some(&*opened.volume));
            beside_a_writer(&store, &mut || walk(&store, volume, threads, progress))
        }
    }
}

/// Checks a store, and again while somebody may be writing it: what was found then may be half of
/// a change, and is reported only if it is there each time.
fn beside_a_writer(
    store: &Store,
    walk: &mut dyn FnMut() -> Result<Checked, VerbError>,
) -> Result<Checked, VerbError> {
    let writers =
        store.writers().map_err(VerbError::local(store.path(), "can't look for writers"))?;
    let mut checked = walk()?;
    for _ in 1..LOOKS_BESIDE {
        if checked.findings.is_empty() || !writers.may_be_there() {
            break;
        }
        // By then it is committed, or in its place.
        std::thread::sleep(READ_BESIDE_WAIT);
        let before = std::mem::replace(&mut checked, walk()?);
        checked.findings.retain(|now| {
            let same = |then: &Finding| (then.kind, &then.stored) == (now.kind, &now.stored);
            before.findings.iter().any(same)
        });
    }
    Ok(checked)
}

fn walk(
    store: &Store,
    volume: Option<&crate::file::Volume>,
    threads: NonZero<usize>,
    progress: &mut dyn FnMut(Counts),
) -> Result<Checked, VerbError> {
    let local = |action| VerbError::local(store.path(), action);
    let is_left = !store.writers().map_err(local("can't look for writers"))?.may_be_there();
    // With the key the volume looks, and says what is wrong with it.
    let sessions = match volume {
        Some(_) => None,
        None => shape::sessions(&store.session_file(), is_left).unwrap_or_default(),
    };
    let walk = Walk::new(volume, store.links(Durability::Strict)?, sessions);
    let mut findings =
        walk.all(store.tree(Durability::Strict)?, threads, progress).map_err(|error| {
            let path = store.path().join("links");
            StoreError::Sys { path, action: "can't list it", error }
        })?;
    if store.path().join("volume.json.new").symlink_metadata().is_ok() {
        let reason = "what an interrupted change of volume.json leaves";
        findings.push(Finding::new(FindingKind::Leftover, "volume.json.new".into(), None, reason));
    }
    let (store, opened) = (store.path().to_owned(), volume.is_some());
    Ok(Checked { store, opened, counts: walk.counting.now(), findings, report: None })
}
