//! What the offline commands share: components and readers of events from the words of the command line.

use crate::args::{Inputs, Reading};
use crate::context::{instant, now_us, progress_to, settings};
use crate::exit::usage;
use crate::interrupt;
use anyhow::Result;
use plumb_assembly::sources::accept_rules;
use plumb_assembly::{Settings, components, event_files};
use plumb_core::event::EventBatch;
use plumb_offline_parquet::LocalScratch;
use plumb_pipeline::Error;
use plumb_pipeline::decode::time::format_rfc3339;
use plumb_pipeline::offline::{Faults, Progress, Selection, needed_columns};
use plumb_pipeline::port::EventReader;
use plumb_source_file::{AcceptedEvents, EventFile, EventOptions, IdsWithin, require_ingest_times, would_find};
use plumb_transform::{Function, Transform};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Settings, components and where the events are.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The settings.
    pub(crate) settings: Settings,
    /// The components, bound to their sources.
    pub(crate) transforms: Vec<Transform>,
    /// The events' paths by source.
    pub(crate) paths: BTreeMap<String, PathBuf>,
    pub(crate) now_us: i64,
    /// How many threads; 0 = one per core.
    pub(crate) threads: usize,
    /// How much memory the ids of raw event files may take.
    pub(crate) ids: Option<IdsWithin>,
}

/// The part of a job's memory that ids of raw event files may take.
const IDS_SHARE: u64 = 8;

impl Prepared {
    /// Keeps the ids of raw event files within their part of a job's memory.
    pub(crate) fn keep_ids_within(&mut self, bytes: u64, scratch: &LocalScratch) {
        self.ids =
            Some(IdsWithin { bytes: bytes / IDS_SHARE, scratch: Arc::new(scratch.clone()), go_on: interrupt::go_on });
    }

    /// Reads settings and components.
    pub(crate) fn new(inputs: &Inputs) -> Result<Self> {
        let (settings, now_us) = (settings(inputs.reading.config.as_deref())?, now(&inputs.reading)?);
        let paths = event_paths(&inputs.events)?;
        Self::of(settings, now_us, &inputs.transforms, paths, inputs.reading.threads)
    }

    /// Reads components, over settings and paths that are known.
    pub(crate) fn of(
        settings: Settings,
        now_us: i64,
        transforms: &[PathBuf],
        paths: BTreeMap<String, PathBuf>,
        threads: Option<usize>,
    ) -> Result<Self> {
        let transforms = components::transforms(&components::engine()?, transforms, &settings)?;
        for transform in &transforms {
            let source = &transform.def().source;
            if !paths.contains_key(source) {
                let view = &transform.def().name;
                return Err(usage(format!(
                    "view `{view}` reads source `{source}`: give its events by --events {source}=PATH"
                )));
            }
        }
        Ok(Self { settings, transforms, paths, now_us, threads: threads.unwrap_or(0), ids: None })
    }

    /// Reads components whose events are those that the job of the settings has committed.
    pub(crate) fn of_job(settings: Settings, transforms: &[PathBuf], threads: Option<usize>) -> Result<Self> {
        let transforms = components::transforms(&components::engine()?, transforms, &settings)?;
        let (paths, now_us) = (BTreeMap::new(), now_us());
        Ok(Self { settings, transforms, paths, now_us, threads: threads.unwrap_or(0), ids: None })
    }

    /// Refuses events of the transforms' sources that do not say when they were ingested.
    pub(crate) fn require_ingest_times(&self, transforms: &[&Transform]) -> Result<()> {
        for (source, path) in &self.paths {
            if transforms.iter().any(|transform| transform.def().source == *source) {
                require_ingest_times(&event_files(path)?)?;
            }
        }
        Ok(())
    }

    /// The event files of all paths.
    pub(crate) fn event_files(&self) -> Result<Vec<EventFile>> {
        let files = self.paths.values().map(|path| event_files(path)).collect::<plumb_pipeline::Result<Vec<_>>>()?;
        Ok(files.into_iter().flatten().collect())
    }

    /// Refuses a place whose tables would be read as events the next time.
    pub(crate) fn refuse_among_events(&self, out: &Path, tables: &Path) -> Result<()> {
        match self.paths.values().find(|folder| would_find(folder, tables)) {
            Some(folder) => Err(usage(format!(
                "--out {}: all tables in folder `{}` are read as events, and what is written there would be the next time",
                out.display(),
                folder.display()
            ))),
            None => Ok(()),
        }
    }

    /// Opens a reader per source that the transforms name, of only the columns they can need.
    pub(crate) fn open(&self, transforms: &[&Transform]) -> Result<Readers> {
        let mut readers = Readers::default();
        for source in self.paths.keys() {
            if transforms.iter().any(|transform| transform.def().source == *source) {
                readers.open(self, source, transforms)?;
            }
        }
        Ok(readers)
    }

