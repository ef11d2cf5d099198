//! `STORE/sessions`: when the volume was open for writing and did not come to a clean end, so that
//! a stored file without a byte can be told from one that was being made then. Integers
//! little-endian.
//!
//! The file has two *slots* of one sector each, at [`SLOT_OFFSETS`]; of those that are authentic
//! the one with the higher sequence counts. A writer writes the other one.
//!
//! |  at | bytes | field      | holds                                                             |
//! |----:|------:|------------|-------------------------------------------------------------------|
//! |   0 |     8 | `magic`    | [`MAGIC`]                                                         |
//! |   8 |     2 | `version`  | [`VERSION`]; a reader refuses any other                           |
//! |  10 |     2 | `count`    | of windows, at most [`WINDOWS_MAX`]                               |
//! |  12 |     4 | `epoch`    | whose keys authenticate it                                        |
//! |  16 |     8 | `sequence` | one more than that of the slot before                             |
//! |  24 |     8 | `ino`      | lower inode number of this file: in a copy it is another          |
//! |  32 |     8 | `since`    | begin of the session that writes; 0: there is none                |
//! |  40 |     8 | `ended`    | its end, where nothing was synced then; 0: it has not ended       |
//! |  48 |    16 | `boot`     | id of the boot in which it ended, else zeros                      |
//! |  64 |     4 | `in_place` | bit i: of window i, files were cut in place; bit 31: of `since`   |
//! |  68 |     4 | `reserved` | zeros                                                             |
//! |  72 |   416 | `windows`  | `count` times (since u64, until u64), in order, apart; zeros      |
//! | 488 |     8 | `reserved` | zeros                                                             |
//! | 496 |    16 | `tag`      | authenticates bytes 0 to 495 and the volume id                    |
//!
//! Times are whole seconds since 1970, by the clock of the store's disk.

use crate::format::bytes::take;
use crate::format::ids::Epoch;
use crate::format::node::TAG_LEN;

/// Bytes of a slot: one sector, which a disk writes as a whole.
pub const SLOT_LEN: usize = BOUND_LEN + TAG_LEN;
/// Bytes of a slot before its tag.
pub const BOUND_LEN: usize = 496;
/// Where the slots are: in two blocks of the disk.
pub const SLOT_OFFSETS: [u64; 2] = [0, 4096];
/// Windows that are kept; of more the nearest are made one.
pub const WINDOWS_MAX: usize = 26;
/// The only version that this release reads or writes.
pub const VERSION: u16 = 1;
/// 0x0A changes in a text-mode copy, as in PNG's magic.
pub const MAGIC: [u8; 8] = *b"cmkses\n\0";

/// Seconds that a time of a file may lie beside a window: a disk's clock ticks more slowly than the
/// clock, and whole seconds are what is compared.
const SLACK_S: u64 = 3;
/// Seconds after which a system has written to its disk whatever was written before, unsynced.
const WRITTEN_BACK_S: u64 = 300;
const OWN_BIT: u32 = 1 << 31;
const FIXED_LEN: usize = MAGIC.len() + 2 + 2 + 4 + 4 * 8 + 16 + 4 + 4;
const _: () = assert!(FIXED_LEN == 72 && FIXED_LEN + 16 * WINDOWS_MAX + 8 == BOUND_LEN);
const _: () = assert!(SLOT_LEN == 512 && WINDOWS_MAX < 31);

/// A time in which files were being made that a crash may have left without a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first second.
    pub since: u64,
    /// Its last second.
    pub until: u64,
    /// Files were cut to nothing in place, too.
    pub in_place: bool,
}

/// When a stored file without a byte was made and last written to, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its birth, where the disk tells.
    pub born: Option<u64>,
    /// Its last modification.
    pub written: u64,
}

impl Window {
    /// Whether a file may have been left without a byte by what ended in this window.
    fn covers(&self, made: Made) -> bool {
        let (since, until) =
            (self.since.saturating_sub(SLACK_S), self.until.saturating_add(SLACK_S));
        let within = |time: u64| (since..=until).contains(&time);
        match made.born {
            // Whatever was done to it later would have touched the other time.
            Some(born) if within(born) => made.written <= until,
            // Older, and not cut by us; or younger, which a copy of one may be.
            Some(born) if born < since && !self.in_place => false,
            _ => within(made.written),
        }
    }
}

