//! What the benches begin with.

use cmkfs::cipher::{Secret, VolumeKeys};
use cmkfs::format::descriptor::{Descriptor, FORMAT, Features, VERSION};
use cmkfs::format::{BlockSize, DirId, Epoch, VolumeId};

/// A new volume's description and its keys.
pub(crate) fn new_volume() -> (Descriptor, VolumeKeys) {
    let volume_key = Secret::random();
    let mut descriptor = Descriptor {
        format: FORMAT.into(),
        version: VERSION,
        volume_id: VolumeId([1; 16]),
        created_unix_s: 0,
        block_size: BlockSize::DEFAULT.bytes(),
        root_id: DirId([2; 16]),
        context: Default::default(),
        slots: vec![],
        epochs: vec![],
        features: Features::default(),
        mac: String::new(),
    };
    VolumeKeys::add_epoch(&volume_key, &mut descriptor, Epoch::FIRST);
    VolumeKeys::authenticate(&volume_key, &mut descriptor);
    let keys = VolumeKeys::open(&volume_key, &descriptor).expect("just made");
    (descriptor, keys)
}
