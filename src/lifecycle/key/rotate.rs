//! `key rotate`: a new volume key and a new epoch, and if asked for, the files of earlier epochs
//! under it.
//!
//! First `volume.json` is replaced: the volume key by a new one, which every slot has to wrap, so
//! that no copy of the old description opens what is sealed from now on; and one more epoch under
//! it. Then the daemons here take the epoch up. What is done to the files then is noted in
//! `volume.json` before it begins and struck off when it has come to its end: run again, it goes on
//! with the epoch that there is.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cipher::{Secret, VolumeKeys};
use crate::file::{Rekey, Rekeyed};
use crate::format::{Descriptor, Epoch, Pending, Slot, Work};
use crate::keys::{self, KeySource};
use crate::lifecycle::control::{Client, Request, Response};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::key::Change;
use crate::lifecycle::locate::{Located, daemon, locate};
use crate::lifecycle::open::{self, Access, Tuning};
use crate::lifecycle::report::SlotReport;

/// What a rotation did.
#[derive(Debug, Serialize)]
pub struct Rotated {
    /// Directory of the store.
    pub store: PathBuf,
    /// Epoch of what is made new.
    pub epoch: Epoch,
    /// Whether it is one that an interrupted run had made, whose work this one went on with.
    pub resumed: bool,
    /// Key slots, all of which wrap the new volume key.
    pub slots: Vec<SlotReport>,
    /// Mounts here that have taken it up.
    pub mounts: usize,
    /// What was done to the files of earlier epochs.
    pub work: Option<Work>,
    /// How much of that.
    pub files: Option<Rekeyed>,
}

/// How a volume is rotated.
#[derive(Clone, Copy, Debug, Default)]
pub struct RotateOptions<'a> {
    /// What is done to the files of earlier epochs.
    pub work: Option<Work>,
    /// Bytes of headers and data written a second for that, at most.
    pub bytes_per_s: Option<u64>,
    /// Replaces what the slots say, to open the volume key.
    pub key: Option<&'a KeySource>,
}

/// Makes a new epoch for what is made from now on, unless one is there whose work was interrupted,
/// and does that work. `progress` is told how far it is, and says whether to go on.
///
/// # Errors
/// See [`VerbError`]. Before the new description is in its place the volume is unchanged, and it
/// says so; after that it is whole, and the work can be gone on with.
pub fn rotate(
    volume: &Path,
    options: &RotateOptions<'_>,
    progress: &mut dyn FnMut(&Rekeyed) -> bool,
) -> Result<Rotated, VerbError> {
    // It opens the volume up to four times, and what comes by a descriptor comes once.
    let _kept = keys::keep_descriptors();
    let located = locate(volume)?;
    let change = Change::begin(volume)?;
    let begun = change.found.pending();
    let resumed = match (begun, options.work) {
        (Some(begun), Some(wanted)) if begun.work == wanted => true,
        (Some(Pending { work: Work::Reencrypt, .. }), Some(Work::Rewrap)) => {
            return Err(VerbError::Reencrypting(change.path));
        }
        _ => false,
    };
    let (epoch, slots) = match resumed {
        true => {
            let found = change.given_up();
            (found.epoch(), found.slots)
        }
        false => rotate_in(change, options)?,
    };
    let store = located.store.clone();
    let (mut writer, mounts) = tell(&located)?;
    let mut rotated = Rotated {
        store,
        epoch,
        resumed,
        slots: slots.iter().map(SlotReport::of).collect(),
        mounts,
        work: options.work,
        files: None,
    };
    let Some(work) = options.work else { return Ok(rotated) };
    let how = Rekey { work, bytes_per_s: options.bytes_per_s };
    let done = match &mut writer {
        Some(writer) => ask_to_rekey(&rotated.store, writer, how, progress)?,
        None => {
            let opened =
                open::open(&rotated.store, options.key, Access::Write, &Tuning::default())?;
            let done = opened.volume.rekey(&how, progress);
            done.map_err(|error| VerbError::rekey(&rotated.store, error))?
        }
    };
    rotated.files = Some(done);
    if done.finished {
        let pending = begun.filter(|_| resumed).unwrap_or(Pending { work, epoch });
        end_work(Change::begin(volume)?, pending, done.halves > 0, options.key)?;
    }
    Ok(rotated)
}

