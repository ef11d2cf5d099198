//! The file system, and how it finds the object behind a number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::file::{Access, Changing, Dir, File, FileError, Held, Kind, Stat, Volume};
use crate::format::name::NAME_MAX;
use crate::fs::content::OpenFile;
use crate::fs::dirs::OpenDirs;
use crate::fs::error::FsError;
use crate::fs::guard::NameGuards;
use crate::fs::handles::Handles;
use crate::fs::ids::{Attr, InodeId};
use crate::fs::listing::Keepers;
use crate::fs::seen::Seen;
use crate::fs::table::Table;
use crate::limits::DESCRIPTORS_SPARE;

/// How often an operation looks for its object again because somebody moved it meanwhile. A
/// rename takes longer than to look, so that a second time is rare and a third one rarer.
pub(in crate::fs) const ATTEMPTS: usize = 32;

/// Directories below one another before a path counts as a circle, which only a walk that
/// renames overtake can see.
const DEPTH_MAX: usize = 1 << 16;

/// A volume as a POSIX file system. All operations may be called from any thread.
///
/// Every [`Attr`] that an operation gives for a name (lookup, create, link and their like) counts
/// as handing the inode out once, to be taken back by [`Fs::forget`].
#[derive(Debug)]
pub struct Fs {
    pub(in crate::fs) volume: Arc<Volume>,
    pub(in crate::fs) root: Dir,
    pub(in crate::fs) inodes: Arc<Table>,
    pub(in crate::fs) dirs: OpenDirs,
    pub(in crate::fs) guards: NameGuards,
    pub(in crate::fs) handles: Handles,
    pub(in crate::fs) seen: Seen,
    pub(in crate::fs) keepers: Keepers,
    /// Whoever asks keeps size and times of the files that it writes itself.
    pub(in crate::fs) keeps_times: AtomicBool,
}

impl Fs {
    /// The file system of an open volume, with `root` as its root.
    pub fn new(volume: Arc<Volume>, root: Dir) -> Arc<Self> {
        Arc::new(Self::over(volume, root, Arc::default()))
    }

    /// The same, with inodes that are known already.
    pub(in crate::fs) fn over(volume: Arc<Volume>, root: Dir, inodes: Arc<Table>) -> Self {
        Self {
            dirs: OpenDirs::new(volume.open_dirs()),
            volume,
            root,
            inodes,
            guards: NameGuards::new(),
            handles: Handles::default(),
            seen: Seen::default(),
            keepers: Keepers::default(),
            keeps_times: AtomicBool::new(false),
        }
    }

    /// The volume behind it.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Says whether the kernel gathers writes: then it knows size and times of a file better, and
    /// attributes may be remembered while the file is being written.
    pub fn set_keeps_times(&self, keeps: bool) {
        self.keeps_times.store(keeps, Ordering::Relaxed);
    }

    /// What is at a name. Where the kernel keeps size and times itself, it takes the size from here
    /// and from nowhere else, once; so it has to be the authentic one: that of the header.
    pub(in crate::fs) fn looked_up(&self, dir: &Dir, name: &[u8]) -> Result<Stat, FsError> {
        let stat = dir.lookup(name)?;
        let is_known = || self.inodes.kind(self.id(stat.ino)).is_some();
        if stat.kind != Kind::File || !self.keeps_times.load(Ordering::Relaxed) || is_known() {
            return Ok(stat);
        }
        let mut opened = dir.open_file(name, Access::Read);
        if matches!(opened, Err(FileError::Stale)) {
            // It was longer than its header says, and has been cut.
            opened = dir.open_file(name, Access::Read);
        }
        match opened {
            Ok(file) if file.ino() == stat.ino => Ok(file.stat()?),
            // What does not open is not read either.
            _ => Ok(stat),
        }
    }

