//! `plumb materialize` with the real process: what is damaged in the online store is found, named and made right, with
//! and without a service that runs meanwhile.

use plumb_core::entity::EntityKey;
use plumb_core::plan::StateId;
use plumb_embedded::{DataDir, Embedded};
use plumb_pipeline::commit::{Manifest, latest};
use plumb_pipeline::port::{OnlineField, OnlineRead, OnlineStore, OnlineWrite, PublishOutcome};
use plumb_testing::process;
use plumb_testing::service::kafka::Kafka;
use plumb_testing::service::redis::{Redis, RedisCluster};
use plumb_testing::service::{eventually, skipped};
use plumb_testing::stream::{Online, Stream, generated, record};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Instant;

const PARTITIONS: u32 = 3;

/// A folder with all shipped views over some events, ingested.
fn ingested(folder: &Path) {
    ingested_into(folder, "");
}

/// The same with other settings too.
fn ingested_into(folder: &Path, more: &str) {
    let views = process::repository().join("target/plumb");
    let offline = format!("[offline]\nurl = \"file:data/offline\"\n{more}[run]\nserve = true\n");
    let settings = process::settings(folder, PARTITIONS, &offline);
    let text = std::fs::read_to_string(&settings).unwrap();
    let start = text.find("paths = ").unwrap();
    let end = start + text[start..].find('\n').unwrap();
    let text = format!("{}paths = [\"{}/*.wasm\"]{}", &text[..start], views.display(), &text[end..]);
    std::fs::write(settings, text).unwrap();
    let words =
        "generate --events 6000 --users 60 --items 40 --days 20 --seed 11 --start 2024-01-01T00:00:00Z --out e.jsonl";
    process::run_ok(folder, words.split(' '));
    process::run_ok(folder, ["produce", "e.jsonl"]);
    process::run_ok(folder, ["run", "--until-end"]);
}

/// The online store of a job that nobody runs now, and the last manifest of each partition.
struct Opened {
    online: Arc<dyn OnlineStore>,
    manifests: Vec<Manifest>,
    _embedded: Embedded,
    _owned: DataDir,
}

impl Opened {
    fn of(folder: &Path) -> Self {
        let store = plumb_store_object::open(&format!("file:{}/data/offline", folder.display())).unwrap();
        let manifest = |partition| latest(store.as_ref(), "default", partition).unwrap().unwrap();
        let owned = DataDir::own(&folder.join("data")).unwrap();
        let embedded = Embedded::open(&owned).unwrap();
        let manifests = (0..PARTITIONS).map(manifest).collect();
        Self { online: embedded.online().unwrap(), manifests, _embedded: embedded, _owned: owned }
    }

    fn state_id(&self, view: &str) -> StateId {
        self.manifests[0].views.iter().find(|known| known.name == view).unwrap().state_id().unwrap()
    }

    /// The header of an entity in each partition that has one.
    fn headers(&self, entity: &str, view: &str, key: &str) -> Vec<(u32, Vec<u8>)> {
        let read = OnlineRead {
            entity: entity.into(),
            state_id: self.state_id(view),
            key: EntityKey::from_parts(&[key]),
            tiles: Vec::new(),
        };
        let all: Vec<u32> = (0..PARTITIONS).collect();
        let answer = self.online.read("default", &all, &[read]).unwrap();
        answer.entities[0].partials.iter().map(|partial| (partial.partition, partial.header.clone())).collect()
    }

    /// Writes a header, or removes it, as if by hand: at the position that the store has.
    fn write(&self, entity: &str, view: &str, key: &str, partition: u32, value: Option<Vec<u8>>) {
        let manifest = &self.manifests[partition as usize];
        let position = self.online.claim("default", partition, manifest.generation).unwrap();
        let write = OnlineWrite {
            entity: entity.into(),
            state_id: self.state_id(view),
            key: EntityKey::from_parts(&[key]),
            field: OnlineField::Header,
            value,
        };
        let written =
            self.online.publish("default", partition, manifest.generation, position, position.unwrap(), &[write]);
        assert_eq!(written.unwrap(), PublishOutcome::Published);
    }
}

/// The values of a field of the events.
fn keys(folder: &Path, field: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(folder.join("e.jsonl")).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter_map(|event| event[field].as_str().map(str::to_owned)).collect()
}

