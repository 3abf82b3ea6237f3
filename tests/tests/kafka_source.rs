//! Kafka as a source against a real broker: what is read, what is refused, what stops it, and who reads what.

use plumb_core::ErrorKind;
use plumb_core::event::SourceSchema;
use plumb_pipeline::Secret;
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::TimeUnit;
use plumb_pipeline::port::{
    Change, EventSink, Gap, Membership, PartitionReader, Polled, Rejected, SinkRecord, Source, StartFrom,
};
use plumb_source_kafka::{
    KafkaOptions, KafkaSasl, KafkaSecurity, KafkaSettings, KafkaSink, KafkaSource, KafkaStart, KafkaTls, TOMBSTONE,
};
use plumb_testing::process::PATIENCE;
use plumb_testing::service::kafka::{Kafka, Sent};
use plumb_testing::service::proxy::Fault;
use plumb_testing::service::{eventually, skipped};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn settings(kafka: &Kafka, topic: &str) -> KafkaSettings {
    KafkaSettings {
        brokers: kafka.address(),
        topic: topic.into(),
        group: format!("{topic}-group"),
        ..KafkaSettings::default()
    }
}

fn open(settings: &KafkaSettings, options: KafkaOptions) -> plumb_pipeline::Result<KafkaSource> {
    let schema = Arc::new(SourceSchema::default_schema());
    KafkaSource::new(settings.clone(), schema, TimeUnit::Ms, AcceptRules::default(), options)
}

fn source(kafka: &Kafka, topic: &str, options: KafkaOptions) -> KafkaSource {
    open(&settings(kafka, topic), options).unwrap()
}

fn until_end() -> KafkaOptions {
    KafkaOptions { until_end: true, ..KafkaOptions::default() }
}

