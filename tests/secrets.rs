//! No public type that holds a secret prints it, and a transient key reaches no disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "suites/disk.rs"]
mod disk;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cmkfs::cipher::{FileCipher, Plain, Secret, VolumeKeys};
use cmkfs::file::Creator;
use cmkfs::format::descriptor::{FORMAT, VERSION};
use cmkfs::format::{BlockSize, Descriptor, DirId, Epoch, Features, FileId, VolumeId};
use cmkfs::fs::{Fs, InodeId, OpenFlags, Privileges};
use cmkfs::keys::{self, Context, KeyError, KeySource, Opened};
use cmkfs::lifecycle::init::{self, InitOptions};
use cmkfs::lifecycle::open::{self, Tuning};
use disk::Disk;

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
         sessions: Secret(..), snapshots: Secret(..) }}, attribute_names: Secret(..), \
         pending: None }"
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

/// How often each of the `wanted` stands in what is allocated of an image.
fn times_in_image(image: &Path, wanted: &[Vec<u8>]) -> Vec<usize> {
    let file = File::open(image).unwrap();
    let mut times = vec![0; wanted.len()];
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        file.read_exact_at(&mut bytes, start).unwrap();
        for (times, wanted) in times.iter_mut().zip(wanted) {
            let first = wanted[0];
            let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == first);
            *times += starts.filter(|(at, _)| bytes[*at..].starts_with(wanted)).count();
        }
        at = end;
    }
    times
}

/// Everything that such a volume writes is on a disk of its own, which is searched as a whole.
#[test]
fn a_transient_key_reaches_no_disk() {
    let disk = Disk::ext4();
    let (block_size, context) = (BlockSize::DEFAULT, BTreeMap::new());
    let options = InitOptions { key: KeySource::Transient, output_key: None, block_size, context };
    let created = init::create(&disk.path().join("store"), &options).unwrap();
    assert!(created.descriptor.slots.is_empty());
    let key = created.key.expose().to_vec();
    let opened = open::open_with(&created.path, &created.key, &Tuning::default()).unwrap();
    let content = b"plaintext that nobody may find. ".repeat(10_000);
    let fs = Fs::new(Arc::clone(&opened.volume), opened.volume.root().unwrap());
    let flags = OpenFlags { exclusive: true, ..OpenFlags::WRITE };
    let me = Creator { uid: 0, gid: 0 };
    let (_, handle) = fs.create(InodeId::ROOT, b"a-name-of-plaintext", 0o600, flags, me).unwrap();
    for _ in 0..3 {
        // Over what was committed, so that the journal has it too.
        fs.write(handle, 0, &content, Privileges::Keep).unwrap();
        opened.volume.commit_all().unwrap();
    }
    fs.release(handle).unwrap();
    fs.finish().unwrap();
    drop((fs, opened, created));

    let middle = key[8..24].to_vec();
    let hex = data_encoding::HEXLOWER.encode(&key).into_bytes();
    let base64 = data_encoding::BASE64.encode(&key).into_bytes()[..40].to_vec();
    let plain = vec![content[..32].to_vec(), b"a-name-of-plaintext".to_vec()];
    let wanted = [vec![middle, hex, base64], plain].concat();
    let sync = || {
        rustix::fs::syncfs(File::open(disk.path()).unwrap()).unwrap();
        File::open(disk.image()).unwrap().sync_all().unwrap();
    };
    sync();
    assert_eq!(times_in_image(&disk.image(), &wanted), [0; 5]);
    // The search finds what is there.
    for (n, wanted) in wanted.iter().enumerate() {
        fs::write(disk.path().join(n.to_string()), wanted).unwrap();
    }
    sync();
    assert!(times_in_image(&disk.image(), &wanted).iter().all(|times| *times > 0));
}

/// The process that has such a key is not swapped out, or says that it can be.
#[test]
fn a_job_with_a_transient_key_is_not_swapped_or_says_so() {
    let root = tempfile::tempdir().unwrap();
    let script = "grep VmSwap: /proc/$PPID/status; grep VmLck: /proc/$PPID/status; \
                  cat /proc/swaps | wc -l";
    let mut job = Command::new(env!("CARGO_BIN_EXE_cmkfs"));
    job.args(["run", "--role", "training", "--root"]).arg(root.path());
    let home = root.path().join("home");
    job.env("HOME", &home).env("XDG_RUNTIME_DIR", home.join("run"));
    job.env("XDG_STATE_HOME", home.join("state"));
    let output = job.args(["--", "sh", "-c", script]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split_whitespace().find_map(|word| word.parse().ok()))
        .collect();
    let [swapped_kib, locked_kib, swaps] = numbers[..] else { panic!("{text}") };
    if locked_kib > 0 || swaps == 1 {
        assert_eq!(swapped_kib, 0, "{text}");
    } else {
        assert!(said.contains("swap"), "neither locked nor told: {said}");
    }
}
