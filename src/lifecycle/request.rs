//! What is to be mounted, resolved to absolute paths, so that it means the same in a daemon whose
//! working directory is `/`.

use std::fs::Permissions;
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::file::{Durability, FileError};
use crate::format::BlockSize;
use crate::fuse::{self, MountError, MountOptions};
use crate::keys::{KeySource, OutputKey};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::init::{self, InitOptions};
use crate::lifecycle::key::output;
use crate::lifecycle::metrics::Watched;
use crate::lifecycle::open::{self, Access, Opened, Tuning, find_store, lock};
use crate::lifecycle::session::Point;
use crate::lifecycle::terminate;
use crate::lifecycle::tree::stored;
use crate::store::StoreError;

/// A volume, where to mount it, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountRequest {
    /// Directory of the store.
    pub store: PathBuf,
    /// What to mount where, in this order.
    pub points: Vec<Point>,
    /// Key source that replaces what the slots say, or the one of a new volume.
    pub key: Option<String>,
    /// What is to become the volume's output key.
    #[serde(default)]
    pub output_key: Option<String>,
    /// To make the volume if it is not there; `None`: it has to be there.
    pub make: Option<NewVolume>,
    /// Bytes of the block cache.
    pub cache_bytes: u64,
    /// Threads; `None`: one a core.
    pub threads: Option<NonZero<usize>>,
    /// Directories that stay open.
    pub open_dirs: NonZero<usize>,
    /// How much has to survive a power cut.
    pub durability: Durability,
    /// Between two requests to KMS for the key.
    pub key_recheck: Duration,
    /// How long it is served while KMS does not answer.
    pub key_max_offline: Duration,
    /// Whether writing is refused.
    pub read_only: bool,
    /// How the kernel serves it.
    pub kernel: KernelOptions,
    /// What is told of it while it is served.
    #[serde(default)]
    pub watched: Watched,
}

/// Options that only the kernel's side of a mount knows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a mount option of its own")]
pub struct KernelOptions {
    /// Whether other users may use the mount.
    pub allow_other: bool,
    /// Whether the kernel checks permission bits.
    pub default_permissions: bool,
    /// Whether a mountpoint may have files, which the mount then hides.
    pub allow_nonempty: bool,
    /// Whether set-id bits and file capabilities of programs count.
    pub set_id: bool,
    /// Whether devices can be opened.
    pub devices: bool,
    /// Whether no program can be executed.
    pub no_programs: bool,
    /// Whether the kernel gathers writes.
    pub write_back: bool,
}

impl KernelOptions {
    /// For everyone if root mounts; permissions are checked.
    pub fn usual() -> Self {
        Self {
            allow_other: rustix::process::geteuid().is_root(),
            default_permissions: true,
            allow_nonempty: false,
            set_id: false,
            devices: false,
            no_programs: false,
            write_back: false,
        }
    }
}

/// How a volume is made when it is missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewVolume {
    /// Key source, unless the request names one.
    pub key: String,
    /// Directories to make in it, as paths below its root.
    pub dirs: Vec<String>,
}

impl MountRequest {
    /// How the volume is opened.
    pub fn access(&self) -> Access {
        if self.read_only { Access::Read } else { Access::Write }
    }

    fn tuning(&self) -> Tuning {
        Tuning {
            cache_bytes: self.cache_bytes,
            threads: self.threads,
            open_dirs: self.open_dirs,
            durability: self.durability,
            key_recheck: self.key_recheck,
            key_max_offline: self.key_max_offline,
            ..Tuning::default()
        }
    }

    /// For the kernel and the threads that serve it.
    pub fn mount_options(&self) -> MountOptions {
        MountOptions {
            read_only: self.read_only,
            allow_other: self.kernel.allow_other,
            threads: self.threads.map_or(0, NonZero::get),
            fs_name: self.store.to_string_lossy().into_owned(),
            default_permissions: self.kernel.default_permissions,
            allow_nonempty: self.kernel.allow_nonempty,
            set_id: self.kernel.set_id,
            devices: self.kernel.devices,
            no_programs: self.kernel.no_programs,
            write_back: self.kernel.write_back,
            slow: self.watched.slow,
        }
    }

