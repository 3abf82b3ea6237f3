//! Snapshots of feature values: `features/entity=E/view=V/version=1.2.0_ab12cd34/date=YYYY-MM-DD/part-00000.parquet`.
//!
//! Everything taken stays under `_staging/` until [`SnapshotWriter::finish`](SnapshotSink::finish) moves it; a date
//! that was written before is replaced. Dates that get no rows keep what they have.

use crate::dates::{date_of_day, day_of};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use plumb_columnar::{ColumnHint, Layout, ParquetWriter, arrow_type, to_arrow};
use plumb_core::column::{Column, DataType, Values};
use plumb_pipeline::commit::collect::staged_features;
use plumb_pipeline::port::{ObjectStore, SnapshotRows, SnapshotSink, SnapshotView};
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

/// The columns that readers make of the folders' names.
const FOLDERS: [&str; 4] = ["entity", "view", "version", "date"];

/// A file of a date is closed and a new one begun beyond this many bytes.
const PART_BYTES: usize = 128 * 1024 * 1024;
/// Closed files are put into the store together once they hold this many bytes, or are this many.
const HELD_BYTES: usize = 32 * 1024 * 1024;
const HELD_FILES: usize = 400;

/// Writes snapshots into an object store.
pub struct SnapshotWriter {
    store: Arc<dyn ObjectStore>,
    position: String,
    staging: String,
    /// By the folder of a view: the date being written.
    open: BTreeMap<String, OpenDate>,
    /// Closed, not yet in the store: staging path and bytes.
    held: Vec<(String, Vec<u8>)>,
    held_bytes: usize,
    /// Every closed file: where it is staged and where it will be.
    moves: Vec<(String, String)>,
}

struct OpenDate {
    day: i64,
    part: u32,
    layout: Layout,
    writer: ParquetWriter<Vec<u8>>,
}

impl std::fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotWriter").field("files", &self.moves.len()).finish_non_exhaustive()
    }
}

impl SnapshotWriter {
    /// A writer into a store; `position` says up to where the log or the files were read (column `_position`).
    pub fn new(store: Arc<dyn ObjectStore>, position: impl Into<String>) -> Self {
        // Random, because processes of several machines or containers may have one number.
        Self {
            store,
            position: position.into(),
            staging: format!(
                "_staging/features/{}-{:016x}",
                std::process::id(),
                RandomState::new().build_hasher().finish()
            ),
            open: BTreeMap::new(),
            held: Vec::new(),
            held_bytes: 0,
            moves: Vec::new(),
        }
    }

    fn close(&mut self, folder: &str, date: OpenDate) -> Result<()> {
        let to = format!("{folder}/date={}/part-{:05}.parquet", date_of_day(date.day), date.part);
        let staged = format!("{}/{}.parquet", self.staging, self.moves.len());
        let bytes = date.writer.finish()?;
        self.held_bytes += bytes.len();
        self.held.push((staged.clone(), bytes));
        self.moves.push((staged, to));
        if self.held_bytes >= HELD_BYTES || self.held.len() >= HELD_FILES {
            self.put_held()?;
        }
        Ok(())
    }

    fn put_held(&mut self) -> Result<()> {
        self.held_bytes = 0;
        self.store.put_all(std::mem::take(&mut self.held))
    }
}

