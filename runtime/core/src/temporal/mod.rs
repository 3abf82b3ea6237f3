//! The temporal join: aggregates of many (key, T) at once, from sorted history instead of state.
//!
//! Contributions come into a [`History`] as they are read; [`Arranged`] is one slice of the keys of all [`Histories`] by
//! (key, time); [`answer`] orders the questions likewise and sweeps each key once, sliding every window from one instant
//! to the next, one window after the other. Values are exactly those of [`crate::read`]: both are the same order-free
//! exact aggregates over the same contributions with `event_time < T`. Ranks among all entities need all entities'
//! contributions and are swept along time by [`ranks`] beforehand.
//!
//! The functions are pure and single-threaded; a driver runs slices in parallel.

mod arrange;
mod counts;
mod history;
mod rank;
mod totals;
mod unload;
mod window;

pub use arrange::{Arranged, Cut};
pub use history::{Histories, History, NO_KEY};
pub use rank::{RankHistory, Standings, Turns, ranks};

use crate::accumulator::extreme::End;
use crate::column::Column;
use crate::plan::{AggregatePlan, Plan};
use crate::view::{Operator, SlotType, WindowSpec};
use history::{Row, bits};
use window::{
    Asked, ExtremeWindow, Frame, Instant, MomentsWindow, OfMoments, OfOrdered, OfSessions, OfSum, OfValues, Order,
    OrderedWindow, Places, Series, Sessions, Span, SumWindow, ValuesWindow, gallop_while,
};

/// One (key, T) to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The key's id; must belong to the slice that is answered.
    pub key: u32,
    /// The label it is for; indexes `ranks`.
    pub label: u32,
    /// The instant T, µs; contributions strictly before it are seen.
    pub as_of_us: i64,
}

/// The answers to a slice's questions: one row for each distinct (key, T) whose key is found.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// T of each row.
    pub as_of_us: Vec<i64>,
    /// One column per aggregate of the plan.
    pub columns: Vec<Column>,
    /// The newest contribution before T; `None` without any.
    pub newest_us: Vec<Option<i64>>,
    /// (label, row) of every question whose key is found at its T; labels with equal (key, T) share a row.
    pub rows: Vec<(u32, u32)>,
}

/// Answers questions about the keys of an arranged slice.
///
/// `ranks[g][label]` is what [`ranks`] gave for the plan's distribution `g`.
pub fn answer(plan: &Plan, arranged: &Arranged, mut questions: Vec<Question>, ranks: &[Vec<f64>]) -> Answers {
    // Drivers often have them in order already.
    if !questions.is_sorted_by_key(|question| (question.key, question.as_of_us)) {
        questions = in_order(questions, arranged.slices);
    }
    let mut sweep = Sweep::new(plan, arranged);
    sweep.answers.reserve(questions.len());
    for group in questions.chunk_by(|a, b| a.key == b.key) {
        sweep.key((group[0].key / arranged.slices) as usize, group, ranks);
    }
    sweep.answers
}

/// The questions of one of `slices` slices by (key, T), equal ones as they were: a counting sort by key, then each key's
/// by time, in which labels mostly come.
pub fn in_order(questions: Vec<Question>, slices: u32) -> Vec<Question> {
    let number = |question: &Question| (question.key / slices) as usize;
    let keys = questions.iter().map(number).max().map_or(0, |last| last + 1);
    // Few questions about many keys.
    if keys / 4 > questions.len() {
        let mut sorted = questions;
        sorted.sort_by_key(|question| (question.key, question.as_of_us));
        return sorted;
    }
    let mut ends = vec![0u32; keys + 1];
    questions.iter().for_each(|question| ends[number(question) + 1] += 1);
    (0..keys).for_each(|key| ends[key + 1] += ends[key]);
    let mut sorted = questions.clone();
    for question in &questions {
        let end = &mut ends[number(question)];
        sorted[*end as usize] = *question;
        *end += 1;
    }
    let mut start = 0;
    for &end in &ends[..keys] {
        let of_key = &mut sorted[start..end as usize];
        if !of_key.is_sorted_by_key(|question| question.as_of_us) {
            of_key.sort_by_key(|question| question.as_of_us);
        }
        start = end as usize;
    }
    sorted
}

impl Answers {
    /// Makes room for the answers to so many questions.
    fn reserve(&mut self, questions: usize) {
        self.as_of_us.reserve_exact(questions);
        self.columns.iter_mut().for_each(|column| column.reserve(questions, 0));
        self.newest_us.reserve_exact(questions);
        self.rows.reserve_exact(questions);
    }
}

