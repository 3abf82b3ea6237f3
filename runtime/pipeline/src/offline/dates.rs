//! Which dates of a view's snapshots are asked for, and what each of them depends on.

use super::backfill::BackfillOptions;
use super::prints::Prints;
use crate::decode::time::format_rfc3339;
use crate::port::{SnapshotDate, SnapshotInputs};
use crate::query::Position;
use crate::{Error, Result};
use plumb_core::plan::AccumulatorKind;
use plumb_core::time::{DAY_US, HOUR_US, floor_to};
use plumb_core::view::WindowSpec;
use plumb_transform::Transform;
use std::collections::BTreeMap;

/// How far before an instant the events can lie that decide a row at it: whether there is one, and its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// So many µs.
    Of(i64),
    /// All the way back.
    Everything,
}

impl Reach {
    pub(super) fn of(transform: &Transform, options: &BackfillOptions) -> Self {
        let plan = transform.plan();
        // Who was ever found, and whether a newest contribution is too old, can rest on the first event of all; a
        // session may have begun at any time before its window.
        let looks_back = options.has_all()
            || options.max_age_us.or(transform.def().ttl_us).is_some()
            || plan.aggregates.iter().any(|aggregate| aggregate.window == WindowSpec::Lifetime)
            || plan.accumulators.iter().any(|def| matches!(def.kind, AccumulatorKind::Sessions { .. }));
        if looks_back { Reach::Everything } else { Reach::Of(plan.longest_us.max(options.every.grid_us())) }
    }

    /// The first date whose events can matter at an instant.
    pub(super) fn first_day_us(self, instant_us: i64) -> i64 {
        match self {
            Reach::Of(reach_us) => floor_to(instant_us.saturating_sub(reach_us), DAY_US),
            Reach::Everything => i64::MIN,
        }
    }
}

/// The last instant of a date.
fn last_of(day_us: i64, grid_us: i64) -> i64 {
    day_us.saturating_add(DAY_US) - grid_us
}

/// The end (exclusive) of the last date whose events can matter at an instant.
pub(super) fn end_of_days_us(instant_us: i64) -> i64 {
    floor_to(instant_us.saturating_sub(1), DAY_US).saturating_add(DAY_US)
}

/// A date that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DatePlan {
    pub(super) day_us: i64,
    pub(super) inputs: SnapshotInputs,
    /// Where later instants of the date see more of what is before the first one: up to which instant there is which
    /// position. Else that of the inputs is of all.
    pub(super) positions: Vec<(i64, String)>,
}

impl DatePlan {
    /// The position that the rows at an instant are of, and the last instant that has it.
    pub(super) fn position_at(&self, instant_us: i64) -> (&str, i64) {
        let step = self.positions.iter().find(|(until_us, _)| instant_us <= *until_us);
        step.map_or((&self.inputs.position, i64::MAX), |(until_us, position)| (position, *until_us))
    }
}

/// What is to become of a view's dates.
#[derive(Debug, Default)]
pub(super) struct DatePlans {
    /// To be made, rising.
    pub(super) dirty: Vec<DatePlan>,
    /// Made before, of the same inputs.
    pub(super) unchanged: Vec<SnapshotDate>,
    /// There, but nothing belongs on them any more.
    pub(super) remove: Vec<i64>,
}

/// One view's history and what its snapshots are to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) options: &'a BackfillOptions,
    pub(super) view: &'a str,
    pub(super) source: &'a str,
    pub(super) reach: Reach,
    pub(super) prints: &'a Prints,
    /// The newest event of the source, whatever entities it carries, µs.
    pub(super) newest_us: Option<i64>,
    /// Whether a running stream asks: dates that hold at least what it would put there stay, and none goes.
    pub(super) follows: bool,
}

