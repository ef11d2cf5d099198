//! The keys of a volume. Everything is derived from two kinds of random keys:
//!
//! | from       | label                        | seals                                         |
//! |------------|------------------------------|-----------------------------------------------|
//! | volume key | `cmkfs v1 descriptor`        | the `mac` of `volume.json` (HMAC-SHA256)      |
//! | volume key | `cmkfs v1 epoch keys`        | epoch keys in `volume.json`                   |
//! | epoch key  | `cmkfs v1 file keys`         | file keys in headers                          |
//! | epoch key  | `cmkfs v1 directories`       | tags of directory markers                     |
//! | epoch key  | `cmkfs v1 names` + dir id    | names in that directory                       |
//! | epoch key  | `cmkfs v1 links`             | targets of symbolic links                     |
//! | epoch key  | `cmkfs v1 attributes`        | values of extended attributes                 |
//! | epoch key  | `cmkfs v1 journal` + segment | tags of the journal                           |
//! | epoch key  | `cmkfs v1 sessions`          | tags of the slots of `sessions`               |
//! | epoch key  | `cmkfs v1 snapshots`         | what a snapshot says of itself                |
//! | epoch 1    | `cmkfs v1 attribute names`   | names of extended attributes (HMAC-SHA256)    |

use std::collections::BTreeMap;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::cipher::Unauthentic;
use crate::cipher::bytes::{Plain, Sealed};
use crate::cipher::content::FileCipher;
use crate::cipher::secret::{Secret, unwrap_secret, wrap_secret};
use crate::cipher::small::DirCipher;
use crate::format::descriptor::{Descriptor, EpochKey, Pending, Work};
use crate::format::directory;
use crate::format::header::{self, BOUND_LEN, FORMER_LEN, PREFIX_BYTES, Prefix, WRAPPED_KEY_LEN};
use crate::format::ids::{DirId, Epoch, FileId, VolumeId};
use crate::format::node::Entry;

/// Keys derived from one epoch key.
#[derive(Debug)]
pub struct EpochKeys {
    files: Secret,
    directories: Secret,
    names: Secret,
    pub(in crate::cipher) links: Secret,
    pub(in crate::cipher) attributes: Secret,
    journal: Secret,
    sessions: Secret,
    snapshots: Secret,
}

impl EpochKeys {
    fn new(key: &Secret) -> Self {
        Self {
            files: key.derive("cmkfs v1 file keys"),
            directories: key.derive("cmkfs v1 directories"),
            names: key.derive("cmkfs v1 names"),
            links: key.derive("cmkfs v1 links"),
            attributes: key.derive("cmkfs v1 attributes"),
            journal: key.derive("cmkfs v1 journal"),
            sessions: key.derive("cmkfs v1 sessions"),
            snapshots: key.derive("cmkfs v1 snapshots"),
        }
    }

    /// Authenticates segments of the journal.
    pub(in crate::cipher) fn journal(&self) -> &Secret {
        &self.journal
    }

    /// Authenticates the slots of `sessions`.
    pub(in crate::cipher) fn sessions(&self) -> &Secret {
        &self.sessions
    }

    /// Seals tops and parts of snapshots.
    pub(in crate::cipher) fn snapshots(&self) -> &Secret {
        &self.snapshots
    }
}

/// Why a volume key does not open a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeKeysError {
    /// The `mac` is not what this key makes.
    #[error("volume.json was changed, or the key is not this volume's")]
    Mac,
    /// An epoch key does not open, under a `mac` that is right.
    #[error("epoch key {0:?} in volume.json does not open")]
    Epoch(Epoch),
}

/// All keys of an open volume.
#[derive(Debug)]
pub struct VolumeKeys {
    volume_id: VolumeId,
    current: Epoch,
    epochs: BTreeMap<Epoch, EpochKeys>,
    attribute_names: Secret,
    pending: Option<Pending>,
}

fn mac(volume_key: &Secret, descriptor: &Descriptor) -> Hmac<Sha256> {
    let key = volume_key.derive("cmkfs v1 descriptor");
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes any length");
    mac.update(&descriptor.canonical());
    mac
}

fn epoch_context(volume_id: VolumeId, epoch: Epoch) -> Vec<u8> {
    [&volume_id.0[..], &epoch.0.to_le_bytes()].concat()
}

impl VolumeKeys {
    /// Adds a new random epoch key to the descriptor, wrapped under the volume key.
    pub fn add_epoch(volume_key: &Secret, descriptor: &mut Descriptor, epoch: Epoch) {
        let kek = volume_key.derive("cmkfs v1 epoch keys");
        let context = epoch_context(descriptor.volume_id, epoch);
        let wrapped = BASE64.encode(&wrap_secret(&kek, &context, &Secret::random()));
        descriptor.epochs.push(EpochKey { epoch, wrapped });
    }

