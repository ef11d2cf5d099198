//! The local key file: made at first use, durable before it is used, never overwritten.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::cipher::Secret;
use crate::keys::error::KeyError;
use crate::keys::file;

/// Below the user's data directory.
const DEFAULT: &str = "cmkfs/local.key";

/// The named file, or the default one: `$XDG_DATA_HOME/cmkfs/local.key`, without that variable
/// `~/.local/share/cmkfs/local.key`.
pub(super) fn path(named: Option<&Path>) -> Result<PathBuf, KeyError> {
    match named {
        Some(path) => file::absolute(path),
        None => {
            default_path(env::var_os("XDG_DATA_HOME"), env::var_os("HOME")).ok_or(KeyError::NoHome)
        }
    }
}

/// Relative values are ignored, as the XDG base directory specification demands.
fn default_path(data_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let full = |value: Option<OsString>| value.map(PathBuf::from).filter(|p| p.is_absolute());
    let data = full(data_home).or_else(|| full(home).map(|home| home.join(".local/share")))?;
    Some(data.join(DEFAULT))
}

/// The key in the file, which is made if nothing is there.
pub(super) fn read_or_make(path: &Path) -> Result<Secret, KeyError> {
    let missing = fs::symlink_metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound);
    if missing {
        make(path).map_err(|error| {
            let remedy = "wanted to make it: name a place that this user can write, local:FILE";
            file::refused(path, &error.to_string(), remedy)
        })?;
        tracing::info!(path = %path.display(), "made a local key; volumes need it, keep a copy");
    }
    file::read(path)
}

/// Makes the file with a new random key. If another process makes it at the same time, one of the
/// two stays, and that one is durable: the other's volume key is wrapped under it too.
fn make(path: &Path) -> io::Result<()> {
    let dir = path.parent().ok_or(ErrorKind::IsADirectory)?;
    let new_dirs = make_dirs(dir)?;
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(io::Error::other)?;
    let name = data_encoding::HEXLOWER.encode(&name);
    let temporary = dir.join(format!(".cmkfs-{name}.tmp"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file
        .write_all(Secret::random().expose())
        .and_then(|()| file.sync_all())
        .and_then(|()| rename_new(&temporary, path));
    if let Err(error) = written {
        fs::remove_file(&temporary)?;
        if error.kind() != ErrorKind::AlreadyExists {
            return Err(error);
        }
    }
    File::open(dir)?.sync_all()?;
    new_dirs.iter().try_for_each(|dir| File::open(dir)?.sync_all())
}

/// Makes `dir` and what is missing above it, for this user only. Returns the directories whose
/// entries changed: a lost entry would be a lost key.
fn make_dirs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let missing = dir.ancestors().take_while(|dir| !dir.exists());
    let changed = missing.filter_map(|dir| dir.parent().map(Path::to_owned)).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    Ok(changed)
}

/// Fails if `target` is there. Some filesystems know no `RENAME_NOREPLACE`; a link is as exclusive.
fn rename_new(source: &Path, target: &Path) -> io::Result<()> {
    match renameat_with(CWD, source, CWD, target, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(source, target)?;
            fs::remove_file(source)
        }
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_default_is_in_the_users_data_directory() {
        let path = |data: &str, home: &str| {
            let set = |value: &str| (value != "-").then(|| value.into());
            default_path(set(data), set(home)).map(|path| path.to_str().unwrap().to_owned())
        };
        assert_eq!(path("/data", "/home/a").as_deref(), Some("/data/cmkfs/local.key"));
        let home = Some("/home/a/.local/share/cmkfs/local.key");
        for data in ["-", "", "relative"] {
            assert_eq!(path(data, "/home/a").as_deref(), home);
        }
        assert_eq!(path("-", "-"), None);
        assert_eq!(path("-", ""), None);
    }

    #[test]
    fn the_first_use_makes_a_private_key_and_later_ones_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/local.key");
        let first = read_or_make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(dir.path().join("a/b")).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read(&path).unwrap(), first.expose());
        assert_eq!(read_or_make(&path).unwrap().expose(), first.expose());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no leftovers");
    }

    #[test]
    fn a_file_that_is_there_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local.key");
        fs::write(&path, b"short").unwrap();
        assert_eq!(read_or_make(&path).unwrap_err().exit_code(), 20);
        make(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftovers");

        let dangling = dir.path().join("dangling");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &dangling).unwrap();
        assert_eq!(read_or_make(&dangling).unwrap_err().exit_code(), 20);
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn many_first_uses_at_once_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/local.key");
        let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let all: Vec<_> =
                (0..8).map(|_| scope.spawn(|| *read_or_make(&path).unwrap().expose())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no leftovers");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        for (path, wanted) in [("/proc/none/local.key", "local:FILE"), ("/etc/passwd/key", "Not a")]
        {
            let error = read_or_make(Path::new(path)).unwrap_err();
            assert_eq!(error.exit_code(), 20);
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}
