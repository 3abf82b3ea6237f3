//! What every client of a cluster shares: its configuration, what it hears from librdkafka, and finding the topic.

use crate::settings::KafkaSettings;
use plumb_pipeline::{Error, Result};
use rdkafka::ClientConfig;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a start waits for a broker to answer.
pub(crate) const CONNECT: Duration = Duration::from_secs(15);

/// How long a topic that was just created may take to be known everywhere, and a broker that starts to know of it.
pub(crate) const TOPIC_KNOWN: Duration = Duration::from_secs(2);

/// How long one request waits while more may follow.
pub(crate) const REQUEST: Duration = Duration::from_secs(5);

/// How long a request waits on a connection that says nothing before that is closed and made anew. librdkafka's own
/// minute is longer than a session.
const SILENT: Duration = Duration::from_secs(10);

/// The settings of a connection.
pub(crate) fn config(settings: &KafkaSettings) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "plumb")
        .set("security.protocol", settings.security.name())
        .set("socket.keepalive.enable", "true")
        // A peer that has gone without a word, as behind a firewall that forgot the connection, is given up after this.
        .set("socket.timeout.ms", SILENT.as_millis().to_string())
        // A misspelt topic is a mistake to be told of, not a topic to be made.
        .set("allow.auto.create.topics", "false")
        // A broker that comes back is found within seconds.
        .set("reconnect.backoff.max.ms", "2000")
        .set_log_level(RDKafkaLogLevel::Warning);
    if let Some(sasl) = &settings.sasl {
        config
            .set("sasl.mechanism", &sasl.mechanism)
            .set("sasl.username", &sasl.username)
            .set("sasl.password", sasl.password.reveal());
    }
    let files = [
        ("ssl_ca", "ssl.ca.location", &settings.tls.ca),
        ("ssl_certificate", "ssl.certificate.location", &settings.tls.certificate),
        ("ssl_key", "ssl.key.location", &settings.tls.key),
    ];
    for (key, name, file) in files {
        if let Some(file) = file {
            // librdkafka would not say which file it was.
            std::fs::File::open(file)
                .map_err(|error| Error::invalid(format!("{key} = \"{}\" cannot be read: {error}", file.display())))?;
            config.set(name, file.to_string_lossy());
        }
    }
    Ok(config)
}

/// [`config`] for reading, with the settings that lose nothing unseen.
pub(crate) fn consumer_config(settings: &KafkaSettings) -> Result<ClientConfig> {
    let mut config = config(settings)?;
    config
        .set("group.id", &settings.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // The default goes on at the newest record after a gap, without a word.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("partition.assignment.strategy", "cooperative-sticky");
    Ok(config)
}

/// Creates a client; a setting that librdkafka refuses is the caller's mistake.
pub(crate) fn refused(error: KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, why, key, _) => Error::invalid(format!("Kafka setting `{key}`: {why}")),
        KafkaError::ClientCreation(why) => Error::invalid(format!("Kafka settings: {why}")),
        error => Error::unavailable("start a Kafka client", error),
    }
}

/// What a client says of itself beside its answers.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The last error of a connection.
    last: Mutex<Option<(RDKafkaErrorCode, String)>>,
    /// Whether the brokers are away and that was said.
    away: AtomicBool,
}

impl Events {
    fn note(&self, code: RDKafkaErrorCode, reason: &str) {
        match code {
            // No error; the reader hears of it.
            RDKafkaErrorCode::PartitionEOF => return,
            RDKafkaErrorCode::AllBrokersDown => {
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(reason, "Kafka's brokers are away, trying again until they are back");
                }
                return;
            }
            _ => tracing::debug!(reason, "Kafka client: {code}"),
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // What says why is not replaced by what only says that.
        let says_why = last.as_ref().is_some_and(|(code, _)| is_refusal(*code));
        if !says_why || is_refusal(code) {
            *last = Some((code, reason.to_owned()));
        }
    }

    /// Notes that a broker answers.
    pub(crate) fn answered(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("Kafka's brokers are back");
        }
    }

    /// Whether a broker could be reached when that was last tried.
    pub(crate) fn is_reachable(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }

    fn last(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why no connection will ever come about with these settings, if a broker said so.
    fn refusal(&self, settings: &KafkaSettings) -> Option<Error> {
        let (code, reason) = self.last()?;
        if !is_refusal(code) {
            return None;
        }
        let who = match &settings.sasl {
            Some(sasl) => format!(" as `{}` by {}", sasl.username, sasl.mechanism),
            None => String::new(),
        };
        Some(Error::invalid(format!(
            "Kafka at {} does not let plumb in{who} (security = \"{}\"): {reason}",
            settings.brokers,
            settings.security.name()
        )))
    }
}

fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::SSL
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
    )
}

