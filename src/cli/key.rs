//! `key`.

use std::path::Path;

use crate::cli::args::{KeyVerb, OpenedBy};
use crate::cli::fail::Fail;
use crate::cli::{audit, grant, policy, show};
use crate::keys::KeySource;
use crate::lifecycle::VerbError;
use crate::lifecycle::key as verb;
use crate::lifecycle::key::status::{DaemonKey, KeyStatus};
use crate::lifecycle::report::SlotReport;

pub(in crate::cli) fn key(wanted: &KeyVerb) -> Result<(), Fail> {
    match wanted {
        KeyVerb::Policy(arguments) => policy::policy(arguments),
        KeyVerb::Grant(wanted) => grant::grant(wanted),
        KeyVerb::Audit(arguments) => audit::audit(arguments),
        KeyVerb::Status { volume, json } => {
            let found = verb::status::status(volume)?;
            if *json { show::json(&found) } else { show::text(&status_text(&found)) }
        }
        KeyVerb::Add { volume, new, key } => {
            let added = verb::add(volume, &source(new)?, opened_by(key)?.as_ref())?;
            let done = if added.was_there { "was there" } else { "added" };
            said(&[(done, &added.slot), ("opened by", &added.opened_by)])
        }
        KeyVerb::Remove { volume, slot, key } => {
            let removed = verb::remove(volume, *slot, opened_by(key)?.as_ref())?;
            said(&[("removed", &removed.slot), ("opened by", &removed.opened_by)])
        }
        KeyVerb::Rewrap { volume, to, slot, key } => {
            let key = opened_by(key)?;
            let done = verb::rewrap(volume, &source(to)?, *slot, key.as_ref())?;
            let how = if done.by_kms { "rewrapped by KMS" } else { "rewrapped" };
            said(&[("was", &done.was), (how, &done.slot)])
        }
    }
}

fn source(typed: &str) -> Result<KeySource, Fail> {
    typed.parse().map_err(|error| VerbError::Key(error).into())
}

fn opened_by(arguments: &OpenedBy) -> Result<Option<KeySource>, Fail> {
    arguments.key.as_deref().map(source).transpose()
}

/// A key file's path comes from whoever wrote the store.
fn shown(key: &str) -> String {
    show::name(Path::new(key))
}

fn said(slots: &[(&str, &SlotReport)]) -> Result<(), Fail> {
    let row = |(what, slot): &(&str, &SlotReport)| {
        let slot_key = format!("{} {}", shown(&slot.provider), shown(&slot.key));
        vec![(*what).to_owned(), format!("key slot {}", slot.id), slot_key]
    };
    show::text(&show::table(&slots.iter().map(row).collect::<Vec<_>>()))
}

fn time(unix_s: Option<u64>) -> String {
    let known = unix_s.map(|unix_s| show::time(i64::try_from(unix_s).unwrap_or(i64::MAX)));
    known.unwrap_or_else(|| "unknown".to_owned())
}

fn status_text(found: &KeyStatus) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("volume", found.volume_id.to_string()),
        row("store", show::name(&found.store)),
        row("key epochs", found.epochs.to_string()),
    ];
    rows.extend(found.output_key.iter().map(|key| row("output key", shown(key))));
    rows.extend(found.daemons.iter().map(|daemon| row("mounted by", daemon_text(daemon))));
    if found.slots.is_empty() {
        rows.push(row("key slots", "none: the key is transient".to_owned()));
        return show::table(&rows);
    }
    let head = ["slot", "provider", "in use", "last use", "key"].map(str::to_owned);
    let mut slots = vec![head.to_vec()];
    slots.extend(found.slots.iter().map(|slot| {
        let in_use = if slot.in_use { "yes" } else { "no" }.to_owned();
        let (provider, key) = (shown(&slot.provider), shown(&slot.key));
        vec![slot.id.to_string(), provider, in_use, time(slot.last_used_unix_s), key]
    }));
    format!("{}\n{}", show::table(&rows), show::table(&slots))
}

fn daemon_text(daemon: &DaemonKey) -> String {
    let (provider, key) = (shown(&daemon.provider), shown(&daemon.key));
    let slot = daemon.slot.map_or_else(String::new, |slot| format!(", by key slot {slot}"));
    format!("process {}{slot}, {provider} {key}", daemon.pid).trim_end().to_owned()
}
