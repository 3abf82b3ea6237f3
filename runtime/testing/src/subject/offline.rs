//! The offline drivers over the records as files of JSON Lines.

use super::{Features, VIEWS, settings, text};
use crate::case::{Accounting, CaseError, Read, Subject};
use crate::process;
use plumb_assembly::sources::accept_rules;
use plumb_assembly::{Settings, components};
use plumb_core::column::{Column, DataType};
use plumb_core::event::EventBatch;
use plumb_core::time::HOUR_US;
use plumb_pipeline::clock::{Clock, SystemClock};
use plumb_pipeline::offline::{
    BackfillOptions, Budget, Entities, Every, JoinOptions, Labels, MEMORY_MIN_BYTES, Selection, Status, ViewColumns,
    backfill, join, needed_columns,
};
use plumb_pipeline::port::{
    EventReader, Scratch, ScratchFolder, SnapshotDate, SnapshotRows, SnapshotSink, SnapshotView,
};
use plumb_pipeline::query::Value;
use plumb_source_file::{AcceptedEvents, EventOptions};
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

const SOURCE: &str = "default";

/// One row of a snapshot: its view, its key and its instant, with the features.
pub type Snapshot = ((String, String, i64), Vec<(String, String)>);

/// Join and backfill over a folder of event files.
#[derive(Debug)]
pub struct OfflineSubject {
    folder: TempDir,
    settings: Settings,
    transforms: Vec<Transform>,
    threads: usize,
    /// Records per file.
    file_records: usize,
    records: usize,
}

/// For events that fit in memory.
#[derive(Debug)]
struct NoScratch;

impl ScratchFolder for NoScratch {
    fn create(&self) -> plumb_pipeline::Result<Box<dyn Scratch>> {
        Err(plumb_pipeline::Error::internal("the events of a case do not fit in memory"))
    }
}

/// The shipped views, loaded once.
fn transforms() -> Result<Vec<Transform>, CaseError> {
    static LOADED: OnceLock<Result<Vec<Transform>, String>> = OnceLock::new();
    let load = || -> Result<Vec<Transform>, CaseError> {
        let paths: Vec<PathBuf> = VIEWS.iter().map(|view| process::component(view)).collect();
        Ok(components::transforms(&components::engine()?, &paths, &settings(Path::new("unused"), 1)?)?)
    };
    Ok(LOADED.get_or_init(|| load().map_err(|error| error.to_string())).clone()?)
}

impl OfflineSubject {
    /// A subject that works with `threads` threads and begins a file every `file_records` records.
    pub fn new(threads: usize, file_records: usize) -> Result<Self, CaseError> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("events"))?;
        let settings = settings(folder.path(), 1)?;
        Ok(Self { folder, settings, transforms: transforms()?, threads, file_records, records: 0 })
    }

    fn events(&self, columns: Option<Vec<usize>>) -> Result<AcceptedEvents, CaseError> {
        let source = self.settings.source(SOURCE)?;
        let options = EventOptions {
            unit: source.time_unit,
            rules: accept_rules(source),
            now_us: SystemClock::default().now_us(),
            columns,
            threads: self.threads,
            ids: None,
        };
        Ok(AcceptedEvents::open(&self.folder.path().join("events"), &self.settings.schema(SOURCE)?, &options)?)
    }

    /// The events of the views' columns, as the commands read them.
    fn readers(&self) -> Result<BTreeMap<String, Box<dyn EventReader>>, CaseError> {
        let reader: Box<dyn EventReader> = match self.records {
            // There is no file then, which the commands refuse.
            0 => Box::new(NoEvents),
            _ => Box::new(self.events(Some(needed_columns(&self.transforms)))?),
        };
        Ok(BTreeMap::from([(SOURCE.to_owned(), reader)]))
    }

    /// The key field of a view.
    fn key_field(&self, view: &str) -> Option<&str> {
        let transform = self.transforms.iter().find(|transform| transform.def().name == view)?;
        transform.def().entity.key.first().map(String::as_str)
    }

    /// Answers reads by one join, one label each: the key fields of other entities are null there.
    pub fn answers(&self, reads: &[Read]) -> Result<Vec<Features>, CaseError> {
        let selection = Selection::all(&self.transforms);
        let mut keys: BTreeMap<String, Column> = BTreeMap::new();
        for field in self.transforms.iter().map(|transform| &transform.def().entity.key[0]) {
            let mut column = Column::new(&DataType::Utf8);
            for read in reads {
                match &read.key {
                    Some(key) if self.key_field(&read.view) == Some(field) => column.push_bytes(key.as_bytes()),
                    _ => column.push_null(),
                }
            }
            keys.insert(field.clone(), column);
        }
        let labels = Labels { times_us: reads.iter().map(|read| read.at_us).collect(), keys };
        let options = JoinOptions { threads: self.threads, ..JoinOptions::default() };
        let joined = join(&mut self.readers()?, &selection, &labels, &options)?;
        let answer = |(row, read): (usize, &Read)| {
            let index = self.transforms.iter().position(|transform| transform.def().name == read.view);
            let index = index.ok_or_else(|| format!("no view `{}`", read.view))?;
            self.features(index, &joined.views[index], row)
        };
        reads.iter().enumerate().map(answer).collect()
    }

    fn features(&self, view: usize, columns: &ViewColumns, row: usize) -> Result<Features, CaseError> {
        let names = self.transforms[view].def().features.iter().map(|feature| feature.name.clone());
        let values: Vec<String> = columns.features.iter().map(|column| text(&Value::of(column, row))).collect();
        match columns.status[row] {
            Status::Found => Ok(Some(names.zip(values).collect())),
            Status::NotFound if values.iter().all(|value| value == "null") => Ok(None),
            other => Err(format!("status {}: {values:?}", other.name()).into()),
        }
    }

    /// The snapshots of all entities that a backfill gives; from `from_us` to before `to_us` if they are given.
    pub fn snapshots(
        &self,
        every: Every,
        from_us: Option<i64>,
        to_us: Option<i64>,
    ) -> Result<Vec<Snapshot>, CaseError> {
        let options = BackfillOptions {
            from_us,
            to_us,
            every,
            entities: Entities::All,
            max_age_us: None,
            allow_fewer_events: false,
            threads: self.threads,
        };
        let mut kept = Kept::default();
        let mut readers = self.readers()?;
        let gone = || plumb_pipeline::Error::internal("nothing is there, so that the events are read once");
        let mut open = |source: &str| readers.remove(source).ok_or_else(gone);
        let budget = Budget { bytes: MEMORY_MIN_BYTES, scratch: &NoScratch, progress: None };
        backfill(&mut open, &self.transforms, &options, budget, &mut kept)?;
        if !kept.finished {
            return Err("the backfill did not finish its sink".into());
        }
        Ok(kept.snapshots)
    }
}

