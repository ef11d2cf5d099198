//! The three kinds of bytes, [`Plain`], [`Sealed`], [`Unopened`], and the sealed name. Their
//! large cells come from a small stock of each thread: a request allocates nothing.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Cells of this size and above are kept for the next request.
const KEPT_LEN_MIN: usize = 4096;
/// Cells that a thread keeps of each kind: a request needs at most two at once.
const KEPT_COUNT_MAX: usize = 4;
/// Larger cells go back to the system: 1 MiB requests with a partial block at either end.
const KEPT_LEN_MAX: usize = (1 << 20) + 3 * 65536;

thread_local! {
    /// Invariant: every byte of every cell in here is zero.
    static ZEROED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    /// Cells that held ciphertext.
    static USED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

type Stock = std::thread::LocalKey<RefCell<Vec<Vec<u8>>>>;

/// A cell of at least `len` bytes: a kept one, or fresh zeros.
fn cell_from(stock: &'static Stock, len: usize) -> Vec<u8> {
    let kept = stock.try_with(|cells| {
        let mut cells = cells.borrow_mut();
        let fit = cells.iter().position(|cell| cell.len() >= len && len * 4 >= cell.len())?;
        Some(cells.swap_remove(fit))
    });
    kept.ok().flatten().unwrap_or_else(|| vec![0; len])
}

/// Keeps the cell if it is of a useful size. `stock` is gone while a thread ends; so is the cell.
fn keep(stock: &'static Stock, cell: Vec<u8>) {
    if !(KEPT_LEN_MIN..=KEPT_LEN_MAX).contains(&cell.len()) {
        return;
    }
    stock
        .try_with(|cells| {
            let mut cells = cells.borrow_mut();
            if cells.len() == KEPT_COUNT_MAX {
                cells.remove(0);
            }
            cells.push(cell);
        })
        .unwrap_or_default();
}

/// Plaintext. Zeroed on drop, printed as its length only, and not accepted by anything that
/// reaches a disk.
pub struct Plain {
    /// Invariant: bytes from `len` on are zero.
    cell: Vec<u8>,
    len: usize,
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plain({} bytes)", self.len)
    }
}

impl Plain {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { cell: cell_from(&ZEROED, len), len }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut plain = Self::zeros(bytes.len());
        plain.copy_from_slice(bytes);
        plain
    }

    /// Changes the length; new bytes are zeros.
    pub fn resize(&mut self, len: usize) {
        if len > self.cell.len() {
            let mut grown = Self::zeros(len);
            grown[..self.len].copy_from_slice(self);
            *self = grown;
        } else {
            let kept = len.min(self.len);
            self.cell[kept..self.len].fill(0);
            self.len = len;
        }
    }

    /// Bytes of memory that this takes: kept cells are lent to shorter plaintext too.
    pub fn cell_len(&self) -> usize {
        self.cell.len()
    }

    /// A part of this buffer, to be filled with what a store returns and opened in place.
    pub fn unopened(&mut self, part: std::ops::Range<usize>) -> Unopened<'_> {
        Unopened(&mut self[part])
    }
}

impl Deref for Plain {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.cell[..self.len]
    }
}

impl DerefMut for Plain {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.cell[..self.len]
    }
}

impl Drop for Plain {
    /// At the speed of `memset`: element-wise volatile writes would cost as much as the cipher.
    fn drop(&mut self) {
        self.cell[..self.len].fill(0);
        zeroize::optimization_barrier(&self.cell[..]);
        keep(&ZEROED, std::mem::take(&mut self.cell));
    }
}

/// Ciphertext ready for the store. Made only by this layer.
#[derive(Debug)]
pub struct Sealed {
    cell: Vec<u8>,
    len: usize,
}

impl Sealed {
    /// Room for `len` bytes of ciphertext, all of which the caller writes.
    pub(in crate::cipher) fn room(len: usize) -> Self {
        Self { cell: cell_from(&USED, len), len }
    }

    pub(in crate::cipher) fn of(bytes: &[u8]) -> Self {
        let mut sealed = Self::room(bytes.len());
        sealed.room_mut().copy_from_slice(bytes);
        sealed
    }

    pub(in crate::cipher) fn room_mut(&mut self) -> &mut [u8] {
        &mut self.cell[..self.len]
    }

    /// A part of it on its own.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self::of(&self.as_bytes()[range])
    }

    /// What to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.cell[..self.len]
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        keep(&USED, std::mem::take(&mut self.cell));
    }
}

/// Bytes back from a store, trusted by nobody, in the place where they are to be opened. They
/// open only in this layer.
#[derive(Debug)]
pub struct Unopened<'a>(pub(in crate::cipher) &'a mut [u8]);

impl Unopened<'_> {
    /// Where the store puts what it has.
    pub fn room_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

/// File names of an object, sealed: made only by this layer, all that the store takes as a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoredName {
    pub(in crate::cipher) object: Vec<u8>,
    pub(in crate::cipher) sidecar: Option<Vec<u8>>,
    pub(in crate::cipher) sealed: Vec<u8>,
}

impl StoredName {
    /// File name of the object.
    pub fn object(&self) -> &[u8] {
        &self.object
    }

    /// File name and content of the sidecar of a long name.
    pub fn sidecar(&self) -> Option<(&[u8], &[u8])> {
        self.sidecar.as_deref().map(|name| (name, &self.sealed[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_does_not_print_its_bytes() {
        assert_eq!(format!("{:?}", Plain::copy_of(b"secret")), "Plain(6 bytes)");
    }

    #[test]
    fn resizing_zeroes_what_is_new() {
        let mut plain = Plain::copy_of(&[7; 8]);
        plain.resize(4);
        plain.resize(6);
        assert_eq!(plain[..], [7, 7, 7, 7, 0, 0]);
        plain.resize(64);
        assert_eq!((plain[3], plain[4], plain[63]), (7, 0, 0));
    }

    #[test]
    fn kept_cells_come_back_as_zeros() {
        for round in 0..20 {
            let mut plains: Vec<_> = (0..6).map(|n| Plain::zeros(5000 + n * 1000)).collect();
            for plain in &mut plains {
                assert!(plain.iter().all(|byte| *byte == 0), "round {round}");
                plain.fill(0xFF);
                plain.resize(4500);
            }
        }
        ZEROED.with_borrow(|cells| {
            assert!(!cells.is_empty() && cells.len() <= KEPT_COUNT_MAX);
            assert!(cells.iter().flatten().all(|byte| *byte == 0));
        });
    }
}
