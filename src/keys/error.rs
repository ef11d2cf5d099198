//! Why there is no volume key. Each message says what was found, what was wanted, what to do.

use std::path::PathBuf;

use crate::keys::kms_error::KmsError;

/// Why there is no volume key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a key source.
    #[error(
        "key source {found:?}: {reason}; wanted local, local:FILE, kms:ID (a key id, key ARN, \
         alias/NAME or alias ARN), file:FILE, fd:N or secretsmanager:ARN (32 bytes of your own) \
         or transient"
    )]
    Source {
        /// What was typed.
        found: String,
        /// What is wrong with it.
        reason: String,
    },
    /// User pairs of the encryption context that no volume may have.
    #[error("encryption context: {0}")]
    Context(String),
    /// A key file that is missing or unfit.
    #[error("key file {}: {found}; {remedy}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
        /// What was wanted and how to get there.
        remedy: String,
    },
    /// No place for the default key file.
    #[error(
        "no place for the local key: neither XDG_DATA_HOME nor HOME is an absolute path; set \
         HOME, or name the file as local:FILE"
    )]
    NoHome,
    /// A volume without slots.
    #[error(
        "the volume has no key slot: its key is transient, in the memory of the process that made \
         the volume and nowhere else, and gone with it; make a new volume"
    )]
    Gone,
    /// The named source has no slot.
    #[error(
        "key source {wanted}: the volume has no slot for it, only for {found}; name one of them"
    )]
    NoSlot {
        /// What was asked for.
        wanted: String,
        /// Providers and keys of the slots that are there.
        found: String,
    },
    /// A slot was wanted of what wraps nothing.
    #[error(
        "a transient key is kept nowhere, so there is no key slot for it; wanted kms:ID, \
         local[:FILE], file:FILE, fd:N or secretsmanager:ARN"
    )]
    Transient,
    /// What S3 can't encrypt under.
    #[error(
        "output key {found}: what leaves a volume is encrypted by S3, under a KMS key; wanted \
         kms:ID (a key id, key ARN, alias/NAME or alias ARN)"
    )]
    Output {
        /// What was named.
        found: String,
    },
    /// A slot of a later release.
    #[error(
        "key slot {slot} has provider {provider:?}, which this release does not know: use a \
             later one"
    )]
    Provider {
        /// The slot's number.
        slot: u32,
        /// Its provider.
        provider: String,
    },
    /// A slot whose bytes no release wrote.
    #[error("key slot {slot} in volume.json is damaged: {found}; restore the file from a snapshot")]
    Slot {
        /// The slot's number.
        slot: u32,
        /// What is wrong with it.
        found: String,
    },
    /// The key file is fit, but another one wrapped the volume key, or the slot was edited.
    #[error(
        "the key in {key} does not open key slot {slot}: another key wrapped this volume's (a \
         secret that was rotated has it in an older version), or volume.json was edited; name the \
         right one by --key file:FILE, fd:N or secretsmanager:ARN"
    )]
    WrongKey {
        /// The slot's number.
        slot: u32,
        /// Path of the key file, or what else gave the key.
        key: String,
    },
    /// A slot whose key came by a descriptor.
    #[error(
        "key slot {slot} is under a key that came by a descriptor and is kept nowhere; name it by \
         --key fd:N, as in --key fd:3 3<FILE, or file:FILE or secretsmanager:ARN if it is there"
    )]
    Unnamed {
        /// The slot's number.
        slot: u32,
    },
    /// A secret that holds no key.
    #[error(
        "secret {arn}: {found}; wanted 32 random bytes as SecretBinary, or their base64 as \
         SecretString: head -c 32 /dev/urandom | base64"
    )]
    Secret {
        /// The secret.
        arn: String,
        /// What is wrong with it.
        found: String,
    },
    /// KMS gave another key than the one that it had wrapped a moment before.
    #[error(
        "KMS key {key}: what Decrypt gave is not what GenerateDataKey had made: check what \
         answers at the KMS endpoint"
    )]
    Trial {
        /// ARN of the KMS key.
        key: String,
    },
    /// KMS refused or was not reached.
    #[error(transparent)]
    Kms(Box<KmsError>),
}

impl KeyError {
    /// The command's exit code, one a cause.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Context(_) => 2,
            Self::Provider { .. } => 13,
            Self::Slot { .. } => 14,
            Self::Source { .. }
            | Self::KeyFile { .. }
            | Self::NoHome
            | Self::NoSlot { .. }
            | Self::Unnamed { .. }
            | Self::Secret { .. }
            | Self::Output { .. }
            | Self::Transient => 20,
            Self::Gone | Self::WrongKey { .. } => 21,
            Self::Trial { .. } => 29,
            Self::Kms(error) => error.failure.exit_code(),
        }
    }

    /// How much it tells about why a volume with several slots does not open: what a key's owner
    /// decided comes before what is out of reach, and that before what is not there.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Kms(error) => error.failure.weight(),
            Self::WrongKey { .. } => 5,
            Self::Slot { .. } => 4,
            Self::KeyFile { .. } | Self::Unnamed { .. } | Self::Secret { .. } => 2,
            Self::Provider { .. } => 1,
            Self::Source { .. }
            | Self::Context(_)
            | Self::NoHome
            | Self::Gone
            | Self::Transient
            | Self::Output { .. }
            | Self::Trial { .. }
            | Self::NoSlot { .. } => 0,
        }
    }
}

impl From<Box<KmsError>> for KeyError {
    fn from(error: Box<KmsError>) -> Self {
        Self::Kms(error)
    }
}
