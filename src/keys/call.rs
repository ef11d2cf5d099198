//! What every call to AWS has in common: where it goes, by which credentials, how long it may take,
//! what is logged and recorded of it, and what its failure means.

use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_kms::config::SharedCredentialsProvider;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;

use crate::cipher::Secret;
use crate::keys::audit;
use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::exchange::{Exchange, Service};
use crate::keys::kms_error::{KmsError, KmsFailure, classify};
use crate::keys::notes::KmsNotes;
use crate::keys::policy::{self, Scope};
use crate::keys::session;
use crate::keys::source::region_of;
use crate::sys::scrubbing;

pub(super) const GENERATE_DATA_KEY: &str = "kms:GenerateDataKey";
pub(super) const DECRYPT: &str = "kms:Decrypt";
pub(super) const ENCRYPT: &str = "kms:Encrypt";
/// As CloudTrail has it. Policies know its two halves.
pub(super) const RE_ENCRYPT: &str = "kms:ReEncrypt";
pub(super) const DESCRIBE_KEY: &str = "kms:DescribeKey";
pub(super) const CREATE_GRANT: &str = "kms:CreateGrant";
pub(super) const LIST_GRANTS: &str = "kms:ListGrants";
pub(super) const REVOKE_GRANT: &str = "kms:RevokeGrant";
pub(super) const RETIRE_GRANT: &str = "kms:RetireGrant";
pub(super) const GET_SECRET_VALUE: &str = "secretsmanager:GetSecretValue";

/// How long a call may take. Answers come within milliseconds; the rest is for retries.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// To a connection.
    connect: Duration,
    /// One attempt.
    attempt: Duration,
    /// All attempts and the pauses between them.
    operation: Duration,
}

const LIMITS: Limits = Limits {
    connect: Duration::from_secs(3),
    attempt: Duration::from_secs(5),
    operation: Duration::from_secs(15),
};
/// The SDK's own number: the first, and two retries of what may pass.
const ATTEMPTS_MAX: u32 = 3;
/// Seconds by which a clock may be wrong before AWS refuses what it signs.
const CLOCK_MAX_S: u64 = 300;

/// One call, to be made once.
pub(super) struct Call<'a> {
    action: &'static str,
    key: &'a str,
    /// The other key, which wrapped before.
    from: Option<&'a str>,
    context: &'a Context<'a>,
    /// What is learnt on the way, such as where the request went.
    notes: KmsNotes,
}

impl<'a> Call<'a> {
    pub(super) fn new(action: &'static str, key: &'a str, context: &'a Context<'a>) -> Self {
        Self { action, key, from: None, context, notes: KmsNotes::default() }
    }

    /// Notes what is learnt there too.
    pub(super) fn noting(self, notes: &KmsNotes) -> Self {
        Self { notes: notes.clone(), ..self }
    }

    /// From another key.
    pub(super) fn from(self, key: &'a str) -> Self {
        Self { from: Some(key), ..self }
    }

