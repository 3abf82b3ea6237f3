//! Every online store keeps the same promises: one suite for the embedded one, Redis, and a Redis Cluster. Then what
//! happens to Redis alone: it is emptied, restarted, cut off, full, stopped, replaced by a replica.

use plumb_core::ErrorKind;
use plumb_embedded::{DataDir, Embedded};
use plumb_online_redis::{RedisOnline, RedisSettings};
use plumb_pipeline::Error;
use plumb_pipeline::port::{OnlineField, OnlineStore, OnlineWrite, PublishOutcome};
use plumb_testing::online_suite::{S1, conforms, equals_a_model, read, write};
use plumb_testing::service::proxy::{Fault, Proxy};
use plumb_testing::service::redis::{Redis, RedisCluster};
use plumb_testing::service::{eventually, free_port, skipped, tls};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A name that no other test of this process uses.
fn fresh(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn settings(url: &str) -> RedisSettings {
    RedisSettings { namespace: fresh("ns"), ..RedisSettings::parse(url).unwrap() }
}

fn open(url: &str) -> Arc<RedisOnline> {
    RedisOnline::open(settings(url)).unwrap()
}

fn open_cluster(cluster: &RedisCluster) -> Arc<RedisOnline> {
    // Few buckets: the suite opens many partitions.
    let url = format!("redis+cluster://{}", cluster.addresses());
    RedisOnline::open(RedisSettings { buckets: 16, ..settings(&url) }).unwrap()
}

fn header(value: &str) -> OnlineWrite {
    write(S1, b"u", OnlineField::Header, Some(value))
}

/// The header of `u`, and the position.
fn shown(store: &dyn OnlineStore) -> (Option<String>, Option<u64>) {
    let answer = store.read("s", &[0], &[read(S1, b"u", &[])]).unwrap();
    let partial = answer.entities[0].partials.first();
    (partial.map(|partial| String::from_utf8(partial.header.clone()).unwrap()), answer.positions[&0])
}

#[test]
fn the_embedded_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let owned = DataDir::own(folder.path()).unwrap();
    let store = Embedded::open(&owned).unwrap().online().unwrap();
    conforms(store.as_ref(), "s");
    equals_a_model(store.as_ref(), 100, || fresh("case"));
}

#[test]
fn redis_conforms() {
    if skipped("redis_conforms") {
        return;
    }
    let store = open(&Redis::shared().url());
    conforms(store.as_ref(), "s");
    equals_a_model(store.as_ref(), 150, || fresh("case"));
}

#[test]
fn redis_cluster_conforms() {
    if skipped("redis_cluster_conforms") {
        return;
    }
    let store = open_cluster(RedisCluster::shared());
    conforms(store.as_ref(), "s");
    equals_a_model(store.as_ref(), 60, || fresh("case"));
}

#[test]
fn redis_keys_are_laid_out_as_documented() {
    if skipped("redis_keys_are_laid_out_as_documented") {
        return;
    }
    let redis = Redis::shared();
    let namespace = fresh("layout");
    let store = RedisOnline::open(RedisSettings { namespace: namespace.clone(), ..settings(&redis.url()) }).unwrap();
    store.claim("default", 3, 7).unwrap();
    let tile = write(S1, b"u1", OnlineField::Tile(-60), Some("t"));
    let writes = [write(S1, b"u1", OnlineField::Header, Some("h")), tile];
    store.publish("default", 3, 7, None, 12, &writes).unwrap();
    let mut connection = redis.connection();
    let mut get = |key: String, field: &str| {
        redis::cmd("HGET").arg(&key).arg(field).query::<Option<String>>(&mut connection).unwrap()
    };
    let start = format!("plumb:{namespace}:");
    let entity = format!("{start}{{user/241}}:default:73746174652d2d31:u1");
    assert_eq!(get(entity.clone(), "h3").as_deref(), Some("h"));
    assert_eq!(get(entity.clone(), "t3:-60").as_deref(), Some("t"));
    assert_eq!(get(format!("{start}{{_positions/0}}:default"), "3").as_deref(), Some("7 12"));
    let keys: Vec<String> = redis.keys(&start).into_iter().map(|key| String::from_utf8(key).unwrap()).collect();
    assert_eq!(keys, [format!("{start}{{_positions/0}}:_layout"), format!("{start}{{_positions/0}}:default"), entity]);
    // The number of buckets is the namespace's for ever.
    let other = RedisSettings { namespace, buckets: 255, ..settings(&redis.url()) };
    let error = RedisOnline::open(other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("buckets is 255, but this namespace was written with 256"), "{error}");
}

