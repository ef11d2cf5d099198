//! Runs single steps, making and opening a volume key, in child processes of the test program.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::{env, fs};

use cmkfs::cipher::Secret;
use cmkfs::format::{Slot, VolumeId};
use cmkfs::keys::{self, Context, KeyError, KeySource};
use serde::{Deserialize, Serialize};

use crate::support::moto::{Moto, REGION};
use crate::support::proxy::Proxy;

pub(crate) const VOLUME: &str = "000102030405060708090a0b0c0d0e0f";
/// Names the file with a [`Step`] for the child; its [`Outcome`] goes beside it.
const STEP: &str = "CMKFS_TEST_STEP";
/// The child's line on standard output once its outcome is there.
const READY: &str = "outcome written\n";

/// What a child process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) volume: String,
    pub(crate) pairs: BTreeMap<String, String>,
    /// For `create` the source, for `open` the one to use instead of the recorded one.
    pub(crate) source: Option<String>,
    /// `None` to create.
    pub(crate) slots: Option<Vec<Slot>>,
    /// What to do with the slots besides.
    #[serde(default)]
    pub(crate) then: Then,
}

/// What a child process does with slots.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Then {
    /// Opens them.
    #[default]
    Open,
    /// Opens them, and wraps the key under this source.
    Wrap(String),
    /// Has KMS put the first under this source.
    ReEncrypt(String),
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Derived from the volume key: equal for equal keys.
    pub(crate) mark: String,
    pub(crate) slot: Option<Slot>,
    pub(crate) key_id: String,
    pub(crate) exit_code: u8,
    pub(crate) error: String,
    /// Everything that was logged, at `trace`.
    pub(crate) log: String,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn passed(&self) -> &Self {
        assert_eq!((self.exit_code, self.error.as_str()), (0, ""), "{}", self.log);
        self
    }

    /// Panics unless it failed so; each of `wanted` is in the message.
    #[track_caller]
    pub(crate) fn failed(&self, exit_code: u8, wanted: &[&str]) {
        assert_eq!(self.exit_code, exit_code, "{}", self.error);
        for part in wanted {
            assert!(self.error.contains(part), "wanted {part:?} in: {}", self.error);
        }
        assert!(self.mark.is_empty());
    }
}

/// An emulator, a proxy before it, a key, and the environment of the children.
pub(crate) struct Lab {
    pub(crate) moto: Arc<Moto>,
    pub(crate) proxy: Proxy,
    pub(crate) arn: String,
    pub(crate) env: BTreeMap<&'static str, String>,
    pub(crate) pairs: BTreeMap<String, String>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let moto = Moto::shared();
        let proxy = Proxy::start(moto.address());
        let arn = moto.new_key();
        let env = BTreeMap::from([
            ("AWS_ENDPOINT_URL_KMS", proxy.url()),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", proxy.url()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]);
        let pairs = BTreeMap::from([("team".to_owned(), "vision".to_owned())]);
        Self { moto, proxy, arn, env, pairs }
    }

    pub(crate) fn create(&self, source: &str) -> Outcome {
        self.run(&Step {
            volume: VOLUME.to_owned(),
            pairs: self.pairs.clone(),
            source: Some(source.to_owned()),
            slots: None,
            then: Then::Open,
        })
    }

    /// A volume under the lab's key.
    pub(crate) fn made(&self) -> Outcome {
        let made = self.create(&format!("kms:{}", self.arn));
        made.passed();
        made
    }

    pub(crate) fn open(&self, slot: &Slot) -> Outcome {
        self.run(&self.opening(slot))
    }

    pub(crate) fn opening(&self, slot: &Slot) -> Step {
        Step {
            volume: VOLUME.to_owned(),
            pairs: self.pairs.clone(),
            source: None,
            slots: Some(vec![slot.clone()]),
            then: Then::Open,
        }
    }

    /// What became of a slot that was opened and wrapped again, or put under another key by KMS.
    pub(crate) fn change(&self, slot: &Slot, then: Then) -> Outcome {
        self.run(&Step { then, ..self.opening(slot) })
    }

    pub(crate) fn run(&self, step: &Step) -> Outcome {
        self.run_and_look(step, |_| ())
    }

    /// Runs the step in a child with the lab's environment and nothing else that the SDK reads;
    /// calls `look` with the child's process id while the child still holds the key.
    pub(crate) fn run_and_look(&self, step: &Step, look: impl FnOnce(u32)) -> Outcome {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("step");
        fs::write(&path, serde_json::to_vec(step).expect("JSON")).expect("written");
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env_clear()
            .envs(&self.env)
            .env("HOME", dir.path())
            .env(STEP, &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        if lines.by_ref().map_while(Result::ok).any(|line| line.contains(READY.trim_end())) {
            look(child.id());
        }
        drop(child.stdin.take());
        lines.for_each(drop);
        let status = child.wait().expect("own child");
        assert!(status.success(), "{status}: its error output is above");
        let outcome = fs::read(outcome_path(&path)).expect("left by the child");
        serde_json::from_slice(&outcome).expect("an outcome")
    }
}

fn outcome_path(step: &Path) -> PathBuf {
    step.with_extension("outcome")
}

/// Where a child's log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while held").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a child process does: the step that its environment names.
pub(crate) fn child() {
    let path = env::var_os(STEP).expect("started by another test");
    let step: Step = serde_json::from_slice(&fs::read(&path).expect("a step")).expect("a step");
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("the first");

    let volume_id: VolumeId = step.volume.parse().expect("an id");
    let context = Context { volume_id, pairs: &step.pairs };
    let source: Option<KeySource> =
        step.source.as_ref().map(|source| source.parse().expect("a source"));
    let result = done(&step, source.as_ref(), &context);
    let mut kept = None;
    let mut outcome = match result {
        Ok((key, slot, key_id)) => {
            let mark = |key: &Secret| data_encoding::HEXLOWER.encode(key.derive("mark").expose());
            let mark = key.as_ref().map(mark).unwrap_or_default();
            kept = key;
            Outcome { mark, slot, key_id, ..Outcome::default() }
        }
        Err(error) => {
            Outcome { exit_code: error.exit_code(), error: error.to_string(), ..Outcome::default() }
        }
    };
    outcome.log = String::from_utf8_lossy(&log.0.lock().expect("not held")).into_owned();
    let outcome = serde_json::to_vec(&outcome).expect("JSON");
    fs::write(outcome_path(Path::new(&path)), outcome).expect("written");
    io::stdout().write_all(READY.as_bytes()).expect("the parent listens");
    // The parent may look at this process now, until it closes the pipe.
    io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
    drop(kept);
}

/// Volume key, slot and id of the KMS key that come of a step.
type Done = (Option<Secret>, Option<Slot>, String);

fn done(step: &Step, source: Option<&KeySource>, context: &Context<'_>) -> Result<Done, KeyError> {
    let Some(slots) = &step.slots else {
        let (key, slot) = keys::create(source.expect("a source"), context)?;
        return Ok((Some(key), slot, String::new()));
    };
    if let Then::ReEncrypt(to) = &step.then {
        let slot = keys::re_encrypt(&slots[0], &to.parse()?, source, context)?;
        return Ok((None, slot, String::new()));
    }
    let opened = keys::open(slots, source, context)?;
    let slot = match &step.then {
        Then::Wrap(to) => Some(keys::wrap(&opened.key, &to.parse()?, context, 2)?.slot),
        _ => None,
    };
    Ok((Some(opened.key), slot, opened.key_id))
}
