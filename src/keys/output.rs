//! The output key: the KMS key that S3 encrypts under what leaves a volume. It wraps no volume key,
//! so it may be one that AWS manages.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::kms;
use crate::keys::kms_error::KmsFailure;
use crate::keys::notes::KmsNotes;
use crate::keys::source::{KeySource, check_kms_name, is_managed_alias};
use crate::keys::trial::{NO_VOLUME, TRIAL};

/// A KMS key: its id, ARN, alias or alias ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputKey(String);

impl fmt::Display for OutputKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kms:{}", self.0)
    }
}

impl FromStr for OutputKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let Some(id) = text.strip_prefix("kms:") else {
            // What no source is says so itself.
            let source: KeySource = text.parse()?;
            return Err(KeyError::Output { found: source.to_string() });
        };
        check_kms_name(id)?;
        Ok(Self(id.to_owned()))
    }
}

/// What a trial of an output key found.
#[derive(Debug)]
pub struct OutputTrial {
    /// The key as it is to be recorded, by its ARN as KMS told it.
    pub key: OutputKey,
    /// Whether it made a data key. A key that AWS manages does that for S3 alone.
    pub tried: bool,
}

/// Has a KMS key make a data key, as S3 would have it, and forgets that. One `GenerateDataKey`, at
/// most 25 s, with [`TRIAL`] in the encryption context; none for an alias of AWS's own.
///
/// # Errors
/// What KMS or the way there says.
pub fn try_output(key: &OutputKey, notes: &KmsNotes) -> Result<OutputTrial, KeyError> {
    let untried = || OutputTrial { key: key.clone(), tried: false };
    if is_managed_alias(&key.0) {
        return Ok(untried());
    }
    let pairs = BTreeMap::from([(TRIAL.to_owned(), "output".to_owned())]);
    let context = Context { volume_id: NO_VOLUME, pairs: &pairs };
    match kms::data_key(&key.0, &context, notes) {
        Ok((_, made)) => Ok(OutputTrial { key: OutputKey(made.arn), tried: true }),
        Err(KeyError::Kms(error)) if error.failure == KmsFailure::Denied => {
            match kms::is_managed(&key.0, &context) {
                Ok(true) => Ok(untried()),
                _ => Err(KeyError::Kms(error)),
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_key_is_one_of_kms_and_may_be_awss_own() {
        for text in
            ["kms:alias/aws/s3", "kms:alias/out", "kms:1234abcd-12ab-34cd-56ef-1234567890ab"]
        {
            assert_eq!(text.parse::<OutputKey>().unwrap().to_string(), text);
        }
        for (text, wanted) in [
            ("local", "wanted kms:ID"),
            ("transient", "wanted kms:ID"),
            ("file:/key", "wanted kms:ID"),
            ("kms:", "missing"),
            ("kms:a b", "letters"),
            ("vault", "no source"),
        ] {
            let error = text.parse::<OutputKey>().unwrap_err();
            assert_eq!(error.exit_code(), 20, "{text}");
            assert!(error.to_string().contains(wanted), "{error}");
        }
        let managed = "kms:alias/aws/s3".parse().unwrap();
        let trial = try_output(&managed, &KmsNotes::default()).unwrap();
        assert_eq!((trial.key, trial.tried), (managed, false));
    }
}
