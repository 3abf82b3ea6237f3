//! The exact sum of floats and integers, rounded once when read.
//!
//! The sum is `mantissa × 2^exponent`: in an `i128` as long as it fits, which ordinary prices always
//! do, else in a big integer. Nothing is ever rounded on the way, so order does not matter and taking
//! away what was added leaves no trace.

use super::moments::Pair;
use crate::codec::wire::{Reader, put_i64, put_u64};
use crate::{Error, Result};
use num_bigint::{BigInt, BigUint, Sign};

/// The exponent of the smallest positive f64; no sum of them needs a smaller one.
const EXPONENT_MIN: i32 = -1074;

/// What a decoded sum may be, so that damaged bytes cannot ask for much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Its exponents, from and to.
    exponents: (i32, i32),
    /// The most bytes of its magnitude: from the smallest to the largest exponent and some.
    magnitude_bytes: usize,
}

impl Limits {
    /// Sums of numbers: up to f64's largest, and 2^64 of them.
    const NUMBERS: Self = Self { exponents: (EXPONENT_MIN, 1088), magnitude_bytes: 280 };
    /// Sums of squares.
    pub(crate) const SQUARES: Self = Self { exponents: (2 * EXPONENT_MIN, 2176), magnitude_bytes: 560 };
}

/// An exact sum of any number of finite `f64` and `i64` values.
#[derive(Debug, Clone)]
pub struct ExactSum(Repr);

#[derive(Debug, Clone)]
enum Repr {
    Small { mantissa: i128, exponent: i32 },
    Big(Box<Big>),
}

#[derive(Debug, Clone)]
struct Big {
    mantissa: BigInt,
    exponent: i32,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self(Repr::Small { mantissa: 0, exponent: 0 })
    }
}

impl PartialEq for ExactSum {
    /// Equal as real numbers, however they came about.
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for ExactSum {}

impl ExactSum {
    /// The sum of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// `mantissa × 2^exponent`; the mantissa must leave a bit of room for another.
    #[inline]
    pub(crate) fn of(mantissa: i128, exponent: i32) -> Self {
        Self(Repr::Small { mantissa, exponent })
    }

    /// Adds a float. NaN and infinities are no numbers: they add nothing (callers count them).
    #[inline]
    pub fn add(&mut self, value: f64) {
        if let Some((mantissa, exponent)) = split(value) {
            self.add_scaled(i128::from(mantissa), exponent);
        }
    }

    /// Takes a float away; the same as adding its negative.
    #[inline]
    pub fn sub(&mut self, value: f64) {
        self.add(-value);
    }

    /// Adds an integer.
    #[inline]
    pub fn add_i64(&mut self, value: i64) {
        if value != 0 {
            self.add_scaled(i128::from(value), 0);
        }
    }

    /// Takes an integer away.
    #[inline]
    pub fn sub_i64(&mut self, value: i64) {
        if value != 0 {
            self.add_scaled(-i128::from(value), 0);
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        match &other.0 {
            Repr::Small { mantissa: 0, .. } => {}
            Repr::Small { mantissa, exponent } => self.add_scaled(*mantissa, *exponent),
            Repr::Big(big) => self.add_big(&big.mantissa, big.exponent),
        }
    }

    /// Takes another sum away.
    pub fn unmerge(&mut self, other: &ExactSum) {
        match &other.0 {
            Repr::Small { mantissa: 0, .. } => {}
            Repr::Small { mantissa, exponent } => match mantissa.checked_neg() {
                Some(negated) => self.add_scaled(negated, *exponent),
                None => self.add_big(&-BigInt::from(*mantissa), *exponent),
            },
            Repr::Big(big) => self.add_big(&-&big.mantissa, big.exponent),
        }
    }

    /// Whether the sum is exactly zero.
    pub fn is_zero(&self) -> bool {
        match &self.0 {
            Repr::Small { mantissa, .. } => *mantissa == 0,
            Repr::Big(big) => big.mantissa.sign() == Sign::NoSign,
        }
    }

    /// The sum as an f64, rounded once to nearest, ties to even; `None` when that is beyond f64. Zero is `+0.0`.
    pub fn round(&self) -> Option<f64> {
        match &self.0 {
            Repr::Small { mantissa, exponent } => round_small(*mantissa, *exponent)
                .or_else(|| round_scaled(*mantissa < 0, mantissa.unsigned_abs(), *exponent)),
            Repr::Big(big) => {
                let magnitude = big.mantissa.magnitude();
                let (top, exponent) = top_bits(magnitude, big.exponent);
                round_scaled(big.mantissa.sign() == Sign::Minus, top, exponent)
            }
        }
    }

    /// The bytes kept on the heap.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Repr::Small { .. } => 0,
            Repr::Big(big) => size_of::<Big>() + big.mantissa.bits() as usize / 8,
        }
    }

