//! Bounds that flags do not move, and the defaults and ranges of those that flags do. Asserts
//! below say how they relate.

use std::num::NonZero;
use std::time::Duration;

/// The longest that written data stays uncommitted on a mount: the timer's period.
pub const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// Forgotten inodes for which freed memory is given back, at the next [`COMMIT_INTERVAL`]: about
/// a megabyte.
pub const FORGOTTEN_MANY: u64 = 4096;

/// How long a command waits for a daemon that is leaving to give up the store's lock.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Between two renewals of the lease of whoever has a volume open for writing. A renewal is one
/// open, 20 bytes and one close, so that ten seconds are nothing to a disk or a file server; and
/// they bound, threefold, how long a volume waits for its next node after one has died.
pub const LEASE_INTERVAL: Duration = Duration::from_secs(10);

/// The longest time between two renewals that is believed of another holder.
pub const LEASE_INTERVAL_MAX: Duration = Duration::from_secs(20);

/// Renewals that do not come before a holder of another machine counts as dead: one may meet a
/// file server that restarts, two a pause of the machine.
pub const LEASE_RENEWALS: u32 = 3;

/// Renewals that do not come before the holder itself writes no more without a look: earlier than
/// anybody else takes the volume.
pub const LEASE_STALE: u32 = 2;

/// How long whoever reads beside a writer waits for what it finds written over and not committed
/// yet: a little longer than a mount takes to commit by its timer.
pub const READ_BESIDE_WAIT: Duration = Duration::from_secs(6);

/// The longest pause between two looks of that wait.
pub const READ_BESIDE_PAUSE: Duration = Duration::from_millis(20);

/// How long a command waits for another that changes `volume.json`, which may have to ask KMS
/// three times meanwhile.
pub const DESCRIPTOR_WAIT: Duration = Duration::from_secs(90);

/// How long a command waits for its daemon to serve. It has to cover a KMS call with its retries.
pub const SERVE_WAIT: Duration = Duration::from_secs(120);

/// Between two looks at processes that were killed and are still to end.
pub const FAMILY_POLL: Duration = Duration::from_millis(5);

/// How long a detached mount may keep its daemon before files left open in it get errors.
pub const DETACH_WAIT: Duration = Duration::from_secs(10);

/// How long `umount` and `stop` wait for the daemon's end: its last commit may be long.
pub const LEAVE_WAIT: Duration = Duration::from_secs(300);

/// How long the other end of a control socket may take for a line that needs no work.
pub const CONTROL_WAIT: Duration = Duration::from_secs(10);

/// Between two requests to KMS for the key of a mounted volume, unless a flag says otherwise: so
/// long a key that was taken away is still used, at most.
pub const KEY_RECHECK_DEFAULT: Duration = Duration::from_secs(60);

/// How long a mounted volume is served while KMS does not answer, unless a flag says otherwise.
pub const KEY_MAX_OFFLINE_DEFAULT: Duration = Duration::from_secs(15 * 60);

/// Between two requests for the key of a newer epoch by a volume that is open for reading, where
/// the first one failed.
pub const RENEWAL_PAUSE: Duration = Duration::from_secs(10);
/// Bytes of a record of calls to AWS for the keys of a volume, of which an older one is kept too:
/// some 500 a call, so ten days of a mount that asks each minute.
pub const KEY_CALLS_LEN_MAX: u64 = 4 << 20;

/// How long a call to AWS waits to be recorded while somebody holds the lock of such a record,
/// which is held for one line.
pub const KEY_CALLS_WAIT: Duration = Duration::from_secs(1);
/// Between two tries.
pub const KEY_CALLS_POLL: Duration = Duration::from_millis(5);

/// Such records that are kept.
pub const KEY_CALLS_VOLUMES_MAX: usize = 256;

/// How long a lock waits for those who use the volume at that moment, as a snapshot does.
pub const LET_GO_WAIT: Duration = Duration::from_secs(10);

