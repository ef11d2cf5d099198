//! System calls in a few letters: paths are those below the directory of the scene.

#![allow(unsafe_code, reason = "what has no safe form: mappings, fcntl and ioctl by number")]

use std::ffi::{CString, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::thread;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, Stat, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::UnshareFlags;

pub const RD: OFlags = OFlags::RDONLY;
pub const WR: OFlags = OFlags::WRONLY;
pub const RDWR: OFlags = OFlags::RDWR;
pub const CREATE: OFlags = OFlags::CREATE;
pub const TRUNC: OFlags = OFlags::TRUNC;
pub const EXCL: OFlags = OFlags::EXCL;
pub const APPEND: OFlags = OFlags::APPEND;
pub const PATH: OFlags = OFlags::PATH;
pub const DIR: OFlags = OFlags::DIRECTORY;

/// Two ordinary users; the number of the group of each is that of the user.
pub const ANN: u32 = 1001;
pub const BOB: u32 = 1002;

/// Working directory and umask of this thread are from now on not those of the others.
pub fn own_directory_and_umask() {
    // SAFETY: no descriptor is concerned.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.unwrap();
}

/// Descriptors of this thread are from now on not those of the others: a child that another test
/// forks holds none of them open for a moment longer.
pub fn own_descriptors() {
    let flags = i32::try_from(libc::CLOSE_RANGE_UNSHARE).unwrap();
    // SAFETY: the others keep what they have open; this thread's scene has opened nothing so far.
    let done = unsafe { libc::close_range(3, u32::MAX, flags) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Does something as this user, with a group of the same number and these further ones. System
/// calls change the credentials of one thread, so it is a thread that does it.
pub fn as_user<T: Send>(uid: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    let become_user = || {
        let groups: Vec<_> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups).unwrap();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(become_user).join().unwrap())
}

pub fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

pub fn umask(bits: u32) -> u32 {
    rustix::process::umask(mode(bits)).as_raw_mode()
}

pub fn open(path: &str, flags: OFlags) -> Result<OwnedFd> {
    open_mode(path, flags, 0o666)
}

pub fn open_mode(path: &str, flags: OFlags, bits: u32) -> Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, mode(bits))
}

pub fn open_at(dir: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat(dir, path, flags | OFlags::CLOEXEC, mode(0o666))
}

/// A way to a descriptor that lookups follow.
pub fn link_of(fd: &OwnedFd) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

/// For what may as well fail.
pub fn whatever(_: Result<()>) {}

/// A file with this content.
pub fn make(path: &str, content: &str) -> Result<()> {
    put(&open(path, WR | CREATE | TRUNC)?, 0, content).map(drop)
}

pub fn put(fd: &OwnedFd, offset: u64, content: &str) -> Result<usize> {
    rustix::io::pwrite(fd, content.as_bytes(), offset)
}

pub fn write(fd: &OwnedFd, content: &str) -> Result<usize> {
    rustix::io::write(fd, content.as_bytes())
}

/// Bytes of a file, from the start.
pub fn bytes_of(fd: &OwnedFd) -> Result<Vec<u8>> {
    let mut found = vec![];
    loop {
        let mut part = vec![0; 1 << 16];
        let len = rustix::io::pread(fd, &mut part[..], found.len() as u64)?;
        if len == 0 {
            return Ok(found);
        }
        found.extend(&part[..len]);
    }
}

/// `len` bytes from there, or fewer at the end.
pub fn text_at(fd: &OwnedFd, offset: u64, len: usize) -> Result<String> {
    let mut part = vec![0; len];
    let len = rustix::io::pread(fd, &mut part[..], offset)?;
    Ok(printable(&part[..len]))
}

/// As text; what is not printable is escaped.
pub fn printable(bytes: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => byte.escape_ascii().to_string(),
    };
    bytes.iter().map(shown).collect()
}

/// Its content as text; what is not printable is escaped.
pub fn text_of(fd: &OwnedFd) -> Result<String> {
    Ok(printable(&bytes_of(fd)?))
}

pub fn cat(path: &str) -> Result<String> {
    text_of(&open(path, RD)?)
}

pub fn mkdir(path: &str, bits: u32) -> Result<()> {
    rustix::fs::mkdir(path, mode(bits))
}

pub fn chmod(path: &str, bits: u32) -> Result<()> {
    rustix::fs::chmod(path, mode(bits))
}

pub fn owner(id: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))
}

/// Gives to a user and the group of the same number.
pub fn chown(path: &str, id: u32) -> Result<()> {
    chown_both(path, Some(id), Some(id))
}

pub fn chown_both(path: &str, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

pub fn readlink(path: &str) -> Result<String> {
    Ok(rustix::fs::readlink(path, vec![])?.to_string_lossy().into_owned())
}

pub fn rename_how(from: &str, to: &str, flags: RenameFlags) -> Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags)
}

pub fn mknod(path: &str, kind: FileType, bits: u32, device: u64) -> Result<()> {
    rustix::fs::mknodat(CWD, path, kind, mode(bits), device)
}

pub fn kind(stat: &Stat) -> &'static str {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "char",
        FileType::BlockDevice => "block",
        _ => "unknown",
    }
}

/// Kind, mode, owner, links and size; that of a directory is the disk's own affair.
pub fn shown(stat: &Stat) -> String {
    let (bits, links) = (stat.st_mode & 0o7777, stat.st_nlink);
    let size = if kind(stat) == "dir" { 0 } else { stat.st_size };
    format!("{} {bits:04o} {}:{} n{links} s{size}", kind(stat), stat.st_uid, stat.st_gid)
}

pub fn look(path: &str) -> Result<String> {
    Ok(shown(&rustix::fs::lstat(path)?))
}

