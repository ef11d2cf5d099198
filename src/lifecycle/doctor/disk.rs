//! Which disks lie below a block device, as sysfs tells it: partitions, LVM, md and dm-crypt are
//! followed down. What a disk is comes from the model that it reports, never from the name of a
//! machine's type.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lifecycle::doctor::machine::{Machine, text};

/// Devices that stand on each other, at most; sysfs has no loops, a made-up tree may.
const DEPTH_MAX: usize = 16;
/// Disks below one device that are looked at.
const DISKS_MAX: usize = 64;
/// Models of the disks of EC2.
const INSTANCE_STORE: &str = "Amazon EC2 NVMe Instance Storage";
const EBS: &str = "Amazon Elastic Block Store";

/// What a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::lifecycle::doctor) enum Kind {
    /// A local disk of an EC2 instance, which ends with the instance and takes no KMS key.
    InstanceStore,
    /// An EBS volume.
    Ebs,
    /// Memory.
    Memory,
    /// Another one, or one that tells no model.
    Other,
}

impl Kind {
    /// As programs read it.
    pub(in crate::lifecycle::doctor) fn word(self) -> &'static str {
        match self {
            Self::InstanceStore => "instance_store",
            Self::Ebs => "ebs",
            Self::Memory => "memory",
            Self::Other => "other",
        }
    }
}

/// A disk that stands on no other device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::lifecycle::doctor) struct Disk {
    pub(in crate::lifecycle::doctor) name: String,
    pub(in crate::lifecycle::doctor) model: String,
    pub(in crate::lifecycle::doctor) kind: Kind,
}

/// What is below a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::lifecycle::doctor) struct Below {
    /// The disks, each once.
    pub(in crate::lifecycle::doctor) disks: Vec<Disk>,
    /// What lies between, such as `LVM`; each once.
    pub(in crate::lifecycle::doctor) layers: Vec<String>,
    /// Whether dm-crypt is above a disk that was found, and above one that was not.
    sealed: bool,
    clear: bool,
}

impl Below {
    /// Whether whatever goes to a disk goes through dm-crypt.
    pub(in crate::lifecycle::doctor) fn is_encrypted(&self) -> bool {
        self.sealed && !self.clear
    }

    /// Whether some disk is of this kind.
    pub(in crate::lifecycle::doctor) fn has(&self, kind: Kind) -> bool {
        self.disks.iter().any(|disk| disk.kind == kind)
    }

    /// For people: `LVM, dm-crypt on nvme1n1 (Amazon EC2 NVMe Instance Storage)`.
    pub(in crate::lifecycle::doctor) fn named(&self) -> String {
        let disk = |disk: &Disk| match disk.model.as_str() {
            "" => disk.name.clone(),
            model => format!("{} ({model})", disk.name),
        };
        let disks = self.disks.iter().map(disk).collect::<Vec<_>>().join(", ");
        match &self.layers[..] {
            [] => disks,
            layers => format!("{} on {disks}", layers.join(", ")),
        }
    }
}

/// Below the device with these numbers; `None` if sysfs does not know it.
pub(in crate::lifecycle::doctor) fn below(machine: &Machine, device: (u32, u32)) -> Option<Below> {
    found(&machine.at(format!("/sys/dev/block/{}:{}", device.0, device.1)))
}

/// Below the device of this path, `/dev/NAME`; a link, as of LVM, is followed.
pub(in crate::lifecycle::doctor) fn below_path(machine: &Machine, path: &Path) -> Option<Below> {
    let real = machine.at(path).canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = real.file_name()?;
    found(&machine.at("/sys/class/block").join(name))
        .or_else(|| found(&machine.at("/sys/block").join(name)))
}

fn found(device: &Path) -> Option<Below> {
    let mut below = Below::default();
    walk(&device.canonicalize().ok()?, false, 0, &mut below);
    (!below.disks.is_empty()).then_some(below)
}

/// `device` is its directory in sysfs, without links; `sealed`: dm-crypt is above it.
fn walk(device: &Path, sealed: bool, depth: usize, below: &mut Below) {
    if depth > DEPTH_MAX || below.disks.len() > DISKS_MAX {
        return;
    }
    let layer = layer(device);
    let sealed = sealed || layer.as_deref() == Some("dm-crypt");
    if let Some(layer) = layer.filter(|layer| !below.layers.contains(layer)) {
        below.layers.push(layer);
    }
    let slaves: Vec<PathBuf> = slaves(device);
    for slave in &slaves {
        walk(slave, sealed, depth + 1, below);
    }
    if !slaves.is_empty() {
        return;
    }
    match device.parent() {
        Some(whole) if device.join("partition").exists() => walk(whole, sealed, depth + 1, below),
        _ => {
            let disk = disk(device);
            if sealed {
                below.sealed = true
            } else {
                below.clear = true
            }
            if !below.disks.contains(&disk) {
                below.disks.push(disk);
            }
        }
    }
}

/// Devices that this one stands on, sorted.
fn slaves(device: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
    let mut slaves: Vec<PathBuf> =
        listed.filter_map(|entry| entry.path().canonicalize().ok()).collect();
    slaves.sort();
    slaves
}

/// What a device makes of those below it.
fn layer(device: &Path) -> Option<String> {
    if let Some(level) = text(&device.join("md/level")) {
        return Some(format!("md {}", level.trim()));
    }
    let uuid = text(&device.join("dm/uuid"))?;
    Some(match uuid.split('-').next().unwrap_or_default() {
        "CRYPT" => "dm-crypt".to_owned(),
        "LVM" => "LVM".to_owned(),
        "mpath" => "multipath".to_owned(),
        _ => "device mapper".to_owned(),
    })
}

fn disk(device: &Path) -> Disk {
    let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let model = text(&device.join("device/model")).unwrap_or_default();
    let model = model.split_whitespace().collect::<Vec<_>>().join(" ");
    let model: String = model.chars().filter(|c| !c.is_control()).take(80).collect();
    let kind = match model.as_str() {
        model if model.contains(INSTANCE_STORE) => Kind::InstanceStore,
        model if model.contains(EBS) => Kind::Ebs,
        _ if is_memory(device, &name) => Kind::Memory,
        _ => Kind::Other,
    };
    let model = match text(&device.join("loop/backing_file")) {
        Some(file) => format!("file {}", file.trim()),
        None => model,
    };
    Disk { name, model, kind }
}

/// A zram device may have a disk behind it for what does not compress.
fn is_memory(device: &Path, name: &str) -> bool {
    let behind = text(&device.join("backing_dev"));
    let has_disk = behind.is_some_and(|behind| !matches!(behind.trim(), "" | "none"));
    (name.starts_with("zram") || name.starts_with("ram")) && !has_disk
}
