//! Event files as the source of a stream: one partition, whose positions are rows over the files.

use crate::files::{EventFile, Format, find, fingerprint};
use crate::reader::{FileReader, Reading, say_zoneless, shift};
use plumb_columnar::ParquetFile;
use plumb_core::event::SourceSchema;
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::TimeUnit;
use plumb_pipeline::port::{PartitionReader, Polled, Source};
use plumb_pipeline::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a source that follows its path looks for new files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The most rows in a batch, whatever is asked for.
const BATCH_ROWS_MAX: usize = 16_384;

/// How a file source reads.
#[derive(Debug, Clone, Copy)]
pub struct FileSourceOptions {
    /// The unit of integer times.
    pub unit: TimeUnit,
    /// What is rejected while a record's own bytes are at hand (the acceptor decides the same later).
    pub rules: AcceptRules,
    /// The records' timestamp if the job starts now, µs; a job that started before keeps its first.
    pub now_us: i64,
    /// Whether to wait for new files at the end; otherwise the end of the files is the end.
    pub follow: bool,
}

/// The event files of a path as a source of one partition, 0.
///
/// A position is a running row number over the files in the order in which they were first seen: at the
/// first start the byte order of their names, files that come later behind them. The order is kept in the
/// memo, with each file's size and content hash; a file that was read and is gone or changed stops the
/// source, because its rows could no longer be found again.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    schema: Arc<SourceSchema>,
    options: FileSourceOptions,
}

/// What is kept in the partition's manifest.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Memo {
    /// The instant the job first started, µs: the timestamp of every record.
    started_us: i64,
    /// The files in the order first seen.
    files: Vec<SeenFile>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenFile {
    /// Its path under the source's folder; its file name if the source is one file.
    name: String,
    /// Its size.
    bytes: u64,
    /// xxh3-128 of its content, hex.
    xxh3: String,
    /// Its number of rows, once it was read to the end.
    rows: Option<u64>,
}

impl FileSource {
    /// The source of a file or folder; an error if there is no event file.
    pub fn new(path: &Path, schema: Arc<SourceSchema>, options: FileSourceOptions) -> Result<Self> {
        find(path)?;
        Ok(Self { path: path.to_owned(), schema, options })
    }
}

impl Source for FileSource {
    fn schema(&self) -> &Arc<SourceSchema> {
        &self.schema
    }

    fn partitions(&self) -> Result<Vec<u32>> {
        Ok(vec![0])
    }

    fn open(&self, partition: u32, offset: u64, memo: Option<&serde_json::Value>) -> Result<Box<dyn PartitionReader>> {
        if partition != 0 {
            return Err(Error::internal(format!("a file source has partition 0 only, asked for {partition}")));
        }
        let memo = match memo {
            None => Memo { started_us: self.options.now_us, files: Vec::new() },
            Some(memo) => serde_json::from_value(memo.clone())
                .map_err(|error| Error::internal(format!("the manifest's list of event files is damaged: {error}")))?,
        };
        let reading = Reading {
            schema: self.schema.clone(),
            unit: self.options.unit,
            rules: Some(self.options.rules),
            record_time_us: memo.started_us,
            columns: None,
        };
        let mut reader = FileSourceReader {
            path: self.path.clone(),
            follow: self.options.follow,
            reading,
            memo,
            at: 0,
            base: 0,
            current: None,
            looked: None,
            zoneless_said: false,
        };
        reader.check_content()?;
        reader.seek(offset)?;
        Ok(Box::new(reader))
    }
}

/// Reads the files from a position on.
#[derive(Debug)]
struct FileSourceReader {
    path: PathBuf,
    follow: bool,
    reading: Reading,
    memo: Memo,
    /// The file being read, an index into the memo's; its length before the next is known.
    at: usize,
    /// The position of that file's first row.
    base: u64,
    current: Option<Current>,
    /// When the path was last looked at for new files, at the end of those known.
    looked: Option<Instant>,
    zoneless_said: bool,
}

/// A file being read, or about to be.
#[derive(Debug)]
struct Current {
    /// The next row.
    row: u64,
    /// `None` until the first poll, which says how large batches are to be.
    reader: Option<FileReader>,
}

impl FileSourceReader {
    /// The place of a file of the memo.
    fn file(&self, name: &str) -> Result<EventFile> {
        let path = if self.path.is_dir() { self.path.join(name) } else { self.path.clone() };
        let same = self.path.is_dir() || self.path.file_name().is_some_and(|own| own.to_string_lossy() == name);
        match Format::of(&path) {
            Some(format) if same => Ok(EventFile { path, name: name.to_owned(), format, sha256: None }),
            _ => Err(Error::invalid(format!(
                "event file `{name}` was read before, but the source is now `{}`; bring it back, or start anew \
                 with another data_dir and offline store",
                self.path.display()
            ))),
        }
    }

