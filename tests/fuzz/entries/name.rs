//! What lies in a stored directory beside its files: names and sidecars, the directory's marker,
//! lower symbolic links, envelopes of link targets and of attributes.

use cmkfs::cipher::Owner;
use cmkfs::format::directory::{self, LINK_LEN, MARKER_LEN};
use cmkfs::format::envelope::{self, REFERENCE};
use cmkfs::format::name::{self as names, NAME_MAX, PAD_LEN, SIDECAR_LEN_MAX, Stored};
use cmkfs::format::{DirId, FileId};
use cmkfs::store::{LinkContent, LinkText, parse_link};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use super::edit::Edit;
use super::golden;

/// The bytes as each of them, and as an edit and something to be sealed.
pub fn name(bytes: &[u8]) {
    file_name(bytes);
    padded(bytes);
    sealed_name(bytes);
    marker(bytes);
    link(bytes);
    enveloped(bytes);
    let (edit, plain) = Edit::take(bytes);
    seal_name(edit, plain);
    seal_marker(edit);
    seal_link(edit, plain);
    seal_attribute(edit, plain);
}

/// Whether a file can have this name.
fn is_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
        && !matches!(name, b"." | b"..")
}

fn file_name(bytes: &[u8]) {
    let decoded = names::decode(bytes);
    if !is_name(bytes) {
        return;
    }
    match decoded {
        Stored::Direct(sealed) => {
            assert_eq!(names::encode(&sealed), (bytes.to_vec(), None));
            sealed_name(&sealed);
        }
        Stored::Long { sidecar } => {
            assert!(is_name(&sidecar));
            assert_eq!(names::decode(&sidecar), Stored::Sidecar);
        }
        Stored::Marker => assert_eq!(bytes, directory::MARKER_NAME),
        Stored::Sidecar | Stored::Temporary | Stored::Foreign => {}
    }
}

fn padded(bytes: &[u8]) {
    if let Some(name) = names::unpad(bytes) {
        assert!(is_name(name));
        assert_eq!(names::pad(name), bytes);
    }
    let padded = names::pad(bytes);
    assert!(padded.len().is_multiple_of(PAD_LEN) && padded.len() < bytes.len() + PAD_LEN);
    if is_name(bytes) {
        assert_eq!(names::unpad(&padded), Some(bytes));
    }
}

/// Names are sealed alike each time, so that what opens can be sealed again and compared.
fn sealed_name(sealed: &[u8]) {
    let Some((name, stored)) = golden::root().open_name(sealed) else { return };
    assert!(is_name(&name) && sealed.len() <= SIDECAR_LEN_MAX);
    assert_eq!(golden::root().seal_name(&name), stored, "forged name");
}

fn marker(bytes: &[u8]) {
    if let Ok((epoch, id, tag)) = directory::decode(bytes) {
        let again = [&directory::encode_bound(epoch, id)[..], &tag].concat();
        assert_eq!(again, bytes);
        let opened = golden::keys().open_marker(epoch, id, &tag);
        assert!(opened.is_none() || bytes == golden::ROOT_MARKER, "forged marker");
    }
    if let Ok((epoch, id, tag)) = directory::decode_link(bytes) {
        let again = [&directory::encode_bound(epoch, id)[..], &tag].concat();
        let again: &[u8; MARKER_LEN] = again.first_chunk().expect("bound bytes and tag");
        assert!(directory::encode_link(again).as_bytes() == bytes && bytes.len() == LINK_LEN);
        assert_eq!(parse_link(bytes), None, "a marker is no link");
        marker(again);
    }
}

fn link(text: &[u8]) {
    match parse_link(text) {
        Some(LinkContent::Envelope(bytes)) => {
            assert_eq!(BASE64URL_NOPAD.encode(&bytes).as_bytes(), text);
            enveloped(&bytes);
        }
        Some(LinkContent::Reference(name)) => {
            assert_eq!([REFERENCE.as_bytes(), name.as_bytes()].concat(), text);
            let id = HEXLOWER.decode(name.as_bytes()).expect("hexadecimal digits");
            let (_, again) = LinkText::reference(id[..].try_into().expect("an id"));
            assert_eq!(again, name);
        }
        None => {}
    }
}

