//! What slides along one key's sorted contributions: window bounds, exact sums, value counts, sessions.
//!
//! Each structure answers all instants of a key at once, its columns being appended to instant by instant: what it works on
//! stays near, and where a window has not moved since the instant before, the value before is given again.

use super::counts::Counts;
use super::history::Texts;
use super::totals::Totals;
use crate::accumulator::distinct::{estimate, hash_of};
use crate::accumulator::exact_sum::ExactSum;
use crate::accumulator::extreme::End;
use crate::accumulator::moments::Moments;
use crate::accumulator::quantile::{bucket_of_word, rank, representative};
use crate::column::{Column, Values};
use crate::view::{SlotType, WindowSpec};

/// One key's contributions to one slot, rising in time; `words` is empty for slots whose values nobody reads.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) times_us: Vec<i64>,
    pub(super) words: Vec<u64>,
    pub(super) totals: Totals,
    /// How many of the first elements are seen at each of the key's instants.
    seen: Vec<u32>,
}

impl Series {
    /// Finds what is seen at the instants, which rise.
    pub(super) fn see(&mut self, instants: &[Instant]) {
        self.seen.clear();
        self.seen.reserve(instants.len());
        let mut seen = 0;
        for instant in instants {
            seen = gallop(&self.times_us, seen, instant.until_us);
            // A slice of keys holds less than 2^32 values.
            self.seen.push(seen as u32);
        }
    }
}

/// An instant at which a key is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instant {
    pub(super) as_of_us: i64,
    /// Only what is before it is seen, whatever the windows.
    pub(super) until_us: i64,
    /// One of its labels.
    pub(super) label: u32,
}

/// The elements `low..high` of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) low: u32,
    pub(super) high: u32,
}

impl Span {
    pub(super) fn count(self) -> usize {
        (self.high - self.low) as usize
    }

    fn range(self) -> std::ops::Range<usize> {
        self.low as usize..self.high as usize
    }
}

/// Which elements of a series a window holds at each of a key's instants; neither end ever goes back.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) slot: usize,
    pub(super) window: WindowSpec,
    pub(super) spans: Vec<Span>,
}

impl Frame {
    pub(super) fn new(slot: usize, window: WindowSpec) -> Self {
        Self { slot, window, spans: Vec::new() }
    }

    /// Finds the spans of all instants, which rise and for which the series knows what is seen.
    pub(super) fn walk(&mut self, series: &Series, instants: &[Instant]) {
        let times_us = series.times_us.as_slice();
        self.spans.clear();
        self.spans.reserve(instants.len());
        let (mut low, mut high) = (0, 0);
        // Most windows end at the instant.
        let ends_before = matches!(self.window, WindowSpec::Hopping { .. });
        for (instant, &seen) in instants.iter().zip(&series.seen) {
            let (start_us, end_us) = self.window.bounds(instant.as_of_us);
            low = gallop(times_us, low, start_us);
            let end = if ends_before {
                high = gallop(times_us, high, end_us);
                high.min(seen as usize)
            } else {
                seen as usize
            };
            // What was not known yet may lie before the start.
            self.spans.push(Span { low: low as u32, high: end.max(low) as u32 });
        }
    }

    /// From the first element of all spans to the last.
    pub(super) fn reach(&self) -> Span {
        let (first, last) = (self.spans.first(), self.spans.last());
        Span { low: first.map_or(0, |span| span.low), high: last.map_or(0, |span| span.high) }
    }
}

/// The first index at or after `from` whose time is not before `bound_us`.
fn gallop(times_us: &[i64], from: usize, bound_us: i64) -> usize {
    gallop_while(times_us, from, |&time_us| time_us < bound_us)
}

/// The first index at or after `from` whose item is not `before`, as the first items are. The next few are looked at one
/// after the other; then steps double, then halve, so the cost is logarithmic in the distance and a walk over all of them
/// stays linear.
#[inline]
pub(super) fn gallop_while<T>(items: &[T], from: usize, before: impl Fn(&T) -> bool) -> usize {
    const NEAR: usize = 8;
    let mut low = from;
    let near = items.len().min(from + NEAR);
    while low < near {
        if !before(&items[low]) {
            return low;
        }
        low += 1;
    }
    let mut step = 1;
    while low + step <= items.len() && before(&items[low + step - 1]) {
        low += step;
        step *= 2;
    }
    let high = (low + step - 1).min(items.len());
    low + items[low..high].partition_point(before)
}

