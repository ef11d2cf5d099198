//! `tar` and `rsync`: what was copied to the mount and back is what it was, in every respect.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::mount::Mount;
use crate::{WAYS, disk, manifest, same, script, succeed};

/// A tree with one of everything, on the disk below; and the list of it.
#[track_caller]
fn made(root: &Path) -> String {
    script("tree.py", ["make", root.to_str().unwrap()]);
    manifest(root, "")
}

/// The files of mostly holes take no more space than what is in them.
#[track_caller]
fn has_holes(root: &Path) {
    for (name, at_most) in [("middle", 1 << 20), ("nothing", 1 << 16)] {
        let stat = root.join("sparse").join(name).metadata().unwrap();
        assert_eq!(stat.len(), 64 << 20);
        assert!(stat.blocks() * 512 <= at_most, "{name}: {} blocks", stat.blocks());
    }
}

fn rsync(more: &[&str], from: &Path, to: &Path) -> String {
    let mut command = Command::new("rsync");
    // Without the window, two times within a second are the same to it.
    command.args(["-aHAX", "--numeric-ids", "--modify-window=-1"]).args(more);
    succeed(command.arg(from.join("")).arg(to.join("")))
}

#[test]
fn rsync_brings_back_what_it_took_to_the_mount() {
    for way in WAYS {
        copy_by_rsync(way);
    }
}

fn copy_by_rsync(way: &[&str]) {
    let (_dir, plain) = disk();
    made(&plain);
    script("tree.py", ["make-rest", plain.to_str().unwrap()]);
    let wanted = manifest(&plain, "");
    let mount = Mount::new(way);
    let (copy, back) = (mount.at("copy"), plain.with_file_name("back"));
    rsync(&["--sparse"], &plain, &copy);
    for what in ["on the mount", "mounted again"] {
        same(what, &manifest(&copy, ""), &wanted);
        has_holes(&copy);
        mount.remount();
    }
    rsync(&["--sparse"], &copy, &back);
    same("brought back", &manifest(&back, ""), &wanted);
    has_holes(&back);
    // From the mount to the mount, and by rsync's own judgement.
    rsync(&["--sparse"], &copy, &mount.at("second"));
    let differs = rsync(&["-n", "-i", "-c", "--delete"], &plain, &mount.at("second"));
    assert_eq!(differs, "");
    // Only what changed is sent, into the file itself.
    let large = plain.join("data/3145735 bytes");
    let mut bytes = std::fs::read(&large).unwrap();
    bytes[1_500_000..1_500_100].fill(7);
    std::fs::write(&large, bytes).unwrap();
    std::fs::remove_file(plain.join("many/123")).unwrap();
    let delta = ["--inplace", "--no-whole-file", "--delete", "--itemize-changes"];
    let said = rsync(&delta, &plain, &copy);
    assert!(said.contains("*deleting") && said.contains("3145735 bytes"), "{said}");
    same("updated", &manifest(&copy, ""), &manifest(&plain, ""));
}

fn tar() -> Command {
    let mut command = Command::new("tar");
    command.args(["--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner"]);
    // Some of the times are far away on purpose.
    command.arg("--warning=no-timestamp");
    command
}

#[test]
fn tar_brings_back_what_it_took_to_the_mount() {
    for way in WAYS {
        copy_by_tar(way);
    }
}

fn copy_by_tar(way: &[&str]) {
    let (_dir, plain) = disk();
    let wanted = made(&plain);
    let mount = Mount::new(way);
    let (copy, back) = (mount.at("copy"), plain.with_file_name("back"));
    let archive = mount.at("archive.tar.gz");
    let pack = |from: &Path| {
        let mut command = tar();
        command.args(["--format=posix", "-czf"]).arg(&archive).arg("-C").arg(from).arg(".");
        succeed(&mut command);
    };
    let unpack = |to: &Path| {
        std::fs::create_dir(to).unwrap();
        succeed(tar().args(["--same-owner", "-xpzf"]).arg(&archive).arg("-C").arg(to));
    };
    pack(&plain);
    unpack(&copy);
    for what in ["on the mount", "mounted again"] {
        same(what, &manifest(&copy, ""), &wanted);
        has_holes(&copy);
        mount.remount();
    }
    pack(&copy);
    unpack(&back);
    same("brought back", &manifest(&back, ""), &wanted);
    has_holes(&back);
    // By tar's own judgement, and then all of it goes.
    succeed(tar().arg("-dzf").arg(&archive).arg("-C").arg(&back));
    succeed(Command::new("rm").arg("-r").arg(&copy));
    assert!(!copy.exists());
}
