//! `volume.json`: what a volume is, and its keys, wrapped.
//!
//! The `mac` is HMAC-SHA256, in base64, over the *canonical bytes*: the same JSON object without
//! `mac`, keys sorted, no white space, UTF-8. Its key comes from the volume key, so a slot has to
//! be opened before anything here can be believed; until then it is a claim.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::geometry::BlockSize;
use crate::format::ids::{DirId, Epoch, VolumeId};

/// What `format` says in every volume.
pub const FORMAT: &str = "cmkfs";
/// The only version that this release reads or writes.
pub const VERSION: u32 = 1;
/// A longer file is refused unread; 1000 slots take about 300 KiB.
pub const DESCRIPTOR_LEN_MAX: u64 = 1 << 20;

/// A volume's description, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The volume's id, bound into every seal.
    pub volume_id: VolumeId,
    /// When `init` ran, seconds since 1970 UTC.
    pub created_unix_s: u64,
    /// Block size of new files, bytes.
    pub block_size: u64,
    /// Id of the directory `tree`, so that no other directory can stand in its place.
    pub root_id: DirId,
    /// The user's pairs of the KMS encryption context.
    pub context: BTreeMap<String, String>,
    /// Ways to unwrap the volume key; none for a transient one.
    pub slots: Vec<Slot>,
    /// Epoch keys, wrapped under the volume key.
    pub epochs: Vec<EpochKey>,
    /// What a reader has to know.
    pub features: Features,
    /// Base64 of the HMAC over the canonical bytes; empty until sealed.
    #[serde(default)]
    pub mac: String,
}

/// One way to unwrap the volume key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Number of the slot, never used again in this volume.
    pub id: u32,
    /// `local`, `kms`, `file`, `fd` or `secretsmanager`.
    pub provider: String,
    /// ARN of the KMS key or of the secret, or path of the key file; empty for `fd`.
    pub key: String,
    /// Base64 of the wrapped volume key, in the provider's own form.
    pub wrapped: String,
}

/// An epoch key under the volume key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochKey {
    /// Which epoch.
    pub epoch: Epoch,
    /// Base64 of nonce, tag and ciphertext.
    pub wrapped: String,
}

/// Names of features that later releases may add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// A reader that does not know one of these must refuse the volume. Written here: see
    /// [`Descriptor::set_two_keys`].
    pub required: Vec<String>,
    /// A reader may ignore these. Written here: see [`Descriptor::last_slot`],
    /// [`Descriptor::output_key`] and [`Descriptor::pending`].
    pub optional: Vec<String>,
}

/// Why a `volume.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// Not JSON, or fields missing or unknown.
    #[error("volume.json is not a volume description: {0}; restore it from a snapshot")]
    Json(#[from] serde_json::Error),
    /// Some other JSON.
    #[error("volume.json says format {0:?}, wanted {FORMAT:?}")]
    Format(String),
    /// Written by another release.
    #[error(
        "volume format {0}, this release reads {VERSION}: use the release that wrote the volume"
    )]
    Version(u64),
    /// Features of a later release.
    #[error("the volume requires features {0:?} that this release does not know: use a later one")]
    Feature(Vec<String>),
    /// Values out of range.
    #[error("volume.json: {0}; restore it from a snapshot")]
    Value(String),
}

/// Features that this release knows and a reader must.
const KNOWN_FEATURES: &[&str] = &[TWO_KEYS];
/// Begins the optional feature that keeps the number of the last slot; the number follows.
const LAST_SLOT: &str = "last-slot-";

/// Begins the optional feature that says which file keys are still to be wrapped anew.
const REWRAP: &str = "rewrap-";
/// The required feature of a volume in which files may be under two keys.
const TWO_KEYS: &str = "two-keys";
/// Begins the optional feature that says which files are still to be re-encrypted.
const REENCRYPT: &str = "reencrypt-";

/// What is done to the files of earlier epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Their file keys come under the current epoch.
    Rewrap,
    /// They get new file keys.
    Reencrypt,
}

/// Work that was begun, and may not have come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What is done.
    pub work: Work,
    /// To files whose headers are of an earlier epoch than this.
    pub epoch: Epoch,
}

impl Pending {
    fn of(feature: &str) -> Option<Self> {
        let rewrap = feature.strip_prefix(REWRAP).map(|epoch| (Work::Rewrap, epoch));
        let found = rewrap.or_else(|| Some((Work::Reencrypt, feature.strip_prefix(REENCRYPT)?)));
        let (work, epoch) = found?;
        Some(Self { work, epoch: Epoch(epoch.parse().ok()?) })
    }