/// How to get from the elements held to those of a span.
enum Step {
    /// Take away `.0`, add `.1`.
    Slide(std::ops::Range<usize>, std::ops::Range<usize>),
    /// Forget everything, add these.
    Afresh(std::ops::Range<usize>),
}

/// The cheapest step from a span to a later one.
fn step(from: Span, to: Span) -> Step {
    let sliding = (to.low - from.low) as usize + (to.high - from.high) as usize;
    if sliding < to.count() {
        Step::Slide(from.low as usize..to.low as usize, from.high as usize..to.high as usize)
    } else {
        Step::Afresh(to.range())
    }
}

/// A column and what it is to hold.
#[derive(Debug)]
pub(super) struct Asked<A> {
    pub(super) column: usize,
    pub(super) what: A,
}

/// What is asked of a sum.
#[derive(Debug, Clone, Copy)]
pub(super) enum OfSum {
    Sum,
    Mean,
}

/// The exact sum of a frame's values.
#[derive(Debug)]
pub(super) struct SumWindow {
    pub(super) frame: usize,
    pub(super) asked: Vec<Asked<OfSum>>,
    slot_type: SlotType,
}

impl SumWindow {
    pub(super) fn new(frame: usize, slot_type: SlotType) -> Self {
        Self { frame, asked: Vec::new(), slot_type }
    }

    pub(super) fn answer(&self, frame: &Frame, series: &Series, columns: &mut [Column]) {
        if series.totals.has_sums() {
            return self.give(frame, columns, |span| series.totals.sum(span).round());
        }
        let (mut held, mut sum) = (Span::default(), ExactSum::new());
        self.give(frame, columns, |span| {
            match step(held, span) {
                Step::Slide(gone, come) => {
                    self.take(&mut sum, &series.words[gone], true);
                    self.take(&mut sum, &series.words[come], false);
                }
                Step::Afresh(all) => {
                    sum = ExactSum::new();
                    self.take(&mut sum, &series.words[all], false);
                }
            }
            held = span;
            sum.round()
        });
    }

    /// Gives the values at each span, `sum_of` being asked for its sum unless it is the span before.
    fn give(&self, frame: &Frame, columns: &mut [Column], mut sum_of: impl FnMut(Span) -> Option<f64>) {
        let (mut before, mut sum) = (Span::default(), Some(0.0));
        for &span in &frame.spans {
            if span != before {
                (before, sum) = (span, sum_of(span));
            }
            for asked in &self.asked {
                push_f64(
                    &mut columns[asked.column],
                    match asked.what {
                        OfSum::Sum => sum,
                        OfSum::Mean => sum.filter(|_| span.count() > 0).map(|sum| sum / span.count() as f64),
                    },
                );
            }
        }
    }

    fn take(&self, sum: &mut ExactSum, words: &[u64], away: bool) {
        match (self.slot_type == SlotType::I64, away) {
            (true, false) => words.iter().for_each(|word| sum.add_i64(word.cast_signed())),
            (true, true) => words.iter().for_each(|word| sum.sub_i64(word.cast_signed())),
            (false, false) => words.iter().for_each(|&word| sum.add(f64::from_bits(word))),
            (false, true) => words.iter().for_each(|&word| sum.sub(f64::from_bits(word))),
        }
    }
}

/// What is asked of moments.
#[derive(Debug, Clone, Copy)]
pub(super) enum OfMoments {
    Variance,
    StdDev,
}

/// Count, sum and sum of squares of a frame's values.
#[derive(Debug)]
pub(super) struct MomentsWindow {
    pub(super) frame: usize,
    pub(super) asked: Vec<Asked<OfMoments>>,
    slot_type: SlotType,
}

impl MomentsWindow {
    pub(super) fn new(frame: usize, slot_type: SlotType) -> Self {
        Self { frame, asked: Vec::new(), slot_type }
    }

