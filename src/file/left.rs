//! Ranges of a stored file that are to become holes, less what was written there since.

use std::ops::Range;

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
