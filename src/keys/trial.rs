//! Tries a key source without making anything: what `doctor` asks before a volume is there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::format::VolumeId;
use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::notes::KmsNotes;
use crate::keys::source::{KeySource, check_kms_id};
use crate::keys::{file, kms, local, secrets_manager};

/// Name of the pair that marks a trial in CloudTrail. No volume has it: such names are kept.
pub const TRIAL: &str = "cmkfs:trial";
/// The volume id of a trial. It is there because a policy may ask for one.
pub(super) const NO_VOLUME: VolumeId = VolumeId([0; 16]);

/// The encryption context of a trial: the pairs that the volume would have, no volume's id, and
/// [`TRIAL`].
fn pairs_of_trial(pairs: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut pairs = pairs.clone();
    pairs.insert(TRIAL.to_owned(), "doctor".to_owned());
    pairs
}

/// What the KMS key `id` did.
#[derive(Debug)]
pub struct KmsTrial {
    /// `GenerateDataKey`, as at `init`.
    pub made: Result<(), KeyError>,
    /// `Decrypt` of what came of it, as at a mount; `None` if nothing came.
    pub opened: Option<Result<(), KeyError>>,
    /// What was learnt on the way.
    pub notes: KmsNotes,
}

/// Makes a data key under a KMS key and unwraps it again, two calls, and forgets it. At most 25 s
/// each.
pub fn try_kms(id: &str, pairs: &BTreeMap<String, String>) -> KmsTrial {
    let notes = KmsNotes::default();
    let pairs = pairs_of_trial(pairs);
    let context = Context { volume_id: NO_VOLUME, pairs: &pairs };
    let made = match check_kms_id(id) {
        Ok(()) => kms::generate_data_key(id, &context, &notes),
        Err(error) => Err(error),
    };
    let (made, wrapped) = match made {
        Ok(made) => made,
        Err(error) => return KmsTrial { made: Err(error), opened: None, notes },
    };
    let opened = kms::decrypt(&wrapped.arn, wrapped.bytes, &context, &notes);
    let opened = opened.and_then(|(secret, _)| match secret.expose() == made.expose() {
        true => Ok(()),
        false => Err(KeyError::Trial { key: wrapped.arn }),
    });
    KmsTrial { made: Ok(()), opened: Some(opened), notes }
}

/// What a secret did: it was read as at a mount, one call, and held a key.
#[derive(Debug)]
pub struct SecretTrial {
    /// `GetSecretValue`.
    pub read: Result<(), KeyError>,
    /// What was learnt on the way.
    pub notes: KmsNotes,
}

/// Reads a key from Secrets Manager and forgets it. At most 25 s.
pub fn try_secret(arn: &str, pairs: &BTreeMap<String, String>) -> SecretTrial {
    let notes = KmsNotes::default();
    let pairs = pairs_of_trial(pairs);
    let context = Context { volume_id: NO_VOLUME, pairs: &pairs };
    let read = secrets_manager::get(arn, &context, &notes).map(drop);
    SecretTrial { read, notes }
}

/// A key file that can be used, or could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// It holds a key.
    There(PathBuf),
    /// It is missing, and `init` would make it.
    ToBeMade(PathBuf),
}

/// Looks at the key file of a source and makes none. `None` if the source has no file.
///
/// # Errors
/// What making a volume with it would end with.
pub fn try_file(source: &KeySource) -> Result<Option<KeyFile>, KeyError> {
    let path = match source {
        KeySource::Local(path) => local::path(path.as_deref())?,
        KeySource::File(path) => file::absolute(path)?,
        KeySource::Fd(number) => {
            file::read_descriptor(*number)?;
            return Ok(Some(KeyFile::There(source.to_string().into())));
        }
        KeySource::Kms(_) | KeySource::SecretsManager(_) | KeySource::Transient => {
            return Ok(None);
        }
    };
    let missing = path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    if missing && matches!(source, KeySource::Local(_)) {
        return Ok(Some(KeyFile::ToBeMade(path)));
    }
    file::read(&path)?;
    Ok(Some(KeyFile::There(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::context::check_user_pairs;

    #[test]
    fn a_trial_is_marked_and_is_no_volumes() {
        let pairs = BTreeMap::from([("team".to_owned(), "vision".to_owned())]);
        let pairs = pairs_of_trial(&pairs);
        let all = Context { volume_id: NO_VOLUME, pairs: &pairs }.all();
        assert_eq!(all[TRIAL], "doctor");
        assert_eq!((all["team"].as_str(), all["cmkfs:volume-id"].len()), ("vision", 32));
        assert!(check_user_pairs(&pairs).is_err(), "a volume could have the mark");
    }

    #[test]
    fn a_key_file_is_looked_at_and_never_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/key");
        let local = KeySource::Local(Some(path.clone()));
        assert_eq!(try_file(&local).unwrap(), Some(KeyFile::ToBeMade(path.clone())));
        assert_eq!(try_file(&KeySource::File(path.clone())).unwrap_err().exit_code(), 20);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        std::fs::write(&path, "short").unwrap();
        assert_eq!(try_file(&local).unwrap_err().exit_code(), 20);
        local::read_or_make(&dir.path().join("good")).unwrap();
        let good = dir.path().join("good");
        let found = try_file(&KeySource::File(good.clone())).unwrap();
        assert_eq!(found, Some(KeyFile::There(good)));
        assert_eq!(try_file(&KeySource::Transient).unwrap(), None);
    }
}