    /// Looks at everything that can be refused without a key: the store, its mountpoints, the
    /// device. Changes nothing, unless `make` is set: then mountpoints that are missing are made.
    ///
    /// # Errors
    /// What would not work.
    pub fn check(&self) -> Result<(), VerbError> {
        if self.make.is_none() {
            let store = find_store(&self.store)?;
            store.read_descriptor()?;
        }
        for point in &self.points {
            if self.make.is_some() {
                make_mountpoint(&point.mountpoint)?;
            }
            self.check_point(&point.mountpoint)?;
        }
        Ok(fuse::check_device()?)
    }

    /// Looks at one mountpoint, and changes nothing.
    ///
    /// # Errors
    /// Why nothing could be mounted there.
    pub(in crate::lifecycle) fn check_point(&self, path: &Path) -> Result<(), VerbError> {
        if path.to_str().is_none() {
            return Err(VerbError::NotText(path.to_owned()));
        }
        let real = fuse::checked(path, self.kernel.allow_nonempty)?;
        // A store below the mountpoint is hidden by the mount, and was opened before.
        let hidden = self.store.starts_with(&real) && self.store != real;
        let inside = real.starts_with(&self.store) || self.store == real;
        if inside || (hidden && !self.kernel.allow_nonempty) {
            return Err(VerbError::Nested(path.to_owned()));
        }
        Ok(())
    }

    /// Opens the volume, or makes it where the request says so.
    ///
    /// # Errors
    /// See [`VerbError`].
    pub fn open(&self) -> Result<Opened, VerbError> {
        let key: Option<KeySource> = self.key.as_deref().map(str::parse).transpose()?;
        let Some(make) = &self.make else {
            return open::open(&self.store, key.as_ref(), self.access(), &self.tuning());
        };
        let exists = match find_store(&self.store) {
            Ok(store) => {
                let keyless = store.read_descriptor()?.slots.is_empty();
                if keyless {
                    remove_keyless(&store)?;
                }
                !keyless
            }
            Err(VerbError::Store(StoreError::Missing(_) | StoreError::NotAStore(_))) => false,
            Err(error) => return Err(error),
        };
        let output_key: Option<OutputKey> =
            self.output_key.as_deref().map(str::parse).transpose()?;
        if exists {
            if let Some(output_key) = &output_key {
                output::set(&find_store(&self.store)?, output_key, key.as_ref())?;
            }
            return open::open(&self.store, key.as_ref(), self.access(), &self.tuning());
        }
        let key = key.map_or_else(|| make.key.parse(), Ok)?;
        self.create(key, output_key, &make.dirs)
    }

    fn create(
        &self,
        key: KeySource,
        output_key: Option<OutputKey>,
        dirs: &[String],
    ) -> Result<Opened, VerbError> {
        if let Some(parent) = self.store.parent() {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(VerbError::local(parent, "can't make the directory"))?;
        }
        let block_size = BlockSize::DEFAULT;
        let options = InitOptions { key, output_key, block_size, context: Default::default() };
        let created = init::create(&self.store, &options)?;
        let opened = open::open_with(&created.path, &created.key, &self.tuning())?;
        let filled = fill(&opened, dirs).map_err(VerbError::file(&self.store));
        filled.map(|()| opened)
    }
}

fn fill(opened: &Opened, dirs: &[String]) -> Result<(), FileError> {
    for path in dirs {
        let mut dir = opened.volume.root()?;
        for name in path.split('/') {
            dir = stored::ensure_dir(&dir, name.as_bytes(), 0o755)?;
        }
    }
    Ok(())
}

/// A volume without a slot had a transient key: nobody can ever read it again, unless the process
/// that has the key is alive, and then it has the lock.
fn remove_keyless(store: &crate::store::Store) -> Result<(), VerbError> {
    let mut lock = lock(store)?;
    tracing::warn!("{}: left by an earlier run whose key is gone: removed", store.path().display());
    terminate::remove_contents(store.path(), &mut lock)
}

/// A mountpoint that root makes is closed to others: should the mount go away under a job, the
/// job's users find nothing to write to. Others could not mount on such a directory.
fn make_mountpoint(path: &Path) -> Result<(), VerbError> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let make = || {
        std::fs::create_dir_all(path)?;
        if rustix::process::geteuid().is_root() {
            std::fs::set_permissions(path, Permissions::from_mode(0o555))?;
        }
        Ok(())
    };
    make().map_err(|error| MountError::Unusable { path: path.to_owned(), error }.into())
}
