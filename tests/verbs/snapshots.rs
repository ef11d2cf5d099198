//! Snapshots by the real program: of volumes in use, incremental, interrupted, tampered with.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::Value;

use super::*;

/// Files of the tree that `plant` makes, besides one of several runs.
const FILES: usize = 300;

/// A volume with a tree of small files and one of 6 MiB, mounted at `mnt`.
fn planted() -> Desk {
    let desk = Desk::new();
    desk.mounted();
    for number in 0..FILES {
        let dir = desk.dir(&format!("mnt/dir-{}", number % 7));
        fs::write(dir.join(number.to_string()), bytes(number, 2000 + 97 * number)).unwrap();
    }
    fs::write(desk.at("mnt/large"), bytes(1000, 6 << 20)).unwrap();
    desk
}

/// Bytes that tell where they are from.
fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((seed * 31 + at * 7 + at / 251) % 256).unwrap()).collect()
}

fn create(desk: &Desk, volume: &str) -> Value {
    let told = desk.ok(&format!("snapshot create {volume} target --json"));
    serde_json::from_str(&told).unwrap()
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} in {value}"))
}

/// Every file below, by its path.
fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in dir.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let below = path.strip_prefix(root).unwrap().to_owned();
                found.insert(below, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// What is in the volume of a store, by way of a mount.
fn read_back(desk: &Desk, store: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    desk.dir("back");
    desk.ok(&format!("mount {store} back"));
    let found = contents(&desk.at("back"));
    desk.ok("umount back");
    found
}

#[test]
fn what_is_unchanged_is_neither_read_nor_sent() {
    let desk = planted();
    let first = create(&desk, "mnt");
    assert_eq!(first["parent"], Value::Null);
    let whole = number(&first, "bytes");
    assert!(number(&first, "sent_bytes") >= whole, "{first}");
    // Three small files, and 10 bytes in the third run of the large one.
    for name in ["dir-0/0", "dir-3/10", "dir-6/20"] {
        fs::write(desk.at("mnt").join(name), "changed").unwrap();
    }
    let large = fs::File::options().write(true).open(desk.at("mnt/large")).unwrap();
    large.write_all_at(b"ten bytes!", 5 << 20).unwrap();
    drop(large);
    let second = create(&desk, "mnt");
    assert_eq!(second["parent"], first["id"]);
    // The run has 2 MiB, and headers are looked at twice.
    let most = (2 << 20) + (256 << 10);
    assert!(number(&second, "sent_bytes") < most, "{second}");
    assert!(number(&second, "read_bytes") < most, "{second}");
    let third = create(&desk, "mnt");
    assert_eq!(number(&third, "sent_bytes"), 0, "nothing changed: {third}");
    let wanted = contents(&desk.at("mnt"));
    desk.ok("umount mnt");
    let stopped = create(&desk, "store");
    assert!(number(&stopped, "sent_bytes") < 64 << 10, "{stopped}");
    for (at, id) in [(0, &first), (1, &second), (2, &third), (3, &stopped)] {
        let id = id["id"].as_str().unwrap();
        desk.ok(&format!("snapshot verify target --id {id}"));
        desk.ok(&format!("snapshot restore target again-{at} --id {id}"));
        desk.ok(&format!("check again-{at}"));
        let found = read_back(&desk, &format!("again-{at}"));
        assert_eq!(found == wanted, at > 0, "{at}");
        assert_eq!(found.len(), FILES + 1);
    }
}

#[test]
fn what_was_sent_for_an_interrupted_snapshot_is_not_sent_again() {
    let desk = planted();
    desk.ok("umount mnt");
    let first = create(&desk, "store");
    let (volume, id) = (first["volume_id"].as_str().unwrap(), first["id"].as_str().unwrap());
    fs::remove_file(desk.at(&format!("target/{volume}/snapshots/{id}"))).unwrap();
    fs::write(desk.at(&format!("target/{volume}/objects/.new-torn")), "x").unwrap();
    assert!(desk.ok("snapshot list target --json").contains("[]"), "a torn one is none");
    let again = create(&desk, "store");
    assert_eq!(number(&again, "sent_bytes"), 0, "{again}");
    desk.ok("snapshot verify target");
}

#[test]
fn killed_at_any_moment_and_run_again_they_end_as_undisturbed() {
    let desk = planted();
    let wanted = contents(&desk.at("mnt"));
    desk.ok("umount mnt");
    let began = std::time::Instant::now();
    let undisturbed = create(&desk, "store");
    let took = began.elapsed();
    desk.ok("snapshot restore target undisturbed");
    let volume = undisturbed["volume_id"].as_str().unwrap();
    fs::remove_dir_all(desk.at("target").join(volume)).unwrap();
    let kill_after = |args: &str, part: u32| {
        let mut child = desk.command(args).stdout(Stdio::null()).spawn().unwrap();
        // Where in its work it dies is up to the machine; wherever it is has to do.
        std::thread::sleep(took * part / 10);
        child.kill().unwrap();
        child.wait().unwrap();
    };
    for part in 0..10 {
        kill_after("snapshot create store target", part);
        let listed: Value =
            serde_json::from_str(&desk.ok("snapshot list target --json")).unwrap_or_default();
        for snapshot in listed["snapshots"].as_array().into_iter().flatten() {
            desk.ok(&format!("snapshot verify target --id {}", snapshot["id"].as_str().unwrap()));
        }
    }
    create(&desk, "store");
    for part in 0..10 {
        kill_after("snapshot restore target again", part);
        if desk.at("again/volume.json").exists() {
            break;
        }
        let code = if desk.at("again").exists() { 11 } else { 10 };
        desk.refused("ls again:/", code, &[]);
    }
    if !desk.at("again/volume.json").exists() {
        desk.ok("snapshot restore target again");
    }
    assert!(read_back(&desk, "again") == wanted);
    assert!(!desk.at("again/restoring.cmkfs").exists());
    let newest = create(&desk, "store");
    kill_after("snapshot prune target --keep 1", 1);
    let newest = newest["id"].as_str().unwrap();
    desk.ok(&format!("snapshot verify target --id {newest}"));
    desk.ok("snapshot prune target --keep 1");
    let nothing: Value =
        serde_json::from_str(&desk.ok("snapshot prune target --keep 1 --json")).unwrap();
    assert_eq!((number(&nothing, "objects"), &nothing["kept"][0]), (0, &newest.into()));
    desk.ok("snapshot verify target");
}

/// Objects of the target that are not tops.
fn objects(desk: &Desk) -> Vec<PathBuf> {
    let names = contents(&desk.at("target")).into_keys();
    names.filter(|path| path.to_string_lossy().contains("/objects/")).collect()
}

#[test]
fn a_hostile_target_is_refused_by_the_name_of_the_object() {
    let desk = planted();
    let first = create(&desk, "mnt");
    fs::write(desk.at("mnt/dir-1/1"), "newer").unwrap();
    let second = create(&desk, "mnt");
    desk.ok("umount mnt");
    let objects = objects(&desk);
    assert!(objects.len() >= 6, "{objects:?}");
    let mut damaged = 0;
    for (at, path) in objects.iter().enumerate() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let file = desk.at("target").join(path);
        let kept = fs::read(&file).unwrap();
        let other = fs::read(desk.at("target").join(&objects[(at + 1) % objects.len()])).unwrap();
        let (mut edited, mut longer) = (kept.clone(), kept.clone());
        let middle = edited.len() / 2;
        edited[middle] ^= 1;
        longer.truncate(kept.len() - 1);
        for bytes in [Some(edited), Some(other), Some(longer), None] {
            match bytes {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let output = desk.command("snapshot verify target").output().unwrap();
            if output.status.code() != Some(0) {
                judge("verify", &output, 52, &[]);
                assert!(String::from_utf8_lossy(&output.stdout).contains(&name), "{output:?}");
                desk.refused("snapshot restore target new", 52, &[&name]);
                damaged += 1;
            }
            fs::write(&file, &kept).unwrap();
        }
    }
    assert!(damaged >= 4 * (objects.len() - 4), "{damaged} of {}", objects.len());
    let top = |value: &Value| {
        let (volume, id) = (value["volume_id"].as_str().unwrap(), value["id"].as_str().unwrap());
        desk.at(&format!("target/{volume}/snapshots/{id}"))
    };
    let (old, new) = (fs::read(top(&first)).unwrap(), fs::read(top(&second)).unwrap());
    // An older one in the place of a newer.
    fs::write(top(&second), &old).unwrap();
    let id = second["id"].as_str().unwrap();
    desk.refused("snapshot restore target new", 52, &[id, "in the place of another"]);
    for at in [3, 40, new.len() / 3, new.len() / 2, new.len() - 1] {
        let mut edited = new.clone();
        edited[at] ^= 1;
        fs::write(top(&second), &edited).unwrap();
        let output = desk.command("snapshot restore target new").output().unwrap();
        // In `volume.json`, it may look like another key, or one of a later release.
        let code = output.status.code().filter(|code| *code > 2).unwrap();
        judge("restore", &output, code, &[id]);
        assert!(!desk.at("new").exists());
    }
    fs::write(top(&second), &new).unwrap();
    // The top of another volume's snapshot under the name of this one.
    desk.ok("init other --key local:other-key");
    let foreign = desk.ok("snapshot create other target --json");
    let foreign: Value = serde_json::from_str(&foreign).unwrap();
    let volume = second["volume_id"].as_str().unwrap();
    let stray = desk.at(&format!("target/{volume}/snapshots/{}", foreign["id"].as_str().unwrap()));
    fs::copy(top(&foreign), &stray).unwrap();
    desk.refused("snapshot restore target new --id snap-none", 51, &["no snapshot snap-none"]);
    let id = foreign["id"].as_str().unwrap();
    fs::remove_file(top(&foreign)).unwrap();
    let restore = format!("snapshot restore target new --id {id}");
    desk.refused(&restore, 52, &[id, "in the place of another"]);
}

#[test]
fn what_is_kept_stays_whole_and_what_nobody_needs_goes() {
    let desk = planted();
    let mut ids = Vec::new();
    for round in 0..4 {
        fs::write(desk.at("mnt/dir-2/changing"), bytes(round, 300_000)).unwrap();
        ids.push(create(&desk, "mnt")["id"].as_str().unwrap().to_owned());
    }
    desk.ok("umount mnt");
    let before = objects(&desk);
    // Not even the mark of a writer, which would be refused beside another's.
    let writer = desk.at("target").join(objects(&desk)[0].iter().next().unwrap()).join("writer");
    fs::write(&writer, r#"{"token":"t","host":"elsewhere","machine":"m","pid":7}"#).unwrap();
    let told = desk.ok("snapshot prune target --keep 2 --dry-run");
    fs::remove_file(&writer).unwrap();
    assert!(told.contains(&format!("removed  {}", ids[0])), "{told}");
    assert_eq!(objects(&desk), before, "nothing went");
    desk.ok("snapshot prune target --keep-within 1d");
    let listed = desk.ok("snapshot list target");
    assert!(ids.iter().all(|id| listed.contains(id)), "{listed}");
    // A record of what is to stay can't be read: nothing goes.
    let parts: Vec<_> = before
        .iter()
        .filter(|path| {
            let file = desk.at("target").join(path);
            let kept = fs::read(&file).unwrap();
            fs::write(&file, b"x").unwrap();
            let output = desk.command("snapshot prune target --keep 2 --dry-run").output().unwrap();
            let refused = output.status.code() == Some(52);
            fs::write(&file, kept).unwrap();
            refused
        })
        .collect();
    assert!(!parts.is_empty());
    desk.ok("snapshot prune target --keep 2");
    let listed = desk.ok("snapshot list target");
    let there = ids.iter().map(|id| listed.contains(id)).collect::<Vec<_>>();
    assert_eq!(there, [false, false, true, true], "{listed}");
    assert!(objects(&desk).len() < before.len());
    for id in &ids[2..] {
        desk.ok(&format!("snapshot verify target --id {id}"));
    }
    desk.refused(&format!("snapshot restore target new --id {}", ids[0]), 51, &[&ids[0]]);
}

#[test]
fn a_part_of_a_volume_is_restored_by_its_path() {
    let desk = Desk::new();
    desk.mounted();
    let long = "n".repeat(200);
    fs::create_dir_all(desk.at("mnt").join(&long).join("deep")).unwrap();
    fs::write(desk.at("mnt").join(&long).join("deep/file"), "text").unwrap();
    symlink("t".repeat(4000), desk.at("mnt").join(&long).join("deep/link")).unwrap();
    fs::write(desk.at("mnt").join(&long).join("beside"), "x").unwrap();
    fs::write(desk.at("mnt/other"), "x").unwrap();
    create(&desk, "mnt");
    desk.ok("umount mnt");
    desk.ok(&format!("snapshot restore target part --path /{long}/deep"));
    desk.ok("check part");
    assert_eq!(desk.ok("ls part:/"), format!("{long}\n"));
    assert_eq!(desk.ok(&format!("ls part:/{long}/deep")), "file\nlink\n");
    assert_eq!(desk.ok(&format!("cat part:/{long}/deep/file")), "text");
    assert_eq!(desk.ok(&format!("ls part:/{long}")), "deep\n");
    desk.refused("snapshot restore target new --path /gone", 43, &["\"gone\" is not there"]);
    desk.refused("snapshot restore target new --path /other/x", 43, &["\"other\" is not there"]);
    desk.refused("snapshot restore target new --path a/../b", 43, &["without `..`"]);
}

#[test]
fn a_snapshot_of_a_killed_volume_has_what_was_synced() {
    let desk = planted();
    let mut file = fs::File::options().write(true).open(desk.at("mnt/large")).unwrap();
    file.sync_all().unwrap();
    file.write_all(&[9; 100_000]).unwrap();
    file.sync_all().unwrap();
    end(desk.daemon("store"), Signal::KILL);
    drop(file);
    assert!(Command::new("umount").arg("-l").arg(desk.at("mnt")).status().unwrap().success());
    create(&desk, "store");
    desk.ok("snapshot restore target again");
    let found = read_back(&desk, "again");
    let large = &found[Path::new("large")];
    assert_eq!(large.len(), 6 << 20);
    assert!(large[..100_000].iter().all(|byte| *byte == 9));
    // What is in the journal alone comes with a path, too, and is in nobody's way.
    desk.ok("snapshot restore target part --path /large");
    assert!(read_back(&desk, "part")[Path::new("large")] == *large);
    desk.ok("snapshot restore target beside --path /dir-3");
    assert_eq!(read_back(&desk, "beside").len(), FILES.div_ceil(7));
}

#[test]
fn one_command_writes_to_a_volumes_snapshots_at_a_time() {
    let desk = Desk::new();
    desk.volume();
    let made = create(&desk, "store");
    let writer = desk.at("target").join(made["volume_id"].as_str().unwrap()).join("writer");
    assert!(!writer.exists(), "let go");
    let mark = r#"{"token":"t","host":"elsewhere","machine":"m","pid":7}"#;
    fs::write(&writer, mark).unwrap();
    let wanted = ["process 7 of elsewhere", "15 minutes"];
    desk.refused("snapshot create store target", 53, &wanted);
    desk.refused("snapshot prune target --keep 1", 53, &wanted);
    // To read it takes nobody's leave.
    desk.ok("snapshot verify target");
    desk.ok("snapshot restore target again");
    fs::remove_file(&writer).unwrap();
    create(&desk, "store");
}

#[test]
fn a_snapshot_of_a_volume_in_use_is_of_one_moment() {
    let desk = Desk::new();
    desk.mounted();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Whatever moment it is, `second` has as many lines as `first`, or one fewer.
            let open = |name: &str| fs::File::create(desk.at(name)).unwrap();
            let (mut first, mut second) = (open("mnt/first"), open("mnt/second"));
            let mut count = 0_u32;
            while !ended.load(Ordering::Relaxed) {
                let line = format!("{count:100}\n");
                for file in [&mut first, &mut second] {
                    file.write_all(line.as_bytes()).unwrap();
                }
                fs::write(desk.at("mnt/renamed.new"), count.to_string()).unwrap();
                fs::rename(desk.at("mnt/renamed.new"), desk.at("mnt/renamed")).unwrap();
                count += 1;
            }
        });
        await_that("it writes", || desk.at("mnt/renamed").exists());
        for _ in 0..5 {
            desk.ok("snapshot create mnt target");
        }
        ended.store(true, Ordering::Relaxed);
    });
    desk.ok("umount mnt");
    let list = desk.ok("snapshot list target --json");
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let ids = list["snapshots"].as_array().unwrap();
    assert_eq!(ids.len(), 5);
    let mut last = 0;
    for id in ids {
        let id = id["id"].as_str().unwrap();
        desk.ok(&format!("snapshot restore target {id} --id {id}"));
        let lines = |name: &str| {
            let text = desk.ok(&format!("cat {id}:/{name}"));
            assert!(text.len().is_multiple_of(101), "{name} is torn at {}", text.len());
            text.lines().count()
        };
        let (first, second) = (lines("first"), lines("second"));
        assert!(first == second || first == second + 1, "{first} {second}");
        assert!(first >= last, "older than the one before");
        last = first;
    }
    assert!(last > 0);
}

