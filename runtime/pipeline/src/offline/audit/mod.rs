//! The leakage audit: recomputes a training set from history that ends strictly before each label.
//!
//! Two tests, from opposite sides. The first is what the values *should be*: it calls the component's `extract` and
//! `finalize`, but between them nothing that the join uses: `naive` scans an entity's contributions for every row and
//! follows the definitions word by word. What it finds wrong, `diagnose` recomputes at other instants (just after the
//! label, at the end of its day, …) to say what kind of leak it looks like. The second is whether the future *can
//! matter* (`truncate`): events from the label on are taken away before anything else sees them, the row is joined
//! again, and must not change.

mod diagnose;
mod history;
mod naive;
mod report;
mod truncate;

pub use report::{AGE_CLASSES, AgeAudit, FeatureAudit, LeakageReport, Likeness, Violation, ViolationKind};
pub use truncate::Truncate;

use super::check::same_bits_at;
use super::select::Selection;
use super::{AsOf, Budget, Knowledge, Labels, Status, thread_count};
use crate::decode::time::format_rfc3339;
use crate::parallel::in_threads;
use crate::port::EventReader;
use crate::{Error, Result};
use diagnose::{Wrong, diagnose};
use history::{History, SLICES, key_at, slice_of};
use naive::{Past, Sight};
use plumb_core::column::{Bitmap, Column, DataType, Values};
use plumb_transform::Transform;
use std::collections::{BTreeMap, BTreeSet};
use truncate::Cut;

/// Named columns of equal length, as read from a label or training-set file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Names and columns, in file order.
    pub columns: Vec<(String, Column)>,
}

impl Table {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|(known, _)| known == name).map(|(_, column)| column)
    }
}

/// What to audit.
#[derive(Debug, Clone, Copy)]
pub struct AuditRequest<'a> {
    /// The labels' times and keys.
    pub labels: &'a Labels,
    /// The label file's columns, the time and the keys included.
    pub label_table: &'a Table,
    /// The name of the label time.
    pub label_time: &'a str,
    /// The training set: rows of the labels, with columns `view__feature` and `view__event_time`.
    pub dataset: &'a Table,
    /// Which events a label may see.
    pub as_of: AsOf,
    /// Whether a label may see events that were ingested only after it. For `Ingested`, batches must carry ingest times.
    pub knowledge: Knowledge,
    /// Replaces every view's max age (µs).
    pub max_age_us: Option<i64>,
    /// The largest relative difference of floats that is none; 0 = equal to the bit.
    pub tolerance: f64,
    /// Which rows are also joined again from a history that ends at their label.
    pub truncate: Truncate,
    /// How many threads; 0 = one per core.
    pub threads: usize,
    /// How much memory the events may take, and where the rest of them goes. Nothing of the report depends on it.
    pub budget: Budget<'a>,
}

