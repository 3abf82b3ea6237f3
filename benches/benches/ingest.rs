//! What does an event cost on the whole way, and where does it go? Each figure stands beside another of the same run.
//!
//! - From an event file through both views into the archive and the embedded online store: as native code, as
//!   components, without views, and beside just reading and writing the same rows as Parquet.
//! - From JSON to the windows of one view, without sinks: native, component, and beside `serde_json` parsing the
//!   same lines into a struct of borrowed strings.
//!
//! `cargo bench -p plumb-benches --bench ingest [-- EVENTS [REPEATS]]`. Events are generated, or read from the file
//! `PLUMB_BENCH_EVENTS` names. Every figure is the least of all repeats, which take turns; processor time is that of
//! the whole process.

use plumb_benches::measure::table;
use plumb_benches::native::NativeGuest;
use plumb_columnar::{ColumnHint, Layout, ParquetFile, ParquetWriter, Selection};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::state::ViewState;
use plumb_embedded::{DataDir, Embedded};
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::accept::{AcceptRules, Acceptor};
use plumb_pipeline::clock::SystemClock;
use plumb_pipeline::decode::json::{JsonDecoder, Record, encode};
use plumb_pipeline::decode::time::TimeUnit;
use plumb_pipeline::port::{ObjectStore, Polled, Source, SourceBatch};
use plumb_pipeline::runtime::{Loader, Runtime, RuntimeOptions, RuntimeParts};
use plumb_pipeline::worker::{SourceSetup, WorkerOptions};
use plumb_source_file::{FileSource, FileSourceOptions, GenerateOptions, generate};
use plumb_store_object::LocalStore;
use plumb_transform::{Engine, EngineOptions, LoadedComponent, Transform};
use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The allocator of the `plumb` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START_US: i64 = 1_735_689_600_000_000;
const NOW_US: i64 = START_US + 400 * 86_400_000_000;
/// Lines of the part that begins with JSON.
const LINES_MAX: usize = 500_000;
/// The batches of a worker.
const BATCH: usize = 1024;

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let events = numbers.next().unwrap_or(500_000);
    let repeats = numbers.next().unwrap_or(3);
    let dir = tempfile::tempdir()?;
    let path = match std::env::var_os("PLUMB_BENCH_EVENTS") {
        Some(path) => PathBuf::from(path),
        None => {
            let path = dir.path().join("events.parquet");
            let (users, items) = (events / 500 + 1, events / 20 + 1);
            generate(
                &GenerateOptions { events, users, items, days: 365, seed: 7, start_us: START_US },
                &path,
                &mut |_| {},
            )?;
            path
        }
    };
    let engine = Arc::new(Engine::new(EngineOptions::default())?);
    let native: Arc<dyn Loader> = Arc::new(Native(engine.clone()));
    let components = [plumb_benches::component("user_activity")?, plumb_benches::component("item_activity")?];

    let rows = ParquetFile::open(&path)?.rows();
    println!("whole ingest of {rows} events from {}:", path.display());
    table(
        rows,
        repeats,
        &mut [
            ("Parquet read and written, nothing else", &mut || copy_parquet(&path)),
            ("ingest without views", &mut || ingest(&path, engine.clone(), &[])),
            ("ingest, both views, native", &mut || ingest(&path, native.clone(), &components)),
            ("ingest, both views, components", &mut || ingest(&path, engine.clone(), &components)),
        ],
    )?;

    let lines = json_lines(&path)?;
    let bytes: usize = lines.iter().map(Vec::len).sum();
    println!("\nJSON to the windows of user_activity, {} lines of {} bytes:", lines.len(), bytes / lines.len().max(1));
    let schema = Arc::new(SourceSchema::default_schema());
    let bind = |loader: &dyn Loader| -> Result<Transform> {
        Ok(Transform::new(loader.load(&components[0])?, &schema, AcceptRules::default().allowed_lateness_us)?)
    };
    let (wasm, code) = (bind(engine.as_ref())?, bind(native.as_ref())?);
    table(
        lines.len() as u64,
        repeats,
        &mut [
            ("serde_json into a borrowed struct", &mut || parse(&lines)),
            ("decode", &mut || windows(&lines, None, false)),
            ("decode, extract, windows, native", &mut || windows(&lines, Some(&code), false)),
            ("decode, extract, windows, component", &mut || windows(&lines, Some(&wasm), false)),
            ("the same with acceptance", &mut || windows(&lines, Some(&wasm), true)),
        ],
    )
}

/// The shipped components as the same code compiled into this process.
struct Native(Arc<Engine>);

