//! One short method for each kernel request: takes it apart, asks [`Fs`], replies.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::fs::{Change, Fs, FsError, NodeKind, Privileges, SetAttr};
use crate::fuse::convert::{self, TTL, errno, file_attr, generation, inode, ttl};
use crate::fuse::linger::Linger;
use crate::fuse::request::{
    creator, fopen_flags, give_attr, give_entry, give_nothing, give_opened, give_stream,
    give_value, guarded, handle, privileges, settle, sync, visible,
};
use crate::fuse::umask;

/// Bytes that one copy_file_range(2) copies; it may be fewer than asked, and a caller that is
/// killed waits for no more than this.
const COPY_LEN_MAX: u64 = 128 << 20;
/// Permission bits of a mode, without the kind.
const MODE_BITS: u32 = 0o7777;

/// What serves a mount.
#[derive(Debug)]
pub(in crate::fuse) struct Adapter {
    pub(in crate::fuse) fs: Arc<Fs>,
    /// Whether the kernel checks permissions, and access control lists with them.
    pub(in crate::fuse) checks: bool,
    /// Whether the kernel gathers writes.
    pub(in crate::fuse) gathers: bool,
    /// Between two requests.
    pub(in crate::fuse) linger: Option<Linger>,
}

impl Adapter {
    /// Answers a request, whatever comes; see [`guarded`].
    fn answer(&self, operation: &'static str, work: impl FnOnce()) {
        guarded(operation, work);
        if let Some(linger) = &self.linger {
            linger.after_reply();
        }
    }

    /// How long the kernel may remember a name, or that there is none.
    fn name_ttl(&self) -> Duration {
        if self.fs.changes_here_only() { TTL } else { Duration::ZERO }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        settle(config, self.checks, self.gathers, self.fs.changes_here_only());
        Ok(())
    }

