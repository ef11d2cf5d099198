//! Grants: KMS lets another principal use the key, for one volume's encryption context only. KMS
//! itself keeps them; what it lists is what there is.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use aws_sdk_kms::Client;
use aws_sdk_kms::types::{GrantConstraints, GrantListEntry, GrantOperation};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::keys::call::{CREATE_GRANT, Call, LIST_GRANTS, RETIRE_GRANT, REVOKE_GRANT};
use crate::keys::context::{Context, VOLUME_ID};
use crate::keys::error::KeyError;
use crate::keys::policies::Principal;

/// What a grant may allow: what uses a volume's wrapped key, tells of the KMS key, or ends the
/// grant.
const OPERATIONS: [&str; 7] = [
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "ReEncryptFrom",
    "ReEncryptTo",
    "DescribeKey",
    "RetireGrant",
];
/// Grants in an answer.
const PAGE: i32 = 100;

/// One operation, as KMS names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Operation(String);

impl Operation {
    /// What a mount takes.
    pub fn decrypt() -> Self {
        Self(OPERATIONS[0].to_owned())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if OPERATIONS.contains(&text) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "{text:?} is no operation for a grant; wanted some of {}",
            OPERATIONS.join(", ")
        ))
    }
}

/// A grant to be made.
#[derive(Debug)]
pub struct GrantWish<'a> {
    /// ARN of the KMS key.
    pub key: &'a str,
    /// Who is to be allowed.
    pub to: &'a Principal,
    /// What.
    pub operations: &'a [Operation],
    /// Who may retire it, besides whoever may revoke it.
    pub retire_by: Option<&'a Principal>,
}

impl GrantWish<'_> {
    /// Name of the grant: the same wish has the same, and KMS makes such a grant once.
    pub fn name(&self, context: &Context<'_>) -> String {
        let mut operations = self.operations.to_vec();
        operations.sort();
        let wish = serde_json::json!([
            self.to.to_string(),
            operations,
            self.retire_by.map(ToString::to_string),
            context.all(),
        ]);
        let hash = Sha256::digest(wish.to_string().as_bytes());
        let hash = data_encoding::HEXLOWER.encode(&hash[..8]);
        format!("cmkfs-{}-{hash}", context.volume_id)
    }
}

/// A grant that KMS lists, or has just made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// As KMS names it.
    pub id: String,
    /// ARN of the KMS key.
    pub key: String,
    /// Who is allowed.
    pub to: String,
    /// What.
    pub operations: Vec<String>,
    /// The encryption context without which it allows nothing.
    pub encryption_context: BTreeMap<String, String>,
    /// Who may retire it.
    pub retire_by: Option<String>,
    /// When it was made, seconds since 1970 UTC; null if KMS does not tell.
    pub created_unix_s: Option<i64>,
}

/// Makes a grant, by one `CreateGrant`, for exactly the encryption context of a volume. Returns
/// its id; the same wish again gives the same grant.
///
/// # Errors
/// What KMS or the way there says.
pub fn create_grant(wish: &GrantWish<'_>, context: &Context<'_>) -> Result<String, KeyError> {
    let pairs: HashMap<String, String> = context.all().into_iter().collect();
    let constraints =
        GrantConstraints::builder().set_encryption_context_equals(Some(pairs)).build();
    let operations =
        wish.operations.iter().map(|operation| GrantOperation::from(operation.0.as_str()));
    let operations: Vec<GrantOperation> = operations.collect();
    let name = wish.name(context);
    Call::new(CREATE_GRANT, wish.key, context).run(async |call, config| {
        let request = Client::new(&config)
            .create_grant()
            .key_id(wish.key)
            .grantee_principal(wish.to.to_string())
            .set_retiring_principal(wish.retire_by.map(ToString::to_string))
            .set_operations(Some(operations))
            .constraints(constraints)
            .name(name);
        let answer = request.send().await.map_err(|error| call.failed(&error))?;
        answer.grant_id.ok_or_else(|| call.odd("an answer without the id of the grant"))
    })
}