impl Loader for Native {
    fn load(&self, bytes: &[u8]) -> plumb_pipeline::Result<LoadedComponent> {
        let mut component = self.0.load(bytes)?;
        component.guest = match component.def.name.as_str() {
            "user_activity" => Arc::new(NativeGuest::<user_activity::UserActivity>::default()),
            _ => Arc::new(NativeGuest::<item_activity::ItemActivity>::default()),
        };
        Ok(component)
    }
}

/// Reads all columns of a Parquet file and writes them as one.
fn copy_parquet(path: &Path) -> Result<()> {
    let file = ParquetFile::open(path)?;
    let layout = Layout::new(file.schema().clone(), |_| ColumnHint::Repeating);
    let mut writer = ParquetWriter::new("copy", Vec::new(), &layout)?;
    for batch in file.batches(&Selection::default())? {
        writer.write(&batch?)?;
    }
    black_box(writer.finish()?);
    Ok(())
}

fn file_source(path: &Path) -> Result<FileSource> {
    let rules = AcceptRules::default();
    let options = FileSourceOptions { unit: TimeUnit::Ms, rules, now_us: NOW_US, follow: false };
    Ok(FileSource::new(path, Arc::new(SourceSchema::default_schema()), options)?)
}

/// The whole service but for serving: from the file to a committed archive and a published online store.
fn ingest(path: &Path, loader: Arc<dyn Loader>, components: &[Vec<u8>]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let owned = DataDir::own(dir.path())?;
    let embedded = Embedded::open(&owned)?;
    let store: Arc<dyn ObjectStore> = Arc::new(LocalStore::open(dir.path().join("offline"))?);
    let parts = RuntimeParts {
        sources: vec![SourceSetup {
            source: Arc::new(file_source(path)?),
            rules: AcceptRules::default(),
            dead_letters: None,
        }],
        online: embedded.online()?,
        archive: Arc::new(ParquetArchive::new(store.clone())),
        store,
        loader,
        clock: Arc::new(SystemClock::default()),
        snapshots: None,
    };
    let worker = WorkerOptions { bounded: true, ..WorkerOptions::default() };
    let runtime = Runtime::start(parts, RuntimeOptions { worker, threads: 1, replace: false }, components)?;
    runtime.wait_ended()?;
    runtime.stop()?;
    Ok(())
}

/// The first events of a file as JSON lines.
fn json_lines(path: &Path) -> Result<Vec<Vec<u8>>> {
    let mut reader = file_source(path)?.open(0, 0, None)?;
    let mut lines = Vec::new();
    while let Polled::Batch(batch) = reader.poll(BATCH)? {
        for row in 0..batch.events.len().min(LINES_MAX - lines.len()) {
            let mut line = Vec::new();
            encode(&batch.events, row, &mut line);
            lines.push(line);
        }
        if lines.len() == LINES_MAX {
            break;
        }
    }
    Ok(lines)
}

#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "read by serde only")]
struct Borrowed<'a> {
    event_id: Option<&'a str>,
    event_time: &'a str,
    user_id: Option<&'a str>,
    item_id: Option<&'a str>,
    event_type: &'a str,
    category: Option<&'a str>,
    price: Option<f64>,
    quantity: Option<i64>,
    rating: Option<f64>,
    session_id: Option<&'a str>,
}

fn parse(lines: &[Vec<u8>]) -> Result<()> {
    for line in lines {
        black_box(serde_json::from_slice::<Borrowed<'_>>(line)?);
    }
    Ok(())
}

/// Lines to batches of columns, and on into the state of a view.
fn windows(lines: &[Vec<u8>], view: Option<&Transform>, accept: bool) -> Result<()> {
    let schema = Arc::new(SourceSchema::default_schema());
    let mut decoder = JsonDecoder::new(schema.clone(), TimeUnit::Ms);
    let mut acceptor = Acceptor::new(&schema, AcceptRules::default());
    let mut state = view.map(|view| ViewState::new(view.plan().clone()));
    for (at, lines) in lines.chunks(BATCH).enumerate() {
        let first = (at * BATCH) as u64;
        let events = EventBatch::new(schema.clone());
        let mut batch = SourceBatch { events, rejected: Vec::new(), next_offset: first };
        for line in lines {
            let record = Record { offset: batch.next_offset, record_time_us: NOW_US, bytes: line };
            decoder.decode_into(&mut batch, record);
        }
        let events = if accept { acceptor.accept(batch).events } else { batch.events };
        if let (Some(view), Some(state)) = (view, &mut state) {
            state.apply(&events, view.key_columns(), &view.extract(&events).contributions);
        }
        black_box(&events);
    }
    black_box(state);
    Ok(())
}
