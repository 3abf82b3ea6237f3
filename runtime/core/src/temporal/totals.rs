//! Running totals of one key's numbers: the sum of any stretch of them is one subtraction.
//!
//! A total is an integer times the same power of two for all, so nothing is ever rounded and differences are exact. It is
//! kept only where all totals fit an `i128`; a window whose numbers do not slides an [`ExactSum`] instead.
//!
//! [`ExactSum`]: crate::accumulator::exact_sum::ExactSum

use super::window::Span;
use crate::accumulator::exact_sum::{ExactSum, split};
use crate::accumulator::moments::{Moments, SPLIT};
use crate::view::SlotType;

/// The most numbers whose totals are kept, which takes 48 MiB with their squares.
const NUMBERS_MAX: usize = 1 << 20;

/// The bits that a total may have: an exact sum has room for one more.
const BITS: u32 = 124;

/// Totals of some successive numbers of a series.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// The index of the first number.
    first: usize,
    /// What the totals are multiplied with, as a power of two.
    exponent: i32,
    /// Before each number, and after the last.
    sums: Vec<i128>,
    /// Those of the squares: of their bits from [`SPLIT`] on, with `exponent * 2 + SPLIT`, and of those below.
    squares: Vec<(i128, i128)>,
}

impl Totals {
    /// Nothing is kept.
    pub(super) fn clear(&mut self) {
        self.sums.clear();
        self.squares.clear();
    }

    /// Keeps the totals of the numbers `span`, and those of their squares `with_squares`, as far as they fit.
    pub(super) fn fill(&mut self, slot_type: SlotType, words: &[u64], span: Span, with_squares: bool) {
        self.clear();
        let words = &words[span.low as usize..span.high as usize];
        if words.len() > NUMBERS_MAX {
            return;
        }
        // What all sums of so many numbers of so many bits fit in.
        let bits_of = |bits: u32| bits + (usize::BITS - words.len().leading_zeros());
        self.first = span.low as usize;
        if slot_type != SlotType::F64 {
            self.exponent = 0;
            self.push_all(words.iter().map(|word| i128::from(word.cast_signed())));
            // A square has 126 bits.
            if with_squares && bits_of(128 - SPLIT) <= BITS {
                self.push_squares(words.iter().map(|word| (word.cast_signed().unsigned_abs(), 0)));
            }
            return;
        }
        let numbers = words.iter().map(|&word| split(f64::from_bits(word)));
        let exponents = numbers.clone().flatten().map(|(_, exponent)| exponent);
        let (least, most) = exponents.fold((i32::MAX, i32::MIN), |(least, most), e| (least.min(e), most.max(e)));
        // Of zeros alone.
        let (least, most) = if least > most { (0, 0) } else { (least, most) };
        let apart = most.abs_diff(least);
        self.exponent = least;
        if bits_of(apart + 53) > BITS {
            return;
        }
        let shift = |exponent: i32| exponent.abs_diff(least);
        self.push_all(numbers.clone().map(|number| number.map_or(0, |(mantissa, e)| i128::from(mantissa) << shift(e))));
        if with_squares && bits_of(2 * apart + 53) <= BITS {
            self.push_squares(
                numbers.map(|number| number.map_or((0, 0), |(mantissa, e)| (mantissa.unsigned_abs(), 2 * shift(e)))),
            );
        }
    }

    fn push_all(&mut self, numbers: impl ExactSizeIterator<Item = i128>) {
        let mut total = 0;
        self.sums.reserve(numbers.len() + 1);
        self.sums.push(total);
        self.sums.extend(numbers.map(|number| {
            total += number;
            total
        }));
    }

    /// Of magnitudes, whose squares are to be shifted.
    fn push_squares(&mut self, numbers: impl ExactSizeIterator<Item = (u64, u32)>) {
        let (mut high, mut low) = (0, 0);
        self.squares.reserve(numbers.len() + 1);
        self.squares.push((high, low));
        self.squares.extend(numbers.map(|(magnitude, shift)| {
            let square = u128::from(magnitude) * u128::from(magnitude);
            high += (square >> SPLIT).cast_signed() << shift;
            low += (square & ((1 << SPLIT) - 1)).cast_signed() << shift;
            (high, low)
        }));
    }

    /// Whether sums can be told.
    pub(super) fn has_sums(&self) -> bool {
        !self.sums.is_empty()
    }

    /// Whether moments can be told.
    pub(super) fn has_squares(&self) -> bool {
        !self.squares.is_empty()
    }

    /// The sum of the numbers of a span within those that are kept.
    pub(super) fn sum(&self, span: Span) -> ExactSum {
        let [low, high] = [span.low, span.high].map(|index| index as usize - self.first);
        ExactSum::of(self.sums[high] - self.sums[low], self.exponent)
    }

    /// The moments of the numbers of a span within those that are kept.
    pub(super) fn moments(&self, span: Span) -> Moments {
        let [low, high] = [span.low, span.high].map(|index| index as usize - self.first);
        let ((high_before, low_before), (high_after, low_after)) = (self.squares[low], self.squares[high]);
        let exponent = self.exponent * 2;
        Moments::of(
            (span.high - span.low).into(),
            self.sum(span),
            ExactSum::of(high_after - high_before, exponent + SPLIT as i32),
            ExactSum::of(low_after - low_before, exponent),
        )
    }
}
