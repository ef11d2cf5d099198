//! Policies are held to the grammar of IAM, and to what they allow and do not allow.

use super::*;
use crate::format::VolumeId;

const ROLE: &str = "arn:aws:iam::123456789012:role/service-role/Train";
const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const SECRET: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ml/key-AbCdEf";
/// Every KMS action that cmkfs may ask for.
const ACTIONS: [&str; 9] = [
    "kms:Encrypt",
    "secretsmanager:GetSecretValue",
    "kms:GenerateDataKey",
    "kms:Decrypt",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:CreateGrant",
    "kms:ListGrants",
    "kms:RevokeGrant",
];
const OPERATORS: [&str; 4] =
    ["StringEquals", "StringLike", "ForAnyValue:StringEquals", "ForAllValues:StringEquals"];

fn pairs() -> BTreeMap<String, String> {
    BTreeMap::from([("team".to_owned(), "vision".to_owned())])
}

fn made(purposes: &[Purpose], volume: Option<Context<'_>>) -> Policies {
    let principal: Principal = ROLE.parse().unwrap();
    let keys = [KEY.to_owned()];
    let secrets = [SECRET.to_owned()];
    let principal = Some(&principal);
    policies(&PolicyWish { principal, purposes, keys: &keys, secrets: &secrets, volume })
}

/// Text, or a list of texts that is not empty.
fn texts(value: &Value) -> Vec<&str> {
    let list = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    assert!(!list.is_empty() && list.iter().all(Value::is_string), "{value}");
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

/// The grammar of a policy, as far as these policies use it.
fn check_grammar(policy: &Value, has_principal: bool) {
    let object = policy.as_object().unwrap();
    assert_eq!(object.keys().collect::<Vec<_>>(), ["Statement", "Version"]);
    assert_eq!(policy["Version"], "2012-10-17");
    let statements = policy["Statement"].as_array().unwrap();
    let mut sids = Vec::new();
    for statement in statements {
        let object = statement.as_object().unwrap();
        let known = ["Sid", "Effect", "Principal", "Action", "Resource", "Condition"];
        assert!(object.keys().all(|key| known.contains(&key.as_str())), "{statement}");
        let sid = statement["Sid"].as_str().unwrap();
        assert!(!sid.is_empty() && sid.bytes().all(|b| b.is_ascii_alphanumeric()), "{sid}");
        sids.push(sid);
        assert_eq!(statement["Effect"], "Allow");
        assert!(texts(&statement["Action"]).iter().all(|action| ACTIONS.contains(action)));
        assert_eq!(object.contains_key("Principal"), has_principal);
        let resources = texts(&statement["Resource"]);
        if has_principal {
            assert_eq!(statement["Principal"].as_object().unwrap().len(), 1);
            texts(&statement["Principal"]["AWS"]);
            assert_eq!(resources, ["*"]);
        } else {
            let is_arn = |text: &&str| {
                let parts = if text.contains(":secret:") { 7 } else { 6 };
                text.split(':').count() == parts && text.starts_with("arn:")
            };
            assert!(resources.iter().all(is_arn), "{resources:?}");
        }
        let Some(condition) = object.get("Condition") else { continue };
        for (operator, keys) in condition.as_object().unwrap() {
            assert!(OPERATORS.contains(&operator.as_str()), "{operator}");
            let keys = keys.as_object().unwrap();
            assert!(!keys.is_empty());
            for (key, value) in keys {
                assert!(key.starts_with("kms:"), "{key}");
                texts(value);
            }
        }
    }
    let count = sids.len();
    sids.sort_unstable();
    sids.dedup();
    assert_eq!(sids.len(), count, "a Sid twice: {sids:?}");
    assert!(count > 0);
}

/// A request to KMS, as its condition keys show it.
struct Request<'a> {
    action: &'a str,
    context: BTreeMap<&'a str, &'a str>,
    others: BTreeMap<&'a str, Vec<&'a str>>,
}

