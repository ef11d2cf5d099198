//! Mounting a volume, waiting for its end, unmounting it.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Config, Notifier, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::fs::{Door, Fs};
use crate::fuse::answer::Adapter;
use crate::fuse::error::MountError;
use crate::fuse::helper::{self, HelperError};
use crate::fuse::latch::Latch;
use crate::fuse::latency::Latencies;
use crate::fuse::linger::Linger;
use crate::fuse::point::{self, mount_at};
use crate::fuse::umask;
use crate::sys::Zeros;

const DEVICE: &str = "/dev/fuse";
/// Type of the mounted file system, as `mount` and `findmnt` show it: `fuse.` and this.
const SUBTYPE: &str = "cmkfs";
/// Threads that serve a mount, at most: each has room for a request of 1 MiB.
const THREADS_MAX: usize = 32;
/// Readahead of the mount, KiB, instead of the kernel's 128: a request of 1 MiB is opened by all
/// cores at once, eight of 128 KiB by one core each at best.
const READ_AHEAD_KIB: &str = "1024";

/// How a volume is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a mount option of its own")]
pub struct MountOptions {
    /// Nothing can be changed through the mount.
    pub read_only: bool,
    /// Users other than the one who mounts may use it; needs root or `user_allow_other`.
    pub allow_other: bool,
    /// The kernel checks owner, mode and access control lists.
    pub default_permissions: bool,
    /// The mountpoint may have entries, or a file system mounted on it that is not FUSE.
    pub allow_nonempty: bool,
    /// Set-id bits and file capabilities of programs count; only root can mount so. Modes are not
    /// authenticated: whoever can write to the store can make such a program.
    pub set_id: bool,
    /// Devices can be opened; only root can mount so. Who can write to the store can make one.
    pub devices: bool,
    /// No program can be executed.
    pub no_programs: bool,
    /// The kernel gathers writes, and sends them later or when a sync or close asks for them.
    pub write_back: bool,
    /// Requests that take as long are told in the log.
    pub slow: Option<Duration>,
    /// Threads that serve the mount; 0 for one a core, and at least two.
    pub threads: usize,
    /// What is shown as mounted: the store.
    pub fs_name: String,
}

impl MountOptions {
    /// For everyone if root mounts, else for the user who does; permissions are checked.
    pub fn new(fs_name: impl Into<String>) -> Self {
        Self {
            read_only: false,
            allow_other: rustix::process::geteuid().is_root(),
            default_permissions: true,
            allow_nonempty: false,
            set_id: false,
            devices: false,
            no_programs: false,
            write_back: false,
            slow: None,
            threads: 0,
            fs_name: fs_name.into(),
        }
    }

    fn thread_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = if self.threads == 0 { cores().max(2) } else { self.threads };
        wanted.min(THREADS_MAX)
    }

    fn acl(&self) -> SessionACL {
        if self.allow_other { SessionACL::All } else { SessionACL::Owner }
    }

    /// The options that the kernel and the helper both know.
    fn common(&self) -> String {
        let mut text = String::new();
        for (set, option) in
            [(self.default_permissions, ",default_permissions"), (self.allow_other, ",allow_other")]
        {
            text += if set { option } else { "" };
        }
        text
    }
}

/// A volume that is mounted and served. Dropped, it is taken out of the tree at once, and ends
/// when the last file in it is closed.
#[derive(Debug)]
pub struct Mounted {
    unmounter: Unmounter,
    latch: Latch,
    latencies: Arc<Latencies>,
    session: Option<JoinHandle<io::Result<()>>>,
}

/// Unmounts a volume, from any thread.
#[derive(Clone, Debug)]
pub struct Unmounter {
    path: PathBuf,
    device: u64,
}

/// Mounts a file system and serves it on threads of its own; returns when the mount answers.
///
/// Set-user-id programs and devices of the volume mean nothing on the mount unless the options
/// say so.
///
/// # Errors
/// A [`MountError`]; nothing is mounted then.
pub fn mount(
    fs: Arc<Fs>,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let path = point::checked(mountpoint, options.allow_nonempty)?;
    let failed = |what| {
        let path = path.clone();
        move |error: io::Error| MountError::System { path, what, error }
    };
    let before = std::fs::metadata(&path).map_err(failed("looking at it"))?.dev();
    let fd = attach(&path, options)?;
    let undo = || drop(detach(&path));
    let (door, latencies) = (Door::new(fs), Arc::new(Latencies::new(options.slow)));
    let (session, notifier) = serve(&door, fd, options, &latencies).map_err(|error| {
        undo();
        failed("greeting the kernel")(error)
    })?;
    // The kernel has been greeted; what is left to see is that the mount is there. It is not asked
    // itself: a process that is killed while it waits for its own answer never ends, and keeps
    // what it has locked.
    let device = match mount_at(&path).map(|found| found.map(|mount| mount.device)) {
        Ok(Some((major, minor))) if rustix::fs::makedev(major, minor) != before => {
            rustix::fs::makedev(major, minor)
        }
        found => {
            undo();
            let error = found.err().unwrap_or_else(|| io::Error::other("it is not there"));
            return Err(failed("looking for the mount")(error));
        }
    };
    read_further_ahead(device);
    look_from_outside(&path);
    let (unmounter, latch) = (Unmounter { path, device }, Latch { door, notifier });
    Ok(Mounted { unmounter, latch, latencies, session: Some(session) })
}

