//! Accumulators: mergeable partial states with exact arithmetic.
//!
//! Each is a commutative monoid: merging any split of any permutation of the same contributions gives
//! the same value and the same bytes. Which of them a view needs is [`crate::plan`]'s; where their
//! inputs are kept, and for how long, is [`crate::state`]'s.

pub mod distinct;
pub mod exact_sum;
pub mod extreme;
pub mod last;
pub mod moments;
pub mod quantile;
pub mod sessions;
pub mod value_counts;

use crate::plan::{AccumulatorDef, AccumulatorKind};
use crate::view::SlotType;
use distinct::{Distinct, LeastHashes, LeastValues, hash_of};
use exact_sum::ExactSum;
use extreme::End;
use last::Last;
use moments::Moments;
use quantile::{Sketch, bucket_of_word};
use sessions::{Session, Sessions};
use value_counts::ValueCounts;

/// Gives strings back for their codes.
pub(crate) trait Dictionary {
    /// The string of a code; panics on a code it never gave.
    fn bytes(&self, code: u32) -> &[u8];
}

/// One contribution to one slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    /// The event's time in µs.
    pub(crate) time_us: i64,
    /// The event id's code + 1; 0 = none.
    pub(crate) id: u32,
    /// The value's word.
    pub(crate) word: u64,
}

/// A partial state of one accumulator. Strings are codes of the dictionary it lives with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Accumulator {
    Count(u64),
    Sum { sum: ExactSum, count: u64 },
    ValueCounts(ValueCounts<u32>),
    Last(Option<Last>),
    LastTime(Option<i64>),
    Sessions(Sessions),
    Extreme(Option<u64>),
    // Boxed: it is three sums, and most views have none.
    Moments(Box<Moments>),
    Quantile(Sketch),
    Distinct(Distinct),
    LeastValues(LeastValues),
    LeastHashes(LeastHashes),
}

impl Accumulator {
    /// The state of no contributions.
    pub(crate) fn identity(kind: AccumulatorKind) -> Self {
        match kind {
            AccumulatorKind::Count => Accumulator::Count(0),
            AccumulatorKind::Sum => Accumulator::Sum { sum: ExactSum::new(), count: 0 },
            AccumulatorKind::ValueCounts => Accumulator::ValueCounts(ValueCounts::new()),
            AccumulatorKind::Last => Accumulator::Last(None),
            AccumulatorKind::LastTime => Accumulator::LastTime(None),
            AccumulatorKind::Sessions { .. } => Accumulator::Sessions(Sessions::new()),
            AccumulatorKind::Min | AccumulatorKind::Max => Accumulator::Extreme(None),
            AccumulatorKind::Moments => Accumulator::Moments(Box::default()),
            AccumulatorKind::Quantile => Accumulator::Quantile(Sketch::new()),
            AccumulatorKind::Distinct => Accumulator::Distinct(Distinct::default()),
            AccumulatorKind::LeastValues { .. } => Accumulator::LeastValues(LeastValues::default()),
            AccumulatorKind::LeastHashes { .. } => Accumulator::LeastHashes(LeastHashes::default()),
        }
    }

    /// Adds one contribution.
    #[inline]
    pub(crate) fn update<D: Dictionary>(&mut self, def: &AccumulatorDef, input: Input, dictionary: &D) {
        match self {
            Accumulator::Count(count) => *count += 1,
            Accumulator::Sum { sum, count } => {
                match def.slot_type {
                    SlotType::F64 => sum.add(f64::from_bits(input.word)),
                    _ => sum.add_i64(input.word as i64),
                }
                *count += 1;
            }
            Accumulator::ValueCounts(counts) => counts.add(input.word as u32, 1),
            Accumulator::Last(held) => {
                offer(held, Last { time_us: input.time_us, id: input.id, word: input.word }, def.slot_type, dictionary);
            }
            Accumulator::LastTime(time) => *time = (*time).max(Some(input.time_us)),
            Accumulator::Sessions(sessions) => sessions.add(Session::of(input.time_us), gap_us(def)),
            Accumulator::Extreme(held) => end(def).offer(def.slot_type, held, input.word),
            Accumulator::Moments(moments) => moments.add_word(def.slot_type, input.word),
            Accumulator::Quantile(sketch) => sketch.add(bucket_of_word(def.slot_type, input.word), 1),
            Accumulator::Distinct(values) => values.add(input.word as u32),
            Accumulator::LeastValues(values) => values.add(input.word as u32, cap(def), dictionary),
            Accumulator::LeastHashes(hashes) => hashes.add(hash_of(dictionary.bytes(input.word as u32)), cap(def)),
        }
    }

