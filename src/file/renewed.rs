//! Taking up the keys of a new epoch while the volume is open.
//!
//! An epoch is only ever added. Whoever is in the middle of something goes on with the keys that it
//! has, which open and seal as before; what begins later is of the new epoch. A volume that writes
//! holds everybody up for a moment all the same, so that whoever asked for a new epoch can say from
//! when on it counts.
//!
//! A volume that only reads meets objects of a new epoch when its writer has taken it up. It has no
//! key to look at `volume.json` with, so whoever opened it has left a way to get one.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use crate::cipher::VolumeKeys;
use crate::file::rekey::Walking;
use crate::file::volume::{Volume, lock};
use crate::format::envelope;
use crate::format::ids::Epoch;

type Renew = dyn Fn(Epoch) -> Option<VolumeKeys> + Send + Sync;

/// The keys of an open volume, and how it comes by newer ones.
pub(in crate::file) struct Keyring {
    keys: RwLock<Arc<VolumeKeys>>,
    renew: OnceLock<Box<Renew>>,
    /// Held while somebody asks, so that all who need it ask once.
    asking: Mutex<()>,
    /// The walk that brings files under newer ones.
    pub(in crate::file) walking: Walking,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

impl Keyring {
    pub(in crate::file) fn new(keys: VolumeKeys) -> Self {
        Self {
            keys: RwLock::new(Arc::new(keys)),
            renew: OnceLock::new(),
            asking: Mutex::default(),
            walking: Walking::default(),
        }
    }
}

/// Keys that are not those of the open volume, with others added.
#[derive(Debug, thiserror::Error)]
#[error(
    "the epochs in volume.json do not lead on from those that the mount has: it was put back to an \
     older state or replaced; nothing of it is used"
)]
pub struct Unrelated;

impl Volume {
    /// The volume's keys: those of now, which a change of them does not touch.
    pub(in crate::file) fn keys(&self) -> Arc<VolumeKeys> {
        Arc::clone(&self.keyring.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The epoch of what is made new.
    pub fn epoch(&self) -> Epoch {
        self.keys().current()
    }

    /// Whether `keys` say something that this volume does not know.
    pub fn is_news(&self, keys: &VolumeKeys) -> bool {
        let known = self.keys();
        (known.current(), known.pending()) != (keys.current(), keys.pending())
    }

    /// Goes on with `keys`, which have all epochs that there are and perhaps more: what is made
    /// from now on is of their current one, in the journal too.
    ///
    /// # Errors
    /// Keys that are not that; the volume goes on with those that it has.
    pub fn take_up(&self, keys: VolumeKeys) -> Result<(), Unrelated> {
        let frozen = (!self.read_only()).then(|| self.freeze());
        if !keys.lead_on_from(&self.keys()) {
            return Err(Unrelated);
        }
        *self.keyring.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        drop(frozen);
        if let Err(error) = self.turn_to_current() {
            tracing::warn!(
                %error,
                "the journal goes on under the keys of the former epoch, until a checkpoint leaves \
                 nothing in it"
            );
        }
        Ok(())
    }

    /// Has a volume that reads get keys of a newer epoch by `renew` when it meets one. Once.
    pub fn renew_by(&self, renew: impl Fn(Epoch) -> Option<VolumeKeys> + Send + Sync + 'static) {
        if self.keyring.renew.set(Box::new(renew)).is_err() {
            tracing::debug!("it had a way already");
        }
    }

    /// The keys, among them those of an epoch that was met, if they can be had.
    pub(in crate::file) fn keys_for(&self, epoch: Epoch) -> Arc<VolumeKeys> {
        let keys = self.keys();
        let Some(renew) = self.keyring.renew.get().filter(|_| epoch > keys.current()) else {
            return keys;
        };
        let _alone = lock(&self.keyring.asking);
        if epoch > self.epoch()
            && let Some(newer) = renew(epoch)
            && let Err(error) = self.take_up(newer)
        {
            tracing::error!(%error, "keys of a newer epoch are not taken up");
        }
        self.keys()
    }

    /// The same, of an envelope.
    pub(in crate::file) fn keys_of(&self, sealed: &[u8]) -> Arc<VolumeKeys> {
        let epoch = envelope::decode(sealed).map_or(Epoch::FIRST, |(epoch, ..)| epoch);
        self.keys_for(epoch)
    }
}