    /// Appends the canonical bytes: equal sums have equal bytes.
    ///
    /// `2 × (number of magnitude bytes) + (1 if negative)`, and unless that is 0 the exponent and the
    /// odd magnitude, least significant byte first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (negative, magnitude, exponent) = self.canonical();
        put_u64(out, magnitude.len() as u64 * 2 + u64::from(negative));
        if !magnitude.is_empty() {
            put_i64(out, i64::from(exponent));
            out.extend_from_slice(&magnitude);
        }
    }

    /// Reads what [`ExactSum::encode`] wrote; other bytes, not canonical ones included, are an error.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let sum = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(sum)
    }

    /// Reads a sum in the middle of other state.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Self::read_within(reader, Limits::NUMBERS)
    }

    /// Reads a sum of which more than of a sum of numbers is known to be possible.
    pub(crate) fn read_within(reader: &mut Reader<'_>, limits: Limits) -> Result<Self> {
        let head = reader.u64()?;
        let (len, negative) = (head / 2, head % 2 == 1);
        if len == 0 {
            return if negative { Err(Error::codec("a sum is minus zero")) } else { Ok(Self::new()) };
        }
        if len > limits.magnitude_bytes as u64 {
            let most = limits.magnitude_bytes;
            return Err(Error::codec(format!("a sum of {len} bytes, at most {most} are possible")));
        }
        let exponent = reader.i64()?;
        if !(i64::from(limits.exponents.0)..=i64::from(limits.exponents.1)).contains(&exponent) {
            return Err(Error::codec(format!("a sum has the exponent {exponent}")));
        }
        let magnitude = reader.take(len as usize)?;
        if magnitude[0].is_multiple_of(2) || magnitude[magnitude.len() - 1] == 0 {
            return Err(Error::codec("a sum is not in its shortest form"));
        }
        let exponent = exponent as i32;
        if len < 16 {
            let mut padded = [0; 16];
            padded[..magnitude.len()].copy_from_slice(magnitude);
            let mantissa = i128::from_le_bytes(padded);
            return Ok(Self(Repr::Small { mantissa: if negative { -mantissa } else { mantissa }, exponent }));
        }
        let sign = if negative { Sign::Minus } else { Sign::Plus };
        Ok(Self(Repr::Big(Box::new(Big { mantissa: BigInt::from_bytes_le(sign, magnitude), exponent }))))
    }

    /// The sum as mantissa and exponent.
    pub(super) fn parts(&self) -> (BigInt, i32) {
        match &self.0 {
            Repr::Small { mantissa, exponent } => ((*mantissa).into(), *exponent),
            Repr::Big(big) => (big.mantissa.clone(), big.exponent),
        }
    }

    /// The sum as a pair of floats, if it is of ordinary size.
    pub(super) fn pair(&self) -> Option<Pair> {
        match &self.0 {
            Repr::Small { mantissa, exponent } => Pair::of(*mantissa, *exponent),
            Repr::Big(_) => None,
        }
    }

    /// Adds `mantissa × 2^exponent`.
    #[inline]
    pub(super) fn add_scaled(&mut self, mantissa: i128, exponent: i32) {
        if let Repr::Small { mantissa: held, exponent: held_exponent } = &mut self.0 {
            if *held == 0 {
                (*held, *held_exponent) = (mantissa, exponent);
                return;
            }
            let shift = exponent - *held_exponent;
            let sum = if shift >= 0 {
                shifted(mantissa, shift as u32).and_then(|aligned| held.checked_add(aligned))
            } else {
                shifted(*held, shift.unsigned_abs()).and_then(|aligned| aligned.checked_add(mantissa))
            };
            if let Some(sum) = sum {
                *held = sum;
                *held_exponent = exponent.min(*held_exponent);
                return;
            }
        }
        self.add_scaled_slow(mantissa, exponent);
    }

    /// Adds what did not fit as it stood: without trailing zeros it may, else the sum becomes a big one.
    #[cold]
    fn add_scaled_slow(&mut self, mantissa: i128, exponent: i32) {
        if let Repr::Small { mantissa: held, exponent: held_exponent } = &self.0 {
            let (held, held_exponent) = trimmed(*held, *held_exponent);
            let (added, added_exponent) = trimmed(mantissa, exponent);
            let least = held_exponent.min(added_exponent);
            let sum = shifted(held, (held_exponent - least) as u32)
                .zip(shifted(added, (added_exponent - least) as u32))
                .and_then(|(held, added)| held.checked_add(added));
            match sum {
                Some(mantissa) => {
                    self.0 = Repr::Small { mantissa, exponent: least };
                    return;
                }
                None => self.0 = Repr::Big(Box::new(Big { mantissa: held.into(), exponent: held_exponent })),
            }
        }
        self.add_big(&BigInt::from(mantissa), exponent);
    }

    fn add_big(&mut self, mantissa: &BigInt, exponent: i32) {
        if let Repr::Small { mantissa: held, exponent: held_exponent } = &self.0 {
            self.0 = Repr::Big(Box::new(Big { mantissa: (*held).into(), exponent: *held_exponent }));
        }
        if let Repr::Big(big) = &mut self.0 {
            if exponent >= big.exponent {
                big.mantissa += mantissa << (exponent - big.exponent) as u32;
            } else {
                big.mantissa <<= (big.exponent - exponent) as u32;
                big.mantissa += mantissa;
                big.exponent = exponent;
            }
        }
    }

    /// Sign, odd magnitude (least significant byte first, empty for zero) and exponent.
    fn canonical(&self) -> (bool, Vec<u8>, i32) {
        match &self.0 {
            Repr::Small { mantissa: 0, .. } => (false, Vec::new(), 0),
            Repr::Small { mantissa, exponent } => {
                let (mantissa, exponent) = trimmed(*mantissa, *exponent);
                let magnitude = mantissa.unsigned_abs();
                let bytes = (128 - magnitude.leading_zeros()).div_ceil(8) as usize;
                (mantissa < 0, magnitude.to_le_bytes()[..bytes].to_vec(), exponent)
            }
            Repr::Big(big) => match big.mantissa.trailing_zeros() {
                None => (false, Vec::new(), 0),
                Some(zeros) => {
                    let magnitude: BigUint = big.mantissa.magnitude() >> zeros;
                    (big.mantissa.sign() == Sign::Minus, magnitude.to_bytes_le(), big.exponent + zeros as i32)
                }
            },
        }
    }
}

