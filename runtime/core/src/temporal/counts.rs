//! How often each of some numbered values occurs, in the order of their numbers.

/// Places under one entry of the level above.
const FAN: usize = 64;

/// Counts by place, and above them how many there are under each 64 places and under each 64 of those, so that finding
/// the next place or one of a rank skips what is empty.
#[derive(Debug, Default)]
pub(super) struct Counts {
    counts: Vec<u32>,
    /// A bit for each place with a count above 0.
    present: Vec<u64>,
    sums: Vec<u32>,
    sums_of_sums: Vec<u32>,
    distinct: usize,
}

impl Counts {
    /// Forgets everything, and makes room for so many places.
    pub(super) fn restart(&mut self, places: usize) {
        self.clear();
        if places > self.counts.len() {
            self.counts.resize(places, 0);
            self.present.resize(places.div_ceil(FAN), 0);
            self.sums.resize(places.div_ceil(FAN), 0);
            self.sums_of_sums.resize(places.div_ceil(FAN * FAN), 0);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        if self.distinct == 0 {
            return;
        }
        for (block, _) in self.sums_of_sums.iter().enumerate().filter(|&(_, &sum)| sum > 0) {
            let words = block * FAN..self.present.len().min((block + 1) * FAN);
            self.sums[words.clone()].fill(0);
            for (word, bits) in words.clone().zip(&mut self.present[words]) {
                let mut left = std::mem::take(bits);
                while left != 0 {
                    self.counts[word * FAN + left.trailing_zeros() as usize] = 0;
                    left &= left - 1;
                }
            }
        }
        self.sums_of_sums.fill(0);
        self.distinct = 0;
    }

    /// Counts a place once more. Whether it is a new one no processor can foresee: it does not branch.
    #[inline]
    pub(super) fn add(&mut self, place: u32) {
        let place = place as usize;
        let count = &mut self.counts[place];
        self.distinct += usize::from(*count == 0);
        *count += 1;
        self.present[place / FAN] |= 1 << (place % FAN);
        self.sums[place / FAN] += 1;
        self.sums_of_sums[place / (FAN * FAN)] += 1;
    }

    /// Counts a place once less, without a branch likewise.
    #[inline]
    pub(super) fn remove(&mut self, place: u32) {
        let place = place as usize;
        let count = &mut self.counts[place];
        *count -= 1;
        let is_gone = *count == 0;
        self.distinct -= usize::from(is_gone);
        self.present[place / FAN] &= !(u64::from(is_gone) << (place % FAN));
        self.sums[place / FAN] -= 1;
        self.sums_of_sums[place / (FAN * FAN)] -= 1;
    }

    /// The number of places that occur.
    pub(super) fn distinct(&self) -> usize {
        self.distinct
    }

    /// The places that occur, rising.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        let blocks = self.sums_of_sums.iter().enumerate().filter(|&(_, &sum)| sum > 0);
        let words = blocks.flat_map(|(block, _)| block * FAN..self.present.len().min((block + 1) * FAN));
        words.flat_map(|word| {
            let mut left = self.present[word];
            std::iter::from_fn(move || {
                (left != 0).then(|| {
                    let bit = left.trailing_zeros() as usize;
                    left &= left - 1;
                    word * FAN + bit
                })
            })
        })
    }

    /// The place at which, rising, this many are counted; `None` where there are not so many.
    pub(super) fn of_rank(&self, rank: u64) -> Option<usize> {
        let mut left = rank;
        let mut find = |counts: &[u32]| {
            counts.iter().position(|&count| {
                let is_here = left <= u64::from(count);
                if !is_here {
                    left -= u64::from(count);
                }
                is_here
            })
        };
        let block = find(&self.sums_of_sums)?;
        let word = block * FAN + find(&self.sums[block * FAN..self.sums.len().min((block + 1) * FAN)])?;
        Some(word * FAN + find(&self.counts[word * FAN..self.counts.len().min((word + 1) * FAN)])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn counts_are_those_of_a_map(
            steps in prop::collection::vec((any::<bool>(), prop_oneof![0u32..10, 60u32..70, 4_090u32..4_100, 0u32..9_000]), 0..200),
            restart in 0usize..200,
        ) {
            let (mut counts, mut map) = (Counts::default(), BTreeMap::<usize, u32>::new());
            counts.restart(9_000);
            for (step, (adds, place)) in steps.into_iter().enumerate() {
                if step == restart {
                    counts.restart(9_000);
                    map.clear();
                }
                let held = map.entry(place as usize).or_default();
                if adds || *held == 0 {
                    *held += 1;
                    counts.add(place);
                } else {
                    *held -= 1;
                    counts.remove(place);
                }
                map.retain(|_, count| *count > 0);
                prop_assert_eq!(counts.distinct(), map.len());
                prop_assert!(counts.places().eq(map.keys().copied()));
                let all: Vec<usize> = map.iter().flat_map(|(&place, &count)| vec![place; count as usize]).collect();
                for rank in 1..=all.len() {
                    prop_assert_eq!(counts.of_rank(rank as u64), Some(all[rank - 1]));
                }
                prop_assert_eq!(counts.of_rank(all.len() as u64 + 1), None);
            }
        }
    }
}
