//! The key slots of a volume: added, removed, put under another key, beside a mount, and killed in
//! the middle of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Lab;
use crate::support::proxy::Fault;

/// The slots of a volume that has one under a KMS key.
impl Lab {
    /// `cmkfs key VERB STORE WORDS...`.
    pub(crate) fn key(&self, verb: &str, words: &[&str]) -> Command {
        let store = self.store();
        let args: Vec<&str> =
            ["key", verb, store.to_str().unwrap()].iter().chain(words).copied().collect();
        self.command(&self.proxy.url(), &args)
    }

    #[track_caller]
    pub(crate) fn key_ok(&self, verb: &str, words: &[&str]) -> String {
        let output = self.key(verb, words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {words:?}: {} {text}", output.status);
        String::from_utf8(output.stdout).unwrap() + &text
    }

    /// A change that has to be refused so, and change nothing.
    #[track_caller]
    pub(crate) fn key_refused(&self, verb: &str, words: &[&str], code: i32, wanted: &[&str]) {
        let before = self.volume_json();
        self.refused(&self.key(verb, words).output().unwrap(), code, wanted);
        assert_eq!(self.volume_json(), before);
    }

    pub(crate) fn key_status(&self) -> Value {
        serde_json::from_str(&self.key_ok("status", &["--json"])).unwrap()
    }

    pub(crate) fn volume_json(&self) -> String {
        fs::read_to_string(self.store().join("volume.json")).unwrap()
    }

    /// As KMS does, which the emulator does not.
    pub(crate) fn disable(&self, arn: &str) {
        let fault = Fault::error("DisabledException", &format!("{arn} is disabled."));
        self.proxy.fault_of_key(arn, Some(fault));
    }

    pub(crate) fn enable(&self, arn: &str) {
        self.proxy.fault_of_key(arn, None);
    }

    pub(crate) fn operations(&self) -> Vec<String> {
        self.proxy.calls().into_iter().map(|call| call.operation).collect()
    }

    #[track_caller]
    pub(crate) fn mount_and_read(&self, name: &str, wanted: &[u8]) {
        let output = self.mount();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read(self.point().join(name)).unwrap(), wanted);
        self.umount();
    }

    pub(crate) fn umount(&self) {
        self.ok(&["umount", self.point().to_str().unwrap()]);
    }
}

#[test]
fn either_of_two_kms_keys_opens_a_volume() {
    let lab = Lab::new();
    let one = lab.init(&["--context", "team=vision"]);
    let two = lab.moto.new_key();
    let said = lab.key_ok("add", &["--new", &format!("kms:{two}")]);
    assert!(said.contains("key slot 2") && said.contains(&two), "{said}");
    assert_eq!(lab.operations(), ["GenerateDataKey", "Decrypt", "Encrypt", "Decrypt"]);
    let [.., encrypt, proof] = &lab.proxy.calls()[..] else { panic!("four calls") };
    assert_eq!(encrypt.input["KeyId"], json!(two));
    assert_eq!(encrypt.input["EncryptionContext"]["team"], json!("vision"));
    assert_eq!(proof.input["CiphertextBlob"], encrypt.output["CiphertextBlob"]);
    assert!(lab.mount().status.success());
    fs::write(lab.point().join("file"), b"either").unwrap();
    lab.umount();
    for (off, on) in [(&one, &two), (&two, &one)] {
        lab.disable(off);
        lab.mount_and_read("file", b"either");
        assert_eq!(lab.proxy.calls().last().unwrap().input["KeyId"], json!(on));
        lab.enable(off);
    }
    // As long as the other one does not open the volume, each is the last.
    lab.disable(&two);
    lab.key_refused("remove", &["1"], 23, &["key slot 1 stays", &two, "disabled"]);
    lab.disable(&one);
    lab.refused(&lab.mount(), 23, &["disabled"]);
    lab.enable(&two);
    let said = lab.key_ok("remove", &["1"]);
    assert!(said.contains(&format!("opened by  key slot 2  kms {two}")), "{said}");
    lab.mount_and_read("file", b"either");
    lab.key_refused("remove", &["2"], 16, &["only one", "key add"]);
    lab.key_refused("remove", &["1"], 15, &["no key slot 1", "2 (kms:arn"]);
    lab.enable(&one);
    let said = lab.key_ok("add", &["--new", &format!("kms:{one}")]);
    assert!(said.contains("key slot 3"), "the number of a removed slot: {said}");
    assert!(!lab.volume_json().contains("\"id\": 1"), "{}", lab.volume_json());
}

