//! Snapshots from the running stream, made beside it of what it has committed.
//!
//! A look finds the instants that are due ([`due`]), writes down which they are and which events each sees ([`journal`]),
//! lets the kernel of backfills make them of the archive, and notes that they are made. What an instant sees is decided
//! by the log alone: of a partition that has passed it by the allowed lateness the events up to the first that has, and
//! of one that is not waited for those that are committed when it is decided. So it does not matter when commits came,
//! when the looks came or how often a process was killed.

mod due;
mod journal;

use crate::clock::Clock;
use crate::commit::load::KnownLists;
use crate::commit::{committed_partitions, latest};
use crate::offline::backfill::follow;
use crate::offline::{BackfillOptions, BackfillSummary, Budget, Entities, Every, needed_columns};
use crate::port::{
    Archive, ArchiveScan, EventReader, ObjectStore, RowFile, ScratchFolder, SnapshotDate, SnapshotRows, SnapshotSink,
    SnapshotSinks, SnapshotView,
};
use crate::runtime::ActiveView;
use crate::worker::{Board, Phase, SourceSetup};
use crate::{Error, Result, TRACE};
use arc_swap::ArcSwap;
use due::{Passed, Reached};
use journal::{Decision, Journal};
use plumb_core::event::EventBatch;
use plumb_core::time::{DAY_US, floor_to};
use plumb_transform::Transform;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the end of the job, or of its input, is noticed.
const LOOK: Duration = Duration::from_millis(10);
/// A look that failed is made again after the interval, after twice that, and so on up to this.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// At the end of the input it is made so often; what is left to do then is done by the next run.
const LAST_TRIES: u32 = 5;
/// A partition that was read to its end is not waited for once nothing has come for so long.
pub const SILENT_AFTER: Duration = Duration::from_secs(600);

/// How snapshots are made.
#[derive(Clone)]
pub struct SnapshotSetup {
    /// The instants.
    pub every: Every,
    /// Where they go.
    pub sinks: Arc<dyn SnapshotSinks>,
    /// How often to look what is due.
    pub look_every: Duration,
    /// What one pass may take of memory, in bytes, beyond which it goes to disk.
    pub memory_bytes: u64,
    /// Where on disk.
    pub scratch: Arc<dyn ScratchFolder>,
    /// After which time a partition that was read to its end is not waited for ([`SILENT_AFTER`]).
    pub silent_after: Duration,
}

impl std::fmt::Debug for SnapshotSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSetup").field("every", &self.every).finish_non_exhaustive()
    }
}

impl SnapshotSetup {
    fn options(&self) -> BackfillOptions {
        BackfillOptions {
            from_us: None,
            to_us: None,
            every: self.every,
            entities: Entities::Active,
            max_age_us: None,
            allow_fewer_events: false,
            // The stream goes first.
            threads: 1,
        }
    }

    /// Refuses folders of these views that hold snapshots of another kind.
    pub(crate) fn check<'a>(&self, views: impl IntoIterator<Item = &'a Transform>) -> Result<()> {
        let mut sink = self.sinks.open();
        views.into_iter().try_for_each(|view| sink.dates(&self.options().view(view)).map(drop))
    }
}

/// Up to which instant (µs) a running stream has made the snapshots of a source in a store; `None` if none has made any
/// of that kind there.
pub fn made_through_us(store: Arc<dyn ObjectStore>, source: &str, every: Every) -> Result<Option<i64>> {
    let journal = Journal::open(store, source, every)?;
    Ok(journal.last().map(|last| last.made_through_us().unwrap_or(i64::MIN)))
}

/// What makes the snapshots of a job.
pub(crate) struct Snapshots {
    pub(crate) setup: SnapshotSetup,
    pub(crate) sources: Vec<SourceSetup>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) archive: Arc<dyn Archive>,
    pub(crate) active: Arc<ArcSwap<Vec<ActiveView>>>,
    pub(crate) board: Arc<Board>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whether the input ends.
    pub(crate) bounded: bool,
    pub(crate) stop: Arc<AtomicBool>,
}

/// What is remembered from one look to the next; no decision depends on it but when a silent partition is not waited for.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    lists: KnownLists,
    /// Per source and partition up to where it was committed, and since when.
    silent: BTreeMap<(String, u32), (u64, Duration)>,
}

