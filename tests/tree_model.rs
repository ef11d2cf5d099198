//! Random operations on a tree, against the machine's own file system as the reference: through
//! `fs` without a mount, and, fewer, through the kernel. After each sequence, and again after
//! closing and opening the volume, both trees are the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mount.rs"]
mod mount;
#[path = "support/volume.rs"]
mod volume;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cmkfs::fs::{Change, Fs, FsError, InodeId, Kind, NodeKind, OpenFlags, Privileges, SetAttr};
use mount::Mount;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use rustix::fs::RenameFlags;
use volume::{ME, Throwaway};

#[derive(Clone, Debug)]
enum Op {
    Create(String),
    Write { path: String, at: u64, data: Vec<u8> },
    Truncate { path: String, len: u64 },
    Mkdir(String),
    Unlink(String),
    Rmdir(String),
    Rename { from: String, to: String, mode: RenameMode },
    Link { from: String, to: String },
    Symlink { path: String, target: String },
    Chmod { path: String, mode: u32 },
    Reopen,
}

use cmkfs::fs::RenameMode;

fn path() -> impl Strategy<Value = String> {
    let long = "l".repeat(200);
    let name = prop::sample::select(vec!["a".to_owned(), "b".to_owned(), "c".to_owned(), long]);
    prop::collection::vec(name, 1..=3).prop_map(|parts| parts.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let data = || {
        prop_oneof![
            3 => prop::collection::vec(any::<u8>(), 1..100),
            1 => (1_usize..40_000, any::<u8>()).prop_map(|(len, fill)| vec![fill; len]),
        ]
    };
    let modes = vec![RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
    prop_oneof![
        4 => path().prop_map(Op::Create),
        4 => (path(), 0_u64..30_000, data())
            .prop_map(|(path, at, data)| Op::Write { path, at, data }),
        1 => (path(), 0_u64..50_000).prop_map(|(path, len)| Op::Truncate { path, len }),
        4 => path().prop_map(Op::Mkdir),
        2 => path().prop_map(Op::Unlink),
        1 => path().prop_map(Op::Rmdir),
        5 => (path(), path(), prop::sample::select(modes))
            .prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
        2 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        1 => (path(), "nowhere/[a-z/.]{0,300}")
            .prop_map(|(path, target)| Op::Symlink { path, target }),
        1 => (path(), 0_u32..0o1000).prop_map(|(path, mode)| Op::Chmod { path, mode }),
        1 => Just(Op::Reopen),
    ]
}

/// What a path leads to: kind, mode, number of names, content or target.
type Tree = BTreeMap<String, (Kind, u32, u64, Vec<u8>)>;

/// Errno of an operation that failed.
type Outcome = Result<(), i32>;

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

/// A directory of the machine, by system calls.
struct Native(PathBuf);

impl Native {
    fn apply(&self, op: &Op) -> Outcome {
        let at = |path: &str| self.0.join(path);
        let done = match op {
            Op::Create(path) => fs::File::create_new(at(path)).map(drop),
            Op::Write { path, at: offset, data } => self.write(path, *offset, data),
            Op::Truncate { path, len } => {
                let file = fs::OpenOptions::new().write(true).open(at(path));
                file.and_then(|file| file.set_len(*len))
            }
            Op::Mkdir(path) => fs::create_dir(at(path)),
            Op::Unlink(path) => fs::remove_file(at(path)),
            Op::Rmdir(path) => fs::remove_dir(at(path)),
            Op::Rename { from, to, mode } => {
                let flags = match mode {
                    RenameMode::Replace => RenameFlags::empty(),
                    RenameMode::NoReplace => RenameFlags::NOREPLACE,
                    RenameMode::Exchange => RenameFlags::EXCHANGE,
                };
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, at(from), cwd, at(to), flags).map_err(Into::into)
            }
            Op::Link { from, to } => fs::hard_link(at(from), at(to)),
            Op::Symlink { path, target } => std::os::unix::fs::symlink(target, at(path)),
            Op::Chmod { path, mode } => self.chmod(path, *mode),
            Op::Reopen => Ok(()),
        };
        done.map_err(|error| errno(&error))
    }

    /// Never through a link: where it leads is not the test's.
    fn nofollow(&self, path: &str) -> std::io::Result<fs::OpenOptions> {
        use std::os::unix::fs::OpenOptionsExt;
        if fs::symlink_metadata(self.0.join(path))?.is_symlink() {
            return Err(std::io::Error::from_raw_os_error(libc::ELOOP));
        }
        let mut options = fs::OpenOptions::new();
        options.custom_flags(libc::O_NOFOLLOW);
        Ok(options)
    }

    fn write(&self, path: &str, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let file = self.nofollow(path)?.write(true).open(self.0.join(path))?;
        file.write_all_at(data, offset)
    }

    fn chmod(&self, path: &str, mode: u32) -> std::io::Result<()> {
        self.nofollow(path)?;
        fs::set_permissions(self.0.join(path), fs::Permissions::from_mode(mode))
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        self.walk(&self.0, "", &mut tree);
        tree
    }

    fn walk(&self, dir: &Path, prefix: &str, tree: &mut Tree) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            let (kind, content) = if meta.is_dir() {
                self.walk(&entry.path(), &format!("{path}/"), tree);
                (Kind::Dir, vec![])
            } else if meta.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                (Kind::Symlink, target.to_str().unwrap().as_bytes().to_vec())
            } else {
                (Kind::File, fs::read(entry.path()).unwrap())
            };
            let (mode, nlink) = (meta.mode() & 0o7777, meta.nlink());
            tree.insert(path, normal(kind, mode, nlink, content));
        }
    }
}

