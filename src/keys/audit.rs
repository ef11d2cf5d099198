//! What this machine asked AWS for a volume's keys: a line of JSON a request, in one file a volume,
//! with the names that CloudTrail has. No secret is in it: keys are named by their ids, and the
//! encryption context is what CloudTrail shows too.
//!
//! A file belongs to the user who asked, has mode 0600, and is bounded: at [`KEY_CALLS_LEN_MAX`] it
//! becomes `ID.jsonl.1`, in the place of the one that was. Files of volumes that were not asked
//! about for the longest time go where there are more than [`KEY_CALLS_VOLUMES_MAX`]. A record that
//! can't be written keeps nobody from a key; the log says so. Who waits for the lock of a file for
//! longer than [`KEY_CALLS_WAIT`] writes without it: a line is one write(2) to the end.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::format::VolumeId;
use crate::keys::trial::NO_VOLUME;
use crate::limits::{KEY_CALLS_LEN_MAX, KEY_CALLS_POLL, KEY_CALLS_VOLUMES_MAX, KEY_CALLS_WAIT};

/// One request. The names of its fields are those of CloudTrail where CloudTrail has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    /// When it was sent, UTC, by this machine's clock: `2026-11-30T18:02:11Z`.
    pub event_time: String,
    /// `kms.amazonaws.com`, `sts.amazonaws.com` or `secretsmanager.amazonaws.com`.
    pub event_source: String,
    /// `Decrypt`.
    pub event_name: String,
    /// The region whose service was asked; of STS that of the key.
    pub aws_region: Option<String>,
    /// As the answer names the request; null without an answer.
    #[serde(rename = "requestID")]
    pub request_id: Option<String>,
    /// The key or secret, as it was named; null for STS.
    pub key_id: Option<String>,
    /// Of `ReEncrypt`, the key that wrapped before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_key_id: Option<String>,
    /// What was sent along; empty but for KMS.
    pub encryption_context: BTreeMap<String, String>,
    /// Where it went.
    pub endpoint: String,
    /// `ok`, the code of the answer, `no answer`, or `refused` for an answer that was tried again.
    pub outcome: String,
    /// HTTP status; null without an answer.
    pub http_status: Option<u16>,
    /// Milliseconds until the answer; null without one.
    pub elapsed_ms: Option<u64>,
    /// The process that asked.
    pub pid: u32,
}

/// What is recorded of a volume.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// In the order in which they were written.
    pub calls: Vec<CallRecord>,
    /// Lines that no release wrote, or that a crash cut off.
    pub unreadable: usize,
}

static DIR: OnceLock<PathBuf> = OnceLock::new();

/// Records all calls of this process in files of this directory, which is made at the first.
/// Without this nothing is recorded. A second call has no effect.
pub fn keep_calls_in(dir: PathBuf) {
    DIR.get_or_init(|| dir);
}

/// The file for a volume's calls, where [`keep_calls_in`] says; there or not.
pub fn kept_calls(volume: VolumeId) -> Option<PathBuf> {
    DIR.get().map(|dir| file_of(dir, volume))
}

fn file_of(dir: &Path, volume: VolumeId) -> PathBuf {
    dir.join(format!("{volume}.jsonl"))
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

/// Records a call, unless it is of no volume, as a trial is.
pub(super) fn record(call: &CallRecord, volume: VolumeId) {
    let Some(dir) = DIR.get() else { return };
    if volume == NO_VOLUME {
        return;
    }
    if let Err(error) = append(dir, volume, call) {
        tracing::warn!("{}: this call to AWS is not recorded there: {error}", dir.display());
    }
}

fn append(dir: &Path, volume: VolumeId, call: &CallRecord) -> io::Result<()> {
    let path = file_of(dir, volume);
    if !path.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        forget_oldest(dir)?;
    }
    let mut line = serde_json::to_vec(call)?;
    line.push(b'\n');
    loop {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(&path)?;
        let is_locked = lock(&file)?;
        // Somebody else may have put it away meanwhile.
        let len = match path.symlink_metadata() {
            Ok(there) if there.ino() == file.metadata()?.ino() => there.len(),
            _ => continue,
        };
        if len >= KEY_CALLS_LEN_MAX && is_locked {
            fs::rename(&path, older(&path))?;
            continue;
        }
        let mut last = [b'\n'];
        if len > 0 {
            file.read_exact_at(&mut last, len - 1)?;
        }
        if last != [b'\n'] {
            // A crash cut the line off.
            line.insert(0, b'\n');
        }
        return file.write_all(&line);
    }
}