impl Snapshots {
    /// Until the job has ended, or all of a bounded input is made.
    pub(crate) fn run(self) {
        let (mut memory, mut failures) = (Memory::default(), 0u32);
        while !self.stop.load(Ordering::Relaxed) {
            let ended = self.bounded && self.board.partitions_ended();
            match self.look_at_all(&mut memory) {
                Ok(true) => {
                    failures = 0;
                    continue;
                }
                Ok(false) if ended => return self.board.set_finishing(false),
                Ok(false) => failures = 0,
                Err(_) if self.stop.load(Ordering::Relaxed) => return,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, failures, "cannot make snapshots, trying again");
                    if ended && failures >= LAST_TRIES {
                        return self.board.fail(error);
                    }
                }
            }
            let wait = self.setup.look_every.saturating_mul(1 << failures.min(10)).min(RETRY_MAX);
            let until = Instant::now() + if failures == 0 { self.setup.look_every } else { wait };
            while !self.stop.load(Ordering::Relaxed) && Instant::now() < until {
                if !ended && failures == 0 && self.bounded && self.board.partitions_ended() {
                    break;
                }
                std::thread::sleep(LOOK.min(self.setup.look_every));
            }
        }
    }

    /// Looks at every source; whether anything was made. The first error, once all were looked at.
    fn look_at_all(&self, memory: &mut Memory) -> Result<bool> {
        let (mut any, mut result) = (false, Ok(()));
        for source in &self.sources {
            let name = &source.source.schema().source;
            let looked = catch_unwind(AssertUnwindSafe(|| self.look(source, memory)))
                .unwrap_or_else(|_| Err(Error::internal("making snapshots has panicked")));
            let meters = self.board.meters().of(name);
            match looked {
                Ok(made) => {
                    any |= made;
                    self.board.snapshot_trouble(name, None);
                }
                Err(_) if self.stop.load(Ordering::Relaxed) => return Ok(false),
                Err(error) => {
                    meters.snapshot_failures.fetch_add(1, Ordering::Relaxed);
                    self.board.snapshot_trouble(name, Some(error.to_string()));
                    result = result.and(Err(error));
                }
            }
        }
        result.map(|()| any)
    }

    /// Makes what is due of a source; whether there was anything.
    fn look(&self, source: &SourceSetup, memory: &mut Memory) -> Result<bool> {
        let name = &source.source.schema().source;
        let views = self.views(name);
        if views.is_empty() {
            return Ok(false);
        }
        let numbers: BTreeSet<u32> =
            source.source.partitions()?.into_iter().chain(committed_partitions(self.store.as_ref(), name)?).collect();
        // One process makes those of a source: who has its first partition.
        let own = self.board.partitions();
        let is_own = |&first: &u32| own.iter().any(|status| status.source == *name && status.partition == first);
        if !numbers.first().is_some_and(is_own) {
            return Ok(false);
        }
        let every = self.setup.every;
        let mut journal = Journal::open(self.store.clone(), name, every)?;
        if let Some(last) = journal.last().filter(|last| !last.made).cloned() {
            self.make(source, &last, memory)?;
            journal.add(last.done())?;
            return Ok(true);
        }
        if let Some(last) = journal.last() {
            self.board.meters().of(name).snapshots_through_us.store(last.through_us, Ordering::Relaxed);
        }
        let partitions = self.reached(source, &numbers, memory)?;
        let lateness_us = source.rules.allowed_lateness_us;
        let due_us = due::due_us(every, lateness_us, &partitions);
        let Some(due_us) = due_us.filter(|&due_us| journal.last().is_none_or(|last| last.through_us < due_us)) else {
            return Ok(false);
        };
        let files = due::committed_files(self.store.as_ref(), &memory.lists, name, numbers.iter().copied())?;
        let passed = self.passed(source, journal.last(), &partitions, &files)?;
        let days = due::events_by_day(&files);
        loop {
            let last = journal.last().cloned();
            let after_us = last.as_ref().map(|last| last.through_us);
            if after_us.is_some_and(|after_us| after_us >= due_us) {
                return Ok(true);
            }
            let reaches_us = |instant_us: i64| {
                let reaches = views.iter().map(|view| self.setup.options().reaches_us(view, instant_us));
                reaches.min().unwrap_or(instant_us)
            };
            let through_us = due::through_us(after_us, due_us, &days, reaches_us);
            let cuts = passed.cuts(last.as_ref(), through_us, &partitions);
            let digests = views.iter().map(|view| view.digest().to_string()).collect();
            let decision = Decision::new(after_us, through_us, cuts, digests);
            if !journal.add(decision)? {
                // Somebody else was faster; what that is about is seen at the next look.
                return Ok(true);
            }
            let Some(decision) = journal.last().cloned() else { return Ok(true) };
            self.make(source, &decision, memory)?;
            if !journal.add(decision.done())? {
                return Ok(true);
            }
            self.board.meters().of(name).snapshots_through_us.store(through_us, Ordering::Relaxed);
        }
    }

    fn views(&self, source: &str) -> Vec<Transform> {
        let active = self.active.load();
        let views = active.iter().map(|view| &view.transform).filter(|view| view.def().source == source);
        views.cloned().collect()
    }

    /// What each partition has committed, and whether it is waited for.
    fn reached(
        &self,
        source: &SourceSetup,
        numbers: &BTreeSet<u32>,
        memory: &mut Memory,
    ) -> Result<BTreeMap<u32, Reached>> {
        let name = &source.source.schema().source;
        let (own, now) = (self.board.partitions(), self.clock.elapsed());
        let mut partitions = BTreeMap::new();
        for &number in numbers {
            let (next_offset, newest_us) = match latest(self.store.as_ref(), name, number)? {
                Some(manifest) => (manifest.next_offset, manifest.newest_event_time_us),
                None => (source.source.start(number)?, None),
            };
            let own = own.iter().find(|status| status.source == *name && status.partition == number);
            let (known, since) = memory.silent.entry((name.clone(), number)).or_insert((next_offset, now));
            if *known != next_offset {
                (*known, *since) = (next_offset, now);
            }
            let silent = now.saturating_sub(*since) >= self.setup.silent_after;
            let at_end = match source.source.end(number)? {
                Some(end) => next_offset >= end,
                // A source that cannot say: what its owner has read is all there is for now.
                None => own.is_some_and(|own| {
                    silent && own.phase == Phase::Live && own.paused.is_none() && own.position == next_offset
                }),
            };
            let ended = match own {
                Some(own) => own.phase == Phase::Ended && own.committed == next_offset,
                None => self.bounded && at_end,
            };
            let waited_for = !ended && !(at_end && (newest_us.is_none() || silent));
            partitions.insert(number, Reached { next_offset, newest_us, waited_for });
        }
        Ok(partitions)
    }

    /// Where partitions pass instants that were not decided on.
    fn passed(
        &self,
        source: &SourceSetup,
        last: Option<&Decision>,
        partitions: &BTreeMap<u32, Reached>,
        files: &[(u32, RowFile)],
    ) -> Result<Passed> {
        let (every, lateness_us) = (self.setup.every, source.rules.allowed_lateness_us);
        let mut passed = Passed::default();
        let scan = Passed::scan(every, lateness_us, last, partitions, files);
        self.archive.scan(source.source.schema(), &scan, &mut |partition, batch| {
            for (&offset, &time_us) in batch.offsets.iter().zip(&batch.times_us) {
                passed.add(every, lateness_us, partition, offset, time_us);
            }
            self.go_on()
        })?;
        Ok(passed)
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(stopped()) } else { Ok(()) }
    }

    /// Makes what was decided, of views that are still active.
    fn make(&self, source: &SourceSetup, decision: &Decision, memory: &mut Memory) -> Result<()> {
        let schema = source.source.schema();
        let name = &schema.source;
        let mut views = self.views(name);
        views.retain(|view| decision.views.contains(&view.digest().to_string()));
        if views.is_empty() {
            return Ok(());
        }
        let through_us = decision.through_us;
        let span = tracing::info_span!(target: TRACE, "snapshots", source = name, through_us);
        let _entered = span.enter();
        let started = Instant::now();
        let options = BackfillOptions {
            from_us: decision.after_us.map(|after_us| after_us.saturating_add(self.setup.every.grid_us())),
            to_us: Some(through_us.saturating_add(1)),
            ..self.setup.options()
        };
        let below_offset = decision.ends();
        let numbers = below_offset.keys().copied();
        let files = due::committed_files(self.store.as_ref(), &memory.lists, name, numbers)?;
        let from_us = options.from_us.map_or(i64::MIN, |from_us| {
            let day_us = floor_to(from_us, DAY_US);
            views.iter().map(|view| options.reaches_us(view, day_us)).min().unwrap_or(i64::MIN)
        });
        let scan = ArchiveScan {
            files,
            columns: Some(needed_columns(&views)),
            event_time_us: Some((from_us, through_us.max(from_us))),
            below_offset,
            ..ArchiveScan::default()
        };
        let mut reader = Seen { reader: self.archive.read(schema, scan)?, decision, stop: &self.stop };
        let mut sink = Stoppable { sink: self.setup.sinks.open(), stop: &self.stop };
        let budget = Budget { bytes: self.setup.memory_bytes, scratch: self.setup.scratch.as_ref(), progress: None };
        let summary = follow(&mut reader, &views, &options, budget, &mut sink)?;
        self.note(name, &summary, through_us, started.elapsed());
        Ok(())
    }

    fn note(&self, source: &str, summary: &BackfillSummary, through_us: i64, took: Duration) {
        let (events, rows): (u64, u64) = (summary.events, summary.rows.values().sum());
        let dates: u64 = summary.dates.values().map(|dates| dates.made).sum();
        let meters = self.board.meters().of(source);
        meters.snapshots.add_duration(took);
        meters.snapshot_rows.fetch_add(rows, Ordering::Relaxed);
        let through = crate::decode::time::format_rfc3339(through_us);
        let seconds = took.as_secs_f64();
        tracing::info!(source, through, dates, rows, events, seconds, "snapshots are made");
        for (view, faults) in &summary.finalize_faults {
            let example = faults.example.as_ref().map_or("", |(_, reason)| reason);
            tracing::warn!(view, rows = faults.count, example, "finalize failed in snapshots, whose rows are null");
        }
    }
}

