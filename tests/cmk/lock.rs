//! A mounted volume and its key: what is taken away at the server locks it, what is given back
//! unlocks it (promise P6), and an outage is neither until it lasts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Lab;
use crate::support::proxy::Fault;

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until it is so; returns how long that took.
#[track_caller]
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "not {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(done: io::Result<T>) {
    let error = done.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EKEYREVOKED), "{error}");
}

pub(crate) fn is_refused(path: &Path) -> bool {
    fs::read(path).is_err_and(|error| error.raw_os_error() == Some(libc::EKEYREVOKED))
}

impl Lab {
    pub(crate) fn mount_watching(&self, more: &[&str]) {
        let args = self.mount_args();
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.ok(&args);
    }

    pub(crate) fn daemon(&self) -> Value {
        let output = self.ok(&["status", self.store().to_str().unwrap(), "--json"]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        all["volumes"][0]["daemon"].clone()
    }
}

/// What a program has open when its volume is locked.
struct Program {
    reader: File,
    writer: File,
    dir: File,
    wanted: Vec<u8>,
}

impl Program {
    fn new(point: &Path) -> Self {
        let wanted: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::create_dir(point.join("dir")).unwrap();
        fs::write(point.join("dir/file"), &wanted).unwrap();
        let reader = File::open(point.join("dir/file")).unwrap();
        let mut writer = OpenOptions::new();
        let writer = writer.append(true).create(true).open(point.join("dir/log")).unwrap();
        let dir = File::open(point.join("dir")).unwrap();
        Self { reader, writer, dir, wanted }
    }

    fn is_refused(&mut self, point: &Path) {
        let mut some = [0; 100];
        refused(self.reader.read_at(&mut some, 5000));
        refused(self.writer.write(b"x"));
        refused(self.writer.sync_all());
        refused(self.dir.sync_all());
        refused(fs::read(point.join("dir/file")));
        refused(fs::metadata(point.join("dir/log")));
        refused(fs::read_dir(point).map(Iterator::count));
        refused(fs::write(point.join("new"), b"x"));
        refused(fs::remove_file(point.join("dir/file")));
    }

