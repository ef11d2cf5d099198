//! The customer's own 32 bytes: by a descriptor, and from Secrets Manager.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::lock::{is_refused, refused, until};
use crate::support::proxy::Fault;
use crate::{Lab, write_and_read};

const KEY: &[u8; 32] = b"32 bytes of a customer's own....";

impl Lab {
    fn key_file(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.root.path().join(name);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).mode(mode).open(&path).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// The program with descriptor 3 open on this file, as a shell does it.
    fn with_fd(&self, file: &Path, args: &[&str]) -> Output {
        self.shell("exec \"$@\" 3<\"$FILE\"", args).env("FILE", file).output().unwrap()
    }

    fn shell(&self, script: &str, args: &[&str]) -> Command {
        let own = self.command(&self.proxy.url(), args);
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(own.get_program()).args(args);
        for (name, value) in own.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        shell.stdin(Stdio::null());
        shell
    }

    #[track_caller]
    fn with_fd_ok(&self, file: &Path, args: &[&str]) {
        let output = self.with_fd(file, args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {} {text}", output.status);
    }
}

#[test]
fn a_key_by_a_descriptor_makes_mounts_and_unlocks_a_volume() {
    let lab = Lab::new();
    let key = lab.key_file("key", KEY, 0o600);
    let (store, point) = (lab.store(), lab.point());
    let (store, point) = (store.to_str().unwrap(), point.as_path());
    // From a pipe, which can be read once.
    let mut init = lab.shell("exec \"$@\" 3<&0 </dev/null", &["init", store, "--key", "fd:3"]);
    let mut child = init.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), KEY).unwrap();
    assert!(child.wait().unwrap().success());
    let slot = &lab.key_status()["slots"][0];
    assert_eq!((&slot["provider"], &slot["key"]), (&json!("fd"), &json!("")));

    lab.refused(&lab.mount(), 20, &["came by a descriptor", "--key fd:N"]);
    let args = lab.mount_args();
    let mut args = args.each_ref().map(String::as_str).to_vec();
    args.extend(["--key", "fd:3"]);
    lab.refused(&lab.run(&args), 20, &["fd:3", "was not started with it", "fd:3 3<FILE"]);
    for (name, bytes, mode, code, wanted) in [
        ("other", &[7; 32][..], 0o600, 21, "does not open"),
        ("short", &KEY[..31], 0o600, 20, "31 bytes"),
        ("long", &[7; 40], 0o600, 20, "40 bytes"),
        ("open", &KEY[..], 0o644, 20, "0644"),
    ] {
        let file = lab.key_file(name, bytes, mode);
        lab.refused(&lab.with_fd(&file, &args), code, &[wanted]);
    }
    lab.with_fd_ok(&key, &args);
    write_and_read(point);
    assert_eq!(lab.daemon()["key_id"], "fd:3");

    // It is kept nowhere, so a hand has to give it again.
    lab.ok(&["lock", store]);
    refused(fs::read(point.join("file")));
    let without = lab.run(&["unlock", store]);
    let text = String::from_utf8_lossy(&without.stderr);
    assert!(without.status.code() == Some(20) && text.contains("read once"), "{text}");
    assert!(text.contains("cmkfs unlock VOLUME --key fd:3 3<FILE"), "{text}");
    lab.with_fd_ok(&key, &["unlock", store, "--key", "fd:3"]);
    assert_eq!(fs::read(point.join("file")).unwrap().len(), 100_000);
    lab.umount();

    // What counts is the bytes: a file that holds them opens it too.
    let source = format!("file:{}", key.display());
    *args.last_mut().unwrap() = &source;
    lab.ok(&args);
    assert_eq!(fs::read(point.join("file")).unwrap().len(), 100_000);
    lab.umount();
    let said = lab.with_fd(&key, &["doctor", "--json", "--store", store, "--key", "fd:3"]);
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let volume = said["checks"].as_array().unwrap().iter().find(|c| c["check"] == "volume");
    assert_eq!(volume.unwrap()["status"], "ok", "{said}");
    assert_eq!(lab.proxy.calls().len(), 0, "AWS has nothing to do with it");
}

