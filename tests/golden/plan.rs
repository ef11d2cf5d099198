//! What is in a golden volume, by its block size: told before the volume is made, so that neither
//! the library nor the reader is asked what the right answer would be.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Value, json};

use crate::seen::{WHOLE_HASH_MAX, escape, sha256};

/// One object. Of two names of one object the first in the plan is the first in a walk too.
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) what: What,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) enum What {
    Dir,
    File(Content),
    /// Another name of the object at this path.
    SameAs(Vec<u8>),
    Link(Vec<u8>),
    Fifo,
}

/// Runs of data that are written, at their offsets; then what is done to them.
pub(crate) struct Content {
    pub(crate) length: u64,
    pub(crate) runs: Vec<(u64, Vec<u8>)>,
    pub(crate) punched: Range<u64>,
}

/// A volume: what is made first, and what is made after it was opened again, in a second epoch
/// where there is one.
pub(crate) struct Plan {
    pub(crate) block_size: u64,
    pub(crate) second_epoch: bool,
    pub(crate) first: Vec<Item>,
    pub(crate) later: Vec<Item>,
}

/// Bytes that differ everywhere and by `seed`.
pub(crate) fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[5]
    };
    (0..len).map(|_| byte()).collect()
}

fn item(path: &[u8], mode: u32, what: What) -> Item {
    Item { path: path.to_vec(), mode, what, xattrs: vec![] }
}

fn file(path: &[u8], length: u64, runs: &[(u64, u64)]) -> Item {
    let runs = runs.iter().map(|(at, len)| (*at, noise(length + at, *len))).collect();
    item(path, 0o644, What::File(Content { length, runs, punched: 0..0 }))
}

fn dense(length: u64) -> Item {
    file(format!("size {length}").as_bytes(), length, &[(0, length)])
}

impl Item {
    fn with(mut self, name: &[u8], value: &[u8]) -> Self {
        self.xattrs.push((name.to_vec(), value.to_vec()));
        self
    }

    fn of_mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
}

/// Sizes at every boundary. Only few blocks are data: ciphertext does not compress, and an archive
/// stays small.
fn sizes(block: u64) -> Vec<Item> {
    let (one, two, three) = (128 * block, 128 * 128 * block, 128 * 128 * 128 * block);
    let mut sizes: Vec<Item> =
        [0, 1, 3955, 3956, 3957, block - 1, block].into_iter().map(dense).collect();
    if block != 4096 {
        sizes.push(dense(4096));
    }
    sizes.push(file(b"one byte after a hole", block + 1, &[(block, 1)]));
    sizes.push(file(b"one run, all of it a hole", one, &[]));
    sizes.push(file(b"one run and a byte", one + 1, &[(one, 1)]));
    sizes.push(file(b"two levels", two + 7, &[(two, 7)]));
    let far = three / 2 + 77 * one + 5 * block;
    let runs = if block == 65536 { vec![(three, 9)] } else { vec![(far, block), (three, 9)] };
    sizes.push(file(b"three levels", three + 9, &runs));
    if block == 4096 {
        let last = one - block;
        sizes.push(file(b"one run, its last block", one, &[(last, block)]));
        let middle = 5 * one + 127 * block;
        let runs = [(0, block), (middle, 2 * block), (two, 3 * block)];
        sizes.push(file(b"two levels, six blocks", two + 3 * block, &runs));
    }
    sizes
}

/// Files that are not as they were written first.
fn changed(block: u64) -> Vec<Item> {
    let mut short = file(b"cut to inline", 100, &[(0, 100), (200 * block, 50)]);
    short.xattrs.push((b"user.was".to_vec(), b"longer".to_vec()));
    let (last, beyond) = (2 * block, 128 * 128 * block);
    let mut items = vec![short, file(b"cut in a block", last + 10, &[(last, 20), (beyond, 9)])];
    if block == 4096 {
        let mut punched = file(b"punched", 4 * block + 11, &[(0, 4 * block + 11)]);
        if let What::File(content) = &mut punched.what {
            content.punched = block..3 * block;
        }
        items.push(punched);
    }
    items
}

fn names() -> Vec<Item> {
    let long = |len| vec![b'n'; len];
    let mut items: Vec<Item> =
        [1, 16, 17, 160, 161, 255].iter().map(|len| file(&long(*len), 3, &[(0, 3)])).collect();
    let odd: [&[u8]; 7] = [
        b"dir.cmkfs",
        b"a.long",
        b"a.name",
        b"new\nline \\ \"quoted\"",
        b"Gr\xc3\xbc\xc3\x9fe",
        b"\xff\xfe not UTF-8 \x80",
        b"\x01\x7f",
    ];
    items.extend(odd.iter().map(|name| file(name, 5, &[(0, 5)])));
    items
}

fn directories() -> Vec<Item> {
    let long = [b"nested/", &[b'd'; 200][..]].concat();
    let deep = [&long[..], b"/deep"].concat();
    let bottom = [&deep[..], b"/bottom"].concat();
    vec![
        item(b"nested", 0o750, What::Dir).with(b"user.of", b"a directory"),
        item(b"nested/sticky", 0o1777, What::Dir),
        item(&long, 0o700, What::Dir).with(b"user.of", b"a directory with a long name"),
        item(&deep, 0o755, What::Dir),
        file(&bottom, 4000, &[(0, 4000)]).of_mode(0o600),
        item(b"nested/same", 0o600, What::SameAs(bottom)),
        file(b"linked", 10, &[(0, 10)]),
        item(&[b"nested/", &[b'x'; 255][..]].concat(), 0o644, What::SameAs(b"linked".to_vec())),
    ]
}

