//! Snapshots in S3 by the real program and a server over HTTP: what is sent is counted there, and
//! every error teaches.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use desk::{Desk, judge, said};
use serde_json::Value;
use support::moto::{Moto, REGION};
use support::proxy::{Call, Fault, Proxy};

/// A volume `store` with a tree, and a bucket.
struct Lab {
    moto: Arc<Moto>,
    proxy: Proxy,
    desk: Desk,
    bucket: String,
}

impl Lab {
    fn new() -> Self {
        let moto = Moto::shared();
        let proxy = Proxy::start(moto.address());
        let bucket = moto.bucket();
        Self { moto, proxy, desk: Desk::new(), bucket }
    }

    /// With a volume that has 40 small files and one of 5 MiB.
    fn planted(init: &str) -> Self {
        let lab = Self::new();
        lab.ok(&format!("init store {init}"));
        for number in 0..40 {
            let dir = lab.desk.dir(&format!("plain/dir-{}", number % 3));
            fs::write(dir.join(number.to_string()), vec![number; 5000]).unwrap();
        }
        fs::write(lab.desk.at("plain/large"), noise(5 << 20)).unwrap();
        lab.ok("put plain store:/data");
        lab
    }

    fn target(&self) -> String {
        format!("s3://{}/team/backup", self.bucket)
    }

    /// `@` stands for the target.
    fn command(&self, args: &str) -> Command {
        let mut command = self.desk.command(&args.replace('@', &self.target()));
        command.env("AWS_ENDPOINT_URL_S3", self.proxy.url());
        command.env("AWS_ENDPOINT_URL_KMS", self.proxy.url()).env("AWS_REGION", REGION);
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    #[track_caller]
    fn ok(&self, args: &str) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, args: &str, code: i32, parts: &[&str]) {
        let output: Output = self.command(args).output().unwrap();
        judge(args, &output, code, parts);
    }

    fn create(&self) -> Value {
        serde_json::from_str(&self.ok("snapshot create store @ --json")).unwrap()
    }

    /// Puts that came in since `calls` had so many, of objects alone if `part` says so.
    fn puts(&self, since: usize, part: &str) -> Vec<Call> {
        let mut calls = self.proxy.calls();
        let puts = calls.drain(since..).filter(|call| call.operation == "PutObject");
        puts.filter(|call| call.first.contains(part)).collect()
    }

    fn keys(&self, part: &str) -> Vec<String> {
        let mut keys = self.moto.keys(&self.bucket);
        keys.retain(|key| key.contains(part));
        keys
    }

    fn get(&self, key: &str) -> Vec<u8> {
        self.moto.s3("GET", &format!("/{}/{key}", self.bucket), b"")
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        self.moto.s3("PUT", &format!("/{}/{key}", self.bucket), bytes);
    }

