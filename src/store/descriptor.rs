//! `volume.json` at rest: read, replaced as a whole, destroyed.
//!
//! Whoever changes it holds flock(2) on the file itself, and only for that: the lock of the store
//! belongs to whoever writes the volume, which may be a mount that serves for weeks. A change puts
//! another file in the place of the one that was locked, so whoever waited looks whether the name
//! still leads to what it locked, and begins anew if not. Readers take no lock: a file that has
//! lost its name while it was read is read again by the name.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::format::descriptor::{self, DESCRIPTOR_LEN_MAX, Descriptor, DescriptorError};
use crate::store::blob::{Blob, DiskBlob};
use crate::store::change::SetAttr;
use crate::store::layout::{DESCRIPTOR_NAME, Store, StoreError, regular};
use crate::store::leave;
use crate::store::lock::LockMode;
use crate::store::watch::There;

/// What is to become `volume.json`; a crash may leave it.
const NEW_NAME: &str = "volume.json.new";
/// Between two looks at a lock that somebody has.
const PAUSE: Duration = Duration::from_millis(10);
/// A description is replaced once in a while; one that is gone each time has another cause.
const READS_MAX: u32 = 16;
const UNREADABLE: &str = "can't read volume.json";
const UNWRITTEN: &str = "can't write it";

/// The description of a volume, which nobody else changes as long as this lives.
#[derive(Debug)]
pub struct DescriptorLock {
    store: Store,
    /// The file that was at the name when it was locked, with flock(2) on it.
    file: DiskBlob,
}

