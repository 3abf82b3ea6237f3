//! How records are encoded, and where their schemas are.

use plumb_pipeline::Secret;
use std::path::PathBuf;

/// How the records of a source are encoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FormatSettings {
    /// The encoding.
    pub format: RecordFormat,
    /// The registry of the schemas; always set for Avro and Protobuf, never for JSON.
    pub registry: Option<RegistrySettings>,
    /// The full name of the Protobuf message, where the registry's schema has several; `None` = what the record's
    /// message index says.
    pub message: Option<String>,
}

/// An encoding of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordFormat {
    /// One JSON object each.
    #[default]
    Json,
    /// Avro behind the registry's five bytes.
    Avro,
    /// Protobuf behind the registry's five bytes and the message index.
    Protobuf,
}

impl RecordFormat {
    /// Every encoding by its name in the configuration.
    pub const ALL: [(&str, Self); 3] = [("json", Self::Json), ("avro", Self::Avro), ("protobuf", Self::Protobuf)];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Avro => "avro",
            Self::Protobuf => "protobuf",
        }
    }
}

/// A Confluent-compatible schema registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Its base address, `http://…` or `https://…`.
    pub url: String,
    /// The name and password it asks for, if it does.
    pub credentials: Option<(String, Secret)>,
    /// A PEM file of the authorities that its certificate must come from; `None` = those of the system.
    pub tls_ca: Option<PathBuf>,
}