    fn feature(self) -> String {
        let prefix = match self.work {
            Work::Rewrap => REWRAP,
            Work::Reencrypt => REENCRYPT,
        };
        format!("{prefix}{}", self.epoch.0)
    }
}
/// Begins the optional feature that keeps the output key; its source follows.
const OUTPUT_KEY: &str = "output-key=";

fn last_slot_of(feature: &str) -> Option<u32> {
    feature.strip_prefix(LAST_SLOT)?.parse().ok()
}

/// Reads format and version before anything else, so that a later release's fields are no
/// puzzle. What it returns is a claim until [`Descriptor::mac`] has been checked.
pub fn decode(bytes: &[u8]) -> Result<Descriptor, DescriptorError> {
    let value: serde_json::Value = serde_json::from_slice(bytes)?;
    let format = value.get("format").and_then(serde_json::Value::as_str).unwrap_or_default();
    if format != FORMAT {
        return Err(DescriptorError::Format(format.to_owned()));
    }
    let version = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(u64::MAX);
    if version != u64::from(VERSION) {
        return Err(DescriptorError::Version(version));
    }
    if let Some(features) = value.get("features") {
        let features: Features = serde_json::from_value(features.clone())?;
        let known = |name: &String| KNOWN_FEATURES.contains(&name.as_str());
        let unknown: Vec<_> = features.required.into_iter().filter(|name| !known(name)).collect();
        if !unknown.is_empty() {
            return Err(DescriptorError::Feature(unknown));
        }
    }
    let descriptor: Descriptor = serde_json::from_value(value)?;
    if BlockSize::from_bytes(descriptor.block_size).is_none() {
        let text = format!("block size {} is not 4096 to 65536", descriptor.block_size);
        return Err(DescriptorError::Value(text));
    }
    if descriptor.epochs.is_empty() {
        return Err(DescriptorError::Value("no epoch key".to_owned()));
    }
    Ok(descriptor)
}

impl Descriptor {
    /// The file's bytes: indented JSON with a newline at the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("plain data has a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// What the `mac` is over.
    pub fn canonical(&self) -> Vec<u8> {
        let value = serde_json::to_value(self).expect("plain data has a JSON form");
        let serde_json::Value::Object(mut object) = value else {
            unreachable!("a struct is an object")
        };
        object.remove("mac");
        // serde_json's map sorts its keys as long as `preserve_order` is off; a test holds it.
        serde_json::to_vec(&object).expect("plain data has a JSON form")
    }

    /// The highest number that a slot has or had: `last-slot-N` of the optional features where
    /// that slot was removed. 0 for a volume that never had one.
    pub fn last_slot(&self) -> u32 {
        let kept = self.features.optional.iter().filter_map(|feature| last_slot_of(feature));
        self.slots.iter().map(|slot| slot.id).chain(kept).max().unwrap_or(0)
    }

    /// Replaces the slots, so that no number of a removed one is given out again.
    pub fn set_slots(&mut self, slots: Vec<Slot>) {
        let highest = slots.iter().map(|slot| slot.id).max().unwrap_or(0);
        let last = self.last_slot().max(highest);
        self.slots = slots;
        self.features.optional.retain(|feature| last_slot_of(feature).is_none());
        if last > highest {
            self.features.optional.push(format!("{LAST_SLOT}{last}"));
        }
    }

    /// Work on file keys that is not done.
    pub fn pending(&self) -> Option<Pending> {
        self.features.optional.iter().find_map(|feature| Pending::of(feature))
    }

    /// Says which work on file keys is not done.
    pub fn set_pending(&mut self, pending: Option<Pending>) {
        self.features.optional.retain(|feature| Pending::of(feature).is_none());
        self.features.optional.extend(pending.map(Pending::feature));
    }

    /// Whether files may be under two keys.
    pub fn may_have_two_keys(&self) -> bool {
        self.features.required.iter().any(|feature| feature == TWO_KEYS)
    }

    /// Says whether files may be under two keys, which a reader has to know of.
    pub fn set_two_keys(&mut self, may_be: bool) {
        self.features.required.retain(|feature| feature != TWO_KEYS);
        self.features.required.extend(may_be.then(|| TWO_KEYS.to_owned()));
    }

    /// The key under which what leaves the volume is to be encrypted, as a source: `kms:` and the
    /// ARN of a KMS key, or an alias that AWS made. It is `output-key=SOURCE` of the optional
    /// features.
    pub fn output_key(&self) -> Option<&str> {
        self.features.optional.iter().find_map(|feature| feature.strip_prefix(OUTPUT_KEY))
    }

