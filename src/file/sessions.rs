//! When the volume was open for writing and did not come to a clean end, and the files that were
//! being made then.
//!
//! A file gets its name first and its header by the next call. A crash may leave the one without
//! the other, a power cut long after: a disk makes names durable of itself, and data later. Such a
//! file has no byte. To take every stored file without a byte for an empty one would show what was
//! emptied, by a fault or on purpose, as if it had been written so; so it has to be of a *window*:
//! made after the last moment that everything was durable of a session that did not end cleanly,
//! and before that was noticed. [JOURNAL.md](../store/JOURNAL.md) tells more.
//!
//! Nothing here fails: what can't be read or written only means that such files stay refused.

use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::cipher::VolumeKeys;
use crate::file::content::File;
use crate::file::error::{FileError, Spot};
use crate::file::inspect::sealed_attributes;
use crate::file::stat::Time;
use crate::file::volume::{Volume, lock};
use crate::format::ids::Epoch;
use crate::format::sessions::{self, SLOT_LEN, SLOT_OFFSETS, Session};
use crate::store::{
    Attributed, Blob, DiskBlob, Durability, LowerStat, SessionFile, Slots, StoreDir, boot_id,
    disk_time, is_news, leave, made, read_slots,
};

/// Bytes of a file with both slots.
const SLOTS_END: u64 = SLOT_OFFSETS[1] + SLOT_LEN as u64;
/// Seconds that a file may be in the making while the disk is synced: its name is there already,
/// and its header is not.
const MAKING_S: u64 = 10;

/// See the module.
#[derive(Debug)]
pub(in crate::file) struct Sessions {
    file: SessionFile,
    held: Mutex<Option<Held>>,
}

/// What a volume that is open for writing has.
#[derive(Debug)]
struct Held {
    blob: DiskBlob,
    /// The slot that counts.
    newest: usize,
    said: sessions::Sessions,
}

/// How safe what was made is at the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::file) enum Ended {
    /// Durable: a power cut from now on is none of this session.
    Durable,
    /// Written, and the system may still lose it in a power cut.
    Written,
    /// A write was lost: whoever comes next finds it as after a crash.
    InDoubt,
}

fn clock() -> u64 {
    u64::try_from(Time::now().s).unwrap_or(0)
}

/// The slot that counts, and what it says.
fn newest(keys: &VolumeKeys, slots: &Slots) -> Option<(usize, sessions::Sessions)> {
    let said = slots.iter().map(|slot| {
        let (said, tag) = sessions::decode(slot)?;
        keys.check_sessions(&said, &tag).ok().map(|()| said)
    });
    let said = said.enumerate().filter_map(|(at, said)| Some((at, said?)));
    let found = said.max_by_key(|(_, said)| said.sequence);
    if found.is_none() && slots.iter().flatten().any(|byte| *byte != 0) && is_news(&"sessions") {
        // No crash leaves that: a slot is written as a whole, and never the one that counts.
        tracing::warn!(
            "what `sessions` says is not authentic and is left out; stored files without a byte \
             are refused, as damaged, also those that were being made when the volume crashed"
        );
    }
    found
}

impl Held {
    /// The session begins; what the last one left is in the windows from now on.
    fn begin(file: &SessionFile, keys: &VolumeKeys) -> Result<(Self, u64, bool), Errno> {
        let blob = match file.open(true)? {
            Some(blob) => blob,
            None => file.make()?,
        };
        let stat = rustix::fs::fstat(&blob)?;
        let (ino, len) = (stat.st_ino, u64::try_from(stat.st_size).unwrap_or(0));
        if len < SLOTS_END {
            // The last words of a session are written on a full disk too.
            leave(blob.write_zeros(len, SLOTS_END - len), "the place of a session's end");
        }
        let found = newest(keys, &read_slots(&blob)?);
        let is_new = found.is_none();
        let none = || (1, sessions::Sessions::new(keys.current(), ino));
        let (newest, mut said) = found.unwrap_or_else(none);
        let now = disk_time(&blob).unwrap_or_else(|_| clock());
        if said.session.is_some_and(|session| session.ended.is_none()) {
            tracing::info!(
                "the volume was not left cleanly; files that were being made then and have no \
                 byte yet are empty ones"
            );
        }
        let since = said.close(now, boot_id(), ino).unwrap_or(now);
        said.ino = ino;
        Ok((Self { blob, newest, said }, since, is_new))
    }

    /// Writes what is said to the slot that does not count.
    fn write(&mut self, keys: &VolumeKeys) -> Result<(), Errno> {
        self.said.epoch = keys.current();
        self.said.sequence = self.said.sequence.wrapping_add(1);
        let slot = 1 - self.newest;
        let sealed = keys.seal_sessions(&self.said);
        self.blob.write_at(SLOT_OFFSETS[slot], &sealed, 0..SLOT_LEN)?;
        self.newest = slot;
        Ok(())
    }
}

impl Sessions {
    pub(in crate::file) fn new(file: SessionFile) -> Self {
        Self { file, held: Mutex::default() }
    }

