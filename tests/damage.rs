//! Whatever is done to stored bytes, a read gives what was written or an error, never other data
//! (promise P1). A small store with one of everything is edited byte by byte.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its lengths are small"
)]

#[path = "support/volume.rs"]
mod volume;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cmkfs::cipher::VolumeKeysError;
use cmkfs::file::{Access, Dir, Durability, FileError, Kind, VolumeOptions, XattrMode};
use cmkfs::store::StoreError;
use volume::{ME, Throwaway};

/// Nothing is in a journal: what is written is where it is read.
const IN_PLACE: VolumeOptions = VolumeOptions {
    cache_bytes: 8 << 20,
    read_only: false,
    threads: None,
    open_dirs: NonZero::new(64).unwrap(),
    durability: Durability::Relaxed,
};

/// What a reader gets for a path: its bytes, or that they are damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Bytes(Vec<u8>),
    Damaged,
}

type Tree = BTreeMap<Vec<u8>, Seen>;

fn seen(result: Result<Vec<u8>, FileError>) -> Seen {
    match result {
        Ok(bytes) => Seen::Bytes(bytes),
        Err(FileError::Damaged(_) | FileError::Stale | FileError::NoAttribute) => Seen::Damaged,
        Err(FileError::Sys(_) | FileError::Invalid) => Seen::Damaged,
        Err(other) => panic!("{other}"),
    }
}

fn read_file(dir: &Dir, name: &[u8]) -> Result<Vec<u8>, FileError> {
    let file = dir.open_file(name, Access::Write)?;
    // In small requests, so that a damaged block does not hide what the others give.
    let mut bytes = vec![];
    let mut first_error = None;
    for at in (0..file.len().min(1 << 20)).step_by(4096) {
        match file.read(at, 4096) {
            Ok(part) => bytes.extend_from_slice(&part),
            Err(error) => {
                first_error.get_or_insert(error);
                bytes.extend_from_slice(&[0xEE; 4096]);
            }
        }
    }
    if let Some(error) = first_error {
        assert_parts_are_right(name, &bytes);
        return Err(error);
    }
    assert_eq!(file.len(), bytes.len() as u64);
    Ok(bytes)
}

/// The parts of a damaged file that could be read are what was written there.
fn assert_parts_are_right(name: &[u8], bytes: &[u8]) {
    let (_, wanted) = contents().into_iter().find(|(known, _)| known.as_bytes() == name).unwrap();
    assert_eq!(bytes.len().next_multiple_of(4096), wanted.len().next_multiple_of(4096));
    for (found, wanted) in bytes.chunks(4096).zip(wanted.chunks(4096)) {
        assert!(found == wanted || found.iter().all(|byte| *byte == 0xEE));
    }
}

fn walk(dir: &Dir, path: &[u8], tree: &mut Tree) {
    let attribute = dir.get_xattr(None, b"user.tag");
    tree.insert([path, b"@dir"].concat(), seen(attribute));
    let Ok(entries) = dir.entries() else { return };
    for entry in entries {
        let path = [path, b"/", &entry.name].concat();
        match entry.kind {
            Kind::Dir => match dir.open_dir(&entry.name) {
                Ok(inner) => walk(&inner, &path, tree),
                Err(error) => drop(tree.insert([&path[..], b"@dir"].concat(), seen(Err(error)))),
            },
            Kind::Symlink => drop(tree.insert(path, seen(dir.read_link(&entry.name)))),
            _ => {
                let attribute = seen(dir.get_xattr(Some(&entry.name), b"user.tag"));
                tree.insert([&path[..], b"@"].concat(), attribute);
                tree.insert(path, seen(read_file(dir, &entry.name)));
            }
        }
    }
}

fn pattern(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|at| fill.wrapping_add(u8::try_from(at % 241).unwrap())).collect()
}

