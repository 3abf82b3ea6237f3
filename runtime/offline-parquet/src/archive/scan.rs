//! Reading committed events: files, row groups and rows that cannot matter are left out as early as possible.
//!
//! A commit writes one file per date, so its offsets lie scattered over several files. In order, those are read
//! side by side and merged; otherwise files come one after the other.

use super::{INGEST_TIME, OFFSET};
use arrow_array::RecordBatch;
use plumb_columnar::{Batches, ParquetFile, Selection, from_arrow};
use plumb_core::column::{Column, DataType};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::commit::trashed;
use plumb_pipeline::port::{ArchiveScan, EventReader, ObjectStore, RowFile};
use plumb_pipeline::{Error, Result};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Rows per batch of a file read alone.
const BATCH_ROWS: usize = 16 * 1024;
/// Rows per batch of files read side by side, which may be hundreds.
const MERGED_BATCH_ROWS: usize = 2 * 1024;
/// Rows in the batches of all files read side by side.
const MERGED_ROWS: usize = 512 * 1024;
/// What files read side by side may take of memory: a file takes its pages, about this much more than its bytes up
/// to about this many.
const MERGED_BYTES: u64 = 512 << 20;
const EXPANSION: u64 = 4;
const OPEN_BYTES: u64 = 4 << 20;
/// Files of a store without local files that are opened at once: each waits for answers.
const OPENED_AT_ONCE: usize = 16;

/// Reads committed events batch by batch.
pub struct ArchiveReader {
    store: Arc<dyn ObjectStore>,
    schema: Arc<SourceSchema>,
    scan: ArchiveScan,
    /// Files still to read, in groups. In order, offsets overlap within a group, and rise across groups of a
    /// partition; otherwise a group is what is opened at once.
    groups: VecDeque<(u32, Vec<RowFile>)>,
    open: Option<(u32, Merge)>,
}

impl std::fmt::Debug for ArchiveReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveReader").field("groups_left", &self.groups.len()).finish_non_exhaustive()
    }
}

impl ArchiveReader {
    pub(super) fn new(store: Arc<dyn ObjectStore>, schema: Arc<SourceSchema>, mut scan: ArchiveScan) -> Self {
        let mut by_partition: BTreeMap<u32, Vec<RowFile>> = BTreeMap::new();
        for (partition, file) in std::mem::take(&mut scan.files) {
            if may_matter(&scan, partition, &file) {
                by_partition.entry(partition).or_default().push(file);
            }
        }
        let at_once = if by_partition.values().flatten().any(|file| store.local_path(&file.path).is_none()) {
            OPENED_AT_ONCE
        } else {
            1
        };
        let mut groups: VecDeque<(u32, Vec<RowFile>)> = VecDeque::new();
        for (partition, mut files) in by_partition {
            files.sort_by_key(|file| file.offsets.0);
            let found = if scan.in_order { overlapping(files) } else { vec![files] };
            for group in found {
                if scan.in_order && side_by_side(&group) {
                    groups.push_back((partition, group));
                } else {
                    groups.extend(group.chunks(at_once).map(|files| (partition, files.to_vec())));
                }
            }
        }
        Self { store, schema, scan, groups, open: None }
    }

    /// The next events of some partition; `None` at the end.
    pub fn next_of_partition(&mut self) -> Result<Option<(u32, EventBatch)>> {
        loop {
            if let Some((partition, merge)) = &mut self.open {
                if let Some(events) = merge.next()? {
                    return Ok(Some((*partition, events)));
                }
                self.open = None;
            }
            let Some((partition, files)) = self.groups.pop_front() else { return Ok(None) };
            let in_order = self.scan.in_order && side_by_side(&files);
            let batch_rows = match (files.len(), in_order) {
                (1, _) | (_, false) => BATCH_ROWS,
                (files, true) => (MERGED_ROWS / files).clamp(64, MERGED_BATCH_ROWS),
            };
            let cursors = self.open_all(partition, &files, batch_rows)?;
            self.open = Some((partition, Merge { schema: self.schema.clone(), cursors, in_order }));
        }
    }

