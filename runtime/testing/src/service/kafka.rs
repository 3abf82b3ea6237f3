//! An Apache Kafka broker (KRaft, one process) and what tests do with its topics.

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Headers, Message};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::proxy::Proxy;
use super::{Server, eventually, free_port, wait};

/// A record as a test sends it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Where to; `None` = by the hash of the key as Kafka's own clients do.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` = a tombstone.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970; `None` = now.
    pub timestamp: Option<i64>,
}

/// A record as the broker holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` = a tombstone.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// Headers in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// A running broker; ends when dropped, and with the test process.
#[derive(Debug)]
pub struct Kafka {
    server: Server,
    port: u16,
    proxy: Option<Proxy>,
    /// The ports of the listeners with a password and with certificates of clients.
    secured: Option<(u16, u16)>,
}

impl Kafka {
    /// Starts a broker on free ports.
    pub fn start() -> Self {
        Self::launch(None, None)
    }

    /// Starts a broker that can also be reached by TLS with a name and password or with a certificate: see
    /// [`Kafka::secured_address`] and [`Kafka::mutual_address`].
    pub fn start_secured() -> Self {
        Self::launch(None, Some((free_port(), free_port())))
    }

    /// Starts a broker that can also be reached through a proxy: see [`Kafka::proxy`].
    pub fn start_with_proxy() -> Self {
        let listen = free_port();
        Self::launch(Some((listen, Proxy::start(format!("127.0.0.1:{listen}")))), None)
    }

