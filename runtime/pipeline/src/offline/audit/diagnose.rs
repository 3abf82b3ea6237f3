//! What wrong values look like: the same feature, recomputed at other instants than the label's.

use super::history::History;
use super::naive::Sight;
use super::report::{FeatureAudit, Likeness};
use super::{Asked, Recomputed, is_same, recompute};
use crate::Result;
use crate::offline::{AsOf, Knowledge};
use plumb_core::column::{Column, Values};
use plumb_core::time::{DAY_US, HOUR_US, floor_to};

/// At most so many rows of a view are recomputed at every other instant; with more wrong rows, every n-th.
const EXAMINED_ROWS: usize = 10_000;

/// Floats that differ relatively by less than this are the same number, added in another order.
const ROUNDING: f64 = 1e-9;

/// The wrong values of one feature column.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The feature in its view.
    pub(super) feature: usize,
    /// Where its audit is.
    pub(super) audit: usize,
    /// The column as found, in the feature's type.
    pub(super) found: Column,
    /// The rows that are wrong, rising.
    pub(super) rows: Vec<usize>,
}

/// Says for each column with wrong values what they look like; `end_us` is just past the newest event.
pub(super) fn diagnose(
    history: &History<'_>,
    asked: &Asked<'_>,
    expected: &Recomputed,
    end_us: i64,
    wrong: &[Wrong],
    audits: &mut [FeatureAudit],
) -> Result<()> {
    let mut rows: Vec<usize> = wrong.iter().flat_map(|wrong| &wrong.rows).copied().collect();
    rows.sort_unstable();
    rows.dedup();
    let rows: Vec<usize> = rows.iter().step_by(rows.len().div_ceil(EXAMINED_ROWS).max(1)).copied().collect();
    let mut add = |wrong: &Wrong, likeness: Likeness, like: &mut dyn FnMut(usize, usize) -> bool| {
        let examined = rows.iter().enumerate().filter(|(_, row)| wrong.rows.binary_search(row).is_ok());
        let (mut all, mut alike) = (0, 0);
        for (index, &row) in examined {
            all += 1;
            alike += u64::from(like(index, row));
        }
        let audit = &mut audits[wrong.audit];
        audit.examined = all;
        if alike > 0 {
            audit.looks_like.insert(likeness, alike);
        }
    };
    for wrong in wrong {
        add(wrong, Likeness::Rounding, &mut |_, row| {
            let (column, at) = expected.value(wrong.feature, row);
            is_same(&wrong.found, row, column, at, ROUNDING)
        });
        add(wrong, Likeness::ZeroOrNull, &mut |_, row| {
            let (column, at) = expected.value(wrong.feature, row);
            is_nothing(&wrong.found, row) && is_nothing(column, at)
        });
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let request = &asked.request;
    let likenesses = [
        Likeness::NotYetIngested,
        Likeness::LabelInstant,
        Likeness::EndOfHour,
        Likeness::EndOfDay,
        Likeness::WholeHistory,
        Likeness::StartOfHour,
        Likeness::StartOfDay,
    ];
    let likenesses = likenesses.into_iter().filter(|&likeness| match likeness {
        Likeness::LabelInstant => request.as_of == AsOf::Before,
        Likeness::NotYetIngested => request.knowledge == Knowledge::Ingested,
        _ => true,
    });
    let likenesses: Vec<Likeness> = likenesses.collect();
    // All of them for a row together: its past is looked up once.
    let (mut of_rows, mut sights) = (Vec::new(), Vec::new());
    for &row in &rows {
        for &likeness in &likenesses {
            of_rows.push(row);
            sights.push(match likeness {
                Likeness::NotYetIngested => Sight { as_of_us: asked.as_of_us[row], known_before_us: i64::MAX },
                _ => asked.sight(instant(likeness, asked.label_us[row], end_us)),
            });
        }
    }
    let at = recompute(history, asked, &of_rows, &sights)?;
    for (number, &likeness) in likenesses.iter().enumerate() {
        for wrong in wrong {
            add(wrong, likeness, &mut |index, row| {
                let (column, at) = at.value(wrong.feature, index * likenesses.len() + number);
                is_same(&wrong.found, row, column, at, request.tolerance.max(ROUNDING))
            });
        }
    }
    Ok(())
}

/// The instant at which a value like that would have been right.
fn instant(likeness: Likeness, label_us: i64, end_us: i64) -> i64 {
    match likeness {
        Likeness::LabelInstant => label_us.saturating_add(1),
        Likeness::EndOfHour => floor_to(label_us, HOUR_US).saturating_add(HOUR_US),
        Likeness::EndOfDay => floor_to(label_us, DAY_US).saturating_add(DAY_US),
        Likeness::WholeHistory => end_us.max(label_us),
        Likeness::StartOfHour => floor_to(label_us, HOUR_US),
        Likeness::StartOfDay => floor_to(label_us, DAY_US),
        Likeness::Rounding | Likeness::ZeroOrNull | Likeness::NotYetIngested => label_us,
    }
}

/// Whether a value is null or zero or empty.
fn is_nothing(column: &Column, row: usize) -> bool {
    !column.is_valid(row)
        || match &column.values {
            Values::I64(values) | Values::Timestamp(values) => values[row] == 0,
            Values::F64(values) => values[row] == 0.0,
            Values::Bool(values) => values[row] == 0,
            Values::Utf8(strings) | Values::Bytes(strings) => strings.get(row).is_empty(),
            Values::List { offsets, .. } => offsets[row] == offsets[row + 1],
        }
}