    fn destroy(&mut self) {
        guarded("destroy", || {
            if let Err(error) = self.fs.finish() {
                tracing::debug!(%error, "the volume was unmounted");
            }
        });
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.answer("lookup", || match self.fs.lookup(inode(parent), name.as_bytes()) {
            Err(error) if error.is_not_found() => {
                reply.entry(&self.name_ttl(), &convert::absent(), Generation(0));
            }
            found => give_entry(reply, found, self.name_ttl()),
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.answer("forget", || self.fs.forget(inode(ino), nlookup));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer("getattr", || give_attr(reply, self.fs.getattr(inode(ino))));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(convert::set_time), mtime.map(convert::set_time));
        let mode = mode.map(|mode| mode & MODE_BITS);
        let set = SetAttr { mode, uid, gid, atime, mtime };
        let change = Change { size, set, privileges: privileges(request) };
        self.answer("setattr", || give_attr(reply, self.fs.setattr(inode(ino), &change)));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer("readlink", || match self.fs.readlink(inode(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.answer("mknod", || {
            let make = |kind: NodeKind| {
                let mode = umask::applied(mode & MODE_BITS, umask);
                self.fs.mknod(inode(parent), name.as_bytes(), kind, mode, creator(request))
            };
            let kind = convert::node_kind(mode, rdev).ok_or(FsError::Invalid);
            give_entry(reply, kind.and_then(make), self.name_ttl());
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.answer("mkdir", || {
            let mode = umask::applied(mode & MODE_BITS, umask);
            let made = self.fs.mkdir(inode(parent), name.as_bytes(), mode, creator(request));
            give_entry(reply, made, self.name_ttl());
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer("unlink", || {
            give_nothing(reply, self.fs.unlink(inode(parent), name.as_bytes()))
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer("rmdir", || give_nothing(reply, self.fs.rmdir(inode(parent), name.as_bytes())));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.answer("symlink", || {
            let (name, target) = (link_name.as_bytes(), target.as_os_str().as_bytes());
            let made = self.fs.symlink(inode(parent), name, target, creator(request));
            give_entry(reply, made, self.name_ttl());
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.answer("rename", || {
            let mode = convert::rename_mode(flags).ok_or(FsError::Invalid);
            let (from, to) = (inode(parent), inode(newparent));
            let (name, newname) = (name.as_bytes(), newname.as_bytes());
            let rename = |mode| self.fs.rename(from, name, to, newname, mode);
            give_nothing(reply, mode.and_then(rename));
        });
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.answer("link", || {
            let made = self.fs.link(inode(ino), inode(newparent), newname.as_bytes());
            give_entry(reply, made, self.name_ttl());
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.answer("open", || {
            let flags = crate::fs::OpenFlags::from_bits(flags.0);
            let opened = self.fs.open(inode(ino), flags);
            let spoiled = self.fs.take_spoiled(inode(ino));
            give_opened(reply, opened, fopen_flags(flags.access, spoiled));
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.answer("create", || {
            let mode = umask::applied(mode & MODE_BITS, umask);
            let flags = crate::fs::OpenFlags::from_bits(flags);
            let (name, creator) = (name.as_bytes(), creator(request));
            match self.fs.create(inode(parent), name, mode, flags, creator) {
                Ok((attr, opened)) => reply.created(
                    &ttl(&attr),
                    &file_attr(&attr),
                    generation(&attr),
                    FileHandle(opened.0),
                    fopen_flags(flags.access, false),
                ),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer("read", || match self.fs.read(handle(fh), offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.answer("write", || {
            let privileges = match write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                true => Privileges::Drop,
                false => Privileges::Keep,
            };
            match self.fs.write(handle(fh), offset, data, privileges) {
                Ok(()) => reply.written(u32::try_from(data.len()).expect("one request")),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.answer("flush", || give_nothing(reply, self.fs.flush(handle(fh))));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.answer("release", || give_nothing(reply, self.fs.release(handle(fh))));
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.answer("fsync", || give_nothing(reply, self.fs.fsync(handle(fh), sync(datasync))));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.answer("opendir", || give_stream(reply, &self.fs, self.fs.opendir(inode(ino))));
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.answer("readdir", || {
            let listed = self.fs.readdir(handle(fh), offset, |entry| {
                let name = OsStr::from_bytes(entry.name);
                !reply.add(INodeNo(entry.ino.0), entry.next, convert::file_type(entry), name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.answer("readdirplus", || {
            let listed = self.fs.readdirplus(handle(fh), offset, |entry| {
                let name = OsStr::from_bytes(entry.name);
                let (attr, ttl, generation) = match &entry.attr {
                    Some(attr) => (file_attr(attr), ttl(attr), generation(attr)),
                    None => (convert::listed_only(entry), Duration::ZERO, Generation(0)),
                };
                !reply.add(attr.ino, entry.next, name, &ttl, &attr, generation)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.answer("releasedir", || give_nothing(reply, self.fs.releasedir(handle(fh))));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.answer("fsyncdir", || give_nothing(reply, self.fs.fsyncdir(handle(fh))));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.answer("statfs", || match self.fs.statfs() {
            Ok(space) => {
                let size = |bytes: u64| u32::try_from(bytes).unwrap_or(4096);
                reply.statfs(
                    space.blocks,
                    space.blocks_free,
                    space.blocks_available,
                    space.files,
                    space.files_free,
                    size(space.block_size),
                    space.name_max,
                    size(space.fragment_size),
                );
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        self.answer("setxattr", || {
            let set = |mode| self.fs.setxattr(inode(ino), name.as_bytes(), value, mode);
            let mode = convert::xattr_mode(flags).ok_or(FsError::Invalid);
            give_nothing(reply, mode.and_then(set));
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.answer("getxattr", || {
            give_value(reply, self.fs.getxattr(inode(ino), name.as_bytes()), size);
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer("listxattr", || {
            let names = self.fs.listxattr(inode(ino));
            give_value(reply, names.map(|names| visible(request, names)), size);
        });
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer("removexattr", || {
            give_nothing(reply, self.fs.removexattr(inode(ino), name.as_bytes()));
        });
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // Asked only without default_permissions, where each who may use the mount may do all.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.answer("fallocate", || {
            let privileges = privileges(request);
            let allocate = |mode| self.fs.fallocate(handle(fh), mode, offset, length, privileges);
            let mode = convert::allocate(mode).ok_or(FsError::NotSupported);
            give_nothing(reply, mode.and_then(allocate));
        });
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        if self.gathers && self.fs.may_be_written(handle(fh)) {
            // What the kernel has gathered and not sent would be told as a hole; programs that
            // copy would lose it. From now on the kernel tells all of a file as data.
            return reply.error(Errno::ENOSYS);
        }
        self.answer("lseek", || {
            let offset = u64::try_from(offset).map_err(|_| FsError::Invalid);
            let seek = convert::seek(whence).ok_or(FsError::Invalid);
            let found = offset.and_then(|offset| self.fs.lseek(handle(fh), offset, seek?));
            match found.map(i64::try_from) {
                Ok(Ok(offset)) => reply.offset(offset),
                Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.answer("copy_file_range", || {
            let (source, target) = ((handle(fh_in), offset_in), (handle(fh_out), offset_out));
            let len = len.min(COPY_LEN_MAX);
            match self.fs.copy_file_range(source, target, len, privileges(request)) {
                Ok(copied) => reply.written(u32::try_from(copied).expect("at most what was asked")),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}
