//! `git`: clones, commits, collected garbage and work trees on the mount.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::mount::Mount;
use crate::{WAYS, disk, manifest, same, succeed};

const COMMITS: u64 = 5;

/// `git` in a directory, as nobody has configured it; all it writes is synced, as a server's is.
#[track_caller]
fn git(dir: &Path, args: &str) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "core.fsync=all", "-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@localhost");
    }
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"] {
        command.env_remove(name);
    }
    succeed(command.arg("-C").arg(dir).args(args.split(' '))).trim().to_owned()
}

/// Text that differs from line to line, file to file and version to version.
fn text(file: u64, version: u64) -> String {
    let mut text = String::new();
    for line in 0..(file * 7) % 90 + 1 {
        let changed = if (line + file).is_multiple_of(11) { version } else { 0 };
        writeln!(text, "file {file} line {line} version {changed} {}", line * file * 31).unwrap();
    }
    text
}

/// Three hundred files of many kinds in five commits, each with a tag.
fn make_repository(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    git(dir, "init -q -b main");
    for commit in 0..COMMITS {
        for file in 0..300 {
            let below = dir.join(format!("part {}/{}", file % 7, file % 3));
            fs::create_dir_all(&below).unwrap();
            if commit == 0 || file % COMMITS == commit {
                fs::write(below.join(format!("{file}.txt")), text(file, commit)).unwrap();
            }
        }
        let byte = |at: u64| (at.wrapping_mul(at + commit) >> 7).to_le_bytes()[0];
        let binary: Vec<u8> = (0..200_000).map(byte).collect();
        fs::write(dir.join(format!("binary {commit}")), binary).unwrap();
        git(dir, "add -A");
        git(dir, &format!("commit -q -m commit-{commit}"));
        git(dir, &format!("tag v{commit}"));
        if commit == 0 {
            fs::write(dir.join("tool"), "#!/bin/sh\n").unwrap();
            fs::set_permissions(dir.join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
            symlink("part 1/1", dir.join("link")).unwrap();
        } else {
            fs::rename(dir.join(format!("binary {}", commit - 1)), dir.join("moved")).unwrap();
        }
    }
    git(dir, "add -A");
    git(dir, "commit -q -m last");
}

/// What is checked out: names, kinds, modes and content.
#[track_caller]
fn tree(dir: &Path) -> String {
    let keep = |line: &str| {
        let parts: Vec<&str> = line.split(" | ").collect();
        // Not the time, and not whose links these are.
        (parts.len() > 5).then(|| [parts[0], parts[1], parts[5]].join(" "))
    };
    manifest(dir, ".git").lines().filter_map(keep).collect::<Vec<_>>().join("\n")
}

/// How many files of objects there are, and how many of them have a second name.
fn shared(repository: &Path) -> (usize, usize) {
    let mut found = (0, 0);
    let mut todo = vec![repository.join(".git/objects")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = path.symlink_metadata().unwrap();
            if stat.is_dir() {
                todo.push(path);
            } else {
                found.0 += 1;
                found.1 += usize::from(stat.nlink() > 1);
            }
        }
    }
    found
}

#[track_caller]
fn whole(repository: &Path) {
    // It tells on standard output what dangles, which is no error.
    let said = git(repository, "fsck --full --strict --no-dangling");
    assert_eq!(said, "", "{}", repository.display());
    assert_eq!(git(repository, "status --porcelain"), "");
}

#[track_caller]
fn clone(options: &str, from: &str, to: &Path) {
    git(to.parent().unwrap(), &format!("clone -q {options} {from} {}", to.display()));
}

#[test]
fn git_clones_commits_and_collects_garbage() {
    for way in WAYS {
        clone_and_collect(way);
    }
}

