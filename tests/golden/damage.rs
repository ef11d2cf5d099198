//! What somebody who can write to a store might do to a volume with blocks of 4 KiB, and what the
//! reader then has to refuse: these objects, and no other.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;

const BLOCK: u64 = 4096;
const RUN: u64 = 16384 + 128 * BLOCK;
/// A name with a sidecar, and another.
const LONG: [usize; 2] = [161, 255];
const DEEP: &str = "two levels, six blocks";
const ATTRIBUTES: &str = "attributes";

/// A copy of the volume.
pub(crate) struct Subject<'a> {
    pub(crate) store: PathBuf,
    /// Stored paths by plaintext paths.
    pub(crate) stored: &'a BTreeMap<String, String>,
}

/// Path in the store of what has to be refused, and a part of the reason.
pub(crate) type Refused = Vec<(String, &'static str)>;
type Case = (&'static str, fn(&Subject<'_>) -> Refused);

pub(crate) const CASES: &[Case] = &[
    ("a field of volume.json", |s| s.describe("1767225600", "1767225601", "the mac is wrong")),
    ("another version", |s| s.describe("\"version\": 1", "\"version\": 2", "version is 2")),
    ("one more field", |s| s.describe("\"mac\"", "\"more\": 1,\n \"mac\"", "not known ['more']")),
    ("a field twice", |s| s.describe("\"mac\"", "\"version\": 1,\n \"mac\"", "a field twice")),
    ("the context", |s| s.describe("vision", "version", "none of 2 slots opens")),
    ("an epoch key", epoch_key),
    ("marker: tag", |s| s.flip("tree/dir.cmkfs", 47, "the tag is wrong")),
    ("marker: id", |s| s.flip("tree/dir.cmkfs", 16, "the tag is wrong")),
    ("marker: reserved", |s| s.flip("tree/dir.cmkfs", 10, "reserved bytes 10")),
    ("marker: epoch", |s| s.flip("tree/dir.cmkfs", 13, "sealed in epoch")),
    ("marker: length", marker_length),
    ("link marker: tag", |s| s.link(|text| flipped(text, 55), "the tag is wrong")),
    ("link marker: id", |s| s.link(|text| flipped(text, 20), "the tag is wrong")),
    ("link marker: epoch", |s| s.link(|text| flipped(text, 8), "sealed in epoch")),
    ("link marker: version", |s| s.link(|text| text.replace("r1.", "r2."), "no marker")),
    ("link marker: length", |s| s.link(|text| text[..52].to_owned(), "no marker")),
    ("link marker: longer", |s| s.link(|text| text.to_owned() + "AAAA", "no marker")),
    ("link marker: letters", |s| s.link(|text| text.replace(&text[20..21], "+"), "not base64url")),
    ("link marker: a way out", |s| s.link(|_| "/etc/passwd".to_owned(), "no marker")),
    ("marker of another directory", marker_of_another),
    ("another directory as root", another_root),
    ("a name changed", |s| s.rename("size 1", changed_name, "does not open")),
    ("a name in another directory", |s| {
        s.rename("size 1", |name, other| format!("{other}/{name}"), "does not open")
    }),
    ("a foreign name", |s| s.rename("size 1", |name, _| format!("tree/{name}.bak"), "not ours")),
    ("sidecar changed", sidecar_changed),
    ("sidecars exchanged", sidecars_exchanged),
    ("sidecar gone", sidecar_gone),
    ("header: magic", |s| s.flip_file("size 1", 0, "not a stored file")),
    ("header: version", |s| s.flip_file("size 1", 8, "version 0")),
    ("header: block size", |s| s.flip_file("size 1", 10, "does not open")),
    ("header: reserved", |s| s.flip_file("size 1", 11, "reserved bytes 11")),
    ("header: reserved too", |s| s.flip_file("size 1", 15, "reserved bytes 11, 14 and 15")),
    ("header: payload_len", |s| s.flip_file("size 1", 12, "does not open")),
    ("header: epoch", |s| s.flip_file("size 1", 17, "sealed in epoch 257")),
    ("header: file id", |s| s.flip_file("size 1", 20, "file key: does not open")),
    ("header: file key", |s| s.flip_file("size 1", 95, "file key: does not open")),
    ("header: nonce", |s| s.flip_file("size 1", 96, "does not open")),
    ("header: tag", |s| s.flip_file("size 1", 123, "does not open")),
    ("header: inline content", |s| s.flip_file("size 1", 140, "does not open")),
    ("header: entries", |s| s.flip_file("size 4096", 140, "does not open")),
    ("inline file cut", |s| s.cut("size 1", 140)),
    ("file cut to nothing", |s| s.cut("size 1", 0)),
    ("file cut", |s| s.cut("size 4096", 20479)),
    ("hole at the end cut", |s| s.cut("one run, all of it a hole", RUN - 1)),
    ("block", |s| s.flip_file("size 4096", 16384 + 1000, "block 0 at 16384: does not open")),
    ("block zeroed", block_zeroed),
    ("blocks exchanged", |s| s.exchange(DEEP, block(767), block(768), "block 767")),
    ("node of level 0", |s| s.flip_file(DEEP, node(0, 5) + 3583, "node 0,5")),
    ("node of level 1", |s| s.flip_file(DEEP, node(1, 1), "node 1,1")),
    ("nodes exchanged", |s| s.exchange(DEEP, node(0, 5), node(0, 6), "node 0,5")),
    ("three levels", |s| s.flip_file("three levels", node(2, 1), "node 2,1")),
    ("link changed", link_changed),
    ("link replaced", link_replaced),
    ("far link changed", far_link_changed),
    ("far link gone", far_link_gone),
    ("attribute changed", attribute_changed),
    ("attribute of another file", attribute_of_another),
    ("attribute under another name", attribute_renamed),
];

