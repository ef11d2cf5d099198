//! Machines that are made up of files: what doctor says of each, and that no content of `/proc` and
//! `/sys` makes it panic.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::disk::{Below, Kind, below, below_path};
use super::finding::Status;
use super::machine::Machine;
use super::memory::{Swap, memory_lock, swap};
use super::place::judge_disk;
use crate::sys::Protection;

/// Where the disks of an instance are in sysfs.
const PCI: &str = "/sys/devices/pci0000:00/0000:00:1f.0/nvme";

struct MadeUp(tempfile::TempDir);

impl MadeUp {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn file(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.at(target), path).unwrap();
        self
    }

    fn machine(&self, is_root: bool) -> Machine {
        Machine::made_up(self.0.path(), is_root)
    }

    /// A disk `nvme<n>n1` with one partition, as numbers 259:<10n> and 259:<10n+1>.
    fn nvme(&self, n: u32, model: impl AsRef<[u8]>) -> &Self {
        let (controller, disk) = (format!("{PCI}/nvme{n}"), format!("{PCI}/nvme{n}/nvme{n}n1"));
        let part = format!("{disk}/nvme{n}n1p1");
        self.file(&format!("{controller}/model"), model).file(&format!("{part}/partition"), "1\n");
        self.link(&format!("{disk}/device"), &controller);
        for (path, number) in [(&disk, 10 * n), (&part, 10 * n + 1)] {
            self.link(&format!("/sys/dev/block/259:{number}"), path);
            let name = path.rsplit('/').next().unwrap();
            self.link(&format!("/sys/class/block/{name}"), path);
        }
        self
    }

    /// A device `dm-<n>`, number 253:<n>, on others.
    fn mapped(&self, n: u32, uuid: &str, on: &[&str]) -> &Self {
        let device = format!("/sys/devices/virtual/block/dm-{n}");
        self.file(&format!("{device}/dm/uuid"), uuid);
        for slave in on {
            let name = slave.rsplit('/').next().unwrap();
            self.link(&format!("{device}/slaves/{name}"), slave);
        }
        self.link(&format!("/sys/dev/block/253:{n}"), &device);
        self.link(&format!("/sys/class/block/dm-{n}"), &device)
    }

    fn below(&self, device: (u32, u32)) -> Option<Below> {
        below(&self.machine(true), device)
    }
}

const INSTANCE: &str = "Amazon EC2 NVMe Instance Storage        \n";
const EBS: &str = "Amazon Elastic Block Store              \n";

#[test]
fn instance_store_and_ebs_are_told_apart_by_their_model() {
    let made = MadeUp::new();
    made.nvme(0, EBS).nvme(1, INSTANCE).nvme(2, "Samsung SSD 990\n");
    for (device, kind) in [
        ((259, 0), Kind::Ebs),
        ((259, 1), Kind::Ebs),
        ((259, 10), Kind::InstanceStore),
        ((259, 11), Kind::InstanceStore),
        ((259, 21), Kind::Other),
    ] {
        let below = made.below(device).unwrap();
        assert_eq!((below.disks.len(), below.disks[0].kind), (1, kind), "{device:?}");
        assert!(below.layers.is_empty() && !below.is_encrypted());
    }
    let of = |device, lasts| judge_disk(made.below(device), "ext4", lasts).unwrap();
    let found = of((259, 11), false);
    assert_eq!((found.status, found.value.as_deref()), (Status::Ok, Some("instance_store")));
    assert!(found.found.contains("nvme1n1 (Amazon EC2 NVMe Instance Storage)"), "{}", found.found);
    assert_eq!(of((259, 11), true).status, Status::Warning);
    let found = of((259, 1), true);
    assert_eq!((found.status, found.value.as_deref()), (Status::Ok, Some("ebs")));
    assert!(of((259, 21), true).found.contains("nvme2n1 (Samsung SSD 990)"));
}

