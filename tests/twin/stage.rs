//! Where a scenario is played: a directory of ext4, and one of a volume stored on the same ext4.
//!
//! Whatever a scenario sees is a step: what was called and what came of it, without anything that
//! differs from run to run. The steps of both have to be equal, but for what a table of
//! [`Known`] differences says, which in turn have to be there.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use rustix::fs::Mode;

use crate::mount::Mount;
use crate::shown::Shown;

/// Bytes of the disk, most of them never written.
const DISK_LEN: u64 = 2 << 30;

/// An ext4 of our own, mounted as long as this lives. Set-id programs and devices mean nothing on
/// it, because they mean nothing on the mount of a volume.
struct Disk {
    dir: tempfile::TempDir,
}

fn ok(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {text}", output.status);
}

/// Others than root have to get in.
fn open_to_all(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path());
        let (image, disk) = (dir.path().join("image"), dir.path().join("disk"));
        fs::File::create(&image).unwrap().set_len(DISK_LEN).unwrap();
        fs::create_dir(&disk).unwrap();
        ok(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        let options = "loop,acl,user_xattr,nosuid,nodev";
        ok(Command::new("mount").args(["-o", options]).args([&image, &disk]));
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily where it is in use: a failing test must not leave a mount in the way.
        let plain = Command::new("umount").arg(self.path()).output();
        if !plain.is_ok_and(|output| output.status.success()) {
            drop(Command::new("umount").arg("-l").arg(self.path()).status());
        }
    }
}

/// Both sides; all tests that run at one time share them.
pub struct World {
    mount: Mount,
    disk: Disk,
    scenes: AtomicU32,
}

static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());

impl World {
    pub fn new(options: &[&str]) -> Self {
        let disk = Disk::new();
        fs::create_dir(disk.path().join("plain")).unwrap();
        let root = tempfile::tempdir_in(disk.path()).unwrap();
        open_to_all(root.path());
        let mount = Mount::in_dir(root, options);
        Self { mount, disk, scenes: AtomicU32::new(0) }
    }

    fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let world = Arc::new(Self::new(&[]));
            *shared = Arc::downgrade(&world);
            world
        })
    }

    /// Plays a scene on both, and compares.
    pub fn play(&self, scene: Scene, known: &[Known]) {
        let broken = self.differences(scene, known);
        assert!(broken.is_empty(), "{broken}");
    }

    /// What differs and is not known to.
    fn differences(&self, scene: Scene, known: &[Known]) -> String {
        assert!(known.iter().all(|known| !known.why.is_empty()), "a difference without a reason");
        let name = format!("scene{}", self.scenes.fetch_add(1, Ordering::Relaxed));
        let ext4 = act(&self.disk.path().join("plain").join(&name), scene);
        let wrong: Vec<_> = ext4.iter().filter(|step| step.is_wrong()).collect();
        assert!(wrong.is_empty(), "ext4 itself answers otherwise: {wrong:#?}");
        assert!(ext4.iter().any(|step| step.wanted.is_some()), "the scenario asserts nothing");
        assert!(ext4.iter().all(|step| step.call != PANIC), "{:#?}", ext4.last());
        let ours = act(&self.mount.at(&name), scene);
        compare(&ext4, &ours, known)
    }
}

/// Plays a scene on the shared world.
pub fn twins(scene: Scene, known: &[Known]) {
    World::shared().play(scene, known);
}

/// Plays a scene on a world of its own, where nobody else takes space.
pub fn twins_alone(scene: Scene, known: &[Known]) {
    World::new(&[]).play(scene, known);
}

/// Plays a scene where the kernel keeps back what is written.
pub fn twins_written_back(scene: Scene, known: &[Known]) {
    World::new(&["-o", "writeback_cache"]).play(scene, known);
}

/// The same, up to three times: on a busy machine a change time that the kernel keeps is now and
/// then, about once in twenty times, that of the step before. What always differs is found.
pub fn twins_written_back_in_time(scene: Scene, known: &[Known]) {
    let world = World::new(&["-o", "writeback_cache"]);
    let differs = || world.differences(scene, known);
    let all: Vec<String> = (0..3).map(|_| differs()).take_while(|seen| !seen.is_empty()).collect();
    assert!(all.len() < 3, "three times:\n{}", all.join("\n"));
}

/// What is played: in a thread of its own, whose working directory is that of the scene.
pub type Scene = fn(&mut Stage);

/// Where ext4 and cmkfs are known to differ, and why that is accepted.
#[derive(Debug)]
pub struct Known {
    pub call: String,
    pub ext4: &'static str,
    pub cmkfs: &'static str,
    pub why: &'static str,
}

/// Such a difference; `call` as the step that it is.
pub fn known(
    call: impl Into<String>,
    ext4: &'static str,
    cmkfs: &'static str,
    why: &'static str,
) -> Known {
    Known { call: call.into(), ext4, cmkfs, why }
}

const PANIC: &str = "panic";

#[derive(Debug)]
struct Step {
    call: String,
    seen: String,
    wanted: Option<String>,
}

