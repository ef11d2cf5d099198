//! What S3, or the way there, said: sorted into causes that call for different actions.

use std::error::Error;
use std::fmt;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;

use crate::object::s3::Way;

/// Why a request to S3 did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Failure {
    /// A policy does not allow it, or wants another encryption.
    Denied,
    /// The KMS key that S3 is to encrypt under, or had encrypted under, is disabled or the like.
    KeyUnusable,
    /// There is no such KMS key.
    KeyNotFound,
    /// No such bucket.
    NoBucket,
    /// The bucket is in another region.
    WrongRegion,
    /// A directory bucket.
    Express,
    /// The object was moved to an archive.
    Archived,
    /// No answer in time, or no connection.
    Unreachable,
    /// No credentials found.
    NoCredentials,
    /// No region set.
    NoRegion,
    /// The credentials are not accepted.
    BadCredentials,
    /// The clock of this machine is wrong by more than AWS takes.
    Clock,
    /// The endpoint shows a certificate that is not trusted.
    Untrusted,
    /// Too many requests, also after the retries.
    Throttled,
    /// Not sent: the way there is not HTTPS and leaves this machine.
    PlainHttp,
    /// Anything else.
    Other,
}

impl S3Failure {
    /// From the code of an error answer, and its text.
    pub(super) fn of_code(code: &str, message: &str) -> Self {
        match code {
            "NoSuchBucket" => Self::NoBucket,
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "Redirect"
            | "IllegalLocationConstraintException" => Self::WrongRegion,
            "AuthorizationHeaderMalformed" if message.contains("region") => Self::WrongRegion,
            "AccessDenied" | "AccessDeniedException" | "AllAccessDisabled" | "Forbidden" => {
                Self::Denied
            }
            "KMS.NotFoundException" | "NotFoundException" => Self::KeyNotFound,
            "InvalidObjectState" => Self::Archived,
            "RequestTimeTooSkewed" => Self::Clock,
            "ExpiredToken"
            | "ExpiredTokenException"
            | "TokenRefreshRequired"
            | "RequestExpired"
            | "InvalidToken"
            | "InvalidAccessKeyId"
            | "InvalidSecurity"
            | "SignatureDoesNotMatch"
            | "NotSignedUp"
            | "AuthorizationHeaderMalformed" => Self::BadCredentials,
            "SlowDown"
            | "SlowDownRead"
            | "SlowDownWrite"
            | "ServiceUnavailable"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequests" => Self::Throttled,
            "RequestTimeout" => Self::Unreachable,
            code if code.starts_with("KMS.") => Self::KeyUnusable,
            _ => Self::Other,
        }
    }

    /// What was wanted, and what to do.
    fn remedy(self) -> &'static str {
        match self {
            Self::Denied => {
                "wanted a policy that allows it: s3:ListBucket on the bucket, s3:GetObject, \
                 s3:PutObject and s3:DeleteObject below the prefix, and kms:GenerateDataKey and \
                 kms:Decrypt on the key that the objects are under; if the bucket's policy demands \
                 a certain key, name that by --output-key, or another way by --sse"
            }
            Self::KeyUnusable => {
                "wanted an enabled symmetric key: enable it or cancel its deletion (aws kms \
                 enable-key, cancel-key-deletion), or name another by --output-key"
            }
            Self::KeyNotFound => {
                "wanted a KMS key of the bucket's region: name it by its ARN, by --output-key"
            }
            Self::NoBucket => {
                "wanted a bucket that is there: check its name and the endpoint, or make it (aws \
                 s3 mb)"
            }
            Self::WrongRegion => "wanted the region of the bucket: set AWS_REGION to that",
            Self::Express => {
                "wanted a general purpose bucket: a directory bucket (S3 Express One Zone) \
                 encrypts by what is set for the bucket, under one customer managed key for its \
                 life, and not under a key that is named with an object"
            }
            Self::Archived => {
                "wanted an object that can be read: take it out of the archive (aws s3api \
                 restore-object), and keep lifecycle rules off this prefix"
            }
            Self::Unreachable => {
                "wanted an answer: check the network, the VPC endpoint for S3, a proxy, and \
                 AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL if set"
            }
            Self::NoCredentials => {
                "wanted AWS credentials: run with a role, or set AWS_PROFILE, or \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            Self::NoRegion => "wanted the region of the bucket: set AWS_REGION",
            Self::BadCredentials => {
                "wanted valid AWS credentials: renew them, and check the clock of this machine"
            }
            Self::Clock => {
                "wanted a clock that is right within 15 minutes, or S3 refuses what it signs: \
                 systemctl restart chronyd (or systemd-timesyncd), chronyc makestep"
            }
            Self::Untrusted => {
                "wanted a certificate that this machine trusts (the system's certificates, package \
                 ca-certificates, or those in SSL_CERT_FILE), and the endpoint's own name in it"
            }
            Self::Throttled => "wanted capacity: try again later, or with fewer --jobs",
            Self::PlainHttp => {
                "nothing was sent; wanted https://, or an address of this machine (127.0.0.1, \
                 [::1], localhost): if nobody else is on that network, allow it by \
                 --allow-plain-http or CMKFS_ALLOW_PLAIN_HTTP=1"
            }
            Self::Other => "try again, and if it stays see the S3 API reference",
        }
    }
}

