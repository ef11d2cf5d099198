//! Why a mount failed, and the exit code of each reason.

use std::io;
use std::path::PathBuf;

/// Why a volume was not mounted; nothing is mounted then.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is nothing at the mountpoint.
    #[error("{0} does not exist: make the directory, or name another mountpoint")]
    Missing(PathBuf),
    /// The mountpoint is a file.
    #[error("{0} is not a directory: name a directory to mount on")]
    NotDirectory(PathBuf),
    /// The mountpoint can't be looked at.
    #[error("{path} can't be used as a mountpoint: {error}")]
    Unusable {
        /// The mountpoint.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something is mounted there.
    #[error("{path} has {kind} of {source_name} mounted on it: unmount that first")]
    Already {
        /// The mountpoint.
        path: PathBuf,
        /// Type of what is mounted.
        kind: String,
        /// What is mounted.
        source_name: String,
    },
    /// What was mounted there has died without being unmounted.
    #[error("the file system mounted on {0} has died: unmount it first (cmkfs umount {0})")]
    Dead(PathBuf),
    /// The mountpoint has files, which the mount would hide.
    #[error("{path} is not empty (it has {found:?}): mounting would hide what is in it")]
    NotEmpty {
        /// The mountpoint.
        path: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// The kernel has no FUSE, or the container was not given it.
    #[error(
        "there is no /dev/fuse, or it is another device: load it (modprobe fuse), or give it \
         to the container (docker run --device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    NoDevice,
    /// The system does not let this process mount.
    #[error("mounting is not permitted: {0}")]
    NotPermitted(String),
    /// The system failed otherwise.
    #[error("mounting on {path} failed: {what}: {error}")]
    System {
        /// The mountpoint.
        path: PathBuf,
        /// What was done.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl MountError {
    /// The process's exit code for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Missing(_) | Self::NotDirectory(_) | Self::Unusable { .. } => 30,
            Self::Already { .. } | Self::Dead(_) => 31,
            Self::NotEmpty { .. } => 32,
            Self::NoDevice => 33,
            Self::NotPermitted(_) => 34,
            Self::System { .. } => 1,
        }
    }
}
