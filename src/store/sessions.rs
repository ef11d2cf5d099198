//! `STORE/sessions` as a file, and what the disk says of when a stored file was made.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use crate::format::sessions::{Made, SLOT_LEN, SLOT_OFFSETS};
use crate::store::blob::{Blob, DiskBlob};
use crate::store::change::{SetAttr, SetTime};
use crate::store::dir::StoreDir;
use crate::store::layout::regular;
use crate::store::watch::There;

const NAME: &str = "sessions";

/// The place of `sessions` in a store, where there need not be one.
#[derive(Debug)]
pub struct SessionFile(StoreDir);

/// What the two slots hold; shorter ones are cut off.
pub type Slots = [Vec<u8>; 2];

impl SessionFile {
    pub(in crate::store) fn new(root: StoreDir) -> Self {
        Self(root)
    }

    /// The file; `None` if the store has none.
    ///
    /// # Errors
    /// The system's, or `EINVAL` for what is no file.
    pub fn open(&self, writable: bool) -> Result<Option<DiskBlob>, Errno> {
        match self.0.open_file(NAME.as_bytes(), writable).and_then(regular) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes it.
    ///
    /// # Errors
    /// `EEXIST`, or the system's.
    pub fn make(&self) -> Result<DiskBlob, Errno> {
        self.0.create(NAME.as_bytes(), 0o600, There::Refuse)
    }

    /// Makes its name durable.
    ///
    /// # Errors
    /// The system's.
    pub fn sync_name(&self) -> Result<(), Errno> {
        self.0.sync()
    }
}

/// Reads the slots.
///
/// # Errors
/// The system's.
pub fn read_slots(file: &DiskBlob) -> Result<Slots, Errno> {
    let read = |at| {
        let mut slot = vec![0; SLOT_LEN];
        let len = file.read_at(at, &mut slot)?;
        slot.truncate(len);
        Ok(slot)
    };
    Ok([read(SLOT_OFFSETS[0])?, read(SLOT_OFFSETS[1])?])
}

/// The time by the clock that gives the files of this one's disk theirs, which on a network
/// filesystem is the server's; seconds. It is left as the file's last modification.
///
/// # Errors
/// The system's.
pub fn disk_time(file: &DiskBlob) -> Result<u64, Errno> {
    let now = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
    now.apply_to(file)?;
    Ok(u64::try_from(rustix::fs::fstat(file)?.st_mtime).unwrap_or(0))
}

/// When something that is open was made and last written to.
///
/// # Errors
/// The system's.
pub fn made(of: impl AsFd) -> Result<Made, Errno> {
    let seconds = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
    let wanted = StatxFlags::BTIME | StatxFlags::MTIME;
    match rustix::fs::statx(&of, c"", AtFlags::EMPTY_PATH, wanted) {
        Ok(stat) => {
            let tells = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
            let born = tells.then(|| seconds(stat.stx_btime.tv_sec));
            Ok(Made { born, written: seconds(stat.stx_mtime.tv_sec) })
        }
        // A kernel, or a filter of system calls, that does not have it.
        Err(Errno::NOSYS | Errno::PERM) => {
            Ok(Made { born: None, written: seconds(rustix::fs::fstat(of)?.st_mtime) })
        }
        Err(error) => Err(error),
    }
}