impl Asking<'_> {
    /// Compares what is asked for with what is there.
    pub(super) fn plan(&self, there: &BTreeMap<i64, Option<SnapshotDate>>) -> Result<DatePlans> {
        let mut plans = DatePlans::default();
        let made = there.values().flatten().map(|date| date.inputs.last_us);
        let end_us = self.end_us(made.max());
        let days = self.days(end_us);
        for (&day_us, made) in there {
            if !self.follows && days.binary_search(&day_us).is_err() && self.asked(day_us).is_some() {
                self.check_fewer(day_us, made.as_ref(), 0)?;
                plans.remove.push(day_us);
            }
        }
        for day_us in days {
            let made = there.get(&day_us).and_then(Option::as_ref);
            let Some((mut first_us, last_us)) = self.instants(day_us, made, end_us) else { continue };
            // Files without their entry: a stream that died there had the hours before in them. Which events each of those
            // saw is known for the whole date.
            if self.follows && made.is_none() && there.contains_key(&day_us) {
                first_us = day_us;
            }
            let next_us = |time_us: i64| self.options.every.next_us(time_us);
            if made.is_none() && !self.options.has_all() && !self.prints.any_next(first_us, last_us, next_us) {
                continue;
            }
            let inputs = self.inputs(first_us, last_us);
            match made {
                Some(made) if made.inputs == inputs => plans.unchanged.push(made.clone()),
                Some(made) if self.follows && made.inputs.holds(&inputs) => plans.unchanged.push(made.clone()),
                _ => {
                    self.check_fewer(day_us, made, inputs.events)?;
                    let positions = self.positions(first_us, last_us);
                    plans.dirty.push(DatePlan { day_us, inputs, positions });
                }
            }
        }
        Ok(plans)
    }

    /// Accepted events do not vanish: with fewer of them, most likely not all were given.
    fn check_fewer(&self, day_us: i64, made: Option<&SnapshotDate>, events: u64) -> Result<()> {
        match made {
            Some(made) if made.inputs.events > events && !self.options.allow_fewer_events && !self.follows => {
                let (view, before) = (self.view, made.inputs.events);
                let date = &format_rfc3339(day_us)[..10];
                Err(Error::invalid(format!(
                    "view `{view}`: its snapshots of {date} were made from {before} events, of which {events} are left: \
                     give all events, not the new ones alone, or --allow-fewer-events if some are meant to be gone"
                )))
            }
            _ => Ok(()),
        }
    }

    /// The plans of dates for what was read now.
    pub(super) fn renew(&self, plans: &mut [DatePlan]) {
        for plan in plans {
            plan.inputs = self.inputs(plan.inputs.first_us, plan.inputs.last_us);
        }
    }

    /// The dates that can have rows, rising.
    fn days(&self, end_us: i64) -> Vec<i64> {
        let day_of = |instant_us: i64| floor_to(instant_us, DAY_US);
        let next = |time_us: i64| self.options.every.next_us(time_us);
        if !self.options.has_all() {
            // An event makes rows on the date of the next instant: its own or the one after.
            let mut days: Vec<i64> = self
                .prints
                .days
                .values()
                .flat_map(|print| [day_of(next(print.times_us.0)), day_of(next(print.times_us.1))])
                .collect();
            days.sort_unstable();
            days.dedup();
            return days;
        }
        let oldest_us = self.prints.days.values().map(|print| print.times_us.0).min();
        let Some(oldest_us) = oldest_us else { return Vec::new() };
        let first_us = next(oldest_us).max(self.options.from_us.unwrap_or(i64::MIN));
        let (mut day_us, mut days) = (day_of(first_us), Vec::new());
        while day_us <= end_us {
            days.push(day_us);
            day_us = day_us.saturating_add(DAY_US);
        }
        days
    }

    /// The last instant: that asked for; else where all entities have rows the first that sees the newest event, or
    /// what was made before (`made_us`) if that is further.
    fn end_us(&self, made_us: Option<i64>) -> i64 {
        match self.options.to_us {
            Some(to_us) => to_us.saturating_sub(1),
            None if self.options.has_all() => {
                self.newest_us.map(|newest_us| self.options.every.next_us(newest_us)).max(made_us).unwrap_or(i64::MIN)
            }
            None => i64::MAX,
        }
    }

    /// The first and the last instant of a date that the options ask for; `None` if there is none.
    fn asked(&self, day_us: i64) -> Option<(i64, i64)> {
        let grid_us = self.options.every.grid_us();
        let up_us = |instant_us: i64| floor_to(instant_us.saturating_add(grid_us - 1), grid_us);
        let first_us = self.options.from_us.map_or(day_us, |from_us| up_us(from_us).max(day_us));
        let end_us = last_of(day_us, grid_us);
        let last_us = self.options.to_us.map_or(end_us, |to_us| floor_to(to_us.saturating_sub(1), grid_us).min(end_us));
        (first_us <= last_us).then_some((first_us, last_us))
    }

    /// The first and the last instant that a date is to have: what was made of it before stays, with what lies between.
    fn instants(&self, day_us: i64, made: Option<&SnapshotDate>, end_us: i64) -> Option<(i64, i64)> {
        let (mut first_us, mut last_us) = self.asked(day_us)?;
        if let Some(made) = made {
            if self.options.from_us.is_some() {
                first_us = first_us.min(made.inputs.first_us).max(day_us);
            }
            if self.options.to_us.is_some() {
                last_us = last_us.max(made.inputs.last_us).min(last_of(day_us, self.options.every.grid_us()));
            }
        }
        if self.options.to_us.is_none() {
            last_us = last_us.min(end_us);
        }
        (first_us <= last_us).then_some((first_us, last_us))
    }

    /// What rows at these instants depend on.
    fn inputs(&self, first_us: i64, last_us: i64) -> SnapshotInputs {
        let all = self.prints.between(self.reach.first_day_us(first_us), first_us, last_us);
        let position = Position::of(self.source, all.next).to_string();
        SnapshotInputs { first_us, last_us, events: all.events, events_hash: all.sum, position }
    }

    /// The positions of the hours of a date, if they see what came between them.
    fn positions(&self, first_us: i64, last_us: i64) -> Vec<(i64, String)> {
        let first_day_us = self.reach.first_day_us(first_us);
        if !self.prints.changes_between(first_day_us, first_us, last_us) {
            return Vec::new();
        }
        let mut hour_us = floor_to(first_us.saturating_add(HOUR_US - 1), HOUR_US);
        let mut positions = Vec::new();
        while hour_us < last_us.saturating_add(HOUR_US) {
            let seen = self.prints.between(first_day_us, hour_us, hour_us);
            positions.push((hour_us, Position::of(self.source, seen.next).to_string()));
            hour_us += HOUR_US;
        }
        positions
    }
}
