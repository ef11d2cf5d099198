//! Rules about the source text itself. A failure names the file, the line and what is allowed.

#[path = "tidy/scan.rs"]
mod scan;

use std::path::Path;

use scan::{Function, Source, names, sources, words_after};

/// Layer, and the layers that it may name besides itself. Nothing names a layer above it. Grouped
/// imports (`use crate::{...}`) are refused, so that one scan of the text is enough. Whatever is
/// in `src` and not in this table is refused too.
const MAY_USE: &[(&str, &[&str])] = &[
    ("fuse", &["fs", "sys", "limits"]),
    ("fs", &["file", "format", "limits"]),
    ("file", &["cipher", "store", "format", "limits"]),
    ("cipher", &["format", "sys"]),
    ("store", &["cipher", "format", "sys", "limits"]),
    ("format", &[]),
    ("keys", &["cipher", "format", "sys", "limits"]),
    ("object", &["store", "format", "limits"]),
    (
        "lifecycle",
        &[
            "fuse",
            "fs",
            "file",
            "cipher",
            "store",
            "format",
            "keys",
            "object",
            "config",
            "telemetry",
            "sys",
            "limits",
        ],
    ),
    ("job", &["lifecycle", "config", "keys", "sys", "limits"]),
    ("cli", &["lifecycle", "job", "config", "keys", "fs", "format", "telemetry", "limits"]),
    ("telemetry", &["sys", "limits"]),
    ("config.rs", &["format", "keys", "limits"]),
    ("limits.rs", &[]),
    ("sys", &["limits"]),
    ("main.rs", &[]),
    ("lib.rs", &[]),
];

/// What a layer may not name, and why.
const BANNED: &[(&[&str], &[&str], &str)] = &[
    (
        &["cipher", "format"],
        &["std::fs", "std::net", "std::time", "std::process", "rustix", "libc"],
        "they are pure: no I/O, no clock",
    ),
    (
        &["fuse", "fs", "file", "cipher", "store", "format"],
        &["tokio", "async", "await"],
        "the data path has no async in it",
    ),
    (&["store"], &["Plain"], "no function that reaches the disk accepts plaintext"),
];

/// Calls that put bytes on a disk.
const WRITES: &[&str] = &[
    "write(",
    "pwrite(",
    "writev(",
    "pwritev(",
    "write_all(",
    "write_all_at(",
    "write_at(",
    "write_bytes(",
    "fsetxattr(",
    "lsetxattr(",
    "setxattr(",
    "symlinkat(",
    "copy_file_range(",
    "sendfile(",
];
/// What a function of `store` that calls one of them has to take.
const SEALED: &[&str] = &["Sealed", "StoredName", "LinkText", "Descriptor", "DiskBlob"];
/// The other functions of `store` that may, each with the reason.
const CLEAR_WRITES: &[(&str, &str, &str)] = &[
    ("src/store/blob.rs", "write_bytes", "private: its callers are held to the same"),
    ("src/store/blob.rs", "write_zeros", "they say nothing"),
    ("src/store/lease.rs", "write_down", "who has the volume is told to whoever sees the store"),
    ("src/store/lease.rs", "renew_told", "the same: how often that was renewed"),
    ("src/store/marker.rs", "put_back_marker", "the bytes came from there a moment ago"),
    ("src/store/attribute.rs", "set_bytes", "private: what its callers take is checked by itself"),
];
/// Parameters of bytes that public functions of `store` may have: names of stored objects.
const NAME_PARAMETERS: &[&str] = &["object", "name", "sidecar", "text"];
/// The other ones, each with the reason.
const CLEAR_PARAMETERS: &[(&str, &str, &str)] = &[
    ("src/store/attribute.rs", "list", "the lower disk enforces access control lists itself"),
    ("src/store/mod.rs", "what", "goes to the log, and says what kind of thing was left behind"),
];

const FILE_LEN_MAX: usize = 500;
const FUNCTION_LEN_MAX: usize = 70;
const LINE_LEN_MAX: usize = 100;