fn contents() -> Vec<(String, Vec<u8>)> {
    let mut sparse = vec![0; 40_000];
    sparse[..5].copy_from_slice(b"start");
    sparse[36_000..36_005].copy_from_slice(b"later");
    vec![
        ("empty".into(), vec![]),
        ("inline".into(), b"a small secret".to_vec()),
        ("inline-full".into(), pattern(3956, 1)),
        ("blocks".into(), pattern(20_000, 2)),
        ("same-size".into(), pattern(20_000, 77)),
        ("sparse".into(), sparse),
        ("nodes".into(), pattern(129 * 4096 + 17, 3)),
        ("l".repeat(200), b"under a long name".to_vec()),
    ]
}

/// The stored directory of the only one in the root.
fn only_dir(throwaway: &Throwaway) -> PathBuf {
    let entries = fs::read_dir(throwaway.path().join("tree")).unwrap();
    entries.map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap()
}

/// The marker of one directory is a link, that of the other a file.
fn build() -> (Throwaway, Tree) {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open_with(&IN_PLACE).root().unwrap();
    root.set_xattr(None, b"user.tag", b"of the root", XattrMode::Any).unwrap();
    root.make_dir(b"dir", ME, 0o755).unwrap();
    volume::age_marker(&only_dir(&throwaway));
    let dir = root.open_dir(b"dir").unwrap();
    for (name, content) in contents() {
        let at = if name.starts_with("in") { &root } else { &dir };
        let (file, _) = at.create_file(name.as_bytes(), ME, 0o644).unwrap();
        if name == "sparse" {
            file.write(0, b"start").unwrap();
            file.write(36_000, b"later").unwrap();
            file.set_len(40_000).unwrap();
        } else {
            file.write(0, &content).unwrap();
        }
        file.commit().unwrap();
    }
    dir.set_xattr(Some(b"blocks"), b"user.tag", b"of a file", XattrMode::Any).unwrap();
    root.make_symlink(b"link", b"dir/blocks", ME).unwrap();
    root.make_symlink(b"long-link", &[b't'; 4000], ME).unwrap();
    let mut tree = Tree::new();
    walk(&root, b"", &mut tree);
    assert_eq!(tree.get(&b"/dir/blocks"[..]), Some(&Seen::Bytes(pattern(20_000, 2))));
    assert_eq!(tree.get(&b"/dir/blocks@"[..]), Some(&Seen::Bytes(b"of a file".to_vec())));
    assert_eq!(tree.get(&b"/link"[..]), Some(&Seen::Bytes(b"dir/blocks".to_vec())));
    assert_eq!(tree.get(&b"/long-link"[..]), Some(&Seen::Bytes(vec![b't'; 4000])));
    (throwaway, tree)
}

/// Reads everything; every path that is there gives what it gave before, or an error. Returns how
/// many paths gave an error or were gone.
fn check(throwaway: &Throwaway, before: &Tree, what: &str) -> usize {
    let mut after = Tree::new();
    match throwaway.open_with(&IN_PLACE).root() {
        Ok(root) => walk(&root, b"", &mut after),
        Err(FileError::Damaged(_)) => return before.len(),
        Err(other) => panic!("{what}: {other}"),
    }
    for (path, seen) in &after {
        let wanted = before.get(path);
        let shown = String::from_utf8_lossy(path);
        assert!(wanted.is_some(), "{what}: {shown} was never there");
        assert!(*seen == Seen::Damaged || Some(seen) == wanted, "{what}: {shown} reads otherwise");
    }
    before.iter().filter(|(path, seen)| after.get(*path) != Some(seen)).count()
}

fn stored_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            stored_files(&path, files);
        } else if meta.is_file() {
            files.push(path);
        }
    }
}

fn all_stored(throwaway: &Throwaway) -> Vec<PathBuf> {
    let mut files = vec![];
    stored_files(&throwaway.path().join("tree"), &mut files);
    stored_files(&throwaway.path().join("links"), &mut files);
    files.sort();
    assert!(files.len() >= 11, "{files:?}");
    files
}

/// Bytes that hold something: holes of the lower file are no bytes of the store.
fn data_ranges(path: &Path) -> Vec<std::ops::Range<u64>> {
    let bytes = fs::read(path).unwrap();
    let mut ranges: Vec<std::ops::Range<u64>> = vec![];
    for (page, chunk) in bytes.chunks(512).enumerate() {
        if chunk.iter().any(|byte| *byte != 0) {
            let start = page as u64 * 512;
            ranges.push(start..start + chunk.len() as u64);
        }
    }
    ranges
}

