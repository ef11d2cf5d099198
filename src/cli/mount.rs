//! `mount`, `umount`, and the daemon that `mount` starts.

use std::path::{Path, PathBuf};

use crate::cli::args::{MountArgs, RoleArgs, UnlockArgs};
use crate::cli::fail::Fail;
use crate::cli::show;
use crate::config;
use crate::job::Place;
use crate::keys::{self, KeySource};
use crate::lifecycle::metrics::Watched;
use crate::lifecycle::report::Report;
use crate::lifecycle::request::{KernelOptions, MountRequest};
use crate::lifecycle::session::Point;
use crate::lifecycle::{Durability, Exit, VerbError, background, leave, locate, locking, serve};
use crate::limits::{KEY_MAX_OFFLINE_DEFAULT, KEY_RECHECK_DEFAULT, OPEN_DIRS_DEFAULT};
use crate::telemetry::Logging;

/// The role's place; `None` if a path was typed instead.
pub(in crate::cli) fn place(arguments: &RoleArgs) -> Result<Option<Place>, Fail> {
    let Some(role) = arguments.role else {
        return match (&arguments.root, &arguments.store) {
            (None, None) => Ok(None),
            _ => Err(Fail::usage("--root and --store are a role's: wanted --role too")),
        };
    };
    let root = arguments.root.as_deref().unwrap_or_else(|| Path::new("/"));
    let place = Place::new(role, root, arguments.store.as_deref());
    place
        .map(Some)
        .map_err(|error| Fail::new(Exit::NoMountpoint, format!("root {}: {error}", root.display())))
}

/// A key source with an absolute path, as text.
pub(in crate::cli) fn key_source(typed: &str) -> Result<String, Fail> {
    let source: KeySource = typed.parse().map_err(|error| Fail::from(VerbError::Key(error)))?;
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| Fail::new(Exit::BadKeySource, format!("key source {typed}: {error}")))
    };
    Ok(match source {
        KeySource::Local(Some(path)) => KeySource::Local(Some(absolute(&path)?)),
        KeySource::File(path) => KeySource::File(absolute(&path)?),
        // Before a daemon is started that would say so.
        KeySource::Fd(number) => {
            keys::check_descriptor(number).map_err(VerbError::Key)?;
            KeySource::Fd(number)
        }
        other => other,
    }
    .to_string())
}

pub(in crate::cli) fn mount(arguments: &MountArgs, logging: Logging) -> Result<(), Fail> {
    let request = request(arguments)?;
    request.check()?;
    if arguments.fake {
        return Ok(());
    }
    let shown = |points: &[PathBuf]| {
        let points: Vec<String> = points.iter().map(|path| show::name(path)).collect();
        tracing::info!("{} serves at {}", request.store.display(), points.join(", "));
    };
    if arguments.foreground {
        let ready = |report: &Report| {
            shown(&report.mountpoints);
            true
        };
        return Ok(serve::serve(&request, || true, ready)?);
    }
    let log = match &arguments.log_file {
        Some(path) => std::path::absolute(path),
        None => config::default_log(&request.store),
    };
    let log = log.map_err(|error| Fail::new(Exit::Unexpected, format!("the log: {error}")))?;
    shown(&background::start(&request, &log, logging)?.mountpoints);
    Ok(())
}

pub(in crate::cli) fn daemon() -> Result<(), Fail> {
    Ok(background::daemon()?)
}

pub(in crate::cli) fn umount(mountpoint: &Path) -> Result<(), Fail> {
    Ok(leave::umount(mountpoint)?)
}

pub(in crate::cli) fn unlock(arguments: &UnlockArgs) -> Result<(), Fail> {
    let key = arguments.key.as_deref().map(key_source).transpose()?;
    // The daemon has not got the descriptor, but may open what it leads to, as this process waits.
    let key = key.map(|key| match key.strip_prefix("fd:") {
        Some(number) => format!("file:/proc/{}/fd/{number}", std::process::id()),
        None => key,
    });
    Ok(locking::unlock(&arguments.volume, key.as_deref())?)
}

fn request(arguments: &MountArgs) -> Result<MountRequest, Fail> {
    let words = arguments.words().map_err(Fail::usage)?;
    let key = arguments.key.as_deref().map(key_source).transpose()?;
    let mut request = match (place(&arguments.role)?, &arguments.store, &arguments.mountpoint) {
        (Some(place), ..) => place.request(key.as_deref()),
        (None, Some(store), Some(mountpoint)) => plain(store, mountpoint, key)?,
        _ => return Err(Fail::usage("wanted STORE and MOUNTPOINT, or --role")),
    };
    arguments.tuning.apply(&mut request);
    arguments.watched.apply(&mut request)?;
    request.read_only = words.read_only.unwrap_or(false) || arguments.read_only;
    if request.read_only {
        // Nothing can be made in a volume that is not to be changed.
        request.make = None;
    }
    let kernel = &mut request.kernel;
    kernel.allow_other = words.allow_other.unwrap_or(kernel.allow_other);
    kernel.default_permissions = words.default_permissions.unwrap_or(kernel.default_permissions);
    kernel.allow_nonempty = words.nonempty.unwrap_or(kernel.allow_nonempty);
    kernel.set_id = words.set_id.unwrap_or(kernel.set_id);
    kernel.no_programs = words.programs.map_or(kernel.no_programs, |allowed| !allowed);
    kernel.devices = words.devices.unwrap_or(kernel.devices);
    kernel.write_back = words.write_back.unwrap_or(kernel.write_back);
    Ok(request)
}

fn plain(store: &Path, mountpoint: &Path, key: Option<String>) -> Result<MountRequest, Fail> {
    let found = locate::describe(store)?.0;
    let absolute = std::path::absolute(mountpoint).map_err(|error| {
        Fail::new(Exit::NoMountpoint, format!("{}: {error}", mountpoint.display()))
    })?;
    // A mountpoint that is not there, or whose daemon is dead, is refused by the check.
    let mountpoint = absolute.canonicalize().unwrap_or(absolute);
    Ok(MountRequest {
        store: found.path().to_owned(),
        points: vec![Point { mountpoint, subdir: String::new(), mode: 0o755 }],
        key,
        output_key: None,
        make: None,
        cache_bytes: 0,
        threads: None,
        open_dirs: OPEN_DIRS_DEFAULT,
        durability: Durability::Strict,
        key_recheck: KEY_RECHECK_DEFAULT,
        key_max_offline: KEY_MAX_OFFLINE_DEFAULT,
        read_only: false,
        kernel: KernelOptions::usual(),
        watched: Watched::default(),
    })
}
