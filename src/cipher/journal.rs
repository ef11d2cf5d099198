//! Authenticates the journal. What its records carry is sealed already, as it is going to lie in
//! the files; a tag binds it to its place: volume, use of the segment, number of the record.
//!
//! | tag of    | key                              | nonce             | associated data           |
//! |-----------|----------------------------------|-------------------|---------------------------|
//! | a head    | epoch key, `cmkfs v1 journal`    | 12 zeros          | volume id, bytes 0 to 39  |
//! | a record  | the same + segment id            | sequence, 4 zeros | bytes 0 to 15, body       |
//! | `Written` | that of a record                 | that of a record  | bytes 0 to 15             |
//!
//! The tags are those of AES-256-GCM-SIV (RFC 8452), over an empty plaintext but for the record
//! `Written`, whose body is the plaintext. A nonce may come twice under a key, where a record found
//! no room or a crash tore it and another one took its place: with this cipher it only shows
//! whether both said the same.

use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::aead::inout::InOutBuf;

use crate::cipher::bytes::{Plain, Sealed};
use crate::cipher::volume::VolumeKeys;
use crate::cipher::{Secret, Unauthentic};
use crate::format::journal::{
    self, FRAME_BOUND_LEN, FRAME_LEN, Frame, HEAD_BOUND_LEN, Head, RecordKind, SegmentId,
};
use crate::format::node::{NONCE_LEN, TAG_LEN};

/// What authenticates the records of one use of a segment.
pub struct SegmentCipher {
    cipher: Box<Aes256GcmSiv>,
}

impl std::fmt::Debug for SegmentCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SegmentCipher(..)")
    }
}

fn nonce(sequence: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&sequence.to_le_bytes());
    nonce
}

pub(in crate::cipher) fn tag(
    cipher: &Aes256GcmSiv,
    nonce: [u8; NONCE_LEN],
    bound: &[u8],
) -> [u8; TAG_LEN] {
    cipher
        .encrypt_inout_detached(&nonce.into(), bound, (&mut [][..]).into())
        .expect("a record has 16 MiB, below the cipher's limit of 2^36 bytes")
        .into()
}