    /// The broker that the tests of this process share; for those that do not harm it.
    pub fn shared() -> &'static Arc<Self> {
        static SHARED: LazyLock<Arc<Kafka>> = LazyLock::new(|| Arc::new(Kafka::start()));
        &SHARED
    }

    fn launch(proxy: Option<(u16, Proxy)>, secured: Option<(u16, u16)>) -> Self {
        let port = free_port();
        let mut arguments = vec!["--port".to_owned(), port.to_string()];
        arguments.extend(["--controller-port".to_owned(), free_port().to_string()]);
        let proxy = proxy.map(|(listen, proxy)| {
            arguments.extend(["--proxied".to_owned(), format!("{listen}:{}", proxy.port())]);
            proxy
        });
        if let Some((secured, mutual)) = secured {
            arguments.extend(["--secured".to_owned(), secured.to_string()]);
            arguments.extend(["--mutual".to_owned(), mutual.to_string()]);
        }
        let kafka = Self { server: Server::new("kafka.sh", arguments), port, proxy, secured };
        kafka.restart();
        kafka
    }

    /// `host:port` for `brokers`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the listener with TLS and SASL by PLAIN or SCRAM (user `plumb`, password `secret`).
    ///
    /// # Panics
    /// If the broker was started without one.
    pub fn secured_address(&self) -> String {
        format!("127.0.0.1:{}", self.secured.expect("Kafka::start_secured").0)
    }

    /// `host:port` of the listener with TLS that asks for [`Kafka::client_certificate`].
    ///
    /// # Panics
    /// If the broker was started without one.
    pub fn mutual_address(&self) -> String {
        format!("127.0.0.1:{}", self.secured.expect("Kafka::start_secured").1)
    }

    /// The authority of those listeners' certificate.
    pub fn authority(&self) -> PathBuf {
        self.server.folder.path().join("ca.pem")
    }

    /// The files of a certificate and its key that a client may show.
    pub fn client_certificate(&self) -> (PathBuf, PathBuf) {
        (self.server.folder.path().join("client.pem"), self.server.folder.path().join("client.key"))
    }

    /// The proxy before the broker: a client that is given its address has all of its connections through it.
    ///
    /// # Panics
    /// If the broker was started without one.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("Kafka::start_with_proxy")
    }

    /// kill -9; the data stay.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// SIGTERM, and waits.
    pub fn terminate(&self) {
        self.server.terminate();
    }

    /// Starts it again on the same ports with the same data, and waits until it answers.
    pub fn restart(&self) {
        self.server.start(|| self.brokers() == 1);
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub fn pause(&self) {
        self.server.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.signal("CONT");
    }

    fn brokers(&self) -> usize {
        // A client of librdkafka would wait between attempts, so look for the port first.
        if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            return 0;
        }
        let consumer: BaseConsumer = self.config().create().expect("a client can be made");
        consumer.fetch_metadata(None, Duration::from_secs(2)).map_or(0, |metadata| metadata.brokers().len())
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address());
        config.set("socket.connection.setup.timeout.ms", "2000").set("reconnect.backoff.max.ms", "200");
        // The addresses of a broker that a test has killed are not worth a line each.
        config.set("log_level", "0");
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("a client can be made")
    }

    fn options() -> AdminOptions {
        AdminOptions::new()
            .operation_timeout(Some(Duration::from_secs(20)))
            .request_timeout(Some(Duration::from_secs(30)))
    }

    /// Creates a topic with settings such as `("cleanup.policy", "compact")`, and waits until it is known.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let topic =
            settings.iter().fold(NewTopic::new(name, partitions, TopicReplication::Fixed(1)), |topic, (key, value)| {
                topic.set(key, value)
            });
        let created = wait(self.admin().create_topics([&topic], &Self::options())).expect("the broker answers");
        created.into_iter().for_each(|result| drop(result.unwrap_or_else(|error| panic!("{name}: {error:?}"))));
        self.wait_for_partitions(name, partitions as usize);
    }

    /// Deletes a topic and waits until it is gone.
    pub fn delete_topic(&self, name: &str) {
        let deleted = wait(self.admin().delete_topics(&[name], &Self::options())).expect("the broker answers");
        deleted.into_iter().for_each(|result| drop(result.unwrap_or_else(|error| panic!("{name}: {error:?}"))));
        self.wait_for_partitions(name, 0);
    }

    /// Gives a topic more partitions: `partitions` in all.
    pub fn add_partitions(&self, name: &str, partitions: usize) {
        let wanted = NewPartitions::new(name, partitions);
        let added = wait(self.admin().create_partitions([&wanted], &Self::options())).expect("the broker answers");
        added.into_iter().for_each(|result| drop(result.unwrap_or_else(|error| panic!("{name}: {error:?}"))));
        self.wait_for_partitions(name, partitions);
    }

    fn wait_for_partitions(&self, name: &str, partitions: usize) {
        let consumer: BaseConsumer = self.config().create().expect("a client can be made");
        eventually(&format!("{partitions} partitions of {name}"), || {
            let metadata = consumer.fetch_metadata(None, Duration::from_secs(5)).ok()?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            let led = topic.map_or(0, |topic| {
                topic.partitions().iter().filter(|p| p.error().is_none() && p.leader() >= 0).count()
            });
            (led == partitions).then_some(())
        });
    }

    /// Changes a setting of a topic, such as `retention.ms`.
    pub fn alter_topic(&self, name: &str, setting: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(setting, value);
        let altered = wait(self.admin().alter_configs([&change], &Self::options())).expect("the broker answers");
        altered.into_iter().for_each(|result| drop(result.unwrap_or_else(|error| panic!("{name}: {error:?}"))));
    }

    /// Removes the records of a partition before an offset, as retention would.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(before)).expect("an offset");
        wait(self.admin().delete_records(&offsets, &Self::options())).expect("records can be deleted");
        assert_eq!(self.watermarks(topic)[&partition].0, before);
    }

    /// The members of a consumer group that have joined.
    pub fn group_members(&self, group: &str) -> usize {
        let consumer: BaseConsumer = self.config().create().expect("a client can be made");
        let list = consumer.fetch_group_list(Some(group), Duration::from_secs(10));
        list.map_or(0, |list| list.groups().iter().map(|group| group.members().len()).sum())
    }

    /// Something that sends records to the broker.
    pub fn producer(&self) -> Producer {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("partitioner", "murmur2_random");
        config.set("message.max.bytes", "16000000").set("linger.ms", "2");
        Producer(config.create_with_context(Refused::default()).expect("a producer"))
    }

    /// Sends records and waits until the broker has them all, in this order per partition.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = Sent>) {
        let producer = self.producer();
        records.into_iter().for_each(|record| producer.send(topic, &record));
        producer.flush();
    }

    /// The first offset and the one after the last of each partition.
    pub fn watermarks(&self, topic: &str) -> BTreeMap<i32, (i64, i64)> {
        let consumer: BaseConsumer = self.config().create().expect("a client can be made");
        self.watermarks_by(&consumer, topic)
    }

    fn watermarks_by(&self, consumer: &BaseConsumer, topic: &str) -> BTreeMap<i32, (i64, i64)> {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30)).expect("the broker answers");
        let partitions = metadata.topics()[0].partitions().iter().map(|partition| partition.id());
        partitions
            .map(|partition| {
                let marks = consumer.fetch_watermarks(topic, partition, Duration::from_secs(30));
                (partition, marks.unwrap_or_else(|error| panic!("{topic}/{partition}: {error}")))
            })
            .collect()
    }

    /// Everything a topic holds now, in order of partition and offset.
    pub fn read(&self, topic: &str) -> Vec<Stored> {
        let mut config = self.config();
        config.set("group.id", "not-used").set("enable.auto.commit", "false").set("check.crcs", "true");
        config.set("enable.partition.eof", "true").set("fetch.message.max.bytes", "16777216");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let marks = self.watermarks_by(&consumer, topic);
        let mut assignment = TopicPartitionList::new();
        for (partition, (low, _)) in &marks {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*low)).expect("an offset");
        }
        consumer.assign(&assignment).expect("partitions can be assigned");
        let mut open = marks.values().filter(|(low, high)| low < high).count();
        let mut at_end: BTreeMap<i32, bool> = BTreeMap::new();
        let mut stored = Vec::new();
        while open > 0 {
            match consumer.poll(super::PATIENCE).unwrap_or_else(|| panic!("{topic}: nothing comes any more")) {
                Ok(message) => {
                    stored.push(Stored {
                        partition: message.partition(),
                        offset: message.offset(),
                        key: message.key().map(<[u8]>::to_vec),
                        value: message.payload().map(<[u8]>::to_vec),
                        timestamp: message.timestamp().to_millis(),
                        headers: message.headers().map(headers).unwrap_or_default(),
                    });
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    let (low, high) = marks[&partition];
                    open -= usize::from(low < high && at_end.insert(partition, true).is_none());
                }
                Err(error) => panic!("{topic}: {error}"),
            }
        }
        stored.sort_by_key(|record| (record.partition, record.offset));
        stored
    }
}

