//! What a view definition means for state: which accumulators, for how long, on which grid.

use crate::accumulator::quantile::PPM;
use crate::state::record::Layout;
use crate::time::{DAY_US, HOUR_US, MINUTE_US, floor_to};
use crate::view::{MAX_SET, Operator, SlotType, ViewDef, WindowSpec};
use crate::{Error, Result};

/// How long state still takes late events exactly where they belong, unless configured otherwise.
pub const DEFAULT_ALLOWED_LATENESS_US: i64 = HOUR_US;

/// How many tiles are folded into the base at a time: the floor moves in steps of so many.
const TILES_PER_FOLD: i64 = 16;

/// The most slots a view may have: presence is one 64-bit mask.
pub const MAX_SLOTS: usize = 64;

/// The short identity of a view's state: what `extract` and the aggregates can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(pub [u8; 8]);

impl std::fmt::Display for StateId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The kind of a mergeable partial state; several aggregates over one slot share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccumulatorKind {
    /// The number of contributions.
    Count,
    /// The exact sum and the count (`Sum`, `Mean`).
    Sum,
    /// How often each value occurs (`TopK`).
    ValueCounts,
    /// The newest contribution's time, event id and value (`Last`).
    Last,
    /// The newest contribution's time (`LastTime`).
    LastTime,
    /// The runs of contributions without a longer gap (`SessionCount`, `SessionDurationSum`).
    Sessions {
        /// The longest gap inside a session, in µs.
        gap_us: i64,
    },
    /// The least value (`Min`).
    Min,
    /// The greatest value (`Max`).
    Max,
    /// The count, the exact sum and the exact sum of squares (`Variance`, `StdDev`).
    Moments,
    /// How many values lie in each bucket (`Quantile`).
    Quantile,
    /// All distinct values (`CountDistinct`).
    Distinct,
    /// The `k` least values in byte order (`CollectSet`).
    LeastValues {
        /// How many.
        k: usize,
    },
    /// The `k + 1` smallest hashes of values (`ApproxDistinct`).
    LeastHashes {
        /// Up to how many values their number is exact.
        k: usize,
    },
}

/// One accumulator of a view's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccumulatorDef {
    /// Its kind.
    pub kind: AccumulatorKind,
    /// The slot it takes its input from.
    pub slot: usize,
    /// The slot's type.
    pub slot_type: SlotType,
    /// Whether its base must be kept: some aggregate is lifetime, or it is of sessions.
    pub in_base: bool,
}

/// One aggregate as a read of an accumulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregatePlan {
    /// What is read.
    pub operator: Operator,
    /// The index of the accumulator.
    pub accumulator: usize,
    /// Over which times.
    pub window: WindowSpec,
    /// For `RelativeRank`: the index of the global distribution.
    pub global: Option<usize>,
}

/// A distribution over all entities, kept per hop instant under a reserved key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalDef {
    /// The slot whose contributions are counted per entity.
    pub slot: usize,
    /// The window's width in µs, a multiple of `hop_us`.
    pub width_us: i64,
    /// The grid of the window's edges in µs.
    pub hop_us: i64,
}

/// What a view definition means for state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The accumulators, in a canonical order.
    pub accumulators: Vec<AccumulatorDef>,
    /// The aggregates, in declared order.
    pub aggregates: Vec<AggregatePlan>,
    /// The global distributions.
    pub globals: Vec<GlobalDef>,
    /// The slots' types, in declared order.
    pub slots: Vec<SlotType>,
    /// The tile grid in µs.
    pub tile_us: i64,
    /// The grid of the floor in µs, a multiple of `tile_us`.
    pub fold_us: i64,
    /// The longest reach of a window in µs; 0 if every aggregate is lifetime.
    pub longest_us: i64,
    /// How far below the newest event time the floor lies, before alignment: `longest_us` + allowed lateness.
    pub retention_us: i64,
    /// Whether contributions carry their event ids into state (some aggregate needs the order of ties).
    pub keeps_ids: bool,
    /// How a raw contribution is packed.
    pub(crate) layout: Layout,
}

