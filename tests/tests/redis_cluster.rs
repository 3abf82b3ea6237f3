//! The online store in a Redis Cluster when something happens to it: a publish that stops half way, nodes that are
//! emptied, die, fall back or give their slots away, owners that are replaced. What readers see is always what was
//! published up to the position they are told, per entity.

use plumb_core::ErrorKind;
use plumb_core::entity::EntityKey;
use plumb_core::event::SourceSchema;
use plumb_core::plan::DEFAULT_ALLOWED_LATENESS_US;
use plumb_core::state::{Field, ViewState};
use plumb_online_redis::{RedisOnline, RedisSettings};
use plumb_pipeline::clock::Clock;
use plumb_pipeline::decode::{JsonDecoder, Record, TimeUnit};
use plumb_pipeline::port::{OnlineField, OnlineRead, OnlineStore, OnlineWrite, PublishOutcome, SourceBatch};
use plumb_pipeline::query::{
    Answer, Current, Evaluator, History, HistoryRows, Query, Request, ServingSet, ServingView, Value, Views,
};
use plumb_testing::checker::{Truth, mistake, positions_of};
use plumb_testing::online_suite::{S1, read, write};
use plumb_testing::service::kafka::Stored;
use plumb_testing::service::redis::{Redis, RedisCluster};
use plumb_testing::service::{eventually, skipped, within};
use plumb_testing::{case, process};
use plumb_transform::{Engine, EngineOptions, Transform};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The entities that every test writes.
const KEYS: u32 = 64;

/// An entity is written by every third publish.
const EVERY: u64 = 3;

fn settings(cluster: &RedisCluster, namespace: &str) -> RedisSettings {
    RedisSettings {
        namespace: namespace.into(),
        buckets: 32,
        read_timeout: Duration::from_millis(500),
        write_timeout: Duration::from_secs(3),
        ..RedisSettings::parse(&format!("redis+cluster://{}", cluster.addresses())).unwrap()
    }
}

/// A store for reads while a node is stopped, which is to be found out before the Cluster gives it up.
fn hasty(cluster: &RedisCluster, namespace: &str) -> Arc<RedisOnline> {
    let read_timeout = Duration::from_millis(40);
    RedisOnline::open(RedisSettings { read_timeout, ..settings(cluster, namespace) }).unwrap()
}

fn key_of(key: u32) -> Vec<u8> {
    format!("k{key}").into_bytes()
}

/// The publish by which an entity was written last, at a position.
fn written_at(key: u32, position: u64) -> u64 {
    (2..=position).rev().find(|at| at % EVERY == u64::from(key) % EVERY).unwrap_or(1)
}

/// What a publish to a position writes, of all entities: each says which publish wrote it.
fn writes_of(position: u64, all: bool) -> Vec<OnlineWrite> {
    let ours = |key: &u32| all || written_at(*key, position) == position;
    let value = |key| if all { written_at(key, position) } else { position };
    (0..KEYS)
        .filter(ours)
        .map(|key| write(S1, &key_of(key), OnlineField::Header, Some(&value(key).to_string())))
        .collect()
}

/// An owner of partition 0 of `s`.
struct Owner {
    store: Arc<RedisOnline>,
    generation: u64,
    position: AtomicU64,
}

impl Owner {
    fn first(store: Arc<RedisOnline>) -> Self {
        let owner = Self { store, generation: 1, position: AtomicU64::new(1) };
        assert_eq!(owner.store.claim("s", 0, 1).unwrap(), None);
        owner.rebuild();
        owner
    }

    fn position(&self) -> u64 {
        self.position.load(Ordering::SeqCst)
    }

    /// Writes everything anew, as a worker does that has lost the store.
    fn rebuild(&self) {
        let (store, at) = (&self.store, self.position());
        let writes = writes_of(at, true);
        within(Duration::from_secs(60), "a rebuild", || {
            store.clear("s", 0, self.generation, None).ok()?;
            let half = writes.len() / 2;
            for part in [&writes[..half], &writes[half..]] {
                let outcome = store.rebuild("s", 0, self.generation, part).ok()?;
                (outcome == PublishOutcome::Published).then_some(())?;
            }
            let outcome = store.publish("s", 0, self.generation, None, at, &[]).ok()?;
            (outcome == PublishOutcome::Published).then_some(())
        });
    }

