//! Slots of `sessions`. An input stands for a slot, or for an edit and a window to be added.

use cmkfs::format::sessions::{self, Made, SLOT_LEN, Sessions, WINDOWS_MAX, Window};

use super::edit::Edit;
use super::golden;

/// The bytes as a slot, and as an edit and windows to be sealed.
pub fn sessions(bytes: &[u8]) {
    if let Some((said, tag)) = sessions::decode(bytes) {
        assert_eq!([&sessions::encode(&said)[..], &tag].concat(), bytes[..SLOT_LEN]);
        bounds(&said);
        if golden::keys().check_sessions(&said, &tag).is_ok() {
            assert!(golden::SLOTS.contains(&&bytes[..SLOT_LEN]), "forged slot");
        }
        with_more(said, bytes);
    }
    let (edit, rest) = Edit::take(bytes);
    let said = with_more(Sessions::new(golden::other_keys().current(), edit.distance()), rest);
    let slot = golden::other_keys().seal_sessions(&said);
    let (again, tag) = sessions::decode(slot.as_bytes()).expect("what was sealed decodes");
    assert_eq!(again, said);
    assert!(golden::other_keys().check_sessions(&again, &tag).is_ok(), "what was sealed opens");
    assert!(golden::keys().check_sessions(&again, &tag).is_err(), "opens in another volume");
    let edited = edit.of(slot.as_bytes());
    if let Some((said, tag)) = sessions::decode(&edited)
        && edited[..SLOT_LEN] != slot.as_bytes()[..]
    {
        let opens = golden::other_keys().check_sessions(&said, &tag).is_ok();
        assert!(!opens, "{edit:?} of a slot");
    }
}

fn bounds(said: &Sessions) {
    let windows = said.windows();
    assert!(windows.len() <= WINDOWS_MAX);
    assert!(windows.iter().all(|window| window.since <= window.until));
    assert!(windows.windows(2).all(|pair| pair[0].until < pair[1].since), "in order, apart");
}

/// Windows from the input, and a session that ends; what was covered stays so.
fn with_more(mut said: Sessions, bytes: &[u8]) -> Sessions {
    let number = |at: usize| {
        let field = bytes.get(at * 8..at * 8 + 8).and_then(|field| field.first_chunk());
        u64::from_le_bytes(*field.unwrap_or(&[0; 8]))
    };
    let seen: Vec<u64> = said.windows().iter().map(|window| window.since).collect();
    for at in 0..bytes.len() / 16 {
        let (since, until) = (number(2 * at), number(2 * at + 1));
        said.add(Window { since, until, in_place: since % 2 == 0 });
        assert!(said.cover(Made { born: None, written: since }));
        assert!(said.cover(Made { born: Some(until), written: until }));
    }
    let ino = said.ino;
    said.close(number(0), [1; 16], ino);
    bounds(&said);
    assert!(seen.iter().all(|time| said.cover(Made { born: None, written: *time })));
    said
}
