//! The KMS calls: `GenerateDataKey` when a volume is made, `Decrypt` when one is opened, `Encrypt`
//! and `ReEncrypt` when its keys are changed, and `DescribeKey` to tell why one of them was denied.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{ProvideCredentials, Region};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeyManagerType};

use crate::cipher::Secret;
use crate::keys::address;
use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::kms_error::{KmsError, KmsFailure, causes, classify};
use crate::keys::notes::KmsNotes;
use crate::keys::policy::{self, Scope};
use crate::keys::source::{self, Arn};
use crate::sys::scrubbing;

pub(super) const GENERATE_DATA_KEY: &str = "kms:GenerateDataKey";
pub(super) const DECRYPT: &str = "kms:Decrypt";
const ENCRYPT: &str = "kms:Encrypt";
/// As CloudTrail has it. Policies know its two halves.
const RE_ENCRYPT: &str = "kms:ReEncrypt";
const DESCRIBE_KEY: &str = "kms:DescribeKey";

/// How long a call may take. Answers come within milliseconds; the rest is for retries.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// To a connection.
    connect: Duration,
    /// One attempt.
    attempt: Duration,
    /// All attempts and the pauses between them.
    operation: Duration,
    /// Finding region and credentials, which may ask a metadata service.
    credentials: Duration,
}

const LIMITS: Limits = Limits {
    connect: Duration::from_secs(3),
    attempt: Duration::from_secs(5),
    operation: Duration::from_secs(15),
    credentials: Duration::from_secs(10),
};
/// The SDK's own number: the first, and two retries of what may pass.
const ATTEMPTS_MAX: u32 = 3;

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
    let call = Call::new(GENERATE_DATA_KEY, id, context, notes);
    let made = call.run(async |call, client| {
        let request = client
            .generate_data_key()
            .key_id(id)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(context.all().into_iter().collect()));
        let mut answer = request.send().await.map_err(|error| call.failed(&error))?;
        let secret = call.secret(answer.plaintext.take())?;
        let wrapped = call.wrapped(answer.ciphertext_blob.take(), answer.key_id.take())?;
        Ok((secret, wrapped))
    });
    made.map_err(|error| told_if_managed(error, id, context))
}

