//! Where ciphertext goes and where a volume is mounted: the store, its filesystem and disks, and
//! the paths of a role.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags};

use crate::config::Size;
use crate::format::descriptor::Descriptor;
use crate::fuse::{self, MountError, MountInfo};
use crate::lifecycle::doctor::disk::{self, Kind};
use crate::lifecycle::doctor::finding::Finding;
use crate::lifecycle::doctor::machine::Machine;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::mounts;
use crate::lifecycle::open::find_store;
use crate::lifecycle::request::MountRequest;
use crate::store::StoreError;

/// Below this a filesystem is as good as full: one checkpoint of a small model.
const BYTES_FEW: u64 = 1 << 30;
/// A volume has an inode a file.
const INODES_FEW: u64 = 10_000;
/// Entries of a directory that are counted.
const ENTRIES_MAX: usize = 1000;

/// Filesystems over a network that a store can lie on: several nodes see it.
const SHARED: [&str; 9] =
    ["nfs", "nfs4", "lustre", "ceph", "glusterfs", "beegfs", "gpfs", "cifs", "smb3"];
/// Filesystems without what a store needs: owners, modes, links.
const UNFIT: [&str; 6] = ["vfat", "exfat", "msdos", "ntfs3", "iso9660", "udf"];

/// The nearest directory that is there, of a path that may not be.
fn there(path: &Path) -> PathBuf {
    let mut dirs = path.ancestors().filter(|dir| dir.is_dir());
    dirs.next().map_or_else(|| "/".into(), |dir| dir.canonicalize().unwrap_or_else(|_| dir.into()))
}

/// What is at the store's path, and the volume's description if there is one. `makes`: a role
/// makes its volume when it is mounted.
pub(in crate::lifecycle::doctor) fn store(
    path: &Path,
    makes: bool,
) -> (Finding, Option<Descriptor>) {
    const CHECK: &str = "store";
    let shown = path.display();
    let described = find_store(path).and_then(|store| Ok(store.read_descriptor()?));
    let may_write = rustix::fs::access(&*there(path), Access::WRITE_OK);
    let finding = match described {
        Ok(descriptor) => {
            let found = format!("{shown}: volume {}", descriptor.volume_id);
            let finding = match may_write {
                Ok(()) => Finding::ok(CHECK, found),
                Err(error) => Finding::warning(
                    CHECK,
                    format!("{found}, which can't be changed: {error}"),
                    "run as its owner, or mount it with --read-only",
                ),
            };
            return (finding.value("volume"), Some(descriptor));
        }
        Err(VerbError::Store(StoreError::Missing(_))) => {
            to_be_made(path, makes, "nothing there yet", may_write)
        }
        Err(VerbError::Store(StoreError::NotAStore(_))) if is_empty_dir(path) => {
            to_be_made(path, makes, "an empty directory", may_write)
        }
        Err(error) => {
            let remedy = "name the directory that init made, or a new or an empty one";
            Finding::fails(CHECK, error.to_string(), remedy)
        }
    };
    (finding, None)
}

fn is_empty_dir(path: &Path) -> bool {
    path.read_dir().is_ok_and(|mut entries| entries.next().is_none())
}

fn to_be_made(path: &Path, makes: bool, found: &str, may_write: rustix::io::Result<()>) -> Finding {
    const CHECK: &str = "store";
    let (shown, dir) = (path.display(), there(path));
    if let Err(error) = may_write {
        let found = format!("{shown}: {found}, and {} can't be written to: {error}", dir.display());
        return Finding::fails(CHECK, found, "run as its owner, or name another place by --store");
    }
    let parent = path.parent().unwrap_or(path);
    if !makes && !parent.is_dir() {
        let remedy = format!("mkdir -p {}", parent.display());
        return Finding::fails(CHECK, format!("{shown}: no such directory above it"), remedy);
    }
    let how = if makes { "it is made at the first mount" } else { "cmkfs init makes a volume" };
    Finding::ok(CHECK, format!("{shown}: {found}, {how}")).value("none")
}

/// A filesystem, as far as it matters to a store.
#[derive(Clone, Debug)]
struct Filesystem {
    at: PathBuf,
    mount: Option<MountInfo>,
    device: (u32, u32),
    read_only: bool,
    bytes_free: u64,
    inodes: u64,
    inodes_free: u64,
}

