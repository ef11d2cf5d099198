//! Modes that forbid their owner something, where the owner is this process and not root. Whoever
//! may use the mount may still do things that need it, such as removing an empty directory that
//! nobody may list. So the owner lends itself the bits for the moment. The kernel has checked by
//! then what the caller may do; others gain nothing, as only the owner's bits change.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::store::blob::DiskBlob;
use crate::store::dir::StoreDir;

/// What is lent for a directory.
const DIR_BITS: Mode = Mode::RWXU;

/// One lends at a time, and nobody sets a mode meanwhile: what was there is put back.
static MODES: Mutex<()> = Mutex::new(());

pub(in crate::store) fn modes() -> MutexGuard<'static, ()> {
    MODES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `work`; where the mode forbids it, again with the mode that `set` has set meanwhile.
fn lending<T>(
    work: impl Fn() -> Result<T, Errno>,
    bits: Mode,
    mode: impl Fn() -> Result<u32, Errno>,
    set: impl Fn(Mode) -> Result<(), Errno>,
) -> Result<T, Errno> {
    match work() {
        Err(Errno::ACCESS) => {}
        done => return done,
    }
    let _modes = modes();
    let mode = Mode::from_raw_mode(mode()? & 0o7777);
    // Somebody else's, which only its owner may lend.
    set(mode | bits).map_err(|_| Errno::ACCESS)?;
    let done = work();
    set(mode)?;
    done
}

impl StoreDir {
    /// Does something with an object, lending its owner `bits` if it is forbidden.
    ///
    /// # Errors
    /// Those of `work`.
    pub(in crate::store) fn lending_object<T>(
        &self,
        object: &[u8],
        bits: Mode,
        work: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mode = || Ok(self.stat(object)?.st_mode);
        lending(work, bits, mode, |mode| self.set_mode(object, mode))
    }

    /// Does something in this directory, lending its owner all bits if it is forbidden.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn lending<T>(&self, work: impl Fn(&Self) -> Result<T, Errno>) -> Result<T, Errno> {
        let mode = || Ok(self.stat_self()?.st_mode);
        lending(|| work(self), DIR_BITS, mode, |mode| self.set_mode_self(mode))
    }

    /// Opens a stored directory in this one, also if its mode forbids that to its owner.
    ///
    /// # Errors
    /// The system's.
    pub fn open_dir_lending(&self, object: &[u8]) -> Result<Self, Errno> {
        self.lending_object(object, DIR_BITS, || self.open_dir(object))
    }

    /// Opens a stored file for reading and writing, also if its mode forbids that to its owner:
    /// changing a part of a block of a file of mode 0200 means reading it.
    ///
    /// # Errors
    /// The system's.
    pub fn open_file_lending(&self, object: &[u8]) -> Result<DiskBlob, Errno> {
        self.lending_object(object, Mode::RUSR | Mode::WUSR, || self.open_file(object, true))
    }
}