    #[track_caller]
    fn same(&self, store: &str) {
        let out = self.desk.at("out");
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
        self.ok(&format!("get {store}:/data out"));
        let mut diff = Command::new("diff");
        let output = diff.arg("-r").args([self.desk.at("plain"), out]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// Bytes that do not pack and do not repeat.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        u8::try_from(state >> 56).unwrap()
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} in {value}"))
}

#[test]
fn a_snapshot_in_s3_sends_what_changed_and_comes_back_whole() {
    let lab = Lab::planted("");
    let first = lab.create();
    assert!(number(&first, "sent_bytes") > 5 << 20, "{first}");
    let sent: usize = lab.puts(0, "/objects/").iter().map(|call| call.len).sum();
    assert_eq!(sent as u64, number(&first, "sent_bytes"));
    assert!(lab.proxy.count("ListObjectsV2") > 1, "listings go on");
    let since = lab.proxy.calls().len();
    let second = lab.create();
    assert_eq!((&second["parent"], number(&second, "sent_bytes")), (&first["id"], 0));
    assert_eq!(lab.puts(since, "/objects/").len(), 0, "nothing changed");
    fs::write(lab.desk.at("plain/dir-1/1"), "changed").unwrap();
    lab.ok("put plain/dir-1/1 store:/data/dir-1/1");
    let since = lab.proxy.calls().len();
    let third = lab.create();
    let sent: usize = lab.puts(since, "/objects/").iter().map(|call| call.len).sum();
    assert!(sent > 0 && sent < 100_000, "{sent} of {third}");
    assert!(lab.puts(0, "").iter().all(|call| {
        !call.headers.iter().any(|(name, _)| name.contains("server-side-encryption"))
    }));
    let listed = lab.ok("snapshot list @");
    for id in [&first["id"], &second["id"], &third["id"]] {
        let id = id.as_str().unwrap();
        assert!(listed.contains(id), "{listed}");
        lab.ok(&format!("snapshot verify @ --id {id}"));
    }
    assert!(lab.ok("snapshot show @").contains("key slot 1"));
    lab.ok("snapshot restore @ again");
    lab.ok("check again");
    lab.same("again");
    lab.ok("snapshot restore @ part --path /data/dir-2");
    assert_eq!(lab.ok("ls part:/data"), "dir-2\n");
    lab.refused("snapshot restore @ new --id snap-none", 51, &["no snapshot snap-none", "s3://"]);
}

#[test]
fn what_is_pruned_or_terminated_goes_by_few_requests() {
    let lab = Lab::planted("");
    lab.create();
    let old = noise(3 << 20);
    fs::write(lab.desk.at("plain/large"), &old[1..]).unwrap();
    lab.ok("put plain/large store:/data/large");
    let second = lab.create();
    let before = lab.keys("/objects/").len();
    let since = lab.proxy.calls().len();
    lab.ok("snapshot prune @ --keep 1 --dry-run");
    let asked = lab.proxy.calls().split_off(since);
    assert!(asked.iter().all(|call| ["GetObject", "ListObjectsV2"].contains(&&*call.operation)));
    lab.ok("snapshot prune @ --keep 1");
    assert!(lab.keys("/objects/").len() < before);
    assert!(lab.proxy.count("DeleteObjects") >= 1);
    assert_eq!(lab.keys("/writer"), [""; 0], "let go");
    lab.ok("snapshot verify @");
    // One that the server does not remove is an error, though the answer is none.
    let body = "<DeleteResult><Error><Key>team/backup/k</Key><Code>AccessDenied</Code>\
                <Message>kept</Message></Error></DeleteResult>";
    let left = Fault::Answer { status: 200, body: body.to_owned() };
    lab.proxy.fault("DeleteObjects", left);
    let volume = second["volume_id"].as_str().unwrap();
    lab.refused("terminate store --yes --snapshots @", 54, &["team/backup/k", "kept"]);
    lab.proxy.fault_times("DeleteObjects", Fault::Hang, 0);
    let told = lab.ok("terminate store --yes --snapshots @");
    assert!(told.contains(volume), "{told}");
    assert_eq!(lab.keys(""), [""; 0]);
}

#[test]
fn a_stopped_mount_is_stored_under_the_output_key() {
    let lab = Lab::new();
    let arn = lab.moto.new_key();
    lab.ok(&format!("init store --output-key kms:{arn}"));
    lab.desk.dir("mnt");
    lab.ok("mount store mnt");
    fs::write(lab.desk.at("mnt/file"), "text").unwrap();
    // Before anything ends: the bucket denies what is put.
    let denied = Fault::S3 { status: 403, code: "AccessDenied", message: "no", region: None };
    lab.proxy.fault("PutObject", denied);
    lab.refused("stop mnt --snapshot @", 54, &["s3:PutObject", &arn, "--output-key"]);
    assert_eq!(fs::read(lab.desk.at("mnt/file")).unwrap(), b"text");
    lab.proxy.fault_times("PutObject", Fault::Hang, 0);
    let told = lab.ok("stop mnt --snapshot @");
    assert!(told.contains("snap-") && !lab.desk.is_mounted("mnt"), "{told}");
    let header = |call: &Call, name: &str| {
        let name = format!("x-amz-server-side-encryption{name}");
        call.headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.clone())
    };
    let (kms, key) = (Some("aws:kms".to_owned()), Some(arn.clone()));
    let puts = lab.puts(0, "");
    assert!(puts.len() >= 4, "objects, marks of the writer, a top");
    for call in &puts {
        assert_eq!(header(call, ""), kms, "{}", call.first);
        assert_eq!(header(call, "-aws-kms-key-id"), key, "{}", call.first);
        assert_eq!(header(call, "-bucket-key-enabled"), None);
    }
    let other = lab.moto.new_key();
    for (flags, kind, key, bucket_key) in [
        ("--bucket-key", Some("aws:kms"), Some(&arn), Some("true")),
        (&*format!("--output-key kms:{other}"), Some("aws:kms"), Some(&other), None),
        ("--sse s3", Some("AES256"), None, None),
        ("--sse none", None, None, None),
    ] {
        let since = lab.proxy.calls().len();
        lab.ok(&format!("snapshot create store @ {flags}"));
        lab.ok(&format!("snapshot prune @ --keep 1 {flags}"));
        let puts = lab.puts(since, "");
        assert!(puts.len() >= 3, "two marks, a top");
        for call in puts {
            let found = ["", "-aws-kms-key-id", "-bucket-key-enabled"].map(|n| header(&call, n));
            let wanted = [kind, key.map(String::as_str), bucket_key].map(|w| w.map(str::to_owned));
            assert_eq!(found, wanted, "{flags}: {}", call.first);
        }
    }
    lab.refused("snapshot create store @ --sse s3 --bucket-key", 2, &["--sse kms"]);
    lab.refused("snapshot create store target --sse s3", 2, &["target is a directory"]);
    lab.refused("stop store --sse s3", 2, &["are for --snapshot"]);
    lab.ok("snapshot restore @ again");
    assert_eq!(lab.ok("cat again:/file"), "text");
}

