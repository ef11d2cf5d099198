//! Zeroes bytes that the code which owns them leaves as they are.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

const DEVICE: &str = "/dev/zero";

/// What memory is overwritten with.
#[derive(Debug)]
pub(crate) struct Zeros {
    device: File,
    /// Whether it was logged that something could not be overwritten.
    told: AtomicBool,
}

impl Zeros {
    /// Opens the system's device.
    ///
    /// # Errors
    /// The system's; another file of its name.
    pub(crate) fn open() -> io::Result<Self> {
        let failed = |error| io::Error::other(format!("{DEVICE}: {error}"));
        let device = File::open(DEVICE).map_err(failed)?;
        let found = device.metadata().map_err(failed)?;
        if !found.file_type().is_char_device() || found.rdev() != rustix::fs::makedev(1, 5) {
            return Err(io::Error::other(format!(
                "{DEVICE} is not the device of zeros, by which what was written is zeroed in \
                 memory: make it with `mknod -m 666 {DEVICE} c 1 5`"
            )));
        }
        Ok(Self { device, told: AtomicBool::new(false) })
    }

    /// Overwrites bytes that the caller has borrowed from the buffer of a read(2), and that nobody
    /// reads again before the next read(2) fills it. Logs it once if the system refuses.
    ///
    /// The system writes them, as it did before: a write by this code would need them borrowed
    /// mutably, and their owner lends them for reading only.
    #[allow(unsafe_code, reason = "reading to where no mutable slice leads")]
    pub(crate) fn overwrite(&self, mut spent: &[u8]) {
        while !spent.is_empty() {
            let (device, room) = (self.device.as_raw_fd(), spent.as_ptr().expose_provenance());
            let room = std::ptr::with_exposed_provenance_mut(room);
            // SAFETY: the kernel checks the range, and fails where it may not be written. It is of
            // a buffer that its owner passes to read(2) by a mutable slice, so no code relies on
            // what is in there between two of these; the callers' one borrow is not read any more.
            let read = unsafe { libc::read(device, room, spent.len()) };
            match usize::try_from(read) {
                Ok(0) => return self.tell(&io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(read) => spent = &spent[read..],
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return self.tell(&error),
                },
            }
        }
    }

    fn tell(&self, error: &io::Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::error!(
                %error,
                "what was written stays in memory until other requests take its place: reading \
                 {DEVICE} failed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_was_read_is_zeros_afterwards_and_nothing_beside_it() {
        let zeros = Zeros::open().unwrap();
        let mut buffer = vec![0; 3 << 20];
        std::io::repeat(7).read_exact(&mut buffer).unwrap();
        zeros.overwrite(&buffer[5..(2 << 20) + 3]);
        // As each request is: read anew into what was lent.
        let buffer = std::hint::black_box(buffer);
        let is = |range: std::ops::Range<usize>, byte| buffer[range].iter().all(|b| *b == byte);
        assert!(is(0..5, 7) && is(5..(2 << 20) + 3, 0) && is((2 << 20) + 3..3 << 20, 7));
        zeros.overwrite(&[]);
    }

    /// As memory that can't be written does.
    #[test]
    fn what_the_system_refuses_is_told_once_and_ends_nothing() {
        let zeros = Zeros::open().unwrap();
        assert!(!zeros.told.load(Ordering::Relaxed));
        zeros.overwrite(std::hint::black_box(b"a constant"));
        assert!(zeros.told.load(Ordering::Relaxed));
    }
}
