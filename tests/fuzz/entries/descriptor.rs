//! `volume.json`.

use cmkfs::cipher::{VolumeKeys, VolumeKeysError};
use cmkfs::format::Descriptor;
use cmkfs::format::descriptor::{self, FORMAT, VERSION};

use super::edit::Edit;
use super::golden;

/// The bytes as a description, which is then authenticated and edited.
pub fn descriptor(bytes: &[u8]) {
    let Ok(volume) = descriptor::decode(bytes) else { return };
    claims(&volume);
    let key = golden::volume_key();
    if VolumeKeys::open(&key, &volume).is_ok() {
        assert_eq!(volume, golden::volume(), "forged volume.json");
    }
    sealed(volume, Edit::take(&bytes[bytes.len() - bytes.len().min(4)..]).0);
}

fn claims(volume: &Descriptor) {
    assert_eq!((volume.format.as_str(), volume.version), (FORMAT, VERSION));
    assert_eq!(volume.block_size().bytes(), volume.block_size);
    let current = volume.epoch();
    assert!(volume.epochs.iter().all(|key| key.epoch <= current));
    assert_eq!(volume.features.required, Vec::<String>::new(), "unknown features are refused");

    let again = descriptor::decode(&volume.encode()).expect("what was encoded");
    assert_eq!(again, *volume);
    let canonical = volume.canonical();
    assert_eq!(again.canonical(), canonical);
    let mut without = volume.clone();
    without.mac = String::new();
    assert_eq!(without.canonical(), canonical, "the mac is not over itself");
    let mut bare = descriptor::decode(&canonical).expect("a description without a mac");
    assert_eq!(bare.mac, "");
    bare.mac.clone_from(&volume.mac);
    assert_eq!(bare, *volume, "all but the mac is bound");
}

fn sealed(mut volume: Descriptor, edit: Edit) {
    let key = golden::other_key();
    VolumeKeys::authenticate(key, &mut volume);
    let refused =
        |volume: &Descriptor| matches!(VolumeKeys::open(key, volume), Err(VolumeKeysError::Mac));
    // Its epoch keys may be anything, which is told only after the mac.
    assert!(!refused(&volume), "an authentic mac");
    let other = &golden::volume_key();
    assert!(matches!(VolumeKeys::open(other, &volume), Err(VolumeKeysError::Mac)), "another key");
    if let Ok(edited) = descriptor::decode(&edit.of(&volume.encode())) {
        assert!(edited == volume || refused(&edited), "{edit:?}");
    }
}
