//! `status --watch`: what mounted volumes do, as rates and latencies since the time before. A
//! terminal is drawn anew; anything else gets a line a volume each time.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cli::fail::Fail;
use crate::cli::show;
use crate::lifecycle::report::{ByClass, DaemonReport, Figures, Latency, Report, State};
use crate::lifecycle::{KeyState, status as look};
use crate::telemetry::binary;

/// To the first column of the first row; what is there stays until it is written over.
const HOME: &str = "\x1b[H";
/// Clears from here to the end of the row, and to the end of the screen.
const REST_OF_ROW: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";
const SCREEN: &str = "\x1b[2J";

/// A process as it was when it was last asked.
#[derive(Debug)]
struct Seen {
    daemon: DaemonReport,
    at: Instant,
}

/// Until it is interrupted, or nobody reads it any more.
pub(in crate::cli) fn watch(volume: Option<&Path>, every: Duration) -> Result<(), Fail> {
    let is_terminal = io::stdout().is_terminal();
    let mut seen: BTreeMap<u32, Seen> = BTreeMap::new();
    if is_terminal {
        show::text(SCREEN)?;
    }
    loop {
        let at = Instant::now();
        let reports = match volume {
            Some(volume) => look::one(volume)?,
            None => look::all()?,
        };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let ticks: Vec<Tick<'_>> =
            reports.iter().map(|report| Tick::new(report, &seen, at, now_s)).collect();
        let text = if is_terminal {
            screen(&ticks)
        } else {
            ticks.iter().map(|tick| format!("{}\n", tick.line())).collect()
        };
        show::text(&text)?;
        let daemons = reports.into_iter().filter_map(|report| report.daemon);
        seen = daemons.map(|daemon| (daemon.pid, Seen { daemon, at })).collect();
        std::thread::sleep(every.saturating_sub(at.elapsed()));
    }
}

fn screen(ticks: &[Tick<'_>]) -> String {
    let mut text = String::from(HOME);
    let shown = ticks.iter().map(Tick::table).collect::<Vec<_>>().join("\n");
    let shown = if shown.is_empty() { "nothing is mounted here\n".to_owned() } else { shown };
    for row in shown.lines() {
        text += &format!("{row}{REST_OF_ROW}\n");
    }
    text + REST_OF_SCREEN
}

/// A volume at one time, and what it did since the time before: the first time, since it began to
/// serve.
#[derive(Debug)]
struct Tick<'a> {
    report: &'a Report,
    now_s: u64,
    done: Option<Done<'a>>,
}

#[derive(Debug)]
struct Done<'a> {
    daemon: &'a DaemonReport,
    seconds: f64,
    before: Figures,
    latency: ByClass,
}

impl<'a> Tick<'a> {
    fn new(report: &'a Report, seen: &BTreeMap<u32, Seen>, at: Instant, now_s: u64) -> Self {
        let done = report.daemon.as_ref().map(|daemon| match seen.get(&daemon.pid) {
            Some(seen) => Done {
                daemon,
                seconds: at.duration_since(seen.at).as_secs_f64(),
                before: seen.daemon.figures,
                latency: since(&daemon.latency, &seen.daemon.latency),
            },
            None => Done {
                daemon,
                seconds: daemon.uptime_s as f64,
                before: Figures::default(),
                latency: daemon.latency.clone(),
            },
        });
        Self { report, now_s, done }
    }

