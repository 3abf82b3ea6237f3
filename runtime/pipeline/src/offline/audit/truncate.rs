//! The truncation test: a row joined again from a history that was cut at its label before anything else saw it must
//! be the row of the training set. It needs no definition of a window: whatever uses an event from the label on,
//! in the join, in `extract` or in `finalize`, shows as a row that changes.

use super::history::History;
use super::report::{LeakageReport, ViolationKind};
use super::{Asked, coerced, is_same, shown};
use crate::offline::select::Selection;
use crate::offline::{
    Budget, JoinOptions, Knowledge, LabelReader, Labels, TrainingPart, TrainingSink, ViewColumns, join_within,
};
use crate::port::EventReader;
use crate::{Error, Result};
use hashbrown::HashMap;
use plumb_core::column::Column;
use plumb_core::entity::EntityKey;
use plumb_core::event::EventBatch;
use plumb_transform::Transform;
use rustc_hash::FxBuildHasher;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// At most so many rows of a view with a rank over all entities: each needs the whole history anew.
const GLOBAL_ROWS: usize = 16;

/// Which rows are joined again from a cut history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncate {
    /// So many, spread evenly over the training set.
    Rows(usize),
    /// Every one; of views that rank over all entities a few only, since each such row takes the whole history anew.
    All,
}

/// The events of one view that rows to be joined again may need.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    transform: &'a Transform,
    /// The rows of the training set, rising, with their entity keys; a null key has no events.
    rows: Vec<(usize, Option<EntityKey>)>,
    /// Whether events of other entities count too.
    is_global: bool,
    /// No event from here on can matter to any row.
    before_us: i64,
    kept: Option<EventBatch>,
    /// Rows of `kept` by entity, in the order read.
    by_key: HashMap<EntityKey, Vec<usize>, FxBuildHasher>,
}

impl<'a> Cut<'a> {
    /// Nothing kept yet; `None` if no row is to be joined again.
    pub(super) fn new(transform: &'a Transform, keys: &[&Column], asked: &Asked<'_>) -> Result<Option<Self>> {
        let is_global = !transform.plan().globals.is_empty();
        let count = match asked.request.truncate {
            Truncate::Rows(count) => count,
            Truncate::All => asked.rows.len(),
        };
        let count = if is_global { count.min(GLOBAL_ROWS) } else { count }.min(asked.rows.len());
        if count == 0 {
            return Ok(None);
        }
        let mut by_key: HashMap<EntityKey, Vec<usize>, FxBuildHasher> = HashMap::default();
        let mut rows = Vec::with_capacity(count);
        for index in 0..count {
            let row = index * asked.rows.len() / count;
            let label = asked.rows[row];
            let parts: Option<Vec<&[u8]>> = keys.iter().map(|column| column.str_bytes(label)).collect();
            let key = parts.map(|parts| EntityKey::from_parts(&parts));
            if let Some(key) = &key {
                by_key.entry(key.clone()).or_default();
            }
            rows.push((row, key));
        }
        let before_us = rows.iter().map(|&(row, _)| asked.as_of_us[row]).max().unwrap_or(i64::MIN);
        Ok(Some(Self { transform, rows, is_global, before_us, kept: None, by_key }))
    }

    /// Takes in a batch of accepted events. Where events of all entities count they are in the view's history.
    pub(super) fn add(&mut self, batch: &EventBatch) {
        if self.is_global {
            return;
        }
        let columns: Vec<&Column> = self.transform.key_columns().iter().map(|&at| &batch.columns[at]).collect();
        let kept = self.kept.get_or_insert_with(|| EventBatch::new(batch.schema.clone()));
        for row in (0..batch.len()).filter(|&row| batch.times_us[row] < self.before_us) {
            let parts: Option<Vec<&[u8]>> = columns.iter().map(|column| column.str_bytes(row)).collect();
            let rows = parts.and_then(|parts| self.by_key.get_mut(&EntityKey::from_parts(&parts)));
            if let Some(rows) = rows {
                rows.push(kept.len());
                kept.push_from(batch, row);
            }
        }
    }

