//! Where things lie in a stored file. Every conversion is one function; all offsets and lengths
//! are bytes, all indices count from 0.
//!
//! ```text
//! 0        4096                16384                  16384 + 128 B    32768 + 128 B
//! | header | nodes of run 0    | blocks 0 .. 127      | nodes of run 1 | blocks 128 .. 255 ...
//! ```
//!
//! A *run* is 128 blocks. Its slot of 16 KiB comes before it: page 1 holds the node of level 0
//! for the run, page 2 the node of level 1 where the run's number is a multiple of 128, page 3
//! the node of level 2 where it is a multiple of 16384. Unused pages are holes of the lower file.
//! A node of level `n` has an entry for each of 128 nodes of level `n - 1`, or, at level 0, for
//! each of 128 blocks. The header holds the 128 entries of the top.

use crate::format::header::{INLINE_MAX, PAYLOAD_FIXED_LEN, PREFIX_LEN};

/// Bytes of a page: the header has the first, each node has one.
pub const PAGE_LEN: u64 = 4096;
/// The same, for arrays.
pub const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_LEN);
/// Bytes of the slot before each run.
pub const SLOT_LEN: u64 = 4 * PAGE_LEN;
/// Entries of a node, and of the header of a file that is not inline.
pub const FANOUT: u64 = 128;
/// Levels of nodes that a slot has pages for; with the header's own entries one more.
pub const LEVELS_MAX: u8 = 3;

/// Bytes of a block: a power of two from 4 KiB to 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    log2: u8,
}

impl BlockSize {
    /// 16 KiB: a random read of 4 KiB opens little that it does not need, and sealing costs
    /// within an eighth of what it costs at 64 KiB.
    pub const DEFAULT: Self = Self { log2: 14 };

    /// From the exponent that a header stores; `None` outside 12 to 16.
    pub fn from_log2(log2: u8) -> Option<Self> {
        (12..=16).contains(&log2).then_some(Self { log2 })
    }

    /// From a number of bytes; `None` if it is not a power of two from 4096 to 65536.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        let log2 = u8::try_from(bytes.checked_ilog2()?).ok()?;
        Self::from_log2(log2).filter(|size| size.bytes() == bytes)
    }

    /// The exponent that a header stores.
    pub fn log2(self) -> u8 {
        self.log2
    }

    /// Bytes of a block.
    pub fn bytes(self) -> u64 {
        1 << self.log2
    }

    /// Bytes of a block, for buffers.
    pub fn len(self) -> usize {
        1 << self.log2
    }

    /// Never: a block has at least 4096 bytes.
    pub fn is_empty(self) -> bool {
        false
    }
}

/// A node of the tree of tags: level 0 has the entries of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeAt {
    /// Level, 0 to [`LEVELS_MAX`] - 1.
    pub level: u8,
    /// Which node of that level.
    pub index: u64,
}

/// All offsets of a stored file with one block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    block_size: BlockSize,
}

impl Geometry {
    /// The geometry of files with this block size.
    pub fn new(block_size: BlockSize) -> Self {
        Self { block_size }
    }

    /// Bytes of a block.
    pub fn block_size(self) -> BlockSize {
        self.block_size
    }

    /// The longest plaintext that three levels of nodes and a header reach: 4 TiB at 16 KiB.
    pub fn length_max(self) -> u64 {
        FANOUT.pow(u32::from(LEVELS_MAX) + 1) * self.block_size.bytes()
    }

    /// Whether a plaintext of this length lies in the header itself.
    pub fn is_inline(length: u64) -> bool {
        length <= INLINE_MAX
    }

    /// The block that holds plaintext offset `offset`.
    pub fn block_of(self, offset: u64) -> u64 {
        offset >> self.block_size.log2
    }

    /// The plaintext offset at which block `block` begins.
    pub fn block_start(self, block: u64) -> u64 {
        block << self.block_size.log2
    }

    /// Blocks of a plaintext that is not inline.
    pub fn block_count(self, length: u64) -> u64 {
        length.div_ceil(self.block_size.bytes())
    }

    /// Stored bytes of block `block`: all but the last are full. 0 for a block past the end.
    pub fn block_len(self, block: u64, length: u64) -> usize {
        let left = length.saturating_sub(self.block_start(block)).min(self.block_size.bytes());
        usize::try_from(left).expect("at most 65536")
    }

    /// Stored offset of block `block`.
    pub fn block_offset(self, block: u64) -> u64 {
        SLOT_LEN * (block / FANOUT + 1) + self.block_start(block)
    }

    /// Stored offset of the node.
    pub fn node_offset(self, node: NodeAt) -> u64 {
        let run = node.index * FANOUT.pow(u32::from(node.level));
        let slot = run * (SLOT_LEN + FANOUT * self.block_size.bytes());
        slot + PAGE_LEN * (1 + u64::from(node.level))
    }

    /// Levels of nodes that a file of this length has between its header and its blocks: 0 up to
    /// 128 blocks, 1 up to 16384, and so on. Never above [`LEVELS_MAX`] for a length that
    /// [`Self::length_max`] allows.
    pub fn levels(self, length: u64) -> u8 {
        let mut blocks = self.block_count(length);
        let mut levels = 0;
        while blocks > FANOUT {
            blocks = blocks.div_ceil(FANOUT);
            levels += 1;
        }
        levels
    }

    /// Bytes of the lower file of a plaintext of this length.
    pub fn stored_len(self, length: u64) -> u64 {
        if Self::is_inline(length) {
            return PREFIX_LEN + PAYLOAD_FIXED_LEN + length;
        }
        let last = self.block_count(length) - 1;
        self.block_offset(last) + (length - self.block_start(last))
    }

