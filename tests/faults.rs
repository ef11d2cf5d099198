//! A disk that fails at every call in turn, with each of three errors, once and for good, and
//! after a part of what it was to write: the error is heard, nothing older is damaged, and what
//! was acknowledged reads as it was written.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/history.rs"]
mod history;
#[path = "support/judge.rs"]
mod judge;
#[path = "support/volume.rs"]
mod volume;

use std::collections::BTreeSet;
use std::num::NonZero;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use cmkfs::file::{File, FileError, RenameMode, VolumeOptions};
use faulty::{Extent, Faulty};
use history::{Act, Model, Player};
use judge::{Rules, check};
use rustix::io::Errno;
use volume::Throwaway;

/// With a journal, a file of which a commit failed is as it was: never unreadable.
const JOURNAL: bool = true;

const ERRORS: [Errno; 3] = [Errno::IO, Errno::NOSPC, Errno::DQUOT];

fn options() -> VolumeOptions {
    VolumeOptions { threads: NonZero::new(1), ..VolumeOptions::default() }
}

fn write(path: &str, at: usize, len: usize, fill: u8) -> Act {
    Act::Write { path: path.into(), at, len, fill }
}

/// Some of everything, with all of it synced at one time or another.
fn script() -> Vec<Act> {
    let s = |path: &str| path.to_owned();
    let long = format!("d/{}", "l".repeat(200));
    vec![
        Act::Create(s("old")),
        write("old", 0, 20_000, 1),
        Act::Fsync(s("old")),
        Act::Close(s("old")),
        Act::Create(s("small")),
        write("small", 0, 100, 2),
        Act::Fsync(s("small")),
        Act::Mkdir(s("d")),
        Act::Create(long.clone()),
        write(&long, 0, 5000, 3),
        Act::Fsync(long.clone()),
        Act::FsyncDir(s("d")),
        Act::FsyncDir(s("")),
        write("old", 5000, 9000, 4),
        Act::Append { path: s("old"), len: 700, fill: 5 },
        Act::Fsync(s("old")),
        write("small", 10, 20, 6),
        write("small", 90, 9000, 7),
        Act::Close(s("small")),
        Act::Truncate { path: long.clone(), len: 600 },
        Act::Close(long.clone()),
        Act::Punch { path: s("old"), at: 4096, len: 8192 },
        Act::Close(s("old")),
        Act::Create(s("new")),
        write("new", 0, 30_000, 8),
        Act::Fsync(s("new")),
        Act::Create(s("large")),
        write("large", 0, 540_000, 15),
        Act::Close(s("large")),
        Act::Append { path: s("large"), len: 9000, fill: 16 },
        Act::Fsync(s("large")),
        Act::Link { from: s("new"), to: s("d/linked") },
        Act::Rename { from: s("new"), to: s("small") },
        Act::SetXattr { path: s("small"), fill: 9 },
        Act::Symlink { path: s("short"), len: 20 },
        Act::Symlink { path: s("d/far"), len: 3000 },
        Act::Rename { from: s("d/far"), to: s("far") },
        Act::Truncate { path: s("old"), len: 0 },
        write("old", 0, 6000, 10),
        Act::Fsync(s("old")),
        Act::Unlink(long),
        Act::Mkdir(s("e")),
        Act::Rmdir(s("e")),
        Act::Unlink(s("short")),
        write("small", 0, 5, 11),
        Act::Close(s("small")),
        Act::FsyncDir(s("")),
        Act::Checkpoint,
        write("small", 0, 70, 12),
        Act::Fdatasync(s("small")),
        write("old", 100, 50, 13),
        Act::Fdatasync(s("old")),
        Act::CommitAll,
        write("old", 200, 50, 14),
        Act::Fsync(s("old")),
    ]
}

/// One run with one fault.
struct Run {
    faulty: Faulty,
    player: Player,
    /// Files of which a call failed.
    hit: BTreeSet<usize>,
    /// Files of which a sync was refused before one went well. Whoever goes on with one without
    /// writing all of it again has from a later sync what came since.
    doubtful: BTreeSet<usize>,
    heard: bool,
}