impl Store {
    /// Reads `volume.json`: a claim, until its `mac` is checked with the volume key.
    ///
    /// # Errors
    /// Why it can't be used, or the system's.
    pub fn read_descriptor(&self) -> Result<Descriptor, StoreError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut left = READS_MAX;
        loop {
            left -= 1;
            let file = rustix::fs::openat(self.root(), DESCRIPTOR_NAME, flags, Mode::empty())
                .map_err(Self::sys(self.path(), UNREADABLE))?;
            let file = std::fs::File::from(file);
            let found = self.decode(&file);
            let stat = rustix::fs::fstat(&file).map_err(Self::sys(self.path(), UNREADABLE))?;
            // What replaced it may already have put zeros into it.
            if stat.st_nlink > 0 || left == 0 {
                return found;
            }
        }
    }

    fn decode(&self, file: impl Read) -> Result<Descriptor, StoreError> {
        let mut bytes = Vec::new();
        file.take(DESCRIPTOR_LEN_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .map_err(Self::sys(self.path(), UNREADABLE))?;
        let fail = |error| StoreError::Descriptor { path: self.path().to_owned(), error };
        if bytes.len() as u64 > DESCRIPTOR_LEN_MAX {
            let text = format!("longer than {DESCRIPTOR_LEN_MAX} bytes");
            return Err(fail(DescriptorError::Value(text)));
        }
        descriptor::decode(&bytes).map_err(fail)
    }

    /// Replaces `volume.json` as a whole, durably: a crash leaves the old one or the new one. For
    /// a store that nobody else knows yet; elsewhere by [`DescriptorLock::replace`].
    ///
    /// # Errors
    /// The system's; the old file is untouched then.
    pub fn write_descriptor(&self, descriptor: &Descriptor) -> Result<(), StoreError> {
        self.put_descriptor(descriptor, None)
    }

    /// `old` is what it is to replace.
    fn put_descriptor(
        &self,
        descriptor: &Descriptor,
        old: Option<&DescriptorLock>,
    ) -> Result<(), StoreError> {
        let replace = || -> Result<(), Errno> {
            let file = regular(self.dir().create(NEW_NAME.as_bytes(), 0o600, There::Cut)?)?;
            file.write_bytes(0, &descriptor.encode())?;
            old.map_or(Ok(()), |old| old.own_alike(&file))?;
            file.sync(false)?;
            // Another node may not see this one's lock.
            if !old.map_or(Ok(true), DescriptorLock::is_in_place)? {
                return Err(Errno::BUSY);
            }
            self.dir().rename_plain(NEW_NAME, DESCRIPTOR_NAME)
        };
        let replaced =
            replace().inspect_err(|_| match self.dir().unlink_object(NEW_NAME.as_bytes()) {
                Err(Errno::NOENT) => {}
                removed => leave(removed, NEW_NAME),
            });
        replaced
            .and_then(|()| self.dir().sync())
            .map_err(Self::sys(&self.descriptor_path(), UNWRITTEN))
    }

    /// Keeps everybody from changing `volume.json`, or with [`LockMode::Shared`] from changing it
    /// while it is copied. Waits at most `patience` for who changes it now.
    ///
    /// # Errors
    /// [`StoreError::Changing`], no description, or the system's.
    pub fn lock_descriptor(
        &self,
        mode: LockMode,
        patience: Duration,
    ) -> Result<DescriptorLock, StoreError> {
        let (operation, writable) = match mode {
            LockMode::Exclusive => (FlockOperation::NonBlockingLockExclusive, true),
            LockMode::Shared => (FlockOperation::NonBlockingLockShared, false),
        };
        let until = Instant::now() + patience;
        loop {
            let opened = self.dir().open_file(DESCRIPTOR_NAME.as_bytes(), writable);
            let file = match opened.and_then(regular) {
                Err(Errno::NOENT) => return Err(StoreError::NotAStore(self.path().to_owned())),
                opened => {
                    opened.map_err(Self::sys(&self.descriptor_path(), "can't open it to change"))?
                }
            };
            match rustix::fs::flock(&file, operation) {
                Ok(()) => {
                    let lock = DescriptorLock { store: self.clone(), file };
                    if lock.is_in_place().map_err(Self::sys(self.path(), UNREADABLE))? {
                        return Ok(lock);
                    }
                }
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => {
                    return Err(Self::sys(&self.descriptor_path(), "can't lock it")(error));
                }
            }
            if Instant::now() >= until {
                return Err(StoreError::Changing(self.path().to_owned()));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl DescriptorLock {
    /// Whether the name still leads to what was locked.
    fn is_in_place(&self) -> Result<bool, Errno> {
        let own = rustix::fs::fstat(&self.file)?;
        match self.store.dir().stat(DESCRIPTOR_NAME.as_bytes()) {
            Ok(there) => Ok((own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is locked: a claim, until its `mac` is checked with the volume key.
    ///
    /// # Errors
    /// Why it can't be used, or the system's.
    pub fn read(&self) -> Result<Descriptor, StoreError> {
        let file = self.file.as_fd().try_clone_to_owned().map(std::fs::File::from);
        let fail = |error: std::io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Store::sys(self.store.path(), UNREADABLE)(errno)
        };
        let mut file = file.map_err(fail)?;
        std::io::Seek::rewind(&mut file).map_err(fail)?;
        self.store.decode(file)
    }

    /// Puts `descriptor` in its place, durably, for the same owner: a crash leaves the old one or
    /// the new one. Then zeros over the old one, so that what it wrapped is not left in freed
    /// blocks; not where it has another name, which is somebody's copy.
    ///
    /// # Errors
    /// A description that is too long, or the system's: the old one is in its place then, or if
    /// that is the last step, making it durable, the old one or the new one.
    pub fn replace(self, descriptor: &Descriptor) -> Result<(), StoreError> {
        if descriptor.encode().len() as u64 > DESCRIPTOR_LEN_MAX {
            let action = "can't hold so many slots, remove one";
            return Err(Store::sys(&self.store.descriptor_path(), action)(Errno::FBIG));
        }
        self.store.put_descriptor(descriptor, Some(&self))?;
        leave(self.wipe(), "what the old volume.json said, in freed blocks");
        Ok(())
    }

    /// Whoever changes keys for somebody else, as root, must not lock them out.
    fn own_alike(&self, new: &DiskBlob) -> Result<(), Errno> {
        let [old, own] = [&self.file, new].map(|file| {
            let stat = rustix::fs::fstat(file)?;
            let mode = Some(stat.st_mode & 0o777);
            Ok(SetAttr {
                mode,
                uid: Some(stat.st_uid),
                gid: Some(stat.st_gid),
                ..Default::default()
            })
        });
        let old = old?;
        if own? == old { Ok(()) } else { old.apply_to(new) }
    }

    fn wipe(&self) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(&self.file)?;
        if stat.st_nlink > 0 {
            return Ok(());
        }
        self.file.write_zeros(0, u64::try_from(stat.st_size).unwrap_or(0))?;
        self.file.sync(false)
    }

    /// Zeros over the description, and over what an interrupted change of it left, which has
    /// wrapped keys too; then removes both.
    ///
    /// # Errors
    /// The system's; what was not reached is there then.
    pub fn destroy(self) -> Result<(), StoreError> {
        let dir = self.store.dir();
        let destroy = |name: &str, file: &DiskBlob| -> Result<(), Errno> {
            let stat = rustix::fs::fstat(file)?;
            file.write_zeros(0, u64::try_from(stat.st_size).unwrap_or(0))?;
            file.sync(false)?;
            dir.unlink_object(name.as_bytes())
        };
        let all = || {
            match dir.open_file(NEW_NAME.as_bytes(), true).and_then(regular) {
                Ok(left) => destroy(NEW_NAME, &left)?,
                Err(Errno::NOENT) => {}
                // A link or a device: nothing that was written here.
                Err(Errno::LOOP | Errno::INVAL) => dir.unlink_object(NEW_NAME.as_bytes())?,
                Err(error) => return Err(error),
            }
            destroy(DESCRIPTOR_NAME, &self.file)
        };
        all().map_err(Store::sys(&self.store.descriptor_path(), "can't destroy it"))
    }
}
