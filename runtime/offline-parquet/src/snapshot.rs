//! Snapshots of feature values:
//! `features/entity=E/view=V/version=1.2.0_ab12cd34/date=YYYY-MM-DD/part-00000-<hash>.parquet`, and beside the dates
//! `_manifest.json`, which says what each was made from.
//!
//! What was taken stays under `_staging/` until its date is complete. Then the date's files become those, and the ones it
//! had go to `_trash/`, in one swap; the manifest follows. So a date is never a mixture, and one whose files are not those
//! of the manifest (a process died in between, somebody removed a file) is one of which nothing is known, and made again.
//! A name has the hash of the file's content in it: two files of one name are the same.
//!
//! Several may write into one folder: a running stream, whoever had its work before and has slept, backfills. What there is,
//! files and manifest, is looked at anew whenever something is shown, alone from that look to the new manifest. A date that
//! somebody else has made since it was planned is left to what sees more: of two the same stays, whoever comes last.

mod manifest;

use crate::dates::{date_of_day, day_of};
use crate::rows_hash::hex;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use manifest::{DateEntry, FileEntry, SnapshotManifest};
use plumb_columnar::{ColumnHint, Layout, ParquetWriter, arrow_type, to_arrow};
use plumb_core::column::{Column, DataType, Values};
use plumb_core::time::DAY_US;
use plumb_pipeline::commit::collect::{KEEP, staged_features};
use plumb_pipeline::commit::{TRASH, trashed};
use plumb_pipeline::decode::time::parse_rfc3339;
use plumb_pipeline::port::{ObjectStore, SnapshotDate, SnapshotRows, SnapshotSink, SnapshotSinks, SnapshotView};
use plumb_pipeline::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The columns that readers make of the folders' names.
const FOLDERS: [&str; 4] = ["entity", "view", "version", "date"];

/// A file of a date is closed and a new one begun beyond this many bytes.
const PART_BYTES: usize = 128 * 1024 * 1024;
/// Closed files are put into the store together once they hold this many bytes, or are this many.
const HELD_BYTES: usize = 32 * 1024 * 1024;
const HELD_FILES: usize = 400;
/// Complete dates are shown together once they are this many.
const SHOWN_DATES: usize = 100;
/// Complete dates are shown after this long, so that a job that is killed has not worked longer than that for nothing.
const SHOWN_EVERY: Duration = Duration::from_secs(5);

/// The name of the manifest in a view's folder: readers of Hive folders pass over what begins with `_`.
const MANIFEST: &str = "_manifest.json";

/// What only one writer of a store does at a time: to look at what there is and to show what is complete.
const ALONE: &str = "features";

/// Writes snapshots into an object store.
pub struct SnapshotWriter {
    store: Arc<dyn ObjectStore>,
    staging: String,
    /// By the folder of a view.
    views: BTreeMap<String, ViewDates>,
    /// Closed, not yet in the store: staging path and bytes.
    held: Vec<(String, Vec<u8>)>,
    held_bytes: usize,
    /// How many files were staged.
    files: usize,
    /// What is staged and not yet in the tree.
    staged: Vec<String>,
    shown: Instant,
    /// What to do about a folder that holds other snapshots.
    remedy: Remedy,
    /// Whether a date stays that somebody else has made meanwhile of the same events.
    yields: bool,
}

/// What to do about a folder that holds other snapshots than these.
type Remedy = fn(&SnapshotManifest) -> String;

/// By day: the paths that are in its folder, with their sizes.
type Paths = BTreeMap<i64, BTreeMap<String, u64>>;

/// The dates of a view.
#[derive(Default)]
struct ViewDates {
    /// What they are of, once it was asked which there are.
    view: Option<SnapshotView>,
    /// By day: what there was when it was asked, or what was shown since.
    known: BTreeMap<i64, SnapshotDate>,
    open: Option<OpenDate>,
    /// By day: what was written of it.
    parts: BTreeMap<i64, Vec<Part>>,
    /// Days that are complete, or have nothing any more (`None`), and not shown yet.
    ready: BTreeMap<i64, Option<SnapshotDate>>,
}

struct OpenDate {
    day: i64,
    rows: u64,
    layout: Layout,
    writer: ParquetWriter<Vec<u8>>,
}

/// A closed file.
struct Part {
    staged: String,
    file: FileEntry,
}

impl std::fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotWriter").field("files", &self.files).finish_non_exhaustive()
    }
}