#[test]
fn a_flipped_bit_is_an_error_at_every_byte() {
    let (throwaway, before) = build();
    let (mut tried, mut noticed) = (0, 0);
    for path in all_stored(&throwaway) {
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        // Every byte of small files and of headers and nodes; every 97th of large contents.
        for range in data_ranges(&path) {
            let dense =
                len < 8192 || range.start < 4096 || (532_480..536_576).contains(&range.start);
            let step = if dense { 1 } else { 97 };
            for at in range.step_by(step) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                let flipped = [byte[0] ^ (1 << (at % 8))];
                file.write_all_at(&flipped, at).unwrap();
                let what = format!("{} byte {at} of {len}", path.display());
                tried += 1;
                noticed += usize::from(check(&throwaway, &before, &what) > 0);
                file.write_all_at(&byte, at).unwrap();
            }
        }
    }
    assert_eq!(check(&throwaway, &before, "restored"), 0);
    // Bytes that nothing refers to: those after a header's payload in its 512-byte sector.
    assert!(tried > 5000 && noticed * 100 >= tried * 95, "{noticed} of {tried}");
}

#[test]
fn a_flipped_bit_is_an_error_at_every_single_byte_of_a_small_store() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open_with(&IN_PLACE).root().unwrap();
    for name in ["inline", "blocks"] {
        let (_, content) = contents().into_iter().find(|(known, _)| known == name).unwrap();
        let (file, _) = root.create_file(name.as_bytes(), ME, 0o644).unwrap();
        file.write(0, &content).unwrap();
        file.commit().unwrap();
    }
    root.make_dir(b"dir", ME, 0o755).unwrap();
    root.set_xattr(Some(b"dir"), b"user.tag", b"of the directory", XattrMode::Any).unwrap();
    let mut before = Tree::new();
    walk(&root, b"", &mut before);
    drop(root);
    let mut files = vec![];
    stored_files(&throwaway.path().join("tree"), &mut files);
    assert_eq!(files.len(), 2);
    let mut noticed = 0;
    for path in files {
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for range in data_ranges(&path) {
            for at in range.start..range.end.min(file.metadata().unwrap().len()) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at).unwrap();
                let what = format!("{} byte {at}", path.display());
                noticed += usize::from(check(&throwaway, &before, &what) > 0);
                file.write_all_at(&byte, at).unwrap();
            }
        }
    }
    // Prefix, payload and content of each file.
    assert_eq!(noticed, (140 + 14) + (124 + 16 + 3584 + 20_000));
    for dir in [throwaway.path().join("tree"), only_dir(&throwaway)] {
        every_edit_of_a_link_is_an_error(&throwaway, &before, &dir.join("dir.cmkfs"));
    }
}

fn every_edit_of_a_link_is_an_error(throwaway: &Throwaway, before: &Tree, link: &Path) {
    let put = |text: &[u8]| {
        fs::remove_file(link).unwrap();
        std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(text), link).unwrap();
    };
    let whole = fs::read_link(link).unwrap().into_os_string().into_encoded_bytes();
    let flipped = (0..whole.len() * 8).map(|bit| {
        let mut text = whole.clone();
        text[bit / 8] ^= 1 << (bit % 8);
        text
    });
    let cut = (1..whole.len()).map(|len| whole[..len].to_vec());
    let more = [1, 4, 1000].map(|more| [&whole[..], &vec![b'A'; more]].concat());
    for text in flipped.chain(cut).chain(more) {
        put(&text);
        let what = String::from_utf8_lossy(&text).into_owned();
        assert!(check(throwaway, before, &what) > 0, "{what}");
    }
    put(&whole);
    assert_eq!(check(throwaway, before, "restored"), 0);
}