/// Recomputes every column `view__feature` of the training set that the transforms know and compares it; flags every
/// `…__event_time` at or after its label; joins rows again from a history cut at their label. A training set whose rows
/// are not a subsequence of the labels is the caller's mistake.
pub fn audit(
    readers: &mut BTreeMap<String, Box<dyn EventReader>>,
    transforms: &[Transform],
    request: AuditRequest<'_>,
) -> Result<LeakageReport> {
    let (labels, dataset) = (request.labels, request.dataset);
    let rows = label_rows(&request)?;
    let label_us: Vec<i64> = rows.iter().map(|&row| labels.times_us[row]).collect();
    let as_of_us: Vec<i64> = match request.as_of {
        AsOf::Before => label_us.clone(),
        AsOf::At => label_us.iter().map(|time_us| time_us.saturating_add(1)).collect(),
    };
    let asked = Asked { request, rows, label_us, as_of_us };
    let mut report = LeakageReport {
        rows_kept: asked.rows.len() as u64,
        rows_dropped: (labels.len() - asked.rows.len()) as u64,
        ..LeakageReport::default()
    };
    check_event_times(dataset, &asked.as_of_us, &mut report);
    let audited: Vec<Transform> = transforms.iter().filter(|view| has_columns(view, dataset)).cloned().collect();
    if audited.is_empty() {
        let names: Vec<&str> = transforms.iter().map(|view| view.def().name.as_str()).collect();
        let names = names.join("`, `");
        return Err(Error::invalid(format!("the training set has no column `view__feature` of a view of `{names}`")));
    }
    let selection = Selection::all(&audited);
    let mut truncated = BTreeSet::new();
    for (source, indices) in selection.by_source() {
        let reader = readers.get_mut(source).ok_or_else(|| {
            Error::invalid(format!("view `{}` reads source `{source}`, for which no events were given", {
                &selection.views[indices[0]].transform.def().name
            }))
        })?;
        // Half of it for the events; those of a slice take several times as much once they are looked at.
        let limit_bytes = usize::try_from(request.budget.bytes / 4).unwrap_or(usize::MAX) / indices.len();
        let mut histories = Vec::with_capacity(indices.len());
        let mut cuts = Vec::new();
        for &index in &indices {
            let transform = &selection.views[index].transform;
            let columns = labels.key_columns(&transform.def().name, &transform.def().entity.key)?;
            histories.push(History::new(transform, &columns, &asked.rows, request.budget.scratch, limit_bytes));
            cuts.push(Cut::new(transform, &columns, &asked)?);
        }
        let mut newest_us = i64::MIN;
        while let Some(batch) = reader.next_batch()? {
            newest_us = batch.times_us.iter().copied().fold(newest_us, i64::max);
            histories.iter_mut().try_for_each(|history| history.add(&batch))?;
            cuts.iter_mut().flatten().for_each(|cut| cut.add(&batch));
        }
        for history in &mut histories {
            history.ranked.sort();
            compare_view(history, &asked, newest_us.saturating_add(1), &mut report)?;
        }
        for (cut, history) in cuts.into_iter().zip(&histories) {
            if let Some(cut) = cut {
                truncated.extend(cut.compare(source, history, &asked, &mut report)?);
            }
        }
    }
    report.truncated_rows = truncated.len() as u64;
    Ok(report)
}

/// A request and which rows it asks for.
#[derive(Debug)]
struct Asked<'a> {
    request: AuditRequest<'a>,
    /// Per row of the training set, its label.
    rows: Vec<usize>,
    /// Their times.
    label_us: Vec<i64>,
    /// From which instant on each row must see nothing.
    as_of_us: Vec<i64>,
}

impl Asked<'_> {
    /// What may be seen at an instant.
    fn sight(&self, as_of_us: i64) -> Sight {
        let known_before_us = match self.request.knowledge {
            Knowledge::EventTime => i64::MAX,
            Knowledge::Ingested => as_of_us,
        };
        Sight { as_of_us, known_before_us }
    }

    fn thread_count(&self) -> usize {
        thread_count(self.request.threads)
    }
}

/// The columns an audit would compare, by the name they have in a training set, with their types: what a reader of
/// CSV needs to know.
pub fn expected_columns(transforms: &[Transform]) -> Vec<(String, DataType)> {
    let of_view = |transform: &Transform| {
        let def = transform.def().clone();
        let time = (format!("{}__event_time", def.name), DataType::Timestamp);
        let features = def.features.into_iter().map(move |feature| {
            let name = format!("{}__{}", def.name, feature.name);
            (name, feature.data_type)
        });
        features.chain(std::iter::once(time)).collect::<Vec<_>>()
    };
    transforms.iter().flat_map(of_view).collect()
}

fn has_columns(transform: &Transform, dataset: &Table) -> bool {
    let def = transform.def();
    def.features.iter().any(|feature| dataset.column(&format!("{}__{}", def.name, feature.name)).is_some())
}

