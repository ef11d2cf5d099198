//! What the rules need to know of a source text: its code without comments and literals, where
//! its tests begin, its functions.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file. Lines are counted from 1.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// `text` with comments and the insides of literals made blanks, line breaks kept.
    pub(crate) code: String,
    /// The line at which test code begins; past the end where there is none.
    pub(crate) tests_at: usize,
}

/// A function: where it is, what it takes, what it does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// Lines from the one with `fn` to the one with its last brace.
    pub(crate) len: usize,
    /// From `fn` to the body.
    pub(crate) signature: String,
    pub(crate) body: String,
}

impl Source {
    pub(crate) fn new(path: PathBuf, text: String) -> Self {
        let code = blank(&text);
        let all_tests = path.file_name().is_some_and(|name| name == "tests.rs")
            || path.parent().is_some_and(|folder| folder.ends_with("tests"));
        let tests_at = if all_tests { 1 } else { tests_begin(&code) };
        Self { path, text, code, tests_at }
    }

    /// Lines of code before the tests, numbered.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines()).take_while(|(number, _)| *number < self.tests_at)
    }

    /// The functions that are not tests.
    pub(crate) fn functions(&self) -> impl Iterator<Item = Function> {
        functions(&self.code).into_iter().filter(|function| function.line < self.tests_at)
    }

    /// What a failure of a rule begins with.
    pub(crate) fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }
}

/// Every file below `dir` with one of these extensions, in order of path. Panics if `dir` is not
/// there: a renamed folder must not pass unread. What cargo put into a `target` is not ours.
pub(crate) fn sources(dir: &Path, extensions: &[&str]) -> Vec<Source> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry of a source folder").path()).collect();
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.ends_with("target") {
            continue;
        }
        if path.is_dir() {
            sources.extend(self::sources(&path, extensions));
        } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            sources.push(Source::new(path, text));
        }
    }
    sources
}

/// Whether `code` has `word` with no letter, digit or `_` at either side.
pub(crate) fn names(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

/// Words that follow `prefix` in `line`: of `crate::`, the modules named.
pub(crate) fn words_after<'a>(line: &'a str, prefix: &str) -> impl Iterator<Item = &'a str> {
    line.split(prefix).skip(1).map(|tail| {
        let end = tail.find(|c: char| !c.is_alphanumeric() && c != '_');
        &tail[..end.unwrap_or(tail.len())]
    })
}

/// The line of the first `#[cfg(test)]` that is followed by a module.
fn tests_begin(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let begin = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && names(pair[1], "mod") && pair[1].ends_with('{')
    });
    begin.map_or(usize::MAX, |index| index + 1)
}

/// Comments, and what stands inside quotes, made blanks; everything else where it was.
pub(crate) fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = skipped_len(rest, &code);
        if len == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (skipped, after) = rest.split_at(len);
        code.extend(skipped.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    code
}

/// Bytes of the comment or literal with which `rest` begins, 0 if it begins with neither.
fn skipped_len(rest: &str, before: &str) -> usize {
    let to = |end: Option<usize>| end.unwrap_or(rest.len());
    if rest.starts_with("//") {
        return to(rest.find('\n'));
    }
    if rest.starts_with("/*") {
        return block_comment_len(rest);
    }
    if rest.starts_with('"') {
        return quoted_len(rest, '"');
    }
    let in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let hashes = rest.trim_start_matches('r').len();
    if rest.starts_with('r') && (!in_word || before.ends_with('b')) && rest.len() - hashes == 1 {
        let count = rest[1..].len() - rest[1..].trim_start_matches('#').len();
        if rest[1 + count..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(count));
            let inside = 2 + count;
            return to(rest[inside..].find(&close).map(|at| inside + at + close.len()));
        }
    }
    if rest.starts_with('\'') { char_len(rest) } else { 0 }
}

fn block_comment_len(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Bytes of a character literal; 0 for a lifetime or a label.
fn char_len(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted_len(rest, '\''),
        _ => 0,
    }
}

/// Every function with a body, also nested ones and methods, in order.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name = words_after(&code[at..], "fn ").next().unwrap_or_default();
        let in_word = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let Some(open) = body_begin(&code[at..]) else { continue };
        if in_word || name.is_empty() {
            continue;
        }
        let body = &code[at + open..][..block_len(&code[at + open..])];
        let signature = &code[at..at + open];
        found.push(Function {
            name: name.to_owned(),
            line: code[..at].matches('\n').count() + 1,
            len: signature.matches('\n').count() + body.matches('\n').count() + 1,
            signature: signature.to_owned(),
            body: body.to_owned(),
        });
    }
    found
}

/// Where the body of a function begins; None if it ends with a semicolon that no bracket holds.
fn body_begin(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// Bytes from an opening brace to the one that closes it.
fn block_len(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}
