//! `snapshot`.

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::config::{Size, Span};
use crate::format::VolumeId;
use crate::keys::OutputKey;
use crate::lifecycle::snapshot::{Encryption, Moving, Place, SseKind};
use crate::limits::{SNAPSHOT_JOBS_DEFAULT, SNAPSHOT_JOBS_MAX};

const SECONDS_OF_A_DAY: u64 = 86_400;

#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotArgs {
    #[command(subcommand)]
    pub(in crate::cli) verb: SnapshotVerb,
}

/// How objects are moved.
#[derive(Debug, Args)]
pub(in crate::cli) struct MovingArgs {
    /// Objects that are moved at a time
    #[arg(long, value_name = "N", default_value_t = SNAPSHOT_JOBS_DEFAULT, value_parser = jobs)]
    pub(in crate::cli) jobs: NonZero<usize>,
}

impl MovingArgs {
    pub(in crate::cli) fn moving(&self, rate: Option<Size>) -> Moving {
        let bytes_per_s = rate.map(|Size(bytes)| bytes);
        Moving { jobs: self.jobs, bytes_per_s, encryption: Encryption::default(), repair: false }
    }
}

/// How S3 is to encrypt what is put there.
#[derive(Debug, Args)]
pub(in crate::cli) struct SseArgs {
    /// KMS key under which S3 encrypts, instead of the output key that the volume names
    #[arg(long, value_name = "kms:ID")]
    pub(in crate::cli) output_key: Option<OutputKey>,
    /// none: as is set for the bucket; s3: under keys of S3's own; kms: under a KMS key. By default
    /// kms under the output key if there is one, none otherwise
    #[arg(long, value_name = "none|s3|kms")]
    pub(in crate::cli) sse: Option<SseKind>,
    /// Have S3 encrypt under a key of the bucket's below that KMS key: KMS is asked less often
    #[arg(long)]
    pub(in crate::cli) bucket_key: bool,
}

impl SseArgs {
    /// What was said, of a target that it can be said of.
    pub(in crate::cli) fn encryption(&self, target: &Place) -> Result<Encryption, String> {
        let (kind, output_key, bucket_key) = (self.sse, self.output_key.clone(), self.bucket_key);
        let wants_key = output_key.is_some() || bucket_key;
        if matches!(target, Place::Directory(_)) && self.is_said() {
            let what = "--output-key, --sse and --bucket-key are for a target in S3";
            return Err(format!("{what}; {target} is a directory"));
        }
        if wants_key && matches!(kind, Some(SseKind::None | SseKind::S3)) {
            let what = "--output-key and --bucket-key name what --sse kms encrypts under";
            return Err(format!("{what}; leave them out, or the other --sse"));
        }
        Ok(Encryption { kind, output_key, bucket_key })
    }

    /// Whether anything was said.
    pub(in crate::cli) fn is_said(&self) -> bool {
        self.sse.is_some() || self.output_key.is_some() || self.bucket_key
    }
}

/// The key of the volume.
#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotKeyArgs {
    /// Key source instead of the recorded one
    #[arg(long, value_name = "SOURCE")]
    pub(in crate::cli) key: Option<String>,
}

const CREATE_FIELDS: &str = "\
With --json: one object with id, volume_id, created_unix_ms, parent, files, bytes, read_bytes, \
sent_bytes, sent_objects, repaired_objects (with --repair), paused_ms (how long writers waited).";

const LIST_FIELDS: &str = "\
Shows what the target claims; `snapshot show` proves it. With --json: {\"snapshots\": [...]}, each \
with id, volume_id, created_unix_ms, files, bytes, version, parent, sent_bytes.";

const SHOW_FIELDS: &str = "\
With --json: the fields of list, and epoch, slots (id, provider, key), objects, parts.";

const VERIFY_FIELDS: &str = "\
Exits with 52 if something is damaged or missing; `snapshot create --repair` sends again what the \
volume still has of it. With --json: one object with id, objects, \
pieces, bytes, faults.";