/// What may be done, since nothing looks at it.
pub(crate) fn change_what_is_unused(subject: &Subject<'_>) {
    for at in [3724, node(0, 5) + 3584, node(2, 0), block(3), node(0, 3)] {
        let (file, _) = subject.open(DEEP);
        file.write_all_at(b"unused", at).unwrap();
    }
    fs::write(subject.store.join("tree/orphan.name"), b"of nothing").unwrap();
    fs::write(subject.store.join("links/orphan"), b"of nothing").unwrap();
    fs::write(subject.store.join("volume.json.new"), b"{").unwrap();
    set_xattr(&subject.path("size 1"), "user.foreign", b"foreign");
}

fn block(index: u64) -> u64 {
    16384 * (index / 128 + 1) + index * BLOCK
}

fn node(level: u32, index: u64) -> u64 {
    index * 128_u64.pow(level) * RUN + 4096 * (1 + u64::from(level))
}

fn long_name(index: usize) -> String {
    "n".repeat(LONG[index])
}

impl Subject<'_> {
    fn stored(&self, path: &str) -> String {
        self.stored.get(path).unwrap_or_else(|| panic!("{path} is not in the volume")).clone()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.store.join(self.stored(path))
    }

    fn open(&self, path: &str) -> (fs::File, String) {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path(path)).unwrap();
        (file, self.stored(path))
    }

    fn describe(&self, old: &str, new: &str, why: &'static str) -> Refused {
        let path = self.store.join("volume.json");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(old).count(), 1, "{old}");
        fs::write(path, text.replace(old, new)).unwrap();
        vec![("volume.json".to_owned(), why)]
    }

    /// Flips a bit of a stored file.
    fn flip(&self, stored: &str, at: usize, why: &'static str) -> Refused {
        let path = self.store.join(stored);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
        vec![(stored.to_owned(), why)]
    }

    /// Makes the marker of the root a link, with a text made of the right one.
    fn link(&self, change: impl FnOnce(&str) -> String, why: &'static str) -> Refused {
        let path = self.store.join("tree/dir.cmkfs");
        other_form(&path);
        let text = fs::read_link(&path).unwrap().to_str().unwrap().to_owned();
        fs::remove_file(&path).unwrap();
        symlink(change(&text), path).unwrap();
        vec![("tree/dir.cmkfs".to_owned(), why)]
    }

    /// Flips a bit of the stored file of a plaintext path, however long that file is.
    fn flip_file(&self, path: &str, at: u64, why: &'static str) -> Refused {
        let (file, stored) = self.open(path);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        vec![(stored, why)]
    }

    fn cut(&self, path: &str, len: u64) -> Refused {
        let (file, stored) = self.open(path);
        assert!(len < file.metadata().unwrap().len());
        file.set_len(len).unwrap();
        vec![(stored, "")]
    }

    /// Exchanges a page of a file with another.
    fn exchange(&self, path: &str, one: u64, other: u64, why: &'static str) -> Refused {
        let (file, stored) = self.open(path);
        let (mut first, mut second) = ([0; 3584], [0; 3584]);
        file.read_exact_at(&mut first, one).unwrap();
        file.read_exact_at(&mut second, other).unwrap();
        assert!(first != second && first != [0; 3584] && second != [0; 3584]);
        file.write_all_at(&first, other).unwrap();
        file.write_all_at(&second, one).unwrap();
        vec![(stored, why)]
    }

    /// Renames an object from `tree`; `new` gets its name, and the path of another directory.
    fn rename(&self, path: &str, new: fn(&str, &str) -> String, why: &'static str) -> Refused {
        let stored = self.stored(path);
        let renamed = new(stored.strip_prefix("tree/").unwrap(), &self.stored("nested"));
        fs::rename(self.path(path), self.store.join(&renamed)).unwrap();
        vec![(renamed, why)]
    }

    fn sidecar(&self, index: usize) -> String {
        self.stored(&long_name(index)).replace(".long", ".name")
    }
}

