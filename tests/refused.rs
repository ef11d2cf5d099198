//! Syncs that the disk refuses once, with what it had not written yet lost, as Linux loses it; and
//! writes that come while a new file is synced.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/volume.rs"]
mod volume;

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use cmkfs::file::{Access, VolumeOptions};
use cmkfs::store::{Op, Watch};
use faulty::{Extent, Faulty};
use rustix::io::Errno;
use volume::{ME, Throwaway};

#[derive(Debug, Default)]
struct State {
    /// The next sync of this file waits until told.
    pause: Option<u64>,
    paused: bool,
    /// The same of a write of its header.
    pause_write: Option<u64>,
    go: bool,
}

/// A disk that waits.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<(Mutex<State>, Condvar)>, Faulty);

impl Disk {
    fn pause(&self, mut state: MutexGuard<'_, State>) {
        state.paused = true;
        self.0.1.notify_all();
        while !state.go {
            state = self.0.1.wait(state).unwrap();
        }
    }
}

impl Watch for Disk {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        let mut state = self.0.0.lock().unwrap();
        match *op {
            Op::Write { file, offset: 0, .. } if state.pause_write == Some(file) => {
                state.pause_write = None;
                self.pause(state);
            }
            Op::SyncFile { file, .. } if state.pause == Some(file) => {
                state.pause = None;
                self.pause(state);
            }
            _ => drop(state),
        }
        self.1.around(op, run)
    }
}

fn lost_after_failed_sync(files: u64) {
    let throwaway = Throwaway::new(4096);
    let disk = Faulty::losing(throwaway.path());
    let volume = throwaway.open_watched(Arc::new(disk.clone()), &VolumeOptions::default()).unwrap();
    let root = volume.root().unwrap();
    for n in 0..files {
        let (file, _) = root.create_file(format!("{n}").as_bytes(), ME, 0o644).unwrap();
        file.write(0, &vec![1; 64 << 10]).unwrap();
        file.sync(false).unwrap();
        drop(file);
    }
    volume.checkpoint().unwrap();
    let mut first = 0;
    for n in 0..files {
        let file = root.open_file(format!("{n}").as_bytes(), Access::Write).unwrap();
        file.write(0, &[2; 100]).unwrap();
        file.sync(false).unwrap();
        first = if n == 0 { file.ino() } else { first };
    }
    disk.refuse_sync(if files > 16 { None } else { Some(first) });
    volume.checkpoint().unwrap_err();
    assert_eq!(disk.refused().len(), 1, "the sync failed");
    volume.checkpoint().unwrap_err();
    let opened = root.open_file(b"0", Access::Read);
    opened.and_then(|file| file.read(0, 100).map(drop)).unwrap_err();
    // Nothing is taken that would need the journal.
    if let Ok((file, _)) = root.create_file(b"other", ME, 0o644) {
        file.write(0, &[3; 100]).and_then(|()| file.sync(false)).unwrap_err();
    }
    disk.arm(disk.calls(), Errno::IO, Extent::All);
    drop((root, volume));
    disk.lose();
    let volume = throwaway.open();
    let root = volume.root().unwrap();
    for n in 0..files {
        let file = root.open_file(format!("{n}").as_bytes(), Access::Write).unwrap();
        let found = file.read(0, 200).unwrap();
        assert_eq!(&found[..100], &[2; 100], "file {n}: what was acknowledged is there");
    }
}

#[test]
fn a_sync_of_a_file_that_fails_in_a_checkpoint_loses_nothing() {
    lost_after_failed_sync(1);
}

#[test]
fn a_sync_of_the_disk_that_fails_in_a_checkpoint_loses_nothing() {
    lost_after_failed_sync(20);
}

#[test]
fn a_write_during_the_sync_of_a_new_file_loses_nothing() {
    write_during_sync(false);
}

#[test]
fn a_write_during_the_commit_of_a_new_file_loses_nothing() {
    (0..12).for_each(|_| write_during_sync(true));
}

fn write_during_sync(commit: bool) {
    let throwaway = Throwaway::new(4096);
    let disk = Disk::default();
    let volume = throwaway.open_watched(Arc::new(disk.clone()), &VolumeOptions::default()).unwrap();
    let root = volume.root().unwrap();
    let (file, _) = root.create_file(b"new", ME, 0o644).unwrap();
    file.write(0, &vec![1; 64 << 10]).unwrap();
    match commit {
        true => disk.0.0.lock().unwrap().pause_write = Some(file.ino()),
        false => disk.0.0.lock().unwrap().pause = Some(file.ino()),
    }
    let (one, two) = (file.clone(), file.clone());
    let syncs = std::thread::spawn(move || one.sync(false));
    {
        let mut state = disk.0.0.lock().unwrap();
        while !state.paused {
            state = disk.0.1.wait(state).unwrap();
        }
    }
    let (told, written) = std::sync::mpsc::channel();
    let writes = std::thread::spawn(move || {
        let done = two.write(0, &[2; 4096]);
        told.send(()).unwrap();
        done
    });
    // It goes in between, or has to wait.
    written.recv_timeout(Duration::from_millis(100)).unwrap_or_default();
    disk.0.0.lock().unwrap().go = true;
    disk.0.1.notify_all();
    assert_eq!(syncs.join().unwrap(), Ok(()), "acknowledged");
    writes.join().unwrap().unwrap();
    disk.1.arm(disk.1.calls(), Errno::IO, Extent::All);
    drop((root, file, volume));
    let volume = throwaway.open();
    let root = volume.root().unwrap();
    let file = root.open_file(b"new", Access::Read).unwrap();
    assert_eq!(file.len(), 64 << 10);
    assert!(file.read(4096, 60 << 10).unwrap().iter().all(|byte| *byte == 1));
}
