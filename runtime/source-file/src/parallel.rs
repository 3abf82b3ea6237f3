//! Decoding files on several threads, their batches coming in the files' order all the same.
//!
//! Work is cut into row groups (Parquet) and ranges of bytes (JSON Lines); each piece has a queue of its
//! own, and the pieces' queues are emptied one after the other. How many pieces are under way bounds the
//! memory.

use crate::files::{EventFile, Format};
use crate::json_lines::JsonLines;
use crate::parquet_rows::{ParquetRows, is_archive};

use crate::reader::{FileReader, Reading};
use arrow_schema::{DataType as ArrowType, TimeUnit};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use plumb_columnar::ParquetFile;
use plumb_pipeline::accept::Hashes;
use plumb_pipeline::port::SourceBatch;
use plumb_pipeline::{Error, Result};
use std::collections::VecDeque;
use std::ops::Range;
use std::thread::JoinHandle;

/// Rows per batch.
const BATCH_ROWS: usize = 16_384;
/// Batches of one piece that may wait for those before them.
const WAITING_BATCHES: usize = 16;
/// Bytes of a JSON Lines file in one piece.
const LINES_PIECE_BYTES: u64 = 8 << 20;

/// A piece of a file.
#[derive(Debug, Clone)]
struct Piece {
    /// The file, an index into the list of them.
    file: usize,
    path: EventFile,
    part: Part,
    /// Of a row group of an archive, whose events were accepted before.
    archived: Option<Archived>,
}

/// What is known of a row group before it is read.
#[derive(Debug, Clone, Copy)]
struct Archived {
    /// Its first event time, µs, where the file says it.
    least_us: Option<i64>,
    rows: u64,
}

#[derive(Debug, Clone)]
enum Part {
    Whole,
    /// A row group.
    Group(usize),
    /// The lines that begin in this range of bytes.
    Lines(Range<u64>),
}

/// A batch and what is to be known of the file it is from. Its offsets count from the piece's first row.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) batch: SourceBatch,
    pub(crate) hashes: Hashes,
    /// The events were accepted before.
    pub(crate) archive: bool,
    /// Their partitions in an archive.
    pub(crate) partitions: Vec<u32>,
    pub(crate) zoneless: bool,
}

/// What the threads give: the next batch, or the end of a piece.
#[derive(Debug)]
pub(crate) enum Step {
    /// A batch of the file of this index.
    Batch(usize, Box<Decoded>),
    /// Rows are counted anew from here on.
    PieceEnd,
    /// Nothing more.
    End,
}

/// A piece's batches, closed by `None`: a queue that merely ends is that of a thread that broke down.
type Queue = Sender<Result<Option<Decoded>>>;

/// Decodes files in order, on threads of its own.
#[derive(Debug)]
pub(crate) struct Decoders {
    pieces: std::vec::IntoIter<Piece>,
    under_way: VecDeque<(usize, Receiver<Result<Option<Decoded>>>)>,
    work: Option<Sender<(Piece, Queue)>>,
    threads: Vec<JoinHandle<()>>,
    rows: u64,
    /// Whether pieces were handed out.
    begun: bool,
}

impl Decoders {
    /// Begins at once, unless all pieces are of an archive: of those some may yet be left out.
    pub(crate) fn start(files: &[EventFile], reading: &Reading, threads: usize) -> Result<Self> {
        let (pieces, rows) = cut(files, &reading.schema.time_field)?;
        let (work, todo) = unbounded::<(Piece, Queue)>();
        let threads = threads.clamp(1, pieces.len().max(1));
        let handles = (0..threads)
            .map(|number| {
                let (todo, reading) = (todo.clone(), reading.clone());
                std::thread::Builder::new()
                    .name(format!("decode-{number}"))
                    .spawn(move || {
                        for (piece, queue) in todo {
                            decode(&piece, &reading, &queue);
                        }
                    })
                    .map_err(|error| Error::unavailable("start a thread", error))
            })
            .collect::<Result<Vec<_>>>()?;
        let may_wait = pieces.iter().all(|piece| piece.archived.is_some());
        let mut decoders = Self {
            pieces: pieces.into_iter(),
            under_way: VecDeque::new(),
            work: Some(work),
            threads: handles,
            rows,
            begun: false,
        };
        if !may_wait {
            decoders.begin();
        }
        Ok(decoders)
    }

    fn begin(&mut self) {
        self.begun = true;
        // One more than threads, so that none waits while the first is emptied.
        (0..=self.threads.len()).for_each(|_| self.hand_out());
    }