/// One `Encrypt` of a volume key under the KMS key `id`.
pub(super) fn encrypt(
    id: &str,
    secret: &Secret,
    context: &Context<'_>,
) -> Result<Wrapped, KeyError> {
    let made = Call::new(ENCRYPT, id, context, &KmsNotes::default()).run(async |call, client| {
        let request = client
            .encrypt()
            .key_id(id)
            .plaintext(Blob::new(secret.expose().to_vec()))
            .set_encryption_context(Some(context.all().into_iter().collect()));
        let mut answer = request.send().await.map_err(|error| call.failed(&error))?;
        call.wrapped(answer.ciphertext_blob.take(), answer.key_id.take())
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
    let notes = KmsNotes::default();
    let call = Call { from: Some(from), ..Call::new(RE_ENCRYPT, id, context, &notes) };
    call.run(async |call, client| {
        let pairs: HashMap<String, String> = context.all().into_iter().collect();
        let request = client
            .re_encrypt()
            .source_key_id(from)
            .destination_key_id(id)
            .ciphertext_blob(Blob::new(wrapped))
            .set_source_encryption_context(Some(pairs.clone()))
            .set_destination_encryption_context(Some(pairs));
        let mut answer = request.send().await.map_err(|error| call.failed(&error))?;
        call.wrapped(answer.ciphertext_blob.take(), answer.key_id.take())
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
fn is_managed(id: &str, context: &Context<'_>) -> Result<bool, KeyError> {
    Call::new(DESCRIBE_KEY, id, context, &KmsNotes::default()).run(async |call, client| {
        let answer = client.describe_key().key_id(id).send().await;
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
    Call::new(DECRYPT, id, context, notes).run(async |call, client| {
        let request = client
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

/// What every call has in common.
struct Call<'a> {
    action: &'static str,
    key: &'a str,
    /// The other key, which wrapped before.
    from: Option<&'a str>,
    context: &'a Context<'a>,
    limits: Limits,
    notes: &'a KmsNotes,
}

impl<'a> Call<'a> {
    fn new(
        action: &'static str,
        key: &'a str,
        context: &'a Context<'a>,
        notes: &'a KmsNotes,
    ) -> Self {
        Self { action, key, from: None, context, limits: LIMITS, notes }
    }

    /// Connects, does `work`, logs that it was done. In a thread and a runtime of its own, so that
    /// callers may themselves be inside a runtime; without a log, since the SDK prints plaintext
    /// answers at `trace` if the environment has `LOG_SENSITIVE_BODIES=true`; and on memory that is
    /// zeroed when freed, since an answer goes through buffers of rustls, hyper and the SDK that
    /// nobody else zeroes.
    fn run<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Self, Client) -> Result<T, KmsError> + Send,
    ) -> Result<T, KeyError> {
        let start = Instant::now();
        let speak = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| self.odd(&format!("no runtime: {e}")))?;
            let result = runtime.block_on(async { work(self, self.client().await?).await });
            // Ends the connections, but not a name look-up: one that hangs must not outlast the
            // limits.
            runtime.shutdown_background();
            result
        };
        let silent = || {
            let silence = tracing::subscriber::NoSubscriber::default();
            scrubbing(|| tracing::subscriber::with_default(silence, speak))
        };
        let result = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("kms".to_owned());
            let running = thread
                .spawn_scoped(scope, silent)
                .map_err(|e| self.odd(&format!("no thread: {e}")))?;
            running.join().unwrap_or_else(|_| Err(self.odd("the AWS SDK panicked")))
        });
        let endpoint = self.notes.endpoint().unwrap_or("none");
        let (elapsed_ms, passed) = (start.elapsed().as_millis(), result.is_ok());
        let (action, key, from) = (self.action, self.key, self.from);
        tracing::info!(action, key, from, endpoint, elapsed_ms, passed, "KMS");
        Ok(result?)
    }

    /// A client from the environment, as the SDK reads it: endpoint, profile, proxy, credentials.
    /// The region is that of the key's ARN, if it is named by one. Credentials are looked for here,
    /// apart from the call, so that it is clear which of the two failed.
    async fn client(&self) -> Result<Client, KmsError> {
        let find = async {
            let mut loader = aws_config::defaults(BehaviorVersion::latest());
            if let Some(arn) = Arn::parse(self.key) {
                loader = loader.region(Region::new(arn.region.to_owned()));
            }
            let shared = loader.load().await;
            let Some(region) = shared.region() else {
                return Err(self.error(KmsFailure::NoRegion, "no region is set".to_owned()));
            };
            self.notes.note_region(region.as_ref());
            self.check_token_service(shared.endpoint_url())?;
            let provider = shared.credentials_provider();
            let provider = provider.ok_or_else(|| self.odd("the SDK has no credentials chain"))?;
            let credentials = provider.provide_credentials().await;
            let none = |e| self.error(KmsFailure::NoCredentials, causes(&e));
            let credentials = credentials.map_err(none)?;
            self.notes.note_credentials(&credentials);
            Ok((shared, credentials))
        };
        let Ok(found) = tokio::time::timeout(self.limits.credentials, find).await else {
            let found = format!("nothing found in {:?}", self.limits.credentials);
            return Err(self.error(KmsFailure::NoCredentials, found));
        };
        let (shared, credentials) = found?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.limits.connect)
            .operation_attempt_timeout(self.limits.attempt)
            .operation_timeout(self.limits.operation)
            .build();
        let config = aws_sdk_kms::config::Builder::from(&shared)
            .credentials_provider(credentials)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
            .interceptor(self.notes.clone())
            .build();
        Ok(Client::from_conf(config))
    }

    /// Credentials may be asked of STS, which is sent a token for them, at the endpoint that is set
    /// for every service or at one of its own. Not asked is it where keys stand in the environment.
    fn check_token_service(&self, every_service: Option<&str>) -> Result<(), KmsError> {
        if std::env::var_os("AWS_ACCESS_KEY_ID").is_some_and(|id| !id.is_empty()) {
            return Ok(());
        }
        let own = std::env::var("AWS_ENDPOINT_URL_STS").ok().filter(|url| !url.is_empty());
        let Some(url) = own.as_deref().or(every_service) else { return Ok(()) };
        let Some(why) = address::refusal(url) else { return Ok(()) };
        self.notes.note_endpoint(url);
        Err(self.error(KmsFailure::PlainHttp, why))
    }

    /// Moves the plaintext out of an answer and zeroes what it was in; see [`Self::run`] for the
    /// buffers that it came through.
    fn secret(&self, plaintext: Option<Blob>) -> Result<Secret, KmsError> {
        let mut bytes = plaintext.map(Blob::into_inner).unwrap_or_default();
        let length = bytes.len();
        Secret::take(&mut bytes)
            .ok_or_else(|| self.odd(&format!("a key of {length} bytes, wanted 32")))
    }

    fn wrapped(&self, bytes: Option<Blob>, arn: Option<String>) -> Result<Wrapped, KmsError> {
        let bytes = bytes.ok_or_else(|| self.odd("an answer without a ciphertext"))?.into_inner();
        let arn = arn.filter(|arn| Arn::parse(arn).is_some());
        let arn = arn.ok_or_else(|| self.odd("an answer without the ARN of the key"))?;
        Ok(Wrapped { bytes, arn })
    }

    fn failed<E>(&self, error: &SdkError<E>) -> KmsError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let (failure, found) = match self.notes.refused() {
            Some(why) => (KmsFailure::PlainHttp, why.to_owned()),
            None => classify(error),
        };
        self.error(failure, found)
    }

    fn odd(&self, found: &str) -> KmsError {
        self.error(KmsFailure::Other, found.to_owned())
    }

    fn error(&self, failure: KmsFailure, found: String) -> KmsError {
        let statement = (failure == KmsFailure::Denied).then(|| {
            // Who wraps has to unwrap later.
            let (actions, scope) = match self.action {
                GENERATE_DATA_KEY => (&[GENERATE_DATA_KEY, DECRYPT][..], Scope::AnyVolume),
                ENCRYPT => (&[ENCRYPT, DECRYPT][..], Scope::ThisVolume),
                _ => (&[DECRYPT][..], Scope::ThisVolume),
            };
            policy::statement(actions, &found, &self.context.all(), scope)
        });
        KmsError {
            failure,
            action: self.action,
            key: self.key.to_owned(),
            endpoint: self.notes.endpoint().map(str::to_owned),
            found,
            statement,
        }
    }
}
