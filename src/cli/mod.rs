//! The command line: what was typed, what is shown, the exit code.
//!
//! | module    | holds                                              |
//! |-----------|----------------------------------------------------|
//! | `args`    | verbs and flags                                    |
//! | `options` | the words after `-o`                               |
//! | `volume`  | `init`, `status`, `stop`, `terminate`              |
//! | `snapshot` | `snapshot`                                        |
//! | `mount`   | `mount`, `umount` and the daemon                   |
//! | `files`   | `ls`, `cat`, `get`, `put`                          |
//! | `run`     | `run`                                              |
//! | `check`   | `check`                                            |
//! | `tuning`  | flags of how an open volume behaves                |
//! | `key`     | `key`                                              |
//! | `policy`  | `key policy`                                       |
//! | `audit`   | `key audit`                                        |
//! | `grant`   | `key grant`                                        |
//! | `doctor`  | `doctor`                                           |
//! | `shell`   | `completions` and `man`                            |
//! | `watch`   | `status --watch`                                   |
//! | `fail`    | how an error becomes a message and an exit code    |
//! | `show`    | standard output, and tables                        |

mod args;
mod audit;
mod check;
mod doctor;
mod fail;
mod files;
mod grant;
mod key;
mod mount;
mod options;
mod policy;
mod run;
mod shell;
mod show;
mod snapshot;
mod tuning;
mod volume;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::args::{Arguments, Verb};
use crate::cli::fail::Fail;
use crate::config;
use crate::keys;
use crate::lifecycle::{Exit, locking};
use crate::telemetry::{self, Format, Logging};

/// Does what was typed.
pub fn main() -> ExitCode {
    keys::note_descriptors();
    let typed: Vec<OsString> = std::env::args_os().collect();
    let arguments = match options::parse(&typed) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors and go to standard output.
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            return match error.print() {
                Err(_) if code == Exit::Ok => ExitCode::from(Exit::Unexpected.code()),
                _ => ExitCode::from(code.code()),
            };
        }
    };
    let format = match Format::wanted(arguments.log_format) {
        Ok(format) => format,
        Err(error) => return Fail::usage(error).tell(Format::Text),
    };
    let log = arguments.verb.own_log().map(telemetry::open_log);
    let log = match log.transpose() {
        Ok(log) => log,
        Err(error) => return Fail::new(Exit::Unexpected, format!("the log: {error}")).tell(format),
    };
    // A standard error that is no log is for people.
    let said = if log.is_some() { Format::Text } else { format };
    let logging = Logging { verbose: arguments.verbose, format };
    telemetry::start(logging, log);
    keys::keep_calls_in(config::calls_dir());
    if arguments.allow_plain_http {
        keys::allow_plain_http();
    }
    match act(arguments, logging, said) {
        Ok(code) => ExitCode::from(code),
        Err(fail) => fail.tell(said),
    }
}

fn act(arguments: Arguments, logging: Logging, said: Format) -> Result<u8, Fail> {
    match arguments.verb {
        Verb::Init(init) => volume::init(&init),
        Verb::Mount(wanted) => mount::mount(&wanted, logging),
        Verb::MountDaemon(_) => mount::daemon(),
        Verb::Umount(umount) => mount::umount(&umount.mountpoint),
        Verb::Status(status) => volume::status(&status),
        Verb::Ls(ls) => files::ls(&ls),
        Verb::Cat(cat) => files::cat(&cat),
        Verb::Get(get) => files::get(&get, said),
        Verb::Put(put) => files::put(&put, said),
        Verb::Run(wanted) => return run::run(&wanted, said),
        Verb::RunChild(child) => return Err(run::child(&child)),
        Verb::Lock(wanted) => Ok(locking::lock(&wanted.volume)?),
        Verb::Unlock(wanted) => mount::unlock(&wanted),
        Verb::Check(wanted) => return check::check(&wanted),
        Verb::Stop(stop) => volume::stop(&stop),
        Verb::Snapshot(wanted) => return snapshot::snapshot(&wanted.verb),
        Verb::Key(wanted) => key::key(&wanted.verb),
        Verb::Terminate(wanted) => volume::terminate(&wanted),
        Verb::Doctor(wanted) => return doctor::doctor(&wanted),
        Verb::Completions(wanted) => shell::completions(&wanted),
        Verb::Man(wanted) => shell::man(&wanted),
    }
    .map(|()| Exit::Ok.code())
}
