//! A slice's rows of all workers in key order, each key's by time.

use super::history::{Histories, NO_ID, Numbering, Row, Slice, Texts, bits};
use crate::dictionary::Pool;
use crate::view::SlotType;
use std::cmp::Ordering;

/// A slice's contributions by key: the rows of key `k` are `rows[starts[k]..starts[k + 1]]`, rising in time.
#[derive(Debug, Default)]
pub struct Arranged {
    /// The number of slices that the keys were cut into.
    pub(super) slices: u32,
    pub(super) rows: Vec<Row>,
    pub(super) words: Vec<u64>,
    pub(super) starts: Vec<usize>,
    /// Per key the first time of any accepted event, and at which it was known; `i64::MAX` = none.
    pub(super) first_us: Vec<i64>,
    /// The place, among a row's words, of when it became known, if that is kept; how many words come before its values.
    pub(super) known: Option<usize>,
    pub(super) lead: usize,
    /// The strings of this slice.
    pub(super) texts: Texts,
    pub(super) ids: Pool,
}

/// One slice of histories, taken out of them.
#[derive(Debug, Default)]
pub struct Cut(Vec<Slice>);

impl Histories {
    /// Takes the contributions of every slice out, there being `slices`, so that the memory of each is free as soon as it
    /// is arranged.
    pub fn cut(&mut self, slices: usize) -> Vec<Cut> {
        let of_slice = |slice| Cut(self.parts.iter_mut().map(|part| std::mem::take(&mut part.slices[slice])).collect());
        (0..slices).map(of_slice).collect()
    }
}

impl Arranged {
    /// Arranges a slice that was taken out of histories.
    pub fn of(histories: &Histories, cut: Cut) -> Self {
        Self::of_slices(histories, &cut.0.iter().collect::<Vec<_>>())
    }

    /// Gathers slice `slice` of histories.
    pub fn new(histories: &Histories, slice: usize) -> Self {
        Self::of_slices(histories, &histories.parts.iter().map(|part| &part.slices[slice]).collect::<Vec<_>>())
    }

    /// Of one slice of each part: a counting sort by key, then each key's rows by time, which are mostly in order already.
    fn of_slices(histories: &Histories, cut: &[&Slice]) -> Self {
        let parts = &histories.parts;
        let Some(first) = parts.first() else { return Self { slices: 1, starts: vec![0], ..Self::default() } };
        let keys = cut.iter().map(|part| part.first_us.len()).max().unwrap_or(0);
        let mut first_us = vec![i64::MAX; keys];
        let (mut row_ends, mut word_ends) = (vec![0usize; keys + 1], vec![0usize; keys + 1]);
        for part in cut {
            for (to, &from) in first_us.iter_mut().zip(&part.first_us) {
                *to = from.min(*to);
            }
            for row in part.rows() {
                row_ends[row.key as usize + 1] += 1;
                word_ends[row.key as usize + 1] += first.layout.words(row.mask);
            }
        }
        for key in 0..keys {
            row_ends[key + 1] += row_ends[key];
            word_ends[key + 1] += word_ends[key];
        }
        let starts = row_ends.clone();
        let mut rows = vec![Row { time_us: 0, mask: 0, key: 0, word: 0 }; row_ends[keys]];
        let mut words = vec![0; word_ends[keys]];
        let (mut strings, mut ids) = (Numbering::new(histories.texts.len(), words.len()), Pool::default());
        for ((part, codes), layout) in cut.iter().zip(&histories.codes).zip(parts.iter().map(|part| &part.layout)) {
            for (block, row) in part.blocks().flat_map(|block| block.rows.iter().map(move |row| (block, row))) {
                let key = row.key as usize;
                let (at, mut to) = (row_ends[key], word_ends[key]);
                row_ends[key] += 1;
                let word = u32::try_from(to).expect("a slice of keys holds less than 2^32 values");
                rows[at] = Row { word, ..*row };
                let mut from = row.word as usize;
                if layout.keeps_ids {
                    let id = block.words[from];
                    words[to] = if id == NO_ID { NO_ID } else { ids.push(part.ids.get(id)) };
                    (from, to) = (from + 1, to + 1);
                }
                if layout.keeps_known {
                    words[to] = block.words[from];
                    (from, to) = (from + 1, to + 1);
                }
                for slot in bits(row.mask & layout.value_mask) {
                    let value = block.words[from];
                    let text = layout.text_mask >> slot & 1 == 1;
                    words[to] = if text { u64::from(strings.of(codes[value as usize])) } else { value };
                    (from, to) = (from + 1, to + 1);
                }
                word_ends[key] = to;
            }
        }
        for key in 0..keys {
            let rows = &mut rows[starts[key]..starts[key + 1]];
            if !rows.is_sorted_by_key(|row| row.time_us) {
                // Stable: it finds the runs that the workers' shares are.
                rows.sort_by_key(|row| row.time_us);
            }
        }
        let (slices, lead) = (first.slices.len() as u32, first.layout.lead());
        let known = first.layout.keeps_known.then_some(usize::from(first.layout.keeps_ids));
        let texts = Texts { all: histories.texts.clone(), codes: strings.codes };
        Self { slices, rows, words, starts, first_us, known, lead, texts, ids }
    }
}

impl Arranged {
    /// The event id of an id word; a missing one comes before all others.
    pub(super) fn id(&self, word: u64) -> Option<&[u8]> {
        (word != NO_ID).then(|| self.ids.get(word))
    }

    /// The order of two values of a slot.
    pub(super) fn compare(&self, slot_type: SlotType, a: u64, b: u64) -> Ordering {
        match slot_type {
            SlotType::I64 | SlotType::Timestamp => a.cast_signed().cmp(&b.cast_signed()),
            SlotType::F64 => f64::from_bits(a).total_cmp(&f64::from_bits(b)),
            SlotType::Mark | SlotType::Bool => a.cmp(&b),
            SlotType::Utf8 => self.texts.get(a as u32).cmp(self.texts.get(b as u32)),
        }
    }
}
