//! Whether memory can reach a disk: locked or not, and what there is to swap to.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::fuse::unescaped;
use crate::lifecycle::doctor::disk::{self, Kind};
use crate::lifecycle::doctor::finding::Finding;
use crate::lifecycle::doctor::machine::Machine;
use crate::sys::Protection;

/// What is swapped to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::lifecycle::doctor) enum Swap {
    /// Nothing.
    None,
    /// Memory, or disks below dm-crypt.
    Sealed(Vec<String>),
    /// Also these, in the clear.
    Clear(Vec<String>),
    /// The list can't be read.
    Unknown,
}

impl Machine {
    /// What `/proc/swaps` lists.
    pub(in crate::lifecycle::doctor) fn swaps(&self) -> Swap {
        let Some(list) = self.text("/proc/swaps") else { return Swap::Unknown };
        // A heading, then a line each: path, type, size and others.
        let areas: Vec<PathBuf> = list
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .map(|field| OsString::from_vec(unescaped(field.as_bytes())).into())
            .collect();
        if areas.is_empty() {
            return Swap::None;
        }
        let shown = |areas: &[&PathBuf]| areas.iter().map(|a| a.display().to_string()).collect();
        let (sealed, clear): (Vec<_>, Vec<_>) = areas.iter().partition(|area| self.is_sealed(area));
        if clear.is_empty() { Swap::Sealed(shown(&sealed)) } else { Swap::Clear(shown(&clear)) }
    }

    fn is_sealed(&self, area: &PathBuf) -> bool {
        let below = match disk::below_path(self, area) {
            Some(below) => Some(below),
            // A file: what its filesystem lies on.
            None => std::fs::metadata(self.at(area)).ok().and_then(|meta| {
                let device = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
                disk::below(self, device)
            }),
        };
        let is_memory = |below: &disk::Below| below.disks.iter().all(|d| d.kind == Kind::Memory);
        below.is_some_and(|below| below.is_encrypted() || is_memory(&below))
    }
}

/// Whether the memory of cmkfs is locked.
pub(in crate::lifecycle::doctor) fn memory_lock(protection: &Protection, swap: &Swap) -> Finding {
    const CHECK: &str = "memory_lock";
    if protection.no_swap {
        return Finding::ok(CHECK, "memory with keys is locked and can't be swapped")
            .value("locked");
    }
    let reason = protection.missing.iter().find(|missing| missing.contains("swapped"));
    let finding = match swap {
        Swap::None | Swap::Sealed(_) => {
            let found = "memory with keys is not locked, and nothing in the clear to swap it to";
            Finding::ok(CHECK, found)
        }
        Swap::Clear(_) | Swap::Unknown => Finding::warning(
            CHECK,
            reason.map_or("memory with keys is not locked", String::as_str),
            "ulimit -l unlimited, LimitMEMLOCK=infinity (systemd) or --cap-add IPC_LOCK (docker)",
        ),
    };
    finding.value("not_locked")
}

/// Whether what programs have in memory can reach a disk.
pub(in crate::lifecycle::doctor) fn swap(swap: &Swap) -> Finding {
    const CHECK: &str = "swap";
    match swap {
        Swap::None => Finding::ok(CHECK, "no swap").value("none"),
        Swap::Sealed(areas) => {
            Finding::ok(CHECK, format!("in memory or encrypted: {}", areas.join(", ")))
                .value("sealed")
        }
        Swap::Clear(areas) => Finding::warning(
            CHECK,
            format!(
                "in the clear: {}; what programs have read from a volume can get there",
                areas.join(", ")
            ),
            "swapoff -a, or swap to a dm-crypt device with a random key (crypttab: swap)",
        )
        .value("clear"),
        Swap::Unknown => {
            Finding::warning(CHECK, "/proc/swaps can't be read", "make sure that there is no swap")
        }
    }
}
