//! What an audit found, for programs and people.

use plumb_core::time::{DAY_US, HOUR_US, MINUTE_US, SECOND_US};
use std::collections::BTreeMap;
use std::fmt;

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeakageReport {
    /// Rows of the training set.
    pub rows_kept: u64,
    /// Labels that are not in it.
    pub rows_dropped: u64,
    /// Feature columns compared, in the order of the views.
    pub features: Vec<FeatureAudit>,
    /// Values compared.
    pub compared_values: u64,
    /// Rows that were also joined again from a history cut at their label.
    pub truncated_rows: u64,
    /// Values compared with those.
    pub truncated_values: u64,
    /// By class, what was found.
    pub violations: BTreeMap<String, Violation>,
    /// How old the views' newest contributions are at the labels.
    pub ages: Vec<AgeAudit>,
}

/// Violations of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The column they are in.
    pub column: String,
    /// What is wrong.
    pub kind: ViolationKind,
    /// How many values.
    pub count: u64,
    /// The first, for people: row, found and expected value.
    pub example: String,
}

/// What can be wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ViolationKind {
    /// A `view__event_time` at or after the label.
    EventTime,
    /// A `view__event_time` that is not the newest contribution before the label.
    NewestContribution,
    /// A feature that is not what history before the label gives.
    Value,
    /// A feature that changes when history is cut at the label.
    Truncation,
}

impl ViolationKind {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            ViolationKind::EventTime => "event_time_not_before_label",
            ViolationKind::NewestContribution => "event_time_not_newest",
            ViolationKind::Value => "value",
            ViolationKind::Truncation => "truncation",
        }
    }

    /// The class of a column's violations, for people.
    pub fn class(self, column: &str) -> String {
        match self {
            ViolationKind::EventTime => format!("`{column}` is not before the label"),
            ViolationKind::NewestContribution => {
                format!("`{column}` is not the newest contribution before the label")
            }
            ViolationKind::Value => format!("`{column}` is not what history before the label gives"),
            ViolationKind::Truncation => format!("`{column}` changes when history is cut at the label"),
        }
    }
}

/// One feature column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureAudit {
    /// Its name, `view__feature`.
    pub column: String,
    /// Values compared.
    pub compared: u64,
    /// Values that history before the label does not give.
    pub violations: u64,
    /// How many of them were looked at to say what they look like.
    pub examined: u64,
    /// How many of those look like what; a value may look like several things.
    pub looks_like: BTreeMap<Likeness, u64>,
}

impl FeatureAudit {
    /// What most of the column's wrong values look like, and how many of those examined do; the first of equals.
    pub fn best(&self) -> Option<(Likeness, u64)> {
        let most = |best: Option<(Likeness, u64)>, (&likeness, &count): (&Likeness, &u64)| match best {
            Some((_, most)) if most >= count => best,
            _ => Some((likeness, count)),
        };
        self.looks_like.iter().fold(None, most)
    }
}

/// What a value that history before the label does not give looks like; in the order in which it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Likeness {
    /// The right value but for rounding.
    Rounding,
    /// The value with events that were ingested only after the label, where those must not count.
    NotYetIngested,
    /// The value 1 µs after the label.
    LabelInstant,
    /// The value at the end of the label's hour (UTC).
    EndOfHour,
    /// The value at the end of the label's day (UTC).
    EndOfDay,
    /// The value after the newest event.
    WholeHistory,
    /// 0 where nothing is known, or nothing where 0 is.
    ZeroOrNull,
    /// The value at the start of the label's hour (UTC).
    StartOfHour,
    /// The value at the start of the label's day (UTC).
    StartOfDay,
}

