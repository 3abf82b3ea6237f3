//! What does a JSON event cost until it is accepted, against serde_json reading the same text into a
//! struct of borrowed strings (which copies nothing into columns and checks nothing)?

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::accept::{AcceptRules, Acceptor};
use plumb_pipeline::decode::json::{JsonDecoder, Record, encode};
use plumb_pipeline::decode::time::TimeUnit;
use plumb_pipeline::port::SourceBatch;
use std::hint::black_box;
use std::sync::Arc;

const EVENTS: usize = 1024;
const STAMP_US: i64 = 1_700_000_000_000_000;

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

/// Purchases as the Complete Journey data has them, about 200 bytes each; `from` makes ids differ.
fn events(from: usize) -> Vec<String> {
    (from..from + EVENTS)
        .map(|n| {
            format!(
                r#"{{"event_id":"cj-{n:07}","event_time":"2017-{:02}-{:02}T11:{:02}:26.000Z","user_id":"{}","item_id":"{}","event_type":"purchase","category":"FLUID MILK PRODUCTS","price":{}.{:02},"quantity":{},"session_id":"{}"}}"#,
                n % 12 + 1,
                n % 28 + 1,
                n % 60,
                n * 7919 % 2469,
                1_000_000 + n * 104_729 % 68_509,
                n % 9,
                n * 31 % 100,
                n % 3 + 1,
                31_198_570_044 + n,
            )
        })
        .collect()
}

fn decode_all(decoder: &mut JsonDecoder, texts: &[String], batch: &mut SourceBatch) {
    for text in texts {
        let record = Record { offset: batch.next_offset, record_time_us: STAMP_US, bytes: text.as_bytes() };
        decoder.decode_into(batch, record);
    }
}

fn decode(criterion: &mut Criterion) {
    let texts = events(0);
    let bytes: usize = texts.iter().map(String::len).sum();
    println!("{} bytes an event", bytes / EVENTS);
    let schema = Arc::new(SourceSchema::default_schema());
    let empty = || SourceBatch { events: EventBatch::new(schema.clone()), rejected: Vec::new(), next_offset: 0 };

    let mut group = criterion.benchmark_group("json");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("serde_json borrowed struct", |bencher| {
        bencher.iter(|| {
            for text in &texts {
                black_box(serde_json::from_slice::<Borrowed<'_>>(text.as_bytes()).expect("a valid event"));
            }
        });
    });
    group.bench_function("columns", |bencher| {
        let mut decoder = JsonDecoder::new(schema.clone(), TimeUnit::Ms);
        let mut batch = empty();
        bencher.iter(|| {
            batch.events.truncate(0);
            decode_all(&mut decoder, &texts, &mut batch);
            assert_eq!(batch.events.len(), EVENTS);
        });
    });
    let mut decoded = empty();
    decode_all(&mut JsonDecoder::new(schema.clone(), TimeUnit::Ms), &texts, &mut decoded);
    group.bench_function("encode", |bencher| {
        let mut out = Vec::new();
        bencher.iter(|| {
            for row in 0..EVENTS {
                out.clear();
                encode(&decoded.events, row, &mut out);
            }
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("accept");
    group.throughput(Throughput::Elements(EVENTS as u64));
    // Half a million ids are remembered, so that the set does not sit in the cache; then every event is new. A record a
    // millisecond: with a horizon as many ids are forgotten.
    let horizon_us = 512 * EVENTS as i64 * 1000;
    let horizon = AcceptRules { dedupe_horizon_us: Some(horizon_us), ..AcceptRules::default() };
    let stamped = |start: usize| {
        let mut batch = empty();
        decode_all(&mut JsonDecoder::new(schema.clone(), TimeUnit::Ms), &events(start), &mut batch);
        batch.events.record_times_us.fill(STAMP_US + start as i64 * 1000);
        batch
    };
    for (name, rules) in [("new ids", AcceptRules::default()), ("new ids of a horizon", horizon)] {
        let mut filled = Acceptor::new(&schema, rules);
        for start in (0..512 * EVENTS).step_by(EVENTS) {
            filled.accept(stamped(start));
        }
        let mut next = 512 * EVENTS;
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    next += EVENTS;
                    stamped(next - EVENTS)
                },
                |batch| {
                    let accepted = filled.accept(batch);
                    filled.drain_ids();
                    accepted
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots().warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2)).sample_size(30);
    targets = decode
}
criterion_main!(benches);
