//! Snapshots of feature values over a range of instants: the join's kernel with generated labels.
//!
//! Only dates that are missing, or were made from other events than those given, are computed. What is there is compared
//! after a first reading of the events that looks at nothing else (`prints`); where nothing is there, one reading does all.

use super::compute::{Asked, arrange, compute};
use super::dates::{Asking, DatePlan, DatePlans, Reach, end_of_days_us};
use super::gather::{Gathered, Gatherer, Survey, ViewHistory, Wanted};
use super::keys::{KeyIndex, SharedKeys};
use super::prints::DayPrints;
use super::{Faults, SLICES_PER_THREAD, Status, ViewColumns, thread_count};
use crate::port::{EventReader, OpenEvents, SnapshotDate, SnapshotRows, SnapshotSink, SnapshotView};
use crate::{Error, Result};
use plumb_core::column::{Column, DataType};
use plumb_core::entity::EntityKey;
use plumb_core::time::{DAY_US, HOUR_US, floor_to};
use plumb_transform::Transform;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::ops::Range;

/// Rows computed at once; a date is cut only where it alone has more.
const ROWS_PER_CHUNK: usize = 500_000;

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
    pub(super) fn grid_us(self) -> i64 {
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

    /// As [`Every::parse`] reads it.
    fn name(self) -> &'static str {
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
/// else twice at most.
pub fn backfill(
    open: &mut OpenEvents<'_>,
    transforms: &[Transform],
    options: &BackfillOptions,
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
        let mut job = SourceJob { options, source, threads: thread_count(options.threads), summary: &mut summary };
        job.run(open, &transforms, sink)?;
    }
    sink.finish()?;
    Ok(summary)
}

/// The views of one source.
struct SourceJob<'a> {
    options: &'a BackfillOptions,
    source: &'a str,
    threads: usize,
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
            return self.make(open(self.source)?.as_mut(), transforms, bounds, None, sink);
        }
        let (views, _) = Wanted::of(transforms.iter().copied());
        let survey = Survey::read(&views, i64::MIN..i64::MAX, open(self.source)?.as_mut(), self.threads)?;
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
            Some(bounds) => self.make(open(self.source)?.as_mut(), &made, bounds, Some(dirty), sink),
            None => {
                self.summary.events += survey.events;
                Ok(())
            }
        }
    }

    fn view(&self, transform: &Transform) -> SnapshotView {
        let def = transform.def();
        let is_event = self.options.every == Every::Event;
        SnapshotView {
            entity: def.entity.name.clone(),
            key_fields: def.entity.key.clone(),
            view: def.name.clone(),
            source: def.source.clone(),
            version_folder: transform.version_folder(),
            digest: transform.digest().to_string(),
            features: def.features.iter().map(|feature| (feature.name.clone(), feature.data_type.clone())).collect(),
            every: self.options.every.name().to_owned(),
            entities: if self.options.entities == Entities::All && !is_event { "all" } else { "active" }.to_owned(),
            max_age_us: self.options.max_age_us.or(def.ttl_us),
        }
    }

    fn asking<'b>(&'b self, transform: &'b Transform, prints: &'b DayPrints, newest_us: Option<i64>) -> Asking<'b> {
        let (options, reach) = (self.options, Reach::of(transform, self.options));
        Asking { options, view: &transform.def().name, source: self.source, reach, prints, newest_us }
    }

    /// The times of events that can matter to any instant that the options ask for: whole dates.
    fn bounds_of_options(&self, transforms: &[&Transform]) -> Range<i64> {
        let first_us = |from_us: i64| {
            let reaches = transforms.iter().map(|transform| Reach::of(transform, self.options));
            reaches.map(|reach| reach.first_day_us(from_us)).min().unwrap_or(i64::MIN)
        };
        let before_us = self.options.to_us.map_or(i64::MAX, |to_us| end_of_days_us(to_us.saturating_sub(1)));
        let from_us = self.options.from_us.map_or(i64::MIN, first_us);
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
        planned: Option<Vec<Vec<DatePlan>>>,
        sink: &mut dyn SnapshotSink,
    ) -> Result<()> {
        let slices = self.threads * SLICES_PER_THREAD;
        let (views, entities) = Wanted::of(transforms.iter().copied());
        let keys = entities.iter().map(|_| SharedKeys::of_events()).collect();
        let gatherer = Gatherer {
            views,
            keys,
            from_us: bounds.start,
            before_us: bounds.end,
            slices,
            keeps_activity: true,
            keeps_known: false,
        };
        let shares = gatherer.read(reader, self.threads)?;
        let Gatherer { views, keys, .. } = gatherer;
        let Gathered { views: histories, activity, events, newest_us, .. } = Gathered::of(shares);
        self.summary.events += events;
        let indexes = keys.into_iter().map(SharedKeys::into_index).collect::<Result<Vec<_>>>()?;
        let ranks: Vec<Vec<u32>> = indexes.iter().map(byte_ranks).collect();
        let mut planned = planned.map(Vec::into_iter);
        for (wanted, history) in views.iter().zip(histories) {
            let asking = self.asking(wanted.transform, &history.prints, newest_us);
            let dirty = match planned.as_mut().and_then(Iterator::next) {
                // What was read now counts: more may have come since the events were surveyed.
                Some(mut dirty) => {
                    asking.renew(&mut dirty);
                    dirty
                }
                None => {
                    let plans = asking.plan(&There::new())?;
                    self.account(wanted.transform, &plans, sink)?;
                    plans.dirty
                }
            };
            let (index, ranks) = (&indexes[wanted.keys], &ranks[wanted.keys]);
            let instants = Instants::new(&activity[wanted.keys], ranks, &dirty, self.options);
            self.make_view(wanted.transform, &history, &instants, (index, slices), dirty, sink)?;
        }
        Ok(())
    }

    fn make_view(
        &mut self,
        transform: &Transform,
        history: &ViewHistory,
        instants: &Instants,
        (index, slices): (&KeyIndex, usize),
        dirty: Vec<DatePlan>,
        sink: &mut dyn SnapshotSink,
    ) -> Result<()> {
        let (def, view) = (transform.def(), self.view(transform));
        let features: Vec<usize> = (0..def.features.len()).collect();
        let arranged = arrange(history, slices, self.threads)?;
        let mut faults = Faults::default();
        let dates = self.summary.dates.entry(def.name.clone()).or_default();
        let rows = self.summary.rows.entry(def.name.clone()).or_default();
        let mut dirty: Vec<(DatePlan, DateRows)> = dirty.into_iter().map(|plan| (plan, DateRows::default())).collect();
        let mut completed = 0;
        let mut complete = |sink: &mut dyn SnapshotSink, dirty: &[(DatePlan, DateRows)], before: usize| {
            for (plan, rows) in &dirty[completed..before] {
                let date = SnapshotDate { inputs: plan.inputs.clone(), rows: rows.rows, faulty: rows.faulty };
                sink.complete(&view, plan.day_us, &date)?;
                dates.made += 1;
            }
            completed = completed.max(before);
            Ok::<(), Error>(())
        };
        instants.chunks(&mut |keys, as_of_us, done_before_us| {
            let asked = Asked {
                transform,
                features: &features,
                keys,
                as_of_us,
                max_age_us: self.options.max_age_us.or(def.ttl_us),
            };
            let (columns, faulty) = compute(asked, history, &arranged, index.len(), self.threads)?;
            faults.merge(faulty);
            *rows += keys.len() as u64;
            write_days(sink, &view, index, keys, as_of_us, &columns, &mut dirty)?;
            let done = dirty.partition_point(|(plan, _)| plan.day_us < done_before_us);
            complete(sink, &dirty, done)
        })?;
        complete(sink, &dirty, dirty.len())?;
        let (extract, finalize) = (&mut self.summary.extract_faults, &mut self.summary.finalize_faults);
        for (list, faults) in [(extract, history.faults.clone()), (finalize, faults)] {
            if faults.count > 0 {
                list.entry(def.name.clone()).or_default().merge(faults);
            }
        }
        Ok(())
    }
}