    fn state(&self) -> &'static str {
        match self.report.state {
            State::Mounted => "mounted",
            State::Stopped => "stopped",
            State::Unreachable => "its daemon does not answer",
        }
    }

    /// For a terminal.
    fn table(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |cells: &[&str]| {
            rows.push(cells.iter().map(|cell| (*cell).to_owned()).collect());
        };
        let time = show::time(i64::try_from(self.now_s).unwrap_or(i64::MAX));
        row(&["store", &show::name(&self.report.store)]);
        row(&["time", &time]);
        let Some(done) = &self.done else {
            row(&["state", self.state()]);
            return show::table(&rows);
        };
        let figures = &done.daemon.figures;
        row(&["read", &done.bytes_a_second(|figures| figures.read_bytes)]);
        row(&["written", &done.bytes_a_second(|figures| figures.written_bytes)]);
        let budget = binary(done.daemon.cache_budget_bytes);
        let cached = format!("{} of {budget}", binary(figures.cache_bytes));
        row(&["cache", &format!("{} found, {cached}", done.hit_rate())]);
        row(&["not sealed", &binary(figures.dirty_bytes)]);
        row(&["journal", &binary(figures.journal_bytes)]);
        row(&["files open", &figures.files_open.to_string()]);
        row(&["key", &key(done.daemon, self.now_s)]);
        if figures.damages > 0 {
            row(&["damages", &figures.damages.to_string()]);
        }
        format!("{}{}", show::table(&rows), operations(&done.latency, Some(done.seconds)))
    }

    /// For whatever is no terminal.
    fn line(&self) -> String {
        let time = show::time(i64::try_from(self.now_s).unwrap_or(i64::MAX));
        let name = show::name(&self.report.store);
        let Some(done) = &self.done else { return format!("{time} {name} {}", self.state()) };
        let of = |class: &str| {
            let latency = done.latency.get(class).cloned().unwrap_or_default();
            format!("p50 {} p99 {}", time_of(&latency, 0.5), time_of(&latency, 0.99))
        };
        format!(
            "{time} {name} read {} {} written {} {} cache {} journal {} key {}",
            done.bytes_a_second(|figures| figures.read_bytes),
            of("read"),
            done.bytes_a_second(|figures| figures.written_bytes),
            of("write"),
            done.hit_rate(),
            binary(done.daemon.figures.journal_bytes),
            key(done.daemon, self.now_s),
        )
    }
}

impl Done<'_> {
    /// How much a counter grew; one that began anew, as after an unlock, by all of it.
    fn grown(&self, figure: impl Fn(&Figures) -> u64) -> u64 {
        let now = figure(&self.daemon.figures);
        now.checked_sub(figure(&self.before)).unwrap_or(now)
    }

    fn bytes_a_second(&self, figure: impl Fn(&Figures) -> u64) -> String {
        let bytes = u128::from(self.grown(figure)) * 1000 / millis(self.seconds);
        format!("{}/s", binary(u64::try_from(bytes).unwrap_or(u64::MAX)))
    }

    /// Part of the blocks that the cache had.
    fn hit_rate(&self) -> String {
        let hits = u128::from(self.grown(|figures| figures.cache_hits));
        let all = hits + u128::from(self.grown(|figures| figures.cache_misses));
        match hits * 1000 / all.max(1) {
            _ if all == 0 => "-".to_owned(),
            part => format!("{}.{} %", part / 10, part % 10),
        }
    }
}

/// At least one.
fn millis(seconds: f64) -> u128 {
    Duration::try_from_secs_f64(seconds).map_or(1, |span| span.as_millis().max(1))
}

fn since(now: &ByClass, before: &ByClass) -> ByClass {
    let none = Latency::default();
    let since = |(class, latency): (&String, &Latency)| {
        (class.clone(), latency.since(before.get(class).unwrap_or(&none)))
    };
    now.iter().map(since).collect()
}

fn key(daemon: &DaemonReport, now_s: u64) -> String {
    let state = match daemon.key_state {
        KeyState::Held => "held",
        KeyState::Unproved => "unproved",
        KeyState::Locked => "locked",
    };
    // A key that is not of AWS is not asked for again: its age says nothing.
    match (daemon.key_age_s(now_s), daemon.key_max_offline_s) {
        (Some(age), Some(most)) => format!("{state}, proved {age} s ago of {most} s at most"),
        _ => state.to_owned(),
    }
}

/// How long the kernel's requests took, without a rate.
pub(in crate::cli) fn latency_table(latency: &ByClass) -> String {
    operations(latency, None)
}

