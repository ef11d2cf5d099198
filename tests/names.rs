//! Directories by plaintext names: every length of a name, renames of all kinds, links, and what
//! is left in the stored directory when everything is gone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/volume.rs"]
mod volume;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use cmkfs::file::{
    Access, Dir, Durability, FileError, Kind, NodeKind, RenameMode, VolumeOptions, XattrMode,
};
use faulty::{Extent, Faulty};
use rustix::io::Errno;
use volume::{ME, Throwaway, age_marker};

fn names(dir: &Dir) -> BTreeSet<Vec<u8>> {
    dir.entries().unwrap().into_iter().map(|entry| entry.name).collect()
}

fn stored_count(throwaway: &Throwaway) -> usize {
    fs::read_dir(throwaway.path().join("tree")).unwrap().count()
}

fn put(dir: &Dir, name: &[u8], content: &[u8]) {
    let (file, _) = dir.create_file(name, ME, 0o644).unwrap();
    file.write(0, content).unwrap();
    file.commit().unwrap();
}

fn get(dir: &Dir, name: &[u8]) -> Vec<u8> {
    let file = dir.open_file(name, Access::Read).unwrap();
    file.read(0, 1 << 20).unwrap().to_vec()
}

#[test]
fn names_of_every_length_and_any_bytes() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    let mut wanted = BTreeSet::new();
    for len in 1..=255 {
        wanted.insert(vec![b'n'; len]);
    }
    for byte in (1..=255).filter(|byte| *byte != b'/') {
        wanted.insert(vec![byte, b'x', byte]);
    }
    for name in &wanted {
        put(&root, name, name);
    }
    let root = throwaway.open().root().unwrap();
    assert_eq!(names(&root), wanted);
    for name in &wanted {
        assert_eq!(&get(&root, name), name);
        root.unlink(name).unwrap();
    }
    // Nothing but the marker is left: no sidecar either.
    assert_eq!(stored_count(&throwaway), 1);
    assert_eq!(root.create_file(&[b'n'; 256], ME, 0o644).unwrap_err(), FileError::NameTooLong);
}

#[test]
fn renames_of_every_kind() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    let long = |fill| vec![fill; 250];
    for (one, two) in
        [(b"a".to_vec(), b"b".to_vec()), (long(b'a'), long(b'b')), (long(b'c'), vec![b'd'])]
    {
        root.make_dir(b"dir", ME, 0o755).unwrap();
        let dir = root.open_dir(b"dir").unwrap();
        put(&root, &one, b"one");
        put(&dir, &two, b"two");
        let no = root.rename(&one, &dir, &two, RenameMode::NoReplace);
        assert_eq!(no, Err(FileError::Sys(Errno::EXIST)));
        root.rename(&one, &dir, &two, RenameMode::Exchange).unwrap();
        assert_eq!((get(&root, &one), get(&dir, &two)), (b"two".to_vec(), b"one".to_vec()));
        root.rename(&one, &dir, &two, RenameMode::Replace).unwrap();
        assert_eq!(get(&dir, &two), b"two");
        assert_eq!(root.lookup(&one), Err(FileError::Sys(Errno::NOENT)));
        dir.rename(&two, &root, &one, RenameMode::NoReplace).unwrap();
        assert_eq!(names(&dir), BTreeSet::new());
        root.unlink(&one).unwrap();
        root.remove_dir(b"dir").unwrap();
        assert_eq!(stored_count(&throwaway), 1);
    }
}

#[test]
fn directories_replace_only_empty_ones() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    for name in [&b"full"[..], b"empty", b"source"] {
        root.make_dir(name, ME, 0o755).unwrap();
    }
    put(&root.open_dir(b"full").unwrap(), b"file", b"x");
    put(&root.open_dir(b"source").unwrap(), b"moved", b"y");
    let over = |name| root.rename(b"source", &root, name, RenameMode::Replace);
    assert_eq!(over(b"full"), Err(FileError::Sys(Errno::NOTEMPTY)));
    assert_eq!(names(&root.open_dir(b"full").unwrap()).len(), 1);
    over(b"empty").unwrap();
    assert_eq!(get(&root.open_dir(b"empty").unwrap(), b"moved"), b"y");
    assert_eq!(names(&root).len(), 2);
    assert_eq!(root.remove_dir(b"full"), Err(FileError::Sys(Errno::NOTEMPTY)));
    put(&root, b"file", b"z");
    assert_eq!(root.remove_dir(b"file"), Err(FileError::Sys(Errno::NOTDIR)));
    assert_eq!(root.unlink(b"empty"), Err(FileError::Sys(Errno::ISDIR)));
}

