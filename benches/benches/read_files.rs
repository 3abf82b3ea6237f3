//! How long does an offline command wait for its events: 400,000 generated ones from Parquet and JSON Lines,
//! decoded on one and two threads and accepted, all columns and the few a view needs?

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plumb_core::event::SourceSchema;
use plumb_core::time::DAY_US;
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::TimeUnit;
use plumb_pipeline::port::EventReader;
use plumb_source_file::{AcceptedEvents, EventOptions, GenerateOptions, generate};
use std::path::Path;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: u64 = 400_000;
const START_US: i64 = 1_704_067_200_000_000;

fn read(path: &Path, schema: &Arc<SourceSchema>, columns: Option<Vec<usize>>, threads: usize) -> usize {
    let now_us = START_US + 400 * DAY_US;
    let options =
        EventOptions { unit: TimeUnit::Ms, rules: AcceptRules::default(), now_us, columns, threads, ids: None };
    let mut events = AcceptedEvents::open(path, schema, &options).expect("the file was just written");
    let mut rows = 0;
    while let Some(batch) = events.next_batch().expect("the file was just written") {
        rows += batch.len();
    }
    rows
}

fn read_files(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options =
        GenerateOptions { events: EVENTS, users: 5_000, items: 20_000, days: 365, seed: 1, start_us: START_US };
    let schema = Arc::new(SourceSchema::default_schema());
    let needed: Vec<usize> =
        ["user_id", "event_type", "category", "price"].iter().filter_map(|name| schema.column_of(name)).collect();
    let mut group = criterion.benchmark_group("read_files");
    group.throughput(Throughput::Elements(EVENTS));
    for name in ["events.parquet", "events.jsonl"] {
        let path = folder.path().join(name);
        generate(&options, &path, &mut |_| ()).expect("a file in a temporary folder");
        for threads in [1, 2] {
            for (what, columns) in [("all", None), ("four", Some(needed.clone()))] {
                let id = BenchmarkId::new(name, format!("{threads} threads, {what} columns"));
                group.bench_function(id, |bencher| bencher.iter(|| read(&path, &schema, columns.clone(), threads)));
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots().warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(2)).sample_size(10);
    targets = read_files
}
criterion_main!(benches);
