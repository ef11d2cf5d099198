//! Where requests may go: by HTTPS anywhere, by plain HTTP to this machine only, unless the user
//! allows more. What KMS answers is a volume key in the clear, and only TLS hides it on the way.
//!
//! An address counts as this machine by what is written: `127.0.0.0/8`, `[::1]`, `localhost`. A
//! name that resolves to such an address does not: the answer of a name server is somebody else's,
//! and may be another one when the connection is made.

use std::env;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};

/// With the value 1 it allows plain HTTP.
pub const PLAIN_HTTP_VARIABLE: &str = "CMKFS_ALLOW_PLAIN_HTTP";

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Allows plain HTTP to any address, for the rest of the process.
pub fn allow_plain_http() {
    ALLOWED.store(true, Ordering::Relaxed);
}

/// Whether plain HTTP may go anywhere, by [`allow_plain_http`] or by [`PLAIN_HTTP_VARIABLE`].
pub fn plain_http_is_allowed() -> bool {
    ALLOWED.load(Ordering::Relaxed) || env::var_os(PLAIN_HTTP_VARIABLE).is_some_and(|v| v == "1")
}

/// Why no request may go to this address; `None` if one may.
pub(super) fn refusal(url: &str) -> Option<String> {
    if plain_http_is_allowed() { None } else { exposure(url) }
}

/// Who would see what is sent to this address; `None` for HTTPS and for this machine.
pub fn exposure(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("no scheme", url));
    if scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let host = host(rest);
    let plain = scheme.eq_ignore_ascii_case("http");
    if plain && is_loopback(host) {
        return None;
    }
    let how = if plain { "plain HTTP" } else { "not HTTPS" };
    Some(format!("{how} to {host}, which is not this machine: the network would see the key"))
}

/// Whether it is an address at which a machine or container is given its own credentials, by plain
/// HTTP on a link that no network passes on: `169.254.0.0/16` and `fd00:ec2::/32`.
pub(super) fn is_metadata(url: &str) -> bool {
    let host = url.split_once("://").map_or("", |(_, rest)| host(rest));
    host.parse().is_ok_and(|address: Ipv4Addr| address.is_link_local())
        || host.parse().is_ok_and(|address: Ipv6Addr| address.segments()[..2] == [0xfd00, 0xec2])
}

/// A text without user and password of the addresses in it: `http://user:password@host/`. What the
/// SDK says may have the address that it was given, from a variable or a profile.
pub(super) fn without_users(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let ends =
            |c: char| c.is_whitespace() || ['/', '?', '#', '\\', '"', '\'', '`'].contains(&c);
        let authority = &part[..part.find(ends).unwrap_or(part.len())];
        let user = authority.rfind('@').map_or(0, |at| at + 1);
        shown += "://";
        shown += &part[user..];
    }
    shown
}

/// The host of what follows `://`, without port and user.
fn host(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    let v6 = |address: Ipv6Addr| {
        address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
    };
    host.trim_end_matches('.').eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
        || host.parse().is_ok_and(v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_goes_anywhere_and_plain_http_to_this_machine() {
        for url in [
            "https://kms.eu-west-1.amazonaws.com/",
            "HTTPS://kms:8080",
            "http://127.0.0.1:5000/",
            "http://127.9.9.9",
            "http://localhost:5000",
            "http://LOCALHOST./x",
            "http://[::1]:5000/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert_eq!(refusal(url), None, "{url}");
        }
    }

    #[test]
    fn users_and_passwords_of_addresses_are_left_out() {
        for (text, shown) in [
            ("http://user:pass@kms:8080/", "http://kms:8080/"),
            ("https://user@[::1]:5000", "https://[::1]:5000"),
            ("https://a:p@ss@kms/x@y", "https://kms/x@y"),
            ("http://kms/", "http://kms/"),
            (
                "can't reach `http://u:p@a`, nor https://u:p@b: me@home",
                "can't reach `http://a`, nor https://b: me@home",
            ),
            ("no address", "no address"),
            ("", ""),
        ] {
            assert_eq!(without_users(text), shown);
        }
    }

    #[test]
    fn credentials_of_the_machine_are_on_its_own_link() {
        for (url, is) in [
            ("http://169.254.169.254/latest/meta-data/", true),
            ("http://169.254.170.2/v2/credentials/x", true),
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::254]/latest", true),
            ("http://[fd00:ec3::254]/latest", false),
            ("http://169.254.169.254.example.com/", false),
            ("http://169.253.169.254/", false),
            ("http://x@10.0.0.1/169.254.169.254", false),
            ("169.254.169.254", false),
        ] {
            assert_eq!(is_metadata(url), is, "{url}");
        }
        // Such an address is no endpoint for keys.
        assert!(refusal("http://169.254.169.254/").is_some());
    }

    #[test]
    fn whatever_only_looks_like_this_machine_is_refused_by_name() {
        for (url, host) in [
            ("http://kms:8080/", "kms"),
            ("http://10.0.0.1", "10.0.0.1"),
            ("http://0.0.0.0:5000", "0.0.0.0"),
            ("http://127.0.0.1.example.com/", "127.0.0.1.example.com"),
            ("http://localhost.example.com/", "localhost.example.com"),
            ("http://kms.localhost/", "kms.localhost"),
            ("http://localhost@kms/", "kms"),
            ("http://localhost:80@kms/x@localhost", "kms"),
            ("http://kms?@localhost", "kms"),
            ("http://kms\\@localhost", "kms"),
            ("http://[fd00::1]:80/", "fd00::1"),
            ("http://2130706433/", "2130706433"),
            ("ftp://localhost/", "localhost"),
            ("kms:8080", "kms"),
            ("", ""),
        ] {
            let said = refusal(url).unwrap_or_else(|| panic!("{url} was let through"));
            assert!(said.contains(&format!(" to {host}, ")), "{url}: {said}");
        }
    }
}