/// Fails with all that is wrong, not with the first.
fn none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// The files of a layer: a folder, or one file.
fn layer(name: &str) -> Vec<Source> {
    let path = Path::new("src").join(name);
    if path.is_dir() {
        return sources(&path, &["rs"]);
    }
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; it is in the table", path.display()));
    vec![Source::new(path, text)]
}

/// All Rust source.
fn rust() -> Vec<Source> {
    ["src", "tests", "benches"].iter().flat_map(|dir| sources(Path::new(dir), &["rs"])).collect()
}

fn broken_edges(source: &Source, layer: &str, may: &[&str]) -> Vec<String> {
    let own = layer.trim_end_matches(".rs");
    let mut broken = Vec::new();
    for (number, line) in source.lines() {
        for name in words_after(line, "crate::") {
            if name.is_empty() {
                let say = "no group or glob of the crate itself: name each module in its own `use`";
                broken.push(format!("{}: {say}", source.at(number)));
            } else if name != own && !may.contains(&name) {
                let at = source.at(number);
                broken.push(format!("{at}: {layer} may use {may:?}, not {name:?}"));
            }
        }
        if line.contains("super::super") {
            broken.push(format!("{}: name the module from `crate::` on", source.at(number)));
        }
    }
    broken
}

#[test]
fn layers_name_only_what_they_may() {
    let mut broken = Vec::new();
    for (name, may) in MAY_USE {
        for source in layer(name) {
            broken.extend(broken_edges(&source, name, may));
        }
    }
    none(&broken);
}

#[test]
fn everything_in_src_is_in_the_table() {
    let entries = std::fs::read_dir("src").expect("src");
    for entry in entries {
        let name = entry.expect("an entry of src").file_name().into_string().expect("ASCII");
        let known = MAY_USE.iter().any(|(layer, _)| *layer == name);
        assert!(known, "src/{name} is not in the table of layers: add it there and to src/lib.rs");
    }
}

#[test]
fn no_layer_names_what_it_is_kept_from() {
    let mut broken = Vec::new();
    for (layers, words, why) in BANNED {
        for source in layers.iter().flat_map(|name| layer(name)) {
            for (number, line) in source.lines() {
                for word in words.iter().filter(|word| names(line, word)) {
                    broken.push(format!("{}: no `{word}` here: {why}", source.at(number)));
                }
            }
        }
    }
    none(&broken);
}

#[test]
fn only_fuse_names_fuser_and_only_sys_is_unsafe() {
    let mut broken = Vec::new();
    for source in sources(Path::new("src"), &["rs"]) {
        for (word, home) in
            [("fuser", "src/fuse"), ("unsafe", "src/sys"), ("unsafe_code", "src/sys")]
        {
            for (number, line) in (1..).zip(source.code.lines()) {
                if names(line, word) && !source.path.starts_with(home) {
                    broken.push(format!("{}: `{word}` only in {home}", source.at(number)));
                }
            }
        }
    }
    none(&broken);
}

/// What is wrong with a function of `store` that writes.
fn broken_write(source: &Source, function: &Function) -> Option<String> {
    let body = function.body.replace(".write(true)", ""); // How a file is opened writes nothing.
    let call = WRITES.iter().find(|call| {
        let word = call.trim_end_matches('(');
        body.contains(*call) && names(&body, word)
    })?;
    let path = source.path.to_str().expect("ASCII");
    let allowed =
        CLEAR_WRITES.iter().any(|(file, name, _)| *file == path && *name == function.name);
    let sealed = SEALED.iter().any(|word| names(&function.signature, word));
    let (at, name) = (source.at(function.line), &function.name);
    (!sealed && !allowed)
        .then(|| format!("{at}: `{name}` calls `{call}...)` and takes none of {SEALED:?}"))
}

