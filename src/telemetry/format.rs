//! How the log is written: lines of text, or of JSON.

use std::fmt::Write as _;
use std::str::FromStr;

use serde_json::{Map, Value};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// The variable for those who can't give a flag.
pub const FORMAT_VARIABLE: &str = "CMKFS_LOG_FORMAT";

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one object a line, with `timestamp`, `level`, `target` and `fields`, of which
    /// `message` is one.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is no format of a log: wanted text or json")),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl Format {
    /// What a flag says, or else the variable.
    ///
    /// # Errors
    /// What the variable says is no format.
    pub fn wanted(flag: Option<Self>) -> Result<Self, String> {
        match (flag, std::env::var(FORMAT_VARIABLE)) {
            (Some(format), _) => Ok(format),
            (None, Ok(text)) if !text.is_empty() => {
                text.parse().map_err(|error| format!("{FORMAT_VARIABLE}: {error}"))
            }
            (None, _) => Ok(Self::default()),
        }
    }

    /// What the command itself says on a standard error that is its log: a line of the same form,
    /// whatever level is logged. `text` may have several lines.
    pub fn said(self, level: tracing::Level, text: &str, mut fields: Map<String, Value>) -> String {
        let mut line = String::new();
        match self {
            Self::Text => {
                writeln!(line, "cmkfs: {text}").expect("a string takes any text");
                line.push_str(&crate::telemetry::table(&Value::Object(fields)));
            }
            Self::Json => {
                fields.insert("message".to_owned(), text.into());
                let (level, target) = (level.as_str(), "cmkfs");
                let object = serde_json::json!({
                    "timestamp": now(), "level": level, "fields": fields, "target": target,
                });
                writeln!(line, "{object}").expect("a string takes any text");
            }
        }
        line
    }
}

/// As the lines of the log have it.
fn now() -> String {
    let mut text = String::new();
    let formatted = SystemTime.format_time(&mut Writer::new(&mut text));
    formatted.expect("a string takes any text");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_one_line_of_json_or_text_with_a_table() {
        let fields = || Map::from_iter([("bytes".to_owned(), 2048.into())]);
        let text = Format::Text.said(tracing::Level::INFO, "figures", fields());
        assert_eq!(text, "cmkfs: figures\n  bytes  2048 (2.0 KiB)\n");
        let line = Format::Json.said(tracing::Level::ERROR, "two\nlines", fields());
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["fields"], serde_json::json!({"bytes": 2048, "message": "two\nlines"}));
        assert_eq!(
            (value["level"].as_str(), value["target"].as_str()),
            (Some("ERROR"), Some("cmkfs"))
        );
        assert!(value["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }
}