/// Which label each row of the training set is, comparing all columns that both have.
fn label_rows(request: &AuditRequest<'_>) -> Result<Vec<usize>> {
    let (labels, dataset) = (request.label_table, request.dataset);
    let shared: Vec<(&str, &Column, &Column)> = dataset
        .columns
        .iter()
        .filter_map(|(name, of_dataset)| Some((name.as_str(), labels.column(name)?, of_dataset)))
        .collect();
    let needed = std::iter::once(request.label_time).chain(request.labels.keys.keys().map(String::as_str));
    for name in needed {
        if !shared.iter().any(|&(known, ..)| known == name) {
            let why = "the training set must carry the label time and the keys of its labels";
            return Err(Error::invalid(format!("column `{name}` is not in both files: {why}")));
        }
    }
    if let Some((name, of_labels, of_dataset)) =
        shared.iter().find(|(_, of_labels, of_dataset)| of_labels.data_type() != of_dataset.data_type())
    {
        let (a, b) = (of_labels.data_type().name(), of_dataset.data_type().name());
        return Err(Error::invalid(format!("column `{name}` is {a} in the labels and {b} in the training set")));
    }
    let mut next = 0;
    let mut rows = Vec::with_capacity(dataset.rows());
    for row in 0..dataset.rows() {
        let same = |label: usize| shared.iter().all(|&(_, a, b)| same_bits_at(a, label, b, row));
        match (next..labels.rows()).find(|&label| same(label)) {
            Some(label) => {
                rows.push(label);
                next = label + 1;
            }
            None => {
                let names: Vec<&str> = shared.iter().map(|&(name, ..)| name).collect();
                return Err(Error::invalid(format!(
                    "training-set row {} is no label, or not in the labels' order (compared: {})",
                    row + 1,
                    names.join(", ")
                )));
            }
        }
    }
    Ok(rows)
}

fn check_event_times(dataset: &Table, as_of_us: &[i64], report: &mut LeakageReport) {
    for (name, column) in dataset.columns.iter().filter(|(name, _)| name.ends_with("__event_time")) {
        let Some(times_us) = column.as_i64() else { continue };
        for (row, (&time_us, &as_of_us)) in times_us.iter().zip(as_of_us).enumerate() {
            if column.is_valid(row) && time_us >= as_of_us {
                report.add(ViolationKind::EventTime, name, || {
                    let (time, label) = (format_rfc3339(time_us), format_rfc3339(as_of_us));
                    format!("row {}: {time}, the label sees what is before {label}", row + 1)
                });
            }
        }
    }
}

/// Recomputes one view for every row and compares; `end_us` is just past the newest event.
fn compare_view(history: &History<'_>, asked: &Asked<'_>, end_us: i64, report: &mut LeakageReport) -> Result<()> {
    let request = &asked.request;
    let def = history.transform().def();
    let rows: Vec<usize> = (0..asked.rows.len()).collect();
    let sights: Vec<Sight> = asked.as_of_us.iter().map(|&as_of_us| asked.sight(as_of_us)).collect();
    let expected = recompute(history, asked, &rows, &sights)?;
    let mut wrong = Vec::new();
    for (index, feature) in def.features.iter().enumerate() {
        let name = format!("{}__{}", def.name, feature.name);
        let Some(found) = request.dataset.column(&name) else { continue };
        let found = coerced(&name, found, &feature.data_type)?;
        let mut rows = Vec::new();
        for row in 0..asked.rows.len() {
            let (column, at) = expected.value(index, row);
            if !is_same(&found, row, column, at, request.tolerance) {
                report.add(ViolationKind::Value, &name, || {
                    format!("row {}: {}, expected {}", row + 1, shown(&found, row), shown(column, at))
                });
                rows.push(row);
            }
        }
        report.compared_values += asked.rows.len() as u64;
        report.features.push(FeatureAudit {
            column: name,
            compared: asked.rows.len() as u64,
            violations: rows.len() as u64,
            examined: 0,
            looks_like: BTreeMap::new(),
        });
        if !rows.is_empty() {
            wrong.push(Wrong { feature: index, audit: report.features.len() - 1, found, rows });
        }
    }
    diagnose(history, asked, &expected, end_us, &wrong, &mut report.features)?;
    let name = format!("{}__event_time", def.name);
    let found = request.dataset.column(&name).filter(|column| column.data_type() == DataType::Timestamp);
    let found_us = |row: usize| {
        let found = found?;
        found.as_i64().filter(|_| found.is_valid(row)).map(|times_us| times_us[row])
    };
    for (row, &newest_us) in expected.newest_us.iter().enumerate().filter(|_| found.is_some()) {
        let time_us = found_us(row);
        // A time at or after the label is a class of its own.
        if time_us != newest_us && time_us.is_none_or(|time_us| time_us < asked.as_of_us[row]) {
            report.add(ViolationKind::NewestContribution, &name, || {
                let shown = |time_us: Option<i64>| time_us.map_or_else(|| "null".to_owned(), format_rfc3339);
                format!("row {}: {}, expected {}", row + 1, shown(time_us), shown(newest_us))
            });
        }
    }
    let ages = expected.newest_us.iter().enumerate().map(|(row, &newest_us)| {
        let newest_us = if found.is_some() { found_us(row) } else { newest_us };
        (asked.label_us[row], asked.as_of_us[row], newest_us)
    });
    report.ages.push(AgeAudit::of(&def.name, found.is_some(), ages));
    Ok(())
}

