//! How partitions are: what `status`, readiness and metrics show.

use super::partition::PartitionView;
use crate::accept::Accounting;
use crate::meter::Meters;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// How often a warning that still holds is said again.
pub(super) const SAY_AGAIN: Duration = Duration::from_secs(600);

/// What a partition is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Being taken over: loading, reading again.
    #[default]
    Starting,
    /// Following its source.
    Live,
    /// Writing the online store again from state.
    Rebuilding,
    /// Read to its end, published and committed.
    Ended,
    /// Stopped by an error.
    Failed,
}

/// A bound at which a partition is not read until there is room again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// What waits for the next commit.
    Uncommitted,
    /// The live state of all views.
    State,
    /// What waits for the online store.
    Online,
}

impl Pause {
    /// All of them.
    pub const ALL: [Pause; 3] = [Pause::Uncommitted, Pause::State, Pause::Online];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Pause::Uncommitted => "uncommitted",
            Pause::State => "state",
            Pause::Online => "online",
        }
    }
}

/// A view in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct ViewStatus {
    /// Its name.
    pub view: String,
    /// Its version, `1.2.0+ab12cd34`.
    pub version: String,
    /// Keys with state.
    pub keys: u64,
    /// The memory of its state, about; as of the last commit.
    pub state_bytes: u64,
    /// Faults since the process started.
    pub faults: u64,
    /// Numbers that were none (NaN, infinite) since the process started.
    pub non_finite: u64,
    /// Keys with more raw contributions than a read should take; as of the last commit.
    pub hot_keys: u64,
    /// The raw contributions of the key that has most; as of the last commit.
    pub hottest: u64,
    /// A hash of that key, for messages: keys may be people.
    pub hottest_key: String,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct PartitionStatus {
    /// The source.
    pub source: String,
    /// The partition.
    pub partition: u32,
    /// What it is doing.
    pub phase: Phase,
    /// The offset after the last record applied.
    pub position: u64,
    /// The offset the online store shows; `None` while it is rebuilt.
    pub published: Option<u64>,
    /// The offset up to which is committed.
    pub committed: u64,
    /// The number of the last commit.
    pub commit_seq: u64,
    /// When it was made, as far as this process knows, µs since the epoch.
    pub committed_at_us: Option<i64>,
    /// The owner's generation.
    pub generation: u64,
    /// What became of the records.
    pub accounting: Accounting,
    /// The newest time of an accepted event, µs.
    pub newest_event_time_us: Option<i64>,
    /// Memory that waits for the next commit, bytes.
    pub uncommitted_bytes: u64,
    /// Event ids in memory.
    pub remembered_ids: u64,
    /// Dead letters since the process started, by the class of their reason.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Records the source no longer had and that were given up.
    pub gap_records: u64,
    /// The bound that keeps the partition from being read, if one does.
    pub paused: Option<Pause>,
    /// The views.
    pub views: Vec<ViewStatus>,
}

/// Where workers say how they are; locked for moments only.
#[derive(Debug, Default)]
pub struct Board {
    notes: Mutex<Notes>,
    changed: Condvar,
    meters: Meters,
    /// Bytes of all partitions that wait for a commit or are in one.
    uncommitted: Arc<AtomicU64>,
    /// The live state of all views, as of the last measures.
    state_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Notes {
    partitions: BTreeMap<(String, u32), PartitionStatus>,
    /// When a hot key of a view was last named.
    named: BTreeMap<String, Duration>,
    /// Sources that have not said yet which partitions this process works on.
    joining: BTreeSet<String>,
    /// A bounded input has ended only when no more is made of it.
    finishing: bool,
    /// By source why no snapshots can be made at the moment.
    snapshot_trouble: BTreeMap<String, String>,
    /// Why a worker stopped, in words, and as an error until somebody takes it.
    failure: Option<String>,
    error: Option<Error>,
}

impl Notes {
    fn has_ended(&self) -> bool {
        self.joining.is_empty() && self.partitions.values().all(|status| status.phase == Phase::Ended)
    }
}

/// A partition's part of the bytes that wait for a commit.
#[derive(Debug)]
pub(super) struct Uncommitted {
    all: Arc<AtomicU64>,
    own: u64,
}

impl Uncommitted {
    pub(super) fn set(&mut self, bytes: u64) {
        self.all.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_sub(self.own, Ordering::Relaxed);
        self.own = bytes;
    }
}

impl Drop for Uncommitted {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Board {
    /// Bytes of all partitions that wait for a commit or are in one.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.uncommitted.load(Ordering::Relaxed)
    }