fn links() -> Vec<Item> {
    // 3039 bytes are the most that a lower link holds; 3040 go to a file in links/.
    let lens = [1_usize, 3039, 3040, 4000, 4095];
    let target = |len| [vec![b't'; len - 1], vec![0xE9]].concat();
    let named = |len: &usize| format!("link of {len}").into_bytes();
    let mut items: Vec<Item> =
        lens.iter().map(|len| item(&named(len), 0o777, What::Link(target(*len)))).collect();
    let relative = What::Link(b"../data/train.csv".to_vec());
    items.push(item(b"link", 0o777, relative).with(b"trusted.of", b"a link"));
    items
}

fn attributes() -> Vec<Item> {
    let longest = [b"user.", &[b'a'; 250][..]].concat();
    vec![
        file(b"attributes", 6, &[(0, 6)])
            .with(b"user.comment", b"value")
            .with(b"user.empty", b"")
            .with(&longest, b"\0\xff\\")
            .with(b"user.large", &noise(1, 1500))
            .with(b"trusted.t", b"trusted")
            .with(b"security.cmkfs-test", b"security"),
        item(b"fifo", 0o640, What::Fifo).with(b"trusted.of", b"a FIFO"),
    ]
}

/// What is made by a second opening, and so in the second epoch, with the same names again.
fn later() -> Vec<Item> {
    vec![
        file(b"later", 4097, &[(0, 4097)]).with(b"user.comment", b"later"),
        file(b"nested/later", 0, &[]),
        item(b"later link", 0o777, What::Link(b"later".to_vec())),
        item(b"later far link", 0o777, What::Link(vec![b'l'; 3500])),
        item(b"later directory", 0o711, What::Dir).with(b"user.of", b"a later directory"),
        file(b"later directory/n", 7, &[(0, 7)]),
        item(b"later directory/old", 0o644, What::SameAs(b"attributes".to_vec())),
    ]
}

impl Plan {
    pub(crate) fn new(block_size: u64) -> Self {
        let root = item(b".", 0o700, What::Dir).with(b"user.of", b"the root");
        let parts = [
            vec![root],
            sizes(block_size),
            changed(block_size),
            names(),
            directories(),
            links(),
            attributes(),
        ];
        let first = parts.into_iter().flatten().collect();
        Self { block_size, second_epoch: block_size == 16384, first, later: later() }
    }

    /// The records that a listing must have.
    pub(crate) fn records(&self) -> Vec<Value> {
        let items: Vec<&Item> = self.first.iter().chain(&self.later).collect();
        let mut names_of: BTreeMap<&[u8], u64> = BTreeMap::new();
        for item in &items {
            *names_of.entry(original(item)).or_default() += 1;
        }
        let record = |item: &&Item| {
            let at = original(item);
            let whole = items.iter().find(|item| item.path == at).expect("it is in the plan");
            let pair = |(name, value): &(Vec<u8>, Vec<u8>)| (escape(name), escape(value).into());
            let xattrs: serde_json::Map<String, Value> = whole.xattrs.iter().map(pair).collect();
            let mode = format!("{:04o}", whole.mode);
            let mut record = json!({"path": escape(&item.path), "mode": mode, "xattrs": xattrs});
            if !matches!(whole.what, What::Dir) {
                record["nlink"] = names_of[at].into();
            }
            if at != item.path {
                record["same_as"] = escape(at).into();
            }
            describe(&whole.what, self.block_size, &mut record);
            record
        };
        items.iter().map(record).collect()
    }
}

fn original(item: &Item) -> &[u8] {
    if let What::SameAs(path) = &item.what { path } else { &item.path }
}

fn describe(what: &What, block_size: u64, record: &mut Value) {
    match what {
        What::Dir => record["kind"] = "directory".into(),
        What::Fifo => record["kind"] = "fifo".into(),
        What::SameAs(_) => unreachable!("two steps"),
        What::Link(target) => {
            record["kind"] = "symlink".into();
            record["target"] = escape(target).into();
        }
        What::File(content) => {
            record["kind"] = "file".into();
            record["size"] = content.length.into();
            record["block_size"] = block_size.into();
            if content.length <= WHOLE_HASH_MAX {
                record["sha256"] = sha256(&content.whole()).into();
            } else {
                let extent = |(at, data): &(u64, Vec<u8>)| json!([at, data.len(), sha256(data)]);
                record["extents"] = content.runs.iter().map(extent).collect();
            }
        }
    }
}

impl Content {
    /// All bytes.
    fn whole(&self) -> Vec<u8> {
        let index = |at: u64| usize::try_from(at).expect("64-bit");
        let mut whole = vec![0; index(self.length)];
        for (at, data) in self.runs.iter().filter(|(at, _)| *at < self.length) {
            let end = (at + data.len() as u64).min(self.length);
            whole[index(*at)..index(end)].copy_from_slice(&data[..index(end - at)]);
        }
        whole[index(self.punched.start)..index(self.punched.end)].fill(0);
        whole
    }
}
