//! Writing to Kafka against a real broker: events and dead letters, each there once, or an error that says what to do.

use plumb_core::ErrorKind;
use plumb_pipeline::port::{DeadLetter, DeadLetterSink, EventSink, SinkRecord};
use plumb_source_kafka::{KafkaDeadLetters, KafkaSettings, KafkaSink, create_topic};
use plumb_testing::process::PATIENCE;
use plumb_testing::service::kafka::{Kafka, Sent, Stored};
use plumb_testing::service::{eventually, skipped};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn settings(kafka: &Kafka, topic: &str) -> KafkaSettings {
    KafkaSettings { brokers: kafka.address(), topic: topic.into(), ..KafkaSettings::default() }
}

fn sink(kafka: &Kafka, topic: &str) -> KafkaSink {
    KafkaSink::new(&settings(kafka, topic), Duration::from_secs(10)).unwrap()
}

fn numbered(range: std::ops::Range<usize>) -> Vec<(Option<String>, String)> {
    range.map(|n| ((n % 10 > 0).then(|| format!("user-{}", n % 97)), n.to_string())).collect()
}

fn append(sink: &KafkaSink, records: &[(Option<String>, String)]) -> plumb_pipeline::Result<BTreeMap<u32, u64>> {
    let records: Vec<SinkRecord<'_>> = records
        .iter()
        .map(|(key, bytes)| SinkRecord { key: key.as_ref().map(String::as_bytes), bytes: bytes.as_bytes() })
        .collect();
    sink.append(&records)
}

/// The values of a topic in order, per partition and key.
fn values(stored: &[Stored]) -> BTreeMap<(i32, Option<Vec<u8>>), Vec<usize>> {
    let mut values = BTreeMap::<_, Vec<usize>>::new();
    for record in stored {
        let value = String::from_utf8(record.value.clone().unwrap()).unwrap().parse().unwrap();
        values.entry((record.partition, record.key.clone())).or_default().push(value);
    }
    values
}

#[test]
fn kafka_sink_puts_each_record_once_in_the_partition_of_its_key() {
    if skipped("kafka_sink_puts_each_record_once_in_the_partition_of_its_key") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("sunk", 4, &[]);
    kafka.create_topic("reference", 4, &[]);
    let sink = sink(kafka, "sunk");
    let (first, second) = (numbered(0..1000), numbered(1000..1500));
    append(&sink, &first).unwrap();
    let next = append(&sink, &second).unwrap();
    let stored = kafka.read("sunk");
    let mut all: Vec<usize> = values(&stored).into_values().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (0..1500).collect::<Vec<_>>());
    let ends: BTreeMap<u32, u64> =
        kafka.watermarks("sunk").into_iter().map(|(partition, (_, high))| (partition as u32, high as u64)).collect();
    assert_eq!(next, ends);
    // Another producer puts the same keys into the same partitions, in the same order.
    let keyed = |records: &[Stored]| {
        let mut values = values(records);
        values.retain(|(_, key), _| key.is_some());
        values
    };
    kafka.produce(
        "reference",
        first.iter().chain(&second).map(|(key, value)| Sent {
            key: key.clone().map(String::into_bytes),
            value: Some(value.clone().into_bytes()),
            ..Sent::default()
        }),
    );
    assert_eq!(keyed(&stored), keyed(&kafka.read("reference")));
    assert_eq!(append(&sink, &[]).unwrap(), BTreeMap::new());
}

#[test]
fn kafka_sink_says_what_to_do_about_what_cannot_be_written() {
    if skipped("kafka_sink_says_what_to_do_about_what_cannot_be_written") {
        return;
    }
    let kafka = Kafka::shared();
    let error = KafkaSink::new(&settings(kafka, "unmade"), PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`unmade` does not exist"), "{error}");
    assert!(create_topic(&settings(kafka, "unmade"), 3).unwrap());
    assert!(!create_topic(&settings(kafka, "unmade"), 3).unwrap());
    assert_eq!(kafka.watermarks("unmade").len(), 3);
    assert_eq!(create_topic(&settings(kafka, "no/name"), 3).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(create_topic(&settings(kafka, "none"), 0).unwrap_err().to_string().contains("0 partitions"));

    let sink = sink(kafka, "unmade");
    for (bytes, limit) in [(11 << 20, "20000000"), (2 << 20, "1000000")] {
        kafka.alter_topic("unmade", "max.message.bytes", limit);
        let before = kafka.read("unmade").len();
        // Random, so that it stays large when it is compressed.
        let mut random = 1_u64;
        let large = (0..bytes).map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + (random >> 60) as u8)
        });
        let large: String = large.collect();
        let records = [(None, "1".to_owned()), (None, large), (None, "2".to_owned())];
        let error = append(&sink, &records).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("max_message"), "{error}");
        assert_eq!(kafka.read("unmade").len(), before + 2, "the others are there");
    }
    kafka.delete_topic("unmade");
    let error = eventually("an error of the topic", || append(&sink, &[(None, "3".to_owned())]).err());
    assert!(error.kind() != ErrorKind::Internal, "{error}");
}

