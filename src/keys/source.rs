//! A key source as typed: `local`, `local:FILE`, `kms:ID`, `transient`, `file:FILE`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::keys::error::KeyError;

/// `provider` of slots under the key file that `init` makes.
pub(super) const LOCAL: &str = "local";
/// `provider` of slots under a key file of the customer's own.
pub(super) const FILE: &str = "file";
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
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(None) => f.write_str("local"),
            Self::Local(Some(path)) => write!(f, "local:{}", path.display()),
            Self::Kms(id) => write!(f, "kms:{id}"),
            Self::Transient => f.write_str("transient"),
            Self::File(path) => write!(f, "file:{}", path.display()),
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
            Some(("arn", _)) => Err(refuse("an ARN is written kms:ARN")),
            None if text == "kms" => Err(refuse("the key is missing")),
            None if text == "file" => Err(refuse("the path is missing")),
            _ => Err(refuse("no source of that kind")),
        }
    }
}

fn refused(found: &str, reason: &str) -> KeyError {
    KeyError::Source { found: found.to_owned(), reason: reason.to_owned() }
}

/// Whether KMS could take this as a `KeyId` for a volume.
pub(super) fn check_kms_id(id: &str) -> Result<(), KeyError> {
    let refuse = |reason: &str| Err(refused(&format!("kms:{id}"), reason));
    if id.is_empty() {
        return refuse("the key is missing");
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte);
    if id.len() > KMS_ID_LEN_MAX || !id.bytes().all(fits) {
        return refuse("a KMS key is named by at most 2048 letters, digits, and any of : / _ -");
    }
    let name = match Arn::parse(id) {
        None if id.starts_with("arn:") => {
            return refuse("the ARN is not arn:PARTITION:kms:REGION:ACCOUNT:key/... or :alias/...");
        }
        None => id,
        Some(arn) => arn.resource,
    };
    if name.starts_with("alias/aws/") {
        return Err(managed(id));
    }
    Ok(())
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
