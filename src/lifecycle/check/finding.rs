//! What a check finds, and how it is counted and told.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Kinds of findings. Programs read the names: none is ever used for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// An extended attribute is not authentic.
    Attribute,
    /// The lower file is shorter than its header says.
    Cut,
    /// The lower file is longer than its header says: a crash leaves this, opening mends it.
    Long,
    /// Ranges of a file can't be read.
    Blocks,
    /// The header of a file does not open.
    Header,
    /// The target of a symbolic link can't be read.
    Link,
    /// The name of an object is not authentic in its directory.
    Name,
    /// The sidecar of a long name is missing or not the object's.
    Sidecar,
    /// A sidecar without its object: a crash leaves this, it is of no account.
    OrphanSidecar,
    /// The marker of a directory is missing or not authentic.
    Marker,
    /// Nothing that cmkfs writes.
    Foreign,
    /// A file under `links/` that no link refers to: a crash leaves this, it is of no account.
    OrphanLink,
    /// What a crash leaves of a change of `volume.json`, or of a directory while it is made or
    /// removed: it is of no account.
    Leftover,
    /// A file that was being made when the volume was not left cleanly, and has no byte: it reads
    /// as empty, and gets its header when it is opened for the first time.
    Blank,
    /// The store's disk refused to give it.
    Unread,
}

impl FindingKind {
    /// Whether all that was written can still be read.
    pub fn is_harmless(self) -> bool {
        match self {
            Self::Long | Self::OrphanSidecar | Self::OrphanLink | Self::Leftover | Self::Blank => {
                true
            }
            Self::Attribute
            | Self::Cut
            | Self::Blocks
            | Self::Header
            | Self::Link
            | Self::Name
            | Self::Sidecar
            | Self::Marker
            | Self::Foreign
            | Self::Unread => false,
        }
    }

    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Attribute => "attribute",
            Self::Cut => "cut",
            Self::Long => "long",
            Self::Blocks => "blocks",
            Self::Header => "header",
            Self::Link => "link",
            Self::Name => "name",
            Self::Sidecar => "sidecar",
            Self::OrphanSidecar => "orphan-sidecar",
            Self::Marker => "marker",
            Self::Foreign => "foreign",
            Self::OrphanLink => "orphan-link",
            Self::Leftover => "leftover",
            Self::Blank => "blank",
            Self::Unread => "unread",
        }
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which kind of thing.
    pub kind: FindingKind,
    /// Path below the store.
    #[serde(serialize_with = "lossy")]
    pub stored: PathBuf,
    /// Path in the volume, `?` for a name that can't be read; `None` without the key, and for
    /// what is no object of the tree.
    #[serde(serialize_with = "lossy_maybe")]
    pub path: Option<PathBuf>,
    /// What was found.
    pub reason: String,
    /// Plaintext ranges that can't be read, first byte and byte after the last.
    pub ranges: Vec<[u64; 2]>,
    /// Stored name of the extended attribute.
    pub attribute: Option<String>,
    /// Whether all that was written can still be read.
    pub harmless: bool,
    /// What a repair did about it; `None` if nothing was tried.
    pub done: Option<String>,
    /// Why a repair left it as it is.
    pub left: Option<String>,
}

fn lossy<S: serde::Serializer>(path: &std::path::Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

fn lossy_maybe<S: serde::Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => to.collect_str(&path.display()),
        None => to.serialize_none(),
    }
}

impl Finding {
    pub(in crate::lifecycle::check) fn new(
        kind: FindingKind,
        stored: PathBuf,
        path: Option<PathBuf>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            stored,
            path,
            reason: reason.into(),
            ranges: Vec::new(),
            attribute: None,
            harmless: kind.is_harmless(),
            done: None,
            left: None,
        }
    }

    /// Whether something that was written still can't be read.
    pub fn is_open(&self) -> bool {
        !self.harmless && (self.done.is_none() || self.left.is_some())
    }

    /// One line for people; names are as they are.
    pub fn line(&self) -> String {
        let path = self.path.as_ref().map_or_else(String::new, |path| {
            let slash = if path.has_root() { "" } else { "/" };
            format!(" ({slash}{})", path.display())
        });
        let ranges: Vec<String> =
            self.ranges.iter().map(|[start, end]| format!("{start} to {end}")).collect();
        let ranges = match &ranges[..] {
            [] => String::new(),
            ranges => format!("; bytes {} can't be read", ranges.join(", ")),
        };
        let attribute = self.attribute.as_ref().map_or_else(String::new, |name| format!(" {name}"));
        let done = self.done.as_ref().map_or_else(String::new, |done| format!(" -> {done}"));
        let left = self.left.as_ref().map_or_else(String::new, |left| format!(" -> left: {left}"));
        let (word, stored) = (self.kind.word(), self.stored.display());
        format!("{word}: {stored}{path}{attribute}: {}{ranges}{done}{left}", self.reason)
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Directories, the root too.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub links: u64,
    /// FIFOs, sockets and devices.
    pub others: u64,
    /// Bytes of plaintext in the files, holes included; without the key, of their stored form.
    pub bytes: u64,
}

/// [`Counts`] while they grow.
#[derive(Debug, Default)]
pub(in crate::lifecycle::check) struct Counting {
    pub(in crate::lifecycle::check) directories: AtomicU64,
    pub(in crate::lifecycle::check) files: AtomicU64,
    pub(in crate::lifecycle::check) links: AtomicU64,
    pub(in crate::lifecycle::check) others: AtomicU64,
    pub(in crate::lifecycle::check) bytes: AtomicU64,
}

impl Counting {
    pub(in crate::lifecycle::check) fn now(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            directories: read(&self.directories),
            files: read(&self.files),
            links: read(&self.links),
            others: read(&self.others),
            bytes: read(&self.bytes),
        }
    }
}

pub(in crate::lifecycle::check) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}