/// Has the kernel ask for the root's attributes: until it has them it takes the root for the
/// superuser's, and refuses its owner a chmod(2). Another process does it, which holds nothing of
/// ours: it ends if we do. Best effort, as whoever looks at the mount has the same effect.
fn look_from_outside(path: &Path) {
    let mut stat = Command::new("stat");
    stat.arg("--").arg(path).env_clear();
    stat.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(programs) = std::env::var_os("PATH") {
        stat.env("PATH", programs);
    }
    match stat.status() {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::debug!(%status, "stat(1) can't look at the mount"),
        Err(error) => tracing::debug!(%error, "stat(1) does not run"),
    }
}

/// Starts the threads that serve a mount; returns once the kernel and we know each other.
fn serve(
    door: &Arc<Door>,
    fd: OwnedFd,
    options: &MountOptions,
    latencies: &Arc<Latencies>,
) -> io::Result<(JoinHandle<io::Result<()>>, Notifier)> {
    if let Ok(fs) = door.enter() {
        fs.set_keeps_times(options.write_back);
    }
    let adapter = Adapter {
        door: Arc::clone(door),
        checks: options.default_permissions,
        gathers: options.write_back,
        // Without it requests are answered all the same.
        linger: Linger::new(&fd).ok(),
        latencies: Arc::clone(latencies),
        zeros: Zeros::open()?,
    };
    let mut config = Config::default();
    config.acl = options.acl();
    config.n_threads = Some(options.thread_count());
    // A descriptor a thread is faster, but each has to open the device, which only root may do
    // on some systems; the helper opened the one that we have.
    config.clone_fd = OpenOptions::new().read(true).write(true).open(DEVICE).is_ok();
    let acl = config.acl;
    let (greeted, greeting) = mpsc::sync_channel(1);
    let door = Arc::clone(door);
    let thread = std::thread::Builder::new().name("cmkfs-session".into()).spawn(move || {
        umask::prepare();
        match Session::from_fd(adapter, fd, acl, config) {
            Ok(session) => {
                let waits = greeted.send(Ok(session.notifier()));
                waits.map_err(|_| io::Error::other("nobody waits"))?;
                // Threads may be left that hold the adapter, so it may not have been told.
                session.run().inspect_err(|_| commit(&door))
            }
            Err(error) => {
                greeted.send(Err(error)).map_err(|_| io::Error::other("nobody waits"))?;
                Ok(())
            }
        }
    })?;
    let notifier = greeting.recv().map_err(|_| io::Error::other("the session panicked"))??;
    Ok((thread, notifier))
}

/// Saves what can be saved of a session that failed.
fn commit(door: &Door) {
    if let Err(error) = door.commit("the session failed") {
        tracing::debug!(%error, "the session failed");
    }
}

/// Whether `/dev/fuse` is there and is what its name says.
///
/// # Errors
/// [`MountError::NoDevice`].
pub fn check_device() -> Result<(), MountError> {
    let found = std::fs::metadata(DEVICE).map_err(|_| MountError::NoDevice)?;
    let is_fuse =
        found.file_type().is_char_device() && found.rdev() == rustix::fs::makedev(10, 229);
    if is_fuse { Ok(()) } else { Err(MountError::NoDevice) }
}

/// Mounts; gives the descriptor to serve the mount by.
fn attach(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    check_device()?;
    match attach_directly(path, options) {
        Err(MountError::NotPermitted(direct)) => attach_by_helper(path, options, &direct),
        attached => attached,
    }
}

fn attach_directly(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let not_permitted = |what: &str| MountError::NotPermitted(what.to_owned());
    let failed = |what| move |error| MountError::System { path: path.into(), what, error };
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    let device = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => not_permitted("/dev/fuse may not be opened"),
        Some(libc::ENODEV | libc::ENXIO) => MountError::NoDevice,
        _ => failed("opening /dev/fuse")(error),
    })?;
    let (fd, common) = (device.as_raw_fd(), options.common());
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let text = format!("fd={fd},rootmode=40000,user_id={user},group_id={group}{common}");
    let text = CString::new(text).expect("digits and names of options");
    let mut flags = MountFlags::empty();
    for (set, flag) in [
        (options.read_only, MountFlags::RDONLY),
        (!options.set_id, MountFlags::NOSUID),
        (!options.devices, MountFlags::NODEV),
        (options.no_programs, MountFlags::NOEXEC),
    ] {
        flags |= if set { flag } else { MountFlags::empty() };
    }
    let kind = format!("fuse.{SUBTYPE}");
    match rustix::mount::mount(&*options.fs_name, path, kind, flags, &*text) {
        Ok(()) => Ok(device.into()),
        Err(Errno::PERM | Errno::ACCESS) => Err(not_permitted("this process lacks CAP_SYS_ADMIN")),
        Err(Errno::NODEV) => Err(MountError::NoDevice),
        Err(error) => Err(failed("mount(2)")(error.into())),
    }
}