impl SnapshotWriter {
    /// A writer into a store.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        // Random, because processes of several machines or containers may have one number.
        let number = RandomState::new().build_hasher().finish();
        Self {
            store,
            staging: format!("_staging/features/{}-{number:016x}", std::process::id()),
            views: BTreeMap::new(),
            held: Vec::new(),
            held_bytes: 0,
            files: 0,
            staged: Vec::new(),
            shown: Instant::now(),
            remedy: |wanted| format!("give another --out for those of {}", wanted.kind()),
            yields: false,
        }
    }

    /// Closes the file that is open in a view's folder.
    fn close(&mut self, folder: &str) -> Result<()> {
        let Some(view) = self.views.get_mut(folder) else { return Ok(()) };
        let Some(open) = view.open.take() else { return Ok(()) };
        let bytes = open.writer.finish()?;
        let sha256 = hex(&Sha256::digest(&bytes));
        let parts = view.parts.entry(open.day).or_default();
        let name = format!("part-{:05}-{}.parquet", parts.len(), &sha256[..16]);
        let staged = format!("{}/{}.parquet", self.staging, self.files);
        let file = FileEntry { name, rows: open.rows, bytes: bytes.len() as u64, sha256 };
        parts.push(Part { staged: staged.clone(), file });
        self.files += 1;
        self.held_bytes += bytes.len();
        self.staged.push(staged.clone());
        self.held.push((staged, bytes));
        if self.held_bytes >= HELD_BYTES || self.held.len() >= HELD_FILES {
            self.put_held()?;
        }
        Ok(())
    }

    fn put_held(&mut self) -> Result<()> {
        self.held_bytes = 0;
        self.store.put_all(std::mem::take(&mut self.held))
    }

    /// Shows what is complete.
    fn show(&mut self) -> Result<()> {
        self.put_held()?;
        if self.views.values().all(|view| view.ready.is_empty()) {
            return Ok(());
        }
        let store = self.store.clone();
        store.alone(ALONE, &mut || self.show_alone())?;
        self.shown = Instant::now();
        Ok(())
    }

    /// Files into the tree, those they replace out of it, then the manifests.
    fn show_alone(&mut self) -> Result<()> {
        let (mut appear, mut vanish, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
        let mut changed = Vec::new();
        for (folder, view) in self.views.iter_mut().filter(|(_, view)| !view.ready.is_empty()) {
            let Some(of) = &view.view else { continue };
            let (mut manifest, mut there) = look(self.store.as_ref(), folder, of, self.remedy)?;
            let now = whole(&manifest, &there, folder);
            for (day, date) in std::mem::take(&mut view.ready) {
                let name = date_of_day(day);
                let parts = view.parts.remove(&day).unwrap_or_default();
                let theirs = now.get(&day).filter(|theirs| view.known.get(&day) != Some(theirs));
                if theirs.is_some_and(|theirs| stays(theirs, date.as_ref(), self.yields)) {
                    tracing::info!(folder, name, "another process has made this date meanwhile");
                    continue;
                }
                match &date {
                    Some(date) => drop(view.known.insert(day, date.clone())),
                    None => drop(view.known.remove(&day)),
                }
                let path = |part: &Part| (format!("{folder}/date={name}/{}", part.file.name), part.file.bytes);
                let paths: BTreeMap<String, u64> = parts.iter().map(path).collect();
                for (old, bytes) in there.remove(&day).unwrap_or_default() {
                    match paths.get(&old) {
                        None => vanish.push((old.clone(), trashed(&old))),
                        Some(of_that_name) if *of_that_name != bytes => damaged.push(old),
                        Some(_) => {}
                    }
                }
                appear.extend(parts.iter().map(|part| (part.staged.clone(), path(part).0)));
                match date {
                    Some(date) => {
                        let files = parts.into_iter().map(|part| part.file).collect();
                        manifest.dates.insert(name, DateEntry::new(&date, files));
                    }
                    None => drop(manifest.dates.remove(&name)),
                }
            }
            changed.push((format!("{folder}/{MANIFEST}"), manifest.to_bytes()));
        }
        self.store.delete_all(&damaged)?;
        self.store.swap(&appear, &vanish)?;
        let moved: BTreeSet<&str> = appear.iter().map(|(staged, _)| staged.as_str()).collect();
        self.staged.retain(|staged| !moved.contains(staged.as_str()));
        self.store.put_all(changed)
    }

    fn ready(&mut self, view: &SnapshotView, day_us: i64, date: Option<&SnapshotDate>) -> Result<()> {
        let (folder, day) = (folder(view), day_of(day_us));
        let dates = self.views.entry(folder.clone()).or_default();
        if dates.open.as_ref().is_some_and(|open| open.day == day) {
            self.close(&folder)?;
        }
        let Some(dates) = self.views.get_mut(&folder).filter(|dates| dates.view.is_some()) else {
            return Err(Error::internal(format!("nobody asked which dates of view `{}` there are", view.view)));
        };
        let written: u64 = dates.parts.get(&day).into_iter().flatten().map(|part| part.file.rows).sum();
        let expected = date.map_or(0, |date| date.rows);
        if written != expected {
            return Err(Error::internal(format!("{written} rows were written of a date that has {expected}")));
        }
        dates.ready.insert(day, date.cloned());
        let ready: usize = self.views.values().map(|dates| dates.ready.len()).sum();
        if ready >= SHOWN_DATES || self.shown.elapsed() >= SHOWN_EVERY { self.show() } else { Ok(()) }
    }
}