/// A session that writes, or wrote last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// What was made before is durable.
    pub since: u64,
    /// Its end, if nothing was synced then, and the id of the boot in which that was.
    pub ended: Option<(u64, [u8; 16])>,
    /// It cuts files to nothing in place.
    pub in_place: bool,
}

/// What a slot says: a claim, until its tag is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// Whose keys authenticate it.
    pub epoch: Epoch,
    /// Of two slots the one with the higher number counts.
    pub sequence: u64,
    /// Lower inode number of the file.
    pub ino: u64,
    /// The session that writes.
    pub session: Option<Session>,
    windows: Vec<Window>,
}

impl Sessions {
    /// No session and no window.
    pub fn new(epoch: Epoch, ino: u64) -> Self {
        Self { epoch, sequence: 0, ino, session: None, windows: Vec::new() }
    }

    /// The windows, in order.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// Adds a window, whichever of its ends is the earlier: a clock may have been set back. Those
    /// that touch become one, and of too many the two that are nearest to each other.
    pub fn add(&mut self, window: Window) {
        let Window { since, until, in_place } = window;
        self.windows.push(Window { since: since.min(until), until: since.max(until), in_place });
        self.windows.sort_by_key(|window| window.since);
        let touching = |pair: &[Window]| pair[1].since <= pair[0].until.saturating_add(1);
        while let Some(at) = self.windows.windows(2).position(touching) {
            self.merge(at);
        }
        while self.windows.len() > WINDOWS_MAX {
            let pairs = self.windows.windows(2).enumerate();
            let nearest = pairs.min_by_key(|(_, pair)| pair[1].since - pair[0].until);
            self.merge(nearest.map_or(0, |(at, _)| at));
        }
    }

    fn merge(&mut self, at: usize) {
        let second = self.windows.remove(at + 1);
        let first = &mut self.windows[at];
        first.until = first.until.max(second.until);
        first.in_place |= second.in_place;
    }

    /// The session that wrote last is over, as is seen `now`, in this boot, by whoever reads the
    /// file with this number. If what it made may not be on the disk, there is a window for it;
    /// returns its begin, if that may still become so.
    pub fn close(&mut self, now: u64, boot: [u8; 16], ino: u64) -> Option<u64> {
        let session = self.session.take()?;
        // What a copy has was read from the disk it was on, and was born when it was made.
        if ino != self.ino {
            return None;
        }
        let mut until = now;
        if let Some((ended, then)) = session.ended {
            if then == boot && boot != [0; 16] {
                return (now.abs_diff(ended) < WRITTEN_BACK_S).then_some(session.since);
            }
            until = ended;
        }
        self.add(Window { since: session.since, until, in_place: session.in_place });
        None
    }

    /// Whether a stored file without a byte may be one that was being made when a session ended.
    pub fn cover(&self, made: Made) -> bool {
        self.windows.iter().any(|window| window.covers(made))
    }
}

/// Bytes 0 to 495 of a slot.
///
/// # Panics
/// Never: [`Sessions`] has no more windows than there is room for.
pub fn encode(sessions: &Sessions) -> [u8; BOUND_LEN] {
    let session = sessions.session.unwrap_or(Session { since: 0, ended: None, in_place: false });
    let (ended, boot) = session.ended.unwrap_or_default();
    let count = u16::try_from(sessions.windows.len()).expect("26 at most");
    let bits = sessions.windows.iter().enumerate().map(|(at, w)| u32::from(w.in_place) << at);
    let bits = bits.sum::<u32>() | if session.in_place { OWN_BIT } else { 0 };
    let mut bytes = Vec::with_capacity(BOUND_LEN);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(sessions.epoch.0.to_le_bytes());
    for number in [sessions.sequence, sessions.ino, session.since, ended] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(boot);
    bytes.extend(bits.to_le_bytes());
    bytes.extend([0; 4]);
    for window in &sessions.windows {
        bytes.extend(window.since.to_le_bytes());
        bytes.extend(window.until.to_le_bytes());
    }
    bytes.resize(BOUND_LEN, 0);
    bytes.try_into().expect("it was made as long")
}