/// A row for each class that was asked for; with `seconds` how many a second, else how many.
fn operations(latency: &ByClass, seconds: Option<f64>) -> String {
    let head = if seconds.is_some() { "per second" } else { "count" };
    let head = ["operation", head, "p50", "p90", "p99", "p99.9"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (class, latency) in latency.iter().filter(|(_, latency)| latency.count() > 0) {
        let count = match seconds {
            Some(seconds) => {
                let tenths = u128::from(latency.count()) * 10_000 / millis(seconds);
                format!("{}.{}", tenths / 10, tenths % 10)
            }
            None => latency.count().to_string(),
        };
        let mut row = vec![class.clone(), count];
        row.extend([0.5, 0.9, 0.99, 0.999].map(|part| time_of(latency, part)));
        rows.push(row);
    }
    let table = show::table(&rows);
    table.lines().map(|line| format!("  {line}\n")).collect()
}

/// Within what time this part was answered.
fn time_of(latency: &Latency, part: f64) -> String {
    let Some(time) = latency.quantile(part) else { return "-".to_owned() };
    match time.as_micros() {
        micros @ 0..10_000 => format!("{micros} us"),
        micros @ 10_000..10_000_000 => format!("{} ms", micros / 1000),
        micros => format!("{} s", micros / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(figures: serde_json::Value, read_us: &[u64]) -> Report {
        let mut buckets = vec![0; 28];
        read_us.iter().for_each(|log2| buckets[usize::try_from(*log2).unwrap()] += 1);
        let daemon = serde_json::json!({
            "pid": 7, "release": "1", "uptime_s": 4, "read_only": false, "durability": "strict",
            "key_provider": "kms", "key_id": "k", "key_slot": 1, "key_state": "held",
            "key_proved_unix_s": 100, "key_max_offline_s": 900, "memory_locked": true,
            "core_dumps_off": true, "cache_budget_bytes": 1 << 20, "figures": figures,
            "latency": { "read": { "buckets": buckets, "sum_ns": 1 } },
        });
        serde_json::from_value(serde_json::json!({
            "volume_id": "00112233445566778899aabbccddeeff", "store": "/s", "state": "mounted",
            "mountpoints": ["/m"], "created_unix_s": 0, "block_size": 16384, "epochs": 1,
            "slots": [], "daemon": daemon,
        }))
        .unwrap()
    }

    #[test]
    fn rates_are_of_the_time_since_the_time_before() {
        let first = report(serde_json::json!({"read_bytes": 8192, "cache_hits": 1}), &[3, 3]);
        let at = Instant::now();
        let tick = Tick::new(&first, &BTreeMap::new(), at, 112);
        let line = tick.line();
        assert!(line.starts_with("1970-01-01 00:01:52Z /s read 2.0 KiB/s p50 "), "{line}");
        assert!(
            line.ends_with(
                "cache 100.0 % journal 0.0 B key held, proved 12 s ago of 900 s at most"
            )
        );
        let seen = BTreeMap::from([(7, Seen { daemon: first.daemon.clone().unwrap(), at })]);
        let figures = serde_json::json!({
            "read_bytes": 8192 + (4 << 20), "cache_hits": 2, "cache_misses": 3,
            "journal_bytes": 2048, "damages": 1,
        });
        let second = report(figures, &[3, 3, 12]);
        let later = at + Duration::from_secs(2);
        let tick = Tick::new(&second, &seen, later, 114);
        let line = tick.line();
        assert!(
            line.contains("read 2.0 MiB/s p50 4096 us p99 4096 us written 0.0 B/s p50 - "),
            "{line}"
        );
        let table = tick.table();
        for part in ["journal     2.0 KiB", "25.0 % found", "damages     1", "read       0.5 "] {
            assert!(table.contains(part), "{part}: {table}");
        }
        let drawn = screen(&[tick]);
        assert!(drawn.starts_with("\x1b[H") && drawn.ends_with("\x1b[J"), "{drawn:?}");
        assert!(drawn.lines().all(|row| row.ends_with("\x1b[K") || row == "\x1b[J"), "{drawn:?}");
    }

    #[test]
    fn counters_that_began_anew_count_from_zero() {
        let before = report(serde_json::json!({"read_bytes": 1 << 30}), &[]);
        let at = Instant::now();
        let seen = BTreeMap::from([(7, Seen { daemon: before.daemon.unwrap(), at })]);
        let now = report(serde_json::json!({"read_bytes": 1024}), &[]);
        let line = Tick::new(&now, &seen, at + Duration::from_secs(1), 100).line();
        assert!(line.contains("read 1.0 KiB/s"), "{line}");
    }

    #[test]
    fn a_volume_without_a_daemon_has_its_state() {
        let mut stopped = report(serde_json::json!({}), &[]);
        (stopped.daemon, stopped.state) = (None, State::Stopped);
        let tick = Tick::new(&stopped, &BTreeMap::new(), Instant::now(), 0);
        assert_eq!(tick.line(), "1970-01-01 00:00:00Z /s stopped");
    }
}
