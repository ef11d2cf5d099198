//! Opens a volume key by its slots, the cheapest first.

use data_encoding::BASE64;

use crate::cipher::Secret;
use crate::format::Slot;
use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::given::{self, Given};
use crate::keys::kms;
use crate::keys::notes::KmsNotes;
use crate::keys::source::{self, FD, FILE, KMS, KeySource, LOCAL, SECRETS_MANAGER};

/// A volume key and where it came from.
#[derive(Debug)]
pub struct Opened {
    /// The volume key.
    pub key: Secret,
    /// Number of the slot that gave it.
    pub slot: u32,
    /// That slot's provider: `local`, `file`, `fd`, `secretsmanager` or `kms`.
    pub provider: String,
    /// What opened it: path of the key file, `fd:N`, ARN of the secret, or ARN of the KMS key as
    /// KMS gave it.
    pub key_id: String,
}

/// The ways to unwrap, the cheaper first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// By a key that is on this machine.
    Given,
    Kms,
    /// By a key that is in Secrets Manager.
    Secret,
}

/// One slot and the way to try on it.
#[derive(Debug)]
struct Attempt<'a> {
    slot: &'a Slot,
    way: Way,
    /// The KMS key that the caller names instead of the slot's.
    instead: Option<&'a str>,
}

/// The volume key, from the first slot that opens: key files before KMS, that before Secrets
/// Manager. With a source, only slots that it may open are tried, with that key instead of the
/// recorded one: a KMS key those of KMS, a file, descriptor or secret all others. One `Decrypt`
/// call for each KMS slot tried, one `GetSecretValue` for each of Secrets Manager, at most 25 s
/// each; a source is read once.
///
/// What it returns is proved only by the `mac` of `volume.json`.
///
/// # Errors
/// If no slot opens, the error that tells most; those of other slots are logged as warnings.
pub fn open(
    slots: &[Slot],
    override_source: Option<&KeySource>,
    context: &Context<'_>,
) -> Result<Opened, KeyError> {
    open_noting(slots, override_source, context, &KmsNotes::default())
}

/// The same as [`open`], and what was learnt on the way to KMS goes into `notes`: of the slot that
/// opened, or whose error is told.
///
/// # Errors
/// As [`open`].
pub fn open_noting(
    slots: &[Slot],
    override_source: Option<&KeySource>,
    context: &Context<'_>,
    notes: &KmsNotes,
) -> Result<Opened, KeyError> {
    if slots.is_empty() {
        return Err(KeyError::Gone);
    }
    let mut failed: Vec<(u32, KeyError)> = Vec::new();
    let attempts = attempts(slots, override_source, &mut failed)?;
    let given = match override_source {
        Some(source) => given::to_open(source, context, notes)?,
        None => None,
    };
    let mut tried = vec![KmsNotes::default(); failed.len()];
    for attempt in attempts {
        // Each slot may be of a region of its own.
        let own = KmsNotes::default();
        match attempt.open(given.as_ref(), context, &own) {
            Ok(opened) => {
                notes.learn(&own);
                return Ok(opened);
            }
            Err(error) => {
                failed.push((attempt.slot.id, error));
                tried.push(own);
            }
        }
    }
    let most = (0..failed.len()).rev().max_by_key(|&index| failed[index].1.weight());
    let most = most.expect("each slot opened or failed");
    notes.learn(&tried[most]);
    let (_, told) = failed.swap_remove(most);
    for (slot, error) in &failed {
        tracing::warn!(slot, %error, "this key slot does not open either");
    }
    Err(told)
}

/// What to try, in order. Slots that this release does not know go to `failed`.
fn attempts<'a>(
    slots: &'a [Slot],
    override_source: Option<&'a KeySource>,
    failed: &mut Vec<(u32, KeyError)>,
) -> Result<Vec<Attempt<'a>>, KeyError> {
    let instead = match override_source {
        Some(KeySource::Kms(id)) => {
            source::check_kms_id(id)?;
            Some(id.as_str())
        }
        Some(KeySource::Transient) => return Err(no_slot(slots, &KeySource::Transient)),
        _ => None,
    };
    let mut attempts = Vec::new();
    for slot in slots {
        let way = match slot.provider.as_str() {
            LOCAL | FILE | FD => Way::Given,
            SECRETS_MANAGER => Way::Secret,
            KMS => Way::Kms,
            other => {
                let error = KeyError::Provider { slot: slot.id, provider: other.to_owned() };
                failed.push((slot.id, error));
                continue;
            }
        };
        let fits = override_source.is_none() || instead.is_some() == (way == Way::Kms);
        if fits {
            attempts.push(Attempt { slot, way, instead });
        }
    }
    if let (true, Some(source)) = (attempts.is_empty(), override_source) {
        return Err(no_slot(slots, source));
    }
    attempts.sort_by_key(|attempt| attempt.way);
    Ok(attempts)
}