#[test]
fn a_key_file_beside_a_kms_key_opens_without_a_call() {
    let lab = Lab::new();
    let arn = lab.init(&[]);
    let file = lab.root.path().join("spare");
    let local = format!("local:{}", file.display());
    lab.key_ok("add", &["--new", &local]);
    let before = lab.proxy.calls().len();
    assert!(lab.mount().status.success());
    fs::write(lab.point().join("file"), b"spare").unwrap();
    let status = lab.key_status();
    lab.umount();
    assert_eq!(lab.proxy.calls().len(), before);

    let daemon = &status["daemons"][0];
    assert_eq!((&daemon["slot"], &daemon["provider"]), (&json!(2), &json!("local")));
    let proved = daemon["proved_unix_s"].as_u64().unwrap();
    assert!(proved > 1_700_000_000, "{status}");
    let slots = json!([
        { "id": 1, "provider": "kms", "key": arn, "in_use": false, "last_used_unix_s": null },
        { "id": 2, "provider": "local", "key": file.to_str().unwrap(), "in_use": true,
          "last_used_unix_s": proved },
    ]);
    assert_eq!(status["slots"], slots);
    assert_eq!((&status["state"], &status["epochs"]), (&json!("mounted"), &json!(1)));
    let stopped = lab.key_status();
    assert_eq!(stopped["daemons"], json!([]));
    assert_eq!(stopped["slots"][1]["last_used_unix_s"], json!(null));
    assert_eq!(stopped["volume_id"].as_str().unwrap().len(), 32);

    fs::remove_file(&file).unwrap();
    lab.mount_and_read("file", b"spare");
    lab.key_refused("remove", &["1"], 20, &["stays", "spare"]);
    lab.key_ok("remove", &["2"]);
}

/// The volume is written and read while its slot goes from key to key; what was under the old key
/// is then nowhere in the store.
#[test]
fn a_mounted_volume_goes_from_key_to_key_under_load() {
    let lab = Lab::new();
    let one = lab.init(&[]);
    let two = lab.moto.new_key();
    lab.mount_watching(&["--key-recheck", "1s"]);
    let point = lab.point();
    let done = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0_u8;
            while written < 50 || (written < 250 && !done.load(Ordering::Relaxed)) {
                let path = point.join(format!("file-{written}"));
                fs::write(&path, vec![written; 50_000]).unwrap();
                fs::File::open(&path).unwrap().sync_all().unwrap();
                assert_eq!(fs::read(&path).unwrap(), vec![written; 50_000]);
                written += 1;
            }
            written
        });
        for to in [&two, &one, &two, &one, &two] {
            let said = lab.key_ok("rewrap", &["--to", &format!("kms:{to}")]);
            assert!(said.contains("rewrapped by KMS") && said.contains(to), "{said}");
        }
        // The mount goes on with the new key, whatever becomes of the old one.
        lab.disable(&one);
        assert_eq!(lab.key_status()["slots"][0]["key"], json!(two));
        let asked = Instant::now();
        while lab.key_status()["daemons"][0]["key"] != json!(two) {
            assert!(asked.elapsed() < Duration::from_secs(60), "{}", lab.key_status());
            std::thread::sleep(Duration::from_millis(20));
        }
        let slot = &lab.key_status()["slots"][0];
        assert_eq!(slot["in_use"], json!(true));
        assert!(slot["last_used_unix_s"].as_u64().is_some(), "{slot}");
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    lab.umount();
    assert_eq!((lab.proxy.count("ReEncrypt"), lab.proxy.count("Encrypt")), (5, 0));
    assert!(!lab.volume_json().contains(&one));
    assert!(!lab.store().join("volume.json.new").exists());
    assert!(lab.mount().status.success());
    for file in 0..written {
        let found = fs::read(lab.point().join(format!("file-{file}"))).unwrap();
        assert!(found == vec![file; 50_000], "file-{file}");
    }
    lab.umount();
}

