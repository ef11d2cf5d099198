//! What is done to sealed bytes before they are opened; an input begins with it.

/// One change of some bytes.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    kind: u8,
    at: usize,
    with: u8,
}

impl Edit {
    /// An edit, and the rest of the input.
    pub fn take(input: &[u8]) -> (Self, &[u8]) {
        let (script, rest) = input.split_at(input.len().min(4));
        let byte = |index: usize| script.get(index).copied().unwrap_or_default();
        let at = usize::from(u16::from_le_bytes([byte(1), byte(2)]));
        (Self { kind: byte(0), at, with: byte(3) }, rest)
    }

    /// Other bytes than `bytes`, of which there is at least one.
    pub fn of(self, bytes: &[u8]) -> Vec<u8> {
        let mut edited = bytes.to_vec();
        let at = self.at % bytes.len();
        match self.kind % 5 {
            0 => edited[at] ^= self.with.max(1),
            1 => edited.truncate(at),
            2 => edited.push(self.with),
            3 => edited.rotate_left(at),
            _ => edited[at..].fill(self.with),
        }
        if edited == bytes {
            edited[at] ^= 1;
        }
        edited
    }

    /// Any number.
    pub fn byte(self) -> u8 {
        self.with
    }

    /// A number that is not 0, for a place other than the right one.
    pub fn distance(self) -> u64 {
        u64::from(self.with) + 1
    }
}
