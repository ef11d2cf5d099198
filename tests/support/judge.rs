//! Whether what is read of a volume is what a model of its history allows.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cmkfs::file::{Access, Dir, File, FileError, Kind};

use crate::history::{Model, ROOT, XATTR};

/// How strictly a volume is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What was ever synced is never unreadable, though it was being overwritten.
    pub journal: bool,
    /// What is needed to read a directory is durable when the directory is.
    pub durable_names: bool,
}

/// Says what of a volume is none of what the model allows.
pub fn check(root: &Dir, model: &Model, rules: Rules) -> Result<(), String> {
    check_dir(root, ROOT, "", model, rules)
}

fn check_dir(dir: &Dir, id: usize, at: &str, model: &Model, rules: Rules) -> Result<(), String> {
    let entries = dir.entries().map_err(|error| format!("listing /{at}: {error}"))?;
    let kinds: BTreeMap<String, Kind> = entries
        .into_iter()
        .map(|entry| (String::from_utf8_lossy(&entry.name).into_owned(), entry.kind))
        .collect();
    let versions = &model.dirs[&id];
    let known: BTreeSet<&String> = versions.iter().flat_map(|names| names.keys()).collect();
    if let Some(odd) = kinds.keys().find(|name| !known.contains(name)) {
        return Err(format!("/{at}{odd:.20} was never there"));
    }
    for name in known {
        let path = format!("{at}{name}");
        let Some(kind) = kinds.get(name) else {
            let long = name.len() > 150 && !rules.durable_names;
            if long || versions.iter().any(|names| !names.contains_key(name)) {
                continue;
            }
            return Err(format!("/{path:.40} is gone"));
        };
        let may: BTreeSet<usize> = versions.iter().filter_map(|v| v.get(name).copied()).collect();
        let tried: Vec<Result<(), String>> = may
            .into_iter()
            .map(|id| check_node(dir, name, *kind, id, &path, model, rules))
            .collect();
        if !tried.iter().any(Result::is_ok) {
            return tried.into_iter().next().unwrap();
        }
    }
    Ok(())
}

fn check_node(
    dir: &Dir,
    name: &str,
    kind: Kind,
    id: usize,
    path: &str,
    model: &Model,
    rules: Rules,
) -> Result<(), String> {
    let name = name.as_bytes();
    let told = |error: FileError| format!("/{path:.40}: {error}");
    dir.lookup(name).map_err(told)?;
    if model.lost.contains(&id) {
        return Ok(());
    }
    if model.dirs.contains_key(&id) && kind == Kind::Dir {
        return match dir.open_dir(name) {
            Ok(below) => check_dir(&below, id, &format!("{path}/"), model, rules),
            Err(_) if !rules.durable_names => Ok(()),
            Err(error) => Err(told(error)),
        };
    }
    if let (Some(target), Kind::Symlink) = (model.links.get(&id), kind) {
        return match dir.read_link(name) {
            Ok(found) if found == target.as_bytes() => Ok(()),
            Ok(_) => Err(format!("/{path:.40}: another target")),
            Err(_) if !rules.durable_names => Ok(()),
            Err(error) => Err(told(error)),
        };
    }
    let Some(versions) = model.files.get(&id).filter(|_| kind == Kind::File) else {
        return Err(format!("/{path:.40}: {kind:?}, which it never was"));
    };
    // A file that nobody synced was never promised; without a journal nor is one in change.
    let promised = model.synced.contains(&id) && (rules.journal || versions.len() == 1);
    // Its own stored length can mend itself once; whoever looks again finds it.
    let open = || dir.open_file(name, Access::Read);
    let opened =
        open().or_else(|error| if error == FileError::Stale { open() } else { Err(error) });
    let file = match opened {
        Ok(file) => file,
        Err(error) if promised || is_blank(&error) => return Err(told(error)),
        Err(_) => return Ok(()),
    };
    check_xattr(dir, name, id, model, promised).map_err(|say| format!("/{path:.40}: {say}"))?;
    check_content(&file, versions, promised).map_err(|say| format!("/{path:.40}: {say}"))
}

/// Whether nothing at all is stored of what is refused: then it was made and never synced, which
/// takes no repair.
fn is_blank(error: &FileError) -> bool {
    let FileError::Damaged(damage) = error else { return false };
    let lower = damage.spot.path.as_ref().map(|path| path.symlink_metadata());
    lower.is_some_and(|lower| lower.is_ok_and(|lower| lower.len() == 0))
}

/// Compares in parts, so that one that can't be read says nothing of the others.
fn check_content(file: &File, versions: &[Rc<Vec<u8>>], promised: bool) -> Result<(), String> {
    const PART: usize = 512;
    let len = usize::try_from(file.len()).unwrap();
    let lens = || versions.iter().map(|version| version.len());
    let (min, max) = (lens().min().unwrap(), lens().max().unwrap());
    if len < min || len > max {
        return Err(format!("{len} bytes long, wanted {min} to {max}"));
    }
    for start in (0..len).step_by(PART) {
        let part = match file.read(start as u64, PART.min(len - start)) {
            Ok(part) => part,
            Err(error) if promised => return Err(format!("byte {start}: {error}")),
            Err(_) => continue,
        };
        for (at, byte) in (start..).zip(part.iter()) {
            let may = versions.iter().any(|v| v.get(at).copied().unwrap_or(0) == *byte);
            if !may {
                let wanted: BTreeSet<_> = versions.iter().filter_map(|v| v.get(at)).collect();
                return Err(format!("byte {at} is {byte}, wanted one of {wanted:?}"));
            }
        }
    }
    Ok(())
}

fn check_xattr(
    dir: &Dir,
    name: &[u8],
    id: usize,
    model: &Model,
    promised: bool,
) -> Result<(), String> {
    let may = model.xattrs.get(&id);
    let found = match dir.get_xattr(Some(name), XATTR) {
        Ok(value) => value.first().copied(),
        Err(FileError::NoAttribute) => None,
        Err(error) if promised => return Err(format!("its attribute: {error}")),
        Err(_) => return Ok(()),
    };
    let is = may.map_or_else(|| found.is_none(), |may| may.iter().any(|value| **value == found));
    if is { Ok(()) } else { Err(format!("its attribute is {found:?}, wanted one of {may:?}")) }
}