#[test]
fn redis_that_was_emptied_is_noticed_by_the_heartbeat() {
    if skipped("redis_that_was_emptied_is_noticed_by_the_heartbeat") {
        return;
    }
    let redis = Redis::start();
    let store = open(&redis.url());
    store.claim("s", 0, 1).unwrap();
    store.publish("s", 0, 1, None, 5, &[header("h")]).unwrap();
    assert_eq!(shown(store.as_ref()), (Some("h".into()), Some(5)));
    redis.flush();
    assert_eq!(shown(store.as_ref()), (None, None));
    let beat = store.publish("s", 0, 1, Some(5), 5, &[]).unwrap();
    assert_eq!(beat, PublishOutcome::Mismatch { stored: None });
    // Nothing of a rebuild lands before the partition was taken again.
    assert_eq!(store.rebuild("s", 0, 1, &[header("r")]).unwrap(), PublishOutcome::Mismatch { stored: None });
    store.clear("s", 0, 1, None).unwrap();
    assert_eq!(store.rebuild("s", 0, 1, &[header("r")]).unwrap(), PublishOutcome::Published);
    assert_eq!(store.publish("s", 0, 1, None, 5, &[]).unwrap(), PublishOutcome::Published);
    assert_eq!(shown(store.as_ref()), (Some("r".into()), Some(5)));
    // Emptied in the middle of a rebuild: what was written of it is not taken for all.
    store.clear("s", 0, 1, None).unwrap();
    store.rebuild("s", 0, 1, &[header("r")]).unwrap();
    redis.flush();
    assert_eq!(store.publish("s", 0, 1, None, 6, &[]).unwrap(), PublishOutcome::Mismatch { stored: None });
    // Scripts may be forgotten at any time.
    redis.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(store.claim("s", 0, 2).unwrap(), None);
}

