//! `run`, and the last step before its command.

use serde_json::{Map, Value};
use tracing::Level;

use crate::cli::args::{RunArgs, RunChildArgs};
use crate::cli::fail::Fail;
use crate::cli::mount::key_source;
use crate::cli::show;
use crate::job::{self, Child, Ended, JobOptions, Outcome, Place, StoreFate};
use crate::keys::OutputKey;
use crate::lifecycle::Exit;
use crate::telemetry::Format;

/// Exit codes of commands that a signal ended begin here.
const SIGNAL_BASE: i32 = 128;

pub(in crate::cli) fn run(arguments: &RunArgs, said: Format) -> Result<u8, Fail> {
    let before = |text: String| Fail::new(Exit::NotRun, text);
    let place = Place::new(arguments.role, &arguments.root, arguments.store.as_deref());
    let place =
        place.map_err(|error| before(format!("root {}: {error}", arguments.root.display())))?;
    let key = arguments.key.as_deref().map(key_source).transpose();
    let key = key.map_err(|fail| fail.with(Exit::NotRun))?;
    let mut request = place.request(key.as_deref());
    if let Some(output_key) = &arguments.output_key {
        output_key.parse::<OutputKey>().map_err(|error| before(error.to_string()))?;
        request.output_key = Some(output_key.clone());
    }
    arguments.tuning.apply(&mut request);
    arguments.watched.apply(&mut request).map_err(|fail| fail.with(Exit::NotRun))?;
    let options = JobOptions {
        place,
        request,
        keep_store: arguments.keep_store,
        command: arguments.command.clone(),
    };
    let outcome = job::run(&options)?;
    tell(&options, &outcome, said);
    Ok(match outcome.ended {
        Ended::Code(code) => code,
        Ended::Signal(signal) => u8::try_from(SIGNAL_BASE + signal).unwrap_or(u8::MAX),
    })
}

/// What the volume did. Not on standard output, which is the command's.
fn tell(options: &JobOptions, outcome: &Outcome, said: Format) {
    let say = |level, text: &str, fields| show::note(&said.said(level, text, fields));
    let store = show::name(&options.request.store);
    if outcome.killed > 0 {
        let text = format!("the command left {} processes running: killed", outcome.killed);
        say(Level::WARN, &text, Map::new());
    }
    for process in &outcome.left_running {
        let text = format!("{process} used the mounts, which are gone now");
        say(Level::WARN, &text, Map::new());
    }
    if let Some(daemon) = outcome.report.as_ref().and_then(|report| report.daemon.as_ref())
        && let Ok(Value::Object(mut figures)) = serde_json::to_value(daemon.figures)
    {
        let seconds = outcome.took.as_millis() as f64 / 1000.0;
        figures.insert("seconds".to_owned(), seconds.into());
        say(Level::INFO, "figures of the volume", figures);
    }
    let fate = match outcome.store {
        StoreFate::Kept => format!("the volume is kept in {store}"),
        StoreFate::Removed => format!("the key is zeroed, and {store} removed"),
        StoreFate::Unreadable => {
            format!("the key is zeroed: nobody can read what is kept in {store}")
        }
    };
    say(Level::INFO, &fate, Map::new());
}

/// Returns only if the command can't be executed.
pub(in crate::cli) fn child(arguments: &RunChildArgs) -> Fail {
    let child = Child {
        parent: arguments.parent,
        umask: arguments.umask,
        files: arguments.files,
        core: arguments.core,
    };
    let (exit, text) = job::become_command(child, &arguments.command);
    Fail::new(exit, text)
}
