//! Which topic, and how to reach it.

use plumb_pipeline::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// A topic of a Kafka cluster and how to talk to it, as checked by the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// The brokers to ask first: `host:port`, comma-separated.
    pub brokers: String,
    /// The topic of the events.
    pub topic: String,
    /// The consumer group: the processes that share the topic's partitions.
    pub group: String,
    /// Where a partition begins that has no manifest yet.
    pub start: KafkaStart,
    /// How connections are secured.
    pub security: KafkaSecurity,
    /// Who plumb is; set where `security` asks for it.
    pub sasl: Option<KafkaSasl>,
    /// The files of TLS; all `None` without TLS.
    pub tls: KafkaTls,
    /// This process's name in its group (static membership): a restart under the same name within the session
    /// timeout moves no partition. `None` = a member like any other.
    pub instance_id: Option<String>,
    /// How long the group waits for a silent member before its partitions go to others.
    pub session_timeout: Duration,
    /// The topic that dead letters are sent to as well; `None` = only the quarantine dataset.
    pub dead_letter_topic: Option<String>,
    /// The largest record, in bytes.
    pub max_message_bytes: u32,
}

/// Where a partition begins that was never processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaStart {
    /// At its oldest record.
    Earliest,
    /// After its newest record.
    Latest,
}

impl KafkaStart {
    /// Every start by its name in the configuration.
    pub const ALL: [(&str, Self); 2] = [("earliest", Self::Earliest), ("latest", Self::Latest)];
}

/// How connections to brokers are secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaSecurity {
    /// Not at all.
    Plaintext,
    /// TLS.
    Ssl,
    /// A name and password, unencrypted.
    SaslPlaintext,
    /// A name and password over TLS.
    SaslSsl,
}

impl KafkaSecurity {
    /// Every kind by its name in the configuration, which is Kafka's own in lower case.
    pub const ALL: [(&str, Self); 4] = [
        ("plaintext", Self::Plaintext),
        ("ssl", Self::Ssl),
        ("sasl_plaintext", Self::SaslPlaintext),
        ("sasl_ssl", Self::SaslSsl),
    ];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    /// Whether a name and password are asked for.
    pub fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }

    /// Whether connections are encrypted.
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }
}

/// A name and password, and how they are shown to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// The mechanisms of [`KafkaSasl`].
pub const SASL_MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// Files of TLS, PEM each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaTls {
    /// The authorities that brokers' certificates must come from; `None` = those of the system.
    pub ca: Option<PathBuf>,
    /// Our own certificate, where brokers ask for one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            topic: "user-events".into(),
            group: "plumb".into(),
            start: KafkaStart::Earliest,
            security: KafkaSecurity::Plaintext,
            sasl: None,
            tls: KafkaTls::default(),
            instance_id: None,
            session_timeout: Duration::from_secs(10),
            dead_letter_topic: None,
            max_message_bytes: 10 << 20,
        }
    }
}
