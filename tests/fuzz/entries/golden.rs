//! The volume under whose keys inputs are opened: `tests/golden/block-16384`, with a test key that
//! is open to everybody. All that it sealed and that is among the seeds is listed here, so that
//! anything else that opens is a forgery.

use std::sync::OnceLock;

use cmkfs::cipher::{DirCipher, FileCipher, Secret, SegmentCipher, VolumeKeys, unwrap_secret};
use cmkfs::format::journal::{self, HEAD_BOUND_LEN};
use cmkfs::format::node::TAG_LEN;
use cmkfs::format::{Descriptor, DirId, Epoch, descriptor, directory, header};
use cmkfs::keys::Context;
use data_encoding::BASE64;

/// `volume.json`.
pub const VOLUME: &[u8] = include_bytes!("../seeds/descriptor/block-16384");
/// Headers, without what follows their payload.
pub const HEADERS: [&[u8]; 8] = [
    include_bytes!("../seeds/header/empty"),
    include_bytes!("../seeds/header/inline"),
    include_bytes!("../seeds/header/inline-full"),
    include_bytes!("../seeds/header/levels-0"),
    include_bytes!("../seeds/header/levels-1"),
    include_bytes!("../seeds/header/levels-2"),
    LARGE,
    include_bytes!("../seeds/header/epoch-2"),
];
/// The header of the file that [`NODES`] are of.
pub const LARGE: &[u8] = include_bytes!("../seeds/header/levels-3");
/// Nodes, in the form that `node` takes.
pub const NODES: [&[u8]; 3] = [
    include_bytes!("../seeds/node/level-0"),
    include_bytes!("../seeds/node/level-1"),
    include_bytes!("../seeds/node/level-2"),
];
/// A segment of the journal: its head up to the end of its tag, then its records.
pub const SEGMENT: &[u8] = include_bytes!("../seeds/journal/segment");
/// Slots of `sessions`.
pub const SLOTS: [&[u8]; 3] = [
    include_bytes!("../seeds/sessions/open"),
    include_bytes!("../seeds/sessions/ended"),
    include_bytes!("../seeds/sessions/full"),
];
/// The marker of the root.
pub const ROOT_MARKER: &[u8] = include_bytes!("../seeds/name/marker");
/// Envelopes of targets of symbolic links.
pub const LINKS: [&[u8]; 2] =
    [include_bytes!("../seeds/name/link"), include_bytes!("../seeds/name/link-epoch-2")];
/// Envelope of an attribute of the root.
pub const ATTRIBUTE: &[u8] = include_bytes!("../seeds/name/attribute");
/// The name of that attribute.
pub const ATTRIBUTE_NAME: &[u8] = b"user.of";

/// Bytes of a segment's head that are not padding.
pub const HEAD_LEN: usize = HEAD_BOUND_LEN + TAG_LEN;

const KEY_FILE: &[u8; 32] = include_bytes!("../../golden/block-16384.key");
/// The slot that the key file opens; the other one is of a KMS key that is not there.
const SLOT: usize = 1;

/// What `volume.json` says.
pub fn volume() -> Descriptor {
    descriptor::decode(VOLUME).expect("the golden volume")
}

/// The volume key.
pub fn volume_key() -> Secret {
    let volume = volume();
    let context = Context { volume_id: volume.volume_id, pairs: &volume.context }.canonical();
    let wrapped = BASE64.decode(volume.slots[SLOT].wrapped.as_bytes()).expect("base64");
    let key_file = Secret::take(&mut KEY_FILE.clone()).expect("32 bytes");
    unwrap_secret(&key_file, &context, &wrapped).expect("the slot's key")
}

/// All keys of the volume.
pub fn keys() -> &'static VolumeKeys {
    static KEYS: OnceLock<VolumeKeys> = OnceLock::new();
    KEYS.get_or_init(|| VolumeKeys::open(&volume_key(), &volume()).expect("the golden volume"))
}

/// The key of another volume.
pub fn other_key() -> &'static Secret {
    static KEY: OnceLock<Secret> = OnceLock::new();
    KEY.get_or_init(|| Secret::take(&mut [7; 32]).expect("32 bytes"))
}

/// All keys of another volume, which knows the same epochs. What an entry seals itself is sealed
/// under these: libFuzzer looks at what is compared, so that it may well come upon it again.
pub fn other_keys() -> &'static VolumeKeys {
    static KEYS: OnceLock<VolumeKeys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let (key, mut volume) = (other_key(), volume());
        volume.epochs.clear();
        for epoch in [1, 2] {
            VolumeKeys::add_epoch(key, &mut volume, Epoch(epoch));
        }
        VolumeKeys::authenticate(key, &mut volume);
        VolumeKeys::open(key, &volume).expect("just authenticated")
    })
}

/// The cipher of the file that [`NODES`] are of.
pub fn large() -> &'static FileCipher {
    static CIPHER: OnceLock<FileCipher> = OnceLock::new();
    CIPHER.get_or_init(|| {
        let (prefix, _) = header::decode(LARGE).expect("a header");
        keys()
            .open_file(prefix.epoch, prefix.file_id, &prefix.wrapped_key)
            .expect("a file of the golden volume")
    })
}

/// The names of the root.
pub fn root() -> &'static DirCipher {
    static CIPHER: OnceLock<DirCipher> = OnceLock::new();
    CIPHER.get_or_init(|| {
        let (epoch, id, tag) = directory::decode(ROOT_MARKER).expect("a marker");
        keys().open_marker(epoch, id, &tag).expect("a directory of the golden volume")
    })
}

/// The names of a directory of the other volume.
pub fn other_root() -> &'static DirCipher {
    static CIPHER: OnceLock<DirCipher> = OnceLock::new();
    CIPHER.get_or_init(|| {
        let sealed = other_keys().new_marker(DirId([9; 16]));
        let (epoch, id, tag) = directory::decode(sealed.as_bytes()).expect("a marker");
        other_keys().open_marker(epoch, id, &tag).expect("just sealed")
    })
}

/// What authenticates the records of [`SEGMENT`].
pub fn segment() -> &'static SegmentCipher {
    static CIPHER: OnceLock<SegmentCipher> = OnceLock::new();
    CIPHER.get_or_init(|| {
        let (head, tag) = journal::decode_head(SEGMENT).expect("a head");
        keys().open_segment(&head, &tag).expect("a segment of the golden volume")
    })
}