/// Names of the parameters of a function that are bytes or text.
fn byte_parameters(signature: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in signature.match_indices(": ") {
        let kind = signature[at + 2..].trim_start_matches("Option<").trim_start_matches("impl ");
        let bytes = ["&[u8]", "&str", "Vec<u8>", "&Vec<u8>", "String", "AsRef<", "Into<", "[u8"];
        if bytes.iter().any(|bytes| kind.starts_with(bytes)) {
            found.push(signature[..at].rsplit(|c: char| !c.is_alphanumeric() && c != '_').next());
        }
    }
    found.into_iter().flatten().collect()
}

#[test]
fn what_reaches_the_disk_is_sealed() {
    let mut broken = Vec::new();
    let mut used = Vec::new();
    for source in layer("store") {
        let path = source.path.to_str().expect("ASCII").to_owned();
        for function in source.functions() {
            broken.extend(broken_write(&source, &function));
            used.push((path.clone(), function.name.clone()));
            let line = source.code.lines().nth(function.line - 1).expect("its line");
            if !line.trim_start().starts_with("pub ") {
                continue;
            }
            for name in byte_parameters(&function.signature) {
                used.push((path.clone(), name.to_owned()));
                let clear = CLEAR_PARAMETERS.iter().any(|clear| clear.0 == path && clear.1 == name);
                if !clear && !NAME_PARAMETERS.contains(&name) {
                    let at = source.at(function.line);
                    broken.push(format!("{at}: `{name}` is bytes: take `Sealed` or `StoredName`"));
                }
            }
        }
    }
    for (path, name, _) in CLEAR_WRITES.iter().chain(CLEAR_PARAMETERS) {
        if !used.contains(&((*path).to_owned(), (*name).to_owned())) {
            broken.push(format!("{path}: no `{name}` there: take it out of the exceptions"));
        }
    }
    none(&broken);
}

#[test]
fn production_code_does_not_unwrap_or_leave_marks() {
    let mut broken = Vec::new();
    for source in sources(Path::new("src"), &["rs"]) {
        for (number, line) in source.lines().filter(|(_, line)| line.contains(".unwrap()")) {
            let say = "no `.unwrap()`: return the error, or `expect` with why it cannot fail";
            broken.push(format!("{}: {say}: {}", source.at(number), line.trim()));
        }
    }
    // In two parts, so that this file passes.
    let marks = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    for source in rust() {
        for (number, line) in (1..).zip(source.text.lines()) {
            if marks.iter().any(|mark| names(line, mark)) {
                broken.push(format!("{}: do it, or say what holds now", source.at(number)));
            }
        }
    }
    none(&broken);
}

#[test]
fn files_functions_and_lines_are_short() {
    let mut broken = Vec::new();
    for source in rust() {
        let len = source.text.lines().count();
        let in_src = source.path.starts_with("src");
        let len = if in_src { len.min(source.tests_at - 1) } else { len };
        if len > FILE_LEN_MAX {
            let path = source.path.display();
            broken.push(format!("{path}: {len} lines without tests, at most {FILE_LEN_MAX}"));
        }
        for function in scan::functions(&source.code) {
            if function.len > FUNCTION_LEN_MAX {
                let (at, name, len) = (source.at(function.line), function.name, function.len);
                broken.push(format!("{at}: `{name}` of {len} lines, at most {FUNCTION_LEN_MAX}"));
            }
        }
    }
    none(&broken);
}

#[test]
fn source_is_ascii_of_at_most_100_columns() {
    let mut broken = Vec::new();
    let scripts = ["benches", "docker", "mount-helpers", "tests"]
        .iter()
        .flat_map(|dir| sources(Path::new(dir), &["py", "sh", "cmkfs"]));
    for source in rust().into_iter().chain(scripts) {
        for (number, line) in (1..).zip(source.text.lines()) {
            let at = source.at(number);
            if let Some(c) = line.chars().find(|c| !c.is_ascii()) {
                broken.push(format!("{at}: {c:?} is not ASCII"));
            }
            if line.chars().count() > LINE_LEN_MAX {
                broken.push(format!("{at}: more than {LINE_LEN_MAX} columns"));
            }
        }
    }
    none(&broken);
}

