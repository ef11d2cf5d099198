//! Random histories on a volume whose disk is recorded, and the power cut at random moments, some
//! of them in the middle of the recovery from another cut or from a kill: what recovers from each
//! image is what the model of acknowledged operations allows. A failure prints the shortest history
//! found that fails, and its seed.
//!
//! `CMKFS_CRASH_SEED`, `CMKFS_CRASH_HISTORIES` and `CMKFS_CRASH_IMAGES` (a history) make it another
//! or a longer run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/history.rs"]
mod history;
#[path = "support/judge.rs"]
mod judge;
#[path = "crash/loads.rs"]
mod loads;
#[path = "support/recorder.rs"]
mod recorder;
#[path = "support/volume.rs"]
mod volume;

use std::io::Write;
use std::num::NonZero;
use std::sync::Arc;

use cmkfs::file::{Durability, VolumeOptions};
use disk::Disk;
use history::{Act, Model, Player, Random};
use judge::{Rules, check};
use loads::{LOADS, history};
use recorder::{Lie, Recorder};
use volume::Throwaway;

const BLOCK: u64 = 4096;
/// Acts of a history, about.
const ACTS: usize = 60;

fn options(durability: Durability) -> VolumeOptions {
    VolumeOptions { threads: NonZero::new(1), durability, ..VolumeOptions::default() }
}

/// Number of a variable of the environment, for long runs.
fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Says a figure in the log of the tests also if they pass.
fn tell(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// What is tried, and how it is judged.
#[derive(Clone, Copy)]
struct Trial {
    durability: Durability,
    lie: Option<Lie>,
    images: u64,
}

impl Trial {
    fn new(durability: Durability) -> Self {
        Self { durability, lie: None, images: number("CMKFS_CRASH_IMAGES", 40) }
    }

    fn rules(&self) -> Rules {
        let strict = self.durability == Durability::Strict;
        Rules { journal: strict, durable_names: strict }
    }
}

/// How a writer ends, and what happens to whoever recovers what it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// The power is cut.
    Cut,
    /// And once more during the recovery.
    CutTwice,
    /// It is killed, and the power is cut during the recovery: what that read was not all durable.
    KilledThenCut,
}

/// A history that was played, and what was acknowledged after how many calls.
struct Played {
    throwaway: Throwaway,
    recorder: Recorder,
    states: Vec<(usize, Model)>,
}

fn play(acts: &[Act], trial: Trial) -> Result<Played, String> {
    // In memory, where there is such a place: nothing here is for a disk's own sake.
    let shm = std::path::Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let throwaway = Throwaway::in_dir(tempfile::tempdir_in(parent).unwrap(), BLOCK);
    let recorder = Recorder::new(throwaway.path(), trial.lie);
    let volume = throwaway
        .open_watched(Arc::new(recorder.clone()), &options(trial.durability))
        .map_err(|error| format!("opening: {error}"))?;
    let mut player = Player::new(&volume).map_err(|error| format!("the root: {error}"))?;
    let mut states = vec![(recorder.len(), player.model.clone())];
    for act in acts {
        if let Some(Err(error)) = player.act(act) {
            return Err(format!("{act:?}: {error}"));
        }
        states.push((recorder.len(), player.model.clone()));
    }
    recorder.cut();
    drop(player);
    drop(volume);
    Ok(Played { throwaway, recorder, states })
}

impl Played {
    /// What may be read after a cut there.
    fn may(&self, calls: usize) -> Model {
        let done = self.states.iter().rposition(|(len, _)| *len <= calls).unwrap_or(0);
        let before = &self.states[done].1;
        self.states.get(done + 1).map_or_else(|| before.clone(), |next| before.or(&next.1))
    }

    /// Ends the writer at a moment that `seed` says, and looks.
    fn crash(&self, seed: u64, trial: Trial) -> Result<(), String> {
        let mut random = Random(seed);
        let calls = random.below(self.recorder.len() + 1);
        let ends = [Ends::Cut, Ends::CutTwice, Ends::KilledThenCut][random.below(3)];
        let mut look = || -> Result<(), String> {
            match ends {
                Ends::KilledThenCut => {
                    let disk = self.recorder.killed(calls);
                    self.cut_in_recovery(&disk, &mut random, trial)?;
                }
                Ends::Cut | Ends::CutTwice => {
                    self.recorder.put(&self.recorder.image(calls, &mut random));
                }
            }
            if ends == Ends::CutTwice {
                let disk = Recorder::new(self.throwaway.path(), trial.lie);
                self.cut_in_recovery(&disk, &mut random, trial)?;
            }
            let volume = self.throwaway.open_with(&options(trial.durability));
            let root = volume.root().map_err(|error| format!("the root: {error}"))?;
            check(&root, &self.may(calls), trial.rules())
        };
        look().map_err(|say| {
            let last = self.recorder.words(calls.saturating_sub(12), calls);
            format!(
                "{say}\n  {ends:?} after call {calls}, image {seed:#x}; the last calls:\n    {}",
                last.join("\n    ")
            )
        })
    }

