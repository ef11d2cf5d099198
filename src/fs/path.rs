//! Walking a path from the root, for those who have no kernel to do it. Nothing is handed out.

use crate::file::{Dir, Kind, Stat};
use crate::fs::core::{Fs, checked};
use crate::fs::error::FsError;

/// As many as Linux follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Whether the last name of a path is followed if it is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// To what it points to.
    Yes,
    /// The link itself is meant.
    No,
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub struct Located {
    /// The directory that has the name; the root for the root.
    pub parent: Dir,
    /// The name in it; empty for the root.
    pub name: Vec<u8>,
    /// What is there.
    pub stat: Stat,
}

impl Located {
    /// The directory that was found, open.
    ///
    /// # Errors
    /// `NotDir` if it is none, and the store's.
    pub fn open_dir(&self) -> Result<Dir, FsError> {
        match (self.stat.kind, &self.name[..]) {
            (Kind::Dir, b"") => Ok(self.parent.clone()),
            (Kind::Dir, name) => Ok(self.parent.open_dir(name)?),
            _ => Err(FsError::NotDir),
        }
    }
}

/// A walk: where it is, and what is still to go.
struct Walk {
    root: Dir,
    /// Directories below the root on the way to here, with their names.
    way: Vec<(Vec<u8>, Dir)>,
    /// Names still to go, the next one last.
    ahead: Vec<Vec<u8>>,
    links: usize,
}

impl Walk {
    fn start(root: &Dir, path: &[u8]) -> Self {
        let mut walk = Self { root: root.clone(), way: vec![], ahead: vec![], links: 0 };
        walk.prepend(path);
        walk
    }

    fn prepend(&mut self, path: &[u8]) {
        if path.starts_with(b"/") {
            self.way.clear();
        }
        let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        self.ahead.extend(names.rev().map(<[u8]>::to_vec));
    }

    fn here(&self) -> &Dir {
        self.way.last().map_or(&self.root, |(_, dir)| dir)
    }

    /// Follows a symbolic link of the directory that the walk is in.
    fn follow(&mut self, name: &[u8]) -> Result<(), FsError> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(FsError::Loop);
        }
        let target = self.here().read_link(name)?;
        self.prepend(&target);
        Ok(())
    }

    fn run(mut self, follow: Follow) -> Result<Located, FsError> {
        while let Some(name) = self.ahead.pop() {
            if name == b".." {
                self.way.pop();
                continue;
            }
            let is_last = self.ahead.is_empty();
            let stat = self.here().lookup(checked(&name)?)?;
            match stat.kind {
                Kind::Symlink if !is_last || follow == Follow::Yes => self.follow(&name)?,
                _ if is_last => return Ok(Located { parent: self.here().clone(), name, stat }),
                Kind::Dir => {
                    let dir = self.here().open_dir(&name)?;
                    self.way.push((name, dir));
                }
                _ => return Err(FsError::NotDir),
            }
        }
        // The path ended in `..` or was the root.
        let Some((name, dir)) = self.way.pop() else {
            let stat = self.root.stat()?;
            return Ok(Located { parent: self.root, name: vec![], stat });
        };
        Ok(Located { stat: dir.stat()?, parent: self.here().clone(), name })
    }
}

impl Fs {
    /// What a path below the root leads to. `..` of the root is the root, and an absolute target
    /// of a symbolic link starts at the root: nothing leads out of the volume.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `Loop`, `NameTooLong`, and the store's.
    pub fn resolve(&self, path: &[u8], follow: Follow) -> Result<Located, FsError> {
        let is_dir = path.ends_with(b"/");
        let follow = if is_dir { Follow::Yes } else { follow };
        let found = Walk::start(&self.root, path).run(follow)?;
        if is_dir && found.stat.kind != Kind::Dir {
            return Err(FsError::NotDir);
        }
        Ok(found)
    }

    /// The directory in which the last name of a path is or would be made, and that name.
    ///
    /// # Errors
    /// `Invalid` if the path has no last name, and those of [`Fs::resolve`].
    pub fn resolve_parent(&self, path: &[u8]) -> Result<(Dir, Vec<u8>), FsError> {
        let end = path.iter().rposition(|byte| *byte != b'/').ok_or(FsError::Invalid)? + 1;
        let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let name = checked(&path[start..end])?.to_vec();
        let parent = self.resolve(&path[..start], Follow::Yes)?.open_dir()?;
        Ok((parent, name))
    }
}