#[test]
fn slots_are_added_and_rewrapped_under_a_descriptor_and_a_job_never_has_it() {
    let lab = Lab::new();
    lab.init(&[]);
    let [one, two] =
        [("one", *KEY), ("two", [9; 32])].map(|(name, key)| lab.key_file(name, &key, 0o600));
    let store = lab.store();
    let store = store.to_str().unwrap();
    lab.with_fd_ok(&one, &["key", "add", store, "--new", "fd:3"]);
    lab.with_fd_ok(&two, &["key", "add", store, "--new", "fd:3"]);
    lab.key_ok("remove", &["1", "--key", &format!("file:{}", one.display())]);
    assert_eq!(lab.key_status()["slots"].as_array().unwrap().len(), 2);
    lab.key_refused("remove", &["2"], 20, &["stays", "--key fd:N"]);
    lab.with_fd_ok(&two, &["key", "remove", store, "2", "--key", "fd:3"]);
    let to = ["key", "rewrap", store, "--to", "fd:3", "--key"];
    let by = format!("file:{}", two.display());
    lab.with_fd_ok(&one, &[&to[..], &[&by]].concat());
    lab.with_fd_ok(&one, &["ls", &format!("{store}:/"), "--key", "fd:3"]);
    let other = lab.with_fd(&two, &["ls", &format!("{store}:/"), "--key", "fd:3"]);
    assert_eq!(other.status.code(), Some(21));

    let root = lab.root.path().join("r");
    fs::create_dir(&root).unwrap();
    let script = "test ! -e /proc/self/fd/3 && echo closed";
    let job = ["run", "--role", "training", "--root", root.to_str().unwrap(), "--key", "fd:3"];
    let output = lab.with_fd(&one, &[&job[..], &["--", "sh", "-c", script]].concat());
    assert_eq!(output.stdout, b"closed\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// A pipe can be read once, and the command opens the volume several times.
#[test]
fn a_slot_under_a_descriptor_is_rotated_by_a_key_that_comes_once() {
    let lab = Lab::new();
    lab.init(&[]);
    let key = lab.key_file("key", KEY, 0o600);
    let (store, point) = (lab.store(), lab.point());
    let store = store.to_str().unwrap();
    lab.with_fd_ok(&key, &["key", "add", store, "--new", "fd:3"]);
    assert!(lab.mount().status.success());
    write_and_read(&point);
    lab.umount();
    lab.key_refused("rotate", &["--rewrap"], 20, &["key slot 2 (fd:)", "came by a descriptor"]);
    let other = lab.key_file("other", &[9; 32], 0o600);
    let by_other = format!("file:{}", other.display());
    lab.key_refused("rotate", &["--rewrap", "--key", &by_other], 21, &["does not open"]);
    assert_eq!(lab.key_status()["epoch"], 1);
    let args = ["key", "rotate", store, "--rewrap", "--json", "--key", "fd:3"];
    let mut rotate = lab.shell("exec \"$@\" 3<&0 </dev/null", &args);
    let mut child = rotate.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), KEY).unwrap();
    let output = child.wait_with_output().unwrap();
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&done["epoch"], &done["files"]["finished"]), (&json!(2), &json!(true)), "{done}");
    assert!(lab.key_status()["pending"].is_null());
    for by in [&["ls", &format!("{store}:/"), "--key", "fd:3"][..], &["ls", &format!("{store}:/")]]
    {
        lab.with_fd_ok(&key, by);
    }
}

#[test]
fn a_key_in_secrets_manager_opens_a_volume_and_rules_it() {
    let lab = Lab::new();
    let text = data_encoding::BASE64.encode(KEY);
    let arn = lab.moto.secret(&json!({ "SecretBinary": text }));
    let (store, point) = (lab.store(), lab.point());
    let store = store.to_str().unwrap();
    let source = format!("secretsmanager:{arn}");
    lab.ok(&["init", store, "--key", &source]);
    assert_eq!(lab.proxy.count("GetSecretValue"), 1);
    let slot = &lab.key_status()["slots"][0];
    assert_eq!((&slot["provider"], &slot["key"]), (&json!("secretsmanager"), &json!(arn)));
    // The same bytes as text.
    lab.moto.put_secret(&arn, &json!({ "SecretString": format!("{text}\n") }));
    lab.mount_watching(&["--key-recheck", "1s"]);
    assert_eq!(lab.proxy.count("GetSecretValue"), 2);
    write_and_read(&point);
    until("asked again", || lab.proxy.count("GetSecretValue") > 2);

    let denied = "User: arn:aws:iam::123456789012:user/me is not authorized to perform: \
                  secretsmanager:GetSecretValue";
    lab.proxy.fault("GetSecretValue", Fault::error("AccessDeniedException", denied));
    until("locked", || is_refused(&point.join("file")));
    assert!(lab.daemon()["key_reason"].as_str().unwrap().contains("GetSecretValue"));
    lab.proxy.fault_times("GetSecretValue", Fault::Reset, 0);
    until("unlocked", || fs::read(point.join("file")).is_ok());
    // Another version of the secret is another key.
    let other = data_encoding::BASE64.encode(&[9; 32]);
    lab.moto.put_secret(&arn, &json!({ "SecretString": other }));
    until("locked", || is_refused(&point.join("file")));
    lab.moto.put_secret(&arn, &json!({ "SecretString": text }));
    until("unlocked", || fs::read(point.join("file")).is_ok());
    lab.umount();
    lab.moto.put_secret(&arn, &json!({ "SecretString": other }));
    lab.refused(&lab.mount(), 21, &["rotated", &arn]);
    let file = lab.key_file("key", KEY, 0o600);
    let by_file = format!("file:{}", file.display());
    lab.key_ok("rewrap", &["--to", &source, "--key", &by_file]);
    assert!(lab.mount().status.success());
    lab.umount();

    let (checks, code) = crate::doctor::doctor(&lab, &lab.proxy.url(), &["--store", store]);
    assert_eq!((&checks["secret"]["status"], code), (&json!("ok"), Some(0)), "{checks:?}");
    let policy: Value = serde_json::from_slice(&lab.ok(&["key", "policy", store]).stdout).unwrap();
    assert_eq!(policy["identity_policy"]["Statement"][0]["Resource"], json!(arn));
    let audit: Value =
        serde_json::from_slice(&lab.ok(&["key", "audit", store, "--json"]).stdout).unwrap();
    let call = &audit["calls"][0];
    assert_eq!(call["eventSource"], "secretsmanager.amazonaws.com");
    assert_eq!((&call["eventName"], &call["keyId"]), (&json!("GetSecretValue"), &json!(arn)));
    let record = fs::read_to_string(audit["record"].as_str().unwrap()).unwrap();
    assert!(!record.contains(&text) && !record.contains(&other));
    assert!(!lab.volume_json().contains(&text));
}