#[test]
fn where_kms_does_not_re_encrypt_the_key_is_unwrapped_and_wrapped() {
    let lab = Lab::new();
    let one = lab.init(&["--context", "team=vision"]);
    let [two, three] = [lab.moto.new_key(), lab.moto.new_key()];
    let tree = || {
        let tree = lab.store().join("tree");
        let found = fs::read_dir(tree).unwrap().map(|entry| entry.unwrap());
        let mut found: Vec<_> = found
            .map(|entry| {
                let stat = entry.path().symlink_metadata().unwrap();
                (entry.file_name(), stat.ino(), stat.mtime_nsec(), stat.ctime_nsec())
            })
            .collect();
        found.sort();
        found
    };
    let before = tree();
    lab.proxy.fault("ReEncrypt", Fault::error("AccessDeniedException", "not authorized"));
    let said = lab.key_ok("rewrap", &["--to", &format!("kms:{two}")]);
    for part in ["kms:ReEncryptFrom", "not authorized", "unwrapped and wrapped", &one, &two] {
        assert!(said.contains(part), "wanted {part:?} in: {said}");
    }
    let calls = ["GenerateDataKey", "ReEncrypt", "Decrypt", "Encrypt", "Decrypt"];
    assert_eq!(lab.operations(), calls);
    lab.proxy.fault_times("ReEncrypt", Fault::Reset, 0);

    // The old key is disabled, which only a slot of another key can do without.
    lab.disable(&two);
    lab.key_refused("rewrap", &["--to", &format!("kms:{three}")], 23, &["disabled"]);
    lab.enable(&two);
    let file = lab.root.path().join("spare");
    lab.key_ok("add", &["--new", &format!("local:{}", file.display())]);
    lab.disable(&two);
    lab.key_refused("rewrap", &["--to", &format!("kms:{three}")], 15, &["--slot", "2 (local"]);
    lab.key_ok("rewrap", &["--to", &format!("kms:{three}"), "--slot", "1"]);
    fs::remove_file(&file).unwrap();
    assert!(lab.mount().status.success());
    lab.umount();
    // What can't be opened again with what this machine may do is not taken.
    lab.proxy.fault_of_key(&one, Some(Fault::error("AccessDeniedException", "no")));
    let words = ["--to", &format!("kms:{one}"), "--slot", "1"];
    lab.key_refused("rewrap", &words, 22, &["kms:Encrypt", "\"Effect\": \"Allow\""]);
    assert_eq!(tree(), before, "data was touched");
}

#[test]
fn a_change_that_is_killed_leaves_a_volume_that_opens() {
    let lab = Lab::new();
    lab.init(&[]);
    let before = lab.volume_json();
    let two = format!("kms:{}", lab.moto.new_key());
    // While KMS is asked, with the description locked.
    for operation in ["Encrypt", "ReEncrypt"] {
        lab.proxy.fault_times(operation, Fault::Hang, 1);
        let (verb, flag) =
            if operation == "Encrypt" { ("add", "--new") } else { ("rewrap", "--to") };
        let mut child = lab.key(verb, &[flag, &two]).stdout(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while lab.proxy.count(operation) == 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "{operation} does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lab.volume_json(), before);
    }
    // At some moment or other, by a clock that nothing else goes by.
    let local = |n: u64| format!("local:{}", lab.root.path().join(format!("key-{n}")).display());
    lab.key_ok("add", &["--new", &local(0)]);
    for n in 1..=16 {
        let mut child =
            lab.key("add", &["--new", &local(n)]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(n * 2));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(lab.ok(&["ls", &format!("{}:/", lab.store().display())]).status.success());
    }
    let said = lab.key_ok("add", &["--new", &local(16)]);
    assert!(said.contains("local:") || said.contains("key-16"), "{said}");
    let slots = lab.key_status()["slots"].as_array().unwrap().clone();
    let mut numbers: Vec<_> = slots.iter().map(|slot| slot["id"].as_u64().unwrap()).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), slots.len(), "{slots:?}");
    assert!(!lab.store().join("volume.json.new").exists());
}

/// By its id alone, AWS's own key looks like any other.
#[test]
fn a_key_that_aws_manages_is_refused_by_what_kms_says_of_it() {
    let lab = Lab::new();
    lab.init(&[]);
    let managed = lab.moto.new_key();
    let (_, id) = managed.split_once("key/").unwrap();
    for operation in ["GenerateDataKey", "Encrypt"] {
        lab.proxy.fault(operation, Fault::error("AccessDeniedException", "not authorized"));
    }
    let words = ["--new", &format!("kms:{managed}")];
    lab.key_refused("add", &words, 22, &["kms:Encrypt", "kms:Decrypt"]);
    let said = json!({ "KeyMetadata": { "KeyId": id, "KeyManager": "AWS" } });
    lab.proxy.fault("DescribeKey", Fault::Answer { status: 200, body: said.to_string() });
    lab.key_refused("add", &words, 20, &[id, "AWS managed key", "customer managed"]);
    let other = lab.root.path().join("other");
    let init = ["init", other.to_str().unwrap(), "--key", &format!("kms:{id}")];
    lab.refused(&lab.run(&init), 20, &["AWS managed key"]);
    assert!(!other.exists());
}

/// It would bound nothing.
#[test]
fn a_rate_without_work_on_files_is_wrong_usage() {
    let lab = Lab::new();
    lab.init(&[]);
    lab.key_refused("rotate", &["--rate", "5"], 2, &["--rewrap", "--reencrypt"]);
    lab.key_refused("rotate", &["--rewrap", "--reencrypt"], 2, &["cannot be used with"]);
    assert_eq!(lab.key_status()["epoch"], 1);
    lab.key_ok("rotate", &["--rewrap", "--rate", "5"]);
}
