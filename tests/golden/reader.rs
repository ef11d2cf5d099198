//! Runs the independent reader.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::seen::{Records, by_path};

/// Where `tests/all.sh` installs it.
const INSTALLED: &str = "target/test-tools/moto/bin/python";

fn interpreter() -> PathBuf {
    let named = std::env::var_os("CMKFS_PYTHON").map(PathBuf::from);
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(INSTALLED);
    named.unwrap_or_else(|| if installed.exists() { installed } else { "python3".into() })
}

pub(crate) fn run(command: &str, store: &Path, key: &Path, path: Option<&OsStr>) -> Output {
    let python = interpreter();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/cmkfs_reader.py");
    Command::new(&python)
        .arg(script)
        .arg(command)
        .arg(store)
        .args(path)
        .arg("--key-file")
        .arg(key)
        .output()
        .unwrap_or_else(|error| {
            panic!("{}: {error}; tests/all.sh installs what the reader needs", python.display())
        })
}

/// What the reader lists, as it is; panics if it refuses anything.
fn listed(store: &Path, key: &Path) -> Vec<Value> {
    let output = run("list", store, key, None);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the reader: {said}");
    assert_eq!(said, "", "the reader has something to say");
    let lines = String::from_utf8(output.stdout).expect("JSON in ASCII");
    lines.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

/// All that the reader finds, without what another copy of the volume has otherwise.
pub(crate) fn list(store: &Path, key: &Path) -> Records {
    by_path(listed(store, key).into_iter().map(|mut record| {
        let object = record.as_object_mut().expect("a JSON object a line");
        assert!(object.remove("mtime_ns").is_some() && object.remove("stored").is_some());
        record
    }))
}

/// Where in the store each plaintext path lies.
pub(crate) fn stored_paths(store: &Path, key: &Path) -> BTreeMap<String, String> {
    let text = |record: &Value, field: &str| record[field].as_str().expect("text").to_owned();
    let pair = |record: &Value| (text(record, "path"), text(record, "stored"));
    listed(store, key).iter().map(pair).collect()
}

/// What the reader refuses, a line each. Panics if it refuses nothing or fails otherwise.
pub(crate) fn refused(store: &Path, key: &Path, case: &str) -> Vec<String> {
    let output = run("check", store, key, None);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{case}: {said}");
    let line = |line: &str| match line.strip_prefix("refused: ") {
        Some(line) => line.to_owned(),
        None => panic!("{case}: {said}"),
    };
    said.lines().map(line).collect()
}