#[test]
fn cutting_extending_and_zeroing_are_errors() {
    let (throwaway, before) = build();
    for path in all_stored(&throwaway) {
        let whole = fs::read(&path).unwrap();
        let len = whole.len();
        let edges = [0, 1, 123, 124, 140, 512, 4095, 4096, 4097, 16384, len / 2, len - 1];
        for cut in edges.into_iter().filter(|cut| *cut < len) {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(check(&throwaway, &before, &format!("{} cut to {cut}", path.display())) > 0);
        }
        for more in [1, 4096, 70_000] {
            fs::write(&path, [&whole[..], &vec![7; more]].concat()).unwrap();
            check(&throwaway, &before, &format!("{} and {more} bytes", path.display()));
        }
        fs::write(&path, &whole).unwrap();
        for range in data_ranges(&path) {
            let mut zeroed = whole.clone();
            let end = (range.end as usize).min(len);
            zeroed[range.start as usize..end].fill(0);
            fs::write(&path, &zeroed).unwrap();
            let what = format!("{} zeroed at {}", path.display(), range.start);
            assert!(check(&throwaway, &before, &what) > 0, "{what}");
        }
        fs::write(&path, vec![0; len]).unwrap();
        assert!(check(&throwaway, &before, &format!("{} all zeros", path.display())) > 0);
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(check(&throwaway, &before, "restored"), 0);
}

#[test]
fn swapped_parts_are_errors() {
    let (throwaway, before) = build();
    let files = all_stored(&throwaway);
    let big: Vec<_> =
        files.iter().filter(|path| fs::metadata(path).unwrap().len() > 20_000).collect();
    assert_eq!(big.len(), 4);
    // Blocks and pages within one file.
    for path in &big {
        let whole = fs::read(path).unwrap();
        for (one, other) in [(16384, 20480), (16384, 28672), (0, 16384), (4096, 16384)] {
            let mut swapped = whole.clone();
            swapped[one..one + 4096].copy_from_slice(&whole[other..other + 4096]);
            swapped[other..other + 4096].copy_from_slice(&whole[one..one + 4096]);
            fs::write(path, &swapped).unwrap();
            check(&throwaway, &before, &format!("{} {one} {other}", path.display()));
        }
        fs::write(path, &whole).unwrap();
    }
    // Parts of one file in another: header, nodes, blocks.
    for one in &big {
        for other in &big {
            let (whole, donor) = (fs::read(one).unwrap(), fs::read(other).unwrap());
            for part in [0..4096, 4096..8192, 16384..20480, 0..20_000] {
                let mut mixed = whole.clone();
                mixed[part.clone()].copy_from_slice(&donor[part.clone()]);
                fs::write(one, &mixed).unwrap();
                check(&throwaway, &before, &format!("{} got {part:?}", one.display()));
            }
            fs::write(one, &whole).unwrap();
        }
    }
    assert_eq!(check(&throwaway, &before, "restored"), 0);
}

#[test]
fn an_older_block_in_a_newer_file_is_an_error() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open_with(&IN_PLACE).root().unwrap();
    let (file, stat) = root.create_file(b"file", ME, 0o644).unwrap();
    file.write(0, &pattern(600_000, 1)).unwrap();
    file.commit().unwrap();
    let path = all_by_ino(&throwaway, stat.ino);
    let old = fs::read(&path).unwrap();
    file.write(8192, &pattern(4096, 50)).unwrap();
    file.commit().unwrap();
    drop((file, root));
    let new = fs::read(&path).unwrap();
    // Put back, one at a time: the old block, the old node, the old header.
    for part in [16384 + 8192..16384 + 12288, 4096..8192, 0..4096] {
        let mut mixed = new.clone();
        assert_ne!(mixed[part.clone()], old[part.clone()]);
        mixed[part.clone()].copy_from_slice(&old[part.clone()]);
        fs::write(&path, &mixed).unwrap();
        let root = throwaway.open_with(&IN_PLACE).root().unwrap();
        let read = root.open_file(b"file", Access::Read).and_then(|file| file.read(8192, 4096));
        assert!(matches!(read, Err(FileError::Damaged(_))), "{part:?}");
    }
}

fn all_by_ino(throwaway: &Throwaway, ino: u64) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let mut files = vec![];
    stored_files(&throwaway.path().join("tree"), &mut files);
    files.into_iter().find(|path| fs::metadata(path).unwrap().ino() == ino).unwrap()
}

