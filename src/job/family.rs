//! What a command starts: all of it ends before the mounts do, as with a container. A process
//! that lived on would write plaintext into the bare directories.
//!
//! This process becomes the reaper of its descendants, so that one whose parent ends stays in the
//! family, whatever session or group it moved to. What is not covered: cmkfs itself killed by
//! SIGKILL takes the command along, but not what the command started, which would need a process
//! namespace. Its mounts answer with errors then until somebody unmounts them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use crate::limits::{DETACH_WAIT, FAMILY_POLL};

/// Makes this process the parent of orphans below it. Before the command is started.
pub(in crate::job) fn adopt() -> std::io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Kills all descendants, also those that they start meanwhile; returns how many. Whoever waits
/// for the command still learns how it ended.
pub(in crate::job) fn kill_all() -> usize {
    let mut killed = BTreeSet::new();
    let due = Instant::now() + DETACH_WAIT;
    loop {
        let alive = living();
        if alive.is_empty() {
            return killed.len();
        }
        for pid in &alive {
            match Pid::from_raw(*pid).map(|pid| kill_process(pid, Signal::KILL)) {
                Some(Err(error)) if error != Errno::SRCH => {
                    tracing::error!("can't end process {pid}: {error}");
                }
                _ => {
                    killed.insert(*pid);
                }
            }
        }
        if Instant::now() > due {
            // A system call that can't be interrupted; nothing but its end comes after it.
            tracing::warn!("processes {alive:?} were killed and have not ended");
            return killed.len();
        }
        // Nothing announces the end of a process that is not a child.
        std::thread::sleep(FAMILY_POLL);
    }
}

/// Takes the ends of all children that have ended; for when nobody else waits for one.
pub(in crate::job) fn reap() {
    while let Ok(Some(_)) | Err(Errno::INTR) = wait(WaitOptions::NOHANG) {}
}

/// Descendants of this process that can still do something.
fn living() -> Vec<i32> {
    let all = processes();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found = Vec::new();
    let mut parents = vec![own];
    while let Some(parent) = parents.pop() {
        for (pid, process) in all.iter().filter(|(_, process)| process.parent == parent) {
            parents.push(*pid);
            if process.is_alive {
                found.push(*pid);
            }
        }
    }
    found
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    parent: i32,
    is_alive: bool,
}

fn processes() -> BTreeMap<i32, Seen> {
    let entries = match PathBuf::from("/proc").read_dir() {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!("/proc: {error}: can't see what the command left running");
            return BTreeMap::new();
        }
    };
    let seen = entries.flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        // One that has ended meanwhile has no file.
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        Some((pid, parse(&String::from_utf8_lossy(&stat))?))
    });
    seen.collect()
}

/// `pid (name) state ppid ...`, where the name may have anything in it.
fn parse(stat: &str) -> Option<Seen> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 20 of proc_pid_stat(5). The first thread of a process may end before the others.
    let threads: u32 = fields.nth(15)?.parse().ok()?;
    Some(Seen { parent, is_alive: !matches!(state, "Z" | "X") || threads > 1 })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_of_proc_is_taken_apart() {
        let rest = "5 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0";
        let line =
            |state: &str, threads: u32| format!("7 (a) S 1 (b)) {state} 42 {rest} {threads} 0");
        assert_eq!(parse(&line("S", 1)), Some(Seen { parent: 42, is_alive: true }));
        assert_eq!(parse(&line("Z", 1)), Some(Seen { parent: 42, is_alive: false }));
        assert_eq!(parse(&line("Z", 2)), Some(Seen { parent: 42, is_alive: true }));
        assert_eq!(parse("7 (a"), None);
    }

    #[test]
    fn a_descendant_is_seen_with_its_parent() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let id = child.id().cast_signed();
        let below = || processes().into_iter().find(|(_, seen)| seen.parent == id);
        let due = Instant::now() + Duration::from_secs(60);
        while below().is_none() {
            assert!(Instant::now() < due, "the shell starts nothing");
            std::thread::sleep(FAMILY_POLL);
        }
        let (grandchild, _) = below().unwrap();
        let found = living();
        assert!(found.contains(&id) && found.contains(&grandchild), "{found:?}");
        for pid in [grandchild, id] {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        }
        child.wait().unwrap();
        assert!(!living().contains(&id));
    }
}
