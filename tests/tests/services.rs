//! The services that other tests stand on: they start, can be harmed in the ways the tests need, and end with the
//! process that started them.

use plumb_testing::service::kafka::{Kafka, Sent};
use plumb_testing::service::proxy::{Fault, Proxy};
use plumb_testing::service::redis::{Redis, RedisCluster};
use plumb_testing::service::s3::S3;
use plumb_testing::service::{eventually, skipped};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn sent(key: &str, value: &str) -> Sent {
    Sent { key: Some(key.into()), value: Some(value.into()), ..Sent::default() }
}

#[test]
fn kafka_keeps_its_records_over_a_kill() {
    if skipped("kafka_keeps_its_records_over_a_kill") {
        return;
    }
    let kafka = Kafka::start_with_proxy();
    kafka.create_topic("events", 3, &[]);
    kafka.produce("events", (0..1000).map(|n| sent(&format!("user-{}", n % 50), &n.to_string())));
    let tombstone = Sent { partition: Some(1), key: Some(b"gone".to_vec()), timestamp: Some(5), ..Sent::default() };
    kafka.produce("events", [tombstone]);
    let before = kafka.read("events");
    assert_eq!(before.len(), 1001);
    assert!(before.iter().any(|record| record.value.is_none() && record.partition == 1 && record.timestamp == Some(5)));
    kafka.kill();
    kafka.restart();
    assert_eq!(kafka.read("events"), before);
    kafka.delete_records("events", 1, 10);
    kafka.add_partitions("events", 5);
    assert_eq!(kafka.read("events").len(), 991);
    assert_eq!(kafka.watermarks("events")[&4], (0, 0));
    kafka.delete_topic("events");
    kafka.create_topic("events", 1, &[("retention.ms", "1000000")]);
    assert_eq!(kafka.watermarks("events")[&0], (0, 0));
}

#[test]
fn redis_loses_or_keeps_its_keys_as_it_was_told() {
    if skipped("redis_loses_or_keeps_its_keys_as_it_was_told") {
        return;
    }
    let (forgetful, careful) = (Redis::start(), Redis::start_with(&[("appendonly", "yes"), ("appendfsync", "always")]));
    for redis in [&forgetful, &careful] {
        redis.command(&["SET", "a", "1"]);
        redis.kill();
        redis.restart();
    }
    assert_eq!(forgetful.keys("").len(), 0);
    assert_eq!(careful.keys(""), [b"a"]);
    let replica = Redis::replica_of(&careful);
    assert_eq!(replica.keys(""), [b"a"]);
}

#[test]
fn redis_cluster_serves_every_slot() {
    if skipped("redis_cluster_serves_every_slot") {
        return;
    }
    let cluster = RedisCluster::start();
    let client = redis::cluster::ClusterClient::new(cluster.nodes.iter().map(|node| node.url())).unwrap();
    let mut connection = client.get_connection().unwrap();
    for n in 0..100 {
        redis::cmd("SET").arg(format!("key-{n}")).arg(n).exec(&mut connection).unwrap();
    }
    assert_eq!(cluster.keys("key-").len(), 100);
    assert_eq!(cluster.primaries().len(), 3);
    cluster.primaries()[0].kill();
    eventually("a replica in its place", || (cluster.primaries().len() == 3).then_some(()));
}

#[test]
fn s3_creates_an_object_once() {
    if skipped("s3_creates_an_object_once") {
        return;
    }
    let s3 = S3::start("plumb");
    for n in 0..1100 {
        s3.put("plumb", &format!("a/{n:04}"), b"x");
    }
    s3.put("plumb", "b&c=d/date=2024-01-01/e.parquet", b"\x00\xff");
    assert_eq!(s3.list("plumb", "a/").len(), 1100);
    assert_eq!(s3.list("plumb", "b"), ["b&c=d/date=2024-01-01/e.parquet"]);
    assert_eq!(s3.get("plumb", "b&c=d/date=2024-01-01/e.parquet").unwrap(), b"\x00\xff");
    assert_eq!(s3.get("plumb", "nothing"), None);
    let folder = tempfile::tempdir().unwrap();
    s3.download("plumb", "b&c=d", folder.path());
    assert_eq!(std::fs::read(folder.path().join("date=2024-01-01/e.parquet")).unwrap(), b"\x00\xff");
}