/// Damages five users of one view (two are gone, three have what another one has) and one item in one partition.
fn damage(folder: &Path) -> BTreeSet<String> {
    let opened = Opened::of(folder);
    let of = |user: &str| opened.headers("user", "user_activity", user);
    let users: Vec<String> = keys(folder, "user_id").into_iter().filter(|user| !of(user).is_empty()).collect();
    assert!(users.len() > 20, "{users:?}");
    let other = of(&users[7])[0].1.clone();
    for (at, user) in users.iter().enumerate().take(5) {
        let (partition, _) = of(user)[0];
        opened.write("user", "user_activity", user, partition, if at < 2 { None } else { Some(other.clone()) });
    }
    let spread = |item: &String| opened.headers("item", "item_activity", item).len() > 1;
    let item = keys(folder, "item_id").into_iter().find(spread).expect("an item with events in several partitions");
    let (partition, _) = opened.headers("item", "item_activity", &item)[0];
    opened.write("item", "item_activity", &item, partition, None);
    users.into_iter().take(5).collect()
}

fn checked(folder: &Path) -> (Option<i32>, Value) {
    let words = ["--json", "check", "--entity", "user", "--sample", "60", "--exact"];
    let Output { status, stdout, .. } = process::run(folder, words);
    (status.code(), serde_json::from_slice(&stdout).unwrap())
}

#[track_caller]
fn materialized(folder: &Path, words: &[&str]) -> Value {
    let all: Vec<&str> = ["--json", "materialize"].iter().chain(words).copied().collect();
    let document: Value = serde_json::from_str(&process::run_ok(folder, all)).unwrap();
    assert_eq!(document["right"], true, "{document}");
    document
}

fn view<'a>(document: &'a Value, name: &str) -> &'a Value {
    document["views"].as_array().unwrap().iter().find(|view| view["view"] == name).unwrap()
}

#[track_caller]
fn nothing_changed(document: &Value) {
    for view in document["views"].as_array().unwrap() {
        assert_eq!((&view["changed"], &view["changed_reserved"]), (&json!(0), &json!(false)), "{view}");
    }
}

#[test]
fn damage_in_the_online_store_is_found_named_and_made_right() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    ingested(here);
    let document = materialized(here, &["--sample", "all"]);
    nothing_changed(&document);
    assert!(document["views"].as_array().unwrap().len() >= 5, "{document}");
    let checks = document["back_check"].as_array().unwrap();
    assert_eq!(checks.iter().map(|check| &check["entity"]).collect::<Vec<_>>(), ["item", "user"]);
    assert!(checks.iter().all(|check| check["non_zero_values"].as_u64().unwrap() > 20), "{checks:?}");

    let damaged = damage(here);
    let (code, seen) = checked(here);
    assert_eq!((code, &seen["passed"]), (Some(1), &json!(false)), "{seen}");
    // Of another span of time, nobody of them is looked at.
    let elsewhere = materialized(here, &["--to", "2024-01-01T00:00:00Z", "--sample", "1"]);
    nothing_changed(&elsewhere);
    assert_eq!(checked(here).0, Some(1));

    let document = materialized(here, &["--threads", "2", "--memory", "64MiB"]);
    let (users, items) = (view(&document, "user_activity"), view(&document, "item_activity"));
    assert_eq!(
        (&users["changed"], &users["changed_online"], &users["changed_in_memory"]),
        (&json!(5), &json!(5), &json!(0))
    );
    assert_eq!((&items["changed"], &items["changed_online"]), (&json!(1), &json!(1)));
    let first = &users["first"];
    assert_eq!(first["key"][0].as_str(), damaged.first().map(String::as_str), "{first}");
    assert!(first["feature"].as_str().unwrap().starts_with("user_activity:"), "{first}");
    assert_ne!(first["before"], first["after"]);
    for untouched in ["user_daily", "user_spend", "user_transactions"] {
        assert_eq!(view(&document, untouched)["changed"], 0);
    }
    let (code, seen) = checked(here);
    assert_eq!(code, Some(0), "{seen}");
    nothing_changed(&materialized(here, &[]));
    let text = process::run_ok(here, ["materialize", "--from", "2024-01-05T00:00:00Z"]);
    assert!(text.contains("0 held otherwise before") && text.contains("BackCheck [PASSED] entity=user"), "{text}");
}

