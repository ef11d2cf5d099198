//! `init`, `status`, `stop`, `terminate`.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::args::{InitArgs, RoleArgs, StatusArgs, StopArgs, TerminateArgs};
use crate::cli::fail::Fail;
use crate::cli::mount::{key_source, place};
use crate::cli::snapshot::{encrypting, key as snapshot_key};
use crate::cli::{show, watch};
use crate::lifecycle::init::InitOptions;
use crate::lifecycle::report::{Report, State};
use crate::lifecycle::snapshot::Moving;
use crate::lifecycle::terminate as destroy;
use crate::lifecycle::terminate::Confirm;
use crate::lifecycle::{
    KeyState, VerbError, init as make, leave, snapshot as snapshots, status as look,
};
use crate::telemetry;

pub(in crate::cli) fn init(arguments: &InitArgs) -> Result<(), Fail> {
    let mut context = std::collections::BTreeMap::new();
    for (key, value) in &arguments.context {
        if context.insert(key.clone(), value.clone()).is_some() {
            return Err(Fail::usage(format!("--context {key}: given twice; wanted once")));
        }
    }
    let key =
        key_source(&arguments.key)?.parse().map_err(|error| Fail::from(VerbError::Key(error)))?;
    let output_key = arguments.output_key.as_deref().map(str::parse).transpose();
    let output_key = output_key.map_err(VerbError::Key)?;
    let options = InitOptions { key, output_key, block_size: arguments.block_size, context };
    let created = make::init(&arguments.store, &options)?;
    let slots = created.descriptor.slots.iter();
    let mut rows = vec![
        vec!["volume".into(), created.descriptor.volume_id.to_string()],
        vec!["store".into(), show::name(&created.path)],
    ];
    rows.extend(slots.map(|slot| {
        vec![format!("key slot {}", slot.id), format!("{} {}", slot.provider, slot.key)]
    }));
    rows.extend(created.descriptor.output_key().map(|key| vec!["output key".into(), key.into()]));
    show::text(&show::table(&rows))
}

#[derive(Serialize)]
struct Volumes<'a> {
    volumes: &'a [Report],
}

pub(in crate::cli) fn status(arguments: &StatusArgs) -> Result<(), Fail> {
    let volume = arguments.volume.as_deref();
    if let Some(every) = arguments.watch {
        return watch::watch(volume, every);
    }
    let reports = match volume {
        Some(volume) => look::one(volume)?,
        None => look::all()?,
    };
    if arguments.json {
        return show::json(&Volumes { volumes: &reports });
    }
    let texts: Vec<String> = reports.iter().map(report_text).collect();
    show::text(&texts.join("\n"))
}

