//! Standard output. A reader that has gone, as in `cmkfs ls ... | head`, ends the command quietly.

use std::io::{self, Write};

use crate::cli::fail::Fail;
use crate::format::utc::Utc;
use crate::lifecycle::Exit;

/// For `map_err`: standard output failed.
pub(in crate::cli) fn failed(error: io::Error) -> Fail {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Fail::quiet(Exit::Unexpected),
        _ => Fail::new(Exit::Unexpected, format!("standard output: {error}")),
    }
}

/// Writes text.
pub(in crate::cli) fn text(text: &str) -> Result<(), Fail> {
    bytes(text.as_bytes())
}

/// Writes bytes as they are.
pub(in crate::cli) fn bytes(bytes: &[u8]) -> Result<(), Fail> {
    let mut output = io::stdout().lock();
    let written = output.write_all(bytes).and_then(|()| output.flush());
    written.map_err(failed)
}

/// Says something on standard error. Nobody can be told that standard error does not work, and
/// no verb fails for it.
pub(in crate::cli) fn note(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}

/// Writes a value as indented JSON.
pub(in crate::cli) fn json(value: &impl serde::Serialize) -> Result<(), Fail> {
    let json = serde_json::to_string_pretty(value).map_err(|error| failed(error.into()))?;
    text(&format!("{json}\n"))
}

/// Rows with aligned columns; the last column is not padded.
pub(in crate::cli) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut lines = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines
}

/// A time for people; what was before 1970 is not told apart.
pub(in crate::cli) fn time(unix_s: i64) -> String {
    Utc::from_unix_s(u64::try_from(unix_s).unwrap_or(0)).to_string()
}

/// A name for a terminal: control characters, which could command it, are escaped.
pub(in crate::cli) fn name(path: &std::path::Path) -> String {
    let text = path.to_string_lossy();
    let escape = |letter: char| -> String {
        if letter.is_control() { letter.escape_default().collect() } else { letter.into() }
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "bcd".into()], vec!["efg".into(), "h".into()]];
        assert_eq!(table(&rows), "a    bcd\nefg  h\n");
    }

    #[test]
    fn names_can_not_command_a_terminal() {
        assert_eq!(name(std::path::Path::new("a\u{1b}[2Jb\n")), "a\\u{1b}[2Jb\\n");
    }
}
