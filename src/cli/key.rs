//! `key`: what has to do with the keys of a volume.

use clap::{Args, Subcommand};

use crate::cli::fail::Fail;
use crate::cli::policy::{self, PolicyArgs};

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
}

pub(in crate::cli) fn key(verb: &KeyVerb) -> Result<(), Fail> {
    match verb {
        KeyVerb::Policy(arguments) => policy::policy(arguments),
    }
}
