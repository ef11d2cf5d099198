//! Objects in an S3 bucket, or in another server that speaks its API, one object each.
//!
//! An object is put in one request, so that nobody sees a part of it, and under the condition that
//! no other is there where that counts. What S3 has answered is durable.
//!
//! | module   | holds                                         |
//! |----------|-----------------------------------------------|
//! | `engine` | the thread that speaks with S3                |
//! | `error`  | what can go wrong, and what to do then        |

mod engine;
mod error;

use std::fmt::Debug;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier, ServerSideEncryption};
use aws_types::SdkConfig;

use crate::format::ids::VolumeId;
use crate::object::s3::engine::{Begin, Engine};
use crate::object::s3::error::said;
use crate::object::target::{Each, Listed, OBJECT_LEN_MAX, Put, Target, TargetError};

pub use crate::object::s3::error::{S3Error, S3Failure};

/// To a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// One attempt of a request with no body to speak of.
const ATTEMPT: Duration = Duration::from_secs(20);
/// One attempt to send an object, the longest of which has 8 MiB and a little, on a slow line.
const ATTEMPT_TO_SEND: Duration = Duration::from_secs(180);
/// The first, and retries of what may pass, after pauses of up to 20 s that double.
const ATTEMPTS_MAX: u32 = 4;
/// The same of what the SDK does not try again: an answer that breaks off, a conflict.
const ROUNDS_MAX: usize = 4;
/// Objects that one request removes, at most, as S3 has it.
const DELETED_MAX: usize = 1000;
/// How the name of a directory bucket ends.
const EXPRESS_ENDING: &str = "--x-s3";

/// How S3 is to encrypt what is put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sse {
    /// By what is set for the bucket.
    #[default]
    OfBucket,
    /// Under keys of S3's own.
    S3,
    /// Under a KMS key.
    Kms {
        /// Its id, ARN or alias; without one, the key that AWS manages for S3.
        key: Option<String>,
        /// Under a key of the bucket's that KMS made, so that KMS is asked less often.
        bucket_key: bool,
    },
}

/// What is known of the way to S3 beside what the SDK says.
pub trait Way: Debug + Send + Sync {
    /// The address that was called, or would have been.
    fn endpoint(&self) -> Option<String>;
    /// Why nothing was sent to it, if so.
    fn refused(&self) -> Option<String>;
    /// An error of the SDK and what caused it, without secrets.
    fn causes(&self, error: &dyn std::error::Error) -> String;
}

/// What it takes to speak with S3: the SDK's settings, and whether an endpoint is named, which then
/// has buckets in its paths and not in its name.
pub type Connect = Box<
    dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(SdkConfig, bool), (S3Failure, String)>>>>
        + Send,
>;

/// See the module.
#[derive(Clone, Debug)]
pub struct S3 {
    engine: Arc<Engine>,
    client: Client,
    way: Arc<dyn Way>,
    bucket: String,
    /// Empty, or ends with `/`.
    prefix: String,
    sse: Sse,
}

type Answer<T, E> = Result<T, SdkError<E, HttpResponse>>;

fn client(config: &SdkConfig, has_endpoint: bool) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(ATTEMPT)
        .build();
    let config = Builder::from(config)
        .force_path_style(has_endpoint)
        // Every byte is held to a hash of the snapshot's.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX));
    Client::from_conf(config.build())
}

impl S3 {
    /// Speaks with a bucket; `prefix` is empty, or names with `/` between them. Nothing is asked of
    /// S3 yet.
    ///
    /// # Errors
    /// No region, no credentials, or a bucket of the wrong kind.
    pub fn open(
        bucket: &str,
        prefix: &str,
        way: Arc<dyn Way>,
        connect: Connect,
    ) -> Result<Self, TargetError> {
        let refused = |failure, found: String| {
            TargetError::S3(Box::new(S3Error {
                failure,
                action: "s3:ListBucket",
                object: format!("s3://{bucket}/{prefix}"),
                endpoint: way.endpoint(),
                request_id: None,
                found,
            }))
        };
        if bucket.ends_with(EXPRESS_ENDING) {
            return Err(refused(S3Failure::Express, "a directory bucket".to_owned()));
        }
        let begin: Begin<Result<Client, (S3Failure, String)>> = Box::new(move || {
            let connecting = connect();
            Box::pin(async move {
                connecting.await.map(|(config, has_endpoint)| client(&config, has_endpoint))
            })
        });
        let (engine, client) = Engine::start(begin).ok_or(TargetError::Lost)?;
        let client = client.map_err(|(failure, found)| refused(failure, found))?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let (engine, bucket) = (Arc::new(engine), bucket.to_owned());
        Ok(Self { engine, client, way, bucket, prefix, sse: Sse::OfBucket })
    }

    fn at(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn run<T, E>(
        &self,
        work: impl Future<Output = Answer<T, E>> + Send + 'static,
    ) -> Result<Answer<T, E>, TargetError>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        self.engine.run(work).ok_or(TargetError::Lost)
    }

