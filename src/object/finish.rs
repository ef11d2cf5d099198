//! Gives a restored object owner, mode, times and extended attributes.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::format::snapshot::{Kind, Meta, Time};

fn times(meta: &Meta) -> Timestamps {
    let time = |time: Time| Timespec { tv_sec: time.s, tv_nsec: time.ns.into() };
    Timestamps { last_access: time(meta.atime), last_modification: time(meta.mtime) }
}

/// Only root may give files away; what others restore belongs to them.
fn given(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        other => other,
    }
}

/// Those that only the system may set are left to it.
fn attribute_set(name: &[u8], result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM | Errno::OPNOTSUPP) if !name.starts_with(b"user.") => Ok(()),
        other => other,
    }
}

/// Owner before mode, because a change of owner clears set-id bits; times last.
pub(in crate::object) fn finish_open(target: &OwnedFd, meta: &Meta) -> Result<(), Errno> {
    for (name, value) in &meta.attributes {
        let set = rustix::fs::fsetxattr(target, name.as_slice(), value, XattrFlags::empty());
        attribute_set(name, set)?;
    }
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    given(rustix::fs::fchown(target, Some(uid), Some(gid)))?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(meta.mode))?;
    rustix::fs::futimens(target, &times(meta))
}

/// The same for what is not opened: a link, FIFO, socket or device.
pub(in crate::object) fn finish_at(
    dir: &OwnedFd,
    name: &CStr,
    kind: &Kind,
    meta: &Meta,
) -> Result<(), Errno> {
    let proc = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    for (attribute, value) in &meta.attributes {
        let (path, attribute) = (proc.as_slice(), attribute.as_slice());
        let set = rustix::fs::lsetxattr(path, attribute, value, XattrFlags::empty());
        attribute_set(attribute, set)?;
    }
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    given(rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags))?;
    if !matches!(kind, Kind::Symlink(_)) {
        let mode = Mode::from_raw_mode(meta.mode);
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(dir, name, &times(meta), flags)
}