/// The grants on a KMS key that are for this volume's encryption context, by `ListGrants`.
///
/// # Errors
/// What KMS or the way there says.
pub fn list_grants(key: &str, context: &Context<'_>) -> Result<Vec<Grant>, KeyError> {
    let volume = context.volume_id.to_string();
    let all = Call::new(LIST_GRANTS, key, context).run(async |call, config| {
        let client = Client::new(&config);
        let (mut found, mut marker) = (Vec::new(), None);
        loop {
            let request = client.list_grants().key_id(key).limit(PAGE).set_marker(marker);
            let answer = request.send().await.map_err(|error| call.failed(&error))?;
            found.extend(answer.grants.unwrap_or_default());
            marker = answer.next_marker;
            if !answer.truncated || marker.is_none() {
                return Ok(found);
            }
        }
    })?;
    let grants = all.into_iter().filter_map(|entry| of_entry(key, entry));
    Ok(grants.filter(|grant| grant.encryption_context.get(VOLUME_ID) == Some(&volume)).collect())
}

/// `None` for a grant that is bound to no encryption context.
fn of_entry(key: &str, entry: GrantListEntry) -> Option<Grant> {
    let constraints = entry.constraints?;
    let pairs = constraints.encryption_context_equals.or(constraints.encryption_context_subset)?;
    let operations = entry.operations.unwrap_or_default();
    Some(Grant {
        id: entry.grant_id?,
        key: key.to_owned(),
        to: entry.grantee_principal.unwrap_or_default(),
        operations: operations.iter().map(|operation| operation.as_str().to_owned()).collect(),
        encryption_context: pairs.into_iter().collect(),
        retire_by: entry.retiring_principal,
        created_unix_s: entry.creation_date.map(|at| at.secs()),
    })
}

/// Ends a grant, by one `RevokeGrant`: for who manages the key.
///
/// # Errors
/// What KMS or the way there says.
pub fn revoke_grant(key: &str, id: &str, context: &Context<'_>) -> Result<(), KeyError> {
    Call::new(REVOKE_GRANT, key, context).run(async |call, config| {
        let request = Client::new(&config).revoke_grant().key_id(key).grant_id(id);
        request.send().await.map(drop).map_err(|error| call.failed(&error))
    })
}

/// Ends a grant, by one `RetireGrant`: for whom the grant itself names for that.
///
/// # Errors
/// What KMS or the way there says.
pub fn retire_grant(key: &str, id: &str, context: &Context<'_>) -> Result<(), KeyError> {
    Call::new(RETIRE_GRANT, key, context).run(async |call, config| {
        let request = Client::new(&config).retire_grant().key_id(key).grant_id(id);
        request.send().await.map(drop).map_err(|error| call.failed(&error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::VolumeId;

    #[test]
    fn the_same_wish_has_the_same_name_and_another_one_another() {
        let (to, other): (Principal, Principal) = (
            "arn:aws:iam::123456789012:role/Train".parse().unwrap(),
            "arn:aws:iam::123456789012:role/Other".parse().unwrap(),
        );
        let pairs = BTreeMap::new();
        let context = Context { volume_id: VolumeId([3; 16]), pairs: &pairs };
        let both = ["Decrypt", "DescribeKey"].map(|text| text.parse::<Operation>().unwrap());
        let reversed = [both[1].clone(), both[0].clone()];
        let wish = |to, operations| GrantWish { key: "arn", to, operations, retire_by: None };
        let name = wish(&to, &both).name(&context);
        assert_eq!(name, wish(&to, &reversed).name(&context));
        assert!(name.starts_with(&format!("cmkfs-{}-", "03".repeat(16))), "{name}");
        assert_ne!(name, wish(&other, &both).name(&context));
        assert_ne!(name, wish(&to, &both[..1]).name(&context));
        let retire = GrantWish { retire_by: Some(&other), ..wish(&to, &both) };
        assert_ne!(name, retire.name(&context));
        for bad in ["decrypt", "CreateGrant", "Sign", ""] {
            assert!(bad.parse::<Operation>().unwrap_err().contains("Decrypt, Encrypt"), "{bad}");
        }
    }
}
