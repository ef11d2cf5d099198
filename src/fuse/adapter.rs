//! One short method for each kernel request: takes it apart, asks [`Fs`], replies.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::fs::{Change, FsError, NodeKind, Privileges, SetAttr};
use crate::fuse::answer::Adapter;
use crate::fuse::convert::{self, errno, file_attr, generation, inode, ttl};
use crate::fuse::latency::Operation as Op;
use crate::fuse::request::{
    creator, fopen_flags, give_attr, give_entry, give_nothing, give_opened, give_stream,
    give_value, give_written, guarded, handle, name_ttl, privileges, settle, sync, visible,
};
use crate::fuse::umask;

/// Bytes that one copy_file_range(2) copies; it may be fewer than asked, and a caller that is
/// killed waits for no more than this.
const COPY_LEN_MAX: u64 = 128 << 20;
/// Permission bits of a mode, without the kind.
const MODE_BITS: u32 = 0o7777;

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let alone = self.door.enter().is_ok_and(|fs| fs.changes_here_only());
        settle(config, self.checks, self.gathers, alone);
        Ok(())
    }

    fn destroy(&mut self) {
        guarded("destroy", || {
            if let Err(error) = self.door.finish() {
                tracing::debug!(%error, "the volume was unmounted");
            }
        });
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.answer(Op::Lookup.of(parent), reply, |fs, reply| {
            match fs.lookup(inode(parent), name.as_bytes()) {
                Err(error) if error.is_not_found() => {
                    reply.entry(&name_ttl(fs), &convert::absent(), Generation(0));
                }
                found => give_entry(reply, found, name_ttl(fs)),
            }
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.unanswered("forget", |door| door.forget(inode(ino), nlookup));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(Op::Getattr.of(ino), reply, |fs, reply| {
            give_attr(reply, fs.getattr(inode(ino)))
        });
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
        self.answer(Op::Setattr.of(ino), reply, |fs, reply| {
            give_attr(reply, fs.setattr(inode(ino), &change))
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(Op::Readlink.of(ino), reply, |fs, reply| match fs.readlink(inode(ino)) {
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
        self.answer(Op::Mknod.of(parent), reply, |fs, reply| {
            let make = |kind: NodeKind| {
                let mode = umask::applied(mode & MODE_BITS, umask);
                fs.mknod(inode(parent), name.as_bytes(), kind, mode, creator(request))
            };
            let kind = convert::node_kind(mode, rdev).ok_or(FsError::Invalid);
            give_entry(reply, kind.and_then(make), name_ttl(fs));
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
        self.answer(Op::Mkdir.of(parent), reply, |fs, reply| {
            let mode = umask::applied(mode & MODE_BITS, umask);
            let made = fs.mkdir(inode(parent), name.as_bytes(), mode, creator(request));
            give_entry(reply, made, name_ttl(fs));
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(Op::Unlink.of(parent), reply, |fs, reply| {
            give_nothing(reply, fs.unlink(inode(parent), name.as_bytes()))
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(Op::Rmdir.of(parent), reply, |fs, reply| {
            give_nothing(reply, fs.rmdir(inode(parent), name.as_bytes()))
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, target) = (link_name.as_bytes(), target.as_os_str().as_bytes());
        self.answer_to(Op::Symlink.of(parent), target, reply, |fs, reply, _| {
            let made = fs.symlink(inode(parent), name, target, creator(request));
            give_entry(reply, made, name_ttl(fs));
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
        self.answer(Op::Rename.of(parent), reply, |fs, reply| {
            let mode = convert::rename_mode(flags).ok_or(FsError::Invalid);
            let (from, to) = (inode(parent), inode(newparent));
            let (name, newname) = (name.as_bytes(), newname.as_bytes());
            let rename = |mode| fs.rename(from, name, to, newname, mode);
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
        self.answer(Op::Link.of(ino), reply, |fs, reply| {
            let made = fs.link(inode(ino), inode(newparent), newname.as_bytes());
            give_entry(reply, made, name_ttl(fs));
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.answer(Op::Open.of(ino), reply, |fs, reply| {
            let flags = crate::fs::OpenFlags::from_bits(flags.0);
            let opened = fs.open(inode(ino), flags);
            let spoiled = fs.take_spoiled(inode(ino));
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
        self.answer(Op::Create.of(parent), reply, |fs, reply| {
            let mode = umask::applied(mode & MODE_BITS, umask);
            let flags = crate::fs::OpenFlags::from_bits(flags);
            let (name, creator) = (name.as_bytes(), creator(request));
            match fs.create(inode(parent), name, mode, flags, creator) {
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
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer(Op::Read.of(ino), reply, |fs, reply| {
            match fs.read(handle(fh), offset, size as usize) {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.answer_to(Op::Write.of(ino), data, reply, |fs, reply, answered| {
            let privileges = match write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                true => Privileges::Drop,
                false => Privileges::Keep,
            };
            give_written(reply, data.len(), answered, |accepted| {
                fs.write_behind(handle(fh), offset, data, privileges, accepted)
            });
        });
    }

    fn flush(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.answer(Op::Flush.of(ino), reply, |fs, reply| {
            give_nothing(reply, fs.flush(handle(fh)))
        });
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.at_door(Op::Release.of(ino), |door| give_nothing(reply, door.release(handle(fh))));
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.answer(Op::Fsync.of(ino), reply, |fs, reply| {
            give_nothing(reply, fs.fsync(handle(fh), sync(datasync)))
        });
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.answer(Op::Opendir.of(ino), reply, |fs, reply| {
            give_stream(reply, fs, fs.opendir(inode(ino)))
        });
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.answer(Op::Readdir.of(ino), reply, |fs, mut reply| {
            let listed = fs.readdir(handle(fh), offset, |entry| {
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
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.answer(Op::Readdirplus.of(ino), reply, |fs, mut reply| {
            let listed = fs.readdirplus(handle(fh), offset, |entry| {
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

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.at_door(Op::Releasedir.of(ino), |door| give_nothing(reply, door.release(handle(fh))));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.answer(Op::Fsyncdir.of(ino), reply, |fs, reply| {
            give_nothing(reply, fs.fsyncdir(handle(fh)))
        });
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.answer(Op::Statfs.of(ino), reply, |fs, reply| match fs.statfs() {
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
        self.answer_to(Op::Setxattr.of(ino), value, reply, |fs, reply, _| {
            let set = |mode| fs.setxattr(inode(ino), name.as_bytes(), value, mode);
            let mode = convert::xattr_mode(flags).ok_or(FsError::Invalid);
            give_nothing(reply, mode.and_then(set));
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.answer(Op::Getxattr.of(ino), reply, |fs, reply| {
            give_value(reply, fs.getxattr(inode(ino), name.as_bytes()), size);
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(Op::Listxattr.of(ino), reply, |fs, reply| {
            let names = fs.listxattr(inode(ino));
            give_value(reply, names.map(|names| visible(request, names)), size);
        });
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(Op::Removexattr.of(ino), reply, |fs, reply| {
            give_nothing(reply, fs.removexattr(inode(ino), name.as_bytes()));
        });
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // Asked only without default_permissions, where each who may use the mount may do all.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.answer(Op::Fallocate.of(ino), reply, |fs, reply| {
            let privileges = privileges(request);
            let allocate = |mode| fs.fallocate(handle(fh), mode, offset, length, privileges);
            let mode = convert::allocate(mode).ok_or(FsError::NotSupported);
            give_nothing(reply, mode.and_then(allocate));
        });
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.answer(Op::Lseek.of(ino), reply, |fs, reply| {
            if self.gathers && fs.may_be_written(handle(fh)) {
                // What the kernel has gathered and not sent would be told as a hole; programs that
                // copy would lose it. From now on the kernel tells all of a file as data.
                return reply.error(Errno::ENOSYS);
            }
            let offset = u64::try_from(offset).map_err(|_| FsError::Invalid);
            let seek = convert::seek(whence).ok_or(FsError::Invalid);
            let found = offset.and_then(|offset| fs.lseek(handle(fh), offset, seek?));
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
        ino: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.answer(Op::CopyFileRange.of(ino), reply, |fs, reply| {
            let (source, target) = ((handle(fh_in), offset_in), (handle(fh_out), offset_out));
            let len = len.min(COPY_LEN_MAX);
            match fs.copy_file_range(source, target, len, privileges(request)) {
                Ok(copied) => reply.written(u32::try_from(copied).expect("at most what was asked")),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}
