//! One pass through a store: what is unchanged is taken from records of before, the rest is read
//! and sent.
//!
//! The walk decides; threads read, hash and send; records come out in the order of the walk. Memory
//! is that for the pieces that are being read, [`READING_MAX`] a thread, for the packs on their
//! way, and for the content of files with several names.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::format::snapshot::{Content, Kind, Record, Time};
use crate::object::advance::{Advance, Seen};
use crate::object::error::{SnapshotError, local};
use crate::object::outbox::Outbox;
use crate::object::pack::{Packer, Source, source};
use crate::object::parts::Records;
use crate::object::pieces::{Cut, read};
use crate::object::pool::{Later, Pool};
use crate::object::target::TargetError;
use crate::object::walk::{Found, Walk};

/// Pieces that are being read, for each thread.
const READING_MAX: usize = 4;

/// What records of before there are.
#[derive(Debug, Default)]
pub(in crate::object) struct Before {
    /// Of the snapshot that this one is compared with.
    pub(in crate::object) parent: Option<Records>,
    /// Of a pass a moment ago, while the store may have been changing.
    pub(in crate::object) advance: Option<Advance>,
}

/// What takes the records.
pub(in crate::object) type Take<'a> = &'a mut dyn FnMut(Record, Seen) -> Result<(), SnapshotError>;

/// A record whose pieces may still be read.
struct Pending {
    record: Record,
    seen: Seen,
    slots: Vec<Slot>,
}

enum Slot {
    Done(Source),
    Reading(Later<Result<Source, SnapshotError>>),
    /// Waiting for it failed, and with it the pass.
    Lost,
}

/// See the module.
pub(in crate::object) struct Scan<'a> {
    pool: Arc<Pool>,
    outbox: Arc<Outbox>,
    before: Before,
    pending: VecDeque<Pending>,
    reading: usize,
    packer: Packer,
    seen: VecDeque<Seen>,
    /// Files with several names, by inode number.
    linked: HashMap<u64, Content>,
    /// The store may change meanwhile, and what changed at this time or later is left out.
    young: Option<Time>,
    take: Take<'a>,
    files: u64,
    bytes: u64,
}

impl<'a> Scan<'a> {
    pub(in crate::object) fn new(
        pool: &Arc<Pool>,
        outbox: &Arc<Outbox>,
        before: Before,
        young: Option<Time>,
        take: Take<'a>,
    ) -> Self {
        Self {
            pool: Arc::clone(pool),
            outbox: Arc::clone(outbox),
            before,
            pending: VecDeque::new(),
            reading: 0,
            packer: Packer::new(Arc::clone(pool), Arc::clone(outbox)),
            seen: VecDeque::new(),
            linked: HashMap::new(),
            young,
            take,
            files: 0,
            bytes: 0,
        }
    }