    /// The next publish. After an error the same one is to be tried again.
    fn publish(&self) -> plumb_pipeline::Result<PublishOutcome> {
        let at = self.position();
        let outcome = self.store.publish("s", 0, self.generation, Some(at), at + 1, &writes_of(at + 1, false))?;
        // An answer was lost, or this one has come.
        let arrived = outcome == PublishOutcome::Mismatch { stored: Some(at + 1) };
        if arrived || outcome == PublishOutcome::Published {
            self.position.store(at + 1, Ordering::SeqCst);
            return Ok(PublishOutcome::Published);
        }
        Ok(outcome)
    }

    /// The next publish, however often it takes; what is lost is rebuilt.
    fn publish_for_sure(&self) {
        within(Duration::from_secs(60), "a publish", || match self.publish() {
            Ok(PublishOutcome::Published) => Some(()),
            Ok(PublishOutcome::Mismatch { .. }) => {
                self.rebuild();
                Some(())
            }
            Ok(PublishOutcome::Fenced { current }) => panic!("fenced by {current}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                None
            }
        });
    }
}

/// Ends the other threads of a test when it ends, also by a failure.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What readers saw.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    answered: u64,
    ahead: u64,
    lost: u64,
    rebuilding: u64,
    away: u64,
}

/// Reads entities one by one and all together, and checks each against its position.
fn look(store: &dyn OnlineStore, seen: &mut Seen) {
    let reads: Vec<OnlineRead> = (0..KEYS).map(|key| read(S1, &key_of(key), &[])).collect();
    let together = std::iter::once((0..KEYS).collect::<Vec<u32>>());
    for keys in together.chain((0..KEYS).map(|key| vec![key])) {
        let asked: Vec<OnlineRead> = keys.iter().map(|&key| reads[key as usize].clone()).collect();
        let answer = match store.read("s", &[0], &asked) {
            Ok(answer) => answer,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                seen.away += 1;
                continue;
            }
        };
        let Some(position) = answer.positions[&0] else {
            seen.rebuilding += 1;
            continue;
        };
        for (key, entity) in keys.into_iter().zip(answer.entities) {
            if entity.lost {
                seen.lost += 1;
                continue;
            }
            let at = entity.ahead.get(&0).copied().unwrap_or(position);
            assert!(at >= position);
            seen.ahead += u64::from(at > position);
            let value = entity.partials.first().map(|partial| String::from_utf8(partial.header.clone()).unwrap());
            assert_eq!(value, Some(written_at(key, at).to_string()), "entity {key} at {at}, the whole at {position}");
            seen.answered += 1;
        }
    }
}

/// Everything is answered, as of the owner's position.
fn all_is_well(store: &dyn OnlineStore, owner: &Owner) {
    let mut seen = Seen::default();
    look(store, &mut seen);
    assert_eq!(seen, Seen { answered: 2 * u64::from(KEYS), ..Seen::default() });
    assert_eq!(store.read("s", &[0], &[]).unwrap().positions[&0], Some(owner.position()));
}

/// The primary that has the positions of a namespace, and one that has not.
fn primaries<'a>(cluster: &'a RedisCluster, namespace: &str) -> (&'a Redis, &'a Redis) {
    let positions = format!("plumb:{namespace}:{{_positions");
    let (has, others): (Vec<&Redis>, Vec<&Redis>) =
        cluster.primaries().into_iter().partition(|node| !node.keys(&positions).is_empty());
    (has[0], others[0])
}