fn changed_name(name: &str, _: &str) -> String {
    let first = if name.starts_with('A') { 'B' } else { 'A' };
    format!("tree/{first}{}", &name[1..])
}

/// Everybody can compute what the `mac` is over, so that it comes first.
fn epoch_key(subject: &Subject<'_>) -> Refused {
    let text = fs::read_to_string(subject.store.join("volume.json")).unwrap();
    let (_, epochs) = text.split_once("\"epochs\"").unwrap();
    let (_, wrapped) = epochs.split_once("\"wrapped\": \"").unwrap();
    let old = &wrapped[..20];
    let new = if let Some(rest) = old.strip_prefix('A') {
        format!("B{rest}")
    } else {
        format!("A{}", &old[1..])
    };
    subject.describe(old, &new, "the mac is wrong")
}

/// A marker in the other of its two forms.
pub(crate) fn other_form(path: &Path) {
    let told = b"cmkdir\n\0\x01\0\0\0";
    let link = fs::read_link(path);
    let file = fs::read(path);
    fs::remove_file(path).unwrap();
    match (link, file) {
        (Ok(text), _) => {
            let fields = text.to_str().unwrap().strip_prefix("cmkdir1.").unwrap();
            let fields = BASE64URL_NOPAD.decode(fields.as_bytes()).unwrap();
            fs::write(path, [&told[..], &fields].concat()).unwrap();
        }
        (Err(_), bytes) => {
            let bytes = bytes.unwrap();
            let fields = BASE64URL_NOPAD.encode(bytes.strip_prefix(told).unwrap());
            symlink(format!("cmkdir1.{fields}"), path).unwrap();
        }
    }
}

