//! `snapshot create`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::format::descriptor::Descriptor;
use crate::format::snapshot::Clear;
use crate::keys::KeySource;
use crate::lifecycle::control::{Client, Request, Response};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::init::unix_ms;
use crate::lifecycle::locate::{Located, daemon, describe, locate};
use crate::lifecycle::open::lock_still;
use crate::lifecycle::snapshot::place::{Moving, Place, failed};
use crate::lifecycle::snapshot::sealed::{Sealing, newest, sealing};
use crate::limits::DESCRIPTOR_WAIT;
use crate::object::{Hold, Moved, Outbox, Plan, Pool, Taken, Target, names};
use crate::store::{LockMode, Store};

/// A snapshot that was taken.
#[derive(Debug)]
pub struct Created {
    /// What it says of itself.
    pub clear: Clear,
    /// What was read and sent for it.
    pub moved: Moved,
    /// How long writers were held up.
    pub paused: Duration,
}

/// Takes a snapshot of a volume, mounted or not.
///
/// # Errors
/// See [`VerbError`]; there is no snapshot then. What was sent is not sent again by the next try.
pub fn create(
    volume: &Path,
    place: &Place,
    key: Option<&KeySource>,
    moving: &Moving,
) -> Result<Created, VerbError> {
    create_by(volume, place, key, moving, None)
}

/// The same, by the keys that [`check`] had, unless `volume.json` was changed since.
///
/// # Errors
/// As [`create`].
pub fn create_by(
    volume: &Path,
    place: &Place,
    key: Option<&KeySource>,
    moving: &Moving,
    ready: Option<Ready>,
) -> Result<Created, VerbError> {
    let (located, store, descriptor) = look(volume)?;
    let target = aim(place, &located, &descriptor, moving)?;
    let text = String::from_utf8_lossy(&descriptor.encode()).into_owned();
    let seal = Arc::new(match ready.filter(|ready| ready.descriptor == text) {
        Some(ready) => ready.sealing,
        None => sealing_of(&descriptor, key, &located)?,
    });
    let hold = Hold::take(&target, descriptor.volume_id).map_err(failed(place))?;
    let outbox = Outbox::new(Arc::clone(&target), descriptor.volume_id, moving.bytes_per_s);
    let (outbox, pool) = (outbox.map_err(failed(place))?, Pool::new(moving.jobs));
    if moving.repair {
        outbox.inspect(&pool).map_err(failed(place))?;
    }
    let mut plan = Plan {
        store: store.path().to_owned(),
        names: Vec::new(),
        descriptor: text,
        parent: newest(place, &target, &*seal)?,
        seal,
        target,
        pool: Arc::new(pool),
        outbox: Arc::new(outbox),
    };
    let (taken, paused) = match writer(store.path()) {
        Some((client, mountpoints)) => {
            let located = Located { mountpoints, ..located };
            live(client, &located, &store, &mut plan, place, key)?
        }
        None => (stopped(&store, &mut plan, place, key)?, Duration::ZERO),
    };
    let check = || hold.check().map_err(failed(place));
    let finished = plan.finish(taken, || check().map_err(Stopped::Verb));
    let (clear, moved) = finished.map_err(|error| match error {
        Stopped::Verb(error) => error,
        Stopped::Snapshot(error) => failed(place)(error),
    })?;
    tracing::info!(id = clear.id, ?moved, ?paused, "snapshot");
    Ok(Created { clear, moved, paused })
}

/// Why the last step was not done.
pub(in crate::lifecycle) enum Stopped {
    Verb(VerbError),
    Snapshot(crate::object::SnapshotError),
}

impl From<crate::object::SnapshotError> for Stopped {
    fn from(error: crate::object::SnapshotError) -> Self {
        Self::Snapshot(error)
    }
}

/// The daemon here that has the volume open for writing, and its mountpoints. It hangs up on who
/// asks nothing for a while.
fn writer(store: &Path) -> Option<(Client, Vec<PathBuf>)> {
    let (client, report) = daemon(store, None)?;
    let writes = report.daemon.as_ref().is_some_and(|daemon| !daemon.read_only);
    writes.then_some((client, report.mountpoints))
}

/// Of a volume that nobody writes.
fn stopped(
    store: &Store,
    plan: &mut Plan,
    place: &Place,
    key: Option<&KeySource>,
) -> Result<Taken, VerbError> {
    let lock = lock_still(store)?;
    let unchanged = store.lock_descriptor(LockMode::Shared, DESCRIPTOR_WAIT)?;
    renew(store, plan, key)?;
    plan.names = names(store.path(), true);
    let taken = plan.take(None, unix_ms()).map_err(failed(place))?;
    drop(unchanged);
    store.still_free(&lock)?;
    Ok(taken)
}

