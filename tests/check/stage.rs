//! A store with one of everything, put back before each damage.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a test fails by panicking, its lengths are small, and each test file uses a part"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cmkfs::file::{Access as FileAccess, Creator, Dir, Kind, NodeKind, XattrMode};
use cmkfs::lifecycle::open::{Access, Opened, Tuning, open};
use serde_json::Value;

use crate::desk::Desk;

const ME: Creator = Creator { uid: 0, gid: 0 };

pub struct Stage {
    pub desk: Desk,
}

#[derive(Debug)]
pub struct Found {
    pub kind: String,
    pub stored: String,
    pub path: String,
    pub ranges: Vec<(u64, u64)>,
}

/// What each path of a volume holds: the bytes of a file, the target of a link; `None` for what
/// has neither, and for what can't be read.
pub type Content = BTreeMap<String, Option<Vec<u8>>>;

/// What a check said.
#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub findings: Vec<Found>,
    pub directories: u64,
    pub files: u64,
    pub links: u64,
    pub others: u64,
}

pub fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

fn file(dir: &Dir, name: &[u8], content: &[u8]) {
    let (file, _) = dir.create_file(name, ME, 0o644).unwrap();
    file.write(0, content).unwrap();
    file.commit().unwrap();
}

fn fill(root: &Dir) {
    let text = |len: usize| (0..len).map(|at| (at % 241) as u8).collect::<Vec<_>>();
    for dir in ["dir", "empty"] {
        root.make_dir(dir.as_bytes(), ME, 0o755).unwrap();
    }
    let dir = root.open_dir(b"dir").unwrap();
    dir.make_dir(b"sub", ME, 0o755).unwrap();
    dir.set_xattr(None, b"user.tag", b"of a directory", XattrMode::Any).unwrap();
    file(&dir, b"file", b"in a directory");
    file(&dir.open_dir(b"sub").unwrap(), b"deep", &text(9000));
    file(root, b"nothing", b"");
    file(root, b"inline", b"a small secret");
    root.set_xattr(Some(b"inline"), b"user.tag", b"of a file", XattrMode::Any).unwrap();
    file(root, b"blocks", &text(20_000));
    file(root, b"nodes", &text(129 * 4096));
    let (sparse, _) = root.create_file(b"sparse", ME, 0o644).unwrap();
    sparse.write(100 << 20, b"far away").unwrap();
    sparse.commit().unwrap();
    file(root, "l".repeat(200).as_bytes(), b"under a long name");
    file(root, b"first", b"with two names");
    dir.link(b"second", root, b"first").unwrap();
    root.make_symlink(b"link", b"dir/file", ME).unwrap();
    root.make_symlink(b"long-link", &[b'x'; 4000], ME).unwrap();
    root.make_node(b"socket", NodeKind::Socket, ME, 0o600).unwrap();
    root.make_node(b"fifo", NodeKind::Fifo, ME, 0o600).unwrap();
}

impl Stage {
    pub fn new() -> Self {
        let desk = Desk::new();
        fs::write(desk.at("key"), [7; 32]).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(desk.at("key"), mode).unwrap();
        desk.ok(&format!("init store --block-size 4K --key file:{}", desk.at("key").display()));
        let stage = Self { desk };
        fill(&stage.open().volume.root().unwrap());
        stage.copy("store", "whole");
        stage
    }

    fn copy(&self, from: &str, to: &str) {
        drop(fs::remove_dir_all(self.desk.at(to)));
        let mut copy = Command::new("cp");
        copy.args(["-a", "--sparse=always"]).arg(self.desk.at(from)).arg(self.desk.at(to));
        assert!(copy.status().unwrap().success());
    }

    /// The store as it was made.
    pub fn restore(&self) {
        self.copy("whole", "store");
    }

    pub fn store(&self) -> PathBuf {
        self.desk.at("store")
    }

    pub fn open(&self) -> Opened {
        open(&self.store(), None, Access::Write, &Tuning::default()).unwrap()
    }

