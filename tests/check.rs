//! `cmkfs check`: a whole store is clean, and each kind of damage is found, named and told by the
//! exit code, with the key and without.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;
#[path = "check/stage.rs"]
mod stage;

use std::fs;
use std::os::unix::fs::FileExt;

use desk::Desk;
use stage::{Content, Stage, Told};

/// Another letter of base64url, which keeps the form.
fn another(letter: u8) -> u8 {
    if letter == b'A' { b'B' } else { b'A' }
}

/// What is done to a store, and what a check has to say of it.
struct Case {
    label: &'static str,
    damage: fn(&Stage),
    /// Kind and plaintext path, in the order of the stored paths' kinds.
    with_key: &'static [(&'static str, &'static str)],
    /// Kinds that show without the key.
    without: &'static [&'static str],
}

fn case(
    label: &'static str,
    with_key: &'static [(&'static str, &'static str)],
    without: &'static [&'static str],
    damage: fn(&Stage),
) -> Case {
    Case { label, damage, with_key, without }
}

fn flip(stage: &Stage, path: &str, at: u64) {
    let file = fs::File::options().read(true).write(true).open(stage.stored(path)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn set_len(stage: &Stage, path: &str, len: impl Fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(stage.stored(path)).unwrap();
    file.set_len(len(file.metadata().unwrap().len())).unwrap();
}

fn of_files() -> Vec<Case> {
    vec![
        case("header prefix", &[("header", "/blocks")], &[], |s| flip(s, "blocks", 40)),
        case("magic", &[("header", "/blocks")], &["header"], |s| flip(s, "blocks", 0)),
        case("header payload", &[("header", "/inline")], &[], |s| flip(s, "inline", 130)),
        case("node", &[("blocks", "/nodes")], &[], |s| flip(s, "nodes", 4096 + 100)),
        case("block", &[("blocks", "/blocks")], &[], |s| flip(s, "blocks", 16384 + 4096 + 5)),
        case("cut in a block", &[("cut", "/blocks")], &[], |s| set_len(s, "blocks", |len| len - 1)),
        case("cut in the header", &[("header", "/inline")], &["header"], |s| {
            set_len(s, "inline", |len| len - 1);
        }),
        case("cut to nothing", &[("header", "/blocks")], &["header"], |s| {
            set_len(s, "blocks", |_| 0);
        }),
        case("extended", &[("long", "/inline")], &["long"], |s| {
            set_len(s, "inline", |len| len + 9);
        }),
        case("zeroed", &[("header", "/blocks")], &["header"], |s| {
            let len = s.stored("blocks").metadata().unwrap().len();
            fs::write(s.stored("blocks"), vec![0; usize::try_from(len).unwrap()]).unwrap();
        }),
        case("blocks swapped", &[("blocks", "/blocks")], &[], |s| {
            let mut bytes = fs::read(s.stored("blocks")).unwrap();
            let (one, two) = bytes[16384..].split_at_mut(4096);
            one.swap_with_slice(&mut two[..4096]);
            fs::write(s.stored("blocks"), bytes).unwrap();
        }),
        case("attribute", &[("attribute", "/inline")], &[], |s| {
            s.edit_attribute("inline", |value| value[40] ^= 1);
        }),
        case("attribute of a directory", &[("attribute", "/dir")], &["attribute"], |s| {
            s.edit_attribute("dir", |value| value.truncate(20));
        }),
        case("symlink planted", &[("link", "/inline")], &["link"], |s| {
            let at = s.stored("inline");
            fs::remove_file(&at).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", at).unwrap();
        }),
        // Nothing seals what has no content: a FIFO may stand where a file was.
        case("FIFO planted", &[], &[], |s| {
            let at = s.stored("blocks");
            fs::remove_file(&at).unwrap();
            stage::fifo(&at);
        }),
        case("hard link", &[("header", "/dir/second"), ("header", "/first")], &[], |s| {
            flip(s, "first", 130);
        }),
    ]
}

fn of_names() -> Vec<Case> {
    vec![
        case("marker edited", &[("marker", "/dir")], &["marker"], |s| {
            s.edit_marker("dir", |marker| marker[0] ^= 1);
        }),
        case("tag of a marker", &[("marker", "/dir")], &[], |s| {
            s.edit_marker("dir", |marker| marker[40] = another(marker[40]));
        }),
        case("marker missing", &[("marker", "/dir")], &["marker"], |s| s.remove_marker("dir")),
        case("root's marker", &[("marker", "/")], &[], |s| {
            s.edit_marker("", |marker| marker[40] = another(marker[40]));
        }),
        case("marker of another", &[("marker", "/dir")], &[], |s| s.copy_marker("empty", "dir")),
        case("name edited", &[("name", "/?")], &[], |s| {
            let at = s.stored("inline");
            let name = at.file_name().unwrap().to_str().unwrap();
            let first = if name.starts_with('A') { "B" } else { "A" };
            fs::rename(&at, at.with_file_name(format!("{first}{}", &name[1..]))).unwrap();
        }),
        case("name of another directory", &[("name", "/?")], &[], |s| {
            let at = s.stored("dir/file");
            fs::rename(&at, s.store().join("tree").join(at.file_name().unwrap())).unwrap();
        }),
        case("name and marker", &[("marker", "/?"), ("name", "/?")], &[], |s| {
            s.edit_marker("dir", |marker| marker[40] = another(marker[40]));
            let at = s.stored("dir");
            let name = at.file_name().unwrap().to_str().unwrap();
            let first = if name.starts_with('A') { "B" } else { "A" };
            fs::rename(&at, at.with_file_name(format!("{first}{}", &name[1..]))).unwrap();
        }),
        case("sidecar missing", &[("sidecar", "/?")], &["sidecar"], |s| {
            fs::remove_file(s.sidecar()).unwrap();
        }),
        case("sidecar edited", &[("sidecar", "/?")], &["sidecar"], |s| {
            let mut bytes = fs::read(s.sidecar()).unwrap();
            bytes[20] ^= 1;
            fs::write(s.sidecar(), bytes).unwrap();
        }),
        case("sidecar alone", &[("orphan-sidecar", "/?")], &["orphan-sidecar"], |s| {
            fs::remove_file(s.stored(&s.long_name())).unwrap();
        }),
        case("link text", &[("link", "/link")], &[], |s| {
            s.edit_link("link", |text| text[50] = if text[50] == b'A' { b'B' } else { b'A' });
        }),
        case("link file missing", &[("link", "/long-link")], &["link"], |s| {
            fs::remove_file(s.link_file()).unwrap();
        }),
        case("link file edited", &[("link", "/long-link")], &[], |s| {
            let mut bytes = fs::read(s.link_file()).unwrap();
            bytes[100] ^= 1;
            fs::write(s.link_file(), bytes).unwrap();
        }),
        case("link file alone", &[("orphan-link", "")], &["orphan-link"], |s| {
            fs::remove_file(s.stored("long-link")).unwrap();
        }),
        case("foreign file", &[("foreign", "/dir/?")], &["foreign"], |s| {
            fs::write(s.stored("dir").join("notes.txt"), b"of somebody else").unwrap();
        }),
        case("foreign file in links", &[("foreign", "")], &["foreign"], |s| {
            fs::write(s.store().join("links/notes.txt"), b"of somebody else").unwrap();
        }),
        case("interrupted", &[("leftover", "")], &["leftover"], |s| {
            fs::write(s.store().join("volume.json.new"), b"{").unwrap();
        }),
    ]
}

/// A temporary name, as a directory has it that is being made or removed.
fn temporary(digit: &str) -> String {
    format!("{}.temp", digit.repeat(32))
}

fn of_temporary_names() -> Vec<Case> {
    vec![
        case("directory being made", &[("leftover", "/?")], &["leftover"], |s| {
            fs::create_dir(s.store().join("tree").join(temporary("a"))).unwrap();
        }),
        case("directories being removed", &[("leftover", "/dir/?")], &["leftover"], |s| {
            let (empty, at) = (s.stored("empty"), s.stored("dir").join(temporary("b")));
            let inner = at.join(temporary("c"));
            fs::create_dir_all(&inner).unwrap();
            for dir in [&at, &inner] {
                let marker = fs::read_link(empty.join("dir.cmkfs")).unwrap();
                std::os::unix::fs::symlink(marker, dir.join("dir.cmkfs")).unwrap();
            }
            let sidecar = s.sidecar();
            fs::copy(&sidecar, at.join(sidecar.file_name().unwrap())).unwrap();
            fs::write(inner.join(sidecar.file_name().unwrap()), b"").unwrap();
        }),
        // A crash leaves no objects there: somebody has hidden them.
        case("directory hidden", &[("foreign", "/?")], &["foreign"], |s| {
            fs::rename(s.stored("dir"), s.store().join("tree").join(temporary("d"))).unwrap();
        }),
        case("file hidden", &[("foreign", "/dir/?")], &["foreign"], |s| {
            fs::rename(s.stored("blocks"), s.stored("dir").join(temporary("e"))).unwrap();
        }),
        case(
            "file hidden deeper",
            &[("foreign", "/?"), ("foreign", "/?/?")],
            &["foreign"; 2],
            |s| {
                let at = s.store().join("tree").join(temporary("f"));
                fs::create_dir(&at).unwrap();
                fs::rename(s.stored("inline"), at.join(temporary("0"))).unwrap();
            },
        ),
        case(
            "file hidden as a sidecar",
            &[("foreign", "/?"), ("orphan-sidecar", "/?/?")],
            &["foreign", "orphan-sidecar"],
            |s| {
                let at = s.store().join("tree").join(temporary("f"));
                fs::create_dir(&at).unwrap();
                let sidecar = s.sidecar();
                fs::rename(s.stored("inline"), at.join(sidecar.file_name().unwrap())).unwrap();
            },
        ),
    ]
}

fn all_cases() -> impl Iterator<Item = Case> {
    of_files().into_iter().chain(of_names()).chain(of_temporary_names())
}

fn kinds(told: &Told) -> Vec<(String, String)> {
    let mut kinds: Vec<_> =
        told.findings.iter().map(|found| (found.kind.clone(), found.path.clone())).collect();
    kinds.sort();
    kinds
}

fn harmless(kind: &str) -> bool {
    matches!(kind, "long" | "orphan-sidecar" | "orphan-link" | "leftover")
}

#[test]
fn a_whole_store_is_clean_with_the_key_and_without() {
    let stage = Stage::new();
    for flags in ["", "--threads 1", "--threads 4", "--no-key"] {
        let told = stage.check(flags);
        assert_eq!(kinds(&told), [], "{flags}");
        assert_eq!(told.code, 0, "{flags}");
        assert_eq!((told.directories, told.files, told.links, told.others), (4, 10, 2, 2));
    }
}

#[test]
fn each_damage_is_found_and_named() {
    let stage = Stage::new();
    for case in all_cases() {
        stage.restore();
        (case.damage)(&stage);
        let told = stage.check("");
        let found = kinds(&told);
        let found: Vec<(&str, &str)> = found.iter().map(|(k, p)| (&k[..], &p[..])).collect();
        assert_eq!(found, case.with_key, "{}", case.label);
        let all_harmless = case.with_key.iter().all(|(kind, _)| harmless(kind));
        assert_eq!(told.code, if all_harmless { 0 } else { 42 }, "{}", case.label);
        for found in &told.findings {
            let there = fs::symlink_metadata(stage.store().join(&found.stored)).is_ok();
            assert!(there, "{}: {}", case.label, found.stored);
        }
        let told = stage.check("--no-key");
        let found: Vec<String> = kinds(&told).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(found, case.without, "{} without the key", case.label);
    }
}

#[test]
fn damaged_ranges_are_told() {
    let stage = Stage::new();
    flip(&stage, "blocks", 16384 + 4096 + 5);
    assert_eq!(stage.check("").findings[0].ranges, [(4096, 8192)]);
    stage.restore();
    flip(&stage, "nodes", 4096 + 100);
    assert_eq!(stage.check("").findings[0].ranges, [(0, 128 * 4096)]);
    stage.restore();
    set_len(&stage, "blocks", |len| len - 1);
    assert_eq!(stage.check("").findings[0].ranges, [(16384, 20_000)]);
}

#[test]
fn a_description_that_was_edited_is_refused() {
    let stage = Stage::new();
    let path = stage.store().join("volume.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"created_unix_s\": 1", "\"created_unix_s\": 2")).unwrap();
    stage.desk.refused("check store", 14, &["volume.json"]);
}

#[test]
fn a_mount_is_in_a_repairs_way_and_in_no_checks() {
    let desk = Desk::new();
    desk.mounted();
    desk.refused("check store --repair", 35, &["mnt"]);
    desk.ok("check store");
    desk.ok("umount mnt");
    desk.ok("mount --read-only store mnt");
    desk.ok("check store");
}

/// What of the volume as it was can't be found where it was. Lost is what is nowhere.
fn missing(before: &Content, after: &Content) -> Vec<String> {
    let kept = |content: &Option<Vec<u8>>| {
        let lost = after.iter().filter(|(path, _)| path.starts_with("/lost+found/"));
        lost.into_iter().any(|(_, other)| other == content)
    };
    before
        .iter()
        .filter(|(path, content)| after.get(*path) != Some(content) && !kept(content))
        .map(|(path, _)| path.clone())
        .collect()
}

#[test]
fn a_repair_loses_nothing_and_leaves_a_clean_store() {
    let stage = Stage::new();
    let before = stage.content();
    for case in all_cases() {
        let label = case.label;
        stage.restore();
        (case.damage)(&stage);
        let unread: Vec<&str> = case.with_key.iter().map(|(_, path)| *path).collect();
        let stays = case.with_key.iter().any(|(kind, _)| matches!(*kind, "blocks" | "cut"));
        let told = stage.check("--repair");
        assert_eq!(told.code, if stays { 42 } else { 0 }, "{label}: {told:?}");
        let again = stage.check("");
        let wanted: Vec<_> = match stays {
            true => unread.iter().map(|path| ("blocks".to_owned(), (*path).to_owned())).collect(),
            false => vec![],
        };
        assert_eq!(kinds(&again), wanted, "{label}");
        let after = stage.content();
        let missing = missing(&before, &after);
        let may_miss = |path: &String| {
            unread.contains(&path.as_str())
                || ["link file alone", "sidecar alone", "FIFO planted"].contains(&label)
        };
        assert!(missing.iter().all(may_miss), "{label}: {missing:?} in {after:?}");
        if !told.findings.is_empty() {
            let report = after.keys().any(|path| path.starts_with("/lost+found/report-"));
            assert!(report, "{label}");
        }
        // A second run finds nothing more to do.
        stage.check("--repair");
        let reports = |path: &&String| !path.starts_with("/lost+found/report-");
        let (after, second) = (after.keys(), stage.content());
        assert_eq!(
            after.filter(reports).collect::<Vec<_>>(),
            second.keys().filter(reports).collect::<Vec<_>>(),
            "{label}"
        );
    }
}

#[test]
fn a_mounted_volume_is_not_repaired() {
    let desk = Desk::new();
    desk.mounted();
    desk.refused("check store --repair", 35, &["mounted at", "mnt"]);
}