#[test]
fn redis_cluster_publish_that_stops_half_way_shows_each_entity_at_its_own_position() {
    if skipped("redis_cluster_publish_that_stops_half_way_shows_each_entity_at_its_own_position") {
        return;
    }
    let cluster = RedisCluster::start();
    let store = RedisOnline::open(settings(&cluster, "half")).unwrap();
    let owner = Owner::first(store.clone());
    owner.publish_for_sure();
    all_is_well(store.as_ref(), &owner);
    let (_, other) = primaries(&cluster, "half");
    let mut seen = Seen::default();
    let hasty = hasty(&cluster, "half");
    std::thread::scope(|scope| {
        other.pause();
        let publishing = scope.spawn(|| owner.publish());
        eventually("an entity ahead of the whole", || {
            look(hasty.as_ref(), &mut seen);
            (seen.ahead > 0).then_some(())
        });
        other.resume();
        assert_eq!(publishing.join().unwrap().unwrap(), PublishOutcome::Published);
    });
    assert!(seen.away > 0, "no read met the stopped node");
    all_is_well(store.as_ref(), &owner);
}

#[test]
fn redis_cluster_owner_that_dies_half_way_is_followed_by_one_that_goes_on_from_the_furthest_part() {
    if skipped("redis_cluster_owner_that_dies_half_way_is_followed_by_one_that_goes_on_from_the_furthest_part") {
        return;
    }
    let cluster = RedisCluster::start();
    let short = RedisSettings { write_timeout: Duration::from_millis(500), ..settings(&cluster, "heir") };
    let dying = Owner::first(RedisOnline::open(short).unwrap());
    let (_, other) = primaries(&cluster, "heir");
    other.pause();
    let error = dying.publish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    other.resume();
    // The node has what its kernel took for it; here the whole is behind some tags for sure.
    let store = RedisOnline::open(settings(&cluster, "heir")).unwrap();
    let mut seen = Seen::default();
    look(store.as_ref(), &mut seen);
    assert!(seen.ahead > 0);
    assert_eq!(store.claim("s", 0, 2).unwrap(), Some(2), "the furthest part");
    assert_eq!(store.read("s", &[0], &[]).unwrap().positions[&0], Some(1), "what all parts have");
    // The old one is fenced everywhere, also where it had written before.
    let fenced = eventually("an answer to the old owner", || dying.publish().ok());
    assert_eq!(fenced, PublishOutcome::Fenced { current: 2 });
    let fenced = eventually("another", || dying.store.rebuild("s", 0, 1, &writes_of(9, true)).ok());
    assert_eq!(fenced, PublishOutcome::Fenced { current: 2 });
    assert!(dying.store.clear("s", 0, 1, None).is_err());
    // It has read again up to what was shown, and publishes all that has changed since the last commit.
    let heir = Owner { store: store.clone(), generation: 2, position: AtomicU64::new(2) };
    assert_eq!(store.publish("s", 0, 2, Some(2), 2, &writes_of(2, true)).unwrap(), PublishOutcome::Published);
    all_is_well(store.as_ref(), &heir);
    heir.publish_for_sure();
    all_is_well(store.as_ref(), &heir);
}

#[test]
fn redis_cluster_node_that_was_emptied_loses_its_entities_and_no_others() {
    if skipped("redis_cluster_node_that_was_emptied_loses_its_entities_and_no_others") {
        return;
    }
    let cluster = RedisCluster::start();
    let store = RedisOnline::open(settings(&cluster, "empty")).unwrap();
    let owner = Owner::first(store.clone());
    let (positions, other) = primaries(&cluster, "empty");
    other.flush();
    let mut seen = Seen::default();
    look(store.as_ref(), &mut seen);
    assert!(seen.lost > 0 && seen.answered > 0 && seen.rebuilding == 0, "{seen:?}");
    // The heartbeat looks at every part.
    let at = owner.position();
    let beat = store.publish("s", 0, 1, Some(at), at, &[]).unwrap();
    assert_eq!(beat, PublishOutcome::Mismatch { stored: None });
    // So does a claim.
    assert_eq!(store.claim("s", 0, 1).unwrap(), None);
    owner.rebuild();
    all_is_well(store.as_ref(), &owner);
    // A publish that has no write for a lost part notices within a second all the same.
    other.flush();
    let noticed = |owner: &Owner| match owner.publish().unwrap() {
        PublishOutcome::Published => None,
        outcome => Some(outcome),
    };
    let outcome = within(Duration::from_secs(2), "a publish that notices", || noticed(&owner));
    assert_eq!(outcome, PublishOutcome::Mismatch { stored: None });
    owner.rebuild();
    all_is_well(store.as_ref(), &owner);
    // The positions themselves.
    positions.flush();
    look(store.as_ref(), &mut seen);
    assert!(seen.rebuilding > 0);
    assert_eq!(owner.publish().unwrap(), PublishOutcome::Mismatch { stored: None });
    owner.rebuild();
    all_is_well(store.as_ref(), &owner);
}

