//! The entries of the fuzz targets on stable: with their seeds, with any bytes, and with seeds that
//! were edited. `tests/fuzz/README.md` says how to run the targets themselves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that fails tells which seed it was")]

#[path = "fuzz/entries/mod.rs"]
mod entries;
#[path = "fuzz/make.rs"]
mod make;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cmkfs::cipher::Owner;
use cmkfs::format::geometry::NodeAt;
use cmkfs::format::header::{self, PREFIX_BYTES};
use cmkfs::format::journal::{self, FRAME_LEN, RecordKind};
use cmkfs::format::node::Entry;
use cmkfs::format::sessions;
use entries::{ENTRIES, Run, golden};
use proptest::prelude::*;
use proptest::sample::Index;

fn fuzz(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(path)
}

/// Names in a folder, without their extension.
fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz(folder)).unwrap();
    entries
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().into())
        .collect()
}

/// All seeds: what runs them, their path, their bytes.
fn seeds() -> &'static [(Run, String, Vec<u8>)] {
    static SEEDS: OnceLock<Vec<(Run, String, Vec<u8>)>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let mut seeds = Vec::new();
        for (target, run) in ENTRIES {
            for name in names(&format!("seeds/{target}")) {
                let path = format!("seeds/{target}/{name}");
                let bytes = fs::read(fuzz(&path)).unwrap();
                seeds.push((*run, path, bytes));
            }
        }
        seeds
    })
}

#[test]
fn each_target_has_an_entry_and_seeds() {
    let entries: BTreeSet<String> = ENTRIES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), entries);
    assert_eq!(names("seeds"), entries);
    let manifest = fs::read_to_string(fuzz("Cargo.toml")).unwrap();
    for (name, _) in ENTRIES {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        let target = fs::read_to_string(fuzz(&format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("entries::{name}(bytes)")), "{name}");
    }
}

#[test]
fn all_seeds_run() {
    for (run, path, bytes) in seeds() {
        println!("{path}");
        run(bytes);
        assert!(
            bytes.len() < 8192,
            "{path}: a long input is slow, and seldom edited where it counts"
        );
    }
}

/// Otherwise it would be for another reason that nothing but the seeds opens.
#[test]
fn what_the_golden_volume_sealed_opens() {
    let keys = golden::keys();
    for sealed in golden::HEADERS {
        let (prefix, entry) = header::decode(sealed).unwrap();
        let cipher = keys.open_file(prefix.epoch, prefix.file_id, &prefix.wrapped_key).unwrap();
        keys.open_header(&cipher, &prefix, &entry, &sealed[PREFIX_BYTES..]).unwrap();
    }
    for (sealed, level) in golden::NODES.iter().zip(0..) {
        let index = u64::from_le_bytes(sealed[1..9].try_into().unwrap());
        let entry = Entry {
            nonce: sealed[9..21].try_into().unwrap(),
            tag: sealed[21..37].try_into().unwrap(),
        };
        let (at, stored) = (NodeAt { level, index }, sealed[37..].try_into().unwrap());
        assert_eq!(sealed[0], level);
        golden::large().open_node(at, stored, &entry).unwrap();
    }
    let (mut rest, mut kinds) = (&golden::SEGMENT[golden::HEAD_LEN..], vec![]);
    while !rest.is_empty() {
        let (frame, _) = journal::decode_frame(rest.first_chunk().unwrap()).unwrap();
        let (record, after) = rest.split_at(FRAME_LEN + frame.body_len as usize);
        let opened = match frame.kind {
            RecordKind::Written => golden::segment().open_written(frame.sequence, record).is_ok(),
            _ => golden::segment().open_record(frame.sequence, record).is_ok(),
        };
        assert!(opened, "{frame:?}");
        kinds.push(frame.kind);
        rest = after;
    }
    let wanted = [
        RecordKind::Fresh,
        RecordKind::Settled,
        RecordKind::Written,
        RecordKind::Change,
        RecordKind::Anew,
    ];
    assert_eq!(kinds, wanted);
    assert!(golden::SLOTS.iter().all(|slot| {
        let (said, tag) = sessions::decode(slot).unwrap();
        keys.check_sessions(&said, &tag).is_ok()
    }));
    assert!(golden::LINKS.iter().all(|sealed| keys.open_link(sealed).is_some()));
    let owner = Owner::Dir(golden::root().id());
    let stored = keys.attribute_name(golden::ATTRIBUTE_NAME);
    let (name, value) = keys.open_attribute(owner, stored.as_bytes(), golden::ATTRIBUTE).unwrap();
    assert_eq!((&name[..], &value[..]), (golden::ATTRIBUTE_NAME, &b"the root"[..]));
    let sealed = fs::read(fuzz("seeds/name/sealed")).unwrap();
    assert!(golden::root().open_name(&sealed).is_some());
}

