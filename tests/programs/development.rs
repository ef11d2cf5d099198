//! What developers run: databases, virtual environments with `pip`, and `cargo build`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::mount::Mount;
use crate::{WAYS, python, said, script, succeed};

fn ledger(way: &[&str], mode: &str) {
    let mount = Mount::new(way);
    let database = mount.at("ledger.db");
    let path = database.to_str().unwrap();
    let whole = || script("sqlite.py", ["check", path, "3000"]);
    script("sqlite.py", ["fill", path, mode]);
    whole();
    mount.remount();
    whole();
    // One that dies in the middle leaves a journal, which has to be found and used.
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/sqlite.py");
    let died = python().arg(here).args(["spill", path]).output().unwrap();
    assert_eq!(died.status.signal(), Some(9), "{}", said(&died));
    let journal = mount.at(if mode == "wal" { "ledger.db-wal" } else { "ledger.db-journal" });
    assert!(journal.metadata().unwrap().len() > 4096, "{}", journal.display());
    mount.remount();
    whole();
    assert!(!journal.exists(), "{} is still there", journal.display());
}

#[test]
fn sqlite_keeps_its_promises_with_a_rollback_journal() {
    for way in WAYS {
        ledger(way, "delete");
    }
}

#[test]
fn sqlite_keeps_its_promises_with_a_write_ahead_log() {
    for way in WAYS {
        ledger(way, "wal");
    }
}

/// An index of packages, served from a directory for as long as this lives.
struct Index {
    server: Child,
    address: String,
}

impl Index {
    fn serve(dir: &Path) -> Self {
        let mut command = python();
        command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]);
        command.arg(dir).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        // "Serving HTTP on 127.0.0.1 port 40000 (http://127.0.0.1:40000/) ..."
        let address = line.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
        let address = address.unwrap_or_else(|| panic!("no address: {line:?}")).0.to_owned();
        Self { server, address }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

#[test]
fn pip_installs_a_wheel_into_a_virtual_environment() {
    for way in WAYS {
        install(way);
    }
}

fn install(way: &[&str]) {
    let mount = Mount::new(way);
    let (packages, venv) = (mount.at("packages"), mount.at("venv"));
    script("wheel.py", [&packages]);
    succeed(python().args(["-m", "venv", "--copies"]).arg(&venv));
    assert!(venv.join("bin/python3").symlink_metadata().unwrap().is_file());
    let pip = |args: &[&str]| {
        let mut command = Command::new(venv.join("bin/pip"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", mount.point());
        command.env("PIP_CONFIG_FILE", "/dev/null").env("PIP_CACHE_DIR", mount.at("cache"));
        command.env("TMPDIR", mount.point()).arg("--disable-pip-version-check").args(args);
        succeed(&mut command)
    };
    let index = Index::serve(&packages);
    let simple = format!("{}simple", index.address);
    pip(&["install", "--index-url", &simple, "greeter==1.2.3"]);
    drop(index);
    let greet = || {
        let said = succeed(Command::new(venv.join("bin/greet")).env_remove("PYTHONHOME"));
        assert_eq!(said.trim(), format!("greetings from {}", venv.display()));
    };
    greet();
    mount.remount();
    greet();
    pip(&["check"]);
    let listed = pip(&["list", "--format=freeze"]);
    assert!(listed.contains("greeter==1.2.3"), "{listed}");
    let shown = pip(&["show", "--files", "greeter"]);
    assert!(shown.contains("greeter/part59.py") && shown.contains("bin/greet"), "{shown}");
    pip(&["uninstall", "--yes", "greeter"]);
    assert!(!venv.join("bin/greet").exists());
}

const LIBRARY: &str = "pub fn answer() -> u32 {\n    include!(\"answer.in\")\n}\n";
const PROGRAM: &str = "fn main() {\n    println!(\"answer {}\", library::answer());\n}\n\
    #[test]\nfn holds() {\n    assert_ne!(library::answer(), 0);\n}\n";

fn make_crates(dir: &Path) {
    for name in ["library", "program"] {
        fs::create_dir_all(dir.join(name).join("src")).unwrap();
        let mut text = format!("[package]\nname = {name:?}\nedition = \"2021\"\n");
        if name == "program" {
            text += "[dependencies]\nlibrary = { path = \"../library\" }\n";
        }
        fs::write(dir.join(name).join("Cargo.toml"), text).unwrap();
    }
    let workspace = "[workspace]\nmembers = [\"library\", \"program\"]\nresolver = \"2\"\n";
    fs::write(dir.join("Cargo.toml"), workspace).unwrap();
    fs::write(dir.join("library/src/lib.rs"), LIBRARY).unwrap();
    fs::write(dir.join("library/src/answer.in"), "41\n").unwrap();
    fs::write(dir.join("program/src/main.rs"), PROGRAM).unwrap();
}

#[test]
fn cargo_builds_and_builds_again_only_what_changed() {
    for way in WAYS {
        build(way);
    }
}

fn build(way: &[&str]) {
    let mount = Mount::new(way);
    let dir = mount.at("crates");
    make_crates(&dir);
    let cargo = |verb: &str| {
        let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        // What the outer cargo told these tests is not for this one.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO")) {
            if name != "CARGO_HOME" {
                command.env_remove(name);
            }
        }
        command.env_remove("RUSTFLAGS").env_remove("RUSTC_WRAPPER");
        command.env("CARGO_TARGET_DIR", mount.at("target")).env("CARGO_INCREMENTAL", "1");
        command.current_dir(&dir).args([verb, "--offline", "--verbose"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let built = |crates: &[&str]| {
        let said = cargo("build");
        for name in ["library", "program"] {
            let word = if crates.contains(&name) { "Compiling" } else { "Fresh" };
            assert!(said.contains(&format!("{word} {name} v")), "{word} {name}: {said}");
        }
        succeed(&mut Command::new(mount.at("target/debug/program")))
    };
    assert_eq!(built(&["library", "program"]), "answer 41\n");
    assert_eq!(built(&[]), "answer 41\n");
    fs::write(dir.join("library/src/answer.in"), "42\n").unwrap();
    assert_eq!(built(&["library", "program"]), "answer 42\n");
    mount.remount();
    assert_eq!(built(&[]), "answer 42\n");
    fs::write(dir.join("program/src/main.rs"), PROGRAM.replace("answer {}", "is {}")).unwrap();
    assert_eq!(built(&["program"]), "is 42\n");
    let said = cargo("test");
    assert!(said.contains("test holds ... ok"), "{said}");
}
