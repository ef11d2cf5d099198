//! New keys for a volume that is mounted: what is made from then on is of them (promise P7), and
//! what was there comes under them, while it is read and written.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::Lab;
use crate::lock::{append, read, until};
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

fn low(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| low(at / 3) ^ seed).collect()
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
        // Some below each other and some beside.
        let mut deep = point.to_owned();
        for n in 0..9 {
            deep.push(format!("deep-{n}"));
            fs::create_dir_all(deep.join("side")).unwrap();
            for place in ["file", "side/file"] {
                fs::write(deep.join(place), bytes(n, 5000)).unwrap();
            }
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
    assert_eq!(done["files"], json!(221), "with the one that has no name");
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
    for (epoch, work) in [(4, "--rewrap"), (5, "--reencrypt")] {
        let before = lab.operations().len();
        lab.rotate(&[work, "--rate", "1000"]);
        assert_eq!(lab.since(before), ["Decrypt", "Encrypt", "Decrypt", "Decrypt", "Decrypt"]);
        assert_eq!(lab.epochs(), BTreeSet::from([epoch]));
        lab.mount_and_read("large", &large);
    }
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

/// No wrapped key and no sealed byte of before is in the stored file afterwards, which is the same
/// file to everybody.
#[test]
fn files_in_use_are_re_encrypted() {
    let lab = Lab::new();
    lab.init(&[]);
    assert!(lab.mount().status.success());
    let open = Open::new(&lab.point());
    open.goes_on(1);
    lab.rotate(&["--rewrap"]);
    let stored = |lab: &Lab| {
        let by_size = |entry: std::io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            (fs::metadata(&path).is_ok_and(|stat| stat.len() > 5 << 20)).then_some(path)
        };
        let path = fs::read_dir(lab.store().join("tree")).unwrap().find_map(by_size).unwrap();
        fs::read(path).unwrap()
    };
    let before = stored(&lab);
    let calls = lab.operations().len();
    let rotated = lab.rotate(&["--reencrypt"]);
    assert_eq!(lab.since(calls), ["Decrypt", "Encrypt", "Decrypt", "Decrypt", "Decrypt"]);
    assert_eq!((&rotated["files"]["halves"], &rotated["epoch"]), (&json!(0), &json!(3)));
    assert!(rotated["files"]["bytes"].as_u64().unwrap() > 6_000_000, "{rotated}");
    open.goes_on(2);
    let after = stored(&lab);
    assert_eq!((before.len(), lab.epochs()), (after.len(), BTreeSet::from([3])));
    let same = |block: usize| {
        let at = 16384 + block / 128 * (16384 + 128 * 16384) + block % 128 * 16384;
        before[at..at + 16384] == after[at..at + 16384]
    };
    assert!((0..320).all(|block| !same(block)));
    assert!(!lab.volume_json().contains("two-keys"));
    drop(open);
    lab.umount();
    lab.mount_watching(&["--durability", "relaxed"]);
    let refused = lab.key("rotate", &["--reencrypt"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(35), "{text}");
    assert!(text.contains("relaxed") && text.contains("strict"), "{text}");
    assert!(lab.volume_json().contains("two-keys"));
    lab.umount();
    let rotated = lab.rotate(&["--reencrypt"]);
    assert_eq!((&rotated["resumed"], &rotated["epoch"]), (&json!(true), &json!(4)));
    assert!(!lab.volume_json().contains("two-keys"));
    assert!(lab.mount().status.success());
    assert_eq!(fs::read(lab.point().join("dir/100")).unwrap(), bytes(100, 6000));
    lab.umount();
}

/// While files are under two keys, of a volume whose settings have what a reader may pass over.
#[test]
fn a_snapshot_amid_a_re_encryption_is_whole_and_can_be_gone_on_with() {
    let lab = Lab::new();
    let output = format!("kms:{}", lab.moto.new_key());
    lab.init(&["--output-key", &output]);
    assert!(lab.mount().status.success());
    fs::write(lab.point().join("large"), bytes(1, 24 << 20)).unwrap();
    for n in 0..50 {
        fs::write(lab.point().join(n.to_string()), bytes(n, usize::from(n) * 600)).unwrap();
    }
    let target = lab.root.path().join("target");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let create = |volume: PathBuf| -> Value {
        let made = lab.ok(&["snapshot", "create", &path(&volume), &path(&target), "--json"]);
        serde_json::from_slice(&made.stdout).unwrap()
    };
    let first = create(lab.point());
    let mut rotation = lab.key("rotate", &["--reencrypt", "--rate", "1"]).spawn().unwrap();
    let large = fs::metadata(lab.point().join("large")).unwrap();
    let under_two_keys = || {
        let entries = fs::read_dir(lab.store().join("tree")).unwrap();
        let lens = entries.filter_map(|entry| {
            let (file, mut len) = (File::open(entry.ok()?.path()).ok()?, [0; 2]);
            file.read_exact_at(&mut len, 12).ok()?;
            Some(u16::from_le_bytes(len))
        });
        lens.filter(|len| *len == 3672).count() > 0
    };
    until("under two keys", under_two_keys);
    let amid = create(lab.point());
    assert!(rotation.try_wait().unwrap().is_none(), "it is at work still");
    rotation.kill().unwrap();
    rotation.wait().unwrap();
    lab.umount();
    let stopped = create(lab.store());
    assert_eq!((&amid["parent"], &stopped["parent"]), (&first["id"], &amid["id"]));
    fs::rename(lab.store(), lab.root.path().join("of-before")).unwrap();
    for made in [&stopped, &first, &amid] {
        let id = made["id"].as_str().unwrap();
        if lab.store().exists() {
            fs::remove_dir_all(lab.store()).unwrap();
        }
        lab.ok(&["snapshot", "verify", &path(&target), "--id", id]);
        lab.ok(&["snapshot", "restore", &path(&target), &path(&lab.store()), "--id", id]);
        assert_eq!(lab.volume_json().contains("two-keys"), made != &first);
        assert!(lab.volume_json().contains("output-key="));
        lab.ok(&["check", &path(&lab.store())]);
        assert!(lab.mount().status.success());
        assert_eq!(fs::metadata(lab.point().join("large")).unwrap().len(), large.len());
        assert!(fs::read(lab.point().join("large")).unwrap() == bytes(1, 24 << 20));
        assert!(fs::read(lab.point().join("49")).unwrap() == bytes(49, 49 * 600));
        lab.umount();
    }
    let resumed = lab.rotate(&["--reencrypt"]);
    assert_eq!((&resumed["resumed"], &resumed["epoch"]), (&json!(true), &json!(2)));
    assert_eq!((under_two_keys(), lab.epochs()), (false, BTreeSet::from([2])));
    lab.mount_and_read("large", &bytes(1, 24 << 20));
    let done = create(lab.store());
    lab.ok(&["snapshot", "verify", &path(&target), "--id", done["id"].as_str().unwrap()]);
}

/// Numbers that a seed makes.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % end
    }
}

