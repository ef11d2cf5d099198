//! The verbs of a volume's life by the real program: mount and unmount in every way, status,
//! files, snapshots of volumes in use, termination.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;
#[path = "verbs/snapshots.rs"]
mod snapshots;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use desk::{Desk, await_that, end, judge};
use rustix::process::{Signal, getsid, kill_process};

#[test]
fn a_mount_right_after_an_unmount_finds_everything() {
    let desk = Desk::new();
    desk.mounted();
    for round in 0..10 {
        fs::write(desk.at(&format!("mnt/{round}")), vec![round; 50_000]).unwrap();
        // umount(8) returns before the daemon has ended; the next mount waits for it.
        await_that("umount(8) is let", || {
            let plain = Command::new("umount").arg(desk.at("mnt")).output().unwrap();
            plain.status.success()
        });
        desk.ok("mount store mnt");
        for before in 0..=round {
            let found = fs::read(desk.at(&format!("mnt/{before}"))).unwrap();
            assert!(found == vec![before; 50_000], "{before}");
        }
    }
    desk.ok("umount mnt");
    assert!(!desk.is_mounted("mnt"));
    assert_eq!(desk.status("store")["state"], "stopped");
}

#[test]
fn the_daemon_is_on_its_own() {
    let desk = Desk::new();
    desk.mounted();
    let pid = desk.daemon("store");
    assert_eq!(getsid(Some(pid)).unwrap(), pid);
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    assert_eq!(proc.join("cwd").read_link().unwrap(), Path::new("/"));
    assert_eq!(proc.join("fd/0").read_link().unwrap(), Path::new("/dev/null"));
    assert_eq!(proc.join("fd/1").read_link().unwrap(), Path::new("/dev/null"));
    assert_eq!(fs::read_to_string(proc.join("comm")).unwrap(), "cmkfs\n");
    let shown = fs::read(proc.join("cmdline")).unwrap();
    assert!(String::from_utf8(shown).unwrap().contains(desk.at("store").to_str().unwrap()));
    let log = proc.join("fd/2").read_link().unwrap();
    assert!(log.starts_with(desk.at("home/state/cmkfs")), "{}", log.display());
    assert_eq!(log.metadata().unwrap().mode() & 0o777, 0o600);
    let sockets = desk.at("home/run/cmkfs");
    assert_eq!(sockets.metadata().unwrap().mode() & 0o777, 0o700);
    let socket = sockets.read_dir().unwrap().next().unwrap().unwrap();
    assert_eq!(socket.metadata().unwrap().mode() & 0o777, 0o600);
    desk.ok("umount mnt");
    assert_eq!(sockets.read_dir().unwrap().count(), 0);
}

#[test]
fn signals_end_a_mount_cleanly() {
    let desk = Desk::new();
    desk.volume();
    for (round, signal) in [Signal::TERM, Signal::INT, Signal::HUP].into_iter().enumerate() {
        desk.ok("mount store mnt");
        let name = format!("mnt/{round}");
        fs::write(desk.at(&name), "text").unwrap();
        end(desk.daemon("store"), signal);
        assert!(!desk.is_mounted("mnt"));
        assert_eq!(desk.ok(&format!("cat store:/{round}")), "text");
    }
}

#[test]
fn a_signal_to_a_busy_mount_commits_what_is_open() {
    let desk = Desk::new();
    desk.mounted();
    let pid = desk.daemon("store");
    let mut file = fs::File::create(desk.at("mnt/open")).unwrap();
    file.write_all(b"before").unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    await_that("the mount is out of the tree", || !desk.is_mounted("mnt"));
    // It stays usable for those who have it open.
    file.write_all(b" and after").unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    drop(file);
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    await_that("the daemon ends", || !Path::new(&proc).exists());
    assert_eq!(desk.ok("cat store:/open"), "before and after");
}

#[test]
fn a_foreground_mount_serves_until_it_is_told_to_end() {
    let desk = Desk::new();
    desk.volume();
    let mut command = desk.command("mount store mnt --foreground --log-file log -v");
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    await_that("it serves", || desk.is_mounted("mnt") && desk.at("mnt").read_dir().is_ok());
    fs::write(desk.at("mnt/file"), "text").unwrap();
    desk.ok("umount mnt");
    assert!(child.wait().unwrap().success());
    assert!(fs::read_to_string(desk.at("log")).unwrap().contains("unmounted"));
    assert_eq!(desk.ok("cat store:/file"), "text");
}

