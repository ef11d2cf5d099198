//! A job inside a volume: the paths that the platform documents for a role are mounted, the
//! command runs with them, and afterwards everything is unmounted.
//!
//! | module  | is                                                                   |
//! |---------|----------------------------------------------------------------------|
//! | `role`  | the documented paths of each role, and what the command is told      |
//! | `run`   | mounts, starts the command, passes signals on, unmounts              |
//! | `child` | the last step before the command, in its own process                 |
//! | `family`| what the command starts ends with it                                 |
//! | `error` | why a command did not run, or was stopped                            |

mod child;
mod error;
mod family;
mod role;
mod run;

pub use child::{CHILD_VERB, Child, become_command};
pub use error::JobError;
pub use role::{Place, Role};
pub use run::{Ended, JobOptions, Outcome, StoreFate, run};