/// What a date has been given.
#[derive(Debug, Default)]
struct DateRows {
    rows: u64,
    faulty: u64,
}

/// Each key's place in the order of key bytes.
fn byte_ranks(index: &KeyIndex) -> Vec<u32> {
    let mut order: Vec<u32> = (0..index.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| index.get(a).cmp(index.get(b)));
    let mut ranks = vec![0; order.len()];
    order.iter().enumerate().for_each(|(rank, &key)| ranks[key as usize] = rank as u32);
    ranks
}

/// Takes labels: keys and instants, side by side, and the date (00:00 UTC, µs) before which all labels have been given.
type Visit<'a> = dyn FnMut(&[u32], &[i64], i64) -> Result<()> + 'a;

/// The generated labels: (instant, key), ordered by instant, then by key bytes.
#[derive(Debug)]
enum Instants {
    /// Those with an event since the snapshot before, or one per event.
    Listed(Vec<(i64, u32)>),
    /// Every found key at every step of the dates' ranges (first and last instant): keys by first event (first instant,
    /// key).
    All { firsts: Vec<(i64, u32)>, by_bytes: Vec<u32>, ranges: Vec<(i64, i64)>, step_us: i64 },
}

impl Instants {
    /// The labels of the planned dates.
    fn new(activity: &[(i64, u32)], ranks: &[u32], dates: &[DatePlan], options: &BackfillOptions) -> Self {
        let every = options.every;
        let ranges = dates.iter().map(|plan| (plan.inputs.first_us, plan.inputs.last_us));
        let by_rank = |&(instant_us, key): &(i64, u32)| (instant_us, ranks[key as usize]);
        let steps = activity.iter().map(|&(time_us, key)| (every.next_us(time_us), key));
        if !options.has_all() {
            let of_day: FxHashMap<i64, (i64, i64)> = dates.iter().map(|plan| plan.day_us).zip(ranges).collect();
            let is_asked = |&(instant_us, _): &(i64, u32)| {
                let range = of_day.get(&floor_to(instant_us, DAY_US));
                range.is_some_and(|&(first_us, last_us)| (first_us..=last_us).contains(&instant_us))
            };
            let mut listed: Vec<(i64, u32)> = steps.filter(is_asked).collect();
            listed.sort_unstable_by_key(by_rank);
            if every != Every::Event {
                listed.dedup();
            }
            return Instants::Listed(listed);
        }
        let mut firsts: Vec<(i64, u32)> = steps.collect();
        firsts.sort_unstable_by_key(by_rank);
        let mut seen = vec![false; ranks.len()];
        firsts.retain(|&(_, key)| !std::mem::replace(&mut seen[key as usize], true));
        let mut by_bytes = vec![0; ranks.len()];
        ranks.iter().enumerate().for_each(|(key, &rank)| by_bytes[rank as usize] = key as u32);
        Instants::All { firsts, by_bytes, ranges: ranges.collect(), step_us: every.grid_us() }
    }