    /// Adds all of `other`, a state of the same accumulator over the same dictionary.
    pub(crate) fn merge<D: Dictionary>(&mut self, def: &AccumulatorDef, other: &Accumulator, dictionary: &D) {
        match (self, other) {
            (Accumulator::Count(count), Accumulator::Count(more)) => *count += more,
            (Accumulator::Sum { sum, count }, Accumulator::Sum { sum: more_sum, count: more }) => {
                sum.merge(more_sum);
                *count += more;
            }
            (Accumulator::ValueCounts(counts), Accumulator::ValueCounts(more)) => counts.merge(more),
            (Accumulator::Last(held), Accumulator::Last(Some(more))) => offer(held, *more, def.slot_type, dictionary),
            (Accumulator::LastTime(time), Accumulator::LastTime(more)) => *time = (*time).max(*more),
            (Accumulator::Sessions(sessions), Accumulator::Sessions(more)) => sessions.merge(more, gap_us(def)),
            (Accumulator::Extreme(held), Accumulator::Extreme(Some(more))) => {
                end(def).offer(def.slot_type, held, *more);
            }
            (Accumulator::Moments(moments), Accumulator::Moments(more)) => moments.merge(more),
            (Accumulator::Quantile(sketch), Accumulator::Quantile(more)) => sketch.merge(more),
            (Accumulator::Distinct(values), Accumulator::Distinct(more)) => values.merge(more),
            (Accumulator::LeastValues(values), Accumulator::LeastValues(more)) => {
                values.merge(more, cap(def), dictionary);
            }
            (Accumulator::LeastHashes(hashes), Accumulator::LeastHashes(more)) => hashes.merge(more, cap(def)),
            // What is left has no value yet; kinds never differ, both come from the same definition.
            _ => {}
        }
    }

    /// Whether it may hold string codes.
    pub(crate) fn has_codes(&self) -> bool {
        matches!(
            self,
            Accumulator::ValueCounts(_) | Accumulator::Last(_) | Accumulator::Distinct(_) | Accumulator::LeastValues(_)
        )
    }

    /// Puts other codes in place of its own.
    pub(crate) fn map_codes(&mut self, slot: SlotType, mut map: impl FnMut(u32) -> u32) {
        match self {
            Accumulator::ValueCounts(counts) => {
                for (code, _) in &mut counts.0 {
                    *code = map(*code);
                }
                counts.0.sort_unstable();
            }
            Accumulator::Last(Some(last)) => {
                if last.id != 0 {
                    last.id = map(last.id - 1) + 1;
                }
                if slot == SlotType::Utf8 {
                    last.word = u64::from(map(last.word as u32));
                }
            }
            Accumulator::Distinct(values) => {
                values.0.iter_mut().for_each(|code| *code = map(*code));
                values.order();
            }
            // In the order of the strings, which other codes do not change.
            Accumulator::LeastValues(values) => values.0.iter_mut().for_each(|code| *code = map(*code)),
            _ => {}
        }
    }

    /// Visits its codes.
    pub(crate) fn each_code(&self, slot: SlotType, mut visit: impl FnMut(u32)) {
        match self {
            Accumulator::ValueCounts(counts) => counts.0.iter().for_each(|&(code, _)| visit(code)),
            Accumulator::Last(Some(last)) => {
                if last.id != 0 {
                    visit(last.id - 1);
                }
                if slot == SlotType::Utf8 {
                    visit(last.word as u32);
                }
            }
            Accumulator::Distinct(values) => values.0.iter().for_each(|&code| visit(code)),
            Accumulator::LeastValues(values) => values.0.iter().for_each(|&code| visit(code)),
            _ => {}
        }
    }

    /// The bytes kept on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Accumulator::Sum { sum, .. } => sum.heap_bytes(),
            Accumulator::ValueCounts(counts) => counts.0.capacity() * size_of::<(u32, u64)>(),
            Accumulator::Sessions(sessions) => sessions.0.capacity() * size_of::<Session>(),
            Accumulator::Moments(moments) => size_of::<Moments>() + moments.heap_bytes(),
            Accumulator::Quantile(sketch) => sketch.0.capacity() * size_of::<(i32, u64)>(),
            Accumulator::Distinct(values) => values.0.capacity() * size_of::<u32>(),
            Accumulator::LeastValues(values) => values.0.capacity() * size_of::<u32>(),
            Accumulator::LeastHashes(hashes) => hashes.0.capacity() * size_of::<u64>(),
            Accumulator::Count(_) | Accumulator::Last(_) | Accumulator::LastTime(_) | Accumulator::Extreme(_) => 0,
        }
    }
}

fn offer<D: Dictionary>(held: &mut Option<Last>, candidate: Last, slot: SlotType, dictionary: &D) {
    if held.is_none_or(|held| candidate.compare(dictionary, &held, dictionary, slot).is_gt()) {
        *held = Some(candidate);
    }
}

/// The gap of a sessions accumulator; 0 for the others, which have none.
pub(crate) fn gap_us(def: &AccumulatorDef) -> i64 {
    match def.kind {
        AccumulatorKind::Sessions { gap_us } => gap_us,
        _ => 0,
    }
}

/// How many elements a capped set keeps; 0 for the accumulators that are none.
pub(crate) fn cap(def: &AccumulatorDef) -> usize {
    match def.kind {
        AccumulatorKind::LeastValues { k } | AccumulatorKind::LeastHashes { k } => k,
        _ => 0,
    }
}

/// The end that an accumulator of an extreme keeps.
pub(crate) fn end(def: &AccumulatorDef) -> End {
    if def.kind == AccumulatorKind::Max { End::Greatest } else { End::Least }
}

#[cfg(test)]
mod tests;
