//! The events that an audit looks at again, by slice of entity keys, on disk where they are many.

use super::naive::Ranked;
use crate::offline::needed_columns;
use crate::offline::spill::Slices;
use crate::port::{EventReader, ScratchFolder};
use crate::{Error, Result};
use plumb_core::codec::plain::{put_column, read_columns};
use plumb_core::column::{Column, DataType, Values};
use plumb_core::entity::{EntityKey, key_of_row};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_transform::Transform;
use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Into how many slices keys are cut.
pub(super) const SLICES: usize = 256;

/// About the rows of a batch that is read from several.
const BATCH_ROWS: usize = 16 * 1024;

/// The slice of a key.
pub(super) fn slice_of(key: &[u8]) -> usize {
    xxh3_64(key) as usize % SLICES
}

/// One view's events.
#[derive(Debug)]
pub(super) struct History<'a> {
    transform: &'a Transform,
    /// The columns that are kept.
    columns: Vec<usize>,
    schema: Option<Arc<SourceSchema>>,
    /// The hashes of the keys asked for; `None` where events of all entities count.
    asked: Option<HashSet<u64>>,
    /// By slice the batches, each behind its length.
    kept: Slices<'a>,
    pub(super) ranked: Ranked,
}

impl<'a> History<'a> {
    /// Nothing yet, of a view that is asked about the keys in these rows of `keys`; beyond `limit_bytes` it goes to disk.
    pub(super) fn new(
        transform: &'a Transform,
        keys: &[&Column],
        rows: &[usize],
        folder: &'a dyn ScratchFolder,
        limit_bytes: usize,
    ) -> Self {
        let ranked = Ranked::new(transform);
        let mut bytes = Vec::new();
        let hash = |&row: &usize| key_of_row(keys, row, &mut bytes).then(|| xxh3_64(&bytes));
        let asked = ranked.is_empty().then(|| rows.iter().filter_map(hash).collect());
        Self {
            transform,
            columns: needed_columns([transform]),
            schema: None,
            asked,
            kept: Slices::new(folder, SLICES, limit_bytes),
            ranked,
        }
    }

    pub(super) fn transform(&self) -> &'a Transform {
        self.transform
    }

    /// Takes in a batch of accepted events.
    pub(super) fn add(&mut self, batch: &EventBatch) -> Result<()> {
        self.schema.get_or_insert_with(|| batch.schema.clone());
        self.ranked.add(self.transform, batch);
        let keys: Vec<&Column> = self.transform.key_columns().iter().map(|&column| &batch.columns[column]).collect();
        let mut of_slices: Vec<Vec<usize>> = vec![Vec::new(); SLICES];
        let mut bytes = Vec::new();
        for row in 0..batch.len() {
            if !key_of_row(&keys, row, &mut bytes) {
                continue;
            }
            let hash = xxh3_64(&bytes);
            if self.asked.as_ref().is_none_or(|asked| asked.contains(&hash)) {
                of_slices[hash as usize % SLICES].push(row);
            }
        }
        for (slice, rows) in of_slices.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let rows = || rows.iter().copied();
            let times = |of: &[i64]| Column::of(Values::Timestamp(rows().map(|row| of[row]).collect()));
            bytes.clear();
            put_column(&mut bytes, &times(&batch.times_us));
            put_column(&mut bytes, &times(&batch.record_times_us));
            for &column in &self.columns {
                put_column(&mut bytes, &batch.columns[column].take(rows()));
            }
            let length = u32::try_from(bytes.len()).map_err(|_| Error::internal("a batch of 4 GiB"))?;
            self.kept.put(slice, |held| {
                held.extend_from_slice(&length.to_le_bytes());
                held.extend_from_slice(&bytes);
            })?;
        }
        Ok(())
    }

    /// The bytes of a slice.
    pub(super) fn bytes(&self, slice: usize) -> Result<usize> {
        self.kept.bytes(slice)
    }

    /// Visits the batches of a slice in the order in which they came.
    pub(super) fn each(&self, slice: usize, visit: &mut dyn FnMut(EventBatch)) -> Result<()> {
        self.kept.each(slice, |mut bytes| {
            while let Some((length, rest)) = bytes.split_first_chunk() {
                let (batch, rest) = rest
                    .split_at_checked(u32::from_le_bytes(*length) as usize)
                    .ok_or_else(|| Error::internal("a scratch file holds no events"))?;
                visit(self.batch(batch)?);
                bytes = rest;
            }
            Ok(())
        })
    }

    fn batch(&self, bytes: &[u8]) -> Result<EventBatch> {
        let schema = self.schema.as_ref().ok_or_else(|| Error::internal("events without a schema"))?;
        let mut batch = EventBatch::new(schema.clone());
        let types: Vec<DataType> = batch.columns.iter().map(Column::data_type).collect();
        let kept = self.columns.iter().map(|&column| &types[column]);
        let mut columns = read_columns(bytes, [&DataType::Timestamp; 2].into_iter().chain(kept))?.into_iter();
        let mut times = || columns.next().and_then(|column| column.as_i64().map(<[i64]>::to_vec)).unwrap_or_default();
        (batch.times_us, batch.record_times_us) = (times(), times());
        let rows = batch.times_us.len();
        batch.offsets = (0..rows as u64).collect();
        for (column, data_type) in batch.columns.iter_mut().zip(&types) {
            *column = Column::nulls(data_type, rows);
        }
        for (&column, values) in self.columns.iter().zip(columns) {
            batch.columns[column] = values;
        }
        Ok(batch)
    }

    /// Reads all events that `keeps` keeps of each batch.
    pub(super) fn reader<F>(&self, keeps: F) -> Cutting<'_, F>
    where
        F: Fn(EventBatch) -> EventBatch + Send,
    {
        Cutting { history: self, slices: 0..SLICES, waiting: VecDeque::new(), keeps }
    }
}

/// A reader of what is left of a history.
pub(super) struct Cutting<'a, F> {
    history: &'a History<'a>,
    /// Those to come.
    slices: Range<usize>,
    waiting: VecDeque<EventBatch>,
    keeps: F,
}

impl<F: Fn(EventBatch) -> EventBatch + Send> EventReader for Cutting<'_, F> {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        loop {
            if let Some(batch) = self.waiting.pop_front() {
                return Ok(Some(batch));
            }
            let Some(slice) = self.slices.next() else { return Ok(None) };
            let (waiting, keeps) = (&mut self.waiting, &self.keeps);
            self.history.each(slice, &mut |batch| {
                let batch = keeps(batch);
                // What was kept together is little of each batch that came, and a component is called for each.
                match waiting.back_mut() {
                    Some(last) if last.len() < BATCH_ROWS => append(last, &batch),
                    _ => waiting.push_back(batch),
                }
            })?;
        }
    }
}

fn append(to: &mut EventBatch, batch: &EventBatch) {
    to.times_us.extend_from_slice(&batch.times_us);
    to.record_times_us.extend_from_slice(&batch.record_times_us);
    to.columns.iter_mut().zip(&batch.columns).for_each(|(to, column)| to.append(column));
    to.offsets.extend(to.offsets.len() as u64..to.times_us.len() as u64);
}

/// The key in a row, if it has one.
pub(super) fn key_at(columns: &[&Column], row: usize) -> Option<EntityKey> {
    let parts: Option<Vec<&[u8]>> = columns.iter().map(|column| column.str_bytes(row)).collect();
    parts.map(|parts| EntityKey::from_parts(&parts))
}
