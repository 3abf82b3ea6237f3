//! This process's place in the consumer group: which partitions are its own.
//!
//! A consumer of its own subscribes for that and reads nothing: what it is assigned is paused at once. It is polled
//! by a thread of its own, so the group hears of this process whatever the partitions are doing. Offsets are
//! committed for the tools that show lag; nothing ever begins at them.

use crate::client::{Events, Heard, consumer_config, log, note, number, refused};
use crate::orphans::Watch;
use crate::settings::KafkaSettings;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use plumb_pipeline::port::{Change, Membership};
use plumb_pipeline::{Error, Result};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, Statistics, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a revoked partition may take to be released. The runtime gives up at 10 s; beyond this the partition goes
/// to its next owner all the same, and the generation of its chain keeps the late one from writing.
const RELEASE: Duration = Duration::from_secs(12);

/// How often committed offsets are passed on.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// How long leaving the group may take; after that the group finds out by itself.
const LEAVE: Duration = Duration::from_secs(3);

/// How long the thread waits for an event.
const POLL: Duration = Duration::from_millis(100);

/// What the thread that polls and the owner of the membership share.
#[derive(Debug)]
struct Shared {
    topic: String,
    group: String,
    instance_id: Option<String>,
    events: Events,
    changes: Sender<Result<Change>>,
    /// Set to leave.
    leaving: AtomicBool,
    /// What was committed and not passed on yet: the next offset per partition.
    committed: Mutex<BTreeMap<u32, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Sends a change; nobody listens any more once the process ends.
    fn send(&self, change: Result<Change>) {
        if self.changes.send(change).is_err() {
            tracing::debug!(group = self.group, "a change of the group comes too late");
        }
    }

    fn partitions(&self, list: &TopicPartitionList) -> Vec<u32> {
        let mut partitions: Vec<u32> =
            list.elements_for_topic(&self.topic).iter().map(|element| element.partition().unsigned_abs()).collect();
        partitions.sort_unstable();
        partitions
    }

    /// Passes committed offsets on. Nothing depends on them: a failure is only said.
    fn pass_on(&self, consumer: &BaseConsumer<MemberContext>) {
        let committed = std::mem::take(&mut *lock(&self.committed));
        if committed.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for (partition, next) in committed {
            let added = number(partition)
                .ok()
                .zip(i64::try_from(next).ok())
                .map(|(partition, next)| list.add_partition_offset(&self.topic, partition, Offset::Offset(next)));
            if !matches!(added, Some(Ok(()))) {
                tracing::debug!(partition, next, "an offset Kafka cannot note");
            }
        }
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(%error, group = self.group, "cannot note committed offsets");
        }
    }

    /// Waits for partitions to be released; whether they were.
    fn wait_released(&self, released: &Receiver<()>) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < RELEASE {
            match released.recv_timeout(POLL) {
                Ok(()) => return true,
                // Dropped without a word: whoever held the partitions has ended.
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) if self.leaving.load(Ordering::Relaxed) => return true,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        false
    }
}

/// Turns the group's callbacks into changes.
#[derive(Debug)]
struct MemberContext(Arc<Shared>);

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        note(&self.0.events, &error, reason);
    }
}

impl Heard for MemberContext {
    fn events(&self) -> &Events {
        &self.0.events
    }
}

impl ConsumerContext for MemberContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(list) = rebalance else { return };
        let shared = &self.0;
        let partitions = shared.partitions(list);
        if partitions.is_empty() || shared.leaving.load(Ordering::Relaxed) {
            return;
        }
        if consumer.assignment_lost() {
            tracing::warn!(group = shared.group, ?partitions, "partitions are lost to the group");
            shared.send(Ok(Change::Lost(partitions)));
            return;
        }
        tracing::info!(group = shared.group, ?partitions, "partitions are revoked");
        let (released, wait) = unbounded();
        shared.send(Ok(Change::Revoked { partitions: partitions.clone(), released }));
        if !shared.wait_released(&wait) {
            tracing::warn!(
                group = shared.group,
                ?partitions,
                "partitions were not released in time, they go on without"
            );
        }
        shared.pass_on(consumer);
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        let shared = &self.0;
        let partitions = shared.partitions(list);
        if partitions.is_empty() {
            return;
        }
        // Their records are read elsewhere.
        if let Err(error) = consumer.pause(list) {
            tracing::debug!(%error, "cannot pause what was assigned");
        }
        tracing::info!(group = shared.group, ?partitions, "partitions are assigned");
        shared.send(Ok(Change::Assigned(partitions)));
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, group = self.0.group, "committed offsets were not noted");
        }
    }
}