#[test]
fn a_name_from_another_directory_is_not_shown() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open_with(&IN_PLACE).root().unwrap();
    root.make_dir(b"one", ME, 0o755).unwrap();
    let one = root.open_dir(b"one").unwrap();
    let (file, stat) = one.create_file(b"secret", ME, 0o644).unwrap();
    file.write(0, b"content").unwrap();
    file.commit().unwrap();
    let stored = all_by_ino(&throwaway, stat.ino);
    let moved = throwaway.path().join("tree").join(stored.file_name().unwrap());
    fs::rename(&stored, &moved).unwrap();
    assert!(root.entries().unwrap().iter().all(|entry| entry.name != b"secret"));
    assert!(root.lookup(b"secret").is_err());
    assert!(one.entries().unwrap().is_empty());
}

#[test]
fn a_link_in_the_place_of_a_file_leads_nowhere() {
    use std::os::unix::fs::PermissionsExt;
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open_with(&IN_PLACE).root().unwrap();
    let (file, stat) = root.create_file(b"file", ME, 0o644).unwrap();
    drop(file);
    let host = throwaway.path().join("host");
    fs::write(&host, b"of the host").unwrap();
    fs::set_permissions(&host, fs::Permissions::from_mode(0o600)).unwrap();
    let path = all_by_ino(&throwaway, stat.ino);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&host, &path).unwrap();
    let set = cmkfs::file::SetAttr { mode: Some(0o777), uid: Some(1), ..Default::default() };
    assert!(root.set_attr(b"file", &set).is_err());
    assert!(root.open_file(b"file", Access::Write).is_err());
    assert!(root.truncate(b"file", 0).is_err());
    let meta = fs::metadata(&host).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&host).unwrap(), b"of the host");
}

#[test]
fn a_directory_that_lost_its_marker_can_be_removed() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open_with(&IN_PLACE).root().unwrap();
    root.make_dir(b"dir", ME, 0o755).unwrap();
    fs::remove_file(only_dir(&throwaway).join("dir.cmkfs")).unwrap();
    assert!(matches!(root.open_dir(b"dir"), Err(FileError::Damaged(_))));
    root.remove_dir(b"dir").unwrap();
    assert!(root.entries().unwrap().is_empty());
}

#[test]
fn a_damaged_file_can_be_looked_at_renamed_and_removed() {
    let throwaway = Throwaway::new(4096);
    let root = throwaway.open_with(&IN_PLACE).root().unwrap();
    let (file, stat) = root.create_file(b"file", ME, 0o644).unwrap();
    file.write(0, &pattern(50_000, 1)).unwrap();
    file.commit().unwrap();
    drop((file, root));
    let path = all_by_ino(&throwaway, stat.ino);
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let root = throwaway.open_with(&IN_PLACE).root().unwrap();
    assert!(matches!(root.open_file(b"file", Access::Read), Err(FileError::Damaged(_))));
    assert_eq!(root.lookup(b"file").unwrap().size, 50_000);
    root.rename(b"file", &root, b"other", cmkfs::file::RenameMode::Replace).unwrap();
    assert_eq!(root.entries().unwrap().len(), 1);
    root.unlink(b"other").unwrap();
    assert!(root.entries().unwrap().is_empty());
}

#[test]
fn every_flipped_bit_of_volume_json_is_refused_or_without_meaning() {
    let throwaway = Throwaway::new(4096);
    let store = cmkfs::store::Store::open(throwaway.path()).unwrap();
    let (path, wanted) = (store.descriptor_path(), store.read_descriptor().unwrap());
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        let Ok(found) = store.read_descriptor() else { continue };
        let opened = throwaway.keys(&found);
        assert!(found == wanted || matches!(opened, Err(VolumeKeysError::Mac)), "bit {bit}");
    }
    fs::write(&path, b"{\"format\":\"cmkfs\",\"version\":99}").unwrap();
    assert!(matches!(store.read_descriptor(), Err(StoreError::Descriptor { .. })));
}
