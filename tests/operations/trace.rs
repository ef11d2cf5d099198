//! The system calls of a daemon between two moments, as strace sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};

/// Calls by name, and how often each was made.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Calls that the allocator and the scheduler decide on, and looks for the next request.
const LEFT_OUT: &str = "trace=!ppoll,futex,brk,mmap,munmap,mremap,madvise,mprotect,sched_yield";
/// Threads that serve no request: the main thread, and those that watch signals, the control
/// socket, the mount and the commit timer; the lease; and the one that waits for the servers.
const APART: &[&str] = &["cmkfs", LEASE, "cmkfs-session"];
const LEASE: &str = "cmkfs-lease";
/// What a moment is marked with: the kernel asks the daemon for it each time, in the order of all
/// requests, and the daemon the disk. Nothing that is counted makes it.
const MARK: &str = "fstatfs";
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon whose calls are written down.
pub(crate) struct Trace {
    strace: Child,
    output: PathBuf,
    store: PathBuf,
    /// Threads that are counted.
    serving: BTreeSet<u32>,
    /// Threads that are not counted, and must have left the store alone.
    idle: BTreeSet<u32>,
    point: OwnedFd,
}

impl Trace {
    /// Returns once all threads of the daemon are followed.
    pub(crate) fn start(daemon: u32, store: &Path, point: &Path, output: &Path) -> Self {
        // Without a descriptor of the root that the daemon knows of.
        let point = rustix::fs::open(point, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "0", "-e", "signal=none", "-e", LEFT_OUT, "-o"]);
        command.arg(output).args(["-p", &daemon.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let spawned = command.spawn();
        let mut strace = spawned.unwrap_or_else(|error| {
            panic!("strace: {error}; install it (apt-get install strace), as tests/all.sh does")
        });
        let threads = followed(daemon, &mut strace);
        let named = |wanted: &dyn Fn(&str) -> bool| -> BTreeSet<u32> {
            let threads = threads.iter().filter(|(_, name)| wanted(name));
            threads.map(|(thread, _)| *thread).collect()
        };
        let serving = named(&|name| !APART.contains(&name));
        assert!(!serving.is_empty(), "no thread serves: {threads:?}");
        let idle = named(&|name| APART.contains(&name) && name != LEASE);
        let (output, store) = (output.to_owned(), store.to_owned());
        Self { strace, output, store, serving, idle, point }
    }

    /// All that was asked of the daemon before is done.
    pub(crate) fn mark(&self) {
        rustix::fs::fstatfs(&self.point).unwrap();
    }

    /// The calls between the two marks; `None` if the commit timer was at work meanwhile or before,
    /// and may have done what a request does otherwise.
    pub(crate) fn counts(mut self) -> Option<Counts> {
        let strace = Pid::from_child(&self.strace);
        kill_process(strace, Signal::INT).unwrap();
        self.strace.wait().unwrap();
        let text = fs::read_to_string(&self.output).unwrap();
        counted(&text, &self.store, &self.serving, &self.idle)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Of a failing test; a daemon that is followed would not end.
        drop(self.strace.kill());
        drop(self.strace.wait());
    }
}

/// The threads of the daemon and their names, once strace follows them all.
fn followed(daemon: u32, strace: &mut Child) -> BTreeMap<u32, String> {
    let tasks = PathBuf::from(format!("/proc/{daemon}/task"));
    let tracer = format!("TracerPid:\t{}\n", strace.id());
    let until = Instant::now() + PATIENCE;
    loop {
        let threads = fs::read_dir(&tasks).unwrap().map(|entry| entry.unwrap().path());
        let threads: Vec<_> = threads.collect();
        let is_followed = |thread: &PathBuf| {
            // A thread that has just ended is followed by nobody.
            fs::read_to_string(thread.join("status")).is_ok_and(|status| status.contains(&tracer))
        };
        if threads.iter().all(is_followed) {
            let name = |thread: &PathBuf| fs::read_to_string(thread.join("comm")).unwrap();
            let number = |thread: &PathBuf| thread.file_name().unwrap().to_str().unwrap().parse();
            let of = |thread| (number(thread).unwrap(), name(thread).trim().to_owned());
            return threads.iter().map(of).collect();
        }
        if let Some(status) = strace.try_wait().unwrap() {
            let said = std::io::read_to_string(strace.stderr.take().unwrap()).unwrap();
            panic!(
                "strace ended with {status} instead of following the daemon: {}; this test needs \
                 ptrace(2): run it as root, in a container with --cap-add SYS_PTRACE, and see \
                 /proc/sys/kernel/yama/ptrace_scope",
                said.trim()
            );
        }
        assert!(Instant::now() < until, "strace does not follow the daemon");
        std::thread::yield_now();
    }
}

/// The call that a line of strace begins, and by which thread; `None` for the end of one, and for
/// what is no call.
fn begun(line: &str) -> Option<(u32, &str, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (name, arguments) = rest.trim_start().split_once('(')?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_name && !name.is_empty()).then_some((thread.parse().ok()?, name, arguments))
}

/// Whether a call is none of the work: talk with the kernel, and what only builds with assertions
/// do when they close a descriptor.
fn is_left_out(name: &str, arguments: &str) -> bool {
    let first = arguments.split(',').next().unwrap_or_default();
    first.ends_with("</dev/fuse>")
        || name == "restart_syscall"
        || (name == "fcntl" && arguments.contains("F_GETFD"))
}

fn counted(
    text: &str,
    store: &Path,
    serving: &BTreeSet<u32>,
    idle: &BTreeSet<u32>,
) -> Option<Counts> {
    let store = store.to_str().unwrap();
    let (mut marks, mut counts) = (0, Counts::new());
    for line in text.lines() {
        let Some((thread, name, arguments)) = begun(line) else { continue };
        if idle.contains(&thread) && arguments.contains(store) {
            return None;
        }
        if !serving.contains(&thread) || is_left_out(name, arguments) {
            continue;
        }
        if name == MARK {
            marks += 1;
        } else if marks == 1 {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(marks, 2, "the marks are not in what strace wrote: {text}");
    Some(counts)
}

#[test]
fn calls_between_the_marks_are_counted_and_no_others() {
    let text = "\
7 read(20</dev/fuse>, \"\"..., 8192 <unfinished ...>
8 pread64(9</store/a>, \"\"..., 1, 0) = 1
7 <... read resumed>, \"\"..., 8192) = 64
7 pread64(9</store/a>, \"\"..., 1, 0) = 1
7 fstatfs(3</store>, {f_type=...}) = 0
7 writev(20</dev/fuse>, [], 2) = 16
7 openat(3</store/a b(c)>, \"\"..., O_RDONLY) = 9</store/a>
7 fcntl(9</store/a>, F_GETFD) = 0x1 (flags FD_CLOEXEC)
5 pwrite64(4</store/lock>, \"\"..., 20, 9) = 20
7 close(9</store/a>) = 0
7 close(8</dev/null>) = 0
7 fstatfs(3</store>, {f_type=...}) = 0
7 close(7</store/a>) = 0
";
    let counts = |text: &str| counted(text, Path::new("/store"), &[7].into(), &[6].into());
    let wanted = [("openat".to_owned(), 1), ("close".to_owned(), 2)].into();
    assert_eq!(counts(text), Some(wanted));
    let timer = "6 fdatasync(17</store/journal/0>) = 0\n";
    assert_eq!(counts(&format!("{text}{timer}")), None);
}
