//! Whether the volume key can be had: by the slots of a volume that is there, or by the source that
//! a new one would have. Only what the source needs is looked at: no KMS for a key file.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use crate::cipher::VolumeKeys;
use crate::format::descriptor::{Descriptor, Slot};
use crate::format::utc::Utc;
use crate::keys::{self, Context, KeyError, KeyFile, KeySource, KmsError, KmsFailure, KmsNotes};
use crate::keys::{KmsTrial, OutputKey, Validity};
use crate::lifecycle::doctor::finding::{Finding, Status};

/// Seconds by which a clock may be wrong before anybody should care, and before AWS refuses what
/// it signs.
const CLOCK_WARNS_S: u64 = 60;
const CLOCK_FAILS_S: u64 = 300;

const NO_REGION: &str = "region fails, and some credentials are asked for in a region";

/// The source of a volume that is not there yet. `why` says whose choice it is.
pub(in crate::lifecycle::doctor) fn of_source(
    source: &KeySource,
    why: &str,
    pairs: &BTreeMap<String, String>,
) -> Vec<Finding> {
    let named = Finding::ok("key_source", format!("{source}, {why}")).value(kind(source));
    let mut findings = vec![named];
    match source {
        KeySource::Transient => {}
        KeySource::Kms(id) => findings.extend(of_trial(&keys::try_kms(id, pairs))),
        KeySource::SecretsManager(arn) => {
            let trial = keys::try_secret(arn, pairs);
            findings.extend(way(&trial.notes, trial.read.as_ref().err()));
            findings.push(call("secret", "it holds a key", &trial.read));
            findings.push(clock(&trial.notes));
        }
        KeySource::Local(_) | KeySource::File(_) | KeySource::Fd(_) => {
            findings.push(key_file(source));
        }
    }
    findings
}

/// The output key, the one that was named or else the one of the volume; `None`: there is none.
pub(in crate::lifecycle::doctor) fn output(
    named: Option<&OutputKey>,
    recorded: Option<&str>,
) -> Option<Finding> {
    const CHECK: &str = "output_key";
    let key = match (named, recorded.map(str::parse)) {
        (Some(key), _) => key.clone(),
        (None, None) => return None,
        (None, Some(Ok(key))) => key,
        (None, Some(Err(error))) => return Some(failing(CHECK, &error)),
    };
    Some(match keys::try_output(&key, &KmsNotes::default()) {
        Ok(trial) if trial.tried => Finding::ok(CHECK, format!("{key} made a data key")),
        Ok(_) => Finding::ok(CHECK, format!("{key}: AWS manages it, S3 alone can use it")),
        Err(error) => failing(CHECK, &error),
    })
}

fn kind(source: &KeySource) -> &'static str {
    match source {
        KeySource::Local(_) => "local",
        KeySource::Kms(_) => "kms",
        KeySource::Transient => "transient",
        KeySource::File(_) => "file",
        KeySource::Fd(_) => "fd",
        KeySource::SecretsManager(_) => "secretsmanager",
    }
}

fn key_file(source: &KeySource) -> Finding {
    const CHECK: &str = "key_file";
    match keys::try_file(source) {
        Ok(Some(KeyFile::There(path))) => {
            Finding::ok(CHECK, format!("{} has a key", path.display())).value("there")
        }
        Ok(Some(KeyFile::ToBeMade(path))) => {
            Finding::ok(CHECK, format!("{} is made at first use", path.display())).value("missing")
        }
        Ok(None) => Finding::ok(CHECK, "none is needed").value("none"),
        Err(error) => failing(CHECK, &error),
    }
}

/// What was found, and what to do.
fn explained(error: &KeyError) -> (String, String) {
    match error {
        KeyError::Kms(error) => (error.what(), error.remedy()),
        KeyError::KeyFile { path, found, remedy } => {
            (format!("key file {}: {found}", path.display()), remedy.clone())
        }
        other => {
            let text = other.to_string();
            let parts = text.rsplit_once("; ").or_else(|| text.rsplit_once(": "));
            match parts {
                Some((found, remedy)) => (found.to_owned(), remedy.to_owned()),
                None => (text, format!("see exit code {} in the README", other.exit_code())),
            }
        }
    }
}