#[test]
fn every_module_opens_with_what_it_is() {
    let mut broken = Vec::new();
    for source in rust() {
        if !source.text.starts_with("//! ") {
            broken.push(format!("{}: open with `//!` and what it is", source.at(1)));
        }
    }
    none(&broken);
}

mod of_the_scanner {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::new(path.into(), text.to_owned())
    }

    #[test]
    fn comments_and_literals_are_blanks() {
        for (text, code) in [
            ("a // x::y\nb", "a________\nb"),
            ("a /* { /* } */ { */ b", "a___________________b"),
            ("f(\"a\\\"}\") }", "f(______)_}"),
            ("f(r#\"a\"}\"#) }", "f(________)_}"),
            ("f(br\"}\") }", "f(b____)_}"),
            ("f('{', '\\'', '\\u{7f}')", "f(___,_____,_________)"),
            ("fn f<'a>(x: &'a str) {}", "fn_f<'a>(x:_&'a_str)_{}"),
            ("'a: loop { break 'a }", "'a:_loop_{_break_'a_}"),
            ("for r in rr { r }", "for_r_in_rr_{_r_}"),
            ("\"a\nb\" c", "__\n___c"),
        ] {
            assert_eq!(scan::blank(text).replace(' ', "_"), code, "{text}");
        }
    }

    #[test]
    fn functions_are_found_with_their_length() {
        let text = "impl A {\n    fn one(&self) -> [u8; 3] {\n        b\"}\"; // }\n    }\n}\n\
                    trait T { fn none(&self); }\npub fn two<F: Fn(u8)>(\n    a: &[u8],\n) {\n}\n";
        let found = scan::functions(&scan::blank(text));
        let lens: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.line, f.len)).collect();
        assert_eq!(lens, [("one", 2, 3), ("two", 7, 4)]);
        let long = format!("fn long() {{\n{}}}\n", "    x();\n".repeat(69));
        assert_eq!(scan::functions(&long)[0].len, FUNCTION_LEN_MAX + 1);
    }

    #[test]
    fn a_layer_that_looks_up_is_told() {
        let broken = |text| broken_edges(&source("src/file/a.rs", text), "file", &["format"]);
        assert_eq!(
            broken("use crate::format::A;\nuse crate::fs::B;\n"),
            ["src/file/a.rs:2: file may use [\"format\"], not \"fs\""]
        );
        assert!(broken("use crate::file::A; // crate::fs\nlet a = \"crate::fs\";\n").is_empty());
        assert!(broken("#[cfg(test)]\nmod tests {\n    use crate::fs::A;\n}\n").is_empty());
        for text in ["use crate::{fs};", "use crate::*;", "use super::super::fs;"] {
            assert_eq!(broken(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_write_of_what_is_not_sealed_is_told() {
        let broken = |text| {
            let source = source("src/store/a.rs", text);
            let functions: Vec<_> = source.functions().collect();
            broken_write(&source, &functions[0])
        };
        let wrong = broken("fn put(&self, bytes: &[u8]) {\n    rustix::io::write(fd, bytes);\n}\n");
        assert!(wrong.is_some_and(|say| say.starts_with("src/store/a.rs:1: `put` calls `write(")));
        assert_eq!(broken("fn put(&self, bytes: &Sealed) {\n    write(fd, bytes);\n}\n"), None);
        assert_eq!(broken("fn put(&self, bytes: &[u8]) {\n    overwrite(bytes);\n}\n"), None);
        let signature =
            "fn f(&self, name: &[u8], data: Option<&[u8]>, to: impl AsRef<[u8]>, n: u8)";
        assert_eq!(byte_parameters(signature), ["name", "data", "to"]);
    }

    #[test]
    fn words_are_whole() {
        assert!(names("use fuser::A;", "fuser") && names("fuser", "fuser"));
        assert!(!names("let confuser = fuser_x;", "fuser"));
    }
}
