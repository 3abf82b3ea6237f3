//! Snapshots of feature values over a range of instants: the join's kernel with generated labels.

use super::compute::{Asked, arrange, compute};
use super::gather::{Gathered, Gatherer, Wanted};
use super::keys::{KeyIndex, SharedKeys};
use super::{Faults, SLICES_PER_THREAD, thread_count};
use crate::port::{EventReader, SnapshotRows, SnapshotSink, SnapshotView};
use crate::{Error, Result};
use plumb_core::column::{Column, DataType};
use plumb_core::entity::EntityKey;
use plumb_core::time::{DAY_US, HOUR_US, floor_to};
use plumb_transform::Transform;
use std::collections::BTreeMap;

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

    fn step_us(self) -> Option<i64> {
        match self {
            Every::Event => None,
            Every::Hour => Some(HOUR_US),
            Every::Day => Some(DAY_US),
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
    /// How many threads; 0 = one per core.
    pub threads: usize,
}

/// What a backfill did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackfillSummary {
    /// Events read.
    pub events: u64,
    /// Per view: rows written.
    pub rows: BTreeMap<String, u64>,
    /// Per view with any: events it could not extract.
    pub extract_faults: BTreeMap<String, Faults>,
    /// Per view with any: rows whose `finalize` failed, which are null.
    pub finalize_faults: BTreeMap<String, Faults>,
}

/// Computes snapshots of every view and hands them to `sink`, which is told to finish at the end.
///
/// `readers` holds one reader per source that the views name; those used are read to their end.
pub fn backfill(
    readers: &mut BTreeMap<String, Box<dyn EventReader>>,
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
        let reader = readers.get_mut(source).ok_or_else(|| {
            let view = &transforms[0].def().name;
            Error::invalid(format!("view `{view}` reads source `{source}`, for which no events were given"))
        })?;
        backfill_source(reader.as_mut(), &transforms, options, sink, &mut summary)?;
    }
    sink.finish()?;
    Ok(summary)
}

fn backfill_source(
    reader: &mut dyn EventReader,
    transforms: &[&Transform],
    options: &BackfillOptions,
    sink: &mut dyn SnapshotSink,
    summary: &mut BackfillSummary,
) -> Result<()> {
    let threads = thread_count(options.threads);
    let slices = threads * SLICES_PER_THREAD;
    let (views, entities) = Wanted::of(transforms.iter().copied());
    let keys = entities.iter().map(|_| SharedKeys::of_events()).collect();
    let before_us = options.to_us.unwrap_or(i64::MAX);
    let gatherer = Gatherer { views, keys, before_us, slices, keeps_activity: true, keeps_known: false };
    let shares = gatherer.read(reader, threads)?;
    let Gatherer { views, keys, .. } = gatherer;
    let Gathered { views: histories, activity, events, newest_us, .. } = Gathered::of(shares);
    summary.events += events;
    let mut labels = Vec::with_capacity(keys.len());
    for (keys, activity) in keys.into_iter().zip(activity) {
        let index = keys.into_index()?;
        let ranks = byte_ranks(&index);
        labels.push((Instants::new(activity, &ranks, newest_us, options), index));
    }
    for (wanted, history) in views.iter().zip(histories) {
        let def = wanted.transform.def();
        let (instants, index) = &labels[wanted.keys];
        let view = SnapshotView {
            entity: def.entity.name.clone(),
            key_fields: def.entity.key.clone(),
            view: def.name.clone(),
            version_folder: wanted.transform.version_folder(),
            features: def.features.iter().map(|feature| (feature.name.clone(), feature.data_type.clone())).collect(),
        };
        let features: Vec<usize> = (0..def.features.len()).collect();
        let arranged = arrange(&history, slices, threads)?;
        let rows = summary.rows.entry(def.name.clone()).or_default();
        let mut faults = Faults::default();
        instants.chunks(&mut |keys, as_of_us| {
            let asked = Asked {
                transform: wanted.transform,
                features: &features,
                keys,
                as_of_us,
                max_age_us: options.max_age_us.or(def.ttl_us),
            };
            let (columns, faulty) = compute(asked, &history, &arranged, index.len(), threads)?;
            faults.merge(faulty);
            *rows += keys.len() as u64;
            write_days(sink, &view, index, keys, as_of_us, &columns.features)
        })?;
        for (list, faults) in [(&mut summary.extract_faults, history.faults), (&mut summary.finalize_faults, faults)] {
            if faults.count > 0 {
                list.entry(def.name.clone()).or_default().merge(faults);
            }
        }
    }
    Ok(())
}

/// Each key's place in the order of key bytes.
fn byte_ranks(index: &KeyIndex) -> Vec<u32> {
    let mut order: Vec<u32> = (0..index.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| index.get(a).cmp(index.get(b)));
    let mut ranks = vec![0; order.len()];
    order.iter().enumerate().for_each(|(rank, &key)| ranks[key as usize] = rank as u32);
    ranks
}

/// Takes labels: keys and instants, side by side.
type Visit<'a> = dyn FnMut(&[u32], &[i64]) -> Result<()> + 'a;