    /// Walks to the end. Returns how many regular files there are, and their bytes without holes.
    pub(in crate::object) fn run(mut self, mut walk: Walk) -> Result<(u64, u64), SnapshotError> {
        while let Some(found) = walk.next()? {
            match self.object(&found) {
                // Removed since it was listed.
                Err(SnapshotError::Local(error))
                    if self.young.is_some()
                        && error.error.kind() == std::io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        while !self.pending.is_empty() {
            self.settle()?;
        }
        self.packer.finish()?;
        self.drain()?;
        Ok((self.files, self.bytes))
    }

    fn object(&mut self, found: &Found) -> Result<(), SnapshotError> {
        let seen = Seen::of(&found.stat);
        let changed = (seen.changed.s, seen.changed.ns);
        if self.young.is_some_and(|young| changed >= (young.s, young.ns)) {
            return Ok(());
        }
        let advance = match &mut self.before.advance {
            Some(advance) => advance.find(&found.path, &seen)?,
            None => None,
        };
        if let Some(record) = advance.filter(|record| self.is_there(record)) {
            return self.known(record, seen);
        }
        let path = &found.path;
        let meta = found.meta().map_err(local(path, "can't read its attributes"))?;
        let record = |kind| Record { path: path.clone(), meta, kind };
        let kind = match found.kind() {
            FileType::RegularFile => {
                let record = record(Kind::File(Content::default()));
                return self.file(found, record, seen);
            }
            FileType::Directory => Kind::Dir,
            FileType::Symlink => {
                Kind::Symlink(found.target().map_err(local(path, "can't read it"))?)
            }
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice(found.stat.st_rdev),
            FileType::BlockDevice => Kind::BlockDevice(found.stat.st_rdev),
            FileType::Unknown => return Err(local(path, "can't copy it")(Errno::NOTSUP)),
        };
        self.known(record(kind), seen)
    }

    /// A record of which nothing has to be read.
    fn known(&mut self, record: Record, seen: Seen) -> Result<(), SnapshotError> {
        if let Kind::File(content) = &record.kind
            && record.meta.link != 0
        {
            self.linked.insert(record.meta.link, content.clone());
        }
        self.pending.push_back(Pending { record, seen, slots: Vec::new() });
        self.ease()
    }

    /// Whether the target has all that a record needs.
    fn is_there(&self, record: &Record) -> bool {
        let Kind::File(content) = &record.kind else { return true };
        let mut pieces = content.pieces.iter().filter(|piece| !piece.is_empty());
        pieces.all(|piece| self.outbox.has(&piece.at().0))
    }

    fn file(&mut self, found: &Found, mut record: Record, seen: Seen) -> Result<(), SnapshotError> {
        let path = &found.path;
        let looked_up = self.before.parent.as_mut().map(|parent| parent.find(path));
        let older = match looked_up {
            Some(Err(SnapshotError::Target(
                error @ (TargetError::Missing { .. } | TargetError::Damaged { .. }),
            ))) => {
                tracing::warn!("the snapshot before is not compared with any more: {error}");
                self.before.parent = None;
                None
            }
            Some(found) => found?,
            None => None,
        };
        if let Some(content) = self.linked.get(&found.stat.st_ino)
            && record.meta.link != 0
        {
            record.kind = Kind::File(content.clone());
            return self.known(record, seen);
        }
        let file = found.open().map_err(local(path, "can't open it"))?;
        let cut = Cut::look(file, found.len()).map_err(local(path, "can't read it"))?;
        self.outbox.note_read(crate::format::header::PREFIX_LEN.min(cut.len));
        let older = older.filter(|older| self.is_there(older)).and_then(|older| match older.kind {
            Kind::File(content) => Some(content),
            _ => None,
        });
        match &older {
            Some(older)
                if cut.mark != [0; 16] && (older.mark, older.len) == (cut.mark, cut.len) =>
            {
                record.kind = Kind::File(older.clone());
                return self.known(record, seen);
            }
            _ => {}
        }
        record.kind = Kind::File(cut.content());
        let mut pending = Pending { record, seen, slots: Vec::new() };
        for index in 0..cut.count() {
            let slot = self.piece(&cut, index, older.as_ref(), path)?;
            self.reading += usize::from(matches!(slot, Slot::Reading(_)));
            pending.slots.push(slot);
            while self.reading > self.pool.width() * READING_MAX {
                if self.pending.is_empty() {
                    self.read_one(&mut pending.slots)?;
                } else {
                    self.settle()?;
                }
            }
        }
        self.pending.push_back(pending);
        self.ease()
    }

    fn piece(
        &self,
        cut: &Cut,
        index: u64,
        older: Option<&Content>,
        path: &[u8],
    ) -> Result<Slot, SnapshotError> {
        let mark = cut.mark_of(index).map_err(local(path, "can't read it"))?;
        if let Some(piece) = cut.same(index, &mark, older) {
            return Ok(Slot::Done(Source::There(piece.clone())));
        }
        let (file, spans) = (Arc::clone(&cut.file), cut.spans(index));
        let (outbox, path) = (Arc::clone(&self.outbox), path.to_owned());
        let at = usize::try_from(index).ok();
        let older = older.and_then(|older| older.pieces.get(at?)).cloned();
        Ok(Slot::Reading(self.pool.run(move || {
            let read = read(&file, &spans).map_err(local(&path, "can't read it"))?;
            source(&outbox, mark, read, older)
        })))
    }

    /// Waits for the first piece of these that is being read.
    fn read_one(&mut self, slots: &mut [Slot]) -> Result<(), SnapshotError> {
        for slot in slots {
            if let Slot::Reading(_) = slot {
                if let Slot::Reading(later) = std::mem::replace(slot, Slot::Lost) {
                    self.reading -= 1;
                    *slot = Slot::Done(later.wait()?);
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Lets records go on that wait for nothing; and the first, if many wait.
    fn ease(&mut self) -> Result<(), SnapshotError> {
        while self.pending.len() > self.pool.width() * READING_MAX {
            self.settle()?;
        }
        Ok(())
    }

    /// Waits for the pieces of the first record, and lets it go on.
    fn settle(&mut self) -> Result<(), SnapshotError> {
        let Some(Pending { record, seen, slots }) = self.pending.pop_front() else { return Ok(()) };
        let mut sources = Vec::new();
        for slot in slots {
            sources.push(match slot {
                Slot::Done(source) => source,
                Slot::Reading(later) => {
                    self.reading -= 1;
                    later.wait()?
                }
                Slot::Lost => return Err(TargetError::Lost.into()),
            });
        }
        self.seen.push_back(seen);
        self.packer.push(record, sources)?;
        self.drain()
    }

    fn drain(&mut self) -> Result<(), SnapshotError> {
        while let Some(record) = self.packer.pop() {
            if let Kind::File(content) = &record.kind {
                self.files += 1;
                self.bytes += content.pieces.iter().map(|piece| piece.len()).sum::<u64>();
                if record.meta.link != 0 {
                    self.linked.insert(record.meta.link, content.clone());
                }
            }
            let seen = self.seen.pop_front().unwrap_or_default();
            (self.take)(record, seen)?;
        }
        Ok(())
    }
}