/// Hands a client's log to ours.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, "librdkafka: {message}");
        }
        // A lost connection is an error to librdkafka and daily life to us; `Events` says what matters once.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::debug!(facility, "librdkafka: {message}"),
        _ => tracing::trace!(facility, "librdkafka: {message}"),
    }
}

/// A context that keeps [`Events`].
pub(crate) trait Heard {
    /// They.
    fn events(&self) -> &Events;
}

/// Takes an error from a context's callback.
pub(crate) fn note(events: &Events, error: &KafkaError, reason: &str) {
    if let Some(code) = error.rdkafka_error_code() {
        events.note(code, reason);
    }
}

/// The number of partitions of a topic that must exist; waits for a broker at most `patience`. Some thread must
/// serve the client's events, or nobody hears that a broker refuses it.
pub(crate) fn partition_count<C: ClientContext + Heard>(
    client: &Client<C>,
    settings: &KafkaSettings,
    topic: &str,
    patience: Duration,
) -> Result<u32> {
    find_topic(client, settings, topic, patience)?.ok_or_else(|| missing_topic(settings, topic))
}

/// [`partition_count`], `None` if there is no such topic.
pub(crate) fn find_topic<C: ClientContext + Heard>(
    client: &Client<C>,
    settings: &KafkaSettings,
    topic: &str,
    patience: Duration,
) -> Result<Option<u32>> {
    let begin = Instant::now();
    let mut unknown_since = None;
    let events = client.context().clone();
    let events: &Events = Arc::as_ref(&events).events();
    loop {
        let left = patience.saturating_sub(begin.elapsed());
        // Short, so that a refusal is heard of soon.
        let answer = client.fetch_metadata(Some(topic), left.clamp(Duration::from_millis(200), Duration::from_secs(1)));
        let last = match answer {
            Err(error) => {
                if let Some(refusal) = events.refusal(settings) {
                    return Err(refusal);
                }
                match events.last() {
                    Some((_, reason)) => reason,
                    None => error.to_string(),
                }
            }
            Ok(metadata) => {
                events.answered();
                let found = metadata.topics().iter().find(|found| found.name() == topic);
                match found.map(|found| (found.error().map(RDKafkaErrorCode::from), found.partitions().len())) {
                    Some((None, count)) if count > 0 => return Ok(Some(count as u32)),
                    Some((Some(RDKafkaErrorCode::TopicAuthorizationFailed), _)) => {
                        return Err(Error::invalid(format!(
                            "Kafka at {} does not let plumb use topic `{topic}`",
                            settings.brokers
                        )));
                    }
                    Some((Some(RDKafkaErrorCode::InvalidTopic), _)) => {
                        return Err(Error::invalid(format!("`{topic}` is no name of a Kafka topic")));
                    }
                    Some((Some(RDKafkaErrorCode::UnknownTopicOrPartition), _)) | None => {
                        let since = *unknown_since.get_or_insert_with(Instant::now);
                        if since.elapsed() >= TOPIC_KNOWN {
                            return Ok(None);
                        }
                        "the topic does not exist".to_owned()
                    }
                    Some((Some(error), _)) => error.to_string(),
                    Some((None, _)) => "the topic has no partitions".to_owned(),
                }
            }
        };
        if begin.elapsed() >= patience {
            let (brokers, security) = (&settings.brokers, settings.security.name());
            let what = format!("ask Kafka at {brokers} for topic `{topic}` (security = \"{security}\")");
            return Err(Error::unavailable(what, last));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The error of a topic that does not exist.
pub(crate) fn missing_topic(settings: &KafkaSettings, topic: &str) -> Error {
    Error::invalid(format!(
        "topic `{topic}` does not exist at {}: create it with `kafka-topics.sh --bootstrap-server {} --create --topic \
         {topic} --partitions N`, or let `plumb produce FILE --create-topic --partitions N` do so",
        settings.brokers, settings.brokers
    ))
}

/// The oldest offset of a partition and the one after its newest readable record.
pub(crate) fn watermarks<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partition: u32,
    timeout: Duration,
) -> Result<(u64, u64)> {
    let what = || format!("ask Kafka for the ends of topic `{topic}` partition {partition}");
    match client.fetch_watermarks(topic, number(partition)?, timeout) {
        Ok((low, high)) => {
            let offset = |offset: i64| u64::try_from(offset).map_err(|error| Error::unavailable(what(), error));
            Ok((offset(low)?, offset(high)?))
        }
        Err(error) => Err(Error::unavailable(what(), error)),
    }
}

/// A partition as Kafka numbers it.
pub(crate) fn number(partition: u32) -> Result<i32> {
    i32::try_from(partition).map_err(|_| Error::invalid(format!("Kafka has no partition {partition}")))
}
