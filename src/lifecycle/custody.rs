//! The volume of a session, and whether its key may be used: who takes the key away locks the
//! volume, and who gives it back unlocks it, without a mount more or less.
//!
//! A key from KMS is asked for again every `key_recheck`, by a real `Decrypt`; one that is wrapped
//! by a secret in Secrets Manager, by a `GetSecretValue`. A refusal locks at once. Where KMS does
//! not answer the volume serves on, for `key_max_offline` since KMS last said yes, and is locked
//! then. Either is undone by the first answer that is yes; what was locked by hand waits for one.
//!
//! While it is locked this process has no key of the volume and nothing that it opened: all that
//! was written is committed before, files and directories are closed, the block cache is gone.
//! Names of files that the kernel knows stay in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cipher::VolumeKeys;
use crate::file::{Dir, Figures, Volume};
use crate::fuse::Latch;
use crate::keys::{self, KeyError, KmsFailure};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::open::{self, How, KeyInfo};
use crate::lifecycle::session::{Point, enter};
use crate::limits::{LET_GO_POLL, LET_GO_WAIT};
use crate::store::{Standing, Store};
use crate::sys::{give_back_memory, scrub_stack};

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It was there when it was last asked for.
    Held,
    /// KMS did not answer when it was last asked for.
    Unproved,
    /// It was taken away: the volume is locked.
    Locked,
}

/// What is known of the key of a session.
#[derive(Clone, Debug)]
pub(in crate::lifecycle) struct Key {
    /// Which it is.
    pub(in crate::lifecycle) info: KeyInfo,
    pub(in crate::lifecycle) state: KeyState,
    /// When it was last had.
    pub(in crate::lifecycle) proved: Instant,
    /// Why it is not simply held.
    pub(in crate::lifecycle) reason: Option<String>,
    /// Locked until somebody unlocks it.
    by_hand: bool,
}

impl Key {
    /// It was had just now.
    fn prove(&mut self, info: KeyInfo) {
        let proved = Instant::now();
        *self = Self { info, state: KeyState::Held, proved, reason: None, by_hand: false };
    }
}

/// Who locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lifecycle) enum By {
    /// Somebody, with `cmkfs lock`.
    Hand,
    /// The key's owner, or an outage.
    Key,
}

