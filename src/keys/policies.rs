//! Whole policies: what a role has to be allowed for a purpose, and no more. Each is made twice, as
//! statements for the policy of the KMS key, which name the role, and as a policy for the role,
//! which names the key; where both are in one account, one of the two is enough.
//!
//! | purpose  | allows                            | narrowed to                                  |
//! |----------|-----------------------------------|----------------------------------------------|
//! | `init`   | `GenerateDataKey`                 | a context with a volume id, and its pairs    |
//! | `mount`  | `Decrypt`                         | the volume's context, or any with an id      |
//! | `add`    | `Encrypt`, `Decrypt`              | the same                                     |
//! | `rotate` | `Encrypt`, `Decrypt`              | the same                                     |
//! | `rewrap` | `ReEncryptFrom`, `ReEncryptTo`    | the same                                     |
//! | `grant`  | `CreateGrant`                     | the same, grants of `Decrypt` with a context |
//! |          | `ListGrants`, `RevokeGrant`       | nothing: they have no context                |
//! | `secret` | `secretsmanager:GetSecretValue`   | nothing: it is of the secret                 |
//! |          | `Decrypt`                         | calls that Secrets Manager makes for it      |
//! | `output` | `GenerateDataKey`, `Decrypt`      | calls that S3 makes for an object or bucket  |
//! |          | `GenerateDataKey`                 | the trial of an output key                   |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::keys::call::{DECRYPT, ENCRYPT, GENERATE_DATA_KEY, GET_SECRET_VALUE};
use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::policy::{Scope, UNKNOWN_PRINCIPAL, condition, of_session};
use crate::keys::source::{Arn, KeySource, check_kms_id, region_of};
use crate::keys::trial::TRIAL;

/// Version of the policy language.
const VERSION: &str = "2012-10-17";
/// Stands where the key is not known.
const UNKNOWN_KEY: &str = "arn:aws:kms:REGION:ACCOUNT:key/KEY-ID";
/// Stands where the secret is not known.
const UNKNOWN_SECRET: &str = "arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-SUFFIX";
/// The pair of the context that S3 binds an object's key to.
const S3_CONTEXT: &str = "aws:s3:arn";

/// What a role uses the KMS key for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// To make volumes.
    Init,
    /// To open volumes.
    Mount,
    /// To add a slot under this key.
    Add,
    /// To rotate the keys of volumes that have a slot under this key.
    Rotate,
    /// To move a volume to another KMS key, from this one or to it.
    Rewrap,
    /// To let others open volumes.
    Grant,
    /// To open volumes by a secret in Secrets Manager.
    Secret,
    /// To upload to S3 under this key.
    Output,
}

const PURPOSES: [Purpose; 8] = [
    Purpose::Init,
    Purpose::Mount,
    Purpose::Add,
    Purpose::Rotate,
    Purpose::Rewrap,
    Purpose::Grant,
    Purpose::Secret,
    Purpose::Output,
];

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::Mount => "mount",
            Self::Add => "add",
            Self::Rotate => "rotate",
            Self::Rewrap => "rewrap",
            Self::Grant => "grant",
            Self::Secret => "secret",
            Self::Output => "output",
        })
    }
}

impl FromStr for Purpose {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        PURPOSES.into_iter().find(|purpose| purpose.to_string() == text).ok_or_else(|| {
            let known = PURPOSES.map(|purpose| purpose.to_string()).join(", ");
            format!("{text:?} is no purpose; wanted some of {known}")
        })
    }
}

/// Whom a policy is for: a role or a user, by its ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(String);

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Principal {
    type Err = String;

    /// A session of a role stands for the role.
    fn from_str(text: &str) -> Result<Self, String> {
        let arn = of_session(text);
        let parts: Vec<&str> = arn.split(':').collect();
        let fits = match parts[..] {
            ["arn", partition, "iam", "", account, resource] => {
                let named = resource.split_once('/');
                let named = named
                    .is_some_and(|(kind, name)| matches!(kind, "role" | "user") && is_path(name));
                let account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
                partition.starts_with("aws") && account && named
            }
            _ => false,
        };
        let wanted = || {
            format!(
                "{text:?} is no role: wanted arn:aws:iam::ACCOUNT:role/NAME, with the role's path \
                 if it has one, or the ARN of a user"
            )
        };
        fits.then_some(Self(arn)).ok_or_else(wanted)
    }
}