    /// The stored object of a plaintext path; the root's for the empty one.
    pub fn stored(&self, path: &str) -> PathBuf {
        let opened = self.open();
        let mut dir = opened.volume.root().unwrap();
        let mut at = self.store().join("tree");
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let ino = dir.lookup(name.as_bytes()).unwrap().ino;
            let entries = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path());
            at = entries.into_iter().find(|path| inode(path) == ino).unwrap();
            if names.peek().is_some() {
                dir = dir.open_dir(name.as_bytes()).unwrap();
            }
        }
        at
    }

    pub fn long_name(&self) -> String {
        "l".repeat(200)
    }

    pub fn sidecar(&self) -> PathBuf {
        self.stored(&self.long_name()).with_extension("name")
    }

    pub fn link_file(&self) -> PathBuf {
        let mut files = fs::read_dir(self.store().join("links")).unwrap();
        files.next().unwrap().unwrap().path()
    }

    fn marker(&self, path: &str) -> PathBuf {
        self.stored(path).join("dir.cmkfs")
    }

    pub fn remove_marker(&self, path: &str) {
        fs::remove_file(self.marker(path)).unwrap();
    }

    pub fn copy_marker(&self, from: &str, to: &str) {
        let (from, to) = (self.marker(from), self.marker(to));
        fs::remove_file(&to).unwrap();
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(copied.success());
    }

    pub fn edit_marker(&self, path: &str, edit: impl Fn(&mut Vec<u8>)) {
        edit_text(&self.marker(path), edit);
    }

    pub fn edit_link(&self, path: &str, edit: impl Fn(&mut Vec<u8>)) {
        edit_text(&self.stored(path), edit);
    }

    pub fn edit_attribute(&self, path: &str, edit: impl Fn(&mut Vec<u8>)) {
        let at = self.stored(path);
        let mut names = vec![0; 4096];
        let len = rustix::fs::llistxattr(&at, &mut names[..]).unwrap();
        let names = String::from_utf8(names[..len].to_vec()).unwrap();
        let name = names.split('\0').find(|name| name.starts_with("user.cmkfs.")).unwrap();
        let mut value = vec![0; 4096];
        let len = rustix::fs::lgetxattr(&at, name, &mut value[..]).unwrap();
        value.truncate(len);
        edit(&mut value);
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(&at, name, &value, flags).unwrap();
    }

    /// Everything in the volume.
    pub fn content(&self) -> Content {
        let mut content = Content::new();
        walk(&self.open().volume.root().unwrap(), "", &mut content);
        content
    }

    /// Runs a check with these flags.
    pub fn check(&self, flags: &str) -> Told {
        let output = self.desk.command(&format!("check store --json {flags}")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {}", crate::desk::said(&output)));
        let count = |name: &str| value["counts"][name].as_u64().unwrap();
        let findings = value["findings"].as_array().unwrap().iter().map(found).collect();
        Told {
            code: output.status.code().unwrap(),
            findings,
            directories: count("directories"),
            files: count("files"),
            links: count("links"),
            others: count("others"),
        }
    }
}

fn walk(dir: &Dir, path: &str, content: &mut Content) {
    for entry in dir.entries().unwrap() {
        let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        let found = match entry.kind {
            Kind::Dir => {
                walk(&dir.open_dir(&entry.name).unwrap(), &path, content);
                None
            }
            Kind::Symlink => dir.read_link(&entry.name).ok(),
            Kind::File => dir.open_file(&entry.name, FileAccess::Read).ok().and_then(|file| {
                // The sparse file by its end: its hole is 100 MB.
                let start = file.len().saturating_sub(1 << 20);
                file.read(start, 1 << 20).ok().map(|bytes| bytes.to_vec())
            }),
            _ => None,
        };
        content.insert(path, found);
    }
}

fn found(value: &Value) -> Found {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let ranges = value["ranges"].as_array().unwrap().iter();
    let ranges = ranges.map(|at| (at[0].as_u64().unwrap(), at[1].as_u64().unwrap()));
    Found {
        kind: text("kind"),
        stored: text("stored"),
        path: text("path"),
        ranges: ranges.collect(),
    }
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// Edits the text of a symbolic link.
fn edit_text(at: &Path, edit: impl Fn(&mut Vec<u8>)) {
    let mut text = fs::read_link(at).unwrap().into_os_string().into_encoded_bytes();
    edit(&mut text);
    fs::remove_file(at).unwrap();
    std::os::unix::fs::symlink(std::ffi::OsString::from_vec(text), at).unwrap();
}
