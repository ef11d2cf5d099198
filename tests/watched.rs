//! What is told of a real mount while it is served: the live view, metrics over HTTP, slow
//! operations in the log.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use desk::{Desk, PATIENCE, said};
use rustix::process::Signal;

/// What curl(1) gets: head and body.
fn curl(args: &[&str]) -> (String, String) {
    let output = Command::new("curl").args(["-sSi", "--max-time", "30"]).args(args).output();
    let output = output.expect("curl");
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

/// Splits `name{labels} value`; fails on whatever is no sample.
#[track_caller]
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("{line}"));
    let (labels, value) = rest.split_once("} ").unwrap_or_else(|| panic!("{line}"));
    assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
    let pairs = labels.split(',').map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        (key.to_owned(), value.unwrap_or_else(|| panic!("{line}")).to_owned())
    });
    (name.to_owned(), pairs.collect(), value.parse().unwrap_or_else(|_| panic!("{line}")))
}

/// Every sample by its name and labels, after each line was looked at: a type before the samples,
/// no sample twice, histograms that only grow and end with their count.
#[track_caller]
fn page(text: &str, is_open: bool) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "{text:?}");
    let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
    let mut buckets: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            assert!(is_open && lines.peek().is_none(), "the end is not the last line");
            return samples;
        }
        if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(help.split(' ').count() > 1, "{line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{line}");
            continue;
        }
        let (name, labels, value) = sample(line);
        assert_eq!(labels["volume"].len(), 32, "{line}");
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let base = base.filter(|base| types.get(*base).is_some_and(|kind| kind == "histogram"));
        let base = base.unwrap_or(&name);
        let base = if is_open { base.strip_suffix("_total").unwrap_or(base) } else { base };
        let kind = types.get(base).unwrap_or_else(|| panic!("no type before it: {line}"));
        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        if let Some(most) = labels.get("le") {
            let most: f64 = most.replace("+Inf", "inf").parse().unwrap();
            let before = buckets.entry(labels["operation"].clone()).or_insert((-1.0, 0.0));
            assert!(most > before.0 && value >= before.1, "{line}");
            *before = (most, value);
        } else if name.ends_with("_seconds_count") {
            assert_eq!(buckets[&labels["operation"]], (f64::INFINITY, value), "{line}");
        }
        let full = line.rsplit_once(' ').unwrap().0.to_owned();
        assert_eq!(samples.insert(full, value), None, "{line}");
    }
    assert!(!is_open, "no end");
    samples
}

/// The value of the only sample that begins so.
#[track_caller]
fn of(samples: &BTreeMap<String, f64>, begin: &str) -> f64 {
    let mut found = samples.iter().filter(|(name, _)| name.starts_with(begin));
    let (_, value) = found.next().unwrap_or_else(|| panic!("no {begin} in {samples:?}"));
    assert!(found.next().is_none(), "{begin} is not one");
    *value
}