fn headers(headers: &rdkafka::message::BorrowedHeaders) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
}

/// Sends records in their order, whatever the broker is doing.
pub struct Producer(ThreadedProducer<Refused>);

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Producer {
    /// Puts a record into the queue; waits while it is full.
    pub fn send(&self, topic: &str, sent: &Sent) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
        if let Some(partition) = sent.partition {
            record = record.partition(partition);
        }
        if let Some(timestamp) = sent.timestamp {
            record = record.timestamp(timestamp);
        }
        if let Some(key) = &sent.key {
            record = record.key(key);
        }
        if let Some(value) = &sent.value {
            record = record.payload(value);
        }
        while let Err((error, back)) = self.0.send(record) {
            let full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            assert!(full, "{topic}: {error}");
            // An error means that there is still something in the queue.
            drop(self.0.flush(Duration::from_millis(100)));
            record = back;
        }
    }

    /// Waits until the broker has everything that was sent.
    pub fn flush(&self) {
        self.0.flush(super::PATIENCE).unwrap_or_else(|error| panic!("flush: {error}"));
        let refused = self.0.context().0.load(Ordering::Relaxed);
        assert_eq!(refused, 0, "the broker refused {refused} records");
    }
}

/// Counts what the broker did not take.
#[derive(Default)]
struct Refused(AtomicU64);

impl ClientContext for Refused {}

impl ProducerContext for Refused {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
