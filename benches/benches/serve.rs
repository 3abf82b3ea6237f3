//! What a feature vector of both shipped views costs in embedded mode: the evaluator alone, and over HTTP.
//!
//! Events of two days and four partitions are in the embedded online store; keys are asked in a scattered order at
//! the present instant. Between the calls of the last row everything is published again, which is what makes the
//! kept distribution of ranks useless.

use plumb_benches::component;
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::plan::DEFAULT_ALLOWED_LATENESS_US;
use plumb_core::state::{Field, ViewState};
use plumb_core::time::DAY_US;
use plumb_embedded::{DataDir, Embedded};
use plumb_pipeline::clock::{Clock, SystemClock};
use plumb_pipeline::metrics::Figures;
use plumb_pipeline::port::{OnlineField, OnlineStore, OnlineWrite, PublishOutcome};
use plumb_pipeline::query::{
    Answer, Current, Evaluator, History, HistoryRows, Position, Query, QueryError, Request, ServingSet, ServingView,
    Views,
};
use plumb_pipeline::runtime::{Materialize, MaterializeStatus};
use plumb_pipeline::{Error, Result};
use plumb_serve_http::{Backend, BackendError, Dependency, RegistryEntry, Server, ServerOptions};
use plumb_transform::{Engine, EngineOptions, Transform};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: u64 = 400_000;
const USERS: u64 = 2_500;
const ITEMS: u64 = 10_000;
const PARTITIONS: u32 = 4;
const CALLS: u64 = 5_000;

struct Fixed(Arc<ServingSet>);

impl Views for Fixed {
    fn current(&self) -> Current {
        Current { set: self.0.clone(), guard: None }
    }
}

struct NoHistory;

impl History for NoHistory {
    fn at(
        &self,
        _: &Transform,
        _: &[(plumb_core::entity::EntityKey, i64)],
        _: Option<&BTreeMap<u32, u64>>,
    ) -> Result<HistoryRows> {
        Err(Error::internal("state reaches back to every instant asked here"))
    }
}

struct Serving(Arc<Evaluator>);

impl Backend for Serving {
    fn query(&self, query: &Query) -> Result<Vec<Answer>, QueryError> {
        self.0.query(query)
    }
    fn history(&self, request: &Request, position: Option<&Position>) -> Result<Answer, QueryError> {
        self.0.history(request, position)
    }
    fn registry(&self) -> Result<Vec<RegistryEntry>, BackendError> {
        Ok(Vec::new())
    }
    fn deploy(&self, _: Vec<u8>, _: bool) -> Result<RegistryEntry, BackendError> {
        Err(BackendError::Invalid("not here".into()))
    }
    fn rollback(&self, _: &str) -> Result<RegistryEntry, BackendError> {
        Err(BackendError::Invalid("not here".into()))
    }
    fn retire(&self, _: &str) -> Result<(), BackendError> {
        Err(BackendError::Invalid("not here".into()))
    }
    fn append(&self, _: &str, _: &[&[u8]]) -> Result<Position, BackendError> {
        Err(BackendError::Invalid("not here".into()))
    }
    fn commit(&self) -> Result<Position, BackendError> {
        Err(BackendError::Invalid("not here".into()))
    }
    fn materialize(&self, _: Materialize) -> Result<MaterializeStatus, BackendError> {
        Err(BackendError::Invalid("not here".into()))
    }
    fn materializing(&self) -> Result<Option<MaterializeStatus>, BackendError> {
        Ok(None)
    }
    fn stop_materializing(&self) -> Result<(), BackendError> {
        Ok(())
    }
    fn readiness(&self) -> Vec<Dependency> {
        Vec::new()
    }
    fn figures(&self) -> Figures {
        Figures::default()
    }
}

/// The same scattered numbers everywhere.
fn scatter(index: u64) -> u64 {
    let mixed = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16
}

fn events(partition: u32, now_us: i64) -> EventBatch {
    let mut batch = EventBatch::new(Arc::new(SourceSchema::default_schema()));
    let kinds: [&[u8]; 4] = [b"view", b"view", b"cart", b"purchase"];
    for index in 0..EVENTS {
        let user = scatter(index) % USERS;
        if user % u64::from(PARTITIONS) != u64::from(partition) {
            continue;
        }
        batch.offsets.push(batch.times_us.len() as u64);
        batch.record_times_us.push(now_us);
        batch.times_us.push(now_us - 2 * DAY_US + (2 * DAY_US / EVENTS as i64) * index as i64);
        let texts = [format!("e{index}"), format!("u{user}"), format!("i{}", scatter(index + EVENTS) % ITEMS)];
        texts.iter().zip(&mut batch.columns).for_each(|(text, column)| column.push_bytes(text.as_bytes()));
        batch.columns[3].push_bytes(kinds[(scatter(index + 7) % 4) as usize]);
        batch.columns[4].push_bytes(b"dairy");
        batch.columns[5].push_f64(1.5);
        batch.columns[6].push_i64(2);
        batch.columns[7].push_null();
        batch.columns[8].push_null();
    }
    batch
}

