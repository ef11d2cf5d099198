//! Real programs through a real mount, judged by what they leave behind: each has to find there
//! what it would find on the disk below.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "programs/copies.rs"]
mod copies;
#[path = "programs/data.rs"]
mod data;
#[path = "programs/development.rs"]
mod development;
#[path = "support/mount.rs"]
mod mount;
#[path = "programs/repositories.rs"]
mod repositories;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The two ways of the kernel with what is written: it hands it on at once, or keeps it a while.
const WAYS: [&[&str]; 2] = [&[], &["-o", "writeback_cache"]];

/// What a program printed; it has to succeed.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Status and all output as text.
fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// An interpreter; nothing of how the tests were started reaches it.
fn python() -> Command {
    let python = std::env::var("CMKFS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(python);
    command.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
    command
}

/// Runs one of the scripts beside these tests.
#[track_caller]
fn script<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> String {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    succeed(python().arg(scripts.join(name)).args(args))
}

/// Everything below a directory, a line an entry: path, kind, mode, owner, time, links, attributes,
/// content. `leave_out` is a name at the top.
#[track_caller]
fn manifest(root: &Path, leave_out: &str) -> String {
    let list = script("tree.py", [OsStr::new("list"), root.as_os_str(), OsStr::new(leave_out)]);
    assert!(list.lines().count() > 1, "{} is empty", root.display());
    list
}

/// Fails with the first lines that differ.
#[track_caller]
fn same(what: &str, found: &str, wanted: &str) {
    if found == wanted {
        return;
    }
    let only = |these: &str, those: &str| {
        let those: std::collections::HashSet<&str> = those.lines().collect();
        let lines = these.lines().filter(|line| !those.contains(line)).take(8);
        lines.collect::<Vec<_>>().join("\n")
    };
    panic!("{what}\nfound:\n{}\nwanted:\n{}", only(found, wanted), only(wanted, found));
}

/// A directory on the disk that the stores lie on too.
fn disk() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain");
    std::fs::create_dir(&path).unwrap();
    (dir, path)
}
