//! Makes the seeds from the golden volumes: bytes as they are in a store.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cmkfs::cipher::VolumeKeys;
use cmkfs::file::{Access, Creator, Volume, VolumeOptions};
use cmkfs::format::geometry::NodeAt;
use cmkfs::format::header::{PAYLOAD_FIXED_BYTES, PREFIX_BYTES};
use cmkfs::format::journal::{FRAME_LEN, RecordKind};
use cmkfs::format::name::{Stored, decode};
use cmkfs::format::node::{self, ENTRY_LEN, Entries, NODE_LEN};
use cmkfs::format::sessions::{Session, Sessions, WINDOWS_MAX, Window};
use cmkfs::format::{Descriptor, Epoch, Geometry, descriptor, envelope, header, journal};
use cmkfs::object::Manifest;
use cmkfs::store::{LinkContent, Store, parse_link};

use crate::entries::golden;

/// A golden volume, unpacked.
struct Unpacked {
    dir: tempfile::TempDir,
}

impl Unpacked {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut tar = Command::new("tar");
        tar.args(["--xattrs", "--xattrs-include=*", "-xpzf"]);
        tar.arg(golden.join(format!("{name}.tar.gz"))).arg("-C").arg(dir.path());
        assert!(tar.status().expect("tar").success(), "{name}");
        Self { dir }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Everything in the tree, in order of path.
    fn objects(&self) -> Vec<PathBuf> {
        let (mut found, mut left) = (vec![], vec![self.store().join("tree")]);
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.symlink_metadata().unwrap().is_dir() {
                    left.push(path.clone());
                }
                found.push(path);
            }
        }
        found.sort();
        found
    }

    /// The stored file of this length that was written under this epoch.
    fn file(&self, len: u64, epoch: u32) -> PathBuf {
        let fits = |path: &PathBuf| {
            let found = path.symlink_metadata().unwrap();
            found.is_file() && found.len() == len && header_of(path).1.epoch.0 == epoch
        };
        self.objects().into_iter().find(fits).expect("a file of the plan")
    }
}

/// The used bytes of a header, and what it claims.
fn header_of(path: &Path) -> (Vec<u8>, header::Prefix) {
    let mut page = fs::File::open(path).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(&mut page, 4096), &mut bytes).unwrap();
    let (prefix, _) = header::decode(&bytes).unwrap();
    bytes.truncate(PREFIX_BYTES + usize::from(prefix.payload_len));
    (bytes, prefix)
}

/// Writes all seeds below `seeds`.
pub(crate) fn make(seeds: &Path) {
    for name in ["block-4096", "block-16384", "block-65536", "link-marker-4096"] {
        let bytes = fs::read(Unpacked::new(name).store().join("volume.json")).unwrap();
        put(seeds, &format!("descriptor/{name}"), &bytes);
    }
    // What is to be refused, one edit away from what is not.
    let refuse = |name: &str, edit: &dyn Fn(&mut Descriptor)| {
        let mut volume = golden::volume();
        edit(&mut volume);
        put(seeds, &format!("descriptor/{name}"), &volume.encode());
    };
    refuse("no-epochs", &|volume| volume.epochs.clear());
    refuse("later-feature", &|volume| volume.features.required.push("later".to_owned()));
    refuse("later-version", &|volume| {
        volume.version += 1;
    });
    headers(seeds);
    nodes(seeds);
    names(seeds);
    manifest(seeds);
    segment(seeds);
    slots(seeds);
}