fn writes(transform: &Transform, state: &mut ViewState) -> Vec<OnlineWrite> {
    let entity: Arc<str> = transform.def().entity.name.as_str().into();
    let write = |write: plumb_core::state::FieldWrite| OnlineWrite {
        entity: entity.clone(),
        state_id: transform.state_id(),
        key: write.key,
        field: match write.field {
            Field::Header => OnlineField::Header,
            Field::Tile(start_us) => OnlineField::Tile(start_us),
        },
        value: write.value,
    };
    state.drain_publish().into_iter().map(write).collect()
}

fn request(call: u64) -> Request {
    let user = format!("u{}", scatter(call) % USERS);
    let item = format!("i{}", scatter(call + CALLS) % ITEMS);
    Request { fields: vec![("user_id".into(), Some(user)), ("item_id".into(), Some(item))], ..Request::default() }
}

#[expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]
fn measure(what: &str, calls: u64, mut call: impl FnMut(u64)) {
    (0..calls / 10).for_each(&mut call);
    let mut times: Vec<Duration> = (0..calls)
        .map(|index| {
            let start = Instant::now();
            call(index);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_nanos() as f64 / 1e3;
    println!("{what:<44} p50 {:>8.1} µs   p99 {:>8.1} µs", at(0.5), at(0.99));
}

/// One request on an open connection; returns the body's length.
fn exchange(stream: &mut TcpStream, body: &str) -> std::io::Result<usize> {
    let head = format!("POST /features/vector HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes())?;
    let mut answer = vec![0; 16 << 10];
    let mut filled = 0;
    loop {
        filled += stream.read(&mut answer[filled..])?;
        let text = String::from_utf8_lossy(&answer[..filled]);
        if let Some((head, rest)) = text.split_once("\r\n\r\n")
            && head.starts_with("HTTP/1.1 200")
            && rest.ends_with("}}}")
        {
            return Ok(rest.len());
        }
        if filled == 0 || filled == answer.len() {
            return Err(std::io::Error::other(text.into_owned()));
        }
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let clock = Arc::new(SystemClock::default());
    let now_us = clock.now_us();
    let folder = tempfile::tempdir()?;
    let data_dir = DataDir::own(folder.path())?;
    let store = Embedded::open(&data_dir)?.online()?;
    let engine = Engine::new(EngineOptions::default())?;
    let schema = Arc::new(SourceSchema::default_schema());
    let mut transforms = Vec::new();
    for view in ["user_activity", "item_activity"] {
        let loaded = engine.load(&component(view)?)?;
        transforms.push(Transform::new(loaded, &schema, DEFAULT_ALLOWED_LATENESS_US)?);
    }
    let mut states: Vec<(u32, Transform, ViewState)> = Vec::new();
    for partition in 0..PARTITIONS {
        let batch = events(partition, now_us);
        let mut all = Vec::new();
        for transform in &transforms {
            let mut state = ViewState::new(transform.plan().clone());
            state.apply(&batch, transform.key_columns(), &transform.extract(&batch).contributions);
            all.extend(writes(transform, &mut state));
            states.push((partition, transform.clone(), state));
        }
        store.claim("default", partition, 1)?;
        let published = store.publish("default", partition, 1, None, 1, &all)?;
        assert_eq!(published, PublishOutcome::Published);
    }
    let views = transforms.iter().map(|transform| ServingView::new(transform.clone(), Arc::new(|| true))).collect();
    let partitions = BTreeMap::from([("default".to_owned(), (0..PARTITIONS).collect())]);
    let views = Arc::new(Fixed(Arc::new(ServingSet::new(views, partitions)?)));
    let evaluator = Arc::new(Evaluator::new(views, store.clone(), Arc::new(NoHistory), clock));

    measure("vector of both views, evaluator", CALLS, |call| {
        let query = Query { requests: vec![request(call)], defaults: Vec::new() };
        assert_eq!(evaluator.query(&query).map(|answers| answers.len()).ok(), Some(1));
    });
    measure("batch of 100 vectors, evaluator", CALLS / 50, |call| {
        let requests = (0..100).map(|index| request(call * 100 + index)).collect();
        let query = Query { requests, defaults: Vec::new() };
        assert_eq!(evaluator.query(&query).map(|answers| answers.len()).ok(), Some(100));
    });
    let any = "127.0.0.1:0".to_owned();
    let options = ServerOptions {
        listen: any.clone(),
        admin_listen: any.clone(),
        metrics_listen: any,
        ..ServerOptions::default()
    };
    let server = Server::start(options, Arc::new(Serving(evaluator.clone())))?;
    let mut stream = TcpStream::connect(server.address())?;
    stream.set_nodelay(true)?;
    measure("vector of both views, over HTTP", CALLS, |call| {
        let (user, item) = (scatter(call) % USERS, scatter(call + CALLS) % ITEMS);
        let body = format!("{{\"user_id\":\"u{user}\",\"item_id\":\"i{item}\"}}");
        assert!(exchange(&mut stream, &body).is_ok());
    });
    drop(stream);
    server.shutdown();
    let mut position = 1;
    measure("vector after each publish, evaluator", CALLS / 10, |call| {
        let published = store.publish("default", 0, 1, Some(position), position + 1, &[]);
        assert_eq!(published.ok(), Some(PublishOutcome::Published));
        position += 1;
        let query = Query { requests: vec![request(call)], defaults: Vec::new() };
        assert_eq!(evaluator.query(&query).map(|answers| answers.len()).ok(), Some(1));
    });
    Ok(())
}