#[test]
fn redis_cluster_part_that_fell_back_is_noticed() {
    if skipped("redis_cluster_part_that_fell_back_is_noticed") {
        return;
    }
    let cluster = RedisCluster::shared();
    let store = RedisOnline::open(settings(cluster, "back")).unwrap();
    let owner = Owner::first(store.clone());
    (0..4).for_each(|_| owner.publish_for_sure());
    // As after a failover to a replica that had missed the last publish of one tag.
    let marks = cluster.keys("plumb:back:{user/").into_iter().find(|key| key.ends_with(b"}:_at")).unwrap();
    let node = cluster.primaries().into_iter().find(|node| node.keys("plumb:back:").contains(&marks)).unwrap();
    let mark = |value: &str| {
        let mut connection = node.connection();
        let () = redis::cmd("HSET").arg(&marks).arg("s/0").arg(value).query(&mut connection).unwrap();
    };
    mark("1 1");
    let at = owner.position();
    let beat = store.publish("s", 0, 1, Some(at), at, &[]).unwrap();
    assert_eq!(beat, PublishOutcome::Mismatch { stored: None });
    owner.rebuild();
    all_is_well(store.as_ref(), &owner);
    // A mark of a generation that is not known here: our claim was lost with it.
    mark("0 5");
    assert_eq!(store.publish("s", 0, 1, Some(at), at, &[]).unwrap(), PublishOutcome::Mismatch { stored: None });
    mark("7 5");
    assert_eq!(store.publish("s", 0, 1, Some(at), at, &[]).unwrap(), PublishOutcome::Fenced { current: 7 });
}

#[test]
fn redis_cluster_whose_primaries_die_goes_on_with_their_replicas() {
    if skipped("redis_cluster_whose_primaries_die_goes_on_with_their_replicas") {
        return;
    }
    let cluster = RedisCluster::start();
    let store = RedisOnline::open(settings(&cluster, "dying")).unwrap();
    let owner = Owner::first(store.clone());
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut seen = Seen::default();
            while !stop.load(Ordering::SeqCst) {
                look(store.as_ref(), &mut seen);
            }
            seen
        });
        let stopping = Stop(&stop);
        for _ in 0..20 {
            owner.publish_for_sure();
        }
        let (positions, other) = primaries(&cluster, "dying");
        for node in [other, positions] {
            node.kill();
            let before = owner.position();
            within(Duration::from_secs(60), "ten publishes after a node has died", || {
                owner.publish_for_sure();
                (owner.position() > before + 10).then_some(())
            });
            node.restart();
            eventually("the node's return as a replica", || {
                node.info("replication").contains("master_link_status:up").then_some(())
            });
        }
        drop(stopping);
        reading.join().unwrap()
    });
    assert!(seen.answered > 0 && seen.away > 0, "{seen:?}");
    all_is_well(store.as_ref(), &owner);
}

#[test]
fn redis_cluster_primary_that_hangs_is_replaced() {
    if skipped("redis_cluster_primary_that_hangs_is_replaced") {
        return;
    }
    let cluster = RedisCluster::start();
    let short = RedisSettings { write_timeout: Duration::from_millis(500), ..settings(&cluster, "hung") };
    let store = RedisOnline::open(short).unwrap();
    let owner = Owner::first(store.clone());
    let (positions, other) = primaries(&cluster, "hung");
    for node in [other, positions] {
        node.pause();
        assert!(store.read("s", &[0], &[]).is_ok() || node.address() == positions.address());
        let before = owner.position();
        within(Duration::from_secs(60), "publishes without the hung node", || {
            owner.publish_for_sure();
            (owner.position() > before + 3).then_some(())
        });
        // Reads follow, without another publish.
        all_is_well(store.as_ref(), &owner);
        node.resume();
        eventually("the node's return as a replica", || {
            node.info("replication").contains("master_link_status:up").then_some(())
        });
        owner.publish_for_sure();
        all_is_well(store.as_ref(), &owner);
    }
}