    pub(super) fn answer(&self, frame: &Frame, series: &Series, columns: &mut [Column]) {
        let of_moments = |what: OfMoments, moments: &Moments| match what {
            OfMoments::Variance => moments.variance(),
            OfMoments::StdDev => moments.stddev(),
        };
        for asked in &self.asked {
            let column = &mut columns[asked.column];
            if series.totals.has_squares() {
                give_f64(frame, column, |span| of_moments(asked.what, &series.totals.moments(span)));
                continue;
            }
            let (mut held, mut moments) = (Span::default(), Moments::new());
            let (words, slot_type) = (&series.words, self.slot_type);
            give_f64(frame, column, |span| {
                match step(held, span) {
                    Step::Slide(gone, come) => {
                        words[gone].iter().for_each(|&word| moments.sub_word(slot_type, word));
                        words[come].iter().for_each(|&word| moments.add_word(slot_type, word));
                    }
                    Step::Afresh(all) => {
                        moments = Moments::new();
                        words[all].iter().for_each(|&word| moments.add_word(slot_type, word));
                    }
                }
                held = span;
                of_moments(asked.what, &moments)
            });
        }
    }
}

/// Appends a value for each span, `of` being asked for it unless it is the span before; of nothing there is none.
fn give_f64(frame: &Frame, column: &mut Column, mut of: impl FnMut(Span) -> Option<f64>) {
    let (mut before, mut value) = (Span::default(), None);
    for &span in &frame.spans {
        if span != before {
            (before, value) = (span, of(span));
        }
        push_f64(column, value);
    }
}

/// The least or greatest value of a frame. It cannot be taken away again, so the elements are in two runs: of the older
/// one it is known what the extreme is from each element on, of the newer one what it is of all. Once the older run has
/// left, what is there becomes the older one, element by element from the newest on; so each is looked at twice.
#[derive(Debug)]
pub(super) struct ExtremeWindow {
    pub(super) frame: usize,
    pub(super) end: End,
    pub(super) column: usize,
    slot_type: SlotType,
    /// The key's values as numbers of which the greatest is the extreme; those of the older run have been replaced by the
    /// greatest from there on.
    numbers: Vec<i64>,
}

impl ExtremeWindow {
    pub(super) fn new(frame: usize, end: End, slot_type: SlotType, column: usize) -> Self {
        Self { frame, end, column, slot_type, numbers: Vec::new() }
    }

    pub(super) fn answer(&mut self, frame: &Frame, words: &[u64], column: &mut Column) {
        let is_float = self.slot_type == SlotType::F64;
        let number = |word: u64| if is_float { total_order(word.cast_signed()) } else { word.cast_signed() };
        self.numbers.clear();
        match self.end {
            End::Greatest => self.numbers.extend(words.iter().map(|&word| number(word))),
            End::Least => self.numbers.extend(words.iter().map(|&word| !number(word))),
        }
        let end = self.end;
        slide_greatest(&mut self.numbers, frame, |greatest| match greatest {
            None => column.push_null(),
            Some(greatest) => {
                let number = if end == End::Least { !greatest } else { greatest };
                match is_float {
                    true => column.push_f64(f64::from_bits(total_order(number).cast_unsigned())),
                    false => column.push_i64(number),
                }
            }
        });
    }
}

/// Gives the greatest number of each span; see [`ExtremeWindow`] for what becomes of the numbers.
fn slide_greatest(numbers: &mut [i64], frame: &Frame, mut give: impl FnMut(Option<i64>)) {
    // The newer run, and its greatest number.
    let (mut from, mut end, mut newer) = (0, 0, i64::MIN);
    for &span in &frame.spans {
        let Span { low, high } = span;
        if low >= from {
            let mut greatest = i64::MIN;
            for number in numbers[span.range()].iter_mut().rev() {
                greatest = greatest.max(*number);
                *number = greatest;
            }
            (from, newer) = (high, i64::MIN);
        } else {
            newer = numbers[end as usize..high as usize].iter().fold(newer, |newer, &number| newer.max(number));
        }
        end = high;
        give(match span.count() {
            0 => None,
            _ => Some(newer.max(numbers[low as usize])),
        });
    }
}

