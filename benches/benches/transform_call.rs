//! What does it cost that a view is a component? The same `extract` and `finalize` as native code and as WebAssembly
//! with all limits on and a fresh instance per call, in batches of a row, 64 and 1,024 rows.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plumb_benches::native::{NativeGuest, definition};
use plumb_core::column::{Column, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_sdk::View;
use plumb_transform::{Engine, EngineOptions, Transform, check};
use std::hint::black_box;
use std::sync::Arc;
use user_activity::UserActivity;
use user_transactions::UserTransactions;

/// Purchases and views like those of the Complete Journey data.
fn events(schema: &Arc<SourceSchema>, rows: usize) -> EventBatch {
    let mut batch = EventBatch::new(schema.clone());
    for n in 0..rows {
        batch.offsets.push(n as u64);
        batch.record_times_us.push(0);
        batch.times_us.push(1_500_000_000_000_000 + n as i64 * 1_000_000);
        batch.columns[0].push_bytes(format!("cj-{n:07}").as_bytes());
        for (field, column) in schema.fields.iter().zip(&mut batch.columns[1..]) {
            match field.name.as_str() {
                "event_type" => column.push_bytes(if n % 3 == 0 { b"view" } else { b"purchase" }),
                "category" => column.push_bytes(b"FLUID MILK PRODUCTS"),
                "price" => column.push_f64(n as f64 / 100.0),
                "quantity" => column.push_i64(n as i64 % 3 + 1),
                "rating" => column.push_null(),
                _ => column.push_bytes(format!("{}", n * 7919 % 68_509).as_bytes()),
            }
        }
    }
    batch
}

/// Plausible aggregates: small counts, the sums and times of the generated sample.
fn aggregates(transform: &Transform, rows: usize) -> (Vec<i64>, Vec<Column>) {
    let (instants, mut columns) = check::aggregates(transform.def(), rows);
    for column in &mut columns {
        match &mut column.values {
            Values::I64(counts) => {
                counts.iter_mut().for_each(|count| *count = count.rem_euclid(100));
                column.validity = None;
            }
            Values::F64(sums) => sums.iter_mut().filter(|sum| !sum.is_finite()).for_each(|sum| *sum = 0.5),
            _ => {}
        }
    }
    (instants, columns)
}

fn transform_call(criterion: &mut Criterion) {
    compare::<UserActivity>(criterion, "user_activity");
    compare::<UserTransactions>(criterion, "user_transactions");
}

fn compare<V: for<'a> View<'a>>(criterion: &mut Criterion, name: &str) {
    let schema = Arc::new(SourceSchema::default_schema());
    let engine = Engine::new(EngineOptions::default()).expect("the engine starts");
    let bytes = plumb_benches::component(name).expect("the component is built");
    let component = engine.load(&bytes).expect("the shipped component loads");
    let wasm = Transform::new(component, &schema, 0).expect("it fits the default schema");
    let view = definition::<V>().expect("the definition is right");
    let guest = Arc::new(NativeGuest::<V>::default());
    let native = Transform::native(view, guest, &schema, 0).expect("it fits the default schema");

    let mut group = criterion.benchmark_group(format!("{name} extract"));
    for rows in [1, 64, 1024] {
        let batch = events(&schema, rows);
        assert_eq!(wasm.extract(&batch), native.extract(&batch), "both must compute the same bits");
        group.throughput(Throughput::Elements(rows as u64));
        for (name, transform) in [("native", &native), ("wasm", &wasm)] {
            group.bench_with_input(BenchmarkId::new(name, rows), &batch, |bencher, batch| {
                bencher.iter(|| black_box(transform.extract(black_box(batch))));
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group(format!("{name} finalize"));
    for rows in [1, 64, 1024] {
        let (instants, columns) = aggregates(&wasm, rows);
        assert_eq!(wasm.finalize(&instants, &columns), native.finalize(&instants, &columns));
        group.throughput(Throughput::Elements(rows as u64));
        for (name, transform) in [("native", &native), ("wasm", &wasm)] {
            group.bench_function(BenchmarkId::new(name, rows), |bencher| {
                bencher.iter(|| black_box(transform.finalize(black_box(&instants), black_box(&columns))));
            });
        }
    }
    group.finish();

    criterion.bench_function(&format!("{name} load from source"), |bencher| {
        bencher.iter(|| black_box(engine.load(black_box(&bytes))).expect("it loaded before"));
    });
}

criterion_group!(benches, transform_call);
criterion_main!(benches);
