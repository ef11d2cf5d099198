//! A disk that is full while the volume is served.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cmkfs::store::{Op, Watch};
use rustix::io::Errno;

/// A disk without any room left: no file gets longer.
#[derive(Debug)]
pub(crate) struct Full {
    store: PathBuf,
    is_full: AtomicBool,
}

fn len_of(dir: &Path, ino: u64) -> Option<u64> {
    fs::read_dir(dir).unwrap().map(Result::unwrap).find_map(|entry| {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            len_of(&entry.path(), ino)
        } else {
            (meta.ino() == ino).then_some(meta.len())
        }
    })
}

impl Watch for Full {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        let end = match *op {
            Op::Write { file, offset, bytes } => Some((file, offset + bytes.len() as u64)),
            Op::SetLen { file, len } => Some((file, len)),
            _ => None,
        };
        if let Some((file, end)) = end
            && self.is_full.load(Ordering::Relaxed)
            && len_of(&self.store, file).is_some_and(|len| end > len)
        {
            return Err(Errno::NOSPC);
        }
        run().map(drop)
    }
}

impl Full {
    pub(crate) fn below(store: &Path) -> Arc<Self> {
        Arc::new(Self { store: store.to_owned(), is_full: AtomicBool::new(true) })
    }

    pub(crate) fn set(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }
}
