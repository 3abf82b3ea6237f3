//! How often each value occurs.

/// Counts by value, in order of the value. In live state a value is a string's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueCounts<V>(pub(crate) Vec<(V, u64)>);

impl<V> Default for ValueCounts<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V: Ord + Copy> ValueCounts<V> {
    /// Nothing counted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a value `count` times.
    pub fn add(&mut self, value: V, count: u64) {
        match self.0.binary_search_by_key(&value, |&(held, _)| held) {
            Ok(index) => self.0[index].1 += count,
            Err(index) => self.0.insert(index, (value, count)),
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for &(value, count) in &other.0 {
            self.add(value, count);
        }
    }

    /// The values with their counts, in order of the value.
    pub fn as_slice(&self) -> &[(V, u64)] {
        &self.0
    }

    /// The up to `k` most frequent values, most first, ties by value ascending.
    pub fn top(&self, k: usize) -> Vec<V> {
        let mut ranked = self.0.clone();
        ranked.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(&right.0)));
        ranked.truncate(k);
        ranked.into_iter().map(|(value, _)| value).collect()
    }
}
