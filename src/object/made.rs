//! A file that is being restored, piece by piece, by several threads.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::format::bytes::to_usize;
use crate::format::snapshot::{Meta, Piece};
use crate::object::error::{SnapshotError, local};
use crate::object::finish::finish_open;
use crate::object::pieces;
use crate::object::put_back::MAKE;

/// See the module. It is open from its first piece to its last.
#[derive(Debug)]
pub(in crate::object) struct Made {
    dir: Arc<OwnedFd>,
    name: CString,
    path: Vec<u8>,
    meta: Meta,
    len: u64,
    left: AtomicUsize,
    resume: bool,
    file: Mutex<Option<Arc<OwnedFd>>>,
}

impl Made {
    pub(in crate::object) fn new(
        dir: Arc<OwnedFd>,
        name: CString,
        path: Vec<u8>,
        meta: Meta,
        len: u64,
        pieces: usize,
        resume: bool,
    ) -> Self {
        let (left, file) = (AtomicUsize::new(pieces), Mutex::new(None));
        Self { dir, name, path, meta, len, left, resume, file }
    }

    /// The file, which is made at the first call.
    pub(in crate::object) fn open(&self) -> Result<Arc<OwnedFd>, SnapshotError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*file {
            return Ok(Arc::clone(file));
        }
        let make = || {
            let there = if self.resume { self.there()? } else { None };
            let made = match there {
                Some(there) => there,
                None => rustix::fs::openat(&*self.dir, &self.name, MAKE, Mode::RUSR | Mode::WUSR)?,
            };
            rustix::fs::ftruncate(&made, self.len)?;
            Ok::<_, Errno>(made)
        };
        let made = Arc::new(make().map_err(local(&self.path, "can't make it"))?);
        *file = Some(Arc::clone(&made));
        Ok(made)
    }

    /// What an interrupted restore left in its place; anything but a file of its own is removed.
    fn there(&self) -> Result<Option<OwnedFd>, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = rustix::fs::openat(&*self.dir, &self.name, flags, Mode::empty());
        if let Ok(file) = opened {
            let stat = rustix::fs::fstat(&file)?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && stat.st_nlink == 1 {
                return Ok(Some(file));
            }
        }
        match rustix::fs::unlinkat(&*self.dir, &self.name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(None),
            removed => removed.map(|()| None),
        }
    }

    /// Whether it has the bytes of this piece already.
    pub(in crate::object) fn has(&self, piece: &Piece) -> Result<bool, SnapshotError> {
        Ok(self.resume && pieces::has(&*self.open()?, &piece.extents, &piece.hash))
    }

    pub(in crate::object) fn write(
        &self,
        piece: &Piece,
        bytes: &[u8],
    ) -> Result<(), SnapshotError> {
        let (file, mut rest) = (self.open()?, bytes);
        for (offset, len) in &piece.extents {
            let (part, tail) = rest.split_at(to_usize(*len));
            write_at(&file, part, *offset).map_err(local(&self.path, "can't write it"))?;
            rest = tail;
        }
        Ok(())
    }

    /// Counts a piece that is there; with the last one the file is whole.
    pub(in crate::object) fn note(&self) -> Result<(), SnapshotError> {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 { self.end() } else { Ok(()) }
    }

    /// Gives the file its attributes and closes it.
    pub(in crate::object) fn end(&self) -> Result<(), SnapshotError> {
        let file = self.open()?;
        finish_open(&file, &self.meta).map_err(local(&self.path, "can't set its attributes"))?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}

fn write_at(file: &OwnedFd, mut part: &[u8], mut offset: u64) -> io::Result<()> {
    while !part.is_empty() {
        let written = match rustix::io::pwrite(file, part, offset) {
            Err(Errno::INTR) => continue,
            written => written?,
        };
        part = &part[written..];
        offset += written as u64;
    }
    Ok(())
}