const PRUNE_FIELDS: &str = "\
A snapshot stays if any of the flags keeps it, and the newest always does. With --json: one object \
with kept, removed, objects, bytes.";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SnapshotVerb {
    /// Store a volume as it is at one moment, mounted or not; what is there already is not sent
    #[command(after_help = CREATE_FIELDS)]
    Create {
        /// A store or a mountpoint
        volume: PathBuf,
        /// A directory for snapshots, or s3://BUCKET/PREFIX
        target: Place,
        #[command(flatten)]
        key: SnapshotKeyArgs,
        #[command(flatten)]
        moving: MovingArgs,
        #[command(flatten)]
        sse: SseArgs,
        /// Bytes a second that are sent, at most, as in 10M
        #[arg(long, value_name = "SIZE", value_parser = rate)]
        rate: Option<Size>,
        /// Read all that the target has of the volume first, and send again what is damaged there,
        /// as far as the volume still has it
        #[arg(long)]
        repair: bool,
        /// For programs; the fields keep their names
        #[arg(long)]
        json: bool,
    },
    /// List the snapshots in a target
    #[command(after_help = LIST_FIELDS)]
    List {
        /// A directory with snapshots, or s3://BUCKET/PREFIX
        target: Place,
        /// For programs; the fields keep their names
        #[arg(long)]
        json: bool,
    },
    /// Show one snapshot, once the volume's key has proved it authentic
    #[command(after_help = SHOW_FIELDS)]
    Show {
        /// A directory with snapshots, or s3://BUCKET/PREFIX
        target: Place,
        /// Which snapshot; by default the newest
        #[arg(long)]
        id: Option<String>,
        #[command(flatten)]
        key: SnapshotKeyArgs,
        /// For programs; the fields keep their names
        #[arg(long)]
        json: bool,
    },
    /// Read a snapshot again and say what is not as it was written
    #[command(after_help = VERIFY_FIELDS)]
    Verify {
        /// A directory with snapshots, or s3://BUCKET/PREFIX
        target: Place,
        /// Which snapshot; by default the newest
        #[arg(long)]
        id: Option<String>,
        /// Read so many percent of the data, others each time
        #[arg(long, value_name = "PERCENT", default_value_t = 100,
              value_parser = clap::value_parser!(u8).range(0..=100))]
        sample: u8,
        #[command(flatten)]
        key: SnapshotKeyArgs,
        #[command(flatten)]
        moving: MovingArgs,
        /// For programs; the fields keep their names
        #[arg(long)]
        json: bool,
    },
    /// Remove snapshots of a volume, and what no other one needs
    #[command(after_help = PRUNE_FIELDS)]
    Prune {
        /// A directory with snapshots, or s3://BUCKET/PREFIX
        target: Place,
        /// Keep so many of the newest
        #[arg(long, value_name = "N", required_unless_present = "keep_within")]
        keep: Option<usize>,
        /// Keep those that are not older, as in 36h or 7d
        #[arg(long, value_name = "TIME", value_parser = age)]
        keep_within: Option<Duration>,
        /// Which volume, where there are several
        #[arg(long, value_name = "VOLUME_ID")]
        volume: Option<VolumeId>,
        /// Remove nothing, say what would be
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        sse: SseArgs,
        #[command(flatten)]
        key: SnapshotKeyArgs,
        #[command(flatten)]
        moving: MovingArgs,
        /// For programs; the fields keep their names
        #[arg(long)]
        json: bool,
    },
    /// Make a store of a snapshot; every byte is checked
    Restore {
        /// A directory with snapshots, or s3://BUCKET/PREFIX
        target: Place,
        /// A new or an empty directory
        store: PathBuf,
        /// Which snapshot; by default the newest
        #[arg(long)]
        id: Option<String>,
        /// Only this path of the volume, and all below it
        #[arg(long)]
        path: Option<PathBuf>,
        #[command(flatten)]
        key: SnapshotKeyArgs,
        #[command(flatten)]
        moving: MovingArgs,
    },
}

fn jobs(text: &str) -> Result<NonZero<usize>, String> {
    let fits = text.parse().ok().filter(|jobs: &NonZero<usize>| jobs.get() <= SNAPSHOT_JOBS_MAX);
    fits.ok_or_else(|| format!("{text:?}: wanted a number from 1 to {SNAPSHOT_JOBS_MAX}"))
}

fn rate(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size.0 == 0 { Err("nothing could ever be sent".to_owned()) } else { Ok(size) }
}

/// A time as elsewhere, or in days.
fn age(text: &str) -> Result<Duration, String> {
    if let Some(days) = text.strip_suffix('d') {
        let seconds = days.parse::<u64>().ok().and_then(|days| days.checked_mul(SECONDS_OF_A_DAY));
        let wanted = || format!("{text:?} is no time: wanted digits and then s, m, h or d");
        return seconds.map(Duration::from_secs).ok_or_else(wanted);
    }
    let Span(span) = text.parse()?;
    Ok(span)
}