    /// Opens files, several at once where each waits for answers.
    fn open_all(&self, partition: u32, files: &[RowFile], batch_rows: usize) -> Result<VecDeque<Cursor>> {
        let (store, schema, scan) = (&self.store, &self.schema, &self.scan);
        let open = |file: &RowFile| Cursor::open(store, schema, scan, partition, file, batch_rows);
        let mut cursors = VecDeque::with_capacity(files.len());
        if files.len() == 1 || files.iter().all(|file| store.local_path(&file.path).is_some()) {
            for file in files {
                cursors.extend(open(file)?);
            }
            return Ok(cursors);
        }
        for files in files.chunks(OPENED_AT_ONCE) {
            let open = &open;
            let opened: Vec<Result<Option<Cursor>>> = std::thread::scope(|scope| {
                let threads: Vec<_> = files.iter().map(|file| scope.spawn(move || open(file))).collect();
                let panicked = |_| Err(Error::internal("opening an archive file has panicked"));
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
            });
            for cursor in opened {
                cursors.extend(cursor?);
            }
        }
        Ok(cursors)
    }
}

/// Files, sorted by their first offset, in groups that share no offsets.
fn overlapping(files: Vec<RowFile>) -> Vec<Vec<RowFile>> {
    let mut groups: Vec<Vec<RowFile>> = Vec::new();
    let mut end = None;
    for file in files {
        let begins_after = end.is_none_or(|end| file.offsets.0 > end);
        end = end.max(Some(file.offsets.1));
        match groups.last_mut() {
            Some(group) if !begins_after => group.push(file),
            _ => groups.push(vec![file]),
        }
    }
    groups
}

/// Whether files can be read side by side within bounded memory.
fn side_by_side(files: &[RowFile]) -> bool {
    files.iter().map(|file| file.bytes.saturating_mul(EXPANSION).min(OPEN_BYTES)).sum::<u64>() <= MERGED_BYTES
        || files.len() == 1
}

impl EventReader for ArchiveReader {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        Ok(ArchiveReader::next_of_partition(self)?.map(|(_, events)| events))
    }

    fn next_of_partition(&mut self) -> Result<Option<(u32, EventBatch)>> {
        ArchiveReader::next_of_partition(self)
    }
}

fn may_matter(scan: &ArchiveScan, partition: u32, file: &RowFile) -> bool {
    let in_time =
        scan.event_time_us.is_none_or(|(start, end)| file.event_time_us.0 < end && file.event_time_us.1 >= start);
    let (from, below) = offset_bounds(scan, partition);
    in_time && file.offsets.0 < below && file.offsets.1 >= from
}

fn offset_bounds(scan: &ArchiveScan, partition: u32) -> (u64, u64) {
    let from = scan.from_offset.get(&partition).copied().unwrap_or(0);
    (from, scan.below_offset.get(&partition).copied().unwrap_or(u64::MAX))
}

/// Several files of one partition, each with rising offsets, as one run of rising offsets if that is asked for.
struct Merge {
    schema: Arc<SourceSchema>,
    cursors: VecDeque<Cursor>,
    in_order: bool,
}

impl Merge {
    fn next(&mut self) -> Result<Option<EventBatch>> {
        if !self.in_order {
            while let Some(first) = self.cursors.front_mut() {
                first.fill()?;
                if let Some(buffer) = first.buffer.take() {
                    return Ok(Some(buffer.rest()));
                }
                self.cursors.pop_front();
            }
            return Ok(None);
        }
        for cursor in &mut self.cursors {
            cursor.fill()?;
        }
        self.cursors.retain(|cursor| cursor.buffer.is_some());
        if self.cursors.len() == 1 {
            return Ok(self.cursors[0].buffer.take().map(Buffer::rest));
        }
        // Up to here no file can have a row that is not in its buffer.
        let Some(bound) = self.cursors.iter().filter_map(Cursor::last_offset).min() else { return Ok(None) };
        let mut rows = Vec::new();
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            let Some(Buffer { events, next }) = &mut cursor.buffer else { continue };
            let end = *next + events.offsets[*next..].partition_point(|&offset| offset <= bound);
            rows.extend((*next..end).map(|row| (events.offsets[row], index, row)));
            *next = end;
        }
        rows.sort_unstable();
        let mut merged = EventBatch::new(self.schema.clone());
        for &(_, index, row) in &rows {
            let Some(Buffer { events, .. }) = &self.cursors[index].buffer else { continue };
            merged.push_from(events, row);
        }
        Ok(Some(merged))
    }
}

