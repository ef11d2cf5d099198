//! Names of a directory, and small values that stand alone: link targets, extended attributes.

use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::AeadInOut;

use crate::cipher::bytes::{Plain, Sealed, StoredName};
use crate::cipher::nonce::fresh_nonce;
use crate::cipher::secret::Secret;
use crate::cipher::volume::VolumeKeys;
use crate::format::envelope;
use crate::format::ids::{DirId, FileId};
use crate::format::name;
use crate::format::node::{Entry, NONCE_LEN, TAG_LEN};

/// The names cipher of one directory: AES-256-GCM-SIV with a nonce of zeros, which makes it
/// deterministic (RFC 8452 section 1), so that a name can be looked up; only equality within this
/// directory would show, and equal names can't be there twice. The directory's id is associated.
pub struct DirCipher {
    id: DirId,
    cipher: Box<Aes256GcmSiv>,
}

impl std::fmt::Debug for DirCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DirCipher({})", self.id)
    }
}

const NAME_NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

impl DirCipher {
    pub(in crate::cipher) fn new(id: DirId, key: &Secret) -> Self {
        Self { id, cipher: key.cipher() }
    }

    /// The directory's id.
    pub fn id(&self) -> DirId {
        self.id
    }

    /// Seals a name of 1 to 255 bytes.
    pub fn seal_name(&self, plain: &[u8]) -> StoredName {
        assert!((1..=name::NAME_MAX).contains(&plain.len()), "checked by the caller");
        let mut bytes = name::pad(plain);
        let tag = self
            .cipher
            .encrypt_inout_detached(&NAME_NONCE.into(), &self.id.0, bytes.as_mut_slice().into())
            .expect("at most 256 bytes, below the cipher's limit");
        let sealed = [&tag[..], &bytes].concat();
        let (object, sidecar) = name::encode(&sealed);
        StoredName { object, sidecar, sealed }
    }

    /// The name, and the file names it is stored under; `None` if these bytes are no name of
    /// this directory.
    pub fn open_name(&self, sealed: &[u8]) -> Option<(Vec<u8>, StoredName)> {
        let (tag, ciphertext) = sealed.split_first_chunk::<TAG_LEN>()?;
        let mut padded = ciphertext.to_vec();
        self.cipher
            .decrypt_inout_detached(
                &NAME_NONCE.into(),
                &self.id.0,
                padded.as_mut_slice().into(),
                tag.into(),
            )
            .ok()?;
        let plain = name::unpad(&padded)?.to_vec();
        let (object, sidecar) = name::encode(sealed);
        Some((plain, StoredName { object, sidecar, sealed: sealed.to_vec() }))
    }
}

/// Whom an extended attribute belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A regular file.
    File(FileId),
    /// A directory.
    Dir(DirId),
    /// A link, socket, FIFO or device, which has no id of its own.
    Other,
}

impl Owner {
    fn bound(self, keys: &VolumeKeys, stored_name: &[u8]) -> Vec<u8> {
        let (kind, id) = match self {
            Self::File(id) => (1, id.0),
            Self::Dir(id) => (2, id.0),
            Self::Other => (3, [0; 16]),
        };
        [&keys.volume_id().0[..], &[kind], &id, stored_name].concat()
    }
}

impl VolumeKeys {
    /// Seals the target of a symbolic link, as an envelope.
    pub fn seal_link(&self, target: &[u8]) -> Sealed {
        let keys = self.epoch(self.current()).expect("the current epoch is one of them");
        self.seal_small(&keys.links, &self.volume_id().0, target)
    }

    /// Opens the target of a symbolic link; `None` if it is not authentic.
    pub fn open_link(&self, bytes: &[u8]) -> Option<Plain> {
        let (epoch, entry, ciphertext) = envelope::decode(bytes)?;
        open_small(&self.epoch(epoch)?.links, &self.volume_id().0, &entry, ciphertext)
    }

    /// Seals an extended attribute, its name and its value, as an envelope.
    pub fn seal_attribute(&self, owner: Owner, name: &[u8], value: &[u8]) -> Sealed {
        let len = u8::try_from(name.len()).expect("Linux allows 255 bytes");
        let keys = self.epoch(self.current()).expect("the current epoch is one of them");
        let bound = owner.bound(self, self.attribute_name(name).as_bytes());
        let mut plain = Plain::zeros(1 + name.len() + value.len());
        plain[0] = len;
        plain[1..=name.len()].copy_from_slice(name);
        plain[1 + name.len()..].copy_from_slice(value);
        self.seal_small(&keys.attributes, &bound, &plain)
    }

    /// Name and value of an extended attribute; `None` if it is not authentic.
    pub fn open_attribute(
        &self,
        owner: Owner,
        stored_name: &[u8],
        bytes: &[u8],
    ) -> Option<(Vec<u8>, Plain)> {
        let (epoch, entry, ciphertext) = envelope::decode(bytes)?;
        let bound = owner.bound(self, stored_name);
        let plain = open_small(&self.epoch(epoch)?.attributes, &bound, &entry, ciphertext)?;
        let (len, rest) = plain.split_first()?;
        let (name, value) = rest.split_at_checked(usize::from(*len))?;
        Some((name.to_vec(), Plain::copy_of(value)))
    }