/// How many names a directory has differs between file systems.
fn normal(kind: Kind, mode: u32, nlink: u64, content: Vec<u8>) -> (Kind, u32, u64, Vec<u8>) {
    (kind, mode, if kind == Kind::Dir { 0 } else { nlink }, content)
}

/// A volume without a mount.
struct Direct {
    throwaway: Throwaway,
    fs: Option<Arc<Fs>>,
}

impl Direct {
    fn new() -> Self {
        let throwaway = Throwaway::new(4096);
        let fs = Some(Self::open(&throwaway));
        Self { throwaway, fs }
    }

    fn fs(&self) -> &Arc<Fs> {
        self.fs.as_ref().unwrap()
    }

    fn open(throwaway: &Throwaway) -> Arc<Fs> {
        let volume = throwaway.open();
        let root = volume.root().unwrap();
        Fs::new(volume, root)
    }

    /// The parent of a path, walked as the kernel does; what was looked up is forgotten after.
    fn with_parent<T>(
        &self,
        path: &str,
        run: impl FnOnce(InodeId, &[u8]) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut seen = vec![];
        let mut at = InodeId::ROOT;
        let mut walk = || {
            for part in dirs.split('/').filter(|part| !part.is_empty()) {
                let attr = self.fs().lookup(at, part.as_bytes())?;
                seen.push(attr.ino);
                if attr.stat.kind != Kind::Dir {
                    return Err(FsError::NotDir);
                }
                at = attr.ino;
            }
            Ok(at)
        };
        let result = walk().and_then(|parent| run(parent, name.as_bytes()));
        seen.into_iter().for_each(|ino| self.fs().forget(ino, 1));
        result
    }

    fn with<T>(
        &self,
        path: &str,
        run: impl FnOnce(InodeId, Kind) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.with_parent(path, |parent, name| {
            let attr = self.fs().lookup(parent, name)?;
            let result = run(attr.ino, attr.stat.kind);
            self.fs().forget(attr.ino, 1);
            result
        })
    }

    /// Opens as the kernel does: a directory or a link is no file to write to.
    fn with_file<T>(
        &self,
        path: &str,
        run: impl FnOnce(InodeId) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.with(path, |ino, kind| match kind {
            Kind::File => run(ino),
            Kind::Dir => Err(FsError::IsDir),
            _ => Err(FsError::Loop),
        })
    }

