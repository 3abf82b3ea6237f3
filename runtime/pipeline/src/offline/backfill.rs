//! Snapshots of feature values over a range of instants: the join's kernel with generated labels.
//!
//! Only dates that are missing, or were made from other events than those given, are computed. What is there is compared
//! after a first reading of the events that looks at nothing else (`prints`); where nothing is there, one reading does all.
//!
//! What does not fit the budget goes to disk for a while: contributions by slice of keys and what is active when as
//! sorted runs (as the events are read), rows by part of a date (until the slices are through).

mod labels;
mod stretch;

use super::activity::Activity;
use super::bounded::{Budget, Limits, Slices};
use super::compute::arrange;
use super::dates::{Asking, DatePlan, DatePlans, Reach, end_of_days_us};
use super::gather::{Gathered, Gatherer, Survey, Wanted};
use super::keys::SharedKeys;
use super::prints::{Grain, Prints};
use super::select::{Selection, ViewSelection};
use super::spill::Unloading;
use super::{Faults, thread_count};
use crate::port::{EventReader, OpenEvents, SnapshotDate, SnapshotSink, SnapshotView};
use crate::{Error, Result};
use labels::{ByteOrder, Instants};
use plumb_core::temporal::Histories;
use plumb_core::time::{DAY_US, HOUR_US, floor_to};
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::ops::Range;
use stretch::{Dates, OfView, Stretch};

/// Rows written at once; a date is cut only where it alone has more. It decides where the pages of a file end: no budget
/// may change it.
const PART_ROWS: usize = 64 * 1024;

/// Rows answered at once where the history is in memory: as soon as there are so many, dates are written.
const FEW_ROWS: usize = 8 * PART_ROWS;

/// Rows answered at once where the history is on disk: all of it is read for them.
const STRETCH_ROWS: usize = 512 * PART_ROWS;

/// What the budget allows, in numbers.
#[derive(Debug, Clone, Copy)]
struct Room {
    limits: Limits,
    /// Rows written at once.
    part_rows: usize,
    /// Rows answered at once, of a history in memory and of one on disk.
    few_rows: usize,
    stretch_rows: usize,
}

impl Room {
    fn new(bytes: u64, transforms: &[Transform], threads: usize) -> Self {
        let limits = Limits::new(bytes, &Selection::all(transforms), threads);
        Self {
            limits,
            part_rows: PART_ROWS,
            few_rows: (4 * limits.answer_rows).min(FEW_ROWS),
            stretch_rows: STRETCH_ROWS,
        }
    }
}

/// At which instants snapshots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// 1 µs after each event: one row per event.
    Event,
    /// At each full hour.
    Hour,
    /// At each 00:00 UTC.
    Day,
}

impl Every {
    /// Reads `event`, `1h` or `1d`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "event" => Ok(Every::Event),
            "1h" => Ok(Every::Hour),
            "1d" | "24h" => Ok(Every::Day),
            _ => Err(Error::invalid(format!("`--every {text}`: write 1h, 1d or event"))),
        }
    }

    /// The grid of the instants, µs.
    pub(crate) fn grid_us(self) -> i64 {
        match self {
            Every::Event => 1,
            Every::Hour => HOUR_US,
            Every::Day => DAY_US,
        }
    }

    /// The first instant that sees an event: the next on the grid, strictly after it.
    pub(super) fn next_us(self, time_us: i64) -> i64 {
        floor_to(time_us, self.grid_us()).saturating_add(self.grid_us())
    }

    /// The last instant before one.
    pub fn last_before_us(self, instant_us: i64) -> i64 {
        floor_to(instant_us.saturating_sub(1), self.grid_us())
    }

    /// Whether instants lie within dates.
    pub(super) fn grain(self) -> Grain {
        if self == Every::Day { Grain::Days } else { Grain::Hours }
    }

    /// As [`Every::parse`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Every::Event => "event",
            Every::Hour => "1h",
            Every::Day => "1d",
        }
    }
}

/// Which entities a snapshot has a row for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Entities {
    /// Those with an accepted event since the snapshot before.
    #[default]
    Active,
    /// Every one found.
    All,
}

/// What to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackfillOptions {
    /// The first instant, µs; `None` = the first with an event before it.
    pub from_us: Option<i64>,
    /// The instant to stop before, µs; `None` = after the first instant that has seen every event.
    pub to_us: Option<i64>,
    /// The instants between them.
    pub every: Every,
    /// The entities; all rows of `Every::Event` are those of its events, whatever this says.
    pub entities: Entities,
    /// Replaces every view's max age (µs).
    pub max_age_us: Option<i64>,
    /// Whether dates may be made again from fewer events than before; else that is an error, for most likely not all
    /// events were given.
    pub allow_fewer_events: bool,
    /// How many threads; 0 = one per core.
    pub threads: usize,
}