#[test]
fn lvm_md_and_dm_crypt_are_followed_to_the_disks() {
    let made = MadeUp::new();
    made.nvme(1, INSTANCE).nvme(2, INSTANCE).nvme(3, EBS);
    let [one, two] = [1, 2].map(|n| format!("{PCI}/nvme{n}/nvme{n}n1"));
    let part = format!("{two}/nvme2n1p1");
    made.mapped(0, "LVM-abcdef\n", &[&one, &part]);
    let below = made.below((253, 0)).unwrap();
    let names: Vec<_> = below.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!((names, &below.layers[..]), (vec!["nvme1n1", "nvme2n1"], &["LVM".to_owned()][..]));
    assert!(below.has(Kind::InstanceStore) && !below.is_encrypted());
    let shown = "LVM on nvme1n1 (Amazon EC2 NVMe Instance Storage), nvme2n1 (Amazon EC2";
    assert!(below.named().starts_with(shown), "{}", below.named());

    // An array of the two, a volume group on it, dm-crypt on that, by the name of its path.
    let array = "/sys/devices/virtual/block/md0";
    made.file(&format!("{array}/md/level"), "raid0\n");
    made.link(&format!("{array}/slaves/nvme1n1"), &one);
    made.link(&format!("{array}/slaves/nvme2n1p1"), &part);
    made.mapped(1, "LVM-x", &[array]).mapped(
        2,
        "CRYPT-LUKS2-x",
        &["/sys/devices/virtual/block/dm-1"],
    );
    made.link("/dev/mapper/sealed", "/dev/dm-2").file("/dev/dm-2", "");
    let below = below_path(&made.machine(true), Path::new("/dev/mapper/sealed")).unwrap();
    assert_eq!(below.layers, ["dm-crypt", "LVM", "md raid0"]);
    assert!(below.is_encrypted() && below.disks.len() == 2);

    // One leg in the clear is enough.
    let sealed = "/sys/devices/virtual/block/dm-2";
    made.mapped(3, "mpath-x", &[sealed, &format!("{PCI}/nvme3/nvme3n1")]);
    let below = made.below((253, 3)).unwrap();
    assert!(!below.is_encrypted() && below.has(Kind::Ebs) && below.has(Kind::InstanceStore));
    assert_eq!(judge_disk(Some(below), "xfs", true).unwrap().status, Status::Warning);
}

#[test]
fn odd_trees_give_no_disk_or_an_unknown_one_and_end() {
    let made = MadeUp::new();
    assert_eq!(made.below((8, 0)), None);
    assert_eq!(below_path(&made.machine(true), Path::new("/")), None);
    // Stands on itself.
    made.mapped(0, "LVM-x", &["/sys/devices/virtual/block/dm-0"]);
    assert_eq!(made.below((253, 0)), None);
    // A dangling link, a file in the place of a directory, a model that is a directory or no text.
    made.link("/sys/dev/block/259:99", "/nowhere").file("/sys/dev/block/8:0", "x");
    assert_eq!(made.below((259, 99)), None);
    assert_eq!(made.below((8, 0)).unwrap().disks[0].kind, Kind::Other);
    fs::create_dir_all(made.at("/sys/dev/block/8:16/device/model")).unwrap();
    assert_eq!(made.below((8, 16)).unwrap().disks[0].model, "");
    made.nvme(4, b"\xff\xfe\x00\x1b[2J bad\n");
    assert!(!made.below((259, 40)).unwrap().named().contains('\u{1b}'));
    // More disks than are looked at.
    let many: Vec<String> = (100..170).map(|n| format!("{PCI}/nvme{n}/nvme{n}n1")).collect();
    for n in 100..170 {
        made.nvme(n, INSTANCE);
    }
    made.mapped(7, "LVM-y", &many.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(made.below((253, 7)).unwrap().disks.len() < 70);
}

const SWAPS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

#[test]
fn swap_is_in_the_clear_unless_it_is_memory_or_below_dm_crypt() {
    let made = MadeUp::new();
    assert_eq!(made.machine(true).swaps(), Swap::Unknown);
    let of = |areas: &str| {
        made.file("/proc/swaps", format!("{SWAPS}{areas}"));
        made.machine(true).swaps()
    };
    made.nvme(1, INSTANCE).mapped(0, "CRYPT-PLAIN-swap", &[&format!("{PCI}/nvme1/nvme1n1")]);
    made.file("/sys/class/block/zram0/disksize", "0").file("/my swap", "");
    assert_eq!(of(""), Swap::None);
    let areas = "/dev/dm-0 partition 8 0 -2\n/dev/zram0 partition 8 0 5\n";
    let sealed = Swap::Sealed(vec!["/dev/dm-0".to_owned(), "/dev/zram0".to_owned()]);
    assert_eq!(of(areas), sealed);
    let clear = of(&format!("{areas}/dev/nvme1n1p1 partition 8 0 -2\n/my\\040swap file 8 0 -2\n"));
    assert_eq!(clear, Swap::Clear(vec!["/dev/nvme1n1p1".to_owned(), "/my swap".to_owned()]));
    made.file("/sys/class/block/zram0/backing_dev", "/dev/nvme1n1p1\n");
    assert_eq!(of("/dev/zram0 partition 8 0 5\n"), Swap::Clear(vec!["/dev/zram0".to_owned()]));

    let no_swap = |no_swap| {
        let missing = if no_swap { vec![] } else { vec!["it may be swapped: why".to_owned()] };
        Protection { no_core_files: true, no_tracing: true, no_swap, missing }
    };
    assert_eq!(memory_lock(&no_swap(true), &clear).status, Status::Ok);
    assert_eq!(memory_lock(&no_swap(false), &sealed).status, Status::Ok);
    let warned = memory_lock(&no_swap(false), &clear);
    assert_eq!((warned.status, &*warned.found), (Status::Warning, "it may be swapped: why"));
    let all = [&Swap::None, &sealed, &clear, &Swap::Unknown].map(|state| swap(state).status);
    assert_eq!(all, [Status::Ok, Status::Ok, Status::Warning, Status::Warning]);
}

const FILESYSTEMS: &str = "nodev\tproc\n\text4\nnodev\tfuse\n";

#[test]
fn the_kernel_has_to_be_new_enough_and_to_have_fuse() {
    let made = MadeUp::new();
    assert_eq!(made.machine(true).kernel().status, Status::Fails, "no /proc");
    let status = |release: &str, filesystems: &str| {
        made.file("/proc/sys/kernel/osrelease", release).file("/proc/filesystems", filesystems);
        made.machine(true).kernel().status
    };
    assert_eq!(status("6.1.115-126.197.amzn2023.x86_64\n", FILESYSTEMS), Status::Ok);
    assert_eq!(status("6.1.0\n", "nodev\tproc\n\tfuseblk\n"), Status::Warning);
    assert_eq!(status("4.14.355-275.570.amzn2.x86_64\n", FILESYSTEMS), Status::Fails);
    assert_eq!(status("mine\n", FILESYSTEMS), Status::Warning);
}

#[test]
fn a_missing_or_wrong_device_is_told() {
    let made = MadeUp::new();
    let found = made.machine(true).device();
    assert_eq!((found.status, &*found.found), (Status::Fails, "there is no /dev/fuse"));
    assert!(found.remedy.unwrap().contains("--device /dev/fuse"));
    made.file("/dev/fuse", "");
    assert_eq!(made.machine(true).device().found, "/dev/fuse is something else");
}

#[test]
fn mounting_is_by_capability_or_by_the_helper() {
    let made = MadeUp::new();
    assert_eq!(made.machine(true).mounting().status, Status::Warning, "no /proc");
    let status = |effective: &str, bounding: &str, more: &str| {
        let text = format!("Name:\tx\nCapEff:\t{effective}\nCapBnd:\t{bounding}\n{more}");
        made.file("/proc/self/status", text);
        made.machine(false).mounting()
    };
    const ALL: &str = "000001ffffffffff";
    const NONE: &str = "0000000000000000";
    assert_eq!(status(ALL, ALL, "").value.as_deref(), Some("capability"));
    made.file("/proc/self/attr/current", "docker-default (enforce)\n");
    assert_eq!(status(ALL, ALL, "").value.as_deref(), Some("apparmor"));
    made.file("/proc/self/attr/current", "unconfined\n");
    assert_eq!(status(ALL, ALL, "").status, Status::Ok);
    assert_eq!(status("all of them", ALL, "").status, Status::Warning);

    let missing = status(NONE, ALL, "");
    assert!(missing.found.contains("not installed") && missing.status == Status::Fails);
    made.file("/usr/bin/fusermount3", "x");
    let program = made.at("/usr/bin/fusermount3");
    let mode = |mode| fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o755);
    let plain = status(NONE, ALL, "");
    assert!(plain.found.contains("mode 0755") && plain.remedy.unwrap().contains("chmod u+s"));
    mode(0o4755);
    // It belongs to whoever runs this test.
    let is_root = rustix::process::geteuid().is_root();
    let wanted = if is_root { Status::Ok } else { Status::Fails };
    assert_eq!(status(NONE, ALL, "NoNewPrivs:\t0\n").status, wanted);
    assert!(status(NONE, ALL, "NoNewPrivs:\t1\n").found.contains("no_new_privs"));
    assert!(status(NONE, NONE, "").found.contains("no program that it starts"));
}

