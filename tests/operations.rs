//! What an action on a mount costs: calls of the daemon to the system below, and blocks sealed and
//! opened. The numbers are exact: one more call a request is seen here before any clock sees it.
//! How many requests an action is, the kernel decides: these are those of Linux 6.18.
//!
//! Who changes them on purpose puts the table that the failure prints in place of [`TABLE`].

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mount.rs"]
mod mount;
#[path = "operations/trace.rs"]
mod trace;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use mount::Mount;
use rustix::fs::{Advice, fadvise};
use trace::{Counts, Trace};

/// An action a line; the calls that it costs below it, and then the blocks.
const TABLE: &str = "
open, read 4 KiB of 1 MiB, close; cold
    close 1, fstat 2, newfstatat 1, openat 1, pread64 2
    blocks opened 1, blocks sealed 0
open, read 4 KiB of 1 MiB, close; warm
    close 1, fstat 2, openat 1, pread64 1
    blocks opened 0, blocks sealed 0
open, read 10 KB, close; cold
    close 1, fstat 2, newfstatat 1, openat 1, pread64 2
    blocks opened 1, blocks sealed 0
open, read 1 MiB, close; cold
    close 1, fstat 2, newfstatat 1, openat 1, pread64 2
    blocks opened 64, blocks sealed 0
stat; cold
    newfstatat 1
    blocks opened 0, blocks sealed 0
stat; warm
    blocks opened 0, blocks sealed 0
stat of a name that is not there; cold
    newfstatat 1
    blocks opened 0, blocks sealed 0
list 1000 files; cold
    close 1, fstat 1, getdents64 4, lseek 1, newfstatat 204, openat 2, readlinkat 1
    blocks opened 0, blocks sealed 0
create, write 10 KB, close
    close 1, fstat 3, getrandom 2, newfstatat 1, openat 1, pwrite64 4, read 1, umask 1
    blocks opened 0, blocks sealed 1
create, write 1 MiB, close
    close 1, fstat 3, getrandom 2, newfstatat 1, openat 1, pwrite64 4, read 1, umask 1
    blocks opened 0, blocks sealed 64
append 200 bytes, fsync; again
    fdatasync 2, fsync 1, pwrite64 1, read 1, utimensat 1
    blocks opened 0, blocks sealed 0
";
/// What the lines of blocks begin with; no system call has such a name.
const BLOCKS: &[(&str, &str)] =
    &[("blocks opened", "blocks_opened"), ("blocks sealed", "blocks_sealed")];
/// The commit timer works every few seconds, and a slow machine makes a call more here and there:
/// it stores a time that the disk would have had by itself a moment earlier. A change of the
/// program is there every time.
const ATTEMPTS: usize = 8;
const LINE_LEN_MAX: usize = 90;

/// Something that a program does with files below the mountpoint.
struct Action {
    name: &'static str,
    /// Before the volume is mounted anew.
    prepare: fn(&Path),
    /// Before the count begins: what is done once, or once a thread, is done then.
    warm: fn(&Path) -> Option<File>,
    /// What it gives stays open until the count has ended.
    act: fn(&Path, Option<File>) -> Option<File>,
}

fn bytes(len: usize) -> Vec<u8> {
    b"cmkfs ".iter().copied().cycle().take(len).collect()
}

fn write_new(path: &Path, len: usize) -> Option<File> {
    File::create_new(path).unwrap().write_all(&bytes(len)).unwrap();
    None
}

/// The first bytes alone.
fn read_part(path: &Path, len: usize) -> Option<File> {
    let mut file = File::open(path).unwrap();
    // How much is read ahead, the kernel decides.
    fadvise(&file, 0, None, Advice::Random).unwrap();
    file.read_exact(&mut vec![0; len]).unwrap();
    None
}

fn read_all(path: &Path, len: usize) -> Option<File> {
    File::open(path).unwrap().read_exact(&mut vec![0; len]).unwrap();
    None
}

fn length(path: &Path) -> Option<File> {
    assert_eq!(fs::metadata(path).unwrap().len(), 10_000);
    None
}

fn append_durably(mut file: File) -> Option<File> {
    file.write_all(&bytes(200)).unwrap();
    file.sync_all().unwrap();
    Some(file)
}