#[test]
fn stopping_for_a_snapshot_asks_for_the_key_once() {
    let lab = Lab::new();
    let arn = lab.moto.new_key();
    lab.ok(&format!("init store --key kms:{arn}"));
    lab.desk.dir("mnt");
    lab.ok("mount store mnt");
    assert_eq!(lab.proxy.count("Decrypt"), 1);
    lab.ok("stop mnt --snapshot @");
    assert_eq!(lab.proxy.count("Decrypt"), 2);
    // By a key that is named it is asked for under that name.
    lab.ok("mount store mnt");
    let other = lab.moto.new_key();
    lab.refused(&format!("stop mnt --snapshot @ --key kms:{other}"), 22, &[&other]);
    assert!(lab.desk.is_mounted("mnt"), "it is mounted still");
    lab.ok(&format!("stop mnt --snapshot @ --key kms:{arn}"));
}

#[test]
fn a_bucket_key_needs_a_key() {
    let lab = Lab::new();
    lab.ok("init store");
    lab.refused("snapshot create store @ --bucket-key", 2, &["init --output-key", "--sse kms"]);
}

#[test]
fn what_somebody_edits_in_a_bucket_is_refused_by_its_name() {
    let lab = Lab::planted("");
    let made = lab.create();
    let keys = lab.keys("/objects/");
    assert!(keys.len() >= 3, "{keys:?}");
    for (at, key) in keys.iter().enumerate() {
        let name = key.rsplit('/').next().unwrap();
        let kept = lab.get(key);
        let (mut edited, mut longer) = (kept.clone(), kept.clone());
        let middle = edited.len() / 2;
        edited[middle] ^= 1;
        longer.extend([0; 9]);
        let cut = kept[..kept.len() - 1].to_vec();
        let hostile = [edited, cut, longer, Vec::new()];
        lab.put(key, &hostile[at % 2]);
        lab.refused("snapshot restore @ new", 52, &[name]);
        lab.put(key, &hostile[2 + at % 2]);
        // Bytes behind those that are wanted are harmless in a pack.
        let output = lab.command("snapshot verify @").output().unwrap();
        assert!(output.status.success() || said(&output).contains(name), "{}", said(&output));
        lab.put(key, &kept);
    }
    let gone = &keys[0];
    let kept = lab.get(gone);
    lab.moto.s3("DELETE", &format!("/{}/{gone}", lab.bucket), b"");
    let name = gone.rsplit('/').next().unwrap();
    lab.refused("snapshot restore @ new", 52, &[name, "not there"]);
    lab.put(gone, &kept);
    let top = format!("/snapshots/{}", made["id"].as_str().unwrap());
    let top = lab.keys(&top).remove(0);
    let mut edited = lab.get(&top);
    let last = edited.len() - 1;
    edited[last] ^= 1;
    lab.put(&top, &edited);
    lab.refused("snapshot restore @ new", 52, &["not authentic", made["id"].as_str().unwrap()]);
}

#[test]
fn one_command_writes_to_a_prefix_at_a_time() {
    let lab = Lab::planted("");
    let made = lab.create();
    let writer = format!("team/backup/{}/writer", made["volume_id"].as_str().unwrap());
    lab.put(&writer, br#"{"token":"t","host":"elsewhere","machine":"m","pid":7}"#);
    let wanted = ["process 7 of elsewhere", "15 minutes"];
    lab.refused("snapshot create store @", 53, &wanted);
    lab.refused("snapshot prune @ --keep 1", 53, &wanted);
    lab.ok("snapshot verify @");
    lab.ok("snapshot prune @ --keep 1 --dry-run");
    lab.moto.s3("DELETE", &format!("/{}/{writer}", lab.bucket), b"");
    let mut both = [0, 1].map(|_| {
        let mut command = lab.command("snapshot create store @");
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    });
    let codes = both.each_mut().map(|child| child.wait().unwrap().code());
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 53))), "{codes:?}");
    assert!(codes.contains(&Some(0)), "{codes:?}");
    lab.ok("snapshot verify @");
    // Each new mark and each top is put under the condition that none is there.
    lab.create();
    let marks = lab.puts(0, "/writer");
    let conditional = |call: &Call| call.headers.contains(&("if-none-match".into(), "*".into()));
    assert!(marks.iter().all(conditional), "{marks:?}");
    assert!(lab.puts(0, "/snapshots/").iter().all(conditional));
}

