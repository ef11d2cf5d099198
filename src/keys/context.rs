//! The encryption context: what a wrapped volume key is bound to. KMS shows it in CloudTrail and
//! its key policies can demand it; it is no secret.

use std::collections::BTreeMap;

use crate::format::VolumeId;
use crate::keys::error::KeyError;

/// The pair that every volume has: its id, as hexadecimal digits.
pub const VOLUME_ID: &str = "cmkfs:volume-id";
/// User pairs that a volume may have. AWS documents 8 KiB in all and no number; eight can be shown
/// whole in a policy and in an error.
pub const CONTEXT_PAIRS_MAX: usize = 8;
/// Length of [`Context::canonical`]: half of what KMS takes.
pub const CONTEXT_BYTES_MAX: usize = 4096;
/// Prefixes kept for this program and for AWS.
const RESERVED: [&str; 2] = ["cmkfs:", "aws:"];

/// What a volume key is bound to: the volume's id and the pairs that the user gave at `init`.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The volume.
    pub volume_id: VolumeId,
    /// The user's pairs, `context` of `volume.json`.
    pub pairs: &'a BTreeMap<String, String>,
}

impl Context<'_> {
    /// All pairs. The volume's id stands above a user pair of the same name, which only a forged
    /// `volume.json` can have.
    pub fn all(&self) -> BTreeMap<String, String> {
        let mut all = self.pairs.clone();
        all.insert(VOLUME_ID.to_owned(), self.volume_id.to_string());
        all
    }

    /// The associated data of a wrapping under a key file: one JSON object, keys sorted by their
    /// bytes, no white space, UTF-8.
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(&self.all()).expect("a map of strings has a JSON form")
    }
}

/// Whether a volume may be made with these user pairs.
///
/// # Errors
/// [`KeyError::Context`], naming the pair: more than [`CONTEXT_PAIRS_MAX`], an empty name or value,
/// anything but printable ASCII, a name that begins `cmkfs:` or `aws:`, or more than
/// [`CONTEXT_BYTES_MAX`] in all.
pub fn check_user_pairs(pairs: &BTreeMap<String, String>) -> Result<(), KeyError> {
    let refuse = |reason: String| Err(KeyError::Context(reason));
    if pairs.len() > CONTEXT_PAIRS_MAX {
        return refuse(format!("{} pairs; wanted at most {CONTEXT_PAIRS_MAX}", pairs.len()));
    }
    for (name, value) in pairs {
        for (what, text) in [("name", name), ("value", value)] {
            if text.is_empty() {
                return refuse(format!("{name:?}={value:?} has an empty {what}"));
            }
            if let Some(odd) = text.chars().find(|c| !matches!(c, ' '..='~')) {
                return refuse(format!("{name:?}={value:?}: {odd:?} is not printable ASCII"));
            }
        }
        let lower = name.to_ascii_lowercase();
        if let Some(prefix) = RESERVED.iter().find(|prefix| lower.starts_with(**prefix)) {
            return refuse(format!("{name:?}: names that begin {prefix:?} are kept; take another"));
        }
    }
    let length = Context { volume_id: VolumeId([0; 16]), pairs }.canonical().len();
    if length > CONTEXT_BYTES_MAX {
        return refuse(format!("{length} bytes as JSON; wanted at most {CONTEXT_BYTES_MAX}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Associated data of stored bytes: if this fails, volumes with key files no longer open.
    #[test]
    fn canonical_bytes_never_change() {
        let pairs = pairs([("team", "a \"b\" \\"), ("Z", "1")]);
        let context = Context { volume_id: VolumeId([0x1f; 16]), pairs: &pairs };
        let id = "1f".repeat(16);
        let wanted = format!(r#"{{"Z":"1","cmkfs:volume-id":"{id}","team":"a \"b\" \\"}}"#);
        assert_eq!(String::from_utf8(context.canonical()).unwrap(), wanted);
    }

    #[test]
    fn a_forged_pair_does_not_replace_the_volume_id() {
        let pairs = pairs([(VOLUME_ID, "other")]);
        let context = Context { volume_id: VolumeId([2; 16]), pairs: &pairs };
        assert_eq!(context.all()[VOLUME_ID], "02".repeat(16));
    }

    #[test]
    fn good_pairs_pass_and_each_rule_is_kept() {
        let many = |count: usize| (0..count).map(|i| (format!("k{i}"), "v".to_owned())).collect();
        check_user_pairs(&pairs([])).unwrap();
        check_user_pairs(&pairs([("team", "vision ~"), ("aws", "x"), ("cmkfs", "y")])).unwrap();
        check_user_pairs(&many(CONTEXT_PAIRS_MAX)).unwrap();
        let fill = CONTEXT_BYTES_MAX
            - Context { volume_id: VolumeId([0; 16]), pairs: &pairs([]) }.canonical().len()
            - r#","k":"""#.len();
        check_user_pairs(&pairs([("k", &"v".repeat(fill))])).unwrap();

        for (bad, wanted) in [
            (many(CONTEXT_PAIRS_MAX + 1), "9 pairs"),
            (pairs([("", "v")]), "empty name"),
            (pairs([("k", "")]), "empty value"),
            (pairs([("k", "a\nb")]), "printable"),
            (pairs([("\u{e9}", "b")]), "printable"),
            (pairs([("k", "\u{7f}")]), "printable"),
            (pairs([("cmkfs:x", "v")]), "cmkfs:"),
            (pairs([("AWS:ebs:id", "v")]), "aws:"),
            (pairs([("k", &"v".repeat(fill + 1))]), "4097 bytes"),
        ] {
            let error = check_user_pairs(&bad).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}: wanted {wanted:?}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
