//! `ls`, `cat`, `get`, `put`.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Map;
use tracing::Level;

use crate::cli::args::{CatArgs, GetArgs, KeyArgs, LsArgs, PutArgs};
use crate::cli::fail::Fail;
use crate::cli::show;
use crate::config::Size;
use crate::fs::Kind;
use crate::keys::KeySource;
use crate::lifecycle::VerbError;
use crate::lifecycle::transfer::{self, Copied, Listed};
use crate::telemetry::Format;

/// How often a terminal is told how far a copy is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// An error of standard output as one that a verb can return.
fn output_failed(error: io::Error) -> VerbError {
    VerbError::Local { path: "standard output".into(), action: "can't write", error }
}

pub(in crate::cli) fn key(arguments: &KeyArgs) -> Result<Option<KeySource>, Fail> {
    let typed = arguments.key.as_deref().map(str::parse).transpose();
    typed.map_err(|error| VerbError::Key(error).into())
}

pub(in crate::cli) fn ls(arguments: &LsArgs) -> Result<(), Fail> {
    let key = key(&arguments.key)?;
    let mut output = io::BufWriter::new(io::stdout().lock());
    transfer::list(&arguments.path, key.as_ref(), arguments.recursive, &mut |found| {
        let name = match found.path.as_os_str().is_empty() {
            true => show::name(Path::new(arguments.path.path.file_name().unwrap_or_default())),
            false => show::name(&found.path),
        };
        let line = if arguments.long { long(found, &name) } else { name };
        writeln!(output, "{line}").map_err(output_failed)
    })?;
    output.flush().map_err(show::failed)
}

fn long(found: &Listed, name: &str) -> String {
    let item = &found.item;
    let kind = match item.kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
    };
    let target = match &found.target {
        Some(target) => format!(" -> {}", show::name(target)),
        None => String::new(),
    };
    format!(
        "{kind}{} {:>3} {:>5} {:>5} {:>12} {}  {name}{target}",
        permissions(item.mode),
        item.nlink,
        item.uid,
        item.gid,
        item.size,
        show::time(item.mtime.s),
    )
}

/// As ls(1) has them.
fn permissions(mode: u32) -> String {
    let mut letters: Vec<char> = (0..9)
        .map(|bit| if mode & (0o400 >> bit) != 0 { ['r', 'w', 'x'][bit % 3] } else { '-' })
        .collect();
    for (bit, at, set) in [(0o4000, 2, 's'), (0o2000, 5, 's'), (0o1000, 8, 't')] {
        if mode & bit != 0 {
            letters[at] = if letters[at] == 'x' { set } else { set.to_ascii_uppercase() };
        }
    }
    letters.into_iter().collect()
}

pub(in crate::cli) fn cat(arguments: &CatArgs) -> Result<(), Fail> {
    let key = key(&arguments.key)?;
    let mut output = io::stdout().lock();
    let mut write = |data: &[u8]| output.write_all(data).map_err(output_failed);
    transfer::cat(&arguments.path, key.as_ref(), &mut write)?;
    output.flush().map_err(show::failed)
}

pub(in crate::cli) fn get(arguments: &GetArgs, said: Format) -> Result<(), Fail> {
    let key = key(&arguments.key)?;
    copy(said, |progress| transfer::get(&arguments.path, key.as_ref(), &arguments.local, progress))
}

pub(in crate::cli) fn put(arguments: &PutArgs, said: Format) -> Result<(), Fail> {
    let key = key(&arguments.key)?;
    copy(said, |progress| transfer::put(&arguments.local, &arguments.path, key.as_ref(), progress))
}

/// Shows how far a copy is on a terminal, and what was left out anywhere.
fn copy(
    said: Format,
    work: impl FnOnce(&mut dyn FnMut(&Path, Copied)) -> Result<Copied, VerbError>,
) -> Result<(), Fail> {
    let is_terminal = io::stderr().is_terminal();
    let mut last: Option<Instant> = None;
    let mut progress = |path: &Path, copied: Copied| {
        if is_terminal && last.is_none_or(|last| last.elapsed() > PROGRESS_INTERVAL) {
            last = Some(Instant::now());
            let (files, bytes) = (copied.files, Size(copied.bytes >> 20 << 20));
            show::note(&format!("\r\x1b[K{files} files, {bytes}: {}", show::name(path)));
        }
    };
    let result = work(&mut progress);
    if last.is_some() {
        show::note("\r\x1b[K");
    }
    let copied = result?;
    if copied.skipped > 0 {
        let count = copied.skipped;
        let text = format!("{count} pipes, sockets or devices were not copied");
        show::note(&said.said(Level::WARN, &text, Map::new()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_as_in_ls() {
        for (mode, text) in [
            (0o644, "rw-r--r--"),
            (0o755, "rwxr-xr-x"),
            (0o1777, "rwxrwxrwt"),
            (0o4711, "rws--x--x"),
            (0o6600, "rwS--S---"),
        ] {
            assert_eq!(permissions(mode), text);
        }
    }
}
