//! One stored file as bytes at offsets.

use std::fmt::Debug;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::cipher::Sealed;

/// A stored file. What it returns is trusted by nobody; errors are the system's own.
pub trait Blob: Debug + Send + Sync {
    /// Fills `buf` from `offset` on and returns how many bytes there were; fewer only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno>;

    /// Stores `part` of `sealed` at `offset`, all or an error; a hole before it reads as zeros.
    fn write_at(&self, offset: u64, sealed: &Sealed, part: Range<usize>) -> Result<(), Errno>;

    /// Cuts or extends; new bytes are a hole.
    fn set_len(&self, len: u64) -> Result<(), Errno>;

    /// Reserves space for a range without changing the length, so that later writes there do not
    /// fail for want of it.
    fn reserve(&self, offset: u64, len: u64) -> Result<(), Errno>;

    /// Gives the space of a range back; it reads as zeros. A store that can't do it keeps the
    /// bytes, which nothing refers to any more.
    fn punch(&self, offset: u64, len: u64) -> Result<(), Errno>;

    /// Returns when all before it survives a power cut; `data_only` may leave out times.
    fn sync(&self, data_only: bool) -> Result<(), Errno>;
}

/// A file of the store's disk.
#[derive(Debug)]
pub struct DiskBlob(OwnedFd);

impl DiskBlob {
    /// The file behind this descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Copies stored bytes, sealed as they are, from another file: all of them or an error.
    ///
    /// # Errors
    /// The system's; `EIO` if the source ends before.
    pub fn copy_from(
        &self,
        source: &DiskBlob,
        source_offset: u64,
        offset: u64,
        len: usize,
    ) -> Result<(), Errno> {
        let (mut from, mut to, mut left) = (source_offset, offset, len);
        while left > 0 {
            match rustix::fs::copy_file_range(
                &source.0,
                Some(&mut from),
                &self.0,
                Some(&mut to),
                left,
            ) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => left -= count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The same file by one more descriptor.
    ///
    /// # Errors
    /// The system's, out of descriptors.
    pub fn again(&self) -> Result<Self, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.0, 0).map(Self)
    }
}

impl AsFd for DiskBlob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Blob for DiskBlob {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.0, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, sealed: &Sealed, part: Range<usize>) -> Result<(), Errno> {
        let bytes = &sealed.as_bytes()[part];
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pwrite(&self.0, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Errno> {
        rustix::fs::ftruncate(&self.0, len)
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<(), Errno> {
        rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0, flags, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => other,
        }
    }

    fn sync(&self, data_only: bool) -> Result<(), Errno> {
        if data_only { rustix::fs::fdatasync(&self.0) } else { rustix::fs::fsync(&self.0) }
    }
}