impl BackfillOptions {
    /// The snapshots of a view with these options.
    pub(crate) fn view(&self, transform: &Transform) -> SnapshotView {
        let def = transform.def();
        SnapshotView {
            entity: def.entity.name.clone(),
            key_fields: def.entity.key.clone(),
            view: def.name.clone(),
            source: def.source.clone(),
            version_folder: transform.version_folder(),
            digest: transform.digest().to_string(),
            features: def.features.iter().map(|feature| (feature.name.clone(), feature.data_type.clone())).collect(),
            every: self.every.name().to_owned(),
            entities: if self.has_all() { "all" } else { "active" }.to_owned(),
            max_age_us: self.max_age_us.or(def.ttl_us),
        }
    }

    /// The first date (00:00 UTC, µs) whose events can matter to a view at an instant.
    pub(crate) fn reaches_us(&self, view: &Transform, instant_us: i64) -> i64 {
        Reach::of(view, self).first_day_us(instant_us)
    }

    /// Whether every found entity has a row at each instant.
    pub(super) fn has_all(&self) -> bool {
        self.entities == Entities::All && self.every != Every::Event
    }
}

/// What became of a view's dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DateCounts {
    /// Made, because they were missing or of other events.
    pub made: u64,
    /// Left as they were: of the same events.
    pub unchanged: u64,
    /// Taken away: no event makes a row there any more.
    pub removed: u64,
    /// Rows of unchanged dates.
    pub unchanged_rows: u64,
    /// Those of them that are null because `finalize` failed when they were made.
    pub unchanged_faulty: u64,
}

/// What a backfill did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackfillSummary {
    /// Events read.
    pub events: u64,
    /// Per view: what became of its dates.
    pub dates: BTreeMap<String, DateCounts>,
    /// Per view: rows written.
    pub rows: BTreeMap<String, u64>,
    /// Per view with any: events it could not extract.
    pub extract_faults: BTreeMap<String, Faults>,
    /// Per view with any: rows whose `finalize` failed, which are null.
    pub finalize_faults: BTreeMap<String, Faults>,
}

/// Computes the dates of every view that `sink` lacks or has of other events, completes each there, and tells it to finish
/// at the end.
///
/// `open` opens the sources that the views name; each is read to its end, once where `sink` has nothing yet of its views,
/// else twice at most. The budget decides what of it goes to disk for a while, and nothing that the sink is given.
pub fn backfill(
    open: &mut OpenEvents<'_>,
    transforms: &[Transform],
    options: &BackfillOptions,
    budget: Budget<'_>,
    sink: &mut dyn SnapshotSink,
) -> Result<BackfillSummary> {
    let room = Room::new(budget.bytes, transforms, thread_count(options.threads));
    run(open, transforms, options, budget, room, sink)
}

/// As [`backfill`], with room of any size.
fn run(
    open: &mut OpenEvents<'_>,
    transforms: &[Transform],
    options: &BackfillOptions,
    budget: Budget<'_>,
    room: Room,
    sink: &mut dyn SnapshotSink,
) -> Result<BackfillSummary> {
    if let (Some(from_us), Some(to_us)) = (options.from_us, options.to_us)
        && from_us >= to_us
    {
        return Err(Error::invalid("`--from` is not before `--to`: the range of instants is empty"));
    }
    let mut summary = BackfillSummary::default();
    let mut sources: BTreeMap<&str, Vec<&Transform>> = BTreeMap::new();
    for transform in transforms {
        sources.entry(transform.def().source.as_str()).or_default().push(transform);
    }
    for (source, transforms) in sources {
        let threads = thread_count(options.threads);
        let mut job = SourceJob { options, source, threads, budget, room, follows: false, summary: &mut summary };
        job.run(open, &transforms, sink)?;
    }
    sink.finish()?;
    Ok(summary)
}

/// Makes what a running stream is to write for views of one source: the instants of the options, on every date that
/// `sink` has not of at least the same events. The events' record times say which instants see them: those after. What is
/// there and is none of that stays.
///
/// Each date is completed in `sink`, which is told to finish at the end.
pub(crate) fn follow(
    reader: &mut dyn EventReader,
    transforms: &[Transform],
    options: &BackfillOptions,
    budget: Budget<'_>,
    sink: &mut dyn SnapshotSink,
) -> Result<BackfillSummary> {
    let mut summary = BackfillSummary::default();
    if let Some(first) = transforms.first() {
        let (source, threads) = (first.def().source.as_str(), thread_count(options.threads));
        let room = Room::new(budget.bytes, transforms, threads);
        let mut job = SourceJob { options, source, threads, budget, room, follows: true, summary: &mut summary };
        let transforms: Vec<&Transform> = transforms.iter().collect();
        let there = transforms.iter().map(|transform| sink.dates(&job.view(transform)));
        let there = there.collect::<Result<Vec<There>>>()?;
        let bounds = job.bounds_of_options(&transforms);
        job.make(reader, &transforms, bounds, Planned::Over(there), sink)?;
    }
    sink.finish()?;
    Ok(summary)
}

