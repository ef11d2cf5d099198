//! What can go wrong, and the errno of each: one table, without a wildcard arm, so that a new
//! failure does not compile until somebody has chosen its errno.

use rustix::io::Errno;

use crate::file::FileError;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The file or the store below said so.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is nothing of that name, or what was asked for has none left.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// A directory was wanted.
    #[error("not a directory")]
    NotDir,
    /// Something else than a directory was wanted.
    #[error("a directory")]
    IsDir,
    /// No such handle, or one of another kind.
    #[error("no such handle: it was released, or was never given out")]
    BadHandle,
    /// The volume is open for reading only.
    #[error("the volume is open for reading only: mount it without --read-only to change it")]
    ReadOnly,
    /// An argument makes no sense.
    #[error("an argument is out of its range")]
    Invalid,
    /// Well formed, but nothing that cmkfs does.
    #[error("not supported")]
    NotSupported,
    /// A name of more than 255 bytes.
    #[error("a name has more than 255 bytes")]
    NameTooLong,
    /// More than 40 symbolic links on the way.
    #[error("more than 40 symbolic links on the way: they may lead in a circle")]
    Loop,
    /// The key was taken away.
    #[error("the volume is locked: its key may not be used")]
    Locked,
    /// What is there now is not what was there before.
    #[error("not what was there before: look again")]
    Stale,
}

impl FsError {
    /// The number for the caller, positive.
    pub fn errno(&self) -> i32 {
        self.code().raw_os_error()
    }

    fn code(&self) -> Errno {
        match self {
            Self::File(error) => of_file(error),
            Self::NotFound => Errno::NOENT,
            Self::Exists => Errno::EXIST,
            Self::NotDir => Errno::NOTDIR,
            Self::IsDir => Errno::ISDIR,
            Self::BadHandle => Errno::BADF,
            Self::ReadOnly => Errno::ROFS,
            Self::Invalid => Errno::INVAL,
            Self::NotSupported => Errno::OPNOTSUPP,
            Self::NameTooLong => Errno::NAMETOOLONG,
            Self::Loop => Errno::LOOP,
            Self::Locked => Errno::KEYREVOKED,
            Self::Stale => Errno::STALE,
        }
    }

    /// Whether the name is not there.
    pub fn is_not_found(&self) -> bool {
        self.code() == Errno::NOENT
    }

    /// Whether the name is taken.
    pub fn is_exists(&self) -> bool {
        self.code() == Errno::EXIST
    }
}

fn of_file(error: &FileError) -> Errno {
    match error {
        FileError::Sys(errno) => *errno,
        FileError::Damaged(_) => Errno::IO,
        FileError::TooLarge => Errno::FBIG,
        FileError::Invalid => Errno::INVAL,
        FileError::NameTooLong => Errno::NAMETOOLONG,
        FileError::NotSupported => Errno::OPNOTSUPP,
        FileError::NoAttribute => Errno::NODATA,
        FileError::Range => Errno::RANGE,
        FileError::Stale => Errno::STALE,
        FileError::Latched => Errno::IO,
        FileError::ReadOnly => Errno::ROFS,
        FileError::Lost => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_errno() {
        let table = [
            (FsError::File(FileError::Sys(Errno::NOSPC)), libc::ENOSPC),
            (FsError::File(FileError::Sys(Errno::DQUOT)), libc::EDQUOT),
            (FsError::File(FileError::TooLarge), libc::EFBIG),
            (FsError::File(FileError::Invalid), libc::EINVAL),
            (FsError::File(FileError::NameTooLong), libc::ENAMETOOLONG),
            (FsError::File(FileError::NotSupported), libc::EOPNOTSUPP),
            (FsError::File(FileError::NoAttribute), libc::ENODATA),
            (FsError::File(FileError::Range), libc::ERANGE),
            (FsError::File(FileError::Stale), libc::ESTALE),
            (FsError::File(FileError::Latched), libc::EIO),
            (FsError::File(FileError::ReadOnly), libc::EROFS),
            (FsError::File(FileError::Lost), libc::EIO),
            (FsError::NotFound, libc::ENOENT),
            (FsError::Exists, libc::EEXIST),
            (FsError::NotDir, libc::ENOTDIR),
            (FsError::IsDir, libc::EISDIR),
            (FsError::BadHandle, libc::EBADF),
            (FsError::ReadOnly, libc::EROFS),
            (FsError::Invalid, libc::EINVAL),
            (FsError::NotSupported, libc::EOPNOTSUPP),
            (FsError::NameTooLong, libc::ENAMETOOLONG),
            (FsError::Loop, libc::ELOOP),
            (FsError::Locked, libc::EKEYREVOKED),
            (FsError::Stale, libc::ESTALE),
        ];
        for (error, errno) in table {
            assert_eq!(error.errno(), errno, "{error}");
        }
    }
}
