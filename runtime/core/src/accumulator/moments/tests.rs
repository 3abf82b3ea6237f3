//! Variance and deviation against exact fractions, rounded by looking for the nearest float.

use super::*;
use proptest::prelude::*;
use std::cmp::Ordering;

/// A finite float as an integer of units of 2^-1074.
fn units(value: f64) -> BigInt {
    let magnitude = match value.to_bits() >> 52 & 0x7ff {
        0 => BigInt::from(value.to_bits() & ((1 << 52) - 1)),
        exponent => BigInt::from(value.to_bits() & ((1 << 52) - 1) | 1 << 52) << (exponent - 1),
    };
    if value < 0.0 { -magnitude } else { magnitude }
}

/// The float nearest to a positive number, ties to even; `compare` says where half-units (2^-1075) lie beside it.
fn nearest(compare: impl Fn(BigInt) -> Ordering) -> Option<f64> {
    let (mut low, mut high) = (0u64, f64::MAX.to_bits());
    while low < high {
        let middle = (low + high).div_ceil(2);
        if compare(units(f64::from_bits(middle)) * 2).is_le() { low = middle } else { high = middle - 1 }
    }
    let below = units(f64::from_bits(low));
    let above = if low == f64::MAX.to_bits() { BigInt::from(1) << 2098u32 } else { units(f64::from_bits(low + 1)) };
    let bits = match compare(below + above) {
        Ordering::Less => low + 1,
        Ordering::Greater => low,
        Ordering::Equal => low + low % 2,
    };
    Some(f64::from_bits(bits)).filter(|value| value.is_finite())
}

/// Variance and deviation by their definition: Σ(x − mean)² / (n − 1), here of n·x − Σx.
fn naive(values: &[f64]) -> Option<(Option<f64>, Option<f64>)> {
    if values.len() < 2 {
        return None;
    }
    let count = BigInt::from(values.len());
    let sum: BigInt = values.iter().map(|&value| units(value)).sum();
    let squares: BigInt = values.iter().map(|&value| (units(value) * &count - &sum).pow(2)).sum();
    // The variance is squares / below in units of 2^-2148.
    let below = &count * &count * (&count - 1u32);
    let variance = nearest(|half| ((half * &below) << 1073u32).cmp(&squares));
    let deviation = nearest(|half| (&half * &half * &below).cmp(&(&squares * 4u32)));
    Some((variance, deviation))
}

fn moments_of(values: &[f64]) -> Moments {
    let mut moments = Moments::new();
    values.iter().for_each(|&value| moments.add(value));
    moments
}

fn bytes(moments: &Moments) -> Vec<u8> {
    let mut out = Vec::new();
    moments.encode(&mut out);
    out
}

fn number() -> impl Strategy<Value = f64> {
    let any_bits = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite());
    prop_oneof![
        2 => any_bits,
        4 => (-100_000i64..100_000).prop_map(|cents| cents as f64 / 100.0),
        2 => (0i64..1_000).prop_map(|least| 1e8 + least as f64 * 1e-7),
        2 => prop_oneof![Just(0.0), Just(-0.0), Just(f64::MAX), Just(f64::MIN), Just(5e-324), Just(1e-200), Just(1e-170)],
    ]
}

fn bits(value: Option<f64>) -> Option<u64> {
    value.map(f64::to_bits)
}

