//! Features of a few entities at past instants, computed from the archive.

use super::gather::Gathered;
use super::join::{JoinSummary, Knowledge, Request};
use super::select::{Selection, ViewSelection};
use super::{Labels, ViewColumns, needed_columns};
use crate::port::{Archive, ArchiveScan};
use crate::{Error, Result};
use plumb_core::column::Column;
use plumb_transform::Transform;
use std::collections::BTreeMap;

/// What to read from the archive.
#[derive(Debug, Clone, Copy)]
pub struct AtRequest<'a> {
    /// The features.
    pub selection: &'a Selection,
    /// One row per entity (or combination of entities): its keys and the instant T.
    pub rows: &'a Labels,
    /// Replaces every view's max age (µs).
    pub max_age_us: Option<i64>,
}

/// Computes features from committed events, one row per row of the request: the same values as a join
/// against these events. `scans` says per source which files and positions to read; columns, times and
/// keys are narrowed here to what can matter.
pub fn at(
    archive: &dyn Archive,
    scans: &BTreeMap<String, ArchiveScan>,
    request: AtRequest<'_>,
) -> Result<Vec<ViewColumns>> {
    let views = &request.selection.views;
    let mut answered: Vec<Option<ViewColumns>> = vec![None; views.len()];
    let mut summary = JoinSummary::default();
    for (source, indices) in request.selection.by_source() {
        let scan = scans
            .get(source)
            .ok_or_else(|| Error::internal(format!("source `{source}` has no archive to compute past values from")))?;
        // Views of one entity share a scan, which can then be narrowed to the entity asked.
        let mut entities: BTreeMap<&[String], Vec<usize>> = BTreeMap::new();
        for index in indices {
            entities.entry(&views[index].transform.def().entity.key).or_default().push(index);
        }
        for indices in entities.into_values() {
            let asked: Vec<&ViewSelection> = indices.iter().map(|&index| &views[index]).collect();
            let of_scan = Request::new(&asked, request.rows, &request.rows.times_us, Knowledge::EventTime, 1)?;
            let mut share = of_scan.gatherer.share();
            let transforms: Vec<&Transform> = asked.iter().map(|view| &view.transform).collect();
            let scan = narrowed(scan, &transforms, request.rows)?;
            archive.scan(transforms[0].schema(), &scan, &mut |partition, batch| {
                of_scan.gatherer.add(&mut share, partition, &batch)
            })?;
            let columns = of_scan.answer(Gathered::of(vec![share]), request.max_age_us, 1, &mut summary)?;
            for (index, columns) in indices.into_iter().zip(columns) {
                answered[index] = Some(columns);
            }
        }
    }
    Ok(answered.into_iter().flatten().collect())
}

/// A scan of only the columns, times and entity that views with one entity key can need.
fn narrowed(scan: &ArchiveScan, transforms: &[&Transform], rows: &Labels) -> Result<ArchiveScan> {
    let mut scan = scan.clone();
    scan.columns = Some(needed_columns(transforms.iter().copied()));
    let before_us = rows.times_us.iter().copied().max().unwrap_or(i64::MIN);
    let (start_us, end_us) = scan.event_time_us.unwrap_or((i64::MIN, i64::MAX));
    scan.event_time_us = Some((start_us, end_us.min(before_us)));
    let first = transforms[0];
    let is_global = transforms.iter().any(|transform| !transform.plan().globals.is_empty());
    if let (&[column], false) = (first.key_columns(), is_global) {
        let keys = rows.key_columns(&first.def().name, &first.def().entity.key)?;
        if let Some(only) = only_value(keys[0]) {
            scan.equals = Some((column, only));
        }
    }
    Ok(scan)
}

/// The one string that a column holds, nulls aside.
fn only_value(column: &Column) -> Option<String> {
    let mut values = (0..column.len()).filter_map(|row| column.str_bytes(row));
    let first = values.next()?;
    values.all(|value| value == first).then(|| String::from_utf8_lossy(first).into_owned())
}