/// What a slot says, and its tag; `None` if it is none that [`encode`] makes.
pub fn decode(slot: &[u8]) -> Option<(Sessions, [u8; TAG_LEN])> {
    let (bound, tag) = slot.get(..SLOT_LEN)?.split_at(BOUND_LEN);
    let mut rest = bound;
    if take::<8>(&mut rest) != MAGIC || u16::from_le_bytes(take(&mut rest)) != VERSION {
        return None;
    }
    let count = usize::from(u16::from_le_bytes(take(&mut rest)));
    let epoch = Epoch(u32::from_le_bytes(take(&mut rest)));
    let mut number = || u64::from_le_bytes(take(&mut rest));
    let (sequence, ino, since, ended) = (number(), number(), number(), number());
    let boot: [u8; 16] = take(&mut rest);
    let bits = u32::from_le_bytes(take(&mut rest));
    let reserved: [u8; 4] = take(&mut rest);
    if count > WINDOWS_MAX || reserved != [0; 4] {
        return None;
    }
    let mut windows = Vec::with_capacity(count);
    for at in 0..count {
        let since = u64::from_le_bytes(take(&mut rest));
        let until = u64::from_le_bytes(take(&mut rest));
        windows.push(Window { since, until, in_place: bits >> at & 1 == 1 });
    }
    let ended = (ended != 0).then_some((ended, boot));
    let in_place = bits & OWN_BIT != 0;
    let session = (since != 0).then_some(Session { since, ended, in_place });
    let sessions = Sessions { epoch, sequence, ino, session, windows };
    let ordered = sessions.windows.iter().all(|window| window.since <= window.until)
        && sessions.windows.windows(2).all(|pair| pair[0].until.saturating_add(1) < pair[1].since);
    // Also bits and times of what is not there.
    let whole = ordered && encode(&sessions)[..] == *bound;
    whole.then_some((sessions, tag.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(since: u64, until: u64) -> Window {
        Window { since, until, in_place: false }
    }

    fn sessions(windows: &[(u64, u64)]) -> Sessions {
        let mut sessions = Sessions::new(Epoch::FIRST, 7);
        windows.iter().for_each(|(since, until)| sessions.add(window(*since, *until)));
        sessions
    }

    fn slot(sessions: &Sessions) -> Vec<u8> {
        [&encode(sessions)[..], &[9; TAG_LEN]].concat()
    }

    #[test]
    fn a_slot_says_what_was_encoded_and_nothing_else_is_one() {
        let mut said = sessions(&[(10, 20), (100, 100), (30, 40)]);
        said.windows[1].in_place = true;
        said.sequence = 5;
        for session in [
            None,
            Some(Session { since: 7, ended: None, in_place: true }),
            Some(Session { since: 7, ended: Some((9, [3; 16])), in_place: false }),
        ] {
            said.session = session;
            let bytes = slot(&said);
            assert_eq!(decode(&bytes), Some((said.clone(), [9; TAG_LEN])));
            for at in 0..bytes.len() {
                assert_eq!(decode(&bytes[..at]), None, "{at}");
                let mut edited = bytes.clone();
                edited[at] ^= 0x80;
                if let Some((found, _)) = decode(&edited) {
                    assert_eq!(encode(&found)[..], edited[..BOUND_LEN], "{at}");
                }
            }
        }
    }

    #[test]
    fn windows_out_of_order_or_backwards_or_touching_are_none_that_we_write() {
        for pairs in [
            [(20, 10), (30, 40)],
            [(30, 40), (10, 20)],
            [(10, 20), (21, 30)],
            [(10, 20), (0, u64::MAX)],
        ] {
            let mut said = sessions(&[]);
            said.windows = pairs.map(|(since, until)| window(since, until)).to_vec();
            assert_eq!(decode(&slot(&said)), None, "{pairs:?}");
        }
    }

    #[test]
    fn windows_are_in_order_whatever_the_clock_did() {
        let said = sessions(&[(50, 40), (10, 20), (15, 25), (26, 30), (u64::MAX, u64::MAX - 5)]);
        let wanted = [(10, 30), (40, 50), (u64::MAX - 5, u64::MAX)].map(|(a, b)| window(a, b));
        assert_eq!(said.windows(), wanted);
        assert!(decode(&slot(&said)).is_some());
    }

    #[test]
    fn of_too_many_windows_the_nearest_become_one() {
        let count = WINDOWS_MAX as u64;
        let mut said = sessions(&(0..count).map(|n| (n * 100, n * 100 + 5)).collect::<Vec<_>>());
        assert_eq!(said.windows().len(), WINDOWS_MAX);
        said.add(window(350, 360));
        assert_eq!(said.windows().len(), WINDOWS_MAX);
        assert!(said.windows().contains(&window(350, 405)), "{:?}", said.windows());
        for n in 0..100 {
            said.add(window(10_000 + n * 50, 10_000 + n * 50));
            assert!(said.windows().len() <= WINDOWS_MAX);
            assert!(decode(&slot(&said)).is_some());
        }
    }

    /// A session, by which file it is read, when, and the windows that it leaves.
    type Case = (Option<Session>, u64, u64, &'static [(u64, u64)]);

    #[test]
    fn a_session_that_did_not_end_is_a_window_unless_nothing_can_be_missing() {
        let (boot, other) = ([1; 16], [2; 16]);
        let open = Session { since: 100, ended: None, in_place: false };
        let ended = |boot| Some(Session { ended: Some((150, boot)), ..open });
        let cases: [Case; 8] = [
            (None, 7, 200, &[]),
            (Some(open), 7, 200, &[(100, 200)]),
            (Some(open), 7, 50, &[(50, 100)]),
            (Some(open), 8, 200, &[]),
            (ended(boot), 7, 450, &[]),
            (ended(other), 7, 200, &[(100, 150)]),
            (ended([0; 16]), 7, 200, &[(100, 150)]),
            (ended(other), 8, 200, &[]),
        ];
        for (session, ino, now, wanted) in cases {
            let mut said = sessions(&[(1, 2)]);
            said.session = session;
            let boot = if session == ended([0; 16]) { [0; 16] } else { boot };
            assert_eq!(said.close(now, boot, ino), None, "{session:?}");
            let wanted: Vec<_> = [(1, 2)].iter().chain(wanted).map(|w| window(w.0, w.1)).collect();
            assert_eq!((said.session, said.windows()), (None, &wanted[..]), "{session:?}");
        }
        let mut said = sessions(&[]);
        said.session = ended(boot);
        assert_eq!(said.close(449, boot, 7), Some(100), "the next session goes on from there");
        assert!(said.windows().is_empty());
    }

    #[test]
    fn a_file_is_covered_by_when_it_was_born_and_not_touched_later() {
        let mut strict = sessions(&[(1000, 2000)]);
        let mut relaxed = strict.clone();
        relaxed.windows[0].in_place = true;
        let made = |born, written| Made { born, written };
        let cases = [
            (made(Some(1500), 1500), true, true),
            (made(Some(1500), 10), true, true),
            (made(Some(997), 997), true, true),
            (made(Some(2003), 2003), true, true),
            (made(Some(1500), 2004), false, false),
            (made(Some(996), 1500), false, true),
            (made(Some(996), 996), false, false),
            (made(Some(9000), 1500), true, true),
            (made(Some(9000), 9000), false, false),
            (made(None, 1500), true, true),
            (made(None, 2004), false, false),
        ];
        for (made, by_strict, by_relaxed) in cases {
            let covered = (strict.cover(made), relaxed.cover(made));
            assert_eq!(covered, (by_strict, by_relaxed), "{made:?}");
        }
        strict.windows.clear();
        assert!(!strict.cover(made(Some(1500), 1500)));
    }
}