fn attach_by_helper(
    path: &Path,
    options: &MountOptions,
    direct: &str,
) -> Result<OwnedFd, MountError> {
    if options.set_id || options.devices {
        return Err(MountError::NotPermitted(format!(
            "{direct}, and only root may mount with the options suid and dev: leave them out"
        )));
    }
    let mode = if options.read_only { "ro" } else { "rw" };
    let programs = if options.no_programs { ",noexec" } else { "" };
    let (name, common) = (helper::escaped(&options.fs_name), options.common());
    let text = format!("{mode},nosuid,nodev{programs},fsname={name},subtype={SUBTYPE}{common}");
    helper::mount(path, &text).map_err(|error| match error {
        HelperError::Absent => MountError::NotPermitted(format!(
            "{direct}, and fusermount3 is not installed: mount as root, give the container \
             CAP_SYS_ADMIN, or install the package fuse3"
        )),
        HelperError::Refused(said) if said.contains("user_allow_other") => {
            MountError::NotPermitted(
                "other users may use a mount only if root mounts it or /etc/fuse.conf has the \
                 line user_allow_other: add it, or mount without allow_other"
                    .into(),
            )
        }
        HelperError::Refused(said) => {
            MountError::NotPermitted(format!("{direct}, and fusermount3 says: {said}"))
        }
        HelperError::System(error) => {
            MountError::System { path: path.into(), what: "running fusermount3", error }
        }
    })
}

/// Best effort: where it is not allowed, reading is slower.
fn read_further_ahead(device: u64) {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&file, READ_AHEAD_KIB) {
        tracing::debug!(file, %error, "readahead stays as it is");
    }
}

/// Takes what is mounted out of the tree, even if it is in use.
fn detach(path: &Path) -> io::Result<()> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    by_helper_if_needed(rustix::mount::unmount(path, flags), path, true)
}

fn by_helper_if_needed(unmounted: Result<(), Errno>, path: &Path, lazily: bool) -> io::Result<()> {
    match unmounted {
        Err(Errno::PERM) => helper::unmount(path, lazily).map_err(|error| match error {
            HelperError::Absent => Errno::PERM.into(),
            HelperError::Refused(said) if said.contains("busy") => Errno::BUSY.into(),
            HelperError::Refused(said) => io::Error::other(said),
            HelperError::System(error) => error,
        }),
        unmounted => Ok(unmounted?),
    }
}

impl Unmounter {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it still is, with nothing mounted over it.
    ///
    /// # Errors
    /// The system's, where `/proc` can't be read.
    pub fn is_mounted(&self) -> io::Result<bool> {
        let ours = (rustix::fs::major(self.device), rustix::fs::minor(self.device));
        Ok(mount_at(&self.path)?.is_some_and(|mount| mount.device == ours))
    }

    /// Unmounts; nothing to do if it is not mounted any more.
    ///
    /// # Errors
    /// `EBUSY` while files in it are open; others of the system's.
    pub fn unmount(&self) -> io::Result<()> {
        if !self.is_mounted()? {
            return Ok(());
        }
        let unmounted = rustix::mount::unmount(&self.path, UnmountFlags::NOFOLLOW);
        by_helper_if_needed(unmounted, &self.path, false)
    }

    /// Takes it out of the tree also while files in it are open; those stay usable, and the
    /// session ends when the last of them is closed.
    ///
    /// # Errors
    /// The system's.
    pub fn detach(&self) -> io::Result<()> {
        if self.is_mounted()? { detach(&self.path) } else { Ok(()) }
    }
}

impl Mounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.unmounter.path()
    }

    /// To unmount it from another thread while this one waits.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// To lock and unlock it from another thread.
    pub fn latch(&self) -> Latch {
        self.latch.clone()
    }

    /// How long its requests take.
    pub fn latencies(&self) -> Arc<Latencies> {
        Arc::clone(&self.latencies)
    }

    /// See [`Unmounter::unmount`].
    ///
    /// # Errors
    /// `EBUSY` while files in it are open; others of the system's.
    pub fn unmount(&self) -> io::Result<()> {
        self.unmounter.unmount()
    }

    /// Returns when it was unmounted, from anywhere, and everything is committed.
    ///
    /// # Errors
    /// The session's, if it ended otherwise; it is taken out of the tree then, so that nobody
    /// waits for answers.
    pub fn wait(mut self) -> io::Result<()> {
        let session = self.session.take().expect("taken here only");
        let ended = session.join();
        let ended = ended.unwrap_or_else(|_| Err(io::Error::other("the session panicked")));
        if ended.is_err()
            && let Err(error) = self.unmounter.detach()
        {
            tracing::warn!(%error, "can't unmount");
        }
        ended
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.session.is_some()
            && let Err(error) = self.unmounter.detach()
        {
            tracing::warn!(%error, "can't unmount");
        }
    }
}