    /// Checks that every file read before is there with the content it had.
    fn check_content(&self) -> Result<()> {
        for seen in &self.memo.files {
            let file = self.file(&seen.name)?;
            self.check_size(seen, &file)?;
            if fingerprint(&file.path)?.1 != seen.xxh3 {
                return Err(changed(&file.path, "its content differs"));
            }
        }
        Ok(())
    }

    fn check_size(&self, seen: &SeenFile, file: &EventFile) -> Result<()> {
        let shown = file.path.display();
        match std::fs::metadata(&file.path) {
            Ok(metadata) if metadata.len() == seen.bytes => Ok(()),
            Ok(metadata) => {
                Err(changed(&file.path, &format!("it had {} bytes and has {}", seen.bytes, metadata.len())))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::invalid(format!(
                "event file `{shown}` was read before and is gone; bring it back, or start anew with another \
                 data_dir and offline store"
            ))),
            Err(error) => Err(Error::unavailable(format!("read `{shown}`"), error)),
        }
    }

    /// Goes to a position: the rows of finished files are known.
    fn seek(&mut self, offset: u64) -> Result<()> {
        while let Some(rows) = self.memo.files.get(self.at).and_then(|file| file.rows) {
            if offset < self.base + rows {
                break;
            }
            self.base += rows;
            self.at += 1;
        }
        if self.at < self.memo.files.len() {
            self.current = Some(Current { row: offset - self.base, reader: None });
        } else if offset != self.base {
            return Err(Error::internal(format!("position {offset} lies behind the {} rows known", self.base)));
        }
        Ok(())
    }

    /// Goes to the next file, looking for new ones behind those known; false if there is none now.
    fn next_file(&mut self) -> Result<bool> {
        if self.at == self.memo.files.len() {
            if self.follow && self.looked.is_some_and(|looked| looked.elapsed() < LOOK_INTERVAL) {
                return Ok(false);
            }
            self.looked = Some(Instant::now());
            self.look()?;
        }
        if self.at == self.memo.files.len() {
            return Ok(false);
        }
        self.current = Some(Current { row: 0, reader: None });
        Ok(true)
    }

    /// Takes files that were not there before behind the others, the next one at least.
    fn look(&mut self) -> Result<()> {
        for seen in &self.memo.files {
            let file = self.file(&seen.name)?;
            self.check_size(seen, &file)?;
        }
        let known = |file: &EventFile| self.memo.files.iter().any(|seen| seen.name == file.name);
        let new: Vec<EventFile> = find(&self.path)?.into_iter().filter(|file| !known(file)).collect();
        for file in new {
            let (bytes, xxh3) = fingerprint(&file.path)?;
            let rows = match file.format {
                Format::Parquet => Some(ParquetFile::open(&file.path)?.rows()),
                Format::JsonLines | Format::Csv => None,
            };
            self.memo.files.push(SeenFile { name: file.name, bytes, xxh3, rows });
        }
        Ok(())
    }

    fn say_zone_once(&mut self, file: &str) {
        if !self.zoneless_said {
            say_zoneless(&self.reading.schema, file);
            self.zoneless_said = true;
        }
    }
}

impl PartitionReader for FileSourceReader {
    fn poll(&mut self, max_records: usize) -> Result<Polled> {
        loop {
            if self.current.is_none() && !self.next_file()? {
                return Ok(if self.follow { Polled::Idle } else { Polled::End });
            }
            let SeenFile { name, bytes, .. } = self.memo.files[self.at].clone();
            let file = self.file(&name)?;
            let Some(current) = &mut self.current else { continue };
            let reader = match &mut current.reader {
                Some(reader) => reader,
                none => {
                    let batch_rows = max_records.clamp(1, BATCH_ROWS_MAX);
                    none.insert(FileReader::open(&file, bytes, &self.reading, current.row, batch_rows)?)
                }
            };
            let batch = reader.next_batch()?;
            let zoneless = reader.zoneless();
            match batch {
                Some(mut batch) => {
                    current.row = batch.next_offset;
                    shift(&mut batch, self.base);
                    if zoneless {
                        self.say_zone_once(&name);
                    }
                    return Ok(Polled::Batch(batch));
                }
                None => {
                    let rows = current.row;
                    self.memo.files[self.at].rows = Some(rows);
                    self.base += rows;
                    self.at += 1;
                    self.current = None;
                }
            }
        }
    }

    fn memo(&self) -> Option<serde_json::Value> {
        Some(serde_json::to_value(&self.memo).expect("strings and numbers are JSON"))
    }
}

fn changed(path: &Path, how: &str) -> Error {
    Error::invalid(format!(
        "event file `{}` has changed since it was read ({how}); put new events into new files",
        path.display()
    ))
}