/// Features of some rows at some instants.
#[derive(Debug)]
struct Recomputed {
    /// Per row asked: whose share it was, and the row of its features; `None` = every feature null.
    places: Vec<(usize, Option<usize>)>,
    /// Per row asked, the newest contribution.
    newest_us: Vec<Option<i64>>,
    /// By share and feature.
    features: Vec<Vec<Column>>,
    /// By feature a single null.
    nothing: Vec<Column>,
}

impl Recomputed {
    /// A feature of the row asked for at `index`, as a column and a row of it.
    fn value(&self, feature: usize, index: usize) -> (&Column, usize) {
        match self.places[index] {
            (share, Some(at)) => (&self.features[share][feature], at),
            (_, None) => (&self.nothing[feature], 0),
        }
    }
}

/// About how many times as much memory events take once they are looked at as when they are kept.
const UNPACKED: usize = 8;

/// Computes a view as `sights[i]` sees it for the row `rows[i]`, a slice of keys at a time, in threads.
fn recompute(history: &History<'_>, asked: &Asked<'_>, rows: &[usize], sights: &[Sight]) -> Result<Recomputed> {
    let transform = history.transform();
    let def = transform.def();
    let max_age_us = asked.request.max_age_us.or(def.ttl_us);
    let columns = asked.request.labels.key_columns(&def.name, &def.entity.key)?;
    let mut of_slices: Vec<Vec<usize>> = vec![Vec::new(); SLICES];
    for (index, &row) in rows.iter().enumerate() {
        if let Some(key) = key_at(&columns, asked.rows[row]) {
            of_slices[slice_of(key.as_bytes())].push(index);
        }
    }
    let evaluate = |(slice, indices): (usize, Vec<usize>)| -> Result<_> {
        let keys = indices.iter().map(|&index| key_at(&columns, asked.rows[rows[index]]));
        let mut past = Past::new(transform, &history.ranked, keys.collect());
        history.each(slice, &mut |batch| past.add(&batch))?;
        past.sort();
        let mut scan = past.scan();
        let mut found_at = Vec::new();
        let mut of_rows = Vec::with_capacity(indices.len());
        for (row, &index) in indices.iter().enumerate() {
            let sight = sights[index];
            let newest_us = past.newest_us(row, sight);
            let outside = Status::is_outside_max_age(newest_us, sight.as_of_us, max_age_us);
            let place = (past.is_found(row, sight) && !outside).then(|| {
                scan.aggregate(row, sight);
                found_at.push(sight.as_of_us);
                found_at.len() - 1
            });
            of_rows.push((index, place, newest_us));
        }
        Ok((of_rows, transform.finalize(&found_at, &scan.into_columns()).features))
    };
    let tasks: Vec<_> = of_slices.into_iter().enumerate().filter(|(_, indices)| !indices.is_empty()).collect();
    let largest = tasks.iter().map(|&(slice, _)| history.bytes(slice)).collect::<Result<Vec<_>>>()?.into_iter().max();
    let room = usize::try_from(asked.request.budget.bytes / 2).unwrap_or(usize::MAX);
    let workers = (room / (UNPACKED * largest.unwrap_or(0)).max(1)).clamp(1, asked.thread_count());
    let evaluated = in_threads(workers, tasks, evaluate)?.into_iter().collect::<Result<Vec<_>>>()?;
    let mut places = vec![(0, None); rows.len()];
    let mut newest = vec![None; rows.len()];
    let mut features = Vec::with_capacity(evaluated.len());
    for (share, (of_rows, columns)) in evaluated.into_iter().enumerate() {
        for (index, place, newest_us) in of_rows {
            (places[index], newest[index]) = ((share, place), newest_us);
        }
        features.push(columns);
    }
    let nothing = def.features.iter().map(|feature| Column::nulls(&feature.data_type, 1));
    Ok(Recomputed { places, newest_us: newest, features, nothing: nothing.collect() })
}

