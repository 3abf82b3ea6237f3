//! Kafka as a source of events, as the log that is produced to, and as the topic of dead letters.
//!
//! Two consumers per source and process. One is the *membership* ([`membership`]): it subscribes, so the group assigns
//! it partitions, and reads nothing. The other reads the *records* ([`source`]): each opened partition is assigned
//! to it by hand at the offset of the partition's manifest, and has a queue of its own. So a group that rebalances
//! does not disturb the reading of the partitions that stay, and slow partitions do not cost the membership.

pub mod membership;
mod orphans;
pub mod settings;
pub mod sink;
pub mod source;

mod client;
mod data;
mod reader;
mod topic;
mod topic_id;

pub use membership::KafkaMembership;
pub use reader::TOMBSTONE;
pub use settings::{KafkaSasl, KafkaSecurity, KafkaSettings, KafkaStart, KafkaTls};
pub use sink::{KafkaDeadLetters, KafkaSink, PATIENCE, Sending};
pub use source::{DecoderFactory, KafkaOptions, KafkaSource};
pub use topic::create_topic;