impl Run {
    /// What a caller does after an error: closes, looks what there is, and goes on.
    fn settle(&mut self, act: &Act, before: &Model, error: &FileError) {
        self.heard = true;
        if let Some((id, path)) = file_of(act, before) {
            self.settle_file(act, id, &path, error);
        } else if matches!(act, Act::CommitAll | Act::Checkpoint) {
            // It may be about any of those that are open; each tells when it is asked.
            let open: Vec<usize> = self.player.open.keys().copied().collect();
            for id in open {
                let path = self.player.model.path_of(id).unwrap();
                self.settle_file(act, id, &path, error);
            }
        } else if !matches!(act, Act::FsyncDir(_)) {
            self.settle_names(act, before);
        }
    }

    fn settle_file(&mut self, act: &Act, id: usize, path: &str, error: &FileError) {
        self.hit.insert(id);
        if let Some(file) = self.player.open.remove(&id) {
            let synced =
                matches!(act, Act::Fsync(_) | Act::Fdatasync(_)) && self.faulty.refused_a_sync();
            if synced && !self.player.model.synced.contains(&id) {
                self.doubtful.insert(id);
            }
            if synced && *error != FileError::Latched {
                let again = self.faulty.aside(|| file.sync(true));
                assert_eq!(again, Err(FileError::Latched), "a failed sync is not forgotten");
            }
        }
        // It is closed now; what is there is what the caller goes on with.
        let faulty = self.faulty.clone();
        let now = faulty.aside(|| self.read(path));
        let model = &mut self.player.model;
        match now {
            Some(now) => model.files.get_mut(&id).unwrap().push(Rc::new(now)),
            None => drop(model.lost.insert(id)),
        }
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let open = || {
            let access = cmkfs::file::Access::Read;
            self.player.dir(dir).unwrap().open_file(name.as_bytes(), access)
        };
        let file = open().or_else(|_| open()).ok()?;
        file.read(0, 1 << 20).ok().map(|data| data.to_vec())
    }

    /// A change of names was made, or was not.
    fn settle_names(&mut self, act: &Act, before: &Model) {
        let after = self.player.model.clone();
        let faulty = self.faulty.clone();
        let is = |model: &Model| faulty.aside(|| check(&self.player.root, &latest(model), LAX));
        if is(&after).is_ok() {
            return;
        }
        let unchanged = is(before);
        assert_eq!(unchanged, Ok(()), "{act:?} failed and left neither the old nor the new");
        self.player.model = before.clone();
    }
}

const LAX: Rules = Rules { journal: false, durable_names: true };

/// Only what is so now, not what was.
fn latest(model: &Model) -> Model {
    let mut model = model.clone();
    model.dirs.values_mut().for_each(|versions| drop(versions.drain(..versions.len() - 1)));
    model
}

fn file_of(act: &Act, before: &Model) -> Option<(usize, String)> {
    let (Act::Write { path, .. }
    | Act::Append { path, .. }
    | Act::Truncate { path, .. }
    | Act::Punch { path, .. }
    | Act::Fsync(path)
    | Act::Fdatasync(path)
    | Act::Close(path)) = act
    else {
        return None;
    };
    before.find(path).map(|id| (id, path.clone()))
}

/// A disk, and the directory of a volume on it.
fn disk() -> (Faulty, Throwaway) {
    let shm = std::path::Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let throwaway = Throwaway::in_dir(tempfile::tempdir_in(parent).unwrap(), 4096);
    (Faulty::losing(throwaway.path()), throwaway)
}

/// Plays the script with one fault; returns how many calls there were.
fn play(
    (faulty, throwaway): (Faulty, Throwaway),
    at: usize,
    errno: Errno,
    extent: Extent,
) -> Result<usize, String> {
    let volume = throwaway.open_watched(Arc::new(faulty.clone()), &options()).unwrap();
    let player = faulty.aside(|| Player::new(&volume).unwrap());
    faulty.arm(at, errno, extent);
    let (hit, doubtful) = (BTreeSet::new(), BTreeSet::new());
    let mut run = Run { faulty: faulty.clone(), player, hit, doubtful, heard: false };
    for act in script() {
        let before = run.player.model.clone();
        if file_of(&act, &before).is_some_and(|(id, _)| before.lost.contains(&id)) {
            continue;
        }
        if let Some(Err(error)) = run.player.act(&act) {
            run.settle(&act, &before, &error);
        }
        if act == Act::Checkpoint && errno != Errno::IO && !faulty.refused_a_sync() {
            // No room in its place is no reason to refuse what is in the journal.
            let read = |file: &Arc<File>| faulty.aside(|| file.read(0, 1).map(drop));
            let all = run.player.open.values().try_for_each(read);
            all.map_err(|error| format!("after a checkpoint: {error}"))?;
        }
    }
    let open: Vec<_> = run.player.open.iter().map(|(id, file)| (*id, file.clone())).collect();
    for (id, file) in open {
        if file.sync(false).is_err() {
            run.heard = true;
            run.hit.insert(id);
        }
    }
    let calls = faulty.calls();
    faulty.disarm();
    let refused = faulty.refused();
    let (hit, heard, mut model) = (run.hit.clone(), run.heard, run.player.model.clone());
    model.lost.extend(&run.doubtful);
    drop(run);
    drop(volume);
    faulty.lose();
    let exact = !faulty.lost();
    after(&throwaway, model, &hit, heard, exact)
        .map_err(|say| format!("{say}; refused: {refused:#?}"))?;
    Ok(calls)
}

