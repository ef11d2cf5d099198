//! `key`.

use std::io::IsTerminal;
use std::path::Path;

use crate::cli::args::{KeyVerb, OpenedBy};
use crate::cli::fail::Fail;
use crate::cli::{audit, grant, policy, show};
use crate::config::Size;
use crate::keys::KeySource;
use crate::lifecycle::VerbError;
use crate::lifecycle::key as verb;
use crate::lifecycle::key::status::{DaemonKey, KeyStatus};
use crate::lifecycle::key::{Rekeyed, RotateOptions, Work};
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
        KeyVerb::Rotate { volume, rewrap, reencrypt, rate, json, key } => {
            let key = opened_by(key)?;
            let work = match (rewrap, reencrypt) {
                (true, _) => Some(Work::Rewrap),
                (false, true) => Some(Work::Reencrypt),
                (false, false) => None,
            };
            let bytes_per_s = rate.map(|megabytes| megabytes.saturating_mul(1_000_000));
            rotate(volume, &RotateOptions { work, bytes_per_s, key: key.as_ref() }, *json)
        }
    }
}

/// Makes new keys, and says on a terminal how far it is.
fn rotate(volume: &Path, options: &RotateOptions<'_>, json: bool) -> Result<(), Fail> {
    let is_terminal = std::io::stderr().is_terminal();
    let mut told = false;
    let mut progress = |done: &Rekeyed| {
        if is_terminal {
            told = true;
            show::note(&format!("\r\x1b[K{}", files_text(done)));
        }
        true
    };
    let result = verb::rotate(volume, options, &mut progress);
    if told {
        show::note("\r\x1b[K");
    }
    let rotated = result?;
    if json {
        return show::json(&rotated);
    }
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let made = if rotated.resumed { "went on with epoch" } else { "new epoch" };
    let mut rows = vec![row(made, rotated.epoch.0.to_string())];
    rows.extend(rotated.slots.iter().map(|slot| {
        let key = format!("{} {}", shown(&slot.provider), shown(&slot.key));
        row(&format!("key slot {}", slot.id), key)
    }));
    if rotated.mounts > 0 {
        rows.push(row("taken up by", format!("{} mounts", rotated.mounts)));
    }
    if let Some(done) = &rotated.files {
        rows.push(row("files", files_text(done)));
        if !done.finished {
            rows.push(row("not finished", "run it again to go on".to_owned()));
        }
    }
    show::text(&show::table(&rows))
}

fn files_text(done: &Rekeyed) -> String {
    let Rekeyed { seen, files, bytes, damaged, .. } = *done;
    let damaged = match damaged {
        0 => String::new(),
        _ => format!(", {damaged} damaged ones left as they are (`cmkfs check` names them)"),
    };
    format!("{files} brought under it ({}), {seen} looked at{damaged}", Size(bytes))
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
        row("key epochs", epochs_text(found)),
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

fn epochs_text(found: &KeyStatus) -> String {
    let pending = match found.pending {
        None => "",
        Some(Work::Rewrap) => "; not all files are under it (`key rotate --rewrap` goes on)",
        Some(Work::Reencrypt) => "; not all files are under it (`key rotate --reencrypt` goes on)",
    };
    format!("{}, new files are of epoch {}{pending}", found.epochs, found.epoch.0)
}

fn daemon_text(daemon: &DaemonKey) -> String {
    let (provider, key) = (shown(&daemon.provider), shown(&daemon.key));
    let slot = daemon.slot.map_or_else(String::new, |slot| format!(", by key slot {slot}"));
    format!("process {}{slot}, {provider} {key}", daemon.pid).trim_end().to_owned()
}
