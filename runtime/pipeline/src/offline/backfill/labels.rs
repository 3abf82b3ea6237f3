//! The labels that a backfill generates: every instant and key that the dates asked for have a row of, in order.

use super::super::activity::{Active, Activity};
use super::super::dates::DatePlan;
use super::super::keys::KeyIndex;
use super::BackfillOptions;
use crate::Result;
use plumb_core::time::{DAY_US, floor_to};
use rustc_hash::FxHashMap;

/// The keys of an entity in the order of their bytes.
#[derive(Debug)]
pub(super) struct ByteOrder {
    /// Each key's place.
    ranks: Vec<u32>,
    /// The keys by place.
    keys: Vec<u32>,
}

impl ByteOrder {
    pub(super) fn of(index: &KeyIndex) -> Self {
        let mut keys: Vec<u32> = (0..index.len() as u32).collect();
        keys.sort_unstable_by(|&a, &b| index.get(a).cmp(index.get(b)));
        let mut ranks = vec![0; keys.len()];
        keys.iter().enumerate().for_each(|(rank, &key)| ranks[key as usize] = rank as u32);
        Self { ranks, keys }
    }
}

/// Takes labels: keys and instants, side by side, and the date (00:00 UTC, µs) before which all labels have been given.
type Visit<'a> = dyn FnMut(&[u32], &[i64], i64) -> Result<()> + 'a;

/// The labels of one view's dates: (instant, key), ordered by instant, then by key bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instants<'a> {
    pub(super) activity: &'a Activity<'a>,
    /// Which of the activity's entities.
    pub(super) entity: usize,
    pub(super) order: &'a ByteOrder,
    /// The dates to make.
    pub(super) dates: &'a [DatePlan],
    pub(super) options: &'a BackfillOptions,
    /// The most labels given at once; a date is cut only where it alone has more.
    pub(super) part_rows: usize,
}

impl Instants<'_> {
    /// Visits all labels in order, a part at a time.
    pub(super) fn parts(self, visit: &mut Visit<'_>) -> Result<()> {
        let mut part = Part { rows: self.part_rows, ..Part::default() };
        if self.options.has_all() {
            self.all(&mut part, visit)?
        } else {
            self.active(&mut part, visit)?
        }
        part.visit(part.keys.len(), i64::MAX, visit)
    }

    /// Those with an event since the snapshot before, or one per event.
    fn active(self, part: &mut Part, visit: &mut Visit<'_>) -> Result<()> {
        let ranges = self.dates.iter().map(|plan| (plan.day_us, (plan.inputs.first_us, plan.inputs.last_us)));
        let of_day: FxHashMap<i64, (i64, i64)> = ranges.collect();
        // Of one instant: the places of its keys, and how often each is there.
        let mut same: Vec<(u32, u32)> = Vec::new();
        let (mut instant_us, mut is_asked) = (i64::MIN, false);
        let mut last: Option<Active> = None;
        for active in self.activity.of(self.entity)? {
            let active = active?;
            if active.0 != instant_us {
                self.give(instant_us, &mut same, part, visit)?;
                instant_us = active.0;
                let range = of_day.get(&floor_to(instant_us, DAY_US));
                is_asked = range.is_some_and(|&(first_us, last_us)| (first_us..=last_us).contains(&instant_us));
            }
            if !is_asked {
                continue;
            }
            match same.last_mut() {
                Some((_, times)) if last == Some(active) => *times += 1,
                _ => same.push((self.order.ranks[active.1 as usize], 1)),
            }
            last = Some(active);
        }
        self.give(instant_us, &mut same, part, visit)
    }

    /// Gives the labels of one instant.
    fn give(self, instant_us: i64, same: &mut Vec<(u32, u32)>, part: &mut Part, visit: &mut Visit<'_>) -> Result<()> {
        same.sort_unstable();
        for (rank, times) in same.drain(..) {
            // One row for each event, else one for each key.
            let times = if self.options.every == super::Every::Event { times } else { 1 };
            (0..times).try_for_each(|_| part.push(instant_us, self.order.keys[rank as usize], visit))?;
        }
        Ok(())
    }

    /// Every found key at every step of the dates' ranges.
    fn all(self, part: &mut Part, visit: &mut Visit<'_>) -> Result<()> {
        let mut firsts_us = vec![i64::MAX; self.order.keys.len()];
        for active in self.activity.of(self.entity)? {
            let (instant_us, key) = active?;
            let first_us = &mut firsts_us[key as usize];
            *first_us = instant_us.min(*first_us);
        }
        let step_us = self.options.every.grid_us();
        for plan in self.dates {
            let mut instant_us = plan.inputs.first_us;
            while instant_us <= plan.inputs.last_us {
                for &key in self.order.keys.iter().filter(|&&key| firsts_us[key as usize] <= instant_us) {
                    part.push(instant_us, key, visit)?;
                }
                instant_us = instant_us.saturating_add(step_us);
            }
        }
        Ok(())
    }
}

/// Labels on their way to be computed. It depends on a date's own labels alone how they are cut: so do its files.
#[derive(Debug, Default)]
struct Part {
    /// The most labels.
    rows: usize,
    keys: Vec<u32>,
    as_of_us: Vec<i64>,
    /// Where the last date begins, and which it is.
    day_start: usize,
    day_us: i64,
}

impl Part {
    fn push(&mut self, instant_us: i64, key: u32, visit: &mut Visit<'_>) -> Result<()> {
        if self.keys.is_empty() || instant_us >= self.day_us.saturating_add(DAY_US) {
            let day_us = floor_to(instant_us, DAY_US);
            if self.keys.is_empty() || day_us != self.day_us {
                (self.day_start, self.day_us) = (self.keys.len(), day_us);
            }
        }
        if self.keys.len() == self.rows {
            // The dates before go without the last one, unless it is alone.
            let end = if self.day_start > 0 { self.day_start } else { self.keys.len() };
            self.visit(end, self.day_us, visit)?;
        }
        self.keys.push(key);
        self.as_of_us.push(instant_us);
        Ok(())
    }

    fn visit(&mut self, end: usize, done_before_us: i64, visit: &mut Visit<'_>) -> Result<()> {
        if end > 0 {
            visit(&self.keys[..end], &self.as_of_us[..end], done_before_us)?;
            self.keys.drain(..end);
            self.as_of_us.drain(..end);
            self.day_start = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn parts_cut_no_date_that_fits() {
        const ROWS: usize = 1000;
        let (mut part, mut visits) = (Part { rows: ROWS, ..Part::default() }, Vec::new());
        let mut visit = |keys: &[u32], as_of_us: &[i64], done_before_us: i64| {
            assert_eq!(keys.len(), as_of_us.len());
            let days: BTreeSet<i64> = as_of_us.iter().map(|&as_of_us| as_of_us / DAY_US).collect();
            visits.push((days.into_iter().collect::<Vec<_>>(), keys.len(), done_before_us / DAY_US));
            Ok(())
        };
        for (day, rows) in [3, ROWS - 1, 2, 2 * ROWS + 5, 4].into_iter().enumerate() {
            for row in 0..rows {
                part.push(day as i64 * DAY_US + row as i64, 0, &mut visit).unwrap();
            }
        }
        part.visit(part.keys.len(), i64::MAX, &mut visit).unwrap();
        let end = i64::MAX / DAY_US;
        assert_eq!(
            visits,
            [
                (vec![0], 3, 1),
                (vec![1], ROWS - 1, 2),
                (vec![2], 2, 3),
                (vec![3], ROWS, 3),
                (vec![3], ROWS, 3),
                (vec![3, 4], 9, end),
            ]
        );
    }
}
