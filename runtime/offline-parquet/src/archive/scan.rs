//! Reading committed events: files, row groups and rows that cannot matter are left out as early as possible.
//!
//! A commit writes one file per date, so its offsets lie scattered over several files; those are read
//! side by side and merged, and a partition's events come in offset order.

use super::{INGEST_TIME, OFFSET};
use arrow_array::RecordBatch;
use plumb_columnar::{Batches, ParquetFile, Selection, from_arrow};
use plumb_core::column::{Column, DataType};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::port::{ArchiveScan, EventReader, ObjectStore, RowFile};
use plumb_pipeline::{Error, Result};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

/// Rows per batch of a file read alone.
const BATCH_ROWS: usize = 16 * 1024;
/// Rows per batch of files read side by side, which may be hundreds.
const MERGED_BATCH_ROWS: usize = 2 * 1024;

/// Reads committed events batch by batch.
pub struct ArchiveReader {
    store: Arc<dyn ObjectStore>,
    schema: Arc<SourceSchema>,
    scan: ArchiveScan,
    /// Files still to read, in groups: within a group offsets overlap, across groups of a partition they rise.
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
        let mut groups: VecDeque<(u32, Vec<RowFile>)> = VecDeque::new();
        for (partition, mut files) in by_partition {
            files.sort_by_key(|file| file.offsets.0);
            let mut end = None;
            for file in files {
                let begins_after = end.is_none_or(|end| file.offsets.0 > end);
                end = end.max(Some(file.offsets.1));
                match groups.back_mut() {
                    Some((_, group)) if !begins_after => group.push(file),
                    _ => groups.push_back((partition, vec![file])),
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
            let batch_rows = if files.len() == 1 { BATCH_ROWS } else { MERGED_BATCH_ROWS };
            let mut cursors = Vec::with_capacity(files.len());
            for file in &files {
                cursors.extend(Cursor::open(&*self.store, &self.schema, &self.scan, partition, file, batch_rows)?);
            }
            self.open = Some((partition, Merge { schema: self.schema.clone(), cursors }));
        }
    }
}

impl EventReader for ArchiveReader {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.next_of_partition()?.map(|(_, events)| events))
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

/// Several files of one partition, each with rising offsets, as one run of rising offsets.
struct Merge {
    schema: Arc<SourceSchema>,
    cursors: Vec<Cursor>,
}

impl Merge {
    fn next(&mut self) -> Result<Option<EventBatch>> {
        for cursor in &mut self.cursors {
            cursor.fill()?;
        }
        self.cursors.retain(|cursor| cursor.buffer.is_some());
        if let [only] = &mut self.cursors[..] {
            return Ok(only.buffer.take().map(|Buffer { events, next }| match next {
                0 => events,
                _ => events.take(next..events.len()),
            }));
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

/// One file being read.
struct Cursor {
    batches: Batches,
    decoder: Decoder,
    buffer: Option<Buffer>,
}

impl Cursor {
    /// Opens a file; `None` if none of its row groups can matter.
    fn open(
        store: &dyn ObjectStore,
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

/// Opens a file of a manifest, which is still staged when its commit was interrupted before the move. One that is in
/// no local store is read whole.
pub(super) fn open_committed(store: &dyn ObjectStore, file: &RowFile) -> Result<ParquetFile> {
    for _ in 0..2 {
        // Twice: it may be moved between the two looks.
        for path in [&file.path, &file.staged] {
            match store.local_path(path) {
                Some(place) if place.exists() => return ParquetFile::open(&place),
                Some(_) => {}
                None => {
                    if let Some(bytes) = store.get(path)? {
                        return ParquetFile::from_bytes(Path::new(path), bytes.into());
                    }
                }
            }
        }
    }
    let place = store.local_path(&file.path).map_or_else(|| file.path.clone(), |place| place.display().to_string());
    Err(Error::internal(format!("archive file `{place}` of the manifest does not exist")))
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
