//! Exit codes of what the layers below say.

use std::io;

use rustix::io::Errno;

use crate::file::FileError;
use crate::format::DescriptorError;
use crate::fs::FsError;
use crate::fuse::MountError;
use crate::lifecycle::exit::Exit;
use crate::object::S3Failure;
use crate::store::StoreError;

fn errno_exit(errno: Errno, other: Exit) -> Exit {
    match errno {
        Errno::NOSPC | Errno::DQUOT => Exit::DiskFull,
        Errno::KEYREVOKED => Exit::Locked,
        _ => other,
    }
}

pub(in crate::lifecycle) fn io_exit(error: &io::Error, other: Exit) -> Exit {
    Errno::from_io_error(error).map_or(other, |errno| errno_exit(errno, other))
}

pub(in crate::lifecycle) fn store_exit(error: &StoreError) -> Exit {
    match error {
        StoreError::Missing(_) => Exit::NoStore,
        StoreError::NotAStore(_) => Exit::NotAStore,
        StoreError::NotEmpty(_) => Exit::NotEmpty,
        StoreError::Descriptor { error, .. } => match error {
            DescriptorError::Version(_) | DescriptorError::Feature(_) => Exit::NewerFormat,
            DescriptorError::Json(_) | DescriptorError::Format(_) | DescriptorError::Value(_) => {
                Exit::BadDescriptor
            }
        },
        StoreError::Changing(_) => Exit::InUse,
        StoreError::Sys { error, .. } => errno_exit(*error, Exit::StoreFailed),
    }
}

pub(in crate::lifecycle) fn mount_exit(error: &MountError) -> Exit {
    match error {
        MountError::Missing(_) | MountError::NotDirectory(_) | MountError::Unusable { .. } => {
            Exit::NoMountpoint
        }
        MountError::Already { .. } | MountError::Dead(_) => Exit::AlreadyMounted,
        MountError::NotEmpty { .. } => Exit::MountpointNotEmpty,
        MountError::NoDevice => Exit::NoFuse,
        MountError::NotPermitted(_) => Exit::MountDenied,
        MountError::System { .. } => Exit::Unexpected,
    }
}

pub(in crate::lifecycle) fn fs_exit(error: &FsError) -> Exit {
    match error {
        FsError::File(error) => file_exit(error),
        FsError::NotFound
        | FsError::Exists
        | FsError::NotDir
        | FsError::IsDir
        | FsError::NameTooLong
        | FsError::NotSupported
        | FsError::Invalid
        | FsError::Loop => Exit::NoPath,
        FsError::Locked => Exit::Locked,
        FsError::BadHandle | FsError::ReadOnly | FsError::Stale => Exit::StoreFailed,
    }
}

fn file_exit(error: &FileError) -> Exit {
    match error {
        FileError::Damaged(_) | FileError::Latched => Exit::Damaged,
        FileError::Sys(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP) => Exit::NoPath,
        FileError::NameTooLong | FileError::NoAttribute => Exit::NoPath,
        FileError::Lost => Exit::InUse,
        FileError::Sys(errno) => errno_exit(*errno, Exit::StoreFailed),
        FileError::TooLarge
        | FileError::Invalid
        | FileError::NotSupported
        | FileError::Range
        | FileError::Stale
        | FileError::ReadOnly => Exit::StoreFailed,
    }
}

/// The exit code of a request to S3 that failed.
pub(in crate::lifecycle) fn s3_exit(failure: S3Failure) -> Exit {
    match failure {
        S3Failure::Denied => Exit::SnapshotDenied,
        S3Failure::KeyUnusable => Exit::KmsUnusable,
        S3Failure::KeyNotFound => Exit::KmsNoKey,
        S3Failure::Unreachable => Exit::KmsUnreachable,
        S3Failure::NoCredentials | S3Failure::NoRegion | S3Failure::BadCredentials => {
            Exit::NoCredentials
        }
        S3Failure::Throttled => Exit::KmsThrottled,
        S3Failure::PlainHttp => Exit::PlainHttp,
        S3Failure::Clock => Exit::WrongClock,
        S3Failure::Untrusted => Exit::UntrustedEndpoint,
        S3Failure::NoBucket
        | S3Failure::WrongRegion
        | S3Failure::Express
        | S3Failure::Archived
        | S3Failure::Other => Exit::SnapshotTarget,
    }
}
