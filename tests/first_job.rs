//! The first command of the README and its parts, mostly on plain directories: that the job notices
//! a changed byte and goes on where it was stopped, that the search finds, that a mount that does
//! not encrypt is found out.

#![allow(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Bytes of the channel in these tests.
const TRAIN_BYTES: &str = "8000000";
/// Far longer than the job takes.
const PATIENCE: Duration = Duration::from_secs(120);

fn python(script: &str) -> Command {
    let interpreter = std::env::var("CMKFS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(interpreter);
    command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(script));
    command.env("JOB_TRAIN_BYTES", TRAIN_BYTES).stdin(Stdio::null());
    command
}

/// The job, below `root` as the platform has it below `/`.
fn job(root: &Path) -> Command {
    let scratch = root.join("tmp");
    fs::create_dir_all(&scratch).unwrap();
    let mut command = python("train.py");
    for name in ["SM_CHANNEL_TRAIN", "SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR"] {
        command.env_remove(name);
    }
    command.env("SAGEMAKER_BASE_DIR", root.join("opt/ml")).env("TMPDIR", scratch);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn search(mode: &str, top: &Path) -> Output {
    python("search.py").arg(mode).arg(top).output().unwrap()
}

fn text(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn run(root: &Path) -> Output {
    let output = job(root).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output
}

fn await_file(path: &Path, child: &mut Child) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < PATIENCE, "no {} after {PATIENCE:?}", path.display());
        assert!(child.try_wait().unwrap().is_none(), "the job ended before it was stopped");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_stopped_job_goes_on_to_the_same_model() {
    let (whole, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(whole.path());

    let mut child = job(stopped.path()).process_group(0).spawn().unwrap();
    await_file(&stopped.path().join("opt/ml/checkpoints/checkpoint.bin"), &mut child);
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));

    let resumed = text(&run(stopped.path()));
    assert!(resumed.contains("resumed at epoch"), "{resumed}");
    let model = |root: &Path| fs::read(root.join("opt/ml/model/model.json")).unwrap();
    assert!(model(whole.path()) == model(stopped.path()), "the models differ");
}

#[test]
fn one_changed_byte_fails_the_job() {
    let root = tempfile::tempdir().unwrap();
    run(root.path());
    fs::remove_dir_all(root.path().join("opt/ml/checkpoints")).unwrap();
    let file = root.path().join("opt/ml/input/data/train/customer-record-000003.txt");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();

    let output = job(root.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("epoch 1 read other bytes than were written"), "{said}");
    let failure = fs::read_to_string(root.path().join("opt/ml/output/failure")).unwrap();
    assert!(failure.contains("read other bytes"), "{failure}");
}

#[test]
fn the_search_finds_what_is_there_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    run(root.path());
    let lacking = search("control", root.path());
    assert!(text(&lacking).contains("did not find: name file name base64+1"), "{lacking:?}");
    assert!(search("plant", root.path()).status.success());
    let control = search("control", root.path());
    assert!(control.status.success(), "{}", text(&control));
    let plain = search("store", root.path());
    assert_eq!(plain.status.code(), Some(1));
    assert!(text(&plain).contains("PLAINTEXT"), "{}", text(&plain));

    let sealed = tempfile::tempdir().unwrap();
    let nothing = search("store", sealed.path());
    assert!(text(&nothing).contains("nothing was searched"), "{}", text(&nothing));
    let mut bytes: Vec<u8> =
        (0..1 << 15).flat_map(|_| *cmkfs::cipher::Secret::random().expose()).collect();
    let file = sealed.path().join("sealed");
    fs::write(&file, &bytes).unwrap();
    let clean = search("store", sealed.path());
    assert!(clean.status.success(), "{}", text(&clean));

    let record = root.path().join("opt/ml/input/data/train/customer-record-000001.txt");
    let page = &fs::read(record).unwrap()[..40];
    bytes[16 * 1001..][..40].copy_from_slice(page);
    fs::write(&file, &bytes).unwrap();
    let one = text(&search("store", sealed.path()));
    assert!(one.contains("at byte 16016: page (raw) in the bytes"), "{one}");
}

/// `docker/first-job.sh` with this program as cmkfs.
fn first_job(cmkfs: &Path, root: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/first-job.sh");
    let mut command = Command::new(script);
    command.arg(root).env("CMKFS", cmkfs).env("JOB_TRAIN_BYTES", TRAIN_BYTES);
    command.env("JOB_EPOCHS", "1").stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_first_job_runs_and_leaves_nothing_to_read() {
    let root = tempfile::tempdir().unwrap();
    let output = first_job(Path::new(env!("CARGO_BIN_EXE_cmkfs")), root.path());
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("bytes as written") && said.contains("store: {"), "{said}");
    assert!(said.contains("MB asked of cmkfs") && said.contains("cmkfs: figures of"), "{said}");
    assert!(root.path().join("var/lib/cmkfs/training/volume.json").exists());

    let again = first_job(Path::new(env!("CARGO_BIN_EXE_cmkfs")), root.path());
    assert!(text(&again).contains("is not empty"), "{}", text(&again));
    assert_eq!(again.status.code(), Some(1));
}

/// `docker/figures.py` on a job of two epochs of 1000 bytes, with these lines on standard error.
fn figures(told: &str) -> Output {
    let (work, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let job = r#"job: {"files": 1, "bytes": 1000, "mb": 0, "epochs": 2, "read_mb": 0,
        "read_mb_per_s": 1, "seconds": 1, "model_sha256": "00"}"#;
    let found = r#"{"files": 1, "mb": 0, "hits": 0, "packed_percent": 99}"#;
    let files = [
        ("job.cmkfs", job.replace('\n', "")),
        ("job.plain", job.replace('\n', "")),
        ("search.control", format!("control: {found}")),
        ("search.store", format!("store: {found}")),
        ("cmkfs.stderr", told.to_owned()),
    ];
    for (name, content) in files {
        fs::write(work.path().join(name), content + "\n").unwrap();
    }
    python("figures.py").arg(work.path()).arg(store.path()).output().unwrap()
}

#[test]
fn a_job_that_read_past_cmkfs_is_found_out() {
    let told = |bytes: u32| {
        format!(
            "cmkfs: figures of the volume\n  blocks_opened  1\n  read_bytes     {bytes} (1 KiB)\n\
             cmkfs: the key is zeroed\n"
        )
    };
    let enough = figures(&told(2000));
    assert!(enough.status.success(), "{}", text(&enough));
    let short = figures(&told(1999));
    assert_eq!(short.status.code(), Some(1));
    let said = text(&short);
    assert!(said.contains("asked for 1999 bytes, wanted at least 2000"), "{said}");
    let silent = text(&figures("cmkfs: the key is zeroed"));
    assert!(silent.contains("no line 'cmkfs: figures of the volume'"), "{silent}");
}

/// Runs the command without a mount, as a broken entrypoint would.
const NO_CMKFS: &str = r#"#!/usr/bin/env bash
root=$5 store=$7
mkdir -p "$store" "$root/tmp" && echo '{}' >"$store/volume.json"
SAGEMAKER_BASE_DIR=$root/opt/ml TMPDIR=$root/tmp "${@:10}"
"#;

#[test]
fn a_job_that_ran_beside_the_mount_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("no-cmkfs");
    fs::write(&program, NO_CMKFS).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = first_job(&program, &dir.path().join("root"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("search: PLAINTEXT below"), "{}", text(&output));
}
