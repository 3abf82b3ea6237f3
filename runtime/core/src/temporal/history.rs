//! The join's input: contributions of many events by dense key ids, packed as they come in.
//!
//! A history belongs to one view and is cut into slices of keys (key `k` is in slice `k % slices`), so
//! that each worker fills one of its own without locks and each slice is later answered by one thread
//! from all workers' histories. Nothing here depends on the order in which events are pushed.

use crate::column::{Column, Values};
use crate::contribution::Contributions;
use crate::dictionary::{AllTexts, Dictionary, Pool};
use crate::plan::{AccumulatorKind, Plan};
use crate::view::SlotType;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use std::sync::Arc;

/// The key id of an event or label whose key is null or not asked for.
pub const NO_KEY: u32 = u32::MAX;

/// The strings of one slice, by their number in it: of all strings they are few, and many views never look at one.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub(super) all: Arc<AllTexts>,
    /// By number the code.
    pub(super) codes: Vec<u32>,
}

impl Texts {
    pub(super) fn get(&self, number: u32) -> &[u8] {
        self.all.get(self.codes[number as usize])
    }

    pub(super) fn len(&self) -> usize {
        self.codes.len()
    }
}

/// The strings that one slice has, numbered anew: of all that a history holds they are few.
#[derive(Debug)]
pub(super) struct Numbering {
    numbers: Numbers,
    /// By number the code.
    pub(super) codes: Vec<u32>,
}

/// From a code to the number.
#[derive(Debug)]
enum Numbers {
    /// By code; `u32::MAX` = none yet.
    Dense(Vec<u32>),
    Sparse(HashMap<u32, u32, FxBuildHasher>),
}

impl Numbering {
    /// Of some of so many strings, at most `most`.
    pub(super) fn new(all: usize, most: usize) -> Self {
        let dense = all / 8 <= most;
        let numbers = if dense { Numbers::Dense(vec![u32::MAX; all]) } else { Numbers::Sparse(HashMap::default()) };
        Self { numbers, codes: Vec::new() }
    }

    /// The number of the string `code`.
    pub(super) fn of(&mut self, code: u32) -> u32 {
        let codes = &mut self.codes;
        let mut next = || {
            codes.push(code);
            codes.len() as u32 - 1
        };
        match &mut self.numbers {
            Numbers::Sparse(numbers) => *numbers.entry(code).or_insert_with(next),
            Numbers::Dense(numbers) => {
                let to = &mut numbers[code as usize];
                if *to == u32::MAX {
                    *to = next();
                }
                *to
            }
        }
    }
}

/// One contribution: which slots it fills, and where its value words begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) time_us: i64,
    /// The slots it contributes to.
    pub(super) mask: u64,
    /// The key's number within its slice.
    pub(super) key: u32,
    /// Index of its first word among those of its block, or of its slice once that is arranged: the event id where ids
    /// are kept, when it became known where that is kept, then the present value slots' values.
    pub(super) word: u32,
}

/// What a row's words are, from the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The slots whose values, not only presence, are read; a bit each.
    pub(super) value_mask: u64,
    /// The value slots that hold strings.
    pub(super) text_mask: u64,
    /// Whether the first word of a row is its event id (index into `ids`, `NO_ID` for none).
    pub(super) keeps_ids: bool,
    /// Whether the next word is when the event became known, µs.
    pub(super) keeps_known: bool,
}

/// The id word of an event without an id.
pub(super) const NO_ID: u64 = u64::MAX;

impl Layout {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut layout = Layout { value_mask: 0, text_mask: 0, keeps_ids: plan.keeps_ids, keeps_known: false };
        for accumulator in &plan.accumulators {
            let bit = 1 << accumulator.slot;
            match accumulator.kind {
                AccumulatorKind::Sum
                | AccumulatorKind::ValueCounts
                | AccumulatorKind::Last
                | AccumulatorKind::Min
                | AccumulatorKind::Max
                | AccumulatorKind::Moments
                | AccumulatorKind::Quantile
                | AccumulatorKind::Distinct
                | AccumulatorKind::LeastValues { .. }
                | AccumulatorKind::LeastHashes { .. } => {
                    layout.value_mask |= bit;
                    if accumulator.slot_type == SlotType::Utf8 {
                        layout.text_mask |= bit;
                    }
                }
                AccumulatorKind::Count | AccumulatorKind::LastTime | AccumulatorKind::Sessions { .. } => {}
            }
        }
        layout
    }

    /// The number of words of a row that fills these slots.
    pub(super) fn words(&self, mask: u64) -> usize {
        (mask & self.value_mask).count_ones() as usize + self.lead()
    }

    /// The number of words before a row's values.
    pub(super) fn lead(&self) -> usize {
        usize::from(self.keeps_ids) + usize::from(self.keeps_known)
    }
}

