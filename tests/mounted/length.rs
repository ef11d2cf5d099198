//! A kernel that keeps the size of a file itself takes it from us once: it has to be the authentic
//! one.

use std::fs::{self, OpenOptions};
use std::path::Path;

use crate::mount::Mount;
use crate::pattern;

/// The stored files of a tree, without those that describe directories.
fn stored(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let named = entries.filter(|entry| !entry.file_name().to_string_lossy().contains('.'));
    named.map(|entry| entry.path()).collect()
}

#[test]
fn a_stored_file_that_was_lengthened_is_as_long_as_it_was_written() {
    let mount = Mount::new(&["-o", "writeback_cache"]);
    let wanted = pattern(20_004, 9);
    fs::write(mount.at("file"), &wanted).unwrap();
    mount.umount();
    let [path] = &stored(&mount.store().join("tree"))[..] else { panic!("one stored file") };
    let lower = OpenOptions::new().write(true).open(path).unwrap();
    lower.set_len(lower.metadata().unwrap().len() + 100_000).unwrap();
    drop(lower);
    mount.mount();
    // By its name, and by a listing that tells attributes.
    assert_eq!(fs::metadata(mount.at("file")).unwrap().len(), 20_004);
    assert!(fs::read(mount.at("file")).unwrap() == wanted);
    mount.remount();
    let listed = fs::read_dir(mount.point()).unwrap().map(|entry| entry.unwrap().metadata());
    let lens: Vec<u64> = listed.map(|metadata| metadata.unwrap().len()).collect();
    assert_eq!(lens, [20_004]);
    assert!(fs::read(mount.at("file")).unwrap() == wanted);
    mount.umount();
}
