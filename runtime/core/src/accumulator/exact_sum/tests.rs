//! The exact sum against big-integer arithmetic done the slow way.

use super::*;
use proptest::prelude::*;

/// `2^exponent` by doubling or halving 1 (`powi` goes through infinity for the smallest).
fn power_of_two(exponent: i32) -> f64 {
    let factor = if exponent < 0 { 0.5 } else { 2.0 };
    (0..exponent.abs()).fold(1.0, |power, _| power * factor)
}

/// The oracle: the sum in units of 2^-1074, the smallest there are.
fn units(value: f64) -> BigInt {
    let mut units = BigInt::from(0);
    let mut rest = value.abs();
    // Peel off the number bit by bit from the top; every subtraction is exact.
    let mut power = power_of_two(1023);
    for exponent in (-1074..1024).rev() {
        if rest >= power {
            rest -= power;
            units += BigInt::from(1) << (exponent + 1074) as u32;
        }
        power /= 2.0;
    }
    if value < 0.0 { -units } else { units }
}

/// The f64 nearest to `wanted` units, found by bisection over all floats; ties to the even mantissa.
fn nearest(wanted: &BigInt) -> Option<f64> {
    let negative = wanted.sign() == Sign::Minus;
    let wanted = if negative { -wanted } else { wanted.clone() };
    let (mut low, mut high) = (0u64, f64::MAX.to_bits());
    while low < high {
        let middle = (low + high).div_ceil(2);
        if units(f64::from_bits(middle)) <= wanted { low = middle } else { high = middle - 1 }
    }
    let below = units(f64::from_bits(low));
    let above = if low == f64::MAX.to_bits() { BigInt::from(1) << 2098u32 } else { units(f64::from_bits(low + 1)) };
    let (down, up) = (&wanted - &below, above - &wanted);
    let bits = if down < up || (down == up && low % 2 == 0) { low } else { low + 1 };
    let value = f64::from_bits(bits);
    value.is_finite().then_some(if negative && value != 0.0 { -value } else { value })
}

fn finite() -> impl Strategy<Value = f64> {
    let any_bits = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite());
    prop_oneof![
        3 => any_bits,
        3 => (-100_000i64..100_000).prop_map(|cents| cents as f64 / 100.0),
        1 => prop_oneof![Just(0.0), Just(-0.0), Just(f64::MAX), Just(f64::MIN), Just(f64::MIN_POSITIVE), Just(5e-324)],
        1 => (-1080i32..1024, any::<bool>()).prop_map(|(power, minus)| if minus { -power_of_two(power) } else { power_of_two(power) }),
    ]
}

fn bytes(sum: &ExactSum) -> Vec<u8> {
    let mut out = Vec::new();
    sum.encode(&mut out);
    out
}

fn sum_of(values: &[f64]) -> ExactSum {
    let mut sum = ExactSum::new();
    values.iter().for_each(|&value| sum.add(value));
    sum
}

proptest! {
    #[test]
    fn rounds_the_exact_sum_once(values in prop::collection::vec(finite(), 0..12), integers in prop::collection::vec(any::<i64>(), 0..3)) {
        let mut sum = sum_of(&values);
        let mut oracle: BigInt = values.iter().map(|&value| units(value)).sum();
        for &integer in &integers {
            sum.add_i64(integer);
            oracle += BigInt::from(integer) << 1074u32;
        }
        prop_assert_eq!(sum.round().map(f64::to_bits), nearest(&oracle).map(f64::to_bits));
        prop_assert_eq!(sum.is_zero(), oracle.sign() == Sign::NoSign);
    }

    #[test]
    fn order_split_and_removal_leave_no_trace(values in prop::collection::vec(finite(), 0..16), extra in prop::collection::vec(finite(), 0..8), cut in 0usize..16) {
        let sum = sum_of(&values);
        let reversed: Vec<f64> = values.iter().rev().copied().collect();
        prop_assert_eq!(bytes(&sum), bytes(&sum_of(&reversed)));

        let (left, right) = values.split_at(cut.min(values.len()));
        let mut merged = sum_of(right);
        merged.merge(&sum_of(left));
        prop_assert_eq!(&merged, &sum);
        prop_assert_eq!(bytes(&merged), bytes(&sum));

        let mut back = sum.clone();
        extra.iter().for_each(|&value| back.add(value));
        extra.iter().for_each(|&value| back.sub(value));
        prop_assert_eq!(bytes(&back), bytes(&sum));
        back.merge(&sum_of(&extra));
        back.unmerge(&sum_of(&extra));
        prop_assert_eq!(bytes(&back), bytes(&sum));
    }

    #[test]
    fn bytes_round_trip(values in prop::collection::vec(finite(), 0..6), cut in 0usize..300, flip in 0usize..2400) {
        let sum = sum_of(&values);
        let mut encoded = bytes(&sum);
        let decoded = ExactSum::decode(&encoded).unwrap();
        prop_assert_eq!(&decoded, &sum);
        prop_assert_eq!(bytes(&decoded), encoded.clone());
        prop_assert!(cut >= encoded.len() || ExactSum::decode(&encoded[..cut]).is_err());
        let bit = flip % (encoded.len() * 8);
        encoded[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = ExactSum::decode(&encoded) {
            other.round();
            prop_assert_eq!(bytes(&other), encoded);
        }
    }
}

#[test]
fn edges() {
    let round = |values: &[f64]| sum_of(values).round();
    assert_eq!(round(&[]).map(f64::to_bits), Some(0));
    assert_eq!(round(&[-0.0]).map(f64::to_bits), Some(0));
    assert_eq!(round(&[0.1, 0.2, -0.3]), Some(0.1f64 + 0.2 - 0.3 - 2.7755575615628914e-17));
    assert_eq!(round(&[1e308, 1e308]), None);
    assert_eq!(round(&[1e308, 1e308, -1e308]), Some(1e308));
    assert_eq!(round(&[f64::MAX, 2f64.powi(969)]), Some(f64::MAX));
    assert_eq!(round(&[f64::MAX, 2f64.powi(970)]), None);
    assert_eq!(round(&[f64::NAN, f64::INFINITY, 1.5]), Some(1.5));
    assert_eq!(round(&[1.0, 2f64.powi(-53), 5e-324]), Some(1.0 + 2f64.powi(-52)));
    assert_eq!(round(&[1.0, 2f64.powi(-53)]), Some(1.0));
}

#[test]
fn a_price_takes_few_bytes() {
    assert!(bytes(&sum_of(&[19.99, 5.49, 0.99])).len() <= 11);
    assert_eq!(bytes(&ExactSum::new()), [0]);
    assert_eq!(bytes(&sum_of(&[3.0])), [2, 0, 3]);
}
