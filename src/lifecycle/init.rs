//! Makes a volume: store directories, a volume key in its slot, the first epoch, the root.
//!
//! Nothing is written before the key is there, and `volume.json`, which makes a directory a store,
//! is written last: whatever fails, what was made is removed again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cipher::{Secret, VolumeKeys};
use crate::file::Volume;
use crate::format::descriptor::{Descriptor, FORMAT, Features, VERSION};
use crate::format::{BlockSize, DirId, Epoch, VolumeId};
use crate::keys::{self, Context, KeySource, OutputKey};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::key::output;
use crate::store::{Store, StoreError};

/// What `init` may be told.
#[derive(Debug)]
pub struct InitOptions {
    /// Where the volume key comes from and what wraps it.
    pub key: KeySource,
    /// The KMS key that S3 is to encrypt under what leaves the volume.
    pub output_key: Option<OutputKey>,
    /// Block size of new files.
    pub block_size: BlockSize,
    /// Pairs for the KMS encryption context.
    pub context: BTreeMap<String, String>,
}

/// A new volume.
#[derive(Debug)]
pub struct Created {
    /// The store, without links and dots.
    pub path: PathBuf,
    /// What `volume.json` says.
    pub descriptor: Descriptor,
    /// The volume key.
    pub key: Secret,
}

/// Makes a volume with a key that is kept.
///
/// # Errors
/// See [`VerbError`]; nothing is left behind then.
pub fn init(path: &Path, options: &InitOptions) -> Result<Created, VerbError> {
    match options.key {
        KeySource::Transient => Err(VerbError::TransientInit),
        _ => create(path, options),
    }
}

/// Makes a volume, also one with a transient key, which is then nowhere but in what is returned.
///
/// # Errors
/// See [`VerbError`]; nothing is left behind then.
pub fn create(path: &Path, options: &InitOptions) -> Result<Created, VerbError> {
    let path = vacant(path)?;
    keys::check_user_pairs(&options.context)?;
    let output_key = options.output_key.as_ref().map(output::tried).transpose()?;
    let volume_id = VolumeId(random_id());
    let context = Context { volume_id, pairs: &options.context };
    let (key, slot) = keys::create(&options.key, &context)?;
    let mut descriptor = Descriptor {
        format: FORMAT.to_owned(),
        version: VERSION,
        volume_id,
        created_unix_s: unix_s(),
        block_size: options.block_size.bytes(),
        root_id: DirId(random_id()),
        context: options.context.clone(),
        slots: slot.into_iter().collect(),
        epochs: Vec::new(),
        features: Features::default(),
        mac: String::new(),
    };
    descriptor.set_output_key(output_key.map(|key| key.to_string()).as_deref());
    VolumeKeys::add_epoch(&key, &mut descriptor, Epoch::FIRST);
    VolumeKeys::authenticate(&key, &mut descriptor);
    let keys = VolumeKeys::open(&key, &descriptor)
        .map_err(|error| VerbError::Untrusted { path: path.clone(), error })?;

    let was_there = path.exists();
    let mut unfinished = Unfinished { path: &path, remove_dir: !was_there, armed: false };
    match Store::create(&path) {
        Err(error @ StoreError::NotEmpty(_)) => return Err(error.into()),
        result => {
            unfinished.armed = true;
            let store = result?;
            Volume::format(&store, &keys, descriptor.root_id).map_err(VerbError::file(&path))?;
            store.sync()?;
            store.write_descriptor(&descriptor)?;
        }
    }
    unfinished.armed = false;
    drop(unfinished);
    Ok(Created { path, descriptor, key })
}

/// The path without links, if a store can be made there: nothing is there, or an empty directory.
fn vacant(path: &Path) -> Result<PathBuf, VerbError> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let absolute =
                std::path::absolute(path).map_err(VerbError::local(path, "no such path"))?;
            let parent = absolute.parent().unwrap_or_else(|| Path::new("/"));
            let parent =
                parent.canonicalize().map_err(VerbError::local(parent, "can't look there"))?;
            return Ok(parent.join(absolute.file_name().unwrap_or_default()));
        }
        Err(error) => return Err(VerbError::local(path, "can't look there")(error)),
    };
    if real.join("volume.json").symlink_metadata().is_ok() {
        return Err(VerbError::AlreadyAVolume(real));
    }
    let mut entries = real.read_dir().map_err(VerbError::local(&real, "can't list it"))?;
    match entries.next() {
        None => Ok(real),
        Some(_) => Err(StoreError::NotEmpty(real).into()),
    }
}

/// Removes, unless told that all went well, what a failed `create` left in a directory that was
/// empty before.
struct Unfinished<'a> {
    path: &'a Path,
    remove_dir: bool,
    armed: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let remove = || -> std::io::Result<()> {
            for entry in self.path.read_dir()? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => std::fs::remove_dir_all(entry.path())?,
                    false => std::fs::remove_file(entry.path())?,
                }
            }
            if self.remove_dir { std::fs::remove_dir(self.path) } else { Ok(()) }
        };
        if let Err(error) = remove() {
            tracing::warn!("{}: can't remove what was begun: {error}", self.path.display());
        }
    }
}

fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the system gives random bytes");
    id
}

/// Seconds since 1970 UTC.
pub(in crate::lifecycle) fn unix_s() -> u64 {
    unix_ms() / 1000
}

/// Milliseconds since 1970 UTC.
pub(in crate::lifecycle) fn unix_ms() -> u64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH);
    passed.map_or(0, |passed| u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}