    /// Joins the rows again, each from what was before its label, and compares; returns the rows.
    pub(super) fn compare(
        self,
        source: &str,
        history: &History<'_>,
        asked: &Asked<'_>,
        report: &mut LeakageReport,
    ) -> Result<Vec<usize>> {
        let def = self.transform.def();
        let request = &asked.request;
        let mut columns = Vec::new();
        for (index, feature) in def.features.iter().enumerate() {
            let name = format!("{}__{}", def.name, feature.name);
            if let Some(found) = request.dataset.column(&name) {
                columns.push((index, coerced(&name, found, &feature.data_type)?, name));
            }
        }
        let selection = Selection::all(std::slice::from_ref(self.transform));
        // Rows differ much in the length of their history: each thread takes the next one.
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, Vec<Column>)>> {
            let mut joined = Vec::new();
            while let Some((row, key)) = self.rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                joined.push((*row, self.join_again(*row, key.as_ref(), source, history, asked, &selection)?));
            }
            Ok(joined)
        };
        let mut joined: Vec<(usize, Vec<Column>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..asked.thread_count()).map(|_| scope.spawn(work)).collect();
            let shares = workers.into_iter().map(|worker| {
                worker.join().unwrap_or_else(|_| Err(Error::internal("a worker of the truncation test panicked")))
            });
            shares.collect::<Result<Vec<_>>>()
        })?
        .concat();
        joined.sort_by_key(|&(row, _)| row);
        for (row, features) in &joined {
            for (index, found, name) in &columns {
                report.truncated_values += 1;
                if !is_same(found, *row, &features[*index], 0, request.tolerance) {
                    report.add(ViolationKind::Truncation, name, || {
                        let cut = shown(&features[*index], 0);
                        format!("row {}: {}, from the cut history {cut}", row + 1, shown(found, *row))
                    });
                }
            }
        }
        Ok(joined.into_iter().map(|(row, _)| row).collect())
    }

    /// The view's features of a row, from events before its instant only.
    fn join_again(
        &self,
        row: usize,
        key: Option<&EntityKey>,
        source: &str,
        history: &History<'_>,
        asked: &Asked<'_>,
        selection: &Selection,
    ) -> Result<Vec<Column>> {
        let label = asked.rows[row];
        let (as_of_us, knowledge) = (asked.as_of_us[row], asked.request.knowledge);
        let labels = Labels {
            times_us: vec![asked.label_us[row]],
            keys: asked.request.labels.keys.iter().map(|(name, of)| (name.clone(), of.take([label]))).collect(),
        };
        let options = JoinOptions {
            as_of: asked.request.as_of,
            max_age_us: asked.request.max_age_us,
            knowledge: asked.request.knowledge,
            threads: 1,
            ..JoinOptions::default()
        };
        let reader: Box<dyn EventReader + '_> = if self.is_global {
            Box::new(history.reader(move |batch| cut(&batch, 0..batch.len(), as_of_us, knowledge)))
        } else {
            let rows = || key.and_then(|key| self.by_key.get(key)).into_iter().flatten().copied();
            Box::new(Once(self.kept.as_ref().map(|kept| cut(kept, rows(), as_of_us, knowledge))))
        };
        let mut readers = BTreeMap::from([(source.to_owned(), reader)]);
        let budget = Budget {
            bytes: asked.request.budget.bytes / asked.thread_count() as u64,
            progress: None,
            ..asked.request.budget
        };
        let (mut one, mut rows) = (One(Some(labels)), Rows(Vec::new()));
        join_within(&mut readers, selection, &mut one, &options, budget, &mut rows)?;
        let view = rows.0.pop();
        Ok(view.ok_or_else(|| Error::internal("the join of a view gave no view"))?.features)
    }
}

/// Those of some events that a row may see, alone in a batch.
fn cut(kept: &EventBatch, rows: impl Iterator<Item = usize>, as_of_us: i64, knowledge: Knowledge) -> EventBatch {
    let knows_all = knowledge == Knowledge::EventTime;
    let is_seen = |&at: &usize| kept.times_us[at] < as_of_us && (knows_all || kept.record_times_us[at] < as_of_us);
    kept.take(rows.filter(is_seen))
}

/// One label.
struct One(Option<Labels>);

impl LabelReader for One {
    fn next_labels(&mut self) -> Result<Option<Labels>> {
        Ok(self.0.take())
    }
}

/// The rows joined last.
struct Rows(Vec<ViewColumns>);

impl TrainingSink for Rows {
    fn write(&mut self, part: &dyn TrainingPart) -> Result<()> {
        self.0 = part.views()?;
        Ok(())
    }
}

/// A reader of one batch.
struct Once(Option<EventBatch>);

impl EventReader for Once {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.0.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::testing::{Event, batch};

    #[test]
    fn a_cut_history_holds_nothing_from_the_label_on() {
        let event = |time_us, ingest_us| Event { time_us, ingest_us, ..Event::default() };
        // The join would leave these out by itself; here they must be gone before it is asked.
        let kept = batch(&[event(1, 1), event(2, 9), event(5, 5), event(4, 4), event(7, 7)]);
        let times = |knowledge| cut(&kept, 0..kept.len(), 5, knowledge).times_us;
        assert_eq!(times(Knowledge::EventTime), [1, 2, 4]);
        assert_eq!(times(Knowledge::Ingested), [1, 4]);
        assert_eq!(cut(&kept, [3, 4].into_iter(), 5, Knowledge::EventTime).times_us, [4]);
    }
}
