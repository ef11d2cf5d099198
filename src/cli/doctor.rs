//! `doctor`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::{RoleArgs, pair};
use crate::cli::fail::Fail;
use crate::cli::mount::{key_source, place};
use crate::cli::show;
use crate::job::Role;
use crate::keys::check_user_pairs;
use crate::lifecycle::doctor::{self, Diagnosis, Wish};
use crate::lifecycle::{Exit, VerbError};

const DOCTOR_FIELDS: &str = "\
Checks, in this order: kernel, device, mounting, allow_other, memory_lock, swap, store, \
filesystem, disk, path (of a role), key_source, then key_file, or with KMS credentials, region, \
endpoint, generate_data_key (without a volume), decrypt (of Secrets Manager instead secret), \
clock, of a volume that is there volume, and of an output key output_key (one call more). A trial \
of a KMS key is two calls, with cmkfs:trial in the encryption context.

Exits with 0 if nothing fails, with 71 if something does. With --json: {\"passed\", \"checks\"}, \
each check with check, subject (of several of one name: a path, slot N), status (ok, warning, \
fails, not_checked), found, value (the word or number in it for a program: of disk \
instance_store, ebs, memory, network, other or unknown; of clock the seconds by which it is \
ahead) and remedy.";

#[derive(Debug, Args)]
#[command(after_help = DOCTOR_FIELDS)]
pub(in crate::cli) struct DoctorArgs {
    /// notebook, processing, training, batch or endpoint: its paths, store and key are checked
    #[arg(long)]
    role: Option<Role>,
    /// Directory that stands for / in the role's paths
    #[arg(long, value_name = "DIR", requires = "role")]
    root: Option<PathBuf>,
    /// A store, there or not yet; by default the role's
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Key source instead of the recorded one, or of a new volume
    #[arg(long, value_name = "SOURCE")]
    key: Option<String>,
    /// Output key, kms:ID, instead of the recorded one, or of a new volume
    #[arg(long, value_name = "SOURCE")]
    output_key: Option<String>,
    /// A pair that a new volume's encryption context would have; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    /// For programs; the fields keep their names
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn doctor(arguments: &DoctorArgs) -> Result<u8, Fail> {
    let diagnosis = doctor::examine(&wish(arguments)?)?;
    if arguments.json {
        show::json(&diagnosis)?;
    } else {
        show::text(&text(&diagnosis))?;
    }
    Ok(if diagnosis.passed { Exit::Ok } else { Exit::Unfit }.code())
}

fn wish(arguments: &DoctorArgs) -> Result<Wish, Fail> {
    let typed = arguments.key.as_deref().map(key_source).transpose()?;
    let of_role = RoleArgs {
        role: arguments.role,
        root: arguments.root.clone(),
        store: arguments.store.clone().filter(|_| arguments.role.is_some()),
    };
    let place = place(&of_role)?;
    let key = typed.as_deref().map(str::parse).transpose().map_err(VerbError::Key)?;
    let output_key = arguments.output_key.as_deref().map(str::parse).transpose();
    let output_key = output_key.map_err(VerbError::Key)?;
    let context: BTreeMap<String, String> = arguments.context.iter().cloned().collect();
    check_user_pairs(&context).map_err(VerbError::Key)?;
    let store = match &place {
        Some(place) => Some(place.store.clone()),
        None => {
            arguments.store.as_deref().map(std::path::absolute).transpose().map_err(|error| {
                Fail::new(Exit::NoStore, format!("--store: {error}; name it by its full path"))
            })?
        }
    };
    Ok(Wish {
        store,
        lasts: arguments.role.is_none_or(|role| !role.is_ephemeral()),
        role: place.map(|place| place.request(typed.as_deref())),
        key,
        output_key,
        context,
    })
}

/// A line a check, and below it what to do.
fn text(diagnosis: &Diagnosis) -> String {
    let rows: Vec<Vec<String>> = diagnosis
        .checks
        .iter()
        .map(|check| {
            let subject = check.subject.as_ref().map_or_else(String::new, |of| format!(" {of}"));
            let found = check.found.replace('\n', " ");
            [format!("{}{subject}", check.check), check.status.to_string(), found]
                .map(|cell| show::name(Path::new(&cell)))
                .into()
        })
        .collect();
    let mut text = String::new();
    for (line, check) in show::table(&rows).lines().zip(&diagnosis.checks) {
        text.push_str(line);
        text.push('\n');
        for line in check.remedy.iter().flat_map(|remedy| remedy.lines()) {
            text.push_str(&format!("    {}\n", show::name(Path::new(line))));
        }
    }
    text
}
