//! What KMS, or the way there, said: sorted into causes that call for different actions.

use std::error::Error;
use std::fmt;

use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use crate::keys::address;
use crate::keys::call::GET_SECRET_VALUE;
use crate::keys::exchange::Exchange;
use crate::keys::policy;

/// Why a KMS call gave no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmsFailure {
    /// A policy does not allow the call.
    Denied,
    /// The key is disabled, pending deletion, or of a kind that can't do this.
    Unusable,
    /// The ciphertext or the encryption context is not what KMS made.
    Mismatch,
    /// No such key.
    NotFound,
    /// Another key than the one that wrapped.
    IncorrectKey,
    /// No answer in time, or no connection.
    Unreachable,
    /// No credentials found.
    NoCredentials,
    /// No region set.
    NoRegion,
    /// KMS or STS does not accept the credentials, or STS not the token.
    BadCredentials,
    /// STS refuses to give the credentials of the role.
    RoleDenied,
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

impl KmsFailure {
    /// The command's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Denied => 22,
            Self::Unusable => 23,
            Self::Mismatch => 24,
            Self::NotFound | Self::IncorrectKey => 25,
            Self::Unreachable => 26,
            Self::NoCredentials | Self::NoRegion | Self::BadCredentials | Self::RoleDenied => 27,
            Self::Throttled => 28,
            Self::Other => 29,
            Self::PlainHttp => 70,
            Self::Clock => 72,
            Self::Untrusted => 73,
        }
    }

    /// See `KeyError::weight`.
    pub(super) fn weight(self) -> u8 {
        match self {
            Self::Denied | Self::Unusable | Self::Mismatch => 7,
            Self::NotFound | Self::IncorrectKey => 6,
            Self::Unreachable | Self::Throttled | Self::Other | Self::Untrusted => 4,
            Self::NoCredentials
            | Self::NoRegion
            | Self::BadCredentials
            | Self::RoleDenied
            | Self::Clock
            | Self::PlainHttp => 3,
        }
    }

    /// From the code of an error answer.
    fn of_code(code: &str) -> Self {
        match code {
            "AccessDeniedException" | "AccessDenied" => Self::Denied,
            "DisabledException"
            // Of Secrets Manager: marked for deletion, or its KMS key does not decrypt.
            | "InvalidRequestException"
            | "DecryptionFailure"
            | "KMSInvalidStateException"
            | "InvalidKeyUsageException" => Self::Unusable,
            "InvalidCiphertextException" => Self::Mismatch,
            "NotFoundException" | "InvalidArnException" | "ResourceNotFoundException" => {
                Self::NotFound
            }
            "IncorrectKeyException" => Self::IncorrectKey,
            "ThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "LimitExceededException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException" => Self::Throttled,
            "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "ExpiredTokenException"
            | "ExpiredToken"
            | "RequestExpired"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "InvalidIdentityToken"
            | "InvalidIdentityTokenException"
            | "IDPRejectedClaim"
            | "IDPRejectedClaimException"
            | "OptInRequired" => Self::BadCredentials,
            _ => Self::Other,
        }
    }

    /// What to do where a secret was asked for, if that is something else.
    fn of_secret(self) -> Option<&'static str> {
        match self {
            Self::Unusable => Some(
                "wanted a secret that is not marked for deletion (aws secretsmanager \
                 restore-secret), under a KMS key that is enabled",
            ),
            Self::NotFound => Some(
                "wanted a secret of that account and region with a current version: check the ARN \
                 with its six last characters, and the endpoint",
            ),
            _ => None,
        }
    }

    /// What was wanted, and what to do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Denied => "wanted a policy that allows it",
            Self::Unusable => {
                "wanted an enabled symmetric key of usage ENCRYPT_DECRYPT: enable it or cancel \
                 its deletion (aws kms enable-key, cancel-key-deletion), or open the volume by \
                 another of its key slots"
            }
            Self::Mismatch => {
                "wanted the wrapped key and the encryption context as they were at init: \
                 volume.json was edited or belongs to another volume; restore it from a snapshot"
            }
            Self::NotFound => {
                "wanted a key of this account and region: check the id (an alias is written \
                 alias/NAME), the region in its ARN or AWS_REGION, and the endpoint"
            }
            Self::IncorrectKey => {
                "wanted the key that wrapped this volume's: leave --key out, or name that key"
            }
            Self::Unreachable => {
                "wanted an answer within 15 s: check the network, the VPC endpoint for KMS (or for \
                 STS, Secrets Manager), a proxy, and AWS_ENDPOINT_URL_KMS (_STS, \
                 _SECRETS_MANAGER) or AWS_ENDPOINT_URL if set; a SageMaker job with network \
                 isolation reaches no KMS"
            }
            Self::NoCredentials => {
                "wanted AWS credentials: run with a role, or set AWS_PROFILE, or \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a profile of IAM Identity \
                 Center or with credential_process: \
                 eval \"$(aws configure export-credentials --format env)\""
            }
            Self::NoRegion => "wanted a region: set AWS_REGION, or name the key by its ARN",
            Self::BadCredentials => {
                "wanted valid AWS credentials: renew them (of a web identity the token in \
                 AWS_WEB_IDENTITY_TOKEN_FILE), and check the clock of this machine"
            }
            Self::RoleDenied => {
                "wanted a role whose trust policy lets this caller or token in: check the ARN in \
                 AWS_ROLE_ARN or role_arn of the profile"
            }
            Self::Clock => {
                "wanted a clock that is right within 5 minutes, or AWS refuses what it signs: \
                 systemctl restart chronyd (or systemd-timesyncd), chronyc makestep"
            }
            Self::Untrusted => {
                "wanted a certificate that this machine trusts (the system's certificates, package \
                 ca-certificates, or those in SSL_CERT_FILE; AWS_CA_BUNDLE is not read), and the \
                 endpoint's own name in it; a proxy that opens TLS shows its own"
            }
            Self::Throttled => {
                "wanted capacity: try again later, or raise the account's KMS request quota (of \
                 STS or Secrets Manager, where that was asked)"
            }
            Self::PlainHttp => {
                "nothing was sent; wanted https://, or an address of this machine (127.0.0.1, \
                 [::1], localhost): if nobody else is on that network, as between containers of \
                 one host, allow it by --allow-plain-http or CMKFS_ALLOW_PLAIN_HTTP=1"
            }
            Self::Other => "wanted a key; try again, and if it stays see the KMS API reference",
        }
    }
}

