//! `key audit`: what this machine asked AWS for a volume's keys, and how to find it, and what other
//! machines asked, in CloudTrail. Names of fields are part of the command's promise.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::format::VolumeId;
use crate::keys::{self, CallRecord, Recorded};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::locate::{describe, locate};

/// What is said with every audit.
pub const BOUNDS: &str = "calls that this user made on this machine, the latest some 16000; calls \
                          of other users, machines and containers are in CloudTrail alone";

/// Calls for the keys of a volume.
#[derive(Debug, Serialize)]
pub struct Audit {
    /// Id of the volume.
    pub volume_id: VolumeId,
    /// Where the calls are recorded, mode 0600; the older ones beside it with `.1`.
    pub record: PathBuf,
    /// What the record can't know.
    pub bounds: &'static str,
    /// In the order in which they were made.
    pub calls: Vec<CallRecord>,
    /// Lines of the record that can't be read.
    pub unreadable: usize,
    /// Shell commands that show what CloudTrail has of this volume, of every machine, one a key.
    /// Events come there some minutes after the call, and stay 90 days.
    pub lookups: Vec<String>,
}

/// The calls for a volume: one that is there, or by its id also one that was.
///
/// # Errors
/// No volume there, or a record that can't be read.
pub fn audit(volume: &Path) -> Result<Audit, VerbError> {
    let id = volume.to_str().and_then(|text| text.parse::<VolumeId>().ok());
    let (volume_id, slots) = match id {
        Some(id) if !volume.exists() => (id, Vec::new()),
        _ => {
            let (_, descriptor) = describe(&locate(volume)?.store)?;
            (descriptor.volume_id, descriptor.slots)
        }
    };
    let record = keys::kept_calls(volume_id)
        .unwrap_or_else(|| crate::config::calls_dir().join(format!("{volume_id}.jsonl")));
    let Recorded { calls, unreadable } =
        keys::calls_of(&record).map_err(VerbError::local(&record, "can't read the record"))?;
    let named = slots.into_iter().map(|slot| slot.key);
    let asked = calls.iter().flat_map(|call| [call.key_id.clone(), call.source_key_id.clone()]);
    let arns: BTreeSet<String> = named.chain(asked.flatten()).collect();
    let lookups = arns.iter().filter_map(|arn| lookup(arn, volume_id)).collect();
    Ok(Audit { volume_id, record, bounds: BOUNDS, calls, unreadable, lookups })
}

/// CloudTrail finds events by one attribute only; what is wanted is then looked for in their text:
/// of a KMS key the volume, of a secret, whose events know of no volume, the secret.
fn lookup(arn: &str, volume_id: VolumeId) -> Option<String> {
    // What is no ARN came from an edited volume.json, and may be words of a shell.
    let (attribute, part) = if keys::is_key_arn(arn) {
        (format!("ResourceName,AttributeValue={arn}"), volume_id.to_string())
    } else if keys::is_secret_arn(arn) {
        ("EventName,AttributeValue=GetSecretValue".to_owned(), arn.to_owned())
    } else {
        return None;
    };
    let region = arn.split(':').nth(3)?;
    Some(format!(
        "aws cloudtrail lookup-events --region {region} --lookup-attributes \
         AttributeKey={attribute} --query \
         \"Events[?contains(CloudTrailEvent, '{part}')].CloudTrailEvent\" --output text"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_arn_of_a_key_gets_into_a_command() {
        let id = VolumeId([0xab; 16]);
        let arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd";
        let line = lookup(arn, id).unwrap();
        assert!(line.contains(&format!("AttributeValue={arn} ")), "{line}");
        assert!(line.contains("--region eu-west-1 ") && line.contains(&"ab".repeat(16)), "{line}");
        let secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ml/x-AbCdEf";
        let line = lookup(secret, id).unwrap();
        assert!(line.contains(&format!("'{secret}'")) && line.contains("GetSecretValue"), "{line}");
        for odd in [
            "alias/x",
            "/home/a/key",
            "arn:aws:kms:eu-west-1:123456789012:alias/x",
            "arn:aws:kms:eu-west-1:123456789012:key/$(reboot)",
            "arn:aws:kms:;reboot;:123456789012:key/x",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:x'",
        ] {
            assert_eq!(lookup(odd, id), None);
        }
    }
}
