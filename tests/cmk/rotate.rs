//! New keys for a volume that is mounted: what is made from then on is of them (promise P7), and
//! what was there comes under them, while it is read and written.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::Lab;
use crate::support::proxy::Fault;

impl Lab {
    /// `cmkfs key rotate STORE --json WORDS...`, which has to succeed.
    #[track_caller]
    fn rotate(&self, words: &[&str]) -> Value {
        let said = self.key_ok("rotate", &[&["--json"], words].concat());
        serde_json::from_str(said.split_inclusive("\n}\n").next().unwrap()).unwrap()
    }

    /// The epochs that the headers of the stored files say.
    fn epochs(&self) -> BTreeSet<u32> {
        let mut epochs = BTreeSet::new();
        let mut left = vec![self.store().join("tree")];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    left.push(entry.path());
                } else if kind.is_file() {
                    let mut epoch = [0; 4];
                    File::open(entry.path()).unwrap().read_exact_at(&mut epoch, 16).unwrap();
                    epochs.insert(u32::from_le_bytes(epoch));
                }
            }
        }
        epochs
    }

    /// Operations since there were so many.
    fn since(&self, before: usize) -> Vec<String> {
        self.operations().split_off(before)
    }
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 3) as u8 ^ seed).collect()
}

/// What is open, linked and there when keys change.
struct Open {
    point: PathBuf,
    file: File,
    nameless: File,
    ino: u64,
}

impl Open {
    fn new(point: &Path) -> Self {
        fs::create_dir(point.join("dir")).unwrap();
        for n in 0..200 {
            fs::write(point.join(format!("dir/{n}")), bytes(n, usize::from(n) * 60)).unwrap();
        }
        fs::write(point.join("large"), bytes(1, 5 << 20)).unwrap();
        fs::hard_link(point.join("large"), point.join("dir/link")).unwrap();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.open(point.join("large")).unwrap();
        let nameless = options.create_new(true).open(point.join("gone")).unwrap();
        nameless.write_all_at(&bytes(2, 100_000), 0).unwrap();
        fs::remove_file(point.join("gone")).unwrap();
        let ino = file.metadata().unwrap().ino();
        Self { point: point.to_owned(), file, nameless, ino }
    }

    fn goes_on(&self, round: u8) {
        let mut found = vec![0; 100_000];
        self.nameless.read_exact_at(&mut found, 0).unwrap();
        assert!(found == bytes(2, 100_000), "the file without a name");
        let mut wanted = bytes(1, 5 << 20);
        let mut all = vec![0; wanted.len()];
        self.file.read_exact_at(&mut all, 0).unwrap();
        let part = 3_000_000..3_000_100;
        wanted[part.clone()].fill(round.wrapping_sub(1));
        assert!(round == 1 || all == wanted, "the open file");
        self.file.write_all_at(&[round; 100], 3_000_000).unwrap();
        wanted[part].fill(round);
        self.holds(&wanted);
        let now = fs::metadata(self.point.join("dir/link")).unwrap();
        assert_eq!((now.ino(), now.nlink()), (self.ino, 2));
    }

    fn holds(&self, large: &[u8]) {
        for name in ["large", "dir/link"] {
            assert!(fs::read(self.point.join(name)).unwrap() == large, "{name}");
        }
        for n in 0..200 {
            let found = fs::read(self.point.join(format!("dir/{n}"))).unwrap();
            assert!(found == bytes(n, usize::from(n) * 60), "{n}");
        }
    }
}