#[test]
fn hard_links_share_one_open_file() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    put(&root, b"one", b"first");
    assert_eq!(root.link(b"two", &root, b"one").unwrap().nlink, 2);
    let one = root.open_file(b"one", Access::Write).unwrap();
    let two = root.open_file(b"two", Access::Read).unwrap();
    one.write(0, b"FIRST and more").unwrap();
    assert_eq!(&*two.read(0, 100).unwrap(), b"FIRST and more");
    assert_eq!(root.lookup(b"two").unwrap().size, 14);
    root.unlink(b"one").unwrap();
    one.commit().unwrap();
    drop((one, two));
    assert_eq!(get(&root, b"two"), b"FIRST and more");
}

#[test]
fn links_of_every_length() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    let links = throwaway.path().join("links");
    for len in [1, 100, 3038, 3039, 3040, 4095] {
        let target = vec![b't'; len];
        let stat = root.make_symlink(b"link", &target, ME).unwrap();
        assert_eq!((stat.kind, stat.size), (Kind::Symlink, len as u64));
        assert_eq!(root.read_link(b"link").unwrap(), target);
        root.rename(b"link", &root, b"other", RenameMode::Replace).unwrap();
        assert_eq!(root.read_link(b"other").unwrap(), target);
        root.unlink(b"other").unwrap();
        assert_eq!(fs::read_dir(&links).unwrap().count(), 0, "{len}");
    }
    let long = root.make_symlink(b"link", &[b't'; 4096], ME);
    assert_eq!(long.unwrap_err(), FileError::NameTooLong);
}

#[test]
fn special_files_are_what_they_are() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    let kinds = [(NodeKind::Fifo, Kind::Fifo), (NodeKind::Socket, Kind::Socket)];
    for (node, kind) in kinds {
        assert_eq!(root.make_node(b"node", node, ME, 0o640).unwrap().kind, kind);
        assert_eq!(root.lookup(b"node").unwrap().mode, 0o640);
        assert_eq!(root.open_file(b"node", Access::Read).unwrap_err(), open_error(kind));
        root.unlink(b"node").unwrap();
    }
}

/// A socket can't be opened at all; a FIFO can, and is no file.
fn open_error(kind: Kind) -> FileError {
    if kind == Kind::Socket { FileError::Sys(Errno::NXIO) } else { FileError::Invalid }
}

#[test]
fn attributes_of_every_owner() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    root.make_dir(b"dir", ME, 0o755).unwrap();
    put(&root, b"file", b"x");
    let long = [b"user.".as_slice(), &[b'n'; 250]].concat();
    for name in [None, Some(&b"dir"[..]), Some(b"file")] {
        for attribute in [&b"user.a"[..], b"trusted.b", &long] {
            let missing = root.set_xattr(name, attribute, b"v", XattrMode::Replace);
            assert_eq!(missing, Err(FileError::NoAttribute));
            root.set_xattr(name, attribute, b"v", XattrMode::Create).unwrap();
            let twice = root.set_xattr(name, attribute, b"w", XattrMode::Create);
            assert_eq!(twice, Err(FileError::Sys(Errno::EXIST)));
            assert_eq!(root.get_xattr(name, attribute).unwrap(), b"v");
            root.set_xattr(name, attribute, b"", XattrMode::Any).unwrap();
            assert_eq!(root.get_xattr(name, attribute).unwrap(), b"");
        }
        assert_eq!(root.list_xattr(name).unwrap().len(), 3);
        root.remove_xattr(name, b"user.a").unwrap();
        assert_eq!(root.get_xattr(name, b"user.a"), Err(FileError::NoAttribute));
        assert_eq!(root.list_xattr(name).unwrap().len(), 2);
        let odd = root.set_xattr(name, b"system.odd", b"", XattrMode::Any);
        assert_eq!(odd, Err(FileError::NotSupported));
    }
}