/// Opens the volume without faults, and looks.
fn after(
    throwaway: &Throwaway,
    mut model: Model,
    hit: &BTreeSet<usize>,
    heard: bool,
    exact: bool,
) -> Result<(), String> {
    for (id, versions) in &mut model.files {
        if exact && !hit.contains(id) {
            // No error was told of it: it is all there.
            versions.drain(..versions.len() - 1);
            model.synced.insert(*id);
        }
    }
    let volume = throwaway.open_with(&options());
    let root = volume.root().unwrap();
    let said = if heard { "told" } else { "nobody was told" };
    let rules = Rules { journal: JOURNAL, durable_names: true };
    check(&root, &latest(&model), rules).map_err(|say| format!("{say} ({said})"))?;
    // What is damaged can still be looked at, moved and removed.
    for entry in root.entries().map_err(|error| error.to_string())? {
        if entry.kind == cmkfs::file::Kind::Dir {
            continue;
        }
        let told = |what: &str, error: FileError| format!("{what} of {:?}: {error}", entry.name);
        root.lookup(&entry.name).map_err(|error| told("stat", error))?;
        let mode = RenameMode::Replace;
        root.rename(&entry.name, &root, b"moved", mode).map_err(|e| told("rename", e))?;
        root.unlink(b"moved").map_err(|error| told("unlink", error))?;
    }
    Ok(())
}

fn every_call(extent: Extent) {
    let mut failed = Vec::new();
    for errno in ERRORS {
        for at in 0.. {
            let played = std::panic::catch_unwind(|| play(disk(), at, errno, extent));
            match played {
                Ok(Ok(calls)) if calls <= at => break,
                Ok(Ok(_)) => {}
                Ok(Err(say)) => failed.push(format!("{errno:?} at call {at}: {say}")),
                Err(_) => failed.push(format!("{errno:?} at call {at}: panicked")),
            }
            assert!(at < 5000, "the script ends");
        }
    }
    judge_all(&failed);
}

/// The same of writes alone, of which the disk takes a part before it fails.
fn every_write_in_part(extent: Extent) {
    let (faulty, throwaway) = disk();
    play((faulty.clone(), throwaway), usize::MAX, Errno::IO, extent).unwrap();
    let writes = faulty.writes();
    assert!(writes.len() > 50, "{} writes", writes.len());
    let mut failed = Vec::new();
    for errno in [Errno::IO, Errno::NOSPC] {
        for at in &writes {
            let (faulty, throwaway) = disk();
            let disk = (faulty.in_part(), throwaway);
            let played =
                std::panic::catch_unwind(AssertUnwindSafe(|| play(disk, *at, errno, extent)));
            match played {
                Ok(Ok(_)) => {}
                Ok(Err(say)) => failed.push(format!("{errno:?} in write {at}: {say}")),
                Err(_) => failed.push(format!("{errno:?} in write {at}: panicked")),
            }
        }
    }
    judge_all(&failed);
}

fn judge_all(failed: &[String]) {
    let shown = failed.iter().take(8).cloned().collect::<Vec<_>>().join("\n");
    assert!(failed.is_empty(), "{} of the runs failed\n{shown}", failed.len());
}

#[test]
fn a_call_that_fails_once_is_heard_and_harms_nothing_older() {
    every_call(Extent::Once);
}

#[test]
fn calls_that_fail_for_good_are_heard_and_harm_nothing_older() {
    every_call(Extent::Lasting);
}

#[test]
fn a_write_that_fails_in_part_harms_nothing_older() {
    every_write_in_part(Extent::Once);
    every_write_in_part(Extent::Lasting);
}