#[test]
fn a_snapshot_keeps_what_the_volume_keeps() {
    let desk = Desk::new();
    desk.mounted();
    furnish(&desk.at("mnt"));
    fs::hard_link(desk.at("mnt/a/small"), desk.at("mnt/a/hard")).unwrap();
    let deep = vec!["d".repeat(200); 12].join("/");
    fs::create_dir_all(desk.at("mnt/a").join(&deep)).unwrap();
    furnish(&desk.at("plain"));
    let id = desk.ok("stop mnt --snapshot target");
    assert!(id.contains("snap-"), "{id}");
    assert!(!desk.is_mounted("mnt"));
    desk.ok("snapshot restore target again");
    desk.ok("mount again mnt");
    let hard = desk.at("mnt/a/hard").metadata().unwrap();
    assert_eq!((hard.nlink(), hard.ino()), (2, desk.at("mnt/a/small").metadata().unwrap().ino()));
    assert!(desk.at("mnt/a").join(&deep).is_dir());
    fs::remove_file(desk.at("mnt/a/hard")).unwrap();
    fs::remove_dir_all(desk.at("mnt/a").join("d".repeat(200))).unwrap();
    assert_same_tree(&desk.at("plain/a"), &desk.at("mnt/a"));
    desk.ok("umount mnt");
}