    /// Whether the attributes of a file may be remembered outside.
    fn is_settled(&self, open: Option<&OpenFile>) -> bool {
        let dirty = || open.is_some_and(|open| open.file.is_dirty());
        self.changes_here_only() && (self.keeps_times.load(Ordering::Relaxed) || !dirty())
    }

    /// How many inodes are known outside, and directories above those; the root not counted.
    pub fn inode_count(&self) -> usize {
        self.inodes.count()
    }

    /// How many files and directory streams are open.
    pub fn handle_count(&self) -> usize {
        self.handles.count()
    }

    /// Commits every file and lets go of all that is open and known, when nobody will ask again.
    ///
    /// # Errors
    /// The first that a commit gave; all were tried.
    pub fn finish(&self) -> Result<(), FsError> {
        let committed = self.commit("the volume was unmounted");
        self.handles.drain();
        self.inodes.clear();
        self.dirs.clear();
        committed
    }

    /// Commits every file. The log says what becomes of what could not be: nobody tries again after
    /// what `happened`.
    ///
    /// # Errors
    /// The first that a commit gave; all were tried.
    pub fn commit(&self, happened: &str) -> Result<(), FsError> {
        let committed = self.volume.commit_all();
        if let Err(error) = &committed {
            match self.volume.has_stored_all() {
                true => tracing::error!(
                    %error,
                    "when {happened}, not all was brought to its place: the journal has it, for \
                     the next mount to bring there"
                ),
                false => tracing::error!(%error, "changes were lost when {happened}"),
            }
        }
        Ok(committed?)
    }

    /// Number of the inode with this lower number. The root's and 1 change places, so that the
    /// root is 1 and no two inodes share a number.
    pub(in crate::fs) fn id(&self, lower: u64) -> InodeId {
        match lower {
            lower if lower == self.root.ino() => InodeId::ROOT,
            1 => InodeId(self.root.ino()),
            lower => InodeId(lower),
        }
    }

    pub(in crate::fs) fn lower(&self, id: InodeId) -> u64 {
        self.id(id.0).0
    }

