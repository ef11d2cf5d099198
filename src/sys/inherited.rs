//! Descriptors that whoever started this process opened for it.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Those that were not taken yet.
static INHERITED: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

fn shown(fd: RawFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.to_string())
}

/// Notes which descriptors above standard error are open. To be called by `main` before it opens
/// anything, since what is open later belongs to somebody.
pub fn note_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers: Vec<RawFd> = numbers.filter(|fd| *fd > 2).collect();
    // The listing had a descriptor of its own, which is closed now.
    let open = numbers.into_iter().filter(|fd| shown(*fd).symlink_metadata().is_ok());
    *INHERITED.lock().unwrap_or_else(PoisonError::into_inner) = open.collect();
}

/// Whether it came with the process and was not taken.
pub fn is_inherited(fd: RawFd) -> bool {
    INHERITED.lock().unwrap_or_else(PoisonError::into_inner).contains(&fd)
}

/// The descriptor, to own it; once.
#[allow(unsafe_code, reason = "a number is all that there is of a descriptor of the shell's")]
pub fn take_inherited(fd: RawFd) -> Option<OwnedFd> {
    let mut left = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
    let at = left.iter().position(|other| *other == fd)?;
    left.swap_remove(at);
    // SAFETY: it was open before this process opened anything, so that nothing here owns it, and
    // the list gives it out once.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
