//! A throwaway volume, without a mount and without a key provider.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::path::Path;
use std::sync::Arc;

use cmkfs::cipher::{Secret, VolumeKeys, VolumeKeysError};
use cmkfs::file::{Creator, FileError, Volume, VolumeOptions};
use cmkfs::format::descriptor::{FORMAT, VERSION};
use cmkfs::format::{Descriptor, DirId, Epoch, Features, VolumeId};
use cmkfs::store::{Store, Watch};
use data_encoding::BASE64URL_NOPAD;

/// Makes of a stored directory's marker what earlier releases made: a file.
pub fn age_marker(stored_dir: &Path) {
    let marker = stored_dir.join("dir.cmkfs");
    let text = std::fs::read_link(&marker).unwrap().into_os_string().into_string().unwrap();
    let fields = BASE64URL_NOPAD.decode(text.strip_prefix("cmkdir1.").unwrap().as_bytes()).unwrap();
    std::fs::remove_file(&marker).unwrap();
    std::fs::write(&marker, [b"cmkdir\n\0\x01\0\0\0", &fields[..]].concat()).unwrap();
}

/// Whoever runs the test.
pub const ME: Creator = Creator { uid: 0, gid: 0 };

/// A volume that can be closed and opened again.
pub struct Throwaway {
    key: Secret,
    pub dir: tempfile::TempDir,
}

impl Throwaway {
    /// Makes a volume with blocks of `block_size` bytes.
    pub fn new(block_size: u64) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), block_size)
    }

    pub fn in_dir(dir: tempfile::TempDir, block_size: u64) -> Self {
        let key = Secret::random();
        let store = Store::create(dir.path()).unwrap();
        let mut descriptor = Descriptor {
            format: FORMAT.into(),
            version: VERSION,
            volume_id: VolumeId([1; 16]),
            created_unix_s: 0,
            block_size,
            root_id: DirId([2; 16]),
            context: Default::default(),
            slots: vec![],
            epochs: vec![],
            features: Features::default(),
            mac: String::new(),
        };
        VolumeKeys::add_epoch(&key, &mut descriptor, Epoch::FIRST);
        VolumeKeys::authenticate(&key, &mut descriptor);
        store.write_descriptor(&descriptor).unwrap();
        let keys = VolumeKeys::open(&key, &descriptor).unwrap();
        Volume::format(&store, &keys, descriptor.root_id).unwrap();
        Self { key, dir }
    }

    /// The keys that this descriptor gives under this volume's key.
    pub fn keys(&self, descriptor: &Descriptor) -> Result<VolumeKeys, VolumeKeysError> {
        VolumeKeys::open(&self.key, descriptor)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn open(&self) -> Arc<Volume> {
        self.open_with(&VolumeOptions::default())
    }

    pub fn open_with(&self, options: &VolumeOptions) -> Arc<Volume> {
        self.open_at(self.path(), options)
    }

    /// Opens a copy of it.
    pub fn open_at(&self, path: &Path, options: &VolumeOptions) -> Arc<Volume> {
        self.open_store(&Store::open(path).unwrap(), options).unwrap()
    }

    /// Opens it with its calls to the disk going through `watch`.
    pub fn open_watched(
        &self,
        watch: Arc<dyn Watch>,
        options: &VolumeOptions,
    ) -> Result<Arc<Volume>, FileError> {
        self.open_store(&Store::open_watched(self.path(), watch).unwrap(), options)
    }

    /// Opens the volume of a store, with recovery if it needs some.
    pub fn open_store(
        &self,
        store: &Store,
        options: &VolumeOptions,
    ) -> Result<Arc<Volume>, FileError> {
        let descriptor = store.read_descriptor().unwrap();
        let keys = VolumeKeys::open(&self.key, &descriptor).unwrap();
        Volume::open(store, keys, &descriptor, options)
    }
}
