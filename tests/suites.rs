//! Whole suites on a real mount: pjdfstest beside the ext4 that the store is on, fsx, and an
//! exerciser of our own for what fsx lacks. Needs `/dev/fuse`, root and loop devices.
//!
//! `CMKFS_PJDFSTEST` and `CMKFS_FSX` name the two programs; without them they are looked for in
//! `target/test-tools/suites/bin`, where `tests/all.sh` installs them, and in `PATH`.
//! `CMKFS_FSX_OPS` is the number of operations of each mix, 200 000 if it is not set; an issue of
//! the program is worth two million. `CMKFS_FSX_SEED` is the first seed, 1 if it is not set.
//!
//!     CMKFS_FSX_OPS=2000000 cargo test --release --test suites -- --nocapture

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "suites/disk.rs"]
mod disk;
#[path = "suites/exerciser.rs"]
mod exerciser;
#[path = "suites/fsx.rs"]
mod fsx;
#[path = "suites/mapped.rs"]
mod mapped;
#[path = "suites/model.rs"]
mod model;
#[path = "support/mount.rs"]
mod mount;
#[path = "suites/pjdfstest.rs"]
mod pjdfstest;
#[path = "suites/programs.rs"]
mod programs;

use std::io::Write;

use disk::Disk;
use exerciser::{Kind, Mix};
use mount::Mount;

/// What the suites mount with, one set after the other. pjdfstest runs once for each; the seeds of
/// the other suites take them in turn.
const OPTION_SETS: &[&[&str]] = &[&[], &["-o", "writeback_cache"]];

/// How many tests of pjdfstest have to pass: fewer mean that it could not do its work here.
const PASSED_MIN: usize = 380;

/// Says a figure in the log of the tests also if they pass, whose output is not shown otherwise.
fn tell(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

#[test]
fn what_pjdfstest_finds_on_ext4_it_finds_on_a_mount() {
    let suite = pjdfstest::Suite::new();
    let disk = Disk::ext4();
    // Before there is a store on the disk, whose open files would be in the way of a remount.
    let ext4 = suite.run(&disk.open_dir("plain"));
    tell(&format!("pjdfstest on ext4: {}", ext4.counts()));
    for options in OPTION_SETS {
        let mount = Mount::in_dir(disk.temporary(), options);
        disk::open(&mount.point());
        let dir = mount.at("pjdfstest");
        std::fs::create_dir(&dir).unwrap();
        disk::open(&dir);
        let found = suite.run(&dir);
        tell(&format!("pjdfstest on cmkfs {options:?} on the same ext4: {}", found.counts()));
        let worse = ext4.passed_but_not_in(&found);
        assert!(worse.is_empty(), "pass on ext4, not on cmkfs {options:?}:\n{worse}");
        assert!(found.passed() >= PASSED_MIN, "wanted {PASSED_MIN}, found {}", found.counts());
    }
}

/// Every operation, an unmount every 250 of them.
const EVERYTHING: Mix = Mix {
    name: "everything",
    weights: &[
        (Kind::Read, 150),
        (Kind::Write, 150),
        (Kind::DirectRead, 60),
        (Kind::DirectWrite, 60),
        (Kind::MapRead, 80),
        (Kind::MapWrite, 80),
        (Kind::Truncate, 60),
        (Kind::Punch, 50),
        (Kind::Zero, 50),
        (Kind::Allocate, 40),
        (Kind::Shift, 10),
        (Kind::Copy, 60),
        (Kind::Seek, 60),
        (Kind::Forget, 40),
        (Kind::Sync, 10),
        (Kind::DataSync, 10),
        (Kind::Reopen, 26),
        (Kind::Remount, 4),
    ],
};

/// Mostly past the kernel's cache, between what goes through it.
const DIRECT: Mix = Mix {
    name: "O_DIRECT",
    weights: &[
        (Kind::DirectRead, 350),
        (Kind::DirectWrite, 350),
        (Kind::Read, 60),
        (Kind::Write, 60),
        (Kind::MapRead, 50),
        (Kind::MapWrite, 50),
        (Kind::Truncate, 40),
        (Kind::Punch, 20),
        (Kind::Copy, 20),
        (Kind::DataSync, 10),
        (Kind::Reopen, 9),
        (Kind::Remount, 1),
    ],
};

/// Mostly ranges that are zeroed, given up, set aside and looked for.
const RANGES: Mix = Mix {
    name: "ranges",
    weights: &[
        (Kind::Read, 100),
        (Kind::Write, 150),
        (Kind::MapWrite, 50),
        (Kind::Truncate, 50),
        (Kind::Punch, 150),
        (Kind::Zero, 200),
        (Kind::Allocate, 80),
        (Kind::Shift, 20),
        (Kind::Copy, 20),
        (Kind::Seek, 150),
        (Kind::Forget, 20),
        (Kind::DataSync, 9),
        (Kind::Remount, 1),
    ],
};

/// The exerciser asks nothing that ext4 does not do.
#[test]
fn the_exerciser_and_its_model_agree_on_ext4() {
    let disk = Disk::ext4();
    for seed in 1..=3 {
        exerciser::run_seed(&disk.open_dir(&seed.to_string()), &EVERYTHING, seed, 5_000, &|| ());
    }
}

#[test]
fn files_are_what_a_model_says_over_many_remounts() {
    exerciser::run(&EVERYTHING);
}

#[test]
fn files_are_what_a_model_says_past_the_cache() {
    exerciser::run(&DIRECT);
}

#[test]
fn files_are_what_a_model_says_with_ranges_zeroed() {
    exerciser::run(&RANGES);
}

#[test]
fn fsx_default() {
    fsx::run(&fsx::DEFAULT);
}

#[test]
fn fsx_with_mapped_memory() {
    fsx::run(&fsx::MAPPED);
}

#[test]
fn fsx_with_holes() {
    fsx::run(&fsx::HOLES);
}

#[test]
fn fsx_with_copies() {
    fsx::run(&fsx::COPIES);
}