#[test]
fn redis_cluster_slots_move_under_readers_and_writers() {
    if skipped("redis_cluster_slots_move_under_readers_and_writers") {
        return;
    }
    let cluster = RedisCluster::start();
    let store = RedisOnline::open(settings(&cluster, "moving")).unwrap();
    let owner = Owner::first(store.clone());
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut seen = Seen::default();
            while !stop.load(Ordering::SeqCst) {
                look(store.as_ref(), &mut seen);
            }
            seen
        });
        let writing = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                owner.publish_for_sure();
            }
        });
        let stopping = Stop(&stop);
        let id = |node: &Redis| match node.command(&["CLUSTER", "MYID"]) {
            redis::Value::BulkString(id) => String::from_utf8(id).unwrap(),
            other => panic!("{other:?}"),
        };
        let nodes = cluster.primaries();
        // Half of a node's slots to each of the others.
        let manage = |arguments: &[&str]| {
            let mut command = std::process::Command::new("redis-cli");
            let output = command.arg("--cluster").args(arguments).output().unwrap();
            (output.status.success(), String::from_utf8(output.stdout).unwrap())
        };
        for to in &nodes[1..] {
            eventually("nodes that agree", || manage(&["check", &nodes[0].address()]).0.then_some(()));
            let (from, to) = (id(nodes[0]), id(to));
            let slots = ["--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", "2700"];
            let (done, said) = manage(&[&["reshard", &nodes[0].address(), "--cluster-yes"], &slots[..]].concat());
            assert!(done, "{said}");
        }
        drop(stopping);
        writing.join().unwrap();
        reading.join().unwrap()
    });
    assert!(seen.answered > 0, "{seen:?}");
    assert_eq!((seen.lost, seen.rebuilding), (0, 0), "nothing was lost: {seen:?}");
    all_is_well(store.as_ref(), &owner);
}

/// The views in front of the store, and the events behind it.
struct World {
    transforms: Vec<Transform>,
    states: Vec<(u32, usize, ViewState)>,
    decoder: JsonDecoder,
    records: Vec<Stored>,
    next: [u64; 2],
}

/// 2026-02-01T00:00:00Z, ms.
const START_MS: i64 = 1_769_904_000_000;

struct At(i64);

impl Clock for At {
    fn now_us(&self) -> i64 {
        self.0
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

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
        _: &[(EntityKey, i64)],
        _: Option<&BTreeMap<u32, u64>>,
    ) -> plumb_pipeline::Result<HistoryRows> {
        panic!("state reaches back to every instant asked here")
    }
}

impl World {
    fn new() -> Self {
        let engine = Engine::new(EngineOptions::default()).unwrap();
        let schema = Arc::new(SourceSchema::default_schema());
        let transforms: Vec<Transform> = ["user_activity", "item_activity"]
            .map(|view| {
                let loaded = engine.load(&std::fs::read(process::component(view)).unwrap()).unwrap();
                Transform::new(loaded, &schema, DEFAULT_ALLOWED_LATENESS_US).unwrap()
            })
            .into();
        let states = (0..2)
            .flat_map(|partition| (0..2).map(move |view| (partition, view)))
            .map(|(partition, view)| (partition, view, ViewState::new(transforms[view].plan().clone())))
            .collect();
        let decoder = JsonDecoder::new(schema, TimeUnit::Ms);
        Self { transforms, states, decoder, records: Vec::new(), next: [0, 0] }
    }

