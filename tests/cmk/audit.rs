//! What is recorded of the calls for a volume's keys: each of them as the server saw it, and
//! nothing secret.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::Lab;
use crate::support::proxy::Fault;

impl Lab {
    fn audit(&self) -> Value {
        let store = self.store();
        let output = self.ok(&["key", "audit", store.to_str().unwrap(), "--json"]);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn every_call_is_recorded_with_what_finds_it_in_cloud_trail() {
    let lab = Lab::new();
    let one = lab.init(&["--context", "team=vision"]);
    let two = lab.moto.new_key();
    lab.mount_watching(&["--key-recheck", "1s"]);
    fs::write(lab.point().join("a-name-that-is-nobodys-business"), b"x").unwrap();
    let began = std::time::Instant::now();
    while lab.proxy.count("Decrypt") < 2 {
        assert!(began.elapsed().as_secs() < 60, "no recheck");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    lab.umount();
    lab.proxy.fault_times("Decrypt", Fault::error("ThrottlingException", "Rate exceeded"), 1);
    lab.proxy.fault("ReEncrypt", Fault::error("AccessDeniedException", "not authorized"));
    let store = lab.store();
    let store = store.to_str().unwrap();
    lab.ok(&["key", "rewrap", store, "--to", &format!("kms:{two}")]);

    let found = lab.audit();
    let calls = found["calls"].as_array().unwrap();
    let seen = lab.proxy.calls();
    let of = |call: &Value| (call["eventName"].clone(), call["requestID"].clone());
    let recorded: Vec<_> = calls.iter().map(of).collect();
    let wanted: Vec<_> =
        seen.iter().map(|call| (json!(call.operation), json!(call.request_id))).collect();
    assert_eq!(recorded, wanted);
    let volume = found["volume_id"].as_str().unwrap();
    let context = json!({ "cmkfs:volume-id": volume, "team": "vision" });
    for (call, seen) in calls.iter().zip(&seen) {
        assert_eq!(call["encryptionContext"], context, "{call}");
        assert_eq!(call["eventSource"], "kms.amazonaws.com");
        assert_eq!(call["awsRegion"], "eu-west-1");
        let key = if seen.input["KeyId"].is_null() { "DestinationKeyId" } else { "KeyId" };
        assert_eq!(call["keyId"], seen.input[key]);
        assert!(call["eventTime"].as_str().is_some_and(|time| time.ends_with('Z')), "{call}");
    }
    assert_eq!(calls[0]["outcome"], "ok");
    let re_encrypt = calls.iter().find(|call| call["eventName"] == "ReEncrypt").unwrap();
    assert_eq!(re_encrypt["outcome"], "AccessDeniedException");
    assert_eq!(re_encrypt["sourceKeyId"], json!(one));
    let outcomes: Vec<_> = calls.iter().map(|call| call["outcome"].as_str().unwrap()).collect();
    assert!(outcomes.contains(&"refused"), "the call that was throttled once: {outcomes:?}");

    let lookups = found["lookups"].as_array().unwrap();
    for arn in [&one, &two] {
        let line = lookups.iter().find(|line| line.as_str().unwrap().contains(arn)).unwrap();
        assert!(
            line.as_str().unwrap().starts_with("aws cloudtrail lookup-events --region eu-west-1 ")
        );
        assert!(line.as_str().unwrap().contains(volume));
    }
    let record = found["record"].as_str().unwrap();
    assert_eq!(fs::metadata(record).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(record).unwrap();
    for call in &seen {
        for secret in [&call.output["Plaintext"], &call.input["Plaintext"]] {
            assert!(secret.as_str().is_none_or(|secret| !text.contains(secret)), "{call:?}");
        }
    }
    assert!(!text.contains("nobodys-business") && !text.contains(store));

    // A person reads the same, also of a volume that is no more.
    lab.ok(&["terminate", store, "--yes"]);
    let output = lab.ok(&["key", "audit", volume]);
    let said = String::from_utf8(output.stdout).unwrap();
    for part in ["kms:Decrypt", "ReEncrypt", "other users, machines", "lookup-events", &two] {
        assert!(said.contains(part), "wanted {part:?} in: {said}");
    }
}

/// Each slot may be of a region of its own, whose service alone knows its key.
#[test]
fn each_slot_that_is_tried_is_recorded_with_its_own_region() {
    let lab = Lab::new();
    let one = lab.init(&[]);
    let two = lab.moto.new_key();
    lab.key_ok("add", &["--new", &format!("kms:{two}")]);
    lab.edit_volume(&two, &two.replace("eu-west-1", "us-east-2"));
    lab.proxy.fault("Decrypt", Fault::error("DisabledException", &format!("{one} is disabled.")));
    assert_eq!(lab.mount().status.code(), Some(23));
    let found = lab.audit();
    let calls = found["calls"].as_array().unwrap();
    let regions: Vec<_> = calls.iter().rev().take(2).map(|call| &call["awsRegion"]).collect();
    assert_eq!(regions, [&json!("us-east-2"), &json!("eu-west-1")], "{found}");
}

#[test]
fn a_password_in_an_endpoint_is_shown_to_nobody() {
    let lab = Lab::new();
    let arn = lab.moto.new_key();
    let (store, key) = (lab.store(), format!("kms:{arn}"));
    let store = store.to_str().unwrap();
    let with = |url: &str| url.replacen("://", "://somebody:hunter2@", 1);
    let dead = lab.command(&with("http://127.0.0.1:9"), &["init", store, "--key", &key]);
    let exposed = lab.command(&with("http://kms.example:80"), &["init", store, "--key", &key]);
    for (mut command, place) in [(dead, "127.0.0.1:9"), (exposed, "kms.example")] {
        let output = command.env("CMKFS_LOG", "debug").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(place), "{said}");
        assert!(!said.contains("hunter2") && !said.contains("somebody"), "{said}");
    }
    let mut init = lab.command(&with(&lab.proxy.url()), &["init", store, "--key", &key]);
    assert!(init.output().unwrap().status.success());
    let found = lab.audit();
    assert_eq!(found["calls"][0]["eventName"], "GenerateDataKey");
    let record = fs::read_to_string(found["record"].as_str().unwrap()).unwrap();
    assert!(record.contains("http://127.0.0.1") && !record.contains("hunter2"), "{record}");
}

/// A machine that can't write down what it asks still gets its key.
#[test]
fn a_record_that_can_not_be_written_keeps_nobody_from_a_key() {
    let lab = Lab::new();
    fs::create_dir_all(lab.root.path().join("home/state/cmkfs")).unwrap();
    fs::write(lab.root.path().join("home/state/cmkfs/calls"), "no directory").unwrap();
    lab.init(&[]);
    assert!(lab.mount().status.success());
    lab.umount();
    let store = lab.store();
    let output = lab.run(&["key", "audit", store.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