/// What needs no structure of its own.
#[derive(Debug, Clone, Copy)]
enum Direct {
    /// The elements of a frame.
    Count(usize),
    /// The newest element of a frame.
    Last(usize),
    LastTime(usize),
    /// By distribution.
    Rank(usize),
}

/// A slot whose numbers are added up.
#[derive(Debug)]
struct Totalled {
    slot: usize,
    frames: Vec<usize>,
    with_squares: bool,
}

/// The structures that slide along a key's history; aggregates over the same slot and window share them.
#[derive(Debug)]
struct Sweep<'a> {
    arranged: &'a Arranged,
    plan: &'a Plan,
    /// The slots that any structure looks at.
    used_mask: u64,
    value_mask: u64,
    series: Vec<Series>,
    /// The slots whose newest value is asked for, hence whose ties must be in order.
    last_mask: u64,
    /// Per slot of `last_mask`, the id words beside its series.
    ids: Vec<Vec<u64>>,
    frames: Vec<Frame>,
    direct: Vec<Asked<Direct>>,
    totalled: Vec<Totalled>,
    sums: Vec<SumWindow>,
    values: Vec<ValuesWindow>,
    sessions: Vec<Sessions>,
    extremes: Vec<ExtremeWindow>,
    moments: Vec<MomentsWindow>,
    places: Vec<Places>,
    ordered: Vec<OrderedWindow>,
    /// The present key's instants that are still to be answered; the last rows of `answers` are theirs.
    instants: Vec<Instant>,
    answers: Answers,
}

/// The index of the element that `is` accepts, made and appended if there is none.
fn find_or_push<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> usize {
    list.iter().position(is).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    })
}

impl<'a> Sweep<'a> {
    fn new(plan: &'a Plan, arranged: &'a Arranged) -> Self {
        let columns = plan.aggregates.iter().map(|aggregate| {
            Column::new(&aggregate.operator.output_type(plan.accumulators[aggregate.accumulator].slot_type))
        });
        let answers =
            Answers { as_of_us: Vec::new(), columns: columns.collect(), newest_us: Vec::new(), rows: Vec::new() };
        let mut sweep = Self {
            arranged,
            plan,
            used_mask: 0,
            value_mask: history::Layout::new(plan).value_mask,
            series: plan.slots.iter().map(|_| Series::default()).collect(),
            last_mask: 0,
            ids: vec![Vec::new(); plan.slots.len()],
            frames: Vec::new(),
            direct: Vec::new(),
            totalled: Vec::new(),
            sums: Vec::new(),
            values: Vec::new(),
            sessions: Vec::new(),
            extremes: Vec::new(),
            moments: Vec::new(),
            places: Vec::new(),
            ordered: Vec::new(),
            instants: Vec::new(),
            answers,
        };
        for (column, aggregate) in plan.aggregates.iter().enumerate() {
            sweep.ask(column, aggregate);
        }
        sweep.number();
        sweep
    }

