//! A volume as the library sees it, told in the records of the reader.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cmkfs::file::{Access, Dir, File, FileError, Kind, Seek, Stat, Volume};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A longer file is told by its extents alone, as the reader does.
pub(crate) const WHOLE_HASH_MAX: u64 = 64 << 20;
const STEP: usize = 1 << 20;

/// Records by their path.
pub(crate) type Records = BTreeMap<String, Value>;

/// Printable ASCII stands for itself, a backslash and all else as `\xNN`.
pub(crate) fn escape(raw: &[u8]) -> String {
    let one = |byte: &u8| match *byte {
        b' '..=b'~' if *byte != b'\\' => char::from(*byte).to_string(),
        other => format!("\\x{other:02x}"),
    };
    raw.iter().map(one).collect()
}

pub(crate) fn sha256(data: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(data))
}

/// By path; panics if a path is there twice.
pub(crate) fn by_path(records: impl IntoIterator<Item = Value>) -> Records {
    let mut all = Records::new();
    for record in records {
        let path = record["path"].as_str().expect("every record has a path").to_owned();
        assert!(all.insert(path.clone(), record).is_none(), "{path} twice");
    }
    all
}

/// Everything in the volume; panics at what can't be read.
pub(crate) fn list(volume: &Arc<Volume>) -> Records {
    let root = volume.root().expect("root directory");
    let mut walk = Walk { records: vec![], first_paths: HashMap::new() };
    let record = walk.start(b".", &root.stat().unwrap(), &root, None);
    walk.records.push(record);
    walk.below(b"", &root);
    by_path(walk.records)
}

struct Walk {
    records: Vec<Value>,
    first_paths: HashMap<u64, Vec<u8>>,
}

impl Walk {
    fn below(&mut self, path: &[u8], dir: &Dir) {
        let mut entries = dir.entries().unwrap();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        for entry in entries {
            let name = &entry.name[..];
            let path = [path, name].concat();
            let stat = dir.lookup(name).unwrap();
            let mut record = self.start(&path, &stat, dir, Some(name));
            match stat.kind {
                Kind::Dir => {
                    self.records.push(record);
                    let inner = dir.open_dir(name).unwrap();
                    self.below(&[&path[..], b"/"].concat(), &inner);
                    continue;
                }
                Kind::File => {
                    let file = dir.open_file(name, Access::Read).unwrap();
                    assert_eq!(file.len(), stat.size, "{}", escape(&path));
                    content(&file, &mut record);
                }
                Kind::Symlink => {
                    let target = dir.read_link(name).unwrap();
                    assert_eq!(target.len() as u64, stat.size);
                    record["target"] = escape(&target).into();
                }
                _ => {}
            }
            self.records.push(record);
        }
    }

    fn start(&mut self, path: &[u8], stat: &Stat, dir: &Dir, name: Option<&[u8]>) -> Value {
        let kind = match stat.kind {
            Kind::File => "file",
            Kind::Dir => "directory",
            Kind::Symlink => "symlink",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::CharDevice => "character device",
            Kind::BlockDevice => "block device",
        };
        let mut xattrs = serde_json::Map::new();
        for attribute in dir.list_xattr(name).unwrap() {
            let value = dir.get_xattr(name, &attribute).unwrap();
            xattrs.insert(escape(&attribute), escape(&value).into());
        }
        let mode = format!("{:04o}", stat.mode);
        let mut record =
            json!({"path": escape(path), "kind": kind, "mode": mode, "xattrs": xattrs});
        if stat.kind != Kind::Dir {
            record["nlink"] = stat.nlink.into();
            let first = self.first_paths.entry(stat.ino).or_insert_with(|| path.to_vec());
            if first != path {
                record["same_as"] = escape(first).into();
            }
        }
        record
    }
}

fn content(file: &File, record: &mut Value) {
    record["size"] = file.len().into();
    if file.len() <= WHOLE_HASH_MAX {
        record["sha256"] = hash(file, 0, file.len()).into();
        return;
    }
    let mut extents: Vec<Value> = vec![];
    let mut at = 0;
    loop {
        let begin = match file.seek(at, Seek::Data) {
            Ok(begin) => begin,
            Err(FileError::Sys(rustix::io::Errno::NXIO)) => break,
            Err(error) => panic!("{error}"),
        };
        at = file.seek(begin, Seek::Hole).unwrap();
        extents.push(json!([begin, at - begin, hash(file, begin, at)]));
    }
    record["extents"] = extents.into();
}

fn hash(file: &File, mut at: u64, end: u64) -> String {
    let mut digest = Sha256::new();
    while at < end {
        let len = STEP.min(usize::try_from(end - at).expect("64-bit"));
        let data = file.read(at, len).unwrap();
        assert_eq!(data.len(), len);
        digest.update(&data[..]);
        at += len as u64;
    }
    HEXLOWER.encode(&digest.finalize())
}
