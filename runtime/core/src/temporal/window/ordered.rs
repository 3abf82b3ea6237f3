//! Values that are ordered: medians, sets, sketches.

use super::{Asked, Frame, Span, Step, push_f64, push_list, step};
use crate::accumulator::distinct::{estimate, hash_of};
use crate::accumulator::quantile::{bucket_of_word, rank, representative};
use crate::column::Column;
use crate::temporal::counts::Counts;
use crate::temporal::history::Texts;
use crate::view::SlotType;

/// By what the values of an [`OrderedWindow`] are told apart and ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::temporal) enum Order {
    /// By bucket.
    Bucket(SlotType),
    /// By the bytes of the string.
    Bytes,
    /// By the fixed hash of the string.
    Hash,
}

/// The values that a slot has in a slice, numbered in an order.
#[derive(Debug)]
pub(in crate::temporal) struct Places {
    pub(in crate::temporal) slot: usize,
    pub(in crate::temporal) order: Order,
    by: By,
    /// By place: the string's code, or its hash.
    values: Vec<u64>,
    /// The places of the present key's values.
    pub(in crate::temporal) of_key: Vec<u32>,
}

#[derive(Debug)]
enum By {
    /// From the least bucket on each has a place.
    Bucket { least: i32, most: i32 },
    /// By code; what is no code of the slot is `u32::MAX`.
    Code(Vec<u32>),
}

impl Places {
    pub(in crate::temporal) fn new(slot: usize, order: Order) -> Self {
        let by = match order {
            Order::Bucket(_) => By::Bucket { least: i32::MAX, most: i32::MIN },
            Order::Bytes | Order::Hash => By::Code(Vec::new()),
        };
        Self { slot, order, by, values: Vec::new(), of_key: Vec::new() }
    }

    /// Takes note of a value of the slice.
    pub(in crate::temporal) fn meet(&mut self, word: u64, texts: &Texts) {
        match (&mut self.by, self.order) {
            (By::Bucket { least, most }, Order::Bucket(slot_type)) => {
                let bucket = bucket_of_word(slot_type, word);
                (*least, *most) = (bucket.min(*least), bucket.max(*most));
            }
            (By::Code(places), _) => {
                places.resize(texts.len(), u32::MAX);
                let place = &mut places[word as usize];
                if *place == u32::MAX {
                    *place = 0;
                    self.values.push(word);
                }
            }
            (By::Bucket { .. }, _) => {}
        }
    }

    /// Numbers the values met.
    pub(in crate::temporal) fn number(&mut self, texts: &Texts) {
        let By::Code(places) = &mut self.by else { return };
        let codes = std::mem::take(&mut self.values);
        if self.order == Order::Hash {
            // What has one hash is one value.
            let mut hashes: Vec<(u64, u64)> =
                codes.into_iter().map(|code| (hash_of(texts.get(code as u32)), code)).collect();
            hashes.sort_unstable();
            for (hash, code) in hashes {
                if self.values.last() != Some(&hash) {
                    self.values.push(hash);
                }
                places[code as usize] = self.values.len() as u32 - 1;
            }
        } else {
            self.values = codes;
            self.values.sort_unstable_by_key(|&code| texts.get(code as u32));
            (0..).zip(&self.values).for_each(|(place, &code)| places[code as usize] = place);
        }
    }

    /// The number of places.
    pub(in crate::temporal) fn count(&self) -> usize {
        match self.by {
            By::Bucket { least, most } if least <= most => (most - least) as usize + 1,
            By::Bucket { .. } => 0,
            By::Code(_) => self.values.len(),
        }
    }

    /// Goes on to a key's values.
    pub(in crate::temporal) fn fill(&mut self, words: &[u64]) {
        self.of_key.clear();
        match (&self.by, self.order) {
            (By::Bucket { least, .. }, Order::Bucket(slot_type)) => {
                self.of_key.extend(words.iter().map(|&word| (bucket_of_word(slot_type, word) - least) as u32));
            }
            (By::Code(places), _) => self.of_key.extend(words.iter().map(|&code| places[code as usize])),
            (By::Bucket { .. }, _) => {}
        }
    }
}

/// What is asked of values in an order.
#[derive(Debug, Clone, Copy)]
pub(in crate::temporal) enum OfOrdered {
    /// The place in millionths.
    Quantile(u32),
    ApproxDistinct(usize),
    CollectSet(usize),
}

/// How often each value occurs in a frame, in an order of the values.
#[derive(Debug)]
pub(in crate::temporal) struct OrderedWindow {
    pub(in crate::temporal) frame: usize,
    /// Index of the places of its slot's values.
    pub(in crate::temporal) places: usize,
    pub(in crate::temporal) asked: Vec<Asked<OfOrdered>>,
    counts: Counts,
}

impl OrderedWindow {
    pub(in crate::temporal) fn new(frame: usize, places: usize) -> Self {
        Self { frame, places, asked: Vec::new(), counts: Counts::default() }
    }

    pub(in crate::temporal) fn answer(
        &mut self,
        frame: &Frame,
        places: &Places,
        texts: &Texts,
        columns: &mut [Column],
    ) {
        let counts = &mut self.counts;
        counts.restart(places.count());
        let mut held = Span::default();
        for &span in &frame.spans {
            match step(held, span) {
                Step::Slide(gone, come) => {
                    places.of_key[gone].iter().for_each(|&place| counts.remove(place));
                    places.of_key[come].iter().for_each(|&place| counts.add(place));
                }
                Step::Afresh(all) => {
                    counts.clear();
                    places.of_key[all].iter().for_each(|&place| counts.add(place));
                }
            }
            held = span;
            for asked in &self.asked {
                let column = &mut columns[asked.column];
                match (asked.what, &places.by) {
                    (OfOrdered::Quantile(ppm), By::Bucket { least, .. }) => {
                        let place = counts.of_rank(rank(span.count() as u64, ppm));
                        push_f64(column, place.map(|place| representative(least + place as i32)));
                    }
                    (OfOrdered::ApproxDistinct(k), By::Code(_)) => {
                        let hashes = counts.places().map(|place| places.values[place]);
                        column.push_i64(estimate(hashes, counts.distinct(), k));
                    }
                    (OfOrdered::CollectSet(k), By::Code(_)) => {
                        let codes = counts.places().take(k).map(|place| places.values[place]);
                        push_list(column, codes.map(|code| texts.get(code as u32)));
                    }
                    (OfOrdered::Quantile(_), By::Code(_)) | (_, By::Bucket { .. }) => column.push_null(),
                }
            }
        }
    }
}
