//! Slices of a history as plain bytes, for what does not fit in memory: a driver that runs out of it unloads every
//! slice to disk, goes on, and later loads one slice after the other.

use super::history::{Block, History, NO_ID, Numbering, Slice, bits};
use crate::codec::plain::{halves, put_halves, put_words, words};
use crate::codec::wire::{Reader, put_bytes, put_u64};
use crate::dictionary::Dictionary;
use crate::{Error, Result};

impl History {
    /// About how many bytes the contributions take up: what is in use, without the rest of blocks that are being filled.
    pub fn bytes(&self) -> usize {
        self.slices.iter().map(Slice::bytes).sum::<usize>() + self.dictionary.bytes()
    }

    /// Takes a slice's contributions out of memory and appends them to `out` as bytes; appends nothing for an empty
    /// one.
    pub fn unload(&mut self, slice: usize, out: &mut Vec<u8>) {
        let mut taken = std::mem::take(&mut self.slices[slice]);
        let codes = self.renumber(&mut taken);
        let firsts = || taken.first_us.iter().enumerate().filter(|&(_, &first_us)| first_us != i64::MAX);
        let (seen, row_count) = (firsts().count(), taken.rows().count());
        if seen == 0 && row_count == 0 {
            return;
        }
        let word_count = taken.blocks().map(|block| block.words.len()).sum::<usize>();
        for count in [seen, row_count, word_count, codes.len(), taken.ids.len()] {
            put_u64(out, count as u64);
        }
        for (key, first_us) in firsts() {
            out.extend_from_slice(&(key as u32).to_le_bytes());
            out.extend_from_slice(&first_us.to_le_bytes());
        }
        taken.blocks().for_each(|block| put_words(out, block.rows.iter().map(|row| row.time_us.cast_unsigned())));
        taken.blocks().for_each(|block| put_halves(out, block.rows.iter().map(|row| row.key)));
        let width = self.mask_bytes();
        taken.rows().for_each(|row| out.extend_from_slice(&row.mask.to_le_bytes()[..width]));
        // A row's words follow the words of the row before: where they begin need not be kept.
        taken.blocks().for_each(|block| put_words(out, block.words.iter().copied()));
        codes.into_iter().for_each(|code| put_bytes(out, self.dictionary.texts.get(code)));
        (0..taken.ids.len() as u64).for_each(|id| put_bytes(out, taken.ids.get(id)));
        if self.slices.iter().all(|slice| slice.rows().next().is_none()) {
            self.dictionary = Dictionary::default();
        }
    }

    /// Gives the strings among a slice's words numbers of their own, and returns by number the code.
    fn renumber(&self, slice: &mut Slice) -> Vec<u32> {
        let words = slice.blocks().map(|block| block.words.len()).sum();
        let mut strings = Numbering::new(self.dictionary.texts.len(), words);
        for Block { rows, words } in slice.blocks_mut() {
            for row in rows.iter().filter(|row| row.mask & self.layout.text_mask != 0) {
                let values = &mut words[row.word as usize + self.layout.lead()..];
                for (slot, word) in bits(row.mask & self.layout.value_mask).zip(values) {
                    if self.layout.text_mask >> slot & 1 == 1 {
                        *word = u64::from(strings.of(*word as u32));
                    }
                }
            }
        }
        strings.codes
    }

    /// Adds to a slice what [`unload`](Self::unload) took out of this slice of a history of the same view, cut into as
    /// many slices.
    pub fn load(&mut self, slice: usize, bytes: &[u8]) -> Result<()> {
        let width = self.mask_bytes();
        let layout = &self.layout;
        let to = &mut self.slices[slice];
        let mut reader = Reader::new(bytes);
        let mut counts = [0usize; 5];
        for count in &mut counts {
            *count = reader.count(0)?;
        }
        let [seen, row_count, word_count, strings, id_count] = counts;
        for _ in 0..seen {
            let key = halves(&mut reader, 1)?.sum::<u32>() as usize;
            let first_us = words(&mut reader, 1)?.sum::<u64>().cast_signed();
            if key >= to.first_us.len() {
                to.first_us.resize(key + 1, i64::MAX);
            }
            to.first_us[key] = first_us.min(to.first_us[key]);
        }
        let times = words(&mut reader, row_count)?;
        let keys = halves(&mut reader, row_count)?;
        let masks = reader.take(row_count * width)?.chunks_exact(width.max(1));
        let mut values = words(&mut reader, word_count)?;
        let codes = (0..strings)
            .map(|_| reader.bytes().map(|text| u64::from(self.dictionary.code(text))))
            .collect::<Result<Vec<u64>>>()?;
        let ids = (0..id_count).map(|_| reader.bytes().map(|id| to.ids.push(id))).collect::<Result<Vec<u64>>>()?;
        reader.finish()?;
        for ((time, key), mask) in times.zip(keys).zip(masks) {
            let mut padded = [0; 8];
            padded[..width].copy_from_slice(mask);
            let mask = u64::from_le_bytes(padded);
            to.begin_row(time.cast_signed(), mask, key);
            let mut next = || values.next().ok_or_else(|| Error::codec("a row of a history lacks values"));
            let named = |of: &[u64], index: u64| {
                of.get(index as usize).copied().ok_or_else(|| Error::codec("a row of a history names no string"))
            };
            if layout.keeps_ids {
                let id = next()?;
                to.push_word(if id == NO_ID { NO_ID } else { named(&ids, id)? });
            }
            if layout.keeps_known {
                to.push_word(next()?);
            }
            for slot in bits(mask & layout.value_mask) {
                let value = next()?;
                to.push_word(if layout.text_mask >> slot & 1 == 1 { named(&codes, value)? } else { value });
            }
        }
        Ok(())
    }

    /// The bytes of a mask of the view's slots.
    fn mask_bytes(&self) -> usize {
        self.slots.len().div_ceil(8)
    }
}