/// What is there of a view: its manifest, and by day the paths that are in its folder, with their sizes.
fn look(
    store: &dyn ObjectStore,
    folder: &str,
    view: &SnapshotView,
    remedy: Remedy,
) -> Result<(SnapshotManifest, Paths)> {
    let path = format!("{folder}/{MANIFEST}");
    let manifest = match store.get(&path)? {
        None => SnapshotManifest::new(view),
        Some(bytes) => {
            let local = store.local_path(&path);
            let shown = local.map_or_else(|| path.clone(), |local| local.display().to_string());
            SnapshotManifest::read(&bytes, &shown, view, remedy)?
        }
    };
    let mut there = Paths::new();
    for (path, bytes) in store.list(folder)? {
        if let Some(day) = day_of_path(&path, folder) {
            there.entry(day).or_default().insert(path, bytes);
        }
    }
    Ok((manifest, there))
}

/// By day the dates whose files are those that the manifest names.
fn whole(manifest: &SnapshotManifest, there: &Paths, folder: &str) -> BTreeMap<i64, SnapshotDate> {
    let of_entry = |(name, entry): (&String, &DateEntry)| {
        let (day_us, date) = entry.date(name)?;
        let files = entry.files.iter();
        let wanted: BTreeMap<String, u64> =
            files.map(|file| (format!("{folder}/date={name}/{}", file.name), file.bytes)).collect();
        let is_whole = there.get(&day_of(day_us)).map_or(wanted.is_empty(), |found| *found == wanted);
        is_whole.then_some((day_of(day_us), date))
    };
    manifest.dates.iter().filter_map(of_entry).collect()
}

/// Whether a date that somebody else has made meanwhile stays, in place of `mine`: it has instants that mine has not, or
/// sees all that mine does and, unless `yields`, more. So it does not matter who of the two comes last.
fn stays(theirs: &SnapshotDate, mine: Option<&SnapshotDate>, yields: bool) -> bool {
    let Some(mine) = mine else { return true };
    let (theirs, mine) = (&theirs.inputs, &mine.inputs);
    !mine.covers(theirs) || (theirs.holds(mine) && (yields || !mine.holds(theirs)))
}

fn folder(view: &SnapshotView) -> String {
    format!("features/entity={}/view={}/version={}", view.entity, view.view, view.version_folder)
}

/// The day of a file in a view's folder; `None` for what is no date's.
fn day_of_path(path: &str, folder: &str) -> Option<i64> {
    let (date, _) = path.strip_prefix(folder)?.strip_prefix("/date=")?.split_once('/')?;
    let day = day_of(parse_rfc3339(format!("{date}T00:00:00Z").as_bytes())?.us);
    (date_of_day(day) == date).then_some(day)
}

impl SnapshotSink for SnapshotWriter {
    fn dates(&mut self, view: &SnapshotView) -> Result<BTreeMap<i64, Option<SnapshotDate>>> {
        // What cannot be written is said before anything is computed.
        layout(view, None)?;
        let folder = folder(view);
        let (manifest, there) = look(self.store.as_ref(), &folder, view, self.remedy)?;
        let known = whole(&manifest, &there, &folder);
        let mut dates: BTreeMap<i64, Option<SnapshotDate>> = BTreeMap::new();
        let named = manifest.dates.iter().filter_map(|(name, entry)| Some(day_of(entry.date(name)?.0)));
        for day in named.chain(there.keys().copied()) {
            dates.insert(day * DAY_US, known.get(&day).cloned());
        }
        self.views.insert(folder, ViewDates { view: Some(view.clone()), known, ..ViewDates::default() });
        Ok(dates)
    }