/// What is done to a seed, beside the edits that the entries do to what they seal themselves.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Step(Index, i8),
    Cut(Index),
    Remove(Index, Index),
    Set(Index, Vec<u8>),
    Insert(Index, Vec<u8>),
    /// The rest comes from another seed.
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    // Numbers at the edges of their width are worth more than others.
    let edge = || prop::sample::select(vec![0, 1, 0x7F, 0x80, 0xFF]);
    let bytes = || {
        prop_oneof![
            prop::collection::vec(prop_oneof![any::<u8>(), edge()], 1..9),
            (edge(), prop::sample::select(vec![2, 4, 8])).prop_map(|(byte, len)| vec![byte; len]),
        ]
    };
    prop_oneof![
        4 => (at(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (at(), prop::sample::select(vec![-1, 1])).prop_map(|(at, by)| Change::Step(at, by)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at()).prop_map(|(from, to)| Change::Remove(from, to)),
        2 => (at(), bytes()).prop_map(|(at, bytes)| Change::Set(at, bytes)),
        1 => (at(), bytes()).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (at(), at(), at()).prop_map(|(seed, from, at)| Change::Splice(seed, from, at)),
    ]
}

/// A place among `len`: every other time one where most fields are.
fn place(at: &Index, len: usize) -> usize {
    let at = at.index(2 * len);
    if at < len { at } else { (at - len) % len.min(FIELDS_LEN) }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len() + 1;
        match self {
            Self::Flip(..) | Self::Step(..) | Self::Set(..) if bytes.is_empty() => {}
            Self::Flip(at, bit) => bytes[place(at, len - 1)] ^= 1 << bit,
            Self::Step(at, by) => {
                let byte = &mut bytes[place(at, len - 1)];
                *byte = byte.wrapping_add_signed(*by);
            }
            Self::Cut(at) => bytes.truncate(place(at, len)),
            Self::Remove(one, other) => {
                let (one, other) = (place(one, len), place(other, len));
                bytes.drain(one.min(other)..one.max(other));
            }
            Self::Set(at, with) => {
                let at = place(at, len - 1);
                bytes.iter_mut().skip(at).zip(with).for_each(|(byte, with)| *byte = *with);
            }
            Self::Insert(at, with) => {
                let at = place(at, len);
                bytes.splice(at..at, with.iter().copied());
            }
            Self::Splice(seed, from, at) => {
                let (_, _, other) = seed.get(seeds());
                bytes.truncate(place(at, len));
                bytes.extend(&other[from.index(other.len() + 1)..]);
            }
        }
    }
}

/// Bytes of a seed in which nearly all of its fields are.
const FIELDS_LEN: usize = 128;

/// What chance may miss: each bit the other way, each byte one up or down, each field at its edge.
#[test]
fn each_field_of_the_seeds_edited_is_refused_or_keeps_its_bounds() {
    for (run, path, seed) in seeds() {
        println!("{path}");
        for at in 0..seed.len().min(FIELDS_LEN) {
            let mut edited = seed.clone();
            let steps = [seed[at].wrapping_add(1), seed[at].wrapping_sub(1)];
            for byte in (0..8).map(|bit| seed[at] ^ 1 << bit).chain(steps) {
                edited[at] = byte;
                run(&edited);
            }
            for (width, byte) in [(4, 0), (4, 0xFF), (8, 0), (8, 0xFF)] {
                edited.clone_from(seed);
                edited.iter_mut().skip(at).take(width).for_each(|field| *field = byte);
                run(&edited);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bytes_are_refused_or_keep_their_bounds(
        bytes in prop::collection::vec(any::<u8>(), 0..4096),
    ) {
        ENTRIES.iter().for_each(|(_, run)| run(&bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn edited_seeds_are_refused_or_keep_their_bounds(
        seed: Index,
        changes in prop::collection::vec(change(), 1..5),
    ) {
        let (run, path, bytes) = seed.get(seeds());
        let mut bytes = bytes.clone();
        changes.iter().for_each(|change| change.apply(&mut bytes));
        println!("{path}");
        run(&bytes);
    }
}

/// Makes the seeds anew from the golden volumes.
#[test]
#[ignore = "makes the seeds; tests/fuzz/README.md says when and how"]
fn make_seeds() {
    make::make(&fuzz("seeds"));
}