fn enveloped(bytes: &[u8]) {
    if let Some((epoch, entry, ciphertext)) = envelope::decode(bytes) {
        assert_eq!(envelope::encode(epoch, &entry, ciphertext), bytes);
    }
    if golden::keys().open_link(bytes).is_some() {
        assert!(golden::LINKS.contains(&bytes), "forged link");
    }
    let (owner, stored) = (Owner::Dir(golden::root().id()), attribute_name());
    if let Some((name, _)) = golden::keys().open_attribute(owner, stored.as_bytes(), bytes) {
        assert_eq!(bytes, golden::ATTRIBUTE, "forged attribute");
        assert_eq!(name, golden::ATTRIBUTE_NAME);
    }
}

fn attribute_name() -> String {
    golden::keys().attribute_name(golden::ATTRIBUTE_NAME)
}

fn seal_name(edit: Edit, plain: &[u8]) {
    let plain = &plain[..plain.len().min(NAME_MAX)];
    if !is_name(plain) {
        return;
    }
    let (dir, other) = (golden::other_root(), golden::root());
    let stored = dir.seal_name(plain);
    let sealed = match (names::decode(stored.object()), stored.sidecar()) {
        (Stored::Direct(sealed), None) => sealed,
        (Stored::Long { sidecar }, Some((name, sealed))) if sidecar == name => sealed.to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(dir.open_name(&sealed), Some((plain.to_vec(), stored)));
    assert_eq!(other.open_name(&sealed), None, "opens in another directory");
    assert_eq!(dir.open_name(&edit.of(&sealed)), None, "{edit:?}");
}

fn seal_marker(edit: Edit) {
    let id = DirId([edit.byte(); 16]);
    let keys = golden::other_keys();
    let sealed = keys.new_marker(id);
    let (epoch, _, tag) = directory::decode(sealed.as_bytes()).expect("a marker");
    assert!(keys.open_marker(epoch, id, &tag).is_some_and(|names| names.id() == id));
    assert!(golden::keys().open_marker(epoch, id, &tag).is_none(), "opens in another volume");
    if let Ok((epoch, id, tag)) = directory::decode(&edit.of(sealed.as_bytes())) {
        assert!(keys.open_marker(epoch, id, &tag).is_none(), "{edit:?} of marker");
    }
}

fn seal_link(edit: Edit, target: &[u8]) {
    let keys = golden::other_keys();
    let sealed = keys.seal_link(target);
    assert_eq!(keys.open_link(sealed.as_bytes()).expect("what was sealed")[..], *target);
    assert!(golden::keys().open_link(sealed.as_bytes()).is_none(), "opens in another volume");
    assert!(keys.open_link(&edit.of(sealed.as_bytes())).is_none(), "{edit:?} of link");
}

fn seal_attribute(edit: Edit, plain: &[u8]) {
    let (name, value) = plain.split_at(plain.len().min(usize::from(edit.byte())));
    let (keys, owner) = (golden::other_keys(), Owner::File(FileId([7; 16])));
    let sealed = keys.seal_attribute(owner, name, value);
    let (stored, sealed) = (keys.attribute_name(name), sealed.as_bytes());
    let open =
        |owner, stored: &str, bytes: &[u8]| keys.open_attribute(owner, stored.as_bytes(), bytes);
    let (name_again, value_again) = open(owner, &stored, sealed).expect("what was sealed");
    assert!(name_again == name && value_again[..] == *value);
    for other in [Owner::File(FileId([8; 16])), Owner::Dir(DirId([7; 16])), Owner::Other] {
        assert!(open(other, &stored, sealed).is_none(), "opens as one of {other:?}");
    }
    if name != golden::ATTRIBUTE_NAME {
        let other = keys.attribute_name(golden::ATTRIBUTE_NAME);
        assert!(open(owner, &other, sealed).is_none(), "opens by another name");
    }
    assert!(open(owner, &stored, &edit.of(sealed)).is_none(), "{edit:?} of attribute");
    assert!(keys.open_link(sealed).is_none(), "an attribute is no link");
}
