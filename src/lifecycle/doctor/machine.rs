//! What the machine lets a process do: kernel, `/dev/fuse`, the right to mount. Read from files
//! below a root, so that tests can make up a machine; whatever is in them, nothing here panics.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::fuse::HELPERS;
use crate::lifecycle::doctor::finding::Finding;

/// Bytes of a file that are looked at; those of proc(5) that matter are far shorter.
const TEXT_LEN_MAX: u64 = 1 << 20;
/// The first kernel with pidfd_open(2), by which `umount` and `stop` wait for a daemon's end.
const KERNEL_MIN: (u32, u32) = (5, 3);
/// Numbers of `/dev/fuse`.
const FUSE_DEVICE: (u32, u32) = (10, 229);
/// Bit of `CAP_SYS_ADMIN` in a set of capabilities.
const CAP_SYS_ADMIN: u32 = 21;
const SET_UID: u32 = 0o4000;
const CONTAINER: &str = "docker run --device /dev/fuse --cap-add SYS_ADMIN \
                         --security-opt apparmor:unconfined";

/// Where to look, and for whom.
#[derive(Clone, Debug)]
pub(in crate::lifecycle::doctor) struct Machine {
    root: PathBuf,
    is_root: bool,
    path: OsString,
}

impl Machine {
    /// This one.
    pub(in crate::lifecycle::doctor) fn here() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self { root: "/".into(), is_root: rustix::process::geteuid().is_root(), path }
    }

    #[cfg(test)]
    pub(in crate::lifecycle::doctor) fn made_up(root: &Path, is_root: bool) -> Self {
        Self { root: root.to_owned(), is_root, path: "/bin:/usr/bin".into() }
    }

    /// A path of that machine; `path` is absolute.
    pub(in crate::lifecycle::doctor) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The beginning of a file; `None` if there is none to read.
    pub(in crate::lifecycle::doctor) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        text(&self.at(path))
    }

    /// A line of `/proc/self/status`.
    fn own_status(&self, name: &str) -> Option<String> {
        let text = self.text("/proc/self/status")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    fn has_capability(&self, set: &str, bit: u32) -> Option<bool> {
        let set = u64::from_str_radix(&self.own_status(set)?, 16).ok()?;
        Some(set >> bit & 1 == 1)
    }

    pub(in crate::lifecycle::doctor) fn kernel(&self) -> Finding {
        const CHECK: &str = "kernel";
        let Some(release) = self.text("/proc/sys/kernel/osrelease") else {
            let remedy = "mount /proc, without which no volume can be mounted";
            return Finding::fails(CHECK, "/proc/sys/kernel/osrelease can't be read", remedy);
        };
        let release = release.trim();
        let found = format!("Linux {release}");
        let finding = match version(release) {
            None => Finding::warning(
                CHECK,
                format!("{found}: not a version"),
                "make sure that it is Linux 5.3 or later",
            ),
            Some(version) if version < KERNEL_MIN => {
                Finding::fails(CHECK, found, "boot a kernel of Linux 5.3 or later")
            }
            Some(_) if !self.has_fuse() => Finding::warning(
                CHECK,
                format!("{found}, FUSE not loaded"),
                "modprobe fuse, on the host if this is a container",
            ),
            Some(_) => Finding::ok(CHECK, format!("{found} with FUSE")),
        };
        finding.value(release)
    }

    fn has_fuse(&self) -> bool {
        let list = self.text("/proc/filesystems").unwrap_or_default();
        list.lines().any(|line| line.split_whitespace().next_back() == Some("fuse"))
    }

    pub(in crate::lifecycle::doctor) fn device(&self) -> Finding {
        const CHECK: &str = "device";
        let path = self.at("/dev/fuse");
        let Ok(meta) = fs::metadata(&path) else {
            let remedy = format!("modprobe fuse; in a container: {CONTAINER}");
            return Finding::fails(CHECK, "there is no /dev/fuse", remedy);
        };
        let numbers = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        if !meta.file_type().is_char_device() || numbers != FUSE_DEVICE {
            let remedy = "remove it, then: mknod -m 666 /dev/fuse c 10 229";
            return Finding::fails(CHECK, "/dev/fuse is something else", remedy);
        }
        opened(OpenOptions::new().read(true).write(true).open(path).err(), self.is_root)
    }

    /// By which way this process could mount.
    pub(in crate::lifecycle::doctor) fn mounting(&self) -> Finding {
        const CHECK: &str = "mounting";
        match self.has_capability("CapEff", CAP_SYS_ADMIN) {
            None => Finding::warning(
                CHECK,
                "/proc/self/status tells no capabilities",
                "make sure that this process has CAP_SYS_ADMIN, or fusermount3",
            ),
            Some(true) => self.confined().unwrap_or_else(|| {
                Finding::ok(CHECK, "this process may mount: CAP_SYS_ADMIN").value("capability")
            }),
            Some(false) => self.by_helper(),
        }
    }

    /// A profile of container runtimes that denies mount(2) whatever the capabilities.
    fn confined(&self) -> Option<Finding> {
        let profile = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
            .iter()
            .find_map(|path| self.text(path))?;
        let profile = profile.trim_end_matches(['\n', '\0']);
        let denies = ["docker-default", "containers-default", "cri-containerd.apparmor.d"]
            .iter()
            .any(|name| profile.starts_with(name))
            && profile.ends_with("(enforce)");
        denies.then(|| {
            Finding::warning(
                "mounting",
                format!("CAP_SYS_ADMIN is there, but AppArmor's {profile} denies mounting"),
                format!("start the container without that profile: {CONTAINER}"),
            )
            .value("apparmor")
        })
    }

    fn by_helper(&self) -> Finding {
        const CHECK: &str = "mounting";
        let no_capability = "this process lacks CAP_SYS_ADMIN";
        let Some((name, meta)) = self.helper() else {
            return Finding::fails(
                CHECK,
                format!("{no_capability}, and fusermount3 is not installed"),
                format!("install the package fuse3, mount as root, or in a container: {CONTAINER}"),
            );
        };
        let name = name.display();
        if self.has_capability("CapBnd", CAP_SYS_ADMIN) == Some(false) {
            return Finding::fails(
                CHECK,
                format!("{no_capability}, and no program that it starts can get it, not {name}"),
                format!("give it to the container: {CONTAINER}"),
            );
        }
        if self.own_status("NoNewPrivs").is_some_and(|set| set == "1") {
            return Finding::fails(
                CHECK,
                format!("{no_capability}, and no_new_privs keeps {name} from having it"),
                "start without no-new-privileges (Kubernetes: allowPrivilegeEscalation: true)",
            );
        }
        if meta.uid() != 0 || meta.mode() & SET_UID == 0 {
            let (mode, uid) = (meta.mode() & 0o7777, meta.uid());
            return Finding::fails(
                CHECK,
                format!("{no_capability}, and {name} has mode {mode:04o} and user {uid}"),
                format!("as root: chown root {name} && chmod u+s {name}; or mount as root"),
            );
        }
        Finding::ok(CHECK, format!("{no_capability}: {name} mounts, set-uid root")).value("helper")
    }

    /// The first helper that is there.
    fn helper(&self) -> Option<(PathBuf, fs::Metadata)> {
        let dirs: Vec<PathBuf> = std::env::split_paths(&self.path).collect();
        let places = |name: &&str| -> Vec<PathBuf> {
            let named = Path::new(name);
            if named.is_absolute() { vec![named.into()] } else { joined(&dirs, named) }
        };
        HELPERS.iter().flat_map(places).find_map(|path| {
            let meta = fs::metadata(self.at(&path)).ok()?;
            (meta.is_file() && meta.mode() & 0o111 != 0).then_some((path, meta))
        })
    }

    /// Whether users other than the one who mounts could use a mount. `others`: they are to.
    pub(in crate::lifecycle::doctor) fn allow_other(&self, others: bool) -> Finding {
        const CHECK: &str = "allow_other";
        if self.is_root {
            return Finding::ok(CHECK, "root mounts, so that every user can use the mount");
        }
        let lines = self.text("/etc/fuse.conf").unwrap_or_default();
        if lines.lines().any(|line| line.trim() == "user_allow_other") {
            return Finding::ok(CHECK, "user_allow_other in /etc/fuse.conf: -o allow_other works");
        }
        let found = "no user_allow_other in /etc/fuse.conf: only this user can use a mount";
        match others {
            false => Finding::ok(CHECK, found),
            true => Finding::warning(
                CHECK,
                found,
                "as root: echo user_allow_other >> /etc/fuse.conf, then mount with -o allow_other",
            ),
        }
    }
}

