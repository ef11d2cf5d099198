//! What `mount-helpers/` has: mount(8) and fstab(5) with the helpers, the units as systemd reads
//! them, and the life of a notebook instance, on machines that look like one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;
#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use desk::{CMKFS, Desk, said};
use support::moto::Moto;

/// Characters of a lifecycle script that the platform takes, in base64.
const LIFECYCLE_MAX: usize = 16384;
/// What has room for the longest of these scripts.
const DISK_BYTES: u64 = 128 << 20;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A command that only root may run.
fn as_root(program: impl AsRef<Path>) -> Command {
    let program = program.as_ref();
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("-n").arg(program);
    command
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What of a notebook instance persists, and the cloud around it.
struct Instance {
    desk: Desk,
    moto: std::sync::Arc<Moto>,
}

impl Instance {
    fn new() -> Self {
        let (desk, moto) = (Desk::new(), Moto::shared());
        let disk = fs::File::create(desk.at("disk.img")).unwrap();
        disk.set_len(DISK_BYTES).unwrap();
        let mut format = Command::new("/sbin/mkfs.ext4");
        run(format.args(["-q", "-E", "root_owner=4321:4321"]).arg(desk.at("disk.img")));
        let bucket = desk.dir("cloud/bucket");
        // Without debug information: the machines keep their files in memory.
        run(Command::new("strip").arg("-o").arg(desk.at("cloud/cmkfs")).arg(CMKFS));
        let secret = "[default]\naws_access_key_id = test\naws_secret_access_key = test\n";
        fs::write(desk.at("cloud/credentials"), secret).unwrap();
        fs::write(desk.at("cloud/config"), "[default]\n").unwrap();
        let mut bundle = Command::new(project("mount-helpers/notebook/bundle.sh"));
        bundle.arg(desk.at("cloud/cmkfs")).arg(bucket.join("cmkfs-notebook.tar.gz"));
        let (digest, key) = (run(&mut bundle), moto.new_key());
        for name in ["on-create", "on-start"] {
            let script = project(&format!("mount-helpers/notebook/{name}.sh"));
            let script = fs::read_to_string(script).unwrap();
            let lines = script.lines().map(|line| match line.split_once('=') {
                Some(("BUNDLE", _)) => "BUNDLE=s3://bucket/cmkfs-notebook.tar.gz\n".to_owned(),
                Some(("BUNDLE_SHA256", _)) => format!("BUNDLE_SHA256={digest}"),
                Some(("KEY", _)) => format!("KEY=kms:{key}\n"),
                _ => format!("{line}\n"),
            });
            fs::write(desk.at("cloud").join(name), lines.collect::<String>()).unwrap();
        }
        Self { desk, moto }
    }

    /// One run of a machine, in which `script` of `tests/helpers` has to succeed.
    #[track_caller]
    fn boot(&self, script: &str) {
        let mut machine = as_root("env");
        machine.arg(format!("KMS_URL={}", self.moto.url())).arg("unshare");
        machine.args(["--mount", "--pid", "--fork", "--kill-child"]);
        machine.arg(project("tests/helpers/machine.sh")).arg(self.desk.at(""));
        machine.arg(format!("tests/helpers/{script}"));
        run(&mut machine);
    }
}

#[test]
fn mount_and_fstab_know_cmkfs() {
    Instance::new().boot("mount.sh");
}

#[test]
fn an_existing_notebook_is_adopted_and_lives_on_new_machines() {
    let instance = Instance::new();
    for script in ["adopted.sh", "power-off.sh", "stopped.sh", "deleted.sh"] {
        instance.boot(script);
    }
}

#[test]
fn a_new_notebook_is_created_or_says_why_not() {
    Instance::new().boot("created.sh");
}

/// What [`Tree::plant`] makes, and where it is afterwards.
struct Tree {
    desk: Desk,
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Tree {
    fn new() -> Self {
        let desk = Desk::new();
        desk.mounted();
        Self { desk }
    }

    /// A directory, two files of which one has two names, and a symbolic link.
    fn plant(&self) -> Files {
        let plain = self.desk.dir("plain");
        fs::create_dir_all(plain.join("dir")).unwrap();
        fs::write(plain.join("dir/file"), vec![7; 70_000]).unwrap();
        fs::write(plain.join("one"), "one").unwrap();
        fs::hard_link(plain.join("one"), plain.join("dir/two")).unwrap();
        std::os::unix::fs::symlink("dir/file", plain.join("zlink")).unwrap();
        self.files("plain")
    }

    /// All that is no directory, but what cmkfs has for itself.
    fn files(&self, below: &str) -> Files {
        let mut found = Files::new();
        let top = self.desk.at(below);
        collect(&top, &top, &mut found);
        found
    }

    fn adopt(&self) -> Output {
        self.python(&[])
    }

    /// What `tests/helpers/disturb.py` does to it.
    fn disturbed(&self, how: &str, call: u32) -> Output {
        let disturb = project("tests/helpers/disturb.py").display().to_string();
        self.python(&[&disturb, how, &call.to_string()])
    }

    fn python(&self, before: &[&str]) -> Output {
        let python = std::env::var("CMKFS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut command = Command::new(python);
        command.args(["-I", "-B"]).args(before);
        command.arg(project("mount-helpers/notebook/adopt.py"));
        command.args(["plain", "mnt", "trash"].map(|name| self.desk.at(name)));
        self.desk.prepare(&mut command);
        command.output().unwrap()
    }

    #[track_caller]
    fn is_all_moved(&self, wanted: &Files) {
        assert_eq!(&self.files("mnt"), wanted);
        assert!(self.files("plain").is_empty() && self.files("trash").is_empty());
        assert!(!self.desk.at("mnt/.cmkfs").exists() && !self.desk.at("plain/dir").exists());
    }
}

fn collect(top: &Path, dir: &Path, found: &mut Files) {
    for entry in dir.read_dir().into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(top).unwrap().to_owned();
        let kind = path.symlink_metadata().unwrap();
        if kind.is_dir() && name != Path::new(".cmkfs") {
            collect(top, &path, found);
        } else if kind.is_symlink() {
            let target = path.read_link().unwrap();
            found.insert(name, target.into_os_string().into_encoded_bytes());
        } else if kind.is_file() {
            found.insert(name, fs::read(path).unwrap());
        }
    }
}

#[test]
fn an_adoption_that_is_killed_at_any_call_loses_nothing() {
    let tree = Tree::new();
    let mut killed = 0;
    for call in 1.. {
        let wanted = tree.plant();
        let ended = tree.disturbed("kill", call);
        let (left, moved) = (tree.files("plain"), tree.files("mnt"));
        for (name, content) in &wanted {
            let there = [&left, &moved].into_iter().filter_map(|files| files.get(name));
            assert!(there.clone().count() > 0, "call {call}: {} is gone", name.display());
            assert!(there.clone().all(|found| found == content), "call {call}: {name:?} differs");
        }
        if ended.status.success() {
            break;
        }
        assert_eq!(ended.status.signal(), Some(9), "call {call}: {}", said(&ended));
        killed += 1;
        let again = tree.adopt();
        assert!(again.status.success(), "call {call}: {}", said(&again));
        tree.is_all_moved(&wanted);
        for entry in tree.desk.at("mnt").read_dir().unwrap() {
            let path = entry.unwrap().path();
            let is_dir = path.symlink_metadata().unwrap().is_dir();
            if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
    }
    assert!(killed > 20, "{killed} calls only");
}

#[test]
fn adoption_overwrites_nothing_and_names_what_it_leaves() {
    let tree = Tree::new();
    let wanted = tree.plant();
    // The same, another content, and a file in the place of a directory.
    fs::write(tree.desk.at("mnt/one"), "one").unwrap();
    fs::write(tree.desk.at("mnt/zlink"), "newer").unwrap();
    fs::write(tree.desk.at("mnt/dir"), "a file").unwrap();
    let failed = tree.disturbed("fail", 1);
    assert_eq!(failed.status.code(), Some(1));
    assert!(said(&failed).contains("left in plaintext: "), "{}", said(&failed));
    assert!(said(&failed).contains("Input/output error"), "{}", said(&failed));
    assert_eq!(tree.files("plain").len(), 1, "{}", said(&failed));

    let again = tree.adopt();
    assert!(again.status.success(), "{}", said(&again));
    let moved = tree.files("mnt");
    let at = |name: &str| moved.get(Path::new(name)).map(Vec::as_slice);
    assert_eq!(at("zlink"), Some(&b"newer"[..]));
    assert_eq!(at("zlink.before-cmkfs"), Some(&b"dir/file"[..]));
    assert_eq!(at("dir"), Some(&b"a file"[..]));
    assert_eq!(at("one"), Some(&b"one"[..]));
    // The second run finds the first one's directory in its way too.
    let old = |name: &str| {
        let places = ["dir.before-cmkfs", "dir.before-cmkfs-2"];
        places.iter().any(|dir| {
            moved.get(&Path::new(dir).join(name)) == wanted.get(&Path::new("dir").join(name))
        })
    };
    assert!(old("file") && old("two"), "{:?}", moved.keys());
    assert_eq!(moved.len(), 6, "{:?}", moved.keys());
    assert!(tree.files("plain").is_empty() && tree.files("trash").is_empty());

    let unmounted = {
        tree.desk.ok("umount mnt");
        tree.plant();
        tree.adopt()
    };
    assert_eq!(unmounted.status.code(), Some(1));
    assert!(said(&unmounted).contains("is not mounted"), "{}", said(&unmounted));
    assert_eq!(tree.files("plain"), wanted);
}

#[test]
fn lifecycle_scripts_are_as_the_platform_takes_them() {
    let text = |name: &str| {
        let path = project("mount-helpers/notebook").join(name);
        fs::read_to_string(path).unwrap()
    };
    let (create, start) = (text("on-create.sh"), text("on-start.sh"));
    for script in [&create, &start] {
        let base64_len = script.len().div_ceil(3) * 4;
        assert!(base64_len <= LIFECYCLE_MAX, "{base64_len} characters");
    }
    // The platform takes one file for each, so that both have what they share.
    let shared = |script: &str| {
        let from = script.find("# --- settings").unwrap();
        let to = script.find("# --- end ---").unwrap();
        script[from..to].replace("on-create.sh", "X").replace("on-start.sh", "X")
    };
    assert_eq!(shared(&create), shared(&start));
}

#[test]
fn systemd_takes_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for folder in ["mount-helpers/systemd", "mount-helpers/notebook"] {
        for entry in project(folder).read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|kind| kind != "service" && kind != "timer") {
                continue;
            }
            let programs = project("mount-helpers/notebook").display().to_string();
            let text = fs::read_to_string(&path).unwrap();
            let text = text.replace("/usr/bin/cmkfs", CMKFS).replace("/opt/cmkfs", &programs);
            let copy = dir.path().join(path.file_name().unwrap());
            fs::write(&copy, text).unwrap();
            units.push(copy);
        }
    }
    assert!(units.len() >= 9, "{units:?}");
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).args(&units).output().unwrap();
    // What other units of this machine are like is not this test's.
    let about: Vec<String> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| line.contains("cmkfs"))
        .map(str::to_owned)
        .collect();
    assert!(about.is_empty(), "{}", about.join("\n"));
    assert!(output.status.success(), "{}", said(&output));
}