#[test]
fn readers_share_a_volume_with_one_another_and_a_writer() {
    let desk = Desk::new();
    desk.mounted();
    fs::write(desk.at("mnt/file"), "text").unwrap();
    desk.ok("umount mnt");
    desk.dir("second");
    desk.ok("mount store mnt --read-only");
    desk.ok("mount store second -o ro");
    for mount in ["mnt", "second"] {
        assert_eq!(fs::read(desk.at(mount).join("file")).unwrap(), b"text");
        let error = fs::write(desk.at(mount).join("new"), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
    let status: serde_json::Value = serde_json::from_str(&desk.ok("status store --json")).unwrap();
    let volumes = status["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 2);
    assert!(volumes.iter().all(|volume| volume["daemon"]["read_only"] == true));
    assert!(volumes.iter().all(|volume| volume["daemon"]["durability"] == "strict"));
    desk.dir("third");
    desk.ok("snapshot create store target");
    desk.ok("mount store third");
    // What changes the volume goes through the mount that can, whichever is named first.
    fs::write(desk.at("plain"), "more").unwrap();
    desk.ok("put plain store:/more");
    assert_eq!(fs::read(desk.at("mnt/more")).unwrap(), b"more");
    desk.ok("snapshot create store target");
    desk.ok("stop store");
    assert!(["mnt", "second", "third"].iter().all(|mount| !desk.is_mounted(mount)));
}

#[test]
fn status_tells_programs_what_the_readme_lists() {
    let desk = Desk::new();
    desk.mounted();
    fs::write(desk.at("mnt/file"), vec![1; 100_000]).unwrap();
    let status = desk.status("mnt");
    assert_eq!(status["state"], "mounted");
    assert_eq!(status["store"], desk.at("store").to_str().unwrap());
    assert_eq!(status["mountpoints"], serde_json::json!([desk.at("mnt")]));
    assert_eq!(status["block_size"], 16384);
    assert_eq!(status["slots"][0]["provider"], "local");
    assert!(status["slots"][0].get("wrapped").is_none());
    let daemon = &status["daemon"];
    assert_eq!(daemon["key_provider"], "local");
    assert_eq!(daemon["key_id"], status["slots"][0]["key"]);
    assert_eq!(daemon["core_dumps_off"], true);
    assert_eq!(daemon["cache_budget_bytes"], 64 << 20);
    assert_eq!(daemon["figures"]["written_bytes"], 100_000);
    let text = desk.ok("status");
    assert!(text.contains(desk.at("mnt").to_str().unwrap()), "{text}");
    desk.ok("umount mnt");
    let status = desk.status("store");
    assert_eq!((&status["state"], status.get("daemon")), (&"stopped".into(), None));
}

/// Files and directories of every kind that copies keep.
fn furnish(root: &Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/small"), "small").unwrap();
    let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    fs::write(root.join("a/b/large"), &bytes).unwrap();
    fs::write(root.join("a/empty"), "").unwrap();
    let sparse = fs::File::create(root.join("a/sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    fs::write(root.join("a/\u{e9} name"), "text").unwrap();
    symlink("b/large", root.join("a/link")).unwrap();
    fs::set_permissions(root.join("a/small"), fs::Permissions::from_mode(0o640)).unwrap();
    let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    fs::File::options().write(true).open(root.join("a/small")).unwrap().set_times(times).unwrap();
}

#[track_caller]
fn assert_same_tree(one: &Path, other: &Path) {
    let output = Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", desk::said(&output));
    let small = |root: &Path| {
        let found = root.join("small").metadata().unwrap();
        (found.mode(), found.mtime())
    };
    assert_eq!(small(one), small(other));
    assert!(other.join("sparse").metadata().unwrap().blocks() < 1000, "the hole was filled");
}

#[test]
fn trees_go_in_and_out_mounted_or_not() {
    let desk = Desk::new();
    desk.volume();
    furnish(&desk.at(""));
    desk.ok("put a store:/unmounted");
    desk.ok("mount store mnt");
    assert_same_tree(&desk.at("a"), &desk.at("mnt/unmounted"));
    desk.ok("put a store:/mounted");
    desk.ok("get mnt:/mounted out1");
    desk.ok("umount mnt");
    desk.ok("get store:/mounted out2");
    desk.dir("into");
    desk.ok("get store:/unmounted into");
    for copy in ["out1", "out2", "into/unmounted"] {
        assert_same_tree(&desk.at("a"), &desk.at(copy));
    }
    let listed = desk.ok("ls -R store:/mounted");
    let wanted = ["b", "b/large", "empty", "link", "small", "sparse", "\u{e9} name"];
    assert_eq!(listed.lines().collect::<Vec<_>>(), wanted);
    let long = desk.ok("ls -l store:/mounted/small");
    assert!(long.starts_with("-rw-r-----") && long.contains("1970-01-01 00:00:00Z"), "{long}");
    assert!(desk.ok("ls -l store:/mounted").contains("link -> b/large"));
    // Through the link, and with zeros for the hole.
    let link = desk.command("cat store:/mounted/link").output().unwrap().stdout;
    assert!(link == fs::read(desk.at("a/b/large")).unwrap());
    let hole = desk.command("cat store:/mounted/sparse").output().unwrap().stdout;
    assert!(hole == vec![0; 50 << 20]);
}

#[test]
fn a_reader_that_goes_ends_the_command() {
    let desk = Desk::new();
    desk.volume();
    let big = fs::File::create(desk.at("big")).unwrap();
    big.set_len(1 << 30).unwrap();
    desk.ok("put big store:/");
    let mut child = desk
        .command("cat store:/big")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    judge("cat", &output, 1, &[]);
    assert!(output.stderr.is_empty(), "{}", desk::said(&output));
    desk.ok("ls store:/");
}

#[test]
fn terminate_goes_on_where_it_was_interrupted() {
    let desk = Desk::new();
    desk.volume();
    desk.ok("put home store:/home");
    let id = desk.ok("snapshot create store target");
    let volume = desk.status("store")["volume_id"].as_str().unwrap().to_owned();
    fs::write(desk.at("store/foreign"), "x").unwrap();
    // As if it had been killed after the keys.
    fs::write(desk.at("store/terminating.cmkfs"), format!("{volume}\n")).unwrap();
    fs::remove_file(desk.at("store/volume.json")).unwrap();
    desk.refused("terminate store", 60, &[&volume]);
    let told = desk.ok(&format!("terminate store --confirm {volume} --snapshots target"));
    assert!(told.contains(&volume) && told.contains(id.trim()), "{told}");
    assert!(told.contains("foreign"), "{told}");
    let left: Vec<_> = desk.at("store").read_dir().unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(desk.at("target").read_dir().unwrap().count(), 0);
    desk.refused("terminate store --yes", 11, &["not a cmkfs store"]);
}

#[test]
fn terminate_destroys_the_wrapped_keys_first() {
    let desk = Desk::new();
    desk.volume();
    desk.ok("key add store --new local:second");
    let wrapped = fs::read(desk.at("store/volume.json")).unwrap();
    // As a change of the keys leaves it that was killed.
    fs::write(desk.at("store/volume.json.new"), &wrapped).unwrap();
    let names = ["volume.json", "volume.json.new"].map(|name| desk.at("store").join(name));
    let before = names.each_ref().map(|path| fs::File::open(path).unwrap());
    // The tree can't be removed: a mount holds a directory in it.
    let held = desk.dir("store/tree/held");
    let mut tmpfs = Command::new("mount");
    assert!(tmpfs.args(["-t", "tmpfs", "none"]).arg(&held).status().unwrap().success());
    let output = desk.command("terminate store --yes").output().unwrap();
    judge("terminate", &output, 1, &["held"]);
    for (path, mut file) in names.iter().zip(&before) {
        assert!(!path.exists());
        let mut now = Vec::new();
        file.read_to_end(&mut now).unwrap();
        assert_eq!(now, vec![0; wrapped.len()]);
    }
    assert!(Command::new("umount").arg(&held).status().unwrap().success());
    desk.ok("terminate store --yes");
    assert!(!desk.at("store").exists());
}

#[test]
fn keys_of_a_store_that_its_mount_hides_are_shown_and_not_changed() {
    let desk = Desk::new();
    desk.dir("over");
    desk.ok("init over/store");
    desk.ok("mount over/store over -o nonempty");
    let shown = desk.ok("key status over");
    assert!(shown.contains("by key slot 1") && shown.contains("local.key"), "{shown}");
    desk.refused("key remove over 1", 35, &["hidden", "unmount"]);
    desk.ok("umount over");
    desk.refused("key remove over/store 1", 16, &["only one"]);
}

/// Whoever can write to the store may have put it there.
#[test]
fn terminate_does_not_write_where_a_link_leads() {
    let desk = Desk::new();
    desk.volume();
    fs::rename(desk.at("store/volume.json"), desk.at("kept")).unwrap();
    std::os::unix::fs::symlink("../kept", desk.at("store/volume.json")).unwrap();
    let before = fs::read(desk.at("kept")).unwrap();
    fs::write(desk.at("store/terminating.cmkfs"), "id\n").unwrap();
    desk.ok("terminate store --yes");
    assert!(!desk.at("store").exists());
    assert_eq!(fs::read(desk.at("kept")).unwrap(), before);
}

#[test]
fn a_role_is_mounted_as_one_volume() {
    let desk = Desk::new();
    desk.dir("r");
    desk.ok("mount --role training --root r --key local");
    for path in ["r/opt/ml", "r/tmp"] {
        assert!(desk.is_mounted(path));
    }
    assert_eq!(desk.at("r/tmp").metadata().unwrap().mode() & 0o7777, 0o1777);
    fs::write(desk.at("r/opt/ml/model/m"), "model").unwrap();
    fs::write(desk.at("r/tmp/t"), "scratch").unwrap();
    let store = "r/var/lib/cmkfs/training";
    assert_eq!(desk.status(store)["mountpoints"].as_array().unwrap().len(), 2);
    desk.ok("umount r/tmp");
    assert_eq!(desk.status(store)["mountpoints"].as_array().unwrap().len(), 1);
    desk.ok("stop --role training --root r");
    assert!(!desk.is_mounted("r/opt/ml"));
    assert_eq!(desk.ok(&format!("cat {store}:/opt-ml/model/m")), "model");
    desk.ok("mount --role training --root r");
    assert_eq!(fs::read(desk.at("r/tmp/t")).unwrap(), b"scratch");
    desk.ok("stop --role training --root r");
    desk.ok("terminate --role training --root r --yes");
    assert!(!desk.at(store).exists());
}
