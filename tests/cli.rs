//! Bad input to the real program: each cause has its own exit code, says what was found and what
//! to do, and changes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use desk::{CMKFS, Desk, flip, judge};
use rustix::process::Signal;

#[test]
fn wrong_usage_is_2_and_names_what_is_wrong() {
    let desk = Desk::new();
    desk.volume();
    for (args, part) in [
        ("", "Usage"),
        ("frobnicate", "frobnicate"),
        ("start store", "start"),
        ("lock", "VOLUME"),
        ("check store --threads 0", "1 to 64"),
        ("key rotate store --rewrap --reencrypt", "--reencrypt"),
        ("key remove store x", "invalid value"),
        ("key add store", "--new"),
        ("mount store", "MOUNTPOINT"),
        ("mount store mnt --frob", "--frob"),
        ("mount store mnt --root .", "--role"),
        ("mount store mnt --role training", "--role"),
        ("mount store mnt -o ro,frob", "known are ro, rw"),
        ("mount store mnt --cache-size 1M", "at least 4M"),
        ("mount store mnt --threads 0", "1 to 64"),
        ("init new --block-size 12K", "4K, 8K, 16K, 32K or 64K"),
        ("init new --context team", "KEY=VALUE"),
        ("init new --context a=1 --context a=2", "given twice"),
        ("init new --context aws:x=1", "aws:"),
        ("run --role trainer -- true", "notebook, processing"),
        ("run --role training", "COMMAND"),
        ("cat store", "VOLUME:PATH"),
        ("snapshot drop store", "drop"),
        ("stop", "VOLUME"),
        ("key", "policy"),
        ("key policy --for unmount", "init, mount, add, rotate, rewrap"),
        ("key policy --role Train", "arn:aws:iam::ACCOUNT:role/NAME"),
        ("doctor --root .", "--role"),
        ("doctor --context aws:x=1", "aws:"),
    ] {
        desk.refused(args, 2, &[part]);
    }
}

#[test]
fn help_and_version_are_no_errors() {
    let desk = Desk::new();
    let version = format!("cmkfs {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(desk.ok("--version"), version);
    let help = desk.ok("--help");
    for verb in
        ["init", "mount", "umount", "status", "run", "snapshot", "terminate", "key", "doctor"]
    {
        assert!(help.contains(verb), "{help}");
    }
    assert!(!help.contains("mount-daemon") && !help.contains("run-child"), "{help}");
}

#[test]
fn what_is_no_store_is_told_apart() {
    let desk = Desk::new();
    desk.dir("mnt");
    desk.dir("empty");
    fs::write(desk.at("file"), "x").unwrap();
    for verb in ["mount gone mnt", "ls gone:/", "status gone", "stop gone", "terminate gone --yes"]
    {
        desk.refused(verb, 10, &["gone", "no such directory"]);
    }
    for verb in ["mount empty mnt", "mount file mnt", "cat empty:/x", "terminate empty --yes"] {
        desk.refused(verb, 11, &["not a cmkfs store"]);
    }
    desk.refused("snapshot create gone target", 10, &["gone"]);
}

#[test]
fn a_volume_json_that_can_not_be_used_is_told_apart() {
    let desk = Desk::new();
    desk.volume();
    let path = desk.at("store/volume.json");
    let text = fs::read_to_string(&path).unwrap();
    let edited = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
    };
    edited("\"version\": 1", "\"version\": 2");
    desk.refused("mount store mnt", 13, &["volume format 2", "this release reads 1"]);
    edited("\"required\": []", "\"required\": [\"warp\"]");
    desk.refused("mount store mnt", 13, &["warp"]);
    edited("\"block_size\": 16384", "\"block_size\": 32768");
    desk.refused("mount store mnt", 14, &["volume.json", "changed"]);
    edited("\"block_size\": 16384", "\"block_size\": 3");
    desk.refused("ls store:/", 14, &["block size 3"]);
    fs::write(&path, "{").unwrap();
    desk.refused("mount store mnt", 14, &["volume.json"]);
    fs::write(&path, &text).unwrap();
    desk.ok("ls store:/");
}

#[test]
fn init_takes_only_a_new_or_an_empty_directory() {
    let desk = Desk::new();
    desk.volume();
    desk.dir("full/sub");
    fs::write(desk.at("file"), "x").unwrap();
    desk.refused("init store", 12, &["already a volume"]);
    desk.refused("init full", 12, &["not empty"]);
    desk.refused("init file", 1, &["file"]);
    desk.refused("init gone/deep/store", 1, &["gone/deep"]);
    desk.refused("init new --key transient", 20, &["gone when init ends", "cmkfs run"]);
    desk.dir("empty");
    let shown = desk.ok("init empty");
    assert!(shown.contains("volume") && shown.contains("key slot 1  local"), "{shown}");
}

