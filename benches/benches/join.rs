//! What does a training set cost beyond its kernel (sorting and sweeping), with one thread and with two?
//!
//! The shape is the Complete Journey's: 1.47 M purchases of 2,469 users in baskets over two years, 100,000 labels
//! at awkward times, `user_activity`'s ten features through its component. Needs `make build`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use plumb_core::column::{Column, DataType, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::temporal::{Arranged, Histories, History, Question, answer};
use plumb_core::time::{DAY_US, SECOND_US};
use plumb_pipeline::Result;
use plumb_pipeline::offline::{JoinOptions, Labels, Selection, join};
use plumb_pipeline::port::EventReader;
use plumb_transform::{Engine, EngineOptions, Transform};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

// As in the `plumb` binary: histories are large buffers that threads take and give back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: usize = 1_470_000;
const USERS: u64 = 2_469;
const LABELS: usize = 100_000;
const BATCH: usize = 16_384;
const START_US: i64 = 1_483_228_800_000_000;
const SPAN_US: i64 = 365 * DAY_US;

/// A fixed, well-mixed sequence: benches must not differ from run to run.
fn mix(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn user(n: u64) -> String {
    format!("{}", 1 + mix(n) % USERS)
}

/// Purchases in baskets of about ten that share user and time, in time order.
fn events(schema: &Arc<SourceSchema>) -> Vec<EventBatch> {
    let mut batches = vec![EventBatch::new(schema.clone())];
    let (mut basket, mut left) = (0u64, 0u64);
    for n in 0..EVENTS {
        if left == 0 {
            basket += 1;
            left = 1 + mix(basket * 7) % 18;
        }
        left -= 1;
        if batches.last().is_some_and(|batch| batch.len() == BATCH) {
            batches.push(EventBatch::new(schema.clone()));
        }
        let batch = batches.last_mut().expect("one batch was there from the start");
        let time_us = START_US + SPAN_US / EVENTS as i64 * (n as i64 - (mix(basket) % 4) as i64);
        batch.offsets.push(n as u64);
        batch.record_times_us.push(time_us);
        batch.times_us.push(time_us / SECOND_US * SECOND_US);
        batch.columns[0].push_bytes(format!("cj-{n:07}").as_bytes());
        batch.columns[1].push_bytes(user(basket).as_bytes());
        batch.columns[2].push_bytes(format!("{}", 800_000 + mix(n as u64) % 68_509).as_bytes());
        batch.columns[3].push_bytes(b"purchase");
        batch.columns[4].push_bytes(b"FLUID MILK PRODUCTS");
        batch.columns[5].push_f64((mix(n as u64 + 1) % 900) as f64 / 100.0);
        batch.columns[6].push_i64(1 + (mix(n as u64 + 2) % 3) as i64);
        batch.columns[7].push_null();
        batch.columns[8].push_bytes(format!("{basket}").as_bytes());
    }
    batches
}

fn labels() -> Labels {
    let time_us = |n: usize| START_US + (mix(n as u64 + 5) % SPAN_US as u64) as i64;
    let times = Column::of(Values::Timestamp((0..LABELS).map(time_us).collect()));
    let mut users = Column::new(&DataType::Utf8);
    (0..LABELS).for_each(|n| users.push_bytes(user(n as u64 * 3).as_bytes()));
    Labels::new("event_time", &times, BTreeMap::from([("user_id".to_owned(), users)])).expect("well-formed labels")
}

struct Batches(std::vec::IntoIter<EventBatch>);

impl EventReader for Batches {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.0.next())
    }
}

fn transform(schema: &Arc<SourceSchema>) -> Transform {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/plumb/user_activity.wasm");
    let bytes = std::fs::read(path).expect("`make build` writes target/plumb/user_activity.wasm");
    let engine = Engine::new(EngineOptions::default()).expect("the engine starts");
    Transform::new(engine.load(&bytes).expect("the component loads"), schema, 0).expect("the default schema fits")
}

/// History and questions of `slices` slices, as the driver gathers them.
fn gathered(transform: &Transform, batches: &[EventBatch], slices: usize) -> (Vec<History>, Vec<Vec<Question>>) {
    let number = |name: &[u8]| std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()).unwrap_or(0);
    let numbers = |column: &Column| -> Vec<u32> {
        (0..column.len()).map(|row| column.str_bytes(row).map_or(0, number)).collect()
    };
    let mut history = History::new(transform.plan(), slices);
    for batch in batches {
        let keys = numbers(&batch.columns[1]);
        history.see(&keys, &batch.times_us);
        history.push(&keys, &batch.times_us, None, &transform.extract(batch).contributions);
    }
    let labels = labels();
    let mut questions = vec![Vec::new(); slices];
    for (label, (key, &as_of_us)) in numbers(&labels.keys["user_id"]).into_iter().zip(&labels.times_us).enumerate() {
        questions[key as usize % slices].push(Question { key, label: label as u32, as_of_us });
    }
    (vec![history], questions)
}

fn bench(criterion: &mut Criterion) {
    let schema = Arc::new(SourceSchema::default_schema());
    let transform = transform(&schema);
    let batches = events(&schema);
    let labels = labels();
    let selection = Selection::all(std::slice::from_ref(&transform));
    let mut group = criterion.benchmark_group("join");
    group.sample_size(10).measurement_time(Duration::from_secs(8)).throughput(Throughput::Elements(LABELS as u64));
    for threads in [1, 2] {
        let (history, questions) = gathered(&transform, &batches, threads);
        let (plan, history) = (transform.plan(), Histories::new(history));
        group.bench_function(format!("kernel, {threads} threads"), |bencher| {
            bencher.iter_batched(
                || questions.clone(),
                |questions| {
                    std::thread::scope(|scope| {
                        for (slice, questions) in questions.into_iter().enumerate() {
                            let history = &history;
                            scope.spawn(move || answer(plan, &Arranged::new(history, slice), questions, &[]));
                        }
                    });
                },
                BatchSize::LargeInput,
            );
        });
        let options = JoinOptions { threads, ..JoinOptions::default() };
        group.bench_function(format!("whole, {threads} threads"), |bencher| {
            bencher.iter_batched(
                || {
                    let reader: Box<dyn EventReader> = Box::new(Batches(batches.clone().into_iter()));
                    BTreeMap::from([("default".to_owned(), reader)])
                },
                |mut readers| join(&mut readers, &selection, &labels, &options).expect("the join succeeds"),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