/// From a float's bits to a number that rises with it in the total order, and back: as `f64::total_cmp` does, of a negative
/// one all bits but the sign are turned round.
fn total_order(bits: i64) -> i64 {
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// By what the values of an [`OrderedWindow`] are told apart and ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By bucket.
    Bucket(SlotType),
    /// By the bytes of the string.
    Bytes,
    /// By the fixed hash of the string.
    Hash,
}

/// The values that a slot has in a slice, numbered in an order.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) slot: usize,
    pub(super) order: Order,
    by: By,
    /// By place: the string's code, or its hash.
    values: Vec<u64>,
    /// The places of the present key's values.
    pub(super) of_key: Vec<u32>,
}

#[derive(Debug)]
enum By {
    /// From the least bucket on each has a place.
    Bucket { least: i32, most: i32 },
    /// By code; what is no code of the slot is `u32::MAX`.
    Code(Vec<u32>),
}

impl Places {
    pub(super) fn new(slot: usize, order: Order) -> Self {
        let by = match order {
            Order::Bucket(_) => By::Bucket { least: i32::MAX, most: i32::MIN },
            Order::Bytes | Order::Hash => By::Code(Vec::new()),
        };
        Self { slot, order, by, values: Vec::new(), of_key: Vec::new() }
    }

    /// Takes note of a value of the slice.
    pub(super) fn meet(&mut self, word: u64, texts: &Texts) {
        match (&mut self.by, self.order) {
            (By::Bucket { least, most }, Order::Bucket(slot_type)) => {
                let bucket = bucket_of_word(slot_type, word);
                (*least, *most) = (bucket.min(*least), bucket.max(*most));
            }
            (By::Code(places), _) => {
                places.resize(texts.len(), u32::MAX);
                let place = &mut places[word as usize];
                if *place == u32::MAX {
                    *place = 0;
                    self.values.push(word);
                }
            }
            (By::Bucket { .. }, _) => {}
        }
    }

    /// Numbers the values met.
    pub(super) fn number(&mut self, texts: &Texts) {
        let By::Code(places) = &mut self.by else { return };
        let codes = std::mem::take(&mut self.values);
        if self.order == Order::Hash {
            // What has one hash is one value.
            let mut hashes: Vec<(u64, u64)> =
                codes.into_iter().map(|code| (hash_of(texts.get(code as u32)), code)).collect();
            hashes.sort_unstable();
            for (hash, code) in hashes {
                if self.values.last() != Some(&hash) {
                    self.values.push(hash);
                }
                places[code as usize] = self.values.len() as u32 - 1;
            }
        } else {
            self.values = codes;
            self.values.sort_unstable_by_key(|&code| texts.get(code as u32));
            (0..).zip(&self.values).for_each(|(place, &code)| places[code as usize] = place);
        }
    }

    /// The number of places.
    pub(super) fn count(&self) -> usize {
        match self.by {
            By::Bucket { least, most } if least <= most => (most - least) as usize + 1,
            By::Bucket { .. } => 0,
            By::Code(_) => self.values.len(),
        }
    }

    /// Goes on to a key's values.
    pub(super) fn fill(&mut self, words: &[u64]) {
        self.of_key.clear();
        match (&self.by, self.order) {
            (By::Bucket { least, .. }, Order::Bucket(slot_type)) => {
                self.of_key.extend(words.iter().map(|&word| (bucket_of_word(slot_type, word) - least) as u32));
            }
            (By::Code(places), _) => self.of_key.extend(words.iter().map(|&code| places[code as usize])),
            (By::Bucket { .. }, _) => {}
        }
    }
}

/// What is asked of values in an order.
#[derive(Debug, Clone, Copy)]
pub(super) enum OfOrdered {
    /// The place in millionths.
    Quantile(u32),
    ApproxDistinct(usize),
    CollectSet(usize),
}

/// How often each value occurs in a frame, in an order of the values.
#[derive(Debug)]
pub(super) struct OrderedWindow {
    pub(super) frame: usize,
    /// Index of the places of its slot's values.
    pub(super) places: usize,
    pub(super) asked: Vec<Asked<OfOrdered>>,
    counts: Counts,
}

impl OrderedWindow {
    pub(super) fn new(frame: usize, places: usize) -> Self {
        Self { frame, places, asked: Vec::new(), counts: Counts::default() }
    }

