//! What does an event cost on its way into the archive? One commit of one date (a live stream), one that spans
//! 365 dates in time order (a file read from its beginning), and the worst: 365 dates in no order. Encoding alone,
//! and with the files made durable on disk.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::time::DAY_US;
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::Result;
use plumb_pipeline::port::{Archive, ObjectStore};
use plumb_store_object::LocalStore;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A disk that costs nothing.
struct Nowhere;

impl ObjectStore for Nowhere {
    fn create(&self, _: &str, _: &[u8]) -> Result<bool> {
        Ok(true)
    }
    fn put(&self, _: &str, bytes: Vec<u8>) -> Result<()> {
        black_box(bytes);
        Ok(())
    }
    fn get(&self, _: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn list(&self, _: &str) -> Result<Vec<(String, u64)>> {
        Ok(Vec::new())
    }
    fn ages(&self, _: &str) -> Result<Vec<(String, Duration)>> {
        Ok(Vec::new())
    }
    fn rename(&self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
    fn delete(&self, _: &str) -> Result<()> {
        Ok(())
    }
    fn alone(&self, _: &str, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        work()
    }
    fn local_path(&self, _: &str) -> Option<PathBuf> {
        None
    }
}

/// Events of the default schema over `days` days: 20,000 users, 5,000 items, prices in cents.
fn events(rows: u64, days: i64, in_order: bool) -> EventBatch {
    let mut events = EventBatch::new(Arc::new(SourceSchema::default_schema()));
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    const TYPES: [&str; 5] = ["view", "view", "view", "cart", "purchase"];
    for offset in 0..rows {
        let since_us = match in_order {
            true => (days * DAY_US) as u64 / rows * offset + next(1_000_000),
            false => next((days * DAY_US) as u64),
        };
        let time_us = 19_700 * DAY_US + since_us as i64;
        events.offsets.push(offset);
        events.times_us.push(time_us);
        events.record_times_us.push(1_706_702_400_000_000 + offset as i64 / 500 * 1_000);
        let user = next(20_000);
        let kind = TYPES[next(5) as usize];
        let columns = &mut events.columns[..];
        columns[0].push_bytes(format!("evt-{:016x}", next(1 << 50)).as_bytes());
        columns[1].push_bytes(format!("user-{user}").as_bytes());
        columns[2].push_bytes(format!("item-{}", next(5_000)).as_bytes());
        columns[3].push_bytes(kind.as_bytes());
        columns[4].push_bytes(format!("category-{}", next(40)).as_bytes());
        if kind == "purchase" {
            columns[5].push_f64((199 + next(20_000)) as f64 / 100.0);
            columns[6].push_i64(1 + next(4) as i64);
        } else {
            columns[5].push_null();
            columns[6].push_null();
        }
        if next(20) == 0 {
            columns[7].push_f64((1 + next(5)) as f64);
        } else {
            columns[7].push_null();
        }
        columns[8].push_bytes(format!("session-{user}-{}", time_us / DAY_US).as_bytes());
    }
    events
}

fn stage(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let disk = ParquetArchive::new(Arc::new(LocalStore::open(folder.path()).expect("the folder can be opened")));
    let nowhere = ParquetArchive::new(Arc::new(Nowhere));
    let mut group = c.benchmark_group("archive_stage");
    group.sample_size(10);
    for (name, rows, days, in_order) in [
        ("1_date", 200_000, 1, true),
        ("365_dates", 1_460_000, 365, true),
        ("365_dates_shuffled", 1_460_000, 365, false),
    ] {
        let events = events(rows, days, in_order);
        let files = nowhere.stage(0, "size", std::slice::from_ref(&events)).expect("staging succeeds");
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        eprintln!("{name}: {} files, {:.1} bytes an event", files.len(), bytes as f64 / rows as f64);
        group.throughput(Throughput::Elements(rows));
        for (disk_name, archive) in [("encode", &nowhere), ("durable", &disk)] {
            let mut commit = 0;
            group.bench_function(format!("{name}/{disk_name}"), |b| {
                b.iter_batched(
                    || {
                        commit += 1;
                        format!("0-1-{commit}")
                    },
                    |commit| archive.stage(0, &commit, std::slice::from_ref(&events)).expect("staging succeeds"),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, stage);
criterion_main!(benches);