fn failing(check: &'static str, error: &KeyError) -> Finding {
    let (found, remedy) = explained(error);
    Finding::fails(check, found, remedy)
}

fn of_trial(trial: &KmsTrial) -> Vec<Finding> {
    let opened = || trial.opened.as_ref().and_then(|opened| opened.as_ref().err());
    let first = trial.made.as_ref().err().or_else(opened);
    let mut findings = way(&trial.notes, first);
    findings.push(call("generate_data_key", "a data key was made and forgotten", &trial.made));
    findings.push(match &trial.opened {
        Some(opened) => call("decrypt", "it was unwrapped, under the context of a trial", opened),
        None => Finding::not_checked("decrypt", because_of(trial.made.as_ref().err())),
    });
    findings.push(clock(&trial.notes));
    findings
}

/// Which check tells why nothing was made.
fn because_of(error: Option<&KeyError>) -> &'static str {
    match error {
        Some(KeyError::Kms(error)) => before_the_key(error).unwrap_or("generate_data_key fails"),
        _ => "generate_data_key fails",
    }
}

/// Whether a failure says that the key itself was not reached, and which check says so.
fn before_the_key(error: &KmsError) -> Option<&'static str> {
    match error.failure {
        KmsFailure::NoRegion => Some("region fails"),
        KmsFailure::NoCredentials | KmsFailure::BadCredentials | KmsFailure::RoleDenied => {
            Some("credentials fails")
        }
        KmsFailure::Unreachable | KmsFailure::PlainHttp | KmsFailure::Untrusted => {
            Some("endpoint fails")
        }
        KmsFailure::Clock => Some("clock fails"),
        _ => None,
    }
}

fn call(check: &'static str, passed: &str, result: &Result<(), KeyError>) -> Finding {
    match result {
        Ok(()) => Finding::ok(check, passed),
        Err(KeyError::Kms(error)) if let Some(because) = before_the_key(error) => {
            Finding::not_checked(check, because)
        }
        Err(error) => failing(check, error),
    }
}

/// The way to KMS: credentials, region, endpoint. `error` is the first of the calls.
fn way(notes: &KmsNotes, error: Option<&KeyError>) -> Vec<Finding> {
    let error = match error {
        Some(KeyError::Kms(error)) => Some(&**error),
        _ => None,
    };
    let failed = |failures: &[KmsFailure]| error.filter(|error| failures.contains(&error.failure));
    let fails = |check, error: &KmsError| Finding::fails(check, error.what(), error.remedy());
    let credentials =
        failed(&[KmsFailure::NoCredentials, KmsFailure::BadCredentials, KmsFailure::RoleDenied]);
    let credentials = match (credentials, notes.credentials()) {
        (Some(error), _) => fails("credentials", error),
        (None, Some(validity)) => Finding::ok("credentials", shown(validity)),
        (None, None) if failed(&[KmsFailure::NoRegion]).is_some() => {
            Finding::not_checked("credentials", NO_REGION)
        }
        (None, None) => Finding::not_checked("credentials", "not asked for"),
    };
    let region = match (failed(&[KmsFailure::NoRegion]), notes.region()) {
        (Some(error), _) => fails("region", error),
        (None, Some(region)) => Finding::ok("region", region).value(region),
        (None, None) => Finding::not_checked("region", "not asked for"),
    };
    let endpoint =
        match failed(&[KmsFailure::Unreachable, KmsFailure::PlainHttp, KmsFailure::Untrusted]) {
            Some(error) => fails("endpoint", error),
            None => reached(notes),
        };
    let endpoint = match notes.endpoint() {
        Some(url) => endpoint.value(url),
        None => endpoint,
    };
    vec![credentials, region, endpoint]
}

fn shown(validity: Validity) -> String {
    match validity {
        Validity::Lasting => "found, a user's: they do not end by themselves".to_owned(),
        Validity::Session => "found, of a session".to_owned(),
        Validity::Until(end) => {
            let seconds = end.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            format!("found, of a session until {}", Utc::from_unix_s(seconds))
        }
    }
}

