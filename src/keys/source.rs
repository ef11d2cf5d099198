//! A key source as typed: `local`, `local:FILE`, `kms:ID`, `transient`, `file:FILE`, `fd:N`,
//! `secretsmanager:ARN`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::keys::error::KeyError;

/// `provider` of slots under the key file that `init` makes.
pub(super) const LOCAL: &str = "local";
/// `provider` of slots under a key file of the customer's own.
pub(super) const FILE: &str = "file";
/// `provider` of slots under a key that came by a descriptor.
pub const FD: &str = "fd";
/// `provider` of slots under a key of the customer's own in Secrets Manager.
pub const SECRETS_MANAGER: &str = "secretsmanager";
/// `provider` of slots under a KMS key.
pub const KMS: &str = "kms";
/// What AWS documents for `KeyId`.
const KMS_ID_LEN_MAX: usize = 2048;

/// Who wraps the volume key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A key file that is made at first use; without a path, the one in the user's data directory.
    Local(Option<PathBuf>),
    /// A KMS key: its id, ARN, alias name or alias ARN.
    Kms(String),
    /// Nobody: the volume key lives in memory only.
    Transient,
    /// A key file of 32 bytes that the customer made.
    File(PathBuf),
    /// A descriptor that this process was started with, to read the customer's 32 bytes from.
    Fd(i32),
    /// ARN of a secret with the customer's 32 bytes.
    SecretsManager(String),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(None) => f.write_str("local"),
            Self::Local(Some(path)) => write!(f, "local:{}", path.display()),
            Self::Kms(id) => write!(f, "kms:{id}"),
            Self::Transient => f.write_str("transient"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Fd(number) => write!(f, "fd:{number}"),
            Self::SecretsManager(arn) => write!(f, "secretsmanager:{arn}"),
        }
    }
}

impl FromStr for KeySource {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let refuse = |reason: &str| refused(text, reason);
        let path = |rest: &str| match rest {
            "" => Err(refuse("the path is missing")),
            rest if rest.starts_with('~') => {
                Err(refuse("a shell does not expand ~ after a colon: write $HOME"))
            }
            rest => Ok(PathBuf::from(rest)),
        };
        match text.split_once(':') {
            None if text == "local" => Ok(Self::Local(None)),
            None if text == "transient" => Ok(Self::Transient),
            Some(("local", rest)) => path(rest).map(|path| Self::Local(Some(path))),
            Some(("file", rest)) => path(rest).map(Self::File),
            Some(("kms", id)) => {
                check_kms_id(id)?;
                Ok(Self::Kms(id.to_owned()))
            }
            Some(("fd", number)) => descriptor(number).ok_or_else(|| {
                refuse("wanted a number from 3 on that the shell opens, as in fd:3 3<FILE")
            }),
            Some(("secretsmanager", arn)) => {
                check_secret_arn(arn)?;
                Ok(Self::SecretsManager(arn.to_owned()))
            }
            Some(("arn", rest)) if rest.contains(":secretsmanager:") => {
                Err(refuse("the ARN of a secret is written secretsmanager:ARN"))
            }
            Some(("arn", _)) => Err(refuse("an ARN is written kms:ARN")),
            None if text == "kms" => Err(refuse("the key is missing")),
            None if text == "file" => Err(refuse("the path is missing")),
            _ => Err(refuse("no source of that kind")),
        }
    }
}

/// 0 to 2 are the command's own input and output.
fn descriptor(number: &str) -> Option<KeySource> {
    let plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: i32 = number.parse().ok().filter(|number| *number > 2 && plain)?;
    Some(KeySource::Fd(number))
}

fn refused(found: &str, reason: &str) -> KeyError {
    KeyError::Source { found: found.to_owned(), reason: reason.to_owned() }
}

/// Whether KMS could take this as a `KeyId` for a volume.
pub(super) fn check_kms_id(id: &str) -> Result<(), KeyError> {
    check_kms_name(id)?;
    if is_managed_alias(id) { Err(managed(id)) } else { Ok(()) }
}

/// Whether it is an alias, or the ARN of one, that AWS made for a service of its own.
pub(super) fn is_managed_alias(id: &str) -> bool {
    Arn::parse(id).map_or(id, |arn| arn.resource).starts_with("alias/aws/")
}

/// Whether KMS could take this as a `KeyId`.
pub(super) fn check_kms_name(id: &str) -> Result<(), KeyError> {
    let refuse = |reason: &str| Err(refused(&format!("kms:{id}"), reason));
    if id.is_empty() {
        return refuse("the key is missing");
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte);
    if id.len() > KMS_ID_LEN_MAX || !id.bytes().all(fits) {
        return refuse("a KMS key is named by at most 2048 letters, digits, and any of : / _ -");
    }
    if id.starts_with("arn:") && Arn::parse(id).is_none() {
        return refuse("the ARN is not arn:PARTITION:kms:REGION:ACCOUNT:key/... or :alias/...");
    }
    Ok(())
}