impl SnapshotSink for SnapshotWriter {
    fn write(&mut self, view: &SnapshotView, rows: &SnapshotRows) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let folder = format!("features/entity={}/view={}/version={}", view.entity, view.view, view.version_folder);
        let day = day_of(rows.day_us);
        let mut next_part = 0;
        if let Some(open) = self.open.remove(&folder) {
            if open.day == day && open.writer.bytes_written() < PART_BYTES {
                self.open.insert(folder.clone(), open);
            } else {
                next_part = if open.day == day { open.part + 1 } else { 0 };
                self.close(&folder, open)?;
            }
        }
        if !self.open.contains_key(&folder) {
            let layout = layout(view)?;
            let writer = ParquetWriter::new(&folder, Vec::new(), &layout)?;
            self.open.insert(folder.clone(), OpenDate { day, part: next_part, layout, writer });
        }
        let open = self.open.get_mut(&folder).expect("the date was just opened");
        let batch = batch(&open.layout, rows, &self.position)?;
        open.writer.write(&batch)
    }

    fn finish(&mut self) -> Result<()> {
        for (folder, open) in std::mem::take(&mut self.open) {
            self.close(&folder, open)?;
        }
        self.put_held()?;
        // Parts that a longer file of an earlier run left in these dates would repeat rows.
        let written: BTreeMap<&str, u32> = self.moves.iter().filter_map(|(_, to)| to.rsplit_once('/')).fold(
            BTreeMap::new(),
            |mut dates, (date, _)| {
                *dates.entry(date).or_default() += 1;
                dates
            },
        );
        for (date, parts) in written {
            for (path, _) in self.store.list(date)? {
                let part = path.rsplit_once("/part-").and_then(|(_, part)| part.strip_suffix(".parquet"));
                if part.and_then(|part| part.parse::<u32>().ok()).is_some_and(|part| part >= parts) {
                    self.store.delete(&path)?;
                }
            }
        }
        self.store.rename_all(&self.moves)?;
        self.moves.clear();
        // What killed writers have left is removed by whoever writes there next; a store of backfills has no owner.
        if let Err(error) = staged_features(self.store.as_ref()) {
            tracing::warn!(%error, "cannot remove what earlier backfills have left");
        }
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    /// Removes what was staged and never finished.
    fn drop(&mut self) {
        for (staged, _) in &self.moves {
            drop(self.store.delete(staged));
        }
    }
}

fn layout(view: &SnapshotView) -> Result<Layout> {
    let mut fields: Vec<Field> =
        view.key_fields.iter().map(|name| Field::new(name, arrow_type(&DataType::Utf8), false)).collect();
    fields.push(Field::new("event_time", arrow_type(&DataType::Timestamp), false));
    fields.extend(view.features.iter().map(|(name, data_type)| Field::new(name, arrow_type(data_type), true)));
    fields.push(Field::new("_position", arrow_type(&DataType::Utf8), false));
    for (index, field) in fields.iter().enumerate() {
        let (name, view) = (field.name(), &view.view);
        // A reader of the tree would see one of the two, and not all readers the same one.
        if FOLDERS.contains(&name.as_str()) {
            return Err(Error::invalid(format!(
                "view `{view}`: `{name}` is a folder of the snapshots and cannot be a column of them too; rename it"
            )));
        }
        if fields[..index].iter().any(|other| other.name() == name) {
            return Err(Error::invalid(format!("view `{view}`: two columns of its snapshots are named `{name}`")));
        }
    }
    let names: Vec<String> = view.features.iter().map(|(name, _)| name.clone()).collect();
    Ok(Layout::new(Arc::new(Schema::new(fields)), move |name| match name {
        "event_time" => ColumnHint::Rising,
        // Counts and categories repeat; the dictionary gives up by itself where measurements do not.
        _ if names.iter().any(|feature| feature == name) => ColumnHint::Repeating,
        "_position" => ColumnHint::Repeating,
        _ => ColumnHint::Distinct,
    }))
}

fn batch(layout: &Layout, rows: &SnapshotRows, position: &str) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(rows.keys.len() + rows.features.len() + 2);
    for key in &rows.keys {
        columns.push(to_arrow(key)?);
    }
    columns.push(to_arrow(&Column::of(Values::Timestamp(rows.times_us.clone())))?);
    for feature in &rows.features {
        columns.push(to_arrow(feature)?);
    }
    columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(position, rows.len()))));
    RecordBatch::try_new(layout.schema().clone(), columns)
        .map_err(|error| Error::internal(format!("snapshot rows do not fit their view: {error}")))
}
