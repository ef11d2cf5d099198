//! Makes a golden volume by its plan, through the library alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cmkfs::cipher::{Secret, VolumeKeys};
use cmkfs::file::{Access, Allocate, Creator, Dir, SetAttr, Volume, VolumeOptions, XattrMode};
use cmkfs::format::descriptor::{FORMAT, VERSION};
use cmkfs::format::{Descriptor, DirId, Epoch, Features, Slot, VolumeId};
use cmkfs::keys::{self, Context, KeySource};
use cmkfs::store::{NodeKind, Store};

use crate::plan::{Content, Item, Plan, What};

/// Whoever makes the volume.
pub(crate) const ME: Creator = Creator { uid: 0, gid: 0 };
/// What the slot says of its key file: nothing of the machine that made the volume.
const RECORDED_KEY: &str = "/etc/cmkfs/golden.key";

/// A volume that a key file opens.
pub(crate) struct Made {
    pub(crate) store: Store,
    pub(crate) descriptor: Descriptor,
    pub(crate) key: Secret,
}

fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the system gives random bytes");
    id
}

/// Pairs whose canonical form needs care: a quote, a backslash, an order by bytes.
fn pairs() -> BTreeMap<String, String> {
    let pairs = [("team", "vision"), ("Z \"quoted\"", "back\\slash / ~"), ("a", "{}[],:")];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Made {
    /// An empty volume in the new directory `path`, whose slot `key_file` opens.
    pub(crate) fn new(path: &Path, key_file: &Path, block_size: u64) -> Self {
        let (volume_id, pairs) = (VolumeId(random_id()), pairs());
        let context = Context { volume_id, pairs: &pairs };
        let source = KeySource::File(key_file.to_owned());
        let (key, slot) = keys::create(&source, &context).unwrap();
        let slot = Slot { id: 2, key: RECORDED_KEY.to_owned(), ..slot.unwrap() };
        let foreign = Slot {
            id: 1,
            provider: "kms".to_owned(),
            key: "arn:aws:kms:eu-west-1:000000000000:key/golden".to_owned(),
            wrapped: "bm90IGZvciB1cw==".to_owned(),
        };
        let mut descriptor = Descriptor {
            format: FORMAT.to_owned(),
            version: VERSION,
            volume_id,
            created_unix_s: 1_767_225_600,
            block_size,
            root_id: DirId(random_id()),
            context: pairs,
            slots: vec![foreign, slot],
            epochs: vec![],
            features: Features::default(),
            mac: String::new(),
        };
        let store = Store::create(path).unwrap();
        VolumeKeys::add_epoch(&key, &mut descriptor, Epoch::FIRST);
        VolumeKeys::authenticate(&key, &mut descriptor);
        store.write_descriptor(&descriptor).unwrap();
        let volume_keys = VolumeKeys::open(&key, &descriptor).unwrap();
        Volume::format(&store, &volume_keys, descriptor.root_id).unwrap();
        Self { store, descriptor, key }
    }

    /// Opens it by the volume key.
    pub(crate) fn open(&self) -> Arc<Volume> {
        let keys = VolumeKeys::open(&self.key, &self.descriptor).unwrap();
        Volume::open(&self.store, keys, &self.descriptor, &VolumeOptions::default()).unwrap()
    }

    /// Changes `volume.json`.
    pub(crate) fn describe(&mut self, change: impl FnOnce(&Secret, &mut Descriptor)) {
        change(&self.key, &mut self.descriptor);
        VolumeKeys::authenticate(&self.key, &mut self.descriptor);
        self.store.write_descriptor(&self.descriptor).unwrap();
    }
}

/// Makes the volume of `plan` in the new directory `path`.
pub(crate) fn make(plan: &Plan, path: &Path, key_file: &Path) {
    let mut made = Made::new(path, key_file, plan.block_size);
    let root = made.open().root().unwrap();
    plan.first.iter().for_each(|item| make_item(&root, item));
    drop(root);
    if plan.second_epoch {
        made.describe(|key, descriptor| VolumeKeys::add_epoch(key, descriptor, Epoch(2)));
    }
    let root = made.open().root().unwrap();
    plan.later.iter().for_each(|item| make_item(&root, item));
}

/// The directory that holds `path`, and its name there.
fn parent<'a>(root: &Dir, path: &'a [u8]) -> (Dir, &'a [u8]) {
    let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let name = names.pop().expect("a path has a name");
    let open = |dir: Dir, name: &[u8]| dir.open_dir(name).unwrap();
    (names.into_iter().fold(root.clone(), open), name)
}

fn make_item(root: &Dir, item: &Item) {
    let mode = SetAttr { mode: Some(item.mode), ..SetAttr::default() };
    if item.path == b"." {
        root.set_attr_self(&mode).unwrap();
        set_xattrs(root, None, item);
        return;
    }
    let (dir, name) = parent(root, &item.path);
    match &item.what {
        What::Dir => drop(dir.make_dir(name, ME, item.mode).unwrap()),
        What::Fifo => drop(dir.make_node(name, NodeKind::Fifo, ME, item.mode).unwrap()),
        What::Link(target) => drop(dir.make_symlink(name, target, ME).unwrap()),
        What::File(content) => write(&dir, name, content),
        What::SameAs(path) => {
            let (from, from_name) = parent(root, path);
            dir.link(name, &from, from_name).unwrap();
        }
    }
    if !matches!(item.what, What::Link(_) | What::SameAs(_)) {
        dir.set_attr(name, &mode).unwrap();
    }
    set_xattrs(&dir, Some(name), item);
}

fn set_xattrs(dir: &Dir, name: Option<&[u8]>, item: &Item) {
    for (attribute, value) in &item.xattrs {
        dir.set_xattr(name, attribute, value, XattrMode::Create).unwrap();
    }
}

fn write(dir: &Dir, name: &[u8], content: &Content) {
    drop(dir.create_file(name, ME, 0o600).unwrap());
    let file = dir.open_file(name, Access::Write).unwrap();
    for (at, data) in &content.runs {
        file.write(*at, data).unwrap();
        file.commit().unwrap();
    }
    if file.len() != content.length {
        file.set_len(content.length).unwrap();
    }
    if !content.punched.is_empty() {
        let len = content.punched.end - content.punched.start;
        file.allocate(Allocate::PunchHole, content.punched.start, len).unwrap();
    }
    file.commit().unwrap();
}
