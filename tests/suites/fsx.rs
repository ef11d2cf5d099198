//! fsx: one file under random operations, every byte read compared with what it should be.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::mount::Mount;
use crate::programs;
use crate::{OPTION_SETS, tell};

/// Operations of a run, at most. Short runs are many seeds; and fsx keeps every range that it
/// reads through a mapping mapped, which makes long ones slow and ends in the system's limit.
const OPS_PER_SEED: u64 = 10_000;
/// Lengths of the file, in turn: some blocks and part of one, what it is by default, and more
/// than one node's worth of blocks.
const LENS: [u32; 3] = [20_000, 256 << 10, 3_000_000];

/// Which operations, and how often one for how many of the others.
pub(crate) struct Weights {
    name: &'static str,
    settings: &'static str,
    weights: &'static [(&'static str, u32)],
}

pub(crate) const DEFAULT: Weights = Weights {
    name: "default",
    settings: "",
    weights: &[("close_open", 1), ("invalidate", 1), ("fsync", 1), ("fdatasync", 1)],
};

pub(crate) const MAPPED: Weights = Weights {
    name: "mapped memory",
    settings: "nomsyncafterwrite = true",
    weights: &[
        ("mapread", 30),
        ("mapwrite", 40),
        ("truncate", 5),
        ("invalidate", 2),
        ("close_open", 1),
        ("fsync", 1),
    ],
};

pub(crate) const HOLES: Weights = Weights {
    name: "holes",
    settings: "",
    weights: &[
        ("punch_hole", 30),
        ("posix_fallocate", 10),
        ("mapread", 5),
        ("mapwrite", 5),
        ("close_open", 1),
        ("fdatasync", 1),
    ],
};

pub(crate) const COPIES: Weights = Weights {
    name: "copies",
    settings: "",
    weights: &[
        ("copy_file_range", 30),
        ("sendfile", 15),
        ("mapread", 5),
        ("mapwrite", 5),
        ("truncate", 5),
        ("posix_fadvise", 5),
        ("punch_hole", 2),
        ("close_open", 1),
        ("fsync", 1),
    ],
};

/// A number from the environment.
fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable}: wanted a number, found {text:?}"))
    })
}

/// Operations of a mix, and the first seed.
pub(crate) fn extent() -> (u64, u64) {
    (setting("CMKFS_FSX_OPS", 200_000), setting("CMKFS_FSX_SEED", 1))
}

impl Weights {
    fn toml(&self, len: u32) -> String {
        let mut text = format!("flen = {len}\n{}\n[weights]\n", self.settings);
        for (name, weight) in self.weights {
            writeln!(text, "{name} = {weight}").unwrap();
        }
        text
    }
}

/// What was said last; all before are operations.
fn last_lines(said: &[u8]) -> Vec<String> {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<_> = said.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(20)..].to_vec()
}

/// Runs fsx on a mount, from seed to seed, until all operations are done; with a remount between
/// them, so that no run finds warm caches.
pub(crate) fn run(weights: &Weights) {
    let program = programs::find("CMKFS_FSX", "fsx");
    let (ops, first_seed) = extent();
    let mounts: Vec<Mount> = OPTION_SETS.iter().map(|options| Mount::new(options)).collect();
    let aside = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut left = ops;
    let mut seed = first_seed;
    while left > 0 {
        let turn = usize::try_from(seed - first_seed).unwrap();
        let (mount, options) = (&mounts[turn % mounts.len()], OPTION_SETS[turn % mounts.len()]);
        let now = left.min(OPS_PER_SEED);
        let toml = weights.toml(LENS[turn / mounts.len() % LENS.len()]);
        let configuration = aside.path().join("fsx.toml");
        fs::write(&configuration, &toml).unwrap();
        let file = mount.at("fsx");
        let on = |file: &Path| {
            let mut command = Command::new(&program);
            command.arg("-f").arg(&configuration).arg("-P").arg(aside.path());
            command.args(["-N", &now.to_string(), "-S", &seed.to_string()]).arg(file);
            let output = command.env("RUST_BACKTRACE", "0").output().unwrap();
            (output.status.success(), last_lines(&output.stderr))
        };
        let (done, said) = on(&file);
        let case = format!("seed {seed}, {now} operations, mounted with {options:?}");
        if done {
            left -= now;
        } else {
            // Such as a range of no bytes, which it asks for now and then and does not expect to
            // be refused: it ends there without a mount too, and another seed takes its place.
            let without = on(&aside.path().join("file"));
            assert_eq!(without, (false, said), "fsx {case}, configuration:\n{toml}");
            tell(&format!("fsx {}: {case}: it ends early, without a mount too", weights.name));
        }
        fs::remove_file(&file).unwrap();
        mount.remount();
        seed += 1;
    }
    let (seeds, seconds) = (seed - first_seed, began.elapsed().as_secs());
    tell(&format!("fsx {}: {ops} operations, {seeds} seeds, {seconds} s", weights.name));
}
