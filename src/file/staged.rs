//! What a [`Stage`](crate::file::stage::Stage) holds of its file beside the stored file itself.

use std::collections::BTreeMap;
use std::ops::Range;

use rustix::io::Errno;

use crate::cipher::Sealed;
use crate::file::left::without;
use crate::format::journal::{Extent, Subject};
use crate::store::{Blob, DiskBlob};

/// Where a part of a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::file) struct Place {
    /// Which segment of the journal.
    pub(in crate::file) segment: usize,
    /// Where in it.
    pub(in crate::file) at: u64,
    /// Bytes.
    pub(in crate::file) len: usize,
}

/// A file of which nothing in place counts.
#[derive(Debug, Default)]
pub(in crate::file) struct Void {
    /// A record of the journal says so.
    pub(in crate::file) told: bool,
    /// How the file began.
    pub(in crate::file) birth: Option<Birth>,
    /// Bytes that were written since.
    pub(in crate::file) len: usize,
}

/// How a file that is not durable yet began.
#[derive(Debug)]
pub(in crate::file) struct Birth {
    pub(in crate::file) subject: Subject,
    pub(in crate::file) header: Sealed,
}

/// What was staged at some moment.
#[derive(Debug)]
pub(in crate::file) struct Staged {
    parts: BTreeMap<u64, Sealed>,
    len: usize,
    ahead_len: usize,
}

/// All of it; the fields are in the terms of the module `stage`.
#[derive(Debug, Default)]
pub(in crate::file) struct Held {
    pub(in crate::file) floor: u64,
    pub(in crate::file) staged: BTreeMap<u64, Sealed>,
    pub(in crate::file) staged_len: usize,
    pub(in crate::file) ahead_len: usize,
    pub(in crate::file) pending: BTreeMap<u64, Place>,
    pub(in crate::file) punched: Vec<(u64, u64)>,
    /// The stored file has to become shorter.
    pub(in crate::file) cut: bool,
    pub(in crate::file) void: Option<Void>,
    /// What was written in place that the next record refers to, and that no sync has covered.
    pub(in crate::file) direct: Vec<Extent>,
    /// Bytes of the stored file with the last record.
    pub(in crate::file) committed_len: u64,
    /// Generation that the store has, in the journal or in place.
    pub(in crate::file) generation: u64,
    /// Number of the last record.
    pub(in crate::file) number: u64,
}

impl Staged {
    /// Bytes.
    pub(in crate::file) fn len(&self) -> usize {
        self.len
    }
}

/// Asks for the places of parts of a stored file, where a disk can be asked for them.
pub(in crate::file) fn reserve_all<'a>(
    disk: &DiskBlob,
    parts: impl Iterator<Item = (&'a u64, &'a Place)>,
) -> Result<(), Errno> {
    for (offset, place) in parts {
        match disk.reserve(*offset, place.len as u64) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            reserved => reserved?,
        }
    }
    Ok(())
}

impl Held {
    /// About how many bytes the stored file takes once all is in place; it has `lower_len` bytes
    /// and takes `taken` now.
    pub(in crate::file) fn space(&self, lower_len: u64, taken: u64) -> u64 {
        let from = if self.void.is_some() { 0 } else { lower_len };
        let taken = if self.void.is_some() { 0 } else { taken };
        let cut = if self.cut { lower_len.saturating_sub(self.committed_len) } else { 0 };
        let pending = self.pending.range(from..).map(|(_, place)| place.len as u64);
        let staged = self.staged.range(from..).map(|(_, sealed)| sealed.as_bytes().len() as u64);
        taken.saturating_sub(cut) + pending.sum::<u64>() + staged.sum::<u64>()
    }

    /// Writes what nothing refers to yet to its place, and notes that it is there.
    pub(in crate::file) fn write_direct(
        &mut self,
        disk: &DiskBlob,
        offset: u64,
        sealed: &Sealed,
        part: Range<usize>,
    ) -> Result<(), Errno> {
        let len = u32::try_from(part.len()).expect("a request at most");
        let end = offset + u64::from(len);
        disk.write_at(offset, sealed, part)?;
        // What was committed there once was cut off since.
        let void: Vec<u64> = self.pending.range(offset..end).map(|(at, _)| *at).collect();
        for at in void {
            self.pending.remove(&at);
        }
        // Nor is it a hole any more, if it was to become one.
        if !self.punched.is_empty() {
            self.punched = without(std::mem::take(&mut self.punched), &(offset..end));
        }
        match self.direct.last_mut() {
            Some(last)
                if last.offset + u64::from(last.len) == offset
                    && last.len.checked_add(len).is_some() =>
            {
                last.len += len;
            }
            _ => self.direct.push(Extent { offset, len }),
        }
        Ok(())
    }

    /// Bytes of what is pending.
    pub(in crate::file) fn pending_len(&self) -> usize {
        self.pending.values().map(|place| place.len).sum()
    }

    /// A copy of what is staged, to come back to.
    pub(in crate::file) fn copy_staged(&self) -> Staged {
        let copy = |(at, sealed): (&u64, &Sealed)| (*at, sealed.part(0..sealed.as_bytes().len()));
        let parts = self.staged.iter().map(copy).collect();
        Staged { parts, len: self.staged_len, ahead_len: self.ahead_len }
    }

    /// Stages what was staged then, and nothing else.
    pub(in crate::file) fn unwind(&mut self, staged: Staged) {
        (self.staged, self.staged_len) = (staged.parts, staged.len);
        self.ahead_len = staged.ahead_len;
    }
}
