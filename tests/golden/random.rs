//! Random volumes: any names, sizes around every boundary, holes, targets, attributes, two epochs.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use cmkfs::cipher::VolumeKeys;
use cmkfs::file::{Access, Dir, XattrMode};
use cmkfs::format::Epoch;
use cmkfs::store::NodeKind;
use proptest::prelude::*;

use crate::make::{ME, Made};
use crate::plan::noise;

type Name = Vec<u8>;

#[derive(Clone, Debug)]
enum Object {
    File { writes: Vec<(u64, u64)>, length: Option<u64> },
    Link(u16),
    Node(Node),
    Dir(Vec<Entry>),
}

#[derive(Clone, Copy, Debug)]
enum Node {
    Fifo,
    Socket,
}

#[derive(Clone)]
struct Entry {
    name: Name,
    object: Object,
    xattrs: Vec<(Name, u16)>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = crate::seen::escape(&self.name);
        write!(f, "{name:?}: {:?}, {} attributes", self.object, self.xattrs.len())
    }
}

/// What is made first, and what in a second epoch.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    block_size: u64,
    first: Vec<Entry>,
    later: Vec<Entry>,
}

fn name() -> impl Strategy<Value = Name> {
    let len = prop_oneof![3 => 1..40_usize, 1 => 140..180_usize, 1 => 240..=255_usize];
    let byte = prop_oneof![any::<u8>(), Just(b'.'), Just(b'n')];
    let bytes = len.prop_flat_map(move |len| prop::collection::vec(byte.clone(), len));
    let odd: [&[u8]; 4] = [b"dir.cmkfs", b"x.long", b"x.name", b"..."];
    let odd = prop::sample::select(odd.map(<[u8]>::to_vec).to_vec());
    prop_oneof![8 => bytes, 1 => odd].prop_filter("no name of a file", |name| {
        !name.iter().any(|byte| matches!(byte, 0 | b'/')) && name != b"." && name != b".."
    })
}

/// Offsets at and beside the ends of an inline file, of blocks, runs and levels.
fn offset(block: u64) -> impl Strategy<Value = u64> {
    let edges = [0, 3956, block, 3 * block, 128 * block, 300 * block, 128 * 128 * block];
    let deep = [128 * 128 * 128 * block, 5 * 128 * 128 * 128 * block];
    let edge = prop_oneof![
        6 => prop::sample::select(edges.to_vec()),
        1 => prop::sample::select(deep.to_vec()),
    ];
    (edge, 0..5_u64).prop_map(|(edge, beside)| (edge + beside).saturating_sub(2))
}

fn file(block: u64) -> impl Strategy<Value = Object> {
    let len = prop_oneof![1..5000_u64, Just(block), 1..3 * block];
    let writes = prop::collection::vec((offset(block), len), 0..4);
    (writes, prop::option::weighted(0.4, offset(block)))
        .prop_map(|(writes, length)| Object::File { writes, length })
}

fn attributes(of_users: bool) -> impl Strategy<Value = Vec<(Name, u16)>> {
    let root = rustix::process::geteuid().is_root();
    let user = Just(&b"user."[..]);
    let prefix = match (of_users, root) {
        (true, true) => prop_oneof![3 => user, 1 => Just(&b"trusted."[..])].boxed(),
        (true, false) => user.boxed(),
        (false, true) => Just(&b"trusted."[..]).boxed(),
        (false, false) => return Just(vec![]).boxed(),
    };
    let suffix = prop::collection::vec(1..=255_u8, 1..60);
    let attribute = (prefix, suffix).prop_map(|(prefix, suffix)| [prefix, &suffix].concat());
    prop::collection::btree_map(attribute, 0..300_u16, 0..3)
        .prop_map(|attributes| attributes.into_iter().collect())
        .boxed()
}

fn entry(object: BoxedStrategy<Object>, of_users: bool) -> impl Strategy<Value = Entry> {
    (name(), object, attributes(of_users)).prop_map(|(name, object, xattrs)| Entry {
        name,
        object,
        xattrs,
    })
}

