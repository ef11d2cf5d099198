//! The README's table of what can be in the way of a key: each row is provoked, and has the exit
//! code and says what to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::keys_lab::{Lab, Outcome};
use crate::support::moto::Moto;
use crate::support::proxy::Fault;

/// Brings a row about and returns what came of it.
type Provoke = fn(&mut Lab, &Path) -> Outcome;

/// What the first column of the README says, the exit code, words of the error, how it comes about.
type Row = (&'static str, u8, &'static [&'static str], Provoke);

/// A failed `Decrypt`, as KMS answers.
fn kms(lab: &Lab, fault: Fault) -> Outcome {
    let slot = lab.made().slot.unwrap();
    lab.proxy.fault("Decrypt", fault);
    lab.open(&slot)
}

fn code(lab: &Lab, code: &'static str, message: &str) -> Outcome {
    kms(lab, Fault::error(code, message))
}

/// An error of STS, which speaks XML.
fn sts_error(status: u16, code: &str, message: &str) -> Fault {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
         <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>x</RequestId></ErrorResponse>"
    );
    Fault::Answer { status, body }
}

/// Credentials by a web identity.
fn by_token(lab: &mut Lab, dir: &Path) {
    let token = dir.join("token");
    fs::write(&token, "a token that nobody may see").unwrap();
    lab.env.remove("AWS_ACCESS_KEY_ID");
    lab.env.remove("AWS_SECRET_ACCESS_KEY");
    lab.env.insert("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap().to_owned());
    lab.env.insert("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/Train".to_owned());
    lab.env.insert("AWS_ENDPOINT_URL_STS", lab.proxy.url());
}

fn sts(lab: &mut Lab, dir: &Path, fault: Fault) -> Outcome {
    let slot = lab.made().slot.unwrap();
    by_token(lab, dir);
    lab.proxy.fault("AssumeRoleWithWebIdentity", fault);
    let outcome = lab.open(&slot);
    assert!(!outcome.error.contains("nobody may see"), "{}", outcome.error);
    outcome
}

/// A profile with a role, whose STS is there.
fn by_profile(lab: &mut Lab, dir: &Path, endpoint: &str) {
    let config = dir.join("config");
    let text = format!(
        "[profile job]\nrole_arn = arn:aws:iam::123456789012:role/Train\nsource_profile = base\n\
         region = eu-west-1\nservices = own\n\
         [profile base]\naws_access_key_id = test\naws_secret_access_key = test\n\
         [services own]\nsts =\n  endpoint_url = {endpoint}\n"
    );
    fs::write(&config, text).unwrap();
    lab.env.remove("AWS_ACCESS_KEY_ID");
    lab.env.remove("AWS_SECRET_ACCESS_KEY");
    lab.env.insert("AWS_CONFIG_FILE", config.to_str().unwrap().to_owned());
    lab.env.insert("AWS_PROFILE", "job".to_owned());
}

fn secret(lab: &Lab, fault: Fault) -> Outcome {
    lab.proxy.fault("GetSecretValue", fault);
    lab.create(&format!("secretsmanager:{}", lab.moto.secret(&json!({ "SecretString": "x" }))))
}

fn endpoint(lab: &mut Lab, url: &str) -> Outcome {
    let slot = lab.made().slot.unwrap();
    lab.env.insert("AWS_ENDPOINT_URL_KMS", url.to_owned());
    lab.open(&slot)
}

const KMS: &[Row] = &[
    ("`AccessDeniedException`", 22, &["\"Effect\": \"Allow\"", "kms:Decrypt"], |lab, _| {
        code(lab, "AccessDeniedException", "User: x is not authorized to perform: kms:Decrypt")
    }),
    ("`DisabledException`", 23, &["enable-key"], |lab, _| {
        code(lab, "DisabledException", "it is disabled")
    }),
    ("`KMSInvalidStateException`", 23, &["cancel-key-deletion"], |lab, _| {
        code(lab, "KMSInvalidStateException", "it is pending deletion")
    }),
    ("`KeyUnavailableException`", 29, &["try again"], |lab, _| {
        code(lab, "KeyUnavailableException", "not now")
    }),
    ("`InvalidKeyUsageException`", 23, &["ENCRYPT_DECRYPT"], |lab, _| {
        code(lab, "InvalidKeyUsageException", "a key that signs")
    }),
    ("`InvalidCiphertextException`", 24, &["encryption context", "snapshot"], |lab, _| {
        let slot = lab.made().slot.unwrap();
        lab.pairs.clear();
        lab.open(&slot)
    }),
    ("`NotFoundException`", 25, &["alias/NAME"], |lab, _| {
        lab.create("kms:1234abcd-12ab-34cd-56ef-1234567890ab")
    }),
    ("`InvalidArnException`", 25, &["check the id"], |lab, _| {
        code(lab, "InvalidArnException", "no ARN")
    }),
    ("`IncorrectKeyException`", 25, &["leave --key out"], |lab, _| {
        code(lab, "IncorrectKeyException", "another key")
    }),
    ("`ThrottlingException`", 28, &["quota"], |lab, _| {
        code(lab, "ThrottlingException", "Rate exceeded")
    }),
    ("`LimitExceededException`", 28, &["quota"], |lab, _| {
        code(lab, "LimitExceededException", "too many grants")
    }),
    ("`KMSInternalException`", 29, &["try again"], |lab, _| {
        let message = "internal".to_owned();
        kms(lab, Fault::Error { status: 500, code: "KMSInternalException", message })
    }),
    ("`DependencyTimeoutException`", 29, &["try again"], |lab, _| {
        let message = "later".to_owned();
        kms(lab, Fault::Error { status: 503, code: "DependencyTimeoutException", message })
    }),
    ("any other code", 29, &["UnsupportedOperationException", "API reference"], |lab, _| {
        code(lab, "UnsupportedOperationException", "not here")
    }),
    ("an answer that is none of KMS", 29, &["403", "a proxy"], |lab, _| {
        kms(lab, Fault::Answer { status: 403, body: "<html>".to_owned() })
    }),
];

const CREDENTIALS: &[Row] = &[
    ("no credentials", 27, &["run with a role", "AWS_PROFILE"], |lab, _| {
        let slot = lab.made().slot.unwrap();
        lab.env.remove("AWS_SECRET_ACCESS_KEY");
        lab.open(&slot)
    }),
    ("a profile that is not there", 27, &["nobody", "AWS_PROFILE"], |lab, dir| {
        let slot = lab.made().slot.unwrap();
        by_profile(lab, dir, "https://sts.invalid");
        lab.env.insert("AWS_PROFILE", "nobody".to_owned());
        lab.open(&slot)
    }),
    ("`UnrecognizedClientException`", 27, &["renew"], |lab, _| {
        code(lab, "UnrecognizedClientException", "The security token is invalid")
    }),
    ("`ExpiredTokenException`", 27, &["renew"], |lab, _| {
        code(lab, "ExpiredTokenException", "The security token is expired")
    }),
    ("`InvalidSignatureException`", 27, &["the clock"], |lab, _| {
        code(lab, "InvalidSignatureException", "The signature does not match")
    }),
    ("the same, and the clock is off", 72, &["s ahead of", "chronyc makestep"], |lab, _| {
        lab.proxy.date("Sun, 06 Nov 1994 08:49:37 GMT");
        code(lab, "InvalidSignatureException", "Signature not yet current")
    }),
    ("no region", 27, &["AWS_REGION"], |lab, _| {
        lab.env.remove("AWS_REGION");
        lab.create("kms:alias/somewhere")
    }),
];

const STS: &[Row] = &[
    ("STS: `AccessDenied` for a token", 27, &["trust policy", "Federated"], |lab, dir| {
        let message = "Not authorized to perform sts:AssumeRoleWithWebIdentity";
        sts(lab, dir, sts_error(403, "AccessDenied", message))
    }),
    (
        "STS: `AccessDenied` for a role",
        27,
        &["trust policy", "user/me", "\"sts:AssumeRole\""],
        |lab, dir| {
            let slot = lab.made().slot.unwrap();
            let url = lab.proxy.url();
            by_profile(lab, dir, &url);
            let message = "User: arn:aws:iam::123456789012:user/me is not authorized to perform: \
                           sts:AssumeRole on resource: arn:aws:iam::123456789012:role/Train";
            lab.proxy.fault("AssumeRole", sts_error(403, "AccessDenied", message));
            lab.open(&slot)
        },
    ),
    ("STS: `ExpiredTokenException`", 27, &["AWS_WEB_IDENTITY_TOKEN_FILE"], |lab, dir| {
        sts(lab, dir, sts_error(400, "ExpiredTokenException", "Token expired"))
    }),
    ("STS: `InvalidIdentityToken`", 27, &["AWS_WEB_IDENTITY_TOKEN_FILE"], |lab, dir| {
        sts(lab, dir, sts_error(400, "InvalidIdentityToken", "No provider"))
    }),
    ("STS: throttled", 28, &["quota"], |lab, dir| {
        sts(lab, dir, sts_error(400, "Throttling", "Rate exceeded"))
    }),
    ("STS: any other answer", 29, &["sts:AssumeRoleWithWebIdentity"], |lab, dir| {
        sts(lab, dir, sts_error(500, "InternalFailure", "internal"))
    }),
    ("STS: not reached", 26, &["sts:AssumeRoleWithWebIdentity", "_STS"], |lab, dir| {
        sts(lab, dir, Fault::Reset)
    }),
    ("STS by plain HTTP", 70, &["nothing was sent"], |lab, dir| {
        let slot = lab.made().slot.unwrap();
        let before = lab.proxy.connections();
        let url = lab.proxy.url().replace("127.0.0.1", "0.0.0.0");
        by_profile(lab, dir, &url);
        let outcome = lab.open(&slot);
        assert_eq!(lab.proxy.connections(), before, "somebody came");
        // The profile is read, and where it leads to this machine it serves.
        let url = lab.proxy.url();
        by_profile(lab, dir, &url);
        lab.open(&slot).passed();
        outcome
    }),
];

const ENDPOINT: &[Row] = &[
    ("connection refused", 26, &["refused", "VPC endpoint"], |lab, _| {
        // Nobody listens there.
        endpoint(lab, "http://127.0.0.1:9")
    }),
    ("connection reset", 26, &["check the network"], |lab, _| kms(lab, Fault::Reset)),
    ("unknown host", 26, &["https://kms.invalid", "check the network"], |lab, _| {
        endpoint(lab, "https://kms.invalid")
    }),
    ("certificate not trusted", 73, &["SSL_CERT_FILE", "certificate"], |lab, _| {
        let moto = Moto::start_with(&["-s"]);
        endpoint(lab, &moto.url())
    }),
    ("plain HTTP to another machine", 70, &["--allow-plain-http"], |lab, _| {
        let url = lab.proxy.url().replace("127.0.0.1", "0.0.0.0");
        endpoint(lab, &url)
    }),
];

const SECRETS: &[Row] = &[
    (
        "Secrets Manager: `AccessDeniedException`",
        22,
        &["secretsmanager:GetSecretValue\",", "\"Effect\": \"Allow\""],
        |lab, _| secret(lab, Fault::error("AccessDeniedException", "User: x is not authorized")),
    ),
    (
        "Secrets Manager: the KMS key of the secret is denied",
        22,
        &["kms:ViaService", "SecretARN"],
        |lab, _| secret(lab, Fault::error("AccessDeniedException", "Access to KMS is not allowed")),
    ),
    ("Secrets Manager: `DecryptionFailure`", 23, &["enabled"], |lab, _| {
        secret(lab, Fault::error("DecryptionFailure", "the key is disabled"))
    }),
    ("Secrets Manager: `InvalidRequestException`", 23, &["restore-secret"], |lab, _| {
        secret(lab, Fault::error("InvalidRequestException", "marked for deletion"))
    }),
    ("Secrets Manager: `ResourceNotFoundException`", 25, &["six last"], |lab, _| {
        let none = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:none-AbCdEf";
        lab.create(&format!("secretsmanager:{none}"))
    }),
    ("Secrets Manager: throttled", 28, &["quota"], |lab, _| {
        secret(lab, Fault::error("ThrottlingException", "Rate exceeded"))
    }),
    ("Secrets Manager: any other code", 29, &["InternalServiceError"], |lab, _| {
        let message = "internal".to_owned();
        secret(lab, Fault::Error { status: 500, code: "InternalServiceError", message })
    }),
    ("a secret that holds no key", 20, &["1 bytes", "32 random bytes"], |lab, _| {
        let arn = lab.moto.secret(&json!({ "SecretString": "eA==" }));
        lab.create(&format!("secretsmanager:{arn}"))
    }),
];

#[track_caller]
fn provoke(rows: &[Row]) {
    for (name, exit, words, set) in rows {
        let dir = tempfile::tempdir().unwrap();
        let mut lab = Lab::new();
        let outcome = set(&mut lab, dir.path());
        assert_eq!(outcome.exit_code, *exit, "{name}: {}", outcome.error);
        for word in *words {
            assert!(outcome.error.contains(word), "{name}: wanted {word:?} in: {}", outcome.error);
        }
    }
}

#[test]
fn what_kms_answers_has_its_row() {
    provoke(KMS);
}

#[test]
fn what_is_wrong_with_credentials_has_its_row() {
    provoke(CREDENTIALS);
}

#[test]
fn what_sts_answers_has_its_row() {
    provoke(STS);
}

#[test]
fn what_is_wrong_with_the_way_has_its_row() {
    provoke(ENDPOINT);
}

#[test]
fn what_secrets_manager_answers_has_its_row() {
    provoke(SECRETS);
}

/// The id is that of the answer, by which CloudTrail has the call.
#[test]
fn an_error_tells_the_id_of_the_request() {
    let lab = Lab::new();
    let outcome = code(&lab, "DisabledException", "off");
    let calls = lab.proxy.calls();
    let id = calls.last().unwrap().request_id.clone().unwrap();
    outcome.failed(23, &[&format!("(request {id})")]);
}

#[test]
fn the_readme_has_each_row_and_no_other() {
    let text = fs::read_to_string("README.md").unwrap();
    let table = text.split("### What is in the way of a key").nth(1).unwrap();
    let table = table.split("\n##").next().unwrap();
    let mut listed: Vec<(String, String)> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .filter_map(|line| {
            let mut cells = line.split(" | ");
            Some((cells.next()?.to_owned(), cells.next()?.to_owned()))
        })
        .filter(|(_, code)| code.parse::<u8>().is_ok())
        .collect();
    // It takes 15 s, and has a test of its own.
    listed.retain(|(name, _)| name != "no answer in time");
    let rows = [KMS, CREDENTIALS, STS, ENDPOINT, SECRETS].concat();
    let wanted: Vec<(String, String)> =
        rows.iter().map(|(name, code, ..)| ((*name).to_owned(), code.to_string())).collect();
    assert_eq!(listed, wanted);
}
