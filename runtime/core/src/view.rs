//! A feature view as its component declares it.
//!
//! This is the checked, typed form; the JSON text of `describe()` is the transform crate's and is
//! converted to it once, at load.

use crate::column::DataType;
use crate::entity::EntityDef;
use crate::time::floor_to;

/// Everything a component declares about its feature view.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewDef {
    /// The view's name, e.g. `user_activity`.
    pub name: String,
    /// Its semantic version.
    pub version: semver::Version,
    /// The entity and its key fields.
    pub entity: EntityDef,
    /// The source whose events it reads.
    pub source: String,
    /// What the view is, for people.
    pub description: String,
    /// Who answers for it.
    pub owner: String,
    /// The owner's team.
    pub team: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Max age in µs: at T a view whose newest contribution is older answers `outside_max_age`. `None` = never.
    pub ttl_us: Option<i64>,
    /// How fresh the owner wants it, in µs; not enforced.
    pub freshness_us: Option<i64>,
    /// The event fields `extract` gets, in this order.
    pub fields: Vec<FieldUse>,
    /// The typed inputs of aggregation, in the order `extract` returns them; at most 64.
    pub slots: Vec<SlotDef>,
    /// The aggregates, in the order `finalize` gets them.
    pub aggregates: Vec<AggregateDef>,
    /// The features, in the order `finalize` returns them.
    pub features: Vec<FeatureDef>,
}

/// An event field a view reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldUse {
    /// The field's name in the source's schema; the time field is allowed, as a timestamp.
    pub name: String,
    /// The type the component expects.
    pub data_type: DataType,
    /// Whether an event without it is a fault of this view on that event.
    pub required: bool,
}

/// A typed input of aggregation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotDef {
    /// Its name.
    pub name: String,
    /// Its type.
    pub slot_type: SlotType,
}

/// What a slot carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotType {
    /// No value, only presence: a `bool` column on the wire, true = a contribution.
    Mark,
    /// An integer.
    I64,
    /// A float; NaN and infinities are no number, hence no contribution, and counted.
    F64,
    /// A truth value.
    Bool,
    /// A string.
    Utf8,
    /// An instant.
    Timestamp,
}

impl SlotType {
    /// The name in `describe`.
    pub fn name(self) -> &'static str {
        match self {
            SlotType::Mark => "mark",
            SlotType::I64 => "i64",
            SlotType::F64 => "f64",
            SlotType::Bool => "bool",
            SlotType::Utf8 => "string",
            SlotType::Timestamp => "timestamp",
        }
    }

    /// The type of the slot's column.
    pub fn column_type(self) -> DataType {
        match self {
            SlotType::Mark | SlotType::Bool => DataType::Bool,
            SlotType::I64 => DataType::I64,
            SlotType::F64 => DataType::F64,
            SlotType::Utf8 => DataType::Utf8,
            SlotType::Timestamp => DataType::Timestamp,
        }
    }
}

/// One aggregate: an operator over a slot's contributions in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregateDef {
    /// Its name, unique in the view.
    pub name: String,
    /// What is computed.
    pub operator: Operator,
    /// The index of the slot.
    pub slot: usize,
    /// Over which events.
    pub window: WindowSpec,
}

/// What an aggregate computes from the contributions of one slot. Every one is order-free and exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The number of contributions (`i64`).
    Count,
    /// The exact sum rounded once (`f64`; null beyond f64, 0.0 of nothing). Slot: `f64` or `i64`.
    Sum,
    /// The rounded sum divided by the count (`f64`; null of nothing). Slot: `f64` or `i64`.
    Mean,
    /// The up to `k` values that occur most, most first, ties by value ascending in byte order (`list<string>`). Slot: `string`.
    TopK {
        /// How many values.
        k: usize,
    },
    /// The value of the newest contribution, ties by event id, then by value (the slot's type; null of nothing).
    Last,
    /// The time of the newest contribution (`timestamp`; null of nothing).
    LastTime,
    /// The number of sessions whose end is in the window (`i64`). A session is a maximal run of contributions
    /// before T with no gap of more than `gap_us` between neighbours.
    SessionCount {
        /// The longest gap inside a session, in µs.
        gap_us: i64,
    },
    /// The sum of (end − start) in µs over those sessions (`i64`).
    SessionDurationSum {
        /// The longest gap inside a session, in µs.
        gap_us: i64,
    },
    /// Among all entities with contributions in the (hopping) window: (number with fewer) / (number − 1);
    /// 1.0 for the only one, 0.0 for an entity without any (`f64`).
    RelativeRank,
    /// The least value, -0.0 being less than 0.0 (the slot's type; null of nothing). Slot: `f64`, `i64` or `timestamp`.
    Min,
    /// The greatest value (the slot's type; null of nothing). Slot: `f64`, `i64` or `timestamp`.
    Max,
    /// The exact sample variance (n − 1), rounded once (`f64`; null below two values and beyond f64). Slot: `f64` or
    /// `i64`.
    Variance,
    /// The root of the exact sample variance, rounded once (`f64`; null below two values and beyond f64). Slot: `f64`
    /// or `i64`.
    StdDev,
    /// The value at rank ceil(n × ppm / 1,000,000), at most 1/128 of it off (`f64`; null of nothing): the middle of
    /// its bucket, see [`crate::accumulator::quantile`]. Slot: `f64` or `i64`.
    Quantile {
        /// The place in millionths, above 0 and below 1,000,000; 500,000 is the lower median.
        ppm: u32,
    },
    /// The number of distinct values (`i64`), exact whatever it is. Slot: `string`.
    CountDistinct,
    /// The number of distinct values (`i64`): exact up to `k`, beyond that estimated from the `k` smallest hashes, with
    /// a standard error of about 1 / √k. Slot: `string`.
    ApproxDistinct {
        /// Up to how many values it is exact.
        k: usize,
    },
    /// The distinct values, ascending in byte order, the first `k` of them (`list<string>`). Slot: `string`.
    CollectSet {
        /// How many values.
        k: usize,
    },
}

