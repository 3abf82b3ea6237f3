//! Decoding and accepting, one batch after the other.

use crate::accepted::{EventOptions, IdsWithin, Refusal};
use crate::files::{EventFile, Format};
use crate::parallel::{Decoded, Decoders, Step};
use crate::reader::{Reading, say_zoneless, shift};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::accept::{AcceptRules, Acceptor, Accounting};
use plumb_pipeline::offline::{Copies, IdRows};
use plumb_pipeline::port::Rejected;
use plumb_pipeline::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How many refused rows are kept to be shown.
const REFUSALS_KEPT: usize = 10;

/// About the bytes of an id in memory, with the free places of a table that is growing.
const ID_BYTES: u64 = 60;

/// Accepted events and, of an archive, their partitions.
pub(crate) type Accepted = (EventBatch, Vec<u32>);

/// What became of the rows read so far, told to who does not do the reading.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<Mutex<(Accounting, Vec<Refusal>)>>);

impl Told {
    /// Events of an archive count as applied.
    pub(crate) fn accounting(&self) -> Accounting {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The first refused rows.
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// Reads files for the events that count.
#[derive(Debug)]
pub(crate) struct Intake {
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
    told: Told,
    /// Nobody waits for the events any more.
    stop: Arc<AtomicBool>,
    /// The file being read, the source's rows before the piece at hand, and before that file.
    at: usize,
    base: u64,
    file_base: u64,
    /// The rows of the piece at hand.
    piece_rows: u64,
    zoneless_said: bool,
}

impl Intake {
    /// Opens files and begins to decode.
    pub(crate) fn new(files: Vec<EventFile>, schema: &Arc<SourceSchema>, options: &EventOptions) -> Result<Self> {
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
            told: Told::default(),
            stop: Arc::default(),
            at: 0,
            base: 0,
            file_base: 0,
            piece_rows: 0,
            zoneless_said: false,
        })
    }

    /// The number of rows there are, if it is known before they are read: of Parquet files.
    pub(crate) fn rows(&self) -> Option<u64> {
        self.files.iter().all(|file| file.format == Format::Parquet).then(|| self.decoders.rows())
    }

    /// Whether nothing was read yet, so that some may be left out.
    pub(crate) fn waits(&self) -> bool {
        !self.decoders.has_begun()
    }

    /// Leaves out what begins later, as far as nothing was read; it counts as read and accepted.
    pub(crate) fn only_before(&mut self, before_us: i64) {
        self.archived += self.decoders.only_before(before_us);
        self.tell();
    }

    /// What is told of the rows read so far.
    pub(crate) fn told(&self) -> Told {
        self.told.clone()
    }

    /// What, once it is set, ends a look through all files for the copies of ids.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    fn tell(&self) {
        let mut accounting = *self.acceptor.accounting();
        accounting.read += self.archived;
        accounting.applied += self.archived;
        let mut told = self.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.0 = accounting;
        if told.1.len() < self.refusals.len() {
            told.1.clone_from(&self.refusals);
        }
    }

    /// The next events; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Accepted>> {
        let next = self.next_accepted();
        self.tell();
        next
    }

    /// The accepted events and, of an archive, their partitions.
    fn accept(&mut self, file: usize, decoded: Decoded) -> Result<Accepted> {
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
        let go_on = || match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::internal("nobody waits for the events any more")),
            false => (within.go_on)(),
        };
        let (mut base, mut piece_rows, mut failure) = (0, 0, None);
        loop {
            go_on()?;
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
        ids.copies(&go_on)
    }

    fn next_accepted(&mut self) -> Result<Option<Accepted>> {
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