/// A member of a consumer group.
#[derive(Debug)]
pub struct KafkaMembership {
    shared: Arc<Shared>,
    changes: Receiver<Result<Change>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl KafkaMembership {
    /// Joins the group of the settings.
    pub(crate) fn join(settings: &KafkaSettings) -> Result<Self> {
        let (changes, received) = unbounded();
        let shared = Arc::new(Shared {
            topic: settings.topic.clone(),
            group: settings.group.clone(),
            instance_id: settings.instance_id.clone(),
            events: Events::default(),
            changes,
            leaving: AtomicBool::new(false),
            committed: Mutex::default(),
        });
        let session_ms = settings.session_timeout.as_millis();
        let mut config = consumer_config(settings)?;
        config
            .set("session.timeout.ms", session_ms.to_string())
            .set("heartbeat.interval.ms", (session_ms / 3).clamp(1, 3_000).to_string())
            // Polled whatever the partitions do; only a release is waited for.
            .set("max.poll.interval.ms", session_ms.max(300_000).to_string())
            // Partitions that were added to the topic are shared within seconds.
            .set("topic.metadata.refresh.interval.ms", "5000")
            // Nothing is read here, so little may be read ahead before the pause arrives.
            .set("queued.min.messages", "1")
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.message.max.bytes", "1024");
        if let Some(instance_id) = &settings.instance_id {
            config.set("group.instance.id", instance_id);
        }
        let consumer: BaseConsumer<MemberContext> =
            config.create_with_context(MemberContext(shared.clone())).map_err(refused)?;
        consumer
            .subscribe(&[&settings.topic])
            .map_err(|error| Error::unavailable(format!("join the group `{}`", settings.group), error))?;
        let (alive, ended) = unbounded::<()>();
        let of_thread = shared.clone();
        std::thread::Builder::new()
            .name("kafka-group".into())
            .spawn(move || {
                poll(consumer, &of_thread);
                drop(alive);
            })
            .map_err(|error| Error::unavailable("start a thread", error))?;
        Ok(Self { shared, changes: received, ended })
    }
}

/// Polls until the membership is to end, then leaves the group.
fn poll(consumer: BaseConsumer<MemberContext>, shared: &Shared) {
    let mut passed_on = Instant::now();
    let mut watch = Watch::new();
    while !shared.leaving.load(Ordering::Relaxed) {
        // A record that came before the pause did is read elsewhere as well.
        if let Some(Err(error)) = consumer.poll(POLL)
            && let Some(error) = explain(&error, shared)
        {
            shared.send(Err(error));
            break;
        }
        if passed_on.elapsed() >= NOTE_INTERVAL {
            passed_on = Instant::now();
            shared.pass_on(&consumer);
        }
        watch.turn(&consumer, &shared.group, &shared.topic);
    }
    shared.leaving.store(true, Ordering::Relaxed);
    shared.pass_on(&consumer);
    // Leaves the group, unless the membership is static: then its place is kept for a restart.
    drop(consumer);
}

/// What an error means; `None` if the member goes on by itself.
fn explain(error: &KafkaError, shared: &Shared) -> Option<Error> {
    let Shared { group, topic, .. } = shared;
    let why = match error.rdkafka_error_code()? {
        RDKafkaErrorCode::FencedInstanceId => format!(
            "another process joined the group `{group}` as `{}`: each needs an instance_id of its own",
            shared.instance_id.as_deref().unwrap_or_default()
        ),
        RDKafkaErrorCode::GroupAuthorizationFailed => format!("Kafka does not let plumb join the group `{group}`"),
        RDKafkaErrorCode::TopicAuthorizationFailed => format!("Kafka does not let plumb read topic `{topic}`"),
        RDKafkaErrorCode::InconsistentGroupProtocol => {
            format!("the group `{group}` has members that share partitions another way: plumb needs a group of its own")
        }
        RDKafkaErrorCode::InvalidSessionTimeout => format!(
            "Kafka does not accept the session_timeout for the group `{group}`: see the broker's \
             group.min.session.timeout.ms and group.max.session.timeout.ms"
        ),
        _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
            format!("cannot stay in the group `{group}`: {error}")
        }
        _ => return None,
    };
    Some(Error::invalid(why))
}

impl Membership for KafkaMembership {
    fn next(&mut self, timeout: Duration) -> Result<Option<Change>> {
        match self.changes.recv_timeout(timeout) {
            Ok(change) => change.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            // The sender lives as long as this does.
            Err(RecvTimeoutError::Disconnected) => Err(Error::internal("the group's thread has ended")),
        }
    }

    fn note_committed(&mut self, partition: u32, next_offset: u64) {
        lock(&self.shared.committed).insert(partition, next_offset);
    }

    fn leave(self: Box<Self>) -> Result<()> {
        self.shared.leaving.store(true, Ordering::Relaxed);
        // Nothing is ever sent; the thread's end closes the channel.
        if self.ended.recv_timeout(LEAVE) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(group = self.shared.group, "the group does not answer, it will notice that we are gone");
        }
        Ok(())
    }
}

impl Drop for KafkaMembership {
    fn drop(&mut self) {
        self.shared.leaving.store(true, Ordering::Relaxed);
    }
}
