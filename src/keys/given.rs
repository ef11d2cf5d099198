//! Keys of 32 bytes that wrap the volume key on this machine: of a key file, of a descriptor, or
//! kept in Secrets Manager. Each may stand for another: what counts is the bytes.

use std::path::Path;

use crate::cipher::{Secret, unwrap_secret, wrap_secret};
use crate::format::Slot;
use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::notes::KmsNotes;
use crate::keys::source::{FD, FILE, KeySource, LOCAL, SECRETS_MANAGER};
use crate::keys::{file, local, secrets_manager};

/// A key and what a slot records of it.
pub(super) struct Given {
    pub(super) provider: &'static str,
    /// Path of the file, or ARN of the secret; empty for a descriptor, which is nowhere later.
    pub(super) key: String,
    kek: Secret,
}

/// The key of a source, to wrap with: `local` makes its file. `None` for a source that is another
/// way to wrap.
pub(super) fn to_wrap(
    source: &KeySource,
    context: &Context<'_>,
) -> Result<Option<Given>, KeyError> {
    let given = of_source(source, context, &KmsNotes::default(), local::read_or_make)?;
    Ok(given.map(|given| match source {
        KeySource::Fd(_) => Given { key: String::new(), ..given },
        _ => given,
    }))
}

/// The key of a source, to unwrap with; nothing is made. As [`to_wrap`], but for a descriptor,
/// which is named as it was typed.
pub(super) fn to_open(
    source: &KeySource,
    context: &Context<'_>,
    notes: &KmsNotes,
) -> Result<Option<Given>, KeyError> {
    of_source(source, context, notes, file::read)
}

fn of_source(
    source: &KeySource,
    context: &Context<'_>,
    notes: &KmsNotes,
    local: impl Fn(&Path) -> Result<Secret, KeyError>,
) -> Result<Option<Given>, KeyError> {
    let (provider, key, kek) = match source {
        KeySource::Transient | KeySource::Kms(_) => return Ok(None),
        KeySource::Local(path) => {
            let path = local::path(path.as_deref())?;
            (LOCAL, file::text(&path)?, local(&path)?)
        }
        KeySource::File(path) => {
            let path = file::absolute(path)?;
            (FILE, file::text(&path)?, file::read(&path)?)
        }
        KeySource::Fd(number) => (FD, source.to_string(), file::read_descriptor(*number)?),
        KeySource::SecretsManager(arn) => {
            (SECRETS_MANAGER, arn.clone(), secrets_manager::get(arn, context, notes)?)
        }
    };
    Ok(Some(Given { provider, key, kek }))
}

/// The key that a slot names.
pub(super) fn of_slot(
    slot: &Slot,
    context: &Context<'_>,
    notes: &KmsNotes,
) -> Result<Given, KeyError> {
    let (provider, kek) = match slot.provider.as_str() {
        FD => return Err(KeyError::Unnamed { slot: slot.id }),
        SECRETS_MANAGER => {
            crate::keys::source::check_secret_arn(&slot.key)?;
            (SECRETS_MANAGER, secrets_manager::get(&slot.key, context, notes)?)
        }
        LOCAL | FILE => (FILE, file::read(slot.key.as_ref())?),
        other => {
            return Err(KeyError::Provider { slot: slot.id, provider: other.to_owned() });
        }
    };
    Ok(Given { provider, key: slot.key.clone(), kek })
}

impl Given {
    /// The slot `id` that wraps `secret` under it.
    pub(super) fn wrap(&self, secret: &Secret, context: &Context<'_>, id: u32) -> Slot {
        let wrapped = wrap_secret(&self.kek, &context.canonical(), secret);
        let wrapped = data_encoding::BASE64.encode(&wrapped);
        Slot { id, provider: self.provider.to_owned(), key: self.key.clone(), wrapped }
    }

    /// What the slot `id` wraps.
    pub(super) fn unwrap(
        &self,
        wrapped: &[u8],
        context: &Context<'_>,
        id: u32,
    ) -> Result<Secret, KeyError> {
        let wrong = || KeyError::WrongKey { slot: id, key: self.key.clone() };
        unwrap_secret(&self.kek, &context.canonical(), wrapped).ok_or_else(wrong)
    }
}