impl Filesystem {
    fn of(path: &Path) -> std::io::Result<Self> {
        let at = there(path);
        let facts = rustix::fs::statvfs(&at)?;
        let device = at.metadata()?.dev();
        let mounts = fuse::mounts().unwrap_or_default();
        // What was mounted last is on top.
        let depth = |mount: &&MountInfo| mount.path.components().count();
        let mount = mounts.iter().filter(|mount| at.starts_with(&mount.path)).max_by_key(depth);
        Ok(Self {
            mount: mount.cloned(),
            device: (rustix::fs::major(device), rustix::fs::minor(device)),
            read_only: facts.f_flag.contains(StatVfsMountFlags::RDONLY),
            bytes_free: facts.f_bavail.saturating_mul(facts.f_frsize),
            inodes: facts.f_files,
            inodes_free: facts.f_favail,
            at,
        })
    }

    fn kind(&self) -> &str {
        self.mount.as_ref().map_or("unknown", |mount| &mount.kind)
    }

    /// In the order in which it would matter.
    fn judge(&self, is_volume: bool) -> Finding {
        const CHECK: &str = "filesystem";
        let (kind, at) = (self.kind(), self.at.display());
        let free = size(self.bytes_free);
        let found = format!("{kind} at {at}, {free} free");
        let elsewhere = "name a store on another filesystem by --store DIR";
        // Some count no inodes.
        let few = |count: u64| self.inodes > 0 && self.inodes_free < count;
        let finding = if UNFIT.contains(&kind) {
            Finding::fails(CHECK, format!("{found}: it has no owners and modes"), elsewhere)
        } else if self.read_only && is_volume {
            let remedy = "mount -o remount,rw, or mount the volume with --read-only";
            Finding::warning(CHECK, format!("{found}, read-only"), remedy)
        } else if self.read_only {
            Finding::fails(CHECK, format!("{found}, read-only"), elsewhere)
        } else if self.bytes_free == 0 || few(1) {
            let what = if self.bytes_free == 0 { "full" } else { "no inodes free" };
            Finding::fails(CHECK, format!("{found}: {what}"), "remove something there")
        } else if self.bytes_free < BYTES_FEW {
            Finding::warning(CHECK, format!("{found}: little"), "make room, or a larger disk")
        } else if few(INODES_FEW) {
            let found = format!("{found}, {} inodes", self.inodes_free);
            Finding::warning(CHECK, found, "a stored file needs an inode each: make room")
        } else if kind == mounts::FS_TYPE {
            Finding::warning(CHECK, format!("{found}: a volume of cmkfs itself"), elsewhere)
        } else if kind.starts_with("fuse") {
            let found = format!("{found}: served by a process");
            let remedy = "make sure that it renames, links and syncs as POSIX has it; mounts of \
                          object stores do not";
            Finding::warning(CHECK, found, remedy)
        } else if matches!(kind, "tmpfs" | "ramfs") {
            let remedy = "name a store on a disk by --store DIR, unless it may go with the machine";
            Finding::warning(CHECK, format!("{found}: in memory"), remedy)
        } else if kind == "overlay" {
            let remedy = "mount a disk of the host into the container and name a store on it, \
                          unless the volume may go with the container";
            Finding::warning(CHECK, format!("{found}: the container's own layer"), remedy)
        } else if SHARED.contains(&kind) {
            Finding::ok(CHECK, format!("{found}, over a network: one node at a time may write"))
        } else {
            Finding::ok(CHECK, found)
        };
        finding.value(kind)
    }

    /// `lasts`: the volume is to outlive the machine.
    fn disk(&self, machine: &Machine, lasts: bool) -> Finding {
        const CHECK: &str = "disk";
        let source = self.mount.as_ref().map_or("", |mount| &mount.source);
        let below = disk::below(machine, self.device)
            .or_else(|| disk::below_path(machine, Path::new(source)).filter(|_| is_device(source)));
        judge_disk(below, self.kind(), lasts).unwrap_or_else(|| {
            let found = format!("what {} lies on can't be told from here", self.kind());
            Finding::ok(CHECK, found).value("unknown")
        })
    }
}

