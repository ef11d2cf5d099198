//! `completions` and `man`: what shells and man(1) are told of the command line, from its one
//! definition.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::aot::{Bash, Fish, Zsh, generate};
use clap_mangen::Man;

use crate::cli::args::Arguments;
use crate::cli::fail::Fail;
use crate::cli::show;
use crate::lifecycle::VerbError;

/// As it is installed.
const NAME: &str = "cmkfs";

/// The shells that complete what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CompletionsArgs {
    /// Who is to read them
    #[arg(value_enum)]
    pub(in crate::cli) shell: Shell,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ManArgs {
    /// Where to write a page for cmkfs and one for each command; by default the first of them goes
    /// to standard output
    pub(in crate::cli) dir: Option<PathBuf>,
}

/// The command line without the verbs by which this program calls itself, which completions would
/// offer.
fn definition() -> Command {
    let all = Arguments::command();
    let shown = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    let mut command = Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(shown);
    if let Some(about) = all.get_about() {
        command = command.about(about.clone());
    }
    if let Some(after) = all.get_after_help() {
        command = command.after_help(after.clone());
    }
    command
}

pub(in crate::cli) fn completions(arguments: &CompletionsArgs) -> Result<(), Fail> {
    let (mut command, mut script) = (definition(), Vec::new());
    match arguments.shell {
        Shell::Bash => generate(Bash, &mut command, NAME, &mut script),
        Shell::Zsh => generate(Zsh, &mut command, NAME, &mut script),
        Shell::Fish => generate(Fish, &mut command, NAME, &mut script),
    }
    show::bytes(&script)
}

pub(in crate::cli) fn man(arguments: &ManArgs) -> Result<(), Fail> {
    let mut command = definition().disable_help_subcommand(true);
    command.build();
    match &arguments.dir {
        None => show::bytes(&page(command).1),
        Some(dir) => pages(command, dir),
    }
}

/// Name of the file, and what is in it.
fn page(command: Command) -> (String, Vec<u8>) {
    let man = Man::new(command).manual("cmkfs");
    let mut text = Vec::new();
    man.render(&mut text).expect("memory takes all");
    (man.get_filename(), text)
}

fn pages(command: Command, dir: &Path) -> Result<(), Fail> {
    for verb in command.get_subcommands() {
        pages(verb.clone(), dir)?;
    }
    let (name, text) = page(command);
    let path = dir.join(name);
    Ok(std::fs::write(&path, text).map_err(VerbError::local(&path, "can't write it"))?)
}