/// The rows of a block. Blocks are filled one after the other and never grow: a list that doubles is copied, and leaves
/// memory behind that was touched for nothing. The few rows of unit tests fill several too.
const BLOCK_ROWS: usize = if cfg!(test) { 3 } else { 1024 };

/// Some contributions, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) rows: Vec<Row>,
    /// Strings are codes of the history's dictionary.
    pub(super) words: Vec<u64>,
}

/// The contributions to the keys of one slice.
#[derive(Debug, Default)]
pub(super) struct Slice {
    full: Vec<Block>,
    full_words: usize,
    open: Block,
    pub(super) ids: Pool,
    /// Per key of the slice the first time of any accepted event that carries it (where it is kept when events became
    /// known: the first at which one had happened and was known); `i64::MAX` = none.
    pub(super) first_us: Vec<i64>,
}

impl Slice {
    pub(super) fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.full.iter().chain(std::iter::once(&self.open))
    }

    pub(super) fn blocks_mut(&mut self) -> impl Iterator<Item = &mut Block> {
        self.full.iter_mut().chain(std::iter::once(&mut self.open))
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.blocks().flat_map(|block| &block.rows)
    }

    /// Adds a row, whose words are those pushed next.
    #[inline]
    pub(super) fn begin_row(&mut self, time_us: i64, mask: u64, key: u32) {
        if self.open.rows.len() == BLOCK_ROWS {
            let words = self.open.words.len();
            let next = Block { rows: Vec::with_capacity(BLOCK_ROWS), words: Vec::with_capacity(words) };
            self.full.push(std::mem::replace(&mut self.open, next));
            self.full_words += words;
        }
        // A row has at most 66 words.
        let word = self.open.words.len() as u32;
        self.open.rows.push(Row { time_us, mask, key, word });
    }

    #[inline]
    pub(super) fn push_word(&mut self, word: u64) {
        self.open.words.push(word);
    }

    /// The bytes in use.
    pub(super) fn bytes(&self) -> usize {
        let rows = self.full.len() * BLOCK_ROWS + self.open.rows.len();
        let words = self.full_words + self.open.words.len();
        rows * size_of::<Row>() + words * size_of::<u64>() + self.first_us.len() * size_of::<i64>() + self.ids.bytes()
    }
}

/// Contributions of many events to one view, by dense key ids.
#[derive(Debug)]
pub struct History {
    pub(super) slots: Vec<SlotType>,
    pub(super) layout: Layout,
    pub(super) slices: Vec<Slice>,
    /// The strings of all slices: a worker meets most of them in many.
    pub(super) dictionary: Dictionary,
    non_finite: u64,
    masks: Vec<u64>,
    /// Of the batch at hand, kept for its memory.
    codes: Vec<Vec<u32>>,
}

impl History {
    /// An empty history, its keys cut into `slices` (at least one).
    pub fn new(plan: &Plan, slices: usize) -> Self {
        Self {
            slots: plan.slots.clone(),
            layout: Layout::new(plan),
            slices: (0..slices.max(1)).map(|_| Slice::default()).collect(),
            dictionary: Dictionary::default(),
            non_finite: 0,
            masks: Vec::new(),
            codes: Vec::new(),
        }
    }

    /// Keeps when events became known too: at T only those are seen that were known before it.
    pub fn keeping_known(mut self) -> Self {
        self.layout.keeps_known = true;
        self
    }

    /// The number of slices of keys.
    pub fn slices(&self) -> usize {
        self.slices.len()
    }

    /// The number of values that were NaN or infinite, hence no contribution.
    pub fn non_finite(&self) -> u64 {
        self.non_finite
    }

    /// Takes note of accepted events, whether or not they contribute: row `i` carries `keys[i]`
    /// ([`NO_KEY`]: none of ours) at `times_us[i]`, or where it is kept when events became known the later of the two.
    pub fn see(&mut self, keys: &[u32], times_us: &[i64]) {
        let slices = self.slices.len() as u32;
        for (&key, &time_us) in keys.iter().zip(times_us).filter(|&(&key, _)| key != NO_KEY) {
            let firsts_us = &mut self.slices[(key % slices) as usize].first_us;
            let key = (key / slices) as usize;
            if key >= firsts_us.len() {
                firsts_us.resize(key + 1, i64::MAX);
            }
            firsts_us[key] = time_us.min(firsts_us[key]);
        }
    }

    /// Adds what `extract` returned for a batch of events with these keys, times and (where the plan
    /// keeps them) ids. Contributions of events without a key of ours are left out; the others' keys must
    /// have been seen.
    pub fn push(&mut self, keys: &[u32], times_us: &[i64], ids: Option<&Column>, contributions: &Contributions) {
        self.push_known(keys, times_us, times_us, ids, contributions);
    }

