//! The temporal join: aggregates of many (key, T) at once, from sorted history instead of state.
//!
//! Contributions come into a [`History`] as they are read; [`Arranged`] is one slice of the keys of all
//! [`Histories`] by (key, time); [`answer`] orders the questions likewise and sweeps each key once, sliding every window from one
//! instant to the next. Values are exactly those of [`crate::read`]: both are the same order-free exact
//! aggregates over the same contributions with `event_time < T`. Ranks among all entities need all
//! entities' contributions and are swept along time by [`ranks`] beforehand.
//!
//! The functions are pure and single-threaded; a driver runs slices in parallel.

mod arrange;
mod history;
mod rank;
mod unload;
mod window;

pub use arrange::Arranged;
pub use history::{Histories, History, NO_KEY};
pub use rank::{RankHistory, Standings, Turns, ranks};

use crate::accumulator::distinct::{estimate, hash_of};
use crate::accumulator::extreme::End;
use crate::accumulator::quantile::quantile;
use crate::column::{Column, Values};
use crate::plan::{AggregatePlan, Plan};
use crate::view::{Operator, SlotType, WindowSpec};
use history::{Row, bits};
use window::{ExtremeWindow, Frame, MomentsWindow, Order, OrderedWindow, Series, Sessions, SumWindow, ValuesWindow};

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
    questions.sort_unstable_by_key(|question| (question.key, question.as_of_us));
    let mut sweep = Sweep::new(plan, arranged);
    for group in questions.chunk_by(|a, b| a.key == b.key) {
        sweep.key((group[0].key / arranged.slices) as usize, group, ranks);
    }
    sweep.answers
}