fn joined(dirs: &[PathBuf], name: &Path) -> Vec<PathBuf> {
    // What is relative in PATH depends on where one is.
    dirs.iter().filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).collect()
}

/// The beginning of a file; `None` if there is none to read.
pub(in crate::lifecycle::doctor) fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(TEXT_LEN_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `6.1` of `6.1.115-126.197.amzn2023.x86_64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What an attempt to open `/dev/fuse` says.
fn opened(error: Option<std::io::Error>, is_root: bool) -> Finding {
    const CHECK: &str = "device";
    let Some(error) = error else { return Finding::ok(CHECK, "/dev/fuse can be opened") };
    let found = format!("/dev/fuse can't be opened: {error}");
    match error.raw_os_error() {
        // Its mode; the helper opens it as root.
        Some(libc::EACCES) if !is_root => {
            Finding::ok(CHECK, "/dev/fuse is for root: fusermount3 opens it")
        }
        Some(libc::EPERM | libc::EACCES) => Finding::fails(
            CHECK,
            format!("{found}: the container was not given the device"),
            format!("{CONTAINER}; in Kubernetes a privileged container, or a device plugin"),
        ),
        Some(libc::ENODEV | libc::ENXIO) => {
            Finding::fails(CHECK, found, "modprobe fuse, on the host if this is a container")
        }
        _ if error.kind() == ErrorKind::NotFound => Finding::fails(CHECK, found, "modprobe fuse"),
        _ => Finding::fails(CHECK, found, "see what the kernel's log says of it: dmesg"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::doctor::finding::Status;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.1.115-126.197.amzn2023.x86_64\n"), Some((6, 1)));
        assert_eq!(version("5.10"), Some((5, 10)));
        for odd in ["", "x.y", "6", "99999999999.1", "6.-1"] {
            assert_eq!(version(odd), None, "{odd}");
        }
    }

    #[test]
    fn each_way_in_which_the_device_does_not_open_has_its_remedy() {
        let of = |errno, is_root| opened(Some(std::io::Error::from_raw_os_error(errno)), is_root);
        assert_eq!(opened(None, true).status, Status::Ok);
        assert_eq!(of(libc::EACCES, false).status, Status::Ok);
        for (errno, part) in [
            (libc::EACCES, "--device"),
            (libc::EPERM, "--device"),
            (libc::ENODEV, "modprobe"),
            (libc::ENOENT, "modprobe"),
            (libc::EIO, "dmesg"),
        ] {
            let finding = of(errno, true);
            assert_eq!(finding.status, Status::Fails);
            assert!(finding.remedy.is_some_and(|remedy| remedy.contains(part)), "{errno}");
        }
    }
}
