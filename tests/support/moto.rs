//! The emulator of KMS and S3, `moto_server` of PyPI's moto: a real server over HTTP. It checks
//! ciphertexts, encryption contexts and the conditions of puts, but no key state, no policy and no
//! signature.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use serde_json::{Value, json};

use super::http::Message;

/// Region of keys that the helpers make.
pub(crate) const REGION: &str = "eu-west-1";
/// Where `tests/all.sh` installs it.
const INSTALLED: &str = "target/test-tools/moto/bin/moto_server";

/// A running server, killed on drop.
#[derive(Debug)]
pub(crate) struct Moto {
    child: Child,
    /// `http`, or `https`.
    scheme: String,
    address: String,
}

impl Moto {
    /// The server that this test program's tests share; it ends with the last of them.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Moto>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *shared = Arc::downgrade(&started);
            started
        })
    }

    /// Starts one on a port that the system chooses; returns when it serves.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more flags: `-s` has it speak TLS, under a certificate that nobody trusts.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let program = program();
        let mut child = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .args(flags)
            // So few in one answer, that listings of S3 have several.
            .env("MOTO_S3_DEFAULT_MAX_KEYS", "7")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut said = String::new();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            said += &format!("{line}\n");
            let (before, address) = line.split_once("://")?;
            let scheme = before.rsplit(' ').next().unwrap_or_default();
            Some((scheme.to_owned(), address.trim().to_owned()))
        });
        let Some((scheme, address)) = address else {
            child.kill().expect("own child");
            child.wait().expect("own child");
            panic!("{} ended before it served:\n{said}", program.display());
        };
        // It logs every request, and would stop at a full pipe.
        thread::spawn(move || lines.for_each(drop));
        Self { child, scheme, address }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// As `AWS_ENDPOINT_URL` takes it.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// One KMS call; panics unless it succeeds.
    pub(crate) fn kms(&self, operation: &str, input: &Value) -> Value {
        self.json("kms", &format!("TrentService.{operation}"), input)
    }

    /// Makes a secret of this content, `SecretBinary` or `SecretString`; returns its ARN.
    pub(crate) fn secret(&self, content: &Value) -> String {
        static NAMES: AtomicUsize = AtomicUsize::new(0);
        let mut input = content.clone();
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        input["Name"] = json!(format!("cmkfs/key-{}-{number}", std::process::id()));
        let made = self.json("secretsmanager", "secretsmanager.CreateSecret", &input);
        made["ARN"].as_str().expect("an ARN").to_owned()
    }

    /// Gives a secret another content.
    pub(crate) fn put_secret(&self, arn: &str, content: &Value) {
        let mut input = content.clone();
        input["SecretId"] = json!(arn);
        self.json("secretsmanager", "secretsmanager.PutSecretValue", &input);
    }

    /// One call by JSON; panics unless it succeeds.
    fn json(&self, service: &str, target: &str, input: &Value) -> Value {
        let credential = format!("Credential=test/20260101/{REGION}/{service}/aws4_request");
        let headers = [
            ("host", self.address.as_str()),
            ("x-amz-target", target),
            ("content-type", "application/x-amz-json-1.1"),
            ("authorization", &format!("AWS4-HMAC-SHA256 {credential}, Signature=none")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let request = Message {
            first: "POST / HTTP/1.1".to_owned(),
            headers: headers.into(),
            body: input.to_string().into_bytes(),
        };
        let answer = request.exchange(&self.address).expect("the emulator answers");
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.first.contains(" 200 "), "{target}: {} {body}", answer.first);
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{target}: {body}: {error}"))
    }

    /// Makes a policy in IAM, which holds it to the grammar of policies; panics unless it does.
    pub(crate) fn create_policy(&self, name: &str, policy: &Value) {
        let encoded: String =
            policy.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect();
        let body = format!(
            "Action=CreatePolicy&Version=2010-05-08&PolicyName={name}&PolicyDocument={encoded}"
        );
        let credential = "Credential=test/20260101/us-east-1/iam/aws4_request";
        let headers = [
            ("host", self.address.as_str()),
            ("content-type", "application/x-www-form-urlencoded"),
            ("authorization", &format!("AWS4-HMAC-SHA256 {credential}, Signature=none")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let first = "POST / HTTP/1.1".to_owned();
        let request = Message { first, headers: headers.into(), body: body.into_bytes() };
        let answer = request.exchange(&self.address).expect("the emulator answers");
        let body = String::from_utf8_lossy(&answer.body);
        assert!(answer.first.contains(" 200 "), "{}: {body}", answer.first);
    }

    /// One request to S3 for `/BUCKET` or `/BUCKET/KEY`; panics unless it succeeds. Returns the
    /// answer's body.
    pub(crate) fn s3(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let credential = "Credential=test/20260101/us-east-1/s3/aws4_request";
        let headers = [
            ("host", self.address.as_str()),
            ("authorization", &format!("AWS4-HMAC-SHA256 {credential}, Signature=none")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let first = format!("{method} {path} HTTP/1.1");
        let request = Message { first, headers: headers.into(), body: body.to_vec() };
        let answer = request.exchange(&self.address).expect("the emulator answers");
        let text = String::from_utf8_lossy(&answer.body);
        assert!(answer.first.contains(" 20"), "{method} {path}: {} {text}", answer.first);
        answer.body
    }

    /// Makes a bucket of a name of its own.
    pub(crate) fn bucket(&self) -> String {
        static NAMES: AtomicUsize = AtomicUsize::new(0);
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let name = format!("cmkfs-{}-{number}", std::process::id());
        self.s3("PUT", &format!("/{name}"), b"");
        name
    }

    /// Keys in a bucket.
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        let mut keys = Vec::new();
        loop {
            let after = keys.last().cloned().unwrap_or_default();
            let list = self.s3("GET", &format!("/{bucket}?list-type=2&start-after={after}"), b"");
            let text = String::from_utf8(list).expect("XML");
            let parts = text.split("<Key>").skip(1);
            keys.extend(parts.filter_map(|part| Some(part.split_once("</Key>")?.0.to_owned())));
            if !text.contains("<IsTruncated>true") {
                return keys;
            }
        }
    }

    /// A new symmetric key; returns its ARN.
    pub(crate) fn new_key(&self) -> String {
        let made = self.kms("CreateKey", &json!({}));
        made["KeyMetadata"]["Arn"].as_str().expect("an ARN").to_owned()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        for ended in [self.child.kill(), self.child.wait().map(drop)] {
            if let Err(error) = ended {
                eprintln!("moto_server, process {}: {error}", self.child.id());
            }
        }
    }
}

fn program() -> PathBuf {
    if let Some(named) = env::var_os("CMKFS_MOTO") {
        return named.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join("moto_server"));
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(INSTALLED);
    on_path.chain([installed]).find(|program| program.is_file()).unwrap_or_else(|| {
        panic!(
            "no moto_server, the KMS emulator of these tests: not in CMKFS_MOTO, on PATH or in \
             {INSTALLED}; run tests/all.sh, which installs it"
        )
    })
}
