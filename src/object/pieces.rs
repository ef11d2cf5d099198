//! How a stored file is cut into pieces, and which of them are unchanged.
//!
//! Every commit of a stored file seals its header anew under a fresh nonce, so that two stored
//! files with the same first 124 bytes have the same content: the tree of tags hangs from there. A
//! file of one run is one piece. A larger one has a piece for the header and the nodes above level
//! 0, which any change changes, and one for each run with its node: a node is sealed anew with
//! whatever changes below it, so a run whose stored node is the same is the same.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::io;

use crate::format::bytes::to_usize;
use crate::format::geometry::{BlockSize, FANOUT, Geometry, NodeAt, PAGE_LEN, SLOT_LEN};
use crate::format::header::{self, PREFIX_BYTES};
use crate::format::node::NODE_LEN;
use crate::format::snapshot::{Content, Hash, Mark, Piece};
use crate::object::target::hash;

/// Bytes of a piece of a file that is no stored file of ours.
const OTHER_LEN: u64 = 2 << 20;

/// The first bytes of the SHA-256.
fn mark(bytes: &[u8]) -> Mark {
    *hash(bytes).first_chunk().expect("32 bytes have 16")
}

/// How a file is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::object) enum Shape {
    /// One run, or inline.
    One,
    /// Several runs of blocks of this size.
    Runs(BlockSize),
    /// Not ours: cut every so many bytes.
    Other,
}

/// A stored file, before its content is read.
#[derive(Debug)]
pub(in crate::object) struct Cut {
    pub(in crate::object) file: Arc<OwnedFd>,
    pub(in crate::object) len: u64,
    pub(in crate::object) mark: Mark,
    pub(in crate::object) shape: Shape,
}

/// Bytes of a piece, as they were read.
#[derive(Debug)]
pub(in crate::object) struct Read {
    pub(in crate::object) bytes: Vec<u8>,
    pub(in crate::object) extents: Vec<(u64, u64)>,
}

/// Which part of a file, by offset and end.
pub(in crate::object) type Span = (u64, u64);

impl Cut {
    /// Looks at the header of a file of `len` bytes.
    pub(in crate::object) fn look(file: OwnedFd, len: u64) -> io::Result<Self> {
        let mut prefix = [0; PREFIX_BYTES];
        let count = read_at(&file, &mut prefix, 0)?;
        let file = Arc::new(file);
        let Ok((claim, _)) = header::decode(&prefix[..count]) else {
            return Ok(Self { file, len, mark: [0; 16], shape: Shape::Other });
        };
        let run_len = SLOT_LEN + FANOUT * claim.block_size.bytes();
        let shape = if len > run_len { Shape::Runs(claim.block_size) } else { Shape::One };
        Ok(Self { file, len, mark: mark(&prefix), shape })
    }

    /// What is known of it without its pieces.
    pub(in crate::object) fn content(&self) -> Content {
        let block_log2 = match self.shape {
            Shape::Runs(size) => size.log2(),
            Shape::One | Shape::Other => 0,
        };
        Content { len: self.len, mark: self.mark, block_log2, pieces: Vec::new() }
    }

    /// Number of its pieces.
    pub(in crate::object) fn count(&self) -> u64 {
        match self.shape {
            Shape::One => 1,
            Shape::Runs(size) => 1 + self.len.div_ceil(run_len(size)),
            Shape::Other => self.len.div_ceil(OTHER_LEN),
        }
    }