    /// Puts the epoch keys of a descriptor under another volume key; its slots and its `mac` are
    /// still to follow.
    ///
    /// # Errors
    /// An epoch key that the old volume key did not make.
    pub fn move_epochs(
        old: &Secret,
        new: &Secret,
        descriptor: &mut Descriptor,
    ) -> Result<(), VolumeKeysError> {
        let [old, new] = [old, new].map(|key| key.derive("cmkfs v1 epoch keys"));
        for EpochKey { epoch, wrapped } in &mut descriptor.epochs {
            let context = epoch_context(descriptor.volume_id, *epoch);
            let bytes = BASE64.decode(wrapped.as_bytes()).ok();
            let key = bytes.and_then(|bytes| unwrap_secret(&old, &context, &bytes));
            let key = key.ok_or(VolumeKeysError::Epoch(*epoch))?;
            *wrapped = BASE64.encode(&wrap_secret(&new, &context, &key));
        }
        Ok(())
    }

    /// Sets the descriptor's `mac`.
    pub fn authenticate(volume_key: &Secret, descriptor: &mut Descriptor) {
        let tag = mac(volume_key, descriptor).finalize().into_bytes();
        descriptor.mac = BASE64.encode(&tag);
    }

    /// Checks the descriptor against the volume key and unwraps its epoch keys.
    ///
    /// # Errors
    /// A `mac` or an epoch key that this volume key did not make.
    pub fn open(volume_key: &Secret, descriptor: &Descriptor) -> Result<Self, VolumeKeysError> {
        let stored = BASE64.decode(descriptor.mac.as_bytes()).map_err(|_| VolumeKeysError::Mac)?;
        mac(volume_key, descriptor).verify_slice(&stored).map_err(|_| VolumeKeysError::Mac)?;
        let kek = volume_key.derive("cmkfs v1 epoch keys");
        let mut epochs = BTreeMap::new();
        let mut attribute_names = None;
        for EpochKey { epoch, wrapped } in &descriptor.epochs {
            let context = epoch_context(descriptor.volume_id, *epoch);
            let wrapped = BASE64.decode(wrapped.as_bytes()).ok();
            let key = wrapped.and_then(|wrapped| unwrap_secret(&kek, &context, &wrapped));
            let key = key.ok_or(VolumeKeysError::Epoch(*epoch))?;
            if *epoch == Epoch::FIRST {
                attribute_names = Some(key.derive("cmkfs v1 attribute names"));
            }
            epochs.insert(*epoch, EpochKeys::new(&key));
        }
        let attribute_names = attribute_names.ok_or(VolumeKeysError::Epoch(Epoch::FIRST))?;
        let current = *epochs.keys().next_back().ok_or(VolumeKeysError::Epoch(Epoch::FIRST))?;
        let (volume_id, pending) = (descriptor.volume_id, descriptor.pending());
        Ok(Self { volume_id, current, epochs, attribute_names, pending })
    }

    /// The volume that these keys are of.
    pub fn volume_id(&self) -> VolumeId {
        self.volume_id
    }

    /// The epoch of what is made new.
    pub fn current(&self) -> Epoch {
        self.current
    }

    /// Work on file keys that is not done, as `volume.json` says.
    pub fn pending(&self) -> Option<Pending> {
        self.pending
    }

    /// Whether a file whose header is of this epoch is to come under the current one when its
    /// header is written next. Not one that is to get a new file key: by its epoch it is known.
    pub fn follows(&self, epoch: Epoch) -> bool {
        let waits = |pending: Pending| pending.work == Work::Reencrypt && epoch < pending.epoch;
        epoch < self.current && !self.pending.is_some_and(waits)
    }

    /// Whether these are `before` and what was added since. Who can write to a store but has not
    /// the keys of its volume can't make others that are: they would have to be of the same epoch
    /// keys.
    pub fn lead_on_from(&self, before: &Self) -> bool {
        let has = |(epoch, keys): (&Epoch, &EpochKeys)| {
            self.epoch(*epoch).is_some_and(|own| own.files.expose() == keys.files.expose())
        };
        self.volume_id == before.volume_id && before.epochs.iter().all(has)
    }

    /// Keys of an epoch; `None` for one that the volume does not have.
    pub fn epoch(&self, epoch: Epoch) -> Option<&EpochKeys> {
        self.epochs.get(&epoch)
    }

    fn current_keys(&self) -> &EpochKeys {
        self.epoch(self.current).expect("the current epoch is one of them")
    }

    fn file_context(&self, epoch: Epoch, id: FileId) -> [u8; 36] {
        let mut context = [0; 36];
        context[..16].copy_from_slice(&self.volume_id.0);
        context[16..20].copy_from_slice(&epoch.0.to_le_bytes());
        context[20..].copy_from_slice(&id.0);
        context
    }

    /// A new random file key of the current epoch: the cipher under it, and the key wrapped.
    pub fn new_file(&self, id: FileId) -> (FileCipher, [u8; WRAPPED_KEY_LEN]) {
        let key = Secret::random();
        let context = self.file_context(self.current, id);
        let wrapped = wrap_secret(&self.current_keys().files, &context, &key);
        let wrapped = wrapped.try_into().expect("a wrapped key has 60 bytes");
        (FileCipher::new(&key), wrapped)
    }