#[test]
fn a_mounted_volume_goes_on_with_new_keys() {
    let lab = Lab::new();
    let arn = lab.init(&["--context", "team=vision"]);
    assert!(lab.mount().status.success());
    let open = Open::new(&lab.point());
    let old = lab.volume_json();
    let before = lab.operations().len();
    let rotated = lab.rotate(&[]);
    assert_eq!((&rotated["epoch"], &rotated["mounts"]), (&json!(2), &json!(1)));
    assert_eq!(rotated["slots"], json!([{ "id": 1, "provider": "kms", "key": arn }]));
    // To open it, a new volume key for the slot, which is proved; and the mount's own.
    assert_eq!(lab.since(before), ["Decrypt", "Encrypt", "Decrypt", "Decrypt"]);
    open.goes_on(1);
    fs::write(lab.point().join("new"), b"new").unwrap();
    assert_eq!(lab.key_status()["epochs"], json!(2));
    let wrapped = |json: &str| {
        let all: Value = serde_json::from_str(json).unwrap();
        all["slots"][0]["wrapped"].clone()
    };
    assert_ne!(wrapped(&old), wrapped(&lab.volume_json()));

    let before = lab.operations().len();
    let rotated = lab.rotate(&["--rewrap"]);
    assert_eq!(lab.since(before), ["Decrypt", "Encrypt", "Decrypt", "Decrypt", "Decrypt"]);
    assert_eq!(rotated["epoch"], json!(3));
    let done = &rotated["files"];
    assert_eq!((&done["finished"], &done["damaged"]), (&json!(true), &json!(0)));
    assert_eq!(done["files"], json!(203), "with the one that has no name");
    assert_eq!(lab.epochs(), BTreeSet::from([3]));
    open.goes_on(2);
    drop(open);
    lab.umount();
    assert!(lab.mount().status.success());
    let mut large = bytes(1, 5 << 20);
    large[3_000_000..3_000_100].fill(2);
    assert!(fs::read(lab.point().join("dir/link")).unwrap() == large);
    assert_eq!(fs::read(lab.point().join("new")).unwrap(), b"new");
    lab.umount();
    // Without a mount the command does it itself, and asks KMS for the volume once.
    let before = lab.operations().len();
    lab.rotate(&["--rewrap", "--rate", "1000"]);
    assert_eq!(lab.since(before), ["Decrypt", "Encrypt", "Decrypt", "Decrypt", "Decrypt"]);
    assert_eq!(lab.epochs(), BTreeSet::from([4]));
    lab.mount_and_read("large", &large);
}

#[test]
fn a_slot_out_of_reach_keeps_all_as_it_is() {
    let lab = Lab::new();
    lab.init(&[]);
    let two = lab.moto.new_key();
    lab.key_ok("add", &["--new", &format!("kms:{two}")]);
    lab.disable(&two);
    lab.key_refused("rotate", &[], 23, &["nothing was changed", "key slot 2", &two, "disabled"]);
    lab.proxy.fault_of_key(&two, Some(Fault::error("ThrottlingException", "Rate exceeded")));
    lab.key_refused("rotate", &["--rewrap"], 28, &["nothing was changed", "key slot 2"]);
    lab.enable(&two);
    let rotated = lab.rotate(&[]);
    assert_eq!((&rotated["epoch"], &rotated["mounts"]), (&json!(2), &json!(0)));
    // Either of them opens what is new.
    for arn in [rotated["slots"][0]["key"].as_str().unwrap(), &two] {
        lab.disable(arn);
        assert!(lab.mount().status.success());
        lab.umount();
        lab.enable(arn);
    }
}

/// One that reads is told of a new epoch where it can be, and finds out elsewhere.
#[test]
fn mounts_that_read_meet_what_is_of_a_new_epoch() {
    let lab = Lab::new();
    lab.init(&[]);
    assert!(lab.mount().status.success());
    fs::write(lab.point().join("old"), b"old").unwrap();
    let elsewhere = lab.root.path().join("elsewhere");
    let mount = |name: &str, away: bool| {
        let point = lab.root.path().join(name);
        fs::create_dir(&point).unwrap();
        let (store, at) = (lab.store(), point.to_str().unwrap().to_owned());
        let (lab, elsewhere) = (&lab, &elsewhere);
        let run = move |args: &[&str]| {
            let mut command: Command = lab.command(&lab.proxy.url(), args);
            if away {
                command.env("XDG_RUNTIME_DIR", elsewhere);
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(&["mount", "--read-only", store.to_str().unwrap(), &at]);
        assert_eq!(fs::read(point.join("old")).unwrap(), b"old");
        (point, run)
    };
    let (near, run_near) = mount("near", false);
    let (far, run_far) = mount("far", true);
    let rotated = lab.rotate(&[]);
    assert_eq!(rotated["mounts"], json!(2));
    fs::create_dir(lab.point().join("dir")).unwrap();
    for n in 0..50 {
        fs::write(lab.point().join(format!("dir/{n}")), b"of the new epoch").unwrap();
    }
    let before = lab.proxy.count("Decrypt");
    for n in 0..50 {
        let name = format!("dir/{n}");
        assert_eq!(fs::read(near.join(&name)).unwrap(), b"of the new epoch");
        assert_eq!(fs::read(far.join(&name)).unwrap(), b"of the new epoch");
    }
    assert_eq!(lab.proxy.count("Decrypt") - before, 1, "by the one that was not told");
    lab.rotate(&["--rewrap"]);
    for point in [&near, &far] {
        assert_eq!(fs::read(point.join("old")).unwrap(), b"old");
    }
    run_near(&["umount", near.to_str().unwrap()]);
    run_far(&["umount", far.to_str().unwrap()]);
    lab.umount();
}
