//! How long the kernel's requests take: counts by powers of two, and a line in the log for one that
//! takes longer than allowed.
//!
//! A request costs two looks at the clock, which the system answers without a call, and two
//! additions to counters that no lock guards. What is measured is from the moment that a thread
//! has read the request until it is answered; a write may go on after its answer, which does not
//! count. Time that requests wait in the kernel for a free thread is not seen from here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::fs::is_news;

/// Counters of a class: at most 1 us, 2 us, 4 us, ... 67 s, and the last for all that took longer.
pub const BUCKETS: usize = 28;
/// Slow requests that the log has in a minute: one that is slow for every file must not fill a disk
/// with the log of it.
const TOLD_MAX: u32 = 60;
const MINUTE: Duration = Duration::from_mins(1);

macro_rules! operations {
    ($($operation:ident $name:literal $class:ident),* $(,)?) => {
        /// What the kernel asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(in crate::fuse) enum Operation {
            $($operation,)*
        }

        impl Operation {
            /// As the kernel's protocol has it.
            pub(in crate::fuse) fn name(self) -> &'static str {
                match self {
                    $(Self::$operation => $name,)*
                }
            }

            fn class(self) -> Class {
                match self {
                    $(Self::$operation => Class::$class,)*
                }
            }
        }
    };
}

operations! {
    Lookup "lookup" Metadata,
    Getattr "getattr" Metadata,
    Readlink "readlink" Metadata,
    Statfs "statfs" Metadata,
    Getxattr "getxattr" Metadata,
    Listxattr "listxattr" Metadata,
    Lseek "lseek" Metadata,
    Open "open" Open,
    Create "create" Open,
    Opendir "opendir" Open,
    Read "read" Read,
    Write "write" Write,
    CopyFileRange "copy_file_range" Copy,
    Readdir "readdir" List,
    Readdirplus "readdirplus" List,
    Fsync "fsync" Sync,
    Fsyncdir "fsyncdir" Sync,
    Flush "flush" Close,
    Release "release" Close,
    Releasedir "releasedir" Close,
    Setattr "setattr" Change,
    Mknod "mknod" Change,
    Mkdir "mkdir" Change,
    Symlink "symlink" Change,
    Link "link" Change,
    Rename "rename" Change,
    Unlink "unlink" Change,
    Rmdir "rmdir" Change,
    Setxattr "setxattr" Change,
    Removexattr "removexattr" Change,
    Fallocate "fallocate" Change,
}

/// Operations that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Read,
    Write,
    Copy,
    Open,
    Close,
    Sync,
    Metadata,
    List,
    Change,
}

/// Names of the classes, in their order.
const CLASSES: [&str; 9] =
    ["read", "write", "copy", "open", "close", "sync", "metadata", "list", "change"];

/// A request, as far as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::fuse) struct Asked {
    operation: Operation,
    /// The inode by its number on the mount; of what makes, removes or finds a name the directory.
    inode: u64,
}

impl Operation {
    /// The request for this inode.
    pub(in crate::fuse) fn of(self, inode: fuser::INodeNo) -> Asked {
        Asked { operation: self, inode: inode.0 }
    }
}

impl Asked {
    pub(in crate::fuse) fn name(self) -> &'static str {
        self.operation.name()
    }
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn latency(&self) -> Latency {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Latency { buckets, sum_ns: self.sum_ns.load(Ordering::Relaxed) }
    }
}

/// The counter of a request that took so long.
fn bucket(took_ns: u64) -> usize {
    let micros = took_ns.div_ceil(1000).max(1);
    let log2 = micros.checked_next_power_of_two().map_or(u64::BITS, u64::trailing_zeros);
    (log2 as usize).min(BUCKETS - 1)
}

/// The longest time that a counter is for; `None`: the last.
pub fn bound(bucket: usize) -> Option<Duration> {
    (bucket + 1 < BUCKETS).then(|| Duration::from_micros(1 << bucket))
}

/// What of the requests of one class was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Requests that took at most 1 us, of the others those of at most 2 us, and so on.
    pub buckets: Vec<u64>,
    /// Nanoseconds that all of them took.
    pub sum_ns: u64,
}

impl Latency {
    /// Requests.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The time within which this part of the requests was answered, 0 to 1; `None` without one.
    /// Within a counter they are taken to be spread evenly.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let count = self.count();
        let wanted = (count as f64 * part).max(1.0);
        let mut below = 0_u64;
        for (at, bucket) in self.buckets.iter().enumerate().filter(|(_, bucket)| **bucket > 0) {
            let within = (wanted - below as f64) / *bucket as f64;
            below += bucket;
            if below as f64 >= wanted {
                let least = at.checked_sub(1).and_then(bound).unwrap_or_default();
                let most = bound(at).unwrap_or(least);
                return Some(least + (most - least).mul_f64(within.clamp(0.0, 1.0)));
            }
        }
        None
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.buckets.iter().copied().chain(std::iter::repeat(0));
        let buckets = self.buckets.iter().zip(before);
        Self {
            buckets: buckets.map(|(now, before)| now.saturating_sub(before)).collect(),
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
        }
    }

    /// Counts those of another mount too.
    pub fn add(&mut self, other: &Self) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, more)| *sum += more);
        self.sum_ns += other.sum_ns;
    }
}

