//! What an open file knows. One writer or many readers have it at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cipher::{FileCipher, Plain};
use crate::file::stage::Stage;
use crate::file::stat::Time;
use crate::file::tree::{Ground, Tree};
use crate::file::written::Written;
use crate::format::geometry::Geometry;
use crate::format::header::Prefix;
use crate::format::journal::Subject;
use crate::format::node::Entry;

/// Where the content is.
#[derive(Debug)]
pub(in crate::file) enum Body {
    /// In the header: exactly the file's bytes.
    Inline(Plain),
    /// In blocks.
    Tree(Tree),
}

/// Invariants:
/// 1. the body is inline exactly if the length is at most `INLINE_MAX`;
/// 2. a block in `blocks` has the block size in bytes, with zeros past the end of the file; its
///    entry in the tree, its cached copy and its stored bytes are out of date;
/// 3. `dirty` if anything differs from what the stored header says.
#[derive(Debug)]
pub(in crate::file) struct State {
    pub(in crate::file) blob: Stage,
    pub(in crate::file) writable: bool,
    /// What authenticated the header that was read; a volume that is open for reading compares it.
    pub(in crate::file) loaded: Entry,
    /// The next header is that of a file that begins.
    pub(in crate::file) begins: bool,
    pub(in crate::file) prefix: Prefix,
    pub(in crate::file) cipher: FileCipher,
    pub(in crate::file) generation: u64,
    pub(in crate::file) length: u64,
    /// Plaintext bytes that the stored header tells.
    pub(in crate::file) committed_len: u64,
    /// Bytes of dirty blocks that the volume has counted.
    pub(in crate::file) counted_bytes: u64,
    /// Bytes of the lower file, as far as this process has written it.
    pub(in crate::file) stored_len: u64,
    pub(in crate::file) body: Body,
    pub(in crate::file) blocks: BTreeMap<u64, Plain>,
    pub(in crate::file) dirty: bool,
    /// How it differs, if that is only by what was written.
    pub(in crate::file) written: Written,
    /// Nothing was written, as far as is known, that is not on the disk.
    pub(in crate::file) settled: AtomicBool,
    /// When the file was last written to, if the store does not say so yet.
    pub(in crate::file) mtime: Option<Time>,
    /// Somebody has seen `mtime`: the store has to say the same.
    pub(in crate::file) mtime_seen: AtomicBool,
    /// Blocks that were made holes: their space can be given back after the next commit, as far
    /// as they are holes still.
    pub(in crate::file) unused: Vec<Range<u64>>,
}

impl State {
    pub(in crate::file) fn geometry(&self) -> Geometry {
        Geometry::new(self.prefix.block_size)
    }

    /// A write that failed may have lengthened the lower file: the next commit ends it where the
    /// header says.
    pub(in crate::file) fn note_stored_len(&mut self) {
        let lower_len = rustix::fs::fstat(&self.blob).map_or(0, |stat| stat.st_size);
        self.stored_len = self.stored_len.max(u64::try_from(lower_len).unwrap_or(0));
    }

    /// Which file this is, and its generation, for a record.
    pub(in crate::file) fn subject(&self, ino: u64) -> Subject {
        Subject { ino, file_id: self.prefix.file_id, generation: self.generation }
    }

    /// The state's own lower file, cipher and geometry, beside its body.
    pub(in crate::file) fn ground(&self, ino: u64) -> Ground<'_> {
        let geometry = self.geometry();
        Ground { blob: &self.blob, cipher: &self.cipher, geometry, ino }
    }

    /// The tree to change, beside what it needs to reach its nodes.
    ///
    /// # Panics
    /// If the body is inline.
    pub(in crate::file) fn tree_mut(&mut self, ino: u64) -> (&mut Tree, Ground<'_>) {
        let geometry = self.geometry();
        let Self { body: Body::Tree(tree), blob, cipher, .. } = self else {
            panic!("the caller has made the body a tree")
        };
        (tree, Ground { blob, cipher, geometry, ino })
    }

    /// The tree; `None` if the content is inline.
    pub(in crate::file) fn tree(&self) -> Option<&Tree> {
        match &self.body {
            Body::Tree(tree) => Some(tree),
            Body::Inline(_) => None,
        }
    }

    /// Whether nothing of what the file is now is under a key that it has had. A change of its
    /// length that can't be committed may be taken back, and then something is.
    pub(in crate::file) fn is_past_former(&self) -> bool {
        let count = self.tree().map_or(0, |_| self.geometry().block_count(self.length));
        self.cipher.former().is_none_or(|former| former.from >= count)
    }

    /// Whether all of the file is on the disk, as far as is known.
    pub(in crate::file) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Notes that content was changed now.
    pub(in crate::file) fn changed(&mut self) {
        self.written.blur();
        self.touched();
    }

    /// The same for a write, whose range is noted elsewhere.
    pub(in crate::file) fn touched(&mut self) {
        self.dirty = true;
        *self.settled.get_mut() = false;
        self.mtime = Some(Time::now());
        *self.mtime_seen.get_mut() = false;
    }
}
