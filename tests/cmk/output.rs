//! The output key, beside the key of the volume.

use std::fs;

use serde_json::{Value, json};

use crate::Lab;
use crate::support::proxy::Fault;

#[test]
fn an_output_key_is_tried_kept_and_shown() {
    let lab = Lab::new();
    let out = lab.moto.new_key();
    let id = out.rsplit('/').next().unwrap();
    let alias = format!("alias/out-{id}");
    lab.moto.kms("CreateAlias", &json!({ "AliasName": alias, "TargetKeyId": id }));
    let arn = lab.init(&["--output-key", &format!("kms:{alias}")]);
    let [trial, made] = &lab.proxy.calls()[..] else { panic!("two calls") };
    assert_eq!(
        (trial.operation.as_str(), &trial.input["KeyId"]),
        ("GenerateDataKey", &json!(alias))
    );
    assert_eq!(trial.input["EncryptionContext"]["cmkfs:trial"], "output");
    assert_eq!(made.input["KeyId"], json!(arn));

    // An alias may move; what is kept is the key, under the volume's own authentication.
    let wanted = json!(format!("kms:{out}"));
    assert_eq!(lab.key_status()["output_key"], wanted);
    let status = lab.ok(&["status", lab.store().to_str().unwrap(), "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["volumes"][0]["output_key"], wanted);
    let file = format!("local:{}", lab.root.path().join("spare").display());
    lab.key_ok("add", &["--new", &file]);
    assert_eq!(lab.key_status()["output_key"], wanted);
    let other = lab.moto.new_key();
    lab.edit_volume(&format!("output-key=kms:{out}"), &format!("output-key=kms:{other}"));
    lab.refused(&lab.mount(), 14, &["volume.json"]);
    lab.edit_volume(&other, &out);
    assert!(lab.mount().status.success());
    lab.umount();

    let store = lab.store();
    let args = ["--store", store.to_str().unwrap()];
    let (checks, code) = crate::doctor::doctor(&lab, &lab.proxy.url(), &args);
    assert_eq!((&checks["output_key"]["status"], code), (&json!("ok"), Some(0)));
    lab.proxy.fault_of_key(&out, Some(Fault::error("DisabledException", "off")));
    let (checks, code) = crate::doctor::doctor(&lab, &lab.proxy.url(), &args);
    assert_eq!((&checks["output_key"]["status"], code), (&json!("fails"), Some(71)));
}

#[test]
fn an_output_key_that_s3_could_not_use_makes_no_volume() {
    let lab = Lab::new();
    let store = lab.store();
    let store = store.to_str().unwrap();
    let arn = lab.moto.new_key();
    let key = format!("kms:{arn}");
    lab.proxy.fault_of_key(&arn, Some(Fault::error("DisabledException", "off")));
    let init = |output: &str| lab.run(&["init", store, "--key", "local", "--output-key", output]);
    lab.refused(&init(&key), 23, &["output key", &arn, "off"]);
    lab.refused(&init("local"), 20, &["encrypted by S3", "kms:ID"]);
    assert!(!lab.store().exists());
    lab.proxy.fault_of_key(&arn, None);
    // AWS's own key is no key for a volume, and one for what leaves it.
    lab.refused(&lab.run(&["init", store, "--key", "kms:alias/aws/s3"]), 20, &["AWS managed key"]);
    let before = lab.proxy.calls().len();
    assert!(init("kms:alias/aws/s3").status.success());
    assert_eq!(lab.proxy.calls().len(), before);
    assert_eq!(lab.key_status()["output_key"], "kms:alias/aws/s3");
}

#[test]
fn a_job_sets_its_output_key_and_runs_without_a_command_only_if_that_works() {
    let lab = Lab::new();
    let root = lab.root.path().join("r");
    fs::create_dir(&root).unwrap();
    let store = root.join("var/lib/cmkfs/training");
    let (one, two) = (lab.moto.new_key(), lab.moto.new_key());
    let run = |output: &str| {
        let root = root.to_str().unwrap();
        let output = format!("kms:{output}");
        let args = ["run", "--role", "training", "--root", root, "--key", "local"];
        let more = ["--output-key", &output, "--", "echo", "ran"];
        lab.run(&[&args[..], &more].concat())
    };
    let output_key = || {
        let shown = lab.ok(&["key", "status", store.to_str().unwrap(), "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        shown["output_key"].clone()
    };
    // Of a new volume, of the same, and another one of the same.
    for arn in [&one, &one, &two] {
        let ran = run(arn);
        assert_eq!(ran.stdout, b"ran\n", "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(output_key(), json!(format!("kms:{arn}")));
    }
    assert_eq!(lab.proxy.count("GenerateDataKey"), 3);
    lab.proxy.fault_of_key(&one, Some(Fault::error("AccessDeniedException", "no")));
    let refused = run(&one);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(125) && text.contains("output key"), "{text}");
    assert!(refused.stdout.is_empty(), "the command ran");
    assert_eq!(output_key(), json!(format!("kms:{two}")));
}
