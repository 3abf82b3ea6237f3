//! The law of the boundary as a test: a row's result does not depend on the other rows of its batch.
//!
//! Online batches are small and those of a backfill large, so a transform that carries something from row to row
//! would give other features online than in training. Here the same rows are computed alone, in sevens, all at once
//! and in another order, and every row must give the same bits each time.

mod sample;

use crate::columns::same_bits;
use crate::transform::{Extracted, LoadedComponent, Transform};
use crate::{Error, Result};
use plumb_core::column::Column;
use plumb_core::contribution::Contributions;
use plumb_core::event::{EventBatch, Field, SourceSchema};
use plumb_core::view::ViewDef;
use std::collections::BTreeSet;
use std::sync::Arc;

pub use sample::{aggregates, events};

/// How many rows are generated for the check at load.
pub const SAMPLE_ROWS: usize = 64;

/// Checks that `extract` on the events of `sample`, and `finalize` on generated aggregates, are row-wise. An error
/// names the first row whose result depends on the rows around it.
pub fn check_row_wise(transform: &Transform, sample: &EventBatch) -> Result<()> {
    check_extract(transform, sample)?;
    check_finalize(transform)
}

/// Checks a component on generated events of the fields it declares.
pub(crate) fn check_generated(component: &LoadedComponent) -> Result<()> {
    let schema = Arc::new(declared_schema(&component.def));
    let transform = Transform::new(component.clone(), &schema, 0)?;
    check_row_wise(&transform, &events(&schema, SAMPLE_ROWS))
}

/// A source that has exactly the fields a view declares. Which of them is the time or the id only the real source
/// knows, and neither changes what `extract` sees.
fn declared_schema(def: &ViewDef) -> SourceSchema {
    let field = |name: &str, data_type, required| Field { name: name.to_owned(), data_type, required };
    let mut fields: Vec<Field> =
        def.fields.iter().map(|used| field(&used.name, used.data_type.clone(), used.required)).collect();
    for key in &def.entity.key {
        if !fields.iter().any(|field| field.name == *key) {
            fields.push(field(key, plumb_core::column::DataType::Utf8, false));
        }
    }
    // No field can have these names: they are not empty only so that messages can show them.
    SourceSchema {
        source: def.source.clone(),
        time_field: "(time)".into(),
        id_field: "(id)".into(),
        key_field: def.entity.key.first().cloned().unwrap_or_default(),
        fields,
    }
}

/// Row by row what `extract` says: the reason of its fault, or the contributions `begin..end`.
struct Outcome<'a> {
    contributions: &'a Contributions,
    range: std::ops::Range<usize>,
    fault: Option<&'a str>,
}

fn outcome(extracted: &Extracted, row: usize) -> Outcome<'_> {
    let rows = &extracted.contributions.rows;
    let begin = rows.partition_point(|&other| (other as usize) < row);
    let end = rows.partition_point(|&other| other as usize <= row);
    let fault = extracted.faults.iter().find(|fault| fault.row as usize == row);
    Outcome {
        contributions: &extracted.contributions,
        range: begin..end,
        fault: fault.map(|fault| fault.reason.as_str()),
    }
}

fn same_outcome(left: &Outcome<'_>, right: &Outcome<'_>) -> bool {
    left.fault == right.fault
        && left.range.len() == right.range.len()
        && left.range.clone().zip(right.range.clone()).all(|(a, b)| {
            left.contributions
                .slots
                .iter()
                .zip(&right.contributions.slots)
                .all(|(left, right)| same_bits(left, a, right, b))
        })
}

fn check_extract(transform: &Transform, sample: &EventBatch) -> Result<()> {
    let alone: Vec<Extracted> = (0..sample.len()).map(|row| transform.extract(&sample.take([row]))).collect();
    let reasons = alone.iter().map(|one| one.faults.first().map(|fault| fault.reason.clone()));
    for (name, cut) in cuts(&worth_mixing(reasons)) {
        for batch in cut {
            let together = transform.extract(&sample.take(batch.iter().copied()));
            for (index, &row) in batch.iter().enumerate() {
                if !same_outcome(&outcome(&alone[row], 0), &outcome(&together, index)) {
                    return Err(not_row_wise(transform, "extract", row, name));
                }
            }
        }
    }
    Ok(())
}

fn check_finalize(transform: &Transform) -> Result<()> {
    let (as_of_us, columns) = aggregates(transform.def(), SAMPLE_ROWS);
    let compute = |rows: &[usize]| {
        let instants: Vec<i64> = rows.iter().map(|&row| as_of_us[row]).collect();
        let columns: Vec<Column> = columns.iter().map(|column| column.take(rows.iter().copied())).collect();
        transform.finalize(&instants, &columns)
    };
    let alone: Vec<_> = (0..as_of_us.len()).map(|row| compute(&[row])).collect();
    let reasons = alone.iter().map(|one| one.faults.first().map(|fault| fault.reason.clone()));
    for (name, cut) in cuts(&worth_mixing(reasons)) {
        for batch in cut {
            let together = compute(&batch);
            for (index, &row) in batch.iter().enumerate() {
                let fault = together.faults.iter().find(|fault| fault.row as usize == index);
                let same_fault =
                    fault.map(|fault| &fault.reason) == alone[row].faults.first().map(|fault| &fault.reason);
                let same_features = alone[row]
                    .features
                    .iter()
                    .zip(&together.features)
                    .all(|(left, right)| same_bits(left, 0, right, index));
                if !(same_fault && same_features) {
                    return Err(not_row_wise(transform, "finalize", row, name));
                }
            }
        }
    }
    Ok(())
}

/// The rows to compute together: all that gave a result alone, and one of each kind of fault. Every fault costs
/// calls until it is isolated, and an endless loop costs a whole budget each time.
fn worth_mixing(reasons: impl Iterator<Item = Option<String>>) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    reasons
        .enumerate()
        .filter_map(|(row, reason)| reason.is_none_or(|reason| seen.insert(reason)).then_some(row))
        .collect()
}

/// The ways to cut and order `rows` that must not matter.
fn cuts(rows: &[usize]) -> [(&'static str, Vec<Vec<usize>>); 3] {
    // Neighbours of a shuffle by a stride are far apart, and come in falling order besides.
    let stride = 23;
    let shuffled = (0..stride).rev().flat_map(|first| rows.iter().copied().skip(first).step_by(stride)).collect();
    [
        ("in one batch with the others", vec![rows.to_vec()]),
        ("in a batch of seven", rows.chunks(7).map(<[usize]>::to_vec).collect()),
        ("in another order of rows", vec![shuffled]),
    ]
}

fn not_row_wise(transform: &Transform, function: &str, row: usize, how: &str) -> Error {
    let why = format!(
        "`{function}` gives sample row {row} another result alone than {how}; a row's result may depend on that row \
         only, so keep nothing from one row to the next"
    );
    Error::NotRowWise { view: transform.def().name.clone(), why }
}

#[cfg(test)]
mod tests;
