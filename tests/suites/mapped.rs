//! Parts of a file in memory. The one place of the suites that is unsafe.

#![allow(unsafe_code, reason = "a mapping can't be made or used otherwise")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

pub(crate) const PAGE: u64 = 4096;

/// A range of a file, mapped shared; until dropped.
pub(crate) struct Mapped {
    base: NonNull<c_void>,
    /// Of the pages that have a part of the range.
    pages_len: usize,
    /// Where the range starts in them.
    skip: usize,
    len: usize,
}

impl Mapped {
    /// Nobody may make the file shorter than the end of the range while bytes of it are touched.
    pub(crate) fn new(file: &File, at: u64, len: u64) -> io::Result<Self> {
        let skip = at % PAGE;
        let pages_len = usize::try_from((skip + len).next_multiple_of(PAGE)).unwrap();
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let null = std::ptr::null_mut();
        // SAFETY: the system chooses the place, so that nothing is mapped over.
        let base =
            unsafe { rustix::mm::mmap(null, pages_len, both, MapFlags::SHARED, file, at - skip)? };
        let base = NonNull::new(base).expect("a mapping is not at zero");
        let (skip, len) = (usize::try_from(skip).unwrap(), usize::try_from(len).unwrap());
        Ok(Self { base, pages_len, skip, len })
    }

    fn pages(&mut self) -> &mut [u8] {
        // SAFETY: they are mapped for as long as `self` is there, and nobody else has a pointer to
        // them. What the kernel changes in them it changes in calls of this thread.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.pages_len) }
    }

    pub(crate) fn range(&mut self) -> &mut [u8] {
        let (start, end) = (self.skip, self.skip + self.len);
        &mut self.pages()[start..end]
    }

    /// What is mapped after the range, to the end of its last page.
    pub(crate) fn after(&mut self) -> &mut [u8] {
        let end = self.skip + self.len;
        &mut self.pages()[end..]
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        // SAFETY: the pages are mapped.
        unsafe { rustix::mm::msync(self.base.as_ptr(), self.pages_len, MsyncFlags::SYNC) }
            .map_err(Into::into)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the pages were mapped by us, and no slice of them outlives this.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.pages_len) };
        unmapped.expect("what was mapped");
    }
}
