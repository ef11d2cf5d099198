//! Verbs and flags.

mod key;
mod snapshot;

use std::ffi::OsString;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(in crate::cli) use key::{KeyVerb, KeyVerbArgs, OpenedBy};
pub(in crate::cli) use snapshot::{SnapshotArgs, SnapshotKeyArgs, SnapshotVerb, SseArgs};

use crate::cli::doctor::DoctorArgs;
use crate::cli::options::MountWords;
use crate::cli::shell::{CompletionsArgs, ManArgs};
use crate::cli::tuning::{TuningArgs, WatchedArgs, threads};
use crate::config::Size;
use crate::format::BlockSize;
use crate::job::{CHILD_VERB, Role};
use crate::lifecycle::background::DAEMON_VERB;
use crate::lifecycle::snapshot::Place;
use crate::lifecycle::transfer::VolumePath;
use crate::telemetry::Format;

const TERMS: &str = "\
STORE is the directory with the ciphertext, VOLUME a store or the mountpoint of one, TARGET a \
directory for snapshots. SOURCE, where the volume key comes from, is kms:ID (a key id, key ARN, \
alias/NAME or alias ARN), local[:FILE] (a key file made at first use), file:FILE (32 bytes of \
your own), fd:N (the same by a descriptor, as in fd:3 3<FILE), secretsmanager:ARN (the same, as \
SecretBinary, or in base64 as SecretString) or transient (in memory only).

Exit codes are listed in the README. CMKFS_LOG sets what is logged, as in CMKFS_LOG=cmkfs=debug.";

/// Keeps files encrypted at rest under keys that your own KMS key wraps.
#[derive(Debug, Parser)]
#[command(name = "cmkfs", version, after_help = TERMS, disable_help_subcommand = false)]
#[command(infer_subcommands = false, subcommand_required = true)]
pub(in crate::cli) struct Arguments {
    /// Log more: once for what happens, twice for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(in crate::cli) verbose: u8,
    /// How the log is written, and what is said on a standard error that is the log: text, or one
    /// JSON object a line; by default what CMKFS_LOG_FORMAT says, or else text
    #[arg(long, global = true, value_name = "text|json")]
    pub(in crate::cli) log_format: Option<Format>,
    /// Let keys cross the network unencrypted: allow an http:// endpoint of another machine
    #[arg(long, global = true)]
    pub(in crate::cli) allow_plain_http: bool,
    #[command(subcommand)]
    pub(in crate::cli) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Make a store in a new or an empty directory
    Init(InitArgs),
    /// Mount a volume; returns when the mount serves, or says why not
    Mount(MountArgs),
    #[command(name = DAEMON_VERB, hide = true)]
    MountDaemon(DaemonArgs),
    /// Unmount, and wait until everything is in the store
    Umount(UmountArgs),
    /// Show what is mounted where, under which key, with which figures
    Status(StatusArgs),
    /// List files of a volume, mounted or not
    Ls(LsArgs),
    /// Write a file of a volume to standard output
    Cat(CatArgs),
    /// Copy files out of a volume
    Get(GetArgs),
    /// Copy files into a volume
    Put(PutArgs),
    /// Mount the documented paths of a role, run a command with them, unmount
    Run(RunArgs),
    #[command(name = CHILD_VERB, hide = true)]
    RunChild(RunChildArgs),
    /// Take the keys of a mounted volume away until it is unlocked
    Lock(LockArgs),
    /// Give a locked volume its key again
    Unlock(UnlockArgs),
    /// Walk a store and say what is not as it was written
    Check(CheckArgs),
    /// Unmount a volume everywhere, zero its keys, and take a snapshot if told to
    Stop(StopArgs),
    /// Keep the ciphertext of a volume as it is at one moment, and make a store of it again
    Snapshot(SnapshotArgs),
    /// Show and change what opens a volume, without touching its data
    Key(KeyVerbArgs),
    /// Destroy a volume: its wrapped keys first, then snapshots, then the store
    Terminate(TerminateArgs),
    /// Say whether a volume could be made and mounted here, and what to do if not
    Doctor(DoctorArgs),
    /// Write what completes commands and flags in a shell to standard output
    Completions(CompletionsArgs),
    /// Write the manual pages
    Man(ManArgs),
}