#[test]
fn what_was_sent_before_an_interruption_is_not_sent_again() {
    let lab = Lab::planted("");
    let denied = Fault::S3 { status: 403, code: "AccessDenied", message: "no", region: None };
    lab.proxy.fault_at("PutObject", "/snapshots/", Some(denied));
    lab.refused("snapshot create store @", 54, &["/snapshots/snap-", "s3:PutObject"]);
    assert!(lab.ok("snapshot list @ --json").contains("[]"), "a torn one is none");
    lab.proxy.fault_at("PutObject", "/snapshots/", None);
    // What passes is tried again by itself, and so is a put that meets another.
    let slow = Fault::S3 { status: 503, code: "SlowDown", message: "slower", region: None };
    lab.proxy.fault_times("ListObjectsV2", slow, 1);
    let code = "ConditionalRequestConflict";
    let conflict = Fault::S3 { status: 409, code, message: "again", region: None };
    lab.proxy.fault_times("PutObject", conflict, 1);
    let again = lab.create();
    assert_eq!(number(&again, "sent_bytes"), 0, "{again}");
    lab.ok("snapshot verify @");
}

#[test]
fn what_s3_answers_has_its_row() {
    let lab = Lab::new();
    lab.ok("init store");
    lab.refused("snapshot list s3://cmkfs-none", 50, &["NoSuchBucket", "aws s3 mb"]);
    let create = "snapshot create store @";
    for (status, code, message, region, exit, wanted) in [
        (301, "PermanentRedirect", "elsewhere", Some("ap-south-1"), 50, "bucket is in ap-south-1"),
        (400, "AuthorizationHeaderMalformed", "the region 'x' is wrong", None, 50, "AWS_REGION"),
        (403, "AccessDenied", "explicit deny", None, 54, "no encryption but the bucket's"),
        (400, "ExpiredToken", "has expired", None, 27, "renew"),
        (403, "InvalidAccessKeyId", "unknown", None, 27, "renew"),
        (403, "SignatureDoesNotMatch", "differs", None, 27, "clock"),
        (400, "KMS.DisabledException", "disabled", None, 23, "enable-key"),
        (400, "KMS.NotFoundException", "no key", None, 25, "--output-key"),
        (400, "InvalidRequest", "odd", None, 50, "API reference"),
    ] {
        lab.proxy.fault("PutObject", Fault::S3 { status, code, message, region });
        let parts = [code, message, wanted, "s3:PutObject", &lab.bucket, "request"];
        lab.refused(create, exit, &parts);
    }
    let code = "RequestTimeTooSkewed";
    let skewed = Fault::S3 { status: 403, code, message: "too far", region: None };
    lab.proxy.fault("PutObject", skewed);
    lab.refused(create, 72, &["RequestTimeTooSkewed", "chronyc"]);
    let code = "InvalidObjectState";
    let archived = Fault::S3 { status: 403, code, message: "glacier", region: None };
    lab.proxy.fault_times("PutObject", Fault::Hang, 0);
    lab.ok(create);
    lab.proxy.fault("GetObject", archived);
    lab.refused("snapshot verify @", 50, &["InvalidObjectState", "restore-object"]);
}

#[test]
fn what_is_wrong_with_the_way_to_s3_has_its_row() {
    let lab = Lab::new();
    lab.ok("init store");
    let refused = |change: &dyn Fn(&mut Command), code, parts: &[&str]| {
        let mut command = lab.command("snapshot create store @");
        change(&mut command);
        judge("create", &command.output().unwrap(), code, parts);
    };
    let endpoint = |url: &'static str| {
        move |command: &mut Command| {
            command.env("AWS_ENDPOINT_URL_S3", url);
        }
    };
    refused(&endpoint("http://s3.example:1"), 70, &["nothing was sent", "s3.example"]);
    refused(&endpoint("http://169.254.1.1"), 70, &["nothing was sent", "169.254.1.1"]);
    refused(&endpoint("http://127.0.0.1:1"), 26, &["http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3"]);
    for at in ["s3.example:1", "127.0.0.1:1", "127.0.0.1:port", "[::1"] {
        let mut command = lab.command("snapshot create store @");
        command.env("AWS_ENDPOINT_URL_S3", format!("http://someone:hidden@{at}"));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && !text.contains("hidden"), "{at}: {text}");
    }
    let forget = |name: &'static str| {
        move |command: &mut Command| {
            command.env_remove(name);
        }
    };
    refused(&forget("AWS_REGION"), 27, &["no region is set", "AWS_REGION"]);
    refused(&forget("AWS_ACCESS_KEY_ID"), 27, &["AWS_PROFILE", "s3://"]);
    let express = "snapshot create store s3://data--euw1-az1--x-s3/p";
    lab.refused(express, 50, &["directory bucket", "customer managed key"]);
    lab.refused("snapshot list s3://UPPER/p", 2, &["lower case"]);
    lab.refused("snapshot list gs://bucket/p", 2, &["s3://BUCKET/PREFIX"]);
}