    fn apply(&mut self, op: &Op) -> Outcome {
        let fs = self.fs().clone();
        let done = match op {
            Op::Create(path) => self.with_parent(path, |parent, name| {
                let attr = fs.mknod(parent, name, NodeKind::File, 0o644, ME)?;
                fs.forget(attr.ino, 1);
                Ok(())
            }),
            Op::Write { path, at, data } => self.with_file(path, |ino| {
                let handle = fs.open(ino, OpenFlags::WRITE)?;
                fs.write(handle, *at, data, Privileges::Keep)?;
                fs.flush(handle)?;
                fs.release(handle)
            }),
            Op::Truncate { path, len } => {
                self.with_file(path, |ino| fs.setattr(ino, &Change::size(*len)).map(drop))
            }
            Op::Mkdir(path) => self.with_parent(path, |parent, name| {
                let attr = fs.mkdir(parent, name, 0o755, ME)?;
                fs.forget(attr.ino, 1);
                Ok(())
            }),
            Op::Unlink(path) => self.with_parent(path, |parent, name| fs.unlink(parent, name)),
            Op::Rmdir(path) => self.with_parent(path, |parent, name| fs.rmdir(parent, name)),
            Op::Rename { from, to, mode } => self.with_parent(from, |parent, name| {
                self.with_parent(to, |new_parent, new_name| {
                    fs.rename(parent, name, new_parent, new_name, *mode)
                })
            }),
            Op::Link { from, to } => self.with(from, |ino, kind| {
                if kind == Kind::Dir {
                    return Err(FsError::IsDir);
                }
                self.with_parent(to, |parent, name| {
                    let attr = fs.link(ino, parent, name)?;
                    fs.forget(attr.ino, 1);
                    Ok(())
                })
            }),
            Op::Symlink { path, target } => self.with_parent(path, |parent, name| {
                let attr = fs.symlink(parent, name, target.as_bytes(), ME)?;
                fs.forget(attr.ino, 1);
                Ok(())
            }),
            Op::Chmod { path, mode } => self.with(path, |ino, kind| match kind {
                Kind::Symlink => Err(FsError::Loop),
                _ => {
                    let set = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                    fs.setattr(ino, &Change::of(set)).map(drop)
                }
            }),
            Op::Reopen => {
                fs.finish().unwrap();
                fs.volume().commit_all().unwrap();
                // The one ends before the other begins, as with mounts.
                drop(fs);
                drop(self.fs.take());
                self.fs = Some(Self::open(&self.throwaway));
                Ok(())
            }
        };
        done.map_err(|error| error.errno())
    }

    fn tree(&self) -> Tree {
        let root = self.fs().resolve(b"/", cmkfs::fs::Follow::No).unwrap().open_dir().unwrap();
        let mut tree = Tree::new();
        Self::walk(&root, "", &mut tree);
        tree
    }

    fn walk(dir: &cmkfs::fs::Dir, prefix: &str, tree: &mut Tree) {
        for entry in dir.entries().unwrap() {
            let path = format!("{prefix}{}", String::from_utf8(entry.name.clone()).unwrap());
            let stat = dir.lookup(&entry.name).unwrap();
            let content = match entry.kind {
                Kind::Dir => {
                    Self::walk(&dir.open_dir(&entry.name).unwrap(), &format!("{path}/"), tree);
                    vec![]
                }
                Kind::Symlink => dir.read_link(&entry.name).unwrap(),
                _ => {
                    let file = dir.open_file(&entry.name, cmkfs::fs::Access::Read).unwrap();
                    assert_eq!(file.len(), stat.size);
                    file.read(0, 1 << 20).unwrap().to_vec()
                }
            };
            tree.insert(path, normal(entry.kind, stat.mode, stat.nlink, content));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_volume_without_a_mount_is_a_tree_of_files(ops in prop::collection::vec(op(), 1..60)) {
        let reference = tempfile::tempdir().unwrap();
        let native = Native(reference.path().to_owned());
        let mut direct = Direct::new();
        for op in &ops {
            // Which errno comes first is the kernel's business: here only whether it fails.
            let (wanted, found) = (native.apply(op), direct.apply(op));
            prop_assert_eq!(found.is_ok(), wanted.is_ok(), "{:?}: {:?} {:?}", op, found, wanted);
        }
        prop_assert_eq!((direct.fs().inode_count(), direct.fs().handle_count()), (0, 0));
        prop_assert_eq!(direct.tree(), native.tree());
        direct.apply(&Op::Reopen).unwrap();
        prop_assert_eq!(direct.tree(), native.tree());
    }
}

#[test]
fn a_mounted_volume_is_a_tree_of_files() {
    let mount = Mount::new(&[]);
    let sequences = prop::collection::vec(op(), 1..60);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for round in 0..60 {
        let ops = sequences.new_tree(&mut runner).unwrap().current();
        let reference = tempfile::tempdir().unwrap();
        let native = Native(reference.path().to_owned());
        let mounted = Native(mount.at(format!("round-{round}")));
        fs::create_dir(&mounted.0).unwrap();
        for op in &ops {
            if matches!(op, Op::Reopen) && round % 10 == 0 {
                mount.remount();
            }
            assert_eq!(mounted.apply(op), native.apply(op), "round {round}: {op:?}");
        }
        assert_eq!(mounted.tree(), native.tree(), "round {round}");
    }
    mount.remount();
}