#[derive(Debug)]
pub(in crate::lifecycle) struct Custody {
    store: Store,
    how: How,
    standing: Option<Standing>,
    /// Gone while it is locked, and when the session has ended.
    volume: RwLock<Option<Arc<Volume>>>,
    /// The one that was let go of last.
    former: Mutex<Weak<Volume>>,
    mounts: Mutex<Vec<(Latch, Point)>>,
    key: Mutex<Key>,
    /// What it counted before it was locked last.
    figures: Mutex<Figures>,
    /// Held by who locks, unlocks or ends it.
    turn: Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change of what is in there is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Custody {
    pub(in crate::lifecycle) fn new(
        store: Store,
        how: How,
        standing: Option<Standing>,
        volume: Arc<Volume>,
        info: KeyInfo,
    ) -> Arc<Self> {
        let (state, proved, reason) = (KeyState::Held, Instant::now(), None);
        let key = Key { info, state, proved, reason, by_hand: false };
        Arc::new(Self {
            store,
            how,
            standing,
            volume: RwLock::new(Some(volume)),
            former: Mutex::default(),
            mounts: Mutex::default(),
            key: Mutex::new(key),
            figures: Mutex::default(),
            turn: Mutex::default(),
        })
    }

    /// The volume, unless it is locked.
    pub(in crate::lifecycle) fn volume(&self) -> Option<Arc<Volume>> {
        self.volume.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_volume(&self) -> Option<Arc<Volume>> {
        self.volume.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(in crate::lifecycle) fn key(&self) -> Key {
        locked(&self.key).clone()
    }

    /// Counters since it was opened, or unlocked.
    pub(in crate::lifecycle) fn figures(&self) -> Figures {
        self.volume().map_or_else(|| *locked(&self.figures), |volume| volume.figures())
    }

    /// The volume is mounted there.
    pub(in crate::lifecycle) fn add(&self, latch: Latch, point: &Point) {
        locked(&self.mounts).push((latch, point.clone()));
    }

    /// Commits what was written, and lets go of volume and keys.
    ///
    /// # Errors
    /// A transient key, which nobody could give back. By hand: what can't be committed; it stays
    /// unlocked then.
    pub(in crate::lifecycle) fn lock(&self, reason: &str, by: By) -> Result<(), VerbError> {
        let _turn = locked(&self.turn);
        if locked(&self.key).info.slot.is_none() {
            return Err(VerbError::TransientLock(self.store.path().to_owned()));
        }
        let Some(volume) = self.volume() else {
            let mut key = locked(&self.key);
            key.by_hand |= by == By::Hand;
            return Ok(());
        };
        volume.stop_rekey();
        let committed = volume.commit_all().map_err(VerbError::file(self.store.path()));
        match (committed, by) {
            (Err(error), By::Hand) if !volume.has_stored_all() => return Err(error),
            // The journal has it, and its records are sealed.
            (Err(error), By::Hand) => {
                tracing::warn!(%error, "not all could be brought to its place")
            }
            // What is lost by that is told where it is lost.
            (Err(error), By::Key) => tracing::error!(%error, "not all could be committed"),
            (Ok(()), _) => {}
        }
        *locked(&self.figures) = volume.figures();
        {
            let mut key = locked(&self.key);
            (key.state, key.reason) = (KeyState::Locked, Some(reason.to_owned()));
            key.by_hand = by == By::Hand;
        }
        let mounts = locked(&self.mounts).clone();
        for (latch, point) in &mounts {
            if let Err(error) = latch.lock("the volume was locked") {
                tracing::error!("{}: {error}", point.mountpoint.display());
            }
        }
        drop(self.take_volume());
        self.let_go(volume);
        tracing::warn!(reason, "locked: keys are gone, whoever asks gets EKEYREVOKED");
        Ok(())
    }

    /// Drops the volume, and waits until nobody has it any more: with the last its keys are zeroed.
    fn let_go(&self, volume: Arc<Volume>) {
        volume.let_go();
        *locked(&self.former) = Arc::downgrade(&volume);
        drop(volume);
        if !self.is_let_go() {
            tracing::error!(
                "somebody still uses the volume, as a snapshot does: its keys stay in memory until \
                 that ends"
            );
        }
        scrub_stack();
        give_back_memory();
    }

    /// Whether nobody has the former volume any more, now or within [`LET_GO_WAIT`].
    fn is_let_go(&self) -> bool {
        let former = locked(&self.former).clone();
        let due = Instant::now() + LET_GO_WAIT;
        while former.strong_count() > 0 {
            if Instant::now() > due {
                return false;
            }
            std::thread::sleep(LET_GO_POLL);
        }
        true
    }

    /// Gets the key and goes on where it was locked.
    ///
    /// # Errors
    /// No key, or no volume; it stays locked. Locked by hand, if it is not a hand that unlocks.
    pub(in crate::lifecycle) fn unlock(
        &self,
        source: Option<crate::keys::KeySource>,
        by: By,
    ) -> Result<(), VerbError> {
        let _turn = locked(&self.turn);
        {
            let key = locked(&self.key);
            if key.state != KeyState::Locked || (key.by_hand && by == By::Key) {
                return Ok(());
            }
        }
        if !self.is_let_go() {
            return Err(VerbError::StillUsed(self.store.path().to_owned()));
        }
        let how = match source {
            Some(_) => How { source, ..self.how.clone() },
            None => self.how.clone(),
        };
        let opened = open::again(&self.store, &how, self.standing.clone());
        let (volume, info) = opened.inspect_err(|error| {
            locked(&self.key).reason = Some(error.to_string());
        })?;
        let mounts = locked(&self.mounts).clone();
        let root = |(_, point): &(Latch, Point)| {
            let root = volume.root().and_then(|root| enter(root, point));
            root.map_err(VerbError::file(&point.mountpoint))
        };
        let roots: Vec<Dir> = mounts.iter().map(root).collect::<Result<_, _>>()?;
        *self.volume.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&volume));
        locked(&self.key).prove(info);
        for ((latch, _), root) in mounts.into_iter().zip(roots) {
            latch.unlock(Arc::clone(&volume), root);
        }
        tracing::warn!("unlocked");
        Ok(())
    }

    /// Notes what a recheck found, unless the volume was locked while KMS was asked: only who
    /// unlocks it says that it is not.
    fn note(&self, found: impl FnOnce(&mut Key)) {
        let mut key = locked(&self.key);
        if key.state != KeyState::Locked {
            found(&mut key);
        }
    }

    /// The session ends: the volume is dropped, and no more opened.
    pub(in crate::lifecycle) fn end(&self) {
        let _turn = locked(&self.turn);
        locked(&self.mounts).clear();
        if let Some(volume) = self.take_volume() {
            *locked(&self.former) = Arc::downgrade(&volume);
        }
    }

    /// Waits until nobody has the volume any more, once it has ended: what a connection is in the
    /// middle of needs the lock of the store.
    pub(in crate::lifecycle) fn wait_let_go(&self) {
        if !self.is_let_go() {
            tracing::error!("somebody still uses the volume, whose lock goes now");
        }
    }

    /// Asks for a key from KMS again, and does what the answer means. For the timer.
    pub(in crate::lifecycle) fn recheck(&self) {
        let key = self.key();
        if key.state == KeyState::Locked {
            if !key.by_hand && self.unlock(None, By::Key).is_err() {
                tracing::debug!("still locked");
            }
            return;
        }
        if !key.info.is_of_aws() {
            // No key is asked for again, unless somebody has made a new epoch and could not say so.
            return self.look_for_epoch();
        }
        match open::prove(&self.store, self.how.source.as_ref()) {
            Ok((keys, info)) => {
                if key.state == KeyState::Unproved {
                    tracing::warn!("KMS answers again");
                }
                self.note(|key| key.prove(info));
                if let Err(error) = self.go_on_with(keys) {
                    tracing::error!("{error}");
                }
            }
            Err(error) if is_refusal(&error) => self.lock_for(&error.to_string()),
            Err(error) => self.unproved(&key, &error),
        }
    }

    /// Asks for the key once, and goes on with the epoch that there is now. One that is locked does
    /// so when it is unlocked.
    ///
    /// # Errors
    /// No key, or a description that does not lead on from the one that was opened.
    pub(in crate::lifecycle) fn take_up(&self) -> Result<(), VerbError> {
        if self.volume().is_none() {
            return Ok(());
        }
        let (keys, info) = open::prove(&self.store, self.how.source.as_ref())?;
        self.go_on_with(keys)?;
        self.note(|key| key.prove(info));
        Ok(())
    }

    fn go_on_with(&self, keys: VolumeKeys) -> Result<(), VerbError> {
        let Some(volume) = self.volume().filter(|volume| volume.is_news(&keys)) else {
            return Ok(());
        };
        let epoch = keys.current();
        volume
            .take_up(keys)
            .map_err(|error| VerbError::Unrelated { path: self.store.path().to_owned(), error })?;
        tracing::info!(epoch = epoch.0, "what is made from now on is of this epoch");
        Ok(())
    }

    fn look_for_epoch(&self) {
        let Some(volume) = self.volume() else { return };
        let now = self.store.read_descriptor();
        if now.is_ok_and(|now| !now.slots.is_empty() && now.epoch() > volume.epoch())
            && let Err(error) = self.take_up()
        {
            tracing::error!("a new epoch of keys is not taken up: {error}");
        }
    }

    fn unproved(&self, key: &Key, error: &VerbError) {
        let (since, max) = (key.proved.elapsed(), self.how.tuning.key_max_offline);
        if since >= max {
            let since = since.as_secs();
            return self.lock_for(&format!("no answer about the key for {since} s: {error}"));
        }
        if key.state == KeyState::Held {
            let max = max.as_secs();
            tracing::warn!("not known whether the key may be used; locked after {max} s: {error}");
        }
        let reason = Some(error.to_string());
        self.note(|key| (key.state, key.reason) = (KeyState::Unproved, reason));
    }

    fn lock_for(&self, reason: &str) {
        if let Err(error) = self.lock(reason, By::Key) {
            tracing::error!("not locked: {error}");
        }
    }

    pub(in crate::lifecycle) fn how(&self) -> &How {
        &self.how
    }

    /// Whether [`Self::end`] was called.
    pub(in crate::lifecycle) fn has_ended(&self) -> bool {
        locked(&self.mounts).is_empty() && self.volume().is_none()
    }

    /// Between two of [`Self::recheck`].
    pub(in crate::lifecycle) fn interval(&self) -> Duration {
        self.how.tuning.key_recheck
    }
}

/// Whether the owner of the key has decided, as opposed to nobody being there to ask. Credentials
/// that have run out are no decision about the key.
fn is_refusal(error: &VerbError) -> bool {
    match error {
        VerbError::Key(KeyError::Kms(error)) => match error.failure {
            KmsFailure::Denied
            | KmsFailure::Unusable
            | KmsFailure::Mismatch
            | KmsFailure::NotFound
            | KmsFailure::IncorrectKey => true,
            KmsFailure::Unreachable
            | KmsFailure::PlainHttp
            | KmsFailure::NoCredentials
            | KmsFailure::NoRegion
            | KmsFailure::BadCredentials
            | KmsFailure::RoleDenied
            | KmsFailure::Clock
            | KmsFailure::Untrusted
            | KmsFailure::Throttled
            | KmsFailure::Other => false,
        },
        // The slots were destroyed, as `terminate` does, or are not this volume's.
        VerbError::Key(KeyError::Gone) | VerbError::Untrusted { .. } => true,
        // The secret has another content now. Another key file says nothing of AWS.
        VerbError::Key(KeyError::WrongKey { key, .. }) => keys::is_secret_arn(key),
        VerbError::Key(KeyError::Secret { .. }) => true,
        _ => false,
    }
}
