//! Which strings of several dictionaries occurred: a bit each, so that what many tiles have in common costs no
//! comparison of strings.

use crate::column::Strings;

/// Strings that occurred, by the dictionary they were named in.
#[derive(Debug, Default)]
pub(super) struct Seen<'a>(Vec<(&'a Strings, Vec<u64>)>);

impl<'a> Seen<'a> {
    /// Takes notice of a string.
    pub(super) fn add(&mut self, code: u32, strings: &'a Strings) {
        // The usual case: the same dictionary as before. There are few.
        let place = match self.0.iter().rposition(|(known, _)| std::ptr::eq(*known, strings)) {
            Some(place) => place,
            None => {
                self.0.push((strings, vec![0; strings.len().div_ceil(64)]));
                self.0.len() - 1
            }
        };
        self.0[place].1[code as usize / 64] |= 1 << (code % 64);
    }

    /// The number of distinct strings.
    pub(super) fn count(&self) -> usize {
        match self.0.as_slice() {
            [(_, bits)] => bits.iter().map(|word| word.count_ones() as usize).sum(),
            _ => self.least(usize::MAX).len(),
        }
    }

    /// The `limit` least strings in byte order, ascending.
    pub(super) fn least(&self, limit: usize) -> Vec<&'a [u8]> {
        // Encoded dictionaries rise, so each gives its own least first.
        let of_one = |(strings, bits): &(&'a Strings, Vec<u64>)| {
            let strings = *strings;
            let codes =
                bits.clone().into_iter().enumerate().flat_map(|(at, word)| ones(word).map(move |bit| at * 64 + bit));
            codes.take(limit).map(move |code| strings.get(code))
        };
        let mut all: Vec<&[u8]> = self.0.iter().flat_map(of_one).collect();
        // Stable: it finds the runs that the dictionaries are.
        all.sort();
        all.dedup();
        all.truncate(limit);
        all
    }
}

/// The positions of the set bits, ascending.
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            bit
        })
    })
}