impl Plan {
    /// Derives the plan of a definition; `allowed_lateness_us` must be at least the source's `max_future`.
    pub fn new(view: &ViewDef, allowed_lateness_us: i64) -> Result<Self> {
        if view.slots.len() > MAX_SLOTS {
            return Err(Error::definition(
                format!("view `{}`", view.name),
                format!("{} slots, at most {MAX_SLOTS} are possible", view.slots.len()),
            ));
        }
        let mut keyed: Vec<(usize, AccumulatorKind)> = Vec::new();
        let mut globals: Vec<GlobalDef> = Vec::new();
        for aggregate in &view.aggregates {
            let slot = view.slots.get(aggregate.slot).ok_or_else(|| {
                Error::definition(format!("aggregate `{}`", aggregate.name), "its slot does not exist")
            })?;
            check_operator(&aggregate.name, aggregate.operator, slot.slot_type, &aggregate.window)?;
            keyed.push((aggregate.slot, kind_of(aggregate.operator)));
            if let (Operator::RelativeRank, WindowSpec::Hopping { width_us, hop_us }) =
                (aggregate.operator, aggregate.window)
            {
                let global = GlobalDef { slot: aggregate.slot, width_us, hop_us };
                if !globals.contains(&global) {
                    globals.push(global);
                }
            }
        }
        keyed.sort_unstable();
        keyed.dedup();
        let accumulators: Vec<AccumulatorDef> = keyed
            .iter()
            .map(|&(slot, kind)| AccumulatorDef {
                kind,
                slot,
                slot_type: view.slots[slot].slot_type,
                in_base: matches!(kind, AccumulatorKind::Sessions { .. })
                    || view.aggregates.iter().any(|aggregate| {
                        aggregate.slot == slot
                            && kind_of(aggregate.operator) == kind
                            && aggregate.window == WindowSpec::Lifetime
                    }),
            })
            .collect();
        let aggregates = view
            .aggregates
            .iter()
            .map(|aggregate| {
                let wanted = (aggregate.slot, kind_of(aggregate.operator));
                let global = match (aggregate.operator, aggregate.window) {
                    (Operator::RelativeRank, WindowSpec::Hopping { width_us, hop_us }) => globals
                        .iter()
                        .position(|global| *global == GlobalDef { slot: aggregate.slot, width_us, hop_us }),
                    _ => None,
                };
                AggregatePlan {
                    operator: aggregate.operator,
                    accumulator: keyed
                        .iter()
                        .position(|&key| key == wanted)
                        .expect("every aggregate's accumulator was listed above"),
                    window: aggregate.window,
                    global,
                }
            })
            .collect();
        let longest_us = view.aggregates.iter().filter_map(|aggregate| aggregate.window.reach_us()).max().unwrap_or(0);
        let slots: Vec<SlotType> = view.slots.iter().map(|slot| slot.slot_type).collect();
        let keeps_ids = keyed.iter().any(|(_, kind)| *kind == AccumulatorKind::Last);
        let tile_us = tile_width(longest_us);
        Ok(Self {
            layout: Layout::new(&slots, keeps_ids),
            accumulators,
            aggregates,
            globals,
            slots,
            tile_us,
            fold_us: tile_us * TILES_PER_FOLD,
            longest_us,
            retention_us: longest_us.saturating_add(allowed_lateness_us),
            keeps_ids,
        })
    }

    /// The floor that a newest event time implies: what lies below it has been folded into the base.
    ///
    /// It moves in steps of `fold_us`, so that folding is work of a step and not of every event, and so
    /// that what is in the base depends on the newest event time alone, not on when a key was touched.
    pub fn floor_us(&self, newest_us: i64) -> i64 {
        floor_to(newest_us.saturating_sub(self.retention_us), self.fold_us)
    }

    /// The newest event time from which on the floor lies above `floor_us`.
    pub(crate) fn next_fold_us(&self, floor_us: i64) -> i64 {
        floor_us.saturating_add(self.fold_us).saturating_add(self.retention_us)
    }

    /// The accumulators that keep a base, in order.
    pub(crate) fn base_accumulators(&self) -> impl Iterator<Item = &AccumulatorDef> {
        self.accumulators.iter().filter(|def| def.in_base)
    }

    /// The allowed lateness it was made with, in µs.
    pub fn allowed_lateness_us(&self) -> i64 {
        self.retention_us - self.longest_us
    }

