//! What slides along one key's sorted contributions: window bounds, exact sums, value counts, sessions.

use super::history::Texts;
use crate::accumulator::exact_sum::ExactSum;
use crate::accumulator::extreme::End;
use crate::accumulator::moments::Moments;
use crate::accumulator::quantile::bucket_of_word;
use crate::view::{SlotType, WindowSpec};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

/// One key's contributions to one slot, rising in time; `words` is empty for slots whose values nobody reads.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) times_us: Vec<i64>,
    pub(super) words: Vec<u64>,
}

/// Which elements of a series a window holds at the present instant: `low..high`, neither ever going back
/// within a key.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) slot: usize,
    pub(super) window: WindowSpec,
    pub(super) low: usize,
    pub(super) high: usize,
}

impl Frame {
    pub(super) fn restart(&mut self) {
        (self.low, self.high) = (0, 0);
    }

    /// Goes on to the window of an instant, of which only what is before `until_us` counts.
    pub(super) fn advance(&mut self, times_us: &[i64], as_of_us: i64, until_us: i64) {
        let (start_us, end_us) = self.window.bounds(as_of_us);
        self.low = gallop(times_us, self.low, start_us);
        self.high = gallop(times_us, self.high.max(self.low), end_us.min(until_us)).max(self.low);
    }

    pub(super) fn count(&self) -> usize {
        self.high - self.low
    }
}

/// The first index at or after `from` whose time is not before `bound_us`: steps double, then halve, so
/// the cost is logarithmic in the distance and a walk over all of them stays linear.
fn gallop(times_us: &[i64], from: usize, bound_us: i64) -> usize {
    let mut low = from;
    let mut step = 1;
    while low + step <= times_us.len() && times_us[low + step - 1] < bound_us {
        low += step;
        step *= 2;
    }
    let high = (low + step - 1).min(times_us.len());
    low + times_us[low..high].partition_point(|&time_us| time_us < bound_us)
}

/// The elements a sliding structure has taken in; says how to get to the next window most cheaply.
#[derive(Debug, Default)]
struct Held {
    low: usize,
    high: usize,
}

/// How to get from the elements held to a frame's.
enum Step {
    /// Take away `.0`, add `.1`.
    Slide(std::ops::Range<usize>, std::ops::Range<usize>),
    /// Forget everything, add these.
    Afresh(std::ops::Range<usize>),
}

impl Held {
    fn step_to(&mut self, frame: &Frame) -> Step {
        let sliding = (frame.low - self.low) + (frame.high - self.high);
        let step = if sliding < frame.count() {
            Step::Slide(self.low..frame.low, self.high..frame.high)
        } else {
            Step::Afresh(frame.low..frame.high)
        };
        (self.low, self.high) = (frame.low, frame.high);
        step
    }
}

/// The exact sum of a frame's values.
#[derive(Debug)]
pub(super) struct SumWindow {
    pub(super) frame: usize,
    integers: bool,
    held: Held,
    sum: ExactSum,
}

impl SumWindow {
    pub(super) fn new(frame: usize, slot_type: SlotType) -> Self {
        Self { frame, integers: slot_type == SlotType::I64, held: Held::default(), sum: ExactSum::new() }
    }

    pub(super) fn restart(&mut self) {
        (self.held, self.sum) = (Held::default(), ExactSum::new());
    }

    pub(super) fn advance(&mut self, frame: &Frame, words: &[u64]) {
        match self.held.step_to(frame) {
            Step::Slide(gone, come) => {
                self.take(&words[gone], true);
                self.take(&words[come], false);
            }
            Step::Afresh(all) => {
                self.sum = ExactSum::new();
                self.take(&words[all], false);
            }
        }
    }

    fn take(&mut self, words: &[u64], away: bool) {
        let sum = &mut self.sum;
        match (self.integers, away) {
            (true, false) => words.iter().for_each(|word| sum.add_i64(word.cast_signed())),
            (true, true) => words.iter().for_each(|word| sum.sub_i64(word.cast_signed())),
            (false, false) => words.iter().for_each(|&word| sum.add(f64::from_bits(word))),
            (false, true) => words.iter().for_each(|&word| sum.sub(f64::from_bits(word))),
        }
    }