    /// Finds region and credentials, does `work`, logs and records what was asked. In a thread and
    /// a runtime of its own, so that callers may themselves be inside a runtime; without a log,
    /// since the SDK prints plaintext answers at `trace` if the environment has
    /// `LOG_SENSITIVE_BODIES=true`; and on memory that is zeroed when freed, since an answer goes
    /// through buffers of rustls, hyper and the SDK that nobody else zeroes.
    pub(super) fn run<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Self, SdkConfig) -> Result<T, Box<KmsError>> + Send,
    ) -> Result<T, KeyError> {
        let start = Instant::now();
        let speak = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| self.odd(&format!("no runtime: {e}")))?;
            let result = runtime.block_on(async { work(self, self.config().await?).await });
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
        self.tell(start.elapsed(), result.as_ref().err().map(|error| &**error));
        Ok(result?)
    }

    /// Logs the call, and records each request of it.
    fn tell(&self, elapsed: Duration, error: Option<&KmsError>) {
        let endpoint = self.notes.endpoint().unwrap_or("none");
        let (elapsed_ms, passed) = (elapsed.as_millis(), error.is_none());
        let (action, key, from) = (self.action, self.key, self.from);
        let exchanges = self.notes.take_exchanges();
        let request_id = exchanges.last().and_then(|last| last.request_id.as_deref());
        let volume = self.context.volume_id.to_string();
        tracing::info!(action, key, from, volume, endpoint, elapsed_ms, passed, request_id, "KMS");
        let last = exchanges.len().saturating_sub(1);
        for (index, exchange) in exchanges.iter().enumerate() {
            let error = error.filter(|_| index == last);
            audit::record(&self.recorded(exchange, error), self.context.volume_id);
        }
    }

    fn recorded(&self, exchange: &Exchange, error: Option<&KmsError>) -> audit::CallRecord {
        let of_key = exchange.service != Service::Sts;
        let status = exchange.status;
        let outcome = match (error.and_then(|error| error.code.clone()), status) {
            (Some(code), _) => code,
            (None, None) => "no answer".to_owned(),
            (None, Some(200..300)) if error.is_some() => "answer not taken".to_owned(),
            (None, Some(200..300)) => "ok".to_owned(),
            (None, Some(_)) => "refused".to_owned(),
        };
        audit::CallRecord {
            event_time: exchange.event_time(),
            event_source: exchange.service.event_source().to_owned(),
            event_name: exchange.operation.clone(),
            aws_region: self.notes.region().map(str::to_owned),
            request_id: exchange.request_id.clone(),
            key_id: of_key.then(|| self.key.to_owned()),
            source_key_id: self.from.filter(|_| of_key).map(str::to_owned),
            encryption_context: match exchange.service {
                Service::Kms if self.has_context() => self.context.all(),
                _ => Default::default(),
            },
            endpoint: exchange.endpoint.clone(),
            outcome,
            http_status: status,
            elapsed_ms: exchange.took.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            pid: std::process::id(),
        }
    }

    /// Whether the call takes an encryption context.
    fn has_context(&self) -> bool {
        ![DESCRIBE_KEY, LIST_GRANTS, REVOKE_GRANT, RETIRE_GRANT].contains(&self.action)
    }

    /// The environment as the SDK reads it; the region is that of the key's ARN, if it is named by
    /// one.
    async fn config(&self) -> Result<SdkConfig, Box<KmsError>> {
        let found = session::find(region_of(self.key), &self.notes).await;
        let (shared, credentials) =
            found.map_err(|none| self.error(none.failure, none.found).coded(none.code))?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(LIMITS.connect)
            .operation_attempt_timeout(LIMITS.attempt)
            .operation_timeout(LIMITS.operation)
            .build();
        let config = shared
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX));
        Ok(config.build())
    }

    /// Moves the plaintext out of an answer and zeroes what it was in; see [`Self::run`] for the
    /// buffers that it came through.
    pub(super) fn secret(&self, plaintext: Option<Blob>) -> Result<Secret, Box<KmsError>> {
        let mut bytes = plaintext.map(Blob::into_inner).unwrap_or_default();
        let length = bytes.len();
        Secret::take(&mut bytes)
            .ok_or_else(|| self.odd(&format!("a key of {length} bytes, wanted 32")))
    }

    pub(super) fn failed<E>(&self, error: &SdkError<E>) -> Box<KmsError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if let Some(why) = self.notes.refused() {
            return self.error(KmsFailure::PlainHttp, why.to_owned());
        }
        let (mut failure, mut found) = classify(error);
        let ahead = self.notes.clock_ahead_s().filter(|ahead| ahead.unsigned_abs() > CLOCK_MAX_S);
        if let (KmsFailure::BadCredentials, Some(ahead)) = (failure, ahead) {
            let side = if ahead < 0 { "behind" } else { "ahead of" };
            let by = ahead.unsigned_abs();
            found += &format!("; this machine's clock is {by} s {side} that of the endpoint");
            failure = KmsFailure::Clock;
        }
        self.error(failure, found).coded(error.code().map(str::to_owned))
    }

    pub(super) fn odd(&self, found: &str) -> Box<KmsError> {
        self.error(KmsFailure::Other, found.to_owned())
    }

    pub(super) fn error(&self, failure: KmsFailure, found: String) -> Box<KmsError> {
        let denied = failure == KmsFailure::Denied;
        let statement = denied.then(|| self.statement(&found)).or_else(|| {
            (failure == KmsFailure::RoleDenied).then(|| policy::trust_statement(&found))
        });
        Box::new(KmsError {
            failure,
            action: self.action,
            key: self.key.to_owned(),
            endpoint: self.notes.endpoint().map(str::to_owned),
            request_id: self.notes.last_exchange().and_then(|last| last.request_id),
            code: None,
            found,
            statement,
        })
    }

    /// What a policy lacks that denied this call.
    fn statement(&self, found: &str) -> String {
        if self.action == GET_SECRET_VALUE {
            return policy::secret_statement(self.key, found);
        }
        // Who wraps has to unwrap later.
        let (actions, scope) = match self.action {
            GENERATE_DATA_KEY => (&[GENERATE_DATA_KEY, DECRYPT][..], Scope::AnyVolume),
            ENCRYPT => (&[ENCRYPT, DECRYPT][..], Scope::ThisVolume),
            CREATE_GRANT => (&[CREATE_GRANT][..], Scope::ThisVolume),
            LIST_GRANTS | REVOKE_GRANT => (&[LIST_GRANTS, REVOKE_GRANT][..], Scope::ThisVolume),
            RETIRE_GRANT => (&[RETIRE_GRANT][..], Scope::ThisVolume),
            _ => (&[DECRYPT][..], Scope::ThisVolume),
        };
        let context = if self.has_context() { self.context.all() } else { Default::default() };
        policy::statement(actions, found, &context, scope)
    }
}
