//! Wraps a volume key that is there already: one more slot, or another key for a slot.

use data_encoding::BASE64;

use crate::cipher::Secret;
use crate::format::Slot;
use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::kms_error::KmsFailure;
use crate::keys::notes::KmsNotes;
use crate::keys::open::{self, Opened};
use crate::keys::source::{self, Arn, FD, KMS, KeySource};
use crate::keys::{given, kms};

/// A slot that was made.
#[derive(Debug)]
pub struct Made {
    /// The slot.
    pub slot: Slot,
    /// What came out of it, where it can't be opened a second time: its key came by a descriptor.
    pub opened: Option<Opened>,
}

/// The slot `id` that wraps `secret` under `source`. For `kms` by one `Encrypt` call: the volume
/// key goes to KMS by TLS, as it comes from there when a volume is opened. `local` makes its key
/// file if it is not there; `secretsmanager` is one `GetSecretValue`.
///
/// Whether it can be opened again, with these permissions, is for the caller to try.
///
/// # Errors
/// A transient source, a key file that is missing or unfit, or what KMS or the way there says.
pub fn wrap(
    secret: &Secret,
    source: &KeySource,
    context: &Context<'_>,
    id: u32,
) -> Result<Made, KeyError> {
    let given = match source {
        KeySource::Transient => return Err(KeyError::Transient),
        KeySource::Kms(key) => {
            source::check_kms_id(key)?;
            let made = kms::encrypt(key, secret, context)?;
            return Ok(Made { slot: kms_slot(id, made.arn, &made.bytes), opened: None });
        }
        _ => given::to_wrap(source, context)?.expect("all other sources give a key"),
    };
    let slot = given.wrap(secret, context, id);
    let opened = match source {
        KeySource::Fd(_) => Some(open::by_given(&given, &slot, context)?),
        _ => None,
    };
    Ok(Made { slot, opened })
}

/// The same slot around another volume key: under its KMS key by one `Encrypt` call, or under the
/// key that it names, which has to be there. Where it names none, as its key came by a descriptor,
/// that of `source`, which has to open it.
///
/// # Errors
/// As [`wrap`]; a provider that this release does not know.
pub fn wrap_again(
    secret: &Secret,
    slot: &Slot,
    source: Option<&KeySource>,
    context: &Context<'_>,
) -> Result<Slot, KeyError> {
    match slot.provider.as_str() {
        KMS => {
            let made = kms::encrypt(&slot.key, secret, context)?;
            Ok(kms_slot(slot.id, made.arn, &made.bytes))
        }
        provider => {
            let notes = KmsNotes::default();
            let named = match source {
                Some(source) if provider == FD => given::to_open(source, context, &notes)?,
                _ => None,
            };
            let given = match named {
                Some(given) => {
                    open::by_given(&given, slot, context)?;
                    given
                }
                None => given::of_slot(slot, context, &notes)?,
            };
            let Slot { wrapped, .. } = given.wrap(secret, context, slot.id);
            Ok(Slot { wrapped, ..slot.clone() })
        }
    }
}

/// A slot under the KMS key `arn`.
pub(super) fn kms_slot(id: u32, arn: String, wrapped: &[u8]) -> Slot {
    Slot { id, provider: KMS.to_owned(), key: arn, wrapped: BASE64.encode(wrapped) }
}