#[test]
fn metrics_are_what_a_collector_reads() {
    let desk = Desk::new();
    desk.volume();
    desk.ok("mount store mnt --metrics 127.0.0.1:0");
    fs::write(desk.at("mnt/secret-name"), vec![7; 300_000]).unwrap();
    assert_eq!(fs::read(desk.at("mnt/secret-name")).unwrap().len(), 300_000);
    let status = desk.status("store");
    let address = status["daemon"]["metrics"].as_str().unwrap().to_owned();
    let url = format!("http://{address}/metrics");

    let (head, body) = curl(&[&url]);
    assert!(head.starts_with("http/1.1 200 ok"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let path = desk.at("").display().to_string();
    assert!(!body.contains("secret-name") && !body.contains(&path), "{body}");
    let samples = page(&body, false);
    assert!(of(&samples, "cmkfs_written_bytes_total") >= 300_000.0);
    let volume = status["volume_id"].as_str().unwrap();
    let state =
        |state| samples[&format!("cmkfs_key_state{{volume=\"{volume}\",state=\"{state}\"}}")];
    assert_eq!((state("held"), state("unproved"), state("locked")), (1.0, 0.0, 0.0));
    let writes =
        format!("cmkfs_operation_seconds_count{{volume=\"{volume}\",operation=\"write\"}}");
    assert!(samples[&writes] >= 1.0, "{samples:?}");

    let open = ["-H", "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1", &url];
    let (head, body) = curl(&open);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    page(&body, true);

    let (head, body) = curl(&["-I", &url]);
    assert!(head.starts_with("http/1.1 200") && body.is_empty(), "{head} {body}");
    assert!(curl(&["-X", "POST", &url]).0.starts_with("http/1.1 405"));
    assert!(curl(&[&format!("http://{address}/")]).0.starts_with("http/1.1 404"));
    desk.ok("umount mnt");
    TcpStream::connect(&address).unwrap_err();
}

#[test]
fn a_socket_of_metrics_is_of_its_user_alone_and_ends_with_the_mount() {
    let desk = Desk::new();
    desk.volume();
    let path = desk.at("metrics.sock");
    // As a process leaves it that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    desk.ok("mount store mnt --metrics unix:metrics.sock");
    let found = path.symlink_metadata().unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o777, 0o600);
    let socket = path.to_str().unwrap();
    let (_, body) = curl(&["--unix-socket", socket, "http://cmkfs/metrics"]);
    assert!(of(&page(&body, false), "cmkfs_uptime_seconds") >= 0.0);
    // Another mount does not take it away, and nothing that is no socket.
    desk.ok("init other");
    desk.dir("there");
    desk.refused("mount other there --metrics unix:metrics.sock", 75, &["metrics.sock", "in use"]);
    fs::write(desk.at("file"), "x").unwrap();
    desk.refused("mount other there --metrics unix:file", 75, &["unix:", "in use"]);
    desk.ok("umount mnt");
    assert!(!path.exists());
}

#[test]
fn metrics_are_not_served_to_other_machines() {
    let desk = Desk::new();
    desk.volume();
    for address in ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464"] {
        let wanted = &[address, "other machines", "unix:PATH"];
        desk.refused(&format!("mount store mnt --metrics {address}"), 2, wanted);
        desk.refused(&format!("mount store mnt -o metrics={address}"), 2, wanted);
        desk.refused(&format!("run --role training --metrics {address} -- true"), 2, wanted);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    desk.refused(&format!("mount store mnt --metrics {address}"), 75, &[&address, "in use"]);
}

#[test]
fn clients_that_say_nothing_are_in_nobodys_way_for_long() {
    let desk = Desk::new();
    desk.volume();
    desk.ok("mount store mnt --metrics unix:metrics.sock");
    let path = desk.at("metrics.sock");
    let mut silent: Vec<UnixStream> =
        (0..12).map(|_| UnixStream::connect(&path).unwrap()).collect();
    // Those beyond the bound are hung up on, the others when they have had their time.
    let began = Instant::now();
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
    }
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    let (head, _) = curl(&["--unix-socket", path.to_str().unwrap(), "http://cmkfs/metrics"]);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    // Nor is one in the way of the end of the mount.
    let mut one = UnixStream::connect(&path).unwrap();
    one.write_all(b"GET /metrics HT").unwrap();
    let began = Instant::now();
    desk.ok("umount mnt");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn slow_operations_are_told_once_with_their_inode_and_no_name() {
    let desk = Desk::new();
    desk.volume();
    desk.ok("mount store mnt --slow-op 1 --log-format json --log-file log");
    let mut file = fs::File::create(desk.at("mnt/secret-name")).unwrap();
    let inode = file.metadata().unwrap().ino();
    let block = vec![7; 8 << 20];
    for _ in 0..4 {
        file.write_all(&block).unwrap();
        file.sync_all().unwrap();
    }
    drop(file);
    desk.ok("umount mnt");
    let log = fs::read_to_string(desk.at("log")).unwrap();
    assert!(!log.contains("secret-name"), "{log}");
    let mut told = BTreeSet::new();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = &line["fields"];
        if fields["message"] == "slow operation" {
            assert!(fields["took_us"].as_u64().unwrap() >= 1000, "{line}");
            assert_eq!(line["level"], "WARN");
            let key = (fields["operation"].to_string(), fields["inode"].as_u64().unwrap());
            assert!(told.insert(key), "twice: {line}");
        }
    }
    assert!(told.contains(&("\"fsync\"".to_owned(), inode)), "{told:?}, {inode}");
    // Without the flag nothing is.
    desk.ok("mount store mnt --log-format json --log-file quiet");
    fs::write(desk.at("mnt/again"), &block).unwrap();
    desk.ok("umount mnt");
    assert!(!fs::read_to_string(desk.at("quiet")).unwrap().contains("slow operation"));
}

#[test]
fn the_live_view_is_a_line_each_time_where_there_is_no_terminal() {
    let desk = Desk::new();
    desk.mounted();
    let mut command = desk.command("status store --watch 1");
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let store = desk.at("store").display().to_string();
    let mut next = || lines.next().unwrap().unwrap();
    let first = next();
    assert!(first.contains(&store) && first.contains(" read 0.0 B/s p50 - p99 -"), "{first}");
    fs::write(desk.at("mnt/file"), vec![1; 4 << 20]).unwrap();
    let second = next();
    assert!(second.contains(" written ") && second.contains(" journal "), "{second}");
    assert!(!second.contains("written 0.0 B/s"), "{second}");
    assert!(second.ends_with("key held"), "{second}");
    assert_eq!(next().matches("\x1b").count(), 0);
    desk.ok("umount mnt");
    let mut line = next();
    while !line.ends_with("stopped") {
        line = next();
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&watch), Signal::INT).unwrap();
    assert!(watch.wait().unwrap().code().is_none());
    desk.refused("status store --watch 0", 2, &["1 to 86400"]);
    desk.refused("status --watch store", 2, &["named before --watch"]);
    desk.refused("status --watch 1 --json", 2, &["--json"]);
}

#[test]
fn status_has_what_the_kernels_requests_took() {
    let desk = Desk::new();
    desk.mounted();
    fs::write(desk.at("mnt/file"), vec![1; 100_000]).unwrap();
    fs::set_permissions(desk.at("mnt/file"), fs::Permissions::from_mode(0o600)).unwrap();
    let status = desk.status("store");
    let latency = &status["daemon"]["latency"];
    for class in ["write", "open", "change", "metadata"] {
        let buckets = latency[class]["buckets"].as_array().unwrap();
        assert_eq!(buckets.len(), 28);
        let count: u64 = buckets.iter().map(|bucket| bucket.as_u64().unwrap()).sum();
        assert!(count > 0 && latency[class]["sum_ns"].as_u64().unwrap() >= count, "{class}");
    }
    let text = desk.ok("status store");
    let table = text.split("latency\n").nth(1).unwrap();
    assert!(table.contains("operation") && table.contains("p99.9"), "{text}");
    assert!(table.lines().any(|line| line.trim_start().starts_with("write ")), "{text}");
}
