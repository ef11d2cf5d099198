//! Volume keys under a real KMS server over HTTP, each case in a process of its own with the
//! environment that a user would set. What the emulator does not do as AWS does, the proxy answers.

#[path = "keys_kms/address.rs"]
mod address;
#[path = "keys_kms/errors.rs"]
mod errors;
mod keys_lab;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use cmkfs::format::Slot;
use rustix::net;
use serde_json::{Value, json};

use keys_lab::{Lab, Step, Then, VOLUME};
use support::memory::times_in_memory;
use support::proxy::Fault;

#[test]
#[ignore = "the other tests run it, as a child process"]
fn child() {
    keys_lab::child();
}

#[test]
fn a_volume_is_made_with_one_call_and_opened_with_one() {
    let lab = Lab::new();
    let made = lab.made();
    let slot = made.slot.clone().unwrap();
    assert_eq!((slot.id, slot.provider.as_str(), &slot.key), (1, "kms", &lab.arn));
    let context = json!({ "cmkfs:volume-id": VOLUME, "team": "vision" });
    let [call] = &lab.proxy.calls()[..] else { panic!("one call: {:?}", lab.proxy.calls()) };
    assert_eq!(call.operation, "GenerateDataKey");
    let wanted = json!({
        "KeyId": lab.arn, "KeySpec": "AES_256", "EncryptionContext": context,
    });
    assert_eq!(call.input, wanted);
    assert_eq!(call.output["CiphertextBlob"], slot.wrapped.as_str());

    let opened = lab.open(&slot);
    assert_eq!(opened.passed().mark, made.mark);
    assert_eq!(opened.key_id, lab.arn);
    let [_, call] = &lab.proxy.calls()[..] else { panic!("two calls: {:?}", lab.proxy.calls()) };
    assert_eq!(call.operation, "Decrypt");
    let wanted = json!({
        "KeyId": lab.arn, "CiphertextBlob": slot.wrapped, "EncryptionContext": context,
    });
    assert_eq!(call.input, wanted);
}

#[test]
fn a_slot_is_added_by_encrypt_and_goes_from_key_to_key_by_re_encrypt() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let (id, other) = (lab.moto.new_key(), lab.moto.new_key());
    let alias = format!("alias/cmkfs-{}", id.rsplit('/').next().unwrap());
    lab.moto.kms("CreateAlias", &json!({ "AliasName": alias, "TargetKeyId": id }));
    let context = json!({ "cmkfs:volume-id": VOLUME, "team": "vision" });

    let wrapped = lab.change(&slot, Then::Wrap(format!("kms:{alias}")));
    let added = wrapped.passed().slot.clone().unwrap();
    assert_eq!((added.id, added.provider.as_str(), &added.key), (2, "kms", &id));
    let [.., call] = &lab.proxy.calls()[..] else { panic!("no call") };
    assert_eq!((call.operation.as_str(), &call.input["KeyId"]), ("Encrypt", &json!(alias)));
    assert_eq!(call.input["EncryptionContext"], context);
    assert_eq!(call.output["CiphertextBlob"], added.wrapped.as_str());
    assert_eq!(lab.open(&added).passed().mark, wrapped.mark);

    let before = lab.proxy.calls().len();
    let changed = lab.change(&added, Then::ReEncrypt(format!("kms:{other}")));
    let changed = changed.passed().slot.clone().unwrap();
    assert_eq!((changed.id, &changed.key), (2, &other));
    let [call] = &lab.proxy.calls()[before..] else { panic!("one call") };
    let wanted = json!({
        "SourceKeyId": id, "DestinationKeyId": other, "CiphertextBlob": added.wrapped,
        "SourceEncryptionContext": context, "DestinationEncryptionContext": context,
    });
    assert_eq!((call.operation.as_str(), &call.input), ("ReEncrypt", &wanted));
    assert_eq!(lab.open(&changed).passed().mark, wrapped.mark);
}

