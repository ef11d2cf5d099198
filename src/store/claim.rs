//! What `STORE/lock` says: who has the volume, for people, for `status`, and for the next holder.
//!
//! One JSON object. Its first member is a counter of fixed width at a fixed offset, so that
//! renewing it writes 20 bytes over and leaves all else. Whatever else is found there is nothing
//! to fail on: it was torn, or somebody wrote it.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::format::utc::Utc;
use crate::limits::LEASE_INTERVAL_MAX;

/// Bytes of a lock file that are looked at.
const CLAIM_LEN_MAX: u64 = 64 << 10;
/// Bytes of a description that is written; mountpoints are left out of a longer one.
const WRITTEN_LEN_MAX: usize = 16 << 10;
/// Where the digits of the counter are: behind `{"beat":"`.
pub(in crate::store) const BEAT_AT: u64 = 9;

/// Who holds a lock, for people and for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// Where the volume is mounted, if it is.
    pub mountpoints: Vec<PathBuf>,
    /// Control socket, if there is one.
    pub socket: Option<PathBuf>,
    /// Start of the holder, seconds since 1970 UTC.
    pub started_unix_s: u64,
}

impl Holder {
    /// `process 12 on node-a since 2026-11-25 14:00:00 UTC`. What a forger wrote can't move the
    /// cursor of whoever reads it.
    pub fn named(&self) -> String {
        let Utc { year, month, day, second, .. } = Utc::from_unix_s(self.started_unix_s);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!(
            "process {} on {} since {year:04}-{month:02}-{day:02} \
             {hour:02}:{minute:02}:{second:02} UTC",
            self.pid,
            self.host.escape_debug()
        )
    }
}

/// Where flock(2) of one process is seen by another: on one machine since it booted, and through
/// one mount of a filesystem (bind mounts of it are the same). Two mounts of one NFS export or FUSE
/// filesystem, as those of two containers, may each have locks of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Boot {
    /// Id of the boot.
    boot: String,
    /// Device number of the store's filesystem, which no other has while a process is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<u64>,
}

impl Boot {
    /// Of a process that has this directory open.
    pub(in crate::store) fn of(root: impl AsFd) -> std::io::Result<Self> {
        Ok(Self { boot: boot_text(), device: Some(rustix::fs::fstat(root)?.st_dev) })
    }
}

/// A description with what makes it a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Claim {
    /// 20 digits: how often it was renewed. First, see [`BEAT_AT`].
    beat: String,
    /// 128 random bits: whose it is.
    pub(in crate::store) token: String,
    /// Where it was running.
    #[serde(flatten)]
    boot: Boot,
    /// Between two renewals.
    renews_ms: u64,
    #[serde(flatten)]
    pub(in crate::store) holder: Holder,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Found {
    /// Nobody claims the volume.
    Nobody,
    /// Somebody does, or did.
    Claimed(Box<Claim>),
    /// Something else is there: torn, or of a release without leases. A holder, if it says.
    Other(Option<Box<Holder>>),
}

impl Found {
    /// Reads what a lock file says.
    pub(in crate::store) fn read(file: impl Read) -> std::io::Result<(Self, Vec<u8>)> {
        let mut bytes = Vec::new();
        file.take(CLAIM_LEN_MAX).read_to_end(&mut bytes)?;
        Ok((Self::decode(&bytes), bytes))
    }

    fn decode(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Nobody;
        }
        match serde_json::from_slice::<Claim>(bytes) {
            Ok(claim) if !claim.token.is_empty() => Self::Claimed(Box::new(claim)),
            _ => Self::Other(serde_json::from_slice(bytes).ok()),
        }
    }

    pub(in crate::store) fn holder(self) -> Option<Box<Holder>> {
        match self {
            Self::Nobody => None,
            Self::Claimed(claim) => Some(Box::new(claim.holder)),
            Self::Other(holder) => holder,
        }
    }

    /// How long the holder takes to renew what it said, as far as that can be believed; `None` if
    /// it does not say.
    pub(in crate::store) fn renews(&self) -> Option<Duration> {
        let Self::Claimed(claim) = self else { return None };
        Some(Duration::from_millis(claim.renews_ms.max(1)).min(LEASE_INTERVAL_MAX))
    }

    /// Whether it was said by a process of this boot of this machine, of the filesystem that has
    /// this directory. Then flock(2) tells whether that lives.
    pub(in crate::store) fn is_from_here(&self, root: impl AsFd) -> bool {
        match self {
            Self::Claimed(claim) => {
                let here = Boot::of(root);
                here.is_ok_and(|here| !here.boot.is_empty() && claim.boot == here)
            }
            Self::Nobody | Self::Other(_) => false,
        }
    }
}

/// A token that nobody else has.
pub(in crate::store) fn new_token() -> String {
    let mut token = [0; 16];
    getrandom::fill(&mut token).expect("the system gives random bytes");
    data_encoding::HEXLOWER.encode(&token)
}

