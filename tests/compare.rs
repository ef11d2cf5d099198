//! `benches/compare.sh` at a size that measures nothing: each row has a figure.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

/// Rows of the table, one of each thing that is timed.
const ROWS: usize = 19;

/// Compares the program under test with the bare directory below `dir`.
fn compare(dir: &Path, args: &[&str]) -> Output {
    let mut command =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare.sh"));
    command.args(["--backing", dir.to_str().unwrap(), "--rounds", "2"]);
    command.args("--size 4 --files 12 --calls 20 --syncs 3 --transactions 3".split(' '));
    command.args(args).env("CMKFS", env!("CARGO_BIN_EXE_cmkfs")).output().unwrap()
}

#[test]
fn each_row_of_the_comparison_has_a_figure_and_nothing_is_left_behind() {
    let root = tempfile::tempdir().unwrap();
    let (tar, json) = (root.path().join("some.tar"), root.path().join("rates.json"));
    let backing = root.path().join("backing");
    std::fs::create_dir(&backing).unwrap();
    let packed = Command::new("tar").arg("-cf").arg(&tar).args(["tests/support"]).status().unwrap();
    assert!(packed.success());
    let (tar, json) = (tar.to_str().unwrap(), json.to_str().unwrap());
    let output = compare(&backing, &["--fs", "bare,cmkfs", "--tar", tar, "--json", json]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {said}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut rows = text.lines().filter(|line| line.starts_with('|'));
    assert_eq!(rows.next(), Some("| workload | bare | cmkfs |"), "{text}");
    assert_eq!(rows.next(), Some("| --- | ---: | ---: |"), "{text}");
    let rates: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let rows: Vec<Vec<_>> = rows.map(|row| row.trim_matches('|').split('|').collect()).collect();
    assert_eq!((rows.len(), rates.as_object().unwrap().len()), (ROWS, ROWS), "{text}");
    for row in rows {
        let [name, figures @ ..] = &row[..] else { panic!("{text}") };
        assert_eq!(figures.len(), 2, "{text}");
        for figure in figures {
            assert!(figure.trim().parse::<f64>().is_ok_and(|figure| figure > 0.0), "{text}");
        }
        let rounds = &rates[name.trim()];
        for filesystem in ["bare", "cmkfs"] {
            assert_eq!(rounds[filesystem].as_array().unwrap().len(), 2, "{name}");
        }
    }
    assert_eq!(std::fs::read_dir(&backing).unwrap().count(), 0);
}

#[test]
fn what_does_not_work_is_told_and_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let output = compare(root.path(), &["--fs", "ext3"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ext3: not of bare,gocryptfs,securefs,encfs,cmkfs"), "{said}");
    let mut failing = Command::new("python3");
    failing.args(["benches/compare.py", "--fs", "bare,cmkfs", "--only", "log", "--rounds", "1"]);
    failing.args(["--syncs", "2", "--backing"]).arg(root.path()).env("CMKFS", "false");
    let output = failing.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("log on cmkfs failed: false init"), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    let row = text.lines().last().unwrap();
    assert!(row.starts_with("| append") && row.ends_with(" | - |"), "{text}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}