struct Buffer {
    events: EventBatch,
    /// The first row not given out.
    next: usize,
}

impl Buffer {
    /// What was not given out.
    fn rest(self) -> EventBatch {
        match self.next {
            0 => self.events,
            next => self.events.take(next..self.events.len()),
        }
    }
}

/// One file being read.
struct Cursor {
    batches: Batches,
    decoder: Decoder,
    buffer: Option<Buffer>,
}

impl Cursor {
    /// Opens a file; `None` if none of its row groups can matter.
    fn open(
        store: &Arc<dyn ObjectStore>,
        schema: &Arc<SourceSchema>,
        scan: &ArchiveScan,
        partition: u32,
        file: &RowFile,
        batch_rows: usize,
    ) -> Result<Option<Self>> {
        let parquet = open_committed(store, file)?;
        let (from, below) = offset_bounds(scan, partition);
        let equals = match &scan.equals {
            Some((column, value)) => {
                let name = column_name(schema, *column)?;
                match parquet.schema().index_of(name) {
                    Ok(index) => Some((index, name, value)),
                    // The field came to the schema later: null in every row of this file.
                    Err(_) => return Ok(None),
                }
            }
            None => None,
        };
        let mut row_groups = Vec::new();
        for group in 0..parquet.row_groups() {
            let times = parquet.i64_range(group, &schema.time_field);
            let offsets = parquet.i64_range(group, OFFSET);
            let in_time = match (scan.event_time_us, times) {
                (Some((start, end)), Some((least, most))) => least < end && most >= start,
                _ => true,
            };
            let in_offsets = offsets.is_none_or(|(least, most)| (least as u64) < below && most as u64 >= from);
            let holds = equals.is_none_or(|(_, name, value)| parquet.may_hold(group, name, value.as_bytes()));
            if in_time && in_offsets && holds {
                row_groups.push(group);
            }
        }
        if row_groups.is_empty() {
            return Ok(None);
        }
        let (decoder, columns) = Decoder::new(schema, scan, (from, below), &parquet)?;
        let selection = Selection {
            columns: Some(columns),
            row_groups: Some(row_groups),
            batch_rows,
            equals: equals.map(|(index, _, value)| (index, value.clone())),
            ..Selection::default()
        };
        Ok(Some(Self { batches: parquet.batches(&selection)?, decoder, buffer: None }))
    }

    /// Reads on if everything buffered was given out; no buffer = the end.
    fn fill(&mut self) -> Result<()> {
        if self.buffer.as_ref().is_some_and(|buffer| buffer.next < buffer.events.len()) {
            return Ok(());
        }
        self.buffer = None;
        for batch in self.batches.by_ref() {
            let events = self.decoder.decode(&batch?)?;
            if !events.is_empty() {
                self.buffer = Some(Buffer { events, next: 0 });
                break;
            }
        }
        Ok(())
    }

    fn last_offset(&self) -> Option<u64> {
        self.buffer.as_ref().and_then(|buffer| buffer.events.offsets.last().copied())
    }
}

fn column_name(schema: &SourceSchema, column: usize) -> Result<&str> {
    match column {
        0 => Ok(&schema.id_field),
        _ => match schema.fields.get(column - 1) {
            Some(field) => Ok(&field.name),
            None => Err(Error::internal(format!("source `{}` has no column {column}", schema.source))),
        },
    }
}

/// Opens a file of a manifest wherever it is by now: still staged when its commit was interrupted before the move,
/// put away when a later commit has replaced it.
pub(super) fn open_committed(store: &Arc<dyn ObjectStore>, file: &RowFile) -> Result<ParquetFile> {
    let away = trashed(&file.path);
    // A file only moves on: from stage to path to away. So the last two looks find it if the first two came early.
    for place in [&file.path, &file.staged, &file.path, &away] {
        match store.local_path(place) {
            Some(local) if local.exists() => return ParquetFile::open(&local),
            Some(_) => {}
            None => {
                if let Some(parquet) = ParquetFile::open_object(store, place, file.bytes)? {
                    return Ok(parquet);
                }
            }
        }
    }
    Err(Error::internal(format!("archive file `{}` of the manifest does not exist", file.path)))
}

