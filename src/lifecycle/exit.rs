//! Exit codes: one for each cause that a script may want to tell from others. A number is never
//! used again for something else.

/// How the command ends. `cmkfs run` ends with its command's own code instead, with 128 + N when
/// that died of signal N, and with 125 to 127 when the command never ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Something that no other code is for.
    Unexpected = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No store at that path.
    NoStore = 10,
    /// Something else at that path.
    NotAStore = 11,
    /// The target is not empty, or a volume already.
    NotEmpty = 12,
    /// Written by a later release.
    NewerFormat = 13,
    /// `volume.json` is damaged or was changed.
    BadDescriptor = 14,
    /// No such key slot, or not told which of several.
    NoKeySlot = 15,
    /// The last key slot stays.
    LastKeySlot = 16,
    /// The key source or key file can't be used.
    BadKeySource = 20,
    /// The key does not open this volume.
    WrongKey = 21,
    /// KMS denies access.
    KmsDenied = 22,
    /// The KMS key is disabled, pending deletion or otherwise unusable.
    KmsUnusable = 23,
    /// The ciphertext or the encryption context does not match.
    KmsMismatch = 24,
    /// No such KMS key, or another one than the one that wrapped.
    KmsNoKey = 25,
    /// KMS can't be reached.
    KmsUnreachable = 26,
    /// No AWS credentials or region.
    NoCredentials = 27,
    /// KMS throttles.
    KmsThrottled = 28,
    /// Another failure of KMS.
    KmsOther = 29,
    /// The mountpoint is missing or not a directory.
    NoMountpoint = 30,
    /// The mountpoint is a mount already.
    AlreadyMounted = 31,
    /// The mountpoint is not empty.
    MountpointNotEmpty = 32,
    /// No `/dev/fuse`.
    NoFuse = 33,
    /// This user may not mount.
    MountDenied = 34,
    /// Another process has the volume.
    InUse = 35,
    /// Not a cmkfs mount.
    NotMounted = 36,
    /// Processes use the mount.
    Busy = 37,
    /// The volume is locked.
    Locked = 38,
    /// Input or output error in the store.
    StoreFailed = 40,
    /// No space left.
    DiskFull = 41,
    /// Stored data is not authentic.
    Damaged = 42,
    /// Path inside the volume not found, or of another kind.
    NoPath = 43,
    /// The snapshot target can't be used.
    SnapshotTarget = 50,
    /// No such snapshot.
    NoSnapshot = 51,
    /// The snapshot is damaged.
    SnapshotDamaged = 52,
    /// Another command writes to the snapshot target.
    SnapshotHeld = 53,
    /// S3 denies access to the snapshot target.
    SnapshotDenied = 54,
    /// Confirmation missing or wrong.
    NotConfirmed = 60,
    /// The KMS endpoint is plain HTTP and not on this machine: nothing was sent.
    PlainHttp = 70,
    /// `cmkfs doctor` found something that does not work.
    Unfit = 71,
    /// The clock of this machine is wrong by more than AWS takes.
    WrongClock = 72,
    /// The endpoint shows a certificate that is not trusted.
    UntrustedEndpoint = 73,
    /// No such grant for the volume.
    NoGrant = 74,
    /// Metrics can't be served at that address.
    NoMetrics = 75,
    /// `cmkfs run` failed before the command ran, or stopped it.
    NotRun = 125,
    /// The command can't be executed.
    NotExecutable = 126,
    /// The command was not found.
    NoCommand = 127,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}
