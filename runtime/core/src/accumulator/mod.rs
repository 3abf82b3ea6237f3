//! Accumulators: mergeable partial states with exact arithmetic.
//!
//! Each is a commutative monoid: merging any split of any permutation of the same contributions gives
//! the same value and the same bytes. Which of them a view needs is [`crate::plan`]'s; where their
//! inputs are kept, and for how long, is [`crate::state`]'s.

pub mod exact_sum;
pub mod last;
pub mod sessions;
pub mod value_counts;

use crate::plan::{AccumulatorDef, AccumulatorKind};
use crate::view::SlotType;
use exact_sum::ExactSum;
use last::Last;
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
            // What is left is a `Last` without a value; kinds never differ, both come from the same definition.
            _ => {}
        }
    }

    /// Whether it may hold string codes.
    pub(crate) fn has_codes(&self) -> bool {
        matches!(self, Accumulator::ValueCounts(_) | Accumulator::Last(_))
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
            _ => {}
        }
    }

    /// The bytes kept on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Accumulator::Sum { sum, .. } => sum.heap_bytes(),
            Accumulator::ValueCounts(counts) => counts.0.capacity() * size_of::<(u32, u64)>(),
            Accumulator::Sessions(sessions) => sessions.0.capacity() * size_of::<Session>(),
            _ => 0,
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

#[cfg(test)]
mod tests;