    /// The part of one more partition.
    pub(super) fn uncommitted(&self) -> Uncommitted {
        Uncommitted { all: self.uncommitted.clone(), own: 0 }
    }

    /// The live state of all views in this process, in bytes, as of the last measures.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes.load(Ordering::Relaxed)
    }

    /// Takes notice of new measures of state: sums it up, and names hot keys, each view's at most once in
    /// [`SAY_AGAIN`].
    pub(crate) fn measured(&self, now: Duration, hot_key: u64) {
        let mut notes = self.lock();
        self.sum_state(&notes);
        let mut hottest: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for view in notes.partitions.values().flat_map(|status| &status.views) {
            let known = hottest.entry(view.view.clone()).or_default();
            if view.hottest > known.0 {
                *known = (view.hottest, view.hottest_key.clone());
            }
        }
        for (view, (contributions, key)) in hottest.into_iter().filter(|(_, (count, _))| *count > hot_key) {
            if notes.named.get(&view).is_some_and(|&named| now.saturating_sub(named) < SAY_AGAIN) {
                continue;
            }
            tracing::warn!(
                view,
                key,
                contributions,
                hot_key,
                "hot key: its contributions in reach of a window are many, and reading and publishing it takes long; \
                 give the view's windows a hop, or filter what should not be counted"
            );
            notes.named.insert(view, now);
        }
    }

    fn sum_state(&self, notes: &Notes) {
        let views = notes.partitions.values().flat_map(|status| &status.views);
        self.state_bytes.store(views.map(|view| view.state_bytes).sum(), Ordering::Relaxed);
    }

    /// That the state has reached its bound, naming the view that has most of it.
    pub(crate) fn state_words(&self, max_state_bytes: u64) -> String {
        let mut views: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for view in self.lock().partitions.values().flat_map(|status| &status.views) {
            let sum = views.entry(view.view.clone()).or_default();
            *sum = (sum.0 + view.state_bytes, sum.1 + view.keys);
        }
        let total: u64 = views.values().map(|(bytes, _)| bytes).sum();
        let largest = views.iter().max_by_key(|(_, (bytes, _))| *bytes);
        let largest = largest.map(|(view, (bytes, keys))| format!("view `{view}` has {bytes} of it for {keys} keys"));
        format!(
            "live state takes {total} bytes, run.max_state is {max_state_bytes}; {}; nothing is lost, and reading goes on \
             with a larger run.max_state, with more processes, or without the view",
            largest.unwrap_or_default()
        )
    }

    /// What the workers count.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// All partitions, in order of source and number.
    pub fn partitions(&self) -> Vec<PartitionStatus> {
        self.lock().partitions.values().cloned().collect()
    }

    /// Whether every partition was read to its end, published and committed, and everything is made of that.
    pub fn has_ended(&self) -> bool {
        let notes = self.lock();
        notes.has_ended() && !notes.finishing
    }

    /// Whether every partition was read to its end, published and committed.
    pub(crate) fn partitions_ended(&self) -> bool {
        self.lock().has_ended()
    }

    /// Something is to be made yet of a bounded input, or no more.
    pub(crate) fn set_finishing(&self, finishing: bool) {
        self.lock().finishing = finishing;
        self.changed.notify_all();
    }

    /// Why no snapshots can be made of a source at the moment; `None` where all is well.
    pub(crate) fn snapshot_trouble(&self, source: &str, trouble: Option<String>) {
        let mut notes = self.lock();
        match trouble {
            Some(why) => drop(notes.snapshot_trouble.insert(source.to_owned(), why)),
            None => drop(notes.snapshot_trouble.remove(source)),
        }
    }

    /// The sources of which no snapshots can be made at the moment, and why.
    pub fn snapshot_troubles(&self) -> BTreeMap<String, String> {
        self.lock().snapshot_trouble.clone()
    }

    /// Waits until [`Board::has_ended`], or a worker has stopped with an error.
    pub fn wait_ended(&self) -> Result<()> {
        let mut notes = self.lock();
        while notes.failure.is_none() && (!notes.has_ended() || notes.finishing) {
            notes = self.changed.wait(notes).unwrap_or_else(PoisonError::into_inner);
        }
        drop(notes);
        self.take_failure()
    }

