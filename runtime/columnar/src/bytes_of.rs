//! Where the bytes of a Parquet file come from: a local file that is read where it is needed, or an object that is
//! read by ranges as large as a column of a row group, each asked for once.

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use plumb_pipeline::Error;
use plumb_pipeline::port::ObjectStore;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Objects up to this size are read whole: one request costs as much as this many bytes.
const WHOLE: u64 = 4 << 20;
/// How much of the end is read for the footer.
const TAIL: u64 = 64 << 10;
/// How many ranges of an object are held beside those of its columns.
const SPARE_RANGES: usize = 2;

/// The bytes of one file, for many readers at once.
#[derive(Debug, Clone)]
pub(crate) enum BytesOf {
    File { file: Arc<File>, len: u64 },
    Memory(Bytes),
    Object(Arc<Object>),
}

impl BytesOf {
    pub(crate) fn object(store: Arc<dyn ObjectStore>, path: &str, len: u64) -> Self {
        BytesOf::Object(Arc::new(Object {
            store,
            path: path.to_owned(),
            len,
            chunks: OnceLock::new(),
            held: Mutex::default(),
            failed: Mutex::default(),
        }))
    }

    /// Why the last read failed, if it was not for what the bytes are.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        match self {
            BytesOf::File { .. } | BytesOf::Memory(_) => None,
            BytesOf::Object(object) => lock(&object.failed).take(),
        }
    }
}

impl Length for BytesOf {
    fn len(&self) -> u64 {
        match self {
            BytesOf::File { len, .. } => *len,
            BytesOf::Memory(bytes) => bytes.len() as u64,
            BytesOf::Object(object) => object.len,
        }
    }
}

impl ChunkReader for BytesOf {
    type T = BufReader<ReadFrom>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::new(ReadFrom { bytes: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of {}", self.len())));
        }
        match self {
            BytesOf::File { file, .. } => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
            BytesOf::Memory(bytes) => Ok(bytes.slice(start as usize..start as usize + length)),
            BytesOf::Object(object) => Ok(object.read(start..start + length as u64)?),
        }
    }
}

/// Reads from some place on.
pub(crate) struct ReadFrom {
    bytes: BytesOf,
    at: u64,
}

impl Read for ReadFrom {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = match &self.bytes {
            BytesOf::File { file, .. } => file.read_at(buffer, self.at)?,
            BytesOf::Memory(bytes) => {
                let rest = bytes.get(self.at as usize..).unwrap_or_default();
                let length = rest.len().min(buffer.len());
                buffer[..length].copy_from_slice(&rest[..length]);
                length
            }
            BytesOf::Object(object) => {
                let end = object.len.min(self.at.saturating_add(buffer.len() as u64));
                let bytes = object.read_some(self.at..end)?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                bytes.len()
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}

/// An object in a store that has no local files.
pub(crate) struct Object {
    store: Arc<dyn ObjectStore>,
    path: String,
    len: u64,
    /// Where columns of row groups lie, in order, and how many columns there are.
    chunks: OnceLock<(Vec<Range<u64>>, usize)>,
    /// What was read last: by their starts.
    held: Mutex<VecDeque<(u64, Bytes)>>,
    failed: Mutex<Option<Error>>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("path", &self.path).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Object {
    /// Notes where the columns of the row groups lie; panics where a damaged footer says nonsense.
    pub(crate) fn set_layout(&self, metadata: &ParquetMetaData) {
        let groups = metadata.row_groups();
        let mut chunks: Vec<Range<u64>> = groups
            .iter()
            .flat_map(|group| group.columns())
            .map(|chunk| {
                let (start, length) = chunk.byte_range();
                start.min(self.len)..start.saturating_add(length).min(self.len)
            })
            .collect();
        chunks.sort_by_key(|chunk| chunk.start);
        // Once, by whoever opens the file.
        let _known = self.chunks.set((chunks, groups.first().map_or(0, |group| group.num_columns())));
    }

    /// Exactly these bytes.
    fn read(&self, range: Range<u64>) -> std::io::Result<Bytes> {
        let (start, bytes) = self.holding(&range)?;
        let (from, to) = ((range.start - start) as usize, (range.end - start) as usize);
        if to > bytes.len() {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                format!("{} bytes at {start}, expected {to}", bytes.len()),
            ));
        }
        Ok(bytes.slice(from..to))
    }

    /// The first of these bytes, as many as are held together.
    fn read_some(&self, range: Range<u64>) -> std::io::Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (start, bytes) = self.holding(&(range.start..range.start + 1))?;
        let from = ((range.start - start) as usize).min(bytes.len());
        let to = ((range.end - start) as usize).min(bytes.len());
        Ok(bytes.slice(from..to))
    }

    /// A range read before that holds this one, or one read now.
    fn holding(&self, range: &Range<u64>) -> std::io::Result<(u64, Bytes)> {
        let mut held = lock(&self.held);
        let holds = |(start, bytes): &&(u64, Bytes)| *start <= range.start && range.end <= start + bytes.len() as u64;
        if let Some(found) = held.iter().find(holds) {
            return Ok(found.clone());
        }
        let (wanted, limit) = self.wanted(range);
        let read = self
            .store
            .get_range(&self.path, wanted.clone())
            .and_then(|bytes| bytes.ok_or_else(|| Error::unavailable(format!("read `{}`", self.path), "it is gone")));
        match read {
            Ok(bytes) => {
                let bytes = Bytes::from(bytes);
                held.push_back((wanted.start, bytes.clone()));
                while held.len() > limit {
                    held.pop_front();
                }
                Ok((wanted.start, bytes))
            }
            Err(error) => {
                let text = error.to_string();
                *lock(&self.failed) = Some(error);
                Err(std::io::Error::other(text))
            }
        }
    }

    /// What to read for a range, and how many ranges to hold.
    fn wanted(&self, range: &Range<u64>) -> (Range<u64>, usize) {
        if self.len <= WHOLE {
            return (0..self.len, 1);
        }
        let (chunks, columns) = match self.chunks.get() {
            Some((chunks, columns)) => (chunks.as_slice(), *columns),
            None => (&[][..], 0),
        };
        let behind = chunks.partition_point(|chunk| chunk.start <= range.start);
        let chunk = behind.checked_sub(1).map(|at| &chunks[at]).filter(|chunk| range.end <= chunk.end);
        let wanted = match chunk {
            Some(chunk) => chunk.clone(),
            None if range.start >= self.len.saturating_sub(TAIL) => self.len - TAIL..self.len,
            None => range.clone(),
        };
        (wanted, columns + SPARE_RANGES)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds it leaves half of a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a file of plumb's own tree lies after a compaction has replaced it: whoever listed the tree before that
/// reads it there. `None` for other files.
pub(crate) fn replaced(path: &Path) -> Option<PathBuf> {
    let events = path.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "events"))?;
    let above = events.parent()?;
    // Rows that wait for their dates lie under `_pending/events`.
    let root = if above.ends_with("_pending") { above.parent()? } else { above };
    Some(root.join("_trash").join(path.strip_prefix(root).ok()?))
}
