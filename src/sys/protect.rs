//! Keeps keys and plaintext in memory from reaching a disk: no core dumps, no swap.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::process::{getrlimit, set_dumpable_behavior, setrlimit};

/// What [`protect_process`] achieved. Each `no_*` says that the thing is ruled out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Protection {
    /// The soft limit of core files is zero.
    pub no_core_files: bool,
    /// `PR_SET_DUMPABLE` is off: no core goes to a crash handler either, and no other process of
    /// the same user may trace this one or read its memory.
    pub no_tracing: bool,
    /// Pages stay in memory: `mlockall` holds for what is and what will be mapped.
    pub no_swap: bool,
    /// What was not achieved, why, and what to do about it; empty if all was.
    pub missing: Vec<String>,
}

/// Turns core dumps and tracing off and locks memory where that is allowed without a limit. Never
/// fails: the caller shows what is missing. Call it before the first key is made or read, and
/// before other threads run.
///
/// The hard limit of core files stays, so that a job started from here can raise its own again.
pub fn protect_process() -> Protection {
    let mut missing = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        missing.extend(result.as_ref().err().map(|reason| format!("{what}: {reason}")));
        result.is_ok()
    };
    let no_core_files = note("core files are not off", forbid_core_files());
    let no_tracing = note("tracing is not off", forbid_tracing());
    let no_swap = note("memory is not locked and may be swapped", lock_memory());
    Protection { no_core_files, no_tracing, no_swap, missing }
}

fn forbid_core_files() -> Result<(), String> {
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum })
        .map_err(|errno| format!("setrlimit(RLIMIT_CORE): {errno}"))
}

fn forbid_tracing() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| format!("prctl(PR_SET_DUMPABLE): {errno}"))
}

/// A finite limit would make later allocations fail once it is used up, so memory is locked only
/// where no limit applies: where it is infinite, or for a process with `CAP_IPC_LOCK`. The
/// capability counts only in the first user namespace; rather than guess, the soft limit goes to
/// zero for the call, which then passes for a process that no limit binds and for no other.
fn lock_memory() -> Result<(), String> {
    let limit = getrlimit(Resource::Memlock);
    let refused = |errno: Errno| match errno {
        Errno::PERM | Errno::NOMEM | Errno::AGAIN => {
            "RLIMIT_MEMLOCK is finite and CAP_IPC_LOCK is missing: allow it by \
             `ulimit -l unlimited`, LimitMEMLOCK=infinity or --cap-add IPC_LOCK, or turn swap off"
                .to_owned()
        }
        errno => format!("mlockall: {errno}; turn swap off"),
    };
    if limit.current.is_none() {
        return lock_all().map_err(refused);
    }
    let zero = Rlimit { current: Some(0), maximum: limit.maximum };
    setrlimit(Resource::Memlock, zero).map_err(refused)?;
    let locked = lock_all();
    setrlimit(Resource::Memlock, limit).map_err(refused)?;
    locked.map_err(refused)
}

/// Whether [`lock_all`] has ever worked: it then works again.
static LOCKED: AtomicBool = AtomicBool::new(false);

pub(in crate::sys) fn is_locked() -> bool {
    LOCKED.load(Ordering::Relaxed)
}

/// Pages are locked as they are touched: a thread's stack of 2 MiB does not become resident.
pub(in crate::sys) fn lock_all() -> Result<(), Errno> {
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    LOCKED.store(true, Ordering::Relaxed);
    Ok(())
}