impl Request<'_> {
    fn values(&self, key: &str) -> Vec<String> {
        let owned = |text: &&str| (*text).to_owned();
        if key == "kms:EncryptionContextKeys" {
            return self.context.keys().map(owned).collect();
        }
        match key.strip_prefix("kms:EncryptionContext:") {
            Some(name) => self.context.get(name).map(owned).into_iter().collect(),
            None => self.others.get(key).map_or_else(Vec::new, |v| v.iter().map(owned).collect()),
        }
    }

    /// As IAM judges it: one statement whose every condition holds.
    fn is_allowed(&self, policy: &Value) -> bool {
        policy["Statement"].as_array().unwrap().iter().any(|statement| {
            let condition = statement["Condition"].as_object().cloned().unwrap_or_default();
            texts(&statement["Action"]).contains(&self.action)
                && condition.iter().all(|(operator, keys)| {
                    keys.as_object().unwrap().iter().all(|(key, wanted)| {
                        let (found, wanted) = (self.values(key), texts(wanted));
                        let fits = |found: &String| wanted.iter().any(|w| like(operator, w, found));
                        match operator.starts_with("ForAllValues:") {
                            true => found.iter().all(fits),
                            false => found.iter().any(fits),
                        }
                    })
                })
        })
    }
}

fn like(operator: &str, wanted: &str, found: &str) -> bool {
    if operator != "StringLike" {
        return wanted == found;
    }
    let mut rest = found;
    wanted.split('*').enumerate().all(|(index, part)| match rest.find(part) {
        Some(at) if index > 0 || at == 0 => {
            rest = &rest[at + part.len()..];
            true
        }
        _ => false,
    })
}

const OWN: &str = "05050505050505050505050505050505";

fn request<'a>(action: &'a str, volume: &'a str, team: &'a str) -> Request<'a> {
    let context = BTreeMap::from([("cmkfs:volume-id", volume), ("team", team)]);
    Request { action, context, others: BTreeMap::new() }
}

#[test]
fn every_policy_keeps_to_the_grammar() {
    let pairs = pairs();
    let volume = Context { volume_id: VolumeId([5; 16]), pairs: &pairs };
    for volume in [None, Some(volume)] {
        for purpose in PURPOSES {
            let made = made(&[purpose], volume);
            check_grammar(&made.key_policy, true);
            check_grammar(&made.identity_policy, false);
        }
        let all = made(&PURPOSES, volume);
        check_grammar(&all.key_policy, true);
        check_grammar(&all.identity_policy, false);
        let nothing_known = policies(&PolicyWish {
            principal: None,
            purposes: &PURPOSES,
            keys: &[],
            secrets: &[],
            volume,
        });
        check_grammar(&nothing_known.key_policy, true);
        check_grammar(&nothing_known.identity_policy, false);
    }
}

#[test]
fn the_grammar_is_one() {
    let good = made(&[Purpose::Mount], None).identity_policy;
    let edits: [fn(&mut Value); 9] = [
        |policy| policy["Version"] = json!("2008-10-17"),
        |policy| policy["Id"] = json!("x"),
        |policy| policy["Statement"] = json!([]),
        |policy| policy["Statement"][0]["Sid"] = json!("a b"),
        |policy| policy["Statement"][0]["Effect"] = json!("allow"),
        |policy| policy["Statement"][0]["Action"] = json!(["kms:*"]),
        |policy| policy["Statement"][0]["Resource"] = json!("*"),
        |policy| policy["Statement"][0]["Condition"] = json!({ "StringEqual": { "kms:x": "y" } }),
        |policy| policy["Statement"][0]["Condition"] = json!({ "StringEquals": { "kms:x": [] } }),
    ];
    for (index, edit) in edits.into_iter().enumerate() {
        let mut policy = good.clone();
        edit(&mut policy);
        let passed = std::panic::catch_unwind(|| check_grammar(&policy, false)).is_ok();
        assert!(!passed, "edit {index} passes");
    }
}

