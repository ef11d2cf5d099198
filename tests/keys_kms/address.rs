//! Where requests go: FIPS and dual-stack endpoints, and plain HTTP, which stays on this machine.

use std::fs;

use crate::keys_lab::Lab;

/// No server has these names: their region is not one. The error names what was tried.
#[test]
fn fips_and_dual_stack_endpoints_are_the_sdks() {
    let mut lab = Lab::new();
    lab.env.remove("AWS_ENDPOINT_URL_KMS");
    lab.env.insert("AWS_REGION", "eu-west-99".to_owned());
    let key = format!("kms:alias/{}", lab.arn.rsplit('/').next().unwrap());
    for (fips, dual_stack, host) in [
        (true, false, "kms-fips.eu-west-99.amazonaws.com"),
        (false, true, "kms.eu-west-99.api.aws"),
    ] {
        lab.env.insert("AWS_USE_FIPS_ENDPOINT", fips.to_string());
        lab.env.insert("AWS_USE_DUALSTACK_ENDPOINT", dual_stack.to_string());
        lab.create(&key).failed(26, &[&format!("https://{host}/")]);
    }
}

/// The proxy, by an address that is this machine's and does not look like it.
fn not_loopback(lab: &Lab) -> String {
    lab.proxy.url().replace("127.0.0.1", "0.0.0.0")
}

#[test]
fn plain_http_to_another_machine_is_refused_before_anything_is_sent() {
    let mut lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let before = lab.proxy.connections();
    let url = not_loopback(&lab);
    for variable in ["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"] {
        lab.env.remove("AWS_ENDPOINT_URL_KMS");
        lab.env.insert(variable, url.clone());
        for outcome in [lab.open(&slot), lab.create(&format!("kms:{}", lab.arn))] {
            let wanted = "plain HTTP to 0.0.0.0";
            outcome.failed(70, &[&url, wanted, "nothing was sent", "--allow-plain-http"]);
        }
    }
    assert_eq!(lab.proxy.connections(), before, "somebody came");
    lab.env.insert("CMKFS_ALLOW_PLAIN_HTTP", "yes".to_owned());
    lab.open(&slot).failed(70, &[]);
    lab.env.insert("CMKFS_ALLOW_PLAIN_HTTP", "1".to_owned());
    lab.open(&slot).passed();
}

/// Credentials by web identity come from STS, which is sent the token.
#[test]
fn no_token_is_sent_to_sts_by_plain_http() {
    let mut lab = Lab::new();
    let slot = lab.made().slot.unwrap();
    let before = lab.proxy.connections();
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "a token").unwrap();
    lab.env.remove("AWS_ACCESS_KEY_ID");
    lab.env.remove("AWS_SECRET_ACCESS_KEY");
    lab.env.insert("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().to_str().unwrap().to_owned());
    lab.env.insert("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/Train".to_owned());
    lab.env.insert("AWS_ENDPOINT_URL_STS", not_loopback(&lab));
    lab.open(&slot).failed(70, &["0.0.0.0", "nothing was sent"]);
    assert_eq!(lab.proxy.connections(), before, "somebody came");
    // The emulator knows STS too.
    lab.env.insert("AWS_ENDPOINT_URL_STS", lab.proxy.url());
    lab.open(&slot).passed();
    assert!(lab.proxy.connections() > before + 1);
}