    /// The next events of a partition, as writes and the position after them.
    fn events(&mut self, partition: u32, count: u64) -> (u64, Vec<OnlineWrite>) {
        let schema = self.decoder.schema().clone();
        let mut batch = SourceBatch {
            events: plumb_core::event::EventBatch::new(schema),
            rejected: Vec::new(),
            next_offset: self.next[partition as usize],
        };
        for _ in 0..count {
            let offset = batch.next_offset;
            let mixed = (offset * 2 + u64::from(partition)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            let kind = ["view", "cart", "purchase"][(mixed / 7 % 3) as usize];
            let bytes = format!(
                r#"{{"event_id":"{partition}-{offset}","event_time":{},"user_id":"u{}","item_id":"i{}","event_type":"{kind}","category":"c{}","price":{}.1,"quantity":{}}}"#,
                START_MS + (offset as i64) * 1000 + i64::from(partition),
                mixed % 40,
                mixed / 40 % 30,
                mixed % 3,
                mixed % 50,
                mixed % 4,
            );
            let record_time_us = START_MS * 1000 + 86_400_000_000;
            self.decoder.decode_into(&mut batch, Record { offset, record_time_us, bytes: bytes.as_bytes() });
            self.records.push(Stored {
                partition: partition as i32,
                offset: offset as i64,
                key: None,
                value: Some(bytes.into_bytes()),
                timestamp: Some(record_time_us / 1000),
                headers: Vec::new(),
            });
        }
        assert!(batch.rejected.is_empty());
        self.next[partition as usize] = batch.next_offset;
        let mut writes = Vec::new();
        for (_, view, state) in self.states.iter_mut().filter(|(of, ..)| *of == partition) {
            let transform = &self.transforms[*view];
            state.apply(&batch.events, transform.key_columns(), &transform.extract(&batch.events).contributions);
            let entity: Arc<str> = transform.def().entity.name.as_str().into();
            writes.extend(state.drain_publish().into_iter().map(|write| OnlineWrite {
                entity: entity.clone(),
                state_id: transform.state_id(),
                key: write.key,
                field: match write.field {
                    Field::Header => OnlineField::Header,
                    Field::Tile(start_us) => OnlineField::Tile(start_us),
                },
                value: write.value,
            }));
        }
        (batch.next_offset, writes)
    }

    fn truth(&self) -> Truth {
        let mut records = self.records.clone();
        records.sort_by_key(|record| (record.partition, record.offset));
        Truth::of(&records, [0, 1])
    }
}

fn as_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::I64(value) => (*value).into(),
        Value::F64(value) => (*value).into(),
        Value::Bool(value) => (*value).into(),
        Value::Utf8(value) => value.as_str().into(),
        Value::Timestamp(value) => case::format_instant(*value).into(),
        Value::List(values) => values.iter().map(as_json).collect::<Vec<_>>().into(),
        other => panic!("{other:?}"),
    }
}

/// What is wrong with an answer, derived again from its token; also the number of values that are there.
fn derived_again(truth: &Truth, user: &str, item: &str, t: i64, answer: &Answer) -> (Option<String>, usize) {
    let features: serde_json::Map<String, serde_json::Value> =
        answer.features.iter().map(|(name, value)| (name.to_string(), as_json(value))).collect();
    let features = serde_json::Value::from(features);
    let token = answer.position.to_string();
    let mut found = 0;
    for view in &answer.views {
        let (entity, key) = if view.view.as_ref() == "user_activity" { ("user", user) } else { ("item", item) };
        if view.status.name() == "rebuilding" {
            continue;
        }
        let expected = truth.features(entity, key, t, Some(&positions_of(&token, &view.view)));
        if let Some(why) = mistake(expected.as_deref(), &view.view, view.status.name(), &features) {
            return (Some(format!("{entity} {key} at {token}: {why}")), found);
        }
        found += 1;
    }
    (None, found)
}