#[test]
fn a_directory_has_the_mode_that_was_asked_for_under_the_mask() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    for mode in [0o777, 0o755, 0o000, 0o070, 0o1777, 0o500] {
        let stat = root.make_dir(b"dir", ME, mode).unwrap();
        assert_eq!(stat.mode, mode & !0o027, "{mode:o}");
        root.open_dir(b"dir").unwrap();
        root.remove_dir(b"dir").unwrap();
    }
    rustix::process::umask(before);
}

/// Every stored directory that is not the root, by the names that are listed.
fn stored_dirs(throwaway: &Throwaway) -> Vec<PathBuf> {
    let entries = fs::read_dir(throwaway.path().join("tree")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

#[test]
fn a_marker_is_a_link_or_as_earlier_releases_made_it_a_file() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    root.make_dir(b"dir", ME, 0o755).unwrap();
    put(&root.open_dir(b"dir").unwrap(), b"file", b"content");
    for dir in [throwaway.path().join("tree"), stored_dirs(&throwaway).remove(0)] {
        let marker = dir.join("dir.cmkfs");
        assert!(fs::read_link(&marker).unwrap().as_os_str().len() <= 59, "ext4 keeps no more");
        age_marker(&dir);
        assert_eq!(fs::symlink_metadata(&marker).unwrap().len(), 48);
    }
    drop(root);
    let root = throwaway.open().root().unwrap();
    let dir = root.open_dir(b"dir").unwrap();
    assert_eq!(get(&dir, b"file"), b"content");
    root.make_dir(b"new", ME, 0o755).unwrap();
    assert_eq!(names(&root), [&b"dir"[..], b"new"].map(<[u8]>::to_vec).into());
    assert_eq!(root.remove_dir(b"dir"), Err(FileError::Sys(Errno::NOTEMPTY)));
    dir.unlink(b"file").unwrap();
    root.rename(b"new", &root, b"dir", RenameMode::Replace).unwrap();
    root.remove_dir(b"dir").unwrap();
    assert_eq!(stored_count(&throwaway), 1);
}

/// The states of the disk between the steps of making and of removing a directory.
#[test]
fn what_a_crash_leaves_of_a_directory_is_in_nobodys_way() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    root.make_dir(b"dir", ME, 0o755).unwrap();
    let lower = stored_dirs(&throwaway).remove(0);
    let text = fs::read_link(lower.join("dir.cmkfs")).unwrap();
    for place in [throwaway.path().join("tree"), lower.clone()] {
        for (digit, marked) in [("a", false), ("b", true)] {
            let left = place.join(digit.repeat(32) + ".temp");
            fs::create_dir(&left).unwrap();
            if marked {
                std::os::unix::fs::symlink(&text, left.join("dir.cmkfs")).unwrap();
            }
            // It was itself emptied of such a directory, and of a name.
            fs::create_dir(left.join("c".repeat(32) + ".temp")).unwrap();
            fs::write(left.join("n".repeat(43) + ".name"), "sealed").unwrap();
        }
        fs::write(place.join("n".repeat(43) + ".name"), "sealed").unwrap();
    }
    drop(root);
    let volume = throwaway.open();
    let root = volume.root().unwrap();
    let dir = root.open_dir(b"dir").unwrap();
    assert_eq!((names(&root).len(), names(&dir).len()), (1, 0));
    assert_eq!(volume.figures().damages, 0);
    assert_eq!(root.make_dir(b"dir", ME, 0o755), Err(FileError::Sys(Errno::EXIST)));
    dir.make_dir(b"new", ME, 0o755).unwrap();
    dir.remove_dir(b"new").unwrap();
    root.remove_dir(b"dir").unwrap();
    assert!(!lower.exists());
    root.make_dir(b"dir", ME, 0o755).unwrap();
    // A directory that took the place of another one, with leftovers in that.
    root.make_dir(b"other", ME, 0o755).unwrap();
    for path in stored_dirs(&throwaway) {
        if path.extension().is_none() {
            fs::create_dir(path.join("d".repeat(32) + ".temp")).unwrap();
        }
    }
    root.rename(b"dir", &root, b"other", RenameMode::Replace).unwrap();
    assert_eq!(names(&root), [b"other".to_vec()].into());
}

