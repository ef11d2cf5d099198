//! `ls`, `cat`, `get` and `put`: through the mount if there is one, else straight from the store.

use std::path::{Path, PathBuf};

use crate::file::Kind;
use crate::fs::Follow;
use crate::keys::KeySource;
use crate::lifecycle::error::VerbError;
use crate::lifecycle::locate::locate;
use crate::lifecycle::open::{Access, Tuning, open, open_to_look};
use crate::lifecycle::tree::plain::{Plain, Side};
use crate::lifecycle::tree::stored::Stored;
use crate::lifecycle::tree::{Item, Sink, Tree, missing};
use crate::limits::DEPTH_MAX;

/// A volume and a path in it, as typed: `VOLUME:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePath {
    /// Store or mountpoint.
    pub volume: PathBuf,
    /// Path below the volume's root, without a leading slash.
    pub path: PathBuf,
}

impl VolumePath {
    /// Cuts at the first colon before which there is something that exists.
    ///
    /// # Errors
    /// No such colon; the text says what was wanted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let cut = |(at, _)| (Path::new(&text[..at]), &text[at + 1..]);
        let mut cuts = text.match_indices(':').map(cut);
        let first = cuts.clone().next();
        let found = cuts.find(|(volume, _)| volume.symlink_metadata().is_ok()).or(first);
        match found {
            Some((volume, path)) if !volume.as_os_str().is_empty() => Ok(Self {
                volume: volume.to_owned(),
                path: PathBuf::from(path.trim_start_matches('/')),
            }),
            _ => Err(format!(
                "{text:?} names no path in a volume: wanted VOLUME:PATH, as in store:/a/file"
            )),
        }
    }
}

/// What a copy did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pipes, sockets and devices, which are not copied.
    pub skipped: u64,
}

/// Where a volume's files can be had; `key` replaces what its slots say, unless it is mounted.
fn tree(
    volume: &Path,
    key: Option<&KeySource>,
    access: Access,
) -> Result<Box<dyn Tree>, VerbError> {
    let located = locate(volume)?;
    // Through the writing mount, if there is one: it knows what is not committed yet.
    let writable = located.mountpoints.iter().find(|path| !is_read_only(path));
    let any = writable.or_else(|| located.mountpoints.first()).cloned();
    let mountpoint = located.by_mountpoint.or(any);
    Ok(match mountpoint {
        Some(path) => Box::new(Plain::new(path, Side::Mount)),
        None => {
            let tuning = Tuning::default();
            let opened = match access {
                Access::Read => open_to_look(&located.store, key, &tuning)?,
                Access::Write => open(&located.store, key, access, &tuning)?,
            };
            Box::new(Stored::new(opened)?)
        }
    })
}

fn is_read_only(mountpoint: &Path) -> bool {
    let flag = rustix::fs::StatVfsMountFlags::RDONLY;
    rustix::fs::statvfs(mountpoint).is_ok_and(|found| found.f_flag.contains(flag))
}

/// What `ls` shows.
#[derive(Debug)]
pub struct Listed {
    /// Path below the path that was asked for; empty for that path itself.
    pub path: PathBuf,
    /// Attributes.
    pub item: Item,
    /// Target of a symbolic link.
    pub target: Option<PathBuf>,
}

/// Gives `show` what is in a directory, or the object itself if it is none; with `recursive`, all
/// below.
///
/// # Errors
/// See [`VerbError`], or `show`'s.
pub fn list(
    at: &VolumePath,
    key: Option<&KeySource>,
    recursive: bool,
    show: &mut dyn FnMut(&Listed) -> Result<(), VerbError>,
) -> Result<(), VerbError> {
    let tree = tree(&at.volume, key, Access::Read)?;
    let item = tree.stat(&at.path)?.ok_or_else(|| missing(&*tree, &at.path))?;
    if item.kind != Kind::Dir {
        return show(&listed(&*tree, &at.path, PathBuf::new(), item)?);
    }
    list_below(&*tree, &at.path, &PathBuf::new(), recursive, show)
}