/// A mantissa as two floats, the second one below 2^53 and the first one a multiple of it; `None` of one that is too large.
#[inline]
pub(super) fn halves(mantissa: i128) -> Option<(f64, f64)> {
    const BITS: u32 = 53;
    let high = i64::try_from(mantissa >> BITS).ok().filter(|high| high.unsigned_abs() <= 1 << BITS)?;
    let low = mantissa as i64 & ((1 << BITS) - 1);
    // Both are integers that a float holds.
    Some((high as f64 * (1i64 << BITS) as f64, low as f64))
}

/// `mantissa × 2^exponent` as an f64, rounded as [`round_scaled`] does; `None` of what is not of ordinary size.
#[inline]
fn round_small(mantissa: i128, exponent: i32) -> Option<f64> {
    // So that the product is neither subnormal nor infinite, hence exact.
    if !(-900..=800).contains(&exponent) {
        return None;
    }
    let (high, low) = halves(mantissa)?;
    // The one addition rounds.
    Some((high + low) * f64::from_bits(((exponent + 1023) as u64) << 52))
}

/// A float as mantissa and exponent; `None` of zeros, which add nothing, and of NaN and infinities, which are no numbers.
#[inline]
pub(crate) fn split(value: f64) -> Option<(i64, i32)> {
    let bits = value.to_bits();
    let biased = (bits >> 52) as i32 & 0x7ff;
    let fraction = bits & ((1 << 52) - 1);
    // Subnormals have the exponent of the smallest normals and no leading one.
    let (magnitude, exponent) = match biased {
        0 => (fraction, EXPONENT_MIN),
        0x7ff => return None,
        _ => (fraction | 1 << 52, biased - 1075),
    };
    let mantissa = if value.is_sign_negative() { -(magnitude as i64) } else { magnitude as i64 };
    (mantissa != 0).then_some((mantissa, exponent))
}