/// Turns a file's batches into events of the schema.
struct Decoder {
    schema: Arc<SourceSchema>,
    file: String,
    /// Where the columns of the schema stand in a batch; `None` = null.
    columns: Vec<Option<usize>>,
    time: usize,
    offset: usize,
    ingest_time: usize,
    event_time_us: Option<(i64, i64)>,
    offsets: (u64, u64),
}

impl Decoder {
    /// The decoder, and which columns of the file to read.
    fn new(
        schema: &Arc<SourceSchema>,
        scan: &ArchiveScan,
        offsets: (u64, u64),
        file: &ParquetFile,
    ) -> Result<(Self, Vec<usize>)> {
        let mut in_file = vec![None; schema.columns()];
        for (column, place) in in_file.iter_mut().enumerate() {
            if scan.columns.as_ref().is_none_or(|columns| columns.contains(&column)) {
                *place = file.schema().index_of(column_name(schema, column)?).ok();
            }
        }
        let (time, offset) = (file.column(&schema.time_field)?, file.column(OFFSET)?);
        let ingest_time = file.column(INGEST_TIME)?;
        let mut read: Vec<usize> = in_file.iter().flatten().copied().chain([time, offset, ingest_time]).collect();
        read.sort_unstable();
        read.dedup();
        let in_batch = |index: usize| read.binary_search(&index).expect("the column is among those read");
        let decoder = Self {
            schema: schema.clone(),
            file: file.path().display().to_string(),
            columns: in_file.into_iter().map(|place| place.map(in_batch)).collect(),
            time: in_batch(time),
            offset: in_batch(offset),
            ingest_time: in_batch(ingest_time),
            event_time_us: scan.event_time_us,
            offsets,
        };
        Ok((decoder, read))
    }

    fn decode(&self, batch: &RecordBatch) -> Result<EventBatch> {
        let whole = EventBatch {
            schema: self.schema.clone(),
            offsets: self
                .numbers(batch, self.offset, &DataType::I64)?
                .into_iter()
                .map(|offset| offset as u64)
                .collect(),
            record_times_us: self.numbers(batch, self.ingest_time, &DataType::Timestamp)?,
            times_us: self.numbers(batch, self.time, &DataType::Timestamp)?,
            columns: Vec::new(),
        };
        let keep = |row: &usize| {
            let (time_us, offset) = (whole.times_us[*row], whole.offsets[*row]);
            self.event_time_us.is_none_or(|(start, end)| start <= time_us && time_us < end)
                && self.offsets.0 <= offset
                && offset < self.offsets.1
        };
        let kept: Vec<usize> = (0..whole.len()).filter(keep).collect();
        let all = kept.len() == whole.len();
        let mut columns = Vec::with_capacity(self.columns.len());
        for (index, place) in self.columns.iter().enumerate() {
            let wanted = match index {
                0 => &DataType::Utf8,
                _ => &self.schema.fields[index - 1].data_type,
            };
            columns.push(match place {
                None => Column::nulls(wanted, kept.len()),
                Some(place) if all => self.column(batch, *place, wanted)?,
                Some(place) => self.column(batch, *place, wanted)?.take(kept.iter().copied()),
            });
        }
        if all {
            return Ok(EventBatch { columns, ..whole });
        }
        Ok(EventBatch {
            schema: whole.schema,
            offsets: kept.iter().map(|&row| whole.offsets[row]).collect(),
            record_times_us: kept.iter().map(|&row| whole.record_times_us[row]).collect(),
            times_us: kept.iter().map(|&row| whole.times_us[row]).collect(),
            columns,
        })
    }

    fn column(&self, batch: &RecordBatch, index: usize, wanted: &DataType) -> Result<Column> {
        let name = batch.schema_ref().field(index).name();
        from_arrow(name, batch.column(index), wanted)
            .map_err(|error| Error::invalid(format!("`{}`: {error}", self.file)))
    }

    fn numbers(&self, batch: &RecordBatch, index: usize, wanted: &DataType) -> Result<Vec<i64>> {
        let column = self.column(batch, index, wanted)?;
        match column.as_i64() {
            Some(values) if column.validity.is_none() => Ok(values.to_vec()),
            _ => {
                let name = batch.schema_ref().field(index).name();
                Err(Error::internal(format!("`{}`: column `{name}` has nulls", self.file)))
            }
        }
    }
}