fn listed(tree: &dyn Tree, path: &Path, below: PathBuf, item: Item) -> Result<Listed, VerbError> {
    let link = item.kind == Kind::Symlink;
    let target = link.then(|| tree.read_link(path)).transpose()?;
    Ok(Listed { path: below, item, target })
}

fn list_below(
    tree: &dyn Tree,
    root: &Path,
    below: &Path,
    recursive: bool,
    show: &mut dyn FnMut(&Listed) -> Result<(), VerbError>,
) -> Result<(), VerbError> {
    for name in tree.list(&root.join(below))? {
        let below = below.join(name);
        let path = root.join(&below);
        // What was removed since it was listed is no error.
        let Some(item) = tree.stat(&path)? else { continue };
        show(&listed(tree, &path, below.clone(), item)?)?;
        if recursive && item.kind == Kind::Dir {
            check_depth(tree, &path)?;
            list_below(tree, root, &below, recursive, show)?;
        }
    }
    Ok(())
}

fn check_depth(tree: &dyn Tree, path: &Path) -> Result<(), VerbError> {
    if path.components().count() < DEPTH_MAX {
        return Ok(());
    }
    let found = format!("{DEPTH_MAX} directories deep, more than this command enters");
    Err(VerbError::NoPath { path: tree.shown(path), found })
}

/// Gives the data of a file to `sink`, with zeros for holes.
///
/// # Errors
/// See [`VerbError`], or the sink's.
pub fn cat(
    at: &VolumePath,
    key: Option<&KeySource>,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), VerbError>,
) -> Result<(), VerbError> {
    let tree = tree(&at.volume, key, Access::Read)?;
    let zeros = vec![0; 64 << 10];
    let mut done = 0;
    let fill = |from: u64, to: u64, sink: &mut dyn FnMut(&[u8]) -> Result<(), VerbError>| {
        let mut left = to.saturating_sub(from);
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
            sink(&zeros[..part])?;
            left -= part as u64;
        }
        Ok::<(), VerbError>(())
    };
    let len = tree.read(&at.path, Follow::Yes, &mut |offset, data| {
        fill(done, offset, sink)?;
        done = offset + data.len() as u64;
        sink(data)
    })?;
    fill(done, len, sink)
}

/// Copies out of a volume. If `local` is a directory, into it.
///
/// # Errors
/// See [`VerbError`]; a file that could not be read whole is not left behind.
pub fn get(
    at: &VolumePath,
    key: Option<&KeySource>,
    local: &Path,
    progress: &mut dyn FnMut(&Path, Copied),
) -> Result<Copied, VerbError> {
    let tree = tree(&at.volume, key, Access::Read)?;
    let target = Plain::new(PathBuf::new(), Side::Local);
    copy_named(&*tree, &at.path, &target, local, progress)
}

/// Copies into a volume. If the path there is a directory, into it.
///
/// # Errors
/// See [`VerbError`]; a file that could not be written whole is not left behind.
pub fn put(
    local: &Path,
    at: &VolumePath,
    key: Option<&KeySource>,
    progress: &mut dyn FnMut(&Path, Copied),
) -> Result<Copied, VerbError> {
    let source = Plain::new(PathBuf::new(), Side::Local);
    source.stat(local)?.ok_or_else(|| VerbError::Local {
        path: local.to_owned(),
        action: "can't read it",
        error: std::io::ErrorKind::NotFound.into(),
    })?;
    let tree = tree(&at.volume, key, Access::Write)?;
    copy_named(&source, local, &*tree, &at.path, progress)
}

