//! The join in bounded memory against the join in memory, with limits so small that everything goes to disk.

use super::*;
use crate::offline::join::{TrainingSet, join};
use crate::offline::testing::{Event, FakeScratch, everything, labels, readers};
use crate::offline::tests::{LabelRow, event, events, label_rows, options};
use proptest::prelude::*;
use std::sync::atomic::Ordering;

struct Reader {
    rows: Vec<LabelRow>,
    at: usize,
    size: usize,
}

impl LabelReader for Reader {
    fn next_labels(&mut self) -> Result<Option<Labels>> {
        let rows = &self.rows[self.at..self.rows.len().min(self.at + self.size)];
        self.at += rows.len();
        Ok((!rows.is_empty()).then(|| labels(rows)))
    }
}

#[derive(Default)]
struct Parts(Vec<TrainingSet>);

impl TrainingSink for Parts {
    fn write(&mut self, part: &dyn TrainingPart) -> Result<()> {
        let (rows, views) = (part.rows().to_vec(), part.views()?);
        self.0.push(TrainingSet { rows, views, summary: JoinSummary::default() });
        Ok(())
    }
}

impl Parts {
    /// The parts one after the other.
    fn together(self, summary: JoinSummary) -> TrainingSet {
        let mut parts = self.0.into_iter();
        let mut all = parts.next().expect("there are labels");
        for part in parts {
            all.rows.extend(part.rows);
            for (to, from) in all.views.iter_mut().zip(part.views) {
                let append = |to: &mut Column, from: &Column| (0..from.len()).for_each(|row| to.push_from(from, row));
                to.features.iter_mut().zip(&from.features).for_each(|(to, from)| append(to, from));
                append(&mut to.event_time, &from.event_time);
                to.status.extend(from.status);
            }
        }
        TrainingSet { summary, ..all }
    }
}

fn small(slices: usize, share_bytes: usize, question_bytes: usize, answer_rows: usize, part_rows: usize) -> Limits {
    let answer_bytes = share_bytes / 4;
    Limits {
        slices,
        share_bytes,
        sort_bytes: share_bytes / 16,
        run_bytes: share_bytes / 8,
        question_bytes,
        answer_bytes,
        answer_rows,
        part_rows,
        slice_bytes: 1,
    }
}

fn bounded(
    events: &[Event],
    rows: &[LabelRow],
    batch: usize,
    options: &JoinOptions,
    limits: Limits,
    room: usize,
) -> Result<TrainingSet> {
    let scratch = FakeScratch::with_room(room);
    let budget = Budget { bytes: 0, scratch: &scratch, progress: None };
    let (mut sink, mut labels) = (Parts::default(), Reader { rows: rows.to_vec(), at: 0, size: batch });
    let selection = everything(Some(40));
    let summary = run(&mut readers(events, batch), &selection, &mut labels, options, budget, limits, &mut sink)?;
    Ok(sink.together(summary))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_budget_changes_a_row(
        (events, shuffled) in events().prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle())),
        rows in label_rows(),
        options in options(),
        batch in 1usize..20,
        (slices, share_bytes, question_bytes) in (1usize..9, 0usize..4000, 0usize..100),
        (answer_rows, part_rows) in (1usize..9, 1usize..40),
        lag_us in proptest::option::of(0i64..60),
    ) {
        let known = |mut events: Vec<Event>| {
            // Later for some than for others, but the same in any order.
            let lag_us = |event: &Event| lag_us.map_or(0, |lag_us| (event.time_us * 7).rem_euclid(lag_us + 1));
            events.iter_mut().for_each(|event| event.ingest_us = event.time_us + lag_us(event));
            events
        };
        let (events, shuffled) = (known(events), known(shuffled));
        let knowledge = if lag_us.is_some() { Knowledge::Ingested } else { Knowledge::EventTime };
        let options = JoinOptions { knowledge, ..options };
        let limits = small(slices, share_bytes, question_bytes, answer_rows, part_rows);
        let set = join(&mut readers(&events, 7), &everything(Some(40)), &labels(&rows), &options).unwrap();
        let in_parts = bounded(&shuffled, &rows, batch, &options, limits, usize::MAX).unwrap();
        prop_assert_eq!(in_parts, set);
    }

    #[test]
    fn a_full_disk_is_an_error_wherever_it_comes(
        events in proptest::collection::vec((-50i64..50).prop_map(|time_us| event(time_us, "u1", "i1", "view")), 1..40),
        rows in label_rows(),
        share in 0.0f64..1.0,
    ) {
        let limits = small(4, 0, 0, 3, 5);
        let scratch = FakeScratch::with_room(usize::MAX);
        let budget = Budget { bytes: 0, scratch: &scratch, progress: None };
        let (mut sink, mut labels) = (Parts::default(), Reader { rows: rows.clone(), at: 0, size: 7 });
        // One thread: how much is written depends on nothing else.
        let (selection, options) = (everything(Some(40)), JoinOptions { threads: 1, ..JoinOptions::default() });
        run(&mut readers(&events, 5), &selection, &mut labels, &options, budget, limits, &mut sink).unwrap();
        let written = scratch.written.load(Ordering::Relaxed);
        prop_assume!(written > 0);
        let room = (share * written as f64) as usize;
        let error = bounded(&events, &rows, 5, &options, limits, room).unwrap_err();
        prop_assert!(error.to_string().contains("no space left"), "{}", error);
        // In threads it depends: not with no room at all.
        let error = bounded(&events, &rows, 5, &JoinOptions { threads: 3, ..options }, limits, 0).unwrap_err();
        prop_assert!(error.to_string().contains("no space left"), "{}", error);
    }
}

#[test]
fn one_entity_may_have_all_events() {
    let events: Vec<Event> = (0..20_000).map(|n| event(n % 500, "u1", "i1", "view")).collect();
    let rows: Vec<LabelRow> = (0..50).map(|n| (Some("u1"), Some("i1"), n * 11 - 20)).collect();
    let options = JoinOptions { threads: 2, ..JoinOptions::default() };
    let limits = small(3, 10_000, 100, 7, 9);
    let set = join(&mut readers(&events, 1000), &everything(Some(40)), &labels(&rows), &options).unwrap();
    assert_eq!(bounded(&events, &rows, 1000, &options, limits, usize::MAX).unwrap(), set);
}

#[test]
fn the_budget_decides_the_limits() {
    let limits = Limits::new(MEMORY_MIN_BYTES, &everything(None), 4);
    assert!((limits.share_bytes + limits.sort_bytes) * 4 + limits.slice_bytes <= MEMORY_MIN_BYTES as usize);
    assert!(limits.answer_rows >= 1024 && limits.part_rows >= 1024);
    let more = Limits::new(MEMORY_MIN_BYTES * 16, &everything(None), 4);
    assert!(more.answer_rows > limits.answer_rows && more.share_bytes > limits.share_bytes);
}