fn report_text(report: &Report) -> String {
    let state = match report.state {
        State::Mounted => "mounted",
        State::Stopped if report.holder.is_some() => "not mounted here",
        State::Stopped => "stopped",
        State::Unreachable => "mounted, but its daemon does not answer",
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("volume", report.volume_id.to_string());
    row("store", show::name(&report.store));
    row("state", state.to_owned());
    for mountpoint in &report.mountpoints {
        row("mountpoint", show::name(mountpoint));
    }
    row("created", show::time(i64::try_from(report.created_unix_s).unwrap_or(i64::MAX)));
    row("block size", report.block_size.to_string());
    row("key epochs", report.epochs.to_string());
    for slot in &report.slots {
        row(&format!("key slot {}", slot.id), format!("{} {}", slot.provider, slot.key));
    }
    if let Some(key) = &report.output_key {
        row("output key", show::name(Path::new(key)));
    }
    if let Some(holder) = &report.holder {
        row("written by", holder.named());
        for mountpoint in &holder.mountpoints {
            row("mounted there", show::name(mountpoint));
        }
    }
    let Some(daemon) = &report.daemon else { return show::table(&rows) };
    let yes = |set| if set { "yes" } else { "no" }.to_owned();
    row("process", daemon.pid.to_string());
    row("release", daemon.release.clone());
    row("uptime", format!("{} s", daemon.uptime_s));
    row("read-only", yes(daemon.read_only));
    row("durability", daemon.durability.to_string());
    row("key in use", format!("{} {}", daemon.key_provider, daemon.key_id));
    let state = match daemon.key_state {
        KeyState::Held => "held",
        KeyState::Unproved => "not known: KMS does not answer",
        KeyState::Locked => "locked: keys are gone until it is unlocked",
    };
    row("key state", state.to_owned());
    if let Some(reason) = &daemon.key_reason {
        row("because", reason.clone());
    }
    row("memory locked", yes(daemon.memory_locked));
    row("core dumps off", yes(daemon.core_dumps_off));
    row("cache budget", daemon.cache_budget_bytes.to_string());
    if let Some(address) = &daemon.metrics {
        row("metrics", address.to_string());
    }
    let figures = serde_json::to_value(daemon.figures).unwrap_or_default();
    let figures = telemetry::table(&figures);
    let latency = watch::latency_table(&daemon.latency);
    format!("{}figures\n{figures}latency\n{latency}", show::table(&rows))
}

/// The volume that was typed, or the role's.
fn volume(typed: Option<&Path>, role: &RoleArgs) -> Result<PathBuf, Fail> {
    match (typed, place(role)?) {
        (Some(path), _) => Ok(path.to_owned()),
        (None, Some(place)) => Ok(place.store),
        (None, None) => Err(Fail::usage("wanted VOLUME or --role")),
    }
}

pub(in crate::cli) fn stop(arguments: &StopArgs) -> Result<(), Fail> {
    let volume = volume(arguments.volume.as_deref(), &arguments.role)?;
    let store = crate::lifecycle::locate::locate(&volume)?.store;
    let key = snapshot_key(&arguments.key)?;
    let Some(target) = &arguments.snapshot else {
        if key.is_some() || arguments.sse.is_said() {
            return Err(Fail::usage(
                "--key, --output-key, --sse and --bucket-key are for --snapshot",
            ));
        }
        return show::text(&unmounted(&leave::stop(&volume)?));
    };
    let moving = encrypting(Moving::default(), &arguments.sse, target)?;
    // Before anything ends: nobody wants to find a stopped volume and no snapshot.
    let ready = snapshots::check(&volume, target, key.as_ref(), &moving)?;
    let text = unmounted(&leave::stop(&volume)?);
    let made = snapshots::create_by(&store, target, key.as_ref(), &moving, Some(ready))?;
    show::text(&format!("{text}snapshot   {}\n", made.clear.id))
}

fn unmounted(mountpoints: &[PathBuf]) -> String {
    mountpoints.iter().map(|at| format!("unmounted  {}\n", show::name(at))).collect()
}

pub(in crate::cli) fn terminate(arguments: &TerminateArgs) -> Result<(), Fail> {
    let volume = volume(arguments.volume.as_deref(), &arguments.role)?;
    let confirm = match (&arguments.confirm, arguments.yes) {
        (Some(id), _) => Confirm::Id(id.clone()),
        (None, true) => Confirm::Yes,
        (None, false) => ask(&volume)?,
    };
    let destroyed = destroy::terminate(&volume, &confirm, arguments.snapshots.as_ref())?;
    let mut rows = vec![vec!["destroyed".to_owned(), destroyed.volume_id]];
    rows.extend(destroyed.slots.iter().map(|slot| {
        vec![format!("key slot {}", slot.id), format!("{} {}", slot.provider, slot.key)]
    }));
    rows.extend(destroyed.grants.into_iter().map(|id| vec!["grant".to_owned(), id]));
    rows.extend(destroyed.snapshots.into_iter().map(|id| vec!["snapshot".to_owned(), id]));
    rows.push(vec!["store".to_owned(), show::name(&destroyed.store)]);
    rows.extend(
        destroyed
            .left
            .iter()
            .map(|path| vec!["left, not the store's".to_owned(), show::name(path)]),
    );
    show::text(&show::table(&rows))
}

/// On a terminal the volume's id may be typed; elsewhere it has to be a flag.
fn ask(volume: &Path) -> Result<Confirm, Fail> {
    if !io::stdin().is_terminal() {
        return Ok(Confirm::No);
    }
    let (store, id) = destroy::target(volume)?;
    let name = show::name(&store);
    show::note(&format!("This destroys {name} for ever. Type its id, {id}: "));
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(show::failed)?;
    Ok(Confirm::Id(line.trim().to_owned()))
}
