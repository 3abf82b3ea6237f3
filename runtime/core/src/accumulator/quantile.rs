//! A sketch of a distribution: how many values lie in each of fixed buckets.
//!
//! Every octave of either sign is cut into 64 equal buckets, and zero has its own, so a bucket is the exponent and
//! the first six bits after the leading one: no logarithm, hence the same everywhere. A value stands for the
//! middle of its bucket, which is at most 1/128 of it away. Counts add and subtract exactly, so sketches merge
//! in any order. There are some 270,000 buckets; prices of cents to thousands fall into about a thousand.

use super::value_counts::ValueCounts;
use crate::view::SlotType;

/// The largest relative difference between a quantile and the value it stands for.
pub const RELATIVE_ERROR: f64 = 1.0 / 128.0;

/// Parts per million: the unit of a quantile's place.
pub const PPM: u32 = 1_000_000;

/// Buckets in an octave, as a power of two.
const SUB_BITS: u32 = 6;
/// By how much a subnormal number is multiplied, as a power of two, to have a leading one.
const LIFT: i32 = 54;
/// Added to the smallest number's place to give 1.
const ORIGIN: i32 = 3_265;

/// The counts of the buckets, by bucket.
pub type Sketch = ValueCounts<i32>;

/// The bucket of a finite number: 0 of zero, rising with the number.
#[inline]
pub fn bucket(value: f64) -> i32 {
    if value == 0.0 {
        return 0;
    }
    let magnitude = value.abs();
    let place = |magnitude: f64| (magnitude.to_bits() >> (52 - SUB_BITS)) as i32;
    let place = if magnitude < f64::MIN_POSITIVE {
        place(magnitude * (1u64 << LIFT) as f64) - (LIFT << SUB_BITS)
    } else {
        place(magnitude)
    };
    if value < 0.0 { -(place + ORIGIN) } else { place + ORIGIN }
}

/// The bucket of a slot's value; an integer is converted to f64 first.
#[inline]
pub(crate) fn bucket_of_word(slot: SlotType, word: u64) -> i32 {
    match slot {
        SlotType::F64 => bucket(f64::from_bits(word)),
        _ => bucket(word.cast_signed() as f64),
    }
}

/// The value that stands for all values of a bucket: its middle, cut to what an f64 can hold.
pub fn representative(bucket: i32) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let place = bucket.saturating_abs() - ORIGIN;
    let parts = 1 << SUB_BITS;
    // The middle is (parts + sub + 1/2) / parts × 2^octave, an odd number of 8 bits times a power of two.
    let (octave, sub) = (place.div_euclid(parts) - 1023, place.rem_euclid(parts));
    let odd = (2 * parts + 2 * sub + 1) as u64;
    let exponent = octave - SUB_BITS as i32 - 1;
    let magnitude = match exponent {
        // Between the smallest numbers there is nothing: the bucket's only number is its lower end.
        ..-1074 => f64::from_bits(odd >> (-1074 - exponent).min(63)),
        -1074..-1022 => f64::from_bits(1 << (exponent + 1074)) * odd as f64,
        -1022..=1016 => f64::from_bits(((exponent + 1023) as u64) << 52) * odd as f64,
        _ => f64::MAX,
    };
    if bucket < 0 { -magnitude } else { magnitude }
}

/// The rank (from 1) of a quantile among `count` values: the least that `ppm` of them do not exceed, so the lower
/// median of an even number.
pub fn rank(count: u64, ppm: u32) -> u64 {
    (u128::from(count) * u128::from(ppm)).div_ceil(u128::from(PPM)).clamp(1, u128::from(count.max(1))) as u64
}

/// The quantile of counts that rise in bucket; `None` of nothing.
pub(crate) fn quantile(counts: impl Iterator<Item = (i32, u64)>, total: u64, ppm: u32) -> Option<f64> {
    let wanted = rank(total, ppm);
    let mut below = 0u64;
    for (bucket, count) in counts {
        below = below.saturating_add(count);
        if below >= wanted {
            return Some(representative(bucket));
        }
    }
    None
}

impl Sketch {
    /// The number of values counted.
    pub fn total(&self) -> u64 {
        self.as_slice().iter().fold(0, |total, &(_, count)| total.saturating_add(count))
    }

    /// The value at `ppm` millionths of the values, at most [`RELATIVE_ERROR`] off; `None` of nothing.
    pub fn quantile(&self, ppm: u32) -> Option<f64> {
        quantile(self.as_slice().iter().copied(), self.total(), ppm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite()),
            (0u64..2_000).prop_map(f64::from_bits),
            (1i64..1_000_000).prop_map(|cents| cents as f64 / 100.0),
            prop_oneof![Just(f64::MAX), Just(f64::MIN), Just(f64::MIN_POSITIVE), Just(-5e-324), Just(-0.0)],
        ]
    }

    proptest! {
        #[test]
        fn a_value_is_near_its_representative(value in number()) {
            let middle = representative(bucket(value));
            // In two halves, so that the difference of the largest is no infinity.
            prop_assert!((middle / 2.0 - value / 2.0).abs() <= value.abs() / 2.0 * RELATIVE_ERROR, "{value:e}: {middle:e}");
            prop_assert_eq!(bucket(middle), bucket(value));
        }

        #[test]
        fn buckets_rise_with_values(left in number(), right in number()) {
            prop_assert!(left > right || bucket(left) <= bucket(right));
            prop_assert_eq!(bucket(-left), -bucket(left));
        }

        #[test]
        fn a_quantile_is_the_value_of_its_rank(values in prop::collection::vec(number(), 1..60), ppm in 1u32..PPM) {
            let mut sketch = Sketch::new();
            values.iter().for_each(|&value| sketch.add(bucket(value), 1));
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            let index = (sorted.len() as f64 * f64::from(ppm) / f64::from(PPM)).ceil().max(1.0) as usize - 1;
            let exact = sorted[index];
            let told = sketch.quantile(ppm).unwrap();
            prop_assert!((told / 2.0 - exact / 2.0).abs() <= exact.abs() / 2.0 * RELATIVE_ERROR, "{told:e} for {exact:e}");
        }
    }

    #[test]
    fn medians_are_lower_ones() {
        assert_eq!([1, 2, 3, 4, 5].map(|count| rank(count, PPM / 2)), [1, 1, 2, 2, 3]);
        assert_eq!(rank(1_000, 999_000), 999);
        assert_eq!(rank(1_000, 999_001), 1_000);
        assert_eq!(rank(u64::MAX, PPM), u64::MAX);
        assert_eq!(Sketch::new().quantile(PPM / 2), None);
    }

    #[test]
    fn the_ends_of_f64_have_buckets() {
        assert_eq!(bucket(5e-324), 1);
        assert_eq!(representative(1), 5e-324);
        assert!(representative(bucket(f64::MAX)).is_finite());
        assert_eq!(representative(i32::MAX), f64::MAX);
        assert_eq!(representative(i32::MIN), -f64::MAX);
    }
}