fn is_device(source: &str) -> bool {
    source.starts_with("/dev/")
}

/// `None` if nothing can be said.
pub(in crate::lifecycle::doctor) fn judge_disk(
    below: Option<disk::Below>,
    kind: &str,
    lasts: bool,
) -> Option<Finding> {
    const CHECK: &str = "disk";
    let Some(below) = below else {
        let memory = matches!(kind, "tmpfs" | "ramfs");
        let network = SHARED.contains(&kind);
        let (found, word) = match (memory, network) {
            (true, _) => ("none: in memory", "memory"),
            (_, true) => ("a file server's", "network"),
            _ => return None,
        };
        return Some(Finding::ok(CHECK, found).value(word));
    };
    let named = below.named();
    let finding = if below.has(Kind::InstanceStore) {
        let found = format!("instance store, which takes no KMS key of yours: {named}");
        match lasts {
            true => Finding::warning(
                CHECK,
                format!("{found}; it ends when the instance stops"),
                "name a store on EBS by --store DIR, or take snapshots (cmkfs snapshot create)",
            ),
            false => Finding::ok(CHECK, found),
        }
        .value(Kind::InstanceStore.word())
    } else {
        let kind = below.disks.iter().map(|disk| disk.kind).min().unwrap_or(Kind::Other);
        let what = if kind == Kind::Ebs { "EBS: " } else { "" };
        Finding::ok(CHECK, format!("{what}{named}")).value(kind.word())
    };
    Some(finding)
}

/// The filesystem of a path, and its disks. `is_volume`: there is a volume already; `lasts`: it is
/// to outlive the machine.
pub(in crate::lifecycle::doctor) fn below(
    machine: &Machine,
    path: &Path,
    is_volume: bool,
    lasts: bool,
) -> [Finding; 2] {
    match Filesystem::of(path) {
        Ok(found) => [found.judge(is_volume), found.disk(machine, lasts)],
        Err(error) => [
            Finding::fails(
                "filesystem",
                format!("{}: {error}", path.display()),
                "name a store that this user can look at by --store DIR",
            ),
            Finding::not_checked("disk", "filesystem fails"),
        ],
    }
}

/// Whether a role's path can be mounted on.
pub(in crate::lifecycle::doctor) fn path(request: &MountRequest, path: &Path) -> Finding {
    const CHECK: &str = "path";
    let real = mounts::canonical(path).unwrap_or_else(|_| path.to_owned());
    let ours = mounts::at(&real).unwrap_or_default();
    let finding = if ours.is_some_and(|mount| mount.store == request.store) {
        Finding::ok(CHECK, "the volume is mounted there").value("mounted")
    } else {
        match request.check_point(path) {
            Ok(()) => Finding::ok(CHECK, "an empty directory").value("empty"),
            Err(VerbError::Mount(MountError::Missing(_))) => missing(path),
            Err(VerbError::Mount(error @ MountError::NotEmpty { .. })) => Finding::fails(
                CHECK,
                format!("{error}; {} in all", entries(&real)),
                "name another root by --root DIR; below / both paths have to be empty",
            )
            .value("not_empty"),
            Err(error @ VerbError::Mount(MountError::Already { .. })) => {
                let remedy = format!("umount {}, or name another root", path.display());
                Finding::fails(CHECK, error.to_string(), remedy).value("mounted_on")
            }
            Err(VerbError::Mount(error @ MountError::Dead(_))) => {
                let remedy = format!("cmkfs umount {}", path.display());
                Finding::fails(CHECK, error.to_string(), remedy).value("dead")
            }
            Err(error) => {
                Finding::fails(CHECK, error.to_string(), "name another root by --root DIR")
            }
        }
    };
    finding.of(Some(path.display().to_string()))
}

fn missing(path: &Path) -> Finding {
    const CHECK: &str = "path";
    let dir = there(path);
    match rustix::fs::access(&*dir, Access::WRITE_OK) {
        Ok(()) => Finding::ok(CHECK, "not there, it is made at the mount").value("missing"),
        Err(error) => Finding::fails(
            CHECK,
            format!("not there, and {} can't be written to: {error}", dir.display()),
            "make it as root, or name another root by --root DIR",
        )
        .value("missing"),
    }
}

