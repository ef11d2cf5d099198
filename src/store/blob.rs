//! One stored file as bytes at offsets.

use std::fmt::Debug;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::cipher::Sealed;
use crate::format::bytes::to_usize;
use crate::store::told::{is_news, path_of};
use crate::store::watch::{Hook, Op, Watched, number, of_disk};

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
pub struct DiskBlob {
    fd: OwnedFd,
    hook: Hook,
}

impl DiskBlob {
    /// The file behind this descriptor, of a store with this watch.
    pub(in crate::store) fn new(fd: OwnedFd, hook: &Hook) -> Self {
        Self { fd, hook: hook.clone() }
    }

    /// Copies stored bytes, sealed as they are, from another file: all of them or an error. By the
    /// disk itself (copy_file_range(2)) where it can, and nobody watches what is written.
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
        while left > 0 && !self.hook.is_set() {
            self.hook.check()?;
            let copy = rustix::fs::copy_file_range;
            match copy(&source.fd, Some(&mut from), &self.fd, Some(&mut to), left) {
                Ok(0) => return Err(source.is_cut()),
                Ok(count) => left -= count,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => break,
                Err(error) => return Err(of_disk(error)),
            }
        }
        let mut bytes = vec![0; left];
        if source.read_at(from, &mut bytes)? < left {
            return Err(source.is_cut());
        }
        if left > 0 { self.write_bytes(to, &bytes) } else { Ok(()) }
    }

    /// Writes zeros, which have their place on the disk then.
    ///
    /// # Errors
    /// The system's; what is there then is a part of it.
    pub fn write_zeros(&self, offset: u64, len: u64) -> Result<(), Errno> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut done = 0;
        while done < len {
            let part = (len - done).min(ZEROS.len() as u64);
            self.write_bytes(offset + done, &ZEROS[..to_usize(part)])?;
            done += part;
        }
        Ok(())
    }

    /// A stored file that is open, opened anew to be read: a network filesystem looks what its
    /// server has only then.
    ///
    /// # Errors
    /// The system's, out of descriptors.
    pub fn reopen(of: &impl Watched) -> Result<Self, Errno> {
        let path = format!("/proc/self/fd/{}", of.as_fd().as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let again = |_| rustix::io::fcntl_dupfd_cloexec(of, 0);
        opened.or_else(again).map(|fd| Self::new(fd, of.hook()))
    }

    /// The same file by one more descriptor.
    ///
    /// # Errors
    /// The system's, out of descriptors.
    pub fn again(&self) -> Result<Self, Errno> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        Ok(Self::new(fd, &self.hook))
    }

    /// The disk does not read what it has: nobody else tells which file that is.
    fn tell_unread(&self, offset: u64) {
        let (ino, stored) = (number(&self.fd).unwrap_or(0), path_of(self));
        if is_news(&(ino, &stored, offset)) {
            tracing::error!(
                ino,
                stored = stored.map(debug),
                offset,
                "the store's disk can't read this file here: see what it says (dmesg), and restore \
                 the file from a snapshot if its disk stays so"
            );
        }
    }

    /// What was written here is not there any more: says so, and gives the errno for it.
    pub fn is_cut(&self) -> Errno {
        let (ino, stored) = (number(&self.fd).unwrap_or(0), path_of(self));
        if is_news(&(ino, &stored, "cut")) {
            tracing::error!(
                ino,
                stored = stored.map(debug),
                "this file was cut off while it was in use, and what was written there is lost: \
                 unmount the volume, and restore what `cmkfs check` names from a snapshot"
            );
        }
        Errno::IO
    }

    /// A call for this file, which `op` names.
    fn call<'a, T>(
        &self,
        op: impl FnOnce(u64) -> Op<'a>,
        run: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.hook.call(|| number(&self.fd).map(op), run)
    }

    pub(in crate::store) fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let run = || {
            let mut done = 0;
            while done < bytes.len() {
                match rustix::io::pwrite(&self.fd, &bytes[done..], offset + done as u64) {
                    Ok(0) => return Err(Errno::IO),
                    Ok(count) => done += count,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        self.call(|file| Op::Write { file, offset, bytes }, run)
    }
}

impl AsFd for DiskBlob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Watched for DiskBlob {
    fn hook(&self) -> &Hook {
        &self.hook
    }
}

impl Blob for DiskBlob {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let len = buf.len();
        let run = || {
            let mut done = 0;
            while done < len {
                match rustix::io::pread(&self.fd, &mut buf[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(count) => done += count,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(done)
        };
        let done =
            self.hook.look(|| number(&self.fd).map(|file| Op::Read { file, offset, len }), run);
        if done == Err(Errno::IO) {
            self.tell_unread(offset);
        }
        done
    }

    fn write_at(&self, offset: u64, sealed: &Sealed, part: Range<usize>) -> Result<(), Errno> {
        self.write_bytes(offset, &sealed.as_bytes()[part])
    }

    fn set_len(&self, len: u64) -> Result<(), Errno> {
        self.call(|file| Op::SetLen { file, len }, || rustix::fs::ftruncate(&self.fd, len))
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let run = || rustix::fs::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, offset, len);
        self.call(|file| Op::Reserve { file, offset, len }, run)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let run = || rustix::fs::fallocate(&self.fd, flags, offset, len);
        match self.call(|file| Op::Punch { file, offset, len }, run) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => other,
        }
    }

    fn sync(&self, data_only: bool) -> Result<(), Errno> {
        let run = || match data_only {
            true => rustix::fs::fdatasync(&self.fd),
            false => rustix::fs::fsync(&self.fd),
        };
        self.call(|file| Op::SyncFile { file, data_only }, run)
    }
}
