//! The log of the real program as lines of JSON, whatever happens.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;

use std::fs;
use std::process::Output;

use desk::{Desk, flip, said};
use serde_json::Value;

/// Each line as an object, which has to have all that a line has.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    let read = |line: &str| -> Value {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for (name, wanted) in [("timestamp", 20), ("level", 4), ("target", 5)] {
            let text = value[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}"));
            assert!(text.len() >= wanted, "{name}: {line}");
        }
        assert!(value["fields"]["message"].is_string(), "{line}");
        assert_eq!(value.as_object().unwrap().len(), 4, "{line}");
        value
    };
    text.lines().map(read).collect()
}

fn errors(output: &Output) -> Vec<Value> {
    lines(std::str::from_utf8(&output.stderr).unwrap())
}

#[test]
fn each_line_of_a_mount_is_an_object_also_where_it_fails() {
    let desk = Desk::new();
    desk.volume();
    desk.ok("mount store mnt -vv --log-format json --log-file log");
    fs::write(desk.at("mnt/secret-name"), vec![7; 100_000]).unwrap();
    desk.ok("umount mnt");
    flip(&desk.stored_file("store", 100_000));
    desk.ok("mount store mnt -o log_format=json,log_file=log");
    fs::read(desk.at("mnt/secret-name")).unwrap_err();
    desk.ok("umount mnt");
    let log = fs::read_to_string(desk.at("log")).unwrap();
    assert!(!log.contains("secret-name"), "{log}");
    let log = lines(&log);
    let has = |wanted: &dyn Fn(&Value) -> bool| log.iter().any(wanted);
    assert!(has(&|line| line["level"] == "INFO" && line["fields"]["message"] == "serving"));
    assert!(has(&|line| line["level"] == "ERROR" && line["target"] == "cmkfs::file::error"));
}

#[test]
fn what_a_command_says_at_its_end_is_a_line_too() {
    let desk = Desk::new();
    desk.volume();
    let output = desk.command("mount gone mnt --log-format json").output().unwrap();
    assert_eq!(output.status.code(), Some(10));
    let found = errors(&output);
    assert_eq!((found.len(), &found[0]["fields"]["code"]), (1, &Value::from(10)), "{found:?}");
    assert_eq!(found[0]["level"], "ERROR");
    // By the variable, over which the flag wins.
    let json = |args: &str| desk.command(args).env("CMKFS_LOG_FORMAT", "json").output().unwrap();
    assert_eq!(errors(&json("ls gone:/"))[0]["target"], "cmkfs");
    let text = json("ls gone:/ --log-format text");
    assert!(String::from_utf8(text.stderr).unwrap().starts_with("cmkfs: "));
    // A standard error beside the log is for people.
    let beside = json("mount gone mnt --foreground --log-file log");
    assert!(String::from_utf8_lossy(&beside.stderr).starts_with("cmkfs: "), "{}", said(&beside));
    let wrong = desk.command("ls store:/").env("CMKFS_LOG_FORMAT", "xml").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(said(&wrong).contains("CMKFS_LOG_FORMAT: \"xml\""), "{}", said(&wrong));
    desk.refused("ls store:/ --log-format xml", 2, &["wanted text or json"]);
}

#[test]
fn a_daemon_says_why_it_does_not_serve_as_a_line() {
    let desk = Desk::new();
    desk.volume();
    fs::write(desk.at("other"), [1; 32]).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(desk.at("other"), private).unwrap();
    let wrong = "mount store mnt --key file:other --log-format json --log-file log";
    assert!(!desk.command(wrong).status().unwrap().success());
    let log = lines(&fs::read_to_string(desk.at("log")).unwrap());
    assert!(log.iter().any(|line| line["fields"]["code"].is_u64()), "{log:?}");
}

#[test]
fn a_job_says_what_its_volume_did_as_lines() {
    let desk = Desk::new();
    desk.dir("root");
    let run = "run --role training --root root --log-format json -- true";
    let output = desk.command(run).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found = errors(&output);
    let figures = found.iter().find(|line| line["fields"]["message"] == "figures of the volume");
    assert!(figures.unwrap()["fields"]["seconds"].is_number(), "{found:?}");
}
