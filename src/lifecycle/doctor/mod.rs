//! `doctor`: whether a volume could be made and mounted here, check by check, in the order in which
//! a mount would meet them. It changes nothing; a trial of a KMS key is one or two calls, marked as
//! a trial in the encryption context.
//!
//! | module    | checks                                                              |
//! |-----------|---------------------------------------------------------------------|
//! | `finding` | what a check says                                                   |
//! | `machine` | kernel, `/dev/fuse`, the right to mount, `user_allow_other`         |
//! | `memory`  | locked memory, swap                                                 |
//! | `place`   | store, filesystem, role's paths                                     |
//! | `disk`    | which disks lie below a filesystem                                  |
//! | `key`     | key source, key file, credentials, region, endpoint, KMS key, clock |

mod disk;
mod finding;
mod key;
mod machine;
mod memory;
mod place;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::format::descriptor::Descriptor;
use crate::keys::{KeySource, OutputKey};
use crate::lifecycle::doctor::machine::Machine;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::request::MountRequest;

pub use finding::{Finding, Status};

/// What is to work.
#[derive(Debug)]
pub struct Wish {
    /// The store; `None`: none was named.
    pub store: Option<PathBuf>,
    /// What a role would mount.
    pub role: Option<MountRequest>,
    /// Whether the volume is to outlive the machine.
    pub lasts: bool,
    /// Key source that was named.
    pub key: Option<KeySource>,
    /// Output key that was named.
    pub output_key: Option<OutputKey>,
    /// Pairs that a new volume would have.
    pub context: BTreeMap<String, String>,
}

/// All checks.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// Whether nothing fails.
    pub passed: bool,
    /// In the order in which they were made.
    pub checks: Vec<Finding>,
}

/// Makes all checks. Takes at most 25 s for each call to KMS. Turns off core dumps of this process
/// and locks its memory, as for a mount: it sees the volume key.
///
/// # Errors
/// A key source of a role that can't be read. What does not work is no error, but a finding.
pub fn examine(wish: &Wish) -> Result<Diagnosis, VerbError> {
    let protection = crate::sys::protect_process();
    let machine = Machine::here();
    let swaps = machine.swaps();
    let mut checks = vec![
        machine.kernel(),
        machine.device(),
        machine.mounting(),
        machine.allow_other(wish.role.is_some()),
        memory::memory_lock(&protection, &swaps),
        memory::swap(&swaps),
    ];
    let descriptor = places(wish, &machine, &mut checks);
    checks.extend(keys(wish, descriptor.as_ref())?);
    let recorded = descriptor.as_ref().and_then(Descriptor::output_key);
    checks.extend(key::output(wish.output_key.as_ref(), recorded));
    let passed = checks.iter().all(|check| check.status != Status::Fails);
    Ok(Diagnosis { passed, checks })
}

/// The store and what is below it, the role's paths. Returns the volume's description.
fn places(wish: &Wish, machine: &Machine, checks: &mut Vec<Finding>) -> Option<Descriptor> {
    let descriptor = match &wish.store {
        None => {
            let because = "no store is named: --store DIR, or --role ROLE";
            let names = ["store", "filesystem", "disk"];
            checks.extend(names.map(|check| Finding::not_checked(check, because)));
            None
        }
        Some(path) => {
            let makes = wish.role.as_ref().is_some_and(|role| role.make.is_some());
            let (found, descriptor) = place::store(path, makes);
            checks.push(found);
            checks.extend(place::below(machine, path, descriptor.is_some(), wish.lasts));
            descriptor
        }
    };
    if let Some(role) = &wish.role {
        checks.extend(role.points.iter().map(|point| place::path(role, &point.mountpoint)));
    }
    descriptor
}

fn keys(wish: &Wish, descriptor: Option<&Descriptor>) -> Result<Vec<Finding>, VerbError> {
    let makes = wish.role.as_ref().and_then(|role| role.make.as_ref());
    match descriptor {
        // A volume without a slot is one whose key is gone; a role makes another in its place.
        Some(descriptor) if !descriptor.slots.is_empty() || makes.is_none() => {
            return Ok(key::of_volume(descriptor, wish.key.as_ref()));
        }
        _ => {}
    }
    let (source, why) = match (&wish.key, makes) {
        (Some(key), _) => (key.clone(), "as named"),
        (None, Some(make)) => (make.key.parse()?, "the role's own"),
        (None, None) => (KeySource::Local(None), "as init takes it if none is named"),
    };
    Ok(key::of_source(&source, why, &wish.context))
}

#[cfg(test)]
mod tests;
