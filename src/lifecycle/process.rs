//! Waiting for the end of a process that is not a child.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A process by a descriptor: its id may be given to another one, the descriptor stays its own.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// `None` if there is no such process any more.
    ///
    /// # Errors
    /// The system's.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Some(Self(descriptor))),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it ended within this time.
    ///
    /// # Errors
    /// The system's.
    pub fn ended_within(&self, patience: Duration) -> io::Result<bool> {
        let due = Instant::now() + patience;
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut descriptors = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut descriptors, Some(&timeout)) {
                Ok(count) => return Ok(count > 0),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a signal; one that has ended gets none.
    ///
    /// # Errors
    /// The system's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Err(Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Descriptors for which there is room from the beginning, 8 bytes each.
const FILE_TABLE_LEN: u64 = 8192;

/// Raises the number of files that this process may have open to what it may be raised to: a
/// mount has one for each file that is open in it. Returns what it was; `None`: unlimited.
pub fn raise_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
    widen_file_table();
    limit.current
}

/// Has the kernel make room for descriptors. Once there are threads, each doubling of their table
/// waits until every processor has passed a quiet moment (`expand_fdtable`): 10 ms and more, in
/// the middle of somebody's open.
fn widen_file_table() {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = i32::try_from(limit.min(FILE_TABLE_LEN).saturating_sub(1)).unwrap_or(0);
    let widened = std::fs::File::open("/")
        .and_then(|any| Ok(rustix::io::fcntl_dupfd_cloexec(any, last).map(drop)?));
    if let Err(error) = widened {
        tracing::debug!(%error, "the table of descriptors stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        assert!(!process.ended_within(Duration::from_millis(1)).unwrap());
        process.signal(Signal::KILL).unwrap();
        assert!(process.ended_within(Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
        process.signal(Signal::KILL).unwrap();
        assert!(Process::open(child.id()).unwrap().is_none());
    }
}
