//! Finds a volume by its store or its mountpoint, and the daemon that serves it.

use std::path::{Path, PathBuf};

use crate::format::descriptor::Descriptor;
use crate::lifecycle::control::{Client, Request, Response};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::mounts;
use crate::lifecycle::open::find_store;
use crate::lifecycle::report::Report;
use crate::store::Store;

/// A volume as it was named.
#[derive(Debug)]
pub struct Located {
    /// Directory of its store, without links and dots.
    pub store: PathBuf,
    /// Where it is mounted now, in the order of mounting.
    pub mountpoints: Vec<PathBuf>,
    /// Whether it was named by a mountpoint.
    pub by_mountpoint: Option<PathBuf>,
}

/// The volume at a path: the mountpoint or the store of one.
///
/// # Errors
/// Neither is there.
pub fn locate(path: &Path) -> Result<Located, VerbError> {
    let real = mounts::canonical(path).unwrap_or_else(|_| path.to_owned());
    let listed = VerbError::local(path, "can't read the list of mounts");
    let (store, by_mountpoint) = match mounts::at(&real).map_err(listed)? {
        Some(mount) => (mount.store, Some(real)),
        None => (find_store(&real)?.path().to_owned(), None),
    };
    let mountpoints = mounts::of_store(&store)
        .map_err(VerbError::local(path, "can't read the list of mounts"))?;
    Ok(Located { store, mountpoints, by_mountpoint })
}

/// The description of a store, unchecked: enough for `status`.
///
/// # Errors
/// No usable store there.
pub fn describe(store: &Path) -> Result<(Store, Descriptor), VerbError> {
    let store = find_store(store)?;
    let descriptor = store.read_descriptor()?;
    Ok((store, descriptor))
}

/// All daemons that serve a volume here: the one that writes, and those that read.
///
/// # Errors
/// No volume there, or nobody has it mounted.
pub fn daemons(path: &Path) -> Result<Vec<Client>, VerbError> {
    let located = locate(path)?;
    let mut served: Vec<PathBuf> = Vec::new();
    let mut clients = Vec::new();
    for mountpoint in &located.mountpoints {
        if served.contains(mountpoint) {
            continue;
        }
        let found = "no daemon answers for a mount of it".to_owned();
        let silent = || VerbError::Silent { store: located.store.clone(), found };
        let (client, report) = daemon(&located.store, Some(mountpoint)).ok_or_else(silent)?;
        served.extend(report.mountpoints);
        clients.push(client);
    }
    if clients.is_empty() { Err(VerbError::NotMounted(path.to_owned())) } else { Ok(clients) }
}

/// A connection to the daemon that serves this mountpoint of this store, or any of the store's
/// daemons, and what it says of itself; `None` if none answers.
pub fn daemon(store: &Path, mountpoint: Option<&Path>) -> Option<(Client, Report)> {
    // A store that its own mount hides is known by the mountpoint alone.
    let described = describe(store).ok();
    if described.is_none() && mountpoint.is_none() {
        return None;
    }
    let holder = described.as_ref().and_then(|(store, _)| store.holder());
    let named = holder.and_then(|holder| holder.socket);
    let volume_id = described.map(|(_, descriptor)| descriptor.volume_id.to_string());
    let prefix = volume_id.as_ref().map_or_else(String::new, |id| format!("{id}-"));
    let dir = crate::config::runtime_dir().ok();
    let listed = dir.and_then(|dir| dir.read_dir().ok()).into_iter().flatten().flatten();
    let of_volume =
        |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&prefix);
    let sockets = listed.filter(of_volume).map(|entry| entry.path());
    named.into_iter().chain(sockets).find_map(|socket| {
        let mut client = Client::connect(&socket).ok()?;
        let Ok(Response::Status { report }) = client.ask(&Request::Status) else { return None };
        let serves = |path: &Path| report.mountpoints.iter().any(|other| other == path);
        let is_it = volume_id.as_ref().is_none_or(|id| report.volume_id.to_string() == *id);
        let fits = is_it && mountpoint.is_none_or(serves);
        fits.then_some((client, *report))
    })
}