    /// Whether state with this floor can answer at `as_of_us`: every window begins at or after the floor,
    /// and T itself does.
    pub fn reaches(&self, floor_us: i64, as_of_us: i64) -> bool {
        as_of_us >= floor_us
            && self.aggregates.iter().all(|aggregate| match aggregate.window {
                WindowSpec::Lifetime => true,
                window => window.bounds(as_of_us).0 >= floor_us,
            })
    }
}

fn kind_of(operator: Operator) -> AccumulatorKind {
    match operator {
        Operator::Count | Operator::RelativeRank => AccumulatorKind::Count,
        Operator::Sum | Operator::Mean => AccumulatorKind::Sum,
        Operator::TopK { .. } => AccumulatorKind::ValueCounts,
        Operator::Last => AccumulatorKind::Last,
        Operator::LastTime => AccumulatorKind::LastTime,
        Operator::SessionCount { gap_us } | Operator::SessionDurationSum { gap_us } => {
            AccumulatorKind::Sessions { gap_us }
        }
        Operator::Min => AccumulatorKind::Min,
        Operator::Max => AccumulatorKind::Max,
        Operator::Variance | Operator::StdDev => AccumulatorKind::Moments,
        Operator::Quantile { .. } => AccumulatorKind::Quantile,
        Operator::CountDistinct => AccumulatorKind::Distinct,
        Operator::CollectSet { k } => AccumulatorKind::LeastValues { k },
        Operator::ApproxDistinct { k } => AccumulatorKind::LeastHashes { k },
    }
}

fn check_operator(name: &str, operator: Operator, slot: SlotType, window: &WindowSpec) -> Result<()> {
    let refuse = |why: String| Err(Error::definition(format!("aggregate `{name}`"), why));
    let fits = match operator {
        Operator::Sum | Operator::Mean | Operator::Variance | Operator::StdDev | Operator::Quantile { .. } => {
            matches!(slot, SlotType::F64 | SlotType::I64)
        }
        Operator::Min | Operator::Max => matches!(slot, SlotType::F64 | SlotType::I64 | SlotType::Timestamp),
        Operator::TopK { .. }
        | Operator::CountDistinct
        | Operator::ApproxDistinct { .. }
        | Operator::CollectSet { .. } => slot == SlotType::Utf8,
        Operator::Last => slot != SlotType::Mark,
        _ => true,
    };
    if !fits {
        return refuse(format!("operator `{}` does not take a slot of type {}", operator.name(), slot.name()));
    }
    match operator {
        Operator::TopK { k: 0 } => return refuse("k must be at least 1".into()),
        Operator::CollectSet { k } | Operator::ApproxDistinct { k } if !(1..=MAX_SET).contains(&k) => {
            return refuse(format!("k must be at least 1 and at most {MAX_SET}"));
        }
        Operator::Quantile { ppm } if !(1..PPM).contains(&ppm) => {
            return refuse("q must be above 0 and below 1".into());
        }
        _ => {}
    }
    match (operator, window) {
        (Operator::RelativeRank, WindowSpec::Hopping { width_us, hop_us }) if width_us % hop_us == 0 => Ok(()),
        (Operator::RelativeRank, _) => {
            refuse("`relative_rank` needs a hopping window whose width is a multiple of its hop".into())
        }
        _ => Ok(()),
    }
}

/// The tile grid for a longest window: about 300 to 1,000 tiles a window, on round lengths.
fn tile_width(longest_us: i64) -> i64 {
    const LENGTHS_US: [i64; 7] = [MINUTE_US, 5 * MINUTE_US, 15 * MINUTE_US, HOUR_US, 6 * HOUR_US, DAY_US, 7 * DAY_US];
    let wanted_us = longest_us / 256;
    LENGTHS_US.iter().rev().copied().find(|&length_us| length_us <= wanted_us).unwrap_or(MINUTE_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_round_and_never_coarser_than_a_256th() {
        assert_eq!(tile_width(30 * DAY_US), HOUR_US);
        assert_eq!(tile_width(24 * HOUR_US), 5 * MINUTE_US);
        assert_eq!(tile_width(HOUR_US), MINUTE_US);
        assert_eq!(tile_width(0), MINUTE_US);
    }
}
