//! Keys of a newer epoch for a volume that is open for reading, when it meets what its writer has
//! sealed under them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::file::Volume;
use crate::keys::KeySource;
use crate::lifecycle::open;
use crate::limits::RENEWAL_PAUSE;
use crate::store::Store;

/// Has a volume look at `volume.json` when it meets an epoch that it does not know, and ask for the
/// key once if that knows more. Where that fails it is tried again after [`RENEWAL_PAUSE`]: whoever
/// writes to the store must not have KMS asked for each read.
pub(in crate::lifecycle) fn install(
    volume: &Arc<Volume>,
    store: &Store,
    source: Option<&KeySource>,
) {
    let (store, source) = (store.clone(), source.cloned());
    let failed: Mutex<Option<Instant>> = Mutex::default();
    volume.renew_by(move |epoch| {
        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_some_and(|failed| failed.elapsed() < RENEWAL_PAUSE) {
            return None;
        }
        if store.read_descriptor().ok()?.epoch() < epoch {
            return None;
        }
        match open::prove(&store, source.as_ref()) {
            Ok((keys, _)) => Some(keys),
            Err(error) => {
                *failed = Some(Instant::now());
                tracing::error!(
                    epoch = epoch.0,
                    %error,
                    "the volume has a new epoch, whose key can't be had: what is of it can't be \
                     read until then"
                );
                None
            }
        }
    });
}
