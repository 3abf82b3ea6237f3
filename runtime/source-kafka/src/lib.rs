//! Kafka as a source of events, as the log that is produced to, and as the topic of dead letters.

pub mod settings;

pub use settings::{KafkaSasl, KafkaSecurity, KafkaSettings, KafkaStart, KafkaTls};