#[test]
fn a_running_service_rebuilds_while_it_ingests() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    ingested(here);
    let damaged = damage(here);
    let mut service = process::Service::start(here, ["run"]);
    let address = service.ready();
    let user = damaged.first().unwrap();
    let ask = |path: String| {
        let (status, text) = process::request(&address, "GET", &path, b"").unwrap();
        assert!(status == 200 || status == 404, "{text}");
        serde_json::from_str::<Value>(&text).unwrap_or_default()
    };
    let features = "features=user_activity:*";
    let before = ask(format!("/features/user/{user}?{features}"));
    assert!(before["features"].is_null(), "{before}");
    // Events go on meanwhile; of the damaged users they would write again what is damaged.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let (stop, address) = (&stop, &address);
        let sender = scope.spawn(move || {
            let mut sent = 0u64;
            let end = Instant::now() + process::PATIENCE;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) && Instant::now() < end {
                for user in ["new1", "new2"] {
                    let event = json!({
                        "event_id": format!("late-{sent}"),
                        "event_time": "2024-01-20T10:00:00Z",
                        "user_id": user, "item_id": "i1", "event_type": "purchase", "price": 1.5, "quantity": 1,
                    });
                    let body = event.to_string();
                    let (status, text) = process::request(address, "POST", "/events", body.as_bytes()).unwrap();
                    assert_eq!(status, 200, "{text}");
                    sent += 1;
                }
            }
            sent
        });
        let document = materialized(here, &["--sample", "all"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let users = view(&document, "user_activity");
        assert_eq!(users["changed"], 5, "{users}");
        sender.join().unwrap()
    });
    assert!(sent > 0);
    let log = service.log();
    let metrics = log.split("metrics http://").nth(1).or(log.split("metrics ").nth(1)).unwrap();
    let metrics = metrics.split([')', ' ', '\n']).next().unwrap();
    let (_, scraped) = process::request(metrics, "GET", "/metrics", b"").unwrap();
    for sample in [
        "plumb_materialize_running{} 0.0",
        "plumb_materialize_runs_total{outcome=\"done\"} 1",
        "plumb_materialize_runs_total{outcome=\"failed\"} 0",
        "plumb_materialize_differences_total{view=\"user_activity\",where=\"online\"} 5",
        "plumb_materialize_differences_total{view=\"user_activity\",where=\"memory\"} 0",
        "plumb_materialize_differences_total{view=\"user_daily\",where=\"online\"} 0",
    ] {
        assert!(scraped.lines().any(|line| line == sample), "{sample} is not in\n{scraped}");
    }
    let (code, seen) = checked(here);
    assert_eq!((code, &seen["passed"]), (Some(0), &json!(true)), "{seen}");
    nothing_changed(&materialized(here, &[]));
    assert_eq!(service.terminate(), Some(0));
    nothing_changed(&materialized(here, &[]));
}

#[test]
fn a_rebuild_that_is_killed_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    ingested(here);
    damage(here);
    let mut service = process::Service::start(here, ["run"]);
    service.ready();
    let admin = service.address("admin").unwrap();
    let (status, begun) =
        process::request(&admin, "POST", "/materialize/state", br#"{"memory_bytes": 100000}"#).unwrap();
    assert_eq!(status, 202, "{begun}");
    service.kill();
    // Whatever of it was done: another one does the rest, and then nothing is left.
    let document = materialized(here, &[]);
    assert!(view(&document, "user_activity")["changed"].as_u64().unwrap() <= 5, "{document}");
    nothing_changed(&materialized(here, &[]));
    assert_eq!(checked(here).0, Some(0));
}

#[test]
fn what_cannot_be_asked_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let refused = |words: &[&str]| {
        let Output { status, stderr, .. } =
            process::run(here, ["materialize"].iter().chain(words).copied().collect::<Vec<_>>());
        (status.code(), String::from_utf8_lossy(&stderr).trim().to_owned())
    };
    for (words, why) in [
        (&["--from", "2024-01-02T00:00:00Z", "--to", "2024-01-02T00:00:00Z"][..], "the span must end after it begins"),
        (&["--from", "yesterday"], "--from yesterday: write an instant as in"),
        (&["--sample", "0"], "--sample 0: write a number of entities from 1 on, or `all`"),
        (&["--sample", "some"], "--sample some: write"),
        (&["--memory", "1MiB"], "--memory 1MiB: at least 64MiB are needed"),
        (&["--threads", "0"], "--threads 0: at least one is needed"),
    ] {
        let (code, said) = refused(words);
        assert_eq!(code, Some(2), "{words:?}: {said}");
        assert!(said.contains(why) && said.lines().count() == 1, "{words:?}: {said}");
    }
    std::fs::write(here.join("plumb.toml"), "[source]\nkind = \"log\"\nfolder = \"x\"\n").unwrap();
    let (code, said) = refused(&[]);
    assert_eq!(code, Some(2));
    assert!(said.contains("folder"), "{said}");
    std::fs::remove_file(here.join("plumb.toml")).unwrap();
    // A job without views has nothing to rebuild, which is right.
    let document = materialized(here, &[]);
    assert_eq!((&document["views"], &document["back_check"]), (&json!([]), &json!([])));
}

