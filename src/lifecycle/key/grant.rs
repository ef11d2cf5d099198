//! `key grant`: lets another role open the volume by the KMS key of one of its slots, for this
//! volume's encryption context alone.
//!
//! The intent is written down before KMS is asked, so that `terminate` finds what a crash left; the
//! same wish again gives the same grant.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::format::VolumeId;
use crate::keys::{self, Context, Grant, GrantWish, KeySource, Operation, Principal};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::grants::{self, Granted};
use crate::lifecycle::key::Change;
use crate::lifecycle::locate::{describe, locate};

/// What is to be granted.
#[derive(Debug)]
pub struct Wish<'a> {
    /// To whom.
    pub to: &'a Principal,
    /// What.
    pub operations: &'a [Operation],
    /// Who may retire it, besides whoever may revoke it.
    pub retire_by: Option<&'a Principal>,
    /// The slot whose KMS key it is on; not needed if only one is under KMS.
    pub slot: Option<u32>,
}

/// A grant that is there now.
#[derive(Debug, Serialize)]
pub struct Created {
    /// As KMS names it.
    pub id: String,
    /// ARN of the KMS key.
    pub key: String,
    /// The file that names it.
    pub recorded_in: PathBuf,
}

/// The grants for a volume.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Id of the volume.
    pub volume_id: VolumeId,
    /// As KMS lists them on the keys of the slots, and on those on which grants were made.
    pub grants: Vec<Grant>,
    /// Keys whose grants KMS does not list.
    pub failed: Vec<Unlisted>,
}

/// A key whose grants are not known, as it is disabled or gone, or may not be asked about.
#[derive(Debug, Serialize)]
pub struct Unlisted {
    /// ARN of the KMS key.
    pub key: String,
    /// What KMS or the way there says.
    pub error: String,
}

/// Makes a grant. The volume is opened before, by `key` or its slots: what is granted is for the
/// encryption context of `volume.json`, which whoever can write to the store can change.
///
/// # Errors
/// See [`VerbError`].
pub fn create(
    volume: &Path,
    wish: &Wish<'_>,
    key: Option<&KeySource>,
) -> Result<Created, VerbError> {
    let change = Change::begin(volume)?;
    change.open(key)?;
    let arn = key_of(&change, wish.slot)?;
    let wanted = GrantWish {
        key: &arn,
        to: wish.to,
        operations: wish.operations,
        retire_by: wish.retire_by,
    };
    let context = change.context();
    let name = wanted.name(&context);
    let granted =
        |id| Granted { key: arn.clone(), to: wish.to.to_string(), name: name.clone(), id };
    // A grant that was made before keeps its id if this ends early.
    let there = grants::read(&change.path)?;
    if !there.iter().any(|other| other.key == arn && other.name == name) {
        grants::put(&change.path, granted(None))?;
    }
    let id = keys::create_grant(&wanted, &context)?;
    grants::put(&change.path, granted(Some(id.clone())))?;
    tracing::info!(grant = id, key = arn, to = %wish.to, "grant made");
    Ok(Created { id, key: arn, recorded_in: grants::path(&change.path) })
}

/// The KMS key of the slot.
fn key_of(change: &Change, slot: Option<u32>) -> Result<String, VerbError> {
    let of_kms: Vec<_> =
        change.found.slots.iter().filter(|slot| slot.provider == keys::KMS).collect();
    let found = match (slot, &of_kms[..]) {
        (Some(slot), _) => &change.found.slots[change.at(slot)?],
        (None, [one]) => one,
        (None, []) => return Err(not_of_kms(change)),
        (None, _) => {
            return Err(VerbError::WhichKeySlot {
                store: change.path.clone(),
                found: change.slots(),
            });
        }
    };
    let fits = found.provider == keys::KMS && keys::is_key_arn(&found.key);
    if fits { Ok(found.key.clone()) } else { Err(not_of_kms(change)) }
}

fn not_of_kms(change: &Change) -> VerbError {
    let wanted = "kms, which alone has grants".to_owned();
    keys::KeyError::NoSlot { wanted, found: change.slots() }.into()
}

/// The grants for a volume, as KMS has them, on all keys of which it lists them.
///
/// # Errors
/// No volume there, or what KMS says if it lists those of no key.
pub fn list(volume: &Path) -> Result<Listed, VerbError> {
    let (store, descriptor) = describe(&locate(volume)?.store)?;
    let context = Context { volume_id: descriptor.volume_id, pairs: &descriptor.context };
    let slots = descriptor.slots.iter().map(|slot| slot.key.clone());
    let mut arns: Vec<String> = slots.filter(|key| keys::is_key_arn(key)).collect();
    arns.extend(grants::keys_of(&grants::read(store.path())?));
    arns.sort();
    arns.dedup();
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for arn in &arns {
        match keys::list_grants(arn, &context) {
            Ok(grants) => found.extend(grants),
            Err(error) => failed.push((arn, error)),
        }
    }
    if failed.len() == arns.len()
        && let Some((_, error)) = failed.pop()
    {
        return Err(error.into());
    }
    let unlisted = |(key, error): (&String, keys::KeyError)| Unlisted {
        key: key.clone(),
        error: error.to_string(),
    };
    let failed = failed.into_iter().map(unlisted).collect();
    Ok(Listed { volume_id: descriptor.volume_id, grants: found, failed })
}

/// How a grant is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By who manages the key.
    Revoke,
    /// By whom the grant names for that.
    Retire,
}

/// Ends a grant for the volume.
///
/// # Errors
/// No such grant for this volume, or what KMS says.
pub fn end(volume: &Path, id: &str, how: End) -> Result<Grant, VerbError> {
    let listed = list(volume)?;
    let found = listed.grants.into_iter().find(|grant| grant.id == id);
    let store = locate(volume)?.store;
    let missing = || VerbError::NoGrant { store: store.clone(), wanted: id.to_owned() };
    let grant = found.ok_or_else(|| {
        for Unlisted { key, error } in &listed.failed {
            tracing::warn!(key, error, "the grants on this key are not listed");
        }
        missing()
    })?;
    let pairs = Default::default();
    let context = Context { volume_id: listed.volume_id, pairs: &pairs };
    // As `create`: nobody else changes the file meanwhile.
    let _change = Change::begin(volume)?;
    match how {
        End::Revoke => keys::revoke_grant(&grant.key, id, &context)?,
        End::Retire => keys::retire_grant(&grant.key, id, &context)?,
    }
    grants::forget(&store, id)?;
    tracing::info!(grant = id, key = grant.key, to = grant.to, "grant ended");
    Ok(grant)
}