/// Writes and cuts at random places of one file, and reads what memory says was acknowledged, until
/// told to end. Returns that.
fn scatter(file: &File, seed: u64, ends: &AtomicBool) -> Vec<u8> {
    let (mut random, mut wanted) = (Random(seed), Vec::new());
    let is_revoked = |error: std::io::Error| {
        assert_eq!(error.raw_os_error(), Some(libc::EKEYREVOKED), "{error}");
    };
    let mut round = 0_usize;
    while !ends.load(Ordering::Relaxed) {
        round += 1;
        let at = random.below(6 << 20);
        let len = 1 + random.below(if round.is_multiple_of(16) { 300_000 } else { 5000 });
        if round.is_multiple_of(64) {
            match file.set_len(at as u64) {
                Ok(()) => wanted.resize(at, 0),
                Err(error) => is_revoked(error),
            }
        }
        let part = vec![low(round); len];
        match file.write_at(&part, at as u64) {
            // A lock may come between two requests of one call.
            Ok(done) => {
                wanted.resize(wanted.len().max(at + done), 0);
                wanted[at..at + done].copy_from_slice(&part[..done]);
            }
            Err(error) => is_revoked(error),
        }
        if round.is_multiple_of(8) {
            drop(file.sync_data());
        }
        let (at, mut found) = (random.below(wanted.len() + 1), vec![0; 20_000]);
        match file.read_at(&mut found, at as u64) {
            Ok(done) => {
                assert!(found[..done] == wanted[at..at + done], "wrong bytes at {at}");
                assert!(done == found.len() || at + done <= wanted.len());
            }
            Err(error) => is_revoked(error),
        }
    }
    wanted
}

