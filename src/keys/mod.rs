//! Where a volume's key comes from. A volume key is 32 random bytes; each [`Slot`] of `volume.json`
//! holds it wrapped by one provider, and any one slot opens the volume.
//!
//! | source      | `provider` | `key` of the slot  | wraps the volume key by                 |
//! |-------------|------------|--------------------|-----------------------------------------|
//! | `local[:F]` | `local`    | path of the file   | AES-256-GCM-SIV under the file's bytes  |
//! | `file:F`    | `file`     | path of the file   | the same; the file is the customer's    |
//! | `fd:N`      | `fd`       | empty              | the same; they come by a descriptor     |
//! | `secretsmanager:ARN` | `secretsmanager` | ARN of the secret | the same; `GetSecretValue` |
//! | `kms:ID`    | `kms`      | ARN of the KMS key | KMS, which makes it: `GenerateDataKey`  |
//! | `transient` | no slot    |                    | nothing: it ends with the process       |
//!
//! Every wrapping is bound to the same encryption context, [`Context`]. Making a volume and opening
//! one cost one KMS call each. A slot that is added later is made by `Encrypt`, one that goes from
//! KMS key to KMS key by `ReEncrypt`. A slot is a claim by whoever wrote the store: a key that came
//! out of one is proved only by the `mac` of `volume.json`.
//!
//! Requests go out by HTTPS, those for credentials too. Plain HTTP is for an endpoint on this
//! machine, unless it is allowed by the user; each address is judged before anything is sent there.
//! What was asked is recorded, [`CallRecord`], to be found again in CloudTrail.
//!
//! Errors name no secret, and neither does the log: whatever the AWS SDK would log during a call is
//! dropped, since it can be told to print answers in full.

mod address;
mod audit;
mod call;
mod context;
mod error;
mod exchange;
mod file;
mod given;
mod grants;
mod kms;
mod kms_error;
mod local;
mod notes;
mod open;
mod output;
mod policies;
mod policy;
mod secrets_manager;
mod session;
mod source;
mod trial;
mod wrap;

pub use address::{PLAIN_HTTP_VARIABLE, allow_plain_http, exposure, plain_http_is_allowed};
pub use audit::{CallRecord, Recorded, calls_of, keep_calls_in, kept_calls};
pub use context::{CONTEXT_BYTES_MAX, CONTEXT_PAIRS_MAX, Context, VOLUME_ID, check_user_pairs};
pub use error::KeyError;
pub use file::{KeptDescriptors, keep_descriptors};
pub use grants::{
    Grant, GrantWish, Operation, create_grant, list_grants, retire_grant, revoke_grant,
};
pub use kms_error::{KmsError, KmsFailure, causes};
pub use notes::{KmsNotes, Validity};
pub use open::{Opened, open, open_noting};
pub use output::{OutputKey, OutputTrial, try_output};
pub use policies::{Policies, PolicyWish, Principal, Purpose, is_key_arn, policies, policy_key};
pub use session::{NoSession, Session, session};
pub use source::{FD, KMS, KeySource, SECRETS_MANAGER, is_secret_arn};
pub use trial::{KeyFile, KmsTrial, SecretTrial, TRIAL, try_file, try_kms, try_secret};
pub use wrap::{Made, re_encrypt, wrap, wrap_again};

/// Has `fd:N` mean what whoever starts the process opens. To be called first of all by `main`.
pub fn note_descriptors() {
    crate::sys::note_inherited();
}

use crate::cipher::Secret;
use crate::format::Slot;

/// Whether a descriptor came with the process and can be read.
///
/// # Errors
/// [`KeyError::KeyFile`] if not.
pub fn check_descriptor(number: i32) -> Result<(), KeyError> {
    if crate::sys::is_inherited(number) { Ok(()) } else { Err(file::no_descriptor(number)) }
}

/// Number of the slot that [`create`] returns.
const FIRST_SLOT: u32 = 1;

/// A new random volume key and the slot that wraps it; no slot for a transient key.
///
/// `local` makes its key file if it is not there; nothing else is changed anywhere. `kms` makes one
/// `GenerateDataKey` call and blocks for at most 25 s.
///
/// # Errors
/// User pairs that [`check_user_pairs`] refuses, a key file that is missing or unfit, or what KMS
/// or the way there says.
pub fn create(
    source: &KeySource,
    context: &Context<'_>,
) -> Result<(Secret, Option<Slot>), KeyError> {
    check_user_pairs(context.pairs)?;
    match source {
        KeySource::Transient => Ok((Secret::random(), None)),
        KeySource::Kms(id) => {
            source::check_kms_id(id)?;
            let (secret, made) = kms::generate_data_key(id, context, &KmsNotes::default())?;
            Ok((secret, Some(wrap::kms_slot(FIRST_SLOT, made.arn, &made.bytes))))
        }
        KeySource::Local(_)
        | KeySource::File(_)
        | KeySource::Fd(_)
        | KeySource::SecretsManager(_) => {
            let secret = Secret::random();
            let made = wrap(&secret, source, context, FIRST_SLOT)?;
            Ok((secret, Some(made.slot)))
        }
    }
}