fn put(seeds: &Path, name: &str, bytes: &[u8]) {
    let path = seeds.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The length of the file in which nodes of all levels are, at 16 KiB a block.
fn large_len(unpacked: &Unpacked) -> u64 {
    let files = unpacked.objects();
    files.iter().map(|path| path.symlink_metadata().unwrap().size()).max().unwrap()
}

fn headers(seeds: &Path) {
    let unpacked = Unpacked::new("block-16384");
    let put = |name: &str, path: &Path| put(seeds, &format!("header/{name}"), &header_of(path).0);
    for (name, len, epoch) in [
        ("empty", 140, 1),
        ("inline", 143, 1),
        ("inline-full", 4096, 1),
        ("levels-0", 20_480, 1),
        ("levels-1", 2_129_921, 1),
        ("levels-2", 270_548_999, 1),
        ("levels-3", large_len(&unpacked), 1),
        ("epoch-2", 20_481, 2),
    ] {
        put(name, &unpacked.file(len, epoch));
    }
    for name in ["block-4096", "block-65536"] {
        put(name, &Unpacked::new(name).file(143, 1));
    }
}

/// A node of each level of the large file, on the way to its first block that is no hole.
fn nodes(seeds: &Path) {
    let unpacked = Unpacked::new("block-16384");
    let path = unpacked.file(large_len(&unpacked), 1);
    let (bytes, prefix) = header_of(&path);
    let (_, entry) = header::decode(&bytes).unwrap();
    let keys = golden::keys();
    let cipher = keys.open_file(prefix.epoch, prefix.file_id, &prefix.wrapped_key).unwrap();
    let payload = keys.open_header(&cipher, &prefix, &entry, &bytes[PREFIX_BYTES..]).unwrap();
    let (fixed, body) = payload.split_at(PAYLOAD_FIXED_BYTES);
    let (_, length) = header::decode_payload(fixed.try_into().unwrap());
    let geometry = Geometry::new(prefix.block_size);
    let mut entries: Box<Entries> = node::decode(body.try_into().unwrap());
    let (file, mut index) = (fs::File::open(&path).unwrap(), 0);
    for level in (0..geometry.levels(length)).rev() {
        let child = entries.iter().position(|entry| !entry.is_hole()).unwrap();
        let entry = entries[child];
        index = index * node::ENTRIES as u64 + child as u64;
        let at = NodeAt { level, index };
        let mut stored = [0; NODE_LEN];
        file.read_exact_at(&mut stored, geometry.node_offset(at)).unwrap();
        entries = cipher.open_node(at, stored, &entry).unwrap();
        let place = [&[level][..], &index.to_le_bytes(), &entry.nonce, &entry.tag].concat();
        assert_eq!(place.len(), 9 + ENTRY_LEN);
        put(seeds, &format!("node/level-{level}"), &[&place[..], &stored].concat());
    }
}

fn names(seeds: &Path) {
    let put = |name: &str, bytes: &[u8]| put(seeds, &format!("name/{name}"), bytes);
    let unpacked = Unpacked::new("block-16384");
    let (store, objects) = (unpacked.store(), unpacked.objects());
    let in_root: Vec<&PathBuf> =
        objects.iter().filter(|path| path.parent() == Some(&store.join("tree"))).collect();
    let file_name = |path: &PathBuf| path.file_name().unwrap().as_bytes().to_vec();
    let long = in_root.iter().find(|path| file_name(path).ends_with(b".long")).unwrap();
    let sidecar = long.with_extension("name");
    put("file-long", &file_name(long));
    put("file-sidecar", &file_name(&sidecar));
    put("sidecar", &fs::read(&sidecar).unwrap());
    let direct = |path: &&PathBuf| match decode(&file_name(path)) {
        Stored::Direct(sealed) => Some((file_name(path), sealed)),
        _ => None,
    };
    let (direct, sealed) = in_root.iter().find_map(direct).unwrap();
    put("file-direct", &direct);
    put("sealed", &sealed);
    put("edit-and-plain", b"\0\0\0\0train.csv");
    put("marker", &fs::read(store.join("tree/dir.cmkfs")).unwrap());
    let links = Unpacked::new("link-marker-4096");
    let text = |path: &Path| fs::read_link(path).unwrap().into_os_string().as_bytes().to_vec();
    put("marker-text", &text(&links.store().join("tree/dir.cmkfs")));
    for path in in_root.iter().filter(|path| path.is_symlink()) {
        match parse_link(&text(path)).expect("a link of ours") {
            LinkContent::Reference(_) => put("link-reference", &text(path)),
            LinkContent::Envelope(bytes) if bytes.len() < 100 => {
                let (epoch, ..) = envelope::decode(&bytes).unwrap();
                let which = if epoch.0 == 1 { "link" } else { "link-epoch-2" };
                put(which, &bytes);
                put(&format!("{which}-text"), &text(path));
            }
            LinkContent::Envelope(_) => {}
        }
    }
    let stored = golden::keys().attribute_name(golden::ATTRIBUTE_NAME);
    let mut value = vec![0; 4096];
    let name = format!("user.cmkfs.{stored}");
    let len = rustix::fs::getxattr(store.join("tree"), name, &mut value[..]).unwrap();
    put("attribute", &value[..len]);
}

/// Of a part of the tree that has each kind of object, without the large files.
fn manifest(seeds: &Path) {
    let unpacked = Unpacked::new("block-16384");
    let mut kinds = std::collections::BTreeMap::<u32, usize>::new();
    for path in unpacked.objects().into_iter().rev() {
        let found = path.symlink_metadata().unwrap();
        let seen = kinds.entry(found.mode() & 0o170_000).or_default();
        *seen += 1;
        if !found.is_dir() && (*seen > 2 || found.len() > 5000 || path.is_symlink() && *seen > 1) {
            fs::remove_file(path).unwrap();
        }
    }
    let id = "snap-20261121T094639.250Z-1a2b3c4d".to_owned();
    let made = Manifest::of_tree(
        &unpacked.store().join("tree"),
        id,
        golden::volume().volume_id,
        1_795_254_399_250,
    );
    let path = unpacked.dir.path().join("manifest.json");
    made.unwrap().write(&path).unwrap();
    put(seeds, "manifest/golden", &fs::read(path).unwrap());
}

fn keys_again(volume: &Descriptor) -> VolumeKeys {
    VolumeKeys::open(&golden::volume_key(), volume).unwrap()
}

/// The journal after a small file was made, synced, written over, cut, cut to nothing and written
/// again.
fn segment(seeds: &Path) {
    let unpacked = Unpacked::new("block-16384");
    let store = Store::open(&unpacked.store()).unwrap();
    let volume = descriptor::decode(golden::VOLUME).unwrap();
    let opened = Volume::open(&store, keys_again(&volume), &volume, &VolumeOptions::default());
    let opened = opened.unwrap();
    let root = opened.root().unwrap();
    root.create_file(b"journaled", Creator { uid: 0, gid: 0 }, 0o600).unwrap();
    let file = root.open_file(b"journaled", Access::Write).unwrap();
    for text in [&b"one"[..], b"and two"] {
        file.write(0, text).unwrap();
        file.sync(false).unwrap();
    }
    for len in [3, 0] {
        file.set_len(len).unwrap();
        file.sync(false).unwrap();
    }
    let segments = fs::read_dir(unpacked.store().join("journal")).unwrap();
    let bytes = segments
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .find(|bytes| bytes.get(journal::HEAD_LEN).is_some_and(|byte| *byte != 0))
        .expect("a segment with records");
    let (head, mut rest) = bytes.split_at(journal::HEAD_LEN);
    let mut seed = head[..golden::HEAD_LEN].to_vec();
    let (claim, tag) = journal::decode_head(head).unwrap();
    let cipher = keys_again(&volume).open_segment(&claim, &tag).unwrap();
    while let Some((frame, _)) = rest.first_chunk().and_then(journal::decode_frame) {
        let (record, after) = rest.split_at(FRAME_LEN + frame.body_len as usize);
        let name = match frame.kind {
            RecordKind::Fresh => "fresh",
            RecordKind::Settled => "settled",
            RecordKind::Change => "change",
            RecordKind::Anew => "anew",
            RecordKind::Written => "written",
        };
        let body = match frame.kind {
            RecordKind::Written => cipher.open_written(frame.sequence, record).unwrap().to_vec(),
            _ => record[FRAME_LEN..].to_vec(),
        };
        put(seeds, &format!("journal/body-{name}"), &body);
        put(seeds, "journal/record", record);
        seed.extend(record);
        rest = after;
    }
    put(seeds, "journal/segment", &seed);
}

/// Slots of `sessions`: of a volume that is written, of one that was, and with all the windows that
/// there is room for.
fn slots(seeds: &Path) {
    let session = |ended| Some(Session { since: 1_700_000_000, ended, in_place: ended.is_some() });
    let mut said = Sessions::new(Epoch(2), 12);
    said.session = session(None);
    put(seeds, "sessions/open", golden::keys().seal_sessions(&said).as_bytes());
    said.session = session(Some((1_700_000_009, [3; 16])));
    said.sequence = 1;
    put(seeds, "sessions/ended", golden::keys().seal_sessions(&said).as_bytes());
    said.session = None;
    said.sequence = 2;
    for n in 0..WINDOWS_MAX as u64 {
        said.add(Window { since: 1000 * n, until: 1000 * n + n, in_place: n % 2 == 0 });
    }
    put(seeds, "sessions/full", golden::keys().seal_sessions(&said).as_bytes());
}
