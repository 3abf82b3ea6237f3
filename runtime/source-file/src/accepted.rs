//! The events of files that count, for the offline commands.

use crate::files::{EventFile, find};
use crate::intake::{Accepted, Intake, Told};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::Result;
use plumb_pipeline::accept::{AcceptRules, Accounting};
use plumb_pipeline::decode::TimeUnit;
use plumb_pipeline::parallel::Ahead;
use plumb_pipeline::port::{EventReader, ScratchFolder};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Asked now and then while they are; an error where the reading is to stop, which it then ends with.
    pub go_on: fn() -> Result<()>,
}

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

/// How many accepted batches wait for who asks for them.
const BATCHES_AHEAD: usize = 8;

/// The accepted events of a file or folder tree: decoded, checked and without later copies, as `plumb run`
/// over the same path would accept them. Files of an archive (with `_source`, `_partition` and `_offset`) hold
/// accepted events; they are given as they are.
#[derive(Debug)]
pub struct AcceptedEvents {
    way: Way,
    told: Told,
    stop: Arc<AtomicBool>,
    rows: Option<u64>,
    /// Read and not given out yet, the next one last.
    waiting: Vec<(u32, EventBatch)>,
}

#[derive(Debug)]
enum Way {
    /// Read when it is asked for: of an archive, of which some may yet be left out and nothing is to be decided.
    Intake(Box<Intake>),
    /// Accepted ahead: while labels are read nobody asks yet, and later each is decided beside what is made of others.
    Ahead(Ahead<Accepted>),
}

impl AcceptedEvents {
    /// Opens the files of a path and begins to decode.
    pub fn open(path: &Path, schema: &Arc<SourceSchema>, options: &EventOptions) -> Result<Self> {
        Self::of(find(path)?, schema, options)
    }

    /// Opens files and begins to decode.
    pub fn of(files: Vec<EventFile>, schema: &Arc<SourceSchema>, options: &EventOptions) -> Result<Self> {
        let mut intake = Intake::new(files, schema, options)?;
        let (told, stop, rows) = (intake.told(), intake.stop(), intake.rows());
        let way = if intake.waits() {
            Way::Intake(Box::new(intake))
        } else {
            Way::Ahead(Ahead::new(options.threads.max(1), BATCHES_AHEAD, move || intake.next()))
        };
        Ok(Self { way, told, stop, rows, waiting: Vec::new() })
    }

    /// The number of rows there are, if it is known before they are read: of Parquet files.
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// What became of the rows read so far; events of an archive count as applied.
    pub fn accounting(&self) -> Accounting {
        self.told.accounting()
    }

    /// The first refused rows.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.told.refusals()
    }

    fn next_accepted(&mut self) -> Result<Option<Accepted>> {
        match &mut self.way {
            Way::Intake(intake) => intake.next(),
            Way::Ahead(ahead) => ahead.next().transpose(),
        }
    }
}

impl Drop for AcceptedEvents {
    fn drop(&mut self) {
        // The thread that accepts ahead is waited for.
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl EventReader for AcceptedEvents {
    /// Of an archive row groups are left out that begin later; they count as read and accepted. Of other files all is
    /// read: the first copy of an id may lie anywhere.
    fn only_before(&mut self, before_us: i64) {
        if let Way::Intake(intake) = &mut self.way {
            intake.only_before(before_us);
            self.rows = intake.rows();
        }
    }

    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        match self.waiting.pop() {
            Some((_, events)) => Ok(Some(events)),
            None => Ok(self.next_accepted()?.map(|(events, _)| events)),
        }
    }

    fn next_of_partition(&mut self) -> Result<Option<(u32, EventBatch)>> {
        if let Some(waiting) = self.waiting.pop() {
            return Ok(Some(waiting));
        }
        let Some((events, partitions)) = self.next_accepted()? else { return Ok(None) };
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