    pub(super) fn answer(&mut self, frame: &Frame, places: &Places, texts: &Texts, columns: &mut [Column]) {
        let counts = &mut self.counts;
        counts.restart(places.count());
        let mut held = Span::default();
        for &span in &frame.spans {
            match step(held, span) {
                Step::Slide(gone, come) => {
                    places.of_key[gone].iter().for_each(|&place| counts.remove(place));
                    places.of_key[come].iter().for_each(|&place| counts.add(place));
                }
                Step::Afresh(all) => {
                    counts.clear();
                    places.of_key[all].iter().for_each(|&place| counts.add(place));
                }
            }
            held = span;
            for asked in &self.asked {
                let column = &mut columns[asked.column];
                match (asked.what, &places.by) {
                    (OfOrdered::Quantile(ppm), By::Bucket { least, .. }) => {
                        let place = counts.of_rank(rank(span.count() as u64, ppm));
                        push_f64(column, place.map(|place| representative(least + place as i32)));
                    }
                    (OfOrdered::ApproxDistinct(k), By::Code(_)) => {
                        let hashes = counts.places().map(|place| places.values[place]);
                        column.push_i64(estimate(hashes, counts.distinct(), k));
                    }
                    (OfOrdered::CollectSet(k), By::Code(_)) => {
                        let codes = counts.places().take(k).map(|place| places.values[place]);
                        push_list(column, codes.map(|code| texts.get(code as u32)));
                    }
                    (OfOrdered::Quantile(_), By::Code(_)) | (_, By::Bucket { .. }) => column.push_null(),
                }
            }
        }
    }
}

/// What is asked of values without an order.
#[derive(Debug, Clone, Copy)]
pub(super) enum OfValues {
    Top(usize),
    Distinct,
}

/// How often each value occurs in a frame, by dictionary code.
#[derive(Debug)]
pub(super) struct ValuesWindow {
    pub(super) frame: usize,
    pub(super) asked: Vec<Asked<OfValues>>,
    /// Per code its count and its place in `present`.
    counts: Vec<(u32, u32)>,
    /// The codes with a count above 0.
    present: Vec<u32>,
}

impl ValuesWindow {
    pub(super) fn new(frame: usize, codes: usize) -> Self {
        Self { frame, asked: Vec::new(), counts: vec![(0, 0); codes], present: Vec::new() }
    }

    pub(super) fn answer(&mut self, frame: &Frame, words: &[u64], texts: &Texts, columns: &mut [Column]) {
        self.clear();
        let (mut held, mut top) = (Span::default(), Vec::new());
        for &span in &frame.spans {
            match step(held, span) {
                Step::Slide(gone, come) => {
                    words[gone].iter().for_each(|&code| self.remove(code as u32));
                    words[come].iter().for_each(|&code| self.add(code as u32));
                }
                Step::Afresh(all) => {
                    self.clear();
                    words[all].iter().for_each(|&code| self.add(code as u32));
                }
            }
            held = span;
            for asked in &self.asked {
                let column = &mut columns[asked.column];
                match asked.what {
                    OfValues::Distinct => column.push_i64(self.present.len() as i64),
                    OfValues::Top(k) => {
                        self.top(k, texts, &mut top);
                        push_list(column, top.iter().map(|&code| texts.get(code)));
                    }
                }
            }
        }
    }

    fn clear(&mut self) {
        for code in self.present.drain(..) {
            self.counts[code as usize].0 = 0;
        }
    }

    fn add(&mut self, code: u32) {
        let (count, place) = &mut self.counts[code as usize];
        if *count == 0 {
            *place = self.present.len() as u32;
            self.present.push(code);
        }
        *count += 1;
    }

    fn remove(&mut self, code: u32) {
        let (count, place) = &mut self.counts[code as usize];
        *count -= 1;
        if *count == 0 {
            let place = *place as usize;
            self.present.swap_remove(place);
            if let Some(&moved) = self.present.get(place) {
                self.counts[moved as usize].1 = place as u32;
            }
        }
    }

    /// The up to `k` codes that occur most, most first, ties by the value's bytes.
    fn top(&self, k: usize, texts: &Texts, top: &mut Vec<u32>) {
        top.clear();
        let before = |a: u32, b: u32| {
            let (count_a, count_b) = (self.counts[a as usize].0, self.counts[b as usize].0);
            count_a > count_b || (count_a == count_b && texts.get(a) < texts.get(b))
        };
        for &code in &self.present {
            let place = top.partition_point(|&better| before(better, code));
            if place < k {
                top.truncate(k - 1);
                top.insert(place, code);
            }
        }
    }
}

