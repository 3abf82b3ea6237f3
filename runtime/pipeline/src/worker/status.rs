//! How partitions are: what `status`, readiness and metrics show.

use super::partition::PartitionView;
use crate::accept::Accounting;
use crate::meter::Meters;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

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
}

impl Pause {
    /// Both.
    pub const ALL: [Pause; 2] = [Pause::Uncommitted, Pause::State];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Pause::Uncommitted => "uncommitted",
            Pause::State => "state",
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
}

#[derive(Debug, Default)]
struct Notes {
    partitions: BTreeMap<(String, u32), PartitionStatus>,
    /// Sources that have not said yet which partitions this process works on.
    joining: BTreeSet<String>,
    /// Why a worker stopped, in words, and as an error until somebody takes it.
    failure: Option<String>,
    error: Option<Error>,
}

impl Board {
    /// What the workers count.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// All partitions, in order of source and number.
    pub fn partitions(&self) -> Vec<PartitionStatus> {
        self.lock().partitions.values().cloned().collect()
    }

    /// Whether every partition was read to its end, published and committed.
    pub fn has_ended(&self) -> bool {
        let notes = self.lock();
        notes.joining.is_empty() && notes.partitions.values().all(|status| status.phase == Phase::Ended)
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
        self.lock().partitions.remove(&(source.to_owned(), partition));
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

pub(super) fn update_views(statuses: &mut Vec<ViewStatus>, views: &[PartitionView], with_bytes: bool) {
    let fresh = views.iter().map(|view| {
        let version = view.transform.version_label();
        let name = &view.transform.def().name;
        let before = statuses.iter().find(|status| status.view == *name && status.version == version);
        let state_bytes = match before {
            Some(before) if !with_bytes => before.state_bytes,
            _ => view.state.state_bytes() as u64,
        };
        ViewStatus {
            view: name.clone(),
            version,
            keys: view.state.keys() as u64,
            state_bytes,
            faults: view.faults,
            non_finite: view.report.non_finite,
            hot_keys: 0,
            hottest: 0,
        }
    });
    *statuses = fresh.collect();
}
