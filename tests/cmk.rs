//! A volume under a customer's KMS key, by the real program and a KMS over HTTP: one call to make
//! it, one call to mount it (promise P6), and an error and exit code of its own for each way in
//! which a key can be out of reach.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::moto::{Moto, REGION};
use support::proxy::{Fault, Proxy};

struct Lab {
    moto: std::sync::Arc<Moto>,
    proxy: Proxy,
    root: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let moto = Moto::shared();
        let proxy = Proxy::start(moto.address());
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("point")).unwrap();
        Self { moto, proxy, root }
    }

    fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    fn point(&self) -> PathBuf {
        self.root.path().join("point")
    }

    fn command(&self, endpoint: &str, args: &[&str]) -> Command {
        let home = self.root.path().join("home");
        let mut command = Command::new(env!("CARGO_BIN_EXE_cmkfs"));
        command.args(args).env("HOME", &home).env("XDG_RUNTIME_DIR", home.join("run"));
        command.env("XDG_DATA_HOME", home.join("data")).env("XDG_STATE_HOME", home.join("state"));
        command.env("AWS_ENDPOINT_URL_KMS", endpoint).env("AWS_REGION", REGION);
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(&self.proxy.url(), args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> Output {
        let output = self.run(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {} {text}", output.status);
        output
    }

    fn init(&self, more: &[&str]) -> String {
        let arn = self.moto.new_key();
        let (store, key) = (self.store(), format!("kms:{arn}"));
        let mut args = vec!["init", store.to_str().unwrap(), "--key", &key];
        args.extend(more);
        self.ok(&args);
        arn
    }

    fn mount_args(&self) -> [String; 3] {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        ["mount".to_owned(), text(self.store()), text(self.point())]
    }

    fn mount(&self) -> Output {
        let args = self.mount_args();
        self.run(&args.each_ref().map(String::as_str))
    }

    /// A mount that has to fail with this exit code, saying each of `wanted`, and leave nothing.
    #[track_caller]
    fn refused(&self, output: &Output, code: i32, wanted: &[&str]) {
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        for part in wanted {
            assert!(text.contains(part), "wanted {part:?} in: {text}");
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(self.point().to_str().unwrap()), "something is mounted");
    }

    fn edit_volume(&self, from: &str, to: &str) {
        let path = self.store().join("volume.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
    }
}

fn write_and_read(point: &Path) {
    fs::write(point.join("file"), vec![5; 100_000]).unwrap();
    assert_eq!(fs::read(point.join("file")).unwrap(), vec![5; 100_000]);
}

#[test]
fn one_call_makes_a_volume_and_one_call_mounts_it() {
    let lab = Lab::new();
    let arn = lab.init(&["--context", "team=vision", "--context", "stage=test"]);
    assert_eq!((lab.proxy.count("GenerateDataKey"), lab.proxy.calls().len()), (1, 1));
    assert!(lab.mount().status.success());
    for n in 0..200 {
        fs::write(lab.point().join(format!("file-{n}")), b"one of many").unwrap();
    }
    write_and_read(&lab.point());
    lab.ok(&["umount", lab.point().to_str().unwrap()]);
    assert_eq!((lab.proxy.count("Decrypt"), lab.proxy.calls().len()), (1, 2));
    let decrypt = lab.proxy.calls().pop().unwrap();
    assert_eq!(decrypt.input["KeyId"], json!(arn));
    let context = &decrypt.input["EncryptionContext"];
    assert_eq!(context["team"], json!("vision"));
    assert!(context["cmkfs:volume-id"].as_str().is_some_and(|id| id.len() == 32));
    assert!(lab.mount().status.success());
    assert_eq!(fs::read(lab.point().join("file-7")).unwrap(), b"one of many");
    lab.ok(&["umount", lab.point().to_str().unwrap()]);
}

#[test]
fn each_way_in_which_the_key_is_out_of_reach_has_its_own_error() {
    let lab = Lab::new();
    lab.init(&["--context", "team=vision"]);
    let message = "User: arn:aws:iam::123456789012:user/me is not authorized to perform: \
                   kms:Decrypt on the resource because no resource-based policy allows it";
    let cases: [(&'static str, &str, i32, &[&str]); 5] = [
        ("AccessDeniedException", message, 22, &["kms:Decrypt", "\"Effect\": \"Allow\""]),
        ("DisabledException", "arn is disabled.", 23, &["disabled"]),
        ("KMSInvalidStateException", "arn is pending deletion.", 23, &["pending deletion"]),
        ("NotFoundException", "Key does not exist", 25, &["not"]),
        ("ThrottlingException", "Rate exceeded", 28, &["quota"]),
    ];
    for (code, message, exit, wanted) in cases {
        lab.proxy.fault("Decrypt", Fault::error(code, message));
        lab.refused(&lab.mount(), exit, wanted);
    }
    lab.proxy.fault_times("Decrypt", Fault::Reset, 0);
    assert!(lab.mount().status.success(), "and afterwards it mounts");
    write_and_read(&lab.point());
    lab.ok(&["umount", lab.point().to_str().unwrap()]);
}

#[test]
fn a_wrong_context_a_wrong_key_and_no_endpoint_are_told_apart() {
    let lab = Lab::new();
    let arn = lab.init(&["--context", "team=vision"]);
    let other = lab.moto.new_key();
    lab.edit_volume("vision", "audio");
    lab.refused(&lab.mount(), 24, &["context"]);
    lab.edit_volume("audio", "vision");
    lab.edit_volume(&arn, &other);
    let wrong = lab.mount();
    // The emulator denies where AWS says that the key is another one.
    assert!(matches!(wrong.status.code(), Some(22 | 25)), "{wrong:?}");
    lab.edit_volume(&other, &arn);
    let args = lab.mount_args();
    let args = args.each_ref().map(String::as_str);
    // Port 9 of this machine: nobody listens.
    let dead = lab.command("http://127.0.0.1:9", &args).output().unwrap();
    lab.refused(&dead, 26, &["127.0.0.1:9"]);
    let mut nobody = lab.command(&lab.proxy.url(), &args);
    nobody.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    lab.refused(&nobody.output().unwrap(), 27, &["credentials"]);
    assert!(lab.mount().status.success());
    lab.ok(&["umount", lab.point().to_str().unwrap()]);
}

#[test]
fn aliases_of_aws_itself_are_refused_and_nothing_is_left() {
    let lab = Lab::new();
    let output = lab.run(&["init", lab.store().to_str().unwrap(), "--key", "kms:alias/aws/s3"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("alias/aws/"), "{text}");
    assert!(!lab.store().exists(), "a failed init leaves a store");
    assert_eq!(lab.proxy.calls().len(), 0);
}

/// The checks of `doctor --json` with these arguments, by name, and the exit code.
fn doctor(lab: &Lab, endpoint: &str, args: &[&str]) -> (BTreeMap<String, Value>, Option<i32>) {
    let args = [&["doctor", "--json"], args].concat();
    let output = lab.command(endpoint, &args).output().unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    assert_eq!(value["passed"] == true, output.status.success(), "{value}");
    let checks = value["checks"].as_array().unwrap().iter();
    let named = |check: &Value| (check["check"].as_str().unwrap().to_owned(), check.clone());
    (checks.map(named).collect(), output.status.code())
}

/// Status of each check of KMS, in order.
fn statuses(checks: &BTreeMap<String, Value>) -> String {
    let names =
        ["credentials", "region", "endpoint", "generate_data_key", "decrypt", "clock", "volume"];
    let status = |name: &&str| checks.get(*name).map_or("-", |c| c["status"].as_str().unwrap());
    names.iter().map(status).collect::<Vec<_>>().join(" ")
}

#[test]
fn doctor_tries_the_key_of_a_volume_that_is_there_or_is_to_be_made() {
    let lab = Lab::new();
    let store = lab.store();
    let store = store.to_str().unwrap();
    let key = format!("kms:{}", lab.moto.new_key());
    let url = lab.proxy.url();
    let new = ["--store", store, "--key", &key, "--context", "team=vision"];
    let (checks, code) = doctor(&lab, &url, &new);
    assert_eq!((statuses(&checks).as_str(), code), ("ok ok ok ok ok ok -", Some(0)));
    assert_eq!(checks["endpoint"]["value"], json!(format!("{url}/")));
    let calls = lab.proxy.calls();
    let [made, opened] = &calls[..] else { panic!("two calls: {calls:?}") };
    assert_eq!(
        (made.operation.as_str(), opened.operation.as_str()),
        ("GenerateDataKey", "Decrypt")
    );
    let context = json!({
        "cmkfs:trial": "doctor", "cmkfs:volume-id": "0".repeat(32), "team": "vision",
    });
    for call in [made, opened] {
        assert_eq!(call.input["EncryptionContext"], context);
    }
    assert!(!lab.store().exists(), "doctor changed something");

    lab.init(&["--context", "team=vision"]);
    let (before, text) = (lab.proxy.calls().len(), fs::read(lab.store().join("volume.json")));
    let (checks, code) = doctor(&lab, &url, &["--store", store]);
    assert_eq!((statuses(&checks).as_str(), code), ("ok ok ok - ok ok ok", Some(0)));
    assert_eq!(checks["decrypt"]["subject"], "slot 1");
    assert_eq!(lab.proxy.calls().len(), before + 1, "one call a slot");
    assert!(lab.proxy.calls()[before].input["EncryptionContext"]["cmkfs:trial"].is_null());
    assert_eq!(fs::read(lab.store().join("volume.json")).unwrap(), text.unwrap());
    lab.edit_volume("\"block_size\": 16384", "\"block_size\": 32768");
    let (checks, code) = doctor(&lab, &url, &["--store", store]);
    assert_eq!((statuses(&checks).as_str(), code), ("ok ok ok - ok ok fails", Some(71)));
}

#[test]
fn doctor_says_which_step_on_the_way_to_the_key_fails() {
    let lab = Lab::new();
    lab.init(&[]);
    let store = lab.store();
    let args = ["--store", store.to_str().unwrap()];
    let url = lab.proxy.url();
    let cases = [
        ("AccessDeniedException", "ok ok ok - fails ok not_checked", "\"Effect\": \"Allow\""),
        ("DisabledException", "ok ok ok - fails ok not_checked", "enable-key"),
        ("ExpiredTokenException", "fails ok ok - not_checked ok not_checked", "renew"),
    ];
    let now = |ahead: Duration| httpdate(SystemTime::now() + ahead);
    for (code, wanted, part) in cases {
        // A fault of the proxy has no time of its own.
        lab.proxy.date(&now(Duration::ZERO));
        lab.proxy.fault("Decrypt", Fault::error(code, "because"));
        let (checks, exit) = doctor(&lab, &url, &args);
        assert_eq!((statuses(&checks).as_str(), exit), (wanted, Some(71)));
        let said = |check: &Value| check["remedy"].as_str().is_some_and(|text| text.contains(part));
        let told = checks.values().any(said);
        assert!(told, "{part}: {checks:?}");
    }
    lab.proxy.fault_times("Decrypt", Fault::Reset, 0);
    let none = "ok ok fails - not_checked not_checked not_checked";
    assert_eq!(statuses(&doctor(&lab, "http://127.0.0.1:9", &args).0), none);
    let (checks, _) = doctor(&lab, &url.replace("127.0.0.1", "0.0.0.0"), &args);
    assert_eq!(statuses(&checks), none);
    assert!(checks["endpoint"]["remedy"].as_str().unwrap().contains("--allow-plain-http"));
    for (ahead_s, status) in [(30, "ok"), (120, "warning"), (400, "fails")] {
        lab.proxy.date(&now(Duration::from_secs(ahead_s)));
        let (checks, _) = doctor(&lab, &url, &args);
        assert_eq!(checks["clock"]["status"], status);
        let ahead: i64 = checks["clock"]["value"].as_str().unwrap().parse().unwrap();
        assert!((ahead + i64::try_from(ahead_s).unwrap()).abs() < 10, "{ahead}");
    }
}

/// As `Date` has it; coreutils know the calendar.
fn httpdate(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut date = Command::new("date");
    date.env("LC_ALL", "C").args(["-u", "-d", &format!("@{seconds}"), "+%a, %d %b %Y %T GMT"]);
    String::from_utf8(date.output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn plain_http_is_refused_and_may_be_allowed_for_a_mount_and_its_daemon() {
    let lab = Lab::new();
    lab.init(&[]);
    let url = lab.proxy.url().replace("127.0.0.1", "0.0.0.0");
    let before = lab.proxy.calls().len();
    let args = lab.mount_args();
    let mut args = args.each_ref().map(String::as_str).to_vec();
    let refused = lab.command(&url, &args).output().unwrap();
    lab.refused(&refused, 70, &[&url, "nothing was sent", "CMKFS_ALLOW_PLAIN_HTTP"]);
    assert_eq!(lab.proxy.calls().len(), before);
    args.push("--allow-plain-http");
    let mounted = lab.command(&url, &args).output().unwrap();
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    write_and_read(&lab.point());
    lab.ok(&["umount", lab.point().to_str().unwrap()]);
}

/// The emulator judges no condition of a policy, but it has the grammar of IAM.
#[test]
fn key_policy_prints_what_iam_takes() {
    let lab = Lab::new();
    let arn = lab.init(&["--context", "team=vision"]);
    let store = lab.store();
    let role = "arn:aws:iam::123456789012:role/Train";
    let all = "init,mount,rewrap,grant,output";
    let with = ["key", "policy", "--role", role, "--for", all, store.to_str().unwrap()];
    let key = format!("kms:{arn}");
    let without = ["key", "policy", "--role", role, "--for", all, "--key", &key];
    for (n, args) in [&with[..], &without].into_iter().enumerate() {
        let printed: Value = serde_json::from_slice(&lab.ok(args).stdout).unwrap();
        let own = &printed["identity_policy"];
        assert_eq!(own["Statement"].as_array().unwrap().len(), 6);
        assert!(own["Statement"].as_array().unwrap().iter().all(|s| s["Resource"] == json!(arn)));
        assert_eq!(printed["key_policy"]["Statement"][0]["Principal"]["AWS"], json!(role));
        lab.moto.create_policy(&format!("cmkfs-{}-{n}", &arn[arn.len() - 8..]), own);
    }
    let mount = lab.ok(&["key", "policy", store.to_str().unwrap()]);
    let printed: Value = serde_json::from_slice(&mount.stdout).unwrap();
    let [mount] = &printed["key_policy"]["Statement"].as_array().unwrap()[..] else {
        panic!("one statement: {printed}")
    };
    assert_eq!(mount["Action"], json!(["kms:Decrypt"]));
    let equals = &mount["Condition"]["StringEquals"];
    assert_eq!(equals["kms:EncryptionContext:team"], "vision");
    assert_eq!(equals["kms:EncryptionContext:cmkfs:volume-id"].as_str().unwrap().len(), 32);
    assert_eq!(lab.proxy.count("Decrypt"), 0, "a policy needs no key");
}