fn no_slot(slots: &[Slot], wanted: &KeySource) -> KeyError {
    let all: Vec<_> = slots.iter().map(|slot| format!("{}:{}", slot.provider, slot.key)).collect();
    KeyError::NoSlot { wanted: wanted.to_string(), found: all.join(", ") }
}

impl Attempt<'_> {
    /// `given` is the key that the caller names instead of the slot's.
    fn open(
        &self,
        given: Option<&Given>,
        context: &Context<'_>,
        notes: &KmsNotes,
    ) -> Result<Opened, KeyError> {
        if self.way != Way::Kms {
            return match given {
                Some(given) => by_given(given, self.slot, context),
                None => by_given(&given::of_slot(self.slot, context, notes)?, self.slot, context),
            };
        }
        let key = self.instead.unwrap_or(&self.slot.key);
        let (key, key_id) = kms::decrypt(key, wrapped(self.slot)?, context, notes)?;
        Ok(Opened { key, slot: self.slot.id, provider: self.slot.provider.clone(), key_id })
    }
}

/// Opens a slot that is under a key of 32 bytes.
pub(super) fn by_given(
    given: &Given,
    slot: &Slot,
    context: &Context<'_>,
) -> Result<Opened, KeyError> {
    let key = given.unwrap(&wrapped(slot)?, context, slot.id)?;
    let (provider, key_id) = (slot.provider.clone(), given.key.clone());
    Ok(Opened { key, slot: slot.id, provider, key_id })
}

