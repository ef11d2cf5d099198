//! A lease that can't be renewed for a moment, in the middle of a sync or a checkpoint: what was
//! begun is refused, nothing is lost, and the same goes well once it is renewed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;
#[path = "support/volume.rs"]
mod volume;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cmkfs::file::{Access, Dir, File, FileError, Volume, VolumeOptions};
use cmkfs::lifecycle::open;
use cmkfs::store::{LeaseError, LockMode, Op, Standing, Store, StoreLock, UNRENEWED, Watch};
use desk::await_that;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use volume::{ME, Throwaway};

/// Between two renewals.
const INTERVAL: Duration = Duration::from_millis(10);
/// More calls than any step below makes.
const CALLS_MAX: usize = 1000;
/// Files that a checkpoint has something to do for; the last is new.
const NAMES: [&str; 4] = ["told", "changed", "longer", "new"];

/// What the lock file says, and when it is out of reach.
#[derive(Debug, Default)]
struct State {
    lock: PathBuf,
    /// A directory that stands there instead: a lock file that is gone would be a lost one.
    away: PathBuf,
    standing: Option<Standing>,
    /// Calls until it goes out of reach.
    left: Option<usize>,
    is_away: bool,
}

impl State {
    fn swap(&mut self) {
        renameat_with(CWD, &self.lock, CWD, &self.away, RenameFlags::EXCHANGE).unwrap();
        self.is_away = !self.is_away;
    }

    fn check(&self) -> Result<(), LeaseError> {
        self.standing.as_ref().unwrap().check()
    }
}

/// A disk that the lock file goes out of reach on at one call, from which on nothing is renewed.
#[derive(Clone, Debug, Default)]
struct Reach(Arc<Mutex<State>>);

impl Reach {
    fn arm(&self, calls: usize) {
        self.0.lock().unwrap().left = Some(calls);
    }

    /// Returns whether it was out of reach.
    fn restore(&self) -> bool {
        let mut state = self.0.lock().unwrap();
        state.left = None;
        let was_away = state.is_away;
        if was_away {
            state.swap();
        }
        await_that("it is renewed", || state.check().is_ok());
        was_away
    }
}

impl Watch for Reach {
    fn around(
        &self,
        _: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        let mut state = self.0.lock().unwrap();
        state.left = match state.left {
            Some(0) => {
                state.swap();
                let stale = || matches!(state.check(), Err(LeaseError::Unrenewed(_)));
                await_that("it is stale", stale);
                None
            }
            left => left.map(|left| left - 1),
        };
        drop(state);
        run().map(drop)
    }
}

struct Lab {
    disk: Throwaway,
    reach: Reach,
    volume: Arc<Volume>,
    root: Dir,
    files: Vec<Arc<File>>,
    contents: Vec<Vec<u8>>,
    _lock: StoreLock,
}

impl Lab {
    /// Files with something for a checkpoint to do. Only the last was never synced.
    fn new() -> Self {
        let disk = Throwaway::new(4096);
        let reach = Reach::default();
        let store = Store::open_watched(disk.path(), Arc::new(reach.clone())).unwrap();
        let mut lock = store.lock_renewing(LockMode::Exclusive, Duration::ZERO, INTERVAL).unwrap();
        lock.describe(&open::holder(Vec::new(), None)).unwrap();
        let away = disk.path().join("away");
        std::fs::create_dir(&away).unwrap();
        {
            let mut state = reach.0.lock().unwrap();
            (state.lock, state.away) = (disk.path().join("lock"), away);
            state.standing = lock.standing();
        }
        let descriptor = store.read_descriptor().unwrap();
        let keys = disk.keys(&descriptor).unwrap();
        let options = VolumeOptions::default();
        let volume =
            Volume::open_while(&store, keys, &descriptor, &options, lock.standing()).unwrap();
        let root = volume.root().unwrap();
        let (mut files, mut contents) = (Vec::new(), Vec::new());
        for name in NAMES {
            let (file, _) = root.create_file(name.as_bytes(), ME, 0o600).unwrap();
            let content = vec![1; 100_000];
            file.write(0, &content).unwrap();
            if name != "new" {
                file.sync(false).unwrap();
            }
            files.push(file);
            contents.push(content);
        }
        let mut lab = Self { disk, reach, volume, root, files, contents, _lock: lock };
        lab.write(0, 20_000, &[2; 500]);
        lab.write(1, 20_000, &[2; 200_000]);
        lab.write(2, 100_000, &[2; 500]);
        for file in &lab.files[..3] {
            file.sync(false).unwrap();
        }
        lab
    }