pub(in crate::cipher) fn check(
    cipher: &Aes256GcmSiv,
    nonce: [u8; NONCE_LEN],
    bound: &[u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), Unauthentic> {
    cipher
        .decrypt_inout_detached(&nonce.into(), bound, (&mut [][..]).into(), &(*tag).into())
        .map_err(|_| Unauthentic)
}

impl VolumeKeys {
    fn head_bound(&self, head: &Head) -> Vec<u8> {
        [&self.volume_id().0[..], &journal::encode_head(head)].concat()
    }

    fn segment_cipher(key: &Secret, segment: SegmentId) -> SegmentCipher {
        SegmentCipher { cipher: key.derive_for("", &segment.0).cipher() }
    }

    /// A head for a new use of a segment, ready to be stored, and what authenticates its records.
    ///
    /// # Panics
    /// If the system has no random bytes.
    pub fn new_segment(&self, order: u64) -> (Sealed, SegmentCipher) {
        let mut segment = SegmentId([0; 16]);
        getrandom::fill(&mut segment.0).expect("the system gives random bytes");
        let head = Head { epoch: self.current(), segment, order };
        let key = self.epoch(head.epoch).expect("the current epoch is one of them").journal();
        let tag = tag(&key.cipher(), [0; NONCE_LEN], &self.head_bound(&head));
        let mut sealed = Sealed::room(journal::HEAD_LEN);
        let room = sealed.room_mut();
        room.fill(0);
        room[..HEAD_BOUND_LEN].copy_from_slice(&journal::encode_head(&head));
        room[HEAD_BOUND_LEN..HEAD_BOUND_LEN + TAG_LEN].copy_from_slice(&tag);
        (sealed, Self::segment_cipher(key, segment))
    }

    /// What authenticates the records of a segment with this head.
    ///
    /// # Errors
    /// When the head is not one that this volume made.
    pub fn open_segment(
        &self,
        head: &Head,
        stored: &[u8; TAG_LEN],
    ) -> Result<SegmentCipher, Unauthentic> {
        let key = self.epoch(head.epoch).ok_or(Unauthentic)?.journal();
        check(&key.cipher(), [0; NONCE_LEN], &self.head_bound(head), stored)?;
        Ok(Self::segment_cipher(key, head.segment))
    }
}

impl SegmentCipher {
    /// A record, ready to be stored: `beginning` and then `parts` are its body.
    pub fn seal_record(
        &self,
        kind: RecordKind,
        sequence: u64,
        beginning: &[u8],
        parts: &[&Sealed],
    ) -> Sealed {
        let parts_len: usize = parts.iter().map(|part| part.as_bytes().len()).sum();
        let body_len = u32::try_from(beginning.len() + parts_len).expect("a body has 16 MiB");
        let frame = journal::encode_frame(&Frame { kind, body_len, sequence });
        let mut sealed = Sealed::room(FRAME_LEN + beginning.len() + parts_len);
        // The tag is over frame and body without a gap between, so it is put in last.
        let room = sealed.room_mut();
        let bound = &mut room[TAG_LEN..];
        bound[..FRAME_BOUND_LEN].copy_from_slice(&frame);
        let mut at = FRAME_BOUND_LEN;
        for bytes in std::iter::once(beginning).chain(parts.iter().map(|part| part.as_bytes())) {
            bound[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        }
        let tag = tag(&self.cipher, nonce(sequence), bound);
        room[..FRAME_BOUND_LEN].copy_from_slice(&frame);
        room[FRAME_BOUND_LEN..FRAME_LEN].copy_from_slice(&tag);
        sealed
    }

    /// The record that came back from the store as number `sequence` of this use of the segment:
    /// its frame and its body.
    ///
    /// # Errors
    /// When it is not what was sealed so.
    ///
    /// # Panics
    /// If `record` is shorter than a frame.
    pub fn open_record(&self, sequence: u64, record: &[u8]) -> Result<Sealed, Unauthentic> {
        let (frame, body) = record.split_at(FRAME_LEN);
        let stored: [u8; TAG_LEN] = frame[FRAME_BOUND_LEN..].try_into().expect("as long as a tag");
        let mut sealed = Sealed::room(FRAME_BOUND_LEN + body.len());
        let bound = sealed.room_mut();
        bound[..FRAME_BOUND_LEN].copy_from_slice(&frame[..FRAME_BOUND_LEN]);
        bound[FRAME_BOUND_LEN..].copy_from_slice(body);
        check(&self.cipher, nonce(sequence), bound, &stored)?;
        Ok(sealed)
    }

    /// A record of the kind [`RecordKind::Written`], ready to be stored.
    pub fn seal_written(&self, sequence: u64, body: &Plain) -> Sealed {
        let body_len = u32::try_from(body.len()).expect("a body has 16 MiB");
        let claim = Frame { kind: RecordKind::Written, body_len, sequence };
        let bound = journal::encode_frame(&claim);
        let mut sealed = Sealed::room(FRAME_LEN + body.len());
        let (frame, out) = sealed.room_mut().split_at_mut(FRAME_LEN);
        let buffer = InOutBuf::new(body, out).expect("equal lengths: made so above");
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce(sequence).into(), &bound, buffer)
            .expect("a record has 16 MiB, below the cipher's limit of 2^36 bytes");
        frame[..FRAME_BOUND_LEN].copy_from_slice(&bound);
        frame[FRAME_BOUND_LEN..].copy_from_slice(&tag);
        sealed
    }

    /// The body of such a record that came back from the store as number `sequence`.
    ///
    /// # Errors
    /// When it is not what was sealed so.
    ///
    /// # Panics
    /// If `record` is shorter than a frame.
    pub fn open_written(&self, sequence: u64, record: &[u8]) -> Result<Plain, Unauthentic> {
        let (frame, body) = record.split_at(FRAME_LEN);
        let (bound, tag) = frame.split_at(FRAME_BOUND_LEN);
        let tag: [u8; TAG_LEN] = tag.try_into().expect("as long as a tag");
        let mut plain = Plain::copy_of(body);
        let opened = self.cipher.decrypt_inout_detached(
            &nonce(sequence).into(),
            bound,
            (&mut plain[..]).into(),
            &tag.into(),
        );
        opened.map(|()| plain).map_err(|_| Unauthentic)
    }
}

/// Where the body begins in what [`SegmentCipher::open_record`] gives.
pub const OPENED_BODY_AT: usize = FRAME_BOUND_LEN;
const _: () = assert!(TAG_LEN == FRAME_BOUND_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::small::tests::keys;

    #[test]
    fn a_record_counts_only_where_it_was_sealed() {
        let keys = keys();
        let (head, cipher) = keys.new_segment(4);
        let (claim, tag) = journal::decode_head(head.as_bytes()).unwrap();
        assert_eq!(claim.order, 4);
        let part = Sealed::of(b"ciphertext");
        let record = cipher.seal_record(RecordKind::Change, 2, b"beginning", &[&part]);
        let mut bytes = record.as_bytes().to_vec();
        assert_eq!(&bytes[FRAME_LEN..], b"beginningciphertext");
        let reader = keys.open_segment(&claim, &tag).unwrap();
        let opened = reader.open_record(2, &bytes).unwrap();
        assert_eq!(&opened.as_bytes()[OPENED_BODY_AT..], &bytes[FRAME_LEN..]);
        assert!(reader.open_record(3, &bytes).is_err());
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(reader.open_record(2, &bytes).is_err(), "{at}");
            bytes[at] ^= 1;
        }
        let (_, other) = keys.new_segment(4);
        assert!(other.open_record(2, &bytes).is_err());
    }

    #[test]
    fn written_bytes_are_enciphered_and_open_only_where_they_were_sealed() {
        let (head, cipher) = keys().new_segment(4);
        let body = Plain::copy_of(b"where, and which bytes");
        let mut bytes = cipher.seal_written(2, &body).as_bytes().to_vec();
        assert!(!bytes.windows(5).any(|window| window == b"bytes"));
        assert_eq!(cipher.open_written(2, &bytes).unwrap()[..], body[..]);
        assert!(cipher.open_written(3, &bytes).is_err());
        assert!(cipher.open_record(2, &bytes).is_err(), "it is not of another kind");
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(cipher.open_written(2, &bytes).is_err(), "{at}");
            bytes[at] ^= 1;
        }
        let part = Sealed::of(&body);
        let other = cipher.seal_record(RecordKind::Written, 2, b"", &[&part]);
        assert!(cipher.open_written(2, other.as_bytes()).is_err());
        assert_eq!(head.as_bytes().len(), journal::HEAD_LEN);
    }

    #[test]
    fn a_head_is_bound_to_its_volume_and_to_what_it_says() {
        let volume = keys();
        let (head, _) = volume.new_segment(1);
        let bytes = head.as_bytes();
        for bit in 0..(HEAD_BOUND_LEN + TAG_LEN) * 8 {
            let mut edited = bytes.to_vec();
            edited[bit / 8] ^= 1 << (bit % 8);
            let opened = journal::decode_head(&edited)
                .is_some_and(|(head, tag)| volume.open_segment(&head, &tag).is_ok());
            assert!(!opened, "bit {bit}");
        }
        let (claim, tag) = journal::decode_head(bytes).unwrap();
        assert!(volume.open_segment(&claim, &tag).is_ok());
        assert!(keys().open_segment(&claim, &tag).is_err(), "another volume's key");
    }
}