    /// What a request failed by.
    fn failed<E>(
        &self,
        action: &'static str,
        key: &str,
        error: &SdkError<E, HttpResponse>,
    ) -> TargetError
    where
        E: ProvideErrorMetadata + RequestId + std::error::Error + 'static,
    {
        let said = said(error, &*self.way);
        match (said.code.as_deref(), said.status) {
            (Some("NoSuchKey"), _) => return TargetError::Missing { key: key.to_owned() },
            (Some("InvalidRange"), _) | (None, Some(416)) => return cut(key),
            _ => {}
        }
        let (failure, mut found) = match self.way.refused() {
            Some(why) => (S3Failure::PlainHttp, why),
            None => (said.failure, said.found),
        };
        if failure == S3Failure::Denied && action == PUT {
            found += &format!(" ({} was asked for)", self.asked());
        }
        self.error(failure, action, key, found, said.request_id)
    }

    fn error(
        &self,
        failure: S3Failure,
        action: &'static str,
        key: &str,
        found: String,
        request_id: Option<String>,
    ) -> TargetError {
        let object = format!("s3://{}/{}", self.bucket, self.at(key));
        let endpoint = self.way.endpoint();
        TargetError::S3(Box::new(S3Error { failure, action, object, endpoint, request_id, found }))
    }

    /// The encryption, as text.
    fn asked(&self) -> String {
        match &self.sse {
            Sse::OfBucket => "no encryption but the bucket's".to_owned(),
            Sse::S3 => "SSE-S3".to_owned(),
            Sse::Kms { key: None, .. } => "SSE-KMS under the key that AWS manages".to_owned(),
            Sse::Kms { key: Some(key), .. } => format!("SSE-KMS under {key}"),
        }
    }

    /// Puts an object; if `is_new`, unless one is there.
    fn send(&self, key: &str, bytes: &[u8], is_new: bool) -> Result<Put, TargetError> {
        let (kind, kms_key, bucket_key) = match &self.sse {
            Sse::OfBucket => (None, None, None),
            Sse::S3 => (Some(ServerSideEncryption::Aes256), None, None),
            Sse::Kms { key, bucket_key } => {
                let kind = Some(ServerSideEncryption::AwsKms);
                (kind, key.clone(), bucket_key.then_some(true))
            }
        };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT_TO_SEND)
            .build();
        let timeouts = aws_sdk_s3::config::Config::builder().timeout_config(timeouts);
        let request = self.client.put_object().bucket(&self.bucket).key(self.at(key));
        let request = request
            .body(ByteStream::from(bytes.to_vec()))
            .set_if_none_match(is_new.then(|| "*".to_owned()))
            .set_server_side_encryption(kind)
            .set_ssekms_key_id(kms_key)
            .set_bucket_key_enabled(bucket_key)
            .customize()
            .config_override(timeouts);
        match self.run(async move { request.send().await })? {
            Ok(_) => Ok(Put::Made),
            Err(error) => match (is_new, said(&error, &*self.way).status) {
                (true, Some(412)) => Ok(Put::WasThere),
                _ => Err(self.failed(PUT, key, &error)),
            },
        }
    }

    /// One page of a listing, with the names that `delimiter` cuts.
    fn page(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        token: Option<String>,
    ) -> Result<ListObjectsV2Output, TargetError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.at(prefix));
        let request =
            request.set_delimiter(delimiter.map(str::to_owned)).set_continuation_token(token);
        let answer = self.run(async move { request.send().await })?;
        answer.map_err(|error| self.failed(LIST, prefix, &error))
    }

    fn pages(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        see: &mut dyn FnMut(ListObjectsV2Output),
    ) -> Result<(), TargetError> {
        let mut token: Option<String> = None;
        loop {
            let page = self.page(prefix, delimiter, token.clone())?;
            let next = page.next_continuation_token.clone();
            let goes_on = page.is_truncated == Some(true) && next.is_some();
            see(page);
            if !goes_on {
                return Ok(());
            }
            if next == token {
                let found = "a listing that goes on where it was".to_owned();
                return Err(self.error(S3Failure::Other, LIST, prefix, found, None));
            }
            token = next;
        }
    }

    fn remove(&self, keys: &[String]) -> Result<(), TargetError> {
        let named: Result<Vec<_>, _> =
            keys.iter().map(|key| ObjectIdentifier::builder().key(self.at(key)).build()).collect();
        let named =
            named.and_then(|named| Delete::builder().set_objects(Some(named)).quiet(true).build());
        let first = keys.first().map_or("", String::as_str);
        let odd = |error: &dyn std::error::Error| {
            self.error(S3Failure::Other, DELETE, first, self.way.causes(error), None)
        };
        let named = named.map_err(|error| odd(&error))?;
        let request = self.client.delete_objects().bucket(&self.bucket).delete(named);
        let answer = self.run(async move { request.send().await })?;
        let answer = answer.map_err(|error| self.failed(DELETE, first, &error))?;
        let Some(error) = answer.errors().first() else { return Ok(()) };
        let (code, message) =
            (error.code().unwrap_or("no code"), error.message().unwrap_or("no message"));
        let key = error.key().unwrap_or_default();
        let key = key.strip_prefix(&self.prefix).unwrap_or(key);
        let (failure, found) = (S3Failure::of_code(code, message), format!("{code}: {message}"));
        Err(self.error(failure, DELETE, key, found, answer.request_id().map(str::to_owned)))
    }

    /// The bytes of an object, or why the answer broke off.
    fn fetch(&self, key: &str, range: Option<&Range<u64>>) -> Result<Got, TargetError> {
        let most = range.map_or(OBJECT_LEN_MAX, |range| range.end - range.start);
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let request = self.client.get_object().bucket(&self.bucket).key(self.at(key));
        let request = request.set_range(range);
        let way = Arc::clone(&self.way);
        let answer = self.run(async move {
            let mut answer = request.send().await?;
            let mut bytes = Vec::new();
            loop {
                match answer.body.try_next().await {
                    Ok(Some(part)) if (bytes.len() + part.len()) as u64 > most => {
                        return Ok(Got::TooLong);
                    }
                    Ok(Some(part)) => bytes.extend_from_slice(&part),
                    Ok(None) => return Ok(Got::Whole(bytes)),
                    Err(error) => return Ok(Got::Broken(way.causes(&error))),
                }
            }
        })?;
        answer.map_err(|error| self.failed(GET, key, &error))
    }
}