/// What KMS answers leaves another way; what the way to KMS answers leaves none.
#[test]
fn re_encrypt_that_is_refused_is_told_and_one_that_is_not_reached_fails() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let to = || Then::ReEncrypt(format!("kms:{}", lab.moto.new_key()));
    for (code, said) in [
        ("AccessDeniedException", "no kms:ReEncryptFrom"),
        ("DisabledException", "off"),
        ("NotFoundException", "Invalid keyId"),
        ("UnsupportedOperationException", "not here"),
    ] {
        lab.proxy.fault("ReEncrypt", Fault::error(code, said));
        let outcome = lab.change(&slot, to());
        assert!(outcome.passed().slot.is_none());
        let told = outcome.log.contains(said) && outcome.log.contains("kms:ReEncryptTo");
        assert!(told, "{}", outcome.log);
    }
    lab.proxy.fault("ReEncrypt", Fault::Reset);
    lab.change(&slot, to()).failed(26, &["kms:ReEncrypt"]);
    lab.proxy.fault("ReEncrypt", Fault::error("ExpiredTokenException", "expired"));
    lab.change(&slot, to()).failed(27, &["expired"]);
}

/// Aliases move; the slot must go on naming the key.
#[test]
fn id_alias_and_alias_arn_are_recorded_as_the_keys_arn() {
    let mut lab = Lab::new();
    let id = lab.arn.rsplit('/').next().unwrap().to_owned();
    let alias = format!("alias/cmkfs-{id}");
    lab.moto.kms("CreateAlias", &json!({ "AliasName": alias, "TargetKeyId": id }));
    let account = lab.arn.rsplit_once(':').unwrap().0.to_owned();
    for named in [id, alias.clone(), format!("{account}:{alias}")] {
        let made = lab.create(&format!("kms:{named}"));
        assert_eq!(made.passed().slot.as_ref().unwrap().key, lab.arn, "{named}");
    }
    // The region is in the ARN: a mount needs none in its environment.
    let slot = lab.made().slot.unwrap();
    lab.env.remove("AWS_REGION");
    lab.open(&slot).passed();
    let mut step = lab.opening(&slot);
    step.source = Some(format!("kms:{account}:{alias}"));
    lab.run(&step).passed();
}

#[test]
fn both_endpoint_variables_of_the_sdk_are_honoured() {
    let mut lab = Lab::new();
    let url = lab.env.remove("AWS_ENDPOINT_URL_KMS").unwrap();
    lab.env.insert("AWS_ENDPOINT_URL", url);
    lab.made();
    assert_eq!(lab.proxy.count("GenerateDataKey"), 1);
}

#[test]
fn another_context_is_refused_by_kms() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let mut other_volume = lab.opening(&slot);
    other_volume.volume = "ff".repeat(16);
    let mut other_pairs = lab.opening(&slot);
    other_pairs.pairs = BTreeMap::from([("team".to_owned(), "audio".to_owned())]);
    let mut no_pairs = lab.opening(&slot);
    no_pairs.pairs.clear();
    for step in [other_volume, other_pairs, no_pairs] {
        let wanted = ["InvalidCiphertextException", "encryption context", "restore", &lab.arn];
        lab.run(&step).failed(24, &wanted);
    }
    assert_eq!(lab.proxy.count("Decrypt"), 3, "one call each, no retry");
}

#[test]
fn an_edited_ciphertext_is_refused_by_kms() {
    let lab = Lab::new();
    let mut slot = lab.made().slot.unwrap();
    let mut bytes = data_encoding::BASE64.decode(slot.wrapped.as_bytes()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    slot.wrapped = data_encoding::BASE64.encode(&bytes);
    lab.open(&slot).failed(24, &["InvalidCiphertextException"]);
}

#[test]
fn another_key_than_the_one_that_wrapped_is_named() {
    let lab = Lab::new();
    let mut slot = lab.made().slot.unwrap();
    slot.key = lab.moto.new_key();
    // The emulator says AccessDenied to this; AWS says:
    let said = "The key ID in the request does not identify a CMK that can perform this operation.";
    lab.proxy.fault("Decrypt", Fault::error("IncorrectKeyException", said));
    lab.open(&slot).failed(25, &["IncorrectKeyException", &slot.key, "--key"]);
    assert_eq!(lab.proxy.calls()[1].input["KeyId"], slot.key.as_str());
    let unknown = "1234abcd-12ab-34cd-56ef-1234567890ab";
    let missing = lab.create(&format!("kms:{unknown}"));
    missing.failed(25, &["NotFoundException", unknown, "alias/NAME"]);
}

/// Some emulators answer with a key of their own choice.
#[test]
fn an_answer_by_another_key_is_not_taken() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let body = json!({
        "Plaintext": data_encoding::BASE64.encode(&[7; 32]),
        "KeyId": lab.moto.new_key(),
    });
    lab.proxy.fault("Decrypt", Fault::Answer { status: 200, body: body.to_string() });
    lab.open(&slot).failed(25, &["another key"]);
}