    pub(super) fn round(&self) -> Option<f64> {
        self.sum.round()
    }
}

/// Count, sum and sum of squares of a frame's values.
#[derive(Debug)]
pub(super) struct MomentsWindow {
    pub(super) frame: usize,
    slot_type: SlotType,
    held: Held,
    moments: Moments,
}

impl MomentsWindow {
    pub(super) fn new(frame: usize, slot_type: SlotType) -> Self {
        Self { frame, slot_type, held: Held::default(), moments: Moments::new() }
    }

    pub(super) fn restart(&mut self) {
        (self.held, self.moments) = (Held::default(), Moments::new());
    }

    pub(super) fn advance(&mut self, frame: &Frame, words: &[u64]) {
        let (moments, slot_type) = (&mut self.moments, self.slot_type);
        match self.held.step_to(frame) {
            Step::Slide(gone, come) => {
                words[gone].iter().for_each(|&word| moments.sub_word(slot_type, word));
                words[come].iter().for_each(|&word| moments.add_word(slot_type, word));
            }
            Step::Afresh(all) => {
                *moments = Moments::new();
                words[all].iter().for_each(|&word| moments.add_word(slot_type, word));
            }
        }
    }

    pub(super) fn moments(&self) -> &Moments {
        &self.moments
    }
}

/// The least or greatest value of a frame. It cannot be taken away again, so what may still become the extreme is
/// kept: an element that a later one beats never can, for it leaves the frame first. The rest falls off in order,
/// the present extreme at the front; every element comes and goes once.
#[derive(Debug)]
pub(super) struct ExtremeWindow {
    pub(super) frame: usize,
    pub(super) end: End,
    slot_type: SlotType,
    /// The index after the last element taken in.
    high: usize,
    /// Indices of elements, rising, each beaten by none after it.
    open: VecDeque<usize>,
}

impl ExtremeWindow {
    pub(super) fn new(frame: usize, end: End, slot_type: SlotType) -> Self {
        Self { frame, end, slot_type, high: 0, open: VecDeque::new() }
    }

    pub(super) fn restart(&mut self) {
        self.high = 0;
        self.open.clear();
    }

    pub(super) fn advance(&mut self, frame: &Frame, words: &[u64]) {
        while self.open.front().is_some_and(|&index| index < frame.low) {
            self.open.pop_front();
        }
        for index in self.high.max(frame.low)..frame.high {
            let beaten = |&held: &usize| !self.end.beats(self.slot_type, words[held], words[index]);
            while self.open.back().is_some_and(beaten) {
                self.open.pop_back();
            }
            self.open.push_back(index);
        }
        self.high = frame.high;
    }

    /// The word of the extreme; `None` of nothing.
    pub(super) fn word(&self, words: &[u64]) -> Option<u64> {
        self.open.front().map(|&index| words[index])
    }
}

/// By what the values of an [`OrderedWindow`] are told apart and ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By bucket.
    Bucket(SlotType),
    /// By the place among all strings in byte order.
    Rank,
    /// By the fixed hash of the string.
    Hash,
}

/// How often each value occurs in a frame, in an order of the values.
#[derive(Debug)]
pub(super) struct OrderedWindow {
    pub(super) frame: usize,
    pub(super) order: Order,
    held: Held,
    counts: BTreeMap<u64, u32>,
}

impl OrderedWindow {
    pub(super) fn new(frame: usize, order: Order) -> Self {
        Self { frame, order, held: Held::default(), counts: BTreeMap::new() }
    }

    pub(super) fn restart(&mut self) {
        self.held = Held::default();
        self.counts.clear();
    }

