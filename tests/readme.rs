//! The README is held to what is there: its links, the tests it names, its commands, its codes.

#![allow(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn readme() -> String {
    fs::read_to_string("README.md").unwrap()
}

/// Every `[text](target)` whose target is a file of the project.
fn links(text: &str) -> Vec<(&str, &str)> {
    let parts = text.match_indices("](").filter_map(|(at, _)| {
        let label = &text[text[..at].rfind('[')? + 1..at];
        let target = &text[at + 2..][..text[at + 2..].find(')')?];
        Some((label, target)).filter(|_| !target.contains("://"))
    });
    parts.collect()
}

#[test]
fn links_lead_to_files_and_named_tests_exist() {
    let text = readme();
    let mut tests = 0;
    for (label, target) in links(&text) {
        assert!(Path::new(target).exists(), "README links to {target}, which is not there");
        let name = label.trim_matches('`');
        let is_name =
            name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if target.ends_with(".rs") && is_name {
            let source = fs::read_to_string(target).unwrap();
            assert!(source.contains(&format!("fn {name}(")), "no test {name} in {target}");
            tests += 1;
        }
    }
    assert!(tests >= 13, "{tests} tests named: at least one for each promise");
}

#[test]
fn it_opens_with_two_commands_that_can_run() {
    let text = readme();
    let block = text.split("```").nth(1).unwrap();
    let commands: Vec<&str> = block.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(commands, ["", "docker/first-job.sh", "tests/all.sh"]);
    for command in &commands[1..] {
        let mode = fs::metadata(command).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{command} can't be executed");
    }
}

#[test]
fn it_lists_every_exit_code() {
    let source = fs::read_to_string("src/lifecycle/exit.rs").unwrap();
    let codes =
        source.lines().filter_map(|line| line.trim().strip_suffix(',')?.split(" = ").nth(1));
    let codes: BTreeSet<u8> = codes.map(|code| code.parse().unwrap()).collect();
    let text = readme();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let mut listed: BTreeSet<u8> = rows.filter_map(|cell| cell.parse().ok()).collect();
    listed.extend([125, 126, 127]); // In the sentence below the table.
    assert_eq!(listed, codes);
}

#[test]
fn it_names_every_command_and_no_other() {
    let output = Command::new(env!("CARGO_BIN_EXE_cmkfs")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let part = help.split("Commands:").nth(1).expect("a list of commands");
    let lines = part.lines().skip(1).take_while(|line| !line.is_empty());
    let there: BTreeSet<&str> = lines
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();

    let text = readme();
    let rows = text.lines().filter(|line| line.starts_with("| `cmkfs "));
    let mut named = BTreeSet::new();
    for row in rows {
        let cell = row.split(" | ").next().unwrap();
        for code in cell.split('`').skip(1).step_by(2) {
            let code = code.strip_prefix("cmkfs ").unwrap_or(code);
            named.extend(code.split(' ').next().filter(|word| there.contains(word)));
            if row.contains(&format!("`cmkfs {code}")) {
                let verb = code.split(' ').next().unwrap();
                assert!(there.contains(verb), "README names `cmkfs {verb}`, help does not");
            }
        }
    }
    assert_eq!(named, there);
}
