//! The statement that a key policy lacks, ready to be pasted.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::keys::context::VOLUME_ID;
use crate::keys::source::region_of;

/// Stands where the caller is not known.
pub(super) const UNKNOWN_PRINCIPAL: &str = "ARN of the role that runs cmkfs";

/// Which volumes a statement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Volumes not made yet: their ids are not known, so the statement asks for some volume id.
    AnyVolume,
    /// The volume of the context.
    ThisVolume,
}

/// An `Allow` for `actions`, narrowed to the encryption context. `found` is what KMS said: it names
/// the caller.
pub(super) fn statement(
    actions: &[&str],
    found: &str,
    context: &BTreeMap<String, String>,
    scope: Scope,
) -> String {
    let condition = condition(context, scope);
    let principal = principal(found);
    let mut statement = json!({
        "Sid": "cmkfs",
        "Effect": "Allow",
        "Principal": { "AWS": principal.as_deref().unwrap_or(UNKNOWN_PRINCIPAL) },
        "Action": actions,
        "Resource": "*",
    });
    if !condition.is_empty() {
        statement["Condition"] = Value::Object(condition);
    }
    serde_json::to_string_pretty(&statement).expect("plain data has a JSON form")
}

/// A `Condition` that narrows a statement to an encryption context.
pub(super) fn condition(context: &BTreeMap<String, String>, scope: Scope) -> Map<String, Value> {
    let named = |name: &str| scope == Scope::ThisVolume || name != VOLUME_ID;
    let equals: Map<String, Value> = context
        .iter()
        .filter(|(name, _)| named(name))
        .map(|(name, value)| (format!("kms:EncryptionContext:{name}"), json!(literal(value))))
        .collect();
    let mut condition = Map::new();
    if !equals.is_empty() {
        condition.insert("StringEquals".to_owned(), Value::Object(equals));
    }
    if scope == Scope::AnyVolume {
        let keys = json!({ "kms:EncryptionContextKeys": VOLUME_ID });
        condition.insert("ForAnyValue:StringEquals".to_owned(), keys);
    }
    condition
}

/// A value that means itself: `${` would begin a variable of the policy language.
fn literal(value: &str) -> String {
    value.replace("${", "${$}{")
}

/// What to do with the statement.
pub(super) fn advice(found: &str, statement: &str) -> String {
    let mut text = format!("Add this statement to the key's policy:\n{statement}");
    if found.contains("explicit deny") {
        text += "\nA policy denies it explicitly, which no allow overrides: change that one too.";
    }
    if statement.contains(":role/") {
        text += "\nIf the role has a path, write it: role/service-role/NAME.";
    }
    text += "\nIf the policy already allows the key by kms:ViaService only, it refuses cmkfs, \
             which calls KMS itself.";
    text
}

/// What a role's policy lacks that may not read a secret, or not use the key that the secret is
/// under.
pub(super) fn secret_statement(arn: &str, found: &str) -> String {
    let region = region_of(arn).unwrap_or("REGION");
    let statement = if found.contains("KMS") {
        json!({
            "Sid": "cmkfs", "Effect": "Allow", "Action": "kms:Decrypt",
            "Resource": "ARN of the KMS key that the secret is under",
            "Condition": { "StringEquals": {
                "kms:ViaService": format!("secretsmanager.{region}.amazonaws.com"),
                "kms:EncryptionContext:SecretARN": arn,
            } },
        })
    } else {
        json!({
            "Sid": "cmkfs", "Effect": "Allow", "Resource": arn,
            "Action": "secretsmanager:GetSecretValue",
        })
    };
    serde_json::to_string_pretty(&statement).expect("plain data has a JSON form")
}

/// What to do with the statement.
pub(super) fn secret_advice(found: &str, statement: &str) -> String {
    let mut text = format!(
        "Add this statement to the role's policy, or with a Principal to the policy of the secret \
         (of the KMS key, where that is named):\n{statement}"
    );
    if found.contains("explicit deny") {
        text += "\nA policy denies it explicitly, which no allow overrides: change that one too.";
    }
    text
}

