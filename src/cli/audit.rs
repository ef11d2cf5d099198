//! `key audit`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::fail::Fail;
use crate::cli::show;
use crate::keys::CallRecord;
use crate::lifecycle::key::audit::{self as verb, Audit};

const AUDIT_FIELDS: &str = "\
Asks nobody: it shows what the processes of this user recorded on this machine, and prints the \
commands that show all of it in CloudTrail. With --json: one object with volume_id, record (the \
file), bounds, unreadable (lines), lookups (shell commands) and calls, each with eventTime, \
eventSource, eventName, awsRegion, requestID, keyId, sourceKeyId (of ReEncrypt), \
encryptionContext, all as in CloudTrail, and endpoint, outcome, httpStatus, elapsedMs, pid.";

#[derive(Debug, Args)]
#[command(after_help = AUDIT_FIELDS)]
pub(in crate::cli) struct AuditArgs {
    /// A store, a mountpoint, or the id of a volume that was
    volume: PathBuf,
    /// For programs; the fields keep their names
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn audit(arguments: &AuditArgs) -> Result<(), Fail> {
    let found = verb::audit(&arguments.volume)?;
    if arguments.json { show::json(&found) } else { show::text(&text(&found)) }
}

fn row(call: &CallRecord) -> Vec<String> {
    let source = call.event_source.split('.').next().unwrap_or_default();
    let none = || "-".to_owned();
    [
        call.event_time.clone(),
        format!("{source}:{}", call.event_name),
        call.outcome.clone(),
        call.request_id.clone().unwrap_or_else(none),
        call.key_id.clone().unwrap_or_else(none),
    ]
    .map(|cell| show::name(Path::new(&cell)))
    .into()
}

fn text(found: &Audit) -> String {
    let head = ["time", "call", "outcome", "request", "key"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = [head].into_iter().chain(found.calls.iter().map(row)).collect();
    let mut text = format!(
        "{}\nvolume {}\nrecord {}: {}\n",
        show::table(&rows),
        found.volume_id,
        show::name(&found.record),
        found.bounds
    );
    if found.unreadable > 0 {
        text.push_str(&format!("{} lines of the record can't be read\n", found.unreadable));
    }
    for lookup in &found.lookups {
        text.push_str(&format!("{lookup}\n"));
    }
    text
}