#[test]
fn both_sides_say_the_same() {
    let made = made(&[Purpose::Mount, Purpose::Init, Purpose::Mount], None);
    let [init, mount] = &made.key_policy["Statement"].as_array().unwrap()[..] else {
        panic!("two statements: {}", made.key_policy)
    };
    assert_eq!((&init["Sid"], &mount["Sid"]), (&json!("CmkfsInit"), &json!("CmkfsMount")));
    assert_eq!(mount["Principal"]["AWS"], ROLE);
    let own = &made.identity_policy["Statement"];
    assert_eq!((&own[1]["Resource"], &own[1]["Condition"]), (&json!(KEY), &mount["Condition"]));
}

#[test]
fn a_volumes_policy_opens_that_volume_and_no_other() {
    let pairs = pairs();
    let volume = Context { volume_id: VolumeId([5; 16]), pairs: &pairs };
    let other = "06".repeat(16);
    let policy = made(&[Purpose::Mount], Some(volume)).key_policy;
    assert!(request("kms:Decrypt", OWN, "vision").is_allowed(&policy));
    assert!(!request("kms:Decrypt", &other, "vision").is_allowed(&policy));
    assert!(!request("kms:Decrypt", OWN, "audio").is_allowed(&policy));
    assert!(!request("kms:GenerateDataKey", OWN, "vision").is_allowed(&policy));
    let any = made(&[Purpose::Mount], None).key_policy;
    assert!(request("kms:Decrypt", &other, "audio").is_allowed(&any));
    let bare = Request { context: BTreeMap::new(), ..request("kms:Decrypt", OWN, "x") };
    assert!(!bare.is_allowed(&any), "a ciphertext that is no volume's");
    let init = made(&[Purpose::Init], Some(volume)).key_policy;
    assert!(request("kms:GenerateDataKey", &other, "vision").is_allowed(&init));
    assert!(!request("kms:GenerateDataKey", &other, "audio").is_allowed(&init));
    assert!(!request("kms:Decrypt", &other, "vision").is_allowed(&init));
}

#[test]
fn to_rotate_is_to_open_and_to_wrap_that_volume_alone() {
    let pairs = pairs();
    let volume = Context { volume_id: VolumeId([5; 16]), pairs: &pairs };
    let other = "06".repeat(16);
    let policy = made(&[Purpose::Rotate], Some(volume)).key_policy;
    for action in ["kms:Encrypt", "kms:Decrypt"] {
        assert!(request(action, OWN, "vision").is_allowed(&policy), "{action}");
        assert!(!request(action, &other, "vision").is_allowed(&policy), "{action}");
        assert!(!request(action, OWN, "audio").is_allowed(&policy), "{action}");
    }
    for action in ["kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:CreateGrant"] {
        assert!(!request(action, OWN, "vision").is_allowed(&policy), "{action}");
    }
}