fn leaf(block: u64) -> impl Strategy<Value = Entry> {
    let target = prop_oneof![1..200_u16, 3035..3045_u16, 4000..=4095_u16];
    let node = prop::sample::select(vec![Node::Fifo, Node::Socket]);
    prop_oneof![
        4 => entry(file(block).boxed(), true),
        1 => entry(target.prop_map(Object::Link).boxed(), false),
        1 => entry(node.prop_map(Object::Node).boxed(), false),
    ]
}

/// Entries of one directory: no name twice.
fn entries(entry: impl Strategy<Value = Entry>, most: usize) -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(entry, 0..most).prop_map(|mut entries| {
        let mut seen = BTreeSet::new();
        entries.retain(|entry| seen.insert(entry.name.clone()));
        entries
    })
}

pub(crate) fn volume() -> impl Strategy<Value = Volume> {
    prop::sample::select(vec![4096_u64, 8192, 16384, 32768, 65536]).prop_flat_map(|block_size| {
        let tree = leaf(block_size).prop_recursive(3, 24, 5, |inner| {
            entry(entries(inner, 5).prop_map(Object::Dir).boxed(), true)
        });
        (entries(tree.clone(), 8), entries(tree, 4)).prop_map(move |(first, mut later)| {
            later.retain(|entry| first.iter().all(|other| other.name != entry.name));
            Volume { block_size, first, later }
        })
    })
}

impl Volume {
    /// Objects besides the root.
    pub(crate) fn object_count(&self) -> usize {
        fn count(entries: &[Entry]) -> usize {
            let below = |entry: &Entry| match &entry.object {
                Object::Dir(entries) => 1 + count(entries),
                _ => 1,
            };
            entries.iter().map(below).sum()
        }
        count(&self.first) + count(&self.later)
    }
}

/// Makes the volume in the new directory `path`.
pub(crate) fn make(volume: &Volume, path: &Path, key_file: &Path) -> Made {
    let mut made = Made::new(path, key_file, volume.block_size);
    fill(&made.open().root().unwrap(), &volume.first);
    made.describe(|key, descriptor| VolumeKeys::add_epoch(key, descriptor, Epoch(2)));
    fill(&made.open().root().unwrap(), &volume.later);
    made
}

fn fill(dir: &Dir, entries: &[Entry]) {
    for (seed, Entry { name, object, xattrs }) in (0..).zip(entries) {
        match object {
            Object::File { writes, length } => write(dir, name, writes, *length),
            Object::Link(len) => {
                let mut target = noise(seed, u64::from(*len));
                target.iter_mut().for_each(|byte| *byte = (*byte).max(1));
                dir.make_symlink(name, &target, ME).unwrap();
            }
            Object::Node(node) => {
                let kind = match node {
                    Node::Fifo => NodeKind::Fifo,
                    Node::Socket => NodeKind::Socket,
                };
                dir.make_node(name, kind, ME, 0o600).unwrap();
            }
            Object::Dir(inner) => {
                dir.make_dir(name, ME, 0o755).unwrap();
                fill(&dir.open_dir(name).unwrap(), inner);
            }
        }
        for (attribute, len) in xattrs {
            let value = noise(seed, u64::from(*len));
            dir.set_xattr(Some(name), attribute, &value, XattrMode::Create).unwrap();
        }
    }
}

fn write(dir: &Dir, name: &[u8], writes: &[(u64, u64)], length: Option<u64>) {
    drop(dir.create_file(name, ME, 0o644).unwrap());
    let file = dir.open_file(name, Access::Write).unwrap();
    for (at, len) in writes {
        file.write(*at, &noise(at + len, *len)).unwrap();
        file.commit().unwrap();
    }
    if let Some(length) = length {
        file.set_len(length).unwrap();
    }
    file.commit().unwrap();
}