pub fn look_fd(fd: &OwnedFd) -> Result<String> {
    Ok(shown(&rustix::fs::fstat(fd)?))
}

/// The permission bits alone.
pub fn bits(path: &str) -> Result<String> {
    Ok(format!("{:04o}", rustix::fs::lstat(path)?.st_mode & 0o7777))
}

pub fn size(path: &str) -> Result<i64> {
    Ok(rustix::fs::lstat(path)?.st_size)
}

/// Whether two names stand for one inode.
pub fn same(one: &str, other: &str) -> Result<bool> {
    let (one, other) = (rustix::fs::lstat(one)?, rustix::fs::lstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Names in a directory as the system lists them, with what each is said to be.
pub fn entries(fd: impl AsFd) -> Result<Vec<(String, FileType, u64)>> {
    rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0))?;
    let mut room = Vec::with_capacity(8192);
    let mut dir = RawDir::new(fd, room.spare_capacity_mut());
    let mut found = vec![];
    while let Some(entry) = dir.next() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        found.push((name, entry.file_type(), entry.ino()));
    }
    Ok(found)
}

/// The names, sorted.
pub fn ls(path: &str) -> Result<Vec<String>> {
    let mut names: Vec<_> = entries(open(path, RD | DIR)?)?.into_iter().map(|e| e.0).collect();
    names.sort();
    Ok(names)
}

pub fn setx(path: &str, name: &str, value: &[u8]) -> Result<()> {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
}

pub fn getx(path: &str, name: &str) -> Result<String> {
    let mut value = vec![0; 65536];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
    Ok(printable(&value[..len]))
}

/// Names of all extended attributes, sorted.
pub fn listx(path: &str) -> Result<Vec<String>> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names[..])?;
    Ok(names_in(&names[..len]))
}

pub fn names_in(list: &[u8]) -> Vec<String> {
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(printable).collect();
    names.sort();
    names
}

/// A point in time that no clock shows.
pub fn at(s: i64, ns: i64) -> Timespec {
    Timespec { tv_sec: s, tv_nsec: ns }
}

pub fn utimes(path: &str, atime: Timespec, mtime: Timespec) -> Result<()> {
    let times = Timestamps { last_access: atime, last_modification: mtime };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn result(code: i32) -> Result<i32> {
    let error = std::io::Error::last_os_error();
    if code < 0 { Err(Errno::from_io_error(&error).unwrap()) } else { Ok(code) }
}

fn done(code: i32) -> Result<()> {
    result(code).map(drop)
}

pub fn fcntl(fd: &OwnedFd, command: i32, argument: i32) -> Result<i32> {
    // SAFETY: the commands of the scenes take a number.
    result(unsafe { libc::fcntl(fd.as_raw_fd(), command, argument) })
}

/// An ioctl whose argument is a buffer of at most 4096 bytes; how many of them are set is its own.
pub fn ioctl(fd: &OwnedFd, request: u64, argument: &mut [u64; 512]) -> Result<i32> {
    // SAFETY: no request of the scenes writes more than that.
    result(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument.as_mut_ptr()) })
}

pub fn sync_range(fd: &OwnedFd) -> Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: numbers only.
    done(unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, flags) })
}

pub fn truncate(path: &str, len: i64) -> Result<()> {
    let path = CString::new(path).unwrap();
    // SAFETY: the path ends with a zero byte.
    done(unsafe { libc::truncate(path.as_ptr(), len) })
}

/// A mapping of the start of a file.
pub struct Map {
    start: *mut c_void,
    len: usize,
}

impl Map {
    pub fn new(
        fd: BorrowedFd<'_>,
        len: usize,
        protection: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self> {
        // SAFETY: the kernel chooses an address that nothing else uses.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), len, protection, flags, fd, 0) }?;
        Ok(Self { start, len })
    }

    /// Shared, to read and to write.
    pub fn shared(fd: &OwnedFd, len: usize) -> Result<Self> {
        Self::new(fd.as_fd(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    pub fn text(&self, from: usize, len: usize) -> String {
        assert!(from + len <= self.len);
        let byte = |index| {
            // SAFETY: inside the mapping.
            let place = unsafe { self.start.cast::<u8>().add(index) };
            // SAFETY: volatile, as others change the file meanwhile.
            unsafe { place.read_volatile() }
        };
        printable(&(from..from + len).map(byte).collect::<Vec<_>>())
    }

    pub fn set(&self, from: usize, text: &str) {
        assert!(from + text.len() <= self.len);
        for (index, byte) in (from..).zip(text.bytes()) {
            // SAFETY: inside the mapping.
            let place = unsafe { self.start.cast::<u8>().add(index) };
            // SAFETY: the scenes map to write.
            unsafe { place.write_volatile(byte) };
        }
    }

    /// Reads from the start of a file into the mapping.
    pub fn read_from(&self, fd: &OwnedFd, len: usize) -> Result<i32> {
        assert!(len <= self.len);
        // SAFETY: inside the mapping.
        let done = unsafe { libc::pread(fd.as_raw_fd(), self.start, len, 0) };
        result(done.try_into().expect("at most its length"))
    }

    /// Writes the mapping to the start of a file.
    pub fn write_to(&self, fd: &OwnedFd, len: usize) -> Result<i32> {
        assert!(len <= self.len);
        // SAFETY: inside the mapping.
        let done = unsafe { libc::pwrite(fd.as_raw_fd(), self.start, len, 0) };
        result(done.try_into().expect("at most its length"))
    }

    pub fn sync(&self, flags: i32) -> Result<()> {
        // SAFETY: exactly the mapping.
        done(unsafe { libc::msync(self.start, self.len, flags) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping, which nobody uses any more.
        unsafe { rustix::mm::munmap(self.start, self.len) }.unwrap();
    }
}