    /// As [`push`](Self::push), of events that became known at `known_us`.
    pub fn push_known(
        &mut self,
        keys: &[u32],
        times_us: &[i64],
        known_us: &[i64],
        ids: Option<&Column>,
        contributions: &Contributions,
    ) {
        let mut masks = std::mem::take(&mut self.masks);
        self.non_finite += presence(&self.slots, contributions, &mut masks);
        for (&event, mask) in contributions.rows.iter().zip(&mut masks) {
            if keys[event as usize] == NO_KEY {
                *mask = 0;
            }
        }
        let mut codes = std::mem::take(&mut self.codes);
        self.code_texts(contributions, &masks, &mut codes);
        let slices = self.slices.len() as u32;
        for (index, (&event, &mask)) in contributions.rows.iter().zip(&masks).enumerate() {
            if mask == 0 {
                continue;
            }
            let event = event as usize;
            let key = keys[event];
            let slice = &mut self.slices[(key % slices) as usize];
            slice.begin_row(times_us[event], mask, key / slices);
            if self.layout.keeps_ids {
                let id = ids.and_then(|ids| ids.str_bytes(event));
                let id = id.map_or(NO_ID, |id| slice.ids.push(id));
                slice.push_word(id);
            }
            if self.layout.keeps_known {
                slice.push_word(known_us[event].cast_unsigned());
            }
            for slot in bits(mask & self.layout.value_mask) {
                let value = match &contributions.slots[slot].values {
                    Values::I64(v) | Values::Timestamp(v) => v[index].cast_unsigned(),
                    Values::F64(v) => v[index].to_bits(),
                    Values::Bool(v) => u64::from(v[index]),
                    Values::Utf8(_) | Values::Bytes(_) => u64::from(codes[slot][index]),
                    Values::List { .. } => 0,
                };
                slice.push_word(value);
            }
        }
        self.codes = codes;
        self.masks = masks;
    }
}

impl History {
    /// Writes the codes of the strings that are kept, by slot and contribution: one column after the other, as looks
    /// into the dictionary that do not wait for each other's memory take half the time.
    fn code_texts(&mut self, contributions: &Contributions, masks: &[u64], codes: &mut Vec<Vec<u32>>) {
        codes.resize_with(self.slots.len(), Vec::new);
        for slot in bits(self.layout.value_mask) {
            let (Values::Utf8(texts) | Values::Bytes(texts)) = &contributions.slots[slot].values else { continue };
            let code =
                |(text, &mask): (&[u8], &u64)| if mask >> slot & 1 == 1 { self.dictionary.code(text) } else { 0 };
            codes[slot].clear();
            codes[slot].extend(texts.iter().zip(masks).map(code));
        }
    }
}

/// The histories that workers gathered of one view, cut into the same number of slices, with their strings numbered
/// alike.
#[derive(Debug, Default)]
pub struct Histories {
    pub(super) parts: Vec<History>,
    pub(super) texts: Arc<AllTexts>,
    /// Per history, by code of its dictionary, the string's place in `texts`.
    pub(super) codes: Vec<Vec<u32>>,
}

impl Histories {
    /// Brings histories together.
    pub fn new(mut parts: Vec<History>) -> Self {
        let mut all = Dictionary::default();
        let codes = parts.iter_mut().enumerate().map(|(index, part)| {
            let dictionary = std::mem::take(&mut part.dictionary);
            let codes = 0..dictionary.texts.len() as u32;
            if index == 0 {
                all = dictionary;
                return codes.collect();
            }
            codes.map(|code| all.code(dictionary.texts.get(code))).collect()
        });
        let codes = codes.collect();
        Self { parts, texts: Arc::new(all.texts), codes }
    }
}

impl From<History> for Histories {
    fn from(history: History) -> Self {
        Self::new(vec![history])
    }
}

/// The positions of the set bits, ascending.
pub(super) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let bit = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            bit
        })
    })
}

/// Writes which slots each contribution fills; returns how many numbers were not finite.
pub(super) fn presence(slots: &[SlotType], contributions: &Contributions, masks: &mut Vec<u64>) -> u64 {
    masks.clear();
    masks.resize(contributions.len(), 0);
    let mut non_finite = 0;
    for (slot, (column, slot_type)) in contributions.slots.iter().zip(slots).enumerate() {
        let valid = |row: usize| column.is_valid(row);
        match (&column.values, slot_type) {
            (Values::Bool(marks), SlotType::Mark) => {
                for (row, (mask, &mark)) in masks.iter_mut().zip(marks).enumerate() {
                    *mask |= u64::from(mark != 0 && valid(row)) << slot;
                }
            }
            (Values::F64(numbers), _) => {
                for (row, (mask, &number)) in masks.iter_mut().zip(numbers).enumerate() {
                    if valid(row) {
                        *mask |= u64::from(number.is_finite()) << slot;
                        non_finite += u64::from(!number.is_finite());
                    }
                }
            }
            _ => {
                for (row, mask) in masks.iter_mut().enumerate() {
                    *mask |= u64::from(valid(row)) << slot;
                }
            }
        }
    }
    non_finite
}
