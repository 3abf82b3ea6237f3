//! How long until a partition's state is back in memory after a crash? The state of `user_activity` and
//! `item_activity` over generated events of as many users as asked, committed as a snapshot and deltas to a local
//! folder, is read back: files read and checked, ids and state restored.
//!
//! `cargo bench -p plumb-benches --bench recover [-- KEYS [REPEATS]]`. Every figure is the least of all repeats.

use plumb_benches::native::NativeGuest;
use plumb_core::event::SourceSchema;
use plumb_core::state::ViewState;
use plumb_pipeline::accept::{AcceptRules, Acceptor};
use plumb_pipeline::commit::load;
use plumb_pipeline::commit::manifest::{FileRef, Manifest};
use plumb_pipeline::commit::state_file::Encoder;
use plumb_pipeline::decode::time::TimeUnit;
use plumb_pipeline::port::{ObjectStore, Polled, Source};
use plumb_pipeline::runtime::Loader;
use plumb_pipeline::worker::view_ref;
use plumb_source_file::{FileSource, FileSourceOptions, GenerateOptions, generate};
use plumb_store_object::LocalStore;
use plumb_transform::{Engine, EngineOptions, Transform};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The allocator of the `plumb` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START_US: i64 = 1_735_689_600_000_000;
const NOW_US: i64 = START_US + 400 * 86_400_000_000;
/// Deltas behind the snapshot.
const DELTAS: u64 = 16;

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let keys = numbers.next().unwrap_or(1_000_000);
    let repeats = numbers.next().unwrap_or(3);
    let dir = tempfile::tempdir()?;
    let store = LocalStore::open(dir.path().join("offline"))?;
    let views = views()?;
    let (manifest, events) = commit(dir.path(), &store, &views, keys)?;
    let bytes: u64 = manifest.state.iter().chain(&manifest.ids).map(|file| file.bytes).sum();

    let mut least = [Duration::MAX; 3];
    let mut held = 0;
    for _ in 0..repeats {
        let begun = Instant::now();
        let mut loaded = load::load(&store, &manifest)?;
        let read = begun.elapsed();
        let ids = std::mem::take(&mut loaded.contents.ids);
        let states: Vec<ViewState> = std::thread::scope(|scope| {
            let restore = |view: &Transform| {
                let writes = loaded.contents.states.remove(&view.state_id()).unwrap_or_default();
                let plan = view.plan().clone();
                scope.spawn(move || ViewState::restore(plan, writes))
            };
            let threads: Vec<_> = views.iter().map(restore).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("nothing panics"))
                .collect::<std::result::Result<_, _>>()
        })?;
        held = states.iter().map(ViewState::keys).sum();
        let restored = begun.elapsed();
        let schema = Arc::new(SourceSchema::default_schema());
        let acceptor = Acceptor::restore(
            &schema,
            AcceptRules::default(),
            manifest.accounting,
            manifest.newest_event_time_us,
            None,
            ids,
        );
        std::hint::black_box(acceptor);
        let whole = begun.elapsed();
        for (least, found) in least.iter_mut().zip([read, restored - read, whole - restored]) {
            *least = (*least).min(found);
        }
    }
    let [read, restored, ids] = least.map(|found| found.as_secs_f64());
    println!("{held} keys and {events} ids in {} files of {:.0} MB:", manifest.state.len() + 1, bytes as f64 / 1e6);
    println!("  read and checked {read:6.2} s");
    println!("  state restored   {restored:6.2} s");
    println!("  ids restored     {ids:6.2} s");
    println!("  in all           {:6.2} s, {:.0} keys/s", read + restored + ids, held as f64 / (read + restored + ids));
    Ok(())
}

fn views() -> Result<[Transform; 2]> {
    let engine = Engine::new(EngineOptions::default())?;
    let schema = Arc::new(SourceSchema::default_schema());
    let bind = |name: &str| -> Result<Transform> {
        let mut component = Loader::load(&engine, &plumb_benches::component(name)?)?;
        component.guest = match name {
            "user_activity" => Arc::new(NativeGuest::<user_activity::UserActivity>::default()),
            _ => Arc::new(NativeGuest::<item_activity::ItemActivity>::default()),
        };
        Ok(Transform::new(component, &schema, AcceptRules::default().allowed_lateness_us)?)
    };
    Ok([bind("user_activity")?, bind("item_activity")?])
}

/// Applies events and writes what commits would have left: a snapshot when nine tenths are applied, then deltas.
fn commit(dir: &std::path::Path, store: &LocalStore, views: &[Transform], keys: u64) -> Result<(Manifest, u64)> {
    let path = dir.join("events.parquet");
    let events = keys * 3;
    let options = GenerateOptions { events, users: keys, items: keys / 10 + 1, days: 30, seed: 7, start_us: START_US };
    generate(&options, &path, &mut |_| {})?;
    let rules = AcceptRules::default();
    let options = FileSourceOptions { unit: TimeUnit::Ms, rules, now_us: NOW_US, follow: false };
    let schema = Arc::new(SourceSchema::default_schema());
    let mut reader = FileSource::new(&path, schema.clone(), options)?.open(0, 0, None)?;
    let mut acceptor = Acceptor::new(&schema, rules);
    let mut states: Vec<ViewState> = views.iter().map(|view| ViewState::new(view.plan().clone())).collect();
    let mut manifest = Manifest::start("default", 0);
    let mut due = events * 9 / 10;
    let put = |name: String, encoder: Encoder| -> Result<FileRef> {
        let bytes = encoder.finish();
        let file = FileRef::of(name, &bytes);
        store.put(&file.path, bytes)?;
        Ok(file)
    };
    let mut at = 0;
    loop {
        let polled = reader.poll(4096)?;
        let ended = matches!(polled, Polled::End);
        if let Polled::Batch(batch) = polled {
            at = batch.next_offset;
            let events = acceptor.accept(batch).events;
            for (view, state) in views.iter().zip(&mut states) {
                state.apply(&events, view.key_columns(), &view.extract(&events).contributions);
            }
        }
        if at >= due || ended {
            let mut encoder = Encoder::default();
            for (view, state) in views.iter().zip(&mut states) {
                let changes = state.drain_commit();
                let snapshot = manifest.state.is_empty();
                let writes = if snapshot { state.snapshot() } else { changes };
                encoder.state(view.state_id(), snapshot, &writes);
            }
            manifest.state.push(put(format!("state/default/0/1-{}-state", manifest.state.len()), encoder)?);
            due += events / 10 / DELTAS;
        }
        if ended {
            break;
        }
    }
    let mut encoder = Encoder::default();
    encoder.ids(&acceptor.drain_ids());
    manifest.ids.push(put("state/default/0/1-ids".to_owned(), encoder)?);
    manifest.views = views.iter().map(view_ref).collect();
    manifest.accounting = *acceptor.accounting();
    manifest.newest_event_time_us = acceptor.newest_us();
    Ok((manifest, at))
}
