//! Which instants are due, and which events each of them sees.

use super::journal::Decision;
use crate::Result;
use crate::commit::latest;
use crate::commit::load::KnownLists;
use crate::offline::Every;
use crate::port::{ArchiveScan, ObjectStore, RowFile};
use plumb_core::time::{DAY_US, HOUR_US, floor_to};
use std::collections::BTreeMap;

/// What a partition has committed, and whether it is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    /// The offset after the last record.
    pub(super) next_offset: u64,
    /// The newest time of an accepted event, µs.
    pub(super) newest_us: Option<i64>,
    /// Whether instants wait for it to pass them.
    pub(super) waited_for: bool,
}

/// The grid of instants that become due, µs: events' own in hours of them.
pub(super) fn grid_us(every: Every) -> i64 {
    if every == Every::Day { DAY_US } else { HOUR_US }
}

/// The last instant that is due: passed by all partitions that are waited for, and not in the future of all events.
pub(super) fn due_us(every: Every, lateness_us: i64, partitions: &BTreeMap<u32, Reached>) -> Option<i64> {
    let grid_us = grid_us(every);
    let newest_us = partitions.values().filter_map(|reached| reached.newest_us).max()?;
    let mut due_us = floor_to(newest_us.saturating_add(1), grid_us);
    for reached in partitions.values().filter(|reached| reached.waited_for) {
        due_us = due_us.min(floor_to(reached.newest_us?.saturating_sub(lateness_us), grid_us));
    }
    Some(due_us)
}

/// The committed event files of the partitions.
pub(super) fn committed_files(
    store: &dyn ObjectStore,
    lists: &KnownLists,
    source: &str,
    partitions: impl IntoIterator<Item = u32>,
) -> Result<Vec<(u32, RowFile)>> {
    let mut files = Vec::new();
    for partition in partitions {
        if let Some(manifest) = latest(store, source, partition)? {
            files.extend(lists.row_files(store, &manifest)?.into_iter().map(|file| (partition, file)));
        }
    }
    Ok(files)
}

/// Where partitions pass instants: by instant the first offset of an event that passes it and none after it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Passed(BTreeMap<u32, BTreeMap<i64, u64>>);

impl Passed {
    /// The scan that finds where partitions pass instants after those of `last`, up to what was reached.
    pub(super) fn scan(
        every: Every,
        lateness_us: i64,
        last: Option<&Decision>,
        partitions: &BTreeMap<u32, Reached>,
        files: &[(u32, RowFile)],
    ) -> ArchiveScan {
        let first_us = last.map(|last| last.through_us.saturating_add(grid_us(every)).saturating_add(lateness_us));
        // The event that passed the last instant may have passed further ones.
        let begun = last.map(Decision::ends).unwrap_or_default();
        ArchiveScan {
            files: files.to_vec(),
            columns: Some(Vec::new()),
            event_time_us: first_us.map(|first_us| (first_us, i64::MAX)),
            below_offset: partitions.iter().map(|(&number, reached)| (number, reached.next_offset)).collect(),
            from_offset: begun.into_iter().map(|(number, end)| (number, end.saturating_sub(1))).collect(),
            ..ArchiveScan::default()
        }
    }

    /// Adds an event.
    pub(super) fn add(&mut self, every: Every, lateness_us: i64, partition: u32, offset: u64, time_us: i64) {
        let passes_us = floor_to(time_us.saturating_sub(lateness_us), grid_us(every));
        let first = self.0.entry(partition).or_default().entry(passes_us).or_insert(offset);
        *first = offset.min(*first);
    }

    /// What the instants after those of `last`, up to `through_us`, do not see of each partition.
    pub(super) fn cuts(
        &self,
        last: Option<&Decision>,
        through_us: i64,
        partitions: &BTreeMap<u32, Reached>,
    ) -> BTreeMap<u32, Vec<(u64, i64)>> {
        let none = BTreeMap::new();
        let after_us = last.map_or(i64::MIN, |last| last.through_us);
        let cuts_of = |(&number, reached): (&u32, &Reached)| {
            let passed = self.0.get(&number).unwrap_or(&none);
            // An instant is passed by the first event that passes it or a later one.
            let beyond = passed.range(through_us..).map(|(_, &offset)| offset).min();
            let mut end = beyond.map_or(reached.next_offset, |offset| offset + 1);
            let mut cuts = vec![(end, through_us)];
            for (&until_us, &offset) in
                passed.range(..through_us).rev().take_while(|(until_us, _)| **until_us > after_us)
            {
                end = end.min(offset + 1);
                cuts.push((end, until_us));
            }
            // Instants before, of the date that is being made.
            let day_us = floor_to(after_us, DAY_US);
            let before = last.and_then(|last| last.cuts.get(&number)).map(Vec::as_slice).unwrap_or_default();
            let before = before.iter().filter(|(_, until_us)| *until_us >= day_us);
            let all: Vec<(u64, i64)> = before.copied().chain(cuts.into_iter().rev()).collect();
            (number, all)
        };
        partitions.iter().map(cuts_of).collect()
    }
}

/// How many events lie on each UTC date, about, by the files' own words.
pub(super) fn events_by_day(files: &[(u32, RowFile)]) -> BTreeMap<i64, u64> {
    let mut days: BTreeMap<i64, u64> = BTreeMap::new();
    for (_, file) in files {
        let (first_us, last_us) = (floor_to(file.event_time_us.0, DAY_US), floor_to(file.event_time_us.1, DAY_US));
        let count = ((last_us - first_us) / DAY_US).unsigned_abs() + 1;
        let each = file.rows.div_ceil(count);
        let mut day_us = first_us;
        while day_us <= last_us {
            *days.entry(day_us).or_default() += each;
            day_us += DAY_US;
        }
    }
    days
}

/// One pass makes so many dates at most: what was decided and not made is made again after a kill.
const PASS_DAYS: usize = 366;
/// One pass reads so many events about, where their dates are many; of a single date all there are.
const PASS_EVENTS: u64 = 8_000_000;

/// Where to cut the instants after `after_us` and up to `due_us`, so that one pass takes bounded memory: reading an event
/// for one instant reaches back to `reaches_us(instant)`.
pub(super) fn through_us(
    after_us: Option<i64>,
    due_us: i64,
    days: &BTreeMap<i64, u64>,
    reaches_us: impl Fn(i64) -> i64,
) -> i64 {
    let first_day_us = match after_us {
        Some(after_us) => floor_to(after_us, DAY_US),
        None => days.keys().next().copied().unwrap_or(i64::MIN),
    };
    let back_us = reaches_us(first_day_us);
    let before: u64 =
        if back_us < first_day_us { days.range(back_us..first_day_us).map(|(_, count)| *count).sum() } else { 0 };
    // Where much has to be read for the first instant already, more instants at a time cost less in all.
    let room = PASS_EVENTS.saturating_sub(before).max(before / 4);
    let (mut events, mut count) = (0, 0);
    for (&day_us, &of_day) in days.range(first_day_us..) {
        let end_us = day_us.saturating_add(DAY_US);
        events += of_day;
        count += 1;
        if end_us >= due_us {
            break;
        }
        if events >= room || count >= PASS_DAYS {
            return end_us;
        }
    }
    due_us
}
