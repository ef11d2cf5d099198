//! The figures of a mount for a collector: HTTP on the loopback interface or a socket, in
//! Prometheus' text format 0.0.4 or, for who asks for it, as OpenMetrics 1.0.
//!
//! | module    | is                                           |
//! |-----------|----------------------------------------------|
//! | `address` | where they are served                        |
//! | `text`    | the figures in either format                 |
//! | `server`  | the thread that serves them                  |

mod address;
mod server;
mod text;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lifecycle::error::VerbError;

pub use address::Address;
pub use server::Bound;
pub(in crate::lifecycle) use server::Server;

/// What of a mount is shown to those who watch it, beside its `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watched {
    /// The kernel's requests that take as long are told in the log.
    pub slow: Option<Duration>,
    /// Where its figures are served.
    pub metrics: Option<Address>,
}

impl Watched {
    /// Listens for those who want metrics, if any are to be served.
    ///
    /// # Errors
    /// [`VerbError::NoMetrics`].
    pub fn bind(&self) -> Result<Option<Bound>, VerbError> {
        self.metrics.as_ref().map(Bound::new).transpose()
    }
}