impl OfflineSubject {
    /// Compares a read's answer with the snapshots that a backfill has at its instant: on a full hour one of every
    /// entity found, 1 µs after an event one of its entities.
    fn check_backfill(&self, read: &Read, features: &Features) -> Result<(), CaseError> {
        let at = (Some(read.at_us), Some(read.at_us + 1));
        let on_the_hour = read.at_us.rem_euclid(HOUR_US) == 0;
        for every in [Every::Event, Every::Hour] {
            let own = self.snapshots(every, at.0, at.1)?.into_iter().filter(|((view, key, time), _)| {
                *view == read.view && Some(key) == read.key.as_ref() && *time == read.at_us
            });
            let own: Vec<_> = own.map(|(_, values)| values).collect();
            let missing = every == Every::Hour && on_the_hour && features.is_some() && own.is_empty();
            if missing || own.iter().any(|values| Some(values) != features.as_ref()) {
                return Err(format!("joined {features:?}\nbackfilled {own:?}").into());
            }
        }
        Ok(())
    }
}

struct NoEvents;

impl EventReader for NoEvents {
    fn next_batch(&mut self) -> plumb_pipeline::Result<Option<EventBatch>> {
        Ok(None)
    }
}

#[derive(Default)]
struct Kept {
    snapshots: Vec<Snapshot>,
    finished: bool,
}

impl SnapshotSink for Kept {
    fn dates(&mut self, _: &SnapshotView) -> plumb_pipeline::Result<BTreeMap<i64, Option<SnapshotDate>>> {
        Ok(BTreeMap::new())
    }

    fn complete(&mut self, _: &SnapshotView, _: i64, _: &SnapshotDate) -> plumb_pipeline::Result<()> {
        Ok(())
    }

    fn remove(&mut self, view: &SnapshotView, day_us: i64) -> plumb_pipeline::Result<()> {
        let what = format!("view `{}`: nothing was there to be removed at {day_us}", view.view);
        Err(plumb_pipeline::Error::internal(what))
    }

    fn write(&mut self, view: &SnapshotView, rows: &SnapshotRows) -> plumb_pipeline::Result<()> {
        for row in 0..rows.len() {
            let key = String::from_utf8_lossy(rows.keys[0].str_bytes(row).unwrap_or_default()).into_owned();
            let names = view.features.iter().map(|(name, _)| name.clone());
            let values = rows.features.iter().map(|column| text(&Value::of(column, row)));
            self.snapshots.push(((view.view.clone(), key, rows.times_us[row]), names.zip(values).collect()));
        }
        Ok(())
    }

    fn finish(&mut self) -> plumb_pipeline::Result<()> {
        self.finished = true;
        Ok(())
    }
}

impl Subject for OfflineSubject {
    fn name(&self) -> String {
        format!("join and backfill with {} threads, {} records per file", self.threads, self.file_records)
    }

    fn record(&mut self, record: &str) -> Result<(), CaseError> {
        let path = self.folder.path().join(format!("events/{:06}.jsonl", self.records / self.file_records));
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{record}")?;
        self.records += 1;
        Ok(())
    }

    fn read(&mut self, read: &Read) -> Result<Features, CaseError> {
        let features = self.answers(std::slice::from_ref(read))?.pop().ok_or("no answer")?;
        self.check_backfill(read, &features)?;
        Ok(features)
    }

    fn accounting(&mut self) -> Result<Accounting, CaseError> {
        if self.records == 0 {
            return Ok(Accounting::default());
        }
        // Of all columns: copies are compared by what is read of them.
        let mut events = self.events(None)?;
        while events.next_batch()?.is_some() {}
        Ok(events.accounting().into())
    }
}
