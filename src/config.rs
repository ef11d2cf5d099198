//! Settings that come from flags and the environment: sizes, and where logs and sockets lie.
//!
//! | what         | first of                                                                 |
//! |--------------|--------------------------------------------------------------------------|
//! | runtime dir  | `$XDG_RUNTIME_DIR/cmkfs`, `/run/cmkfs` for root, `<state dir>/run`        |
//! | state dir    | `$XDG_STATE_HOME/cmkfs`, `/var/log/cmkfs` for root, `~/.local/state/cmkfs` |

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// A number of bytes as typed: digits, then nothing, `K`, `M`, `G` or `T` (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} is no size: wanted digits and then K, M, G or T");
        let digits = text.trim_end_matches(|end: char| !end.is_ascii_digit());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KIB" => 10,
            "M" | "MIB" => 20,
            "G" | "GIB" => 30,
            "T" | "TIB" => 40,
            _ => return Err(wanted()),
        };
        let count: u64 = digits.parse().map_err(|_| wanted())?;
        count.checked_mul(1 << shift).map(Self).ok_or_else(wanted)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shift = [40, 30, 20, 10]
            .into_iter()
            .find(|shift| self.0 > 0 && self.0.is_multiple_of(1 << shift))
            .unwrap_or_default();
        let unit = ["", "K", "M", "G", "T"][shift / 10];
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// A time as typed: digits, then `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} is no time: wanted digits and then s, m or h");
        let digits = text.trim_end_matches(|end: char| !end.is_ascii_digit());
        let seconds = match &text[digits.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wanted()),
        };
        let count: u64 = digits.parse().map_err(|_| wanted())?;
        let count = count.checked_mul(seconds).ok_or_else(wanted)?;
        Ok(Self(Duration::from_secs(count)))
    }
}

/// The variable, unless it is unset, empty or a relative path.
fn absolute(name: &str) -> Option<PathBuf> {
    let value: OsString = std::env::var_os(name)?;
    Some(PathBuf::from(value)).filter(|path| path.is_absolute())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where logs of daemons go.
pub fn state_dir() -> PathBuf {
    let home = || absolute("HOME").unwrap_or_else(|| PathBuf::from("/nonexistent"));
    match absolute("XDG_STATE_HOME") {
        Some(state) => state.join("cmkfs"),
        None if is_root() => PathBuf::from("/var/log/cmkfs"),
        None => home().join(".local/state/cmkfs"),
    }
}

/// Where calls to AWS are recorded, a file a volume; made by who records the first.
pub fn calls_dir() -> PathBuf {
    state_dir().join("calls")
}

/// Where control sockets are; made if missing, with mode 0700.
///
/// # Errors
/// The system's; also when the directory belongs to someone else, who could answer in our place.
pub fn runtime_dir() -> io::Result<PathBuf> {
    let path = match absolute("XDG_RUNTIME_DIR") {
        Some(runtime) => runtime.join("cmkfs"),
        None if is_root() => PathBuf::from("/run/cmkfs"),
        None => state_dir().join("run"),
    };
    private_dir(&path)?;
    Ok(path)
}

/// The log of daemons of this store, which need not be there yet. Its directory is made.
///
/// # Errors
/// The system's, when the directory can't be made.
pub fn default_log(store: &Path) -> io::Result<PathBuf> {
    let dir = state_dir();
    private_dir(&dir)?;
    let name = store.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
    let hash = Sha256::digest(store.as_os_str().as_bytes());
    let hash = data_encoding::HEXLOWER.encode(&hash[..4]);
    Ok(dir.join(format!("{name}-{hash}.log")))
}

fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        let text = format!("{}: wanted a directory of this user", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if found.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("60s", 60), ("15m", 900), ("2h", 7200), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))), "{text}");
        }
        for text in
            ["", "s", "5", "1d", "-1s", "1.5h", "9999999999999999999h", "99999999999999999h"]
        {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [("0", 0), ("17", 17), ("64M", 64 << 20), ("16k", 16384)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "1X", "99999999T", "M1"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for (bytes, text) in [(0, "0"), (1000, "1000"), (16384, "16K"), (3 << 30, "3G")] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