/// One thing that happens to the keys of a mounted volume.
fn happen(lab: &Lab, what: usize, ends: [&str; 2]) {
    let store = lab.store();
    let store = store.to_str().unwrap();
    let is_state = |state: &str| lab.daemon()["key_state"] == state;
    match what {
        0 => drop(lab.rotate(&[])),
        1 => drop(lab.rotate(&["--rewrap"])),
        2 => drop(lab.rotate(&["--reencrypt"])),
        3 => ends.iter().for_each(|arn| {
            lab.key_ok("rewrap", &["--to", &format!("kms:{arn}")]);
        }),
        4 => {
            lab.ok(&["lock", store]);
            lab.ok(&["unlock", store]);
        }
        5 => {
            let disabled = Fault::error("DisabledException", "the key is disabled.");
            lab.proxy.fault("Decrypt", disabled);
            until("locked", || is_state("locked"));
            lab.proxy.fault_times("Decrypt", Fault::Reset, 0);
            until("unlocked", || is_state("held"));
        }
        _ => {
            lab.proxy.fault("Decrypt", Fault::error("ThrottlingException", "Rate exceeded"));
            until("an outage", || is_state("unproved"));
            lab.proxy.fault_times("Decrypt", Fault::Reset, 0);
            until("no outage", || is_state("held"));
        }
    }
}

/// `CMKFS_ROTATE_ROUNDS` rounds, by default one of each kind, and `CMKFS_ROTATE_SEED`.
#[test]
fn a_mount_under_load_loses_nothing_through_all_that_happens_to_its_keys() {
    let number = |name, other: u64| std::env::var(name).map_or(other, |text| text.parse().unwrap());
    let rounds = usize::try_from(number("CMKFS_ROTATE_ROUNDS", 7)).unwrap();
    let seed = number("CMKFS_ROTATE_SEED", 1);
    let lab = Lab::new();
    let arns = [lab.init(&[]), lab.moto.new_key()];
    lab.mount_watching(&["--key-recheck", "1s"]);
    let point = lab.point();
    let still = bytes(9, 3_000_000);
    fs::write(point.join("still"), &still).unwrap();
    let make = |name: String| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).open(point.join(name)).unwrap()
    };
    let logs = [0, 1].map(|n| make(format!("log-{n}")));
    let files = [0, 1].map(|n| make(format!("file-{n}")));
    let file = File::open(point.join("still")).unwrap();
    let ends = AtomicBool::new(false);
    let (taken, wanted) = std::thread::scope(|scope| {
        let logs = logs.map(|log| scope.spawn(|| append(log, &ends)));
        let reader = scope.spawn(|| read(&file, &still, &ends));
        let files = [(&files[0], 1), (&files[1], 2)];
        let ends = &ends;
        let files =
            files.map(|(file, n)| scope.spawn(move || scatter(file, (seed << 8) | n, ends)));
        let happened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut random = Random(seed);
            for round in 0..rounds {
                // Each of them once, then any.
                let what = if round < 7 { round } else { random.below(7) };
                happen(&lab, what, [&arns[1], &arns[0]]);
            }
        }));
        ends.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
        let (taken, wanted) =
            (logs.map(|log| log.join().unwrap()), files.map(|f| f.join().unwrap()));
        happened.unwrap();
        (taken, wanted)
    });
    drop((file, files));
    let holds = |when: &str| {
        assert!(fs::read(point.join("still")).unwrap() == still, "{when}");
        for n in 0..2 {
            let lines: String = (0..taken[n]).map(|line| format!("{line:07}\n")).collect();
            let found = fs::read_to_string(point.join(format!("log-{n}"))).unwrap();
            assert!(found == lines, "{when}: other lines than were taken: {taken:?}");
            let found = fs::read(point.join(format!("file-{n}"))).unwrap();
            assert!(found == wanted[n], "{when}: file-{n}");
        }
    };
    holds("mounted");
    lab.umount();
    let checked = lab.run(&["check", lab.store().to_str().unwrap()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    assert!(lab.mount().status.success());
    holds("after a new mount");
    lab.umount();
}
