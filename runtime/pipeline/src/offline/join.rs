//! The point-in-time training set: features of each label's entities at the label's time.

use super::compute::{Asked, arrange, compute};
use super::gather::{Gathered, Gatherer, Wanted};
use super::keys::SharedKeys;
use super::select::{Selection, ViewSelection};
use super::{Faults, Labels, SLICES_PER_THREAD, Status, ViewColumns, thread_count};
use crate::port::EventReader;
use crate::{Error, Result};
use plumb_core::column::DataType;
use std::collections::BTreeMap;

/// Which events a label sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AsOf {
    /// Those strictly before its time.
    #[default]
    Before,
    /// Those at its time too: `Before` at 1 µs later.
    At,
}

/// What becomes of a label one of whose entities is not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColdStart {
    /// It stays, with nulls.
    #[default]
    Null,
    /// It is left out.
    Drop,
}

/// What is taken as known at a label's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Knowledge {
    /// Every accepted event with an earlier event time.
    #[default]
    EventTime,
    /// Those that had also been ingested before it: what could have been answered then. Batches of the readers must
    /// carry ingest times.
    Ingested,
}

/// How to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JoinOptions {
    /// Which events a label sees.
    pub as_of: AsOf,
    /// What becomes of labels with an entity that is not found.
    pub cold_start: ColdStart,
    /// What is taken as known.
    pub knowledge: Knowledge,
    /// Replaces every view's max age (µs).
    pub max_age_us: Option<i64>,
    /// How many threads; 0 = one per core.
    pub threads: usize,
}

/// A training set: the labels kept and their features.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSet {
    /// The labels kept, by row, ascending.
    pub rows: Vec<u32>,
    /// The asked views, in the order of the selection; one row per label kept.
    pub views: Vec<ViewColumns>,
    /// What happened.
    pub summary: JoinSummary,
}

/// What a join did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JoinSummary {
    /// Labels asked.
    pub rows_in: u64,
    /// Labels answered.
    pub rows_kept: u64,
    /// Labels left out because an entity was not found.
    pub rows_dropped: u64,
    /// Labels that lie after the last ingest time of a source they ask: what arrives before them will change their
    /// rows. Counted with [`Knowledge::Ingested`] only.
    pub rows_ahead: u64,
    /// Events read.
    pub events: u64,
    /// Per view with any: events it could not extract, among those of the labels' entities.
    pub extract_faults: BTreeMap<String, Faults>,
    /// Per view with any: rows whose `finalize` failed, which are null.
    pub finalize_faults: BTreeMap<String, Faults>,
}

impl Selection {
    /// The names and types of the output columns beside the labels': `view__feature` in the order asked, then
    /// `view__event_time`.
    pub fn column_types(&self) -> Vec<(String, DataType)> {
        let features = self.order.iter().map(|&(view, feature)| {
            let selected = &self.views[view];
            let (def, feature) = (selected.transform.def(), selected.features[feature]);
            (format!("{}__{}", def.name, def.features[feature].name), def.features[feature].data_type.clone())
        });
        let times = self.views.iter().map(|view| view.transform.def().name.as_str());
        features.chain(times.map(|view| (format!("{view}__event_time"), DataType::Timestamp))).collect()
    }
}

