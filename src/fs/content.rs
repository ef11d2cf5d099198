//! Files by handle: open, read, write, sync, close.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::file::{Access, Allocate, File, FileError, Seek, SetAttr, Slice, Told};
use crate::fs::core::Fs;
use crate::fs::error::FsError;
use crate::fs::handles::Handle;
use crate::fs::ids::{HandleId, InodeId, OpenFlags, Privileges, Sync};
use crate::fs::rest::Resting;
use crate::limits::DESCRIPTORS_SPARE;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o010;

/// The open file of an inode, shared by all its handles.
#[derive(Debug)]
pub(in crate::fs) struct OpenFile {
    pub(in crate::fs) file: Arc<File>,
    writable: AtomicBool,
    /// Whether the mode may have set-id bits. Saves a look at the attributes before each write.
    maybe_set_id: AtomicBool,
    /// Whether it may have capabilities. Saves a try to remove them before each write.
    maybe_capable: AtomicBool,
}

impl OpenFile {
    pub(in crate::fs) fn new(file: Arc<File>, access: Access) -> Arc<Self> {
        Arc::new(Self {
            file,
            writable: AtomicBool::new(access == Access::Write),
            maybe_set_id: AtomicBool::new(true),
            maybe_capable: AtomicBool::new(true),
        })
    }

    /// With a file that was opened meanwhile: one file has one open file, and is written through
    /// all handles once it is through one.
    fn merged(there: Option<Arc<Self>>, file: Arc<File>, access: Access) -> Arc<Self> {
        match there.filter(|there| Arc::ptr_eq(&there.file, &file)) {
            Some(there) => {
                there.writable.fetch_or(access == Access::Write, Ordering::Relaxed);
                there
            }
            None => Self::new(file, access),
        }
    }

    /// With a file that was just made, which has no capabilities yet.
    pub(in crate::fs) fn fresh(there: Option<Arc<Self>>, file: Arc<File>) -> Arc<Self> {
        let open = Self::merged(there, file, Access::Write);
        open.maybe_capable.store(false, Ordering::Relaxed);
        open
    }

    pub(in crate::fs) fn allows(&self, access: Access) -> bool {
        access == Access::Read || self.writable.load(Ordering::Relaxed)
    }

    /// The mode was changed.
    pub(in crate::fs) fn mode_changed(&self) {
        self.maybe_set_id.store(true, Ordering::Relaxed);
    }

    /// An extended attribute was changed, which may be an access control list or capabilities.
    pub(in crate::fs) fn attributes_changed(&self) {
        self.mode_changed();
        self.maybe_capable.store(true, Ordering::Relaxed);
    }

    /// Whether it has no capabilities, as far as that is known without a look.
    pub(in crate::fs) fn is_incapable(&self) -> bool {
        !self.maybe_capable.load(Ordering::Relaxed)
    }

    /// Takes away what capabilities it has. One that is set meanwhile is noted after this.
    pub(in crate::fs) fn remove_capabilities(&self) -> Result<(), FsError> {
        if self.maybe_capable.swap(false, Ordering::Relaxed) {
            self.file.remove_capabilities().inspect_err(|_| self.attributes_changed())?;
        }
        Ok(())
    }