/// A KMS call that gave no key.
#[derive(Debug)]
pub struct KmsError {
    /// The cause.
    pub failure: KmsFailure,
    /// The call, as policies name it: `kms:Decrypt`.
    pub action: &'static str,
    /// The key as it was named to KMS.
    pub key: String,
    /// The address that was called; none if it did not come so far.
    pub endpoint: Option<String>,
    /// How the answer names the request, to find it in CloudTrail; none without an answer.
    pub request_id: Option<String>,
    /// The code of the answer, if it had one.
    pub code: Option<String>,
    /// What was said, without secrets.
    pub found: String,
    /// For [`KmsFailure::Denied`] and [`KmsFailure::RoleDenied`], the statement that a policy
    /// lacks, as JSON.
    pub statement: Option<String>,
}

impl KmsError {
    /// With the code of the answer.
    pub(super) fn coded(mut self: Box<Self>, code: Option<String>) -> Box<Self> {
        self.code = code;
        self
    }

    /// What was tried, and what came of it.
    pub fn what(&self) -> String {
        let at = self.endpoint.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
        let id = self.request_id.as_ref().map_or_else(String::new, |id| format!(" (request {id})"));
        format!("{} with {}{at}: {}{id}", self.action, self.key, self.found)
    }

    /// What to do, with the statement that the key policy lacks.
    pub fn remedy(&self) -> String {
        let of_secret =
            if self.action == GET_SECRET_VALUE { self.failure.of_secret() } else { None };
        let mut text = of_secret.unwrap_or_else(|| self.failure.remedy()).to_owned();
        if let Some(statement) = &self.statement {
            let advice = match self.failure {
                KmsFailure::RoleDenied => policy::trust_advice(statement),
                _ if self.action == GET_SECRET_VALUE => {
                    policy::secret_advice(&self.found, statement)
                }
                _ => policy::advice(&self.found, statement),
            };
            text += &format!(". {advice}");
        }
        text
    }
}

impl Error for KmsError {}