impl Step {
    fn is_wrong(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| *wanted != self.seen)
    }
}

/// What a scene has seen so far.
pub struct Stage {
    pub dir: PathBuf,
    steps: Vec<Step>,
    part: String,
}

impl Stage {
    /// Names the part that follows.
    pub fn part(&mut self, part: impl Into<String>) {
        self.part = part.into();
    }

    /// A step; ext4 has to give what is wanted, and so has cmkfs by being equal.
    pub fn saw(&mut self, call: &str, seen: &impl Shown, wanted: Option<&str>) {
        let words = call.split_whitespace().collect::<Vec<_>>().join(" ");
        let call = if self.part.is_empty() { words } else { format!("{}: {words}", self.part) };
        self.steps.push(Step { call, seen: seen.shown(), wanted: wanted.map(str::to_owned) });
    }

    /// What a program prints, a step a line: `call = seen`.
    pub fn program(&mut self, command: &mut Command) {
        let output = command.output().unwrap();
        let (text, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        for line in String::from_utf8_lossy(&text).lines() {
            let (call, seen) = line.split_once(" = ").unwrap_or(("prints", line));
            self.saw(call, &seen.to_owned(), None);
        }
        self.saw("its exit code", &output.status.code(), Some("0"));
        assert!(output.status.success(), "{errors}");
    }

    /// A Python program: what it prints with `say(call, seen)` or `saw(call, work)` are steps, and
    /// it fails if an assertion does.
    pub fn python(&mut self, script: &str) {
        let script = format!("{PRELUDE}\n{script}");
        self.program(Command::new("/usr/bin/python3").args(["-c", &script]));
    }
}

const PRELUDE: &str = "
import ctypes, errno, fcntl, mmap, os, signal, socket, stat, struct, sys, time
signal.alarm(60)
def say(call, seen):
    print(call, '=', seen, flush=True)
def tried(work):
    try:
        done = work()
        return 'ok' if done is None else done
    except OSError as error:
        return errno.errorcode[error.errno]
def saw(call, work):
    say(call, tried(work))
def child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            work()
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(9)
        os._exit(0)
    return pid
def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
";

/// Plays a scene in a new directory, and takes it away.
fn act(dir: &Path, scene: Scene) -> Vec<Step> {
    fs::create_dir(dir).unwrap();
    open_to_all(dir);
    let mut stage = Stage { dir: dir.to_owned(), steps: vec![], part: String::new() };
    let played = thread::scope(|scope| {
        let play = || {
            crate::calls::own_directory_and_umask();
            rustix::process::umask(Mode::from_raw_mode(0o022));
            rustix::process::chdir(dir).unwrap();
            catch_unwind(AssertUnwindSafe(|| scene(&mut stage)))
        };
        scope.spawn(play).join().unwrap()
    });
    if let Err(panic) = played {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        stage.steps.push(Step { call: PANIC.into(), seen: text.unwrap_or_default(), wanted: None });
    }
    if let Err(error) = fs::remove_dir_all(dir) {
        let seen = format!("{error}");
        stage.steps.push(Step { call: "the directory is removed".into(), seen, wanted: None });
    }
    stage.steps
}

fn compare(ext4: &[Step], ours: &[Step], known: &[Known]) -> String {
    let mut broken = String::new();
    let mut used = vec![false; known.len()];
    for index in 0..ext4.len().max(ours.len()) {
        let (theirs, our) = (ext4.get(index), ours.get(index));
        if let (Some(theirs), Some(our)) = (theirs, our)
            && theirs.call == our.call
        {
            let fits = |known: &Known| {
                (&known.call, known.ext4, known.cmkfs) == (&theirs.call, &*theirs.seen, &*our.seen)
            };
            match known.iter().position(fits) {
                Some(at) => used[at] = true,
                None if theirs.seen == our.seen => {}
                None => {
                    let (call, seen) = (&theirs.call, &theirs.seen);
                    writeln!(broken, "{call}\n    ext4:  {seen}\n    cmkfs: {}", our.seen).unwrap();
                }
            }
            continue;
        }
        writeln!(broken, "then otherwise\n    ext4:  {theirs:?}\n    cmkfs: {our:?}").unwrap();
        break;
    }
    for (known, used) in known.iter().zip(used) {
        if !used {
            writeln!(broken, "no longer so, or not reached: {known:?} ({})", known.why).unwrap();
        }
    }
    broken
}

/// A step whose outcome is of no further use.
macro_rules! see {
    ($stage:expr, $call:expr) => {{
        let seen = $call;
        $stage.saw(stringify!($call), &seen, None);
    }};
    ($stage:expr, $call:expr, $wanted:expr) => {{
        let seen = $call;
        $stage.saw(stringify!($call), &seen, Some($wanted));
    }};
}

/// A step that has to succeed, and whose outcome is wanted.
macro_rules! get {
    ($stage:expr, $call:expr) => {{
        let seen = $call;
        $stage.saw(stringify!($call), &seen, None);
        seen.unwrap()
    }};
}