    fn seal_small(&self, key: &Secret, bound: &[u8], plain: &[u8]) -> Sealed {
        let nonce = fresh_nonce();
        let mut bytes = Plain::copy_of(plain);
        let tag = key
            .cipher()
            .encrypt_inout_detached(&nonce.into(), bound, (&mut bytes[..]).into())
            .expect("at most 64 KiB, below the cipher's limit");
        let entry = Entry { nonce, tag: tag.into() };
        Sealed::of(&envelope::encode(self.current(), &entry, &bytes))
    }
}

fn open_small(key: &Secret, bound: &[u8], entry: &Entry, ciphertext: &[u8]) -> Option<Plain> {
    let mut plain = Plain::copy_of(ciphertext);
    let (nonce, tag) = (&entry.nonce.into(), &entry.tag.into());
    let bytes = (&mut plain[..]).into();
    key.cipher().decrypt_inout_detached(nonce, bound, bytes, tag).ok()?;
    Some(plain)
}

#[cfg(test)]
pub(in crate::cipher) mod tests {
    use super::*;
    use crate::format::descriptor::{Descriptor, FORMAT, Features, VERSION};
    use crate::format::ids::{Epoch, VolumeId};
    use crate::format::name::Stored;

    pub(in crate::cipher) fn keys() -> VolumeKeys {
        let volume_key = Secret::random();
        let mut descriptor = Descriptor {
            format: FORMAT.into(),
            version: VERSION,
            volume_id: VolumeId([3; 16]),
            created_unix_s: 0,
            block_size: 4096,
            root_id: DirId([4; 16]),
            context: Default::default(),
            slots: vec![],
            epochs: vec![],
            features: Features::default(),
            mac: String::new(),
        };
        VolumeKeys::add_epoch(&volume_key, &mut descriptor, Epoch(1));
        VolumeKeys::authenticate(&volume_key, &mut descriptor);
        let keys = VolumeKeys::open(&volume_key, &descriptor).unwrap();
        descriptor.created_unix_s = 1;
        assert!(matches!(VolumeKeys::open(&volume_key, &descriptor), Err(VolumeKeysError::Mac)));
        keys
    }

    use crate::cipher::volume::VolumeKeysError;

    fn dir(keys: &VolumeKeys, fill: u8) -> DirCipher {
        let id = DirId([fill; 16]);
        let marker = keys.new_marker(id);
        let (epoch, id, tag) = crate::format::directory::decode(marker.as_bytes()).unwrap();
        let mut wrong = tag;
        wrong[0] ^= 1;
        assert!(keys.open_marker(epoch, id, &wrong).is_none());
        keys.open_marker(epoch, id, &tag).unwrap()
    }

    #[test]
    fn names_open_in_their_own_directory_only() {
        let keys = keys();
        let (one, two) = (dir(&keys, 1), dir(&keys, 2));
        for len in [1, 15, 16, 17, 160, 161, 255] {
            let name = vec![b'x'; len];
            let stored = one.seal_name(&name);
            assert_eq!(stored, one.seal_name(&name));
            assert_ne!(stored.object(), two.seal_name(&name).object());
            let sealed = match (name::decode(stored.object()), stored.sidecar()) {
                (Stored::Direct(sealed), None) => sealed,
                (Stored::Long { .. }, Some((_, sealed))) => sealed.to_vec(),
                other => panic!("{other:?}"),
            };
            assert_eq!(one.open_name(&sealed).unwrap().0, name);
            assert!(two.open_name(&sealed).is_none());
        }
    }

    #[test]
    fn links_and_attributes_open_as_sealed_only() {
        let keys = keys();
        let sealed = keys.seal_link(b"../target");
        assert_eq!(&keys.open_link(sealed.as_bytes()).unwrap()[..], b"../target");
        let owner = Owner::File(FileId([5; 16]));
        let sealed = keys.seal_attribute(owner, b"user.a", b"value");
        let stored = keys.attribute_name(b"user.a");
        let opened = keys.open_attribute(owner, stored.as_bytes(), sealed.as_bytes()).unwrap();
        assert_eq!((&opened.0[..], &opened.1[..]), (&b"user.a"[..], &b"value"[..]));
        let other = Owner::Dir(DirId([5; 16]));
        assert!(keys.open_attribute(other, stored.as_bytes(), sealed.as_bytes()).is_none());
        let elsewhere = keys.attribute_name(b"user.b");
        assert!(keys.open_attribute(owner, elsewhere.as_bytes(), sealed.as_bytes()).is_none());
        for at in 0..sealed.as_bytes().len() {
            let mut edited = sealed.as_bytes().to_vec();
            edited[at] ^= 4;
            assert!(keys.open_attribute(owner, stored.as_bytes(), &edited).is_none(), "{at}");
        }
    }
}