/// A request that failed.
#[derive(Debug)]
pub struct S3Error {
    /// The cause.
    pub failure: S3Failure,
    /// The request, as policies name it: `s3:PutObject`.
    pub action: &'static str,
    /// What it was about: `s3://bucket/key`.
    pub object: String,
    /// The address that was called; none if it did not come so far.
    pub endpoint: Option<String>,
    /// How the answer names the request; none without an answer.
    pub request_id: Option<String>,
    /// What was said, without secrets.
    pub found: String,
}

impl Error for S3Error {}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.action)?;
        if let Some(at) = &self.endpoint {
            write!(f, " at {at}")?;
        }
        write!(f, ": {}", self.found)?;
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        write!(f, "; {}", self.failure.remedy())
    }
}

/// What is known of a failed request beside what it was.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) failure: S3Failure,
    /// The code of the answer.
    pub(super) code: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) request_id: Option<String>,
    pub(super) found: String,
}

/// Cause and text of a failed request, from codes and messages only.
pub(super) fn said<E>(error: &SdkError<E, HttpResponse>, way: &dyn Way) -> Said
where
    E: ProvideErrorMetadata + RequestId + Error + 'static,
{
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let region = error.raw_response().and_then(|raw| raw.headers().get("x-amz-bucket-region"));
    let plain = |failure, found: String| Said {
        failure,
        code: None,
        status,
        request_id: error.request_id().map(str::to_owned),
        found,
    };
    let proxy = "check what answers at that address, S3, a proxy or another server";
    match error {
        SdkError::ServiceError(answer) => {
            let Some(code) = answer.err().code() else {
                let status = status.unwrap_or_default();
                let failure = if status == 301 { S3Failure::WrongRegion } else { S3Failure::Other };
                let found = format!("HTTP status {status} without an error code of S3: {proxy}");
                return plain(failure, found + &of_region(failure, region));
            };
            let message = answer.err().message().unwrap_or_default().trim_end_matches('.');
            let failure = S3Failure::of_code(code, message);
            let message = if message.is_empty() { "no message" } else { message };
            let found = format!("{code}: {message}") + &of_region(failure, region);
            Said { code: Some(code.to_owned()), ..plain(failure, found) }
        }
        SdkError::ResponseError(_) => {
            let status = status.unwrap_or_default();
            plain(S3Failure::Other, format!("HTTP status {status} and no answer of S3: {proxy}"))
        }
        SdkError::TimeoutError(_) => plain(S3Failure::Unreachable, "no answer in time".to_owned()),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            plain(S3Failure::Unreachable, "no connection or answer in time".to_owned())
        }
        SdkError::DispatchFailure(failure) => {
            let text =
                failure.as_connector_error().map_or_else(String::new, |error| way.causes(error));
            let untrusted = text.contains("certificate") || text.contains("UnknownIssuer");
            let cause = match (untrusted, failure.is_user()) {
                (true, _) => S3Failure::Untrusted,
                (false, true) => S3Failure::Other,
                (false, false) => S3Failure::Unreachable,
            };
            plain(cause, text)
        }
        other => plain(S3Failure::Other, way.causes(other)),
    }
}

/// The region that the answer names, where another was asked.
fn of_region(failure: S3Failure, region: Option<&str>) -> String {
    match (failure, region) {
        (S3Failure::WrongRegion, Some(region)) => format!("; the bucket is in {region}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_cause() {
        for (code, message, failure) in [
            ("NoSuchBucket", "", S3Failure::NoBucket),
            ("PermanentRedirect", "", S3Failure::WrongRegion),
            ("AuthorizationHeaderMalformed", "the region 'x' is wrong", S3Failure::WrongRegion),
            ("AuthorizationHeaderMalformed", "no credential", S3Failure::BadCredentials),
            ("AccessDenied", "", S3Failure::Denied),
            ("KMS.DisabledException", "", S3Failure::KeyUnusable),
            ("KMS.NotFoundException", "", S3Failure::KeyNotFound),
            ("InvalidObjectState", "", S3Failure::Archived),
            ("RequestTimeTooSkewed", "", S3Failure::Clock),
            ("ExpiredToken", "", S3Failure::BadCredentials),
            ("SlowDown", "", S3Failure::Throttled),
            ("InternalError", "", S3Failure::Other),
        ] {
            assert_eq!(S3Failure::of_code(code, message), failure, "{code}");
        }
    }
}
