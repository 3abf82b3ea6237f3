//! Records in sorted runs, in memory or on disk, that are read back as one sorted list: more of them than memory holds.

use super::spill::{Record, Spill};
use crate::port::ScratchFolder;
use crate::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::marker::PhantomData;
use std::sync::Mutex;

/// The bytes of a run that are in memory while it is read.
const BLOCK_BYTES: usize = 4096;

impl Record for (i64, u32) {
    const BYTES: usize = 12;

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
        out.extend_from_slice(&self.1.to_le_bytes());
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (first, second) = bytes.split_first_chunk()?;
        Some((i64::from_le_bytes(*first), u32::from_le_bytes(second.try_into().ok()?)))
    }
}

impl Record for (i64, u32, u32) {
    const BYTES: usize = 16;

    fn put(self, out: &mut Vec<u8>) {
        (self.0, self.1).put(out);
        out.extend_from_slice(&self.2.to_le_bytes());
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (pair, last) = bytes.split_at_checked(<(i64, u32)>::BYTES)?;
        let (first, second) = <(i64, u32)>::of(pair)?;
        Some((first, second, u32::from_le_bytes(last.try_into().ok()?)))
    }
}

/// Sorted runs of records.
#[derive(Debug)]
pub(super) struct Runs<'a, R> {
    spill: Spill<'a>,
    /// The buckets that are runs.
    runs: Mutex<Vec<usize>>,
    of: PhantomData<fn() -> R>,
}

impl<'a, R: Record + Ord> Runs<'a, R> {
    /// No runs; further ones than `limit_bytes` of them go to disk.
    pub(super) fn new(folder: &'a dyn ScratchFolder, limit_bytes: usize) -> Self {
        Self { spill: Spill::new(folder, 0, limit_bytes), runs: Mutex::default(), of: PhantomData }
    }

    /// Keeps records, which rise, as a run.
    pub(super) fn add(&self, records: &[R]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(records.len() * R::BYTES);
        records.iter().for_each(|&record| record.put(&mut bytes));
        let bucket = self.spill.add_bucket()?;
        let block = BLOCK_BYTES / R::BYTES * R::BYTES;
        let ends = (0..bytes.len()).step_by(block).map(|start| (bucket, start..bytes.len().min(start + block)));
        let parts = ends.collect();
        self.spill.put(bytes, parts)?;
        self.runs.lock().map_err(|_| Error::internal("a worker panicked while it sorted"))?.push(bucket);
        Ok(())
    }

    /// Reads all records in order.
    pub(super) fn merged(&self) -> Result<Merged<'_, R>> {
        let runs = self.runs.lock().map_err(|_| Error::internal("a worker panicked while it sorted"))?;
        let mut merged = Merged { spill: &self.spill, runs: Vec::new(), heads: BinaryHeap::new(), bytes: Vec::new() };
        for &bucket in runs.iter() {
            let mut run = Run { bucket, next: 0, block: Vec::new() };
            if let Some(record) = run.take(&self.spill, &mut merged.bytes)? {
                merged.heads.push(Reverse((record, merged.runs.len())));
                merged.runs.push(run);
            }
        }
        Ok(merged)
    }
}

/// A run that is being read.
#[derive(Debug)]
struct Run<R> {
    bucket: usize,
    /// The block after the one in memory.
    next: usize,
    /// What is left of the one in memory, the next record last.
    block: Vec<R>,
}

impl<R: Record> Run<R> {
    fn take(&mut self, spill: &Spill<'_>, bytes: &mut Vec<u8>) -> Result<Option<R>> {
        if self.block.is_empty() && spill.piece(self.bucket, self.next, bytes)? {
            self.next += 1;
            let records = bytes.rchunks_exact(R::BYTES).map(R::of).collect::<Option<Vec<R>>>();
            self.block = records.ok_or_else(|| Error::internal("a scratch file holds no records"))?;
        }
        Ok(self.block.pop())
    }
}

/// All records of some runs, rising.
#[derive(Debug)]
pub(super) struct Merged<'a, R> {
    spill: &'a Spill<'a>,
    runs: Vec<Run<R>>,
    /// Each run's next record.
    heads: BinaryHeap<Reverse<(R, usize)>>,
    bytes: Vec<u8>,
}

impl<R: Record + Ord> Iterator for Merged<'_, R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        let mut head = self.heads.peek_mut()?;
        let Reverse((record, run)) = *head;
        match self.runs[run].take(self.spill, &mut self.bytes) {
            Ok(Some(next)) => *head = Reverse((next, run)),
            Ok(None) => drop(PeekMut::pop(head)),
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(record))
    }
}
