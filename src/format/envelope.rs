//! A small sealed value that stands alone: the target of a symbolic link, an extended attribute.
//!
//! | at | bytes | field        |
//! |---:|------:|--------------|
//! |  0 |     4 | epoch        |
//! |  4 |    12 | nonce        |
//! | 16 |    16 | tag          |
//! | 32 |       | ciphertext   |

use crate::format::bytes::take;
use crate::format::ids::Epoch;
use crate::format::node::Entry;

/// Bytes before the ciphertext.
pub const ENVELOPE_LEN: usize = 32;

/// The envelope of a ciphertext.
pub fn encode(epoch: Epoch, entry: &Entry, ciphertext: &[u8]) -> Vec<u8> {
    [&epoch.0.to_le_bytes()[..], &entry.nonce, &entry.tag, ciphertext].concat()
}

/// (epoch, nonce and tag, ciphertext); `None` if it is too short. Never panics.
pub fn decode(bytes: &[u8]) -> Option<(Epoch, Entry, &[u8])> {
    let (head, ciphertext) = bytes.split_first_chunk::<ENVELOPE_LEN>()?;
    let rest = &mut &head[..];
    let epoch = Epoch(u32::from_le_bytes(take(rest)));
    Some((epoch, Entry { nonce: take(rest), tag: take(rest) }, ciphertext))
}

/// A longer target of a symbolic link does not fit into a lower one in base64url (4095 bytes):
/// it lies in a file under `links/`, and the lower target is [`REFERENCE`] and its name.
pub const LINK_DIRECT_MAX: usize = 4095 * 3 / 4 - ENVELOPE_LEN;
/// Begins the lower target of a link whose envelope lies under `links/`.
pub const REFERENCE: &str = "=";
/// Longest target of a symbolic link: `PATH_MAX` of Linux less its terminating zero.
pub const LINK_TARGET_MAX: usize = 4095;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_convert_back() {
        let entry = Entry { nonce: [1; 12], tag: [2; 16] };
        let bytes = encode(Epoch(9), &entry, b"secret");
        assert_eq!(decode(&bytes), Some((Epoch(9), entry, &b"secret"[..])));
        for len in 0..ENVELOPE_LEN {
            assert_eq!(decode(&bytes[..len]), None);
        }
    }
}
