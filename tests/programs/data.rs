//! Data as machine learning keeps it: mapped files, logs of many writers, caches, checkpoints.

use std::fs;

use crate::mount::Mount;
use crate::{WAYS, script};

#[test]
fn two_hundred_megabytes_are_written_through_a_mapping() {
    for way in WAYS {
        let mount = Mount::new(way);
        let path = mount.at("mapped");
        let path = path.to_str().unwrap();
        let wanted = script("mapped.py", ["write", path]);
        assert_eq!(wanted.trim().len(), 64, "{wanted}");
        mount.remount();
        assert_eq!(script("mapped.py", ["digest", path]), wanted);
        assert_eq!(fs::metadata(path).unwrap().len(), 200_000_000);
    }
}

#[test]
fn sixty_four_processes_append_to_one_log() {
    for way in WAYS {
        let mount = Mount::new(way);
        let path = mount.at("log");
        let path = path.to_str().unwrap();
        script("appended.py", ["write", path]);
        script("appended.py", ["check", path]);
        mount.remount();
        script("appended.py", ["check", path]);
    }
}

#[test]
fn models_are_cached_saved_and_loaded() {
    for way in WAYS {
        let mount = Mount::new(way);
        for (verb, dir) in [("cache", mount.at("cache")), ("save", mount.at("saved"))] {
            fs::create_dir(&dir).unwrap();
            script("models.py", [verb, dir.to_str().unwrap()]);
        }
        let point = mount.point();
        script("models.py", ["check", point.to_str().unwrap()]);
        mount.remount();
        script("models.py", ["check", point.to_str().unwrap()]);
    }
}

#[test]
fn names_that_are_replaced_are_there_at_every_moment() {
    for way in WAYS {
        let mount = Mount::new(way);
        script("replaced.py", [mount.point()]);
    }
}

#[test]
fn every_kind_of_lock_lets_one_process_in_at_a_time() {
    for way in WAYS {
        let mount = Mount::new(way);
        script("locks.py", [mount.point()]);
    }
}
