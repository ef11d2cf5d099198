//! What a file was before a change of its length, to come back to where the journal has no room for
//! that: as ext4 has it, what can't be cut stays as it was.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::cipher::Plain;
use crate::file::staged::Staged;
use crate::file::stat::Time;
use crate::file::state::{Body, State};
use crate::file::written::Written;

/// All that a change of the length changes. Not what is in place: below the floor nothing is
/// written there, and above it nothing that was committed.
pub(in crate::file) struct Former {
    body: Body,
    blocks: BTreeMap<u64, Plain>,
    staged: Staged,
    /// Number of the last record.
    number: u64,
    length: u64,
    generation: u64,
    stored_len: u64,
    dirty: bool,
    written: Written,
    mtime: Option<Time>,
    unused: Vec<Range<u64>>,
}

impl State {
    /// A copy; `None` of a file that is written in place.
    pub(in crate::file) fn former(&self) -> Option<Former> {
        let body = match &self.body {
            Body::Inline(content) => Body::Inline(Plain::copy_of(content)),
            Body::Tree(tree) => Body::Tree(tree.copy()),
        };
        let copy = |(block, plain): (&u64, &Plain)| (*block, Plain::copy_of(plain));
        Some(Former {
            body,
            staged: self.blob.copy_staged()?,
            blocks: self.blocks.iter().map(copy).collect(),
            number: self.blob.number(),
            length: self.length,
            generation: self.generation,
            stored_len: self.stored_len,
            dirty: self.dirty,
            written: self.written.clone(),
            mtime: self.mtime,
            unused: self.unused.clone(),
        })
    }

    /// Makes it what it was, unless the journal has more of it than then. Returns whether it did.
    pub(in crate::file) fn go_back(&mut self, former: Former) -> bool {
        if self.blob.number() != former.number {
            return false;
        }
        self.blob.unwind(former.staged);
        (self.body, self.blocks) = (former.body, former.blocks);
        (self.length, self.generation) = (former.length, former.generation);
        (self.stored_len, self.dirty) = (former.stored_len, former.dirty);
        (self.written, self.mtime, self.unused) = (former.written, former.mtime, former.unused);
        true
    }
}
