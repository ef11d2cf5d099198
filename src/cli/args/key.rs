//! Verbs and flags of `key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::audit::AuditArgs;
use crate::cli::grant::GrantVerb;
use crate::cli::policy::PolicyArgs;

const CHANGES: &str = "\
Works beside mounts of the volume and rewrites no data. The volume key is opened by one of the \
slots, key files before KMS, and the whole of volume.json is checked with it. What is made is \
opened before it counts. Interrupted at any moment, it leaves the volume as it was or as it was to \
be, and can be run again.";

const STATUS_FIELDS: &str = "\
Asks for no key: what volume.json says is not checked. With --json: one object with volume_id, \
store, state (mounted, stopped or unreachable), epochs (how many), epoch (that of new files), \
pending (rewrap or reencrypt: begun by `key rotate` and not done; or null), slots, each with id, \
provider, key, \
in_use (a mount here was opened by it) and last_used_unix_s (when a mount here last proved its \
key by it as it is; null: not known), and daemons (mounts here), each with pid, slot, provider, \
key (the one that it used) and proved_unix_s; and output_key (null: none).";

const ROTATES: &str = "\
Works beside a mount of the volume, which goes on without a pause worth the name. A new volume key \
takes the place of the old one in every slot, so each of them has to be within reach: where one is \
not, nothing is changed. KMS is asked once to open the volume, twice for each slot under a KMS \
key, once by each mount, and once or twice more for --rewrap and --reencrypt; never for a file.

Without --rewrap and --reencrypt, new files are of the new epoch, and older ones come under it \
when they are written next. Interrupted at any moment, the volume is whole; run again with the \
same option, it goes on where it was. On a mounted volume the mount does the work, as long as this \
command is there.";

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyVerbArgs {
    #[command(subcommand)]
    pub(in crate::cli) verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyVerb {
    /// Print the least that a role has to be allowed, as statements for the key's policy and as a
    /// policy for the role
    Policy(PolicyArgs),
    /// List the key slots, each a way to open the volume
    #[command(after_help = STATUS_FIELDS)]
    Status {
        /// A store or a mountpoint
        volume: PathBuf,
        /// For programs; the fields keep their names
        #[arg(long)]
        json: bool,
    },
    /// Add a slot, one more way to open the volume
    #[command(after_help = CHANGES)]
    Add {
        /// A store or a mountpoint
        volume: PathBuf,
        /// What is to open the volume too: any SOURCE but transient
        #[arg(long, value_name = "SOURCE")]
        new: String,
        #[command(flatten)]
        key: OpenedBy,
    },
    /// Remove a slot, if another one opens the volume
    #[command(after_help = CHANGES)]
    Remove {
        /// A store or a mountpoint
        volume: PathBuf,
        /// Number of the slot, as `cmkfs key status` shows it
        slot: u32,
        #[command(flatten)]
        key: OpenedBy,
    },
    /// Put a slot under another key; from KMS key to KMS key by ReEncrypt, where that is allowed
    #[command(after_help = CHANGES)]
    Rewrap {
        /// A store or a mountpoint
        volume: PathBuf,
        /// The slot's new key: any SOURCE but transient
        #[arg(long, value_name = "SOURCE")]
        to: String,
        /// Number of the slot; not needed if there is only one
        #[arg(long, value_name = "N")]
        slot: Option<u32>,
        #[command(flatten)]
        key: OpenedBy,
    },
    /// Make a new volume key and a new epoch of keys, for what is made from now on
    #[command(after_help = ROTATES)]
    Rotate {
        /// A store or a mountpoint
        volume: PathBuf,
        /// Then bring the file keys of all files under the new epoch: headers only, no data
        #[arg(long, group = "work")]
        rewrap: bool,
        /// Then give all files new file keys, and write their data anew
        #[arg(long, group = "work")]
        reencrypt: bool,
        /// Megabytes to write a second for that, at most
        #[arg(
            long,
            value_name = "MB/s",
            requires = "work",
            value_parser = clap::value_parser!(u64).range(1..)
        )]
        rate: Option<u64>,
        /// For programs; the fields keep their names
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        key: OpenedBy,
    },
    /// Let other roles open the volume by its KMS key, list that, and end it
    #[command(subcommand)]
    Grant(GrantVerb),
    /// Show what this machine asked AWS for the volume's keys, and how to find it in CloudTrail
    Audit(AuditArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OpenedBy {
    /// Key source that opens the volume now, instead of the recorded ones
    #[arg(long, value_name = "SOURCE")]
    pub(in crate::cli) key: Option<String>,
}
