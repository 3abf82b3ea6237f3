//! The events of files that count, for the offline commands.

use crate::files::{EventFile, Format, find};
use crate::parallel::{Decoded, Decoders, Step};
use crate::reader::{Reading, say_zoneless, shift};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::Result;
use plumb_pipeline::accept::{AcceptRules, Acceptor, Accounting};
use plumb_pipeline::decode::TimeUnit;
use plumb_pipeline::offline::{Copies, IdRows};
use plumb_pipeline::port::{EventReader, Rejected, ScratchFolder};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// How many refused rows are kept to be shown.
const REFUSALS_KEPT: usize = 10;

/// How event files are read.
#[derive(Debug, Clone)]
pub struct EventOptions {
    /// The unit of integer times; a Parquet timestamp carries its own.
    pub unit: TimeUnit,
    /// What is rejected.
    pub rules: AcceptRules,
    /// The records' timestamp, µs: the start of the job, or `--now`.
    pub now_us: i64,
    /// The columns of a batch that are wanted; others may come as nulls. `None` = all. Which events are accepted
    /// does not depend on it; how many duplicates count as conflicts does (only what is read is compared).
    pub columns: Option<Vec<usize>>,
    /// How many threads decode; 0 counts as 1.
    pub threads: usize,
    /// How much memory ids may take; `None` = as much as they take. Nothing that is accepted depends on it.
    pub ids: Option<IdsWithin>,
}

/// How much memory the ids of events may take.
#[derive(Debug, Clone)]
pub struct IdsWithin {
    /// The bytes. Where that is too little, the events are read twice.
    pub bytes: u64,
    /// Where the ids are put then.
    pub scratch: Arc<dyn ScratchFolder>,
}

/// About the bytes of an id in memory, with the free places of a table that is growing.
const ID_BYTES: u64 = 60;

/// A row that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The file.
    pub file: String,
    /// The row, from 0.
    pub row: u64,
    /// Why.
    pub reason: String,
}

/// The accepted events of a file or folder tree: decoded, checked and without later copies, as `plumb run`
/// over the same path would accept them. Files of an archive (with `_source`, `_partition` and `_offset`) hold
/// accepted events; they are given as they are.
#[derive(Debug)]
pub struct AcceptedEvents {
    files: Vec<EventFile>,
    decoders: Decoders,
    reading: Reading,
    threads: usize,
    ids: Option<IdsWithin>,
    /// The later copies of ids, where they were found beforehand.
    copies: Option<Copies>,
    schema: Arc<SourceSchema>,
    acceptor: Acceptor,
    /// What was read from archives.
    archived: u64,
    refusals: Vec<Refusal>,
    /// The file being read, the source's rows before the piece at hand, and before that file.
    at: usize,
    base: u64,
    file_base: u64,
    /// The rows of the piece at hand.
    piece_rows: u64,
    /// Read and not given out yet, the next one last.
    waiting: Vec<(u32, EventBatch)>,
    zoneless_said: bool,
}

impl AcceptedEvents {
    /// Opens the files of a path and begins to decode.
    pub fn open(path: &Path, schema: &Arc<SourceSchema>, options: &EventOptions) -> Result<Self> {
        Self::of(find(path)?, schema, options)
    }

    /// Opens files and begins to decode.
    pub fn of(files: Vec<EventFile>, schema: &Arc<SourceSchema>, options: &EventOptions) -> Result<Self> {
        let reading = Reading {
            schema: schema.clone(),
            unit: options.unit,
            rules: Some(options.rules),
            record_time_us: options.now_us,
            columns: options.columns.clone(),
        };
        let decoders = Decoders::start(&files, &reading, options.threads)?;
        // Whatever its source is told of a log, of files all ids are remembered.
        let rules = AcceptRules { dedupe_horizon_us: None, ..options.rules };
        Ok(Self {
            files,
            decoders,
            reading,
            threads: options.threads,
            ids: options.ids.clone(),
            copies: None,
            schema: schema.clone(),
            acceptor: Acceptor::new(schema, rules),
            archived: 0,
            refusals: Vec::new(),
            at: 0,
            base: 0,
            file_base: 0,
            piece_rows: 0,
            waiting: Vec::new(),
            zoneless_said: false,
        })
    }

    /// The number of rows there are, if it is known before they are read: of Parquet files.
    pub fn rows(&self) -> Option<u64> {
        self.files.iter().all(|file| file.format == Format::Parquet).then(|| self.decoders.rows())
    }

    /// What became of the rows read so far; events of an archive count as applied.
    pub fn accounting(&self) -> Accounting {
        let mut accounting = *self.acceptor.accounting();
        accounting.read += self.archived;
        accounting.applied += self.archived;
        accounting
    }