#[test]
fn a_failed_init_leaves_nothing() {
    let desk = Desk::new();
    desk.refused("init new --key file:nokey", 20, &["nokey"]);
    let disk = desk.dir("disk");
    let mut tmpfs = Command::new("mount");
    tmpfs.args(["-t", "tmpfs", "-o", "size=16k", "none"]).arg(&disk);
    assert!(tmpfs.status().unwrap().success());
    let fill = vec![1; 1 << 20];
    fs::write(disk.join("full"), &fill).unwrap_err();
    desk.refused("init disk/store", 41, &["No space left"]);
    desk.dir("disk/empty");
    desk.refused("init disk/empty", 41, &["No space left"]);
}

#[test]
fn key_files_are_judged_before_anything_is_made() {
    let desk = Desk::new();
    desk.dir("mnt");
    let mode = |name: &str, mode| {
        fs::set_permissions(desk.at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for (name, len, bits) in [("key", 32, 0o600), ("short", 31, 0o600), ("open", 32, 0o644)] {
        fs::write(desk.at(name), vec![7; len]).unwrap();
        mode(name, bits);
    }
    desk.refused("init new --key file:short", 20, &["short", "32"]);
    desk.refused("init new --key file:open", 20, &["open"]);
    desk.refused("init new --key vault:x", 20, &["vault:x", "kms:ID"]);
    desk.ok("init store --key file:key");
    desk.refused("mount store mnt --key vault:x", 20, &["vault:x"]);
    desk.refused("mount store mnt --key transient", 20, &["transient"]);
    fs::rename(desk.at("key"), desk.at("moved")).unwrap();
    desk.refused("mount store mnt", 20, &["key"]);
    fs::write(desk.at("wrong"), [8; 32]).unwrap();
    mode("wrong", 0o600);
    desk.refused("mount store mnt --key file:wrong", 21, &["does not open"]);
    desk.ok("mount store mnt --key file:moved");
    desk.ok("umount mnt");
}

#[test]
fn mountpoints_are_judged_before_the_key_is_asked_for() {
    let desk = Desk::new();
    desk.volume();
    desk.dir("full/sub");
    desk.dir("store/tree/inside");
    fs::write(desk.at("file"), "x").unwrap();
    // No key is there any more: whoever asks for it first says 20.
    fs::rename(desk.at("home/data"), desk.at("home/away")).unwrap();
    desk.refused("mount store gone", 30, &["gone", "does not exist"]);
    desk.refused("mount store file", 30, &["not a directory"]);
    desk.refused("mount store full", 32, &["not empty", "sub"]);
    desk.refused("mount store store/tree/inside", 30, &["inside each other"]);
    desk.refused("mount store mnt", 20, &["local.key"]);
    fs::rename(desk.at("home/away"), desk.at("home/data")).unwrap();
    desk.ok("mount store full -o nonempty,ro");
    desk.ok("umount full");
    assert!(desk.at("full/sub").exists());
}

#[test]
fn a_volume_is_mounted_once_and_not_over_another() {
    let desk = Desk::new();
    desk.mounted();
    desk.ok("init other");
    desk.dir("second");
    desk.refused("mount store second", 35, &["in use by process", "mnt", "cmkfs umount"]);
    desk.refused("mount other mnt", 31, &["mnt", "store"]);
    desk.refused("terminate store --yes", 35, &["mnt", "cmkfs stop"]);
    desk.refused("umount second", 36, &["no cmkfs mount"]);
    desk.refused("umount gone", 36, &["gone"]);
    let held = fs::File::create(desk.at("mnt/held")).unwrap();
    let own = format!("pid {}", std::process::id());
    desk.refused("umount mnt", 37, &["busy", &own]);
    desk.refused("stop store", 37, &["busy", &own]);
    drop(held);
    desk.ok("umount mnt");
}

#[test]
fn a_machine_without_fuse_is_told_so() {
    let desk = Desk::new();
    desk.volume();
    let mut hidden = Command::new("unshare");
    desk.prepare(&mut hidden);
    let script = format!("mount -t tmpfs none /dev && exec {CMKFS} mount store mnt");
    let before = desk.inventory();
    let output = hidden.args(["-m", "sh", "-c", &script]).output().unwrap();
    judge("mount", &output, 33, &["/dev/fuse", "--device /dev/fuse"]);
    assert_eq!(desk.inventory(), before);
}

/// The named check of `doctor --json`, with the exit code.
fn checked(output: &std::process::Output, check: &str) -> (String, Option<i32>) {
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", desk::said(output)));
    let checks = value["checks"].as_array().unwrap();
    let found = checks.iter().find(|found| found["check"] == check).unwrap();
    (found["status"].as_str().unwrap().to_owned(), output.status.code())
}

#[test]
fn doctor_finds_nothing_here_and_changes_nothing() {
    let desk = Desk::new();
    let home = |desk: &Desk| desk.at("home").read_dir().map_or(0, Iterator::count);
    let before = (desk.inventory(), home(&desk));
    desk.ok("doctor --store new");
    assert_eq!((desk.inventory(), home(&desk)), before, "a trial of a new volume made something");

    desk.mounted();
    let before = desk.inventory();
    let told = desk.ok("doctor --store store");
    for line in
        ["kernel ", "device ", "mounting ", "swap ", "filesystem ", "disk ", "key_file slot 1"]
    {
        assert!(told.lines().any(|said| said.starts_with(line)), "{line}: {told}");
    }
    assert!(told.contains("slot 1 opens it; volume.json is whole"), "{told}");
    assert!(!told.contains("credentials"), "a local key needs no KMS: {told}");
    assert_eq!(desk.inventory(), before);
    desk.ok("umount mnt");
}

#[test]
fn doctor_ends_with_71_if_something_would_not_work() {
    let desk = Desk::new();
    desk.volume();
    desk.dir("root/tmp/held");
    let doctor = |args: &str| desk.command(&format!("doctor --json {args}")).output().unwrap();
    let fails = ("fails".to_owned(), Some(71));
    assert_eq!(checked(&doctor("--role training --root root"), "path").0, "ok");
    assert_eq!(doctor("--role training --root root").status.code(), Some(71));
    assert_eq!(checked(&doctor("--store mnt/deep/new"), "store"), fails);
    fs::write(desk.at("file"), "x").unwrap();
    assert_eq!(checked(&doctor("--store file"), "store"), fails);
    assert_eq!(checked(&doctor("--store new --key file:none"), "key_file"), fails);
    assert_eq!(checked(&doctor("--store store --key kms:alias/x"), "key_source"), fails);
    fs::rename(desk.at("home/data"), desk.at("home/away")).unwrap();
    assert_eq!(checked(&doctor("--store store"), "key_file"), fails);
    assert_eq!(checked(&doctor("--store store"), "volume").0, "not_checked");
    fs::rename(desk.at("home/away"), desk.at("home/data")).unwrap();

    let mut hidden = Command::new("unshare");
    desk.prepare(&mut hidden);
    let script = format!("mount -t tmpfs none /dev && exec {CMKFS} doctor --json --store store");
    let output = hidden.args(["-m", "sh", "-c", &script]).output().unwrap();
    assert_eq!(checked(&output, "device"), fails);
    assert!(desk::said(&output).contains("--device /dev/fuse"));

    let told = desk.command("doctor --role training --root root").output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let line = told.lines().position(|line| line.contains("root/tmp") && line.contains("fails"));
    let remedy = told.lines().nth(line.unwrap() + 1).unwrap();
    assert!(remedy.starts_with("    name another root"), "{told}");
}

#[test]
fn policies_are_for_kms_keys() {
    let desk = Desk::new();
    desk.volume();
    desk.refused("key policy store", 20, &["no slot", "local:"]);
    desk.refused("key policy --key kms:alias/x", 20, &["by its ARN"]);
    desk.refused("key policy gone", 10, &["gone"]);
    let arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    assert!(desk.ok(&format!("key policy store --key kms:{arn}")).contains("kms:Decrypt"));
    assert!(desk.ok("key policy").contains("ARN of the role that runs cmkfs"));
}

#[test]
fn a_user_who_may_not_mount_is_told_so() {
    let desk = Desk::new();
    fs::set_permissions(desk.at(""), fs::Permissions::from_mode(0o777)).unwrap();
    desk.dir("mnt");
    let user = |args: &str| {
        let mut command = Command::new("setpriv");
        desk.prepare(&mut command);
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", CMKFS]);
        command.args(args.split(' ')).output().unwrap()
    };
    let program = Path::new(CMKFS)
        .ancestors()
        .all(|dir| dir.metadata().unwrap().permissions().mode() & 0o001 != 0);
    if !program {
        eprintln!("not tried: other users can't reach {CMKFS}");
        return;
    }
    let made = user("init store");
    assert!(made.status.success(), "{}", desk::said(&made));
    judge("mount", &user("mount store mnt"), 34, &["not permitted"]);
    assert!(!desk.is_mounted("mnt"));
    assert_eq!(desk.at("home/run/cmkfs").read_dir().unwrap().count(), 0, "a socket was left");
}

#[test]
fn paths_inside_a_volume_are_judged_mounted_or_not() {
    let desk = Desk::new();
    desk.mounted();
    fs::create_dir(desk.at("mnt/dir")).unwrap();
    fs::write(desk.at("mnt/dir/file"), "text").unwrap();
    for volume in ["mnt", "store"] {
        bad_paths(&desk, volume);
    }
    desk.ok("umount mnt");
    bad_paths(&desk, "store");
    desk.refused("put gone store:/x", 1, &["gone"]);
}

fn bad_paths(desk: &Desk, volume: &str) {
    for path in ["no", "dir/no", "dir/file/no"] {
        for verb in ["cat", "ls"] {
            desk.refused(&format!("{verb} {volume}:/{path}"), 43, &[path]);
        }
        desk.refused(&format!("get {volume}:/{path} out"), 43, &[path]);
    }
    desk.refused(&format!("cat {volume}:/dir"), 43, &["dir"]);
    assert_eq!(desk.ok(&format!("cat {volume}:/dir/file")), "text");
}

#[test]
fn damaged_data_is_42_mounted_or_not() {
    let desk = Desk::new();
    desk.mounted();
    fs::write(desk.at("mnt/file"), vec![1; 100_000]).unwrap();
    desk.ok("umount mnt");
    flip(&desk.stored_file("store", 100_000));
    desk.refused("cat store:/file", 42, &["file", "damaged"]);
    desk.refused("get store:/file out", 42, &["damaged"]);
    desk.ok("ls -l store:/");
    desk.ok("mount store mnt");
    desk.refused("cat mnt:/file", 42, &["damaged", "log"]);
    desk.ok("umount mnt");
}

#[test]
fn snapshot_targets_are_judged() {
    let desk = Desk::new();
    desk.mounted();
    fs::write(desk.at("file"), "x").unwrap();
    desk.refused("snapshot create store file", 50, &["file"]);
    desk.refused("snapshot create store gone/deep", 50, &["gone/deep"]);
    desk.refused("snapshot list gone", 50, &["gone"]);
    for verb in ["snapshot create store", "stop store --snapshot", "snapshot list"] {
        desk.refused(&format!("{verb} gs://bucket/prefix"), 2, &["gs://", "s3://BUCKET/PREFIX"]);
    }
    for inside in ["mnt/snaps", "store/snaps"] {
        desk.dir(inside);
        desk.refused(&format!("snapshot create store {inside}"), 50, &["inside"]);
        desk.refused(&format!("stop store --snapshot {inside}"), 50, &["inside"]);
    }
    desk.dir("empty");
    desk.refused("snapshot restore empty new", 51, &["at all"]);
    desk.ok("snapshot create store target");
    desk.refused("snapshot restore target new --id 00000000", 51, &["00000000"]);
    desk.refused("snapshot restore target store", 12, &["already a volume"]);
    desk.refused("snapshot restore target target", 12, &["not empty"]);
    let other = Desk::new();
    other.volume();
    let target = desk.at("target");
    other.ok(&format!("snapshot create store {}", target.display()));
    desk.refused("snapshot restore target new", 51, &["several volumes", "--id"]);
    desk.ok("umount mnt");
}

#[test]
fn terminate_wants_the_volume_named() {
    let desk = Desk::new();
    desk.volume();
    let id = desk.status("store")["volume_id"].as_str().unwrap().to_owned();
    let other = id.replace(|_: char| true, "0");
    desk.refused("terminate store", 60, &["can't be undone", &id, "--yes"]);
    desk.refused(&format!("terminate store --confirm {other}"), 60, &["not the id", &id]);
    desk.refused("terminate store --yes --snapshots gone", 50, &["gone"]);
    desk.refused("terminate store --role training --yes", 2, &["--role"]);
    desk.ok(&format!("terminate store --confirm {id}"));
    assert!(!desk.at("store").exists());
}

#[test]
fn a_dead_daemon_is_in_nobodys_way_for_long() {
    let desk = Desk::new();
    desk.mounted();
    desk::end(desk.daemon("store"), Signal::KILL);
    assert_eq!(desk.status("store")["state"], "unreachable");
    let output = desk.command("mount store mnt").output().unwrap();
    judge("mount", &output, 31, &["unmount"]);
    desk.ok("umount mnt");
    desk.ok("mount store mnt");
    desk.ok("umount mnt");
}