/// Replaces the description. Returns the new epoch, and the slots.
pub(super) fn rotate_in(
    change: Change,
    options: &RotateOptions<'_>,
) -> Result<(Epoch, Vec<Slot>), VerbError> {
    let opened = change.open(options.key)?;
    let mut changed = change.found.clone();
    let epoch = changed.epoch().0.checked_add(1).map(Epoch);
    let epoch = epoch.ok_or_else(|| VerbError::NoEpochNumber(change.path.clone()))?;
    let fresh = Secret::random();
    let untrusted = |error| VerbError::Untrusted { path: change.path.clone(), error };
    VolumeKeys::move_epochs(&opened.key, &fresh, &mut changed).map_err(untrusted)?;
    VolumeKeys::add_epoch(&fresh, &mut changed, epoch);
    if let Some(work) = options.work {
        changed.set_pending(Some(Pending { work, epoch }));
        changed.set_two_keys(changed.may_have_two_keys() || work == Work::Reencrypt);
    }
    let mut slots = Vec::new();
    for slot in &changed.slots {
        let unwrapped = |error| VerbError::KeySlotUnreached {
            store: change.path.clone(),
            slot: format!("{} ({}:{})", slot.id, slot.provider, slot.key).into(),
            error,
        };
        let again = keys::wrap_again(&fresh, slot, options.key, &change.context());
        slots.push(again.map_err(unwrapped)?);
    }
    changed.set_slots(slots.clone());
    VolumeKeys::authenticate(&fresh, &mut changed);
    for slot in &slots {
        let key = options.key.filter(|_| slot.provider == keys::FD);
        change.try_new(slot, key, &changed)?;
    }
    let Change { lock, .. } = change;
    lock.replace(&changed)?;
    tracing::info!(epoch = epoch.0, slots = slots.len(), "volume key and epoch are new");
    Ok((epoch, slots))
}

/// The work on files has come to its end.
pub(super) fn end_work(
    change: Change,
    done: Pending,
    two_keys: bool,
    key: Option<&KeySource>,
) -> Result<(), VerbError> {
    if change.found.pending() != Some(done) {
        return Ok(());
    }
    let opened = change.open(key)?;
    let strike_off = |changed: &mut Descriptor| {
        changed.set_pending(None);
        if done.work == Work::Reencrypt {
            changed.set_two_keys(two_keys);
        }
    };
    change.finish_as(strike_off, &opened.key)
}

/// Has each daemon here take up the epoch that there is now. Returns the one that writes, and how
/// many have.
///
/// # Errors
/// One that can't.
fn tell(located: &Located) -> Result<(Option<Client>, usize), VerbError> {
    let (mut writer, mut count) = (None, 0);
    let (mut served, mut failed): (Vec<PathBuf>, _) = (Vec::new(), None);
    for mountpoint in &located.mountpoints {
        if served.contains(mountpoint) {
            continue;
        }
        let Some((mut client, report)) = daemon(&located.store, Some(mountpoint)) else {
            tracing::warn!(
                "{}: its daemon does not answer here; it takes up the new epoch when it looks at \
                 its key next (--key-recheck)",
                mountpoint.display()
            );
            continue;
        };
        served.extend(report.mountpoints);
        match ask(&located.store, &mut client, &Request::TakeUp) {
            Ok(()) => count += 1,
            Err(error) => failed = Some(error),
        }
        if report.daemon.is_some_and(|daemon| !daemon.read_only) {
            writer = Some(client);
        }
    }
    failed.map_or(Ok((writer, count)), Err)
}

fn silent(store: &Path, found: &str) -> VerbError {
    VerbError::Silent { store: store.to_owned(), found: found.to_owned() }
}

fn ask(store: &Path, client: &mut Client, request: &Request) -> Result<(), VerbError> {
    match client.ask(request) {
        Ok(Response::Done) => Ok(()),
        Ok(Response::Failed { code, text }) => Err(VerbError::Daemon { code, text }),
        Ok(_) => Err(silent(store, "it gave another answer")),
        Err(error) => Err(silent(store, &format!("no answer: {error}"))),
    }
}

/// Has a daemon do it; it stops when this command ends.
fn ask_to_rekey(
    store: &Path,
    client: &mut Client,
    how: Rekey,
    progress: &mut dyn FnMut(&Rekeyed) -> bool,
) -> Result<Rekeyed, VerbError> {
    let mut answer = client.ask(&Request::Rekey { how });
    loop {
        match answer {
            Ok(Response::Rekeying { done }) => {
                if !progress(&done) {
                    return Ok(done);
                }
            }
            Ok(Response::Rekeyed { done }) => return Ok(done),
            Ok(Response::Failed { code, text }) => return Err(VerbError::Daemon { code, text }),
            Ok(_) => return Err(silent(store, "it gave another answer")),
            Err(error) => return Err(silent(store, &format!("no answer: {error}"))),
        }
        answer = client.answer();
    }
}

#[cfg(test)]
mod tests;
