//! Why a job's command did not run, or was stopped.

use std::path::PathBuf;

use crate::lifecycle::{Exit, VerbError};

/// Why a job ended before, beside or after its command.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The volume could not be made, opened or mounted: the command did not run.
    #[error("{0}; the command was not started")]
    NotMounted(#[source] VerbError),
    /// A mountpoint is there, but the system does not list the mount.
    #[error("{0}: mounted, but not there; the command was not started")]
    NotConfirmed(PathBuf),
    /// The command could not be started.
    #[error("can't start the command: {0}")]
    Spawn(std::io::Error),
    /// A mount ended while the command ran.
    #[error(
        "{0:?}: unmounted while the command ran, which was killed: it could have gone on in \
             the bare directory"
    )]
    Lost(PathBuf),
    /// The volume failed after the command.
    #[error("after the command: {0}")]
    After(#[source] VerbError),
}

impl JobError {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotMounted(_)
            | Self::NotConfirmed(_)
            | Self::Spawn(_)
            | Self::Lost(_)
            | Self::After(_) => Exit::NotRun,
        }
    }
}