    /// `of_codes` gives a string code's place in the order.
    pub(super) fn advance(&mut self, frame: &Frame, words: &[u64], of_codes: &[u64]) {
        let order = self.order;
        let key = |word: u64| match order {
            Order::Bucket(slot_type) => key_of_bucket(bucket_of_word(slot_type, word)),
            Order::Rank | Order::Hash => of_codes[word as usize],
        };
        match self.held.step_to(frame) {
            Step::Slide(gone, come) => {
                for &word in &words[gone] {
                    if let Entry::Occupied(mut count) = self.counts.entry(key(word)) {
                        *count.get_mut() -= 1;
                        if *count.get() == 0 {
                            count.remove();
                        }
                    }
                }
                words[come].iter().for_each(|&word| *self.counts.entry(key(word)).or_default() += 1);
            }
            Step::Afresh(all) => {
                self.counts.clear();
                words[all].iter().for_each(|&word| *self.counts.entry(key(word)).or_default() += 1);
            }
        }
    }

    /// The values that occur, in their order.
    pub(super) fn keys(&self) -> impl ExactSizeIterator<Item = u64> {
        self.counts.keys().copied()
    }

    /// The buckets that occur with their counts, rising.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (i32, u64)> {
        self.counts.iter().map(|(&key, &count)| (bucket_of_key(key), u64::from(count)))
    }
}

/// A bucket as a key of the same order.
fn key_of_bucket(bucket: i32) -> u64 {
    u64::from(bucket.cast_unsigned() ^ 1 << 31)
}

fn bucket_of_key(key: u64) -> i32 {
    (key as u32 ^ 1 << 31).cast_signed()
}

/// How often each value occurs in a frame, by dictionary code.
#[derive(Debug)]
pub(super) struct ValuesWindow {
    pub(super) frame: usize,
    held: Held,
    /// Per code its count and its place in `present`.
    counts: Vec<(u32, u32)>,
    /// The codes with a count above 0.
    present: Vec<u32>,
}

impl ValuesWindow {
    pub(super) fn new(frame: usize, codes: usize) -> Self {
        Self { frame, held: Held::default(), counts: vec![(0, 0); codes], present: Vec::new() }
    }

    pub(super) fn restart(&mut self) {
        for code in self.present.drain(..) {
            self.counts[code as usize].0 = 0;
        }
        self.held = Held::default();
    }

    pub(super) fn advance(&mut self, frame: &Frame, words: &[u64]) {
        match self.held.step_to(frame) {
            Step::Slide(gone, come) => {
                words[gone].iter().for_each(|&code| self.remove(code as u32));
                words[come].iter().for_each(|&code| self.add(code as u32));
            }
            Step::Afresh(all) => {
                for code in self.present.drain(..) {
                    self.counts[code as usize].0 = 0;
                }
                words[all].iter().for_each(|&code| self.add(code as u32));
            }
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

    /// The number of distinct values.
    pub(super) fn distinct(&self) -> usize {
        self.present.len()
    }

    /// The up to `k` codes that occur most, most first, ties by the value's bytes.
    pub(super) fn top(&self, k: usize, texts: &Texts, top: &mut Vec<u32>) {
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

/// One key's runs of contributions without a gap above `gap_us`.
#[derive(Debug)]
pub(super) struct Sessions {
    /// The frame of everything before T in the slot.
    pub(super) frame: usize,
    pub(super) gap_us: i64,
    /// The index of each session's first contribution.
    starts: Vec<usize>,
    /// The time of each session's last contribution.
    ends_us: Vec<i64>,
    /// The durations of the sessions before each, added up.
    durations_us: Vec<i64>,
}

impl Sessions {
    pub(super) fn new(frame: usize, gap_us: i64) -> Self {
        Self { frame, gap_us, starts: Vec::new(), ends_us: Vec::new(), durations_us: Vec::new() }
    }

    pub(super) fn restart(&mut self, times_us: &[i64]) {
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
    pub(super) fn ending_in(&self, times_us: &[i64], seen: usize, (start_us, end_us): (i64, i64)) -> (i64, i64) {
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