    /// The cipher of a file by what its header claims; `None` if the key does not open.
    pub fn open_file(
        &self,
        epoch: Epoch,
        id: FileId,
        wrapped: &[u8; WRAPPED_KEY_LEN],
    ) -> Option<FileCipher> {
        let context = self.file_context(epoch, id);
        let key = unwrap_secret(&self.epoch(epoch)?.files, &context, wrapped)?;
        Some(FileCipher::new(&key))
    }

    /// Gives the cipher of a file the key that it has had, as its payload tells; `None` if that
    /// does not open.
    pub fn add_former(
        &self,
        cipher: &mut FileCipher,
        id: FileId,
        former: &[u8; FORMER_LEN],
    ) -> Option<()> {
        let former = header::decode_former(former);
        let had = self.open_file(former.epoch, id, &former.wrapped_key)?;
        cipher.add_former(had, former);
        Some(())
    }

    /// The file key in a header under the current epoch: the same key.
    ///
    /// `None` if it does not open.
    pub fn rewrap_file(
        &self,
        epoch: Epoch,
        id: FileId,
        wrapped: &[u8; WRAPPED_KEY_LEN],
    ) -> Option<[u8; WRAPPED_KEY_LEN]> {
        let key = unwrap_secret(&self.epoch(epoch)?.files, &self.file_context(epoch, id), wrapped)?;
        let context = self.file_context(self.current, id);
        let wrapped = wrap_secret(&self.current_keys().files, &context, &key);
        Some(wrapped.try_into().expect("a wrapped key has 60 bytes"))
    }

    /// The marker of a directory with this id, of the current epoch.
    pub fn new_marker(&self, id: DirId) -> Sealed {
        self.marker(self.current, id)
    }

    /// The marker of a directory whose names are of this epoch.
    ///
    /// # Panics
    /// If the volume has no such epoch.
    pub fn marker(&self, epoch: Epoch, id: DirId) -> Sealed {
        let bound = directory::encode_bound(epoch, id);
        let keys = self.epoch(epoch).expect("one that the caller has seen");
        Sealed::of(&[&bound[..], &self.marker_tag(keys, &bound)].concat())
    }

    /// The names cipher of a directory by its marker; `None` if the marker is not authentic.
    pub fn open_marker(&self, epoch: Epoch, id: DirId, tag: &[u8; 16]) -> Option<DirCipher> {
        let keys = self.epoch(epoch)?;
        let bound = directory::encode_bound(epoch, id);
        let mut mac = Hmac::<Sha256>::new_from_slice(keys.directories.expose())
            .expect("HMAC takes any length");
        mac.update(&self.volume_id.0);
        mac.update(&bound);
        mac.verify_truncated_left(tag).ok()?;
        Some(DirCipher::new(id, &keys.names.derive_for("", &id.0)))
    }

    fn marker_tag(&self, keys: &EpochKeys, bound: &[u8]) -> [u8; 16] {
        let mut mac = Hmac::<Sha256>::new_from_slice(keys.directories.expose())
            .expect("HMAC takes any length");
        mac.update(&self.volume_id.0);
        mac.update(bound);
        let full = mac.finalize().into_bytes();
        *full.first_chunk().expect("SHA-256 has 32 bytes")
    }

    /// Stored name of an extended attribute: base64url of an HMAC of its name, 43 characters.
    pub fn attribute_name(&self, name: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.attribute_names.expose())
            .expect("HMAC takes any length");
        mac.update(&self.volume_id.0);
        mac.update(name);
        BASE64URL_NOPAD.encode(&mac.finalize().into_bytes())
    }

    /// The associated data of a header's payload: volume id, then the header's bytes 0 to 95.
    fn payload_bound(&self, prefix: &Prefix) -> [u8; 16 + BOUND_LEN] {
        let mut bound = [0; 16 + BOUND_LEN];
        bound[..16].copy_from_slice(&self.volume_id.0);
        bound[16..].copy_from_slice(&header::encode_bound(prefix));
        bound
    }

    /// A whole header, prefix and payload, ready to be stored at offset 0.
    pub fn seal_header(&self, cipher: &FileCipher, prefix: &Prefix, payload: &Plain) -> Sealed {
        assert_eq!(usize::from(prefix.payload_len), payload.len(), "the prefix tells the length");
        let mut sealed = Sealed::room(PREFIX_BYTES + payload.len());
        let (clear, room) = sealed.room_mut().split_at_mut(PREFIX_BYTES);
        let entry = cipher.seal_payload(&self.payload_bound(prefix), payload, room);
        clear.copy_from_slice(&header::encode(prefix, &entry));
        sealed
    }

    /// The payload of a stored header.
    ///
    /// # Errors
    /// When prefix and payload are not what was sealed together.
    pub fn open_header(
        &self,
        cipher: &FileCipher,
        prefix: &Prefix,
        entry: &Entry,
        payload: &[u8],
    ) -> Result<Plain, Unauthentic> {
        cipher.open_payload(&self.payload_bound(prefix), payload, entry)
    }
}
