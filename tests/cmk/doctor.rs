//! What `doctor` says of keys, what `key policy` prints, and what plain HTTP is allowed for.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::proxy::Fault;
use crate::{Lab, write_and_read};

/// The checks of `doctor --json` with these arguments, by name, and the exit code.
pub(crate) fn doctor(
    lab: &Lab,
    endpoint: &str,
    args: &[&str],
) -> (BTreeMap<String, Value>, Option<i32>) {
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
    let all = "init,mount,add,rotate,rewrap,grant,output";
    let with = ["key", "policy", "--role", role, "--for", all, store.to_str().unwrap()];
    let key = format!("kms:{arn}");
    let without = ["key", "policy", "--role", role, "--for", all, "--key", &key];
    for (n, args) in [&with[..], &without].into_iter().enumerate() {
        let printed: Value = serde_json::from_slice(&lab.ok(args).stdout).unwrap();
        let own = &printed["identity_policy"];
        assert_eq!(own["Statement"].as_array().unwrap().len(), 9);
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