fn copy_named(
    source: &dyn Tree,
    from: &Path,
    target: &dyn Tree,
    to: &Path,
    progress: &mut dyn FnMut(&Path, Copied),
) -> Result<Copied, VerbError> {
    let item = source.stat(from)?.ok_or_else(|| missing(source, from))?;
    let into = target.stat(to)?.is_some_and(|there| there.kind == Kind::Dir);
    let to = match from.file_name() {
        Some(name) if into => to.join(name),
        _ => to.to_owned(),
    };
    let mut copy = Copy { source, target, copied: Copied::default(), progress };
    copy.any(from, &to, &item)?;
    Ok(copy.copied)
}

struct Copy<'a> {
    source: &'a dyn Tree,
    target: &'a dyn Tree,
    copied: Copied,
    progress: &'a mut dyn FnMut(&Path, Copied),
}

impl Copy<'_> {
    fn any(&mut self, from: &Path, to: &Path, item: &Item) -> Result<(), VerbError> {
        match item.kind {
            Kind::Dir => {
                check_depth(self.source, from)?;
                self.target.make_dir(to)?;
                for name in self.source.list(from)? {
                    let from = from.join(&name);
                    let Some(item) = self.source.stat(&from)? else { continue };
                    self.any(&from, &to.join(&name), &item)?;
                }
            }
            Kind::Symlink => {
                let link = self.source.read_link(from)?;
                self.target.make_link(to, &link)?;
            }
            Kind::File => self.file(from, to)?,
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                self.copied.skipped += 1;
                return Ok(());
            }
        }
        self.target.set_attr(to, item)?;
        (self.progress)(&self.source.shown(from), self.copied);
        Ok(())
    }

    fn file(&mut self, from: &Path, to: &Path) -> Result<(), VerbError> {
        let was_there = self.target.stat(to)?.is_some();
        let mut output = self.target.create(to)?;
        let mut bytes = 0;
        let write: &mut Sink<'_> = &mut |offset, data| {
            bytes += data.len() as u64;
            output.write_at(offset, data)
        };
        let copied = self.source.read(from, Follow::No, write).and_then(|len| output.finish(len));
        if let Err(error) = copied {
            if !was_there && let Err(error) = self.target.remove(to) {
                tracing::warn!("{}: can't remove it: {error}", self.target.shown(to).display());
            }
            return Err(error);
        }
        self.copied.files += 1;
        self.copied.bytes += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colon_that_counts_is_the_one_after_something_that_exists() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("a:b");
        std::fs::create_dir(&store).unwrap();
        let text = format!("{}:/x/y:z", store.display());
        let parsed = VolumePath::parse(&text).unwrap();
        assert_eq!(parsed.volume, store);
        assert_eq!(parsed.path, Path::new("x/y:z"));
        assert_eq!(VolumePath::parse("gone:p").unwrap().volume, Path::new("gone"));
        assert!(VolumePath::parse("no-colon").is_err());
        assert!(VolumePath::parse(":/x").is_err());
    }

    #[test]
    fn copies_keep_mode_time_links_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::write(from.join("sub/f"), b"text").unwrap();
        std::os::unix::fs::symlink("sub/f", from.join("link")).unwrap();
        let tree = Plain::new(dir.path().to_owned(), Side::Local);
        let mut item = tree.stat(Path::new("from/sub/f")).unwrap().unwrap();
        item.mode = 0o640;
        item.mtime.s = 12345;
        tree.set_attr(Path::new("from/sub/f"), &item).unwrap();
        let copied =
            copy_named(&tree, Path::new("from"), &tree, Path::new("to"), &mut |_, _| {}).unwrap();
        assert_eq!(copied, Copied { files: 1, bytes: 4, skipped: 0 });
        let found = tree.stat(Path::new("to/sub/f")).unwrap().unwrap();
        assert_eq!(found, item);
        assert_eq!(tree.read_link(Path::new("to/link")).unwrap(), Path::new("sub/f"));
        // A second time the target is a directory, and the copy goes into it.
        copy_named(&tree, Path::new("from"), &tree, Path::new("to"), &mut |_, _| {}).unwrap();
        assert!(tree.stat(Path::new("to/from/sub/f")).unwrap().is_some());
    }
}