    /// The first thing that an operation does which changes something. It keeps what this gives
    /// to its end, and calls no other that does the same: a snapshot waits for it, and holds up
    /// the next.
    ///
    /// # Errors
    /// `ReadOnly`, or what a lease that is lost gives.
    pub(in crate::fs) fn must_be_writable(&self) -> Result<Changing<'_>, FsError> {
        self.begin(Volume::change)
    }

    /// The same for what makes files or changes what they hold: it waits while the journal has to
    /// be emptied first.
    ///
    /// # Errors
    /// As [`Self::must_be_writable`].
    pub(in crate::fs) fn must_take_content(&self) -> Result<Changing<'_>, FsError> {
        self.begin(Volume::change_content)
    }

    fn begin<'a>(
        &'a self,
        change: impl FnOnce(&'a Volume) -> Changing<'a>,
    ) -> Result<Changing<'a>, FsError> {
        if self.volume.read_only() {
            return Err(FsError::ReadOnly);
        }
        let changing = change(&self.volume);
        self.volume.check_writable()?;
        Ok(changing)
    }

    /// Refuses what would hold a descriptor for as long as its opener likes, once no more than
    /// `spare` are left: what all others do needs some for a moment.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(in crate::fs) fn must_leave(&self, spare: u64) -> Result<(), FsError> {
        if self.volume.has_descriptors(spare) {
            Ok(())
        } else {
            Err(FileError::Sys(Errno::MFILE).into())
        }
    }

    /// The attributes of an inode that is known already.
    pub(in crate::fs) fn attr(&self, stat: Stat) -> Attr {
        let ino = self.id(stat.ino);
        let settled = self.is_settled(self.inodes.open(ino).as_deref());
        Attr { ino, generation: self.inodes.generation(ino), stat, settled }
    }

    /// The attributes of an inode that is handed out under a name.
    pub(in crate::fs) fn hand_out(&self, parent: InodeId, name: &[u8], stat: Stat) -> Attr {
        let ino = self.id(stat.ino);
        if ino == InodeId::ROOT {
            return Attr { ino, generation: 0, stat, settled: self.changes_here_only() };
        }
        let (generation, open) = self.inodes.know(ino, stat.kind, parent, name);
        if !self.changes_here_only() {
            // Names that it had may be gone, and be another's.
            let count = if stat.kind == Kind::Dir { 1 } else { stat.nlink };
            self.inodes.keep_newest(ino, usize::try_from(count.max(1)).unwrap_or(usize::MAX));
        }
        Attr { ino, generation, stat, settled: self.is_settled(open.as_deref()) }
    }

    /// Whether nobody but who asks this file system changes the volume. Otherwise nothing that is
    /// known of it may be remembered outside.
    pub fn changes_here_only(&self) -> bool {
        !self.volume.read_only()
    }

    /// The directory of that number, open.
    ///
    /// # Errors
    /// `NotFound` if it was removed, `NotDir`, `Stale`, and the store's.
    pub(in crate::fs) fn dir(&self, id: InodeId) -> Result<Dir, FsError> {
        if id == InodeId::ROOT {
            return Ok(self.root.clone());
        }
        if let Some(dir) = self.dirs.get(id) {
            return Ok(dir);
        }
        let held = |held: &Held| held.dir().ok_or(FsError::NotDir);
        self.held_or(id, held, || {
            for _ in 0..ATTEMPTS {
                if let Some(dir) = self.reopen(id)? {
                    return Ok(dir);
                }
            }
            Err(FsError::Stale)
        })
    }

    /// Does something with what is kept of an inode without a name, or else `named`. Its last name
    /// may go when that has begun, so that the one look decides nothing.
    fn held_or<T>(
        &self,
        id: InodeId,
        kept: impl Fn(&Held) -> Result<T, FsError>,
        named: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        if let Some(held) = self.inodes.held(id) {
            return kept(&held);
        }
        match (named(), self.inodes.held(id)) {
            (Err(FsError::NotFound), Some(held)) => kept(&held),
            (done, _) => done,
        }
    }

    /// Does something with an inode by what is kept of it, or by a name it has.
    ///
    /// # Errors
    /// As [`Fs::by_name`].
    pub(in crate::fs) fn by_held_or_name<T>(
        &self,
        id: InodeId,
        kept: impl Fn(&Held) -> Result<T, FsError>,
        named: impl Fn(&Dir, &[u8]) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.held_or(id, kept, || self.by_name(id, named))
    }

    /// Opens a directory, by the names of those above it that are not open. `None` if one of them
    /// was moved to another directory, or removed, meanwhile.
    fn reopen(&self, id: InodeId) -> Result<Option<Dir>, FsError> {
        let mut way: Vec<(InodeId, InodeId)> = Vec::new();
        let mut next = id;
        let mut dir = loop {
            let open = if next == InodeId::ROOT { Some(self.root.clone()) } else { None };
            if let Some(dir) = open.or_else(|| self.dirs.get(next)) {
                break dir;
            }
            if way.len() == DEPTH_MAX {
                return Ok(None);
            }
            let parent = self.inodes.parent(next).ok_or(FsError::NotFound)?;
            if self.inodes.kind(next).is_some_and(|kind| kind != Kind::Dir) {
                return Err(FsError::NotDir);
            }
            way.push((parent, next));
            next = parent;
        };
        for (parent, id) in way.into_iter().rev() {
            // The disk has a rename or a removal before the table does: neither may be under way,
            // nor begin before what was opened is where a removal looks for it.
            let _names = self.guards.follow(parent);
            let Some(name) = self.inodes.name_in(id, parent) else { return Ok(None) };
            let opened = dir.open_dir(&name).map_err(FsError::from);
            let same = |dir: Dir| match dir.ino() == self.lower(id) {
                true => Ok(dir),
                false => Err(FsError::Stale),
            };
            dir = match opened.and_then(same) {
                Err(error) if self.is_moved(&error) => {
                    self.inodes.remove_name(id, parent, &name, None);
                    return Ok(None);
                }
                opened => opened?,
            };
            if self.volume.has_descriptors(DESCRIPTORS_SPARE) {
                self.dirs.insert(id, dir.clone());
            }
        }
        Ok(Some(dir))
    }

    /// Whether a name that was known leads there no more because another process has moved or
    /// removed it.
    fn is_moved(&self, error: &FsError) -> bool {
        let gone = matches!(error, FsError::Stale) || error.is_not_found();
        gone && !self.changes_here_only()
    }

    /// Does something with an inode by a name it has, which stays its name meanwhile.
    ///
    /// # Errors
    /// `NotFound` if it has none, `Stale`, and those of `work`.
    pub(in crate::fs) fn by_name<T>(
        &self,
        id: InodeId,
        work: impl Fn(&Dir, &[u8]) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        for _ in 0..ATTEMPTS {
            let parent = self.inodes.parent(id).ok_or(FsError::NotFound)?;
            // Before the guard: opening it may need other names to be followed.
            let dir = self.dir(parent)?;
            let _names = self.guards.follow(parent);
            if let Some(name) = self.inodes.name_in(id, parent) {
                match work(&dir, &name) {
                    Err(error) if self.is_moved(&error) => {
                        self.inodes.remove_name(id, parent, &name, None);
                    }
                    done => return done,
                }
            }
        }
        Err(FsError::Stale)
    }

    /// The file of that number, open for `access`, whether it has a name or not any more.
    ///
    /// # Errors
    /// `NotFound`, `Stale`, and the store's.
    pub(in crate::fs) fn file(&self, id: InodeId, access: Access) -> Result<Arc<File>, FsError> {
        let named = |dir: &Dir, name: &[u8]| self.same_file(id, dir.open_file(name, access)?);
        self.by_held_or_name(id, |held| Ok(held.open_file(access)?), named)
    }

    /// The attributes as the lower filesystem and the open file give them.
    pub(in crate::fs) fn stat(&self, id: InodeId) -> Result<Stat, FsError> {
        if id == InodeId::ROOT {
            return Ok(self.root.stat()?);
        }
        if let Some(open) = self.inodes.open(id) {
            return Ok(open.file.stat()?);
        }
        if let Some(dir) = self.dirs.get(id) {
            return Ok(dir.stat()?);
        }
        let named = |dir: &Dir, name: &[u8]| self.same(id, dir.lookup(name)?);
        self.by_held_or_name(id, |held| Ok(held.stat()?), named)
    }

    /// # Errors
    /// `Stale` if these are another inode's: the store was changed from elsewhere.
    pub(in crate::fs) fn same(&self, id: InodeId, stat: Stat) -> Result<Stat, FsError> {
        if stat.ino == self.lower(id) { Ok(stat) } else { Err(FsError::Stale) }
    }

    /// # Errors
    /// `Stale` if this is another inode's: the store was changed from elsewhere.
    fn same_file(&self, id: InodeId, file: Arc<File>) -> Result<Arc<File>, FsError> {
        if file.ino() == self.lower(id) { Ok(file) } else { Err(FsError::Stale) }
    }
}

/// A name that may be made or looked for.
///
/// # Errors
/// `NameTooLong` over 255 bytes; `Invalid` for none, `.`, `..`, and with a `/` or zero byte in it.
pub(in crate::fs) fn checked(name: &[u8]) -> Result<&[u8], FsError> {
    match name {
        b"" | b"." | b".." => Err(FsError::Invalid),
        name if name.len() > NAME_MAX => Err(FsError::NameTooLong),
        name if name.contains(&b'/') || name.contains(&0) => Err(FsError::Invalid),
        name => Ok(name),
    }
}
