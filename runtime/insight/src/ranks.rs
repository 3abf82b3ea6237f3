//! A summary of the ranks of many values in bounded memory, which knows how far off it may be.
//!
//! It is the summary of Greenwald and Khanna, "Space-efficient online computation of quantile summaries" (SIGMOD 2001),
//! with one addition: each entry also knows how many values are exactly its own, so equal values cost one entry and no
//! accuracy. Entry `i` says of `v_i`: at least `rmin_i = Σ weight_j (j ≤ i)` and at most `rmin_i + slack_i` values
//! are ≤ `v_i`. Nothing is merged before there are more than [`LIMIT`] distinct values, so up to there every rank is
//! exact; beyond, neighbours are merged as little as is needed to fit, and [`Distribution::rank_error`] bounds the
//! error of every rank.
//!
//! Why not a sketch of a library: KLL (of `datasketches`) draws random bits, so that a gate on a drift could pass today
//! and fail tomorrow over the same files; t-digest has no bound; buckets of relative width see no change in times.

/// Entries kept at most: up to so many distinct values, every rank is exact. 32 bytes each.
pub const LIMIT: usize = 32_768;

/// Values collected before they are sorted into the summary.
const PENDING: usize = 32_768;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    value: i64,
    /// Values above the entry before and up to this value, as far as they are counted here.
    weight: u64,
    /// How many of these are exactly this value.
    own: u64,
    /// How many more values there may be up to this one than the weights say.
    slack: u64,
}

impl Entry {
    /// How many values between the entry before and this one have an unknown place.
    fn gap(self) -> u64 {
        self.weight - self.own + self.slack
    }
}

/// A growing summary; values are integers, or floats as [`key_of_float`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks {
    entries: Vec<Entry>,
    pending: Vec<i64>,
    limit: usize,
    /// The largest gap that merging was allowed to make.
    gap_max: u64,
}

impl Default for Ranks {
    fn default() -> Self {
        Self::with_limit(LIMIT)
    }
}