/// A path and name as IAM has them; no pattern.
fn is_path(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=,.@-".contains(&byte);
    !name.is_empty() && name.bytes().all(fits)
}

/// The ARN of a KMS key, as a policy can name it.
///
/// # Errors
/// Another key source, or a KMS key named otherwise.
pub fn policy_key(source: &KeySource) -> Result<String, KeyError> {
    match source {
        KeySource::Kms(id) if is_key_arn(id) => Ok(id.clone()),
        other => Err(KeyError::Source {
            found: other.to_string(),
            reason: "a policy names a KMS key by its ARN, kms:arn:aws:kms:REGION:ACCOUNT:key/ID; \
                     an alias may move (aws kms describe-key --key-id alias/NAME shows the ARN)"
                .to_owned(),
        }),
    }
}

/// Whether it is the ARN of a key rather than of an alias.
pub fn is_key_arn(id: &str) -> bool {
    check_kms_id(id).is_ok() && Arn::parse(id).is_some_and(|arn| arn.resource.starts_with("key/"))
}

/// What policies are made from.
#[derive(Debug)]
pub struct PolicyWish<'a> {
    /// Who is to be allowed; without, a text stands there that says what to put in.
    pub principal: Option<&'a Principal>,
    /// What for.
    pub purposes: &'a [Purpose],
    /// ARNs of the KMS keys; without, a text stands there that says what to put in.
    pub keys: &'a [String],
    /// ARNs of secrets; without, a text stands there that says what to put in.
    pub secrets: &'a [String],
    /// The volume; without, the statements are for every volume.
    pub volume: Option<Context<'a>>,
}

/// The same permissions for either side.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Policies {
    /// Statements to add to the policy of the KMS key.
    pub key_policy: Value,
    /// A policy for the role.
    pub identity_policy: Value,
}

/// One statement without who and on what.
struct Allow {
    sid: &'static str,
    /// What the role's policy names instead of the KMS keys.
    resource: Option<Value>,
    /// Whether the policy of the volume's KMS key can allow it.
    by_key: bool,
    actions: &'static [&'static str],
    condition: Map<String, Value>,
}

/// Both policies.
pub fn policies(wish: &PolicyWish<'_>) -> Policies {
    let mut purposes = wish.purposes.to_vec();
    purposes.sort_unstable();
    purposes.dedup();
    let allows: Vec<Allow> = purposes.iter().flat_map(|purpose| allows(*purpose, wish)).collect();
    let principal = wish.principal.map_or(UNKNOWN_PRINCIPAL, |principal| &principal.0);
    let keys = named(wish.keys, UNKNOWN_KEY);
    let document = |statements: Vec<Value>| json!({ "Version": VERSION, "Statement": statements });
    let who = json!({ "AWS": principal });
    let of_key = allows.iter().filter(|allow| allow.by_key);
    let of_key = of_key.map(|allow| allow.statement(Some(&who), &json!("*"))).collect();
    let of_role = allows.iter().map(|allow| {
        let resource = allow.resource.as_ref().unwrap_or(&keys);
        allow.statement(None, resource)
    });
    Policies { key_policy: document(of_key), identity_policy: document(of_role.collect()) }
}

/// One ARN or several, or what stands for them.
fn named(arns: &[String], unknown: &str) -> Value {
    match arns {
        [] => json!(unknown),
        [one] => json!(one),
        many => json!(many),
    }
}

impl Allow {
    /// The policy of a key names who; that of a role is the role's.
    fn statement(&self, who: Option<&Value>, resource: &Value) -> Value {
        let mut statement = json!({
            "Sid": self.sid, "Effect": "Allow", "Action": self.actions, "Resource": resource,
        });
        if let Some(who) = who {
            statement["Principal"] = who.clone();
        }
        if !self.condition.is_empty() {
            statement["Condition"] = json!(self.condition);
        }
        statement
    }
}

