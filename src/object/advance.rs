//! Records of a pass through a store that others write to meanwhile, in a local file without a
//! name.
//!
//! A record counts later only if the object is still the same: inode number, size and change time,
//! which any change moves, have to be those of when it was looked at. What changed in the moment in
//! which the pass began, or later, may change once more at the same time of a coarse clock: the
//! pass leaves it out.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::Stat;

use crate::format::bytes::take;
use crate::format::snapshot::{self, Record, Time};
use crate::object::error::{SnapshotError, local};
use crate::object::outbox::nameless;

/// Bytes of [`Seen`].
const SEEN_LEN: usize = 28;

/// What tells that a stored object was not touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::object) struct Seen {
    pub(in crate::object) ino: u64,
    pub(in crate::object) len: u64,
    pub(in crate::object) changed: Time,
}

impl Seen {
    pub(in crate::object) fn of(stat: &Stat) -> Self {
        let ns = u32::try_from(stat.st_ctime_nsec).unwrap_or(0);
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        Self { ino: stat.st_ino, len, changed: Time { s: stat.st_ctime, ns } }
    }

    fn encode(&self) -> [u8; SEEN_LEN] {
        let fields: [&[u8]; 4] = [
            &self.ino.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.changed.s.to_le_bytes(),
            &self.changed.ns.to_le_bytes(),
        ];
        fields.concat().try_into().expect("8 + 8 + 8 + 4")
    }

    fn decode(bytes: &[u8; SEEN_LEN]) -> Self {
        let rest = &mut &bytes[..];
        let (ino, len) = (u64::from_le_bytes(take(rest)), u64::from_le_bytes(take(rest)));
        let changed =
            Time { s: i64::from_le_bytes(take(rest)), ns: u32::from_le_bytes(take(rest)) };
        Self { ino, len, changed }
    }
}

/// The time of the store's disk, by a file that is made there and has no name; `None` where that
/// can't be.
pub(in crate::object) fn disk_time(store: &Path) -> Option<Time> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(store, flags, Mode::RUSR).ok()?;
    Some(Seen::of(&rustix::fs::fstat(&file).ok()?).changed)
}

/// Writes records in order.
#[derive(Debug)]
pub(in crate::object) struct AdvanceWriter {
    file: BufWriter<File>,
    last: Vec<u8>,
}

fn failed(error: std::io::Error) -> SnapshotError {
    local(b"list of what was read", "can't write or read it")(error)
}

impl AdvanceWriter {
    pub(in crate::object) fn new(dir: &Path) -> Result<Self, SnapshotError> {
        Ok(Self { file: BufWriter::new(nameless(dir).map_err(failed)?), last: Vec::new() })
    }

    pub(in crate::object) fn push(
        &mut self,
        record: &Record,
        seen: &Seen,
    ) -> Result<(), SnapshotError> {
        let mut bytes = Vec::new();
        snapshot::encode(&mut bytes, record, &self.last);
        self.last.clone_from(&record.path);
        let len = (bytes.len() as u64).to_le_bytes();
        for part in [&len[..], &seen.encode(), &bytes] {
            self.file.write_all(part).map_err(failed)?;
        }
        Ok(())
    }

    pub(in crate::object) fn finish(self) -> Result<Advance, SnapshotError> {
        let mut file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        let end = file.stream_position().map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let file = BufReader::with_capacity(1 << 20, file).take(end);
        Ok(Advance { file, last: Vec::new(), next: None })
    }
}

/// Reads them.
#[derive(Debug)]
pub(in crate::object) struct Advance {
    file: std::io::Take<BufReader<File>>,
    last: Vec<u8>,
    next: Option<(Record, Seen)>,
}

impl Advance {
    fn next(&mut self) -> Result<Option<(Record, Seen)>, SnapshotError> {
        if self.next.is_some() {
            return Ok(self.next.take());
        }
        if self.file.limit() == 0 {
            return Ok(None);
        }
        let (mut len, mut seen) = ([0; 8], [0; SEEN_LEN]);
        self.file.read_exact(&mut len).map_err(failed)?;
        self.file.read_exact(&mut seen).map_err(failed)?;
        let mut bytes = Vec::new();
        let wanted = u64::from_le_bytes(len);
        (&mut self.file).take(wanted).read_to_end(&mut bytes).map_err(failed)?;
        let record = snapshot::decode(&mut &bytes[..], &self.last);
        let record = record.ok_or_else(|| failed(std::io::ErrorKind::InvalidData.into()))?;
        self.last.clone_from(&record.path);
        Ok(Some((record, Seen::decode(&seen))))
    }

    /// The record of this path, if the object is still what it was.
    pub(in crate::object) fn find(
        &mut self,
        path: &[u8],
        now: &Seen,
    ) -> Result<Option<Record>, SnapshotError> {
        while let Some((record, seen)) = self.next()? {
            match snapshot::order(&record.path, path) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok((seen == *now).then_some(record)),
                std::cmp::Ordering::Greater => {
                    self.next = Some((record, seen));
                    break;
                }
            }
        }
        Ok(None)
    }
}
