//! What a [`Stage`](crate::file::stage::Stage) holds of its file beside the stored file itself.

use std::collections::BTreeMap;

use crate::cipher::Sealed;
use crate::format::journal::{Extent, Subject};

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

impl Held {
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
