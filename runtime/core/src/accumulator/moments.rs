//! Count, exact sum and exact sum of squares: what variance and standard deviation are made of.
//!
//! A number is `m × 2^e` with `m` of at most 64 bits. Its square is kept in two exact sums, of the bits of `m²` from
//! the 53rd on and of those below: each is short, so that both stay in one machine integer for ordinary prices,
//! where the whole square would not. Together they are Σx², and each alone is a sum like any other: order-free,
//! mergeable and free of traces when taken away again.

mod near;

use super::exact_sum::{ExactSum, Limits, round_scaled, split};
use crate::Result;
use crate::codec::wire::{Reader, put_u64};
use crate::view::SlotType;
pub(super) use near::Pair;
use num_bigint::{BigInt, BigUint, Sign};

/// From which bit of `m²` on a square belongs to the high sum.
pub(crate) const SPLIT: u32 = 53;
/// The bits of a quotient or root that are computed before rounding; more than the 53 that are kept.
const BITS: u64 = 118;

/// The first two moments of any number of finite `f64` or of `i64` values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moments {
    count: u64,
    sum: ExactSum,
    high: ExactSum,
    low: ExactSum,
}

impl Moments {
    /// The moments of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those of `count` values: their sum, and that of the high and of the low parts of their squares.
    pub(crate) fn of(count: u64, sum: ExactSum, high: ExactSum, low: ExactSum) -> Self {
        Self { count, sum, high, low }
    }