/// Of a volume that a daemon here serves.
fn live(
    mut client: Client,
    located: &Located,
    store: &Store,
    plan: &mut Plan,
    place: &Place,
    key: Option<&KeySource>,
) -> Result<(Taken, Duration), VerbError> {
    plan.names = names(store.path(), false);
    // What is committed and in its place by now is not read while writers wait.
    settle(located)?;
    ask(&mut client, &Request::Freeze, &located.store)?;
    ask(&mut client, &Request::Thaw, &located.store)?;
    drop(client);
    let ahead = plan.ahead().map_err(failed(place))?;
    // Before writers are held up: who changes keys may have to wait for KMS.
    let unchanged = store.lock_descriptor(LockMode::Shared, DESCRIPTOR_WAIT)?;
    renew(store, plan, key)?;
    settle(located)?;
    plan.defer().map_err(failed(place))?;
    let ended = || VerbError::NotMounted(located.store.clone());
    let (mut client, _) = writer(store.path()).ok_or_else(ended)?;
    let began = Instant::now();
    ask(&mut client, &Request::Freeze, &located.store)?;
    let taken = plan.take(ahead, unix_ms()).map_err(failed(place))?;
    // If the daemon died meanwhile, nobody kept writers out.
    let silent = |_| VerbError::Silent {
        store: located.store.clone(),
        found: "it ended while the snapshot was taken; take another".into(),
    };
    ask(&mut client, &Request::Thaw, &located.store).map_err(silent)?;
    let paused = began.elapsed();
    drop(unchanged);
    Ok((taken, paused))
}

/// Takes `volume.json` as it is now, which is locked: its slots may have changed.
fn renew(store: &Store, plan: &mut Plan, key: Option<&KeySource>) -> Result<(), VerbError> {
    let now = store.read_descriptor()?;
    let text = String::from_utf8_lossy(&now.encode()).into_owned();
    if text != plan.descriptor {
        plan.seal = Arc::new(sealing(&now, key, &store.path().display().to_string())?);
        plan.descriptor = text;
    }
    Ok(())
}

/// What programs wrote to mapped memory is still in the kernel.
fn settle(located: &Located) -> Result<(), VerbError> {
    for mountpoint in &located.mountpoints {
        let synced = std::fs::File::open(mountpoint)
            .and_then(|root| rustix::fs::syncfs(&root).map_err(std::io::Error::from));
        synced.map_err(|error| match error.raw_os_error() {
            Some(libc::EKEYREVOKED) => VerbError::locked(&located.store),
            _ => VerbError::local(mountpoint, "can't sync it")(error),
        })?;
    }
    Ok(())
}

fn ask(client: &mut Client, request: &Request, store: &Path) -> Result<(), VerbError> {
    let silent = |found: String| VerbError::Silent { store: store.to_owned(), found };
    match client.ask(request) {
        Ok(Response::Done) => Ok(()),
        Ok(Response::Failed { code, text }) => Err(VerbError::Daemon { code, text }),
        Ok(_) => Err(silent("it gave another answer".into())),
        Err(error) => Err(silent(format!("no answer to a freeze: {error}"))),
    }
}

/// The keys of a volume that is to be stopped.
#[derive(Debug)]
pub struct Ready {
    sealing: Sealing,
    /// `volume.json`, by which they were had.
    descriptor: String,
}

/// Looks whether a snapshot can be taken later: whether its target can be listed and, in S3, be
/// written, and whether the key can be had.
///
/// # Errors
/// As [`create`].
pub fn check(
    volume: &Path,
    place: &Place,
    key: Option<&KeySource>,
    moving: &Moving,
) -> Result<Ready, VerbError> {
    let (located, _, descriptor) = look(volume)?;
    let target = aim(place, &located, &descriptor, moving)?;
    target.volumes().map_err(failed(place))?;
    if place.directory().is_none() {
        // Put and removed again: what policies allow is known by no other way.
        drop(Hold::take(&target, descriptor.volume_id).map_err(failed(place))?);
    }
    let sealing = sealing_of(&descriptor, key, &located)?;
    let descriptor = String::from_utf8_lossy(&descriptor.encode()).into_owned();
    Ok(Ready { sealing, descriptor })
}

fn look(volume: &Path) -> Result<(Located, Store, Descriptor), VerbError> {
    let located = locate(volume)?;
    let (store, descriptor) = describe(&located.store)?;
    Ok((located, store, descriptor))
}

/// The target, as it encrypts what is put there of this volume.
fn aim(
    place: &Place,
    located: &Located,
    descriptor: &Descriptor,
    moving: &Moving,
) -> Result<Arc<dyn Target>, VerbError> {
    let target = place.open_for(&located.store, &located.mountpoints)?;
    Ok(target.with_sse(moving.encryption.sse(descriptor.output_key())?))
}

fn sealing_of(
    descriptor: &Descriptor,
    key: Option<&KeySource>,
    located: &Located,
) -> Result<Sealing, VerbError> {
    if descriptor.slots.is_empty() {
        return Err(VerbError::TransientSnapshot(located.store.clone()));
    }
    sealing(descriptor, key, &located.store.display().to_string())
}
