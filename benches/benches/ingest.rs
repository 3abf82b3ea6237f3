//! What does an event cost from the embedded log to a committed archive and a published online store? One worker,
//! bounded input, the shipped components; wall time and the processor time of the whole process per event.
//!
//! `cargo bench -p plumb-benches --bench ingest [-- EVENTS [THREADS]]`

use plumb_core::event::SourceSchema;
use plumb_embedded::{DataDir, Embedded, LogSource};
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::clock::SystemClock;
use plumb_pipeline::decode::json::encode;
use plumb_pipeline::decode::time::TimeUnit;
use plumb_pipeline::port::{EventLog, ObjectStore};
use plumb_pipeline::runtime::{Runtime, RuntimeOptions, RuntimeParts};
use plumb_pipeline::worker::{SourceSetup, WorkerOptions};
use plumb_source_file::{GenerateOptions, Generator};
use plumb_store_object::LocalStore;
use plumb_transform::{Engine, EngineOptions};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

/// The allocator of the `plumb` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START_US: i64 = 1_735_689_600_000_000;

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let events = numbers.next().unwrap_or(500_000);
    let threads = numbers.next().unwrap_or(1) as usize;
    let dir = tempfile::tempdir()?;
    let owned = DataDir::own(dir.path())?;
    let embedded = Embedded::open(&owned)?;
    let log = embedded.log("default", None)?;
    let options = GenerateOptions {
        events,
        users: events / 50 + 1,
        items: events / 500 + 1,
        days: 30,
        seed: 7,
        start_us: START_US,
    };
    let filled = Instant::now();
    for batch in Generator::new(&options)? {
        let mut records = Vec::with_capacity(batch.len());
        for row in 0..batch.len() {
            let mut bytes = Vec::new();
            encode(&batch, row, &mut bytes);
            let user = batch.columns[1].str_bytes(row).unwrap_or_default();
            let hash = user.iter().fold(0u32, |hash, &byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
            records.push((hash % log.partitions(), bytes));
        }
        log.append(START_US + 40 * 86_400_000_000, &records)?;
    }
    println!("log of {events} events written in {:.2} s", filled.elapsed().as_secs_f64());

    let engine = Arc::new(Engine::new(EngineOptions::default())?);
    let both = [plumb_benches::component("user_activity")?, plumb_benches::component("item_activity")?];
    for (what, components) in [("without views", &both[..0]), ("user_activity", &both[..1]), ("both views", &both[..])]
    {
        let offline = tempfile::tempdir_in(dir.path())?;
        let store: Arc<dyn ObjectStore> = Arc::new(LocalStore::open(offline.path())?);
        let schema = Arc::new(SourceSchema::default_schema());
        let rules = AcceptRules::default();
        let source = LogSource::new(log.clone(), schema, TimeUnit::Ms, rules).until_end()?;
        let parts = RuntimeParts {
            sources: vec![SourceSetup { source: Arc::new(source), rules }],
            online: embedded.online()?,
            archive: Arc::new(ParquetArchive::new(store.clone())),
            store,
            loader: engine.clone(),
            clock: Arc::new(SystemClock::default()),
        };
        let worker = WorkerOptions { bounded: true, ..WorkerOptions::default() };
        let (wall, cpu) = (Instant::now(), cpu_seconds()?);
        let runtime = Runtime::start(parts, RuntimeOptions { worker, threads, replace: false }, components)?;
        runtime.wait_live()?;
        let started = wall.elapsed().as_secs_f64();
        runtime.wait_ended()?;
        let (wall, cpu) = (wall.elapsed().as_secs_f64() - started, cpu_seconds()? - cpu);
        let applied: u64 = runtime.status().partitions.iter().map(|status| status.accounting.applied).sum();
        let state: u64 =
            runtime.status().partitions.iter().flat_map(|status| &status.views).map(|view| view.state_bytes).sum();
        runtime.stop()?;
        println!(
            "{what}: {applied} applied, {:.2} µs wall and {:.2} µs of processor time per event, {} MiB of state, \
             started in {started:.2} s",
            wall * 1e6 / events as f64,
            cpu * 1e6 / events as f64,
            state >> 20,
        );
    }
    Ok(())
}

/// The processor time of this process so far, all threads, in seconds.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("no process name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Fields 14 and 15 of the line, in ticks of 10 ms.
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}