fn allows(purpose: Purpose, wish: &PolicyWish<'_>) -> Vec<Allow> {
    let all = wish.volume.map_or_else(BTreeMap::new, |volume| volume.all());
    let scope = if wish.volume.is_some() { Scope::ThisVolume } else { Scope::AnyVolume };
    let allow =
        |sid, actions, condition| Allow { sid, resource: None, by_key: true, actions, condition };
    match purpose {
        // The next volume has an id of its own.
        Purpose::Init => {
            let condition = condition(&all, Scope::AnyVolume);
            vec![allow("CmkfsInit", &[GENERATE_DATA_KEY], condition)]
        }
        Purpose::Mount => vec![allow("CmkfsMount", &[DECRYPT], condition(&all, scope))],
        Purpose::Add => {
            vec![allow("CmkfsAdd", &[ENCRYPT, DECRYPT], condition(&all, scope))]
        }
        // Opens the old volume key, puts the new one under each key, and proves that it opens.
        Purpose::Rotate => {
            vec![allow("CmkfsRotate", &[ENCRYPT, DECRYPT], condition(&all, scope))]
        }
        Purpose::Rewrap => {
            let actions = &["kms:ReEncryptFrom", "kms:ReEncryptTo"];
            vec![allow("CmkfsRewrap", actions, condition(&all, scope))]
        }
        Purpose::Grant => {
            let mut narrowed = condition(&all, scope);
            let equals = narrowed.entry("StringEquals").or_insert_with(|| json!({}));
            equals["kms:GrantConstraintType"] =
                json!(["EncryptionContextEquals", "EncryptionContextSubset"]);
            let operations = json!({ "kms:GrantOperations": ["Decrypt"] });
            narrowed.insert("ForAllValues:StringEquals".to_owned(), operations);
            let others = &["kms:ListGrants", "kms:RevokeGrant"];
            vec![
                allow("CmkfsGrant", &["kms:CreateGrant"], narrowed),
                allow("CmkfsGrantsThere", others, Map::new()),
            ]
        }
        Purpose::Secret => {
            let read = Allow {
                resource: Some(named(wish.secrets, UNKNOWN_SECRET)),
                by_key: false,
                ..allow("CmkfsSecret", &[GET_SECRET_VALUE], Map::new())
            };
            // Not the volume's: a secret is under a key of its own, or under AWS's.
            let unknown = Some(json!(UNKNOWN_KEY));
            let under = allow("CmkfsSecretKey", &[DECRYPT], by_secrets_manager(wish.secrets));
            vec![read, Allow { resource: unknown, ..under }]
        }
        Purpose::Output => {
            let actions = &[GENERATE_DATA_KEY, DECRYPT];
            let trial = format!("kms:EncryptionContext:{TRIAL}");
            let trial = json!({ "StringEquals": { trial: "output" } });
            let trial = trial.as_object().cloned().unwrap_or_default();
            vec![
                allow("CmkfsOutput", actions, by_s3(wish.keys)),
                allow("CmkfsOutputTrial", &[GENERATE_DATA_KEY], trial),
            ]
        }
    }
}

/// Only for calls that Secrets Manager makes on the role's behalf, for these secrets.
fn by_secrets_manager(secrets: &[String]) -> Map<String, Value> {
    let services: BTreeSet<String> = secrets
        .iter()
        .filter_map(|arn| region_of(arn))
        .map(|region| format!("secretsmanager.{region}.amazonaws.com*"))
        .collect();
    let services: Vec<String> = services.into_iter().collect();
    let mut condition = Map::new();
    let service = named(&services, "secretsmanager.*.amazonaws.com*");
    condition.insert("StringLike".to_owned(), json!({ "kms:ViaService": service }));
    let secrets = json!({ "kms:EncryptionContext:SecretARN": named(secrets, UNKNOWN_SECRET) });
    condition.insert("StringEquals".to_owned(), secrets);
    condition
}

/// Only for calls that S3 makes on the role's behalf, in the regions of the keys.
fn by_s3(keys: &[String]) -> Map<String, Value> {
    let mut services: Vec<String> = keys
        .iter()
        .filter_map(|key| Arn::parse(key))
        // Some partitions have another suffix.
        .map(|arn| format!("s3.{}.amazonaws.com*", arn.region))
        .collect();
    services.sort();
    services.dedup();
    if services.is_empty() {
        services.push("s3.*.amazonaws.com*".to_owned());
    }
    let service = if let [one] = &services[..] { json!(one) } else { json!(services) };
    let mut condition = Map::new();
    condition.insert("StringLike".to_owned(), json!({ "kms:ViaService": service }));
    let keys = json!({ "kms:EncryptionContextKeys": S3_CONTEXT });
    condition.insert("ForAnyValue:StringEquals".to_owned(), keys);
    condition
}

#[cfg(test)]
mod tests;