/// Id of this boot; empty where the system does not tell it, which then is nobody's.
fn boot_text() -> String {
    let read = std::fs::File::open("/proc/sys/kernel/random/boot_id").and_then(|file| {
        let mut text = String::new();
        file.take(64).read_to_string(&mut text).map(|_| text)
    });
    read.map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Id of this boot; zeros where the system does not tell it.
pub fn boot_id() -> [u8; 16] {
    let digits = boot_text().replace('-', "");
    let id = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).unwrap_or_default();
    id.try_into().unwrap_or_default()
}

/// The digits of the counter.
pub(in crate::store) fn digits(beat: u64) -> String {
    format!("{beat:020}")
}

/// The text of a lock file.
pub(in crate::store) fn encode(
    beat: u64,
    token: &str,
    boot: &Boot,
    renews: Duration,
    holder: &Holder,
) -> std::io::Result<Vec<u8>> {
    let mut claim = Claim {
        beat: digits(beat),
        token: token.to_owned(),
        boot: boot.clone(),
        renews_ms: u64::try_from(renews.as_millis()).unwrap_or(u64::MAX),
        holder: holder.clone(),
    };
    let text = serde_json::to_vec(&claim)?;
    if text.len() <= WRITTEN_LEN_MAX {
        return Ok(text);
    }
    claim.holder.mountpoints.clear();
    Ok(serde_json::to_vec(&claim)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LEASE_INTERVAL;

    fn root() -> std::fs::File {
        std::fs::File::open("/").unwrap()
    }

    fn here() -> Boot {
        Boot::of(root()).unwrap()
    }

    fn holder() -> Holder {
        let mountpoints = vec![PathBuf::from("/mnt/a \"b\"")];
        Holder { pid: 7, host: "node-a".into(), mountpoints, started_unix_s: 1, socket: None }
    }

    #[test]
    fn the_counter_is_where_renewing_writes_it() {
        let mut text = encode(41, "t", &here(), LEASE_INTERVAL, &holder()).unwrap();
        let at = usize::try_from(BEAT_AT).unwrap();
        text[at..at + 20].copy_from_slice(digits(u64::MAX).as_bytes());
        assert_eq!(text, encode(u64::MAX, "t", &here(), LEASE_INTERVAL, &holder()).unwrap());
        let Found::Claimed(claim) = Found::decode(&text) else { panic!("it is a claim") };
        assert_eq!((&claim.holder, &claim.token[..]), (&holder(), "t"));
    }

    #[test]
    fn only_a_claim_of_this_boot_and_this_filesystem_is_from_here() {
        let said = |boot: &Boot| {
            let text = encode(1, "t", boot, LEASE_INTERVAL, &holder()).unwrap();
            Found::decode(&text).is_from_here(root())
        };
        assert!(said(&here()));
        let proc = std::fs::File::open("/proc").unwrap();
        assert!(!said(&Boot::of(proc).unwrap()), "its locks may be others");
        assert!(!said(&Boot { device: None, ..here() }), "an older release did not tell");
        assert!(!said(&Boot { boot: "another".into(), ..here() }));
        assert!(!Found::decode(b"junk").is_from_here(root()));
    }

    #[test]
    fn what_was_torn_or_written_by_others_is_no_panic() {
        let text = encode(1, "t", &here(), LEASE_INTERVAL, &holder()).unwrap();
        for len in 1..text.len() {
            assert_eq!(Found::decode(&text[..len]), Found::Other(None), "{len}");
        }
        for at in 0..text.len() {
            let mut edited = text.clone();
            edited[at] ^= 0x80;
            drop(Found::decode(&edited));
        }
        assert_eq!(Found::decode(b""), Found::Nobody);
        assert_eq!(Found::decode(b"\0\0"), Found::Other(None));
        let old = serde_json::to_vec(&holder()).unwrap();
        assert_eq!(Found::decode(&old), Found::Other(Some(Box::new(holder()))));
        let (found, bytes) = Found::read(std::io::repeat(b'x')).unwrap();
        assert_eq!((found, bytes.len() as u64), (Found::Other(None), CLAIM_LEN_MAX));
    }

    #[test]
    fn nobody_is_waited_for_as_long_as_a_forger_likes() {
        let text = encode(1, "t", &here(), Duration::MAX, &holder()).unwrap();
        assert_eq!(Found::decode(&text).renews(), Some(LEASE_INTERVAL_MAX));
        assert_eq!(Found::decode(b"junk").renews(), None);
    }

    #[test]
    fn a_description_is_short_however_many_mountpoints_there_are() {
        let mountpoints = vec![PathBuf::from("/x".repeat(2000)); 100];
        let long = Holder { mountpoints, ..holder() };
        let text = encode(1, "t", &here(), LEASE_INTERVAL, &long).unwrap();
        assert!(text.len() < WRITTEN_LEN_MAX);
        let Found::Claimed(claim) = Found::decode(&text) else { panic!("it is a claim") };
        assert_eq!(claim.holder.pid, 7);
    }

    #[test]
    fn a_holder_is_named_with_its_start() {
        let forged = Holder { host: "a\u{1b}[2J".into(), ..holder() };
        let named = forged.named();
        assert_eq!(named, "process 7 on a\\u{1b}[2J since 1970-01-01 00:00:01 UTC");
    }
}