    /// Whether pieces were handed out.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Leaves out what of an archive begins at or after an instant, if nothing was begun; returns the number of rows.
    pub(crate) fn only_before(&mut self, before_us: i64) -> u64 {
        if self.begun {
            return 0;
        }
        let mut left_out = 0;
        let pieces = std::mem::take(&mut self.pieces).filter(|piece| match piece.archived {
            Some(Archived { least_us: Some(least_us), rows }) if least_us >= before_us => {
                left_out += rows;
                false
            }
            _ => true,
        });
        self.pieces = pieces.collect::<Vec<_>>().into_iter();
        self.rows -= left_out;
        left_out
    }

    /// The number of rows, as far as it is known before reading.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// The next batch in the order of files and rows.
    pub(crate) fn next(&mut self) -> Result<Step> {
        if !self.begun {
            self.begin();
        }
        let Some((file, queue)) = self.under_way.front() else { return Ok(Step::End) };
        let received = queue.recv().map_err(|_| Error::internal("a thread that decodes event files broke down"))?;
        if let Some(decoded) = received? {
            return Ok(Step::Batch(*file, Box::new(decoded)));
        }
        self.under_way.pop_front();
        self.hand_out();
        Ok(Step::PieceEnd)
    }

    fn hand_out(&mut self) {
        if let (Some(piece), Some(work)) = (self.pieces.next(), &self.work) {
            let (queue, waiting) = bounded(WAITING_BATCHES);
            self.under_way.push_back((piece.file, waiting));
            work.send((piece, queue)).expect("the threads live as long as this sender");
        }
    }
}

impl Drop for Decoders {
    fn drop(&mut self) {
        // Without queues and work every thread comes to its end.
        self.under_way.clear();
        self.work = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a decoding thread panicked");
            }
        }
    }
}

/// Cuts files into pieces, and counts the rows of those whose number is known.
fn cut(files: &[EventFile], time_field: &str) -> Result<(Vec<Piece>, u64)> {
    let mut pieces = Vec::new();
    let mut rows = 0;
    for (file, path) in files.iter().enumerate() {
        let mut add = |part, archived| pieces.push(Piece { file, path: path.clone(), part, archived });
        match path.format {
            Format::Csv => add(Part::Whole, None),
            Format::Parquet => {
                let parquet = ParquetFile::open(&path.path)?;
                rows += parquet.rows();
                let is_archive = is_archive(parquet.schema());
                let archived = |group| {
                    let least_us = least_us(&parquet, group, time_field);
                    is_archive.then(|| Archived { least_us, rows: parquet.row_group_rows(group) })
                };
                match parquet.row_groups() {
                    // To be told of missing columns all the same.
                    0 => add(Part::Whole, None),
                    groups => (0..groups).for_each(|group| add(Part::Group(group), archived(group))),
                }
            }
            Format::JsonLines => {
                let metadata = crate::files::open(&path.path)?.metadata();
                let failed = |error| Error::unavailable(format!("read `{}`", path.path.display()), error);
                let bytes = metadata.map_err(failed)?.len();
                let starts = (0..bytes).step_by(LINES_PIECE_BYTES as usize);
                starts.for_each(|start| add(Part::Lines(start..bytes.min(start + LINES_PIECE_BYTES)), None));
            }
        }
    }
    Ok((pieces, rows))
}

/// The first event time of a row group, if it is known without reading and its unit is the archive's.
fn least_us(parquet: &ParquetFile, group: usize, time_field: &str) -> Option<i64> {
    let field = parquet.schema().field_with_name(time_field).ok()?;
    let in_us = matches!(field.data_type(), ArrowType::Timestamp(TimeUnit::Microsecond, _));
    parquet.i64_range(group, time_field).filter(|_| in_us).map(|(least_us, _)| least_us)
}

/// Decodes a piece into its queue, until its end, an error, or nobody listens any more.
fn decode(piece: &Piece, reading: &Reading, queue: &Queue) {
    let path = &piece.path.path;
    let opened = match &piece.part {
        Part::Whole => FileReader::open(&piece.path, u64::MAX, reading, 0, BATCH_ROWS),
        Part::Group(group) => ParquetRows::open_group(path, reading, *group, 0, BATCH_ROWS)
            .map(|rows| FileReader::Parquet(Box::new(rows))),
        Part::Lines(range) => JsonLines::open_range(path, reading, range.clone(), BATCH_ROWS)
            .map(|lines| FileReader::JsonLines(Box::new(lines))),
    };
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(error) => {
            // An error here is that nobody listens.
            queue.send(Err(error)).ok();
            return;
        }
    };
    loop {
        let batch = reader.next_batch();
        let (archive, zoneless) = (reader.is_archive(), reader.zoneless());
        let last = !matches!(batch, Ok(Some(_)));
        let hashes = |batch: &SourceBatch| if archive { Hashes::default() } else { Hashes::of(&batch.events) };
        let partitions = reader.take_partitions();
        let decoded = batch
            .map(|batch| batch.map(|batch| Decoded { hashes: hashes(&batch), batch, archive, partitions, zoneless }));
        if queue.send(decoded).is_err() || last {
            return;
        }
    }
}
