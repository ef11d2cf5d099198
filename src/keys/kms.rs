//! The KMS calls: `GenerateDataKey` when a volume is made, `Decrypt` when one is opened, `Encrypt`
//! and `ReEncrypt` when its keys are changed, and `DescribeKey` to tell why one of them was denied.

use std::collections::HashMap;

use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeyManagerType};

use crate::cipher::Secret;
use crate::keys::call::{Call, DECRYPT, DESCRIBE_KEY, ENCRYPT, GENERATE_DATA_KEY, RE_ENCRYPT};
use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::kms_error::{KmsError, KmsFailure};
use crate::keys::notes::KmsNotes;
use crate::keys::source::{self, Arn};

/// A volume key as KMS wrapped it.
pub(super) struct Wrapped {
    /// Opaque.
    pub(super) bytes: Vec<u8>,
    /// ARN of the KMS key, also where an alias was named: an alias may move.
    pub(super) arn: String,
}

/// One `GenerateDataKey` under the KMS key `id`: a new volume key.
pub(super) fn generate_data_key(
    id: &str,
    context: &Context<'_>,
    notes: &KmsNotes,
) -> Result<(Secret, Wrapped), KeyError> {
    data_key(id, context, notes).map_err(|error| told_if_managed(error, id, context))
}

/// The same, with the error as KMS told it.
pub(super) fn data_key(
    id: &str,
    context: &Context<'_>,
    notes: &KmsNotes,
) -> Result<(Secret, Wrapped), KeyError> {
    let call = Call::new(GENERATE_DATA_KEY, id, context).noting(notes);
    call.run(async |call, config| {
        let request = Client::new(&config)
            .generate_data_key()
            .key_id(id)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(context.all().into_iter().collect()));
        let mut answer = request.send().await.map_err(|error| call.failed(&error))?;
        let secret = call.secret(answer.plaintext.take())?;
        let wrapped = of_answer(call, answer.ciphertext_blob.take(), answer.key_id.take())?;
        Ok((secret, wrapped))
    })
}

/// One `Encrypt` of a volume key under the KMS key `id`.
pub(super) fn encrypt(
    id: &str,
    secret: &Secret,
    context: &Context<'_>,
) -> Result<Wrapped, KeyError> {
    let made = Call::new(ENCRYPT, id, context).run(async |call, config| {
        let request = Client::new(&config)
            .encrypt()
            .key_id(id)
            .plaintext(Blob::new(secret.expose().to_vec()))
            .set_encryption_context(Some(context.all().into_iter().collect()));
        let mut answer = request.send().await.map_err(|error| call.failed(&error))?;
        of_answer(call, answer.ciphertext_blob.take(), answer.key_id.take())
    });
    made.map_err(|error| told_if_managed(error, id, context))
}

/// One `ReEncrypt` of a wrapped volume key from the KMS key `from` to the KMS key `id`.
pub(super) fn re_encrypt(
    from: &str,
    id: &str,
    wrapped: Vec<u8>,
    context: &Context<'_>,
) -> Result<Wrapped, KeyError> {
    let call = Call::new(RE_ENCRYPT, id, context).from(from);
    call.run(async |call, config| {
        let pairs: HashMap<String, String> = context.all().into_iter().collect();
        let request = Client::new(&config)
            .re_encrypt()
            .source_key_id(from)
            .destination_key_id(id)
            .ciphertext_blob(Blob::new(wrapped))
            .set_source_encryption_context(Some(pairs.clone()))
            .set_destination_encryption_context(Some(pairs));
        let mut answer = request.send().await.map_err(|error| call.failed(&error))?;
        of_answer(call, answer.ciphertext_blob.take(), answer.key_id.take())
    })
}

/// The error of a call that was to wrap; where it was denied because AWS manages the key, that one
/// instead, since no policy can be changed then. A key that is named by its id does not show it, so
/// KMS is asked once, if it may be.
fn told_if_managed(error: KeyError, id: &str, context: &Context<'_>) -> KeyError {
    let denied = matches!(&error, KeyError::Kms(kms) if kms.failure == KmsFailure::Denied);
    if denied && is_managed(id, context).unwrap_or(false) {
        return source::managed(id);
    }
    error
}

/// Whether AWS manages the KMS key `id`, by one `DescribeKey`.
pub(super) fn is_managed(id: &str, context: &Context<'_>) -> Result<bool, KeyError> {
    Call::new(DESCRIBE_KEY, id, context).run(async |call, config| {
        let answer = Client::new(&config).describe_key().key_id(id).send().await;
        let answer = answer.map_err(|error| call.failed(&error))?;
        let manager = answer.key_metadata.as_ref().and_then(|found| found.key_manager());
        Ok(manager == Some(&KeyManagerType::Aws))
    })
}

/// One `Decrypt` that names the KMS key `id`. Returns the volume key and the KMS key's ARN.
pub(super) fn decrypt(
    id: &str,
    wrapped: Vec<u8>,
    context: &Context<'_>,
    notes: &KmsNotes,
) -> Result<(Secret, String), KeyError> {
    let call = Call::new(DECRYPT, id, context).noting(notes);
    call.run(async |call, config| {
        let request = Client::new(&config)
            .decrypt()
            .key_id(id)
            .ciphertext_blob(Blob::new(wrapped))
            .set_encryption_context(Some(context.all().into_iter().collect()));
        let mut answer = request.send().await.map_err(|error| call.failed(&error))?;
        let secret = call.secret(answer.plaintext.take())?;
        let arn = answer.key_id.take().unwrap_or_default();
        let named = Arn::parse(id).is_some_and(|arn| arn.resource.starts_with("key/"));
        if named && arn != id {
            let found = format!("KMS answered with another key, {arn}");
            return Err(call.error(KmsFailure::IncorrectKey, found));
        }
        Ok((secret, arn))
    })
}

/// What KMS wrapped, as it answered.
fn of_answer(
    call: &Call<'_>,
    bytes: Option<Blob>,
    arn: Option<String>,
) -> Result<Wrapped, Box<KmsError>> {
    let bytes = bytes.ok_or_else(|| call.odd("an answer without a ciphertext"))?.into_inner();
    let arn = arn.filter(|arn| Arn::parse(arn).is_some());
    let arn = arn.ok_or_else(|| call.odd("an answer without the ARN of the key"))?;
    Ok(Wrapped { bytes, arn })
}
