//! Which values are frequent, and how many different ones there are.

use datasketches::frequencies::{ErrorType, FrequentItemsSketch};
use datasketches::hll::{HllSketch, HllType};
use std::borrow::Borrow;
use std::hash::Hash;

/// Counters of the sketch of frequent values: up to three quarters of it, distinct values are counted exactly; beyond,
/// each count is at most about 3.5 / [`COUNTERS`] of the rows off (Misra and Gries).
const COUNTERS: usize = 32_768;

/// Registers of the sketch of distinct values as a power of two: a standard error of about 1 %.
const LG_REGISTERS: u8 = 13;

/// How many different values there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distinct {
    /// The number, or its estimate.
    pub count: f64,
    /// Whether it is exact.
    pub exact: bool,
    /// It lies between this and [`high`](Self::high) with some 95 %.
    pub low: f64,
    /// See [`low`](Self::low).
    pub high: f64,
}

/// A frequent value.
#[derive(Debug, Clone, PartialEq)]
pub struct Frequent<T> {
    /// The value.
    pub value: T,
    /// At least so many rows have it.
    pub at_least: u64,
    /// At most so many.
    pub at_most: u64,
}

impl<T> Frequent<T> {
    /// The middle of the bounds.
    pub fn count(&self) -> f64 {
        (self.at_least + self.at_most) as f64 / 2.0
    }
}

/// Counts values in bounded memory.
#[derive(Debug, Clone)]
pub struct Tally<T> {
    counts: FrequentItemsSketch<T>,
    distinct: HllSketch,
}

impl<T: Eq + Hash + Clone + Ord> Default for Tally<T> {
    fn default() -> Self {
        Self {
            counts: FrequentItemsSketch::new(COUNTERS).expect("a power of two within the sketch's limits"),
            distinct: HllSketch::new(LG_REGISTERS, HllType::Hll8).expect("within the sketch's limits"),
        }
    }
}

impl<T: Eq + Hash + Clone + Ord> Tally<T> {
    /// Counts a value.
    #[inline]
    pub fn add<Q>(&mut self, value: &Q)
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized + ToOwned<Owned = T>,
    {
        self.counts.update_ref(value);
        self.distinct.update(value);
    }

    /// Whether every value is counted exactly.
    pub fn is_exact(&self) -> bool {
        self.counts.maximum_error() == 0
    }

    /// The number of different values.
    pub fn distinct(&self) -> Distinct {
        if self.is_exact() {
            let count = self.counts.num_active_items() as f64;
            return Distinct { count, exact: true, low: count, high: count };
        }
        use datasketches::common::NumStdDev::Two;
        let (low, high) = (self.distinct.lower_bound(Two), self.distinct.upper_bound(Two));
        Distinct { count: self.distinct.estimate(), exact: false, low, high }
    }

    /// The most frequent values, at most `k`, equally frequent ones in their order.
    pub fn top(&self, k: usize) -> Vec<Frequent<T>> {
        let mut all: Vec<Frequent<T>> = self
            .counts
            .frequent_items_with_threshold(ErrorType::NoFalseNegatives, 0)
            .into_iter()
            .map(|row| Frequent { value: row.item().clone(), at_least: row.lower_bound(), at_most: row.upper_bound() })
            .collect();
        all.sort_unstable_by(|a, b| {
            (b.at_least + b.at_most).cmp(&(a.at_least + a.at_most)).then_with(|| a.value.cmp(&b.value))
        });
        all.truncate(k);
        all
    }

    /// Bounds of how many rows have a value.
    pub fn count<Q>(&self, value: &Q) -> (u64, u64)
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        (self.counts.lower_bound(value), self.counts.upper_bound(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_are_exact() {
        let mut tally = Tally::<String>::default();
        for (value, count) in [("a", 3), ("b", 5), ("c", 3)] {
            (0..count).for_each(|_| tally.add(value));
        }
        assert_eq!(tally.distinct(), Distinct { count: 3.0, exact: true, low: 3.0, high: 3.0 });
        let top: Vec<(String, u64)> = tally.top(2).into_iter().map(|top| (top.value, top.at_least)).collect();
        assert_eq!(top, [("b".to_owned(), 5), ("a".to_owned(), 3)]);
        assert_eq!((tally.count("c"), tally.count("d")), ((3, 3), (0, 0)));
    }

    #[test]
    fn many_values_have_bounds() {
        let mut tally = Tally::<i64>::default();
        for n in 0..200_000i64 {
            tally.add(&n);
            if n % 10 == 0 {
                tally.add(&-1);
            }
        }
        let distinct = tally.distinct();
        assert!(!distinct.exact);
        // Five standard errors: the hash is fixed, so this passes always or never.
        assert!((distinct.count / 200_001.0 - 1.0).abs() < 0.05, "{distinct:?}");
        assert!(distinct.low < distinct.count && distinct.count < distinct.high);
        let top = tally.top(1);
        assert_eq!(top[0].value, -1);
        assert!(top[0].at_least <= 20_000 && 20_000 <= top[0].at_most, "{top:?}");
        assert!(top[0].at_most - top[0].at_least <= 220_000 * 4 / COUNTERS as u64);
    }
}
