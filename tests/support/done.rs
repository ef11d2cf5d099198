//! Calls that change a disk, written down, and a disk in memory that they are done to.

use crate::disk::{Disk, Object};

/// A call that was made, with what it needs to be made again.
#[derive(Clone, Debug)]
pub enum Done {
    Write {
        file: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLen {
        file: u64,
        len: u64,
    },
    Punch {
        file: u64,
        offset: u64,
        len: u64,
    },
    SyncFile {
        file: u64,
    },
    SyncDir,
    SyncDisk,
    Make {
        dir: u64,
        name: Vec<u8>,
        ino: u64,
        object: Object,
    },
    /// A file that was there was cut to zero by being opened.
    Cut {
        file: u64,
    },
    Link {
        file: u64,
        dir: u64,
        name: Vec<u8>,
    },
    Rename {
        dir: u64,
        name: Vec<u8>,
        to_dir: u64,
        to_name: Vec<u8>,
        exchange: bool,
    },
    Remove {
        dir: u64,
        name: Vec<u8>,
    },
    SetMode {
        file: u64,
        mode: u32,
    },
    SetXattr {
        file: u64,
        name: String,
        value: Option<Vec<u8>>,
    },
}

impl Done {
    pub fn renumber(&mut self, number: impl Fn(u64) -> u64) {
        let ids: [Option<&mut u64>; 2] = match self {
            Self::SyncDir | Self::SyncDisk => [None, None],
            Self::Write { file, .. }
            | Self::SetLen { file, .. }
            | Self::Punch { file, .. }
            | Self::SyncFile { file }
            | Self::Cut { file }
            | Self::SetMode { file, .. }
            | Self::SetXattr { file, .. } => [Some(file), None],
            Self::Remove { dir, .. } => [Some(dir), None],
            Self::Make { dir, ino, .. } => [Some(dir), Some(ino)],
            Self::Link { file, dir, .. } => [Some(file), Some(dir)],
            Self::Rename { dir, to_dir, .. } => [Some(dir), Some(to_dir)],
        };
        ids.into_iter().flatten().for_each(|id| *id = number(*id));
    }
}

/// Does to the disk in memory what a call does.
pub fn apply(disk: &mut Disk, done: &Done) {
    match done {
        Done::Write { file, offset, bytes } => {
            if let Some(content) = disk.content(*file) {
                content.write(*offset, bytes);
            }
        }
        Done::SetLen { file, len } => {
            if let Some(content) = disk.content(*file) {
                content.set_len(*len);
            }
        }
        Done::Cut { file } => {
            if let Some(content) = disk.content(*file) {
                content.set_len(0);
            }
        }
        Done::Punch { file, offset, len } => {
            if let Some(content) = disk.content(*file) {
                let len = (*len).min(content.len.saturating_sub(*offset));
                content.zero(*offset, len);
            }
        }
        Done::SyncFile { .. } | Done::SyncDir | Done::SyncDisk => {}
        Done::Make { dir, name, ino, object } => {
            disk.objects.insert(*ino, object.clone());
            disk.entries(*dir).unwrap().insert(name.clone(), *ino);
        }
        Done::Link { file, dir, name } => {
            disk.entries(*dir).unwrap().insert(name.clone(), *file);
        }
        Done::Rename { dir, name, to_dir, to_name, exchange } => {
            let moved = disk.entries(*dir).unwrap().remove(name).unwrap();
            let there = disk.entries(*to_dir).unwrap().insert(to_name.clone(), moved);
            if let (true, Some(there)) = (*exchange, there) {
                disk.entries(*dir).unwrap().insert(name.clone(), there);
            } else if there == Some(moved) {
                // Two names of one file: rename(2) leaves both.
                disk.entries(*dir).unwrap().insert(name.clone(), moved);
            }
        }
        Done::Remove { dir, name } => drop(disk.entries(*dir).unwrap().remove(name)),
        Done::SetMode { file, mode } => disk.objects.get_mut(file).unwrap().mode = *mode,
        Done::SetXattr { file, name, value } => {
            let xattrs = &mut disk.objects.get_mut(file).unwrap().xattrs;
            match value {
                Some(value) => drop(xattrs.insert(name.clone(), value.clone())),
                None => drop(xattrs.remove(name)),
            }
        }
    }
}