    /// The first refused rows.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// The accepted events and, of an archive, their partitions.
    fn accept(&mut self, file: usize, decoded: Decoded) -> Result<(EventBatch, Vec<u32>)> {
        let Decoded { mut batch, hashes, archive, partitions, zoneless } = decoded;
        if zoneless && !self.zoneless_said {
            say_zoneless(&self.schema, &self.files[file].name);
            self.zoneless_said = true;
        }
        if archive {
            self.archived += batch.events.len() as u64;
            return Ok((batch.events, partitions));
        }
        let first = self.piece_rows == 0 && self.acceptor.remembered() == 0 && self.copies.is_none();
        // Of text files it shows on the way how many there are.
        let ids = if first { self.decoders.rows() } else { self.acceptor.remembered() as u64 };
        match self.ids.take_if(|within| ids.saturating_mul(ID_BYTES) > within.bytes) {
            Some(within) => {
                self.acceptor.forget_ids();
                self.copies = Some(self.find_copies(&within)?);
            }
            // A table that grows step by step would be rehashed a dozen times.
            None if first => self.acceptor.reserve(usize::try_from(ids).unwrap_or(0)),
            None => {}
        }
        if file != self.at {
            (self.at, self.file_base) = (file, self.base);
        }
        self.piece_rows = batch.next_offset;
        shift(&mut batch, self.base);
        let accepted = match &mut self.copies {
            None => self.acceptor.accept_hashed(batch, &hashes),
            Some(copies) => {
                let mut failure = None;
                let accepted = self.acceptor.accept_knowing(batch, &mut |events, row| {
                    copies.is_copy(events.offsets[row]).unwrap_or_else(|error| {
                        failure.get_or_insert(error);
                        None
                    })
                });
                failure.map_or(Ok(accepted), Err)?
            }
        };
        // The ids are of use to a commit only.
        self.acceptor.forget_drain();
        for Rejected { offset, reason, .. } in accepted.rejected {
            if self.refusals.len() < REFUSALS_KEPT {
                let file = self.files[file].path.display().to_string();
                self.refusals.push(Refusal { file, row: offset - self.file_base, reason });
            }
        }
        Ok((accepted.events, Vec::new()))
    }

    /// Reads everything for the ids of what is not refused, and says which of it are later copies.
    fn find_copies(&self, within: &IdsWithin) -> Result<Copies> {
        let mut decoders = Decoders::start(&self.files, &self.reading, self.threads)?;
        let rules = self.reading.rules.unwrap_or_default();
        let mut acceptor = Acceptor::new(&self.schema, AcceptRules { dedupe_horizon_us: None, ..rules });
        let mut ids = IdRows::new(within.scratch.as_ref(), within.bytes);
        let (mut base, mut piece_rows, mut failure) = (0, 0, None);
        loop {
            match decoders.next()? {
                Step::End => break,
                Step::PieceEnd => {
                    base += piece_rows;
                    piece_rows = 0;
                }
                Step::Batch(_, decoded) if decoded.archive => {}
                Step::Batch(_, decoded) => {
                    let Decoded { mut batch, hashes, .. } = *decoded;
                    piece_rows = batch.next_offset;
                    shift(&mut batch, base);
                    acceptor.accept_knowing(batch, &mut |events, row| {
                        let (id, payload) = hashes.get(row);
                        if let Err(error) = ids.add(events.offsets[row], id, payload) {
                            failure.get_or_insert(error);
                        }
                        None
                    });
                }
            }
            if let Some(error) = failure.take() {
                return Err(error);
            }
        }
        ids.copies()
    }

    /// The next events with their partitions, if they are of an archive.
    fn next_decoded(&mut self) -> Result<Option<(EventBatch, Vec<u32>)>> {
        loop {
            match self.decoders.next()? {
                Step::End => {
                    // Nothing comes that could be a copy: the memory is free for what is made of the events.
                    self.acceptor.forget_ids();
                    self.copies = None;
                    return Ok(None);
                }
                Step::PieceEnd => {
                    self.base += self.piece_rows;
                    self.piece_rows = 0;
                }
                Step::Batch(file, decoded) => {
                    let (events, partitions) = self.accept(file, *decoded)?;
                    if !events.is_empty() {
                        return Ok(Some((events, partitions)));
                    }
                }
            }
        }
    }
}

impl EventReader for AcceptedEvents {
    /// Of an archive row groups are left out that begin later; they count as read and accepted. Of other files all is
    /// read: the first copy of an id may lie anywhere.
    fn only_before(&mut self, before_us: i64) {
        self.archived += self.decoders.only_before(before_us);
    }

    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        match self.waiting.pop() {
            Some((_, events)) => Ok(Some(events)),
            None => Ok(self.next_decoded()?.map(|(events, _)| events)),
        }
    }

    fn next_of_partition(&mut self) -> Result<Option<(u32, EventBatch)>> {
        if let Some(waiting) = self.waiting.pop() {
            return Ok(Some(waiting));
        }
        let Some((events, partitions)) = self.next_decoded()? else { return Ok(None) };
        let first = partitions.first().copied().unwrap_or(0);
        if partitions.iter().all(|&partition| partition == first) {
            return Ok(Some((first, events)));
        }
        // Plumb writes a file for each partition; another tool may have put them together.
        let numbers: BTreeSet<u32> = partitions.iter().copied().collect();
        for number in numbers.into_iter().rev() {
            let rows = (0..partitions.len()).filter(|&row| partitions[row] == number);
            self.waiting.push((number, events.take(rows)));
        }
        Ok(self.waiting.pop())
    }
}