    fn write(&mut self, view: &SnapshotView, rows: &SnapshotRows) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let (folder, day) = (folder(view), day_of(rows.day_us));
        let dates = self.views.entry(folder.clone()).or_default();
        let goes_on = |open: &OpenDate| open.day == day && open.writer.bytes_written() < PART_BYTES;
        if !dates.open.as_ref().is_some_and(goes_on) {
            self.close(&folder)?;
        }
        let dates = self.views.entry(folder.clone()).or_default();
        let open = match &mut dates.open {
            Some(open) => open,
            none => {
                let layout = layout(view, Some(rows))?;
                let writer = ParquetWriter::new(&folder, Vec::new(), &layout)?;
                none.insert(OpenDate { day, rows: 0, layout, writer })
            }
        };
        open.rows += rows.len() as u64;
        open.writer.write(&batch(&open.layout, rows)?)
    }

    fn complete(&mut self, view: &SnapshotView, day_us: i64, date: &SnapshotDate) -> Result<()> {
        self.ready(view, day_us, Some(date))
    }

    fn remove(&mut self, view: &SnapshotView, day_us: i64) -> Result<()> {
        self.ready(view, day_us, None)
    }

    fn finish(&mut self) -> Result<()> {
        self.show()?;
        // What killed writers have left, and what was replaced, is removed by whoever writes there next; a store of
        // backfills has no owner.
        let old_trash = || -> Result<()> {
            let old = self.store.ages(&format!("{TRASH}/features"))?.into_iter().filter(|(_, age)| *age >= KEEP);
            self.store.delete_all(&old.map(|(path, _)| path).collect::<Vec<_>>())
        };
        if let Err(error) = staged_features(self.store.as_ref()).and_then(|()| old_trash()) {
            tracing::warn!(%error, "cannot remove what earlier backfills have left");
        }
        Ok(())
    }
}

/// The snapshots of a running job, in its offline store.
pub struct StreamSnapshots {
    store: Arc<dyn ObjectStore>,
}

impl std::fmt::Debug for StreamSnapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamSnapshots").finish_non_exhaustive()
    }
}

impl StreamSnapshots {
    /// Those of a store.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }
}

impl SnapshotSinks for StreamSnapshots {
    fn open(&self) -> Box<dyn SnapshotSink> {
        let remedy = |wanted: &SnapshotManifest| {
            format!(
                "offline.snapshots asks for --every {} --entities {}: move the folder away, or set offline.snapshots to \
                 what is there or to \"none\"",
                wanted.every, wanted.entities
            )
        };
        let mut writer = SnapshotWriter::new(self.store.clone());
        writer.remedy = remedy;
        // What it sees of a late event depends on when it came: a backfill knows better.
        writer.yields = true;
        Box::new(writer)
    }
}

impl Drop for SnapshotWriter {
    /// Removes what was staged and never shown.
    fn drop(&mut self) {
        for staged in &self.staged {
            drop(self.store.delete(staged));
        }
    }
}

/// The settings of a file that begins with these rows.
fn layout(view: &SnapshotView, rows: Option<&SnapshotRows>) -> Result<Layout> {
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
    // Many features are the same for all entities of a day: to compress such a column makes it larger, and what is needed
    // for it costs more than to write all of a small file.
    let repeating = |index: usize| match rows {
        Some(rows) if is_constant(&rows.features[index]) => ColumnHint::Constant,
        _ => ColumnHint::Repeating,
    };
    let features = view.features.iter().enumerate().map(|(index, (name, _))| (name.clone(), repeating(index)));
    let features: BTreeMap<String, ColumnHint> = features.collect();
    Ok(Layout::new(Arc::new(Schema::new(fields)), move |name| match name {
        "event_time" => ColumnHint::Rising,
        "_position" => ColumnHint::Constant,
        // Counts and categories repeat; the dictionary gives up by itself where measurements do not.
        _ => features.get(name).copied().unwrap_or(ColumnHint::Distinct),
    }))
}

/// Whether all rows of a column are alike.
fn is_constant(column: &Column) -> bool {
    fn alike<T: PartialEq>(values: impl IntoIterator<Item = T>) -> bool {
        let mut values = values.into_iter();
        let first = values.next();
        values.all(|value| Some(&value) == first.as_ref())
    }
    // A null row holds 0, or nothing.
    let validity = column.validity.as_ref();
    validity.is_none_or(|bits| [0, bits.len()].contains(&bits.count_set()))
        && match &column.values {
            Values::I64(values) | Values::Timestamp(values) => alike(values),
            Values::F64(values) => alike(values.iter().map(|value| value.to_bits())),
            Values::Bool(values) => alike(values),
            Values::Utf8(values) | Values::Bytes(values) => alike(values.iter()),
            // Elements have settings of their own.
            Values::List { .. } => false,
        }
}

fn batch(layout: &Layout, rows: &SnapshotRows) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(rows.keys.len() + rows.features.len() + 2);
    for key in &rows.keys {
        columns.push(to_arrow(key)?);
    }
    columns.push(to_arrow(&Column::of(Values::Timestamp(rows.times_us.clone())))?);
    for feature in &rows.features {
        columns.push(to_arrow(feature)?);
    }
    columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(rows.position.as_str(), rows.len()))));
    RecordBatch::try_new(layout.schema().clone(), columns)
        .map_err(|error| Error::internal(format!("snapshot rows do not fit their view: {error}")))
}

#[cfg(test)]
mod tests;