    /// How the events of a source are read, of only the columns that the transforms can need.
    fn event_options(&self, source: &str, transforms: &[&Transform]) -> plumb_pipeline::Result<EventOptions> {
        let of_source = transforms.iter().copied().filter(|transform| transform.def().source == *source);
        let columns = Some(needed_columns(of_source));
        let options = event_options(&self.settings, source, self.now_us, columns, self.threads)?;
        Ok(EventOptions { ids: self.ids.clone(), ..options })
    }
}

/// A reader that is lent to a driver and asked afterwards what it refused; counts what it gives.
#[derive(Debug, Clone)]
struct Shared {
    reader: Arc<Mutex<AcceptedEvents>>,
    bar: indicatif::ProgressBar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, AcceptedEvents> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventReader for Shared {
    fn next_batch(&mut self) -> plumb_pipeline::Result<Option<EventBatch>> {
        interrupt::go_on()?;
        let batch = self.lock().next_batch()?;
        self.bar.inc(batch.as_ref().map_or(0, |batch| batch.len() as u64));
        Ok(batch)
    }

    fn next_of_partition(&mut self) -> plumb_pipeline::Result<Option<(u32, EventBatch)>> {
        interrupt::go_on()?;
        let batch = self.lock().next_of_partition()?;
        self.bar.inc(batch.as_ref().map_or(0, |(_, batch)| batch.len() as u64));
        Ok(batch)
    }

    fn only_before(&mut self, before_us: i64) {
        let mut reader = self.lock();
        reader.only_before(before_us);
        if let Some(rows) = reader.rows() {
            self.bar.set_length(rows);
        }
    }
}

/// Readers by source.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    open: BTreeMap<String, Shared>,
    /// The files of each source: who reads them again reads the same, whatever a running job has committed since.
    files: BTreeMap<String, Vec<EventFile>>,
}

impl Readers {
    /// Opens the events of a source from the first one on, in place of a reader that was opened before.
    pub(crate) fn open(
        &mut self,
        prepared: &Prepared,
        source: &str,
        transforms: &[&Transform],
    ) -> plumb_pipeline::Result<Box<dyn EventReader>> {
        let path = prepared.paths.get(source).ok_or_else(|| Error::invalid(format!("no events of `{source}`")))?;
        let options = prepared.event_options(source, transforms)?;
        let files = match self.files.get(source) {
            Some(files) => files.clone(),
            None => self.files.entry(source.to_owned()).or_insert(event_files(path)?).clone(),
        };
        let reader = AcceptedEvents::of(files, &prepared.settings.schema(source)?, &options)?;
        let bar = progress_to("reading", "events", reader.rows());
        let shared = Shared { reader: Arc::new(Mutex::new(reader)), bar };
        if let Some(before) = self.open.insert(source.to_owned(), shared.clone()) {
            before.bar.finish_and_clear();
        }
        Ok(Box::new(shared))
    }

    /// The readers as the drivers want them.
    pub(crate) fn lend(&self) -> BTreeMap<String, Box<dyn EventReader>> {
        self.open
            .iter()
            .map(|(source, reader)| (source.clone(), Box::new(reader.clone()) as Box<dyn EventReader>))
            .collect()
    }

    /// How many records of a source were read, and how many of them accepted.
    pub(crate) fn accounting(&self, source: &str) -> (u64, u64) {
        self.open.get(source).map_or((0, 0), |shared| {
            let accounting = shared.lock().accounting();
            (accounting.read, accounting.applied)
        })
    }

    /// Says on stderr what was not accepted, with the first reasons. Records of which none is an event are a mistake: a
    /// table without a value would come of them.
    pub(crate) fn report(&self) -> Result<()> {
        let mut none = Ok(());
        for (source, shared) in &self.open {
            shared.bar.finish_and_clear();
            let reader = shared.lock();
            let accounting = reader.accounting();
            if accounting.rejected > 0 {
                eprintln!("plumb: source `{source}`: {} of {} records rejected", accounting.rejected, accounting.read);
                for refusal in reader.refusals() {
                    eprintln!("plumb:   {} row {}: {}", refusal.file, refusal.row, refusal.reason);
                }
                if accounting.rejected == accounting.read {
                    none = Err(usage(format!(
                        "source `{source}`: none of {} records is an event of it; give its events, and its fields in \
                         plumb.toml",
                        accounting.read
                    )));
                }
            }
            if accounting.duplicate > 0 {
                let (copies, conflicts) = (accounting.duplicate, accounting.dedupe_conflict);
                eprintln!("plumb: source `{source}`: {copies} copies dropped, {conflicts} with another payload");
            }
        }
        none
    }
}

