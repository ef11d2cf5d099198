//! `key grant`.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::cli::args::OpenedBy;
use crate::cli::fail::Fail;
use crate::cli::show;
use crate::keys::{KeySource, Operation, Principal};
use crate::lifecycle::VerbError;
use crate::lifecycle::key::grant::{self as verb, End, Listed, Wish};

const CREATE_HELP: &str = "\
The grant is on the KMS key of a slot, and allows nothing but for the encryption context of this \
volume. The volume is opened before, so that nobody who edited volume.json is granted another one. \
The same wish again gives the same grant. It takes up to five minutes until KMS knows it \
everywhere. `cmkfs terminate` revokes it.";
const LIST_HELP: &str = "\
KMS is asked, on the key of each slot and on those on which grants were made. With --json: \
{\"volume_id\", \"grants\", \"failed\"}, grants each with id, key, to, operations, \
encryption_context, retire_by and created_unix_s. Those on a key that KMS does not list, as it is \
disabled or gone, are missing: failed has key and error of each.";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum GrantVerb {
    /// Let a role open the volume, by a grant on the KMS key
    #[command(after_help = CREATE_HELP)]
    Create {
        /// A store or a mountpoint
        volume: PathBuf,
        /// ARN of the role, or of a session of it
        #[arg(long, value_name = "ROLE_ARN")]
        to: Principal,
        /// What it allows: Decrypt (the default), Encrypt, GenerateDataKey, ReEncryptFrom,
        /// ReEncryptTo, DescribeKey, RetireGrant
        #[arg(long, value_name = "OPERATION,...", value_delimiter = ',')]
        operations: Vec<Operation>,
        /// ARN of a role that may retire it
        #[arg(long, value_name = "ARN")]
        retire_by: Option<Principal>,
        /// Number of the slot; not needed if only one is under KMS
        #[arg(long, value_name = "N")]
        slot: Option<u32>,
        #[command(flatten)]
        key: OpenedBy,
    },
    /// List the grants for the volume, as KMS has them
    #[command(after_help = LIST_HELP)]
    List {
        /// A store or a mountpoint
        volume: PathBuf,
        /// For programs; the fields keep their names
        #[arg(long)]
        json: bool,
    },
    /// End a grant, as who manages the key (kms:RevokeGrant)
    Revoke {
        /// A store or a mountpoint
        volume: PathBuf,
        /// As `cmkfs key grant list` shows it
        id: String,
    },
    /// End a grant, as whom the grant itself names for that
    Retire {
        /// A store or a mountpoint
        volume: PathBuf,
        /// As `cmkfs key grant list` shows it
        id: String,
    },
}

pub(in crate::cli) fn grant(wanted: &GrantVerb) -> Result<(), Fail> {
    match wanted {
        GrantVerb::Create { volume, to, operations, retire_by, slot, key } => {
            let usual = [Operation::decrypt()];
            let operations = if operations.is_empty() { &usual[..] } else { operations };
            let source = key.key.as_deref().map(str::parse::<KeySource>).transpose();
            let source = source.map_err(VerbError::Key)?;
            let wish = Wish { to, operations, retire_by: retire_by.as_ref(), slot: *slot };
            let made = verb::create(volume, &wish, source.as_ref())?;
            let row = |name: &str, value: String| vec![name.to_owned(), value];
            show::text(&show::table(&[
                row("grant", made.id),
                row("to", to.to_string()),
                row("on", made.key),
                row("recorded in", show::name(&made.recorded_in)),
            ]))
        }
        GrantVerb::List { volume, json } => {
            let found = verb::list(volume)?;
            for verb::Unlisted { key, error } in &found.failed {
                show::note(&format!("grants on {} are not listed: {error}\n", shown(key)));
            }
            if *json { show::json(&found) } else { show::text(&text(&found)) }
        }
        GrantVerb::Revoke { volume, id } => {
            ended("revoked", verb::end(volume, id, End::Revoke)?.to)
        }
        GrantVerb::Retire { volume, id } => {
            ended("retired", verb::end(volume, id, End::Retire)?.to)
        }
    }
}

fn ended(how: &str, to: String) -> Result<(), Fail> {
    show::text(&format!("{how}, the grant to {}\n", shown(&to)))
}

fn shown(text: &str) -> String {
    show::name(Path::new(text))
}

fn text(found: &Listed) -> String {
    let head = ["grant", "made", "allows", "to", "key"].map(str::to_owned).to_vec();
    let rows = found.grants.iter().map(|grant| {
        let made = grant.created_unix_s.map_or_else(|| "-".to_owned(), show::time);
        let cells = [&grant.id, &made, &grant.operations.join(","), &grant.to, &grant.key];
        cells.map(|cell| shown(cell)).to_vec()
    });
    show::table(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}