/// Somebody has given a full directory a temporary name: it is hidden, and not destroyed.
#[test]
fn a_temporary_name_is_no_reason_to_remove_objects() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    root.make_dir(b"dir", ME, 0o755).unwrap();
    let dir = root.open_dir(b"dir").unwrap();
    dir.make_dir(b"full", ME, 0o755).unwrap();
    put(&dir.open_dir(b"full").unwrap(), b"file", b"content");
    let lower = stored_dirs(&throwaway).remove(0);
    let full = fs::read_dir(&lower).unwrap().map(|entry| entry.unwrap().path());
    let full = full.into_iter().find(|path| path.is_dir()).unwrap();
    let hidden = lower.join("a".repeat(32) + ".temp");
    fs::rename(&full, &hidden).unwrap();
    assert_eq!(names(&dir).len(), 0);
    assert_eq!(root.remove_dir(b"dir"), Err(FileError::Sys(Errno::NOTEMPTY)));
    fs::rename(&hidden, &full).unwrap();
    assert_eq!(names(&root), [b"dir".to_vec()].into());
    assert_eq!(
        get(&root.open_dir(b"dir").unwrap().open_dir(b"full").unwrap(), b"file"),
        b"content"
    );
}

#[test]
fn a_failed_mkdir_leaves_nothing_and_says_why() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    put(&root, b"file", b"x");
    put(&root, &[b'f'; 200], b"x");
    let before = stored_count(&throwaway);
    for name in [&b"file"[..], &[b'f'; 200]] {
        assert_eq!(root.make_dir(name, ME, 0o755), Err(FileError::Sys(Errno::EXIST)));
    }
    assert_eq!(root.make_dir(&[b'n'; 256], ME, 0o755), Err(FileError::NameTooLong));
    assert_eq!(stored_count(&throwaway), before);
}

/// What syncs a rename costs.
fn syncs_of_rename(durability: Durability, synced: bool, open: bool, mode: RenameMode) -> u64 {
    let throwaway = Throwaway::new(4096);
    let volume = throwaway.open_with(&VolumeOptions { durability, ..VolumeOptions::default() });
    let root = volume.root().unwrap();
    let write = |name: &[u8]| {
        let (file, _) = root.create_file(name, ME, 0o644).unwrap();
        file.write(0, &[7; 9000]).unwrap();
        if synced {
            file.sync(true).unwrap();
        }
        file
    };
    let files = [write(b"new"), write(b"old")];
    let kept = open.then(|| files.clone());
    drop(files);
    let before = volume.figures().syncs;
    root.rename(b"new", &root, b"old", mode).unwrap();
    drop(kept);
    volume.figures().syncs - before
}

#[test]
fn what_takes_the_place_of_something_is_durable_first() {
    for open in [false, true] {
        let strict = |synced, mode| syncs_of_rename(Durability::Strict, synced, open, mode);
        assert_eq!(strict(false, RenameMode::Replace), 1, "{open}");
        assert_eq!(strict(false, RenameMode::Exchange), 2, "{open}");
        assert_eq!(strict(true, RenameMode::Replace), 0, "{open}");
        assert_eq!(strict(true, RenameMode::Exchange), 0, "{open}");
        let relaxed = syncs_of_rename(Durability::Relaxed, false, open, RenameMode::Replace);
        assert_eq!(relaxed, 0, "{open}");
    }
}

#[test]
fn what_was_written_since_it_was_synced_is_not_taken_for_durable() {
    let throwaway = Throwaway::new(4096);
    let volume = throwaway.open();
    let root = volume.root().unwrap();
    put(&root, b"old", b"old");
    let (file, stat) = root.create_file(b"new", ME, 0o644).unwrap();
    file.sync(true).unwrap();
    drop(file);
    let file = root.open_file(b"new", Access::Write).unwrap();
    file.write(0, b"more").unwrap();
    drop(file);
    let before = volume.figures().syncs;
    root.rename(b"new", &root, b"old", RenameMode::Replace).unwrap();
    assert_eq!(volume.figures().syncs - before, 1, "inode {}", stat.ino);
    // A name that was free is taken without waiting.
    root.rename(b"old", &root, b"free", RenameMode::Replace).unwrap();
    assert_eq!(volume.figures().syncs - before, 1);
}