/// A file to be counted on, and one for what is done once.
fn two_files(root: &Path) {
    write_new(&root.join("other"), 10_000);
    write_new(&root.join("small"), 10_000);
    write_new(&root.join("large"), 1 << 20);
}

fn read_other(root: &Path) -> Option<File> {
    read_all(&root.join("other"), 10_000)
}

fn write_other(root: &Path) -> Option<File> {
    write_new(&root.join("another"), 10_000)
}

const READS: &[Action] = &[
    Action {
        name: "open, read 4 KiB of 1 MiB, close; cold",
        prepare: two_files,
        warm: read_other,
        act: |root, _| read_part(&root.join("large"), 4096),
    },
    Action {
        name: "open, read 4 KiB of 1 MiB, close; warm",
        prepare: two_files,
        warm: |root| read_part(&root.join("large"), 4096),
        act: |root, _| read_part(&root.join("large"), 4096),
    },
    Action {
        name: "open, read 10 KB, close; cold",
        prepare: two_files,
        warm: read_other,
        act: |root, _| read_all(&root.join("small"), 10_000),
    },
    Action {
        name: "open, read 1 MiB, close; cold",
        prepare: two_files,
        warm: read_other,
        act: |root, _| read_all(&root.join("large"), 1 << 20),
    },
    Action {
        name: "stat; cold",
        prepare: two_files,
        warm: read_other,
        act: |root, _| length(&root.join("small")),
    },
    Action {
        name: "stat; warm",
        prepare: two_files,
        warm: |root| length(&root.join("small")),
        act: |root, _| length(&root.join("small")),
    },
    Action {
        name: "stat of a name that is not there; cold",
        prepare: two_files,
        warm: read_other,
        act: |root, _| {
            assert!(fs::metadata(root.join("none")).is_err());
            None
        },
    },
    Action {
        name: "list 1000 files; cold",
        prepare: |root| {
            fs::create_dir(root.join("many")).unwrap();
            for index in 0..1000 {
                write_new(&root.join(format!("many/{index:04}")), 0);
            }
            two_files(root);
        },
        warm: read_other,
        act: |root, _| {
            assert_eq!(fs::read_dir(root.join("many")).unwrap().count(), 1000);
            None
        },
    },
];

const WRITES: &[Action] = &[
    Action {
        name: "create, write 10 KB, close",
        prepare: two_files,
        warm: write_other,
        act: |root, _| write_new(&root.join("new"), 10_000),
    },
    Action {
        name: "create, write 1 MiB, close",
        prepare: two_files,
        warm: write_other,
        act: |root, _| write_new(&root.join("new"), 1 << 20),
    },
    Action {
        name: "append 200 bytes, fsync; again",
        prepare: two_files,
        warm: |root| {
            let log = OpenOptions::new().append(true).create_new(true).open(root.join("log"));
            append_durably(log.unwrap())
        },
        act: |_, log| append_durably(log.unwrap()),
    },
];

/// What an action costs on this mount, which is fresh; `None` if that can't be told.
fn measure(mount: &Mount, action: &Action) -> Option<Counts> {
    let (store, point) = (mount.store(), mount.point());
    let output = store.with_file_name("trace");
    let trace = Trace::start(mount.daemon(), &store, &point, &output);
    let kept = (action.warm)(&point);
    let figures = || mount.status()["volumes"][0]["daemon"]["figures"].clone();
    let before = figures();
    trace.mark();
    let kept = (action.act)(&point, kept);
    trace.mark();
    drop(kept);
    let after = figures();
    let mut counts = trace.counts()?;
    for (shown, field) in BLOCKS {
        let count = after[field].as_u64().unwrap() - before[field].as_u64().unwrap();
        counts.insert((*shown).to_owned(), count);
    }
    Some(counts)
}

/// What an action costs when nothing is in the way: as much as wanted, or else the least seen.
fn cost(action: &Action, wanted: Option<&Counts>) -> Counts {
    let mut least: Option<Counts> = None;
    for _ in 0..ATTEMPTS {
        let mount = Mount::new(&["--threads", "1", "--durability", "strict"]);
        (action.prepare)(&mount.point());
        mount.remount();
        let Some(counts) = measure(&mount, action) else { continue };
        if Some(&counts) == wanted {
            return counts;
        }
        let sum = |counts: &Counts| counts.values().sum::<u64>();
        if least.as_ref().is_none_or(|least| sum(&counts) < sum(least)) {
            least = Some(counts);
        }
    }
    let timer = || panic!("{}: the commit timer was in the way {ATTEMPTS} times", action.name);
    least.unwrap_or_else(timer)
}

