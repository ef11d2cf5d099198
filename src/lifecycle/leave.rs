//! `umount` and `stop`: the daemon is asked to unmount and commit, and waited for until its keys
//! are gone with it.

use std::path::{Path, PathBuf};

use crate::lifecycle::control::{Client, Request, Response};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::locate::{daemon, locate};
use crate::lifecycle::mounts::{self, Detach};
use crate::lifecycle::open::find_store;
use crate::lifecycle::process::Process;
use crate::lifecycle::report::Report;
use crate::limits::{LEAVE_WAIT, LOCK_WAIT};

/// Unmounts one mountpoint, and waits until what was written there is committed; the daemon of a
/// volume without further mountpoints has ended then.
///
/// # Errors
/// Not a mount of ours, busy, or what could not be committed.
pub fn umount(mountpoint: &Path) -> Result<(), VerbError> {
    let not_mounted = || VerbError::NotMounted(mountpoint.to_owned());
    let real = mounts::canonical(mountpoint).map_err(|_| not_mounted())?;
    let listed = VerbError::local(mountpoint, "can't read the list of mounts");
    let mount = mounts::at(&real).map_err(listed)?.ok_or_else(not_mounted)?;
    match daemon(&mount.store, Some(&real)) {
        Some((client, report)) => {
            let is_last = report.mountpoints.len() <= 1;
            ask(client, &report, Some(real), is_last)
        }
        None => without_daemon(&real, &mount.store),
    }
}

/// Unmounts all mountpoints of a volume, and waits for its daemons. Returns those mountpoints;
/// none if it was stopped already.
///
/// # Errors
/// Busy, or what could not be committed.
pub fn stop(volume: &Path) -> Result<Vec<PathBuf>, VerbError> {
    let located = locate(volume)?;
    let listed = || VerbError::local(volume, "can't read the list of mounts");
    // A volume may have several daemons that read.
    while let Some(mountpoint) =
        mounts::of_store(&located.store).map_err(listed())?.into_iter().next_back()
    {
        match daemon(&located.store, Some(&mountpoint)) {
            Some((client, report)) => ask(client, &report, None, true)?,
            None => without_daemon(&mountpoint, &located.store)?,
        }
    }
    Ok(located.mountpoints)
}

fn ask(
    mut client: Client,
    report: &Report,
    mountpoint: Option<PathBuf>,
    wait_for_end: bool,
) -> Result<(), VerbError> {
    let silent = |found: String| VerbError::Silent { store: report.store.clone(), found };
    let pid = report.daemon.as_ref().map_or(0, |daemon| daemon.pid);
    // Opened before the request, so that it is this process and not a later one of the same id.
    let process = Process::open(pid).map_err(|error| silent(error.to_string()))?;
    match client.ask(&Request::Unmount { mountpoint }) {
        Ok(Response::Done) => {}
        Ok(Response::Failed { code, text }) => return Err(VerbError::Daemon { code, text }),
        Ok(_) => return Err(silent("it gave another answer".into())),
        Err(error) => return Err(silent(format!("no answer to an unmount: {error}"))),
    }
    drop(client);
    let Some(process) = process.filter(|_| wait_for_end) else { return Ok(()) };
    match process.ended_within(LEAVE_WAIT) {
        Ok(true) => Ok(()),
        Ok(false) => Err(silent(format!("process {pid} unmounted, but does not end"))),
        Err(error) => Err(silent(error.to_string())),
    }
}

/// For a mount whose daemon is dead, or does not answer.
fn without_daemon(mountpoint: &Path, store: &Path) -> Result<(), VerbError> {
    mounts::detach(mountpoint, Detach::WhenUnused).map_err(|error| {
        if error.kind() == std::io::ErrorKind::ResourceBusy {
            let processes = mounts::users_of(mountpoint);
            return VerbError::Busy { path: mountpoint.to_owned(), processes };
        }
        VerbError::local(mountpoint, "can't unmount it")(error)
    })?;
    // Taking the lock is how the end of a daemon is seen that did not say who it is.
    if let Ok(store) = find_store(store) {
        store.await_unlocked(LOCK_WAIT)?;
    }
    Ok(())
}
