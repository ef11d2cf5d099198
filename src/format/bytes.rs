//! Fixed-width fields taken in order, so that no offset is computed by hand.

/// The next `N` bytes. Panics only where field widths do not add up, which const asserts rule out.
pub fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (field, tail) = rest.split_first_chunk().expect("field widths add up");
    *rest = tail;
    *field
}

/// A length or index that is known to fit into memory, as a `usize`.
pub fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("cmkfs runs on 64-bit machines")
}
