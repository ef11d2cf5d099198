//! No public type that holds a secret prints it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use cmkfs::cipher::{FileCipher, Plain, Secret, VolumeKeys};
use cmkfs::format::descriptor::{FORMAT, VERSION};
use cmkfs::format::{Descriptor, DirId, Epoch, Features, FileId, VolumeId};
use cmkfs::keys::{self, Context, KeyError, KeySource, Opened};

/// Every form in which bytes could be printed, from their middle.
fn forms(bytes: &[u8]) -> Vec<String> {
    let part = &bytes[4..12];
    vec![
        data_encoding::HEXLOWER.encode(part),
        data_encoding::HEXUPPER.encode(part),
        data_encoding::BASE64.encode(&bytes[3..12]),
        format!("{part:?}").trim_matches(['[', ']']).to_owned(),
        format!("{part:02x?}").trim_matches(['[', ']']).to_owned(),
        String::from_utf8_lossy(part).into_owned(),
    ]
}

#[track_caller]
fn hides(value: &dyn Debug, bytes: &[u8]) {
    for text in [format!("{value:?}"), format!("{value:#?}").replace(['\n', ' '], "")] {
        for form in forms(bytes) {
            assert!(!text.contains(&form), "{form} in {text}");
            assert!(!text.contains(&form.replace(' ', "")), "{form} in {text}");
        }
    }
}

const KEY: [u8; 32] = *b"a volume key that nobody may see";

fn key() -> Secret {
    Secret::take(&mut KEY.clone()).expect("32 bytes")
}

/// The search finds what is there.
#[test]
#[should_panic(expected = " in ")]
fn a_printed_key_is_found() {
    hides(&Some(KEY), &KEY);
}

#[test]
fn keys_and_plaintext_do_not_print() {
    hides(&key(), &KEY);
    hides(&FileCipher::new(&key()), &KEY);
    hides(&Plain::copy_of(&KEY), &KEY);
    let opened = Opened { key: key(), slot: 1, provider: "kms".into(), key_id: "arn".into() };
    assert_eq!(
        format!("{opened:?}"),
        r#"Opened { key: Secret(..), slot: 1, provider: "kms", key_id: "arn" }"#
    );
    hides(&opened, &KEY);
    let created: Result<_, KeyError> = Ok((key(), None::<cmkfs::format::Slot>));
    hides(&created, &KEY);
}

/// Word for word, since the keys within are derived.
#[test]
fn the_keys_of_a_volume_do_not_print() {
    let mut descriptor = Descriptor {
        format: FORMAT.to_owned(),
        version: VERSION,
        volume_id: VolumeId([1; 16]),
        created_unix_s: 0,
        block_size: 16384,
        root_id: DirId([2; 16]),
        context: BTreeMap::new(),
        slots: vec![],
        epochs: vec![],
        features: Features::default(),
        mac: String::new(),
    };
    VolumeKeys::add_epoch(&key(), &mut descriptor, Epoch::FIRST);
    VolumeKeys::authenticate(&key(), &mut descriptor);
    let keys = VolumeKeys::open(&key(), &descriptor).unwrap();
    assert_eq!(
        format!("{keys:?}"),
        "VolumeKeys { volume_id: VolumeId(01010101010101010101010101010101), current: Epoch(1), \
         epochs: {Epoch(1): EpochKeys { files: Secret(..), directories: Secret(..), \
         names: Secret(..), links: Secret(..), attributes: Secret(..), journal: Secret(..), \
         sessions: Secret(..) }}, attribute_names: Secret(..) }"
    );
    let (cipher, _) = keys.new_file(FileId([3; 16]));
    assert_eq!(format!("{cipher:?}"), "FileCipher(..)");
}

/// Neither a fit key file's key nor what an unfit one holds.
#[test]
fn errors_of_key_files_do_not_hold_what_is_in_them() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let pairs = BTreeMap::new();
    let context = Context { volume_id: VolumeId([1; 16]), pairs: &pairs };
    let source = KeySource::File(path.clone());
    for (length, mode) in [(31, 0o600), (32, 0o644), (64, 0o600)] {
        std::fs::write(&path, &KEY.repeat(2)[..length]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = keys::create(&source, &context).unwrap_err();
        hides(&error, &KEY);
        hides(&error.to_string(), &KEY);
    }
    std::fs::write(&path, KEY).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (secret, slot) = keys::create(&source, &context).unwrap();
    hides(&slot, &KEY);
    hides(&slot, secret.expose());
    let other = Context { volume_id: VolumeId([9; 16]), pairs: &pairs };
    let error = keys::open(&[slot.unwrap()], None, &other).unwrap_err();
    assert_eq!(error.exit_code(), 21);
    hides(&error, &KEY);
}
