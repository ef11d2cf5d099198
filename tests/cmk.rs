//! A volume under a customer's KMS key, by the real program and a KMS over HTTP: one call to make
//! it, one call to mount it (promise P6), and an error and exit code of its own for each way in
//! which a key can be out of reach.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "cmk/audit.rs"]
mod audit;
#[path = "cmk/doctor.rs"]
mod doctor;
#[path = "cmk/given.rs"]
mod given;
#[path = "cmk/grants.rs"]
mod grants;
#[path = "cmk/lock.rs"]
mod lock;
#[path = "cmk/memory.rs"]
mod memory;
#[path = "cmk/output.rs"]
mod output;
#[path = "cmk/rotate.rs"]
mod rotate;
#[path = "cmk/slots.rs"]
mod slots;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;
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
        command.env("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint);
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