#[test]
fn a_disabled_key_and_one_pending_deletion_are_told_apart() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    for (code, said) in [
        ("DisabledException", format!("{} is disabled", lab.arn)),
        ("KMSInvalidStateException", format!("{} is pending deletion", lab.arn)),
    ] {
        let before = lab.proxy.calls().len();
        lab.proxy.fault("Decrypt", Fault::error(code, &said));
        lab.proxy.fault("GenerateDataKey", Fault::error(code, &said));
        for outcome in [lab.open(&slot), lab.create(&format!("kms:{}", lab.arn))] {
            outcome.failed(23, &[code, &said, "enable-key", &lab.proxy.url()]);
        }
        assert_eq!(lab.proxy.calls().len() - before, 2, "one call each, no retry");
    }
}

#[test]
fn a_denied_call_prints_the_statement_that_the_policy_lacks() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let session = "arn:aws:sts::123456789012:assumed-role/Train/job-1";
    let denied = |operation: &str| {
        let said = format!(
            "User: {session} is not authorized to perform: kms:{operation} on resource: {} because \
             no resource-based policy allows the kms:{operation} action",
            lab.arn
        );
        // AWS writes `Message` in this answer.
        let body = json!({ "__type": "AccessDeniedException", "Message": said });
        lab.proxy.fault(operation, Fault::Answer { status: 400, body: body.to_string() });
    };
    denied("Decrypt");
    let opened = lab.open(&slot);
    opened.failed(22, &["AccessDeniedException", session, &lab.proxy.url(), "kms:ViaService"]);
    let statement = statement(&opened.error);
    assert_eq!(statement["Principal"]["AWS"], "arn:aws:iam::123456789012:role/Train");
    assert_eq!(statement["Action"], json!(["kms:Decrypt"]));
    let equals = json!({
        "kms:EncryptionContext:cmkfs:volume-id": VOLUME,
        "kms:EncryptionContext:team": "vision",
    });
    assert_eq!(statement["Condition"]["StringEquals"], equals);

    denied("GenerateDataKey");
    let created = lab.create(&format!("kms:{}", lab.arn));
    created.failed(22, &["kms:GenerateDataKey"]);
    assert_eq!(self::statement(&created.error)["Action"].as_array().unwrap().len(), 2);
}

fn statement(error: &str) -> Value {
    let (start, end) = (error.find('{').expect("JSON"), error.rfind('}').expect("JSON"));
    serde_json::from_str(&error[start..=end]).expect("JSON")
}

#[test]
fn nobody_listening_is_unreachable_and_named() {
    let mut lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    // Bound, so that no other test gets the port, and not listening.
    let kept = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
    net::bind(&kept, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = SocketAddr::try_from(net::getsockname(&kept).unwrap()).unwrap();
    let url = format!("http://{address}");
    lab.env.insert("AWS_ENDPOINT_URL_KMS", url.clone());
    for outcome in [lab.open(&slot), lab.create(&format!("kms:{}", lab.arn))] {
        outcome.failed(26, &[&url, "refused", "AWS_ENDPOINT_URL_KMS", "network isolation"]);
    }
}

#[test]
fn a_name_that_does_not_resolve_is_unreachable() {
    let mut lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    lab.env.insert("AWS_ENDPOINT_URL_KMS", "https://kms.invalid".to_owned());
    lab.open(&slot).failed(26, &["https://kms.invalid"]);
}

#[test]
fn no_answer_is_given_up_within_the_limit() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    lab.proxy.fault("Decrypt", Fault::Hang);
    let start = Instant::now();
    lab.open(&slot).failed(26, &["in time", &lab.proxy.url()]);
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    assert!(lab.proxy.count("Decrypt") <= 3);
}

