//! Online against offline: which features differ, for how many entities.

use plumb_core::column::{Column, Values};
use std::fmt;

/// When a difference counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckOptions {
    /// One differing bit of one entity flags a feature.
    pub exact: bool,
    /// The share of entities that may differ before a feature is flagged.
    pub max_share: f64,
    /// The relative difference up to which two numbers are taken as equal.
    pub max_relative: f64,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { exact: false, max_share: 0.05, max_relative: 0.05 }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsistencyReport {
    /// The entity's name.
    pub entity: String,
    /// How many entities were compared.
    pub checked: u64,
    /// Every feature compared, in order.
    pub features: Vec<FeatureDifference>,
    /// How many values were compared.
    pub compared_values: u64,
    /// How many of them were neither null nor zero nor empty on either side.
    pub non_zero_values: u64,
}

/// How one feature compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureDifference {
    /// `view:feature`.
    pub feature: String,
    /// How many entities differ.
    pub differing: u64,
    /// The first row that differs.
    pub example: Option<usize>,
    /// Whether that is too many.
    pub flagged: bool,
}

impl ConsistencyReport {
    /// Whether no feature is flagged.
    pub fn passed(&self) -> bool {
        self.features.iter().all(|feature| !feature.flagged)
    }

    /// The flagged features, in order.
    pub fn flagged(&self) -> Vec<&str> {
        self.features.iter().filter(|feature| feature.flagged).map(|feature| feature.feature.as_str()).collect()
    }
}

impl fmt::Display for ConsistencyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed() { "PASSED" } else { "FAILED" };
        let (entity, checked, flagged) = (&self.entity, self.checked, self.flagged().join(", "));
        write!(f, "ConsistencyReport [{verdict}] entity={entity} checked={checked} flagged_features=[{flagged}]")
    }
}

/// Compares the values of the same entities, row by row. `features` are names as `view:feature`; columns of one
/// feature have one type and as many rows as there are entities.
pub fn compare(
    entity: &str,
    features: &[String],
    online: &[Column],
    offline: &[Column],
    options: &CheckOptions,
) -> ConsistencyReport {
    let rows = online.first().map_or(0, Column::len);
    let mut report = ConsistencyReport {
        entity: entity.to_owned(),
        checked: rows as u64,
        features: Vec::with_capacity(features.len()),
        compared_values: 0,
        non_zero_values: 0,
    };
    for ((feature, online), offline) in features.iter().zip(online).zip(offline) {
        let mut difference =
            FeatureDifference { feature: feature.clone(), differing: 0, example: None, flagged: false };
        for row in 0..rows {
            report.compared_values += 1;
            report.non_zero_values += u64::from(is_something(online, row) || is_something(offline, row));
            let equal = same_bits(online, offline, row)
                || (!options.exact && is_close(online, offline, row, options.max_relative));
            if !equal {
                difference.differing += 1;
                difference.example.get_or_insert(row);
            }
        }
        difference.flagged = match options.exact {
            true => difference.differing > 0,
            false => difference.differing as f64 > options.max_share * rows as f64,
        };
        report.features.push(difference);
    }
    report
}

/// Whether a row holds the same value in both columns, to the bit.
pub fn same_bits(a: &Column, b: &Column, row: usize) -> bool {
    same_bits_at(a, row, b, row)
}

pub(super) fn same_bits_at(a: &Column, row_a: usize, b: &Column, row_b: usize) -> bool {
    if !a.is_valid(row_a) || !b.is_valid(row_b) {
        return a.is_valid(row_a) == b.is_valid(row_b);
    }
    match (&a.values, &b.values) {
        (Values::I64(a), Values::I64(b)) | (Values::Timestamp(a), Values::Timestamp(b)) => a[row_a] == b[row_b],
        (Values::F64(a), Values::F64(b)) => a[row_a].to_bits() == b[row_b].to_bits(),
        (Values::Bool(a), Values::Bool(b)) => a[row_a] == b[row_b],
        (Values::Utf8(a), Values::Utf8(b)) | (Values::Bytes(a), Values::Bytes(b)) => a.get(row_a) == b.get(row_b),
        (Values::List { offsets: a, child: of_a }, Values::List { offsets: b, child: of_b }) => {
            let (range_a, range_b) = (a[row_a]..a[row_a + 1], b[row_b]..b[row_b + 1]);
            range_a.len() == range_b.len()
                && range_a.zip(range_b).all(|(a, b)| same_bits_at(of_a, a as usize, of_b, b as usize))
        }
        _ => false,
    }
}

fn is_close(a: &Column, b: &Column, row: usize, max_relative: f64) -> bool {
    if !a.is_valid(row) || !b.is_valid(row) {
        return a.is_valid(row) == b.is_valid(row);
    }
    let number = |column: &Column| match &column.values {
        Values::I64(v) | Values::Timestamp(v) => Some(v[row] as f64),
        Values::F64(v) => Some(v[row]),
        _ => None,
    };
    match (number(a), number(b)) {
        (Some(a), Some(b)) => (a - b).abs() <= max_relative * a.abs().max(b.abs()),
        _ => false,
    }
}

fn is_something(column: &Column, row: usize) -> bool {
    column.is_valid(row)
        && match &column.values {
            Values::I64(v) | Values::Timestamp(v) => v[row] != 0,
            Values::F64(v) => v[row] != 0.0,
            Values::Bool(v) => v[row] != 0,
            Values::Utf8(v) | Values::Bytes(v) => !v.get(row).is_empty(),
            Values::List { offsets, .. } => offsets[row] < offsets[row + 1],
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(online: &[f64], offline: &[f64], options: CheckOptions) -> ConsistencyReport {
        let column = |values: &[f64]| Column::of(Values::F64(values.to_vec()));
        compare("user", &["v:f".to_owned()], &[column(online)], &[column(offline)], &options)
    }

    #[test]
    fn a_feature_is_flagged_past_both_limits() {
        let offline = vec![100.0; 100];
        let mut online = offline.clone();
        online[..5].fill(94.0);
        assert!(report(&online, &offline, CheckOptions::default()).passed(), "5 % of the entities may differ");
        online[5] = 95.0;
        assert!(report(&online, &offline, CheckOptions::default()).passed(), "5 % relative is close enough");
        online[5] = 94.9;
        let failed = report(&online, &offline, CheckOptions::default());
        assert_eq!(failed.to_string(), "ConsistencyReport [FAILED] entity=user checked=100 flagged_features=[v:f]");
        assert_eq!((failed.features[0].differing, failed.features[0].example), (6, Some(0)));
    }

    #[test]
    fn exact_flags_one_bit_and_zeros_are_counted_apart() {
        let exact = CheckOptions { exact: true, ..CheckOptions::default() };
        let failed = report(&[1.0, 0.0], &[1.0, -0.0], exact);
        assert_eq!((failed.flagged(), failed.compared_values, failed.non_zero_values), (vec!["v:f"], 2, 1));
        let passed = report(&[1.0, 0.0], &[1.0, 0.0], exact);
        assert_eq!(passed.to_string(), "ConsistencyReport [PASSED] entity=user checked=2 flagged_features=[]");
    }
}
