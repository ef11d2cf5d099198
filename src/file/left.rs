//! Ranges of bytes: of a stored file, those that are to become holes, less what was written there
//! since; of a buffer, the part that a piece covers.

use std::ops::Range;

use rustix::io::Errno;

use crate::format::bytes::to_usize;

/// Has `put` fill the part of `buf`, which is of the file from `offset` on, that a piece of `len`
/// bytes at `start` covers; it is told how many bytes of the piece come before. Returns where that
/// part ends in the buffer, 0 if there is none.
pub(in crate::file) fn overlay(
    buf: &mut [u8],
    offset: u64,
    start: u64,
    len: usize,
    put: impl FnOnce(usize, &mut [u8]) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    let end = (start + len as u64).min(offset + buf.len() as u64);
    let from = start.max(offset);
    if from >= end {
        return Ok(0);
    }
    let range = to_usize(from - offset)..to_usize(end - offset);
    put(to_usize(from - start), &mut buf[range.clone()])?;
    Ok(range.end)
}

/// What is left of ranges (offset, length) without what is in `gone`.
pub(in crate::file) fn without(ranges: Vec<(u64, u64)>, gone: &Range<u64>) -> Vec<(u64, u64)> {
    let pieces = ranges.into_iter().flat_map(|(from, len)| {
        let (end, after) = (from + len, gone.end.max(from));
        let before = (from, gone.start.min(end).saturating_sub(from));
        [before, (after, end.saturating_sub(after))]
    });
    pieces.filter(|(_, len)| *len > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lose_what_is_gone() {
        let left = |gone| without(vec![(10, 10), (30, 5)], &gone);
        assert_eq!(left(0..10), [(10, 10), (30, 5)]);
        assert_eq!(left(12..15), [(10, 2), (15, 5), (30, 5)]);
        assert_eq!(left(5..32), [(32, 3)]);
        assert_eq!(left(15..20), [(10, 5), (30, 5)]);
        assert_eq!(left(0..40), []);
    }
}
