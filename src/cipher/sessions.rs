//! Authenticates `STORE/sessions`. Nothing in it is secret: the store shows the same times.
//!
//! The tag of a slot is that of AES-256-GCM-SIV (RFC 8452) over an empty plaintext, under the key
//! `cmkfs v1 sessions` of its epoch, with 12 zeros for a nonce and, associated, the volume id and
//! bytes 0 to 495.

use crate::cipher::Unauthentic;
use crate::cipher::bytes::Sealed;
use crate::cipher::journal::{check, tag};
use crate::cipher::volume::VolumeKeys;
use crate::format::node::{NONCE_LEN, TAG_LEN};
use crate::format::sessions::{self, Sessions};

impl VolumeKeys {
    fn sessions_bound(&self, said: &Sessions) -> Vec<u8> {
        [&self.volume_id().0[..], &sessions::encode(said)].concat()
    }

    /// A slot of `sessions`, ready to be stored.
    ///
    /// # Panics
    /// If the volume has no such epoch as it says.
    pub fn seal_sessions(&self, said: &Sessions) -> Sealed {
        let key = self.epoch(said.epoch).expect("the epoch is one of this volume's").sessions();
        let tag = tag(&key.cipher(), [0; NONCE_LEN], &self.sessions_bound(said));
        Sealed::of(&[&sessions::encode(said)[..], &tag].concat())
    }

    /// Whether a slot with this tag is one that this volume wrote.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_sessions(
        &self,
        said: &Sessions,
        stored: &[u8; TAG_LEN],
    ) -> Result<(), Unauthentic> {
        let key = self.epoch(said.epoch).ok_or(Unauthentic)?.sessions();
        check(&key.cipher(), [0; NONCE_LEN], &self.sessions_bound(said), stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::small::tests::keys;
    use crate::format::ids::Epoch;
    use crate::format::sessions::Window;

    #[test]
    fn a_slot_is_bound_to_its_volume_and_to_all_that_it_says() {
        let volume = keys();
        let mut said = Sessions::new(Epoch::FIRST, 12);
        said.add(Window { since: 5, until: 9, in_place: true });
        let slot = volume.seal_sessions(&said);
        let (claim, tag) = sessions::decode(slot.as_bytes()).unwrap();
        assert_eq!(claim, said);
        assert!(volume.check_sessions(&claim, &tag).is_ok());
        assert!(keys().check_sessions(&claim, &tag).is_err(), "another volume's key");
        for bit in 0..slot.as_bytes().len() * 8 {
            let mut edited = slot.as_bytes().to_vec();
            edited[bit / 8] ^= 1 << (bit % 8);
            let opens = sessions::decode(&edited)
                .is_some_and(|(claim, tag)| volume.check_sessions(&claim, &tag).is_ok());
            assert!(!opens, "bit {bit}");
        }
        let mut later = said.clone();
        later.epoch = Epoch(9);
        assert!(volume.check_sessions(&later, &tag).is_err(), "an epoch that is not there");
    }
}
