//! Finding the stored files that the journal's records are about.

use std::collections::{HashMap, HashSet};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::file::error::FileError;
use crate::file::replay::Plan;
use crate::file::volume::Volume;
use crate::format::header;
use crate::format::ids::FileId;
use crate::format::journal::Subject;
use crate::store::{Blob, DiskBlob, StoreDir, is_dot};

/// Where the store was copied while the journal went on, records of one file have several numbers:
/// gives them all that of the file which is there, or the newest if none is. Where somebody has put
/// a file in another's place, so that two have one id, each keeps its own.
pub(in crate::file) fn number_alike(
    volume: &Volume,
    subjects: &mut [&mut Subject],
) -> Result<(), FileError> {
    let mut numbers: HashMap<FileId, Vec<u64>> = HashMap::new();
    for subject in subjects.iter() {
        let numbers = numbers.entry(subject.file_id).or_default();
        numbers.retain(|number| *number != subject.ino);
        numbers.push(subject.ino);
    }
    numbers.retain(|_, numbers| numbers.len() > 1);
    if numbers.is_empty() {
        return Ok(());
    }
    let asked: HashSet<u64> = numbers.values().flatten().copied().collect();
    let mut there: HashMap<FileId, HashSet<u64>> = HashMap::new();
    walk(volume.tree().clone(), &mut |dir, name, ino| {
        if asked.contains(&ino)
            && let Claim::Id(id) = claim(&open(dir, name)?)?
            && numbers.get(&id).is_some_and(|numbers| numbers.contains(&ino))
        {
            there.entry(id).or_default().insert(ino);
        }
        Ok(())
    })?;
    for subject in subjects {
        let Some(numbers) = numbers.get(&subject.file_id) else { continue };
        let there = there.get(&subject.file_id).into_iter().flatten();
        let mut there = there.copied();
        match (there.next(), there.next()) {
            (None, _) => subject.ino = *numbers.last().expect("two at least"),
            (Some(number), None) => subject.ino = number,
            (Some(_), Some(_)) => {}
        }
    }
    Ok(())
}

pub(in crate::file) fn walk(
    dir: StoreDir,
    see: &mut impl FnMut(&StoreDir, &[u8], u64) -> Result<(), FileError>,
) -> Result<(), FileError> {
    // By name: one directory may have more in it than this process may have descriptors.
    let mut left: Vec<(StoreDir, Vec<u8>)> = Vec::new();
    let mut next = Some(dir);
    while let Some(dir) = next {
        let mut stream = dir.stream()?;
        loop {
            let batch = stream.batch()?;
            if batch.is_empty() {
                break;
            }
            for entry in batch.iter().filter(|entry| !is_dot(&entry.name)) {
                let kind = match entry.kind {
                    // A disk that does not tell in its listings.
                    FileType::Unknown => FileType::from_raw_mode(dir.stat(&entry.name)?.st_mode),
                    told => told,
                };
                match kind {
                    FileType::Directory => left.push((dir.clone(), entry.name.clone())),
                    FileType::RegularFile => see(&dir, &entry.name, entry.ino)?,
                    _ => {}
                }
            }
        }
        next = left.pop().map(|(parent, name)| open_dir(&parent, &name)).transpose()?;
    }
    Ok(())
}

pub(in crate::file) fn open_dir(parent: &StoreDir, name: &[u8]) -> Result<StoreDir, FileError> {
    match parent.open_dir(name) {
        // Without it the records of what is in it would go.
        Err(Errno::ACCESS) => Ok(parent.open_dir_lending(name)?),
        opened => Ok(opened?),
    }
}

pub(in crate::file) fn open(dir: &StoreDir, name: &[u8]) -> Result<DiskBlob, FileError> {
    match dir.open_file(name, true) {
        Err(Errno::ACCESS) => Ok(dir.open_file_lending(name)?),
        opened => Ok(opened?),
    }
}

/// Whose a stored file claims to be, by the first bytes of its header: they stay the same while the
/// file lives, so that one which was caught in being written over has them too.
pub(in crate::file) enum Claim {
    Id(FileId),
    /// No bytes, or zeros: what a crash leaves of a header that was written for the first time.
    Blank,
    /// Not a file of ours.
    Other,
}

pub(in crate::file) fn claim(blob: &DiskBlob) -> Result<Claim, FileError> {
    let mut page = [0; header::PREFIX_BYTES];
    let len = blob.read_at(0, &mut page)?;
    Ok(match header::decode(&page[..len]) {
        Ok((prefix, _)) => Claim::Id(prefix.file_id),
        Err(_) if page.iter().all(|byte| *byte == 0) => Claim::Blank,
        Err(_) => Claim::Other,
    })
}

/// Which of the plans for its number is about a stored file.
pub(in crate::file) fn which(
    blob: &DiskBlob,
    plans: &[Plan<'_>],
) -> Result<Option<usize>, FileError> {
    Ok(match claim(blob)? {
        Claim::Id(id) => plans.iter().position(|plan| plan.file_id == id),
        Claim::Blank => plans.iter().rposition(|plan| plan.birth.is_some()),
        Claim::Other => None,
    })
}
