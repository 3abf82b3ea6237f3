//! JSON Lines: one event per line.

use crate::files::open;
use crate::reader::Reading;
use plumb_pipeline::decode::JsonDecoder;
use plumb_pipeline::decode::json::{RECORD_BYTES_MAX, Record};
use plumb_pipeline::port::{Rejected, SourceBatch};
use plumb_pipeline::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Take};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes after which a batch is handed on although it has room for more rows.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// How much of a line that is too long is kept for the dead letters.
const LONG_LINE_KEPT: usize = 4096;

/// The lines of a file, without their ends.
#[derive(Debug)]
pub(crate) struct Lines {
    path: PathBuf,
    input: BufReader<Take<File>>,
    line: Vec<u8>,
    /// The number of lines read.
    read: u64,
    /// The next line's first byte in the file.
    at: u64,
    /// Lines that begin here or later are not read.
    end: u64,
}

/// What a line is.
pub(crate) enum Line<'a> {
    /// Nothing but white space.
    Blank,
    /// A record.
    Record(&'a [u8]),
    /// A line longer than a record may be: its beginning.
    TooLong(&'a [u8]),
}

impl Lines {
    /// Opens a file at a line, and reads no further than this many bytes of it.
    pub(crate) fn open(path: &Path, line: u64, bytes: u64) -> Result<Self> {
        let mut lines = Self::begin(path, 0, bytes)?;
        while lines.read < line && lines.skip()? {
            lines.read += 1;
        }
        Ok(lines)
    }

    /// Opens the lines that begin in a range of bytes, counted from 0.
    pub(crate) fn open_range(path: &Path, range: Range<u64>) -> Result<Self> {
        // From the byte before, so that a line that begins with the range is found as such.
        let mut lines = Self::begin(path, range.start.saturating_sub(1), u64::MAX)?;
        lines.end = range.end;
        if range.start > 0 {
            lines.skip()?;
        }
        Ok(lines)
    }

    fn begin(path: &Path, at: u64, end: u64) -> Result<Self> {
        let mut file = open(path)?;
        let sought = file.seek(SeekFrom::Start(at));
        sought.map_err(|error| Error::unavailable(format!("read `{}`", path.display()), error))?;
        let input = BufReader::with_capacity(1 << 18, file.take(end - at));
        Ok(Self { path: path.to_owned(), input, line: Vec::new(), read: 0, at, end })
    }

    /// Passes over what is left of a line; false at the end of the file.
    fn skip(&mut self) -> Result<bool> {
        let skipped = self.input.skip_until(b'\n').map_err(|error| self.failed(error))?;
        self.at += skipped as u64;
        Ok(skipped > 0)
    }

    /// The number of lines read, which is the next line's row.
    pub(crate) fn row(&self) -> u64 {
        self.read
    }

    /// The next line; `None` at the end.
    pub(crate) fn next_line(&mut self) -> Result<Option<Line<'_>>> {
        if self.at >= self.end {
            return Ok(None);
        }
        self.line.clear();
        // Room for a record and its line end: more than that is too long.
        let limit = RECORD_BYTES_MAX as u64 + 2;
        let read = (&mut self.input).take(limit).read_until(b'\n', &mut self.line);
        if read.map_err(|error| self.failed(error))? == 0 {
            return Ok(None);
        }
        let first = self.at == 0;
        self.at += self.line.len() as u64;
        self.read += 1;
        if self.line.pop_if(|last| *last == b'\n').is_none() && self.line.len() as u64 == limit {
            self.skip()?;
            return Ok(Some(Line::TooLong(&self.line[..LONG_LINE_KEPT])));
        }
        self.line.pop_if(|last| *last == b'\r');
        let mut line = self.line.as_slice();
        if first {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        Ok(Some(if line.trim_ascii().is_empty() { Line::Blank } else { Line::Record(line) }))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::unavailable(format!("read `{}`", self.path.display()), error)
    }
}

/// The reason of a line that is too long.
pub(crate) fn too_long() -> String {
    format!("a line is longer than {RECORD_BYTES_MAX} bytes (only its beginning is kept)")
}

/// Decodes the lines of a file.
#[derive(Debug)]
pub(crate) struct JsonLines {
    lines: Lines,
    decoder: JsonDecoder,
    reading: Reading,
    batch_rows: usize,
}

impl JsonLines {
    /// Opens a file at a row, and reads no further than this many bytes of it.
    pub(crate) fn open(path: &Path, bytes: u64, reading: &Reading, row: u64, batch_rows: usize) -> Result<Self> {
        Ok(Self::new(Lines::open(path, row, bytes)?, reading, batch_rows))
    }

    /// Opens the lines that begin in a range of bytes; their rows are counted from 0.
    pub(crate) fn open_range(path: &Path, reading: &Reading, range: Range<u64>, batch_rows: usize) -> Result<Self> {
        Ok(Self::new(Lines::open_range(path, range)?, reading, batch_rows))
    }

    fn new(lines: Lines, reading: &Reading, batch_rows: usize) -> Self {
        // All fields are decoded whatever columns are wanted: what is rejected must not depend on it.
        let mut decoder = JsonDecoder::new(reading.schema.clone(), reading.unit);
        if let Some(rules) = reading.rules {
            decoder = decoder.with_rules(rules);
        }
        Self { lines, decoder, reading: reading.clone(), batch_rows }
    }

    pub(crate) fn zoneless(&self) -> bool {
        self.decoder.zoneless() > 0
    }

    pub(crate) fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        let first = self.lines.row();
        let mut batch = self.reading.empty(first);
        let record_time_us = self.reading.record_time_us;
        let mut bytes_read = 0;
        while self.lines.row() - first < self.batch_rows as u64 && bytes_read < BATCH_BYTES_MAX {
            let offset = self.lines.row();
            match self.lines.next_line()? {
                None => break,
                Some(Line::Blank) => {}
                Some(Line::Record(bytes)) => {
                    bytes_read += bytes.len();
                    self.decoder.decode_into(&mut batch, Record { offset, record_time_us, bytes });
                }
                Some(Line::TooLong(bytes)) => {
                    let reason = too_long();
                    batch.rejected.push(Rejected { offset, record_time_us, bytes: bytes.to_vec(), reason });
                }
            }
        }
        batch.next_offset = self.lines.row();
        Ok((batch.next_offset > first).then_some(batch))
    }
}