fn clone_and_collect(way: &[&str]) {
    let (_dir, source) = disk();
    make_repository(&source);
    let wanted = tree(&source);
    let mount = Mount::new(way);
    let first = mount.at("first");
    clone("-b main", source.to_str().unwrap(), &first);
    let from = first.to_str().unwrap();
    let (count, linked) = shared(&first);
    // From another file system no name can be lent.
    assert!(count > 300 && linked == 0, "{count} {linked}");
    clone("--local", from, &mount.at("linked"));
    assert_eq!(shared(&mount.at("linked")), (count, count));
    clone("--no-hardlinks", from, &mount.at("copied"));
    assert_eq!(shared(&mount.at("copied")), (count, 0));
    clone("--no-local", &format!("file://{from}"), &mount.at("sent"));
    fs::remove_dir_all(mount.at("linked/.git/objects")).unwrap();
    for name in ["first", "copied", "sent"] {
        same(name, &tree(&mount.at(name)), &wanted);
        whole(&mount.at(name));
    }
    let work = mount.at("sent");
    git(&work, "checkout -q -b topic v3");
    for file in (0..300).step_by(15) {
        let below = work.join(format!("part {}/{}", file % 7, file % 3));
        fs::write(below.join(format!("{file}.txt")), text(file, 99)).unwrap();
    }
    fs::write(work.join("new"), "new\n").unwrap();
    git(&work, "add -A");
    git(&work, "commit -q -m topic");
    let topic = tree(&work);
    git(&work, "checkout -q main");
    same("back on main", &tree(&work), &wanted);
    git(&work, "merge -q -X theirs --no-ff -m merged topic");
    let merged = tree(&work);
    assert_ne!(merged, wanted);
    git(&work, "gc -q --prune=now");
    let counted = git(&work, "count-objects -v");
    assert!(counted.contains("count: 0\n") && counted.contains("packs: 1\n"), "{counted}");
    in_place(&mount, &work);
    mount.remount();
    // Inode numbers and times that git wrote down hold: it need not look into a single file.
    assert_eq!(git(&work, "diff-files --name-only"), "");
    whole(&work);
    same("merged", &tree(&work), &merged);
    git(&work, "checkout -q --detach v1");
    git(&source, "checkout -q --detach v1");
    same("an old commit", &tree(&work), &tree(&source));
    git(&work, &format!("push -q {} topic", source.display()));
    git(&source, "checkout -q topic");
    same("pushed", &tree(&source), &topic);
    whole(&source);
}

/// Lets git see the times of what it has written over, once that is in its place.
fn in_place(mount: &Mount, work: &Path) {
    mount.remount();
    git(work, "update-index -q --refresh");
}

#[test]
fn git_keeps_several_work_trees() {
    let (_dir, source) = disk();
    make_repository(&source);
    let mount = Mount::new(&[]);
    let (main, side) = (mount.at("main"), mount.at("side"));
    clone("--no-hardlinks", source.to_str().unwrap(), &main);
    git(&main, "worktree add -q -b side ../side v2");
    git(&source, "checkout -q v2");
    same("added", &tree(&side), &tree(&source));
    fs::write(side.join("tool"), "changed\n").unwrap();
    git(&side, "commit -q -a -m side");
    git(&main, "worktree move ../side ../elsewhere");
    let elsewhere = mount.at("elsewhere");
    in_place(&mount, &elsewhere);
    mount.remount();
    assert!(!side.exists());
    assert_eq!(git(&elsewhere, "diff-files --name-only"), "");
    whole(&elsewhere);
    git(&elsewhere, "mv tool tools");
    git(&elsewhere, "stash -q");
    assert_eq!(fs::read_to_string(elsewhere.join("tool")).unwrap(), "changed\n");
    git(&elsewhere, "stash pop -q");
    git(&elsewhere, "commit -q -a -m moved");
    git(&main, "merge -q side");
    assert_eq!(fs::read_to_string(main.join("tools")).unwrap(), "changed\n");
    git(&main, "worktree remove ../elsewhere");
    assert!(!elsewhere.exists());
    assert_eq!(git(&main, "worktree list").lines().count(), 1);
    git(&main, "branch -q -d side");
    whole(&main);
}