#[test]
fn redis_cluster_answers_made_during_a_publish_equal_the_recomputation_at_their_token() {
    if skipped("redis_cluster_answers_made_during_a_publish_equal_the_recomputation_at_their_token") {
        return;
    }
    let cluster = RedisCluster::start();
    let store = RedisOnline::open(settings(&cluster, "answers")).unwrap();
    let mut world = World::new();
    let mut positions = [0, 0];
    for partition in [0, 1] {
        store.claim("default", partition, 1).unwrap();
        let (position, writes) = world.events(partition, 300);
        let published = store.publish("default", partition, 1, None, position, &writes).unwrap();
        assert_eq!(published, PublishOutcome::Published);
        positions[partition as usize] = position;
    }
    let t = (START_MS + 3_600_000) * 1000;
    let views =
        world.transforms.iter().map(|transform| ServingView::new(transform.clone(), Arc::new(|| true))).collect();
    let partitions = BTreeMap::from([("default".to_owned(), vec![0, 1])]);
    let views = Arc::new(Fixed(Arc::new(ServingSet::new(views, partitions).unwrap())));
    let evaluator =
        |store: Arc<RedisOnline>| Evaluator::new(views.clone(), store, Arc::new(NoHistory), Arc::new(At(t)));
    let (evaluator, hasty) = (evaluator(store.clone()), evaluator(hasty(&cluster, "answers")));
    // (user, item, answer) of everything that was answered.
    let mut answers: Vec<(String, String, Answer)> = Vec::new();
    let ask = |evaluator: &Evaluator, together: bool, answers: &mut Vec<(String, String, Answer)>| {
        for number in 0..40 {
            let (user, item) = (format!("u{number}"), format!("i{}", number % 30));
            let key = |field: &str, key: &String| (field.to_owned(), Some(key.clone()));
            let (of_user, of_item) = (key("user_id", &user), key("item_id", &item));
            let asked = if together { vec![vec![of_user, of_item]] } else { vec![vec![of_user], vec![of_item]] };
            for fields in asked {
                let query = Query { requests: vec![Request { fields, ..Request::default() }], defaults: Vec::new() };
                // A part may be out of reach.
                if let Ok(mut found) = evaluator.query(&query) {
                    answers.push((user.clone(), item.clone(), found.remove(0)));
                }
            }
        }
    };
    let (_, other) = primaries(&cluster, "answers");
    for round in 0..4u64 {
        let partition = (round % 2) as u32;
        let expected = positions[partition as usize];
        let (position, writes) = world.events(partition, 60);
        std::thread::scope(|scope| {
            other.pause();
            let store = &store;
            let publishing =
                scope.spawn(move || store.publish("default", partition, 1, Some(expected), position, &writes));
            let before = answers.len();
            eventually("answers with a position of their own", || {
                ask(&hasty, false, &mut answers);
                answers[before..].iter().any(|(.., answer)| !answer.position.views.is_empty()).then_some(())
            });
            other.resume();
            assert_eq!(publishing.join().unwrap().unwrap(), PublishOutcome::Published);
        });
        positions[partition as usize] = position;
    }
    // And while publishes follow each other undisturbed.
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, world) = (&store, &mut world);
        let publishing = scope.spawn(move || {
            let mut positions = positions;
            for round in 0..60u64 {
                let partition = (round % 2) as u32;
                let (position, writes) = world.events(partition, 40);
                let expected = Some(positions[partition as usize]);
                let published = store.publish("default", partition, 1, expected, position, &writes).unwrap();
                assert_eq!(published, PublishOutcome::Published);
                positions[partition as usize] = position;
            }
            stop.store(true, Ordering::SeqCst);
        });
        while !stop.load(Ordering::SeqCst) {
            ask(&evaluator, true, &mut answers);
        }
        publishing.join().unwrap();
    });
    ask(&evaluator, true, &mut answers);
    let truth = world.truth();
    let own = answers.iter().filter(|(.., answer)| !answer.position.views.is_empty()).count();
    let mut found = 0;
    for (user, item, answer) in &answers {
        let (wrong, there) = derived_again(&truth, user, item, t, answer);
        assert_eq!(wrong, None);
        found += there;
    }
    assert!(found > answers.len() / 2, "{found} views in {} answers", answers.len());
    assert!(own > 4, "only {own} of {} answers have a position of their own", answers.len());
    let last = &answers[answers.len() - 40..];
    assert!(last.iter().all(|(.., answer)| answer.position.views.is_empty() && answer.views.len() == 2));
}