#[test]
fn allow_other_matters_where_others_use_the_mount() {
    let made = MadeUp::new();
    let status = |is_root, others| made.machine(is_root).allow_other(others).status;
    assert_eq!(status(true, true), Status::Ok);
    assert_eq!((status(false, false), status(false, true)), (Status::Ok, Status::Warning));
    made.file("/etc/fuse.conf", "# comment\n#user_allow_other\n");
    assert_eq!(status(false, true), Status::Warning);
    made.file("/etc/fuse.conf", "mount_max = 9\n  user_allow_other \n");
    assert_eq!(status(false, true), Status::Ok);
}

#[test]
fn no_content_of_a_file_makes_it_panic() {
    let made = MadeUp::new();
    let long = vec![b'\\'; 3 << 20];
    for content in
        [&b""[..], b"\n\n", b"\0\xff\xfe", b"CapEff:", b"CapEff:\t-1", b"a b \\4\n\\777", &long]
    {
        for path in [
            "/proc/swaps",
            "/proc/self/status",
            "/proc/filesystems",
            "/proc/sys/kernel/osrelease",
            "/proc/self/attr/current",
            "/etc/fuse.conf",
        ] {
            made.file(path, content);
        }
        for is_root in [true, false] {
            let machine = made.machine(is_root);
            for finding in [machine.kernel(), machine.mounting(), machine.allow_other(true)] {
                assert!(!finding.found.is_empty());
            }
            swap(&machine.swaps());
        }
    }
}