/// Between two looks of that wait: nobody tells when the last one goes.
pub const LET_GO_POLL: Duration = Duration::from_millis(2);

/// Bytes of a line on a control socket.
pub const CONTROL_LINE_LEN_MAX: u64 = 64 << 10;

/// Connections that a control socket serves at a time.
pub const CONTROL_CONNECTIONS_MAX: usize = 16;

/// Connections that get metrics at a time.
pub const METRICS_CONNECTIONS_MAX: usize = 8;

/// From the beginning of such a connection to its end.
pub const METRICS_WAIT: Duration = Duration::from_secs(5);

/// Before the next connection for metrics is accepted, after one that could not be.
pub const METRICS_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of the block cache, unless a flag says otherwise.
pub const CACHE_BYTES_DEFAULT: u64 = 64 << 20;

/// Bytes of the smallest block cache: fewer would evict blocks of the request being served.
pub const CACHE_BYTES_MIN: u64 = 4 << 20;

/// Directories that stay open besides those in use, unless a flag says otherwise. Each holds a
/// descriptor, of which a process has 1024 by default, and most of those are for files; a tree
/// that is walked needs its depth.
pub const OPEN_DIRS_DEFAULT: NonZero<usize> = NonZero::new(256).expect("not zero");

/// Directories that stay open, at most: as many as descriptors that Linux allows a process
/// (`fs.nr_open`) unless told otherwise.
pub const OPEN_DIRS_MAX: usize = 1 << 20;

/// Descriptors that open files and directories which only stay open leave to the process: for what
/// every look, listing, removal and renaming opens for a moment.
pub const DESCRIPTORS_SPARE: u64 = 64;

/// Of these, what directory streams leave: for all but listing.
pub const DESCRIPTORS_SPARE_LAST: u64 = 32;

/// Threads of a mount, at most.
pub const THREADS_MAX: usize = 64;

/// Directories below each other that a recursive command enters.
pub const DEPTH_MAX: usize = 512;

/// Bytes of a snapshot's manifest: about 300 a file.
pub const MANIFEST_LEN_MAX: u64 = 8 << 30;

/// Objects of snapshots that are read, sent or fetched at a time, unless a flag says otherwise:
/// what a far file server needs; each has up to 8 MiB in memory, and as much again on its way to
/// S3.
pub const SNAPSHOT_JOBS_DEFAULT: NonZero<usize> = NonZero::new(8).expect("not zero");

/// The same, at most.
pub const SNAPSHOT_JOBS_MAX: usize = 256;

/// Bytes that a copy moves at a time.
pub const COPY_LEN: usize = 1 << 20;

/// How often a check tells how far it is.
pub const CHECK_PROGRESS: Duration = Duration::from_millis(200);

/// Processes that an error about a busy mount names.
pub const BUSY_NAMED_MAX: usize = 8;

const _: () = assert!(LOCK_WAIT.as_secs() < DESCRIPTOR_WAIT.as_secs());
const _: () = assert!(LOCK_WAIT.as_secs() < SERVE_WAIT.as_secs());
const _: () = assert!(LEASE_STALE < LEASE_RENEWALS);
const _: () = assert!(
    LEASE_INTERVAL_MAX.as_secs() * (LEASE_RENEWALS as u64 + 1) + LOCK_WAIT.as_secs()
        < SERVE_WAIT.as_secs()
);
const _: () = assert!(LEASE_INTERVAL.as_secs() <= LEASE_INTERVAL_MAX.as_secs());
const _: () = assert!(COMMIT_INTERVAL.as_secs() < READ_BESIDE_WAIT.as_secs());
const _: () = assert!(DETACH_WAIT.as_secs() < LEAVE_WAIT.as_secs());
const _: () = assert!(OPEN_DIRS_DEFAULT.get() <= OPEN_DIRS_MAX);
const _: () = assert!(DESCRIPTORS_SPARE_LAST < DESCRIPTORS_SPARE);
const _: () = assert!(CACHE_BYTES_MIN <= CACHE_BYTES_DEFAULT);
