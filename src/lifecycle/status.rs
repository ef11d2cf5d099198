//! `status`: all volumes that are mounted here, or one.

use std::path::{Path, PathBuf};

use crate::lifecycle::error::VerbError;
use crate::lifecycle::locate::{daemon, describe, locate};
use crate::lifecycle::mounts;
use crate::lifecycle::report::{Report, State, of_store};

/// Volumes that are mounted here and whose store this user may look into.
///
/// # Errors
/// The list of mounts can't be read.
pub fn all() -> Result<Vec<Report>, VerbError> {
    let mounts =
        mounts::ours().map_err(VerbError::local(Path::new("/proc/self/mountinfo"), "read"))?;
    let mut reports: Vec<Report> = Vec::new();
    for mount in mounts {
        let known = |report: &Report| report.mountpoints.contains(&mount.mountpoint);
        if !reports.iter().any(known) {
            reports.extend(mounted(&mount.store, mount.mountpoint));
        }
    }
    Ok(reports)
}

/// Every daemon of the volume at a path; if there is none, what its store says.
///
/// # Errors
/// No volume there.
pub fn one(volume: &Path) -> Result<Vec<Report>, VerbError> {
    let located = locate(volume)?;
    if located.mountpoints.is_empty() {
        let (store, descriptor) = describe(&located.store)?;
        let report = of_store(store.path(), &descriptor, State::Stopped);
        return Ok(vec![Report { holder: store.claimant(), ..report }]);
    }
    let mut reports: Vec<Report> = Vec::new();
    for mountpoint in located.mountpoints {
        if !reports.iter().any(|report| report.mountpoints.contains(&mountpoint)) {
            reports.extend(mounted(&located.store, mountpoint));
        }
    }
    Ok(reports)
}

/// `None` for a mount whose store this user may not look into.
fn mounted(store: &Path, mountpoint: PathBuf) -> Option<Report> {
    if let Some((_, report)) = daemon(store, Some(&mountpoint)) {
        return Some(report);
    }
    let (store, descriptor) = describe(store).ok()?;
    let report = of_store(store.path(), &descriptor, State::Unreachable);
    Some(Report { mountpoints: vec![mountpoint], holder: store.claimant(), ..report })
}