    fn goes_on(&mut self, point: &Path, logged: &str) {
        let mut all = vec![0; self.wanted.len()];
        self.reader.read_exact_at(&mut all, 0).unwrap();
        assert!(all == self.wanted, "another content");
        self.writer.write_all(b"later").unwrap();
        self.writer.sync_all().unwrap();
        self.dir.sync_all().unwrap();
        let log = fs::read_to_string(point.join("dir/log")).unwrap();
        assert_eq!(log, format!("{logged}later"));
        fs::write(point.join("new"), b"x").unwrap();
        assert_eq!(fs::read_dir(point).unwrap().count(), 2);
    }
}

#[test]
fn a_key_that_is_disabled_locks_what_is_mounted_until_it_is_enabled() {
    let lab = Lab::new();
    let arn = lab.init(&[]);
    lab.mount_watching(&["--key-recheck", "1s"]);
    let point = lab.point();
    let mut program = Program::new(&point);
    // Acknowledged, and not synced.
    program.writer.write_all(b"early ").unwrap();
    assert_eq!(lab.daemon()["key_state"], "held");

    // As AWS answers from then on; the emulator decrypts with a disabled key too.
    lab.proxy.fault("Decrypt", Fault::error("DisabledException", &format!("{arn} is disabled.")));
    let took = until("locked", || is_refused(&point.join("dir/file")));
    eprintln!("from the key's end to the first refusal, asked for each second: {took:?}");
    program.is_refused(&point);
    let daemon = lab.daemon();
    assert_eq!(daemon["key_state"], "locked");
    assert!(daemon["key_reason"].as_str().unwrap().contains("disabled"), "{daemon}");

    lab.proxy.fault_times("Decrypt", Fault::Reset, 0);
    until("unlocked", || fs::read(point.join("dir/file")).is_ok());
    program.goes_on(&point, "early ");
    let before = lab.proxy.count("Decrypt");
    for n in 0..200 {
        fs::write(point.join(format!("dir/{n}")), b"one of many").unwrap();
    }
    until("asked again", || lab.proxy.count("Decrypt") > before);
    drop(program);
    lab.umount();
    assert!(lab.mount().status.success());
    assert_eq!(fs::read_to_string(point.join("dir/log")).unwrap(), "early later");
    lab.umount();
}

#[test]
fn an_outage_is_served_through_until_it_lasts() {
    let lab = Lab::new();
    lab.init(&[]);
    lab.mount_watching(&["--key-recheck", "1s", "--key-max-offline", "4s"]);
    let point = lab.point();
    let mut program = Program::new(&point);
    lab.proxy.fault("Decrypt", Fault::error("ThrottlingException", "Rate exceeded"));
    until("seen", || lab.daemon()["key_state"] == "unproved");
    assert!(fs::read(point.join("dir/file")).unwrap() == program.wanted);
    until("locked", || is_refused(&point.join("dir/file")));
    program.is_refused(&point);
    assert!(lab.daemon()["key_reason"].as_str().unwrap().contains("no answer about the key"));
    lab.proxy.fault_times("Decrypt", Fault::Reset, 0);
    until("unlocked", || fs::read(point.join("dir/file")).is_ok());
    program.goes_on(&point, "");
    drop(program);
    lab.umount();
}

/// The answer to what was asked before the lock does not unlock, nor keep anybody from it.
#[test]
fn an_answer_that_comes_after_a_lock_changes_nothing() {
    let lab = Lab::new();
    lab.init(&[]);
    lab.mount_watching(&["--key-recheck", "1s"]);
    let point = lab.point();
    fs::write(point.join("file"), b"content").unwrap();
    // The first try of a recheck gets no answer, the second one does.
    let before = lab.proxy.count("Decrypt");
    lab.proxy.fault_times("Decrypt", Fault::Hang, 1);
    until("asked", || lab.proxy.count("Decrypt") > before);
    lab.ok(&["lock", point.to_str().unwrap()]);
    let asked = lab.proxy.count("Decrypt");
    until("asked again", || lab.proxy.count("Decrypt") > asked);
    assert_eq!(lab.daemon()["key_state"], "locked");
    refused(fs::read(point.join("file")));
    lab.ok(&["unlock", point.to_str().unwrap()]);
    assert_eq!(fs::read(point.join("file")).unwrap(), b"content");
    lab.umount();
}

#[test]
fn what_is_locked_by_hand_is_unlocked_by_hand() {
    let lab = Lab::new();
    lab.ok(&["init", lab.store().to_str().unwrap()]);
    lab.mount_watching(&[]);
    let (point, store) = (lab.point(), lab.store());
    let (point, store) = (point.as_path(), store.to_str().unwrap());
    let mut program = Program::new(point);
    let mut nameless = OpenOptions::new();
    let nameless = nameless.read(true).write(true).create_new(true).open(point.join("gone"));
    let nameless = nameless.unwrap();
    fs::remove_file(point.join("gone")).unwrap();
    for round in 0..3 {
        lab.ok(&["lock", point.to_str().unwrap()]);
        lab.ok(&["lock", store]);
        program.is_refused(point);
        assert_eq!(lab.daemon()["key_state"], "locked");
        let snapshot = lab.root.path().join("snapshots");
        fs::create_dir_all(&snapshot).unwrap();
        let output = lab.run(&["snapshot", "create", store, snapshot.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(38) && text.contains("cmkfs unlock"), "{text}");
        lab.ok(&["unlock", store]);
        lab.ok(&["unlock", point.to_str().unwrap()]);
        program.goes_on(point, &"later".repeat(round));
        // The new file may have the number of the one that is gone, which shows nothing of it.
        assert_eq!(fs::read(point.join("new")).unwrap(), b"x");
        assert!(nameless.read_at(&mut [0; 10], 0).is_err());
        fs::remove_file(point.join("new")).unwrap();
    }
    let lost = nameless.sync_all().unwrap_err();
    assert!(matches!(lost.raw_os_error(), Some(libc::ESTALE | libc::EIO)), "{lost}");
    drop((program, nameless));
    lab.ok(&["lock", store]);
    lab.umount();
    assert!(lab.mount().status.success());
    assert_eq!(fs::read(point.join("dir/log")).unwrap(), b"laterlaterlater");
    lab.umount();
    let output = lab.run(&["lock", store]);
    assert_eq!(output.status.code(), Some(36));
}

/// Appends numbers, one a line, until told to end; returns how many were taken.
pub(crate) fn append(mut log: File, ends: &AtomicBool) -> u32 {
    let mut taken = 0;
    while !ends.load(Ordering::Relaxed) {
        let line = format!("{taken:07}\n");
        match log.write(line.as_bytes()) {
            Ok(len) => {
                assert_eq!(len, line.len());
                taken += 1;
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EKEYREVOKED), "{error}"),
        }
        if taken % 50 == 0 {
            // Refused is fine; wrong is not.
            drop(log.sync_all());
        }
    }
    taken
}

/// Reads what never changes, until told to end; returns how often it could.
pub(crate) fn read(file: &File, wanted: &[u8], ends: &AtomicBool) -> u32 {
    let mut found = vec![0; wanted.len()];
    let mut times = 0;
    while !ends.load(Ordering::Relaxed) {
        match file.read_exact_at(&mut found, 0) {
            Ok(()) => {
                assert!(found == wanted, "another content");
                times += 1;
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EKEYREVOKED), "{error}"),
        }
    }
    times
}

#[test]
fn what_is_written_while_keys_come_and_go_is_there() {
    let lab = Lab::new();
    lab.ok(&["init", lab.store().to_str().unwrap()]);
    lab.mount_watching(&[]);
    let (point, store) = (lab.point(), lab.store());
    let store = store.to_str().unwrap();
    let still = vec![7; 300_000];
    fs::write(point.join("still"), &still).unwrap();
    let ends = AtomicBool::new(false);
    // All are open before the first lock.
    let file = File::open(point.join("still")).unwrap();
    let log = |n| File::create_new(point.join(format!("log-{n}"))).unwrap();
    let logs = [log(0), log(1), log(2)];
    let taken: Vec<u32> = std::thread::scope(|scope| {
        let writers = logs.map(|log| scope.spawn(|| append(log, &ends)));
        let reader = scope.spawn(|| read(&file, &still, &ends));
        for _ in 0..25 {
            lab.ok(&["lock", store]);
            lab.ok(&["unlock", store]);
        }
        ends.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    drop(file);
    let found = |n: usize| fs::read_to_string(point.join(format!("log-{n}"))).unwrap();
    let wanted = |n: usize| (0..taken[n]).map(|line| format!("{line:07}\n")).collect::<String>();
    assert!((0..3).all(|n| found(n) == wanted(n)), "other lines than were taken: {taken:?}");
    lab.umount();
    assert!(lab.mount().status.success());
    assert!((0..3).all(|n| found(n) == wanted(n)), "after a new mount: {taken:?}");
    assert!(taken.iter().all(|taken| *taken > 100), "hardly anything was written: {taken:?}");
    lab.umount();
}