fn stopped() -> Error {
    Error::unavailable("make snapshots", "the job is ending")
}

/// Events with, in place of their record time, the last instant that does not see them.
struct Seen<'a> {
    reader: Box<dyn EventReader>,
    decision: &'a Decision,
    stop: &'a AtomicBool,
}

impl EventReader for Seen<'_> {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.next_of_partition()?.map(|(_, batch)| batch))
    }

    fn next_of_partition(&mut self) -> Result<Option<(u32, EventBatch)>> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let Some((partition, mut batch)) = self.reader.next_of_partition()? else { return Ok(None) };
        let unseen_us = batch.offsets.iter().map(|&offset| self.decision.unseen_us(partition, offset));
        batch.record_times_us = unseen_us.collect();
        Ok(Some((partition, batch)))
    }
}

/// A sink that takes nothing more once the job is ending.
struct Stoppable<'a> {
    sink: Box<dyn SnapshotSink>,
    stop: &'a AtomicBool,
}

impl Stoppable<'_> {
    fn go_on(&mut self) -> Result<&mut dyn SnapshotSink> {
        if self.stop.load(Ordering::Relaxed) { Err(stopped()) } else { Ok(self.sink.as_mut()) }
    }
}

impl SnapshotSink for Stoppable<'_> {
    fn dates(&mut self, view: &SnapshotView) -> Result<BTreeMap<i64, Option<SnapshotDate>>> {
        self.go_on()?.dates(view)
    }

    fn write(&mut self, view: &SnapshotView, rows: &SnapshotRows) -> Result<()> {
        self.go_on()?.write(view, rows)
    }

    fn complete(&mut self, view: &SnapshotView, day_us: i64, date: &SnapshotDate) -> Result<()> {
        self.go_on()?.complete(view, day_us, date)
    }

    fn remove(&mut self, view: &SnapshotView, day_us: i64) -> Result<()> {
        self.go_on()?.remove(view, day_us)
    }

    fn finish(&mut self) -> Result<()> {
        self.go_on()?.finish()
    }
}

#[cfg(test)]
mod tests;