impl Verb {
    /// The log that this process itself writes to, instead of standard error.
    pub(in crate::cli) fn own_log(&self) -> Option<&Path> {
        match self {
            Self::Mount(mount) if mount.foreground => mount.log_file.as_deref(),
            Self::Run(run) => run.log_file.as_deref(),
            _ => None,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InitArgs {
    /// A new or an empty directory
    pub(in crate::cli) store: PathBuf,
    /// Where the volume key comes from
    #[arg(long, value_name = "SOURCE", default_value = "local")]
    pub(in crate::cli) key: String,
    /// KMS key that S3 is to encrypt under what leaves the volume, kms:ID; may be the same
    #[arg(long, value_name = "SOURCE")]
    pub(in crate::cli) output_key: Option<String>,
    /// Bytes of a block of new files: 4K, 8K, 16K, 32K or 64K
    #[arg(long, value_name = "SIZE", default_value = "16K", value_parser = block_size)]
    pub(in crate::cli) block_size: BlockSize,
    /// A pair for the KMS encryption context, which CloudTrail shows in clear; may be given several
    /// times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(in crate::cli) context: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MountArgs {
    /// Directory of the store
    #[arg(required_unless_present = "role", conflicts_with = "role", requires = "mountpoint")]
    pub(in crate::cli) store: Option<PathBuf>,
    /// An existing, empty directory
    pub(in crate::cli) mountpoint: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) role: RoleArgs,
    /// Key source instead of the recorded one, or of a new volume
    #[arg(long, value_name = "SOURCE")]
    pub(in crate::cli) key: Option<String>,
    /// Serve in this process instead of a daemon
    #[arg(short, long)]
    pub(in crate::cli) foreground: bool,
    /// Refuse every change; any number of such mounts may exist, also beside one that writes
    #[arg(long)]
    pub(in crate::cli) read_only: bool,
    /// Look at everything that needs no key, and mount nothing
    #[arg(long, conflicts_with = "role")]
    pub(in crate::cli) fake: bool,
    #[command(flatten)]
    pub(in crate::cli) tuning: TuningArgs,
    #[command(flatten)]
    pub(in crate::cli) watched: WatchedArgs,
    /// Mount options as in fstab(5): ro, key=SOURCE, allow_other, nonempty and others
    #[arg(short = 'o', value_name = "OPTION,...")]
    pub(in crate::cli) words: Vec<String>,
    /// Where the daemon logs to, or with --foreground this process
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) log_file: Option<PathBuf>,
}

impl MountArgs {
    /// The words after `-o`.
    pub(in crate::cli) fn words(&self) -> Result<MountWords, String> {
        MountWords::parse(&self.words)
    }
}

/// A role, in place of a path.
#[derive(Debug, Args)]
pub(in crate::cli) struct RoleArgs {
    /// notebook, processing, training, batch or endpoint
    #[arg(long)]
    pub(in crate::cli) role: Option<Role>,
    /// Directory that stands for / in the role's paths
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) root: Option<PathBuf>,
    /// The role's store, by default ROOT/var/lib/cmkfs/ROLE
    #[arg(long = "store", id = "role_store", value_name = "DIR")]
    pub(in crate::cli) store: Option<PathBuf>,
}