fn reached(notes: &KmsNotes) -> Finding {
    const CHECK: &str = "endpoint";
    let Some(url) = notes.endpoint() else {
        return Finding::not_checked(CHECK, "credentials or region fails");
    };
    match keys::exposure(url) {
        Some(why) => Finding::warning(
            CHECK,
            format!("{url} answers: {why}"),
            "allowed by --allow-plain-http or CMKFS_ALLOW_PLAIN_HTTP; use https:// if you can",
        ),
        None => Finding::ok(CHECK, format!("{url} answers")),
    }
}

fn clock(notes: &KmsNotes) -> Finding {
    const CHECK: &str = "clock";
    let Some(ahead) = notes.clock_ahead_s() else {
        return Finding::not_checked(CHECK, "no answer of KMS that tells its time");
    };
    let (by, side) = (ahead.unsigned_abs(), if ahead < 0 { "behind" } else { "ahead of" });
    let found = format!("{by} s {side} the clock of KMS");
    let remedy =
        "set the clock: systemctl restart chronyd (or systemd-timesyncd), chronyc makestep";
    let finding = match by {
        0..=CLOCK_WARNS_S => Finding::ok(CHECK, found),
        _ if by <= CLOCK_FAILS_S => Finding::warning(CHECK, found, remedy),
        _ => Finding::fails(CHECK, format!("{found}: AWS refuses what it signs"), remedy),
    };
    finding.value(ahead.to_string())
}

/// The slots of a volume, each by itself, and whether what comes out of one is the volume's key.
/// `source` stands in the place of what the slots say.
pub(in crate::lifecycle::doctor) fn of_volume(
    descriptor: &Descriptor,
    source: Option<&KeySource>,
) -> Vec<Finding> {
    let context = Context { volume_id: descriptor.volume_id, pairs: &descriptor.context };
    let mut tried: Vec<(Vec<Finding>, Option<keys::Opened>)> = Vec::new();
    let mut unfit = None;
    // A descriptor can be read once only, so that it is tried on all slots together.
    let together = matches!(source, Some(KeySource::Fd(_))).then_some(descriptor.slots.len());
    for slots in descriptor.slots.chunks(together.unwrap_or(1).max(1)) {
        let notes = KmsNotes::default();
        match keys::open_noting(slots, source, &context, &notes) {
            Err(error @ KeyError::NoSlot { .. }) => unfit = Some(error),
            result => {
                let opened = result.as_ref().ok().map(|opened| opened.slot);
                let slot = slots.iter().find(|slot| Some(slot.id) == opened).unwrap_or(&slots[0]);
                tried.push(of_slot(slot, result, &notes));
            }
        }
    }
    if tried.is_empty() {
        let error = unfit.unwrap_or(KeyError::Gone);
        let missing = Finding::not_checked("volume", "key_source fails");
        return vec![failing("key_source", &error), missing];
    }
    let count = descriptor.slots.len();
    let by = source.map_or_else(String::new, |source| format!(", by {source}"));
    let word = source.map_or("slots", kind);
    let named = format!("{} of {count} key slots of the volume{by}", tried.len());
    let mut findings = vec![Finding::ok("key_source", named).value(word)];
    let others_open = tried.iter().any(|(_, opened)| opened.is_some());
    let mut key = None;
    for (of_slot, opened) in tried {
        // Another slot opens the volume; the clock is the same for all.
        let spared = opened.is_none() && others_open;
        findings.extend(of_slot.into_iter().map(|finding| match finding.status {
            Status::Fails if spared && finding.check != "clock" => {
                Finding { status: Status::Warning, ..finding }
            }
            _ => finding,
        }));
        key = key.or(opened);
    }
    findings.push(volume(descriptor, key.as_ref()));
    findings
}

fn of_slot(
    slot: &Slot,
    result: Result<keys::Opened, KeyError>,
    notes: &KmsNotes,
) -> (Vec<Finding>, Option<keys::Opened>) {
    let (opened, error) = match result {
        Ok(opened) => (Some(opened), None),
        Err(error) => (None, Some(error)),
    };
    let of_secret = slot.provider == keys::SECRETS_MANAGER && notes.region().is_some();
    let findings = if slot.provider == keys::KMS || of_secret {
        let check = if of_secret { "secret" } else { "decrypt" };
        let mut findings = way(notes, error.as_ref());
        let done = error.map_or(Ok(()), Err);
        findings.push(call(check, &format!("{} opens the slot", slot.key), &done));
        findings.push(clock(notes));
        findings
    } else {
        let key = opened.as_ref().map_or("", |opened| &opened.key_id);
        vec![match &error {
            None => Finding::ok("key_file", format!("{key} opens the slot")).value("there"),
            Some(error) => failing("key_file", error),
        }]
    };
    let subject = format!("slot {}", slot.id);
    let findings = findings.into_iter().map(|finding| finding.of(Some(subject.as_str()))).collect();
    (findings, opened)
}