    /// Where the bytes of piece `index` are.
    pub(in crate::object) fn spans(&self, index: u64) -> Vec<Span> {
        let spans = match self.shape {
            Shape::One => vec![(0, self.len)],
            Shape::Other => vec![(index * OTHER_LEN, (index + 1) * OTHER_LEN)],
            Shape::Runs(size) if index == 0 => {
                let geometry = Geometry::new(size);
                let runs = self.len.div_ceil(run_len(size));
                let mut spans = vec![(0, PAGE_LEN)];
                for level in 1..3 {
                    let count = runs.div_ceil(FANOUT.pow(level.into()));
                    // A node above the top one is not there, and its page is a hole.
                    let nodes =
                        (0..count).map(|index| geometry.node_offset(NodeAt { level, index }));
                    spans.extend(nodes.map(|offset| (offset, offset + PAGE_LEN)));
                }
                spans.sort_unstable();
                spans
            }
            Shape::Runs(size) => {
                let begin = (index - 1) * run_len(size);
                let (node, blocks) = (begin + PAGE_LEN, begin + SLOT_LEN);
                vec![(node, node + PAGE_LEN), (blocks, begin + run_len(size))]
            }
        };
        let inside = |(begin, end): Span| (begin.min(self.len), end.min(self.len));
        spans.into_iter().map(inside).filter(|(begin, end)| begin < end).collect()
    }

    /// The mark of piece `index`: of the stored node of a run.
    pub(in crate::object) fn mark_of(&self, index: u64) -> io::Result<Mark> {
        let Shape::Runs(size) = self.shape else { return Ok([0; 16]) };
        let Some(run) = index.checked_sub(1) else { return Ok([0; 16]) };
        let at = Geometry::new(size).node_offset(NodeAt { level: 0, index: run });
        let mut node = [0; NODE_LEN];
        let count = read_at(&self.file, &mut node, at)?;
        Ok(if count == NODE_LEN && node != [0; NODE_LEN] { mark(&node) } else { [0; 16] })
    }

    /// The piece `index` of an older state of the file that has the same bytes.
    pub(in crate::object) fn same<'a>(
        &self,
        index: u64,
        mark: &Mark,
        older: Option<&'a Content>,
    ) -> Option<&'a Piece> {
        let older = older.filter(|older| older.block_log2 == self.content().block_log2)?;
        let piece = older.pieces.get(usize::try_from(index).ok()?)?;
        let reaches = piece.extents.last().map_or(0, |(offset, len)| offset + len);
        (*mark != [0; 16] && piece.mark == *mark && reaches <= self.len).then_some(piece)
    }
}

fn run_len(size: BlockSize) -> u64 {
    SLOT_LEN + FANOUT * size.bytes()
}

/// Reads until the buffer is full or the file ends; returns how much.
fn read_at(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Reads what is no hole in these spans.
pub(in crate::object) fn read(file: &OwnedFd, spans: &[Span]) -> io::Result<Read> {
    let mut read = Read { bytes: Vec::new(), extents: Vec::new() };
    for (begin, end) in spans {
        let mut at = *begin;
        while let Some((from, to)) = data(file, at, *end)? {
            let had = read.bytes.len();
            read.bytes.resize(had + to_usize(to - from), 0);
            let count = read_at(file, &mut read.bytes[had..], from)?;
            read.bytes.truncate(had + count);
            // Cut meanwhile: so is the end of what was read.
            let len = count as u64;
            match read.extents.last_mut() {
                Some((offset, before)) if *offset + *before == from => *before += len,
                _ if len > 0 => read.extents.push((from, len)),
                _ => {}
            }
            at = to;
        }
    }
    Ok(read)
}

/// The first range from `at` on, before `end`, that is no hole.
fn data(file: &OwnedFd, at: u64, end: u64) -> io::Result<Option<Span>> {
    if at >= end {
        return Ok(None);
    }
    if at == 0 && end <= PAGE_LEN {
        return Ok(Some((at, end)));
    }
    let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok(None),
        from => from?,
    };
    if from >= end {
        return Ok(None);
    }
    let to = rustix::fs::seek(file, SeekFrom::Hole(from))?;
    Ok(Some((from, to.min(end))))
}

/// Whether the bytes at these places of a file have this hash.
pub(in crate::object) fn has(file: &OwnedFd, extents: &[(u64, u64)], wanted: &Hash) -> bool {
    let mut bytes = Vec::new();
    for (offset, len) in extents {
        let had = bytes.len();
        bytes.resize(had + to_usize(*len), 0);
        let whole = usize::try_from(*len).ok();
        if read_at(file, &mut bytes[had..], *offset).ok() != whole {
            return false;
        }
    }
    hash(&bytes) == *wanted
}