    /// Plaintext length of a lower file of `stored` bytes; the inverse of [`Self::stored_len`].
    /// For a length that no file has, a value near it: only [`Self::stored_len`] of the
    /// authenticated length decides what is valid.
    pub fn plain_len(self, stored: u64) -> u64 {
        if stored <= PAGE_LEN {
            return stored.saturating_sub(PREFIX_LEN + PAYLOAD_FIXED_LEN);
        }
        let run_len = SLOT_LEN + FANOUT * self.block_size.bytes();
        let (run, within) = (stored / run_len, stored % run_len);
        run * FANOUT * self.block_size.bytes() + within.saturating_sub(SLOT_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_sizes() -> impl Iterator<Item = Geometry> {
        (12..=16).map(|log2| Geometry::new(BlockSize::from_log2(log2).unwrap()))
    }

    #[test]
    fn block_sizes_are_powers_of_two_in_range() {
        assert_eq!(BlockSize::from_bytes(16384), Some(BlockSize::DEFAULT));
        for bytes in [0, 1, 2048, 4095, 4097, 12288, 131_072, u64::MAX] {
            assert_eq!(BlockSize::from_bytes(bytes), None, "{bytes}");
        }
    }

    #[test]
    fn lengths_convert_back_and_grow() {
        for geometry in all_sizes() {
            let block = geometry.block_size().bytes();
            let near = |at: u64| at.saturating_sub(3)..=at + 3;
            let edges = [0, 3956, 4096, block, 2 * block, 127 * block, 128 * block, 129 * block];
            let far = [128 * 128 * block, 128 * 128 * 128 * block, geometry.length_max() - 3];
            let mut last = None;
            let lengths = (0..=70_000).chain(edges.into_iter().flat_map(near));
            for length in lengths.chain(far.into_iter().flat_map(near)) {
                let stored = geometry.stored_len(length);
                assert_eq!(geometry.plain_len(stored), length, "{geometry:?} {length}");
                assert_eq!(stored <= PAGE_LEN, Geometry::is_inline(length));
                if last.is_some_and(|(before, _)| before < length) {
                    assert!(last.is_some_and(|(_, less)| less < stored), "{length}");
                }
                last = Some((length, stored));
            }
        }
    }

    #[test]
    fn nothing_overlaps() {
        for geometry in all_sizes() {
            let mut parts = vec![(0, PAGE_LEN)];
            for level in 0..LEVELS_MAX {
                let count = 128 * 130 / FANOUT.pow(u32::from(level) + 1);
                parts.extend(
                    (0..=count)
                        .map(|index| (geometry.node_offset(NodeAt { level, index }), PAGE_LEN)),
                );
            }
            let block = geometry.block_size().bytes();
            parts.extend((0..128 * 130).map(|index| (geometry.block_offset(index), block)));
            parts.sort_unstable();
            for pair in parts.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{geometry:?} {pair:?}");
            }
        }
    }

    #[test]
    fn levels_grow_at_powers_of_the_fanout() {
        let geometry = Geometry::new(BlockSize::DEFAULT);
        let block = geometry.block_size().bytes();
        for (blocks, levels) in [(1, 0), (128, 0), (129, 1), (16384, 1), (16385, 2), (2_097_153, 3)]
        {
            assert_eq!(geometry.levels(blocks * block), levels, "{blocks}");
        }
        assert_eq!(geometry.levels(geometry.length_max()), LEVELS_MAX);
    }

    /// The rows of the one table in FORMAT.md with these column titles.
    fn documented(titles: &str) -> Vec<Vec<&'static str>> {
        let cells = |line: &'static str| line.split('|').map(str::trim).collect::<Vec<_>>();
        let mut lines = include_str!("FORMAT.md").lines();
        lines.find(|line| cells(line).join(",") == titles).unwrap();
        lines.skip(1).map_while(|line| line.starts_with('|').then(|| cells(line))).collect()
    }

    #[test]
    fn documented_sizes_are_true() {
        let rows = documented(",plaintext,block size,blocks,levels,stored,");
        assert!(rows.len() >= 25, "{} rows", rows.len());
        for row in rows {
            let [length, block_size, blocks, levels, stored] =
                std::array::from_fn(|at| row[at + 1].parse::<u64>().unwrap());
            let geometry = Geometry::new(BlockSize::from_bytes(block_size).unwrap());
            let shape = match Geometry::is_inline(length) {
                true => (0, 0),
                false => (geometry.block_count(length), geometry.levels(length).into()),
            };
            assert_eq!((shape, geometry.stored_len(length)), ((blocks, levels), stored), "{row:?}");
            assert_eq!(geometry.plain_len(stored), length, "{row:?}");
        }
    }

    #[test]
    fn documented_offsets_are_true() {
        let geometry = Geometry::new(BlockSize::DEFAULT);
        let length = 5 << 20;
        let rows = documented(",part,stored offset,bytes,");
        assert!(rows.len() >= 10, "{} rows", rows.len());
        for row in rows {
            let part = row[1].split(' ').collect::<Vec<_>>();
            let number = |at: usize| part[at].parse::<u64>().unwrap();
            let wanted = match part[0] {
                "header" => (0, PREFIX_LEN + PAYLOAD_FIXED_LEN + 3584),
                "node" => {
                    let level = part[1].parse().unwrap();
                    assert!(level < geometry.levels(length), "{row:?}");
                    (geometry.node_offset(NodeAt { level, index: number(2) }), 3584)
                }
                "block" => {
                    let bytes = geometry.block_len(number(1), length);
                    (geometry.block_offset(number(1)), bytes as u64)
                }
                other => panic!("{other}"),
            };
            let found = [2, 3].map(|at| row[at].parse::<u64>().unwrap());
            assert_eq!((found[0], found[1]), wanted, "{row:?}");
        }
    }
}