enum Got {
    Whole(Vec<u8>),
    TooLong,
    Broken(String),
}

const PUT: &str = "s3:PutObject";
const GET: &str = "s3:GetObject";
const LIST: &str = "s3:ListBucket";
const DELETE: &str = "s3:DeleteObject";

fn damaged(key: &str, found: &str) -> TargetError {
    TargetError::Damaged { key: key.to_owned(), found: found.to_owned() }
}

fn cut(key: &str) -> TargetError {
    damaged(key, "it was cut")
}

impl Target for S3 {
    fn name(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix.trim_end_matches('/'))
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, TargetError> {
        let mut broken = String::new();
        for _ in 0..ROUNDS_MAX {
            match self.fetch(key, range.as_ref())? {
                Got::Whole(bytes) => {
                    let wanted = range.as_ref().map(|range| range.end - range.start);
                    let is_cut = wanted.is_some_and(|wanted| bytes.len() as u64 != wanted);
                    return if is_cut { Err(cut(key)) } else { Ok(bytes) };
                }
                Got::TooLong => return Err(damaged(key, "it is longer than it can be")),
                Got::Broken(found) => broken = found,
            }
        }
        let found = format!("the answer broke off: {broken}");
        Err(self.error(S3Failure::Unreachable, GET, key, found, None))
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<Put, TargetError> {
        for _ in 1..ROUNDS_MAX {
            match self.send(key, bytes, true) {
                // Another one is being put under that name, or is being removed.
                Err(TargetError::S3(error)) if error.found.starts_with(CONFLICT) => {}
                put => return put,
            }
        }
        self.send(key, bytes, true)
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), TargetError> {
        self.send(key, bytes, false).map(drop)
    }

    fn list(&self, prefix: &str, each: Each<'_>) -> Result<(), TargetError> {
        self.pages(prefix, None, &mut |page| {
            for object in page.contents.unwrap_or_default() {
                let Some(key) = object.key().and_then(|key| key.strip_prefix(&self.prefix)) else {
                    continue;
                };
                let number = |value: i64| u64::try_from(value).unwrap_or(0);
                let written_unix_s = object.last_modified().map_or(0, |time| number(time.secs()));
                let len = number(object.size().unwrap_or(0));
                each(Listed { key: key.to_owned(), len, written_unix_s });
            }
        })
    }

    fn volumes(&self) -> Result<Vec<VolumeId>, TargetError> {
        let mut volumes = Vec::new();
        self.pages("", Some("/"), &mut |page| {
            for below in page.common_prefixes.unwrap_or_default() {
                let name = below.prefix().and_then(|name| name.strip_prefix(&self.prefix));
                let name = name.map(|name| name.trim_end_matches('/'));
                volumes.extend(name.and_then(|name| name.parse::<VolumeId>().ok()));
            }
        })?;
        Ok(volumes)
    }

    fn delete(&self, key: &str) -> Result<(), TargetError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.at(key));
        match self.run(async move { request.send().await })? {
            Ok(_) => Ok(()),
            Err(error) => match self.failed(DELETE, key, &error) {
                TargetError::Missing { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    fn delete_many(&self, keys: &[String]) -> Result<(), TargetError> {
        keys.chunks(DELETED_MAX).try_for_each(|keys| self.remove(keys))
    }

    fn with_sse(self: Arc<Self>, sse: Sse) -> Arc<dyn Target> {
        Arc::new(Self { sse, ..Self::clone(&self) })
    }

    fn sync(&self) -> Result<(), TargetError> {
        Ok(())
    }

    fn forget(&self, _: VolumeId) -> Result<(), TargetError> {
        Ok(())
    }

    fn sweep(&self, _: VolumeId) -> Result<(), TargetError> {
        Ok(())
    }
}

const CONFLICT: &str = "ConditionalRequestConflict";