/// The dates to make.
enum Planned {
    /// All that are asked for and not there, per view.
    Over(Vec<There>),
    /// These, per view.
    Dates(Vec<Vec<DatePlan>>),
}

/// The views of one source.
struct SourceJob<'a> {
    options: &'a BackfillOptions,
    source: &'a str,
    threads: usize,
    budget: Budget<'a>,
    room: Room,
    /// Whether a running stream asks, whose events say by their record times which instants see them.
    follows: bool,
    summary: &'a mut BackfillSummary,
}

/// What is there of a view's dates.
type There = BTreeMap<i64, Option<SnapshotDate>>;

impl SourceJob<'_> {
    fn run(&mut self, open: &mut OpenEvents<'_>, transforms: &[&Transform], sink: &mut dyn SnapshotSink) -> Result<()> {
        let there = transforms.iter().map(|transform| sink.dates(&self.view(transform)));
        let there = there.collect::<Result<Vec<There>>>()?;
        if there.iter().all(BTreeMap::is_empty) {
            let bounds = self.bounds_of_options(transforms);
            return self.make(open(self.source)?.as_mut(), transforms, bounds, Planned::Over(there), sink);
        }
        let (views, _) = Wanted::of(transforms.iter().copied());
        let survey = Survey::read(&views, self.options.every.grain(), open(self.source)?.as_mut(), self.threads)?;
        let mut plans = Vec::with_capacity(transforms.len());
        for ((transform, prints), there) in transforms.iter().zip(&survey.views).zip(&there) {
            plans.push(self.asking(transform, prints, survey.newest_us).plan(there)?);
        }
        let (mut dirty, mut made) = (Vec::new(), Vec::new());
        let mut bounds: Option<Range<i64>> = None;
        for (transform, plans) in transforms.iter().zip(plans) {
            self.account(transform, &plans, sink)?;
            let reach = Reach::of(transform, self.options);
            for plan in &plans.dirty {
                let from_us = reach.first_day_us(plan.inputs.first_us);
                let before_us = end_of_days_us(plan.inputs.last_us);
                let wide = bounds.get_or_insert(from_us..before_us);
                *wide = wide.start.min(from_us)..wide.end.max(before_us);
            }
            if !plans.dirty.is_empty() {
                dirty.push(plans.dirty);
                made.push(*transform);
            }
        }
        match bounds {
            Some(bounds) => self.make(open(self.source)?.as_mut(), &made, bounds, Planned::Dates(dirty), sink),
            None => {
                self.summary.events += survey.events;
                Ok(())
            }
        }
    }

    fn view(&self, transform: &Transform) -> SnapshotView {
        self.options.view(transform)
    }

    fn asking<'b>(&'b self, transform: &'b Transform, prints: &'b Prints, newest_us: Option<i64>) -> Asking<'b> {
        let (options, reach) = (self.options, Reach::of(transform, self.options));
        let (view, source, follows) = (&transform.def().name, self.source, self.follows);
        Asking { options, view, source, reach, prints, newest_us, follows }
    }

    /// The times of events that can matter to any instant that the options ask for: whole dates.
    fn bounds_of_options(&self, transforms: &[&Transform]) -> Range<i64> {
        let first_us = |from_us: i64| {
            let reaches = transforms.iter().map(|transform| Reach::of(transform, self.options));
            reaches.map(|reach| reach.first_day_us(from_us)).min().unwrap_or(i64::MIN)
        };
        let before_us = self.options.to_us.map_or(i64::MAX, |to_us| end_of_days_us(to_us.saturating_sub(1)));
        // A date that was made in part is made as a whole.
        let from_us = self.options.from_us.map_or(i64::MIN, |from_us| first_us(floor_to(from_us, DAY_US)));
        from_us.min(before_us)..before_us
    }

    /// Counts what is not to be made, and takes away what is to go.
    fn account(&mut self, transform: &Transform, plans: &DatePlans, sink: &mut dyn SnapshotSink) -> Result<()> {
        let view = self.view(transform);
        for &day_us in &plans.remove {
            sink.remove(&view, day_us)?;
        }
        let counts = self.summary.dates.entry(view.view.clone()).or_default();
        counts.removed += plans.remove.len() as u64;
        counts.unchanged += plans.unchanged.len() as u64;
        counts.unchanged_rows += plans.unchanged.iter().map(|date| date.rows).sum::<u64>();
        counts.unchanged_faulty += plans.unchanged.iter().map(|date| date.faulty).sum::<u64>();
        self.summary.rows.entry(view.view).or_default();
        Ok(())
    }

    /// Reads events within `bounds` (µs) and makes the dates planned for each view, or all that are asked for.
    fn make(
        &mut self,
        reader: &mut dyn EventReader,
        transforms: &[&Transform],
        bounds: Range<i64>,
        planned: Planned,
        sink: &mut dyn SnapshotSink,
    ) -> Result<()> {
        let room = self.room;
        let (views, entities) = Wanted::of(transforms.iter().copied());
        let keys: Vec<SharedKeys> = entities.iter().map(|_| SharedKeys::of_events()).collect();
        let activity = Activity::new(self.options.every, keys.len(), self.budget.scratch, &room.limits);
        let gatherer = Gatherer {
            views,
            keys,
            from_us: bounds.start,
            before_us: bounds.end,
            slices: room.limits.slices,
            activity: Some(&activity),
            keeps_known: self.follows,
        };
        let unloading = Unloading::new(self.budget.scratch, &gatherer.views, self.follows, &room.limits);
        let shares = gatherer.read_unloading(reader, self.threads, Some(&unloading))?;
        let Gatherer { views, keys, .. } = gatherer;
        let Gathered { views: histories, events, newest_us, .. } = Gathered::of(shares);
        self.summary.events += events;
        let indexes = keys.into_iter().map(SharedKeys::into_index).collect::<Result<Vec<_>>>()?;
        let orders: Vec<ByteOrder> = indexes.iter().map(ByteOrder::of).collect();
        let mut planned = planned;
        for (number, (wanted, mut history)) in views.iter().zip(histories).enumerate() {
            let asking = self.asking(wanted.transform, &history.prints, newest_us);
            let dirty = match &mut planned {
                // What was read now counts: more may have come since the events were surveyed.
                Planned::Dates(dates) => {
                    let mut dirty = std::mem::take(&mut dates[number]);
                    asking.renew(&mut dirty);
                    dirty
                }
                Planned::Over(there) => {
                    let plans = asking.plan(&there[number])?;
                    self.account(wanted.transform, &plans, sink)?;
                    plans.dirty
                }
            };
            let arranged;
            let slices = if unloading.is_used() {
                history.parts = Histories::default();
                Slices::Unloaded(&unloading.histories[number])
            } else {
                arranged = arrange(&mut history, room.limits.slices, self.threads)?;
                history.parts = Histories::default();
                Slices::Arranged(&arranged)
            };
            let instants = Instants {
                activity: &activity,
                entity: wanted.keys,
                order: &orders[wanted.keys],
                dates: &dirty,
                options: self.options,
                part_rows: room.part_rows,
            };
            let of_view = OfView {
                max_age_us: self.options.max_age_us.or(wanted.transform.def().ttl_us),
                history: &history,
                slices,
                ranked: &unloading.ranked[number],
                index: &indexes[wanted.keys],
                threads: self.threads,
                keeps_known: self.follows,
                limits: room.limits,
                budget: self.budget,
            };
            self.make_view(wanted.transform, of_view, instants, sink)?;
        }
        Ok(())
    }

    fn make_view(
        &mut self,
        transform: &Transform,
        of_view: OfView<'_>,
        instants: Instants<'_>,
        sink: &mut dyn SnapshotSink,
    ) -> Result<()> {
        let (def, view, room) = (transform.def(), self.view(transform), self.room);
        let selected = ViewSelection { transform: transform.clone(), features: (0..def.features.len()).collect() };
        let enough = if matches!(of_view.slices, Slices::Unloaded(_)) { room.stretch_rows } else { room.few_rows };
        let mut dates = Dates::new(sink, &view, of_view.index, instants.dates.to_vec());
        let mut stretch = Stretch::new(&selected, of_view, enough)?;
        instants
            .parts(&mut |keys, as_of_us, done_before_us| stretch.add(keys, as_of_us, done_before_us, &mut dates))?;
        let faults = stretch.finish(&mut dates)?;
        self.summary.dates.entry(def.name.clone()).or_default().made += dates.completed as u64;
        *self.summary.rows.entry(def.name.clone()).or_default() += dates.rows;
        let (extract, finalize) = (&mut self.summary.extract_faults, &mut self.summary.finalize_faults);
        for (list, faults) in [(extract, of_view.history.faults.clone()), (finalize, faults)] {
            if faults.count > 0 {
                list.entry(def.name.clone()).or_default().merge(faults);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
