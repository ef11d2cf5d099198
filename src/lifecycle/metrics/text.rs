//! The figures of a mount in Prometheus' text format, and as OpenMetrics. Both have the same
//! metrics; names are part of the program's promise.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::file::Figures;
use crate::format::VolumeId;
use crate::fuse::{BUCKETS, bound};
use crate::lifecycle::custody::KeyState;
use crate::lifecycle::report::DaemonReport;

/// Which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lifecycle) enum Form {
    /// Text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Form {
    /// What a client wants that accepts this.
    pub(in crate::lifecycle) fn wanted(accepted: &str) -> Self {
        let mut kinds = accepted.split(',').filter_map(|kind| kind.split(';').next());
        let is_open = kinds.any(|kind| kind.trim() == "application/openmetrics-text");
        if is_open { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(in crate::lifecycle) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

type Figure = (&'static str, Kind, &'static str, fn(&Figures) -> u64);

/// Every counter of a volume, by its name in `status --json`.
const FIGURES: [Figure; 17] = [
    ("reads", Kind::Counter, "Read requests.", |figures| figures.reads),
    ("read_bytes", Kind::Counter, "Bytes of plaintext read.", |figures| figures.read_bytes),
    ("writes", Kind::Counter, "Write requests.", |figures| figures.writes),
    ("written_bytes", Kind::Counter, "Bytes of plaintext written.", |figures| {
        figures.written_bytes
    }),
    ("blocks_opened", Kind::Counter, "Blocks opened.", |figures| figures.blocks_opened),
    ("blocks_sealed", Kind::Counter, "Blocks sealed.", |figures| figures.blocks_sealed),
    ("cache_hits", Kind::Counter, "Blocks that the cache had.", |figures| figures.cache_hits),
    ("cache_misses", Kind::Counter, "Blocks that the cache did not have.", |figures| {
        figures.cache_misses
    }),
    ("cache_bytes", Kind::Gauge, "Bytes of plaintext in the cache.", |figures| figures.cache_bytes),
    ("dirty_bytes", Kind::Gauge, "Bytes written and not yet sealed.", |figures| {
        figures.dirty_bytes
    }),
    ("journal_bytes", Kind::Gauge, "Bytes in the journal that are needed.", |figures| {
        figures.journal_bytes
    }),
    ("commits", Kind::Counter, "Commits of files.", |figures| figures.commits),
    ("checkpoints", Kind::Counter, "Checkpoints of the journal.", |figures| figures.checkpoints),
    ("recovered", Kind::Counter, "Files recovered from the journal.", |figures| figures.recovered),
    ("syncs", Kind::Counter, "Syncs that reached the disk.", |figures| figures.syncs),
    ("files_open", Kind::Gauge, "Files that are open now.", |figures| figures.files_open),
    ("damages", Kind::Counter, "Times that stored bytes were not authentic.", |figures| {
        figures.damages
    }),
];

struct Page {
    form: Form,
    volume: VolumeId,
    text: String,
}

impl Page {
    /// What a metric is; its samples follow.
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let (word, full) = match (kind, self.form) {
            (Kind::Counter, Form::Prometheus) => ("counter", format!("{name}_total")),
            (Kind::Counter, Form::OpenMetrics) => ("counter", name.to_owned()),
            (Kind::Gauge, _) => ("gauge", name.to_owned()),
            (Kind::Histogram, _) => ("histogram", name.to_owned()),
        };
        self.text += &format!("# HELP cmkfs_{full} {help}\n# TYPE cmkfs_{full} {word}\n");
    }

    /// `labels` are those besides the volume, each with a comma before it.
    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let volume = self.volume;
        writeln!(self.text, "cmkfs_{name}{{volume=\"{volume}\"{labels}}} {value}")
            .expect("a string takes any text");
    }

    fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        let total = if kind == Kind::Counter { "_total" } else { "" };
        self.sample(&format!("{name}{total}"), "", value);
    }

    fn key(&mut self, daemon: &DaemonReport) {
        self.family("key_state", Kind::Gauge, "1 for the state that the key is in.");
        for (state, name) in [
            (KeyState::Held, "held"),
            (KeyState::Unproved, "unproved"),
            (KeyState::Locked, "locked"),
        ] {
            let is = u8::from(daemon.key_state == state);
            self.sample("key_state", &format!(",state=\"{name}\""), is);
        }
        if let Some(age) = daemon.key_age_s(now_s()) {
            let help = "Seconds since the key was last proved to open the volume.";
            self.one("key_age_seconds", Kind::Gauge, help, age);
        }
        if let Some(most) = daemon.key_max_offline_s {
            let help = "Age of the key at which the volume is locked if KMS does not answer.";
            self.one("key_age_max_seconds", Kind::Gauge, help, most);
        }
    }

    fn operations(&mut self, daemon: &DaemonReport) {
        let help = "Time until a request of the kernel was answered.";
        self.family("operation_seconds", Kind::Histogram, help);
        for (class, latency) in &daemon.latency {
            let mut below = 0;
            for (at, count) in latency.buckets.iter().take(BUCKETS).enumerate() {
                below += count;
                let most = bound(at)
                    .map_or_else(|| "+Inf".to_owned(), |most| format!("{:?}", most.as_secs_f64()));
                let labels = format!(",operation=\"{class}\",le=\"{most}\"");
                self.sample("operation_seconds_bucket", &labels, below);
            }
            let labels = format!(",operation=\"{class}\"");
            let seconds = latency.sum_ns as f64 / 1e9;
            self.sample("operation_seconds_sum", &labels, seconds);
            self.sample("operation_seconds_count", &labels, below);
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// All that is told of a mount.
pub(in crate::lifecycle) fn page(form: Form, volume: VolumeId, daemon: &DaemonReport) -> String {
    let mut page = Page { form, volume, text: String::new() };
    page.family("build_info", Kind::Gauge, "1, with the release of the program.");
    page.sample("build_info", &format!(",release=\"{}\"", daemon.release), 1);
    let help = "Seconds since it began to serve.";
    page.one("uptime_seconds", Kind::Gauge, help, daemon.uptime_s);
    for (name, kind, help, figure) in FIGURES {
        page.one(name, kind, help, figure(&daemon.figures));
    }
    let help = "Bytes that the block cache may take.";
    page.one("cache_budget_bytes", Kind::Gauge, help, daemon.cache_budget_bytes);
    page.key(daemon);
    page.operations(daemon);
    if form == Form::OpenMetrics {
        page.text += "# EOF\n";
    }
    page.text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_there() {
        let figures = serde_json::to_value(Figures::default()).unwrap();
        let mut there: Vec<&str> = FIGURES.iter().map(|(name, ..)| *name).collect();
        let mut wanted: Vec<&str> =
            figures.as_object().unwrap().keys().map(String::as_str).collect();
        there.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(there, wanted);
    }

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1";
        assert_eq!(Form::wanted(prometheus), Form::OpenMetrics);
        for other in ["", "*/*", "text/plain;version=0.0.4", "application/json"] {
            assert_eq!(Form::wanted(other), Form::Prometheus, "{other}");
        }
    }
}