    /// Makes what gives a column its aggregate.
    fn ask(&mut self, column: usize, aggregate: &AggregatePlan) {
        let accumulator = &self.plan.accumulators[aggregate.accumulator];
        let (slot, slot_type) = (accumulator.slot, accumulator.slot_type);
        if let (Operator::RelativeRank, Some(global)) = (aggregate.operator, aggregate.global) {
            self.direct.push(Asked { column, what: Direct::Rank(global) });
            return;
        }
        self.used_mask |= 1 << slot;
        // What sessions end in a window is told from all that are seen.
        let window = match aggregate.operator {
            Operator::SessionCount { .. } | Operator::SessionDurationSum { .. } => WindowSpec::Lifetime,
            _ => aggregate.window,
        };
        let same = |frame: &Frame| frame.slot == slot && frame.window == window;
        let frame = find_or_push(&mut self.frames, same, || Frame::new(slot, window));
        match aggregate.operator {
            Operator::Count | Operator::RelativeRank => {
                self.direct.push(Asked { column, what: Direct::Count(frame) });
            }
            Operator::Last => {
                self.last_mask |= 1 << slot;
                self.direct.push(Asked { column, what: Direct::Last(frame) });
            }
            Operator::LastTime => self.direct.push(Asked { column, what: Direct::LastTime(frame) }),
            Operator::SessionCount { gap_us } | Operator::SessionDurationSum { gap_us } => {
                let what = match aggregate.operator {
                    Operator::SessionCount { .. } => OfSessions::Count(aggregate.window),
                    _ => OfSessions::Duration(aggregate.window),
                };
                let same = |sessions: &Sessions| sessions.frame == frame && sessions.gap_us == gap_us;
                let sessions = find_or_push(&mut self.sessions, same, || Sessions::new(frame, gap_us));
                self.sessions[sessions].asked.push(Asked { column, what });
            }
            Operator::Sum | Operator::Mean => {
                self.total(slot, frame, false);
                let what = if aggregate.operator == Operator::Sum { OfSum::Sum } else { OfSum::Mean };
                let same = |sum: &SumWindow| sum.frame == frame;
                let sum = find_or_push(&mut self.sums, same, || SumWindow::new(frame, slot_type));
                self.sums[sum].asked.push(Asked { column, what });
            }
            Operator::Variance | Operator::StdDev => {
                self.total(slot, frame, true);
                let is_variance = aggregate.operator == Operator::Variance;
                let what = if is_variance { OfMoments::Variance } else { OfMoments::StdDev };
                let same = |moments: &MomentsWindow| moments.frame == frame;
                let moments = find_or_push(&mut self.moments, same, || MomentsWindow::new(frame, slot_type));
                self.moments[moments].asked.push(Asked { column, what });
            }
            Operator::Min | Operator::Max => {
                let end = if aggregate.operator == Operator::Max { End::Greatest } else { End::Least };
                self.extremes.push(ExtremeWindow::new(frame, end, slot_type, column));
            }
            Operator::TopK { k } => self.ask_values(frame, Asked { column, what: OfValues::Top(k) }),
            Operator::CountDistinct => self.ask_values(frame, Asked { column, what: OfValues::Distinct }),
            Operator::Quantile { ppm } => {
                let what = OfOrdered::Quantile(ppm);
                self.ask_ordered(slot, frame, Order::Bucket(slot_type), Asked { column, what });
            }
            Operator::ApproxDistinct { k } => {
                self.ask_ordered(slot, frame, Order::Hash, Asked { column, what: OfOrdered::ApproxDistinct(k) });
            }
            Operator::CollectSet { k } => {
                self.ask_ordered(slot, frame, Order::Bytes, Asked { column, what: OfOrdered::CollectSet(k) });
            }
        }
    }

    /// Has the numbers of a slot added up for a frame.
    fn total(&mut self, slot: usize, frame: usize, with_squares: bool) {
        let make = || Totalled { slot, frames: Vec::new(), with_squares: false };
        let index = find_or_push(&mut self.totalled, |of| of.slot == slot, make);
        let of_slot = &mut self.totalled[index];
        of_slot.with_squares |= with_squares;
        of_slot.frames.push(frame);
    }

    fn ask_values(&mut self, frame: usize, asked: Asked<OfValues>) {
        let codes = self.arranged.texts.len();
        let same = |values: &ValuesWindow| values.frame == frame;
        let values = find_or_push(&mut self.values, same, || ValuesWindow::new(frame, codes));
        self.values[values].asked.push(asked);
    }

    fn ask_ordered(&mut self, slot: usize, frame: usize, order: Order, asked: Asked<OfOrdered>) {
        let same = |places: &Places| places.slot == slot && places.order == order;
        let places = find_or_push(&mut self.places, same, || Places::new(slot, order));
        let same = |window: &OrderedWindow| window.frame == frame && window.places == places;
        let window = find_or_push(&mut self.ordered, same, || OrderedWindow::new(frame, places));
        self.ordered[window].asked.push(asked);
    }

    /// Numbers the values of the slots that are looked at in an order.
    fn number(&mut self) {
        if self.places.is_empty() {
            return;
        }
        let Arranged { rows, words, texts, lead, .. } = self.arranged;
        for row in rows {
            for (slot, word) in bits(row.mask & self.value_mask).zip(&words[row.word as usize + lead..]) {
                for places in self.places.iter_mut().filter(|places| places.slot == slot) {
                    places.meet(*word, texts);
                }
            }
        }
        self.places.iter_mut().for_each(|places| places.number(texts));
    }

    /// Answers a key's questions, which rise in time.
    fn key(&mut self, key: usize, questions: &[Question], ranks: &[Vec<f64>]) {
        let arranged = self.arranged;
        let Some(&first_us) = arranged.first_us.get(key) else { return };
        let found = questions.partition_point(|question| question.as_of_us <= first_us);
        let questions = &questions[found..];
        if questions.is_empty() {
            return;
        }
        let rows = &arranged.rows[arranged.starts[key]..arranged.starts[key + 1]];
        if let Some(known) = arranged.known {
            return self.as_known(rows, known, questions, ranks);
        }
        self.fill(rows);
        let mut seen = 0;
        for same in questions.chunk_by(|a, b| a.as_of_us == b.as_of_us) {
            seen = gallop_while(rows, seen, |row| row.time_us < same[0].as_of_us);
            self.at(same, &rows[..seen]);
        }
        self.emit(ranks);
    }

