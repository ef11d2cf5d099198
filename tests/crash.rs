//! Random histories on a volume whose disk is recorded, and the power cut at random moments: what
//! recovers from each image is what the model of acknowledged operations allows. A failure prints
//! the shortest history found that fails, and its seed.
//!
//! With `CMKFS_CRASH_STRICT` set, what is promised while synced bytes are being overwritten is
//! judged too. That needs a journal, and there is none: it fails. `CMKFS_CRASH_SEED`,
//! `CMKFS_CRASH_HISTORIES` and `CMKFS_CRASH_IMAGES` make it another or a longer run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/history.rs"]
mod history;
#[path = "support/judge.rs"]
mod judge;
#[path = "support/recorder.rs"]
mod recorder;
#[path = "support/volume.rs"]
mod volume;

use std::num::NonZero;
use std::sync::Arc;

use cmkfs::file::VolumeOptions;
use disk::Disk;
use history::{Act, Model, Player, Random};
use judge::{Rules, check};
use recorder::Recorder;
use volume::Throwaway;

/// What holds now. With both true, P2 and P3 are judged as they are promised.
const RULES: Rules = Rules { journal: false, durable_names: true };
const STRICT: Rules = Rules { durable_names: true };

const BLOCK: u64 = 4096;

fn options() -> VolumeOptions {
    VolumeOptions { threads: NonZero::new(1), ..VolumeOptions::default() }
}

/// Histories differ in what they do most.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// Appends and fsyncs to a log.
    Log,
    /// Random overwrites and fsyncs of a few blocks.
    Overwrites,
    /// A new file, fsync, rename over the old one.
    Checkpoints,
    /// Names made, moved and removed, directories synced.
    Names,
    /// Everything.
    Mixed,
}

const LOADS: [Load; 5] = [Load::Log, Load::Overwrites, Load::Checkpoints, Load::Names, Load::Mixed];

fn path(random: &mut Random) -> String {
    let name = |random: &mut Random| match random.below(12) {
        0 => "l".repeat(200),
        n => ["a", "b", "c", "d"][n % 4].to_owned(),
    };
    match random.below(3) {
        0 => format!("{}/{}", ["d", "e"][random.below(2)], name(random)),
        _ => name(random),
    }
}

fn len(random: &mut Random) -> usize {
    match random.below(4) {
        0 => 1 + random.below(200),
        1 => 4096,
        _ => 1 + random.below(20_000),
    }
}

fn any_act(random: &mut Random, load: Load) -> Act {
    let fill = u8::try_from(1 + random.below(255)).unwrap();
    let file = match load {
        Load::Log | Load::Overwrites => ["a", "b"][random.below(2)].to_owned(),
        _ => path(random),
    };
    let pick = match load {
        Load::Log => [0, 1, 3, 3, 3, 4, 4, 4][random.below(8)],
        Load::Overwrites => [0, 1, 2, 2, 2, 2, 4, 4, 5, 15][random.below(10)],
        Load::Checkpoints => [0, 2, 2, 4, 4, 9, 9, 6, 7][random.below(9)],
        Load::Names => [0, 6, 6, 8, 9, 9, 10, 10, 11, 12, 13, 14, 2, 4][random.below(14)],
        Load::Mixed => random.below(16),
    };
    match random.below(24) {
        0 => return Act::CommitAll,
        1 => return Act::Checkpoint,
        _ => {}
    }
    match pick {
        0 | 1 => Act::Create(file),
        2 => Act::Write { path: file, at: random.below(30_000), len: len(random), fill },
        3 => Act::Append { path: file, len: len(random), fill },
        4 if random.below(2) == 0 => Act::Fsync(file),
        4 => Act::Fdatasync(file),
        5 => Act::Truncate { path: file, len: random.below(3) * random.below(20_000) },
        6 => Act::FsyncDir(["", "d", "e"][random.below(3)].to_owned()),
        7 => Act::Close(file),
        8 => Act::Mkdir(["d", "e", "d/e"][random.below(3)].to_owned()),
        9 => Act::Rename { from: file, to: path(random) },
        10 => Act::Unlink(file),
        11 => Act::Link { from: file, to: path(random) },
        12 => Act::Symlink { path: file, len: [20, 2000][random.below(2)] },
        13 => Act::Rmdir(["d", "e", "d/e"][random.below(3)].to_owned()),
        14 => Act::SetXattr { path: file, fill },
        _ => Act::Punch { path: file, at: 4096 * random.below(5), len: 4096 },
    }
}