/// The same slot under another KMS key, by one `ReEncrypt` call: the volume key does not leave
/// KMS. `from` replaces the KMS key that the slot names. `None` where that is not possible: one of
/// the two is no KMS key, or, which is logged, they are of two regions, or KMS refuses.
///
/// # Errors
/// KMS can't be asked at all, so that other calls would fail too.
pub fn re_encrypt(
    slot: &Slot,
    to: &KeySource,
    from: Option<&KeySource>,
    context: &Context<'_>,
) -> Result<Option<Slot>, KeyError> {
    let key = match from {
        None => slot.key.as_str(),
        Some(KeySource::Kms(key)) => key,
        Some(_) => return Ok(None),
    };
    let KeySource::Kms(to) = to else { return Ok(None) };
    source::check_kms_id(to)?;
    if slot.provider != KMS {
        return Ok(None);
    }
    let wrapped = BASE64.decode(slot.wrapped.as_bytes());
    let Ok(wrapped) = wrapped else { return Ok(None) };
    let not = |found: &str| {
        tracing::warn!(
            slot = slot.id,
            from = key,
            to = to.as_str(),
            "KMS does not ReEncrypt this key slot, which is now unwrapped and wrapped: {found}; \
             it wants kms:ReEncryptFrom on the old key and kms:ReEncryptTo on the new one, both \
             of one region"
        );
        Ok(None)
    };
    if let (Some(old), Some(new)) = (Arn::parse(key), Arn::parse(to))
        && old.region != new.region
    {
        return not("the keys are of two regions");
    }
    match kms::re_encrypt(key, to, wrapped, context) {
        Ok(made) => Ok(Some(kms_slot(slot.id, made.arn, &made.bytes))),
        Err(KeyError::Kms(error)) if is_answer(error.failure) => not(&error.found),
        Err(error) => Err(error),
    }
}

/// Whether KMS looked at the call and refused it.
fn is_answer(failure: KmsFailure) -> bool {
    match failure {
        KmsFailure::Denied
        | KmsFailure::Unusable
        | KmsFailure::Mismatch
        | KmsFailure::NotFound
        | KmsFailure::IncorrectKey
        | KmsFailure::Other => true,
        KmsFailure::Unreachable
        | KmsFailure::PlainHttp
        | KmsFailure::NoCredentials
        | KmsFailure::NoRegion
        | KmsFailure::BadCredentials
        | KmsFailure::RoleDenied
        | KmsFailure::Clock
        | KmsFailure::Untrusted
        | KmsFailure::Throttled => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::format::VolumeId;
    use crate::keys::open;
    use crate::keys::source::LOCAL;

    #[test]
    fn a_key_file_wraps_what_another_one_wrapped() {
        let dir = tempfile::tempdir().unwrap();
        let pairs = BTreeMap::new();
        let context = Context { volume_id: VolumeId([3; 16]), pairs: &pairs };
        let secret = Secret::random();
        for (id, name) in [(4, "a"), (9, "b")] {
            let path = dir.path().join(name);
            let slot = wrap(&secret, &KeySource::Local(Some(path)), &context, id).unwrap().slot;
            assert_eq!((slot.id, slot.provider.as_str()), (id, "local"));
            let opened = open(std::slice::from_ref(&slot), None, &context).unwrap();
            assert_eq!(opened.key.expose(), secret.expose());
        }
        let missing = KeySource::File(dir.path().join("c"));
        assert_eq!(wrap(&secret, &missing, &context, 1).unwrap_err().exit_code(), 20);
        let error = wrap(&secret, &KeySource::Transient, &context, 1).unwrap_err();
        assert!(error.exit_code() == 20 && error.to_string().contains("kept nowhere"), "{error}");
    }

    #[test]
    fn kms_is_not_asked_to_do_what_it_can_not() {
        let pairs = BTreeMap::new();
        let context = Context { volume_id: VolumeId([3; 16]), pairs: &pairs };
        let arn = |region: &str| format!("arn:aws:kms:{region}:123456789012:key/x");
        let under_kms = kms_slot(1, arn("eu-west-1"), b"wrapped");
        let local = Slot { provider: LOCAL.to_owned(), ..under_kms.clone() };
        let there = KeySource::Kms(arn("eu-west-1"));
        let elsewhere = KeySource::Kms(arn("us-east-1"));
        let file = KeySource::File("/key".into());
        for (slot, to, from) in [
            (&local, &there, None),
            (&under_kms, &file, None),
            (&under_kms, &there, Some(&file)),
            (&under_kms, &elsewhere, None),
        ] {
            assert!(re_encrypt(slot, to, from, &context).unwrap().is_none());
        }
        let managed = KeySource::Kms("alias/aws/ebs".to_owned());
        assert_eq!(re_encrypt(&under_kms, &managed, None, &context).unwrap_err().exit_code(), 20);
    }
}
