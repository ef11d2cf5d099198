//! The last step before a job's command, in the process that becomes it: what can only be set from
//! inside.
//!
//! The command dies with cmkfs: a mount whose daemon is gone gives errors, but a path that was
//! never mounted over, or has been unmounted since, would take its output in plaintext.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, setrlimit};

use crate::lifecycle::Exit;

/// Name of the hidden verb that calls [`become_command`].
pub const CHILD_VERB: &str = "run-child";

/// What the command's process is given back of what cmkfs changed for itself.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    /// Process id of cmkfs.
    pub parent: i32,
    /// File mode creation mask.
    pub umask: u32,
    /// Soft limit of open files; `None`: unlimited.
    pub files: Option<u64>,
    /// Soft limit of core files; `None`: unlimited.
    pub core: Option<u64>,
}

/// Turns this process into the command; returns only if that fails, with what to say and with
/// which exit code.
pub fn become_command(child: Child, command: &[OsString]) -> (Exit, String) {
    let failed = |what: &str, error: std::io::Error| (Exit::NotRun, format!("{what}: {error}"));
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(child.umask));
    for (resource, current) in [(Resource::Nofile, child.files), (Resource::Core, child.core)] {
        let maximum = rustix::process::getrlimit(resource).maximum;
        if let Err(error) = setrlimit(resource, Rlimit { current, maximum }) {
            return failed("can't give back a limit of open or core files", error.into());
        }
    }
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return failed("can't bind the command's life to that of the mount", error.into());
    }
    // A parent that was gone before the call above sends no signal any more.
    if getppid() != Pid::from_raw(child.parent) {
        return (Exit::NotRun, "cmkfs ended before the command began".to_owned());
    }
    let Some((program, arguments)) = command.split_first() else {
        return (Exit::Usage, "no command after --".to_owned());
    };
    let error = Command::new(program).args(arguments).exec();
    let exit = match error.kind() {
        ErrorKind::NotFound => Exit::NoCommand,
        _ => Exit::NotExecutable,
    };
    (exit, format!("{}: {error}", program.to_string_lossy()))
}
