//! Avro and Protobuf records, with the schemas of a Confluent-compatible registry.

pub mod settings;

pub use settings::{FormatSettings, RecordFormat, RegistrySettings};
