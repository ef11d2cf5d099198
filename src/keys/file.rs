//! Reads a key file: exactly 32 bytes, in a regular file or a pipe, that nobody else may touch; or
//! such a key by a descriptor.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use crate::cipher::Secret;
use crate::keys::error::KeyError;
use crate::sys::take_inherited;

/// Bytes of a key file.
pub(super) const KEY_LEN: usize = 32;
/// Bits of the mode that let others in.
const OTHERS: u32 = 0o077;
/// How to make one.
const MAKE: &str = "wanted 32 random bytes: (umask 077; head -c 32 /dev/urandom > FILE)";

/// The key in the file.
///
/// # Errors
/// [`KeyError::KeyFile`]: not there, not a regular file or a pipe, open to group or others, a file
/// or link of another user's, not 32 bytes, all zeros.
pub(super) fn read(path: &Path) -> Result<Secret, KeyError> {
    let refuse = |found: &str, remedy: &str| Err(refused(path, found, remedy));
    let failed = |error: io::Error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "name the file where the key is now, by --key file:FILE",
            _ => "wanted a file that this user can read",
        };
        refused(path, &error.to_string(), remedy)
    };
    // Before opening: opening a device or a terminal could already do something.
    check_kind(path, &fs::metadata(path).map_err(failed)?)?;
    let link = fs::symlink_metadata(path).map_err(failed)?;
    if link.is_symlink() && !is_ours(link.uid()) {
        let found = format!("a symbolic link of user {}", link.uid());
        return refuse(&found, "wanted a link of this user or root: name the file itself");
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let mut file = File::from(opened);
    let metadata = file.metadata().map_err(failed)?;
    check_kind(path, &metadata)?;
    check_mode(path, &metadata)?;
    if !is_ours(metadata.uid()) {
        let found = format!("a file of user {}", metadata.uid());
        return refuse(&found, "wanted a file of this user or root: a store may name any file");
    }
    key_in(path, &mut file).map_err(failed)?
}

/// The key that comes by a descriptor of whoever started this process. It is closed then, so that
/// no child has it.
///
/// # Errors
/// [`KeyError::KeyFile`]: none such, or it was read; a directory or device, a file that is open to
/// group or others, not 32 bytes, all zeros.
pub(super) fn read_descriptor(number: i32) -> Result<Secret, KeyError> {
    if let Some(kept) = KEPT.with_borrow(|kept| kept.as_ref()?.get(&number).map(copy)) {
        return Ok(kept);
    }
    let read = take_descriptor(number)?;
    KEPT.with_borrow_mut(|kept| kept.as_mut().map(|kept| kept.insert(number, copy(&read))));
    Ok(read)
}

thread_local! {
    /// Keys that came by descriptors, while somebody [keeps](keep_descriptors) them.
    static KEPT: RefCell<Option<BTreeMap<i32, Secret>>> = const { RefCell::new(None) };
}

/// While this is there, a key that came by a descriptor is there for the same thread again.
#[derive(Debug)]
pub struct KeptDescriptors(());

/// For a command that needs its key more than once; nothing that lives on may keep one.
pub fn keep_descriptors() -> KeptDescriptors {
    KEPT.set(Some(BTreeMap::new()));
    KeptDescriptors(())
}

impl Drop for KeptDescriptors {
    fn drop(&mut self) {
        KEPT.set(None);
    }
}

fn copy(key: &Secret) -> Secret {
    let mut bytes = Zeroizing::new(*key.expose());
    Secret::take(&mut bytes[..]).expect("32 bytes")
}

