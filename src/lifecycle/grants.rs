//! The grants that were made for a volume, as `grants.json` of its store has them. KMS has the
//! truth; the file says on which keys to ask, also once the slots are destroyed. It is a claim, as
//! whoever can write to the store can change it: what is revoked by it is only what KMS itself says
//! is for the volume's encryption context.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::format::VolumeId;
use crate::keys::{self, Context, KeyError, KmsFailure};
use crate::lifecycle::error::VerbError;

/// In a store that grants were made for.
pub(in crate::lifecycle) const GRANTS_NAME: &str = "grants.json";
const NEW_NAME: &str = "grants.json.new";
/// Bytes; a grant takes about 300.
const LEN_MAX: u64 = 1 << 20;

/// One grant, or the intent to make it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::lifecycle) struct Granted {
    /// ARN of the KMS key.
    pub(in crate::lifecycle) key: String,
    /// Who is allowed.
    pub(in crate::lifecycle) to: String,
    /// The grant's name, which is that of the wish.
    pub(in crate::lifecycle) name: String,
    /// As KMS named it; null between the intent and the answer.
    pub(in crate::lifecycle) id: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    grants: Vec<Granted>,
}

/// What the file says; nothing if it is not there.
///
/// # Errors
/// The system's, or a file that no release wrote.
pub(in crate::lifecycle) fn read(store: &Path) -> Result<Vec<Granted>, VerbError> {
    let path = store.join(GRANTS_NAME);
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    let file = match options.open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(VerbError::local(&path, "can't read it"))?,
    };
    let mut bytes = Vec::new();
    file.take(LEN_MAX).read_to_end(&mut bytes).map_err(VerbError::local(&path, "can't read it"))?;
    let stored: Result<Stored, _> = serde_json::from_slice(&bytes);
    let unfit = "not as cmkfs writes it (`cmkfs key grant list` asks KMS; remove the file then)";
    let stored = stored.map_err(std::io::Error::from).map_err(VerbError::local(&path, unfit))?;
    Ok(stored.grants)
}

/// Replaces the file as a whole, durably, for the owner of the store; removes it if there are none.
fn write(store: &Path, grants: Vec<Granted>) -> Result<(), VerbError> {
    let (path, new) = (store.join(GRANTS_NAME), store.join(NEW_NAME));
    let put = || -> std::io::Result<()> {
        if grants.is_empty() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else {
            let bytes = serde_json::to_vec_pretty(&Stored { grants })?;
            match fs::remove_file(&new) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&bytes)?;
            let (own, store) = (file.metadata()?, fs::metadata(store)?);
            if (own.uid(), own.gid()) != (store.uid(), store.gid()) {
                // Root may act for somebody else, who has to read it.
                chown(&new, Some(store.uid()), Some(store.gid()))?;
            }
            file.sync_all()?;
            fs::rename(&new, &path)?;
        }
        File::open(store)?.sync_all()
    };
    put().map_err(VerbError::local(&path, "can't write it"))
}

/// Puts a grant into the file, in the place of the one of that name.
pub(in crate::lifecycle) fn put(store: &Path, granted: Granted) -> Result<(), VerbError> {
    let mut grants = read(store)?;
    grants.retain(|other| (&other.key, &other.name) != (&granted.key, &granted.name));
    grants.push(granted);
    write(store, grants)
}

/// Takes a grant out of the file.
pub(in crate::lifecycle) fn forget(store: &Path, id: &str) -> Result<(), VerbError> {
    let mut grants = read(store)?;
    let count = grants.len();
    grants.retain(|other| other.id.as_deref() != Some(id));
    if grants.len() == count { Ok(()) } else { write(store, grants) }
}

/// ARNs of the keys that the file names, each once.
pub(in crate::lifecycle) fn keys_of(grants: &[Granted]) -> Vec<String> {
    let mut keys: Vec<String> =
        grants.iter().map(|grant| grant.key.clone()).filter(|key| keys::is_key_arn(key)).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Ends all grants for a volume on the keys that the file names, and removes the file. Returns the
/// ids of those that it ended; there is nothing to ask where there is no file.
///
/// # Errors
/// What KMS says; the file is there then, and the same again goes on.
pub(in crate::lifecycle) fn end_all(
    store: &Path,
    volume_id: VolumeId,
) -> Result<Vec<String>, VerbError> {
    let grants = read(store)?;
    let pairs = Default::default();
    let context = Context { volume_id, pairs: &pairs };
    let mut ended = Vec::new();
    for key in keys_of(&grants) {
        let there = match keys::list_grants(&key, &context) {
            // With a key its grants go.
            Err(error) if is_gone(&error) => continue,
            there => there?,
        };
        for grant in there {
            end(&key, &grant.id, &context)?;
            tracing::info!(grant = grant.id, key, to = grant.to, "grant revoked");
            ended.push(grant.id);
        }
    }
    if !grants.is_empty() {
        write(store, Vec::new())?;
    }
    remove_new(&store.join(NEW_NAME));
    Ok(ended)
}

/// What an interrupted write left says nothing that the file does not.
fn remove_new(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!("{}: left: {error}", path.display());
        }
        _ => {}
    }
}

/// Who may not revoke may be named by the grant to retire it.
fn end(key: &str, id: &str, context: &Context<'_>) -> Result<(), KeyError> {
    match keys::revoke_grant(key, id, context) {
        Err(KeyError::Kms(error)) if error.failure == KmsFailure::Denied => {
            keys::retire_grant(key, id, context).map_err(|_| KeyError::Kms(error))
        }
        Err(error) if is_gone(&error) => Ok(()),
        done => done,
    }
}

fn is_gone(error: &KeyError) -> bool {
    matches!(error, KeyError::Kms(error) if error.failure == KmsFailure::NotFound)
}

/// The file in a store, for whoever tells of it.
pub(in crate::lifecycle) fn path(store: &Path) -> PathBuf {
    store.join(GRANTS_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(name: &str, id: Option<&str>) -> Granted {
        let key = "arn:aws:kms:eu-west-1:123456789012:key/x".to_owned();
        Granted { key, to: "role".into(), name: name.into(), id: id.map(str::to_owned) }
    }

    #[test]
    fn the_intent_becomes_the_grant_and_the_last_takes_the_file_along() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path();
        assert_eq!(read(store).unwrap(), []);
        put(store, granted("a", None)).unwrap();
        put(store, granted("b", Some("2"))).unwrap();
        put(store, granted("a", Some("1"))).unwrap();
        assert_eq!(read(store).unwrap(), [granted("b", Some("2")), granted("a", Some("1"))]);
        assert_eq!(fs::metadata(path(store)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(keys_of(&read(store).unwrap()).len(), 1);
        forget(store, "none").unwrap();
        forget(store, "2").unwrap();
        forget(store, "1").unwrap();
        assert_eq!(store.read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_no_release_wrote_is_told_and_names_no_key() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path()), b"{\"grants\": 1}").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("key grant list"));
        let odd = Granted { key: "alias/x; reboot".into(), ..granted("a", None) };
        assert!(keys_of(&[odd]).is_empty());
        fs::remove_file(path(dir.path())).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", path(dir.path())).unwrap();
        assert!(read(dir.path()).is_err(), "a link leads out of the store");
    }
}