impl Ranks {
    /// An empty summary of at most about `limit` entries.
    pub fn with_limit(limit: usize) -> Self {
        Self { entries: Vec::new(), pending: Vec::new(), limit: limit.max(4), gap_max: 0 }
    }

    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: i64) {
        self.pending.push(value);
        if self.pending.len() >= PENDING {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.pending.sort_unstable();
        let mut merged = Vec::with_capacity(self.entries.len() + self.pending.len() / 2);
        let mut old = std::mem::take(&mut self.entries).into_iter().peekable();
        for run in self.pending.chunk_by(|a, b| a == b) {
            let (value, count) = (run[0], run.len() as u64);
            while let Some(entry) = old.next_if(|entry| entry.value < value) {
                merged.push(entry);
            }
            match old.peek_mut() {
                Some(entry) if entry.value == value => {
                    entry.weight += count;
                    entry.own += count;
                }
                next => {
                    let slack = next.map_or(0, |entry| entry.gap());
                    merged.push(Entry { value, weight: count, own: count, slack });
                }
            }
        }
        merged.extend(old);
        self.pending.clear();
        self.entries = merged;
        if self.entries.len() > self.limit {
            let mut gap = self.gap_max.max(1);
            loop {
                self.merge_neighbours(gap);
                if self.entries.len() <= self.limit / 2 {
                    break;
                }
                gap += gap.div_ceil(2);
            }
            self.gap_max = gap;
        }
    }

    /// Merges entries into the next ones where the gap stays within `gap`; the least and the greatest stay.
    fn merge_neighbours(&mut self, gap: u64) {
        let mut kept: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for (index, &entry) in self.entries.iter().enumerate().rev() {
            match kept.last_mut() {
                Some(next) if index > 0 && entry.weight + next.gap() <= gap => next.weight += entry.weight,
                _ => kept.push(entry),
            }
        }
        kept.reverse();
        self.entries = kept;
    }

    /// The ranks of what was added so far.
    pub fn distribution(mut self) -> Distribution {
        self.flush();
        let mut below = 0;
        let mut ranks = Vec::with_capacity(self.entries.len());
        for entry in self.entries {
            below += entry.weight;
            ranks.push(Rank {
                value: entry.value,
                at_least: below,
                at_most: below + entry.slack,
                before_at_most: below + entry.slack - entry.own,
            });
        }
        Distribution { ranks, count: below }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rank {
    value: i64,
    /// Bounds of how many values are ≤ this one.
    at_least: u64,
    at_most: u64,
    /// At most so many are below it.
    before_at_most: u64,
}

/// The ranks of a finished summary.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distribution {
    ranks: Vec<Rank>,
    count: u64,
}

impl Distribution {
    /// How many values were added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The values that ranks are known of, rising.
    pub fn values(&self) -> impl Iterator<Item = i64> {
        self.ranks.iter().map(|rank| rank.value)
    }

    /// Bounds of how many values `v` satisfy `is_within(v)`, which must hold for a prefix of the values in their order.
    pub fn count_while(&self, is_within: impl Fn(i64) -> bool) -> (u64, u64) {
        let end = self.ranks.partition_point(|rank| is_within(rank.value));
        let at_least = if end == 0 { 0 } else { self.ranks[end - 1].at_least };
        match self.ranks.get(end) {
            // Those after the last entry within are not beyond the next entry, which is not within itself.
            Some(next) => (at_least, next.before_at_most.max(at_least)),
            None => (at_least, at_least),
        }
    }

    /// Bounds of how many values are ≤ `value`.
    pub fn count_up_to(&self, value: i64) -> (u64, u64) {
        let end = self.ranks.partition_point(|rank| rank.value <= value);
        let (at_least, at_most) = self.count_while(|other| other <= value);
        match end.checked_sub(1).map(|last| self.ranks[last]) {
            Some(last) if last.value == value => (at_least, at_most.min(last.at_most)),
            _ => (at_least, at_most),
        }
    }

    /// The value at rank ⌈share × count⌉ (from 1), so the lower median for 0.5; `None` of nothing. With
    /// [`rank_error`](Self::rank_error) `e`, its rank is at most `e × count` away.
    pub fn quantile(&self, share: f64) -> Option<i64> {
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let at = self.ranks.partition_point(|known| known.at_least + known.at_most < 2 * rank);
        self.ranks.get(at).or(self.ranks.last()).map(|known| known.value)
    }

    /// The largest error of a rank, taken in the middle of its bounds, as a share of the count; 0 = exact.
    pub fn rank_error(&self) -> f64 {
        let mut before = 0;
        let mut widest = 0;
        for rank in &self.ranks {
            widest = widest.max(rank.at_most - rank.at_least).max(rank.before_at_most.saturating_sub(before));
            before = rank.at_least;
        }
        if self.count == 0 { 0.0 } else { widest as f64 / 2.0 / self.count as f64 }
    }
}

/// An integer that orders like the float: finite numbers by size, both zeros alike.
pub fn key_of_float(value: f64) -> i64 {
    let bits = (value + 0.0).to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// The float of a key.
pub fn float_of_key(key: i64) -> f64 {
    f64::from_bits((key ^ ((key >> 63).cast_unsigned() >> 1).cast_signed()).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn summary(values: &[i64], limit: usize) -> Distribution {
        let mut ranks = Ranks::with_limit(limit);
        for (index, &value) in values.iter().enumerate() {
            ranks.add(value);
            if index % 7 == 0 {
                ranks.flush();
            }
        }
        ranks.distribution()
    }

    proptest! {
        #[test]
        fn bounds_hold_for_every_rank(values in prop::collection::vec(-300i64..300, 1..600), limit in 4usize..100) {
            let summary = summary(&values, limit);
            prop_assert_eq!(summary.count(), values.len() as u64);
            prop_assert!(summary.ranks.len() <= limit);
            // The share is rounded; ranks are halves at most.
            let error = summary.rank_error() * values.len() as f64 + 1e-6;
            for at in -301..301 {
                let truth = values.iter().filter(|&&value| value <= at).count() as u64;
                let (low, high) = summary.count_up_to(at);
                prop_assert!(low <= truth && truth <= high, "{} is not in {}..={}", truth, low, high);
                let middle = (low + high) as f64 / 2.0;
                prop_assert!((middle - truth as f64).abs() <= error, "{} for {}, bound {}", middle, truth, error);
            }
            for percent in 0..=100 {
                let share = f64::from(percent) / 100.0;
                let value = summary.quantile(share).unwrap();
                let rank = (share * values.len() as f64).ceil().max(1.0);
                let up_to = values.iter().filter(|&&other| other <= value).count() as f64;
                let below = values.iter().filter(|&&other| other < value).count() as f64;
                prop_assert!(below - 2.0 * error < rank && rank <= up_to + 2.0 * error, "{} at {}", value, share);
            }
        }

        #[test]
        fn few_distinct_values_are_exact(values in prop::collection::vec(-20i64..20, 1..500)) {
            let summary = summary(&values, 41);
            prop_assert_eq!(summary.rank_error(), 0.0);
            let mut sorted = values.clone();
            sorted.sort_unstable();
            for (index, &value) in sorted.iter().enumerate() {
                // Half a rank below, so that rounding of the share does not pass into the next.
                let share = (index as f64 + 0.5) / sorted.len() as f64;
                prop_assert_eq!(summary.quantile(share), Some(value));
            }
        }

        #[test]
        fn keys_order_like_floats(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(key_of_float(a).cmp(&key_of_float(b)), a.partial_cmp(&b).unwrap());
            prop_assert_eq!(float_of_key(key_of_float(a)), a);
        }
    }

    #[test]
    fn a_million_distinct_values_are_near() {
        let mut ranks = Ranks::default();
        // A permutation, so that rank and value are the same.
        (0..1_000_000i64).for_each(|n| ranks.add(n * 7_919 % 1_000_000));
        let summary = ranks.distribution();
        assert!(summary.ranks.len() <= LIMIT);
        assert!(summary.rank_error() < 2e-4, "{}", summary.rank_error());
        for share in [0.01, 0.25, 0.5, 0.9, 0.999] {
            let off = summary.quantile(share).unwrap() as f64 / 1e6 - share;
            assert!(off.abs() <= 2.0 * summary.rank_error() + 1e-6, "{share}: {off}");
        }
    }

    #[test]
    fn nothing_has_no_quantile() {
        let nothing = Ranks::default().distribution();
        assert_eq!((nothing.quantile(0.5), nothing.count_up_to(3), nothing.rank_error()), (None, (0, 0), 0.0));
    }
}