/// Whether it is the full ARN of a secret.
pub(super) fn check_secret_arn(arn: &str) -> Result<(), KeyError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(&byte);
    let named = |name: &str| !name.is_empty() && name.bytes().all(fits);
    let parts: Vec<&str> = arn.split(':').collect();
    let full = match parts[..] {
        ["arn", partition, "secretsmanager", region, account, "secret", name] => {
            [partition, region, account, name].into_iter().all(named)
        }
        _ => false,
    };
    if full && arn.len() <= KMS_ID_LEN_MAX {
        return Ok(());
    }
    let reason = "a secret is named by its full ARN, \
                  arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-SUFFIX";
    Err(refused(&format!("secretsmanager:{arn}"), reason))
}

/// Whether it is the full ARN of a secret.
pub fn is_secret_arn(text: &str) -> bool {
    check_secret_arn(text).is_ok()
}

/// The region in the ARN of a KMS key, an alias or a secret.
pub(super) fn region_of(id: &str) -> Option<&str> {
    let known = Arn::parse(id).is_some() || check_secret_arn(id).is_ok();
    known.then(|| id.split(':').nth(3)).flatten()
}

/// Why the KMS key `id` can't wrap a volume key: AWS manages it.
pub(super) fn managed(id: &str) -> KeyError {
    refused(
        &format!("kms:{id}"),
        "that is an AWS managed key, which only AWS services can use, on your behalf, and whose \
         policy nobody can change: make a customer managed key and an alias for it",
    )
}

/// The parts of a KMS key's or alias's ARN that matter here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arn<'a> {
    /// Where the key is; a call to another region does not find it.
    pub(super) region: &'a str,
    /// `key/ID` or `alias/NAME`.
    pub(super) resource: &'a str,
}

impl<'a> Arn<'a> {
    /// `None` for anything else.
    pub(super) fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let ["arn", partition, "kms", region, account, resource] = parts[..] else { return None };
        let names = resource.split_once('/');
        let named =
            names.is_some_and(|(kind, name)| matches!(kind, "key" | "alias") && !name.is_empty());
        let full = !partition.is_empty() && !region.is_empty() && !account.is_empty();
        (full && named).then_some(Self { region, resource })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY_ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn every_form_survives_text() {
        let arn = format!("kms:arn:aws-cn:kms:cn-north-1:123456789012:key/{KEY_ID}");
        for text in [
            "local",
            "local:/keys/a:b",
            "fd:3",
            "fd:1000",
            "secretsmanager:arn:aws:secretsmanager:eu-west-1:123456789012:secret:ml/key-AbCdEf",
            "transient",
            "file:key",
            &format!("kms:{KEY_ID}"),
            "kms:mrk-1234abcd12ab34cd56ef1234567890ab",
            "kms:alias/ml/volumes",
            "kms:arn:aws:kms:eu-west-1:123456789012:alias/ml",
            &arn,
        ] {
            let source: KeySource = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
        }
        assert_eq!("local:x".parse::<KeySource>().unwrap(), KeySource::Local(Some("x".into())));
    }

    #[test]
    fn other_forms_are_refused_with_what_is_accepted() {
        for (text, reason) in [
            ("", "no source"),
            ("Local", "no source"),
            ("transient:", "no source"),
            ("vault:x", "no source"),
            ("/home/a/key", "no source"),
            ("local:", "path is missing"),
            ("file", "path is missing"),
            ("file:~/key", "$HOME"),
            ("fd:2", "from 3 on"),
            ("fd:+3", "from 3 on"),
            ("fd:", "from 3 on"),
            ("secretsmanager:my-key", "full ARN"),
            ("secretsmanager:arn:aws:secretsmanager:eu-west-1:1:secret:a b", "full ARN"),
            ("arn:aws:secretsmanager:eu-west-1:1:secret:a", "secretsmanager:ARN"),
            ("kms", "key is missing"),
            ("kms:", "key is missing"),
            ("kms:my key", "letters"),
            ("kms:arn:aws:s3:::bucket", "the ARN is not"),
            ("kms:arn:aws:kms:eu-west-1:123456789012:key/", "the ARN is not"),
            ("arn:aws:kms:eu-west-1:123456789012:key/x", "kms:ARN"),
            ("kms:alias/aws/ebs", "AWS managed"),
            ("kms:arn:aws:kms:eu-west-1:123456789012:alias/aws/s3", "AWS managed"),
        ] {
            let error = text.parse::<KeySource>().unwrap_err();
            assert!(error.to_string().contains(reason), "{text:?}: {error}");
            assert!(error.to_string().contains("kms:ID"), "{text:?}: {error}");
            assert_eq!(error.exit_code(), 20, "{text:?}");
        }
    }

    #[test]
    fn an_arn_gives_its_region() {
        let arn = Arn::parse("arn:aws:kms:eu-west-1:1:key/x").unwrap();
        assert_eq!(arn, Arn { region: "eu-west-1", resource: "key/x" });
        assert_eq!(Arn::parse("alias/x"), None);
        assert_eq!(Arn::parse("arn:aws:kms::1:key/x"), None);
    }
}