/// Whether the lock was free within [`KEY_CALLS_WAIT`].
fn lock(file: &File) -> io::Result<bool> {
    let due = Instant::now() + KEY_CALLS_WAIT;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < due => std::thread::sleep(KEY_CALLS_POLL),
            Err(Errno::WOULDBLOCK) => {
                tracing::warn!(
                    "the record of calls to AWS is locked by somebody for long: written without"
                );
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes room for the file of one more volume.
fn forget_oldest(dir: &Path) -> io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(".jsonl") {
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    files.sort();
    let many = (files.len() + 1).saturating_sub(KEY_CALLS_VOLUMES_MAX);
    files.iter().take(many).try_for_each(|(_, path)| fs::remove_file(path))
}

/// What is recorded in this file and the older one beside it.
///
/// # Errors
/// The system's; that nothing is there is none.
pub fn calls_of(path: &Path) -> io::Result<Recorded> {
    let mut found = Recorded::default();
    for path in [older(path), path.to_owned()] {
        let mut text = Vec::new();
        match File::open(&path) {
            // A rotation may be late by one line.
            Ok(file) => file.take(2 * KEY_CALLS_LEN_MAX).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(call) => found.calls.push(call),
                Err(_) => found.unreadable += 1,
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const VOLUME: VolumeId = VolumeId([7; 16]);

    fn call(name: &str) -> CallRecord {
        CallRecord {
            event_time: "2026-11-30T18:02:11Z".to_owned(),
            event_source: "kms.amazonaws.com".to_owned(),
            event_name: name.to_owned(),
            aws_region: Some("eu-west-1".to_owned()),
            request_id: Some("id".to_owned()),
            key_id: Some("arn".to_owned()),
            source_key_id: None,
            encryption_context: BTreeMap::from([("cmkfs:volume-id".to_owned(), "07".repeat(16))]),
            endpoint: "https://kms.eu-west-1.amazonaws.com/".to_owned(),
            outcome: "ok".to_owned(),
            http_status: Some(200),
            elapsed_ms: Some(3),
            pid: 1,
        }
    }

    #[test]
    fn what_is_recorded_is_read_again_and_a_line_that_was_cut_off_harms_no_other() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("calls");
        append(&dir, VOLUME, &call("GenerateDataKey")).unwrap();
        let path = file_of(&dir, VOLUME);
        for (path, mode) in [(&path, 0o600), (&dir, 0o700)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..20]].concat()).unwrap();
        append(&dir, VOLUME, &call("Decrypt")).unwrap();
        let found = calls_of(&path).unwrap();
        assert_eq!(found.calls, [call("GenerateDataKey"), call("Decrypt")]);
        assert_eq!(found.unreadable, 1);
        let text = fs::read_to_string(&path).unwrap();
        for field in ["eventSource", "requestID", "encryptionContext", "keyId", "awsRegion"] {
            assert!(text.contains(&format!("\"{field}\"")), "{field}: {text}");
        }
        assert!(calls_of(&dir.join("none.jsonl")).unwrap().calls.is_empty());
    }

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        append(dir, VOLUME, &call("First")).unwrap();
        let path = file_of(dir, VOLUME);
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        file.set_len(KEY_CALLS_LEN_MAX).unwrap();
        append(dir, VOLUME, &call("Second")).unwrap();
        assert_eq!(fs::metadata(older(&path)).unwrap().len(), KEY_CALLS_LEN_MAX);
        assert!(fs::metadata(&path).unwrap().len() < 1000);
        let names: Vec<_> = calls_of(&path).unwrap().calls;
        assert_eq!(names.last().map(|call| call.event_name.as_str()), Some("Second"));

        for n in 0..KEY_CALLS_VOLUMES_MAX + 3 {
            let mut id = [1; 16];
            id[..8].copy_from_slice(&u64::try_from(n).unwrap().to_le_bytes());
            append(dir, VolumeId(id), &call("Decrypt")).unwrap();
        }
        assert_eq!(dir.read_dir().unwrap().count(), KEY_CALLS_VOLUMES_MAX);
    }

    #[test]
    fn who_holds_the_lock_for_ever_stops_nobody() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        append(dir, VOLUME, &call("First")).unwrap();
        let path = file_of(dir, VOLUME);
        let holder = OpenOptions::new().append(true).open(&path).unwrap();
        holder.set_len(KEY_CALLS_LEN_MAX).unwrap();
        rustix::fs::flock(&holder, FlockOperation::LockExclusive).unwrap();
        let (ended, end) = std::sync::mpsc::channel();
        let (to, own) = (dir.to_owned(), call("Second"));
        std::thread::spawn(move || ended.send(append(&to, VOLUME, &own)));
        end.recv_timeout(30 * KEY_CALLS_WAIT).unwrap().unwrap();
        assert_eq!(calls_of(&path).unwrap().calls.last().unwrap().event_name, "Second");
        assert!(!older(&path).exists(), "put away without the lock");
    }

    #[test]
    fn many_at_once_lose_no_line() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..50).for_each(|_| append(dir, VOLUME, &call("Decrypt")).unwrap());
                });
            }
        });
        let found = calls_of(&file_of(dir, VOLUME)).unwrap();
        assert_eq!((found.calls.len(), found.unreadable), (200, 0));
    }
}