#[test]
fn kafka_sink_waits_for_a_broker_that_is_killed_and_writes_nothing_twice() {
    if skipped("kafka_sink_waits_for_a_broker_that_is_killed_and_writes_nothing_twice") {
        return;
    }
    let kafka = Kafka::start();
    kafka.create_topic("killed", 2, &[]);
    let sink = KafkaSink::new(&settings(&kafka, "killed"), PATIENCE).unwrap();
    let total = std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let writer = scope.spawn(|| {
            let (stopped, mut total) = (stopped, 0);
            while stopped.try_recv().is_err() {
                append(&sink, &numbered(total..total + 100)).unwrap();
                total += 100;
            }
            total
        });
        for _ in 0..3 {
            let before = kafka.watermarks("killed")[&0].1;
            eventually("records", || (kafka.watermarks("killed")[&0].1 > before).then_some(()));
            kafka.kill();
            kafka.restart();
        }
        let before = kafka.watermarks("killed")[&0].1;
        eventually("records after the last kill", || (kafka.watermarks("killed")[&0].1 > before).then_some(()));
        stop.send(()).unwrap();
        writer.join().unwrap()
    });
    let mut all = Vec::new();
    for ((_, key), values) in values(&kafka.read("killed")) {
        assert!(key.is_none() || values.is_sorted(), "{key:?} is out of order");
        all.extend(values);
    }
    all.sort_unstable();
    assert_eq!(all, (0..total).collect::<Vec<_>>());
    // A broker that stays away is an error in time.
    kafka.kill();
    let impatient = Instant::now();
    let settings = settings(&kafka, "killed");
    assert_eq!(KafkaSink::new(&settings, PATIENCE).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(impatient.elapsed() < Duration::from_secs(20), "it took {:?}", impatient.elapsed());
}

#[test]
fn kafka_dead_letters_carry_their_bytes_and_where_they_are_from() {
    if skipped("kafka_dead_letters_carry_their_bytes_and_where_they_are_from") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("letters", 1, &[]);
    let sink = KafkaDeadLetters::new(&settings(kafka, "events-of-the-letters"), "letters").unwrap();
    let rejected = DeadLetter {
        offset: 41,
        record_time_us: 1_700_000_000_000_000,
        bytes: b"\xff{".to_vec(),
        reason: "not UTF-8 at byte 0".into(),
        view: None,
    };
    let fault =
        DeadLetter { offset: 42, bytes: b"{}".to_vec(), view: Some("item_activity@1.0.0".into()), ..rejected.clone() };
    sink.send("default", 3, &[rejected, fault]).unwrap();
    sink.send("default", 3, &[]).unwrap();
    let stored = kafka.read("letters");
    assert_eq!(stored.len(), 2);
    assert_eq!(stored[0].value.as_deref(), Some(&b"\xff{"[..]));
    assert_eq!(stored[0].key.as_deref(), Some(&b"default/3/41"[..]));
    assert_eq!(stored[1].key.as_deref(), Some(&b"default/3/42/item_activity@1.0.0"[..]));
    let headers = |at: usize| -> BTreeMap<&str, &str> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        stored[at].headers.iter().map(|(key, value)| (key.as_str(), text(value))).collect()
    };
    let wanted = [
        ("plumb-source", "default"),
        ("plumb-partition", "3"),
        ("plumb-offset", "41"),
        ("plumb-reason", "not UTF-8 at byte 0"),
        ("plumb-record-time", "2023-11-14T22:13:20.000000Z"),
    ];
    assert_eq!(headers(0), BTreeMap::from(wanted));
    assert_eq!(headers(1)["plumb-view"], "item_activity@1.0.0");
    assert!(KafkaDeadLetters::new(&settings(kafka, "letters"), "no-letters").is_err());
}
