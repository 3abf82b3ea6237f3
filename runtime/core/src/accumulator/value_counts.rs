//! How often each value occurs.

use std::cmp::Ordering;

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
        // A few are looked up one by one; many are put in their places together.
        if other.0.len() * 8 < self.0.len() {
            other.0.iter().for_each(|&(value, count)| self.add(value, count));
            return;
        }
        let room = self.0.len() + other.0.len();
        let mine = std::mem::replace(&mut self.0, Vec::with_capacity(room));
        let (mut mine, mut more) = (mine.into_iter().peekable(), other.0.iter().copied().peekable());
        while let (Some(&(left, count)), Some(&(right, added))) = (mine.peek(), more.peek()) {
            let order = left.cmp(&right);
            self.0.push(match order {
                Ordering::Less => (left, count),
                Ordering::Greater => (right, added),
                Ordering::Equal => (left, count + added),
            });
            if order.is_le() {
                mine.next();
            }
            if order.is_ge() {
                more.next();
            }
        }
        self.0.extend(mine);
        self.0.extend(more);
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