#[test]
fn one_reset_is_retried_and_steady_ones_are_unreachable() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    lab.proxy.fault_times("Decrypt", Fault::Reset, 1);
    lab.open(&slot).passed();
    assert_eq!(lab.proxy.count("Decrypt"), 2);
    lab.proxy.fault("Decrypt", Fault::Reset);
    lab.open(&slot).failed(26, &[&lab.proxy.url()]);
    assert_eq!(lab.proxy.count("Decrypt"), 2 + 3);
}

#[test]
fn throttling_is_retried_and_then_told() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let fault = || Fault::error("ThrottlingException", "Rate exceeded");
    lab.proxy.fault_times("Decrypt", fault(), 2);
    lab.open(&slot).passed();
    assert_eq!(lab.proxy.count("Decrypt"), 3);
    lab.proxy.fault("Decrypt", fault());
    lab.open(&slot).failed(28, &["ThrottlingException", "Rate exceeded", "quota"]);
    assert_eq!(lab.proxy.count("Decrypt"), 3 + 3);
}

#[test]
fn missing_and_refused_credentials_are_told_apart_from_a_missing_region() {
    let mut lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let expired = "The security token included in the request is expired";
    lab.proxy.fault("Decrypt", Fault::error("ExpiredTokenException", expired));
    lab.open(&slot).failed(27, &[expired, "renew"]);

    lab.env.remove("AWS_REGION");
    let id = lab.arn.rsplit('/').next().unwrap().to_owned();
    lab.create(&format!("kms:{id}")).failed(27, &["no region", "AWS_REGION"]);

    lab.env.remove("AWS_SECRET_ACCESS_KEY");
    let before = lab.proxy.calls().len();
    lab.open(&slot).failed(27, &["AWS_ACCESS_KEY_ID", "role"]);
    assert_eq!(lab.proxy.calls().len(), before, "no call without credentials");
}

