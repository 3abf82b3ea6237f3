//! What the online store in Redis costs over the server itself: publishing, rebuilding and reading features, each as
//! a ratio to the plainest commands that move the same bytes through the `redis` client, on one real server.
//!
//! Writes are ratioed to one pipeline of HSETs, reads to one pipeline of HMGETs of the same fields, and to one MGET of
//! the same headers as strings. Rounds alternate, so that both see the machine alike; the medians are shown.

use plumb_core::entity::EntityKey;
use plumb_core::plan::StateId;
use plumb_online_redis::{RedisOnline, RedisSettings};
use plumb_pipeline::port::{OnlineField, OnlineRead, OnlineStore, OnlineWrite, PublishOutcome};
use plumb_testing::service::redis::Redis;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STATE: StateId = StateId(*b"state--1");

/// A header of the shipped views is 200 to 400 bytes.
const HEADER_BYTES: usize = 300;
const REBUILT: usize = 200_000;
const CHUNK: usize = 20_000;
const PUBLISHED: usize = 2_000;
const ROUNDS: usize = 15;
const READS: usize = 2_000;

/// Bytes that differ from each other.
fn value(seed: usize) -> Vec<u8> {
    let mut at = seed as u64 + 1;
    (0..HEADER_BYTES)
        .map(|_| {
            at = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at >> 29;
            (at >> 32) as u8
        })
        .collect()
}

fn key(entity: usize) -> EntityKey {
    EntityKey::from_parts(&[&format!("user-{entity:07}")])
}

fn headers(entities: std::ops::Range<usize>) -> Vec<OnlineWrite> {
    let entity: Arc<str> = "user".into();
    let write = |index| OnlineWrite {
        entity: entity.clone(),
        state_id: STATE,
        key: key(index),
        field: OnlineField::Header,
        value: Some(value(index)),
    };
    entities.map(write).collect()
}

/// The same writes by the plain client.
fn plain(connection: &mut redis::Connection, partition: u32, writes: &[OnlineWrite]) {
    let mut pipe = redis::pipe();
    for write in writes {
        let key = [b"plain:{user/7}:default:73746174652d2d31:".as_slice(), write.key.as_bytes()].concat();
        let field = match write.field {
            OnlineField::Header => format!("h{partition}"),
            OnlineField::Tile(start_us) => format!("t{partition}:{start_us}"),
        };
        pipe.cmd("HSET").arg(key).arg(field).arg(write.value.as_deref()).ignore();
    }
    pipe.query::<()>(connection).expect("the server takes it");
}

fn timed<T>(call: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = call();
    (start.elapsed(), result)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]
fn show(what: &str, ours: Duration, plain: Duration, per_call: usize, unit: &str) {
    let rate = |time: Duration| per_call as f64 / time.as_secs_f64();
    println!(
        "{what:<52} {:>10.0} {unit}/s  {:>9.1} µs   plain {:>10.0} {unit}/s   {:>5.2} x the time",
        rate(ours),
        ours.as_nanos() as f64 / 1e3,
        rate(plain),
        ours.as_secs_f64() / plain.as_secs_f64(),
    );
}

fn rebuild(store: &RedisOnline, connection: &mut redis::Connection) {
    let all = headers(0..REBUILT);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..3 {
        store.claim("rebuild", round, 1).expect("claimed");
        store.clear("rebuild", round, 1, None).expect("cleared");
        let (time, ()) = timed(|| {
            for chunk in all.chunks(CHUNK) {
                let outcome = store.rebuild("rebuild", round, 1, chunk).expect("written");
                assert_eq!(outcome, PublishOutcome::Published);
            }
            let outcome = store.publish("rebuild", round, 1, None, 1, &[]).expect("published");
            assert_eq!(outcome, PublishOutcome::Published);
        });
        ours.push(time);
        theirs.push(timed(|| all.chunks(CHUNK).for_each(|chunk| plain(connection, round, chunk))).0);
    }
    show("rebuild, 300 B per entity", median(&mut ours), median(&mut theirs), REBUILT, "entities");
}

fn publish(store: &RedisOnline, connection: &mut redis::Connection, fields: usize) {
    let mut writes = Vec::new();
    for write in headers(0..PUBLISHED) {
        let tiles = (1..fields as i64).map(|tile| OnlineField::Tile(tile * 3_600_000_000));
        writes.extend(tiles.map(|field| OnlineWrite { field, ..write.clone() }));
        writes.push(write);
    }
    let source = format!("publish{fields}");
    store.claim(&source, 0, 1).expect("claimed");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut position = None;
    for round in 0..ROUNDS as u64 {
        let (time, outcome) = timed(|| store.publish(&source, 0, 1, position, round, &writes).expect("published"));
        assert_eq!(outcome, PublishOutcome::Published);
        position = Some(round);
        ours.push(time);
        theirs.push(timed(|| plain(connection, 0, &writes)).0);
    }
    let what = format!("publish of {PUBLISHED} entities of {fields} fields");
    show(&what, median(&mut ours), median(&mut theirs), writes.len(), "fields");
}