/// What is asked of sessions that end in a window.
#[derive(Debug, Clone, Copy)]
pub(super) enum OfSessions {
    Count(WindowSpec),
    Duration(WindowSpec),
}

/// One key's runs of contributions without a gap above `gap_us`.
#[derive(Debug)]
pub(super) struct Sessions {
    /// The frame of everything before T in the slot.
    pub(super) frame: usize,
    pub(super) gap_us: i64,
    pub(super) asked: Vec<Asked<OfSessions>>,
    /// The index of each session's first contribution.
    starts: Vec<usize>,
    /// The time of each session's last contribution.
    ends_us: Vec<i64>,
    /// The durations of the sessions before each, added up.
    durations_us: Vec<i64>,
}

impl Sessions {
    pub(super) fn new(frame: usize, gap_us: i64) -> Self {
        Self { frame, gap_us, asked: Vec::new(), starts: Vec::new(), ends_us: Vec::new(), durations_us: Vec::new() }
    }

    pub(super) fn answer(&mut self, frame: &Frame, times_us: &[i64], instants: &[Instant], columns: &mut [Column]) {
        self.find(times_us);
        for (instant, span) in instants.iter().zip(&frame.spans) {
            let ending_in =
                |window: WindowSpec| self.ending_in(times_us, span.high as usize, window.bounds(instant.as_of_us));
            for asked in &self.asked {
                columns[asked.column].push_i64(match asked.what {
                    OfSessions::Count(window) => ending_in(window).0,
                    OfSessions::Duration(window) => ending_in(window).1,
                });
            }
        }
    }

    fn find(&mut self, times_us: &[i64]) {
        self.starts.clear();
        self.ends_us.clear();
        self.durations_us.clear();
        let mut total_us = 0i64;
        for (index, &time_us) in times_us.iter().enumerate() {
            match self.ends_us.last_mut() {
                Some(end_us) if time_us.saturating_sub(*end_us) <= self.gap_us => *end_us = time_us,
                last => {
                    if let (Some(&mut end_us), Some(&start)) = (last, self.starts.last()) {
                        total_us = total_us.saturating_add(end_us.saturating_sub(times_us[start]));
                    }
                    self.starts.push(index);
                    self.ends_us.push(time_us);
                    self.durations_us.push(total_us);
                }
            }
        }
    }

    /// The number and the total duration of the sessions of the first `seen` contributions that end in
    /// `[start_us, end_us)`. The last of them ends at the last contribution seen.
    fn ending_in(&self, times_us: &[i64], seen: usize, (start_us, end_us): (i64, i64)) -> (i64, i64) {
        if seen == 0 {
            return (0, 0);
        }
        let open = self.starts.partition_point(|&start| start < seen) - 1;
        let closed = &self.ends_us[..open];
        let first = closed.partition_point(|&end| end < start_us);
        let after = closed.partition_point(|&end| end < end_us).max(first);
        let mut count = (after - first) as i64;
        let mut duration_us = self.durations_us[after] - self.durations_us[first];
        let open_end_us = times_us[seen - 1];
        if (start_us..end_us).contains(&open_end_us) {
            count += 1;
            duration_us = duration_us.saturating_add(open_end_us.saturating_sub(times_us[self.starts[open]]));
        }
        (count, duration_us)
    }
}

pub(super) fn push_f64(column: &mut Column, value: Option<f64>) {
    match value {
        Some(value) => column.push_f64(value),
        None => column.push_null(),
    }
}

pub(super) fn push_list<'a>(column: &mut Column, elements: impl Iterator<Item = &'a [u8]>) {
    if let Values::List { offsets, child } = &mut column.values
        && let Values::Utf8(strings) | Values::Bytes(strings) = &mut child.values
    {
        // Elements are never null.
        elements.for_each(|element| strings.push(element));
        offsets.push(u32::try_from(strings.len()).expect("a column holds less than 2^32 elements"));
    }
    column.mark_valid();
}