    /// Goes on to questions of one instant, `seen` being what is seen of the rows the series hold.
    fn at(&mut self, same: &[Question], seen: &[Row]) {
        let Question { as_of_us, label, .. } = same[0];
        let newest_us = seen.last().map(|newest| newest.time_us);
        let row = u32::try_from(self.answers.as_of_us.len()).expect("labels are numbered by u32");
        let until_us = newest_us.map_or(i64::MIN, |newest_us| newest_us.saturating_add(1));
        self.instants.push(Instant { as_of_us, until_us, label });
        self.answers.as_of_us.push(as_of_us);
        self.answers.newest_us.push(newest_us);
        self.answers.rows.extend(same.iter().map(|question| (question.label, row)));
    }

    /// Answers a key's questions of which each sees what had happened and was known by then.
    ///
    /// Rows have turns: the first instant that sees them. As long as turns rise with time, what is seen is a beginning
    /// of the rows, and everything slides as ever. A row that becomes known after a later one (or another of its
    /// time) was seen breaks that: the structures are filled anew, from there on with it.
    fn as_known(&mut self, rows: &[Row], known: usize, questions: &[Question], ranks: &[Vec<f64>]) {
        let words = &self.arranged.words;
        let instants: Vec<&[Question]> = questions.chunk_by(|a, b| a.as_of_us == b.as_of_us).collect();
        let turn_of = |row: &Row| {
            let seen_us = row.time_us.max(words[row.word as usize + known].cast_signed());
            instants.partition_point(|same| same[0].as_of_us <= seen_us)
        };
        let turns: Vec<usize> = rows.iter().map(turn_of).collect();
        let mut order: Vec<usize> = (0..rows.len()).filter(|&row| turns[row] < instants.len()).collect();
        order.sort_by_key(|&row| turns[row]);
        let mut breaks = vec![0];
        let mut newest_us = None;
        for same in order.chunk_by(|&a, &b| turns[a] == turns[b]) {
            let (turn, last) = (turns[same[0]], same[same.len() - 1]);
            // Nothing was seen before the first of all.
            if newest_us.is_some_and(|newest_us| rows[same[0]].time_us <= newest_us) {
                breaks.push(turn);
            }
            newest_us = newest_us.max(Some(rows[last].time_us));
        }
        breaks.push(instants.len());
        for span in breaks.windows(2) {
            let held: Vec<(usize, Row)> =
                turns.iter().zip(rows).filter(|&(&turn, _)| turn < span[1]).map(|(&turn, row)| (turn, *row)).collect();
            let (turns, held): (Vec<usize>, Vec<Row>) = held.into_iter().unzip();
            self.fill(&held);
            let mut seen = 0;
            for (turn, same) in instants.iter().enumerate().take(span[1]).skip(span[0]) {
                seen += turns[seen..].iter().take_while(|&&other| other <= turn).count();
                self.at(same, &held[..seen]);
            }
            self.emit(ranks);
        }
    }

    /// Spreads a key's rows over the slots' series and starts every structure afresh.
    fn fill(&mut self, rows: &[Row]) {
        for slot in bits(self.used_mask) {
            self.series[slot].times_us.clear();
            self.series[slot].words.clear();
            self.ids[slot].clear();
        }
        let keeps_ids = self.plan.keeps_ids;
        for row in rows {
            let mut word = row.word as usize + self.arranged.lead;
            for slot in bits(row.mask & (self.used_mask | self.value_mask)) {
                let series = &mut self.series[slot];
                series.times_us.push(row.time_us);
                if self.value_mask >> slot & 1 == 1 {
                    series.words.push(self.arranged.words[word]);
                    word += 1;
                }
                if self.last_mask >> slot & 1 == 1 && keeps_ids {
                    self.ids[slot].push(self.arranged.words[row.word as usize]);
                }
            }
        }
        for slot in bits(self.last_mask) {
            self.order_ties(slot);
        }
        for places in &mut self.places {
            places.fill(&self.series[places.slot].words);
        }
    }