/// Whether `volume.json` is as whoever has the key left it.
fn volume(descriptor: &Descriptor, opened: Option<&keys::Opened>) -> Finding {
    const CHECK: &str = "volume";
    let Some(opened) = opened else { return Finding::not_checked(CHECK, "no key slot opens") };
    match VolumeKeys::open(&opened.key, descriptor) {
        Ok(_) => Finding::ok(CHECK, format!("slot {} opens it; volume.json is whole", opened.slot)),
        Err(error) => Finding::fails(
            CHECK,
            format!("volume.json: {error}"),
            "restore volume.json from a snapshot (cmkfs snapshot restore)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BlockSize;
    use crate::lifecycle::init::{InitOptions, init};

    #[test]
    fn what_a_key_error_says_is_parted_from_what_to_do() {
        let error = KeyError::NoHome;
        let (found, remedy) = explained(&error);
        assert!(
            found.starts_with("no place") && remedy.starts_with("set HOME"),
            "{found} {remedy}"
        );
        let error = KeyError::Provider { slot: 2, provider: "tpm".to_owned() };
        let (found, remedy) = explained(&error);
        assert!(found.ends_with("does not know") && remedy == "use a later one", "{found}");
    }

    fn statuses(findings: &[Finding]) -> Vec<(&str, Status)> {
        findings.iter().map(|finding| (finding.check, finding.status)).collect()
    }

    #[test]
    fn a_slot_that_fails_is_a_warning_where_another_opens() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeySource::Local(Some(dir.path().join("key")));
        let (block_size, context) = (BlockSize::DEFAULT, BTreeMap::new());
        let options = InitOptions { key, output_key: None, block_size, context };
        let mut descriptor = init(&dir.path().join("store"), &options).unwrap().descriptor;
        let ok = [("key_source", Status::Ok), ("key_file", Status::Ok), ("volume", Status::Ok)];
        assert_eq!(statuses(&of_volume(&descriptor, None)), ok);
        let missing = KeySource::File(dir.path().join("none"));
        let fails = of_volume(&descriptor, Some(&missing));
        let wanted = [ok[0], ("key_file", Status::Fails), ("volume", Status::NotChecked)];
        assert_eq!(statuses(&fails), wanted);
        assert!(fails[1].remedy.is_some());

        // A slot that nobody with the key has put there: the volume is told too.
        let lost = Slot { id: 2, key: "/none/key".to_owned(), ..descriptor.slots[0].clone() };
        descriptor.slots.insert(0, lost);
        let found = of_volume(&descriptor, None);
        let wanted = [ok[0], ("key_file", Status::Warning), ok[1], ("volume", Status::Fails)];
        assert_eq!(statuses(&found), wanted);
        assert_eq!(found[1].subject.as_deref(), Some("slot 2"));
        let foreign = of_volume(&descriptor, Some(&KeySource::Kms("alias/x".to_owned())));
        let wanted = [("key_source", Status::Fails), ("volume", Status::NotChecked)];
        assert_eq!(statuses(&foreign), wanted);
    }

    #[test]
    fn a_local_key_needs_no_kms() {
        let dir = tempfile::tempdir().unwrap();
        let source = KeySource::Local(Some(dir.path().join("key")));
        let findings = of_source(&source, "as named", &BTreeMap::new());
        let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
        assert_eq!(checks, ["key_source", "key_file"]);
        assert!(findings.iter().all(|finding| finding.status == Status::Ok));
        assert!(!dir.path().join("key").exists());
        let none = KeySource::File(dir.path().join("none"));
        assert_eq!(of_source(&none, "", &BTreeMap::new())[1].status, Status::Fails);
        assert_eq!(of_source(&KeySource::Transient, "", &BTreeMap::new()).len(), 1);
    }
}
