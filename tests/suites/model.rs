//! What a file should hold, and the random numbers that say what is done to it.

/// `SplitMix64` by Steele, Lea and Flood: the same seed, the same steps, on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(usize::try_from(len).unwrap()).collect()
    }
}

/// The bytes of a file.
#[derive(Default)]
pub(crate) struct Content(Vec<u8>);

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// What there is of a range.
    pub(crate) fn range(&self, at: u64, len: u64) -> &[u8] {
        let end = (at + len).min(self.len());
        &self.0[index(at.min(end))..index(end)]
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        self.0.resize(index(len), 0);
    }

    fn extend(&mut self, len: u64) {
        self.set_len(len.max(self.len()));
    }

    pub(crate) fn write(&mut self, at: u64, data: &[u8]) {
        let end = at + data.len() as u64;
        self.extend(end);
        self.0[index(at)..index(end)].copy_from_slice(data);
    }

    /// Zeros a range; what of it lies past the end makes the file longer, if that is wanted.
    pub(crate) fn zero(&mut self, at: u64, len: u64, longer: bool) {
        if longer {
            self.extend(at + len);
        }
        let end = (at + len).min(self.len());
        self.0[index(at.min(end))..index(end)].fill(0);
    }

    pub(crate) fn allocate(&mut self, at: u64, len: u64) {
        self.extend(at + len);
    }

    pub(crate) fn collapse(&mut self, at: u64, len: u64) {
        self.0.drain(index(at)..index(at + len));
    }

    pub(crate) fn insert(&mut self, at: u64, len: u64) {
        let tail = self.0.split_off(index(at));
        self.set_len(at + len);
        self.0.extend(tail);
    }
}