    /// Clears what a change of the content takes away, as write(2) and capabilities(7) have it:
    /// capabilities whoever changes it; set-id bits unless the caller may set them, the group's
    /// only where the group executes, as elsewhere it means something else.
    pub(in crate::fs) fn apply(&self, privileges: Privileges) -> Result<(), FsError> {
        self.remove_capabilities()?;
        if privileges == Privileges::Keep || !self.maybe_set_id.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(mode) = without_privileges(self.file.stat()?.mode) {
            self.file.set_attr(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
        }
        self.maybe_set_id.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// The mode without the set-id bits that a change of the content takes away; `None` if it has
/// none.
fn without_privileges(mode: u32) -> Option<u32> {
    let group = if mode & GROUP_EXECUTES == 0 { 0 } else { SET_GID };
    let left = mode & !(SET_UID | group);
    (left != mode).then_some(left)
}

/// An open file of one opener.
#[derive(Debug)]
pub(in crate::fs) struct FileHandle {
    inode: InodeId,
    open: Arc<OpenFile>,
    sync: Sync,
    told: Told,
    /// What was to be told before the volume was closed for a while.
    rested: Mutex<Option<FileError>>,
}

impl FileHandle {
    pub(in crate::fs) fn new(
        inode: InodeId,
        open: Arc<OpenFile>,
        sync: Sync,
        rested: Option<FileError>,
    ) -> Self {
        let told = open.file.told();
        Self { inode, open, sync, told, rested: Mutex::new(rested) }
    }

    pub(in crate::fs) fn resting(&self) -> Resting {
        let write = self.open.allows(Access::Write);
        let access = if write { Access::Write } else { Access::Read };
        let owed = self.rested().take().or_else(|| self.file().settle_debts(&self.told).err());
        Resting::File { inode: self.inode, access, sync: self.sync, owed }
    }

    fn file(&self) -> &File {
        &self.open.file
    }

    /// Whether there is something to be told.
    fn owes(&self) -> bool {
        self.file().owes(&self.told) || self.rested().is_some()
    }

    /// Fails with what a write that was answered has failed with, once. Does not wait for it.
    fn hear(&self) -> Result<(), FsError> {
        if let Some(error) = self.rested().take() {
            return Err(error.into());
        }
        Ok(self.file().settle_debts(&self.told)?)
    }

    /// The same, and tells it again: where a child closes what it was born with, nobody listens.
    fn listen(&self) -> Result<(), FsError> {
        if let Some(error) = &*self.rested() {
            return Err(error.clone().into());
        }
        Ok(self.file().debt(&self.told)?)
    }

    fn rested(&self) -> MutexGuard<'_, Option<FileError>> {
        self.rested.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what its opener asked each write to wait for.
    fn settle(&self) -> Result<(), FsError> {
        match self.sync {
            Sync::No => Ok(()),
            Sync::Data => Ok(self.file().sync(true)?),
            Sync::All => Ok(self.file().sync(false)?),
        }
    }
}

impl Fs {
    /// Opens a file. `flags.exclusive` means nothing here.
    ///
    /// # Errors
    /// `ReadOnly`, `EMFILE` if few descriptors are left, `NotFound` if nobody can know it any more,
    /// `Stale` if what was known of it was wrong and has to be asked again, and the store's.
    pub fn open(&self, id: InodeId, flags: OpenFlags) -> Result<HandleId, FsError> {
        let _changing = match flags {
            OpenFlags { truncate: true, .. } => Some(self.must_take_content()?),
            OpenFlags { access: Access::Write, .. } => Some(self.must_be_writable()?),
            _ => None,
        };
        self.open_now(id, flags)
    }

    /// [`Fs::open`], for those who have seen to it that the volume is writable.
    pub(in crate::fs) fn open_now(
        &self,
        id: InodeId,
        flags: OpenFlags,
    ) -> Result<HandleId, FsError> {
        let open = match self.share_inode(id, flags.access) {
            Some(open) => {
                open.file.look_again();
                open
            }
            None => {
                self.must_leave(DESCRIPTORS_SPARE)?;
                self.open_inode(id, flags.access)?
            }
        };
        let handle = self.insert_file(id, open.clone(), flags.sync);
        if flags.truncate
            && let Err(error) = open.file.set_len(0)
        {
            self.release(handle)?;
            return Err(error.into());
        }
        Ok(handle)
    }

    /// The same, if it is open already: then it takes no descriptor.
    fn share_inode(&self, id: InodeId, access: Access) -> Option<Arc<OpenFile>> {
        self.inodes.share_open(id, |open| open.allows(access))
    }

    /// The open file of an inode, with one handle more.
    fn open_inode(&self, id: InodeId, access: Access) -> Result<Arc<OpenFile>, FsError> {
        match self.share_inode(id, access) {
            Some(open) => Ok(open),
            None => {
                let file = self.file(id, access)?;
                let merge = |there| OpenFile::merged(there, file, access);
                Ok(self.inodes.add_handle(id, merge))
            }
        }
    }

    /// Changes the file of an inode, which need not be open.
    pub(in crate::fs) fn with_writable<T>(
        &self,
        id: InodeId,
        work: impl FnOnce(&OpenFile) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let open = self.open_inode(id, Access::Write)?;
        let done = work(&open);
        let closed = self.close(id, &open);
        done.and_then(|done| closed.map(|()| done))
    }

    /// Whether what the kernel kept of a file that was just opened is wrong: something written was
    /// lost since this was last asked, as when the disk was full, or another process changed it.
    pub fn take_spoiled(&self, id: InodeId) -> bool {
        if self.changes_here_only() {
            return self.volume.take_spoiled(id.0);
        }
        let state = self.inodes.open(id).map(|open| open.file.known_state());
        !state.is_some_and(|state| self.seen.again(id.0, state))
    }

    pub(in crate::fs) fn insert_file(
        &self,
        inode: InodeId,
        open: Arc<OpenFile>,
        sync: Sync,
    ) -> HandleId {
        self.handles.insert(Handle::of_file(inode, open, sync, None))
    }

    /// Does something with the file of a handle.
    fn with_file<T>(
        &self,
        handle: HandleId,
        work: impl FnOnce(&FileHandle) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        match &*self.handles.get(handle)? {
            Handle::File(file) => work(file),
            Handle::Dir(_) => Err(FsError::IsDir),
            Handle::Gone { .. } => Err(FsError::Stale),
        }
    }

    /// The same, where the file is to be changed.
    fn change_file<T>(
        &self,
        handle: HandleId,
        privileges: Privileges,
        work: impl FnOnce(&FileHandle) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let _changing = self.volume.change_content();
        self.with_file(handle, |file| {
            if !file.open.allows(Access::Write) {
                return Err(FsError::BadHandle);
            }
            self.volume.check_writable()?;
            file.open.apply(privileges)?;
            let done = work(file)?;
            file.settle()?;
            Ok(done)
        })
    }

    /// Does something with the file of an inode, if it is open, and keeps it open meanwhile.
    pub(in crate::fs) fn with_open<T>(
        &self,
        id: InodeId,
        work: impl FnOnce(&OpenFile) -> Result<T, FsError>,
    ) -> Option<Result<T, FsError>> {
        let open = self.inodes.share_open(id, |_| true)?;
        let done = work(&open);
        let closed = self.close(id, &open);
        Some(done.and_then(|done| closed.map(|()| done)))
    }

    /// One handle less: what it left uncommitted is committed, as nobody may come after it.
    fn close(&self, id: InodeId, open: &OpenFile) -> Result<(), FsError> {
        let committed = open.file.commit();
        self.inodes.drop_handle(id);
        Ok(committed?)
    }

    /// Up to `len` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// `BadHandle`, damage, and the store's.
    pub fn read(&self, handle: HandleId, offset: u64, len: usize) -> Result<Slice, FsError> {
        self.with_file(handle, |file| Ok(file.file().read(offset, len)?))
    }

    /// Writes all of `data` at `offset`, also through a handle opened to append: the kernel gives
    /// the offset there too, under its lock of the inode, and sends parts of one large write in
    /// any order.
    ///
    /// # Errors
    /// `BadHandle`, file too large, no space, damage of what is written over in part.
    pub fn write(
        &self,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        privileges: Privileges,
    ) -> Result<(), FsError> {
        self.change_file(handle, privileges, |file| {
            file.file().write(offset, data)?;
            file.hear()
        })
    }

    /// The same; calls `accepted` at most once, if the caller's program may go on while the rest is
    /// done. What goes wrong after that is told to the next write, sync or flush of each handle.
    ///
    /// # Errors
    /// As [`Fs::write`].
    pub fn write_behind(
        &self,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        privileges: Privileges,
        accepted: &mut dyn FnMut(),
    ) -> Result<(), FsError> {
        self.change_file(handle, privileges, |file| {
            let mut was_accepted = false;
            // Who is to be told something is told it by the answer, and this write is done too.
            let mut accept = || {
                was_accepted = file.sync == Sync::No && !file.owes();
                if was_accepted {
                    accepted();
                }
                was_accepted
            };
            file.file().write_behind(offset, data, &mut accept)?;
            if was_accepted { Ok(()) } else { file.hear() }
        })
    }

    /// Writes all of `data` at the end, wherever that is by then; gives the offset.
    ///
    /// # Errors
    /// As [`Fs::write`].
    pub fn append(&self, handle: HandleId, data: &[u8]) -> Result<u64, FsError> {
        self.change_file(handle, Privileges::Keep, |file| {
            let offset = file.file().append(data)?;
            file.hear().map(|()| offset)
        })
    }

    /// Reserves space, or makes a range zeros.
    ///
    /// # Errors
    /// `Invalid` for no bytes, file too large, no space.
    pub fn fallocate(
        &self,
        handle: HandleId,
        mode: Allocate,
        offset: u64,
        len: u64,
        privileges: Privileges,
    ) -> Result<(), FsError> {
        if len == 0 {
            return Err(FsError::Invalid);
        }
        self.change_file(handle, privileges, |file| Ok(file.file().allocate(mode, offset, len)?))
    }

    /// Whether a file is open for writing somewhere, by this handle or another.
    pub fn may_be_written(&self, handle: HandleId) -> bool {
        self.with_file(handle, |file| Ok(file.open.allows(Access::Write))).unwrap_or(false)
    }

    /// Offset of the next data or hole from `offset` on.
    ///
    /// # Errors
    /// `ENXIO` from the end of the file on.
    pub fn lseek(&self, handle: HandleId, offset: u64, seek: Seek) -> Result<u64, FsError> {
        self.with_file(handle, |file| Ok(file.file().seek(offset, seek)?))
    }

    /// Copies `len` bytes from one open file to another or the same; gives how many, fewer at
    /// the end of the source.
    ///
    /// # Errors
    /// `BadHandle`, `Invalid` if the ranges overlap in one file, and those of read and write.
    pub fn copy_file_range(
        &self,
        source: (HandleId, u64),
        target: (HandleId, u64),
        len: u64,
        privileges: Privileges,
    ) -> Result<u64, FsError> {
        self.with_file(source.0, |from| {
            self.change_file(target.0, privileges, |to| {
                // The source ends where it ends now, also if the copy lengthens it.
                let len = len.min(from.file().len().saturating_sub(source.1));
                let apart = source.1.abs_diff(target.1) >= len;
                if from.inode == to.inode && !apart {
                    return Err(FsError::Invalid);
                }
                Ok(from.file().copy_range(source.1, to.file(), target.1, len)?)
            })
        })
    }

    /// What close(2) waits for and gets the error of: everything written is with the store.
    ///
    /// # Errors
    /// `BadHandle`, and what a commit gives.
    pub fn flush(&self, handle: HandleId) -> Result<(), FsError> {
        self.with_file(handle, |file| {
            file.file().commit()?;
            file.listen()
        })
    }

    /// Returns when everything written survives a power cut; with [`Sync::Data`] attributes that
    /// are not needed to read it back may not.
    ///
    /// # Errors
    /// `BadHandle`, and what a commit or the disk gives.
    pub fn fsync(&self, handle: HandleId, sync: Sync) -> Result<(), FsError> {
        self.with_file(handle, |file| {
            file.file().sync(sync == Sync::Data)?;
            file.hear()
        })
    }

    /// Closes a handle; nobody hears of an error any more, so it is logged.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn release(&self, handle: HandleId) -> Result<(), FsError> {
        let handle = self.handles.remove(handle)?;
        if let Handle::Gone { file: Some(inode) } = &*handle {
            self.inodes.drop_handle(*inode);
        }
        if let Handle::Dir(stream) = &*handle {
            self.keep_no_more(stream);
        }
        if let Handle::File(file) = &*handle {
            match self.close(file.inode, &file.open) {
                // That was told when the file failed.
                Ok(()) | Err(FsError::File(FileError::Latched)) => {}
                Err(error) => {
                    let spot = file.file().spot();
                    let (ino, stored) = (spot.ino, spot.stored());
                    if file.file().is_kept() {
                        tracing::error!(
                            ino,
                            stored,
                            %error,
                            "closed and not committed: what was synced is in the journal, what was \
                             written since in memory; both are tried again until they are in place"
                        );
                    } else {
                        let what = "changes were lost on close: write them again";
                        tracing::error!(ino, stored, %error, what);
                    }
                }
            }
        }
        Ok(())
    }
}