#[test]
fn a_sidecar_without_its_object_is_in_nobodys_way() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    root.make_dir(b"parent", ME, 0o755).unwrap();
    let dir = root.open_dir(b"parent").unwrap();
    let long = &[b'l'; 200];
    put(&dir, long, b"content");
    let stored = stored_dirs(&throwaway).remove(0);
    let object = fs::read_dir(&stored).unwrap().map(|entry| entry.unwrap().path());
    let object = object.into_iter().find(|path| path.to_str().unwrap().ends_with(".long"));
    fs::remove_file(object.unwrap()).unwrap();
    assert_eq!(names(&dir), BTreeSet::new());
    // Its bytes may be anything: they never were made durable.
    let sidecar = fs::read_dir(&stored).unwrap().map(|entry| entry.unwrap().path());
    let sidecar = sidecar.into_iter().find(|path| path.to_str().unwrap().ends_with(".name"));
    fs::write(sidecar.unwrap(), vec![7; 4096]).unwrap();
    put(&dir, long, b"again");
    assert_eq!(names(&dir), BTreeSet::from([long.to_vec()]));
    assert_eq!(root.remove_dir(b"parent"), Err(FileError::Sys(Errno::NOTEMPTY)));
    dir.unlink(long).unwrap();
    fs::write(stored.join("x.name"), b"").unwrap();
    root.remove_dir(b"parent").unwrap();
    assert_eq!(stored_count(&throwaway), 1);
}

#[test]
fn what_is_not_ours_keeps_a_directory() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    root.make_dir(b"dir", ME, 0o755).unwrap();
    let stored = stored_dirs(&throwaway).remove(0);
    for foreign in ["x.bak", "x.temp"] {
        fs::write(stored.join(foreign), b"somebody's").unwrap();
        assert_eq!(root.remove_dir(b"dir"), Err(FileError::Sys(Errno::NOTEMPTY)), "{foreign}");
        root.open_dir(b"dir").unwrap();
        assert_eq!(fs::read_dir(&stored).unwrap().count(), 2, "{foreign}");
        fs::remove_file(stored.join(foreign)).unwrap();
    }
    root.remove_dir(b"dir").unwrap();
}

#[test]
fn a_call_that_fails_leaves_the_times_of_the_directory() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open().root().unwrap();
    root.make_dir(b"dir", ME, 0o755).unwrap();
    put(&root.open_dir(b"dir").unwrap(), b"file", b"x");
    let before = root.stat().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(root.make_dir(b"dir", ME, 0o755), Err(FileError::Sys(Errno::EXIST)));
    assert_eq!(root.remove_dir(b"dir"), Err(FileError::Sys(Errno::NOTEMPTY)));
    assert_eq!(root.stat().unwrap(), before);
}

/// At each moment the name leads to a whole directory. The empty one may be left under the name
/// that was to go.
#[test]
fn a_crash_while_an_empty_directory_is_replaced_leaves_both_whole() {
    let (mut before, mut between) = (0, 0);
    for calls in 0.. {
        let throwaway = Throwaway::new(4096);
        let faulty = Faulty::default();
        let options = VolumeOptions::default();
        let root = throwaway.open_watched(Arc::new(faulty.clone()), &options).unwrap();
        let root = root.root().unwrap();
        root.make_dir(b"from", ME, 0o755).unwrap();
        put(&root.open_dir(b"from").unwrap(), b"file", b"content");
        root.make_dir(b"to", ME, 0o755).unwrap();
        faulty.arm(faulty.calls() + calls, Errno::IO, Extent::All);
        let renamed = root.rename(b"from", &root, b"to", RenameMode::Replace);
        drop(root);
        let root = throwaway.open().root().unwrap();
        let to = root.open_dir(b"to").unwrap();
        let from = root.open_dir(b"from");
        if names(&to).is_empty() {
            assert_eq!(get(&from.unwrap(), b"file"), b"content");
            before += 1;
            continue;
        }
        assert_eq!(get(&to, b"file"), b"content");
        if let Ok(from) = from {
            assert!(names(&from).is_empty());
            root.remove_dir(b"from").unwrap();
            between += 1;
        }
        assert_eq!(names(&root), [b"to".to_vec()].into());
        if renamed.is_ok() {
            assert!(before > 0 && between > 0, "{before} before, {between} between");
            return;
        }
    }
}
