//! What a check says. Names of fields, checks and statuses are part of the command's promise:
//! programs read them from `cmkfs doctor --json`.
//!
//! | field     | meaning                                                                   |
//! |-----------|---------------------------------------------------------------------------|
//! | `check`   | which check, by its name                                                  |
//! | `subject` | of several of one name, which: a path, or `slot N`; left out otherwise    |
//! | `status`  | `ok`, `warning`, `fails`, or `not_checked`: something before it failed    |
//! | `found`   | what was found, for people                                                |
//! | `value`   | the one word or number of it that a program may want, or left out         |
//! | `remedy`  | what to do; only with `warning` and `fails`                               |

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and should be otherwise.
    Warning,
    /// It does not work.
    Fails,
    /// Something before it failed.
    NotChecked,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fails => "fails",
            Self::NotChecked => "not checked",
        })
    }
}

/// One check and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check.
    pub check: &'static str,
    /// Of several of one name, which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// The part of it that a program may want.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(check: &'static str, status: Status, found: String, remedy: Option<String>) -> Self {
        Self { check, subject: None, status, found, value: None, remedy }
    }

    pub(in crate::lifecycle::doctor) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, found.into(), None)
    }

    pub(in crate::lifecycle::doctor) fn warning(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, Status::Warning, found.into(), Some(remedy.into()))
    }

    pub(in crate::lifecycle::doctor) fn fails(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, Status::Fails, found.into(), Some(remedy.into()))
    }

    /// `because` says what failed before, or what is missing.
    pub(in crate::lifecycle::doctor) fn not_checked(
        check: &'static str,
        because: impl Into<String>,
    ) -> Self {
        Self::new(check, Status::NotChecked, because.into(), None)
    }

    pub(in crate::lifecycle::doctor) fn of(self, subject: Option<impl Into<String>>) -> Self {
        Self { subject: subject.map(Into::into), ..self }
    }

    pub(in crate::lifecycle::doctor) fn value(self, value: impl Into<String>) -> Self {
        Self { value: Some(value.into()), ..self }
    }
}
