//! The first page of a stored file, and the arithmetic on what it says.

use cmkfs::cipher::{Plain, VolumeKeys};
use cmkfs::format::geometry::{FANOUT, LEVELS_MAX, NodeAt, PAGE_LEN, SLOT_LEN};
use cmkfs::format::header::{
    self, INLINE_MAX, PAYLOAD_FIXED_BYTES, PAYLOAD_FIXED_LEN, PREFIX_BYTES, PREFIX_LEN, Prefix,
};
use cmkfs::format::node;
use cmkfs::format::{BlockSize, FileId, Geometry};

use super::edit::Edit;
use super::golden;

/// The bytes as a page, as numbers that a header has, and as an edit and a content to be sealed.
pub fn header(bytes: &[u8]) {
    claims(bytes);
    arithmetic(bytes);
    sealed(bytes);
}

/// The bytes up to the payload's end, and the payload opened; `None` if it does not.
fn open<'a>(keys: &VolumeKeys, page: &'a [u8]) -> Option<(&'a [u8], Plain)> {
    let (prefix, entry) = header::decode(page).ok()?;
    let whole = page.get(..PREFIX_BYTES + usize::from(prefix.payload_len))?;
    let cipher = keys.open_file(prefix.epoch, prefix.file_id, &prefix.wrapped_key)?;
    let payload = keys.open_header(&cipher, &prefix, &entry, &whole[PREFIX_BYTES..]).ok()?;
    Some((whole, payload))
}

/// Whether the journal's seed has these bytes: its records have headers in them, one of which may
/// come to the beginning where seeds are put together.
fn in_journal(bytes: &[u8]) -> bool {
    golden::SEGMENT.windows(bytes.len()).any(|part| part == bytes)
}

fn claims(page: &[u8]) {
    let Ok((prefix, entry)) = header::decode(page) else { return };
    assert_eq!(header::encode(&prefix, &entry)[..], page[..PREFIX_BYTES]);
    let end = PREFIX_LEN + u64::from(prefix.payload_len);
    assert!((PREFIX_LEN + PAYLOAD_FIXED_LEN..=PAGE_LEN).contains(&end), "payload up to {end}");
    assert_eq!(BlockSize::from_bytes(prefix.block_size.bytes()), Some(prefix.block_size));
    let Prefix { epoch, file_id, wrapped_key, .. } = &prefix;
    if golden::keys().open_file(*epoch, *file_id, wrapped_key).is_some() {
        let known = golden::HEADERS.iter().filter_map(|known| header::decode(known).ok());
        let same = |known: &Prefix| known.wrapped_key == *wrapped_key && known.file_id == *file_id;
        let known = known.map(|(known, _)| known).any(|known| same(&known));
        assert!(known || in_journal(wrapped_key), "forged file key");
    }
    if let Some((whole, payload)) = open(golden::keys(), page) {
        assert!(golden::HEADERS.contains(&whole) || in_journal(whole), "forged header");
        let (_, length) = header::decode_payload(payload.first_chunk().expect("at least 16"));
        let body_len = (payload.len() - PAYLOAD_FIXED_BYTES) as u64;
        let tree = body_len == node::NODE_LEN as u64;
        assert!(if Geometry::is_inline(length) { body_len == length } else { tree });
    }
}

/// Whatever length an authentic header may have, all offsets are within reach and agree.
fn arithmetic(bytes: &[u8]) {
    let Some((numbers, rest)) = bytes.split_first_chunk::<PAYLOAD_FIXED_BYTES>() else { return };
    let (number, length) = header::decode_payload(numbers);
    assert_eq!(header::encode_payload(number, length), *numbers);
    let log2 = 12 + rest.first().map_or(0, |byte| byte % 5);
    let geometry = Geometry::new(BlockSize::from_log2(log2).expect("12 to 16"));
    assert!(geometry.plain_len(number) <= number);
    // Lengths at random are nearly all too long: scaled down, they come to all levels.
    let scaled = length >> (rest.get(1).map_or(0, |byte| byte % 64));
    for length in [length, scaled] {
        if length <= geometry.length_max() {
            offsets(geometry, length, number);
        }
    }
}

fn offsets(geometry: Geometry, length: u64, number: u64) {
    let stored_len = geometry.stored_len(length);
    assert_eq!(geometry.plain_len(stored_len), length);
    if Geometry::is_inline(length) {
        assert!(length <= INLINE_MAX && stored_len <= PAGE_LEN);
        return;
    }
    let (count, levels) = (geometry.block_count(length), geometry.levels(length));
    assert!(levels <= LEVELS_MAX);
    assert!(count <= FANOUT.pow(u32::from(levels) + 1), "the header reaches all blocks");
    let block = number % count;
    let block_len = geometry.block_len(block, length) as u64;
    assert!(block_len > 0 && block_len <= geometry.block_size().bytes());
    assert_eq!(geometry.block_of(geometry.block_start(block)), block);
    assert_eq!(geometry.block_len(count, length), 0);
    let offset = geometry.block_offset(block);
    assert!(offset >= SLOT_LEN && offset + block_len <= stored_len);
    let run_len = SLOT_LEN + FANOUT * geometry.block_size().bytes();
    assert!(offset % run_len >= SLOT_LEN, "a block in a slot");
    let mut index = block;
    for level in 0..levels {
        index /= FANOUT;
        let node = geometry.node_offset(NodeAt { level, index });
        assert_eq!(node % run_len, PAGE_LEN * (1 + u64::from(level)), "a node out of its page");
        assert!(node >= PAGE_LEN && node + PAGE_LEN <= offset, "a node behind its blocks");
    }
}

fn sealed(input: &[u8]) {
    let (edit, content) = Edit::take(input);
    let content = &content[..content.len().min(3956)];
    let keys = golden::other_keys();
    let file_id = FileId([edit.byte(); 16]);
    let (cipher, wrapped_key) = keys.new_file(file_id);
    let fixed = header::encode_payload(1, content.len() as u64);
    let payload = Plain::copy_of(&[&fixed[..], content].concat());
    let payload_len = u16::try_from(payload.len()).expect("at most 3972");
    let block_size = BlockSize::DEFAULT;
    let prefix = Prefix { block_size, payload_len, epoch: keys.current(), file_id, wrapped_key };
    let sealed = keys.seal_header(&cipher, &prefix, &payload);
    let sealed = sealed.as_bytes();

    let (whole, opened) = open(keys, sealed).expect("what was sealed opens");
    assert!(whole == sealed && opened[..] == payload[..]);
    assert!(open(golden::keys(), sealed).is_none(), "opens under another key");
    if let Some((whole, _)) = open(keys, &edit.of(sealed)) {
        assert_eq!(whole, sealed, "{edit:?}: only what follows the payload may be anything");
    }
}