#[test]
fn other_failures_and_answers_that_are_none_are_told() {
    let lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let internal =
        Fault::Error { status: 500, code: "KMSInternalException", message: "internal".to_owned() };
    lab.proxy.fault("Decrypt", internal);
    lab.open(&slot).failed(29, &["KMSInternalException", "try again"]);
    let page = Fault::Answer { status: 403, body: "<html>".to_owned() };
    lab.proxy.fault("Decrypt", page);
    lab.open(&slot).failed(29, &["HTTP status 403"]);
    let key = data_encoding::BASE64.encode(b"a key of 33 bytes, one too many..");
    for body in [
        json!({ "KeyId": lab.arn }).to_string(),
        json!({ "KeyId": lab.arn, "Plaintext": key }).to_string(),
        format!(r#"{{ "KeyId": "{}", "Plaintext": "{key}" "#, lab.arn),
    ] {
        lab.proxy.fault("Decrypt", Fault::Answer { status: 200, body });
        let outcome = lab.open(&slot);
        outcome.failed(29, &["kms:Decrypt"]);
        assert!(!outcome.error.contains(&key), "{}", outcome.error);
    }
}

/// The SDK prints plaintext answers if it is told to; a job's environment must not be able to.
#[test]
fn no_log_holds_a_key_even_if_the_sdk_is_told_to_print_it() {
    let mut lab = Lab::new();
    lab.env.insert("LOG_SENSITIVE_BODIES", "true".to_owned());
    lab.env.insert("RUST_LOG", "trace".to_owned());
    let made = lab.made();
    let opened = lab.open(made.slot.as_ref().unwrap());
    let wrapped =
        lab.change(made.slot.as_ref().unwrap(), Then::Wrap(format!("kms:{}", lab.moto.new_key())));
    let calls = lab.proxy.calls();
    let last = calls.last().unwrap();
    assert_eq!(last.input["Plaintext"], calls[1].output["Plaintext"], "what is looked for");
    for (outcome, call) in [(made, 0), (opened, 1), (wrapped, 3)] {
        let (log, call) = (&outcome.passed().log, &calls[call]);
        let text = calls[0].output["Plaintext"].as_str().unwrap();
        let bytes = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
        let listed = format!("{:?}", &bytes[..8]);
        for form in [text, &data_encoding::HEXLOWER.encode(&bytes), listed.trim_matches(['[', ']'])]
        {
            assert!(!log.contains(form), "{log}");
        }
        assert!(log.contains(&format!("kms:{}", call.operation)), "the call itself is: {log}");
        assert!(!log.contains("aws_smithy"), "{log}");
    }
}

/// An answer comes through buffers of TLS, HTTP and JSON code that is not ours.
#[test]
fn the_key_is_in_memory_once_and_its_text_nowhere() {
    let lab = Lab::new();
    let create = Step {
        volume: VOLUME.to_owned(),
        pairs: lab.pairs.clone(),
        source: Some(format!("kms:{}", lab.arn)),
        slots: None,
        then: Then::Open,
    };
    let look = |pid| {
        let calls = lab.proxy.calls();
        let text = calls.last().unwrap().output["Plaintext"].as_str().unwrap();
        let key = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
        assert_eq!(times_in_memory(pid, &key), 1);
        for half in [&text[..22], &text[22..]] {
            assert_eq!(times_in_memory(pid, half.as_bytes()), 0);
        }
    };
    let made = lab.run_and_look(&create, look);
    let open = lab.opening(made.passed().slot.as_ref().unwrap());
    lab.run_and_look(&open, look).passed();
    let look = |pid| {
        let calls = lab.proxy.calls();
        let text = calls.last().unwrap().input["Plaintext"].as_str().unwrap();
        let key = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
        assert_eq!(times_in_memory(pid, &key), 1);
        assert_eq!(times_in_memory(pid, &text.as_bytes()[..22]), 0);
    };
    let then = Then::Wrap(format!("kms:{}", lab.moto.new_key()));
    lab.run_and_look(&Step { then, ..open }, look).passed();
}

/// The key that wraps is zeroed when it has.
#[test]
fn a_key_of_secrets_manager_is_not_in_memory_when_the_volume_key_is() {
    let lab = Lab::new();
    let key = *b"KEY of 32 bytes that is a secret";
    let text = data_encoding::BASE64.encode(&key);
    for content in [json!({ "SecretBinary": text }), json!({ "SecretString": text })] {
        let source = format!("secretsmanager:{}", lab.moto.secret(&content));
        let create = Step {
            volume: VOLUME.to_owned(),
            pairs: lab.pairs.clone(),
            source: Some(source),
            slots: None,
            then: Then::Open,
        };
        let look = |pid| {
            let calls = lab.proxy.calls();
            let output = calls.last().unwrap().output.to_string();
            assert!(output.contains(&text), "what is looked for");
            assert_eq!(times_in_memory(pid, &key[..20]), 0);
            assert_eq!(times_in_memory(pid, &text.as_bytes()[..30]), 0);
        };
        let made = lab.run_and_look(&create, look);
        let open = lab.opening(made.passed().slot.as_ref().unwrap());
        lab.run_and_look(&open, look).passed();
    }
}

/// One slot under a key file and one under KMS: KMS is not asked as long as the file is there.
#[test]
fn kms_is_asked_only_if_no_key_file_opens() {
    let lab = Lab::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let local = lab.create(&format!("local:{}", file.display()));
    let local = Slot { id: 2, ..local.passed().slot.clone().unwrap() };
    let made = lab.made();
    let mut step = lab.opening(made.slot.as_ref().unwrap());
    step.slots.as_mut().unwrap().push(local);
    lab.run(&step).passed();
    assert_eq!(lab.proxy.count("Decrypt"), 0);
    fs::remove_file(&file).unwrap();
    let opened = lab.run(&step);
    assert_eq!(opened.passed().mark, made.mark);
    assert!(opened.log.is_empty() || !opened.log.contains("panicked"));
    // Both fail: what KMS says tells more than a missing file.
    lab.proxy.fault("Decrypt", Fault::error("DisabledException", "off"));
    let failed = lab.run(&step);
    failed.failed(23, &["off"]);
    assert!(failed.log.contains("No such file"), "{}", failed.log);
}
