//! What the flow counts beside its work, for the metrics: atomic counters and histograms per source.
//!
//! Nothing here decides anything, and nobody waits for it: a worker adds, a scrape reads what it finds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The upper bounds of the buckets in seconds: from 1 ms to about 9 minutes, each twice the one before.
pub const BOUNDS: [f64; 20] = {
    let mut bounds = [0.001; 20];
    let mut bucket = 1;
    while bucket < bounds.len() {
        bounds[bucket] = bounds[bucket - 1] * 2.0;
        bucket += 1;
    }
    bounds
};

/// Durations by size.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One per bound, and one for what is above all.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

/// A histogram as read.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramFigures {
    /// The upper bound of each bucket in seconds (the last is [`f64::MAX`]) with the number of durations in it.
    pub buckets: Vec<(f64, u64)>,
    /// All durations together, in seconds.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
}

impl Histogram {
    /// Adds `times` durations of `us` µs.
    pub fn add(&self, us: u64, times: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < us as f64 / 1e6);
        self.counts[bucket].fetch_add(times, Ordering::Relaxed);
        self.sum_us.fetch_add(us.saturating_mul(times), Ordering::Relaxed);
    }

    /// Adds a duration.
    pub fn add_duration(&self, duration: Duration) {
        self.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), 1);
    }

    /// What it holds.
    pub fn figures(&self) -> HistogramFigures {
        let bounds = BOUNDS.into_iter().chain([f64::MAX]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        HistogramFigures { buckets, sum: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6, count }
    }
}

/// What is counted of one source in this process.
#[derive(Debug, Default)]
pub struct SourceMeters {
    /// From a record's timestamp until it could be read.
    pub freshness: Histogram,
    /// The commits that succeeded.
    pub commits: Histogram,
    /// Bytes they wrote.
    pub commit_bytes: AtomicU64,
    /// Tries of commits that failed.
    pub commit_failures: AtomicU64,
    /// The publishes that succeeded.
    pub publishes: Histogram,
    /// Publishes that failed because the store was away.
    pub publish_failures: AtomicU64,
    /// The passes that made snapshots.
    pub snapshots: Histogram,
    /// Rows of snapshots written.
    pub snapshot_rows: AtomicU64,
    /// Looks for snapshots that failed.
    pub snapshot_failures: AtomicU64,
    /// Up to which instant snapshots are made, µs; 0 = none that is known of.
    pub snapshots_through_us: AtomicI64,
    /// How far the partitions that are being rebuilt are, in millionths.
    rebuilding: Mutex<BTreeMap<u32, u32>>,
}

impl SourceMeters {
    /// Notes that a partition is being written to the online store again: `done` of `total`, in any unit.
    pub fn rebuilding(&self, partition: u32, done: u64, total: u64) {
        let millionths = done.saturating_mul(1_000_000).checked_div(total).unwrap_or(0).min(1_000_000);
        self.rebuilds().insert(partition, millionths as u32);
    }

    /// Notes that a partition is no longer being rebuilt.
    pub fn rebuilt(&self, partition: u32) {
        self.rebuilds().remove(&partition);
    }

    /// How much of a partition is in the online store, 0 to 1; 1 if it is not being rebuilt.
    pub fn rebuild_progress(&self, partition: u32) -> f64 {
        self.rebuilds().get(&partition).map_or(1.0, |&millionths| f64::from(millionths) / 1e6)
    }

    fn rebuilds(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, u32>> {
        self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is counted in this process, by source.
#[derive(Debug, Default)]
pub struct Meters {
    sources: Mutex<BTreeMap<String, Arc<SourceMeters>>>,
    /// Writes refused for the sake of a later owner.
    pub fence_rejections: AtomicU64,
    /// Rebuilds of state.
    pub rebuilds: RebuildMeters,
}

impl Meters {
    /// A source's; begins at 0 when first asked for.
    pub fn of(&self, source: &str) -> Arc<SourceMeters> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match sources.get(source) {
            Some(meters) => meters.clone(),
            None => sources.entry(source.to_owned()).or_default().clone(),
        }
    }

    /// All sources'.
    pub fn all(&self) -> BTreeMap<String, Arc<SourceMeters>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is counted of rebuilding state from the archive (`plumb materialize`).
#[derive(Debug, Default)]
pub struct RebuildMeters {
    running: AtomicU64,
    figures: Mutex<RebuildFigures>,
}

/// Rebuilds of state as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RebuildFigures {
    /// Those under way.
    pub running: u64,
    /// Those that went to their end.
    pub done: u64,
    /// Those that were asked to stop.
    pub stopped: u64,
    /// Those that an error ended.
    pub failed: u64,
    /// Per view.
    pub views: BTreeMap<String, RebuiltFigures>,
}

/// What was rebuilt of a view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RebuiltFigures {
    /// States put in the place of what was held.
    pub states: u64,
    /// Those that the memory of the process held otherwise.
    pub in_memory: u64,
    /// Those that the online store held otherwise.
    pub online: u64,
    /// Those that it still shows otherwise.
    pub unconfirmed: u64,
}

/// How a rebuild of state ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildEnd {
    /// At its end.
    Done,
    /// It was asked to stop.
    Stopped,
    /// By an error.
    Failed,
}

