//! Grants: for one volume's encryption context, found again by KMS itself, ended with the volume.

use serde_json::{Value, json};

use crate::Lab;
use crate::support::proxy::Fault;

const ROLE: &str = "arn:aws:iam::123456789012:role/Train";

impl Lab {
    fn grant_ok(&self, words: &[&str]) -> String {
        self.key_ok_of(&[&["key", "grant"], words].concat())
    }

    fn key_ok_of(&self, args: &[&str]) -> String {
        String::from_utf8(self.ok(args).stdout).unwrap()
    }

    /// What the emulator has.
    fn grants_on(&self, arn: &str) -> Vec<Value> {
        let listed = self.moto.kms("ListGrants", &json!({ "KeyId": arn }));
        listed["Grants"].as_array().unwrap().clone()
    }
}

#[test]
fn a_grant_is_for_one_volume_and_ends_by_hand() {
    let lab = Lab::new();
    let arn = lab.init(&["--context", "team=vision"]);
    let store = lab.store();
    let store = store.to_str().unwrap();
    // Somebody else's, for another volume.
    let other = json!({
        "KeyId": arn, "GranteePrincipal": ROLE, "Operations": ["Decrypt"], "Name": "other",
        "Constraints": { "EncryptionContextEquals": { "cmkfs:volume-id": "ff".repeat(16) } },
    });
    lab.moto.kms("CreateGrant", &other);
    let made = lab.grant_ok(&["create", store, "--to", ROLE]);
    let there = lab.grants_on(&arn);
    let volume = lab.key_status()["volume_id"].clone();
    let grant = there.iter().find(|grant| grant["Name"] != "other").unwrap();
    assert_eq!(grant["GranteePrincipal"], ROLE);
    assert_eq!(grant["Operations"], json!(["Decrypt"]));
    let context = json!({ "cmkfs:volume-id": volume, "team": "vision" });
    assert_eq!(grant["Constraints"], json!({ "EncryptionContextEquals": context }));
    let id = grant["GrantId"].as_str().unwrap();
    assert!(made.contains(id) && made.contains(&arn), "{made}");
    // Sent with the same name, by which KMS knows it again; the emulator does not.
    let retire = "arn:aws:iam::123456789012:role/Ops";
    let words = ["create", store, "--to", ROLE, "--operations", "Decrypt,DescribeKey"];
    let more = ["--retire-by", retire, "--slot", "1"];
    lab.grant_ok(&[&words[..], &more].concat());
    lab.grant_ok(&[&words[..], &more].concat());
    let calls = lab.proxy.calls();
    let created: Vec<_> =
        calls.iter().filter(|call| call.operation == "CreateGrant").map(|c| &c.input).collect();
    assert_eq!(created.len(), 3);
    assert_eq!(created[1], created[2]);
    assert_ne!(created[0]["Name"], created[1]["Name"]);
    assert_eq!(created[1]["RetiringPrincipal"], json!(retire));

    let listed: Value = serde_json::from_str(&lab.grant_ok(&["list", store, "--json"])).unwrap();
    let all = listed["grants"].as_array().unwrap();
    assert_eq!(all.len(), 3, "not the other volume's: {listed}");
    assert_eq!(all[0]["encryption_context"], context);
    let shown = lab.grant_ok(&["list", store]);
    assert!(shown.contains(id) && shown.contains("Decrypt,DescribeKey"), "{shown}");
    lab.grant_ok(&["revoke", store, id]);
    let second = all[1]["id"].as_str().unwrap();
    lab.grant_ok(&["retire", store, second]);
    let left: Vec<_> = lab.grants_on(&arn).iter().map(|g| g["GrantId"].clone()).collect();
    assert!(left.len() == 2 && !left.contains(&json!(id)) && !left.contains(&json!(second)));
    let words = ["key", "grant", "revoke", store, id];
    lab.refused(&lab.run(&words), 74, &["no grant", "grant list"]);
    for bad in [&["--to", "Train"][..], &["--to", ROLE, "--operations", "Sign"]] {
        let output = lab.run(&[&["key", "grant", "create", store], bad].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[test]
fn a_key_that_does_not_answer_hides_no_grant_on_another() {
    let lab = Lab::new();
    lab.init(&[]);
    let two = lab.moto.new_key();
    lab.key_ok("add", &["--new", &format!("kms:{two}")]);
    let store = lab.store();
    let store = store.to_str().unwrap();
    let first = lab.grant_ok(&["create", store, "--to", ROLE, "--slot", "1"]);
    let second = lab.grant_ok(&["create", store, "--to", ROLE, "--slot", "2"]);
    let disabled = Fault::error("KMSInvalidStateException", "the key is pending deletion");
    lab.proxy.fault_times("ListGrants", disabled.clone(), 1);
    let output = lab.ok(&["key", "grant", "list", store, "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [grant] = &listed["grants"].as_array().unwrap()[..] else { panic!("{listed}") };
    let id = grant["id"].as_str().unwrap();
    assert!(first.contains(id) != second.contains(id));
    let [failed] = &listed["failed"].as_array().unwrap()[..] else { panic!("{listed}") };
    assert_ne!(failed["key"], grant["key"]);
    assert!(failed["error"].as_str().unwrap().contains("pending deletion"), "{listed}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(failed["key"].as_str().unwrap()), "{said}");
    lab.proxy.fault("ListGrants", disabled);
    lab.refused(&lab.run(&["key", "grant", "list", store]), 23, &["pending deletion"]);
}

#[test]
fn a_grant_is_made_for_what_the_volume_key_authenticates() {
    let lab = Lab::new();
    let arn = lab.init(&["--context", "team=vision"]);
    let store = lab.store();
    let store = store.to_str().unwrap();
    lab.edit_volume("vision", "audio");
    let words = ["key", "grant", "create", store, "--to", ROLE];
    lab.refused(&lab.run(&words), 24, &["encryption context"]);
    lab.edit_volume("audio", "vision");
    assert!(lab.grants_on(&arn).is_empty() && !lab.store().join("grants.json").exists());
    lab.proxy.fault("CreateGrant", Fault::error("AccessDeniedException", "not authorized"));
    lab.refused(&lab.run(&words), 22, &["kms:CreateGrant", "\"Effect\": \"Allow\""]);
    let local = lab.root.path().join("other");
    let local = local.to_str().unwrap();
    lab.ok(&["init", local]);
    let words = ["key", "grant", "create", local, "--to", ROLE];
    lab.refused(&lab.run(&words), 20, &["which alone has grants"]);
}

#[test]
fn terminate_ends_the_grants_or_says_that_it_has_to_be_run_again() {
    let lab = Lab::new();
    let arn = lab.init(&[]);
    let store = lab.store();
    let store = store.to_str().unwrap();
    lab.grant_ok(&["create", store, "--to", ROLE]);
    // Killed between the intent and the answer: KMS has it, the file has no id.
    lab.edit_grants();
    // The volume has gone to another key since.
    let two = lab.moto.new_key();
    lab.key_ok("rewrap", &["--to", &format!("kms:{two}")]);
    lab.grant_ok(&["create", store, "--to", ROLE]);
    lab.proxy.fault("ListGrants", Fault::Reset);
    let terminate = ["terminate", store, "--yes"];
    lab.refused(&lab.run(&terminate), 26, &["its keys are destroyed", "run `cmkfs terminate"]);
    assert!(!lab.store().join("volume.json").exists());
    assert!(!lab.store().join("tree").exists(), "data has to go all the same");
    assert_eq!((lab.grants_on(&arn).len(), lab.grants_on(&two).len()), (1, 1));
    lab.refused(&lab.mount(), 11, &["being terminated"]);
    lab.proxy.fault_times("ListGrants", Fault::Reset, 0);
    // Who may not revoke retires, if the grant lets them.
    lab.proxy.fault_times("RevokeGrant", Fault::error("AccessDeniedException", "no"), 1);
    let said = lab.key_ok_of(&terminate);
    assert_eq!(said.matches("grant  ").count(), 2, "{said}");
    assert_eq!((lab.grants_on(&arn).len(), lab.grants_on(&two).len()), (0, 0));
    assert!(!lab.store().exists());
}

impl Lab {
    /// Takes the ids out of the file.
    fn edit_grants(&self) {
        let path = self.store().join("grants.json");
        let mut stored: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert!(stored["grants"][0]["id"].is_string(), "{stored}");
        stored["grants"][0]["id"] = Value::Null;
        std::fs::write(&path, stored.to_string()).unwrap();
    }
}