/// Computes the selected features for each label. `readers` holds one reader per source that the views name;
/// those used are read to their end.
pub fn join(
    readers: &mut BTreeMap<String, Box<dyn EventReader>>,
    selection: &Selection,
    labels: &Labels,
    options: &JoinOptions,
) -> Result<TrainingSet> {
    let threads = thread_count(options.threads);
    let as_of_us: Vec<i64> = match options.as_of {
        AsOf::Before => labels.times_us.clone(),
        AsOf::At => labels.times_us.iter().map(|time_us| time_us.saturating_add(1)).collect(),
    };
    let mut summary = JoinSummary { rows_in: labels.len() as u64, ..JoinSummary::default() };
    let mut views: Vec<Option<ViewColumns>> = vec![None; selection.views.len()];
    let mut known_until_us = i64::MAX;
    for (source, indices) in selection.by_source() {
        let reader = readers.get_mut(source).ok_or_else(|| {
            let view = &selection.views[indices[0]].transform.def().name;
            Error::invalid(format!("view `{view}` reads source `{source}`, for which no events were given"))
        })?;
        let asked: Vec<&ViewSelection> = indices.iter().map(|&index| &selection.views[index]).collect();
        let slices = threads * SLICES_PER_THREAD;
        let request = Request::new(&asked, labels, &as_of_us, options.knowledge, slices)?;
        let gathered = Gathered::of(request.gatherer.read(reader.as_mut(), threads)?);
        known_until_us = known_until_us.min(gathered.newest_known_us.unwrap_or(i64::MIN));
        let answered = request.answer(gathered, options.max_age_us, threads, &mut summary)?;
        for (index, columns) in indices.into_iter().zip(answered) {
            views[index] = Some(columns);
        }
    }
    let views: Vec<ViewColumns> = views.into_iter().flatten().collect();
    let cold = |row: usize| views.iter().any(|view| view.status[row] == Status::NotFound);
    let rows: Vec<u32> = match options.cold_start {
        ColdStart::Null => (0..labels.len() as u32).collect(),
        ColdStart::Drop => (0..labels.len() as u32).filter(|&row| !cold(row as usize)).collect(),
    };
    let views = if rows.len() < labels.len() { views.iter().map(|view| view.take(&rows)).collect() } else { views };
    summary.rows_kept = rows.len() as u64;
    summary.rows_dropped = summary.rows_in - summary.rows_kept;
    if options.knowledge == Knowledge::Ingested {
        // An event may still be ingested in the very µs of the last one.
        summary.rows_ahead = as_of_us.iter().filter(|&&time_us| time_us > known_until_us).count() as u64;
    }
    Ok(TrainingSet { rows, views, summary })
}

/// Labels asked of views that read one source.
#[derive(Debug)]
pub(super) struct Request<'a> {
    asked: &'a [&'a ViewSelection],
    as_of_us: &'a [i64],
    pub(super) gatherer: Gatherer<'a>,
    /// Per distinct entity key, each label's.
    label_keys: Vec<Vec<u32>>,
}

impl<'a> Request<'a> {
    pub(super) fn new(
        asked: &'a [&'a ViewSelection],
        labels: &Labels,
        as_of_us: &'a [i64],
        knowledge: Knowledge,
        slices: usize,
    ) -> Result<Self> {
        let (views, entities) = Wanted::of(asked.iter().map(|view| &view.transform));
        let (mut keys, mut label_keys) = (Vec::new(), Vec::new());
        for (index, fields) in entities.iter().enumerate() {
            let mut of_entity = views.iter().filter(|view| view.keys == index);
            let view = of_entity.clone().next().map_or("", |view| view.transform.def().name.as_str());
            let grows = of_entity.any(|view| !view.transform.plan().globals.is_empty());
            let columns = labels.key_columns(view, fields)?;
            let (shared, of_labels) = SharedKeys::of_labels(&columns, labels.len(), grows)?;
            keys.push(shared);
            label_keys.push(of_labels);
        }
        let before_us = as_of_us.iter().copied().max().unwrap_or(i64::MIN);
        let keeps_known = knowledge == Knowledge::Ingested;
        let gatherer = Gatherer { views, keys, from_us: i64::MIN, before_us, slices, activity: None, keeps_known };
        Ok(Self { asked, as_of_us, gatherer, label_keys })
    }

    /// The answers, one per view in the order asked.
    pub(super) fn answer(
        self,
        gathered: Gathered,
        max_age_us: Option<i64>,
        threads: usize,
        summary: &mut JoinSummary,
    ) -> Result<Vec<ViewColumns>> {
        let Gatherer { views, keys, slices, .. } = self.gatherer;
        let totals: Vec<usize> =
            keys.into_iter().map(|keys| keys.into_index().map(|index| index.len())).collect::<Result<_>>()?;
        summary.events += gathered.events;
        let mut answered = Vec::with_capacity(views.len());
        for ((selected, wanted), mut history) in self.asked.iter().zip(views).zip(gathered.views) {
            let def = selected.transform.def();
            let asked = Asked {
                transform: &selected.transform,
                features: &selected.features,
                keys: &self.label_keys[wanted.keys],
                as_of_us: self.as_of_us,
                max_age_us: max_age_us.or(def.ttl_us),
            };
            let arranged = arrange(&mut history, slices, threads)?;
            let (columns, faults) = compute(asked, &history, &arranged, totals[wanted.keys], threads)?;
            for (list, faults) in
                [(&mut summary.extract_faults, history.faults), (&mut summary.finalize_faults, faults)]
            {
                if faults.count > 0 {
                    list.entry(def.name.clone()).or_default().merge(faults);
                }
            }
            answered.push(columns);
        }
        Ok(answered)
    }
}
