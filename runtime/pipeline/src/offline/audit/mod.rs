//! The leakage audit: recomputes a training set from history that ends strictly before each label.
//!
//! It calls the component's `extract` and `finalize`, but between them nothing that the join uses: [`naive`]
//! scans an entity's contributions for every row and follows the definitions word by word.

mod naive;

use super::check::same_bits_at;
use super::select::Selection;
use super::{AsOf, Labels, Status, thread_count};
use crate::port::EventReader;
use crate::{Error, Result};
use naive::Past;
use plumb_core::column::{Bitmap, Column, DataType, Values};
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::fmt;

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
    /// Replaces every view's max age (µs).
    pub max_age_us: Option<i64>,
    /// How many threads; 0 = one per core.
    pub threads: usize,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeakageReport {
    /// Rows of the training set.
    pub rows_kept: u64,
    /// Labels that are not in it.
    pub rows_dropped: u64,
    /// Feature columns compared.
    pub columns: Vec<String>,
    /// Values compared.
    pub compared_values: u64,
    /// By class, what was found.
    pub violations: BTreeMap<String, Violation>,
}

/// Violations of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// How many values.
    pub count: u64,
    /// The first, for people: row, found and expected value.
    pub example: String,
}

impl LeakageReport {
    /// Whether nothing was found.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// The number of violations of all classes.
    pub fn violation_count(&self) -> u64 {
        self.violations.values().map(|violation| violation.count).sum()
    }

    fn add(&mut self, class: String, example: impl FnOnce() -> String) {
        match self.violations.get_mut(&class) {
            Some(violation) => violation.count += 1,
            None => {
                self.violations.insert(class, Violation { count: 1, example: example() });
            }
        }
    }
}

impl fmt::Display for LeakageReport {
    /// The report's line, then one line per class.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed() { "PASSED" } else { "FAILED" };
        let (kept, dropped, count) = (self.rows_kept, self.rows_dropped, self.violation_count());
        write!(f, "LeakageReport [{verdict}] rows_kept={kept} rows_dropped={dropped} violations={count}")?;
        for (class, violation) in &self.violations {
            write!(f, "\n  {class}: {} values, e.g. {}", violation.count, violation.example)?;
        }
        Ok(())
    }
}

/// Recomputes every column `view__feature` of the training set that the transforms know and compares it to the
/// bit; flags every `…__event_time` at or after its label. A training set whose rows are not a subsequence of
/// the labels is the caller's mistake.
pub fn audit(
    readers: &mut BTreeMap<String, Box<dyn EventReader>>,
    transforms: &[Transform],
    request: AuditRequest<'_>,
) -> Result<LeakageReport> {
    let (labels, dataset) = (request.labels, request.dataset);
    let rows = label_rows(&request)?;
    let as_of_us: Vec<i64> = rows
        .iter()
        .map(|&row| match request.as_of {
            AsOf::Before => labels.times_us[row],
            AsOf::At => labels.times_us[row].saturating_add(1),
        })
        .collect();
    let mut report = LeakageReport {
        rows_kept: rows.len() as u64,
        rows_dropped: (labels.len() - rows.len()) as u64,
        ..LeakageReport::default()
    };
    check_event_times(dataset, &as_of_us, &mut report);
    let audited: Vec<Transform> = transforms.iter().filter(|view| has_columns(view, dataset)).cloned().collect();
    if audited.is_empty() {
        let names: Vec<&str> = transforms.iter().map(|view| view.def().name.as_str()).collect();
        let names = names.join("`, `");
        return Err(Error::invalid(format!("the training set has no column `view__feature` of a view of `{names}`")));
    }
    let selection = Selection::all(&audited);
    for (source, indices) in selection.by_source() {
        let reader = readers.get_mut(source).ok_or_else(|| {
            Error::invalid(format!("view `{}` reads source `{source}`, for which no events were given", {
                &selection.views[indices[0]].transform.def().name
            }))
        })?;
        let mut pasts = Vec::with_capacity(indices.len());
        for &index in &indices {
            let transform = &selection.views[index].transform;
            let columns = labels.key_columns(&transform.def().name, &transform.def().entity.key)?;
            pasts.push(Past::new(transform, &columns, &rows, &as_of_us));
        }
        while let Some(batch) = reader.next_batch()? {
            pasts.iter_mut().for_each(|past| past.add(&batch));
        }
        for mut past in pasts {
            past.sort();
            compare_view(&past, &request, &as_of_us, &mut report)?;
        }
    }
    Ok(report)
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
                report.add(format!("`{name}` is not before the label"), || {
                    format!("row {}: {time_us} µs, the label sees what is before {as_of_us} µs", row + 1)
                });
            }
        }
    }
}