/// The seconds spent in calls of the components, the way there and back included, of all threads together.
pub(crate) fn guest_seconds<'a>(transforms: impl IntoIterator<Item = &'a Transform>) -> f64 {
    let calls = transforms.into_iter().flat_map(|transform| Function::ALL.map(|function| transform.usage(function)));
    calls.map(|usage| usage.time.as_secs_f64()).sum()
}

/// The instant against which `max_future` is measured.
pub(crate) fn now(reading: &Reading) -> Result<i64> {
    reading.now.as_deref().map_or_else(|| Ok(now_us()), |text| instant("--now", text))
}

/// Opens the events of a source.
pub(crate) fn open_events(
    settings: &Settings,
    source: &str,
    path: &Path,
    now_us: i64,
    columns: Option<Vec<usize>>,
    threads: usize,
) -> Result<AcceptedEvents> {
    let options = event_options(settings, source, now_us, columns, threads)?;
    Ok(AcceptedEvents::of(event_files(path)?, &settings.schema(source)?, &options)?)
}

fn event_options(
    settings: &Settings,
    source: &str,
    now_us: i64,
    columns: Option<Vec<usize>>,
    threads: usize,
) -> plumb_pipeline::Result<EventOptions> {
    let of_source = settings.source(source)?;
    Ok(EventOptions { unit: of_source.time_unit, rules: accept_rules(of_source), now_us, columns, threads, ids: None })
}

/// `PATH` or `NAME=PATH`, repeated, to a path per source.
pub(crate) fn event_paths(words: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut paths = BTreeMap::new();
    for word in words {
        // A path may hold an equals sign (`date=2024-01-01/`); a source's name holds no slash or dot.
        let named = word.split_once('=').filter(|(name, _)| {
            !name.is_empty()
                && name.bytes().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_')
                && !Path::new(word).exists()
        });
        let (source, path) = named.unwrap_or(("default", word));
        if paths.insert(source.to_owned(), PathBuf::from(path)).is_some() {
            return Err(usage(format!("--events: source `{source}` is given twice; a folder may hold several files")));
        }
    }
    Ok(paths)
}

impl Prepared {
    /// The key fields that the selected views need in the labels, each once.
    pub(crate) fn key_fields(&self, selection: &Selection) -> Vec<String> {
        let mut fields: Vec<String> = Vec::new();
        for field in selection.views.iter().flat_map(|view| &view.transform.def().entity.key) {
            if !fields.contains(field) {
                fields.push(field.clone());
            }
        }
        fields
    }
}

/// Where scratch files go: the folder given, else the one that the output will be in.
pub(crate) fn scratch_folder(given: Option<&Path>, out: &Path) -> PathBuf {
    match (given, out.parent()) {
        (Some(given), _) => given.to_owned(),
        (None, Some(folder)) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Says on stderr that times of labels carry no zone.
pub(crate) fn say_zoneless(file: Option<&PathBuf>, column: &str) {
    let file = file.map_or_else(String::new, |file| file.display().to_string());
    eprintln!("plumb: `{file}`: column `{column}` holds times without a zone: taken as UTC");
}

/// A folder that may not be there yet, or else the nearest above it that is.
pub(crate) fn folder_there(folder: &Path) -> PathBuf {
    let there = folder.ancestors().find(|folder| folder.is_dir());
    there.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Shows how far answering is.
#[derive(Debug, Default)]
pub(crate) struct Answering(OnceLock<indicatif::ProgressBar>);

impl Progress for Answering {
    fn begin_answers(&self, labels: u64) {
        self.0.get_or_init(|| progress_to("answering", "labels", Some(labels)));
    }

    fn answered(&self, labels: u64) {
        if let Some(bar) = self.0.get() {
            bar.inc(labels);
        }
    }

    fn go_on(&self) -> plumb_pipeline::Result<()> {
        interrupt::go_on()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(bar) = self.0.get() {
            bar.finish_and_clear();
        }
    }
}

/// Says on stderr which views failed on rows, with the first.
pub(crate) fn report_faults(what: &str, faults: &BTreeMap<String, Faults>) {
    for (view, faults) in faults {
        let example = faults
            .example
            .as_ref()
            .map_or_else(String::new, |(time_us, reason)| format!(", first at {}: {reason}", format_rfc3339(*time_us)));
        eprintln!("plumb: view `{view}`: {what} failed on {} rows{example}", faults.count);
    }
}

/// Faults as JSON.
pub(crate) fn faults_json(faults: &BTreeMap<String, Faults>) -> serde_json::Value {
    let of_view = |(view, faults): (&String, &Faults)| {
        let example = faults.example.as_ref().map(|(_, reason)| reason.as_str());
        (view.clone(), serde_json::json!({"count": faults.count, "example": example}))
    };
    faults.iter().map(of_view).collect::<serde_json::Map<_, _>>().into()
}
