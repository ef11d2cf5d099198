//! Snapshots of a volume in a target, and the volume's keys for them.

use std::sync::Arc;

use crate::cipher::VolumeKeys;
use crate::format::descriptor::{self, Descriptor};
use crate::format::ids::{Epoch, VolumeId};
use crate::format::snapshot::{Clear, Hash};
use crate::keys::{self, Context, KeySource};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::snapshot::place::{Place, failed};
use crate::object::{Opened, Seal, Target, claim, open, tops};

/// A volume's keys, as far as its snapshots need them.
#[derive(Debug)]
pub(in crate::lifecycle) struct Sealing {
    pub(in crate::lifecycle) keys: VolumeKeys,
}

impl Seal for Sealing {
    fn volume_id(&self) -> VolumeId {
        self.keys.volume_id()
    }

    fn epoch(&self) -> Epoch {
        self.keys.current()
    }

    fn seal_top(&self, clear: &[u8], parts: &[u8]) -> Vec<u8> {
        self.keys.seal_top(self.keys.current(), clear, parts)
    }

    fn open_top(&self, epoch: Epoch, clear: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.keys.open_top(epoch, clear, sealed)
    }

    fn seal_part(&self, records: &[u8]) -> (Vec<u8>, Hash) {
        self.keys.seal_part(self.keys.current(), records)
    }

    fn open_part(&self, epoch: Epoch, digest: &Hash, sealed: &[u8]) -> Option<Vec<u8>> {
        self.keys.open_part(epoch, digest, sealed)
    }
}

/// The keys of a volume by its description; asks KMS once.
pub(in crate::lifecycle) fn sealing(
    found: &Descriptor,
    key: Option<&KeySource>,
    at: &str,
) -> Result<Sealing, VerbError> {
    let context = Context { volume_id: found.volume_id, pairs: &found.context };
    let opened = keys::open(&found.slots, key, &context)?;
    let keys = VolumeKeys::open(&opened.key, found)
        .map_err(|error| VerbError::Untrusted { path: at.into(), error })?;
    Ok(Sealing { keys })
}

/// A snapshot that somebody claims to be one: its key in the target, what it says, its bytes.
#[derive(Clone, Debug)]
pub(in crate::lifecycle) struct Claim {
    pub(in crate::lifecycle) key: String,
    pub(in crate::lifecycle) clear: Clear,
    pub(in crate::lifecycle) top: Vec<u8>,
}

impl Claim {
    pub(in crate::lifecycle) fn read(
        place: &Place,
        target: &dyn Target,
        key: &str,
    ) -> Result<Self, VerbError> {
        let (clear, top) = claim(target, key).map_err(failed(place))?;
        Ok(Self { key: key.to_owned(), clear, top })
    }

    /// The keys by the description in it.
    pub(in crate::lifecycle) fn sealing(
        &self,
        key: Option<&KeySource>,
        place: &Place,
    ) -> Result<Sealing, VerbError> {
        let at = format!("{place}/{}", self.key);
        let damaged = |found: String| VerbError::SnapshotDamaged { path: at.clone().into(), found };
        let found = descriptor::decode(self.clear.descriptor.as_bytes());
        let found = found.map_err(|error| damaged(error.to_string()))?;
        if found.volume_id != self.clear.volume_id {
            return Err(damaged(format!("its volume.json is of volume {}", found.volume_id)));
        }
        sealing(&found, key, &at).map_err(|error| match error {
            VerbError::Key(error) => VerbError::SnapshotKey { path: at.into(), error },
            error => error,
        })
    }

    pub(in crate::lifecycle) fn open(
        &self,
        seal: &dyn Seal,
        place: &Place,
    ) -> Result<Opened, VerbError> {
        open(seal, &self.key, &self.top).map_err(failed(place))
    }
}

/// What the target claims of a volume's snapshots, in the order in which they were taken; those
/// that can't be read are logged and left out.
pub(in crate::lifecycle) fn claims(
    place: &Place,
    target: &dyn Target,
    volume_id: VolumeId,
) -> Result<Vec<Claim>, VerbError> {
    let mut found = Vec::new();
    for key in tops(target, volume_id).map_err(failed(place))? {
        match Claim::read(place, target, &key) {
            Ok(claim) => found.push(claim),
            Err(error) => tracing::warn!("{key} is no usable snapshot: {error}"),
        }
    }
    Ok(found)
}

/// The newest snapshot of a volume that is authentic.
pub(in crate::lifecycle) fn newest(
    place: &Place,
    target: &Arc<dyn Target>,
    seal: &dyn Seal,
) -> Result<Option<Opened>, VerbError> {
    for key in tops(&**target, seal.volume_id()).map_err(failed(place))?.iter().rev() {
        let opened = Claim::read(place, &**target, key).and_then(|claim| claim.open(seal, place));
        match opened {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) => tracing::warn!("{key} is no usable snapshot: {error}"),
        }
    }
    Ok(None)
}