fn history(seed: u64, load: Load, count: usize) -> Vec<Act> {
    let mut random = Random(seed);
    (0..count).map(|_| any_act(&mut random, load)).collect()
}

/// A history that was played, and what was acknowledged after how many calls.
struct Played {
    throwaway: Throwaway,
    recorder: Recorder,
    states: Vec<(usize, Model)>,
}

fn play(acts: &[Act]) -> Result<Played, String> {
    // In memory, where there is such a place: nothing here is for a disk's own sake.
    let shm = std::path::Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let throwaway = Throwaway::in_dir(tempfile::tempdir_in(parent).unwrap(), BLOCK);
    let recorder = Recorder::new(throwaway.path());
    let volume = throwaway
        .open_watched(Arc::new(recorder.clone()), &options())
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

    /// Cuts the power at a moment that `seed` says, and looks.
    fn crash(&self, seed: u64, rules: Rules) -> Result<(), String> {
        let mut random = Random(seed);
        let calls = random.below(self.recorder.len() + 1);
        let disk = self.recorder.image(calls, &mut random);
        self.recorder.put(&disk);
        let may = self.may(calls);
        let look = || -> Result<(), String> {
            let volume = self.throwaway.open_with(&options());
            let root = volume.root().map_err(|error| format!("the root: {error}"))?;
            check(&root, &may, rules)
        };
        look().map_err(|say| {
            let last = self.recorder.words(calls.saturating_sub(12), calls);
            format!(
                "{say}\n  cut after call {calls}, image {seed:#x}; the last calls:\n    {}",
                last.join("\n    ")
            )
        })
    }
}

/// The first image of a history that is not what it may be.
fn fails(acts: &[Act], seed: u64, images: u64, rules: Rules) -> Option<String> {
    let played = match play(acts) {
        Ok(played) => played,
        Err(say) => return Some(say),
    };
    (0..images).find_map(|n| played.crash(seed.wrapping_add(n * 0x9E37), rules).err())
}

/// Leaves out acts while it still fails.
fn shrink(mut acts: Vec<Act>, seed: u64, images: u64, rules: Rules) -> (Vec<Act>, String) {
    let mut say = fails(&acts, seed, images, rules).unwrap();
    let mut part = acts.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < acts.len() {
            let mut fewer = acts.clone();
            fewer.drain(at..(at + part).min(acts.len()));
            match fails(&fewer, seed, images, rules) {
                Some(why) => (acts, say) = (fewer, why),
                None => at += part,
            }
        }
        part /= 2;
    }
    (acts, say)
}

/// Number of a variable of the environment, for long runs.
fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Plays histories of every load.
fn run(rules: Rules) -> Result<u64, String> {
    let first = number("CMKFS_CRASH_SEED", 1);
    let histories = number("CMKFS_CRASH_HISTORIES", 6);
    let images = number("CMKFS_CRASH_IMAGES", 40);
    for load in LOADS {
        for seed in first..first + histories {
            let acts = history(seed, load, 60);
            if fails(&acts, seed, images, rules).is_some() {
                let (acts, say) = shrink(acts, seed, images, rules);
                return Err(format!("{load:?}, seed {seed}: {acts:#?}\n{say}"));
            }
        }
    }
    Ok(histories * images * LOADS.len() as u64)
}

#[test]
fn what_recovers_from_a_power_cut_is_what_was_acknowledged() {
    if let Err(say) = run(RULES) {
        panic!("{say}");
    }
}

/// The same as it is promised, for who asks for it.
#[test]
fn what_was_synced_survives_being_overwritten() {
    if std::env::var_os("CMKFS_CRASH_STRICT").is_none() {
        eprintln!("not judged: CMKFS_CRASH_STRICT is not set");
        return;
    }
    if let Err(say) = run(STRICT) {
        panic!("{say}");
    }
}

#[test]
fn a_recorded_disk_is_the_disk() {
    for load in LOADS {
        let played = play(&history(7, load, 80)).unwrap();
        let real = Disk::read(played.throwaway.path());
        assert!(played.recorder.now().reachable() == real, "{load:?}: memory and disk differ");
        played.recorder.put(&real);
        let again = Disk::read(played.throwaway.path());
        assert_eq!(again.objects.len(), real.objects.len(), "{load:?}");
    }
}