    fn write(&mut self, at: usize, offset: usize, bytes: &[u8]) {
        let content = &mut self.contents[at];
        self.files[at].write(offset as u64, bytes).unwrap();
        content.resize(content.len().max(offset + bytes.len()), 0);
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    #[track_caller]
    fn assert_reads(&self, root: &Dir, files: usize, label: &str) {
        for (name, content) in NAMES.iter().zip(&self.contents).take(files) {
            let file = root.open_file(name.as_bytes(), Access::Read).unwrap();
            let found = file.read(0, 1 << 20);
            assert!(found.as_deref() == Ok(content), "{label}: {name}: {:?}", found.err());
        }
    }

    /// What a crash leaves, recovered.
    #[track_caller]
    fn assert_recovers(&self, files: usize, label: &str) {
        let dir = tempfile::tempdir().unwrap();
        let store: &Path = self.disk.path();
        let mut cp = Command::new("cp");
        assert!(cp.arg("-a").arg(store.join(".")).arg(dir.path()).status().unwrap().success());
        let volume = self.disk.open_at(dir.path(), &VolumeOptions::default());
        self.assert_reads(&volume.root().unwrap(), files, label);
    }
}

/// Tries a step with the lease out of reach from one of its calls on: each of the first, and then
/// fewer and fewer.
fn at_calls(prepare: impl Fn(&mut Lab), step: impl Fn(&Lab) -> Result<(), FileError>) {
    let (mut refused, mut calls) = (0, 0);
    while calls < CALLS_MAX {
        let label = format!("from call {calls} on");
        let mut lab = Lab::new();
        prepare(&mut lab);
        lab.reach.arm(calls);
        let done = step(&lab);
        if !lab.reach.restore() {
            done.unwrap();
            assert!(refused > 3, "{refused} of {calls} were refused");
            return;
        }
        if let Err(error) = done {
            assert_eq!(error, FileError::Sys(UNRENEWED), "{label}");
            refused += 1;
        }
        lab.assert_reads(&lab.root, NAMES.len(), &label);
        lab.volume.checkpoint().unwrap_or_else(|error| panic!("{label}: {error}"));
        for at in 0..NAMES.len() {
            lab.write(at, 30_000, &[3; 700]);
            lab.files[at].sync(false).unwrap_or_else(|error| panic!("{label}: {error}"));
        }
        lab.assert_recovers(NAMES.len(), &label);
        calls += 1 + calls / 6;
    }
    panic!("the step ends");
}

#[test]
fn a_checkpoint_is_made_once_the_lease_is_renewed() {
    at_calls(
        |_| (),
        |lab| {
            let done = lab.volume.checkpoint();
            lab.assert_recovers(NAMES.len() - 1, "in the middle");
            done
        },
    );
}

#[test]
fn what_is_synced_meanwhile_is_refused_and_can_be_synced_later() {
    let prepare = |lab: &mut Lab| {
        lab.write(0, 50_000, &[4; 300]);
        lab.write(1, 0, &[4; 150_000]);
    };
    at_calls(prepare, |lab| {
        let mut done = Ok(());
        for file in &lab.files {
            let synced = file.sync(false);
            done = done.and(synced);
        }
        done
    });
}