/// A user and an item, each in a view of its own, from so many partitions; `vectors` of them at once.
fn read(store: &RedisOnline, connection: &mut redis::Connection, partitions: u32, vectors: usize) {
    let source = format!("read{partitions}of{vectors}");
    let views = [("user", StateId(*b"state--u")), ("item", StateId(*b"state--i"))];
    const ENTITIES: usize = 1_000;
    let mut strings = redis::pipe();
    for partition in 0..partitions {
        let mut writes = Vec::new();
        for (entity, state_id) in views {
            for write in headers(0..ENTITIES) {
                let name = [entity.as_bytes(), b"/", &partition.to_be_bytes(), write.key.as_bytes()].concat();
                strings.cmd("SET").arg(name).arg(write.value.as_deref()).ignore();
                writes.push(OnlineWrite { entity: entity.into(), state_id, ..write });
            }
        }
        store.claim(&source, partition, 1).expect("claimed");
        let outcome = store.publish(&source, partition, 1, None, 1, &writes).expect("published");
        assert_eq!(outcome, PublishOutcome::Published);
        plain(connection, partition, &writes);
    }
    strings.query::<()>(connection).expect("the server takes it");
    let numbers: Vec<u32> = (0..partitions).collect();
    // The tiles at the edges of an hour, a day and a week, and at T.
    let tiles: Vec<i64> = [0, 1, 24, 168].map(|hours| 1_769_904_000_000_000 - hours * 3_600_000_000).to_vec();
    let fields: Vec<String> = (0..partitions)
        .flat_map(|partition| {
            let tiles = tiles.iter().map(move |start_us| format!("t{partition}:{start_us}"));
            std::iter::once(format!("h{partition}")).chain(tiles)
        })
        .collect();
    let entities = |round: usize| (0..vectors).map(move |vector| (round * 37 + vector * 11) % ENTITIES);
    let (mut ours, mut hashes, mut mget) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..READS / vectors {
        let reads: Vec<OnlineRead> = entities(round)
            .flat_map(|entity| {
                views.map(|(name, state_id)| OnlineRead {
                    entity: name.into(),
                    state_id,
                    key: key(entity),
                    tiles: tiles.clone(),
                })
            })
            .collect();
        let (time, answer) = timed(|| store.read(&source, &numbers, &reads).expect("read"));
        assert!(answer.entities.iter().all(|entity| entity.partials.len() == partitions as usize));
        ours.push(time);
        let mut pipe = redis::pipe();
        let mut strings = redis::cmd("MGET");
        for entity in entities(round) {
            for (name, _) in views {
                let of = key(entity);
                pipe.cmd("HMGET").arg([b"plain:{user/7}:default:73746174652d2d31:".as_slice(), of.as_bytes()].concat());
                pipe.arg(&fields);
                for partition in &numbers {
                    strings.arg([name.as_bytes(), b"/", &partition.to_be_bytes(), of.as_bytes()].concat());
                }
            }
        }
        let (time, found) = timed(|| pipe.query::<Vec<Vec<Option<Vec<u8>>>>>(connection).expect("read"));
        assert_eq!(found.len(), reads.len());
        hashes.push(time);
        let (time, found) = timed(|| strings.query::<Vec<Vec<u8>>>(connection).expect("read"));
        assert_eq!(found.len(), reads.len() * partitions as usize);
        mget.push(time);
    }
    let what = format!("read of {vectors} vectors, {partitions} partitions");
    let ours = median(&mut ours);
    show(&format!("{what}, to HMGET"), ours, median(&mut hashes), vectors, "vectors");
    show(&format!("{what}, to MGET"), ours, median(&mut mget), vectors, "vectors");
}

fn main() {
    let redis = Redis::start();
    let settings = RedisSettings::parse(&redis.url()).expect("a URL");
    let store = RedisOnline::open(settings).expect("the server is good");
    let mut connection = redis.connection();
    rebuild(&store, &mut connection);
    publish(&store, &mut connection, 1);
    publish(&store, &mut connection, 3);
    for partitions in [4, 12] {
        read(&store, &mut connection, partitions, 1);
        read(&store, &mut connection, partitions, 100);
    }
}
