//! Secret keys of 32 bytes, their derivation and their wrapping.

use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::cipher::nonce::fresh_nonce;
use crate::format::node::{NONCE_LEN, TAG_LEN};

/// Bytes of every symmetric key here.
const SECRET_LEN: usize = 32;

/// A key schedule and the states of an HMAC tell the key, so they must be zeroed on drop; this does
/// not compile without the features of `Cargo.toml` that do it.
const _: () = {
    const fn zeroed_on_drop<T: zeroize::ZeroizeOnDrop>() {}
    zeroed_on_drop::<aes_gcm_siv::aes::Aes256>();
    zeroed_on_drop::<Sha256>();
};

/// A secret key: in one heap cell that never moves, zeroed on drop. It can't be printed, cloned,
/// compared or written out by accident.
pub struct Secret(Box<Zeroizing<[u8; SECRET_LEN]>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; SECRET_LEN])))
    }

    /// From the operating system's random source.
    ///
    /// # Panics
    /// If the system has none: no key may be made then.
    pub fn random() -> Self {
        let mut secret = Self::zeros();
        getrandom::fill(&mut secret.0[..]).expect("the system gives random bytes");
        secret
    }

    /// Moves 32 bytes in and zeroes the source; `None` for any other length, also zeroed.
    pub fn take(source: &mut [u8]) -> Option<Self> {
        let mut secret = Self::zeros();
        let fits = source.len() == SECRET_LEN;
        if fits {
            secret.0.copy_from_slice(source);
        }
        source.zeroize();
        fits.then_some(secret)
    }

    /// The bytes. Only for handing them to a cipher or to a key provider.
    pub fn expose(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// `HKDF-SHA256[no salt, label](self, 32)` (RFC 5869).
    pub fn derive(&self, label: &str) -> Self {
        self.derive_for(label, &[])
    }

    /// `HKDF-SHA256[no salt, label | id](self, 32)` (RFC 5869).
    pub fn derive_for(&self, label: &str, id: &[u8]) -> Self {
        let mut derived = Self::zeros();
        Hkdf::<Sha256>::new(None, self.expose())
            .expand_multi_info(&[label.as_bytes(), id], &mut derived.0[..])
            .expect("32 bytes are within what HKDF gives");
        derived
    }

    /// The cipher under this key, in a cell that it never leaves: what is moved leaves a copy
    /// behind.
    pub(in crate::cipher) fn cipher(&self) -> Box<Aes256GcmSiv> {
        Box::new(Aes256GcmSiv::new(self.expose().into()))
    }
}

/// Nonce, tag and ciphertext of `secret`, sealed with AES-256-GCM-SIV under `kek` and bound to
/// `context`: 60 bytes.
pub fn wrap_secret(kek: &Secret, context: &[u8], secret: &Secret) -> Vec<u8> {
    let nonce = fresh_nonce();
    let mut ciphertext = *secret.expose();
    let tag = kek
        .cipher()
        .encrypt_inout_detached(&nonce.into(), context, (&mut ciphertext[..]).into())
        .expect("32 bytes are below the cipher's limit");
    [&nonce[..], &tag, &ciphertext].concat()
}

/// The inverse of [`wrap_secret`]; `None` for another key, another context or edited bytes.
pub fn unwrap_secret(kek: &Secret, context: &[u8], wrapped: &[u8]) -> Option<Secret> {
    let (nonce, rest) = wrapped.split_first_chunk::<NONCE_LEN>()?;
    let (tag, ciphertext) = rest.split_first_chunk::<TAG_LEN>()?;
    let mut bytes: Zeroizing<[u8; SECRET_LEN]> = Zeroizing::new(ciphertext.try_into().ok()?);
    kek.cipher()
        .decrypt_inout_detached(nonce.into(), context, (&mut bytes[..]).into(), tag.into())
        .ok()?;
    Secret::take(&mut bytes[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print_and_take_zeroes_its_source() {
        let mut bytes = [7; 32];
        let secret = Secret::take(&mut bytes).unwrap();
        assert_eq!((bytes, secret.expose()), ([0; 32], &[7; 32]));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        let mut short = [7; 31];
        assert!(Secret::take(&mut short).is_none());
        assert_eq!(short, [0; 31]);
    }

    #[test]
    fn wrapping_binds_key_context_and_bytes() {
        let (kek, secret) = (Secret::random(), Secret::random());
        let wrapped = wrap_secret(&kek, b"context", &secret);
        let back = unwrap_secret(&kek, b"context", &wrapped).unwrap();
        assert_eq!(back.expose(), secret.expose());
        assert!(unwrap_secret(&kek, b"other", &wrapped).is_none());
        assert!(unwrap_secret(&Secret::random(), b"context", &wrapped).is_none());
        for at in 0..wrapped.len() {
            let mut edited = wrapped.clone();
            edited[at] ^= 1;
            assert!(unwrap_secret(&kek, b"context", &edited).is_none(), "{at}");
            assert!(unwrap_secret(&kek, b"context", &wrapped[..at]).is_none(), "{at}");
        }
    }

    #[test]
    fn derivation_depends_on_label_and_id() {
        let secret = Secret::random();
        let one = secret.derive("a");
        assert_ne!(one.expose(), secret.derive("b").expose());
        assert_ne!(one.expose(), secret.derive_for("a", b"x").expose());
        assert_eq!(one.expose(), secret.derive("a").expose());
    }
}
