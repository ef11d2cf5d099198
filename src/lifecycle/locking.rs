//! `lock` and `unlock`: what a daemon does by itself when a key is taken away, done by hand.

use std::path::Path;

use crate::lifecycle::control::{Client, Request, Response};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::locate::daemons;

/// Has every daemon of a volume commit what was written and let go of its keys. Nothing to do for
/// one that is locked already; it stays so, also if the key works.
///
/// # Errors
/// Not mounted, a transient key, or what can't be committed: that daemon stays unlocked.
pub fn lock(volume: &Path) -> Result<(), VerbError> {
    daemons(volume)?.into_iter().try_for_each(|client| ask(volume, client, &Request::Lock))
}

/// Has every daemon of a volume get its key and go on. `key` replaces what it was mounted with.
///
/// # Errors
/// Not mounted, or no key: that daemon stays locked.
pub fn unlock(volume: &Path, key: Option<&str>) -> Result<(), VerbError> {
    let request = Request::Unlock { key: key.map(str::to_owned) };
    daemons(volume)?.into_iter().try_for_each(|client| ask(volume, client, &request))
}

fn ask(volume: &Path, mut client: Client, request: &Request) -> Result<(), VerbError> {
    let silent = |found: String| VerbError::Silent { store: volume.to_owned(), found };
    match client.ask(request) {
        Ok(Response::Done) => Ok(()),
        Ok(Response::Failed { code, text }) => Err(VerbError::Daemon { code, text }),
        Ok(_) => Err(silent("it gave another answer".into())),
        Err(error) => Err(silent(format!("no answer: {error}"))),
    }
}
