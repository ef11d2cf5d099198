//! The worked bytes of FORMAT.md, against the code. They were made by another program, so they
//! hold the text and the code to the same format.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit};
use cmkfs::cipher::{
    CipherPool, DirCipher, FileCipher, Owner, Plain, Secret, VolumeKeys, unwrap_secret,
};
use cmkfs::format::descriptor::{self, Descriptor};
use cmkfs::format::geometry::NodeAt;
use cmkfs::format::node::{Entry, NODE_LEN};
use cmkfs::format::{BlockSize, DirId, FileId, directory, header};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};

const DOC: &str = include_str!("../src/format/FORMAT.md");
const ROOT: DirId = DirId(*b"PQRSTUVWXYZ[\\]^_");
const FILE: FileId = FileId(*b"`abcdefghijklmno");

/// The text between a line that is `open` and the next fence.
fn fenced(open: &str) -> &'static str {
    let (_, rest) = DOC.split_once(&format!("\n{open}\n")).unwrap();
    rest.split_once("\n```").unwrap().0
}

/// The value of a name in the worked bytes; lines that begin with two spaces continue one.
fn text(name: &str) -> String {
    let lines = fenced("```text").lines().skip_while(|line| {
        line.split_once(" =").is_none_or(|(found, _)| found != name || line.starts_with(' '))
    });
    let mut value = String::new();
    for (at, line) in lines.enumerate() {
        match line.strip_prefix("  ") {
            Some(more) if at > 0 => value += more,
            _ if at > 0 => break,
            _ => value += line.split_once(" =").unwrap().1.trim_start(),
        }
    }
    assert!(!value.is_empty(), "{name}");
    value
}

fn hex(name: &str) -> Vec<u8> {
    HEXLOWER.decode(text(name).as_bytes()).unwrap()
}

fn secret(name: &str) -> Secret {
    Secret::take(&mut hex(name)).unwrap()
}

fn entry(name: &str) -> Entry {
    let bytes = hex(name);
    Entry { nonce: bytes[..12].try_into().unwrap(), tag: bytes[12..].try_into().unwrap() }
}

fn volume() -> (Descriptor, VolumeKeys) {
    let descriptor = descriptor::decode(fenced("```json").as_bytes()).unwrap();
    let keys = VolumeKeys::open(&secret("volume key"), &descriptor).unwrap();
    (descriptor, keys)
}

fn root(keys: &VolumeKeys) -> DirCipher {
    let (epoch, id, tag) = directory::decode(&hex("marker of the root")).unwrap();
    keys.open_marker(epoch, id, &tag).unwrap()
}

#[test]
fn keys_are_derived_as_documented() {
    let same = |name: &str, key: &Secret| {
        assert_eq!(key.expose()[..], hex(name), "{name}");
    };
    let volume_key = secret("volume key");
    same("descriptor", &volume_key.derive("cmkfs v1 descriptor"));
    same("epoch keys", &volume_key.derive("cmkfs v1 epoch keys"));
    let epoch_key = secret("epoch key 1");
    for name in ["file keys", "directories", "names", "links", "attributes", "attribute names"] {
        same(name, &epoch_key.derive(&format!("cmkfs v1 {name}")));
    }
    same("names of the root", &secret("names").derive_for("", &ROOT.0));
}

#[test]
fn the_volume_opens_by_its_slot_and_its_mac() {
    let (descriptor, _) = volume();
    assert_eq!(descriptor.root_id, ROOT);
    let slot = BASE64.decode(descriptor.slots[0].wrapped.as_bytes()).unwrap();
    let context = text("slot context");
    let opened = unwrap_secret(&secret("key file"), context.as_bytes(), &slot).unwrap();
    assert_eq!(opened.expose()[..], hex("volume key"));
    let epoch = BASE64.decode(descriptor.epochs[0].wrapped.as_bytes()).unwrap();
    let context = [&descriptor.volume_id.0[..], &[1, 0, 0, 0]].concat();
    let opened = unwrap_secret(&secret("epoch keys"), &context, &epoch).unwrap();
    assert_eq!(opened.expose()[..], hex("epoch key 1"));
}

#[test]
fn markers_and_names_are_as_documented() {
    let (_, keys) = volume();
    let marker = hex("marker of the root");
    assert_eq!(keys.new_marker(ROOT).as_bytes(), marker);
    let link = text("its link");
    assert_eq!(directory::encode_link(marker.first_chunk().unwrap()), link);
    assert_eq!(directory::decode_link(link.as_bytes()), directory::decode(&marker));
    let root = root(&keys);
    let short = root.seal_name(b"train.csv");
    assert_eq!(short.object(), text("stored name of train.csv").as_bytes());
    assert_eq!(short.sidecar(), None);
    let long = root.seal_name(&[b'n'; 161]);
    assert_eq!(long.object(), text("stored name of 161 n").as_bytes());
    assert_eq!(long.sidecar().unwrap().1, hex("its sidecar"));
    assert_eq!(root.open_name(&hex("its sidecar")).unwrap().0, [b'n'; 161]);
}

#[test]
fn links_and_attributes_open_as_documented() {
    let (_, keys) = volume();
    let stored = text("stored name of user.comment");
    assert_eq!(keys.attribute_name(b"user.comment"), stored);
    let envelope = hex("its value, of the file");
    let opened = keys.open_attribute(Owner::File(FILE), stored.as_bytes(), &envelope).unwrap();
    assert_eq!((&opened.0[..], &opened.1[..]), (&b"user.comment"[..], &b"value"[..]));
    let envelope = BASE64URL_NOPAD.decode(text("link target of ../data").as_bytes()).unwrap();
    assert_eq!(keys.open_link(&envelope).unwrap()[..], *b"../data");
}

#[test]
fn the_small_file_opens_as_documented() {
    let (_, keys) = volume();
    let stored = hex("stored file of hello");
    let (prefix, entry) = header::decode(&stored).unwrap();
    assert_eq!((prefix.file_id, prefix.block_size), (FILE, BlockSize::DEFAULT));
    let cipher = keys.open_file(prefix.epoch, prefix.file_id, &prefix.wrapped_key).unwrap();
    let payload = keys.open_header(&cipher, &prefix, &entry, &stored[124..]).unwrap();
    assert_eq!(header::decode_payload(payload.first_chunk().unwrap()), (1, 6));
    assert_eq!(payload[16..], *b"hello\n");
}

#[test]
fn blocks_and_nodes_open_as_documented() {
    let cipher = FileCipher::new(&secret("file key"));
    let mut block = Plain::copy_of(&hex("block 7, 16 zeros"));
    let entries = [entry("entry of block 7, 16 zeros")];
    let (pool, unopened) = (CipherPool::for_this_machine().unwrap(), block.unopened(0..16));
    pool.open_blocks(&cipher, BlockSize::DEFAULT, 7, unopened, &entries).unwrap();
    assert_eq!(block[..], [0; 16]);

    let wanted = entry("entry of node 1,3 of holes");
    let mut node = [0; NODE_LEN];
    let associated = [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    let key: [u8; 32] = hex("file key").try_into().unwrap();
    let tag = Aes256GcmSiv::new(&key.into())
        .encrypt_inout_detached(&wanted.nonce.into(), &associated, node.as_mut_slice().into())
        .unwrap();
    assert_eq!(tag, wanted.tag);
    let opened = cipher.open_node(NodeAt { level: 1, index: 3 }, node, &wanted).unwrap();
    assert!(opened.iter().all(Entry::is_hole));
}