/// Deletes keys of entities in Redis by hand, or their header of a partition; how many of each entity were touched.
fn damage_redis(redis: &Redis) -> (usize, usize) {
    let (users, items) = damage_node(redis);
    assert!(users > 0 && items > 0, "{users} users, {items} items");
    (users, items)
}

/// The same on every primary of a Cluster.
fn damage_cluster(cluster: &RedisCluster) {
    let nodes = cluster.primaries();
    assert_eq!(nodes.len(), 3);
    let touched: Vec<(usize, usize)> = nodes.into_iter().map(damage_node).collect();
    assert!(touched.iter().all(|(users, items)| users + items > 0), "{touched:?}");
    assert!(touched.iter().any(|(users, _)| *users > 0) && touched.iter().any(|(_, items)| *items > 0), "{touched:?}");
}

fn damage_node(redis: &Redis) -> (usize, usize) {
    let mut connection = redis.connection();
    let (mut users, mut items) = (0, 0);
    for (at, key) in redis.keys("plumb:").into_iter().enumerate() {
        let has = |part: &[u8]| key.windows(part.len()).any(|window| window == part);
        // Reserved keys, and marks, which are no entities.
        if has(b"\xff\xff\xff\xff") || has(b"{_positions/") || key.ends_with(b":_at") || at % 5 != 0 {
            continue;
        }
        let fields: Vec<Vec<u8>> = redis::cmd("HKEYS").arg(&key).query(&mut connection).unwrap();
        let Some(header) = fields.iter().find(|field| field.starts_with(b"h")) else { continue };
        if at % 2 == 0 {
            redis::cmd("DEL").arg(&key).exec(&mut connection).unwrap();
        } else {
            redis::cmd("HDEL").arg(&key).arg(header).exec(&mut connection).unwrap();
        }
        *if has(b"{user/") { &mut users } else { &mut items } += 1;
    }
    (users, items)
}

#[test]
fn redis_cluster_damaged_by_hand_is_made_right_also_while_a_primary_fails_over() {
    if skipped("redis_cluster_damaged_by_hand_is_made_right_also_while_a_primary_fails_over") {
        return;
    }
    let (folder, cluster) = (tempfile::tempdir().unwrap(), RedisCluster::start());
    let here = folder.path();
    ingested_into(here, &format!("[online]\nurl = \"{}\"\n", cluster.url()));
    let undisturbed = answers_of_all(here);
    nothing_changed(&materialized(here, &[]));
    damage_cluster(&cluster);
    assert_eq!(checked(here).0, Some(1));
    assert_ne!(answers_of_all(here), undisturbed);
    let document = materialized(here, &["--sample", "all"]);
    let changed = |name: &str| view(&document, name)["changed_online"].as_u64().unwrap();
    assert!(changed("user_activity") + changed("user_daily") > 0 && changed("item_activity") > 0, "{document}");
    assert!(document["views"].as_array().unwrap().iter().all(|view| view["changed_in_memory"] == 0), "{document}");
    assert_eq!(checked(here).0, Some(0));
    assert!(answers_of_all(here) == undisturbed, "other answers than before the damage");
    nothing_changed(&materialized(here, &[]));

    // Asked of a running job, of which a primary dies: a store that cannot be reached is said, and asking again is enough.
    damage_cluster(&cluster);
    let mut service = process::Service::start(here, ["run"]);
    service.ready();
    let rebuilt = std::thread::scope(|scope| {
        let rebuilt = scope.spawn(|| process::run(here, ["--json", "materialize", "--sample", "all"]));
        cluster.primaries()[0].kill();
        rebuilt.join().unwrap()
    });
    assert!(matches!(rebuilt.status.code(), Some(0 | 1 | 3)), "{rebuilt:?}");
    eventually("a replica in its place", || (cluster.primaries().len() == 3).then_some(()));
    eventually("a rebuild that reaches every node", || {
        process::run(here, ["--json", "materialize", "--sample", "all"]).status.success().then_some(())
    });
    assert_eq!(service.terminate(), Some(0));
    assert_eq!(checked(here).0, Some(0));
    assert!(answers_of_all(here) == undisturbed, "other answers than before the primary died");
    nothing_changed(&materialized(here, &[]));
}