    /// Why a worker stopped, if one did.
    pub fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// The error that stopped a worker; the first who asks gets it, others its words.
    pub fn take_failure(&self) -> Result<()> {
        let mut notes = self.lock();
        match (notes.error.take(), &notes.failure) {
            (Some(error), _) => Err(error),
            (None, Some(failure)) => Err(Error::internal(format!("the stream processor has stopped: {failure}"))),
            (None, None) => Ok(()),
        }
    }

    /// Waits until every partition is in a phase that `wanted` accepts, or a worker has stopped with an error.
    pub fn wait(&self, wanted: impl Fn(Phase) -> bool) -> Result<()> {
        self.wait_until(|status| wanted(status.phase))
    }

    /// Waits until the online store shows every record of a source below `position`, or a worker has stopped with an
    /// error. A partition that the job does not run has nothing to show.
    pub fn wait_published(&self, source: &str, position: &BTreeMap<u32, u64>) -> Result<()> {
        self.wait_until(|status| match position.get(&status.partition) {
            Some(&offset) if status.source == source => status.published.is_some_and(|shown| shown >= offset),
            _ => true,
        })
    }

    fn wait_until(&self, reached: impl Fn(&PartitionStatus) -> bool) -> Result<()> {
        let mut notes = self.lock();
        while notes.failure.is_none() && !(notes.joining.is_empty() && notes.partitions.values().all(&reached)) {
            notes = self.changed.wait(notes).unwrap_or_else(PoisonError::into_inner);
        }
        drop(notes);
        self.take_failure()
    }

    pub(crate) fn fail(&self, error: Error) {
        if matches!(error, Error::Fenced { .. }) {
            self.meters.fence_rejections.fetch_add(1, Ordering::Relaxed);
        }
        let mut notes = self.lock();
        notes.partitions.values_mut().for_each(|status| status.phase = Phase::Failed);
        if notes.failure.is_none() {
            notes.failure = Some(error.to_string());
            notes.error = Some(error);
        }
        drop(notes);
        self.changed.notify_all();
    }

    /// A source will say which partitions this process works on.
    pub(crate) fn joining(&self, source: &str) {
        self.lock().joining.insert(source.to_owned());
    }

    /// A source has said which partitions this process works on.
    pub(crate) fn joined(&self, source: &str) {
        if self.lock().joining.remove(source) {
            self.changed.notify_all();
        }
    }

    /// This process no longer works on a partition.
    pub(crate) fn remove(&self, source: &str, partition: u32) {
        let mut notes = self.lock();
        notes.partitions.remove(&(source.to_owned(), partition));
        self.sum_state(&notes);
        drop(notes);
        self.changed.notify_all();
    }

    pub(crate) fn phase(&self, source: &str, partition: u32, phase: Phase) {
        self.update(source, partition, |status| status.phase = phase);
    }

    pub(crate) fn update(&self, source: &str, partition: u32, change: impl FnOnce(&mut PartitionStatus)) {
        let mut notes = self.lock();
        let status = notes.partitions.entry((source.to_owned(), partition)).or_insert_with(|| PartitionStatus {
            source: source.to_owned(),
            partition,
            ..PartitionStatus::default()
        });
        let before = (status.phase, status.published);
        change(status);
        let changed = (status.phase, status.published) != before;
        drop(notes);
        if changed {
            self.changed.notify_all();
        }
    }

    /// Poison is ignored: a status half updated is put right by the next update.
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes over how the views are; with `measure`, from which number of contributions on a key is hot, also what costs
/// time in proportion to the keys.
pub(super) fn update_views(statuses: &mut Vec<ViewStatus>, views: &[PartitionView], measure: Option<u64>) {
    let fresh = views.iter().map(|view| {
        let version = view.transform.version_label();
        let name = &view.transform.def().name;
        let before = statuses.iter().find(|status| status.view == *name && status.version == version);
        let measured = match (before, measure) {
            (Some(before), None) => before.clone(),
            (_, measure) => {
                let hottest = view.state.hottest(measure.unwrap_or(u64::MAX));
                ViewStatus {
                    state_bytes: view.state.state_bytes() as u64,
                    hot_keys: hottest.above as u64,
                    hottest: hottest.contributions,
                    hottest_key: hottest.key.map(|key| format!("{:016x}", xxh3_64(key.as_bytes()))).unwrap_or_default(),
                    ..ViewStatus::default()
                }
            }
        };
        ViewStatus {
            view: name.clone(),
            version,
            keys: view.state.keys() as u64,
            faults: view.faults,
            non_finite: view.report.non_finite,
            ..measured
        }
    });
    *statuses = fresh.collect();
}