    /// Puts the largest (event id, value) of each instant last among its equals.
    fn order_ties(&mut self, slot: usize) {
        let (arranged, slot_type) = (self.arranged, self.plan.slots[slot]);
        let (series, ids) = (&mut self.series[slot], &mut self.ids[slot]);
        let mut start = 0;
        for same in series.times_us.chunk_by(|a, b| a == b) {
            let end = start + same.len();
            let greatest = (start..end)
                .max_by(|&a, &b| {
                    arranged
                        .id(ids[a])
                        .cmp(&arranged.id(ids[b]))
                        .then_with(|| arranged.compare(slot_type, series.words[a], series.words[b]))
                })
                .unwrap_or(start);
            series.words.swap(greatest, end - 1);
            ids.swap(greatest, end - 1);
            start = end;
        }
    }

    /// Appends a row of aggregates for each instant, column by column.
    fn emit(&mut self, ranks: &[Vec<f64>]) {
        let Self { instants, series, frames, arranged, plan, .. } = self;
        let columns = &mut self.answers.columns;
        for slot in bits(self.used_mask) {
            series[slot].see(instants);
        }
        for frame in frames.iter_mut() {
            frame.walk(&series[frame.slot], instants);
        }
        for of_slot in &self.totalled {
            let of_slot_frames = || of_slot.frames.iter().map(|&frame| &frames[frame]);
            let reaches = of_slot_frames().map(Frame::reach);
            let reach = reaches.reduce(|a, b| Span { low: a.low.min(b.low), high: a.high.max(b.high) });
            let reach = reach.unwrap_or_default();
            let Series { words, totals, .. } = &mut series[of_slot.slot];
            // Windows that are far apart are each added up on their own.
            let held = of_slot_frames().flat_map(|frame| &frame.spans).map(|span| span.count()).sum::<usize>();
            if held < reach.count() {
                totals.clear();
            } else {
                totals.fill(plan.slots[of_slot.slot], words, reach, of_slot.with_squares);
            }
        }
        for &Asked { column, what } in &self.direct {
            let column = &mut columns[column];
            match what {
                Direct::Count(frame) => {
                    frames[frame].spans.iter().for_each(|span| column.push_i64(span.count() as i64));
                }
                Direct::Last(frame) => {
                    let Frame { slot, spans, .. } = &frames[frame];
                    let of_slot = &series[*slot];
                    for span in spans {
                        match (span.count() > 0).then(|| of_slot.words[span.high as usize - 1]) {
                            Some(word) => push_word(column, plan.slots[*slot], word, arranged),
                            None => column.push_null(),
                        }
                    }
                }
                Direct::LastTime(frame) => {
                    let Frame { slot, spans, .. } = &frames[frame];
                    for span in spans {
                        match (span.count() > 0).then(|| series[*slot].times_us[span.high as usize - 1]) {
                            Some(time_us) => column.push_i64(time_us),
                            None => column.push_null(),
                        }
                    }
                }
                Direct::Rank(global) => {
                    instants.iter().for_each(|instant| column.push_f64(ranks[global][instant.label as usize]));
                }
            }
        }
        for sum in &self.sums {
            let frame = &frames[sum.frame];
            sum.answer(frame, &series[frame.slot], columns);
        }
        for values in &mut self.values {
            let frame = &frames[values.frame];
            values.answer(frame, &series[frame.slot].words, &arranged.texts, columns);
        }
        for sessions in &mut self.sessions {
            let frame = &frames[sessions.frame];
            sessions.answer(frame, &series[frame.slot].times_us, instants, columns);
        }
        for extreme in &mut self.extremes {
            let frame = &frames[extreme.frame];
            extreme.answer(frame, &series[frame.slot].words, &mut columns[extreme.column]);
        }
        for moments in &self.moments {
            let frame = &frames[moments.frame];
            moments.answer(frame, &series[frame.slot], columns);
        }
        for ordered in &mut self.ordered {
            let (frame, places) = (&frames[ordered.frame], &self.places[ordered.places]);
            ordered.answer(frame, places, &arranged.texts, columns);
        }
        instants.clear();
    }
}

fn push_word(column: &mut Column, slot_type: SlotType, word: u64, arranged: &Arranged) {
    match slot_type {
        SlotType::I64 | SlotType::Timestamp => column.push_i64(word.cast_signed()),
        SlotType::F64 => column.push_f64(f64::from_bits(word)),
        SlotType::Mark | SlotType::Bool => column.push_bool(word != 0),
        SlotType::Utf8 => column.push_bytes(arranged.texts.get(word as u32)),
    }
}

#[cfg(test)]
mod tests;