/// By the name of the class.
pub type ByClass = BTreeMap<String, Latency>;

/// What a mount counts.
#[derive(Debug, Default)]
pub struct Latencies {
    classes: [Histogram; CLASSES.len()],
    slow: Option<Slow>,
}

impl Latencies {
    /// With lines in the log for what takes as long as `slow`.
    pub(in crate::fuse) fn new(slow: Option<Duration>) -> Self {
        let slow = slow.map(|limit| Slow { limit, told: Mutex::default() });
        Self { slow, ..Self::default() }
    }

    /// A request was answered.
    pub(in crate::fuse) fn note(&self, asked: Asked, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let histogram = &self.classes[asked.operation.class() as usize];
        histogram.buckets[bucket(took_ns)].fetch_add(1, Ordering::Relaxed);
        histogram.sum_ns.fetch_add(took_ns, Ordering::Relaxed);
        if let Some(slow) = &self.slow
            && took >= slow.limit
        {
            slow.tell(asked, took);
        }
    }

    /// Adds what was counted to what other mounts counted.
    pub fn add_to(&self, sums: &mut ByClass) {
        for (name, histogram) in CLASSES.iter().zip(&self.classes) {
            sums.entry((*name).to_owned()).or_default().add(&histogram.latency());
        }
    }
}

/// Tells of requests that took long: the same one once a minute, and no more than [`TOLD_MAX`].
#[derive(Debug)]
struct Slow {
    limit: Duration,
    told: Mutex<Told>,
}

/// Since when, and how many lines.
#[derive(Debug, Default)]
struct Told {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Slow {
    #[cold]
    fn tell(&self, asked: Asked, took: Duration) {
        if !is_news(&("slow", asked)) || !self.has_room(Instant::now()) {
            return;
        }
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let (operation, inode) = (asked.name(), asked.inode);
        tracing::warn!(operation, inode, took_us, "slow operation");
    }

    fn has_room(&self, now: Instant) -> bool {
        // Each change of it is whole.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            if told.left_out > 0 {
                tracing::warn!(count = told.left_out, "slow operations were left out of the log");
            }
            *told = Told { since: Some(now), ..Told::default() };
        }
        let has_room = told.lines < TOLD_MAX;
        if has_room {
            told.lines += 1;
        } else {
            told.left_out += 1;
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(took_us: impl IntoIterator<Item = u64>) -> Latency {
        let latencies = Latencies::new(None);
        for micros in took_us {
            let asked = Operation::Read.of(fuser::INodeNo(1));
            latencies.note(asked, Duration::from_micros(micros));
        }
        let mut sums = ByClass::new();
        latencies.add_to(&mut sums);
        assert!(sums["write"].count() == 0 && sums.len() == CLASSES.len());
        sums["read"].clone()
    }

    #[test]
    fn a_request_is_counted_where_its_time_is_within_the_bound() {
        for (nanos, wanted) in [(0, 0), (1000, 0), (1001, 1), (2000, 1), (4000, 2), (4001, 3)] {
            assert_eq!(bucket(nanos), wanted, "{nanos}");
        }
        assert_eq!(bound(BUCKETS - 2), Some(Duration::from_micros(1 << 26)));
        assert_eq!(bucket((1 << 26) * 1000), BUCKETS - 2);
        assert_eq!((bucket((1 << 26) * 1000 + 1), bucket(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
        assert_eq!(bound(BUCKETS - 1), None);
        assert_eq!(CLASSES[Class::Change as usize], "change");
        assert_eq!(CLASSES[Class::Sync as usize], "sync");
    }

    #[test]
    fn quantiles_lie_in_the_counter_that_has_them() {
        assert_eq!(Latency::default().quantile(0.5), None);
        let read = of((0..99).map(|_| 3).chain([5000]));
        assert_eq!((read.count(), read.sum_ns), (100, 99 * 3000 + 5_000_000));
        let micros = |part| read.quantile(part).unwrap().as_micros();
        assert!((2..=4).contains(&micros(0.5)) && micros(0.0) >= 2, "{}", micros(0.5));
        assert!((2..=4).contains(&micros(0.99)), "{}", micros(0.99));
        assert!((4096..=8192).contains(&micros(1.0)), "{}", micros(1.0));
        // Longer than every bound is at least the last.
        assert_eq!(of([1 << 40]).quantile(0.5), bound(BUCKETS - 2));
    }

    #[test]
    fn what_was_counted_before_is_taken_off() {
        let (before, mut now) = (of([3, 3]), of([3, 3]));
        now.add(&of([900]));
        let since = now.since(&before);
        assert_eq!((since.count(), since.sum_ns), (1, 900_000));
        assert_eq!(now.since(&Latency::default()), now);
    }

    #[test]
    fn no_more_lines_than_the_log_is_to_have_in_a_minute() {
        let slow = Slow { limit: Duration::ZERO, told: Mutex::default() };
        let now = Instant::now();
        let told = (0..100).filter(|_| slow.has_room(now)).count();
        assert_eq!(told, TOLD_MAX as usize);
        assert!(slow.has_room(now + MINUTE));
        assert_eq!(slow.told.lock().unwrap().left_out, 0);
    }
}
