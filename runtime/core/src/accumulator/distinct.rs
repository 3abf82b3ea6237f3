//! Which values occurred: all of them, the least in byte order, or those with the smallest hashes.
//!
//! A capped set keeps the least elements of a fixed order, never those that came first: the least of a union are
//! among the least of its parts, so capped sets merge as exactly as whole ones.

use super::Dictionary;

/// All values that occurred, rising. In live state a value is a string's code, and new strings have the greatest
/// codes, so that new values mostly come last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Distinct(pub(crate) Vec<u32>);

impl Distinct {
    /// Takes in a value.
    #[inline]
    pub(crate) fn add(&mut self, code: u32) {
        insert(&mut self.0, code);
    }

    /// Takes in all of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        // A few are looked up one by one; many are put in their places together.
        if other.0.len() * 16 < self.0.len() {
            other.0.iter().for_each(|&code| self.add(code));
        } else {
            self.0.extend_from_slice(&other.0);
            self.order();
        }
    }

    /// Brings the values into order again. Stable: the sort finds the runs there are.
    pub(crate) fn order(&mut self) {
        self.0.sort();
        self.0.dedup();
    }
}

/// Puts an element into its place in a rising list, unless it is there.
fn insert<T: Ord + Copy>(list: &mut Vec<T>, element: T) {
    match list.last() {
        Some(&last) if last >= element => {
            if let Err(place) = list.binary_search(&element) {
                list.insert(place, element);
            }
        }
        _ => list.push(element),
    }
}

/// The up to `k` least values in byte order that occurred, in that order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LeastValues(pub(crate) Vec<u32>);

impl LeastValues {
    /// Takes in a value.
    pub(crate) fn add<D: Dictionary>(&mut self, code: u32, k: usize, dictionary: &D) {
        let bytes = dictionary.bytes(code);
        // The usual case: a full set, and a value that is there already or lies beyond.
        if self.0.len() == k && self.0.last().is_none_or(|&last| dictionary.bytes(last) <= bytes) {
            return;
        }
        if let Err(place) = self.0.binary_search_by(|&held| dictionary.bytes(held).cmp(bytes)) {
            self.0.truncate(k.saturating_sub(1));
            self.0.insert(place, code);
        }
    }

    /// Takes in all of `other`.
    pub(crate) fn merge<D: Dictionary>(&mut self, other: &Self, k: usize, dictionary: &D) {
        other.0.iter().for_each(|&code| self.add(code, k, dictionary));
    }
}

/// The up to `k + 1` smallest hashes of the values that occurred, rising.
///
/// As long as there are no more than `k` their number is that of the values; beyond that it follows from how close
/// together the smallest lie. Whether it is exact depends on the whole set alone, not on how it was merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LeastHashes(pub(crate) Vec<u64>);

impl LeastHashes {
    /// Takes in a value's hash.
    pub(crate) fn add(&mut self, hash: u64, k: usize) {
        if self.0.len() > k && self.0.last().is_some_and(|&last| hash > last) {
            return;
        }
        insert(&mut self.0, hash);
        self.0.truncate(k + 1);
    }

    /// Takes in all of `other`.
    pub(crate) fn merge(&mut self, other: &Self, k: usize) {
        other.0.iter().for_each(|&hash| self.add(hash, k));
    }

    /// The number of values: exact up to `k`, else estimated.
    pub(crate) fn count(&self, k: usize) -> i64 {
        estimate(self.0.iter().copied(), self.0.len(), k)
    }
}

/// The number of values of which `hashes` are the hashes, rising, `count` at least: `count` if that is at most `k`,
/// else `k` by the share of all hashes that lie below the next.
pub(crate) fn estimate(mut hashes: impl Iterator<Item = u64>, count: usize, k: usize) -> i64 {
    match hashes.nth(k) {
        Some(next) if count > k => i64::try_from(((k as u128) << 64) / (u128::from(next) + 1)).unwrap_or(i64::MAX),
        _ => count as i64,
    }
}

/// The fixed hash that orders values: FNV-1a, mixed so that all its bits are alike. It must never change.
pub(crate) fn hash_of(value: &[u8]) -> u64 {
    let fold = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut hash = value.iter().fold(0xcbf2_9ce4_8422_2325, fold);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_it_always_was() {
        assert_eq!(hash_of(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash_of(b"plumb"), 0x368d_bf67_8d54_75dd);
    }

    #[test]
    fn many_values_are_estimated_within_a_few_percent() {
        const K: usize = 1_024;
        for many in [1, 500, K, K + 1, 10_000, 300_000] {
            let mut hashes = LeastHashes::default();
            (0..many).for_each(|value| hashes.add(hash_of(format!("item {value}").as_bytes()), K));
            let (told, many) = (hashes.count(K) as f64, many as f64);
            let off = (told - many).abs() / many;
            assert!(if many <= K as f64 { off == 0.0 } else { off < 0.1 }, "{told} for {many}");
            assert!(hashes.0.len() <= K + 1);
        }
    }
}