fn event(id: &str) -> Vec<u8> {
    format!(r#"{{"event_id":"{id}","event_time":1700000000000,"event_type":"view","user_id":"u"}}"#).into_bytes()
}

fn sent(partition: i32, value: Vec<u8>) -> Sent {
    Sent { partition: Some(partition), key: Some(b"u".to_vec()), value: Some(value), timestamp: None }
}

fn events(partition: i32, ids: std::ops::Range<usize>) -> Vec<Sent> {
    ids.map(|id| sent(partition, event(&id.to_string()))).collect()
}

/// What a reader has given so far.
#[derive(Default)]
struct Read {
    offsets: Vec<u64>,
    ids: Vec<String>,
    rejected: Vec<Rejected>,
    next: u64,
    longest_poll: Duration,
}

impl Read {
    /// Polls once; whether the end has come.
    fn poll(&mut self, reader: &mut dyn PartitionReader, max: usize) -> plumb_pipeline::Result<bool> {
        let begin = Instant::now();
        let polled = match reader.poll(max) {
            // A busy machine, or a broker that is away: to be asked again.
            Err(error) if error.kind() == ErrorKind::Unavailable => Polled::Idle,
            polled => polled?,
        };
        self.longest_poll = self.longest_poll.max(begin.elapsed());
        match polled {
            Polled::Batch(batch) => {
                assert!(batch.events.len() + batch.rejected.len() <= max, "more records than asked for");
                assert!(batch.next_offset > self.next || self.next == 0, "a batch moves on");
                for row in 0..batch.events.len() {
                    let id = batch.events.columns[0].str_bytes(row).unwrap_or_default();
                    self.ids.push(String::from_utf8(id.to_vec()).unwrap());
                }
                self.offsets.extend(&batch.events.offsets);
                self.rejected.extend(batch.rejected);
                self.next = batch.next_offset;
                Ok(false)
            }
            Polled::Idle => Ok(false),
            Polled::End => Ok(true),
        }
    }

    fn to_end(source: &KafkaSource, partition: u32) -> Self {
        let mut reader = source.open(partition, source.start(partition).unwrap(), None).unwrap();
        let mut read = Self::default();
        eventually("the end of the partition", || read.poll(reader.as_mut(), 100).unwrap().then_some(()));
        read
    }

    fn until(&mut self, reader: &mut dyn PartitionReader, next: u64) {
        eventually(&format!("offset {next}"), || {
            assert!(!self.poll(reader, 1000).unwrap(), "ended at {}", self.next);
            (self.next >= next).then_some(())
        });
    }
}

fn numbers(ids: std::ops::Range<usize>) -> Vec<String> {
    ids.map(|id| id.to_string()).collect()
}

/// The error of a reader that has to fail soon.
fn failure(reader: &mut dyn PartitionReader) -> plumb_pipeline::Error {
    eventually("an error of the reader", || match reader.poll(100) {
        Err(error) if error.kind() == ErrorKind::Unavailable => None,
        Err(error) => Some(error),
        Ok(_) => None,
    })
}

#[test]
fn kafka_partitions_are_read_in_order_up_to_the_captured_end_and_beyond_it_by_a_follower() {
    if skipped("kafka_partitions_are_read_in_order_up_to_the_captured_end_and_beyond_it_by_a_follower") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("ordered", 3, &[]);
    kafka.produce("ordered", events(0, 0..5000));
    kafka.produce("ordered", events(1, 0..10));
    let bounded = source(kafka, "ordered", until_end());
    assert_eq!(bounded.partitions().unwrap(), [0, 1, 2]);
    kafka.produce("ordered", events(0, 5000..5010));
    let read = Read::to_end(&bounded, 0);
    assert_eq!((read.offsets.len(), read.next, read.rejected.len()), (5000, 5000, 0));
    assert_eq!(read.offsets, (0..5000).collect::<Vec<_>>());
    assert_eq!(read.ids, numbers(0..5000));
    assert_eq!(Read::to_end(&bounded, 1).ids, numbers(0..10));
    assert_eq!(Read::to_end(&bounded, 2).ids.len(), 0);
    assert!(bounded.join().unwrap().is_none(), "a bounded source is read alone");

    let follower = source(kafka, "ordered", KafkaOptions::default());
    let mut readers = [follower.open(0, 4990, None).unwrap(), follower.open(1, 0, None).unwrap()];
    let mut read = [Read::default(), Read::default()];
    read[0].until(readers[0].as_mut(), 5010);
    read[1].until(readers[1].as_mut(), 10);
    assert_eq!(read[0].ids, numbers(4990..5010));
    kafka.produce("ordered", events(1, 10..20));
    read[1].until(readers[1].as_mut(), 20);
    assert_eq!(read[1].ids, numbers(0..20));
    for read in &read {
        assert!(read.longest_poll < Duration::from_millis(500), "a poll took {:?}", read.longest_poll);
    }
    assert_eq!(eventually("the end", || follower.end(1).unwrap().filter(|&end| end == 20)), 20);
    // A partition that was let go of can be taken again, and only one reader has it.
    assert!(follower.open(0, 0, None).is_err());
    let [first, _] = readers;
    drop(first);
    for offset in [5000, 0, 4000] {
        let mut reader = follower.open(0, offset, None).unwrap();
        let mut read = Read::default();
        read.until(reader.as_mut(), 5010);
        assert_eq!(read.ids, numbers(offset as usize..5010));
    }
}

#[test]
fn kafka_partitions_without_records_do_not_hold_up_each_other() {
    if skipped("kafka_partitions_without_records_do_not_hold_up_each_other") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("quiet", 12, &[]);
    let follower = source(kafka, "quiet", KafkaOptions::default());
    let mut readers: Vec<_> = (0..12).map(|partition| follower.open(partition, 0, None).unwrap()).collect();
    let mut round = || {
        let begin = Instant::now();
        for reader in &mut readers {
            assert!(matches!(reader.poll(10).unwrap(), Polled::Idle));
        }
        begin.elapsed()
    };
    // About 50 ms a round; it would be 600 if each waited on its own, and nothing if none did. On a busy machine the
    // partitions' ends come late and one by one, each of which ends a wait, and rounds may take longer.
    let (end, mut together) = (Instant::now() + Duration::from_secs(60), 0);
    while together < 5 {
        together += u32::from((Duration::from_millis(10)..Duration::from_millis(200)).contains(&round()));
        assert!(Instant::now() < end, "{together} rounds of idle readers were one wait for all of them");
    }
}

#[test]
fn kafka_records_that_cannot_be_events_are_rejected_and_the_partition_goes_on() {
    if skipped("kafka_records_that_cannot_be_events_are_rejected_and_the_partition_goes_on") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("poison", 1, &[("max.message.bytes", "16000000")]);
    let mut large = event("large");
    large.splice(1..1, format!(r#""padding":"{}","#, "x".repeat(12 << 20)).into_bytes());
    let mut wide = event("wide");
    wide.splice(1..1, format!(r#""padding":"{}","#, "x".repeat(5 << 20)).into_bytes());
    let bomb = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let at = |ms: &str| String::from_utf8(event("time")).unwrap().replace("1700000000000", ms).into_bytes();
    let records = [
        event("first"),
        b"\xff\xfe{}".to_vec(),
        large,
        bomb,
        at("1700000000"),
        at("4102444800000"),
        b"{".to_vec(),
        Vec::new(),
        wide,
    ];
    kafka.produce("poison", records.into_iter().map(|value| sent(0, value)));
    kafka.produce("poison", [Sent { partition: Some(0), key: Some(b"u".to_vec()), ..Sent::default() }]);
    kafka.produce("poison", [sent(0, event("last"))]);
    let read = Read::to_end(&source(kafka, "poison", until_end()), 0);
    assert_eq!(read.ids, ["first", "wide", "last"]);
    assert_eq!(read.offsets, [0, 8, 10]);
    let reasons: Vec<(u64, &str)> = read.rejected.iter().map(|one| (one.offset, one.reason.as_str())).collect();
    let wanted = [
        (1, "not UTF-8 at byte 0"),
        (2, "longer than max_message"),
        (3, "not JSON of an event"),
        (4, "is before min_time"),
        (5, "ahead of the record's timestamp"),
        (6, "not JSON of an event"),
        (7, "not JSON of an event"),
        (9, TOMBSTONE),
    ];
    assert_eq!(reasons.len(), wanted.len(), "{reasons:?}");
    for ((offset, reason), (wanted_offset, wanted)) in reasons.iter().zip(wanted) {
        assert!(
            *offset == wanted_offset && reason.contains(wanted),
            "{offset}: {reason}, not {wanted_offset}: {wanted}"
        );
    }
    let stamp = kafka.read("poison")[1].timestamp.unwrap();
    assert_eq!(
        (read.rejected[0].bytes.as_slice(), read.rejected[0].record_time_us),
        (&b"\xff\xfe{}"[..], stamp * 1000)
    );
    assert!(read.rejected[1].bytes.len() == 64 << 10, "the beginning of what is too large is kept");
}

#[test]
fn kafka_aborted_records_are_never_seen_and_control_records_are_passed() {
    if skipped("kafka_aborted_records_are_never_seen_and_control_records_are_passed") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("transactions", 1, &[]);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.address())
        .set("transactional.id", "kafka-source-test")
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let send = |ids: std::ops::Range<usize>| {
        producer.begin_transaction().unwrap();
        for id in ids {
            let value = event(&id.to_string());
            producer
                .send(BaseRecord::to("transactions").partition(0).key("u").payload(&value))
                .map_err(|(e, _)| e)
                .unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    };
    let follower = source(kafka, "transactions", KafkaOptions::default());
    let mut reader = follower.open(0, 0, None).unwrap();
    let mut read = Read::default();
    send(0..10);
    producer.commit_transaction(PATIENCE).unwrap();
    // Ten records and the marker of the commit.
    read.until(reader.as_mut(), 11);
    assert_eq!(read.ids, numbers(0..10));
    send(10..20);
    producer.abort_transaction(PATIENCE).unwrap();
    read.until(reader.as_mut(), 22);
    send(20..30);
    // An open transaction is not readable yet, and not the end either.
    let bounded = source(kafka, "transactions", until_end());
    let before = Read::to_end(&bounded, 0);
    assert_eq!((before.ids, before.next), (numbers(0..10), 22));
    producer.commit_transaction(PATIENCE).unwrap();
    read.until(reader.as_mut(), 33);
    assert_eq!(read.ids, [numbers(0..10), numbers(20..30)].concat());
    assert_eq!(eventually("the end", || follower.end(0).unwrap().filter(|&end| end == 33)), 33);
    let after = Read::to_end(&source(kafka, "transactions", until_end()), 0);
    assert_eq!((after.ids, after.next), (read.ids, 33));
}

#[test]
fn kafka_retention_that_passed_the_position_stops_with_the_gap_unless_it_is_accepted() {
    if skipped("kafka_retention_that_passed_the_position_stops_with_the_gap_unless_it_is_accepted") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("retained", 1, &[]);
    kafka.produce("retained", events(0, 0..100));
    let strict = source(kafka, "retained", KafkaOptions::default());
    let mut reader = strict.open(0, 10, None).unwrap();
    let mut read = Read::default();
    // Stays behind: nothing was taken from the queue but one record.
    eventually("one record", || {
        read.poll(reader.as_mut(), 1).unwrap();
        (read.next > 0).then_some(())
    });
    drop(reader);
    kafka.delete_records("retained", 0, 60);
    let error = strict.open(0, 11, None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    for part in ["`retained`", "partition 0", "49 offsets 11 to 59", "begins at offset 60", "--accept-gap"] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    assert_eq!(strict.start(0).unwrap(), 60);
    let accepting = source(kafka, "retained", KafkaOptions { accept_gap: true, ..until_end() });
    let mut reader = accepting.open(0, 11, None).unwrap();
    assert_eq!(reader.gap(), Some(Gap { from: 11, to: 60 }));
    let mut read = Read::default();
    eventually("the end", || read.poll(reader.as_mut(), 1000).unwrap().then_some(()));
    assert_eq!(read.ids, numbers(60..100));
    drop(reader);
    assert_eq!(accepting.open(0, 60, None).unwrap().gap(), None);

    // While it is being read: what is beyond the read-ahead is gone before it is fetched.
    kafka.create_topic("passed", 1, &[]);
    let behind = source(kafka, "passed", KafkaOptions::default());
    let big: Vec<u8> = [&b"{\"padding\":\""[..], &vec![b'x'; 1 << 20], b"\"}"].concat();
    kafka.alter_topic("passed", "max.message.bytes", "4000000");
    kafka.produce("passed", (0..64).map(|_| sent(0, big.clone())));
    let mut reader = behind.open(0, 0, None).unwrap();
    let mut read = Read::default();
    eventually("one record", || {
        read.poll(reader.as_mut(), 1).unwrap();
        (read.next > 0).then_some(())
    });
    kafka.delete_records("passed", 0, 64);
    let error = failure(reader.as_mut()).to_string();
    assert!(error.contains("to 63 were not read yet and are gone") && error.contains("--accept-gap"), "{error}");
}

#[test]
fn kafka_topic_that_was_created_again_is_another_one() {
    if skipped("kafka_topic_that_was_created_again_is_another_one") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("renewed", 1, &[]);
    kafka.produce("renewed", events(0, 0..10));
    let before = source(kafka, "renewed", KafkaOptions::default());
    let mut reader = before.open(0, 0, None).unwrap();
    let mut read = Read::default();
    read.until(reader.as_mut(), 10);
    let memo = reader.memo();
    // The same topic is fine.
    drop(source(kafka, "renewed", KafkaOptions::default()).open(0, 10, memo.as_ref()).unwrap());
    kafka.delete_topic("renewed");
    kafka.create_topic("renewed", 1, &[]);
    // Longer than the old one was, so offsets alone tell nothing.
    kafka.produce("renewed", events(0, 100..150));
    let running = failure(reader.as_mut());
    assert_eq!(running.kind(), ErrorKind::Invalid);
    let after = source(kafka, "renewed", KafkaOptions::default());
    let opened = after.open(0, 10, memo.as_ref()).err().unwrap();
    assert_eq!(opened.kind(), ErrorKind::Invalid);
    for error in [running, opened] {
        let text = error.to_string();
        assert!(text.contains("`renewed` partition 0") && text.contains("deleted and created again"), "{text}");
    }
    // Without a memo only the offsets can tell.
    let text = after.open(0, 51, None).err().unwrap().to_string();
    assert!(text.contains("ends at offset 50, but records up to 51 were processed"), "{text}");
    assert!(after.open(0, 0, Some(&serde_json::json!({"files": []}))).is_err(), "a memo of another kind of source");
    let other = serde_json::json!({"topic": "other", "topic_id": "x"});
    assert!(after.open(0, 0, Some(&other)).err().unwrap().to_string().contains("`other`, not `renewed`"));
    let mut reader = after.open(0, 0, None).unwrap();
    kafka.delete_topic("renewed");
    let text = failure(reader.as_mut()).to_string();
    assert!(text.contains("`renewed`") && text.contains("was deleted"), "{text}");
}

#[test]
fn kafka_start_is_where_the_settings_or_the_options_say() {
    if skipped("kafka_start_is_where_the_settings_or_the_options_say") {
        return;
    }
    let kafka = Kafka::shared();
    // The records are old, and stay.
    kafka.create_topic("started", 2, &[("retention.ms", "-1")]);
    let stamped = |n: i64| Sent { timestamp: Some(1_700_000_000_000 + n * 1000), ..sent(0, event(&n.to_string())) };
    kafka.produce("started", (0..10).map(stamped));
    kafka.delete_records("started", 0, 2);
    let from = |from| source(kafka, "started", KafkaOptions { from: Some(from), ..KafkaOptions::default() });
    let start = |source: KafkaSource| (source.start(0).unwrap(), source.start(1).unwrap());
    assert_eq!(start(source(kafka, "started", KafkaOptions::default())), (2, 0));
    let latest = KafkaSettings { start: KafkaStart::Latest, ..settings(kafka, "started") };
    assert_eq!(start(open(&latest, KafkaOptions::default()).unwrap()), (10, 0));
    assert_eq!(start(from(StartFrom::Latest)), (10, 0));
    assert_eq!(start(from(StartFrom::Earliest)), (2, 0));
    let at = |seconds: i64, us: i64| StartFrom::Time((1_700_000_000 + seconds) * 1_000_000 + us);
    assert_eq!(start(from(at(5, 0))), (5, 0));
    assert_eq!(start(from(at(5, 1))), (6, 0));
    assert_eq!(start(from(at(-100, 0))), (2, 0));
    assert_eq!(start(from(at(100, 0))), (10, 0));
    assert_eq!(from(StartFrom::Offset(7)).start(0).unwrap(), 7);
    assert_eq!(start(from(StartFrom::Offsets([(0, 4)].into()))), (4, 0));
    let error = from(StartFrom::Offset(7)).start(1).unwrap_err().to_string();
    assert!(error.contains("partition 1 has the offsets 0 to 0, not 7"), "{error}");
}

#[test]
fn kafka_broker_that_goes_away_is_waited_for() {
    if skipped("kafka_broker_that_goes_away_is_waited_for") {
        return;
    }
    let kafka = Kafka::start();
    kafka.create_topic("away", 2, &[]);
    kafka.produce("away", events(0, 0..10));
    let follower = source(&kafka, "away", KafkaOptions::default());
    let mut reader = follower.open(0, 0, None).unwrap();
    let mut read = Read::default();
    read.until(reader.as_mut(), 10);
    for round in 1..3 {
        kafka.kill();
        let begin = Instant::now();
        eventually("the loss to be noticed", || {
            assert!(!read.poll(reader.as_mut(), 100).unwrap());
            (!follower.is_reachable()).then_some(())
        });
        assert!(read.longest_poll < Duration::from_secs(3), "a poll took {:?}", read.longest_poll);
        assert!(begin.elapsed() < PATIENCE);
        assert_eq!(follower.partitions().unwrap(), [0, 1], "as known before");
        let opened = follower.open(1, 0, None).err().unwrap();
        assert_eq!(opened.kind(), ErrorKind::Unavailable, "{opened}");
        kafka.restart();
        kafka.produce("away", events(0, round * 10..round * 10 + 10));
        read.until(reader.as_mut(), round as u64 * 10 + 10);
        eventually("the return to be noticed", || follower.is_reachable().then_some(()));
    }
    assert_eq!(read.ids, numbers(0..30));
    drop(follower.open(1, 0, None).unwrap());
    // A process that is to end does not wait for it.
    let mut member = Member::join(&settings(&kafka, "away"));
    settle(&mut [&mut member], 2);
    kafka.kill();
    let begin = Instant::now();
    member.membership.leave().unwrap();
    drop((reader, follower));
    assert!(begin.elapsed() < Duration::from_secs(6), "ending took {:?}", begin.elapsed());
}

#[test]
fn kafka_settings_that_cannot_work_are_the_callers_mistake() {
    if skipped("kafka_settings_that_cannot_work_are_the_callers_mistake") {
        return;
    }
    let kafka = Kafka::shared();
    let begin = Instant::now();
    let error = open(&settings(kafka, "no-such-topic"), KafkaOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("`no-such-topic` does not exist") && text.contains("--create-topic"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    let nobody = KafkaSettings { brokers: "127.0.0.1:1".into(), ..settings(kafka, "no-such-topic") };
    let error = open(&nobody, KafkaOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn kafka_is_reached_by_tls_with_a_password_and_a_wrong_one_is_said_at_once() {
    if skipped("kafka_is_reached_by_tls_with_a_password_and_a_wrong_one_is_said_at_once") {
        return;
    }
    let kafka = Kafka::start_secured();
    kafka.create_topic("secured", 1, &[]);
    kafka.produce("secured", events(0, 0..10));
    let good = KafkaSettings {
        brokers: kafka.secured_address(),
        security: KafkaSecurity::SaslSsl,
        sasl: Some(KafkaSasl { mechanism: "PLAIN".into(), username: "plumb".into(), password: Secret::new("secret") }),
        tls: KafkaTls { ca: Some(kafka.authority()), ..KafkaTls::default() },
        ..settings(&kafka, "secured")
    };
    assert_eq!(Read::to_end(&open(&good, until_end()).unwrap(), 0).ids, numbers(0..10));
    let mut member = Member::join(&good);
    settle(&mut [&mut member], 1);
    member.membership.leave().unwrap();
    let sink = KafkaSink::new(&good, PATIENCE).unwrap();
    assert_eq!(sink.append(&[SinkRecord { key: None, bytes: b"{}" }]).unwrap(), [(0, 11)].into());

    let password = |password: &str| good.sasl.clone().map(|sasl| KafkaSasl { password: Secret::new(password), ..sasl });
    let wrong = KafkaSettings { sasl: password("wrong-password"), ..good.clone() };
    let untrusted = KafkaSettings { tls: KafkaTls::default(), ..good.clone() };
    let missing =
        KafkaSettings { tls: KafkaTls { ca: Some("no-such.pem".into()), ..KafkaTls::default() }, ..good.clone() };
    for (settings, parts) in [
        (wrong, &["as `plumb` by PLAIN", "uthentication"][..]),
        (untrusted, &["certificate verify failed"]),
        (missing, &["no-such.pem"]),
    ] {
        let reading = |settings: &KafkaSettings| open(settings, KafkaOptions::default()).err();
        let writing = |settings: &KafkaSettings| KafkaSink::new(settings, PATIENCE).err();
        for try_it in [&reading as &dyn Fn(&KafkaSettings) -> Option<plumb_pipeline::Error>, &writing] {
            let begin = Instant::now();
            let error = try_it(&settings).unwrap();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(begin.elapsed() < Duration::from_secs(8), "it took {:?}", begin.elapsed());
            assert!(parts.iter().all(|part| text.contains(part)), "{text} lacks one of {parts:?}");
            assert!(!text.contains("wrong-password") && !text.contains("secret"), "{text}");
        }
    }
    // Without TLS the listener only closes the connection, which says little; the address and the setting are named.
    let plain =
        KafkaSettings { security: KafkaSecurity::Plaintext, sasl: None, tls: KafkaTls::default(), ..good.clone() };
    let text = open(&plain, KafkaOptions::default()).unwrap_err().to_string();
    assert!(text.contains(&kafka.secured_address()) && text.contains("security"), "{text}");
}

/// A member that takes what it is given at once and lets go of it when it is told to.
struct Member {
    membership: Box<dyn Membership>,
    own: BTreeSet<u32>,
    revoked: usize,
}

impl Member {
    fn join(settings: &KafkaSettings) -> Self {
        let source = open(settings, KafkaOptions::default()).unwrap();
        Self { membership: source.join().unwrap().unwrap(), own: BTreeSet::new(), revoked: 0 }
    }

    fn turn(&mut self) {
        match self.membership.next(Duration::from_millis(20)).unwrap() {
            None => {}
            Some(Change::Assigned(partitions)) => self.own.extend(partitions),
            Some(Change::Revoked { partitions, released }) => {
                self.revoked += partitions.len();
                partitions.iter().for_each(|partition| assert!(self.own.remove(partition)));
                released.send(()).unwrap();
            }
            Some(Change::Lost(partitions)) => panic!("{partitions:?} were lost"),
        }
    }
}

/// Lets members go on until they have so many partitions each, all of them together.
fn settle(members: &mut [&mut Member], partitions: usize) {
    let fair = partitions / members.len();
    eventually("a fair share for each member", || {
        members.iter_mut().for_each(|member| member.turn());
        let all: BTreeSet<u32> = members.iter().flat_map(|member| &member.own).copied().collect();
        let sum: usize = members.iter().map(|member| member.own.len()).sum();
        assert!(sum == all.len(), "two members have one partition");
        (sum == partitions && members.iter().all(|member| member.own.len() >= fair)).then_some(())
    });
}

#[test]
fn kafka_partitions_are_shared_between_members_and_only_what_moves_is_revoked() {
    if skipped("kafka_partitions_are_shared_between_members_and_only_what_moves_is_revoked") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("shared", 6, &[]);
    let settings = settings(kafka, "shared");
    let mut first = Member::join(&settings);
    settle(&mut [&mut first], 6);
    first.membership.note_committed(3, 0);
    let mut second = Member::join(&settings);
    // What is not released yet is nobody else's.
    let (partitions, released) =
        eventually("a revocation", || match first.membership.next(Duration::from_millis(20)) {
            Ok(Some(Change::Revoked { partitions, released })) => Some((partitions, released)),
            Ok(None) => None,
            other => panic!("{other:?}"),
        });
    assert_eq!(partitions.len(), 3, "only what moves is revoked");
    let held = Instant::now();
    while held.elapsed() < Duration::from_secs(2) {
        second.turn();
        assert_eq!(second.own.len(), 0, "partitions were given on before they were released");
    }
    first.revoked += partitions.len();
    partitions.iter().for_each(|partition| assert!(first.own.remove(partition)));
    released.send(()).unwrap();
    settle(&mut [&mut first, &mut second], 6);
    assert_eq!((first.revoked, second.revoked), (3, 0));
    // One that leaves gives its partitions back at once; nothing of the other's is touched.
    let begin = Instant::now();
    second.membership.leave().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "leaving took {:?}", begin.elapsed());
    settle(&mut [&mut first], 6);
    assert_eq!(first.revoked, 3);
    // Partitions that are added are shared too.
    kafka.add_partitions("shared", 8);
    settle(&mut [&mut first], 8);
    first.membership.leave().unwrap();
    assert_eq!(eventually("an empty group", || (kafka.group_members("shared-group") == 0).then_some(0)), 0);
}

#[test]
fn kafka_member_that_the_group_does_not_hear_of_loses_its_partitions_and_gets_them_again() {
    if skipped("kafka_member_that_the_group_does_not_hear_of_loses_its_partitions_and_gets_them_again") {
        return;
    }
    let kafka = Kafka::start_with_proxy();
    kafka.create_topic("lost", 2, &[]);
    let direct = KafkaSettings { session_timeout: Duration::from_secs(3), ..settings(&kafka, "lost") };
    let far = KafkaSettings { brokers: kafka.proxy().address(), ..direct.clone() };
    let mut away = Member::join(&far);
    settle(&mut [&mut away], 2);
    kafka.proxy().set(Fault::BlackHole);
    let lost = eventually("the loss", || match away.membership.next(Duration::from_millis(20)).unwrap() {
        Some(Change::Lost(partitions)) => Some(partitions),
        Some(change) => panic!("{change:?}"),
        None => None,
    });
    assert_eq!(lost, [0, 1]);
    away.own.clear();
    // Others go on with them, without waiting for anybody.
    let mut near = Member::join(&direct);
    settle(&mut [&mut near], 2);
    kafka.proxy().set(Fault::None);
    settle(&mut [&mut near, &mut away], 2);
    assert_eq!((near.own.len(), away.own.len()), (1, 1));
    near.membership.leave().unwrap();
    away.membership.leave().unwrap();
}

#[test]
fn kafka_connections_that_break_lose_no_record_and_repeat_none() {
    if skipped("kafka_connections_that_break_lose_no_record_and_repeat_none") {
        return;
    }
    let kafka = Kafka::start_with_proxy();
    kafka.create_topic("broken", 1, &[]);
    let settings = KafkaSettings { brokers: kafka.proxy().address(), ..settings(&kafka, "broken") };
    let follower = open(&settings, KafkaOptions::default()).unwrap();
    let mut reader = follower.open(0, 0, None).unwrap();
    let mut read = Read::default();
    let mut total = 0;
    for fault in [Fault::Reset, Fault::CutToClient(20_000), Fault::HalfOpen, Fault::CutToServer(200), Fault::Reset] {
        kafka.produce("broken", events(0, total..total + 1000));
        total += 1000;
        let hits = kafka.proxy().counts().hits;
        kafka.proxy().set(fault.clone());
        eventually(&format!("{fault:?} to meet somebody"), || {
            assert!(!read.poll(reader.as_mut(), 10).unwrap());
            (kafka.proxy().counts().hits > hits).then_some(())
        });
        kafka.proxy().set(Fault::None);
        read.until(reader.as_mut(), total as u64);
    }
    assert_eq!(read.ids, numbers(0..total));
    assert_eq!(read.offsets, (0..total as u64).collect::<Vec<_>>());
}

#[test]
fn kafka_static_member_that_restarts_moves_nothing() {
    if skipped("kafka_static_member_that_restarts_moves_nothing") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("static", 4, &[]);
    let named = |name: &str| KafkaSettings { instance_id: Some(name.into()), ..settings(kafka, "static") };
    let (mut one, mut two) = (Member::join(&named("one")), Member::join(&named("two")));
    settle(&mut [&mut one, &mut two], 4);
    let (before, revoked) = (two.own.clone(), one.revoked);
    two.membership.leave().unwrap();
    let mut two = Member::join(&named("two"));
    settle(&mut [&mut one, &mut two], 4);
    assert_eq!((&two.own, one.revoked), (&before, revoked));
    // A second process of the same name is the one that counts.
    let mut usurper = Member::join(&named("two"));
    let error = eventually("the end of the first of that name", || {
        usurper.turn();
        one.turn();
        two.membership.next(Duration::from_millis(20)).err()
    });
    assert!(error.to_string().contains("as `two`"), "{error}");
    settle(&mut [&mut one, &mut usurper], 4);
    one.membership.leave().unwrap();
    usurper.membership.leave().unwrap();
}

#[test]
fn kafka_partitions_that_a_killed_member_had_just_given_up_get_an_owner() {
    if skipped("kafka_partitions_that_a_killed_member_had_just_given_up_get_an_owner") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("orphans", 3, &[]);
    // None is found dead while this lasts, which would share everything anew.
    let named = |name: &str| KafkaSettings {
        instance_id: Some(name.into()),
        session_timeout: Duration::from_secs(300),
        ..settings(kafka, "orphans")
    };
    let mut killed = Member::join(&named("one"));
    settle(&mut [&mut killed], 3);
    let mut other = Member::join(&named("two"));
    // It has heard that it is to give some up, and gets no further: another comes under its name.
    let held = eventually("a revocation", || match killed.membership.next(Duration::from_millis(20)).unwrap() {
        Some(Change::Revoked { partitions, released }) => Some((partitions, released)),
        Some(change) => panic!("{change:?}"),
        None => None,
    });
    let mut again = Member::join(&named("one"));
    eventually("the former partitions", || {
        other.turn();
        again.turn();
        (!again.own.is_empty()).then_some(())
    });
    assert!(held.0.iter().all(|partition| !again.own.contains(partition) && !other.own.contains(partition)));
    settle(&mut [&mut again, &mut other], 3);
    drop(held);
    again.membership.leave().unwrap();
    other.membership.leave().unwrap();
}
