//! Histories by what they do most.

#![allow(unreachable_pub, reason = "it is a module of one test")]

use crate::history::{Act, Random};

/// What a history does most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Appends and fsyncs to a log.
    Log,
    /// Random overwrites and fsyncs of a few blocks.
    Overwrites,
    /// A new file, fsync, rename over the old one.
    Checkpoints,
    /// A database as SQLite writes one, with a write-ahead log.
    Wal,
    /// The same with a rollback journal.
    Rollback,
    /// Names made, moved and removed, directories synced.
    Names,
    /// Everything.
    Mixed,
}

/// All there are.
pub const LOADS: [Load; 7] = [
    Load::Log,
    Load::Overwrites,
    Load::Checkpoints,
    Load::Wal,
    Load::Rollback,
    Load::Names,
    Load::Mixed,
];

/// Bytes of a page of a database.
const PAGE: usize = 4096;
/// Bytes of a frame of its log.
const FRAME: usize = PAGE + 24;

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
        // More than is written by way of a journal.
        1 if random.below(4) == 0 => 140_000 + random.below(100_000),
        // More than a file that was cut to nothing has in the journal.
        1 if random.below(16) == 0 => (1 << 20) + random.below(100_000),
        1 => 4096,
        _ => 1 + random.below(20_000),
    }
}

fn any_act(random: &mut Random, load: Load) -> Act {
    let fill = fill(random);
    let file = match load {
        Load::Log | Load::Overwrites => ["a", "b"][random.below(2)].to_owned(),
        _ => path(random),
    };
    let pick = match load {
        Load::Log => [0, 1, 3, 3, 3, 4, 4, 4][random.below(8)],
        Load::Overwrites => [0, 1, 2, 2, 2, 2, 4, 4, 5, 15][random.below(10)],
        Load::Checkpoints => [0, 2, 2, 4, 4, 9, 9, 6, 7][random.below(9)],
        Load::Names => [0, 6, 6, 8, 9, 9, 10, 10, 11, 12, 13, 14, 2, 4][random.below(14)],
        Load::Mixed | Load::Wal | Load::Rollback => random.below(16),
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

fn fill(random: &mut Random) -> u8 {
    u8::try_from(1 + random.below(255)).unwrap()
}

/// Pages of the database, written and synced.
fn pages(random: &mut Random, acts: &mut Vec<Act>) {
    for _ in 0..1 + random.below(4) {
        let (at, fill) = (PAGE * random.below(12), fill(random));
        acts.push(Act::Write { path: "db".into(), at, len: PAGE, fill });
    }
    acts.push(Act::Fdatasync("db".into()));
}

/// A transaction into the log; now and then the log is brought into the database and begun anew.
fn wal(random: &mut Random, acts: &mut Vec<Act>) {
    let log = || "db-wal".to_owned();
    acts.extend([Act::Create("db".into()), Act::Create(log())]);
    for _ in 0..1 + random.below(3) {
        acts.push(Act::Append { path: log(), len: FRAME, fill: fill(random) });
    }
    acts.push(Act::Fdatasync(log()));
    if random.below(4) == 0 {
        pages(random, acts);
        match random.below(3) {
            0 => acts.push(Act::Truncate { path: log(), len: 0 }),
            _ => acts.push(Act::Write { path: log(), at: 0, len: 32 + FRAME, fill: fill(random) }),
        }
    }
}

/// A transaction by way of a file with the old pages, which goes in the end.
fn rollback(random: &mut Random, acts: &mut Vec<Act>) {
    let old = || "db-journal".to_owned();
    acts.extend([Act::Create("db".into()), Act::Create(old())]);
    for _ in 0..1 + random.below(3) {
        acts.push(Act::Append { path: old(), len: PAGE + 8, fill: fill(random) });
    }
    acts.extend([Act::Fdatasync(old()), Act::FsyncDir(String::new())]);
    acts.push(Act::Write { path: old(), at: 0, len: 12, fill: fill(random) });
    acts.push(Act::Fdatasync(old()));
    pages(random, acts);
    match random.below(3) {
        0 => acts.push(Act::Truncate { path: old(), len: 0 }),
        _ => acts.extend([Act::Unlink(old()), Act::FsyncDir(String::new())]),
    }
}

/// About `count` acts.
pub fn history(seed: u64, load: Load, count: usize) -> Vec<Act> {
    let mut random = Random(seed);
    let mut acts = Vec::new();
    while acts.len() < count {
        match load {
            Load::Wal | Load::Rollback if random.below(12) == 0 => acts.push(Act::CommitAll),
            Load::Wal => wal(&mut random, &mut acts),
            Load::Rollback => rollback(&mut random, &mut acts),
            _ => acts.push(any_act(&mut random, load)),
        }
    }
    acts
}