/// Text with another base64url character in one place; in the last too, as no bits are unused.
fn flipped(text: &str, at: usize) -> String {
    let other = if &text[at..=at] == "B" { "C" } else { "B" };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

fn marker_length(subject: &Subject<'_>) -> Refused {
    let path = subject.store.join("tree/dir.cmkfs");
    let marker = fs::read(&path).unwrap();
    fs::write(path, &marker[..47]).unwrap();
    vec![("tree/dir.cmkfs".to_owned(), "47 bytes, not 48")]
}

/// It is authentic: what it makes unreadable are the names.
fn marker_of_another(subject: &Subject<'_>) -> Refused {
    let nested = subject.stored("nested");
    let marker = format!("{nested}/dir.cmkfs");
    fs::copy(subject.store.join("tree/dir.cmkfs"), subject.store.join(marker)).unwrap();
    let inside = |stored: &&String| {
        stored.strip_prefix(&format!("{nested}/")).is_some_and(|name| !name.contains('/'))
    };
    let refusal = |stored: &String| (stored.clone(), "does not open");
    let mut refused: Refused = subject.stored.values().filter(inside).map(refusal).collect();
    assert!(refused.len() >= 4);
    // And the attribute that is bound to the directory's id.
    refused.push((nested, "attribute user.cmkfs."));
    refused
}

fn another_root(subject: &Subject<'_>) -> Refused {
    fs::rename(subject.store.join("tree"), subject.store.join("old")).unwrap();
    let nested = subject.stored("nested").replace("tree", "old");
    fs::rename(subject.store.join(nested), subject.store.join("tree")).unwrap();
    vec![("tree".to_owned(), "not the root directory")]
}

fn sidecar_changed(subject: &Subject<'_>) -> Refused {
    subject.flip(&subject.sidecar(0), 100, "");
    vec![(subject.stored(&long_name(0)), "does not open")]
}

fn sidecars_exchanged(subject: &Subject<'_>) -> Refused {
    let [one, other] = [0, 1].map(|index| subject.store.join(subject.sidecar(index)));
    let (first, second) = (fs::read(&one).unwrap(), fs::read(&other).unwrap());
    fs::write(one, second).unwrap();
    fs::write(other, first).unwrap();
    [0, 1].map(|index| (subject.stored(&long_name(index)), "the name belongs at")).into()
}

fn sidecar_gone(subject: &Subject<'_>) -> Refused {
    fs::remove_file(subject.store.join(subject.sidecar(1))).unwrap();
    vec![(subject.sidecar(1), "No such file")]
}

fn block_zeroed(subject: &Subject<'_>) -> Refused {
    let (file, stored) = subject.open("size 4096");
    file.write_all_at(&[0; 4096], 16384).unwrap();
    vec![(stored, "block 0 at 16384: does not open")]
}

fn relink(subject: &Subject<'_>, path: &str, target: &str, why: &'static str) -> Refused {
    fs::remove_file(subject.path(path)).unwrap();
    symlink(target, subject.path(path)).unwrap();
    vec![(subject.stored(path), why)]
}

fn link_changed(subject: &Subject<'_>) -> Refused {
    let target = fs::read_link(subject.path("link of 1")).unwrap().into_os_string();
    let mut target = target.into_string().unwrap();
    let changed = if &target[20..21] == "A" { "B" } else { "A" };
    target.replace_range(20..21, changed);
    relink(subject, "link of 1", &target, "does not open")
}

fn link_replaced(subject: &Subject<'_>) -> Refused {
    relink(subject, "link of 1", "/etc/passwd", "neither base64url nor a name in links/")
}

fn far_target(subject: &Subject<'_>) -> String {
    let target = fs::read_link(subject.path("link of 4000")).unwrap().into_os_string();
    let target = target.into_string().unwrap();
    format!("links/{}", target.strip_prefix('=').unwrap())
}

fn far_link_changed(subject: &Subject<'_>) -> Refused {
    subject.flip(&far_target(subject), 4000, "");
    vec![(subject.stored("link of 4000"), "does not open")]
}

fn far_link_gone(subject: &Subject<'_>) -> Refused {
    let target = far_target(subject);
    fs::remove_file(subject.store.join(&target)).unwrap();
    vec![(target, "No such file")]
}

/// Names that begin with `prefix`, and values, in order.
pub(crate) fn lower_attributes(path: &Path, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let mut names = [0; 4096];
    let len = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let mut value = [0; 4096];
        let len = rustix::fs::getxattr(path, CString::new(name).unwrap(), &mut value[..]).unwrap();
        (String::from_utf8(name.to_vec()).unwrap(), value[..len].to_vec())
    };
    let mut all: Vec<_> = names.map(read).collect();
    all.retain(|(name, _)| name.starts_with(prefix));
    all.sort();
    all
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// The file has two names, so that it is refused twice.
fn both_names(subject: &Subject<'_>, why: &'static str) -> Refused {
    let other = subject.stored("later directory/old");
    vec![(subject.stored(ATTRIBUTES), why), (other, why)]
}

fn attribute_changed(subject: &Subject<'_>) -> Refused {
    let path = subject.path(ATTRIBUTES);
    let (name, mut value) = lower_attributes(&path, "user.cmkfs.").remove(0);
    value[32] ^= 1;
    set_xattr(&path, &name, &value);
    both_names(subject, ": does not open")
}

fn attribute_of_another(subject: &Subject<'_>) -> Refused {
    let (name, value) = lower_attributes(&subject.path(ATTRIBUTES), "user.cmkfs.").remove(0);
    set_xattr(&subject.path("size 1"), &name, &value);
    vec![(subject.stored("size 1"), ": does not open")]
}

fn attribute_renamed(subject: &Subject<'_>) -> Refused {
    let path = subject.path(ATTRIBUTES);
    let [one, other] =
        [0, 1].map(|index| lower_attributes(&path, "user.cmkfs.").swap_remove(index));
    set_xattr(&path, &one.0, &other.1);
    both_names(subject, ": does not open")
}