#[test]
fn a_volume_whose_key_is_not_there_is_not_stopped_without_its_snapshot() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    fs::write(desk.at("key"), [7; 32]).unwrap();
    fs::set_permissions(desk.at("key"), fs::Permissions::from_mode(0o600)).unwrap();
    desk.ok("init store --key file:key");
    desk.dir("mnt");
    desk.ok("mount store mnt");
    fs::write(desk.at("mnt/file"), "content").unwrap();
    fs::rename(desk.at("key"), desk.at("away")).unwrap();
    let refused = desk.command("stop store --snapshot target").output().unwrap();
    assert!(!refused.status.success(), "{}", desk::said(&refused));
    assert_eq!(fs::read(desk.at("mnt/file")).unwrap(), b"content", "it is mounted still");
    desk.ok("stop store --snapshot target --key file:away");
    assert!(!desk.at("mnt/file").exists());
    assert!(desk.ok("snapshot list target").contains("snap-"));
}

#[test]
fn what_is_damaged_in_the_target_is_sent_again_where_that_is_asked_for() {
    let desk = planted();
    desk.ok("umount mnt");
    create(&desk, "store");
    let objects = objects(&desk);
    for path in &objects {
        let file = desk.at("target").join(path);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
    }
    // Without, it counts on names.
    let blind = create(&desk, "store");
    assert_eq!(number(&blind, "repaired_objects"), 0, "{blind}");
    let output = desk.command("snapshot verify target").output().unwrap();
    judge("verify", &output, 52, &[]);
    let told = desk.ok("snapshot create store target --json --repair");
    let repaired: Value = serde_json::from_str(&told).unwrap();
    let count = number(&repaired, "repaired_objects");
    // Nothing else changed, so that all of them are made as they were.
    assert_eq!(count, objects.len() as u64, "{repaired}");
    for id in [&blind["id"], &repaired["id"]] {
        desk.ok(&format!("snapshot verify target --id {}", id.as_str().unwrap()));
    }
    let told = desk.ok("snapshot create store target --json --repair");
    assert!(told.contains("\"repaired_objects\":0") || told.contains("\"repaired_objects\": 0"));
}

#[test]
fn what_is_missing_of_the_snapshot_before_is_sent_again() {
    let desk = planted();
    create(&desk, "mnt");
    let objects: Vec<PathBuf> = contents(&desk.at("target"))
        .into_keys()
        .filter(|path| path.components().any(|part| part.as_os_str() == "objects"))
        .collect();
    assert!(objects.len() > 1, "{objects:?}");
    for path in &objects {
        fs::remove_file(desk.at("target").join(path)).unwrap();
    }
    let again = create(&desk, "mnt");
    assert!(number(&again, "sent_bytes") > 6 << 20, "{again}");
    let newest = again["id"].as_str().unwrap();
    desk.ok(&format!("snapshot verify target --id {newest}"));
}