#[test]
fn redis_restarted_empty_is_found_again_without_a_new_store() {
    if skipped("redis_restarted_empty_is_found_again_without_a_new_store") {
        return;
    }
    let redis = Redis::start();
    let store = open(&redis.url());
    store.claim("s", 0, 1).unwrap();
    store.publish("s", 0, 1, None, 5, &[header("h")]).unwrap();
    redis.kill();
    let began = Instant::now();
    let error = store.read("s", &[0], &[read(S1, b"u", &[])]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(&redis.address()), "{error}");
    let error = store.publish("s", 0, 1, Some(5), 6, &[header("i")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(began.elapsed() < Duration::from_secs(1), "a refused connection needs no waiting");
    redis.restart();
    let outcome = eventually("an answer after the restart", || store.publish("s", 0, 1, Some(5), 6, &[]).ok());
    assert_eq!(outcome, PublishOutcome::Mismatch { stored: None });
    assert_eq!(shown(store.as_ref()), (None, None));
}

#[test]
fn redis_read_right_after_a_restart_uses_a_new_connection() {
    if skipped("redis_read_right_after_a_restart_uses_a_new_connection") {
        return;
    }
    let redis = Redis::start_with(&[("appendonly", "yes"), ("appendfsync", "always")]);
    let store = open(&redis.url());
    store.claim("s", 0, 1).unwrap();
    store.publish("s", 0, 1, None, 5, &[header("h")]).unwrap();
    assert_eq!(shown(store.as_ref()), (Some("h".into()), Some(5)));
    redis.kill();
    redis.restart();
    // No call has failed before: the connections of old are found out by themselves.
    assert_eq!(shown(store.as_ref()), (Some("h".into()), Some(5)));
    assert_eq!(store.publish("s", 0, 1, Some(5), 6, &[]).unwrap(), PublishOutcome::Published);
}

#[test]
fn redis_publish_whose_answer_was_lost_is_told_by_its_position() {
    if skipped("redis_publish_whose_answer_was_lost_is_told_by_its_position") {
        return;
    }
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let store = open(&format!("redis://{}", proxy.address()));
    store.claim("s", 0, 1).unwrap();
    store.publish("s", 0, 1, None, 5, &[header("h")]).unwrap();
    // The request arrives, the answer does not.
    proxy.set(Fault::CutToClient(0));
    let error = store.publish("s", 0, 1, Some(5), 6, &[header("i")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(proxy.counts().hits > 0);
    proxy.set(Fault::None);
    let again = eventually("an answer", || store.publish("s", 0, 1, Some(5), 7, &[header("j")]).ok());
    assert_eq!(again, PublishOutcome::Mismatch { stored: Some(6) });
    assert_eq!(store.publish("s", 0, 1, Some(6), 7, &[header("j")]).unwrap(), PublishOutcome::Published);
    assert_eq!(shown(store.as_ref()), (Some("j".into()), Some(7)));
    // A request that is cut arrives not at all.
    let many: Vec<OnlineWrite> =
        (0..5000u32).map(|key| write(S1, &key.to_be_bytes(), OnlineField::Header, Some("m"))).collect();
    let hits = proxy.counts().hits;
    proxy.set(Fault::CutToServer(100_000));
    assert!(store.publish("s", 0, 1, Some(7), 8, &many).is_err());
    assert!(proxy.counts().hits > hits);
    proxy.set(Fault::None);
    let answer = eventually("an answer", || store.read("s", &[0], &[read(S1, &[0; 4], &[])]).ok());
    assert_eq!((answer.positions[&0], answer.entities[0].partials.len()), (Some(7), 0));
    assert_eq!(store.publish("s", 0, 1, Some(7), 8, &many).unwrap(), PublishOutcome::Published);
}

#[test]
fn redis_that_hangs_or_crawls_fails_calls_by_their_deadline() {
    if skipped("redis_that_hangs_or_crawls_fails_calls_by_their_deadline") {
        return;
    }
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let url = format!("redis://{}", proxy.address());
    let short = RedisSettings {
        connections: 2,
        read_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_millis(600),
        ..settings(&url)
    };
    let store = RedisOnline::open(short).unwrap();
    store.claim("s", 0, 1).unwrap();
    let big = "v".repeat(200_000);
    store.publish("s", 0, 1, None, 5, &[header(&big)]).unwrap();
    let fails_in = |what: &str, limit_ms: u64, call: &dyn Fn() -> Option<Error>| {
        let began = Instant::now();
        let error = call().unwrap_or_else(|| panic!("{what}: it was answered"));
        let took = began.elapsed();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
        assert!(took < Duration::from_millis(limit_ms), "{what} took {took:?}");
    };
    let reading = || store.read("s", &[0], &[read(S1, b"u", &[])]).err();
    let publishing = || store.publish("s", 0, 1, Some(5), 5, &[]).err();
    redis.pause();
    fails_in("a read of a stopped server", 450, &reading);
    fails_in("a publish to a stopped server", 900, &publishing);
    // More callers than connections: those that wait for one have the same deadline.
    std::thread::scope(|scope| {
        (0..6).for_each(|_| drop(scope.spawn(|| fails_in("one of many reads", 600, &reading))));
    });
    redis.resume();
    eventually("an answer after the pause", || reading().is_none().then_some(()));
    // An answer that comes in drops, each of them in time.
    proxy.set(Fault::Throttle(20_000));
    fails_in("a read through a slow line", 450, &reading);
    proxy.set(Fault::None);
    eventually("an answer through a good line", || reading().is_none().then_some(()));
    assert_eq!(shown(store.as_ref()).1, Some(5));
}

#[test]
fn redis_that_cannot_keep_features_is_refused_at_the_start() {
    if skipped("redis_that_cannot_keep_features_is_refused_at_the_start") {
        return;
    }
    let refused = |url: &str, wanted: &str| {
        let error = RedisOnline::open(settings(url)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(wanted) && !error.to_string().contains("hunter2"), "{error}");
    };
    let evicting = Redis::start_with(&[("maxmemory", "100mb"), ("maxmemory-policy", "allkeys-lru")]);
    refused(&evicting.url(), "maxmemory-policy is allkeys-lru");
    let primary = Redis::start();
    primary.command(&["CONFIG", "SET", "requirepass", "hunter1"]);
    refused(&format!("redis://:hunter2@{}", primary.address()), "WRONGPASS");
    refused(&primary.url(), "NOAUTH");
    open(&format!("redis://:hunter1@{}", primary.address()));
    open(&format!("redis://default:hunter1@{}", primary.address()));
    let replica = Redis::replica_of(Redis::shared());
    refused(&replica.url(), "it is a replica");
    refused(&format!("redis+cluster://{}", Redis::shared().address()), "it is no node of a Cluster");
    refused(&format!("{}/99", Redis::shared().url()), "database 99");
    let namespace = RedisSettings { namespace: "a{b}".into(), ..settings(&Redis::shared().url()) };
    assert!(RedisOnline::open(namespace).unwrap_err().to_string().contains("namespace `a{b}`"));
    // A server that is not there may come back.
    let gone = Redis::start();
    gone.kill();
    let error = RedisOnline::open(settings(&gone.url())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&gone.address()), "{error}");
}

#[test]
fn redis_over_tls_is_who_it_says_it_is() {
    if skipped("redis_over_tls_is_who_it_says_it_is") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for name in ["ca", "other"] {
        tls::authority(here, name);
    }
    tls::server(here);
    let port = free_port();
    let _redis = Redis::start_with_tls(here, port);
    let tls = |host: &str, ca: &str| RedisSettings {
        tls_ca: Some(here.join(ca)),
        connect_timeout: Duration::from_secs(5),
        ..settings(&format!("rediss://{host}:{port}"))
    };
    let store = RedisOnline::open(tls("127.0.0.1", "ca.pem")).unwrap();
    store.claim("s", 0, 1).unwrap();
    let big = "v".repeat(3 << 20);
    assert_eq!(store.publish("s", 0, 1, None, 5, &[header(&big)]).unwrap(), PublishOutcome::Published);
    assert_eq!(shown(store.as_ref()), (Some(big), Some(5)));
    for (host, ca, wanted) in [
        ("127.0.0.1", "other.pem", "UnknownIssuer"),
        ("localhost", "ca.pem", "not valid for name"),
        ("127.0.0.1", "none.pem", "none.pem"),
        ("127.0.0.1", "names", "it holds no certificate"),
    ] {
        let error = RedisOnline::open(tls(host, ca)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let plain = RedisOnline::open(settings(&format!("redis://127.0.0.1:{port}"))).unwrap_err();
    assert_eq!(plain.kind(), ErrorKind::Unavailable, "{plain}");
}

#[test]
fn redis_out_of_memory_refuses_a_publish_whole_and_says_why() {
    if skipped("redis_out_of_memory_refuses_a_publish_whole_and_says_why") {
        return;
    }
    let redis = Redis::start();
    let store = open(&redis.url());
    store.claim("s", 0, 1).unwrap();
    store.publish("s", 0, 1, None, 5, &[header("h")]).unwrap();
    redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let error = store.publish("s", 0, 1, Some(5), 6, &[header("i")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("out of memory, raise its maxmemory"), "{error}");
    assert_eq!(shown(store.as_ref()), (Some("h".into()), Some(5)), "reads go on");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(store.publish("s", 0, 1, Some(5), 6, &[header("i")]).unwrap(), PublishOutcome::Published);
}

#[test]
fn redis_replica_that_took_over_without_the_last_writes_shows_an_older_position() {
    if skipped("redis_replica_that_took_over_without_the_last_writes_shows_an_older_position") {
        return;
    }
    let (primary, replica) = (Redis::start(), Redis::start_with(&[("repl-diskless-sync-delay", "0")]));
    let between = Proxy::start(primary.address());
    replica.command(&["REPLICAOF", "127.0.0.1", &between.port().to_string()]);
    let store = open(&primary.url());
    store.claim("s", 0, 3).unwrap();
    store.publish("s", 0, 3, None, 5, &[header("h")]).unwrap();
    let connection = &mut replica.connection();
    eventually("the replica's copy", || {
        let keys: u64 = redis::cmd("DBSIZE").query(connection).unwrap();
        (keys == 3).then_some(())
    });
    // The replica misses what follows, and is made the primary.
    between.set(Fault::BlackHole);
    store.publish("s", 0, 3, Some(5), 6, &[header("i")]).unwrap();
    primary.kill();
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    let namespaces: Vec<Vec<u8>> = replica.keys("plumb:");
    let namespace = String::from_utf8(namespaces[0].clone()).unwrap().split(':').nth(1).unwrap().to_owned();
    let promoted = RedisOnline::open(RedisSettings { namespace, ..settings(&replica.url()) }).unwrap();
    assert_eq!(shown(promoted.as_ref()), (Some("h".into()), Some(5)), "a read is of one position");
    let outcome = promoted.publish("s", 0, 3, Some(6), 7, &[header("j")]).unwrap();
    assert_eq!(outcome, PublishOutcome::Mismatch { stored: Some(5) });
    assert_eq!(promoted.claim("s", 0, 4).unwrap(), Some(5));
}

#[test]
fn redis_that_becomes_a_replica_is_neither_written_nor_read() {
    if skipped("redis_that_becomes_a_replica_is_neither_written_nor_read") {
        return;
    }
    let redis = Redis::start();
    let store = open(&redis.url());
    store.claim("s", 0, 1).unwrap();
    store.publish("s", 0, 1, None, 5, &[header("h")]).unwrap();
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = store.publish("s", 0, 1, Some(5), 6, &[header("i")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("it has become a replica; connect to its primary"), "{error}");
    // From then on it is known: what it would show grows old.
    let error = store.read("s", &[0], &[read(S1, b"u", &[])]).unwrap_err();
    assert!(error.to_string().contains("it is a replica"), "{error}");
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    eventually("an answer of the primary", || store.publish("s", 0, 1, Some(5), 6, &[header("i")]).ok());
    assert_eq!(shown(store.as_ref()), (Some("i".into()), Some(6)));
}

#[test]
fn redis_readers_see_whole_publishes_only() {
    if skipped("redis_readers_see_whole_publishes_only") {
        return;
    }
    let store = open(&Redis::shared().url());
    store.claim("s", 0, 1).unwrap();
    let writes = |position: u64| -> Vec<OnlineWrite> {
        let value = position.to_string();
        (0..300u32).map(|key| write(S1, &key.to_be_bytes(), OnlineField::Header, Some(&value))).collect()
    };
    store.publish("s", 0, 1, None, 1, &writes(1)).unwrap();
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..200).for_each(|at| {
                assert_eq!(
                    store.publish("s", 0, 1, Some(at), at + 1, &writes(at + 1)).unwrap(),
                    PublishOutcome::Published
                );
            });
            done.store(1, Ordering::Release);
        });
        let reads: Vec<_> = (0..300u32).map(|key| read(S1, &key.to_be_bytes(), &[])).collect();
        let mut seen = 0;
        while done.load(Ordering::Acquire) == 0 {
            let answer = store.read("s", &[0], &reads).unwrap();
            let position = answer.positions[&0].unwrap();
            assert!(position >= seen, "{position} after {seen}");
            seen = position;
            let value = position.to_string().into_bytes();
            assert!(answer.entities.iter().all(|entity| entity.partials[0].header == value));
        }
    });
}
