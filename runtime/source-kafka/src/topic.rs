//! Creating a topic.

use crate::client::{CONNECT, REQUEST, config, find_topic, partition_count, refused};
use crate::settings::KafkaSettings;
use crate::sink::producer;
use plumb_pipeline::{Error, Result};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::Producer;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::time::Duration;

/// How long the brokers may take to create a topic.
const CREATE: Duration = Duration::from_secs(30);

/// Creates the settings' topic with so many partitions and the cluster's own number of replicas, and waits until it
/// can be used. Whether it was created; an existing one stays as it is.
pub fn create_topic(settings: &KafkaSettings, partitions: u32) -> Result<bool> {
    let topic = settings.topic.as_str();
    let count = i32::try_from(partitions).ok().filter(|&count| count > 0);
    let count = count.ok_or_else(|| Error::invalid(format!("a topic cannot have {partitions} partitions")))?;
    let client = producer(settings, CREATE)?;
    if find_topic(client.client(), settings, topic, CONNECT)?.is_some() {
        return Ok(false);
    }
    let admin: AdminClient<DefaultClientContext> = config(settings)?.create().map_err(refused)?;
    let what = || format!("create topic `{topic}` at {}", settings.brokers);
    let new = NewTopic::new(topic, count, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().operation_timeout(Some(CREATE)).request_timeout(Some(CREATE + REQUEST));
    let created = wait(admin.create_topics([&new], &options)).map_err(|error| Error::unavailable(what(), error))?;
    for result in created {
        match result {
            Ok(_) => {}
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => return Ok(false),
            Err((
                _,
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::InvalidTopic
                | RDKafkaErrorCode::InvalidPartitions
                | RDKafkaErrorCode::PolicyViolation),
            )) => return Err(Error::invalid(format!("cannot {}: {code}", what()))),
            Err((_, code)) => return Err(Error::unavailable(what(), code)),
        }
    }
    partition_count(client.client(), settings, topic, CONNECT)?;
    Ok(true)
}

/// Waits for a request of a client that has threads of its own.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}