/// What the parent shows of the request, for ps(1).
#[derive(Debug, Args)]
pub(in crate::cli) struct DaemonArgs {
    #[arg(trailing_var_arg = true)]
    shown: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UmountArgs {
    /// Where the volume is mounted
    pub(in crate::cli) mountpoint: PathBuf,
}

const STATUS_FIELDS: &str = "\
With --json: {\"volumes\": [...]}, each with volume_id, store, state (mounted, stopped, or \
unreachable: mounted, but its daemon does not answer), mountpoints, created_unix_s, block_size, \
epochs, slots (id, provider, key), output_key (if there is one), holder (pid, host, mountpoints, \
socket, started_unix_s) if another machine or a process that does not answer says that it writes \
the volume, and, if mounted, \
daemon: pid, release, uptime_s, read_only, \
durability, key_provider, key_id, key_slot, key_state (held, unproved or locked), key_reason, \
key_proved_unix_s, key_recheck_s, key_max_offline_s, memory_locked, core_dumps_off, \
cache_budget_bytes, figures, latency (by class of operation: sum_ns, and buckets, how many took \
at most 1 us, of the others 2 us, and so on) and metrics (where they are served, if they are).";

#[derive(Debug, Args)]
#[command(after_help = STATUS_FIELDS)]
pub(in crate::cli) struct StatusArgs {
    /// A store or a mountpoint; by default every volume that is mounted here
    pub(in crate::cli) volume: Option<PathBuf>,
    /// Show what happens, again and again: rates and latencies since the time before. One line a
    /// volume where standard output is no terminal
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    #[arg(conflicts_with = "json", value_parser = seconds)]
    pub(in crate::cli) watch: Option<Duration>,
    /// For programs; the fields keep their names
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// For a volume that is not mounted.
#[derive(Debug, Args)]
pub(in crate::cli) struct KeyArgs {
    /// Key source instead of the recorded one, for a volume that is not mounted
    #[arg(long, value_name = "SOURCE")]
    pub(in crate::cli) key: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LsArgs {
    /// VOLUME:PATH
    #[arg(value_parser = volume_path)]
    pub(in crate::cli) path: VolumePath,
    /// Show mode, links, owner, group, size and time
    #[arg(short, long)]
    pub(in crate::cli) long: bool,
    /// Show everything below
    #[arg(short = 'R', long)]
    pub(in crate::cli) recursive: bool,
    #[command(flatten)]
    pub(in crate::cli) key: KeyArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CatArgs {
    /// VOLUME:PATH
    #[arg(value_parser = volume_path)]
    pub(in crate::cli) path: VolumePath,
    #[command(flatten)]
    pub(in crate::cli) key: KeyArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct GetArgs {
    /// VOLUME:PATH of a file or directory
    #[arg(value_parser = volume_path)]
    pub(in crate::cli) path: VolumePath,
    /// Where to copy it to; into it, if it is a directory
    pub(in crate::cli) local: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) key: KeyArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PutArgs {
    /// A file or directory
    pub(in crate::cli) local: PathBuf,
    /// VOLUME:PATH where to copy it to; into it, if it is a directory
    #[arg(value_parser = volume_path)]
    pub(in crate::cli) path: VolumePath,
    #[command(flatten)]
    pub(in crate::cli) key: KeyArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LockArgs {
    /// A store or a mountpoint
    pub(in crate::cli) volume: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UnlockArgs {
    /// A store or a mountpoint
    pub(in crate::cli) volume: PathBuf,
    /// Key source instead of the one that it was mounted with
    #[arg(long, value_name = "SOURCE")]
    pub(in crate::cli) key: Option<String>,
}

const CHECK_FIELDS: &str = "\
Exits with 0 if all can be read as it was written, or was repaired, with 42 if not. With --json: \
one object with store, opened (false with --no-key), counts (directories, files, links, others, \
bytes), report (of --repair: its path in the volume) and findings, each with kind (attribute, \
cut, long, blocks, header, link, name, sidecar, orphan-sidecar, marker, foreign, orphan-link, \
leftover, blank, unread), stored, path, reason, ranges, attribute, harmless, done, left.";

#[derive(Debug, Args)]
#[command(after_help = CHECK_FIELDS)]
pub(in crate::cli) struct CheckArgs {
    /// A store that no mount writes to
    pub(in crate::cli) store: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) key: KeyArgs,
    /// Look only at the form of what is there, and ask for no key
    #[arg(long, conflicts_with = "key")]
    pub(in crate::cli) no_key: bool,
    /// Repair what can be; what has lost its name or can't be read goes to lost+found
    #[arg(long, conflicts_with = "no_key")]
    pub(in crate::cli) repair: bool,
    /// Threads; by default one a core
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(in crate::cli) threads: Option<NonZero<usize>>,
    /// For programs; the fields keep their names
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// notebook, processing, training, batch or endpoint
    #[arg(long)]
    pub(in crate::cli) role: Role,
    /// Directory that stands for / in the role's paths
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(in crate::cli) root: PathBuf,
    /// The role's store, by default ROOT/var/lib/cmkfs/ROLE
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) store: Option<PathBuf>,
    /// Key source; by default transient, for a notebook local
    #[arg(long, value_name = "SOURCE")]
    pub(in crate::cli) key: Option<String>,
    /// KMS key that S3 is to encrypt under what leaves the volume, kms:ID; kept in its settings
    #[arg(long, value_name = "SOURCE")]
    pub(in crate::cli) output_key: Option<String>,
    /// Keep the store of a transient key, which nobody can read any more
    #[arg(long)]
    pub(in crate::cli) keep_store: bool,
    #[command(flatten)]
    pub(in crate::cli) tuning: TuningArgs,
    #[command(flatten)]
    pub(in crate::cli) watched: WatchedArgs,
    /// Where to log to, instead of standard error
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) log_file: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(in crate::cli) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RunChildArgs {
    #[arg(long)]
    pub(in crate::cli) parent: i32,
    #[arg(long)]
    pub(in crate::cli) umask: u32,
    #[arg(long)]
    pub(in crate::cli) files: Option<u64>,
    #[arg(long)]
    pub(in crate::cli) core: Option<u64>,
    #[arg(last = true, required = true)]
    pub(in crate::cli) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    /// A store or a mountpoint
    #[arg(required_unless_present = "role", conflicts_with = "role")]
    pub(in crate::cli) volume: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) role: RoleArgs,
    /// Take a snapshot of the stopped volume
    #[arg(long, value_name = "TARGET")]
    pub(in crate::cli) snapshot: Option<Place>,
    #[command(flatten)]
    pub(in crate::cli) key: SnapshotKeyArgs,
    #[command(flatten)]
    pub(in crate::cli) sse: SseArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TerminateArgs {
    /// A store
    #[arg(required_unless_present = "role", conflicts_with = "role")]
    pub(in crate::cli) volume: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) role: RoleArgs,
    /// Ask nothing
    #[arg(long)]
    pub(in crate::cli) yes: bool,
    /// The volume's id, as `cmkfs status` shows it
    #[arg(long, value_name = "VOLUME_ID")]
    pub(in crate::cli) confirm: Option<String>,
    /// Destroy the volume's snapshots in this target too
    #[arg(long, value_name = "TARGET")]
    pub(in crate::cli) snapshots: Option<Place>,
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let Size(bytes) = text.parse()?;
    let wanted = || format!("{text} is no block size: wanted 4K, 8K, 16K, 32K or 64K");
    BlockSize::from_bytes(bytes).ok_or_else(wanted)
}

pub(in crate::cli) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        format!("{text:?} is no pair for the encryption context: wanted KEY=VALUE")
    })?;
    Ok((key.to_owned(), value.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(count @ 1..=86_400) => Ok(Duration::from_secs(count)),
        _ => Err(format!(
            "{text} is no number of seconds: wanted 1 to 86400; a volume is named before --watch"
        )),
    }
}

fn volume_path(text: &str) -> Result<VolumePath, String> {
    VolumePath::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_agree_with_each_other() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn only_the_verbs_that_exist_are_there() {
        let verbs: Vec<String> = Arguments::command()
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
            .map(|verb| verb.get_name().to_owned())
            .collect();
        let wanted = "init mount umount status ls cat get put run lock unlock check stop snapshot \
                      key terminate doctor completions man";
        assert_eq!(verbs.join(" "), wanted);
    }

    #[test]
    fn only_the_verbs_of_key_that_exist_are_there() {
        let all = Arguments::command();
        let key = all.find_subcommand("key").unwrap();
        let verbs: Vec<&str> = key.get_subcommands().map(|verb| verb.get_name()).collect();
        assert_eq!(verbs.join(" "), "policy status add remove rewrap rotate grant audit");
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("cmkfs key add store --new kms:alias/x --key local").is_ok());
        assert!(parse("cmkfs key rewrap store --to kms:alias/x --slot 2").is_ok());
        assert!(parse("cmkfs key rotate store --reencrypt --rate 5 --json").is_ok());
        let both = "key rotate store --rewrap --reencrypt";
        for bad in ["key", "key add store", "key remove store", "key remove store x", both] {
            assert!(parse(&format!("cmkfs {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert!(block_size("16K").is_ok() && block_size("12K").is_err());
        assert!(block_size("2K").is_err() && block_size("128K").is_err());
        assert!(pair("a=b=c").is_ok_and(|(_, value)| value == "b=c") && pair("a").is_err());
    }

    #[test]
    fn a_role_takes_the_place_of_store_and_mountpoint() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("cmkfs mount store mnt -o ro,allow_other").is_ok());
        assert!(parse("cmkfs mount --role training --root /r --store /s").is_ok());
        assert!(parse("cmkfs run --role training --durability strict -- true").is_ok());
        assert!(parse("cmkfs doctor --store /s").is_ok());
        assert!(parse("cmkfs key policy --for init,output --key kms:x store").is_ok());
        for bad in [
            "cmkfs mount",
            "cmkfs mount store",
            "cmkfs mount store mnt --role training",
            "cmkfs mount --role trainer",
            "cmkfs mount store mnt --durability lax",
            "cmkfs run --role training",
            "cmkfs stop",
            "cmkfs check",
            "cmkfs doctor --root /r",
            "cmkfs key policy --for unmount",
            "cmkfs key policy --role Train",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