#[test]
fn a_grant_may_hand_on_decrypt_and_nothing_else() {
    let pairs = pairs();
    let volume = Context { volume_id: VolumeId([5; 16]), pairs: &pairs };
    let policy = made(&[Purpose::Grant], Some(volume)).key_policy;
    let grant = |operations: &[&'static str], constraint: Option<&'static str>| {
        let mut asked = request("kms:CreateGrant", OWN, "vision");
        asked.others.insert("kms:GrantOperations", operations.to_vec());
        asked.others.extend(constraint.map(|kind| ("kms:GrantConstraintType", vec![kind])));
        asked.is_allowed(&policy)
    };
    assert!(grant(&["Decrypt"], Some("EncryptionContextSubset")));
    assert!(!grant(&["Decrypt", "CreateGrant"], Some("EncryptionContextSubset")));
    assert!(!grant(&["Decrypt"], None));
    let unbound = Request { context: BTreeMap::new(), ..request("kms:ListGrants", OWN, "x") };
    assert!(unbound.is_allowed(&policy));
}

#[test]
fn output_is_for_calls_of_s3_in_the_keys_region() {
    let policy = made(&[Purpose::Output], None).key_policy;
    let by = |service: &'static str, name: &'static str| {
        let others = BTreeMap::from([("kms:ViaService", vec![service])]);
        let context = BTreeMap::from([(name, "x")]);
        Request { action: "kms:GenerateDataKey", context, others }.is_allowed(&policy)
    };
    assert!(by("s3.eu-west-1.amazonaws.com", "aws:s3:arn"));
    assert!(!by("s3.us-east-1.amazonaws.com", "aws:s3:arn"));
    assert!(!by("ebs.eu-west-1.amazonaws.com", "aws:s3:arn"));
    assert!(!by("s3.eu-west-1.amazonaws.com", "cmkfs:volume-id"));
    assert!(!request("kms:Decrypt", OWN, "vision").is_allowed(&policy), "a direct call");
}

#[test]
fn a_trial_of_an_output_key_is_allowed_and_is_no_volumes() {
    let policy = made(&[Purpose::Output], None).key_policy;
    let mut trial = request("kms:GenerateDataKey", OWN, "vision");
    assert!(!trial.is_allowed(&policy));
    trial.context = BTreeMap::from([("cmkfs:trial", "output")]);
    assert!(trial.is_allowed(&policy));
    assert!(!Request { action: "kms:Decrypt", ..trial }.is_allowed(&policy));
}

#[test]
fn a_secret_is_named_by_the_role_and_its_key_serves_it_alone() {
    let made = made(&[Purpose::Secret], None);
    let own = &made.identity_policy["Statement"];
    assert_eq!(own[0]["Action"], json!(["secretsmanager:GetSecretValue"]));
    assert_eq!(own[0]["Resource"], SECRET);
    let statements = made.key_policy["Statement"].as_array().unwrap();
    assert_eq!(statements.len(), 1, "a key knows of no secret");
    let by = |service: &'static str, secret: &'static str| {
        let others = BTreeMap::from([("kms:ViaService", vec![service])]);
        let context = BTreeMap::from([("SecretARN", secret)]);
        Request { action: "kms:Decrypt", context, others }.is_allowed(&made.key_policy)
    };
    assert!(by("secretsmanager.eu-west-1.amazonaws.com", SECRET));
    assert!(!by("secretsmanager.eu-west-1.amazonaws.com", "another"));
    assert!(!by("s3.eu-west-1.amazonaws.com", SECRET));
}

#[test]
fn roles_purposes_and_keys_are_read_and_others_refused() {
    let session = "arn:aws:sts::123456789012:assumed-role/Train/job-1";
    let role: Principal = session.parse().unwrap();
    assert_eq!(role.0, "arn:aws:iam::123456789012:role/Train");
    assert!("arn:aws-cn:iam::123456789012:user/ml/ana".parse::<Principal>().is_ok());
    for bad in [
        "",
        "Train",
        "*",
        "arn:aws:iam::123456789012:role/*",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:iam::12345:role/Train",
        "arn:aws:iam::123456789012:group/ml",
        "arn:aws:s3:::bucket",
    ] {
        let error = bad.parse::<Principal>().unwrap_err();
        assert!(error.contains("wanted arn:aws:iam::ACCOUNT:role/NAME"), "{error}");
    }
    for purpose in PURPOSES {
        assert_eq!(purpose.to_string().parse(), Ok(purpose));
    }
    assert!("unmount".parse::<Purpose>().unwrap_err().contains("init, mount, add, rotate, rewrap"));
    assert_eq!(policy_key(&format!("kms:{KEY}").parse().unwrap()).unwrap(), KEY);
    for bad in ["kms:alias/x", "local", "kms:1234abcd-12ab-34cd-56ef-1234567890ab"] {
        let error = policy_key(&bad.parse().unwrap()).unwrap_err();
        assert_eq!(error.exit_code(), 20);
        assert!(error.to_string().contains("by its ARN"), "{error}");
    }
}