impl RebuildMeters {
    /// Counts a rebuild from its begin to its end.
    pub fn counted<T>(&self, work: impl FnOnce() -> T, end: impl FnOnce(&T) -> RebuildEnd) -> T {
        self.running.fetch_add(1, Ordering::Relaxed);
        // Also where the work panics.
        struct Running<'a>(&'a AtomicU64);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let running = Running(&self.running);
        let done = work();
        drop(running);
        let mut figures = self.lock();
        match end(&done) {
            RebuildEnd::Done => figures.done += 1,
            RebuildEnd::Stopped => figures.stopped += 1,
            RebuildEnd::Failed => figures.failed += 1,
        }
        done
    }

    /// Adds what was rebuilt of a view.
    pub fn add(&self, view: &str, more: RebuiltFigures) {
        let mut figures = self.lock();
        let of_view = figures.views.entry(view.to_owned()).or_default();
        of_view.states += more.states;
        of_view.in_memory += more.in_memory;
        of_view.online += more.online;
        of_view.unconfirmed += more.unconfirmed;
    }

    /// What was counted.
    pub fn figures(&self) -> RebuildFigures {
        RebuildFigures { running: self.running.load(Ordering::Relaxed), ..self.lock().clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, RebuildFigures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The timestamps of records that were applied and cannot be read yet.
///
/// Neighbours mostly share a millisecond, so runs of them are kept; there is room for so many, and what does not
/// fit counts with the run before it, as if it were a little older.
#[derive(Debug, Default)]
pub struct Unread(Vec<(i64, u64)>);

impl Unread {
    const RUNS: usize = 65_536;

    /// Takes records' timestamps in µs.
    pub fn note(&mut self, record_times_us: &[i64]) {
        for &time_us in record_times_us {
            let ms = time_us.div_euclid(1_000);
            let full = self.0.len() >= Self::RUNS;
            match self.0.last_mut() {
                Some((last, count)) if *last == ms || full => *count += 1,
                _ => self.0.push((ms, 1)),
            }
        }
    }

    /// Notes that all of them can be read now.
    pub fn readable(&mut self, now_us: i64, meters: &SourceMeters) {
        for (ms, count) in self.0.drain(..) {
            // A record stamped by a clock ahead of ours is fresh.
            let age_us = now_us.saturating_sub(ms.saturating_mul(1_000)).max(0);
            meters.freshness.add(age_us.unsigned_abs(), count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        histogram.add(1_000, 2);
        histogram.add(1_001, 1);
        histogram.add(3_600_000_000, 1);
        let figures = histogram.figures();
        assert_eq!(figures.buckets[..3], [(0.001, 2), (0.002, 1), (0.004, 0)]);
        assert_eq!(figures.buckets.last(), Some(&(f64::MAX, 1)));
        assert_eq!((figures.count, figures.sum), (4, 3_600.003_001));
    }

    #[test]
    fn unread_records_are_aged_when_they_become_readable() {
        let (meters, mut unread) = (SourceMeters::default(), Unread::default());
        unread.note(&[1_000_000, 1_000_400, 1_500_000, 9_000_000]);
        assert_eq!(unread.0, [(1_000, 2), (1_500, 1), (9_000, 1)]);
        unread.readable(2_000_000, &meters);
        let figures = meters.freshness.figures();
        assert_eq!((figures.count, figures.sum), (4, 2.5));
        unread.readable(5_000_000, &meters);
        assert_eq!(meters.freshness.figures().count, 4, "counted once");
    }

    #[test]
    fn unread_records_take_bounded_memory() {
        let mut unread = Unread::default();
        let times: Vec<i64> = (0..200_000).map(|ms| ms * 1_000).collect();
        unread.note(&times);
        assert_eq!(unread.0.len(), Unread::RUNS);
        assert_eq!(unread.0.iter().map(|(_, count)| count).sum::<u64>(), 200_000);
    }

    #[test]
    fn rebuild_progress_is_one_unless_it_is_under_way() {
        let meters = SourceMeters::default();
        assert_eq!(meters.rebuild_progress(3), 1.0);
        meters.rebuilding(3, 1, 4);
        assert_eq!((meters.rebuild_progress(3), meters.rebuild_progress(4)), (0.25, 1.0));
        meters.rebuilt(3);
        assert_eq!(meters.rebuild_progress(3), 1.0);
    }
}