fn wrapped(slot: &Slot) -> Result<Vec<u8>, KeyError> {
    let damaged = || KeyError::Slot { slot: slot.id, found: "its key is not base64".to_owned() };
    BASE64.decode(slot.wrapped.as_bytes()).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::format::VolumeId;
    use crate::keys::create;

    const VOLUME: VolumeId = VolumeId([5; 16]);

    struct Made {
        dir: tempfile::TempDir,
        pairs: BTreeMap<String, String>,
        secret: Secret,
        slot: Slot,
    }

    impl Made {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let pairs = BTreeMap::from([("team".to_owned(), "vision".to_owned())]);
            let source = KeySource::Local(Some(dir.path().join("key")));
            let context = Context { volume_id: VOLUME, pairs: &pairs };
            let (secret, slot) = create(&source, &context).unwrap();
            Self { dir, pairs, secret, slot: slot.unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("key")
        }

        fn context(&self) -> Context<'_> {
            Context { volume_id: VOLUME, pairs: &self.pairs }
        }

        fn open(&self, slots: &[Slot], source: Option<&KeySource>) -> Result<Opened, KeyError> {
            open(slots, source, &self.context())
        }
    }

    #[test]
    fn a_local_slot_records_its_path_and_opens() {
        let made = Made::new();
        assert_eq!((made.slot.id, made.slot.provider.as_str()), (1, "local"));
        assert_eq!(made.slot.key, made.path().to_str().unwrap());
        let opened = made.open(std::slice::from_ref(&made.slot), None).unwrap();
        assert_eq!(opened.key.expose(), made.secret.expose());
        assert_eq!((opened.slot, opened.provider.as_str()), (1, "local"));
        assert_eq!(opened.key_id, made.slot.key);
    }

    /// The worked bytes of FORMAT.md.
    #[test]
    fn the_slot_in_the_format_document_opens() {
        let wrapped =
            "sLGys7S1tre4ubq7+tsi4ZV5fj1/bbDH468sPgpL3wHXJd+k2ATsYn1vbZCWKINpBPjz87BeWZ9HNmUZ";
        assert!(include_str!("../format/FORMAT.md").contains(wrapped));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, (0xe0..=0xff).collect::<Vec<u8>>()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let slot = Slot {
            id: 1,
            provider: "file".to_owned(),
            key: path.to_str().unwrap().to_owned(),
            wrapped: wrapped.to_owned(),
        };
        let pairs = BTreeMap::from([("team".to_owned(), "vision".to_owned())]);
        let volume_id = "404142434445464748494a4b4c4d4e4f".parse().unwrap();
        let opened = open(&[slot], None, &Context { volume_id, pairs: &pairs }).unwrap();
        assert_eq!(opened.key.expose().to_vec(), (0x00..0x20).collect::<Vec<u8>>());
    }

    #[test]
    fn a_relative_path_is_recorded_in_full() {
        let file = tempfile::Builder::new().prefix("key").tempfile_in(".").unwrap();
        std::fs::write(file.path(), [3; 32]).unwrap();
        let name = file.path().file_name().unwrap();
        let pairs = BTreeMap::new();
        let context = Context { volume_id: VOLUME, pairs: &pairs };
        let slot = create(&KeySource::File(name.into()), &context).unwrap().1.unwrap();
        assert_eq!(slot.provider, "file");
        assert_eq!(PathBuf::from(&slot.key), std::env::current_dir().unwrap().join(name));
    }

    #[test]
    fn another_key_context_or_slot_does_not_open() {
        let made = Made::new();
        let slots = std::slice::from_ref(&made.slot);
        for context in [
            Context { volume_id: VolumeId([6; 16]), pairs: &made.pairs },
            Context { volume_id: VOLUME, pairs: &BTreeMap::new() },
        ] {
            let error = open(slots, None, &context).unwrap_err();
            assert!(matches!(error, KeyError::WrongKey { slot: 1, .. }), "{error}");
        }
        let other = Made::new();
        let source = KeySource::File(other.path());
        let error = made.open(slots, Some(&source)).unwrap_err();
        assert_eq!(error.exit_code(), 21, "{error}");

        let mut edited = made.slot.clone();
        edited.wrapped = "not base64".to_owned();
        assert_eq!(made.open(&[edited], None).unwrap_err().exit_code(), 14);
    }

    #[test]
    fn a_moved_key_file_is_named_instead() {
        let made = Made::new();
        let slots = std::slice::from_ref(&made.slot);
        let moved = made.dir.path().join("moved");
        std::fs::rename(made.path(), &moved).unwrap();
        let error = made.open(slots, None).unwrap_err();
        assert_eq!(error.exit_code(), 20);
        assert!(error.to_string().contains("--key file:FILE"), "{error}");
        for source in [KeySource::File(moved.clone()), KeySource::Local(Some(moved))] {
            let opened = made.open(slots, Some(&source)).unwrap();
            assert_eq!(opened.key.expose(), made.secret.expose());
        }
        assert!(!made.path().exists(), "opening makes no key file");
    }

    #[test]
    fn a_source_without_a_slot_says_what_there_is() {
        let made = Made::new();
        let slots = std::slice::from_ref(&made.slot);
        for source in [KeySource::Kms("alias/x".to_owned()), KeySource::Transient] {
            let error = made.open(slots, Some(&source)).unwrap_err();
            assert_eq!(error.exit_code(), 20);
            assert!(error.to_string().contains("local:/"), "{error}");
        }
        assert_eq!(made.open(&[], None).unwrap_err().exit_code(), 21);
    }

    #[test]
    fn slots_are_tried_in_order_of_cost_and_the_most_telling_error_stays() {
        let made = Made::new();
        let kms = Slot { id: 1, provider: "kms".into(), key: "x".into(), wrapped: String::new() };
        let good = Slot { id: 7, ..made.slot.clone() };
        let slots = [kms, good.clone()];
        let order: Vec<u32> =
            attempts(&slots, None, &mut vec![]).unwrap().iter().map(|a| a.slot.id).collect();
        assert_eq!(order, [7, 1]);
        assert_eq!(made.open(&slots, None).unwrap().slot, 7);

        let missing = Slot { id: 8, key: "/none/key".to_owned(), ..made.slot.clone() };
        let later = Slot { id: 9, provider: "tpm".to_owned(), ..made.slot.clone() };
        let opened = made.open(&[missing.clone(), later.clone(), good.clone()], None).unwrap();
        assert_eq!(opened.slot, 7);
        let error = made.open(&[later.clone(), missing.clone()], None).unwrap_err();
        assert_eq!(error.exit_code(), 20, "{error}");
        assert_eq!(made.open(std::slice::from_ref(&later), None).unwrap_err().exit_code(), 13);
        let foreign = Slot { wrapped: Made::new().slot.wrapped, ..good };
        let error = made.open(&[missing, foreign, later], None).unwrap_err();
        assert_eq!(error.exit_code(), 21, "{error}");
    }

    #[test]
    fn a_transient_key_has_no_slot() {
        let pairs = BTreeMap::new();
        let context = Context { volume_id: VOLUME, pairs: &pairs };
        let (one, slot) = create(&KeySource::Transient, &context).unwrap();
        assert!(slot.is_none());
        let (two, _) = create(&KeySource::Transient, &context).unwrap();
        assert_ne!(one.expose(), two.expose());
    }
}
