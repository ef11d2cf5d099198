//! The manifest of a snapshot. Nothing authenticates it; what it lists is opened under the key.

use cmkfs::format::utc::Utc;
use cmkfs::object::{Manifest, Summary};

/// Bytes of the shortest entry: `{"path":"","kind":"dir"},`.
const ENTRY_LEN_MIN: usize = 24;

/// The bytes as a manifest.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    assert_eq!((manifest.format.as_str(), manifest.version), ("cmkfs-snapshot", 1));
    assert!(manifest.entries.len() * ENTRY_LEN_MIN <= bytes.len(), "no more than was read");
    let again = serde_json::to_vec(&manifest).expect("plain data has a JSON form");
    assert_eq!(Manifest::decode(&again[..]).as_ref(), Ok(&manifest));
    let summary = Summary::from(&manifest);
    assert_eq!((summary.id, summary.volume_id), (manifest.id, manifest.volume_id));
    let taken = Utc::from_unix_ms(summary.created_unix_ms);
    assert!(taken.compact().len() >= "20261121T094639.250Z".len() && taken.year >= 1970);
}