proptest! {
    #[test]
    fn the_exact_fraction_is_rounded_once(values in prop::collection::vec(number(), 0..12)) {
        let moments = moments_of(&values);
        let (variance, deviation) = naive(&values).unwrap_or_default();
        prop_assert_eq!(bits(moments.variance()), bits(variance));
        prop_assert_eq!(bits(moments.stddev()), bits(deviation));
    }

    #[test]
    fn order_split_and_removal_leave_no_trace(
        values in prop::collection::vec(number(), 0..12),
        extra in prop::collection::vec(number(), 0..8),
        cut in 0usize..12,
    ) {
        let whole = moments_of(&values);
        let (left, right) = values.split_at(cut.min(values.len()));
        let mut merged = moments_of(right);
        merged.merge(&moments_of(left));
        prop_assert_eq!(bytes(&merged), bytes(&whole));
        let mut back = whole.clone();
        extra.iter().for_each(|&value| back.add(value));
        extra.iter().for_each(|&value| back.sub(value));
        prop_assert_eq!(bytes(&back), bytes(&whole));
        let written = bytes(&whole);
        let mut reader = Reader::new(&written);
        prop_assert_eq!(Moments::read(&mut reader).unwrap(), whole);
        prop_assert!(reader.finish().is_ok());
    }

    #[test]
    fn integers_count_as_they_are(values in prop::collection::vec(any::<i64>(), 2..8), extra in any::<i64>()) {
        let mut moments = Moments::new();
        values.iter().for_each(|&value| moments.add_i64(value));
        let count = values.len() as i128;
        let mean = values.iter().map(|&value| i128::from(value)).sum::<i128>() as f64 / count as f64;
        let squares: f64 = values.iter().map(|&value| (value as f64 - mean).powi(2)).sum();
        let about = (squares / (count - 1) as f64).sqrt();
        let told = moments.stddev().unwrap();
        prop_assert!((told - about).abs() <= about * 1e-9 + 1e-3, "{told} and about {about}");
        let before = bytes(&moments);
        moments.add_i64(extra);
        moments.sub_i64(extra);
        prop_assert_eq!(bytes(&moments), before);
    }
}

#[test]
fn what_is_told_in_floats_is_what_the_fraction_says() {
    let mut next = 1u64;
    let mut random = || {
        next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (next >> 33) as i64
    };
    let (mut told, mut all) = (0, 0);
    for round in 0..30_000 {
        let mut moments = Moments::new();
        if round % 5 == 4 {
            // The variance, 2m², lies half-way between two floats.
            moments.add_i64(0);
            moments.add_i64(2 * (100_000_001 + 2 * (random() % 10_000_000)));
        }
        for _ in 0..if round % 5 == 4 { 0 } else { 2 + random() % 40 } {
            match round % 5 {
                0 => moments.add((random() % 1_000_000) as f64 / 100.0),
                1 => moments.add_i64(random() % 5),
                2 => moments.add(1e3 + (random() % 3) as f64 * 2f64.powi(-8)),
                _ => moments.add(f64::from_bits((1000 + random() as u64 % 40) << 52)),
            }
        }
        let near = (moments.near(near::variance), moments.near(near::stddev));
        if round % 5 < 4 {
            all += 1;
            told += usize::from(near.0.is_some() && near.1.is_some());
        }
        let exact = (moments.exact_variance(), moments.exact_stddev());
        assert_eq!((near.0.or(exact.0), near.1.or(exact.1)), exact);
    }
    assert!(told * 10 > all * 9, "{told} of {all}");
}

#[test]
fn edges() {
    let deviation = |values: &[f64]| moments_of(values).stddev();
    assert_eq!(deviation(&[]), None);
    assert_eq!(deviation(&[3.5]), None);
    assert_eq!(deviation(&[0.1; 7]).map(f64::to_bits), Some(0));
    assert_eq!(deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), Some((32.0f64 / 7.0).sqrt()));
    assert_eq!(deviation(&[f64::MAX, -f64::MAX]), None);
    assert_eq!(deviation(&[f64::MAX, f64::MAX]), Some(0.0));
    assert_eq!(moments_of(&[1e300, 0.0]).variance(), None);
    assert_eq!(moments_of(&[1e-200, 0.0]).variance(), Some(0.0));
    assert_eq!(moments_of(&[f64::MIN_POSITIVE, 5e-324]).variance(), Some(0.0));
}

#[test]
fn ordinary_prices_stay_small() {
    let mut moments = Moments::new();
    (1..100_000).for_each(|cents| moments.add(f64::from(cents) / 100.0));
    assert_eq!(moments.heap_bytes(), 0);
    assert!(bytes(&moments).len() < 60, "{} bytes", bytes(&moments).len());
}