fn take_descriptor(number: i32) -> Result<Secret, KeyError> {
    let shown = PathBuf::from(format!("fd:{number}"));
    let Some(fd) = take_inherited(number) else { return Err(no_descriptor(number)) };
    let mut file = File::from(fd);
    let failed = |error: io::Error| {
        refused(&shown, &error.to_string(), "wanted a descriptor that can be read")
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.file_type().is_socket() {
        check_kind(&shown, &metadata)?;
    }
    // Without a name, as of memfd_create(2), nobody else can open it.
    if metadata.nlink() > 0 && metadata.is_file() {
        check_mode(&shown, &metadata)?;
    }
    key_in(&shown, &mut file).map_err(failed)?
}

/// That a descriptor is not there.
pub(super) fn no_descriptor(number: i32) -> KeyError {
    let remedy = format!(
        "wanted one that the shell opens, as in --key fd:{number} {number}<FILE; it is read once, \
         so to unlock a volume name it again: cmkfs unlock VOLUME --key fd:{number} {number}<FILE"
    );
    let found = "this process was not started with it, or it was read already";
    refused(Path::new(&format!("fd:{number}")), found, &remedy)
}

/// Reads to the end; the outer error is the system's.
fn key_in(path: &Path, file: &mut File) -> io::Result<Result<Secret, KeyError>> {
    let refuse = |found: &str, remedy: &str| Ok(Err(refused(path, found, remedy)));
    let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
    let length = read_up_to(file, &mut bytes[..])?;
    let metadata = file.metadata()?;
    match (length, metadata.len()) {
        (KEY_LEN, _) => {}
        (33.., len @ 33..) => return refuse(&format!("{len} bytes"), MAKE),
        (33.., _) => return refuse("more than 32 bytes", MAKE),
        (found, _) => return refuse(&format!("{found} bytes"), MAKE),
    }
    if bytes[..KEY_LEN] == [0; KEY_LEN] {
        return refuse("32 zero bytes, as after a lost write", MAKE);
    }
    Ok(Ok(Secret::take(&mut bytes[..KEY_LEN]).expect("32 bytes were read")))
}

fn read_up_to(file: &mut File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), KeyError> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_fifo() {
        return Ok(());
    }
    let found = if kind.is_dir() { "a directory" } else { "neither a file nor a pipe" };
    Err(refused(path, found, "wanted a regular file or a pipe"))
}

fn check_mode(path: &Path, metadata: &Metadata) -> Result<(), KeyError> {
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let found = format!("mode {mode:04o} lets group or others in");
    Err(refused(path, &found, &format!("wanted 0600: chmod 600 {}", path.display())))
}

fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

pub(super) fn refused(path: &Path, found: &str, remedy: &str) -> KeyError {
    KeyError::KeyFile { path: path.to_owned(), found: found.to_owned(), remedy: remedy.to_owned() }
}

/// The path from the root, as a slot records it; links stay.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, KeyError> {
    std::path::absolute(path)
        .map_err(|error| refused(path, &error.to_string(), "name the file by its full path"))
}

/// The path as `volume.json` can hold it.
pub(super) fn text(path: &Path) -> Result<String, KeyError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| refused(path, "the path is not UTF-8", "wanted one that volume.json holds"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    use super::*;

    const KEY: [u8; KEY_LEN] = *b"0123456789abcdef0123456789abcdef";

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        let error = read(path).unwrap_err();
        assert_eq!(error.exit_code(), 20, "{error}");
        error.to_string()
    }

    #[test]
    fn a_private_file_of_32_bytes_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for mode in [0o600, 0o400] {
            write(&path, &KEY, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).unwrap().expose(), &KEY);
        }
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(read(&link).unwrap().expose(), &KEY);
    }

    #[test]
    fn a_pipe_is_read_and_a_longer_one_refused() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        for (bytes, fits) in [(&KEY[..], true), (&[7; 4000], false)] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(bytes).unwrap();
            drop(writer);
            let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
            assert_eq!(read(&path).is_ok(), fits);
        }
    }

    #[test]
    fn other_lengths_are_refused_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for length in [0, 1, 31, 33, 64, 5000] {
            write(&path, &vec![b'K'; length], 0o600);
            let text = refusal(&path);
            assert!(text.contains(&format!("{length} bytes;")), "{text}");
            assert!(text.contains("/dev/urandom") && !text.contains("KKKK"), "{text}");
        }
        write(&path, &[0; KEY_LEN], 0o600);
        assert!(refusal(&path).contains("zero bytes"));
    }

    #[test]
    fn any_permission_of_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for mode in [0o640, 0o604, 0o620, 0o602, 0o601, 0o610, 0o644] {
            write(&path, &KEY, mode);
            let text = refusal(&path);
            assert!(text.contains(&format!("{mode:04o}")) && text.contains("chmod 600"), "{text}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refusal(dir.path()).contains("a directory"));
        assert!(refusal(Path::new("/dev/zero")).contains("neither"));
        assert!(refusal(&dir.path().join("none")).contains("No such file"));
    }

    #[test]
    fn a_link_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("key"), dir.path().join("link"));
        write(&path, &KEY, 0o600);
        symlink(&path, &link).unwrap();
        let other = rustix::process::geteuid().as_raw() + 12345;
        if lchown(&link, Some(other), None).is_err() {
            eprintln!("not tried: giving a link away needs root");
            return;
        }
        assert!(refusal(&link).contains(&format!("link of user {other}")));
    }
}