/// The generated labels: (instant, key), ordered by instant, then by key bytes.
#[derive(Debug)]
enum Instants {
    /// Those with an event since the snapshot before, or one per event.
    Listed(Vec<(i64, u32)>),
    /// Every found key at every step: keys by first event (first instant, key), and the range of instants.
    All { firsts: Vec<(i64, u32)>, by_bytes: Vec<u32>, from_us: i64, to_us: i64, step_us: i64 },
}

impl Instants {
    /// `newest_us` is the newest event's time: all entities get snapshots up to the same instant, also where the last
    /// events carry none of them.
    fn new(activity: Vec<(i64, u32)>, ranks: &[u32], newest_us: Option<i64>, options: &BackfillOptions) -> Self {
        let in_range = |instant_us: i64| {
            options.from_us.is_none_or(|from_us| instant_us >= from_us)
                && options.to_us.is_none_or(|to_us| instant_us < to_us)
        };
        let Some(step_us) = options.every.step_us() else {
            let instants = activity.into_iter().map(|(time_us, key)| (time_us.saturating_add(1), key));
            let mut listed: Vec<(i64, u32)> = instants.filter(|&(instant_us, _)| in_range(instant_us)).collect();
            listed.sort_unstable_by_key(|&(instant_us, key)| (instant_us, ranks[key as usize]));
            return Instants::Listed(listed);
        };
        // The first instant that sees an event is the next on the grid, strictly after it.
        let next = |time_us: i64| floor_to(time_us, step_us).saturating_add(step_us);
        let mut steps: Vec<(i64, u32)> = activity.into_iter().map(|(time_us, key)| (next(time_us), key)).collect();
        steps.sort_unstable_by_key(|&(instant_us, key)| (instant_us, ranks[key as usize]));
        steps.dedup();
        if options.entities == Entities::Active {
            steps.retain(|&(instant_us, _)| in_range(instant_us));
            return Instants::Listed(steps);
        }
        let (Some(&(first_us, _)), Some(newest_us)) = (steps.first(), newest_us) else {
            return Instants::Listed(Vec::new());
        };
        let from_us = options.from_us.map_or(first_us, |from_us| {
            let floor_us = floor_to(from_us, step_us);
            let aligned_us = if floor_us < from_us { floor_us.saturating_add(step_us) } else { floor_us };
            aligned_us.max(first_us)
        });
        let to_us = options.to_us.unwrap_or_else(|| next(newest_us).saturating_add(1));
        let mut seen = vec![false; ranks.len()];
        steps.retain(|&(_, key)| !std::mem::replace(&mut seen[key as usize], true));
        let mut by_bytes = vec![0; ranks.len()];
        ranks.iter().enumerate().for_each(|(key, &rank)| by_bytes[rank as usize] = key as u32);
        Instants::All { firsts: steps, by_bytes, from_us, to_us, step_us }
    }

    /// Visits all labels in order, some hundred thousand at a time.
    fn chunks(&self, visit: &mut Visit<'_>) -> Result<()> {
        let (mut keys, mut as_of_us) = (Vec::new(), Vec::new());
        match self {
            Instants::Listed(listed) => {
                for labels in listed.chunks(ROWS_PER_CHUNK) {
                    keys.clear();
                    as_of_us.clear();
                    keys.extend(labels.iter().map(|label| label.1));
                    as_of_us.extend(labels.iter().map(|label| label.0));
                    visit(&keys, &as_of_us)?;
                }
            }
            Instants::All { firsts, by_bytes, from_us, to_us, step_us } => {
                let mut first_us = vec![i64::MAX; by_bytes.len()];
                firsts.iter().for_each(|&(instant_us, key)| first_us[key as usize] = instant_us);
                let mut instant_us = *from_us;
                while instant_us < *to_us {
                    for &key in by_bytes.iter().filter(|&&key| first_us[key as usize] <= instant_us) {
                        keys.push(key);
                        as_of_us.push(instant_us);
                        if keys.len() == ROWS_PER_CHUNK {
                            visit(&keys, &as_of_us)?;
                            keys.clear();
                            as_of_us.clear();
                        }
                    }
                    instant_us = instant_us.saturating_add(*step_us);
                }
                if !keys.is_empty() {
                    visit(&keys, &as_of_us)?;
                }
            }
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
    features: &[Column],
) -> Result<()> {
    let mut start = 0;
    for day in as_of_us.chunk_by(|&a, &b| floor_to(a, DAY_US) == floor_to(b, DAY_US)) {
        let end = start + day.len();
        let mut columns: Vec<Column> = view.key_fields.iter().map(|_| Column::new(&DataType::Utf8)).collect();
        for &key in &keys[start..end] {
            let key = EntityKey::from_bytes(index.get(key));
            let parts = key.parts(columns.len()).ok_or_else(|| Error::internal("an entity key lost its fields"))?;
            columns.iter_mut().zip(parts).for_each(|(column, part)| column.push_bytes(part));
        }
        let rows = SnapshotRows {
            day_us: floor_to(day[0], DAY_US),
            times_us: day.to_vec(),
            keys: columns,
            features: features.iter().map(|column| column.take(start..end)).collect(),
        };
        sink.write(view, &rows)?;
        start = end;
    }
    Ok(())
}