fn is_block_count(name: &str) -> bool {
    BLOCKS.iter().any(|(shown, _)| *shown == name)
}

/// The table in the form of [`TABLE`].
fn written(costs: &BTreeMap<&str, Counts>, order: &[&str]) -> String {
    let mut text = String::from("\n");
    for action in order {
        writeln!(text, "{action}").unwrap();
        let (blocks, calls): (Vec<_>, Vec<_>) =
            costs[action].iter().partition(|(name, _)| is_block_count(name));
        for part in [calls, blocks] {
            let mut line = String::new();
            for (name, count) in part {
                let item = format!("{name} {count}");
                if line.len() + item.len() > LINE_LEN_MAX {
                    writeln!(text, "    {line},").unwrap();
                    line.clear();
                }
                line += if line.is_empty() { "" } else { ", " };
                line += &item;
            }
            if !line.is_empty() {
                writeln!(text, "    {line}").unwrap();
            }
        }
    }
    text
}

/// The table as [`written`] wrote it.
fn parsed(table: &str) -> BTreeMap<&str, Counts> {
    let (mut costs, mut action) = (BTreeMap::<&str, Counts>::new(), "");
    for line in table.lines().filter(|line| !line.is_empty()) {
        let Some(items) = line.strip_prefix("    ") else {
            action = line;
            costs.insert(action, Counts::new());
            continue;
        };
        for item in items.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, count) = item.rsplit_once(' ').unwrap();
            costs.get_mut(action).unwrap().insert(name.to_owned(), count.parse().unwrap());
        }
    }
    costs
}

/// What is not as it was.
fn differences(wanted: &BTreeMap<&str, Counts>, found: &BTreeMap<&str, Counts>) -> String {
    let (mut text, none) = (String::new(), Counts::new());
    let all: BTreeMap<_, _> = wanted.iter().chain(found).collect();
    for action in all.keys() {
        let (wanted, found) =
            (wanted.get(*action).unwrap_or(&none), found.get(*action).unwrap_or(&none));
        let names: BTreeMap<_, _> = wanted.iter().chain(found).collect();
        for name in names.keys() {
            let count = |counts: &Counts| counts.get(*name).copied().unwrap_or(0);
            if count(wanted) != count(found) {
                let (was, is) = (count(wanted), count(found));
                writeln!(text, "{action}: {name} {was} -> {is}").unwrap();
            }
        }
    }
    text
}

#[test]
fn each_action_costs_what_the_table_says() {
    let actions: Vec<_> = READS.iter().chain(WRITES).collect();
    let wanted = parsed(TABLE);
    let measured = |action: &&Action| (action.name, cost(action, wanted.get(action.name)));
    let found = actions.iter().map(measured).collect();
    let order: Vec<_> = actions.iter().map(|action| action.name).collect();
    let table = written(&found, &order);
    let changed = differences(&wanted, &found);
    assert!(
        table == TABLE,
        "actions cost something else than tests/operations.rs says:\n{changed}\nif that is meant, \
         put this in place of its TABLE:\n\nconst TABLE: &str = \"{table}\";\n"
    );
}

#[test]
fn a_table_is_read_as_it_was_written_and_differences_are_told() {
    let names = (0..20).map(|index| (format!("a_long_name_{index}"), index));
    let mut costs = BTreeMap::from([("open; cold", names.collect::<Counts>())]);
    costs.get_mut("open; cold").unwrap().insert("blocks opened".into(), 0);
    costs.insert("nothing at all", Counts::new());
    let text = written(&costs, &["nothing at all", "open; cold"]);
    assert!(text.lines().all(|line| line.len() < 100), "{text}");
    assert_eq!(parsed(&text), costs);
    assert_eq!(differences(&costs, &costs), "");
    let mut other = costs.clone();
    other.get_mut("open; cold").unwrap().insert("a_long_name_3".into(), 4);
    other.get_mut("nothing at all").unwrap().insert("close".into(), 1);
    assert_eq!(
        differences(&costs, &other),
        "nothing at all: close 0 -> 1\nopen; cold: a_long_name_3 3 -> 4\n"
    );
}