/// Where an aggregate's value is found.
#[derive(Debug, Clone, Copy)]
enum Lane {
    Count(usize),
    Sum(usize),
    /// Index of the sum and of its frame.
    Mean(usize, usize),
    Values(usize, usize),
    Last(usize),
    LastTime(usize),
    SessionCount(usize, WindowSpec),
    SessionDuration(usize, WindowSpec),
    Rank(usize),
    Extreme(usize),
    Variance(usize),
    StdDev(usize),
    /// Index of the buckets, and the place in millionths.
    Quantile(usize, u32),
    CountDistinct(usize),
    ApproxDistinct(usize, usize),
    CollectSet(usize, usize),
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
    sums: Vec<SumWindow>,
    values: Vec<ValuesWindow>,
    sessions: Vec<Sessions>,
    extremes: Vec<ExtremeWindow>,
    moments: Vec<MomentsWindow>,
    ordered: Vec<OrderedWindow>,
    /// By string code its place in byte order, and the codes in that order, if some set is in that order.
    ranks: Vec<u64>,
    by_rank: Vec<u32>,
    /// By string code its fixed hash, if some window asks for it.
    hashes: Vec<u64>,
    lanes: Vec<Lane>,
    top: Vec<u32>,
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
            sums: Vec::new(),
            values: Vec::new(),
            sessions: Vec::new(),
            extremes: Vec::new(),
            moments: Vec::new(),
            ordered: Vec::new(),
            ranks: Vec::new(),
            by_rank: Vec::new(),
            hashes: Vec::new(),
            lanes: Vec::new(),
            top: Vec::new(),
            answers,
        };
        for aggregate in &plan.aggregates {
            let lane = sweep.lane(aggregate);
            sweep.lanes.push(lane);
        }
        let texts = &arranged.texts;
        if sweep.ordered.iter().any(|window| window.order == Order::Rank) {
            let (ranks, by_rank) = texts.ranks();
            (sweep.ranks, sweep.by_rank) = (ranks.into_iter().map(u64::from).collect(), by_rank);
        }
        if sweep.ordered.iter().any(|window| window.order == Order::Hash) {
            sweep.hashes = (0..texts.len() as u32).map(|code| hash_of(texts.get(code))).collect();
        }
        sweep
    }

    fn lane(&mut self, aggregate: &AggregatePlan) -> Lane {
        let accumulator = &self.plan.accumulators[aggregate.accumulator];
        let (slot, slot_type) = (accumulator.slot, accumulator.slot_type);
        if let (Operator::RelativeRank, Some(global)) = (aggregate.operator, aggregate.global) {
            return Lane::Rank(global);
        }
        self.used_mask |= 1 << slot;
        let mut frame_of = |window: WindowSpec| {
            find_or_push(
                &mut self.frames,
                |frame| frame.slot == slot && frame.window == window,
                || Frame { slot, window, low: 0, high: 0 },
            )
        };
        match aggregate.operator {
            Operator::SessionCount { gap_us } | Operator::SessionDurationSum { gap_us } => {
                let frame = frame_of(WindowSpec::Lifetime);
                let same = |sessions: &Sessions| sessions.frame == frame && sessions.gap_us == gap_us;
                let sessions = find_or_push(&mut self.sessions, same, || Sessions::new(frame, gap_us));
                match aggregate.operator {
                    Operator::SessionCount { .. } => Lane::SessionCount(sessions, aggregate.window),
                    _ => Lane::SessionDuration(sessions, aggregate.window),
                }
            }
            Operator::Sum | Operator::Mean => {
                let frame = frame_of(aggregate.window);
                let sum = find_or_push(&mut self.sums, |sum| sum.frame == frame, || SumWindow::new(frame, slot_type));
                if aggregate.operator == Operator::Sum { Lane::Sum(sum) } else { Lane::Mean(sum, frame) }
            }
            Operator::TopK { k } => {
                let frame = frame_of(aggregate.window);
                let codes = self.arranged.texts.len();
                let values =
                    find_or_push(&mut self.values, |values| values.frame == frame, || ValuesWindow::new(frame, codes));
                Lane::Values(values, k)
            }
            Operator::Last => {
                self.last_mask |= 1 << slot;
                Lane::Last(frame_of(aggregate.window))
            }
            Operator::LastTime => Lane::LastTime(frame_of(aggregate.window)),
            Operator::Min | Operator::Max => {
                let frame = frame_of(aggregate.window);
                let end = if aggregate.operator == Operator::Max { End::Greatest } else { End::Least };
                let same = |window: &ExtremeWindow| window.frame == frame && window.end == end;
                Lane::Extreme(find_or_push(&mut self.extremes, same, || ExtremeWindow::new(frame, end, slot_type)))
            }
            Operator::Variance | Operator::StdDev => {
                let frame = frame_of(aggregate.window);
                let same = |window: &MomentsWindow| window.frame == frame;
                let moments = find_or_push(&mut self.moments, same, || MomentsWindow::new(frame, slot_type));
                if aggregate.operator == Operator::Variance { Lane::Variance(moments) } else { Lane::StdDev(moments) }
            }
            Operator::CountDistinct => {
                let frame = frame_of(aggregate.window);
                let codes = self.arranged.texts.len();
                let same = |values: &ValuesWindow| values.frame == frame;
                Lane::CountDistinct(find_or_push(&mut self.values, same, || ValuesWindow::new(frame, codes)))
            }
            Operator::Quantile { ppm } => {
                let frame = frame_of(aggregate.window);
                Lane::Quantile(self.ordered(frame, Order::Bucket(slot_type)), ppm)
            }
            Operator::ApproxDistinct { k } => {
                let frame = frame_of(aggregate.window);
                Lane::ApproxDistinct(self.ordered(frame, Order::Hash), k)
            }
            Operator::CollectSet { k } => {
                let frame = frame_of(aggregate.window);
                Lane::CollectSet(self.ordered(frame, Order::Rank), k)
            }
            Operator::Count | Operator::RelativeRank => Lane::Count(frame_of(aggregate.window)),
        }
    }

    /// The index of the window over a frame in an order.
    fn ordered(&mut self, frame: usize, order: Order) -> usize {
        let same = |window: &OrderedWindow| window.frame == frame && window.order == order;
        find_or_push(&mut self.ordered, same, || OrderedWindow::new(frame, order))
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
            seen += rows[seen..].partition_point(|row| row.time_us < same[0].as_of_us);
            self.answer(same, &rows[..seen], ranks);
        }
    }

    /// Answers questions of one instant, `seen` being what is seen of the rows the series hold.
    fn answer(&mut self, same: &[Question], seen: &[Row], ranks: &[Vec<f64>]) {
        let as_of_us = same[0].as_of_us;
        let newest_us = seen.last().map(|newest| newest.time_us);
        let row = u32::try_from(self.answers.as_of_us.len()).expect("labels are numbered by u32");
        let until_us = newest_us.map_or(i64::MIN, |newest_us| newest_us.saturating_add(1));
        self.emit(as_of_us, until_us, |global| ranks[global][same[0].label as usize]);
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
                self.answer(same, &held[..seen], ranks);
            }
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
        self.frames.iter_mut().for_each(Frame::restart);
        self.sums.iter_mut().for_each(SumWindow::restart);
        self.values.iter_mut().for_each(ValuesWindow::restart);
        self.extremes.iter_mut().for_each(ExtremeWindow::restart);
        self.moments.iter_mut().for_each(MomentsWindow::restart);
        self.ordered.iter_mut().for_each(OrderedWindow::restart);
        for sessions in &mut self.sessions {
            sessions.restart(&self.series[self.frames[sessions.frame].slot].times_us);
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

    /// Slides everything to an instant and appends a row of aggregates; of the series only what is before `until_us`
    /// is seen.
    fn emit(&mut self, as_of_us: i64, until_us: i64, rank: impl Fn(usize) -> f64) {
        for frame in &mut self.frames {
            frame.advance(&self.series[frame.slot].times_us, as_of_us, until_us);
        }
        for sum in &mut self.sums {
            let frame = &self.frames[sum.frame];
            sum.advance(frame, &self.series[frame.slot].words);
        }
        for values in &mut self.values {
            let frame = &self.frames[values.frame];
            values.advance(frame, &self.series[frame.slot].words);
        }
        for extreme in &mut self.extremes {
            let frame = &self.frames[extreme.frame];
            extreme.advance(frame, &self.series[frame.slot].words);
        }
        for moments in &mut self.moments {
            let frame = &self.frames[moments.frame];
            moments.advance(frame, &self.series[frame.slot].words);
        }
        for ordered in &mut self.ordered {
            let frame = &self.frames[ordered.frame];
            let of_codes = if ordered.order == Order::Hash { &self.hashes } else { &self.ranks };
            ordered.advance(frame, &self.series[frame.slot].words, of_codes);
        }
        let mut columns = std::mem::take(&mut self.answers.columns);
        for (column, &lane) in columns.iter_mut().zip(&self.lanes) {
            match lane {
                Lane::Count(frame) => column.push_i64(self.frames[frame].count() as i64),
                Lane::Sum(sum) => push_f64(column, self.sums[sum].round()),
                Lane::Mean(sum, frame) => {
                    let count = self.frames[frame].count();
                    let sum = self.sums[sum].round().filter(|_| count > 0);
                    push_f64(column, sum.map(|sum| sum / count as f64));
                }
                Lane::Values(values, k) => {
                    self.values[values].top(k, &self.arranged.texts, &mut self.top);
                    push_list(column, self.top.iter().map(|&code| self.arranged.texts.get(code)));
                }
                Lane::Last(frame) => {
                    let Frame { slot, low, high, .. } = self.frames[frame];
                    match (low < high).then(|| self.series[slot].words[high - 1]) {
                        Some(word) => push_word(column, self.plan.slots[slot], word, self.arranged),
                        None => column.push_null(),
                    }
                }
                Lane::LastTime(frame) => {
                    let Frame { slot, low, high, .. } = self.frames[frame];
                    match (low < high).then(|| self.series[slot].times_us[high - 1]) {
                        Some(time_us) => column.push_i64(time_us),
                        None => column.push_null(),
                    }
                }
                Lane::SessionCount(sessions, window) => column.push_i64(self.sessions_at(sessions, window, as_of_us).0),
                Lane::SessionDuration(sessions, window) => {
                    column.push_i64(self.sessions_at(sessions, window, as_of_us).1)
                }
                Lane::Rank(global) => column.push_f64(rank(global)),
                Lane::Extreme(extreme) => {
                    let extreme = &self.extremes[extreme];
                    let slot = self.frames[extreme.frame].slot;
                    match extreme.word(&self.series[slot].words) {
                        Some(word) => push_word(column, self.plan.slots[slot], word, self.arranged),
                        None => column.push_null(),
                    }
                }
                Lane::Variance(moments) => push_f64(column, self.moments[moments].moments().variance()),
                Lane::StdDev(moments) => push_f64(column, self.moments[moments].moments().stddev()),
                Lane::Quantile(window, ppm) => {
                    let window = &self.ordered[window];
                    let total = self.frames[window.frame].count() as u64;
                    push_f64(column, quantile(window.buckets(), total, ppm));
                }
                Lane::CountDistinct(values) => column.push_i64(self.values[values].distinct() as i64),
                Lane::ApproxDistinct(window, k) => {
                    let hashes = self.ordered[window].keys();
                    let count = hashes.len();
                    column.push_i64(estimate(hashes, count, k));
                }
                Lane::CollectSet(window, k) => {
                    let codes = self.ordered[window].keys().take(k).map(|rank| self.by_rank[rank as usize]);
                    push_list(column, codes.map(|code| self.arranged.texts.get(code)));
                }
            }
        }
        self.answers.columns = columns;
    }

    fn sessions_at(&self, sessions: usize, window: WindowSpec, as_of_us: i64) -> (i64, i64) {
        let sessions = &self.sessions[sessions];
        let frame = &self.frames[sessions.frame];
        sessions.ending_in(&self.series[frame.slot].times_us, frame.high, window.bounds(as_of_us))
    }
}

fn push_f64(column: &mut Column, value: Option<f64>) {
    match value {
        Some(value) => column.push_f64(value),
        None => column.push_null(),
    }
}

fn push_list<'a>(column: &mut Column, elements: impl Iterator<Item = &'a [u8]>) {
    if let Values::List { offsets, child } = &mut column.values {
        elements.for_each(|element| child.push_bytes(element));
        offsets.push(u32::try_from(child.len()).expect("a column holds less than 2^32 elements"));
    }
    column.mark_valid();
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