#[test]
fn a_proxy_to_redis_spoils_connections_and_counts_it() {
    if skipped("a_proxy_to_redis_spoils_connections_and_counts_it") {
        return;
    }
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let connect = || {
        let client = redis::Client::open(format!("redis://{}", proxy.address())).unwrap();
        let connection = client.get_connection_with_timeout(Duration::from_millis(500))?;
        connection.set_read_timeout(Some(Duration::from_millis(500)))?;
        redis::RedisResult::Ok(connection)
    };
    let ping = |connection: &mut redis::Connection| redis::cmd("PING").query::<String>(connection);
    let mut open = connect().unwrap();
    assert_eq!(ping(&mut open).unwrap(), "PONG");
    proxy.set(Fault::Latency(Duration::from_millis(100)));
    let start = Instant::now();
    assert_eq!(ping(&mut open).unwrap(), "PONG");
    assert!(start.elapsed() >= Duration::from_millis(200), "both ways wait");
    for fault in [
        Fault::Reset,
        Fault::BlackHole,
        Fault::HalfOpen,
        Fault::CutToServer(3),
        Fault::CutToClient(0),
        Fault::Status(503),
    ] {
        proxy.set(Fault::None);
        let mut open = connect().unwrap();
        assert_eq!(ping(&mut open).unwrap(), "PONG");
        let before = proxy.counts();
        proxy.set(fault.clone());
        if fault != Fault::Status(503) {
            let error = ping(&mut open).unwrap_err();
            let silent = matches!(fault, Fault::BlackHole | Fault::HalfOpen);
            assert_eq!(error.is_timeout(), silent, "{fault:?}: {error}");
        }
        assert!(connect().and_then(|mut connection| ping(&mut connection)).is_err(), "{fault:?}");
        assert!(proxy.counts().hits > before.hits, "{fault:?}");
        proxy.set(Fault::None);
        assert_eq!(ping(&mut connect().unwrap()).unwrap(), "PONG", "after {fault:?}");
    }
}

#[test]
fn redis_and_kafka_end_with_a_test_process_that_is_killed() {
    if skipped("redis_and_kafka_end_with_a_test_process_that_is_killed") {
        return;
    }
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["--ignored", "--exact", "starts_redis_and_waits", "--nocapture"]);
    let mut tests = tests.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(tests.stdout.take().unwrap()).lines();
    let named = lines.map(Result::unwrap).find_map(|line| line.strip_prefix("started ").map(str::to_owned)).unwrap();
    let (port, folder) = named.split_once(' ').unwrap();
    let address = format!("127.0.0.1:{port}");
    assert!(std::net::TcpStream::connect(&address).is_ok() && Path::new(folder).exists());
    tests.kill().unwrap();
    tests.wait().unwrap();
    eventually("the end of the server and of its folder", || {
        (std::net::TcpStream::connect(&address).is_err() && !Path::new(folder).exists()).then_some(())
    });
}

#[test]
#[ignore = "run by the test above, which kills it"]
fn starts_redis_and_waits() {
    let redis = Redis::start();
    let folder = redis.command(&["CONFIG", "GET", "dir"]);
    let redis::Value::Array(parts) = folder else { panic!("{folder:?}") };
    let redis::Value::BulkString(path) = &parts[1] else { panic!("{parts:?}") };
    let port = redis.address();
    println!("\nstarted {} {}", port.rsplit_once(':').unwrap().1, String::from_utf8_lossy(path));
    let mut nothing = String::new();
    std::io::stdin().read_line(&mut nothing).unwrap();
}
