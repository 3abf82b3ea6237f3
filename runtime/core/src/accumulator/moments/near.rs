//! Variance and deviation in pairs of floats, where that is near enough to round right.
//!
//! A pair (head, tail) stands for their sum, tail being at most half a unit in head's last place: some 106 bits. What
//! is computed in pairs has an error that is bounded beforehand; the float on which all numbers within that bound
//! round is the exact result rounded, too (Ziv's test). Where there is no such float, nothing is said, and the exact
//! fraction decides. Products and sums of pairs: Dekker, "A floating-point technique for extending the available
//! precision", 1971.

use crate::accumulator::exact_sum::halves;

/// A relative error that is more than those of all steps but the cancellation: each is below 2^-103.
const STEPS: f64 = f64::from_bits((1023 - 98) << 52);
/// What a cancellation may at most have left uncertain.
const MOST: f64 = f64::from_bits((1023 - 60) << 52);

/// The sum of two floats, the second one small.
#[derive(Debug, Clone, Copy)]
pub(in crate::accumulator) struct Pair {
    head: f64,
    tail: f64,
}

impl Pair {
    const ZERO: Self = Self { head: 0.0, tail: 0.0 };

    /// `mantissa × 2^exponent`, to 106 bits; `None` where a square of it could leave the range of f64.
    pub(in crate::accumulator) fn of(mantissa: i128, exponent: i32) -> Option<Self> {
        if mantissa == 0 {
            return Some(Self::ZERO);
        }
        if mantissa.unsigned_abs() >> 126 != 0 || !(-400..=300).contains(&exponent) {
            return None;
        }
        let power = f64::from_bits(((exponent + 1023) as u64) << 52);
        let Self { head, tail } = match halves(mantissa) {
            Some((high, low)) => Self::ordered(high, low),
            None => {
                let head = mantissa as f64;
                Self { head, tail: (mantissa - head as i128) as f64 }
            }
        };
        Some(Self { head: head * power, tail: tail * power })
    }

    fn exact(value: u64) -> Option<Self> {
        (value < 1 << 53).then_some(Self { head: value as f64, tail: 0.0 })
    }

    /// A sum whose second term is the smaller one.
    fn ordered(large: f64, small: f64) -> Self {
        let head = large + small;
        Self { head, tail: small - (head - large) }
    }

    fn plus(self, other: Self) -> Self {
        let (heads, tails) = (two_sum(self.head, other.head), two_sum(self.tail, other.tail));
        let sum = Self::ordered(heads.head, heads.tail + tails.head);
        Self::ordered(sum.head, sum.tail + tails.tail)
    }

    fn minus(self, other: Self) -> Self {
        self.plus(Self { head: -other.head, tail: -other.tail })
    }

    fn times(self, other: Self) -> Self {
        let product = two_product(self.head, other.head);
        Self::ordered(product.head, product.tail + (self.head * other.tail + self.tail * other.head))
    }

    fn over(self, other: Self) -> Self {
        let first = self.head / other.head;
        let rest = self.minus(other.times(Self { head: first, tail: 0.0 }));
        Self::ordered(first, rest.head / other.head)
    }

    fn root(self) -> Self {
        let first = self.head.sqrt();
        let rest = self.minus(two_product(first, first));
        Self::ordered(first, rest.head / (2.0 * first))
    }

    /// The float to which everything rounds that is at most `error` away, relative to the head.
    fn rounded(self, error: f64) -> Option<f64> {
        let error = self.head * error;
        let (below, above) = (self.head + (self.tail - error), self.head + (self.tail + error));
        (below == above).then_some(below)
    }
}

fn two_sum(a: f64, b: f64) -> Pair {
    let head = a + b;
    let of_b = head - a;
    Pair { head, tail: (a - (head - of_b)) + (b - of_b) }
}

fn two_product(a: f64, b: f64) -> Pair {
    // 2^27 + 1: cuts 53 bits in two halves whose products are exact.
    const HALVES: f64 = 134_217_729.0;
    let halves = |value: f64| {
        let scaled = HALVES * value;
        let high = scaled - (scaled - value);
        (high, value - high)
    };
    let head = a * b;
    let ((a_high, a_low), (b_high, b_low)) = (halves(a), halves(b));
    Pair { head, tail: ((a_high * b_high - head) + a_high * b_low + a_low * b_high) + a_low * b_low }
}

/// (n Σx² − (Σx)²) / (n (n − 1)) of at least two values, and its relative error.
fn variance_of(count: u64, sum: Pair, squares: [Pair; 2]) -> Option<(Pair, f64)> {
    let count = Pair::exact(count)?;
    let whole = count.times(squares[0].plus(squares[1]));
    let numerator = whole.minus(sum.times(sum));
    // Zero and what might be zero: how near is not known.
    let error = STEPS * (1.0 + whole.head / numerator.head);
    if !(numerator.head > 0.0 && error < MOST) {
        return None;
    }
    let below = count.times(Pair { head: count.head - 1.0, tail: 0.0 });
    Some((numerator.over(below), error))
}

/// The exact sample variance rounded once, if that is near enough to tell.
pub(super) fn variance(count: u64, sum: Pair, squares: [Pair; 2]) -> Option<f64> {
    let (variance, error) = variance_of(count, sum, squares)?;
    variance.rounded(error)
}

/// Its root rounded once, if that is near enough to tell.
pub(super) fn stddev(count: u64, sum: Pair, squares: [Pair; 2]) -> Option<f64> {
    let (variance, error) = variance_of(count, sum, squares)?;
    variance.root().rounded(error)
}