impl Likeness {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Likeness::Rounding => "rounding",
            Likeness::ZeroOrNull => "zero_or_null",
            Likeness::NotYetIngested => "not_yet_ingested",
            Likeness::LabelInstant => "label_instant",
            Likeness::EndOfHour => "end_of_hour",
            Likeness::EndOfDay => "end_of_day",
            Likeness::WholeHistory => "whole_history",
            Likeness::StartOfHour => "start_of_hour",
            Likeness::StartOfDay => "start_of_day",
        }
    }

    /// Whether a value like that has seen the future of its label.
    pub fn is_leak(self) -> bool {
        matches!(
            self,
            Likeness::NotYetIngested
                | Likeness::LabelInstant
                | Likeness::EndOfHour
                | Likeness::EndOfDay
                | Likeness::WholeHistory
        )
    }

    /// What it means, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Likeness::Rounding => "the right values but for rounding: no leak, a tolerance accepts it",
            Likeness::ZeroOrNull => "0 where nothing is known, or null where 0 is: no leak",
            Likeness::NotYetIngested => {
                "the values with events that had not arrived at the label: late data, joined by event time"
            }
            Likeness::LabelInstant => "the values just after the label's instant: a join on `<=` lets ties in",
            Likeness::EndOfHour => "the values at the end of the label's hour: hourly features, joined inclusively",
            Likeness::EndOfDay => "the values at the end of the label's day (UTC): daily features, joined inclusively",
            Likeness::WholeHistory => "the values after the newest event: features of the whole history",
            Likeness::StartOfHour => "the values at the start of the label's hour: stale, no leak",
            Likeness::StartOfDay => "the values at the start of the label's day (UTC): stale, no leak",
        }
    }
}

/// The upper bounds of the age classes in µs, exclusive, with their names; what is older is in a last class.
pub const AGE_CLASSES: [(i64, &str); 9] = [
    (SECOND_US, "< 1 s"),
    (MINUTE_US, "< 1 min"),
    (HOUR_US, "< 1 h"),
    (6 * HOUR_US, "< 6 h"),
    (DAY_US, "< 1 d"),
    (7 * DAY_US, "< 7 d"),
    (30 * DAY_US, "< 30 d"),
    (90 * DAY_US, "< 90 d"),
    (365 * DAY_US, "< 1 y"),
];

/// The distribution of a view's feature age: label time − newest contribution.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgeAudit {
    /// The view.
    pub view: String,
    /// Whether the ages are the training set's own (`view__event_time`), or what the recomputation gives.
    pub from_dataset: bool,
    /// Rows whose newest contribution is one that the label must not see.
    pub not_before: u64,
    /// Rows by class of [`AGE_CLASSES`], then those older than every class.
    pub classes: [u64; AGE_CLASSES.len() + 1],
    /// Rows without a contribution.
    pub none: u64,
    /// The lower median of the ages (µs), those not before the label included; `None` without any.
    pub median_us: Option<i64>,
}

impl AgeAudit {
    /// Counts ages: per row the label's time, from which instant on it must see nothing, and the newest contribution.
    pub(super) fn of(view: &str, from_dataset: bool, rows: impl Iterator<Item = (i64, i64, Option<i64>)>) -> Self {
        let mut audit = Self { view: view.to_owned(), from_dataset, ..Self::default() };
        let mut ages_us = Vec::new();
        for (label_us, as_of_us, newest_us) in rows {
            let Some(newest_us) = newest_us else {
                audit.none += 1;
                continue;
            };
            let age_us = label_us.saturating_sub(newest_us);
            ages_us.push(age_us);
            match newest_us < as_of_us {
                true => audit.classes[AGE_CLASSES.partition_point(|&(bound_us, _)| bound_us <= age_us)] += 1,
                false => audit.not_before += 1,
            }
        }
        ages_us.sort_unstable();
        audit.median_us = ages_us.get(ages_us.len().saturating_sub(1) / 2).copied();
        audit
    }
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

    /// The audit of a column.
    pub fn feature(&self, column: &str) -> Option<&FeatureAudit> {
        self.features.iter().find(|feature| feature.column == column)
    }

    pub(super) fn add(&mut self, kind: ViolationKind, column: &str, example: impl FnOnce() -> String) {
        let violation = self.violations.entry(kind.class(column)).or_insert_with(|| Violation {
            column: column.to_owned(),
            kind,
            count: 0,
            example: example(),
        });
        violation.count += 1;
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
            let feature = self.feature(&violation.column).filter(|_| violation.kind == ViolationKind::Value);
            if let Some((feature, (likeness, like))) = feature.and_then(|feature| Some((feature, feature.best()?))) {
                write!(f, "; {like} of {} look like {}", feature.examined, likeness.meaning())?;
            }
        }
        Ok(())
    }
}
