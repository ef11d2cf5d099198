//! Keeps two commands from writing to one volume's snapshots at a time: one would remove what the
//! other counts on.
//!
//! The object `VOLUME_ID/writer` is made unless it is there, and says who has it. It is written
//! again every minute; not for a quarter of an hour, and its holder counts as dead. One of this
//! machine whose process is gone does so at once. A holder looks again before what can't be taken
//! back, and finds out if it was taken for dead.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::format::ids::VolumeId;
use crate::object::target::{Put, Target, TargetError};

/// Between two signs of life.
const RENEWAL: Duration = Duration::from_secs(60);
/// Without a sign of life a holder counts as dead.
const STALE: Duration = Duration::from_secs(15 * 60);

/// What a holder says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    token: String,
    host: String,
    /// The boot and the process namespace: a process of that number elsewhere is another.
    machine: String,
    pid: u32,
}

/// A volume's place in a target, held. Let go on drop.
#[derive(Debug)]
pub struct Hold {
    target: Arc<dyn Target>,
    key: String,
    token: String,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), space.display())
}

impl Mark {
    fn own() -> Self {
        let mut token = [0; 16];
        getrandom::fill(&mut token).expect("the system gives random bytes");
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let token = HEXLOWER.encode(&token);
        Self { token, host, machine: machine(), pid: std::process::id() }
    }

    fn is_gone(&self) -> bool {
        self.machine == machine() && !std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

fn encode(mark: &Mark) -> Vec<u8> {
    serde_json::to_vec(mark).expect("plain data has a JSON form")
}

impl Hold {
    /// Takes the place of a volume.
    ///
    /// # Errors
    /// [`TargetError::Held`] if another command has it, and the target's.
    pub fn take(target: &Arc<dyn Target>, volume_id: VolumeId) -> Result<Self, TargetError> {
        let (key, mark) = (format!("{volume_id}/writer"), Mark::own());
        let put = || target.put_new(&key, &encode(&mark));
        // A mark whose making was answered by nobody, and tried again, is there already.
        let is_own = || target.get(&key, None).is_ok_and(|found| found == encode(&mark));
        if put()? == Put::WasThere && !is_own() {
            refuse_living(&**target, &key)?;
            target.delete(&key)?;
            if put()? == Put::WasThere && !is_own() {
                refuse_living(&**target, &key)?;
            }
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let (renewing, renewed, bytes) = (Arc::clone(target), key.clone(), encode(&mark));
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                let found = renewing.get(&renewed, None);
                // Who was taken for dead while it slept does not write over its successor's mark.
                if matches!(found, Err(TargetError::Missing { .. }))
                    || found.as_ref().is_ok_and(|found| *found != bytes)
                {
                    return;
                }
                if let Err(error) = found.and_then(|_| renewing.put(&renewed, &bytes)) {
                    tracing::warn!("no sign of life to other writers: {error}");
                }
            }
        });
        let (target, token) = (Arc::clone(target), mark.token);
        let hold = Self { target, key, token, stop: Some(stop), thread: Some(thread) };
        hold.check()?;
        Ok(hold)
    }

    /// Whether it is still held.
    ///
    /// # Errors
    /// [`TargetError::Held`] if it is not, and the target's.
    pub fn check(&self) -> Result<(), TargetError> {
        let bytes = match self.target.get(&self.key, None) {
            Err(TargetError::Missing { .. }) => Vec::new(),
            read => read?,
        };
        let found: Option<Mark> = serde_json::from_slice(&bytes).ok();
        if found.is_some_and(|found| found.token == self.token) {
            return Ok(());
        }
        let key = &self.key;
        Err(TargetError::Held(format!(
            "{key}: another command took this one for dead and writes there now: run it again"
        )))
    }
}

/// Fails if whoever is named there may still be at work.
fn refuse_living(target: &dyn Target, key: &str) -> Result<(), TargetError> {
    let mut written = None;
    target.list(key, &mut |listed| {
        if listed.key == key {
            written = Some(listed.written_unix_s);
        }
    })?;
    let (Some(written), Ok(bytes)) = (written, target.get(key, None)) else { return Ok(()) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let age = now.saturating_sub(written);
    let mark: Option<Mark> = serde_json::from_slice(&bytes).ok();
    if age >= STALE.as_secs() || mark.as_ref().is_none_or(Mark::is_gone) {
        return Ok(());
    }
    let who =
        mark.map_or_else(String::new, |mark| format!("process {} of {}", mark.pid, mark.host));
    Err(TargetError::Held(format!(
        "{}: {who} writes snapshots of this volume there; wait for it; if it is dead, it counts as \
         such {} minutes after its last sign of life, {age} s ago",
        target.name(),
        STALE.as_secs() / 60
    )))
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the thread that gives signs of life panicked");
        }
        if self.check().is_ok()
            && let Err(error) = self.target.delete(&self.key)
        {
            tracing::warn!("others will think that this process still writes: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::directory::Directory;

    #[test]
    fn one_writes_at_a_time_and_the_dead_are_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let target: Arc<dyn Target> = Arc::new(Directory::open(dir.path()).unwrap());
        let id = VolumeId([1; 16]);
        let hold = Hold::take(&target, id).unwrap();
        let refused = Hold::take(&target, id).unwrap_err();
        assert!(matches!(refused, TargetError::Held(_)), "{refused}");
        Hold::take(&target, VolumeId([2; 16])).unwrap();
        hold.check().unwrap();
        drop(hold);
        // No process has the highest number.
        let dead = Mark { pid: u32::MAX, ..Mark::own() };
        target.put(&format!("{id}/writer"), &encode(&dead)).unwrap();
        let hold = Hold::take(&target, id).unwrap();
        let elsewhere = Mark { machine: "another".to_owned(), ..dead };
        target.put(&format!("{id}/writer"), &encode(&elsewhere)).unwrap();
        assert!(matches!(hold.check(), Err(TargetError::Held(_))));
        drop(hold);
        assert!(Hold::take(&target, id).is_err(), "what is another's is left");
        let old = std::fs::File::options()
            .write(true)
            .open(dir.path().join(format!("{id}/writer")))
            .unwrap();
        old.set_modified(UNIX_EPOCH).unwrap();
        Hold::take(&target, id).unwrap();
    }
}