    /// Adds a float. NaN and infinities are no numbers and must not get here.
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum.add(value);
        if let Some((mantissa, exponent)) = split(value) {
            self.square(mantissa.unsigned_abs(), exponent, false);
        }
    }

    /// Takes away a float that was added.
    #[inline]
    pub fn sub(&mut self, value: f64) {
        self.count -= 1;
        self.sum.sub(value);
        if let Some((mantissa, exponent)) = split(value) {
            self.square(mantissa.unsigned_abs(), exponent, true);
        }
    }

    /// Adds an integer.
    #[inline]
    pub fn add_i64(&mut self, value: i64) {
        self.count += 1;
        self.sum.add_i64(value);
        self.square(value.unsigned_abs(), 0, false);
    }

    /// Takes away an integer that was added.
    #[inline]
    pub fn sub_i64(&mut self, value: i64) {
        self.count -= 1;
        self.sum.sub_i64(value);
        self.square(value.unsigned_abs(), 0, true);
    }

    /// Adds a slot's value.
    #[inline]
    pub(crate) fn add_word(&mut self, slot: SlotType, word: u64) {
        match slot {
            SlotType::F64 => self.add(f64::from_bits(word)),
            _ => self.add_i64(word.cast_signed()),
        }
    }

    /// Takes a slot's value away.
    #[inline]
    pub(crate) fn sub_word(&mut self, slot: SlotType, word: u64) {
        match slot {
            SlotType::F64 => self.sub(f64::from_bits(word)),
            _ => self.sub_i64(word.cast_signed()),
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum.merge(&other.sum);
        self.high.merge(&other.high);
        self.low.merge(&other.low);
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The exact sample variance (n − 1), rounded once; `None` of fewer than two values, and beyond f64.
    pub fn variance(&self) -> Option<f64> {
        if self.count < 2 {
            return None;
        }
        self.near(near::variance).or_else(|| self.exact_variance())
    }

    fn exact_variance(&self) -> Option<f64> {
        let (numerator, denominator, exponent) = self.fraction();
        let bits = numerator.bits() as i64 - denominator.bits() as i64;
        let (quotient, rest, exponent) = quotient(numerator, &denominator, exponent, BITS as i64 - bits);
        round_scaled(false, quotient << 1 | u128::from(rest), exponent - 1)
    }

    /// The root of the exact sample variance, rounded once; `None` of fewer than two values, and beyond f64.
    pub fn stddev(&self) -> Option<f64> {
        if self.count < 2 {
            return None;
        }
        self.near(near::stddev).or_else(|| self.exact_stddev())
    }

    fn exact_stddev(&self) -> Option<f64> {
        let (numerator, denominator, exponent) = self.fraction();
        let bits = numerator.bits() as i64 - denominator.bits() as i64;
        let mut shift = BITS as i64 - bits;
        // A power of two has a root if its exponent is even.
        shift += (i64::from(exponent) - shift).rem_euclid(2);
        let (quotient, rest, exponent) = quotient(numerator, &denominator, exponent, shift);
        let root = quotient.isqrt();
        let rest = rest || root * root != quotient;
        round_scaled(false, root << 1 | u128::from(rest), exponent / 2 - 1)
    }

    /// What can be told in floats of at least two values; else the exact fraction decides.
    fn near(&self, of: impl Fn(u64, Pair, [Pair; 2]) -> Option<f64>) -> Option<f64> {
        of(self.count, self.sum.pair()?, [self.high.pair()?, self.low.pair()?])
    }

    /// The sample variance of at least two values as (n Σx² − (Σx)²) / (n (n − 1)) × 2^exponent.
    fn fraction(&self) -> (BigUint, BigUint, i32) {
        let (sum, sum_exponent) = self.sum.parts();
        let parts = [self.high.parts(), self.low.parts(), (&sum * &sum, sum_exponent * 2)];
        let exponents = parts.iter().filter(|(part, _)| part.sign() != Sign::NoSign).map(|&(_, exponent)| exponent);
        let exponent = exponents.min().unwrap_or(0);
        let aligned = |(part, own): &(BigInt, i32)| part << own.saturating_sub(exponent).max(0) as u32;
        let squares = aligned(&parts[0]) + aligned(&parts[1]);
        let numerator = squares * BigInt::from(self.count) - aligned(&parts[2]);
        // By Cauchy and Schwarz it is not negative, but for damaged state.
        let numerator = if numerator.sign() == Sign::Minus { BigUint::default() } else { numerator.into_parts().1 };
        (numerator, BigUint::from(self.count) * BigUint::from(self.count - 1), exponent)
    }

    /// The bytes kept on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.sum.heap_bytes() + self.high.heap_bytes() + self.low.heap_bytes()
    }

    /// Appends the canonical bytes: the count and the three sums.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.count);
        self.sum.encode(out);
        self.high.encode(out);
        self.low.encode(out);
    }

    /// Reads what [`Moments::encode`] wrote.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            count: reader.u64()?,
            sum: ExactSum::read(reader)?,
            high: ExactSum::read_within(reader, Limits::SQUARES)?,
            low: ExactSum::read_within(reader, Limits::SQUARES)?,
        })
    }

    #[inline]
    fn square(&mut self, magnitude: u64, exponent: i32, away: bool) {
        let square = u128::from(magnitude) * u128::from(magnitude);
        let high = (square >> SPLIT).cast_signed();
        let low = (square & ((1 << SPLIT) - 1)).cast_signed();
        let (high, low) = if away { (-high, -low) } else { (high, low) };
        if high != 0 {
            self.high.add_scaled(high, exponent * 2 + SPLIT as i32);
        }
        if low != 0 {
            self.low.add_scaled(low, exponent * 2);
        }
    }
}

/// `numerator × 2^shift / denominator` rounded down, whether something was left over, and the exponent it has then.
fn quotient(numerator: BigUint, denominator: &BigUint, exponent: i32, shift: i64) -> (u128, bool, i32) {
    // Where bits are cut off the numerator they are put to the denominator instead: nothing is lost.
    let (numerator, denominator) = match shift {
        0.. => (numerator << shift.unsigned_abs(), denominator.clone()),
        _ => (numerator, denominator << shift.unsigned_abs()),
    };
    let quotient = &numerator / &denominator;
    let rest = quotient.clone() * denominator != numerator;
    let digits = quotient.iter_u64_digits().rev();
    (digits.fold(0, |value, digit| value << 64 | u128::from(digit)), rest, exponent - shift as i32)
}

#[cfg(test)]
mod tests;
