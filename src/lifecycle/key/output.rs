//! The output key of a volume: tried, and written into `volume.json`, where its `mac` is over it.

use crate::keys::{self, KeySource, KmsNotes, OutputKey};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::key::Change;
use crate::store::Store;

/// Has the key make a data key, and returns it as it is to be recorded.
///
/// # Errors
/// Why S3 could not encrypt under it for this caller.
pub(in crate::lifecycle) fn tried(key: &OutputKey) -> Result<OutputKey, VerbError> {
    let trial = keys::try_output(key, &KmsNotes::default())
        .map_err(|error| VerbError::OutputKey { key: key.to_string(), error })?;
    if !trial.tried {
        tracing::warn!(
            "output key {key}: AWS manages it, S3 alone can use it, so it was not tried"
        );
    }
    Ok(trial.key)
}

/// Makes it the output key of a volume that is there. `key` opens the volume, or its slots.
/// Nothing is opened or written if it is the volume's already.
///
/// # Errors
/// See [`VerbError`]; the volume is unchanged then.
pub(in crate::lifecycle) fn set(
    store: &Store,
    output: &OutputKey,
    key: Option<&KeySource>,
) -> Result<(), VerbError> {
    let text = tried(output)?.to_string();
    if store.read_descriptor()?.output_key() == Some(text.as_str()) {
        return Ok(());
    }
    let mut change = Change::of(store)?;
    let opened = change.open(key)?;
    change.found.set_output_key(Some(&text));
    let slots = change.found.slots.clone();
    change.finish(slots, &opened.key)?;
    tracing::info!(output_key = text, "output key set");
    Ok(())
}