/// The most elements a capped set may keep.
pub const MAX_SET: usize = 4_096;

impl Operator {
    /// The name in `describe`.
    pub fn name(self) -> &'static str {
        match self {
            Operator::Count => "count",
            Operator::Sum => "sum",
            Operator::Mean => "mean",
            Operator::TopK { .. } => "top_k",
            Operator::Last => "last",
            Operator::LastTime => "last_time",
            Operator::SessionCount { .. } => "session_count",
            Operator::SessionDurationSum { .. } => "session_duration_sum",
            Operator::RelativeRank => "relative_rank",
            Operator::Min => "min",
            Operator::Max => "max",
            Operator::Variance => "variance",
            Operator::StdDev => "stddev",
            Operator::Quantile { .. } => "quantile",
            Operator::CountDistinct => "count_distinct",
            Operator::ApproxDistinct { .. } => "approx_distinct",
            Operator::CollectSet { .. } => "collect_set",
        }
    }

    /// The type of the aggregate's column in `finalize`'s batch, over a slot of type `slot`.
    pub fn output_type(self, slot: SlotType) -> DataType {
        match self {
            Operator::Count
            | Operator::SessionCount { .. }
            | Operator::SessionDurationSum { .. }
            | Operator::CountDistinct
            | Operator::ApproxDistinct { .. } => DataType::I64,
            Operator::Sum
            | Operator::Mean
            | Operator::RelativeRank
            | Operator::Variance
            | Operator::StdDev
            | Operator::Quantile { .. } => DataType::F64,
            Operator::TopK { .. } | Operator::CollectSet { .. } => DataType::List(Box::new(DataType::Utf8)),
            Operator::Last | Operator::Min | Operator::Max => slot.column_type(),
            Operator::LastTime => DataType::Timestamp,
        }
    }
}

/// Which event times an aggregate sees at T; always strictly before T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowSpec {
    /// `[T − width, T)`; with a hop the left edge is aligned down to a multiple of it.
    Sliding {
        /// The width in µs.
        width_us: i64,
        /// The grid of the left edge in µs.
        hop_us: Option<i64>,
    },
    /// `[B − width, B)` with B = T floored to a multiple of `hop_us`. Tumbling is `hop_us == width_us`.
    Hopping {
        /// The width in µs.
        width_us: i64,
        /// The grid of both edges in µs.
        hop_us: i64,
    },
    /// Everything before T.
    Lifetime,
}

impl WindowSpec {
    /// The half-open range of event times seen at `as_of_us`; `i64::MIN` as start = everything before.
    pub fn bounds(&self, as_of_us: i64) -> (i64, i64) {
        match *self {
            WindowSpec::Sliding { width_us, hop_us: None } => (as_of_us.saturating_sub(width_us), as_of_us),
            WindowSpec::Sliding { width_us, hop_us: Some(hop_us) } => {
                (floor_to(as_of_us.saturating_sub(width_us), hop_us), as_of_us)
            }
            WindowSpec::Hopping { width_us, hop_us } => {
                let end_us = floor_to(as_of_us, hop_us);
                (end_us.saturating_sub(width_us), end_us)
            }
            WindowSpec::Lifetime => (i64::MIN, as_of_us),
        }
    }

    /// The window's width in µs; `None` for lifetime.
    pub fn width_us(&self) -> Option<i64> {
        match *self {
            WindowSpec::Sliding { width_us, .. } | WindowSpec::Hopping { width_us, .. } => Some(width_us),
            WindowSpec::Lifetime => None,
        }
    }

    /// How far before T the window can reach, in µs; `None` for lifetime.
    pub fn reach_us(&self) -> Option<i64> {
        match *self {
            WindowSpec::Sliding { width_us, hop_us } => Some(width_us.saturating_add(hop_us.unwrap_or(0))),
            WindowSpec::Hopping { width_us, hop_us } => Some(width_us.saturating_add(hop_us)),
            WindowSpec::Lifetime => None,
        }
    }
}

/// A feature as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureDef {
    /// Its name, unique in the view.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// What it is, for people.
    pub description: String,
    /// The aggregates it is made from, by index: its windows and its lineage.
    pub aggregates: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{HOUR_US, MINUTE_US};

    #[test]
    fn bounds_follow_the_catalogue() {
        let t = 10 * HOUR_US + 90_000_000;
        assert_eq!(WindowSpec::Sliding { width_us: HOUR_US, hop_us: None }.bounds(t), (t - HOUR_US, t));
        let hopped = WindowSpec::Sliding { width_us: HOUR_US, hop_us: Some(MINUTE_US) };
        assert_eq!(hopped.bounds(t), (9 * HOUR_US + MINUTE_US, t));
        let b = 10 * HOUR_US + MINUTE_US;
        assert_eq!(WindowSpec::Hopping { width_us: HOUR_US, hop_us: MINUTE_US }.bounds(t), (b - HOUR_US, b));
        assert_eq!(WindowSpec::Hopping { width_us: HOUR_US, hop_us: MINUTE_US }.bounds(b), (b - HOUR_US, b));
        assert_eq!(WindowSpec::Lifetime.bounds(t), (i64::MIN, t));
    }
}