/// `mantissa << shift` if no bit is lost.
#[inline]
fn shifted(mantissa: i128, shift: u32) -> Option<i128> {
    // One bit for the sign, one so that a sum of two still has room.
    let room = mantissa.unsigned_abs().leading_zeros();
    (shift + 2 <= room).then(|| mantissa << shift)
}

/// The same number with an odd mantissa.
fn trimmed(mantissa: i128, exponent: i32) -> (i128, i32) {
    match mantissa.trailing_zeros() {
        128 => (0, 0),
        zeros => (mantissa >> zeros, exponent + zeros as i32),
    }
}

/// The leading bits of a big magnitude, the last of them set if anything was cut off, which is all that rounding needs.
fn top_bits(magnitude: &BigUint, exponent: i32) -> (u128, i32) {
    const KEPT: u64 = 120;
    let cut = magnitude.bits().saturating_sub(KEPT);
    let digits = (magnitude >> cut).to_u64_digits();
    let top = digits.iter().rev().fold(0u128, |top, &digit| top << 64 | u128::from(digit));
    let lost = magnitude.trailing_zeros().is_some_and(|zeros| zeros < cut);
    match cut {
        0 => (top, exponent),
        _ => (top << 1 | u128::from(lost), exponent + cut as i32 - 1),
    }
}

/// `magnitude × 2^exponent` as an f64, rounded once to nearest, ties to even; `None` when that is beyond f64.
pub(super) fn round_scaled(negative: bool, magnitude: u128, exponent: i32) -> Option<f64> {
    if magnitude == 0 {
        return Some(0.0);
    }
    // The value lies in [2^top, 2^(top + 1)); `unit` is the exponent of the last bit an f64 there has.
    let top = exponent + 127 - magnitude.leading_zeros() as i32;
    if top > 1023 {
        return None;
    }
    let unit = (top - 52).max(EXPONENT_MIN);
    let cut = unit - exponent;
    // Less than half of the smallest f64: only variances get so small.
    if cut > 127 {
        return Some(0.0);
    }
    let kept = if cut <= 0 {
        (magnitude << cut.unsigned_abs()) as u64
    } else {
        let half = 1u128 << (cut - 1);
        let rest = magnitude & (half << 1).wrapping_sub(1);
        let kept = (magnitude.checked_shr(cut as u32).unwrap_or(0)) as u64;
        kept + u64::from(rest > half || (rest == half && kept % 2 == 1))
    };
    let power = if unit >= -1022 { ((unit + 1023) as u64) << 52 } else { 1 << (unit + 1074) };
    // At most 53 bits times a power of two: exact, or infinite when rounding went past the largest f64.
    let value = kept as f64 * f64::from_bits(power);
    value.is_finite().then_some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests;
