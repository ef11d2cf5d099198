//! pjdfstest: what it finds, by the name of each of its tests.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs;

/// All that ext4 has of what can be chosen. BSD's file flags and NFSv4's lists it has not.
const FEATURES: &str = "
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[dummy_auth]
entries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]

[settings]
naptime = 0.01
";
/// The tests that remount the file system read-only. They are run by themselves: others leave
/// files open for writing that are gone already, with which ext4 refuses.
const REMOUNTS: &str = "erofs";
/// pjdfstest calls mount(8), which hands a FUSE type on to a program of that type's name.
const MOUNT: &str = "#!/bin/sh\nPATH=${PATH#*:} exec mount -i \"$@\"\n";
/// The other file system, of which some tests want to hear that it is another.
const OTHER: &str = "/dev/shm";

/// What a run found.
pub(crate) struct Found(BTreeMap<String, Outcome>);

/// How a test ended.
#[derive(Clone, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// The program, ready to run.
pub(crate) struct Suite {
    program: PathBuf,
    tools: tempfile::TempDir,
}

impl Suite {
    pub(crate) fn new() -> Self {
        let program = programs::find("CMKFS_PJDFSTEST", "pjdfstest");
        let tools = tempfile::tempdir().unwrap();
        let at = |name: &str| tools.path().join(name);
        fs::write(at("mount"), MOUNT).unwrap();
        fs::set_permissions(at("mount"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at("keep.toml"), format!("{FEATURES}allow_remount = false\n")).unwrap();
        fs::write(at("remount.toml"), format!("{FEATURES}allow_remount = true\n")).unwrap();
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(at("link_max.so"));
        let status = compile.arg("tests/suites/link_max.c").status().expect("cc");
        assert!(status.success(), "cc: {status}");
        Self { program, tools }
    }

    /// Runs all tests in a directory.
    pub(crate) fn run(&self, dir: &Path) -> Found {
        let mut found = self.part(dir, "keep.toml", &[]);
        let remounts = self.part(dir, "remount.toml", &[REMOUNTS]);
        assert!(!remounts.0.is_empty(), "no test of pjdfstest is called {REMOUNTS}");
        found.0.extend(remounts.0);
        found
    }

    fn part(&self, dir: &Path, configuration: &str, patterns: &[&str]) -> Found {
        let tools = self.tools.path();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(tools.join(configuration)).args(["-s", OTHER, "-p"]).arg(dir);
        command.args(patterns).env("PATH", format!("{}:{path}", tools.display()));
        command.env("LD_PRELOAD", tools.join("link_max.so"));
        command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8(output.stdout).unwrap();
        Found::parse(&text).unwrap_or_else(|| panic!("{command:?} ended early:\n{text}\n{said}"))
    }
}

impl Found {
    /// `None` if the summary is not there, or counts other tests than those listed.
    fn parse(text: &str) -> Option<Self> {
        let (list, summary) = text.split_once("\nSummary: ")?;
        let mut found = BTreeMap::new();
        let mut last = None;
        for line in list.lines() {
            let mut words = line.split_whitespace();
            let outcome = match (line.starts_with(char::is_whitespace), words.next_back()) {
                (false, Some("ok")) => Outcome::Passed,
                (false, Some("FAILED")) => Outcome::Failed(String::new()),
                (false, Some("skipped")) => Outcome::Skipped(String::new()),
                _ => {
                    if let Some(name) = &last
                        && let Some(Outcome::Failed(why) | Outcome::Skipped(why)) =
                            found.get_mut(name)
                    {
                        *why += &format!("{} ", line.trim());
                    }
                    continue;
                }
            };
            last = words.next().map(str::to_owned);
            found.insert(last.clone()?, outcome);
        }
        let total = summary.lines().next()?.split(", ").last()?.strip_suffix(" total")?;
        (total.parse() == Ok(found.len())).then_some(Self(found))
    }

    fn count(&self, counted: impl Fn(&Outcome) -> bool) -> usize {
        self.0.values().filter(|outcome| counted(outcome)).count()
    }

    pub(crate) fn passed(&self) -> usize {
        self.count(|outcome| *outcome == Outcome::Passed)
    }

    /// As pjdfstest counts.
    pub(crate) fn counts(&self) -> String {
        let failed = self.count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let (passed, total) = (self.passed(), self.0.len());
        format!("{failed} failed, {skipped} skipped, {passed} passed, {total} total")
    }

    /// The tests that pass here and not there, a line each, with what happened there.
    pub(crate) fn passed_but_not_in(&self, other: &Self) -> String {
        let mut text = String::new();
        for name in self.0.iter().filter(|(_, outcome)| **outcome == Outcome::Passed) {
            let say = match other.0.get(name.0) {
                Some(Outcome::Passed) => continue,
                Some(Outcome::Failed(why)) => format!("failed: {why}"),
                Some(Outcome::Skipped(why)) => format!("skipped: {why}"),
                None => "was not run".to_owned(),
            };
            writeln!(text, "{} {say}", name.0).unwrap();
        }
        text
    }
}

#[test]
fn a_listing_is_taken_apart() {
    let text =
        "a::b          ok\nc::d       skipped\n\tno reason\nc::e    FAILED\n\twrong\n at 3\n";
    let summary = "\nSummary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n";
    let found = Found::parse(&(text.to_owned() + summary)).unwrap();
    assert_eq!(found.counts(), "1 failed, 1 skipped, 1 passed, 3 total");
    assert!(Found::parse(text).is_none(), "no summary");
    assert!(Found::parse(&(text.replace("a::b", "c::d") + summary)).is_none(), "two of three");
    let better = Found::parse(&(text.replace("FAILED", "ok").replace("skipped", "ok") + summary));
    let worse = better.unwrap().passed_but_not_in(&found);
    assert_eq!(worse, "c::d skipped: no reason \nc::e failed: wrong at 3 \n");
}
