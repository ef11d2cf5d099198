//! What shells and man(1) are told of the command line, as real shells and troff take it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use desk::{Desk, said};

/// Verbs by which the program calls itself.
const OWN: [&str; 2] = ["mount-daemon", "run-child"];

fn bash(desk: &Desk, script: &str) -> Output {
    let mut bash = Command::new("bash");
    desk.prepare(&mut bash);
    bash.args(["--norc", "--noprofile", "-u", "-c", script]).output().unwrap()
}

/// What bash offers after these words, the last of which is not complete.
fn offered(desk: &Desk, words: &str) -> BTreeSet<String> {
    let last = words.split(' ').count() - 1;
    let script = format!(
        "source ./cmkfs.bash && complete -p cmkfs >&2 && COMP_WORDS=({words}) COMP_CWORD={last} && \
         _cmkfs cmkfs \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{last} - 1]}}\" && \
         printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let output = bash(desk, &script);
    assert!(output.status.success(), "{words}: {}", said(&output));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("complete ") && stderr.lines().count() == 1, "{stderr}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Names of all commands, each with those above it: `key grant list`.
fn verbs(desk: &Desk, above: &str) -> Vec<String> {
    let help = desk.ok(&format!("{above} --help"));
    let Some(part) = help.split("Commands:\n").nth(1) else { return Vec::new() };
    let lines = part.lines().take_while(|line| !line.is_empty());
    // What is explained in more than one line goes on further to the right.
    let names = lines.filter(|line| !line.starts_with("   ")).map(str::trim);
    let names = names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help");
    let below = |name: &str| {
        let path = format!("{above} {name}").trim().to_owned();
        let mut all = verbs(desk, &path);
        all.push(path);
        all
    };
    names.flat_map(below).collect()
}

#[test]
fn bash_offers_commands_and_flags() {
    let desk = Desk::new();
    fs::write(desk.at("cmkfs.bash"), desk.ok("completions bash")).unwrap();
    let one = |words| offered(&desk, words).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(one("cmkfs sna"), "snapshot");
    assert_eq!(one("cmkfs snapshot ver"), "verify");
    assert_eq!(one("cmkfs key grant rev"), "revoke");
    assert_eq!(one("cmkfs mount --durab"), "--durability");
    let all = offered(&desk, "cmkfs ''");
    for verb in verbs(&desk, "").iter().filter(|verb| !verb.contains(' ')) {
        assert!(all.contains(verb), "{verb} is not among {all:?}");
    }
    assert!(OWN.iter().all(|own| !all.contains(*own)), "{all:?}");
}

#[test]
fn each_shell_has_a_script_that_knows_every_command() {
    let desk = Desk::new();
    for (shell, first) in [("bash", "_cmkfs() {"), ("zsh", "#compdef cmkfs"), ("fish", "# ")] {
        let script = desk.ok(&format!("completions {shell}"));
        assert!(script.starts_with(first), "{shell}: {:?}", script.lines().next());
        for verb in verbs(&desk, "") {
            let name = verb.rsplit(' ').next().unwrap();
            assert!(script.contains(name), "{shell}: no {verb}");
        }
        assert!(OWN.iter().all(|own| !script.contains(own)), "{shell}");
        // Where the shell is there, it says whether it can read that.
        fs::write(desk.at("script"), script).unwrap();
        if let Ok(output) = Command::new(shell).arg("-n").arg(desk.at("script")).output() {
            assert!(output.status.success(), "{shell}: {}", said(&output));
        }
    }
    desk.refused("completions tcsh", 2, &["tcsh", "bash, zsh, fish"]);
}

/// The page as troff sets it, without a complaint.
fn set(page: &Path) -> String {
    let output = Command::new("groff")
        .args(["-man", "-ww", "-Tascii", "-P-cbou"])
        .arg(page)
        .output()
        .expect("groff");
    assert!(output.status.success(), "{}: {}", page.display(), said(&output));
    assert!(output.stderr.is_empty(), "{}: {}", page.display(), said(&output));
    // Lines are filled to both margins.
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_command_has_a_page_that_can_be_set() {
    let desk = Desk::new();
    let dir = desk.dir("pages");
    desk.ok("man pages");
    let mut wanted: BTreeSet<String> =
        verbs(&desk, "").iter().map(|verb| format!("cmkfs-{}.1", verb.replace(' ', "-"))).collect();
    assert!(wanted.contains("cmkfs-key-grant-list.1") && wanted.len() > 30, "{wanted:?}");
    wanted.insert("cmkfs.1".to_owned());
    let entries = fs::read_dir(&dir).unwrap();
    let there: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, wanted);
    for name in &there {
        let text = set(&dir.join(name));
        for part in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"] {
            assert!(text.contains(part), "{name} has no {part}: {text}");
        }
        assert!(text.contains(&name.trim_end_matches(".1").replace('-', " ")), "{name}: {text}");
    }
    let mount = set(&dir.join("cmkfs-mount.1"));
    assert!(mount.contains("--durability") && mount.contains("--read-only"), "{mount}");
    assert_eq!(desk.ok("man"), fs::read_to_string(dir.join("cmkfs.1")).unwrap());
    desk.refused("man gone", 1, &["gone/cmkfs-", "No such file"]);
}