    /// Says durably that the volume is written from now on.
    pub(in crate::file) fn begin(&self, keys: &VolumeKeys, durability: Durability) {
        let mut held = lock(&self.held);
        let mut begin = || {
            let (begun, since, is_new) = Held::begin(&self.file, keys)?;
            let begun = held.insert(begun);
            let in_place = durability == Durability::Relaxed;
            begun.said.session = Some(Session { since, ended: None, in_place });
            begun.write(keys)?;
            begun.blob.sync(true)?;
            if is_new { self.file.sync_name() } else { Ok(()) }
        };
        if let Err(error) = begin() {
            tracing::warn!(
                %error,
                "can't note in `sessions` that the volume is written: a file that is being made \
                 when it crashes may be refused, until it is removed"
            );
        }
    }

    /// The time by the clock of the store's disk; `None` if nothing is noted.
    pub(in crate::file) fn time(&self) -> Option<u64> {
        let held = lock(&self.held);
        held.as_ref().and_then(|held| disk_time(&held.blob).ok())
    }

    /// What was made before `then` is durable. Not synced: an older word only says less.
    pub(in crate::file) fn go_on(&self, keys: &VolumeKeys, then: Option<u64>) {
        let mut held = lock(&self.held);
        let (Some(held), Some(then)) = (held.as_mut(), then) else { return };
        let Some(session) = &mut held.said.session else { return };
        let since = then.saturating_sub(MAKING_S).max(1);
        // Unless the clock was set back: what is made next is as old as it says.
        session.since = if then < session.since { since } else { since.max(session.since) };
        if let Err(error) = held.write(keys) {
            tracing::debug!(%error, "can't note in `sessions` what is durable");
        }
    }

    /// The session ends.
    pub(in crate::file) fn end(&self, keys: &VolumeKeys, ended: Ended) {
        let Some(mut held) = lock(&self.held).take() else { return };
        let Some(session) = held.said.session else { return };
        held.said.session = match ended {
            Ended::Durable => None,
            Ended::Written => {
                let now = disk_time(&held.blob).unwrap_or_else(|_| clock()).max(1);
                Some(Session { ended: Some((now, boot_id())), ..session })
            }
            Ended::InDoubt => return,
        };
        let mut said = held.write(keys);
        if ended == Ended::Durable {
            said = said.and_then(|()| held.blob.sync(true));
        }
        if let Err(error) = said {
            tracing::debug!(%error, "can't note in `sessions` that the volume was left");
        }
    }

    /// What is said, where another process may write: read anew.
    fn look(&self, volume: &Volume) -> Option<sessions::Sessions> {
        let blob = self.file.open(false).ok()??;
        let slots = read_slots(&blob).ok()?;
        let epochs = slots.iter().filter_map(|slot| Some(sessions::decode(slot)?.0.epoch));
        let keys = volume.keys_for(epochs.max().unwrap_or(Epoch::FIRST));
        let (_, mut said) = newest(&keys, &slots)?;
        if !volume.writers.may_be_there() {
            said.close(clock(), boot_id(), rustix::fs::fstat(&blob).ok()?.st_ino);
        }
        Some(said)
    }
}

impl Volume {
    /// Whether a stored file without a byte was being made when a session did not end cleanly: it
    /// reads as empty. Any other is damaged.
    pub fn was_being_made(&self, blob: &DiskBlob) -> bool {
        let Ok(made) = made(blob) else { return false };
        match self.read_only() {
            true => self.sessions.look(self).is_some_and(|said| said.cover(made)),
            false => lock(&self.sessions.held).as_ref().is_some_and(|held| held.said.cover(made)),
        }
    }

    /// Opens what a descriptor has open, which gives it a header if a crash left it without one.
    ///
    /// # Errors
    /// As opening it.
    pub fn give_header(self: &Arc<Self>, blob: DiskBlob) -> Result<(), FileError> {
        let file = self.open_blob(blob, true)?;
        let mut state = file.state_mut()?;
        // It is tried once more, so that whoever needs it hears why not.
        state.dirty |= state.stored_len == 0;
        file.commit_state(&mut state)
    }

    /// The same for an object without a byte, whatever it is.
    ///
    /// # Errors
    /// As opening it.
    pub(in crate::file) fn give_header_of(
        self: &Arc<Self>,
        dir: &StoreDir,
        object: &[u8],
        lower: &LowerStat,
    ) -> Result<(), FileError> {
        let kind = rustix::fs::FileType::from_raw_mode(lower.st_mode);
        if kind == rustix::fs::FileType::RegularFile
            && let Ok(blob) = dir.open_file(object, true)
            && self.was_being_made(&blob)
        {
            self.give_header(blob)?;
        }
        Ok(())
    }
}

impl File {
    /// The end of opening a file without a header that is an empty one: it gets one, if it can be
    /// written, and what was sealed for the one that it did not get goes.
    pub(in crate::file) fn give_header(&self, writable: bool) {
        let state = self.state_anyway();
        let spot = Spot::of(self.ino(), &state.blob);
        if is_news(&(spot.ino, "blank")) {
            tracing::warn!(
                ino = spot.ino,
                stored = spot.stored(),
                "this file was being made when the volume was not left cleanly, and nothing of it \
                 was ever synced: it is empty"
            );
        }
        if !writable {
            return;
        }
        let of = Attributed::Open(&state.blob);
        for name in sealed_attributes(&of).unwrap_or_default() {
            crate::store::leave(of.remove(&name), "attribute of a file that was being made");
        }
        drop(state);
        if let Err(error) = self.commit() {
            // It is empty in memory, too; who closes it has changed nothing.
            self.discard();
            tracing::debug!(ino = self.ino(), %error, "no header for a file without one yet");
        }
    }
}