    /// Cuts the power while the volume on this disk is opened and recovers, or right after.
    fn cut_in_recovery(
        &self,
        recorder: &Recorder,
        random: &mut Random,
        trial: Trial,
    ) -> Result<(), String> {
        let before = recorder.len();
        let opened = self
            .throwaway
            .open_watched(Arc::new(recorder.clone()), &options(trial.durability))
            .map_err(|error| format!("recovering: {error}"));
        recorder.cut();
        drop(opened?);
        let calls = before + random.below(recorder.len() - before + 1);
        recorder.put(&recorder.image(calls, random));
        Ok(())
    }
}

/// The first image of a history that is not what it may be.
fn fails(acts: &[Act], seed: u64, trial: Trial) -> Option<String> {
    let played = match play(acts, trial) {
        Ok(played) => played,
        Err(say) => return Some(say),
    };
    (0..trial.images).find_map(|n| played.crash(seed.wrapping_add(n * 0x9E37), trial).err())
}

/// Leaves out acts while it still fails.
fn shrink(mut acts: Vec<Act>, seed: u64, trial: Trial) -> (Vec<Act>, String) {
    let mut say = fails(&acts, seed, trial).unwrap();
    let mut part = acts.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < acts.len() {
            let mut fewer = acts.clone();
            fewer.drain(at..(at + part).min(acts.len()));
            match fails(&fewer, seed, trial) {
                Some(why) => (acts, say) = (fewer, why),
                None => at += part,
            }
        }
        part /= 2;
    }
    (acts, say)
}

/// Plays histories of every load.
fn run(trial: Trial) {
    let first = number("CMKFS_CRASH_SEED", 1);
    let histories = number("CMKFS_CRASH_HISTORIES", 8);
    for load in LOADS {
        for seed in first..first + histories {
            let acts = history(seed, load, ACTS);
            if fails(&acts, seed, trial).is_some() {
                let (acts, say) = shrink(acts, seed, trial);
                panic!("{load:?}, seed {seed}: {acts:#?}\n{say}");
            }
        }
    }
    let count = histories * trial.images * LOADS.len() as u64;
    tell(&format!("{count} crash images of {} loads, {}", LOADS.len(), trial.durability));
}

#[test]
fn what_was_synced_survives_a_power_cut() {
    run(Trial::new(Durability::Strict));
}

/// A relaxed volume promises what was synced and is not being overwritten.
#[test]
fn what_was_synced_and_left_alone_survives_a_power_cut_of_a_relaxed_volume() {
    run(Trial::new(Durability::Relaxed));
}

/// Found by the histories: what was synced after a cut to nothing was lost by a large write.
#[test]
fn what_was_synced_after_a_cut_to_nothing_survives_whatever_is_written_then() {
    let path = || "b".to_owned();
    let write = |at, len| Act::Write { path: path(), at, len, fill: 7 };
    let acts = [
        Act::Create(path()),
        Act::Fsync(path()),
        Act::Truncate { path: path(), len: 0 },
        write(6734, 153),
        Act::Fdatasync(path()),
        write(28_976, 1_119_039),
        write(9131, 11_712),
    ];
    let trial = Trial { images: 300, ..Trial::new(Durability::Strict) };
    assert_eq!(fails(&acts, 1, trial), None);
}

/// The harness sees what it is for: with each rule of the protocol broken, images fail.
#[test]
fn a_protocol_with_a_rule_broken_is_noticed() {
    let histories = number("CMKFS_CRASH_HISTORIES", 8);
    for lie in Lie::ALL {
        let trial = Trial { lie: Some(lie), ..Trial::new(Durability::Strict) };
        let (mut failed, mut images) = (0_u64, 0_u64);
        for load in LOADS {
            for seed in 1..=histories {
                let Ok(played) = play(&history(seed, load, ACTS), trial) else { continue };
                let ends = (0..trial.images).map(|n| played.crash(seed + n * 0x9E37, trial));
                failed += ends.filter(Result::is_err).count() as u64;
                images += trial.images;
            }
        }
        tell(&format!("syncs of {lie:?} left out: {failed} of {images} images fail"));
        assert!(failed > 0, "syncs of {lie:?} left out were not noticed");
    }
}

#[test]
fn a_recorded_disk_is_the_disk() {
    for load in LOADS {
        let played = play(&history(7, load, 80), Trial::new(Durability::Strict)).unwrap();
        let real = Disk::read(played.throwaway.path());
        assert!(played.recorder.now().reachable() == real, "{load:?}: memory and disk differ");
        played.recorder.put(&real);
        let again = Disk::read(played.throwaway.path());
        assert_eq!(again.objects.len(), real.objects.len(), "{load:?}");
    }
}