/// Recomputes one view for every row, in threads, and compares.
fn compare_view(
    past: &Past<'_>,
    request: &AuditRequest<'_>,
    as_of_us: &[i64],
    report: &mut LeakageReport,
) -> Result<()> {
    let def = past.transform().def();
    let max_age_us = request.max_age_us.or(def.ttl_us);
    // Rows by time, so that neighbours share a distribution of ranks.
    let mut order: Vec<usize> = (0..as_of_us.len()).collect();
    order.sort_by_key(|&row| as_of_us[row]);
    let threads = thread_count(request.threads);
    let shares: Vec<&[usize]> = order.chunks(order.len().div_ceil(threads).max(1)).collect();
    let evaluated: Vec<Evaluated> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            shares.iter().map(|rows| scope.spawn(|| evaluate(past, rows, as_of_us, max_age_us))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| Error::internal("a worker of the audit panicked")))
            .collect::<Result<_>>()
    })?;
    // Where each row's expected values are: share, and row of its features.
    let mut places: Vec<(usize, Option<usize>, Option<i64>)> = vec![(0, None, None); as_of_us.len()];
    for (share, (rows, evaluated)) in shares.iter().zip(&evaluated).enumerate() {
        for ((&row, &at), &newest_us) in rows.iter().zip(&evaluated.places).zip(&evaluated.newest_us) {
            places[row] = (share, at, newest_us);
        }
    }
    for (index, feature) in def.features.iter().enumerate() {
        let name = format!("{}__{}", def.name, feature.name);
        let Some(found) = request.dataset.column(&name) else { continue };
        let found = coerced(&name, found, &feature.data_type)?;
        report.columns.push(name.clone());
        let nothing = Column::nulls(&feature.data_type, 1);
        for (row, &(share, at, _)) in places.iter().enumerate() {
            let (expected, at) = at.map_or((&nothing, 0), |at| (&evaluated[share].features[index], at));
            report.compared_values += 1;
            if !same_bits_at(&found, row, expected, at) {
                report.add(format!("`{name}` is not what history before the label gives"), || {
                    format!("row {}: {}, expected {}", row + 1, shown(&found, row), shown(expected, at))
                });
            }
        }
    }
    let name = format!("{}__event_time", def.name);
    if let Some(found) = request.dataset.column(&name) {
        for (row, &(_, _, newest_us)) in places.iter().enumerate() {
            let time_us = found.as_i64().filter(|_| found.is_valid(row)).map(|times_us| times_us[row]);
            // A time at or after the label is a class of its own.
            if time_us != newest_us && time_us.is_none_or(|time_us| time_us < as_of_us[row]) {
                report.add(format!("`{name}` is not the newest contribution before the label"), || {
                    format!("row {}: {time_us:?} µs, expected {newest_us:?} µs", row + 1)
                });
            }
        }
    }
    Ok(())
}

/// What one thread expects of its rows.
#[derive(Debug)]
struct Evaluated {
    /// Per row, the row of `features`; `None` = every feature null.
    places: Vec<Option<usize>>,
    newest_us: Vec<Option<i64>>,
    features: Vec<Column>,
}

fn evaluate(past: &Past<'_>, rows: &[usize], as_of_us: &[i64], max_age_us: Option<i64>) -> Evaluated {
    let mut scan = past.scan();
    let mut instants = Vec::new();
    let mut places = Vec::with_capacity(rows.len());
    let mut newest = Vec::with_capacity(rows.len());
    for &row in rows {
        let newest_us = past.newest_us(row);
        newest.push(newest_us);
        if past.is_found(row) && !Status::is_outside_max_age(newest_us, as_of_us[row], max_age_us) {
            places.push(Some(instants.len()));
            instants.push(as_of_us[row]);
            scan.aggregate(row);
        } else {
            places.push(None);
        }
    }
    let features = past.transform().finalize(&instants, &scan.into_columns()).features;
    Evaluated { places, newest_us: newest, features }
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

/// A value for people.
fn shown(column: &Column, row: usize) -> String {
    if !column.is_valid(row) {
        return "null".to_owned();
    }
    match &column.values {
        Values::I64(v) => v[row].to_string(),
        Values::F64(v) => format!("{:?}", v[row]),
        Values::Bool(v) => (v[row] != 0).to_string(),
        Values::Timestamp(v) => format!("{} µs", v[row]),
        Values::Utf8(v) | Values::Bytes(v) => format!("{:?}", String::from_utf8_lossy(v.get(row))),
        Values::List { offsets, child } => {
            let elements = (offsets[row]..offsets[row + 1]).map(|element| shown(child, element as usize));
            format!("[{}]", elements.collect::<Vec<_>>().join(", "))
        }
    }
}
