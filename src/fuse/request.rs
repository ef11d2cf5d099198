//! What the methods of the adapter have in common: how a request is guarded, what the kernel is
//! asked for, how an answer becomes a reply.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fuser::{
    Errno, FileHandle, FopenFlags, InitFlags, KernelConfig, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request,
};

use crate::fs::{Access, Attr, Creator, Fs, FsError, HandleId, Privileges, Sync};
use crate::fuse::answer::Answered;
use crate::fuse::convert::{TTL, errno, file_attr, generation, ttl};

/// Bytes of the largest request. Linux gives at most 256 pages unless told otherwise.
const REQUEST_LEN_MAX: u32 = 1 << 20;
/// Requests that readahead and direct I/O may have under way.
const BACKGROUND_MAX: u16 = 64;

/// Asks the kernel for what it can do and we want; `checks` if it checks permissions, `gathers`
/// if it gathers writes, `alone` if nobody else changes the volume.
pub(in crate::fuse) fn settle(config: &mut KernelConfig, checks: bool, gathers: bool, alone: bool) {
    // HANDLE_KILLPRIV_V2: clearing set-id bits is ours, for which the kernel does without
    // asking for security.capability before each write. ATOMIC_O_TRUNC is not asked for, so
    // a truncating open is an open and a change of the size. AUTO_INVAL_DATA is not either:
    // a new mtime does not mean new data from elsewhere.
    let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
    if alone {
        // Otherwise another link may come to have its number.
        wanted |= InitFlags::FUSE_CACHE_SYMLINKS;
    }
    if checks {
        // Access control lists count only where the kernel checks; with a default list the
        // umask does not, which the lower filesystem decides.
        wanted |= InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK;
    }
    if gathers {
        // The kernel then keeps size and times itself, and gives the offset of what is appended.
        wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    let offered = config.capabilities() & wanted;
    config.add_capabilities(offered).expect("only what the kernel offers");
    config.set_max_write(REQUEST_LEN_MAX).expect("below the limit of fuser");
    config.set_max_background(BACKGROUND_MAX).expect("not zero");
}

/// A panic is a bug, but must not end the thread that serves the mount: the request gets `EIO`,
/// because its reply is dropped unanswered, and the log says which operation it was.
pub(in crate::fuse) fn guarded(operation: &'static str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!(operation, "a request ended in a panic and got EIO: please report it");
    }
}

pub(in crate::fuse) fn handle(handle: FileHandle) -> HandleId {
    HandleId(handle.0)
}

pub(in crate::fuse) fn creator(request: &Request) -> Creator {
    Creator { uid: request.uid(), gid: request.gid() }
}

/// Whether the caller loses set-id bits by changing content; root has the capability not to.
pub(in crate::fuse) fn privileges(request: &Request) -> Privileges {
    if request.uid() == 0 { Privileges::Keep } else { Privileges::Drop }
}

/// Names of extended attributes, each with a zero byte after it, that the caller may know of:
/// those of the administrator are for nobody else (xattr(7)).
pub(in crate::fuse) fn visible(request: &Request, names: Vec<u8>) -> Vec<u8> {
    if request.uid() == 0 {
        return names;
    }
    let kept = names.split_inclusive(|byte| *byte == 0);
    kept.filter(|name| !name.starts_with(b"trusted.")).flatten().copied().collect()
}

pub(in crate::fuse) fn sync(data_only: bool) -> Sync {
    if data_only { Sync::Data } else { Sync::All }
}

/// What the kernel has of a file stays valid, unless it is `spoiled`: then it has to ask again. And
/// who only reads has nothing to flush.
pub(in crate::fuse) fn fopen_flags(access: Access, spoiled: bool) -> FopenFlags {
    match access {
        _ if spoiled => FopenFlags::empty(),
        Access::Read => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
        Access::Write => FopenFlags::FOPEN_KEEP_CACHE,
    }
}

/// How long the kernel may remember a name, or that there is none.
pub(in crate::fuse) fn name_ttl(fs: &Fs) -> Duration {
    if fs.changes_here_only() { TTL } else { Duration::ZERO }
}

/// A reply that can be an error.
pub(in crate::fuse) trait Refuse {
    /// Gives the error.
    fn refuse(self, error: &FsError);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, error: &FsError) {
                self.error(errno(error));
            }
        })*
    };
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

/// The kernel may remember the name for as long as `name_ttl`.
pub(in crate::fuse) fn give_entry(
    reply: ReplyEntry,
    done: Result<Attr, FsError>,
    name_ttl: Duration,
) {
    match done {
        Ok(attr) => {
            reply.entry_with_ttls(&ttl(&attr), &name_ttl, &file_attr(&attr), generation(&attr))
        }
        Err(error) => reply.error(errno(&error)),
    }
}

pub(in crate::fuse) fn give_attr(reply: ReplyAttr, done: Result<Attr, FsError>) {
    match done {
        Ok(attr) => reply.attr(&ttl(&attr), &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(in crate::fuse) fn give_nothing(reply: ReplyEmpty, done: Result<(), FsError>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(in crate::fuse) fn give_opened(
    reply: ReplyOpen,
    done: Result<HandleId, FsError>,
    flags: FopenFlags,
) {
    match done {
        Ok(opened) => reply.opened(FileHandle(opened.0), flags),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Of a write of `len` bytes, which may be answered before it is done, which `answered` is told.
pub(in crate::fuse) fn give_written(
    reply: ReplyWrite,
    len: usize,
    answered: &Answered,
    write: impl FnOnce(&mut dyn FnMut()) -> Result<(), FsError>,
) {
    let len = u32::try_from(len).expect("one request");
    let mut reply = Some(reply);
    let done = write(&mut || {
        if let Some(reply) = reply.take() {
            reply.written(len);
            answered.note();
        }
    });
    match (done, reply) {
        (Ok(()), Some(reply)) => reply.written(len),
        (Err(error), Some(reply)) => reply.error(errno(&error)),
        (_, None) => {}
    }
}

/// A directory stream: the kernel may keep what it reads by it, and read what it has kept, if so.
pub(in crate::fuse) fn give_stream(reply: ReplyOpen, fs: &Fs, done: Result<HandleId, FsError>) {
    let flags = match &done {
        Ok(stream) if fs.keeps_listing(*stream) => {
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE
        }
        _ => FopenFlags::empty(),
    };
    give_opened(reply, done, flags);
}

/// Of a value, what xattr(7) calls ask: its size, or all of it if it fits.
pub(in crate::fuse) fn give_value(reply: ReplyXattr, done: Result<Vec<u8>, FsError>, room: u32) {
    match done.map(|value| (u32::try_from(value.len()).unwrap_or(u32::MAX), value)) {
        Ok((len, _)) if room == 0 => reply.size(len),
        Ok((len, _)) if len > room => reply.error(Errno::ERANGE),
        Ok((_, value)) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_request_and_nothing_else() {
        let mut after = 0;
        guarded("test", || panic!("on purpose"));
        guarded("test", || after += 1);
        assert_eq!(after, 1);
    }
}