fn entries(dir: &Path) -> String {
    let count = dir.read_dir().into_iter().flatten().take(ENTRIES_MAX).count();
    let more = if count == ENTRIES_MAX { "or more " } else { "" };
    format!("{count} {more}{}", if count == 1 { "entry" } else { "entries" })
}

/// For people: whole gibibytes where there are many.
fn size(bytes: u64) -> Size {
    let shift = if bytes >= BYTES_FEW << 3 { 30 } else { 20 };
    Size(bytes >> shift << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::doctor::finding::Status;

    fn filesystem(kind: &str) -> Filesystem {
        let (path, source) = ("/data".into(), "/dev/nvme1n1".to_owned());
        let mount = MountInfo { path, device: (259, 1), kind: kind.to_owned(), source };
        Filesystem {
            at: "/data".into(),
            mount: Some(mount),
            device: (259, 1),
            read_only: false,
            bytes_free: 100 << 30,
            inodes: 1 << 20,
            inodes_free: 1 << 20,
        }
    }

    #[test]
    fn filesystems_are_judged_by_what_a_store_needs() {
        for (kind, status, part) in [
            ("ext4", Status::Ok, "100G free"),
            ("xfs", Status::Ok, "xfs at /data"),
            ("nfs4", Status::Ok, "network"),
            ("lustre", Status::Ok, "network"),
            ("tmpfs", Status::Warning, "in memory"),
            ("overlay", Status::Warning, "container"),
            ("fuse.mount-s3", Status::Warning, "process"),
            ("fuse.cmkfs", Status::Warning, "cmkfs itself"),
            ("vfat", Status::Fails, "owners"),
        ] {
            let finding = filesystem(kind).judge(false);
            assert_eq!((finding.status, finding.value.as_deref()), (status, Some(kind)));
            assert!(finding.found.contains(part), "{}", finding.found);
            assert_eq!(finding.remedy.is_some(), status != Status::Ok);
        }
        let unknown = Filesystem { mount: None, ..filesystem("ext4") };
        assert_eq!(unknown.judge(false).value.as_deref(), Some("unknown"));
    }

    #[test]
    fn what_is_full_or_read_only_is_told() {
        let usual = || filesystem("ext4");
        let status = |found: &Filesystem, is_volume| found.judge(is_volume).status;
        let read_only = Filesystem { read_only: true, ..usual() };
        assert_eq!(status(&read_only, false), Status::Fails);
        assert_eq!(status(&read_only, true), Status::Warning);
        assert_eq!(status(&Filesystem { bytes_free: 0, ..usual() }, true), Status::Fails);
        assert_eq!(status(&Filesystem { bytes_free: 9 << 20, ..usual() }, true), Status::Warning);
        assert_eq!(status(&Filesystem { inodes_free: 0, ..usual() }, true), Status::Fails);
        assert_eq!(status(&Filesystem { inodes_free: 9, ..usual() }, true), Status::Warning);
        // btrfs counts none.
        let none = Filesystem { inodes: 0, inodes_free: 0, ..filesystem("btrfs") };
        assert_eq!(status(&none, true), Status::Ok);
    }

    #[test]
    fn a_store_is_there_or_can_be_made_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let status = |name: &str, makes| store(&dir.path().join(name), makes).0.status;
        assert_eq!(status("new", false), Status::Ok);
        assert_eq!(status("deep/new", true), Status::Ok);
        assert_eq!(status("deep/new", false), Status::Fails);
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        assert_eq!(status("empty", false), Status::Ok);
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert_eq!(status("file", false), Status::Fails);
        assert_eq!(status("", false), Status::Fails);
        std::fs::create_dir(dir.path().join("odd")).unwrap();
        std::fs::write(dir.path().join("odd/volume.json"), "{").unwrap();
        assert_eq!(status("odd", false), Status::Fails);
        assert_eq!(dir.path().read_dir().unwrap().count(), 3, "something was made");
    }

    #[test]
    fn memory_and_file_servers_have_no_disk() {
        for (kind, word) in [("tmpfs", "memory"), ("nfs4", "network")] {
            let finding = judge_disk(None, kind, true).unwrap();
            assert_eq!(finding.value.as_deref(), Some(word));
        }
        assert_eq!(judge_disk(None, "overlay", true), None);
    }
}
