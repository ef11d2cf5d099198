//! Owner, mode and times of stored objects, and changing them.

use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;

use crate::store::lend::modes;
use crate::store::watch::{Op, Watched, number};

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// Seconds and nanoseconds since 1970 UTC.
    At(i64, u32),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits, including set-id and sticky.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of last access.
    pub atime: Option<SetTime>,
    /// Time of last modification.
    pub mtime: Option<SetTime>,
}

impl SetAttr {
    /// The times that something has.
    pub fn times_of(stat: &rustix::fs::Stat) -> Self {
        let time = |s, ns| Some(SetTime::At(s, u32::try_from(ns).unwrap_or(0)));
        Self {
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ..Self::default()
        }
    }

    /// Whether a time is to be set.
    pub fn sets_times(&self) -> bool {
        self.atime.is_some() || self.mtime.is_some()
    }

    pub(in crate::store) fn timestamps(&self) -> Timestamps {
        let omit = rustix::fs::UTIME_OMIT;
        let now = rustix::fs::UTIME_NOW;
        let time = |time: Option<SetTime>| match time {
            None => Timespec { tv_sec: 0, tv_nsec: omit },
            Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: now },
            Some(SetTime::At(s, ns)) => Timespec { tv_sec: s, tv_nsec: i64::from(ns) },
        };
        Timestamps { last_access: time(self.atime), last_modification: time(self.mtime) }
    }

    pub(in crate::store) fn owner(
        &self,
    ) -> Option<(Option<rustix::fs::Uid>, Option<rustix::fs::Gid>)> {
        let uid = self.uid.map(rustix::fs::Uid::from_raw);
        let gid = self.gid.map(rustix::fs::Gid::from_raw);
        (uid.is_some() || gid.is_some()).then_some((uid, gid))
    }

    fn op(&self, of: &impl Watched) -> Result<Op<'_>, Errno> {
        Ok(Op::SetAttr { file: number(of.as_fd())?, set: self })
    }

    /// Changes what is open.
    ///
    /// # Errors
    /// The system's; what came before it is done.
    pub fn apply_to(&self, of: &impl Watched) -> Result<(), Errno> {
        // Before the call, as who lends a mode makes calls while it has this.
        let _modes = self.mode.map(|_| modes());
        let run = || {
            if let Some((uid, gid)) = self.owner() {
                rustix::fs::fchown(of, uid, gid)?;
            }
            if let Some(mode) = self.mode {
                rustix::fs::fchmod(of, Mode::from_raw_mode(mode))?;
            }
            if self.sets_times() {
                rustix::fs::futimens(of, &self.timestamps())?;
            }
            Ok(())
        };
        of.hook().call(|| self.op(of), run)
    }

    /// Changes what stands where a descriptor of a place (`O_PATH`) points to. It may have no
    /// name any more, and can't be opened without doing something to it; so by `/proc`, where
    /// the system follows the path to what is open and no further.
    ///
    /// # Errors
    /// The system's, such as `EOPNOTSUPP` for the mode of a symbolic link; what came before it
    /// is done.
    pub fn apply_by_place(&self, of: &impl Watched) -> Result<(), Errno> {
        let path = format!("/proc/self/fd/{}", of.as_fd().as_raw_fd());
        // Before the call, as who lends a mode makes calls while it has this.
        let _modes = self.mode.map(|_| modes());
        let run = || {
            if let Some((uid, gid)) = self.owner() {
                rustix::fs::chownat(of, c"", uid, gid, AtFlags::EMPTY_PATH)?;
            }
            if let Some(mode) = self.mode {
                rustix::fs::chmod(&path, Mode::from_raw_mode(mode))?;
            }
            if self.sets_times() {
                let times = self.timestamps();
                rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty())?;
            }
            Ok(())
        };
        of.hook().call(|| self.op(of), run)
    }
}