    /// Replaces it.
    pub fn set_output_key(&mut self, source: Option<&str>) {
        self.features.optional.retain(|feature| !feature.starts_with(OUTPUT_KEY));
        self.features.optional.extend(source.map(|source| format!("{OUTPUT_KEY}{source}")));
    }

    /// Block size of new files.
    pub fn block_size(&self) -> BlockSize {
        BlockSize::from_bytes(self.block_size).expect("checked when read and when made")
    }

    /// The epoch of new files and directories: the last one.
    pub fn epoch(&self) -> Epoch {
        self.epochs.iter().map(|key| key.epoch).max().expect("checked when read and when made")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Descriptor {
        Descriptor {
            format: FORMAT.to_owned(),
            version: VERSION,
            volume_id: VolumeId([1; 16]),
            created_unix_s: 5,
            block_size: 16384,
            root_id: DirId([2; 16]),
            context: BTreeMap::from([("b".into(), "\u{e9}\n".into()), ("a".into(), "1".into())]),
            slots: vec![],
            epochs: vec![EpochKey { epoch: Epoch(1), wrapped: "AA==".into() }],
            features: Features::default(),
            mac: "x".into(),
        }
    }

    #[test]
    fn canonical_bytes_are_sorted_and_tight() {
        let wanted = concat!(
            r#"{"block_size":16384,"context":{"a":"1","b":"@\n"},"created_unix_s":5,"#,
            r#""epochs":[{"epoch":1,"wrapped":"AA=="}],"#,
            r#""features":{"optional":[],"required":[]},"format":"cmkfs","#,
            r#""root_id":"02020202020202020202020202020202","slots":[],"version":1,"#,
            r#""volume_id":"01010101010101010101010101010101"}"#,
        );
        let found = String::from_utf8(sample().canonical()).unwrap();
        assert_eq!(found, wanted.replace('@', "\u{e9}"));
    }

    #[test]
    fn numbers_of_slots_are_never_given_out_again() {
        let slot = |id| Slot { id, provider: "local".into(), key: "/k".into(), wrapped: "".into() };
        let mut volume = sample();
        volume.features.optional = vec!["other".into(), "last-slot-x".into()];
        assert_eq!(volume.last_slot(), 0);
        volume.set_slots(vec![slot(1), slot(2), slot(3)]);
        assert_eq!(volume.features.optional, ["other", "last-slot-x"], "the slots tell it");
        volume.set_slots(vec![slot(1), slot(2)]);
        assert_eq!(volume.features.optional, ["other", "last-slot-x", "last-slot-3"]);
        assert_eq!(decode(&volume.encode()).unwrap().last_slot(), 3);
        volume.set_slots(vec![slot(2)]);
        assert_eq!(volume.last_slot(), 3);
        volume.set_slots(vec![slot(2), slot(4)]);
        assert_eq!((volume.last_slot(), volume.features.optional.len()), (4, 2));
        volume.features.optional.push(format!("{LAST_SLOT}{}", u32::MAX));
        assert_eq!(volume.last_slot(), u32::MAX);
    }

    #[test]
    fn the_output_key_is_kept_beside_the_slots_and_is_authenticated() {
        let mut volume = sample();
        let before = volume.canonical();
        assert_eq!(volume.output_key(), None);
        volume.set_output_key(Some("kms:arn:1"));
        volume.set_output_key(Some("kms:arn:2"));
        assert_ne!(volume.canonical(), before);
        volume.set_slots(vec![]);
        let mut again = decode(&volume.encode()).unwrap();
        assert_eq!(again.output_key(), Some("kms:arn:2"));
        assert_eq!(again.features.optional, ["output-key=kms:arn:2"]);
        again.set_output_key(None);
        assert_eq!(again, sample());
    }

    #[test]
    fn volumes_convert_back() {
        assert_eq!(decode(&sample().encode()).unwrap(), sample());
    }

    #[test]
    fn later_releases_are_refused_by_name() {
        let mut later = sample();
        later.version = 2;
        assert!(matches!(decode(&later.encode()), Err(DescriptorError::Version(2))));
        let mut odd = sample();
        odd.features.required.push("compress".into());
        assert!(matches!(decode(&odd.encode()), Err(DescriptorError::Feature(_))));
        assert!(matches!(decode(b"{}"), Err(DescriptorError::Format(_))));
        assert!(matches!(decode(b"[1"), Err(DescriptorError::Json(_))));
    }
}
