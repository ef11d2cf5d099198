//! Seals what a snapshot says of itself.
//!
//! The *top* of a snapshot is sealed by AES-256-GCM-SIV (RFC 8452) under the key `cmkfs v1
//! snapshots` of its epoch with a random nonce; associated are the volume id and its clear bytes.
//!
//! A *part* of its records is sealed under a key of its own, derived from that key and from the
//! SHA-256 of the records, with 12 zeros for a nonce: equal records give equal bytes, so that
//! a part which has not changed since the snapshot before is the same object. A key seals nothing
//! but the one plaintext that it is derived from.

use aes_gcm_siv::aead::AeadInOut;
use sha2::{Digest, Sha256};

use crate::cipher::nonce::fresh_nonce;
use crate::cipher::volume::VolumeKeys;
use crate::format::ids::Epoch;
use crate::format::node::{NONCE_LEN, TAG_LEN};

const PART_NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

impl VolumeKeys {
    /// Nonce, tag and ciphertext of `parts`, bound to the clear bytes of their top.
    ///
    /// # Panics
    /// If the volume has no such epoch.
    pub fn seal_top(&self, epoch: Epoch, clear: &[u8], parts: &[u8]) -> Vec<u8> {
        let key = self.epoch(epoch).expect("the epoch is one of this volume's").snapshots();
        let (nonce, bound) = (fresh_nonce(), [&self.volume_id().0[..], clear].concat());
        let mut bytes = parts.to_vec();
        let tag = key
            .cipher()
            .encrypt_inout_detached(&nonce.into(), &bound, bytes.as_mut_slice().into())
            .expect("a top is below the cipher's limit of 64 GiB");
        [&nonce[..], &tag, &bytes].concat()
    }

    /// The inverse of [`Self::seal_top`]; `None` if it is not authentic.
    pub fn open_top(&self, epoch: Epoch, clear: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let (tag, ciphertext) = rest.split_first_chunk::<TAG_LEN>()?;
        let bound = [&self.volume_id().0[..], clear].concat();
        let cipher = self.epoch(epoch)?.snapshots().cipher();
        let mut bytes = ciphertext.to_vec();
        let inout = bytes.as_mut_slice().into();
        cipher.decrypt_inout_detached(nonce.into(), &bound, inout, tag.into()).ok()?;
        Some(bytes)
    }

    /// Tag and ciphertext of records, and the SHA-256 of the records.
    ///
    /// # Panics
    /// If the volume has no such epoch.
    pub fn seal_part(&self, epoch: Epoch, records: &[u8]) -> (Vec<u8>, [u8; 32]) {
        let keys = self.epoch(epoch).expect("the epoch is one of this volume's");
        let digest: [u8; 32] = Sha256::digest(records).into();
        let mut bytes = records.to_vec();
        let tag = keys
            .snapshots()
            .derive_for("", &digest)
            .cipher()
            .encrypt_inout_detached(
                &PART_NONCE.into(),
                &self.volume_id().0,
                bytes.as_mut_slice().into(),
            )
            .expect("a part is below the cipher's limit of 64 GiB");
        ([&tag[..], &bytes].concat(), digest)
    }

    /// The inverse of [`Self::seal_part`]; `None` if it is not authentic.
    pub fn open_part(&self, epoch: Epoch, digest: &[u8; 32], sealed: &[u8]) -> Option<Vec<u8>> {
        let (tag, ciphertext) = sealed.split_first_chunk::<TAG_LEN>()?;
        let cipher = self.epoch(epoch)?.snapshots().derive_for("", digest).cipher();
        let mut bytes = ciphertext.to_vec();
        let inout = bytes.as_mut_slice().into();
        let bound = &self.volume_id().0;
        cipher.decrypt_inout_detached(&PART_NONCE.into(), bound, inout, tag.into()).ok()?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::small::tests::keys;

    #[test]
    fn tops_and_parts_are_bound_to_their_volume_and_to_every_byte() {
        let (volume, other) = (keys(), keys());
        let top = volume.seal_top(Epoch::FIRST, b"clear", b"parts");
        let (part, digest) = volume.seal_part(Epoch::FIRST, b"records");
        let open_top = |clear: &[u8], top: &[u8]| volume.open_top(Epoch::FIRST, clear, top);
        let open_part = |digest: &_, part: &[u8]| volume.open_part(Epoch::FIRST, digest, part);
        assert_eq!(open_top(b"clear", &top).as_deref(), Some(&b"parts"[..]));
        assert_eq!(open_part(&digest, &part).as_deref(), Some(&b"records"[..]));
        assert_eq!(volume.seal_part(Epoch::FIRST, b"records").0, part, "equal parts are one");
        assert!(open_top(b"Clear", &top).is_none());
        assert!(open_part(&[0; 32], &part).is_none());
        assert!(other.open_top(Epoch::FIRST, b"clear", &top).is_none(), "another volume's key");
        assert!(other.open_part(Epoch::FIRST, &digest, &part).is_none());
        assert!(volume.open_top(Epoch(9), b"clear", &top).is_none(), "no such epoch");
        for at in 0..top.len() {
            let mut edited = top.clone();
            edited[at] ^= 1;
            assert!(
                open_top(b"clear", &edited).is_none() && open_top(b"clear", &top[..at]).is_none()
            );
        }
        for at in 0..part.len() {
            let mut edited = part.clone();
            edited[at] ^= 1;
            assert!(open_part(&digest, &edited).is_none());
        }
    }
}