/// What the trust policy of a role lacks. `found` is what STS said: it may name the caller.
pub(super) fn trust_statement(found: &str) -> String {
    let by_token = found.contains("WebIdentity");
    let principal = match (by_token, principal(found)) {
        (true, _) => json!({ "Federated": "ARN of the OIDC provider" }),
        (false, caller) => json!({ "AWS": caller.as_deref().unwrap_or("ARN of the caller") }),
    };
    let action = if by_token { "sts:AssumeRoleWithWebIdentity" } else { "sts:AssumeRole" };
    let statement = json!({
        "Sid": "cmkfs", "Effect": "Allow", "Principal": principal, "Action": action,
    });
    serde_json::to_string_pretty(&statement).expect("plain data has a JSON form")
}

/// What to do with the statement.
pub(super) fn trust_advice(statement: &str) -> String {
    format!(
        "Add this statement to the role's trust policy, narrowed by a Condition to this workload; \
         a caller in another account needs the same action in its own policy:\n{statement}"
    )
}

/// Who was denied: `User: ARN is not authorized to perform ...`. A session of a role is turned into
/// the role, since a policy that names a session ends with it.
fn principal(found: &str) -> Option<String> {
    let (_, rest) = found.split_once("User: ")?;
    let (arn, _) = rest.split_once(" is not authorized")?;
    Some(of_session(arn))
}

/// The role of a session, by ARN; any other ARN as it is.
pub(super) fn of_session(arn: &str) -> String {
    let parts: Vec<&str> = arn.split(':').collect();
    let ["arn", partition, "sts", "", account, resource] = parts[..] else {
        return arn.to_owned();
    };
    match resource.split('/').collect::<Vec<_>>()[..] {
        ["assumed-role", role, _] => format!("arn:{partition}:iam::{account}:role/{role}"),
        _ => arn.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> BTreeMap<String, String> {
        [("team", "vision"), (VOLUME_ID, "0101")].map(|(k, v)| (k.into(), v.into())).into()
    }

    #[test]
    fn the_statement_names_role_actions_and_context() {
        let found = "AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/Train/s1 \
                     is not authorized to perform: kms:Decrypt on resource: x because no \
                     identity-based policy allows the kms:Decrypt action";
        let text = statement(&["kms:Decrypt"], found, &context(), Scope::ThisVolume);
        let value: Value = serde_json::from_str(&text).unwrap();
        let wanted = json!({
            "Sid": "cmkfs", "Effect": "Allow", "Resource": "*", "Action": ["kms:Decrypt"],
            "Principal": { "AWS": "arn:aws:iam::123456789012:role/Train" },
            "Condition": { "StringEquals": {
                "kms:EncryptionContext:cmkfs:volume-id": "0101",
                "kms:EncryptionContext:team": "vision",
            } },
        });
        assert_eq!(value, wanted);
        assert!(advice(found, &text).contains("role/service-role/"));
        assert!(!advice(found, &text).contains("explicitly"));
    }

    /// The id of a volume that could not be made is never used again.
    #[test]
    fn a_statement_for_init_does_not_demand_one_volume() {
        let actions = ["kms:GenerateDataKey", "kms:Decrypt"];
        let found = "with an explicit deny";
        let text = statement(&actions, found, &context(), Scope::AnyVolume);
        let value: Value = serde_json::from_str(&text).unwrap();
        let wanted = json!({
            "StringEquals": { "kms:EncryptionContext:team": "vision" },
            "ForAnyValue:StringEquals": { "kms:EncryptionContextKeys": VOLUME_ID },
        });
        assert_eq!(value["Condition"], wanted);
        assert_eq!(value["Principal"]["AWS"], UNKNOWN_PRINCIPAL);
        assert!(advice(found, &text).contains("explicitly"));
    }

    #[test]
    fn a_value_can_not_be_a_variable_of_the_policy() {
        let context = BTreeMap::from([("team".to_owned(), "a ${aws:userid} $".to_owned())]);
        let condition = condition(&context, Scope::ThisVolume);
        let value = &condition["StringEquals"]["kms:EncryptionContext:team"];
        assert_eq!(value, "a ${$}{aws:userid} $");
    }

    #[test]
    fn callers_are_found_in_what_kms_says() {
        let of = |arn: &str| principal(&format!("User: {arn} is not authorized to perform: x"));
        let user = "arn:aws:iam::123456789012:user/ml/ana";
        assert_eq!(of(user).as_deref(), Some(user));
        let federated = "arn:aws:sts::123456789012:federated-user/ana";
        assert_eq!(of(federated).as_deref(), Some(federated));
        assert_eq!(principal("no message"), None);
    }
}