    /// Visits all labels in order, some hundred thousand at a time.
    fn chunks(&self, visit: &mut Visit<'_>) -> Result<()> {
        let mut chunk = Chunk::default();
        match self {
            Instants::Listed(listed) => {
                for &(instant_us, key) in listed {
                    chunk.push(instant_us, key, visit)?;
                }
            }
            Instants::All { firsts, by_bytes, ranges, step_us } => {
                let mut first_us = vec![i64::MAX; by_bytes.len()];
                firsts.iter().for_each(|&(instant_us, key)| first_us[key as usize] = instant_us);
                for &(start_us, last_us) in ranges {
                    let mut instant_us = start_us;
                    while instant_us <= last_us {
                        for &key in by_bytes.iter().filter(|&&key| first_us[key as usize] <= instant_us) {
                            chunk.push(instant_us, key, visit)?;
                        }
                        instant_us = instant_us.saturating_add(*step_us);
                    }
                }
            }
        }
        chunk.visit(chunk.keys.len(), i64::MAX, visit)
    }
}

/// Labels on their way to be computed. It depends on a date's own labels alone how they are cut: so do its files.
#[derive(Debug, Default)]
struct Chunk {
    keys: Vec<u32>,
    as_of_us: Vec<i64>,
    /// Where the last date begins, and which it is.
    day_start: usize,
    day_us: i64,
}

impl Chunk {
    fn push(&mut self, instant_us: i64, key: u32, visit: &mut Visit<'_>) -> Result<()> {
        if self.keys.is_empty() || instant_us >= self.day_us.saturating_add(DAY_US) {
            let day_us = floor_to(instant_us, DAY_US);
            if self.keys.is_empty() || day_us != self.day_us {
                (self.day_start, self.day_us) = (self.keys.len(), day_us);
            }
        }
        if self.keys.len() == ROWS_PER_CHUNK {
            // The dates before go without the last one, unless it is alone.
            let end = if self.day_start > 0 { self.day_start } else { self.keys.len() };
            self.visit(end, self.day_us, visit)?;
        }
        self.keys.push(key);
        self.as_of_us.push(instant_us);
        Ok(())
    }

    fn visit(&mut self, end: usize, done_before_us: i64, visit: &mut Visit<'_>) -> Result<()> {
        if end > 0 {
            visit(&self.keys[..end], &self.as_of_us[..end], done_before_us)?;
            self.keys.drain(..end);
            self.as_of_us.drain(..end);
            self.day_start = 0;
        }
        Ok(())
    }
}

/// Hands rows that rise in time to the sink, a date at a time.
fn write_days(
    sink: &mut dyn SnapshotSink,
    view: &SnapshotView,
    index: &KeyIndex,
    keys: &[u32],
    as_of_us: &[i64],
    computed: &ViewColumns,
    dates: &mut [(DatePlan, DateRows)],
) -> Result<()> {
    let mut start = 0;
    for day in as_of_us.chunk_by(|&a, &b| floor_to(a, DAY_US) == floor_to(b, DAY_US)) {
        let (end, day_us) = (start + day.len(), floor_to(day[0], DAY_US));
        let planned = dates.binary_search_by_key(&day_us, |(plan, _)| plan.day_us);
        let (plan, given) = &mut dates[planned.map_err(|_| Error::internal("rows of a date that was not planned"))?];
        given.rows += day.len() as u64;
        given.faulty += computed.status[start..end].iter().filter(|&&status| status == Status::Error).count() as u64;
        let mut columns: Vec<Column> = view.key_fields.iter().map(|_| Column::new(&DataType::Utf8)).collect();
        for &key in &keys[start..end] {
            let key = EntityKey::from_bytes(index.get(key));
            let parts = key.parts(columns.len()).ok_or_else(|| Error::internal("an entity key lost its fields"))?;
            columns.iter_mut().zip(parts).for_each(|(column, part)| column.push_bytes(part));
        }
        let rows = SnapshotRows {
            day_us,
            position: plan.inputs.position.clone(),
            times_us: day.to_vec(),
            keys: columns,
            features: computed.features.iter().map(|column| column.take(start..end)).collect(),
        };
        sink.write(view, &rows)?;
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
