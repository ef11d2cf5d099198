//! How an error becomes a message and an exit code.

use std::io::ErrorKind;
use std::process::ExitCode;

use serde_json::Map;
use tracing::Level;

use crate::cli::show;
use crate::job::JobError;
use crate::lifecycle::{Exit, VerbError};
use crate::telemetry::Format;

/// What to say, and how to end.
#[derive(Debug)]
pub(in crate::cli) struct Fail {
    code: u8,
    text: String,
}

impl Fail {
    pub(in crate::cli) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { code: exit.code(), text: text.into() }
    }

    /// Wrong usage that the parser could not see.
    pub(in crate::cli) fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// The same with another exit code.
    pub(in crate::cli) fn with(self, exit: Exit) -> Self {
        Self { code: exit.code(), ..self }
    }

    /// An end that its cause knows of already.
    pub(in crate::cli) fn quiet(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Says it on standard error, in the form that what else is there has.
    pub(in crate::cli) fn tell(self, format: Format) -> ExitCode {
        if !self.text.is_empty() {
            let fields = match format {
                Format::Text => Map::new(),
                Format::Json => Map::from_iter([("code".to_owned(), self.code.into())]),
            };
            show::note(&format.said(Level::ERROR, &self.text, fields));
        }
        ExitCode::from(self.code)
    }
}

impl From<VerbError> for Fail {
    fn from(error: VerbError) -> Self {
        if let VerbError::Local { error, .. } = &error
            && error.kind() == ErrorKind::BrokenPipe
        {
            return Self::quiet(Exit::Unexpected);
        }
        Self { code: error.exit_code(), text: error.to_string() }
    }
}

impl From<JobError> for Fail {
    fn from(error: JobError) -> Self {
        Self::new(error.exit(), error.to_string())
    }
}