/// What a service answers of every user and item after the last event, without positions.
fn answers_of_all(folder: &Path) -> BTreeMap<String, Value> {
    let mut service = process::Service::start(folder, ["run"]);
    let address = service.ready();
    let mut answers = BTreeMap::new();
    for (entity, field) in [("user", "user_id"), ("item", "item_id")] {
        for key in keys(folder, field) {
            let path = format!("/features/{entity}/{key}?features={entity}_activity:*&as_of=2024-01-21T00:00:00Z");
            let (status, text) = process::request(&address, "GET", &path, b"").unwrap();
            assert!(status == 200 || status == 404, "{path}: {text}");
            let answer: Value = serde_json::from_str(&text).unwrap();
            answers.insert(path, answer["features"].clone());
        }
    }
    assert_eq!(service.terminate(), Some(0));
    answers
}

#[test]
fn redis_damaged_by_hand_is_found_and_made_right() {
    if skipped("redis_damaged_by_hand_is_found_and_made_right") {
        return;
    }
    let (folder, redis) = (tempfile::tempdir().unwrap(), Redis::start());
    let here = folder.path();
    ingested_into(here, &format!("[online]\nurl = \"{}\"\n", redis.url()));
    nothing_changed(&materialized(here, &[]));
    damage_redis(&redis);
    assert_eq!(checked(here).0, Some(1));
    let document = materialized(here, &["--sample", "all"]);
    let changed = |name: &str| view(&document, name)["changed_online"].as_u64().unwrap();
    assert!(changed("user_activity") + changed("user_daily") > 0 && changed("item_activity") > 0, "{document}");
    assert!(document["views"].as_array().unwrap().iter().all(|view| view["changed_in_memory"] == 0), "{document}");
    assert_eq!(checked(here).0, Some(0));
    nothing_changed(&materialized(here, &[]));
    // An emptied one is filled when the job goes on; there is nothing left to find then.
    redis.flush();
    nothing_changed(&materialized(here, &["--sample", "all"]));
    assert_eq!(checked(here).0, Some(0));
}

#[test]
fn kafka_redis_state_of_several_processes_is_rebuilt_by_each_of_them() {
    if skipped("kafka_redis_state_of_several_processes_is_rebuilt_by_each_of_them") {
        return;
    }
    let redis = Arc::new(Redis::start());
    let mut stream = Stream::new(Kafka::shared().clone(), Online::Redis(redis.clone()), 4);
    stream.run_lines = "publish_interval = \"30ms\"\ncommit_interval = \"1s\"\n".into();
    let lines = generated(4_000, 60, 40, 7);
    stream.send(lines.iter().map(|line| record(line)));
    let mut first = stream.start("first");
    let mut second = stream.start("second");
    stream.drain(&mut [&mut first, &mut second]);
    let materialized = |words: &[&str]| {
        let all: Vec<&str> = ["--json", "materialize"].iter().chain(words).copied().collect();
        let output = stream.run("commands", &all);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["right"], true, "{document}");
        document
    };
    let consistent = || {
        let words = ["--json", "check", "--entity", "user", "--sample", "60", "--exact"];
        stream.run("commands", &words).status.code()
    };
    let document = materialized(&[]);
    nothing_changed(&document);
    for part in 0..4 {
        assert!(document["position"].as_str().unwrap().contains(&format!("{part}=")), "{document}");
    }
    damage_redis(&redis);
    assert_eq!(consistent(), Some(1));
    let document = materialized(&["--sample", "all"]);
    for name in ["user_activity", "item_activity"] {
        assert!(view(&document, name)["changed_online"].as_u64().unwrap() > 0, "{document}");
    }
    assert_eq!(consistent(), Some(0));
    // One of them dies meanwhile: who has its partitions next does them.
    damage_redis(&redis);
    std::thread::scope(|scope| {
        let rebuilt = scope.spawn(|| materialized(&["--sample", "all"]));
        first.service.kill();
        rebuilt.join().unwrap();
    });
    assert_eq!(consistent(), Some(0));
    nothing_changed(&materialized(&[]));
    eventually("nothing left of what was asked", || {
        let left = plumb_store_object::open(&format!("file:{}", stream.root().join("offline").display())).unwrap();
        left.list("rebuild").unwrap().is_empty().then_some(())
    });
    stream.check(&mut [&mut second]);
}