/// A column of somebody's training set as the feature's type: other tools turn integers with nulls into floats.
fn coerced(name: &str, column: &Column, wanted: &DataType) -> Result<Column> {
    let same_type = column.data_type() == *wanted;
    let values = match (&column.values, wanted) {
        _ if same_type => return Ok(column.clone()),
        (Values::I64(v), DataType::F64) => Values::F64(v.iter().map(|&value| value as f64).collect()),
        (Values::F64(v), DataType::I64) if v.iter().all(|v| v.is_nan() || v.fract() == 0.0) => {
            let mut validity = Bitmap::new();
            v.iter().enumerate().for_each(|(row, value)| validity.push(column.is_valid(row) && !value.is_nan()));
            let values = Values::I64(v.iter().map(|&value| value as i64).collect());
            return Ok(Column { validity: Some(validity), values });
        }
        _ => {
            let found = column.data_type().name();
            let wanted = wanted.name();
            return Err(Error::invalid(format!("column `{name}` of the training set is {found}, expected {wanted}")));
        }
    };
    Ok(Column { validity: column.validity.clone(), values })
}

/// Whether two values are the same: to the bit, or as numbers no further apart than `tolerance`, relatively.
fn is_same(found: &Column, row: usize, expected: &Column, at: usize, tolerance: f64) -> bool {
    if same_bits_at(found, row, expected, at) {
        return true;
    }
    let number = |column: &Column, row: usize| match &column.values {
        Values::F64(values) if column.is_valid(row) => Some(values[row]),
        _ => None,
    };
    match (number(found, row), number(expected, at)) {
        (Some(a), Some(b)) => (a - b).abs() <= tolerance * a.abs().max(b.abs()),
        _ => false,
    }
}

/// A value for people.
fn shown(column: &Column, row: usize) -> String {
    if !column.is_valid(row) {
        return "null".to_owned();
    }
    match &column.values {
        Values::I64(v) => v[row].to_string(),
        Values::F64(v) => format!("{:?}", v[row]),
        Values::Bool(v) => (v[row] != 0).to_string(),
        Values::Timestamp(v) => format_rfc3339(v[row]),
        Values::Utf8(v) | Values::Bytes(v) => format!("{:?}", String::from_utf8_lossy(v.get(row))),
        Values::List { offsets, child } => {
            let elements = (offsets[row]..offsets[row + 1]).map(|element| shown(child, element as usize));
            format!("[{}]", elements.collect::<Vec<_>>().join(", "))
        }
    }
}