impl fmt::Display for KmsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what(), self.remedy())
    }
}

/// What else may answer.
const PROXY: &str = "check what answers at that address, KMS, a proxy or another server";

/// Cause and text of a failed call. The text is built from codes and messages only: an answer's
/// body is never in it, since a body that could not be read may hold a key.
pub(super) fn classify<E>(error: &SdkError<E, HttpResponse>) -> (KmsFailure, String)
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let Some(code) = answer.err().code() else {
                let found = format!("HTTP status {status} without an error code of KMS: {PROXY}");
                return (KmsFailure::Other, found);
            };
            let message = answer.err().message().unwrap_or_default().trim_end_matches('.');
            let message = if message.is_empty() { "no message" } else { message };
            (KmsFailure::of_code(code), format!("{code}: {message}"))
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            (KmsFailure::Other, format!("HTTP status {status} and no answer of KMS: {PROXY}"))
        }
        SdkError::TimeoutError(_) => (KmsFailure::Unreachable, "no answer in time".to_owned()),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            (KmsFailure::Unreachable, "no connection or answer in time".to_owned())
        }
        SdkError::DispatchFailure(failure) => {
            let text = failure.as_connector_error().map_or_else(String::new, |e| causes(e));
            (way_of(&text, failure.is_user()), text)
        }
        other => (KmsFailure::Other, causes(other)),
    }
}

/// What a connection failed by.
fn way_of(text: &str, is_user: bool) -> KmsFailure {
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        return KmsFailure::Untrusted;
    }
    if is_user { KmsFailure::Other } else { KmsFailure::Unreachable }
}

/// Why there are no credentials, and the code of the answer if STS gave one: `sts` is the last
/// request to it, `found` what the SDK made of the answer.
pub(super) fn of_credentials(sts: Option<&Exchange>, found: &str) -> (KmsFailure, Option<String>) {
    let Some(sts) = sts else { return (KmsFailure::NoCredentials, None) };
    if sts.status.is_none() {
        return (way_of(found, false), None);
    }
    let words = found.split(|c: char| !c.is_ascii_alphanumeric());
    let known = |word: &str| match KmsFailure::of_code(word) {
        KmsFailure::Denied => Some(KmsFailure::RoleDenied),
        KmsFailure::BadCredentials => Some(KmsFailure::BadCredentials),
        KmsFailure::Throttled => Some(KmsFailure::Throttled),
        _ => None,
    };
    let mut coded = words.filter_map(|word| known(word).map(|failure| (failure, word)));
    match coded.next() {
        Some((failure, code)) => (failure, Some(code.to_owned())),
        None => (KmsFailure::Other, None),
    }
}

/// An error of the SDK and what caused it, outermost first, without users and passwords of the
/// addresses in it.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text += ": ";
            text += &said;
        }
        next = cause.source();
    }
    address::without_users(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::address::PLAIN_HTTP_VARIABLE;

    #[test]
    fn every_cause_has_its_code_and_says_what_to_do() {
        for (code, failure, exit_code) in [
            ("AccessDeniedException", KmsFailure::Denied, 22),
            ("DisabledException", KmsFailure::Unusable, 23),
            ("KMSInvalidStateException", KmsFailure::Unusable, 23),
            ("InvalidKeyUsageException", KmsFailure::Unusable, 23),
            ("InvalidCiphertextException", KmsFailure::Mismatch, 24),
            ("NotFoundException", KmsFailure::NotFound, 25),
            ("IncorrectKeyException", KmsFailure::IncorrectKey, 25),
            ("ExpiredTokenException", KmsFailure::BadCredentials, 27),
            ("ThrottlingException", KmsFailure::Throttled, 28),
            ("KMSInternalException", KmsFailure::Other, 29),
        ] {
            assert_eq!(KmsFailure::of_code(code), failure);
            assert_eq!(failure.exit_code(), exit_code);
            assert!(!failure.remedy().is_empty());
        }
        assert_eq!(KmsFailure::Unreachable.exit_code(), 26);
        assert_eq!(KmsFailure::NoRegion.exit_code(), 27);
        assert_eq!(KmsFailure::PlainHttp.exit_code(), 70);
        assert!(KmsFailure::PlainHttp.remedy().contains(PLAIN_HTTP_VARIABLE));
    }
}
