//! How an outcome is written down: the same on any two file systems that do the same.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::calls::Map;

/// What can be compared.
pub trait Shown {
    fn shown(&self) -> String;
}

macro_rules! plainly {
    ($($kind:ty)*) => { $(
        impl Shown for $kind {
            fn shown(&self) -> String {
                self.to_string()
            }
        }
    )* };
}
plainly!(bool u32 u64 usize i32 i64 String &str);

macro_rules! as_done {
    ($($kind:ty)*) => { $(
        impl Shown for $kind {
            fn shown(&self) -> String {
                "ok".to_owned()
            }
        }
    )* };
}
as_done!(() OwnedFd Map);

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), Shown::shown)
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> String {
        self.iter().map(Shown::shown).collect::<Vec<_>>().join(" ")
    }
}

impl<A: Shown, B: Shown> Shown for (A, B) {
    fn shown(&self) -> String {
        format!("{} {}", self.0.shown(), self.1.shown())
    }
}

impl<A: Shown, B: Shown, C: Shown> Shown for (A, B, C) {
    fn shown(&self) -> String {
        format!("{} {} {}", self.0.shown(), self.1.shown(), self.2.shown())
    }
}

impl<T: Shown> Shown for Result<T, Errno> {
    fn shown(&self) -> String {
        match self {
            Ok(done) => done.shown(),
            Err(error) => name(*error),
        }
    }
}

macro_rules! names {
    ($($name:ident)*) => {
        &[$((libc::$name, stringify!($name))),*]
    };
}

const NAMES: &[(i32, &str)] = names!(EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG EBADF ECHILD EAGAIN
    ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE
    ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK
    ENOSYS ENOTEMPTY ELOOP ENODATA EOVERFLOW EOPNOTSUPP ESTALE EDQUOT EADDRINUSE ECONNREFUSED);

/// The name of an errno, as manuals have it.
pub fn name(error: Errno) -> String {
    let number = error.raw_os_error();
    let found = NAMES.iter().find(|named| named.0 == number);
    found.map_or_else(|| format!("errno {number}"), |named| named.1.to_owned())
}

/// Long content, told by its length and a checksum.
pub fn digest(bytes: &[u8]) -> String {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{} bytes of {sum:016x}", bytes.len())
}
