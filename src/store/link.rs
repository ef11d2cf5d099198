//! The text of a lower symbolic link: a sealed target, the name of a file that has it, or a marker.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use crate::cipher::Sealed;
use crate::format::directory;
use crate::format::envelope::REFERENCE;

/// Text that a lower symbolic link may hold: made of something sealed, or of a random name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkText(pub(in crate::store) Vec<u8>);

/// What a lower symbolic link says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkContent {
    /// An envelope.
    Envelope(Vec<u8>),
    /// Name of a file under `links/` that holds the envelope.
    Reference(String),
}

impl LinkText {
    /// A marker of a directory.
    ///
    /// # Panics
    /// If it is something else.
    pub fn marker(sealed: &Sealed) -> Self {
        let marker = sealed.as_bytes().try_into().expect("a marker has one length");
        Self(directory::encode_link(marker).into_bytes())
    }

    /// The sealed target itself.
    pub fn direct(sealed: &Sealed) -> Self {
        Self(BASE64URL_NOPAD.encode(sealed.as_bytes()).into_bytes())
    }

    /// A reference to a file under `links/`, and that file's name.
    pub fn reference(id: &[u8; 16]) -> (Self, String) {
        let name = HEXLOWER.encode(id);
        (Self(format!("{REFERENCE}{name}").into_bytes()), name)
    }
}

/// Reads a lower link's text; `None` if it is none of ours. Never panics.
pub fn parse_link(text: &[u8]) -> Option<LinkContent> {
    if let Some(name) = text.strip_prefix(REFERENCE.as_bytes()) {
        let valid = name.len() == 32 && HEXLOWER.decode(name).is_ok();
        let name = valid.then(|| String::from_utf8_lossy(name).into_owned())?;
        return Some(LinkContent::Reference(name));
    }
    BASE64URL_NOPAD.decode(text).ok().map(LinkContent::Envelope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_parse_back() {
        let (text, name) = LinkText::reference(&[0xAB; 16]);
        assert_eq!(parse_link(&text.0), Some(LinkContent::Reference(name)));
        let upper = b"=ABABABABABABABABABABABABABABABAB";
        for odd in [&upper[..], b"=", b"=../../etc/passwd", b"=ABC", b"a/b", b"/etc/passwd"] {
            assert_eq!(parse_link(odd), None, "{odd:?}");
        }
    }
}
